"""
Evaluate every rule at an instant, from the figures of pages and probes.

`measure_page` measures a rule's figure, and `verdicts.evaluate_figure` evaluates it. Panels and alerts use the same
figures: panels over the window they show (`evaluate_window`), alerts over each rule's own window (`evaluate_rules`).
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
    evaluate_figure,
)
from opslib.foundation import clock, formatting, market_calendar
from opslib.foundation.clock import Window
from opslib.foundation.config.rules import Rule, Rules
from opslib.foundation.intervals import wilson
from opslib.telemetry import app_state
from opslib.telemetry.pages import indicators
from opslib.telemetry.pages.counters import CounterHistory
from opslib.telemetry.pages.page_loads import PageLoad
from opslib.telemetry.probes.history import ProbeHistory

PAGE = "page"  # Snapshots that the app's pages post. Every other source is a probe of ours.
DEAD = ("critical", "escalate")
# Rules of our probes that are evaluated only while the market is open.
OF_OPEN_MARKET = ("websocket_down", "dashboard_lag")


def _absent(counters: CounterHistory, window: Window, coverage: float | None) -> str:
    """Return why there is no figure for a window."""
    if not counters.ever_seen:
        return NOT_MEASURED
    if coverage is None:
        return NOT_EXPECTED
    return "no snapshot received" if not counters.snapshots_in(window) else "nothing was counted"


def _increase(counters: CounterHistory, name: str, window: Window, for_alerts: bool) -> Any:
    """
    Return the increase of a counter.

    For an alert, only the time while the market was open counts.
    """
    return counters.increase_while_open(name, window) if for_alerts else counters.increase(name, window)


def _rate(counters: CounterHistory, window: Window, part: str, count: str, for_alerts: bool) -> Figure:
    coverage = counters.known(window)
    total, some = _increase(counters, count, window, for_alerts), _increase(counters, part, window, for_alerts)
    if not total or some is None:
        return Figure(None, coverage=coverage, absent=_absent(counters, window, coverage))
    if counters.counted_separately(part, count, window):
        return Figure(None, coverage=coverage, absent="a snapshot has only one of the two counters")
    if not 0 <= some <= total:
        return Figure(None, coverage=coverage, absent=CONTRADICTION)
    return Figure(some / total, some, total, coverage)


def _availability(counters: CounterHistory, subject: str, window: Window, for_alerts: bool) -> Figure:
    if subject not in counters.wired:
        return Figure(None, absent=NOT_MEASURED)
    return _rate(counters, window, f"{subject}_successes", f"{subject}_requests", for_alerts)


def _errors(counters: CounterHistory, window: Window, for_alerts: bool) -> Figure:
    coverage = counters.known(window)
    errors = _increase(counters, "errors", window, for_alerts)
    if errors is None:
        return Figure(None, coverage=coverage, absent=_absent(counters, window, coverage))
    # A window shorter than an hour gives no hourly rate; its count is a lower bound of the hour's count.
    return Figure(errors / max(1.0, window.seconds / 3600), coverage=coverage)


def _page_key(page: PageLoad) -> tuple[str | None, int | None]:
    """Return the key that identifies a page load."""
    return page.snapshots[0].page_id, page.loaded_at_us


def _websocket_down(counters: CounterHistory, window: Window, probed: ProbeHistory | None) -> Figure:
    if "websocket" not in counters.wired:
        return Figure(None, absent=NOT_MEASURED)
    if market_calendar.open_since(window.end) is None:
        return Figure(None, absent=NOT_EXPECTED)
    found, left = (
        counters.websocket_down_at(window.end_us),
        app_state.unserved_page(counters, probed, window.end_us) if probed else None,
    )
    if left is not None and not (found and found[0]):
        return Figure(left[0], page=_page_key(left[1]), note=app_state.unserved_note(window.end_us, left[0]))
    return (
        Figure(found[0], page=_page_key(found[1]))
        if found
        else Figure(None, absent=_absent(counters, window, counters.coverage(window)))
    )


def _variance(counters: CounterHistory, window: Window, at_least: int) -> Figure:
    if "backtest_variance" not in counters.wired:
        return Figure(None, absent=NOT_MEASURED)
    found = indicators.decisive_variance(counters, window, at_least)
    page, snapshot = found or (None, None)
    if page is None or snapshot is None or snapshot.backtest_variance_pp is None or snapshot.trades is None:
        return Figure(None, absent=_absent(counters, window, counters.coverage(window)))
    if snapshot.trades < at_least:
        return Figure(None, count=snapshot.trades, absent=TOO_FEW)
    return Figure(abs(snapshot.backtest_variance_pp), count=snapshot.trades, page=_page_key(page))


def _memory(counters: CounterHistory, window: Window) -> Figure:
    """Return the memory of the largest open page; if none is open, of the pages seen last."""
    now = [(page.snapshots[i].memory_bytes, page) for page, i in counters.open_at(window.end_us)]
    readings = now or [(snapshot.memory_bytes, page) for page, snapshot in counters.pages_in(window)]
    used = [(size, page) for size, page in readings if size is not None]
    most = max(used, key=lambda u: u[0], default=None)
    return Figure(most[0] / 1e6, page=_page_key(most[1])) if most else Figure(None, absent=NOT_MEASURED)


def _silence(counters: CounterHistory, subject: str, window: Window, opened: datetime | None) -> Figure:
    """
    Measure the seconds of open market without a snapshot or, if snapshots come, without a request in them.

    In a hard outage the page sends no requests, so no failures are counted.
    """
    silent = indicators.silent_for_s(counters, window.end)
    if silent is None or opened is None:
        return Figure(None, absent=NOT_EXPECTED if counters.ever_seen else NOT_MEASURED)
    if subject != "app" and subject not in counters.wired:
        return Figure(None, absent=NOT_MEASURED)
    if not counters.open_at(window.end_us):
        return (
            Figure(min(silent, (window.end - opened).total_seconds()))
            if subject == "app"
            else Figure(None, absent="no snapshot received")
        )
    if subject != "app" and counters.missing_in(f"{subject}_requests", window):
        return Figure(None, absent="a snapshot has no request counter")
    idle = counters.idle_for_s(window.end_us, None if subject == "app" else subject)
    return Figure(0.0 if idle is None else min(idle, (window.end - opened).total_seconds()))


def _adapt_to_interval(counters: CounterHistory, rule: Rule, subject: str, figure: Figure, at_us: int) -> Rule:
    """
    Return the rule ``silence`` with limits raised for a page that sends requests only now and then.

    A page that posts nothing keeps the rule's limits.
    """
    first = rule.thresholds[0][1]
    if (
        figure.value is None
        or isinstance(first, str)
        or not rule.crosses(figure.value, first)
        or not counters.open_at(at_us)
    ):
        return rule
    usual_s = indicators.usual_gap_s(counters, at_us, None if subject == "app" else subject)
    if usual_s is None:
        return rule
    how = counters.how
    return replace(
        rule,
        thresholds=tuple(
            (
                severity,
                limit if isinstance(limit, str) else max(limit, min(how.idle_times * usual_s, how.idle_most * limit)),
            )
            for severity, limit in rule.thresholds
        ),
    )


def _burn(counters: CounterHistory, rules: Rules, rule: Rule, subject: str, windows: "Windows") -> Figure:
    """Measure the burn rate of another rule's error budget, for each severity."""
    assert rule.burn
    of = rules[rule.burn.of]
    rates = {
        length: measure_page(counters, rules, of, subject, windows, length)
        for both in rule.burn.windows.values()
        for length in both
    }
    spent = {
        severity: _spent(rule, of, rates[long], rates[short]) for severity, (long, short) in rule.burn.windows.items()
    }
    known = [s for s in spent.values() if s.bound is not None and s.long is not None]
    if not known:
        return next(iter(rates.values()))._replace(
            value=None, count=None, absent=next((r.absent for r in rates.values() if r.absent), TOO_FEW)
        )
    return Figure(max(s.long for s in known if s.long is not None), spent=spent)


def _spent(rule: Rule, of: Rule, long: Figure, short: Figure) -> BudgetBurn:
    """Return the burn rates of one severity; the bound needs coverage of both windows and enough samples."""
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
        for_alerts: Whether they are for alerts, which count only the time of the open market.
        opened: Since when the market is open, by the calendar and by the providers; None while it is closed.
        probed: Results of our probes; None if only the page counts.
        market_closed: Whether the providers report that the market is closed although the calendar has a session.
    """

    def __init__(self, instant: datetime, for_alerts: bool = False, probed: ProbeHistory | None = None):
        self.instant, self.for_alerts, self.probed = instant, for_alerts, probed
        by_calendar = market_calendar.open_since(instant)
        self.opened = by_calendar if probed is None else probed.open_since(clock.micros(instant))
        self.market_closed = by_calendar is not None and self.opened is None

    def __missing__(self, length: timedelta) -> Window:
        self[length] = Window.before(self.instant, length)
        return self[length]


def measure_page(
    counters: CounterHistory, rules: Rules, rule: Rule, subject: str, windows: Windows, length: timedelta
) -> Figure:
    """
    Measure the figure of a rule from the snapshots of the app's pages; ``not measured`` if pages have no such figure.

    Args:
        windows: The windows that end at the evaluated instant.
        length: Length of the window to use; a burn rate uses its own.
    """
    if PAGE not in rule.sources:
        return Figure(None, absent=NOT_MEASURED)
    if rule.burn:
        return _burn(counters, rules, rule, subject, windows)
    window = windows[length]
    if counters.ever_seen and not counters.open_spans(window):
        return Figure(None, absent=NOT_EXPECTED)
    match rule.name:
        case "availability":
            return _availability(counters, subject, window, windows.for_alerts)
        case "greeks_valid":
            return _rate(counters, window, "greeks_valid", "validations", windows.for_alerts)
        case "gamma_zero" | "delta_out_of_bounds":
            return _rate(counters, window, rule.name, "validations", windows.for_alerts)
        case "errors":
            return _errors(counters, window, windows.for_alerts)
        case "websocket_down":
            return _websocket_down(counters, window, windows.probed)
        case "backtest_variance":
            return _variance(counters, window, rule.min_count)
        case "memory":
            return _memory(counters, window)
        case "silence":
            return _silence(counters, subject, window, windows.opened)
    raise LookupError(f"no figure is measured for the rule {rule.name!r}")


def _evaluate(
    counters: CounterHistory,
    rules: Rules,
    rule: Rule,
    subject: str,
    source: str,
    windows: Windows,
    length: timedelta,
    probed: ProbeHistory | None,
) -> Finding:
    """
    Measure and evaluate one figure.

    If measuring fails because of a defect in our code, the finding is unknown and the other rules are still evaluated.
    """
    rule = rule.of(source)
    if windows.market_closed and (source == PAGE or rule.name in OF_OPEN_MARKET):
        return evaluate_figure(rule, subject, source, Figure(None, absent=NOT_EXPECTED))
    try:
        figure = (
            measure_page(counters, rules, rule, subject, windows, length)
            if source == PAGE or probed is None
            else _measure_probes(probed, counters, rules, rule, subject, windows, length)
        )
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as problem:
        figure = Figure(None, absent=f"could not be measured ({problem.__class__.__name__}: {problem})")
    if rule.name == "silence":
        rule = _adapt_to_interval(counters, rule, subject, figure, windows[length].end_us)
    found = evaluate_figure(rule, subject, source, figure)
    return found._replace(over=length) if found.over not in (None, length) else found


def _measure_probes(
    probed: ProbeHistory,
    counters: CounterHistory,
    rules: Rules,
    rule: Rule,
    subject: str,
    windows: Windows,
    length: timedelta,
) -> Figure:
    """
    Measure the figure of a rule from our probes.

    A condition always uses its rule's window, whatever window is shown.
    """
    if rule.name in probe_conditions.NAMES:
        return probe_conditions.measure(probed, rules, rule, subject, windows[rule.window])
    return probe_figures.measure(probed, counters, rule, subject, windows[length])


def _no_provider_left(rule: Rule, source: str, providers: list[Finding]) -> Finding:
    """Evaluate the rule that no provider is available: all usable providers critical gives one finding for the app."""
    limit = dict(rule.thresholds)["critical"]
    better = max(providers, key=lambda f: f.figure.value or 0.0)
    values = ", ".join(f"{f.subject} {rule.format_value(f.figure.value)}" for f in providers)
    over = f", over {formatting.duration(better.over.total_seconds())}" if better.over else ""
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
            f"no provider is available ({values}{over}) < {rule.format_limit(limit)}",
        )
    if any(f.verdict in ("ok", "warning") for f in providers):
        return Finding(
            rule, "app", source, better.figure, "ok", None, limit, True, f"a provider is available ({values}{over})"
        )
    return Finding(
        rule,
        "app",
        source,
        Figure(None, absent=NOT_MEASURED),
        "unknown",
        None,
        limit,
        False,
        f"it is unknown whether any provider is available ({values}{over})",
    )


def is_no_provider_rule(rule: Rule, subject: str) -> bool:
    """Return whether the rule and subject mean "no provider is available", which is derived from other findings."""
    return rule.name == "availability" and subject == "app"


def _sources(rule: Rule, subject: str, probed: ProbeHistory | None) -> list[str]:
    """Return the sources that have data for a rule; our probes only if they ever ran."""
    ours = (
        [source for source in rule.sources if source != PAGE and _has_probes(probed, rule, subject, source)]
        if probed
        else []
    )
    return [PAGE, *ours] if PAGE in rule.sources else ours or [rule.sources[0]]


def _has_probes(probed: ProbeHistory, rule: Rule, subject: str, source: str) -> bool:
    if rule.name in probe_conditions.NAMES:
        return probe_conditions.has_probes(probed, rule)
    return probe_figures.has_probes(probed, rule, subject, source)


def _evaluate_all(
    counters: CounterHistory, rules: Rules, windows: Windows, only: timedelta | None, probed: ProbeHistory | None
) -> list[Finding]:
    found: list[Finding] = []
    for rule in rules.rules.values():
        if only and rule.burn:
            continue
        length = only or rule.window
        mine = [subject for subject in rule.subjects if not is_no_provider_rule(rule, subject)]
        for subject in mine:
            found += [
                _evaluate(counters, rules, rule, subject, source, windows, length, probed)
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


def evaluate_window(
    counters: CounterHistory, rules: Rules, window: Window, probed: ProbeHistory | None = None
) -> list[Finding]:
    """
    Evaluate all rules over one window: one finding per rule, subject and source, in the order of the rules.

    Burn rates have their own windows, so they are left out.

    Args:
        probed: Results of our probes; None means that only the page counts.
    """
    length = window.end - window.start
    windows = Windows(window.end, probed=probed)
    windows[length] = window
    return _evaluate_all(counters, rules, windows, length, probed)


def evaluate_rules(
    counters: CounterHistory, rules: Rules, instant: datetime, probed: ProbeHistory | None = None
) -> list[Finding]:
    """Evaluate all rules at an instant, each over its own window, in the order of the rules."""
    return _evaluate_all(counters, rules, Windows(instant, True, probed), None, probed)
