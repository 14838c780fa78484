"""
Probe the app's WebSocket over real sockets: how it opens, what it sends, its silence, and how it closes, each with its
own outcome.
"""

import asyncio
import json
import random
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection, serve

from opslib.foundation.config import rules, settings
from opslib.simulation.world.http_server import Answer, as_html, as_json
from opslib.telemetry.probes.http import Prober
from opslib.telemetry.probes.store import Sample
from opslib.telemetry.probes.websocket import WebSocketProbe
from tests.support.servers import serving

OPEN, SHUT = datetime(2026, 3, 10, 15, 0, tzinfo=UTC), datetime(2026, 3, 8, 15, 0, tzinfo=UTC)
SPEED = 20.0
LIMITS = rules.load().probes
QUOTE = {"ev": "Q", "sym": "O:SPY260320C00670000", "bp": 1.0}


async def looked(
    home: Path,
    url: str,
    holds: Callable[[Sample], bool],
    at: datetime = OPEN,
    contracts: tuple[str, ...] = ("O:SPY260320C00670000",),
    **environ: str,
) -> list[Sample]:
    """Take a sample each simulated second until a condition on the last one holds."""
    found = settings.load(home, None, {"OPS_APP_WS_URL": url, **environ})
    stream, seen = WebSocketProbe(Prober(found, lambda: at, SPEED, random.Random(1)), LIMITS), list[Sample]()
    stream.contracts = contracts
    running = asyncio.create_task(stream.run())
    try:
        async with asyncio.timeout(60):
            while not seen or not holds(seen[-1]):
                await asyncio.sleep(1 / SPEED)
                seen += await stream.sample()
    finally:
        running.cancel()
    return seen


def with_socket(
    home: Path,
    attend: Callable[[ServerConnection], Awaitable[None]],
    holds: Callable[[Sample], bool],
    path: str = "/ws/options",
    **how: Any,
) -> list[Sample]:
    """The samples of an app whose WebSocket behaves in this way."""

    async def go() -> list[Sample]:
        async with serve(attend, "127.0.0.1", 0, ping_interval=None) as server:
            return await looked(home, f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}{path}", holds, **how)

    return asyncio.run(go())


def saying(*events: dict[str, Any]) -> Callable[[ServerConnection], Awaitable[None]]:
    """A WebSocket that sends the same events repeatedly."""

    async def attend(client: ServerConnection) -> None:
        while True:
            await client.send(json.dumps(list(events)))
            await asyncio.sleep(1 / SPEED)

    return attend


def is_(outcome: str) -> Callable[[Sample], bool]:
    return lambda sample: sample.outcome == outcome


def test_a_websocket_with_quotes_is_ok(tmp_path: Path) -> None:
    """A WebSocket that sends quotes is ok, with a round-trip time and the age of the last message."""
    last = with_socket(
        tmp_path, saying(QUOTE | {"t": OPEN.timestamp() * 1000}), lambda s: s.outcome == "ok" and s.value is not None
    )[-1]
    assert last.seconds is not None and last.value is not None and last.value < LIMITS.silent_after_s


def test_status_messages_alone_are_silence(tmp_path: Path) -> None:
    """A WebSocket that only sends messages about its own connection is silent after a while, in market hours."""
    seen = with_socket(tmp_path, saying({"ev": "status", "status": "connected"}), is_("silent"))
    assert {s.outcome for s in seen} == {"ok", "silent"} and seen[-1].value is None


def test_old_quotes_are_stale(tmp_path: Path) -> None:
    """Quotes older than those of a delayed plan are stale; quotes of a delayed plan are ok."""
    old = with_socket(tmp_path, saying(QUOTE | {"t": (OPEN.timestamp() - 1800) * 1000}), is_("stale"))[-1]
    assert "30 min old" in old.details()["why"]
    seen = with_socket(tmp_path, saying(QUOTE | {"t": (OPEN.timestamp() - 960) * 1000}), lambda s: s.value is not None)
    assert seen[-1].outcome == "ok"


def test_silence_is_ok_if_no_messages_are_expected(tmp_path: Path) -> None:
    """On a Sunday, or without subscribed contracts, an open WebSocket without messages is ok."""

    async def attend(client: ServerConnection) -> None:
        await client.wait_closed()

    for how in ({"at": SHUT}, {"contracts": ()}):
        count = iter(range(1000))
        seen = with_socket(tmp_path, attend, lambda _, count=count: next(count) > 60, **how)
        assert {s.outcome for s in seen} == {"ok"}


def test_each_topic_has_its_own_subscription(tmp_path: Path) -> None:
    """
    The minute aggregates of each contract are subscribed to in their own message, as text; an index only on the path
    for indices.
    """
    asked: list[Any] = []

    async def attend(client: ServerConnection) -> None:
        async for message in client:
            asked.append(json.loads(message))

    with_socket(tmp_path, attend, lambda _: len(asked) == 2, contracts=("O:A", "O:B", "I:SPX"))
    assert asked == [{"action": "subscribe", "params": "AM.O:A"}, {"action": "subscribe", "params": "AM.O:B"}]
    asked.clear()
    with_socket(tmp_path, attend, lambda _: len(asked) == 1, path="/ws/indices", contracts=("O:A", "O:B", "I:SPX"))
    assert asked == [{"action": "subscribe", "params": "AM.I:SPX"}]


@pytest.mark.parametrize("code", [1000, 1008, 1011])
def test_its_close_code_is_reported(tmp_path: Path, code: int) -> None:
    """The sample has the close code."""

    async def attend(client: ServerConnection) -> None:
        await client.close(code)

    assert with_socket(tmp_path, attend, is_("closed"))[-1].details()["code"] == code


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (as_html("The app"), "wrong_content"),
        (Answer(403, b"Forbidden", "text/plain"), "forbidden_403"),
        (Answer(404), "not_found_404"),
        (Answer(302, headers={"Location": "/"}), "redirected"),
        (Answer(503), "server_5xx"),
        (Answer(fault="reset"), "reset"),
        (Answer(fault="hang"), "timeout"),
    ],
)
def test_failed_upgrades(tmp_path: Path, answer: Answer, outcome: str) -> None:
    """
    Each way in which the upgrade fails has its own outcome; a port that accepts the connection and then does not
    respond is not "unreachable".
    """

    async def go() -> Sample:
        async with serving(lambda _: answer) as url:
            return (await looked(tmp_path, url.replace("http", "ws") + "/ws/options", lambda s: True))[-1]

    last = asyncio.run(go())
    assert last.outcome == outcome
    assert outcome != "timeout" or "does not answer the upgrade" in last.details()["why"]


@pytest.mark.parametrize(("state", "outcome"), [("closed", "refused"), ("swallowing", "unreachable")])
def test_failed_connections(tmp_path: Path, state: str, outcome: str) -> None:
    """A closed port is "refused"; a port that drops all packets is "unreachable"."""

    async def go() -> Sample:
        async with serving(lambda _: Answer(), state) as url:
            return (await looked(tmp_path, url.replace("http", "ws"), lambda s: True))[-1]

    assert asyncio.run(go()).outcome == outcome


def test_a_missing_token(tmp_path: Path) -> None:
    """
    An app that gives no token for its WebSocket is reported as such; if it answers with a web page instead, the
    WebSocket is opened without a token.
    """

    async def go(answer: Answer, outcome: str) -> Sample:
        async with serving(lambda r: answer if r.path == "/api/ws-token" else Answer(403)) as url:
            return (await looked(tmp_path, url.replace("http", "ws") + "/ws/options", is_(outcome), OPS_APP_URL=url))[
                -1
            ]

    lacking = asyncio.run(go(as_json({"error": "no key"}, 500), "server_5xx"))
    assert (lacking.outcome, lacking.details()["why"]) == ("server_5xx", "no token for the socket")
    assert asyncio.run(go(as_html("The app", 404), "forbidden_403")).outcome == "forbidden_403"
