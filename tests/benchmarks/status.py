"""`ops status` from cold, a month of posts in the store; beside it, `import pandas` alone."""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from opslib.foundation.storage.database import Database
from tests.benchmarks import month

RUNS = 9


def _median(command: list[str], environment: dict[str, str]) -> float:
    times = []
    for _ in range(RUNS):
        began = time.perf_counter()
        subprocess.run(command, env=environment, stdout=subprocess.DEVNULL)
        times.append(time.perf_counter() - began)
    return round(statistics.median(times), 3)


def measure(folder: Path) -> Iterator[dict]:
    """Seconds of wall time, median of nine, with a day and with a month in the store."""
    ops = [sys.executable, "-m", "opslib.cli", "status", "--as-of", "2026-03-10T16:00"]
    pandas = _median([sys.executable, "-c", "import pandas"], dict(os.environ))
    for days in (1, 30):
        home = folder / str(days)
        rows = month.fill(Database(f"sqlite:///{home / 'store.sqlite'}"), "desk", days)
        seconds = _median(ops, {**os.environ, "OPS_HOME": str(home)})
        yield {
            "what": "ops status, cold, median of 9",
            "rows": rows,
            "seconds": seconds,
            "reach": 0.8,
            "import_pandas_s": pandas,
            "ratio": round(seconds / pandas, 2),
        }
