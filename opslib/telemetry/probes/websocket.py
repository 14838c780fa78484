"""
Probe the app's WebSocket: whether it opens, answers pings, sends messages, and how it closes.

An open connection proves nothing: when the app loses its upstream with code 1006, its clients stay connected and never
receive messages again, while new connections are served. So the age of the last message counts. A connection without
messages, or with two unanswered pings, is replaced by a new one: this shows whether only old connections are dead, or
all.

Messages of our subscriptions go to all pages of the app and into its log. So the probe subscribes to little: the minute
aggregates of a few contracts. Only if these stay away does it subscribe to quotes, until the first message arrives.
"""

import asyncio
import functools
import json
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from opslib.foundation import clock, market_calendar
from opslib.foundation.config.limits import ProbeLimits
from opslib.foundation.config.settings import SOCKET
from opslib.foundation.network import tls_context
from opslib.telemetry.probes.http import Prober, ProbeReading, ProbeRequest, transport
from opslib.telemetry.probes.outcomes import OUTCOMES
from opslib.telemetry.probes.store import Sample

BACKOFF_S, LONGEST_S = 1.0, 10.0  # After a restart of the app, the probe reconnects within a minute.
TICK_S = 1.0  # Interval of the check for missing messages.
UNANSWERED = 2  # After this many unanswered pings in a row the connection is dead.
# How long dead old connections are reported once a new one is served: by then people are notified.
RENEWED_S = 120.0
NOT_SERVED = ("disconnected", "error")  # States that the app reports for a lost upstream.
DEFAULT_PATH = "/ws/options"
LARGEST_MESSAGE = 4 << 20
# These words are stored in samples and compared with them, so they stay the same.
NO_TOKEN, NO_PONG = "no token for the socket", "open, and no answer to a ping"


class WebSocketProbe:
    """
    A long-lived connection to the app's WebSocket, with samples on request.

    Args:
        prober: Provides settings, clock and jitter; it also fetches the WebSocket's token.
        limits: The limits of missing and old messages.
    """

    def __init__(self, prober: Prober, limits: ProbeLimits):
        self._prober, self._limits = prober, limits
        self._socket: Any = None
        self._state, self._detail = "opening", dict[str, Any]()
        self._received_s: float | None = None
        self._old_s: float | None = None
        self._subscribed_s: float | None = None
        self._subscribed: set[str] = set()
        self._checking_s: float | None = None  # Since when it is subscribed to quotes, because no messages arrived.
        self._unanswered: list[float] = []  # The times of unanswered pings in a row.
        # The first abandoned connection, and its unanswered ping, if that was the reason.
        self._left: tuple[Any, Any] | None = None
        self._testing = False  # Whether that connection is being tested.
        # Since when the connections before this one are dead; None if they are not.
        self._dead_s: float | None = None
        self._tried = 0  # Connections since then that received no messages either.
        # When a new connection was served, and since when the old ones are dead.
        self._renewed: tuple[float, float] | None = None
        self._losses = 0
        self.contracts: tuple[str, ...] = ()  # What to subscribe to, once traded contracts are known.
        self.suspected = False  # Whether the app reports that it lost its upstream.
        self.open_since: Callable[[datetime], datetime | None] = market_calendar.open_since

    def _now_s(self) -> float:
        return asyncio.get_running_loop().time() * self._prober.speed

    async def run(self) -> None:
        """Connect, receive, and reconnect after every loss, until cancelled."""
        try:
            while True:
                await self._live()
                self._losses += 1
                longest_s = min(LONGEST_S, BACKOFF_S * 2 ** min(self._losses - 1, 16))
                await asyncio.sleep(self._prober.chance.uniform(longest_s / 2, longest_s) / self._prober.speed)
        finally:
            self._leave(None)

    async def _live(self) -> None:
        """Run one connection from its opening to its end; `_state` is how it ended."""
        import websockets

        settings, within_s = self._prober.settings, self._prober.attempt_s
        # A query from the settings; if it holds a token, none is requested from the app.
        given = settings.secret(SOCKET) or ""
        token, lacking = ("", None) if "token" in dict(parse_qsl(given)) else await self._token()
        if lacking:
            self._is(lacking, {"why": NO_TOKEN})
            return
        url = (
            settings.app_ws_url
            if urlsplit(settings.app_ws_url).path.strip("/")
            else settings.app_ws_url.rstrip("/") + DEFAULT_PATH
        )
        tls = {"ssl": tls_context(settings.ca_file)} if url.startswith("wss:") else {}
        query = "&".join(part for part in (given, urlencode({"token": token}) if token else "") if part)
        try:
            # Responses of a proxy could not be distinguished from those of the app, so no proxy is used.
            socket = await _connect()(
                url + (f"?{query}" if query else ""),
                open_timeout=within_s,
                ping_interval=None,
                close_timeout=within_s,
                max_size=LARGEST_MESSAGE,
                proxy=None,
                **tls,
            )
        except websockets.InvalidStatus as refused:
            status = refused.response.status_code
            kinds = {2: "wrong_content", 3: "redirected", 5: "server_5xx"}
            self._is(
                {401: "forbidden_403", 403: "forbidden_403", 404: "not_found_404"}.get(
                    status, kinds.get(status // 100, "client_4xx")
                ),
                {"status": status},
            )
            return
        except websockets.InvalidMessage as problem:
            torn = isinstance(problem.__cause__, (ConnectionError, EOFError))
            self._is(
                "reset" if torn else "wrong_content", {} if torn else {"why": "the server is not a WebSocket server"}
            )
            return
        except websockets.InvalidHandshake:
            self._is("wrong_content", {"why": "the server is not a WebSocket server"})
            return
        except TimeoutError:
            is_accepted = await self._is_accepted(url, within_s)
            self._is(
                "timeout" if is_accepted else "unreachable",
                {"why": "accepts the connection but does not answer the upgrade"} if is_accepted else {},
            )
            return
        except (OSError, websockets.WebSocketException, EOFError) as problem:
            self._is(transport(problem), {})
            return
        try:
            await self._listen(socket)
        finally:
            self._socket, self._state = None, "opening" if self._state == "open" else self._state
            if self._left is None or self._left[0] is not socket:
                await asyncio.shield(_closed(socket))

    async def _listen(self, socket: Any) -> None:
        """Receive messages until the connection is closed, or abandoned because it is dead."""
        import websockets

        self._socket, self._subscribed_s, self._checking_s, self._state = socket, None, None, "open"
        self._subscribed, self._unanswered = set(), []
        try:
            while self._state == "open":
                await self._subscribe(socket)
                events: list[dict[str, Any]] = []
                with suppress(TimeoutError):
                    async with asyncio.timeout(TICK_S / self._prober.speed):
                        events = _events(await socket.recv())
                if not events:
                    self._handle_silence()
                    continue
                self._received_s, self._losses, self._checking_s, self.suspected = self._now_s(), 0, None, False
                await self._test_abandoned()
                stamps = [s for event in events if (s := _stamp_s(event))]
                self._old_s = max(0.0, self._prober.now().timestamp() - max(stamps)) if stamps else None
        except websockets.ConnectionClosed as closed:
            if self._state == "open":
                code = closed.rcvd.code if closed.rcvd else 1006
                self._is("closed", {"code": code})

    @property
    def _topics(self) -> list[str]:
        """The subscriptions: minute aggregates, and without messages also quotes (for an index, its values)."""
        kinds = ("AM",) if self._checking_s is None else ("AM", "V" if self._of_indices else "Q")
        return [
            f"{kind}.{contract}"
            for kind in kinds
            for contract in self.contracts
            if contract.startswith("I:") == self._of_indices
        ]

    @property
    def _of_indices(self) -> bool:
        return urlsplit(self._prober.settings.app_ws_url).path.rstrip("/").endswith("/indices")

    async def _subscribe(self, socket: Any) -> None:
        """
        Subscribe to messages, once contracts are known.

        Without a subscription, a connection without messages is healthy.
        """
        topics_now = self._topics
        if topics_now and self._subscribed_s is None:
            self._subscribed_s = self._now_s()
        for action, topics in (
            ("unsubscribe", self._subscribed - {*topics_now}),
            ("subscribe", {*topics_now} - self._subscribed),
        ):
            for topic in sorted(topics):
                # A string, never a list, since an older app crashes on a list; and one by one, since a string with a
                # colon is one topic.
                await socket.send(json.dumps({"action": action, "params": topic}))
        self._subscribed = {*topics_now}

    def _handle_silence(self) -> None:
        """
        Handle missing messages: after too long, subscribe to more; if that brings none either, abandon the connection.
        """
        now_s, subscribed_s = self._now_s(), self._subscribed_s
        if subscribed_s is None or self.open_since(self._prober.now()) is None:
            self._checking_s = None
            if self._left is None or self._left[1] is None:
                self._dead_s, self._tried = None, 0
                self._leave(None)
            return
        since_s = max(subscribed_s, self._received_s or 0.0)
        if self._checking_s is None:
            if now_s - since_s > self._limits.silent_after_s or self.suspected or self._dead_s is not None:
                self._checking_s = now_s
        elif now_s - self._checking_s > self._limits.checked_for_s:
            self._tried += self._dead_s is not None
            if self._dead_s is None:
                self._dead_s = since_s
                self._leave((self._socket, None))
            self._is("silent" if self._tried else "opening", {"tried": self._tried} if self._tried else {})

    @staticmethod
    async def _is_accepted(url: str, within_s: float) -> bool:
        """Return whether the port accepts a connection."""
        parts = urlsplit(url)
        try:
            async with asyncio.timeout(within_s):
                _, writer = await asyncio.open_connection(
                    parts.hostname, parts.port or (443 if parts.scheme == "wss" else 80)
                )
        except (TimeoutError, OSError):
            return False
        writer.close()
        return True

    async def _token(self) -> tuple[str, str | None]:
        """
        Request a token for the WebSocket from the app; return the token, or the outcome that prevented it.

        Without an app address no token is needed.
        """
        if not self._prober.settings.app_url:
            return "", None
        found: list[str] = []

        def read(payload: Any, _middle: datetime) -> ProbeReading:
            found.append(str(payload["token"]))
            return ProbeReading("ok")

        question = ProbeRequest(
            "token",
            "app",
            f"{self._prober.settings.app_url}/api/ws-token",
            read,
            method="POST",
        )
        samples = await self._prober.probe(question)
        # An app that returns a web page there has no such token; the handshake shows whether one is required.
        return (
            (found[-1], None)
            if found
            else ("", samples[-1].outcome if OUTCOMES[samples[-1].outcome].answered is False else None)
        )

    def _is(self, state: str, detail: dict[str, Any]) -> None:
        self._state, self._detail = state, detail

    async def sample(self) -> list[Sample]:
        """
        Return a sample of the current state, with a round trip if it is open; its value is the age of the last message.

        The age is in seconds. If only new connections are served, it is that of the last message to the old ones. No
        sample is returned while it opens, and while a new connection is being tested.
        """
        began_s, socket = self._now_s(), self._socket
        outcome, seconds, detail = self._state, None, dict(self._detail)
        if self._state == "opening":
            return []
        if socket is not None:
            outcome, seconds, detail = await self._round_trip(socket, began_s)
        elif self._losses > 1:
            detail["losses"] = self._losses
        age_s = None if self._received_s is None else max(0.0, self._now_s() - self._received_s)
        now = self._prober.now()
        if outcome == "ok" and self._dead_s is not None:
            if not self._tried:
                return []
            outcome, detail["tried"] = "silent", self._tried
        elif (
            outcome == "ok"
            and self._old_s is not None
            and self._old_s > self._limits.stale_after_s + self._limits.delayed_by_s
            and self.open_since(now) is not None
        ):
            outcome, detail["why"] = "stale", f"its messages are {self._old_s / 60:.0f} min old"
        elif outcome == "ok" and self._renewed and self._now_s() - self._renewed[0] <= RENEWED_S:
            outcome, age_s = "renewed", self._now_s() - self._renewed[1]
        shown = self._prober.settings.redact(json.dumps(detail, sort_keys=True))
        return [
            Sample(
                clock.micros(now),
                "socket",
                "app",
                outcome,
                seconds,
                None if age_s is None else round(age_s, 1),
                detail=shown,
            )
        ]

    async def _round_trip(self, socket: Any, began_s: float) -> tuple[str, float | None, dict[str, Any]]:
        import websockets

        try:
            answer = await socket.ping()
            async with asyncio.timeout(self._prober.attempt_s):
                await asyncio.shield(answer)
        except TimeoutError:
            self._unanswered.append(began_s)
            if len(self._unanswered) >= UNANSWERED and self._socket is socket:
                if self._dead_s is None:
                    self._dead_s = self._unanswered[0]
                    self._leave((socket, answer))
                self._is("timeout", {"why": NO_PONG})
            return "timeout", None, {"why": NO_PONG}
        except websockets.ConnectionClosed as closed:
            return "closed", None, {"code": closed.rcvd.code if closed.rcvd else 1006}
        self._unanswered = []
        if self._left is not None and self._left[1] is not None:
            await self._test_abandoned()
        return "ok", self._now_s() - began_s, {}

    async def _test_abandoned(self) -> None:
        """
        Test whether the abandoned connection is served too, now that a new one is.
        """
        if self._dead_s is None or self._testing:
            return
        self._testing = True
        try:
            if self._left is None or not await self._is_served(*self._left):
                self._renewed = self._now_s(), self._dead_s
        finally:
            self._testing, self._dead_s, self._tried = False, None, 0
            self._leave(None)

    async def _is_served(self, socket: Any, answer: Any) -> bool:
        """
        Return whether an abandoned connection answers its ping by now, or receives a message.

        The app sends the same messages to all connections.
        """
        import websockets

        if answer is not None and answer.done() and not answer.cancelled() and answer.exception() is None:
            return True
        if self.open_since(self._prober.now()) is None:
            return False
        with suppress(TimeoutError, websockets.ConnectionClosed):
            async with asyncio.timeout(2 * TICK_S / self._prober.speed):
                while not _events(await socket.recv()):
                    pass
                return True
        return False

    def _leave(self, left: tuple[Any, Any] | None) -> None:
        """
        Keep an abandoned connection open beside the next one, with its unanswered ping; close the one kept before.
        """
        if self._left is not None:
            self._left[0].transport.abort()
        self._left = left


@functools.cache
def _connect() -> Any:
    """Create a connection class without redirects, since our token would be sent too."""
    import websockets

    class Here(websockets.connect):
        def process_redirect(self, exc: Exception) -> Exception | str:
            return exc

    return Here


def _events(message: str | bytes) -> list[dict[str, Any]]:
    """Return the market events in a message; none if it is only about the connection."""
    try:
        found = json.loads(message)
    except (ValueError, RecursionError):
        return []
    return (
        [event for event in found if isinstance(event, dict) and event.get("ev") not in (None, "status")]
        if isinstance(found, list)
        else []
    )


def _stamp_s(event: dict[str, Any]) -> float | None:
    """Return the time of an event in seconds since 1970, from its own timestamp (milliseconds)."""
    stamp = event.get("t", event.get("e"))
    return stamp / 1000 if isinstance(stamp, (int, float)) and not isinstance(stamp, bool) and stamp > 1e12 else None


async def _closed(socket: Any) -> None:
    """Close a connection in any state."""
    await socket.close()
