"""
Provide the status of a moment and the cause of an alert to notifications.

The notification code knows only alerts, people and channels. The status of the dashboard and the result of the
diagnosis reach it through this module.
"""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from opslib.alerting import causes, effects
from opslib.alerting.causes import NO_FAULT
from opslib.alerting.notifications.message import IncidentPage, Situation, Working
from opslib.alerting.notifications.planner import Cause, NotificationState, unknown_cause
from opslib.alerting.notifications.sender import Complaints
from opslib.dashboard import status
from opslib.dashboard.impact import serving, things
from opslib.dashboard.status import Status
from opslib.foundation import clock, formatting
from opslib.foundation.config.rules import Rules
from opslib.foundation.config.settings import Settings
from opslib.foundation.errors import OpsError
from opslib.foundation.storage.database import Database
from opslib.incidents import Incidents
from opslib.runbooks import incident_page
from opslib.runbooks.diagnosis import diagnosis

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STATUS_WINDOW = timedelta(minutes=5)
PICTURE_WINDOW = timedelta(hours=1)  # Long enough to show how it was before.
PICTURE_INCHES = (6.4, 2.7)  # As wide as a mail, so that its texts keep their size.


class Situations:
    """Reads the status of a moment, and the cause of an alert."""

    def __init__(self, store: Database, settings: Settings, rules: Rules, complaints: Complaints):
        self._store, self._settings, self._rules, self._complaints = store, settings, rules, complaints

    def at(self, at: datetime) -> Situation | None:
        """Return the status at a moment; None if it cannot be read."""
        if (view := self._view(at)) is None:
            return None

        def picture(panel: str, rule: str, since_us: int) -> bytes:
            from opslib.dashboard import charts

            shown = self._view(at, PICTURE_WINDOW) or view

            def draw(ax: "Axes") -> None:
                if rule in charts.OF_GREEKS:
                    charts.invalid_greeks(ax, shown.counters, shown.window, self._rules[rule])
                else:
                    shown.panel(panel).draw(ax)
                charts.with_beginning(ax, since_us, shown.window)

            return charts.png(draw, PICTURE_INCHES)

        return Situation(
            [Working(*thing) for thing in things(view)],
            view.probed.fallback if view.probed else "",
            serving(view) or "",
            picture,
            self._incident,
        )

    def cause_at(self, at_us: int) -> Callable[[NotificationState], Cause | None]:
        """
        Diagnose an instant, and return a function that gives the cause of an alert.

        A diagnosis that fails, or is not confident, gives no cause and delays no notification.
        """
        try:
            view = self._view(clock.instant(at_us))
            found = diagnosis.diagnose(view) if view else None
        # Any failure is logged, and people are notified nevertheless.
        except Exception as problem:
            self._complaints.say(
                "diagnosis",
                f"the diagnosis failed ({problem.__class__.__name__}: "
                f"{formatting.single_line(str(problem), 120)}); notifications are sent without a cause",
            )
            return unknown_cause
        self._complaints.over("diagnosis")
        each = found.each if found else []

        def cause_of(state: NotificationState) -> Cause | None:
            about = state.rule, state.subject, state.source
            if sure := effects.cause_of_alert(each, *about):
                return self._cause(sure, state)
            likely = effects.cause_of_alert(each, *about, least=effects.LIKELY)
            return Cause("", likely.in_words, "", "", "", "", likely=_name(likely)) if likely else None

        return cause_of

    def _cause(self, found: diagnosis.Diagnosis, state: NotificationState) -> Cause:
        """
        Turn a confident diagnosis into the cause of an alert.

        The first action is that of the alert's rule if the rule points at the cause, else that of the cause.
        """
        headline, rule = found.headline, effects.acting_rule(found, state.rule, state.subject, self._rules)
        first, advice = (
            effects.first_action(found, state.rule, state.subject, self._rules),
            effects.advice_of(found),
        )
        # If both providers are down for different causes, each cause is named with its action.
        if parts := effects.parts(found):
            each = " ".join(causes.headline(part.cause, part.subject) for part in parts)
            headline = f"{headline.rstrip('.')}: {each}"
        return Cause(
            _name(found),
            found.in_words,
            headline,
            first.runbook,
            rule.name if rule else "",
            rule.who if rule else "",
            first.action,
            advice.traders if advice else "",
            found.cause in NO_FAULT,
        )

    def _incident(self, alert: str) -> IncidentPage | None:
        """Return the incident of an alert; None if there is none yet. Its page is written within seconds."""
        incidents = Incidents(self._store, self._settings, self._rules)
        name = incidents.of_alerts().get(alert)
        if name is None:
            return None
        page = incidents.folder(name) / incident_page.NAME
        return IncidentPage(name, str(page.relative_to(self._settings.base)), incidents.read(name).owner)

    def _view(self, at: datetime, length: timedelta = STATUS_WINDOW) -> Status | None:
        try:
            return status.status(self._store, self._settings, self._rules, as_of=at, length=length, known_at=at)
        except OpsError as problem:
            self._complaints.say("view", f"the status cannot be read: {problem}")
            return None


def _name(found: diagnosis.Diagnosis) -> str:
    """Return a cause with its subject, by which alerts of one problem are grouped."""
    return f"{found.cause}{f' of {found.subject}' if found.subject else ''}"
