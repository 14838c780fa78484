"""Servers for tests: real sockets on 127.0.0.1, each answering as it is told."""

import asyncio
import random
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from opslib.demo.wire import Answer, Request, Server



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


def free_port() -> int:
    """
    A port of 127.0.0.1 for another process to listen on. None of those that the system gives away by itself: one of them may
    be a kernel's before its process comes to it.
    """
    while True:
        port = random.SystemRandom().randrange(15_000, 32_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


async def slow(seconds: float) -> None:
    """What is said to take so many seconds takes a hundredth of them."""
    await asyncio.sleep(seconds / 100)
