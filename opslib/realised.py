"""
This module knows what the backtest variance of fills comes to at an instant, as an alert asks for it, and nothing else.
"""

from collections import deque
from collections.abc import Callable, Iterable
from datetime import timedelta

from opslib import clock, pnl
from opslib.fills import Fill, Promise
from opslib.filings import Filed
from opslib.rules import Rules
from opslib.variance import judged
from opslib.verdicts import Finding

RULE = "backtest_variance"


class Realised:
    """
    The fills of an app up to an instant, which moves on, and the gaps of the round trips that ended in the rule's window.

    What is not known yet changes nothing: the trades are made up anew only when another row counts.
    """

    def __init__(self, rules: Rules):
        self._rule = rules[RULE]
        self._waiting: deque[tuple[int, Filed]] = deque()
        self._fills, self._promises = list[Fill](), dict[str, Promise]()
        self._gaps: list[tuple[int, float]] = []
        self._told: tuple[list[float], Finding] | None = None

    def add(self, rows: Iterable[Filed], counts_from: Callable[[Filed], int]) -> None:
        """Lay in rows, each to count from an instant of its own."""
        self._waiting = deque(sorted([*self._waiting, *((counts_from(row), row) for row in rows)], key=lambda w: w[0]))

    def finding(self, at_us: int) -> list[Finding]:
        """What do the gaps amount to at an instant, later than the one before? Nothing where no trade of the window has a backtest's figure."""
        came = False
        while self._waiting and self._waiting[0][0] <= at_us:
            told = self._waiting.popleft()[1].told
            came = True
            if isinstance(told, Fill):
                self._fills.append(told)
            else:
                self._promises[told.lot] = told
        if came and self._promises:
            found = pnl.of(sorted(self._fills, key=lambda f: f.at), self._rule, promises=self._promises)
            self._gaps = [(clock.micros(pair.live.exited), float(pair.gap_pp)) for pair in found.pairs if pair.gap_pp is not None]
        since_us = at_us - clock.span_us(self._window)
        gaps = [gap for exited_us, gap in self._gaps if since_us < exited_us <= at_us]
        if not gaps:
            return []
        if self._told is None or self._told[0] != gaps:
            self._told = gaps, judged(self._rule, gaps)
        return [self._told[1]]

    @property
    def _window(self) -> timedelta:
        return self._rule.of("fills").window
