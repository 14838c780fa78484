"""Parse the name of an option contract, its expiration day, and the instant at which it settles."""

import re
from collections.abc import Iterable
from datetime import UTC, date, datetime, time
from functools import lru_cache
from typing import Any

from opslib.foundation import market_calendar
from opslib.foundation.formatting import NEW_YORK
from opslib.trading.options import vendors

# Index roots whose monthly contracts settle at the open.
AM_SETTLED = frozenset({"SPX", "NDX", "RUT", "VIX", "DJX", "MRUT", "XSP", "OEX"})
WEEKLY_ROOTS = {"SPXW": "SPX", "NDXP": "NDX", "RUTW": "RUT", "VIXW": "VIX"}  # Other roots of an index's contracts.
SIDES = {"c": "call", "call": "call", "calls": "call", "p": "put", "put": "put", "puts": "put"}
_OCC = re.compile(r"^(?:O:)?([A-Z.]{1,6}\d?)\s*(\d{6})([CP])(\d{8})$")
_TDA = re.compile(r"^([A-Z.]{1,6}\d?)_(\d{6})([CP])([\d.]+)$")


_MONTHS = {
    name: i
    for i, name in enumerate(("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"), 1)
}
_NUMERIC = re.compile(r"(\d{1,2})([/.-])(\d{1,2})\2(\d{4}|\d{2})")
_ISO_LIKE = re.compile(r"((?:19|20)\d\d)(?:[/.](\d{1,2})[/.](\d{1,2})|(\d\d)(\d\d)(?:\.0)?)")
_DAY_MONTH = re.compile(r"(?:[a-z]{3,9}[ ,]+)?(\d{1,2})[ -]?([a-z]{3})[a-z]*\.?[ ,-]*'?(\d{4}|\d{2})")
_MONTH_DAY = re.compile(r"(?:[a-z]{3,9}[ ,]+)?([a-z]{3})[a-z]*\.?[ -]?(\d{1,2})(?:st|nd|rd|th)?[ ,-]+'?(\d{4}|\d{2})")
_TIME_OF_DAY = re.compile(
    r"(.+?)[ T,]+(?:at |@ )?(\d{1,2}):(\d{2})(?::(\d{2})(?:\.\d+)?)?(?: ?([ap])\.?m\.?)?(?: e[sd]?t)?", re.IGNORECASE
)
AMBIGUOUS = "this may be month first or day first; write it as 2026-03-27"


def read_day(text: str, day_first: bool | None = None) -> date | None:
    """
    Parse a day as people and vendors write it, besides ISO 8601.

    Such as 01/05/2016, 11-18-2024, 18.11.2024, 20160105, 2024/11/18, Nov 18 2024, 18-Nov-24.

    Args:
        day_first: Whether its column has the day before the month; None if unknown. With slashes the month is then
            first.

    Returns:
        The day; None if the text is not a day, or is ambiguous.
    """
    text = text.strip().lower()
    if found := _NUMERIC.fullmatch(text):
        one, two, year = int(found[1]), int(found[3]), int(found[4])
        if day_first is None and found[2] != "/" and one <= 12 and two <= 12 and one != two:
            return None
        day, month = (one, two) if day_first or (one > 12 and day_first is None) else (two, one)
    elif found := _ISO_LIKE.fullmatch(text):
        year, month, day = int(found[1]), int(found[2] or found[4]), int(found[3] or found[5])
    elif (found := _DAY_MONTH.fullmatch(text)) and found[2] in _MONTHS:
        year, month, day = int(found[3]), _MONTHS[found[2]], int(found[1])
    elif (found := _MONTH_DAY.fullmatch(text)) and found[1] in _MONTHS:
        year, month, day = int(found[3]), _MONTHS[found[1]], int(found[2])
    else:
        return None
    try:
        return date(year + 2000 if year < 100 else year, month, day)
    except ValueError:
        return None


def is_day_first(cells: Iterable[str]) -> bool | None:
    """
    Return whether the days of a column have the day before the month, by its unambiguous days; None if there is none.
    """
    pairs = {(int(found[1]) > 12, int(found[3]) > 12) for cell in cells if (found := _NUMERIC.match(cell.strip()))} - {
        (False, False),
        (True, True),
    }
    return pairs == {(True, False)} if len(pairs) == 1 else None


def is_ambiguous(text: str) -> bool:
    """Return whether a numeric day may be read with the month first or with the day first."""
    found = _NUMERIC.fullmatch(text.strip())
    return found is not None and int(found[1]) <= 12 and int(found[3]) <= 12


def read_moment(text: str, day_first: bool | None = None) -> datetime | None:
    """Parse a day as `read_day` does, with or without a time of day; a naive wall clock time, None if invalid."""
    text = text.strip()
    found = _TIME_OF_DAY.fullmatch(text)
    day = read_day(found[1] if found else text, day_first)
    if day is None:
        return None
    if not found:
        return datetime.combine(day, time(0))
    hour = int(found[2])
    if found[5]:
        hour = hour % 12 + (12 if found[5].lower() == "p" else 0)
    if hour > 23 or int(found[3]) > 59 or int(found[4] or 0) > 59:
        return None
    return datetime.combine(day, time(hour, int(found[3]), int(found[4] or 0)))


def named(symbol: str) -> tuple[str, date, str, float] | None:
    """Return root, expiration, side and strike from a contract's symbol; None if it is not such a symbol."""
    return _parse_symbol(symbol) if symbol else None


@lru_cache(maxsize=200_000)
def _parse_symbol(symbol: str) -> tuple[str, date, str, float] | None:
    found, thousandth = _OCC.match(symbol.upper()), 1000
    if not found:
        found, thousandth = _TDA.match(symbol.upper()), 1
    if not found:
        return None
    digits = found[2]
    try:
        day = (
            date(2000 + int(digits[:2]), int(digits[2:4]), int(digits[4:]))
            if thousandth == 1000
            else date(2000 + int(digits[4:]), int(digits[:2]), int(digits[2:4]))
        )
        return found[1], day, "call" if found[3] == "C" else "put", float(found[4]) / thousandth
    except ValueError:
        return None


@lru_cache(maxsize=20_000)
def _written_day(text: str, day_first: bool | None) -> date | None:
    if found := read_moment(text, day_first):
        return found.date()
    if is_ambiguous(text) or (at := vendors.stamp(text)) is None:
        return None
    try:
        # Midnight in UTC means that date; any other instant means its date in New York.
        return (
            at.date()
            if at.astimezone(UTC).time() == time(0) or at.tzinfo is NEW_YORK
            else at.astimezone(NEW_YORK).date()
        )
    except OverflowError:
        return None


def day_of(cell: Any, named: tuple[str, date, str, float] | None, day_first: bool | None = None) -> date | None:
    """
    Return the day on which a contract expires.

    The cell counts; if it is empty, the symbol; None if both are empty.
    """
    if cell is None or cell == "":
        return named[1] if named else None
    if isinstance(cell, datetime):
        return cell.date()
    if isinstance(cell, date):
        return cell
    return _written_day(str(cell), day_first)


@lru_cache(maxsize=20_000)
def settles(day: date, root: str = "") -> datetime:
    """
    Return the instant at which the contracts of a day settle.

    That is the close of its session, also on half days. Monthly contracts of an index that settles in the morning
    settle at the open. For a day without a session, the session before it counts.
    """
    session = market_calendar.session(day)
    if session is None and day.weekday() >= 5:
        session = market_calendar.previous_session(day)
    if session is None:
        return datetime.combine(day, market_calendar.CLOSE, NEW_YORK).astimezone(UTC)
    third_friday = session.day.weekday() == 4 and 15 <= session.day.day <= 21
    return session.opens if root in AM_SETTLED and third_friday else session.closes


def close_of(day: date) -> datetime:
    """Return when a day's session closes; 16:00 New York if it has none. UTC."""
    session = market_calendar.session(day)
    return session.closes if session else datetime.combine(day, market_calendar.CLOSE, NEW_YORK).astimezone(UTC)


def day_end(as_of: datetime) -> datetime:
    """Return the close of the day for a midnight in New York; any other instant unchanged."""
    local = as_of.astimezone(NEW_YORK)
    return close_of(local.date()) if local.time() == time(0) else as_of
