"""Test retention: old runs are deleted unless something refers to them."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from opslib import desk
from opslib.desk import Desk
from opslib.foundation import clock, time_parsing
from opslib.jobs import ledger, retention

NOW = time_parsing.parse("2026-03-10T16:15")


def run(found: Desk, name: str, days_old: float, size: int) -> Path:
    """Create a run that ended that long ago, with its files."""
    at_us = clock.micros(NOW - timedelta(days=days_old))
    ledger.begins(
        found.store,
        None,
        id=name,
        app="desk",
        notebook="n.ipynb",
        parameters="{}",
        started_at_us=at_us,
        state="running",
    )
    ledger.ends(found.store, name, state="ok", reason=None, ended_at_us=at_us, outputs=[])
    place = found.settings.outputs / "runs" / name / "n.html"
    place.parent.mkdir(parents=True)
    place.write_bytes(b"x" * size)
    return place


def test_old_runs_are_deleted_unless_referred_to(home: Path) -> None:
    """Runs are deleted by age, then by size, oldest first; runs that are referred to stay."""
    opened = desk.open()
    found = Desk(replace(opened.settings, keep_runs_days=30, keep_runs_mb=0.03), lambda: NOW)
    places = {
        name: run(found, name, days, 10_000)
        for name, days in (
            ("old-1", 60),
            ("old-cited", 50),
            ("old-reported", 45),
            ("new-1", 20),
            ("new-2", 10),
            ("new-3", 1),
        )
    }
    incident = found.incidents.open("trouble", by="Ann")
    found.incidents.append(incident.id, "note", {"words": "see run old-cited"}, by="Ann")
    report = found.settings.outputs / "reports" / "2026" / "2026-03-09_daily.json"
    report.parent.mkdir(parents=True)
    report.write_text('{"evidence": "old-reported"}')
    stray = found.settings.outputs / "runs" / "somebody's folder"
    stray.mkdir()
    assert retention.sweep(found) == ["old-1", "new-1", "new-2"]  # The limit of 30 kB is the size of three runs.
    assert {name for name, place in places.items() if place.exists()} == {"old-cited", "old-reported", "new-3"}
    assert report.exists() and stray.exists() and len(ledger.runs(found.store)) >= 6


def test_the_sweep_runs_once_a_day(home: Path) -> None:
    """The sweep runs once a day, however often it is called."""
    found = Desk(desk.open().settings, lambda: NOW)
    run(found, "old", 100, 10)
    assert retention.sweep_daily(found) == ["old"]
    run(found, "older", 101, 10)
    assert retention.sweep_daily(found) == []
