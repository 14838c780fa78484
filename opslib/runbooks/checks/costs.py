"""
Run the checks of trading costs, which compare actual costs with the backtest's assumptions.

Costs without a charge or a quote are unknown; missing assumptions of a backtest are not estimated.
"""

from collections import defaultdict
from decimal import Decimal
from statistics import median
from typing import TYPE_CHECKING

from opslib.dashboard.cost_details import (
    AS_ASSUMED,
    NEWEST,
    NO_FILLS,
    NO_PAIRS,
    QUOTED,
    WIDER,
    CostComparison,
    _contracts,
    _pct,
    _spread,
    _usd,
)
from opslib.dashboard.pnl_details import LABELS
from opslib.foundation import formatting
from opslib.runbooks.checks.context import CheckContext, source_prefix
from opslib.runbooks.execution import CheckResult
from opslib.trading.pnl.costs import Result
from opslib.trading.pnl.fills import CENT, ZERO
from opslib.trading.pnl.positions import Trade

if TYPE_CHECKING:
    pass


# Checks.


def _spent(context: CheckContext) -> CostComparison:
    return CostComparison(context.workspace, context.view.window.end)


def _json(value: Decimal | None) -> float | None:
    return None if value is None else round(float(value), 4) + 0.0


_QUERY = "trades of the last day, compared with the backtest's"


def variance(context: CheckContext) -> CheckResult:
    """Check the difference between backtest and live results, from the page and from the fills."""
    spent, page = _spent(context), context.by_rules(["backtest_variance"], view="pnl", sources=["page"])
    found = spent.accuracy.finding if spent.accuracy else None
    spread = spent.accuracy.pnl.points if spent.accuracy else None
    if found:
        ours = f"{source_prefix('fills')}{found.sentence}"
    elif not spent.accuracy:
        ours = NO_FILLS
    else:
        ours = NO_PAIRS
    content = {
        "page": page.content,
        "fills": None
        if spread is None
        else {"n": spread.n, "mean_pp": spread.mean, "low_pp": spread.low, "high_pp": spread.high},
    }
    verdicts = [page.good, None if found is None or found.verdict == "unknown" else found.verdict == "ok"]
    if False in verdicts:
        good = False
    elif True in verdicts:
        good = True
    else:
        good = None
    return CheckResult(good, f"{page.words}; {ours}", content, "fills", _QUERY, view="pnl")


def enough(context: CheckContext) -> CheckResult:
    """Check that there are enough trades, and report the confidence interval of the variance."""
    spent = _spent(context)
    spread, rule = (
        spent.accuracy.pnl.points if spent.accuracy else None,
        context.view.rules["backtest_variance"].of("fills"),
    )
    if spread is None:
        return CheckResult(None, NO_FILLS if not spent.accuracy else NO_PAIRS, None, "fills", _QUERY)

    def points(v: float | None) -> str:
        return formatting.number(v, "points", 2)

    between = (
        f"confidence interval {points(spread.low)} to {points(spread.high)}"
        if spread.low is not None
        else "one trade has no interval"
    )
    return CheckResult(
        spread.n >= rule.min_count,
        f"{spread.n} trades paired, at least {rule.min_count} expected; mean variance {points(spread.mean)}, {between}",
        {"n": spread.n, "mean_pp": spread.mean, "low_pp": spread.low, "high_pp": spread.high},
        "fills",
        _QUERY,
        view="pnl",
    )


def last_trades(context: CheckContext) -> CheckResult:
    """Check the mean variance of the last ten trades."""
    spent = _spent(context)
    newest, names = spent.trades[-NEWEST:], {p.live.name: p for p in spent.pairs}
    if not newest:
        return CheckResult(None, NO_FILLS, None, "fills", _QUERY)
    gaps = [p.gap_pp for t, _ in newest if (p := names.get(t.name)) and p.gap_pp is not None]
    rows = [
        {
            "trade": t.name,
            "what": t.label,
            "exited": formatting.iso(t.exited),
            "contracts": _json(_contracts(t)),
            "commission_usd": _json(r.commission),
            "slippage_usd": _json(r.slippage),
            "net_pct": _json(r.net_pct),
            "gap_pp": _json(names[t.name].gap_pp) if t.name in names else None,
        }
        for t, r in newest
    ]
    net = sum((r.net for _, r in newest), ZERO)
    if not gaps:
        return CheckResult(None, f"the last {len(newest)} trades: net {_usd(net)}; {NO_PAIRS}", rows, "fills", _QUERY)
    mean, rule = sum(gaps, ZERO) / len(gaps), context.view.rules["backtest_variance"]
    good = not rule.crosses(abs(float(mean)), rule.objective)
    return CheckResult(
        good,
        f"the last {len(newest)} trades: net {_usd(net)}, mean variance to the backtest "
        f"{formatting.number(float(mean), 'points', 2)}, expected below {rule.format_limit(rule.objective)}",
        rows,
        "fills",
        _QUERY,
        view="pnl",
    )


def cost_table(context: CheckContext) -> CheckResult:
    """Check commission, slippage and total costs against the backtest's assumptions."""
    spent = _spent(context)
    content = {
        line.name: {
            "expected_usd": _json(line.expected),
            "actual_usd": _json(line.actual),
            "difference_usd": _json(line.over),
        }
        for line in spent.lines
    }
    total = spent.lines[2]
    if not spent.pairs:
        return CheckResult(None, NO_FILLS if not spent.accuracy else NO_PAIRS, None, "fills", _QUERY)
    return CheckResult(
        total.as_assumed, "; ".join(line.text for line in spent.lines), content, "fills", _QUERY, view="pnl"
    )


def _line(context: CheckContext, at: int) -> CheckResult:
    spent = _spent(context)
    line, (name, assumed, was, unit) = spent.lines[at], spent.rates[at]
    if line.as_assumed is None:
        if not spent.accuracy:
            why = NO_FILLS
        elif not spent.pairs:
            why = NO_PAIRS
        else:
            why = "the slippage is unknown: no fill has a quote"
        return CheckResult(None, why, None, "fills", _QUERY)

    def number(v: Decimal | None) -> str:
        if v is None:
            return formatting.UNKNOWN
        if name.endswith("pct"):
            return f"{float(v):.3f} %"
        return f"${float(v):.3f}"

    return CheckResult(
        line.as_assumed,
        f"{line.text}; {number(was)} {unit}, assumed {number(assumed)}",
        {
            "expected_usd": _json(line.expected),
            "actual_usd": _json(line.actual),
            "assumed": _json(assumed),
            "was": _json(was),
        },
        "fills",
        _QUERY,
        view="pnl",
    )


def commission(context: CheckContext) -> CheckResult:
    """Check the commission against the backtest's assumption."""
    return _line(context, 0)


def slippage(context: CheckContext) -> CheckResult:
    """Check the slippage against the backtest's assumption."""
    return _line(context, 1)


def fees(context: CheckContext) -> CheckResult:
    """Check that the fees per contract of the last ten trades equal those of earlier trades."""
    spent = _spent(context)
    paid = [(t, r) for t, r in spent.trades if all(leg.paid for leg in t.legs)]
    if not paid:
        return CheckResult(None, f"{QUOTED}: no fee is known" if spent.trades else NO_FILLS, None, "fills", _QUERY)

    def rate(found: list[tuple[Trade, Result]]) -> Decimal:
        return sum((r.costs for _, r in found), ZERO) / (
            sum((leg.quantity + leg.traded for t, _ in found for leg in t.legs), ZERO) or 1
        )

    newest, before = paid[-NEWEST:], paid[:-NEWEST]
    if not before:
        return CheckResult(
            None,
            f"${rate(newest):.3f} per contract and side; no earlier trade of the last day for comparison",
            {"newest_usd": _json(rate(newest))},
            "fills",
            _QUERY,
        )
    now, then = rate(newest), rate(before)
    return CheckResult(
        now <= max(then * AS_ASSUMED, then + CENT),
        f"${now:.3f} per contract and side in the last {len(newest)} trades, ${then:.3f} in earlier trades",
        {"newest_usd": _json(now), "before_usd": _json(then)},
        "fills",
        _QUERY,
    )


def sizes(context: CheckContext) -> CheckResult:
    """Check that position sizes match the backtest's."""
    spent = _spent(context)
    if not spent.pairs or spent.accuracy is None:
        return CheckResult(None, NO_FILLS if not spent.accuracy else NO_PAIRS, None, "fills", _QUERY)
    mean = sum((_contracts(p.live) for p in spent.pairs), ZERO) / len(spent.pairs)
    sized = [pair.contracts[1] for pair in spent.pairs if pair.contracts]
    if not sized:
        return CheckResult(
            None,
            f"{mean:.1f} contracts per trade; the backtest has percentages but no sizes. Import one with prices: "
            f"ops import --kind backtest FILE",
            {"live": _json(mean)},
            "fills",
            _QUERY,
        )
    size, its = sum((p.parts.size for p in spent.pairs), ZERO), sum(sized, ZERO) / len(sized)
    return CheckResult(
        abs(mean - its) <= its * (AS_ASSUMED - 1),
        f"{mean:.1f} contracts per trade, {its:.1f} in the backtest; size explains {_usd(size)} of the difference",
        {"live": _json(mean), "backtest": _json(its), "size_usd": _json(size)},
        "fills",
        _QUERY,
    )


def spreads(context: CheckContext) -> CheckResult:
    """Check that the quoted spreads of the last ten trades are as narrow as in earlier trades."""
    spent = _spent(context)
    known = [(t, s) for t, _ in spent.trades if (s := _spread(t)) is not None]
    if not known:
        return CheckResult(None, "no trade has a quote" if spent.trades else NO_FILLS, None, "fills", _QUERY)
    newest, before = known[-NEWEST:], known[:-NEWEST]
    now, then = (sum((s for _, s in found), ZERO) / len(found) if found else None for found in (newest, before))
    content = {"newest_pct": _json(now), "before_pct": _json(then)}
    if now is None or then is None:
        return CheckResult(
            None,
            f"{_pct(now)} of the midpoint in the last {len(newest)} trades; no earlier trade for comparison",
            content,
            "fills",
            _QUERY,
        )
    return CheckResult(
        now <= then * AS_ASSUMED,
        f"quoted spreads: {_pct(now)} of the midpoint in the last {len(newest)} trades, {_pct(then)} in earlier trades",
        content,
        "fills",
        _QUERY,
    )


def strikes(context: CheckContext) -> CheckResult:
    """Check that no traded strike has a spread far wider than usual."""
    spent = _spent(context)
    by: dict[str, list[Decimal]] = defaultdict(list)
    for trade, _ in spent.trades:
        if (spread := _spread(trade)) is not None:
            by[trade.label].append(spread)
    if not by:
        return CheckResult(None, "no trade has a quote" if spent.trades else NO_FILLS, None, "fills", _QUERY)
    means = {name: sum(found, ZERO) / len(found) for name, found in by.items()}
    usual, widest = median(means.values()), max(means, key=lambda name: means[name])
    return CheckResult(
        means[widest] <= usual * WIDER,
        f"widest {widest}: {_pct(means[widest])} of the midpoint over {len(by[widest])} trades; usual "
        f"{_pct(usual)} over {len(by)} strikes. Fills have no volume",
        {name: _json(v) for name, v in sorted(means.items(), key=lambda m: -m[1])[:NEWEST]},
        "fills",
        _QUERY,
    )


def fill_quality(context: CheckContext) -> CheckResult:
    """Check that fills were at market prices when the orders were sent."""
    spent = _spent(context)
    if not any(r.inside for _, r in spent.trades):
        return CheckResult(
            None,
            f"{QUOTED}: no fill can be compared with the market" if spent.trades else NO_FILLS,
            None,
            "fills",
            _QUERY,
        )
    parts = spent.accuracy.pnl.parts if spent.accuracy else None
    if not spent.pairs or parts is None or parts.prices:
        return CheckResult(
            None,
            NO_PAIRS
            if not spent.pairs
            else f"the midpoint at the time of the orders is unknown; prices in total contributed "
            f"{_usd(parts.prices if parts else None)}",
            None,
            "fills",
            _QUERY,
        )
    lost = sum((p.result.costs + (p.result.slippage or ZERO) for p in spent.pairs), ZERO)
    content = {term: _json(getattr(parts, term)) for term in LABELS}
    return CheckResult(
        -parts.fill <= lost * (AS_ASSUMED - 1),
        f"contributions: fills outside the quotes {_usd(parts.fill)}, timing {_usd(parts.timing)}, wider spreads "
        f"{_usd(parts.slippage)}",
        content,
        "fills",
        _QUERY,
    )
