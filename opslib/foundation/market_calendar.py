"""
Know the trading sessions and holidays of New York.

They are read from ``sessions.csv``, made from exchange_calendars' XNYS by its test, which also compares it with that
library: importing the library costs a second that a shell cannot afford. Outside the years of that table every
weekday is taken for a regular session; `covered` says which years it has.
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
        closes: 16:00, or 13:00 on a half day, or when the desk says that the exchanges closed; aware UTC.
    """

    day: date
    opens: datetime
    closes: datetime

    @property
    def half(self) -> bool:
        """Did it close early?"""
        return self.closes.astimezone(NEW_YORK).time() < CLOSE

    @property
    def window(self) -> Window:
        """Open to close."""
        return Window(self.opens, self.closes)


@functools.cache
def _exceptions() -> dict[str, str]:
    """Weekdays that are no regular session, as ISO dates: ``closed`` or ``half``."""
    rows = resources.files("opslib.foundation").joinpath("sessions.csv").read_text().split()[1:]
    return dict(row.split(",") for row in rows)


@functools.cache
def covered() -> tuple[date, date]:
    """The first and the last day of the years in the shipped table; outside them regular sessions are assumed."""
    days = _exceptions()
    return date(int(min(days)[:4]), 1, 1), date(int(max(days)[:4]), 12, 31)


_declared: dict[date, time | None] = {}


def override_sessions(found: Mapping[date, time | None]) -> None:
    """
    Which days are, by the desk's own word, no session as the shipped table has it: closed (None), or closed early at a
    time in New York?

    What was declared before holds no more.
    """
    if found != _declared:
        _declared.clear()
        _declared.update(found)
        session.cache_clear()


@functools.cache
def session(day: date) -> Session | None:
    """
    The market's session on a day, or None on a weekend or holiday.

    Outside the years of the shipped table (see `covered`) each weekday is taken for a regular session, 09:30 to 16:00.
    """
    kind, closes = _exceptions().get(day.isoformat()), _declared.get(day)
    if day.weekday() >= 5 or kind == "closed" or (day in _declared and closes is None):
        return None

    def at(clock: time) -> datetime:
        return datetime.combine(day, clock, NEW_YORK).astimezone(UTC)

    return Session(day, at(OPEN), at(closes or (HALF_DAY_CLOSE if kind == "half" else CLOSE)))


def previous_session(day: date) -> Session:
    """
    The last trading day before a day.

    Raises:
        UsageError: The calendar ends before it: no day is before the year 1.
    """
    while day > date.min:
        day -= timedelta(days=1)
        if found := session(day):
            return found
    raise UsageError("no trading day is before the year 1; give a later day.")


def last_closed(as_of: datetime) -> Session:
    """The newest trading day whose session had ended at that instant."""
    today = day_in_new_york(as_of)
    found = session(today)
    return found if found and found.closes <= as_of else previous_session(today)


def open_since(as_of: datetime) -> datetime | None:
    """
    When the session that is on at an instant, its close included, did open; None when the market is closed.

    Outside the shipped table the market counts as closed: nothing is expected of those days.
    """
    today = day_in_new_york(as_of)
    first, last = covered()
    found = session(today) if first <= today <= last else None
    return found.opens if found and found.opens < as_of <= found.closes else None


def open_spans(window: Window) -> list[Window]:
    """
    The parts of a window in which the market was open: half-open spans in order; none on a closed day.

    Days outside the shipped table count as closed here: nothing is expected of them.
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
