"""
Knows how a runbook is drilled: a world of its own is started as another process, something is the matter with it, alerts
fire, the runbook that the first of them names is walked unattended, and only then is what it found held against what was injected.
"""

import contextlib
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from opslib import clock
from opslib.alerts import Transition
from opslib.demo.lever import Lever
from opslib.demo.stepped import BEGINS, SPEED, STEP_S, Looking
from opslib.demo.trials import SLIGHT, Trial
from opslib.desk import Desk
from opslib.diagnosis import Diagnosis
from opslib.marks import Marks
from opslib.practice import PRACTICE
from opslib.rules import SENT
from opslib.watch import Watch
from opslib.workbook import Book

OPENED_AFTER = timedelta(minutes=1)  # A person opens the runbook so long after they were told.
CHAINS_EVERY = 8  # Steps: each two minutes, oftener than a desk fetches them, so that a drill need not last a quarter of an hour.
WINDOW = timedelta(minutes=5)
NOT_LOOKING = "collector_dead"  # This one is ours: we stop looking.


@dataclass(frozen=True)
class Row:
    """
    One trial, drilled once.

    Attributes:
        severity: The share of answers that was hit, percent.
        expected, found: The cause that is right, and the one that was found.
        right: Cause, subject and panel are right; of a control, nobody was told besides.
        detected_after_s: World seconds until somebody was told; None where nobody was.
        steps: So many steps of the runbook were walked.
        seconds: World seconds until the cause was on record.
        alert, runbook: By which alert, and which runbook it named; empty where nobody was told.
        wrong: What is not right, in words.
        seen: Every question that was asked, with its answer.
    """

    fault: str
    severity: float
    seed: int
    control: bool
    expected: str
    found: str
    right: bool
    detected_after_s: float | None
    steps: int
    seconds: float
    confidence: float
    subject: str | None
    alert: str
    runbook: str
    wrong: str
    seen: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """As CONTRACT.md has it, and what else is known."""
        return asdict(self)


class _Living:
    """A desk at a world for as long as a trial lasts."""

    def __init__(self, trial: Trial, looking: Looking):
        self.trial, self.looking, self._steps, self._active = trial, looking, 0, dict[str, float]()
        self.desk = Desk(looking.settings, lambda: looking.at)
        self._watch = Watch(looking.store, looking.settings, looking.rules, live=True)
        self._judged_us = clock.micros(BEGINS)
        self.told: Transition | None = None

    def be(self, active: dict[str, float]) -> None:
        self._active = active
        self.looking.lever.be(**active)
        if self.trial.marked:
            Marks(self.looking.store, self.looking.settings).put("restart", "announced", "DevOps")

    def until(self, at: datetime, stops: bool = False) -> None:
        """Let time go by up to a moment, or until somebody was told and has had time to open the runbook."""
        while self.looking.at < at:
            looks = self.trial.looked_at and NOT_LOOKING not in self._active
            self.looking.live(STEP_S / 60, looks, looks and self._steps % CHAINS_EVERY == 0)
            self._steps += 1
            self._judge()
            if stops and self.told and self.looking.at >= clock.instant(self.told.at_us) + OPENED_AFTER:
                return

    def _judge(self) -> None:
        upto_us = clock.micros(self.looking.at)
        for _, became in self._watch.judge(self._judged_us, upto_us):
            loud = [t for t in became if t.kind in ("fired", "rose") and t.severity in SENT and not t.inhibited_by]
            self.told = self.told or next(iter(loud), None)
        self._judged_us = upto_us


def drilled(trial: Trial, seed: int) -> Row:
    """Drill one trial in a world of its own."""
    with tempfile.TemporaryDirectory(prefix="drill-") as folder, Lever(BEGINS, seed=seed, speed=SPEED, runs=False) as lever, contextlib.closing(Looking(lever, Path(folder))) as looking:
        living = _Living(trial, looking)
        quiet = BEGINS + timedelta(minutes=trial.quiet)
        living.until(quiet)
        before = living.told
        for minute, active in trial.acts:
            living.until(quiet + timedelta(minutes=minute))
            living.be(active)
        last = quiet + timedelta(minutes=trial.acts[-1][0] if trial.acts else 0.0)
        living.until(last + timedelta(minutes=trial.minutes), stops=not trial.control and before is None)
        found, steps, runbook = _verdict(living)
        said = repr(looking.view(WINDOW).panel(trial.panel)) if trial.panel else ""
        return _row(trial, seed, living, found, steps, runbook, said, (looking.at - quiet).total_seconds())


def _verdict(living: _Living) -> tuple[Diagnosis, int, str]:
    """What the runbook that the alert names finds, walked without anybody there; where nobody was told, what a look at everything finds."""
    told, desk = living.told, living.desk
    if told is None:
        return desk.diagnose(living.looking.at, WINDOW), 0, ""
    rule = desk.rules[told.rule]
    runbook = rule.runbooks[told.subject]
    book = Book(desk, runbook, PRACTICE, subject=told.subject, severity=told.severity, limit="" if told.limit is None else rule.told(told.limit), window=f"{rule.window.total_seconds():.0f}s", as_of=living.looking.at)
    walked = [book.step(step.name) for step in book.steps]
    return book.diagnosis, len(walked), runbook


def _row(trial: Trial, seed: int, living: _Living, found: Diagnosis, steps: int, runbook: str, said: str, seconds: float) -> Row:
    told, wrong = living.told, list[str]()
    nothing_done = trial.share <= SLIGHT and told is None and found.cause == "none"  # So few are hit that nothing need be done.
    if found.cause not in trial.causes and not nothing_done:
        wrong.append(f"cause {found.cause}")
    elif not nothing_done and trial.subject not in (None, found.subject):
        wrong.append(f"subject {found.subject}, not {trial.subject}")
    wrong += [f"{cause} not found beside it" for cause in trial.also if not any(cause == a.partition(" of ")[0] for a in found.also)]
    wrong += [f"the panel {trial.panel} does not say {words!r}" for words in trial.words if words not in said]
    if trial.control and told:
        wrong.append(f"somebody was told: {told.sentence}")
    after_s = None if told is None else (told.at_us - clock.micros(BEGINS + timedelta(minutes=trial.injected))) / 1e6
    seen = tuple(f"{c.question} {c.answer}" for c in found.checks)
    return Row(trial.name, round(100 * trial.share, 2), seed, trial.control, trial.causes[0], found.cause, not wrong, after_s, steps, seconds, found.confidence, found.subject, told.alert if told else "", runbook, "; ".join(wrong), seen)


def drill(trials: Iterable[Trial], seeds: Iterable[int], workers: int, progress: Callable[[Iterable, int], Iterable]) -> Iterator[Row]:
    """Drill trials on seeds, so many at once, each in a process of its own; rows as they come."""
    asked = [(trial, seed) for trial in trials for seed in seeds]
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        running = [pool.submit(drilled, trial, seed) for trial, seed in asked]
        for done in progress(as_completed(running), len(running)):
            yield done.result()
