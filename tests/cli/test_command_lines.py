"""
Run every command with generated arguments and files: no traceback, a documented exit code, and a bounded run time.
"""

import argparse
import contextlib
import gzip
import io
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, event, given
from hypothesis import settings as how
from hypothesis import strategies as st

from opslib.cli import main, parser
from tests.support import days, demo

EXAMPLES = int(os.environ.get("COMMAND_LINES", "300"))  # 10,000 are run by hand: see CONTRIBUTING.md.
LONGEST_S = 10.0  # CPU seconds of this process: other load on the machine does not count.
SPEAKS_VERDICT = {"status", "checklist", "greeks", "pnl", "doctor", "verify"}
# Commands that run until stopped, replace the process, or take minutes by design. Their arguments are parsed and
# checked; the work itself is replaced by a stub.
LEFT_OUT = (
    "opslib.services.server.serve",
    "opslib.services.collector.collect",
    "opslib.cli.commands.demo.play",
    "opslib.cli.commands.drill.run",
    "opslib.services.scheduler.Scheduler.run",
    "opslib.cli.commands.schedule.execute",
    "opslib.cli.commands.schedule.ranged",
)

TIMES = (
    "2026-03-10T11:27",
    "2026-03-10",
    "0001-01-01",
    "0001-01-01T00:00Z",
    "9999-12-31T23:59:59Z",
    "9999-12-31",
    "1969-12-31T23:59Z",
    "2026-03-08T02:30",
    "2026-11-01T01:30",
    "2026-03-10T11:27:00+23:59",
    "0001-01-01T00:00+14:00",
    "9999-12-31T23:59-14:00",
    "20260310T112700",
    "2026-W11-2",
    "2026-13-01",
    "noon",
    "",
    " ",
    "-1",
    "1773149400",
    "2026-03-10T24:00",
    "2026-02-30",
    "2262-04-12",
    "1677-09-21",
    "2026-03-14",
    "2026-12-25",
    "２０２６-03-10",
    "today",
    "now",
)
SPANS = ("1h", "5s", "0s", "-1h", "7d", "9999d", "99999999999d", "1w", "1.5h", "", "h", "∞", "nan", "1h30m")
WORDS = (
    "",
    " ",
    "demo",
    "dem",
    "desk",
    "Ann",
    "massive",
    "massive_down",
    "massive_5xx",
    "availability",
    "2026-03-10-1",
    "incident",
    "glossary",
    "../../etc",
    "$(reboot)",
    "`id`",
    "a'b\"c",
    "\x1b[31mred",
    "\u202eevil",
    "é",
    "\udcff",
    "%s",
    "{x}",
    "x" * 300,
    "-",
    "--",
    "-h",
    "a\nb",
    "morning",
    "prometheus",
    "2026-W11",
    "2026-03",
    "2026-Q1",
    "2026",
    "2026-01-02..2026-01-05",
    "2026-01-05..2026-01-02",
    "..",
    "a=1",
    "as_of=x",
    "=",
    "day=2026-03-10",
)
NUMBERS = (
    "0",
    "1",
    "-1",
    "2",
    "8321",
    "65535",
    "65536",
    "99999999999999999999",
    "1e308",
    "nan",
    "inf",
    "-inf",
    "0.5",
    "x",
    "",
    "1_000",
    "٣",
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder of malformed files and a home directory with one recorded day, shared by all examples."""
    folder = tmp_path_factory.mktemp("lines")
    snapshots = b"\n".join(days.line(p).encode() for p in days.posts()[::60])
    contents = {
        "snapshots.jsonl": snapshots,
        "snapshots.jsonl.gz": gzip.compress(snapshots),
        "empty": b"",
        "nul": b"\0" * 100,
        "random": bytes(range(256)) * 4,
        "cut.gz": gzip.compress(snapshots)[:-20],
        "text.txt": b"hello\nworld\n",
        "numbers.json": b"[1, 2, 3]",
        "deep.json": b"[" * 100_000,
        "object.json": b'{"a": [{"b": null}], "results": 5}',
        "nan.json": b'{"results": [{"greeks": {"delta": NaN}, "details": []}]}',
        "list.json": b'[{"symbol": "AAPL", "qty": {}}]',
        "table.csv": b"a,b,c\n1,2\n3,4,5,6\n",
        "fills.csv": b"Date,Symbol,Side,Quantity,Price\n2026-03-10,AAPL,buy,1,1.5\n",
        "chain.csv": b"expiration,type,strike,bid,ask,delta,gamma\n2026-04-17,call,100,1,1.1,x,\n",
        "wide.csv": b",".join(b"c%d" % i for i in range(3000)) + b"\n",
        "utf16.csv": "Date,Symbol\n1,2\n".encode("utf-16"),
        "latin.csv": b"Pr\xe9nom,Symbol\n1,2\n",
        "bad.ipynb": b'{"cells": 5}',
        "empty.ipynb": b"",
        "rules.toml": b"[rules]\nx = 1\n",
        "bad.toml": b"= =",
        "tests.yml": b"tests: [&a [*a]]",
        "alias.yml": b"a: &a [x]\nb: *a\n",
        "app.log": b'{"level":50,"msg":"x"}\n[error] y\nplain\n',
        "one.parquet": b"PAR1\x00\x00PAR1",
        "nb.ipynb": json.dumps(
            {
                "cells": [{"cell_type": "code", "source": "1", "metadata": {}, "outputs": [], "execution_count": None}],
                "metadata": {},
                "nbformat": 4,
                "nbformat_minor": 4,
            }
        ).encode(),
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    (folder / "folder").mkdir()
    os.mkfifo(folder / "pipe")
    before = os.getcwd()
    os.chdir(folder)
    days.filled(f"sqlite:///{folder / 'home' / 'store.sqlite'}").close()
    demo.laid_out(folder / "home")
    yield folder
    os.chdir(before)
    shutil.rmtree(folder, ignore_errors=True)


def texts() -> st.SearchStrategy[str]:
    """Words that a person may type, some of them hostile."""
    return st.sampled_from(WORDS) | st.text(
        st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=12
    )


FILES = (
    "snapshots.jsonl",
    "snapshots.jsonl.gz",
    "empty",
    "nul",
    "random",
    "cut.gz",
    "text.txt",
    "numbers.json",
    "deep.json",
    "object.json",
    "nan.json",
    "list.json",
    "table.csv",
    "fills.csv",
    "chain.csv",
    "wide.csv",
    "utf16.csv",
    "latin.csv",
    "bad.ipynb",
    "empty.ipynb",
    "rules.toml",
    "bad.toml",
    "tests.yml",
    "alias.yml",
    "app.log",
    "one.parquet",
    "nb.ipynb",
    "folder",
    "pipe",
    "absent",
    "/dev/zero",
    "/dev/null",
    "home",
    "home/store.sqlite",
    "",
)


def mostly(usual: Sequence[str], odd: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """A usual value in nine of ten cases, so that most command lines get past the parser."""
    return st.integers(0, 9).flatmap(lambda n: st.sampled_from(usual) if n else odd)


def values(action: argparse.Action) -> st.SearchStrategy[str]:
    """Values for one argument, mostly of the type that it expects."""
    name, shown = action.dest, str(action.metavar or "")
    if action.choices:
        return mostly(list(action.choices), texts())
    if action.type in (int, float):
        return mostly(NUMBERS[:5], st.sampled_from(NUMBERS))
    if action.type is Path or "FILE" in shown or "PATH" in shown:
        return mostly(FILES, texts())
    if "TIME" in shown or "DAY" in shown or name in ("as_of", "known_at"):
        return mostly(TIMES[:7], st.sampled_from(TIMES) | texts())
    if "SPAN" in shown:
        return mostly(SPANS[:6], st.sampled_from(SPANS) | texts())
    if name == "app":
        return mostly(("desk", "demo"), texts())
    return texts()


def lines() -> st.SearchStrategy[list[str]]:
    """A command with some of its options, in the order of a shell; sometimes arbitrary words."""
    (subparsers,) = (a for a in parser.parser(main.COMMANDS)._actions if isinstance(a, argparse._SubParsersAction))

    @st.composite
    def line(draw: Any) -> list[str]:
        name = draw(st.sampled_from(sorted(subparsers.choices)))
        found = [name]
        for action in subparsers.choices[name]._actions:
            # --replay is left out because a replay of a week is slow.
            if action.dest in ("home", "replay") or isinstance(action, argparse._HelpAction):
                continue
            if not action.option_strings:
                count = {"*": (0, 2), "+": (1, 2), "?": (0, 1)}.get(str(action.nargs), (1, 1))
                found += [draw(values(action)) for _ in range(draw(st.integers(*count)))]
            elif draw(st.integers(0, 3)) == 0:
                found.append(action.option_strings[0])
                if action.nargs != 0:
                    found.append(draw(values(action)))
        return found

    return line() | st.lists(texts(), max_size=4)


def run(arguments: list[str]) -> tuple[int, str, str]:
    """Run one command line in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.MonkeyPatch.context() as patched:
        patched.setattr(sys, "stdin", io.StringIO(""))
        for name in LEFT_OUT:
            patched.setattr(name, lambda *_, **__: _Nothing())
        patched.setattr("os.execve", _replaced)
        patched.setattr("opslib.jobs.executor.execute", _not_executed)
        try:
            code = main.main(arguments)
        except SystemExit as ended:  # Raised by --help and --version.
            code = int(ended.code or 0)
    return code, out.getvalue(), err.getvalue()


class _Nothing(int):
    """The result of a stubbed command: success, with nothing to show."""

    values, words, done = None, "", True


def _replaced(*_: Any) -> Any:
    raise SystemExit(0)


def _not_executed(*_: Any, **__: Any) -> Any:
    from opslib.foundation.errors import NotebookFailed

    raise NotebookFailed("not executed by this test")


@how(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    database=None,
    print_blob=False,
    phases=[Phase.generate],
)
@given(line=lines())
def test_no_command_line_ends_in_a_traceback(line: list[str], place: Path) -> None:
    """
    Every command line ends with an exit code of the contract, explains a failure, and never reports an unexpected
    exception.
    """
    began_s = time.process_time()
    code, out, err = run(["--home", str(place / "home"), *line])
    took_s = time.process_time() - began_s
    event(f"exit {code}")
    allowed = {0, 1, 2, 3, 64, 70} if line and line[0] in SPEAKS_VERDICT else {0, 3, 64, 70}
    assert code in allowed, (line, code, err)
    assert "Traceback" not in out + err and "failed unexpectedly" not in err, (line, err, _newest_crash(place))
    assert took_s < LONGEST_S, (line, took_s)
    if code in (64, 70):
        assert err.strip() or out.strip(), line


def _newest_crash(place: Path) -> str:
    log = place / "home" / "crash.log"
    return log.read_text(encoding="utf-8")[-3000:] if log.exists() else ""
