"""Run ``ops drill``: scenarios, regression cases, mutations and game days."""

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
from opslib.simulation.drills.drill import Row, run_case, run_scenarios
from opslib.simulation.drills.scenarios import CONTROLS, FAULTS, PAIRS, SHARES, Scenario, select_scenarios

SEEDS = 3
MUTATIONS_CAUGHT = 0.9  # The share of mutations that must be caught.
Progress = Callable[..., Iterable[Any]]


def run(options: argparse.Namespace, progress: Progress, say: Callable[[str], None]) -> Reply:
    """
    Run the named scenarios and regression cases, or all of them; or mutation testing, or a game day.

    Raises:
        UsageError: There is no such fault, pair, control, case or runbook; it has no such severity; or options exclude
            each other.
    """
    if not 1 <= options.workers <= 32:
        raise UsageError(f"--workers is {options.workers}; expected 1 to 32.")
    ways = [name for name in ("record", "mutants", "live") if getattr(options, name)]
    if len(ways) > 1 or (options.secret and not options.live):
        raise UsageError(
            f"--record, --mutants and --live FAULT [--secret] exclude each other; found "
            f"{' and '.join(f'--{name}' for name in ways) or '--secret without --live'}."
        )
    if options.record and (options.faults or options.severity or len(options.seed or (1, 2, 3)) < SEEDS):
        raise UsageError(
            f"--record needs all scenarios, all severities and at least {SEEDS} seeds. Give no FAULT and no --severity."
        )
    if options.live:
        return Reply(*game_day.play(options, say))
    return _mutation_testing(options, progress, say) if options.mutants else _rows(options, progress, say)


def _rows(options: argparse.Namespace, progress: Progress, say: Callable[[str], None]) -> Reply:
    settings = settings_module.load(options.home, options.app)
    cases = [] if options.record else cases_module.names(settings)
    known = (*FAULTS, *PAIRS, *CONTROLS, *cases)
    for name in options.faults:
        if name not in known:
            raise UsageError(f"no scenario or regression case is named {name!r}.{formatting.nearest(name, known)}")
    shares = tuple(percent / 100 for percent in options.severity or ()) or SHARES
    if not all(0 < share <= 1 for share in shares):
        raise UsageError(
            f"--severity is {', '.join(map(str, options.severity))}; expected the percentage of responses that are "
            f"affected, more than 0 and at most 100."
        )
    named = tuple(name for name in options.faults if name not in cases)
    found = list(select_scenarios(named, shares)) if named or not options.faults else []
    if named and not found:
        raise UsageError(f"{', '.join(named)} has only one severity. Use --severity 100, or leave it out.")
    frozen = [
        run_case(cases_module.read(settings, name), settings)
        for name in cases
        if not options.faults or name in options.faults
    ]
    seeds = _seeds(options)
    rows = [*frozen, *_run_drills(found, seeds, options.workers, progress, say)]
    more = (
        [f"recorded, and written to README.md: {scoreboard_view.record(_today(), seeds, rows).line}"]
        if options.record
        else []
    )
    return Reply(
        [r.as_json() for r in rows],
        "\n\n".join([scoreboard.report(rows), *more]),
        all(r.right and not r.deviations for r in rows),
    )


def _today() -> str:
    return f"{clock.now().astimezone(NEW_YORK):%Y-%m-%d}"


def _seeds(options: argparse.Namespace) -> list[int]:
    """Return the seeds that were given, else seeds derived from the date."""
    return options.seed or [100 * int(_today().replace("-", "")) + n for n in range(1, SEEDS + 1)]


def _run_drills(
    found: list[Scenario], seeds: list[int], workers: int, progress: Progress, say: Callable[[str], None]
) -> list[Row]:
    """Run every scenario on every seed; return the rows in order."""
    if not found:
        return []
    say(f"running {len(found)} scenarios on the seeds {', '.join(map(str, seeds))}")
    order = {scenario.name: n for n, scenario in enumerate(found)}
    rows = run_scenarios(
        found, seeds, workers, lambda running, total: progress(running, total, "drilling", "scenarios")
    )
    return sorted(rows, key=lambda r: (order[r.fault], r.severity, r.seed))


def _mutation_testing(options: argparse.Namespace, progress: Progress, say: Callable[[str], None]) -> Reply:
    """Mutate the runbooks, one thing at a time; done if nine of ten mutations are caught."""
    known = catalog.names()
    for name in options.faults:
        if name not in known:
            raise UsageError(f"there is no runbook {name!r}.{formatting.nearest(name, known)}")
    seed = _seeds(options)[0]
    say(f"running every scenario of these runbooks once on seed {seed}, then mutating one thing at a time")
    found = mutation.run_mutations(
        options.faults or known,
        seed,
        options.workers,
        lambda running, total, what: progress(running, total, what, "done"),
    )
    return Reply(
        [mutation.as_json(m) for m in found],
        mutation.summary(found),
        sum(bool(m.caught) for m in found) >= MUTATIONS_CAUGHT * len(found),
    )
