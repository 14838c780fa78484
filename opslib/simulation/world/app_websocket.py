"""
Serve the app's WebSocket: let clients in, and pass on what comes from Massive's socket behind it.

Upstream is dialled when a client comes, and after a loss not before the next one comes. Who was connected when it was
lost
stays open and is never served again, not even once upstream is back: only who connects anew is. The server never pings,
and greets nobody.
"""

import asyncio
import contextlib
import json
import logging
import socket
from collections.abc import Callable
from random import Random
from urllib.parse import parse_qs, urlsplit

from websockets.asyncio.server import Server, ServerConnection, broadcast, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from opslib.foundation.network import free_port
from opslib.simulation.world.app_log import AppLog
from opslib.simulation.world.http_server import swallow
from opslib.simulation.world.state import WorldState

PATHS = ("/ws/options", "/ws/indices")
MESSAGE_EVERY_S = 1.0
SHORTEST_NAP_S = 0.02  # Of our time: a fast world would do nothing else.
TORN_AFTER_S = 0.5
LARGEST_FRAME = 1 << 16
CONTRACT = "O:SPY260313C00670000"
NO_UPSTREAM = ("ws_open_silent", "ws_closed_1006", "our_network_down")
LOST_ONCE = ("ws_old_clients_dead",)  # Upstream is lost, and can be dialled again at once.
TORN = ("ws_closed_1006", "ws_403", "ws_port_blocked")

# Whoever speaks no WebSocket on this port is no news; unsaid, the library would tell it on stderr.
logging.getLogger("websockets").addHandler(logging.NullHandler())


class _Endpoint:
    """
    One path: its clients, what they asked for, and how its upstream is.

    Attributes:
        clients: Those that are served.
        abandoned: Those that were connected when upstream was lost: open, and never served again.
    """

    def __init__(self, name: str):
        self.name = name
        self.clients: set[ServerConnection] = set()
        self.abandoned: set[ServerConnection] = set()
        self.topics: set[str] = set()
        self.minute: int | None = None  # The last one whose aggregates were sent.
        self.is_up = False
        self.last_error: str | None = None
        self.last_connected_ms: int | None = None


class WebSocketServer:
    """
    The socket's server on a port of its own.

    Args:
        world: Time and trouble.
        journal: Where it writes what befalls it.
        port: 0 for any.
        admits: Is this token good?
    """

    def __init__(self, world: WorldState, journal: AppLog, port: int, admits: Callable[[str], bool]):
        self.port = port or free_port()
        self._world, self._journal, self._admits = world, journal, admits
        self._rng = Random(f"{world.seed}/feed")
        self._endpoints = {path: _Endpoint(path.rpartition("/")[2]) for path in PATHS}
        self._listener: Server | None = None
        self._swallowing: list[socket.socket] = []

    async def settle(self, before: set[str]) -> None:
        """Take it in that other things are the matter than those of `before`."""
        came = set(self._world.states.active) - before
        for endpoint in self._endpoints.values():
            if endpoint.is_up and came & {*NO_UPSTREAM, *LOST_ONCE}:
                self._lose_upstream(endpoint)
        if came & set(TORN):
            for endpoint in self._endpoints.values():
                for client in endpoint.clients | endpoint.abandoned:
                    client.transport.abort()
        if self._world.states.on("ws_port_blocked"):
            if not self._swallowing:
                await self._close()
                self._swallowing = swallow(self.port)
        elif self._listener is None:
            for held in self._swallowing:
                held.close()
            self._swallowing = []
            await self._open()

    def health(self) -> dict[str, dict[str, object]]:
        """What the app says of its endpoints, by their names."""
        return {endpoint.name: self._metrics(endpoint) for endpoint in self._endpoints.values()}

    def _metrics(self, endpoint: _Endpoint) -> dict[str, object]:
        found: dict[str, object] = {
            "totalClients": len(endpoint.clients),
            "upstreamConnections": int(endpoint.is_up),
            "activeSubscriptions": len(endpoint.topics),
            "connectionState": "connected" if endpoint.is_up else "disconnected",
            "reconnectAttempts": 0,
        }
        if endpoint.last_error:
            found["lastError"] = endpoint.last_error
        if endpoint.last_connected_ms:
            found["lastConnectedAt"] = endpoint.last_connected_ms
        return found

    async def pass_on(self) -> None:
        """Pass on what comes from upstream, for ever."""
        while True:
            await self._world.sleep(max(MESSAGE_EVERY_S, SHORTEST_NAP_S * self._world.speed))
            if self._world.session() != "open":
                continue
            for endpoint in self._endpoints.values():
                if endpoint.is_up and endpoint.topics and (events := self._events(endpoint)):
                    broadcast(endpoint.clients, json.dumps(events, separators=(",", ":")))

    def _events(self, endpoint: _Endpoint) -> list[dict[str, object]]:
        """
        Return what upstream sends now: values of indices and quotes of options each second, minute aggregates (`AM`)
        after each minute.
        """
        at_ms, rng = round(self._world.clock_s("massive") * 1000), self._rng
        if endpoint.name == "indices":
            return [{"ev": "V", "val": round(6700 + rng.gauss(0, 3), 2), "T": "I:SPX", "t": at_ms}]
        bid, minute, found = round(2 + rng.random(), 2), at_ms // 60_000, list[dict[str, object]]()
        if any(not topic.startswith("AM.") for topic in endpoint.topics):
            found.append(
                {
                    "ev": "Q",
                    "sym": CONTRACT,
                    "bp": bid,
                    "ap": round(bid + 0.02, 2),
                    "bs": rng.randint(1, 80),
                    "as": rng.randint(1, 80),
                    "bx": 302,
                    "ax": 302,
                    "t": at_ms,
                }
            )
        by_minute = sorted(topic.removeprefix("AM.") for topic in endpoint.topics if topic.startswith("AM."))
        if by_minute and endpoint.minute not in (None, minute):
            ends_ms = minute * 60_000
            prices: dict[str, object] = {
                "o": bid,
                "h": round(bid + 0.05, 2),
                "l": round(bid - 0.05, 2),
                "c": bid,
                "v": rng.randint(1, 400),
                "vw": bid,
                "s": ends_ms - 60_000,
                "e": ends_ms,
            }
            found += [{"ev": "AM", "sym": CONTRACT if sym == "*" else sym, **prices} for sym in by_minute]
        endpoint.minute = minute if by_minute else None
        return found

    def _dial_upstream(self, endpoint: _Endpoint) -> None:
        if any(self._world.states.on(name) for name in NO_UPSTREAM):
            self._lose_upstream(endpoint)
            return
        endpoint.is_up, endpoint.last_connected_ms = True, round(self._world.now_s() * 1000)
        self._journal.line(f"[WS {endpoint.name}] upstream connected")

    def _lose_upstream(self, endpoint: _Endpoint) -> None:
        endpoint.is_up, endpoint.last_error = False, "getaddrinfo ENOTFOUND socket.massive.com"
        endpoint.abandoned |= endpoint.clients
        endpoint.clients.clear()
        endpoint.topics.clear()
        self._journal.line(f"[WS {endpoint.name}] upstream error Error: {endpoint.last_error}")
        self._journal.line(f"[WS {endpoint.name}] upstream closed with code 1006: ")

    async def _open(self) -> None:
        self._listener = await serve(
            self._attend,
            "127.0.0.1",
            self.port,
            process_request=self._admit,
            process_response=_undated,
            server_header=None,
            compression=None,
            ping_interval=None,
            max_size=LARGEST_FRAME,
        )

    async def _close(self) -> None:
        if self._listener:
            self._listener.close(close_connections=False)
            while self._listener.is_serving():
                await asyncio.sleep(0)
            self._listener = None

    def _admit(self, client: ServerConnection, request: Request) -> Response | None:
        """Who comes in: the token first, then the path."""
        asked = urlsplit(request.path)
        token = parse_qs(asked.query).get("token", [""])[0]
        if self._world.states.on("ws_403") or not self._admits(token):
            self._journal.line("[WS hub] upgrade rejected: invalid token")
            return client.respond(403, "Forbidden\n")
        return None if asked.path in PATHS else client.respond(404, "Not Found\n")

    async def _attend(self, client: ServerConnection) -> None:
        """One client, from its upgrade to its end."""
        assert client.request  # It has been upgraded.
        endpoint = self._endpoints[urlsplit(client.request.path).path]
        endpoint.clients.add(client)
        self._journal.line(f"[WS {endpoint.name}] client connected ({len(endpoint.clients)})")
        try:
            if not endpoint.is_up:
                self._dial_upstream(endpoint)
            if self._world.states.on("ws_closed_1006"):
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(client.wait_closed(), TORN_AFTER_S / self._world.speed)
                client.transport.abort()
            async for message in client:
                await self._hear(client, endpoint, message)
        except ConnectionClosed:
            pass  # Torn or gone away: either way it is nobody's fault here.
        finally:
            endpoint.clients.discard(client)
            endpoint.abandoned.discard(client)
            if not endpoint.clients and endpoint.is_up:
                endpoint.is_up = False
                self._journal.line(f"[WS {endpoint.name}] upstream closed with code 1000: idle")
            if not endpoint.clients:
                endpoint.topics.clear()

    async def _hear(self, client: ServerConnection, endpoint: _Endpoint, message: str | bytes) -> None:
        """What a client says: what is not understood is ignored."""
        try:
            asked = json.loads(message)
        except ValueError:
            return
        if not isinstance(asked, dict):
            return
        topics = _topics(asked.get("params"))
        match asked.get("action"):
            case "ping":
                await client.pong()
            case "subscribe" if client in endpoint.abandoned:
                pass
            case "subscribe":
                endpoint.topics |= topics
            case "unsubscribe":
                endpoint.topics -= topics


def _topics(params: object) -> set[str]:
    """An array, one topic where it has a colon, else several between commas."""
    if isinstance(params, list):
        return {str(topic) for topic in params}
    if not isinstance(params, str):
        return set()
    return {params} if ":" in params else {topic for topic in params.split(",") if topic}


def _undated(client: ServerConnection, request: Request, response: Response) -> None:
    """The app's upgrades carry no date; the library's would be our time and not the world's."""
    del response.headers["Date"]
