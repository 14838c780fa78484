"""
The demo's collector, beside the day that is lived: what it keeps does not depend on how far the day has gone on
meanwhile.
"""

from datetime import timedelta
from pathlib import Path

import pytest

from opslib.alerting.store import AlertStore
from opslib.foundation import clock
from opslib.foundation.config import rules, settings
from opslib.foundation.errors import OpsError
from opslib.foundation.storage.database import Database
from opslib.services.collector import Collector
from opslib.simulation.demo_day.evaluator_process import Judge
from opslib.simulation.demo_day.home_lock import HomeLock
from opslib.telemetry.pages.store import SnapshotStore
from tests.support import days

BEGINS, ENDS = days.at("11:18"), days.at("11:30")


def test_judged_beside_the_day_is_judged_afterwards(tmp_path: Path) -> None:
    """Posts that come while an outage is judged change nothing of what becomes of its alerts."""
    posts = [p for p in days.posts() if clock.micros(BEGINS) < p.ts_us <= clock.micros(ENDS)]
    beside, after = settings.load(tmp_path / "beside", "demo", {}), settings.load(tmp_path / "after", "demo", {})
    now = BEGINS
    stores = [Database(desk.url, lambda: now) for desk in (beside, after)]
    with HomeLock(beside) as lock, Judge(beside, lock.descriptor) as judge:
        for i, post in enumerate(posts):
            now = clock.instant(post.ts_us)
            for store in stores:
                SnapshotStore(store).write("demo", [post])
            if i % 40 == 0:
                judge.go_on(now)  # And the next posts are written while it judges.
        now = ENDS + timedelta(seconds=10)
        judge.go_on(now)
        judge.through()
    Collector(stores[1], after, rules.load(), "one", lambda: now).judge()
    lived, straight = (AlertStore(store, "demo").transitions(2**62) for store in stores)
    assert lived == straight and any("availability" in row for row in lived)
    assert AlertStore(stores[0], "demo").judged() == AlertStore(stores[1], "demo").judged()


def test_a_collector_that_died_is_no_quiet_day(tmp_path: Path) -> None:
    """Where the collector's process has ended, the demo ends too, and does not wait for it."""
    desk = settings.load(tmp_path, "demo", {})
    with HomeLock(desk) as lock, Judge(desk, lock.descriptor) as judge:
        judge._process.kill()
        judge._process.wait()
        with pytest.raises(OpsError):
            judge.go_on(BEGINS)
            judge.through()
