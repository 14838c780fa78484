"""Provide servers for tests: real sockets on 127.0.0.1 with given responses."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from opslib.foundation.network import free_port  # noqa: F401  # For tests that start a process on a port.
from opslib.simulation.world.http_server import Answer, Request, Server


@asynccontextmanager
async def serving(answer: Callable[[Request], Answer], state: str = "open") -> AsyncIterator[str]:
    """Serve a response, or refuse or drop connections; yield the address."""

    async def answered(request: Request) -> Answer:
        return answer(request)

    server = Server(answered, slow)
    await server.set_state("open")
    await server.set_state(state)
    try:
        yield f"http://127.0.0.1:{server.port}"
    finally:
        await server.set_state("closed")


async def slow(seconds: float) -> None:
    """Divide delays by a hundred."""
    await asyncio.sleep(seconds / 100)
