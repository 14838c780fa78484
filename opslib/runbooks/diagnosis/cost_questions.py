"""
Find which cost explains the gap to the backtest, from the decomposition of fills, else from the page's means.

From fills, each trade has the same weight, in points of its own base, and a term counts only if it is significant.
Costs that cannot be separated are not attributed to one cause. From the page, the newest trades are compared with
earlier trades in the rule's window.
"""

from collections.abc import Iterable
from datetime import datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NamedTuple

from opslib.alerting import fill_figures
from opslib.alerting.causes import UNDETERMINED
from opslib.alerting.evaluation import PAGE
from opslib.foundation import clock, formatting
from opslib.foundation.clock import Window
from opslib.foundation.config.rules import Rule
from opslib.telemetry.pages import indicators
from opslib.telemetry.pages.counters import CounterHistory
from opslib.trading.pnl import backtest_variance
from opslib.trading.pnl.backtest_variance import Pair
from opslib.trading.pnl.fills import ZERO
from opslib.trading.pnl.pnl import Pnl

if TYPE_CHECKING:
    from opslib.dashboard.status import Status

NEWEST = tuple(timedelta(minutes=m) for m in (5, 10, 15, 20, 30))
COSTS = ("commission_usd", "slippage_usd", "gross_pct")
OF_COST = {"commission_usd": "costs_commission", "slippage_usd": "costs_spread"}
BESIDE = 1 / 3  # A second cause is named if it explains this share of the loss.
SURE_OF_PERCENTS = 0.9  # A percentage does not state the size, which is then assumed to be equal.
WANTED_PRICES = "import a backtest with prices to decide: ops import --kind backtest FILE"
WANTED_QUOTES = (
    "import fills and a backtest with the bid and ask at the time of each order to decide "
    "(ops import --kind fills FILE, ops import --kind backtest FILE)"
)
_NAMES = {
    "costs_commission": "commission and fees",
    "costs_spread": "wider spreads",
    "costs_fill_quality": "worse fills",
    "costs_size": "smaller positions, on which fixed fees weigh more",
}


class Attributed(NamedTuple):
    """
    A cost that explains the gap to the backtest.

    Attributes:
        cause: One of `causes.CAUSES`.
        words: The reason.
        agree: The share of the loss that it explains, 0 to 1.
    """

    cause: str
    words: str
    agree: float


class Answer(NamedTuple):
    """
    The answer whether live results match the backtest.

    Attributes:
        words: One sentence.
        cause: One of `causes.CAUSES`; empty means no fault, None means unknown.
        subject: The subject.
        agree: The share of the loss that supports it, 0 to 1.
        source: fills, or page.
        at_us: The exit time of the newest trade, microseconds since 1970; None for the page's means.
    """

    words: str
    cause: str | None
    subject: str | None = None
    agree: float = 1.0
    source: str = PAGE
    at_us: int | None = None


def answers(view: "Status") -> list[Answer]:
    """
    Answer whether live results match the backtest, and which costs explain the gap, the largest first.

    The fills decide if some are paired with a backtest, else the page.
    """
    if view.counted is not None:
        return _of_fills(view.counted, view.rules.probes.changed_by)
    rule = view.rules["backtest_variance"]
    finding = next((f for f in view.findings if f.rule.name == rule.name and f.counted and f.source == PAGE), None)
    if finding is None or finding.figure.value is None:
        trades, shown = view.page_pnl["trades"], indicators.pnl(view.counters, view.window, 1)["backtest_variance_pp"]
        if trades is None or trades >= rule.min_count:
            return [Answer("Unknown: not measured.", None)]
        # With enough trades, this value would cross the threshold.
        bad = bool(trades and shown is not None and rule.crosses(abs(shown), float(rule.thresholds[0][1])))
        return [
            Answer(
                f"Unknown: {formatting.number(trades)} trades are too "
                f"few{f', although the page shows {rule.format_value(shown)}' if bad else ''}.",
                "too_few_trades" if bad else None,
            )
        ]
    if finding.severity is None:
        return [Answer(f"Yes: {finding.sentence}.", "")]
    causes = cost_cause_of_page(view.counters, view.window.end, rule, view.rules.probes.changed_by)
    return [Answer(f"No: {finding.sentence}; {found.words}.", found.cause, "app", found.agree) for found in causes]


def _of_fills(counted: Pnl, changed_by: float) -> list[Answer]:
    """Answer the same from the trades that are paired with the backtest's."""
    rule, finding, points = counted.rule.of("fills"), fill_figures.finding(counted), counted.points
    assert finding and points
    at_us = max(clock.micros(pair.live.exited) for pair in counted.pairs)
    if points.n < rule.min_count:
        bad = rule.crosses(abs(points.mean), float(rule.thresholds[0][1]))
        return [
            Answer(
                f"Unknown: {finding.sentence}; their mean variance is {rule.format_value(abs(points.mean))}.",
                "too_few_trades" if bad else None,
                None,
                1.0,
                "fills",
                at_us,
            )
        ]
    if finding.severity is not None:
        return [
            Answer(f"No: {finding.sentence}; {found.words}.", found.cause, "app", found.agree, "fills", at_us)
            for found in by_fills(counted)
        ]
    if (small := _too_small(counted, changed_by)) is not None:
        return [
            Answer(
                f"In points yes: {finding.sentence}. But {small.words}.",
                small.cause,
                "app",
                small.agree,
                "fills",
                at_us,
            )
        ]
    return [Answer(f"Yes: {finding.sentence}.", "", None, 1.0, "fills", at_us)]


def _too_small(counted: Pnl, changed_by: float) -> Attributed | None:
    """
    Return the cost of positions much smaller than the backtest's, if the gap in points is within its limits.

    Points hardly show it: a tenth of the size earns fewer dollars but the same percentage.
    """
    sizes = [pair.contracts for pair in counted.pairs if pair.contracts]
    live, theirs = (sum((size[i] for size in sizes), ZERO) for i in (0, 1))
    if not live or float(theirs / live) <= changed_by:
        return None
    first = by_fills(counted)[0]
    if first.cause != "costs_size":
        return None
    short = -sum((pair.parts.size for pair in counted.pairs), ZERO)
    return first._replace(
        words=f"positions have {formatting.number(float(live / len(sizes)), digits=1)} contracts, "
        f"{formatting.number(float(theirs / len(sizes)), digits=1)} in the backtest: in dollars "
        f"{formatting.dollars(round(float(short), 2))} of its result are missing, and {first.words}"
    )


def by_fills(counted: Pnl) -> list[Attributed]:
    """Return the costs that explain the gap, from fills, the largest first; undetermined if none can be named."""
    rule, pairs = (
        counted.rule.of("fills"),
        [pair for pair in counted.pairs if pair.gap_pp is not None and pair.result.net_base],
    )
    mean = sum((float(pair.gap_pp or 0) for pair in pairs), 0.0) / len(pairs)
    if mean <= 0:
        return [
            Attributed(
                UNDETERMINED,
                f"live results are better than the backtest's, by {formatting.number(-mean, 'points', 2)} on "
                f"average: the cause is in the backtest's assumptions, not in the costs",
                0.0,
            )
        ]
    terms = [_terms(pair) for pair in pairs]
    lost = {name: _lost((t[name] for t in terms), rule.confidence) for name in terms[0]}
    causes = {name: lost[name] for name in ("costs_commission", "costs_spread", "costs_size") if lost[name]}
    causes |= {"costs_fill_quality": lost["fill"] + lost["timing"]} if lost["fill"] + lost["timing"] else {}
    mixed, total = lost["mixed"], lost["mixed"] + sum(causes.values())
    losses = ", ".join(
        f"{formatting.number(points, 'points', 2)} by {_NAMES[name]}"
        for name, points in sorted(causes.items(), key=lambda c: -c[1])
    )
    priced = [pair for pair in pairs if pair.priced]
    wanted = WANTED_PRICES if 2 * len(priced) < len(pairs) else WANTED_QUOTES
    if not total:
        return [
            Attributed(
                UNDETERMINED,
                f"no single cost is significant over {len(pairs)} trades: more trades are required",
                0.0,
            )
        ]
    ranked = sorted(causes, key=lambda name: -causes[name])
    together = (
        f"{formatting.number(mixed, 'points', 2)} by prices in total: timing, spreads, fills and size could not "
        f"be separated"
        if mixed
        else ""
    )
    words = f"a trade loses {', '.join(filter(None, [losses, together]))}"
    sure = 1.0 if 2 * len(priced) >= len(pairs) else SURE_OF_PERCENTS
    named = [
        Attributed(name, words, round(sure * causes[name] / total, 4))
        for name in ranked
        if name == ranked[0] or causes[name] >= BESIDE * total
    ]
    if mixed > max(causes.values(), default=0.0):
        return [
            Attributed(UNDETERMINED, f"{words}: {wanted}", 0.0),
            *(found for found in named if causes[found.cause] >= BESIDE * total),
        ]
    return named


def _terms(pair: Pair) -> dict[str, Decimal]:
    """Return the contribution of each cost to a trade's gap, points of its own base; below 0 is a loss."""
    parts, base = pair.parts, pair.result.net_base
    assert base
    commission, slippage, mixed = parts.commission - pair.by_size, parts.slippage, parts.prices
    charged = min(commission, ZERO) + min(slippage, ZERO)
    # A percentage leaves the size open: the prices of more contracts gain what their fees cost.
    if not pair.priced and mixed > 0 > charged:
        left = 1 - min(mixed, -charged) / -charged
        commission, slippage, mixed = (
            commission * (left if commission < 0 else 1),
            slippage * (left if slippage < 0 else 1),
            mixed - min(mixed, -charged),
        )
    found = {
        "costs_commission": commission,
        "costs_spread": slippage,
        "costs_size": pair.by_size,
        "fill": parts.fill,
        "timing": parts.timing,
        "mixed": mixed,
    }
    return {name: value / base * 100 for name, value in found.items()}


def _lost(values: Iterable[Decimal], confidence: float) -> float:
    """Return the mean loss of a term, points; 0 if it is no loss or not significant."""
    found = backtest_variance.spread(values, confidence)
    return -found.mean if found and found.high is not None and found.high < 0 else 0.0


def cost_cause_of_page(counters: CounterHistory, at: datetime, rule: Rule, changed_by: float) -> list[Attributed]:
    """
    Return the costs that changed, the largest first; undetermined if none did.

    Args:
        rule: The rule of the backtest variance, with its least count and its window.
        changed_by: The ratio from which a value counts as changed.
    """
    now, before = _newest(counters, at, rule)
    if not now["trades"] or not before["trades"] or any(x[k] is None for x in (now, before) for k in COSTS):
        return [Attributed(UNDETERMINED, "the cost could not be determined without earlier trades or fills", 0.0)]
    each = {k: (now[k] / now["trades"], before[k] / before["trades"]) for k in OF_COST}
    times = {k: new / old if old else 1.0 for k, (new, old) in each.items()}
    fell = before["gross_pct"] - now["gross_pct"]
    words = (
        f"commission per trade is {times['commission_usd']:.1f} times its earlier value, slippage "
        f"{times['slippage_usd']:.1f} times, gross result {-fell:+z.1f} points ({now['trades']} trades, "
        f"{before['trades']} earlier ones)"
    )
    more = {OF_COST[k]: new - old for k, (new, old) in each.items() if times[k] > changed_by}
    if more:
        return [
            Attributed(cause, words, round(0.9 * usd / sum(more.values()), 4))
            for cause, usd in sorted(more.items(), key=lambda c: -c[1])
        ]
    if times["slippage_usd"] < 1 / changed_by:
        return [Attributed("costs_size", words, 0.8)]
    return [Attributed("costs_fill_quality" if fell > 0 else UNDETERMINED, words, 0.7)]


def _newest(counters: CounterHistory, at: datetime, rule: Rule) -> tuple[dict[str, Any], dict[str, Any]]:
    hour = Window.before(at, rule.window)
    for part in NEWEST:
        lately = Window.before(at, part)
        now = indicators.pnl(counters, lately, 1)
        if (now["trades"] or 0) >= rule.min_count:
            break
    return now, indicators.pnl(counters, Window(hour.start, lately.start), 1)
