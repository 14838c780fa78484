"""
Ask the questions about what everything else is observed through: the market's hours, the clocks, our own collector's time.

An answer's cause is empty where all is well, and None where nobody knows; see `inquiry.Found`.
"""

from collections.abc import Mapping
from typing import NamedTuple

from opslib import clock
from opslib.probed import Probed
from opslib.skews import compare

PAGE = "page"


class Answer(NamedTuple):
    """What one question came to: the first five fields of `inquiry.Found`."""

    question: str
    answer: str
    cause: str | None
    subject: str | None = None
    agree: float = 1.0


def market(probed: Probed, at_us: int) -> Answer:
    """Whether the market is open: by the calendar, then by what the providers say."""
    question = "Is the market open?"
    if clock.open_since(clock.instant(at_us)) is None:
        return Answer(question, "no, by the calendar.", "market_closed")
    if not probed.market_shut(at_us):
        return Answer(question, "yes.", "")
    return Answer(question, f"no, by the last word of {' and '.join(probed.market_said_by(at_us))}, though the calendar has a session.", "market_closed")


def parties(probed: Probed, figures: Mapping[str, float | None], at_us: int) -> dict[str, float]:
    """By how many seconds each party's clock is ahead of ours: those that we probe, and the app's page by its posts."""
    page = figures.get("clock_skew_s")
    return probed.skews(at_us) | ({PAGE: page} if page is not None else {})


def clocks(skews: Mapping[str, float], limit_s: float) -> list[Answer]:
    """Whether all clocks agree: one answer for each that does not; ours where the others agree against it."""
    question = "Do all clocks agree?"
    if not skews:
        return [Answer(question, "nobody says.", None)]
    found = compare(skews, limit_s)
    answers = zip(found.names, found.sentences)
    return [Answer(question, f"no: {words}", "clock_skew", party, 1.0 if found.sure else 0.5) for party, words in answers] or [Answer(question, "yes.", "")]
