"""
Provide the trading sessions and holidays of the New York exchanges.

They are read from ``sessions.csv``. Its test makes it from exchange_calendars' XNYS and compares the two; importing
that library takes a second, too long for a command. Outside the years of that table every weekday counts as a regular
session; `covered` returns those years.
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from importlib import resources

from opslib.foundation.clock import Window, day_in_new_york
from opslib.foundation.errors import UsageError
from opslib.foundation.formatting import NEW_YORK

OPEN, CLOSE, HALF_DAY_CLOSE = time(9, 30), time(16, 0), time(13, 0)


@dataclass(frozen=True, slots=True)
class Session:
    """
    One trading day of the New York exchanges.

    Attributes:
        day: Its date in New York.
        opens: 09:30 New York, aware UTC.
        closes: 16:00, 13:00 on a half day, or the early close that settings.toml declares; aware UTC.
    """

    day: date
    opens: datetime
    closes: datetime

    @property
    def half(self) -> bool:
        """Whether the session closes early."""
        return self.closes.astimezone(NEW_YORK).time() < CLOSE

    @property
    def window(self) -> Window:
        """From open to close."""
        return Window(self.opens, self.closes)


@functools.cache
def _exceptions() -> dict[str, str]:
    """Return the weekdays that are not regular sessions, as ISO dates: ``closed`` or ``half``."""
    rows = resources.files("opslib.foundation").joinpath("sessions.csv").read_text().split()[1:]
    return dict(row.split(",") for row in rows)


@functools.cache
def covered() -> tuple[date, date]:
    """
    Return the first and the last day of the years in the shipped table; outside them regular sessions are assumed.
    """
    days = _exceptions()
    return date(int(min(days)[:4]), 1, 1), date(int(max(days)[:4]), 12, 31)


_declared: dict[date, time | None] = {}


def override_sessions(found: Mapping[date, time | None]) -> None:
    """
    Replace the sessions that settings.toml declares against the shipped table.

    Each day is either closed (None) or closed early at a time in New York. Earlier declarations are dropped.
    """
    if found != _declared:
        _declared.clear()
        _declared.update(found)
        session.cache_clear()


@functools.cache
def session(day: date) -> Session | None:
    """
    Return the market's session on a day, or None on a weekend or holiday.

    Outside the years of the shipped table (see `covered`) each weekday counts as a regular session, 09:30 to 16:00.
    """
    kind, closes = _exceptions().get(day.isoformat()), _declared.get(day)
    if day.weekday() >= 5 or kind == "closed" or (day in _declared and closes is None):
        return None

    def at(clock: time) -> datetime:
        return datetime.combine(day, clock, NEW_YORK).astimezone(UTC)

    return Session(day, at(OPEN), at(closes or (HALF_DAY_CLOSE if kind == "half" else CLOSE)))


def previous_session(day: date) -> Session:
    """
    Return the last trading day before a day.

    Raises:
        UsageError: There is none, because the calendar starts with the year 1.
    """
    while day > date.min:
        day -= timedelta(days=1)
        if found := session(day):
            return found
    raise UsageError("there is no trading day before the year 1. Use a later day.")


def last_closed(as_of: datetime) -> Session:
    """Return the newest trading day whose session had ended at that instant."""
    today = day_in_new_york(as_of)
    found = session(today)
    return found if found and found.closes <= as_of else previous_session(today)


def open_since(as_of: datetime) -> datetime | None:
    """
    Return when the current session opened, or None if the market is closed; the close itself counts as open.

    Outside the shipped table the market counts as closed, so that no data is expected on those days.
    """
    today = day_in_new_york(as_of)
    first, last = covered()
    found = session(today) if first <= today <= last else None
    return found.opens if found and found.opens < as_of <= found.closes else None


def open_spans(window: Window) -> list[Window]:
    """
    Return the parts of a window in which the market was open: half-open spans in order; none on a closed day.

    Days outside the shipped table count as closed, so that no data is expected on them.
    """
    first, last = covered()
    day = max(day_in_new_york(window.start), first)
    until = min(day_in_new_york(window.end), last)
    spans = []
    while day <= until:
        if found := session(day):
            if found.opens <= window.start and window.end <= found.closes:
                return [window] if window.start < window.end else []
            start, end = max(found.opens, window.start), min(found.closes, window.end)
            if start < end:
                spans.append(Window(start, end))
        day += timedelta(days=1)
    return spans
