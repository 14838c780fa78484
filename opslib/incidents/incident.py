"""
Read an incident off its record: its owner, its severity over time, its five times, and what happened in order.

The record is the only truth: nothing about an incident is kept anywhere else, so whoever folds it finds the same.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from opslib.foundation import clock, formatting, time_parsing
from opslib.foundation.config.rules import SENT, SEVERITIES
from opslib.foundation.errors import IncidentError
from opslib.incidents.evidence import Entry

TIMES = ("began", "detected", "acknowledged", "mitigated", "resolved")
GRID_S = 5.0  # Alerts are judged on a grid of so many seconds: no time of theirs is more precise.
OVER = ("resolved", "ended")
CLOSED = ("resolved", "dismissed", "merged")
REASONS = ("false alarm", "duplicate")


class Time(NamedTuple):
    """
    One of the five times.

    Attributes:
        at_us: Microseconds since 1970; None is unknown.
        source: What shows it, for people.
        precision_s: It is right to within so many seconds; None where it is unknown.
        evidence: The entry that has it; empty where it is unknown.
    """

    at_us: int | None
    source: str
    precision_s: float | None = None
    evidence: str = ""

    def __repr__(self) -> str:
        if self.at_us is None:
            return f"{formatting.UNKNOWN} ({self.source})"
        within = f", to within {formatting.duration(self.precision_s)}" if self.precision_s else ""
        return f"{formatting.moment(clock.instant(self.at_us))} ({self.source}{within}; {self.evidence})"


class StepRecord(NamedTuple):
    """
    How a step of a runbook stands.

    Attributes:
        state: seen, judged, skipped, intended, done, rehearsed, failed, undone.
        entry: The newest entry about it.
        intended: Of a changing step, the intention that it belongs to.
    """

    state: str
    entry: Entry
    intended: Entry | None = None


@dataclass
class Incident:
    """
    What people do about one or more alerts.

    Attributes:
        id: Its day in New York and its number on that day, such as ``2026-03-10-1``.
        entries: Its record, in order.
        status: open, mitigated, resolved, dismissed or merged.
        holder: Who holds it now; empty is nobody.
        alerts: Those it is about: by id, how each stands (pending, firing, unknown, resolved, ended).
        levels: The severities that each of its alerts is at now, but for what another explains away.
        severities: (since when in microseconds, severity, why), in order.
        into: The incident it was merged into.
        steps: How each step stands, by runbook and step.
    """

    id: str
    entries: list[Entry]
    title: str = ""
    rule: str = ""
    subject: str = "app"
    runbook: str = "incident"
    about: str = ""
    status: str = "open"
    holder: str = ""
    into: str = ""
    people: list[str] = field(default_factory=list)
    alerts: dict[str, str] = field(default_factory=dict)
    levels: dict[str, list[str]] = field(default_factory=dict)
    severities: list[tuple[int, str, str]] = field(default_factory=list)
    times: dict[str, Time] = field(default_factory=dict)
    steps: dict[tuple[str, str], StepRecord] = field(default_factory=dict)
    written: dict[str, Entry] = field(default_factory=dict)
    document: str = ""

    @property
    def head(self) -> Entry:
        """The newest entry: its digest stands for the whole record."""
        return self.entries[-1]

    @property
    def severity(self) -> str:
        """How bad it is now."""
        return self.severities[-1][1] if self.severities else "notify"

    @property
    def peak(self) -> str:
        """How bad it was at its worst."""
        return max((severity for _, severity, _ in self.severities), key=SEVERITIES.index, default=self.severity)

    @property
    def current(self) -> str:
        """How bad it is now: none where each of its alerts is over."""
        return "none" if self.levels and not any(self.levels.values()) else self.severity

    def limit(self, severity: str = "") -> float | None:
        """Past which limit was its alert told of last, at that severity (empty: at any)? None where none was told."""
        told = [
            e.body
            for e in self.of_kind("alert", "opened")
            if (e.body.get("rule"), e.body.get("subject")) == (self.rule, self.subject)
            and severity in ("", e.body.get("severity"))
        ]
        return next((body["limit"] for body in reversed(told) if body.get("limit") is not None), None)

    @property
    def firing(self) -> list[str]:
        """Which of its alerts are not over?"""
        return [name for name, state in self.alerts.items() if state in ("firing", "unknown")]

    @property
    def since_us(self) -> int:
        """From when its clock runs: when it was detected, else opened."""
        return self.times["detected"].at_us or self.entries[0].at_us

    def find(self, name: str) -> Entry:
        """
        The entry that is cited as ``E7``.

        Raises:
            IncidentError: It has none of that name.
        """
        found = next((e for e in self.entries if e.id == name), None)
        if found is None:
            raise IncidentError(f"incident {self.id} has no entry {name!r}; it has E1 to {self.head.id}.")
        return found

    def of_kind(self, *kinds: str) -> list[Entry]:
        """Its entries of some kinds, in order."""
        return [e for e in self.entries if e.kind in kinds]

    @property
    def timeline(self) -> list[Entry]:
        """What happened, in the order in which it did; what was written down later stands where it belongs."""
        return sorted(
            (e for e in self.entries if e.kind not in ("joined", "evidence", "written", "published")),
            key=lambda e: (e.at_us, e.seq),
        )

    def as_json(self) -> dict[str, Any]:
        """For a program."""

        def at(us: int | None) -> str | None:
            return None if us is None else formatting.iso(clock.instant(us))

        return {
            "id": self.id,
            "title": self.title,
            "status": self.status,
            "severity": self.severity,
            "current_severity": self.current,
            "peak_severity": self.peak,
            "rule": self.rule or None,
            "subject": self.subject,
            "runbook": self.runbook,
            "holder": self.holder or None,
            "people": self.people,
            "alerts": [{"alert": name, "state": state} for name, state in self.alerts.items()],
            "merged_into": self.into or None,
            "severities": [
                {"since": at(us), "severity": severity, "why": why} for us, severity, why in self.severities
            ],
            "times": {
                name: {
                    "at": at(t.at_us),
                    "source": t.source,
                    "precision_s": t.precision_s,
                    "evidence": t.evidence or None,
                }
                for name, t in self.times.items()
            },
            "entries": len(self.entries),
            "head": self.head.digest,
            "postmortem": self.document or None,
        }

    def __repr__(self) -> str:
        lines = [
            f"{self.id}: {self.title}",
            f"  {self.status}, {self.severity}; held by {self.holder or 'nobody'}; runbook {self.runbook}",
        ]
        lines += [f"  {name}: {found!r}" for name, found in self.times.items()]
        return "\n".join([*lines, "", *(row(e) for e in self.timeline)])


def row(entry: Entry) -> str:
    """One line of a timeline: time in UTC, who, what, and the entry that has it."""
    who = f"{entry.by}: " if entry.by else ""
    return f"  {clock.instant(entry.at_us):%H:%M:%S} UTC  {who}{words(entry)}  [{entry.id}]"


def words(entry: Entry) -> str:
    """What an entry says, on one line."""
    return formatting.single_line(str(entry.body.get("words") or entry.kind), 300)


def from_entries(name: str, entries: Iterable[Entry]) -> Incident:
    """
    What is an incident, by its record?

    Raises:
        IncidentError: The record does not begin with its opening, or an entry is not what its kind says.
    """
    found = Incident(name, list(entries))
    if not found.entries or found.entries[0].kind != "opened":
        raise IncidentError(f"the record of incident {name} does not begin with its opening.")
    unknown = {
        "began": "nobody and nothing says when",
        "detected": "no alert fired, and nobody said so",
        "acknowledged": "nobody has taken it",
        "mitigated": "nobody said so",
        "resolved": "it is not over",
    }
    found.times = {which: Time(None, why) for which, why in unknown.items()}
    for entry in found.entries:
        if entry.by and entry.by not in found.people:
            found.people.append(entry.by)
        try:
            _take(found, entry, unknown)
        except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as problem:
            raise IncidentError(
                f"entry {entry.id} of the record of incident {formatting.single_line(name, 60)} is damaged "
                f"({type(problem).__name__}: {formatting.single_line(str(problem), 60)}). ops verify names what was "
                f"edited in it."
            ) from problem
    return found


def _take(found: Incident, entry: Entry, unknown: dict[str, str]) -> None:
    body = entry.body

    def time(which: str, source: str, precision_s: float, at_us: int | None = None, first: bool = False) -> None:
        known = found.times[which].at_us
        when_us = entry.at_us if at_us is None else at_us
        if known is None or not first or when_us < known:
            found.times[which] = Time(when_us, source, precision_s, entry.id)

    match entry.kind:
        case "opened":
            found.title, found.rule, found.subject = body["title"], body.get("rule", ""), body.get("subject", "app")
            found.runbook, found.about = body.get("runbook") or "incident", body.get("about", "")
            found.severities.append((entry.at_us, body.get("severity", "notify"), "as it was opened"))
            if not body.get("alert"):
                time("detected", f"opened by {entry.by or 'hand'}", 60.0)
        case "alert":
            _alert(found, entry, time)
        case "acknowledged":
            time("acknowledged", f"{entry.by} took it", 1.0, first=True)
            found.holder = found.holder or entry.by
        case "handover":
            found.holder = body["to"]
            time("acknowledged", f"{body['to']} holds it", 1.0, first=True)
        case "severity":
            found.severities.append((entry.at_us, body["severity"], body.get("why", "")))
        case "time":
            found.times[body["which"]] = Time(
                clock.micros(time_parsing.parse(body["at"])) if body["at"] else None,
                body["source"],
                body["precision_s"],
                entry.id,
            )
        case "mitigated":
            found.status = "mitigated" if found.status == "open" else found.status
            time("mitigated", f"{entry.by} said so", 60.0)
        case "resolved":
            found.status = "resolved"
            time("resolved", f"{entry.by} said so", 60.0)
        case "reopened":
            found.status, found.into, found.document = "open", "", ""
            found.times["resolved"] = Time(None, unknown["resolved"])
        case "dismissed":
            found.status = "dismissed"
        case "merged":
            found.status, found.into = "merged", body["into"]
        case "step":
            key, state = (body["runbook"], body["step"]), body["state"]
            before = found.steps.get(key)
            intended: Entry | None = None
            if state == "intended":
                intended = entry
            elif before and state in ("done", "failed", "rehearsed", "undone"):
                intended = before.intended
            found.steps[key] = StepRecord(state, entry, intended)
            if state == "done" and body.get("mitigates"):
                found.status = "mitigated" if found.status == "open" else found.status
                time("mitigated", f"step {body['step']} was done", 1.0, first=True)
        case "written":
            found.written[body["section"]] = entry
        case "document":
            found.document = body["status"]


def _alert(found: Incident, entry: Entry, time: Any) -> None:
    """What a change of one of its alerts means for it."""
    body, kind = entry.body, entry.body["kind"]
    found.alerts[body["alert"]] = {"pending": "pending", "dropped": "ended", "unknown": "unknown"}.get(
        kind, kind if kind in OVER else "firing"
    )
    if kind in ("fired", "rose") and body["severity"] in SENT:
        time("detected", f"alert {body['alert']}", GRID_S, first=True)
    if kind in ("fired", "rose"):
        pending_us = clock.micros(time_parsing.parse(body["pending_at"]))
        known = found.times["began"]
        if known.at_us is None or (known.source.startswith("alert ") and pending_us < known.at_us):
            found.times["began"] = Time(
                pending_us,
                f"alert {body['alert']} was past its limit; it began before that, by up to its window",
                body["window_s"],
                entry.id,
            )
    levels = found.levels.setdefault(body["alert"], [])
    if (kind in ("fired", "rose") and not body["inhibited_by"]) or kind == "released":
        levels.append(body["severity"])
    elif kind in ("fell", *OVER) and body["severity"] in levels:
        levels.remove(body["severity"])
    worst = max((level for held in found.levels.values() for level in held), key=SEVERITIES.index, default=None)
    if worst is not None and worst != found.severity:
        found.severities.append((entry.at_us, worst, body["words"]))
