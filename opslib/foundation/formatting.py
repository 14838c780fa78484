"""Format numbers, times, tables and text from outside for people."""

import difflib
import html
import json
import re
from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

NEW_YORK = ZoneInfo("America/New_York")
UNKNOWN = "unknown"
MARKDOWN_LIMIT = 1_000  # Characters of one line of text; longer lines are cut.
# Columns that a table may occupy; None means no limit. The command line sets it for a terminal.
LINE_WIDTH: ContextVar[int | None] = ContextVar("line_width", default=None)
# Invisible characters: format characters (Unicode category Cf: bidirectional, zero-width, tags) and fillers.
_FORMAT = (
    "\u00ad\u034f\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u115f\u1160\u17b4\u17b5\u180b-\u180f"
    "\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0e\ufeff\uffa0\ufff9-\ufffb"
    "\U000110bd\U000110cd\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
# C0 without tab and newline, DEL, C1, line and paragraph separators, lone surrogates.
_CONTROL = "\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff"
_UNPRINTABLE = re.compile(f"(\\x1b\\[[0-?]*[ -/]*[@-~]|[{_FORMAT}])|\r\n|[{_CONTROL}]")
_ESCAPED = re.compile(f"[{_FORMAT}\x7f-\x9f\u2028\u2029\ud800-\udfff]")

# The sign of each state, for readers who cannot tell colours apart.
SIGNS = {"ok": "✓", "warning": "△", "notify": "▲", "critical": "◆", "escalate": "■", "unknown": "?"}


def ratio(value: float | None, digits: int = 2) -> str:
    """Format a ratio in [0, 1] as percent: 0.9972 is ``99.72 %``; None is ``unknown``."""
    return UNKNOWN if value is None else f"{value * 100:z.{digits}f} %"


def number(value: float | None, unit: str = "", digits: int | None = None) -> str:
    """
    Format a number with its unit and thousands separators; None is ``unknown``.

    Whole numbers have no decimals unless `digits` is given.
    """
    if value is None:
        return UNKNOWN
    if digits is None:
        digits = 0 if float(value).is_integer() else 2
    return f"{value:z,.{digits}f} {unit}".rstrip()


def dollars(value: float | None) -> str:
    """Format money to the cent: ``$1,234.50``, ``-$3.45``; None is ``unknown``."""
    if value is None:
        return UNKNOWN
    return f"{'-' if round(value, 2) < 0 else ''}${abs(value):,.2f}"


def duration(seconds: float) -> str:
    """Format seconds for people: ``45 s``, ``2 min``, ``2 min 5 s``; from one hour on in minutes: ``6 h 30 min``."""
    whole = round(seconds) if seconds < 3600 else 60 * round(seconds / 60)
    hours, rest = divmod(whole, 3600)
    minutes, secs = divmod(rest, 60)
    parts = [f"{count} {unit}" for count, unit in ((hours, "h"), (minutes, "min")) if count]
    if not hours and (secs or not parts):
        parts.append(f"{secs} s")
    return " ".join(parts)


def moment(instant: datetime) -> str:
    """Format an instant in both time zones: ``2025-11-18 16:20:00 UTC (11:20:00 New York)``."""
    utc, local = instant.astimezone(ZoneInfo("UTC")), instant.astimezone(NEW_YORK)
    day = "" if utc.date() == local.date() else f"{local:%Y-%m-%d} "
    return f"{utc:%Y-%m-%d %H:%M:%S} UTC ({day}{local:%H:%M:%S} New York)"


def span(start: datetime, end: datetime) -> str:
    """Format a stretch of time in both time zones, to the minute, for a line in a report."""
    a, b = start.astimezone(NEW_YORK), end.astimezone(NEW_YORK)
    u, v = start.astimezone(ZoneInfo("UTC")), end.astimezone(ZoneInfo("UTC"))
    return f"{u:%H:%M}–{v:%H:%M} UTC ({a:%H:%M}–{b:%H:%M} New York)"


def iso(instant: datetime) -> str:
    """Format an instant for JSON: UTC, milliseconds (microseconds if there are any), ``Z``."""
    precision = "microseconds" if instant.microsecond % 1000 else "milliseconds"
    return instant.astimezone(ZoneInfo("UTC")).isoformat(timespec=precision).replace("+00:00", "Z")


def nearest(word: str, known: Iterable[str]) -> str:
    """Return `` Did you mean 'day'?`` for a misspelt word, or an empty text if no known word is near."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f" Did you mean {close[0]!r}?" if close else ""


def printable(outside: object) -> str:
    """
    Remove everything that a terminal, a mail client or a chat would interpret instead of show.

    Newlines and tabs stay. Colour sequences and format characters (bidirectional, zero-width, tags) are dropped; any
    other control character, separator or lone surrogate becomes a space.
    """
    return _UNPRINTABLE.sub(_in_place_of, str(outside))


def _in_place_of(unprintable: re.Match[str]) -> str:
    if unprintable[1]:
        return ""
    return "\n" if unprintable[0] == "\r\n" else " "


def printable_values(outside: Any) -> Any:
    """Apply `printable` to every text in a JSON value, keys included."""
    if isinstance(outside, str):
        return printable(outside)
    if isinstance(outside, Mapping):
        return {
            printable(name) if isinstance(name, str) else name: printable_values(value)
            for name, value in outside.items()
        }
    return [printable_values(value) for value in outside] if isinstance(outside, list | tuple) else outside


def escaped_json(document: str) -> str:
    r"""
    Write what `printable` would remove from the strings of a JSON document as ``\uXXXX``.

    The values stay the same and the text is safe to show.
    """
    return _ESCAPED.sub(lambda found: json.dumps(found[0])[1:-1], document)


def single_line(outside: str, limit: int = 200) -> str:
    """Put text from outside on one printable line; a text above `limit` is cut, with its full length added."""
    line = "".join(c if c.isprintable() else " " for c in printable(outside))
    return line if len(line) <= limit else f"{line[:limit]}… ({len(line)} characters)"


def in_html(outside: object) -> str:
    """Escape text from outside for HTML."""
    return html.escape(printable(outside), quote=True)


def in_markdown(outside: object) -> str:
    """Escape text from outside for Markdown: it yields no tag, link, picture, table cell, entity or emphasis."""
    escaped = re.sub(r"([\\`*_\[\]|~])", r"\\\1", single_line(str(outside), MARKDOWN_LIMIT))
    escaped = re.sub(r"&(?=#?\w+;)", "&amp;", escaped).replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"(?i)(\bwww)\.", r"\1\\.", escaped.replace("://", ":\\//"))


def table(header: list[str], rows: list[list[str]]) -> str:
    """Format rows as aligned text, as wide as the longest cells, or as `LINE_WIDTH` allows."""
    lines = [header, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    allowed = LINE_WIDTH.get()
    if allowed is not None and sum(widths) + 2 * (len(widths) - 1) > allowed:
        return _fitted(header, rows, widths, allowed)
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(line, widths)).rstrip() for line in lines)


def _fitted(header: list[str], rows: list[list[str]], widths: list[int], allowed: int) -> str:
    """Format rows as aligned text within so many columns; long cells take several lines."""
    from io import StringIO

    from rich.console import Console
    from rich.table import Table

    made = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="")
    for name, width in zip(header, widths):
        made.add_column(name, overflow="fold", no_wrap=width <= 16)
    for row in rows:
        made.add_row(*(cell.replace("[", "\\[") for cell in row))
    out = StringIO()
    Console(file=out, width=allowed, color_system=None, highlight=False).print(made)
    return "\n".join(line.rstrip() for line in out.getvalue().rstrip("\n").split("\n"))
