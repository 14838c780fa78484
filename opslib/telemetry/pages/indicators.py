"""Compute the figures of a window from the counters of pages, without thresholds and texts."""

import itertools
import json
from bisect import bisect_left, bisect_right
from datetime import datetime
from typing import Any

from opslib.foundation import clock, market_calendar
from opslib.foundation.clock import SECOND, Window
from opslib.foundation.storage.snapshot_columns import PROVIDERS, SnapshotRow
from opslib.telemetry.pages.counters import CounterHistory
from opslib.telemetry.pages.page_loads import SUMS, PageLoad

LEAST_GAPS = 3  # The usual gap between requests is computed from at least this many.


def _share(part: int | None, count: int | None) -> float | None:
    return None if part is None or not count or not 0 <= part <= count else part / count


def providers(history: CounterHistory, window: Window) -> dict[str, dict[str, Any]]:
    """
    Compute the figures of the providers from the app's own count of its requests.

    Returns:
        For each provider: requests, successes, failures, fallbacks (counts), availability (successes ÷ requests,
        0 to 1). None if a field was never wired or is unknown; availability is None without requests.
    """
    found = {}
    for name in PROVIDERS:
        live = name in history.wired
        increase = {
            what: history.increase(f"{name}_{what}", window) if live else None
            for what in ("requests", "successes", "failures", "fallbacks")
        }
        if "fallbacks" not in history.wired:
            increase["fallbacks"] = None
        found[name] = {"availability": _share(increase["successes"], increase["requests"])} | increase
    return found


def greeks(history: CounterHistory, window: Window) -> dict[str, Any]:
    """
    Compute the figures of the Greeks from the app's own validator.

    Returns:
        validations, valid, invalid (at least one error), gamma_zero (zero or missing), delta_out_of_bounds,
        iv_anomalies (counts); valid_rate, gamma_zero_rate, delta_out_of_bounds_rate (÷ validations, 0 to 1).
    """
    counts = {
        name: history.increase(column, window)
        for name, column in {
            "validations": "validations",
            "valid": "greeks_valid",
            "invalid": "greeks_invalid",
            "gamma_zero": "gamma_zero",
            "delta_out_of_bounds": "delta_out_of_bounds",
            "iv_anomalies": "iv_anomalies",
        }.items()
    }
    if "iv_anomalies" not in history.wired:
        counts["iv_anomalies"] = None
    rates = {
        f"{name}_rate": _share(counts[name], counts["validations"])
        for name in ("valid", "gamma_zero", "delta_out_of_bounds")
    }
    return counts | rates


def decisive_variance(history: CounterHistory, window: Window, at_least: int) -> tuple[PageLoad, SnapshotRow] | None:
    """
    Return the page load whose backtest variance counts, with its last snapshot.

    It is the worst of the open pages with enough trades, else the page with most trades. If no page is open, the last
    one counts.
    """
    seen = history.pages_in(window)
    open_now = {id(page) for page, _ in history.open_at(window.end_us)}
    found = [f for f in seen if id(f[0]) in open_now] or seen[-1:]
    enough = [f for f in found if f[1].backtest_variance_pp is not None and (f[1].trades or 0) >= at_least]
    if enough:
        return max(enough, key=lambda f: abs(f[1].backtest_variance_pp or 0.0))
    return max(found, key=lambda f: f[1].trades or 0, default=None)


def pnl(history: CounterHistory, window: Window, at_least: int) -> dict[str, Any]:
    """
    Compute the figures of the trades from the app's own calculator.

    The page posts means since its load; mean × count is a sum, and sums can be subtracted.

    Args:
        at_least: The number of trades that a page needs for a meaningful backtest variance.

    Returns:
        trades (calls of the calculator), gross_pct and net_pct (mean per trade, %), commission_usd and slippage_usd
        (sums), backtest_variance_pp (the last value of the page that counts, points) with variance_trades, the trades
        behind it.
    """
    trades = history.increase("trades", window)
    sums = {s: None if history.has_nan(s, window) else history.increase(s, window) for s in SUMS}

    def mean(name: str) -> float | None:
        total = sums[name]
        return None if not trades or total is None else total / trades

    def cents(name: str) -> float | None:
        total = sums[name]
        return None if total is None else round(total, 2) + 0.0

    seen = decisive_variance(history, window, at_least)
    last = seen[1] if seen and "backtest_variance" in history.wired else None
    return {
        "trades": trades,
        "gross_pct": mean("gross_sum_pct"),
        "net_pct": mean("net_sum_pct"),
        "commission_usd": cents("commission_total_usd"),
        "slippage_usd": cents("slippage_sum_usd"),
        "backtest_variance_pp": last.backtest_variance_pp if last else None,
        "variance_trades": last.trades if last else None,
    }


def system(history: CounterHistory, window: Window) -> dict[str, Any]:
    """
    Compute the figures of the app's pages.

    Returns:
        errors (count), errors_by_type (counts; None where the page's Map was lost), websocket_connected (at the end of
        the window), websocket_down_seconds (in it), websocket_down_for_s (at its end), restarts, pages (counts),
        memory_mb (the largest page), silent_for_s (since the last snapshot or the market's open; None when closed),
        clock_skew_s (the page furthest off), last_error_message (the newest).
    """
    seen = history.pages_in(window)
    live = "websocket" in history.wired
    down_for = history.websocket_down_for_s(window.end) if live else None
    skews = [page.skew_s for page, _ in seen]
    messages = [
        (snapshot.last_error_at_ms, snapshot.last_error_message)
        for _, snapshot in seen
        if snapshot.last_error_at_ms and snapshot.last_error_message
    ]
    memory = [snapshot.memory_bytes for _, snapshot in seen if snapshot.memory_bytes is not None]
    return {
        "errors": history.increase("errors", window),
        "errors_by_type": _by_type(history, window),
        "websocket_connected": None if down_for is None else down_for == 0,
        "websocket_down_seconds": round(sum(b - a for a, b in history.websocket_down_spans(window)) / SECOND)
        if live and seen
        else None,
        "websocket_down_for_s": down_for,
        "restarts": len(history.reloads(window)) if seen else None,
        "pages": len(seen),
        "memory_mb": round(max(memory) / 1e6, 2) if memory else None,
        "silent_for_s": silent_for_s(history, window.end),
        "clock_skew_s": max(skews, key=abs) if skews else None,
        "last_error_message": max(messages)[1] if messages else None,
    }


def usual_gap_s(history: CounterHistory, at_us: int, provider: str | None = None) -> float | None:
    """
    Return the usual seconds between two requests of a page, from its own history before the last one.

    It is the second longest gap, so that a single stop does not count as usual; of several open pages, that of the
    busiest. If no open page has enough history, earlier pages count. None if fewer than three gaps are known.
    """
    names = [f"{p}_requests" for p in PROVIDERS if p in history.wired and provider in (None, p)]
    open_now = {id(page) for page, _ in history.open_at(at_us)}
    found: dict[bool, list[float]] = {True: [], False: []}
    for page in history.pages:
        last = bisect_right(page.times, at_us)
        first = bisect_right(page.times, at_us - round(2 * history.how.idle_back_s * SECOND))
        snapshots = page.snapshots[first:last]
        increases = [
            snapshot.ts_us
            for before, snapshot in itertools.pairwise(snapshots)
            if any(getattr(snapshot, n) not in (None, 0, getattr(before, n)) for n in names)
        ]
        recent = [us for us in increases if us > increases[-1] - round(history.how.idle_back_s * SECOND)]
        gaps = sorted((b - a) / SECOND for a, b in itertools.pairwise(recent))
        if len(gaps) >= LEAST_GAPS:
            found[id(page) in open_now].append(gaps[-2])
    return min(found[True] or found[False], default=None)


def silent_for_s(history: CounterHistory, as_of: datetime) -> float | None:
    """Return the seconds without a snapshot while the market is open; None when closed, or without any snapshot."""
    at, opened = clock.micros(as_of), market_calendar.open_since(as_of)
    last = history.last_seen_us(at)
    return None if last is None or opened is None else (at - max(clock.micros(opened), last)) / SECOND


def _fell(before: int | None, now: int | None) -> bool:
    return before is not None and now is not None and now < before


def _types(snapshot: SnapshotRow) -> dict[str, int]:
    found: dict[str, int] = json.loads(snapshot.errors_by_type) if snapshot.errors_by_type else {}
    return found


def _by_type(history: CounterHistory, window: Window) -> dict[str, int] | None:
    """Return the errors of a window by type, from pages that post the complete Map."""
    start, end = clock.micros(window.start), clock.micros(window.end)
    increases: dict[str, int] = {}
    known = False
    for page in history.pages:
        first, last = bisect_right(page.times, start), bisect_right(page.times, end)
        changed = page.errors_changed
        among = changed[bisect_right(changed, first) : bisect_left(changed, last)]
        for i in (first, *among) if first < last else ():
            snapshot, previous = page.snapshots[i], page.snapshots[i - 1] if i else None
            again = previous is None or _fell(previous.errors, snapshot.errors) or i in page.reloaded
            had, now = {} if previous is None or again else _types(previous), _types(snapshot)
            known = known or bool(now)
            if i == 0 and not (page.loaded_at_us is not None and page.loaded_at_us > start):
                continue
            for kind, count in now.items():
                increase = count - had[kind] if had.get(kind, count + 1) <= count else count
                increases[kind] = increases.get(kind, 0) + increase
    return {k: v for k, v in sorted(increases.items()) if v} if known else None
