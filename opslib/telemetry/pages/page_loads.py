"""
Decide which snapshots belong to one page load of the app, and in what order.

Counters live in a browser page: they begin at zero when it is loaded, several pages post at once, and one page can
zero some of its counters and go on. A page is told by the id it posts, else by the instant at which it says it was
loaded. Where that is not enough, the providers' counters decide: within one page they never go back, nothing but a
reload zeroes them, and after the app's partial ``reset()`` they go on from where they were.

Everything here is a function of the looks alone, never of the order in which they reached us.
"""

import itertools
import statistics
from collections.abc import Iterable

from opslib.foundation.clock import SECOND, instant
from opslib.foundation.config.limits import PageLimits
from opslib.foundation.formatting import NEW_YORK
from opslib.foundation.storage.snapshot_columns import COUNTERS, PROVIDERS, SnapshotRow

FASTEST = SECOND // 10  # No page posts faster; what comes faster came from several at once.
RHYTHM_GAPS = 15  # The latest gaps, from which a page's rhythm is told.
SKEW_POSTS = 15  # The latest posts, by which a page's clock is read: a clock that is set anew is seen within eight.
SUMS = ("gross_sum_pct", "net_sum_pct", "commission_total_usd", "slippage_sum_usd")
AGREEING_GAPS = 6  # So many alike in a row are a rhythm, not looks that went missing.


class PageLoad:
    """
    One page of the app, from its load to its last look so far. It grows look by look, and nothing it said of an earlier
    look changes with a later one: what was known of it at a moment stays what was known.

    Attributes:
        looks: Its looks in order of time, at least one.
        times: When each was, microseconds: any moment is found among them quickly.
        loaded_at_us: When it was loaded, on our clock, microseconds; None where it does not say.
        providers_from_load: Do its providers' counters begin at that load? No, where an error it remembers is older.
        intervals_us: Its own rhythm of posting at each look, as it could be told by then, microseconds.
        down_since_us: At each look, since when its WebSocket is down without a break; None where it is not.
    """

    __slots__ = ("down_since_us", "intervals_us", "loaded_at_us", "looks", "providers_from_load", "times")

    def __init__(self, first: SnapshotRow, how: PageLimits, usual_us: int):
        self.looks, self.times = [first], [first.ts_us]
        self.loaded_at_us = None if first.uptime_s is None else first.ts_us - round(first.uptime_s * SECOND)
        remembers = (
            first.last_error_at_ms is not None
            and first.load_ms is not None
            and first.last_error_at_ms < first.load_ms - how.load_jitter_s * 1000
        )
        self.providers_from_load = not remembers
        self.intervals_us = [max(FASTEST, usual_us)]
        self.down_since_us = [first.ts_us if first.websocket_connected is False else None]

    def add(self, look: SnapshotRow) -> None:
        """Take its next look."""
        self.looks.append(look)
        self.times.append(look.ts_us)
        ts = self.times[-RHYTHM_GAPS - 1 :]
        self.intervals_us.append(
            max(FASTEST, _rhythm_us([b - a for a, b in itertools.pairwise(ts)], self.intervals_us[-1]))
        )
        self.down_since_us.append((self.down_since_us[-1] or look.ts_us) if look.websocket_connected is False else None)

    @property
    def skew_s(self) -> float:
        """How far its clock is ahead of ours, seconds, to the nearest post."""
        return statistics.median((look.page_clock_ms * 1000 - look.ts_us) / SECOND for look in self.looks[-SKEW_POSTS:])

    @property
    def name(self) -> str:
        """The id it posts, else when it was loaded."""
        first = self.looks[0]
        if first.page_id:
            return first.page_id
        return (
            "unnamed"
            if self.loaded_at_us is None
            else f"loaded {instant(self.loaded_at_us).astimezone(NEW_YORK):%H:%M:%S} New York"
        )


def _rhythm_us(gaps: list[int], otherwise_us: int) -> int:
    """
    At what rhythm does a page post, by its latest gaps?

    A browser slows down the pages that nobody looks at: gaps that agree are the rhythm, whatever came before. Otherwise
    missing looks have lengthened some to multiples of it, so each gap is divided by the number of steps in it.
    """
    around = sorted(g for g in gaps if g > 0)
    if len(around) < 3:
        return around[0] if around else otherwise_us
    latest = gaps[-AGREEING_GAPS:]
    if len(latest) == AGREEING_GAPS and max(latest) <= 1.2 * min(latest):
        return sum(latest) // AGREEING_GAPS
    # Jitter spreads gaps about the rhythm; missing looks make whole multiples of it.
    short, middle = around[len(around) // 4], around[len(around) // 2]
    step = middle if middle < 1.6 * short else short
    return round(statistics.median(g / max(1, round(g / step)) for g in around))


def reloaded(before: SnapshotRow, look: SnapshotRow, how: PageLimits) -> bool:
    """
    Did the page's own time begin again between two looks: a reload of a named page, or the app's partial reset()?

    Its uptime rose by less than the time that passed, and it says that it was loaded later than before; a clock that
    was set moves only the one.
    """
    if before.uptime_s is None or look.uptime_s is None or before.load_ms is None or look.load_ms is None:
        return False
    passed_s = (look.ts_us - before.ts_us) / SECOND
    return (
        look.uptime_s - before.uptime_s < passed_s - how.load_jitter_s
        and look.load_ms - before.load_ms > how.load_jitter_s * 1000
    )


def running_sums(look: SnapshotRow) -> dict[str, float | None]:
    """The page's running means as running sums, which can be subtracted; None where a NaN spoiled the mean."""
    n = look.trades

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
                times(look.gross_mean_pct),
                times(look.net_mean_pct),
                look.commission_total_usd,
                times(look.slippage_mean_usd),
            ),
        )
    )


class _Candidate:
    """A page while its looks are being told apart."""

    def __init__(self, look: SnapshotRow, parent: "_Candidate | None" = None):
        self.looks, self.parent = [look], parent
        self.page: PageLoad | None = None  # The page it is shown in: its own, or that of its parent.
        self.goes_on: list[
            _Candidate
        ] = []  # The tracks that are shown as this page's own, because it was not seen again.

    @property
    def last(self) -> SnapshotRow:
        return self.looks[-1]

    def surprise(self, look: SnapshotRow) -> float:
        """
        How ill would a look fit as this page's next?

        Seconds off the page's rhythm, plus seconds off its load instant, plus by how much its count leaps otherwise
        than it did last.
        """
        recent = self.looks[-6:]
        loads = [k.load_ms for k in recent if k.load_ms is not None]
        off_load = abs(look.load_ms - statistics.median(loads)) / 1000 if loads and look.load_ms is not None else 0.0
        if len(recent) < 2:
            return off_load + 1
        every = min(b.ts_us - a.ts_us for a, b in itertools.pairwise(recent)) or SECOND
        gap = look.ts_us - self.last.ts_us
        off_rhythm = min(abs(gap - max(1, round(gap / every)) * every) / SECOND, 5.0)
        usual, leap = _total(self.last) - _total(recent[-2]), _total(look) - _total(self.last)
        return off_load + off_rhythm + min(abs(leap - usual) / (5 + abs(usual)), 5.0)


def _total(look: SnapshotRow) -> int:
    return sum(getattr(look, f"{p}_requests") or 0 for p in PROVIDERS)


def _goes_on(before: SnapshotRow, after: SnapshotRow) -> bool:
    """
    Could the providers' counters of `after` have grown from those of `before`?

    A page never forgets that it had an error.
    """
    if before.last_error_at_ms is not None and after.last_error_at_ms is None:
        return False
    pairs = ((getattr(before, f.name), getattr(after, f.name)) for f in COUNTERS if f.group in PROVIDERS)
    return all(a is None or b is None or b >= a for a, b in pairs)


def _all_go_on(before: SnapshotRow, after: SnapshotRow) -> bool:
    """Could every counter of `after` have grown from that of `before`?"""
    pairs = ((getattr(before, f.name), getattr(after, f.name)) for f in COUNTERS)
    return all(a is None or b is None or b >= a for a, b in pairs)


def _overtaken(before: SnapshotRow, after: SnapshotRow) -> bool:
    """Was `after` made earlier than `before`, on one page, and only received later? Then it holds nothing new."""
    if after.page_clock_ms >= before.page_clock_ms or (after.uptime_s or 0) > (before.uptime_s or 0):
        return False
    pairs = [(getattr(before, f.name), getattr(after, f.name)) for f in COUNTERS]
    known = [(a, b) for a, b in pairs if a is not None and b is not None]
    return all(b <= a for a, b in known) and any(b < a for a, b in known)


def _near(track: _Candidate, look: SnapshotRow, jitter_ms: float) -> bool:
    """Do the track and the look speak of the same load?"""
    a, b = track.last.load_ms, look.load_ms
    return a is b if a is None or b is None else abs(a - b) <= jitter_ms


def _place(look: SnapshotRow, tracks: list[_Candidate], how: PageLimits) -> _Candidate | None:
    """Put the next look of all onto the track of its page, or on a new one; None where it holds nothing new."""
    jitter_ms, gap_us = how.load_jitter_s * 1000, how.reset_gap_s * SECOND
    if look.page_id:
        own = [t for t in tracks if t.last.page_id == look.page_id]
        if not own:
            tracks.append(_Candidate(look))
            return tracks[-1]
        if _near(own[0], look, jitter_ms) and _overtaken(own[0].last, look):
            return None
        own[0].looks.append(look)
        return own[0]
    unnamed = [t for t in tracks if not t.last.page_id]
    same_load = [t for t in unnamed if _near(t, look, jitter_ms)]
    if any(_overtaken(t.last, look) for t in same_load):
        return None
    going_on = [t for t in same_load if _goes_on(t.last, look)]
    going_on = [t for t in going_on if look.ts_us - t.last.ts_us <= gap_us] or going_on
    if going_on:
        likeliest = (
            going_on[0]
            if len(going_on) == 1
            else min(going_on, key=lambda t: (not _all_go_on(t.last, look), t.surprise(look)))
        )
        likeliest.looks.append(look)
        return likeliest
    # Counters that lie behind on a known load, or a load instant nobody had with counters that somebody had: whether it
    # is that page, after some of its counters were zeroed, or one of its own, only the rest of the looks can tell. At
    # least half of the count must have been there before, else a young new page could be taken for an older, idle one.
    resets = [
        t
        for t in unnamed
        if look.ts_us - t.last.ts_us <= gap_us and _goes_on(t.last, look) and 2 * _total(t.last) >= _total(look) > 0
    ]
    tracks.append(
        _Candidate(
            look, max(same_load or resets, key=lambda t: (_total(t.last) if resets else 0, t.last.ts_us), default=None)
        )
    )
    return tracks[-1]


class PageLoadTracker:
    """
    Tells the pages apart, look by look.

    A look of a known load whose counters lie behind is either a group of counters that the page zeroed, or a second
    page loaded at the same moment. It is taken for the first, until the older counters come again: then there were two
    pages all along. So what is told at any moment is a function of the looks up to then.

    Attributes:
        pages: Pages in order of their first look; not while there are second thoughts.
        second_thoughts: Did a look show that earlier ones were told apart wrongly? Then `retell`.
    """

    def __init__(self, how: PageLimits, post_every_s: float):
        self.how, self._post_every_us = how, round(post_every_s * SECOND)
        self._tracks: list[_Candidate] = []
        self.pages: list[PageLoad] = []
        self.second_thoughts = False
        self._usual_us = self._post_every_us

    def take(self, look: SnapshotRow) -> PageLoad | None:
        """
        Take the next look, in the order of `in_order`; returns the page that grew by it, None where it holds nothing
        new.
        """
        known = len(self._tracks)
        track = _place(look, self._tracks, self.how)
        if track is None or self.second_thoughts:
            return None
        if len(self._tracks) == known:
            self.second_thoughts = bool(track.goes_on)
        elif track.parent and track.parent.last.ts_us < look.ts_us:
            track.page = track.parent.page
            track.parent.goes_on.append(track)
            self.second_thoughts = track.page is None or track.page.looks[-1] is not track.parent.last
        return None if self.second_thoughts else self._show(track, look)

    def _show(self, track: _Candidate, look: SnapshotRow) -> PageLoad:
        """Add a look to the page of its track; the first one makes the page."""
        if track.page is None:
            track.page = PageLoad(look, self.how, self._usual_us)
            self.pages.append(track.page)
        else:
            track.page.add(look)
        self._usual_us = track.page.intervals_us[-1]  # A page too young to show its rhythm has that of the others.
        return track.page

    def retell(self) -> None:
        """Make the pages anew from all looks so far."""
        last_us = {id(t): t.last.ts_us for t in self._tracks}
        root: dict[int, _Candidate] = {}
        for track in self._tracks:
            track.page, track.goes_on = None, []
        for track in reversed(self._tracks):
            if track.parent and last_us[id(track.parent)] < track.looks[0].ts_us:
                last_us[id(track.parent)] = last_us[id(track)]
                root[id(track)] = track.parent
                track.parent.goes_on.append(track)
        for track in self._tracks:  # A parent comes before its children.
            root[id(track)] = root[id(root[id(track)])] if id(track) in root else track
        self.pages, self.second_thoughts, self._usual_us = [], False, self._post_every_us
        place = {id(look): root[id(track)] for track in self._tracks for look in track.looks}
        for look in in_order(look for track in self._tracks for look in track.looks):
            self._show(place[id(look)], look)
        for track in self._tracks:
            track.page = root[id(track)].page


def in_order(looks: Iterable[SnapshotRow]) -> list[SnapshotRow]:
    """Looks in the order in which they are told apart: never that in which they reached us."""
    return sorted(looks, key=lambda k: (k.ts_us, k.page_clock_ms, k.digest))
