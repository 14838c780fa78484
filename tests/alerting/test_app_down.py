"""A dead or hung app server notifies people within a minute; a restart shorter than 30 s does not."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from opslib.alerting import evaluator, probe_figures, replay
from opslib.alerting.history import severity_changes
from opslib.alerting.notifications.planner import PRESSING_WAIT_US
from opslib.foundation import clock
from opslib.foundation.config import rules, settings
from opslib.foundation.storage.database import Database
from opslib.telemetry import app_state
from opslib.telemetry.probes.history import ProbeHistory
from opslib.telemetry.probes.runner import ProbeRunner
from opslib.telemetry.probes.store import Sample, SampleStore
from tests.support.servers import free_port

OPEN = datetime(2026, 3, 10, 13, 31, tzinfo=UTC)  # A minute after the market has opened.
RULES = rules.load()
SPEED = 8.0
GROUP_WAIT_S = PRESSING_WAIT_US / 1e6
# The longest time from an alert to its notification: evaluation 2 s after the evaluation time, the group wait, and two
# sending steps that run once a second each.
TO_NOTIFY_S = evaluator.SETTLE_US / 1e6 + GROUP_WAIT_S + 2

SERVER = """
import datetime, http.server, json, sys, time

since_s, speed = float(sys.argv[2]), float(sys.argv[3])  # The world's time: since when it runs, by the machine's \
clock, and how fast.

started_s = time.monotonic()

class Health(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        now = datetime.datetime.fromisoformat(sys.argv[4]) + datetime.timedelta(seconds=(time.monotonic() - since_s) \
* speed)
        body = json.dumps({"status": "ok", "uptime": time.monotonic() - started_s, "timestamp": now.isoformat()}\
).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *said):
        pass

http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Health).serve_forever()
"""


def us(seconds: float) -> int:
    return clock.micros(OPEN + timedelta(seconds=seconds))


def at(seconds: float, outcome: str = "ok", took: float = 0.1, probe: str = "health", last: bool = True) -> Sample:
    """Return a sample that was stored at `seconds`, of an attempt that took `took` seconds."""
    return Sample(us(seconds), probe, "app", outcome, took, None, 1, last)


# (samples, evaluated at, expected seconds of downtime)
FIGURES: dict[str, tuple[list[Sample], float, float | None]] = {
    "never probed": ([], 10, None),
    "it answers": ([at(5), at(10)], 10, 0.0),
    "one refused connection": ([at(5), at(10, "refused", 0.0), at(15)], 10, 0.0),
    "one slow answer": ([at(5), at(14, "timeout", 4.0, last=False), at(15)], 14, 4.0),
    "it answers again after one slow answer": ([at(5), at(14, "timeout", 4.0, last=False), at(15)], 15, 0.0),
    "from the request to the newest that was given up": (
        [at(5), at(14, "timeout", 4.0, last=False), at(18.5, "timeout", 4.0)],
        20,
        8.5,
    ),
    "never longer than it was seen": ([at(5), at(10, "refused", 0.0), at(15, "refused", 0.0)], 19.9, 5.0),
    "follow-ups count": (
        [at(5), at(10, "refused", 0.0), at(11, "refused", 0.0, "follow_up"), at(12.5, "refused", 0.0, "follow_up")],
        14,
        2.5,
    ),
    "a follow-up finds it back": ([at(5), at(10, "refused", 0.0), at(11, "ok", 0.1, "follow_up")], 14, 0.0),
    "what began before it was back ends later": (
        [at(5), at(10, "timeout", 4.0), at(12, "ok", 0.5, "follow_up"), at(13, "timeout", 4.0, "follow_up")],
        14,
        0.0,
    ),
    "from its last answer on": (
        [at(5, "refused", 0.0), at(10), at(15, "refused", 0.0), at(20, "refused", 0.0)],
        20,
        5.0,
    ),
    "an error of its own is no answer": ([at(5), at(10, "server_5xx"), at(42, "server_5xx")], 45, 32.1),
    "nobody probed for long in between": (
        [*(at(5.0 * i) for i in range(9)), at(45, "refused", 0.0), at(605, "refused", 0.0), at(610, "refused", 0.0)],
        610,
        5.0,
    ),
    "nobody probed lately": ([at(5, "refused", 0.0)], 120, None),
    "its process is gone": (
        [
            at(0, probe="process"),
            at(15, "gone", 0.0, "process"),
            at(16, "gone", 0.0, "follow_up"),
            at(47, "gone", 0.0, "follow_up"),
        ],
        50,
        32.0,
    ),
    "its process may not be looked at": ([at(0, "absent", 0.0, "process"), at(15, "absent", 0.0, "process")], 15, 0.0),
    "a process that is gone while another answers": ([at(5), at(6, "gone", 0.0, "process"), at(10)], 10, 0.0),
}


@pytest.mark.parametrize("case", FIGURES)
def test_downtime_is_measured_from_samples(case: str) -> None:
    """The downtime equals the one calculated by hand."""
    samples, when, expected = FIGURES[case]
    assert app_state.down_s(ProbeHistory(samples=samples), us(when)) == (
        None if expected is None else pytest.approx(expected)
    )


def test_follow_up_probes_do_not_change_rates() -> None:
    """Follow-up probes count neither for usable responses nor for availability, and are not listed as a probe kind."""
    probed = ProbeHistory(
        samples=[at(5), at(10, "refused", 0.0), *(at(10 + i, "refused", 0.0, "follow_up") for i in range(1, 5)), at(15)]
    )
    window = clock.Window(OPEN, OPEN + timedelta(seconds=15))
    assert probed.usable("app", window) == probed.answered("app", window) == (2, 3)
    assert probed.kinds == [("health", "app")] and probe_figures.has_probes(probed, RULES["app_down"], "app", "probe")


def probes(stop_s: float, down_s: float, first_s: float, hangs: bool) -> list[Sample]:
    """
    Return the samples of a server that stops at `stop_s` and is back after `down_s`, probed every five seconds from
    `first_s` on.

    A server that hangs answers no request until it continues; each probe times out after four seconds.
    """
    back_s, found, following = stop_s + down_s, list[Sample](), None

    def attempt(sent_s: float, probe: str) -> Sample:
        if not stop_s <= sent_s < back_s:
            return at(sent_s + 0.01, took=0.01, probe=probe)
        if not hangs:
            return at(sent_s + 0.01, "refused", 0.01, probe)
        ended_s = min(sent_s + 4, back_s)
        return at(ended_s, "timeout" if ended_s < back_s else "ok", ended_s - sent_s, probe)

    second = first_s
    while second < stop_s + 70:
        first = attempt(second, "health")
        last = first if first.outcome == "ok" else attempt(first.ts_us / 1e6 - us(0) / 1e6 + 0.3, "health")
        found += [first, last] if last is not first else [first]
        if last.outcome != "ok" and following is None:
            following = last.ts_us / 1e6 - us(0) / 1e6
            extra = [attempt(following + i, "follow_up") for i in range(1, 46)]
            found += [s for s in extra if s.outcome != "ok"] + [s for s in extra if s.outcome == "ok"][:1]
        second += 10.0 if hangs and last.outcome != "ok" else 5.0
    return found


def sent_of(home: Path, samples: list[Sample]) -> list[tuple[str, str, float]]:
    """Return what is notified for these samples: rule, severity and second."""
    kept = Database(f"sqlite:///{home / 'store.sqlite'}")
    beats = [Sample(us(5.0 * i), "beat", "collector", "ok", None, 50.0, detail='{"every_s": 5}') for i in range(40)]
    SampleStore(kept, "desk").keep([*samples, *beats], known_at_ts=True)
    found, standing = replay.replay_session(kept, settings.load(home, None, {}), RULES, us(0), us(190))
    return [
        (r.rule, r.severity, r.fired_us / 1e6 - us(0) / 1e6) for r in severity_changes(found, RULES, standing) if r.sent
    ]


@pytest.mark.parametrize("hangs", [False, True], ids=["killed", "hung"])
@pytest.mark.parametrize("first_s", [0.0, 2.5, 4.9])
def test_an_outage_is_notified_within_a_minute_at_any_phase(tmp_path: Path, first_s: float, hangs: bool) -> None:
    """People are notified within 60 s of the stop, wherever it falls between two probes and two evaluations."""
    ((rule, severity, fired_s),) = sent_of(tmp_path, probes(100.1, 1000.0, first_s, hangs))
    # Leaves ten seconds for a busy machine.
    assert (rule, severity) == ("app_down", "critical") and 30 < fired_s - 100.1 <= 50 - TO_NOTIFY_S


@pytest.mark.parametrize("hangs", [False, True], ids=["killed", "hung"])
@pytest.mark.parametrize("first_s", [0.0, 0.1, 2.5, 4.9])
@pytest.mark.parametrize("down_s", [4.0, 15.0, 29.9])
def test_an_outage_under_thirty_seconds_notifies_no_one(
    tmp_path: Path, down_s: float, first_s: float, hangs: bool
) -> None:
    """A restart or pause of less than 30 s notifies no one, wherever it falls between two probes."""
    assert sent_of(tmp_path, probes(100.1, down_s, first_s, hangs)) == []


class World:
    """The app's server as a separate process, its probes, and a clock that runs faster than real time."""

    def __init__(self, home: Path, **environ: str):
        self.since, self.port = time.monotonic(), free_port()
        self.store = Database(f"sqlite:///{home / 'store.sqlite'}")
        found = settings.load(home, None, {"OPS_APP_URL": f"http://127.0.0.1:{self.port}"} | environ)
        self.rounds = ProbeRunner(found, self.store, RULES, now=self.now, speed=SPEED)
        self.server: subprocess.Popen[bytes] | None = None

    def now(self) -> datetime:
        return OPEN + timedelta(seconds=(time.monotonic() - self.since) * SPEED)

    async def until(self, when: datetime) -> None:
        await asyncio.sleep(max(0.0, (when - self.now()).total_seconds() / SPEED))

    async def start(self) -> None:
        """Start the server, and wait until it answers."""
        self.server = subprocess.Popen(
            [sys.executable, "-c", SERVER, str(self.port), str(self.since), str(SPEED), OPEN.isoformat()]
        )
        for _ in range(1000):
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", self.port)
            except OSError:
                await asyncio.sleep(0.01)
            else:
                writer.close()
                return
        raise AssertionError("the server did not start")

    def kill(self) -> None:
        assert self.server
        self.server.kill()  # Has no effect on a process that has already ended.
        self.server.wait()

    def signal(self, name: signal.Signals) -> None:
        assert self.server
        os.kill(self.server.pid, name)


def lived(
    world: World, trouble: Callable[[World], Awaitable[float]], lasting_s: float
) -> tuple[datetime, float, list[tuple[str, str, float]]]:
    """
    Probe a server that is healthy at first and then fails.

    Returns:
        When it stopped, for how many seconds it did not serve (as `trouble` returns it), and what was notified: rule,
        severity, and seconds from the stop to the alert.
    """

    async def go() -> tuple[datetime, float]:
        await world.start()
        stop = asyncio.Event()
        probing = asyncio.create_task(world.rounds.run(stop))
        try:
            await world.until(world.now() + timedelta(seconds=21))
            stopped = world.now()
            down_s = await trouble(world)
            await world.until(stopped + timedelta(seconds=lasting_s))
        finally:
            stop.set()
            await probing
            world.kill()
        return stopped, down_s

    stopped, down_s = asyncio.run(go())
    found, standing = replay.replay_session(
        world.store, world.rounds.settings, RULES, clock.micros(OPEN), clock.micros(world.now())
    )
    sent = [
        (r.rule, r.severity, (r.fired_us - clock.micros(stopped)) / 1e6)
        for r in severity_changes(found, RULES, standing)
        if r.sent
    ]
    return stopped, down_s, sent


async def killed(world: World) -> float:
    world.kill()
    return float("inf")


async def hung(world: World) -> float:
    world.signal(signal.SIGSTOP)
    return float("inf")


@pytest.mark.parametrize("trouble", [killed, pytest.param(hung, marks=pytest.mark.slow)])
def test_people_are_notified_within_a_minute(tmp_path: Path, trouble: Callable[[World], Awaitable[float]]) -> None:
    """If the server is killed or hangs, people are notified once, within 60 s."""
    _, _, sent = lived(World(tmp_path), trouble, 65)
    ((rule, severity, after_s),) = sent
    assert (rule, severity) == ("app_down", "critical") and 30 < after_s <= 60, (
        "on a machine that is busy a probe may be late"
    )


@pytest.mark.slow
def test_a_missing_process_is_notified_without_an_app_url(tmp_path: Path) -> None:
    """Without an app URL only the process is probed; its end is also notified within 60 s."""
    pid = tmp_path / "app.pid"
    world = World(tmp_path, OPS_APP_URL="", OPS_APP_PID=str(pid))
    start = world.start

    async def started() -> None:
        await start()
        assert world.server
        pid.write_text(str(world.server.pid))

    world.start = started
    _, _, sent = lived(world, killed, 65)
    assert [s[:2] for s in sent] == [("app_down", "critical")] and 30 < sent[0][2] <= 60


def restarted(seconds: float) -> Callable[[World], Awaitable[float]]:
    async def go(world: World) -> float:
        stopped = world.now()
        world.kill()
        await world.until(stopped + timedelta(seconds=seconds))
        await world.start()
        return (world.now() - stopped).total_seconds()

    return go


def resumed(seconds: float) -> Callable[[World], Awaitable[float]]:
    async def go(world: World) -> float:
        stopped = world.now()
        world.signal(signal.SIGSTOP)
        await world.until(stopped + timedelta(seconds=seconds))
        world.signal(signal.SIGCONT)
        return (world.now() - stopped).total_seconds()

    return go


@pytest.mark.slow
@pytest.mark.parametrize("trouble", [restarted(20), resumed(27)], ids=["restarted", "resumed"])
def test_a_short_restart_notifies_no_one(tmp_path: Path, trouble: Callable[[World], Awaitable[float]]) -> None:
    """A server that is back within 30 s, as the same or a new process, notifies no one."""
    _, down_s, sent = lived(World(tmp_path), trouble, 60)
    assert [s for s in sent if s[0] == "app_answers"] == []
    assert sent == [] or down_s > 30, f"it was down for {down_s:.1f} s"


def test_one_failed_probe_notifies_no_one(tmp_path: Path) -> None:
    """An outage of 6 s, which one probe hits, notifies no one."""
    _, down_s, sent = lived(World(tmp_path), resumed(6), 30)
    assert sent == [] or down_s > 30


def test_follow_up_samples_are_stored_under_their_own_name(tmp_path: Path) -> None:
    """Follow-up samples are stored as `follow_up`, and the probe interval stays the same."""
    world = World(tmp_path)
    lived(world, killed, 20)
    kept = world.rounds.samples.between(0, 2**62)
    follow_ups = [s for s in kept if s.probe == "follow_up"]
    assert follow_ups and all(s.subject == "app" and json.loads(s.detail) is not None for s in follow_ups)
    assert sum(s.probe == "health" for s in kept) < 2 * 45 / 5, "the usual pace of the probes is as before"
