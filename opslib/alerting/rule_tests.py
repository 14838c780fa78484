"""
Run tests of rules in promtool's file format.

A test gives series and the alerts that are expected to fire at some times. It names its rule files: Prometheus rules
that compare a series with a number, or a rules.toml that overrides the shipped one. Without files it tests the rules in
effect; their series have the name of the rule and the label ``subject``.

There are intended differences from promtool. A missing, stale or NaN sample is unknown: it neither starts nor ends an
alert, an older sample is not used instead, and its time does not count for `for`. An `eval_time` after the last input
is an error.
"""

import math
import operator
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeAlias

from opslib.alerting.alerts import Alerts
from opslib.alerting.verdicts import Figure, evaluate_figure
from opslib.foundation import clock, formatting, time_parsing
from opslib.foundation import files as files_module
from opslib.foundation.config import rules
from opslib.foundation.config.rules import SEVERITIES, Rule, Rules
from opslib.foundation.errors import ImportRefused, RulesError, UsageError

_SERIES = re.compile(r"\s*([a-zA-Z_:][\w:]*)\s*(?:\{(.*)\})?\s*", re.DOTALL)
_LABEL = re.compile(r'\s*([a-zA-Z_]\w*)\s*=\s*"((?:[^"\\]|\\.)*)"\s*(?:,|$)')
_EXPR = re.compile(
    r"\s*([a-zA-Z_:][\w:]*\s*(?:\{.*\})?)\s*(<=|>=|==|!=|<|>)\s*([-+]?[\d.]+(?:[eE][-+]?\d+)?)\s*", re.DOTALL
)
_VALUES = re.compile(
    r"(_|stale|[-+]?(?:NaN|Inf|[\d.]+(?:e[-+]?\d+)?))(?:([-+][\d.]+(?:e[-+]?\d+)?)?x(\d+))?", re.IGNORECASE
)
MOST_TEST_BYTES = 256 * 2**10  # Parsing YAML is slow: this size takes some seconds.
MOST_NODES = 50_000  # Values of one YAML file.
MOST_VALUES = 100_000  # Of one series.
MOST_TICKS = 200_000  # Instants at which the rules of one test are evaluated.
_COMPARE = {
    "<": operator.lt,
    ">": operator.gt,
    "<=": operator.le,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
}
_TEMPLATE = re.compile(r"\{\{\s*(?:\$(value)|\$labels\.(\w+))\s*\}\}")


@dataclass(frozen=True)
class RuleTestResult:
    """
    The result of a test file.

    Attributes:
        count: Number of compared expectations.
        failures: Each failed expectation: place, what was expected, what was found.
    """

    count: int
    failures: list[str] = field(default_factory=list)


_Series: TypeAlias = tuple[dict[str, str], list[float | None]]  # Labels, and one value per interval.


@dataclass(frozen=True)
class _TestedRule:
    """A rule under test: the series it reads, its interval in microseconds, and the labels of its alerts."""

    rule: Rule
    name: str
    every: int
    matches: Mapping[str, str]
    past: Callable[[float], bool] | None
    labels: Mapping[str, str] | None  # None for a rule of rules.toml; its labels are subject, source, severity.
    annotations: Mapping[str, str]


def run(path: Path, in_force: Rules) -> RuleTestResult:
    """
    Run a test file.

    Raises:
        RulesError: The file is not a valid test, or its rules are not supported; with the place.
    """
    found = _yaml(path)
    _keys(path, "", found, {"rule_files", "evaluation_interval", "group_eval_order", "tests"})
    every = _interval(path, "evaluation_interval", found.get("evaluation_interval", "1m"))
    tested, table, rejected = _rules(path, found.get("rule_files") or [], in_force, every)
    count = 0
    failures: list[str] = []
    for n, test in enumerate(_list(path, found.get("tests")), 1):
        place = f"{path}, test {test.get('name') or n}"
        _keys(place, "", test, {"name", "interval", "input_series", "alert_rule_test"})
        questions = [(_span(place, a.get("eval_time", "0s")), a) for a in _list(place, test.get("alert_rule_test"))]
        for _, question in questions:
            _keys(place, "alert_rule_test: ", question, {"eval_time", "alertname", "exp_alerts"})
        series = [_series(place, s) for s in _list(place, test.get("input_series"))]
        interval = _interval(place, "interval", test.get("interval", found.get("evaluation_interval", "1m")))
        for a in questions:
            if a[1].get("alertname") in rejected:
                raise rejected[a[1]["alertname"]]
            _within(place, a, tested, series, interval)
        until = max((at for at, _ in questions), default=0)
        if sum(until // every + 1 for every in {one.every for one in tested}) > MOST_TICKS:
            raise RulesError(
                f"{place}: up to {formatting.duration(until / 1e6)} the rules are evaluated more than {MOST_TICKS:,}"
                f" times. Use an earlier eval_time or a longer interval."
            )
        for at_us, next_us, alerts in _ticks(tested, table, series, interval, until):
            for question_us, question in questions:
                if at_us <= question_us < next_us:
                    count += 1
                    failures += _compared(
                        place,
                        question,
                        _firing(tested, alerts, series, question["alertname"], at_us, interval),
                        foreign=bool(rejected or tested[0].past),
                    )
    return RuleTestResult(count, failures)


def _yaml(path: Path) -> dict[str, Any]:
    import yaml

    try:
        content = files_module.read_text(path, MOST_TEST_BYTES)
        loader = yaml.SafeLoader(content)
        node = loader.get_single_node()
        if node is not None and _size(node, {}) > MOST_NODES:
            raise RulesError(
                f"{path} has more than {MOST_NODES:,} values when its YAML aliases (*name) are expanded; at most "
                f"that many are read."
            )
        found = None if node is None else loader.construct_document(node)
    except (ImportRefused, yaml.YAMLError, ValueError, RecursionError) as problem:
        raise RulesError(
            f"{path} cannot be read as YAML: {formatting.single_line(str(problem)).rstrip('.')}."
        ) from None
    if not isinstance(found, dict):
        raise RulesError(
            f"{path}: a mapping with keys such as tests: was expected, found {formatting.single_line(repr(found), 60)}."
        )
    return found


def _size(node: Any, known: dict[int, int]) -> int:
    """Return the number of values of a YAML node with its aliases expanded; a recursive node is above the maximum."""
    if id(node) not in known:
        known[id(node)] = MOST_NODES + 1  # This value holds while it is counted, so a recursive node is too large.
        parts = (
            [part for pair in node.value for part in (pair if isinstance(pair, tuple) else (pair,))]
            if isinstance(node.value, list)
            else []
        )
        known[id(node)] = 1 + sum(_size(part, known) for part in parts)
    return known[id(node)]


def _keys(place: object, where: str, found: Any, known: set[str]) -> None:
    if not isinstance(found, dict):
        raise RulesError(f"{place}: {where}a mapping was expected, found {formatting.single_line(repr(found), 60)}.")
    for key in found:
        if key not in known:
            raise RulesError(
                f"{place}: {where}{key} is not a valid key here; expected one of: {', '.join(sorted(known))}"
                f".{formatting.nearest(str(key), known)}"
            )


def _list(place: object, found: Any) -> list[dict[str, Any]]:
    if found is None:
        return []
    if not isinstance(found, list) or not all(isinstance(f, dict) for f in found):
        raise RulesError(f"{place}: a list of mappings was expected, found {formatting.single_line(repr(found), 60)}.")
    return found


def _span(place: object, found: Any) -> int:
    try:
        return 0 if found in (0, "0", "0s", "0m") else clock.span_us(time_parsing.parse_span(str(found)))
    except UsageError:
        raise RulesError(f"{place}: a duration such as 5m was expected, found {found!r}.") from None


def _interval(place: object, name: str, found: Any) -> int:
    span = _span(place, found)
    if span <= 0:
        raise RulesError(f"{place}: {name} is {found!r}; a duration above 0 such as 1m was expected.")
    return span


def _mapping(place: object, name: str, found: Any) -> dict[str, str]:
    if found is not None and not isinstance(found, dict):
        raise RulesError(
            f"{place}: {name} is {formatting.single_line(repr(found), 60)}; a mapping of keys to values was expected."
        )
    return {str(k): str(v) for k, v in (found or {}).items()}


def _number(place: object, found: str) -> float:
    try:
        return float(found)
    except ValueError:
        raise RulesError(f"{place}: {found!r} is not a number.") from None


def _labels(place: object, found: str) -> dict[str, str]:
    """Read the name and labels of a series or selector; the name has the key ``__name__``."""
    whole = _SERIES.fullmatch(found)
    if not whole:
        raise RulesError(f'{place}: a series such as up{{job="x"}} was expected, found {found!r}.')
    labels, rest = {"__name__": whole[1]}, whole[2] or ""
    while rest.strip():
        label = _LABEL.match(rest)
        if not label:
            raise RulesError(
                f'{place}: labels such as job="x" were expected, found {rest!r}; other matchers are not supported.'
            )
        labels[label[1]] = label[2]
        rest = rest[label.end() :]
    return labels


def _series(place: object, found: dict[str, Any]) -> _Series:
    """Read a series: its labels, and one value per interval; None is missing."""
    _keys(place, "input_series: ", found, {"series", "values"})
    values: list[float | None] = []
    for word in str(found.get("values", "")).split():
        part = _VALUES.fullmatch(word)
        if not part:
            raise RulesError(f"{place}: values such as 1+1x10, 5x3, _ or stale were expected, found {word!r}.")
        if len(part[3] or "") > 6 or len(values) + int(part[3] or 0) > MOST_VALUES:
            raise RulesError(
                f"{place}: {formatting.single_line(word, 40)!r} makes more than {MOST_VALUES:,} values; at most that "
                f"many are read per series."
            )
        start, step, more = part[1].lower(), _number(place, part[2] or "0"), int(part[3] or 0)
        if start in ("_", "stale"):
            values += [None] * (more if part[3] and start == "_" else 1 + more)
        else:
            values += [_number(place, start) + step * i for i in range(more + 1)]
    return _labels(place, str(found.get("series", ""))), values


def _rules(
    path: Path, files: Any, in_force: Rules, every: int
) -> tuple[list[_TestedRule], Rules, dict[str, RulesError]]:
    """Return the rules of the files, a table with them, and the errors of unsupported rules by their names."""
    if not isinstance(files, list) or not all(isinstance(f, str) for f in files):
        raise RulesError(f"{path}: rule_files is {files!r}; a list of files was expected.")
    table, tested, rejected = in_force, list[_TestedRule](), dict[str, RulesError]()
    foreign: dict[str, Rule] = {}
    for name in files:
        place = path.parent / name
        if place.suffix == ".toml":
            table = rules.laid_over(place)
            continue
        found = _yaml(place)
        _keys(place, "", found, {"groups"})
        for group in _list(place, found.get("groups")):
            _keys(place, "group: ", group, {"name", "interval", "rules"})
            own = _interval(place, "interval", group["interval"]) if group.get("interval") else every
            for row in _list(place, group.get("rules")):
                try:
                    tested.append(_foreign(place, row, len(tested), in_force, own))
                    foreign[tested[-1].rule.name] = tested[-1].rule
                except RulesError as problem:  # It is raised if a test uses this rule; the others can be tested.
                    rejected[str(row.get("alert"))] = problem
    if foreign or rejected:
        return tested, replace(table, rules=foreign), rejected
    return (
        [
            _TestedRule(rule, rule.name, every, {"__name__": rule.name}, None, None, {"action": rule.action})
            for rule in table.rules.values()
        ],
        table,
        rejected,
    )


def _foreign(place: Path, row: dict[str, Any], number: int, like: Rules, every: int) -> _TestedRule:
    """Convert a Prometheus rule that compares a series with a number to a rule with one severity (1 true, 0 false)."""
    _keys(place, "rule: ", row, {"alert", "expr", "for", "keep_firing_for", "labels", "annotations"})
    parts = _EXPR.fullmatch(str(row.get("expr", "")))
    if not parts or not row.get("alert"):
        raise RulesError(
            f'{place}: an alert with an expr such as up{{job="x"}} < 1 was expected, found '
            f"{formatting.single_line(repr(row.get('expr')), 80)}. Only a series compared with a number is supported."
        )
    hold, keep = (timedelta(microseconds=_span(place, row.get(key, "0s"))) for key in ("for", "keep_firing_for"))
    labels, annotations = (
        _mapping(place, f"{formatting.single_line(str(row['alert']), 40)}: {key}", row.get(key))
        for key in ("labels", "annotations")
    )
    for value in annotations.values():
        if "{{" in _TEMPLATE.sub("", value):
            raise RulesError(
                f"{place}: {row['alert']}: only the templates {{{{ $value }}}} and {{{{ $labels.name }}}} are "
                f"supported, found {value!r}."
            )
    severity = labels.get("severity") if labels.get("severity") in SEVERITIES else "critical"
    rule = replace(
        next(iter(like.rules.values())),
        name=f"{row['alert']} {number}",
        title=str(row["alert"]),
        unit="times",
        better="lower",
        thresholds=((str(severity), 0.5),),
        clear={},
        gate="value",
        holds={str(severity): hold},
        keep_firing_for=keep,
        min_count=0,
        no_data="keep",
        inhibited_by=(),
        burn=None,
    )
    compare, limit = _COMPARE[parts[2]], _number(place, parts[3])
    return _TestedRule(
        rule,
        str(row["alert"]),
        every,
        _labels(place, parts[1]),
        lambda value: compare(value, limit),
        labels,
        annotations,
    )


def _read_by(
    one: _TestedRule, series: Iterable[_Series]
) -> Iterator[tuple[str, str, dict[str, str], list[float | None]]]:
    """Yield the series that a rule reads: subject, source, labels and values."""
    for labels, values in series:
        if all(labels.get(key) == value for key, value in one.matches.items()):
            if one.labels is None:
                yield (
                    labels.get("subject", one.rule.subjects[0]),
                    labels.get("source", one.rule.sources[0]),
                    labels,
                    values,
                )
            else:
                yield ",".join(f"{k}={v}" for k, v in sorted(labels.items())), "page", labels, values


def _ticks(
    tested: list[_TestedRule], table: Rules, series: list[_Series], interval: int, until: int
) -> Iterator[tuple[int, int, Alerts]]:
    """Yield each tick, the next one, and the alerts after it; every rule is evaluated at its group's interval."""
    alerts = Alerts(table)
    ticks = sorted({at_us for one in tested for at_us in range(0, until + 1, one.every)})
    for at_us, next_us in zip(ticks, [*ticks[1:], until + 1]):
        due = [one for one in tested if at_us % one.every == 0]
        alerts.advance(
            at_us,
            [
                evaluate_figure(one.rule, subject, source, _figure(one, values, at_us, interval))
                for one in due
                for subject, source, _, values in _read_by(one, series)
            ],
        )
        yield at_us, next_us, alerts


def _value(values: list[float | None], at_us: int, interval: int) -> float | None:
    i = at_us // interval
    value = values[i] if i < len(values) else None
    return None if value is None or math.isnan(value) else value


def _figure(one: _TestedRule, values: list[float | None], at_us: int, interval: int) -> Figure:
    value = _value(values, at_us, interval)
    if value is None:
        return Figure(None, absent="no sample")
    return Figure(float(one.past(value)) if one.past else value)


def _within(
    place: str, question: tuple[int, dict[str, Any]], tested: list[_TestedRule], series: list[_Series], interval: int
) -> None:
    at_us, a = question
    mine = [one for one in tested if one.name == a.get("alertname")]
    if not mine:
        raise RulesError(
            f"{place}: there is no alert {a.get('alertname')!r}"
            f".{formatting.nearest(str(a.get('alertname')), {one.name for one in tested})}"
        )
    lasts = [(len(values) - 1) * interval for one in mine for _, _, _, values in _read_by(one, series)]
    if lasts and at_us > max(lasts):
        raise RulesError(
            f"{place}: {a['alertname']} is tested at {formatting.duration(at_us / 1e6)}, after its last input at "
            f"{formatting.duration(max(lasts) / 1e6)}. Add input values up to the eval_time."
        )


def _firing(
    tested: list[_TestedRule], alerts: Alerts, series: list[_Series], name: str, at_us: int, interval: int
) -> list[tuple[dict[str, str], dict[str, str]]]:
    """Return the labels and annotations of the firing alerts of a name."""
    found = []
    for one in tested:
        for subject, source, labels, values in _read_by(one, series):
            alert = alerts.alerts.get((one.rule.name, subject, source)) if one.name == name else None
            if alert is None or not alert.severity:
                continue
            if one.labels is None:
                found.append(
                    (
                        {"subject": subject, "source": source, "severity": alert.severity},
                        {**one.annotations, "runbook": one.rule.runbooks.get(subject, "")},
                    )
                )
                continue
            own = {k: v for k, v in labels.items() if k != "__name__"} | dict(one.labels)
            value = next(
                (v for t in range(at_us, -1, -interval) if (v := _value(values, t, interval)) is not None), math.nan
            )
            found.append((own, {k: _filled_in(v, value, labels) for k, v in one.annotations.items()}))
    return found


def _filled_in(template: str, value: float, labels: dict[str, str]) -> str:
    """Fill the value and the labels into an annotation template."""
    return _TEMPLATE.sub(lambda found: f"{value:.16g}" if found[1] else labels.get(found[2], ""), template)


def _compared(
    place: str, a: dict[str, Any], found: list[tuple[dict[str, str], dict[str, str]]], foreign: bool
) -> Iterator[str]:
    """
    Yield the differences between expected and firing alerts.

    Annotations of rules.toml's rules are compared only if the test gives them.
    """
    expected = []
    for e in _list(place, a.get("exp_alerts")):
        _keys(place, "exp_alerts: ", e, {"exp_labels", "exp_annotations"})
        labels, annotations = (
            {k: v for k, v in _mapping(place, key, e.get(key)).items() if k != "alertname"}
            for key in ("exp_labels", "exp_annotations")
        )
        expected.append((labels, annotations))
    left = list(found)
    missing = []
    for labels, annotations in expected:
        match = next(
            (
                f
                for f in left
                if f[0] == labels
                and (f[1] == annotations if foreign else all(f[1].get(k) == v for k, v in annotations.items()))
            ),
            None,
        )
        if match:
            left.remove(match)
        else:
            missing.append((labels, annotations))
    if missing or left:

        def in_words(rows: list[tuple[dict[str, str], dict[str, str]]]) -> str:
            return "; ".join(str(row[0]) for row in rows) or "nothing"

        yield (
            f"{place}: {a['alertname']} at {a.get('eval_time', '0s')}: expected {in_words(expected)}; "
            f"found {in_words(found)}"
        )
