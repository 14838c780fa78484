"""
Test that the recorded scoreboard matches README, covers all scenarios and meets its targets.

Also test that mutated runbooks are caught.
"""

import itertools
import json
from dataclasses import replace
from pathlib import Path

import pytest

from opslib.foundation.config import rules, settings
from opslib.foundation.errors import UsageError
from opslib.runbooks import catalog
from opslib.runbooks.checks import CHECKS
from opslib.simulation.drills import drill, expected_runs, mutation, scoreboard, scoreboard_view
from opslib.simulation.drills.mutation import CONTINUES, DIRECTION, DROPPED, INVERTED, MOVED, SWAPPED, Mutation
from opslib.simulation.drills.scenarios import FAULTS, select_scenarios
from opslib.simulation.drills.scoreboard_view import ScoreboardView

PROJECT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def recorded() -> ScoreboardView:
    return scoreboard_view.read()


def test_readme_shows_the_recorded_line(recorded: ScoreboardView) -> None:
    """The line between the markers is the recorded summary line."""
    readme = (PROJECT / "README.md").read_text()
    assert readme.partition(scoreboard_view.OPENS)[2].partition(scoreboard_view.CLOSES)[0].strip() == recorded.line


def test_all_scenarios_are_recorded(recorded: ScoreboardView) -> None:
    """Every present scenario is recorded at every share, on three seeds or more."""
    wanted = {(t.name, round(100 * t.share, 2)) for t in select_scenarios((), (0.05, 0.3, 1.0))}
    for seed in recorded.seeds:
        assert {(r.fault, r.severity) for r in recorded.rows if r.seed == seed} == wanted, seed
    assert len(recorded.seeds) >= 3 and len(recorded.rows) == len(wanted) * len(recorded.seeds)


def test_targets_are_met(recorded: ScoreboardView) -> None:
    """
    The recorded drill meets its targets.

    At least 97 % are exact, and 99 % of the faults at 30 % and above; no false alarm; at most 5 % undetermined; a
    calibration error of at most 0.06 over five bins or more of at least 20; at most 1 % with deviations.
    """
    s, most = scoreboard.summary(recorded.rows), scoreboard.summary([r for r in recorded.rows if r.severity >= 30])
    assert (
        s["exact"] >= 0.97 * s["rows"]
        and most["faults_exact"] >= 0.99 * most["faults"]
        and s["false_alarms"] == 0
        and s["undetermined"] <= 0.05 * s["rows"]
    ), scoreboard.report(recorded.rows)
    assert (
        (s["calibration_error"] or 1.0) <= 0.06
        and len(scoreboard.bins(recorded.rows)) >= 5
        and all(n >= 20 for n, _, _ in scoreboard.bins(recorded.rows))
    )
    assert sum(bool(r.deviations) for r in recorded.rows) <= 0.01 * s["rows"], recorded.deviations


def test_every_scenario_has_an_expected_run() -> None:
    """Each scenario at 100 % has an expected run with the present steps of its runbook, in order."""
    for scenario in select_scenarios((), (1.0,)):
        found = expected_runs.expected_run(scenario)
        assert [step for step, _ in found.results] == [s.name for s in catalog.runbook(found.runbook).steps], (
            scenario.name
        )
    assert {expected_runs.expected_run(t).runbook for t in select_scenarios((), (1.0,))} == set(catalog.names())
    assert not expected_runs.expected_run(replace(FAULTS["massive_5xx"], share=0.05)).runbook


def test_deviations_are_listed() -> None:
    """Another runbook, severity or step result is listed; without an expected run nothing is."""
    found = expected_runs.expected_run(FAULTS["massive_tls"])
    assert (
        found.deviations(found.runbook, found.severity, found.results)
        == []
        == expected_runs.ExpectedRun().deviations("x", "y", ())
    )
    assert found.deviations("websocket_down", found.severity, found.results) == [
        f"ran runbook websocket_down, expected {found.runbook}"
    ]
    assert found.deviations(found.runbook, "", found.results[1:]) == [
        f"notified as nothing, expected {found.severity}",
        f"step {found.results[0][0]} is missing",
    ]


def test_a_drill_is_recorded(recorded: ScoreboardView, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Recording a drill changes README between its markers only; without a README nothing is recorded.

    Correct rows are recorded without their answers.
    """
    monkeypatch.setattr(scoreboard_view, "FILE", tmp_path / "scoreboard.jsonl")
    monkeypatch.setattr(settings, "project", lambda: tmp_path)
    with pytest.raises(UsageError, match="README.md of the project"):
        scoreboard_view.record("2026-03-10", [1], [])
    assert not scoreboard_view.FILE.exists()
    (tmp_path / "README.md").write_text(f"before\n{scoreboard_view.OPENS}\nold\n{scoreboard_view.CLOSES}\nafter\n")
    rows = [
        replace(recorded.rows[0], answers=("Is it? yes.",)),
        replace(
            recorded.rows[1],
            right=False,
            exact=False,
            accepted="",
            wrong="cause none",
            found="none",
            answers=("Is it? no.",),
        ),
    ]
    made = scoreboard_view.record("2026-03-10", [1], rows)
    assert made == scoreboard_view.read() and [r.answers for r in made.rows] == [(), ("Is it? no.",)]
    assert (
        (tmp_path / "README.md").read_text()
        == f"before\n{scoreboard_view.OPENS}\n{made.line}\n{scoreboard_view.CLOSES}\nafter\n"
        and made.line.startswith(
            "2026-03-10: 2 runs (2 single faults). Of 2 runs with a fault, 1 found the exact cause and 0 another "
            "cause that is accepted as right; 1 failed (a wrong cause or none); in 0, too few responses were affected "
            "for a diagnosis. "
        )
    )
    assert "cause none" in repr(made.wrong) and "found none: 1 run" in repr(made.confusion)


def test_accepted_alternatives_are_shown_with_their_reason(recorded: ScoreboardView) -> None:
    """Exact and accepted results are counted separately, and each accepted alternative is shown with its reason."""
    one = replace(
        recorded.rows[0], fault="massive_401", severity=30.0, right=True, exact=True, accepted="", found="provider_auth"
    )
    other = replace(one, exact=False, accepted="it is intermittent", found="provider_intermittent")
    board_ = ScoreboardView("2026-03-10", (1,), [one, one, other])
    assert "2/3 (+1 accepted)" in repr(board_.recall) and "it is intermittent" in repr(board_.accepted)
    assert (
        "exact cause, subject and panel: 2 of 3 runs with a fault" in board_.headline.plain
        and "accepted alternative: 1 of 3" in board_.headline.plain
    )
    assert "every right result is exact" in repr(ScoreboardView("2026-03-10", (1,), [one]).accepted)


def test_an_undetermined_row_is_shown_beside_the_most_similar_one(recorded: ScoreboardView) -> None:
    """An undetermined row is compared with the most similar row of another cause."""
    one = replace(
        recorded.rows[0],
        expected="provider_5xx",
        found="undetermined",
        right=False,
        answers=("Is it there? yes.", "Is it quick? no."),
    )
    other = replace(
        recorded.rows[1], fault="app_slow", expected="app_slow", answers=("Is it there? yes.", "Is it quick? no.")
    )
    far = replace(recorded.rows[1], fault="healthy", expected="none", answers=("Is it there? no.", "Is it quick? yes."))
    text = scoreboard.report([one, other, far])
    assert (
        f"is undetermined. Most similar: app_slow at {other.severity:g} %, seed {other.seed}, with 2 of 2 answers equal"
        in text
    )
    assert "1 of 2 answers equal; these differ" in scoreboard.report(
        [one, replace(other, answers=("Is it there? yes.", "Is it quick? yes."))]
    )


# Mutations.


def test_every_runbook_has_enough_mutations() -> None:
    """
    Each runbook has at least 15 mutations.

    They cover every step, every pair of adjacent steps, every check, and every limit of the rules that lead to it.
    """
    for name in catalog.names():
        found = list(mutation.mutations_of(name))
        steps = catalog.runbook(name).steps
        assert len(found) == len(set(found)) >= 15
        assert [m.target for m in found if m.kind == DROPPED] == [s.name for s in steps]
        assert [(m.target, m.other) for m in found if m.kind == SWAPPED] == [
            (a.name, b.name) for a, b in itertools.pairwise(steps)
        ]
        assert {m.target for m in found if m.kind == INVERTED} <= set(CHECKS)
    moved = [
        (m.other, m.by)
        for m in mutation.mutations_of("greeks_quality")
        if m.kind == MOVED and m.target == "greeks_valid"
    ]
    assert moved == [(severity, by) for severity in ("warning", "critical", "escalate") for by in (2.0, 0.5)]


def test_a_mutation_changes_one_thing() -> None:
    """A mutation drops a step, swaps adjacent steps, or moves a limit, and changes nothing else."""
    runbook = catalog.runbook("websocket_down")
    names = [s.name for s in runbook.steps]

    def steps(changed):
        return [s.name for s in mutation._mutated_runbook(changed, runbook).steps]

    assert steps(Mutation("websocket_down", DROPPED, names[2])) == names[:2] + names[3:]
    assert steps(Mutation("websocket_down", SWAPPED, names[0], names[1])) == [names[1], names[0], *names[2:]]
    assert [s.name for s in runbook.steps] == names
    table = rules.load()
    moved = mutation._mutated_rules(Mutation("massive_down", MOVED, "availability", "critical", 2.0), table)[
        "availability"
    ]
    assert dict(moved.thresholds) == dict(table["availability"].thresholds) | {"critical": pytest.approx(0.90)}
    inverted = mutation._mutated_rules(Mutation("massive_down", DIRECTION, "availability"), table)
    assert inverted["availability"].better == "lower" and {
        n: r for n, r in inverted.rules.items() if n != "availability"
    } == {n: r for n, r in table.rules.items() if n != "availability"}


@pytest.mark.slow
def test_mutations_are_caught(tmp_path: Path) -> None:
    """
    On one recorded scenario, each kind of mutation is caught.

    A mutation without effect on the results survives, with the reason.
    """
    baseline = mutation._baseline(FAULTS["massive_refused"], 11, tmp_path)
    expected = expected_runs.expected_run(FAULTS["massive_refused"])
    assert baseline.run == expected.results or "*" in {sign for _, sign in expected.results}
    caught = (
        Mutation("massive_down", DROPPED, "massive_answers"),
        Mutation("massive_down", SWAPPED, "massive_availability", "massive_answers"),
        Mutation("massive_down", INVERTED, "answers"),
        Mutation("massive_down", DIRECTION, "availability"),
        Mutation("massive_down", MOVED, "availability", "critical", 20.0),
    )
    for one in caught:
        assert mutation.run_mutation(one, [baseline]).caught.startswith(
            "massive_refused: other step results"
            if one.kind in (DROPPED, SWAPPED)
            else "massive_refused: other"
            if one.kind == INVERTED
            else "massive_refused: other alerts"
        ), one
    survives = mutation.run_mutation(Mutation("massive_down", INVERTED, "host"), [baseline])
    assert (
        not survives.caught
        and survives.scenarios == 1
        and survives.why == "the check's result is unknown in every scenario"
    )
    assert "1 of 2 mutations caught" in mutation.summary(
        [mutation.run_mutation(caught[0], [baseline]), survives]
    ) and "check inverted: host (the check" in mutation.summary([survives])
    assert json.loads(json.dumps(mutation.as_json(survives)))["words"] == "check inverted: host"
    recorded = baseline.recorded
    assert recorded.case.at < recorded.case.at + CONTINUES and isinstance(recorded, drill.Recorded)
