"""Test home directories whose path contains special characters: the database is in exactly that directory."""

import html
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import pytest

from opslib.cli import main
from opslib.foundation.config import settings
from opslib.foundation.config.settings import Settings, sqlite_url
from opslib.foundation.storage.database import Database
from tests.support import days

ODD = '100% sure? #1 "x" ü'
NAMES = [
    ODD,
    "a?b=c&mode=ro",
    "#",
    "50%25",
    "'",
    "a:b@c",
    "sqlite:",
    "{day}",
    "$HOME",
    "back\\slash",
    "new\nline",
    "日本",
    " ",
    "-o",
    "~",
    "*[a]",
]


def files(folder: Path) -> set[str]:
    """Return every file below a folder, without SQLite's own files beside a database."""
    return {
        str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file() and not p.name.endswith(("-wal", "-shm"))
    }


@pytest.mark.parametrize("name", NAMES)
def test_the_database_is_in_its_home(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Imported posts are in the home's own store.sqlite, and another process finds them there."""
    home = tmp_path / name
    (tmp_path / "posts.jsonl").write_text("\n".join(map(days.line, days.posts()[:3])))
    assert main.main(["import", str(tmp_path / "posts.jsonl"), "--home", str(home), "--app", "desk"]) == 0
    assert files(tmp_path) == {"posts.jsonl", str(Path(name) / "store.sqlite")}
    capsys.readouterr()
    ran = subprocess.run(
        [sys.executable, "-m", "opslib.cli", "export", "snapshots"],
        env=os.environ | {"OPS_HOME": str(home), "OPS_APP": "desk"},
        capture_output=True,
        text=True,
    )
    assert (ran.returncode, len(ran.stdout.splitlines())) == (0, 3), ran.stderr


def test_homes_given_in_other_ways(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative home is below the working directory, and ~ is the user's; a configured store URL is used unchanged."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    for given, place in (("a? b", tmp_path / "a? b"), ("~/c#", tmp_path / "me" / "c#")):
        found = settings.load(given, "desk", {})
        Database(found.url).close()
        assert found.home == place and (place / "store.sqlite").is_file()
    typed = f"sqlite:///{tmp_path}/typed.sqlite?timeout=5"
    assert settings.load(tmp_path, "desk", {"OPS_STORE_URL": typed}).url == typed
    Database(typed).close()
    assert (tmp_path / "typed.sqlite").is_file()
    assert Settings(tmp_path, "desk", store_url=sqlite_url(tmp_path / "x?y")).url.database == str(tmp_path / "x?y")


@pytest.mark.slow
def test_a_day_in_an_odd_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Import, status, daily report, index page and verification work in such a home, also in separate kernels."""
    home = tmp_path / ODD
    monkeypatch.setenv("OPS_HOME", str(home))
    (tmp_path / "posts.jsonl").write_text("\n".join(map(days.line, days.posts()[::4])))
    assert main.main(["import", str(tmp_path / "posts.jsonl"), "--known-at-ts", "--app", "desk"]) == 0
    assert main.main(["status", "--as-of", f"{days.DAY}T11:00", "--app", "desk"]) in (0, 1, 2)
    assert main.main(["report", "daily", "--day", str(days.DAY), "--app", "desk"]) in (0, 3)
    found = next((home / "desk" / "reports").rglob("*.json"))
    assert main.main(["verify", str(found), "--app", "desk"]) == 0
    page = (home / "index.html").read_text(encoding="utf-8")
    links = [unquote(html.unescape(link)) for link in re.findall(r'href="([^"]+)"', page)]
    assert links and all((home / link.partition("#")[0]).is_file() for link in links)
    assert {Path(f).parts[0] for f in files(tmp_path)} == {"posts.jsonl", ODD}


def test_timers_of_an_odd_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The path is quoted so that systemd and cron read it unchanged; a home with a line break is rejected."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    home = tmp_path / ODD
    assert main.main(["schedule", "install", "systemd", "--home", str(home), "--app", "desk"]) == 0
    service = (tmp_path / "config" / "systemd" / "user" / "opslib-schedule-desk.service").read_text(encoding="utf-8")
    assert f"EnvironmentFile=-{str(home).replace('%', '%%')}/environment\n" in service
    command = re.search(r"ExecStart=(.*)", service)
    assert command and str(home) in [part.replace("%%", "%").replace("$$", "$") for part in shlex.split(command[1])]
    bin_ = tmp_path / "bin"
    bin_.mkdir()
    (bin_ / "crontab").write_text(f'#!/bin/sh\n[ "$1" = -l ] && exit 1\ncat > "{tmp_path}/crontab"\n')
    (bin_ / "crontab").chmod(0o755)
    monkeypatch.setenv("PATH", f"{bin_}{os.pathsep}{os.environ['PATH']}")
    assert main.main(["schedule", "install", "cron", "--home", str(home), "--app", "desk"]) == 0
    line = (tmp_path / "crontab").read_text(encoding="utf-8").strip()
    assert not re.search(r"(?<!\\)%", line), "a bare % ends the command for cron"
    assert str(home) in shlex.split(line.partition(" * * * * ")[2].replace("\\%", "%"), comments=True) or str(
        home
    ) in shlex.split(line.replace("\\%", "%"), comments=True)
    assert main.main(["schedule", "install", "cron", "--home", str(tmp_path / "two\nlines"), "--app", "desk"]) == 64
    assert "printable characters on one line" in capsys.readouterr().err


def test_dask_workers_find_an_odd_home(tmp_path: Path) -> None:
    """A Dask worker receives the path of the home and uses it unchanged."""
    from opslib.reports import backfill

    home = tmp_path / ODD
    days.filled(sqlite_url(home / "store.sqlite")).close()
    made = backfill._make_on_worker(str(home), "desk", "daily", str(days.DAY), 120.0)
    assert made.state in ("ok", "incomplete"), made
    assert (home / "desk" / "reports").is_dir()
