"""
Simulate the counters of the app's page and the snapshots it posts.

The arithmetic is that of the real page, with its defects: averages rounded at every step, uptime as a whole percentage
that is 100 before any request, error types that are lost in JSON, a WebSocket latency that remains after the socket is
closed. All figures count from the page load.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from math import floor, pi, sin
from typing import Any

from opslib.simulation.world.script import Event, PageLife, Script

CLOCK_WANDER_PERIOD_S = 47
MEMORY_AT_LOAD_BYTES = 31_000_000
MEMORY_GROWTH_BYTES_PER_S = 360


@dataclass(frozen=True, slots=True)
class Post:
    """One posted snapshot: the true UTC instant of arrival, the key of the page load, and the body."""

    at: datetime
    page: str
    body: dict[str, Any]


def _js_round(value: float) -> int:
    """Round as JavaScript's Math.round does: halves up."""
    return floor(value + 0.5)


class Page:
    """One load of the app's page; its input is in true UTC, its output in the page's clock."""

    def __init__(self, life: PageLife) -> None:
        self._life = life
        self._loaded_ms = self._clock_ms(life.loaded_at)
        self._providers = {name: self._new_provider(name) for name in ("massive", "tradier")}
        self._greeks = {
            "totalTrades": 0,
            "validGreeks": 0,
            "estimatedGreeks": 0,
            "validationErrors": 0,
            "deltaOutOfBounds": 0,
            "gammaIsZero": 0,
            "ivAnomalies": 0,
            "lastUpdateAt": self._loaded_ms,
        }
        self._pnl: dict[str, float] = {
            "totalTrades": 0,
            "avgGrossPnL": 0,
            "avgNetPnL": 0,
            "totalCommissionCost": 0,
            "avgSlippageCost": 0,
            "costImpactPercent": 0,
            "backtestVariance": 0,
            "lastUpdateAt": self._loaded_ms,
        }
        self._api_average_ms = 0
        self._socket_connected = False
        self._socket_latency_ms = 0
        self._error_count = 0
        self._last_error: dict[str, object] = {}

    def apply(self, event: Event) -> None:
        """Count one event of this page; events must be in time order."""
        now_ms = self._clock_ms(event.at)
        data = event.data
        match event.kind:
            case "request":
                self._count_request(data["provider"], data["ms"], data["ok"], now_ms)
            case "fallback":
                self._providers[data["provider"]]["fallbackCount"] += 1
            case "greeks":
                self._count_validation(data["valid"], data["estimated"], data["errors"], now_ms)
            case "iv_anomaly":
                self._greeks["ivAnomalies"] += 1
            case "trade":
                self._count_trade(data, now_ms)
            case "variance":
                self._pnl["backtestVariance"] = data["points"]
            case "error":
                self._error_count += 1
                self._last_error["lastErrorAt"] = now_ms
                if data["message"]:
                    self._last_error["lastErrorMessage"] = data["message"]
            case "ws":
                self._socket_connected = data["connected"]
            case "ws_latency":
                self._socket_latency_ms = data["ms"]
            case _:
                raise ValueError(f"a page cannot count a {event.kind!r} event")

    def body(self, now: datetime) -> dict[str, Any]:
        """Return the body posted at the true UTC instant `now`: a new dict, in the page's key order."""
        now_ms = self._clock_ms(now)
        body = {
            "providers": {name: dict(provider) for name, provider in self._providers.items()},
            "greeksQuality": dict(self._greeks),
            "pnl": dict(self._pnl),
            "systemHealth": {
                "apiAvgResponseTimeMs": self._api_average_ms,
                "webSocketConnected": self._socket_connected,
                "webSocketLatencyMs": self._socket_latency_ms,
                "errorCount": self._error_count,
                "errorsByType": {},
                "uptime": (now_ms - self._loaded_ms) // 1000,
                **self._last_error,
            },
            "lastUpdateAt": now_ms,
        }
        if self._life.page_id is not None:
            open_s = (now - self._life.loaded_at).total_seconds()
            grown_bytes = round(MEMORY_GROWTH_BYTES_PER_S * open_s)
            body["page"] = self._life.page_id
            body["client"] = {"memoryBytes": MEMORY_AT_LOAD_BYTES + grown_bytes}
        return body

    def _clock_ms(self, at: datetime) -> int:
        """Return milliseconds since 1970 by the page's clock, with its skew and jitter."""
        true_s = at.timestamp()
        wander = sin(2 * pi * (true_s % CLOCK_WANDER_PERIOD_S) / CLOCK_WANDER_PERIOD_S)
        off_s = self._life.clock_skew_s + self._life.clock_jitter_s * wander
        return round((true_s + off_s) * 1000)

    def _new_provider(self, name: str) -> dict[str, Any]:
        return {
            "provider": name,
            "requestCount": 0,
            "successCount": 0,
            "failureCount": 0,
            "avgResponseTimeMs": 0,
            "fallbackCount": 0,
            "lastUpdateAt": self._loaded_ms,
            "uptime": 100,
        }

    def _count_request(self, name: str, ms: int, ok: bool, now_ms: int) -> None:
        provider = self._providers[name]
        provider["requestCount"] += 1
        provider["successCount" if ok else "failureCount"] += 1
        count = provider["requestCount"]
        mean_ms = (provider["avgResponseTimeMs"] * (count - 1) + ms) / count
        provider["avgResponseTimeMs"] = _js_round(mean_ms)
        provider["uptime"] = _js_round(100 * provider["successCount"] / count)
        provider["lastUpdateAt"] = now_ms
        if name == "massive" and ok:
            old_ms = self._api_average_ms
            self._api_average_ms = _js_round((100 * old_ms + ms) / 101) if old_ms else ms

    def _count_validation(self, valid: bool, estimated: bool, errors: tuple[str, ...], now_ms: int) -> None:
        greeks = self._greeks
        greeks["totalTrades"] += 1
        greeks["validGreeks" if valid and not estimated else "estimatedGreeks"] += 1
        greeks["validationErrors"] += bool(errors)
        greeks["deltaOutOfBounds"] += sum("Delta" in text for text in errors)
        greeks["gammaIsZero"] += sum("Gamma" in text for text in errors)
        greeks["lastUpdateAt"] = now_ms

    def _count_trade(self, trade: Mapping[str, float], now_ms: int) -> None:
        pnl = self._pnl
        pnl["totalTrades"] += 1
        count = pnl["totalTrades"]
        for field, value in (
            ("avgGrossPnL", trade["gross_pct"]),
            ("avgNetPnL", trade["net_pct"]),
            ("avgSlippageCost", trade["slippage_usd"]),
        ):
            pnl[field] = (pnl[field] * (count - 1) + value) / count
        pnl["totalCommissionCost"] += trade["commission_usd"]
        if pnl["avgGrossPnL"]:
            lost = (pnl["avgGrossPnL"] - pnl["avgNetPnL"]) / pnl["avgGrossPnL"]
            pnl["costImpactPercent"] = abs(lost) * 100
        pnl["lastUpdateAt"] = now_ms


def posts(script: Script) -> Iterator[Post]:
    """
    Yield every post of the day in time order (ties by page key).

    A body counts all events of its page up to and including its instant.
    """
    pages = {life.key: Page(life) for life in script.pages}
    instants = sorted((at, life.key) for life in script.pages for at in life.post_instants())
    applied = 0
    for at, key in instants:
        while applied < len(script.events) and script.events[applied].at <= at:
            event = script.events[applied]
            pages[event.page].apply(event)
            applied += 1
        yield Post(at, key, pages[key].body(at))
