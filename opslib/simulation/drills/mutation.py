"""
Test the drills by mutation: would they notice a changed runbook, check or limit?

A mutant is noticed where a trial goes another way than without it: other steps, a step that stands otherwise, another
cause, an alert that fires at another limit or time. Who is not noticed by any trial of its runbook survives, and is
listed.
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
from opslib.runbooks.cases import SIGNS, alerts, walked
from opslib.runbooks.catalog import Runbook
from opslib.runbooks.checks import CHECKS
from opslib.runbooks.steps import LOOK
from opslib.simulation.drills import drill, expected_runs
from opslib.simulation.drills.drill import Kept
from opslib.simulation.drills.scenarios import CONTROLS, Scenario, trials
from opslib.simulation.drills.stepped_desk import BEGINS

DROPPED, SWAPPED, TURNED, BETTER, MOVED = (
    "step dropped",
    "steps swapped",
    "check turned",
    "comparison turned",
    "limit moved",
)
OF_RULES = (BETTER, MOVED)
LIVES_ON = timedelta(minutes=4)  # So that the upper rungs of a limit are reached, too.
BY = (2.0, 0.5)


@dataclass(frozen=True)
class Mutation:
    """
    One change.

    Attributes:
        runbook: Whose.
        kind: What was done.
        target: To which step, check or rule.
        other: The step that it was swapped with; of a limit, the rung.
        by: A limit was moved by so many times; of a ratio, what is lacking to the best.
        noticed: By which trial and by what; empty where none noticed.
        trials: So many walked it.
        why: Why none noticed.
    """

    runbook: str
    kind: str
    target: str
    other: str = ""
    by: float = 1.0
    noticed: str = ""
    trials: int = 0
    why: str = ""

    @property
    def words(self) -> str:
        """What was done, for people."""
        more = {SWAPPED: f" and {self.other}", MOVED: f" {self.other} x {self.by:g}"}.get(self.kind, "")
        return f"{self.kind}: {self.target}{more}"


def mutants(runbook: str) -> Iterator[Mutation]:
    """
    Every mutant of a runbook: of its steps, of the checks that judge them, and of the rules whose alerts lead to it.
    """
    steps = catalog.runbook(runbook).steps
    for step in steps:
        yield Mutation(runbook, DROPPED, step.name)
    for step, following in itertools.pairwise(steps):
        yield Mutation(runbook, SWAPPED, step.name, following.name)
    for check in dict.fromkeys(step.check for step in steps if step.kind == LOOK):
        yield Mutation(runbook, TURNED, check)
    for rule in config_rules.load().without_budgets().rules.values():
        if runbook in rule.runbooks.values():
            yield Mutation(runbook, BETTER, rule.name)
            for rung, limit in rule.ladder:
                yield from (Mutation(runbook, MOVED, rule.name, rung, by) for by in BY if not isinstance(limit, str))


def _moved(rule: Rule, limit: float, by: float) -> float:
    """A limit that is so many times as far from the best."""
    return 1 - (1 - limit) * by if rule.unit == "ratio" and rule.better == "higher" else limit * by


def _ruled(mutant: Mutation, rules: config_rules.Rules) -> config_rules.Rules:
    """The table with what the mutant changes in it."""
    rule = rules[mutant.target]
    if mutant.kind == BETTER:
        other = replace(rule, better="lower" if rule.better == "higher" else "higher")
    else:
        other = replace(
            rule,
            ladder=tuple(
                (rung, _moved(rule, limit, mutant.by) if rung == mutant.other and not isinstance(limit, str) else limit)
                for rung, limit in rule.ladder
            ),
        )
    return replace(rules, rules=rules.rules | {rule.name: other})


def _edited(mutant: Mutation, shelved: Runbook) -> Runbook:
    """The notebook with what the mutant changes in it."""
    other: dict[str, str | None] = {}
    if mutant.kind == DROPPED:
        other = {mutant.target: None}
    elif mutant.kind == SWAPPED:
        other = {mutant.target: mutant.other, mutant.other: mutant.target}

    def call(found: re.Match[str]) -> str:
        name = other.get(found[1], found[1])
        return f'book.step("{name}")' if name else "None"

    cells = [
        cell | {"source": re.sub(r'book\.step\("(\w+)"\)', call, catalog.source(cell))}
        if cell["cell_type"] == "code"
        else cell
        for cell in shelved.cells
    ]
    return replace(shelved, notebook=shelved.notebook | {"cells": cells})


def _turned(check: Callable[..., Any]) -> Callable[..., Any]:
    return lambda scene: (seen := check(scene))._replace(good=None if seen.good is None else not seen.good)


# What a trial comes to.


def _desk(kept: Kept, mutant: Mutation | None) -> Workspace:
    """The desk of a trial, by the rules as they are, or as a mutant has them."""
    workspace = kept.case.workspace(kept.settings)
    if mutant and mutant.kind in OF_RULES:
        workspace.__dict__["rules"] = _ruled(mutant, workspace.rules)  # Cached from now on.
    return workspace


def _way(kept: Kept, mutant: Mutation | None) -> tuple[tuple[tuple[str, str], ...], tuple[str, str | None]]:
    """By which steps a case is walked, how each stands, and what is found; with a mutant in place, or as it is."""
    workspace = _desk(kept, mutant)
    with contextlib.closing(workspace.store), contextlib.ExitStack() as patched:
        book = kept.case.book(workspace)
        if mutant and mutant.kind in (DROPPED, SWAPPED):
            book.shelved = _edited(mutant, book.shelved)
        if mutant and mutant.kind == TURNED:
            patched.enter_context(mock.patch.dict(CHECKS, {mutant.target: _turned(CHECKS[mutant.target])}))
        found = walked(book)
        return found.walk, (found.diagnosis.cause, found.diagnosis.subject)


def _told(kept: Kept, mutant: Mutation | None) -> list[tuple[Any, ...]]:
    """What would fire in a trial, and on after it: of what, as how bad, past which limit, when."""
    workspace = _desk(kept, mutant)
    with contextlib.closing(workspace.store):
        return [
            (t.rule, t.subject, t.severity, t.limit, t.at_us)
            for t in alerts(workspace, kept.case.at + LIVES_ON, BEGINS)
        ]


class Lived(NamedTuple):
    """A trial that was lived, and what it comes to without a mutant: how it is walked, what is found, what fires."""

    kept: Kept
    walk: tuple[tuple[str, str], ...]
    found: tuple[str, str | None]
    told: list[tuple[Any, ...]]


def _lived(trial: Scenario, seed: int, folder: Path) -> Lived:
    kept = drill.kept(trial, seed, folder, LIVES_ON)
    walk, found = _way(kept, None)
    return Lived(kept, walk, found, _told(kept, None))


def tried(mutant: Mutation, lived: list[Lived]) -> Mutation:
    """Do drills notice a mutant?"""
    for n, one in enumerate(lived, 1):
        if mutant.kind in OF_RULES and _told(one.kept, mutant) != one.told:
            return replace(mutant, noticed=f"{one.kept.case.id}: other alerts", trials=n)
        if one.kept.case.runbook != mutant.runbook:
            continue
        walk, found = _way(one.kept, mutant)
        if (walk, found) != (one.walk, one.found):
            return replace(
                mutant,
                noticed=f"{one.kept.case.id}: {'another cause' if found != one.found else 'another way'}",
                trials=n,
            )
    return replace(mutant, trials=len(lived), why=_why(mutant, lived))


def _why(mutant: Mutation, lived: list[Lived]) -> str:
    """Why did nobody notice it?"""
    if mutant.kind == TURNED:
        own = {step.name for step in catalog.runbook(mutant.runbook).steps if step.check == mutant.target}
        signs = {sign for one in lived for step, sign in one.walk if step in own}
        return (
            "nothing in these worlds tells it: unknown in every trial"
            if signs <= {SIGNS["unknown"]}
            else "turned round it reads the same"
        )
    fired = sum(any(alert[0] == mutant.target for alert in one.told) for one in lived)
    return (
        f"its rule fires in {fired} of them, at values that are past the limit either way"
        if fired
        else "its rule fires in none of them: nothing in these worlds comes near"
    )


def drilled(
    runbooks: list[str], seed: int, workers: int, progress: Callable[[Iterable[Any], int, str], Iterable[Any]]
) -> list[Mutation]:
    """Live every trial that leads to these runbooks once, then try each of their mutants on them."""
    wanted = [
        trial
        for trial in trials((), (1.0,))
        if expected_runs.agreed(trial).runbook in runbooks or trial.name == "healthy"
    ]
    with (
        tempfile.TemporaryDirectory(prefix="mutants-") as folder,
        ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool,
    ):
        living = [pool.submit(_lived, trial, seed, Path(folder)) for trial in wanted]
        for _ in progress(as_completed(living), len(living), "living trials"):
            pass
        lived = sorted((done.result() for done in living), key=lambda one: one.kept.case.id in CONTROLS)
        asked = [mutant for runbook in runbooks for mutant in mutants(runbook)]
        running: list[Future[Mutation]] = [pool.submit(tried, mutant, _those(mutant, lived)) for mutant in asked]
        for _ in progress(as_completed(running), len(running), "mutants"):
            pass
        return [done.result() for done in running]


def _those(mutant: Mutation, lived: list[Lived]) -> list[Lived]:
    """
    The trials that may notice a mutant: those of its runbook; of a comparison or a limit also those in which its rule
    fires, and the healthy one.
    """
    of_rule = mutant.kind in OF_RULES
    return [
        one
        for one in lived
        if one.kept.case.runbook == mutant.runbook
        or (of_rule and (one.kept.case.id == "healthy" or any(alert[0] == mutant.target for alert in one.told)))
    ]


def summary(found: list[Mutation]) -> str:
    """For people: how many of each runbook were noticed, and each that was not."""
    lines = []
    for runbook in dict.fromkeys(m.runbook for m in found):
        own = [m for m in found if m.runbook == runbook]
        lines.append(f"{runbook}: {sum(bool(m.noticed) for m in own)} of {len(own)} mutants noticed")
        lines += [f"    survived {m.trials} trials: {m.words} ({m.why})" for m in own if not m.noticed]
    noticed = sum(bool(m.noticed) for m in found)
    return "\n".join([*lines, f"{noticed} of {len(found)} mutants noticed ({noticed / len(found):.1%})"])


def as_json(mutant: Mutation) -> dict[str, Any]:
    """For a program."""
    return asdict(mutant) | {"noticed": bool(mutant.noticed), "by_trial": mutant.noticed, "words": mutant.words}
