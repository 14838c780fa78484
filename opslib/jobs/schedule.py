"""
Read and validate ``schedule.toml``: the jobs and when they are due.

The key of a job contains what it makes, not the time at which it is due. So a changed clock, a changed time in the file
or a second scheduler does not run a job twice. Times are in New York's time zone. A time that DST skips is one hour
later; a time that DST repeats is the first of the two.
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
    """A time at which a job is due; `key` identifies it among the job's occurrences, whatever the time is set to."""

    at: datetime
    key: str


@dataclass(frozen=True, slots=True)
class Job:
    """
    A job of the schedule.

    Attributes:
        name: The name of its table.
        kind, what: The kind (report, checklist or notebook), and its name.
        when_text: When it is due, as written in the file.
        when: The same, parsed.
        parameters: The parameters of a notebook.
        wait: How long a daily report waits for the last expected snapshot.
        grace: How long after its due time it becomes late.
        timeout: The timeout of its notebook.
        owner, severity: The role that is notified when it fails or is late, and the severity of that alert.
        catch_up: Whether it runs even if it is late.
        deliver: The channels to which its result is sent.
    """

    name: str
    kind: str
    what: str
    when_text: str
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
        """Return the name of the job key of an occurrence."""
        if self.kind == REPORT:
            return f"{REPORT} {self.what} {self.of(moment.at)}"
        return f"{self.kind} {self.what if self.kind == CHECKLIST else self.name} {moment.key}"

    def of(self, at: datetime) -> str:
        """Return the day or period of the report that is due at a time: the last one that has ended."""
        return (
            str(market_calendar.last_closed(at).day)
            if self.what == DAILY
            else periods.last_over(periods.REPORTS[self.what], at).name
        )

    def moments(self, window: Window, deployed: Iterable[datetime]) -> list[Occurrence]:
        """
        Return the occurrences of the job within a window, in order.

        Args:
            window: The window, (start, end].
            deployed: The times of deployments.
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
    """Return the occurrences of a trigger on a day."""
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


def read(home: Path, contacts: Contacts) -> dict[str, Job]:
    """
    Return the jobs of the shipped file, overridden by ``schedule.toml`` in the home directory.

    Raises:
        SettingsError: The file is invalid; the message lists every problem with its place.
    """
    shipped = tomllib.loads(resources.files("opslib.jobs").joinpath(NAME).read_text(encoding="utf-8"))
    own = documents.read(home / NAME)
    known = {
        "roles": PATH,
        "severities": SEVERITIES,
        "kinds": (REPORT, CHECKLIST, NOTEBOOK),
        "reports": (DAILY, *periods.REPORTS),
        "channels": {name: channel.kind for name, channel in contacts.channels.items()},
    }

    def problems() -> list[str]:
        from opslib.jobs import schedule_form

        return schedule_form.problems(shipped, own.table, str(own.path), known)

    own.validate(_FORM, {**known, "shipped": shipped}, problems)
    return {name: _job(name, shipped.get(name, {}) | own.table.get(name, {})) for name in {**shipped, **own.table}}


def _job(name: str, table: dict[str, Any]) -> Job:
    """Build a job from a valid table of the schedule."""
    kind, _, what = table["runs"].partition(" ")
    when = triggers.parse(table["when"])
    assert when is not None
    others: dict[str, Any] = {
        key: table[key] for key in ("parameters", "owner", "severity", "catch_up") if key in table
    }
    others |= {key: time_parsing.parse_span(table[key]) for key in ("wait", "grace", "timeout") if key in table}
    return Job(name, kind, what, table["when"], when, **others, deliver=tuple(table.get("deliver", ())))
