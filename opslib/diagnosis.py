"""
This module knows what is the matter at a moment, by what was seen, and nothing else: one of `causes.CAUSES`, with
every check that speaks for it or against another, and how sure that is.

It is a function of what is in the store, so asked later as of a moment it says the same. What nobody has looked at speaks
neither for nor against; where too little is known, or what is known contradicts itself, the cause is undetermined.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from opslib import text
from opslib.causes import HEADLINES, MASSIVE_OUT, NO_FAULT, NONE, RUNBOOK_OF, UNDETERMINED
from opslib.inquiry import Found, Inquiry

if TYPE_CHECKING:
    from opslib.panels import View


class Check(NamedTuple):
    """One question that was asked, what was seen, and whether that speaks for the cause, against it, or (not known) for nothing."""

    question: str
    answer: str
    speaks: str


@dataclass(frozen=True)
class Diagnosis:
    """
    What is the matter.

    Attributes:
        cause: One of `causes.CAUSES`.
        subject: massive, tradier, app, a symbol; None where it is about none.
        confidence: Of what was looked at the share that agrees, times half and half the share of the questions that could be answered; of what trades cost only the first, for no look at a provider or a server bears on that.
        checks: Every question that was asked.
        also: Other causes that were found beside it.
    """

    cause: str
    subject: str | None
    confidence: float
    checks: tuple[Check, ...] = ()
    also: tuple[str, ...] = ()

    @property
    def headline(self) -> str:
        """What it means, in one plain sentence."""
        told = HEADLINES[self.cause].format((self.subject or "the provider").title() if self.subject in ("massive", "tradier") else self.subject or "the provider")
        return told[0].upper() + told[1:]

    @property
    def runbook(self) -> str | None:
        """Where it goes on; None where nothing needs be done."""
        return "massive_down" if self.subject == "massive" and self.cause in MASSIVE_OUT else RUNBOOK_OF.get(self.cause)

    @property
    def words(self) -> str:
        """What it is, and how sure that is."""
        more = f" Beside it: {', '.join(self.also)}." if self.also else ""
        return f"{self.cause}{' of ' + self.subject if self.subject else ''}, {text.ratio(self.confidence, 0)} sure: {self.headline}{more}"

    def as_json(self) -> dict[str, Any]:
        """For a program, and for the record."""
        return {"cause": self.cause, "subject": self.subject, "confidence": round(self.confidence, 2), "runbook": self.runbook, "also": list(self.also), "words": self.words, "checks": [c._asdict() for c in self.checks]}

    def __repr__(self) -> str:
        lines = [self.words]
        for speaks, head in (("for", "speaks for it"), ("against", "speaks against something else"), ("nothing", "not known")):
            lines += [f"  {head}: {c.question} {c.answer}" for c in self.checks if c.speaks == speaks]
        return "\n".join([*lines, *([f"  goes on in: ops runbook show {self.runbook}"] if self.runbook else [])])


# What explains another away: where the first is found, the others are its consequences.
EXPLAINS: dict[str, Callable[[str, str | None], bool]] = {
    "monitor_down": lambda cause, subject: True,
    "our_network": lambda cause, subject: cause not in ("greeks_units",),
    "both_providers_down": lambda cause, subject: subject in ("massive", "tradier") or cause in ("error_storm", "provider_partial"),
    "app_down": lambda cause, subject: cause.startswith("socket_") or cause in ("app_slow", "error_storm", "dashboard_slow", "app_restarted", "clock_skew"),
    "app_restarted": lambda cause, subject: cause.startswith("socket_") or cause in ("dashboard_slow", "error_storm"),
    "dashboard_slow": lambda cause, subject: False,
}


def _explained(first: Found, other: Found) -> bool:
    """Is what another question found a consequence of what this one did?"""
    assert first.cause and other.cause
    if other.cause in NO_FAULT and first.cause not in NO_FAULT:
        return True
    if first.cause in EXPLAINS:
        return EXPLAINS[first.cause](other.cause, other.subject)
    return first.cause.startswith(("provider_", "our_timeout")) and other.cause in ("error_storm", "our_timeout_too_short", "provider_partial")


def diagnose(view: "View") -> Diagnosis:
    """What is the matter at the end of a view?"""
    asked = Inquiry(view).asked()
    hits = [f for f in asked if f.cause]
    known = [f for f in asked if f.cause is not None]
    faults = [f for f in hits if f.cause not in NO_FAULT] or hits
    first = faults[0] if faults else None
    answered = len(known) / len(asked)
    if first is None:
        seen = any(f.cause == "" for f in asked[4:])
        cause = NONE if seen and 2 * len(known) >= len(asked) else UNDETERMINED  # More was answered than was not.
        return Diagnosis(cause, None, answered if cause == NONE else 0.0, tuple(_check(f, first) for f in asked))
    also = tuple(dict.fromkeys(f"{f.cause}{' of ' + f.subject if f.subject else ''}" for f in faults[1:] if not _explained(first, f) and (f.cause, f.subject) != (first.cause, first.subject)))
    assert first.cause
    bears = 1.0 if first.cause.startswith("costs_") else 0.5 + 0.5 * answered
    sure = first.agree * bears if first.cause != UNDETERMINED else 0.0
    return Diagnosis(first.cause, first.subject, round(sure, 2), tuple(_check(f, first) for f in asked), also)


def _check(found: Found, first: Found | None) -> Check:
    speaks = "nothing" if found.cause is None else "against" if found.cause == "" else "for" if first and (found is first or _explained(first, found)) else "for"
    return Check(found.question, found.answer, speaks)
