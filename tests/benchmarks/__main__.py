"""
Run benchmarks: ``python -m tests.benchmarks [NAME…]`` (all without a name); print one JSON line per figure.

The names are status, commit, receiver, replay, collected, chains, reports, dashboard and browser. Each figure has a
peer, measured in the same run. Quote the ratio; absolute values depend on the machine.
"""

import json
import os
import sys
import tempfile
from pathlib import Path

from tests.benchmarks import browser, chains, collected, commit, dashboard, receiver, replay, reports, status

MEASURES = {
    "status": status.measure,
    "commit": commit.measure,
    "receiver": receiver.measure,
    "replay": replay.measure,
    "collected": collected.measure,
    "chains": chains.measure,
    "reports": reports.measure,
    "dashboard": dashboard.measure,
    "browser": browser.measure,
}

if __name__ == "__main__":
    names = sys.argv[1:] or list(MEASURES)
    if unknown := set(names) - set(MEASURES):
        raise SystemExit(f"there is no measure {', '.join(unknown)}; there are: {', '.join(MEASURES)}")
    print(json.dumps({"cores": os.cpu_count(), "python": sys.version.split()[0]}))
    for name in names:
        with tempfile.TemporaryDirectory(prefix="ops-bench-") as folder:
            for row in MEASURES[name](Path(folder)):
                print(json.dumps(row), flush=True)
