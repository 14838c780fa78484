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


NEWEST = 10  # The guide examines the last ten trades.
AS_ASSUMED = Decimal("1.2")  # The guide allows costs of up to a fifth above the assumption.
CUSHION = Decimal("1.15")  # In the middle of the guide's 10 to 20 %.
# The backtest's trades, where there are any, are backtest.csv or .json in the home directory.
BACKTEST = "backtest"
WIDER = Decimal(2)  # A strike whose spread is this many times the usual one is illiquid.
NO_FILLS, NO_PAIRS = "no trades are known: ops import FILE --kind fills", "no trade has a backtest figure"
QUOTED = "these trades are quotes, no costs were paid"


class Line(NamedTuple):
    """One line of the cost table in dollars: what the backtest assumed, what was paid; None is unknown."""

    name: str
    expected: Decimal | None
    actual: Decimal | None

    @property
    def over(self) -> Decimal | None:
        """How much more was paid than assumed."""
        return None if self.expected is None or self.actual is None else self.actual - self.expected

    @property
    def as_assumed(self) -> bool | None:
        """Whether the costs are within the allowance above the assumption."""
        return (
            None
            if self.expected is None or self.actual is None
            else self.actual <= max(self.expected * AS_ASSUMED, self.expected + CENT)
        )

    @property
    def text(self) -> str:
        """The line in words."""
        more = f", {_usd(self.over)} more" if self.over is not None and self.over > 0 else ""
        return f"{self.name} {_usd(self.actual)}, {_usd(self.expected)} assumed{more}"


def _usd(value: Decimal | None) -> str:
    return formatting.dollars(None if value is None else float(value.quantize(CENT)) + 0.0)


def _pct(value: Decimal | None, digits: int = 2) -> str:
    return formatting.number(None if value is None else float(value) + 0.0, "%", digits)


def _expected(pair: Pair) -> tuple[Decimal, Decimal | None]:
    """Return the commission and the slippage that the backtest assumed for a trade, at the live size."""
    slipped, parts = pair.result.slippage, pair.parts
    merged = pair.result.inside and bool(parts.prices)
    return (
        pair.result.costs + parts.commission,
        None if slipped is None or merged else slipped + parts.slippage + parts.fill,
    )


@dataclass(frozen=True)
class CostComparison:
    """
    The costs of trading compared with those of the backtest, as of a moment.

    Attributes:
        at: Only trades that closed by then.
        length: The length of the window before it; None is the window that the rule for fills evaluates: a day, or
            more where it has too few trades.
    """

    workspace: "Workspace"
    at: datetime
    length: timedelta | None = None

    @cached_property
    def accuracy(self) -> PnlView | None:
        """The result of the trades; None where none is known."""
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
        """Round trips with their results, in order of closing."""
        return self.accuracy.pnl.results if self.accuracy else []

    @property
    def pairs(self) -> list[Pair]:
        """Live trades paired with those of the backtest."""
        return self.accuracy.pnl.pairs if self.accuracy else []

    @cached_property
    def lines(self) -> tuple[Line, Line, Line]:
        """Commission with fees, slippage, and their total: assumed and paid."""
        if not self.pairs:
            return Line("commission", None, None), Line("slippage", None, None), Line("total", None, None)
        amounts = [(*_expected(p), p.result.costs, p.result.slippage) for p in self.pairs]

        def add(i: int) -> Decimal | None:
            known = [amount for t in amounts if (amount := t[i]) is not None]
            return sum(known, ZERO) if len(known) == len(amounts) else None

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
        """The assumed costs, the paid costs and the difference."""
        rows = [
            [
                line.name,
                _usd(line.expected),
                _usd(line.actual),
                formatting.UNKNOWN if line.over is None else _usd(line.over),
            ]
            for line in self.lines
        ]
        return tabled(
            f"Costs of {len(self.pairs)} paired trades, backtest and live",
            ["cost", "backtest", "live", "difference"],
            rows if self.pairs else [],
            NO_PAIRS,
        )

    @property
    def newest(self) -> TextBlock:
        """The last ten trades."""
        gaps = {p.live.name: p for p in self.pairs}
        rows = []
        for trade, result in self.trades[-NEWEST:]:
            pair = gaps.get(trade.name)
            gap = formatting.number(None if pair is None or pair.gap_pp is None else float(pair.gap_pp), "points", 2)
            rows.append(
                [
                    trade.name,
                    trade.label,
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
                "description",
                "closed (New York)",
                "contracts",
                "commission",
                "slippage",
                "spread",
                "net",
                "backtest variance",
            ],
            rows,
            NO_FILLS,
        )

    @property
    def parts(self) -> "object":
        """The parts of the difference to the backtest."""
        return self.accuracy.decomposition if self.accuracy else bullet_list("Parts of the difference", [NO_FILLS])

    @cached_property
    def rates(self) -> tuple[tuple[str, Decimal | None, Decimal | None, str], ...]:
        """The cost rates: name, as assumed, as paid, unit; None is unknown."""
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
                "per contract and side, including fees",
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
        """The rates that the backtest should assume: those paid plus an allowance, where they exceed the assumed."""
        found = {}
        for name, assumed, was, _ in self.rates:
            if assumed is not None and was is not None:
                found[name] = max(assumed, was * CUSHION) if was > assumed else assumed
        return found

    @property
    def change(self) -> TextBlock:
        """The proposed change of the backtest's cost assumptions as a diff, and the variance that would result."""
        if not self.proposed:
            return bullet_list(
                "No change can be proposed",
                [NO_PAIRS if not self.pairs else "the backtest has no costs, or the cost of the spread is unknown"],
            )
        units = {name: unit for name, _, _, unit in self.rates}

        def line(name: str, value: Decimal) -> str:
            return f"{name} = {float(value):.4f}  # {units[name]}"

        before = [
            line(name, assumed) for name, assumed, _, _ in self.rates if name in self.proposed and assumed is not None
        ]
        after = [line(name, value) for name, value in self.proposed.items()]
        diff = list(
            difflib.unified_diff(
                before, after, "backtest costs, as assumed", "backtest costs, as live trading shows", lineterm="", n=3
            )
        ) or ["no change: the paid costs equal the assumed ones"]
        now, then = self._gap(), self._gap(self.proposed)
        verdict = (
            f"check: with this change the mean variance of the same {len(self.pairs)} trades is "
            f"{formatting.number(then, 'points', 2)} instead of {formatting.number(now, 'points', 2)}"
        )
        allowance = (
            f"where live costs were higher: the live costs plus an allowance of "
            f"{formatting.ratio(float(CUSHION - 1), 0)}"
        )
        plain = "\n".join(
            [
                "Proposed change of the backtest's costs",
                *(f"    {t}" for t in diff),
                f"  - {allowance}",
                f"  - {verdict}",
            ]
        )
        return TextBlock(
            plain,
            "dashboard/templates/cost_change.html",
            {"diff": diff, "lines": [allowance, verdict]},
            "\n".join(
                [
                    "### Proposed change of the backtest's costs",
                    "",
                    "```diff",
                    *diff,
                    "```",
                    "",
                    f"- {allowance}",
                    f"- {verdict}",
                ]
            ),
        )

    def _gap(self, rates: dict[str, Decimal] | None = None) -> float | None:
        """Return the mean variance, points; with other rates in the backtest, what it would have been."""
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
    """Return the mean quoted spread of a trade, % of the mid price; None without quotes."""
    found = []
    for leg in trade.legs:
        for bid, ask in (costs.quote(leg, "entry"), costs.quote(leg, "exit")):
            if bid is not None and ask is not None and bid + ask:
                found.append((ask - bid) / (bid + ask) * 200)
    return sum(found, ZERO) / len(found) if found else None
