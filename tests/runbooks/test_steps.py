"""The steps and checklists that ship with the package are held against their forms, every mistake by its place."""

from typing import Any

import pytest

from opslib.runbooks import checklists, hooks, steps, steps_form

KNOWN = {"boxes": (*steps.BOXES, ""), "hooks": tuple(hooks.HOOKS)}
CHECK = {"kind": "look", "box": "0-5", "do": "See.", "expect": "Well.", "check": "answers", "fresh": "2m"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"kind": "lok"}, "kind is 'lok'; it may be look, ask, change. Did you mean 'look'?"),
        ({"kind": 3}, "kind is 3; it may be look"),
        ({"fresh": "soon"}, "fresh is 'soon'; a span of time"),
        ({"fresh": 2}, "fresh is 2; a span of time"),
        (
            {"chek": "answers"},
            "there is no key 'chek'. Did you mean 'check'? These may be set: kind, box, do, expect, check, of, fresh.",
        ),
        ({"hook": "build"}, "there is no key 'hook'"),
        ({"kind": "change"}, "hook is missing"),
        ({"box": "1-2"}, "box is '1-2'; it may be 0-5"),
        ({"do": ""}, "do is ''; a text"),
        ({"kind": "change", "hook": "biuld"}, "hook is 'biuld'"),
        ({"kind": "change", "hook": "build", "mitigates": "yes"}, "mitigates is 'yes'; true or false"),
    ],
)
def test_a_step_that_cannot_be_meant(change: dict[str, Any], words: str) -> None:
    """Its file, its name and its key are told, with what was expected."""
    told = "\n".join(steps_form.step_problems({"good": CHECK, "wrong": CHECK | change}, "steps.toml", KNOWN))
    assert "steps.toml, [wrong]: " in told and words in told and "[good]" not in told


def test_every_wrong_step_is_told_at_once() -> None:
    """Two mistakes in one and one in another are three problems; what is no table is one."""
    rows = {"a": CHECK | {"fresh": 1, "do": 2}, "b": CHECK | {"check": ""}, "c": 3}
    assert len(steps_form.step_problems(rows, "steps.toml", KNOWN)) == 4


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"each": "dya"}, "each is 'dya'; it may be day, hour, release, deploy. Did you mean 'day'?"),
        ({"boxes": {"Head": ["server_anwsers"]}}, "Did you mean 'server_answers'?"),
        ({"boxes": ["server_answers"]}, "boxes is a list; a table was expected"),
        ({"after": "never"}, "after is 'never'; a span of time"),
        ({"titel": "x"}, "Did you mean 'title'?"),
    ],
)
def test_a_checklist_that_cannot_be_meant(change: dict[str, Any], words: str) -> None:
    """As with steps; an item has to be a step."""
    known = {"each": ("day", "hour", "release", "deploy"), "steps": tuple(steps.table())}
    row = {"title": "Morning", "each": "day", "boxes": {"Head": ["server_answers"]}} | change
    (told,) = steps_form.checklist_problems({"morning": row}, known)
    assert told.startswith("checklists.toml, [morning") and words in told
    assert set(checklists.table()) > {"morning"}
