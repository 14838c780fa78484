"""
Test an hour of the simulated world with a real `ops collect` process.

Its samples agree with the world's script to within one probe. It discloses no secret and no name of a state, and it
stops cleanly.
"""

import itertools
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import psutil
import pytest

from opslib.alerting.causes import CAUSES
from opslib.foundation import clock
from opslib.foundation.config import rules, settings
from opslib.foundation.storage.database import Database
from opslib.services.server import ServerThread
from opslib.simulation.world.control import World
from opslib.simulation.world.faults import STATES, codes
from opslib.telemetry.probes.outcomes import OUTCOMES
from opslib.telemetry.probes.store import Sample, SampleStore

pytestmark = [pytest.mark.drill, pytest.mark.slow]

BEGINS = datetime(2026, 3, 10, 14, 40, tzinfo=UTC)  # 10:40 in New York.
SPEED, EVERY_S = 15.0, 5
ATTEMPT_S = 4.0
LATE_S = 4.0  # Allowed delay between two processes, in world seconds: a quarter of a real second.
SETTLED_S = 8.0  # After a change a server may need half a real second to listen again.
# The outcome of a probe in each state.
LIVENESS = {
    "massive_5xx": "server_5xx",
    "massive_timeout": "timeout",
    "massive_refused": "refused",
    "massive_tls": "tls",
    "massive_401": "auth_401",
    "massive_403_ip": "ip_blocked_403",
    "massive_html_200": "wrong_content",
    "both_down": "server_5xx",
    "our_network_down": "unreachable",
}
DATA = {"massive_403_plan": "entitlement_403", "massive_empty": "ok_empty", "massive_stale": "stale"}
TRADIER = {"tradier_down": "server_5xx", "both_down": "server_5xx", "our_network_down": "unreachable"}
SOCKET = {
    "ws_403": "forbidden_403",
    "ws_port_blocked": "unreachable",
    "app_down": "refused",
    "ws_open_silent": "silent",
    "ws_closed_1006": "closed",
}
APP = {"app_down": "refused"}
STALLS = ("timeout", "unreachable", "starved")  # What a probe of a stalled machine can find.
DEAFENING = ("ws_open_silent", "our_network_down")
POOLED = 5  # Size of SQLAlchemy's connection pool.
# Words of the app, of our rules, and of the causes of a diagnosis.
OUR_WORDS = {"healthy", "gamma_zero", "delta_out_of_bounds", *CAUSES}
PLAYED = sorted({*LIVENESS, *DATA, *TRADIER, *SOCKET})


@dataclass
class Hour:
    """The recorded hour: the script, and what the collector recorded."""

    seed: int
    script: list[dict[str, Any]]
    begins: datetime
    ends: datetime
    samples: list[Sample]
    bytes_seen: dict[str, bytes]
    tokens: list[str]
    stderr: str
    code: int

    def of(self, probe: str, subject: str) -> list[Sample]:
        return [s for s in self.samples if (s.probe, s.subject) == (probe, subject)]

    def when(self, sample: Sample) -> tuple[datetime, datetime]:
        """Return the start and end of an attempt."""
        end = clock.instant(sample.ts_us)
        return end - timedelta(seconds=sample.seconds or 0.0), end

    def state_during(self, start: datetime, end: datetime) -> str | None:
        """Return the only active state during an attempt, with a margin; None if it changed near it."""
        room = timedelta(seconds=SETTLED_S)
        for entry in self.script:
            if entry["from"] + room <= start and end <= (entry["to"] or self.ends) - room:
                return entry["state"]
            if entry["from"] - room <= end and start <= (entry["to"] or self.ends) + room:
                return None
        return "healthy"


@pytest.fixture(scope="module")
def hour(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hour]:
    """Record an hour with faults in random order, each state that probes can detect once."""
    seed = random.SystemRandom().randrange(10**6)
    print(f"seed {seed}")
    rng, home = random.Random(seed), tmp_path_factory.mktemp("hour")
    playing = PLAYED.copy()
    rng.shuffle(playing)
    with pytest.MonkeyPatch.context() as patch, World(BEGINS, seed=seed, speed=SPEED) as world:
        patch.setenv("OPS_CLOCK", world.environ["OPS_CLOCK"])
        found = settings.load(home, None, world.environ)
        store = Database(found.url)
        with ServerThread(found, store, rules.load()) as served:
            environ = {**os.environ, **world.environ, "OPS_HOME": str(home)}
            collecting = subprocess.Popen(
                [sys.executable, "-m", "opslib.cli", "collect", "--every", f"{EVERY_S}s"],
                env=environ,
                stderr=subprocess.PIPE,
                text=True,
            )
            posting = threading.Thread(
                target=_post_pages, args=(world, served.url, stop := threading.Event(), lock := threading.Lock())
            )
            posting.start()
            try:
                begins = clock.now()
                _wait(timedelta(seconds=60))
                for state in playing:
                    with lock:
                        world.inject(**{state: 1.0})
                    _wait(timedelta(seconds=rng.randint(70, 95)))
                    with lock:
                        world.inject()
                    _wait(timedelta(seconds=rng.randint(58, 75)))
                ends = clock.now()
                seen = {"arguments": _arguments(), "log": (world.folder / "app.log").read_bytes()}
            finally:
                stop.set()
                posting.join()
                collecting.send_signal(signal.SIGTERM)
                stderr = collecting.communicate(timeout=30)[1]
            script = world.script()
        seen |= {path.name: path.read_bytes() for path in home.rglob("*") if path.is_file()}
        samples = SampleStore(store, "desk").between(0, 2**62)
        seen["samples"] = "\n".join(map(str, samples)).encode()
        seen["environment"] = repr(world.environ).encode()
        store.close()
        yield Hour(
            seed,
            script,
            begins,
            ends,
            samples,
            seen,
            [v for k, v in world.environ.items() if k.endswith("TOKEN")],
            stderr,
            collecting.returncode,
        )


def _wait(span: timedelta) -> None:
    time.sleep(span.total_seconds() / SPEED)  # The world runs on its own; there is no event to wait for.


def _post_pages(world: World, receiver: str, stop: threading.Event, lock: threading.Lock) -> None:
    import http.client
    import json
    from urllib.parse import urlsplit

    address = urlsplit(receiver)
    while not stop.wait(0.1):
        with lock:
            posts = world.posts()
        connection = http.client.HTTPConnection(str(address.hostname), address.port, timeout=10)
        for _, body in posts:
            connection.request("POST", "/api/metrics/export", json.dumps(body), {"Content-Type": "text/plain"})
            connection.getresponse().read()
        connection.close()


def _arguments() -> bytes:
    """Return arguments and environment of every process of this world and its collector."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            line = process.cmdline()
            if any("opslib" in part for part in line):
                found += [*line, repr(process.environ())]
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return "\n".join(found).encode()


def _judged(hour: Hour, probe: str, subject: str, expected: dict[str, str]) -> tuple[dict[str, int], list[str]]:
    """Count, for each state, the attempts with the expected outcome; return them with all other attempts."""
    right, wrong = dict[str, int](), []
    for sample in hour.of(probe, subject):
        start, end = hour.when(sample)
        state = hour.state_during(start, end)
        if state is None or sample.outcome == "quota_kept":
            continue
        wanted = expected.get(state, "ok")
        right[state] = right.get(state, 0) + (sample.outcome == wanted)
        if sample.outcome != wanted:
            wrong.append(f"{end:%H:%M:%S} {state}: {sample.outcome}, not {wanted} ({sample.seconds})")
    return right, wrong


@pytest.mark.parametrize(
    ("probe", "subject", "expected", "least"),
    [
        ("liveness", "massive", LIVENESS, 300),
        ("liveness", "tradier", TRADIER, 300),
        ("health", "app", APP, 300),
        ("data", "massive", LIVENESS | DATA, 20),
    ],
)
def test_samples_agree_with_the_script(
    hour: Hour, probe: str, subject: str, expected: dict[str, str], least: int
) -> None:
    """
    Every attempt during one state has that state's outcome.

    If the machine stalls, a probe may time out or be starved, since it has only a quarter of a real second. That may
    happen in 5 % of the attempts, and no state may be detected by such outcomes alone.
    """
    right, wrong = _judged(hour, probe, subject, expected)
    stalls = [w for w in wrong if any(f": {name}, not" in w for name in STALLS)]
    count = sum(right.values()) + len(wrong)
    assert count >= least and wrong == stalls and len(stalls) <= max(2, count / 20) and all(right.values()), (
        hour.seed,
        right,
        wrong[:10],
    )


def test_socket_samples_agree_with_the_script(hour: Hour) -> None:
    """
    Each fault of the socket has its own outcome while it lasts; otherwise the socket is healthy.

    If the machine stalls, attempts may fail, as in :func:`test_samples_agree_with_the_script`.
    """
    for entry in hour.script:
        wanted = SOCKET.get(entry["state"])
        if wanted is None:
            continue
        shown = entry["from"] + timedelta(seconds=45 if wanted == "silent" else 20)
        outcomes = [
            s.outcome
            for s in hour.of("socket", "app")
            if shown <= clock.instant(s.ts_us) <= entry["to"] - timedelta(seconds=LATE_S)
        ]
        assert outcomes.count(wanted) > len(outcomes) / 2, (hour.seed, entry, outcomes)

    # A socket without upstream stays silent until a new client connects, as in the real app.
    def deaf(at):
        return ([e["state"] for e in hour.script if e["state"] in (*SOCKET, *DEAFENING) and e["from"] <= at] or [""])[
            -1
        ] in DEAFENING

    quiet = [
        s
        for s in hour.of("socket", "app")
        if (end := clock.instant(s.ts_us))
        and not deaf(end)
        and hour.state_during(end - timedelta(seconds=40), end) not in (None, *SOCKET)
    ]
    bad = [(f"{clock.instant(s.ts_us):%H:%M:%S}", s.outcome) for s in quiet if not OUTCOMES[s.outcome].usable]
    assert len(quiet) > 50 and all(outcome in STALLS for _, outcome in bad), (hour.seed, bad[:10])
    assert len(bad) <= max(2, len(quiet) / 20), (hour.seed, bad[:10])


def test_outages_are_dated_within_one_probe(hour: Hour) -> None:
    """
    The first failing probe of an outage, and the first successful one after it, are within one probe of the script.
    """
    for entry in hour.script:
        wanted = LIVENESS.get(entry["state"])
        if wanted is None or OUTCOMES[wanted].answered is not False:
            continue
        attempts = hour.of("liveness", "massive")
        failing = [
            s
            for s in attempts
            if s.outcome == wanted and entry["from"] <= clock.instant(s.ts_us) <= entry["to"] + timedelta(seconds=10)
        ]
        began = hour.when(failing[0])[0]
        over = next(s for s in attempts if s.outcome == "ok" and clock.instant(s.ts_us) > entry["to"])
        one_look = timedelta(seconds=2 * ATTEMPT_S + 1 + EVERY_S + LATE_S)
        assert entry["from"] - timedelta(seconds=ATTEMPT_S + LATE_S) <= began <= entry["from"] + one_look, (
            hour.seed,
            entry,
            began,
        )
        assert hour.when(over)[0] <= entry["to"] + one_look, (hour.seed, entry, over)


def test_no_state_is_named(hour: Hour) -> None:
    """
    No name or code of a state is in anything that the collector can read.

    That is arguments, environment, the app log and the database.
    """
    words = [*(name for name in STATES if name not in OUR_WORDS), *codes(hour.seed).values()]
    for place, content in hour.bytes_seen.items():
        assert not [word for word in words if word.encode() in content], place


def test_no_secret_is_disclosed(hour: Hour) -> None:
    """No token is in any byte of the home directory, in a recorded value, or in the output."""
    for token in hour.tokens:
        assert token not in hour.stderr
        for place, content in hour.bytes_seen.items():
            assert place in ("arguments", "environment") or token.encode() not in content, place


def test_it_stops_cleanly_and_does_not_leak(hour: Hour) -> None:
    """
    The collector exits with 0, its last heartbeat says that it was stopped, and no heartbeat is missing.

    Memory, files and tasks do not grow.
    """
    beats = hour.of("beat", "collector")
    assert hour.code == 0 and "failed" not in hour.stderr and "Traceback" not in hour.stderr, hour.stderr
    assert [b.outcome for b in beats].count("stopped") == 1 and beats[-1].outcome == "stopped"
    gaps = sorted((b.ts_us - a.ts_us) / 1e6 for a, b in itertools.pairwise(beats))
    assert gaps[len(gaps) // 2] == pytest.approx(EVERY_S, abs=1) and gaps[-3] < 4 * EVERY_S
    early, late = beats[len(beats) // 4 : len(beats) // 2], beats[-len(beats) // 4 : -1]

    def middle(found):
        return sorted(found)[len(found) // 2]

    # The first sixteen chains allocate 13 MB in all, later ones nothing. A library that is first imported late takes a
    # few more, and so do the snapshots and samples of the rules' windows, which fill during the session. Measured in
    # three runs: 12 to 16 MB.
    assert middle([b.value or 0 for b in late]) < middle([b.value or 0 for b in early]) + 24
    # The database's pool opens up to five connections, of two files each, when they are first needed, which may be
    # late. A leak would grow with each probe of a state, of which there are fifteen or more each time.
    for what, filled in (("files", 2 * POOLED), ("tasks", 2)):
        assert min(b.details()[what] for b in late) <= min(b.details()[what] for b in early) + filled, what
