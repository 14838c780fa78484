"""
Read the alert rules of rules.toml, strictly.

Each rule is a ladder (objective, warning, notify, critical, escalate) with all that an alert needs to know of it.
A table that could never be judged by is refused, every problem by its name: `rules_form` says what may stand in it.
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
SENT = ("notify", "critical", "escalate")  # The severities that somebody is told of.
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

_LIMITS = ("pages", "probes", "chain", "days", "diagnosis")  # The tables that are no rules.
_FORM = Path(__file__).with_name("rules_form.py")


@dataclass(frozen=True, slots=True)
class BurnRate:
    """
    How fast a budget of failures is spent: over a long window, and over a short one that shows that it still is.

    Attributes:
        of: The rule whose objective leaves the budget.
        budget: How long the budget is meant to last.
        windows: The long and the short window of each rung.
    """

    of: str
    budget: timedelta
    windows: dict[str, tuple[timedelta, timedelta]]


@dataclass(frozen=True, slots=True)
class Rule:
    """
    One row of the ladder of limits; the meaning of each key stands at the top of rules.toml.

    Attributes:
        ladder: (rung, limit), mildest first; a limit is a number in the rule's unit, or ``no success``.
        holds: For how long each rung must be held to fire (`for`).
        clear: The value that ends a rung, where it is not the limit that began it.
        confidence: Of the interval under a gate.
        inhibited_by: Rules whose alerts explain this one's away.
        inhibited_from: From which severity on such a rule explains; without an entry, from the severity of what it
            explains.
        runbooks: The runbook of each subject.
        action, traders: What to do first; what it means for who trades.
        burn: The windows of a burn rate; None for every other rule.
        by_source: What is otherwise for one source: its gate, its least count, the window of its alerts, its longest
            window, what inhibits them.
        longest: How far back a window with too few samples may grow until it has `min_count`; None: it does not grow.
    """

    name: str
    title: str
    unit: str
    better: str
    objective: float
    ladder: tuple[tuple[str, float | str], ...]
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
        """The rule as it is for one source."""
        return replace(self, **self.by_source[source]) if source in self.by_source else self

    def reach(self, rung: str) -> timedelta:
        """How far back does what is judged on a rung reach?"""
        return self.burn.windows[rung][0] if self.burn else self.window

    def past(self, value: float, limit: float) -> bool:
        """Is the value on the bad side of the limit? On the limit itself it is not."""
        return value < limit if self.better == "higher" else value > limit

    def told(self, value: float | None, digits: int | None = None) -> str:
        """A value in this rule's unit, for people."""
        if self.unit == "ratio":
            return formatting.ratio(value, 2 if digits is None else digits)
        if self.unit == "times" and not self.burn:
            return formatting.number(value, "times", 0)  # A count.
        unit = {"per_hour": "per h", "pp": "points", "MB_per_h": "MB per h"}.get(self.unit, self.unit)
        return formatting.number(value, unit, 1 if self.unit == "times" and digits is None else digits)

    def limit_told(self, limit: float | str) -> str:
        """A limit of this rule, for people."""
        return "0, not one success" if isinstance(limit, str) else self.told(limit, 1 if self.unit == "ratio" else None)


@dataclass(frozen=True, slots=True)
class Rules:
    """
    The table in force.

    Attributes:
        rules: Every rule by name.
        pages: How pages are told apart.
        probes: What our own looks are judged by.
        chain: What chains are judged by.
        days: What is usual for a day.
        diagnosis: What a diagnosis rests on.
        skew_told_s: A page's clock further off than this many seconds is told.
        hash: SHA-256 of the whole table, so that a record can say by which limits it was judged.
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
                f"there is no rule {formatting.single_line(name, 60)!r} in the table in "
                f"force.{formatting.nearest(name, self.rules)} Put it back into rules.toml: ops rules shows the table."
            )
        return self.rules[name]

    def only(self, name: str) -> "Rules":
        """The same table with one rule alone."""
        return replace(self, rules={name: self[name]})

    def without_budgets(self) -> "Rules":
        """The same table without its burn rates, which look back further than a view does."""
        return replace(self, rules={name: rule for name, rule in self.rules.items() if not rule.burn})


def _span(text: str) -> timedelta:
    return timedelta(0) if text == "0s" else time_parsing.parse_span(text)


def _by_severity(given: str | dict[str, str], severities: list[str]) -> dict[str, timedelta]:
    """A span for each severity: one for all, or a table of them."""
    each = given if isinstance(given, dict) else dict.fromkeys(severities, given)
    return {severity: _span(each[severity]) for severity in severities}


def _source(own: dict[str, Any]) -> dict[str, Any]:
    """What is otherwise for one source, as attributes of a rule."""
    spans = {key: _span(own[key]) for key in ("window", "longest") if key in own}
    return own | spans | ({"inhibited_by": tuple(own["inhibited_by"])} if "inhibited_by" in own else {})


def _rule(name: str, row: dict[str, Any]) -> Rule:
    """One valid row of the table."""
    ladder = tuple((severity, row[severity]) for severity in SEVERITIES if severity in row)
    severities = [severity for severity, _ in ladder]
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
        ladder=ladder,
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
    """The table in force. The shipped file is held against its form by a test, one's own whenever it has changed."""
    rests_on = [documents.digest(shipped), documents.digest(own), _KNOWN]
    found = (
        documents.once(home, _FORM, rests_on, lambda: _validated(shipped, own, own_place))
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
    The shipped table with one's own over it, key by key.

    Raises:
        RulesError: Every problem with its place.
    """
    from opslib.foundation.config import rules_form

    try:
        lying_over = tomllib.loads(own)
    except (ValueError, RecursionError) as problem:
        raise RulesError(f"{place} is not TOML: {formatting.single_line(str(problem))}.") from None
    found = tomllib.loads(shipped)
    unknown = [name for name in lying_over if name not in found]
    problems = [f"{place}: there is no rule {name!r}.{formatting.nearest(name, found)}" for name in unknown]
    for name, row in lying_over.items():
        if name in found:
            found[name] = found[name] | row if isinstance(row, dict) else row
    problems += rules_form.problems(found, place, _KNOWN)
    if problems:
        raise RulesError(*problems)
    return found


def load(home: Path | None = None, remembers: bool = True) -> Rules:
    """
    Which limits are in force? The shipped ones, with ``rules.toml`` of `home` over them.

    Args:
        remembers: Whether a table that was validated before is taken as it was kept.

    Raises:
        RulesError: Keys that are unknown, missing or of the wrong kind, ladders that are not monotone, burn rates that
            could never fire; each with its place.
    """
    own = home / "rules.toml" if home else None
    return laid_over(own, home if remembers else None) if own and own.exists() else _table(_shipped(), "", "", None)


def laid_over(own: Path, home: Path | None = None) -> Rules:
    """
    The shipped limits with those of a file over them, key by key.

    Args:
        home: Where the table that comes of it is kept; None is nowhere.

    Raises:
        RulesError: As `load`; or the file cannot be read.
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
