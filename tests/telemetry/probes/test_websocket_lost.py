"""
The app's WebSocket after its upstream was lost: which connections are served, what the probe sends to find out, and
what people read.
"""

import asyncio
import json
import random
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from opslib.alerting import probe_figures
from opslib.alerting.verdicts import evaluate_figure
from opslib.dashboard import status
from opslib.foundation import clock
from opslib.foundation.clock import Window
from opslib.foundation.config import rules, settings
from opslib.foundation.storage.database import Database
from opslib.runbooks.diagnosis import diagnosis
from opslib.simulation.world.http_server import Answer, as_html, as_json
from opslib.telemetry.pages.counters import CounterHistory
from opslib.telemetry.probes.history import ProbeHistory
from opslib.telemetry.probes.http import Prober
from opslib.telemetry.probes.runner import ProbeRunner
from opslib.telemetry.probes.store import Sample, SampleStore
from opslib.telemetry.probes.websocket import WebSocketProbe
from tests.support.servers import serving

OPEN = datetime(2026, 3, 10, 15, 0, tzinfo=UTC)
SPEED = 20.0
RULES = rules.load()
CONTRACTS = ("O:A", "O:B")


class App:
    """
    The app's WebSocket and its upstream, in simulated seconds.

    Attributes:
        asked: Each subscription message in its order: connection, action, topic.
        serves: Whether a connection (by its number, from 0) receives the messages from upstream.
        has_minutes: Whether upstream sends minute aggregates; it always sends quotes.
    """

    def __init__(self) -> None:
        self.asked: list[tuple[int, str, str]] = []
        self.serves: Callable[[int], bool] = lambda number: True
        self.has_minutes = True
        self.count = 0

    async def attend(self, client: ServerConnection) -> None:
        number, self.count = self.count, self.count + 1
        topics: set[str] = set()
        sending = asyncio.create_task(self._send(client, number, topics))
        try:
            async for message in client:
                command = json.loads(message)
                self.asked.append((number, command["action"], command["params"]))
                (topics.add if command["action"] == "subscribe" else topics.discard)(command["params"])
        finally:
            sending.cancel()

    async def _send(self, client: ServerConnection, number: int, topics: set[str]) -> None:
        """Send quotes each second and aggregates each minute for the subscribed topics."""
        with suppress(ConnectionClosed):
            for second in range(1, 10**6):
                await asyncio.sleep(1 / SPEED)
                kinds = ("Q.", "AM.") if self.has_minutes and second % 60 == 0 else ("Q.",)
                events = [
                    {"ev": t.partition(".")[0], "sym": t.partition(".")[2]}
                    for t in sorted(topics)
                    if t.startswith(kinds)
                ]
                if events and self.serves(number):
                    await client.send(json.dumps(events))


async def watched(
    home: Path, url: str, until: Callable[[list[Sample], WebSocketProbe], bool], at: datetime = OPEN
) -> list[Sample]:
    """Take a sample every five simulated seconds until a condition holds."""
    stream, seen = (
        WebSocketProbe(
            Prober(settings.load(home, None, {"OPS_APP_WS_URL": url}), lambda: at, SPEED, random.Random(1)),
            RULES.probes,
        ),
        list[Sample](),
    )
    stream.contracts = CONTRACTS
    running = asyncio.create_task(stream.run())
    try:
        async with asyncio.timeout(90):
            while not until(seen, stream):
                await asyncio.sleep(5 / SPEED)
                seen += await stream.sample()
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    return seen


def run(home: Path, app: App, until: Callable[[list[Sample], WebSocketProbe], bool]) -> list[Sample]:
    async def go() -> list[Sample]:
        async with serve(app.attend, "127.0.0.1", 0, ping_interval=None) as server:
            return await watched(home, f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/ws/options", until)

    return asyncio.run(go())


def outcomes(seen: list[Sample]) -> list[str]:
    """The outcomes in their order, without repetition."""
    return [s.outcome for s, before in zip(seen, [None, *seen]) if before is None or s.outcome != before.outcome]


def test_a_healthy_websocket_only_gets_aggregate_subscriptions(tmp_path: Path) -> None:
    """While an aggregate arrives each minute the WebSocket is ok, and no quotes are subscribed to."""
    app = App()
    seen = run(tmp_path, app, lambda seen, _: len(seen) >= 28)
    assert {s.outcome for s in seen} == {"ok"} and app.count == 1
    assert {topic for _, _, topic in app.asked} <= {"AM.O:A", "AM.O:B", "Q.O:A", "Q.O:B"}
    assert [a for a in app.asked if a[2].startswith("Q.")] == [] or len(app.asked) <= 10, (
        "on a machine that is busy an aggregate may be late, and is then checked for"
    )


def test_without_aggregates_a_quote_is_enough(tmp_path: Path) -> None:
    """
    Contracts without a trade for a minute are not silence: their quotes are subscribed to, until the first one arrives.
    """
    app = App()
    app.has_minutes = False
    seen = run(tmp_path, app, lambda seen, _: (0, "unsubscribe", "Q.O:B") in app.asked and len(seen) > 16)
    assert {s.outcome for s in seen} == {"ok"} and app.count == 1
    quotes = [a for a in app.asked if a[2].startswith("Q.")]
    assert quotes[:4] == [
        (0, "subscribe", "Q.O:A"),
        (0, "subscribe", "Q.O:B"),
        (0, "unsubscribe", "Q.O:A"),
        (0, "unsubscribe", "Q.O:B"),
    ]


@pytest.mark.slow
def test_old_connections_are_dead_and_new_ones_are_served(tmp_path: Path) -> None:
    """
    If the upstream was lost once, existing connections are never served again. The probe reconnects, is served, and
    reports that pages must be refreshed. The value is the age of the last message on the old connection; after the
    report, the outcome is ok again.
    """
    app = App()
    app.serves = lambda number: number > 0
    seen = run(
        tmp_path, app, lambda seen, _: len(seen) > 2 and seen[-1].outcome == "ok" and "renewed" in outcomes(seen)
    )
    assert outcomes(seen) == ["ok", "renewed", "ok"] and app.count == 2
    values = [s.value or 0.0 for s in seen if s.outcome == "renewed"]
    assert 65 + 8 <= values[0] < 130 and values == sorted(values) and values[-1] - values[0] > 90


@pytest.mark.parametrize(("old_too", "last"), [(False, "renewed"), (True, "ok")])
def test_all_connections_are_silent_until_upstream_is_back(tmp_path: Path, old_too: bool, last: str) -> None:
    """
    While new connections receive nothing either, the outcome is "silent", and the probe reconnects repeatedly. When one
    is served, the outcome is "renewed" only if the first connection is not served too: then pages must be refreshed.
    """
    app, back = App(), list[bool]()
    app.serves = lambda number: bool(back) and (old_too or number > 0)

    def until(seen: list[Sample], stream: WebSocketProbe) -> bool:
        if sum(s.outcome == "silent" for s in seen) > 3 and not back:
            back.append(True)
        return bool(back) and seen[-1].outcome != "silent"

    seen = run(tmp_path, app, until)
    assert outcomes(seen) == ["ok", "silent", last] and app.count > 2
    silent = [s for s in seen if s.outcome == "silent"]
    assert silent[0].details()["tried"] == 1 and silent[-1].details()["tried"] >= silent[0].details()["tried"]


def test_a_lost_upstream_reported_by_the_app_is_checked_at_once(tmp_path: Path) -> None:
    """If the app reports that its upstream is lost, the probe does not wait for a minute of silence."""
    app = App()
    app.serves = lambda number: number > 0

    def until(seen: list[Sample], stream: WebSocketProbe) -> bool:
        if len(seen) == 1:
            stream.suspected = True
        return bool(seen) and seen[-1].outcome == "renewed"

    assert 8 < (run(tmp_path, app, until)[-1].value or 0) < 60


class Proxy:
    """A proxy that can stop forwarding for its open connections without closing them."""

    def __init__(self, port: int):
        self._port, self._open = port, list[asyncio.Event]()

    def freeze(self) -> None:
        for way in self._open:
            way.clear()

    def thaw(self) -> None:
        for way in self._open:
            way.set()

    async def attend(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        way = asyncio.Event()
        way.set()
        self._open.append(way)
        there, back = await asyncio.open_connection("127.0.0.1", self._port)
        await asyncio.gather(
            self._pass_on(reader, back, way), self._pass_on(there, writer, way), return_exceptions=True
        )

    @staticmethod
    async def _pass_on(source: asyncio.StreamReader, target: asyncio.StreamWriter, way: asyncio.Event) -> None:
        try:
            while data := await source.read(65536):
                await way.wait()
                target.write(data)
        finally:
            target.close()


def through_proxy(home: Path, until: Callable[[list[Sample], Proxy], bool]) -> list[Sample]:
    async def go() -> list[Sample]:
        app = App()
        async with serve(app.attend, "127.0.0.1", 0, ping_interval=None) as server:
            proxy = Proxy(server.sockets[0].getsockname()[1])
            way = await asyncio.start_server(proxy.attend, "127.0.0.1", 0)
            async with way:
                found = await watched(
                    home,
                    f"ws://127.0.0.1:{way.sockets[0].getsockname()[1]}/ws/options",
                    lambda seen, _: until(seen, proxy),
                )
                proxy.thaw()
                return found

    return asyncio.run(go())


def test_two_unanswered_pings_end_a_connection(tmp_path: Path) -> None:
    """
    After unanswered pings the probe reconnects; if the new connection is served and the old one is still dead, the
    outcome is "renewed".
    """

    def until(seen: list[Sample], proxy: Proxy) -> bool:
        if len(seen) == 3:
            proxy.freeze()
        return bool(seen) and seen[-1].outcome == "renewed"

    seen = through_proxy(tmp_path, until)
    assert outcomes(seen) == ["ok", "timeout", "renewed"]
    assert next(s.details()["why"] for s in seen if s.outcome == "timeout") == "open, and no answer to a ping"


def test_a_server_that_recovers_has_no_dead_connections(tmp_path: Path) -> None:
    """If the old connection responds again together with the new one, no page must be refreshed."""

    def until(seen: list[Sample], proxy: Proxy) -> bool:
        if len(seen) == 3:
            proxy.freeze()
        if sum(s.outcome == "timeout" for s in seen) == 2:
            proxy.thaw()
        return len(seen) > 8 and [s.outcome for s in seen[-2:]] == ["ok", "ok"]

    assert outcomes(through_proxy(tmp_path, until)) == ["ok", "timeout", "ok"]


def test_no_silence_during_an_unplanned_market_closure(tmp_path: Path) -> None:
    """If the market is reported closed, a missing message is not silence although the calendar has a session."""
    app = App()
    app.serves = lambda number: False

    def until(seen: list[Sample], stream: WebSocketProbe) -> bool:
        stream.open_since = lambda at: None
        return len(seen) > 18

    assert {s.outcome for s in run(tmp_path, app, until)} == {"ok"} and app.count == 1


# What the app reports about its upstream.

HEALTHY = {
    "healthy": True,
    "metrics": {
        "options": {
            "totalClients": 3,
            "upstreamConnections": 1,
            "connectionState": "connected",
            "reconnectAttempts": 0,
        },
        "indices": {"totalClients": 0, "connectionState": "disconnected"},
    },
}
LOST = {
    "healthy": True,
    "metrics": {
        "options": {
            "totalClients": 3,
            "upstreamConnections": 0,
            "connectionState": "disconnected",
            "reconnectAttempts": 0,
            "lastError": "getaddrinfo ENOTFOUND socket.example",
        }
    },
}


@pytest.mark.parametrize(
    ("answer", "path", "state"),
    [
        (as_json(HEALTHY), "/ws/options", "connected"),
        (as_json(HEALTHY), "/ws/indices", "disconnected"),
        (as_json(LOST), "/ws/options", "disconnected"),
        (as_json(HEALTHY, 503), "/ws/options", "connected"),
        (as_html("The app"), "/ws/options", None),
        (Answer(404), "/ws/options", None),
        (as_json({"healthy": True}), "/ws/options", None),
        (as_json({"error": "x"}, 500), "/ws/options", None),
        (Answer(fault="reset"), "/ws/options", None),
    ],
)
def test_the_state_of_the_upstream(tmp_path: Path, answer: Answer, path: str, state: str | None) -> None:
    """
    The state is read for the path that we use, with status 503 as with 200. An app version that does not report it
    gives no sample, and is not asked again soon.
    """
    asked: list[str] = []

    async def go() -> tuple[list[Sample], bool]:
        def answered(request: Any) -> Answer:
            asked.append(request.path)
            return answer

        async with serving(answered) as url:
            found = settings.load(
                tmp_path, None, {"OPS_APP_URL": url, "OPS_APP_WS_URL": url.replace("http", "ws") + path}
            )
            rounds = ProbeRunner(found, Database(found.url), RULES, now=lambda: OPEN, speed=2.0)
            (look,) = [look for name, _, look in rounds.probes() if name == "upstream of the app"]
            samples = await look()
            count = len(asked)
            await look()
            rounds.close()
            assert rounds.stream
            return samples, len(asked) > count

    samples, again = asyncio.run(go())
    assert [s.details()["state"] for s in samples] == ([] if state is None else [state])
    assert set(asked) == {"/api/ws-health"} and again == (state is not None or answer.fault is not None)


def at(seconds: float, outcome: str, value: float | None = None, probe: str = "socket", **detail: Any) -> Sample:
    return Sample(
        clock.micros(OPEN + timedelta(seconds=seconds)), probe, "app", outcome, None, value, detail=json.dumps(detail)
    )


SILENT = [
    *(at(5.0 * i, "ok", 5.0 * i) for i in range(16)),
    *(at(80 + 5.0 * i, "silent", 80 + 5.0 * i, tried=1) for i in range(4)),
]
SAYS = at(94, "ok", 3.0, "upstream", state="disconnected", error="getaddrinfo ENOTFOUND")
RENEWED = [
    *(at(5.0 * i, "ok", 5.0 * i) for i in range(16)),
    *(at(85 + 5.0 * i, "renewed", 85.0 + 5 * i) for i in range(3)),
]


@pytest.mark.parametrize(
    ("samples", "seconds", "severity", "words"),
    [
        (
            SILENT,
            95.0,
            "critical",
            "WebSocket down (1 min 35 s) > 1 min: neither old nor new connections receive messages (1 tried)",
        ),
        (
            [*SILENT, SAYS],
            95.0,
            "critical",
            "WebSocket down (1 min 35 s) > 1 min: neither old nor new connections receive messages (1 tried); the app "
            "reports its upstream as disconnected (getaddrinfo ENOTFOUND)",
        ),
        (
            RENEWED,
            95.0,
            "critical",
            "WebSocket down (1 min 35 s) > 1 min: new connections receive messages, older ones do not: refresh the "
            "pages",
        ),
        (RENEWED[:16], 0.0, None, "WebSocket down (0 s) ≤ 0 s"),
    ],
)
def test_the_alert_names_the_connections_that_are_served(
    samples: list[Sample], seconds: float, severity: str | None, words: str
) -> None:
    """
    The figure and sentence of the alert: which connections are served, and what the app reports about its upstream.
    """
    probed, window = ProbeHistory(samples=samples), Window(OPEN, OPEN + timedelta(seconds=95))
    figure = probe_figures.measure(probed, CounterHistory(RULES.pages, 5.0), RULES["websocket_down"], "app", window)
    found = evaluate_figure(RULES["websocket_down"], "app", "probe", figure)
    assert (figure.value, found.severity, found.sentence) == (seconds, severity, words)


@pytest.mark.parametrize(
    ("samples", "words"),
    [
        (
            [*SILENT, SAYS],
            "neither old nor new connections receive messages (1 tried); the app reports its upstream as disconnected "
            "(getaddrinfo ENOTFOUND)",
        ),
        (RENEWED, "new connections receive messages, older ones do not: refresh the pages"),
    ],
    ids=["dead for all", "renewed"],
)
def test_the_diagnosis_and_the_panel_name_the_served_connections(
    tmp_path: Path, samples: list[Sample], words: str
) -> None:
    """
    In both cases the cause is a silent WebSocket; the diagnosis and the panel name the connections that are served.
    """
    found = settings.load(tmp_path, None, {})
    kept = Database(found.url)
    more = [at(5.0 * i, "ok", None, "beat", every_s=5)._replace(subject="collector") for i in range(20)] + [
        at(5.0 * i, "ok", 900.0 + 5 * i, "health") for i in range(20)
    ]
    SampleStore(kept, found.app).keep([*samples, *more], known_at_ts=True)
    view = status.status(kept, found, RULES, as_of=OPEN + timedelta(seconds=96), length=timedelta(minutes=5))
    cause = diagnosis.diagnose(view)
    assert (cause.cause, cause.subject) == ("socket_silent", "app") and words in repr(cause)
    assert [s for s in view.summaries if words in s.words and s.panel == "system"]


def test_without_a_websocket_probe_the_report_of_the_app_counts(tmp_path: Path) -> None:
    """
    If no WebSocket is probed, an upstream that the app has lost while clients are connected is a silent WebSocket.
    """
    found = settings.load(tmp_path, None, {})
    kept = Database(found.url)
    SampleStore(kept, found.app).keep(
        [at(15.0 * i, "ok", 3.0, "upstream", state="disconnected" if i else "connected") for i in range(6)],
        known_at_ts=True,
    )
    cause = diagnosis.diagnose(
        status.status(kept, found, RULES, as_of=OPEN + timedelta(seconds=80), length=timedelta(minutes=5))
    )
    assert (cause.cause, cause.subject) == ("socket_silent", "app") and "with 3 clients connected" in repr(cause)
