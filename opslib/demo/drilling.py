"""
Knows what ``ops drill`` asks and shows: which trials, on which seeds, and the scoreboard of them.
"""

import argparse
from collections.abc import Callable, Iterable

from opslib import clock, text
from opslib.demo import scoreboard
from opslib.demo.drill import drill
from opslib.demo.trials import CONTROLS, FAULTS, HELD_OPEN, PAIRS, SHARES, trials
from opslib.errors import UsageError
from opslib.replies import Reply
from opslib.text import NEW_YORK

SEEDS = 3


def asked(options: argparse.Namespace, progress: Callable[..., Iterable], say: Callable[[str], None]) -> Reply:
    """
    Drill what is named, or everything.

    Raises:
        UsageError: There is no such fault, pair or control; or it cannot be hit so.
    """
    known = (*FAULTS, *PAIRS, *CONTROLS)
    for name in options.faults:
        if name not in known:
            held = " What happens to a socket that is held open needs a world that runs: tests/test_world_lived.py." if name in HELD_OPEN else ""
            raise UsageError(f"there is nothing to drill named {name!r}.{text.nearest(name, known)}{held}")
    shares = tuple(percent / 100 for percent in options.severity or ()) or SHARES
    if not all(0 < share <= 1 for share in shares):
        raise UsageError(f"--severity is the share of answers that is hit, in percent, above 0 and up to 100; found {', '.join(map(str, options.severity))}.")
    if not 1 <= options.workers <= 32:
        raise UsageError(f"--workers is 1 to 32, found {options.workers}.")
    today = int(f"{clock.now().astimezone(NEW_YORK):%Y%m%d}")
    seeds = options.seed or [100 * today + n for n in range(1, SEEDS + 1)]
    found = list(trials(tuple(options.faults), shares))
    if not found:
        raise UsageError(f"{', '.join(options.faults)} is there or not: --severity 100.")
    say(f"drilling {len(found)} trials on the seeds {', '.join(map(str, seeds))}")
    rows = list(drill(found, seeds, options.workers, lambda running, total: progress(running, total, "drilling", "trials")))
    order = {trial.name: n for n, trial in enumerate(found)}
    rows.sort(key=lambda r: (order[r.fault], r.severity, r.seed))
    return Reply([r.as_json() for r in rows], scoreboard.told(rows), all(r.right for r in rows))

