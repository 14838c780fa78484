"""
Provide the current time, instants, windows and the day in New York.

No other module reads the machine's clock: functions take an instant as an argument, and `now` supplies it.
"""

import functools
import os
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta

from opslib.foundation.errors import SettingsError, UsageError
from opslib.foundation.formatting import NEW_YORK, duration, moment

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@functools.lru_cache(maxsize=4)
def _simulated_clock(text: str) -> tuple[datetime, float, float]:
    """Parse ``OPS_CLOCK``: a start instant, the Unix time at which it applied, and the speed of time from there."""
    try:
        moment, since, speed = text.split(",")
        at = datetime.fromisoformat(moment)
        found = (at if at.tzinfo else at.replace(tzinfo=NEW_YORK)).astimezone(UTC), float(since), float(speed)
    except ValueError:
        raise SettingsError(
            f"OPS_CLOCK is {text!r}; expected a start time, the Unix time at which it applied, and a speed, such as "
            f"2026-03-10T13:30:00Z,1773149400,60. Unset it outside drills and simulations."
        ) from None
    if not 0 < found[2] <= 10_000:
        raise SettingsError(f"OPS_CLOCK has the speed {speed}; expected a number above 0 and up to 10000.")
    return found


def now() -> datetime:
    """
    Return the current time, aware, in UTC. No other function may read the clock.

    In a simulation ``OPS_CLOCK`` defines how time runs, so that all its processes share one clock.
    """
    real = machine_now()
    setting = os.environ.get("OPS_CLOCK")
    if not setting:
        return real
    moment, since, speed = _simulated_clock(setting)
    return moment + timedelta(seconds=(real.timestamp() - since) * speed)


def machine_now() -> datetime:
    """Return the machine's own time, whatever ``OPS_CLOCK`` says; for crash logs. Aware, UTC."""
    return datetime.now(UTC)


def simulated() -> bool:
    """Return whether time is simulated. The machine's clock and its HTTP servers then show another time."""
    return bool(os.environ.get("OPS_CLOCK"))


def speed() -> float:
    """
    Return the simulated seconds per real second: 1 outside a simulation.

    Divide a waiting time by it.
    """
    setting = os.environ.get("OPS_CLOCK")
    return _simulated_clock(setting)[2] if setting else 1.0


def micros(instant: datetime) -> int:
    """Convert an aware instant to whole microseconds since 1970 UTC, exactly."""
    return span_us(instant - EPOCH)


def span_us(span: timedelta) -> int:
    """Convert a span to whole microseconds, exactly."""
    return (span.days * 86_400 + span.seconds) * 1_000_000 + span.microseconds


def instant(us: int) -> datetime:
    """Convert whole microseconds since 1970 to an aware UTC instant."""
    return EPOCH + timedelta(microseconds=us)


@dataclass(frozen=True, slots=True)
class Window:
    """
    A half-open stretch of time: after `start`, up to and including `end`.

    Attributes:
        start, start_us: Aware UTC instant, excluded; the same in microseconds since 1970.
        end, end_us: Aware UTC instant, included; the same in microseconds.
    """

    start: datetime
    end: datetime
    start_us: int = field(init=False, repr=False, compare=False)
    end_us: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.start.tzinfo is None or self.end.tzinfo is None:
            raise UsageError("a window's start and end need a time zone. Use time_parsing.parse.")
        if self.end < self.start:
            raise UsageError(f"a window must not end before it starts; found {self.start} to {self.end}.")
        object.__setattr__(self, "start_us", micros(self.start))
        object.__setattr__(self, "end_us", micros(self.end))

    @classmethod
    def before(cls, end: datetime, length: timedelta) -> "Window":
        """Create the window of that length that ends at `end`."""
        try:
            return cls(end - length, end)
        except OverflowError:
            raise UsageError(
                f"a window of {length.days} days before {end:%Y-%m-%d} starts before the year 1. Use a shorter window."
            ) from None

    @property
    def seconds(self) -> float:
        """Length in seconds."""
        return (self.end - self.start).total_seconds()

    def __str__(self) -> str:
        return f"{moment(self.start)} to {moment(self.end)}, {duration(self.seconds)}"


def day_in_new_york(as_of: datetime) -> date:
    """
    Return the date in New York at an instant.

    Raises:
        UsageError: The date there is before the year 1 or after the year 9999.
    """
    try:
        return as_of.astimezone(NEW_YORK).date()
    except OverflowError:
        raise UsageError(
            f"{as_of:%Y-%m-%d %H:%M} UTC is outside the years 1 to 9999 in New York. Use another time."
        ) from None


SECOND = 1_000_000
