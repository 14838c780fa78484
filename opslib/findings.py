"""
This module knows what the figures of a tape amount to against the limits, at an instant and over a day, and nothing else.

`observe` measures what a rule is about; `rules.judge` says what it amounts to; `episodes` walks a session and keeps the
stretches in which something was wrong. Each figure is measured in one place here, whoever asks for it.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from opslib import clock, indicators
from opslib.clock import Window
from opslib.rules import RUNGS, Figure, Finding, Rule, Rules, judge
from opslib.tape import Tape

SOURCE = "page"  # The only one so far that says anything: what the app's pages post.
GRID = timedelta(seconds=30)


def _absent(tape: Tape, window: Window, coverage: float | None) -> str:
    """Why is there no figure of a window?"""
    if not tape.ever_seen:
        return "not measured"
    if coverage is None:
        return "not expected"
    return "no look came" if not tape.looks_in(window) else "nothing counted"


def _coverage(tape: Tape, window: Window) -> float | None:
    """How well is what a rate rests on covered? An increase over a gap is not one of the window alone."""
    return tape.coverage(tape.rests_on(window))


def _rate(tape: Tape, window: Window, part: str, count: str) -> Figure:
    coverage = _coverage(tape, window)
    total, some = tape.rise(count, window), tape.rise(part, window)
    if not total or some is None:
        return Figure(None, coverage=coverage, absent=_absent(tape, window, coverage))
    if not 0 <= some <= total:
        return Figure(None, coverage=coverage, absent="the page's counts contradict each other")
    return Figure(some / total, some, total, coverage)


def _availability(tape: Tape, subject: str, window: Window) -> Figure:
    if subject not in tape.alive:
        return Figure(None, absent="not measured")
    return _rate(tape, window, f"{subject}_successes", f"{subject}_requests")


def _errors(tape: Tape, window: Window) -> Figure:
    coverage = _coverage(tape, window)
    errors = tape.rise("errors", window)
    if errors is None:
        return Figure(None, coverage=coverage, absent=_absent(tape, window, coverage))
    # A window shorter than an hour cannot show a rate an hour; what it shows is the least that the hour holds.
    return Figure(errors / max(1.0, window.seconds / 3600), coverage=coverage)


def _websocket_down(tape: Tape, window: Window) -> Figure:
    if "websocket" not in tape.alive:
        return Figure(None, absent="not measured")
    if clock.open_since(window.end) is None:
        return Figure(None, absent="not expected")
    down = tape.websocket_down_for_s(window.end)
    return Figure(down, absent="" if down is not None else _absent(tape, window, tape.coverage(window)))


def _variance(tape: Tape, window: Window, at_least: int) -> Figure:
    if "backtest_variance" not in tape.alive:
        return Figure(None, absent="not measured")
    found = indicators.pnl(tape, window, at_least)
    value, trades = found["backtest_variance_pp"], found["variance_trades"]
    if value is None or trades is None:
        return Figure(None, absent=_absent(tape, window, tape.coverage(window)))
    return Figure(abs(value), count=trades) if trades >= at_least else Figure(None, count=trades, absent="too few")


def _memory(tape: Tape, window: Window) -> Figure:
    used = [look.memory_bytes for _, look in tape.seen_in(window) if look.memory_bytes is not None]
    return Figure(max(used) / 1e6) if used else Figure(None, absent="not measured")


def _silence(tape: Tape, window: Window) -> Figure:
    """Seconds without a post; where posts come, seconds without a request in them: a hard outage is never counted as failures."""
    silent, at = indicators.silent_for_s(tape, window.end), clock.micros(window.end)
    if silent is None:
        return Figure(None, absent="not expected" if tape.ever_seen else "not measured")
    if not tape.open_at(at):
        return Figure(silent)
    idle, opened = tape.idle_for_s(at), clock.open_since(window.end)
    return Figure(0.0 if idle is None or opened is None else min(idle, (window.end - opened).total_seconds()))


def observe(tape: Tape, rule: Rule, subject: str, window: Window) -> Figure:
    """What does the app's page say of what a rule is about, over a window? ``not measured`` where pages cannot say."""
    if SOURCE not in rule.sources:
        return Figure(None, absent="not measured")
    if tape.ever_seen and not clock.open_spans(window):
        return Figure(None, absent="not expected")
    match rule.name:
        case "availability":
            return _availability(tape, subject, window)
        case "greeks_valid":
            return _rate(tape, window, "greeks_valid", "validations")
        case "gamma_zero" | "delta_out_of_bounds":
            return _rate(tape, window, rule.name, "validations")
        case "errors":
            return _errors(tape, window)
        case "websocket_down":
            return _websocket_down(tape, window)
        case "backtest_variance":
            return _variance(tape, window, rule.min_count)
        case "memory":
            return _memory(tape, window)
        case "silence":
            return _silence(tape, window)
    raise LookupError(f"no figure is measured for the rule {rule.name!r}")


def at(tape: Tape, rules: Rules, window: Window) -> list[Finding]:
    """What does everything amount to at the end of a window? One finding for each rule and subject, in the table's order."""
    found = [judge(rule, subject, SOURCE, observe(tape, rule, subject, window)) for rule in rules.rules.values() for subject in rule.subjects]
    providers = [f for f in found if f.rule.name == "availability"]
    if all(f.verdict == "critical" for f in providers):
        found = [replace(f, severity="escalate", sentence=f"{f.sentence}; no provider is left") if f in providers else f for f in found]
    return found


@dataclass(frozen=True, slots=True)
class Episode:
    """
    A stretch in which one rule was past its limits without a break.

    Attributes:
        began, ended: First instant past the limits, and first one not; aware UTC, to the grid of half a minute.
        ongoing: Was it still so when the tape ended?
        worst: The finding of its worst instant.
    """

    began: datetime
    ended: datetime
    ongoing: bool
    worst: Finding


def _rank(finding: Finding) -> tuple[int, float]:
    """Which of two findings of one rule is worse?"""
    value = finding.figure.value or 0.0
    return RUNGS.index(finding.severity), -value if finding.rule.better == "higher" else value


def episodes(tape: Tape, rules: Rules, session: Window) -> list[Episode]:
    """
    When was something wrong during a session, each rule over its own window?

    A stretch shorter than the rule's `for` is none. An instant of which nothing is known neither begins nor ends one.
    """
    found = []
    for rule in rules.rules.values():
        for subject in rule.subjects:
            if SOURCE in rule.sources:
                found += _of_rule(tape, rule, subject, session)
    return sorted(found, key=lambda e: (e.began, e.worst.rule.name, e.worst.subject))


def _of_rule(tape: Tape, rule: Rule, subject: str, session: Window) -> Iterator[Episode]:
    began: datetime | None = None
    worst: Finding | None = None
    at = session.start
    while at < session.end:
        at = min(at + GRID, session.end)
        finding = judge(rule, subject, SOURCE, observe(tape, rule, subject, Window.before(at, rule.window)))
        if finding.severity:
            began = began or at
            worst = finding if worst is None or _rank(finding) > _rank(worst) else worst
        elif finding.verdict == "ok" and began and worst:
            if at - began >= rule.hold:
                yield Episode(began, at, False, worst)
            began, worst = None, None
    if began and worst and session.end - began >= rule.hold:
        yield Episode(began, session.end, True, worst)
