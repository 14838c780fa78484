"""Parse the triggers of ``schedule.toml``, such as ``15 minutes after the close`` or ``08:00, every day``."""

import re
from datetime import time, timedelta
from typing import NamedTuple

BY_HAND = "by hand"
FARTHEST = timedelta(days=1)  # The longest offset from the open or the close.
_UNITS = {
    "minute": timedelta(minutes=1),
    "hour": timedelta(hours=1),
    "day": timedelta(days=1),
    "week": timedelta(days=7),
}
_DAYS = (
    r"(?:, (?:(?P<every>every day)|trading days|(?P<end>first|last) trading day of the (?P<of>week|month"
    r"|quarter|year)))?"
)
_ANCHORED = re.compile(
    r"(?:at|(?P<n>\d{1,4}) (?P<unit>minute|hour)s? (?P<side>before|after)) the (?P<anchor>open|close)" + _DAYS
)
_TIMED = re.compile(r"(?P<time>(?:[01]\d|2[0-3]):[0-5]\d)" + _DAYS)
_DEPLOYED = re.compile(r"(?P<n>\d{1,3}) (?P<unit>minute|hour|day|week)s? after a deploy")
_HOURLY = "every hour while open"


class Trigger(NamedTuple):
    """
    A rule for when a job is due.

    Attributes:
        kind: open, close, time, hourly, deploy or hand.
        offset: The offset from the open, the close or a deployment.
        at: The time of day in New York, for the kind `time`.
        every: Whether the kind `time` includes days without a session.
        end, of: ``first`` or ``last`` trading day, and of which period (week, month, quarter or year); empty is every
            trading day.
    """

    kind: str
    offset: timedelta = timedelta()
    at: time = time()
    every: bool = False
    end: str = ""
    of: str = ""


def parse(text: str) -> Trigger | None:
    """Parse a trigger; return None if the text is invalid."""
    if text == BY_HAND:
        return Trigger("hand")
    if text == _HOURLY:
        return Trigger("hourly")
    if found := _DEPLOYED.fullmatch(text):
        return Trigger("deploy", int(found["n"]) * _UNITS[found["unit"]])
    if (found := _ANCHORED.fullmatch(text)) and not found["every"]:
        offset = int(found["n"] or 0) * _UNITS[found["unit"] or "minute"]
        return (
            Trigger(
                found["anchor"],
                -offset if found["side"] == "before" else offset,
                end=found["end"] or "",
                of=found["of"] or "",
            )
            if offset <= FARTHEST
            else None
        )
    if found := _TIMED.fullmatch(text):
        return Trigger(
            "time",
            at=time.fromisoformat(found["time"]),
            every=bool(found["every"]),
            end=found["end"] or "",
            of=found["of"] or "",
        )
    return None
