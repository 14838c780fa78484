"""
Probe a simulated world with the faults of the scripted day, as a collector would.

It does not depend on the posts, so it runs in parallel with them. Nor does it depend on the speed of the machine: it
waits for each response, and response times are drawn, not measured. Only a blocked port makes a probe time out.
"""

import asyncio
import json
import random
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from opslib.foundation import clock, formatting
from opslib.foundation.config import rules
from opslib.foundation.config import settings as settings_module
from opslib.foundation.config.settings import SOCKET, Settings
from opslib.foundation.errors import OpsError
from opslib.foundation.storage.database import Database
from opslib.simulation.world.control import World
from opslib.simulation.world.script import Script
from opslib.telemetry.probes.outcomes import OUTCOMES
from opslib.telemetry.probes.runner import ProbeRunner
from opslib.telemetry.probes.store import Sample

BEFORE_OPEN = timedelta(minutes=5)
WORLD_SPEED = 10.0  # A world second is a tenth of a real second, for delays.
PATIENCE = 100.0  # A busy machine may take a hundred times as long as a real provider.
BLOCKED_SPEED = 40.0  # For a port that accepts no connection, without patience: a longer wait changes nothing.
ATTEMPTS = 3  # Of a probe whose result is not the scripted one.
# Mean response times by probe and subject, seconds.
RESPONSE_S = {
    ("liveness", "massive"): 0.19,
    ("liveness", "tradier"): 0.15,
    ("data", "massive"): 0.22,
    ("data", "tradier"): 0.16,
    ("chain", "SPY"): 0.7,
    ("chain", "AAPL"): 0.7,
    ("health", "app"): 0.023,
    ("metrics", "app"): 0.018,
    ("upstream", "app"): 0.02,
    ("socket", "app"): 0.048,
}
EVERY, SELDOM = timedelta(seconds=30), timedelta(seconds=60)  # As ``ops collect --every 30s``.
CLOSE_EVERY, CALM_EVERY = EVERY, timedelta(minutes=10)
# Shorter than the burst that the chains must show.
CHAINS_CLOSE_EVERY, CHAINS_CALM_EVERY = timedelta(minutes=14), timedelta(minutes=29)
NEAR = timedelta(minutes=2)
PROVIDERS = ("massive", "tradier")
UNUSED_PER_MIN = 6000.0
# Probed closely until a rate over ten minutes shows its end.
LINGERS = {"massive_outage": timedelta(minutes=13)}
STATES = {
    "massive_outage": ("massive_5xx", 1.0),
    "gamma_burst": ("gamma_zero", 0.4),
    "websocket_loss": ("ws_port_blocked", 1.0),
}
Probe = Callable[[], Awaitable[list[Sample]]]


class _OwnTime(Database):
    """A database whose writes are known at the writer's own time, since the probes are ahead of the posts."""

    def stamp(self, connection: sa.Connection) -> int:
        """Return the writer's own time; no other write is delayed by it."""
        return clock.micros(self.now())


class Prober:
    """
    Our probes of a world with the faults of the script; its time stands still during a probe.

    The samples are those that ``ops collect --every 30s`` would record. Without a fault the world is probed less
    often, and the last samples are repeated in between.

    Attributes:
        now: The present world time.
    """

    def __init__(self, scripted: Script, settings: Settings):
        self._scripted, self.now = scripted, scripted.opens - BEFORE_OPEN
        # Probes happen at times of posts.
        self._moments = sorted({at for life in scripted.pages for at in life.post_instants()}, reverse=True)
        self._world = World(scripted.opens - BEFORE_OPEN, seed=scripted.seed, speed=WORLD_SPEED, runs=False)
        self._settings = settings
        self._due, self._active = scripted.opens - BEFORE_OPEN, dict[str, float]()
        self._chained: datetime | None = None
        self._chance = random.Random(f"{scripted.seed}/eyes")
        self._last, self._last_at = list[Sample](), self._due
        self._holding: asyncio.Task[None] | None = None

    def __enter__(self) -> "Prober":
        self._world.__enter__()
        self._store = _OwnTime(self._settings.url, lambda: self.now)
        self._runner = asyncio.Runner()
        environ = self._world.environ
        self._rounds = self._runner.run(self._create_runner(environ, WORLD_SPEED, PATIENCE))
        # It has a token, since it must not wait for the app to issue one.
        blocked = environ | {SOCKET: f"{environ[SOCKET]}?token=none"}
        self._blocked = self._runner.run(self._create_runner(blocked, BLOCKED_SPEED, 1.0))
        return self

    async def _create_runner(self, environ: Mapping[str, str], speed: float, patience: float) -> ProbeRunner:
        settings = settings_module.with_targets(self._settings, environ)
        # At least 30 s of world time pass between two rounds, so no quota is ever used up.
        settings = replace(settings, massive_per_min=UNUSED_PER_MIN, tradier_per_min=UNUSED_PER_MIN)
        return ProbeRunner(
            settings,
            self._store,
            rules.load(settings.base),
            now=lambda: self.now,
            speed=speed,
            chance=random.Random(self._scripted.seed),
            patience=patience,
        )

    def __exit__(self, *ended: Any) -> None:
        self._runner.run(self._close_socket())
        self._rounds.close()
        self._blocked.close()
        self._runner.close()
        self._store.close()
        self._world.__exit__(*ended)

    def probe_until(self, until: datetime) -> None:
        """
        Run the probes that are due up to a time: often while a fault is near, seldom otherwise.

        Raises:
            OpsError: The machine is too slow.
        """
        while self._moments and self._moments[-1] <= until:
            at = self._moments.pop()
            if at >= self._due:
                self._repeat(self.now)
                self.now = at
                self._probe()
            self.now = at
        self._repeat(self.now)

    def _probe(self) -> None:
        at = self.now
        near = [
            t
            for t in self._scripted.faults
            if t.name in STATES and t.begins - NEAR <= at < t.ends + LINGERS.get(t.name, NEAR)
        ]
        active = dict(STATES[t.name] for t in near if t.begins <= at < t.ends)
        if active != self._active:
            self._world.inject(**active)
            self._active = active
        # The next round is due before the next fault is near.
        coming = [t.begins - NEAR - at for t in self._scripted.faults if t.name in STATES and t.begins - NEAR > at]
        every = CLOSE_EVERY if near else min([CALM_EVERY, *coming])
        self._world.set_time(at)
        self._runner.run(self._run_round(at, every))
        self._due = at + every

    @property
    def _is_healthy(self) -> bool:
        return all(OUTCOMES[s.outcome].usable for s in self._last)

    def _repeat(self, at: datetime) -> None:
        """Repeat the last samples up to a time, in each round before the world is probed again."""
        found = list[Sample]()
        while self._last and self._last_at + EVERY <= min(at, self._due - EVERY / 2) and self._is_healthy:
            self._last_at += EVERY
            self._last = [self._timed(_repeated(s, EVERY.total_seconds())) for s in self._last]
            seldom = (self._last_at - self._scripted.opens) % SELDOM < EVERY
            found += (s for s in self._last if seldom or s.probe not in ("data", "metrics"))
            found.append(self._heartbeat(self._last_at))
        self._rounds.samples.keep(found, known_at_ts=True)

    def _heartbeat(self, at: datetime) -> Sample:
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

    async def _close_socket(self) -> None:
        """Close the held WebSocket."""
        if self._holding:
            self._holding.cancel()
            await asyncio.gather(self._holding, return_exceptions=True)
            self._holding = None

    async def _socket(self) -> list[Sample]:
        """Probe the held WebSocket, as a collector does; if it fails, probe a new one."""
        stream = self._rounds.stream
        assert stream
        found = await stream.sample() if self._holding else []
        if found and OUTCOMES[found[-1].outcome].usable:
            return found
        await self._close_socket()
        rounds = self._blocked if "ws_port_blocked" in self._active else self._rounds
        found = await rounds.once(lambda name: name == "socket")
        if found and OUTCOMES[found[-1].outcome].usable:
            self._holding = asyncio.create_task(stream.run())
        return found

    async def _run_round(self, at: datetime, every: timedelta) -> None:
        with_chains = at > self._scripted.opens and (
            self._chained is None
            or at - self._chained >= (CHAINS_CLOSE_EVERY if every == CLOSE_EVERY else CHAINS_CALM_EVERY)
        )
        self._chained = at if with_chains else self._chained
        # One request at a time to each server, so that its random draws are the same in each run.
        lanes: dict[str, list[tuple[str, Probe]]] = {}
        for name, _, probe in self._rounds.probes():
            is_chain = name.startswith("chain")
            server = "massive" if is_chain else name.split()[-1]
            if with_chains or not is_chain:
                lane = lanes.setdefault(server if server in PROVIDERS else "app", [])
                lane.append((name, self._socket if name == "socket" else probe))
        results = await asyncio.gather(*map(self._in_turn, lanes.values()))
        found = [self._timed(s) for samples in results for s in samples]
        self._rounds.samples.keep([*found, self._heartbeat(at)], known_at_ts=True)
        self._last, self._last_at = [s for s in found if s.last and s.probe != "chain"], at

    async def _in_turn(self, probes: Iterable[tuple[str, Probe]]) -> list[Sample]:
        """Run probes one after the other; return their samples."""
        return [sample for name, probe in probes for sample in await self._as_scripted(name, probe)]

    async def _as_scripted(self, name: str, probe: Probe) -> list[Sample]:
        """
        Run a probe, and again if its result is not the scripted one.

        Raises:
            OpsError: It never is.
        """
        for _ in range(ATTEMPTS):
            samples = await probe()
            if samples and all(s.outcome == self._scripted_outcome(s) for s in samples):
                return samples
        found = samples[-1].outcome if samples else "missing"
        raise OpsError(
            f"The machine was too slow for the simulated day: at {formatting.moment(self.now)} the result of the probe "
            f"{name!r} was {found!r} in {ATTEMPTS} attempts, although the script has no such fault. Close other "
            f"programs, then run ops demo again."
        )

    def _scripted_outcome(self, sample: Sample) -> str:
        if "massive_5xx" in self._active and (sample.subject == "massive" or sample.probe == "chain"):
            return "server_5xx"
        return "unreachable" if "ws_port_blocked" in self._active and sample.probe == "socket" else "ok"

    def _timed(self, sample: Sample) -> Sample:
        """Return a sample with a drawn response time, since the measured one depends on the machine."""
        if sample.seconds is None:
            return sample
        usual_s, detail = RESPONSE_S[sample.probe, sample.subject], sample.details()
        seconds = round(max(usual_s / 5, self._chance.gauss(usual_s, usual_s / 4)), 4)
        detail |= {"first_byte_s": round(seconds * 0.9, 4)} if "first_byte_s" in detail else {}
        return sample._replace(seconds=seconds, detail=json.dumps(detail, ensure_ascii=False, sort_keys=True))


def _repeated(sample: Sample, after_s: float) -> Sample:
    """Return a sample repeated after some seconds: uptime increases, the log is empty."""
    value = {"health": (sample.value or 0.0) + after_s, "log": 0.0}.get(sample.probe, sample.value)
    detail = (
        json.dumps(sample.details() | {"kinds": {}, "lines": 0, "newest": {}})
        if sample.probe == "log"
        else sample.detail
    )
    return sample._replace(ts_us=sample.ts_us + round(after_s * 1e6), value=value, attempt=1, detail=detail)
