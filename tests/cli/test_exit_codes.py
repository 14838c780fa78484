"""
Exit codes: a success code only with a result, an unexpected exception is 70 with a log, a reader of stdout may go.
"""

import errno
import os
import re
import shlex
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from opslib.cli import main
from opslib.foundation import crash_log

OPS = [sys.executable, "-m", "opslib.cli"]
SECRET = "tok_4f7a9c1e2b8d6035"


def ops(*arguments: str, env: dict[str, str] | None = None, **how: object) -> subprocess.CompletedProcess[str]:
    """One command in a process of its own."""
    return subprocess.run(
        [*OPS, *arguments], env=os.environ | (env or {}), text=True, stderr=subprocess.PIPE, timeout=120, **how
    )


def raising(problem: BaseException) -> Callable[..., int]:
    """A command that fails so."""

    def command(_options: object) -> int:
        raise problem

    return command


@pytest.mark.parametrize(
    "problem",
    [
        BrokenPipeError(32, "Broken pipe"),
        ConnectionResetError(104, "Connection reset by peer"),
        OSError(28, "No space left on device"),
        ValueError("bad"),
        KeyError("x"),
        OverflowError("date value out of range"),
        RecursionError(),
        MemoryError(),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
        AssertionError(),
        StopIteration(),
        TimeoutError(),
        RuntimeError("two\nlines\x1b[31m\u202e"),
        ExceptionGroup("g", [OSError()]),
    ],
)
def test_an_unexpected_exception_is_70_with_a_log(
    problem: BaseException, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """
    Whatever a command raises, also a broken pipe of something else than stdout: exit 70, one sentence, the traceback in
    the log that it names.
    """
    home.mkdir()
    monkeypatch.setitem(main.COMMANDS, "status", raising(problem))
    assert main.main(["status"]) == 70
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and err[:-1].isprintable() and "Traceback" not in err
    log = re.search(r"traceback in (\S+)\.$", err.strip())
    assert log and Path(log[1]) == home / "crash.log"
    kept = Path(log[1]).read_text(encoding="utf-8")
    assert "Traceback" in kept and type(problem).__name__ in kept and "ops status" in kept


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.ENOSPC])
def test_a_disk_that_refuses_is_no_defect(
    number: int, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file that the system does not let us write is named, exit 70, without a log."""
    monkeypatch.setitem(main.COMMANDS, "runs", raising(OSError(number, os.strerror(number), "/x/desk/runs")))
    assert main.main(["runs"]) == 70
    err = capsys.readouterr().err
    assert (
        err.startswith(f"ops: /x/desk/runs could not be read or written ({os.strerror(number)}). ")
        and "unexpectedly" not in err
        and not (home / "crash.log").exists()
    )


def test_a_log_holds_no_secret(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A token in an exception's text stands neither in the sentence nor in the log."""
    home.mkdir()
    monkeypatch.setenv("OPS_MASSIVE_TOKEN", SECRET)
    monkeypatch.setitem(main.COMMANDS, "runs", raising(ValueError(f"https://h/?apiKey={SECRET}")))
    assert main.main(["runs"]) == 70
    assert SECRET not in capsys.readouterr().err + (home / "crash.log").read_text()


def test_a_log_is_bounded_and_has_another_place_where_the_home_is_none(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    A long log begins anew and keeps the one before; where the home cannot be written, a private temporary file holds
    the traceback.
    """
    home.mkdir()
    (home / "crash.log").write_text("x" * (crash_log.MOST_BYTES + 1))
    crash_log.record(ValueError("a"), home, "ops x")
    assert (home / "crash.log").stat().st_size < 2000 and (home / "crash.log.1").stat().st_size > crash_log.MOST_BYTES
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    for nowhere in (tmp_path / "absent", "/dev/null", "a\0b", "~nobody-of-that-name/x"):
        said = crash_log.record(ValueError("b"), nowhere, "ops x")
        place = Path(said.removesuffix(".").rsplit(" ", 1)[1])
        assert (
            place.parent == tmp_path
            and "ValueError: b" in place.read_text()
            and stat.S_IMODE(place.stat().st_mode) == 0o600
        )


def test_a_thread_that_ends_unexpectedly_is_recorded(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An exception in a thread of a command prints one sentence, and its traceback is in the log."""
    home.mkdir()
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)

    def command(_options: object) -> int:
        thread = threading.Thread(target=lambda: 1 / 0)
        thread.start()
        thread.join()
        return 0

    monkeypatch.setitem(main.COMMANDS, "serve", command)
    assert main.main(["serve"]) == 0
    assert "a thread of ops serve failed unexpectedly (ZeroDivisionError" in capsys.readouterr().err
    assert "ZeroDivisionError" in (home / "crash.log").read_text()


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(["status"], 3), (["rules"], 0), (["rules", "-o", "json"], 0), (["--help"], 0), (["statsu"], 64)],
)
def test_a_reader_that_has_gone_changes_no_exit_code(arguments: list[str], code: int, home: Path) -> None:
    """Where nobody reads stdout, the command ends as it would have, quietly."""
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as nobody:
        ended = ops(*arguments, stdout=nobody)
    assert ended.returncode == code
    assert code == 64 or ended.stderr == ""


def test_a_result_that_cannot_be_written_is_a_failure(home: Path) -> None:
    """A full disk behind stdout is exit 70, not the verdict; a closed stdout is nobody's and changes nothing."""
    with open("/dev/full", "w") as full:
        ended = ops("rules", stdout=full)
    assert (
        ended.returncode == 70
        and "could not be written to stdout (No space left on device)" in ended.stderr
        and "Traceback" not in ended.stderr
    )
    closed = subprocess.run(
        ["sh", "-c", f"exec {shlex.quote(sys.executable)} -m opslib.cli rules >&-"],
        stderr=subprocess.PIPE,
        text=True,
        timeout=120,
    )
    assert (closed.returncode, closed.stderr) == (0, "")


def test_a_broken_pipe_of_a_connection_is_no_success(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """
    A connection that the other side closed (the fault by which ops demo once ended with 0 and nothing made) is exit 70.
    """
    import socket

    home.mkdir()

    def command(_options: object) -> int:
        ours, theirs = socket.socketpair()
        theirs.close()
        with ours:
            ours.sendall(b"x")
        return 0

    monkeypatch.setitem(main.COMMANDS, "demo", command)
    assert main.main(["demo"]) == 70
    assert "ops demo failed unexpectedly (BrokenPipeError" in capsys.readouterr().err
