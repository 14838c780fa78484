"""Servers for tests: real sockets on 127.0.0.1, each answering as it is told."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from opslib.foundation.network import free_port  # noqa: F401  # For those who begin a process on a port.
from opslib.simulation.world.http_server import Answer, Request, Server


@asynccontextmanager
async def serving(answer: Callable[[Request], Answer], state: str = "open") -> AsyncIterator[str]:
    """The address of a server that answers so, or that refuses or swallows whoever comes."""

    async def answered(request: Request) -> Answer:
        return answer(request)

    server = Server(answered, slow)
    await server.be("open")
    await server.be(state)
    try:
        yield f"http://127.0.0.1:{server.port}"
    finally:
        await server.be("closed")


async def slow(seconds: float) -> None:
    """What is said to take so many seconds takes a hundredth of them."""
    await asyncio.sleep(seconds / 100)
