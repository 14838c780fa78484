"""
Run the simulated app as a process of its own, so that it can be killed and started again.

Run as ``python -m opslib.simulation.world.app``. It reads JSON lines from stdin and answers each on stderr: first its
configuration, answered with its ports; then the world time and the active faults. It exits at the end of stdin. Its
stdout is its log.
"""

import asyncio
import base64
import hashlib
import hmac
import io
import json
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from email.utils import formatdate
from html import escape
from random import Random
from typing import Any
from urllib.parse import quote, urlencode

from opslib.simulation.world import market_hours
from opslib.simulation.world.app_log import FAILURES, AppLog, Failure
from opslib.simulation.world.app_websocket import WebSocketServer
from opslib.simulation.world.http_server import Answer, Request, Server, as_html, as_json
from opslib.simulation.world.state import WorldState

PASS_LIFE_MS = 5 * 60 * 1000
QUICK_S, SLOW_S = (0.005, 0.040), (2.5, 4.0)
SPARED_S = 300.0
REQUESTS_PER_MINUTE, MASSIVE_REQUESTS_PER_MINUTE = 1200, 300
LEAK_BYTES_PER_S, LARGEST_LEAK_BYTES, LEAK_PIECE_BYTES = 500_000, 300_000_000, 500_000
WORK_EVERY_S, SHORTEST_NAP_S = 1.0, 0.05  # The latter is real time; without it a fast world would do nothing else.
SYNTHETIC_CONTRACT = {
    "details": {
        "ticker": "O:SPY260313C00670000",
        "contract_type": "call",
        "exercise_style": "american",
        "expiration_date": "2026-03-13",
        "strike_price": 670,
        "shares_per_contract": 100,
    },
    "greeks": {"delta": 0.52, "gamma": 0.031, "theta": -0.41, "vega": 0.24},
    "implied_volatility": 0.18,
    "open_interest": 4210,
    "last_quote": {"bid": 4.1, "ask": 4.14},
    "underlying_asset": {"ticker": "SPY", "price": 670.4},
}


class Passes:
    """
    Issue and check tokens that are valid for five minutes.

    A token is the base64 of its expiry and a nonce, a dot, and the hex HMAC-SHA256 of the same text.
    """

    def __init__(self, key: str, seed: int):
        self._key, self._rng = key.encode(), Random(f"{seed}/passes")

    def issue(self, now_ms: int) -> dict[str, object]:
        """Return a new token in the form of the app's response."""
        expires_ms = now_ms + PASS_LIFE_MS
        text = json.dumps({"exp": expires_ms, "n": f"{self._rng.getrandbits(64):016x}"}, separators=(",", ":")).encode()
        return {"token": f"{base64.b64encode(text).decode()}.{self._signed(text)}", "expiresAt": expires_ms}

    def admits(self, token: str, now_ms: int) -> bool:
        """Return whether a token was issued here and is still valid."""
        packed, _, signature = token.partition(".")
        try:
            text = base64.b64decode(packed, validate=True)
            return (
                hmac.compare_digest(self._signed(text).encode(), signature.encode())
                and json.loads(text)["exp"] > now_ms
            )
        except ValueError:
            return False

    def _signed(self, text: bytes) -> str:
        return hmac.new(self._key, text, hashlib.sha256).hexdigest()


class App:
    """
    The app: its HTTP server, WebSocket, log and memory.

    Args:
        config: Its configuration: seed, speed, tokens (`massive`, `tradier`, and `proxy` for the socket), world time,
            whether time runs, and the two ports, 0 for any.
    """

    def __init__(self, config: dict[str, Any]):
        self.world = WorldState(config)
        self._started_s = self._worked_until_s = self.world.now_s()
        self._rng = Random(f"{self.world.seed}/app")
        self._passes = Passes(self.world.tokens["massive"], self.world.seed)
        self._log = AppLog(self.world)
        self._http = Server(self._answer, self.world.sleep)
        self._http.port = config["http_port"]
        self.feed = WebSocketServer(self.world, self._log, config["ws_port"], self._admits_to_socket)
        self._counts: dict[str, tuple[int, int]] = {}
        self._spared_until_s: dict[str, float] = {}
        self._held: list[bytearray] = []
        self._leaking_bytes = 0.0
        self._routes: dict[tuple[str, str], Callable[[], Answer]] = {
            ("GET", "/ping"): self._ping,
            ("GET", "/api/health"): lambda: as_json(
                {
                    "status": "ok",
                    "uptime": round(max(0.0, self.world.now_s() - self._started_s), 6),
                    "timestamp": self._timestamp(),
                }
            ),
            ("GET", "/api/metrics"): self._metrics,
            ("GET", "/api/market/status"): self._market,
            ("GET", "/api/ws-health"): self._socket_health,
            ("GET", "/api/massive-key-status"): self._key_status,
            ("POST", "/api/ws-token"): lambda: as_json(self._passes.issue(self._now_ms())),
        }

    async def open(self) -> dict[str, int]:
        """Start listening; return the two ports."""
        await self._http.set_state("open")
        await self.feed.apply_faults(set())
        self._log.line(f"[Server] MASSIVE_API_KEY is set, {len(self.world.tokens['massive'])} characters")
        self._log.line("[Server] proxy token for the socket is set")
        self._log.line(f"[Server] listening on port {self._http.port}")
        self._log.line("[WS hub] ready on /ws/options and /ws/indices")
        self._log.line("[Composite Scanner] started, every 60 s")
        return {"http_port": self._http.port, "ws_port": self.feed.port}

    async def update(self, command: dict[str, Any]) -> None:
        """Apply a line of stdin: a new world time and the active faults. Activity up to now is written first."""
        self.do_periodic_work()
        before = set(self.world.states.active)
        if command.get("at_s") is not None:
            self.world.set_s(command["at_s"])
        self.world.inject(command["active"])
        await self.feed.apply_faults(before)
        self.do_periodic_work()

    async def run_periodically(self) -> None:
        """Run the periodic work until cancelled."""
        while True:
            await self.world.sleep(max(WORK_EVERY_S, SHORTEST_NAP_S * self.world.speed))
            self.do_periodic_work()

    def do_periodic_work(self) -> None:
        """Write the log of the time since the last call, and allocate the memory that leaked."""
        self._log.catch_up()
        now_s = self.world.now_s()
        if self.world.states.on("memory_leak"):
            self._leaking_bytes += LEAK_BYTES_PER_S * max(0.0, now_s - self._worked_until_s)
            while self._leaking_bytes >= LEAK_PIECE_BYTES and len(self._held) < LARGEST_LEAK_BYTES // LEAK_PIECE_BYTES:
                self._held.append(bytearray(LEAK_PIECE_BYTES))
                self._leaking_bytes -= LEAK_PIECE_BYTES
        self._worked_until_s = now_s

    def _clock_s(self) -> float:
        """Return the time by the app's clock."""
        return self.world.clock_s("app")

    def _now_ms(self) -> int:
        return round(self._clock_s() * 1000)

    def _timestamp(self) -> str:
        return _iso(datetime.fromtimestamp(self._clock_s(), UTC))

    def _admits_to_socket(self, token: str) -> bool:
        if hmac.compare_digest(token.encode(), self.world.tokens["proxy"].encode()):
            self._log.line("[WS hub] static proxy token is deprecated")
            return True
        return self._passes.admits(token, self._now_ms())

    async def _answer(self, request: Request) -> Answer:
        """Answer a request after its processing time, and log it."""
        took_s = self._rng.uniform(*SLOW_S if self.world.states.hits("app_slow") else QUICK_S)
        headers, is_too_many = self._limits(request.path)
        answer = _too_many() if is_too_many else self._found(request)
        took_s += answer.after_s
        await self.world.sleep(took_s)
        if request.path != "/api/massive-key-status":
            self._log.access(request.method, _url(request), answer.status, len(answer.body), took_s * 1000)
        date = formatdate(self._clock_s(), usegmt=True)
        return replace(
            answer, after_s=0.0, headers={"X-Powered-By": "Express"} | headers | answer.headers | {"Date": date}
        )

    def _found(self, request: Request) -> Answer:
        method = "GET" if request.method == "HEAD" else request.method
        if route := self._routes.get((method, request.path)):
            return route()
        if method == "GET" and request.path.startswith("/api/massive/"):
            return self._massive(request)
        if method == "GET":
            return as_html("Trade desk")
        return as_html(f"Cannot {escape(request.method)} {escape(request.path)}", 404)

    def _limits(self, path: str) -> tuple[dict[str, str], bool]:
        """Return the rate limit headers of this world minute, and whether a limit is exceeded."""
        if not path.startswith("/api/"):
            return {}, False
        headers: dict[str, str] = {}
        is_too_many = False
        limits = [("X-RateLimit", REQUESTS_PER_MINUTE)]
        if path.startswith("/api/massive"):
            limits.append(("RateLimit", MASSIVE_REQUESTS_PER_MINUTE))
        minute, seconds_in = divmod(int(self._clock_s()), 60)
        for name, limit in limits:
            counted_in, count = self._counts.get(name, (minute, 0))
            count = count + 1 if counted_in == minute else 1
            self._counts[name] = (minute, count)
            resets = (minute + 1) * 60 if name.startswith("X-") else 60 - seconds_in
            headers |= {
                f"{name}-Limit": str(limit),
                f"{name}-Remaining": str(max(0, limit - count)),
                f"{name}-Reset": str(resets),
            }
            is_too_many = is_too_many or count > limit
        return headers, is_too_many

    def _ping(self) -> Answer:
        self._log.line("[Server] ping")
        return as_json({"status": "pong"})

    def _metrics(self) -> Answer:
        """Answer without any metric: what the page counts never reaches the server."""
        tracked = ["Provider health", "Greeks quality", "P&L accuracy", "System health"]
        words = {
            "message": "Metrics are collected in the browser",
            "metricsTracked": tracked,
            "updateFrequency": "real-time",
        }
        return as_json({"status": "ok", "monitoring": True} | words | {"timestamp": self._timestamp()})

    def _market(self) -> Answer:
        session = self.world.session(self._clock_s())
        found: dict[str, object] = {"isOpen": session == "open", "session": session}
        if session != "open":
            found["nextOpen"] = _iso(market_hours.next_open(self._clock_s()))
        return as_json(found | {"timestamp": self._timestamp()})

    def _socket_health(self) -> Answer:
        """Answer that the socket is healthy whatever happens, as the real app does."""
        return as_json(
            {
                "healthy": True,
                "timestamp": self._timestamp(),
                "metrics": self.feed.health(),
                "warnings": [],
                "limits": {"maxUpstreamConnections": 2},
            }
        )

    def _key_status(self) -> Answer:
        key = self.world.tokens["massive"]
        return as_json({"present": True, "length": len(key), "prefix": key[:6], "nodeEnv": "production"})

    def _massive(self, request: Request) -> Answer:
        """Answer as the proxy to Massive; a failed path of v2 aggregates is not requested again for a while."""
        if not self._passes.admits(request.headers.get("x-massive-proxy-token", ""), self._now_ms()):
            return as_json({"error": "Forbidden: proxy token is missing or not valid"}, 403)
        path, now_s = request.path.removeprefix("/api/massive"), self.world.now_s()
        if now_s < self._spared_until_s.get(path, now_s):
            self._log.line(f"[v0] fallback(short-circuit) {quote(path)}")
            return _empty_aggregates("aggs-empty-cache")
        failure = self._failure()
        if failure is None:
            return as_json(self._synthetic(path), after_s=0.15)
        self._log.failed(failure, quote(path))
        if path.startswith("/v2/aggs/"):
            self._spared_until_s[path] = now_s + SPARED_S
            return _empty_aggregates("aggs-empty-catch" if failure.code else "aggs-empty", failure.took_s)
        return as_json({"error": "External API error"}, failure.status, after_s=failure.took_s)

    def _failure(self) -> Failure | None:
        """Return how a call to Massive fails now; None if it succeeds."""
        for name, failure in FAILURES.items():
            if self.world.states.hits(name) and self._rng.random() < failure.of_calls:
                return failure
        return None

    def _synthetic(self, path: str) -> dict[str, object]:
        """Return a small synthetic response in Massive's format."""
        head = {"status": "OK", "request_id": f"{self._rng.getrandbits(128):032x}"}
        if path == "/v1/marketstatus/now":
            return self._market_at_massive()
        if self.world.states.hits("massive_empty"):
            return head | {"results": []}
        if "/snapshot/options/" in path:
            return head | {"results": [SYNTHETIC_CONTRACT]}
        if path.startswith("/v2/aggs/"):
            return head | {
                "ticker": path.removeprefix("/v2/aggs/ticker/").partition("/")[0],
                "resultsCount": 1,
                "results": [{"o": 669.8, "h": 670.9, "l": 669.2, "c": 670.4, "v": 51234, "vw": 670.1}],
            }
        return head | {"results": []}

    def _market_at_massive(self) -> dict[str, object]:
        session = self.world.session()
        market = session if session in ("open", "closed") else "extended-hours"
        at = datetime.fromtimestamp(self.world.clock_s("massive"), market_hours.NEW_YORK).isoformat(timespec="seconds")
        exchanges = dict.fromkeys(("nasdaq", "nyse", "otc"), market)
        return {
            "market": market,
            "earlyHours": session == "premarket",
            "afterHours": session == "afterhours",
            "serverTime": at,
            "exchanges": exchanges,
        }


def _empty_aggregates(why: str, after_s: float = 0.0) -> Answer:
    """Return a failure that looks like a valid response; only its header shows the failure."""
    return as_json(
        {"results": [], "status": "OK", "_fallback": "empty"}, headers={"x-v0-fallback": why}, after_s=after_s
    )


def _too_many() -> Answer:
    return as_html("Too many requests, please try again later.", 429)


def _iso(at: datetime) -> str:
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _url(request: Request) -> str:
    """Return the requested URL on a single line."""
    return quote(request.path, safe="/:@!$&'()*+,;=~-._") + (f"?{urlencode(request.query)}" if request.query else "")


def _reply(found: dict[str, object]) -> None:
    print(json.dumps(found), file=sys.stderr, flush=True)


async def _listen(app: App, reader: asyncio.StreamReader) -> None:
    """Apply the lines of stdin; exit at its end."""
    async for line in reader:
        await app.update(json.loads(line))
        _reply({"ok": True, "hit": app.world.states.hit})
    # Exit at once, without waiting for an open socket or a hanging request.
    os._exit(0)


async def run() -> None:
    """Run the app from the first line of stdin to its end."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    config = await reader.readline()
    if not config:
        return
    app = App(json.loads(config))
    _reply({**await app.open()})
    async with asyncio.TaskGroup() as tasks:
        for task in (app.run_periodically(), app.feed.forward(), _listen(app, reader)):
            tasks.create_task(task)


if __name__ == "__main__":
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)
    asyncio.run(run())
