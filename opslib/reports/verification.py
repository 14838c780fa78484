"""
Recompute a record, a postmortem and its numbers, and name what differs and why.

It needs no more than the folder of an incident, also on another machine with an empty home. Where the store at hand has
the same incident, its record and the heads in its ledger are held against the folder too: who rewrote all of a folder
could not rewrite those with it.
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

# What a daily report says besides its template's figures.
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
    What was verified.

    Attributes:
        what: The incident, postmortem or report.
        figures: So many numbers were computed again.
        broken: What is not as it was recorded, and why.
        lacking: Why nothing could be verified; empty where something was.
    """

    what: str
    figures: int = 0
    broken: list[IntegrityError] = field(default_factory=list)
    lacking: str = ""
    head: str = ""

    @property
    def verdict(self) -> str:
        """ok, critical (something is broken), or unknown."""
        if self.broken:
            return "critical"
        if self.lacking:
            return "unknown"
        return "ok"

    @property
    def exit_code(self) -> int:
        """0 verified, 2 broken, 3 nothing could be verified."""
        return EXIT_CODES[self.verdict]

    def as_json(self) -> dict[str, Any]:
        """As CONTRACT.md has it."""
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
        told = (
            f"{self.figures} figures computed again; the record ends with {self.head}"
            if self.head
            else f"{self.figures} figures computed again"
        )
        return "\n".join(
            [
                f"{self.what}: {'verified' if not lines else f'{len(lines)} broken'}; {told}",
                *(f"  {line}" for line in lines),
            ]
        )


def verify(given: str | Path, workspace: "Workspace | None" = None) -> Verification:
    """
    Is what is shown what was recorded?

    Args:
        given: The folder of an incident or a checklist or anything in it, its id, or a published report.
        workspace: Whose store is held against it too, where there is one.

    Raises:
        IncidentError: There is nothing at that path, and no incident of that name.
    """
    path = Path(given)
    if not path.exists() and workspace is not None:
        listed = lifecycle.of(workspace).records.folder(checklist_session.SHELF, str(given))
        path = (
            listed if listed.exists() else lifecycle.of(workspace).folder(lifecycle.of(workspace).find(str(given)).id)
        )
    if not path.exists():
        raise IncidentError(f"a folder of an incident, or a published report, was wanted at {given}; there is nothing.")
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
    return Verification(str(path), lacking=f"there is no {RECORD} in it")


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
        for b in _head(e.body["head"], by_id, f"head told in {e.id}")
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


def _head(told: dict[str, str], by_id: dict[str, Entry], where: str) -> list[IntegrityError]:
    entry = by_id.get(str(told.get("entry")))
    if entry is None:
        return [IntegrityError(where, MISSING, f"{told.get('entry')} is not in the record")]
    return (
        []
        if entry.digest == told.get("digest")
        else [
            IntegrityError(
                where, HEAD, f"{entry.id} had the SHA-256 {told.get('digest')}, the record gives {entry.digest}"
            )
        ]
    )


def _heads_in_files(folder: Path, by_id: dict[str, Entry]) -> Iterator[IntegrityError]:
    """The head that is printed in each form of the document."""
    for path in sorted(folder.glob("postmortem.*")):
        for entry, digest in dict.fromkeys(_HEAD.findall(files.read_bytes(path).decode("utf-8", "replace"))):
            yield from _head({"entry": entry, "digest": digest}, by_id, f"head printed in {path.name}")
        if path.suffix == ".json":
            try:
                yield from _head(json.loads(files.read_bytes(path))["head"], by_id, f"head told in {path.name}")
            except (ValueError, RecursionError, KeyError, TypeError):
                yield IntegrityError(path.name, EDITED, "it cannot be read")


def _against_store(name: str, entries: list[Entry], workspace: "Workspace") -> Iterator[IntegrityError]:
    """What the store at hand says of the same incident."""
    kept = lifecycle.of(workspace).records.read(name)
    if kept is None:
        return
    theirs = {e.id: e for e in kept.entries}
    for entry in entries:
        if entry.id in theirs and theirs[entry.id].digest != entry.digest:
            yield IntegrityError(entry.id, HEAD if entry is entries[-1] else EDITED, "the store has another")
            break
    for told, digest in ledger.anchors(workspace.store, workspace.settings.app, name).items():
        yield from _head({"entry": told, "digest": digest}, {e.id: e for e in entries}, "head in the ledger")


def _document(folder: Path, entries: list[Entry], published: Entry, found: Verification) -> None:
    """The postmortem, made again from the record and held against what was published."""
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
            found.broken += [
                IntegrityError(f"{name}, line {n}", EDITED, formatting.single_line(line.strip(), 80))
                for n, line in document.edited(files.read_bytes(path).decode("utf-8", "replace"), made.markdown)
            ]
        elif name.endswith(".html"):
            ours, told = made.html.splitlines(), files.read_bytes(path).decode("utf-8", "replace").splitlines()
            n = next((i for i, (a, b) in enumerate(zip(told, ours)) if a != b), min(len(ours), len(told)))
            found.broken.append(
                IntegrityError(
                    f"{name}, line {n + 1}",
                    EDITED,
                    _differs(told[n] if n < len(told) else "", ours[n] if n < len(ours) else ""),
                )
            )
        elif name.endswith(".ipynb"):
            found.broken += list(_notebook(path, made))
        elif not any(b.what.startswith(name) for b in found.broken):
            found.broken.append(IntegrityError(name, EDITED, "its bytes are not those that were published"))


def _differs(told: str, ours: str) -> str:
    """Where two lines part, with what stands there."""
    n = next((i for i, (a, b) in enumerate(zip(told, ours)) if a != b), min(len(told), len(ours)))
    return (
        f"{formatting.single_line(told[max(0, n - 30) : n + 30], 80)!r}, the record gives "
        f"{formatting.single_line(ours[max(0, n - 30) : n + 30], 80)!r}"
    )


def _figures(path: Path, made: Postmortem, as_published: bool, found: Verification) -> None:
    """Every number, computed again from its evidence."""
    try:
        told = {f["id"]: f for f in json.loads(files.read_bytes(path))["figures"]}
    except (OSError, ValueError, LookupError, TypeError, RecursionError, ImportRefused):
        return
    for figure in made.figures:
        found.figures += 1
        ours = json.loads(evidence.canonical(figure.as_json()))
        theirs = told.pop(figure.id, None)
        if theirs is None:
            found.broken.append(
                IntegrityError(f"{path.name}, {figure.id}", FORMULA if as_published else MISSING, figure.words)
            )
        elif theirs != ours:
            told_value, our_value = _figure_words(theirs), _figure_words(ours)
            found.broken.append(
                IntegrityError(
                    f"{path.name}, {figure.id}",
                    FORMULA if as_published else EDITED,
                    f"{figure.words}: {told_value}, the evidence ({', '.join(figure.evidence)}) gives {our_value}",
                )
            )
    found.broken += [
        IntegrityError(
            f"{path.name}, {name}", FORMULA if as_published else EDITED, "no such figure comes out of the record"
        )
        for name in told
    ]


def _figure_words(figure: Any) -> str:
    """A figure as its file holds it, also where its parts were edited away."""
    if not isinstance(figure, dict):
        return formatting.single_line(str(figure), 40)
    counted = f" ({figure.get('part')} of {figure['count']})" if figure.get("count") is not None else ""
    return f"{figure.get('value')}{counted}"


def _notebook(path: Path, made: Postmortem) -> Iterator[IntegrityError]:
    """Which cell of the notebook shows what the record does not?"""
    wanted = {t.plain.strip() for _, t, _ in made.sections if t} | {repr(made).strip()}
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
        if plain.strip() and plain.strip() not in wanted:
            shown = True
            yield IntegrityError(f"{path.name}, cell {n}", EDITED, formatting.single_line(plain, 80))
    if not shown:
        yield IntegrityError(path.name, EDITED, "its bytes are not those that were published")


def _said(values: dict[str, Any], name: str) -> Any:
    """What a report says under a name; of its headline without what it restates, which rests on an earlier report."""
    said = values.get(name)
    if name != "headline" or not isinstance(said, list):
        return said
    return [line for line in said if str(line).lstrip("- ") not in values.get("restated", ())]


def _report(path: Path, workspace: "Workspace | None") -> Verification:
    """A published report, its numbers computed again from the posts at hand."""
    place = path.with_suffix(".json")
    found = Verification(str(path))
    try:
        told = json.loads(files.read_bytes(place))
        known, over = told["evidence"], "period" in told
        made: Callable[[Workspace], Any] = (
            partial(publishing.review, name=told["report"], period=told["period"])
            if over
            else partial(daily.daily_of, day=time_parsing.parse_day(told["day"]))
        )
    except (OSError, ValueError, RecursionError, KeyError, TypeError, OpsError):
        found.lacking = "it is neither an incident nor a report"
        return found
    if workspace is None or SnapshotStore(workspace.store).last_snapshot(workspace.settings.app, 2**62, None) is None:
        found.lacking = "the posts that it is made from are not in the store at hand"
        return found
    if told.get("partial"):
        found.lacking = "it is of a part of its time; that of the whole can be verified"
        return found
    ours = json.loads(record.as_json(made(replace(workspace, remembers=False)).values))
    if ours.get("evidence") != known:
        found.lacking = "the store at hand has other facts of that time than it was made from"
        return found
    for day, shown in zip(ours.get("days", ()), told.get("days", ())):
        found.figures += len(day)
        found.broken += [
            IntegrityError(f"{place.name}, {day['day']}, {name}", EDITED, f"{shown.get(name)}, the posts give {value}")
            for name, value in day.items()
            if shown.get(name) != value
        ]
    for name in () if over else SAID:
        a, b = _said(told, name), _said(ours, name)
        if a != b:
            found.broken.append(
                IntegrityError(
                    f"{place.name}, {name}",
                    EDITED,
                    f"{formatting.single_line(str(a), 80)}, the posts give {formatting.single_line(str(b), 80)}",
                )
            )
    for section in ("figures",) if over else ("availability", "data_quality", "trading"):
        for name, value in ours.get(section, {}).items():
            found.figures += 1
            if told.get(section, {}).get(name) != value:
                found.broken.append(
                    IntegrityError(
                        f"{place.name}, {section}, {name}",
                        EDITED,
                        f"{told.get(section, {}).get(name)}, the posts give {value}",
                    )
                )
    return found
