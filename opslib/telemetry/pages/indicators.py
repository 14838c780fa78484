"""Compute the figures of a window from the counters of pages; no limits, no words for people."""

import itertools
import json
from bisect import bisect_right
from datetime import datetime
from typing import Any

from opslib.foundation import clock, market_calendar
from opslib.foundation.clock import SECOND, Window
from opslib.foundation.storage.snapshot_columns import PROVIDERS, SnapshotRow
from opslib.telemetry.pages.counters import CounterHistory
from opslib.telemetry.pages.page_loads import SUMS, PageLoad, reloaded

LEAST_GAPS = 3  # From so many gaps between requests on it is said what is usual.


def _share(part: int | None, count: int | None) -> float | None:
    return None if part is None or not count or not 0 <= part <= count else part / count


def providers(tape: CounterHistory, window: Window) -> dict[str, dict[str, Any]]:
    """
    Were the providers there, by the app's own count of its requests?

    Returns:
        For each provider: requests, successes, failures, fallbacks (counts), availability (successes ÷ requests,
        0 to 1). None where it was never wired or cannot be known; availability is None of no requests.
    """
    found = {}
    for name in PROVIDERS:
        live = name in tape.alive
        rise = {
            what: tape.rise(f"{name}_{what}", window) if live else None
            for what in ("requests", "successes", "failures", "fallbacks")
        }
        if "fallbacks" not in tape.alive:
            rise["fallbacks"] = None
        found[name] = {"availability": _share(rise["successes"], rise["requests"])} | rise
    return found


def greeks(tape: CounterHistory, window: Window) -> dict[str, Any]:
    """
    Are the Greeks valid, by the app's own validator?

    Returns:
        validations, valid, invalid (at least one error), gamma_zero (zero or missing), delta_out_of_bounds,
        iv_anomalies (counts); valid_rate, gamma_zero_rate, delta_out_of_bounds_rate (÷ validations, 0 to 1).
    """
    counts = {
        name: tape.rise(column, window)
        for name, column in {
            "validations": "validations",
            "valid": "greeks_valid",
            "invalid": "greeks_invalid",
            "gamma_zero": "gamma_zero",
            "delta_out_of_bounds": "delta_out_of_bounds",
            "iv_anomalies": "iv_anomalies",
        }.items()
    }
    if "iv_anomalies" not in tape.alive:
        counts["iv_anomalies"] = None
    rates = {
        f"{name}_rate": _share(counts[name], counts["validations"])
        for name in ("valid", "gamma_zero", "delta_out_of_bounds")
    }
    return counts | rates


def decisive_variance(tape: CounterHistory, window: Window, at_least: int) -> tuple[PageLoad, SnapshotRow] | None:
    """
    Whose backtest variance counts: the worst of the open pages with enough trades, else that of the page with most; of
    none open, the last seen.
    """
    seen = tape.seen_in(window)
    open_now = {id(page) for page, _ in tape.open_at(window.end_us)}
    found = [f for f in seen if id(f[0]) in open_now] or seen[-1:]
    enough = [f for f in found if f[1].backtest_variance_pp is not None and (f[1].trades or 0) >= at_least]
    if enough:
        return max(enough, key=lambda f: abs(f[1].backtest_variance_pp or 0.0))
    return max(found, key=lambda f: f[1].trades or 0, default=None)


def pnl(tape: CounterHistory, window: Window, at_least: int) -> dict[str, Any]:
    """
    What came of the trades, by the app's own calculator?

    The page gives means since its load; mean × count is a sum, and sums can be subtracted.

    Args:
        at_least: Trades of a page below which its backtest variance says nothing.

    Returns:
        trades (calls of the calculator), gross_pct and net_pct (mean per trade, %), commission_usd and slippage_usd
        (sums), backtest_variance_pp (the last value of the page that counts, points) with variance_trades, the trades
        behind it.
    """
    trades = tape.rise("trades", window)
    sums = {s: None if tape.has_nan(s, window) else tape.rise(s, window) for s in SUMS}

    def mean(name: str) -> float | None:
        total = sums[name]
        return None if not trades or total is None else total / trades

    def cents(name: str) -> float | None:
        total = sums[name]
        return None if total is None else round(total, 2) + 0.0

    seen = decisive_variance(tape, window, at_least)
    last = seen[1] if seen and "backtest_variance" in tape.alive else None
    return {
        "trades": trades,
        "gross_pct": mean("gross_sum_pct"),
        "net_pct": mean("net_sum_pct"),
        "commission_usd": cents("commission_total_usd"),
        "slippage_usd": cents("slippage_sum_usd"),
        "backtest_variance_pp": last.backtest_variance_pp if last else None,
        "variance_trades": last.trades if last else None,
    }


def system(tape: CounterHistory, window: Window) -> dict[str, Any]:
    """
    How does the app's page feel?

    Returns:
        errors (count), errors_by_type (counts; None where the page's Map was lost), websocket_connected (at the end of
        the window), websocket_down_seconds (in it), websocket_down_for_s (at its end), restarts, pages (counts),
        memory_mb (the largest page), silent_for_s (since the last look or the market's open; None when closed),
        clock_skew_s (the page furthest off), last_error_message (the newest).
    """
    seen = tape.seen_in(window)
    live = "websocket" in tape.alive
    down_for = tape.websocket_down_for_s(window.end) if live else None
    skews = [page.skew_s for page, _ in seen]
    messages = [
        (look.last_error_at_ms, look.last_error_message)
        for _, look in seen
        if look.last_error_at_ms and look.last_error_message
    ]
    memory = [look.memory_bytes for _, look in seen if look.memory_bytes is not None]
    return {
        "errors": tape.rise("errors", window),
        "errors_by_type": _by_type(tape, window),
        "websocket_connected": None if down_for is None else down_for == 0,
        "websocket_down_seconds": round(sum(b - a for a, b in tape.websocket_down_spans(window)) / SECOND)
        if live and seen
        else None,
        "websocket_down_for_s": down_for,
        "restarts": len(tape.reloads(window)) if seen else None,
        "pages": len(seen),
        "memory_mb": round(max(memory) / 1e6, 2) if memory else None,
        "silent_for_s": silent_for_s(tape, window.end),
        "clock_skew_s": max(skews, key=abs) if skews else None,
        "last_error_message": max(messages)[1] if messages else None,
    }


def usual_gap_s(tape: CounterHistory, at_us: int, provider: str | None = None) -> float | None:
    """
    Seconds that usually pass between two requests of a page, by its own history before its last one.

    The longest gap but one, so that a single stop does not count as usual; of several open pages that of the busiest.
    Where no open page has been seen for long enough, the pages before it count. None where fewer than three gaps are
    known.
    """
    names = [f"{p}_requests" for p in PROVIDERS if p in tape.alive and provider in (None, p)]
    open_now = {id(page) for page, _ in tape.open_at(at_us)}
    found: dict[bool, list[float]] = {True: [], False: []}
    for page in tape.pages:
        last = bisect_right(page.times, at_us)
        first = bisect_right(page.times, at_us - round(2 * tape.how.idle_back_s * SECOND))
        looks = page.looks[first:last]
        rises = [
            look.ts_us
            for before, look in itertools.pairwise(looks)
            if any(getattr(look, n) not in (None, 0, getattr(before, n)) for n in names)
        ]
        recent = [us for us in rises if us > rises[-1] - round(tape.how.idle_back_s * SECOND)]
        gaps = sorted((b - a) / SECOND for a, b in itertools.pairwise(recent))
        if len(gaps) >= LEAST_GAPS:
            found[id(page) in open_now].append(gaps[-2])
    return min(found[True] or found[False], default=None)


def silent_for_s(tape: CounterHistory, as_of: datetime) -> float | None:
    """For how long, at an instant of the open market, has no look come? None when closed, or never seen."""
    at, opened = clock.micros(as_of), market_calendar.open_since(as_of)
    last = tape.last_seen_us(at)
    return None if last is None or opened is None else (at - max(clock.micros(opened), last)) / SECOND


def _fell(before: int | None, now: int | None) -> bool:
    return before is not None and now is not None and now < before


def _by_type(tape: CounterHistory, window: Window) -> dict[str, int] | None:
    """Errors of a window by type, from pages whose Map reaches us whole."""
    start, end = clock.micros(window.start), clock.micros(window.end)
    rises: dict[str, int] = {}
    told = False
    for page in tape.pages:
        before: dict[str, int] = {}
        for previous, look in zip((None, *page.looks), page.looks):
            now = json.loads(look.errors_by_type) if look.errors_by_type else {}
            if previous and (_fell(previous.errors, look.errors) or reloaded(previous, look, tape.how)):
                before = {}
            inside = start < look.ts_us <= end
            told |= inside and bool(now)
            for kind, count in now.items():
                rise = count - before[kind] if before.get(kind, count + 1) <= count else count
                new_page = look is page.looks[0] and not (page.loaded_at_us is not None and page.loaded_at_us > start)
                if inside and not new_page:
                    rises[kind] = rises.get(kind, 0) + rise
            before = now
    return {k: v for k, v in sorted(rises.items()) if v} if told else None
