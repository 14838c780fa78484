"""
Build an incident from its record: owner, severity over time, the five times, and the timeline.

The record is the only source. Nothing about an incident is stored elsewhere, so the same record always gives the same
incident.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from opslib.alerting.alert_ids import source_name
from opslib.alerting.causes import HEADLINES, NO_FAULT, UNDETERMINED, headline
from opslib.foundation import clock, formatting, time_parsing
from opslib.foundation.config.rules import SENT, SEVERITIES
from opslib.foundation.errors import IncidentError
from opslib.incidents.evidence import Entry

TIMES = ("began", "detected", "acknowledged", "mitigated", "resolved")
GRID_S = 5.0  # Alerts are evaluated every 5 seconds, so their times are not more precise.
OVER = ("resolved", "ended")
CLOSED = ("resolved", "dismissed", "merged")
ENDED = ("done", "failed", "rehearsed", "undone")  # The states in which an action ends.
REASONS = ("false alarm", "duplicate")


class Time(NamedTuple):
    """
    One of the five times.

    Attributes:
        at_us: Microseconds since 1970; None is unknown.
        source: The evidence for it, for people.
        precision_s: Its accuracy in seconds; None if it is unknown.
        evidence: The id of the entry that shows it; empty if it is unknown.
    """

    at_us: int | None
    source: str
    precision_s: float | None = None
    evidence: str = ""

    def __repr__(self) -> str:
        if self.at_us is None:
            return f"{formatting.UNKNOWN} ({self.source})"
        precision = f"; precision {formatting.duration(self.precision_s)}" if self.precision_s else ""
        return f"{formatting.moment(clock.instant(self.at_us))} ({self.source}{precision}; {self.evidence})"


class StepRecord(NamedTuple):
    """
    The status of a runbook step.

    Attributes:
        state: seen, judged, skipped, intended, done, rehearsed, failed, undone.
        entry: The newest entry about it.
        intended: For an action, the entry that recorded the intent.
    """

    state: str
    entry: Entry
    intended: Entry | None = None


class Event(NamedTuple):
    """
    Something that happened in an incident, in words for people.

    Attributes:
        at_us: When it happened; microseconds since 1970.
        kind: The kind of its entry, such as ``alert``, ``step``, ``note``.
        by: The person who did it; empty: ops itself.
        words: What happened, on one line.
        evidence: The ids of its entries.
        entry: The entry that it is about; of several, the last one.
    """

    at_us: int
    kind: str
    by: str
    words: str
    evidence: tuple[str, ...]
    entry: Entry


@dataclass
class Incident:
    """
    The response to one or more alerts.

    Attributes:
        id: Its day in New York and its number on that day, such as ``2026-03-10-1``.
        entries: Its record, in order.
        status: open, mitigated, resolved, dismissed or merged.
        owner: The present owner; empty if there is none.
        alerts: Its alerts: by id, the state (pending, firing, unknown, resolved, ended).
        levels: The severities that each of its alerts has now, without inhibited ones.
        severities: (since when in microseconds, severity, why), in order.
        into: The incident it was merged into.
        steps: The status of each step, by runbook and step.
    """

    id: str
    entries: list[Entry]
    title: str = ""
    rule: str = ""
    subject: str = "app"
    runbook: str = "incident"
    about: str = ""
    status: str = "open"
    owner: str = ""
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
    def last_entry(self) -> Entry:
        """The last entry: its digest covers the whole record."""
        return self.entries[-1]

    @property
    def severity(self) -> str:
        """The latest severity."""
        return self.severities[-1][1] if self.severities else "notify"

    @property
    def peak(self) -> str:
        """The highest severity it reached."""
        return max((severity for _, severity, _ in self.severities), key=SEVERITIES.index, default=self.severity)

    @property
    def current(self) -> str:
        """The severity now: none if all of its alerts are over."""
        return "none" if self.levels and not any(self.levels.values()) else self.severity

    def limit(self, severity: str = "") -> float | None:
        """Return the last limit that its alert crossed at a severity (empty: at any); None if none is recorded."""
        bodies = [
            e.body
            for e in self.of_kind("alert", "opened")
            if (e.body.get("rule"), e.body.get("subject")) == (self.rule, self.subject)
            and severity in ("", e.body.get("severity"))
        ]
        return next((body["limit"] for body in reversed(bodies) if body.get("limit") is not None), None)

    @property
    def firing(self) -> list[str]:
        """The ids of its alerts that are not over."""
        return [name for name, state in self.alerts.items() if state in ("firing", "unknown")]

    @property
    def since_us(self) -> int:
        """The start of the incident clock: when it was detected, else opened."""
        return self.times["detected"].at_us or self.entries[0].at_us

    def find(self, name: str) -> Entry:
        """
        Return the entry with an id such as ``E7``.

        Raises:
            IncidentError: There is no such entry.
        """
        found = next((e for e in self.entries if e.id == name), None)
        if found is None:
            raise IncidentError(f"incident {self.id} has no entry {name!r}; it has E1 to {self.last_entry.id}.")
        return found

    def of_kind(self, *kinds: str) -> list[Entry]:
        """Return its entries of some kinds, in order."""
        return [e for e in self.entries if e.kind in kinds]

    @property
    def diagnosed(self) -> Entry | None:
        """The newest entry with a diagnosis that found a fault; None if none did."""
        return next(
            (
                e
                for e in reversed(self.of_kind("diagnosis", "runbook"))
                if e.body.get("cause") in HEADLINES and e.body["cause"] not in (UNDETERMINED, *NO_FAULT)
            ),
            None,
        )

    @property
    def headline(self) -> str:
        """What is broken, in words: what a person wrote, else the cause by the newest diagnosis, else its alert."""
        found = self.diagnosed if self.entries[0].body.get("alert") else None
        text = headline(found.body["cause"], found.body.get("subject")) if found else _in_words(self.title)
        return (text[:1].upper() + text[1:]).rstrip(".")

    @property
    def events(self) -> list[Event]:
        """
        What happened, in order, for people.

        Changes of one alert at the same time are one event, with its source. An incident that an alert opened is shown
        as opened when the alert fired; its record may hold the time at which the figure crossed its limit.
        """
        fired_us = min((e.at_us for e in self.of_kind("alert") if e.body["kind"] in ("fired", "rose")), default=None)
        made: dict[tuple[Any, ...], Event] = {}
        first: dict[tuple[Any, ...], Entry] = {}
        reached: dict[str, list[str]] = {}  # The severities that each alert has at that point.
        for e in self.timeline:
            body, key = e.body, tuple[Any, ...]((e.seq,))
            if e.kind == "alert":
                held = reached.setdefault(body["alert"], [])
                if body["kind"] in ("fired", "rose"):
                    held.append(body["severity"])
                elif body["kind"] == "fell" and body["severity"] in held:
                    held.remove(body["severity"])
                key = (body["alert"], e.at_us, "fired" if body["kind"] == "rose" else body["kind"])
            elif e.kind == "step" and body["state"] in ENDED and ("intended", body.get("id")) in made:
                key = ("intended", body["id"])
            elif e.kind == "step" and body["state"] == "intended":
                key = ("intended", body["asked"]["id"])
            at_us = max(e.at_us, fired_us) if e.kind == "opened" and fired_us is not None else e.at_us
            same = made.get(key)
            kept = same.entry if same and e.kind == "alert" and _rank(same.entry) > _rank(e) else e
            text = _words_of(kept, first.setdefault(key, e), reached.get(body.get("alert", ""), []))
            made[key] = Event(at_us, e.kind, e.by, text, (*(same.evidence if same else ()), e.id), kept)
        return sorted(made.values(), key=lambda found: (found.at_us, found.kind == "opened"))

    @property
    def timeline(self) -> list[Entry]:
        """The entries in the order in which their events happened."""
        return sorted(
            (e for e in self.entries if e.kind not in ("joined", "evidence", "written", "published")),
            key=lambda e: (e.at_us, e.seq),
        )

    def as_json(self) -> dict[str, Any]:
        """Return the incident for programs."""

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
            "owner": self.owner or None,
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
            "head": self.last_entry.digest,
            "postmortem": self.document or None,
        }

    @property
    def status_words(self) -> str:
        """Its status, and that one of its alerts still fires although it is resolved."""
        return (
            "resolved; its alert still fires"
            if self.status == "resolved" and any(self.levels.values())
            else self.status
        )

    @property
    def summary(self) -> list[str]:
        """What is broken, its status, severity, owner and runbook, and what it was opened for, as lines."""
        return [
            f"{self.id}: {self.headline}",
            f"  {self.status_words}; severity {self.current}, peak {self.peak}; owner: {self.owner or 'none'}; runbook "
            f"{self.runbook}",
            *([f"  opened for: {self.title}"] if self.headline != self.title else []),
        ]

    def __repr__(self) -> str:
        return "\n".join([*self.summary, *(f"  {name}: {found!r}" for name, found in self.times.items())])


def _in_words(sentence: str) -> str:
    """Return the sentence of an alert as words, such as ``availability of massive below 95.0 %``."""
    found = re.fullmatch(r"(.+?) \([^)]*\) ([<>=]) (.+?)(?: for \d.*)?", sentence)
    if found is None:
        return sentence
    if found[2] == "=":
        return f"{found[1]}: no success"
    return f"{found[1]} {'below' if found[2] == '<' else 'above'} {found[3]}"


def _rank(entry: Entry) -> int:
    return SEVERITIES.index(entry.body["severity"])


def _words_of(entry: Entry, first: Entry, held: Sequence[str]) -> str:
    """
    Return the text of an event for people: an alert with its source, without digests.

    Args:
        first: The first entry of the event.
        held: The severities that the alert still has after it.
    """
    body, text = entry.body, words(entry)
    if entry.kind != "alert":
        return text.partition("; previous entry E")[0] if entry.kind == "resolved" else text
    lower = f" to {max(held, key=SEVERITIES.index)}" if held else ""
    what = {
        "fired": "alert fired ({})",
        "fell": f"severity lowered from {{}}{lower}",
        "resolved": "alert resolved",
        "ended": "alert ended",
    }.get(first.body["kind"], str(body["words"]).removesuffix(f": {body['sentence']}"))
    source = source_name(body["source"])
    return formatting.single_line(
        f"{what.format(body['severity'])}, {source}: {_with_value_first(body['sentence'])}", 300
    )


def _with_value_first(sentence: str) -> str:
    """Put the value at which a severity was left before the one that had reached it; other sentences are unchanged."""
    found = re.fullmatch(r"(.+?) \((.+)\) ([<>=] .+?); now (.+)", sentence)
    return f"{found[1]} now {found[4]} (was {found[2]}, {found[3]})" if found else sentence


def words(entry: Entry) -> str:
    """Return the text of an entry on one line."""
    return formatting.single_line(str(entry.body.get("words") or entry.kind), 300)


def from_entries(name: str, entries: Iterable[Entry]) -> Incident:
    """
    Build an incident from the entries of its record.

    Raises:
        IncidentError: The record does not begin with an ``opened`` entry, or an entry is damaged.
    """
    found = Incident(name, list(entries))
    if not found.entries or found.entries[0].kind != "opened":
        raise IncidentError(
            f"the record of incident {name} does not begin with an opened entry. Run ops verify {name} to see what was "
            f"changed."
        )
    unknown = {
        "began": "not recorded",
        "detected": "no alert fired and no one recorded it",
        "acknowledged": "no one has acknowledged it",
        "mitigated": "no one has recorded it",
        "resolved": "it is not resolved",
    }
    found.times = {which: Time(None, why) for which, why in unknown.items()}
    for entry in found.entries:
        if entry.by and entry.by not in found.people:
            found.people.append(entry.by)
        try:
            _apply(found, entry, unknown)
        except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as problem:
            raise IncidentError(
                f"entry {entry.id} of the record of incident {formatting.single_line(name, 60)} is damaged "
                f"({type(problem).__name__}: {formatting.single_line(str(problem), 60)}). Run ops verify to see what "
                f"was changed."
            ) from problem
    return found


def _apply(found: Incident, entry: Entry, unknown: dict[str, str]) -> None:
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
            found.severities.append((entry.at_us, body.get("severity", "notify"), "when opened"))
            if not body.get("alert"):
                time("detected", f"opened by {entry.by or 'hand'}", 60.0)
        case "alert":
            _alert(found, entry, time)
        case "acknowledged":
            time("acknowledged", f"acknowledged by {entry.by}", 1.0, first=True)
            found.owner = found.owner or entry.by
        case "handover":
            found.owner = body["to"]
            time("acknowledged", f"handed over to {body['to']}", 1.0, first=True)
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
            time("mitigated", f"recorded by {entry.by}", 60.0)
        case "resolved":
            found.status = "resolved"
            time("resolved", f"recorded by {entry.by}", 60.0)
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
            elif before and state in ENDED:
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
    """Apply a change of one of its alerts."""
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
                f"alert {body['alert']} crossed its limit; the problem began up to one window earlier",
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
