"""
Answers to diagnostic questions: what was observed, by whom, when, and which cause it supports or excludes.
"""

from typing import NamedTuple


class Found(NamedTuple):
    """
    The answer to one question.

    Attributes:
        cause: The cause it supports; empty: no fault; None: not known.
        agree: The share of what was observed that supports it.
        source: Who observed it: page, probe, chain, logs, fills, calendar, rules.
        at_us: Time of the newest observation it rests on; None where there is none.
        since_us: Since when the observations say so; None: `at_us`.
        symptoms: What was observed, as `causes.PRODUCES` names it; empty: the cause itself.
        excludes: The causes that speak against this answer where it found no fault.
    """

    question: str
    answer: str
    cause: str | None
    subject: str | None = None
    agree: float = 1.0
    source: str = ""
    at_us: int | None = None
    since_us: int | None = None
    symptoms: frozenset[str] = frozenset()
    excludes: tuple[str, ...] = ()
