"""Make the monthly report: figures by day, and trading costs compared with the backtest's assumptions."""

import statistics
from decimal import Decimal
from functools import cached_property
from typing import Any, NamedTuple

from opslib.dashboard.cost_details import CUSHION, CostComparison
from opslib.dashboard.text_blocks import TextBlock, bullet_list
from opslib.dashboard.text_blocks import table as tabled
from opslib.foundation import formatting
from opslib.foundation.intervals import t_interval
from opslib.reports.periodic import PeriodicReport
from opslib.trading.pnl.backtest_variance import Pair

ZERO = Decimal(0)


class Rate(NamedTuple):
    """
    The rate of one cost over trades.

    Attributes:
        assumed: The backtest's assumption; None if it has none.
        n: The number of trades with a known rate.
        mean, low, high: The mean over trades and its 95 % interval; None for too few trades.
    """

    name: str
    unit: str
    assumed: float | None
    n: int
    mean: float | None
    low: float | None
    high: float | None

    @property
    def row(self) -> list[str]:
        """The rate as a row of the table of costs."""

        def number(v: float | None) -> str:
            return formatting.UNKNOWN if v is None else f"{v:.3f}"

        return [
            f"{self.name}, {self.unit}",
            number(self.assumed),
            number(self.mean),
            f"{number(self.low)} to {number(self.high)}" if self.low is not None else formatting.UNKNOWN,
            str(self.n),
        ]


class Monthly(PeriodicReport):
    """The monthly report: figures by day, and trading costs."""

    NAME, TITLE = "monthly", "Monthly monitoring report"

    @cached_property
    def spent(self) -> CostComparison:
        """The costs of trading over the month, up to the report's time."""
        return CostComparison(self.workspace, self.upto, self.upto - self.period.window.start)

    @cached_property
    def rates(self) -> tuple[Rate, Rate]:
        """Commission per contract and side in USD, and slippage in % of the premium, by trade."""
        found = {name: (assumed, unit) for name, assumed, _, unit in self.spent.rates}
        return (
            _rate("commission_usd", found, [_commission(p) for p in self.spent.pairs]),
            _rate("slippage_pct", found, [_slippage(p) for p in self.spent.pairs]),
        )

    @property
    def costs(self) -> TextBlock:
        """The assumed and the actual costs."""
        return tabled(
            f"Costs of {len(self.spent.pairs)} trades of {self.period.name}",
            ["cost", "assumed", "mean of trades", "95 % interval", "trades"],
            [r.row for r in self.rates] if self.spent.pairs else [],
            "no trade of the month is paired with a backtest trade, so costs cannot be compared",
        )

    @property
    def table(self) -> TextBlock:
        """The costs in dollars."""
        return self.spent.table

    @property
    def change(self) -> TextBlock:
        """The proposed change of the backtest's assumptions, as a diff to apply."""
        return self.spent.change

    @property
    def more(self) -> dict[str, Any]:
        """The actual and the proposed costs."""
        return {
            "costs": [r._asdict() for r in self.rates],
            "proposed": {name: round(float(value), 6) for name, value in self.spent.proposed.items()},
            "cushion": float(CUSHION - 1),
        }

    @property
    def action_items(self) -> list[str]:
        """The action items of every periodic report, and the change of the backtest's costs if one is proposed."""
        dearer = [r for r in self.rates if r.assumed is not None and r.low is not None and r.low > r.assumed]
        more = (
            [
                f"Apply the change to the backtest's costs: {', '.join(r.name for r in dearer)} above "
                f"the assumption, with 95 % confidence (Trading Manager; runbook backtest_variance)"
            ]
            if dearer
            else []
        )
        return [*super().action_items, *more]

    @property
    def pieces(self) -> list[TextBlock]:
        """All parts in order; the costs come before the action items."""
        return [
            *super().pieces[:-1],
            self.costs,
            self.table,
            self.change
            if self.spent.pairs
            else bullet_list("Proposed change", ["none: no trade is paired with a backtest trade"]),
            self.actions_section,
        ]


def _commission(pair: Pair) -> Decimal | None:
    sides = sum((leg.quantity + leg.traded for leg in pair.live.legs), ZERO)
    return pair.result.costs / sides if sides else None


def _slippage(pair: Pair) -> Decimal | None:
    turned = sum((abs(leg.entry_value) + abs(leg.exit_value) for leg in pair.live.legs), ZERO)
    return pair.result.slippage / turned * 100 if turned and pair.result.slippage is not None else None


def _rate(name: str, rates: dict[str, tuple[Decimal | None, str]], found: list[Decimal | None]) -> Rate:
    known = [float(v) for v in found if v is not None]
    assumed, unit = rates[name]
    mean = statistics.fmean(known) if known else None
    low, high = (
        t_interval(mean, statistics.stdev(known), len(known)) if mean is not None and len(known) > 1 else (None, None)
    )
    return Rate(name, unit, None if assumed is None else float(assumed), len(known), mean, low, high)
