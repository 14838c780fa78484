"""
Evaluate one figure against its rule.

The result is a `Finding`: a verdict, the highest severity reached, and one sentence with the measured value and the
limit. Without data a finding is never ok: a figure that could not be measured is *unknown*. A figure that nothing
measures, or that is not expected now, is shown but not evaluated.
"""

from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import NamedTuple

from opslib.alerting.alert_ids import of_subject
from opslib.foundation import formatting
from opslib.foundation.config.rules import NO_SUCCESS, SEVERITIES, Rule
from opslib.foundation.intervals import t_interval, wilson
from opslib.foundation.storage.snapshot_columns import PROVIDERS

VERDICT_OF = {"warning": "warning", "notify": "warning", "critical": "critical", "escalate": "critical"}
VERDICTS = ("critical", "unknown", "warning", "ok")  # Worst first: how verdicts add up.
EXIT_CODES = {"ok": 0, "warning": 1, "critical": 2, "unknown": 3}
NOT_MEASURED, NOT_EXPECTED, TOO_FEW = "not measured", "not expected", "too few samples"
CONTRADICTION = "the counts contradict each other"


class BudgetBurn(NamedTuple):
    """The burn rate of a budget at one severity, over its long and its short window; None is unknown."""

    long: float | None
    short: float | None
    bound: float | None  # The lower bound of both at 95 % confidence.


class Figure(NamedTuple):
    """
    A measured value, ready to be evaluated.

    Attributes:
        value: In the rule's unit; None is unknown.
        part: The counted part of `count` if the value is a rate: successes, valid contracts, zeros.
        count: Number of samples; None if there is no such number.
        coverage: Snapshots or probe samples received ÷ expected, 0 to 1; None if none was expected.
        absent: Why there is no value; ``not measured`` and ``not expected`` do not affect the panel's verdict.
        deviation: Standard deviation of the samples if the value is their mean.
        spent: For a burn rate, the values that each severity is evaluated by.
        page: The page load it is about (page id, load time), if it is about one.
        note: Additional fact for the alert's sentence; may be empty.
        span: The time range it is measured over, in words, if that is not the rule's window.
    """

    value: float | None
    part: int | None = None
    count: int | None = None  # type: ignore[assignment]  # It hides tuple.count, which is not used.
    coverage: float | None = None
    absent: str = ""
    deviation: float | None = None
    spent: Mapping[str, BudgetBurn] | None = None
    page: tuple[str | None, int | None] | None = None
    note: str = ""
    span: str = ""


class Finding(NamedTuple):
    """
    The result of evaluating a figure against its rule.

    Attributes:
        verdict: ok, warning, critical or unknown.
        severity: The highest severity reached; None if none is.
        limit: The limit of that severity; else of the lowest one.
        counted: Whether it counts in the verdict of its panel.
        why: Text of the sentence instead of a comparison: why the value is unknown, or the result of several figures.
        over: Length of the window that a share is measured over; None for other figures.
    """

    rule: Rule
    subject: str
    source: str
    figure: Figure
    verdict: str
    severity: str | None
    limit: float | str | None
    counted: bool = True
    why: str = ""
    over: timedelta | None = None

    @property
    def sentence(self) -> str:
        """
        The name, the measured value, the comparison and the limit.

        The time range is added if it is not the rule's window.
        """
        return self._compared + (f" ({self.figure.span})" if self.figure.span else "")

    @property
    def _compared(self) -> str:
        rule, figure = self.rule, self.figure
        name = named(rule, self.subject)
        if self.why:
            return f"{name}: {self.why}"
        worse, better = ("<", "≥") if rule.better == "higher" else (">", "≤")
        first = rule.thresholds[0][1]
        if figure.spent:
            value = _spending(rule, figure, self.severity)
        else:
            value = compared_value(rule, figure.value, first if self.limit is None else self.limit, self.over)
        if self.severity:
            assert self.limit is not None
            if (
                VERDICT_OF[self.severity] == "critical"
                and self.limit == first
                and rule.gate == "t"
                and figure.deviation is not None
            ):
                low, high = interval(rule, figure)
                return (
                    f"{name} ({value}) {worse} {rule.format_limit(first)}, as is its whole confidence interval "
                    f"({rule.format_value(low)} to {rule.format_value(high)})"
                )
            note = f": {figure.note}" if figure.note else ""
            return (
                f"{name} ({value}) {'=' if self.limit == NO_SUCCESS else worse} {rule.format_limit(self.limit)}{note}"
            )
        if figure.spent:
            return f"{name} ({value}): not {worse} {rule.format_limit(first)} in both windows of any severity"
        if figure.value is not None and not isinstance(first, str) and rule.crosses(figure.value, first):
            low, high = interval(rule, figure)
            return (
                f"{name} ({value}) {worse} {rule.format_limit(first)}, but not significant with {figure.count:,} "
                f"samples (confidence interval {rule.format_value(low)} to {rule.format_value(high)})"
            )
        missed = figure.value is not None and rule.crosses(figure.value, rule.objective)
        return f"{name} ({value}) {better} {rule.format_limit(first)}" + (
            f", no alert (objective {rule.format_limit(rule.objective)} not met)" if missed else ""
        )


def over_window(rule: Rule, source: str) -> timedelta | None:
    """
    Return the window that a rule's share is measured over; None for other figures, and for a share of the last chains.

    A share keeps breaching its threshold until the fault has left the window.
    """
    return rule.window if rule.unit == "ratio" and not rule.burn and source in ("page", "probe") else None


def compared_value(rule: Rule, value: float | None, limit: float | str, over: timedelta | None) -> str:
    """Return a value with its window, and with as many digits as show that it differs from the limit."""
    text = rule.format_value(value)
    if value is not None and not isinstance(limit, str) and value != limit:
        for digits in (None, 3, 4, 5, 6):
            text = rule.format_value(value, digits)
            if text != rule.format_value(limit, digits):
                break
    return text + (f" over {formatting.duration(over.total_seconds())}" if over else "")


def subject_title(subject: str) -> str:
    """Return the name of a subject as it is shown: a provider begins with a capital letter."""
    return subject.title() if subject in PROVIDERS else subject


def named(rule: Rule, subject: str) -> str:
    """Return the rule's title, with the subject unless that is the app."""
    return f"{rule.title}{of_subject(subject)}"


def past_limit(rule: Rule, subject: str, source: str, value: float | None, limit: float | str) -> str:
    """Return the sentence that a value crossed a limit."""
    if isinstance(limit, str):
        sign = "="
    elif rule.better == "higher":
        sign = "<"
    else:
        sign = ">"
    shown = compared_value(rule, value, limit, over_window(rule, source))
    return f"{named(rule, subject)} ({shown}) {sign} {rule.format_limit(limit)}"


def _spending(rule: Rule, figure: Figure, severity: str | None) -> str:
    """Return both windows of a burn rate, and how long its budget would last at a severity's rate, for people."""
    assert rule.burn and figure.spent is not None
    used_up = ""
    if severity and (speed := figure.spent[severity].long):
        budget = rule.burn.budget
        used_up = f"; the error budget of {budget.days} days would last {_days(budget / speed)}"
    return both_windows(rule, figure, severity or rule.thresholds[-1][0]) + used_up


def both_windows(rule: Rule, figure: Figure, severity: str) -> str:
    """Return the burn rate of a severity over its long and its short window, for people."""
    assert rule.burn and figure.spent is not None
    (long, short), spent = rule.burn.windows[severity], figure.spent[severity]
    return (
        f"{rule.format_value(spent.long)} over {formatting.duration(long.total_seconds())}, "
        f"{rule.format_value(spent.short)} over {formatting.duration(short.total_seconds())}"
    )


def _days(span: timedelta) -> str:
    hours = round(span.total_seconds() / 3600)
    return f"{hours} h" if hours < 48 else f"{hours // 24} days {hours % 24} h"


def worst(verdicts: Iterable[str]) -> str:
    """Return the worst verdict: critical > unknown > warning > ok; unknown if there is none."""
    found = set(verdicts)
    return next((v for v in VERDICTS if v in found), "unknown")


def describe_verdict(verdict: str, severities: Iterable[str | None], remark: str = "") -> str:
    """
    Return a verdict, and the worst severity where that is worse: ``warning (worst severity: notify)``.

    Args:
        severities: What the verdict sums up; None is no severity.
        remark: Shown in the same brackets.
    """
    worst = worst_severity(verdict, severities)
    remarks = "; ".join(filter(None, [remark, f"worst severity: {worst}" if worst else ""]))
    return f"{verdict} ({remarks})" if remarks else verdict


def worst_severity(verdict: str, severities: Iterable[str | None]) -> str:
    """Return the worst of severities where it is worse than the verdict that sums them up; else empty."""
    least = SEVERITIES.index(verdict) if verdict in SEVERITIES else -1
    worse = [s for s in severities if s is not None and SEVERITIES.index(s) > least]
    return max(worse, key=SEVERITIES.index, default="")


def interval(rule: Rule, figure: Figure) -> tuple[float, float]:
    """
    Return the confidence interval of a figure, by the rule's gate.

    Both ends are the value itself if there is nothing to estimate from.
    """
    assert figure.value is not None
    if rule.gate == "wilson" and figure.count:
        return wilson(figure.part or 0, figure.count, rule.confidence)
    if rule.gate == "t" and figure.deviation is not None and figure.count:
        return t_interval(figure.value, figure.deviation, figure.count, rule.confidence)
    return figure.value, figure.value


def bound(rule: Rule, figure: Figure) -> float:
    """Return the end of the confidence interval that must cross a limit."""
    low, high = interval(rule, figure)
    return high if rule.better == "higher" else low


def evaluate_figure(rule: Rule, subject: str, source: str, figure: Figure) -> Finding:
    """
    Evaluate a figure against its rule.

    A rate under the ``wilson`` gate crosses a limit only if its whole confidence interval does: one failed request of
    thirty is no incident. A mean under ``t`` (its distance from zero is evaluated) crosses a limit if the mean does and
    its interval excludes zero; it is critical if the whole interval is beyond the first limit. Too few samples or too
    low a coverage make a figure unknown.
    """
    first = rule.thresholds[0][1]
    if figure.value is None:
        return Finding(
            rule,
            subject,
            source,
            figure,
            "unknown",
            None,
            first,
            figure.absent not in (NOT_MEASURED, NOT_EXPECTED, TOO_FEW),
            figure.absent or "no data",
        )
    if figure.value != figure.value:
        return Finding(rule, subject, source, figure, "unknown", None, first, True, "not a number")
    if figure.coverage is not None and figure.coverage < rule.min_coverage:
        what = "snapshots" if source == "page" else "probes"
        why = (
            f"only {formatting.ratio(figure.coverage, 0)} of the expected {what} received "
            f"(≥ {formatting.ratio(rule.min_coverage, 0)} required)"
        )
        return Finding(rule, subject, source, figure, "unknown", None, first, True, why)
    if figure.count is not None and figure.count < rule.min_count:
        why = (
            f"insufficient data (n={figure.count}; {rule.min_count} required)"
            if rule.gate == "t"
            else f"too few samples ({figure.count} of {rule.min_count} required)"
        )
        return Finding(rule, subject, source, figure, "unknown", None, first, False, why)
    reached = _reached(rule, figure)
    if reached is None:
        return Finding(rule, subject, source, figure, "ok", None, first, over=over_window(rule, source))
    severity, limit = reached
    verdict = VERDICT_OF[severity]
    return Finding(rule, subject, source, figure, verdict, severity, limit, over=over_window(rule, source))


def _reached(rule: Rule, figure: Figure) -> tuple[str, float | str] | None:
    """Return the highest severity whose limit a figure crosses, with that limit."""
    assert figure.value is not None
    first = rule.thresholds[0][1]
    if figure.spent is None and not isinstance(first, str) and not rule.crosses(figure.value, first):
        return None  # If the value does not cross the first limit, its interval crosses none.
    end = bound(rule, figure)
    found: tuple[str, float | str] | None = None
    spread = rule.gate == "t" and figure.deviation is not None
    if spread and end <= 0:
        return None  # The difference from zero is not significant.
    for severity, limit in rule.thresholds:
        if spread and not isinstance(limit, str):
            sure = isinstance(first, str) or rule.crosses(end, first)
            past = rule.crosses(figure.value, limit) and (VERDICT_OF[severity] != "critical" or sure)
            if severity == "critical" and sure and not past and not isinstance(first, str):
                # The whole interval is beyond the first limit, so the severity is critical and the sentence names it.
                found = severity, first
        elif isinstance(limit, str):
            past = figure.part == 0
        elif figure.spent is not None:
            spent = figure.spent[severity].bound
            past = spent is not None and rule.crosses(spent, limit)
        else:
            past = rule.crosses(end, limit)
        found = (severity, limit) if past else found
    return found


def still_beyond_clear(rule: Rule, figure: Figure, severity: str, limit: float | str) -> bool:
    """Return whether the value is still beyond the clear threshold of a severity; uses the value, not its interval."""
    if isinstance(limit, str):
        return figure.part == 0
    value = value_on(figure, severity)
    if value is not None and rule.gate == "t" and figure.deviation is not None and severity == "critical":
        # It can be critical because its whole interval is beyond the first limit; it clears when that ends.
        name, first = rule.thresholds[0]
        if not isinstance(first, str) and rule.crosses(bound(rule, figure), rule.clear.get(name, first)):
            return True
    return value is not None and rule.crosses(value, rule.clear.get(severity, limit))


def value_on(figure: Figure, severity: str) -> float | None:
    """Return the value that a severity is evaluated by: for a burn rate, the lesser of its two windows."""
    if figure.spent is None:
        return figure.value
    spent = figure.spent.get(severity)
    return None if spent is None or spent.long is None or spent.short is None else min(spent.long, spent.short)
