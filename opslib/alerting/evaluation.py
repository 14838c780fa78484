"""
Evaluate every rule at an instant, by the figures of pages and probes.

`measure_page` measures what a rule is about; `verdicts.judge` says what it amounts to. Each figure is measured in one
place
here, whoever asks for it: a panel, over its own window (`at`), or an alert, each rule over the rule's
(`evaluate_rules`).
"""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from opslib.alerting import probe_conditions, probe_figures
from opslib.alerting.verdicts import (
    CONTRADICTION,
    NOT_EXPECTED,
    NOT_MEASURED,
    TOO_FEW,
    BudgetBurn,
    Figure,
    Finding,
    judge,
)
from opslib.foundation import clock, market_calendar
from opslib.foundation.clock import Window
from opslib.foundation.config.rules import Rule, Rules
from opslib.foundation.intervals import wilson
from opslib.telemetry import app_state
from opslib.telemetry.pages import indicators
from opslib.telemetry.pages.counters import CounterHistory
from opslib.telemetry.pages.page_loads import PageLoad
from opslib.telemetry.probes.history import ProbeHistory

PAGE = "page"  # What the app's pages post; every other source is a look of our own.
DEAD = ("critical", "escalate")
# Looks of our own that expect something only while the market is open.
OF_OPEN_MARKET = ("websocket_down", "dashboard_lag")


def _absent(tape: CounterHistory, window: Window, coverage: float | None) -> str:
    """Why is there no figure of a window?"""
    if not tape.ever_seen:
        return NOT_MEASURED
    if coverage is None:
        return NOT_EXPECTED
    return "no look came" if not tape.looks_in(window) else "nothing counted"


def _rise(tape: CounterHistory, name: str, window: Window, judging: bool) -> Any:
    """
    By how much did a counter rise?

    For an alert, only while the market was open: of before its open nobody is told at it.
    """
    return tape.rise_while_open(name, window) if judging else tape.rise(name, window)


def _rate(tape: CounterHistory, window: Window, part: str, count: str, judging: bool) -> Figure:
    coverage = tape.known(window)
    total, some = _rise(tape, count, window, judging), _rise(tape, part, window, judging)
    if not total or some is None:
        return Figure(None, coverage=coverage, absent=_absent(tape, window, coverage))
    if tape.counted_separately(part, count, window):
        return Figure(None, coverage=coverage, absent="a look told only one of the two counts")
    if not 0 <= some <= total:
        return Figure(None, coverage=coverage, absent=CONTRADICTION)
    return Figure(some / total, some, total, coverage)


def _availability(tape: CounterHistory, subject: str, window: Window, judging: bool) -> Figure:
    if subject not in tape.alive:
        return Figure(None, absent=NOT_MEASURED)
    return _rate(tape, window, f"{subject}_successes", f"{subject}_requests", judging)


def _errors(tape: CounterHistory, window: Window, judging: bool) -> Figure:
    coverage = tape.known(window)
    errors = _rise(tape, "errors", window, judging)
    if errors is None:
        return Figure(None, coverage=coverage, absent=_absent(tape, window, coverage))
    # A window shorter than an hour cannot show a rate an hour; what it shows is the least that the hour holds.
    return Figure(errors / max(1.0, window.seconds / 3600), coverage=coverage)


def _of(page: PageLoad) -> tuple[str | None, int | None]:
    """By what a page is known again."""
    return page.looks[0].page_id, page.loaded_at_us


def _websocket_down(tape: CounterHistory, window: Window, probed: ProbeHistory | None) -> Figure:
    if "websocket" not in tape.alive:
        return Figure(None, absent=NOT_MEASURED)
    if market_calendar.open_since(window.end) is None:
        return Figure(None, absent=NOT_EXPECTED)
    found, left = (
        tape.websocket_down_at(window.end_us),
        app_state.left_behind(tape, probed, window.end_us) if probed else None,
    )
    if left is not None and not (found and found[0]):
        return Figure(left[0], page=_of(left[1]), note=app_state.left_note(window.end_us, left[0]))
    return (
        Figure(found[0], page=_of(found[1]))
        if found
        else Figure(None, absent=_absent(tape, window, tape.coverage(window)))
    )


def _variance(tape: CounterHistory, window: Window, at_least: int) -> Figure:
    if "backtest_variance" not in tape.alive:
        return Figure(None, absent=NOT_MEASURED)
    found = indicators.decisive_variance(tape, window, at_least)
    page, look = found or (None, None)
    if page is None or look is None or look.backtest_variance_pp is None or look.trades is None:
        return Figure(None, absent=_absent(tape, window, tape.coverage(window)))
    if look.trades < at_least:
        return Figure(None, count=look.trades, absent=TOO_FEW)
    return Figure(abs(look.backtest_variance_pp), count=look.trades, page=_of(page))


def _memory(tape: CounterHistory, window: Window) -> Figure:
    """That of the largest open page; where none is open, of those seen last."""
    now = [(page.looks[i].memory_bytes, page) for page, i in tape.open_at(window.end_us)]
    asked = now or [(look.memory_bytes, page) for page, look in tape.seen_in(window)]
    used = [(size, page) for size, page in asked if size is not None]
    most = max(used, key=lambda u: u[0], default=None)
    return Figure(most[0] / 1e6, page=_of(most[1])) if most else Figure(None, absent=NOT_MEASURED)


def _silence(tape: CounterHistory, subject: str, window: Window, opened: datetime | None) -> Figure:
    """
    Seconds of the open market without a post; where posts come, without a request in them: a hard outage is never
    counted as failures.
    """
    silent = indicators.silent_for_s(tape, window.end)
    if silent is None or opened is None:
        return Figure(None, absent=NOT_EXPECTED if tape.ever_seen else NOT_MEASURED)
    if subject != "app" and subject not in tape.alive:
        return Figure(None, absent=NOT_MEASURED)
    if not tape.open_at(window.end_us):
        return (
            Figure(min(silent, (window.end - opened).total_seconds()))
            if subject == "app"
            else Figure(None, absent="no look came")
        )
    if subject != "app" and tape.untold(f"{subject}_requests", window):
        return Figure(None, absent="a look told no count of requests")
    idle = tape.idle_for_s(window.end_us, None if subject == "app" else subject)
    return Figure(0.0 if idle is None else min(idle, (window.end - opened).total_seconds()))


def _by_rhythm(tape: CounterHistory, rule: Rule, subject: str, figure: Figure, at_us: int) -> Rule:
    """
    The rule of silence with limits that fit a page which sends requests only now and then; a page that posts nothing
    has no such rhythm.
    """
    first = rule.ladder[0][1]
    if figure.value is None or isinstance(first, str) or not rule.past(figure.value, first) or not tape.open_at(at_us):
        return rule
    usual_s = indicators.usual_gap_s(tape, at_us, None if subject == "app" else subject)
    if usual_s is None:
        return rule
    how = tape.how
    return replace(
        rule,
        ladder=tuple(
            (
                rung,
                limit if isinstance(limit, str) else max(limit, min(how.idle_times * usual_s, how.idle_most * limit)),
            )
            for rung, limit in rule.ladder
        ),
    )


def _burn(tape: CounterHistory, rules: Rules, rule: Rule, subject: str, windows: "Windows") -> Figure:
    """How many times too fast is the budget spent that another rule's objective leaves, on each rung?"""
    assert rule.burn
    of = rules[rule.burn.of]
    rates = {
        length: measure_page(tape, rules, of, subject, windows, length)
        for both in rule.burn.windows.values()
        for length in both
    }
    spent = {rung: _spent(rule, of, rates[long], rates[short]) for rung, (long, short) in rule.burn.windows.items()}
    known = [s for s in spent.values() if s.bound is not None and s.long is not None]
    if not known:
        return next(iter(rates.values()))._replace(
            value=None, count=None, absent=next((r.absent for r in rates.values() if r.absent), TOO_FEW)
        )
    return Figure(max(s.long for s in known if s.long is not None), spent=spent)


def _spent(rule: Rule, of: Rule, long: Figure, short: Figure) -> BudgetBurn:
    """A rung is known where both its windows are covered and the short one has enough to count."""
    known = (
        all(f.value is not None and (f.coverage is None or f.coverage >= rule.min_coverage) for f in (long, short))
        and (short.count or 0) >= rule.min_count
    )
    over_long, over_short = (None if f.value is None else (1 - f.value) / (1 - of.objective) for f in (long, short))
    least = (
        [(1 - wilson(f.part or 0, f.count or 0, rule.confidence)[1]) / (1 - of.objective) for f in (long, short)]
        if known
        else []
    )
    return BudgetBurn(over_long, over_short, min(least) if known else None)


class Windows(dict[timedelta, Window]):
    """
    The windows that end at an instant, by their length.

    Attributes:
        judging: Are they an alert's, which counts only what was in the open market?
        opened: Since when the market is open, by the calendar and by what the providers say; None while it is closed.
        probed: What our own probes saw; None where only the page is asked.
        shut: Do the providers say that the market is closed, though the calendar has a session?
    """

    def __init__(self, instant: datetime, judging: bool = False, probed: ProbeHistory | None = None):
        self.instant, self.judging, self.probed = instant, judging, probed
        by_calendar = market_calendar.open_since(instant)
        self.opened = by_calendar if probed is None else probed.open_since(clock.micros(instant))
        self.shut = by_calendar is not None and self.opened is None

    def __missing__(self, length: timedelta) -> Window:
        self[length] = Window.before(self.instant, length)
        return self[length]


def measure_page(
    tape: CounterHistory, rules: Rules, rule: Rule, subject: str, windows: Windows, length: timedelta
) -> Figure:
    """
    What does the app's page say of what a rule is about? ``not measured`` where pages cannot say.

    Args:
        windows: Of the instant that is meant.
        length: Of the window that is meant; a burn rate has its own.
    """
    if PAGE not in rule.sources:
        return Figure(None, absent=NOT_MEASURED)
    if rule.burn:
        return _burn(tape, rules, rule, subject, windows)
    window = windows[length]
    if tape.ever_seen and not tape.open_spans(window):
        return Figure(None, absent=NOT_EXPECTED)
    match rule.name:
        case "availability":
            return _availability(tape, subject, window, windows.judging)
        case "greeks_valid":
            return _rate(tape, window, "greeks_valid", "validations", windows.judging)
        case "gamma_zero" | "delta_out_of_bounds":
            return _rate(tape, window, rule.name, "validations", windows.judging)
        case "errors":
            return _errors(tape, window, windows.judging)
        case "websocket_down":
            return _websocket_down(tape, window, windows.probed)
        case "backtest_variance":
            return _variance(tape, window, rule.min_count)
        case "memory":
            return _memory(tape, window)
        case "silence":
            return _silence(tape, subject, window, windows.opened)
    raise LookupError(f"no figure is measured for the rule {rule.name!r}")


def _finding(
    tape: CounterHistory,
    rules: Rules,
    rule: Rule,
    subject: str,
    source: str,
    windows: Windows,
    length: timedelta,
    probed: ProbeHistory | None,
) -> Finding:
    """
    One figure measured and judged.

    What cannot be measured for a fault of ours is unknown too, and disables no other rule.
    """
    rule = rule.of(source)
    if windows.shut and (source == PAGE or rule.name in OF_OPEN_MARKET):
        return judge(rule, subject, source, Figure(None, absent=NOT_EXPECTED))
    try:
        figure = (
            measure_page(tape, rules, rule, subject, windows, length)
            if source == PAGE or probed is None
            else _ours(probed, tape, rules, rule, subject, windows, length)
        )
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as problem:
        figure = Figure(None, absent=f"could not be measured ({problem.__class__.__name__}: {problem})")
    if rule.name == "silence":
        rule = _by_rhythm(tape, rule, subject, figure, windows[length].end_us)
    return judge(rule, subject, source, figure)


def _ours(
    probed: ProbeHistory,
    tape: CounterHistory,
    rules: Rules,
    rule: Rule,
    subject: str,
    windows: Windows,
    length: timedelta,
) -> Figure:
    """
    What our own probes say of what a rule is about.

    A condition has a window of its own, whatever window is shown.
    """
    if rule.name in probe_conditions.NAMES:
        return probe_conditions.measure(probed, rules, rule, subject, windows[rule.window])
    return probe_figures.measure(probed, tape, rule, subject, windows[length])


def _no_provider_left(rule: Rule, source: str, providers: list[Finding]) -> Finding:
    """
    Every provider that may serve is down: one trouble, ours; it is critical of each that makes it, and it is told once.
    """
    limit = dict(rule.ladder)["critical"]
    better = max(providers, key=lambda f: f.figure.value or 0.0)
    told = ", ".join(f"{f.subject} {rule.told(f.figure.value)}" for f in providers)
    if all(f.severity in DEAD for f in providers):
        return Finding(
            rule,
            "app",
            source,
            better.figure,
            "critical",
            "escalate",
            limit,
            True,
            f"no provider is left ({told}) < {rule.limit_told(limit)}",
        )
    if any(f.verdict in ("ok", "warning") for f in providers):
        return Finding(rule, "app", source, better.figure, "ok", None, limit, True, f"a provider serves ({told})")
    return Finding(
        rule,
        "app",
        source,
        Figure(None, absent=NOT_MEASURED),
        "unknown",
        None,
        limit,
        False,
        f"nothing is known of any provider that serves ({told})",
    )


def of_every_provider(rule: Rule, subject: str) -> bool:
    """Is it the trouble that no provider is left, which is judged of the others' findings?"""
    return rule.name == "availability" and subject == "app"


def _sources(rule: Rule, subject: str, probed: ProbeHistory | None) -> list[str]:
    """Who says anything of what a rule is about? Our own looks only where we have ever looked."""
    ours = (
        [source for source in rule.sources if source != PAGE and _looked(probed, rule, subject, source)]
        if probed
        else []
    )
    return [PAGE, *ours] if PAGE in rule.sources else ours or [rule.sources[0]]


def _looked(probed: ProbeHistory, rule: Rule, subject: str, source: str) -> bool:
    if rule.name in probe_conditions.NAMES:
        return probe_conditions.seen(probed, rule)
    return probe_figures.seen(probed, rule, subject, source)


def _all(
    tape: CounterHistory, rules: Rules, windows: Windows, only: timedelta | None, probed: ProbeHistory | None
) -> list[Finding]:
    found: list[Finding] = []
    for rule in rules.rules.values():
        if only and rule.burn:
            continue
        length = only or rule.window
        mine = [subject for subject in rule.subjects if not of_every_provider(rule, subject)]
        for subject in mine:
            found += [
                _finding(tape, rules, rule, subject, source, windows, length, probed)
                for source in _sources(rule, subject, probed)
            ]
        if len(mine) < len(rule.subjects):
            may_serve = [
                f
                for f in found
                if f.rule.name == rule.name
                and (f.subject != "tradier" or probed is None or probed.fallback == "tradier")
            ]
            for source in dict.fromkeys(f.source for f in may_serve):
                found.append(_no_provider_left(rule, source, [f for f in may_serve if f.source == source]))
    return found


def at(tape: CounterHistory, rules: Rules, window: Window, probed: ProbeHistory | None = None) -> list[Finding]:
    """
    What does everything amount to over one window? One finding for each rule, subject and source, in the table's order.

    Burn rates have windows of their own, so they are not among them.

    Args:
        probed: What our own looks saw; None is that only the page's word is asked for.
    """
    length = window.end - window.start
    windows = Windows(window.end, probed=probed)
    windows[length] = window
    return _all(tape, rules, windows, length, probed)


def evaluate_rules(
    tape: CounterHistory, rules: Rules, instant: datetime, probed: ProbeHistory | None = None
) -> list[Finding]:
    """What does everything amount to at an instant, each rule over its own window? In the table's order."""
    return _all(tape, rules, Windows(instant, True, probed), None, probed)
