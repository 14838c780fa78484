"""
This module knows how an option contract is named, on which day it expires, and at which instant it settles, and nothing else.
"""

import re
from datetime import UTC, date, datetime, time
from functools import lru_cache
from typing import Any

from opslib import clock, feeds
from opslib.text import NEW_YORK

AM_SETTLED = frozenset({"SPX", "NDX", "RUT", "VIX", "DJX", "MRUT", "XSP", "OEX"})  # Index roots whose monthly contracts settle at the open.
SIDES = {"c": "call", "call": "call", "calls": "call", "p": "put", "put": "put", "puts": "put"}
_OCC = re.compile(r"^(?:O:)?([A-Z.]{1,6}\d?)\s*(\d{6})([CP])(\d{8})$")
_TDA = re.compile(r"^([A-Z.]{1,6}\d?)_(\d{6})([CP])([\d.]+)$")


def american_day(told: str) -> datetime | None:
    """A day as 01/05/2016, or as 20160105; its beginning in New York."""
    found = re.fullmatch(r"(\d{1,2})/(\d{1,2})/(\d{4}|\d{2})", told.strip())
    if found:
        year = int(found[3]) + (2000 if len(found[3]) == 2 else 0)
        parts = (year, int(found[1]), int(found[2]))
    elif re.fullmatch(r"(19|20)\d{6}", told.strip()):
        parts = (int(told[:4]), int(told[4:6]), int(told[6:8]))
    else:
        return None
    try:
        return datetime(*parts, tzinfo=NEW_YORK)
    except ValueError:
        return None


def named(symbol: str) -> tuple[str, date, str, float] | None:
    """Root, expiration, side and strike as a contract's symbol has them; None where it is no such symbol."""
    return _parse_symbol(symbol) if symbol else None


@lru_cache(maxsize=200_000)
def _parse_symbol(symbol: str) -> tuple[str, date, str, float] | None:
    found, thousandth = _OCC.match(symbol.upper()), 1000
    if not found:
        found, thousandth = _TDA.match(symbol.upper()), 1
    if not found:
        return None
    told = found[2]
    try:
        day = date(2000 + int(told[:2]), int(told[2:4]), int(told[4:])) if thousandth == 1000 else date(2000 + int(told[4:]), int(told[:2]), int(told[2:4]))
        return found[1], day, "call" if found[3] == "C" else "put", float(found[4]) / thousandth
    except ValueError:
        return None


@lru_cache(maxsize=20_000)
def _written_day(told: str) -> date | None:
    at = american_day(told) or feeds.stamp(told)
    if at is None:
        return None
    # An instant in UTC that is a day's beginning there names that day; any other is in New York.
    return at.date() if at.astimezone(UTC).time() == time(0) or at.tzinfo is NEW_YORK else at.astimezone(NEW_YORK).date()


def day_of(cell: Any, named: tuple[str, date, str, float] | None, absent: object) -> date | None:
    """On which day does a contract expire? As its cell says; where that holds nothing, as its symbol does; None of neither."""
    if cell is absent or cell is None or cell == "" or cell != cell:
        return named[1] if named else None
    if isinstance(cell, datetime):
        return cell.date()
    if isinstance(cell, date):
        return cell
    return _written_day(str(cell))


@lru_cache(maxsize=20_000)
def settles(day: date, root: str = "") -> datetime:
    """
    At which instant do the contracts of a day settle? At the close of its session, of half days at theirs; the monthly ones
    of an index that settles in the morning, at its opening. A day without a session is the one before.
    """
    session = clock.session(day)
    if session is None and day.weekday() >= 5:
        session = clock.previous_session(day)
    if session is None:
        return datetime.combine(day, clock.CLOSE, NEW_YORK).astimezone(UTC)
    third_friday = session.day.weekday() == 4 and 15 <= session.day.day <= 21
    return session.opens if root in AM_SETTLED and third_friday else session.closes


def close_of(day: date) -> datetime:
    """When does a day's session close? 16:00 in New York where it has none."""
    session = clock.session(day)
    return session.closes if session else datetime.combine(day, clock.CLOSE, NEW_YORK).astimezone(UTC)


def day_end(as_of: datetime) -> datetime:
    """A moment that is a day's beginning names that day, whose figures are of its close; any other is itself."""
    local = as_of.astimezone(NEW_YORK)
    return close_of(local.date()) if local.time() == time(0) else as_of
