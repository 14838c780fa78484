"""
Serve the app's WebSocket: accept clients and forward the messages of Massive's socket.

The upstream connection is opened when a client connects; after a loss, when the next client connects. Clients that
were connected at the loss stay open and get no more messages, even once upstream is back: only new connections do. The
server sends no pings and no greeting.
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
SHORTEST_NAP_S = 0.02  # Real time; without it a fast world would do nothing else.
TORN_AFTER_S = 0.5
LARGEST_FRAME = 1 << 16
CONTRACT = "O:SPY260313C00670000"
NO_UPSTREAM = ("ws_open_silent", "ws_closed_1006", "our_network_down")
LOST_ONCE = ("ws_old_clients_dead",)  # Upstream is lost and can be opened again at once.
TORN = ("ws_closed_1006", "ws_403", "ws_port_blocked")

# The library would otherwise print every client that does not speak WebSocket to stderr.
logging.getLogger("websockets").addHandler(logging.NullHandler())


class _Endpoint:
    """
    One path: its clients, their topics, and the state of its upstream connection.

    Attributes:
        clients: Clients that get messages.
        abandoned: Clients that were connected when upstream was lost: open, and never served again.
    """

    def __init__(self, name: str):
        self.name = name
        self.clients: set[ServerConnection] = set()
        self.abandoned: set[ServerConnection] = set()
        self.topics: set[str] = set()
        self.minute: int | None = None  # The last minute whose aggregates were sent.
        self.is_up = False
        self.last_error: str | None = None
        self.last_connected_ms: int | None = None


class WebSocketServer:
    """
    The WebSocket server, on its own port.

    Args:
        world: Time and active faults.
        log: The app's log.
        port: 0 for any.
        admits: Returns whether a token is valid.
    """

    def __init__(self, world: WorldState, log: AppLog, port: int, admits: Callable[[str], bool]):
        self.port = port or free_port()
        self._world, self._log, self._admits = world, log, admits
        self._rng = Random(f"{world.seed}/feed")
        self._endpoints = {path: _Endpoint(path.rpartition("/")[2]) for path in PATHS}
        self._listener: Server | None = None
        self._swallowing: list[socket.socket] = []

    async def apply_faults(self, before: set[str]) -> None:
        """Apply a change of the active faults; `before` has those that were active until now."""
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
        """Return what the app reports about its endpoints, by name."""
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

    async def forward(self) -> None:
        """Forward the upstream messages until cancelled."""
        while True:
            await self._world.sleep(max(MESSAGE_EVERY_S, SHORTEST_NAP_S * self._world.speed))
            if self._world.session() != "open":
                continue
            for endpoint in self._endpoints.values():
                if endpoint.is_up and endpoint.topics and (events := self._events(endpoint)):
                    broadcast(endpoint.clients, json.dumps(events, separators=(",", ":")))

    def _events(self, endpoint: _Endpoint) -> list[dict[str, object]]:
        """
        Return the upstream messages of now.

        Index values and option quotes come each second, minute aggregates (`AM`) after each minute.
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

    def _open_upstream(self, endpoint: _Endpoint) -> None:
        if any(self._world.states.on(name) for name in NO_UPSTREAM):
            self._lose_upstream(endpoint)
            return
        endpoint.is_up, endpoint.last_connected_ms = True, round(self._world.now_s() * 1000)
        self._log.line(f"[WS {endpoint.name}] upstream connected")

    def _lose_upstream(self, endpoint: _Endpoint) -> None:
        endpoint.is_up, endpoint.last_error = False, "getaddrinfo ENOTFOUND socket.massive.com"
        endpoint.abandoned |= endpoint.clients
        endpoint.clients.clear()
        endpoint.topics.clear()
        self._log.line(f"[WS {endpoint.name}] upstream error Error: {endpoint.last_error}")
        self._log.line(f"[WS {endpoint.name}] upstream closed with code 1006: ")

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
        """Check the token, then the path, of a new client; return the rejection, or None to accept it."""
        url = urlsplit(request.path)
        token = parse_qs(url.query).get("token", [""])[0]
        if self._world.states.on("ws_403") or not self._admits(token):
            self._log.line("[WS hub] upgrade rejected: invalid token")
            return client.respond(403, "Forbidden\n")
        return None if url.path in PATHS else client.respond(404, "Not Found\n")

    async def _attend(self, client: ServerConnection) -> None:
        """Serve one client from its upgrade to its end."""
        assert client.request  # Set since the upgrade.
        endpoint = self._endpoints[urlsplit(client.request.path).path]
        endpoint.clients.add(client)
        self._log.line(f"[WS {endpoint.name}] client connected ({len(endpoint.clients)})")
        try:
            if not endpoint.is_up:
                self._open_upstream(endpoint)
            if self._world.states.on("ws_closed_1006"):
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(client.wait_closed(), TORN_AFTER_S / self._world.speed)
                client.transport.abort()
            async for message in client:
                await self._handle(client, endpoint, message)
        except ConnectionClosed:
            pass  # The client disconnected or the connection was aborted; nothing to do.
        finally:
            endpoint.clients.discard(client)
            endpoint.abandoned.discard(client)
            if not endpoint.clients and endpoint.is_up:
                endpoint.is_up = False
                self._log.line(f"[WS {endpoint.name}] upstream closed with code 1000: idle")
            if not endpoint.clients:
                endpoint.topics.clear()

    async def _handle(self, client: ServerConnection, endpoint: _Endpoint, message: str | bytes) -> None:
        """Handle a client's message; an invalid one is ignored."""
        try:
            command = json.loads(message)
        except ValueError:
            return
        if not isinstance(command, dict):
            return
        topics = _topics(command.get("params"))
        match command.get("action"):
            case "ping":
                await client.pong()
            case "subscribe" if client in endpoint.abandoned:
                pass
            case "subscribe":
                endpoint.topics |= topics
            case "unsubscribe":
                endpoint.topics -= topics


def _topics(params: object) -> set[str]:
    """Parse topics: an array, a single topic if it has a colon, else a comma-separated list."""
    if isinstance(params, list):
        return {str(topic) for topic in params}
    if not isinstance(params, str):
        return set()
    return {params} if ":" in params else {topic for topic in params.split(",") if topic}


def _undated(client: ServerConnection, request: Request, response: Response) -> None:
    """Remove the Date header, which the app does not send; the library's would be real time, not world time."""
    del response.headers["Date"]
