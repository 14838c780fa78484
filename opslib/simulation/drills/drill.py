"""Drill a runbook: start a world, inject a fault, run the first runbook unattended, and compare what it found."""

import contextlib
import sqlite3
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from multiprocessing import get_context
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from opslib.alerting.alerts import Transition
from opslib.alerting.causes import NO_FAULT, NONE
from opslib.alerting.effects import sets_off
from opslib.alerting.evaluator import Evaluator
from opslib.alerting.notifications.planner import HELD_US
from opslib.foundation import clock
from opslib.foundation.config.rules import SENT
from opslib.foundation.config.settings import Settings, sqlite_url
from opslib.foundation.config.workspace import Workspace
from opslib.runbooks.cases import RegressionCase, Walked, walked
from opslib.runbooks.diagnosis import diagnosis
from opslib.runbooks.diagnosis.diagnosis import Diagnosis, diagnose
from opslib.services.collector import breaches_greeks
from opslib.services.situations import SEEN, SURE
from opslib.simulation.drills import expected_runs
from opslib.simulation.drills.scenarios import ENOUGH, PAIR, TOO_FEW, Scenario
from opslib.simulation.drills.stepped_desk import BEGINS, SPEED, STEP_S, SteppedProbes
from opslib.simulation.world.control import World
from opslib.simulation.world.faults import OURS
from opslib.telemetry.markers import Markers

OPENED_AFTER = timedelta(minutes=1)  # A person opens the runbook so long after they were told.
IDLE_S = 15  # A step in which no probe is made may be longer.
CASE = "case"  # The kind of a row that is no trial: a moment of a desk's own that was frozen.
WINDOW = timedelta(minutes=5)
IMPORTED = timedelta(minutes=2)  # Trades are imported so long before the runbook is opened, and judged.
DROPPED = (0.05, 0.1, 0.2, 0.3)
NOT_LOOKING = "collector_dead"  # This one is ours: we stop looking.


class Thinned(NamedTuple):
    """
    What was found of the same trial when so many percent of our looks had never been made: found, was that the expected
    or an accepted cause, how sure was it?
    """

    dropped: float
    found: str
    right: bool
    confidence: float


@dataclass(frozen=True)
class Row:
    """
    One trial, drilled once.

    Attributes:
        severity: The share of answers that was hit, percent.
        kind: One of `scenarios.KINDS`, or `CASE`.
        expected, found: The cause that is expected, and the one that was found.
        right: Cause, or an accepted one, subject and panel are right; of a control, nobody was told besides.
        exact: It is right, and the cause is the expected one.
        accepted: Why another cause than the expected one is accepted; empty where the answer is exact, or wrong.
        hit: How many answers, or contracts of a chain, that our probes got were hit by what was the matter.
        detected_after_s: World seconds until somebody was told; None where nobody was.
        told: The severity that somebody was told of; empty where nobody was.
        steps: So many steps of the runbook were walked.
        walk: Each of them in order, with how it stood (`cases.SIGNS`).
        strayed: By what the way differs from the one that was agreed on; no part of `right`.
        seconds: World seconds until the cause was on record.
        alert: Which told of it; empty where nobody was told.
        runbook: The one that it names; where nobody was told, the one that a look at everything leads to.
        wrong: What is not right, in words.
        seen: Every question that was asked, with its answer.
        thinned: The same with fewer looks, so that to be sure is not free.
    """

    fault: str
    severity: float
    seed: int
    control: bool
    kind: str
    expected: str
    found: str
    right: bool
    exact: bool
    accepted: str
    hit: int
    detected_after_s: float | None
    steps: int
    seconds: float
    confidence: float
    subject: str | None
    alert: str
    runbook: str
    told: str
    walk: tuple[tuple[str, str], ...]
    strayed: tuple[str, ...]
    wrong: str
    seen: tuple[str, ...]
    thinned: tuple[Thinned, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """As CONTRACT.md has it, and what else is known."""
        return asdict(self) | {"thinned": [t._asdict() for t in self.thinned]}


class _RunningScenario:
    """A desk at a world for as long as a trial lasts."""

    def __init__(self, trial: Scenario, looking: SteppedProbes):
        self.trial, self.looking, self._active = trial, looking, dict[str, float]()
        self.workspace = Workspace(looking.settings, lambda: looking.at)
        self._watch = Evaluator(looking.store, looking.settings, looking.rules, live=True)
        self._judged_us = clock.micros(BEGINS)
        self.told: Transition | None = None
        self._loud = dict[str, Transition]()  # What people are to be notified of, by its alert.
        self._asked_again_at = BEGINS

    def be(self, active: dict[str, float]) -> None:
        self._active = active
        self.looking.starved = "collector_starved" in active
        self.looking.lever.be(**{name: share for name, share in active.items() if name not in OURS})
        if self.trial.marked:
            Markers(self.looking.store, self.looking.settings).put("restart", "announced", "DevOps")

    def until(self, at: datetime, stops: bool = False, least: datetime = BEGINS) -> None:
        """
        Let time go by up to a moment, or until somebody was told and has had time to open the runbook, but not before
        `least`.
        """
        while self.looking.at < at:
            looks = self.trial.looked_at and NOT_LOOKING not in self._active
            self.looking.live((STEP_S if looks else IDLE_S) / 60, looks)
            self._judge()
            if stops and self.told and self.looking.at >= max(least, clock.instant(self.told.at_us) + OPENED_AFTER):
                return

    def _judge(self) -> None:
        upto_us = clock.micros(self.looking.at)
        for _, became in self._watch.judge(self._judged_us, upto_us):
            if breaches_greeks(became, self.looking.rules):
                self.looking.fetch_chains_again()
            for t in became:
                if t.kind in ("fired", "rose") and t.severity in SENT and not t.inhibited_by:
                    self._loud.setdefault(t.alert, t)
                elif t.kind in ("resolved", "ended"):
                    self._loud.pop(t.alert, None)
        self._judged_us = upto_us
        if self._loud and not self.told and self.looking.at >= self._asked_again_at and not self._held():
            self.told = next(iter(self._loud.values()))

    def _held(self) -> bool:
        """
        Whether nobody is notified for now, since the diagnosis is sure that nothing is at fault; see `planner.due`.
        """
        self._asked_again_at = self.looking.at + timedelta(microseconds=HELD_US)
        found = diagnose(self.looking.view(SEEN))
        sure = found.cause in NO_FAULT and found.confidence >= SURE
        return sure and all(
            sets_off(found.cause, found.subject, t.rule, t.subject, t.source) for t in self._loud.values()
        )


@contextlib.contextmanager
def _lived(trial: Scenario, seed: int) -> Iterator[_RunningScenario]:
    """A trial in a world of its own, up to the moment at which a runbook is opened."""
    with (
        tempfile.TemporaryDirectory(prefix="drill-") as folder,
        World(BEGINS, seed=seed, speed=SPEED, runs=False) as lever,
        contextlib.closing(SteppedProbes(lever, Path(folder), chains=True)) as looking,
    ):
        living = _RunningScenario(trial, looking)
        quiet = BEGINS + timedelta(minutes=trial.quiet)
        living.until(quiet)
        before = living.told
        for minute, active in trial.acts:
            living.until(quiet + timedelta(minutes=minute))
            living.be(active)
        last = quiet + timedelta(minutes=trial.acts[-1][0] if trial.acts else 0.0)
        living.until(
            last + timedelta(minutes=trial.minutes) - trial.fills * IMPORTED,
            not trial.control and before is None,
            last + timedelta(minutes=trial.least),
        )
        if trial.fills:
            looking.import_fills()
            living.until(looking.at + IMPORTED)
        yield living


def run_scenario(trial: Scenario, seed: int) -> Row:
    """Drill one trial in a world of its own."""
    with _lived(trial, seed) as living:
        case = _case(living)
        found = walked(case.book(living.workspace))
        said = repr(living.looking.view(WINDOW).panel(trial.panel)) if trial.panel else ""
        row = _row(trial, seed, living, case, found, said)
        return replace(row, thinned=tuple(_thinned(living, share, seed) for share in DROPPED))


class Kept(NamedTuple):
    """A trial that was lived, to be walked again without its world: as a case, and by whose settings."""

    case: RegressionCase
    settings: Settings


def kept(trial: Scenario, seed: int, folder: Path, more: timedelta) -> Kept:
    """Live a trial, and so long on after its moment, and keep what happened."""
    with _lived(trial, seed) as living:
        case = replace(_case(living), store=folder / f"{trial.name}.sqlite")
        living.until(case.at + more)
        with (
            contextlib.closing(sqlite3.connect(living.looking.store_file)) as whole,
            contextlib.closing(sqlite3.connect(case.store)) as part,
        ):
            whole.backup(part)
        return Kept(case, replace(living.looking.settings, home=folder, secrets={}))


def _case(living: _RunningScenario) -> RegressionCase:
    """
    The moment as it is walked: by the runbook that the alert names; where nobody was told, by the one that a look at
    everything leads to, else by that for what no other is for.
    """
    told, workspace, trial, at = living.told, living.workspace, living.trial, living.looking.at
    held = Path(living.looking.store_file)
    if told is None:
        runbook = diagnosis.diagnose_at(workspace, at, WINDOW).runbook or "incident"
        return RegressionCase(trial.name, runbook, "", "", "", "", WINDOW, at, trial.cause, trial.subject, (), held)
    rule = workspace.rules[told.rule]
    limit = "" if told.limit is None else rule.limit_told(told.limit)
    return RegressionCase(
        trial.name,
        rule.runbooks[told.subject],
        told.rule,
        told.subject,
        told.severity,
        limit,
        rule.window,
        at,
        trial.cause,
        trial.subject,
        (),
        held,
    )


def _thinned(living: _RunningScenario, share: float, seed: int) -> Thinned:
    """The same moment, by a copy of the store in which some of our looks are missing."""
    looking, chance = living.looking, Random(f"{seed}/{living.trial.name}/{share}")
    place = looking.home / f"thinned-{share:g}.sqlite"
    with (
        contextlib.closing(sqlite3.connect(looking.store_file)) as whole,
        contextlib.closing(sqlite3.connect(place)) as part,
    ):
        whole.backup(part)
        part.executemany(
            "DELETE FROM samples WHERE seq = ?",
            [row for row in part.execute("SELECT seq FROM samples ORDER BY seq").fetchall() if chance.random() < share],
        )
        part.commit()
    workspace = Workspace(replace(looking.settings, store_url=sqlite_url(place)), lambda: looking.at)
    with contextlib.closing(workspace.store):
        found = diagnosis.diagnose_at(workspace, looking.at, WINDOW)
    return Thinned(round(100 * share, 2), found.cause, not held(living, found).wrong, found.confidence)


class Held(NamedTuple):
    """
    An answer held against what was injected: why it is accepted though it is another than the expected one, or what is
    wrong with it.
    """

    accepted: str = ""
    wrong: str = ""


def held(living: _RunningScenario, found: Diagnosis) -> Held:
    """Hold an answer against what was injected."""
    trial = living.trial
    if found.cause == NONE and trial.share < 1.0 and living.told is None and living.looking.lever.hit < ENOUGH:
        return Held(TOO_FEW)
    if found.cause not in trial.causes:
        return Held(wrong=f"cause {found.cause}")
    named = {found.cause, *(other.cause for other in found.also)}
    if (
        lacking := [cause for cause in (trial.cause, *trial.also) if cause not in named]
        if trial.kind == PAIR and trial.also
        else []
    ):
        return Held(wrong="; ".join(f"{cause} is not named" for cause in lacking))
    if found.cause != trial.cause:
        return Held(trial.accepted[found.cause])
    return Held(
        wrong=f"subject {found.subject}, not {trial.subject}" if trial.subject not in (None, found.subject) else ""
    )


def _row(trial: Scenario, seed: int, living: _RunningScenario, case: RegressionCase, walked: Walked, said: str) -> Row:
    told, found, agreed = living.told, walked.diagnosis, expected_runs.agreed(trial)
    accepted, wrong_cause = held(living, found)
    wrong = [wrong_cause] if wrong_cause else []
    wrong += [f"the panel {trial.panel} does not say {words!r}" for words in trial.words if words not in said]
    if trial.control and told:
        wrong.append(f"somebody was told: {told.sentence}")
    begins = clock.micros(BEGINS + timedelta(minutes=trial.injected))
    after_s = None if told is None else (told.at_us - begins) / 1e6
    seconds = (living.looking.at - BEGINS - timedelta(minutes=trial.quiet)).total_seconds()
    return Row(
        trial.name,
        round(100 * trial.share, 2),
        seed,
        trial.control,
        trial.kind,
        trial.cause,
        found.cause,
        not wrong,
        not wrong and not accepted,
        "" if wrong else accepted,
        living.looking.lever.hit,
        after_s,
        len(walked.walk),
        seconds,
        found.confidence,
        found.subject,
        told.alert if told else "",
        case.runbook,
        case.severity,
        walked.walk,
        tuple(agreed.strayed(case.runbook, case.severity, walked.walk)),
        "; ".join(wrong),
        _seen(found),
    )


def _seen(found: Diagnosis) -> tuple[str, ...]:
    """Every question that was asked, with its answer."""
    return tuple(f"{c.question} {c.answer}" for c in found.evidence)


def tried(case: RegressionCase, settings: Settings) -> Row:
    """
    Walk a case of a desk, and hold what was found against what people agreed on: a case is right only where the way is,
    too.
    """
    _, walk, wrong, way = case.tried(settings)
    right = not wrong and not way
    return Row(
        case.id,
        100.0,
        0,
        False,
        CASE,
        case.cause,
        walk.diagnosis.cause,
        right,
        right,
        "",
        0,
        None,
        len(walk.walk),
        0.0,
        walk.diagnosis.confidence,
        walk.diagnosis.subject,
        f"{case.rule} of {case.subject}" if case.rule else "",
        case.runbook,
        case.severity,
        walk.walk,
        way,
        "; ".join(wrong),
        _seen(walk.diagnosis),
    )


def drill(
    trials: Iterable[Scenario],
    seeds: Iterable[int],
    workers: int,
    progress: Callable[[Iterable[Any], int], Iterable[Any]],
) -> Iterator[Row]:
    """Drill trials on seeds, so many at once, each in a process of its own; rows as they come."""
    asked = [(trial, seed) for trial in trials for seed in seeds]
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        running = [pool.submit(run_scenario, trial, seed) for trial, seed in asked]
        for done in progress(as_completed(running), len(running)):
            yield done.result()
