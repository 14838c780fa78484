"""
Run the probes of a desk against the simulated world, step by step, each probe at its production pace, without waiting for
time that the world does not need.
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
from opslib.outcome import OUTCOMES
from opslib.panels import View
from opslib.rounds import EVERY_S, SLOW_S, Rounds
from opslib.samples import Sample
from opslib.settings import Settings
from opslib.store import Post, Store

BEGINS = datetime(2026, 3, 10, 14, 30, tzinfo=UTC)  # 10:30 in New York.
SPEED = 10.0
STEP_S = round(EVERY_S)  # The shortest time between two runs of a probe of `ops collect`.
SETTLES_S = 4.0  # A socket that is being opened is waited for: so long in world seconds.


class _Ahead(asyncio.SelectorEventLoop):
    """An event loop whose clock can be set, so that what waits for a time that nobody needs is due at once."""

    ahead_s = 0.0

    def time(self) -> float:
        return super().time() + self.ahead_s

    def set(self, to_s: float) -> None:
        """Let it be another time, on this loop's clock."""
        self.ahead_s += to_s - self.time()


@dataclass
class Looking:
    """
    A desk's store and its probes, at a world that stands still between steps.

    Attributes:
        chains: Are chains fetched at their production pace? Else only where `live` is asked for them.
    """

    lever: Lever
    home: Path
    more: dict[str, str] = field(default_factory=dict)
    at: datetime = BEGINS
    chains: bool = False

    def __post_init__(self) -> None:
        self.settings = self.found()
        self.store = Store(self.settings.url, lambda: self.at)
        self.rules = rules.load()
        self._loop, self._rounds = asyncio.Runner(loop_factory=_Ahead), None
        self._due: dict[str, datetime] = {}
        self._began = self.at
        self._held: Rounds | None = None
        self._holding: asyncio.Task[None] | None = None

    def close(self) -> None:
        """Stop probing, and let go of the store."""
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

    def _probing(self) -> Rounds:
        """Return the probes; others where an address is another."""
        found = self.found()
        if self._rounds is None or self._rounds.settings != found:
            if self._rounds:
                self._rounds.close()
            self._rounds = Rounds(found, self.store, self.rules, every_s=STEP_S, now=lambda: self.at, speed=SPEED, chance=random.Random(1))
        return self._rounds

    def live(self, minutes: float, looks: bool = True, chains: bool = False) -> None:
        """Let so many minutes go by, probing at each step what is due; `chains` are fetched at the end besides."""
        self._loop.run(self._live(self._probing(), self.at + timedelta(minutes=minutes), looks, chains))

    async def _let_go(self) -> None:
        """Hold no socket any more."""
        if self._holding:
            self._holding.cancel()
            await asyncio.gather(self._holding, return_exceptions=True)
            self._holding = None

    async def _hold(self, rounds: Rounds) -> None:
        """Hold the socket of these probes, as a collector does, and none besides."""
        if self._held is not rounds:
            await self._let_go()
            self._held = rounds
            self._holding = asyncio.create_task(rounds.stream.run()) if rounds.stream else None

    async def _live(self, rounds: Rounds, until: datetime, looks: bool, chains: bool) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, _Ahead)
        if looks:
            await self._hold(rounds)
        while self.at < until:
            self.at = min(until, self.at + timedelta(seconds=STEP_S))
            loop.set((self.at - self._began).total_seconds() / SPEED)
            self.store.write("desk", [Post(clock.micros(at), snapshot.read(body)) for at, body in self.lever.posts(self.at)], known_at_ts=True)
            if looks:
                rounds.samples.keep(await self._looked(rounds), known_at_ts=True)
        if chains:
            rounds.samples.keep(await rounds.once(lambda name: name.startswith("chain")), known_at_ts=True)

    async def _looked(self, rounds: Rounds) -> list[Sample]:
        """Make each probe that is due, one after the other, so that none is slowed down by the rest: this world's seconds are short."""
        found, loop = [self._beat()], asyncio.get_running_loop()
        for name, every_s, look in rounds.looks():
            if self.at < self._due.get(name, self.at) or (name.startswith("chain") and not self.chains):
                continue
            began_s = loop.time()
            samples = await (self._socket(rounds) if name == "socket" else look())
            took_s = (loop.time() - began_s) * SPEED
            failed = every_s > SLOW_S and any(s.last and not OUTCOMES[s.outcome].usable for s in samples)
            self._due[name] = self.at + timedelta(seconds=SLOW_S if failed else every_s * max(1, -(-took_s // every_s)))
            found += samples
        return found

    async def _socket(self, rounds: Rounds) -> list[Sample]:
        """Return how the held socket stands, once it is open or could not be opened."""
        assert rounds.stream
        loop = asyncio.get_running_loop()
        until_s = loop.time() + SETTLES_S / SPEED
        while not (found := await rounds.stream.look()) and loop.time() < until_s:
            await asyncio.sleep(0.01)
        return found

    def _beat(self) -> Sample:
        return Sample(clock.micros(self.at), "beat", "collector", "ok", None, 50.0, detail=f'{{"every_s": {STEP_S}}}')

    def view(self, window: timedelta = timedelta(minutes=5)) -> View:
        """Everything as it stands now."""
        return panels.status(self.store, self.found(), self.rules, as_of=self.at, length=window)


@contextmanager
def looking(home: Path, seed: int = 1, **more: str) -> Iterator[Looking]:
    """A world of its own, and a desk that probes it."""
    with Lever(BEGINS, seed=seed, speed=SPEED, runs=False) as lever:
        with closing(Looking(lever, home, more)) as desk:
            yield desk
