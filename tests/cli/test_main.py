"""The command line: commands, options before and after them, exit codes, and messages that say what to do."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from opslib.cli import main
from tests.support import days

TABLE = ("demo", "import", "export", "serve", "status", "alerts", "collect", "doctor", "rules", "report", "run", "runs")


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """The scripted day as a JSON Lines file."""
    path = tmp_path / "day.jsonl"
    path.write_text("\n".join(days.line(p) for p in days.posts()))
    return path


def ops(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Run one command in this process; return its exit code, stdout and stderr."""
    code = main.main(list(arguments))
    out = capsys.readouterr()
    return code, out.out, out.err


@pytest.mark.parametrize("command", TABLE)
def test_help_ends_with_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The help of every command ends with one real example of that command."""
    with pytest.raises(SystemExit) as ended:
        main.main([command, "--help"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.rstrip().splitlines()[-1].startswith(f"example: ops {command}")


def test_ops_alone_and_ops_help_show_help(capsys: pytest.CaptureFixture[str]) -> None:
    """`ops` alone and `ops help` list every command; `ops help COMMAND` is that command's own help."""
    everything = ops(capsys, "help")
    assert everything == ops(capsys) == (0, everything[1], "")
    assert all(f"\n  {command} " in everything[1] for command in main.COMMANDS)
    code, out, _ = ops(capsys, "help", "status")
    assert code == 0 and out.startswith("usage: ops status ") and "--window" in out


def test_the_verdict_is_the_exit_code(home: Path, recording: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Status exits 2 in the outage, 0 or 1 in a calm hour, 3 without data."""
    assert ops(capsys, "import", str(recording))[0] == 0
    assert ops(capsys, "status", "--as-of", f"{days.DAY}T11:30")[0] == 2
    assert ops(capsys, "status", "--as-of", f"{days.DAY}T13:15", "--window", "30m")[0] in (0, 1)
    assert ops(capsys, "status", "--as-of", "2025-01-03T11:30")[0] == 3


def test_common_options_work_before_and_after_the_command(
    home: Path, recording: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Common options mean the same before and after the command's name."""
    ops(capsys, "import", str(recording), "--home", str(tmp_path / "x"), "--app", "two")
    moment = f"{days.DAY}T11:30"
    before = ops(capsys, "--home", str(tmp_path / "x"), "--app", "two", "--as-of", moment, "-o", "json", "status")
    after = ops(capsys, "status", "--home", str(tmp_path / "x"), "--app", "two", "--as-of", moment, "-o", "json")
    assert before == after and json.loads(after[1])["app"] == "two"


@pytest.mark.parametrize(
    "arguments",
    [
        ("statsu",),
        ("help", "statsu"),
        ("status", "--windw", "1h"),
        ("status", "--window", "an hour"),
        ("status", "--as-of", "noon"),
        ("status", "--as-of", "2026-03-08T02:30"),
        ("report", "hourly"),
        ("report", "daily", "--day", "today"),
        ("run", "nothing.ipynb"),
        ("import",),
        ("serve", "--port", "99999"),
        ("export", "snapshots", "--day", "2026-03-10", "--to", "2026-03-11"),
        ("run", "x.ipynb", "-p", "day"),
        ("status", "--window", "9999999d"),
    ],
)
def test_wrong_usage_is_64(home: Path, arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong command line exits 64 with a message on stderr, nothing on stdout and no traceback."""
    code, out, err = ops(capsys, *arguments)
    assert (code, out) == (64, "")
    assert err.startswith("ops: ") and "Traceback" not in err


def test_import_counts_every_row(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """
    Accepted, duplicate and rejected rows add up. A rejected row gives exit 70 and is listed with its reasons. A second
    import changes nothing.
    """
    good = [days.line(p) for p in days.posts()[:5]]
    bad = [
        '{"ts": "2026-03-10T14:00:00Z", "metrics": {"pnl": {"totalTrades": "x"}, "lastUpdateAt": 5}}',
        "{",
        '{"ts": "never", "metrics": {}}',
        "[1]",
    ]
    path = tmp_path / "mixed.jsonl"
    path.write_text("\n".join([*good, good[0], "", *bad]))
    code, out, _err = ops(capsys, "import", str(path), "-o", "json")
    assert code == 70 and json.loads(out) == [
        {"path": str(path), "kind": "snapshots", "accepted": 5, "duplicate": 1, "rejected": 4}
    ]
    again = json.loads(ops(capsys, "import", str(path), "-o", "json")[1])[0]
    assert (again["accepted"], again["duplicate"], again["rejected"]) == (0, 6, 4)
    rejects = json.loads(ops(capsys, "import", "--rejects", "-o", "json")[1])
    assert [r["source"] for r in rejects] == [f"mixed.jsonl:{n}" for n in (8, 9, 10, 11)]
    assert "pnl.totalTrades is 'x'" in rejects[0]["reasons"][0] and "lastUpdateAt" in " ".join(rejects[0]["reasons"])
    assert rejects[0]["body"] == bad[0]


@pytest.mark.parametrize("name", ["trades.json", "chain.csv", "empty.jsonl", "cut.jsonl.gz", "folder", "missing"])
def test_files_without_snapshots_are_rejected(
    home: Path, tmp_path: Path, name: str, recording: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """
    A file of another kind, an empty, truncated or missing file and a folder are rejected with their names, exit 70.
    """
    import gzip

    path = tmp_path / name
    contents = {
        "trades.json": b'[{"id": 1}]',
        "chain.csv": b"strike,bid\n1,2\n",
        "empty.jsonl": b"\n",
        "cut.jsonl.gz": gzip.compress(recording.read_bytes())[:-2000],
    }
    if name == "folder":
        path.mkdir()
    elif name in contents:
        path.write_bytes(contents[name])
    code, _, err = ops(capsys, "import", str(path))
    assert code == 70 and name in err


def test_export_returns_the_imported_snapshots(
    home: Path, recording: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """
    The export has every post unchanged, by day and by time, and imports into another home directory as the same posts.
    """
    ops(capsys, "import", str(recording))
    lines = ops(capsys, "export", "snapshots")[1].splitlines()

    def key(metrics):
        return json.dumps(metrics, sort_keys=True)

    assert sorted(key(json.loads(line)["metrics"]) for line in lines) == sorted(
        key(json.loads(p.snapshot.body)) for p in days.posts()
    )
    assert ops(capsys, "export", "snapshots", "--day", str(days.DAY))[1].splitlines() == lines
    hour = ops(capsys, "export", "snapshots", "--from", f"{days.DAY}T11:00", "--to", f"{days.DAY}T12:00")[
        1
    ].splitlines()
    assert [json.loads(line)["ts"] for line in hour] == [
        json.loads(line)["ts"]
        for line in lines
        if f"{days.DAY}T15:00:00.000Z" < json.loads(line)["ts"] <= f"{days.DAY}T16:00:00.000Z"
    ]
    (tmp_path / "again.jsonl").write_text("\n".join(lines))
    assert ops(capsys, "import", str(tmp_path / "again.jsonl"), "--home", str(tmp_path / "other"))[0] == 0
    moment = ("status", "--as-of", f"{days.DAY}T11:30", "-o", "json")
    ours, theirs = (
        json.loads(ops(capsys, *moment)[1]),
        json.loads(ops(capsys, *moment, "--home", str(tmp_path / "other"))[1]),
    )
    assert ours["panels"] == theirs["panels"]


def test_secrets_are_in_no_message(home: Path, tmp_path: Path) -> None:
    """A secret of the environment is in no message, not even if it is part of a wrong path."""
    secret = "s3cr3t-token-value"
    environment = {**os.environ, "OPS_HOME": str(home), "OPS_MASSIVE_TOKEN": secret, "OPS_INGEST_KEY": secret}
    for arguments in (
        ["import", f"/nowhere/{secret}"],
        ["run", f"{secret}.ipynb"],
        ["status", "--as-of", secret],
        ["export", "snapshots", "--day", secret],
    ):
        ended = subprocess.run(
            [sys.executable, "-m", "opslib.cli", *arguments], env=environment, capture_output=True, text=True
        )
        assert ended.returncode in (64, 70) and secret not in ended.stdout + ended.stderr, arguments


def test_settings_are_read_strictly(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """
    An unknown key in settings.toml is rejected with the closest match, a token in the file is rejected, and a syntax
    error names the file.
    """
    home.mkdir()
    for content, words in (
        ('store_ur = "x"', "Did you mean 'store_url'?"),
        ('OPS_MASSIVE_TOKEN = "x"', "environment"),
        ("app = ", "settings.toml"),
        ("wired = 4", "wired is 4"),
    ):
        (home / "settings.toml").write_text(content)
        code, _, err = ops(capsys, "status")
        assert code == 70 and words in err


def test_secrets_can_come_from_files(home: Path, tmp_path: Path) -> None:
    """A secret is read from the file that …_FILE names; a missing file is an error that names the variable."""
    from opslib.foundation.config import settings
    from opslib.foundation.errors import SettingsError

    (tmp_path / "key").write_text("from-a-file\n")
    assert (
        settings.load(home, None, {"OPS_INGEST_KEY_FILE": str(tmp_path / "key")}).secret("OPS_INGEST_KEY")
        == "from-a-file"
    )
    assert "from-a-file" not in repr(settings.load(home, None, {"OPS_INGEST_KEY_FILE": str(tmp_path / "key")}))
    with pytest.raises(SettingsError, match="OPS_INGEST_KEY_FILE"):
        settings.load(home, None, {"OPS_INGEST_KEY_FILE": str(tmp_path / "none")})


def test_status_imports_no_slow_modules() -> None:
    """`ops status` does not import pandas, numpy, the calendar library, or modules that plot or execute notebooks."""
    heavy = ["pandas", "numpy", "exchange_calendars", "matplotlib", "papermill", "nbformat", "IPython", "pydantic"]
    heavy.append("sqlalchemy.dialects.postgresql")  # The database is SQLite.
    code = (
        f"import sys; from opslib.cli import main; main.main(['status', '--as-of', '2026-03-10T11:00']); "
        f"print([m for m in {heavy!r} if m in sys.modules], file=sys.stderr)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stderr.strip() == "[]"


def test_a_reader_may_close_the_pipe_early(home: Path, recording: Path) -> None:
    """A reader that closes the pipe early, such as head, causes no error."""
    environment = {**os.environ, "OPS_HOME": str(home)}
    subprocess.run(
        [sys.executable, "-m", "opslib.cli", "import", str(recording)], env=environment, check=True, capture_output=True
    )
    ended = subprocess.run(
        ["bash", "-c", f"set -o pipefail; '{sys.executable}' -m opslib.cli export snapshots | head -1"],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.parametrize(
    ("arguments", "codes"),
    [
        (("alerts", "--from", "1900-01-01", "--to", "2199-12-31", "--replay"), {0}),
        (("rules", "backtest", "--from", "1900-01-01", "--to", "2199-12-31", "--days", "0"), {0}),
        (("alerts", "--from", "1900-01-01", "--to", "2199-12-31"), {3}),
        (("export", "snapshots", "--from", "1900-01-01", "--to", "2199-12-31"), {0}),
        (("alerts", "--from", "0001-01-01", "--to", "9999-12-31"), {64}),
        (("status", "--window", "9999d"), {64}),
        (("report", "daily", "--day", "1900-01-01..2100-01-01"), {64}),
        (("report", "weekly", "--period", "1900-W01..2100-W01"), {64}),
    ],
)
def test_a_very_long_range_is_bounded(home: Path, arguments: tuple[str, ...], codes: set[int], tmp_path: Path) -> None:
    """
    A very long range is limited to the stored data, or is rejected with the allowed range; days without data cost no
    time.
    """
    (tmp_path / "short.jsonl").write_text("\n".join(days.line(p) for p in days.posts()[:200]))
    environment = {**os.environ, "OPS_HOME": str(home)}
    subprocess.run(
        [sys.executable, "-m", "opslib.cli", "import", str(tmp_path / "short.jsonl"), "--known-at-ts"],
        env=environment,
        check=True,
        capture_output=True,
    )
    ended = subprocess.run(
        [sys.executable, "-m", "opslib.cli", *arguments], env=environment, capture_output=True, text=True, timeout=120
    )
    assert ended.returncode in codes and "Traceback" not in ended.stderr, ended.stderr
