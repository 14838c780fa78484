"""Parse when a job is due, as ``schedule.toml`` says it: ``15 minutes after the close``, ``08:00, every day``."""

import re
from datetime import time, timedelta
from typing import NamedTuple

BY_HAND = "by hand"
FARTHEST = timedelta(days=1)  # From the open or the close; what is further is of another day.
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
    When something is due.

    Attributes:
        kind: open, close, time, hourly, deploy, hand.
        offset: From the open, the close or a deployment.
        at: Of `time`: New York's.
        every: Of `time`: also on days without a session.
        end, of: Only on the first or last trading day of a week, month, quarter or year; empty is each.
    """

    kind: str
    offset: timedelta = timedelta()
    at: time = time()
    every: bool = False
    end: str = ""
    of: str = ""


def parse(said: str) -> Trigger | None:
    """When something is due, as a file says it; None where that cannot be meant."""
    if said == BY_HAND:
        return Trigger("hand")
    if said == _HOURLY:
        return Trigger("hourly")
    if found := _DEPLOYED.fullmatch(said):
        return Trigger("deploy", int(found["n"]) * _UNITS[found["unit"]])
    if (found := _ANCHORED.fullmatch(said)) and not found["every"]:
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
    if found := _TIMED.fullmatch(said):
        return Trigger(
            "time",
            at=time.fromisoformat(found["time"]),
            every=bool(found["every"]),
            end=found["end"] or "",
            of=found["of"] or "",
        )
    return None
