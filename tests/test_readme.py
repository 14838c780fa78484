"""The README: what it tells a stranger to type is there, and means what it says."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from opslib import cli, settings

PROJECT = Path(__file__).parent.parent
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
        cli.main([command, "--help"])
    assert ended.value.code == 0 and "example: ops" in capsys.readouterr().out


def test_every_setting_is_there() -> None:
    """Every variable that the README names is one that the settings read."""
    code = (PROJECT / "opslib" / "settings.py").read_text(encoding="utf-8")
    for name in set(re.findall(r"OPS_[A-Z_]+", README)):
        assert name.removesuffix("_FILE") in code, name


def test_every_file_is_there() -> None:
    """Every file of the project that the README links or names is there."""
    for name in re.findall(r"\]\((?!http)([^)]+)\)|`((?:notebooks|tests)/[\w./]+)`", README):
        assert (PROJECT / (name[0] or name[1])).is_file(), name


def test_only_the_design_cards_names_are_at_the_top() -> None:
    """The top level holds what the design card names, and nothing else."""
    tracked = subprocess.run(["git", "ls-tree", "--name-only", "HEAD"], cwd=PROJECT, capture_output=True, text=True)
    if tracked.returncode:
        pytest.skip("this is no git checkout")
    card = {"pyproject.toml", "README.md", "notebooks", "opslib", "runbooks", "tests", "outputs", "LICENSE", "CHANGELOG.md", "CONTRIBUTING.md", "constraints.txt"}
    assert {name for name in tracked.stdout.split() if not name.startswith(".")} <= card


def test_the_demo_is_right_for_another_seed(tmp_path: Path) -> None:
    """`ops demo` with another seed ends well, every figure equal to that seed's truth, in a folder with a space in its name."""
    home = tmp_path / "a desk"
    ended = subprocess.run([sys.executable, "-m", "opslib.cli", "--home", str(home), "demo", "--seed", "4711"], env=dict(os.environ), capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr
    assert re.search(r"^(\d+) of \1 figures equal", ended.stdout, re.MULTILINE)
    for line in re.findall(r"^(?:daily report|dashboard) +(.+\.html)$", ended.stdout, re.MULTILINE):
        assert Path(line).stat().st_size > 50_000
    assert settings.load(home, "demo", {}).home == home / "demo"


def test_both_doors_give_the_same_day(tmp_path: Path) -> None:
    """The demo laid out directly, for notebooks, holds the same posts at the same times as the one posted to the receiver."""
    from opslib.demo import tour

    direct, posted = settings.load(tmp_path / "a", "demo", {}), settings.load(tmp_path / "b", "demo", {})
    tour.lay_out(direct)
    live = tour.live(posted, tour.SEED, lambda items, total, words: iter(items))
    from opslib.store import Store

    held = lambda store: [(*row[:3], json.loads(row[3])) for row in store.bodies("demo", None, None, None)]  # noqa: E731
    assert held(Store(direct.url)) == held(live.store)
