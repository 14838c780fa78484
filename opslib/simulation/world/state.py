"""Hold the time of the simulated world and its active faults; every server of it asks here."""

import asyncio
import time
from typing import Any

from opslib.simulation.world import market_hours
from opslib.simulation.world.faults import States


class WorldState:
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
        self._closed_early_s: float | None = None
        self._at_s: float = birth["at_s"]
        self._runs = bool(birth["runs"])
        self._since = time.monotonic()

    def now_s(self) -> float:
        """What time it is in the world: seconds since 1970 UTC."""
        return self._at_s + ((time.monotonic() - self._since) * self.speed if self._runs else 0.0)

    def set_s(self, at_s: float) -> None:
        """Let it be another time; time that runs runs on from there."""
        self._at_s, self._since = at_s, time.monotonic()

    def become(self, active: dict[str, float]) -> None:
        """Let just these be the matter from now on: share by name."""
        self.states.become(active)
        early = self.states.on("market_closes_early")
        if early:
            self._closed_early_s = self.now_s() if self._closed_early_s is None else self._closed_early_s
        else:
            self._closed_early_s = None

    def clock_s(self, party: str) -> float:
        """Return what one of `faults.PARTIES` takes for the time: seconds since 1970 UTC."""
        return self.now_s() + self.states.ahead_s(party)

    def session(self, at_s: float | None = None) -> str:
        """
        Return which part of the day it is, named as in `market_hours.session`; closed where the exchanges closed early.
        """
        shut = self.states.on("market_closed") or self._closed_early_s is not None
        return "closed" if shut else market_hours.session(self.now_s() if at_s is None else at_s)

    def quoted_s(self) -> float:
        """Return of which instant the newest quotes are: of now while the market is open, else of its last close."""
        if self._closed_early_s is not None:
            return self._closed_early_s
        return self.now_s() if self.session() == "open" else market_hours.last_close(self.now_s())

    async def sleep(self, seconds: float) -> None:
        """Sleep so many world seconds."""
        if seconds > 0:
            await asyncio.sleep(seconds / self.speed)
