"""Test the database: each post is stored once, with the time it happened and the time it was known."""

import json
import random
import subprocess
import sys
import textwrap
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from opslib.dashboard import status
from opslib.foundation import clock
from opslib.foundation.clock import Window
from opslib.foundation.config import rules, settings
from opslib.foundation.errors import StoreError
from opslib.foundation.storage.database import Database
from opslib.foundation.storage.schema import TABLES
from opslib.foundation.storage.snapshot_columns import FIELDS
from opslib.telemetry.pages.store import Post, RejectedPost, SnapshotStore
from tests.support import days

NOON = datetime(2026, 3, 10, 16, 0, tzinfo=UTC)


def test_a_post_is_read_back_unchanged(store_url: str) -> None:
    """Every typed field and the body of a post are read back unchanged."""
    store = Database(store_url)
    some = days.posts()[1000:1010]
    assert SnapshotStore(store).write("desk", some) == 10
    snapshots = SnapshotStore(store).snapshots("desk", 0, 2**62, None)
    assert [{f.name: getattr(k, f.name) for f in FIELDS} for k in snapshots] == [
        {f.name: p.snapshot.values[f.name] for f in FIELDS} for p in some
    ]
    assert [body for _, _, _, body in SnapshotStore(store).bodies("desk", None, None, None)] == [
        p.snapshot.body for p in some
    ]


def test_the_same_body_is_one_row(store_url: str) -> None:
    """
    A body that is posted or imported again is not stored again, in one write or several; each app has its own rows.
    """
    store = Database(store_url)
    some = list(days.posts()[:20])
    assert SnapshotStore(store).write("desk", [*some, *some[:5]]) == 20
    assert SnapshotStore(store).write("desk", some) == 0
    assert SnapshotStore(store).write("other", some) == 20
    assert len(SnapshotStore(store).snapshots("desk", 0, 2**62, None)) == 20


def test_known_at_never_goes_back(store_url: str) -> None:
    """If the clock is set back, later writes are not known earlier than the last one."""
    times = iter([NOON, NOON, NOON - timedelta(minutes=3), NOON + timedelta(seconds=1)])
    store = Database(store_url, now=lambda: next(times))
    for post in days.posts()[:4]:
        SnapshotStore(store).write("desk", [post])
    known = [k.known_at_us for k in sorted(SnapshotStore(store).snapshots("desk", 0, 2**62, None), key=lambda k: k.seq)]
    assert known == sorted(known)
    assert clock.micros(NOON) <= known[2] <= clock.micros(NOON + timedelta(seconds=60))


def test_rejects_are_kept_once_with_their_reasons(store_url: str) -> None:
    """A rejected row is stored once, with its source and its reasons."""
    store = Database(store_url)
    refused = RejectedPost("file.jsonl:3", ("pnl is 4, expected an object",), b'{"pnl": 4}')
    SnapshotStore(store).write("desk", [], [refused])
    SnapshotStore(store).write("desk", [], [refused])
    assert [r for _, r in SnapshotStore(store).rejects("desk")] == [refused]


def test_a_newer_database_is_rejected(store_url: str) -> None:
    """A database with a newer, unknown schema is rejected."""
    Database(store_url).remember("schema", "99")
    with pytest.raises(StoreError, match="newer opslib"):
        Database(store_url)


def test_an_older_database_is_migrated(store_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A database with an older schema is migrated once, on opening, and keeps its rows."""
    from opslib.foundation.storage import database as module

    SnapshotStore(Database(store_url)).write("desk", days.posts()[:3])
    ran = []

    def mark(connection: sa.Connection) -> None:
        ran.append(connection.exec_driver_sql("ALTER TABLE snapshots ADD COLUMN mark INTEGER"))

    here = len(module.MIGRATIONS) + 1
    monkeypatch.setattr(module, "MIGRATIONS", (*module.MIGRATIONS, mark))
    for _ in range(2):
        found = Database(store_url)
        assert len(SnapshotStore(found).snapshots("desk", 0, 2**62, None)) == 3
    assert len(ran) == 1 and found.recall("schema") == str(here + 1)


def test_a_database_that_cannot_be_opened_is_reported(tmp_path: Path) -> None:
    """The message names the database without its password, and what to check."""
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match="OPS_STORE_URL"):
        Database(f"sqlite:///{tmp_path / 'file' / 'store.sqlite'}")
    with pytest.raises(StoreError) as refused:
        Database("postgresql://me:hunter2@127.0.0.1:1/none?connect_timeout=2")
    assert "hunter2" not in str(refused.value)


def test_sqlite_is_durable(tmp_path: Path) -> None:
    """SQLite is opened with WAL, full synchronisation and a busy timeout of at least 30 s."""
    store = Database(f"sqlite:///{tmp_path / 's.sqlite'}")
    with store._engine.connect() as connection:

        def pragma(name):
            return connection.exec_driver_sql(f"PRAGMA {name}").scalar()

        assert (pragma("journal_mode"), pragma("synchronous"), pragma("busy_timeout") >= 30_000) == ("wal", 2, True)


def test_a_failed_write_stores_nothing(store_url: str) -> None:
    """A write is stored completely or not at all."""
    store = Database(store_url)
    good = days.posts()[0]
    broken = Post(
        good.ts_us, type(good.snapshot)({**days.posts()[1].snapshot.values, "errors": "many"}, b"x" * 32, b"{}")
    )
    if store_url.startswith("sqlite"):
        # SQLite accepts text in a number column, but not NULL.
        broken = Post(None, broken.snapshot)
    with pytest.raises(StoreError):
        SnapshotStore(store).write("desk", [good, broken])
    assert SnapshotStore(store).snapshots("desk", 0, 2**62, None) == []


def test_concurrent_processes_write_and_read(store_url: str, tmp_path: Path) -> None:
    """Four writing processes and a reader lose no row, store none twice, and get no error."""
    Database(store_url)
    posts = days.posts()[:400]
    (tmp_path / "posts.jsonl").write_text("\n".join(map(days.line, posts)))
    writer = textwrap.dedent("""
        import json, sys
        from opslib.foundation import clock, time_parsing; from opslib.telemetry.pages import snapshot
        from opslib.telemetry.pages.store import Post, SnapshotStore
        from opslib.foundation.storage.database import Database
        store, part = Database(sys.argv[1]), int(sys.argv[3])
        for i, line in enumerate(open(sys.argv[2])):
            row = json.loads(line)
            if i % 4 == part or i % 50 == 0:
                SnapshotStore(store).write("desk", [Post(clock.micros(time_parsing.parse(row["ts"])), \
snapshot.read(row["metrics"]))])
    """)
    running = [
        subprocess.Popen([sys.executable, "-c", writer, store_url, str(tmp_path / "posts.jsonl"), str(i)])
        for i in range(4)
    ]
    store, seen = Database(store_url), 0
    while any(p.poll() is None for p in running):
        now = len(SnapshotStore(store).snapshots("desk", 0, 2**62, None))
        assert now >= seen
        seen = now
    assert [p.returncode for p in running] == [0, 0, 0, 0]
    snapshots = SnapshotStore(store).snapshots("desk", 0, 2**62, None)
    assert sorted(k.digest for k in snapshots) == sorted(p.snapshot.digest for p in posts)
    by_seq = sorted(snapshots, key=lambda k: k.seq)
    assert [k.known_at_us for k in by_seq] == sorted(k.known_at_us for k in snapshots), "seq and known_at rise together"


@pytest.mark.slow
def test_a_live_status_can_be_reproduced_later(store_url: str, tmp_path: Path) -> None:
    """
    A status shown live at one of 200 random moments (80 on PostgreSQL) is the same later, as known at that moment.

    Posts arrive late, twice and in random order.
    """
    seed = random.SystemRandom().randrange(10**6)
    print("seed", seed)
    rng = random.Random(seed)
    posts = list(days.posts()[::6])
    arrivals = sorted(
        (p.ts_us + (rng.randrange(3_600_000_000) if rng.random() < 0.2 else 0), i) for i, p in enumerate(posts)
    )
    arrivals += rng.sample(arrivals, 60)
    arrivals.sort(key=lambda a: (a[0], rng.random()))
    wanted = 200 if store_url.startswith("sqlite") else 80
    looks_at = {rng.randrange(len(arrivals)) for _ in range(wanted * 13 // 10)}
    now = [0]
    store = Database(store_url, now=lambda: clock.instant(now[0]))
    table, desk = rules.load(), settings.load(tmp_path, "desk", {})
    shown = list[tuple[datetime, timedelta, str, dict]]()
    for i, (arrived, which) in enumerate(arrivals):
        now[0] = arrived
        SnapshotStore(store).write("desk", [posts[which]])
        if i in looks_at and (i + 1 == len(arrivals) or arrivals[i + 1][0] > arrived + 1):
            moment, length = clock.instant(arrived + 1), timedelta(minutes=rng.choice((5, 10, 20)))
            view = status.status(store, desk, table, as_of=moment, length=length)
            shown.append((moment, length, json.dumps(view.as_json()), view.figures))
    assert len(shown) >= wanted
    different = 0
    for moment, length, live, figures in shown:
        assert (
            json.dumps(status.status(store, desk, table, as_of=moment, length=length, known_at=moment).as_json())
            == live
        )
        different += status.status(store, desk, table, as_of=moment, length=length).figures != figures
    assert different > wanted / 10, "late rows must change what is true of a moment, else this test shows nothing"


def test_a_window_is_read_through_an_index(tmp_path: Path) -> None:
    """The query for a window uses an index and does not scan the whole history."""
    store = days.filled(f"sqlite:///{tmp_path / 's.sqlite'}")
    end = clock.micros(days.at("11:00"))
    plans = []
    sa.event.listen(
        store._engine,
        "before_cursor_execute",
        lambda c, cursor, statement, parameters, *_: plans.append((statement, parameters)),
    )
    table = rules.load()
    status.view(
        store,
        settings.load(tmp_path, "desk", {}),
        table,
        Window(clock.instant(end - 3_600_000_000), clock.instant(end)),
    )
    selects = [p for p in plans if p[0].startswith("SELECT") and "snapshots" in p[0]]
    with store._engine.connect() as connection:
        for statement, parameters in selects:
            plan = " ".join(
                str(row) for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
            )
            assert "SCAN snapshots" not in plan and "TEMP B-TREE" not in plan, (statement, plan)


def test_opening_a_database_twice_in_one_process_keeps_its_locks(tmp_path: Path) -> None:
    """
    While a database is open here, another process that opens and closes it does not remove its log.

    It would, if this process had closed a second file descriptor of it: that drops its locks (SQLite's "How To
    Corrupt", 2.2).
    """
    url = f"sqlite:///{tmp_path / 'store.sqlite'}"
    first = Database(url)
    SnapshotStore(first).write("desk", days.posts()[:3])
    Database(url).close()
    log = tmp_path / "store.sqlite-wal"
    before = log.stat().st_ino
    subprocess.run(
        [
            sys.executable,
            "-c",
            f"import sqlite3; c = sqlite3.connect({str(tmp_path / 'store.sqlite')!r}); "
            f"print(c.execute('SELECT count(*) FROM snapshots').fetchone()); c.close()",
        ],
        check=True,
        capture_output=True,
    )
    assert log.stat().st_ino == before
    first.close()


@pytest.mark.parametrize("url", ["sqlite://", "postgresql+psycopg://"])
def test_indexes_of_pages_hold_only_their_rows(url: str) -> None:
    """Two indexes of snapshots contain only the rows with, or without, a page id, in both database systems."""
    made: list[str] = []
    engine = sa.create_mock_engine(url, lambda sql, *_, **__: made.append(str(sql.compile(dialect=engine.dialect))))
    TABLES.create_all(engine, checkfirst=False)
    limited = [" ".join(sql.split()).partition(" WHERE ")[2] for sql in made if "WHERE" in sql]
    assert sorted(limited) == ["page_id IS NOT NULL", "page_id IS NULL"]
