"""
Measure daily reports of a month of posts: from a cold command, with warm kernels, and twenty of them.

The peer is the `papermill` command on the same notebook.
"""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from opslib import desk
from opslib.foundation import market_calendar, time_parsing
from opslib.foundation.storage.database import Database
from opslib.jobs import executor
from opslib.jobs.kernels import with_kernel_pool
from opslib.reports import backfill, publishing
from tests.benchmarks import month

COUNT, EACH, MONTH = 20, 3, 31
PUBLISHED = (0, 1, 2, 3)  # Exit codes with a report; the verdict of the day does not matter.


def _ran(command: list[str], environment: dict[str, str]) -> float:
    began = time.perf_counter()
    ran = subprocess.run(command, env=environment, capture_output=True, text=True)
    seconds = time.perf_counter() - began
    assert ran.returncode in PUBLISHED, f"{command} ended with {ran.returncode}: {ran.stderr}"
    return seconds


def _home(folder: Path) -> Path:
    month.fill(Database(f"sqlite:///{folder / 'store.sqlite'}"), "desk", MONTH)
    return folder


def measure(folder: Path) -> Iterator[dict]:
    """
    Measure seconds of wall time, medians of three; ours include HTML, Markdown and JSON, papermill's none.

    The first report of a day evaluates its alerts, a later one does not. So first reports are compared with first ones.
    """
    home, days = _home(folder / "home"), list[str]()
    environment = {**os.environ, "OPS_HOME": str(home), "OPS_APP": "desk"}
    session = market_calendar.last_closed(time_parsing.parse("2026-03-10T18:00"))
    while len(days) < COUNT:
        days.append(str(session.day))
        session = market_calendar.previous_session(session.day)
    book = str(executor.notebook("daily_report"))

    def papermill(day):
        return _ran(
            [sys.executable, "-m", "papermill", book, str(folder / "out.ipynb"), "-p", "app", "desk", "-p", "day", day],
            environment,
        )

    def cold(day):
        return _ran([sys.executable, "-m", "opslib.cli", "report", "daily", "--day", day], environment)

    papermill(days[-1])  # Computes the usual ranges from earlier days, once for all.
    peers, colds, warms = {}, {}, {}
    peers["first"] = [papermill(day) for day in days[:EACH]]
    peers["again"] = [papermill(day) for day in days[:EACH]]
    colds["again"] = [cold(day) for day in days[:EACH]]
    colds["first"] = [cold(day) for day in days[EACH : 2 * EACH]]
    os.environ["OPS_HOME"] = str(home)
    with with_kernel_pool(lambda: desk.open("desk", home)) as (running, kernels):

        def warm(day: str) -> float:
            began = time.perf_counter()
            publishing.publish_daily(
                running, day, as_of=None, known_at=None, partial=False, timeout_s=300, kernels=kernels
            )
            return time.perf_counter() - began

        warm(days[0])  # Waits for the imports.
        warms["again"] = [warm(day) for day in days[:EACH]]
        warms["first"] = [warm(day) for day in days[2 * EACH : 3 * EACH]]
    for what, found, reach in (("cold shell", colds, 0.85), ("a running scheduler", warms, 0.4)):
        for time_ in ("first", "again"):
            one, peer = statistics.median(found[time_]), statistics.median(peers[time_])
            yield {
                "what": f"a daily report, {what}, made {time_}",
                "seconds": round(one, 2),
                "papermill_s": round(peer, 2),
                "ratio": round(one / peer, 2),
                "reach": reach,
            }
    fresh = _home(folder / "fresh")
    began = time.perf_counter()
    made = backfill.make_locally(
        desk.open("desk", fresh), "daily", list(reversed(days)), 2, 300, lambda running: running
    )
    many, peer = time.perf_counter() - began, COUNT * statistics.median(peers["first"])
    yield {
        "what": f"{COUNT} daily reports made first, two workers, beside {COUNT} times papermill's median",
        "states": sorted({m.state for m in made}),
        "seconds": round(many, 1),
        "papermill_s": round(peer, 1),
        "ratio": round(many / peer, 2),
        "reach": 0.2,
    }
    began = time.perf_counter()
    with with_kernel_pool(lambda: desk.open("desk", fresh)) as (running, kernels), ThreadPoolExecutor(2) as pool:
        list(
            pool.map(
                lambda day: publishing.publish_daily(
                    running, day, as_of=None, known_at=None, partial=False, timeout_s=300, kernels=kernels
                ),
                days,
            )
        )
    many, peer = time.perf_counter() - began, COUNT * statistics.median(peers["again"])
    yield {
        "what": f"{COUNT} daily reports made again, two workers, beside {COUNT} times papermill's median",
        "seconds": round(many, 1),
        "papermill_s": round(peer, 1),
        "ratio": round(many / peer, 2),
        "reach": 0.2,
    }
