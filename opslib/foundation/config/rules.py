"""
Read the alert rules of rules.toml, strictly.

Each rule is a ladder (objective, warning, notify, critical, escalate) with all that an alert needs to know of it.
A table that could never be judged by is refused, every problem by its name.
"""

import functools
import hashlib
import json
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields, replace
from datetime import timedelta
from importlib import resources
from pathlib import Path
from typing import Any, NoReturn

from opslib.foundation import files, formatting, time_parsing
from opslib.foundation.config.limits import ChainLimits, DayLimits, DiagnosisLimits, PageLimits, ProbeLimits
from opslib.foundation.errors import ImportRefused, RulesError, UsageError

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

_UNITS = ("ratio", "s", "pp", "MB", "per_hour", "intervals", "times", "MB_per_h")
_PANELS = ("providers", "greeks", "pnl", "system")
_SPANS = ("window", "keep_firing_for", "unknown_after")
_CHOICES = {
    "better": ("higher", "lower"),
    "unit": _UNITS,
    "gate": ("wilson", "t", "value"),
    "no_data": ("keep", "alert"),
    "panel": _PANELS,
}
_NUMBERS = ("objective", "warning", "confidence", "min_count", "min_coverage")
_TEXTS = ("title", "who", "action", "traders")
_LISTS = {"subjects": ("app", "massive", "tradier", "monitor"), "sources": ("page", "probe", "chain", "fills", "logs")}
_NEEDED = (*_CHOICES, *_NUMBERS, "critical", "for", *_SPANS, *_TEXTS, *_LISTS, "runbook")
_PAGES = (
    "load_jitter_s",
    "reset_gap_s",
    "bridged_s",
    "closed_s",
    "late_after",
    "skew_told_s",
    "idle_times",
    "idle_most",
    "idle_back_s",
)
_BURN = ("of", "budget", "long", "short")
_MAY = ("notify", "escalate", "clear", "inhibited_by", "inhibited_from", "by_source", *_BURN)
_BY_SOURCE = ("gate", "min_count", "window", "longest", "inhibited_by")


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


def _is_number(found: Any) -> bool:
    return not isinstance(found, bool) and isinstance(found, (int, float)) and abs(found) < 1e15


def _span(row: dict[str, Any], key: str, found: Any, refuse: Callable[[str], NoReturn]) -> timedelta:
    try:
        return timedelta(0) if found == "0s" and key != "window" else time_parsing.parse_span(found)
    except (UsageError, AttributeError):
        refuse(f"{key} is {found!r}; a span such as 5m was wanted.")


def _spans_by_rung(
    row: dict[str, Any], key: str, rungs: list[str], refuse: Callable[[str], NoReturn]
) -> dict[str, timedelta]:
    """A span for each rung: one for all, or a table of them."""
    found = row[key] if isinstance(row[key], dict) else dict.fromkeys(rungs, row[key])
    if set(found) != set(rungs):
        refuse(f"{key} is {row[key]!r}; one span, or one for each of {', '.join(rungs)}, was wanted.")
    return {rung: _span(row, key, found[rung], refuse) for rung in rungs}


def _burn(row: dict[str, Any], rungs: list[str], refuse: Callable[[str], NoReturn]) -> BurnRate:
    if missing := [key for key in _BURN if key not in row]:
        refuse(f"{missing[0]} is missing; a burn rate has {', '.join(_BURN)}.")
    longs, shorts = (_spans_by_rung(row, key, rungs, refuse) for key in ("long", "short"))
    if wrong := [rung for rung in rungs if not timedelta(0) < shorts[rung] < longs[rung]]:
        refuse(f"the short window of {wrong[0]} must be shorter than its long one.")
    if (row["unit"], row["better"]) != ("times", "lower"):
        refuse('a burn rate is judged in unit "times", and lower is better.')
    return BurnRate(
        row["of"], _span(row, "budget", row["budget"], refuse), {rung: (longs[rung], shorts[rung]) for rung in rungs}
    )


def _by_source(row: dict[str, Any], refuse: Callable[[str], NoReturn]) -> dict[str, dict[str, Any]]:
    """What is otherwise for one of a rule's sources."""
    found = row.get("by_source", {})
    if (
        not isinstance(found, dict)
        or not set(found) <= set(row["sources"])
        or not all(isinstance(v, dict) and set(v) <= set(_BY_SOURCE) for v in found.values())
    ):
        refuse(f"by_source is {found!r}; {', '.join(_BY_SOURCE)} for some of {', '.join(row['sources'])} were wanted.")
    for source, own in found.items():
        count = own.get("min_count", 0)
        if own.get("gate", row["gate"]) not in _CHOICES["gate"] or not _is_number(count) or count < 0:
            refuse(
                f"by_source of {source} is {own!r}; a gate ({', '.join(_CHOICES['gate'])}) and a min_count "
                f"from 0 were wanted."
            )
        if "longest" in own and source != "fills":
            refuse(f"by_source of {source} has longest; only the window of fills may grow.")
    spans = {
        source: {key: _span(own, key, own[key], refuse) for key in ("window", "longest") if key in own}
        for source, own in found.items()
    }
    inhibits = {
        source: {"inhibited_by": _names(f"inhibited_by of {source}", own["inhibited_by"], refuse)}
        for source, own in found.items()
        if "inhibited_by" in own
    }
    found = {source: own | spans[source] | inhibits.get(source, {}) for source, own in found.items()}
    for source, own in found.items():
        if "longest" in own and own["longest"] < own.get("window", _span(row, "window", row["window"], refuse)):
            refuse(f"by_source of {source}: longest is shorter than window; at least as long was expected.")
    return found


def _names(key: str, found: Any, refuse: Callable[[str], NoReturn]) -> tuple[str, ...]:
    """A list of rules."""
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        refuse(f"{key} is {found!r}; a list of rules was wanted.")
    return tuple(found)


def _inhibited_from(row: dict[str, Any], refuse: Callable[[str], NoReturn]) -> dict[str, str]:
    """
    From which severity on a rule of `inhibited_by` explains; an entry for another rule says nothing, so that a desk may
    shorten that list alone.
    """
    found = row.get("inhibited_from", {})
    if not isinstance(found, dict) or not all(severity in SEVERITIES for severity in found.values()):
        refuse(
            f"inhibited_from is {found!r}; one of {', '.join(SEVERITIES)} for some of the rules of "
            f"inhibited_by was wanted."
        )
    return dict(found)


def _rule(place: str, name: str, row: Any) -> Rule:
    """One row of the table, strictly."""

    def refuse(what: str) -> NoReturn:
        raise RulesError(f"{place}, rule {name!r}: {what}")

    if not isinstance(row, dict):
        refuse(f"a table of keys was wanted, found {row!r}.")
    burns = any(key in row for key in _BURN)
    for key in row:
        if key not in (*_NEEDED, *_MAY):
            refuse(f"there is no key {key!r}.{formatting.nearest(key, (*_NEEDED, *_MAY))}")
    for key in _NEEDED:
        if key not in row and not (burns and key == "window"):
            refuse(f"{key} is missing.")
    for key, choices in _CHOICES.items():
        if row[key] not in choices:
            refuse(f"{key} is {row[key]!r}; it may be {', '.join(choices)}.")
    numbers = [
        k
        for k in (*_NUMBERS, "notify", "escalate", "critical")
        if k in row and not (k == "escalate" and row[k] == NO_SUCCESS)
    ]
    for key in numbers:
        if not _is_number(row[key]):
            refuse(f"{key} is {formatting.single_line(repr(row[key]), 40)}; a number was wanted.")
        if (row["unit"] == "ratio" or key == "confidence") and key != "min_count" and not 0 <= row[key] <= 1:
            refuse(f"{key} is {row[key]!r}; a ratio is from 0 to 1.")
    if not 0 <= row["min_coverage"] <= 1 or row["min_count"] < 0:
        refuse("min_coverage is from 0 to 1 and min_count from 0.")
    if not 0.5 <= row["confidence"] < 1:
        refuse(f"confidence is {row['confidence']}; from 0.5 to below 1 was wanted.")
    for key in _TEXTS:
        if not isinstance(row[key], str) or not row[key]:
            refuse(f"{key} is {row[key]!r}; a text was wanted.")
    if row["who"] not in PATH:
        refuse(f"who is {row['who']!r}; one of {', '.join(PATH)} was wanted.{formatting.nearest(row['who'], PATH)}")
    for key, known in _LISTS.items():
        names = row[key] if isinstance(row[key], list) else []
        if not names or any(n not in known for n in names) or len(set(names)) < len(names):
            refuse(f"{key} is {row[key]!r}; some of {', '.join(known)} were wanted, each once.")
    if row.get("escalate") == NO_SUCCESS and (row["better"], row["gate"]) != ("higher", "wilson"):
        refuse(f"escalate is {NO_SUCCESS!r}, which only a rate of successes can have.")
    ladder = tuple((rung, row[rung]) for rung in SEVERITIES if rung in row)
    rungs = [rung for rung, _ in ladder]
    holds = _spans_by_rung(row, "for", rungs, refuse)
    burn = _burn(row, rungs, refuse) if burns else None
    spans = {key: _span(row, key, row[key], refuse) for key in _SPANS if key in row}
    runbook = row["runbook"]
    runbooks = dict(runbook) if isinstance(runbook, dict) else dict.fromkeys(row["subjects"], runbook)
    if set(runbooks) != set(row["subjects"]) or not all(isinstance(v, str) for v in runbooks.values()):
        refuse(f"runbook is {runbook!r}; one name, or one for each of {', '.join(row['subjects'])}, was wanted.")
    for runbook in runbooks.values():
        if runbook not in RUNBOOKS:
            refuse(f"there is no runbook {runbook!r}.{formatting.nearest(runbook, RUNBOOKS)}")
    inhibited_by, by_source = _names("inhibited_by", row.get("inhibited_by", []), refuse), _by_source(row, refuse)
    inhibited_from = _inhibited_from(row, refuse)
    limits = [limit for _, limit in (("objective", row["objective"]), *ladder) if limit != NO_SUCCESS]
    if limits != sorted(limits, reverse=row["better"] == "higher"):
        refuse(
            f"the ladder must go {'down' if row['better'] == 'higher' else 'up'} from the objective; found "
            f"{', '.join(f'{r} {v}' for r, v in ladder)}, objective {row['objective']}."
        )
    clear = row["clear"] if isinstance(row.get("clear"), dict) else {rungs[0]: row["clear"]} if "clear" in row else {}
    for rung, limit in clear.items():
        if rung not in rungs or not _is_number(limit) or isinstance(row[rung], str):
            refuse(
                f"clear is {row['clear']!r}; a number for the mildest rung, or one for some of "
                f"{', '.join(rungs)}, was wanted."
            )
        if limit < row[rung] if row["better"] == "higher" else limit > row[rung]:
            refuse(f"clear of {rung} is {limit}, past its limit {row[rung]}; an alert could never end.")
    return Rule(
        name=name,
        title=row["title"],
        unit=row["unit"],
        better=row["better"],
        objective=row["objective"],
        ladder=ladder,
        clear=clear,
        confidence=row["confidence"],
        gate=row["gate"],
        window=max(long for long, _ in burn.windows.values()) if burn else spans["window"],
        holds=holds,
        keep_firing_for=spans["keep_firing_for"],
        unknown_after=spans["unknown_after"],
        min_count=row["min_count"],
        min_coverage=row["min_coverage"],
        no_data=row["no_data"],
        subjects=tuple(row["subjects"]),
        sources=tuple(row["sources"]),
        panel=row["panel"],
        runbooks=runbooks,
        who=row["who"],
        action=row["action"],
        traders=row["traders"],
        inhibited_by=inhibited_by,
        inhibited_from=inhibited_from,
        burn=burn,
        by_source=by_source,
    )


def _across(place: str, rules: dict[str, Rule]) -> Iterator[str]:
    """What is wrong between one rule and another?"""
    inhibits = {
        rule.name: {
            *rule.inhibited_by,
            *(name for own in rule.by_source.values() for name in own.get("inhibited_by", ())),
        }
        for rule in rules.values()
    }
    for rule in rules.values():
        for name in sorted(inhibits[rule.name]):
            if name not in rules:
                yield (
                    f"{place}, rule {rule.name!r}: inhibited_by names {name!r}, which is no "
                    f"rule.{formatting.nearest(name, rules)}"
                )
            elif name != rule.name and rule.name in inhibits[name]:
                yield f"{place}, rule {rule.name!r}: it and {name!r} inhibit each other; neither would ever be told."
        for name in sorted(set(rule.inhibited_from) - set(rules)):
            yield (
                f"{place}, rule {rule.name!r}: inhibited_from names {name!r}, which is no "
                f"rule.{formatting.nearest(name, rules)}"
            )
        if not rule.burn:
            continue
        of = rules.get(rule.burn.of)
        if of is None or of.unit != "ratio" or of.better != "higher" or not of.objective < 1:
            yield (
                f"{place}, rule {rule.name!r}: of is {rule.burn.of!r}; a ratio of which more is better, "
                f"with an objective below 1, was wanted."
            )
            continue
        for rung, factor in rule.ladder:
            rate = factor * (1 - of.objective)
            if rate >= 1:
                yield (
                    f"{place}, rule {rule.name!r}: {rung} at {factor:g} times the budget needs "
                    f"{formatting.ratio(rate, 0)} of failures ({factor:g} × "
                    f"{formatting.ratio(1 - of.objective, 1)}); it "
                    f"could never fire. Take a smaller factor."
                )


def _read(place: str, content: str) -> dict[str, Any]:
    try:
        return tomllib.loads(content)
    except (ValueError, RecursionError) as problem:
        raise RulesError(f"{place} is not TOML: {formatting.single_line(str(problem))}.") from None


@functools.lru_cache(maxsize=8)
def _table(shipped: str, own: str, own_place: str) -> Rules:
    place = "rules.toml"
    found = _read(place, shipped)
    if own:
        place = own_place
        for name, row in _read(place, own).items():
            if name not in found:
                raise RulesError(f"{place}: there is no rule {name!r}.{formatting.nearest(name, found)}")
            if not isinstance(row, dict):
                raise RulesError(f"{place}: {name} is {row!r}; a table [{name}] was wanted.")
            found[name] |= row
    limits, probes, chain, days, diagnosis = (
        found.pop(name) for name in ("pages", "probes", "chain", "days", "diagnosis")
    )
    for name, given, wanted in (
        ("pages", limits, _PAGES),
        ("probes", probes, [f.name for f in fields(ProbeLimits)]),
        ("chain", chain, [f.name for f in fields(ChainLimits)]),
        ("days", days, [f.name for f in fields(DayLimits)]),
        ("diagnosis", diagnosis, [f.name for f in fields(DiagnosisLimits)]),
    ):
        if (
            set(given) != set(wanted)
            or not all(_is_number(v) and v > 0 for v in given.values())
            or any(
                given.get(key, 2) <= 1
                for key in (
                    "late_after",
                    "changed_by",
                    "gamma_times",
                    "theta_times",
                    "vega_times",
                    "unit_within",
                    "greeks_times",
                )
            )
        ):
            raise RulesError(
                f"{place}, [{name}]: {', '.join(sorted(wanted))} were wanted, each a number above 0, what is "
                f"a factor above 1; found {given}."
            )
    rules, problems = {}, []
    for name, row in found.items():
        try:
            rules[name] = _rule(place, name, row)
        except RulesError as problem:
            problems += problem.problems
    problems += [] if problems else list(_across(place, rules))
    if problems:
        raise RulesError(*problems)
    digest = hashlib.sha256(
        json.dumps(
            found | {"pages": limits, "probes": probes, "chain": chain, "days": days, "diagnosis": diagnosis},
            sort_keys=True,
        ).encode()
    ).hexdigest()
    return Rules(
        rules,
        PageLimits(
            limits["load_jitter_s"],
            limits["reset_gap_s"],
            limits["late_after"],
            limits["bridged_s"],
            limits["closed_s"],
            limits["idle_times"],
            limits["idle_most"],
            limits["idle_back_s"],
        ),
        ProbeLimits(**probes),
        ChainLimits(**chain),
        DayLimits(**days),
        DiagnosisLimits(**diagnosis),
        limits["skew_told_s"],
        digest,
    )


def load(home: Path | None = None) -> Rules:
    """
    Which limits are in force? The shipped ones, with ``rules.toml`` of `home` over them.

    Raises:
        RulesError: Keys that are unknown, missing or of the wrong kind, ladders that are not monotone, burn rates that
            could never fire; each with its place.
    """
    own = home / "rules.toml" if home else None
    return laid_over(own) if own and own.exists() else _table(_shipped(), "", "")


def laid_over(own: Path) -> Rules:
    """
    The shipped limits with those of a file over them, key by key.

    Raises:
        RulesError: As `load`; or the file cannot be read.
    """
    try:
        content = files.read_text(own, files.MOST_SETTINGS_BYTES)
    except ImportRefused as problem:
        raise RulesError(f"{own} cannot be read: {problem}") from None
    return _table(_shipped(), content, str(own))


def _shipped() -> str:
    return resources.files("opslib.foundation.config").joinpath("rules.toml").read_text(encoding="utf-8")


NAMES = {
    "providers": "Data Provider Health",
    "greeks": "Greeks Quality",
    "pnl": "P&L Accuracy",
    "system": "System Health",
}


PATH = ("Junior Trader", "Trading Manager", "Tech Lead", "DevOps")  # The guide's Escalation Path, in its order.
