"""
Knows what ``ops drill`` asks and shows: which trials, on which seeds, which cases of this home, and the scoreboard of them.
"""

import argparse
from collections.abc import Callable, Iterable

from opslib import case, clock, settings as settings_module, text
from opslib.demo import scoreboard
from opslib.demo.drill import Row, drill, tried
from opslib.demo.trials import CONTROLS, FAULTS, HELD_OPEN, PAIRS, SHARES, trials
from opslib.errors import UsageError
from opslib.replies import Reply
from opslib.text import NEW_YORK

SEEDS = 3
Progress = Callable[..., Iterable]


def asked(options: argparse.Namespace, progress: Progress, say: Callable[[str], None]) -> Reply:
    """
    Drill what is named, or everything, the cases of this home among it.

    Raises:
        UsageError: There is no such fault, pair, control or case; or it cannot be hit so.
    """
    settings = settings_module.load(options.home, options.app)
    cases = case.names(settings)
    known = (*FAULTS, *PAIRS, *CONTROLS, *cases)
    for name in options.faults:
        if name not in known:
            held = " What happens to a socket that is held open needs a world that runs: tests/test_world_lived.py." if name in HELD_OPEN else ""
            raise UsageError(f"there is nothing to drill named {name!r}.{text.nearest(name, known)}{held}")
    shares = tuple(percent / 100 for percent in options.severity or ()) or SHARES
    if not all(0 < share <= 1 for share in shares):
        raise UsageError(f"--severity is the share of answers that is hit, in percent, above 0 and up to 100; found {', '.join(map(str, options.severity))}.")
    if not 1 <= options.workers <= 32:
        raise UsageError(f"--workers is 1 to 32, found {options.workers}.")
    named = tuple(name for name in options.faults if name not in cases)
    found = list(trials(named, shares)) if named or not options.faults else []
    if named and not found:
        raise UsageError(f"{', '.join(named)} is there or not: --severity 100.")
    frozen = [tried(case.read(settings, name), settings) for name in cases if not options.faults or name in options.faults]
    rows = [*frozen, *_drilled(found, options, progress, say)]
    return Reply([r.as_json() for r in rows], scoreboard.told(rows), all(r.right and not r.strayed for r in rows))


def _drilled(found: list, options: argparse.Namespace, progress: Progress, say: Callable[[str], None]) -> list[Row]:
    """Every trial on every seed, in their order."""
    if not found:
        return []
    today = int(f"{clock.now().astimezone(NEW_YORK):%Y%m%d}")
    seeds = options.seed or [100 * today + n for n in range(1, SEEDS + 1)]
    say(f"drilling {len(found)} trials on the seeds {', '.join(map(str, seeds))}")
    order = {trial.name: n for n, trial in enumerate(found)}
    rows = drill(found, seeds, options.workers, lambda running, total: progress(running, total, "drilling", "trials"))
    return sorted(rows, key=lambda r: (order[r.fault], r.severity, r.seed))
