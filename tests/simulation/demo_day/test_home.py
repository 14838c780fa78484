"""
Test the demo's home: it is complete or replaced after a killed ops demo, and two processes never create it at once.
"""

import html
import itertools
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pytest

from opslib.alerting.notifications import NotificationStore
from opslib.cli import main
from opslib.foundation import clock
from opslib.foundation.config import rules, settings
from opslib.foundation.config.workspace import Workspace
from opslib.foundation.errors import OpsError
from opslib.foundation.storage.database import Database
from opslib.incidents import lifecycle
from opslib.jobs.ledger import process
from opslib.services.server import ServerThread
from opslib.simulation.demo_day import replay
from opslib.simulation.demo_day.home_lock import HomeLock
from opslib.simulation.demo_day.prober import Prober
from opslib.simulation.world import page
from opslib.telemetry.pages.store import SnapshotStore
from opslib.telemetry.probes.store import SampleStore
from tests.support import days, demo

DEAD = "|".join((process().split("|")[0], "999999999", "0.00"))


def test_the_lock_is_free_after_its_last_process_has_ended(tmp_path: Path) -> None:
    """
    A child that inherits the descriptor keeps the lock after its parent has released it, and releases it when killed.
    """
    demo = settings.load(tmp_path, "demo", {})
    with HomeLock(demo) as mine:
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=[mine.descriptor])
        with HomeLock(demo) as second:
            assert mine.is_mine and not second.is_mine
    with HomeLock(demo) as third:
        assert not third.is_mine
    child.kill()
    child.communicate()
    with HomeLock(demo) as fourth:
        assert fourth.is_mine


def test_a_second_demo_in_the_same_home_is_rejected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """While one demo runs, another one is rejected with a message and exit code 70; the first is unaffected."""
    monkeypatch.setattr("opslib.cli.commands.demo.LOCK_WAIT_S", 0.2)
    with HomeLock(settings.load(tmp_path, "demo", {})):
        assert main.main(["--home", str(tmp_path), "demo"]) == 70
    assert "another ops demo is running" in capsys.readouterr().err
    assert not (tmp_path / "demo").exists()


@pytest.fixture
def copied(monkeypatch: pytest.MonkeyPatch) -> None:
    """Create a home as a copy of the shared day, whose content is tested elsewhere."""
    demo.template()
    monkeypatch.setattr(replay, "_create", demo.copy_home)


@pytest.mark.usefixtures("copied")
def test_an_incomplete_home_is_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The incomplete home of a killed demo and its other remains are replaced by the complete day on first use."""
    half = tmp_path / "demo"
    half.mkdir()
    (half / replay.UNFINISHED).write_text(DEAD)
    (half / "store.sqlite").write_bytes(b"SQLite format 3\0 and no more")
    (tmp_path / f"{replay.MAKING}left").mkdir()
    assert main.main(["--home", str(tmp_path), "--app", "demo", "status", "--as-of", f"{days.DAY}T11:27"]) == 2
    assert "availability of massive" in capsys.readouterr().out
    assert not replay.is_unfinished(settings.load(tmp_path, "demo", {})) and not list(
        tmp_path.glob(f"{replay.MAKING}*")
    )


def test_each_fault_has_its_incident_and_notifications(tmp_path: Path) -> None:
    """
    Each fault of the day has an incident that is acknowledged and resolved, and notifications with charts.

    The notifications are on the demo's page only, whatever settings.toml configures, and say what works at their time.
    """
    home = demo.laid_out(tmp_path)
    (tmp_path / "settings.toml").write_text('[channels.real]\nkind = "webhook"\nurl = "http://127.0.0.1:1/real"\n')
    desk = Workspace(home, lambda: days.at("16:00"))
    incidents = lifecycle.of(desk).all()
    assert [(i.runbook, i.status, i.owner) for i in incidents] == [
        ("greeks_quality", "resolved", "Trading Manager"),
        ("massive_down", "resolved", "Tech Lead"),
        ("websocket_down", "resolved", "Tech Lead"),
        ("backtest_variance", "resolved", "Trading Manager"),
    ]
    sent = NotificationStore(desk.store, "demo").deliveries()
    assert [(d.channel, d.state, m["kind"], m["panel"]) for d, m in reversed(sent)] == [
        ("inbox", "sent", kind, panel)
        for kind, panel in (
            ("firing", "greeks"),
            ("over", "greeks"),
            ("firing", "providers"),
            ("over", "providers"),
            ("firing", "system"),
            ("over", "system"),
            ("firing", "pnl"),
        )
    ]
    assert list(desk.contacts.channels) == ["terminal", "inbox"]
    page = html.unescape((home.home / "notifications.html").read_text(encoding="utf-8"))
    assert page.count("<article") == page.count("<img") == len(sent)
    gamma, outage = page.split("<article")[1], page.split("<article")[3]
    assert "Massive's data" in gamma and "Greeks (the app's page" in gamma.partition("Still works")[0]
    assert "Massive (confidence " in outage and "option data from Tradier" in outage.partition("Still works")[2]


def test_the_home_of_a_running_demo_is_not_replaced(tmp_path: Path) -> None:
    """The notebooks of a running demo read its home and do not replace it."""
    demo = settings.load(tmp_path, "demo", {})
    with HomeLock(demo):
        demo.home.mkdir()
        (demo.home / replay.UNFINISHED).write_text(process())
        replay.create_home(demo)
    assert [p.name for p in demo.home.iterdir()] == [replay.UNFINISHED]


@pytest.mark.slow
@pytest.mark.usefixtures("copied")
@pytest.mark.parametrize("seed", [1, 2])
def test_a_killed_demo_can_be_repeated(seed: int, tmp_path: Path) -> None:
    """After an ops demo is killed at a random moment, the next command reads the complete day."""
    running = subprocess.Popen(
        [sys.executable, "-m", "opslib.cli", "--home", str(tmp_path), "demo"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"OPS_HOME": str(tmp_path)},
    )
    marker = tmp_path / "demo" / replay.UNFINISHED
    while running.poll() is None and not marker.exists():
        time.sleep(0.02)
    time.sleep(random.Random(seed).uniform(0, 12))  # The moment under test.
    running.send_signal(signal.SIGKILL)
    running.wait()
    assert marker.exists()
    assert main.main(["--home", str(tmp_path), "--app", "demo", "status", "--as-of", f"{days.DAY}T11:27"]) == 2
    assert not marker.exists()


def _at_its_time(now: replay._ScriptClock, desk: settings.Settings, store: Database) -> ServerThread:
    """Return the receiver as the demo configures it."""
    found = ServerThread(desk, store, rules.load(), now=now.now, known_at_ts=True)
    found.app.add_middleware(replay._ArrivalTimes)
    return found


def test_posts_continue_over_reopened_connections(tmp_path: Path) -> None:
    """If the receiver closes connections between posts, each post still arrives once."""
    desk = settings.load(tmp_path, "desk", {})
    store = Database(desk.url)
    posts = list(page.posts(replay.scripted()))[:40]
    with ServerThread(desk, store, rules.load()) as served, replay._Sender(served.url) as sender:
        for i in range(0, len(posts), 5):
            for connection in sender.connections[: 5 if i else 0]:
                connection.sock.shutdown(2)
            sender.send(posts[i : i + 5])
    assert len(list(SnapshotStore(store).bodies("desk", None, None, None))) == len({str(p.body) for p in posts})


def test_posts_sent_together_keep_their_times(tmp_path: Path) -> None:
    """
    The receiver takes the time of each post from its header, and stores posts that are sent together with their own
    times.
    """
    posts = list(page.posts(replay.scripted()))[: replay.TOGETHER]
    desk, now = settings.load(tmp_path, "desk", {}), replay._ScriptClock(posts[0].at)
    store = Database(desk.url, now.now)
    with _at_its_time(now, desk, store) as served, replay._Sender(served.url) as sender:
        sender.send(posts)
    kept = [(ts_us, known_us) for ts_us, known_us, _, _ in SnapshotStore(store).bodies("desk", None, None, None)]
    assert kept == [(clock.micros(p.at),) * 2 for p in posts]


def test_a_receiver_without_a_response_is_an_error() -> None:
    """If every attempt fails, the demo fails with a message, in bounded time."""
    post = next(iter(page.posts(replay.scripted())))
    asked: list[int] = []

    def close_each(listening: socket.socket) -> None:
        with suppress(OSError):
            while True:
                listening.accept()[0].close()
                asked.append(1)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        closing = threading.Thread(target=close_each, args=(listening,))
        closing.start()
        with (
            replay._Sender(f"http://127.0.0.1:{listening.getsockname()[1]}") as sender,
            pytest.raises(OpsError, match="did not respond"),
        ):
            sender.send([post])
        listening.shutdown(socket.SHUT_RDWR)
        closing.join()
    assert len(asked) == replay.POST_ATTEMPTS


def test_a_home_is_created_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of several threads that need the home at once, one creates it and the others wait."""
    made: list[int] = []

    def making(demo: settings.Settings, _seed: int) -> None:
        made.append(1)
        time.sleep(0.3)
        demo.home.mkdir()

    monkeypatch.setattr(replay, "_create", making)
    demo = settings.load(tmp_path, "demo", {})
    threads = [threading.Thread(target=replay.create_home, args=(demo,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == [1] and demo.home.exists()


def test_the_demo_records_what_a_collector_would(tmp_path: Path) -> None:
    """
    The demo records each probe at an interval that `ops collect` allows.

    Heartbeats have the memory, the WebSocket has received messages, and the server's uptime increases.
    """
    scripted, desk = replay.scripted(), settings.load(tmp_path, "demo", {})
    store = Database(desk.url)
    with Prober(scripted, desk) as prober:
        prober.probe_until(scripted.opens + timedelta(minutes=5))
        prober.probe_until(scripted.opens + timedelta(minutes=16))
    kept = SampleStore(store, "demo").between(0, 2**62)

    def of(*what):
        return [s for s in kept if (s.probe, s.subject) == what]

    beats = of("beat", "collector")
    assert all(s.value and s.value > 20 for s in beats) and {s.details()["every_s"] for s in beats} == {30.0}
    for what in (
        ("beat", "collector"),
        ("liveness", "massive"),
        ("liveness", "tradier"),
        ("health", "app"),
        ("socket", "app"),
        ("log", "app"),
    ):
        stamps = [s.ts_us for s in of(*what) if s.last]
        assert {b - a for a, b in itertools.pairwise(stamps)} == {30_000_000}, what
    behind = Database(desk.url, lambda: scripted.opens)
    with behind.committing() as connection:  # Probes ahead of the script's time do not delay later writes.
        assert behind.stamp(connection) == clock.micros(scripted.opens)
    stamps = sorted({s.ts_us for s in of("data", "massive") if s.last})
    assert {b - a for a, b in itertools.pairwise(stamps)} <= {30_000_000, 60_000_000}
    ups = [s.value for s in of("health", "app")]
    assert all(b > a for a, b in itertools.pairwise(ups)) and all(s.outcome == "ok" for s in kept if s.last)
    assert all(s.value is not None for s in of("socket", "app")[60:]), [s.value for s in of("socket", "app")]
    store.close()
