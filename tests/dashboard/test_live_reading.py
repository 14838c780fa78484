"""Test that the live dashboard reads only new rows and always shows what a fresh `ops status` shows."""

import json
import random
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from opslib.dashboard import live_state, status
from opslib.dashboard.live import Feed
from opslib.dashboard.status import Recent, Status
from opslib.desk import Desk
from opslib.foundation import clock
from opslib.foundation.config import settings
from opslib.foundation.storage.database import Database
from opslib.foundation.storage.new_rows import NewRows
from opslib.foundation.storage.schema import SAMPLES, SNAPSHOTS
from opslib.telemetry.probes.store import Sample, SampleStore
from tests.support import demo
from tests.support.growing import Growing
from tests.support.snapshots import at, us

HOUR = timedelta(hours=1)
NOON = us(3 * 3600 + 120)


def everything(view: Status) -> Any:
    """Return all that a status shows to people and programs, with decimals rounded."""
    panels = [(p.verdict_text, p.rows, p.sentences, p.notes) for p in view.panels]
    figures = json.loads(json.dumps(view.as_json()), parse_float=lambda text: round(float(text), 9))
    return figures, panels, live_state.dashboard_state(view, "1 h", live_state.Answer()), repr(view)


class Live:
    """
    A live dashboard on a growing database, compared with fresh statuses of the same moments.

    Args:
        as_far: Fresh statuses begin with the same snapshot as the dashboard; those of `ops status` begin later.
    """

    def __init__(self, home: Path, start_us: int, late: float = 0.0, url: str | None = None, as_far: bool = False):
        self.as_far = as_far
        self.desk = Desk(settings.load(home, "demo", {"OPS_STORE_URL": url} if url else {}), lambda: self.now)
        self.now = clock.instant(start_us)
        self.growing = Growing(demo.template(), self.desk.store, start_us, late)
        self.recent = Recent(self.desk)
        self.check()

    def check(self) -> None:
        """Compare the incrementally read status with a fresh one."""
        seen = status.view_at(self.desk, self.now, HOUR, self.recent, HOUR)
        read = (Recent(self.desk), HOUR) if self.as_far else ()
        assert everything(seen) == everything(status.view_at(self.desk, self.now, HOUR, *read)), self.now

    def go_on(self, seconds: float = 5.0) -> None:
        """Advance the time, write the rows of that time, then compare."""
        self.now += timedelta(seconds=seconds)
        self.growing.until(clock.micros(self.now))
        self.check()

    def execute(self, statement: Any, *rows: Any) -> int:
        """Change the database directly, bypassing the dashboard; return the number of rows."""
        with self.desk.store.committing() as connection:
            return connection.execute(statement, *rows).rowcount


@pytest.fixture
def whole_reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the list of tables that were read completely."""
    found = list[str]()
    read = NewRows.everything

    def counted(self: NewRows, start_us: int, end_us: int) -> list[tuple[Any, ...]]:
        found.append(self.table.name)
        return read(self, start_us, end_us)

    monkeypatch.setattr(NewRows, "everything", counted)
    return found


def test_the_dashboard_equals_a_fresh_status(tmp_path: Path) -> None:
    """At 200 random moments of the day, with 3 % of the rows minutes late, the dashboard equals a fresh status."""
    drawn = random.Random(11)
    live = Live(tmp_path, us(-1200), late=0.03)
    for _ in range(200):
        live.go_on(drawn.choice([2, 5, 5, 5, 5, 60, 240, drawn.uniform(0, 400)]))
    assert live.now > at(2 * 3600)


def test_only_new_rows_are_read(tmp_path: Path, whole_reads: list[str]) -> None:
    """In half an hour snapshots are read completely once, because views start at a full hour; samples never."""
    live = Live(tmp_path, NOON)
    whole_reads.clear()
    for _ in range(180):
        live.now += timedelta(seconds=10)
        live.growing.until(clock.micros(live.now))
        status.view_at(live.desk, live.now, HOUR, live.recent, HOUR)
    live.check()
    assert whole_reads == ["snapshots"]


def test_the_dashboard_equals_a_fresh_status_on_postgresql(tmp_path: Path, postgres_url: str) -> None:
    """The same holds on PostgreSQL."""
    live = Live(tmp_path, NOON, late=0.1, url=postgres_url)
    for _ in range(12):
        live.go_on()


def _copies(live: Live, table: sa.Table, count: int = 1, **changed: Any) -> list[dict[str, Any]]:
    """Return copies of the newest rows of a table with other content, to be written as new rows."""
    with live.desk.store.reading() as connection:
        rows = connection.execute(sa.select(table).order_by(table.c.seq.desc()).limit(count)).mappings().all()
    copied = [{name: value for name, value in row.items() if name != "seq"} for row in rows]
    if table is SNAPSHOTS:
        copied = [row | {"digest": random.randbytes(32)} for row in copied]
    return [row | changed for row in copied]


def _delete_some(live: Live, table: sa.Table) -> None:
    with live.desk.store.reading() as connection:
        last = connection.execute(sa.select(sa.func.max(table.c.seq))).scalar_one()
    live.execute(sa.delete(table).where(table.c.seq % 3 == 0, table.c.seq < last - 10))


def _delete_snapshots(live: Live) -> None:
    _delete_some(live, SNAPSHOTS)


def _delete_samples(live: Live) -> None:
    _delete_some(live, SAMPLES)


def _page(live: Live, minutes_ago: float, requests: int) -> None:
    """Write a snapshot of a separate page, without its load time, after those of the other pages."""
    live.now += timedelta(seconds=1)
    ts_us = clock.micros(live.now) - round(minutes_ago * 60_000_000)
    counts = {f"massive_{name}": requests for name in ("requests", "successes")} | {"massive_failures": 0}
    itself = {"page_id": "p2", "page_clock_ms": ts_us // 1000, "uptime_s": None, "load_ms": None}
    live.execute(sa.insert(SNAPSHOTS), _copies(live, SNAPSHOTS, ts_us=ts_us, **counts, **itself))


def _import_before_the_window(live: Live) -> None:
    _page(live, 0, 900)
    live.check()
    _page(live, 80, 100)


def _show_a_page_again(live: Live) -> None:
    _page(live, 80, 100)
    live.check()
    _page(live, 0, 900)


def _import_much(live: Live) -> None:
    rows = _copies(live, SAMPLES, 1200)
    live.execute(sa.insert(SAMPLES), [row | {"ts_us": row["ts_us"] - 1} for row in rows])


def _write_ahead_of_our_clock(live: Live) -> None:
    live.execute(sa.insert(SNAPSHOTS), _copies(live, SNAPSHOTS, ts_us=clock.micros(live.now) + 7_000_000))
    live.execute(sa.insert(SAMPLES), _copies(live, SAMPLES, 9, ts_us=clock.micros(live.now) + 7_000_000))


def _write_for_another_app(live: Live) -> None:
    for table in (SNAPSHOTS, SAMPLES):
        live.execute(sa.insert(table), _copies(live, table, 5, app="other"))


def _set_the_clock_back(live: Live) -> None:
    live.now -= timedelta(minutes=11)
    live.check()
    beat = Sample(
        clock.micros(live.now), "beat", "collector", "ok", value=90.0, detail='{"every_s": 5, "stepped_s": -660}'
    )
    SampleStore(live.desk.store, "demo").keep([beat])


def _end_the_collector(live: Live) -> None:
    live.growing.leave_out("beat")
    since_us = clock.micros(live.now) - 50 * 60_000_000
    live.execute(sa.delete(SAMPLES).where(SAMPLES.c.probe == "beat", SAMPLES.c.ts_us > since_us))
    live.now += timedelta(minutes=11)


@pytest.mark.parametrize(
    "disturb",
    [
        _delete_snapshots,
        _delete_samples,
        _import_before_the_window,
        _import_much,
        _write_ahead_of_our_clock,
        _write_for_another_app,
        _set_the_clock_back,
        _end_the_collector,
        _show_a_page_again,
    ],
)
def test_unusual_changes_of_the_database_are_detected(tmp_path: Path, disturb: Callable[[Live], None]) -> None:
    """
    After any write, deletion or clock change between two reads, the next read equals a fresh status.

    The usual interval of a page depends on how many of its snapshots are read, so both begin with the same snapshot.
    """
    live = Live(tmp_path, NOON, as_far=True)
    live.go_on()
    live.go_on()
    disturb(live)
    live.check()
    for seconds in (5, 5, 300):
        live.go_on(seconds)


def test_a_replaced_database_is_reopened(tmp_path: Path) -> None:
    """If the database file is replaced, the dashboard shows the new one; while there is no file, it says so."""
    live = Live(tmp_path, NOON)
    feed = Feed(live.desk, HOUR, 5.0)
    heard = list[dict[str, Any]]()
    feed._send = heard.append  # type: ignore[method-assign,assignment]
    feed.broadcast_changes()
    path = live.desk.store.file.path
    assert path is not None
    other = Database(f"sqlite:///{tmp_path}/other.sqlite")
    Growing(demo.template(), other, NOON - 600_000_000)
    other.close()
    path.rename(f"{path}.old")
    feed.broadcast_changes()
    assert "was removed while it was open" in heard[-1]["error"] and not path.exists()
    Path(f"{tmp_path}/other.sqlite").rename(path)
    feed.broadcast_changes()
    fresh = Desk(live.desk.settings, lambda: live.now)
    assert feed._last is not None and everything(feed._last[0]) == everything(status.view_at(fresh, live.now, HOUR))
