"""Hold the time of the simulated world and its active states, for all its servers."""

import asyncio
import time
from typing import Any

from opslib.simulation.world import market_hours
from opslib.simulation.world.faults import States


class WorldState:
    """
    Time and active states, for all servers of the world.

    Attributes:
        seed: Seed of all random draws.
        speed: World seconds per real second; every delay is divided by it.
        states: The active states.
        tokens: The token that each provider accepts, by provider.
    """

    def __init__(self, config: dict[str, Any]):
        self.seed: int = config["seed"]
        self.speed: float = config["speed"]
        self.tokens: dict[str, str] = config["tokens"]
        self.states = States(self.seed)
        self._closed_early_s: float | None = None
        self._at_s: float = config["at_s"]
        self._runs = bool(config["runs"])
        self._since = time.monotonic()

    def now_s(self) -> float:
        """Return the world time, in seconds since 1970 UTC."""
        return self._at_s + ((time.monotonic() - self._since) * self.speed if self._runs else 0.0)

    def set_s(self, at_s: float) -> None:
        """Set the world time; if it runs, it runs on from there."""
        self._at_s, self._since = at_s, time.monotonic()

    def inject(self, active: dict[str, float]) -> None:
        """Make these the only active states from now on: share by name."""
        self.states.inject(active)
        early = self.states.on("market_closes_early")
        if early:
            self._closed_early_s = self.now_s() if self._closed_early_s is None else self._closed_early_s
        else:
            self._closed_early_s = None

    def clock_s(self, party: str) -> float:
        """Return the time by the clock of one of `faults.PARTIES`, in seconds since 1970 UTC."""
        return self.now_s() + self.states.ahead_s(party)

    def session(self, at_s: float | None = None) -> str:
        """
        Return the session, named as in `market_hours.session`; closed if the exchanges closed early.
        """
        shut = self.states.on("market_closed") or self._closed_early_s is not None
        return "closed" if shut else market_hours.session(self.now_s() if at_s is None else at_s)

    def quoted_s(self) -> float:
        """Return the time of the newest quotes: now while the market is open, else its last close."""
        if self._closed_early_s is not None:
            return self._closed_early_s
        return self.now_s() if self.session() == "open" else market_hours.last_close(self.now_s())

    async def sleep(self, seconds: float) -> None:
        """Sleep a number of world seconds."""
        if seconds > 0:
            await asyncio.sleep(seconds / self.speed)
