"""
Convert snapshots into increases of counters over any window.

The app's counters are cumulative since each page load. A `CounterHistory` converts them once into increases, per page
and aware of resets. For any window it then returns the increases, the coverage, and the state at its end. Windows are
(start, end]; a window's increase begins at the last snapshot at or before its start. Counts are exact integers.
"""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from operator import attrgetter
from typing import Any

from opslib.foundation import clock, market_calendar
from opslib.foundation.clock import SECOND, Window
from opslib.foundation.config.limits import PageLimits
from opslib.foundation.storage.database import Database
from opslib.foundation.storage.new_rows import NewRows
from opslib.foundation.storage.schema import SNAPSHOTS
from opslib.foundation.storage.snapshot_columns import COUNTERS, PROVIDERS, SnapshotRow
from opslib.telemetry.pages.page_loads import SUMS, PageLoad, PageLoadTracker, in_order, running_sums
from opslib.telemetry.pages.series import CoveredSpans, FirstValue, Found, Series
from opslib.telemetry.pages.store import SnapshotStore

_GROUPS = {
    group: tuple(c.name for c in COUNTERS if c.group == group)
    for group in ("massive", "tradier", "greeks", "pnl", "system")
}
_OF_GROUP = {group: attrgetter(names[0], *names) for group, names in _GROUPS.items()}
_ZEROED_BY_RESET = ("greeks", "pnl", "system")  # The app's partial reset() leaves the providers as they are.


class CounterHistory:
    """
    The snapshots of one app over some time, which can be queried for any window inside it.

    Snapshots may be added in any order. The result for a window depends only on the snapshots, not on the order or the
    steps in which they were added.

    Attributes:
        how: The limits that separate one page load from another.
        seq: The newest row used, in the order of writing; 0 for none. Views record it.
        wired: Fields known to be wired (see `snapshot.WIRED_FIELDS`).
        last_before_us: When the last snapshot before this history was; None if there was none.
    """

    def __init__(
        self,
        how: PageLimits,
        post_every_s: float,
        *,
        wired: frozenset[str] = frozenset(),
        last_before_us: int | None = None,
    ):
        self.how, self._post_every_s, self.wired, self.last_before_us = how, post_every_s, wired, last_before_us
        self.seq = 0
        self._snapshots: list[SnapshotRow] = []
        self._reset()

    def _reset(self) -> None:
        self._tracker = PageLoadTracker(self.how, self._post_every_s)
        self._last_values: dict[int, dict[str, float]] = {}
        self._series = (
            {c.name: Series() for c in COUNTERS}
            | {s: Series() for s in SUMS}
            | {f"unknown {s}": Series() for s in SUMS}
        )
        self._covered, self._bridged = CoveredSpans(), CoveredSpans()
        self._all_ts: list[int] = []
        self._found = Found()

    def add(self, snapshots: Iterable[SnapshotRow]) -> None:
        """Add snapshots, in any order."""
        fresh = in_order(snapshots)
        if not fresh:
            return
        self._found = Found()
        self.seq = max(self.seq, max(snapshot.seq for snapshot in fresh))
        if self._snapshots and in_order([self._snapshots[-1], fresh[0]])[0] is fresh[0]:
            fresh = in_order([*self._snapshots, *fresh])
            self._snapshots = []
            self._reset()
        self._snapshots += fresh
        for snapshot in fresh:
            page = self._tracker.take(snapshot)
            if page and not self._tracker.needs_rebuild:
                self._add_increases(page, len(page.snapshots) - 1)
        if self._tracker.needs_rebuild:
            tracker = self._tracker
            tracker.rebuild()
            self._reset()
            self._tracker = tracker
            shown = sorted(
                ((page, i) for page in tracker.pages for i in range(len(page.snapshots))),
                key=lambda p: (
                    p[0].snapshots[p[1]].ts_us,
                    p[0].snapshots[p[1]].page_clock_ms,
                    p[0].snapshots[p[1]].digest,
                ),
            )
            for page, i in shown:
                self._add_increases(page, i)

    def add_next(self, snapshots: Iterable[SnapshotRow]) -> bool:
        """
        Add snapshots that are the next ones of the known page loads.

        Returns:
            False where one is not: then what was found may rest on snapshots before this history.
        """
        pages = list(self.pages)
        self.add(snapshots)
        return pages == self.pages  # A snapshot that came late makes new ones.

    @property
    def pages(self) -> list[PageLoad]:
        """The page loads found, in order of their first snapshot."""
        return self._tracker.pages

    def _add_increases(self, page: PageLoad, i: int) -> None:
        """Add the increases of one snapshot of a page load."""
        snapshot, before = page.snapshots[i], page.snapshots[i - 1] if i else None
        last = self._last_values.setdefault(id(page), {})
        began = self.counter_resets(page, i, last) if before else ()
        for group, names in _GROUPS.items():
            if before is not None and group not in began and _same(group, before, snapshot):
                continue
            if before is None:
                since = page.loaded_at_us if group not in PROVIDERS or page.providers_from_load else None
                for name in names:
                    self._first(name, getattr(snapshot, name), since, snapshot.ts_us, last)
            else:
                for name in names:
                    self._next(name, getattr(snapshot, name), group in began, snapshot.ts_us, last)
        sums = running_sums(snapshot)
        for name in SUMS:
            if before is None:
                self._first(name, sums[name], page.loaded_at_us, snapshot.ts_us, last)
                if sums[name] is None and snapshot.trades:
                    self._series[f"unknown {name}"].first_values.append(
                        FirstValue(page.loaded_at_us, snapshot.ts_us, 1)
                    )
            elif sums[name] is not None and (name in last or "pnl" in began):
                self._next(name, sums[name], "pnl" in began, snapshot.ts_us, last)
            elif snapshot.trades is not None and before.trades is not None and snapshot.trades != before.trades:
                last.pop(name, None)
                self._series[f"unknown {name}"].step(snapshot.ts_us, 1)
        self._all_ts.append(snapshot.ts_us)
        self._add_coverage(page, i)

    def _add_coverage(self, page: PageLoad, i: int) -> None:
        """
        Add the time between two snapshots to the covered spans.

        Missing snapshots reduce the covered part of a gap; a short gap is bridged.
        """
        every, at = page.intervals_us[i], page.snapshots[i].ts_us
        gap = at - page.snapshots[i - 1].ts_us if i else every
        missing = max(0, math.ceil(gap / every - (self.how.late_after - 1)) - 1)
        self._covered.add(at - gap, at - missing * every)
        self._bridged.add(at - gap, at if gap <= self.how.bridged_s * SECOND else at - missing * every)

    def _first(self, name: str, value: float | None, since_us: int | None, ts_us: int, last: dict[str, float]) -> None:
        if value is None:
            self._series[name].missing_at.append(ts_us)
        else:
            last[name] = value
            self._series[name].known = True
            if value:
                self._series[name].first_values.append(FirstValue(since_us, ts_us, value))

    def _next(self, name: str, value: float | None, again: bool, ts_us: int, last: dict[str, float]) -> None:
        series = self._series[name]
        if value is None:
            series.missing_at.append(ts_us)
            return
        series.known = True
        increase = value if again else value - last.get(name, value)
        last[name] = value
        if increase:
            series.step(ts_us, increase)

    def counter_resets(self, page: PageLoad, i: int, last: dict[str, float]) -> set[str]:
        """Return the groups of counters that were reset between a page's last known values and one of its snapshots."""
        again, before, snapshot = set(), page.snapshots[i - 1], page.snapshots[i]
        for group, names in _GROUPS.items():
            if _same(group, before, snapshot):
                continue
            pairs = ((last.get(n), getattr(snapshot, n)) for n in names)
            if any(a is not None and b is not None and b < a for a, b in pairs):
                again.add(group)
        if page.reloaded and i in page.reloaded:
            again.update(_GROUPS if again & set(PROVIDERS) else _ZEROED_BY_RESET)
        return again

    @property
    def ever_seen(self) -> bool:
        """Whether there is any snapshot of this app, up to the end of the history."""
        return bool(self.pages) or self.last_before_us is not None

    def last_seen_us(self, at_us: int) -> int | None:
        """Return when the last snapshot at or before an instant was; None if there was none."""
        i = bisect_right(self._all_ts, at_us)
        return self._all_ts[i - 1] if i else self.last_before_us

    def increase(self, name: str, window: Window) -> Any:
        """Return the increase of a counter in a window, over all pages; None if no snapshot of the window has it."""
        series = self._series[name]
        if not series.known or not self.snapshots_in(window):
            return None
        return series.increase(window.start_us, window.end_us)

    def increase_while_open(self, name: str, window: Window) -> Any:
        """Return the same for the parts of a window in which the market was open."""
        series = self._series[name]
        if not series.known:
            return None
        increases = [
            series.increase(start_us, end_us)
            for start_us, end_us, snapshots in self._found.once("seen while open", window, self._snapshots_while_open)
            if snapshots
        ]
        return sum(increases) if increases else None

    def _snapshots_while_open(self, window: Window) -> list[tuple[int, int, int]]:
        return [(span.start_us, span.end_us, self.snapshots_in(span)) for span in self.open_spans(window)]

    def increase_with_first_values(self, name: str, window: Window) -> Any:
        """
        Return the increase of a counter in a window, over all pages, including first values of older pages.

        Unlike `increase` it counts all that a page held when it was first seen, whenever it was loaded; so it adds up
        over any windows. None if nothing is known of the counter.
        """
        series = self._series[name]
        return series.increase_with_first_values(window.start_us, window.end_us) if series.known else None

    def depends_on(self, window: Window) -> Window:
        """
        Return the window extended to where its increases begin: the oldest snapshot before it that is used.
        """
        return self._found.once("rests on", window, self._rests_on)

    def _rests_on(self, window: Window) -> Window:
        bases = []
        for page in self.pages:
            times = page.times
            if times[-1] > window.start_us >= times[0]:
                i = bisect_right(times, window.start_us)
                if i < len(times) and times[i] <= window.end_us:
                    bases.append(times[i - 1])
        return Window(clock.instant(base), window.end) if bases and (base := min(bases)) < window.start_us else window

    def idle_for_s(self, at_us: int, provider: str | None = None) -> float | None:
        """
        Return for how long, up to the last snapshot, no page counted a request, of one provider or any.

        None if no provider is wired, or there is no snapshot.
        """
        live = [p for p in PROVIDERS if p in self.wired and provider in (None, p)]
        return self.idle_of_s(at_us, [f"{p}_requests" for p in live]) if live else None

    def idle_of_s(self, at_us: int, counters: Sequence[str]) -> float | None:
        """Return the seconds without an increase of these counters, up to the last snapshot; None if there is none."""
        last = self.last_seen_us(at_us) if self._all_ts and self._all_ts[0] <= at_us else None
        if last is None:
            return None
        increases = [r for name in counters if (r := self._series[name].last_increase_us(at_us)) is not None]
        return (last - max(increases, default=self._all_ts[0])) / SECOND

    def has_nan(self, name: str, window: Window) -> bool:
        """Return whether a window has trades whose sum is unknown because the page's mean is NaN."""
        return self._series[f"unknown {name}"].increase(window.start_us, window.end_us) > 0

    def snapshots_in(self, window: Window) -> int:
        """Return the number of snapshots in a window, of all pages."""
        return self._found.once(
            "snapshots", window, lambda w: bisect_right(self._all_ts, w.end_us) - bisect_right(self._all_ts, w.start_us)
        )

    def closed(self, page_id: str | None, loaded_at_us: int | None, at_us: int) -> bool | None:
        """
        Return whether a page, given by its id or else by its load time, is closed for good at an instant.

        None: it sends no snapshots now, but may resume. It is closed if other pages send snapshots and its last one is
        older than a refresh can take; earlier if one of the others was loaded since.
        """
        jitter_us, others = round(self.how.load_jitter_s * SECOND), self.open_at(at_us)
        mine = [
            p
            for p in self.pages
            if (
                p.snapshots[0].page_id == page_id
                if page_id
                else p.snapshots[0].page_id is None and _near(p.loaded_at_us, loaded_at_us, jitter_us)
            )
        ]
        if any(page in mine for page, _ in others):
            return False
        last_us = max((page.times[i - 1] for page in mine if (i := bisect_right(page.times, at_us))), default=0)
        newer = any(
            page.loaded_at_us is not None and page.loaded_at_us > last_us - page.intervals_us[0] for page, _ in others
        )
        patience_s = self.how.closed_s if newer else self.how.reset_gap_s
        return True if others and at_us - last_us > patience_s * SECOND else None

    def pages_in(self, window: Window) -> list[tuple[PageLoad, SnapshotRow]]:
        """Return the page loads with snapshots in a window, each with its last one, in order of these."""
        return self._found.once("seen", window, self._pages_in)

    def _pages_in(self, window: Window) -> list[tuple[PageLoad, SnapshotRow]]:
        found = []
        for page in self.pages:
            if page.times[-1] <= window.start_us:
                continue
            i = bisect_right(page.times, window.end_us)
            if i and page.times[i - 1] > window.start_us:
                found.append((page, page.snapshots[i - 1]))
        return sorted(found, key=lambda f: f[1].ts_us)

    def open_at(self, at_us: int) -> list[tuple[PageLoad, int]]:
        """Return the pages open at an instant (their next snapshot is not late), with the index of the last one."""
        if self._found.open_at[0] != at_us:
            last = ((page, bisect_right(page.times, at_us) - 1) for page in self.pages)
            self._found.open_at = (
                at_us,
                [
                    (page, i)
                    for page, i in last
                    if i >= 0 and at_us - page.times[i] <= self.how.late_after * page.intervals_us[i]
                ],
            )
        return self._found.open_at[1]

    def _pending_since_us(self, end_us: int) -> int:
        """Return the earliest time from which the next snapshot is pending but not overdue."""
        return min([page.snapshots[i].ts_us for page, i in self.open_at(end_us)], default=end_us)

    def open_spans(self, window: Window) -> list[Window]:
        """Return the parts of a window in which the market was open."""
        return self._found.once("open", window, market_calendar.open_spans)

    def coverage(self, window: Window) -> float | None:
        """
        Return the share of the expected snapshots of a window that were received.

        One snapshot per interval of a page is expected while the market is open; None if it never was. Several pages
        can cover for each other.
        """
        return self._found.once("coverage", window, lambda w: self._share(w, self._covered))

    def bridged(self, window: Window) -> float | None:
        """
        Return the share of a window in which the counters are known.

        A few missing snapshots lose nothing of a counter.
        """
        return self._found.once("bridged", window, lambda w: self._share(w, self._bridged))

    def _share(self, window: Window, seen: CoveredSpans) -> float | None:
        expected = self.open_spans(window)
        if not expected:
            return None
        awaited = self._pending_since_us(window.end_us)  # A snapshot that is not late yet is not missing.

        def upto(at: int) -> int:
            return seen.upto(min(at, awaited)) + max(0, at - awaited)

        return min(
            1.0, sum(upto(s.end_us) - upto(s.start_us) for s in expected) / sum(s.end_us - s.start_us for s in expected)
        )

    def known(self, window: Window) -> float | None:
        """
        Return the known share of the window from which the increases are computed.

        An increase over a long gap does not belong to the window alone.
        """
        return self._found.once("known", window, lambda w: self.bridged(self.depends_on(w)))

    def missing_in(self, name: str, window: Window) -> bool:
        """Return whether a snapshot in a window lacks a counter."""
        times = self._series[name].missing_at
        return bisect_right(times, window.end_us) > bisect_right(times, window.start_us)

    def counted_separately(self, part: str, count: str, window: Window) -> bool:
        """
        Return whether some snapshot of the window has only one of the two counters.

        Snapshots from which its increases begin count too. The ratio of the counters is then undefined.
        """
        a, b = self._series[part].missing_at, self._series[count].missing_at
        if not a and not b:
            return False
        window = self.depends_on(window)

        def inside(at: list[int]) -> list[int]:
            return at[bisect_left(at, window.start_us) : bisect_right(at, window.end_us)]

        return inside(a) != inside(b)

    def gaps(self, window: Window) -> list[Window]:
        """Return the spans of the open market without snapshots."""
        awaited, found = self._pending_since_us(window.end_us), []
        for span in self.open_spans(window):
            at = span.start_us
            for a, b in (*self._covered.spans(), (awaited, window.end_us)):
                if b > at and a < span.end_us:
                    if a > at:
                        found.append((at, a))
                    at = max(at, b)
            if at < span.end_us:
                found.append((at, span.end_us))
        return [Window(clock.instant(a), clock.instant(b)) for a, b in found]

    def websocket_down_spans(self, window: Window) -> list[tuple[int, int]]:
        """
        Return the spans in which some page's WebSocket was down.

        The state of a snapshot holds until the page's next one, while that is not late.
        """
        down = CoveredSpans()
        for page in self.pages:
            for i, snapshot in enumerate(page.snapshots):
                if snapshot.websocket_connected is False and snapshot.ts_us < window.end_us:
                    until = page.snapshots[i + 1].ts_us if i + 1 < len(page.snapshots) else window.end_us
                    reach = round(self.how.late_after * page.intervals_us[i])
                    a, b = max(snapshot.ts_us, window.start_us), min(until, snapshot.ts_us + reach, window.end_us)
                    if a < b:
                        down.add(a, b)
        return list(down.spans())

    def websocket_down_at(self, at_us: int) -> tuple[float, PageLoad] | None:
        """
        Return for how many seconds, at an instant, an open page has been without its WebSocket, and which page.

        0 is connected; None is unknown.
        """
        known = [
            (page, page.down_since_us[i])
            for page, i in self.open_at(at_us)
            if page.snapshots[i].websocket_connected is not None
        ]
        return max(
            (((at_us - since) / SECOND if since else 0.0, page) for page, since in known),
            key=lambda f: f[0],
            default=None,
        )

    def websocket_down_for_s(self, as_of: datetime) -> float | None:
        """Return how long an open page has been without its WebSocket at an instant; 0 is connected, None unknown."""
        found = self.websocket_down_at(clock.micros(as_of))
        return found[0] if found else None

    def reloads(self, window: Window) -> list[datetime]:
        """
        Return the times of page reloads in a window.

        A reload is a page load that replaces another one, which sends no more snapshots; or a page id whose counters
        were all reset together. An additional page beside the others is not a reload.
        """
        return self._found.once("reloads", window, self._reloads_in)

    def _reloads_in(self, window: Window) -> list[datetime]:
        start, end, gap = clock.micros(window.start), clock.micros(window.end), self.how.reset_gap_s * SECOND
        found, gone = [], set()
        for page in self.pages:
            first = page.snapshots[0]
            for i in page.reloaded:
                snapshot = page.snapshots[i]
                if self.counter_resets(page, i, page.snapshots[i - 1]._asdict()) & set(PROVIDERS):
                    found.append(snapshot.ts_us - round((snapshot.uptime_s or 0.0) * SECOND))
            if page.loaded_at_us is None:
                continue
            gave_way = [
                p
                for p in self.pages
                if p.snapshots[-1].ts_us < first.ts_us <= p.snapshots[-1].ts_us + gap
                and p.snapshots[-1].ts_us < page.loaded_at_us + p.intervals_us[-1]
                and id(p) not in gone
            ]
            if gave_way:
                gone.add(id(max(gave_way, key=lambda p: p.snapshots[-1].ts_us)))
                found.append(page.loaded_at_us)
        return [clock.instant(at) for at in sorted(found) if start < at <= end]


def _same(group: str, before: SnapshotRow, snapshot: SnapshotRow) -> bool:
    """
    Return whether two successive snapshots of a page have the same, complete values of a group of counters.

    This is the most frequent case, so it is checked first.
    """
    of = _OF_GROUP[group]
    values = of(snapshot)
    return values == of(before) and None not in values


def _near(a: int | None, b: int | None, jitter_us: int) -> bool:
    return a is b if a is None or b is None else abs(a - b) <= jitter_us


def first_us(window: Window, how: PageLimits) -> int:
    """Return the time after which `load` reads all snapshots of a window, microseconds."""
    return window.start_us - round(how.reset_gap_s * SECOND)


def load(
    store: Database,
    app: str,
    window: Window,
    known_at: datetime | None,
    how: PageLimits,
    *,
    post_every_s: float,
    wired: Iterable[str] = (),
    snapshots: Iterable[SnapshotRow] | None = None,
) -> CounterHistory:
    """
    Load the snapshots of a window, with those before it from which its increases begin.

    The cost depends on the window only. Before it, only as much is read as two snapshots of one page may be apart; for
    a page with a longer gap, the snapshots around its last one; and for a WebSocket that is down from the beginning,
    the snapshot at which it went down.

    Args:
        known_at: Only what was in the database by then; None is all that is known.
        wired: Fields declared as wired in the settings.
        snapshots: The snapshots from `first_us` to the end of the window; None reads them.
    """
    known = None if known_at is None else clock.micros(known_at)
    reset_gap_us, jitter_ms = round(how.reset_gap_s * SECOND), round(how.load_jitter_s * 1000)
    start, end = first_us(window, how), clock.micros(window.end)
    before = SnapshotStore(store).last_snapshot(app, start, known)
    history = CounterHistory(
        how,
        post_every_s,
        wired=SnapshotStore(store).wired(app, known) | frozenset(wired),
        last_before_us=before.ts_us if before else None,
    )
    history.add(SnapshotStore(store).snapshots(app, start, end, known) if snapshots is None else snapshots)
    earlier: dict[int, SnapshotRow] = {}
    for page in history.pages:
        first = page.snapshots[0]
        which: dict[str, Any] = {"page_id": first.page_id, "load_ms": first.load_ms, "jitter_ms": jitter_ms}
        if first.ts_us > clock.micros(window.start) and (page.loaded_at_us is None or page.loaded_at_us < start):
            found = SnapshotStore(store).last_snapshot(app, start, known, **which)
            earlier |= (
                {
                    snapshot.seq: snapshot
                    for snapshot in SnapshotStore(store).snapshots(app, found.ts_us - reset_gap_us, found.ts_us, known)
                }
                if found
                else {}
            )
        if first.websocket_connected is False:
            connected = SnapshotStore(store).last_snapshot(app, first.ts_us, known, connected=True, **which)
            since = SnapshotStore(store).first_snapshot(app, connected.ts_us if connected else 0, known, **which)
            earlier |= {since.seq: since} if since else {}
    history.add(snapshot for snapshot in earlier.values() if snapshot.ts_us <= start)
    return history


class CounterReader:
    """
    Loads the history of one window after another, as `load` does, but reads only the snapshots that are new.

    Where a new snapshot is not simply a page's next one, or the window starts later, everything is loaded again. The
    histories of windows that start at the same time are one object, which grows.

    Args:
        lock: Held while a history grows; hold it to query one from another thread.
    """

    def __init__(
        self,
        store: Database,
        app: str,
        how: PageLimits,
        lock: AbstractContextManager[Any],
        *,
        post_every_s: float,
        wired: Iterable[str] = (),
    ):
        self._lock, self._store, self._app, self._how, self._post_every_s = lock, store, app, how, post_every_s
        self._wired = frozenset(wired)
        self._rows = NewRows(store, app, SNAPSHOTS, SnapshotRow._fields)
        self._history: CounterHistory | None = None
        self._start_us = 0

    def read(self, window: Window) -> CounterHistory:
        """Load the history of a window."""
        history, self._history = self._history, None
        if history is None or window.start_us != self._start_us or not self._grown(history, window):
            rows = self._rows.everything(first_us(window, self._how), window.end_us)
            history = load(
                self._store,
                self._app,
                window,
                None,
                self._how,
                post_every_s=self._post_every_s,
                wired=self._wired,
                snapshots=map(SnapshotRow._make, rows),
            )
        self._history, self._start_us = history, window.start_us
        return history

    def _grown(self, history: CounterHistory, window: Window) -> bool:
        """Add the new snapshots; return False where the history must be loaded again."""
        rows = self._rows.added(first_us(window, self._how), window.end_us)
        if rows is None:
            return False
        wired = SnapshotStore(self._store).wired(self._app, None) | self._wired
        with self._lock:
            history.wired = wired
            return history.add_next(map(SnapshotRow._make, rows))
