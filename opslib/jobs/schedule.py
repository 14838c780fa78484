"""
Read ``schedule.toml``, strictly: what is to be made when.

What is due carries the name of what it makes, never the time at which it is due. So a clock that was moved, another
time in the file or another scheduler makes nothing twice. Times are New York's: one that DST skips is the hour after,
one that it repeats is the first of the two.
"""

import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from opslib.foundation import clock, formatting, market_calendar, periods, time_parsing
from opslib.foundation.clock import Window
from opslib.foundation.config.contacts import Contacts
from opslib.foundation.config.rules import PATH
from opslib.foundation.config.settings import toml
from opslib.foundation.errors import SettingsError, UsageError
from opslib.foundation.formatting import NEW_YORK

NAME = "schedule.toml"
REPORT, CHECKLIST, NOTEBOOK = "report", "checklist", "notebook"
DAILY = "daily"
BY_HAND = "by hand"
SEVERITIES = ("warning", "notify", "critical")
FARTHEST = timedelta(days=1)  # From the open or the close; what is further is of another day.
TIMEOUT = timedelta(minutes=15)
KEYS = ("runs", "when", "parameters", "wait", "grace", "timeout", "owner", "severity", "catch_up", "deliver")
_UNITS = {
    "minute": timedelta(minutes=1),
    "hour": timedelta(hours=1),
    "day": timedelta(days=1),
    "week": timedelta(days=7),
}
_DAYS = (
    r"(?:, (?:(?P<every>every day)|trading days|(?P<end>first|last) trading day of the (?P<of>week|month"
    r"|quarter|year)))?"
)
_ANCHORED = re.compile(
    r"(?:at|(?P<n>\d{1,4}) (?P<unit>minute|hour)s? (?P<side>before|after)) the (?P<anchor>open|close)" + _DAYS
)
_TIMED = re.compile(r"(?P<time>(?:[01]\d|2[0-3]):[0-5]\d)" + _DAYS)
_DEPLOYED = re.compile(r"(?P<n>\d{1,3}) (?P<unit>minute|hour|day|week)s? after a deploy")
_HOURLY = "every hour while open"


class Trigger(NamedTuple):
    """
    When something is due.

    Attributes:
        kind: open, close, time, hourly, deploy, hand.
        offset: From the open, the close or a deployment.
        at: Of `time`: New York's.
        every: Of `time`: also on days without a session.
        end, of: Only on the first or last trading day of a week, month, quarter or year; empty is each.
    """

    kind: str
    offset: timedelta = timedelta()
    at: time = time()
    every: bool = False
    end: str = ""
    of: str = ""


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
                for at, by in ((window.start, -2 * FARTHEST), (window.end, 2 * FARTHEST))
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


def _when(said: str) -> Trigger | None:
    if said == BY_HAND:
        return Trigger("hand")
    if said == _HOURLY:
        return Trigger("hourly")
    if found := _DEPLOYED.fullmatch(said):
        return Trigger("deploy", int(found["n"]) * _UNITS[found["unit"]])
    if (found := _ANCHORED.fullmatch(said)) and not found["every"]:
        offset = int(found["n"] or 0) * _UNITS[found["unit"] or "minute"]
        return (
            Trigger(
                found["anchor"],
                -offset if found["side"] == "before" else offset,
                end=found["end"] or "",
                of=found["of"] or "",
            )
            if offset <= FARTHEST
            else None
        )
    if found := _TIMED.fullmatch(said):
        return Trigger(
            "time",
            at=time.fromisoformat(found["time"]),
            every=bool(found["every"]),
            end=found["end"] or "",
            of=found["of"] or "",
        )
    return None


def read(home: Path, staff: Contacts) -> dict[str, Job]:
    """
    What is made when: the shipped file, with ``schedule.toml`` of a home over it.

    Raises:
        SettingsError: What stands there cannot be meant; named by its place.
    """
    path, shipped = (
        home / NAME,
        tomllib.loads(resources.files("opslib.jobs").joinpath(NAME).read_text(encoding="utf-8")),
    )
    own = toml(path)

    def wrong(where: str, what: str) -> NoReturn:
        raise SettingsError(f"{path}, {where}: {what}")

    for name, told in own.items():
        if not isinstance(told, dict):
            wrong(name, "a table such as [morning] was wanted.")
        if not re.fullmatch(r"[a-z][a-z0-9-]{0,39}", name):
            wrong(name, "a job's name is lower-case letters, digits and -.")
    return {
        name: _job(name, shipped.get(name, {}) | own.get(name, {}), staff, wrong)
        for name in [*shipped, *(n for n in own if n not in shipped)]
    }


def _job(name: str, told: dict[str, Any], staff: Contacts, wrong: Any) -> Job:
    for key in told:
        if key not in KEYS:
            wrong(name, f"{key!r} is nothing that a job has; it has {', '.join(KEYS)}.{formatting.nearest(key, KEYS)}")
    kind, _, what = str(told.get("runs", "")).partition(" ")
    reports = (DAILY, *periods.REPORTS)
    if kind not in (REPORT, CHECKLIST, NOTEBOOK) or not what or (kind == REPORT and what not in reports):
        wrong(
            name,
            f"runs is {told.get('runs')!r}; report {', '.join(reports)}, checklist NAME or notebook PATH was wanted.",
        )
    said = str(told.get("when", ""))
    when = _when(said)
    if when is None:
        wrong(
            name,
            f"when is {said!r}; such as 15 minutes after the close, 08:00 every day, or 09:00, first trading "
            f"day of the month was wanted (see the shipped file's head).",
        )
    spans = {}
    for key in ("wait", "grace", "timeout"):
        if key in told:
            try:
                spans[key] = time_parsing.parse_span(str(told[key]))
            except UsageError as problem:
                wrong(name, f"{key}: {problem}")
    if spans.get("timeout", TIMEOUT) > timedelta(days=1):
        wrong(name, f"timeout is {told['timeout']}; up to a day was wanted.")
    if (owner := told.get("owner", "Tech Lead")) not in PATH:
        wrong(name, f"owner is {owner!r}; there are: {', '.join(PATH)}.{formatting.nearest(str(owner), PATH)}")
    if (severity := told.get("severity", "notify")) not in SEVERITIES:
        wrong(name, f"severity is {severity!r}; it may be {', '.join(SEVERITIES)}.")
    if not isinstance(catch_up := told.get("catch_up", True), bool):
        wrong(name, f"catch_up is {catch_up!r}; true or false was wanted.")
    deliver, parameters = told.get("deliver", []), told.get("parameters", {})
    if not isinstance(deliver, list) or any(c not in staff.channels for c in deliver):
        wrong(name, f"deliver is {deliver!r}; a list of channels was wanted; there are: {', '.join(staff.channels)}.")
    if wordless := [c for c in deliver if staff.channels[c].kind in ("pagerduty", "alertmanager")]:
        wrong(name, f"deliver names {wordless[0]!r}, which takes alerts and no words.")
    if not isinstance(parameters, dict) or (parameters and kind != NOTEBOOK):
        wrong(name, "parameters is a table, and of a notebook.")
    return Job(
        name,
        kind,
        what,
        said,
        when,
        parameters,
        owner=owner,
        severity=severity,
        catch_up=catch_up,
        deliver=tuple(deliver),
        **spans,
    )
