"""
Compare what trading cost with what the backtest assumed, and propose new assumptions.

What nobody was charged or quoted is not known; a backtest that told no costs is not guessed.
"""

import difflib
from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from functools import cached_property
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

from opslib import costs, text
from opslib.accuracy import LABELS, Accuracy, accuracy_of
from opslib.errors import ImportRefused
from opslib.fills import CENT, ZERO
from opslib.legs import Trade
from opslib.report import Text, listed, tabled
from opslib.scene import Scene, said
from opslib.variance import Pair
from opslib.walk import Seen

if TYPE_CHECKING:
    from opslib.workspace import Workspace

NEWEST = 10  # The guide looks at the last ten trades.
AS_ASSUMED = Decimal("1.2")  # Up to a fifth above what was assumed is the cushion that the guide asks for.
CUSHION = Decimal("1.15")  # In the middle of the guide's 10 to 20 %.
# The backtest's own trades lie in the desk's folder as backtest.csv or .json, where there are any.
BACKTEST = "backtest"
WIDER = Decimal(2)  # A strike so many times as wide as the usual one is illiquid.
NO_FILLS, NO_PAIRS = "no trade is known: ops import FILE --kind fills", "no trade has a backtest's figure beside it"
QUOTED = "these trades are quotes that nobody paid"


class Line(NamedTuple):
    """One line of the cost table, dollars: what the backtest took, what it was; None is not known."""

    name: str
    expected: Decimal | None
    actual: Decimal | None

    @property
    def over(self) -> Decimal | None:
        """How much more it was."""
        return None if self.expected is None or self.actual is None else self.actual - self.expected

    @property
    def as_assumed(self) -> bool | None:
        """Is it no more than a cushion above what was assumed?"""
        return (
            None
            if self.expected is None or self.actual is None
            else self.actual <= max(self.expected * AS_ASSUMED, self.expected + CENT)
        )

    @property
    def told(self) -> str:
        """The line in words."""
        more = f", {_usd(self.over)} more" if self.over is not None and self.over > 0 else ""
        return f"{self.name} {_usd(self.actual)}, {_usd(self.expected)} was assumed{more}"


def _usd(value: Decimal | None) -> str:
    return text.dollars(None if value is None else float(value.quantize(CENT)) + 0.0)


def _pct(value: Decimal | None, digits: int = 2) -> str:
    return text.number(None if value is None else float(value) + 0.0, "%", digits)


def _expected(pair: Pair) -> tuple[Decimal, Decimal | None]:
    """What the backtest took for the commission and for the slippage of a trade, at the live size."""
    slipped, parts = pair.result.slippage, pair.parts
    merged = pair.result.inside and bool(parts.prices)
    return (
        pair.result.costs + parts.commission,
        None if slipped is None or merged else slipped + parts.slippage + parts.fill,
    )


@dataclass(frozen=True)
class Spending:
    """
    What trading cost, as of a moment.

    Attributes:
        at: Only trades that ended by then.
        length: And not longer before it than this; None is over what the rule for fills judges: a day, or more where
            that holds too few.
    """

    desk: "Workspace"
    at: datetime
    length: timedelta | None = None

    @cached_property
    def accuracy(self) -> Accuracy | None:
        """What trades came to; None where none is known."""
        own = sorted(self.desk.settings.home.glob(f"{BACKTEST}.*"))
        theirs = own[0] if own else None
        try:
            if self.length is None:
                return accuracy_of(self.desk, backtest=theirs, as_of=self.at).counted()
            return accuracy_of(
                self.desk, backtest=theirs, as_of=self.at, window=f"{round(self.length.total_seconds() / 60)}m"
            )
        except ImportRefused:
            return None

    @property
    def trades(self) -> list[tuple[Trade, costs.Result]]:
        """Round trips with what came of each, by when they ended."""
        return self.accuracy.pnl.results if self.accuracy else []

    @property
    def pairs(self) -> list[Pair]:
        """Live trades beside what the backtest said of them."""
        return self.accuracy.pnl.pairs if self.accuracy else []

    @cached_property
    def lines(self) -> tuple[Line, Line, Line]:
        """Commission (fees with it), slippage, and both: what the backtest took, what it was."""
        if not self.pairs:
            return Line("commission", None, None), Line("slippage", None, None), Line("total", None, None)
        told = [(*_expected(p), p.result.costs, p.result.slippage) for p in self.pairs]

        def add(i):
            return None if any(t[i] is None for t in told) else sum((t[i] for t in told if t[i] is not None), ZERO)

        commission, slippage = Line("commission", add(0), add(2)), Line("slippage", add(1), add(3))

        def both(a, b):
            return None if a is None or b is None else a + b

        return (
            commission,
            slippage,
            Line("total", both(commission.expected, slippage.expected), both(commission.actual, slippage.actual)),
        )

    @property
    def table(self) -> Text:
        """What costs were expected, what were they, and what is the difference?"""
        rows = [
            [line.name, _usd(line.expected), _usd(line.actual), "not known" if line.over is None else _usd(line.over)]
            for line in self.lines
        ]
        return tabled(
            f"Costs of {len(self.pairs)} trades, the backtest's and ours",
            ["cost", "expected", "actual", "difference"],
            rows if self.pairs else [],
            NO_PAIRS,
        )

    @property
    def newest(self) -> Text:
        """What were the last ten trades?"""
        gaps = {p.live.name: p for p in self.pairs}
        rows = []
        for trade, result in self.trades[-NEWEST:]:
            pair = gaps.get(trade.name)
            gap = text.number(None if pair is None or pair.gap_pp is None else float(pair.gap_pp), "points", 2)
            rows.append(
                [
                    trade.name,
                    trade.told,
                    f"{trade.exited.astimezone(text.NEW_YORK):%m-%d %H:%M}",
                    text.number(float(_contracts(trade))),
                    _usd(result.commission),
                    _usd(result.slippage),
                    _pct(_spread(trade)),
                    _pct(result.net_pct),
                    gap,
                ]
            )
        return tabled(
            f"The last {len(rows)} trades",
            [
                "trade",
                "what",
                "closed (New York)",
                "contracts",
                "commission",
                "slippage",
                "spread",
                "net",
                "gap to the backtest",
            ],
            rows,
            NO_FILLS,
        )

    @property
    def parts(self) -> "object":
        """What is the difference to the backtest made of?"""
        return self.accuracy.decomposition if self.accuracy else listed("What the difference is made of", [NO_FILLS])

    @cached_property
    def rates(self) -> tuple[tuple[str, Decimal | None, Decimal | None, str], ...]:
        """What the backtest assumes as rates: name, assumed, as it was, unit; None is not known."""
        commission, slippage, _ = self.lines
        sides = sum((leg.quantity + leg.traded for p in self.pairs for leg in p.live.legs), ZERO)
        turned = sum((abs(leg.entry_value) + abs(leg.exit_value) for p in self.pairs for leg in p.live.legs), ZERO)

        def rate(v, of, times=1):
            return None if v is None or not of else v / of * times

        return (
            (
                "commission_usd",
                rate(commission.expected, sides),
                rate(commission.actual, sides),
                "a contract and side, fees with it",
            ),
            (
                "slippage_pct",
                rate(slippage.expected, turned, 100),
                rate(slippage.actual, turned, 100),
                "of the premium, at each end",
            ),
        )

    @cached_property
    def proposed(self) -> dict[str, Decimal]:
        """
        The rates that the backtest should assume: as it was with a cushion, where that is more than it does; only what
        is known.
        """
        found = {}
        for name, assumed, was, _ in self.rates:
            if assumed is not None and was is not None:
                found[name] = max(assumed, was * CUSHION) if was > assumed else assumed
        return found

    @property
    def change(self) -> Text:
        """
        What is to be changed in the backtest's cost assumptions, as a diff, and what the gap would have been with it?
        """
        if not self.proposed:
            return listed(
                "No change can be proposed",
                [
                    NO_PAIRS
                    if not self.pairs
                    else "the backtest told no costs, or nothing tells what was lost to the spread"
                ],
            )
        units = {name: unit for name, _, _, unit in self.rates}

        def line(name, value):
            return f"{name} = {float(value):.4f}  # {units[name]}"

        before = [
            line(name, assumed) for name, assumed, _, _ in self.rates if name in self.proposed and assumed is not None
        ]
        after = [line(name, value) for name, value in self.proposed.items()]
        told = list(
            difflib.unified_diff(
                before, after, "backtest costs, as assumed", "backtest costs, as live trading shows", lineterm="", n=3
            )
        ) or ["nothing: what was paid is what was assumed"]
        now, then = self._gap(), self._gap(self.proposed)
        verdict = (
            f"revalidated: with this the mean gap of the same {len(self.pairs)} trades is "
            f"{text.number(then, 'points', 2)} instead of {text.number(now, 'points', 2)}"
        )
        cushion = f"where live was dearer: what live trading showed, and {text.ratio(float(CUSHION - 1), 0)} more"
        plain = "\n".join(
            ["The change to the backtest's costs", *(f"    {t}" for t in told), f"  - {cushion}", f"  - {verdict}"]
        )
        e = text.in_html
        return Text(
            plain,
            f"<p><strong>The change to the backtest's costs</strong></p><pre>{e(chr(10).join(told))}</pre><ul>"
            f"<li>{e(cushion)}</li><li>{e(verdict)}</li></ul>",
            "\n".join(
                [
                    "### The change to the backtest's costs",
                    "",
                    "```diff",
                    *told,
                    "```",
                    "",
                    f"- {cushion}",
                    f"- {verdict}",
                ]
            ),
        )

    def _gap(self, rates: dict[str, Decimal] | None = None) -> float | None:
        """The mean gap, points; with other rates in the backtest, what it would have been."""
        gaps = []
        for p in self.pairs:
            if p.gap_pp is None:
                continue
            gap, (commission, slippage) = p.gap_pp, _expected(p)
            if rates and p.result.net_base:
                sides = sum((leg.quantity + leg.traded for leg in p.live.legs), ZERO)
                turned = sum((abs(leg.entry_value) + abs(leg.exit_value) for leg in p.live.legs), ZERO)
                more = rates["commission_usd"] * sides - commission if "commission_usd" in rates else ZERO
                more += (
                    rates["slippage_pct"] / 100 * turned - slippage
                    if "slippage_pct" in rates and slippage is not None
                    else ZERO
                )
                gap -= more / p.result.net_base * 100
            gaps.append(gap)
        return float(sum(gaps, ZERO) / len(gaps)) if gaps else None


def _contracts(trade: Trade) -> Decimal:
    return sum((leg.quantity for leg in trade.legs), ZERO)


def _spread(trade: Trade) -> Decimal | None:
    """The mean spread that was quoted for a trade, % of the middle; None where none was."""
    found = []
    for leg in trade.legs:
        for bid, ask in (costs.quote(leg, "entry"), costs.quote(leg, "exit")):
            if bid is not None and ask is not None and bid + ask:
                found.append((ask - bid) / (bid + ask) * 200)
    return sum(found, ZERO) / len(found) if found else None


# The checks.


def _spent(scene: Scene) -> Spending:
    return Spending(scene.desk, scene.view.window.end)


def _json(value: Decimal | None) -> float | None:
    return None if value is None else round(float(value), 4) + 0.0


_QUERY = "trades of the last day beside the backtest's"


def variance(scene: Scene) -> Seen:
    """How far is live from the backtest, by the page and by the fills?"""
    spent, page = _spent(scene), scene.ruled(["backtest_variance"], view="pnl", sources=["page"])
    found = spent.accuracy.finding if spent.accuracy else None
    spread = spent.accuracy.pnl.points if spent.accuracy else None
    ours = f"{said('fills')}{found.sentence}" if found else NO_FILLS if not spent.accuracy else NO_PAIRS
    content = {
        "page": page.content,
        "fills": None
        if spread is None
        else {"n": spread.n, "mean_pp": spread.mean, "low_pp": spread.low, "high_pp": spread.high},
    }
    verdicts = [page.good, None if found is None or found.verdict == "unknown" else found.verdict == "ok"]
    good = False if False in verdicts else True if True in verdicts else None
    return Seen(good, f"{page.words}; {ours}", content, "fills", _QUERY, view="pnl")


def enough(scene: Scene) -> Seen:
    """Are there enough trades, and could the gap be chance?"""
    spent = _spent(scene)
    spread, rule = (
        spent.accuracy.pnl.points if spent.accuracy else None,
        scene.view.rules["backtest_variance"].of("fills"),
    )
    if spread is None:
        return Seen(None, NO_FILLS if not spent.accuracy else NO_PAIRS, None, "fills", _QUERY)

    def points(v):
        return text.number(v, "points", 2)

    between = (
        f"the true mean lies between {points(spread.low)} and {points(spread.high)}"
        if spread.low is not None
        else "of one trade nothing can be said"
    )
    return Seen(
        spread.n >= rule.min_count,
        f"{spread.n} trades paired, at least {rule.min_count} were expected; mean {points(spread.mean)}, {between}",
        {"n": spread.n, "mean_pp": spread.mean, "low_pp": spread.low, "high_pp": spread.high},
        "fills",
        _QUERY,
        view="pnl",
    )


def last_trades(scene: Scene) -> Seen:
    """What did the last ten trades come to?"""
    spent = _spent(scene)
    newest, names = spent.trades[-NEWEST:], {p.live.name: p for p in spent.pairs}
    if not newest:
        return Seen(None, NO_FILLS, None, "fills", _QUERY)
    gaps = [p.gap_pp for t, _ in newest if (p := names.get(t.name)) and p.gap_pp is not None]
    rows = [
        {
            "trade": t.name,
            "what": t.told,
            "exited": text.iso(t.exited),
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
        return Seen(None, f"the last {len(newest)} trades: net {_usd(net)}; {NO_PAIRS}", rows, "fills", _QUERY)
    mean, rule = sum(gaps, ZERO) / len(gaps), scene.view.rules["backtest_variance"]
    good = not rule.past(abs(float(mean)), rule.objective)
    return Seen(
        good,
        f"the last {len(newest)} trades: net {_usd(net)}, mean gap to the backtest "
        f"{text.number(float(mean), 'points', 2)}, below {rule.limit_told(rule.objective)} was expected",
        rows,
        "fills",
        _QUERY,
        view="pnl",
    )


def cost_table(scene: Scene) -> Seen:
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
        return Seen(None, NO_FILLS if not spent.accuracy else NO_PAIRS, None, "fills", _QUERY)
    return Seen(total.as_assumed, "; ".join(line.told for line in spent.lines), content, "fills", _QUERY, view="pnl")


def _line(scene: Scene, at: int) -> Seen:
    spent = _spent(scene)
    line, (name, assumed, was, unit) = spent.lines[at], spent.rates[at]
    if line.as_assumed is None:
        why = (
            NO_FILLS
            if not spent.accuracy
            else NO_PAIRS
            if not spent.pairs
            else "nothing tells what was lost to the spread"
        )
        return Seen(None, why, None, "fills", _QUERY)

    def told(v):
        return text.UNKNOWN if v is None else f"{float(v):.3f} %" if name.endswith("pct") else f"${float(v):.3f}"

    return Seen(
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


def commission(scene: Scene) -> Seen:
    """Was commission what the backtest took for it?"""
    return _line(scene, 0)


def slippage(scene: Scene) -> Seen:
    """Was slippage what the backtest took for it?"""
    return _line(scene, 1)


def fees(scene: Scene) -> Seen:
    """Is the charge for a contract the same in the last ten trades as before them?"""
    spent = _spent(scene)
    paid = [(t, r) for t, r in spent.trades if all(leg.paid for leg in t.legs)]
    if not paid:
        return Seen(None, f"{QUOTED}: no fee is told" if spent.trades else NO_FILLS, None, "fills", _QUERY)

    def rate(found):
        return sum((r.costs for _, r in found), ZERO) / (
            sum((leg.quantity + leg.traded for t, _ in found for leg in t.legs), ZERO) or 1
        )

    newest, before = paid[-NEWEST:], paid[:-NEWEST]
    if not before:
        return Seen(
            None,
            f"${rate(newest):.3f} a contract and side; no earlier trade of the last day to hold it against",
            {"newest_usd": _json(rate(newest))},
            "fills",
            _QUERY,
        )
    now, then = rate(newest), rate(before)
    return Seen(
        now <= max(then * AS_ASSUMED, then + CENT),
        f"${now:.3f} a contract and side in the last {len(newest)} trades, ${then:.3f} before them",
        {"newest_usd": _json(now), "before_usd": _json(then)},
        "fills",
        _QUERY,
    )


def sizes(scene: Scene) -> Seen:
    """Are positions as large as in the backtest?"""
    spent = _spent(scene)
    if not spent.pairs or spent.accuracy is None:
        return Seen(None, NO_FILLS if not spent.accuracy else NO_PAIRS, None, "fills", _QUERY)
    mean = sum((_contracts(p.live) for p in spent.pairs), ZERO) / len(spent.pairs)
    sized = [pair.contracts[1] for pair in spent.pairs if pair.contracts]
    if not sized:
        return Seen(
            None,
            f"{mean:.1f} contracts a trade; the backtest told percents, no sizes: ops import --kind backtest "
            f"FILE, of one with prices",
            {"live": _json(mean)},
            "fills",
            _QUERY,
        )
    size, its = sum((p.parts.size for p in spent.pairs), ZERO), sum(sized, ZERO) / len(sized)
    return Seen(
        abs(mean - its) <= its * (AS_ASSUMED - 1),
        f"{mean:.1f} contracts a trade, {its:.1f} in the backtest; of the difference {_usd(size)} is size",
        {"live": _json(mean), "backtest": _json(its), "size_usd": _json(size)},
        "fills",
        _QUERY,
    )


def spreads(scene: Scene) -> Seen:
    """Are spreads in the last ten trades as wide as before them?"""
    spent = _spent(scene)
    known = [(t, s) for t, _ in spent.trades if (s := _spread(t)) is not None]
    if not known:
        return Seen(None, "no quote stands beside any trade" if spent.trades else NO_FILLS, None, "fills", _QUERY)
    newest, before = known[-NEWEST:], known[:-NEWEST]
    now, then = (sum((s for _, s in found), ZERO) / len(found) if found else None for found in (newest, before))
    content = {"newest_pct": _json(now), "before_pct": _json(then)}
    if now is None or then is None:
        return Seen(
            None,
            f"{_pct(now)} of the middle in the last {len(newest)} trades; nothing before them to hold it against",
            content,
            "fills",
            _QUERY,
        )
    return Seen(
        now <= then * AS_ASSUMED,
        f"quoted spreads were {_pct(now)} of the middle in the last {len(newest)} trades, {_pct(then)} before them",
        content,
        "fills",
        _QUERY,
    )


def strikes(scene: Scene) -> Seen:
    """Which strikes are traded, and is one far wider than the usual?"""
    spent = _spent(scene)
    by: dict[str, list[Decimal]] = defaultdict(list)
    for trade, _ in spent.trades:
        if (spread := _spread(trade)) is not None:
            by[trade.told].append(spread)
    if not by:
        return Seen(None, "no quote stands beside any trade" if spent.trades else NO_FILLS, None, "fills", _QUERY)
    means = {name: sum(found, ZERO) / len(found) for name, found in by.items()}
    usual, widest = median(means.values()), max(means, key=lambda name: means[name])
    return Seen(
        means[widest] <= usual * WIDER,
        f"widest {widest}: {_pct(means[widest])} of the middle over {len(by[widest])} trades; usual "
        f"{_pct(usual)} over {len(by)} strikes. Volume is in no fill",
        {name: _json(v) for name, v in sorted(means.items(), key=lambda m: -m[1])[:NEWEST]},
        "fills",
        _QUERY,
    )


def fill_quality(scene: Scene) -> Seen:
    """Were fills at the market's prices when the orders were sent?"""
    spent = _spent(scene)
    if not any(r.inside for _, r in spent.trades):
        return Seen(
            None,
            f"{QUOTED}: no fill can be held against the market" if spent.trades else NO_FILLS,
            None,
            "fills",
            _QUERY,
        )
    parts = spent.accuracy.pnl.parts if spent.accuracy else None
    if not spent.pairs or parts is None or parts.prices:
        return Seen(
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
    return Seen(
        -parts.fill <= lost * (AS_ASSUMED - 1),
        f"fills beyond the quotes made {_usd(parts.fill)}, timing {_usd(parts.timing)}, wider spreads "
        f"{_usd(parts.slippage)}",
        content,
        "fills",
        _QUERY,
    )
