"""The recorded day, scripted days and days with faults: which alerts fire, when, and that no others do."""

import functools
import json
import random
from datetime import date, timedelta

import pytest

from opslib.alerting import evaluator, history, replay
from opslib.foundation import clock, market_calendar, time_parsing
from opslib.foundation.config import rules, settings
from opslib.foundation.storage.database import Database
from opslib.telemetry import importing
from opslib.telemetry.pages.store import SnapshotStore
from tests.support import days
from tests.support.snapshots import PageOf, at, post, store, us

DESK = settings.Settings(home=None, app="desk")


@functools.cache
def table():
    """Return the shipped rules."""
    return rules.load()


def fired(kept, opens, closes):
    """Return every severity change between two times, from a new replay."""
    found, standing = replay.replay_session(kept, DESK, table(), clock.micros(opens), clock.micros(closes))
    return history.severity_changes(found, table(), standing)


def sent(found, rule, subject="app"):
    """Return the notified severity changes of one rule."""
    return [r for r in found if r.rule == rule and r.subject == subject and r.sent]


@pytest.fixture(scope="module")
def recorded_rises(recorded, tmp_path_factory):
    """The severity changes of the recorded day, imported a year late."""
    kept = Database(f"sqlite:///{tmp_path_factory.mktemp('recorded') / 'store.sqlite'}")
    importing.read_file(kept, "desk", recorded / "snapshots.jsonl.gz", known_at_ts=False, progress=lambda lines: lines)
    session = market_calendar.session(date(2025, 11, 18))
    return fired(kept, session.opens, session.closes)


def ny(text):
    """Return a time of the recorded day, New York."""
    return clock.micros(time_parsing.parse(f"2025-11-18T{text}"))


def test_the_outage_is_critical_in_three_minutes_and_resolved_in_fifteen(recorded_rises):
    """Massive is down from 11:20 to 11:32; the alert is critical by 11:23 and resolved by 11:47."""
    rows = sent(recorded_rises, "availability", "massive")
    (critical,) = [r for r in rows if r.severity == "critical"]
    assert ny("11:20") < critical.fired_us <= ny("11:23")
    assert all(r.over_us <= ny("11:47") for r in rows) and rows[-1].severity == "escalate"


def test_the_burst_is_notified_within_five_minutes(recorded_rises):
    """Gamma is zero too often from 10:10 to 10:25; that alert inhibits the one about invalid Greeks."""
    rows = sent(recorded_rises, "gamma_zero")
    assert ny("10:10") < rows[0].fired_us <= ny("10:15") and rows[-1].severity == "critical"
    valid = [r for r in recorded_rises if r.rule == "greeks_valid"]
    assert valid and all(r.inhibited_by == rows[0].alert for r in valid)


def test_the_socket_is_critical_within_ninety_seconds(recorded_rises):
    """The socket is down from 14:30 to 14:34; the alert is critical by 14:31:30 and resolved by 14:35."""
    (critical,) = sent(recorded_rises, "websocket_down")
    assert (
        critical.severity == "critical"
        and ny("14:30") < critical.fired_us <= ny("14:31:30")
        and critical.over_us <= ny("14:35")
    )


def test_the_variance_gets_worse_twice(recorded_rises):
    """The variance exceeds 5 at 13:15 until its page load ends, and 10 from 15:15 to the close."""
    rows = [r for r in recorded_rises if r.rule == "backtest_variance"]
    assert [(r.severity, r.state) for r in rows] == [("warning", "ended"), ("warning", "firing"), ("notify", "firing")]
    assert ny("13:15") <= rows[0].fired_us <= ny("13:20") and ny("15:15") <= rows[2].fired_us <= ny("15:20")
    assert rows[2].peak == pytest.approx(11.13, abs=0.01)


def test_errors_are_inhibited_by_the_outage(recorded_rises):
    """The hourly error count is above its thresholds until 12:32, and no one is notified of it."""
    rows = [r for r in recorded_rises if r.rule == "errors"]
    outage = sent(recorded_rises, "availability", "massive")[0].alert
    assert {r.severity for r in rows} == {"warning", "critical"} and all(r.inhibited_by == outage for r in rows)
    assert max(r.over_us for r in rows) > ny("12:32")


def test_no_other_alert_fires(recorded_rises):
    """No other rule notifies, and nothing fires outside the faults and their windows."""
    assert {(r.rule, r.subject) for r in recorded_rises if r.sent} == {
        ("availability", "massive"),
        ("gamma_zero", "app"),
        ("websocket_down", "app"),
        ("backtest_variance", "app"),
    }
    troubles = [("10:10", "10:27"), ("11:20", "11:35"), ("13:15", "13:20"), ("14:15", "14:34"), ("15:15", "15:20")]
    assert [r.sentence for r in recorded_rises if not any(ny(a) <= r.fired_us <= ny(b) for a, b in troubles)] == []


@pytest.mark.parametrize("seed", [1, *(pytest.param(n, marks=pytest.mark.slow) for n in range(2, 5))])
def test_a_quiet_day_notifies_no_one(tmp_path, seed):
    """A day without faults notifies no one, whatever the seed."""
    kept = days.filled(f"sqlite:///{tmp_path / 'store.sqlite'}", seed=seed, quiet=True)
    script = days.scripted(seed=seed, quiet=True)
    assert [r.sentence for r in fired(kept, script.opens, script.closes) if r.sent] == []


@pytest.mark.parametrize("seed", [2, 3])
def test_a_scripted_day_notifies_its_problems(tmp_path, seed):
    """With two pages open every scripted fault is notified in time, and nothing else is."""
    kept = days.filled(f"sqlite:///{tmp_path / 'store.sqlite'}", seed=seed)
    script = days.scripted(seed=seed)
    found = fired(kept, script.opens, script.closes)
    began = {t.name: clock.micros(t.begins) for t in script.faults}
    ends = {t.name: clock.micros(t.ends) for t in script.faults}

    def first(rule, subject="app"):
        return min(r.fired_us for r in sent(found, rule, subject)) / 1e6

    assert 0 < first("availability", "massive") - began["massive_outage"] / 1e6 <= 180
    assert 0 < first("gamma_zero") - began["gamma_burst"] / 1e6 <= 300
    assert 0 < first("websocket_down") - began["websocket_loss"] / 1e6 <= 95
    assert max(r.over_us for r in sent(found, "availability", "massive")) <= ends["massive_outage"] + 900_000_000
    assert {r.rule for r in found if r.sent} <= {"availability", "gamma_zero", "websocket_down", "backtest_variance"}


def page_until(seconds, every=5.0, **steps):
    """Return posts of a page with steady counts, and the page."""
    made, found = PageOf(-600).add(massive_requests=500, validations=500), []
    k = 0
    while every * k <= seconds:
        made.add(**{"massive_requests": 3, "validations": 3} | steps)
        found.append(post(every * k, made.body(every * k)))
        k += 1
    return found, made


def test_missing_data_resolves_nothing(tmp_path):
    """
    When the page stops posting during an outage, the alert keeps firing, becomes unknown, and ends with the session.
    """
    kept = store(tmp_path)
    posts, made = page_until(600)
    for k in range(121, 181):
        made.add(massive_requests=3, massive_successes=0, massive_failures=3, validations=3)
        posts.append(post(5.0 * k, made.body(5.0 * k)))
    SnapshotStore(kept).write("desk", posts, known_at_ts=True)
    found, standing = replay.replay_session(kept, DESK, table(), us(0), us(3600))
    outage = [t for t in found if (t.rule, t.subject) == ("availability", "massive")]
    assert [t.kind for t in outage if t.at_us > us(900)] == ["unknown"] and outage[-1].at_us > us(900)
    assert standing.alerts["availability", "massive", "page"].state == "unknown"
    late, _ = replay.replay_session(kept, DESK, table(), us(0), us(6.5 * 3600 + 5))
    assert {t.kind for t in late if t.rule == "availability" and t.at_us == us(6.5 * 3600 + 5)} == {"ended"}


def test_nothing_counted_is_no_data(tmp_path):
    """Without validations the rate is 0 ÷ 0: a firing alert stays, and no new one begins."""
    kept = store(tmp_path)
    posts, made = page_until(600)
    for k in range(121, 400):
        bad = k < 180
        made.add(massive_requests=3, **({"validations": 3, "greeks_valid": 0, "greeks_invalid": 3} if bad else {}))
        posts.append(post(5.0 * k, made.body(5.0 * k)))
    SnapshotStore(kept).write("desk", posts, known_at_ts=True)
    kinds = [t.kind for t in replay.replay_session(kept, DESK, table(), us(0), us(1995))[0] if t.rule == "greeks_valid"]
    assert "fired" in kinds and not {"resolved", "ended"} & set(kinds) and kinds[-1] == "unknown"


def test_a_page_reload_fires_nothing(tmp_path):
    """A page reload that resets the counters fires nothing."""
    kept = store(tmp_path)
    posts, made = page_until(900)
    made.refresh(903)
    for k in range(182, 400):
        made.add(massive_requests=3, validations=3)
        posts.append(post(5.0 * k, made.body(5.0 * k)))
    SnapshotStore(kept).write("desk", posts, known_at_ts=True)
    assert replay.replay_session(kept, DESK, table(), us(0), us(1995))[0] == []


def test_flapping_is_notified_once(tmp_path):
    """A flapping socket and a variance around its threshold are notified once each."""
    kept = store(tmp_path)
    made, posts = PageOf(-600, trades=6), []
    for k in range(361):
        now = 5.0 * k
        made.held["backtest_variance_pp"] = 10.2 if k % 7 < 4 else 9.8
        made.held["websocket_connected"] = not (600 <= now < 675 or (675 <= now < 1200 and k % 6 < 5 and k % 20 > 0))
        posts.append(post(now, made.add(massive_requests=3).body(now)))
    SnapshotStore(kept).write("desk", posts, known_at_ts=True)
    found = fired(kept, at(0), at(1800))
    assert [r.severity for r in sent(found, "backtest_variance")] == [] or len(sent(found, "backtest_variance")) == 1
    assert len(sent(found, "websocket_down")) == 1


def test_both_providers_down_is_one_problem(tmp_path):
    """
    When both providers are down, one alert of the app is notified, and the providers' own critical alerts are
    inhibited.
    """
    kept = store(tmp_path)
    made, posts = PageOf(-600).add(massive_requests=500, tradier_requests=500, validations=500), []
    for k in range(360):
        dead = k >= 120
        made.add(
            massive_requests=3,
            tradier_requests=3,
            validations=3,
            **(
                {"massive_successes": 0, "massive_failures": 3, "tradier_successes": 0, "tradier_failures": 3}
                if dead
                else {}
            ),
        )
        posts.append(post(5.0 * k, made.body(5.0 * k)))
    SnapshotStore(kept).write("desk", posts, known_at_ts=True)
    found = fired(kept, at(0), at(1795))
    (ours,) = sent(found, "availability")
    assert (ours.severity, ours.limit) == ("escalate", 0.95) and "no provider is available" in ours.sentence
    single = [r for r in found if r.rule == "availability" and r.subject != "app"]
    assert all(r.inhibited_by == ours.alert for r in single if r.severity in ("critical", "escalate"))


def test_a_page_that_closes_ends_its_alert(tmp_path):
    """When a page with a closed socket is itself closed, its alert is ended, not resolved."""
    kept = store(tmp_path)
    bad, good, posts = PageOf(-600, page_id="bad"), PageOf(-500, page_id="good"), []
    for k in range(300):
        now = 5.0 * k
        posts.append(post(now + 1, good.add(massive_requests=3).body(now + 1)))
        if k < 120:
            bad.held["websocket_connected"] = k < 60
            posts.append(post(now, bad.add(massive_requests=3).body(now)))
    SnapshotStore(kept).write("desk", posts, known_at_ts=True)
    rows = [r for r in fired(kept, at(0), at(1490)) if r.rule == "websocket_down"]
    assert rows and {r.state for r in rows} == {"ended"}
    assert at(595) < clock.instant(rows[0].over_us) <= at(595) + timedelta(seconds=310)


def test_a_slow_burn_of_the_budget_fires(tmp_path):
    """
    Nine percent of failures exceed six times the budget: the burn rate fires as notify, inhibited by the availability
    alert.
    """
    kept = store(tmp_path)
    made, posts, rng = PageOf(-600).add(massive_requests=500, validations=500), [], random.Random(5)
    for k in range(1200):
        failed = sum(rng.random() < 0.09 for _ in range(8)) if k >= 240 else 0
        made.add(massive_requests=8, massive_successes=8 - failed, massive_failures=failed, validations=3)
        posts.append(post(5.0 * k, made.body(5.0 * k)))
    SnapshotStore(kept).write("desk", posts, known_at_ts=True)
    rows = [r for r in fired(kept, at(0), at(5995)) if r.rule == "availability_burn"]
    assert [r.severity for r in rows] == ["notify"] and "the error budget of 30 days would last" in rows[0].sentence
    # The availability alert of the same provider has already notified with a higher severity.
    assert rows[0].inhibited_by


@pytest.mark.slow
def test_a_late_import_gives_the_same_transitions(tmp_path):
    """A day imported late, in any order, gives the same transitions as a day received live."""
    live, late = Database(f"sqlite:///{tmp_path / 'live.sqlite'}"), Database(f"sqlite:///{tmp_path / 'late.sqlite'}")
    posts = list(days.posts(seed=4))
    SnapshotStore(live).write("desk", posts, known_at_ts=True)
    random.Random(1).shuffle(posts)
    for i in range(0, len(posts), 1500):
        SnapshotStore(late).write("desk", posts[i : i + 1500])
    script = days.scripted(seed=4)
    both = [
        replay.replay_session(kept, DESK, table(), clock.micros(script.opens), clock.micros(script.closes) + 5_000_000)[
            0
        ]
        for kept in (live, late)
    ]
    assert both[0] == both[1] and len(both[0]) > 20


def test_evaluation_times_are_those_of_sessions():
    """
    Holidays and weekends have no evaluation times, a half day has fewer, and each session has one after its close.
    """

    def count(a, b):
        return sum(
            len(open_instants) + (after is not None)
            for _, open_instants, after in evaluator.sessions(
                clock.micros(time_parsing.parse(a)), clock.micros(time_parsing.parse(b))
            )
        )

    full, half = 390 * 12 + 1, 210 * 12 + 1
    assert count("2025-11-27T00:00", "2025-11-27T23:00") == 0
    assert count("2025-11-28T00:00", "2025-11-28T23:00") == half
    assert count("2026-03-06T00:00", "2026-03-09T23:00") == 2 * full
    assert count("2026-03-09T10:00:01", "2026-03-09T10:00:10") == 2
    assert (
        count("2026-03-09T16:00:00", "2026-03-09T16:00:04") == 0
        and count("2026-03-09T16:00:00", "2026-03-09T16:00:05") == 1
    )


def test_rows_match_the_contract(recorded_rises):
    """Every row of `ops alerts` has the contract's keys and times in UTC with Z."""
    wanted = {
        "alert",
        "rule",
        "subject",
        "source",
        "severity",
        "pending_at",
        "fired_at",
        "resolved_at",
        "peak_value",
        "limit",
        "inhibited_by",
        "incident",
        "rules_hash",
    }
    for row in json.loads(json.dumps([r.as_json(table()) for r in recorded_rises])):
        assert (
            wanted <= set(row)
            and row["fired_at"].endswith("Z")
            and row["pending_at"] <= row["fired_at"]
            and row["rules_hash"] == table().hash
        )
