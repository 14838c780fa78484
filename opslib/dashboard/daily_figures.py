"""
Compute the guide's figures of one trading day, and their usual range from earlier days.

A day's figures are computed once and cached under what they depend on: the number of posts, the newest row, the rules.
When any of these changes, the figures are computed again.
"""

import itertools
import statistics
from datetime import date, datetime, timedelta
from typing import Any, NamedTuple

from opslib.dashboard import status
from opslib.dashboard.status import Status
from opslib.foundation import clock, formatting, market_calendar
from opslib.foundation.clock import Window
from opslib.foundation.config.limits import DayLimits
from opslib.foundation.config.rules import Rules
from opslib.foundation.config.settings import Settings
from opslib.foundation.market_calendar import Session
from opslib.foundation.storage.cache import Cache
from opslib.foundation.storage.database import Database
from opslib.foundation.version import VERSION
from opslib.telemetry.pages import indicators
from opslib.telemetry.pages.store import SnapshotStore
from opslib.trading.pnl.store import FillStore

SECTIONS = {
    # The guide's template: section, then figure: (words, unit).
    "availability": {
        "massive_uptime_pct": ("Massive Uptime", "%"),
        "tradier_uptime_pct": ("Tradier Uptime", "%"),
        "system_errors": ("System Errors", ""),
    },
    "data_quality": {
        "greeks_valid_rate_pct": ("Greeks Valid Rate", "%"),
        "iv_anomalies": ("IV Anomalies", ""),
        "gamma_zero_errors": ("Gamma=0 Errors", ""),
    },
    "trading": {
        "total_trades": ("Total Trades", ""),
        "gross_pnl_pct": ("Gross P&L", "%"),
        "net_pnl_pct": ("Net P&L", "%"),
        "backtest_variance_pp": ("Backtest Variance", "points"),
    },
}
MEANS = ("gross_pct", "net_pct", "backtest_variance_pp")
HOUR = timedelta(hours=1)
FORM = 3  # The format of cached figures; another format is computed again.
WORDS = {
    name: words for figures in SECTIONS.values() for name, words in figures.items()
}  # Every figure: (words, unit).


def percent(value: float | None) -> float | None:
    """Round to two decimals, without a negative zero."""
    return None if value is None else round(value, 2) + 0.0


def figures(view: Status) -> dict[str, dict[str, float | None]]:
    """Return the figures of the guide's template for one window."""
    f = view.figures

    def ratio(v: float | None) -> float | None:
        return None if v is None else percent(v * 100)

    return {
        "availability": {
            "massive_uptime_pct": ratio(f["providers"]["massive"]["availability"]),
            "tradier_uptime_pct": ratio(f["providers"]["tradier"]["availability"]),
            "system_errors": f["system"]["errors"],
        },
        "data_quality": {
            "greeks_valid_rate_pct": ratio(f["greeks"]["valid_rate"]),
            "iv_anomalies": f["greeks"]["iv_anomalies"],
            "gamma_zero_errors": f["greeks"]["gamma_zero"],
        },
        "trading": {
            "total_trades": f["pnl"]["trades"],
            "gross_pnl_pct": percent(f["pnl"]["gross_pct"]),
            "net_pnl_pct": percent(f["pnl"]["net_pct"]),
            "backtest_variance_pp": percent(f["pnl"]["backtest_variance_pp"]),
        },
    }


class Day(NamedTuple):
    """
    One trading day in figures.

    Attributes:
        session: The trading session.
        figures: The template's figures by name; None is unknown.
        counts: The counts behind them: requests and failures of each provider, validations, valid ones, errors, trades.
        means: Mean gross and net result of a trade, and the backtest variance, unrounded.
        hours: The same counts for each hour of the session, each with ``from``.
        coverage: Snapshots received of those expected, 0 to 1; None where none was expected.
    """

    session: Session
    figures: dict[str, float | None]
    counts: dict[str, int | None]
    means: dict[str, float | None]
    hours: list[dict[str, Any]]
    coverage: float | None

    @property
    def day(self) -> date:
        """The date in New York."""
        return self.session.day

    @property
    def content(self) -> list[Any]:
        """All values of the day, for evidence: the same data gives the same content in any database."""
        return [str(self.day), self.figures, self.counts, self.means, self.hours, self.coverage]


class DailyFigures:
    """Compute the figures of trading days, as known at a moment (None: all that is known)."""

    def __init__(
        self, store: Database, settings: Settings, rules: Rules, cache: Cache, known_at: datetime | None = None
    ):
        self._store, self._settings, self._rules, self._cache, self._known_at = (
            store,
            settings,
            rules,
            cache,
            known_at,
        )

    def before(self, day: date) -> list[Day]:
        """
        Return the trading days with data before a day, oldest first.

        Only as many sessions back as the usual range needs.
        """
        count = int(self._rules.days.usual_days)
        sessions: list[Session] = []
        first = SnapshotStore(self._store).first_ts(self._settings.app)
        while first is not None and len(sessions) < count:
            session = market_calendar.previous_session(day)
            day = session.day
            if session.closes <= clock.instant(first):
                break
            sessions.append(session)
        return [found for session in reversed(sessions) if (found := self.of(session)) is not None]

    def of(self, session: Session) -> Day | None:
        """Return the figures of a trading day; None without any data."""
        dependencies = self._dependencies(session)
        if dependencies is None:
            return None
        cached = self._cache.once(
            str(session.day),
            dependencies,
            lambda: _computed(status.view(self._store, self._settings, self._rules, session.window, self._known_at)),
        )
        return Day(session, cached["figures"], cached["counts"], cached["means"], cached["hours"], cached["coverage"])

    def _dependencies(self, session: Session) -> list[Any] | None:
        """
        Return what a day's figures depend on; None without any data.

        The session's hours, its posts and those of the night before, its fills, the wired fields, the rules.
        """
        known_us = None if self._known_at is None else clock.micros(self._known_at)
        window = Window(market_calendar.previous_session(session.day).closes, session.closes)
        count, newest = SnapshotStore(self._store).extent(self._settings.app, window.start_us, window.end_us, known_us)
        fills_extent = FillStore(self._store, self._settings.app).extent(session.window.end_us, known_us)
        if not count and not FillStore(self._store, self._settings.app).any(
            session.window.start_us, session.window.end_us, known_us
        ):
            return None
        wired = sorted(SnapshotStore(self._store).wired(self._settings.app, known_us))
        return [
            FORM,
            clock.micros(session.opens),
            clock.micros(session.closes),
            count,
            newest,
            *fills_extent,
            wired,
            sorted(self._settings.wired),
            self._settings.post_every_s,
            self._rules.hash,
            VERSION,
        ]


def _computed(view: Status) -> dict[str, Any]:
    found = figures(view)
    hours = [_counts(view, hour) | {"from": formatting.iso(hour.start)} for hour in _hours(view.window)]
    means = {name: view.figures["pnl"][name] for name in MEANS}
    return {
        "figures": {name: value for section in found.values() for name, value in section.items()},
        "counts": _counts(view, view.window),
        "means": means,
        "hours": hours,
        "coverage": view.coverage,
    }


def _hours(window: Window) -> list[Window]:
    edges = [window.start]
    while edges[-1] < window.end:
        edges.append(min(edges[-1] + HOUR, window.end))
    return [Window(a, b) for a, b in itertools.pairwise(edges)]


def _counts(view: Status, window: Window) -> dict[str, int | None]:
    """Return the pages' counts of a window; trades from the fills where there are any."""
    providers, greeks = indicators.providers(view.counters, window), indicators.greeks(view.counters, window)
    found = {
        f"{provider}_{what}": providers[provider][what]
        for provider in ("massive", "tradier")
        for what in ("requests", "failures")
    }
    found |= {name: greeks[name] for name in ("validations", "valid", "gamma_zero", "iv_anomalies")}
    trades = view.figures["pnl"]["trades"] if window == view.window else view.counters.increase("trades", window)
    return found | {"errors": view.counters.increase("errors", window), "trades": trades}


class Baseline(NamedTuple):
    """
    The usual range of a figure, from earlier days.

    Attributes:
        n: The number of days that have the figure.
        middle: Their median; None without any.
        low, high: The usual range; None with too few days.
    """

    n: int
    middle: float | None = None
    low: float | None = None
    high: float | None = None

    def outside(self, value: float | None) -> bool | None:
        """Return whether a value is outside the usual range; None where that is unknown."""
        return None if value is None or self.low is None or self.high is None else not self.low <= value <= self.high


def usual(days: list[Day], figure: str, limits: DayLimits) -> Baseline:
    """Compute the usual range of a figure from earlier days."""
    known = [value for day in days if (value := day.figures[figure]) is not None]
    if len(known) < limits.least_days:
        return Baseline(len(known), statistics.median(known) if known else None)
    more = max(limits.beyond * (max(known) - min(known)), 1.0 if WORDS[figure][1] == "" else 0.0)
    return Baseline(len(known), statistics.median(known), min(known) - more, max(known) + more)
