"""Parse times, days and spans given by people and files: ISO 8601, in New York unless an offset is given."""

import re
from datetime import UTC, date, datetime, time, timedelta

from opslib.foundation.errors import UsageError
from opslib.foundation.formatting import NEW_YORK, moment
from opslib.foundation.market_calendar import Session, session

YEARS = (1900, 2200)  # Accepted years of a time that a person or a file gives.
AHEAD = timedelta(minutes=1)  # Tolerance for a person's clock that is ahead of ours.


def parse(text: str, of_day: str = "start") -> datetime:
    """
    Return the instant that a text names: ISO 8601, in New York unless an offset is given.

    A wall clock time that DST repeats is read as the first of the two. One that DST skips does not exist and is
    rejected.

    Args:
        of_day: The instant meant by a day without a time: ``start`` is its first midnight in New York; ``close`` the
            close of its session, or its end if it has none; ``end`` its last microsecond.

    Raises:
        UsageError: The text is not an ISO 8601 date and time.
    """
    day = _only_day(text)
    if day:
        _in_bounds(day, text)
    try:
        read = (
            datetime.combine(day, time.max if of_day == "end" else time())
            if day
            else datetime.fromisoformat(text.strip())
        )
    except ValueError:
        raise UsageError(
            f"expected a time, found {text!r}. Write it as 2025-11-18T10:32 (New York) or 2025-11-18T15:32:00Z."
        ) from None
    if day and of_day == "close":
        found = _session_or_none(day)
        return found.closes if found else parse(text, "end")
    _in_bounds(read, text)
    if read.tzinfo is not None:
        return read.astimezone(UTC)
    local = read.replace(tzinfo=NEW_YORK)
    if local.astimezone(UTC).astimezone(NEW_YORK).replace(tzinfo=None) != read:
        raise UsageError(
            f"{text!r} does not exist in New York: the clocks went forward over it. Add an offset, such as -04:00."
        )
    return local.astimezone(UTC)


def _in_bounds(read: date, text: str) -> None:
    """Reject a year out of range, so that windows and calendars around every accepted time are valid."""
    first, last = YEARS
    if not first <= read.year <= last:
        raise UsageError(f"expected a time between the years {first} and {last}, found {text!r}.")


def _only_day(text: str) -> date | None:
    """Return the day that a text names without a time; None if it names anything else."""
    try:
        return date.fromisoformat(text.strip())
    except ValueError:
        return None


def _session_or_none(day: date) -> "Session | None":
    """Return the session of a day; None if it has none or lies outside the known years."""
    try:
        return session(day)
    except UsageError:
        return None


def instant_of(given: str | datetime | None) -> datetime | None:
    """
    Return the instant that an argument means, or None if it is empty.

    It may be ISO 8601 (in New York unless an offset is given) or an aware datetime.

    Raises:
        UsageError: It is not a time, or has no time zone.
    """
    if isinstance(given, datetime):
        if given.tzinfo is None:
            raise UsageError(
                f"expected a time with a time zone, found {given}. Use text such as 2025-11-18T10:32 (New York), or "
                f"an aware datetime."
            )
        return given
    return parse(given, "close") if given else None


def happened(text: str | None, now: datetime) -> datetime | None:
    """
    Return when something happened, as a person states it; None for no text.

    Raises:
        UsageError: The text is not a time, is a day without a time, or is in the future.
    """
    if not text:
        return None
    if day := _only_day(text):
        raise UsageError(
            f"expected the time at which it happened, found the day {day}. Write it as {day}T10:32 (New York)."
        )
    found = parse(text)
    if found > now + AHEAD:
        raise UsageError(
            f"expected the time at which it happened, found {moment(found)}, which is in the future. It is now "
            f"{moment(now)}."
        )
    return found


def close_of(text: str) -> str:
    """Return a sentence about the instant that a day without a time was read as; empty if the text has a time."""
    day = _only_day(text)
    if day is None:
        return ""
    found = _session_or_none(day)
    how = "the end of that day, which has no session"
    if found is not None:
        how = "its early close" if found.half else "its close"
    return f"{day} is a day without a time; it was read as {how}, {moment(parse(text, 'close'))}"


def parse_day(text: str) -> date:
    """
    Return the day that a text such as ``2025-11-18`` names.

    Raises:
        UsageError: The text is not an ISO date.
    """
    found = _only_day(text)
    if found is None:
        raise UsageError(f"expected a day, found {text!r}. Write it as 2025-11-18.")
    _in_bounds(found, text)
    return found


def parse_span(text: str) -> timedelta:
    """
    Return the length of ``30m``, ``1h``, ``90s``, ``2d`` or ``1h30m``.

    Raises:
        UsageError: The text is not a span, or its length is zero.
    """
    found = re.fullmatch(r"(?:(\d{1,6})d)?(?:(\d{1,6})h)?(?:(\d{1,6})m)?(?:(\d{1,6})s)?", text.strip())
    days, hours, minutes, seconds = (int(g or 0) for g in found.groups()) if found else (0, 0, 0, 0)
    span = timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)
    if not span:
        raise UsageError(f"expected a span of time, found {text!r}. Write it as 30m, 1h, 90s, 2d or 1h30m.")
    return span


def nearest_sessions(day: date) -> str:
    """Return a sentence that names the sessions nearest to a day without one; empty outside the known years."""
    near = [found.day for step in (-1, 1) if (found := _next_session(day, step))]
    return (
        f"The nearest {'sessions are' if len(near) > 1 else 'session is'} "
        f"{' and '.join(f'{d} ({d:%A})' for d in near)}."
        if near
        else ""
    )


def _next_session(day: date, step: int) -> Session | None:
    """Return the next session within two weeks after a day, or before it if `step` is -1."""
    for distance in range(1, 15):
        try:
            found = session(day + timedelta(days=step * distance))
        except (UsageError, OverflowError):
            return None
        if found:
            return found
    return None
