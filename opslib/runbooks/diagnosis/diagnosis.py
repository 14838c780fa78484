"""
Decide what the fault of a moment is, by what was observed: one of `causes.CAUSES`, with the evidence for and against
it.

It is a function of what is in the store, so asked later as of a moment it says the same. What nobody observed supports
and contradicts nothing; where too little is known, the cause is undetermined. A cause is explained away only by one
that can produce its symptoms (`causes.PRODUCES`); every other is named beside the first. While somebody is notified of
an alert the answer is never `none`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from opslib.alerting import fill_figures
from opslib.alerting.causes import (
    HEADLINES,
    MASSIVE_OUT,
    NO_FAULT,
    NONE,
    NOT_BY_LAG,
    OF_RULE,
    PRODUCES,
    RUNBOOK_OF,
    UNDETERMINED,
)
from opslib.dashboard import status
from opslib.foundation import formatting
from opslib.foundation.clock import SECOND, Window
from opslib.foundation.config.rules import SENT, SEVERITIES
from opslib.foundation.config.workspace import Workspace
from opslib.foundation.storage.snapshot_columns import PROVIDERS
from opslib.runbooks.diagnosis.answers import Found
from opslib.runbooks.diagnosis.questions import SLOWER, Questions

if TYPE_CHECKING:
    from opslib.dashboard.status import Status

BOTH = "both_providers_down"
EXPLAINS = {"gamma_zero": ("expiry",), "greeks_valid": ("expiry",)}  # What is no fault, and yet produces an alert.
PASSED = ("app_restarted",)  # Causes that are over when they are found.
CONTRADICTED = 0.5  # Of two sources that contradict each other one is wrong.


class Evidence(NamedTuple):
    """
    One question that was asked.

    Attributes:
        supports: The causes that its answer supports.
        contradicts: The causes that its answer speaks against.
        source: Who observed it: page, probe, chain, logs, fills, calendar.
        age_s: How old the newest observation is, seconds; None where there is none.
    """

    question: str
    answer: str
    supports: tuple[str, ...]
    contradicts: tuple[str, ...]
    source: str
    age_s: float | None

    def as_json(self) -> dict[str, Any]:
        """As CONTRACT.md has it."""
        return self._asdict() | {"supports": list(self.supports), "contradicts": list(self.contradicts)}

    def __str__(self) -> str:
        age = f", {formatting.duration(self.age_s)} old" if self.age_s is not None else ""
        return f"{self.question} {self.answer}" + (f" [{self.source}{age}]" if self.source else "")


class Other(NamedTuple):
    """Another cause, found beside the first."""

    cause: str
    subject: str | None

    def __str__(self) -> str:
        return f"{self.cause}{' of ' + self.subject if self.subject else ''}"


@dataclass(frozen=True)
class Diagnosis:
    """
    What the fault is.

    Attributes:
        window: Its end is the moment that was asked about.
        cause: One of `causes.CAUSES`.
        subject: massive, tradier, app, a symbol; None where it is about none.
        confidence: Of what was observed the share that agrees, times half and half the share of the questions that
            could be answered; of what trades cost only the first, for no probe of a provider or a server bears on that.
        severity: The highest that a rule reaches which points at the cause, else that of the alert which did; None
            where none does.
        evidence: Every question that was asked.
        also: Other causes that were found beside it.
        alert_runbook: The runbook of the alert that was asked about; None where none was.
        also_sure: How sure each of `also` is, as `confidence`.
    """

    window: Window
    cause: str
    subject: str | None
    confidence: float
    severity: str | None = None
    evidence: tuple[Evidence, ...] = ()
    also: tuple[Other, ...] = ()
    alert_runbook: str | None = None
    also_sure: tuple[float, ...] = ()

    @property
    def each(self) -> "list[Diagnosis]":
        """The diagnosis itself, and each cause found beside it in its place."""
        first = Other(self.cause, self.subject)
        others = [
            replace(
                self, cause=o.cause, subject=o.subject, confidence=sure, also=(first, *(x for x in self.also if x != o))
            )
            for o, sure in zip(self.also, self.also_sure)
        ]
        return [self, *others]

    @property
    def headline(self) -> str:
        """What it means, in one plain sentence."""
        if (self.cause, self.subject) == ("monitor_down", "collector"):
            return (
                "Our own collector runs, but this machine gives it too little time: what looks slow from "
                "here may not be."
            )
        told = HEADLINES[self.cause].format(
            (self.subject or "the provider").title() if self.subject in PROVIDERS else self.subject or "the provider"
        )
        return told[0].upper() + told[1:]

    @property
    def runbook(self) -> str | None:
        """Where it goes on; None where nothing needs be done."""
        return (
            "massive_down"
            if self.subject == "massive" and self.cause in MASSIVE_OUT
            else RUNBOOK_OF.get(self.cause, self.alert_runbook)
        )

    @property
    def exit_code(self) -> int:
        """0; 3 where the data does not suffice to determine a cause."""
        return 3 if self.cause == UNDETERMINED else 0

    @property
    def words(self) -> str:
        """What it is, and how sure that is."""
        more = f" Beside it: {', '.join(map(str, self.also))}." if self.also else ""
        return f"{Other(self.cause, self.subject)}, {formatting.ratio(self.confidence, 0)} sure: {self.headline}{more}"

    def as_json(self) -> dict[str, Any]:
        """As CONTRACT.md's ``ops diagnose -o json``."""
        return {
            "as_of": formatting.iso(self.window.end),
            "window": {"from": formatting.iso(self.window.start), "to": formatting.iso(self.window.end)},
            "cause": self.cause,
            "subject": self.subject,
            "confidence": round(self.confidence, 2),
            "also": [o._asdict() for o in self.also],
            "runbook": self.runbook,
            "severity": self.severity,
            "evidence": [e.as_json() for e in self.evidence],
        }

    def as_record(self) -> dict[str, Any]:
        """As the record of an incident keeps it, with its words for people."""
        return self.as_json() | {"words": self.words}

    def __repr__(self) -> str:
        lines = [
            self.words,
            f"  as of {formatting.moment(self.window.end)}",
            *([f"  severity: {self.severity}"] if self.severity else []),
            *([f"  runbook: ops runbook open {self.runbook}"] if self.runbook else []),
        ]
        groups: tuple[tuple[str, Callable[[Evidence], bool]], ...] = (
            ("supports it", lambda e: self.cause in e.supports),
            ("contradicts it", lambda e: self.cause in e.contradicts),
            ("supports another cause", lambda e: bool(e.supports) and self.cause not in e.supports),
            ("not measured, or of unknown age", lambda e: not e.supports and e.age_s is None),
            (
                "rules out other causes",
                lambda e: not e.supports and e.age_s is not None and self.cause not in e.contradicts,
            ),
        )
        for head, holds in groups:
            found = [f"    {e}" for e in self.evidence if holds(e)]
            lines += [f"  {head}:", *found] if found else []
        return "\n".join(lines)


def _explained(first: Found, other: Found, asked: Sequence[Found]) -> bool:
    """
    Whether what one answer found can be a consequence of what another did: its mechanism produces each of its symptoms.
    """
    if first is other or not first.cause or not other.cause:
        return False
    if first.cause == BOTH:
        found = [f for f in asked if f.subject in PROVIDERS and f.cause and f.cause != UNDETERMINED]
        parts = [f for f in found if f.source == "probe"] or found
        if other.subject in PROVIDERS and other.cause in {p.cause for p in parts}:
            return len({p.cause for p in parts}) == 1
        return any(_explained(part, other, asked) for part in parts)
    if first.subject in PROVIDERS and (
        other.cause == BOTH or (other.subject in PROVIDERS and other.subject != first.subject)
    ):
        return False
    return (other.symptoms or frozenset({other.cause})) <= PRODUCES.get(first.cause, frozenset())


def diagnose(view: "Status") -> Diagnosis:
    """What the fault is at the end of a view."""
    inquiry = Questions(view)
    through, others = inquiry.asked()
    asked = [*through, *others]
    known = [f for f in asked if f.cause is not None]
    hits = [f for f in asked if f.cause]
    roots = [
        f
        for i, f in enumerate(hits)
        if not any(_explained(g, f, asked) and (j < i or not _explained(f, g, asked)) for j, g in enumerate(hits))
    ]
    beyond_lag = any(SLOWER in f.symptoms or f.cause in NOT_BY_LAG for f in hits)
    faults = sorted((f for f in roots if f.cause not in NO_FAULT), key=lambda f: _rank(f, beyond_lag))
    # Nothing is expected of a closed market, whatever was restarted before.
    over = [f for f in roots if f.cause == "market_closed" and all(g.cause in PASSED for g in faults)]
    first = next(iter([*over, *faults, *roots]), None)
    alert = None
    if (first is None or first.cause in (*NO_FAULT, UNDETERMINED)) and not (first and first.cause == "market_closed"):
        alert = _worst_alert(view)
        if alert and not (first and (first.cause == UNDETERMINED or first.cause in EXPLAINS.get(alert["rule"], ()))):
            first = inquiry.of_alert(alert)
            asked, known = [*asked, first], [*known, first]
    answered = len(known) / len(asked)
    if first is None:
        seen = any(f.cause == "" for f in others)
        cause = NONE if seen and 2 * len(known) >= len(asked) else UNDETERMINED  # More was answered than was not.
        sure = round(answered * inquiry.chains.certainty(), 4) if cause == NONE else 0.0
        return Diagnosis(view.window, cause, None, sure, None, _evidence(asked, None, view))
    assert first.cause
    beside: dict[Other, float] = {}
    for f in faults:
        if (f.cause, f.subject) != (first.cause, first.subject) and f.cause not in (
            UNDETERMINED,
            *(("monitor_down",) if first.cause == "monitor_down" else ()),
        ):
            beside.setdefault(Other(f.cause or "", f.subject), round(f.agree * (0.5 + 0.5 * answered), 2))
    bears = 1.0 if first.cause.startswith("costs_") else 0.5 + 0.5 * answered
    disputed = any(
        f.cause == ""
        and first.cause in f.excludes
        and _about(f, first)
        and f.at_us is not None
        and f.at_us > (first.since_us or first.at_us or view.window.end_us)
        for f in asked
    )
    sure = first.agree * bears * (CONTRADICTED if disputed else 1.0) if first.cause != UNDETERMINED else 0.0
    severity = _severity(inquiry, first) or (alert["severity"] if alert else None)
    return Diagnosis(
        view.window,
        first.cause,
        first.subject,
        round(sure, 2),
        severity,
        _evidence(asked, first, view),
        tuple(beside),
        alert["runbook"] if alert else None,
        tuple(beside.values()),
    )


def _rank(found: Found, beyond_lag: bool) -> int:
    """
    What comes first: what our own lag cannot explain, a cause that goes on, one that is over and left its traces, what
    could not be determined.
    """
    if beyond_lag and found.subject == "collector":
        return 1
    return 3 if found.cause == UNDETERMINED else 2 * int(found.cause in PASSED)


def _worst_alert(view: "Status") -> dict[str, Any] | None:
    """
    The worst alert that is active and that somebody is notified of; one that another inhibits only where there is no
    other.

    What is inhibited by an alert that is over by now is what a window still holds of that trouble: no fault of this
    moment.
    """
    known = {a["id"]: a for a in view.alerts}
    over = {t.alert for t in view.recorded or () if t.kind in ("resolved", "ended")} - set(known)

    def explained(alert: dict[str, Any], passed: frozenset[str] = frozenset()) -> bool:
        by = alert["inhibited_by"]
        return by in over or (by in known and by not in passed and explained(known[by], passed | {by}))

    active = [a for a in view.alerts if a["state"] == "firing" and a["severity"] in SENT and not explained(a)]
    return next((a for a in active if not a["inhibited_by"]), next(iter(active), None))


def _severity(inquiry: Questions, first: Found) -> str | None:
    """The highest severity of the rules that point at a cause."""
    is_greeks = (first.cause or "").startswith("greeks_")
    symptom = (
        {"availability", "answers", "response_time", "silence"}
        if (first.subject in PROVIDERS and not is_greeks) or first.cause == BOTH
        else set()
    )
    pointing = (
        symptom
        | {rule for rule, cause in OF_RULE.items() if cause == first.cause}
        | ({"backtest_variance"} if (first.cause or "").startswith("costs_") else set())
        | ({"websocket_down"} if (first.cause or "").startswith("socket_") else set())
        | ({"greeks_valid"} if is_greeks else set())
        | ({"app_answers", "app_down"} if first.cause in ("app_down", "app_slow") else set())
    )
    by_fills = fill_figures.finding(inquiry.view.counted) if inquiry.view.counted else None
    filed = [by_fills] if by_fills else []
    reached = [
        f.severity
        for f in (*inquiry.judged, *filed)
        if f.severity
        and f.rule.name in pointing
        and (
            f.subject == first.subject
            or first.cause == BOTH
            or (f.subject == "app" and (is_greeks or first.subject not in PROVIDERS))
        )
    ]
    return max(reached, key=SEVERITIES.index, default=None)


def _about(found: Found, first: Found) -> bool:
    """Whether an answer is about what another is about: of providers the same one."""
    return found.subject == first.subject or not {found.subject, first.subject} <= {*PROVIDERS}


def _evidence(asked: Sequence[Found], first: Found | None, view: "Status") -> tuple[Evidence, ...]:
    """Every answer as evidence: what it supports, what it contradicts, and how old it is."""
    made = []
    for f in asked:
        supports = [f.cause] if f.cause else []
        if first and first.cause and first.cause != f.cause and _explained(first, f, asked):
            supports.insert(0, first.cause)
        contradicts = f.excludes if f.cause == "" else ()
        if first and first.cause and not _about(f, first):
            contradicts = tuple(c for c in contradicts if c != first.cause)
        age_s = (
            None if f.cause is None or f.at_us is None else max(0.0, round((view.window.end_us - f.at_us) / SECOND, 1))
        )
        made.append(Evidence(f.question, f.answer, tuple(supports), contradicts, f.source, age_s))
    return tuple(made)


def diagnose_at(workspace: Workspace, at: datetime, length: timedelta) -> Diagnosis:
    """What the fault is at a moment; each rule is evaluated over its own window, whatever the length of the view."""
    return diagnose(status.view_at(workspace, at, length))
