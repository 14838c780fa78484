"""
This module knows how looks become increases that can be asked for any window, and nothing else.

The app's counters are cumulative since each page was loaded. A `Tape` turns them once into increases, per page and
aware of resets, and then answers for any window: what rose in it, how well it was covered, what state held at its end.
Windows are (start, end]; a window's increase begins at the last look at or before its start. Counts are exact integers.
"""

import math
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from opslib import clock
from opslib.clock import Window
from opslib.page import SECOND, Page, Pages, tell_apart
from opslib.snapshot import COUNTERS, PROVIDERS, Look
from opslib.store import Store

SUMS = ("gross_sum_pct", "net_sum_pct", "commission_total_usd", "slippage_sum_usd")
_GROUPS = {group: tuple(c.name for c in COUNTERS if c.group == group) for group in ("massive", "tradier", "greeks", "pnl", "system")}
_ZEROED_BY_RESET = ("greeks", "pnl", "system")  # The app's partial reset() leaves the providers as they are.


@dataclass(frozen=True, slots=True)
class _Birth:
    """What a page's first look already held: it counts in windows that saw the page being loaded."""

    loaded_at_us: int | None
    ts_us: int
    value: float


class _Series:
    """The increases of one counter over all pages."""

    def __init__(self) -> None:
        self.steps: list[tuple[int, float]] = []
        self.births: list[_Birth] = []
        self.known = False

    def close(self) -> None:
        self.steps.sort(key=lambda s: s[0])
        self.at = [s[0] for s in self.steps]
        self.total: list[float] = [0]
        for _, rise in self.steps:
            self.total.append(self.total[-1] + rise)

    def rise(self, start_us: int, end_us: int) -> float:
        return self._stepped(start_us, end_us) + sum(b.value for b in self.births if start_us < b.ts_us <= end_us and b.loaded_at_us is not None and b.loaded_at_us > start_us)

    def came_to_light(self, start_us: int, end_us: int) -> float:
        return self._stepped(start_us, end_us) + sum(b.value for b in self.births if start_us < b.ts_us <= end_us)

    def _stepped(self, start_us: int, end_us: int) -> float:
        return self.total[bisect_right(self.at, end_us)] - self.total[bisect_right(self.at, start_us)]

    def last_rise_us(self, at_us: int) -> int | None:
        """When did it last rise, up to an instant?"""
        i = bisect_right(self.at, at_us)
        return max([*self.at[max(0, i - 1) : i], *(b.ts_us for b in self.births if b.ts_us <= at_us)], default=None)


def _sums(look: Look) -> dict[str, float | None]:
    """The page's running means as running sums, which can be subtracted; None where a NaN spoiled the mean."""
    n = look.trades
    times = lambda mean: 0.0 if n == 0 else None if mean is None or n is None else mean * n  # noqa: E731
    return {
        "gross_sum_pct": times(look.gross_mean_pct),
        "net_sum_pct": times(look.net_mean_pct),
        "commission_total_usd": look.commission_total_usd,
        "slippage_sum_usd": times(look.slippage_mean_usd),
    }


class Tape:
    """
    The looks of one app over some time, ready to be asked about any window inside it.

    Attributes:
        pages: The pages that were told apart.
        seq: The newest row it rests on, by the order of writing; 0 of none. Views record it.
        alive: Fields known to be wired (see `snapshot.NEVER_SEEN_ALIVE`).
        last_before_us: When the last look before the tape was; None where there was none.
    """

    def __init__(self, pages: Iterable[Page], how: Pages, *, alive: frozenset[str] = frozenset(), last_before_us: int | None = None):
        self.pages, self.how, self.alive, self.last_before_us = tuple(pages), how, alive, last_before_us
        self.seq = max((look.seq for page in self.pages for look in page.looks), default=0)
        self._series = {c.name: _Series() for c in COUNTERS} | {s: _Series() for s in SUMS} | {f"unknown {s}": _Series() for s in SUMS}
        for page in self.pages:
            self._unroll(page)
        for series in self._series.values():
            series.close()
        self._seen = _merged(span for page in self.pages for span in self._spans_under_our_eyes(page))
        self._all_ts = sorted(look.ts_us for page in self.pages for look in page.looks)

    def _unroll(self, page: Page) -> None:
        """Lay the increases of one page onto the tape."""
        last: dict[str, float] = {}
        before: Look | None = None
        for look in page.looks:
            began = self.began_again(last, before, look) if before else set()
            for group, names in _GROUPS.items():
                if before is None:
                    since = page.loaded_at_us if group not in PROVIDERS or page.providers_from_load else None
                    for name in names:
                        self._first(name, getattr(look, name), since, look.ts_us, last)
                else:
                    for name in names:
                        self._next(name, getattr(look, name), group in began, look.ts_us, last)
            sums = _sums(look)
            for name in SUMS:
                if before is None:
                    self._first(name, sums[name], page.loaded_at_us, look.ts_us, last)
                    if sums[name] is None and look.trades:
                        self._series[f"unknown {name}"].births.append(_Birth(page.loaded_at_us, look.ts_us, 1))
                elif sums[name] is not None and (name in last or "pnl" in began):
                    self._next(name, sums[name], "pnl" in began, look.ts_us, last)
                elif look.trades is not None and before.trades is not None and look.trades != before.trades:
                    last.pop(name, None)
                    self._series[f"unknown {name}"].steps.append((look.ts_us, 1))
            before = look

    def _first(self, name: str, value: float | None, since_us: int | None, ts_us: int, last: dict[str, float]) -> None:
        if value is not None:
            last[name] = value
            self._series[name].known = True
            if value:
                self._series[name].births.append(_Birth(since_us, ts_us, value))

    def _next(self, name: str, value: float | None, again: bool, ts_us: int, last: dict[str, float]) -> None:
        if value is None:
            return
        series = self._series[name]
        series.known = True
        rise = value if again else value - last.get(name, value)
        last[name] = value
        if rise:
            series.steps.append((ts_us, rise))

    def began_again(self, last: dict[str, float], before: Look, look: Look) -> set[str]:
        """Which groups of counters began again from zero, between what was last known of a page and its next look?"""
        again = set()
        for group, names in _GROUPS.items():
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
        return series.rise(clock.micros(window.start), clock.micros(window.end))

    def came_to_light(self, name: str, window: Window) -> Any:
        """
        By how much did what we know of a counter grow in a window, over all pages?

        Unlike `rise` it counts all that a page held when it was first seen, whenever it was loaded; so it adds up over
        any windows. None where nothing is known of the counter.
        """
        series = self._series[name]
        return series.came_to_light(clock.micros(window.start), clock.micros(window.end)) if series.known else None

    def rests_on(self, window: Window) -> Window:
        """The window, from where its increases begin: the oldest look before it that a page's increase is taken from."""
        start, bases = clock.micros(window.start), []
        for page, _ in self.seen_in(window):
            i = bisect_right(page.looks, start, key=lambda k: k.ts_us)
            bases += [page.looks[i - 1].ts_us] if i else []
        return Window(clock.instant(min(bases)), window.end) if bases else window

    def idle_for_s(self, at_us: int) -> float | None:
        """For how long, up to the last look, has no page counted a request? None where no provider is wired, or nothing was seen."""
        last = self.last_seen_us(at_us) if self._all_ts and self._all_ts[0] <= at_us else None
        live = [p for p in PROVIDERS if p in self.alive]
        if last is None or not live:
            return None
        rises = [r for p in live if (r := self._series[f"{p}_requests"].last_rise_us(at_us)) is not None]
        return (last - max(rises, default=self._all_ts[0])) / SECOND

    def spoiled(self, name: str, window: Window) -> bool:
        """Did trades happen in a window whose sum cannot be known, because a NaN spoiled the page's mean?"""
        return self._series[f"unknown {name}"].rise(clock.micros(window.start), clock.micros(window.end)) > 0

    def looks_in(self, window: Window) -> int:
        """How many looks came in a window, of all pages together?"""
        return bisect_right(self._all_ts, clock.micros(window.end)) - bisect_right(self._all_ts, clock.micros(window.start))

    def seen_in(self, window: Window) -> list[tuple[Page, Look]]:
        """The pages that were seen in a window, each with its last look in it; the one seen last comes last."""
        start, end = clock.micros(window.start), clock.micros(window.end)
        found = []
        for page in self.pages:
            i = bisect_right(page.looks, end, key=lambda k: k.ts_us)
            if i and page.looks[i - 1].ts_us > start:
                found.append((page, page.looks[i - 1]))
        return sorted(found, key=lambda f: f[1].ts_us)

    def open_at(self, at_us: int) -> list[tuple[Page, int]]:
        """The pages open at an instant, each with the index of its last look: one whose next look is not late yet."""
        found = []
        for page in self.pages:
            i = bisect_right(page.looks, at_us, key=lambda k: k.ts_us)
            if i and at_us - page.looks[i - 1].ts_us <= self.how.late_after * page.intervals_us[i - 1]:
                found.append((page, i - 1))
        return found

    def _spans_under_our_eyes(self, page: Page) -> Iterator[tuple[int, int]]:
        """When was this page looked at? A gap is counted by the looks that are missing in it."""
        looks = page.looks
        yield looks[0].ts_us - page.intervals_us[0], looks[0].ts_us
        for a, b, every in zip(looks, looks[1:], page.intervals_us[1:]):
            gap = b.ts_us - a.ts_us
            missing = max(0, math.ceil(gap / every - (self.how.late_after - 1)) - 1)
            yield a.ts_us, a.ts_us + gap - missing * every

    def _seen_until(self, end_us: int) -> list[tuple[int, int]]:
        """When was any page looked at, up to an instant? A next look that is not late yet is not missing."""
        awaited = ((page.looks[i].ts_us, end_us) for page, i in self.open_at(end_us))
        return _merged([*self._seen, *awaited])

    def coverage(self, window: Window) -> float | None:
        """
        Which share of the looks that were expected in a window came?

        Expected is one look at each page's own rhythm while the market is open; None where it never was. Several pages
        cover for each other.
        """
        expected = clock.open_spans(window)
        if not expected:
            return None
        seen = self._seen_until(clock.micros(window.end))
        total = sum(s.seconds for s in expected) * SECOND
        covered = sum(_overlap(seen, clock.micros(s.start), clock.micros(s.end)) for s in expected)
        return min(1.0, covered / total)

    def gaps(self, window: Window) -> list[Window]:
        """In which stretches of the open market did no look come?"""
        seen = self._seen_until(clock.micros(window.end))
        found = []
        for span in clock.open_spans(window):
            at, end = clock.micros(span.start), clock.micros(span.end)
            for a, b in seen:
                if b > at and a < end:
                    if a > at:
                        found.append((at, a))
                    at = max(at, b)
            if at < end:
                found.append((at, end))
        return [Window(clock.instant(a), clock.instant(b)) for a, b in found]

    def websocket_down_spans(self, window: Window) -> list[tuple[int, int]]:
        """When was some page's WebSocket down? A look's state holds until the page's next look, while that is not late."""
        start, end = clock.micros(window.start), clock.micros(window.end)
        spans = []
        for page in self.pages:
            for i, look in enumerate(page.looks):
                if look.websocket_connected is False and look.ts_us < end:
                    until = page.looks[i + 1].ts_us if i + 1 < len(page.looks) else end
                    reach = round(self.how.late_after * page.intervals_us[i])
                    a, b = max(look.ts_us, start), min(until, look.ts_us + reach, end)
                    if a < b:
                        spans.append((a, b))
        return _merged(spans)

    def websocket_down_for_s(self, as_of: datetime) -> float | None:
        """For how long, at an instant, has an open page been without its WebSocket? 0 is connected; None is unknown."""
        at, worst = clock.micros(as_of), None
        for page, i in self.open_at(at):
            if page.looks[i].websocket_connected is None:
                continue
            since = None
            while i >= 0 and page.looks[i].websocket_connected is False:
                since, i = page.looks[i].ts_us, i - 1
            down = 0.0 if since is None else (at - since) / SECOND
            worst = down if worst is None else max(worst, down)
        return worst

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
                if reloaded(before, look, self.how) and self.began_again(before._asdict(), before, look) & set(PROVIDERS):
                    found.append(look.ts_us - round(look.uptime_s * SECOND))
            if page.loaded_at_us is None:
                continue
            gave_way = [p for p in self.pages if p.looks[-1].ts_us < first.ts_us <= p.looks[-1].ts_us + gap and p.looks[-1].ts_us < page.loaded_at_us + p.intervals_us[-1] and id(p) not in gone]
            if gave_way:
                gone.add(id(max(gave_way, key=lambda p: p.looks[-1].ts_us)))
                found.append(page.loaded_at_us)
        return [clock.instant(at) for at in sorted(found) if start < at <= end]


def reloaded(before: Look, look: Look, how: Pages) -> bool:
    """
    Did the page's own time begin again between two looks: a reload of a named page, or the app's partial reset()?

    Its uptime rose by less than the time that passed, and it says that it was loaded later than before; a clock that
    was set moves only the one.
    """
    if before.uptime_s is None or look.uptime_s is None or before.load_ms is None or look.load_ms is None:
        return False
    passed_s = (look.ts_us - before.ts_us) / SECOND
    return look.uptime_s - before.uptime_s < passed_s - how.load_jitter_s and look.load_ms - before.load_ms > how.load_jitter_s * 1000


def _merged(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Spans in order, overlapping ones made one."""
    merged: list[tuple[int, int]] = []
    for a, b in sorted(spans):
        if merged and a <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], b))
        else:
            merged.append((a, b))
    return merged


def _overlap(spans: list[tuple[int, int]], start: int, end: int) -> int:
    return sum(max(0, min(b, end) - max(a, start)) for a, b in spans)


def load(store: Store, app: str, window: Window, known_at: datetime | None, how: Pages, *, post_every_s: float, wired: Iterable[str] = ()) -> Tape:
    """
    The looks of a window, with those before it that it needs to begin from.

    Its cost is that of the window, however long the history: from before the window only as much is read as two looks
    of one page may lie apart; for a page that was silent for longer, the looks about its last one; and for a socket that
    is down from the beginning, the look at which it went down.

    Args:
        known_at: Only what had come into the store by then; None is all that is known.
        wired: Fields declared live in the settings.
    """
    known = None if known_at is None else clock.micros(known_at)
    reset_gap_us, jitter_ms = round(how.reset_gap_s * SECOND), round(how.load_jitter_s * 1000)
    start, end = clock.micros(window.start) - reset_gap_us, clock.micros(window.end)
    looks = store.looks(app, start, end, known)
    pages = tell_apart(looks, how, post_every_s)
    earlier: list[Look] = []
    for page in pages:
        first = page.looks[0]
        which = {"page_id": first.page_id, "load_ms": first.load_ms, "jitter_ms": jitter_ms}
        if first.ts_us > clock.micros(window.start) and (page.loaded_at_us is None or page.loaded_at_us < start):
            found = store.last_look(app, start, known, **which)
            earlier += store.looks(app, found.ts_us - reset_gap_us, found.ts_us, known) if found else []
        if first.websocket_connected is False:
            connected = store.last_look(app, first.ts_us, known, connected=True, **which)
            since = store.first_look(app, connected.ts_us if connected else 0, known, **which)
            earlier += [since] if since else []
    if earlier:
        pages = tell_apart({look.seq: look for look in [*earlier, *looks]}.values(), how, post_every_s)
    before = store.last_look(app, start, known)
    return Tape(pages, how, alive=store.alive(app, known) | frozenset(wired), last_before_us=before.ts_us if before else None)
