"""Make the monthly report: the days, and trading costs against what the backtest assumes."""

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
    What something costs, trade by trade.

    Attributes:
        assumed: What the backtest takes for it; None where it does not tell.
        n: Of so many trades it is known.
        mean, low, high: Its mean over trades with the 95 % interval of it; None of too few.
    """

    name: str
    unit: str
    assumed: float | None
    n: int
    mean: float | None
    low: float | None
    high: float | None

    @property
    def told(self) -> list[str]:
        """As a row for people."""

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
    """The month's days, and what trading cost in it."""

    NAME, TITLE = "monthly", "Monthly monitoring report"

    @cached_property
    def spent(self) -> CostComparison:
        """What trading cost, over the month up to now."""
        return CostComparison(self.workspace, self.upto, self.upto - self.period.window.start)

    @cached_property
    def rates(self) -> tuple[Rate, Rate]:
        """Commission a contract and side, and slippage in % of the premium, by trade."""
        found = {name: (assumed, unit) for name, assumed, _, unit in self.spent.rates}
        return (
            _rate("commission_usd", found, [_commission(p) for p in self.spent.pairs]),
            _rate("slippage_pct", found, [_slippage(p) for p in self.spent.pairs]),
        )

    @property
    def costs(self) -> TextBlock:
        """What the backtest assumes, and what it was."""
        return tabled(
            f"Costs of {len(self.spent.pairs)} trades of {self.period.name}",
            ["cost", "assumed", "mean of trades", "95 % interval", "n"],
            [r.told for r in self.rates] if self.spent.pairs else [],
            "no trade of the month has a backtest's trade beside it, so no cost can be compared",
        )

    @property
    def table(self) -> TextBlock:
        """The same in dollars."""
        return self.spent.table

    @property
    def change(self) -> TextBlock:
        """The change to the backtest's assumptions that follows, as a diff to apply."""
        return self.spent.change

    @property
    def more(self) -> dict[str, Any]:
        """The costs, and the proposed ones."""
        return {
            "costs": [r._asdict() for r in self.rates],
            "proposed": {name: round(float(value), 6) for name, value in self.spent.proposed.items()},
            "cushion": float(CUSHION - 1),
        }

    @property
    def action_items(self) -> list[str]:
        """As of every review, and the change to the assumptions, where one follows."""
        dearer = [r for r in self.rates if r.assumed is not None and r.low is not None and r.low > r.assumed]
        more = (
            [
                f"Apply the change to the backtest's costs: {', '.join(r.name for r in dearer)} cost more "
                f"than assumed, with 95 % confidence (Trading Manager; runbook backtest_variance)"
            ]
            if dearer
            else []
        )
        return [*super().action_items, *more]

    @property
    def pieces(self) -> list[TextBlock]:
        """With the costs before what follows."""
        return [
            *super().pieces[:-1],
            self.costs,
            self.table,
            self.change
            if self.spent.pairs
            else bullet_list("No change can be proposed", ["there is nothing to compare"]),
            self.actions_told,
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
