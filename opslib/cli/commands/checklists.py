"""Run a checklist in a terminal; items that need a person are asked only where somebody sits there."""

import argparse
import sys
from typing import TYPE_CHECKING

from opslib.cli.commands.alerts import who
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
    """Which checklists are there?"""
    rows = [[c.name, c.title, c.each, str(len(c.steps))] for c in checklists.table().values()]
    return Reply(
        [
            {"checklist": c.name, "title": c.title, "each": c.each, "boxes": [s.name for s in c.steps]}
            for c in checklists.table().values()
        ],
        formatting.table(["checklist", "title", "for each", "boxes"], rows),
    )


def gone_through(desk: "Desk", options: argparse.Namespace) -> ChecklistSession:
    """
    Go through a checklist: look at what can be looked at, ask for the rest where somebody is there, sign it where that
    is wanted.

    Raises:
        UsageError: There is no such checklist.
        IncidentError: It was signed before, and is to be signed again.
    """
    there = at_terminal()
    by = who(options.by) if options.by or options.sign or there else ""
    sheet = ChecklistSession(desk, options.name, by, options.as_of)
    sheet.run(_put if there else None)
    if options.sign or (
        there and sheet.signed is None and not sheet.left and heard(f"Sign it as {by}? y or n: ") == "y"
    ):
        sheet.sign()
    return sheet


def _put(card: StepCard) -> None:
    """Put one box to whoever sits at the terminal; an empty answer leaves it as it is."""
    print(formatting.printable(f"\n{card.text.plain}"), file=sys.stderr)
    step, book = card.step, card.book
    try:
        if card.standing.state == "unsure":
            if (said := heard("Did it happen? y or n, Enter: later: ")) in ("y", "n"):
                book.settle(step.name, said == "y")
        elif step.kind == ASK:
            if (said := heard("As expected? y, n, ? (cannot be told), Enter: later: ")) in _ANSWERS:
                book.answer(step.name, _ANSWERS[said], note=heard("Note, or Enter: "))
        elif heard("Do it now? y, Enter: later: ") == "y":
            book.do(step.name, confirmed=True)
    except OpsError as problem:
        print(formatting.printable(f"ops: {problem}"), file=sys.stderr)


def at_terminal() -> bool:
    """Whether somebody sits at the terminal, who can be asked."""
    return sys.stdin is not None and sys.stdin.isatty()


def heard(question: str) -> str:
    """Ask whoever sits at the terminal, and return the answer; empty at the end of what is typed."""
    print(question, end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip()
