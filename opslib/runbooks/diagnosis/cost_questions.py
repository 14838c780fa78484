"""
Find which cost makes results fall behind the backtest: by the fills' decomposition, else by the page's own means.

Of fills each trade counts alike, in points of its own base, and a term counts only where chance does not make it. What
could not be told apart is never given to one cause. Of the page's means the newest trades that are enough to count are
set beside those before them in the hour that the rule looks over.
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
BESIDE = 1 / 3  # A second cause is named where it makes so much of the loss.
SURE_OF_PERCENTS = 0.9  # A percent says nothing of the size, which is then taken as the same.
WANTED_PRICES = "a backtest with prices would decide it: ops import --kind backtest FILE"
WANTED_QUOTES = (
    "the bid and ask when each order was sent would decide it: import fills and a backtest that "
    "have them (ops import --kind fills FILE, ops import --kind backtest FILE)"
)
_NAMES = {
    "costs_commission": "commission and fees",
    "costs_spread": "wider spreads",
    "costs_fill_quality": "worse fills",
    "costs_size": "smaller positions, on which fixed charges weigh more",
}


class Attributed(NamedTuple):
    """
    Which cost makes results fall behind.

    Attributes:
        cause: One of `causes.CAUSES`.
        words: What it rests on.
        agree: Which share of what is lost it makes (0 to 1).
    """

    cause: str
    words: str
    agree: float


class Answer(NamedTuple):
    """
    Whether results keep what the backtest promised.

    Attributes:
        words: What was found.
        cause: One of `causes.CAUSES`; empty where all is well, None where it is not known.
        subject: Whom it is about.
        agree: Which share of what is lost says so (0 to 1).
        source: fills, or page.
        at_us: When the newest trade that it rests on ended; None of the page's means.
    """

    words: str
    cause: str | None
    subject: str | None = None
    agree: float = 1.0
    source: str = PAGE
    at_us: int | None = None


def answers(view: "Status") -> list[Answer]:
    """
    Whether results keep what the backtest promised, and which costs make them fall behind, the largest first: by the
    fills where some are paired with a backtest, else by the page.
    """
    if view.counted is not None:
        return _of_fills(view.counted, view.rules.probes.changed_by)
    rule = view.rules["backtest_variance"]
    finding = next((f for f in view.findings if f.rule.name == rule.name and f.counted and f.source == PAGE), None)
    if finding is None or finding.figure.value is None:
        trades, shown = view.page_pnl["trades"], indicators.pnl(view.tape, view.window, 1)["backtest_variance_pp"]
        if trades is None or trades >= rule.min_count:
            return [Answer("not measured.", None)]
        # It would be past its limit if it counted.
        bad = bool(trades and shown is not None and rule.past(abs(shown), float(rule.ladder[0][1])))
        return [
            Answer(
                f"there are {formatting.number(trades)} trades: too few to "
                f"say{f', though the page shows {rule.told(shown)}' if bad else ''}.",
                "too_few_trades" if bad else None,
            )
        ]
    if finding.severity is None:
        return [Answer(f"{finding.sentence}.", "")]
    causes = cost_cause_of_page(view.tape, view.window.end, rule, view.rules.probes.changed_by)
    return [Answer(f"{finding.sentence}; {found.words}.", found.cause, "app", found.agree) for found in causes]


def _of_fills(counted: Pnl, changed_by: float) -> list[Answer]:
    """The same, by the trades that are paired with the backtest's."""
    rule, finding, points = counted.rule.of("fills"), fill_figures.finding(counted), counted.points
    assert finding and points
    at_us = max(clock.micros(pair.live.exited) for pair in counted.pairs)
    if points.n < rule.min_count:
        bad = rule.past(abs(points.mean), float(rule.ladder[0][1]))
        return [
            Answer(
                f"{finding.sentence}; their mean gap is {rule.told(abs(points.mean))}.",
                "too_few_trades" if bad else None,
                None,
                1.0,
                "fills",
                at_us,
            )
        ]
    if finding.severity is not None:
        return [
            Answer(f"{finding.sentence}; {found.words}.", found.cause, "app", found.agree, "fills", at_us)
            for found in by_fills(counted)
        ]
    if (small := _too_small(counted, changed_by)) is not None:
        return [Answer(f"{finding.sentence}; but {small.words}.", small.cause, "app", small.agree, "fills", at_us)]
    return [Answer(f"{finding.sentence}.", "", None, 1.0, "fills", at_us)]


def _too_small(counted: Pnl, changed_by: float) -> Attributed | None:
    """
    Whether positions are so much smaller than the backtest's that fixed charges weigh on them, though the gap in points
    is within its limits.

    Points hardly show it: the dollars that a tenth of the size does not earn are no gap in percent.
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
    """Which costs make the fills' results fall behind, the largest first; undetermined where the terms do not tell."""
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
                f"average: no cost explains it, its assumptions do",
                0.0,
            )
        ]
    terms = [_terms(pair) for pair in pairs]
    lost = {name: _lost((t[name] for t in terms), rule.confidence) for name in terms[0]}
    causes = {name: lost[name] for name in ("costs_commission", "costs_spread", "costs_size") if lost[name]}
    causes |= {"costs_fill_quality": lost["fill"] + lost["timing"]} if lost["fill"] + lost["timing"] else {}
    mixed, total = lost["mixed"], lost["mixed"] + sum(causes.values())
    told = ", ".join(
        f"{formatting.number(points, 'points', 2)} by {_NAMES[name]}"
        for name, points in sorted(causes.items(), key=lambda c: -c[1])
    )
    priced = [pair for pair in pairs if pair.priced]
    wanted = WANTED_PRICES if 2 * len(priced) < len(pairs) else WANTED_QUOTES
    if not total:
        return [
            Attributed(
                UNDETERMINED,
                f"of {len(pairs)} trades no single cost stands out of chance: more trades would decide it",
                0.0,
            )
        ]
    ranked = sorted(causes, key=lambda name: -causes[name])
    together = (
        f"{formatting.number(mixed, 'points', 2)} by prices as a whole: timing, spreads, fills and size could not "
        f"be told apart"
        if mixed
        else ""
    )
    words = f"a trade loses {', '.join(filter(None, [told, together]))}"
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
    """What each cost made of a trade's difference to the backtest, points of its own base; below 0 it lost."""
    parts, base = pair.parts, pair.result.net_base
    assert base
    commission, slippage, mixed = parts.commission - pair.by_size, parts.slippage, parts.prices
    charged = min(commission, ZERO) + min(slippage, ZERO)
    # A percent leaves the size open: what more contracts cost, their prices won back.
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
    """What a term loses on average, points; 0 where it loses nothing, or chance could make it."""
    found = backtest_variance.spread(values, confidence)
    return -found.mean if found and found.high is not None and found.high < 0 else 0.0


def cost_cause_of_page(tape: CounterHistory, at: datetime, rule: Rule, changed_by: float) -> list[Attributed]:
    """
    Which costs have changed, the one that takes most of a trade first; undetermined where none has.

    Args:
        rule: Of the backtest's variance: how many trades count, over how long.
        changed_by: So many times another value is another.
    """
    now, before = _newest(tape, at, rule)
    if not now["trades"] or not before["trades"] or any(x[k] is None for x in (now, before) for k in COSTS):
        return [Attributed(UNDETERMINED, "which cost it is cannot be told without trades from before, or fills", 0.0)]
    each = {k: (now[k] / now["trades"], before[k] / before["trades"]) for k in OF_COST}
    times = {k: new / old if old else 1.0 for k, (new, old) in each.items()}
    fell = before["gross_pct"] - now["gross_pct"]
    words = (
        f"a trade's commission is {times['commission_usd']:.1f} times that of before, its slippage "
        f"{times['slippage_usd']:.1f} times, gross {-fell:+.1f} points ({now['trades']} trades and "
        f"{before['trades']} before)"
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


def _newest(tape: CounterHistory, at: datetime, rule: Rule) -> tuple[dict[str, Any], dict[str, Any]]:
    hour = Window.before(at, rule.window)
    for part in NEWEST:
        lately = Window.before(at, part)
        now = indicators.pnl(tape, lately, 1)
        if (now["trades"] or 0) >= rule.min_count:
            break
    return now, indicators.pnl(tape, Window(hour.start, lately.start), 1)
