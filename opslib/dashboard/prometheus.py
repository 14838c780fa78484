"""
Write a view as Prometheus text, and the limits as Prometheus rules.

Gauges speak of the last hour, those of a rule of the rule's own window; a figure that is not known has no line, so that
nobody alerts on an invented number.
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

# Well over the store's busy timeout: posts older than this are in it, and a total up to then may be remembered.
SETTLED = timedelta(seconds=90)
STRIDE = timedelta(days=1)


def errors_total(store: Database, settings: Settings, rules: Rules, as_of: datetime) -> int | None:
    """
    How many errors have all pages that were ever seen counted, each since its load? Never falls, whatever they reset.

    What is imported of a time that is already remembered does not enter it: it tells how fast errors come, now.

    The part that is settled is remembered in the store, so that asking again costs what happened since.
    None where nothing was ever seen.
    """
    first = SnapshotStore(store).first_ts(settings.app)
    if first is None:
        return None
    key = f"errors_total:{settings.app}"
    remembered = store.recall(key)
    upto_us, total = (int(part) for part in remembered.split()) if remembered else (first - 1, 0)
    upto, settled = clock.instant(upto_us), as_of - SETTLED
    begun = upto
    while upto < as_of:
        until = min(upto + STRIDE, settled if upto < settled else as_of)
        window = Window(upto, until)
        tape = counters.load(store, settings.app, window, None, rules.pages, post_every_s=settings.post_every_s)
        total += tape.came_to_light("errors", window) or 0
        upto = until
        if begun < upto <= settled:
            _remember(store, settings, key, f"{clock.micros(upto)} {total}")
    return total


def _remember(store: Database, settings: Settings, key: str, value: str) -> None:
    """Remember a total where that is possible: one that cannot be remembered is right all the same, and made again."""
    try:
        store.remember(key, value)
    except StoreError as problem:
        logs.of(settings.redact).warning(str(problem))


def prometheus(view: Status, total_errors: int | None) -> str:
    """The figures of a view of the last hour as Prometheus text, format 0.0.4, ending in a newline."""
    figures = view.figures

    def percent(v: float | None) -> float | None:
        return None if v is None else v * 100

    down = figures["system"]["websocket_connected"]
    judged = [
        f
        for f in evaluation.evaluate_rules(view.tape, view.rules.without_budgets(), view.window.end, view.probed)
        if f.figure.value is not None and f.verdict != "unknown"
    ]

    def of(f: Finding) -> str:
        return f'{{rule="{f.rule.name}",source="{f.source}",subject="{f.subject}"}}'

    families: list[tuple[str, str, str, list[tuple[str, float | None]]]] = [
        (
            "trading_provider_uptime",
            "gauge",
            "Successful requests of the last hour, percent, by provider.",
            [(f'{{provider="{n}"}}', percent(f["availability"])) for n, f in figures["providers"].items()],
        ),
        (
            "trading_provider_requests",
            "gauge",
            "Requests of the last hour, by provider.",
            [(f'{{provider="{n}"}}', f["requests"]) for n, f in figures["providers"].items()],
        ),
        (
            "trading_greeks_valid_rate",
            "gauge",
            "Valid Greeks of the last hour, percent of validations.",
            [("", percent(figures["greeks"]["valid_rate"]))],
        ),
        (
            "trading_greeks_gamma_zero",
            "gauge",
            "Validations of the last hour with gamma zero or missing.",
            [("", figures["greeks"]["gamma_zero"])],
        ),
        (
            "trading_pnl_net_percent",
            "gauge",
            "Mean net result of the trades of the last hour, percent.",
            [("", figures["pnl"]["net_pct"])],
        ),
        (
            "trading_backtest_variance_points",
            "gauge",
            "Backtest minus live net result, percentage points, as the page last said.",
            [("", figures["pnl"]["backtest_variance_pp"])],
        ),
        (
            "trading_websocket_connected",
            "gauge",
            "1 when every open page has its WebSocket.",
            [("", None if down is None else float(down))],
        ),
        (
            "trading_look_coverage_ratio",
            "gauge",
            "Looks received of those expected in the last hour, 0 to 1.",
            [("", view.coverage)],
        ),
        (
            "trading_rule_value",
            "gauge",
            "The figure a rule is about, over the rule's own window, in the rule's unit.",
            [(of(f), f.figure.value) for f in judged],
        ),
        (
            "trading_rule_bound",
            "gauge",
            "The end of its 95 percent interval that a limit must be past; where a rule has none, the figure.",
            [(of(f), bound(f.rule, f.figure)) for f in judged],
        ),
        (
            "trading_system_errors_total",
            "counter",
            "Errors counted by all pages that were ever seen, each since its load.",
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
    return "\n".join([*lines, ""]) if lines else "# nothing is known of the last hour\n"
