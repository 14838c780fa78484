"""
Limit the number of connections to the server, and their duration.

Every connection is in one of four phases, each with a timeout. If there are too many connections, one without a
complete request is closed, so that a new client can always connect. A connection with a complete request is never
closed to make room.
"""

import time
from typing import TYPE_CHECKING

from starlette.applications import Starlette

if TYPE_CHECKING:
    import asyncio

    import uvicorn

LARGEST_HEAD = 512 * 1024  # Includes the part of the body that arrives in the same packets.
MOST_CONNECTIONS = 512  # Half of the usual limit of open files per process.
# Waiting for the rest of the head, for the rest of the body, for the next request, for our response to be sent.
HEAD, BODY, IDLE, ANSWER = range(4)
SECONDS = (10, 30, 75, 120)  # Timeout of each phase.
SWEEP_S = 1.0


def webserver(app: Starlette) -> "uvicorn.Server":
    """Create the web server of an application, with limits on heads, bodies and connections."""
    import uvicorn
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

    class Bounded(HttpToolsProtocol):
        _head_bytes: int | None = 0  # None outside of a head.
        _phase: int | None = None

        def _enter(self, phase: int | None) -> None:
            if phase != self._phase:
                if self._phase is not None:
                    del in_phase[self._phase][self]
                if phase is not None:
                    in_phase[phase][self] = time.monotonic() + SECONDS[phase]
                self._phase = phase

        def _update_phase(self) -> None:
            if self._phase is None:
                return  # It is closed.
            cycle = self.cycle
            if self.pipeline or (cycle is not None and not cycle.response_complete):
                self._enter(BODY if cycle.more_body and not self.pipeline else ANSWER)
            else:
                self._enter(IDLE if self._head_bytes is None else HEAD)

        # uvicorn's own method narrows the transport in the same way.
        def connection_made(self, transport: "asyncio.Transport") -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._enter(HEAD)
            if len(self.connections) > MOST_CONNECTIONS:
                self._make_room()

        def _make_room(self) -> None:
            """
            Close the oldest waiting connection: one with an unfinished request if these are many, else an idle one.
            """
            unfinished = [next(iter(in_phase[phase].items())) for phase in (HEAD, BODY) if in_phase[phase]]

            def begun(waiting: tuple[Bounded, float]) -> float:
                return waiting[1] - SECONDS[waiting[0]._phase or HEAD]

            oldest = min(unfinished, key=begun)[0]
            if len(in_phase[HEAD]) + len(in_phase[BODY]) <= MOST_CONNECTIONS // 2:
                oldest = next(iter(in_phase[IDLE]), oldest)
            oldest.drop()

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            self._enter(None)

        def drop(self) -> None:
            """Close at once, without waiting until the other side reads."""
            self._enter(None)
            self.connections.discard(self)
            self.transport.abort()

        def timeout_keep_alive_handler(self) -> None:
            self.drop()

        def on_message_begin(self) -> None:
            self._head_bytes = 0
            super().on_message_begin()

        def on_headers_complete(self) -> None:
            self._head_bytes = None
            if not self.url.startswith((b"/", b"*")):
                self._host_of_target()
            super().on_headers_complete()

        def _host_of_target(self) -> None:
            """Replace the Host header by the host of an absolute-form target (RFC 9112, 3.2.2)."""
            host = self.url.partition(b"://")[2].partition(b"/")[0].partition(b"?")[0]
            self.headers[:] = [(name, value) for name, value in self.headers if name != b"host"] + [(b"host", host)]

        def on_response_complete(self) -> None:
            super().on_response_complete()
            self._update_phase()

        def data_received(self, data: bytes) -> None:
            if self._head_bytes is not None:
                self._head_bytes += len(data)
                if self._head_bytes > LARGEST_HEAD:
                    self.drop()
                    return
            super().data_received(data)
            self._update_phase()

    # Deadline of each connection in its phase, oldest first.
    in_phase: tuple[dict[Bounded, float], ...] = ({}, {}, {}, {})

    class Swept(uvicorn.Server):
        _swept = time.monotonic()

        async def on_tick(self, counter: int) -> bool:
            now = time.monotonic()
            if now - self._swept >= SWEEP_S:
                # A client is not late if this process was too busy to read from it.
                stalled = now - self._swept - 2 * SWEEP_S
                for connections in in_phase:
                    for connection, until in list(connections.items()):
                        if stalled > 0:
                            connections[connection] = until + stalled
                        elif now > until:
                            connection.drop()
                self._swept = now
            return await super().on_tick(counter)

    return Swept(
        uvicorn.Config(
            app,
            http=Bounded,
            ws="none",
            log_level="error",
            access_log=False,
            server_header=False,
            timeout_keep_alive=SECONDS[IDLE],
            timeout_graceful_shutdown=10,
        )
    )
