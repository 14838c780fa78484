"""The README: what it tells a stranger to type is there, and means what it says."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from opslib.cli import main
from opslib.foundation.config import settings
from opslib.telemetry.pages.store import SnapshotStore
from tests.support import demo as demos
from tests.support.lab import address_of

PROJECT = Path(__file__).parents[2]
README = (PROJECT / "README.md").read_text(encoding="utf-8")
COMMANDS = sorted(set(re.findall(r"\bops ([a-z]+)", README)))


def test_the_two_commands_are_the_contracts() -> None:
    """The two commands from nothing stand in the README, and CI runs the second as it stands there."""
    demo = "python3 -m venv .venv && .venv/bin/pip install -q -e . && .venv/bin/ops demo"
    test = "python3 -m venv .venv && .venv/bin/pip install -q -e '.[test]' && .venv/bin/pytest"
    assert f"{demo}\n{test}" in README
    assert (PROJECT / ".ci" / "run").read_text().rstrip().endswith(test)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_there(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Every command that the README names has a help text."""
    with pytest.raises(SystemExit) as ended:
        main.main([command, "--help"])
    assert ended.value.code == 0 and "example: ops" in capsys.readouterr().out


def test_every_setting_is_there() -> None:
    """Every variable that the README names is one that the settings read."""
    code = (PROJECT / "opslib" / "foundation" / "config" / "settings.py").read_text(encoding="utf-8")
    for name in set(re.findall(r"OPS_[A-Z_]+", README)):
        assert name.removesuffix("_FILE") in code or name.startswith(settings.CHANNEL), name


def test_every_file_is_there() -> None:
    """Every file of the project that the README links or names is there."""
    for name in re.findall(r"\]\((?!http)([^)]+)\)|`((?:notebooks|tests)/[\w./]+)`", README):
        assert (PROJECT / (name[0].partition("#")[0] or name[1])).is_file(), name


def test_only_the_design_cards_names_are_at_the_top() -> None:
    """The top level holds what the design card names, and nothing else."""
    tracked = subprocess.run(["git", "ls-tree", "--name-only", "HEAD"], cwd=PROJECT, capture_output=True, text=True)
    if tracked.returncode:
        pytest.skip("this is no git checkout")
    card = {
        "pyproject.toml",
        "README.md",
        "notebooks",
        "opslib",
        "runbooks",
        "tests",
        "outputs",
        "LICENSE",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "constraints.txt",
    }
    assert {name for name in tracked.stdout.split() if not name.startswith(".")} <= card


SCREENS = README.partition("## Three screens")[2].partition("\n## ")[0]
TYPED = [
    re.split(" {3,}", line)[0]
    for block in re.findall(r"```\n(.*?)```", SCREENS, re.S)
    for line in block.splitlines()
    if line.startswith("ops ")
]
ENDS = {"status": 2, "postmortem 2026-03-10-1 --check": 70}  # As the README says; else 0.
SAYS = {  # What who types it has to see in it.
    "status": "critical: availability of massive",
    "incident list": "2026-03-10-1  resolved",
    "incident open": "opened by hand: Massive does not answer",
    "ack": "2026-03-10-2 is taken by Ann",
    "runbook open": "likely: provider_5xx of massive, 9",
    "runbook resume": "0/31 steps",
    "incident mitigate": "mitigated: on Tradier's data",
    "incident note": "Bob: the vendor was called",
    "mark deploy": "marked deploy at 2026-03-10 15:05:00 UTC (11:05:00 New York): v1.4.0",
    "incident resolve": "Ann: resolved",
    "postmortem 2026-03-10-1 --check": "has no owner",
    "postmortem": "20 figures, each with its evidence",
    "verify": "20 figures computed again",
}


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Where a new user stands after the first command: the demo's home, `ops` at hand."""
    home = tmp_path_factory.mktemp("screens")
    demos.laid_out(home)
    return os.environ | {
        "OPS_HOME": str(home),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }


@pytest.mark.slow
def test_the_three_screens_can_be_followed(desk: dict[str, str]) -> None:
    """
    Every command of the second screen as it stands in the README, in its order, in a shell: each ends and says as a new
    user was told.
    """
    assert len(TYPED) == 13
    for typed in TYPED:
        ended = subprocess.run(["bash", "-c", typed], env=desk, capture_output=True, text=True, timeout=120)
        act = typed.removeprefix("ops --app demo ")
        assert ended.returncode == max((code for name, code in ENDS.items() if act.startswith(name)), default=0), (
            typed,
            ended.stdout[-500:],
            ended.stderr,
        )
        assert next(said for name, said in SAYS.items() if act.startswith(name)) in ended.stdout, (typed, ended.stdout)
    assert (Path(desk["OPS_HOME"]) / "demo" / "demo" / "incidents" / "2026-03-10-2" / "01_massive_down.ipynb").exists()


@pytest.mark.parametrize("typed", sorted(set(re.findall(r"`(ops --app demo (?:lab|dashboard))`", SCREENS))))
def test_what_opens_in_a_browser_opens(desk: dict[str, str], typed: str, tmp_path: Path) -> None:
    """It says its address, which answers; Ctrl-C ends it well."""
    log = tmp_path / "said"
    with log.open("w") as said:
        running = subprocess.Popen(
            ["bash", "-c", f"exec {typed} --no-browser"], env=desk, stdout=said, stderr=said, start_new_session=True
        )
    try:
        address_of(running, log)
    finally:
        interrupt(running)
    assert running.returncode == 0, log.read_text()[-2000:]


def interrupt(running: subprocess.Popen[bytes]) -> None:
    """
    Press Ctrl-C, as a person does: again where nothing happens, since Python drops the interrupt that arrives inside a
    finalizer; at last end it.
    """
    for _ in range(3):
        os.killpg(running.pid, signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            running.wait(45)
            return
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()


SEED = 4711


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """`ops demo` with another seed, in a folder with a space in its name: where, and what it said."""
    home = tmp_path_factory.mktemp("demo") / "a desk"
    ended = subprocess.run(
        [sys.executable, "-m", "opslib.cli", "--home", str(home), "demo", "--seed", str(SEED)],
        env=dict(os.environ),
        capture_output=True,
        text=True,
        timeout=300,
    )
    return home, ended


@pytest.mark.slow
def test_the_demo_is_right_for_another_seed(demo: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    """`ops demo` with another seed ends well, every figure equal to that seed's truth."""
    home, ended = demo
    assert ended.returncode == 0, ended.stderr
    assert re.search(r"^(\d+) of \1 figures equal", ended.stdout, re.MULTILINE)
    for line in re.findall(r"^(?:daily report|dashboard) +(.+\.html)$", ended.stdout, re.MULTILINE):
        assert Path(line).stat().st_size > 50_000
    assert settings.load(home, "demo", {}).home == home / "demo"


def test_the_demo_saw_its_troubles(demo: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    """
    Our own looks at the demo's world saw the outage, the broken chain and the lost socket, each only around its time,
    and answered well besides.
    """
    from opslib.foundation import clock
    from opslib.foundation.storage.database import Database
    from opslib.telemetry.probes.store import SampleStore
    from tests.support import days

    store = Database(settings.load(demo[0], "demo", {}).url)
    troubles = {t.name: t for t in days.scripted(seed=SEED).troubles}
    looks = [s for s in SampleStore(store, "demo").between(0, 2**62) if clock.instant(s.ts_us).date() == days.DAY]
    seen = {
        "massive_outage": [
            s for s in looks if (s.probe, s.subject, s.outcome) == ("liveness", "massive", "server_5xx")
        ],
        "websocket_loss": [s for s in looks if (s.probe, s.outcome) == ("socket", "unreachable")],
        "gamma_burst": [s for s in looks if s.probe == "chain" and s.told().get("gamma_zero", 0) > 10],
    }
    for name, samples in seen.items():
        assert samples and all(
            troubles[name].begins <= clock.instant(s.ts_us) <= troubles[name].ends for s in samples
        ), name
    well = [s for s in looks if s.probe in ("liveness", "health") and s.outcome == "ok"]
    assert len(well) > 400 and sorted(s.seconds or 0 for s in well)[len(well) // 2] < 1


@pytest.mark.slow
def test_both_doors_give_the_same_day(tmp_path: Path, demo: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    """
    The demo laid out directly, for notebooks, holds the same posts at the same times as the one posted to the receiver.
    """
    from opslib.foundation.storage.database import Database
    from opslib.simulation.demo_day import replay

    direct = settings.load(tmp_path / "a", "demo", {})
    replay.lay_out(direct, SEED)

    def held(store):
        # Pages that post at the same instant are written in whatever order they arrive.
        rows = SnapshotStore(store).bodies("demo", None, None, None)
        return sorted((*row[:2], str(row[2]), json.dumps(json.loads(row[3]), sort_keys=True)) for row in rows)

    assert held(Database(direct.url)) == held(Database(settings.load(demo[0], "demo", {}).url))
