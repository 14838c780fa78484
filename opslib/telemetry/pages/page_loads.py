"""
Decide which snapshots belong to one page load of the app, and in what order.

Counters live in a browser page: they begin at zero when it is loaded, several pages post at once, and one page can
reset some of its counters and continue. A page is identified by the id it posts, else by its load time. If that is not
enough, the providers' counters decide: within one page they never decrease, only a reload resets them, and the app's
partial ``reset()`` leaves them unchanged.

All results depend on the snapshots only, never on the order in which they arrived.
"""

import itertools
import statistics
from collections.abc import Iterable

from opslib.foundation.clock import SECOND, instant
from opslib.foundation.config.limits import PageLimits
from opslib.foundation.formatting import NEW_YORK
from opslib.foundation.storage.snapshot_columns import COUNTERS, PROVIDERS, SnapshotRow

FASTEST = SECOND // 10  # No page posts faster; faster snapshots are from several pages.
RHYTHM_GAPS = 15  # A page's interval is computed from its latest gaps.
SKEW_POSTS = 15  # A page's clock is read from its latest posts; a clock change is visible within eight.
SUMS = ("gross_sum_pct", "net_sum_pct", "commission_total_usd", "slippage_sum_usd")
AGREEING_GAPS = 6  # This many equal gaps in a row are an interval, not missing snapshots.


class PageLoad:
    """
    One load of a page of the app, up to its last snapshot so far.

    Values derived for an earlier snapshot never change with a later one.

    Attributes:
        snapshots: Its snapshots in order of time, at least one.
        times: The times of the snapshots, microseconds.
        loaded_at_us: When it was loaded, by our clock, microseconds; None if it does not state that.
        providers_from_load: Whether its providers' counters begin at that load; not if its last error is older.
        intervals_us: Its posting interval at each snapshot, as known by then, microseconds.
        down_since_us: At each snapshot, since when its WebSocket is down without a break; None if it is not.
        reloaded: The positions of the snapshots before which it was reloaded or partly reset (see `reloaded`).
        errors_changed: The positions of those, and of the snapshots with other errors than the one before.
    """

    __slots__ = (
        "_how",
        "down_since_us",
        "errors_changed",
        "intervals_us",
        "loaded_at_us",
        "providers_from_load",
        "reloaded",
        "snapshots",
        "times",
    )

    def __init__(self, first: SnapshotRow, how: PageLimits, usual_us: int):
        self._how, self.reloaded, self.errors_changed = how, list[int](), list[int]()
        self.snapshots, self.times = [first], [first.ts_us]
        self.loaded_at_us = None if first.uptime_s is None else first.ts_us - round(first.uptime_s * SECOND)
        remembers = (
            first.last_error_at_ms is not None
            and first.load_ms is not None
            and first.last_error_at_ms < first.load_ms - how.load_jitter_s * 1000
        )
        self.providers_from_load = not remembers
        self.intervals_us = [max(FASTEST, usual_us)]
        self.down_since_us = [first.ts_us if first.websocket_connected is False else None]

    def add(self, snapshot: SnapshotRow) -> None:
        """Add its next snapshot."""
        before, again = self.snapshots[-1], reloaded(self.snapshots[-1], snapshot, self._how)
        if again:
            self.reloaded.append(len(self.snapshots))
        if again or snapshot.errors_by_type != before.errors_by_type or snapshot.errors != before.errors:
            self.errors_changed.append(len(self.snapshots))
        self.snapshots.append(snapshot)
        self.times.append(snapshot.ts_us)
        ts = self.times[-RHYTHM_GAPS - 1 :]
        self.intervals_us.append(
            max(FASTEST, _rhythm_us([b - a for a, b in itertools.pairwise(ts)], self.intervals_us[-1]))
        )
        self.down_since_us.append(
            (self.down_since_us[-1] or snapshot.ts_us) if snapshot.websocket_connected is False else None
        )

    @property
    def skew_s(self) -> float:
        """The seconds by which its clock is ahead of ours, to the nearest post."""
        return statistics.median(
            (snapshot.page_clock_ms * 1000 - snapshot.ts_us) / SECOND for snapshot in self.snapshots[-SKEW_POSTS:]
        )

    @property
    def name(self) -> str:
        """The id it posts, else its load time."""
        first = self.snapshots[0]
        if first.page_id:
            return first.page_id
        return (
            "unnamed"
            if self.loaded_at_us is None
            else f"loaded {instant(self.loaded_at_us).astimezone(NEW_YORK):%H:%M:%S} New York"
        )


def _rhythm_us(gaps: list[int], otherwise_us: int) -> int:
    """
    Return the posting interval of a page from its latest gaps.

    A browser slows down hidden pages, so equal gaps are the interval, whatever came before. Otherwise missing snapshots
    made some gaps multiples of it, so each gap is divided by the number of steps in it.
    """
    around = sorted(g for g in gaps if g > 0)
    if len(around) < 3:
        return around[0] if around else otherwise_us
    latest = gaps[-AGREEING_GAPS:]
    if len(latest) == AGREEING_GAPS and max(latest) <= 1.2 * min(latest):
        return sum(latest) // AGREEING_GAPS
    # Jitter spreads gaps around the interval; missing snapshots make whole multiples of it.
    short, middle = around[len(around) // 4], around[len(around) // 2]
    step = middle if middle < 1.6 * short else short
    return round(statistics.median(g / max(1, round(g / step)) for g in around))


def reloaded(before: SnapshotRow, snapshot: SnapshotRow, how: PageLimits) -> bool:
    """
    Return whether a page was reloaded, or the app's partial reset() was called, between two snapshots.

    Then its uptime increased by less than the time that passed, and its load time is later than before. A clock change
    moves only one of them.
    """
    if before.uptime_s is None or snapshot.uptime_s is None or before.load_ms is None or snapshot.load_ms is None:
        return False
    passed_s = (snapshot.ts_us - before.ts_us) / SECOND
    return (
        snapshot.uptime_s - before.uptime_s < passed_s - how.load_jitter_s
        and snapshot.load_ms - before.load_ms > how.load_jitter_s * 1000
    )


def running_sums(snapshot: SnapshotRow) -> dict[str, float | None]:
    """Convert the page's running means to running sums, which can be subtracted; None if the mean is NaN."""
    n = snapshot.trades

    def times(mean: float | None) -> float | None:
        if n == 0:
            return 0.0
        if mean is None or n is None:
            return None
        return mean * n

    return dict(
        zip(
            SUMS,
            (
                times(snapshot.gross_mean_pct),
                times(snapshot.net_mean_pct),
                snapshot.commission_total_usd,
                times(snapshot.slippage_mean_usd),
            ),
        )
    )


class _Candidate:
    """A candidate for a page load while snapshots are being assigned."""

    def __init__(self, snapshot: SnapshotRow, parent: "_Candidate | None" = None):
        self.snapshots, self.parent = [snapshot], parent
        self.page: PageLoad | None = None  # The page load to which it belongs: its own, or that of its parent.
        self.goes_on: list[
            _Candidate
        ] = []  # Candidates that belong to this page load, because it sent no more snapshots.

    @property
    def last(self) -> SnapshotRow:
        return self.snapshots[-1]

    def surprise(self, snapshot: SnapshotRow) -> float:
        """
        Return how badly a snapshot would fit as this page's next one.

        It is the deviation from the page's interval in seconds, plus that from its load time in seconds, plus that of
        the counter increase from the last one.
        """
        recent = self.snapshots[-6:]
        loads = [k.load_ms for k in recent if k.load_ms is not None]
        off_load = (
            abs(snapshot.load_ms - statistics.median(loads)) / 1000 if loads and snapshot.load_ms is not None else 0.0
        )
        if len(recent) < 2:
            return off_load + 1
        every = min(b.ts_us - a.ts_us for a, b in itertools.pairwise(recent)) or SECOND
        gap = snapshot.ts_us - self.last.ts_us
        off_rhythm = min(abs(gap - max(1, round(gap / every)) * every) / SECOND, 5.0)
        usual, leap = _total(self.last) - _total(recent[-2]), _total(snapshot) - _total(self.last)
        return off_load + off_rhythm + min(abs(leap - usual) / (5 + abs(usual)), 5.0)


def _total(snapshot: SnapshotRow) -> int:
    return sum(getattr(snapshot, f"{p}_requests") or 0 for p in PROVIDERS)


def _goes_on(before: SnapshotRow, after: SnapshotRow) -> bool:
    """
    Return whether the providers' counters of `after` can follow those of `before` on one page.

    A page never loses its last error.
    """
    if before.last_error_at_ms is not None and after.last_error_at_ms is None:
        return False
    pairs = ((getattr(before, f.name), getattr(after, f.name)) for f in COUNTERS if f.group in PROVIDERS)
    return all(a is None or b is None or b >= a for a, b in pairs)


def _all_go_on(before: SnapshotRow, after: SnapshotRow) -> bool:
    """Return whether every counter of `after` is at least that of `before`."""
    pairs = ((getattr(before, f.name), getattr(after, f.name)) for f in COUNTERS)
    return all(a is None or b is None or b >= a for a, b in pairs)


def _overtaken(before: SnapshotRow, after: SnapshotRow) -> bool:
    """Return whether `after` was made before `before` on one page and only received later; it has nothing new then."""
    if after.page_clock_ms >= before.page_clock_ms or (after.uptime_s or 0) > (before.uptime_s or 0):
        return False
    pairs = [(getattr(before, f.name), getattr(after, f.name)) for f in COUNTERS]
    known = [(a, b) for a, b in pairs if a is not None and b is not None]
    return all(b <= a for a, b in known) and any(b < a for a, b in known)


def _near(track: _Candidate, snapshot: SnapshotRow, jitter_ms: float) -> bool:
    """Return whether a candidate and a snapshot have the same load time."""
    a, b = track.last.load_ms, snapshot.load_ms
    return a is b if a is None or b is None else abs(a - b) <= jitter_ms


def _place(snapshot: SnapshotRow, tracks: list[_Candidate], how: PageLimits) -> _Candidate | None:
    """Assign the next snapshot to the candidate of its page, or to a new one; None if it holds nothing new."""
    jitter_ms, gap_us = how.load_jitter_s * 1000, how.reset_gap_s * SECOND
    if snapshot.page_id:
        own = [t for t in tracks if t.last.page_id == snapshot.page_id]
        if not own:
            tracks.append(_Candidate(snapshot))
            return tracks[-1]
        if _near(own[0], snapshot, jitter_ms) and _overtaken(own[0].last, snapshot):
            return None
        own[0].snapshots.append(snapshot)
        return own[0]
    unnamed = [t for t in tracks if not t.last.page_id]
    same_load = [t for t in unnamed if _near(t, snapshot, jitter_ms)]
    if any(_overtaken(t.last, snapshot) for t in same_load):
        return None
    going_on = [t for t in same_load if _goes_on(t.last, snapshot)]
    going_on = [t for t in going_on if snapshot.ts_us - t.last.ts_us <= gap_us] or going_on
    if going_on:
        likeliest = (
            going_on[0]
            if len(going_on) == 1
            else min(going_on, key=lambda t: (not _all_go_on(t.last, snapshot), t.surprise(snapshot)))
        )
        likeliest.snapshots.append(snapshot)
        return likeliest
    # The counters are lower than those of a known load, or they continue those of another load time. Only later
    # snapshots show whether this is that page after a reset of some counters, or another page. At least half of the
    # count must have been there before, else a new page could be taken for an older, idle one.
    resets = [
        t
        for t in unnamed
        if snapshot.ts_us - t.last.ts_us <= gap_us
        and _goes_on(t.last, snapshot)
        and 2 * _total(t.last) >= _total(snapshot) > 0
    ]
    tracks.append(
        _Candidate(
            snapshot,
            max(same_load or resets, key=lambda t: (_total(t.last) if resets else 0, t.last.ts_us), default=None),
        )
    )
    return tracks[-1]


class PageLoadTracker:
    """
    Assigns snapshots to page loads, one by one.

    A snapshot of a known load with lower counters is either a reset of some counters, or a second page loaded at the
    same moment. It is taken for a reset until the older counters appear again: then there were two pages from the
    start. So the result at any moment depends only on the snapshots up to then.

    Attributes:
        pages: Page loads in order of their first snapshot; not valid while `needs_rebuild` is set.
        needs_rebuild: Whether a snapshot showed that earlier ones were assigned wrongly; call `rebuild` then.
    """

    def __init__(self, how: PageLimits, post_every_s: float):
        self.how, self._post_every_us = how, round(post_every_s * SECOND)
        self._tracks: list[_Candidate] = []
        self.pages: list[PageLoad] = []
        self.needs_rebuild = False
        self._usual_us = self._post_every_us

    def take(self, snapshot: SnapshotRow) -> PageLoad | None:
        """
        Add the next snapshot, in the order of `in_order`, and return its page load; None if it holds nothing new.
        """
        known = len(self._tracks)
        track = _place(snapshot, self._tracks, self.how)
        if track is None or self.needs_rebuild:
            return None
        if len(self._tracks) == known:
            self.needs_rebuild = bool(track.goes_on)
        elif track.parent and track.parent.last.ts_us < snapshot.ts_us:
            track.page = track.parent.page
            track.parent.goes_on.append(track)
            self.needs_rebuild = track.page is None or track.page.snapshots[-1] is not track.parent.last
        return None if self.needs_rebuild else self._show(track, snapshot)

    def _show(self, track: _Candidate, snapshot: SnapshotRow) -> PageLoad:
        """Add a snapshot to the page load of its candidate; the first one creates it."""
        if track.page is None:
            track.page = PageLoad(snapshot, self.how, self._usual_us)
            self.pages.append(track.page)
        else:
            track.page.add(snapshot)
        self._usual_us = track.page.intervals_us[-1]  # A new page gets the interval of the others.
        return track.page

    def rebuild(self) -> None:
        """Rebuild the page loads from all snapshots so far."""
        last_us = {id(t): t.last.ts_us for t in self._tracks}
        root: dict[int, _Candidate] = {}
        for track in self._tracks:
            track.page, track.goes_on = None, []
        for track in reversed(self._tracks):
            if track.parent and last_us[id(track.parent)] < track.snapshots[0].ts_us:
                last_us[id(track.parent)] = last_us[id(track)]
                root[id(track)] = track.parent
                track.parent.goes_on.append(track)
        for track in self._tracks:  # A parent comes before its children.
            root[id(track)] = root[id(root[id(track)])] if id(track) in root else track
        self.pages, self.needs_rebuild, self._usual_us = [], False, self._post_every_us
        place = {id(snapshot): root[id(track)] for track in self._tracks for snapshot in track.snapshots}
        for snapshot in in_order(snapshot for track in self._tracks for snapshot in track.snapshots):
            self._show(place[id(snapshot)], snapshot)
        for track in self._tracks:
            track.page = root[id(track)].page


def in_order(snapshots: Iterable[SnapshotRow]) -> list[SnapshotRow]:
    """Sort snapshots for assignment; the order of arrival does not matter."""
    return sorted(snapshots, key=lambda k: (k.ts_us, k.page_clock_ms, k.digest))
