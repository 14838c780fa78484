"""
Ask the questions about what everything else is observed through: the market's hours, the clocks, our own collector's time.

An answer's cause is empty where all is well, and None where nobody knows; see `answers.Found`.
"""

from collections.abc import Mapping

from opslib import clock
from opslib.answers import Found
from opslib.probed import Probed
from opslib.skews import compare

PAGE = "page"


def market(probed: Probed, at_us: int) -> Found:
    """Whether the market is open: by the calendar, then by what the providers say."""
    question = "Is the market open?"
    if clock.open_since(clock.instant(at_us)) is None:
        return Found(question, "no, by the calendar.", "market_closed")
    if not probed.market_shut(at_us):
        return Found(question, "yes.", "")
    return Found(question, f"no, by the last word of {' and '.join(probed.market_said_by(at_us))}, though the calendar has a session.", "market_closed")


def parties(probed: Probed, figures: Mapping[str, float | None], at_us: int) -> dict[str, float]:
    """By how many seconds each party's clock is ahead of ours: those that we probe, and the app's page by its posts."""
    page = figures.get("clock_skew_s")
    return probed.skews(at_us) | ({PAGE: page} if page is not None else {})


def clocks(skews: Mapping[str, float], limit_s: float) -> list[Found]:
    """Whether all clocks agree: one answer for each that does not; ours where the others agree against it."""
    question = "Do all clocks agree?"
    if not skews:
        return [Found(question, "nobody says.", None)]
    found = compare(skews, limit_s)
    answers = zip(found.names, found.sentences)
    return [Found(question, f"no: {words}", "clock_skew", party, 1.0 if found.sure else 0.5) for party, words in answers] or [Found(question, "yes.", "")]
