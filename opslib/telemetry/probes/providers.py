"""
Define the probe requests to Massive, Tradier and the app, and read their responses.

Three things are tested: the server responds (liveness), our plan includes the data (entitlement), and the data is
recent (freshness). One request for option data tests the last two, which can fail while the first passes.
"""

import json
import math
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from opslib.foundation import market_calendar
from opslib.foundation.config.limits import ProbeLimits
from opslib.foundation.config.settings import Settings
from opslib.foundation.formatting import NEW_YORK
from opslib.telemetry.probes.http import ProbeReading, ProbeRequest

PAGE_LIMIT, MOST_PAGES = "250", 60
FEW = "50"
LISTENED_TO = 8  # Contracts subscribed to on the WebSocket: a single one may have no messages on a normal day.
CHAIN_BYTES = 16 << 20


def _bearer(token: str | None) -> tuple[tuple[str, str], ...]:
    return (("Authorization", f"Bearer {token}"),) if token else ()


def _skew_s(theirs: datetime, middle: datetime) -> float:
    """Return by how many seconds their clock is ahead of ours."""
    return round((theirs - middle).total_seconds(), 2)


class Moment(NamedTuple):
    """
    The moment for which the age of data is computed.

    Attributes:
        at: By the clock that dates the data.
        open_s: The seconds since the market opened; None while it is closed.
    """

    at: datetime
    open_s: float | None


def by_calendar(subject: str, middle: datetime) -> Moment:
    """
    Return the moment by our clock and calendar, without regard to the provider's clock and market status.
    """
    opened = market_calendar.open_since(middle)
    return Moment(middle, None if opened is None else (middle - opened).total_seconds())


def no_comparison(results: list[Any]) -> dict[str, int]:
    """Compare the contracts of a probe with nothing; the default."""
    return {}


def questions(
    settings: Settings,
    limits: ProbeLimits,
    moment: Callable[[str, datetime], Moment] = by_calendar,
    compare: Callable[[list[Any]], dict[str, int]] = no_comparison,
) -> list[ProbeRequest]:
    """
    List the probe requests for everything in the settings.

    Args:
        moment: Returns the moment at which data is evaluated, for a provider and the middle of an attempt.
        compare: Returns the differences between the contracts of Massive's response and an earlier one; they are stored
            with the sample.
    """
    found = []
    if settings.massive_url:
        headers = _bearer(settings.secret("OPS_MASSIVE_TOKEN"))
        found.append(
            ProbeRequest(
                "liveness", "massive", f"{settings.massive_url}/v1/marketstatus/now", _massive_clock, headers=headers
            )
        )
        if settings.symbols:

            def fresh(payload: Any, middle: datetime) -> ProbeReading:
                return _massive_data(payload, moment("massive", middle), limits, compare)

            found.append(
                ProbeRequest(
                    "data",
                    "massive",
                    f"{settings.massive_url}/v3/snapshot/options/{settings.symbols[0]}",
                    fresh,
                    (("limit", FEW),),
                    headers,
                )
            )
    if settings.tradier_url:
        headers, base = _bearer(settings.secret("OPS_TRADIER_TOKEN")), _versioned(settings.tradier_url)
        found.append(
            ProbeRequest(
                "liveness", "tradier", f"{base}/markets/clock", _tradier_clock, headers=headers, json_only=False
            )
        )
        if settings.symbols:
            # The sandbox has delayed data, which its responses do not state.
            sandbox = "sandbox" in str(urlsplit(base).hostname)

            def quoted(payload: Any, middle: datetime) -> ProbeReading:
                return _tradier_quotes(payload, moment("tradier", middle), limits, sandbox)

            found.append(
                ProbeRequest(
                    "data",
                    "tradier",
                    f"{base}/markets/quotes",
                    quoted,
                    (("symbols", settings.symbols[0].removeprefix("I:")),),
                    headers,
                    json_only=False,
                )
            )
    if settings.app_url:
        found.append(ProbeRequest("health", "app", f"{settings.app_url}/api/health", _app_health))
        found.append(ProbeRequest("metrics", "app", f"{settings.app_url}/api/metrics", _app_metrics))
    return found


def _versioned(url: str) -> str:
    """Return Tradier's address with its version."""
    return url if urlsplit(url).path.rstrip("/").endswith("/v1") else f"{url}/v1"


def _massive_clock(payload: Any, middle: datetime) -> ProbeReading:
    if _massive_error(payload):
        return ProbeReading("server_5xx", detail={"said": "an error object with status 200"})
    stated = payload.get("serverTime")  # Only the market field is required: the vendor guarantees no field.
    return ProbeReading(
        "ok",
        detail={"market": str(payload["market"])[:20]}
        | ({"skew_s": _skew_s(datetime.fromisoformat(stated), middle)} if stated else {}),
    )


def _massive_error(payload: Any) -> bool:
    """Return whether a response with status 200 is an error, which is not an empty response."""
    return (
        isinstance(payload, dict)
        and payload.get("status") in ("ERROR", "NOT_AUTHORIZED")
        and not payload.get("results")
    )


def _tradier_clock(payload: Any, middle: datetime) -> ProbeReading:
    if _tradier_error(payload):
        return ProbeReading("server_5xx", detail={"said": "an error object with status 200"})
    stated = payload["clock"]
    return ProbeReading(
        "ok",
        detail={
            "market": str(stated["state"])[:20],
            "skew_s": _skew_s(datetime.fromtimestamp(stated["timestamp"], UTC), middle),
        },
    )


def _tradier_error(payload: Any) -> bool:
    """Return whether a response of Tradier is an error object, which it may send with status 200."""
    return isinstance(payload, dict) and any(key in payload for key in ("error", "errors", "fault"))


def _aged(
    groups: list[list[tuple[float, bool]]], moment: Moment, limits: ProbeLimits, detail: dict[str, Any]
) -> ProbeReading:
    """
    Return whether data is stale, by its age during market hours; there are no quotes while the market is closed.

    Args:
        groups: For each kind of data its times (seconds since 1970), each with whether the plan delays it. The newest
            of each kind counts, and the oldest of these, so that a new price does not hide an old quote.
    """

    def late(stamp: float, delayed: bool) -> float:
        return moment.at.timestamp() - stamp - (limits.delayed_by_s if delayed else 0.0)

    newest = [min(group, key=lambda s: late(*s)) for group in groups]
    stamp, delayed = max(newest, key=lambda s: late(*s))
    age_s, open_s = round(max(0.0, moment.at.timestamp() - stamp), 1), 0.0 if moment.open_s is None else moment.open_s
    late_s = min(late(stamp, delayed), open_s - (limits.delayed_by_s if delayed else 0.0))
    return ProbeReading("stale" if late_s > limits.stale_after_s else "ok", age_s, detail | {"delayed": delayed})


def _stamp_s(found: Any) -> float | None:
    """Convert a time in nanoseconds (or a coarser unit, by its size) to seconds."""
    if isinstance(found, bool) or not isinstance(found, (int, float)) or not math.isfinite(found) or found <= 0:
        return None
    seconds: float = found / 10 ** max(0, 3 * round((math.log10(found) - 9.2) / 3))
    return seconds


def _massive_data(
    payload: Any, moment: Moment, limits: ProbeLimits, compare: Callable[[list[Any]], dict[str, int]] = no_comparison
) -> ProbeReading:
    results = payload.get("results") or []
    if not isinstance(payload.get("status"), str) or not isinstance(results, list):
        raise KeyError("status, results")
    if _massive_error(payload):
        return ProbeReading("server_5xx", detail={"said": "an error object with status 200"})
    if not results:
        return ProbeReading("ok_empty", detail={"contracts": 0})
    detail = {"contracts": len(results), "busiest": busiest(results, today(moment.at))} | compare(results)
    # Trades of rarely traded contracts are old on a normal day, so they are not used for the age.
    kinds = [
        [
            (s, part.get("timeframe") == "DELAYED")
            for r in results
            if (part := r.get(name)) and (s := _stamp_s(part.get("last_updated")))
        ]
        for name in ("last_quote", "underlying_asset")
    ]
    groups = [group for group in kinds if group]
    if not groups:
        return ProbeReading("ok", None, detail | {"why": "no quote has a time: the plan does not include it"})
    return _aged(groups, moment, limits, detail)


def busiest(results: list[Mapping[str, Any]], day: date) -> list[str]:
    """Return the contracts most likely to have messages: the most traded that do not expire that day."""
    known = [(r, r["details"]) for r in results if isinstance(r.get("details"), Mapping) and r["details"].get("ticker")]
    later = [(r, d) for r, d in known if str(d.get("expiration_date", "")) > day.isoformat()] or known

    def volume(r: Mapping[str, Any]) -> float:
        return (r.get("day") or {}).get("volume") or 0

    return [
        str(d["ticker"])[:40]
        for _, d in sorted(later, key=lambda k: (-volume(k[0]), str(k[1]["ticker"])))[:LISTENED_TO]
    ]


def _tradier_quotes(payload: Any, moment: Moment, limits: ProbeLimits, delayed: bool) -> ProbeReading:
    if _tradier_error(payload):
        return ProbeReading("server_5xx", detail={"said": "an error object with status 200"})
    quotes = payload["quotes"]
    found = (quotes or {}).get("quote") if isinstance(quotes, dict) else None
    if not found:
        return ProbeReading("ok_empty")
    rows = found if isinstance(found, list) else [found]
    stamps = [
        s for row in rows for s in (_stamp_s(row.get(key)) for key in ("trade_date", "bid_date", "ask_date")) if s
    ]
    if not stamps:
        return ProbeReading("ok", None, {"why": "the quote has no time"})
    return _aged([[(s, delayed) for s in stamps]], moment, limits, {})


def _app_health(payload: Any, middle: datetime) -> ProbeReading:
    stated = datetime.fromisoformat(payload["timestamp"])
    if stated.tzinfo is None or isinstance(payload["uptime"], bool):
        raise ValueError("timestamp without an offset, or invalid uptime")
    outcome = "ok" if payload["status"] == "ok" else "server_5xx"
    return ProbeReading(
        outcome, float(payload["uptime"]), {"skew_s": _skew_s(stated, middle), "said": str(payload["status"])[:40]}
    )


def _app_metrics(payload: Any, middle: datetime) -> ProbeReading:
    return ProbeReading("ok", detail={"status": str(payload["status"])[:40]})


def upstream_question(settings: Settings) -> ProbeRequest:
    """
    Return the request for the app's own report of its upstream WebSocket.

    A version of the app without this route responds with a web page or 404. The report may have status 503.
    """
    endpoint = "indices" if urlsplit(settings.app_ws_url).path.rstrip("/").endswith("/indices") else "options"

    def read(payload: Any, middle: datetime) -> ProbeReading:
        report = payload["metrics"][endpoint]
        error = {"error": str(report["lastError"])[:80]} if report.get("lastError") else {}
        return ProbeReading("ok", float(report["totalClients"]), {"state": str(report["connectionState"])[:20]} | error)

    return ProbeRequest("upstream", "app", f"{settings.app_url}/api/ws-health", read, reads_5xx=True)


def chain_question(settings: Settings, symbol: str, url: str | None = None) -> ProbeRequest:
    """Return the request for one page of a chain from Massive: the first, or the given next one."""
    first = f"{settings.massive_url}/v3/snapshot/options/{symbol}"

    def read(payload: Any, middle: datetime) -> ProbeReading:
        return ProbeReading("ok" if payload.get("results") else "ok_empty")

    return ProbeRequest(
        "chain",
        "massive",
        url or first,
        read,
        () if url else (("limit", PAGE_LIMIT),),
        _bearer(settings.secret("OPS_MASSIVE_TOKEN")),
        most_bytes=CHAIN_BYTES,
    )


def tradier_question(settings: Settings, what: str, symbol: str, probe: str = "chain", **params: str) -> ProbeRequest:
    """Return a request to Tradier about a symbol: ``options/expirations``, ``options/chains``, or ``quotes``."""

    def read(payload: Any, middle: datetime) -> ProbeReading:
        return (
            ProbeReading("server_5xx", detail={"said": "an error object with status 200"})
            if _tradier_error(payload)
            else ProbeReading("ok" if any(payload.values()) else "ok_empty")
        )

    name = "symbols" if what == "quotes" else "symbol"
    parameters = ((name, symbol.removeprefix("I:")), *params.items())
    return ProbeRequest(
        probe,
        "tradier",
        f"{_versioned(settings.tradier_url)}/markets/{what}",
        read,
        parameters,
        _bearer(settings.secret("OPS_TRADIER_TOKEN")),
        json_only=False,
        most_bytes=CHAIN_BYTES,
    )


def expirations(payload: Any) -> list[str]:
    """Return the expiration days in Tradier's response, which has a single day as a string and none as null."""
    listed = payload.get("expirations") if isinstance(payload, dict) else None
    dates = listed.get("date") if isinstance(listed, dict) else None
    if not isinstance(dates, list):
        dates = [dates] if dates else []
    return [str(day) for day in dates]


def next_page(settings: Settings, payload: Any, seen: set[str]) -> str | None:
    """
    Return the URL of the next page of a chain; None at its end.

    Raises:
        ValueError: It is on another host, which must not get our API key, or was read already.
    """
    given = payload.get("next_url")
    if not given:
        return None
    there, home = urlsplit(str(given)), urlsplit(settings.massive_url)
    # The vendor's responses still contain its old host names: only path and query are used, never the host.
    if there.hostname not in (home.hostname, "api.polygon.io", "api.massive.com"):
        raise ValueError("the next page is on another host")
    url = f"{settings.massive_url}{there.path}" + (f"?{there.query}" if there.query else "")
    if url in seen:
        raise ValueError("the next page was read already")
    seen.add(url)
    return url


def today(at: datetime) -> date:
    """Return the date in New York."""
    return at.astimezone(NEW_YORK).date()


def as_page(payload: Any) -> bytes:
    """Encode a page of a chain for storage."""
    return json.dumps(payload, separators=(",", ":")).encode()
