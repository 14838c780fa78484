"""Test README and the reference pages: each command that they name exists, runs, and does what they say."""

import contextlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from opslib.cli import main, parser
from opslib.foundation.config import settings
from opslib.telemetry.pages.store import SnapshotStore
from tests.support import demo as demos
from tests.support.lab import address_of
from tests.support.published import problems_below

PROJECT = Path(__file__).parents[2]
README = (PROJECT / "README.md").read_text(encoding="utf-8")
DOCS = {page.name: page.read_text(encoding="utf-8") for page in sorted((PROJECT / "opslib" / "docs").glob("*.md"))}
TEXTS = [README, *DOCS.values()]
COMMANDS = sorted({name for text in TEXTS for name in re.findall(r"`(?:ops|ops --app demo) ([a-z]+)", text)})


def test_the_two_commands_of_the_contract() -> None:
    """README has the two commands of CONTRACT.md, and CI runs the second."""
    demo = "python3 -m venv .venv && .venv/bin/pip install -q -e . && .venv/bin/ops demo"
    test = "python3 -m venv .venv && .venv/bin/pip install -q -e '.[test]' && .venv/bin/pytest"
    assert f"{demo}\n{test}" in README
    assert (PROJECT / ".ci" / "run").read_text().rstrip().endswith(test)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_exists(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Every command that README and the reference pages name has a help text."""
    with pytest.raises(SystemExit) as ended:
        main.main([command, "--help"])
    assert ended.value.code == 0 and "example: ops" in capsys.readouterr().out


def test_every_setting_exists() -> None:
    """Every variable that README and the reference pages name is read by the settings."""
    code = (PROJECT / "opslib" / "foundation" / "config" / "settings.py").read_text(encoding="utf-8")
    for name in {name for text in TEXTS for name in re.findall(r"OPS_[A-Z_]+", text)} - {"OPS_RECEIVER_URL"}:
        assert name.removesuffix("_FILE") in code or name.startswith(settings.CHANNEL), name


def test_every_file_exists() -> None:
    """Every file of the project that README and the reference pages link or name exists."""
    for text, folder in [(README, PROJECT), *((text, PROJECT / "opslib" / "docs") for text in DOCS.values())]:
        for name in re.findall(r"\]\((?!http)([^)#]+)[^)]*\)", text):
            assert (folder / name).is_file(), name
        for name in re.findall(r"`((?:notebooks|tests|opslib)/[\w./]+)`", text):
            assert (PROJECT / name).is_file(), name


def test_readme_is_short() -> None:
    """README has at most 150 lines, and links every reference page; the glossary has at most 25 terms."""
    assert len(README.splitlines()) <= 150
    assert all(f"](opslib/docs/{name})" in README for name in DOCS)
    assert len(re.findall(r"^\| (?!term|-)", DOCS["glossary.md"], re.MULTILINE)) <= 25


TYPED_ANYWHERE = sorted(
    {
        re.split(r" {3,}|  ?#| >", line)[0].strip()
        for text in TEXTS
        for block in re.findall(r"```(?:sh)?\n(.*?)```", text, re.S)
        for line in block.splitlines()
        if line.startswith("ops ")
    }
    | {typed for text in TEXTS for typed in re.findall(r"`(ops [^`]+)`", text) if " --" in typed and "…" not in typed}
)


@pytest.mark.parametrize("typed", TYPED_ANYWHERE)
def test_every_command_line_is_valid(typed: str) -> None:
    """Every command line in README and the reference pages is accepted as it is."""
    assert parser.parser(main.COMMANDS).parse_args(shlex.split(typed)[1:]).command


def test_the_top_level_has_only_names_of_the_design_card() -> None:
    """The top level has only entries that the design card names."""
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


TOUR = README.partition("## Five-minute tour")[2].partition("\n## ")[0]
TYPED = [
    re.split(" {3,}", line)[0]
    for block in re.findall(r"```\n(.*?)```", TOUR, re.S)
    for line in block.splitlines()
    if line.startswith("ops ")
]
ENDS = {"status": 2, "postmortem 2026-03-10-2 --check": 70}  # All others exit with 0.
SHOWS = {  # What the output has to contain.
    "status": "critical: availability of massive",
    "notify": "availability-massive",
    "incident list": "2026-03-10-2  resolved",
    "incident open": "Massive's API is down",
    "ack": "2026-03-10-5 acknowledged by Ann",
    "runbook open": "likely: provider_5xx of massive, confidence 9",
    "runbook resume": "0 done · 25 to do · 6 not needed",
    "incident mitigate": "mitigated: on Tradier's data",
    "incident note": "Bob: the vendor was called",
    "mark deploy": "marked deploy at 2026-03-10 15:05:00 UTC (11:05:00 New York): v1.4.0",
    "incident resolve": "Ann: resolved",
    "postmortem 2026-03-10-2 --check": "9 sections to complete",
    "postmortem": "20 figures, each with its evidence",
    "verify": "20 figures recomputed",
}


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The home directory after the first command, with `ops` on the path."""
    home = tmp_path_factory.mktemp("screens")
    demos.laid_out(home)
    return os.environ | {
        "OPS_HOME": str(home),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }


@pytest.mark.slow
def test_the_tour(desk: dict[str, str]) -> None:
    """Each command of the tour, run in README's order in a shell, has the exit code and output that README shows."""
    assert len(TYPED) == 14
    for typed in TYPED:
        ended = subprocess.run(["bash", "-c", typed], env=desk, capture_output=True, text=True, timeout=120)
        act = typed.removeprefix("ops --app demo ")
        assert ended.returncode == max((code for name, code in ENDS.items() if act.startswith(name)), default=0), (
            typed,
            ended.stdout[-500:],
            ended.stderr,
        )
        assert next(shown for name, shown in SHOWS.items() if act.startswith(name)) in ended.stdout, (
            typed,
            ended.stdout,
        )
    assert (Path(desk["OPS_HOME"]) / "demo" / "demo" / "incidents" / "2026-03-10-5" / "01_massive_down.ipynb").exists()


@pytest.mark.parametrize("typed", sorted(set(re.findall(r"`(ops --app demo (?:lab|dashboard))`", TOUR))))
def test_commands_that_open_a_browser(desk: dict[str, str], typed: str, tmp_path: Path) -> None:
    """The command prints its address, which responds; Ctrl-C ends it without an error."""
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
    Press Ctrl-C, again if nothing happens, and finally end the process.

    Python drops an interrupt that arrives inside a finalizer.
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
    """Run `ops demo` with another seed, in a folder with a space in its name; return folder and output."""
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
def test_the_demo_is_right_with_another_seed(demo: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    """`ops demo` with another seed succeeds, with every figure equal to that seed's expected figures."""
    home, ended = demo
    assert ended.returncode == 0, ended.stderr
    assert re.search(r"^(\d+) of \1 figures equal", ended.stdout, re.MULTILINE)
    for line in re.findall(r"^(?:daily report|dashboard) +(.+\.html)$", ended.stdout, re.MULTILINE):
        assert Path(line).stat().st_size > 50_000
    assert settings.load(home, "demo", {}).home == home / "demo"


@pytest.mark.slow
def test_no_page_of_the_demo_shows_source(demo: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    """Daily report, postmortem, printed runbook, dashboard and index show no Markdown or HTML source as text."""
    pages = [page.name for page in demo[0].rglob("*.html")]
    assert {"2026-03-10_daily.html", "postmortem.html", "01_massive_down.html", "dashboard.html", "index.html"} <= set(
        pages
    )
    assert problems_below(demo[0]) == {}


@pytest.mark.slow
def test_the_demos_report_links_to_its_incidents(demo: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    """The daily report links to the page of each incident and to the postmortem, and each link leads to a file."""
    report = next(demo[0].rglob("2026-03-10_daily.html"))
    links = re.findall(r'href="(\.\./\.\./incidents/[^"]+)"', report.read_text(encoding="utf-8"))
    assert {"incident.html", "postmortem.html"} <= {Path(link).name for link in links}
    assert all((report.parent / link).is_file() for link in links)


@pytest.mark.slow
def test_the_demo_detects_its_faults(demo: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    """
    Our probes of the demo detect the outage, the broken chain and the lost WebSocket, each only around its time.

    More than 400 other probes succeed.
    """
    from opslib.foundation import clock
    from opslib.foundation.storage.database import Database
    from opslib.telemetry.probes.store import SampleStore
    from tests.support import days

    store = Database(settings.load(demo[0], "demo", {}).url)
    faults = {t.name: t for t in days.scripted(seed=SEED).faults}
    looks = [s for s in SampleStore(store, "demo").between(0, 2**62) if clock.instant(s.ts_us).date() == days.DAY]
    seen = {
        "massive_outage": [
            s for s in looks if (s.probe, s.subject, s.outcome) == ("liveness", "massive", "server_5xx")
        ],
        "websocket_loss": [s for s in looks if (s.probe, s.outcome) == ("socket", "unreachable")],
        "gamma_burst": [s for s in looks if s.probe == "chain" and s.details().get("gamma_zero", 0) > 10],
    }
    for name, samples in seen.items():
        assert samples and all(faults[name].begins <= clock.instant(s.ts_us) <= faults[name].ends for s in samples), (
            name
        )
    well = [s for s in looks if s.probe in ("liveness", "health") and s.outcome == "ok"]
    assert len(well) > 400 and sorted(s.seconds or 0 for s in well)[len(well) // 2] < 1


@pytest.mark.slow
def test_the_demo_is_the_same_posted_or_written_directly(
    tmp_path: Path, demo: tuple[Path, subprocess.CompletedProcess[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    The demo written directly, for notebooks, has the same posts at the same times as the one posted to the receiver.
    """
    from opslib.foundation.storage.database import Database
    from opslib.simulation.demo_day import replay

    # Alerts and people do not change a post.
    monkeypatch.setattr(replay, "_collector", lambda *_: SimpleNamespace(evaluate_due=lambda: None))
    monkeypatch.setattr(replay.responders, "Responders", lambda *_: SimpleNamespace(next_at=None))
    direct = settings.load(tmp_path / "a", "demo", {})
    replay.create_home(direct, SEED)

    def held(store):
        # Posts of the same instant are stored in the order of their arrival.
        rows = SnapshotStore(store).bodies("demo", None, None, None)
        return sorted((*row[:2], str(row[2]), json.dumps(json.loads(row[3]), sort_keys=True)) for row in rows)

    assert held(Database(direct.url)) == held(Database(settings.load(demo[0], "demo", {}).url))
