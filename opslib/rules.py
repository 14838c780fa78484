"""
This module knows the limits: what stands in rules.toml, strictly read, and what a figure amounts to against it.

A figure is judged on a ladder (objective, warning, notify, critical, escalate). What comes out is a `Finding`: a
verdict, and one sentence with the measured value beside the limit. Never green without data: a figure that could not
be measured is *unknown*; one that nothing measures, or that nobody expects now, is shown and not counted.
"""

import functools
import hashlib
import json
import math
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from importlib import resources
from pathlib import Path
from typing import Any

from opslib import clock, text
from opslib.errors import RulesError, UsageError
from opslib.page import Pages

RUNGS = ("warning", "notify", "critical", "escalate")
VERDICT_OF = {"warning": "warning", "notify": "warning", "critical": "critical", "escalate": "critical"}
VERDICTS = ("critical", "unknown", "warning", "ok")  # Worst first: how verdicts add up.
EXIT_CODES = {"ok": 0, "warning": 1, "critical": 2, "unknown": 3}
NO_SUCCESS = "no success"
Z_95 = 1.959963984540054  # The 97.5th percentile of the normal distribution: two sides of 95 %.

_UNITS = ("ratio", "s", "pp", "MB", "per_hour", "intervals")
_PANELS = ("providers", "greeks", "pnl", "system")
_SPANS = ("window", "for", "keep_firing_for")
_CHOICES = {"better": ("higher", "lower"), "unit": _UNITS, "gate": ("wilson", "value"), "no_data": ("keep", "alert"), "panel": _PANELS}
_NUMBERS = ("objective", "warning", "min_count", "min_coverage")
_TEXTS = ("title", "who", "action")
_LISTS = {"subjects": ("app", "massive", "tradier"), "sources": ("page", "probe", "chain", "fills", "logs")}
_NEEDED = (*_CHOICES, *_NUMBERS, "critical", *_SPANS, *_TEXTS, *_LISTS, "runbook")
_MAY = ("notify", "escalate", "clear")


@dataclass(frozen=True, slots=True)
class Rule:
    """
    One row of the ladder of limits; the meaning of each key stands at the top of rules.toml.

    Attributes:
        ladder: (rung, limit), mildest first; a limit is a number in the rule's unit, or ``no success``.
        runbooks: The runbook of each subject.
    """

    name: str
    title: str
    unit: str
    better: str
    objective: float
    ladder: tuple[tuple[str, float | str], ...]
    clear: float | None
    gate: str
    window: timedelta
    hold: timedelta
    keep_firing_for: timedelta
    min_count: int
    min_coverage: float
    no_data: str
    subjects: tuple[str, ...]
    sources: tuple[str, ...]
    panel: str
    runbooks: dict[str, str]
    who: str
    action: str

    def past(self, value: float, limit: float) -> bool:
        """Is the value on the bad side of the limit? On the limit itself it is not."""
        return value < limit if self.better == "higher" else value > limit

    def told(self, value: float | None, digits: int | None = None) -> str:
        """A value in this rule's unit, for people."""
        if self.unit == "ratio":
            return text.ratio(value, 2 if digits is None else digits)
        unit = {"per_hour": "per h", "pp": "points"}.get(self.unit, self.unit)
        return text.number(value, unit, digits)


@dataclass(frozen=True, slots=True)
class Figure:
    """
    What was measured, ready to be judged.

    Attributes:
        value: In the rule's unit; None is unknown.
        part: How many of `count` the rate counts, where it is a rate: successes, valid ones, zeros.
        count: How many samples it is made of; None where there is no such number.
        coverage: Looks received ÷ expected, 0 to 1; None where none was expected.
        absent: Why there is no value; ``not measured`` and ``not expected`` are not counted against anyone.
    """

    value: float | None
    part: int | None = None
    count: int | None = None
    coverage: float | None = None
    absent: str = ""


@dataclass(frozen=True, slots=True)
class Finding:
    """
    What a figure amounts to against its rule.

    Attributes:
        verdict: ok, warning, critical or unknown.
        severity: The highest rung reached; None where none is.
        limit: The limit of that rung; else of the first one.
        counted: Does it count in the verdict of its panel?
        sentence: Name, measured value, comparison, limit.
    """

    rule: Rule
    subject: str
    source: str
    figure: Figure
    verdict: str
    severity: str | None
    limit: float | str | None
    counted: bool
    sentence: str


def worst(verdicts: Iterable[str]) -> str:
    """What do verdicts add up to? Critical > unknown > warning > ok; of nothing at all nothing is known."""
    found = set(verdicts)
    return next((v for v in VERDICTS if v in found), "unknown")


def wilson(part: int, count: int) -> tuple[float, float]:
    """
    Between which rates does the true one lie, with 95 % confidence, when `part` of `count` were seen?

    Wilson's score interval (1927), which holds for small counts and for rates near 0 and 1; (0, 1) of nothing.
    """
    if count == 0:
        return 0.0, 1.0
    rate, z2 = min(1.0, max(0.0, part / count)), Z_95**2
    middle = (rate + z2 / (2 * count)) / (1 + z2 / count)
    reach = Z_95 * math.sqrt(rate * (1 - rate) / count + z2 / (4 * count**2)) / (1 + z2 / count)
    return max(0.0, middle - reach), min(1.0, middle + reach)


def judge(rule: Rule, subject: str, source: str, figure: Figure) -> Finding:
    """
    What does a figure amount to?

    A rate under the ``wilson`` gate is past a limit only when its whole 95 % interval is: one failed request of
    thirty is no incident. Too few samples, or looks that did not come, make it unknown.
    """
    subject_words = "" if subject == "app" else f" of {subject}"
    name = f"{rule.title}{subject_words}"
    first = rule.ladder[0][1]

    def finding(verdict: str, sentence: str, severity: str | None = None, limit: Any = first, counted: bool = True) -> Finding:
        return Finding(rule, subject, source, figure, verdict, severity, limit, counted, sentence)

    if figure.value is None:
        counted = figure.absent not in ("not measured", "not expected", "too few")
        return finding("unknown", f"{name}: {figure.absent or 'no data'}", counted=counted)
    if figure.coverage is not None and figure.coverage < rule.min_coverage:
        return finding("unknown", f"{name}: only {text.ratio(figure.coverage, 0)} of the looks came (≥ {text.ratio(rule.min_coverage, 0)} needed)")
    if figure.count is not None and figure.count < rule.min_count:
        return finding("unknown", f"{name}: too few to judge ({figure.count} of {rule.min_count} needed)", counted=False)

    low, high = figure.value, figure.value
    if rule.gate == "wilson" and figure.count:
        low, high = wilson(figure.part or 0, figure.count)
    kind_end = high if rule.better == "higher" else low
    reached = [(rung, limit) for rung, limit in rule.ladder if (figure.part == 0 if limit == NO_SUCCESS else rule.past(kind_end, limit))]
    sign, against = ("<", "≥") if rule.better == "higher" else (">", "≤")
    if reached:
        rung, limit = reached[-1]
        told = "0, not one success" if limit == NO_SUCCESS else rule.told(limit, 1 if rule.unit == "ratio" else None)
        sentence = f"{name} ({rule.told(figure.value)}) {'=' if limit == NO_SUCCESS else sign} {told}"
        return finding(VERDICT_OF[rung], sentence, rung, limit)
    shown = f"{name} ({rule.told(figure.value)})"
    limit_told = rule.told(first, 1 if rule.unit == "ratio" else None)
    if rule.past(figure.value, first):
        return finding("ok", f"{shown} {sign} {limit_told}, but of {figure.count:,} it could be chance ({rule.told(low)} to {rule.told(high)})")
    if rule.past(figure.value, rule.objective):
        return finding("ok", f"{shown} {against} {limit_told}, below objective {rule.told(rule.objective, 1 if rule.unit == 'ratio' else None)}")
    return finding("ok", f"{shown} {against} {limit_told}")


@dataclass(frozen=True, slots=True)
class Rules:
    """
    The table in force.

    Attributes:
        rules: Every rule by name.
        pages: How pages are told apart.
        skew_told_s: A page's clock further off than this many seconds is told.
        hash: SHA-256 of the whole table, so that a record can say by which limits it was judged.
    """

    rules: dict[str, Rule]
    pages: Pages
    skew_told_s: float
    hash: str

    def __getitem__(self, name: str) -> Rule:
        return self.rules[name]


def _is_number(found: Any) -> bool:
    return not isinstance(found, bool) and isinstance(found, (int, float)) and abs(found) < 1e15


def _rule(place: str, name: str, row: Any) -> Rule:
    """One row of the table, strictly."""

    def refuse(what: str) -> None:
        raise RulesError(f"{place}, rule {name!r}: {what}")

    if not isinstance(row, dict):
        refuse(f"a table of keys was wanted, found {row!r}.")
    for key in row:
        if key not in (*_NEEDED, *_MAY):
            refuse(f"there is no key {key!r}.{text.nearest(key, (*_NEEDED, *_MAY))}")
    for key in _NEEDED:
        if key not in row:
            refuse(f"{key} is missing.")
    for key, choices in _CHOICES.items():
        if row[key] not in choices:
            refuse(f"{key} is {row[key]!r}; it may be {', '.join(choices)}.")
    numbers = [k for k in (*_NUMBERS, *_MAY, "critical") if k in row and not (k == "escalate" and row[k] == NO_SUCCESS)]
    for key in numbers:
        if not _is_number(row[key]):
            refuse(f"{key} is {text.one_line(repr(row[key]), 40)}; a number was wanted.")
        if row["unit"] == "ratio" and key != "min_count" and not 0 <= row[key] <= 1:
            refuse(f"{key} is {row[key]!r}; a ratio is from 0 to 1.")
    if not 0 <= row["min_coverage"] <= 1 or row["min_count"] < 0:
        refuse("min_coverage is from 0 to 1 and min_count from 0.")
    for key in _TEXTS:
        if not isinstance(row[key], str) or not row[key]:
            refuse(f"{key} is {row[key]!r}; a text was wanted.")
    for key, known in _LISTS.items():
        names = row[key] if isinstance(row[key], list) else []
        if not names or any(n not in known for n in names) or len(set(names)) < len(names):
            refuse(f"{key} is {row[key]!r}; some of {', '.join(known)} were wanted, each once.")
    if row.get("escalate") == NO_SUCCESS and (row["better"], row["gate"]) != ("higher", "wilson"):
        refuse(f"escalate is {NO_SUCCESS!r}, which only a rate of successes can have.")
    spans = {}
    for key in _SPANS:
        try:
            spans[key] = timedelta(0) if row[key] == "0s" and key != "window" else clock.parse_span(row[key])
        except (UsageError, AttributeError):
            refuse(f"{key} is {row[key]!r}; a span such as 5m was wanted.")
    runbook = row["runbook"]
    runbooks = dict(runbook) if isinstance(runbook, dict) else dict.fromkeys(row["subjects"], runbook)
    if set(runbooks) != set(row["subjects"]) or not all(isinstance(v, str) for v in runbooks.values()):
        refuse(f"runbook is {runbook!r}; one name, or one for each of {', '.join(row['subjects'])}, was wanted.")
    ladder = tuple((rung, row[rung]) for rung in RUNGS if rung in row)
    limits = [limit for _, limit in (("objective", row["objective"]), *ladder) if limit != NO_SUCCESS]
    if limits != sorted(limits, reverse=row["better"] == "higher"):
        refuse(f"the ladder must go {'down' if row['better'] == 'higher' else 'up'} from the objective; found {', '.join(f'{r} {v}' for r, v in ladder)}, objective {row['objective']}.")
    if "clear" in row and (row["clear"] < ladder[0][1] if row["better"] == "higher" else row["clear"] > ladder[0][1]):
        refuse(f"clear is {row['clear']}, past the first limit {ladder[0][1]}; an alert could never end.")
    return Rule(
        name=name, title=row["title"], unit=row["unit"], better=row["better"], objective=row["objective"], ladder=ladder, clear=row.get("clear"), gate=row["gate"],
        window=spans["window"], hold=spans["for"], keep_firing_for=spans["keep_firing_for"], min_count=row["min_count"], min_coverage=row["min_coverage"],
        no_data=row["no_data"], subjects=tuple(row["subjects"]), sources=tuple(row["sources"]), panel=row["panel"], runbooks=runbooks, who=row["who"], action=row["action"],
    )  # fmt: skip


def _read(place: str, content: str) -> dict[str, Any]:
    try:
        return tomllib.loads(content)
    except tomllib.TOMLDecodeError as problem:
        raise RulesError(f"{place} is not TOML: {problem}.") from None


@functools.lru_cache(maxsize=8)
def _table(shipped: str, own: str, own_place: str) -> Rules:
    place = "rules.toml"
    found = _read(place, shipped)
    if own:
        place = own_place
        for name, row in _read(place, own).items():
            if name not in found:
                raise RulesError(f"{place}: there is no rule {name!r}.{text.nearest(name, found)}")
            if not isinstance(row, dict):
                raise RulesError(f"{place}: {name} is {row!r}; a table [{name}] was wanted.")
            found[name] |= row
    limits = found.pop("pages")
    wanted = {"load_jitter_s", "reset_gap_s", "late_after", "skew_told_s"}
    if set(limits) != wanted or not all(_is_number(v) and v > 0 for v in limits.values()) or limits["late_after"] <= 1:
        raise RulesError(f"{place}, [pages]: {', '.join(sorted(wanted))} were wanted, each a number above 0, late_after above 1; found {limits}.")
    rules = {name: _rule(place, name, row) for name, row in found.items()}
    digest = hashlib.sha256(json.dumps(found | {"pages": limits}, sort_keys=True).encode()).hexdigest()
    return Rules(rules, Pages(limits["load_jitter_s"], limits["reset_gap_s"], limits["late_after"]), limits["skew_told_s"], digest)


def load(home: Path | None = None) -> Rules:
    """
    Which limits are in force? The shipped ones, with ``rules.toml`` of `home` over them.

    Raises:
        RulesError: A key that is unknown, missing or of the wrong kind, or a ladder that does not descend; with its place.
    """
    shipped = resources.files("opslib").joinpath("rules.toml").read_text(encoding="utf-8")
    own = home / "rules.toml" if home else None
    try:
        content = own.read_text(encoding="utf-8") if own and own.is_file() else ""
    except (OSError, UnicodeDecodeError) as problem:
        raise RulesError(f"{own} cannot be read as a text in UTF-8 ({problem.__class__.__name__}).") from None
    return _table(shipped, content, str(own))

