"""
Judge the gap between fills and the backtest at an instant: over the rule's window, or further back where it holds too
few trades.
"""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal

from opslib.alerting.verdicts import Figure, Finding, judge
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
    From when on trades count at an instant: the window's start, or so far before it that `min_count` of them are in it.

    Args:
        exited_us: When trades ended, in order, none of them after the instant.
        window: As it is where it holds enough; it grows to the rule's `longest` at most.
        rule: As it is for fills.

    Returns:
        An instant before the first trade that counts; None where no trade ended in the window, so that there is nothing
        new to say.
    """
    begins_us = at_us - clock.span_us(window)
    if not exited_us or exited_us[-1] <= begins_us:
        return None
    longest_us = at_us - clock.span_us(max(window, rule.longest or window))
    enough = exited_us[-rule.min_count] - 1 if len(exited_us) >= max(rule.min_count, 1) else longest_us
    return min(begins_us, max(longest_us, enough))


def _in_words(count: int, since_us: int, at_us: int, window: timedelta, rule: Rule) -> str:
    """How far a window grew; empty where it did not."""
    if since_us >= at_us - clock.span_us(window):
        return ""
    if count < rule.min_count:
        return (
            f"of all {count} trades of the last {formatting.number((at_us - since_us) / 86.4e9, digits=0)} days, "
            f"further back none counts"
        )
    return (
        f"of the newest {count} trades, since {formatting.moment(clock.instant(since_us + 1))}: the last "
        f"{formatting.duration(window.total_seconds())} alone hold fewer than {rule.min_count}"
    )


def counted(found: Pnl, at: datetime, window: timedelta | None = None) -> Pnl | None:
    """
    The trades by which the gap to the backtest is judged at an instant.

    Args:
        found: Every trade up to then.
        window: None is the rule's own for fills.

    Returns:
        None where no trade with a backtest's figure ended in the window.
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


def judged(rule: Rule, gaps: Iterable[Decimal | float], span: str = "") -> Finding:
    """
    What do gaps amount to, by the rule ``backtest_variance`` as it is for fills?

    Too few trades are unknown: neither green nor red.

    Args:
        rule: The row of the table.
        gaps: Of the trades, percentage points.
        span: From when on trades count, in words, where the rule's window holds too few of them.
    """
    own = rule.of("fills")
    found = spread(gaps, own.confidence)
    figure = (
        Figure(None, absent="no trade has a backtest's figure to compare with")
        if found is None
        else Figure(abs(found.mean), count=found.n, deviation=found.deviation)
    )
    return judge(own, "app", "fills", figure._replace(span=span))


def finding(found: Pnl) -> Finding | None:
    """What the gaps to the backtest amount to by the rule; None where there is no backtest."""
    return judged(found.rule, found.gaps, found.span) if found.wanted else None


def traded(
    filings: FillStore, rules: Rules, window: Window, known_us: int | None
) -> tuple[Pnl | None, list[StoredFill]]:
    """
    What did all fills up to the end of a window come to, and the rows that say so?

    None where no fill is of it, nor of the longest time over which they are judged.
    """
    rule = rules[RULE].of("fills")
    reach_us = max(clock.span_us(rule.longest or rule.window), window.end_us - window.start_us)
    if not filings.any(window.end_us - reach_us, window.end_us, known_us):
        return None, []
    rows = filings.written(0, window.end_us, known_us)
    return pnl.of_known(Known(rows), rules[RULE]), rows


class FillFigures:
    """
    The fills of an app up to an instant, which moves on, and the gaps of the round trips that ended by then.

    What is not known yet changes nothing: the trades are made up anew only when another row counts.
    """

    def __init__(self, rules: Rules):
        self._rule = rules[RULE]
        self._waiting: deque[tuple[int, StoredFill]] = deque()
        self._known = Known()
        self._gaps: list[tuple[int, float]] = []
        self._last: tuple[list[float], str, Finding] | None = None

    def add(self, rows: Iterable[StoredFill], counts_from: Callable[[StoredFill], int]) -> None:
        """Lay in rows, each to count from an instant of its own."""
        self._waiting = deque(sorted([*self._waiting, *((counts_from(row), row) for row in rows)], key=lambda w: w[0]))

    def finding(self, at_us: int) -> list[Finding]:
        """
        What do the gaps amount to at an instant, later than the one before?

        Nothing where no trade of the window has a backtest's figure.
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
            self._last = gaps, grown, judged(self._rule, gaps, grown)
        return [self._last[2]]
