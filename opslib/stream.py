"""
This module knows the app's WebSocket as seen from outside, and nothing else: does it open, does it answer, does it say
anything, how does it close.

Open proves nothing: when the app loses its upstream with 1006 its clients stay open and hear no more. So the age of
the last message counts. We come back after every loss, waiting longer each time; the app's own page tries once, then
never again, until somebody refreshes it.
"""

import asyncio
import functools
import json
from datetime import datetime
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from opslib import clock
from opslib.outcome import OUTCOMES
from opslib.probe import ATTEMPT_S, Prober, Question, Reading, transport, trusted
from opslib.limits import Probes
from opslib.samples import Sample
from opslib.settings import SOCKET

BACKOFF_S, LONGEST_S = 1.0, 30.0
DEFAULT_PATH = "/ws/options"
LARGEST_MESSAGE = 4 << 20
NO_TOKEN = "no token for the socket"


class Stream:
    """
    One connection to the app's WebSocket, held for as long as it can be, and told of when asked.

    Args:
        prober: Whose settings, clock and jitter are used; it also fetches the socket's token.
        limits: What is silent, and what is old.
    """

    def __init__(self, prober: Prober, limits: Probes):
        self._prober, self._limits = prober, limits
        self._socket: Any = None
        self._state, self._detail = "opening", dict[str, Any]()
        self._heard_s: float | None = None
        self._old_s: float | None = None
        self._subscribed_s: float | None = None
        self._subscribed: set[str] = set()
        self._losses = 0
        self.topics: tuple[str, ...] = ()  # What to subscribe to, once something is known to be traded.

    def _now_s(self) -> float:
        return asyncio.get_running_loop().time() * self._prober.speed

    async def run(self) -> None:
        """Connect, listen, and come back after every loss, until cancelled."""
        while True:
            await self._live()
            self._losses += 1
            longest_s = min(LONGEST_S, BACKOFF_S * 2 ** (self._losses - 1))
            await asyncio.sleep(self._prober.chance.uniform(longest_s / 2, longest_s) / self._prober.speed)

    async def _live(self) -> None:
        """One connection, from its opening to its end; how it ended stands in `_state`."""
        import websockets

        settings, within_s = self._prober.settings, ATTEMPT_S / self._prober.speed
        given = settings.secret(SOCKET) or ""  # A query of the settings' own; where it holds a token, the app is asked for none.
        token, lacking = ("", None) if "token" in dict(parse_qsl(given)) else await self._token()
        if lacking:
            self._is(lacking, {"why": NO_TOKEN})
            return
        url = settings.app_ws_url if urlsplit(settings.app_ws_url).path.strip("/") else settings.app_ws_url.rstrip("/") + DEFAULT_PATH
        tls = {"ssl": trusted(settings.ca_file)} if url.startswith("wss:") else {}
        query = "&".join(part for part in (given, urlencode({"token": token}) if token else "") if part)
        try:
            # Only the scheme of a proxy could be told apart from the app's own answers here, so none is used.
            socket = await _connect()(url + (f"?{query}" if query else ""), open_timeout=within_s, ping_interval=None, close_timeout=within_s, max_size=LARGEST_MESSAGE, proxy=None, **tls)
        except websockets.InvalidStatus as refused:
            status = refused.response.status_code
            kinds = {2: "wrong_content", 3: "redirected", 5: "server_5xx"}
            self._is({401: "forbidden_403", 403: "forbidden_403", 404: "not_found_404"}.get(status, kinds.get(status // 100, "client_4xx")), {"status": status})
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
            self._is("timeout" if taken else "unreachable", {"why": "takes the connection and does not answer the upgrade"} if taken else {})
            return
        except (OSError, websockets.WebSocketException, EOFError) as problem:
            self._is(transport(problem), {})
            return
        try:
            await self._listen(socket)
        finally:
            self._socket, self._state = None, "opening" if self._state == "open" else self._state
            await asyncio.shield(_closed(socket))

    async def _listen(self, socket: Any) -> None:
        """Hear everything that is said, until it is closed."""
        import websockets

        self._socket, self._subscribed_s, self._state = socket, None, "open"
        self._subscribed = set()
        try:
            await self._subscribe(socket)
            while True:
                told = _events(await socket.recv())
                if told:
                    self._heard_s, self._losses = self._now_s(), 0
                    stamps = [s for event in told if (s := _stamp_s(event))]
                    self._old_s = max(0.0, self._prober.now().timestamp() - max(stamps)) if stamps else None
        except websockets.ConnectionClosed as closed:
            code = closed.rcvd.code if closed.rcvd else 1006
            self._is("closed", {"code": code})

    async def _subscribe(self, socket: Any) -> None:
        """Ask for messages, once something is known to ask for: a socket that nobody asked anything of is silent, and well."""
        for topic in [t for t in self.topics if t not in self._subscribed]:
            self._subscribed_s = self._subscribed_s or self._now_s()
            self._subscribed.add(topic)
            await socket.send(json.dumps({"action": "subscribe", "params": topic}))  # Text, never a list: an older app dies of a list; and one by one, since a text with a colon is one topic.

    @staticmethod
    async def _taken(url: str, within_s: float) -> bool:
        """Is the port at least connected to?"""
        parts = urlsplit(url)
        try:
            async with asyncio.timeout(within_s):
                _, writer = await asyncio.open_connection(parts.hostname, parts.port or (443 if parts.scheme == "wss" else 80))
        except (TimeoutError, OSError):
            return False
        writer.close()
        return True

    async def _token(self) -> tuple[str, str | None]:
        """A token for the socket, from the app itself; or what stood in the way. None is needed where no app is named to ask."""
        if not self._prober.settings.app_url:
            return "", None
        found: list[str] = []
        question = Question("token", "app", f"{self._prober.settings.app_url}/api/ws-token", lambda payload, _: found.append(str(payload["token"])) or Reading("ok"), method="POST")
        samples = await self._prober.look(question)
        # An app that answers its web page there has no such token; the socket itself will say whether it wants one.
        return (found[-1], None) if found else ("", samples[-1].outcome if OUTCOMES[samples[-1].outcome].answered is False else None)

    def _is(self, state: str, detail: dict[str, Any]) -> None:
        self._state, self._detail = state, detail

    async def look(self) -> list[Sample]:
        """How does it stand now? A round trip where it is open; its value is the age of the last message, in seconds."""
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
        if outcome == "ok" and self._silent(now):
            outcome = "silent"
        elif outcome == "ok" and self._old_s is not None and self._old_s > self._limits.stale_after_s + self._limits.delayed_by_s and clock.open_since(now) is not None:
            outcome, detail["why"] = "stale", f"what it says is {self._old_s / 60:.0f} min old"
        told = self._prober.settings.redact(json.dumps(detail, sort_keys=True))
        return [Sample(clock.micros(now), "socket", "app", outcome, seconds, None if age_s is None else round(age_s, 1), detail=told)]

    def _silent(self, now: datetime) -> bool:
        """Has an open socket said nothing for too long, though the market is open and it was asked to?"""
        if clock.open_since(now) is None or self._subscribed_s is None:
            return False
        return self._now_s() - max(self._subscribed_s, self._heard_s or 0.0) > self._limits.silent_after_s

    async def _round_trip(self, socket: Any, began_s: float) -> tuple[str, float | None, dict[str, Any]]:
        import websockets

        try:
            async with asyncio.timeout(ATTEMPT_S / self._prober.speed):
                await self._subscribe(socket)
                await (await socket.ping())
        except TimeoutError:
            return "timeout", None, {"why": "open, and no answer to a ping"}
        except websockets.ConnectionClosed as closed:
            return "closed", None, {"code": closed.rcvd.code if closed.rcvd else 1006}
        return "ok", self._now_s() - began_s, {}


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
    return [event for event in found if isinstance(event, dict) and event.get("ev") not in (None, "status")] if isinstance(found, list) else []


def _stamp_s(event: dict[str, Any]) -> float | None:
    """When was an event, in seconds since 1970, by its own word (milliseconds)?"""
    told = event.get("t", event.get("e"))
    return told / 1000 if isinstance(told, (int, float)) and not isinstance(told, bool) and told > 1e12 else None


async def _closed(socket: Any) -> None:
    """Let go of a connection, whatever state it is in."""
    await socket.close()

