"""
Test instants, windows and New York's trading days.

Run as a program, this file rebuilds opslib/foundation/sessions.csv.
"""

import warnings
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opslib.foundation import clock, formatting, market_calendar, time_parsing
from opslib.foundation.clock import Window
from opslib.foundation.errors import UsageError


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


FIRST, LAST = date(1993, 1, 1), date(2100, 12, 31)  # Before 1993 some half days closed at 14:00.
SESSIONS = Path(clock.__file__).with_name("sessions.csv")


def exchange_sessions() -> dict[date, tuple[datetime, datetime]]:
    """Return open and close of the XNYS sessions in UTC from exchange_calendars, an independent source."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Its own warnings, about pandas.
        import exchange_calendars

        schedule = exchange_calendars.get_calendar("XNYS", start=str(FIRST), end=str(LAST)).schedule
        return {
            row.Index.date(): (row.open.to_pydatetime(), row.close.to_pydatetime()) for row in schedule.itertuples()
        }


def all_days() -> list[date]:
    return [FIRST + timedelta(days=n) for n in range((LAST - FIRST).days + 1)]


def test_the_shipped_sessions_are_those_of_the_exchange() -> None:
    """Every day of the shipped years has the open and close of exchange_calendars."""
    assert market_calendar.covered() == (FIRST, LAST)
    assert {
        day: (found.opens, found.closes) for day in all_days() if (found := market_calendar.session(day))
    } == exchange_sessions()


@pytest.mark.parametrize(
    ("day", "opens", "closes"),
    [
        ("2025-11-18", "2025-11-18T14:30", "2025-11-18T21:00"),
        ("2025-11-27", None, None),  # Thanksgiving
        ("2025-11-28", "2025-11-28T14:30", "2025-11-28T18:00"),  # half day
        ("2025-12-24", "2025-12-24T14:30", "2025-12-24T18:00"),
        ("2025-01-09", None, None),  # a day of mourning
        ("2026-03-06", "2026-03-06T14:30", "2026-03-06T21:00"),  # before DST
        ("2026-03-09", "2026-03-09T13:30", "2026-03-09T20:00"),  # after
        ("2026-03-08", None, None),  # the Sunday itself
        ("2025-10-31", "2025-10-31T13:30", "2025-10-31T20:00"),
        ("2025-11-03", "2025-11-03T14:30", "2025-11-03T21:00"),
    ],
)
def test_sessions_by_hand(day: str, opens: str | None, closes: str | None) -> None:
    """Holidays, half days and the days around both DST Sundays are as the exchange had them."""
    found = market_calendar.session(date.fromisoformat(day))
    assert (found and found.opens, found and found.closes) == (opens and utc(opens), closes and utc(closes))


@pytest.mark.parametrize("day", ["1992-12-24", "1973-04-26", "2101-01-03", "2140-11-24", "9999-12-31", "0001-01-02"])
def test_outside_the_table_weekdays_are_regular_sessions(day: str) -> None:
    """Outside the shipped years a weekday has a session from 09:30 to 16:00 in New York, and a weekend has none."""
    wanted = date.fromisoformat(day)
    found = market_calendar.session(wanted)
    assert found and (
        found.opens.astimezone(formatting.NEW_YORK).time(),
        found.closes.astimezone(formatting.NEW_YORK).time(),
    ) == (time(9, 30), time(16))
    weekend = wanted - timedelta(days=wanted.weekday() + 1) if wanted.year > 1 else date(1, 1, 6)
    assert market_calendar.session(weekend) is None
    assert (
        market_calendar.open_since(found.closes) is None
        and market_calendar.open_spans(Window(found.opens, found.closes)) == []
    )
    assert market_calendar.last_closed(found.closes).day == wanted


def test_the_calendar_ends_with_the_years() -> None:
    """There is no session before the first one of the year 1, and an instant without a New York date is rejected."""
    with pytest.raises(UsageError, match="year 1"):
        market_calendar.previous_session(date(1, 1, 1))
    for at in (datetime.min.replace(tzinfo=UTC), utc("0001-01-01T02:00")):
        for ask in (market_calendar.open_since, market_calendar.last_closed):
            with pytest.raises(UsageError, match="years 1 to 9999"):
                ask(at)
        with pytest.raises(UsageError, match="years 1 to 9999"):
            market_calendar.open_spans(Window(at, utc("2025-01-01")))


def test_a_time_without_an_offset_is_new_york() -> None:
    """A wall clock time is in New York, in summer and in winter; an offset is used as given."""
    assert time_parsing.parse("2025-11-18T10:32") == utc("2025-11-18T15:32")
    assert time_parsing.parse("2025-07-18T10:32") == utc("2025-07-18T14:32")
    assert time_parsing.parse("2025-11-18T10:32:00Z") == utc("2025-11-18T10:32")
    assert time_parsing.parse("2025-11-02T01:30") == utc("2025-11-02T05:30"), "the first of the two"


@pytest.mark.parametrize(
    "text", ["", "yesterday", "2026-03-08T02:30", "2025-13-01T00:00", "0001-01-01T00:00+10:00", "9999-12-31T23:59"]
)
def test_invalid_times_are_rejected(text: str) -> None:
    """A text that is not an instant, or an hour that DST skips, is rejected with the format to use."""
    with pytest.raises(UsageError):
        time_parsing.parse(text)


@pytest.mark.parametrize(
    ("text", "seconds"), [("30m", 1800), ("1h", 3600), ("90s", 90), ("2d", 172_800), ("1h30m", 5400)]
)
def test_spans(text: str, seconds: int) -> None:
    """Spans are read as people write them."""
    assert time_parsing.parse_span(text).total_seconds() == seconds


@pytest.mark.parametrize("text", ["", "0s", "1 hour", "-1h", "h", "1h 30m"])
def test_invalid_spans_are_rejected(text: str) -> None:
    """An empty text, or a text that is not a span, is rejected."""
    with pytest.raises(UsageError, match="expected a span of time"):
        time_parsing.parse_span(text)


def test_a_window_has_a_zone_and_a_direction() -> None:
    """A window without time zones, or with its end before its start, is rejected."""
    with pytest.raises(UsageError):
        Window(datetime(2025, 1, 1), datetime(2025, 1, 2))
    with pytest.raises(UsageError):
        Window(utc("2025-01-02"), utc("2025-01-01"))
    with pytest.raises(UsageError, match="before the year 1"):
        Window.before(utc("2025-01-01"), timedelta(days=999_999))


@given(st.datetimes(datetime(1970, 1, 2), datetime(2100, 1, 1)))
def test_microseconds_round_trip(moment: datetime) -> None:
    """An instant written as whole microseconds is read back exactly."""
    assert clock.instant(clock.micros(moment.replace(tzinfo=UTC))) == moment.replace(tzinfo=UTC)


@given(
    st.datetimes(datetime(2015, 1, 2), datetime(2030, 12, 1)), st.integers(0, 10 * 86_400), st.integers(0, 10 * 86_400)
)
def test_open_time_splits_without_loss(start: datetime, a: int, b: int) -> None:
    """The open time of a window equals the sum of its two parts, wherever it is split."""
    begin = start.replace(tzinfo=UTC)
    cut, end = begin + timedelta(seconds=a), begin + timedelta(seconds=a + b)

    def total(w):
        return sum(s.seconds for s in market_calendar.open_spans(w))

    assert total(Window(begin, end)) == pytest.approx(total(Window(begin, cut)) + total(Window(cut, end)))


def test_the_last_session_that_has_closed() -> None:
    """Before the close it is the previous session; at the close, and on the weekend, the most recent one."""
    assert market_calendar.last_closed(utc("2025-11-18T20:59")).day == date(2025, 11, 17)
    assert market_calendar.last_closed(utc("2025-11-18T21:00")).day == date(2025, 11, 18)
    assert market_calendar.last_closed(utc("2025-11-30T12:00")).day == date(2025, 11, 28)


if __name__ == "__main__":
    theirs = exchange_sessions()
    weekdays = [day for day in all_days() if day.weekday() < 5]
    kinds = {day: "closed" for day in weekdays if day not in theirs}
    for day, (_, closes) in theirs.items():
        if closes.astimezone(formatting.NEW_YORK).time() < time(16):
            kinds[day] = "half"
    SESSIONS.write_text(
        "\n".join(["day,kind", *(f"{day},{kind}" for day, kind in sorted(kinds.items()))]) + "\n", encoding="utf-8"
    )
