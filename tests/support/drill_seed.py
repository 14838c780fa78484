"""
Run every scenario on one seed, a different one each day, as CI does before the tests.

Usage: ``python tests/support/drill_seed.py [SEED]``. One seed cannot prove a rate of 99 %. It shows that nothing is
broken: no false alarm, at most three wrong rows, at least 94 % exact, at most 5 % undetermined, and at most 10 % with
deviations from the expected run, as happens on a busy machine. Each such row is printed, with the seed.
"""

import json
import subprocess
import sys

from opslib.foundation import clock
from opslib.simulation.drills import scoreboard

# The three recorded seeds: 0, 1 and 0 wrong of 111; 110, 108 and 110 exact.
WRONG, EXACT, UNDETERMINED, DEVIATIONS = 3, 0.94, 0.05, 0.1


def main(seed: int) -> int:
    """Run the drill, print the scoreboard, and return 1 if a target is missed."""
    ran = subprocess.run(
        [sys.executable, "-m", "opslib.cli", "drill", "--seed", str(seed), "-o", "json"],
        stdout=subprocess.PIPE,
        text=True,
    )
    rows = scoreboard.read(json.dumps(row) for row in json.loads(ran.stdout or "[]"))
    print(f"seed {seed}\n{scoreboard.report(rows)}")
    s = scoreboard.summary(rows)
    deviating = sum(r.right and bool(r.deviations) for r in rows)
    good = (
        bool(rows)
        and s["false_alarms"] == 0
        and len(rows) - s["right"] <= WRONG
        and s["exact"] >= EXACT * len(rows)
        and s["undetermined"] <= UNDETERMINED * len(rows)
        and deviating <= DEVIATIONS * len(rows)
    )
    print("all targets met" if good else "target missed")
    return not good


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else int(f"{clock.now():%Y%m%d}")))
