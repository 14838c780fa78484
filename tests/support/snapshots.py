"""
Make snapshots, posts and histories for tests: bodies as the app's page posts them, one page at a time.

Time is that of an injected clock.
"""

import copy
import gzip
import json
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from opslib.foundation import clock, time_parsing
from opslib.foundation.clock import Window
from opslib.foundation.config.limits import PageLimits
from opslib.foundation.storage import snapshot_columns
from opslib.foundation.storage.database import Database
from opslib.foundation.storage.snapshot_columns import SnapshotRow
from opslib.telemetry.pages import counters, snapshot
from opslib.telemetry.pages.counters import CounterHistory
from opslib.telemetry.pages.page_loads import PageLoad, PageLoadTracker, in_order
from opslib.telemetry.pages.store import Post

HOW = PageLimits(
    load_jitter_s=5.0,
    reset_gap_s=300.0,
    late_after=1.7,
    bridged_s=60.0,
    closed_s=90.0,
    idle_times=2.0,
    idle_most=3.0,
    idle_back_s=1800.0,
)
OPENS = datetime(2026, 3, 10, 13, 30, tzinfo=UTC)  # 09:30 New York, already daylight saving time.
CLOSES = datetime(2026, 3, 10, 20, 0, tzinfo=UTC)
EVERY = 5.0


def at(seconds: float) -> datetime:
    """Return an instant, seconds after the open of the tests' trading day."""
    return OPENS + timedelta(seconds=seconds)


def us(seconds: float) -> int:
    """Return the same instant as microseconds since 1970."""
    return clock.micros(at(seconds))


def window(start: float, end: float) -> Window:
    """Return a window from and to seconds after the open."""
    return Window(at(start), at(end))


def body(**changed: Any) -> dict[str, Any]:
    """
    Return a whole dashboard-metrics body, as JSON.stringify gives it; names are those of `snapshot.FIELDS`.

    `drop` names fields that are absent; the rest replaces the value of a field.
    """
    drop = changed.pop("drop", ())
    made = {
        "providers": {
            p: {
                "provider": p,
                "requestCount": 100,
                "successCount": 99,
                "failureCount": 1,
                "avgResponseTimeMs": 202,
                "fallbackCount": 0,
                "lastUpdateAt": clock.micros(OPENS) // 1000,
                "uptime": 99,
            }
            for p in ("massive", "tradier")
        },
        "greeksQuality": {
            "totalTrades": 50,
            "validGreeks": 48,
            "estimatedGreeks": 2,
            "validationErrors": 1,
            "deltaOutOfBounds": 1,
            "gammaIsZero": 1,
            "ivAnomalies": 0,
            "lastUpdateAt": clock.micros(OPENS) // 1000,
        },
        "pnl": {
            "totalTrades": 4,
            "avgGrossPnL": 5.0,
            "avgNetPnL": 3.0,
            "totalCommissionCost": 5.28,
            "avgSlippageCost": 20.0,
            "costImpactPercent": 40.0,
            "backtestVariance": 3.0,
            "lastUpdateAt": clock.micros(OPENS) // 1000,
        },
        "systemHealth": {
            "apiAvgResponseTimeMs": 194,
            "webSocketConnected": True,
            "webSocketLatencyMs": 64,
            "errorCount": 1,
            "errorsByType": {},
            "uptime": 600,
        },
        "lastUpdateAt": clock.micros(OPENS) // 1000,
    }
    paths = {f.name: f.path for f in snapshot_columns.FIELDS} | {"errors_by_type": ("systemHealth", "errorsByType")}
    for name, value in changed.items():
        part = made
        for key in paths[name][:-1]:
            part = part.setdefault(key, {})
        part[paths[name][-1]] = value
    for name in drop:
        part = made
        for key in paths[name][:-1]:
            part = part[key]
        part.pop(paths[name][-1])
    return made


class PageOf:
    """
    One page load of the app: raise its counters by attribute, then take snapshots of it.

    Args:
        loaded: When it was loaded, true seconds after the open.
        skew: How far its clock is ahead of ours, seconds; may be changed at any time.
        page_id: What it posts as its name.
    """

    COUNTS = tuple(f.name for f in snapshot_columns.COUNTERS)

    def __init__(self, loaded: float, *, skew: float = 0.0, page_id: str | None = None, **held: Any):
        self.began, self.skew, self.page_id = loaded, skew, page_id
        self.held: dict[str, Any] = dict.fromkeys(self.COUNTS, 0)
        self.held |= {
            "gross_mean_pct": 0,
            "net_mean_pct": 0,
            "commission_total_usd": 0,
            "slippage_mean_usd": 0,
            "backtest_variance_pp": 0,
            "websocket_connected": True,
            **held,
        }

    def add(self, **more: int) -> "PageOf":
        """Raise counters; requests are successes and validations valid unless given otherwise."""
        for p in snapshot_columns.PROVIDERS:
            if f"{p}_requests" in more and f"{p}_successes" not in more:
                more[f"{p}_successes"] = more[f"{p}_requests"]
        if "validations" in more and "greeks_valid" not in more:
            more["greeks_valid"] = more["validations"]
        for name, count in more.items():
            self.held[name] += count
        return self

    def zero(self, *groups: str) -> "PageOf":
        """Set groups of counters to zero, and nothing else."""
        for field in snapshot_columns.FIELDS:
            if field.group in groups:
                self.held[field.name] = 0
        if "pnl" in groups:
            self.held |= {
                "gross_mean_pct": 0,
                "net_mean_pct": 0,
                "commission_total_usd": 0,
                "slippage_mean_usd": 0,
                "backtest_variance_pp": 0,
            }
        return self

    def reset(self, seconds: float) -> "PageOf":
        """Apply the app's partial reset(): Greeks, P&L, errors and start restart; providers and the last error stay."""
        self.began = seconds
        return self.zero("greeks", "pnl", "system")

    def refresh(self, seconds: float) -> "PageOf":
        """Load the page again."""
        self.held.pop("last_error_at_ms", None)
        self.held.pop("last_error_message", None)
        self.began = seconds
        return self.zero("massive", "tradier", "greeks", "pnl", "system")

    def body(self, seconds: float, **changed: Any) -> dict[str, Any]:
        """
        Return a whole dashboard-metrics body, as JSON.stringify gives it; names are those of `snapshot.FIELDS`.

        `drop` names fields that are absent; the rest replaces the value of a field.
        """
        clock_ms = round((us(seconds) / 1e6 + self.skew) * 1000)
        said = {**self.held, "uptime_s": int(seconds - self.began), "page_clock_ms": clock_ms}
        said |= {"page_id": self.page_id} if self.page_id else {}
        return body(**{**said, **changed})

    def snapshot(self, seconds: float, **changed: Any) -> SnapshotRow:
        """Return a snapshot of it, received at that instant."""
        return snapshot_row(seconds, self.body(seconds, **changed))


_made = iter(range(1, 10**12))


def snapshot_row(seconds: float, metrics: dict[str, Any], *, known: float | None = None) -> SnapshotRow:
    """Return a snapshot as read from the database."""
    found = snapshot.read(metrics)
    return SnapshotRow(
        seq=next(_made),
        ts_us=us(seconds),
        known_at_us=us(seconds if known is None else known),
        digest=found.digest,
        **found.values,
    )


def page_loads(snapshots: Iterable[SnapshotRow], how: PageLimits, every: float) -> tuple[PageLoad, ...]:
    """Return the page loads that posted these snapshots, in order of their first snapshot."""
    telling = PageLoadTracker(how, every)
    for k in in_order(snapshots):
        telling.take(k)
    if telling.needs_rebuild:
        telling.rebuild()
    return tuple(telling.pages)


def counter_history(
    snapshots: Iterable[SnapshotRow], *, wired: Iterable[str] | None = None, every: float = EVERY
) -> CounterHistory:
    """Return a counter history of snapshots, without a database; every field is wired unless given otherwise."""
    made = CounterHistory(HOW, every, wired=frozenset(snapshot_columns.WIRED_FIELDS if wired is None else wired))
    made.add(snapshots)
    return made


def post(seconds: float, metrics: dict[str, Any]) -> Post:
    """Return a post as the receiver stores it."""
    return Post(us(seconds), snapshot.read(copy.deepcopy(metrics)))


def store(folder: Path, now: datetime = CLOSES) -> Database:
    """Return an empty database of the test, with a stopped clock."""
    return Database(f"sqlite:///{folder / 'store.sqlite'}", lambda: now)


def stored_history(
    kept: Database, start: float, end: float, known: float | None = None, every: float = EVERY
) -> CounterHistory:
    """Return the counter history of a window, read from the database."""
    known_at = None if known is None else at(known)
    return counters.load(kept, "desk", window(start, end), known_at, HOW, post_every_s=every)


def recorded_rows(folder: Path) -> list[tuple[datetime, dict[str, Any]]]:
    """Return the rows of the recorded day: when each happened, and what was posted."""
    with gzip.open(folder / "snapshots.jsonl.gz", "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    return [(time_parsing.parse(row["ts"]), row["metrics"]) for row in rows]


def snapshot_of(instant: datetime, metrics: dict[str, Any]) -> SnapshotRow:
    """Return a snapshot received at an instant."""
    return snapshot_row((instant - OPENS).total_seconds(), metrics)
