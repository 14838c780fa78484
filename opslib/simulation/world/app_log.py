"""
Write the app's log: lines without a time or a level, some followed by an object or a stack trace.

The process writes nothing else to stdout. Each whole world second uses its own random draw.
"""

from math import floor
from random import Random
from typing import NamedTuple

from opslib.simulation.world.state import WorldState

MOST_LINES_AT_ONCE = 100
HEARTBEAT_EVERY_S, PROBED_EVERY_S = 60, 30
OUTCOMES_PER_S = 1 / 120
FAILURES_PER_S = 0.12
STORM_PER_S = 2
PATHS = (
    "/v3/snapshot/options/SPY",
    "/v3/snapshot/options/I:SPX",
    "/v3/snapshot/options/QQQ",
    "/v3/snapshot/indices",
    "/v1/marketstatus/now",
    "/v2/aggs/ticker/SPY/prev",
)


class Failure(NamedTuple):
    """
    How the app's calls to Massive fail.

    Attributes:
        status: The proxy's response status.
        words: The log text; `{path}` is the requested path.
        took_s: World seconds until the app gave up, all three attempts together.
        code: The error code thrown, if there was no response.
        of_calls: The share of calls that fail while the fault is active.
        is_own: Whether the app's own client gave up while Massive was healthy.
    """

    status: int
    words: str
    took_s: float
    code: str | None = None
    of_calls: float = 1.0
    is_own: bool = False


FAILURES = {
    "massive_5xx": Failure(502, "HTTP 503 from {path}", 3.0),
    "both_down": Failure(502, "HTTP 503 from {path}", 3.0),
    "massive_intermittent": Failure(502, "HTTP 500 from {path}", 3.0),
    "massive_html_200": Failure(502, "Unexpected token '<', \"<!doctype \"... is not valid JSON", 0.3),
    "massive_401": Failure(502, "HTTP 401 from {path}: Unknown API Key", 0.2),
    "massive_403_plan": Failure(403, "HTTP 403 from {path}: You are not entitled to this data", 0.2),
    "massive_403_ip": Failure(403, "HTTP 403 from {path}: Forbidden", 0.2),
    "massive_429": Failure(502, "HTTP 429 from {path}: You've exceeded the maximum requests per minute", 3.0),
    "massive_timeout": Failure(
        502,
        "request to https://api.massive.com{path} failed, reason: connect ETIMEDOUT 203.0.113.20:443",
        33.0,
        "ETIMEDOUT",
    ),
    "massive_refused": Failure(
        502,
        "request to https://api.massive.com{path} failed, reason: connect ECONNREFUSED 203.0.113.20:443",
        3.0,
        "ECONNREFUSED",
    ),
    "massive_dns": Failure(
        502,
        "request to https://api.massive.com{path} failed, reason: getaddrinfo ENOTFOUND api.massive.com",
        3.0,
        "ENOTFOUND",
    ),
    "massive_tls": Failure(
        502, "request to https://api.massive.com{path} failed, reason: certificate has expired", 3.2, "CERT_HAS_EXPIRED"
    ),
    "our_network_down": Failure(
        502,
        "request to https://api.massive.com{path} failed, reason: connect ETIMEDOUT 203.0.113.20:443",
        33.0,
        "ETIMEDOUT",
    ),
    "our_timeout_short": Failure(502, "request timed out after 150 ms {path}", 0.5, of_calls=0.8, is_own=True),
}
ALSO_UNREACHABLE = ("api.tradier.com", "socket.massive.com")
STORM = (
    "[API] Unhandled error TypeError: Cannot read properties of undefined (reading 'contract')\n    at "
    "formatTrade (/app/server/routes/trades.js:88:31)\n    at /app/server/routes/trades.js:141:12",
    "[Trades API] Error updating trade: invalid input syntax for type uuid",
    "[Public API] stats query failed: canceling statement due to statement timeout",
    "[ConnectionPool] no connection within 5000 ms",
    "[WS hub] send failed Error: write EPIPE",
    "[Signal Performance] flush failed {\n  code: '57014',\n  details: null,\n  message: 'canceling "
    "statement due to statement timeout'\n}",
    "[Signal Outcome] could not read open signals: fetch failed",
    "[Server] Unhandled rejection Error: socket hang up\n    at connResetException (node:internal/"
    "errors:720:14)\n    at Socket.socketOnEnd (node:_http_client:525:23)",
    "[Backfill] batch 3 failed, will be tried again: fetch failed",
)


class AppLog:
    """The app's log: `line` writes one event, `catch_up` writes the periodic ones up to now."""

    def __init__(self, world: WorldState):
        self._world = world
        self._second = floor(world.now_s())

    def line(self, text: str) -> None:
        """Write one message, with all its lines."""
        print(text)

    def access(self, method: str, url: str, status: int, length: int, ms: float) -> None:
        """Write that a request was answered."""
        self.line(_access(method, url, status, length, ms))

    def failed(self, failure: Failure, path: str) -> None:
        """Write that a call to Massive failed."""
        self.line(_failure_text(failure, path))

    def catch_up(self) -> None:
        """Write the periodic messages since the last call, by the faults active now: the newest hundred lines."""
        now = floor(self._world.now_s())
        messages: list[str] = []
        room = MOST_LINES_AT_ONCE
        for second in range(now - 1, self._second - 1, -1):
            for text in reversed(self._messages(second)):
                room -= text.count("\n") + 1
                if room >= 0:
                    messages.append(text)
            if room <= 0:
                break
        self._second = now
        for text in reversed(messages):
            self.line(text)

    def _messages(self, second: int) -> list[str]:
        """Return the messages of one whole world second."""
        rng, states = Random(f"{self._world.seed}/journal/{second}"), self._world.states
        found = []
        if second % PROBED_EVERY_S == 12:
            is_slow = rng.random() < states.active.get("app_slow", 0.0)
            found.append(
                _access("GET", "/api/health", 200, 75, rng.uniform(2500, 4000) if is_slow else rng.uniform(5, 40))
            )
        if rng.random() < OUTCOMES_PER_S:
            found.append(f"[Signal Outcome] checked {rng.randint(1, 9)} open signals")
        failing = {name: share * FAILURES[name].of_calls for name, share in states.active.items() if name in FAILURES}
        for name, share in failing.items():
            if rng.random() < FAILURES_PER_S * share:
                found.append(_failure_text(FAILURES[name], rng.choice(PATHS)))
        if states.on("our_network_down") and rng.random() < FAILURES_PER_S:
            found.append(_unreachable(rng.choice(ALSO_UNREACHABLE)))
        if rng.random() < FAILURES_PER_S / 2 * max(
            states.active.get(name, 0.0) for name in ("tradier_down", "both_down")
        ):
            found.append(
                f"[Tradier] chain failed: HTTP 503 from /markets/"
                f"{rng.choice(('quotes', 'options/chains', 'options/expirations'))}"
            )
        if rng.random() < states.active.get("error_storm", 0.0):
            found += rng.sample(STORM, STORM_PER_S)
            states.hit += 1
        if second % HEARTBEAT_EVERY_S == 7:
            found.append(
                _heartbeat(
                    rng, max((share for name, share in failing.items() if not FAILURES[name].is_own), default=0.0)
                )
            )
        return found


def _access(method: str, url: str, status: int, length: int, ms: float) -> str:
    return f"{method} {url} {status} {length} - {ms:.3f} ms"


def _heartbeat(rng: Random, failing: float) -> str:
    """Return the scanner's heartbeat: degraded from an error rate of 10 %, unhealthy from 50 %."""
    rate = failing * rng.uniform(0.85, 1.0)
    if rate >= 0.5:
        how = "unhealthy"
    elif rate >= 0.1:
        how = "degraded"
    else:
        how = "healthy"
    return f"[Composite Scanner] Heartbeat: status={how}, signals={rng.randint(0, 4)}, errorRate={100 * rate:.1f}%"


def _failure_text(failure: Failure, path: str) -> str:
    words = failure.words.format(path=path)
    if failure.is_own:
        return f"[Massive] {words}"
    if path.startswith("/v2/aggs/"):
        return f"[v0] fallback({'aggs-empty-catch' if failure.code else 'aggs-empty'}) {path} {words}"
    if failure.code is None:
        return f"[v0] Massive proxy error ({failure.status}): {words}"
    thrown = (
        f"FetchError: {words}\n    at ClientRequest.<anonymous> (/app/node_modules/node-fetch/lib/index.js:1501:11)"
    )
    return (
        f"[v0] Massive proxy error ({failure.status}): {words}\n{thrown} {{\n  type: 'system',\n  errno: "
        f"'{failure.code}',\n  code: '{failure.code}'\n}}"
    )


def _unreachable(host: str) -> str:
    words = f"getaddrinfo ENOTFOUND {host}"
    return (
        f"[WS options] upstream error Error: {words}"
        if host.startswith("socket.")
        else f"[Tradier] request failed: {words}"
    )
