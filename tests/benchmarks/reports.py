"""Daily reports of a month of posts: from the cold shell, in a process that keeps kernels warm, and twenty of them; beside the `papermill` command on the same notebook."""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from opslib import backfill, clock, desk
from opslib.settings import without_secrets
from opslib.store import Store
from opslib.warm import Kernels
from tests.benchmarks import month

COUNT = 20


def _ran(command: list[str], environment: dict[str, str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    return time.perf_counter() - began


def measure(folder: Path) -> Iterator[dict]:
    """Seconds of wall time: one report, median of three, and twenty; HTML, Markdown and JSON included on our side, none on papermill's."""
    home = folder / "home"
    month.fill(Store(f"sqlite:///{home / 'store.sqlite'}"), "desk", 31)
    environment = {**os.environ, "OPS_HOME": str(home), "OPS_APP": "desk"}
    end, days = clock.parse("2026-03-10T18:00"), list[str]()
    session = clock.last_closed(end)
    while len(days) < COUNT:
        days.append(str(session.day))
        session = clock.previous_session(session.day)
    book = str(desk.notebook("daily_report"))
    papermill = lambda day: _ran([sys.executable, "-m", "papermill", book, str(folder / "out.ipynb"), "-p", "app", "desk", "-p", "day", day], environment)  # noqa: E731
    peers = [papermill(day) for day in days]
    peer = statistics.median(peers)
    cold = statistics.median(_ran([sys.executable, "-m", "opslib.cli", "report", "daily", "--day", day], environment) for day in days[:3])
    yield {"what": "a daily report, cold shell, median of 3", "seconds": round(cold, 2), "papermill_s": round(peer, 2), "ratio": round(cold / peer, 2), "reach": 0.85}
    os.environ["OPS_HOME"] = str(home)
    with closing(Kernels(without_secrets(environment))) as kernels:
        warm = replace(desk.open("desk", home), kernels=kernels)
        times = []
        for day in days[3:7]:
            began = time.perf_counter()
            warm.publish_daily(day, as_of=None, known_at=None, partial=False, timeout_s=300)
            times.append(time.perf_counter() - began)
    one = statistics.median(times[1:])  # The first waits for what is imported once.
    yield {"what": "a daily report in a running scheduler, median of 3", "seconds": round(one, 2), "papermill_s": round(peer, 2), "ratio": round(one / peer, 2), "reach": 0.4}
    fresh = folder / "fresh"
    month.fill(Store(f"sqlite:///{fresh / 'store.sqlite'}"), "desk", 31)
    began = time.perf_counter()
    made = backfill.here(desk.open("desk", fresh), "daily", list(reversed(days)), 2, 300, lambda running: running)
    many = time.perf_counter() - began
    yield {"what": f"{COUNT} daily reports, two workers", "states": sorted({m.state for m in made}), "seconds": round(many, 1), "papermill_s": round(sum(peers), 1), "ratio": round(many / sum(peers), 2), "reach": 0.2}
