"""Test preloaded kernels: same bytes as plain kernels, isolated from each other, none left over."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psutil
import pytest

from opslib import desk
from opslib.foundation.config.settings import without_secrets
from opslib.jobs import executor, ledger
from opslib.jobs import notebook_file as runner
from opslib.jobs.executor import Outcome
from opslib.jobs.kernels import KernelPool
from tests.jobs.test_executor import notebook, shown

pytestmark = pytest.mark.kernel

PLOTS = """
import matplotlib.pyplot as plt, numpy as np, pandas as pd
plt.plot(np.linspace(0, 1, 50) ** 2); plt.title("squares"); plt.show()
pd.DataFrame({"a": [1, 2], "b": ["x", "y"]}).describe(include="all")
"""


@pytest.fixture(scope="module")
def kernels() -> Iterator[KernelPool]:
    """Start a pool for these tests, without secrets."""
    os.environ["OPS_MASSIVE_TOKEN"] = "sesame-of-massive-1"
    with closing(KernelPool(without_secrets(os.environ))) as found:
        del os.environ["OPS_MASSIVE_TOKEN"]
        yield found


def executed(path: Path, kernels: KernelPool | None, **given: object) -> Outcome:
    """Execute one run in the home directory of the test."""
    found = desk.open()
    return executor.execute(path, given, settings=found.settings, store=found.store, kernels=kernels)


def file(outcome: Outcome) -> bytes:
    """Return the bytes that would be published."""
    assert outcome.notebook is not None
    return runner.written(executor.tidied(outcome.notebook))


@pytest.mark.slow
def test_the_same_bytes(home: Path, tmp_path: Path, kernels: KernelPool) -> None:
    """Preloaded and plain kernels give the same bytes, pictures included; the ledger records the kind of kernel."""
    plots = notebook(tmp_path / "plots.ipynb", PLOTS)
    for path, given in ((plots, {}), (executor.notebook("daily_report"), {"app": "desk", "day": "2026-03-10"})):
        warm, plain = executed(path, kernels, **given), executed(path, None, **given)
        assert (warm.kernel, plain.kernel) == ("warm", "plain") and warm.state in ("ok", "incomplete")
        assert file(warm) == file(plain) and file(warm).count(b'"image/png"') >= 1


def test_kernels_are_isolated(home: Path, tmp_path: Path, kernels: KernelPool) -> None:
    """Each kernel has its own random numbers, folder, environment and time zone; none has a secret."""
    path = notebook(
        tmp_path / "k.ipynb",
        "import os, random, numpy, time, opslib, sys\n"
        "print(random.random(), numpy.random.random(), os.getcwd(), hasattr(opslib, 'spoilt'), os.environ.get('MARK'), "
        "time.tzname[0], 'OPS_MASSIVE_TOKEN' in os.environ, os.getpgid(0) == os.getpid())\n"
        "opslib.spoilt = 1\nos.environ['MARK'] = 'spoilt'",
    )
    outputs = []
    for zone in ("UTC", "Asia/Tokyo"):
        os.environ["TZ"] = zone
        try:
            outputs.append(" ".join(o.text for c in executed(path, kernels).notebook.cells for o in c.outputs).split())
        finally:
            del os.environ["TZ"]
    assert [t[2:] for t in outputs] == [
        [str(tmp_path), "False", "None", zone, "False", "True"] for zone in ("UTC", "JST")
    ]
    assert outputs[0][0] != outputs[1][0] and outputs[0][1] != outputs[1][1]


def test_a_kernel_that_dies_or_hangs(home: Path, tmp_path: Path, kernels: KernelPool) -> None:
    """A forked kernel that dies or hangs is detected like a plain one."""
    dies = executed(notebook(tmp_path / "d.ipynb", "import os; os._exit(0)", "print('never')"), kernels)
    assert dies.kernel == "warm" and dies.state == "failed" and "Dead" in str(dies.reason)
    found = desk.open()
    begun = time.monotonic()
    hangs = executor.execute(
        notebook(tmp_path / "h.ipynb", "while True: pass"),
        {},
        settings=found.settings,
        store=found.store,
        timeout_s=2,
        kernels=kernels,
    )
    assert hangs.state == "failed" and "imeout" in str(hangs.reason) and time.monotonic() - begun < 20


def test_plain_kernels_as_fallback(home: Path, tmp_path: Path) -> None:
    """With a closed pool or a killed fork server, plain kernels are started."""
    path = notebook(tmp_path / "n.ipynb", "print('made')")
    closed = KernelPool(without_secrets(os.environ))
    closed.close()
    assert (executed(path, closed).kernel, executed(path, closed).state) == ("plain", "ok")
    with closing(KernelPool(without_secrets(os.environ))) as killed:
        assert executed(path, killed).kernel == "warm"
        killed._process.kill()
        killed._process.wait()
        outcome = executed(path, killed)
        assert (outcome.kernel, outcome.state) == ("plain", "ok")
    assert [row["kernel"] for row in ledger.runs(desk.open().store)] == [None] * 4  # execute() does not publish a run.


def test_nothing_outlives_its_parent(home: Path, tmp_path: Path) -> None:
    """If the process with the pool is killed, the fork server and the kernel end."""
    path = notebook(
        tmp_path / "long.ipynb",
        "import os, pathlib, time\npathlib.Path('pids.tmp').write_text(f'{os.getpid()} {os.getppid()}')"
        "\nos.rename('pids.tmp', 'pids')\ntime.sleep(120)",
    )
    script = (
        "import sys, os; from pathlib import Path; from opslib import desk; "
        "from opslib.jobs import executor as runner; "
        "from opslib.jobs.kernels import KernelPool as Kernels; "
        "from opslib.foundation.config.settings import without_secrets; d = desk.open(); "
        "runner.execute(Path(sys.argv[1]), {}, settings=d.settings, store=d.store, "
        "kernels=Kernels(without_secrets(os.environ)))"
    )
    running = subprocess.Popen([sys.executable, "-c", script, str(path)], stderr=subprocess.DEVNULL)
    until = time.monotonic() + 60
    while not (tmp_path / "pids").exists():
        assert running.poll() is None and time.monotonic() < until
        time.sleep(0.05)
    pids = [int(p) for p in (tmp_path / "pids").read_text().split()]
    assert all(psutil.pid_exists(p) for p in pids)
    running.send_signal(signal.SIGKILL)
    running.wait()
    while any(psutil.pid_exists(p) and psutil.Process(p).status() != psutil.STATUS_ZOMBIE for p in pids):
        assert time.monotonic() < until, "a kernel outlived whoever wanted it"
        time.sleep(0.05)
    assert shown(path) == [""]  # The notebook itself is unchanged.
