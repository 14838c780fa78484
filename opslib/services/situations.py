"""
Tell how everything stood at a moment, and what set an alert off, as notifications of it need it.

Notifications know alerts, people and channels; what the dashboard shows and what the diagnosis finds comes to them
from here.
"""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta

from opslib.alerting import effects
from opslib.alerting.causes import NO_FAULT, OF_RULE
from opslib.alerting.notifications.message import Situation, Working
from opslib.alerting.notifications.planner import Cause, NotificationState, unknown_cause
from opslib.alerting.notifications.sender import Complaints
from opslib.dashboard import status
from opslib.dashboard.impact import things
from opslib.dashboard.status import Status
from opslib.foundation import clock, formatting
from opslib.foundation.config.rules import Rules
from opslib.foundation.config.settings import Settings
from opslib.foundation.errors import OpsError
from opslib.foundation.storage.database import Database
from opslib.foundation.storage.snapshot_columns import PROVIDERS
from opslib.runbooks.diagnosis import diagnosis

SEEN = timedelta(minutes=5)  # What still works is read from so far back.
SURE = 0.9  # A diagnosis at least so confident names the cause and the runbook in a notification.


class Situations:
    """Reads how everything stood at a moment, and what set an alert off."""

    def __init__(self, store: Database, settings: Settings, rules: Rules, complaints: Complaints):
        self._store, self._settings, self._rules, self._complaints = store, settings, rules, complaints

    def at(self, at: datetime) -> Situation | None:
        """How everything stood; None where that cannot be read."""
        if (view := self._view(at)) is None:
            return None

        def picture(panel: str) -> bytes:
            from opslib.dashboard import charts

            return charts.png(view.panel(panel).draw)

        return Situation(
            [Working(*thing) for thing in things(view)],
            view.probed.fallback if view.probed else "",
            (view.probed.serving(view.window.end_us) or "") if view.probed else "",
            picture,
        )

    def cause_at(self, at_us: int) -> Callable[[NotificationState], Cause | None]:
        """
        What sets an alert off, by the diagnosis of an instant.

        One that fails, or is not sure, names nothing and holds nothing up.
        """
        try:
            view = self._view(clock.instant(at_us))
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

    def _view(self, at: datetime) -> Status | None:
        try:
            return status.status(self._store, self._settings, self._rules, as_of=at, length=SEEN, known_at=at)
        except OpsError as problem:
            self._complaints.say("view", f"how everything stands cannot be read: {problem}")
            return None
