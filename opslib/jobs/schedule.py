"""
Read ``schedule.toml``, strictly: what is to be made when.

What is due carries the name of what it makes, never the time at which it is due. So a clock that was moved, another
time in the file or another scheduler makes nothing twice. Times are New York's: one that DST skips is the hour after,
one that it repeats is the first of the two.
"""

import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

from opslib.foundation import clock, market_calendar, periods, time_parsing
from opslib.foundation.clock import Window
from opslib.foundation.config import documents
from opslib.foundation.config.contacts import Contacts
from opslib.foundation.config.rules import PATH
from opslib.foundation.formatting import NEW_YORK
from opslib.jobs import triggers
from opslib.jobs.triggers import Trigger

NAME = "schedule.toml"
REPORT, CHECKLIST, NOTEBOOK = "report", "checklist", "notebook"
DAILY = "daily"
SEVERITIES = ("warning", "notify", "critical")
TIMEOUT = timedelta(minutes=15)
_FORM = Path(__file__).with_name("schedule_form.py")


class Occurrence(NamedTuple):
    """One moment at which a job is due; `key` tells it from the others of the job, whatever time it is set to."""

    at: datetime
    key: str


@dataclass(frozen=True, slots=True)
class Job:
    """
    Something that is made again and again.

    Attributes:
        name: Its table's.
        kind, what: report, checklist or notebook; and which.
        said: When it is due, as the file says it.
        parameters: Of a notebook.
        wait: How long it waits for the last look that is expected, where it is of a day.
        grace: From so long after it was due it is late.
        timeout: How long its notebook may take.
        owner, severity: Who is told when it fails or is late, and how loud.
        catch_up: Is it made though it is late?
        deliver: By which channels what was made is sent.
    """

    name: str
    kind: str
    what: str
    said: str
    when: Trigger
    parameters: Mapping[str, Any] = field(default_factory=dict)
    wait: timedelta = timedelta()
    grace: timedelta = timedelta(hours=1)
    timeout: timedelta = TIMEOUT
    owner: str = "Tech Lead"
    severity: str = "notify"
    catch_up: bool = True
    deliver: tuple[str, ...] = ()

    def made_at(self, moment: Occurrence) -> str:
        """What is made at a moment, by its name in the ledger."""
        if self.kind == REPORT:
            return f"{REPORT} {self.what} {self.of(moment.at)}"
        return f"{self.kind} {self.what if self.kind == CHECKLIST else self.name} {moment.key}"

    def of(self, at: datetime) -> str:
        """Of which day or period is the report that is due at a moment? The last that is over."""
        return (
            str(market_calendar.last_closed(at).day)
            if self.what == DAILY
            else periods.last_over(periods.REPORTS[self.what], at).name
        )

    def moments(self, window: Window, deployed: Iterable[datetime]) -> list[Occurrence]:
        """
        When is it due within a window, in order?

        Args:
            deployed: When something was deployed.
        """
        if self.when.kind == "hand":
            found: Iterator[Occurrence] = iter(())
        elif self.when.kind == "deploy":
            found = (
                Occurrence(at + self.when.offset, f"after {at.astimezone(NEW_YORK):%Y-%m-%dT%H:%M:%S}")
                for at in deployed
            )
        else:
            first, last = (
                (at + by).astimezone(NEW_YORK).date()
                for at, by in ((window.start, -2 * triggers.FARTHEST), (window.end, 2 * triggers.FARTHEST))
            )
            found = (m for n in range((last - first).days + 1) for m in _of_day(self.when, first + timedelta(days=n)))
        return sorted(m for m in found if window.start < m.at <= window.end)


def _of_day(when: Trigger, day: date) -> list[Occurrence]:
    """When is it due on a day?"""
    session = market_calendar.session(day)
    if session is None:
        return (
            [Occurrence(datetime.combine(day, when.at, NEW_YORK).astimezone(clock.EPOCH.tzinfo), str(day))]
            if when.every
            else []
        )
    if when.end:
        period = periods.of(when.of, day)
        others = (
            (period.first, day) if when.end == "first" else (day + timedelta(days=1), period.last + timedelta(days=1))
        )
        if any(market_calendar.session(others[0] + timedelta(days=n)) for n in range((others[1] - others[0]).days)):
            return []
    match when.kind:
        case "hourly":
            hours = [datetime.combine(day, time(hour), NEW_YORK).astimezone(clock.EPOCH.tzinfo) for hour in range(24)]
            return [
                Occurrence(at, f"{at.astimezone(NEW_YORK):%Y-%m-%dT%H}")
                for at in hours
                if session.opens < at <= session.closes
            ]
        case "time":
            return [Occurrence(datetime.combine(day, when.at, NEW_YORK).astimezone(clock.EPOCH.tzinfo), str(day))]
    return [Occurrence((session.opens if when.kind == "open" else session.closes) + when.offset, str(day))]


def read(home: Path, staff: Contacts) -> dict[str, Job]:
    """
    What is made when: the shipped file, with ``schedule.toml`` of a home over it.

    Raises:
        SettingsError: What stands there cannot be meant; every problem with its place.
    """
    shipped = tomllib.loads(resources.files("opslib.jobs").joinpath(NAME).read_text(encoding="utf-8"))
    own = documents.read(home / NAME)
    known = {
        "roles": PATH,
        "severities": SEVERITIES,
        "kinds": (REPORT, CHECKLIST, NOTEBOOK),
        "reports": (DAILY, *periods.REPORTS),
        "channels": {name: channel.kind for name, channel in staff.channels.items()},
    }

    def problems() -> list[str]:
        from opslib.jobs import schedule_form

        return schedule_form.problems(shipped, own.table, str(own.path), known)

    own.validate(_FORM, {**known, "shipped": shipped}, problems)
    return {name: _job(name, shipped.get(name, {}) | own.table.get(name, {})) for name in {**shipped, **own.table}}


def _job(name: str, told: dict[str, Any]) -> Job:
    """One valid table of the schedule."""
    kind, _, what = told["runs"].partition(" ")
    when = triggers.parse(told["when"])
    assert when is not None
    others: dict[str, Any] = {key: told[key] for key in ("parameters", "owner", "severity", "catch_up") if key in told}
    others |= {key: time_parsing.parse_span(told[key]) for key in ("wait", "grace", "timeout") if key in told}
    return Job(name, kind, what, told["when"], when, **others, deliver=tuple(told.get("deliver", ())))
