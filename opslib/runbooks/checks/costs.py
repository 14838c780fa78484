"""
Compare what trading cost with what the backtest assumed, and propose new assumptions.

What nobody was charged or quoted is not known; a backtest that told no costs is not guessed.
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
from opslib.runbooks.checks.context import CheckContext, said
from opslib.runbooks.execution import CheckResult
from opslib.trading.pnl.costs import Result
from opslib.trading.pnl.fills import CENT, ZERO
from opslib.trading.pnl.positions import Trade

if TYPE_CHECKING:
    pass


# The checks.


def _spent(scene: CheckContext) -> CostComparison:
    return CostComparison(scene.workspace, scene.view.window.end)


def _json(value: Decimal | None) -> float | None:
    return None if value is None else round(float(value), 4) + 0.0


_QUERY = "trades of the last day beside the backtest's"


def variance(scene: CheckContext) -> CheckResult:
    """How far is live from the backtest, by the page and by the fills?"""
    spent, page = _spent(scene), scene.ruled(["backtest_variance"], view="pnl", sources=["page"])
    found = spent.accuracy.finding if spent.accuracy else None
    spread = spent.accuracy.pnl.points if spent.accuracy else None
    if found:
        ours = f"{said('fills')}{found.sentence}"
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


def enough(scene: CheckContext) -> CheckResult:
    """Are there enough trades, and could the gap be chance?"""
    spent = _spent(scene)
    spread, rule = (
        spent.accuracy.pnl.points if spent.accuracy else None,
        scene.view.rules["backtest_variance"].of("fills"),
    )
    if spread is None:
        return CheckResult(None, NO_FILLS if not spent.accuracy else NO_PAIRS, None, "fills", _QUERY)

    def points(v: float | None) -> str:
        return formatting.number(v, "points", 2)

    between = (
        f"the true mean lies between {points(spread.low)} and {points(spread.high)}"
        if spread.low is not None
        else "of one trade nothing can be said"
    )
    return CheckResult(
        spread.n >= rule.min_count,
        f"{spread.n} trades paired, at least {rule.min_count} were expected; mean {points(spread.mean)}, {between}",
        {"n": spread.n, "mean_pp": spread.mean, "low_pp": spread.low, "high_pp": spread.high},
        "fills",
        _QUERY,
        view="pnl",
    )


def last_trades(scene: CheckContext) -> CheckResult:
    """What did the last ten trades come to?"""
    spent = _spent(scene)
    newest, names = spent.trades[-NEWEST:], {p.live.name: p for p in spent.pairs}
    if not newest:
        return CheckResult(None, NO_FILLS, None, "fills", _QUERY)
    gaps = [p.gap_pp for t, _ in newest if (p := names.get(t.name)) and p.gap_pp is not None]
    rows = [
        {
            "trade": t.name,
            "what": t.told,
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
    mean, rule = sum(gaps, ZERO) / len(gaps), scene.view.rules["backtest_variance"]
    good = not rule.past(abs(float(mean)), rule.objective)
    return CheckResult(
        good,
        f"the last {len(newest)} trades: net {_usd(net)}, mean gap to the backtest "
        f"{formatting.number(float(mean), 'points', 2)}, below {rule.limit_told(rule.objective)} was expected",
        rows,
        "fills",
        _QUERY,
        view="pnl",
    )


def cost_table(scene: CheckContext) -> CheckResult:
    """Were costs what the backtest took for them: commission, slippage, total?"""
    spent = _spent(scene)
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
        total.as_assumed, "; ".join(line.told for line in spent.lines), content, "fills", _QUERY, view="pnl"
    )


def _line(scene: CheckContext, at: int) -> CheckResult:
    spent = _spent(scene)
    line, (name, assumed, was, unit) = spent.lines[at], spent.rates[at]
    if line.as_assumed is None:
        if not spent.accuracy:
            why = NO_FILLS
        elif not spent.pairs:
            why = NO_PAIRS
        else:
            why = "nothing tells what was lost to the spread"
        return CheckResult(None, why, None, "fills", _QUERY)

    def told(v: Decimal | None) -> str:
        if v is None:
            return formatting.UNKNOWN
        if name.endswith("pct"):
            return f"{float(v):.3f} %"
        return f"${float(v):.3f}"

    return CheckResult(
        line.as_assumed,
        f"{line.told}; {told(was)} {unit}, {told(assumed)} was assumed",
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


def commission(scene: CheckContext) -> CheckResult:
    """Was commission what the backtest took for it?"""
    return _line(scene, 0)


def slippage(scene: CheckContext) -> CheckResult:
    """Was slippage what the backtest took for it?"""
    return _line(scene, 1)


def fees(scene: CheckContext) -> CheckResult:
    """Is the charge for a contract the same in the last ten trades as before them?"""
    spent = _spent(scene)
    paid = [(t, r) for t, r in spent.trades if all(leg.paid for leg in t.legs)]
    if not paid:
        return CheckResult(None, f"{QUOTED}: no fee is told" if spent.trades else NO_FILLS, None, "fills", _QUERY)

    def rate(found: list[tuple[Trade, Result]]) -> Decimal:
        return sum((r.costs for _, r in found), ZERO) / (
            sum((leg.quantity + leg.traded for t, _ in found for leg in t.legs), ZERO) or 1
        )

    newest, before = paid[-NEWEST:], paid[:-NEWEST]
    if not before:
        return CheckResult(
            None,
            f"${rate(newest):.3f} a contract and side; no earlier trade of the last day to hold it against",
            {"newest_usd": _json(rate(newest))},
            "fills",
            _QUERY,
        )
    now, then = rate(newest), rate(before)
    return CheckResult(
        now <= max(then * AS_ASSUMED, then + CENT),
        f"${now:.3f} a contract and side in the last {len(newest)} trades, ${then:.3f} before them",
        {"newest_usd": _json(now), "before_usd": _json(then)},
        "fills",
        _QUERY,
    )


def sizes(scene: CheckContext) -> CheckResult:
    """Are positions as large as in the backtest?"""
    spent = _spent(scene)
    if not spent.pairs or spent.accuracy is None:
        return CheckResult(None, NO_FILLS if not spent.accuracy else NO_PAIRS, None, "fills", _QUERY)
    mean = sum((_contracts(p.live) for p in spent.pairs), ZERO) / len(spent.pairs)
    sized = [pair.contracts[1] for pair in spent.pairs if pair.contracts]
    if not sized:
        return CheckResult(
            None,
            f"{mean:.1f} contracts a trade; the backtest told percents, no sizes: ops import --kind backtest "
            f"FILE, of one with prices",
            {"live": _json(mean)},
            "fills",
            _QUERY,
        )
    size, its = sum((p.parts.size for p in spent.pairs), ZERO), sum(sized, ZERO) / len(sized)
    return CheckResult(
        abs(mean - its) <= its * (AS_ASSUMED - 1),
        f"{mean:.1f} contracts a trade, {its:.1f} in the backtest; of the difference {_usd(size)} is size",
        {"live": _json(mean), "backtest": _json(its), "size_usd": _json(size)},
        "fills",
        _QUERY,
    )


def spreads(scene: CheckContext) -> CheckResult:
    """Are spreads in the last ten trades as wide as before them?"""
    spent = _spent(scene)
    known = [(t, s) for t, _ in spent.trades if (s := _spread(t)) is not None]
    if not known:
        return CheckResult(
            None, "no quote stands beside any trade" if spent.trades else NO_FILLS, None, "fills", _QUERY
        )
    newest, before = known[-NEWEST:], known[:-NEWEST]
    now, then = (sum((s for _, s in found), ZERO) / len(found) if found else None for found in (newest, before))
    content = {"newest_pct": _json(now), "before_pct": _json(then)}
    if now is None or then is None:
        return CheckResult(
            None,
            f"{_pct(now)} of the middle in the last {len(newest)} trades; nothing before them to hold it against",
            content,
            "fills",
            _QUERY,
        )
    return CheckResult(
        now <= then * AS_ASSUMED,
        f"quoted spreads were {_pct(now)} of the middle in the last {len(newest)} trades, {_pct(then)} before them",
        content,
        "fills",
        _QUERY,
    )


def strikes(scene: CheckContext) -> CheckResult:
    """Which strikes are traded, and is one far wider than the usual?"""
    spent = _spent(scene)
    by: dict[str, list[Decimal]] = defaultdict(list)
    for trade, _ in spent.trades:
        if (spread := _spread(trade)) is not None:
            by[trade.told].append(spread)
    if not by:
        return CheckResult(
            None, "no quote stands beside any trade" if spent.trades else NO_FILLS, None, "fills", _QUERY
        )
    means = {name: sum(found, ZERO) / len(found) for name, found in by.items()}
    usual, widest = median(means.values()), max(means, key=lambda name: means[name])
    return CheckResult(
        means[widest] <= usual * WIDER,
        f"widest {widest}: {_pct(means[widest])} of the middle over {len(by[widest])} trades; usual "
        f"{_pct(usual)} over {len(by)} strikes. Volume is in no fill",
        {name: _json(v) for name, v in sorted(means.items(), key=lambda m: -m[1])[:NEWEST]},
        "fills",
        _QUERY,
    )


def fill_quality(scene: CheckContext) -> CheckResult:
    """Were fills at the market's prices when the orders were sent?"""
    spent = _spent(scene)
    if not any(r.inside for _, r in spent.trades):
        return CheckResult(
            None,
            f"{QUOTED}: no fill can be held against the market" if spent.trades else NO_FILLS,
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
            else f"nothing tells the market's middle when orders were sent; prices as a whole made "
            f"{_usd(parts.prices if parts else None)}",
            None,
            "fills",
            _QUERY,
        )
    lost = sum((p.result.costs + (p.result.slippage or ZERO) for p in spent.pairs), ZERO)
    content = {term: _json(getattr(parts, term)) for term in LABELS}
    return CheckResult(
        -parts.fill <= lost * (AS_ASSUMED - 1),
        f"fills beyond the quotes made {_usd(parts.fill)}, timing {_usd(parts.timing)}, wider spreads "
        f"{_usd(parts.slippage)}",
        content,
        "fills",
        _QUERY,
    )
