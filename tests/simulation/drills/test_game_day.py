"""Test a game day: a running world, a person who diagnoses it with opslib alone, and the debrief."""

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


def person(home: Path, outputs: list[str]) -> Iterator[str]:
    """
    Act as a person: answer too early, list the causes, make a typing error, wait for an alert, answer wrong, then
    right.
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
        outputs.append(shown.stdout)
        if any(
            a["subject"] == "massive"
            and a["rule"] in ("availability", "answers")
            and a["state"] == "firing"
            and not a["inhibited_by"]
            and a["severity"] in ("notify", "critical", "escalate")
            for a in seen["alerts"]
        ):
            break
        time.sleep(0.3)  # The world runs on its own.
    yield WRONG
    yield RIGHT


def test_a_game_day(tmp_path: Path) -> None:
    """
    A game day continues until the right answer.

    Nothing that the person can open names the fault. The debrief has the answers, times and notifications. No process
    is left running.
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
    messages, outputs = list[str](), list[str]()
    answers = person(tmp_path, outputs)
    before = {p.pid for p in psutil.Process().children(recursive=True)}
    reply = game_day.play(options, messages.append, lambda prompt: next(answers), NO_LAB, SPEED, 30.0, 60.0)
    found = reply.values
    assert (
        reply.done
        and found["fault"] == "massive_tls"
        and [a["cause"] for a in found["answers"]] == [TYPED_TOO_EARLY, WRONG, RIGHT]
        and [a["right"] for a in found["answers"]] == [False, False, True]
    )
    assert found["answers"][0]["after_s"] < 0 < found["notified_after_s"] <= found["found_after_s"] < 1200 and any(
        "massive" in n["words"] for n in found["notifications"]
    )
    assert not {p.pid for p in psutil.Process().children(recursive=True)} - before
    shown = "\n".join((*messages, *outputs))
    assert "massive_tls" not in shown, shown[shown.index("massive_tls") - 300 :][:600]
    assert "Unknown cause: 'provider_tlx'" in shown and "provider_tls: The TLS certificate of" in shown
    (folder,) = (tmp_path / "desk" / "game_days").iterdir()
    debrief = (folder / "debrief.md").read_text()
    assert (
        "# Game day: massive_tls" in debrief
        and "provider_tls (right)" in debrief
        and "before the fault began: provider_stale" in debrief
        and json.loads((folder / "debrief.json").read_text())["seed"] == 7
    )
    launcher = folder / "home" / ".lab" / "launcher" / "jp_app_launcher.yaml"
    # The launcher lists every runbook, dashboard_slow among them, whatever the fault.
    assert json.loads(launcher.read_text()) == jupyterlab.entries(catalog.folder().parent, catalog.titles())
    for path in (p for p in folder.rglob("*") if p.is_file() and not p.name.startswith("debrief") and p != launcher):
        content = path.read_bytes()
        named = {"healthy", "gamma_zero", "delta_out_of_bounds"}
        if path.name in ("index.html", "runbooks.html"):  # They list every runbook, too.
            named.add("dashboard_slow")
        assert not [state for state in STATES if state.encode() in content and state not in named], path
    assert (folder / "lab.log").read_text().strip() == str(folder / "home")


def test_giving_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After giving up before the fault began, the debrief names the fault and says that it was not found."""
    options = parser.parser(main.COMMANDS).parse_args(
        ["--home", str(tmp_path), "--app", "desk", "drill", "--live", "any", "--secret"]
    )
    reply = game_day.play(options, lambda words: None, lambda prompt: game_day.GIVES_UP, NO_LAB, SPEED, 900.0, 900.0)
    assert (
        not reply.done
        and reply.values["begun"] is None
        and "The fault had not begun; cause not found" in reply.words
        and reply.values["fault"] in STATES
    )
    assert os.environ.get("OPS_CLOCK") is None


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (["--live", "massive_tlx"], "Did you mean"),
        (["--live", "any"], "--secret"),
        (["--secret"], "--secret without --live"),
        (["--live", "massive_tls", "--record"], "exclude each other"),
        (["--record", "massive_tls"], "needs all scenarios"),
        (["--mutants", "massive_dwn"], "massive_down"),
    ],
)
def test_invalid_combinations(asked: list[str], says: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Invalid arguments are rejected with a message, and nothing is started."""
    assert main.main(["--home", str(tmp_path), "drill", *asked]) == 64 and says in capsys.readouterr().err
