"""
Run mutation tests of the runbooks: a changed runbook, check or limit must be caught by a drill.

A mutation is caught if a scenario gives another result with it: other steps, another step result, another cause, or an
alert at another limit or time. A mutation that no scenario of its runbook catches has survived; it is listed with the
reason.
"""

import contextlib
import itertools
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

from opslib.foundation.config import rules as config_rules
from opslib.foundation.config.rules import Rule
from opslib.foundation.config.workspace import Workspace
from opslib.runbooks import catalog
from opslib.runbooks.cases import SIGNS, alerts, run_unattended
from opslib.runbooks.catalog import Runbook
from opslib.runbooks.checks import CHECKS
from opslib.runbooks.steps import CHECK
from opslib.simulation.drills import drill, expected_runs
from opslib.simulation.drills.drill import Recorded
from opslib.simulation.drills.scenarios import CONTROLS, Scenario, select_scenarios
from opslib.simulation.drills.stepped_desk import BEGINS

DROPPED, SWAPPED, INVERTED, DIRECTION, MOVED = (
    "step dropped",
    "steps swapped",
    "check inverted",
    "comparison inverted",
    "limit moved",
)
OF_RULES = (DIRECTION, MOVED)
CONTINUES = timedelta(minutes=4)  # Long enough to reach the higher severities of a rule, too.
BY = (2.0, 0.5)


@dataclass(frozen=True)
class Mutation:
    """
    One change of a runbook, a check or a rule.

    Attributes:
        runbook: The runbook that is tested.
        kind: What is changed.
        target: The step, check or rule that is changed.
        other: For swapped steps, the other step; for a limit, its severity.
        by: Factor of a moved limit; for a ratio that is best at 1, factor of its distance from 1.
        caught: The scenario that caught it, and by what; empty if it survived.
        scenarios: Number of scenarios run with it.
        why: Why it survived.
    """

    runbook: str
    kind: str
    target: str
    other: str = ""
    by: float = 1.0
    caught: str = ""
    scenarios: int = 0
    why: str = ""

    @property
    def words(self) -> str:
        """What was changed, as text."""
        more = {SWAPPED: f" and {self.other}", MOVED: f" {self.other} x {self.by:g}"}.get(self.kind, "")
        return f"{self.kind}: {self.target}{more}"


def mutations_of(runbook: str) -> Iterator[Mutation]:
    """Yield every mutation of a runbook: of its steps, of their checks, and of the rules whose alerts lead to it."""
    steps = catalog.runbook(runbook).steps
    for step in steps:
        yield Mutation(runbook, DROPPED, step.name)
    for step, following in itertools.pairwise(steps):
        yield Mutation(runbook, SWAPPED, step.name, following.name)
    for check in dict.fromkeys(step.check for step in steps if step.kind == CHECK):
        yield Mutation(runbook, INVERTED, check)
    for rule in config_rules.load().without_budgets().rules.values():
        if runbook in rule.runbooks.values():
            yield Mutation(runbook, DIRECTION, rule.name)
            for severity, limit in rule.thresholds:
                yield from (
                    Mutation(runbook, MOVED, rule.name, severity, by) for by in BY if not isinstance(limit, str)
                )


def _moved(rule: Rule, limit: float, by: float) -> float:
    """Return a limit `by` times as far from the best value."""
    return 1 - (1 - limit) * by if rule.unit == "ratio" and rule.better == "higher" else limit * by


def _mutated_rules(mutation: Mutation, rules: config_rules.Rules) -> config_rules.Rules:
    """Return the rules with a mutation."""
    rule = rules[mutation.target]
    if mutation.kind == DIRECTION:
        other = replace(rule, better="lower" if rule.better == "higher" else "higher")
    else:
        other = replace(
            rule,
            thresholds=tuple(
                (
                    severity,
                    _moved(rule, limit, mutation.by)
                    if severity == mutation.other and not isinstance(limit, str)
                    else limit,
                )
                for severity, limit in rule.thresholds
            ),
        )
    return replace(rules, rules=rules.rules | {rule.name: other})


def _mutated_runbook(mutation: Mutation, runbook: Runbook) -> Runbook:
    """Return the runbook with a mutation of its notebook."""
    other: dict[str, str | None] = {}
    if mutation.kind == DROPPED:
        other = {mutation.target: None}
    elif mutation.kind == SWAPPED:
        other = {mutation.target: mutation.other, mutation.other: mutation.target}

    def call(found: re.Match[str]) -> str:
        name = other.get(found[1], found[1])
        return f'runbook.step("{name}")' if name else "None"

    cells = [
        cell | {"source": re.sub(r'\brunbook\.step\("(\w+)"\)', call, catalog.source(cell))}
        if cell["cell_type"] == "code"
        else cell
        for cell in runbook.cells
    ]
    return replace(runbook, notebook=runbook.notebook | {"cells": cells})


def _inverted(check: Callable[..., Any]) -> Callable[..., Any]:
    return lambda context: (result := check(context))._replace(good=None if result.good is None else not result.good)


# Results of a scenario, with or without a mutation.


def _workspace(recorded: Recorded, mutation: Mutation | None) -> Workspace:
    """Return the workspace of a recorded scenario, with the rules of a mutation if it changes them."""
    workspace = recorded.case.workspace(recorded.settings)
    if mutation and mutation.kind in OF_RULES:
        workspace.__dict__["rules"] = _mutated_rules(mutation, workspace.rules)  # Replaces the cached property.
    return workspace


def _run(recorded: Recorded, mutation: Mutation | None) -> tuple[tuple[tuple[str, str], ...], tuple[str, str | None]]:
    """Run a recorded scenario, with a mutation or without; return each step's result, and cause and subject found."""
    workspace = _workspace(recorded, mutation)
    with contextlib.closing(workspace.store), contextlib.ExitStack() as patched:
        session = recorded.case.session(workspace)
        if mutation and mutation.kind in (DROPPED, SWAPPED):
            session.template = _mutated_runbook(mutation, session.template)
        if mutation and mutation.kind == INVERTED:
            patched.enter_context(mock.patch.dict(CHECKS, {mutation.target: _inverted(CHECKS[mutation.target])}))
        found = run_unattended(session)
        return found.results, (found.diagnosis.cause, found.diagnosis.subject)


def _alerts(recorded: Recorded, mutation: Mutation | None) -> list[tuple[Any, ...]]:
    """
    Evaluate the alerts of a recorded scenario, and for `CONTINUES` after it.

    Returns:
        Rule, subject, severity, limit and time (microseconds since 1970 UTC) of each.
    """
    workspace = _workspace(recorded, mutation)
    with contextlib.closing(workspace.store):
        return [
            (t.rule, t.subject, t.severity, t.limit, t.at_us)
            for t in alerts(workspace, recorded.case.at + CONTINUES, BEGINS)
        ]


class Baseline(NamedTuple):
    """A recorded scenario and its results without a mutation: steps, cause and subject found, alerts."""

    recorded: Recorded
    run: tuple[tuple[str, str], ...]
    found: tuple[str, str | None]
    alerts: list[tuple[Any, ...]]


def _baseline(scenario: Scenario, seed: int, folder: Path) -> Baseline:
    recorded = drill.record(scenario, seed, folder, CONTINUES)
    run, found = _run(recorded, None)
    return Baseline(recorded, run, found, _alerts(recorded, None))


def run_mutation(mutation: Mutation, baselines: list[Baseline]) -> Mutation:
    """Run recorded scenarios with a mutation until one catches it; return the mutation with the result."""
    for n, one in enumerate(baselines, 1):
        if mutation.kind in OF_RULES and _alerts(one.recorded, mutation) != one.alerts:
            return replace(mutation, caught=f"{one.recorded.case.id}: other alerts", scenarios=n)
        if one.recorded.case.runbook != mutation.runbook:
            continue
        run, found = _run(one.recorded, mutation)
        if (run, found) != (one.run, one.found):
            return replace(
                mutation,
                caught=f"{one.recorded.case.id}: {'other cause' if found != one.found else 'other step results'}",
                scenarios=n,
            )
    return replace(mutation, scenarios=len(baselines), why=_why(mutation, baselines))


def _why(mutation: Mutation, baselines: list[Baseline]) -> str:
    """Return why a mutation survived."""
    if mutation.kind == INVERTED:
        own = {step.name for step in catalog.runbook(mutation.runbook).steps if step.check == mutation.target}
        signs = {sign for one in baselines for step, sign in one.run if step in own}
        return (
            "the check's result is unknown in every scenario"
            if signs <= {SIGNS["unknown"]}
            else "the inverted check gives the same result"
        )
    fired = sum(any(alert[0] == mutation.target for alert in one.alerts) for one in baselines)
    return (
        f"its rule fires in {fired} of them, at values beyond both limits"
        if fired
        else "its rule fires in none of them"
    )


def run_mutations(
    runbooks: list[str], seed: int, workers: int, progress: Callable[[Iterable[Any], int, str], Iterable[Any]]
) -> list[Mutation]:
    """Record every scenario that leads to these runbooks once, then run each of their mutations on them."""
    chosen = [
        scenario
        for scenario in select_scenarios((), (1.0,))
        if expected_runs.expected_run(scenario).runbook in runbooks or scenario.name == "healthy"
    ]
    with (
        tempfile.TemporaryDirectory(prefix="mutations-") as folder,
        ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool,
    ):
        recording = [pool.submit(_baseline, scenario, seed, Path(folder)) for scenario in chosen]
        for _ in progress(as_completed(recording), len(recording), "recording scenarios"):
            pass
        baselines = sorted((done.result() for done in recording), key=lambda one: one.recorded.case.id in CONTROLS)
        mutations = [mutation for runbook in runbooks for mutation in mutations_of(runbook)]
        running: list[Future[Mutation]] = [
            pool.submit(run_mutation, mutation, _relevant(mutation, baselines)) for mutation in mutations
        ]
        for _ in progress(as_completed(running), len(running), "running mutations"):
            pass
        return [done.result() for done in running]


def _relevant(mutation: Mutation, baselines: list[Baseline]) -> list[Baseline]:
    """
    Select the scenarios that can catch a mutation.

    These are the scenarios of its runbook; for a mutation of a rule, also the scenarios in which the rule fires, and
    the healthy one.
    """
    of_rule = mutation.kind in OF_RULES
    return [
        one
        for one in baselines
        if one.recorded.case.runbook == mutation.runbook
        or (of_rule and (one.recorded.case.id == "healthy" or any(alert[0] == mutation.target for alert in one.alerts)))
    ]


def summary(found: list[Mutation]) -> str:
    """Return, as text, how many mutations of each runbook were caught, and each that survived."""
    lines = []
    for runbook in dict.fromkeys(m.runbook for m in found):
        own = [m for m in found if m.runbook == runbook]
        lines.append(f"{runbook}: {sum(bool(m.caught) for m in own)} of {len(own)} mutations caught")
        lines += [f"    survived {m.scenarios} scenarios: {m.words} ({m.why})" for m in own if not m.caught]
    caught = sum(bool(m.caught) for m in found)
    return "\n".join([*lines, f"{caught} of {len(found)} mutations caught ({caught / len(found):.1%})"])


def as_json(mutation: Mutation) -> dict[str, Any]:
    """Return a mutation as JSON."""
    return asdict(mutation) | {"caught": bool(mutation.caught), "caught_by": mutation.caught, "words": mutation.words}
