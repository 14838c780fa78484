"""
Every trial on one seed, another each day, as CI does before the tests: ``python tests/support/drill_seed.py [SEED]``.

One seed cannot show 99 of 100; it shows that nothing is broken: no control alarms anybody, four rows at most are wrong,
90 of 100 end in the exact answer, a twentieth at most could not be told, and a tenth at most went another way than was
agreed, as happens on a busy machine. Every such row is printed, with the seed.
"""

import json
import subprocess
import sys

from opslib.foundation import clock
from opslib.simulation.drills import scoreboard

# The three recorded seeds: 0, 1 and 0 wrong of 111; 110, 108 and 110 exact.
WRONG, EXACT, UNTOLD, STRAYED = 3, 0.94, 0.05, 0.1


def main(seed: int) -> int:
    """Drill, show, judge."""
    ran = subprocess.run(
        [sys.executable, "-m", "opslib.cli", "drill", "--seed", str(seed), "-o", "json"],
        stdout=subprocess.PIPE,
        text=True,
    )
    rows = scoreboard.read(json.dumps(row) for row in json.loads(ran.stdout or "[]"))
    print(f"seed {seed}\n{scoreboard.told(rows)}")
    s = scoreboard.summary(rows)
    strayed = sum(r.right and bool(r.strayed) for r in rows)
    good = (
        bool(rows)
        and s["false_alarms"] == 0
        and len(rows) - s["right"] <= WRONG
        and s["exact"] >= EXACT * len(rows)
        and s["undetermined"] <= UNTOLD * len(rows)
        and strayed <= STRAYED * len(rows)
    )
    print("as promised" if good else "not as promised")
    return not good


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else int(f"{clock.now():%Y%m%d}")))
