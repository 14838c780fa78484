"""Draft and publish a postmortem: take in what people wrote, capture the facts, make the document anew around it."""

from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from opslib.dashboard import status as status_module
from opslib.foundation import clock, formatting, time_parsing
from opslib.foundation.config import settings
from opslib.foundation.errors import IncidentError
from opslib.foundation.storage import atomic_files
from opslib.incidents import lifecycle
from opslib.incidents.incident import Incident, from_entries
from opslib.jobs import executor, ledger
from opslib.reports.postmortem import document, figures
from opslib.reports.postmortem.document import STATUSES, LintFinding, Postmortem
from opslib.runbooks import cases

if TYPE_CHECKING:
    from opslib.foundation.config.workspace import Workspace
    from opslib.jobs.kernels import KernelPool

NAME = "postmortem"


def take_in(workspace: "Workspace", name: str, by: str) -> Incident:
    """
    Take in what people have written in an incident's document since it was made.

    Raises:
        IncidentError: Something outside the marks was edited; nothing was taken in, and nothing overwritten.
    """
    found = lifecycle.of(workspace).read(name)
    path = lifecycle.of(workspace).folder(name) / f"{NAME}.md"
    made = next((e for e in reversed(found.of_kind("published"))), None)
    if made is None or not path.exists():
        return found
    told, before = path.read_text(encoding="utf-8"), at_head(found, made.body["head"]["entry"])
    lines = document.edited(told, before.markdown)
    if lines:
        where = "; ".join(f"line {n}: {line.strip()[:60]!r}" for n, line in lines[:3])
        raise IncidentError(
            f"{path} was edited outside the marks ({where}), where it is made anew from the record. Put what "
            f"you mean between the marks, or take the file away, and run this again."
        )
    for section, words in document.human_text(told).items():
        if words != before.written(section).strip() and words != Postmortem(found).written(section).strip():
            lifecycle.of(workspace).append(
                name, "written", {"section": section, "text": words, "words": f"{section} was written"}, by=by
            )
    return lifecycle.of(workspace).read(name)


def at_head(found: Incident, entry: str) -> Postmortem:
    """The postmortem as it was made from the record up to an entry."""
    return Postmortem(from_entries(found.id, found.entries[: found.find(entry).seq]))


def move(workspace: "Workspace", found: Incident, status: str, by: str) -> Incident:
    """
    Take a document on to another status.

    Raises:
        IncidentError: There is no such status, it does not follow, or something is lacking before others read it.
    """
    wanted = next((s for s in STATUSES if s.lower().replace(" ", "-") == status.lower().replace(" ", "-")), None)
    if wanted is None:
        raise IncidentError(f"a postmortem is {', '.join(STATUSES)}; found {status!r}.")
    now = STATUSES.index(found.document or STATUSES[0])
    then = STATUSES.index(wanted)
    if then > now + 1 or (now == len(STATUSES) - 1 and then != now):
        following = (
            "it is closed: ops incident reopen opens it again"
            if now == len(STATUSES) - 1
            else f"next comes {STATUSES[now + 1]}"
        )
        raise IncidentError(f"the postmortem of {found.id} is {STATUSES[now]}; {following}.")
    lacks = document.lint(Postmortem(found)) if then > 0 else []
    if lacks:
        raise IncidentError(
            "\n".join(
                [f"the postmortem of {found.id} cannot be {wanted} yet; it lacks:", *(f"  {lack!r}" for lack in lacks)]
            )
        )
    if then == len(STATUSES) - 1 != now:
        _drilled(workspace, found)
    if then != now:
        lifecycle.of(workspace).append(
            found.id, "document", {"status": wanted, "words": f"the postmortem is {wanted}"}, by=by
        )
    return lifecycle.of(workspace).read(found.id)


def _drilled(workspace: "Workspace", found: Incident) -> None:
    """
    Do the drills pass that action items name?

    Raises:
        IncidentError: One does not, or there is none of that name.
    """
    for name in Postmortem(found).drills:
        tried = cases.read(workspace.settings, name).tried(workspace.settings)
        if not tried.right:
            raise IncidentError(
                f"the postmortem of {found.id} cannot be closed yet: an action item is done when drill {name} "
                f"passes, and it does not ({tried!r}). ops drill {name} shows what was seen."
            )


def draft(
    workspace: "Workspace", name: str, by: str, status: str = "", kernels: "KernelPool | None" = None
) -> tuple[Postmortem, Path, list[LintFinding]]:
    """
    Draft a postmortem, or make it anew.

    Args:
        status: What it is to be from now on; empty is as it is.
        kernels: As of `executor.execute`.

    Returns:
        The document, where it is without ending, and what it lacks.

    Raises:
        IncidentError: What people wrote could not be taken in, the status does not follow, or its notebook failed.
    """
    lifecycle.of(workspace).follow_alerts()
    place = lifecycle.of(workspace).folder(name) / NAME
    found = lifecycle.of(workspace).read(name)
    if found.document == STATUSES[-1] and not status:
        return at_head(found, found.of_kind("published")[-1].body["head"]["entry"]), place, []
    found = take_in(workspace, name, by)
    found = pictured(workspace, figures.capture_metrics(workspace, found))
    if status:
        found = move(workspace, found, status, by)
    made = Postmortem(found)
    publish(workspace, made, place, kernels)
    return made, place, document.lint(made)


def pictured(workspace: "Workspace", incident: Incident) -> Incident:
    """Put on record how its panel looked, over what was captured of the metrics; once for the same facts."""
    entry = figures.metrics(incident)
    if entry is None or any(e.body.get("of") == entry.id for e in incident.of_kind("evidence")):
        return incident
    from opslib.dashboard import charts

    content = entry.body["content"]
    start, end = time_parsing.parse(content["from"]), time_parsing.parse(content["until"])
    rule = workspace.rules.rules.get(incident.rule)
    panel = rule.panel if rule else "system"
    digest = lifecycle.of(workspace).picture(
        charts.png(status_module.view_at(workspace, end, end - start).panel(panel).draw)
    )
    words = f"picture of the panel {panel}, {formatting.moment(start)} to {formatting.moment(end)}"
    lifecycle.of(workspace).append(
        incident.id,
        "evidence",
        {
            "name": "picture",
            "of": entry.id,
            "source": "store",
            "picture": {"sha256": digest, "name": panel},
            "words": words,
        },
        key=f"picture:{entry.id}",
    )
    return lifecycle.of(workspace).read(incident.id)


def publish(workspace: "Workspace", made: Postmortem, place: Path, kernels: "KernelPool | None" = None) -> None:
    """
    Put the document in its place, with its notebook; its digests and head go on record, and the head into the ledger.
    """
    name, head = made.incident.id, made.head
    folder = settings.project()
    files = dict(made.files)
    if folder is not None:
        outcome = executor.execute(
            folder / "notebooks" / f"{NAME}.ipynb",
            {"app": workspace.settings.app, "incident": name, "upto": head.id},
            settings=workspace.settings,
            store=workspace.store,
            kernels=kernels,
        )
        if outcome.state == "failed":
            ledger.ends(
                workspace.store,
                outcome.run_id,
                state="failed",
                reason=outcome.reason,
                ended_at_us=clock.micros(clock.now()),
                outputs=[],
            )
            raise IncidentError(f"the postmortem's notebook failed: {outcome.reason}.")
        kept, _ = executor.publish_run(outcome, place, files, settings=workspace.settings, store=workspace.store)
        if kept.state == "failed":
            raise IncidentError(f"the postmortem could not be published: {kept.reason}.")
        files[".ipynb"] = place.with_suffix(".ipynb").read_bytes()
    else:
        atomic_files.publish(place, files, None)
    digests = {f"{place.name}{ending}": sha256(content).hexdigest() for ending, content in sorted(files.items())}
    lifecycle.of(workspace).append(
        name,
        "published",
        {
            "files": digests,
            "head": {"entry": head.id, "digest": head.digest},
            "words": f"postmortem published from the record up to {head.id}",
        },
    )
    ledger.anchor(workspace.store, workspace.settings.app, name, head.id, head.digest)
