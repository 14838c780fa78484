"""Build the history of alerts from transitions: one row for each severity that an alert reached."""

import itertools
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from opslib.alerting.alerts import Alerts, Transition, worse
from opslib.alerting.evaluation import is_no_provider_rule
from opslib.alerting.store import AlertStore
from opslib.alerting.verdicts import past_limit
from opslib.foundation import clock, formatting, time_parsing
from opslib.foundation.config.rules import SENT, SEVERITIES, Rules

DAY_US = 86_400_000_000  # Every alert ends with its session.
OVER = ("fell", "resolved", "ended")


@dataclass(slots=True)
class SeverityChange:
    """
    One severity that an alert reached; times in microseconds since 1970.

    The first one is over when the alert is; a later one is over when the severity is lowered below it.

    Attributes:
        state: firing, unknown (firing, without data for longer than `unknown_after`), fell, resolved or ended.
        over_us: When it was over; None while it lasts.
        peak: The worst value, in the rule's unit; None if none was known.
        inhibited_by: The alert that inhibited it all the time, so that no one was notified.
        released_us: Until when another alert inhibited it; None if that was never or all the time.
    """

    alert: str
    rule: str
    subject: str
    source: str
    severity: str
    state: str
    pending_us: int
    fired_us: int
    over_us: int | None
    peak: float | None
    limit: float | None
    inhibited_by: str | None
    sentence: str
    rules_hash: str
    released_us: int | None = None

    @property
    def sent(self) -> bool:
        """Whether people are notified of it."""
        return self.severity in SENT and not self.inhibited_by

    def worst_sentence(self, rules: Rules) -> str:
        """Return the alert's sentence, with the worst value if there is one."""
        rule = rules.rules.get(self.rule)
        limit = dict(rule.thresholds).get(self.severity, self.limit) if rule and self.limit is None else self.limit
        if rule is None or rule.burn or limit is None or self.peak is None or is_no_provider_rule(rule, self.subject):
            return self.sentence
        return past_limit(rule, self.subject, self.source, self.peak, limit)

    def as_json(self, rules: Rules, incident: str | None = None) -> dict[str, Any]:
        """Return the row of CONTRACT.md's ``ops alerts``; `incident` is the incident it belongs to."""

        def at(us: int | None) -> str | None:
            return None if us is None else formatting.iso(clock.instant(us))

        resolved = self.over_us if self.state != "ended" else None
        return {
            "alert": self.alert,
            "rule": self.rule,
            "subject": self.subject,
            "source": self.source,
            "severity": self.severity,
            "state": self.state,
            "pending_at": at(self.pending_us),
            "fired_at": at(self.fired_us),
            "resolved_at": at(resolved),
            "ended_at": at(self.over_us if self.state == "ended" else None),
            "peak_value": self.peak,
            "limit": self.limit,
            "inhibited_by": self.inhibited_by,
            "incident": incident,
            "sentence": self.sentence,
            "runbook": rules[self.rule].runbooks.get(self.subject) if self.rule in rules.rules else None,
            "rules_hash": self.rules_hash,
        }


def load_transitions(record: AlertStore, since_us: int, upto_us: int, known_at: datetime | None) -> list[Transition]:
    """
    Return the recorded transitions of the alerts of (since, upto], from the beginning of each.

    Args:
        known_at: Only transitions recorded by then; None is all.
    """
    known_us = None if known_at is None else clock.micros(known_at)
    return [Transition(*row) for row in record.transitions(upto_us, known_us, since_us=since_us - DAY_US)]


class TransitionReader:
    """Returns the same as `load_transitions` for one moment after another, and reads them only when some are new."""

    def __init__(self, record: AlertStore):
        self._record = record
        self._extent: tuple[int, int] | None = None
        self._found: list[Transition] = []

    def read(self, at_us: int) -> list[Transition]:
        """Return the transitions of the alerts at a moment, from the beginning of each."""
        extent = self._record.extent(at_us - DAY_US, at_us)
        if extent != self._extent:
            self._extent, self._found = extent, load_transitions(self._record, at_us, at_us, None)
        return self._found


def severity_changes(
    transitions: Iterable[Transition], rules: Rules, alerts: Alerts | None = None
) -> list[SeverityChange]:
    """
    Build every severity change from transitions, in the order in which they fired.

    Args:
        alerts: The alerts after the last transition, which have the worst value of those that still fire; without
            it, the worst value of the transitions is used.
    """
    found: list[SeverityChange] = []
    held: dict[tuple[str, str], SeverityChange] = {}
    for t in transitions:
        key = (t.alert, t.severity)
        mine = [change for (alert, _), change in held.items() if alert == t.alert]
        if t.kind in ("fired", "rose"):
            held[key] = SeverityChange(
                t.alert,
                t.rule,
                t.subject,
                t.source,
                t.severity,
                "firing",
                t.pending_us,
                t.at_us,
                None,
                t.value,
                t.limit,
                t.inhibited_by,
                t.sentence,
                t.rules_hash,
            )
            found.append(held[key])
        elif t.kind in OVER and key in held:
            change = held.pop(key)
            change.state, change.over_us, change.peak = t.kind, t.at_us, t.peak
        elif t.kind == "released" and key in held:
            held[key].inhibited_by, held[key].released_us = None, t.at_us
        elif t.kind in ("unknown", "known"):
            for change in mine:
                change.state = "unknown" if t.kind == "unknown" else "firing"
        if t.kind == "rose" and t.rule in rules.rules:
            for change in mine:
                change.peak = worse(rules[t.rule], change.peak, t.value)
    for alert in alerts.alerts.values() if alerts else ():
        for level in alert.reached:
            if (str(alert.id), level.severity) in held:
                held[str(alert.id), level.severity].peak = level.peak
    return found


def within(found: Iterable[SeverityChange], since_us: int, upto_us: int) -> list[SeverityChange]:
    """Return the changes that fired in (since, upto], or still fired then."""
    return [
        change
        for change in found
        if change.fired_us <= upto_us and (change.over_us is None or change.over_us > since_us)
    ]


class Segment(NamedTuple):
    """A stretch of time in which an alert has one severity; microseconds since 1970."""

    since_us: int
    until_us: int
    change: SeverityChange


def segments(changes: Collection[SeverityChange], upto_us: int) -> list[Segment]:
    """
    Divide one alert, from when it fired, into stretches, each with its highest severity there.

    Args:
        changes: All severity changes of the alert.
        upto_us: The end of the last stretch while the alert lasts.
    """
    edges = sorted(
        {min(us, upto_us) for c in changes for us in (c.fired_us, upto_us if c.over_us is None else c.over_us)}
    )
    found: list[Segment] = []
    for since_us, until_us in itertools.pairwise(edges):
        lasting = [c for c in changes if c.fired_us <= since_us and (c.over_us is None or c.over_us >= until_us)]
        worst = max(lasting, key=lambda c: SEVERITIES.index(c.severity), default=None)
        if worst is None:
            continue
        if found and found[-1].change is worst and found[-1].until_us == since_us:
            found[-1] = found[-1]._replace(until_us=until_us)
        else:
            found.append(Segment(since_us, until_us, worst))
    return found


@dataclass(frozen=True, slots=True)
class AlertEpisode:
    """
    One alert from beginning to end, with all its severity changes.

    Attributes:
        worst: The change to its highest severity; the first if there are several.
        began_us: Since when its figure crossed a limit.
        state, over_us: The state and end of the whole alert.
        changes: All changes, in the order in which they fired.
    """

    worst: SeverityChange
    began_us: int
    state: str
    over_us: int | None
    changes: tuple[SeverityChange, ...]


def episodes(found: Iterable[SeverityChange]) -> list[AlertEpisode]:
    """Group severity changes into alert episodes, in the order in which they began."""
    by_alert: dict[str, list[SeverityChange]] = {}
    for change in found:
        by_alert.setdefault(change.alert, []).append(change)
    made = [
        AlertEpisode(
            max(mine, key=lambda r: SEVERITIES.index(r.severity)),
            min(r.pending_us for r in mine),
            mine[0].state,
            mine[0].over_us,
            tuple(mine),
        )
        for mine in by_alert.values()
    ]
    return sorted(made, key=lambda a: (a.began_us, a.worst.rule, a.worst.subject))


def seconds_at(severity: str, found: Iterable[AlertEpisode], upto_us: int) -> float:
    """
    Return for how many seconds at least one of some alerts had a severity or a higher one.

    Args:
        upto_us: The end of what still lasts, microseconds since 1970.
    """
    least, total_us, counted_us = SEVERITIES.index(severity), 0, 0
    parts = [part for episode in found for part in segments(episode.changes, upto_us)]
    for part in sorted(parts, key=lambda part: part.since_us):
        if SEVERITIES.index(part.change.severity) >= least:
            total_us += max(0, part.until_us - max(part.since_us, counted_us))
            counted_us = max(counted_us, part.until_us)
    return total_us / clock.SECOND


def active_alerts(transitions: Iterable[Transition], rules: Rules) -> list[dict[str, Any]]:
    """Return every alert that is not over as the rows of CONTRACT.md's ``ops status``, worst first."""
    held: dict[str, dict[str, Any]] = {}
    severities: dict[str, list[tuple[str, float | None]]] = {}
    for t in transitions:
        if t.kind in ("resolved", "ended", "dropped"):
            held.pop(t.alert, None)
            continue
        row = held.setdefault(
            t.alert,
            {
                "id": t.alert,
                "rule": t.rule,
                "subject": t.subject,
                "source": t.source,
                "state": "pending",
                "severity": t.severity,
                "since": formatting.iso(clock.instant(t.pending_us)),
                "value": None,
                "limit": None,
                "sentence": "",
                "runbook": rules[t.rule].runbooks.get(t.subject) if t.rule in rules.rules else None,
                "inhibited_by": None,
                "incident": None,
            },
        )
        now = severities.setdefault(t.alert, [])
        if t.kind in ("fired", "rose"):
            now.append((t.severity, t.limit))
            row["inhibited_by"] = t.inhibited_by
        elif t.kind == "fell":
            now[:] = [held_now for held_now in now if held_now[0] != t.severity]
        elif t.kind == "released":
            row["inhibited_by"] = None
        unknown = (row["state"] == "unknown" and t.kind != "known") or t.kind == "unknown"
        if not now:
            row["state"] = "pending"
        elif unknown:
            row["state"] = "unknown"
        else:
            row["state"] = "firing"
        row["severity"], row["limit"] = now[-1] if now else (t.severity, t.limit)
        row["value"], row["sentence"] = t.value, t.sentence
    return sorted(held.values(), key=lambda r: (-SEVERITIES.index(r["severity"]), r["since"], r["id"]))


def severity_since(transitions: Iterable[Transition]) -> dict[str, int]:
    """Return since when each active alert has its severity, or is pending, by alert; microseconds since 1970."""
    reached: dict[str, list[tuple[str, int]]] = {}
    for t in transitions:
        if t.kind in ("resolved", "ended", "dropped"):
            reached.pop(t.alert, None)
        elif t.kind in ("pending", "fired", "rose"):
            reached.setdefault(t.alert, []).append(("" if t.kind == "pending" else t.severity, t.at_us))
        elif t.kind == "fell":
            reached[t.alert] = [found for found in reached.get(t.alert, []) if found[0] != t.severity]
    return {alert: found[-1][1] for alert, found in reached.items() if found}


def describe_since(alert: Mapping[str, Any], reached_us: int | None, at: datetime) -> str:
    """
    Return an active alert's severity with since when it has it, and when its problem began, New York time.

    Such as ``notify since 15:13, problem began 13:50 New York``; one time only where both are in the same minute.

    Args:
        alert: A row of `active_alerts`.
        reached_us: Since when it has that severity, from `severity_since`; None is unknown, and only the beginning is
            given.
        at: The moment it is described at; a time of another day is given with its date.
    """

    def shown(instant: datetime) -> str:
        local = instant.astimezone(formatting.NEW_YORK)
        return f"{local:%H:%M}" if local.date() == at.astimezone(formatting.NEW_YORK).date() else f"{local:%m-%d %H:%M}"

    began = shown(time_parsing.parse(alert["since"]))
    severity = f"{alert['severity']}{' pending' if alert['state'] == 'pending' else ''}"
    unknown = "; unknown now" if alert["state"] == "unknown" else ""
    if reached_us is None:
        return f"{severity}, problem began {began} New York{unknown}"
    since = shown(clock.instant(reached_us))
    return f"{severity} since {since}{'' if since == began else f', problem began {began}'} New York{unknown}"
