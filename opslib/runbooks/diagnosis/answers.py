"""Hold the answer to a diagnostic question: its source, its time, and the causes it supports or excludes."""

from typing import NamedTuple


class Found(NamedTuple):
    """
    The answer to one question.

    Attributes:
        cause: The cause it supports; empty means no fault, None means unknown.
        agree: The share of the data that supports it, 0 to 1.
        source: page, probe, chain, logs, fills, calendar or rules.
        at_us: The time of the newest data, microseconds since 1970; None if there is none.
        since_us: Since when the data supports it; None means `at_us`.
        symptoms: The symptoms, as named in `causes.PRODUCES`; empty means the cause itself.
        excludes: The causes that this answer contradicts if it found no fault.
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
