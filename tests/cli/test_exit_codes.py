"""
Exit codes: 0 only with a result, 70 with a crash log for an unexpected exception, and no error if the reader closes
stdout.
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
    """Run one command in its own process."""
    return subprocess.run(
        [*OPS, *arguments], env=os.environ | (env or {}), text=True, stderr=subprocess.PIPE, timeout=120, **how
    )


def raising(problem: BaseException) -> Callable[..., int]:
    """A command that raises the given exception."""

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
    Any exception, also a broken pipe other than stdout, gives exit 70 and one sentence that names the log with the
    traceback.
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
def test_a_file_that_cannot_be_written_is_not_a_crash(
    number: int, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file that the system does not let us read or write is named; exit 70, no crash log."""
    monkeypatch.setitem(main.COMMANDS, "runs", raising(OSError(number, os.strerror(number), "/x/desk/runs")))
    assert main.main(["runs"]) == 70
    err = capsys.readouterr().err
    assert (
        err.startswith(f"ops: /x/desk/runs could not be read or written ({os.strerror(number)}). ")
        and "unexpectedly" not in err
        and not (home / "crash.log").exists()
    )


def test_the_crash_log_has_no_secret(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A token in the text of an exception is neither in the message nor in the crash log."""
    home.mkdir()
    monkeypatch.setenv("OPS_MASSIVE_TOKEN", SECRET)
    monkeypatch.setitem(main.COMMANDS, "runs", raising(ValueError(f"https://h/?apiKey={SECRET}")))
    assert main.main(["runs"]) == 70
    assert SECRET not in capsys.readouterr().err + (home / "crash.log").read_text()


def test_the_crash_log_is_rotated_and_falls_back_to_a_temporary_file(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    A large crash log is rotated and one old file is kept. If the home directory cannot be written, the traceback goes
    to a private temporary file.
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


def test_an_exception_in_a_thread_is_logged(
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
def test_a_closed_pipe_does_not_change_the_exit_code(arguments: list[str], code: int, home: Path) -> None:
    """If nobody reads stdout, the command ends quietly with its normal exit code."""
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as nobody:
        ended = ops(*arguments, stdout=nobody)
    assert ended.returncode == code
    assert code == 64 or ended.stderr == ""


def test_a_result_that_cannot_be_written_is_a_failure(home: Path) -> None:
    """If the disk behind stdout is full the exit code is 70 instead of the verdict; a closed stdout changes nothing."""
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


def test_a_connection_closed_by_the_peer_is_a_failure(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """
    A connection that the peer closed gives exit 70. (`ops demo` once ended with 0 in this case and had made nothing.)
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
