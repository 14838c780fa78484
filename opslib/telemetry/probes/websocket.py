"""
Hold the app's WebSocket as seen from outside: whether it opens, answers pings, says anything, and how it closes.

Open proves nothing: when the app loses its upstream with 1006 its clients stay open and hear no more, for ever, while
who connects anew is served. So the age of the last message counts, and a connection that hears nothing, or does not
answer
two pings, is closed and dialled again: then it is known whether only old connections are dead, or all.

What the app is subscribed to goes to each of its pages and into its log, so we ask for the quietest that proves life:
the minute aggregates of a few contracts. Only where these stay away are their quotes asked for, until the first one
comes.
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
from opslib.telemetry.probes.http import ATTEMPT_S, Prober, ProbeReading, ProbeRequest, transport
from opslib.telemetry.probes.outcomes import OUTCOMES
from opslib.telemetry.probes.store import Sample

BACKOFF_S, LONGEST_S = 1.0, 10.0  # A restart of the app ends within a minute for us too.
TICK_S = 1.0  # So often is it checked for how long nothing was heard.
UNANSWERED = 2  # So many pings without an answer, one after the other, and the connection is dead.
# For so long is it reported that old connections are dead, once a new one is served: by then people are notified.
RENEWED_S = 120.0
NOT_SERVED = ("disconnected", "error")  # What the app calls an upstream that it has lost.
DEFAULT_PATH = "/ws/options"
LARGEST_MESSAGE = 4 << 20
NO_TOKEN, NO_PONG = "no token for the socket", "open, and no answer to a ping"


class WebSocketProbe:
    """
    One connection to the app's WebSocket, held for as long as it can be, and told of when asked.

    Args:
        prober: Whose settings, clock and jitter are used; it also fetches the socket's token.
        limits: What is silent, and what is old.
    """

    def __init__(self, prober: Prober, limits: ProbeLimits):
        self._prober, self._limits = prober, limits
        self._socket: Any = None
        self._state, self._detail = "opening", dict[str, Any]()
        self._heard_s: float | None = None
        self._old_s: float | None = None
        self._subscribed_s: float | None = None
        self._subscribed: set[str] = set()
        self._checking_s: float | None = None  # Since when quotes are asked for, because nothing was heard.
        self._unanswered: list[float] = []  # When each ping was sent that has no answer, in a row.
        # The first connection that was given up, and its unanswered ping, where it was that.
        self._left: tuple[Any, Any] | None = None
        self._judging = False  # Whether it is being found out if that one is served too.
        # Since when the connections before this one are dead; None where they are not.
        self._dead_s: float | None = None
        self._tried = 0  # Connections since then that heard nothing either.
        # When a new connection was served, and since when the old ones are dead.
        self._renewed: tuple[float, float] | None = None
        self._losses = 0
        self.contracts: tuple[str, ...] = ()  # What to subscribe to, once something is known to be traded.
        self.suspected = False  # Whether the app says that it has lost its upstream.
        self.open_since: Callable[[datetime], datetime | None] = market_calendar.open_since

    def _now_s(self) -> float:
        return asyncio.get_running_loop().time() * self._prober.speed

    async def run(self) -> None:
        """Connect, listen, and come back after every loss, until cancelled."""
        try:
            while True:
                await self._live()
                self._losses += 1
                longest_s = min(LONGEST_S, BACKOFF_S * 2 ** min(self._losses - 1, 16))
                await asyncio.sleep(self._prober.chance.uniform(longest_s / 2, longest_s) / self._prober.speed)
        finally:
            self._leave(None)

    async def _live(self) -> None:
        """One connection, from its opening to its end; how it ended stands in `_state`."""
        import websockets

        settings, within_s = self._prober.settings, ATTEMPT_S / self._prober.speed
        # A query of the settings' own; where it holds a token, the app is asked for none.
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
            # Only the scheme of a proxy could be told apart from the app's own answers here, so none is used.
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
            self._is("reset" if torn else "wrong_content", {} if torn else {"why": "what answers is no WebSocket"})
            return
        except websockets.InvalidHandshake:
            self._is("wrong_content", {"why": "what answers is no WebSocket"})
            return
        except TimeoutError:
            taken = await self._taken(url, within_s)
            self._is(
                "timeout" if taken else "unreachable",
                {"why": "takes the connection and does not answer the upgrade"} if taken else {},
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
        """Hear everything that is said, until it is closed, or given up because it is dead."""
        import websockets

        self._socket, self._subscribed_s, self._checking_s, self._state = socket, None, None, "open"
        self._subscribed, self._unanswered = set(), []
        try:
            while self._state == "open":
                await self._subscribe(socket)
                told: list[dict[str, Any]] = []
                with suppress(TimeoutError):
                    async with asyncio.timeout(TICK_S / self._prober.speed):
                        told = _events(await socket.recv())
                if not told:
                    self._bear_silence()
                    continue
                self._heard_s, self._losses, self._checking_s, self.suspected = self._now_s(), 0, None, False
                await self._judge_left()
                stamps = [s for event in told if (s := _stamp_s(event))]
                self._old_s = max(0.0, self._prober.now().timestamp() - max(stamps)) if stamps else None
        except websockets.ConnectionClosed as closed:
            if self._state == "open":
                code = closed.rcvd.code if closed.rcvd else 1006
                self._is("closed", {"code": code})

    @property
    def _topics(self) -> list[str]:
        """What is asked for: minute aggregates, and where nothing was heard, quotes (of an index its values)."""
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
        Ask for messages, once something is known to ask for: a socket that nobody asked anything of is silent, and
        well.
        """
        wanted = self._topics
        if wanted and self._subscribed_s is None:
            self._subscribed_s = self._now_s()
        for action, topics in (
            ("unsubscribe", self._subscribed - {*wanted}),
            ("subscribe", {*wanted} - self._subscribed),
        ):
            for topic in sorted(topics):
                # Text, never a list: an older app dies of a list; and one by one, since a text with a colon is one
                # topic.
                await socket.send(json.dumps({"action": action, "params": topic}))
        self._subscribed = {*wanted}

    def _bear_silence(self) -> None:
        """
        Nothing was said for a moment: where that has lasted too long, ask for more, and where that is not heard either,
        give up.
        """
        now_s, subscribed_s = self._now_s(), self._subscribed_s
        if subscribed_s is None or self.open_since(self._prober.now()) is None:
            self._checking_s = None
            if self._left is None or self._left[1] is None:
                self._dead_s, self._tried = None, 0
                self._leave(None)
            return
        since_s = max(subscribed_s, self._heard_s or 0.0)
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
    async def _taken(url: str, within_s: float) -> bool:
        """Is the port at least connected to?"""
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
        A token for the socket, from the app itself; or what stood in the way.

        None is needed where no app is named to ask.
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
        samples = await self._prober.look(question)
        # An app that answers its web page there has no such token; the socket itself will say whether it wants one.
        return (
            (found[-1], None)
            if found
            else ("", samples[-1].outcome if OUTCOMES[samples[-1].outcome].answered is False else None)
        )

    def _is(self, state: str, detail: dict[str, Any]) -> None:
        self._state, self._detail = state, detail

    async def look(self) -> list[Sample]:
        """
        How does it stand now? A round trip where it is open; its value is the age of the last message, in seconds.

        Where only new connections are served, the value is the age of the last message to the old ones. Nothing is
        returned while it opens, and while it is being tried whether a new connection is served.
        """
        began_s, socket = self._now_s(), self._socket
        outcome, seconds, detail = self._state, None, dict(self._detail)
        if self._state == "opening":
            return []
        if socket is not None:
            outcome, seconds, detail = await self._round_trip(socket, began_s)
        elif self._losses > 1:
            detail["losses"] = self._losses
        age_s = None if self._heard_s is None else max(0.0, self._now_s() - self._heard_s)
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
            outcome, detail["why"] = "stale", f"what it says is {self._old_s / 60:.0f} min old"
        elif outcome == "ok" and self._renewed and self._now_s() - self._renewed[0] <= RENEWED_S:
            outcome, age_s = "renewed", self._now_s() - self._renewed[1]
        told = self._prober.settings.redact(json.dumps(detail, sort_keys=True))
        return [
            Sample(
                clock.micros(now),
                "socket",
                "app",
                outcome,
                seconds,
                None if age_s is None else round(age_s, 1),
                detail=told,
            )
        ]

    async def _round_trip(self, socket: Any, began_s: float) -> tuple[str, float | None, dict[str, Any]]:
        import websockets

        try:
            answer = await socket.ping()
            async with asyncio.timeout(ATTEMPT_S / self._prober.speed):
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
            await self._judge_left()
        return "ok", self._now_s() - began_s, {}

    async def _judge_left(self) -> None:
        """
        A new connection is served: find out whether the one that was given up is served too, or only new ones are.
        """
        if self._dead_s is None or self._judging:
            return
        self._judging = True
        try:
            if self._left is None or not await self._is_served(*self._left):
                self._renewed = self._now_s(), self._dead_s
        finally:
            self._judging, self._dead_s, self._tried = False, None, 0
            self._leave(None)

    async def _is_served(self, socket: Any, answer: Any) -> bool:
        """
        Whether a connection that was given up answers its ping by now, or is sent something: the app sends the same to
        all.
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
        Keep a connection that is given up open beside the next, with its unanswered ping; whichever was kept before is
        let go of.
        """
        if self._left is not None:
            self._left[0].transport.abort()
        self._left = left


@functools.cache
def _connect() -> Any:
    """A connection that follows nobody elsewhere: our token would go with it."""
    import websockets

    class Here(websockets.connect):
        def process_redirect(self, exc: Exception) -> Exception | str:
            return exc

    return Here


def _events(message: str | bytes) -> list[dict[str, Any]]:
    """What a message says of a market; nothing where it only speaks of the connection."""
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
    """When was an event, in seconds since 1970, by its own word (milliseconds)?"""
    told = event.get("t", event.get("e"))
    return told / 1000 if isinstance(told, (int, float)) and not isinstance(told, bool) and told > 1e12 else None


async def _closed(socket: Any) -> None:
    """Let go of a connection, whatever state it is in."""
    await socket.close()
