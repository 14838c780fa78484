"""Test the demo's collector, which evaluates while posts are written: the result does not depend on the timing."""

from datetime import timedelta
from pathlib import Path

import pytest

from opslib.alerting.store import AlertStore
from opslib.foundation import clock
from opslib.foundation.config import rules, settings
from opslib.foundation.errors import OpsError
from opslib.foundation.storage.database import Database
from opslib.services.collector import Collector
from opslib.simulation.demo_day.evaluator_process import EvaluatorPart
from opslib.simulation.demo_day.home_lock import HomeLock
from opslib.telemetry.pages.store import SnapshotStore
from tests.support import days

BEGINS, ENDS = days.at("11:18"), days.at("11:30")


def test_parallel_evaluation_equals_a_later_one(tmp_path: Path) -> None:
    """Posts that arrive during an evaluation do not change its result."""
    posts = [p for p in days.posts() if clock.micros(BEGINS) < p.ts_us <= clock.micros(ENDS)]
    beside, after = settings.load(tmp_path / "beside", "demo", {}), settings.load(tmp_path / "after", "demo", {})
    now = BEGINS
    stores = [Database(desk.url, lambda: now) for desk in (beside, after)]
    with HomeLock(beside) as lock, EvaluatorPart(beside, lock.descriptor) as evaluator:
        for i, post in enumerate(posts):
            now = clock.instant(post.ts_us)
            for store in stores:
                SnapshotStore(store).write("demo", [post])
            if i % 40 == 0:
                evaluator.advance(now)  # The next posts are written during the evaluation.
        now = ENDS + timedelta(seconds=10)
        evaluator.advance(now)
        evaluator.wait_until()
    Collector(stores[1], after, rules.load(), "one", lambda: now).evaluate_due()
    parallel, later = (AlertStore(store, "demo").transitions(2**62) for store in stores)
    assert parallel == later and any("availability" in row for row in parallel)
    assert AlertStore(stores[0], "demo").evaluated() == AlertStore(stores[1], "demo").evaluated()


def test_a_dead_collector_ends_the_demo(tmp_path: Path) -> None:
    """If the collector process dies, the demo fails instead of waiting for it."""
    desk = settings.load(tmp_path, "demo", {})
    with HomeLock(desk) as lock, EvaluatorPart(desk, lock.descriptor) as evaluator:
        evaluator._process.kill()
        evaluator._process.wait()
        with pytest.raises(OpsError):
            evaluator.advance(BEGINS)
            evaluator.wait_until()
