"""Run ``ops drill``: choose trials, seeds, cases and mutants, and show the scoreboard."""

import argparse
from collections.abc import Callable, Iterable
from typing import Any

from opslib.cli.output import Reply
from opslib.foundation import clock, formatting
from opslib.foundation.config import settings as settings_module
from opslib.foundation.errors import UsageError
from opslib.foundation.formatting import NEW_YORK
from opslib.runbooks import cases as cases_module
from opslib.runbooks import catalog
from opslib.simulation.drills import game_day, mutation, scoreboard, scoreboard_view
from opslib.simulation.drills.drill import Row, drill, tried
from opslib.simulation.drills.scenarios import CONTROLS, FAULTS, PAIRS, SHARES, Scenario, trials

SEEDS = 3
MUTANTS_NOTICED = 0.9  # Of ten changes so many must be noticed.
Progress = Callable[..., Iterable[Any]]


def asked(options: argparse.Namespace, progress: Progress, say: Callable[[str], None]) -> Reply:
    """
    Drill what is named, or everything, the cases of this home among it; or try mutants, or play a game day.

    Raises:
        UsageError: There is no such fault, pair, control, case or runbook; it cannot be hit so; or options that do not
            go together.
    """
    if not 1 <= options.workers <= 32:
        raise UsageError(f"--workers is 1 to 32, found {options.workers}.")
    ways = [name for name in ("record", "mutants", "live") if getattr(options, name)]
    if len(ways) > 1 or (options.secret and not options.live):
        raise UsageError(
            f"--record, --mutants and --live FAULT --secret are three ways to drill; found "
            f"{' and '.join(f'--{name}' for name in ways) or '--secret alone'}."
        )
    if options.record and (options.faults or options.severity or len(options.seed or (1, 2, 3)) < SEEDS):
        raise UsageError(f"--record keeps a drill of everything, on {SEEDS} seeds or more.")
    if options.live:
        return Reply(*game_day.asked(options, say))
    return _mutants(options, progress, say) if options.mutants else _rows(options, progress, say)


def _rows(options: argparse.Namespace, progress: Progress, say: Callable[[str], None]) -> Reply:
    settings = settings_module.load(options.home, options.app)
    cases = [] if options.record else cases_module.names(settings)
    known = (*FAULTS, *PAIRS, *CONTROLS, *cases)
    for name in options.faults:
        if name not in known:
            raise UsageError(f"there is nothing to drill named {name!r}.{formatting.nearest(name, known)}")
    shares = tuple(percent / 100 for percent in options.severity or ()) or SHARES
    if not all(0 < share <= 1 for share in shares):
        raise UsageError(
            f"--severity is the share of answers that is hit, in percent, above 0 and up to 100; found "
            f"{', '.join(map(str, options.severity))}."
        )
    named = tuple(name for name in options.faults if name not in cases)
    found = list(trials(named, shares)) if named or not options.faults else []
    if named and not found:
        raise UsageError(f"{', '.join(named)} is there or not: --severity 100.")
    frozen = [
        tried(cases_module.read(settings, name), settings)
        for name in cases
        if not options.faults or name in options.faults
    ]
    seeds = _seeds(options)
    rows = [*frozen, *_drilled(found, seeds, options.workers, progress, say)]
    more = (
        [f"recorded, and written into README.md: {scoreboard_view.record(_today(), seeds, rows).line}"]
        if options.record
        else []
    )
    return Reply(
        [r.as_json() for r in rows],
        "\n\n".join([scoreboard.told(rows), *more]),
        all(r.right and not r.strayed for r in rows),
    )


def _today() -> str:
    return f"{clock.now().astimezone(NEW_YORK):%Y-%m-%d}"


def _seeds(options: argparse.Namespace) -> list[int]:
    """Those that were named, else some that change with the date."""
    return options.seed or [100 * int(_today().replace("-", "")) + n for n in range(1, SEEDS + 1)]


def _drilled(
    found: list[Scenario], seeds: list[int], workers: int, progress: Progress, say: Callable[[str], None]
) -> list[Row]:
    """Every trial on every seed, in their order."""
    if not found:
        return []
    say(f"drilling {len(found)} trials on the seeds {', '.join(map(str, seeds))}")
    order = {trial.name: n for n, trial in enumerate(found)}
    rows = drill(found, seeds, workers, lambda running, total: progress(running, total, "drilling", "trials"))
    return sorted(rows, key=lambda r: (order[r.fault], r.severity, r.seed))


def _mutants(options: argparse.Namespace, progress: Progress, say: Callable[[str], None]) -> Reply:
    """Change the runbooks, one thing at a time; done where nine of ten changes are noticed."""
    known = catalog.names()
    for name in options.faults:
        if name not in known:
            raise UsageError(f"there is no runbook {name!r} to change.{formatting.nearest(name, known)}")
    seed = _seeds(options)[0]
    say(f"living every trial of these runbooks once, on seed {seed}, then changing one thing at a time")
    found = mutation.drilled(
        options.faults or known,
        seed,
        options.workers,
        lambda running, total, what: progress(running, total, what, "done"),
    )
    return Reply(
        [mutation.as_json(m) for m in found],
        mutation.summary(found),
        sum(bool(m.noticed) for m in found) >= MUTANTS_NOTICED * len(found),
    )
