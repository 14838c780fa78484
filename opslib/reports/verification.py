"""
Recompute a report, a record or a postmortem from its evidence, and list each difference with its reason.

The folder of an incident is enough, also on another machine with an empty home directory. If the database has the same
incident, the folder is also compared with its record and its ledger, because a person who rewrites a whole folder
cannot rewrite those.
"""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opslib.alerting.verdicts import EXIT_CODES
from opslib.foundation import files, formatting, time_parsing
from opslib.foundation.errors import ImportRefused, IncidentError, OpsError
from opslib.incidents import evidence, lifecycle
from opslib.incidents.evidence import EDITED, FORMULA, HEAD, MISSING, Entry, IntegrityError
from opslib.incidents.incident import from_entries
from opslib.incidents.store import PICTURED, RECORD, pictures
from opslib.jobs import ledger, record
from opslib.reports import daily, publishing
from opslib.reports.postmortem import document
from opslib.reports.postmortem.document import Postmortem
from opslib.runbooks import checklist_session
from opslib.telemetry.pages.store import SnapshotStore

if TYPE_CHECKING:
    from opslib.foundation.config.workspace import Workspace

# The fields of a daily report besides the figures of its template.
SAID = (
    "verdict",
    "headline",
    "session",
    "incomplete",
    "coverage",
    "night",
    "issues",
    "action_items",
    "changes",
    "unknown",
)
_HEAD = re.compile(r"the record up to (E\d+), SHA-256 ([0-9a-f]{64})")


@dataclass
class Verification:
    """
    The result of a verification.

    Attributes:
        what: The incident, postmortem or report.
        figures: The number of recomputed figures.
        broken: What differs from the record, and why.
        lacking: Why nothing could be verified; empty otherwise.
        head: The last entry of the record, with its digest; empty for a report.
    """

    what: str
    figures: int = 0
    broken: list[IntegrityError] = field(default_factory=list)
    lacking: str = ""
    head: str = ""

    @property
    def verdict(self) -> str:
        """The verdict: ok, critical (something differs) or unknown (nothing could be verified)."""
        if self.broken:
            return "critical"
        if self.lacking:
            return "unknown"
        return "ok"

    @property
    def exit_code(self) -> int:
        """The exit code: 0 verified, 2 different, 3 nothing could be verified."""
        return EXIT_CODES[self.verdict]

    def as_json(self) -> dict[str, Any]:
        """Return the JSON of ``ops verify``, with the fields of CONTRACT.md."""
        return {
            "verified": self.verdict == "ok",
            "what": self.what,
            "figures": self.figures,
            "head": self.head or None,
            "broken": [b._asdict() for b in self.broken],
            "lacking": self.lacking or None,
        }

    def __repr__(self) -> str:
        if self.lacking:
            return f"{self.what}: cannot be verified: {self.lacking}"
        lines = [f"{b.what}: {b.why}{f' ({b.how})' if b.how else ''}" for b in self.broken]
        summary = f"{self.figures} figures recomputed"
        if self.head:
            summary += f"; the last entry of the record is {self.head}"
        return "\n".join(
            [
                f"{self.what}: {'verified' if not lines else f'{len(lines)} broken'}; {summary}",
                *(f"  {line}" for line in lines),
            ]
        )


def verify(given: str | Path, workspace: "Workspace | None" = None) -> Verification:
    """
    Verify an incident, a checklist, a postmortem or a report.

    Args:
        given: The folder of an incident or a checklist, a file in it, its id, or the path of a published report.
        workspace: The workspace whose database is compared too; None compares with no database.

    Raises:
        IncidentError: There is no such file, folder or incident.
    """
    path = Path(given)
    if not path.exists() and workspace is not None:
        listed = lifecycle.of(workspace).records.folder(checklist_session.FOLDER, str(given))
        path = (
            listed if listed.exists() else lifecycle.of(workspace).folder(lifecycle.of(workspace).find(str(given)).id)
        )
    if not path.exists():
        raise IncidentError(
            f"{given} is neither a path nor the id of an incident. Give the folder of an incident, the path of a "
            f"report, or an id from ops incident list."
        )
    folder = path if path.is_dir() else path.parent
    while (
        not (folder / RECORD).exists()
        and folder.parent != folder
        and folder.name != "incidents"
        and folder.parent.name == "evidence"
    ):
        folder = folder.parent
    if (folder / RECORD).exists():
        return _incident(folder, workspace)
    if path.is_file():
        return _report(path, workspace)
    return Verification(str(path), lacking=f"the folder contains no {RECORD}")


def _incident(folder: Path, workspace: "Workspace | None") -> Verification:
    lines = files.read_bytes(folder / RECORD).decode("utf-8", "replace").split("\n")
    entries, broken = evidence.checked(lines[:-1] if lines and not lines[-1] else lines)
    found = Verification(str(folder), broken=broken)
    if not entries:
        found.lacking = "" if broken else f"{RECORD} is empty"
        return found
    name, found.head = entries[0].body.get("app", ""), f"{entries[-1].id}, SHA-256 {entries[-1].digest}"
    by_id = {e.id: e for e in entries}
    found.broken += _pictures(folder, entries)
    found.broken += [
        b
        for e in entries
        if e.kind in ("resolved", "published", checklist_session.SIGNED) and isinstance(e.body.get("head"), dict)
        for b in _head(e.body["head"], by_id, f"head in {e.id}")
    ]
    if workspace is not None and name == workspace.settings.app:
        found.broken += _against_store(folder.name, entries, workspace)
    published = next((e for e in reversed(entries) if e.kind == "published"), None)
    if published is not None:
        found.broken += [b for b in _heads_in_files(folder, by_id) if b not in found.broken]
        if not found.broken:
            _document(folder, entries, published, found)
    return found


def _pictures(folder: Path, entries: list[Entry]) -> Iterator[IntegrityError]:
    for entry in entries:
        for digest in pictures(entry.line):
            path = folder / PICTURED / f"{digest}.png"
            if not path.exists():
                yield IntegrityError(f"picture of {entry.id}", MISSING, path.name)
            elif sha256(files.read_bytes(path)).hexdigest() != digest:
                yield IntegrityError(f"picture of {entry.id}", EDITED, path.name)


def _head(head: dict[str, str], by_id: dict[str, Entry], where: str) -> list[IntegrityError]:
    entry = by_id.get(str(head.get("entry")))
    if entry is None:
        return [IntegrityError(where, MISSING, f"{head.get('entry')} is not in the record")]
    return (
        []
        if entry.digest == head.get("digest")
        else [
            IntegrityError(
                where, HEAD, f"{entry.id} had the SHA-256 {head.get('digest')}, the record gives {entry.digest}"
            )
        ]
    )


def _heads_in_files(folder: Path, by_id: dict[str, Entry]) -> Iterator[IntegrityError]:
    """Compare the head printed in each form of the document with the record."""
    for path in sorted(folder.glob("postmortem.*")):
        for entry, digest in dict.fromkeys(_HEAD.findall(files.read_bytes(path).decode("utf-8", "replace"))):
            yield from _head({"entry": entry, "digest": digest}, by_id, f"head printed in {path.name}")
        if path.suffix == ".json":
            try:
                yield from _head(json.loads(files.read_bytes(path))["head"], by_id, f"head in {path.name}")
            except (ValueError, RecursionError, KeyError, TypeError):
                yield IntegrityError(path.name, EDITED, "it cannot be read")


def _against_store(name: str, entries: list[Entry], workspace: "Workspace") -> Iterator[IntegrityError]:
    """Compare the entries with the same incident in the database."""
    kept = lifecycle.of(workspace).records.read(name)
    if kept is None:
        return
    stored = {e.id: e for e in kept.entries}
    for entry in entries:
        if entry.id in stored and stored[entry.id].digest != entry.digest:
            yield IntegrityError(entry.id, HEAD if entry is entries[-1] else EDITED, "the database has another version")
            break
    for entry_id, digest in ledger.anchors(workspace.store, workspace.settings.app, name).items():
        yield from _head({"entry": entry_id, "digest": digest}, {e.id: e for e in entries}, "head in the ledger")


def _document(folder: Path, entries: list[Entry], published: Entry, found: Verification) -> None:
    """Rebuild the postmortem from the record and compare it with the published files."""
    upto = next(e.seq for e in entries if e.id == published.body["head"]["entry"])
    made = Postmortem(from_entries(folder.name, entries[:upto]))
    whole = {
        name: sha256(files.read_bytes(folder / name)).hexdigest() if (folder / name).exists() else None
        for name in published.body["files"]
    }
    found.broken += [IntegrityError(name, MISSING) for name, digest in whole.items() if digest is None]
    _figures(
        folder / "postmortem.json",
        made,
        whole.get("postmortem.json") == published.body["files"].get("postmortem.json"),
        found,
    )
    for name, digest in whole.items():
        path = folder / name
        if digest is None or digest == published.body["files"][name]:
            continue
        if name.endswith(".md"):
            markdown = files.read_bytes(path).decode("utf-8", "replace")
            texts = document.published_texts(path, published.body["files"])
            if texts is not None and document.only_texts_differ(markdown, texts, published.body["files"][name]):
                continue
            found.broken += [
                IntegrityError(f"{name}, line {n}", EDITED, formatting.single_line(line.strip(), 80))
                for n, line in document.edited(markdown, made.markdown)
            ]
        elif name.endswith(".html"):
            ours, theirs = made.html.splitlines(), files.read_bytes(path).decode("utf-8", "replace").splitlines()
            n = next((i for i, (a, b) in enumerate(zip(theirs, ours)) if a != b), min(len(ours), len(theirs)))
            found.broken.append(
                IntegrityError(
                    f"{name}, line {n + 1}",
                    EDITED,
                    _difference(theirs[n] if n < len(theirs) else "", ours[n] if n < len(ours) else ""),
                )
            )
        elif name.endswith(".ipynb"):
            found.broken += list(_notebook(path, made))
        elif not any(b.what.startswith(name) for b in found.broken):
            found.broken.append(IntegrityError(name, EDITED, "its content differs from the published file"))


def _difference(theirs: str, ours: str) -> str:
    """Describe the first difference between two lines."""
    n = next((i for i, (a, b) in enumerate(zip(theirs, ours)) if a != b), min(len(theirs), len(ours)))
    return (
        f"{formatting.single_line(theirs[max(0, n - 30) : n + 30], 80)!r}, the record gives "
        f"{formatting.single_line(ours[max(0, n - 30) : n + 30], 80)!r}"
    )


def _figures(path: Path, made: Postmortem, as_published: bool, found: Verification) -> None:
    """
    Recompute every number from its evidence and compare it with the published one.

    Labels are not compared, so that a document with the wording of an earlier version verifies.
    """
    try:
        published = {f["id"]: f for f in json.loads(files.read_bytes(path))["figures"]}
    except (OSError, ValueError, LookupError, TypeError, RecursionError, ImportRefused):
        return
    for figure in made.figures:
        found.figures += 1
        ours = json.loads(evidence.canonical(figure.as_json()))
        theirs = published.pop(figure.id, None)
        if theirs is None:
            found.broken.append(
                IntegrityError(f"{path.name}, {figure.id}", FORMULA if as_published else MISSING, figure.words)
            )
        elif _without_labels(theirs) != _without_labels(ours):
            published_value, our_value = _figure_value(theirs), _figure_value(ours)
            found.broken.append(
                IntegrityError(
                    f"{path.name}, {figure.id}",
                    FORMULA if as_published else EDITED,
                    f"{figure.words}: {published_value}, the evidence ({', '.join(figure.evidence)}) gives {our_value}",
                )
            )
    found.broken += [
        IntegrityError(f"{path.name}, {name}", FORMULA if as_published else EDITED, "the record has no such figure")
        for name in published
    ]


def _without_labels(figure: Any) -> Any:
    """Return a figure without its label and without the reason why it is unknown."""
    return {key: v for key, v in figure.items() if key not in ("words", "why")} if isinstance(figure, dict) else figure


def _figure_value(figure: Any) -> str:
    """Return the value of a figure as its file has it, even if some of its fields are missing."""
    if not isinstance(figure, dict):
        return formatting.single_line(str(figure), 40)
    counted = f" ({figure.get('part')} of {figure['count']})" if figure.get("count") is not None else ""
    return f"{figure.get('value')}{counted}"


def _notebook(path: Path, made: Postmortem) -> Iterator[IntegrityError]:
    """Compare the output of each cell of the notebook with the record."""
    expected = {block.plain.strip() for section in made.sections for block in section.facts}
    expected |= {repr(made).strip(), f"[chart: {document.OUTAGE_PICTURE}]"}
    shown = False
    try:
        cells = json.loads(files.read_bytes(path))["cells"]
        shown_in = [
            (n, "".join(output.get("data", {}).get("text/plain", "")))
            for n, cell in enumerate(cells, 1)
            for output in cell.get("outputs", [])
        ]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError, ImportRefused):
        yield IntegrityError(path.name, EDITED, "it cannot be read")
        return
    for n, plain in shown_in:
        if plain.strip() and plain.strip() not in expected:
            shown = True
            yield IntegrityError(f"{path.name}, cell {n}", EDITED, formatting.single_line(plain, 80))
    if not shown:
        yield IntegrityError(path.name, EDITED, "its content differs from the published file")


def _field(values: dict[str, Any], name: str) -> Any:
    """Return a field of a report; the headline without the lines on restatement, which depend on an earlier report."""
    field_ = values.get(name)
    if name != "headline" or not isinstance(field_, list):
        return field_
    return [line for line in field_ if str(line).lstrip("- ") not in values.get("restated", ())]


def _without_sentences(name: str, value: Any) -> Any:
    """
    Return a field of a report without its sentences.

    The sentences of a report of an earlier version have another wording, so only its numbers and names are compared.
    """
    if name == "issues" and isinstance(value, list):
        return [{k: v for k, v in i.items() if k != "worst"} if isinstance(i, dict) else i for i in value]
    if name == "unknown" and isinstance(value, dict):
        return sorted(value)
    if name == "headline":
        return None
    if name == "action_items" and isinstance(value, list):
        return len(value)
    if name in ("session", "incomplete"):
        return value is None
    return value


def _report(path: Path, workspace: "Workspace | None") -> Verification:
    """Recompute a published report from the snapshots in the database."""
    place = path.with_suffix(".json")
    found = Verification(str(path))
    try:
        published = json.loads(files.read_bytes(place))
        known, over = published["evidence"], "period" in published
        made: Callable[[Workspace], Any] = (
            partial(publishing.review, name=published["report"], period=published["period"])
            if over
            else partial(daily.daily_of, day=time_parsing.parse_day(published["day"]))
        )
    except (OSError, ValueError, RecursionError, KeyError, TypeError, OpsError):
        found.lacking = "it is neither an incident nor a published report"
        return found
    if workspace is None or SnapshotStore(workspace.store).last_snapshot(workspace.settings.app, 2**62, None) is None:
        found.lacking = "the database does not contain the snapshots that it was made from"
        return found
    if published.get("partial"):
        found.lacking = "it is a partial report; only a complete report can be verified"
        return found
    ours = json.loads(record.as_json(made(replace(workspace, uses_cache=False)).values))
    same_wording = published.get("wording") == ours.get("wording")
    # The table of rules holds sentences too, so an earlier wording has another digest of the rules.
    ignored = () if same_wording else ("rules_sha256", "opslib")
    ours_known = ours.get("evidence")
    if {k: v for k, v in known.items() if k not in ignored} != {
        k: v for k, v in ours_known.items() if k not in ignored
    }:
        found.lacking = "the data in the database, or rules.toml, changed since it was made"
        return found
    for day, shown in zip(ours.get("days", ()), published.get("days", ())):
        found.figures += len(day)
        found.broken += [
            IntegrityError(
                f"{place.name}, {day['day']}, {name}", EDITED, f"{shown.get(name)}, the snapshots give {value}"
            )
            for name, value in day.items()
            if shown.get(name) != value
        ]
    for name in () if over else SAID:
        a, b = _field(published, name), _field(ours, name)
        if not same_wording:
            a, b = _without_sentences(name, a), _without_sentences(name, b)
        if a != b:
            found.broken.append(
                IntegrityError(
                    f"{place.name}, {name}",
                    EDITED,
                    f"{formatting.single_line(str(a), 80)}, the snapshots give {formatting.single_line(str(b), 80)}",
                )
            )
    for section in ("figures",) if over else ("availability", "data_quality", "trading"):
        for name, value in ours.get(section, {}).items():
            found.figures += 1
            if published.get(section, {}).get(name) != value:
                found.broken.append(
                    IntegrityError(
                        f"{place.name}, {section}, {name}",
                        EDITED,
                        f"{published.get(section, {}).get(name)}, the snapshots give {value}",
                    )
                )
    return found
