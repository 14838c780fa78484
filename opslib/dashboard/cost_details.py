"""Compare what trading cost with what the backtest assumed, and propose new assumptions."""

import difflib
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from opslib.dashboard.pnl_details import PnlView, accuracy_of
from opslib.dashboard.text_blocks import TextBlock, bullet_list
from opslib.dashboard.text_blocks import table as tabled
from opslib.foundation import formatting
from opslib.foundation.errors import ImportRefused
from opslib.trading.pnl import costs
from opslib.trading.pnl.backtest_variance import Pair
from opslib.trading.pnl.fills import CENT, ZERO
from opslib.trading.pnl.positions import Trade

if TYPE_CHECKING:
    from opslib.foundation.config.workspace import Workspace


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
    return formatting.dollars(None if value is None else float(value.quantize(CENT)) + 0.0)


def _pct(value: Decimal | None, digits: int = 2) -> str:
    return formatting.number(None if value is None else float(value) + 0.0, "%", digits)


def _expected(pair: Pair) -> tuple[Decimal, Decimal | None]:
    """What the backtest took for the commission and for the slippage of a trade, at the live size."""
    slipped, parts = pair.result.slippage, pair.parts
    merged = pair.result.inside and bool(parts.prices)
    return (
        pair.result.costs + parts.commission,
        None if slipped is None or merged else slipped + parts.slippage + parts.fill,
    )


@dataclass(frozen=True)
class CostComparison:
    """
    What trading cost, as of a moment.

    Attributes:
        at: Only trades that ended by then.
        length: And not longer before it than this; None is over what the rule for fills judges: a day, or more where
            that holds too few.
    """

    workspace: "Workspace"
    at: datetime
    length: timedelta | None = None

    @cached_property
    def accuracy(self) -> PnlView | None:
        """What trades came to; None where none is known."""
        own = sorted(self.workspace.settings.home.glob(f"{BACKTEST}.*"))
        theirs = own[0] if own else None
        try:
            if self.length is None:
                return accuracy_of(self.workspace, backtest=theirs, as_of=self.at).counted()
            return accuracy_of(
                self.workspace, backtest=theirs, as_of=self.at, window=f"{round(self.length.total_seconds() / 60)}m"
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

        def add(i: int) -> Decimal | None:
            known = [amount for t in told if (amount := t[i]) is not None]
            return sum(known, ZERO) if len(known) == len(told) else None

        commission, slippage = Line("commission", add(0), add(2)), Line("slippage", add(1), add(3))

        def both(a: Decimal | None, b: Decimal | None) -> Decimal | None:
            return None if a is None or b is None else a + b

        return (
            commission,
            slippage,
            Line("total", both(commission.expected, slippage.expected), both(commission.actual, slippage.actual)),
        )

    @property
    def table(self) -> TextBlock:
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
    def newest(self) -> TextBlock:
        """What were the last ten trades?"""
        gaps = {p.live.name: p for p in self.pairs}
        rows = []
        for trade, result in self.trades[-NEWEST:]:
            pair = gaps.get(trade.name)
            gap = formatting.number(None if pair is None or pair.gap_pp is None else float(pair.gap_pp), "points", 2)
            rows.append(
                [
                    trade.name,
                    trade.told,
                    f"{trade.exited.astimezone(formatting.NEW_YORK):%m-%d %H:%M}",
                    formatting.number(float(_contracts(trade))),
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
        return (
            self.accuracy.decomposition if self.accuracy else bullet_list("What the difference is made of", [NO_FILLS])
        )

    @cached_property
    def rates(self) -> tuple[tuple[str, Decimal | None, Decimal | None, str], ...]:
        """What the backtest assumes as rates: name, assumed, as it was, unit; None is not known."""
        commission, slippage, _ = self.lines
        sides = sum((leg.quantity + leg.traded for p in self.pairs for leg in p.live.legs), ZERO)
        turned = sum((abs(leg.entry_value) + abs(leg.exit_value) for p in self.pairs for leg in p.live.legs), ZERO)

        def rate(v: Decimal | None, of: Decimal | int, times: int = 1) -> Decimal | None:
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
    def change(self) -> TextBlock:
        """
        What is to be changed in the backtest's cost assumptions, as a diff, and what the gap would have been with it?
        """
        if not self.proposed:
            return bullet_list(
                "No change can be proposed",
                [
                    NO_PAIRS
                    if not self.pairs
                    else "the backtest told no costs, or nothing tells what was lost to the spread"
                ],
            )
        units = {name: unit for name, _, _, unit in self.rates}

        def line(name: str, value: Decimal) -> str:
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
            f"{formatting.number(then, 'points', 2)} instead of {formatting.number(now, 'points', 2)}"
        )
        cushion = f"where live was dearer: what live trading showed, and {formatting.ratio(float(CUSHION - 1), 0)} more"
        plain = "\n".join(
            ["The change to the backtest's costs", *(f"    {t}" for t in told), f"  - {cushion}", f"  - {verdict}"]
        )
        return TextBlock(
            plain,
            "dashboard/templates/cost_change.html",
            {"diff": told, "lines": [cushion, verdict]},
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
