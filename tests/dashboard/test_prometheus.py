"""
Test the Prometheus metrics: the format is valid, nothing unknown is exported, and the error counter never decreases.
"""

import re
import subprocess
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from opslib.dashboard import prometheus
from opslib.foundation import clock
from opslib.foundation.config import rules, settings
from opslib.foundation.storage import snapshot_columns
from opslib.foundation.storage.database import Database
from opslib.simulation.world import page
from opslib.telemetry.pages import snapshot
from opslib.telemetry.pages.store import Post, SnapshotStore
from tests.services.test_server import AS_JSON, POST, Clock, Receiver, a_body, asked, raw, receiving, running
from tests.support import days, snapshots
from tests.support.system import needs

GUIDE = (
    "trading_provider_uptime",
    "trading_greeks_valid_rate",
    "trading_pnl_net_percent",
    "trading_system_errors_total",
)
SCRAPE_S = 15
TOTAL = "trading_system_errors_total"


def samples(said: str) -> dict[str, float]:
    """Return every sample of a text by its name and labels."""
    assert said.endswith("\n")
    return {
        name: float(value)
        for name, value in (line.rsplit(" ", 1) for line in said.splitlines() if not line.startswith("#"))
    }


def scraped(receiver: Receiver) -> dict[str, float]:
    """Scrape the receiver and return the samples."""
    answer = receiver.ask("GET", "/metrics")
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    return samples(answer.body.decode())


def clean(said: str) -> None:
    """Check a text with promtool."""
    found = subprocess.run([needs("promtool"), "check", "metrics"], input=said, capture_output=True, text=True)
    assert (found.returncode, found.stdout, found.stderr) == (0, "", ""), said


@pytest.fixture(scope="module")
def refresh() -> list[Any]:
    """Return the posts of the scripted day around the refresh of a page, with all three pages in them."""
    posts = list(page.posts(days.scripted()))
    first = next(p.at for p in posts if p.page == "trader-2")
    return [p for p in posts if first - timedelta(minutes=60) <= p.at <= first + timedelta(minutes=10)]


def counted(posts: list[Any]) -> int:
    """Return how many errors the pages counted, each from its load to its last post."""
    return sum({post.page: post.body["systemHealth"]["errorCount"] for post in posts}.values())


@pytest.mark.slow
def test_the_error_counter_never_decreases_over_a_page_reload(home: Path, refresh: list[Any]) -> None:
    """
    The error counter does not decrease over a page reload, scraped every 15 s for 25 minutes.

    It ends at the sum of all pages. The text is valid for promtool and has the guide's four names.
    """
    begins = refresh[-1].at - timedelta(minutes=25)
    world = Clock(begins)
    totals, due = [], begins
    with receiving(now=world.now) as receiver:
        SnapshotStore(receiver.store).write(
            "desk",
            [Post(clock.micros(p.at), snapshot.read(p.body)) for p in refresh if p.at < begins],
            known_at_ts=True,
        )
        for post in (p for p in refresh if p.at >= begins):
            while due < post.at:
                world.at = due
                totals.append(scraped(receiver).get(TOTAL, 0))
                due += timedelta(seconds=SCRAPE_S)
            world.at = post.at
            assert receiver.post(post.body).status == 204
        said = receiver.ask("GET", "/metrics").body.decode()
    found = samples(said)
    assert totals == sorted(totals)
    assert len(totals) >= 99
    assert found[TOTAL] == counted(refresh) > 0
    assert {name.partition("{")[0] for name in found} >= set(GUIDE)
    assert {f'trading_provider_uptime{{provider="{p}"}}' for p in snapshot_columns.PROVIDERS} <= set(found)
    assert all(0 <= found[name] <= 100 for name in found if "uptime" in name or "valid_rate" in name)
    clean(said)


def test_unknown_values_are_not_exported(home: Path) -> None:
    """
    An unknown value has no line; the text is valid for promtool.

    An empty database exports only a snapshot coverage of 0; an app that never wired its providers has no provider
    metrics.
    """
    world = Clock(snapshots.at(3600))
    with receiving(now=world.now) as receiver:
        empty = receiver.ask("GET", "/metrics").body.decode()
        assert samples(empty) == {"trading_look_coverage_ratio": 0}
        nothing = dict.fromkeys(
            (
                "massive_requests",
                "massive_successes",
                "massive_failures",
                "tradier_requests",
                "tradier_successes",
                "tradier_failures",
                "trades",
                "validations",
                "greeks_valid",
            ),
            0,
        )
        for _ in range(20):
            world.at += timedelta(seconds=5)
            assert (
                receiver.post(
                    snapshots.body(
                        **nothing,
                        websocket_connected=False,
                        backtest_variance_pp=0,
                        page_clock_ms=clock.micros(world.at) // 1000,
                    )
                ).status
                == 204
            )
        said = receiver.ask("GET", "/metrics").body.decode()
    # The time without snapshots or requests is known even so.
    known = {name for name in samples(said) if 'rule="silence"' not in name}
    assert {name.partition("{")[0] for name in known} == {
        "trading_greeks_gamma_zero",
        "trading_look_coverage_ratio",
        TOTAL,
    }
    assert not re.search("(?i)nan|none|inf|unknown ", re.sub("(?m)^#.*$", "", said))
    for text in (empty, said):
        clean(text)


def test_outdated_gauges_are_not_exported(home: Path) -> None:
    """An hour after the last snapshot no gauge of the past hour is exported; the counter keeps its value."""
    world = Clock(snapshots.at(0))
    one = snapshots.PageOf(-60)
    with receiving(now=world.now) as receiver:
        for second in range(5, 600, 5):
            world.at = snapshots.at(second)
            assert receiver.post(one.add(massive_requests=5, validations=2, errors=1).body(second)).status == 204
        before = scraped(receiver)
        world.at = snapshots.at(600 + 3700)
        after = scraped(receiver)
    assert {name for name in before if "provider_uptime" in name or "greeks" in name}
    silence = {name: value for name, value in after.items() if 'rule="silence"' in name}
    assert set(after) - set(silence) <= {TOTAL, "trading_look_coverage_ratio"} and set(silence.values()) == {3705.0}
    assert after[TOTAL] == before[TOTAL] == 119


def test_a_count_is_exact(home: Path) -> None:
    """A large error count is exported exactly, not rounded to ten digits."""
    world = Clock(snapshots.at(0))
    with receiving(now=world.now) as receiver:
        for second, errors in ((5, 0), (10, 123_456_789_012_345)):
            world.at = snapshots.at(second)
            assert receiver.post(snapshots.PageOf(-60, errors=errors).body(second)).status == 204
        assert scraped(receiver)[TOTAL] == 123_456_789_012_345


def test_errors_before_the_first_post_stay_counted(home: Path) -> None:
    """Errors that a page counted before its first post are added once, whenever scrapes happen."""
    world = Clock(snapshots.at(0))
    old, new = snapshots.PageOf(-600, page_id="old"), snapshots.PageOf(122, page_id="new", errors=3)
    found = []
    with receiving(now=world.now) as receiver:
        for second in range(0, 240):
            world.at = snapshots.at(second)
            if second % 5 == 0:
                assert receiver.post(old.body(second)).status == 204
            if second >= 127 and second % 5 == 2:
                assert receiver.post(new.body(second)).status == 204
            if second % SCRAPE_S == 0 or second in (132, 154):
                found.append((second, scraped(receiver).get(TOTAL)))
    assert found == [(s, 3 if s > 127 else 0) for s, _ in found]


LIVES = st.lists(
    st.tuples(
        st.integers(0, 200), st.lists(st.integers(0, 3), min_size=1, max_size=12), st.integers(1, 9), st.booleans()
    ),
    min_size=1,
    max_size=5,
)


@pytest.mark.slow
@hypothesis_settings(
    max_examples=60,
    phases=[Phase.generate],
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
@given(lives=LIVES, stride=st.sampled_from([7, 15, 30, 47, 61, 300]))
def test_the_total_never_decreases_and_adds_up(
    tmp_path_factory: pytest.TempPathFactory, lives: list[tuple[int, list[int], int, bool]], stride: int
) -> None:
    """The total never decreases and is the sum of all page loads, for any pages, reloads and scrape intervals."""
    world = Clock(snapshots.at(0))
    store = Database(f"sqlite:///{tmp_path_factory.mktemp('total')}/store.sqlite", world.now)
    found = settings.load(environ={"OPS_HOME": "/nonexistent"})
    table = rules.load(None)
    posts: list[tuple[float, dict[str, Any]]] = [(0, snapshots.PageOf(-100, page_id="ever").body(0))]
    expected = 0
    for n, (start, errors, first, again) in enumerate(lives):
        at, load = start + 1, snapshots.PageOf(start + 1, page_id=f"page {n}")
        for life in (errors, errors[::-1]) if again else (errors,):
            for look, more in enumerate(life):
                posts.append((at + first + 5 * look, load.add(errors=more).body(at + first + 5 * look)))
            expected += sum(life)
            at += first + 5 * len(life) + 20
            load.refresh(at)
    posts.sort(key=lambda p: p[0])
    totals, due = [], 1
    for second, metrics in posts:
        while due < second:
            world.at = snapshots.at(due)
            totals.append(prometheus.errors_total(store, found, table, world.at))
            due += stride
        world.at = snapshots.at(second)
        SnapshotStore(store).write("desk", [Post(clock.micros(world.at), snapshot.read(metrics))])
    for later in (0, 10, 31, 100, 1000):
        totals.append(prometheus.errors_total(store, found, table, snapshots.at(posts[-1][0] + later)))
    store.close()
    assert totals == sorted(totals)
    assert totals[-5:] == [expected] * 5


def test_the_total_survives_a_restart(home: Path) -> None:
    """The total continues from its value after the server is stopped or killed and started again on the same home."""
    loaded, totals = clock.now(), []
    for life in range(3):
        with running(home) as found:
            totals.append(samples(asked(found.url, "GET", "/metrics").body.decode()).get(TOTAL, 0))
            for n in range(4):
                # The page stays loaded, however long a new start takes.
                uptime_s = int((clock.now() - loaded).total_seconds())
                sent = a_body(10 * life + n, page_id="one", uptime_s=uptime_s, errors=10 * life + 3 * n)
                assert asked(found.url, "POST", POST, raw(sent), AS_JSON).status == 204
            totals.append(samples(asked(found.url, "GET", "/metrics").body.decode())[TOTAL])
            if life:
                found.process.kill()
            else:
                found.process.terminate()
            found.process.wait(30)
    assert totals == [0, 9, 9, 19, 19, 29]


def test_the_total_is_cached(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A second scrape reads only the recent snapshots; if the cache cannot be written (full disk), the total is the same.
    """
    world = Clock(snapshots.at(0))
    one = snapshots.PageOf(-60)
    with receiving(now=world.now) as receiver:
        for second in range(0, 300, 5):
            world.at = snapshots.at(second)
            assert receiver.post(one.add(errors=1).body(second)).status == 204
        assert scraped(receiver)[TOTAL] == 60
        read: list[float] = []
        ask = SnapshotStore.snapshots
        monkeypatch.setattr(
            SnapshotStore,
            "snapshots",
            lambda self, app, start, end, known: read.append(end - start) or ask(self, app, start, end, known),
        )
        world.at += timedelta(seconds=10)
        table = rules.load(None)
        assert prometheus.errors_total(receiver.store, receiver.settings, table, world.at) == 60
        assert max(read) <= (prometheus.SETTLED.total_seconds() + table.pages.reset_gap_s + 10) * 1e6
        other = Database(receiver.settings.url, world.now)

        def full(*_: Any) -> None:
            from opslib.foundation.errors import StoreError

            raise StoreError("database or disk is full")

        monkeypatch.setattr(Database, "remember", full)
        world.at += timedelta(hours=1)
        assert prometheus.errors_total(other, receiver.settings, table, world.at) == 60
        other.close()
