"""Test the demo's probes: their samples are those of the script, also on a slow machine."""

import asyncio
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from opslib.foundation.config import settings
from opslib.foundation.errors import OpsError
from opslib.foundation.storage.database import Database
from opslib.simulation.demo_day import prober, replay
from opslib.simulation.demo_day.prober import Prober
from opslib.simulation.world.script import Script
from opslib.telemetry.probes import http
from opslib.telemetry.probes.store import Sample, SampleStore

QUICK = 400.0  # At this speed an attempt's usual timeout is a hundredth of a real second.
LATE_S = 0.05
# The value of these probes is the age of the last message or memory, which is not scripted.
OF_THE_MACHINE = ("socket", "process", "beat", "upstream")


def _two_faults() -> Script:
    """Return the script with an outage and a blocked port of half a minute each, soon after the open."""
    scripted = replay.scripted()
    moved = {
        "massive_outage": scripted.opens + timedelta(seconds=15),
        "websocket_loss": scripted.opens + timedelta(seconds=75),
    }
    faults = [
        replace(f, begins=moved[f.name], ends=moved[f.name] + timedelta(seconds=40))
        for f in scripted.faults
        if f.name in moved
    ]
    return replace(scripted, faults=tuple(faults))


def _probed(home: Path) -> list[Sample]:
    """Probe the two faults, and return what was stored."""
    scripted, desk = _two_faults(), settings.load(home, "demo", {})
    with Prober(scripted, desk) as probes:
        probes.probe_until(scripted.opens + timedelta(minutes=2, seconds=10))
    store = Database(desk.url)
    found = SampleStore(store, "demo").between(0, 2**62)
    store.close()
    return found


def _slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Delay each request by more than its usual timeout, as a busy machine does."""
    create = http._transport

    def transport(trust: Any) -> Any:
        made = create(trust)
        send = made.handle_async_request

        async def handle(request: Any) -> Any:
            await asyncio.sleep(LATE_S)
            return await send(request)

        made.handle_async_request = handle
        return made

    monkeypatch.setattr(http, "_transport", transport)


def test_a_slow_machine_changes_no_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Requests that take five times their timeout have the same outcomes and response times as quick ones.

    The only failures are the scripted ones: Massive's server errors and the WebSocket's blocked port.
    """
    monkeypatch.setattr(prober, "WORLD_SPEED", QUICK)
    # At least as long in real time as at the demo's own speed.
    monkeypatch.setattr(prober, "PATIENCE", 100 * prober.PATIENCE)
    quick = _probed(tmp_path / "quick")
    _slow(monkeypatch)
    late = _probed(tmp_path / "late")

    def scripted(samples: list[Sample]) -> list[tuple[Any, ...]]:
        return [
            (
                s.ts_us,
                s.probe,
                s.subject,
                s.attempt,
                s.outcome,
                s.seconds,
                None if s.probe in OF_THE_MACHINE else s.value,
            )
            for s in samples
        ]

    assert scripted(late) == scripted(quick)
    assert {(s.probe, s.subject, s.outcome) for s in late if s.outcome != "ok"} == {
        ("liveness", "massive", "server_5xx"),
        ("data", "massive", "server_5xx"),
        ("chain", "SPY", "server_5xx"),
        ("chain", "AAPL", "server_5xx"),
        ("socket", "app", "unreachable"),
    }


def test_a_machine_that_is_too_slow_ends_the_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the machine is too slow for the scripted result, the demo fails with the reason, and no sample is stored."""
    monkeypatch.setattr(prober, "WORLD_SPEED", QUICK)
    monkeypatch.setattr(prober, "PATIENCE", 1.0)
    _slow(monkeypatch)
    with pytest.raises(OpsError, match="The machine was too slow for the simulated day.*'(timeout|unreachable)'"):
        _probed(tmp_path)
    store = Database(settings.load(tmp_path, "demo", {}).url)
    assert not SampleStore(store, "demo").between(0, 2**62)
    store.close()
