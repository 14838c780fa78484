"""
Tell the time: now, instants, windows, the day in New York.

Nothing else in the suite asks what time it is: everything takes an instant, and `now` is where one comes from.
"""

import functools
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from importlib import resources

from opslib.errors import SettingsError, UsageError
from opslib.text import NEW_YORK, duration, moment

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
YEARS = (1900, 2200)  # In which a time that a person or a file gives may be.
AHEAD = timedelta(minutes=1)  # So much a person's clock may be ahead of ours.
OPEN, CLOSE, HALF_DAY_CLOSE = time(9, 30), time(16, 0), time(13, 0)


@functools.lru_cache(maxsize=4)
def _course(told: str) -> tuple[datetime, float, float]:
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
    moment, since, speed = _course(told)
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
    return _course(told)[2] if told else 1.0


def micros(instant: datetime) -> int:
    """An aware instant as whole microseconds since 1970 UTC, exactly."""
    return span_us(instant - EPOCH)


def span_us(span: timedelta) -> int:
    """A span as whole microseconds, exactly."""
    return (span.days * 86_400 + span.seconds) * 1_000_000 + span.microseconds


def instant(us: int) -> datetime:
    """The aware UTC instant of whole microseconds since 1970."""
    return EPOCH + timedelta(microseconds=us)


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
    how = "which has no session: taken as its end" if found is None else f"taken as its {'early ' * found.half}close"
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
    rows = resources.files("opslib").joinpath("sessions.csv").read_text().split()[1:]
    return dict(row.split(",") for row in rows)


@functools.cache
def covered() -> tuple[date, date]:
    """The first and the last day of the years in the shipped table; outside them regular sessions are assumed."""
    days = _exceptions()
    return date(int(min(days)[:4]), 1, 1), date(int(max(days)[:4]), 12, 31)


_declared: dict[date, time | None] = {}


def declare(found: Mapping[date, time | None]) -> None:
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

    def at(clock):
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
