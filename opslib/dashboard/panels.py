"""Show one panel: its verdict, its table and its chart."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from opslib.alerting import evaluation, probe_conditions
from opslib.alerting.alert_ids import source_name
from opslib.alerting.verdicts import TOO_FEW, VERDICTS, Finding, describe_verdict, worst_severity
from opslib.dashboard.probe_summary import ProbeSummary
from opslib.foundation import formatting, templates
from opslib.foundation.clock import Window
from opslib.foundation.config.rules import SEVERITIES

MOST_TYPES = 3
FAULT = " Fault: "  # Stands in the sentence of our probes that names a problem and whose fault it is.
GOOD = ("ok:", "info:", "not evaluated:")  # How the sentences of a panel begin that breach no threshold.


@dataclass(frozen=True)
class Panel:
    """
    One panel of the dashboard: a verdict, the sentences behind it, a table and a chart.

    The text is the same on every machine. The chart is shown only where a front end displays images.

    Attributes:
        verdict: ok, warning, critical or unknown.
        window: The window of every figure, unless a sentence names another.
        findings: Every evaluated figure behind the verdict.
        alerted: The severity of each active alert of its rules.
        summaries: What our probes found, in sentences.
        rows: Label, value, and the value that the guide's method reads off the page, where that differs.
        guide: The heading of those values, with the span that they cover.
        notes: Facts that a reader needs beside the figures.
        draw: Draws the chart on an Axes.
    """

    name: str
    title: str
    verdict: str
    window: Window
    findings: tuple[Finding, ...]
    alerted: tuple[str, ...]
    summaries: tuple[ProbeSummary, ...]
    rows: tuple[tuple[str, str, str], ...]
    guide: str
    notes: tuple[str, ...]
    draw: Callable[[Any], Any]

    @property
    def evaluated(self) -> bool:
        """Whether anything could be evaluated."""
        return any(f.counted for f in self.findings) or any(s.verdict for s in self.summaries)

    @property
    def verdict_text(self) -> str:
        """The verdict in words, with the worst severity where that is worse, or that nothing could be evaluated."""
        return describe_verdict(self.verdict, self._severities, "" if self.evaluated else "nothing to evaluate")

    @property
    def severity(self) -> str:
        """The worst severity where it is worse than the verdict, such as notify; else the verdict."""
        return worst_severity(self.verdict, self._severities) or self.verdict

    @property
    def _severities(self) -> tuple[str | None, ...]:
        return (*(f.severity for f in self.findings if f.counted), *self.alerted)

    @property
    def heading(self) -> str:
        """The title, the verdict and the length of the window."""
        return f"{self.title}: {self.verdict_text}, over {formatting.duration(self.window.seconds)}"

    @property
    def sentences(self) -> list[str]:
        """
        The sentences behind the verdict.

        First what breaches a threshold, then what our probes found, then what is ok. The last line lists what was not
        evaluated. Where a threshold is breached, a problem that our probes find is labelled as its cause.
        """
        evaluated = sorted(
            (f for f in self.findings if f.counted),
            key=lambda f: (VERDICTS.index(f.verdict), -SEVERITIES.index(f.severity) if f.severity else 1),
        )
        breaching, healthy = (
            [
                f"{f.severity or f.verdict}: {_source_prefix(f)}{f.sentence}{_of_what(f)}{_not_significant(f)}"
                for f in evaluated
                if (f.verdict == "ok") is ok
            ]
            for ok in (False, True)
        )
        probed = [
            f"{'cause' if breaching and s.verdict and FAULT in s.words else s.verdict or 'info'}: {s.words}"
            for s in sorted(self.summaries, key=lambda s: VERDICTS.index(s.verdict or "ok"))
        ]
        return breaching + probed + healthy + ([f"not evaluated: {'; '.join(self.skipped)}"] if self.skipped else [])

    @property
    def skipped(self) -> list[str]:
        """The sentences of what was not evaluated."""
        return list(
            dict.fromkeys(_source_prefix(f) + f.sentence + _own_window(f) for f in self.findings if not f.counted)
        )

    @property
    def sign(self) -> str:
        """The sign of its verdict."""
        return formatting.SIGNS[self.verdict]

    @property
    def breaches(self) -> list[tuple[str, str, str]]:
        """The sign, the severity and the sentence of everything that is not ok; a cause has no sign."""
        parts = [s.partition(": ") for s in self.sentences if not s.startswith(GOOD)]
        return [(formatting.SIGNS.get(severity, ""), severity, words) for severity, _, words in parts]

    @property
    def good(self) -> list[str]:
        """The sentences of what is ok, for information, or not evaluated, which HTML shows only on demand."""
        return [s for s in self.sentences if s.startswith(GOOD)]

    @property
    def good_words(self) -> str:
        """How many sentences of each kind are shown only on demand."""
        counts = [(sum(s.startswith(f"{kind}:") for s in self.good), kind) for kind in ("ok", "info")]
        return ", ".join(f"{n} {kind}" for n, kind in [*counts, (len(self.skipped), "not evaluated")] if n)

    def __repr__(self) -> str:
        table = formatting.table(["figure", "value", self.guide], [list(r) for r in self.rows])
        return "\n".join(
            [
                self.heading,
                *(f"  {s}" for s in self.sentences),
                "",
                table,
                *(f"  {n}" for n in self.notes),
            ]
        )

    def _html(self) -> str:
        return templates.render("dashboard/templates/panel.html", panel=self)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        return {"text/plain": repr(self), "text/html": self._html()}

    def _ipython_display_(self) -> None:
        from opslib.dashboard import charts

        charts.show(
            self._repr_mimebundle_(),
            self.draw,
            f"{self.title} over time",
            f"{self.title} over time; {self.verdict_text}: {''.join(self.sentences[:1]).partition(': ')[2]}",
        )


def _of_what(finding: Finding) -> str:
    """Say what a share of usable responses is a share of; empty for other figures."""
    return ", of the responses that arrived" if finding.rule.name == "answers" and not finding.why else ""


def _not_significant(finding: Finding) -> str:
    """Name the worst threshold that the value is beyond without being significantly beyond; empty if there is none."""
    rule, figure, severity = finding.rule, finding.figure, finding.severity
    if severity is None or figure.value is None or not figure.count or figure.spent:
        return ""
    beyond = [
        limit
        for name, limit in rule.thresholds
        if SEVERITIES.index(name) > SEVERITIES.index(severity)
        and not isinstance(limit, str)
        and rule.crosses(figure.value, limit)
    ]
    sign = "<" if rule.better == "higher" else ">"
    return (
        f"; also {sign} {rule.format_limit(beyond[-1])}, but not significantly (n={figure.count:,})" if beyond else ""
    )


def _own_window(finding: Finding) -> str:
    """Return the window of a condition with too few samples, which is its rule's, not the panel's."""
    own = finding.why.startswith(TOO_FEW) and finding.rule.name in probe_conditions.NAMES
    return f" over {formatting.duration(finding.rule.window.total_seconds())}" if own else ""


def _source_prefix(finding: Finding) -> str:
    """Return the source of a finding as the beginning of a sentence; empty for the app's page."""
    return "" if finding.source == evaluation.PAGE else f"{source_name(finding.source)}: "
