"""
Determine the cause of a fault, one of `causes.CAUSES`, with the evidence for and against it.

The diagnosis depends only on the database, so a later run for the same time has the same result. Missing data neither
supports nor contradicts; with too little data, the cause is undetermined. A cause is dropped only if another produces
its symptoms (`causes.PRODUCES`); all others are listed. While an alert sends notifications, the cause is never `none`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from opslib.alerting import fill_figures
from opslib.alerting.alert_ids import source_name
from opslib.alerting.causes import (
    MASSIVE_OUT,
    NO_FAULT,
    NONE,
    NOT_BY_LAG,
    OF_RULE,
    PRODUCES,
    RUNBOOK_OF,
    UNDETERMINED,
    headline,
    whose,
)
from opslib.dashboard import status
from opslib.foundation import formatting, templates
from opslib.foundation.clock import SECOND, Window
from opslib.foundation.config.rules import SENT, SEVERITIES
from opslib.foundation.config.workspace import Workspace
from opslib.foundation.storage.snapshot_columns import PROVIDERS
from opslib.runbooks.diagnosis.answers import Found
from opslib.runbooks.diagnosis.questions import SLOWER, Questions

if TYPE_CHECKING:
    from opslib.dashboard.status import Status

BOTH = "both_providers_down"
EXPLAINS = {"gamma_zero": ("expiry",), "greeks_valid": ("expiry",)}  # Causes that are no fault but produce an alert.
PASSED = ("app_restarted",)  # Causes that have ended when they are found.
UNSEEN = (NONE, UNDETERMINED, "market_closed")  # The results of a diagnosis that found no fault.
SURE = 0.8  # From this confidence on, the branches for other causes are not needed.
CONTRADICTED = 0.5  # The factor for a cause that a second source contradicts.


class Evidence(NamedTuple):
    """
    One question with its answer.

    Attributes:
        supports: The causes that its answer supports.
        contradicts: The causes that its answer contradicts.
        source: page, probe, chain, logs, fills or calendar.
        age_s: The age of the newest data, seconds; None if there is none.
    """

    question: str
    answer: str
    supports: tuple[str, ...]
    contradicts: tuple[str, ...]
    source: str
    age_s: float | None

    def as_json(self) -> dict[str, Any]:
        """Return it as in CONTRACT.md."""
        return self._asdict() | {"supports": list(self.supports), "contradicts": list(self.contradicts)}

    @property
    def origin(self) -> str:
        """Its source with the age of the newest data; empty without a source."""
        age = f", {formatting.duration(self.age_s)} old" if self.age_s is not None else ""
        return f"{source_name(self.source)}{age}" if self.source else ""

    def __str__(self) -> str:
        return f"{self.question} {self.answer}" + (f" [{self.origin}]" if self.origin else "")


class Other(NamedTuple):
    """Another cause besides the first."""

    cause: str
    subject: str | None

    def __str__(self) -> str:
        return f"{self.cause}{' of ' + self.subject if self.subject else ''}"


@dataclass(frozen=True)
class Diagnosis:
    """
    The result of a diagnosis.

    Attributes:
        window: The window; its end is the time of the diagnosis.
        cause: One of `causes.CAUSES`.
        subject: massive, tradier, app or a symbol; None if there is none.
        confidence: The share of the data that agrees, times 0.5 plus half the share of answered questions; for
            trading costs only the first factor, because probes do not bear on them.
        severity: The highest severity of the rules that point at the cause, else that of the alert; None if none does.
        evidence: Every question with its answer.
        also: Other causes.
        alert_runbook: The runbook of the alert that was used; None if none was.
        also_sure: The confidence of each of `also`.
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
        """The diagnosis, and one diagnosis for each other cause."""
        first = Other(self.cause, self.subject)
        others = [
            replace(
                self, cause=o.cause, subject=o.subject, confidence=sure, also=(first, *(x for x in self.also if x != o))
            )
            for o, sure in zip(self.also, self.also_sure)
        ]
        return [self, *others]

    @property
    def settled(self) -> set[str]:
        """The causes whose branches of a runbook are needed, the others are not; empty if it is not sure enough."""
        sure = self.cause not in UNSEEN and self.confidence >= SURE
        return {self.cause, *(o.cause for o in self.also)} if sure else set()

    @property
    def headline(self) -> str:
        """The meaning of the cause, in one sentence."""
        return headline(self.cause, self.subject)

    @property
    def runbook(self) -> str | None:
        """The runbook to follow; None if no action is needed."""
        return (
            "massive_down"
            if self.subject == "massive" and self.cause in MASSIVE_OUT
            else RUNBOOK_OF.get(self.cause, self.alert_runbook)
        )

    @property
    def exit_code(self) -> int:
        """0, or 3 if the cause could not be determined."""
        return 3 if self.cause == UNDETERMINED else 0

    @property
    def words(self) -> str:
        """The cause with its confidence and meaning."""
        more = f" Also: {', '.join(map(str, self.also))}." if self.also else ""
        sure = formatting.ratio(self.confidence, 0)
        return f"{Other(self.cause, self.subject)}, confidence {sure}: {self.headline}{more}"

    @property
    def in_words(self) -> str:
        """The meaning of the cause with its confidence, without its name."""
        more = f" Also: {' '.join(headline(o.cause, o.subject) for o in self.also)}" if self.also else ""
        return f"{self.headline.rstrip('.')}, confidence {formatting.ratio(self.confidence, 0)}.{more}"

    def as_json(self) -> dict[str, Any]:
        """Return it as ``ops diagnose -o json`` of CONTRACT.md."""
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
        """Return it for the record of an incident, with its words."""
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
            ("unknown, or without data", lambda e: not e.supports and e.age_s is None),
            (
                "rules out other causes",
                lambda e: not e.supports and e.age_s is not None and self.cause not in e.contradicts,
            ),
        )
        for head, holds in groups:
            found = [f"    {e}" for e in self.evidence if holds(e)]
            lines += [f"  {head}:", *found] if found else []
        return "\n".join(lines)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        return {"text/plain": repr(self), "text/html": self.html}

    @property
    def html(self) -> str:
        """The causes with the evidence for and against each, as a part of an HTML page."""
        causes = [
            {
                "headline": found.headline,
                "name": str(Other(found.cause, found.subject)),
                "confidence": formatting.ratio(found.confidence, 0),
                "supports": [e for e in self.evidence if found.cause in e.supports],
                "contradicts": [e for e in self.evidence if found.cause in e.contradicts],
            }
            for found in self.each
        ]
        named = {found.cause for found in self.each}
        rest = [e for e in self.evidence if not named & {*e.supports, *e.contradicts}]
        return templates.render(
            "runbooks/templates/diagnosis.html",
            causes=causes,
            fault=whose(self.cause, self.subject),
            as_of=formatting.moment(self.window.end),
            rest=[e for e in rest if e.age_s is not None],
            unknown=[e for e in rest if e.age_s is None],
        )


def _explained(first: Found, other: Found, results: Sequence[Found]) -> bool:
    """
    Return whether the cause of one answer can produce every symptom of another.
    """
    if first is other or not first.cause or not other.cause:
        return False
    if first.cause == BOTH:
        found = [f for f in results if f.subject in PROVIDERS and f.cause and f.cause != UNDETERMINED]
        parts = [f for f in found if f.source == "probe"] or found
        if other.subject in PROVIDERS and other.cause in {p.cause for p in parts}:
            return len({p.cause for p in parts}) == 1
        return any(_explained(part, other, results) for part in parts)
    if first.subject in PROVIDERS and (
        other.cause == BOTH or (other.subject in PROVIDERS and other.subject != first.subject)
    ):
        return False
    return (other.symptoms or frozenset({other.cause})) <= PRODUCES.get(first.cause, frozenset())


def diagnose(view: "Status") -> Diagnosis:
    """Diagnose the fault at the end of a view."""
    questions = Questions(view)
    through, others = questions.asked()
    results = [*through, *others]
    known = [f for f in results if f.cause is not None]
    hits = [f for f in results if f.cause]
    roots = [
        f
        for i, f in enumerate(hits)
        if not any(_explained(g, f, results) and (j < i or not _explained(f, g, results)) for j, g in enumerate(hits))
    ]
    beyond_lag = any(SLOWER in f.symptoms or f.cause in NOT_BY_LAG for f in hits)
    faults = sorted((f for f in roots if f.cause not in NO_FAULT), key=lambda f: _rank(f, beyond_lag))
    # Nothing is expected of a closed market, whatever restarted before.
    over = [f for f in roots if f.cause == "market_closed" and all(g.cause in PASSED for g in faults)]
    first = next(iter([*over, *faults, *roots]), None)
    alert = None
    if (first is None or first.cause in (*NO_FAULT, UNDETERMINED)) and not (first and first.cause == "market_closed"):
        alert = _worst_alert(view)
        if alert and not (first and (first.cause == UNDETERMINED or first.cause in EXPLAINS.get(alert["rule"], ()))):
            first = questions.of_alert(alert)
            results, known = [*results, first], [*known, first]
    answered = len(known) / len(results)
    if first is None:
        seen = any(f.cause == "" for f in others)
        cause = (
            NONE if seen and 2 * len(known) >= len(results) else UNDETERMINED
        )  # At least half of the questions have an answer.
        sure = round(answered * questions.chains.certainty(), 4) if cause == NONE else 0.0
        return Diagnosis(view.window, cause, None, sure, None, _evidence(results, None, view))
    assert first.cause
    other_causes: dict[Other, float] = {}
    for f in faults:
        if (f.cause, f.subject) != (first.cause, first.subject) and f.cause not in (
            UNDETERMINED,
            *(("monitor_down",) if first.cause == "monitor_down" else ()),
        ):
            other_causes.setdefault(Other(f.cause or "", f.subject), round(f.agree * (0.5 + 0.5 * answered), 2))
    bears = 1.0 if first.cause.startswith("costs_") else 0.5 + 0.5 * answered
    disputed = any(
        f.cause == ""
        and first.cause in f.excludes
        and _about(f, first)
        and f.at_us is not None
        and f.at_us > (first.since_us or first.at_us or view.window.end_us)
        for f in results
    )
    sure = first.agree * bears * (CONTRADICTED if disputed else 1.0) if first.cause != UNDETERMINED else 0.0
    severity = _severity(questions, first) or (alert["severity"] if alert else None)
    return Diagnosis(
        view.window,
        first.cause,
        first.subject,
        round(sure, 2),
        severity,
        _evidence(results, first, view),
        tuple(other_causes),
        alert["runbook"] if alert else None,
        tuple(other_causes.values()),
    )


def _rank(found: Found, beyond_lag: bool) -> int:
    """
    Return the rank of a cause; lower comes first.

    First come causes that a slow collector cannot explain, then lasting ones, ended ones, and undetermined ones.
    """
    if beyond_lag and found.subject == "collector":
        return 1
    return 3 if found.cause == UNDETERMINED else 2 * int(found.cause in PASSED)


def _worst_alert(view: "Status") -> dict[str, Any] | None:
    """
    Return the worst active alert that sends notifications; an inhibited one only if there is no other.

    An alert that is inhibited by a resolved alert is left out: its window still holds the resolved fault.
    """
    known = {a["id"]: a for a in view.alerts}
    over = {t.alert for t in view.recorded or () if t.kind in ("resolved", "ended")} - set(known)

    def explained(alert: dict[str, Any], passed: frozenset[str] = frozenset()) -> bool:
        by = alert["inhibited_by"]
        return by in over or (by in known and by not in passed and explained(known[by], passed | {by}))

    active = [a for a in view.alerts if a["state"] == "firing" and a["severity"] in SENT and not explained(a)]
    return next((a for a in active if not a["inhibited_by"]), next(iter(active), None))


def _severity(questions: Questions, first: Found) -> str | None:
    """Return the highest severity of the rules that point at a cause."""
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
    by_fills = fill_figures.finding(questions.view.counted) if questions.view.counted else None
    of_fills = [by_fills] if by_fills else []
    reached = [
        f.severity
        for f in (*questions.findings, *of_fills)
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
    """Return whether two answers are about the same subject; two providers differ."""
    return found.subject == first.subject or not {found.subject, first.subject} <= {*PROVIDERS}


def _evidence(results: Sequence[Found], first: Found | None, view: "Status") -> tuple[Evidence, ...]:
    """Return every answer as evidence: what it supports and contradicts, and its age."""
    made = []
    for f in results:
        supports = [f.cause] if f.cause else []
        if first and first.cause and first.cause != f.cause and _explained(first, f, results):
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
    """Diagnose the fault at a time; each rule is evaluated over its own window, whatever the length of the view."""
    return diagnose(status.view_at(workspace, at, length))
