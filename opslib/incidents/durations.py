"""
Measure how long an incident lasted: by the minute, until its alert was over, and until it was resolved.

The three differ, and each is right: an alert looks back over its window, so it may end after the problem, and a person
resolves the incident at yet another time. All are computed from the record alone.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from opslib.foundation import clock, formatting, time_parsing
from opslib.foundation.storage.snapshot_columns import PROVIDERS
from opslib.incidents.evidence import Entry
from opslib.incidents.incident import Incident

METRICS = "metrics"  # The name of the evidence that holds the metrics by the minute.


class Result(NamedTuple):
    """The result of a formula: a value, for a share its part and count, and why it is None."""

    value: float | int | None
    part: int | None = None
    count: int | None = None  # type: ignore[assignment]  # The method `count` of the tuple is not used.
    why: str = ""


class Duration(NamedTuple):
    """
    One of the durations of an incident.

    Attributes:
        label: What it measures.
        seconds: None if it is unknown.
        since_us: When it starts; microseconds since 1970.
        until_us: When it ends; None if it has not ended, or is unknown.
        starts: What starts it.
        ends: What ends it.
        evidence: The ids of the entries that show it.
        note: What it counts, in a few words.
    """

    label: str
    seconds: float | None
    since_us: int | None
    until_us: int | None
    starts: str
    ends: str
    evidence: tuple[str, ...]
    note: str

    @property
    def span(self) -> str:
        """From when to when, New York: to the minute if it takes two minutes or more; empty if it is unknown."""
        if self.since_us is None or self.until_us is None:
            return ""
        short = self.until_us - self.since_us < 120 * clock.SECOND
        at, form = (clock.instant, "%H:%M:%S") if short else (to_the_minute, "%H:%M")
        first, last = (at(us).astimezone(formatting.NEW_YORK) for us in (self.since_us, self.until_us))
        return f"{first:{form}}–{last:{form}}"


def span(incident: Incident) -> tuple[int | None, int | None]:
    """
    Return the beginning of an incident and the end of its alerts in microseconds.

    The end is the end of the alerts of its own rule and subject, since inhibited alerts last longer; without such
    alerts it is the time at which the incident was resolved. None if unknown, or not resolved.
    """
    began = incident.times["began"].at_us or incident.times["detected"].at_us
    mine = _own_alerts(incident)
    over = [
        e.at_us
        for e in incident.of_kind("alert")
        if e.body["alert"] in mine and e.body["kind"] in ("resolved", "ended")
    ]
    ended = max(over) if over and not set(mine) & set(incident.firing) else incident.times["resolved"].at_us
    return began, ended if began is None or ended is None or ended > began else began


def end(incident: Incident) -> str:
    """Return what the end of `span` is: ``the alert was resolved``, without alerts of its own the incident."""
    mine = _own_alerts(incident)
    if not mine:
        return "the incident was resolved"
    over = [e.body["kind"] for e in incident.of_kind("alert") if e.body["alert"] in mine]
    return "the alert ended" if over[-1] == "ended" else "the alert was resolved"


def _own_alerts(incident: Incident) -> list[str]:
    """Return the ids of the alerts of its own rule and subject that fired."""
    return [
        e.body["alert"]
        for e in incident.of_kind("alert")
        if (e.body["rule"], e.body["subject"]) == (incident.rule, incident.subject)
        and e.body["kind"] in ("fired", "rose")
    ]


def metrics(incident: Incident) -> Entry | None:
    """Return the newest evidence of the metrics; None if none was captured."""
    return next((e for e in reversed(incident.of_kind("evidence")) if e.body.get("name") == METRICS), None)


def rows_during(content: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the rows of the metrics from the beginning to the end of the incident."""
    began, ended = content["began"], content["ended"] or content["until"]
    step = timedelta(seconds=content["step_s"])
    return [
        r
        for r in content["rows"]
        if time_parsing.parse(r["at"]) > time_parsing.parse(began)
        and time_parsing.parse(r["at"]) - step < time_parsing.parse(ended)
    ]


def minutes_past(content: Mapping[str, Any], about: str) -> Result:
    """
    Return the minutes in which a provider's availability, as counted by the app's page, was below a threshold.

    The total is the minutes with requests to the provider.

    Args:
        about: The provider and the threshold, such as ``massive/critical``.
    """
    busy, below = _past(content, about)
    if not busy:
        return Result(None, why="no requests were counted")
    per = content["step_s"] / 60
    return Result(round(len(below) * per, 2), round(len(below) * per), round(len(busy) * per))


def _past(content: Mapping[str, Any], about: str) -> tuple[list[Mapping[str, Any]], list[Mapping[str, Any]]]:
    """Return the rows with requests to a provider, and those of them below a threshold."""
    provider, severity = about.split("/")
    limit = content["limits"]["availability"][severity]
    busy = [r for r in rows_during(content) if r[f"{provider}_requests"]]
    below = [
        r for r in busy if (r[f"{provider}_requests"] - r[f"{provider}_failures"]) / r[f"{provider}_requests"] < limit
    ]
    return busy, below


def measure(incident: Incident) -> list[Duration]:
    """Return how long an incident lasted: by what failed if that was measured, by its alert, by its handling."""
    return [*_below(incident), *_until_alert_ended(incident), _until_resolved(incident)]


def _below(incident: Incident) -> list[Duration]:
    """Return the minutes below the critical threshold; nothing without any, or for what is not a provider."""
    entry, name = metrics(incident), incident.subject
    if entry is None or name not in PROVIDERS:
        return []
    content = entry.body["content"]
    below = _past(content, f"{name}/critical")[1]
    if not below:
        return []
    step_s, limit = content["step_s"], formatting.ratio(content["limits"]["availability"]["critical"], 0)
    each = "minute" if step_s == 60 else formatting.duration(step_s)
    first, last = (clock.micros(time_parsing.parse(r["at"])) for r in (below[0], below[-1]))
    return [
        Duration(
            f"below {limit} availability",
            float(len(below) * step_s),
            first - step_s * clock.SECOND,
            last,
            f"the first {each} in which fewer than {limit} of the requests to {name.title()} succeeded, counted by the "
            f"app's page",
            f"the last such {each}; only {each}s below {limit} are counted",
            (entry.id,),
            f"counted per {each} by the app's page",
        )
    ]


def _until_alert_ended(incident: Incident) -> list[Duration]:
    """Return the time to the end of the alerts; nothing for an incident without alerts of its own."""
    mine, (began, ended) = _own_alerts(incident), span(incident)
    if not mine:
        return []
    over = [e for e in incident.of_kind("alert") if e.body["alert"] in mine and e.body["kind"] in ("resolved", "ended")]
    active = not over or bool(set(mine) & set(incident.firing))
    until = None if active else ended
    fired = next(e.body for e in incident.of_kind("alert") if e.body["alert"] in mine)
    # A share or a rate is of the events in the window, so it stays beyond its threshold until the trouble has left it.
    is_rate = any(sign in str(fired.get("sentence")) for sign in ("%", "per h"))
    window = formatting.duration(fired["window_s"]) if is_rate and fired.get("window_s") else ""
    back = f"; they look back over {window}, so they may end after the problem" if window else ""
    return [
        Duration(
            f"until {end(incident)}",
            None if began is None or until is None else (until - began) / clock.SECOND,
            began,
            until,
            _beginning(incident),
            f"the end of the incident's own alerts{back}",
            tuple(filter(None, (incident.times["began"].evidence, over[-1].id if not active else ""))),
            f"the alert looks back over {window}" if window else "the incident's own alerts",
        )
    ]


def _until_resolved(incident: Incident) -> Duration:
    """Return the time until somebody resolved the incident."""
    began, resolved = incident.times["began"], incident.times["resolved"]
    known = began.at_us is not None and resolved.at_us is not None
    return Duration(
        "until the incident was resolved",
        (resolved.at_us - began.at_us) / clock.SECOND if known else None,  # type: ignore[operator]
        began.at_us,
        resolved.at_us,
        _beginning(incident),
        "a responder resolved it" if known else resolved.source,
        tuple(filter(None, (began.evidence, resolved.evidence))),
        "a responder resolved it",
    )


def _beginning(incident: Incident) -> str:
    """Return what the beginning of an incident rests on, such as ``first failed probe of massive``."""
    began = incident.times["began"]
    if began.at_us is None:
        return "the detection: the beginning is unknown"
    if began.source.startswith("alert "):
        return "the value crosses the threshold of the alert"
    return began.source.partition(";")[0]


def to_the_minute(at_us: int) -> datetime:
    """Return an instant (microseconds since 1970) rounded to the minute, UTC."""
    return clock.instant(round(at_us / (60 * clock.SECOND)) * 60 * clock.SECOND)


def exact(seconds: float) -> str:
    """Format a duration to the second; from one hour on, to the minute."""
    return formatting.duration(seconds) if seconds < 3600 else rounded(seconds)


def rounded(seconds: float) -> str:
    """Format a duration; from two minutes on, to the minute."""
    return formatting.duration(round(seconds / 60) * 60 if seconds >= 120 else seconds)
