"""
Compute the guide's figures of one trading day, and what is usual for them by the days before.

A day's figures are computed once and remembered, under what they rest on: so many posts, up to which row, by which
limits. Whatever comes later is another basis, and is computed anew.
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
FORM = 3  # Of what is remembered: another form is computed anew.
WORDS = {name: told for figures in SECTIONS.values() for name, told in figures.items()}  # Every figure: (words, unit).


def percent(value: float | None) -> float | None:
    """To two decimals, without a negative zero."""
    return None if value is None else round(value, 2) + 0.0


def figures(view: Status) -> dict[str, dict[str, float | None]]:
    """The template's figures of one window."""
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
        session: Which.
        figures: The template's, by name; None is unknown.
        counts: What they are made of: requests and failures of each provider, validations, valid ones, errors, trades.
        means: Gross and net result of a trade, and the backtest's variance, unrounded.
        hours: The same counts of each hour of the session, from the open on, each with ``from``.
        coverage: Looks received of those expected, 0 to 1; None where none was.
    """

    session: Session
    figures: dict[str, float | None]
    counts: dict[str, int | None]
    means: dict[str, float | None]
    hours: list[dict[str, Any]]
    coverage: float | None

    @property
    def day(self) -> date:
        """Its date in New York."""
        return self.session.day

    @property
    def told(self) -> list[Any]:
        """All that it says, for evidence: the same from the same facts, in whatever store."""
        return [str(self.day), self.figures, self.counts, self.means, self.hours, self.coverage]


class DailyFigures:
    """The trading days of one app, as known at a moment (None: all that is known)."""

    def __init__(
        self, store: Database, settings: Settings, rules: Rules, memory: Cache, known_at: datetime | None = None
    ):
        self._store, self._settings, self._rules, self._memory, self._known_at = (
            store,
            settings,
            rules,
            memory,
            known_at,
        )

    def before(self, day: date) -> list[Day]:
        """
        The trading days before a day of which anything was seen, oldest first, of as many sessions back as a usual day
        needs.
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
        """A trading day in figures; None where nothing was seen of it."""
        rests_on = self._rests_on(session)
        if rests_on is None:
            return None
        kept = self._memory.once(
            str(session.day),
            rests_on,
            lambda: _computed(status.view(self._store, self._settings, self._rules, session.window, self._known_at)),
        )
        return Day(session, kept["figures"], kept["counts"], kept["means"], kept["hours"], kept["coverage"])

    def _rests_on(self, session: Session) -> list[Any] | None:
        """
        What a day's figures rest on: when it was open, its posts and those of the night before, its fills, what is
        wired, the limits; None where nothing was seen of it.
        """
        known_us = None if self._known_at is None else clock.micros(self._known_at)
        window = Window(market_calendar.previous_session(session.day).closes, session.closes)
        count, newest = SnapshotStore(self._store).extent(self._settings.app, window.start_us, window.end_us, known_us)
        filed = FillStore(self._store, self._settings.app).extent(session.window.end_us, known_us)
        if not count and not FillStore(self._store, self._settings.app).any(
            session.window.start_us, session.window.end_us, known_us
        ):
            return None
        alive = sorted(SnapshotStore(self._store).alive(self._settings.app, known_us))
        return [
            FORM,
            clock.micros(session.opens),
            clock.micros(session.closes),
            count,
            newest,
            *filed,
            alive,
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
    """What was counted in a window, by the pages; trades by the fills, where there are any of the whole view."""
    providers, greeks = indicators.providers(view.tape, window), indicators.greeks(view.tape, window)
    found = {
        f"{provider}_{what}": providers[provider][what]
        for provider in ("massive", "tradier")
        for what in ("requests", "failures")
    }
    found |= {name: greeks[name] for name in ("validations", "valid", "gamma_zero", "iv_anomalies")}
    trades = view.figures["pnl"]["trades"] if window == view.window else view.tape.rise("trades", window)
    return found | {"errors": view.tape.rise("errors", window), "trades": trades}


class Baseline(NamedTuple):
    """
    What is usual for a figure, by the days before.

    Attributes:
        n: So many days have it.
        middle: Their median; None of none.
        low, high: Between which a day is usual; None of too few days.
    """

    n: int
    middle: float | None = None
    low: float | None = None
    high: float | None = None

    def outside(self, value: float | None) -> bool | None:
        """Is a value not usual? None where that cannot be told."""
        return None if value is None or self.low is None or self.high is None else not self.low <= value <= self.high


def usual(days: list[Day], figure: str, limits: DayLimits) -> Baseline:
    """What was usual for a figure on some days?"""
    known = [value for day in days if (value := day.figures[figure]) is not None]
    if len(known) < limits.least_days:
        return Baseline(len(known), statistics.median(known) if known else None)
    more = max(limits.beyond * (max(known) - min(known)), 1.0 if WORDS[figure][1] == "" else 0.0)
    return Baseline(len(known), statistics.median(known), min(known) - more, max(known) + more)
