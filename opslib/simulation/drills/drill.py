"""Run drills: start a world, inject a fault, run the first runbook unattended, and assess its diagnosis."""

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
from opslib.alerting.effects import SURE, sets_off
from opslib.alerting.evaluator import Evaluator
from opslib.alerting.notifications.planner import HOLD_BACK_US
from opslib.foundation import clock
from opslib.foundation.config.rules import SENT
from opslib.foundation.config.settings import Settings, sqlite_url
from opslib.foundation.config.workspace import Workspace
from opslib.runbooks.cases import RegressionCase, UnattendedRun, run_unattended
from opslib.runbooks.diagnosis import diagnosis
from opslib.runbooks.diagnosis.diagnosis import Diagnosis, diagnose
from opslib.services.collector import breaches_greeks
from opslib.services.situations import STATUS_WINDOW
from opslib.simulation.drills import expected_runs
from opslib.simulation.drills.scenarios import ENOUGH, PAIR, TOO_FEW, Scenario
from opslib.simulation.drills.stepped_desk import BEGINS, SPEED, STEP_S, SteppedProbes
from opslib.simulation.world.control import World
from opslib.simulation.world.faults import OURS
from opslib.telemetry.markers import Markers

OPENED_AFTER = timedelta(minutes=1)  # From the notification to the opening of the runbook.
IDLE_S = 15  # Length of a step without probes; it may be longer than a probing step.
CASE = "case"  # Kind of a row that is a frozen regression case of this home, not a scenario.
WINDOW = timedelta(minutes=5)
IMPORTED = timedelta(minutes=2)  # Trades are imported and evaluated this long before the runbook is opened.
DROPPED = (0.05, 0.1, 0.2, 0.3)
COLLECTOR_DOWN = "collector_dead"  # A fault of our side: the collector stops probing.


class Subsampled(NamedTuple):
    """
    Diagnosis of the same scenario after removing a random share of our probe samples.

    Attributes:
        dropped: The share removed, percent.
        found: The cause found.
        right: Whether it is the expected cause or an accepted alternative.
        confidence: The confidence of the diagnosis.
    """

    dropped: float
    found: str
    right: bool
    confidence: float


@dataclass(frozen=True)
class Row:
    """
    Result of one run of one scenario.

    Attributes:
        severity: Share of responses affected by the fault, percent.
        kind: One of `scenarios.KINDS`, or `CASE`.
        expected, found: The expected cause and the cause found.
        right: Whether cause (or an accepted alternative), subject and panel are right; for a control, nobody was
            notified either.
        exact: Whether the row is right with the expected cause.
        accepted: Why an alternative cause is accepted; empty for an exact or wrong result.
        hit: Number of probe responses, or contracts of a chain, that the fault affected.
        detected_after_s: World seconds until the first notification; None without one.
        steps: Number of runbook steps run.
        seconds: World seconds until the diagnosis.
        alert: The alert that caused the notification; empty without one.
        runbook: The runbook named by the alert; without a notification, the one named by the diagnosis.
        notified_severity: Severity of the notification; empty without one.
        run: Each step run, in order, with its result (`cases.SIGNS`).
        deviations: Differences from the expected run; they do not affect `right`.
        wrong: What is wrong, as text; empty if nothing is.
        answers: Each diagnostic question with its answer.
        subsampled: Diagnoses of the same scenario with fewer probe samples, to calibrate the confidence.
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
    notified_severity: str
    run: tuple[tuple[str, str], ...]
    deviations: tuple[str, ...]
    wrong: str
    answers: tuple[str, ...]
    subsampled: tuple[Subsampled, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Return the row as JSON: the fields of CONTRACT.md and the additional ones."""
        return asdict(self) | {"subsampled": [s._asdict() for s in self.subsampled]}


class _RunningScenario:
    """One scenario while it runs: a workspace at a simulated world."""

    def __init__(self, scenario: Scenario, probes: SteppedProbes):
        self.scenario, self.probes, self._active = scenario, probes, dict[str, float]()
        self.workspace = Workspace(probes.settings, lambda: probes.at)
        self._evaluator = Evaluator(probes.store, probes.settings, probes.rules, live=True)
        self._evaluated_us = clock.micros(BEGINS)
        self.notified: Transition | None = None
        self._pending = dict[str, Transition]()  # Notifications that are due, by alert.
        self._diagnose_again_at = BEGINS

    def inject(self, active: dict[str, float]) -> None:
        self._active = active
        self.probes.starved = "collector_starved" in active
        self.probes.world.inject(**{name: share for name, share in active.items() if name not in OURS})
        if self.scenario.marked:
            Markers(self.probes.store, self.probes.settings).put("restart", "announced", "DevOps")

    def advance(self, at: datetime, stops: bool = False, least: datetime = BEGINS) -> None:
        """
        Advance the world to a time.

        With `stops`, end earlier: once someone was notified and had time to open the runbook, but not before `least`.
        """
        while self.probes.at < at:
            probing = self.scenario.probed and COLLECTOR_DOWN not in self._active
            self.probes.advance((STEP_S if probing else IDLE_S) / 60, probing)
            self._evaluate()
            if (
                stops
                and self.notified
                and self.probes.at >= max(least, clock.instant(self.notified.at_us) + OPENED_AFTER)
            ):
                return

    def _evaluate(self) -> None:
        upto_us = clock.micros(self.probes.at)
        for _, became in self._evaluator.evaluate(self._evaluated_us, upto_us):
            if breaches_greeks(became, self.probes.rules):
                self.probes.fetch_chains_again()
            for t in became:
                if t.kind in ("fired", "rose") and t.severity in SENT and not t.inhibited_by:
                    self._pending.setdefault(t.alert, t)
                elif t.kind in ("resolved", "ended"):
                    self._pending.pop(t.alert, None)
        self._evaluated_us = upto_us
        if (
            self._pending
            and not self.notified
            and self.probes.at >= self._diagnose_again_at
            and not self._is_withheld()
        ):
            self.notified = next(iter(self._pending.values()))

    def _is_withheld(self) -> bool:
        """
        Return whether the notifications are withheld for now.

        They are while the diagnosis is sure that there is no fault; see `planner.due`.
        """
        self._diagnose_again_at = self.probes.at + timedelta(microseconds=HOLD_BACK_US)
        found = diagnose(self.probes.view(STATUS_WINDOW))
        sure = found.cause in NO_FAULT and found.confidence >= SURE
        return sure and all(
            sets_off(found.cause, found.subject, t.rule, t.subject, t.source) for t in self._pending.values()
        )


@contextlib.contextmanager
def _simulate(scenario: Scenario, seed: int) -> Iterator[_RunningScenario]:
    """Run a scenario in a world of its own, up to the time at which a runbook is opened."""
    with (
        tempfile.TemporaryDirectory(prefix="drill-") as folder,
        World(BEGINS, seed=seed, speed=SPEED, runs=False) as world,
        contextlib.closing(SteppedProbes(world, Path(folder), chains=True)) as probes,
    ):
        running = _RunningScenario(scenario, probes)
        quiet = BEGINS + timedelta(minutes=scenario.quiet)
        running.advance(quiet)
        before = running.notified
        for minute, active in scenario.acts:
            running.advance(quiet + timedelta(minutes=minute))
            running.inject(active)
        last = quiet + timedelta(minutes=scenario.acts[-1][0] if scenario.acts else 0.0)
        running.advance(
            last + timedelta(minutes=scenario.minutes) - scenario.fills * IMPORTED,
            not scenario.control and before is None,
            last + timedelta(minutes=scenario.least),
        )
        if scenario.fills:
            probes.import_fills()
            running.advance(probes.at + IMPORTED)
        yield running


def run_scenario(scenario: Scenario, seed: int) -> Row:
    """Run one scenario in a world of its own and assess the result."""
    with _simulate(scenario, seed) as running:
        case = _case(running)
        found = run_unattended(case.session(running.workspace))
        panel = repr(running.probes.view(WINDOW).panel(scenario.panel)) if scenario.panel else ""
        row = _row(scenario, seed, running, case, found, panel)
        return replace(row, subsampled=tuple(_subsampled(running, share, seed) for share in DROPPED))


class Recorded(NamedTuple):
    """A scenario that was simulated, as a case that can be run again without its world, and its settings."""

    case: RegressionCase
    settings: Settings


def record(scenario: Scenario, seed: int, folder: Path, more: timedelta) -> Recorded:
    """Simulate a scenario, and `more` time after its diagnosis, and keep the database."""
    with _simulate(scenario, seed) as running:
        case = replace(_case(running), store=folder / f"{scenario.name}.sqlite")
        running.advance(case.at + more)
        with (
            contextlib.closing(sqlite3.connect(running.probes.store_file)) as whole,
            contextlib.closing(sqlite3.connect(case.store)) as part,
        ):
            whole.backup(part)
        return Recorded(case, replace(running.probes.settings, home=folder, secrets={}))


def _case(running: _RunningScenario) -> RegressionCase:
    """
    Return the present moment as a case.

    Its runbook is the one that the alert names. Without a notification it is the one that the diagnosis names, else
    the general incident runbook.
    """
    notified, workspace, scenario, at = running.notified, running.workspace, running.scenario, running.probes.at
    store = Path(running.probes.store_file)
    if notified is None:
        runbook = diagnosis.diagnose_at(workspace, at, WINDOW).runbook or "incident"
        return RegressionCase(
            scenario.name, runbook, "", "", "", "", WINDOW, at, scenario.cause, scenario.subject, (), store
        )
    rule = workspace.rules[notified.rule]
    limit = "" if notified.limit is None else rule.format_limit(notified.limit)
    return RegressionCase(
        scenario.name,
        rule.runbooks[notified.subject],
        notified.rule,
        notified.subject,
        notified.severity,
        limit,
        rule.window,
        at,
        scenario.cause,
        scenario.subject,
        (),
        store,
    )


def _subsampled(running: _RunningScenario, share: float, seed: int) -> Subsampled:
    """Diagnose the same moment from a copy of the database without a random share of the probe samples."""
    probes, chance = running.probes, Random(f"{seed}/{running.scenario.name}/{share}")
    place = probes.home / f"subsampled-{share:g}.sqlite"
    with (
        contextlib.closing(sqlite3.connect(probes.store_file)) as whole,
        contextlib.closing(sqlite3.connect(place)) as part,
    ):
        whole.backup(part)
        part.executemany(
            "DELETE FROM samples WHERE seq = ?",
            [row for row in part.execute("SELECT seq FROM samples ORDER BY seq").fetchall() if chance.random() < share],
        )
        part.commit()
    workspace = Workspace(replace(probes.settings, store_url=sqlite_url(place)), lambda: probes.at)
    with contextlib.closing(workspace.store):
        found = diagnosis.diagnose_at(workspace, probes.at, WINDOW)
    return Subsampled(round(100 * share, 2), found.cause, not assess(running, found).wrong, found.confidence)


class Assessment(NamedTuple):
    """How a diagnosis compares with the injected fault: why an alternative is accepted, or what is wrong."""

    accepted: str = ""
    wrong: str = ""


def assess(running: _RunningScenario, found: Diagnosis) -> Assessment:
    """Compare a diagnosis with the injected fault."""
    scenario = running.scenario
    if found.cause == NONE and scenario.share < 1.0 and running.notified is None and running.probes.world.hit < ENOUGH:
        return Assessment(TOO_FEW)
    if found.cause not in scenario.causes:
        return Assessment(wrong=f"cause {found.cause}")
    named = {found.cause, *(other.cause for other in found.also)}
    if (
        lacking := [cause for cause in (scenario.cause, *scenario.also) if cause not in named]
        if scenario.kind == PAIR and scenario.also
        else []
    ):
        return Assessment(wrong="; ".join(f"{cause} is not named" for cause in lacking))
    if found.cause != scenario.cause:
        return Assessment(scenario.accepted[found.cause])
    return Assessment(
        wrong=f"subject {found.subject}, expected {scenario.subject}"
        if scenario.subject not in (None, found.subject)
        else ""
    )


def _row(
    scenario: Scenario, seed: int, running: _RunningScenario, case: RegressionCase, run: UnattendedRun, panel: str
) -> Row:
    notified, found, expected = running.notified, run.diagnosis, expected_runs.expected_run(scenario)
    accepted, wrong_cause = assess(running, found)
    wrong = [wrong_cause] if wrong_cause else []
    wrong += [f"panel {scenario.panel} does not show {words!r}" for words in scenario.words if words not in panel]
    if scenario.control and notified:
        wrong.append(f"false alarm: {notified.sentence}")
    begins = clock.micros(BEGINS + timedelta(minutes=scenario.injected))
    after_s = None if notified is None else (notified.at_us - begins) / 1e6
    seconds = (running.probes.at - BEGINS - timedelta(minutes=scenario.quiet)).total_seconds()
    return Row(
        scenario.name,
        round(100 * scenario.share, 2),
        seed,
        scenario.control,
        scenario.kind,
        scenario.cause,
        found.cause,
        not wrong,
        not wrong and not accepted,
        "" if wrong else accepted,
        running.probes.world.hit,
        after_s,
        len(run.results),
        seconds,
        found.confidence,
        found.subject,
        notified.alert if notified else "",
        case.runbook,
        case.severity,
        run.results,
        tuple(expected.deviations(case.runbook, case.severity, run.results)),
        "; ".join(wrong),
        _answers(found),
    )


def _answers(found: Diagnosis) -> tuple[str, ...]:
    """Return each diagnostic question with its answer."""
    return tuple(f"{c.question} {c.answer}" for c in found.evidence)


def run_case(case: RegressionCase, settings: Settings) -> Row:
    """
    Run a regression case of a home and compare the result with what people agreed on.

    Unlike a scenario, a case is right only if its run has no deviation either.
    """
    _, run, wrong, deviations = case.run(settings)
    right = not wrong and not deviations
    return Row(
        case.id,
        100.0,
        0,
        False,
        CASE,
        case.cause,
        run.diagnosis.cause,
        right,
        right,
        "",
        0,
        None,
        len(run.results),
        0.0,
        run.diagnosis.confidence,
        run.diagnosis.subject,
        f"{case.rule} of {case.subject}" if case.rule else "",
        case.runbook,
        case.severity,
        run.results,
        deviations,
        "; ".join(wrong),
        _answers(run.diagnosis),
    )


def run_scenarios(
    scenarios: Iterable[Scenario],
    seeds: Iterable[int],
    workers: int,
    progress: Callable[[Iterable[Any], int], Iterable[Any]],
) -> Iterator[Row]:
    """Run scenarios on seeds, `workers` at a time, each in its own process; yield rows as they finish."""
    pairs = [(scenario, seed) for scenario in scenarios for seed in seeds]
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        running = [pool.submit(run_scenario, scenario, seed) for scenario, seed in pairs]
        for done in progress(as_completed(running), len(running)):
            yield done.result()
