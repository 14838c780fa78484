"""Give a check its context, and turn the verdicts of rules into its result."""

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

LAST = 12  # The number of probe samples that are recorded with a result.
HOUR = timedelta(hours=1)
LATELY = timedelta(minutes=5)


@dataclass(frozen=True)
class CheckContext:
    """
    The context of a check.

    Attributes:
        view: The status at the evaluation time.
        workspace: For data that a status does not hold: chains, fills, costs.
        step: The step; `of` is its subject.
        incident: The incident.
    """

    view: "Status"
    workspace: "Workspace"
    step: Step
    incident: "Incident"

    @property
    def at_us(self) -> int:
        """The evaluation time, microseconds since 1970."""
        return self.view.window.end_us

    @property
    def of(self) -> str:
        """The subject of the check."""
        return self.step.of

    @property
    def probed(self) -> ProbeHistory:
        """The history of our probes; empty if nothing is probed."""
        return self.view.probed or ProbeHistory()

    def last(self, length: timedelta) -> Window:
        """Return the window of a length that ends at the evaluation time."""
        return Window.before(self.view.window.end, length)

    @cached_property
    def findings(self) -> list[Finding]:
        """The findings of the rules, each over its own window, as for alerts."""
        return evaluation.evaluate_rules(
            self.view.counters, self.view.rules.without_budgets(), self.view.window.end, self.view.probed
        )

    def by_rules(
        self,
        names: Iterable[str],
        subject: str = "app",
        view: str = "",
        more: str = "",
        next: str = "",
        sources: Iterable[str] = (),
    ) -> CheckResult:
        """
        Return whether some rules find a subject healthy.

        The result is unknown if no rule could be measured, or if one that is required could not and the rest is ok.

        Args:
            more: Added to the words.
            next: The runbook to continue with if a threshold is crossed.
            sources: Use only these sources; empty means every source.
        """
        wanted = tuple(names)
        found = [
            f
            for f in self.findings
            if f.rule.name in wanted and f.subject == subject and (not sources or f.source in sources)
        ]
        measured = [f for f in found if f.verdict != "unknown" or f.counted]
        query = f"rules {', '.join(wanted)} of {subject}, each over its own window"
        if not measured:
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
            for f in measured
        ]
        bad = [f for f in measured if f.verdict in ("warning", "critical")]
        if bad:
            good = False
        elif any(f.verdict == "unknown" for f in measured):
            good = None
        else:
            good = True
        words = "; ".join(
            f"{source_prefix(f.source)}{f.sentence}" for f in [*bad, *(f for f in measured if f not in bad)]
        )
        return CheckResult(good, f"{words}{_also(more)}", content, "rules", query, next if bad else "", view)


def source_prefix(source: str) -> str:
    """Return the prefix that names a source."""
    return {
        "page": "app page: ",
        "probe": "probes: ",
        "chain": "chains: ",
        "logs": "log: ",
        "fills": "fills: ",
    }[source]


def _also(more: str) -> str:
    return f"; {more}" if more else ""


def sample_as_json(sample: Sample) -> dict[str, Any]:
    """Return one probe sample for the record."""
    return {
        "at_us": sample.ts_us,
        "probe": sample.probe,
        "subject": sample.subject,
        "outcome": sample.outcome,
        "seconds": sample.seconds,
        "value": sample.value,
        "detail": sample.details(),
    }


def local(at_us: int) -> str:
    """Return a time of day for people."""
    return f"{clock.instant(at_us).astimezone(formatting.NEW_YORK):%H:%M:%S} New York"


def seconds(found: float | None) -> str:
    """Return a short duration for people."""
    return formatting.number(found, "s", 2)
