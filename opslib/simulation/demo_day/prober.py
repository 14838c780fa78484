"""
Probe a world in which the scripted day's troubles are the matter, as a collector would have probed it.

It does not depend on what is posted, so it is done beside that.
"""

import asyncio
import json
import random
from collections.abc import Awaitable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from opslib.foundation import clock
from opslib.foundation.config import rules
from opslib.foundation.config import settings as settings_module
from opslib.foundation.config.settings import Settings
from opslib.foundation.storage.database import Database
from opslib.simulation.world.control import World
from opslib.simulation.world.script import Script
from opslib.telemetry.probes.outcomes import OUTCOMES
from opslib.telemetry.probes.runner import ProbeRunner
from opslib.telemetry.probes.store import Sample

BEFORE_OPEN = timedelta(minutes=5)
WORLD_SPEED = 10.0  # A world second is a tenth of ours, where something takes its time.
EVERY, SELDOM = timedelta(seconds=30), timedelta(seconds=60)  # As ``ops collect --every 30s``.
CLOSELY, NOW_AND_THEN = EVERY, timedelta(minutes=10)
# Not longer than the bursts that they are to show.
CHAINS_CLOSELY, CHAINS_EVERY = timedelta(minutes=14), timedelta(minutes=29)
NEAR = timedelta(minutes=2)
UNUSED_PER_MIN = 6000.0
# Looked at closely until a rate over ten minutes can tell that it is over.
LINGERS = {"massive_outage": timedelta(minutes=13)}
MATTERS = {
    "massive_outage": ("massive_5xx", 1.0),
    "gamma_burst": ("gamma_zero", 0.4),
    "websocket_loss": ("ws_port_blocked", 1.0),
}


class _OwnTime(Database):
    """The database for who is ahead of the day that is posted: what is written is known at the writer's own time."""

    def stamp(self, connection: sa.Connection) -> int:
        """The writer's own time, which delays no other write."""
        return clock.micros(self.now())


class Prober:
    """
    Our own probes of a world in which the script's troubles are the matter; it stands still while it is probed.

    What is kept is what ``ops collect --every 30s`` would keep. While nothing is the matter, the world is asked now and
    then only, and answers the same in between: what it answered last is kept again at each turn.

    Attributes:
        now: The moment that it is at.
    """

    def __init__(self, scripted: Script, settings: Settings):
        self._scripted, self.now = scripted, scripted.opens - BEFORE_OPEN
        # It is probed at moments at which something is posted.
        self._moments = sorted({at for life in scripted.pages for at in life.post_instants()}, reverse=True)
        self._lever = World(scripted.opens - BEFORE_OPEN, seed=scripted.seed, speed=WORLD_SPEED, runs=False)
        self._settings = settings
        self._due, self._matter = scripted.opens - BEFORE_OPEN, dict[str, float]()
        self._chained: datetime | None = None
        self._chance = random.Random(f"{scripted.seed}/eyes")
        self._answered, self._answered_at = list[Sample](), self._due
        self._holding: asyncio.Task[None] | None = None

    def __enter__(self) -> "Prober":
        self._lever.__enter__()
        self._store = _OwnTime(self._settings.url, lambda: self.now)
        self._runner = asyncio.Runner()
        self._rounds = self._runner.run(self._begun())
        return self

    async def _begun(self) -> ProbeRunner:
        settings = settings_module.looking_at(self._settings, self._lever.environ)
        # Half a minute or more passes in this world between two turns, so no quota is ever used up.
        settings = replace(settings, massive_per_min=UNUSED_PER_MIN, tradier_per_min=UNUSED_PER_MIN)
        return ProbeRunner(
            settings,
            self._store,
            rules.load(settings.base),
            now=lambda: self.now,
            speed=WORLD_SPEED,
            chance=random.Random(self._scripted.seed),
        )

    def __exit__(self, *ended: Any) -> None:
        self._runner.run(self._let_go())
        self._rounds.close()
        self._runner.close()
        self._store.close()
        self._lever.__exit__(*ended)

    def probe_until(self, until: datetime) -> None:
        """Probe wherever it is due up to a moment: closely while a trouble is near, now and then while none is."""
        while self._moments and self._moments[-1] <= until:
            at = self._moments.pop()
            if at >= self._due:
                self._repeat(self.now)
                self.now = at
                self._look()
            self.now = at
        self._repeat(self.now)

    def _look(self) -> None:
        at = self.now
        near = [
            t
            for t in self._scripted.troubles
            if t.name in MATTERS and t.begins - NEAR <= at < t.ends + LINGERS.get(t.name, NEAR)
        ]
        matter = dict(MATTERS[t.name] for t in near if t.begins <= at < t.ends)
        if matter != self._matter:
            self._lever.be(**matter)
            self._matter = matter
        # The next look is due before the next trouble comes near, however calm it is now.
        coming = [t.begins - NEAR - at for t in self._scripted.troubles if t.name in MATTERS and t.begins - NEAR > at]
        every = CLOSELY if near else min([NOW_AND_THEN, *coming])
        self._lever.at(at)
        self._runner.run(self._looked(at, every))
        if not near and not self._is_well:
            every = EVERY  # This machine was too busy for an answer in time, so there is none to keep again.
        self._due = at + every

    @property
    def _is_well(self) -> bool:
        return all(OUTCOMES[s.outcome].usable for s in self._answered)

    def _repeat(self, at: datetime) -> None:
        """
        Keep the last answers again up to a time, at each turn of the collector that comes before the world is asked
        anew.
        """
        found = list[Sample]()
        while self._answered and self._answered_at + EVERY <= min(at, self._due - EVERY / 2) and self._is_well:
            self._answered_at += EVERY
            self._answered = [_again(s, EVERY.total_seconds(), self._chance) for s in self._answered]
            seldom = (self._answered_at - self._scripted.opens) % SELDOM < EVERY
            found += (s for s in self._answered if seldom or s.probe not in ("data", "metrics"))
            found.append(self._beat(self._answered_at))
        self._rounds.samples.keep(found, known_at_ts=True)

    def _beat(self, at: datetime) -> Sample:
        import psutil

        return Sample(
            clock.micros(at),
            "beat",
            "collector",
            "ok",
            None,
            round(psutil.Process().memory_info().rss / 1e6, 2),
            detail=json.dumps({"every_s": EVERY.total_seconds()}),
        )

    async def _let_go(self) -> None:
        """Hold no socket any more."""
        if self._holding:
            self._holding.cancel()
            await asyncio.gather(self._holding, return_exceptions=True)
            self._holding = None

    async def _socket(self) -> list[Sample]:
        """How the socket stands that is held, as a collector holds it; where it is not well, how a new one does."""
        stream = self._rounds.stream
        assert stream
        found = await stream.look() if self._holding else []
        if found and OUTCOMES[found[-1].outcome].usable:
            return found
        await self._let_go()
        found = await self._rounds.once(lambda name: name == "socket")
        if found and OUTCOMES[found[-1].outcome].usable:
            self._holding = asyncio.create_task(stream.run())
        return found

    async def _looked(self, at: datetime, every: timedelta) -> None:
        with_chains = at >= self._scripted.opens and (
            self._chained is None or at - self._chained >= (CHAINS_CLOSELY if every == CLOSELY else CHAINS_EVERY)
        )
        self._chained = at if with_chains else self._chained
        # A few at a time: this world's seconds are short, and looks that share a processor slow each other down.
        together: dict[str, list[Awaitable[list[Sample]]]] = {}
        for name, _, look in self._rounds.looks():
            if name != "socket" and (with_chains or not name.startswith("chain")):
                together.setdefault(name.split()[0], []).append(look())
        found = [
            sample for looks in together.values() for samples in await asyncio.gather(*looks) for sample in samples
        ]
        found += await self._socket()
        self._rounds.samples.keep([*found, self._beat(at)], known_at_ts=True)
        self._answered, self._answered_at = [s for s in found if s.last and not s.probe.startswith("chain")], at
        chains = [s for s in found if s.probe == "chain"]
        if not all(OUTCOMES[s.outcome].usable for s in chains) and "massive_5xx" not in self._matter:
            self._chained = None  # As above: they are fetched again at the next turn.


def _again(sample: Sample, after_s: float, chance: random.Random) -> Sample:
    """
    The same answer so much later: a server is up for longer, a log has nothing new, a round trip takes about as long.
    """
    value = {"health": (sample.value or 0.0) + after_s, "log": 0.0}.get(sample.probe, sample.value)
    detail = (
        json.dumps(sample.told() | {"kinds": {}, "lines": 0, "newest": {}}) if sample.probe == "log" else sample.detail
    )
    seconds = None if sample.seconds is None else round(sample.seconds * chance.uniform(0.9, 1.1), 4)
    return sample._replace(
        ts_us=sample.ts_us + round(after_s * 1e6), seconds=seconds, value=value, attempt=1, detail=detail
    )
