"""
This module knows which looks belong to one page of the app, and in what order, and nothing else.

Counters live in a browser page: they begin at zero when it is loaded, several pages post at once, and one page can
zero some of its counters and go on. A page is told by the id it posts, else by the instant at which it says it was
loaded. Where that is not enough, the providers' counters decide: within one page they never go back, nothing but a
reload zeroes them, and after the app's partial ``reset()`` they go on from where they were.

Everything here is a function of the looks alone, never of the order in which they reached us.
"""

import statistics
from collections.abc import Iterable
from dataclasses import dataclass

from opslib.clock import instant
from opslib.snapshot import COUNTERS, PROVIDERS, Look
from opslib.text import NEW_YORK

SECOND = 1_000_000
FASTEST = SECOND // 10  # No page posts faster; what comes faster came from several at once.
BLOCK = 15  # Looks over which a page's rhythm is taken to be one.


@dataclass(frozen=True, slots=True)
class Pages:
    """
    How pages are told apart; the values stand in rules.toml.

    Attributes:
        load_jitter_s: Two load instants no further apart than this are the same.
        reset_gap_s: Two looks further apart than this are not taken for before and after of one refresh or reset.
        late_after: A look is late when more than this many of its page's intervals have passed without it.
    """

    load_jitter_s: float
    reset_gap_s: float
    late_after: float


@dataclass(frozen=True, slots=True)
class Page:
    """
    One page of the app, from its load to its last look.

    Attributes:
        looks: Its looks in order of time, at least one.
        loaded_at_us: When it was loaded, on our clock, microseconds; None where it does not say.
        providers_from_load: Do its providers' counters begin at that load? No, where an error it remembers is older.
        intervals_us: Its own rhythm of posting at each look, microseconds.
        skew_s: How far its clock is ahead of ours, seconds, to the nearest post.
    """

    looks: tuple[Look, ...]
    loaded_at_us: int | None
    providers_from_load: bool
    intervals_us: tuple[int, ...]
    skew_s: float

    @property
    def name(self) -> str:
        """The id it posts, else when it was loaded."""
        first = self.looks[0]
        if first.page_id:
            return first.page_id
        return "unnamed" if self.loaded_at_us is None else f"loaded {instant(self.loaded_at_us).astimezone(NEW_YORK):%H:%M:%S} New York"


class _Track:
    """A page while its looks are being told apart."""

    def __init__(self, look: Look, parent: "_Track | None" = None):
        self.looks, self.parent = [look], parent

    @property
    def last(self) -> Look:
        return self.looks[-1]

    def surprise(self, look: Look) -> float:
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
        every = min(b.ts_us - a.ts_us for a, b in zip(recent, recent[1:])) or SECOND
        gap = look.ts_us - self.last.ts_us
        off_rhythm = min(abs(gap - max(1, round(gap / every)) * every) / SECOND, 5.0)
        usual, leap = _total(self.last) - _total(recent[-2]), _total(look) - _total(self.last)
        return off_load + off_rhythm + min(abs(leap - usual) / (5 + abs(usual)), 5.0)


def _total(look: Look) -> int:
    return sum(getattr(look, f"{p}_requests") or 0 for p in PROVIDERS)


def _goes_on(before: Look, after: Look) -> bool:
    """Could the providers' counters of `after` have grown from those of `before`? A page never forgets that it had an error."""
    if before.last_error_at_ms is not None and after.last_error_at_ms is None:
        return False
    pairs = ((getattr(before, f.name), getattr(after, f.name)) for f in COUNTERS if f.group in PROVIDERS)
    return all(a is None or b is None or b >= a for a, b in pairs)


def _all_go_on(before: Look, after: Look) -> bool:
    """Could every counter of `after` have grown from that of `before`?"""
    pairs = ((getattr(before, f.name), getattr(after, f.name)) for f in COUNTERS)
    return all(a is None or b is None or b >= a for a, b in pairs)


def _overtaken(before: Look, after: Look) -> bool:
    """Was `after` made earlier than `before`, on one page, and only received later? Then it holds nothing new."""
    if after.page_clock_ms >= before.page_clock_ms or (after.uptime_s or 0) > (before.uptime_s or 0):
        return False
    pairs = [(getattr(before, f.name), getattr(after, f.name)) for f in COUNTERS]
    known = [(a, b) for a, b in pairs if a is not None and b is not None]
    return all(b <= a for a, b in known) and any(b < a for a, b in known)


def _near(track: _Track, look: Look, jitter_ms: float) -> bool:
    """Do the track and the look speak of the same load?"""
    a, b = track.last.load_ms, look.load_ms
    return a is b if a is None or b is None else abs(a - b) <= jitter_ms


def _place(look: Look, tracks: list[_Track], how: Pages) -> None:
    """Put the next look of all onto the track of its page, or on a new one."""
    jitter_ms, gap_us = how.load_jitter_s * 1000, how.reset_gap_s * SECOND
    if look.page_id:
        own = [t for t in tracks if t.last.page_id == look.page_id]
        if not own:
            tracks.append(_Track(look))
        elif not (_near(own[0], look, jitter_ms) and _overtaken(own[0].last, look)):
            own[0].looks.append(look)
        return
    unnamed = [t for t in tracks if not t.last.page_id]
    same_load = [t for t in unnamed if _near(t, look, jitter_ms)]
    if any(_overtaken(t.last, look) for t in same_load):
        return
    going_on = [t for t in same_load if _goes_on(t.last, look)]
    going_on = [t for t in going_on if look.ts_us - t.last.ts_us <= gap_us] or going_on
    if going_on:
        min(going_on, key=lambda t: (not _all_go_on(t.last, look), t.surprise(look))).looks.append(look)
        return
    # Counters that lie behind on a known load, or a load instant nobody had with counters that somebody had: whether it
    # is that page, after some of its counters were zeroed, or one of its own, only the rest of the looks can tell. At
    # least half of the count must have been there before, else a young new page could be taken for an older, idle one.
    resets = [t for t in unnamed if look.ts_us - t.last.ts_us <= gap_us and _goes_on(t.last, look) and 2 * _total(t.last) >= _total(look) > 0]
    tracks.append(_Track(look, max(same_load or resets, key=lambda t: (_total(t.last) if resets else 0, t.last.ts_us), default=None)))


def _intervals_us(looks: list[Look], otherwise_us: int) -> tuple[int, ...]:
    """
    At what rhythm does a page post, at each of its looks?

    A browser slows down the pages that nobody looks at, so the rhythm is that of the looks around. Missing looks
    lengthen gaps to multiples of the rhythm, so each gap is divided by the number of steps in it.
    """
    gaps = [b.ts_us - a.ts_us for a, b in zip(looks, looks[1:])]
    found: list[int] = []
    for start in range(0, len(looks), BLOCK):
        around = sorted(g for g in gaps[max(0, start - BLOCK) : start + 2 * BLOCK] if g > 0)
        if len(around) < 3:
            rhythm = around[0] if around else otherwise_us
        else:
            # Jitter spreads gaps about the rhythm; missing looks make whole multiples of it.
            short, middle = around[len(around) // 4], around[len(around) // 2]
            step = middle if middle < 1.6 * short else short
            rhythm = round(statistics.median(g / max(1, round(g / step)) for g in around))
        found += [max(FASTEST, rhythm)] * min(BLOCK, len(looks) - start)
    return tuple(found)


def _finish(track: _Track, how: Pages, usual_us: int) -> Page:
    looks = track.looks
    first = looks[0]
    loaded = None if first.uptime_s is None else first.ts_us - round(first.uptime_s * SECOND)
    remembers = first.last_error_at_ms is not None and first.load_ms is not None and first.last_error_at_ms < first.load_ms - how.load_jitter_s * 1000
    return Page(
        looks=tuple(looks),
        loaded_at_us=loaded,
        providers_from_load=not remembers,
        intervals_us=_intervals_us(looks, usual_us),
        skew_s=statistics.median((look.page_clock_ms * 1000 - look.ts_us) / SECOND for look in looks[-200:]),
    )


def tell_apart(looks: Iterable[Look], how: Pages, post_every_s: float) -> tuple[Page, ...]:
    """
    Which pages posted these looks?

    A look of a known load whose counters lie behind is either a group of counters that the page zeroed, or a second
    page loaded at the same moment. Which of the two, the rest of the looks tell: the older counters come again only
    if they belong to a page of their own.

    Args:
        looks: Any looks of one app, in any order.
        how: The limits between one page and another.
        post_every_s: The rhythm of posting, for a page with too few looks to see its own.

    Returns:
        Pages in order of their first look; no looks, no pages.
    """
    tracks: list[_Track] = []
    for look in sorted(looks, key=lambda k: (k.ts_us, k.page_clock_ms, k.digest)):
        _place(look, tracks, how)
    for track in reversed(tracks):
        if track.parent and track.parent.last.ts_us < track.looks[0].ts_us:
            track.parent.looks.extend(track.looks)
            track.looks = []
    kept = [t for t in tracks if t.looks]
    seen = [b.ts_us - a.ts_us for t in kept for a, b in zip(t.looks, t.looks[1:]) if b.ts_us > a.ts_us]
    # A page too young to show its rhythm has that of the others.
    usual_us = round(statistics.median(seen)) if seen else round(post_every_s * SECOND)
    return tuple(_finish(t, how, usual_us) for t in kept)
