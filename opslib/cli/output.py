"""
Print results: fitted to the terminal and coloured if stdout is a terminal, plain text otherwise.

rich is imported only for a terminal, so that scripts do not pay for it. It honours ``NO_COLOR`` and ``TERM=dumb``.
"""

import json
import re
import shutil
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from opslib.foundation import formatting

NARROWEST = 40  # Columns; a terminal may report fewer, or none.
# Verdicts, severities and states that stand alone: at the start of a line or a cell, before a colon, at the end.
_WORDS = {
    "critical": "red",
    "escalate": "red",
    "failed": "red",
    "warning": "yellow",
    "notify": "yellow",
    "incomplete": "yellow",
    "unknown": "magenta",
    "ok": "green",
    "passed": "green",
    "resolved": "green",
}
_STATE = re.compile(
    rf"(?:^\s*|(?<=  )|(?<=: )|(?<=, ))(?:{'|'.join(_WORDS)})"
    r"(?=:|,|\)|  |$| \((?:worst severity|nothing to evaluate)| (?:pending )?since \d)"
)


class Reply(NamedTuple):
    """What a command returns: values for programs, words for people, and whether it was done."""

    values: Any
    words: str
    done: bool = True


def terminal_width() -> int | None:
    """Return the terminal's columns; None if stdout is not a terminal."""
    if sys.stdout is None or not sys.stdout.isatty():
        return None
    return max(NARROWEST, shutil.get_terminal_size().columns)


@contextmanager
def fitted() -> Iterator[None]:
    """Fit every table that is made meanwhile to the terminal's width, if stdout is a terminal."""
    token = formatting.LINE_WIDTH.set(terminal_width())
    try:
        yield
    finally:
        formatting.LINE_WIDTH.reset(token)


def show(*parts: object, end: str = "\n") -> None:
    """Print text without control characters; on a terminal, wrap long lines and colour verdicts and severities."""
    text = formatting.printable("\n".join(str(part) for part in parts))
    width = formatting.LINE_WIDTH.get()
    if width is None:
        print(text, end=end)
        return
    from rich.console import Console
    from rich.text import Text

    console = Console(file=sys.stdout, width=width, highlight=False)
    for line in text.split("\n"):
        for part in _wrapped(line, width):
            shown = Text(part)
            for found in _STATE.finditer(part):
                shown.stylize(_WORDS[found[0].strip()], *found.span())
            console.print(shown, soft_wrap=True)


def _wrapped(line: str, width: int) -> list[str]:
    """Wrap a line; continuation lines are indented by two more columns than the line."""
    if len(line) <= width:
        return [line]
    indent = " " * (len(line) - len(line.lstrip()) + 2)
    return textwrap.wrap(
        line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False, drop_whitespace=True
    )


def show_markdown(text: str) -> None:
    """Print Markdown; on a terminal, rendered."""
    width = terminal_width()
    if width is None:
        print(text, end="")
        return
    from rich.console import Console
    from rich.markdown import Markdown

    Console(file=sys.stdout, width=min(width, 100)).print(Markdown(text))


def show_json(found: Any) -> None:
    """Print a value as JSON."""
    print(formatting.escaped_json(json.dumps(found, indent=1, ensure_ascii=False)))
