"""
Turn snapshots into increases of counters over any window.

The app's counters are cumulative since each page was loaded. A `CounterHistory` turns them once into increases, per
page and
aware of resets, and then answers for any window: what rose in it, how well it was covered, what state held at its end.
Windows are (start, end]; a window's increase begins at the last look at or before its start. Counts are exact integers.
"""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from datetime import datetime
from operator import attrgetter
from typing import Any

from opslib.foundation import clock, market_calendar
from opslib.foundation.clock import SECOND, Window
from opslib.foundation.config.limits import PageLimits
from opslib.foundation.storage.database import Database
from opslib.foundation.storage.snapshot_columns import COUNTERS, PROVIDERS, SnapshotRow
from opslib.telemetry.pages.page_loads import SUMS, PageLoad, PageLoadTracker, in_order, reloaded, running_sums
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
    The looks of one app over some time, ready to be asked about any window inside it.

    Looks are added as they come; one that comes late is laid in at its time. What is told of a window is a function of
    the looks that the tape holds, in whatever steps they were added.

    Attributes:
        how: The limits between one page and another.
        seq: The newest row it rests on, by the order of writing; 0 of none. Views record it.
        alive: Fields known to be wired (see `snapshot.WIRED_FIELDS`).
        last_before_us: When the last look before the tape was; None where there was none.
    """

    def __init__(
        self,
        how: PageLimits,
        post_every_s: float,
        *,
        alive: frozenset[str] = frozenset(),
        last_before_us: int | None = None,
    ):
        self.how, self._post_every_s, self.alive, self.last_before_us = how, post_every_s, alive, last_before_us
        self.seq = 0
        self._looks: list[SnapshotRow] = []
        self._begin()

    def _begin(self) -> None:
        self._telling = PageLoadTracker(self.how, self._post_every_s)
        self._unrolled: dict[int, dict[str, float]] = {}
        self._series = (
            {c.name: Series() for c in COUNTERS}
            | {s: Series() for s in SUMS}
            | {f"unknown {s}": Series() for s in SUMS}
        )
        self._seen, self._bridged = CoveredSpans(), CoveredSpans()
        self._all_ts: list[int] = []
        self._found = Found()

    def add(self, looks: Iterable[SnapshotRow]) -> None:
        """Lay looks onto the tape, in any order."""
        fresh = in_order(looks)
        if not fresh:
            return
        self._found = Found()
        self.seq = max(self.seq, max(look.seq for look in fresh))
        if self._looks and in_order([self._looks[-1], fresh[0]])[0] is fresh[0]:
            fresh = in_order([*self._looks, *fresh])
            self._looks = []
            self._begin()
        self._looks += fresh
        for look in fresh:
            page = self._telling.take(look)
            if page and not self._telling.second_thoughts:
                self._unroll(page, len(page.looks) - 1)
        if self._telling.second_thoughts:
            telling = self._telling
            telling.retell()
            self._begin()
            self._telling = telling
            shown = sorted(
                ((page, i) for page in telling.pages for i in range(len(page.looks))),
                key=lambda p: (p[0].looks[p[1]].ts_us, p[0].looks[p[1]].page_clock_ms, p[0].looks[p[1]].digest),
            )
            for page, i in shown:
                self._unroll(page, i)

    @property
    def pages(self) -> list[PageLoad]:
        """The pages that were told apart, in order of their first look."""
        return self._telling.pages

    def _unroll(self, page: PageLoad, i: int) -> None:
        """Lay the increases that one look of a page brings onto the tape."""
        look, before = page.looks[i], page.looks[i - 1] if i else None
        last = self._unrolled.setdefault(id(page), {})
        began = self.began_again(last, before, look) if before else ()
        for group, names in _GROUPS.items():
            if before is not None and group not in began and _same(group, before, look):
                continue
            if before is None:
                since = page.loaded_at_us if group not in PROVIDERS or page.providers_from_load else None
                for name in names:
                    self._first(name, getattr(look, name), since, look.ts_us, last)
            else:
                for name in names:
                    self._next(name, getattr(look, name), group in began, look.ts_us, last)
        sums = running_sums(look)
        for name in SUMS:
            if before is None:
                self._first(name, sums[name], page.loaded_at_us, look.ts_us, last)
                if sums[name] is None and look.trades:
                    self._series[f"unknown {name}"].births.append(FirstValue(page.loaded_at_us, look.ts_us, 1))
            elif sums[name] is not None and (name in last or "pnl" in began):
                self._next(name, sums[name], "pnl" in began, look.ts_us, last)
            elif look.trades is not None and before.trades is not None and look.trades != before.trades:
                last.pop(name, None)
                self._series[f"unknown {name}"].step(look.ts_us, 1)
        self._all_ts.append(look.ts_us)
        self._lay_seen(page, i)

    def _lay_seen(self, page: PageLoad, i: int) -> None:
        """
        When was a page looked at, between two looks?

        A gap is counted by the looks that are missing in it; a short one is bridged.
        """
        every, at = page.intervals_us[i], page.looks[i].ts_us
        gap = at - page.looks[i - 1].ts_us if i else every
        missing = max(0, math.ceil(gap / every - (self.how.late_after - 1)) - 1)
        self._seen.add(at - gap, at - missing * every)
        self._bridged.add(at - gap, at if gap <= self.how.bridged_s * SECOND else at - missing * every)

    def _first(self, name: str, value: float | None, since_us: int | None, ts_us: int, last: dict[str, float]) -> None:
        if value is None:
            self._series[name].untold.append(ts_us)
        else:
            last[name] = value
            self._series[name].known = True
            if value:
                self._series[name].births.append(FirstValue(since_us, ts_us, value))

    def _next(self, name: str, value: float | None, again: bool, ts_us: int, last: dict[str, float]) -> None:
        series = self._series[name]
        if value is None:
            series.untold.append(ts_us)
            return
        series.known = True
        rise = value if again else value - last.get(name, value)
        last[name] = value
        if rise:
            series.step(ts_us, rise)

    def began_again(self, last: dict[str, float], before: SnapshotRow, look: SnapshotRow) -> set[str]:
        """Which groups of counters began again from zero, between what was last known of a page and its next look?"""
        again = set()
        for group, names in _GROUPS.items():
            if _same(group, before, look):
                continue
            pairs = ((last.get(n), getattr(look, n)) for n in names)
            if any(a is not None and b is not None and b < a for a, b in pairs):
                again.add(group)
        if reloaded(before, look, self.how):
            again.update(_GROUPS if again & set(PROVIDERS) else _ZEROED_BY_RESET)
        return again

    @property
    def ever_seen(self) -> bool:
        """Was there any look of this app, up to the end of the tape?"""
        return bool(self.pages) or self.last_before_us is not None

    def last_seen_us(self, at_us: int) -> int | None:
        """When was the last look at or before an instant? None where there was none."""
        i = bisect_right(self._all_ts, at_us)
        return self._all_ts[i - 1] if i else self.last_before_us

    def rise(self, name: str, window: Window) -> Any:
        """By how much did a counter rise in a window, over all pages? None where no look of the window knows it."""
        series = self._series[name]
        if not series.known or not self.looks_in(window):
            return None
        return series.rise(window.start_us, window.end_us)

    def rise_while_open(self, name: str, window: Window) -> Any:
        """As `rise`, of the parts of a window in which the market was open."""
        series = self._series[name]
        if not series.known:
            return None
        rises = [
            series.rise(start_us, end_us)
            for start_us, end_us, looks in self._found.once("seen while open", window, self._seen_while_open)
            if looks
        ]
        return sum(rises) if rises else None

    def _seen_while_open(self, window: Window) -> list[tuple[int, int, int]]:
        return [(span.start_us, span.end_us, self.looks_in(span)) for span in self.open_spans(window)]

    def came_to_light(self, name: str, window: Window) -> Any:
        """
        By how much did what we know of a counter grow in a window, over all pages?

        Unlike `rise` it counts all that a page held when it was first seen, whenever it was loaded; so it adds up over
        any windows. None where nothing is known of the counter.
        """
        series = self._series[name]
        return series.came_to_light(window.start_us, window.end_us) if series.known else None

    def rests_on(self, window: Window) -> Window:
        """
        The window, from where its increases begin: the oldest look before it that a page's increase is taken from.
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
        For how long, up to the last look, has no page counted a request, of one provider or any?

        None where none is wired, or nothing was seen.
        """
        live = [p for p in PROVIDERS if p in self.alive and provider in (None, p)]
        return self.idle_of_s(at_us, [f"{p}_requests" for p in live]) if live else None

    def idle_of_s(self, at_us: int, counters: Sequence[str]) -> float | None:
        """Seconds for which no page counted any of these, up to the newest post; None where nothing was posted."""
        last = self.last_seen_us(at_us) if self._all_ts and self._all_ts[0] <= at_us else None
        if last is None:
            return None
        rises = [r for name in counters if (r := self._series[name].last_rise_us(at_us)) is not None]
        return (last - max(rises, default=self._all_ts[0])) / SECOND

    def has_nan(self, name: str, window: Window) -> bool:
        """Did trades happen in a window whose sum cannot be known, because a NaN spoiled the page's mean?"""
        return self._series[f"unknown {name}"].rise(window.start_us, window.end_us) > 0

    def looks_in(self, window: Window) -> int:
        """How many looks came in a window, of all pages together?"""
        return self._found.once(
            "looks", window, lambda w: bisect_right(self._all_ts, w.end_us) - bisect_right(self._all_ts, w.start_us)
        )

    def closed(self, page_id: str | None, loaded_at_us: int | None, at_us: int) -> bool | None:
        """
        Is a page, known by its id or else by its load, closed for good at an instant?

        None is that it is not seen just now, and may come back. It is closed when others are seen and it has not been
        for longer than before and after a refresh may lie apart; sooner where one of the others was loaded since.
        """
        jitter_us, others = round(self.how.load_jitter_s * SECOND), self.open_at(at_us)
        mine = [
            p
            for p in self.pages
            if (
                p.looks[0].page_id == page_id
                if page_id
                else p.looks[0].page_id is None and _near(p.loaded_at_us, loaded_at_us, jitter_us)
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

    def seen_in(self, window: Window) -> list[tuple[PageLoad, SnapshotRow]]:
        """The pages that were seen in a window, each with its last look in it; the one seen last comes last."""
        return self._found.once("seen", window, self._seen_in)

    def _seen_in(self, window: Window) -> list[tuple[PageLoad, SnapshotRow]]:
        found = []
        for page in self.pages:
            if page.times[-1] <= window.start_us:
                continue
            i = bisect_right(page.times, window.end_us)
            if i and page.times[i - 1] > window.start_us:
                found.append((page, page.looks[i - 1]))
        return sorted(found, key=lambda f: f[1].ts_us)

    def open_at(self, at_us: int) -> list[tuple[PageLoad, int]]:
        """The pages open at an instant, each with the index of its last look: one whose next look is not late yet."""
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

    def _awaited(self, end_us: int) -> int:
        """Since when, at an instant, are looks awaited that are not late yet?"""
        return min([page.looks[i].ts_us for page, i in self.open_at(end_us)], default=end_us)

    def open_spans(self, window: Window) -> list[Window]:
        """In which parts of a window was the market open?"""
        return self._found.once("open", window, market_calendar.open_spans)

    def coverage(self, window: Window) -> float | None:
        """
        Which share of the looks that were expected in a window came?

        Expected is one look at each page's own rhythm while the market is open; None where it never was. Several pages
        cover for each other.
        """
        return self._found.once("coverage", window, lambda w: self._share(w, self._seen))

    def bridged(self, window: Window) -> float | None:
        """
        Of which share of a window is known what was counted?

        Counters lose nothing over a few looks that did not come.
        """
        return self._found.once("bridged", window, lambda w: self._share(w, self._bridged))

    def _share(self, window: Window, seen: CoveredSpans) -> float | None:
        expected = self.open_spans(window)
        if not expected:
            return None
        awaited = self._awaited(window.end_us)  # A look that is not late yet is not missing.

        def upto(at: int) -> int:
            return seen.upto(min(at, awaited)) + max(0, at - awaited)

        return min(
            1.0, sum(upto(s.end_us) - upto(s.start_us) for s in expected) / sum(s.end_us - s.start_us for s in expected)
        )

    def known(self, window: Window) -> float | None:
        """
        How well is what the increases of a window rest on known?

        One over a long gap is not one of the window alone.
        """
        return self._found.once("known", window, lambda w: self.bridged(self.rests_on(w)))

    def untold(self, name: str, window: Window) -> bool:
        """Did any look in a window not tell a counter?"""
        times = self._series[name].untold
        return bisect_right(times, window.end_us) > bisect_right(times, window.start_us)

    def counted_separately(self, part: str, count: str, window: Window) -> bool:
        """
        Did any look in a window, or one that its increases begin from, tell only one of two counters?

        Then they cannot be divided.
        """
        a, b = self._series[part].untold, self._series[count].untold
        if not a and not b:
            return False
        window = self.rests_on(window)

        def inside(at: list[int]) -> list[int]:
            return at[bisect_left(at, window.start_us) : bisect_right(at, window.end_us)]

        return inside(a) != inside(b)

    def gaps(self, window: Window) -> list[Window]:
        """In which stretches of the open market did no look come?"""
        awaited, found = self._awaited(window.end_us), []
        for span in self.open_spans(window):
            at = span.start_us
            for a, b in (*self._seen.spans(), (awaited, window.end_us)):
                if b > at and a < span.end_us:
                    if a > at:
                        found.append((at, a))
                    at = max(at, b)
            if at < span.end_us:
                found.append((at, span.end_us))
        return [Window(clock.instant(a), clock.instant(b)) for a, b in found]

    def websocket_down_spans(self, window: Window) -> list[tuple[int, int]]:
        """
        When was some page's WebSocket down?

        A look's state holds until the page's next look, while that is not late.
        """
        down = CoveredSpans()
        for page in self.pages:
            for i, look in enumerate(page.looks):
                if look.websocket_connected is False and look.ts_us < window.end_us:
                    until = page.looks[i + 1].ts_us if i + 1 < len(page.looks) else window.end_us
                    reach = round(self.how.late_after * page.intervals_us[i])
                    a, b = max(look.ts_us, window.start_us), min(until, look.ts_us + reach, window.end_us)
                    if a < b:
                        down.add(a, b)
        return list(down.spans())

    def websocket_down_at(self, at_us: int) -> tuple[float, PageLoad] | None:
        """
        For how many seconds, at an instant, has an open page been without its WebSocket, and which? 0 is connected;
        None is unknown.
        """
        known = [
            (page, page.down_since_us[i])
            for page, i in self.open_at(at_us)
            if page.looks[i].websocket_connected is not None
        ]
        return max(
            (((at_us - since) / SECOND if since else 0.0, page) for page, since in known),
            key=lambda f: f[0],
            default=None,
        )

    def websocket_down_for_s(self, as_of: datetime) -> float | None:
        """For how long, at an instant, has an open page been without its WebSocket? 0 is connected; None is unknown."""
        found = self.websocket_down_at(clock.micros(as_of))
        return found[0] if found else None

    def reloads(self, window: Window) -> list[datetime]:
        """
        When was a page reloaded in a window?

        A reload is a page that was loaded while another, which is not seen again, had just been there; or a page id
        whose counters began again together. A further page, opened beside the others, is none.
        """
        start, end, gap = clock.micros(window.start), clock.micros(window.end), self.how.reset_gap_s * SECOND
        found, gone = [], set()
        for page in self.pages:
            first = page.looks[0]
            for before, look in zip(page.looks, page.looks[1:]):
                if reloaded(before, look, self.how) and self.began_again(before._asdict(), before, look) & set(
                    PROVIDERS
                ):
                    found.append(look.ts_us - round((look.uptime_s or 0.0) * SECOND))
            if page.loaded_at_us is None:
                continue
            gave_way = [
                p
                for p in self.pages
                if p.looks[-1].ts_us < first.ts_us <= p.looks[-1].ts_us + gap
                and p.looks[-1].ts_us < page.loaded_at_us + p.intervals_us[-1]
                and id(p) not in gone
            ]
            if gave_way:
                gone.add(id(max(gave_way, key=lambda p: p.looks[-1].ts_us)))
                found.append(page.loaded_at_us)
        return [clock.instant(at) for at in sorted(found) if start < at <= end]


def _same(group: str, before: SnapshotRow, look: SnapshotRow) -> bool:
    """
    Do two looks of a page, one after the other, tell the same of a group of counters, and all of it?

    Most of them mostly do.
    """
    of = _OF_GROUP[group]
    told = of(look)
    return told == of(before) and None not in told


def _near(a: int | None, b: int | None, jitter_us: int) -> bool:
    return a is b if a is None or b is None else abs(a - b) <= jitter_us


def load(
    store: Database,
    app: str,
    window: Window,
    known_at: datetime | None,
    how: PageLimits,
    *,
    post_every_s: float,
    wired: Iterable[str] = (),
) -> CounterHistory:
    """
    The looks of a window, with those before it that it needs to begin from.

    Its cost is that of the window, however long the history: from before the window only as much is read as two looks
    of one page may lie apart; for a page that was silent for longer, the looks about its last one; and for a socket
    that is down from the beginning, the look at which it went down.

    Args:
        known_at: Only what had come into the store by then; None is all that is known.
        wired: Fields declared live in the settings.
    """
    known = None if known_at is None else clock.micros(known_at)
    reset_gap_us, jitter_ms = round(how.reset_gap_s * SECOND), round(how.load_jitter_s * 1000)
    start, end = clock.micros(window.start) - reset_gap_us, clock.micros(window.end)
    before = SnapshotStore(store).last_snapshot(app, start, known)
    tape = CounterHistory(
        how,
        post_every_s,
        alive=SnapshotStore(store).alive(app, known) | frozenset(wired),
        last_before_us=before.ts_us if before else None,
    )
    tape.add(SnapshotStore(store).looks(app, start, end, known))
    earlier: dict[int, SnapshotRow] = {}
    for page in tape.pages:
        first = page.looks[0]
        which: dict[str, Any] = {"page_id": first.page_id, "load_ms": first.load_ms, "jitter_ms": jitter_ms}
        if first.ts_us > clock.micros(window.start) and (page.loaded_at_us is None or page.loaded_at_us < start):
            found = SnapshotStore(store).last_snapshot(app, start, known, **which)
            earlier |= (
                {
                    look.seq: look
                    for look in SnapshotStore(store).looks(app, found.ts_us - reset_gap_us, found.ts_us, known)
                }
                if found
                else {}
            )
        if first.websocket_connected is False:
            connected = SnapshotStore(store).last_snapshot(app, first.ts_us, known, connected=True, **which)
            since = SnapshotStore(store).first_snapshot(app, connected.ts_us if connected else 0, known, **which)
            earlier |= {since.seq: since} if since else {}
    tape.add(look for look in earlier.values() if look.ts_us <= start)
    return tape
