"""Read times, days and spans that people and files give: ISO 8601, without an offset New York."""

import re
from datetime import UTC, date, datetime, time, timedelta

from opslib.foundation.errors import UsageError
from opslib.foundation.formatting import NEW_YORK, moment
from opslib.foundation.market_calendar import Session, session

YEARS = (1900, 2200)  # In which a time that a person or a file gives may be.
AHEAD = timedelta(minutes=1)  # So much a person's clock may be ahead of ours.


def parse(text: str, of_day: str = "start") -> datetime:
    """
    Which instant does this text name? ISO 8601; without an offset it is New York's wall clock.

    A wall clock that DST repeats is read as the first of the two; one that DST skips does not exist and is refused.

    Args:
        of_day: Which instant a day without a time means: ``start`` its first midnight in New York; ``close`` the close
            of its session, or its end where it has none; ``end`` its last microsecond.

    Raises:
        UsageError: Not an ISO 8601 date and time.
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
            f"a time was wanted, found {text!r}. Write it as 2025-11-18T10:32 (New York) or 2025-11-18T15:32:00Z."
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
            f"{text!r} does not exist in New York: the clocks went forward over it. Give it with an offset, "
            f"such as -04:00."
        )
    return local.astimezone(UTC)


def _in_bounds(read: date, text: str) -> None:
    """Refuse a year that nothing here can be about; windows and calendars around any other have room."""
    first, last = YEARS
    if not first <= read.year <= last:
        raise UsageError(f"a time between the years {first} and {last} was wanted, found {text!r}.")


def _only_day(text: str) -> date | None:
    """The day that a text names without a time; None where it names anything else."""
    try:
        return date.fromisoformat(text.strip())
    except ValueError:
        return None


def _session_or_none(day: date) -> "Session | None":
    """The session of a day; None without one, and outside the years that are known."""
    try:
        return session(day)
    except UsageError:
        return None


def instant_of(given: str | datetime | None) -> datetime | None:
    """
    The instant that an argument means: ISO 8601 (without an offset New York), or an aware datetime; None where it is
    empty.

    Raises:
        UsageError: It is no time, or has no time zone.
    """
    if isinstance(given, datetime):
        if given.tzinfo is None:
            raise UsageError(
                f"a moment with a time zone was wanted, found {given}. Give text such as 2025-11-18T10:32 "
                f"(New York), or an aware datetime."
            )
        return given
    return parse(given, "close") if given else None


def happened(text: str | None, now: datetime) -> datetime | None:
    """
    When something happened, as a person says it; None where nothing is said.

    Raises:
        UsageError: No time, a day without a time, or a time to come.
    """
    if not text:
        return None
    if day := _only_day(text):
        raise UsageError(
            f"the time at which it happened was wanted, found the day {day}. Write it as {day}T10:32 (New York)."
        )
    found = parse(text)
    if found > now + AHEAD:
        raise UsageError(
            f"the time at which it happened was wanted, found {moment(found)}, which is to come: it is {moment(now)}."
        )
    return found


def close_of(text: str) -> str:
    """What a day without a time is taken as where a moment was wanted, in words; empty where the text has a time."""
    day = _only_day(text)
    if day is None:
        return ""
    found = _session_or_none(day)
    how = "which has no session: taken as its end"
    if found is not None:
        how = "taken as its early close" if found.half else "taken as its close"
    return f"{day} is a day, {how}, {moment(parse(text, 'close'))}"


def parse_day(text: str) -> date:
    """
    Which day does this text name? ``2025-11-18``.

    Raises:
        UsageError: Not an ISO date.
    """
    found = _only_day(text)
    if found is None:
        raise UsageError(f"a day was wanted, found {text!r}. Write it as 2025-11-18.")
    _in_bounds(found, text)
    return found


def parse_span(text: str) -> timedelta:
    """
    How long is ``30m``, ``1h``, ``90s``, ``2d`` or ``1h30m``?

    Raises:
        UsageError: Not a span, or no longer than nothing.
    """
    found = re.fullmatch(r"(?:(\d{1,6})d)?(?:(\d{1,6})h)?(?:(\d{1,6})m)?(?:(\d{1,6})s)?", text.strip())
    days, hours, minutes, seconds = (int(g or 0) for g in found.groups()) if found else (0, 0, 0, 0)
    span = timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)
    if not span:
        raise UsageError(f"a span of time was wanted, found {text!r}. Write it as 30m, 1h, 90s, 2d or 1h30m.")
    return span


def neighbours(day: date) -> str:
    """The sessions nearest to a day without one, in words; empty at the ends of what is known."""
    near = [found.day for step in (-1, 1) if (found := _next_session(day, step))]
    return (
        f"The nearest {'sessions are' if len(near) > 1 else 'session is'} of "
        f"{' and '.join(f'{d} ({d:%A})' for d in near)}."
        if near
        else ""
    )


def _next_session(day: date, step: int) -> Session | None:
    """The next session of the two weeks after a day, or before it where `step` is -1."""
    for distance in range(1, 15):
        try:
            found = session(day + timedelta(days=step * distance))
        except (UsageError, OverflowError):
            return None
        if found:
            return found
    return None
