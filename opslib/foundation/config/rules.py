"""
Read the alert rules of rules.toml and reject invalid ones.

Each rule has an objective, thresholds (warning, notify, critical, escalate) and everything that an alert needs to know.
`rules_form` defines what is valid; every problem is reported with its place.
"""

import functools
import json
import tomllib
from dataclasses import dataclass, field, replace
from datetime import timedelta
from importlib import resources
from pathlib import Path
from typing import Any

from opslib.foundation import files, formatting, time_parsing
from opslib.foundation.config import documents
from opslib.foundation.config.limits import ChainLimits, DayLimits, DiagnosisLimits, PageLimits, ProbeLimits
from opslib.foundation.errors import ImportRefused, RulesError

SEVERITIES = ("warning", "notify", "critical", "escalate")
SENT = ("notify", "critical", "escalate")  # The severities that people are notified of.
NO_SUCCESS = "no success"
RUNBOOKS = (
    "massive_down",
    "provider_availability",
    "greeks_quality",
    "backtest_variance",
    "websocket_down",
    "memory_growth",
    "error_rate",
    "dashboard_slow",
    "monitor_down",
)

_LIMITS = ("pages", "probes", "chain", "days", "diagnosis")  # The tables that are not alert rules.
_FORM = Path(__file__).with_name("rules_form.py")


@dataclass(frozen=True, slots=True)
class BurnRate:
    """
    The windows of a burn rate: a long one, and a short one that shows that the budget is still being spent.

    Attributes:
        of: The rule whose objective defines the budget.
        budget: The period of the budget.
        windows: The long and the short window of each severity.
    """

    of: str
    budget: timedelta
    windows: dict[str, tuple[timedelta, timedelta]]


@dataclass(frozen=True, slots=True)
class Rule:
    """
    One alert rule; the top of rules.toml explains each key.

    Attributes:
        thresholds: (severity, threshold), mildest first; a threshold is a number in the rule's unit, or ``no success``.
        holds: How long each threshold must be crossed before the alert fires (`for`).
        clear: The clear threshold of a severity, if it differs from its threshold.
        confidence: Confidence of the interval that a gate uses.
        inhibited_by: Rules whose alerts inhibit this one's.
        inhibited_from: The severity from which such a rule inhibits; without an entry, the severity of the inhibited
            alert.
        runbooks: The runbook of each subject.
        action, traders: What to do first; what it means for traders.
        burn: The windows of a burn rate; None for every other rule.
        by_source: Values that differ for one source: its gate, its least count, its window, its longest window, what
            inhibits it.
        longest: How far back a window with too few samples may grow until it has `min_count`; None if it does not grow.
    """

    name: str
    title: str
    unit: str
    better: str
    objective: float
    thresholds: tuple[tuple[str, float | str], ...]
    clear: dict[str, float]
    confidence: float
    gate: str
    window: timedelta
    holds: dict[str, timedelta]
    keep_firing_for: timedelta
    unknown_after: timedelta
    min_count: int
    min_coverage: float
    no_data: str
    subjects: tuple[str, ...]
    sources: tuple[str, ...]
    panel: str
    runbooks: dict[str, str]
    who: str
    action: str
    traders: str
    inhibited_by: tuple[str, ...] = ()
    inhibited_from: dict[str, str] = field(default_factory=dict)
    burn: BurnRate | None = None
    by_source: dict[str, dict[str, Any]] = field(default_factory=dict)
    longest: timedelta | None = None

    def of(self, source: str) -> "Rule":
        """Return the rule with the values of one source."""
        return replace(self, **self.by_source[source]) if source in self.by_source else self

    def lookback(self, severity: str) -> timedelta:
        """Return how far back the evaluation of a severity looks."""
        return self.burn.windows[severity][0] if self.burn else self.window

    def crosses(self, value: float, limit: float) -> bool:
        """
        Return whether a value crosses a threshold: above or below it, by the rule's direction; equal does not cross.
        """
        return value < limit if self.better == "higher" else value > limit

    def format_value(self, value: float | None, digits: int | None = None) -> str:
        """Format a value in this rule's unit for people."""
        if self.unit == "ratio":
            return formatting.ratio(value, 2 if digits is None else digits)
        if self.unit == "times" and not self.burn:
            return formatting.number(value, "times", 0)  # A count.
        if self.unit == "s" and value is not None and value >= 60 and (digits is None or float(value).is_integer()):
            return formatting.duration(value)
        unit = {"per_hour": "per h", "pp": "points", "MB_per_h": "MB per h"}.get(self.unit, self.unit)
        if value == 1 and unit == "intervals":
            unit = "interval"
        return formatting.number(value, unit, 1 if self.unit == "times" and digits is None else digits)

    def format_limit(self, limit: float | str) -> str:
        """Format a threshold of this rule for people."""
        return (
            "0 (no success)"
            if isinstance(limit, str)
            else self.format_value(limit, 1 if self.unit == "ratio" else None)
        )


@dataclass(frozen=True, slots=True)
class Rules:
    """
    The alert rules and other limits in effect.

    Attributes:
        rules: Every rule by name.
        pages: Limits for telling page loads apart.
        probes: Limits of our own probes.
        chain: Limits for chains.
        days: Limits for comparing days.
        diagnosis: Limits of a diagnosis.
        skew_told_s: A page's clock that is off by more than this many seconds is reported.
        hash: SHA-256 of all limits, so that a record can name the limits that it was evaluated with.
    """

    rules: dict[str, Rule]
    pages: PageLimits
    probes: ProbeLimits
    chain: ChainLimits
    days: DayLimits
    diagnosis: DiagnosisLimits
    skew_told_s: float
    hash: str

    def __getitem__(self, name: str) -> Rule:
        if name not in self.rules:
            raise RulesError(
                f"there is no rule {formatting.single_line(name, 60)!r} in the rules in effect."
                f"{formatting.nearest(name, self.rules)} Run ops rules to list them."
            )
        return self.rules[name]

    @property
    def titles(self) -> dict[str, str]:
        """The title of each rule."""
        return {name: rule.title for name, rule in self.rules.items()}

    def only(self, name: str) -> "Rules":
        """Return the same limits with one rule only."""
        return replace(self, rules={name: self[name]})

    def without_budgets(self) -> "Rules":
        """Return the same limits without burn rates, whose windows are longer than a view."""
        return replace(self, rules={name: rule for name, rule in self.rules.items() if not rule.burn})


def _span(text: str) -> timedelta:
    return timedelta(0) if text == "0s" else time_parsing.parse_span(text)


def _by_severity(given: str | dict[str, str], severities: list[str]) -> dict[str, timedelta]:
    """Return a span for each severity from one span for all or a table of spans."""
    each = given if isinstance(given, dict) else dict.fromkeys(severities, given)
    return {severity: _span(each[severity]) for severity in severities}


def _source(own: dict[str, Any]) -> dict[str, Any]:
    """Return the values that differ for one source, as attributes of a rule."""
    spans = {key: _span(own[key]) for key in ("window", "longest") if key in own}
    return own | spans | ({"inhibited_by": tuple(own["inhibited_by"])} if "inhibited_by" in own else {})


def _rule(name: str, row: dict[str, Any]) -> Rule:
    """Create a rule from one valid row of the table."""
    thresholds = tuple((severity, row[severity]) for severity in SEVERITIES if severity in row)
    severities = [severity for severity, _ in thresholds]
    clear, runbook, burn = row.get("clear", {}), row["runbook"], None
    if "of" in row:
        longs, shorts = (_by_severity(row[key], severities) for key in ("long", "short"))
        burn = BurnRate(row["of"], _span(row["budget"]), {s: (longs[s], shorts[s]) for s in severities})
    return Rule(
        name=name,
        title=row["title"],
        unit=row["unit"],
        better=row["better"],
        objective=row["objective"],
        thresholds=thresholds,
        clear=clear if isinstance(clear, dict) else {severities[0]: clear},
        confidence=row["confidence"],
        gate=row["gate"],
        window=max(long for long, _ in burn.windows.values()) if burn else _span(row["window"]),
        holds=_by_severity(row["for"], severities),
        keep_firing_for=_span(row["keep_firing_for"]),
        unknown_after=_span(row["unknown_after"]),
        min_count=row["min_count"],
        min_coverage=row["min_coverage"],
        no_data=row["no_data"],
        subjects=tuple(row["subjects"]),
        sources=tuple(row["sources"]),
        panel=row["panel"],
        runbooks=runbook if isinstance(runbook, dict) else dict.fromkeys(row["subjects"], runbook),
        who=row["who"],
        action=row["action"],
        traders=row["traders"],
        inhibited_by=tuple(row.get("inhibited_by", ())),
        inhibited_from=row.get("inhibited_from", {}),
        burn=burn,
        by_source={source: _source(own) for source, own in row.get("by_source", {}).items()},
    )


@functools.lru_cache(maxsize=8)
def _table(shipped: str, own: str, own_place: str, home: Path | None) -> Rules:
    """
    Build the limits in effect. A test validates the shipped file; the user's own is validated when it has changed.
    """
    depends_on = [documents.digest(shipped), documents.digest(own), _KNOWN]
    found = (
        documents.once(home, _FORM, depends_on, lambda: _validated(shipped, own, own_place))
        if own
        else tomllib.loads(shipped)
    )
    digest = documents.digest(json.dumps(found, sort_keys=True))
    rules = {name: _rule(name, row) for name, row in found.items() if name not in _LIMITS}
    skew_told_s = found["pages"]["skew_told_s"]
    pages = {key: limit for key, limit in found["pages"].items() if key != "skew_told_s"}
    return Rules(
        rules,
        PageLimits(**pages),
        ProbeLimits(**found["probes"]),
        ChainLimits(**found["chain"]),
        DayLimits(**found["days"]),
        DiagnosisLimits(**found["diagnosis"]),
        skew_told_s,
        digest,
    )


def _validated(shipped: str, own: str, place: str) -> dict[str, Any]:
    """
    Merge the user's table into the shipped one, key by key, and validate the result.

    Raises:
        RulesError: Every problem with its place.
    """
    from opslib.foundation.config import rules_form

    try:
        overrides = tomllib.loads(own)
    except (ValueError, RecursionError) as problem:
        raise RulesError(f"{place} is not TOML: {formatting.single_line(str(problem))}. Correct the file.") from None
    found = tomllib.loads(shipped)
    unknown = [name for name in overrides if name not in found]
    problems = [
        f"{place}: there is no rule {formatting.single_line(name, 60)!r}.{formatting.nearest(name, found)} Run ops "
        f"rules to list them."
        for name in unknown
    ]
    for name, row in overrides.items():
        if name in found:
            found[name] = found[name] | row if isinstance(row, dict) else row
    problems += rules_form.problems(found, place, _KNOWN)
    if problems:
        raise RulesError(*problems)
    return found


def load(home: Path | None = None, uses_cache: bool = True) -> Rules:
    """
    Load the limits in effect: the shipped ones, with ``rules.toml`` of `home` merged in.

    Args:
        remembers: Whether a cached validation result may be used.

    Raises:
        RulesError: Unknown or missing keys, values of the wrong type, thresholds in the wrong order, burn rates that
            could never fire; each with its place.
    """
    own = home / "rules.toml" if home else None
    return laid_over(own, home if uses_cache else None) if own and own.exists() else _table(_shipped(), "", "", None)


def laid_over(own: Path, home: Path | None = None) -> Rules:
    """
    Load the shipped limits with those of a file merged in, key by key.

    Args:
        home: The home directory whose cache is used; None means no cache.

    Raises:
        RulesError: As `load`, or the file cannot be read.
    """
    try:
        content = files.read_text(own, files.MOST_SETTINGS_BYTES)
    except ImportRefused as problem:
        raise RulesError(f"{own} cannot be read: {problem}") from None
    return _table(_shipped(), content, str(own), home)


def _shipped() -> str:
    return resources.files("opslib.foundation.config").joinpath("rules.toml").read_text(encoding="utf-8")


NAMES = {
    "providers": "Data Provider Health",
    "greeks": "Greeks Quality",
    "pnl": "P&L Accuracy",
    "system": "System Health",
}


PATH = ("Junior Trader", "Trading Manager", "Tech Lead", "DevOps")  # The guide's Escalation Path, in its order.

_KNOWN = {"roles": PATH, "runbooks": RUNBOOKS}
