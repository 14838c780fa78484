"""Test that the simulated app responds, streams, logs, fails and exits as the real one does."""

import asyncio
import base64
import hashlib
import hmac
import json
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime
from email.utils import parsedate_to_datetime

import httpx
import psutil
import pytest

pytest.importorskip("websockets")
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.frames import Opcode

from opslib.simulation.world.faults import SHARED, STATES

AT_S = 1773153000.0  # 2026-03-10 10:30 in New York.
TOKENS = {"massive": "mk-e3b0c44298fc1c149afb", "tradier": "td-27ae41e4649b", "proxy": "px-934ca495991b"}
DEADLINE_S = 8.0
SPEED = 100.0
ORDINARY_WORDS = {"healthy"}  # The app's own responses contain this word, whatever the fault.
SHORT_PAUSE_S = 0.01


def until(found: Callable[[], object], what: str) -> object:
    """Wait until `found` returns a value, and return it; fail after the deadline."""
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        if seen := found():
            return seen
        time.sleep(SHORT_PAUSE_S)
    raise AssertionError(f"{what}: not within {DEADLINE_S} s")


class Running:
    """An app's process; its log is read while it is written."""

    def __init__(self, runs: bool = False, http_port: int = 0, ws_port: int = 0, speed: float = SPEED):
        self.lines: list[str] = []
        self._marks = 0
        self.process = subprocess.Popen(
            [sys.executable, "-m", "opslib.simulation.world.app"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._reading = threading.Thread(target=self._read)
        self._reading.start()
        self.at_s = AT_S
        ports = self._send(
            {
                "seed": 7,
                "speed": speed,
                "tokens": TOKENS,
                "at_s": AT_S,
                "runs": runs,
                "http_port": http_port,
                "ws_port": ws_port,
            }
        )
        self.http_port, self.ws_port = ports["http_port"], ports["ws_port"]
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{self.http_port}", trust_env=False, timeout=DEADLINE_S)

    def _read(self) -> None:
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))

    def _send(self, command: dict) -> dict:
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stderr.readline())

    def inject(self, *names: str, after_s: float = 0.0, **shares: float) -> None:
        """Make these the only active states, and advance the world time."""
        self.at_s += after_s
        assert self._send({"at_s": self.at_s, "active": dict.fromkeys(names, 1.0) | shares})["ok"] is True

    def token(self) -> str:
        return self.http.post("/api/ws-token").json()["token"]

    def massive(self, path: str) -> httpx.Response:
        return self.http.get(f"/api/massive{path}", headers={"x-massive-proxy-token": self.token()})

    def connect(self, path: str = "/ws/options", token: str | None = None) -> connect:
        query = "" if token == "" else f"?token={token or TOKENS['proxy']}"
        return connect(
            f"ws://127.0.0.1:{self.ws_port}{path}{query}",
            proxy=None,
            ping_interval=None,
            create_connection=Listening,
            open_timeout=DEADLINE_S,
        )

    def mark(self) -> int:
        """Return the number of log lines once all that was written so far has been read."""
        self._marks += 1
        self.http.get(f"/mark/{self._marks}")
        self.written(f"^GET /mark/{self._marks} ")
        return len(self.lines)

    def written(self, pattern: str, since: int = 0) -> str:
        """Return the first log line from `since` on that matches a pattern."""
        return until(
            lambda: next((line for line in self.lines[since:] if re.search(pattern, line)), None),
            f"a line like {pattern!r}",
        )

    def end(self, how: Callable[[], None] | None = None) -> int:
        """End the process, by closing its stdin by default, and wait for it."""
        (how or self.process.stdin.close)()
        try:
            return self.process.wait(DEADLINE_S)
        finally:
            self.process.kill()
            self._put_away()

    def _put_away(self) -> None:
        self.process.wait()
        self._reading.join()
        self.http.close()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            with suppress(BrokenPipeError):
                stream.close()


class Listening(ClientConnection):
    """A client that keeps unsolicited pong frames."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.pongs = 0
        super().connection_made(transport)

    def process_event(self, event: object) -> None:
        self.pongs += getattr(event, "opcode", None) is Opcode.PONG
        super().process_event(event)


async def heard(client: ClientConnection) -> list[dict]:
    return json.loads(await asyncio.wait_for(client.recv(), DEADLINE_S))


async def is_silent(client: ClientConnection, messages: int = 10) -> bool:
    """Return whether no message arrives for long enough that a served client would get one."""
    with suppress(TimeoutError):
        await asyncio.wait_for(client.recv(), messages * max(1 / SPEED, 0.02))
        return False
    return True


async def fall_silent(client: ClientConnection) -> None:
    """Wait until messages stop."""
    deadline = time.monotonic() + DEADLINE_S
    while not await is_silent(client):
        assert time.monotonic() < deadline, "messages do not end"


async def refused(connecting: connect) -> int:
    with pytest.raises(InvalidStatus) as refusal:
        async with connecting:
            pass
    return refusal.value.response.status_code


async def pongs(client: Listening) -> int:
    """Send a ping and return the number of pongs so far."""
    before = client.pongs
    await client.send(json.dumps({"action": "ping"}))
    async with asyncio.timeout(DEADLINE_S):
        while client.pongs == before:
            await asyncio.sleep(SHORT_PAUSE_S)
    return client.pongs


SUBSCRIBE = json.dumps({"action": "subscribe", "params": ["Q.O:SPY260313C00670000"]})


@pytest.fixture(scope="module")
def shared_app() -> Iterator[Running]:
    app = Running()
    yield app
    app.end()


@pytest.fixture
def app(shared_app: Running) -> Running:
    """Return the app of a stopped world, at its first hour, without a fault."""
    shared_app.at_s = AT_S
    shared_app.inject()
    return shared_app


def test_it_starts_on_two_ports_and_hides_its_key(app: Running) -> None:
    """The app reports two ports when it starts; its log names the key without its value."""
    assert app.http_port and app.ws_port and app.http_port != app.ws_port
    assert app.written("MASSIVE_API_KEY")
    assert not [line for line in app.lines if any(token in line for token in TOKENS.values())]


@pytest.mark.parametrize(
    ("path", "keys"),
    [
        ("/ping", {"status"}),
        ("/api/health", {"status", "uptime", "timestamp"}),
        ("/api/metrics", {"status", "monitoring", "message", "metricsTracked", "updateFrequency", "timestamp"}),
        ("/api/market/status", {"isOpen", "session", "timestamp"}),
        ("/api/ws-health", {"healthy", "timestamp", "metrics", "warnings", "limits"}),
        ("/api/massive-key-status", {"present", "length", "prefix", "nodeEnv"}),
    ],
)
def test_a_known_path_returns_json(app: Running, path: str, keys: set[str]) -> None:
    """Each endpoint returns 200 with exactly its keys in JSON; paths under /api have rate limit headers."""
    answer = app.http.get(path)
    assert (answer.status_code, answer.headers["content-type"].partition(";")[0], set(answer.json())) == (
        200,
        "application/json",
        keys,
    )
    assert ("x-ratelimit-remaining" in answer.headers) == path.startswith("/api/")
    assert answer.headers.get("x-ratelimit-limit", "1200") == "1200"


def test_values_of_the_endpoints(app: Running) -> None:
    """The values are those of the stopped world: time, session, first six characters of the key."""
    health = app.http.get("/api/health").json()
    assert (health["status"], health["uptime"], health["timestamp"]) == (
        "ok",
        app.at_s - AT_S,
        "2026-03-10T14:30:00.000Z",
    )
    assert app.http.get("/api/market/status").json()["session"] == "open"
    assert app.http.get("/ping").json() == {"status": "pong"}
    assert app.http.get("/api/massive-key-status").json() == {
        "present": True,
        "length": len(TOKENS["massive"]),
        "prefix": TOKENS["massive"][:6],
        "nodeEnv": "production",
    }
    assert parsedate_to_datetime(app.http.get("/ping").headers["date"]).timestamp() == app.at_s
    assert app.http.get("/api/metrics").json() == app.http.get("/api/metrics").json()


@pytest.mark.parametrize("path", ["/", "/health", "/metrics", "/status", "/api/nosuch", "/ws/options", "/a%0Ab"])
def test_an_unknown_path_returns_html(app: Running, path: str) -> None:
    """An unknown GET path returns 200 with HTML."""
    answer = app.http.get(path)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert answer.text.startswith("<!doctype html>")


def test_an_unknown_post_is_not_found(app: Running) -> None:
    """An unknown POST returns 404 with HTML, with its path escaped."""
    answer = app.http.post("/api/metrics/export<b>", json={})
    assert (answer.status_code, answer.headers["content-type"]) == (404, "text/html; charset=utf-8")
    assert "<b>" not in answer.text


def test_a_token_is_signed(app: Running) -> None:
    """
    A token is base64 of its expiry and nonce, a dot, and the hex HMAC-SHA256 of that text, valid for five minutes.
    """
    found = app.http.post("/api/ws-token").json()
    packed, _, signature = found["token"].partition(".")
    text = base64.b64decode(packed)
    assert set(found) == {"token", "expiresAt"} and set(json.loads(text)) == {"exp", "n"}
    assert json.loads(text)["exp"] == found["expiresAt"] == (app.at_s + 300) * 1000
    assert hmac.new(TOKENS["massive"].encode(), text, hashlib.sha256).hexdigest() == signature


@pytest.mark.parametrize("token", [None, "", "nonsense", "e30=.00", TOKENS["proxy"]])
def test_the_proxy_requires_a_token(app: Running, token: str | None) -> None:
    """Without a token issued by the app the proxy returns 403 with JSON, also for the static socket token."""
    answer = app.http.get(
        "/api/massive/v1/marketstatus/now", headers={} if token is None else {"x-massive-proxy-token": token}
    )
    assert (answer.status_code, answer.headers["content-type"]) == (403, "application/json")
    assert answer.json()["error"].startswith("Forbidden")


def test_a_token_expires(app: Running) -> None:
    """A token is rejected after five minutes."""
    token = app.token()
    app.inject(after_s=301)
    assert app.http.get("/api/massive/v1/marketstatus/now", headers={"x-massive-proxy-token": token}).status_code == 403


def test_the_proxy_responds_in_the_format_of_massive(app: Running) -> None:
    """Without a fault the proxy returns small responses in the vendor's format."""
    assert app.massive("/v1/marketstatus/now").json()["market"] == "open"
    contract = app.massive("/v3/snapshot/options/SPY?limit=1").json()["results"][0]
    assert {"details", "greeks", "implied_volatility", "last_quote"} <= set(contract)
    aggregates = app.massive("/v2/aggs/ticker/SPY/prev")
    assert aggregates.json()["results"] and "x-v0-fallback" not in aggregates.headers


FAILING = [
    ("massive_5xx", 502, r"\[v0\] Massive proxy error \(502\): HTTP 503"),
    ("both_down", 502, r"\[v0\] Massive proxy error \(502\): HTTP 503"),
    ("massive_timeout", 502, "ETIMEDOUT"),
    ("massive_refused", 502, "^  code: 'ECONNREFUSED'$"),
    ("massive_dns", 502, r"^\[v0\] .*getaddrinfo ENOTFOUND"),
    ("massive_tls", 502, "certificate has expired"),
    ("our_network_down", 502, "ETIMEDOUT"),
    ("massive_html_200", 502, "Unexpected token"),
    ("massive_401", 502, "HTTP 401"),
    ("massive_403_plan", 403, r"\(403\): HTTP 403 .*entitled"),
    ("massive_403_ip", 403, r"\(403\): HTTP 403 .*Forbidden"),
    ("massive_429", 502, "HTTP 429"),
]


@pytest.mark.parametrize(("name", "status", "pattern"), FAILING)
def test_a_failure_of_massive_is_in_the_log(app: Running, name: str, status: int, pattern: str) -> None:
    """If Massive fails, the proxy reports only that it failed, and the log says how."""
    since = app.mark()
    app.inject(name)
    answer = app.massive("/v3/snapshot/options/SPY")
    assert (answer.status_code, answer.json()) == (status, {"error": "External API error"})
    assert app.written(pattern, since)


def test_failed_aggregates_are_empty_with_status_200(app: Running) -> None:
    """
    Failed aggregates are returned as 200 without results; only a header shows the failure.

    For five minutes the path then returns the same, even if Massive works again.
    """
    app.inject("massive_dns")
    path = "/v2/aggs/ticker/QQQ/prev"
    first = app.massive(path)
    app.inject()
    spared = app.massive(path)
    app.inject(after_s=301)
    again = app.massive(path)
    assert [a.status_code for a in (first, spared, again)] == [200, 200, 200]
    assert first.json() == spared.json() == {"results": [], "status": "OK", "_fallback": "empty"}
    assert [a.headers.get("x-v0-fallback") for a in (first, spared, again)] == [
        "aggs-empty-catch",
        "aggs-empty-cache",
        None,
    ]


def test_a_short_timeout_is_logged(app: Running) -> None:
    """With a timeout that is too short the log says so, some calls succeed, and nothing else fails."""
    since = app.mark()
    app.inject("our_timeout_short")
    statuses = {app.massive("/v3/snapshot/options/SPY").status_code for _ in range(30)}
    assert statuses == {200, 502}
    assert app.written(r"^\[Massive\] request timed out after 150 ms /v3/snapshot/options/SPY$", since)
    assert not [line for line in app.lines[since:] if "proxy error" in line]


def test_a_share_of_requests_is_slow(app: Running) -> None:
    """A share of the requests takes 2.5 to 4 world seconds, the others a few hundredths."""

    def took_s() -> list[float]:
        since = app.mark()
        for _ in range(20):
            app.http.get("/api/health")
        until(lambda: len(app.lines) >= since + 20, "twenty access lines")
        return [float(line.split()[-2]) / 1000 for line in app.lines[since:]]

    assert all(0.005 <= took <= 0.04 for took in took_s())
    app.inject(app_slow=0.5)
    slow = [took for took in took_s() if took > 0.04]
    assert 2 <= len(slow) <= 18 and all(2.5 <= took <= 4 for took in slow)
    started = time.monotonic()
    app.inject("app_slow")
    app.http.get("/api/health")
    assert time.monotonic() - started >= 2.5 / SPEED


def test_a_clock_that_is_ahead(app: Running) -> None:
    """A wrong clock shows in the timestamp and in the Date header, 600 s ahead."""
    app.inject("clock_skew")
    answer = app.http.get("/api/health")
    assert answer.json()["timestamp"] == "2026-03-10T14:40:00.000Z"
    assert parsedate_to_datetime(answer.headers["date"]).timestamp() == app.at_s + 600


def test_a_closed_market(app: Running) -> None:
    """A closed market is reported with the time of its next open."""
    app.inject("market_closed")
    found = app.http.get("/api/market/status").json()
    assert (found["isOpen"], found["session"], found["nextOpen"]) == (False, "closed", "2026-03-11T13:30:00.000Z")


def test_a_socket_requires_a_token_and_a_path(app: Running) -> None:
    """The token is checked first, then the path: 403, 404, or a socket, for both kinds of token."""

    async def go() -> None:
        assert await refused(app.connect(token="")) == 403
        assert await refused(app.connect(token="nonsense")) == 403
        assert await refused(app.connect("/ws/nosuch", token="nonsense")) == 403
        assert await refused(app.connect("/ws/nosuch")) == 404
        async with app.connect(token=app.token()), app.connect("/ws/indices"):
            pass
        app.inject("ws_403")
        assert await refused(app.connect()) == 403

    asyncio.run(go())


def test_a_socket_streams_after_a_subscription(app: Running) -> None:
    """
    After one subscription every client of the path gets arrays of events.

    There is no greeting, and a ping gets a pong frame.
    """

    async def go() -> None:
        async with app.connect() as first, app.connect() as second, app.connect("/ws/indices") as other:
            assert await is_silent(first)
            assert await pongs(first) == 1
            await first.send("no json")
            await first.send(SUBSCRIBE)
            for client in (first, second):
                events = await heard(client)
                assert [event["ev"] for event in events] == ["Q"] and events[0]["t"] == app.at_s * 1000
            assert await is_silent(other)
            health = app.http.get("/api/ws-health").json()
            options = health["metrics"]["options"]
            assert health["healthy"] and (
                options["totalClients"],
                options["connectionState"],
                options["activeSubscriptions"],
            ) == (2, "connected", 1)
            app.inject("market_closed")
            await fall_silent(first)
            app.inject()
            await heard(first)

    asyncio.run(go())


def test_a_silent_socket_stays_open(app: Running) -> None:
    """
    After an upstream loss a connected client stays open, gets pongs, and no more messages.

    A new client makes the app connect upstream again, and is served.
    """

    async def go() -> None:
        async with app.connect() as client:
            await client.send(SUBSCRIBE)
            await heard(client)
            since = app.mark()
            app.inject("ws_open_silent")
            assert app.written(r"^\[WS options\] upstream closed with code 1006: $", since)
            await fall_silent(client)
            assert await pongs(client)
            health = app.http.get("/api/ws-health")
            options = health.json()["metrics"]["options"]
            assert (health.status_code, health.json()["healthy"], options["connectionState"]) == (
                200,
                True,
                "disconnected",
            ) and options["lastError"]
            app.inject()
            assert await is_silent(client)
            async with app.connect() as another:
                await another.send(SUBSCRIBE)
                await heard(another)
                await client.send(SUBSCRIBE)
                assert await is_silent(client)
                options = app.http.get("/api/ws-health").json()["metrics"]["options"]
                assert (options["connectionState"], options["totalClients"]) == ("connected", 1)

    asyncio.run(go())


def test_old_clients_are_dead_and_new_ones_are_served(app: Running) -> None:
    """After a short upstream loss old clients stay open and get nothing; new clients are served."""

    async def go() -> None:
        async with app.connect() as old:
            await old.send(SUBSCRIBE)
            await heard(old)
            app.inject("ws_old_clients_dead")
            await fall_silent(old)
            async with app.connect() as new:
                await new.send(SUBSCRIBE)
                await heard(new)
                assert await is_silent(old) and await pongs(old)
            assert app.http.get("/api/ws-health").json()["metrics"]["options"]["lastError"]

    asyncio.run(go())


def test_minute_aggregates_come_once_a_minute(app: Running) -> None:
    """A client of minute aggregates gets each minute once, after its end, with the minute's start and end."""

    async def go() -> None:
        async with app.connect() as client:
            await client.send(json.dumps({"action": "subscribe", "params": "AM.O:AAPL260320C00250000"}))
            assert await is_silent(client)
            app.inject(after_s=55)
            assert await is_silent(client)
            app.inject(after_s=10)
            (event,) = await heard(client)
            assert (event["ev"], event["sym"], event["s"], event["e"]) == (
                "AM",
                "O:AAPL260320C00250000",
                AT_S * 1000,
                (AT_S + 60) * 1000,
            )
            assert await is_silent(client)

    asyncio.run(go())


@pytest.mark.parametrize(
    ("state", "ahead_s"),
    [
        ("clock_skew", 600),
        ("app_clock_behind", -600),
        ("our_clock_fast", -600),
        ("our_clock_slow", 600),
        ("massive_clock_ahead", 0),
        ("page_clock_behind", 0),
    ],
)
def test_the_apps_clock(app: Running, state: str, ahead_s: float) -> None:
    """Health and Date show the app's clock; a wrong clock of Massive or of the page changes neither."""
    app.inject(state)
    answer = app.http.get("/api/health")
    assert (
        datetime.fromisoformat(answer.json()["timestamp"]).timestamp()
        == parsedate_to_datetime(answer.headers["date"]).timestamp()
        == app.at_s + ahead_s
    )


def test_an_aborted_socket_has_no_close_frame(app: Running) -> None:
    """Open sockets are aborted without a close frame; new ones are accepted and aborted after a moment."""

    async def go() -> None:
        async with app.connect() as client:
            app.inject("ws_closed_1006")
            with pytest.raises(ConnectionClosed):
                await heard(client)
            assert client.close_code == 1006
        async with app.connect() as later:
            with pytest.raises(ConnectionClosed):
                await heard(later)
            assert later.close_code == 1006
        app.inject()
        async with app.connect() as well:
            await well.send(SUBSCRIBE)
            await heard(well)

    asyncio.run(go())


def test_a_blocked_port_drops_packets(app: Running) -> None:
    """
    While the WebSocket port is blocked, connecting to it hangs and HTTP works; afterwards the same port serves again.
    """
    app.inject("ws_port_blocked")
    with pytest.raises(TimeoutError):
        socket.create_connection(("127.0.0.1", app.ws_port), timeout=0.2)
    assert app.http.get("/api/health").status_code == 200
    app.inject()

    async def go() -> None:
        async with app.connect() as client:
            await client.send(SUBSCRIBE)
            await heard(client)

    asyncio.run(go())


def test_the_log_has_neither_time_nor_level(app: Running) -> None:
    """
    Log lines are access lines, tagged messages, or the object or stack after one; none has a timestamp or a level.
    """
    since = app.mark()
    app.http.get("/api/health?probe=1")
    app.http.get("/ping")
    app.http.get("/api/massive-key-status")
    app.inject("massive_dns", "error_storm", "tradier_down", after_s=120)
    app.written(r"^GET /api/health\?probe=1 200 \d+ - \d+\.\d{3} ms$", since)
    app.written(r"^GET /ping 200 17 - ", since)
    app.written(r"^\[Tradier\] ", since)
    access, tagged, after = (
        r"(GET|POST) \S+ \d{3} \d+ - \d+\.\d{3} ms",
        r"\[[A-Za-z0-9 ]+\] .*",
        r" +.*|FetchError: .*|\}",
    )
    lines = app.lines[since:]
    assert not [line for line in lines if not re.fullmatch(f"{access}|{tagged}|{after}", line)]
    assert not [
        line for line in lines if re.search(r"\d\d:\d\d:\d\d|\d{4}-\d\d-\d\d|\b(INFO|WARN|ERROR|DEBUG)\b", line)
    ]
    assert not [line for line in lines if "massive-key-status" in line]
    assert any(line.startswith(" ") for line in lines)


def test_a_stopped_world_catches_up(app: Running) -> None:
    """
    If a stopped world is set to a later time, the log lines up to it are written.

    They are few without a fault, and at most a hundred.
    """

    def lines_of(*names: str, after_s: float) -> list[str]:
        since = app.mark()
        app.inject(*names, after_s=after_s)
        app.http.get("/ping")  # The response follows the log lines of the time before it.
        app.written("^GET /ping ", since)
        seen = app.lines[since:]
        return seen[: next(i for i, line in enumerate(seen) if line == "[Server] ping")]

    calm = lines_of(after_s=600)
    assert 15 <= len(calm) <= 60 and any("Heartbeat: status=healthy" in line for line in calm)
    stormy = lines_of("error_storm", after_s=600)
    assert 90 <= len(stormy) <= 100 and len({line.split("]")[0] for line in stormy if line.startswith("[")}) >= 5
    assert not lines_of(after_s=0)


def test_no_state_is_named_in_the_output(app: Running) -> None:
    """Whatever the fault, neither HTTP, the WebSocket nor the log contains the name of a state."""
    left: list[str] = []

    async def listen() -> None:
        with suppress(InvalidStatus, ConnectionClosed, TimeoutError):
            async with asyncio.timeout(0.05), app.connect() as client:
                left.append(str(client.response))
                await client.send(SUBSCRIBE)
                left.append(await client.recv())

    for name in STATES:
        app.inject(name, after_s=30)
        for path in ("/health", "/api/health", "/api/ws-health", "/api/market/status"):
            answer = app.http.get(path)
            left += [str(answer.headers), answer.text]
        if name in SHARED or name.startswith(("massive_", "our_")):
            answer = app.massive("/v3/snapshot/options/SPY")
            left += [str(answer.headers), answer.text]
        asyncio.run(listen())
    said = "\n".join(left + app.lines)
    assert len(left) > 400
    assert not [name for name in STATES if name in said and name not in ORDINARY_WORDS]


def test_too_many_requests_are_rejected() -> None:
    """More than 300 calls to /api/massive* within a world minute get 429."""
    app = Running(speed=100000.0)
    try:
        answers = [app.http.get("/api/massive-key-status") for _ in range(301)]
        assert [a.status_code for a in answers] == [200] * 300 + [429]
        assert (answers[0].headers["ratelimit-remaining"], answers[-1].headers["ratelimit-remaining"]) == ("299", "0")
        app.inject(after_s=60)
        assert app.http.get("/api/massive-key-status").status_code == 200
    finally:
        app.end()


def test_memory_really_grows() -> None:
    """A leak allocates half a megabyte of real memory for each world second, and at most 300 MB."""
    app = Running()
    try:
        process = psutil.Process(app.process.pid)
        at_first = process.memory_info().rss
        app.inject("memory_leak", after_s=100)
        assert 45e6 <= process.memory_info().rss - at_first <= 60e6
        app.inject(after_s=100)
        assert process.memory_info().rss - at_first <= 60e6
        app.inject("memory_leak", after_s=5000)
        assert 290e6 <= process.memory_info().rss - at_first <= 315e6
    finally:
        app.end()


def test_a_running_world_advances_by_itself() -> None:
    """In a running world the time advances and log lines are written without a command."""
    app = Running(runs=True)
    try:
        app.written("Heartbeat")
        assert until(lambda: app.http.get("/api/health").json()["uptime"] > 60, "a minute of uptime")
    finally:
        app.end()


def test_a_killed_app_restarts_on_its_ports() -> None:
    """A killed app closes its connections at once; started again on the same ports, it serves with an uptime of 0."""

    async def go() -> None:
        app = Running()
        app.inject(after_s=500)
        async with app.connect() as client:
            assert app.http.get("/api/health").json()["uptime"] == 500
            app.end(app.process.kill)
            with pytest.raises(ConnectionClosed):
                await heard(client)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", app.http_port), timeout=1)
        again = Running(http_port=app.http_port, ws_port=app.ws_port)
        try:
            assert (again.http_port, again.ws_port) == (app.http_port, app.ws_port)
            assert again.http.get("/api/health").json()["uptime"] == 0
            async with again.connect() as client:
                await client.send(SUBSCRIBE)
                await heard(client)
        finally:
            again.end()

    asyncio.run(go())


def test_the_process_exits_at_the_end_of_stdin() -> None:
    """The process exits at the end of stdin, even with open connections."""
    app = Running()

    async def go() -> int:
        async with app.connect():
            return app.end()

    assert asyncio.run(go()) == 0
