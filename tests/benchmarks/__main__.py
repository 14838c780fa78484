"""
Measure: ``python -m tests.benchmarks [status] [commit] [receiver] [replay] [collected] [chains] [reports] [dashboard]
[browser]`` (all without a name). One JSON line a figure.

Each figure stands beside its peer, measured in the same run; quote the ratio, the absolute is that machine's.
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
