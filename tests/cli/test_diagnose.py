"""
`ops diagnose`: the JSON of CONTRACT.md, exit codes, text with the cause first, and the same result as the runbook's
diagnosis.
"""

import json
from pathlib import Path

import pytest

from opslib import desk as desk_module
from opslib.alerting.causes import CAUSES
from opslib.cli import main
from opslib.desk import Desk
from opslib.foundation.config import settings
from opslib.runbooks.session import RunbookSession
from opslib.telemetry.probes.store import Sample, SampleStore
from tests.support import demo
from tests.support.moments import MOMENT, but, series, well
from tests.support.snapshots import CLOSES

KEYS = ["as_of", "window", "cause", "subject", "confidence", "also", "runbook", "severity", "evidence"]
ROW = ["question", "answer", "supports", "contradicts", "source", "age_s"]
ID = "2026-03-10-5"  # The demo day has four incidents.


def ops(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Run a command; return its exit code, stdout and stderr."""
    code = main.main([*arguments])
    out = capsys.readouterr()
    return code, out.out, out.err


def kept(home: Path, samples: list[Sample]) -> None:
    """Write samples to the store of a home directory, each known at its own time."""
    desk = desk_module.open("desk", home, {"OPS_HOME": str(home)})
    SampleStore(desk.store, "desk").keep(samples, known_at_ts=True)
    desk.store.close()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home directory that commands use."""
    monkeypatch.setenv("OPS_HOME", str(tmp_path))
    return tmp_path


AT = ("--as-of", MOMENT.isoformat())


def test_json_has_the_keys_of_the_contract(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """
    With a wrong key and a refused WebSocket, the JSON has exactly the keys of CONTRACT.md, both causes and the age of
    every known answer; exit 0.
    """
    kept(
        home,
        but(series("liveness", "massive", "auth_401", since=120), series("socket", "app", "forbidden_403", since=120)),
    )
    code, out, _ = ops(capsys, "diagnose", *AT, "-o", "json")
    found = json.loads(out)
    assert (code, list(found)) == (0, KEYS) and all(list(row) == ROW for row in found["evidence"])
    assert (found["as_of"], found["window"]) == (
        "2026-03-10T15:00:00.000Z",
        {"from": "2026-03-10T14:00:00.000Z", "to": "2026-03-10T15:00:00.000Z"},
    )
    assert (found["cause"], found["subject"], found["also"], found["runbook"]) == (
        "provider_auth",
        "massive",
        [{"cause": "socket_auth", "subject": "app"}],
        "provider_availability",
    )
    assert found["severity"] in ("warning", "notify", "critical", "escalate") and 0.5 < found["confidence"] <= 1
    row = next(r for r in found["evidence"] if r["question"] == "Does massive respond to our probes?")
    assert (row["supports"], row["contradicts"], row["source"], row["age_s"]) == (["provider_auth"], [], "probe", 0.0)
    other = next(r for r in found["evidence"] if r["question"] == "Are the option chains complete?")
    assert (other["supports"], other["contradicts"], other["source"], other["age_s"]) == (
        [],
        ["provider_partial", "provider_empty"],
        "chain",
        720.0,
    )
    assert all(c in CAUSES for r in found["evidence"] for c in (*r["supports"], *r["contradicts"]))


def test_text_starts_with_the_cause(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """
    The text shows the cause, then severity and runbook command, then supporting evidence; what rules out other causes
    is last.
    """
    kept(home, but(series("liveness", "massive", "server_5xx", since=120)))
    code, out, _ = ops(capsys, "diagnose", *AT)
    lines = out.splitlines()
    assert (
        code == 0
        and lines[0].startswith("provider_5xx of massive, ")
        and "Massive returns server errors (5xx)." in lines[0]
    )
    assert (
        lines[1].startswith("  as of 2026-03-10 15:00")
        and lines[2].startswith("  severity: ")
        and lines[3] == "  runbook: ops runbook open massive_down"
    )
    assert lines[4] == "  supports it:" and lines[5].startswith("    Does massive respond to our probes? No: ")
    assert lines[5].endswith("[probes, 0 s old]")
    assert [line for line in lines[6:] if not line.startswith("    ")] == [
        "  unknown, or without data:",
        "  rules out other causes:",
    ]


def test_undetermined_cause_exits_3(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """
    Without samples the cause is "undetermined" and the exit code 3; if everything was healthy the cause is "none" and
    the exit code 0.
    """
    code, out, _ = ops(capsys, "diagnose", *AT, "-o", "json")
    found = json.loads(out)
    assert (code, found["cause"], found["confidence"], found["severity"], found["runbook"]) == (
        3,
        "undetermined",
        0.0,
        None,
        None,
    )
    kept(home, well())
    code, out, _ = ops(capsys, "diagnose", *AT, "-o", "json")
    assert (code, json.loads(out)["cause"]) == (0, "none")


def test_the_window_does_not_change_the_diagnosis(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """
    Each rule has its own window, so --window of 5 minutes, an hour or a day gives the same cause, confidence and
    evidence; an invalid span is wrong usage.
    """
    kept(home, but(series("liveness", "massive", "server_5xx", since=120)))
    found = [json.loads(ops(capsys, "diagnose", *AT, "--window", span, "-o", "json")[1]) for span in ("5m", "1h", "1d")]
    assert len({(f["cause"], f["confidence"], json.dumps(f["evidence"])) for f in found}) == 1
    assert ops(capsys, "diagnose", "--window", "an hour")[0] == 64


def test_known_at_ignores_later_samples(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With --known-at before the fault's samples arrived, they are not used."""
    kept(home, but(series("liveness", "massive", "server_5xx", since=120)))
    assert (
        json.loads(ops(capsys, "diagnose", *AT, "--known-at", "2026-03-10T10:55", "-o", "json")[1])["cause"]
        != "provider_5xx"
    )


def test_diagnosis_equals_that_of_the_runbook(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """
    In the demo's outage, `ops diagnose`, the opened runbook and its diagnosis step give the same cause, confidence and
    evidence.
    """
    demo.laid_out(tmp_path)
    asked = ["--home", str(tmp_path), "--app", "demo"]
    moment = "2026-03-10T11:24:30"
    found = json.loads(ops(capsys, *asked, "diagnose", "--as-of", moment, "-o", "json")[1])
    ops(
        capsys,
        *asked,
        "incident",
        "open",
        "Massive does not answer",
        "--by",
        "Ann",
        "--runbook",
        "massive_down",
        "--subject",
        "massive",
    )
    opened = json.loads(
        ops(
            capsys,
            *asked,
            "runbook",
            "open",
            "massive_down",
            "--incident",
            ID,
            "--by",
            "Ann",
            "--as-of",
            moment,
            "-o",
            "json",
        )[1]
    )
    desk = Desk(settings.load(tmp_path, "demo", {}), lambda: CLOSES)
    step = RunbookSession(desk, "massive_down", ID, "Ann", as_of=moment).diagnosis
    recorded = desk.incidents.find(ID).of_kind("runbook", "diagnosis")
    assert found["cause"].startswith("provider_") and found["subject"] == "massive"
    assert (opened["cause"], opened["confidence"]) == (found["cause"], found["confidence"])
    same = ("as_of", "cause", "subject", "confidence", "also", "runbook", "severity", "evidence")
    assert {k: found[k] for k in same} == {k: step.as_json()[k] for k in same}
    assert [(e.body["cause"], e.body["subject"], e.body["also"]) for e in recorded] == 2 * [
        (found["cause"], found["subject"], found["also"])
    ] and recorded[1].body["words"] == step.words
