"""
Give the sender of notifications what it asks of other packages: how everything stood, the likely cause, what is due,
the incidents.

The sender itself knows alerts, people and channels. Here its messages get their situation, and before and after it
plans the runs that were due are watched and alerts are followed into incidents.
"""

import random
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from functools import cached_property

from opslib.alerting import effects
from opslib.alerting.causes import NO_FAULT, OF_RULE
from opslib.alerting.notifications.planner import Cause, NotificationState, unknown_cause
from opslib.alerting.notifications.sender import Complaints, Sender
from opslib.alerting.notifications.store import NotificationStore
from opslib.dashboard import status
from opslib.dashboard.impact import Thing, things
from opslib.dashboard.status import Status
from opslib.foundation import clock, formatting
from opslib.foundation.config.contacts import Contacts
from opslib.foundation.config.rules import Rules
from opslib.foundation.config.settings import Settings
from opslib.foundation.errors import IncidentError, OpsError, SettingsError, UsageError
from opslib.foundation.storage.database import Database
from opslib.foundation.storage.snapshot_columns import PROVIDERS
from opslib.incidents.lifecycle import Incidents
from opslib.jobs.due import DueJobs
from opslib.runbooks.diagnosis import diagnosis

SEEN = timedelta(minutes=5)  # What still works is read from so far back.
DUE_EVERY = timedelta(seconds=10)  # So often it is looked whether what was due was made.
SURE = 0.9  # A diagnosis at least so confident names the cause and the runbook in a notification.


class SituationOf:
    """How everything stood at the end of a view, as a notification needs it."""

    def __init__(self, view: Status):
        self._view = view

    @cached_property
    def things(self) -> list[Thing]:
        """What people trade by, and whether it works."""
        return things(self._view)

    @property
    def fallback(self) -> str:
        """The provider that serves where Massive does not; empty where none is configured, or nobody probed."""
        return self._view.probed.fallback if self._view.probed else ""

    @property
    def serving(self) -> str:
        """Which provider serves: its name, or nobody; empty where nobody knows."""
        return (self._view.probed.serving(self._view.window.end_us) or "") if self._view.probed else ""

    def picture(self, panel: str) -> bytes:
        """A panel as it looked then, as PNG."""
        from opslib.dashboard import charts

        return charts.png(self._view.panel(panel).draw)


class Situations:
    """Reads how everything stood at a moment, and what set an alert off."""

    def __init__(self, store: Database, settings: Settings, rules: Rules, complaints: Complaints):
        self._store, self._settings, self._rules, self._complaints = store, settings, rules, complaints

    def at(self, at_us: int) -> SituationOf | None:
        """How everything stood; None where that cannot be read."""
        view = self._view(at_us)
        return SituationOf(view) if view else None

    def cause_at(self, at_us: int) -> Callable[[NotificationState], Cause | None]:
        """
        What sets an alert off, by the diagnosis of an instant.

        One that fails, or is not sure, names nothing and holds nothing up.
        """
        try:
            view = self._view(at_us)
            found = diagnosis.diagnose(view) if view else None
        # Whatever it is, it is said, and people are notified all the same.
        except Exception as problem:
            self._complaints.say(
                "diagnosis",
                f"what sets alerts off could not be diagnosed ({problem.__class__.__name__}: "
                f"{formatting.single_line(str(problem), 120)}); the notification goes out without it",
            )
            return unknown_cause
        self._complaints.over("diagnosis")
        sure = [d for d in found.each if d.confidence >= SURE] if found else []

        def cause_of(notice: NotificationState) -> Cause | None:
            by = next(
                (d for d in sure if effects.sets_off(d.cause, d.subject, notice.rule, notice.subject, notice.source)),
                None,
            )
            return self._cause(by, notice) if by else None

        return cause_of

    def _cause(self, found: diagnosis.Diagnosis, notice: NotificationState) -> Cause:
        """
        A sure diagnosis as the cause of an alert.

        What to do first is the alert's own where its rule points at the cause, else the cause's.
        """
        about, own = f" of {found.subject}" if found.subject else "", self._rules.rules.get(notice.rule)
        points = (
            own is not None
            and OF_RULE.get(own.name) == found.cause
            and own.runbooks.get(notice.subject) == found.runbook
        )
        rule = own if points else effects.leading_rule(found.cause, found.subject, found.runbook or "", self._rules)
        headline, advice = found.headline, effects.advice(found.cause, found.subject)
        # That no provider serves is two troubles at once where they are not alike: each is named, and what to do about
        # it.
        parts = (
            [replace(found, cause=o.cause, subject=o.subject) for o in found.also if o.subject in PROVIDERS]
            if found.cause == diagnosis.BOTH
            else []
        )
        if advice and len({part.cause for part in parts}) > 1:
            headline = f"{headline.rstrip('.')}: {' '.join(part.headline for part in parts)}"
            each = [
                f"{str(part.subject).title()}: {own_advice.action}"
                for part in parts
                if (own_advice := effects.advice(part.cause, part.subject, other=False))
            ]
            advice = advice._replace(action=" ".join(each) or advice.action)
        return Cause(
            f"{found.cause}{about}",
            found.words,
            headline,
            found.runbook or "",
            rule.name if rule else "",
            rule.who if rule else "",
            advice.action if advice else "",
            advice.traders if advice else "",
            found.cause in NO_FAULT,
        )

    def _view(self, at_us: int) -> Status | None:
        at = clock.instant(at_us)
        try:
            return status.status(self._store, self._settings, self._rules, as_of=at, length=SEEN, known_at=at)
        except OpsError as problem:
            self._complaints.say("view", f"how everything stands cannot be read: {problem}")
            return None


class Tasks:
    """What is done around planning: the runs that were due are watched, and alerts are followed into incidents."""

    def __init__(
        self,
        store: Database,
        settings: Settings,
        rules: Rules,
        staff: Contacts,
        now: Callable[[], datetime],
        complaints: Complaints,
    ):
        self._store, self._settings, self._staff, self._now, self._complaints = store, settings, staff, now, complaints
        self.chronicle, self._dispatch = Incidents(store, settings, rules), NotificationStore(store, settings.app)
        self._due_at: datetime | None = None

    def watch_due(self) -> None:
        """Whoever makes what is due may be dead: what it did not make is said from here."""
        now = self._now()
        if self._due_at is not None and timedelta() <= now - self._due_at < DUE_EVERY:
            return
        try:
            agenda = DueJobs.of(self._store, self._settings, self._staff)
            if agenda.since() and (found := agenda.told(now, self._dispatch.said_of_schedule())):
                self._dispatch.heard(found)
            self._complaints.over("schedule")
        except (SettingsError, UsageError) as problem:
            self._complaints.say("schedule", str(problem))
        self._due_at = now

    def follow_alerts(self) -> None:
        """What people were notified of has an incident, and what became of it since is on its record."""
        try:
            self.chronicle.follow_alerts()
            self._complaints.over("record")
        except IncidentError as problem:
            self._complaints.say("record", str(problem))


def notifier(
    store: Database,
    settings: Settings,
    rules: Rules,
    staff: Contacts,
    now: Callable[[], datetime] = clock.now,
    chance: random.Random | None = None,
    beating: Callable[[], bool] = lambda: False,
) -> Sender:
    """The sender of one app's notifications, with its situations and tasks; arguments as of `Sender`."""
    complaints = Complaints(settings)
    tasks = Tasks(store, settings, rules, staff, now, complaints)
    return Sender(
        store,
        settings,
        rules,
        staff,
        now,
        chance,
        beating,
        Situations(store, settings, rules, complaints),
        (tasks.watch_due,),
        (tasks.follow_alerts,),
        complaints,
    )
