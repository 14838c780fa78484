"""Compute the days and the name of a week, a month, a quarter or a year."""

import re
from dataclasses import dataclass
from datetime import date, datetime, timedelta

from opslib.foundation import market_calendar, time_parsing
from opslib.foundation.clock import Window
from opslib.foundation.errors import UsageError
from opslib.foundation.formatting import NEW_YORK
from opslib.foundation.market_calendar import Session

WEEK, MONTH, QUARTER, YEAR, SEVEN = "week", "month", "quarter", "year", "seven days"
# The kind of period that each report covers.
REPORTS = {"weekly": WEEK, "monthly": MONTH, "quarterly": QUARTER, "annual": YEAR, "success": SEVEN}
_FORMS = {
    WEEK: (r"(\d{4})-W(\d{2})", "2026-W11"),
    MONTH: (r"(\d{4})-(\d{2})", "2026-03"),
    QUARTER: (r"(\d{4})-Q([1-4])", "2026-Q1"),
    YEAR: (r"(\d{4})", "2026"),
    SEVEN: (r"(\d{4})-(\d{2})-(\d{2})", "2026-03-10, the last of the seven"),
}
_NOUNS = {WEEK: "a week", MONTH: "a month", QUARTER: "a quarter", YEAR: "a year", SEVEN: "the last of seven days"}


@dataclass(frozen=True, slots=True)
class Period:
    """
    A range of days in New York.

    Attributes:
        kind: week, month, quarter, year, or seven days.
        name: Such as ``2026-W11``; for seven days the last of them.
        first, last: Its first and last day, both included.
    """

    kind: str
    name: str
    first: date
    last: date

    @property
    def window(self) -> Window:
        """From its first midnight to its last, New York."""
        return Window(
            time_parsing.parse(f"{self.first}T00:00"), time_parsing.parse(f"{self.last + timedelta(days=1)}T00:00")
        )

    @property
    def sessions(self) -> list[Session]:
        """Its trading days, in order."""
        days = ((self.first + timedelta(days=n)) for n in range((self.last - self.first).days + 1))
        return [found for day in days if (found := market_calendar.session(day)) is not None]

    @property
    def before(self) -> "Period":
        """The previous period."""
        return of(self.kind, self.first - timedelta(days=1))


def of(kind: str, day: date) -> Period:
    """Return the period of a kind that contains a day; for seven days the one that ends with it."""
    match kind:
        case "week":
            year, week, weekday = day.isocalendar()
            first = day - timedelta(days=weekday - 1)
            return Period(kind, f"{year}-W{week:02}", first, first + timedelta(days=6))
        case "month":
            return Period(kind, f"{day:%Y-%m}", day.replace(day=1), _end(day.year, day.month))
        case "quarter":
            quarter = (day.month - 1) // 3
            return Period(
                kind, f"{day.year}-Q{quarter + 1}", date(day.year, 3 * quarter + 1, 1), _end(day.year, 3 * quarter + 3)
            )
        case "year":
            return Period(kind, f"{day.year}", date(day.year, 1, 1), date(day.year, 12, 31))
    return Period(SEVEN, str(day), day - timedelta(days=6), day)


def _end(year: int, month: int) -> date:
    return date(year + month // 12, month % 12 + 1, 1) - timedelta(days=1)


def parse(kind: str, text: str) -> Period:
    """
    Return the period that a name denotes.

    Raises:
        UsageError: The name is not a period of that kind.
    """
    form, example = _FORMS[kind]
    found = re.fullmatch(form, text.strip())
    try:
        if found is None:
            raise ValueError
        parts = [int(part) for part in found.groups()]
        time_parsing.parse_day(f"{parts[0]:04}-01-01")  # Rejects a year out of range.
        match kind:
            case "week":
                return of(kind, date.fromisocalendar(parts[0], parts[1], 1))
            case "quarter":
                return of(kind, date(parts[0], 3 * parts[1] - 2, 1))
        return of(kind, date(parts[0], parts[1] if len(parts) > 1 else 1, parts[2] if len(parts) > 2 else 1))
    except ValueError:
        raise UsageError(f"expected {_NOUNS[kind]}, found {text!r}. Write it as {example}.") from None


def last_over(kind: str, as_of: datetime) -> Period:
    """Return the newest period of a kind that had ended at an instant."""
    today = as_of.astimezone(NEW_YORK).date()
    if kind == SEVEN:
        return of(kind, market_calendar.last_closed(as_of).day)
    found = of(kind, today)
    return found if found.window.end <= as_of else found.before
