"""
Test steps of our own clock while the collector runs: the skipped time was never observed, and counts as no silence.
"""

import json
from datetime import timedelta
from pathlib import Path

import pytest

from opslib.alerting import replay
from opslib.alerting.notifications.store import NotificationStore
from opslib.alerting.store import COLUMNS
from opslib.foundation.config import settings
from opslib.foundation.config.contacts import Contacts
from opslib.foundation.storage.database import Database
from opslib.foundation.storage.snapshot_columns import SnapshotRow
from opslib.services.collector import Collector
from opslib.telemetry.probes.history import ProbeHistory
from opslib.telemetry.probes.store import Sample, SampleStore
from tests.support import snapshots
from tests.support.outside_world import RULES

JUMPS_AT_S, BY_S, ENDS_S = 600, 600, 1500


def beat(seconds: float, stepped_s: float | None = None) -> Sample:
    return Sample(
        snapshots.us(seconds),
        "beat",
        "collector",
        "ok",
        None,
        50.0,
        detail=json.dumps({"every_s": 5.0} | ({} if stepped_s is None else {"stepped_s": stepped_s})),
    )


def lived() -> tuple[list[Sample], list[SnapshotRow]]:
    """Return heartbeats and posts every five seconds by our clock, which jumps forward by ten minutes."""
    page, seconds = (
        snapshots.PageOf(-600),
        [*range(0, JUMPS_AT_S + 1, 5), *range(JUMPS_AT_S + BY_S + 5, ENDS_S + BY_S, 5)],
    )
    beats = [beat(s, float(BY_S) if s == JUMPS_AT_S + BY_S + 5 else None) for s in seconds]
    return beats, [page.add(massive_requests=1, tradier_requests=1, validations=1).snapshot(s) for s in seconds]


def risen(beats: list[Sample], posts: list[SnapshotRow]) -> set[str]:
    found = replay.replay_view(
        snapshots.counter_history(posts),
        RULES,
        snapshots.us(0),
        snapshots.us(ENDS_S + BY_S - 5),
        ProbeHistory("tradier", beats),
    )
    return {t.rule for t in found if t.kind in ("fired", "rose")}


def test_a_jump_is_no_outage() -> None:
    """
    Time that our clock skipped counts neither as missed heartbeats nor as silence of a page.

    Without the recorded jump it counts as both.
    """
    beats, posts = lived()
    assert risen(beats, posts) == set()
    assert {"heartbeat", "silence"} <= risen([b._replace(detail='{"every_s": 5.0}') for b in beats], posts)


def test_silence_after_a_jump_is_detected() -> None:
    """A page that does not post after the jump is silent."""
    beats, posts = lived()
    assert "silence" in risen(beats, [p for p in posts if p.ts_us <= snapshots.us(JUMPS_AT_S)])


def test_which_time_was_skipped() -> None:
    """Only the time between the two heartbeats was skipped; a clock set back skipped none."""
    probed = ProbeHistory("tradier", [beat(0), beat(5), beat(605, 595.0), beat(610), beat(615, -30.0), beat(620)])
    assert [probed.jumped(snapshots.us(s)) for s in (-5, 0, 3, 5, 6, 300, 604, 605, 608, 612, 617)] == [
        False,
        False,
        False,
        False,
        True,
        True,
        True,
        False,
        False,
        False,
        False,
    ]
    assert [probed.open_since(snapshots.us(s)) for s in (3, 300, 610, 619)] == [
        snapshots.OPENS,
        snapshots.OPENS,
        snapshots.at(605),
        snapshots.at(605),
    ]


def test_samples_after_the_set_back_time_are_dropped() -> None:
    """
    If the clock is set back by 300 s, earlier samples with times after the new one are dropped.

    A provider that then fails is not intermittent; older samples stay.
    """
    before = [Sample(snapshots.us(s), "liveness", "massive", "ok", 0.1, None) for s in range(0, 601, 5)]
    after = [Sample(snapshots.us(s), "liveness", "massive", "server_5xx", 0.1, None) for s in range(308, 400, 5)]
    probed = ProbeHistory(
        "tradier",
        [
            *before,
            *(beat(s) for s in range(0, 601, 5)),
            beat(306, -300.0),
            *after,
            *(beat(s) for s in range(311, 400, 5)),
        ],
    )
    found = [s.outcome for s in probed.within("liveness", "massive", snapshots.window(0, 600))]
    assert found == ["ok"] * 61 + ["server_5xx"] * len(after)
    assert [b.ts_us for b in probed.within("beat", "collector", snapshots.window(295, 600))][:3] == [
        snapshots.us(300),
        snapshots.us(305),
        snapshots.us(306),
    ]
    assert probed.missed_heartbeats(snapshots.us(400)) == 0 and probed.coverage(
        snapshots.window(0, 400)
    ) == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize("jumps", [True, False])
def test_the_collector_records_a_jump_before_it_evaluates(tmp_path: Path, jumps: bool) -> None:
    """
    If its clock jumps, the collector records it in a heartbeat and does not evaluate the skipped time.

    If only its heartbeats stop, an alert fires.
    """
    instant = [snapshots.at(0)]

    store = Database(f"sqlite:///{tmp_path / 'store.sqlite'}", lambda: instant[0])
    samples = SampleStore(store, "desk")
    samples.keep([beat(0)])
    judge = Collector(store, settings.load(tmp_path, None, {}), RULES, "one", lambda: instant[0])
    if not jumps:
        judge._record_clock_jump = lambda: None  # type: ignore[method-assign]
    for turn in range(1, 82):  # Each step advances the evaluator's clock by a second, one step by ten minutes.
        judge.evaluate()
        # No real time passes, so `_record_clock_jump` sees all of it as a jump.
        instant[0] += timedelta(seconds=600 if turn == 60 else 1)
        if jumps or turn != 60:
            samples.keep([beat((instant[0] - snapshots.at(0)).total_seconds())._replace(detail='{"every_s": 1.0}')])
    risen = {dict(zip(COLUMNS, row, strict=True))["kind"] for row in judge.record.transitions(2**62)}
    steps_s = [s.details().get("stepped_s") for s in samples.between(0, 2**62) if "stepped_s" in s.detail]
    assert ("fired" in risen) is (not jumps) and (max(steps_s, default=0.0) > 590) is jumps


def test_a_clock_set_back_is_notified_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    No time is evaluated twice. People are notified once that no alert is evaluated until the clock has caught up.

    Then the evaluation continues.
    """
    instant, steady = [snapshots.at(600)], [1000.0]
    monkeypatch.setattr("opslib.foundation.storage.database.time.monotonic", lambda: steady[0])
    store = Database(f"sqlite:///{tmp_path / 'store.sqlite'}", lambda: instant[0])
    judge = Collector(store, settings.load(tmp_path, None, {}), RULES, "one", lambda: instant[0])
    desk = NotificationStore(store, "desk")
    assert judge.evaluate_due() is not None and desk.plan(Contacts(), RULES) == []
    upto_us = judge.record.evaluated()[1]
    made, evaluated = list[str](), list[int | None]()
    for s in range(0, 700, 5):  # Set back by ten minutes.
        instant[0], steady[0] = snapshots.at(s), steady[0] + 5
        evaluated.append(judge.evaluate_due())
        made += desk.plan(Contacts(), RULES)
        if s == 30:
            (alert,) = desk.message(made[0])["alerts"]
            assert (alert["rule"], alert["subject"], alert["severity"]) == ("clock_skew", "monitor", "critical"), alert
            assert alert["sentence"].startswith("The clock of the collector's machine was set back by 9 min 5"), alert
    assert [n for n, found in enumerate(evaluated) if found] == list(
        range(len(evaluated) - sum(map(bool, evaluated)), len(evaluated))
    ) and sum(map(bool, evaluated)) > 15
    assert [desk.message(name)["kind"] for name in made] == ["firing", "over"] and judge.record.evaluated()[1] > upto_us
