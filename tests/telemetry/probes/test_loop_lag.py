"""
A collector that does not get processor time: its timings do not count, the responses it received still do, and the
cause is ours.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from opslib.alerting import probe_figures
from opslib.dashboard.status import Status
from opslib.foundation import clock
from opslib.foundation.clock import Window
from opslib.foundation.config import settings
from opslib.foundation.storage.database import Database
from opslib.runbooks.diagnosis.diagnosis import diagnose
from opslib.simulation.world.http_server import Answer, as_json
from opslib.telemetry.probes import runner
from opslib.telemetry.probes.history import ProbeHistory
from opslib.telemetry.probes.loop_lag import Lag
from opslib.telemetry.probes.runner import ProbeRunner
from opslib.telemetry.probes.store import Sample, SampleStore
from tests.support import snapshots
from tests.support.outside_world import BEGINS, RULES, Outside, probing
from tests.support.servers import serving


def us(seconds: float) -> int:
    return clock.micros(BEGINS + timedelta(seconds=seconds))


def sample(
    seconds: float,
    probe: str,
    subject: str,
    outcome: str = "ok",
    took: float | None = None,
    value: float | None = None,
    **detail: object,
) -> Sample:
    return Sample(us(seconds), probe, subject, outcome, took, value, detail=json.dumps(detail))


def over(start: float, end: float) -> Window:
    return Window(BEGINS + timedelta(seconds=start), BEGINS + timedelta(seconds=end))


def test_the_lag_in_a_period() -> None:
    """Only the lag within the period counts, and very short delays are ignored."""
    lag = Lag()
    for due_s, woken_s in ((10.0, 10.01), (11.0, 12.5), (20.0, 20.3)):
        lag.note(due_s, woken_s)
    assert [lag.lost_s(*s) for s in ((0.0, 30.0), (11.5, 12.0), (12.5, 19.0), (12.0, 20.1))] == pytest.approx(
        [1.8, 0.5, 0.0, 0.6]
    )


def test_a_blocked_loop_is_measured_at_once() -> None:
    """The lag of a block is known right after it, before the measuring task runs again, and stays the same later."""

    async def go() -> tuple[float, float]:
        lag, loop = Lag(), asyncio.get_running_loop()
        measuring = asyncio.create_task(lag.run())
        await asyncio.sleep(0.05)
        began_s = loop.time()
        time.sleep(0.6)
        at_once_s = lag.lost_s(began_s, loop.time())
        await asyncio.sleep(0.15)
        measuring.cancel()
        return at_once_s, lag.lost_s(began_s, began_s + 0.6)

    at_once_s, later_s = asyncio.run(go())
    assert 0.4 <= at_once_s <= 0.61 and 0.4 <= later_s <= 0.61


@pytest.mark.parametrize(
    ("took", "lag_s", "counts"),
    [(0.2, None, 0.2), (0.9, 0.3, 0.6), (0.9, 0.45, None), (0.9, 2.0, None), (3.5, 0.5, 3.0)],
)
def test_lag_is_subtracted_from_a_timing(took: float, lag_s: float | None, counts: float | None) -> None:
    """
    Our lag is subtracted from a measured time. If it was half of the time or more, the time does not count. An app that
    is really slow stays slow.
    """
    detail = {} if lag_s is None else {"lag_s": lag_s}
    probed = ProbeHistory(
        "tradier", [sample(i, probe, "app", took=took, **detail) for i in range(10) for probe in ("health", "socket")]
    )
    expected = None if counts is None else pytest.approx(counts)
    assert probe_figures.p95_s(probed, "app", over(-1, 20)) == expected
    assert (
        probe_figures.measure(
            probed, snapshots.counter_history([]), RULES["websocket_latency"], "app", over(-1, 20)
        ).value
        == expected
    )


def under_lag(home: Path, lost_s: float, outcome: str, took: float | None, value: float | None = None) -> Sample:
    """The stored sample if that much time was lost to lag."""

    async def go() -> Sample:
        outside = Outside()
        async with probing(home, outside, ()) as made:
            now_s = asyncio.get_running_loop().time()
            made._lag.note(now_s - lost_s, now_s)
            return made._under_lag(
                Sample(clock.micros(outside.at), "liveness", "massive", outcome, took, value), now_s - (took or 4.0)
            )

    return asyncio.run(go())


@pytest.mark.parametrize(
    ("outcome", "lost_s", "kept"),
    [
        ("timeout", 0.0, "timeout"),
        ("timeout", 1.0, "timeout"),
        ("timeout", 2.5, "starved"),
        ("timeout", 60.0, "starved"),
        ("unreachable", 3.0, "starved"),
        ("reset", 3.0, "starved"),
        ("server_5xx", 3.9, "server_5xx"),
        ("auth_401", 3.9, "auth_401"),
        ("refused", 3.9, "refused"),
        ("ok", 3.9, "ok"),
        ("stale", 3.9, "stale"),
    ],
)
def test_which_outcome_counts(tmp_path: Path, outcome: str, lost_s: float, kept: str) -> None:
    """A timeout does not count if most of the time was our own lag; the content of a response always counts."""
    found = under_lag(tmp_path, lost_s, outcome, 4.0)
    assert found.outcome == kept and ("lag_s" in found.details()) == (lost_s > 0)


def test_a_silent_websocket_does_not_count_under_lag(tmp_path: Path) -> None:
    """A WebSocket whose messages were not read because we did not run is not silent."""
    assert (
        under_lag(tmp_path, 20.0, "silent", 0.02, 35.0).outcome == "starved"
        and under_lag(tmp_path, 1.0, "silent", 0.02, 35.0).outcome == "silent"
    )


def starving(share: float, massive: str = "ok", app_s: float = 0.02, lag_s: float = 0.0) -> Status:
    """Status of five minutes of a collector that lost this share of its time."""
    beats = [
        sample(s, "beat", "collector", value=50.0, every_s=5.0, **({"lag_s": round(5 * share, 2)} if share else {}))
        for s in range(0, 301, 5)
    ]
    detail = {"lag_s": lag_s} if lag_s else {}
    asked = [
        sample(
            s,
            probe,
            subject,
            massive if subject == "massive" else "ok",
            app_s if subject == "app" else 0.2,
            market="open",
            skew_s=0.0,
            **detail,
        )
        for s in range(0, 301, 5)
        for probe, subject in (("liveness", "massive"), ("liveness", "tradier"), ("health", "app"))
    ]
    page = snapshots.PageOf((BEGINS - snapshots.OPENS).total_seconds() - 600)
    counters = snapshots.counter_history(
        [
            page.add(massive_requests=1, tradier_requests=1, validations=1).snapshot(
                (BEGINS - snapshots.OPENS).total_seconds() + s
            )
            for s in range(0, 301, 5)
        ]
    )
    return Status("desk", over(0, 300), None, counters, RULES, probed=ProbeHistory("tradier", [*beats, *asked]))


@pytest.mark.parametrize(
    ("view", "cause", "also"),
    [
        (starving(0.0), ("none", None), []),
        (starving(0.1), ("none", None), []),  # A lag of 10 % is normal on a busy machine.
        (starving(0.8, app_s=1.5, lag_s=1.4), ("monitor_down", "collector"), []),
        (
            starving(0.8, massive="server_5xx", app_s=1.5, lag_s=1.4),
            ("provider_5xx", "massive"),
            ["monitor_down of collector"],
        ),
        # A starved collector cannot decide whether the app is slow.
        (starving(0.8, app_s=3.0, lag_s=0.5), ("monitor_down", "collector"), []),
    ],
    ids=["well", "busy", "starved", "starved and a real 5xx", "starved and really slow"],
)
def test_a_starved_collector_hides_no_other_cause(view: Status, cause: tuple[str, str | None], also: list[str]) -> None:
    """
    A starved collector is the cause, because it makes everything look slow; a fault that lag cannot explain comes
    first.
    """
    found = diagnose(view)
    assert (found.cause, found.subject) == cause and list(map(str, found.also)) == also
    assert any("could not run for" in s.words for s in view.summaries) is (found.cause == "monitor_down" or bool(also))


def test_all_slow_at_the_same_time_is_our_network() -> None:
    """
    If both providers and the app are slow at the same time and our process ran normally, the cause is our network.
    """
    slow = [
        sample(s, probe, subject, took=3.0, market="open", skew_s=0.0)
        for s in range(0, 301, 5)
        for probe, subject in (("liveness", "massive"), ("liveness", "tradier"), ("health", "app"))
    ]
    beats = [sample(s, "beat", "collector", value=50.0, every_s=5.0) for s in range(0, 301, 5)]
    view = starving(0.0)
    assert (
        diagnose(
            Status("desk", view.window, None, view.counters, RULES, probed=ProbeHistory("tradier", [*slow, *beats]))
        ).cause
        == "our_network"
    )


def test_a_blocked_loop_causes_no_timeouts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    If the loop is blocked for longer than a timeout, no provider times out; the heartbeat reports the lag and how late
    the probes were.
    """
    monkeypatch.setattr(runner, "SLEPT_S", 1000.0)

    async def go() -> list[Sample]:
        async with serving(lambda _: as_json({"market": "open"})) as url:
            found = settings.load(tmp_path, None, {"OPS_MASSIVE_URL": url})
            made = ProbeRunner(found, Database(found.url), RULES, every_s=1.0, speed=20.0)
            stop = asyncio.Event()
            running = asyncio.create_task(made.run(stop))
            for _ in range(8):
                await asyncio.sleep(0.1)
                time.sleep(0.4)  # Eight simulated seconds; the timeout of an attempt is four.
            await asyncio.sleep(0.1)
            stop.set()
            await running
            return made.samples.between(0, 2**62)

    samples = asyncio.run(go())
    assert "timeout" not in {s.outcome for s in samples if s.probe == "liveness"}
    beats = [s.details() for s in samples if s.probe == "beat"]
    assert max(b.get("lag_s", 0.0) for b in beats) > 4.0 and max(b.get("late_s", 0.0) for b in beats) > 2.0


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="processes are stopped by a signal there is not")
def test_a_collector_that_is_often_stopped(tmp_path: Path) -> None:
    """
    If the real collector runs a tenth of each second only, neither app nor provider is slow or times out, and the lost
    share is above its threshold.
    """
    began = datetime.now(UTC).timestamp()
    environ = {"OPS_CLOCK": f"{BEGINS.isoformat()},{began},1", "OPS_HOME": str(tmp_path)}

    def served(request: object) -> Answer:
        at = BEGINS + timedelta(seconds=datetime.now(UTC).timestamp() - began)
        if "health" in request.path:
            return as_json(
                {"status": "ok", "uptime": 9000.0 + (at - BEGINS).total_seconds(), "timestamp": at.isoformat()}
            )
        return as_json({"market": "open", "serverTime": at.isoformat(), "status": "ok"})

    async def go() -> None:
        async with serving(served) as url:
            world = {"OPS_MASSIVE_URL": url, "OPS_APP_URL": url}
            process = subprocess.Popen(
                [sys.executable, "-m", "opslib.cli", "collect", "--every", "1s"],
                env={**os.environ, **environ, **world},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            store = Database(settings.load(tmp_path, None, environ).url)
            try:
                async with asyncio.timeout(90):
                    while not any(s.probe == "health" for s in SampleStore(store, "desk").between(0, 2**62)):
                        await asyncio.sleep(0.2)
                for _ in range(12):
                    process.send_signal(signal.SIGSTOP)
                    await asyncio.sleep(0.9)
                    process.send_signal(signal.SIGCONT)
                    await asyncio.sleep(0.1)
            finally:
                process.send_signal(signal.SIGCONT)
                process.terminate()
                process.wait(timeout=60)

    asyncio.run(go())
    samples = SampleStore(Database(settings.load(tmp_path, None, environ).url), "desk").between(0, 2**62)
    assert not {"timeout", "unreachable"} & {s.outcome for s in samples}
    last_us = max(s.ts_us for s in samples if s.probe == "beat" and s.outcome == "ok")
    window, probed = (
        Window(clock.instant(last_us) - timedelta(seconds=10), clock.instant(last_us)),
        ProbeHistory("tradier", samples),
    )
    assert (probed.lost_share(window) or 0.0) > RULES.probes.starved_share
    slow = [probe_figures.p95_s(probed, subject, window) for subject in ("massive", "app")]
    assert all(p95 is None or p95 < 0.5 for p95 in slow), slow
