"""A game day: a world that runs, a person who looks at it through the suite alone, and the debrief of it."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from opslib.cli import main, parser
from opslib.jobs import jupyterlab
from opslib.runbooks import catalog
from opslib.simulation.drills import game_day
from opslib.simulation.world.faults import STATES

pytestmark = [pytest.mark.drill, pytest.mark.slow]

SPEED = 8.0
NO_LAB = ("-c", "import os, time; print(os.environ['OPS_HOME'], flush=True); time.sleep(600)")
TYPED_TOO_EARLY, WRONG, RIGHT = "provider_stale", "provider_refused", "provider_tls"


def person(home: Path, said: list[str]) -> Iterator[str]:
    """
    Guesses at once; asks for the causes; mistypes; is told of an alert, as anybody who looks at the status would be; is
    wrong, then right.
    """
    yield TYPED_TOO_EARLY
    yield game_day.LISTS
    yield "provider_tlx"
    environ = None
    for _ in range(600):
        if environ is None:
            environ = next((p.environ() for p in psutil.Process().children() if "serve" in p.cmdline()), None)
        shown = subprocess.run(
            [sys.executable, "-m", "opslib.cli", "status", "-o", "json"], env=environ, capture_output=True, text=True
        )
        seen = json.loads(shown.stdout) if shown.stdout else {"alerts": []}
        said.append(shown.stdout)
        if any(
            a["subject"] == "massive"
            and a["rule"] in ("availability", "answers")
            and a["state"] == "firing"
            and not a["inhibited_by"]
            and a["severity"] in ("notify", "critical", "escalate")
            for a in seen["alerts"]
        ):
            break
        time.sleep(0.3)  # The world runs by itself.
    yield WRONG
    yield RIGHT


def test_a_game_day(tmp_path: Path) -> None:
    """
    What was injected is in nothing that the person is shown or can look at; the answer, its time and what people were
    told are in the debrief; nothing is left running.
    """
    options = parser.parser(main.COMMANDS).parse_args(
        [
            "--home",
            str(tmp_path),
            "--app",
            "desk",
            "drill",
            "--live",
            "massive_tls",
            "--secret",
            "--by",
            "Lead",
            "--seed",
            "7",
        ]
    )
    told, seen = list[str](), list[str]()
    answers = person(tmp_path, seen)
    before = {p.pid for p in psutil.Process().children(recursive=True)}
    reply = game_day.asked(options, told.append, lambda prompt: next(answers), NO_LAB, SPEED, 30.0, 60.0)
    found = reply.values
    assert (
        reply.done
        and found["fault"] == "massive_tls"
        and [s["cause"] for s in found["said"]] == [TYPED_TOO_EARLY, WRONG, RIGHT]
        and [s["right"] for s in found["said"]] == [False, False, True]
    )
    assert found["said"][0]["after_s"] < 0 < found["told_after_s"] <= found["found_after_s"] < 1200 and any(
        "massive" in t["words"] for t in found["told"]
    )
    assert not {p.pid for p in psutil.Process().children(recursive=True)} - before
    shown = "\n".join((*told, *seen))
    assert "massive_tls" not in shown, shown[shown.index("massive_tls") - 300 :][:600]
    assert "there is no cause 'provider_tlx'" in shown and "provider_tls: The provider shows" in shown
    (folder,) = (tmp_path / "desk" / "game_days").iterdir()
    debrief = (folder / "debrief.md").read_text()
    assert (
        "# Game day: massive_tls" in debrief
        and "provider_tls (right)" in debrief
        and "before it began: provider_stale" in debrief
        and json.loads((folder / "debrief.json").read_text())["seed"] == 7
    )
    launcher = folder / "home" / ".lab" / "launcher" / "jp_app_launcher.yaml"
    # Every runbook, dashboard_slow among them, whatever is the matter.
    assert json.loads(launcher.read_text()) == jupyterlab.entries(catalog.folder().parent, catalog.titles())
    for path in (p for p in folder.rglob("*") if p.is_file() and not p.name.startswith("debrief") and p != launcher):
        content = path.read_bytes()
        assert not [
            state
            for state in STATES
            if state.encode() in content and state not in ("healthy", "gamma_zero", "delta_out_of_bounds")
        ], path
    assert (folder / "lab.log").read_text().strip() == str(folder / "home")


def test_giving_up_is_an_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who gives up before it began is told what it would have been, and the debrief says that it was not found."""
    options = parser.parser(main.COMMANDS).parse_args(
        ["--home", str(tmp_path), "--app", "desk", "drill", "--live", "any", "--secret"]
    )
    reply = game_day.asked(options, lambda words: None, lambda prompt: game_day.GIVES_UP, NO_LAB, SPEED, 900.0, 900.0)
    assert (
        not reply.done
        and reply.values["begun"] is None
        and "it had not begun; not found" in reply.words
        and reply.values["fault"] in STATES
    )
    assert os.environ.get("OPS_CLOCK") is None


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (["--live", "massive_tlx"], "Did you mean"),
        (["--live", "any"], "--secret"),
        (["--secret"], "--secret alone"),
        (["--live", "massive_tls", "--record"], "three ways"),
        (["--record", "massive_tls"], "of everything"),
        (["--mutants", "massive_dwn"], "massive_down"),
    ],
)
def test_what_does_not_go_together(
    asked: list[str], says: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """It is refused by name, and nothing is started."""
    assert main.main(["--home", str(tmp_path), "drill", *asked]) == 64 and says in capsys.readouterr().err
