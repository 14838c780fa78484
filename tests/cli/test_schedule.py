"""`ops schedule`: the list of jobs, the dry run, and the installation for systemd or cron."""

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
    """Return a command's exit code and its stdout."""
    capsys.readouterr()
    code = main.main(["schedule", *arguments])
    return code, capsys.readouterr().out


def test_list_shows_the_next_run_of_each_job(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    The list has each job's next time, its name in the ledger and its last outcome, and says if the scheduler never ran.
    """
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


def test_an_invalid_schedule_is_rejected(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An invalid job is rejected by name with exit 70; wrong usage exits 64."""
    scheduled(home, '\n[odd]\nruns = "checklist mornin"\nwhen = "08:00"\n')
    assert main.main(["schedule", "run", "--once"]) == 70
    assert "Did you mean 'morning'" in capsys.readouterr().err
    assert (
        main.main(["schedule", "install"])
        == main.main(["schedule", "list", "cron"])
        == main.main(["schedule", "run", "--workers", "0"])
        == 64
    )


def test_a_dry_run_runs_each_job_once(home: Path) -> None:
    """
    A dry run runs each job once in a kernel of the pool. Reports of an open period get the name of a partial report;
    nothing is recorded as due.
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


def test_install_writes_a_systemd_timer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """
    Two systemd files run what is due each minute, with this Python and this home directory, also if its path has
    special characters.
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


def test_install_adds_one_crontab_line(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The crontab gets one line however often it is installed, and its other lines stay."""
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
