"""
Stored alerts: one process evaluates at a time, changes are atomic, and a killed process loses and repeats nothing.
"""

import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import sqlalchemy as sa

from opslib.alerting import replay
from opslib.alerting.alerts import Alert, Transition
from opslib.alerting.store import COLUMNS, AlertStore
from opslib.foundation import clock, time_parsing
from opslib.foundation.config import rules, settings
from opslib.foundation.errors import StoreError
from opslib.foundation.storage.database import Database
from opslib.services.collector import Collector
from opslib.telemetry.pages.store import SnapshotStore
from tests.support.snapshots import PageOf, at, post, us

KILLS = {"sqlite": 300, "postgresql": 60}  # The two runs differ only in the database.
LASTS_S = 2400


def desk(app):
    """Return the settings of a desk that needs only an app name."""
    return settings.Settings(home=Path(tempfile.gettempdir()) / "ops-no-home", app=app)


def troubled(seed):
    """
    Return forty minutes of posts with an outage, a burst of zero gamma and a lost socket; some posts are late, some
    duplicate.
    """
    rng, made, found = random.Random(seed), PageOf(-600).add(massive_requests=500, validations=500), []
    for k in range(LASTS_S // 5 + 1):
        now = 5.0 * k
        dead, burst = 700 <= now < 1000, 300 <= now < 520
        zero = sum(rng.random() < 0.4 for _ in range(3)) if burst else 0
        made.held["websocket_connected"] = not 1300 <= now < 1420
        made.add(
            massive_requests=6,
            massive_successes=0 if dead else 6,
            massive_failures=6 if dead else 0,
            errors=2 if dead else 0,
            validations=3,
            greeks_valid=3 - zero,
            gamma_zero=zero,
        )
        if rng.random() > 0.03:
            found.append((now, rng.choice((0, 0, 0, 0.5, 4, 20)), made.body(now)))
    return found


def written(store, app, posts):
    """Write posts as they are received: each becomes known some seconds after its time."""
    for now, late, body in sorted(posts, key=lambda p: p[0] + p[1]):
        store._now = lambda now=now, late=late: at(now + late)
        SnapshotStore(store).write(app, [post(now, body)])


def recorded(record):
    """Return the whole record as JSON, without the times of writing."""
    rows = [dict(zip(COLUMNS, row, strict=True)) for row in record.transitions(2**62)]
    outbox = [(name.partition("/")[2], edge, list(row)) for name, edge, row in record.outbox()]
    return json.dumps([rows, outbox, record.states()], indent=1, sort_keys=True)


def evaluated(store, app, holder, now):
    """Evaluate everything due at `now`."""
    return Collector(store, desk(app), rules.load(), holder, lambda: now).evaluate_due()


@pytest.fixture
def straight(store_url):
    """A database with forty minutes of posts, and the record of an uninterrupted run."""
    store = Database(store_url, lambda: at(0))
    written(store, "straight", troubled(7))
    store._now = lambda: at(LASTS_S + 10)
    assert evaluated(store, "straight", "one", at(LASTS_S + 10)) == LASTS_S // 5 + 1
    text = recorded(AlertStore(store, "straight"))
    assert {"fired", "rose", "fell", "resolved"} <= {row["kind"] for row in json.loads(text)[0]} and len(
        json.loads(text)[1]
    ) >= 6
    return store, text


def test_live_evaluation_equals_one_run_at_the_end(store_url):
    """Live evaluation by changing collectors leaves the same record as one run at the end."""
    store = Database(store_url, lambda: at(0))
    rng, waiting, now, n = random.Random(3), sorted(troubled(7), key=lambda p: p[0] + p[1]), 0.0, 0
    assert evaluated(store, "live", "c0", at(0)) == 0
    while now < LASTS_S + 10:
        now = min(now + rng.uniform(0.5, 40), LASTS_S + 10)
        while waiting and waiting[0][0] + waiting[0][1] <= now:
            when, late, body = waiting.pop(0)
            store._now = lambda when=when, late=late: at(when + late)
            for app in ("live", "straight"):
                SnapshotStore(store).write(app, [post(when, body)])
        AlertStore(store, "live").leave(f"c{n}")
        n += rng.random() < 0.3
        store._now = lambda now=now: at(now)
        evaluated(store, "live", f"c{n}", at(now))
    evaluated(store, "straight", "one", at(LASTS_S + 10))
    assert n > 20 and recorded(AlertStore(store, "live")) == recorded(AlertStore(store, "straight"))


@pytest.mark.slow
def test_kills_do_not_change_the_record(store_url, straight):
    """Runs killed at hundreds of random moments leave the record of an uninterrupted run, byte for byte."""
    store, text = straight
    store.close()
    wanted = KILLS[store_url.split(":")[0]]
    seed = random.SystemRandom().randrange(10**6)
    print(f"seed {seed}")
    # Runs in a separate process: a small process forks quickly and has no open connection.
    ended = subprocess.run(
        [sys.executable, "-m", "tests.support.killing", store_url, str(seed), str(wanted)],
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr
    kills, rounds = json.loads(ended.stdout)
    assert kills >= wanted and rounds >= 2
    assert {recorded(AlertStore(store, f"round{n}")) for n in range(rounds)} == {text}


def test_one_process_evaluates_at_a_time(store_url):
    """A process without the lease evaluates nothing. An expired lease is lost, also for an evaluation in progress."""
    store = Database(store_url, lambda: at(100))
    record = AlertStore(store, "desk")
    mine = record.acquire_lease("a")
    assert mine and record.acquire_lease("b") is None and record.acquire_lease("a")
    store._now = lambda: at(131)
    theirs = record.acquire_lease("b")
    assert theirs and not record.keep(mine, us(0), us(5), [], [], {}) and record.keep(theirs, us(0), us(5), [], [], {})
    assert record.evaluated() == (us(0), us(5))
    assert not record.keep(theirs, us(0), us(10), [], [], {})  # It was evaluated up to second 5 in the meantime.
    record.leave("b")
    assert record.acquire_lease("a")


def test_an_evaluation_is_stored_atomically(store_url):
    """If one part of an evaluation cannot be written, nothing is written."""
    store = Database(store_url, lambda: at(100))
    record = AlertStore(store, "desk")
    turn = record.acquire_lease("a")
    row = Transition(
        us(5),
        "errors",
        "app",
        "page",
        "errors-app",
        "fired",
        "critical",
        51.0,
        50.0,
        us(0),
        None,
        None,
        "errors",
        "hash",
    )
    state = Alert("errors", "app", "page").as_json()
    with pytest.raises(StoreError):
        record.keep(turn, us(0), us(5), [row, row._replace(kind=None)], [state], {0: "firing"})
    assert (record.evaluated(), record.states(), record.outbox(), record.transitions(2**62)) == (None, [], [], [])
    assert record.keep(turn, us(0), us(5), [row], [state], {0: "firing"})
    assert [edge for _, edge, _ in record.outbox()] == ["firing"] and record.states() == [json.loads(json.dumps(state))]


def test_every_outbox_alert_is_resolved(straight):
    """Each firing entry in the outbox is resolved once; the outbox has no inhibited alerts."""
    store, _ = straight
    rows = [(edge, dict(zip(COLUMNS, row, strict=True))) for _, edge, row in AlertStore(store, "straight").outbox()]

    def count(which):
        return sorted((r["alert"], r["severity"]) for edge, r in rows if edge == which)

    assert count("firing") == count("resolved") and count("firing")
    assert not any(r["inhibited_by"] or r["severity"] == "warning" for _, r in rows)
    assert "errors" not in {r["rule"] for _, r in rows}


def test_a_first_collector_begins_at_the_open_of_the_session(store_url):
    """
    A collector first started at eleven evaluates the session from its open; one started at night evaluates nothing.
    """
    store = Database(store_url, lambda: at(5400))
    assert evaluated(store, "day", "a", at(5400)) == (5400 - 5) // 5
    assert AlertStore(store, "day").evaluated() == (us(0), us(5395))
    night = time_parsing.parse("2026-03-10T20:00")
    store._now = lambda: night
    assert evaluated(store, "night", "a", night) == 0


def test_a_pause_over_the_weekend_is_caught_up(store_url):
    """A collector that was down from Friday to Monday evaluates every session in between and ends Friday's alerts."""
    friday, monday = time_parsing.parse("2026-03-06T12:00"), time_parsing.parse("2026-03-09T10:00:02")
    store = Database(store_url, lambda: friday)
    base = (time_parsing.parse("2026-03-06T09:30") - at(0)).total_seconds()
    made = PageOf(base - 600)
    posts = [
        post(base + 5.0 * k, made.add(massive_requests=3).body(base + 5.0 * k, memory_bytes=120_000_000))
        for k in range(1900)
    ]
    SnapshotStore(store).write("desk", posts, known_at_ts=True)
    assert evaluated(store, "desk", "a", friday) == 1799
    store._now = lambda: monday
    assert evaluated(store, "desk", "b", monday) == 1 + (4 * 720 + 1) + 360
    ended = [
        Transition(*row)
        for row in AlertStore(store, "desk").transitions(2**62)
        if row[COLUMNS.index("kind")] == "ended"
    ]
    assert {clock.instant(t.at_us) for t in ended} == {time_parsing.parse("2026-03-06T16:00:05")} and {
        "memory",
        "silence",
    } == {t.rule for t in ended}


def test_late_data_never_edits_the_record(store_url):
    """An outage imported late appears in a replay, but not in the record."""
    store = Database(store_url, lambda: at(0))
    posts = troubled(9)
    store._now = lambda: at(LASTS_S)
    evaluated(store, "desk", "a", at(LASTS_S))
    before = recorded(AlertStore(store, "desk"))
    store._now = lambda: at(LASTS_S + 100)
    SnapshotStore(store).write("desk", [post(now, body) for now, _, body in posts])
    evaluated(store, "desk", "a", at(LASTS_S + 100))
    found = [dict(zip(COLUMNS, row, strict=True)) for row in AlertStore(store, "desk").transitions(us(LASTS_S))]
    assert json.loads(before)[0] == found and not any(r["rule"] == "availability" for r in found)
    replayed, _ = replay.replay_session(store, desk("desk"), rules.load(), us(0), us(LASTS_S))
    assert any(t.rule == "availability" and t.kind == "fired" for t in replayed)


def test_an_upgraded_database_knows_when_fields_were_wired(store_url):
    """A database of the first schema is upgraded and knows when each field was first wired."""
    store = Database(store_url, lambda: at(900))
    made = PageOf(-600)
    SnapshotStore(store).write(
        "desk",
        [
            post(0, made.body(0, websocket_connected=False)),
            post(5, made.add(massive_requests=3).body(5, websocket_connected=True)),
        ],
    )
    with store.writing() as connection:
        connection.execute(sa.text("ALTER TABLE alive DROP COLUMN ts_us"))
        connection.execute(sa.text("UPDATE meta SET value = '1' WHERE key = 'schema'"))
    store.close()
    again = Database(store_url, lambda: at(900))
    assert SnapshotStore(again).wired("desk", None, us(4)) == frozenset() and SnapshotStore(again).wired(
        "desk", None, us(5)
    ) == {"massive", "websocket"}
    assert SnapshotStore(again).wired("desk", us(800), us(5)) == frozenset()


def test_the_command_evaluates_until_it_is_stopped(home):
    """
    `ops collect` evaluates until SIGTERM, then releases its lease and exits with 0; meanwhile no other process gets the
    lease.
    """
    first = subprocess.Popen([sys.executable, "-m", "opslib.cli", "collect"], stderr=subprocess.PIPE, text=True)
    assert first.stderr and "evaluating the alerts of desk" in first.stderr.readline()
    store = Database(f"sqlite:///{home / 'store.sqlite'}")
    record = AlertStore(store, "desk")
    deadline = time.monotonic() + 30
    while record.evaluated() is None and time.monotonic() < deadline:
        time.sleep(0.05)  # The other process signals nothing, so poll for its first evaluation.
    assert record.evaluated() and record.acquire_lease("other") is None
    Collector(store, desk("desk"), rules.load(), "other").leave()
    first.send_signal(signal.SIGTERM)
    assert first.wait(20) == 0 and record.acquire_lease("other")
    first.stderr.close()
