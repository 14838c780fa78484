"""Test the validation of steps and checklists: every problem is reported with its place."""

from typing import Any

import pytest

from opslib.runbooks import checklists, hooks, steps, steps_form

KNOWN = {"boxes": (*steps.BOXES, ""), "hooks": tuple(hooks.HOOKS), "steps": tuple(steps.table())}
CHECK = {"kind": "check", "box": "0-5", "do": "See.", "expect": "Well.", "check": "answers", "fresh": "2m"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"kind": "chek"}, "kind is 'chek'; check, ask or action was expected. Did you mean 'check'?"),
        ({"kind": 3}, "kind is 3; check, ask or action was expected"),
        ({"fresh": "soon"}, "fresh is 'soon'; a span of time"),
        ({"fresh": 2}, "fresh is 2; a span of time"),
        (
            {"chek": "answers"},
            "there is no key 'chek'. Did you mean 'check'? Valid keys: kind, box, do, expect, check, of, fresh, ",
        ),
        ({"hook": "build"}, "there is no key 'hook'"),
        ({"kind": "action"}, "hook is missing"),
        ({"box": "1-2"}, "box is '1-2'; 0-5"),
        ({"do": ""}, "do is ''; a text"),
        ({"kind": "action", "hook": "biuld"}, "hook is 'biuld'"),
        ({"kind": "action", "hook": "build", "mitigates": "yes"}, "mitigates is 'yes'; true or false"),
    ],
)
def test_an_invalid_step(change: dict[str, Any], words: str) -> None:
    """The message names its file, its name and its key, and what was expected."""
    message = "\n".join(steps_form.step_problems({"good": CHECK, "wrong": CHECK | change}, "steps.toml", KNOWN))
    assert "steps.toml, [wrong]: " in message and words in message and "[good]" not in message


def test_kinds_of_earlier_releases() -> None:
    """The earlier words look and change are read as check and action; records keep them."""
    old = {"a": {"kind": "look"}, "b": {"kind": "change"}, "c": {"kind": "ask"}, "d": {}}
    assert [steps.with_current_kind(row).get("kind") for row in old.values()] == ["check", "action", "ask", None]
    assert {s.recorded_kind for s in steps.table().values()} == {"look", "ask", "change"}


def test_every_invalid_step_is_reported_at_once() -> None:
    """Three problems in two steps and one step that is no table are four problems."""
    rows = {"a": CHECK | {"fresh": 1, "do": 2}, "b": CHECK | {"check": ""}, "c": 3}
    assert len(steps_form.step_problems(rows, "steps.toml", KNOWN)) == 4


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"each": "dya"}, "each is 'dya'; day, hour, release or deploy was expected. Did you mean 'day'?"),
        ({"boxes": {"Head": ["server_anwsers"]}}, "Did you mean 'server_answers'?"),
        ({"boxes": ["server_answers"]}, "boxes is a list; a table was expected"),
        ({"after": "never"}, "after is 'never'; a span of time"),
        ({"titel": "x"}, "Did you mean 'title'?"),
    ],
)
def test_an_invalid_checklist(change: dict[str, Any], words: str) -> None:
    """The message names the checklist and what was expected; an item has to be a step."""
    known = {"each": ("day", "hour", "release", "deploy"), "steps": tuple(steps.table())}
    row = {"title": "Morning", "each": "day", "boxes": {"Head": ["server_answers"]}} | change
    (message,) = steps_form.checklist_problems({"morning": row}, known)
    assert message.startswith("checklists.toml, [morning") and words in message
    assert set(checklists.table()) > {"morning"}
