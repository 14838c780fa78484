"""
Knows a desk that looks at the simulated world step by step, through its doors alone: no second is waited for that the world
does not need.
"""

import asyncio
import random
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from opslib import clock, panels, rules, settings, snapshot
from opslib.demo.lever import Lever
from opslib.panels import View
from opslib.rounds import Rounds
from opslib.samples import Sample
from opslib.settings import Settings
from opslib.store import Post, Store

BEGINS = datetime(2026, 3, 10, 14, 30, tzinfo=UTC)  # 10:30 in New York.
SPEED = 10.0
STEP_S = 15


@dataclass
class Looking:
    """
    A desk's store and its looks, at a world that stands still between steps.

    Attributes:
        holds: Is the app's socket held open from step to step? Then a step lasts as long as it does in the world's haste,
            for a socket tells its time by itself.
    """

    lever: Lever
    home: Path
    more: dict[str, str] = field(default_factory=dict)
    at: datetime = BEGINS
    holds: bool = False

    def __post_init__(self) -> None:
        self.settings = self.found()
        self.store = Store(self.settings.url, lambda: self.at)
        self.rules = rules.load()
        self._loop, self._rounds = asyncio.Runner(), None
        self._held: Rounds | None = None
        self._holding: asyncio.Task[None] | None = None

    def close(self) -> None:
        """Look no more, and let go of the store."""
        self._loop.run(self._let_go())
        if self._rounds:
            self._rounds.close()
        self._loop.close()
        self.store.close()

    @property
    def store_file(self) -> Path:
        """The file that the store is."""
        return self.settings.home / "store.sqlite"

    def found(self) -> Settings:
        """The settings as the world's addresses stand now."""
        return settings.load(self.home, None, {**self.lever.environ, **self.more})

    def _looks(self) -> Rounds:
        """Who looks; another one where an address is another."""
        found = self.found()
        if self._rounds is None or self._rounds.settings != found:
            if self._rounds:
                self._rounds.close()
            self._rounds = Rounds(found, self.store, self.rules, every_s=STEP_S, now=lambda: self.at, speed=SPEED, chance=random.Random(1))
        return self._rounds

    def live(self, minutes: float, looks: bool = True, chains: bool = False) -> None:
        """Let so many minutes go by, looking at each step."""
        self._loop.run(self._live(self._looks(), minutes, looks, chains))

    async def _let_go(self) -> None:
        """Hold no socket any more."""
        if self._holding:
            self._holding.cancel()
            await asyncio.gather(self._holding, return_exceptions=True)
            self._holding = None

    async def _hold(self, rounds: Rounds) -> None:
        """Hold the socket of these looks, and none besides."""
        if self._held is not rounds:
            await self._let_go()
            self._held = rounds
            self._holding = asyncio.create_task(rounds.stream.run()) if rounds.stream else None

    async def _live(self, rounds: Rounds, minutes: float, looks: bool, chains: bool) -> None:
        loop = asyncio.get_running_loop()
        if self.holds and looks:
            await self._hold(rounds)
        for _ in range(round(minutes * 60 / STEP_S)):
            due_s = loop.time() + STEP_S / SPEED
            self.at += timedelta(seconds=STEP_S)
            self.lever.at(self.at)
            self.store.write("desk", [Post(clock.micros(at), snapshot.read(body)) for at, body in self.lever.posts()], known_at_ts=True)
            if looks:
                rounds.samples.keep(self._beat() + await self._looked(rounds), known_at_ts=True)
            if self.holds:
                await asyncio.sleep(due_s - loop.time())
        if chains:
            rounds.samples.keep(await rounds.once(lambda name: name.startswith("chain")), known_at_ts=True)

    async def _looked(self, rounds: Rounds) -> list[Sample]:
        """Each look after the other, so that none is slowed down by the rest: this world's seconds are short."""
        found = [sample for name, _, look in rounds.looks() if name != "socket" and not name.startswith("chain") for sample in await look()]
        if self.holds and rounds.stream:
            return found + await rounds.stream.look()
        return found + await rounds.once(lambda name: name == "socket")

    def _beat(self) -> list[Sample]:
        return [Sample(clock.micros(self.at), "beat", "collector", "ok", None, 50.0, detail=f'{{"every_s": {STEP_S}}}')]

    def view(self, window: timedelta = timedelta(minutes=5)) -> View:
        """Everything as it stands now."""
        return panels.status(self.store, self.found(), self.rules, as_of=self.at, length=window)


@contextmanager
def looking(home: Path, seed: int = 1, **more: str) -> Iterator[Looking]:
    """A world of its own, and a desk that looks at it."""
    with Lever(BEGINS, seed=seed, speed=SPEED, runs=False) as lever:
        with closing(Looking(lever, home, more)) as desk:
            yield desk
