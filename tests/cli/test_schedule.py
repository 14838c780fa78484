"""``ops schedule``: what it shows, what it tries, and how it has the system do it."""

import json
import os
import shlex
import stat
from pathlib import Path

import pytest

from opslib import desk
from opslib.cli import main
from opslib.cli.commands import schedule
from opslib.foundation import time_parsing
from opslib.jobs import ledger
from opslib.jobs import schedule as jobs_schedule
from opslib.services import scheduler
from tests.services.test_scheduler import job, scheduled


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """A command's exit code and what it prints."""
    capsys.readouterr()
    code = main.main(["schedule", *arguments])
    return code, capsys.readouterr().out


def test_what_comes_next(home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each job the next time, its name in the ledger, and what became of the last; before it ever ran it says so."""
    monkeypatch.setenv("OPS_CLOCK", "2025-11-27T12:00-05:00,0,0.000001")
    code, out = shown(capsys, "list")
    assert code == 0 and out.startswith("The schedule is not running yet") and "Fri 2025-11-28 13:15" in out
    code, out = shown(capsys, "list", "-o", "json")
    daily = next(row for row in json.loads(out) if row["job"] == "daily-report")
    assert (daily["next"], daily["makes"], daily["last"], daily["owner"]) == (
        "2025-11-28T18:15:00.000Z",
        "report daily 2025-11-28",
        None,
        "Tech Lead",
    )
    assert next(row for row in json.loads(out) if row["job"] == "staging")["next"] is None


def test_an_odd_schedule_is_refused(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By name, with exit 70; what is asked wrongly with exit 64."""
    scheduled(home, '\n[odd]\nruns = "checklist mornin"\nwhen = "08:00"\n')
    assert main.main(["schedule", "run", "--once"]) == 70
    assert "Did you mean 'morning'" in capsys.readouterr().err
    assert (
        main.main(["schedule", "install"])
        == main.main(["schedule", "list", "cron"])
        == main.main(["schedule", "run", "--workers", "0"])
        == 64
    )


def test_each_is_tried_once(home: Path) -> None:
    """
    Reports under the name of partial ones where they are not over, checklists without a trace, a notebook as it is;
    each by a warm kernel.
    """
    scheduled(home, job("mine", "08:00"))
    found = desk.open()
    jobs = {
        name: j
        for name, j in jobs_schedule.read(home, found.contacts).items()
        if name in ("weekly-report", "morning", "mine")
    }
    ended = {
        j.name: (outcome, place)
        for j, outcome, place in scheduler.dry_run(
            found, jobs, time_parsing.parse("2026-03-10T17:00"), lambda running: running
        )
    }
    assert {name: outcome.state for name, (outcome, _) in ended.items()} == {
        "weekly-report": "ok",
        "morning": "ok",
        "mine": "ok",
    }
    assert "2026-W11" in ended["weekly-report"][1].name and all(
        Path(f"{place}.html").exists() for _, place in ended.values()
    )
    assert {r["kernel"] for r in ledger.runs(found.store)} == {"warm"} and {
        r["due"] for r in ledger.runs(found.store)
    } == {None}


def test_a_timer_of_systemd(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """
    Two files where systemd looks for them: each minute, what is due, by this Python and on this home, whatever its
    name.
    """
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("OPS_HOME", str(tmp_path / "a 100 % home"))
    code, out = shown(capsys, "install", "systemd", "-o", "json")
    service, timer = (Path(p).read_text() for p in json.loads(out)["files"])
    assert code == 0 and "OnCalendar=*-*-* *:*:00" in timer and "Persistent=true" in timer
    line = next(line for line in service.splitlines() if line.startswith("ExecStart="))
    command = shlex.split(line.removeprefix("ExecStart=").replace("%%", "%"))
    assert command[1:] == [
        "-m",
        "opslib.cli",
        "--home",
        str(tmp_path / "a 100 % home"),
        "--app",
        "desk",
        "schedule",
        "run",
        "--once",
    ] and os.access(command[0], os.X_OK)


CRONTAB = '#!/bin/sh\nif [ "$1" = -l ]; then cat "{table}" 2>/dev/null; else cat > "{table}"; fi\n'


def test_a_line_of_cron(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line, once, however often it is installed; what stood there stays."""
    table = tmp_path / "table"
    table.write_text("0 4 * * * backup\n")
    program = tmp_path / "bin" / "crontab"
    program.parent.mkdir()
    program.write_text(CRONTAB.format(table=table))
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    for _ in range(2):
        assert shown(capsys, "install", "cron")[0] == 0
    before, line = table.read_text().splitlines()
    assert (
        before == "0 4 * * * backup"
        and line.startswith("* * * * * ")
        and line.endswith("schedule run --once # ops schedule of desk")
    )
    monkeypatch.setattr(schedule.shutil, "which", lambda _: None)
    assert main.main(["schedule", "install", "cron"]) == 64
