"""
Give notebooks and the command line one object for one app, with a method for each thing they show.

`ops.connect()` returns a `Desk`: a workspace with methods. Each method is one call of the package that does the work.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import date, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from opslib.alerting.notifications import NotificationStore
from opslib.dashboard import Status, alert_log, status
from opslib.dashboard.alert_log import AlertLog
from opslib.dashboard.probe_details import ProbeDetails
from opslib.foundation import clock, formatting
from opslib.foundation.config import settings
from opslib.foundation.config.workspace import Workspace
from opslib.incidents import Incidents
from opslib.jobs import jupyterlab
from opslib.reports import daily
from opslib.reports.daily import Daily
from opslib.telemetry import Markers
from opslib.telemetry.pages.store import SnapshotStore

if TYPE_CHECKING:
    import pandas

    from opslib.dashboard.chain_details import ChainView, ChainViews
    from opslib.dashboard.doctor import Examination
    from opslib.dashboard.pnl_details import PnlView
    from opslib.reports.home_view import HomeView
    from opslib.reports.periodic import PeriodicReport
    from opslib.reports.postmortem.document import Postmortem

Moment = str | datetime | None  # ISO 8601; New York without an offset; None or empty is now, or all data.


@dataclass(frozen=True)
class Desk(Workspace):
    """The workspace of one app, with the methods that notebooks call."""

    @cached_property
    def notifications(self) -> NotificationStore:
        """Notifications, acknowledgements and silences."""
        return NotificationStore(self.store, self.settings.app)

    @cached_property
    def incidents(self) -> Incidents:
        """The incidents."""
        return Incidents(self.store, self.settings, self.rules)

    @cached_property
    def marks(self) -> Markers:
        """Markers: deployments, restarts, notes."""
        return Markers(self.store, self.settings)

    def status(self, as_of: Moment = None, window: str = "1h", known_at: Moment = None) -> Status:
        """
        Return the panels and alerts as of a time.

        Args:
            as_of: The end of the window.
            window: Its length, such as ``1h``.
            known_at: Use only data that was stored by this time.
        """
        return status.status_of(self, as_of, window, known_at)

    def probe_details(self, as_of: Moment = None, window: str = "1h", known_at: Moment = None) -> ProbeDetails:
        """Return the probes in detail; arguments as for `status`."""
        return ProbeDetails(self.status(as_of, window, known_at))

    def alerts(
        self,
        as_of: Moment = None,
        window: str = "7d",
        known_at: Moment = None,
        *,
        since: Moment = None,
        replay: bool = False,
        progress: Callable[[Iterable[Any]], Iterable[Any]] = lambda items: items,
    ) -> AlertLog:
        """Return the history of alerts; see `alert_log.log_of`."""
        from opslib.runbooks import diagnose

        return alert_log.log_of(
            self,
            as_of,
            window,
            known_at,
            since=since,
            replay=replay,
            progress=progress,
            diagnose=lambda view: diagnose(view).each,
        )

    def pnl(
        self,
        fills: str | Path | None = None,
        backtest: str | Path | None = None,
        costs: str = "real",
        as_of: Moment = None,
        window: str = "",
        known_at: Moment = None,
    ) -> "PnlView":
        """Return the result of trades against the backtest; see `pnl_details.accuracy_of`."""
        from opslib.dashboard import pnl_details

        return pnl_details.accuracy_of(self, fills, backtest, costs, as_of, window, known_at)

    def daily_report(self, day: str | date | None = None, as_of: Moment = None, known_at: Moment = None) -> Daily:
        """Return the report of a trading day (default: the last closed one)."""
        return daily.daily_of(self, day, as_of, known_at)

    def review(self, name: str, period: str = "", as_of: Moment = None, known_at: Moment = None) -> "PeriodicReport":
        """Return a report over a period; see `publishing.review`."""
        from opslib.reports import publishing

        return publishing.review(self, name, period, as_of, known_at)

    def postmortem(self, incident: str, upto: str = "") -> "Postmortem":
        """Return the postmortem of an incident, from its record up to an entry such as ``E42`` (empty: all)."""
        from opslib.reports.postmortem import document

        return document.of_incident(self.incidents.find(incident), upto)

    def greeks(
        self, what: str | Path, provider: str = "", as_of: Moment = None, known_at: Moment = None
    ) -> "ChainView | ChainViews":
        """Return the quality of a chain, from a file or of a symbol; see `chain_sources.chain_of`."""
        from opslib.dashboard import chain_sources

        return chain_sources.chain_of(self, what, provider, as_of, known_at)

    def home(self) -> "HomeView":
        """Return Home: what is broken now, and what to open first; its links open in the JupyterLab of `ops lab`."""
        from opslib.reports.home_view import HomeView

        return HomeView(self, lambda place: quote(jupyterlab.link(place) or ""))

    def doctor(self) -> "Examination":
        """Check that everything configured can be reached."""
        from opslib.dashboard import doctor

        return doctor.examine(self.settings, self.store, self.rules)

    def samples(self, as_of: Moment = None, window: str = "1h", known_at: Moment = None) -> "pandas.DataFrame":
        """Return the snapshots of a window as a frame; see `status.frame`."""
        return status.frame(self.status(as_of, window, known_at))

    def __repr__(self) -> str:
        first, last = (
            SnapshotStore(self.store).first_ts(self.settings.app),
            SnapshotStore(self.store).last_snapshot(self.settings.app, 2**62, None),
        )
        if first is None or last is None:
            return f"{self.settings.app}: no snapshots yet"
        return (
            f"{self.settings.app}: snapshots from {formatting.moment(clock.instant(first))} to "
            f"{formatting.moment(clock.instant(last.ts_us))}"
        )


def open(app: str | None = None, home: str | Path | None = None, environ: dict[str, Any] | None = None) -> Desk:
    """Open the desk of an app; see `settings.load`."""
    return Desk(settings.load(home, app, environ))
