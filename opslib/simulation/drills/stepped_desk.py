"""
Run the probes of `ops collect`, at their production intervals, against the simulated world, step by step.

Time in which no probe is under way is skipped without waiting.
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
STEP_S = round(EVERY_S)  # Interval of the page's snapshots and of the evaluation of alerts.
TICK_S = 1.0  # Idle time is skipped in pieces of this length.
HOPS = 3  # Iterations of the event loop until a due probe has begun.
NAP_S, LONGEST_NAP_S = 0.002, 0.005
HELD_S = (3.0, 8.0)  # How long a starved collector cannot run at a time, in world seconds.


class _Ahead(asyncio.SelectorEventLoop):
    """
    An event loop whose clock can be moved ahead, so that timers are due without waiting, and stopped.

    The clock never goes back: a deadline that was reached stays reached.

    Attributes:
        longest_s: The most that counts between two readings of the clock; more, on a busy machine, is not world time.
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
        """Stop this loop's clock for work of the simulator itself."""
        self.hold()
        try:
            yield
        finally:
            self.resume()

    def hold(self) -> None:
        """Stop this loop's clock."""
        self.time()
        self._is_held = True

    def resume(self) -> None:
        """Continue this loop's clock from where it was stopped."""
        self.time()
        self._is_held = False

    def reach(self, at_s: float) -> None:
        """Move this loop's clock ahead to at least this time."""
        self._shown_s = max(self.time(), at_s)

    def skip(self, upto_s: float) -> None:
        """Move this loop's clock ahead to the next timer, and at most to this time."""
        # asyncio's type stubs have neither a loop's timers nor its selector.
        next_s = min((handle.when() for handle in self._scheduled[:1]), default=upto_s)  # type: ignore[attr-defined]
        self.reach(min(upto_s, next_s))

    @property
    def connections(self) -> int:
        """Number of connections that are open or being opened, without the loop's own descriptor."""
        return len(self._selector.get_map()) - 1  # type: ignore[attr-defined]


class _Probing(ProbeRunner):
    """
    The probes of a collector, with a count of those under way.

    Args:
        chains: Whether chains are fetched at their production interval; if not, never.
        begins: Called before each probe.
    """

    def __init__(self, *args: Any, chains: bool, begins: Callable[[], None], **more: Any):
        super().__init__(*args, **more)
        self._chains, self._begins, self._under_way, self.is_killed = chains, begins, 0, False

    def probes(self) -> list[tuple[str, float, Callable[[], Awaitable[list[Sample]]]]]:
        return [probe for probe in super().probes() if self._chains or not probe[0].startswith("chain")]

    async def _safely(self, name: str, probe: Callable[[], Awaitable[list[Sample]]]) -> list[Sample]:
        self._begins()
        self._under_way += 1
        try:
            return await super()._safely(name, probe)
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
        """Whether a probe is under way, a sample is unwritten, or a connection besides the held WebSocket is open."""
        loop = asyncio.get_running_loop()
        assert isinstance(loop, _Ahead)
        held = self.stream is not None and self.stream._socket is not None
        return self._under_way > 0 or bool(self._waiting) or loop.connections > held


@dataclass
class SteppedProbes:
    """
    A workspace's database and its collector, at a world that stands still while no probe is under way.

    Attributes:
        chains: Whether chains are fetched at their production interval; if not, only on request of `advance`.
        starved: Whether the collector gets almost no processor time.
    """

    world: World
    home: Path
    more: dict[str, str] = field(default_factory=dict)
    at: datetime = BEGINS
    chains: bool = False
    starved: bool = False

    def __post_init__(self) -> None:
        self.settings = self.load_settings()
        self.store = Database(self.settings.url, self._now)
        self.rules = rules.load()
        self._runner, self._zero_s = asyncio.Runner(loop_factory=_Ahead), 0.0
        self._chance = random.Random(1)
        self._probing: _Probing | None = None
        self._collecting: asyncio.Task[None] | None = None

    def close(self) -> None:
        """Stop the collector and close the database."""
        self._runner.run(self._kill())
        self._runner.close()
        self.store.close()

    @property
    def store_file(self) -> Path:
        """The database file."""
        return self.settings.home / "store.sqlite"

    def load_settings(self) -> Settings:
        """Load the settings with the present addresses of the world."""
        return settings.load(self.home, None, {**self.world.environ, **self.more})

    def advance(self, minutes: float, probing: bool = True, chains: bool = False) -> None:
        """Advance the world, with the collector running (`probing`) or stopped, then fetch `chains` if asked."""
        until = self.at + timedelta(minutes=minutes)
        if probing:
            self._runner.run(self._collect(until))
        else:
            self.at = until
            self._post()
        if chains:
            self._runner.run(self._fetch_chains())

    def _post(self) -> None:
        """Advance the world to now and store the snapshots that its page posted."""
        SnapshotStore(self.store).write(
            "desk",
            [Post(clock.micros(at), snapshot.read(body)) for at, body in self.world.posts(self._now())],
            known_at_ts=True,
        )

    def _now(self) -> datetime:
        """Return the present time: while the collector runs, that of its loop."""
        if self._collecting is None:
            return self.at
        return max(self.at, BEGINS + timedelta(seconds=self._runner.get_loop().time() * SPEED - self._zero_s))

    async def _kill(self) -> None:
        """Kill the collector, so that it writes nothing more."""
        self._loop.resume()
        if self._probing and self._collecting:
            self._probing.is_killed = True
            self._collecting.cancel()
            with suppress(asyncio.CancelledError):
                await self._collecting
            self._collecting = None

    async def _begin(self) -> _Probing:
        """Return the running collector; a new one if an address has changed."""
        found = self.load_settings()
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
            self.world.set_time(self._now())

    @property
    def _loop(self) -> _Ahead:
        loop = self._runner.get_loop()
        assert isinstance(loop, _Ahead)
        return loop

    def _reach(self, at: datetime) -> float:
        """Convert a world time to the loop's clock."""
        return ((at - BEGINS).total_seconds() + self._zero_s) / SPEED

    async def _collect(self, until: datetime) -> None:
        """
        Run the collector up to a world time.

        While a probe is under way it runs at the world's speed; idle time is skipped.
        """
        loop = self._loop
        loop.resume()
        if self._probing is None:
            self._zero_s = loop.time() * SPEED - (self.at - BEGINS).total_seconds()
        loop.reach(self._reach(self.at))
        probing = await self._begin()
        while self.at < until:
            due_s = self._reach(self.at + timedelta(seconds=TICK_S))
            while loop.time() < due_s:
                if self.starved:
                    time.sleep(self._chance.uniform(*HELD_S) / SPEED)  # Blocks the loop on purpose.
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
            await self._nap()  # All samples are in the database before the caller reads it.
        loop.hold()

    async def _nap(self) -> None:
        """
        Let probes under way continue briefly.

        Time in which this process could not run, on a busy machine, is not world time.
        """
        self._loop.longest_s = LONGEST_NAP_S
        await asyncio.sleep(NAP_S)
        self._loop.time()
        self._loop.longest_s = math.inf

    def fetch_chains_again(self) -> None:
        """Make the collector fetch its chains again, as it does when the page's Greeks begin to breach."""
        if self._probing and self.chains:
            self._probing.fetch_chains_again()

    def import_fills(self) -> None:
        """Import the round trips so far, as ``ops import`` does; those already imported are not imported again."""
        place = self.home / "trades.json"
        place.write_text(json.dumps(self.world.fills()), encoding="utf-8")
        importing.read_fills(self.store, self.settings.app, place)

    async def _fetch_chains(self) -> None:
        self._loop.resume()
        probing = await self._begin()
        for symbol in probing.settings.symbols:
            fetching = asyncio.create_task(probing.fetch_chain(symbol))
            while not fetching.done():
                await self._nap()
            probing.samples.keep(await fetching, known_at_ts=True)
        self.at = self._now()
        self._post()
        self._loop.hold()

    def view(self, window: timedelta = timedelta(minutes=5)) -> Status:
        """Return the status as of now."""
        return status.status(self.store, self.load_settings(), self.rules, as_of=self.at, length=window)


@contextmanager
def stepped_probes(home: Path, seed: int = 1, **more: str) -> Iterator[SteppedProbes]:
    """Start a world and the probes at it."""
    with (
        World(BEGINS, seed=seed, speed=SPEED, runs=False) as world,
        closing(SteppedProbes(world, home, more)) as workspace,
    ):
        yield workspace
