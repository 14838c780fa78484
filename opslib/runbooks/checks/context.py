"""Give a check what it is asked about, and turn the verdict of rules into its answer."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any

from opslib.alerting import evaluation
from opslib.alerting.verdicts import Finding
from opslib.foundation import clock, formatting
from opslib.foundation.clock import Window
from opslib.runbooks.execution import CheckResult
from opslib.runbooks.steps import Step
from opslib.telemetry.probes.history import ProbeHistory
from opslib.telemetry.probes.store import Sample

if TYPE_CHECKING:
    from opslib.dashboard.status import Status
    from opslib.foundation.config.workspace import Workspace
    from opslib.incidents.incident import Incident

LAST = 12  # So many looks go into the record with what a check saw.
HOUR = timedelta(hours=1)
LATELY = timedelta(minutes=5)


@dataclass(frozen=True)
class CheckContext:
    """
    What a check is asked about.

    Attributes:
        view: Everything as of the moment.
        workspace: For what a view does not hold: chains, fills, costs.
        step: The step; `of` says what it is about.
        incident: As its record stands.
    """

    view: "Status"
    workspace: "Workspace"
    step: Step
    incident: "Incident"

    @property
    def at_us(self) -> int:
        """The moment, microseconds since 1970."""
        return self.view.window.end_us

    @property
    def of(self) -> str:
        """What the check is asked about."""
        return self.step.of

    @property
    def probed(self) -> ProbeHistory:
        """What our own looks saw; nothing, where nobody looks."""
        return self.view.probed or ProbeHistory()

    def last(self, length: timedelta) -> Window:
        """So long before the moment."""
        return Window.before(self.view.window.end, length)

    @cached_property
    def judged(self) -> list[Finding]:
        """What the rules say, each over its own window, as an alert reads it."""
        return evaluation.evaluate_rules(
            self.view.tape, self.view.rules.without_budgets(), self.view.window.end, self.view.probed
        )

    def ruled(
        self,
        names: Iterable[str],
        subject: str = "app",
        view: str = "",
        more: str = "",
        next: str = "",
        sources: Iterable[str] = (),
    ) -> CheckResult:
        """
        Do some rules find a subject well?

        Unknown where none of them could be measured, or one that counts could not and the rest is well.

        Args:
            more: Said after it.
            next: Of `CheckResult`, where it is not well.
            sources: Only what these say; empty is whoever says anything.
        """
        wanted = tuple(names)
        found = [
            f
            for f in self.judged
            if f.rule.name in wanted and f.subject == subject and (not sources or f.source in sources)
        ]
        told = [f for f in found if f.verdict != "unknown" or f.counted]
        query = f"rules {', '.join(wanted)} of {subject}, each over its own window"
        if not told:
            why = (
                "; ".join(dict.fromkeys(f.sentence for f in found))
                or f"nothing measures {', '.join(wanted)} of {subject}"
            )
            return CheckResult(None, f"{why}{_also(more)}", None, "rules", query, view=view)
        content = [
            {
                "rule": f.rule.name,
                "subject": f.subject,
                "source": f.source,
                "value": f.figure.value,
                "part": f.figure.part,
                "count": f.figure.count,
                "limit": f.limit,
                "verdict": f.verdict,
            }
            for f in told
        ]
        bad = [f for f in told if f.verdict in ("warning", "critical")]
        if bad:
            good = False
        elif any(f.verdict == "unknown" for f in told):
            good = None
        else:
            good = True
        words = "; ".join(f"{said(f.source)}{f.sentence}" for f in [*bad, *(f for f in told if f not in bad)])
        return CheckResult(good, f"{words}{_also(more)}", content, "rules", query, next if bad else "", view)


def said(source: str) -> str:
    """By whom is it said?"""
    return {
        "page": "by the page: ",
        "probe": "by our looks: ",
        "chain": "by our chains: ",
        "logs": "by the log: ",
        "fills": "by the fills: ",
    }[source]


def _also(more: str) -> str:
    return f"; {more}" if more else ""


def looked(sample: Sample) -> dict[str, Any]:
    """One look, for the record."""
    return {
        "at_us": sample.ts_us,
        "probe": sample.probe,
        "subject": sample.subject,
        "outcome": sample.outcome,
        "seconds": sample.seconds,
        "value": sample.value,
        "detail": sample.told(),
    }


def local(at_us: int) -> str:
    """A time of day for people."""
    return f"{clock.instant(at_us).astimezone(formatting.NEW_YORK):%H:%M:%S} New York"


def seconds(found: float | None) -> str:
    """A short time for people."""
    return formatting.number(found, "s", 2)
