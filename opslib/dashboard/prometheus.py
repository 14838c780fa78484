"""
Write a status as Prometheus text.

Gauges cover the last hour, those of a rule the rule's own window. An unknown figure has no sample, so that no alert
fires on an invented number.
"""

from datetime import datetime, timedelta

from opslib.alerting import evaluation
from opslib.alerting.verdicts import Finding, bound
from opslib.dashboard.status import Status
from opslib.foundation import clock, logs
from opslib.foundation.clock import Window
from opslib.foundation.config.rules import Rules
from opslib.foundation.config.settings import Settings
from opslib.foundation.errors import StoreError
from opslib.foundation.storage.database import Database
from opslib.telemetry.pages import counters
from opslib.telemetry.pages.store import SnapshotStore

# Longer than the database's busy timeout: posts older than this are stored, so a total up to then can be cached.
SETTLED = timedelta(seconds=90)
STRIDE = timedelta(days=1)


def errors_total(store: Database, settings: Settings, rules: Rules, as_of: datetime) -> int | None:
    """
    Count the errors of all page loads, each since its load; the count never decreases when a page resets.

    The total up to `SETTLED` ago is cached in the database, so the next call reads only what came after it. Snapshots
    that are imported for a time before that do not change it: the counter shows the current rate of errors.

    Returns:
        None where no snapshot was ever received.
    """
    first = SnapshotStore(store).first_ts(settings.app)
    if first is None:
        return None
    key = f"errors_total:{settings.app}"
    cached = store.recall(key)
    upto_us, total = (int(part) for part in cached.split()) if cached else (first - 1, 0)
    upto, fixed_until = clock.instant(upto_us), as_of - SETTLED
    begun = upto
    while upto < as_of:
        until = min(upto + STRIDE, fixed_until if upto < fixed_until else as_of)
        window = Window(upto, until)
        counter_history = counters.load(
            store, settings.app, window, None, rules.pages, post_every_s=settings.post_every_s
        )
        total += counter_history.increase_with_first_values("errors", window) or 0
        upto = until
        if begun < upto <= fixed_until:
            _cache(store, settings, key, f"{clock.micros(upto)} {total}")
    return total


def _cache(store: Database, settings: Settings, key: str, value: str) -> None:
    """Cache a total; where that fails, the total is computed again next time."""
    try:
        store.remember(key, value)
    except StoreError as problem:
        logs.of(settings.redact).warning(str(problem))


def prometheus(view: Status, total_errors: int | None) -> str:
    """Format the figures of a status as Prometheus text, format 0.0.4, ending in a newline."""
    figures = view.figures

    def percent(v: float | None) -> float | None:
        return None if v is None else v * 100

    down = figures["system"]["websocket_connected"]
    evaluated = [
        f
        for f in evaluation.evaluate_rules(view.counters, view.rules.without_budgets(), view.window.end, view.probed)
        if f.figure.value is not None and f.verdict != "unknown"
    ]

    def of(f: Finding) -> str:
        return f'{{rule="{f.rule.name}",source="{f.source}",subject="{f.subject}"}}'

    families: list[tuple[str, str, str, list[tuple[str, float | None]]]] = [
        (
            "trading_provider_uptime",
            "gauge",
            "Share of successful requests in the last hour, percent, by provider.",
            [(f'{{provider="{n}"}}', percent(f["availability"])) for n, f in figures["providers"].items()],
        ),
        (
            "trading_provider_requests",
            "gauge",
            "Requests in the last hour, by provider.",
            [(f'{{provider="{n}"}}', f["requests"]) for n, f in figures["providers"].items()],
        ),
        (
            "trading_greeks_valid_rate",
            "gauge",
            "Share of validations in the last hour without an error, percent.",
            [("", percent(figures["greeks"]["valid_rate"]))],
        ),
        (
            "trading_greeks_gamma_zero",
            "gauge",
            "Validations in the last hour with gamma zero or missing.",
            [("", figures["greeks"]["gamma_zero"])],
        ),
        (
            "trading_pnl_net_percent",
            "gauge",
            "Mean net result of the trades in the last hour, percent.",
            [("", figures["pnl"]["net_pct"])],
        ),
        (
            "trading_backtest_variance_points",
            "gauge",
            "Backtest minus live net result, percentage points, as last reported by the page.",
            [("", figures["pnl"]["backtest_variance_pp"])],
        ),
        (
            "trading_websocket_connected",
            "gauge",
            "1 if the WebSocket of every open page is connected, else 0.",
            [("", None if down is None else float(down))],
        ),
        (
            "trading_look_coverage_ratio",
            "gauge",
            "Snapshots received in the last hour divided by those expected, 0 to 1.",
            [("", view.coverage)],
        ),
        (
            "trading_rule_value",
            "gauge",
            "Value of the figure that a rule evaluates, over the rule's window, in the rule's unit.",
            [(of(f), f.figure.value) for f in evaluated],
        ),
        (
            "trading_rule_bound",
            "gauge",
            "Bound of the 95 percent interval that is compared with the thresholds; without an interval, the value.",
            [(of(f), bound(f.rule, f.figure)) for f in evaluated],
        ),
        (
            "trading_system_errors_total",
            "counter",
            "Errors counted by all page loads, each since its load.",
            [("", total_errors)],
        ),
    ]
    lines = []
    for name, kind, words, samples in families:
        known = [(labels, value) for labels, value in samples if value is not None]
        if known:
            lines += [
                f"# HELP {name} {words}",
                f"# TYPE {name} {kind}",
                *(f"{name}{labels} {value}" for labels, value in known),
            ]
    return "\n".join([*lines, ""]) if lines else "# no data for the last hour\n"
