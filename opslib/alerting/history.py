"""List the severities that alerts rose to, and until when: a row for each rise, read off the transitions."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from opslib.alerting.alerts import Alerts, Transition, worse
from opslib.alerting.evaluation import of_every_provider
from opslib.alerting.store import AlertStore
from opslib.alerting.verdicts import past_limit
from opslib.foundation import clock, formatting
from opslib.foundation.config.rules import SENT, SEVERITIES, Rules

DAY_US = 86_400_000_000  # No alert outlives its session.
OVER = ("fell", "resolved", "ended")


@dataclass(slots=True)
class SeverityChange:
    """
    One rise of an alert to a severity; times in microseconds since 1970.

    The first rise of an alert is over when the alert is; a later one, when the alert falls below it.

    Attributes:
        state: firing, unknown (firing, and without data for longer than the rule's patience), fell, resolved or ended.
        over_us: When it was no longer so; None while it is.
        peak: The worst value, in the rule's unit; None where none was known.
        inhibited_by: The alert that explained it away all the while; nobody was told of it.
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

    @property
    def sent(self) -> bool:
        """Was anybody to be told of it?"""
        return self.severity in SENT and not self.inhibited_by

    def told(self, rules: Rules) -> str:
        """What was wrong, with the worst value where one value says it."""
        rule = rules.rules.get(self.rule)
        limit = dict(rule.ladder).get(self.severity, self.limit) if rule and self.limit is None else self.limit
        if rule is None or rule.burn or limit is None or self.peak is None or of_every_provider(rule, self.subject):
            return self.sentence
        return past_limit(rule, self.subject, self.peak, limit)

    def as_json(self, rules: Rules, incident: str | None = None) -> dict[str, Any]:
        """The row of CONTRACT.md's ``ops alerts``; `incident` is the one that it is in."""

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


def recorded(record: AlertStore, since_us: int, upto_us: int, known_at: datetime | None) -> list[Transition]:
    """
    What is on record of the alerts of (since, upto], from the beginning of each; `known_at` bounds when it was
    recorded.
    """
    known_us = None if known_at is None else clock.micros(known_at)
    return [Transition(*row) for row in record.transitions(upto_us, known_us, since_us=since_us - DAY_US)]


def read(transitions: Iterable[Transition], rules: Rules, standing: Alerts | None = None) -> list[SeverityChange]:
    """
    Every rise that transitions tell of, in the order in which they fired.

    Args:
        standing: The alerts as they stood after the last of them, which know the worst value of what still fires;
            without it, that is the worst that a transition tells of.
    """
    found: list[SeverityChange] = []
    held: dict[tuple[str, str], SeverityChange] = {}
    for t in transitions:
        key = (t.alert, t.severity)
        mine = [rise for (alert, _), rise in held.items() if alert == t.alert]
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
            rise = held.pop(key)
            rise.state, rise.over_us, rise.peak = t.kind, t.at_us, t.peak
        elif t.kind == "released" and key in held:
            held[key].inhibited_by = None
        elif t.kind in ("unknown", "known"):
            for rise in mine:
                rise.state = "unknown" if t.kind == "unknown" else "firing"
        if t.kind == "rose" and t.rule in rules.rules:
            for rise in mine:
                rise.peak = worse(rules[t.rule], rise.peak, t.value)
    for alert in standing.alerts.values() if standing else ():
        for now in alert.rises:
            if (str(alert.id), now.severity) in held:
                held[str(alert.id), now.severity].peak = now.peak
    return found


def within(found: Iterable[SeverityChange], since_us: int, upto_us: int) -> list[SeverityChange]:
    """Those that fired, or still did, in (since, upto]."""
    return [rise for rise in found if rise.fired_us <= upto_us and (rise.over_us is None or rise.over_us > since_us)]


@dataclass(frozen=True, slots=True)
class AlertEpisode:
    """
    One alert from beginning to end: all its rises.

    Attributes:
        worst: The rise to its highest severity; the first of those.
        began_us: Since when its figure was past a limit.
        state, over_us: Of the alert as a whole.
    """

    worst: SeverityChange
    began_us: int
    state: str
    over_us: int | None


def lives(found: Iterable[SeverityChange]) -> list[AlertEpisode]:
    """The alerts that made these rises, in the order in which they began."""
    by_alert: dict[str, list[SeverityChange]] = {}
    for rise in found:
        by_alert.setdefault(rise.alert, []).append(rise)
    made = [
        AlertEpisode(
            max(mine, key=lambda r: SEVERITIES.index(r.severity)),
            min(r.pending_us for r in mine),
            mine[0].state,
            mine[0].over_us,
        )
        for mine in by_alert.values()
    ]
    return sorted(made, key=lambda a: (a.began_us, a.worst.rule, a.worst.subject))


def active_alerts(transitions: Iterable[Transition], rules: Rules) -> list[dict[str, Any]]:
    """How does every alert stand that is not over, as the rows of CONTRACT.md's ``ops status``? Worst first."""
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
