"""
What is recorded of the drills is what README says, covers everything and meets what was promised; and mutated runbooks
are noticed.
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
from opslib.simulation.drills.mutation import BETTER, DROPPED, LIVES_ON, MOVED, SWAPPED, TURNED, Mutation
from opslib.simulation.drills.scenarios import FAULTS, trials
from opslib.simulation.drills.scoreboard_view import ScoreboardView

PROJECT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def recorded() -> ScoreboardView:
    return scoreboard_view.read()


def test_readme_says_what_was_recorded(recorded: ScoreboardView) -> None:
    """The line between the marks is the recorded scoreboard's."""
    readme = (PROJECT / "README.md").read_text()
    assert (
        readme.partition(scoreboard_view.OPENS)[2].partition(scoreboard_view.CLOSES)[0].strip() == f"{recorded.line}."
    )


def test_everything_was_drilled(recorded: ScoreboardView) -> None:
    """Every trial that there is today, at every share, on three seeds at least."""
    wanted = {(t.name, round(100 * t.share, 2)) for t in trials((), (0.05, 0.3, 1.0))}
    for seed in recorded.seeds:
        assert {(r.fault, r.severity) for r in recorded.rows if r.seed == seed} == wanted, seed
    assert len(recorded.seeds) >= 3 and len(recorded.rows) == len(wanted) * len(recorded.seeds)


def test_what_was_promised(recorded: ScoreboardView) -> None:
    """
    97 of 100 exact, 99 of those at 30 % and above, nobody alarmed where nothing is to be done, 5 of 100 undetermined at
    most, certainty off by 0.06 at most over five groups of twenty (it is less sure than it is right); of 100 rows one
    at most is right by another way.
    """
    s, most = scoreboard.summary(recorded.rows), scoreboard.summary([r for r in recorded.rows if r.severity >= 30])
    assert (
        s["exact"] >= 0.97 * s["rows"]
        and most["faults_exact"] >= 0.99 * most["faults"]
        and s["false_alarms"] == 0
        and s["undetermined"] <= 0.05 * s["rows"]
    ), scoreboard.told(recorded.rows)
    assert (
        (s["calibration_error"] or 1.0) <= 0.06
        and len(scoreboard.bins(recorded.rows)) >= 5
        and all(n >= 20 for n, _, _ in scoreboard.bins(recorded.rows))
    )
    assert sum(bool(r.strayed) for r in recorded.rows) <= 0.01 * s["rows"], recorded.strayed


def test_the_way_is_agreed_for_every_trial() -> None:
    """Each trial that hits everything has a way; its steps are those of the runbook as it stands, in its order."""
    for trial in trials((), (1.0,)):
        found = expected_runs.agreed(trial)
        assert [step for step, _ in found.walk] == [s.name for s in catalog.runbook(found.runbook).steps], trial.name
    assert {expected_runs.agreed(t).runbook for t in trials((), (1.0,))} == set(catalog.names())
    assert not expected_runs.agreed(replace(FAULTS["massive_5xx"], share=0.05)).runbook


def test_another_way_is_told() -> None:
    """Another runbook, another severity, another way; where nobody agreed on any, nothing."""
    found = expected_runs.agreed(FAULTS["massive_tls"])
    assert found.strayed(found.runbook, found.told, found.walk) == [] == expected_runs.Agreed().strayed("x", "y", ())
    assert found.strayed("websocket_down", found.told, found.walk) == [
        f"runbook websocket_down was walked, not {found.runbook}"
    ]
    assert found.strayed(found.runbook, "", found.walk[1:]) == [
        f"somebody was told of it as nothing, agreed was {found.told}",
        f"step {found.walk[0][0]} is not walked",
    ]


def test_it_is_recorded(recorded: ScoreboardView, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Rows are kept without what was seen where they are right; README changes between its marks and nowhere else; without
    a README nothing is kept.
    """
    monkeypatch.setattr(scoreboard_view, "FILE", tmp_path / "drilled.jsonl")
    monkeypatch.setattr(settings, "project", lambda: tmp_path)
    with pytest.raises(UsageError, match="README.md of the project"):
        scoreboard_view.record("2026-03-10", [1], [])
    assert not scoreboard_view.FILE.exists()
    (tmp_path / "README.md").write_text(f"before\n{scoreboard_view.OPENS}\nold\n{scoreboard_view.CLOSES}\nafter\n")
    rows = [
        replace(recorded.rows[0], seen=("Is it? yes.",)),
        replace(
            recorded.rows[1],
            right=False,
            exact=False,
            accepted="",
            wrong="cause none",
            found="none",
            seen=("Is it? no.",),
        ),
    ]
    made = scoreboard_view.record("2026-03-10", [1], rows)
    assert made == scoreboard_view.read() and [r.seen for r in made.rows] == [(), ("Is it? no.",)]
    assert (
        (tmp_path / "README.md").read_text()
        == f"before\n{scoreboard_view.OPENS}\n{made.line}.\n{scoreboard_view.CLOSES}\nafter\n"
        and made.line.startswith(
            "2026-03-10: 2 faults: of 2 with a fault 1 ended in the exact cause, 0 in an accepted alternative, 0 "
            "in none (too few answers were hit), 1 in a wrong answer; "
        )
    )
    assert "cause none" in repr(made.wrong) and "1 times" in repr(made.confusion)


def test_other_answers_are_shown_with_their_reason(recorded: ScoreboardView) -> None:
    """Exact and accepted answers are two numbers of each fault, and each accepted one stands in a table with why."""
    one = replace(
        recorded.rows[0], fault="massive_401", severity=30.0, right=True, exact=True, accepted="", found="provider_auth"
    )
    other = replace(one, exact=False, accepted="it comes and goes", found="provider_intermittent")
    board_ = ScoreboardView("2026-03-10", (1,), [one, one, other])
    assert "2/3 and 1" in repr(board_.recall) and "it comes and goes" in repr(board_.accepted)
    assert (
        "2 of 3 with something the matter: the exact cause" in board_.headline.plain
        and "1 of 3: another cause that is accepted" in board_.headline.plain
    )
    assert "every right answer is the exact one" in repr(ScoreboardView("2026-03-10", (1,), [one]).accepted)


def test_what_could_not_be_told_stands_beside_its_like(recorded: ScoreboardView) -> None:
    """
    Of a row that could not be told, the row of another cause of which the same was seen is shown, and what differs.
    """
    one = replace(
        recorded.rows[0],
        expected="provider_5xx",
        found="undetermined",
        right=False,
        seen=("Is it there? yes.", "Is it quick? no."),
    )
    other = replace(
        recorded.rows[1], fault="app_slow", expected="app_slow", seen=("Is it there? yes.", "Is it quick? no.")
    )
    far = replace(recorded.rows[1], fault="healthy", expected="none", seen=("Is it there? no.", "Is it quick? yes."))
    told = scoreboard.told([one, other, far])
    assert (
        f"could not be told from app_slow at {other.severity:g} %, seed {other.seed}: 2 of 2 answers are the same"
        in told
    )
    assert "1 of 2 answers are the same; these differ" in scoreboard.told(
        [one, replace(other, seen=("Is it there? yes.", "Is it quick? yes."))]
    )


# Mutants.


def test_every_runbook_has_enough_mutants() -> None:
    """
    Fifteen at least of each: of every step, of every two neighbours, of every check, and of every limit of the rules
    that lead to it.
    """
    for name in catalog.names():
        found = list(mutation.mutants(name))
        steps = catalog.runbook(name).steps
        assert len(found) == len(set(found)) >= 15
        assert [m.target for m in found if m.kind == DROPPED] == [s.name for s in steps]
        assert [(m.target, m.other) for m in found if m.kind == SWAPPED] == [
            (a.name, b.name) for a, b in itertools.pairwise(steps)
        ]
        assert {m.target for m in found if m.kind == TURNED} <= set(CHECKS)
    moved = [
        (m.other, m.by) for m in mutation.mutants("greeks_quality") if m.kind == MOVED and m.target == "greeks_valid"
    ]
    assert moved == [(rung, by) for rung in ("warning", "critical", "escalate") for by in (2.0, 0.5)]


def test_a_mutant_changes_one_thing() -> None:
    """
    A step dropped is gone, neighbours swapped are the other way round, and everything else is as it was; a limit is
    twice as far from the best.
    """
    shelved = catalog.runbook("websocket_down")
    names = [s.name for s in shelved.steps]

    def steps(mutant):
        return [s.name for s in mutation._edited(mutant, shelved).steps]

    assert steps(Mutation("websocket_down", DROPPED, names[2])) == names[:2] + names[3:]
    assert steps(Mutation("websocket_down", SWAPPED, names[0], names[1])) == [names[1], names[0], *names[2:]]
    assert [s.name for s in shelved.steps] == names
    table = rules.load()
    moved = mutation._ruled(Mutation("massive_down", MOVED, "availability", "critical", 2.0), table)["availability"]
    assert dict(moved.ladder) == dict(table["availability"].ladder) | {"critical": pytest.approx(0.90)}
    turned = mutation._ruled(Mutation("massive_down", BETTER, "availability"), table)
    assert turned["availability"].better == "lower" and {
        n: r for n, r in turned.rules.items() if n != "availability"
    } == {n: r for n, r in table.rules.items() if n != "availability"}


@pytest.mark.slow
def test_mutants_are_noticed(tmp_path: Path) -> None:
    """
    On one trial that was lived once: a step dropped, neighbours swapped, a check and a comparison turned round, a limit
    moved are noticed; what nothing tells survives, and says why.
    """
    lived = mutation._lived(FAULTS["massive_refused"], 11, tmp_path)
    assert lived.walk == expected_runs.agreed(FAULTS["massive_refused"]).walk or "*" in {
        sign for _, sign in expected_runs.agreed(FAULTS["massive_refused"]).walk
    }
    noticed = (
        Mutation("massive_down", DROPPED, "massive_answers"),
        Mutation("massive_down", SWAPPED, "massive_availability", "massive_answers"),
        Mutation("massive_down", TURNED, "answers"),
        Mutation("massive_down", BETTER, "availability"),
        Mutation("massive_down", MOVED, "availability", "critical", 20.0),
    )
    for mutant in noticed:
        assert mutation.tried(mutant, [lived]).noticed.startswith(
            "massive_refused: another" if mutant.kind in (DROPPED, SWAPPED, TURNED) else "massive_refused: other alerts"
        ), mutant
    survives = mutation.tried(Mutation("massive_down", TURNED, "host"), [lived])
    assert (
        not survives.noticed
        and survives.trials == 1
        and survives.why == "nothing in these worlds tells it: unknown in every trial"
    )
    assert "1 of 2 mutants noticed" in mutation.summary(
        [mutation.tried(noticed[0], [lived]), survives]
    ) and "check turned: host (nothing" in mutation.summary([survives])
    assert json.loads(json.dumps(mutation.as_json(survives)))["words"] == "check turned: host"
    assert lived.kept.case.at < lived.kept.case.at + LIVES_ON and isinstance(lived.kept, drill.Kept)
