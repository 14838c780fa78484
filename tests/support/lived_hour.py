"""
Simulate an hour of a desk without the simulated world: samples and posts, evaluated and notified as by a collector.
"""

import atexit
import copy
import functools
import json
import shutil
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from opslib.foundation import clock
from opslib.foundation.config import rules, settings
from opslib.foundation.config.contacts import Contacts, Role
from opslib.foundation.config.rules import PATH
from opslib.foundation.storage.database import Database
from opslib.services.collector import Collector
from opslib.services.notifying import NotificationTasks
from opslib.telemetry.pages import snapshot
from opslib.telemetry.pages.store import Post, SnapshotStore
from opslib.telemetry.probes.store import Sample, SampleStore
from tests.support.snapshots import PageOf
from tests.support.snapshots import us as after_open

RULES = rules.load()
OPENS = datetime(2026, 3, 10, 13, 30, tzinfo=UTC)
STEP_S, AT_ONCE, BEGINS_S = 5, 3, 900.0  # Healthy for 15 minutes, then the fault.
CHAIN = {
    "contracts": 900,
    "core": 300,
    "flagged": 0,
    "faults": {},
    "units": {"gamma": "per_dollar", "theta": "per_day", "vega": "per_point", "iv": "decimal"},
    "missing": 0,
    "gamma_zero": 0,
    "delta_out_of_bounds": 0,
    "iv_atm": 0.2,
    "median_iv": 0.2,
    "median_theta": -0.05,
    "median_vega": 0.1,
    "expires_today": 0,
}


class World:
    """
    Probe outcomes and page counters of one instant, as a fault changes them.

    Attributes:
        probe: (probe, subject) → outcome; a missing one is ok.
        seconds, value, detail: Other fields of a probe.
        fails: The share of the page's requests to a provider that fail, 0 to 1.
        hangs: Whether requests to Massive never end, so that the page counts none and uses Tradier.
        dead_s: The second since which old connections of the app's WebSocket are dead, while new ones work.
        lag_s: Seconds of each heartbeat's five in which the collector could not run.
        counts: Whether the page counts anything; it posts in any case.
    """

    def __init__(self, second: float):
        self.second = second
        self.probe: dict[tuple[str, str], str] = {}
        self.seconds: dict[str, float] = {"massive": 0.1, "tradier": 0.1, "app": 0.02}
        self.skew: dict[str, float] = {"massive": 0.1, "tradier": 0.1, "app": 0.1}
        self.errors, self.page_errors = 0, 0
        self.fails = {"massive": 0.0, "tradier": 0.0}
        self.connected, self.posts, self.hangs, self.counts = True, True, False, True
        self.invalid = self.zero = self.bounds = 0
        self.chain: tuple[str, dict[str, Any]] = ("ok", {})
        self.born, self.uptime = 1_000.0, 5_000.0 + second
        self.memory_mb: float | None = None
        self.process_mb = 300.0
        self.dead_s: float | None = None
        self.lag_s = 0.0

    def every(self, outcome: str, *which: tuple[str, str]) -> None:
        """Set the outcome of probes."""
        self.probe |= dict.fromkeys(which, outcome)


Fault = Callable[[World], None]


class Desk:
    """One desk from the market's open on; `live` advances it, `sent` has the messages written, in order."""

    def __init__(self, home: Path, fault: Fault, until_s: float = 1e9):
        begun = _healthy() if fault is not healthy else None
        if begun:
            shutil.copytree(begun.settings.home, home, dirs_exist_ok=True)
        self.fault, self.until_s, self.second = fault, until_s, begun.second if begun else 0.0
        self.settings = settings.load(home, "desk", {})
        self.store = Database(self.settings.url, lambda: self.now)
        self.page = copy.deepcopy(begun.page) if begun else PageOf(-600)
        self.judge = Collector(self.store, self.settings, RULES, "one", lambda: self.now)
        self.contacts = Contacts({name: Role(name, (), ()) for name in PATH}, {})
        self.notifying = NotificationTasks(self.store, self.settings, RULES, self.contacts, lambda: self.now)
        self.sent: list[dict[str, Any]] = []
        self.texts: list[str] = []

    @property
    def now(self) -> datetime:
        return OPENS + timedelta(seconds=self.second)

    def live(self, upto_s: float) -> "Desk":
        """Advance to a number of seconds after the open."""
        while self.second < upto_s:
            posts, samples = list[Post](), list[Sample]()
            for _ in range(AT_ONCE):
                self.second += STEP_S
                self._happens(posts, samples)
            SnapshotStore(self.store).write("desk", posts, known_at_ts=True)
            SampleStore(self.store, "desk").keep(samples, known_at_ts=True)
            self.judge.evaluate_due()
            for name in self.notifying.plan():
                message = self.notifying.sender.rendered(name)
                self.sent.append(message.facts | {"after_s": self.second - BEGINS_S, "link": message.title})
                self.texts.append(message.plain)
        return self

    def _happens(self, posts: list[Post], found: list[Sample]) -> None:
        world = World(self.second)
        if BEGINS_S <= self.second < self.until_s:
            self.fault(world)
        posts += self._post(world)
        at_us = clock.micros(self.now)
        lag = {"lag_s": world.lag_s} if world.lag_s else {}
        found.append(Sample(at_us, "beat", "collector", "ok", None, 50.0, detail=json.dumps({"every_s": 5.0} | lag)))

        def probe(
            name: str, subject: str, value: float | None = None, seconds: float | None = None, **detail: Any
        ) -> None:
            outcome = world.probe.get((name, subject), "ok")
            good = outcome == "ok"
            found.append(
                Sample(
                    at_us,
                    name,
                    subject,
                    outcome,
                    seconds,
                    value if good or name in ("log",) or outcome == "renewed" else None,
                    1,
                    True,
                    json.dumps(detail if good else {}),
                )
            )

        for subject in ("massive", "tradier"):
            probe("liveness", subject, None, world.seconds[subject], market="open", skew_s=world.skew[subject])
            if self.second % 60 == 0:
                probe("data", subject, 1.0, world.seconds[subject])
        probe("health", "app", world.uptime, world.seconds["app"], skew_s=world.skew["app"])
        probe("socket", "app", 1.0 if world.dead_s is None else self.second - world.dead_s, 0.03)
        probe("log", "app", float(world.errors), None, kinds={}, newest={})
        if self.second % 15 == 0:
            probe("process", "app", world.process_mb, None, born=world.born)
        outcome, more = world.chain
        if (
            self.second % 900 == 300
            or (outcome != "ok" and self.second % 60 == 0)
            or (more and self.second == BEGINS_S + 60)
        ):
            found.append(
                Sample(
                    at_us,
                    "chain",
                    "SPY",
                    outcome,
                    1.0,
                    900.0,
                    1,
                    True,
                    json.dumps((CHAIN | more) if outcome == "ok" else {}),
                )
            )

    def _post(self, world: World) -> list[Post]:
        for name in ("massive", "tradier"):
            asked = 4 if world.counts and ((name == "massive") != world.hangs or world.fails["massive"]) else 0
            failed = round(asked * world.fails[name])
            self.page.add(
                **{f"{name}_requests": asked, f"{name}_successes": asked - failed, f"{name}_failures": failed}
            )
        many = 10 if world.counts else 0
        self.page.add(
            validations=many,
            greeks_valid=max(0, many - world.invalid),
            gamma_zero=world.zero,
            delta_out_of_bounds=world.bounds,
            errors=world.page_errors,
        )
        self.page.held["websocket_connected"] = world.connected
        made = self.page.body(self.second)
        if world.memory_mb is not None:
            made["client"] = {"memoryBytes": world.memory_mb * 1e6}
        return [Post(after_open(self.second), snapshot.read(made))] if world.posts else []


def healthy(world: World) -> None:
    """Inject no fault."""


@functools.cache
def _healthy() -> Desk:
    """Return a desk that was healthy up to the fault; it is simulated once, and each test gets a copy."""
    home = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    desk = Desk(home, healthy).live(BEGINS_S - AT_ONCE * STEP_S)
    desk.store.close()
    return desk
