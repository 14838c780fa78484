"""
Run a real `ops collect` through a day of the simulated world, to see whether it grows or loses samples.

There is no peer: the last quarter of the day is compared with the first.
"""

import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median

from opslib.foundation.config import rules, settings
from opslib.foundation.storage.database import Database
from opslib.services.server import ServerThread
from opslib.simulation.world.control import World
from opslib.telemetry.probes.store import Sample, SampleStore

BEGINS, LASTS, SPEED, EVERY_S = datetime(2026, 3, 10, 12, 0, tzinfo=UTC), timedelta(hours=24), 90.0, 5
FAULTS = (
    "massive_5xx",
    "massive_timeout",
    "massive_refused",
    "massive_tls",
    "ws_closed_1006",
    "app_restarted",
    "our_network_down",
    "app_down",
)
EACH, SETTLE_S = timedelta(minutes=40), 30.0


def measure(folder: Path) -> Iterator[dict]:
    """
    Measure memory, descriptors and tasks of the collector over the day, through every kind of fault.

    It takes 16 real minutes.
    """
    with World(BEGINS, seed=1, speed=SPEED) as world:
        os.environ["OPS_CLOCK"] = world.environ["OPS_CLOCK"]
        found = settings.load(folder, None, world.environ)
        store = Database(found.url)
        with ServerThread(found, store, rules.load()):
            collecting = subprocess.Popen(
                [sys.executable, "-m", "opslib.cli", "collect", "--every", f"{EVERY_S}s"],
                env={**os.environ, **world.environ, "OPS_HOME": str(folder)},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
            ends, turn = time.monotonic() + LASTS.total_seconds() / SPEED, 0
            while time.monotonic() < ends:
                time.sleep(EACH.total_seconds() / SPEED / 2)
                world.inject(**({FAULTS[turn // 2 % len(FAULTS)]: 1.0} if turn % 2 == 0 else {}))
                turn += 1
            collecting.send_signal(signal.SIGTERM)
            said = collecting.communicate(timeout=60)[1]
        del os.environ["OPS_CLOCK"]
        kept = SampleStore(store, "desk").between(0, 2**62)
        store.close()
    beats = [s for s in kept if s.probe == "beat" and s.outcome == "ok"]
    settled = beats[round(len(beats) * SETTLE_S * SPEED / LASTS.total_seconds()) :]
    quarters = [settled[i * len(settled) // 4 : (i + 1) * len(settled) // 4] for i in range(4)]

    def values(name):
        return [[b.details()[name] for b in quarter] for quarter in quarters]

    yield {
        "what": "a day of ops collect",
        "world_h": LASTS.total_seconds() / 3600,
        "speed": SPEED,
        "samples": len(kept),
        "beats": len(beats),
        "switches": turn,
        "exit": collecting.returncode,
        "stderr_lines": len(said.splitlines()),
    }
    yield {
        "what": "its memory by quarters of the day, median MB",
        **_row([[b.value or 0.0 for b in q] for q in quarters]),
    }
    for name in ("files", "tasks"):
        yield {
            "what": f"its {name} by quarters of the day, median",
            **_row(values(name)),
            "last": settled[-1].details()[name],
        }
    yield {
        "what": "longest gap between heartbeats, world s",
        "seconds": round(max(_gaps(beats)), 1),
        "median": round(median(_gaps(beats)), 1),
    }


def _row(quarters: list[list[float]]) -> dict[str, float]:
    return {f"q{i + 1}": round(median(q), 1) for i, q in enumerate(quarters)} | {
        "most": round(max(max(q) for q in quarters), 1)
    }


def _gaps(beats: list[Sample]) -> list[float]:
    return [(b.ts_us - a.ts_us) / 1e6 for a, b in itertools.pairwise(beats)]
