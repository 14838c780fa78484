"""Measure a cold `ops status` with a month of posts in the database; the peer is `import pandas`."""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from opslib.foundation.storage.database import Database
from tests.benchmarks import month

RUNS, DAYS = 9, (1, 30)
EXPECTED = (0, 1, 2, 3)  # Exit codes of a status, whatever its verdict.


def _median(command: list[str], environment: dict[str, str]) -> float:
    times = []
    for _ in range(RUNS):
        began = time.perf_counter()
        ended = subprocess.run(command, env=environment, stdout=subprocess.DEVNULL).returncode
        times.append(time.perf_counter() - began)
        assert ended in EXPECTED, f"{command} ended with {ended}"
    return round(statistics.median(times), 3)


def measure(folder: Path) -> Iterator[dict]:
    """Measure seconds of wall time, median of some runs, with a day and with a month in the database."""
    ops = [sys.executable, "-m", "opslib.cli", "status", "--as-of", "2026-03-10T16:00"]
    pandas = _median([sys.executable, "-c", "import pandas"], dict(os.environ))
    for days in DAYS:
        home = folder / str(days)
        rows = month.fill(Database(f"sqlite:///{home / 'store.sqlite'}"), "desk", days)
        seconds = _median(ops, {**os.environ, "OPS_HOME": str(home)})
        yield {
            "what": f"ops status, cold, median of {RUNS}",
            "rows": rows,
            "seconds": seconds,
            "reach": 0.8,
            "import_pandas_s": pandas,
            "ratio": round(seconds / pandas, 2),
        }
