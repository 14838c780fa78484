"""
Simulate the people of the demo: they are notified, acknowledge, and resolve each trouble of the day.

For the outage they open the runbook and run it. Each action happens at its scripted time, by the calls that a button or
a command makes.
"""

import asyncio
import heapq
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
from opslib.incidents import Incident, lifecycle
from opslib.jobs import executor
from opslib.reports.postmortem import figures
from opslib.runbooks import opening
from opslib.runbooks.hooks import in_own_thread
from opslib.runbooks.session import RunbookSession
from opslib.runbooks.steps import ASK, CHECK
from opslib.services.notifying import NotificationTasks
from opslib.simulation.world.script import Script

if TYPE_CHECKING:
    from opslib.jobs.kernels import KernelPool

LEAD, MANAGER = "Tech Lead", "Trading Manager"  # Roles, not people.
RUNBOOK, GREEKS, SOCKET, VARIANCE = "massive_down", "greeks_quality", "websocket_down", "backtest_variance"
# When people are notified after a fault has begun; then as often, while a notification is or may become due.
NOTIFIED_AFTER = tuple(timedelta(minutes=m) for m in (1.25, 2.5, 3.75, 10.5, 32, 35))
NOTIFIED_EVERY = timedelta(minutes=5)
COSTS, COSTS_NOTIFIED_AFTER = "costs_rise", timedelta(hours=2)  # The variance grows all afternoon, trade by trade.
LAST_ACTION = timedelta(minutes=2)  # Before the close.
SILENCED_FOR = timedelta(minutes=30)
Run = Callable[[Workspace, Path, str], None]
Action = Callable[[Workspace, Run], None]


class Responders:
    """
    What people do on the day, and the notifications that they get, in order of time.

    Args:
        workspace: Its clock is set to the time of an action before the action is done.
        run: Runs an opened runbook.

    Attributes:
        outage_is_over: Whether the incident of the outage is resolved.
    """

    def __init__(self, script: Script, workspace: Workspace, run: Run):
        self.outage_is_over, self._last = False, script.closes - LAST_ACTION
        self._workspace, self._run = workspace, run
        self._tasks = NotificationTasks(
            workspace.store, workspace.settings, workspace.rules, workspace.contacts, workspace.now
        )
        self._due, self._count = list[tuple[datetime, int, Action]](), 0
        for fault in script.faults:
            for minutes, action in _ACTIONS.get(fault.name, ()):
                self._add(fault.begins + timedelta(minutes=minutes), action)
            if fault.name == COSTS:
                moment = fault.begins + COSTS_NOTIFIED_AFTER
                while moment <= self._last:
                    self._add(moment, self._notify)
                    moment += NOTIFIED_EVERY
            elif fault.name in _ACTIONS:
                for after in NOTIFIED_AFTER:
                    self._add(fault.begins + after, self._notify)

    @property
    def next_at(self) -> datetime | None:
        """When the next action is due; None after the last one."""
        return self._due[0][0] if self._due else None

    def act(self) -> None:
        """Do the next action."""
        self._at, _, action = heapq.heappop(self._due)
        action(self._workspace, self._run)
        self.outage_is_over |= action is _resolve

    def _add(self, at: datetime, action: Action) -> None:
        if at <= self._last:
            self._count += 1
            heapq.heappush(self._due, (at, self._count, action))

    def _notify(self, workspace: Workspace, run: Run) -> None:
        """Notify people of what is due, and again as long as an alert is active of which they may be notified."""
        self._tasks.plan_all()
        in_own_thread(lambda: asyncio.run(self._tasks.send()))
        later = self._at + NOTIFIED_EVERY
        is_planned = any(at <= later and action == self._notify for at, _, action in self._due)
        if self._tasks.notifications.open_states() and not is_planned:
            self._add(later, self._notify)


def outage_incident(workspace: Workspace) -> str:
    """Return the ID of the outage's incident."""
    found = _incident(workspace, RUNBOOK)
    if found is None:
        raise OpsError("The demo's outage has no incident. Its script and rules.toml do not match.")
    return found.id


def _incident(workspace: Workspace, runbook: str) -> Incident | None:
    """Return the newest incident with a runbook; None if there is none."""
    return next((i for i in reversed(lifecycle.of(workspace).all()) if i.runbook == runbook), None)


def _open_runbook(workspace: Workspace, run: Run) -> None:
    now_us = clock.micros(workspace.now())
    active = history.active_alerts(
        (Transition(*row) for row in AlertStore(workspace.store, workspace.settings.app).transitions(now_us)),
        workspace.rules,
    )
    alert = next((a for a in active if a["runbook"] == RUNBOOK and a["state"] == "firing"), None)
    if alert is None:
        raise OpsError("The demo's outage has no alert. Its script and rules.toml do not match.")
    incident = lifecycle.of(workspace).open("", by="", alert=alert)
    NotificationStore(workspace.store, workspace.settings.app).ack(incident.about, LEAD)
    lifecycle.of(workspace).follow_alerts()
    run(workspace, opening.open_for(workspace, RUNBOOK, lifecycle.of(workspace).read(incident.id), LEAD), incident.id)


def run_unattended(workspace: Workspace, place: Path, incident: str) -> None:
    """Run the checks of the runbook and skip its questions, as a kernel does without a person."""
    session = RunbookSession(workspace, RUNBOOK, incident, LEAD)
    for step in session.steps:
        if step.kind == CHECK:
            session.step(step.name)
        elif step.kind == ASK:
            session.execution.skip(step)  # No person is available to answer.
    session.diagnosis  # noqa: B018  # Reading the property records it.


def run_in_kernel(workspace: Workspace, place: Path, incident: str, kernels: "KernelPool") -> None:
    """Execute the runbook's copy in a kernel and publish it in place."""
    outcome = executor.execute(place, {}, settings=workspace.settings, store=workspace.store, kernels=kernels)
    executor.publish_run(outcome, place.with_suffix(""), settings=workspace.settings, store=workspace.store)
    if outcome.state != "ok":
        raise OpsError(f"The demo's runbook failed: {outcome.reason}. Run ops demo again.")


def _notify_channel(workspace: Workspace, run: Run) -> None:
    session = RunbookSession(workspace, RUNBOOK, outage_incident(workspace), LEAD)
    session.answer("massive_status_page", False, note="it reports an API outage")
    session.do("tell_channel", confirmed=True)


def _switch_to_tradier(workspace: Workspace, run: Run) -> None:
    name = outage_incident(workspace)
    RunbookSession(workspace, RUNBOOK, name, LEAD).do("tradier_only", confirmed=True)
    # The action is only a dry run, because the demo configures no command for it.
    lifecycle.of(workspace).mitigate(name, "asked the traders by phone to use Tradier's data only", LEAD)


def _add_note(workspace: Workspace, run: Run) -> None:
    lifecycle.of(workspace).note(outage_incident(workspace), "no pending order depends on data from Massive", MANAGER)


def _resolve(workspace: Workspace, run: Run) -> None:
    name = outage_incident(workspace)
    session = RunbookSession(workspace, RUNBOOK, name, LEAD)
    for step in session.steps:
        if step.kind == CHECK:
            session.step(step.name)
    lifecycle.of(workspace).resolve(name, "Massive responds again, our requests to it succeed", LEAD)
    figures.capture_metrics(workspace, lifecycle.of(workspace).read(name))


def _acknowledge(runbook: str, by: str) -> Action:
    """Return the action that acknowledges an incident; with other seeds a trouble may stay below its threshold."""

    def action(workspace: Workspace, run: Run) -> None:
        if found := _incident(workspace, runbook):
            NotificationStore(workspace.store, workspace.settings.app).ack(found.about, by)

    return action


def _end(runbook: str, words: str, by: str) -> Action:
    """Return the action that resolves an incident."""

    def action(workspace: Workspace, run: Run) -> None:
        if found := _incident(workspace, runbook):
            lifecycle.of(workspace).resolve(found.id, words, by)
            figures.capture_metrics(workspace, lifecycle.of(workspace).read(found.id))

    return action


def _silence_chains(workspace: Workspace, run: Run) -> None:
    """Silence the alerts of the chains, which are fetched so seldom that they show the fault longest."""
    NotificationStore(workspace.store, workspace.settings.app).silence(
        MANAGER, "the page counts no zero gammas any more; the next chains will show it", SILENCED_FOR, source="chain"
    )


# By fault of the script: minutes after its begin, and what is done.
_ACTIONS: dict[str, tuple[tuple[float, Action], ...]] = {
    "gamma_burst": (
        (6, _acknowledge(GREEKS, MANAGER)),
        (32.5, _silence_chains),
        (65, _end(GREEKS, "gamma is right again on the page and in the chains", MANAGER)),
    ),
    "massive_outage": (
        (2.5, _open_runbook),
        (4, _notify_channel),
        (7, _switch_to_tradier),
        (10, _add_note),
        (30, _resolve),
    ),
    "websocket_loss": (
        (3.5, _acknowledge(SOCKET, LEAD)),
        (30, _end(SOCKET, "the pages were refreshed; live prices are back", LEAD)),
    ),
    COSTS: (
        (190, _acknowledge(VARIANCE, MANAGER)),
        (200, _end(VARIANCE, "spreads are wider than the backtest assumes; it is run again with them", MANAGER)),
    ),
}
