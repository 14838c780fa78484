"""Run ``ops rules``: show, check, test, export and backtest the alert rules."""

import argparse
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opslib.alerting import backtest, prometheus_rules, rule_tests
from opslib.alerting.backtest import Progress, Score
from opslib.foundation import formatting, time_parsing
from opslib.foundation.clock import Window
from opslib.foundation.config import rules as config_rules
from opslib.foundation.config.rules import SEVERITIES, Rules

if TYPE_CHECKING:
    from opslib.desk import Desk


@dataclass(frozen=True)
class Answer:
    """
    Hold an answer for programs and for people.

    Attributes:
        right: Whether nothing is wrong.
    """

    values: Any
    words: str
    right: bool = True


def run(desk: "Desk", options: argparse.Namespace, progress: Progress) -> Answer:
    """Run one of show, check, test, export and backtest."""
    match options.what:
        case "check":
            return _check(desk.rules)
        case "test":
            return _test(Path(options.argument), desk.rules)
        case "export":
            found = prometheus_rules.prometheus_rules(desk.rules)
            return Answer(found, found)
        case "backtest":
            return _backtest(desk, options, progress)
    return _show_table(desk.rules)


def _show_table(rules: Rules) -> Answer:
    rows = [
        {
            "rule": r.name,
            "better": r.better,
            "objective": r.objective,
            **{severity: dict(r.thresholds).get(severity) for severity in SEVERITIES},
            "unit": r.unit,
            "window_s": r.window.total_seconds(),
            "for_s": {severity: hold.total_seconds() for severity, hold in r.holds.items()},
            "keep_firing_for_s": r.keep_firing_for.total_seconds(),
            "runbooks": sorted(set(r.runbooks.values())),
        }
        for r in rules.rules.values()
    ]

    def text(v: Any) -> str:
        if isinstance(v, list):
            return ", ".join(v)
        if isinstance(v, dict):
            return "/".join(f"{x:g}" for x in v.values())
        if isinstance(v, float):
            return f"{v:g}"
        return "" if v is None else str(v)

    return Answer(
        {"hash": rules.hash, "rules": rows},
        formatting.table([*rows[0]], [[text(v) for v in row.values()] for row in rows]),
    )


def _check(rules: Rules) -> Answer:
    """Report that the rules are valid, and list what differs from the shipped rules; invalid rules do not load."""
    shipped = config_rules.load()
    own = [
        f"{name}: {key} is {getattr(rule, key)}, shipped {getattr(shipped[name], key)}"
        for name, rule in rules.rules.items()
        for key in rule.__dataclass_fields__
        if getattr(rule, key) != getattr(shipped[name], key)
    ]
    words = [
        f"{len(rules.rules)} rules are valid; hash {rules.hash}.",
        *(own or ["Nothing differs from the shipped rules."]),
    ]
    return Answer({"hash": rules.hash, "rules": len(rules.rules), "problems": [], "own": own}, "\n".join(words))


def _test(path: Path, rules: Rules) -> Answer:
    tried = rule_tests.run(path, rules)
    words = [*tried.failures, f"{path}: {tried.count - len(tried.failures)} of {tried.count} expectations met."]
    return Answer({"expectations": tried.count, "failures": tried.failures}, "\n".join(words), not tried.failures)


def _backtest(desk: "Desk", options: argparse.Namespace, progress: Progress) -> Answer:
    end = time_parsing.parse(options.end, "end") if options.end else desk.now()
    window = (
        Window(time_parsing.parse(options.start), end)
        if options.start
        else Window.before(end, time_parsing.parse_span("30d"))
    )
    tables = {"in effect": desk.rules} | (
        {"candidate": config_rules.laid_over(options.candidate)} if options.candidate else {}
    )
    given = backtest.read_known_incidents(options.troubles, desk.rules) if options.troubles else None
    found, troubles = backtest.score_history(desk.store, desk.settings, tables, window, given, progress)
    values: dict[str, Any] = {
        "window": {"from": formatting.iso(window.start), "to": formatting.iso(window.end)},
        "labelled": given is not None,
        "history": {name: score.as_json() for name, score in found.items()},
    }
    labels = (
        f"{len(troubles)} known incidents"
        if given is not None
        else "no known incidents were given: every notification by the rules in effect is taken as right"
    )
    words = [f"History, {window}; {labels}.", _table(found)]
    if options.days:
        seed = secrets.randbelow(10**6) if options.seed is None else options.seed
        back = backtest.extract_background(desk.store, desk.settings, desk.rules, window, troubles)
        scores = backtest.score_resampled(back, tables, desk.settings.post_every_s, options.days, seed, progress)
        values |= {"seed": seed, "resampled": {name: score.as_json() for name, score in scores.items()}}
        words += [
            "",
            f"{options.days} days resampled from {len(back.blocks)} blocks of ten minutes, with incidents "
            f"added; seed {seed}.",
            _table(scores),
        ]
        words += [
            f"false notification, {name}: {page}"
            for name, score in scores.items()
            for page in score.false_notifications
        ]
    return Answer(values, "\n".join(words))


def _table(scores: dict[str, Score]) -> str:
    """Format the scores of each table side by side."""
    keys = sorted(
        {key for score in scores.values() for key in score.found},
        key=lambda k: (k.startswith("up to"), float("".join(c for c in k if c in "0123456789.") or 0)),
    )

    def of(pair: Sequence[int]) -> str:
        return f"{pair[1]} of {pair[0]}" + (f" ({formatting.ratio(pair[1] / pair[0], 0)})" if pair[0] else "")

    rows = [
        [f"incidents notified {key}", *(of(score.found.get(key, [0, 0])) for score in scores.values())] for key in keys
    ]

    def lead(s: Score) -> str:
        return (
            "no incident notified"
            if not s.lead_s
            else f"{s.as_json()['lead']['median']:.0f} s, longest {max(s.lead_s):.0f} s"
        )

    rows += [
        ["days", *(str(s.sessions) for s in scores.values())],
        [
            "notifications right / next to an incident / false",
            *(f"{s.right} / {s.beside} / {s.false}" for s in scores.values()),
        ],
        ["precision", *(formatting.ratio(s.precision, 1) for s in scores.values())],
        ["notified after, median", *(lead(s) for s in scores.values())],
        ["repeated at the same severity", *(str(s.flaps) for s in scores.values())],
    ]
    return formatting.table(["", *scores], rows)
