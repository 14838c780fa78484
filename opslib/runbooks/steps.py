"""
Read the steps of runbooks and checklists: what to do, what is expected, which check evaluates it.

A check is read-only and evaluated by ops. An ask step is answered by a person. An action runs a hook: it needs a
name and a confirmation, and runs once.
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

CHECK, ASK, ACTION = "check", "ask", "action"
# The kinds of earlier releases: still read from steps.toml for one release, and still written into records.
EARLIER_KINDS = {"look": CHECK, "change": ACTION}
# Minutes since detection: the time boxes of the guide.
BOXES = {"0-5": (0, 5), "5-15": (5, 15), "15-60": (15, 60), "after": (60, None)}


@dataclass(frozen=True, slots=True)
class Step:
    """
    One step of a runbook, or one item of a checklist.

    Attributes:
        kind: check, ask or action.
        box: Its time box: ``0-5``, ``5-15``, ``15-60`` or ``after``; empty if only checklists have it.
        do, expect: What to do, and what is expected when all is well.
        check: Of a check: its name in `checks`; `of`, its subject.
        fresh: Of a check: how long its result is valid.
        symptom: Whether its failing is what an incident is about, so that it confirms the alert.
        after: Of a check: the action whose effect it checks; empty means none.
        hook: Of an action: the name of its hook.
        mitigates: Whether the action ends the impact on traders.
        says: Of an action that sends a message: its text, with {title}, {severity}, {standing}, {cause}, {requests}
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
    symptom: bool = False
    after: str = ""
    hook: str = ""
    mitigates: bool = False
    says: str = ""

    @property
    def evaluated_by(self) -> str:
        """The source of its result."""
        return {CHECK: "a check", ASK: "a person", ACTION: "the result of its hook"}[self.kind]

    @property
    def aim(self) -> str:
        """What is expected, or of an action what it leads to, with a word that says which."""
        if self.kind == ACTION:
            return f"When done: {self.expect}"
        # During an incident its symptoms are expected to fail.
        return f"{'When healthy' if self.symptom else 'Expected'}: {self.expect}"

    @property
    def recorded_kind(self) -> str:
        """Its kind in the words of the incident records."""
        return next((old for old, new in EARLIER_KINDS.items() if new == self.kind), self.kind)


@functools.cache
def table() -> dict[str, Step]:
    """
    Return every step by its name.

    Raises:
        UsageError: A file holds an invalid step; the message lists every problem with its place.
    """
    from opslib.runbooks import steps_form

    steps = _rows("steps.toml")
    known = {"boxes": (*BOXES, ""), "hooks": tuple(HOOKS), "steps": tuple(steps)}
    items = {name: row | {"box": ""} for name, row in _rows("checklist_items.toml").items()}
    problems = steps_form.step_problems(steps, "steps.toml", known)
    if problems := problems + steps_form.step_problems(items, "checklist_items.toml", known):
        raise UsageError("\n".join(problems))
    return {name: _step(name, row) for name, row in (steps | items).items()}


def _rows(file: str) -> dict[str, dict[str, Any]]:
    rows = tomllib.loads(resources.files("opslib.runbooks").joinpath(file).read_text(encoding="utf-8"))
    return {name: with_current_kind(row) for name, row in rows.items()}


def with_current_kind(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row of steps.toml with an earlier word for its kind replaced by the current one."""
    kind = row.get("kind")
    return row | {"kind": EARLIER_KINDS[kind]} if kind in EARLIER_KINDS else row


def _step(name: str, row: dict[str, Any]) -> Step:
    return Step(name, **row | ({"fresh": time_parsing.parse_span(row["fresh"])} if "fresh" in row else {}))


def step(name: str) -> Step:
    """
    Return one step.

    Raises:
        UsageError: No step has that name.
    """
    if name not in table():
        raise UsageError(f"there is no step {name!r}.{formatting.nearest(name, table())} steps.toml lists all steps.")
    return table()[name]


def purpose(name: str) -> str:
    """Return what a step does, in words without a full stop; its name if there is no such step any more."""
    known = table().get(name)
    return known.do.partition(". ")[0].rstrip(".") if known else name
