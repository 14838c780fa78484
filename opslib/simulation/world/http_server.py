"""
Serve HTTP/1.1 with faults on demand: hang, drip, reset, refuse, drop packets.

A server library would not allow these faults. Delays are in world seconds and use the `sleep` function of the server.
"""

import asyncio
import contextlib
import gzip
import json
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from opslib.foundation.network import free_port

REASONS = {
    200: "OK",
    204: "No Content",
    301: "Moved Permanently",
    302: "Found",
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    429: "Too Many Requests",
    500: "Internal Server Error",
    502: "Bad Gateway",
    503: "Service Unavailable",
}
LARGEST_REQUEST = 1 << 20
DRIP_BYTES, DRIP_EVERY_S = 8, 1.0
LET_IN_TURNS = 5  # Iterations of the event loop from an accepted connection to its task.


@dataclass(frozen=True, slots=True)
class Request:
    """A request: `path` without its query, header names in lower case."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class Answer:
    """
    A response and its fault.

    Attributes:
        after_s: World seconds until its first byte.
        fault: None, ``hang`` (accepted, never answered), ``reset`` (the connection is aborted), ``drip`` (a few bytes
            at a time), ``truncated_gzip`` (declared as gzip, ends in the middle).
    """

    status: int = 200
    body: bytes = b""
    content_type: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)
    after_s: float = 0.0
    fault: str | None = None


def as_json(found: object, status: int = 200, **how: Any) -> Answer:
    """Return a JSON response."""
    return Answer(status, json.dumps(found, separators=(",", ":")).encode(), **how)


def as_html(words: str, status: int = 200, **how: Any) -> Answer:
    """Return an HTML response."""
    return Answer(
        status,
        f"<!doctype html><html><head><title>{words}</title></head><body><h1>{words}</h1></body></html>".encode(),
        "text/html; charset=utf-8",
        **how,
    )


class Server:
    """
    A listening port that can be closed, opened again, or made to drop every packet.

    Args:
        answer: Answers a request.
        sleep: Sleeps a number of world seconds.
        tls: Returns the TLS context; it may change while the server runs. None for no TLS.
    """

    def __init__(
        self,
        answer: Callable[[Request], Awaitable[Answer]],
        sleep: Callable[[float], Awaitable[None]],
        tls: Callable[[], ssl.SSLContext] | None = None,
    ):
        self._answer, self._sleep, self._tls = answer, sleep, tls
        self.port = 0
        self._server: asyncio.Server | None = None
        self._swallowing: list[socket.socket] = []
        self._open: set[asyncio.Task[None]] = set()
        self._state = "closed"

    async def set_state(self, state: str) -> None:
        """Set the state: ``open``, ``closed`` (refuses connections) or ``swallowing`` (drops every packet)."""
        if state == self._state:
            return
        await self._shut()
        if state == "open":
            context = self._tls() if self._tls else None
            self.port = self.port or free_port()
            self._server = await asyncio.start_server(
                self._serve, "127.0.0.1", self.port, ssl=context, reuse_address=True
            )
        elif state == "swallowing":
            self._swallowing = swallow(self.port)
        self._state = state

    async def renew(self) -> None:
        """Use the present TLS context for all new connections."""
        if self._state == "open":
            await self._shut()
            self._state = "closed"
            await self.set_state("open")

    async def _shut(self) -> None:
        if self._server:
            self._server.close()
            self._server = None
            for _ in range(LET_IN_TURNS):  # Also closes connections accepted just before.
                await asyncio.sleep(0)
            serving = list(self._open)
            for task in serving:
                task.cancel()
            await asyncio.gather(*serving, return_exceptions=True)
        for held in self._swallowing:
            held.close()
        self._swallowing = []

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._open.add(task)
        try:
            while (request := await _read(reader)) is not None:
                if not await self._write(writer, request, await self._answer(request)):
                    break
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError, ssl.SSLError):
            pass  # The client disconnected or did not speak HTTP.
        except asyncio.CancelledError:
            writer.transport.abort()  # The port is closed, so no request is answered any more.
        finally:
            self._open.discard(task)
            writer.close()
            with contextlib.suppress(ConnectionError, ssl.SSLError):
                await writer.wait_closed()

    async def _write(self, writer: asyncio.StreamWriter, request: Request, answer: Answer) -> bool:
        """Write a response; return whether the connection may be used again."""
        if answer.fault == "hang":
            await asyncio.Event().wait()
        await self._sleep(answer.after_s)
        if answer.fault == "reset":
            writer.transport.abort()
            return False
        body, more = answer.body, dict(answer.headers)
        if answer.fault == "truncated_gzip":
            packed = gzip.compress(body, mtime=0)
            body, more = packed[: len(packed) // 2], more | {"Content-Encoding": "gzip"}
        head = [
            f"HTTP/1.1 {answer.status} {REASONS.get(answer.status, 'Answer')}",
            f"Content-Type: {answer.content_type}",
            f"Content-Length: {len(body)}",
            *(f"{k}: {v}" for k, v in more.items()),
        ]
        writer.write(("\r\n".join(head) + "\r\n\r\n").encode())
        if request.method == "HEAD":
            body = b""
        if answer.fault == "drip":
            for i in range(0, len(body), DRIP_BYTES):
                writer.write(body[i : i + DRIP_BYTES])
                await writer.drain()
                await self._sleep(DRIP_EVERY_S)
        else:
            writer.write(body)
        await writer.drain()
        return True


def swallow(port: int) -> list[socket.socket]:
    """Listen on a port so that connecting to it hangs: its accept queue is full."""
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.bind(("127.0.0.1", port))
    listening.listen(0)
    held = [listening]
    for _ in range(4):
        filler = socket.socket()
        filler.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            filler.connect(("127.0.0.1", listening.getsockname()[1]))
        held.append(filler)
    return held


async def _read(reader: asyncio.StreamReader) -> Request | None:
    """Read the next request of a connection; return None at its end."""
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except asyncio.IncompleteReadError as cut:
        if cut.partial:
            raise
        return None
    first, *lines = head.split("\r\n")
    method, target, _ = first.split(" ")
    headers = {
        name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)
    }
    parts = urlsplit(target)
    length = int(headers.get("content-length", 0))
    if not 0 <= length <= LARGEST_REQUEST:
        raise ValueError("too large")
    return Request(
        method,
        unquote(parts.path),
        dict(parse_qsl(parts.query, keep_blank_values=True)),
        headers,
        await reader.readexactly(length),
    )


def bearer(request: Request) -> str | None:
    """Return the token of the Authorization header; None if there is none."""
    kind, _, token = request.headers.get("authorization", "").partition(" ")
    return token if kind == "Bearer" else None


def first(found: Iterable[str | None]) -> str | None:
    """Return the first non-empty item; None if there is none."""
    return next((item for item in found if item), None)
