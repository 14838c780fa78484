"""
Read the steps of runbooks and checklists: what to do, what to expect, which check judges it, how long that holds.

A step that looks is judged by a check and is free. One that asks is judged by a person. One that changes the world goes
through a hook, needs a name and a confirmation, and is done once.
"""

import functools
import tomllib
from dataclasses import dataclass
from datetime import timedelta
from importlib import resources
from typing import Any

from opslib.foundation import formatting, time_parsing
from opslib.foundation.errors import UsageError
from opslib.runbooks.hooks import HOOKS

LOOK, ASK, CHANGE = "look", "ask", "change"
# Minutes since it was detected: the guide's boxes.
BOXES = {"0-5": (0, 5), "5-15": (5, 15), "15-60": (15, 60), "after": (60, None)}


@dataclass(frozen=True, slots=True)
class Step:
    """
    One act of a runbook, or one box of a checklist.

    Attributes:
        kind: look, ask or change.
        box: Its time box: ``0-5``, ``5-15``, ``15-60`` or ``after``; empty where only checklists have it.
        do, expect: What to do, and what is normal to see.
        check: Of a step that looks: the check of `checks` that judges it; `of`, what it is asked about.
        fresh: Of a step that looks: for how long what it saw holds.
        hook: Of a step that changes: by which hook.
        mitigates: Are traders no longer hurt once it is done?
        says: Of a step that tells somebody: what it says, with {title}, {severity}, {standing}, {cause}, {requests}
            filled in.
    """

    name: str
    kind: str
    box: str
    do: str
    expect: str
    check: str = ""
    of: str = ""
    fresh: timedelta = timedelta(0)
    hook: str = ""
    mitigates: bool = False
    says: str = ""

    @property
    def judged_by(self) -> str:
        """Who says whether it is as expected?"""
        return {LOOK: "a check", ASK: "a person", CHANGE: "what its hook answers"}[self.kind]


@functools.cache
def table() -> dict[str, Step]:
    """
    Every step by its name.

    Raises:
        UsageError: The files have a step that cannot be meant; every problem with its place.
    """
    from opslib.runbooks import steps_form

    known = {"boxes": (*BOXES, ""), "hooks": tuple(HOOKS)}
    steps = _rows("steps.toml")
    items = {name: row | {"box": ""} for name, row in _rows("checklist_items.toml").items()}
    problems = steps_form.step_problems(steps, "steps.toml", known)
    if problems := problems + steps_form.step_problems(items, "checklist_items.toml", known):
        raise UsageError("\n".join(problems))
    return {name: _step(name, row) for name, row in (steps | items).items()}


def _rows(file: str) -> dict[str, dict[str, Any]]:
    return tomllib.loads(resources.files("opslib.runbooks").joinpath(file).read_text(encoding="utf-8"))


def _step(name: str, row: dict[str, Any]) -> Step:
    return Step(name, **row | ({"fresh": time_parsing.parse_span(row["fresh"])} if "fresh" in row else {}))


def step(name: str) -> Step:
    """
    One step.

    Raises:
        UsageError: There is none of that name.
    """
    if name not in table():
        raise UsageError(f"there is no step {name!r}.{formatting.nearest(name, table())} steps.toml has them all.")
    return table()[name]
