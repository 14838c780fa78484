"""Answer as Massive's REST API, with its faults."""

import operator
from collections.abc import Callable
from datetime import datetime
from email.utils import formatdate
from random import Random
from typing import Any
from urllib.parse import urlencode

from opslib.simulation.world import market_hours
from opslib.simulation.world.http_server import Answer, Request, as_html, as_json, bearer
from opslib.simulation.world.option_surface import Contract, Surface, is_listed, midnight_ns
from opslib.simulation.world.state import WorldState

DEFAULT_LIMIT, MOST = 10, 250
OLD_S = 1260.0
FAILING_SHARE = 0.3
GREEKS = ("delta", "gamma", "theta", "vega")


class Massive:
    """
    Massive's REST API.

    Args:
        base: Its own address, for `next_url`.
    """

    def __init__(self, world: WorldState, surface: Surface, base: Callable[[], str]):
        self._world, self._surface, self._base = world, surface, base
        self._rng = Random(f"{world.seed}/one")
        self._requests = 0

    def listening(self) -> str:
        """Return the state of its port: open, closed, or swallowing (drops every packet)."""
        states = self._world.states
        if states.on("our_network_down"):
            return "swallowing"
        if states.on("massive_refused"):
            return "closed"
        return "open"

    def certificate(self) -> str:
        """Return which certificate it uses: good or wrong."""
        return "wrong" if self._world.states.on("massive_tls") else "good"

    async def answer(self, request: Request) -> Answer:
        """Answer a request."""
        self._requests += 1
        response = self._refused(request) or self._respond(request)
        after_s = (
            self._rng.uniform(0.25, 0.45)
            if self._world.states.on("our_timeout_short")
            else min(0.6, max(0.06, self._rng.lognormvariate(-2.1, 0.25)))
        )
        more = {"X-Request-Id": self._id(), "Date": formatdate(self._world.clock_s("massive"), usegmt=True)}
        return Answer(
            response.status, response.body, response.content_type, more | response.headers, after_s, response.fault
        )

    def _id(self) -> str:
        return f"{self._world.seed:04x}{self._requests:012x}"

    def _error(self, status: int, words: str, key: str = "error", kind: str = "ERROR", **how: Any) -> Answer:
        return as_json({"status": kind, "request_id": self._id(), key: words}, status, **how)

    def _refused(self, request: Request) -> Answer | None:
        """Return the failure of a request before any data is read; None if there is none."""
        hits, of_data = self._world.states.hits, request.path.startswith("/v3/")
        if hits("massive_timeout"):
            return Answer(fault="hang")
        if hits("massive_5xx") or hits("both_down"):
            return self._rng.choice(
                (
                    as_html("502 Bad Gateway", 502),
                    as_html("503 Service Temporarily Unavailable", 503),
                    self._error(503, "Service unavailable"),
                )
            )
        if (
            self._world.states.on("massive_intermittent")
            and self._rng.random() < FAILING_SHARE * self._world.states.active["massive_intermittent"]
        ):
            return self._rng.choice((as_html("502 Bad Gateway", 502), Answer(fault="reset")))
        if hits("massive_html_200"):
            return as_html("Scheduled maintenance")
        if hits("massive_403_ip"):
            return self._error(
                403, "Requests from this IP address are not allowed for this key", "message", "NOT_AUTHORIZED"
            )
        if hits("massive_429"):
            more = {"Retry-After": "12"} if self._rng.random() < 0.5 else {}
            return self._error(
                429,
                "You've exceeded the maximum requests per minute, please wait or upgrade your subscription "
                "to continue.",
                headers=more,
            )
        token = bearer(request) or request.query.get("apiKey")
        if not token:
            return self._error(401, "API Key was not provided")
        if token != self._world.tokens["massive"] or hits("massive_401"):
            return self._error(401, "Unknown API Key")
        if of_data and hits("massive_403_plan"):
            return self._error(
                403,
                "You are not entitled to this data. Please upgrade your plan at https://massive.com/pricing",
                "message",
                "NOT_AUTHORIZED",
            )
        return None

    def _respond(self, request: Request) -> Answer:
        if request.method != "GET":
            return self._error(404, "Not found", "message", "NOT_FOUND")
        if request.path == "/v1/marketstatus/now":
            return as_json(self._clock(self._world.clock_s("massive")))
        if request.path == "/v1/marketstatus/upcoming":
            return as_json(
                [
                    {"exchange": exchange, "name": "Good Friday", "date": "2026-04-03", "status": "closed"}
                    for exchange in ("NYSE", "NASDAQ")
                ]
            )
        if request.path.startswith("/v3/snapshot/options/"):
            return self._snapshot(request, request.path.removeprefix("/v3/snapshot/options/"))
        return self._error(404, "Page not found", "message", "NOT_FOUND")

    def _clock(self, at_s: float) -> dict[str, Any]:
        part = self._world.session(at_s)
        market = {"open": "open", "closed": "closed"}.get(part, "extended-hours")
        here = datetime.fromtimestamp(at_s, market_hours.NEW_YORK)
        return {
            "afterHours": part == "afterhours",
            "currencies": {"crypto": "open", "fx": "open"},
            "earlyHours": part == "premarket",
            "exchanges": dict.fromkeys(("nasdaq", "nyse", "otc"), market),
            "market": market,
            "serverTime": here.isoformat(timespec="seconds"),
        }

    def _snapshot(self, request: Request, symbol: str) -> Answer:
        states, query = self._world.states, request.query
        limit = min(MOST, max(1, int(query["limit"]))) if query.get("limit", "").isdecimal() else DEFAULT_LIMIT
        cursor = query.get("cursor", "")
        begin = int(cursor, 36) if cursor.isascii() and cursor.isalnum() else 0
        if begin and states.on("massive_partial_pages"):
            return as_html("502 Bad Gateway", 502)
        name = symbol.removeprefix("I:")
        response: dict[str, Any] = {"request_id": self._id(), "status": "OK"}
        if not is_listed(name) or states.hits("massive_empty"):
            return as_json(response | {"results": []})
        stressed, quoted_s = states.on("iv_stress"), self._world.quoted_s()
        if states.on("massive_stale"):
            quoted_s -= OLD_S
        chain = self._surface.chain(name, quoted_s, stressed=stressed, expires_today=states.on("expiry_friday"))
        chain = [c for c in chain if _matches(c, query)]
        chain.sort(
            key={"strike_price": lambda c: c.strike, "expiration_date": lambda c: c.expiry}.get(
                query.get("sort", ""), lambda c: c.ticker
            ),
            reverse=query.get("order") == "desc",
        )
        response["results"] = [self._row(c, symbol, quoted_s) for c in chain[begin : begin + limit]]
        if begin + limit < len(chain):
            more = {k: v for k, v in query.items() if k not in ("cursor", "apiKey", "limit")}
            response["next_url"] = (
                f"{self._base()}/v3/snapshot/options/{symbol}"
                f"?{urlencode({'cursor': _base36(begin + limit), 'limit': limit} | more)}"
            )
        return as_json(response)

    def _row(self, c: Contract, symbol: str, quoted_s: float) -> dict[str, Any]:
        """Return one contract in the vendor's format; faults of its Greeks are drawn for each contract."""
        stamp_s = quoted_s + self._world.states.ahead_s("massive")
        row = nested(c, symbol, round(stamp_s * 1e9) - self._rng.randint(1, 2_000) * 1_000_000)
        if c.delta is None or (c.bid > 0 and self._world.states.hits("greeks_missing")):
            return row
        greeks = {name: getattr(c, name) for name in GREEKS}
        return row | {"greeks": self._with_faults(greeks) if c.bid > 0 else greeks}

    def _with_faults(self, greeks: dict[str, float]) -> dict[str, float]:
        hits = self._world.states.hits
        if hits("gamma_zero"):
            greeks["gamma"] = 0
        if hits("delta_out_of_bounds"):
            greeks["delta"] = round((1 if greeks["delta"] > 0 else -1) * self._rng.uniform(1.2, 1.6), 4)
        if hits("unit_drift"):
            greeks |= {"theta": round(greeks["theta"] * 100, 4), "vega": round(greeks["vega"] * 100, 4)}
        return greeks


def nested(c: Contract, symbol: str, stamp: int) -> dict[str, Any]:
    """Return one contract in the vendor's format, without Greeks; `stamp` is nanoseconds since 1970 UTC."""
    even = round(c.strike + (c.ask if c.side == "call" else -c.ask), 2)
    asset = {
        "change_to_break_even": round(even - c.spot, 2),
        "last_updated": stamp,
        "price" if ":" not in symbol else "value": c.spot,
        "ticker": symbol,
        "timeframe": "REAL-TIME",
    }
    row: dict[str, Any] = {
        "break_even_price": even,
        "day": {
            "change": 0.1,
            "change_percent": 1.0,
            "close": c.last,
            "high": c.last,
            "last_updated": midnight_ns(stamp / 1e9),
            "low": c.last,
            "open": c.last,
            "previous_close": c.last,
            "volume": c.volume,
            "vwap": c.last,
        }
        if c.last
        else {},
        "details": {
            "contract_type": c.side,
            "exercise_style": "american",
            "expiration_date": c.expiry,
            "shares_per_contract": 100,
            "strike_price": c.strike,
            "ticker": f"O:{c.ticker}",
        },
        "last_quote": {
            "ask": c.ask,
            "ask_size": c.ask_size,
            "bid": c.bid,
            "bid_size": c.bid_size,
            "last_updated": stamp,
            "midpoint": round((c.ask + c.bid) / 2, 4),
            "timeframe": "REAL-TIME",
        },
        "last_trade": {
            "conditions": [209],
            "exchange": 316,
            "price": c.last,
            "sip_timestamp": stamp,
            "size": 2,
            "timeframe": "REAL-TIME",
        }
        if c.last
        else {},
        "open_interest": c.open_interest,
        "underlying_asset": asset,
    }
    return row | ({} if c.iv is None else {"implied_volatility": c.iv})


def _matches(c: Contract, query: dict[str, str]) -> bool:
    """Return whether a contract matches the filters of a query."""
    signs: dict[str, Callable[[Any, Any], bool]] = {
        "": operator.eq,
        ".gte": operator.ge,
        ".gt": operator.gt,
        ".lte": operator.le,
        ".lt": operator.lt,
    }
    for name, value, read in (("strike_price", c.strike, float), ("expiration_date", c.expiry, str)):
        for sign, holds in signs.items():
            if name + sign in query and not holds(value, read(query[name + sign])):
                return False
    return query.get("contract_type", c.side) == c.side


def _base36(number: int) -> str:
    digits = ""
    while number:
        number, digit = divmod(number, 36)
        digits = "0123456789abcdefghijklmnopqrstuvwxyz"[digit] + digits
    return digits or "0"
