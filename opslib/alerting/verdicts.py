"""
Judge one figure against its rule.

What comes out is a `Finding`: a verdict, the highest rung reached, and one sentence with the measured value beside the
limit. Never green without data: a figure that could not be measured is *unknown*; one that nothing measures, or that
nobody expects now, is shown and not counted.
"""

from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import NamedTuple

from opslib.foundation import formatting
from opslib.foundation.config.rules import NO_SUCCESS, Rule
from opslib.foundation.intervals import t_interval, wilson

VERDICT_OF = {"warning": "warning", "notify": "warning", "critical": "critical", "escalate": "critical"}
VERDICTS = ("critical", "unknown", "warning", "ok")  # Worst first: how verdicts add up.
EXIT_CODES = {"ok": 0, "warning": 1, "critical": 2, "unknown": 3}
NOT_MEASURED, NOT_EXPECTED, TOO_FEW = "not measured", "not expected", "too few"
CONTRADICTION = "the counts contradict each other"


class BudgetBurn(NamedTuple):
    """How many times too fast a budget is spent, on one rung: over its long and its short window; None is unknown."""

    long: float | None
    short: float | None
    bound: float | None  # The least that both may be, with 95 % confidence.


class Figure(NamedTuple):
    """
    What was measured, ready to be judged.

    Attributes:
        value: In the rule's unit; None is unknown.
        part: How many of `count` the rate counts, where it is a rate: successes, valid ones, zeros.
        count: How many samples it is made of; None where there is no such number.
        coverage: Looks received ÷ expected, 0 to 1; None where none was expected.
        absent: Why there is no value; ``not measured`` and ``not expected`` are not counted against anyone.
        deviation: Standard deviation of the samples, where the value is their mean.
        spent: Of a burn rate, what each rung is judged by.
        page: The page it is about (its id, and when it was loaded), where it is about one.
        note: What is known beside the value, for the sentence of an alert; empty is nothing.
        span: Over what it is measured, in words, where that is not the rule's window.
    """

    value: float | None
    part: int | None = None
    count: int | None = None  # type: ignore[assignment]  # Nobody calls the tuple's own count.
    coverage: float | None = None
    absent: str = ""
    deviation: float | None = None
    spent: Mapping[str, BudgetBurn] | None = None
    page: tuple[str | None, int | None] | None = None
    note: str = ""
    span: str = ""


class Finding(NamedTuple):
    """
    What a figure amounts to against its rule.

    Attributes:
        verdict: ok, warning, critical or unknown.
        severity: The highest rung reached; None where none is.
        limit: The limit of that rung; else of the first one.
        counted: Does it count in the verdict of its panel?
        why: What the sentence says instead of comparing a value: why it is unknown, or what several figures come to.
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

    @property
    def sentence(self) -> str:
        """
        Name, measured value, comparison, limit; and over what it is measured, where that is not the rule's window.
        """
        return self._compared + (f" ({self.figure.span})" if self.figure.span else "")

    @property
    def _compared(self) -> str:
        rule, figure = self.rule, self.figure
        name = named(rule, self.subject)
        if self.why:
            return f"{name}: {self.why}"
        worse, better = ("<", "≥") if rule.better == "higher" else (">", "≤")
        value = _spending(rule, figure, self.severity) if figure.spent else rule.told(figure.value)
        first = rule.ladder[0][1]
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
                    f"{name} ({value}) {worse} {rule.limit_told(first)}, and so is its whole interval "
                    f"({rule.told(low)} to {rule.told(high)})"
                )
            more = _exhausted(rule, figure, self.severity) + (f": {figure.note}" if figure.note else "")
            return f"{name} ({value}) {'=' if self.limit == NO_SUCCESS else worse} {rule.limit_told(self.limit)}{more}"
        if figure.spent:
            return f"{name} ({value}): not past {rule.limit_told(first)} over both windows of any rung"
        if figure.value is not None and not isinstance(first, str) and rule.past(figure.value, first):
            low, high = interval(rule, figure)
            return (
                f"{name} ({value}) {worse} {rule.limit_told(first)}, but of {figure.count:,} it could be "
                f"chance ({rule.told(low)} to {rule.told(high)})"
            )
        below = figure.value is not None and rule.past(figure.value, rule.objective)
        return f"{name} ({value}) {better} {rule.limit_told(first)}" + (
            f", below objective {rule.limit_told(rule.objective)}" if below else ""
        )


def named(rule: Rule, subject: str) -> str:
    """What is judged, and of whom."""
    return rule.title + ("" if subject == "app" else f" of {subject}")


def past_limit(rule: Rule, subject: str, value: float | None, limit: float | str) -> str:
    """That a value is past a limit, in one sentence."""
    if isinstance(limit, str):
        sign = "="
    elif rule.better == "higher":
        sign = "<"
    else:
        sign = ">"
    return f"{named(rule, subject)} ({rule.told(value)}) {sign} {rule.limit_told(limit)}"


def _spending(rule: Rule, figure: Figure, rung: str | None) -> str:
    """Both windows of a burn rate, for people."""
    assert rule.burn and figure.spent is not None
    rung = rung or rule.ladder[-1][0]
    (long, short), spent = rule.burn.windows[rung], figure.spent[rung]
    return (
        f"{rule.told(spent.long)} over {formatting.duration(long.total_seconds())}, {rule.told(spent.short)} "
        f"over {formatting.duration(short.total_seconds())}"
    )


def _exhausted(rule: Rule, figure: Figure, rung: str) -> str:
    """When is a budget gone that is spent like this?"""
    speed = figure.spent[rung].long if rule.burn and figure.spent else None
    if not rule.burn or not speed:
        return ""
    budget = rule.burn.budget
    return f"; at this rate the budget of {budget.days} days is gone in {_days(budget / speed)}"


def _days(span: timedelta) -> str:
    hours = round(span.total_seconds() / 3600)
    return f"{hours} h" if hours < 48 else f"{hours // 24} days {hours % 24} h"


def worst(verdicts: Iterable[str]) -> str:
    """What do verdicts add up to? Critical > unknown > warning > ok; of nothing at all nothing is known."""
    found = set(verdicts)
    return next((v for v in VERDICTS if v in found), "unknown")


def interval(rule: Rule, figure: Figure) -> tuple[float, float]:
    """
    Between which values does the true one lie, by the rule's gate?

    The value itself where there is nothing to estimate from.
    """
    assert figure.value is not None
    if rule.gate == "wilson" and figure.count:
        return wilson(figure.part or 0, figure.count, rule.confidence)
    if rule.gate == "t" and figure.deviation is not None and figure.count:
        return t_interval(figure.value, figure.deviation, figure.count, rule.confidence)
    return figure.value, figure.value


def bound(rule: Rule, figure: Figure) -> float:
    """The end of its interval that a limit must be past."""
    low, high = interval(rule, figure)
    return high if rule.better == "higher" else low


def judge(rule: Rule, subject: str, source: str, figure: Figure) -> Finding:
    """
    What does a figure amount to?

    A rate under the ``wilson`` gate is past a limit only when its whole interval is: one failed request of thirty is no
    incident. A mean under ``t`` (of which the distance from zero is judged) is past a limit when it is, and its
    interval leaves out zero; it is critical when the whole interval is past the first limit. Too few samples, or looks
    that did not come, make a figure unknown.
    """
    first = rule.ladder[0][1]
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
        why = (
            f"only {formatting.ratio(figure.coverage, 0)} of the looks came (≥ "
            f"{formatting.ratio(rule.min_coverage, 0)} needed)"
        )
        return Finding(rule, subject, source, figure, "unknown", None, first, True, why)
    if figure.count is not None and figure.count < rule.min_count:
        why = (
            f"insufficient data (n={figure.count}; {rule.min_count} needed)"
            if rule.gate == "t"
            else f"too few to judge ({figure.count} of {rule.min_count} needed)"
        )
        return Finding(rule, subject, source, figure, "unknown", None, first, False, why)
    reached = _reached(rule, figure)
    if reached is None:
        return Finding(rule, subject, source, figure, "ok", None, first)
    rung, limit = reached
    return Finding(rule, subject, source, figure, VERDICT_OF[rung], rung, limit)


def _reached(rule: Rule, figure: Figure) -> tuple[str, float | str] | None:
    """The highest rung that a figure is past, with its limit."""
    assert figure.value is not None
    first = rule.ladder[0][1]
    if figure.spent is None and not isinstance(first, str) and not rule.past(figure.value, first):
        return None  # Whose value is not past the first limit, its interval is past none.
    end = bound(rule, figure)
    found: tuple[str, float | str] | None = None
    spread = rule.gate == "t" and figure.deviation is not None
    if spread and end <= 0:
        return None  # That there is a gap at all could be chance.
    for rung, limit in rule.ladder:
        if spread and not isinstance(limit, str):
            sure = isinstance(first, str) or rule.past(end, first)
            past = rule.past(figure.value, limit) and (VERDICT_OF[rung] != "critical" or sure)
            if rung == "critical" and sure and not past and not isinstance(first, str):
                # That it is past the first limit is no chance, however near to it: that is what it is told by.
                found = rung, first
        elif isinstance(limit, str):
            past = figure.part == 0
        elif figure.spent is not None:
            spent = figure.spent[rung].bound
            past = spent is not None and rule.past(spent, limit)
        else:
            past = rule.past(end, limit)
        found = (rung, limit) if past else found
    return found


def still_beyond_clear(rule: Rule, figure: Figure, rung: str, limit: float | str) -> bool:
    """Is a known figure still on the bad side of what ends a rung? Its value is, however sure that it is."""
    if isinstance(limit, str):
        return figure.part == 0
    value = value_on(figure, rung)
    if value is not None and rule.gate == "t" and figure.deviation is not None and rung == "critical":
        # It is critical also by an interval that is past the first limit: until that is back.
        name, first = rule.ladder[0]
        if not isinstance(first, str) and rule.past(bound(rule, figure), rule.clear.get(name, first)):
            return True
    return value is not None and rule.past(value, rule.clear.get(rung, limit))


def value_on(figure: Figure, rung: str) -> float | None:
    """The value by which a rung is judged: of a burn rate, the lesser of its two windows."""
    if figure.spent is None:
        return figure.value
    spent = figure.spent.get(rung)
    return None if spent is None or spent.long is None or spent.short is None else min(spent.long, spent.short)
