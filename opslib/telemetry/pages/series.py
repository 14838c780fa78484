"""
Store increases and covered spans over time, so that any window can be queried quickly.

Times are microseconds since 1970; windows are (start, end].
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from opslib.foundation.clock import Window

MOST_WINDOWS = 400
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class FirstValue:
    """A counter's value in a page's first snapshot; it counts in windows that contain the page load."""

    loaded_at_us: int | None
    ts_us: int
    value: float


class Series:
    """The increases of one counter over all pages, in order of time."""

    def __init__(self) -> None:
        self.at: list[int] = []
        self.total: list[float] = [0]
        self.first_values: list[FirstValue] = []
        self.known = False
        self.missing_at: list[int] = []  # Times of snapshots without this counter.

    def step(self, ts_us: int, increase: float) -> None:
        """Add an increase; its time is not before that of the last one."""
        self.at.append(ts_us)
        self.total.append(self.total[-1] + increase)

    def increase(self, start_us: int, end_us: int) -> float:
        """Return the increase in (start, end], including first values of pages loaded in it."""
        if not self.first_values or self.first_values[-1].ts_us <= start_us:  # The last entry is the latest.
            return self._stepped(start_us, end_us)
        return self._stepped(start_us, end_us) + sum(
            b.value
            for b in self.first_values
            if start_us < b.ts_us <= end_us and b.loaded_at_us is not None and b.loaded_at_us > start_us
        )

    def increase_with_first_values(self, start_us: int, end_us: int) -> float:
        """Return the increase in (start, end], including first values of all pages first seen in it."""
        return self._stepped(start_us, end_us) + sum(b.value for b in self.first_values if start_us < b.ts_us <= end_us)

    def _stepped(self, start_us: int, end_us: int) -> float:
        return self.total[bisect_right(self.at, end_us)] - self.total[bisect_right(self.at, start_us)]

    def last_increase_us(self, at_us: int) -> int | None:
        """Return when it last increased, up to an instant."""
        i = bisect_right(self.at, at_us)
        return max(
            [*self.at[max(0, i - 1) : i], *(b.ts_us for b in self.first_values if b.ts_us <= at_us)], default=None
        )


class CoveredSpans:
    """The spans covered by snapshots: disjoint, in order, with their running total."""

    def __init__(self) -> None:
        self.starts: list[int] = []
        self.ends: list[int] = []
        self.before: list[int] = []  # Total of all earlier spans.

    def add(self, start: int, end: int) -> None:
        """Add the span from `start` to `end`."""
        i, j = bisect_left(self.ends, start), bisect_right(self.starts, end)
        if i < j:
            start, end = min(start, self.starts[i]), max(end, self.ends[j - 1])
        self.starts[i:j], self.ends[i:j] = [start], [end]
        del self.before[i:]
        for k in range(i, len(self.starts)):
            self.before.append(self.before[k - 1] + self.ends[k - 1] - self.starts[k - 1] if k else 0)

    def upto(self, at: int) -> int:
        """Return how much of the time up to an instant is covered."""
        i = bisect_right(self.starts, at)
        return self.before[i - 1] + min(at, self.ends[i - 1]) - self.starts[i - 1] if i else 0

    def spans(self) -> Iterator[tuple[int, int]]:
        """Return the spans in order."""
        return zip(self.starts, self.ends)


class Found:
    """
    Caches results per window until snapshots are added, since several rules query the same window.

    Attributes:
        open_at: An instant and the pages open at it; windows queried together end at the same instant.
    """

    def __init__(self) -> None:
        self.open_at: tuple[int | None, list[Any]] = None, []
        self._windows: dict[tuple[int, int], dict[str, Any]] = {}
        self._last: tuple[Window | None, dict[str, Any]] = None, {}

    def once(self, what: str, window: Window, find: Callable[[Window], T]) -> T:
        """Return the result for a window, computed once."""
        if self._last[0] is not window:  # One window is queried many times in a row.
            if len(self._windows) > MOST_WINDOWS:
                self._windows.clear()
            self._last = window, self._windows.setdefault((window.start_us, window.end_us), {})
        known = self._last[1]
        if what not in known:
            known[what] = find(window)
        found: T = known[what]
        return found
