"""Knows the time of the simulated world and what is the matter in it; every server of it asks here."""

import asyncio
import time
from typing import Any

from opslib.demo.states import States


class World:
    """
    Time and trouble, for every server of the world.

    Attributes:
        seed: Of everything that is drawn.
        speed: World seconds a second of ours; every delay is shortened by it.
        states: What is the matter now.
        tokens: The token that each provider accepts, by its name.
    """

    def __init__(self, birth: dict[str, Any]):
        self.seed: int = birth["seed"]
        self.speed: float = birth["speed"]
        self.tokens: dict[str, str] = birth["tokens"]
        self.states = States(self.seed)
        self._at_s: float = birth["at_s"]
        self._runs = bool(birth["runs"])
        self._since = time.monotonic()

    def now_s(self) -> float:
        """What time it is in the world: seconds since 1970 UTC."""
        return self._at_s + ((time.monotonic() - self._since) * self.speed if self._runs else 0.0)

    def set_s(self, at_s: float) -> None:
        """Let it be another time; time that runs runs on from there."""
        self._at_s, self._since = at_s, time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Sleep so many world seconds."""
        if seconds > 0:
            await asyncio.sleep(seconds / self.speed)
