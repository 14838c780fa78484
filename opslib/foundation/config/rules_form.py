"""Define the valid content of rules.toml: each alert rule, the other limits, and references between rules."""

from collections.abc import Iterator
from dataclasses import fields
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, ValidatorFunctionWrapHandler, WrapValidator, create_model

from opslib.foundation import formatting, time_parsing
from opslib.foundation.config import validation
from opslib.foundation.config.limits import ChainLimits, DayLimits, DiagnosisLimits, PageLimits, ProbeLimits
from opslib.foundation.config.validation import (
    Bounded,
    Number,
    Positive,
    Span,
    SpanOrNone,
    SpanOrNoneText,
    SpanText,
    Table,
    Text,
    expected,
    one_of,
    some_of,
)

SEVERITIES = ("warning", "notify", "critical", "escalate")
GATES = ("wilson", "t", "value")
_BURN = ("of", "budget", "long", "short")

Share = Annotated[Bounded, Field(ge=0, le=1), expected("a number from 0 to 1")]
Count = Annotated[Bounded, Field(ge=0), expected("a number from 0")]
Factor = Annotated[Bounded, Field(gt=1), expected("a factor above 1")]
Rules = Annotated[list[str], expected("a list of rules")]
Spans = Annotated[
    SpanText | dict[str, SpanText], expected("a span of time such as 5m, or a table of one for each severity")
]
SpansOrNone = Annotated[
    SpanOrNoneText | dict[str, SpanOrNoneText],
    expected("a span of time such as 5m, or a table of one for each severity"),
]


def _known_runbooks(given: object, handler: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Any:
    """Accept the name of a runbook, or a table of one for each subject."""
    runbooks = tuple(info.context["runbooks"]) if info.context else ()
    for name in given.values() if isinstance(given, dict) else [given]:
        if not isinstance(name, str) or name not in runbooks:
            near = formatting.nearest(name, runbooks) if isinstance(name, str) else ""
            raise validation.unexpected(
                f"is {formatting.single_line(repr(given), 80)}; one of {', '.join(runbooks)}, or a table of one for "
                f"each subject, was expected.{near}"
            )
    return handler(given)


class SourceForm(Table):
    """The values of a rule that differ for one source."""

    gate: Annotated[str, one_of(*GATES)] | None = None
    min_count: Count | None = None
    window: Span | None = None
    longest: SpanOrNone | None = None
    inhibited_by: Rules | None = None


class RuleForm(Table):
    """One alert rule."""

    title: Text
    unit: Annotated[str, one_of("ratio", "s", "pp", "MB", "per_hour", "intervals", "times", "MB_per_h")]
    better: Annotated[str, one_of("higher", "lower")]
    objective: Number
    warning: Number
    notify: Number | None = None
    critical: Number
    escalate: Annotated[Bounded | Literal["no success"], expected("a number, or 'no success',")] | None = None
    clear: (
        Annotated[
            Bounded | dict[str, Bounded],
            expected("a number for the mildest severity, or a table of one for some severities,"),
        ]
        | None
    ) = None
    gate: Annotated[str, one_of(*GATES)]
    confidence: Annotated[Bounded, Field(ge=0.5, lt=1), expected("a number from 0.5 to below 1")]
    window: Span | None = None
    for_: SpansOrNone = Field(alias="for")
    keep_firing_for: SpanOrNone
    unknown_after: SpanOrNone
    min_count: Count
    min_coverage: Share
    no_data: Annotated[str, one_of("keep", "alert")]
    inhibited_by: Rules = Field(default_factory=list)
    inhibited_from: dict[str, Annotated[str, one_of(*SEVERITIES)]] = Field(default_factory=dict)
    by_source: dict[str, SourceForm] = Field(default_factory=dict)
    subjects: Annotated[list[str], some_of("app", "massive", "tradier", "monitor", least=1)]
    sources: Annotated[list[str], some_of("page", "probe", "chain", "fills", "logs", least=1)]
    panel: Annotated[str, one_of("providers", "greeks", "pnl", "system")]
    runbook: Annotated[str | dict[str, str], WrapValidator(_known_runbooks)]
    who: Annotated[str, one_of(known="roles")]
    action: Text
    traders: Text
    of: str | None = None
    budget: SpanOrNone | None = None
    long: SpansOrNone | None = None
    short: SpansOrNone | None = None

    @property
    def thresholds(self) -> dict[str, float | str]:
        """The threshold of each severity that has one, mildest first."""
        limits = ((severity, getattr(self, severity)) for severity in SEVERITIES)
        return {severity: limit for severity, limit in limits if limit is not None}

    @property
    def is_burn(self) -> bool:
        """Whether it is a burn rate."""
        return any(getattr(self, key) is not None for key in _BURN)

    @property
    def inhibitors(self) -> set[str]:
        """Every rule that inhibits this one, for any source."""
        return {*self.inhibited_by, *(name for own in self.by_source.values() for name in own.inhibited_by or ())}

    def conflicts(self) -> Iterator[str]:
        """Yield what does not fit together within the rule."""
        yield from self._limits()
        yield from self._spans()
        yield from self._sources()
        for key, names in (("subjects", self.subjects), ("sources", self.sources)):
            if len(set(names)) < len(names):
                yield f"{key} is {names!r}; each was expected once."
        if isinstance(self.runbook, dict) and set(self.runbook) != set(self.subjects):
            near = "".join(
                formatting.nearest(name, self.subjects) for name in self.runbook if name not in self.subjects
            )
            yield (
                f"runbook is {self.runbook!r}; one name, or one for each of {', '.join(self.subjects)}, was "
                f"expected.{near}"
            )

    def _limits(self) -> Iterator[str]:
        numbers = {"objective": self.objective, **self.thresholds}
        if self.unit == "ratio":
            for key, limit in numbers.items():
                if isinstance(limit, float) and not 0 <= limit <= 1:
                    yield f"{key} is {limit:g}; a ratio from 0 to 1 was expected."
        if isinstance(self.escalate, str) and (self.better, self.gate) != ("higher", "wilson"):
            yield f"escalate is {self.escalate!r}, which is valid only for a success rate. Set a number."
        limits = [limit for limit in numbers.values() if isinstance(limit, float)]
        if limits != sorted(limits, reverse=self.better == "higher"):
            yield (
                f"the thresholds must {'decrease' if self.better == 'higher' else 'increase'} from objective to "
                f"escalate; found "
                f"{', '.join(f'{key} {_written(limit)}' for key, limit in numbers.items())}."
            )
        yield from self._clear()

    def _clear(self) -> Iterator[str]:
        thresholds = self.thresholds
        given = self.clear or {}
        for severity, limit in (given if isinstance(given, dict) else {next(iter(thresholds)): given}).items():
            begins = thresholds.get(severity)
            if not isinstance(begins, float):
                near = formatting.nearest(severity, thresholds)
                yield (
                    f"clear names {severity!r}; some of {', '.join(thresholds)} that have a number were expected.{near}"
                )
            elif limit < begins if self.better == "higher" else limit > begins:
                side, bound = ("below", "at least") if self.better == "higher" else ("above", "at most")
                yield (
                    f"clear of {severity} is {limit:g}, {side} its threshold {begins:g}; {bound} {begins:g} was "
                    f"expected, otherwise an alert could never be resolved."
                )

    def _spans(self) -> Iterator[str]:
        for key, given in (("for", self.for_), ("long", self.long), ("short", self.short)):
            if isinstance(given, dict) and set(given) != set(self.thresholds):
                near = "".join(
                    formatting.nearest(name, self.thresholds) for name in given if name not in self.thresholds
                )
                yield (
                    f"{key} is {given!r}; one span, or one for each of {', '.join(self.thresholds)}, "
                    f"was expected.{near}"
                )
                return
        if not self.is_burn:
            if self.window is None:
                yield "the key window is missing. Add it."
            return
        if missing := [key for key in _BURN if getattr(self, key) is None]:
            yield from (f"{key} is missing; a burn rate needs {', '.join(_BURN)}. Add it." for key in missing)
            return
        for severity in self.thresholds:
            short, long = (_span(given, severity) for given in (self.short, self.long))
            if not 0 < short < long:
                yield f"the short window of {severity} must be longer than 0 and shorter than its long window."
        if (self.unit, self.better) != ("times", "lower"):
            yield f'unit is {self.unit!r} and better is {self.better!r}; a burn rate needs "times" and "lower".'

    def _sources(self) -> Iterator[str]:
        for source, own in self.by_source.items():
            if source not in self.sources:
                near = formatting.nearest(source, self.sources)
                yield f"by_source names {source!r}; the rule's sources are {', '.join(self.sources)}.{near}"
            if own.longest is None:
                continue
            if source != "fills":
                yield f"by_source of {source} has the key longest, which is valid only for fills. Remove it."
            if _span(own.longest) < _span(own.window or self.window or "0s"):
                yield f"by_source of {source}: longest is shorter than window; at least as long was expected."


def _limits(of: type, *factors: str) -> type[Table]:
    """Create the form of limits that are numbers above 0; those named in `factors` are above 1."""
    keys: dict[str, Any] = {f.name: (Factor if f.name in factors else Positive, ...) for f in fields(of)}
    return create_model(of.__name__, __base__=Table, **keys)


LIMITS: dict[str, type[Table]] = {
    "pages": create_model("Pages", __base__=_limits(PageLimits, "late_after"), skew_told_s=(Positive, ...)),
    "probes": _limits(ProbeLimits, "changed_by"),
    "chain": _limits(ChainLimits, "gamma_times", "theta_times", "vega_times", "unit_within", "greeks_times"),
    "days": _limits(DayLimits),
    "diagnosis": _limits(DiagnosisLimits),
}


def _span(given: Any, severity: str = "") -> float:
    text = given[severity] if isinstance(given, dict) else given
    return 0.0 if text == "0s" else time_parsing.parse_span(text).total_seconds()


def _written(limit: float | str) -> str:
    return limit if isinstance(limit, str) else f"{limit:g}"


def problems(table: dict[str, Any], place: str, known: dict[str, Any]) -> list[str]:
    """
    Return every problem of all limits, each with its place; empty if there is none.

    Args:
        known: The names of ``roles`` and of ``runbooks``.
    """
    found, rules = list[str](), dict[str, RuleForm]()
    for name, row in table.items():
        if wrong := validation.problems(LIMITS.get(name, RuleForm), row, place, known, name):
            found += wrong
        elif name not in LIMITS:
            rules[name] = RuleForm.model_validate(row, context=known)
    names = set(table) - set(LIMITS)
    return found + [f"{place}, [{name}]: {words}" for name in rules for words in _across(name, rules, names)]


def _across(name: str, rules: dict[str, RuleForm], names: set[str]) -> Iterator[str]:
    """Yield the problems between one valid rule and the others: `names` are all rules, `rules` the valid ones."""
    rule = rules[name]
    for other in sorted(rule.inhibitors):
        if other not in names:
            yield f"inhibited_by names {other!r}, which is not a rule.{formatting.nearest(other, names)}"
        elif other != name and other in rules and name in rules[other].inhibitors:
            yield f"it and {other!r} inhibit each other, so nobody would be notified of either. Remove one of the two."
    for other in sorted(set(rule.inhibited_from) - names):
        yield f"inhibited_from names {other!r}, which is not a rule.{formatting.nearest(other, names)}"
    if rule.of is None or (rule.of in names and rule.of not in rules):
        return
    of = rules.get(rule.of)
    if of is None or of.unit != "ratio" or of.better != "higher" or not of.objective < 1:
        near = formatting.nearest(rule.of, names) if of is None else ""
        yield (
            f'of is {rule.of!r}; a rule whose unit is a ratio, with better = "higher" and an objective below 1, was '
            f"expected.{near}"
        )
        return
    for severity, factor in rule.thresholds.items():
        if isinstance(factor, float) and (rate := factor * (1 - of.objective)) >= 1:
            yield (
                f"{severity} at {factor:g} times the budget needs a failure rate of {formatting.ratio(rate, 0)} "
                f"({factor:g} × {formatting.ratio(1 - of.objective, 1)}); it could never fire. Use a smaller factor."
            )
