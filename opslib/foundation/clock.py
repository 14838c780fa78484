"""
Tell the time: now, instants, windows, the day in New York.

Nothing else in the suite asks what time it is: everything takes an instant, and `now` is where one comes from.
"""

import functools
import os
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta

from opslib.foundation.errors import SettingsError, UsageError
from opslib.foundation.formatting import NEW_YORK, duration, moment

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@functools.lru_cache(maxsize=4)
def _simulated_clock(told: str) -> tuple[datetime, float, float]:
    """What ``OPS_CLOCK`` says: a moment, when it was so (seconds since 1970), and how fast time runs from there."""
    try:
        moment, since, speed = told.split(",")
        at = datetime.fromisoformat(moment)
        found = (at if at.tzinfo else at.replace(tzinfo=NEW_YORK)).astimezone(UTC), float(since), float(speed)
    except ValueError:
        raise SettingsError(
            f"OPS_CLOCK is {told!r}; a moment, the seconds since 1970 at which it was so, and a speed were "
            f"wanted, such as 2026-03-10T13:30:00Z,1773149400,60. It is for drills; a desk that trades has none."
        ) from None
    if not 0 < found[2] <= 10_000:
        raise SettingsError(f"OPS_CLOCK has the speed {speed}; above 0 and up to 10000 was wanted.")
    return found


def now() -> datetime:
    """
    What time is it? The only place that asks. Aware, UTC.

    In a simulated world ``OPS_CLOCK`` says how its time runs; so every process that lives in it has the same.
    """
    real = machine_now()
    told = os.environ.get("OPS_CLOCK")
    if not told:
        return real
    moment, since, speed = _simulated_clock(told)
    return moment + timedelta(seconds=(real.timestamp() - since) * speed)


def machine_now() -> datetime:
    """The machine's own time, whatever ``OPS_CLOCK`` says: for a log of our own failures. Aware, UTC."""
    return datetime.now(UTC)


def simulated() -> bool:
    """Whether time is that of a simulated world, which the machine and its HTTP servers do not have."""
    return bool(os.environ.get("OPS_CLOCK"))


def speed() -> float:
    """
    How many seconds pass in a second of the machine's: 1, but in a simulated world; what is waited for is divided by
    it.
    """
    told = os.environ.get("OPS_CLOCK")
    return _simulated_clock(told)[2] if told else 1.0


def micros(instant: datetime) -> int:
    """An aware instant as whole microseconds since 1970 UTC, exactly."""
    return span_us(instant - EPOCH)


def span_us(span: timedelta) -> int:
    """A span as whole microseconds, exactly."""
    return (span.days * 86_400 + span.seconds) * 1_000_000 + span.microseconds


def instant(us: int) -> datetime:
    """The aware UTC instant of whole microseconds since 1970."""
    return EPOCH + timedelta(microseconds=us)


@dataclass(frozen=True, slots=True)
class Window:
    """
    A stretch of time, half open: what happened after `start`, up to and at `end`.

    Attributes:
        start, start_us: Aware UTC instant, not itself inside; the same in microseconds since 1970.
        end, end_us: Aware UTC instant, the last one inside; the same in microseconds.
    """

    start: datetime
    end: datetime
    start_us: int = field(init=False, repr=False, compare=False)
    end_us: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.start.tzinfo is None or self.end.tzinfo is None:
            raise UsageError("a window's ends need a time zone; use clock.parse.")
        if self.end < self.start:
            raise UsageError(f"a window ends after it starts; found {self.start} to {self.end}.")
        object.__setattr__(self, "start_us", micros(self.start))
        object.__setattr__(self, "end_us", micros(self.end))

    @classmethod
    def before(cls, end: datetime, length: timedelta) -> "Window":
        """The window of that length that ends at `end`."""
        try:
            return cls(end - length, end)
        except OverflowError:
            raise UsageError(
                f"a window of {length.days} days before {end:%Y-%m-%d} starts before the year 1; ask for a shorter one."
            ) from None

    @property
    def seconds(self) -> float:
        """Its length in seconds."""
        return (self.end - self.start).total_seconds()

    def __str__(self) -> str:
        return f"{moment(self.start)} to {moment(self.end)}, {duration(self.seconds)}"


def day_in_new_york(as_of: datetime) -> date:
    """
    The date in New York at an instant.

    Raises:
        UsageError: It is before the year 1 or after the year 9999 there.
    """
    try:
        return as_of.astimezone(NEW_YORK).date()
    except OverflowError:
        raise UsageError(
            f"{as_of:%Y-%m-%d %H:%M} UTC is outside the years 1 to 9999 in New York; give another time."
        ) from None


SECOND = 1_000_000
