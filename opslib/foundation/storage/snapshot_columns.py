"""Define the columns of a page snapshot: name, type, and which of them are counters."""

from dataclasses import dataclass
from typing import NamedTuple

PROVIDERS = ("massive", "tradier")


@dataclass(frozen=True, slots=True)
class Field:
    """
    One typed column: its name with its unit, its place in the page's JSON, and its kind.

    Attributes:
        name: Our name.
        path: Keys from the top of the JSON.
        kind: ``count`` (whole, from 0), ``number`` (finite), ``flag``, ``millis`` (since 1970), ``text``.
        group: The counters that the page resets together; empty if it is not a counter.
    """

    name: str
    path: tuple[str, ...]
    kind: str
    group: str = ""


def _provider(name: str) -> list[Field]:
    keys = {
        "requests": "requestCount",
        "successes": "successCount",
        "failures": "failureCount",
        "fallbacks": "fallbackCount",
    }
    return [Field(f"{name}_{ours}", ("providers", name, theirs), "count", name) for ours, theirs in keys.items()]


def _group(group: str, top: str, keys: dict[str, str], kind: str) -> list[Field]:
    return [Field(ours, (top, theirs), kind, group if kind == "count" else "") for ours, theirs in keys.items()]


FIELDS: tuple[Field, ...] = (
    *_provider("massive"),
    *_provider("tradier"),
    *_group(
        "greeks",
        "greeksQuality",
        {
            "validations": "totalTrades",
            "greeks_valid": "validGreeks",
            "greeks_estimated": "estimatedGreeks",
            "greeks_invalid": "validationErrors",
            "delta_out_of_bounds": "deltaOutOfBounds",
            "gamma_zero": "gammaIsZero",
            "iv_anomalies": "ivAnomalies",
        },
        "count",
    ),
    *_group("pnl", "pnl", {"trades": "totalTrades"}, "count"),
    *_group(
        "pnl",
        "pnl",
        {
            "gross_mean_pct": "avgGrossPnL",
            "net_mean_pct": "avgNetPnL",
            "commission_total_usd": "totalCommissionCost",
            "slippage_mean_usd": "avgSlippageCost",
            "backtest_variance_pp": "backtestVariance",
        },
        "number",
    ),
    *_group("system", "systemHealth", {"errors": "errorCount"}, "count"),
    *_group("system", "systemHealth", {"uptime_s": "uptime"}, "number"),
    Field("websocket_connected", ("systemHealth", "webSocketConnected"), "flag"),
    Field("last_error_at_ms", ("systemHealth", "lastErrorAt"), "millis"),
    Field("last_error_message", ("systemHealth", "lastErrorMessage"), "text"),
    Field("page_clock_ms", ("lastUpdateAt",), "millis"),
    Field("memory_bytes", ("client", "memoryBytes"), "count"),
    Field("page_id", ("page",), "text"),
)
COUNTERS: tuple[Field, ...] = tuple(f for f in FIELDS if f.group)
WIRED_FIELDS = {
    # The app does not record these yet: their zeros mean nothing until one of them has changed.
    "massive": ("massive_requests",),
    "tradier": ("tradier_requests",),
    "fallbacks": ("massive_fallbacks", "tradier_fallbacks"),
    "iv_anomalies": ("iv_anomalies",),
    "backtest_variance": ("backtest_variance_pp",),
    "websocket": ("websocket_connected",),
}


class SnapshotRow(NamedTuple):
    """
    One snapshot as read from the database: its identity, then `FIELDS` in their order; None for a missing value.

    Attributes:
        seq: Position in the database.
        ts_us: When it happened.
        known_at_us: When it was received.
        digest: SHA-256 of the canonical JSON.
        load_ms: When the page was loaded, by the page's clock.
        errors_by_type: JSON, None if the page did not send its Map.
    """

    seq: int
    ts_us: int
    known_at_us: int
    digest: bytes
    load_ms: int | None
    errors_by_type: str | None
    massive_requests: int | None
    massive_successes: int | None
    massive_failures: int | None
    massive_fallbacks: int | None
    tradier_requests: int | None
    tradier_successes: int | None
    tradier_failures: int | None
    tradier_fallbacks: int | None
    validations: int | None
    greeks_valid: int | None
    greeks_estimated: int | None
    greeks_invalid: int | None
    delta_out_of_bounds: int | None
    gamma_zero: int | None
    iv_anomalies: int | None
    trades: int | None
    gross_mean_pct: float | None
    net_mean_pct: float | None
    commission_total_usd: float | None
    slippage_mean_usd: float | None
    backtest_variance_pp: float | None
    errors: int | None
    uptime_s: float | None
    websocket_connected: bool | None
    last_error_at_ms: int | None
    last_error_message: str | None
    page_clock_ms: int
    memory_bytes: int | None
    page_id: str | None
