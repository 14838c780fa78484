"""Answer as Tradier's API, with its faults: XML unless JSON is requested, and a list of one item as no list."""

from datetime import UTC, date, datetime, timedelta
from math import ceil, floor
from random import Random
from typing import Any
from xml.sax.saxutils import escape

from opslib.simulation.world import market_hours
from opslib.simulation.world.http_server import Answer, Request, as_json, bearer
from opslib.simulation.world.option_surface import Contract, Surface, is_listed, is_monthly
from opslib.simulation.world.state import WorldState

ALLOWED_A_MINUTE = 120


class Tradier:
    """Tradier's REST API."""

    def __init__(self, world: WorldState, surface: Surface):
        self._world, self._surface = world, surface
        self._rng = Random(f"{world.seed}/two")
        self._since_s, self._used = 0.0, 0

    def listening(self) -> str:
        """Return the state of its port: open, or swallowing (drops every packet)."""
        return "swallowing" if self._world.states.on("our_network_down") else "open"

    async def answer(self, request: Request) -> Answer:
        """Answer a request."""
        response = self._respond(request)
        return Answer(
            response.status,
            response.body,
            response.content_type,
            self._quota() | response.headers,
            min(0.5, max(0.05, self._rng.lognormvariate(-2.3, 0.3))),
            response.fault,
        )

    def _quota(self) -> dict[str, str]:
        expires_ms = round((self._since_s + 60 + self._world.states.ahead_s("tradier")) * 1000)
        left = max(0, ALLOWED_A_MINUTE - self._used)
        return {
            "X-Ratelimit-Allowed": str(ALLOWED_A_MINUTE),
            "X-Ratelimit-Used": str(self._used),
            "X-Ratelimit-Available": str(left),
            "X-Ratelimit-Expiry": str(expires_ms),
        }

    def _respond(self, request: Request) -> Answer:
        states, now_s = self._world.states, self._world.now_s()
        if now_s - self._since_s >= 60 or now_s < self._since_s:
            self._since_s, self._used = now_s, 0
        self._used += 1
        if states.hits("tradier_down") or states.hits("both_down"):
            return self._rng.choice(
                (
                    Answer(503, b"Service Unavailable", "text/plain"),
                    Answer(500, b"<fault><message>Internal Server Error</message></fault>", "application/xml"),
                )
            )
        if self._used > ALLOWED_A_MINUTE:
            return as_json(
                {
                    "fault": {
                        "faultstring": "Rate limit quota violation. Quota limit exceeded.",
                        "detail": {"errorcode": "policies.ratelimit.QuotaViolation"},
                    }
                },
                429,
            )
        if bearer(request) != self._world.tokens["tradier"]:
            return Answer(401, b"Invalid Access Token", "text/plain")
        if states.on("tradier_options_refused") and request.path.removeprefix("/v1").startswith("/markets/options/"):
            return Answer(403, b"You are not entitled to options market data with this subscription", "text/plain")
        found = self._found(request)
        if isinstance(found, Answer):
            return found
        if "json" in request.headers.get("accept", ""):
            return as_json(found)
        return Answer(200, ('<?xml version="1.0" encoding="UTF-8"?>' + _xml(found)).encode(), "application/xml")

    def _found(self, request: Request) -> dict[str, Any] | Answer:
        query, quoted_s, ahead_s = request.query, self._world.quoted_s(), self._world.states.ahead_s("tradier")
        match request.path.removeprefix("/v1"):
            case "/markets/clock":
                return {"clock": self._clock(self._world.clock_s("tradier"))}
            case "/markets/quotes":
                if not query.get("symbols"):
                    return Answer(400, b"Missing parameter: symbols", "text/plain")
                return {
                    "quotes": _collapsed(
                        "quote",
                        [self._quote(s, quoted_s, ahead_s) for s in query["symbols"].split(",") if is_listed(s)],
                    )
                }
            case "/markets/options/expirations":
                if not query.get("symbol"):
                    return Answer(400, b"Missing parameter: symbol", "text/plain")
                return {
                    "expirations": _collapsed(
                        "date", sorted({c.expiry for c in self._chain(query["symbol"], quoted_s)})
                    )
                }
            case "/markets/options/chains":
                if not query.get("symbol") or not query.get("expiration"):
                    return Answer(400, b"Missing parameter: symbol and expiration", "text/plain")
                rows = [
                    self._row(c, quoted_s, ahead_s, query.get("greeks") == "true")
                    for c in self._chain(query["symbol"], quoted_s)
                    if c.expiry == query["expiration"]
                ]
                return {"options": _collapsed("option", rows)}
        return Answer(404, b"Not found", "text/plain")

    def _chain(self, symbol: str, quoted_s: float) -> list[Contract]:
        states = self._world.states
        if not is_listed(symbol):
            return []
        return self._surface.chain(
            symbol, quoted_s, stressed=states.on("iv_stress"), expires_today=states.on("expiry_friday")
        )

    def _clock(self, now_s: float) -> dict[str, Any]:
        here = datetime.fromtimestamp(now_s, market_hours.NEW_YORK)
        part = self._world.session(now_s)
        state = {"afterhours": "postmarket"}.get(part, part)
        next_change, next_state = {
            "premarket": ("09:30", "open"),
            "open": ("16:00", "postmarket"),
            "postmarket": ("20:00", "closed"),
            "closed": ("04:00", "premarket"),
        }[state]
        words = "Market is open from 09:30 to 16:00" if state == "open" else "Market is closed"
        return {
            "date": here.date().isoformat(),
            "description": words,
            "state": state,
            "timestamp": floor(now_s),
            "next_change": next_change,
            "next_state": next_state,
        }

    def _quote(self, symbol: str, quoted_s: float, ahead_s: float) -> dict[str, Any]:
        spot, stamp = (
            self._surface.spot(symbol, quoted_s, self._world.states.on("iv_stress")),
            floor((quoted_s + ahead_s - self._rng.uniform(0.1, 2.0)) * 1000),
        )
        return {
            "symbol": symbol,
            "description": symbol,
            "exch": "P",
            "type": "stock",
            "last": spot,
            "change": 0.5,
            "volume": 1_000_000,
            "open": spot,
            "high": spot,
            "low": spot,
            "close": None,
            "bid": round(spot - 0.01, 2),
            "ask": round(spot + 0.01, 2),
            "bidsize": 5,
            "asksize": 4,
            "trade_date": stamp,
            "bid_date": stamp,
            "ask_date": stamp,
            "prevclose": spot,
        }

    def _row(self, c: Contract, quoted_s: float, ahead_s: float, with_greeks: bool) -> dict[str, Any]:
        stamp = floor((quoted_s + ahead_s) * 1000)
        row: dict[str, Any] = {
            "symbol": c.ticker,
            "description": f"{c.symbol} {c.expiry} ${c.strike:.2f} {c.side.title()}",
            "exch": "Z",
            "type": "option",
            "last": c.last,
            "change": None,
            "volume": c.volume,
            "open": c.last,
            "high": c.last,
            "low": c.last,
            "close": c.last,
            "bid": c.bid,
            "ask": c.ask,
            "underlying": c.symbol,
            "strike": c.strike,
            "change_percentage": None,
            "average_volume": 0,
            "last_volume": 1,
            "trade_date": round((c.quoted_at_s + ahead_s) * 1000) if c.last else 0,
            "prevclose": c.last,
            "bidsize": c.bid_size,
            "bidexch": "Z",
            "bid_date": stamp,
            "asksize": c.ask_size,
            "askexch": "Z",
            "ask_date": stamp,
            "open_interest": c.open_interest,
            "contract_size": 100,
            "expiration_date": c.expiry,
            "expiration_type": "standard" if is_monthly(date.fromisoformat(c.expiry)) else "weeklys",
            "option_type": c.side,
            "root_symbol": c.root,
        }
        if with_greeks:
            row["greeks"] = self._greeks(c, quoted_s + ahead_s) if c.delta is not None else None
        return row

    @staticmethod
    def _greeks(c: Contract, stamp_s: float) -> dict[str, Any]:
        hour = datetime.fromtimestamp(stamp_s, UTC).replace(minute=0, second=0, microsecond=0) - timedelta(seconds=33)
        intrinsic = max(0.0, c.spot - c.strike if c.side == "call" else c.strike - c.spot)
        iv = c.iv or 0.0
        return {
            "delta": c.delta,
            "gamma": c.gamma,
            "theta": c.theta,
            "vega": c.vega,
            "rho": c.rho,
            "phi": 0.0,
            "bid_iv": round(iv * 0.98, 6) if c.bid > intrinsic else 0.0,
            "mid_iv": iv,
            "ask_iv": round(iv * 1.02, 6),
            "smv_vol": ceil(iv * 1000) / 1000,
            "updated_at": f"{hour:%Y-%m-%d %H:%M:%S}",
        }


def _collapsed(name: str, rows: list[Any]) -> dict[str, Any] | None:
    """Return a list in Tradier's format: null if empty, the item itself if there is one."""
    return None if not rows else {name: rows[0] if len(rows) == 1 else rows}


def _xml(found: Any) -> str:
    if isinstance(found, dict):
        return "".join(
            "".join(f"<{k}>{_xml(item)}</{k}>" for item in (v if isinstance(v, list) else [v]))
            for k, v in found.items()
        )
    return "" if found is None else escape(str(found))
