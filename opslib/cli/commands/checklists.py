"""Run a checklist. Items that need a person are asked if the terminal is interactive, otherwise left open."""

import argparse
import sys
from typing import TYPE_CHECKING

from opslib.cli.commands.alerts import author
from opslib.cli.output import Reply
from opslib.foundation import formatting
from opslib.foundation.errors import OpsError
from opslib.runbooks import checklists
from opslib.runbooks.checklist_session import ChecklistSession
from opslib.runbooks.session import StepCard
from opslib.runbooks.steps import ASK

if TYPE_CHECKING:
    from opslib.desk import Desk

_ANSWERS = {"y": True, "n": False, "?": None}


def listed() -> Reply:
    """List the checklists."""
    rows = [[c.name, c.title, c.each, str(len(c.steps))] for c in checklists.table().values()]
    return Reply(
        [
            {"checklist": c.name, "title": c.title, "each": c.each, "items": [s.name for s in c.steps]}
            for c in checklists.table().values()
        ],
        formatting.table(["checklist", "title", "one per", "items"], rows),
    )


def run_checklist(desk: "Desk", options: argparse.Namespace) -> ChecklistSession:
    """
    Run a checklist: check what can be checked, ask for the rest if the terminal is interactive, sign it if requested.

    Raises:
        UsageError: There is no such checklist.
        IncidentError: It is signed already.
    """
    there = at_terminal()
    by = author(options.by) if options.by or options.sign or there else ""
    session = ChecklistSession(desk, options.name, by, options.as_of)
    session.run(_put if there else None)
    if options.sign or (
        there and session.signed is None and not session.left and prompt(f"Sign it as {by}? y or n: ") == "y"
    ):
        session.sign()
    return session


def _put(card: StepCard) -> None:
    """Ask the person at the terminal about one item; an empty answer leaves it open."""
    print(formatting.printable(f"\n{card.text.plain}"), file=sys.stderr)
    step, session = card.step, card.session
    try:
        if card.status.state == "unsure":
            if (answer := prompt("Did it take effect? y, n, or Enter for later: ")) in ("y", "n"):
                session.confirm_outcome(step.name, answer == "y")
        elif step.kind == ASK:
            if (answer := prompt("As expected? y, n, ? (unknown), or Enter for later: ")) in _ANSWERS:
                session.answer(step.name, _ANSWERS[answer], note=prompt("Note (optional): "))
        elif prompt("Do it now? y, or Enter for later: ") == "y":
            session.do(step.name, confirmed=True)
    except OpsError as problem:
        print(formatting.printable(f"ops: {problem}"), file=sys.stderr)


def at_terminal() -> bool:
    """Return whether the terminal is interactive."""
    return sys.stdin is not None and sys.stdin.isatty()


def prompt(question: str) -> str:
    """Ask a question at the terminal, and return the answer; empty at the end of input."""
    print(question, end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip()
