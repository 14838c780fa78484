"""
Run the probes of a desk, those of `ops collect` at their production pace, against the simulated world, without waiting
for time in which nothing is under way.
"""

import asyncio
import json
import math
import random
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from opslib.dashboard import status
from opslib.dashboard.status import Status
from opslib.foundation import clock
from opslib.foundation.config import rules, settings
from opslib.foundation.config.settings import Settings
from opslib.foundation.storage.database import Database
from opslib.simulation.world.control import World
from opslib.telemetry import importing
from opslib.telemetry.pages import snapshot
from opslib.telemetry.pages.store import Post, SnapshotStore
from opslib.telemetry.probes.runner import EVERY_S, ProbeRunner
from opslib.telemetry.probes.store import Sample

BEGINS = datetime(2026, 3, 10, 14, 30, tzinfo=UTC)  # 10:30 in New York.
SPEED = 10.0
STEP_S = round(EVERY_S)  # The page posts so often, and alerts are judged.
TICK_S = 1.0  # Time in which nothing is under way is passed over in pieces of this.
HOPS = 3  # Turns of the loop until who was due has begun.
NAP_S, LONGEST_NAP_S = 0.002, 0.005
HELD_S = (3.0, 8.0)  # A starved collector cannot run for so long at a time, in world seconds.


class _Ahead(asyncio.SelectorEventLoop):
    """
    An event loop whose clock can be moved ahead, so that what waits for a time that nobody needs is due at once, and
    held.

    It never goes back: a deadline that was reached stays reached.

    Attributes:
        longest_s: How much may pass from one reading of the clock to the next; what is beyond that, on a busy machine,
            is no time of the world.
    """

    longest_s = math.inf
    _shown_s = 0.0
    _read_s: float | None = None
    _is_held = False

    def time(self) -> float:
        now_s = super().time()
        passed_s = 0.0 if self._read_s is None or self._is_held else min(now_s - self._read_s, self.longest_s)
        self._shown_s = now_s if self._read_s is None else self._shown_s + passed_s
        self._read_s = now_s
        return self._shown_s

    @contextmanager
    def held(self) -> Iterator[None]:
        """Let no time pass on this loop's clock, for work that is the simulator's own."""
        self.hold()
        try:
            yield
        finally:
            self.go_on()

    def hold(self) -> None:
        """Stop this loop's clock."""
        self.time()
        self._is_held = True

    def go_on(self) -> None:
        """Let this loop's clock go on from where it was stopped."""
        self.time()
        self._is_held = False

    def reach(self, at_s: float) -> None:
        """Let it be at least so late on this loop's clock."""
        self._shown_s = max(self.time(), at_s)

    def skip(self, upto_s: float) -> None:
        """Let it be as late as the next that waits for a time is due, and no later than this."""
        # asyncio's types do not have what a loop waits for, nor what it listens to.
        next_s = min((handle.when() for handle in self._scheduled[:1]), default=upto_s)  # type: ignore[attr-defined]
        self.reach(min(upto_s, next_s))

    @property
    def connections(self) -> int:
        """How many connections are open or being opened; one descriptor is the loop's own."""
        return len(self._selector.get_map()) - 1  # type: ignore[attr-defined]


class _Probing(ProbeRunner):
    """
    The probes of a collector, with a count of what is under way.

    Args:
        chains: Are chains fetched at their production pace? Else not at all.
        begins: Called before each probe.
    """

    def __init__(self, *args: Any, chains: bool, begins: Callable[[], None], **more: Any):
        super().__init__(*args, **more)
        self._chains, self._begins, self._under_way, self.is_killed = chains, begins, 0, False

    def looks(self) -> list[tuple[str, float, Callable[[], Awaitable[list[Sample]]]]]:
        return [look for look in super().looks() if self._chains or not look[0].startswith("chain")]

    async def _safely(self, name: str, look: Callable[[], Awaitable[list[Sample]]]) -> list[Sample]:
        self._begins()
        self._under_way += 1
        try:
            return await super()._safely(name, look)
        finally:
            self._under_way -= 1

    async def _flush(self) -> bool:
        self._under_way += 1
        try:
            return await super()._flush()
        finally:
            self._under_way -= 1

    def _put(self, samples: list[Sample]) -> None:
        super()._put([] if self.is_killed else samples)

    @property
    def is_busy(self) -> bool:
        """
        Is a probe under way, a sample waiting to be written, or a connection open besides the socket that is held?
        """
        loop = asyncio.get_running_loop()
        assert isinstance(loop, _Ahead)
        held = self.stream is not None and self.stream._socket is not None
        return self._under_way > 0 or bool(self._waiting) or loop.connections > held


@dataclass
class SteppedProbes:
    """
    A desk's store and its collector, at a world that stands still while nothing is under way.

    Attributes:
        chains: Are chains fetched at their production pace? Else only where `live` is asked for them.
        starved: Is the collector kept from running for most of the time?
    """

    lever: World
    home: Path
    more: dict[str, str] = field(default_factory=dict)
    at: datetime = BEGINS
    chains: bool = False
    starved: bool = False

    def __post_init__(self) -> None:
        self.settings = self.found()
        self.store = Database(self.settings.url, self._now)
        self.rules = rules.load()
        self._runner, self._zero_s = asyncio.Runner(loop_factory=_Ahead), 0.0
        self._chance = random.Random(1)
        self._probing: _Probing | None = None
        self._collecting: asyncio.Task[None] | None = None

    def close(self) -> None:
        """Stop the collector, and let go of the store."""
        self._runner.run(self._kill())
        self._runner.close()
        self.store.close()

    @property
    def store_file(self) -> Path:
        """The file that the store is."""
        return self.settings.home / "store.sqlite"

    def found(self) -> Settings:
        """The settings as the world's addresses stand now."""
        return settings.load(self.home, None, {**self.lever.environ, **self.more})

    def live(self, minutes: float, looks: bool = True, chains: bool = False) -> None:
        """
        Let so many minutes go by, with the collector running or (`looks`) standing still; `chains` are fetched at the
        end besides.
        """
        until = self.at + timedelta(minutes=minutes)
        if looks:
            self._runner.run(self._collect(until))
        else:
            self.at = until
            self._post()
        if chains:
            self._runner.run(self._fetch_chains())

    def _post(self) -> None:
        """Let the world come up to now, and keep what its page posted."""
        SnapshotStore(self.store).write(
            "desk",
            [Post(clock.micros(at), snapshot.read(body)) for at, body in self.lever.posts(self._now())],
            known_at_ts=True,
        )

    def _now(self) -> datetime:
        """What time it is: while the collector runs, that of its loop."""
        if self._collecting is None:
            return self.at
        return max(self.at, BEGINS + timedelta(seconds=self._runner.get_loop().time() * SPEED - self._zero_s))

    async def _kill(self) -> None:
        """Let the collector die without a last word."""
        self._loop.go_on()
        if self._probing and self._collecting:
            self._probing.is_killed = True
            self._collecting.cancel()
            with suppress(asyncio.CancelledError):
                await self._collecting
            self._collecting = None

    async def _begin(self) -> _Probing:
        """The collector; another one where an address is another."""
        found = self.found()
        if self._probing is None or self._probing.settings != found:
            await self._kill()
            self._probing = _Probing(
                found,
                self.store,
                self.rules,
                every_s=STEP_S,
                now=self._now,
                speed=SPEED,
                chance=self._chance,
                chains=self.chains,
                begins=self._begins,
            )
        if self._collecting is None:
            self._collecting = asyncio.create_task(self._probing.run(asyncio.Event()))
        return self._probing

    def _begins(self) -> None:
        with self._loop.held():
            self.lever.at(self._now())

    @property
    def _loop(self) -> _Ahead:
        loop = self._runner.get_loop()
        assert isinstance(loop, _Ahead)
        return loop

    def _reach(self, at: datetime) -> float:
        """When is a moment of the world, on the loop's clock?"""
        return ((at - BEGINS).total_seconds() + self._zero_s) / SPEED

    async def _collect(self, until: datetime) -> None:
        """
        Let the collector run up to a moment: at the world's pace while anything is under way, else from one second to
        the next at once.
        """
        loop = self._loop
        loop.go_on()
        if self._probing is None:
            self._zero_s = loop.time() * SPEED - (self.at - BEGINS).total_seconds()
        loop.reach(self._reach(self.at))
        probing = await self._begin()
        while self.at < until:
            due_s = self._reach(self.at + timedelta(seconds=TICK_S))
            while loop.time() < due_s:
                if self.starved:
                    time.sleep(self._chance.uniform(*HELD_S) / SPEED)  # Nobody else on this loop can run meanwhile.
                    await asyncio.sleep(0)
                elif probing.is_busy:
                    await self._nap()
                else:
                    loop.skip(due_s)
                    await asyncio.sleep(0)
            self.at = max(self.at + timedelta(seconds=TICK_S), self._now().replace(microsecond=0))
            if self.at.second % STEP_S == 0:
                with loop.held():
                    self._post()
            for _ in range(HOPS):
                await asyncio.sleep(0)
        while probing.is_busy and not self.starved and loop.time() < due_s + STEP_S / SPEED:
            await self._nap()  # What was seen is in the store before anybody asks for it.
        loop.hold()

    async def _nap(self) -> None:
        """
        Let what is under way go on for a moment.

        What this process could not run meanwhile, on a busy machine, is no time of the world.
        """
        self._loop.longest_s = LONGEST_NAP_S
        await asyncio.sleep(NAP_S)
        self._loop.time()
        self._loop.longest_s = math.inf

    def fetch_chains_again(self) -> None:
        """Have the collector fetch its chains anew, as it does when the page's Greeks begin to breach."""
        if self._probing and self.chains:
            self._probing.fetch_chains_again()

    def import_fills(self) -> None:
        """Read the round trips so far as a file, as ``ops import`` does; what was read before is read once."""
        place = self.home / "trades.json"
        place.write_text(json.dumps(self.lever.fills()), encoding="utf-8")
        importing.read_fills(self.store, self.settings.app, place)

    async def _fetch_chains(self) -> None:
        self._loop.go_on()
        probing = await self._begin()
        found = [sample for symbol in probing.settings.symbols for sample in await probing.fetch_chain(symbol)]
        probing.samples.keep(found, known_at_ts=True)
        self.at = self._now()
        self._post()
        self._loop.hold()

    def view(self, window: timedelta = timedelta(minutes=5)) -> Status:
        """Everything as it stands now."""
        return status.status(self.store, self.found(), self.rules, as_of=self.at, length=window)


@contextmanager
def looking(home: Path, seed: int = 1, **more: str) -> Iterator[SteppedProbes]:
    """A world of its own, and a desk that probes it."""
    with (
        World(BEGINS, seed=seed, speed=SPEED, runs=False) as lever,
        closing(SteppedProbes(lever, home, more)) as workspace,
    ):
        yield workspace
