"""
Lay increases and covered stretches out along time, so that any window of them can be asked for at once.

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
    """What a page's first look already held: it counts in windows that saw the page being loaded."""

    loaded_at_us: int | None
    ts_us: int
    value: float


class Series:
    """The increases of one counter over all pages, in order of time."""

    def __init__(self) -> None:
        self.at: list[int] = []
        self.total: list[float] = [0]
        self.births: list[FirstValue] = []
        self.known = False
        self.untold: list[int] = []  # Looks that did not tell it.

    def step(self, ts_us: int, rise: float) -> None:
        """It rose, not before the last time it did."""
        self.at.append(ts_us)
        self.total.append(self.total[-1] + rise)

    def rise(self, start_us: int, end_us: int) -> float:
        """By how much did it rise in (start, end], with what pages loaded in it already held?"""
        if not self.births or self.births[-1].ts_us <= start_us:  # The last of them is the latest.
            return self._stepped(start_us, end_us)
        return self._stepped(start_us, end_us) + sum(
            b.value
            for b in self.births
            if start_us < b.ts_us <= end_us and b.loaded_at_us is not None and b.loaded_at_us > start_us
        )

    def came_to_light(self, start_us: int, end_us: int) -> float:
        """By how much did what is known of it grow in (start, end]?"""
        return self._stepped(start_us, end_us) + sum(b.value for b in self.births if start_us < b.ts_us <= end_us)

    def _stepped(self, start_us: int, end_us: int) -> float:
        return self.total[bisect_right(self.at, end_us)] - self.total[bisect_right(self.at, start_us)]

    def last_rise_us(self, at_us: int) -> int | None:
        """When did it last rise, up to an instant?"""
        i = bisect_right(self.at, at_us)
        return max([*self.at[max(0, i - 1) : i], *(b.ts_us for b in self.births if b.ts_us <= at_us)], default=None)


class CoveredSpans:
    """The stretches under our eyes: disjoint, in order, and how much they add up to."""

    def __init__(self) -> None:
        self.starts: list[int] = []
        self.ends: list[int] = []
        self.before: list[int] = []  # How much all earlier stretches add up to.

    def add(self, start: int, end: int) -> None:
        """From `start` to `end` was seen."""
        i, j = bisect_left(self.ends, start), bisect_right(self.starts, end)
        if i < j:
            start, end = min(start, self.starts[i]), max(end, self.ends[j - 1])
        self.starts[i:j], self.ends[i:j] = [start], [end]
        del self.before[i:]
        for k in range(i, len(self.starts)):
            self.before.append(self.before[k - 1] + self.ends[k - 1] - self.starts[k - 1] if k else 0)

    def upto(self, at: int) -> int:
        """How much of the time up to an instant was seen?"""
        i = bisect_right(self.starts, at)
        return self.before[i - 1] + min(at, self.ends[i - 1]) - self.starts[i - 1] if i else 0

    def spans(self) -> Iterator[tuple[int, int]]:
        """Each stretch, in order."""
        return zip(self.starts, self.ends)


class Found:
    """
    What was found of windows, until something more is laid in: several rules ask the same of one window.

    Attributes:
        open_at: The pages that are open at an instant, and the instant: all windows that are asked for together end at
            it.
    """

    def __init__(self) -> None:
        self.open_at: tuple[int | None, list[Any]] = None, []
        self._windows: dict[tuple[int, int], dict[str, Any]] = {}
        self._last: tuple[Window | None, dict[str, Any]] = None, {}

    def once(self, what: str, window: Window, find: Callable[[Window], T]) -> T:
        """What is found of a window, found once."""
        if self._last[0] is not window:  # One window is asked about many times in a row.
            if len(self._windows) > MOST_WINDOWS:
                self._windows.clear()
            self._last = window, self._windows.setdefault((window.start_us, window.end_us), {})
        known = self._last[1]
        if what not in known:
            known[what] = find(window)
        found: T = known[what]
        return found
