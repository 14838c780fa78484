"""
Probable mistakes are rejected with a reason, or reported: an unknown app, a day without a time, a day without a
session, a runbook without an incident, a future time.
"""

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from opslib import connect
from opslib.cli import main
from opslib.foundation import clock, time_parsing
from opslib.foundation.config import settings
from opslib.foundation.errors import UsageError
from tests.support.days import line, posts


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """A file with 200 posts."""
    found = tmp_path / "posts.jsonl"
    found.write_text("\n".join(line(p) for p in posts()[:200]) + "\n")
    return found


def ops(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    capsys.readouterr()
    code = main.main(list(words))
    return code, *capsys.readouterr()


READING = [
    ("status",),
    ("alerts",),
    ("runs",),
    ("pnl",),
    ("notify",),
    ("silence", "list"),
    ("incident", "list"),
    ("export", "snapshots"),
    ("checklist", "morning"),
    ("doctor",),
    ("rules",),
    ("schedule", "list"),
    ("report", "daily"),
    ("greeks", "SPY"),
    ("import", "--rejects"),
    ("mark", "note", "x"),
    ("incident", "open", "x"),
    ("ack", "x"),
    ("feedback", "useful", "x"),
    ("runbook", "open", "incident"),
    ("postmortem",),
    ("silence", "add", "--rule", "availability", "--for", "1h", "--reason", "x"),
]


@pytest.mark.parametrize("words", READING, ids=" ".join)
def test_an_unknown_app_is_rejected(home: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]) -> None:
    """Every command that reads or writes rejects an unknown app, suggests the closest name, and creates no files."""
    code, out, err = ops(capsys, *words, "--app", "dem")
    assert (
        code == 64
        and out == ""
        and "there is no app 'dem'" in err
        and "Did you mean 'demo'?" in err
        and not home.exists()
    )


def test_which_apps_are_known(
    home: Path, recording: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    The known apps are desk, the configured one, and each app with rows or a folder. The first import under a new name
    makes it known.
    """
    assert ops(capsys, "runs", "--app", "desk")[0] == 0
    assert ops(capsys, "import", str(recording), "--app", "live")[0] == 0
    assert ops(capsys, "runs", "--app", "live")[0] == 0
    code, _, err = ops(capsys, "runs", "--app", "liev")
    assert code == 64 and "Known apps: demo, desk, live. Did you mean 'live'?" in err
    (home / "mine" / "reports").mkdir(parents=True)
    assert ops(capsys, "runs", "--app", "mine")[0] == 0
    monkeypatch.setenv("OPS_APP", "other")
    assert ops(capsys, "runs")[0] == ops(capsys, "runs", "--app", "other")[0] == 0
    monkeypatch.delenv("OPS_APP")
    (home / "settings.toml").write_text('app = "third"\n')
    assert (
        ops(capsys, "runs")[0] == ops(capsys, "runs", "--app", "third")[0] == 0
        and ops(capsys, "runs", "--app", "other")[0] == 64
    )
    with pytest.raises(UsageError, match="there is no app 'mien'.*Did you mean 'mine'"):
        connect("mien", home)


def test_an_app_that_is_served_is_known(home: Path) -> None:
    """`ops serve` under a new name makes the app known, also before anything is posted."""
    from tests.support.servers import free_port

    running = subprocess.Popen(
        [sys.executable, "-m", "opslib.cli", "serve", "--app", "live", "--port", str(free_port())],
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert running.stderr is not None and "listening on" in running.stderr.readline()
        assert main.main(["runs", "--app", "live"]) == 0
    finally:
        running.terminate()
        running.communicate(timeout=120)


@pytest.mark.parametrize(
    ("day", "instant", "said"),
    [
        (
            "2025-11-18",
            "2025-11-18T21:00:00.000Z",
            "it was read as its close, 2025-11-18 21:00:00 UTC (16:00:00 New York)",
        ),
        (
            "2025-11-28",
            "2025-11-28T18:00:00.000Z",
            "it was read as its early close, 2025-11-28 18:00:00 UTC (13:00:00 New York)",
        ),
        ("2025-07-03", "2025-07-03T17:00:00.000Z", "it was read as its early close"),
        ("2026-03-09", "2026-03-09T20:00:00.000Z", "it was read as its close"),
        ("2025-11-22", "2025-11-23T04:59:59.999999Z", "it was read as the end of that day, which has no session"),
        ("2025-12-25", "2025-12-26T04:59:59.999999Z", "it was read as the end of that day, which has no session"),
        ("20251118", "2025-11-18T21:00:00.000Z", "2025-11-18 is a day without a time; it was read as its close"),
    ],
)
def test_a_day_means_its_close(
    home: Path, capsys: pytest.CaptureFixture[str], day: str, instant: str, said: str
) -> None:
    """
    If an option wants a time, a day without one means its close, early closes included, and a message says so. With a
    time there is no message.
    """
    for option in ("--as-of", "--known-at"):
        code, out, err = ops(
            capsys, "status", option, day, *(("--as-of", instant) if option == "--known-at" else ()), "-o", "json"
        )
        assert code == 3 and f"ops: {option} " in err and said in err
        assert json.loads(out)["as_of"] == instant
    assert "is a day" not in ops(capsys, "status", "--as-of", instant)[2]
    assert connect(None, home).status(day).window.end == time_parsing.parse(instant)


def test_a_range_of_days_includes_both(home: Path, recording: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A range from one day to another includes both whole days; with the same day twice it is that day."""
    ops(capsys, "import", str(recording))
    whole = ops(capsys, "export", "snapshots", "--day", "2026-03-10")[1]
    assert whole.count("\n") == 200
    for ends in (
        ("--from", "2026-03-10", "--to", "2026-03-10"),
        ("--from", "2026-03-09", "--to", "2026-03-11"),
        ("--from", "2026-03-10"),
        ("--to", "2026-03-10"),
    ):
        assert ops(capsys, "export", "snapshots", *ends)[1] == whole
    assert (
        ops(capsys, "export", "snapshots", "--from", "2026-03-11")[1]
        == ops(capsys, "export", "snapshots", "--to", "2026-03-09")[1]
        == ""
    )
    assert ops(capsys, "export", "snapshots", "--from", "2026-03-11", "--to", "2026-03-10")[0] == 64


EXTREMES = [
    "0001-01-01",
    "9999-12-31",
    "0001-01-01T00:00Z",
    "9999-12-31T23:59:59Z",
    "0001-01-01T00:00+23:59",
    "9999-12-31T23:59-23:59",
    "2025-11-18T24:00",
    "2025-12-31T23:59:60Z",
    "10000-01-01",
    "2025-11-18T10:00+24:00",
    "1899-12-31",
    "2201-01-01",
    "-1",
    "2025-02-30",
    "2025-11-18T10:00:00.000000000001Z",
]


@pytest.mark.parametrize("extreme", EXTREMES)
@pytest.mark.parametrize(
    "words",
    [
        ("status", "--as-of"),
        ("status", "--known-at"),
        ("alerts", "--from"),
        ("alerts", "--to"),
        ("export", "snapshots", "--from"),
        ("export", "snapshots", "--day"),
        ("report", "weekly", "--day"),
        ("report", "success", "--period"),
        ("report", "annual", "--period"),
        ("mark", "note", "x", "--at"),
        ("silence", "list", "--as-of"),
        ("rules", "backtest", "--from"),
    ],
    ids=" ".join,
)
def test_extreme_times_are_rejected(
    home: Path, capsys: pytest.CaptureFixture[str], extreme: str, words: tuple[str, ...]
) -> None:
    """A time at the limits of the calendar, or beyond, is rejected with a message; nothing overflows."""
    code, _, err = ops(capsys, *words[:-1], f"{words[-1]}={extreme}")
    assert (code == 64 and ("expected" in err or "wanted" in err)) or (extreme.endswith("01Z") and code in (0, 3)), err


def test_a_daily_report_needs_a_session(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """
    A weekend or holiday is rejected and the nearest sessions are named. A range without a session, a future period and
    a range that ends before it begins are rejected.
    """
    for day, near in (
        ("2025-11-22", "2025-11-21 (Friday) and 2025-11-24 (Monday)"),
        ("2025-11-27", "2025-11-26 (Wednesday) and 2025-11-28 (Friday)"),
        ("2026-01-01", "2025-12-31 (Wednesday) and 2026-01-02 (Friday)"),
    ):
        code, _, err = ops(capsys, "report", "daily", "--day", day)
        assert code == 70 and f"there is no daily report of {day}" in err and f"The nearest sessions are {near}." in err
    code, _, err = ops(capsys, "report", "daily", "--day", "2026-01-03..2026-01-04")
    assert code == 64 and "contains no day with a session" in err and "2026-01-02 (Friday)" in err
    for name, option, message in (
        ("daily", "--day", "2026-01-05..2026-01-02"),
        ("weekly", "--period", "2026-W10..2026-W09"),
        ("monthly", "--period", "2026-03..2026-02"),
    ):
        code, _, err = ops(capsys, "report", name, option, message)
        assert code == 64 and "ends before it begins" in err
    for words in (
        ("weekly", "--day", "2030-03-04"),
        ("monthly", "--period", "2030-03"),
        ("quarterly", "--period", "2030-Q1"),
        ("annual", "--period", "2030"),
        ("daily", "--day", "2030-03-04"),
    ):
        code, _, err = ops(capsys, "report", *words)
        assert code == 70 and "2030" in err
    assert not list(home.rglob("*_daily.html"))


def test_a_runbook_without_an_alert_opens_no_incident(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """
    Without an alert or incident, and without a terminal, no incident is opened. The command in the message opens one,
    and then the runbook opens for it.
    """
    code, _, err = ops(capsys, "runbook", "open", "massive_down", "--by", "Ann")
    assert code == 70 and "no active alert and no open incident names the runbook massive_down" in err
    assert json.loads(ops(capsys, "incident", "list", "-o", "json")[1]) == []
    command = err.strip().rpartition("or open one: ")[2]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("OPS_")} | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    }
    assert subprocess.run(["bash", "-c", command], env=environ, capture_output=True, timeout=280).returncode == 0
    (opened,) = json.loads(ops(capsys, "incident", "list", "-o", "json")[1])
    code, out, _ = ops(capsys, "runbook", "open", "massive_down", "--by", "Ann", "-o", "json")
    assert code == 0 and json.loads(out)["incident"] == opened["id"]
    assert len(json.loads(ops(capsys, "incident", "list", "-o", "json")[1])) == 1


@pytest.mark.parametrize(("answer", "count"), [("y", 1), ("n", 0), ("", 0)])
def test_a_runbook_without_an_alert_asks_at_a_terminal(
    home: Path, capsys: pytest.CaptureFixture[str], answer: str, count: int
) -> None:
    """At a terminal the user is asked, and only "y" opens an incident."""
    ours, theirs = pty.openpty()
    try:
        os.write(ours, f"{answer}\n".encode())
        ended = subprocess.run(
            [sys.executable, "-m", "opslib.cli", "runbook", "open", "massive_down", "--by", "Ann"],
            stdin=theirs,
            capture_output=True,
            text=True,
            timeout=280,
        )
    finally:
        os.close(ours)
        os.close(theirs)
    assert "Open a new incident for it? y or n:" in ended.stderr and ended.returncode == (0 if count else 70)
    assert len(json.loads(ops(capsys, "incident", "list", "-o", "json")[1])) == count


def test_nothing_is_written_by_accident(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """
    A command without an object, for an unknown one, with a future time or with a day instead of a time is rejected and
    writes nothing.
    """
    ahead = f"{clock.now().year + 1}-01-02T10:00"
    for words in (
        ("ack", "nothing-1"),
        ("postmortem",),
        ("postmortem", "2026-01-01-1"),
        ("incident", "resolve"),
        ("incident", "resolve", "done"),
        ("incident", "note", "a", "b"),
        ("incident", "mitigate", "x y"),
        ("incident", "handover", "--to", "Bob"),
        ("incident", "open"),
        ("incident", "open", " "),
        ("runbook", "resume"),
        ("silence", "end", "x"),
        ("mark", "deploy", "v1", "--at", ahead),
        ("mark", "deploy", "v1", "--at", "2026-03-10"),
        ("feedback", "useful", "x", "--at", ahead),
        ("feedback", "missed-data", "x", "--at", "2026-03-10"),
    ):
        code, _, err = ops(capsys, *words)
        assert code in (64, 70) and err.startswith("ops: "), words
    desk = connect(None, home)
    assert (
        desk.marks.between(0, 2**62) == []
        and desk.incidents.all() == []
        and not list(settings.load(home).outputs.glob("feedback"))
    )
