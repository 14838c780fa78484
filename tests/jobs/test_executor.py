"""Test the executor: every way in which a notebook can fail gives the right exit code and a reason in the ledger."""

import ast
import gzip
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from opslib import desk
from opslib.cli import main
from opslib.foundation import clock
from opslib.foundation.config.settings import without_secrets
from opslib.jobs import executor
from opslib.jobs import ledger as ledger_module
from opslib.jobs.kernels import KernelPool
from tests.support.system import absent, needs

pytestmark = pytest.mark.kernel

TOKENS = {
    "OPS_INGEST_KEY": "ingest-sesame-1",
    "OPS_READ_KEY": "read-sesame-2",
    "OPS_MASSIVE_TOKEN": "massive-sesame-3",
    "OPS_TRADIER_TOKEN": "tradier-sesame-4",
}
WRITE_PID = (
    "import os, pathlib\npathlib.Path('kernel.tmp').write_text(str(os.getpid()))\nos.rename('kernel.tmp', 'kernel.pid')"
)
AWKWARD = "{name} {0.__class__} 'one' \"two\" $HOME [a] ü"
DIES = [sys.executable, "-c", "raise SystemExit(3)"]
HANGS = [sys.executable, "-c", "import time; time.sleep(60)"]


@dataclass(frozen=True)
class Run:
    """The result of one `ops run`: exit code, messages, row in the ledger, outputs by code cell."""

    code: int
    out: str
    err: str
    row: dict
    cells: list[str]


def code(source: str, *tags: str) -> dict:
    """Return a code cell that has not run."""
    return {
        "cell_type": "code",
        "metadata": {"tags": list(tags)} if tags else {},
        "execution_count": None,
        "outputs": [],
        "source": source,
    }


def notebook(path: Path, *cells: str | dict, parameters: str | None = None, kernel: str = "python3") -> Path:
    """Write a notebook to the disk; text is a code cell."""
    made = [code(parameters, "parameters")] if parameters is not None else []
    made += [code(c) if isinstance(c, str) else c for c in cells]
    content = {
        "cells": [c | {"id": f"c{n}"} for n, c in enumerate(made)],
        "metadata": {"kernelspec": {"name": kernel, "display_name": kernel, "language": "python"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def shown(path: Path) -> list[str]:
    """Return what each code cell of an executed notebook shows, errors included."""
    cells = [c for c in json.loads(path.read_text(encoding="utf-8"))["cells"] if c["cell_type"] == "code"]
    return [
        "".join(
            "".join(o.get("text", [])) + "".join(o.get("data", {}).get("text/plain", [])) + o.get("ename", "")
            for o in c["outputs"]
        )
        for c in cells
    ]


def ledger(capsys: pytest.CaptureFixture[str]) -> list[dict]:
    """Return the ledger as `ops runs -o json` prints it."""
    capsys.readouterr()
    assert main.main(["runs", "-o", "json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.fixture
def plain_run(home: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Run]:
    """Run a notebook with `ops run` in this process; the ledger of the home directory holds only this run."""

    def run(path: Path, *arguments: str) -> Run:
        before = len(ledger(capsys))
        code = main.main(["run", str(path), *arguments])
        said = capsys.readouterr()
        rows = ledger(capsys)
        assert len(rows) == before + 1, f"one run, {len(rows) - before} rows"
        found = [Path(p) for p in rows[-1]["outputs"] if p.endswith(".ipynb")]
        return Run(code, said.out, said.err, rows[-1], shown(found[0]) if found else [])

    return run


@pytest.fixture(scope="module")
def kernels() -> Iterator[KernelPool]:
    """Kernels that need no imports first. test_kernels.py checks that they behave like plain kernels."""
    with closing(KernelPool(without_secrets(os.environ))) as found:
        yield found


@pytest.fixture
def ops_run(plain_run: Callable[..., Run], kernels: KernelPool, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Run]:
    """Run a notebook like `plain_run`, with a preloaded kernel, which starts faster."""
    execute = executor.execute
    monkeypatch.setattr(executor, "execute", lambda *given, **named: execute(*given, **named | {"kernels": kernels}))
    return plain_run


def failed(run: Run, *because: str) -> None:
    """Check that the run exits 70 and that its reason, in the ledger and in the message, matches every pattern."""
    assert (run.code, run.row["state"]) == (70, "failed")
    assert run.row["ended_at"]
    for pattern in because:
        assert re.search(pattern, run.row["reason"], re.IGNORECASE), run.row["reason"]
        assert re.search(pattern, run.err, re.IGNORECASE), run.err


def kernelspec(monkeypatch: pytest.MonkeyPatch, folder: Path, name: str, argv: list[str]) -> None:
    """Install a kernel of that name that runs another program."""
    place = folder / "jupyter" / "kernels" / name
    place.mkdir(parents=True)
    (place / "kernel.json").write_text(json.dumps({"argv": argv, "display_name": name, "language": "python"}))
    monkeypatch.setenv("JUPYTER_PATH", str(folder / "jupyter"))


def until(true: Callable[[], object], seconds: float = 20) -> None:
    """Wait until another process has done something."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"waited {seconds} s in vain"
        time.sleep(0.05)  # Another process can only be polled.


def gone(pid: int) -> bool:
    """Return whether a process has ended."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_a_successful_run(plain_run: Callable[..., Run], home: Path, tmp_path: Path) -> None:
    """A successful run exits 0, has one row that is ok, publishes notebook and page, and does not change its input."""
    path = notebook(tmp_path / "good.ipynb", "print('got', n, word)", parameters="n: int = 1\nword: str = 'x'")
    before = path.read_bytes()
    run = plain_run(path, "-p", "n=2", "-p", "word=it's")
    assert (run.code, run.row["state"], run.row["reason"]) == (0, "ok", None)
    assert run.row["parameters"] == {"n": 2, "word": "it's"} or run.row["parameters"] == {"n": "2", "word": "it's"}
    assert run.row["notebook"].endswith("good.ipynb")
    assert run.cells[-1] == "got 2 it's\n"
    assert sorted(Path(p).suffix for p in run.row["outputs"]) == [".html", ".ipynb"]
    assert all(Path(p).is_file() and home in Path(p).parents for p in run.row["outputs"])
    assert path.read_bytes() == before and sorted(p.name for p in tmp_path.iterdir()) == ["good.ipynb", "home"]


def test_a_repeated_run_gives_the_same_bytes(ops_run: Callable[..., Run], tmp_path: Path) -> None:
    """The same notebook with the same parameters gives the same bytes, and the first run's files stay."""
    path = notebook(tmp_path / "same.ipynb", "n * 2", parameters="n: int = 1")
    first, second = (ops_run(path, "-p", "n=4").row["outputs"] for _ in range(2))
    assert not set(first) & set(second)
    for a, b in zip(first, second, strict=True):
        assert Path(a).read_bytes() == Path(b).read_bytes()


@pytest.mark.parametrize(
    "cells", [("import sys; sys.exit(0)", "print('never')"), ("1", "import sys; sys.exit(0)")], ids=["middle", "last"]
)
def test_sys_exit(ops_run: Callable[..., Run], tmp_path: Path, cells: tuple[str, ...]) -> None:
    """A notebook that calls sys.exit(0) has failed, in whichever cell."""
    failed(ops_run(notebook(tmp_path / "n.ipynb", *cells)), "SystemExit")


@pytest.mark.parametrize(
    "cells",
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "print('never')"),
        ("1", "import os; os._exit(0)"),
        ("import os; os._exit(0)", "print('never')"),
    ],
    ids=["killed", "left in the last", "left in the middle"],
)
def test_a_kernel_that_dies(ops_run: Callable[..., Run], tmp_path: Path, cells: tuple[str, ...]) -> None:
    """A kernel that dies in a cell is a failed run, and the reason says so."""
    run = ops_run(notebook(tmp_path / "n.ipynb", *cells))
    failed(run, "kernel")
    assert "never" not in "".join(run.cells)


def test_a_kernel_that_dies_at_start(
    ops_run: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kernel whose program ends at once is a failed run, and the reason says so."""
    kernelspec(monkeypatch, tmp_path, "dies", DIES)
    failed(ops_run(notebook(tmp_path / "n.ipynb", "1", kernel="dies")), "kernel.*died|died.*kernel|kernel.*start")


def test_a_kernel_that_dies_at_its_first_start_only(
    ops_run: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kernel that dies before it responds is started once more, and no cell runs twice."""
    program = (
        f"import os, sys\nif os.path.exists({str(tmp_path / 'once')!r}):\n    os.execv(sys.executable, "
        f"[sys.executable, '-m', 'ipykernel_launcher', '-f', sys.argv[1]])\nopen({str(tmp_path / 'once')!r}, "
        f"'w').close()"
    )
    kernelspec(monkeypatch, tmp_path, "second", [sys.executable, "-c", program, "{connection_file}"])
    run = ops_run(
        notebook(tmp_path / "n.ipynb", "open('count', 'a').write('x')", "open('count').read()", kernel="second")
    )
    assert (tmp_path / "once").exists()
    assert (run.code, run.row["state"], run.row["reason"]) == (0, "ok", None)
    assert run.cells == ["1", "'x'"]


def test_a_missing_kernel(ops_run: Callable[..., Run], tmp_path: Path) -> None:
    """A missing kernel is a failed run whose reason names it."""
    failed(ops_run(notebook(tmp_path / "n.ipynb", "1", kernel="no-such-kernel")), "no-such-kernel")


@pytest.mark.parametrize(
    "cell",
    [code("1/0"), code("1/0", "raises-exception"), code("%%time\n1/0")],
    ids=["plain", "tagged raises-exception", "timed"],
)
def test_a_cell_that_raises(ops_run: Callable[..., Run], tmp_path: Path, cell: dict) -> None:
    """A cell that raises is a failed run whose reason names the error, also if a tag allows the error."""
    run = ops_run(notebook(tmp_path / "n.ipynb", cell, "print('after')"))
    failed(run, "ZeroDivisionError", "cell 1")
    assert "ZeroDivisionError" in run.cells[0]
    assert Path(run.row["outputs"][0]).is_file()


def test_a_skipped_cell(ops_run: Callable[..., Run], tmp_path: Path) -> None:
    """A cell tagged skip-execution is not required to run; any other cell is."""
    run = ops_run(
        notebook(tmp_path / "n.ipynb", code("1/0", "skip-execution"), "print('done')", code("1/0", "skip-execution"))
    )
    assert (run.code, run.row["state"], run.cells) == (0, "ok", ["", "done\n", ""])
    assert ops_run(Path(__file__).parents[1] / "cases" / "c01_skip_execution_tag.ipynb").code == 0
    failed(
        ops_run(notebook(tmp_path / "n.ipynb", code("1/0", "skip-execution"), "1/0")),
        "code cell 2 raised ZeroDivisionError",
    )


@pytest.mark.parametrize("tag", ["remove-cell", "hide-input", "papermill-error-cell-tag", "skip"])
def test_another_tag_skips_no_cell(ops_run: Callable[..., Run], tmp_path: Path, tag: str) -> None:
    """A cell with another tag runs."""
    assert ops_run(
        notebook(tmp_path / "n.ipynb", code("print(1)", tag), {"cell_type": "raw", "metadata": {}, "source": "1/0"})
    ).cells == ["1\n"]


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (
            "%undefined-line-magic",
            r"code cell 1 raised UsageError: Line magic function `%undefined-line-magic` not found",
        ),
        ("%%foo\nx", "code cell 1 raised UsageError: Cell magic `%%foo` not found"),
        ("x = = 1", r"code cell 1 raised SyntaxError: invalid syntax.*"),
        ("if 1:\nx = 1", "code cell 1 raised IndentationError: expected an indented block.*"),
        ("import sys; sys.exit(1)", "code cell 1 raised SystemExit: 1"),
        ("raise SystemExit", "code cell 1 raised SystemExit"),
        ("raise KeyboardInterrupt", "code cell 1 raised KeyboardInterrupt"),
        ("import os; os._exit(3)", "DeadKernelError: Kernel died"),
        (
            "raise ValueError('\\x1b[31mred\\x1b[0m\\nsecond ' + 'x' * 100_000)",
            r"code cell 1 raised ValueError: red second x+… \(\d+ characters\)",
        ),
        (
            "class E(Exception):\n    def __str__(self): raise RuntimeError('no words')\nraise E()",
            "code cell 1 raised .*no words",
        ),
        ("%%bash\nexit 3", "code cell 1 raised CalledProcessError: .* non-zero exit status 3"),
        ("%load_ext nomod", "code cell 1 raised ModuleNotFoundError: No module named 'nomod'"),
        ("%timeit -n1 nope()", "code cell 1 raised NameError: name 'nope' is not defined"),
        ("%run /nowhere/x.py", "code cell 1 raised Exception: File .*/nowhere/x.py.* not found"),
    ],
)
def test_the_reason_names_cell_and_error(ops_run: Callable[..., Run], tmp_path: Path, source: str, reason: str) -> None:
    """The ledger names the failed cell and its error, on one short line without control characters."""
    run = ops_run(notebook(tmp_path / "n.ipynb", source, "print('never')"))
    failed(run, "")
    assert re.fullmatch(reason, run.row["reason"]), run.row["reason"]
    assert len(run.row["reason"]) < 300 and run.row["reason"].isprintable() and "never" not in "".join(run.cells)


def test_an_unknown_magic_is_the_reason(ops_run: Callable[..., Run], tmp_path: Path) -> None:
    """For an unknown magic, the reason is its error message and not a dead kernel."""
    run = ops_run(Path(__file__).parents[1] / "cases" / "c02_unknown_magic_reason.ipynb")
    failed(run, "UsageError: Line magic function `%undefined-line-magic` not found")


@pytest.mark.parametrize("minor", [0, 4, 5])
def test_cells_without_ids(ops_run: Callable[..., Run], tmp_path: Path, minor: int) -> None:
    """Notebooks of each minor version run, also with cells without ids."""
    path = tmp_path / "n.ipynb"
    path.write_text(
        json.dumps(
            {
                "cells": [code("print(3)")],
                "metadata": {"kernelspec": {"name": "python3", "display_name": "x", "language": "python"}},
                "nbformat": 4,
                "nbformat_minor": minor,
            }
        )
    )
    assert ops_run(path).cells == ["3\n"]
    if minor < 5:
        return  # These versions have no cell ids.
    twice = [code("print(4)") | {"id": "same"}, code("print(5)") | {"id": "same"}]
    path.write_text(path.read_text().replace(json.dumps([code("print(3)")]), json.dumps(twice)))
    assert ops_run(path).cells == ["4\n", "5\n"]


@pytest.mark.parametrize("kind", ["huge", "bomb", "deep", "device", "pipe"])
def test_a_file_that_is_not_a_bounded_notebook(ops_run: Callable[..., Run], tmp_path: Path, kind: str) -> None:
    """
    A huge file, a decompression bomb, deep nesting, a device and a pipe are wrong usage, and the message names the
    path.
    """
    path = tmp_path / "n.ipynb"
    if kind == "huge":
        with path.open("wb") as file:
            file.truncate(2**31)
    elif kind == "bomb":
        with gzip.open(path, "wb") as file:
            file.writelines(b" " * 2**20 for _ in range(100))
    elif kind == "deep":
        path.write_text('{"cells": ' + "[" * 200_000)
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path = Path("/dev/zero")
    run = ops_run(path)
    assert (run.code, run.row["state"]) == (64, "failed") and str(path) in run.err


@pytest.mark.parametrize(
    "source",
    [
        "!false",
        "x = !false",
        "!!false",
        "%%bash\necho one\nfalse\necho two",
        "%%sh\nfalse\necho two",
        "%%bash\nfalse | cat",
        "x = !echo 'unterminated",
        "x = !echo hi && kill -9 $$",
    ],
    ids=["line", "captured", "double", "bash", "sh", "pipe", "syntax", "killed"],
)
def test_a_shell_command_that_fails(ops_run: Callable[..., Run], tmp_path: Path, source: str) -> None:
    """A failed shell command fails the run, and later cells do not run."""
    run = ops_run(notebook(tmp_path / "n.ipynb", source, "print('after')"))
    failed(run, "cell 1")
    assert "Recursion" not in run.row["reason"]
    assert "two" not in run.cells[0] and run.cells[1] == ""


def test_a_shell_command_that_succeeds(ops_run: Callable[..., Run], tmp_path: Path) -> None:
    """A successful shell command works, and its output is shown or captured."""
    cells = [
        "!echo hi",
        "x = !echo hi\nprint(list(x))",
        "word = 'its'\n!echo {word} $word",
        "y = !echo {word} $word\nprint(list(y))",
        "!echo aside >&2",
    ]
    run = ops_run(notebook(tmp_path / "n.ipynb", *cells))
    assert (run.code, run.row["state"], run.row["reason"]) == (0, "ok", None)
    assert run.cells == ["hi\n", "['hi']\n", "its its\n", "['its its']\n", "aside\n"]


def test_a_shell_cell_that_succeeds(ops_run: Callable[..., Run], tmp_path: Path) -> None:
    """A successful cell for bash or sh works, and its output is shown."""
    run = ops_run(notebook(tmp_path / "n.ipynb", "%%bash\necho one\necho two", "%%sh\necho three"))
    assert (run.code, run.row["state"], run.row["reason"]) == (0, "ok", None)
    assert run.cells == ["one\ntwo\n", "three\n"]


def test_a_shell_command_sees_the_variables_of_its_caller(ops_run: Callable[..., Run], tmp_path: Path) -> None:
    """A shell command sees the caller's variables, those of a function too, and none of the executor's."""
    cells = [
        "def f():\n    inner = 'seen'\n    got = !echo {inner}\n    return list(got)\nprint(f())",
        "def g():\n    inner = 'seen'\n    !echo {inner}\ng()",
        "command = 'mine'\ngot = !echo $command\nprint(list(got))",
    ]
    assert ops_run(notebook(tmp_path / "n.ipynb", *cells)).cells == ["['seen']\n", "seen\n", "['mine']\n"]


def test_a_shell_command_that_writes_bytes(ops_run: Callable[..., Run], tmp_path: Path) -> None:
    """A successful shell command that writes bytes that are not text does not fail the run."""
    assert ops_run(notebook(tmp_path / "n.ipynb", "!printf 'a\\377b'")).row["state"] == "ok"


@pytest.mark.parametrize(
    "cells",
    [("import time; time.sleep(30)", "print('never')"), ("1", "import time; time.sleep(30)")],
    ids=["middle", "last"],
)
def test_a_cell_that_takes_too_long(ops_run: Callable[..., Run], tmp_path: Path, cells: tuple[str, ...]) -> None:
    """A cell that still runs at the timeout is stopped, and the reason says so."""
    began = time.monotonic()
    run = ops_run(notebook(tmp_path / "n.ipynb", WRITE_PID, *cells), "--timeout", "2")
    assert time.monotonic() - began < 10
    failed(run, "timed? ?out|timeout|2 s")
    assert "never" not in "".join(run.cells)
    until(lambda: gone(int((tmp_path / "kernel.pid").read_text())), 5)


def test_many_short_cells_take_too_long(ops_run: Callable[..., Run], tmp_path: Path) -> None:
    """The timeout is for the whole notebook, so it also stops many short cells."""
    run = ops_run(notebook(tmp_path / "n.ipynb", *["import time; time.sleep(0.4)"] * 12), "--timeout", "2")
    failed(run, "timed? ?out|timeout|2 s")


def test_a_kernel_that_never_responds(
    ops_run: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kernel that starts and never responds is stopped by the timeout of the notebook."""
    monkeypatch.setattr(executor, "START_TIMEOUT_S", 5)
    kernelspec(monkeypatch, tmp_path, "hangs", HANGS)
    began = time.monotonic()
    run = ops_run(notebook(tmp_path / "n.ipynb", "1", kernel="hangs"), "--timeout", "1")
    failed(run, "kernel|time")
    assert time.monotonic() - began < 4


@pytest.mark.parametrize("timeout", ["0", "-1", "nan", "1e9", "soon"])
def test_an_invalid_timeout(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], timeout: str) -> None:
    """A timeout that is not a number of seconds up to a day is wrong usage, and nothing runs."""
    assert main.main(["run", str(notebook(tmp_path / "n.ipynb", "1")), "--timeout", timeout]) == 64
    assert "--timeout" in capsys.readouterr().err and ledger(capsys) == []


@pytest.mark.parametrize(
    ("given", "because"),
    [
        ("lmit=9", "Did you mean 'limit'"),
        ("limit=abc", "has the type int.*'abc'"),
        ("limit", "NAME=VALUE"),
        ("limit=", "has the type int"),
        ("x=1;import os#=1", "no parameter"),
        ("key=a massive-sesame-3 b", "secret"),
    ],
)
def test_a_parameter_that_is_rejected(
    home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    given: str,
    because: str,
) -> None:
    """An unknown, badly typed or secret parameter is wrong usage; nothing runs, and the ledger has the reason."""
    monkeypatch.setenv("OPS_MASSIVE_TOKEN", TOKENS["OPS_MASSIVE_TOKEN"])
    path = notebook(
        tmp_path / "n.ipynb", "import pathlib; pathlib.Path('ran').touch()", parameters="limit: int = 5\nkey: str = ''"
    )
    assert main.main(["run", str(path), "-p", given]) == 64
    message = capsys.readouterr().err
    assert re.search(because, message) and "sesame" not in message
    rows = ledger(capsys)
    assert all(r["state"] == "failed" and re.search(because, r["reason"]) and r["outputs"] == [] for r in rows)
    assert len(rows) == ("=" in given)
    assert not (tmp_path / "ran").exists()
    assert "sesame" not in json.dumps(rows)
    assert not any(b"sesame" in p.read_bytes() for p in home.rglob("*") if p.is_file())


def test_a_secret_with_quotes_stays_out_of_the_ledger(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A secret that JSON escapes (quotes, backslashes, non-ASCII letters) is not in the ledger either."""
    secret = 'open "sesame\\é'
    monkeypatch.setenv("OPS_MASSIVE_TOKEN", secret)
    assert (
        main.main(["run", str(notebook(tmp_path / "n.ipynb", "1", parameters="key: str = ''")), "-p", f"key={secret}"])
        == 64
    )
    (row,) = ledger(capsys)
    assert "sesame" not in json.dumps(row)


def test_a_secret_is_rejected_for_the_demo_too(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A secret of the environment is rejected as a parameter for the demo, too."""
    monkeypatch.setenv("OPS_MASSIVE_TOKEN", TOKENS["OPS_MASSIVE_TOKEN"])
    monkeypatch.setattr(
        "opslib.simulation.demo_day.replay.create_home", lambda *_, **__: None
    )  # This test does not need the demo day.
    path = notebook(tmp_path / "n.ipynb", "print(len(key))", parameters="key: str = ''")
    assert main.main(["--app", "demo", "run", str(path), "-p", f"key={TOKENS['OPS_MASSIVE_TOKEN']}"]) == 64
    assert not any(b"sesame" in p.read_bytes() for p in home.rglob("*") if p.is_file())


def test_no_secret_reaches_the_kernel(
    plain_run: Callable[..., Run], home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No secret of the environment is visible to the kernel or its shell, nor in anything that the run writes."""
    for name, value in TOKENS.items():
        monkeypatch.setenv(name, value)
    cells = [
        "import os; print(sorted(n for n in os.environ if n.startswith('OPS_')))",
        "print(dict(os.environ))",
        "!env",
        "print(open('/proc/self/environ').read())",
    ]
    run = plain_run(notebook(tmp_path / "n.ipynb", *cells))
    assert run.row["state"] == "ok"
    assert not set(TOKENS) & set(run.cells[0].split("'")) and "OPS_HOME" in run.cells[0]
    assert not any(b"sesame" in p.read_bytes() for p in home.rglob("*") if p.is_file())


def test_no_secret_in_a_file_reaches_the_kernel(
    plain_run: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel does not get the paths of secret files, so an app opened in a notebook has no secrets."""
    (tmp_path / "token").write_text(TOKENS["OPS_MASSIVE_TOKEN"])
    monkeypatch.setenv("OPS_MASSIVE_TOKEN_FILE", str(tmp_path / "token"))
    run = plain_run(
        notebook(
            tmp_path / "n.ipynb",
            "import os; print([n for n in os.environ if n.endswith('_FILE') and n.startswith('OPS_')])",
            "import opslib; print(dict(opslib.connect().settings.secrets))",
        )
    )
    assert run.cells == ["[]\n", "{}\n"]


def test_the_kernel_uses_the_given_home_and_app(ops_run: Callable[..., Run], tmp_path: Path) -> None:
    """A notebook uses the home directory and the app that the command was given."""
    run = ops_run(
        notebook(tmp_path / "n.ipynb", "import opslib\ns = opslib.connect().settings\nprint(s.app)"), "--app", "other"
    )
    assert run.cells == ["other\n"]


def test_an_awkward_path(ops_run: Callable[..., Run], tmp_path: Path) -> None:
    """A notebook whose path has braces, spaces, quotes and brackets runs, with parameters, in its own folder."""
    path = notebook(
        tmp_path / f"in {AWKWARD}" / f"{AWKWARD}.ipynb",
        "import os; print(os.path.basename(os.getcwd()), name)",
        parameters="name: str = ''",
    )
    run = ops_run(path, "-p", "name={home} {0}")
    assert (run.code, run.row["state"], run.row["notebook"]) == (0, "ok", str(path))
    assert run.cells[-1] == f"in {AWKWARD} {{home}} {{0}}\n"
    assert all(Path(p).is_file() for p in run.row["outputs"])


@pytest.mark.parametrize(
    "content",
    [
        b"hello",
        b"",
        b"[]",
        b"7",
        b"null",
        b"{}",
        b"\xff\xfe",
        b'{"nbformat": 4, "nbformat_minor": 5, "metadata": {}}',
        b'{"nbformat": 99, "nbformat_minor": 0, "metadata": {}, "cells": []}',
        b'{"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": [1]}',
    ],
    ids=[
        "text",
        "empty",
        "list",
        "number",
        "null",
        "object",
        "bytes",
        "no cells",
        "of the future",
        "cells that are none",
    ],
)
def test_a_file_that_is_not_a_notebook(ops_run: Callable[..., Run], tmp_path: Path, content: bytes) -> None:
    """A file that is not a notebook is wrong usage, in the message and in the ledger."""
    path = tmp_path / "no.ipynb"
    path.write_bytes(content)
    run = ops_run(path)
    assert (run.code, run.row["state"], run.row["outputs"]) == (64, "failed", [])
    assert "not a notebook" in run.err and "not a notebook" in run.row["reason"]


@pytest.mark.parametrize("name", ["missing.ipynb", "missing", "."])
def test_a_notebook_that_is_missing(ops_run: Callable[..., Run], tmp_path: Path, name: str) -> None:
    """A path without a notebook is wrong usage, and the reason names the path."""
    run = ops_run(tmp_path / name)
    assert (run.code, run.row["state"], run.row["outputs"]) == (64, "failed", [])
    assert str(tmp_path / name) in run.row["reason"] and str(tmp_path / name) in run.err


@pytest.mark.parametrize(
    "cells",
    [(), ({"cell_type": "markdown", "metadata": {}, "source": "# Words"},), ("print('n')",), ("", "# a remark", " \n")],
    ids=["empty", "words alone", "no parameters cell", "nothing to run"],
)
def test_a_minimal_notebook(ops_run: Callable[..., Run], tmp_path: Path, cells: tuple) -> None:
    """A notebook without cells, without code, or without a parameters cell runs and is ok."""
    run = ops_run(notebook(tmp_path / "n.ipynb", *cells))
    assert (run.code, run.row["state"], run.row["reason"]) == (0, "ok", None)
    assert len(run.row["outputs"]) == 2


@pytest.mark.parametrize("given", [("-p", "n=2"), ()], ids=["given", "not given"])
@pytest.mark.parametrize("source", ["n: int = = 1", "%matplotlib inline\nn = 1"], ids=["wrong", "with a magic"])
def test_a_parameters_cell_that_python_cannot_read(
    ops_run: Callable[..., Run], tmp_path: Path, source: str, given: tuple[str, ...]
) -> None:
    """An invalid parameters cell gives a matching exit code and row, and no traceback."""
    run = ops_run(notebook(tmp_path / "n.ipynb", "print(n)", parameters=source), *given)
    assert (run.code, run.row["state"]) in {(0, "ok"), (64, "failed"), (70, "failed")}
    assert run.code or run.cells[-1] == f"{2 if given else 1}\n"
    assert not run.code or run.row["reason"]


@pytest.mark.parametrize("record", ["[1]", "{'values': {}}", "{'values': []}", "'text'"])
def test_an_invalid_record(ops_run: Callable[..., Run], tmp_path: Path, record: str) -> None:
    """A record of another shape gives a matching exit code and row, and no traceback."""
    run = ops_run(
        notebook(
            tmp_path / "n.ipynb",
            f"display({{'text/plain': 'x', 'application/vnd.opslib.record+json': {record}}}, raw=True)",
        )
    )
    assert (run.code, run.row["state"]) in {(0, "ok"), (70, "failed")}


def test_a_notebook_with_a_lone_surrogate(ops_run: Callable[..., Run], tmp_path: Path) -> None:
    """A lone surrogate gives a matching exit code and row, and no traceback."""
    run = ops_run(
        notebook(tmp_path / "n.ipynb", {"cell_type": "markdown", "metadata": {}, "source": "half \ud800"}, "1")
    )
    assert (run.code, run.row["state"]) in {(0, "ok"), (64, "failed"), (70, "failed")}


def test_an_old_notebook(ops_run: Callable[..., Run], tmp_path: Path) -> None:
    """A notebook of the previous format runs like a current one."""
    path = tmp_path / "old.ipynb"
    path.write_text(
        '{"nbformat": 3, "nbformat_minor": 0, "metadata": {"name": ""}, "worksheets": [{"cells": '
        '[{"cell_type": "code", "collapsed": false, "input": "print(3)", "language": "python", "metadata": {}'
        ', "outputs": []}]}]}'
    )
    assert ops_run(path).cells == ["3\n"]


def test_outputs_that_cannot_be_written(ops_run: Callable[..., Run], home: Path, tmp_path: Path) -> None:
    """If the folder of runs cannot be created the run has failed, and the reason names the folder."""
    home.mkdir()
    (home / "desk").write_text("a file where a folder was wanted")
    run = ops_run(notebook(tmp_path / "n.ipynb", "print('fine')"))
    failed(run, "written to .*desk")
    assert run.row["outputs"] == [] and (home / "desk").read_text().startswith("a file")
    assert "What was executed is in" not in run.err


MOUNTED = """
mount -t tmpfs -o {options} ops "$1" || exit 99
"$2" -m opslib.cli run "$3" >&2
echo $?
find "$1" ! -type d
"""


def in_a_small_world(home: Path, path: Path, options: str) -> tuple[int, list[str], str]:
    """Run a notebook with the app's folder on its own file system; return exit code, files and messages."""
    (home / "desk").mkdir(parents=True)
    alone = [needs("unshare"), "--mount"] + ([] if os.geteuid() == 0 else ["--map-root-user"])
    done = subprocess.run(
        [*alone, "sh", "-c", MOUNTED.format(options=options), "sh", str(home / "desk"), sys.executable, str(path)],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | {"OPS_HOME": str(home)},
    )
    if done.returncode in (1, 99) and not done.stdout:
        absent("the right to mount a file system")
    exit_code, *files = done.stdout.splitlines()
    return int(exit_code), files, done.stderr


@pytest.mark.parametrize(("options", "because"), [("ro", "Read-only"), ("size=64k", "No space left")])
def test_a_disk_that_cannot_be_written(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: str, because: str
) -> None:
    """On a read-only or full disk the run has failed, the reason says which, and there is no file."""
    code, files, said = in_a_small_world(
        home, notebook(tmp_path / "n.ipynb", "import random\nprint(random.randbytes(300_000).hex())"), options
    )
    (row,) = ledger(capsys)
    assert (code, row["state"], row["outputs"], files) == (70, "failed", [], [])
    assert because in row["reason"] and because in said


@pytest.fixture
def begun(home: Path, tmp_path: Path) -> Iterator["subprocess.Popen[str]"]:
    """Start a process that runs a notebook whose kernel has reported its PID and sleeps."""
    path = notebook(tmp_path / "long.ipynb", WRITE_PID, "import time; time.sleep(120)", "print('never')")
    running = subprocess.Popen(
        [sys.executable, "-m", "opslib.cli", "run", str(path)],
        env=os.environ | {"OPS_HOME": str(home)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        until(lambda: (tmp_path / "kernel.pid").exists() or running.poll() is not None)
        assert running.poll() is None, running.communicate()[1]
        yield running
    finally:
        running.kill()
        running.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_a_runner_that_receives_a_signal(
    begun: "subprocess.Popen[str]", tmp_path: Path, capsys: pytest.CaptureFixture[str], number: signal.Signals
) -> None:
    """
    A process that receives SIGTERM or SIGINT ends soon with its kernel, and the ledger has the failure and its reason.
    """
    kernel = int((tmp_path / "kernel.pid").read_text())
    assert [r["state"] for r in ledger(capsys)] == ["running"]
    begun.send_signal(number)
    _, said = begun.communicate(timeout=10)
    assert begun.returncode == 70
    until(lambda: gone(kernel), 5)
    (row,) = ledger(capsys)
    assert row["state"] == "failed" and row["ended_at"]
    assert re.search("SIGTERM" if number == signal.SIGTERM else "SIGINT|keyboard", row["reason"]), row["reason"]
    assert row["reason"] in said


def test_a_runner_that_is_killed(
    begun: "subprocess.Popen[str]", tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The run of a killed process is unknown in the ledger, and its kernel ends too."""
    kernel = int((tmp_path / "kernel.pid").read_text())
    begun.kill()
    begun.wait(10)
    (row,) = ledger(capsys)
    assert (row["state"], row["ended_at"], row["outputs"]) == ("unknown", None, [])
    assert "process ended" in row["reason"]
    until(lambda: gone(kernel), 15)


def test_a_dead_runner_that_is_not_reaped(home: Path) -> None:
    """The run of a zombie process is unknown, not running."""
    store = desk.open().store
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        process = f"{socket.gethostname()}|{other.pid}|{psutil.Process(other.pid).create_time():.2f}"
        ledger_module.begins(
            store,
            None,
            id="a",
            app="desk",
            notebook="n",
            parameters="{}",
            state="running",
            started_at_us=clock.micros(clock.now()),
            process=process,
        )
        assert [r["state"] for r in ledger_module.runs(store)] == ["running"]
        other.kill()
        until(lambda: gone(other.pid))
        assert [r["state"] for r in ledger_module.runs(store)] == ["unknown"]


def test_a_ledger_that_cannot_be_written(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a ledger nothing runs; the command is refused and names the database."""
    home.write_text("a file where a folder was wanted")
    path = notebook(tmp_path / "n.ipynb", "import pathlib; pathlib.Path('ran').touch()")
    assert main.main(["run", str(path)]) == 70
    assert "store" in capsys.readouterr().err and not (tmp_path / "ran").exists()


AT_ONCE = """
import sys, threading
from pathlib import Path
from opslib import desk; from opslib.jobs import executor

bound, found = desk.open(), {}
def one(path):
    found[path.stem] = executor.run(path, {}, settings=bound.settings, store=bound.store)[0]

threads = [threading.Thread(target=one, args=(Path(p),)) for p in sys.argv[1:]]
[t.start() for t in threads]
[t.join() for t in threads]
print({name: (o.state, o.notebook.cells[1].outputs[0].get("text") or o.reason) for name, o in sorted(found.items())})
"""


def test_runs_at_the_same_time(home: Path, tmp_path: Path) -> None:
    """Notebooks that threads of one process run at the same time each give their own result."""
    paths = [
        str(
            notebook(
                tmp_path / f"{n}.ipynb",
                f"import time; time.sleep({n * 0.2})",
                "print(__name__, __import__('os').environ['OPS_HOME'])" if n else "1/0",
            )
        )
        for n in range(3)
    ]
    done = subprocess.run(
        [sys.executable, "-c", AT_ONCE, *paths],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | {"OPS_HOME": str(home)},
    )
    assert done.returncode == 0, done.stderr
    found = ast.literal_eval(done.stdout)
    assert found["0"] == ("failed", "code cell 2 raised ZeroDivisionError: division by zero")
    assert found["1"] == found["2"] == ("ok", f"__main__ {home}\n")


def test_runs_do_not_share_an_engine(ops_run: Callable[..., Run], tmp_path: Path) -> None:
    """A run shares neither sockets nor deadline with a run in another thread."""
    from papermill.engines import papermill_engines

    before = dict(papermill_engines._engines)
    ops_run(notebook(tmp_path / "n.ipynb", "1"))
    assert papermill_engines._engines == before


def test_a_long_folder_for_temporary_files(home: Path, tmp_path: Path) -> None:
    """A notebook runs if the path of the temporary folder is too long for a socket."""
    long = tmp_path / ("t" * 100)
    long.mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "opslib.cli", "run", str(notebook(tmp_path / "n.ipynb", "1")), "--timeout", "15"],
        capture_output=True,
        text=True,
        timeout=25,
        env=os.environ | {"OPS_HOME": str(home), "TMPDIR": str(long)},
    )
    assert done.returncode == 0, done.stderr
    assert list(long.iterdir()) == []


def test_nothing_is_left_behind(plain_run: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run leaves no temporary file and no connection file."""
    for name in ("t", "runtime"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "runtime"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "t"))
    failed(plain_run(notebook(tmp_path / "n.ipynb", "1/0")), "ZeroDivisionError")
    assert [*(tmp_path / "t").iterdir(), *(tmp_path / "runtime").iterdir()] == []
