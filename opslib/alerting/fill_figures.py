"""
Evaluate the gap between fills and the backtest at an instant.

The window is the rule's; with too few trades it grows backwards.
"""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal

from opslib.alerting.verdicts import Figure, Finding, evaluate_figure
from opslib.foundation import clock, formatting
from opslib.foundation.clock import Window
from opslib.foundation.config.rules import Rule, Rules
from opslib.trading.pnl import pnl
from opslib.trading.pnl.backtest_variance import spread
from opslib.trading.pnl.pnl import Pnl
from opslib.trading.pnl.store import FillStore, Known, StoredFill

RULE = "backtest_variance"


def start_us(exited_us: Sequence[int], at_us: int, window: timedelta, rule: Rule) -> int | None:
    """
    Return the start of the trades that count at an instant.

    It is the window's start, or earlier if that is needed for `min_count` trades.

    Args:
        exited_us: When trades ended, in order, none of them after the instant.
        window: The window if it holds enough trades; it grows to the rule's `longest` at most.
        rule: The rule for the source fills.

    Returns:
        A time before the first trade that counts; None if no trade ended in the window.
    """
    begins_us = at_us - clock.span_us(window)
    if not exited_us or exited_us[-1] <= begins_us:
        return None
    longest_us = at_us - clock.span_us(max(window, rule.longest or window))
    enough = exited_us[-rule.min_count] - 1 if len(exited_us) >= max(rule.min_count, 1) else longest_us
    return min(begins_us, max(longest_us, enough))


def _in_words(count: int, since_us: int, at_us: int, window: timedelta, rule: Rule) -> str:
    """Return in words how far a window grew; empty if it did not."""
    if since_us >= at_us - clock.span_us(window):
        return ""
    if count < rule.min_count:
        return (
            f"all {count} trades of the last {formatting.number((at_us - since_us) / 86.4e9, digits=0)} days; "
            f"older trades do not count"
        )
    return (
        f"the newest {count} trades, since {formatting.moment(clock.instant(since_us + 1))}, because the last "
        f"{formatting.duration(window.total_seconds())} have fewer than {rule.min_count}"
    )


def counted_trades(found: Pnl, at: datetime, window: timedelta | None = None) -> Pnl | None:
    """
    Return the trades that count for the gap to the backtest at an instant.

    Args:
        found: Every trade up to then.
        window: None is the rule's window for fills.

    Returns:
        None if no trade with a backtest result ended in the window.
    """
    rule, at_us = found.rule.of("fills"), clock.micros(at)
    window = window or rule.window
    exited_us = sorted(
        clock.micros(pair.live.exited) for pair in found.pairs if pair.gap_pp is not None and pair.live.exited <= at
    )
    since_us = start_us(exited_us, at_us, window, rule)
    if since_us is None:
        return None
    inside = found.within(clock.instant(since_us), at)
    return replace(inside, span=_in_words(len(inside.gaps), since_us, at_us, window, rule))


def evaluate_gaps(rule: Rule, gaps: Iterable[Decimal | float], span: str = "") -> Finding:
    """
    Evaluate gaps by the rule ``backtest_variance`` for the source fills.

    With too few trades the finding is unknown.

    Args:
        rule: The rule of the table.
        gaps: The gaps of the trades, percentage points.
        span: The time range of the trades, in words, if it is not the rule's window.
    """
    own = rule.of("fills")
    found = spread(gaps, own.confidence)
    figure = (
        Figure(None, absent="no trade has a backtest result to compare with")
        if found is None
        else Figure(abs(found.mean), count=found.n, deviation=found.deviation)
    )
    return evaluate_figure(own, "app", "fills", figure._replace(span=span))


def finding(found: Pnl) -> Finding | None:
    """Evaluate the gaps to the backtest; None if there is no backtest."""
    return evaluate_gaps(found.rule, found.gaps, found.span) if found.has_backtest else None


def pnl_of_fills(
    filings: FillStore, rules: Rules, window: Window, known_us: int | None
) -> tuple[Pnl | None, list[StoredFill]]:
    """
    Return the P&L of all fills up to the end of a window, and their rows.

    The P&L is None if no fill is in the window or in the longest time over which fills are evaluated.
    """
    if not _any(filings, rules, window, known_us):
        return None, []
    rows = filings.written(0, window.end_us, known_us)
    return pnl.of_known(Known(rows), rules[RULE]), rows


def _any(filings: FillStore, rules: Rules, window: Window, known_us: int | None) -> bool:
    rule = rules[RULE].of("fills")
    reach_us = max(clock.span_us(rule.longest or rule.window), window.end_us - window.start_us)
    return filings.any(window.end_us - reach_us, window.end_us, known_us)


class FillReader:
    """Returns the same as `pnl_of_fills` for one window after another, and reads the fills only when some are new."""

    def __init__(self, filings: FillStore, rules: Rules):
        self._filings, self._rules = filings, rules
        self._extent: tuple[int, int] | None = None
        self._found: tuple[Pnl | None, list[StoredFill]] = None, []

    def read(self, window: Window) -> tuple[Pnl | None, list[StoredFill]]:
        """Return the P&L of all fills up to the end of a window, and their rows."""
        if not _any(self._filings, self._rules, window, None):
            return None, []
        extent = self._filings.extent(window.end_us)
        if extent != self._extent:
            self._extent, self._found = extent, pnl_of_fills(self._filings, self._rules, window, None)
        return self._found


class FillFigures:
    """
    The fills of an app up to an advancing instant, and the gaps of the round trips that ended by then.

    The trades are rebuilt only when another row counts.
    """

    def __init__(self, rules: Rules):
        self._rule = rules[RULE]
        self._waiting: deque[tuple[int, StoredFill]] = deque()
        self._known = Known()
        self._gaps: list[tuple[int, float]] = []
        self._last: tuple[list[float], str, Finding] | None = None

    def add(self, rows: Iterable[StoredFill], counts_from: Callable[[StoredFill], int]) -> None:
        """Add rows, each with the instant from which it counts."""
        self._waiting = deque(sorted([*self._waiting, *((counts_from(row), row) for row in rows)], key=lambda w: w[0]))

    def finding(self, at_us: int) -> list[Finding]:
        """
        Evaluate the gaps at an instant, later than the one before.

        The list is empty if no trade of the window has a backtest result.
        """
        came = False
        while self._waiting and self._waiting[0][0] <= at_us:
            self._known.add(self._waiting.popleft()[1])
            came = True
        if came and self._known.has_backtest:
            found = pnl.of_known(self._known, self._rule)
            self._gaps = sorted(
                (clock.micros(pair.live.exited), float(pair.gap_pp)) for pair in found.pairs if pair.gap_pp is not None
            )
        rule = self._rule.of("fills")
        known = [(exited_us, points) for exited_us, points in self._gaps if exited_us <= at_us]
        since_us = start_us([exited_us for exited_us, _ in known], at_us, rule.window, rule)
        if since_us is None:
            return []
        gaps = [points for exited_us, points in known if exited_us > since_us]
        grown = _in_words(len(gaps), since_us, at_us, rule.window, rule)
        if self._last is None or self._last[:2] != (gaps, grown):
            self._last = gaps, grown, evaluate_gaps(self._rule, gaps, grown)
        return [self._last[2]]
