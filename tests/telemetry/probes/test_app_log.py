"""Read the app's log: each new line once, through rotation, truncation, a pipe and a restart of our process."""

import asyncio
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opslib.telemetry.probes import app_log
from opslib.telemetry.probes.app_log import Log


def new(log: Log) -> list[str]:
    return asyncio.run(log.new())


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A log that already has some lines."""
    path = tmp_path / "app.log"
    path.write_text("before\n" * 3)
    return path


def append(path: Path, *lines: str) -> None:
    with path.open("a") as file:
        file.writelines(line + "\n" for line in lines)


def test_existing_lines_are_not_new(place: Path) -> None:
    """Reading starts at the end of the file, and then returns each line once."""
    log = Log(str(place))
    assert new(log) == []
    append(place, "one", "two")
    assert new(log) == ["one", "two"] and new(log) == []


def test_an_incomplete_line_waits_for_its_end(place: Path) -> None:
    """A line that is still being written is returned when it is complete, also by a new process."""
    log = Log(str(place))
    new(log)
    with place.open("a") as file:
        file.write("hal")
    assert new(log) == []
    after = Log(str(place), log.cursor)
    with place.open("a") as file:
        file.write("ves\n")
    assert new(log) == ["halves"] and new(after) == ["halves"]


def test_rotation_loses_nothing(place: Path) -> None:
    """The rest of the old file is read first, then the new file from its beginning."""
    log = Log(str(place))
    new(log)
    append(place, "old one")
    place.rename(place.with_suffix(".log.1"))
    append(place.with_suffix(".log.1"), "old two")
    append(place, "new one")
    assert [*new(log), *new(log)] == ["old one", "old two", "new one"]


def test_rotation_between_two_processes(place: Path) -> None:
    """A new process continues in the rotated file, then in the new one."""
    log = Log(str(place))
    new(log)
    cursor = log.cursor
    append(place, "old")
    place.rename(place.parent / "app.log.1")
    append(place, "new")
    after = Log(str(place), cursor)
    assert [*new(after), *new(after)] == ["old", "new"]


def test_a_truncated_log_is_read_from_its_beginning(place: Path) -> None:
    """
    A log that is truncated in place is read from its beginning, also if it is already longer than our last position.
    """
    log = Log(str(place))
    new(log)
    place.write_text("")
    append(place, "a")
    assert new(log) == ["a"]
    place.write_text("entirely other lines that are longer than what was there before, and more of them\n" * 4)
    assert len(new(log)) == 4


def test_a_large_amount_is_read_in_pieces(place: Path) -> None:
    """A large amount of new lines is read in pieces of limited size, and completely."""
    log = Log(str(place))
    new(log)
    append(place, *(f"{i:07d} " + "x" * 200 for i in range(12_000)))
    found, most = [], 0
    while lines := new(log):
        most = max(most, sum(map(len, lines)))
        found += lines
    assert [int(line[:7]) for line in found] == list(range(12_000)) and most <= app_log.MOST_BYTES


def test_a_line_that_never_ends(place: Path) -> None:
    """A line that never ends is cut, so that it does not fill the memory."""
    log = Log(str(place))
    new(log)
    with place.open("a") as file:
        file.write("x" * 3_000_000)
    assert all(len(line) <= app_log.LONGEST_LINE for line in [*new(log), *new(log), *new(log)])


def test_a_pipe(tmp_path: Path) -> None:
    """A named pipe is read without waiting for a writer."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    log = Log(str(path))
    assert new(log) == []
    writer = os.open(path, os.O_WRONLY)
    os.write(writer, b"through the pipe\nand mo")
    assert new(log) == ["through the pipe"]
    os.write(writer, b"re\n")
    assert new(log) == ["and more"]
    os.close(writer)
    log.close()


@pytest.mark.parametrize("what", ["missing", "folder"])
def test_a_missing_log_and_a_folder_are_rejected(tmp_path: Path, what: str) -> None:
    """A missing log and a folder raise an error."""
    with pytest.raises(OSError):
        new(Log(str(tmp_path / "missing" if what == "missing" else tmp_path)))


@given(st.lists(st.sampled_from(["line", "rotate", "cut", "look", "restart"]), min_size=1, max_size=25))
@settings(max_examples=60, deadline=None)
def test_each_line_is_read_once(tmp_path_factory: pytest.TempPathFactory, steps: list[str]) -> None:
    """
    With lines, rotations, reads, truncations and restarts in any order, each line is returned once and in order; a
    truncation loses only unread lines.
    """
    place = tmp_path_factory.mktemp("log") / "app.log"
    place.write_text("a first line, long enough to know the file again by it\n")
    log, written, lost, found, number = Log(str(place)), [], set(), [], 0
    new(log)
    for step in steps:
        if step == "line":
            number += 1
            written.append(f"{number:06d} of a log that is written to")
            append(place, written[-1])
        elif step == "rotate":
            # Read before each rotation: two rotations between reads lose the first file, as with any reader.
            found += [*new(log), *new(log)]
            place.rename(place.parent / f"app.log.{number}.{len(found)}")
            number += 1
            written.append(f"{number:06d} first of a new file")
            append(place, written[-1])
        elif step == "cut":
            lost |= set(written) - set(found)
            number += 1
            written.append(f"{number:06d} after the cut")
            place.write_text(written[-1] + "\n")
        elif step == "restart":
            cursor = log.cursor
            log.close()
            log = Log(str(place), cursor)
        found += new(log) if step == "look" else []
    found += [*new(log), *new(log), *new(log)]
    log.close()
    assert (
        found == sorted(found) and set(written) - lost <= set(found) <= set(written) and len(set(found)) == len(found)
    )


def test_the_kinds_of_lines() -> None:
    """
    Lines that the app really writes get the right kinds: an error with its stack trace counts once, access and start-up
    lines are not errors.
    """
    summary = app_log.read(
        [
            "GET /api/health 200 75 - 7.671 ms",
            "GET /api/massive/v3/x 502 33 - 3012.1 ms",
            "[v0] Massive proxy error (502): External API error",
            "  status: 502,",
            "    at fetch (node:internal)",
            "}",
            "[v0] fallback(aggs-empty) /v2/aggs/ticker/SPY",
            "[Massive] request timed out after 150 ms /v3/snapshot/options/SPY",
            "[Massive] request timed out after 400ms /v3/snapshot/options/SPY",
            "[WS options] upstream closed with code 1006: ",
            "[WS indices] upstream error Error: socket hang up",
            "[v0] MASSIVE_API_KEY present: true",
            "[Tradier] GET failed: HTTP 503 from /markets/quotes",
            "Error: getaddrinfo ENOTFOUND api.massive.com",
            "[Composite Scanner] Heartbeat: status=healthy, signals=0, errorRate=0.0%",
            "[0] TypeError: Cannot read properties of undefined",
            "",
        ]
    )
    assert summary.kinds == {
        "access_looks": 1,
        "access_proxy_5xx": 1,
        "configured": 1,
        "dns": 1,
        "fallback": 1,
        "heartbeat": 1,
        "other_error": 1,
        "provider_5xx": 2,
        "socket_closed": 1,
        "socket_error": 1,
        "timeout": 2,
    }
    assert (summary.errors, summary.waited_ms, summary.lines) == (8, 150, 16)
    assert summary.newest["timeout"].endswith("400ms /v3/snapshot/options/SPY") and "access" not in summary.newest


@pytest.mark.parametrize(
    "line",
    [
        "[Backfill] done: 120 ok, 0 failed",
        "[Composite Scanner] scanned 403 symbols in 2211 ms",
        "[Massive] cached 429 contracts",
        "[Server] Request timeout set to 30000 ms",
        "[WS options] client connected (401 total)",
        "[Server] SSL certificate loaded",
        "POST /api/ws-token 500 40 - 3.1 ms",
        "GET /api/health 503 21 - 2.0 ms",
        "GET /ping 200 17 - 0.4 ms",
        "GET /api/massive/v3/snapshot/options/SPY 502 33 - 3012.1 ms",
    ],
)
def test_lines_that_are_not_errors(line: str) -> None:
    """
    An ordinary line with a number or word of an error is not an error, nor are requests of our own probes, nor the
    access line of a failure that has its own message.
    """
    assert app_log.read([line]).errors == 0


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("[2026-03-10T14:31:00.000Z] ERROR [massive] boom {}", "other_error"),
        ("[ConnectionPool] auth_failed", "auth"),
        ("[Backfill] done: 120 ok, 3 failed", "other_error"),
        ("[v0] Massive proxy error (429): slow down", "rate_limit"),
        ("[Massive] Error: HTTP 403 from /v3/x", "auth"),
        ("Error: certificate has expired", "tls"),
        ("AxiosError: timeout of 5000ms exceeded", "timeout"),
        ("GET /api/trades 500 33 - 12.1 ms", "access_5xx"),
    ],
)
def test_lines_that_are_errors(line: str, kind: str) -> None:
    """Each way in which the app reports an error counts as one error of the right kind."""
    assert (app_log.read([line]).errors, list(app_log.read([line]).kinds)) == (1, [kind])


def test_the_timeout_of_the_app_is_read() -> None:
    """The app's timeout is read from its messages; if they have no time, from the duration of the failed requests."""
    assert (
        app_log.read(["[Massive] Error: Request timeout after 3000ms"]).waited_ms == 3000
        and app_log.read(["AxiosError: timeout of 150ms exceeded"]).waited_ms == 150
    )
    calls = [
        "[v0] Massive proxy error (502): The operation was aborted due to timeout",
        "GET /api/massive/v3/snapshot/options/SPY 502 31 - 3001.2 ms",
    ]
    assert app_log.read(calls).waited_ms == 3001 and app_log.read(calls[1:]).waited_ms is None


def test_a_last_line_without_a_newline(place: Path) -> None:
    """
    The last line of a rotated file, without a newline, is its own line and not the start of the new file's first line.
    """
    log = Log(str(place))
    new(log)
    place.write_text(place.read_text() + "whole\nwithout an end")
    assert new(log) == ["whole"]
    place.rename(place.parent / "app.log.1")
    place.write_text("new\n")
    assert [*new(log), *new(log)] == ["without an end", "new"]


def test_the_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The journal of a unit is read from the stored cursor; an error of journalctl is reported."""
    fake = tmp_path / "journalctl"
    fake.write_text(
        "#!/usr/bin/env python3\nimport sys\n"
        "if 'broken.service' in sys.argv: sys.exit('no such unit')\n"
        "lines = open('" + str(tmp_path / "lines") + "').read().splitlines()\n"
        "begin = int(sys.argv[sys.argv.index('--after-cursor') + 1]) if '--after-cursor' in sys.argv else len(lines)\n"
        "print(*lines[begin:], f'-- cursor: {len(lines)}', sep='\\n')\n"
    )
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    (tmp_path / "lines").write_text("before\n")
    log = Log("journal:app.service")
    assert new(log) == []
    append(tmp_path / "lines", "one", "two")
    assert new(log) == ["one", "two"] and new(log) == []
    append(tmp_path / "lines", *("x" * 999 for _ in range(1100)))
    # The cursor is at the end of what was read, also after a large amount.
    assert len(new(log)) == 1100 and new(log) == []
    append(tmp_path / "lines", "three")
    assert new(Log("journal:app.service", log.cursor)) == ["three"]
    with pytest.raises(OSError, match="no such unit"):
        new(Log("journal:broken.service"))
