"""Test the schedule: due times over the market calendar, and validation of the file."""

import itertools
from datetime import date, datetime, time, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opslib.foundation import clock, market_calendar, periods, time_parsing
from opslib.foundation.clock import Window
from opslib.foundation.config import settings
from opslib.foundation.config.contacts import Channel, Contacts
from opslib.foundation.errors import SettingsError
from opslib.foundation.formatting import NEW_YORK
from opslib.jobs import schedule, triggers
from opslib.jobs.schedule import Job

STAFF = Contacts(
    channels={
        name: Channel(name, kind) for name, kind in (("terminal", "terminal"), ("mail", "smtp"), ("pager", "pagerduty"))
    }
)


def jobs(home: Path, own: str = "") -> dict[str, Job]:
    """Return the schedule of a home directory with that file."""
    home.mkdir(parents=True, exist_ok=True)
    (home / "schedule.toml").write_text(own, encoding="utf-8")
    return schedule.read(home, STAFF)


def due(job: Job, first: str, last: str, *deployed: str) -> list[tuple[str, str]]:
    """Return the due times between two days, both included, in New York's time zone, with the job keys."""
    window = Window(time_parsing.parse(f"{first}T00:00"), time_parsing.parse(f"{last}T23:59"))
    return [
        (f"{m.at.astimezone(NEW_YORK):%m-%d %H:%M}", job.made_at(m))
        for m in job.moments(window, [time_parsing.parse(d) for d in deployed])
    ]


def test_thanksgiving(home: Path) -> None:
    """There is no report on the holiday; after the early close on Friday it is due at 13:15."""
    found = jobs(home)
    assert due(found["daily-report"], "2025-11-26", "2025-11-30") == [
        ("11-26 16:15", "report daily 2025-11-26"),
        ("11-28 13:15", "report daily 2025-11-28"),
    ]
    assert [at for at, _ in due(found["hourly"], "2025-11-27", "2025-11-28")] == [
        f"11-28 {h}:00" for h in (10, 11, 12, 13)
    ]
    assert due(found["morning"], "2025-11-27", "2025-11-28") == [("11-28 09:00", "checklist morning 2025-11-28")]


def test_christmas_eve_and_the_new_year(home: Path) -> None:
    """Christmas Eve closes at 13:00; the first trading day of month, quarter and year is January 2nd."""
    found = jobs(home)
    assert due(found["daily-report"], "2025-12-24", "2025-12-26") == [
        ("12-24 13:15", "report daily 2025-12-24"),
        ("12-26 16:15", "report daily 2025-12-26"),
    ]
    for name, made in (("annual", "2025"), ("quarterly", "2025-Q4"), ("monthly", "2025-12")):
        assert [(at[:5], what) for at, what in due(found[f"{name}-report"], "2025-12-25", "2026-01-31")] == [
            ("01-02", f"report {name} {made}")
        ]
    assert due(found["weekly-report"], "2025-12-28", "2026-01-11") == [
        ("12-29 08:00", "report weekly 2025-W52"),
        ("01-05 08:00", "report weekly 2026-W01"),
    ]


def test_a_week_that_begins_with_a_holiday(home: Path) -> None:
    """If Monday is a holiday the weekly report is due on Tuesday; a month may end two days before its last day."""
    found = jobs(home, '[friday]\nruns = "report success"\nwhen = "17:00, last trading day of the month"')
    assert due(found["weekly-report"], "2026-01-17", "2026-01-23") == [("01-20 08:00", "report weekly 2026-W03")]
    assert due(found["friday"], "2026-01-01", "2026-02-28") == [
        ("01-30 17:00", "report success 2026-01-30"),
        ("02-27 17:00", "report success 2026-02-27"),
    ]


def test_the_clocks_change(home: Path) -> None:
    """A time that DST skips is one hour later, a repeated one occurs once; open and close move with DST."""
    found = jobs(
        home,
        '[night]\nruns = "notebook n.ipynb"\nwhen = "02:30, every day"\n[late]\nruns = "notebook n.ipynb"'
        '\nwhen = "01:30, every day"',
    )
    assert due(found["night"], "2026-03-07", "2026-03-09") == [
        ("03-07 02:30", "notebook night 2026-03-07"),
        ("03-08 03:30", "notebook night 2026-03-08"),
        ("03-09 02:30", "notebook night 2026-03-09"),
    ]
    window = Window(time_parsing.parse("2025-11-02T00:00"), time_parsing.parse("2025-11-02T23:00"))
    assert [m.at for m in found["late"].moments(window, [])] == [time_parsing.parse("2025-11-02T01:30-04:00")]
    closes = [
        m.at
        for m in found["daily-report"].moments(
            Window(time_parsing.parse("2026-03-06T00:00"), time_parsing.parse("2026-03-10T00:00")), []
        )
    ]
    assert closes == [time_parsing.parse("2026-03-06T21:15Z"), time_parsing.parse("2026-03-09T20:15Z")]


@pytest.fixture
def declared(home: Path) -> Path:
    """Yield a home directory whose settings may declare sessions; undo the declaration at the end."""
    yield home
    market_calendar.override_sessions({})


def test_a_declared_closure(declared: Path) -> None:
    """A declared closed day has no report, a declared early close has it early; reporting periods follow too."""
    declared.mkdir(parents=True)
    (declared / "settings.toml").write_text('[sessions]\n"2026-05-14" = "closed"\n"2026-05-15" = "12:00"\n')
    settings.load(declared)
    found = jobs(declared)
    assert due(found["daily-report"], "2026-05-13", "2026-05-15") == [
        ("05-13 16:15", "report daily 2026-05-13"),
        ("05-15 12:15", "report daily 2026-05-15"),
    ]
    assert [at for at, _ in due(found["hourly"], "2026-05-14", "2026-05-15")] == [
        "05-15 10:00",
        "05-15 11:00",
        "05-15 12:00",
    ]
    assert market_calendar.session(date(2026, 5, 15)).half and [
        s.day.day for s in periods.parse(periods.WEEK, "2026-W20").sessions
    ] == [11, 12, 13, 15]
    settings.load(declared, "demo")  # The demo has its own sessions.
    assert market_calendar.session(date(2026, 5, 14)) is not None


@pytest.mark.parametrize(
    "said", ['"2026-05-14" = "shut"', '"14 May" = "closed"', '"2026-05-14" = "16:30"', '"2026-05-14" = "12:00+02:00"']
)
def test_an_invalid_closure(declared: Path, said: str) -> None:
    """An invalid closure is rejected, and the message names its place."""
    declared.mkdir(parents=True)
    (declared / "settings.toml").write_text(f"[sessions]\n{said}\n")
    with pytest.raises(SettingsError, match=r"settings.toml, \[sessions\]: .*(2026-05-14|14 May)"):
        settings.load(declared)


def test_after_a_deployment(home: Path) -> None:
    """Checklists after a deployment are due at their offset on any day, each for its deployment."""
    found = jobs(home)
    assert due(found["post-deploy-1h"], "2026-03-06", "2026-03-07", "2026-03-06T17:45") == [
        ("03-06 18:45", "checklist post-deploy-1h after 2026-03-06T17:45:00")
    ]
    assert [at for at, _ in due(found["post-deploy-1w"], "2026-03-08", "2026-03-15", "2026-03-06T17:45")] == [
        "03-13 18:45"
    ]
    assert due(found["pre-deploy"], "2026-03-01", "2026-03-31", "2026-03-06T17:45") == []


def test_the_home_file_overrides_the_shipped_one(home: Path) -> None:
    """The file of the home directory overrides the shipped one key by key."""
    found = jobs(
        home, '[daily-report]\nwhen = "1 hour after the close"\ndeliver = ["mail"]\n[hourly]\nwhen = "by hand"'
    )
    assert due(found["daily-report"], "2026-03-10", "2026-03-10") == [("03-10 17:00", "report daily 2026-03-10")]
    assert (found["daily-report"].deliver, found["daily-report"].wait, found["daily-report"].severity) == (
        ("mail",),
        timedelta(minutes=10),
        "critical",
    )
    assert due(found["hourly"], "2026-03-10", "2026-03-10") == []


WRONG = [
    ('runs = "report dayly"', "runs is 'report dayly'"),
    ('runs = "report daily"\nwhen = "at noon"', "when is 'at noon'"),
    ('runs = "report daily"\nwhen = "25:00"', "when is '25:00'"),
    ('runs = "report daily"\nwhen = "08:00"\ngrase = "5m"', "Did you mean 'grace'"),
    ('runs = "report daily"\nwhen = "08:00"\ngrace = "soon"', "grace is 'soon'; a span of time"),
    ('runs = "report daily"\nwhen = "08:00"\nowner = "Tech Leed"', "Did you mean 'Tech Lead'"),
    ('runs = "report daily"\nwhen = "08:00"\nseverity = "loud"', "severity is 'loud'"),
    ('runs = "report daily"\nwhen = "08:00"\ndeliver = ["fax"]', "deliver names 'fax'"),
    ('runs = "report daily"\nwhen = "08:00"\ndeliver = ["pager"]', "accepts only alerts"),
    ('runs = "report daily"\nwhen = "08:00"\ncatch_up = "no"', "catch_up is 'no'"),
    ('runs = "report daily"\nwhen = "08:00"\nparameters = {a = 1}', "only a notebook can"),
    ('runs = "report daily"\nwhen = "08:00"\ntimeout = "2d"', "at most one day"),
    ('runs = "report daily"\nwhen = "3000 minutes after the close"', "when is"),
]


@pytest.mark.parametrize(("said", "why"), WRONG)
def test_an_invalid_value_is_rejected_by_its_place(home: Path, said: str, why: str) -> None:
    """An invalid value is rejected; the message names the place and what was expected."""
    with pytest.raises(SettingsError) as refused:
        jobs(home, f"[mine]\n{said}\n")
    assert why in str(refused.value) and "schedule.toml, [mine]:" in str(refused.value)


@given(
    st.datetimes(datetime(2025, 1, 2), datetime(2026, 12, 1)),
    st.lists(st.integers(1, 400_000), min_size=1, max_size=6),
    st.sampled_from(
        [
            "15 minutes after the close",
            "2 hours before the open",
            "02:30, every day",
            "01:30",
            "every hour while open",
            "08:00, first trading day of the week",
        ]
    ),
)
def test_windows_contain_each_occurrence_once(start: datetime, seconds: list[int], said: str) -> None:
    """Consecutive windows contain each occurrence of the whole window once, each with its own key."""
    job = Job("j", "notebook", "n.ipynb", said, triggers.parse(said))
    ends = [start.replace(tzinfo=NEW_YORK).astimezone(clock.EPOCH.tzinfo)]
    for span in seconds:
        ends.append(ends[-1] + timedelta(seconds=span))
    parts = [m for a, b in itertools.pairwise(ends) for m in job.moments(Window(a, b), [])]
    assert parts == job.moments(Window(ends[0], ends[-1]), []) == sorted(parts)
    assert len({job.made_at(m) for m in parts}) == len(parts)


def test_the_shipped_schedule_has_every_report_and_checklist(home: Path) -> None:
    """The shipped file has every report and checklist; each periodic report is for the last period that ended."""
    from opslib.runbooks import checklists

    found = jobs(home)
    assert {j.what for j in found.values() if j.kind == "report"} == {"daily", *periods.REPORTS}
    assert {j.what for j in found.values() if j.kind == "checklist"} == set(checklists.table())
    for job in (j for j in found.values() if j.kind == "report" and j.what in periods.REPORTS):
        for moment in job.moments(
            Window(time_parsing.parse("2025-01-02T00:00"), time_parsing.parse("2026-06-01T00:00")), []
        ):
            made = periods.parse(periods.REPORTS[job.what], job.of(moment.at))
            over = made.sessions[-1].closes if job.what == "success" else made.window.end
            assert over <= moment.at and moment.at.astimezone(NEW_YORK).time() >= time(8)
