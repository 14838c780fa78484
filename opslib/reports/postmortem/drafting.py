"""Draft and publish a postmortem: record the texts that people wrote, capture metrics, rebuild the document."""

from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from opslib.foundation import clock
from opslib.foundation.config import settings
from opslib.foundation.errors import IncidentError
from opslib.foundation.storage import atomic_files
from opslib.incidents import durations, lifecycle
from opslib.incidents.incident import Incident, from_entries
from opslib.jobs import executor, ledger
from opslib.reports.postmortem import document, figures, outage_chart
from opslib.reports.postmortem.document import STATUSES, LintFinding, Postmortem
from opslib.runbooks import cases, incident_page

if TYPE_CHECKING:
    from opslib.foundation.config.workspace import Workspace
    from opslib.jobs.kernels import KernelPool

NAME = "postmortem"


def take_in(workspace: "Workspace", name: str, by: str) -> Incident:
    """
    Record the texts that people wrote in the document of an incident since it was published.

    Raises:
        IncidentError: Something outside the text fields was edited; nothing is recorded or overwritten.
    """
    found = lifecycle.of(workspace).read(name)
    path = lifecycle.of(workspace).folder(name) / f"{NAME}.md"
    made = next((e for e in reversed(found.of_kind("published"))), None)
    if made is None or not path.exists():
        return found
    markdown, before = path.read_text(encoding="utf-8"), at_head(found, made.body["head"]["entry"])
    texts = document.published_texts(path, made.body["files"])
    if texts is None or not document.only_texts_differ(markdown, texts, made.body["files"].get(path.name, "")):
        texts = {section: before.written(section) for section in document.ASKED}
        lines = document.edited(markdown, before.markdown)
    else:
        lines = []
    if lines:
        where = "; ".join(f"line {n}: {line.strip()[:60]!r}" for n, line in lines[:3])
        raise IncidentError(
            f"{path} was edited outside its text fields ({where}). That part is rebuilt from the record. Move your "
            f"text into a text field, or remove the file, and run this again."
        )
    for section, words in document.human_text(markdown).items():
        if words != texts.get(section, "").strip() and words != Postmortem(found).written(section).strip():
            lifecycle.of(workspace).append(
                name,
                "written",
                {"section": section, "text": words, "words": f"text of section {section} written"},
                by=by,
            )
    return lifecycle.of(workspace).read(name)


def at_head(found: Incident, entry: str) -> Postmortem:
    """Return the postmortem as it was made from the record up to an entry."""
    return Postmortem(from_entries(found.id, found.entries[: found.find(entry).seq]))


def move(workspace: "Workspace", found: Incident, status: str, by: str) -> Incident:
    """
    Set the status of a document.

    Raises:
        IncidentError: There is no such status, it is not the next one, or the document has problems.
    """
    target = next((s for s in STATUSES if s.lower().replace(" ", "-") == status.lower().replace(" ", "-")), None)
    if target is None:
        raise IncidentError(f"{status!r} is not the status of a postmortem. Use one of {', '.join(STATUSES)}.")
    now = STATUSES.index(found.document or STATUSES[0])
    then = STATUSES.index(target)
    if then > now + 1 or (now == len(STATUSES) - 1 and then != now):
        following = (
            "to change it, run ops incident reopen"
            if now == len(STATUSES) - 1
            else f"the next status is {STATUSES[now + 1]}"
        )
        raise IncidentError(f"the postmortem of {found.id} is {STATUSES[now]}; {following}.")
    lacks = document.lint(Postmortem(found)) if then > 0 else []
    if lacks:
        raise IncidentError(
            "\n".join(
                [
                    f"the postmortem of {found.id} cannot be set to {target} yet. Fix first:",
                    *(f"  {line}" for line in document.by_section(lacks)),
                ]
            )
        )
    if then == len(STATUSES) - 1 != now:
        _check_drills(workspace, found)
    if then != now:
        lifecycle.of(workspace).append(
            found.id, "document", {"status": target, "words": f"status of the postmortem: {target}"}, by=by
        )
    return lifecycle.of(workspace).read(found.id)


def _check_drills(workspace: "Workspace", found: Incident) -> None:
    """
    Run the drills that the action items name.

    Raises:
        IncidentError: A drill fails, or there is no drill of that name.
    """
    for name in Postmortem(found).drills:
        result = cases.read(workspace.settings, name).run(workspace.settings)
        if not result.right:
            raise IncidentError(
                f"the postmortem of {found.id} cannot be closed yet: an action item requires drill {name} to pass, "
                f"and it fails ({result!r}). Run ops drill {name} for details."
            )


def draft(
    workspace: "Workspace", name: str, by: str, status: str = "", kernels: "KernelPool | None" = None
) -> tuple[Postmortem, Path, list[LintFinding]]:
    """
    Draft a postmortem, or rebuild it.

    Args:
        status: The new status; empty keeps the current one.
        kernels: The pool of preloaded kernels, see `executor.execute`.

    Returns:
        The document, its path without the suffix, and its problems.

    Raises:
        IncidentError: The texts could not be recorded, the status is not the next one, or the notebook failed.
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
    """Record the chart of the outage over the captured metrics, once for the same data; Markdown shows this picture."""
    entry, outage = durations.metrics(incident), outage_chart.outage_of(incident)
    known = (e for e in incident.of_kind("evidence") if e.body.get("name") == document.OUTAGE_PICTURE)
    if entry is None or outage is None or any(e.body["of"] == entry.id for e in known):
        return incident
    from opslib.dashboard import charts

    png = charts.png(lambda ax: outage_chart.draw(ax, incident, outage), outage_chart.SIZE_INCHES)
    digest = lifecycle.of(workspace).picture(png)
    body = {
        "name": document.OUTAGE_PICTURE,
        "of": entry.id,
        "source": entry.id,
        "picture": {"sha256": digest, "name": document.OUTAGE_PICTURE},
        "words": f"chart of the outage: {outage_chart.describe(incident, outage)}",
    }
    lifecycle.of(workspace).append(incident.id, "evidence", body, key=f"{document.OUTAGE_PICTURE}:{entry.id}")
    return lifecycle.of(workspace).read(incident.id)


def publish(workspace: "Workspace", made: Postmortem, place: Path, kernels: "KernelPool | None" = None) -> None:
    """
    Publish the document with its notebook.

    Its digests and its last entry are recorded in the incident, and the last entry in the ledger.
    """
    name, last = made.incident.id, made.last_entry
    folder = settings.project()
    files = dict(made.files)
    if folder is not None:
        outcome = executor.execute(
            folder / "notebooks" / f"{NAME}.ipynb",
            {"app": workspace.settings.app, "incident": name, "upto": last.id},
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
            "head": {"entry": last.id, "digest": last.digest},
            "words": f"postmortem published from the record up to {last.id}",
        },
    )
    ledger.anchor(workspace.store, workspace.settings.app, name, last.id, last.digest)
    incident_page.refresh(workspace, name)
