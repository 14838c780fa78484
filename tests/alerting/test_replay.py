"""A session is replayed once, cached, and replayed again when any of its inputs changes."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import pytest
import sqlalchemy as sa

from opslib.alerting import alerts as watch
from opslib.alerting import history, replay
from opslib.desk import Desk
from opslib.desk import open as open_desk
from opslib.foundation import clock, market_calendar, time_parsing
from opslib.foundation.storage.cache import Cache
from opslib.foundation.storage.database import Database
from opslib.foundation.storage.schema import SNAPSHOTS
from opslib.services.collector import Collector
from opslib.telemetry.pages import snapshot
from opslib.telemetry.pages.store import Post, SnapshotStore
from opslib.telemetry.probes.store import Sample, SampleStore
from opslib.trading.pnl.fills import Fill, FillsFile
from opslib.trading.pnl.store import FillStore
from tests.support.snapshots import body

DAY = "2025-11-28"  # A half day: three and a half hours.
SESSION = market_calendar.session(time_parsing.parse_day(DAY))
assert SESSION is not None


def held(home: Path) -> Desk:
    """Return a desk whose page posts every minute; for half an hour half of Massive's requests fail."""
    home.mkdir(parents=True, exist_ok=True)
    (home / "settings.toml").write_text("post_every_s = 60\n")
    desk, posts, failed = open_desk("desk", home), [], 0
    for i in range(211):
        at = SESSION.opens + timedelta(minutes=i)
        failed += 5 if 60 <= i < 90 else 0
        posts.append(
            Post(
                clock.micros(at),
                snapshot.read(
                    body(
                        uptime_s=60 * i,
                        page_clock_ms=clock.micros(at) // 1000,
                        massive_requests=10 * i,
                        massive_successes=10 * i - failed,
                        massive_failures=failed,
                    )
                ),
            )
        )
    SnapshotStore(desk.store).write("desk", posts, known_at_ts=True)
    return desk


def asked(desk: Desk, known_at_us: int | None = None) -> tuple:
    return replay.replay_cached(desk.store, desk.settings, desk.rules, SESSION, known_at_us, desk.cache)


def plainly(desk: Desk, known_at_us: int | None = None) -> tuple:
    return replay.replay_session(
        desk.store, desk.settings, desk.rules, clock.micros(SESSION.opens), clock.micros(SESSION.closes), known_at_us
    )


def test_the_cache_equals_a_plain_replay(tmp_path: Path) -> None:
    """Without a cache, with it, and with a broken one: transitions and alerts equal those of a plain replay."""
    desk = held(tmp_path)
    transitions, standing = plainly(desk)
    assert {t.rule for t in transitions} >= {"availability"} and any(t.kind == "fired" for t in transitions)
    for spoil in (
        lambda path: None,
        lambda path: None,
        lambda path: path.write_text('{"basis": 1}'),
        lambda path: path.unlink(),
    ):
        spoil(desk.settings.outputs / ".memory" / f"{DAY}-alerts.json")
        found, stands = asked(desk)
        assert found == transitions and stands.alerts == standing.alerts
        assert history.episodes(history.severity_changes(found, desk.rules, stands)) == history.episodes(
            history.severity_changes(transitions, desk.rules, standing)
        )
        (desk.settings.outputs / ".memory").mkdir(exist_ok=True)
    assert Cache(None).once("a", [1], lambda: {"a": 2}) == {"a": 2}


def judged_live(desk: Desk, *minutes: float) -> None:
    """Evaluate the session live with a collector: at its open, some minutes after, and after its close."""
    now = [SESSION.opens]
    collector = Collector(Database(desk.settings.url, lambda: now[0]), desk.settings, desk.rules, "one", lambda: now[0])
    collector.evaluate_due()
    for minute in (*minutes, 210.2):
        now[0] = SESSION.opens + timedelta(minutes=minute)
        collector.evaluate_due()


def test_a_live_session_is_not_replayed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If no data came late, the live result is cached at the close and used by the report."""
    desk = held(tmp_path)
    judged_live(desk, 60.3, 61, 90.7)
    transitions, standing = plainly(desk)
    with monkeypatch.context() as patched:
        patched.setattr(replay, "replay_session", lambda *_: pytest.fail("it was judged again"))
        found, stands = asked(desk)
    assert found == transitions and stands.alerts == standing.alerts and any(t.kind == "fired" for t in found)
    found, stands = asked(late(desk))
    assert found == plainly(desk)[0] != transitions


@pytest.mark.parametrize("known_s", [1, pytest.param(300, marks=pytest.mark.slow)])
def test_late_data_is_replayed(known_s: int, tmp_path: Path) -> None:
    """If a post came too late for live evaluation, the session is replayed."""
    desk = held(tmp_path)
    at = SESSION.opens + timedelta(minutes=60, seconds=31)
    post = Post(clock.micros(at), snapshot.read(body(uptime_s=3631, page_clock_ms=clock.micros(at) // 1000)))
    SnapshotStore(desk.store).write("desk", [post], known_at_ts=True)
    with desk.store.committing() as connection:
        known = sa.update(SNAPSHOTS).where(SNAPSHOTS.c.ts_us == post.ts_us)
        connection.execute(known.values(known_at_us=post.ts_us + known_s * 1_000_000))
    judged_live(desk, 60.3, 66, 70)
    assert (desk.settings.outputs / ".memory" / f"{DAY}-alerts.json").exists() == (known_s == 1)
    found, stands = asked(desk)
    assert (found, stands.alerts) == (plainly(desk)[0], plainly(desk)[1].alerts)


def late(desk: Desk) -> Desk:
    at = SESSION.opens + timedelta(minutes=100, seconds=30)
    SnapshotStore(desk.store).write(
        "desk",
        [
            Post(
                clock.micros(at),
                snapshot.read(
                    body(
                        uptime_s=60,
                        page_clock_ms=clock.micros(at) // 1000,
                        massive_requests=900,
                        massive_successes=0,
                        massive_failures=900,
                    )
                ),
            )
        ],
        known_at_ts=True,
    )
    return desk


def earlier(desk: Desk) -> Desk:
    """Add a post of an earlier session, within a burn rate's window."""
    at = SESSION.opens - timedelta(days=2)
    SnapshotStore(desk.store).write(
        "desk",
        [Post(clock.micros(at), snapshot.read(body(uptime_s=60, page_clock_ms=clock.micros(at) // 1000)))],
        known_at_ts=True,
    )
    return desk


def sampled(desk: Desk) -> Desk:
    SampleStore(desk.store, "desk").keep(
        [Sample(clock.micros(SESSION.opens) + 60_000_000, "liveness", "massive", "ok", 0.1)]
    )
    return desk


def filed(desk: Desk) -> Desk:
    FillStore(desk.store, "desk").keep(
        FillsFile(
            "told",
            "by hand",
            fills=[
                Fill(
                    1,
                    SESSION.opens + timedelta(minutes=10),
                    "stock",
                    "SPY",
                    "SPY",
                    "SPY",
                    "buy",
                    "open",
                    Decimal(1),
                    Decimal(500),
                    Decimal(1),
                    Decimal(-500),
                )
            ],
        )
    )
    return desk


def ruled(desk: Desk) -> Desk:
    (desk.settings.base / "rules.toml").write_text("[availability]\nmin_count = 7\n")
    return open_desk("desk", desk.settings.base)


def closed(desk: Desk) -> Desk:
    """Set an early close of the market, which becomes known only later."""
    (desk.settings.base / "settings.toml").write_text('post_every_s = 60\n[sessions]\n"2025-11-28" = "12:00"\n')
    return open_desk("desk", desk.settings.base)


CHANGES: tuple[Callable[[Desk], Desk], ...] = (
    late,
    earlier,
    sampled,
    filed,
    ruled,
    closed,
    lambda desk: replace(desk, settings=replace(desk.settings, wired=("iv_anomalies",))),
    lambda desk: replace(desk, settings=replace(desk.settings, fallback="none")),
)


@pytest.mark.parametrize("change", CHANGES, ids=lambda c: c.__name__)
def test_a_changed_input_is_replayed(
    tmp_path: Path, change: Callable[[Desk], Desk], monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    A late or earlier post, a probe sample, a fill, other thresholds, calendar or settings: each causes one replay.
    """
    calls = []
    monkeypatch.setattr(replay, "replay_session", lambda *given: calls.append(given) or ([], watch.Alerts(given[2])))
    desk = held(tmp_path)
    asked(desk), asked(desk)
    assert len(calls) == 1
    try:
        changed = change(desk)
        asked(changed), asked(changed)
    finally:
        market_calendar.override_sessions({})
    assert len(calls) == 2, change.__name__


def test_known_at_has_its_own_replay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request with a known-at time is replayed separately."""
    desk = held(tmp_path)
    calls = []
    monkeypatch.setattr(
        replay, "replay_session", lambda *given: calls.append(given[-1]) or ([], watch.Alerts(given[2]))
    )
    then = clock.micros(SESSION.opens + timedelta(minutes=50))
    asked(desk), asked(desk, then)
    assert calls == [None, then]
