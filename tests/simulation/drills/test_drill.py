"""Test drills: a diagnosis finds the injected fault or is reported as wrong; test the scoreboard."""

import json
import random
from dataclasses import dataclass, replace
from datetime import timedelta

import pytest

from opslib.alerting.causes import CAUSES
from opslib.cli import main
from opslib.foundation import clock
from opslib.foundation.clock import Window
from opslib.runbooks.diagnosis.diagnosis import Diagnosis, Other
from opslib.simulation.drills import drill, scoreboard
from opslib.simulation.drills.drill import Row
from opslib.simulation.drills.scenarios import (
    CONTROL,
    CONTROLS,
    FAULT,
    FAULTS,
    KINDS,
    LOOK_ALIKE,
    PAIR,
    PAIRS,
    TOO_FEW,
    Scenario,
    select_scenarios,
)
from opslib.simulation.world.faults import NO_FAULT, SHARED, STATES

pytestmark = pytest.mark.drill

SEED = int(f"{clock.now():%Y%m%d}")  # A different seed each day.
MINUTE = (
    (FAULTS["massive_tls"], 1.0),
    (FAULTS["massive_401"], 0.3),
    (FAULTS["unit_drift"], 0.3),
    (PAIRS["iv_stress, gamma_zero"], 1.0),
    (FAULTS["commission_up"], 1.0),
    (CONTROLS["page_refreshed"], 1.0),
)


def at_share(scenario: Scenario, share: float) -> Scenario:
    """Return a scenario at a share."""
    return next(s for s in select_scenarios((scenario.name,), (share,)))


@pytest.mark.slow
@pytest.mark.parametrize(("scenario", "share"), MINUTE, ids=lambda v: v.name if isinstance(v, Scenario) else f"{v:g}")
def test_scenarios_of_each_kind(scenario: Scenario, share: float) -> None:
    """
    Faults, one at a share, a pair and a control are diagnosed exactly, and nobody is notified of the control.

    The seed changes with the date.
    """
    print("seed", SEED)
    row = drill.run_scenario(at_share(scenario, share), SEED)
    assert row.exact and row.right and not row.accepted, (row.wrong, row.answers)
    assert row.control == (scenario.name in CONTROLS) and (not row.control or not row.alert)
    assert [t.dropped for t in row.subsampled] == [5, 10, 20, 30]
    if scenario.name == "massive_tls":
        assert (
            (row.runbook, row.subject, row.expected) == ("massive_down", "massive", "provider_tls")
            and row.steps > 20
            and 0 < (row.detected_after_s or 0) < row.seconds
        )


@pytest.mark.slow
def test_a_failure_that_only_the_page_sees() -> None:
    """
    The page's counters show an intermittent provider, although all probes of this seed succeed.

    A fault of 15 s that is over is not reported as intermittent.
    """
    row = drill.run_scenario(at_share(FAULTS["massive_intermittent"], 0.05), 6)
    assert row.exact and row.found == "provider_intermittent", (row.wrong, row.answers)
    assert any("massive succeed? Not always: some requests failed" in answer for answer in row.answers)
    assert drill.run_scenario(CONTROLS["a blip of 15 s"], 6).found == "none"


@pytest.mark.slow
def test_a_wrong_result_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong cause, a wrong subject and a false alarm are each reported."""
    row = drill.run_scenario(replace(FAULTS["massive_tls"], cause="provider_refused"), 3)
    assert not row.right and not row.exact and row.wrong == "cause provider_tls" and row.found == "provider_tls"
    row = drill.run_scenario(replace(FAULTS["ws_403"], kind=CONTROL, subject="massive"), 3)
    assert not row.right and "subject app, expected massive" in row.wrong and "false alarm: WebSocket down" in row.wrong


def test_every_state_has_a_scenario() -> None:
    """
    Every state is a fault or a control, and every expected cause is a known one.

    There are at least ten pairs and nine controls; only states that support a share have one.
    """
    assert {*FAULTS, *NO_FAULT} - {"spread_up, percentages only"} == {*STATES} and {*NO_FAULT} <= {*CONTROLS}
    assert len(PAIRS) >= 10 and len(CONTROLS) >= 9
    found = list(select_scenarios((), (0.05, 0.3, 1.0)))
    assert {cause for t in found for cause in (*t.causes, *t.also)} <= {*CAUSES}
    assert all(t.cause not in t.accepted and all(why.strip() for why in t.accepted.values()) for t in found)
    assert {t.kind for t in found} == {*KINDS} and all(t.control == (t.name in CONTROLS) for t in found)
    assert "none" not in {cause for t in found if t.kind in (FAULT, PAIR) for cause in t.causes}
    assert {t.name for t in found if t.share < 1} == set(SHARED)
    assert {name for t in found for _, active in t.acts for name in active} <= {*STATES}
    assert [t.share for t in select_scenarios(("massive_5xx",), (0.05, 1.0))] == [0.05, 1.0] and list(
        select_scenarios(("massive_tls",), (0.05,))
    ) == []


@dataclass
class FakeProbes:
    """Probes at a world with a number of affected responses."""

    hit: int

    @property
    def world(self) -> "FakeProbes":
        return self


@dataclass
class FakeRun:
    """The parts of a running scenario that `assess` reads."""

    scenario: Scenario
    probes: FakeProbes
    notified: object = None


@pytest.mark.parametrize(
    ("scenario", "hit", "cause", "also", "exact", "text"),
    [
        (at_share(FAULTS["massive_401"], 0.05), 9, "provider_auth", (), True, ""),
        (at_share(FAULTS["massive_401"], 0.3), 9, "provider_intermittent", (), False, "intermittent"),
        (at_share(FAULTS["massive_401"], 0.05), 2, "none", (), False, "fewer than 3 of the responses"),
        (at_share(FAULTS["massive_401"], 0.05), 3, "none", (), None, "cause none"),
        (at_share(FAULTS["massive_401"], 1.0), 0, "none", (), None, "cause none"),
        (at_share(FAULTS["massive_401"], 1.0), 9, "provider_intermittent", (), None, "cause provider_intermittent"),
        (at_share(FAULTS["both_down"], 0.3), 9, "provider_5xx", (), False, "at least one of them is usable"),
        (PAIRS["app_down, massive_timeout"], 9, "app_down", ("provider_timeout of massive",), True, ""),
        (PAIRS["app_down, massive_timeout"], 9, "provider_timeout", ("app_down of app",), False, "in the other order"),
        (PAIRS["app_down, massive_timeout"], 9, "app_down", (), None, "provider_timeout is not named"),
        (PAIRS["clock_skew, massive_401"], 9, "clock_skew", ("provider_auth of massive",), None, "cause clock_skew"),
        (CONTROLS["too_few_trades"], 0, "none", (), None, "cause none"),
        (CONTROLS["a planned restart"], 0, "none", (), False, "announced"),
        (CONTROLS["healthy"], 0, "none", (), True, ""),
    ],
)
def test_exact_and_accepted(
    scenario: Scenario, hit: int, cause: str, also: tuple[str, ...], exact: bool | None, text: str
) -> None:
    """
    Only the expected cause is exact; an alternative is accepted if the scenario has a reason for it.

    `none` is accepted only if too few responses were affected; of a pair both causes must be named.
    """
    found = drill.assess(
        FakeRun(scenario, FakeProbes(hit)),
        Diagnosis(
            Window.before(clock.now(), timedelta(minutes=5)),
            cause,
            scenario.subject,
            0.9,
            also=tuple(Other(*a.split(" of ")) for a in also),
        ),
    )
    assert (None if found.wrong else not found.accepted) == exact and text in (found.wrong or found.accepted), found


def row(right: bool = True, confidence: float = 0.9, **more: object) -> Row:
    """Return a row."""
    given = {
        "fault": "massive_5xx",
        "severity": 100.0,
        "seed": 1,
        "control": False,
        "kind": FAULT,
        "expected": "provider_5xx",
        "found": "provider_5xx" if right else "undetermined",
        "right": right,
        "exact": right and "accepted" not in more,
        "accepted": "",
        "hit": 9,
        "detected_after_s": 60.0,
        "steps": 9,
        "seconds": 120.0,
        "confidence": confidence,
        "subject": "massive",
        "alert": "a",
        "runbook": "massive_down",
        "notified_severity": "critical",
        "run": (("a", "+"),),
        "deviations": (),
        "wrong": "",
        "answers": ("Is it? yes.",),
    }
    return Row(**(given | more))


def test_the_scoreboard() -> None:
    """
    The scoreboard equals one worked out by hand.

    Five rows have a fault (two exact, one accepted, one none, one wrong), one of them a pair; there is a look-alike,
    and a control with a false alarm.
    """
    rows = [
        row(),
        row(detected_after_s=None, kind=PAIR),
        row(False, detected_after_s=100.0, seconds=200.0),
        row(control=True, kind=LOOK_ALIKE, alert="", expected="undetermined", found="undetermined"),
        row(False, control=True, kind=CONTROL, expected="none", found="none", alert="b"),
    ]
    rows += [
        row(found="provider_intermittent", accepted="it is intermittent", detected_after_s=None),
        row(found="none", accepted=TOO_FEW, detected_after_s=None, alert=""),
    ]
    found = scoreboard.summary(rows)
    assert (
        found["rows"],
        found["right"],
        found["exact"],
        found["faults"],
        found["controls"],
        found["false_alarms"],
        found["undetermined"],
    ) == (7, 5, 3, 5, 2, 1, 1)
    assert (found["faults_exact"], found["faults_accepted"], found["faults_none"], found["faults_wrong"]) == (
        2,
        1,
        1,
        1,
    )
    assert found["kinds"] == {"fault": 4, "pair": 1, "look-alike": 1, "control": 1}
    assert found["recall"] == {"massive_5xx 100 %": [2, 1, 5]} and found["confused"] == [
        ["provider_5xx", "undetermined", 1],
        ["none", "none", 1],
    ]
    assert (found["notified_after_s"], found["found_after_s"], found["calibration_error"]) == (80.0, 160.0, None)
    assert scoreboard.line(rows) == (
        "7 runs (4 single faults, 1 pair of faults, 1 harmless look-alike, 1 run without a fault). "
        "Of 5 runs with a fault, 2 found the exact cause and 1 another cause that is accepted as right; 1 failed "
        "(a wrong cause or none); in 1, too few responses were affected for a diagnosis. Of 2 runs with nothing to "
        "find, 1 had a false alarm. "
        "Median time to the first notification: 80 s, to the diagnosis: 160 s."
    )
    report = scoreboard.report(rows)
    assert "found provider_intermittent (accepted: it is intermittent)" in report
    assert "expected provider_5xx, found undetermined" in report and "Is it? yes." in report
    rows.append(row(subsampled=(drill.Subsampled(5.0, "provider_5xx", True, 0.8),)))
    assert scoreboard.read(json.dumps(r.as_json()) for r in rows) == rows
    assert scoreboard.summary([])["rows"] == 0 and scoreboard.line([]).startswith(
        "0 runs (no drills). Of 0 runs with a fault, 0 found"
    )


def test_calibration() -> None:
    """
    A confidence of 90 % with 90 % right has a calibration error of 0, with 100 % right of 0.1.

    Each bin has at least 20 diagnoses.
    """
    chance = random.Random(1)
    assert scoreboard.calibration_error([row(i % 10 > 0, 0.9) for i in range(200)]) == pytest.approx(0.0, abs=1e-9)
    assert scoreboard.calibration_error([row(True, 0.9) for _ in range(200)]) == pytest.approx(0.1)
    drawn = [(value, chance.random() < value) for value in (chance.random() for _ in range(20_000))]
    rows = [row(right, value) for value, right in drawn]
    assert (scoreboard.calibration_error(rows) or 1) < 0.03
    assert (
        all(n >= 20 for n, _, _ in scoreboard.bins(rows))
        and sum(n for n, _, _ in scoreboard.bins(rows)) == len(rows)
        and 5 <= len(scoreboard.bins(rows)) <= 50
    )


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["massive_5xy"], "Did you mean"),
        (["massive_5xx", "--severity", "0"], "--severity"),
        (["massive_tls", "--severity", "5"], "has only one severity"),
        (["--workers", "0"], "--workers"),
    ],
)
def test_invalid_arguments(arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Invalid arguments are rejected with a message, and no world is started."""
    assert main.main(["drill", *arguments]) == 64 and text in capsys.readouterr().err


@pytest.mark.slow
def test_json_of_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    """The command prints a row for each fault and seed, with the fields of CONTRACT.md, and exits with 0."""
    assert main.main(["drill", "massive_refused", "--seed", "5", "-o", "json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert {
        "fault",
        "severity",
        "seed",
        "control",
        "kind",
        "expected",
        "found",
        "right",
        "exact",
        "accepted",
        "hit",
        "detected_after_s",
        "steps",
        "seconds",
        "confidence",
    } <= set(found)
    assert (
        found["fault"],
        found["severity"],
        found["seed"],
        found["control"],
        found["kind"],
        found["found"],
        found["right"],
        found["exact"],
    ) == ("massive_refused", 100.0, 5, False, "fault", "provider_refused", True, True)
