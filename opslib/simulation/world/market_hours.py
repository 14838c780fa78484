"""Return the sessions of the simulated market: New York hours on weekdays, without holidays."""

from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

NEW_YORK = ZoneInfo("America/New_York")
OPENS, CLOSES = time(9, 30), time(16, 0)
EARLIEST, LATEST = time(4, 0), time(20, 0)


def session(at_s: float) -> str:
    """Return the session in New York: ``premarket``, ``open``, ``afterhours`` or ``closed``."""
    here = datetime.fromtimestamp(at_s, NEW_YORK)
    if here.weekday() >= 5 or not EARLIEST <= here.time() < LATEST:
        return "closed"
    if here.time() < OPENS:
        return "premarket"
    return "open" if here.time() < CLOSES else "afterhours"


def last_close(at_s: float) -> float:
    """Return the last market close before an instant, in seconds since 1970 UTC."""
    here = datetime.fromtimestamp(at_s, NEW_YORK)
    day = here.date()
    while day.weekday() >= 5 or datetime.combine(day, CLOSES, NEW_YORK) > here:
        day -= timedelta(days=1)
    return datetime.combine(day, CLOSES, NEW_YORK).timestamp()


def next_open(at_s: float) -> datetime:
    """Return the next market open after an instant, in UTC."""
    here = datetime.fromtimestamp(at_s, NEW_YORK)
    day = here.date()
    while day.weekday() >= 5 or datetime.combine(day, OPENS, NEW_YORK) <= here:
        day += timedelta(days=1)
    return datetime.combine(day, OPENS, NEW_YORK).astimezone(UTC)
