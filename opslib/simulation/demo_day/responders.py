"""
Play the people of the demo: they open the runbook of the outage, follow it, and resolve the incident.

Each act is done at its own time of the script, by the same calls as a button or a command makes.
"""

from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from opslib.alerting import history
from opslib.alerting.alerts import Transition
from opslib.alerting.notifications.store import NotificationStore
from opslib.alerting.store import AlertStore
from opslib.foundation import clock
from opslib.foundation.config.workspace import Workspace
from opslib.foundation.errors import OpsError
from opslib.incidents import lifecycle
from opslib.jobs import executor
from opslib.reports.postmortem import figures
from opslib.runbooks import opening
from opslib.runbooks.session import RunbookSession
from opslib.runbooks.steps import ASK, LOOK
from opslib.simulation.world.script import Script

if TYPE_CHECKING:
    from opslib.jobs.kernels import KernelPool

LEAD, MANAGER = "Tech Lead", "Trading Manager"  # Roles, not people.
RUNBOOK = "massive_down"
OPENS, TELLS, SWITCHES, NOTES, RESOLVES = (timedelta(minutes=m) for m in (2.5, 4, 7, 10, 30))
Walk = Callable[[Workspace, Path, str], None]


def acts(script: Script) -> list[tuple[datetime, Callable[[Workspace, Walk], None]]]:
    """What is done, and when, in order."""
    begins = next(t.begins for t in script.troubles if t.name == "massive_outage")
    return [
        (begins + after, act)
        for after, act in (
            (OPENS, _opens),
            (TELLS, _tells),
            (SWITCHES, _switches),
            (NOTES, _notes),
            (RESOLVES, _resolves),
        )
    ]


def incident(workspace: Workspace) -> str:
    """The id of the outage's incident."""
    found = [i.id for i in lifecycle.of(workspace).all() if i.runbook == RUNBOOK]
    if not found:
        raise OpsError("the demo's outage has no incident; its script and its rules do not fit.")
    return found[-1]


def _opens(workspace: Workspace, walk: Walk) -> None:
    now_us = clock.micros(workspace.now())
    standing = history.active_alerts(
        (Transition(*row) for row in AlertStore(workspace.store, workspace.settings.app).transitions(now_us)),
        workspace.rules,
    )
    alert = next((a for a in standing if a["runbook"] == RUNBOOK and a["state"] == "firing"), None)
    if alert is None:
        raise OpsError("the demo's outage has raised no alert; its script and its rules do not fit.")
    incident = lifecycle.of(workspace).open("", by="", alert=alert)
    NotificationStore(workspace.store, workspace.settings.app).ack(incident.about, LEAD)
    lifecycle.of(workspace).follow_alerts()
    walk(workspace, opening.open_for(workspace, RUNBOOK, lifecycle.of(workspace).read(incident.id), LEAD), incident.id)


def walked(workspace: Workspace, place: Path, incident: str) -> None:
    """Every step of the runbook shown, as a kernel would that executes it while nobody is there."""
    book = RunbookSession(workspace, RUNBOOK, incident, LEAD)
    for step in book.steps:
        if step.kind == LOOK:
            book.step(step.name)
        elif step.kind == ASK:
            book.walk.skip(step)  # Whoever lays the day out: nobody is there.
    book.diagnosis  # noqa: B018  # Asking for it writes it down.


def executed(workspace: Workspace, place: Path, incident: str, kernels: "KernelPool") -> None:
    """The copy executed by a kernel, and kept where it lies."""
    outcome = executor.execute(place, {}, settings=workspace.settings, store=workspace.store, kernels=kernels)
    executor.publish_run(outcome, place.with_suffix(""), settings=workspace.settings, store=workspace.store)
    if outcome.state != "ok":
        raise OpsError(f"the demo's runbook failed: {outcome.reason}")


def _tells(workspace: Workspace, walk: Walk) -> None:
    book = RunbookSession(workspace, RUNBOOK, incident(workspace), LEAD)
    book.answer("massive_status_page", False, note="it names an outage of its API")
    book.do("tell_channel", confirmed=True)


def _switches(workspace: Workspace, walk: Walk) -> None:
    name = incident(workspace)
    RunbookSession(workspace, RUNBOOK, name, LEAD).do("tradier_only", confirmed=True)
    lifecycle.of(workspace).mitigate(name, "those who trade work on Tradier's data", LEAD)


def _notes(workspace: Workspace, walk: Walk) -> None:
    lifecycle.of(workspace).note(incident(workspace), "no order waits for data from Massive", MANAGER)


def _resolves(workspace: Workspace, walk: Walk) -> None:
    name = incident(workspace)
    book = RunbookSession(workspace, RUNBOOK, name, LEAD)
    for step in book.steps:
        if step.kind == LOOK:
            book.step(step.name)
    lifecycle.of(workspace).resolve(name, "Massive answers again; the checks hold", LEAD)
    figures.capture_metrics(workspace, lifecycle.of(workspace).read(name))
