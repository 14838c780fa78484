"""Add up the results of fills: trades, costs, and the gap to a backtest."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from functools import cached_property

from opslib.foundation import formatting
from opslib.foundation.config.rules import Rule
from opslib.trading.pnl import backtest_variance, costs, round_trips
from opslib.trading.pnl.backtest_variance import GapStatistics, Pair, Parts
from opslib.trading.pnl.costs import CostModel, Result
from opslib.trading.pnl.fills import CENT, ZERO, BacktestResult, Fill
from opslib.trading.pnl.positions import Trade
from opslib.trading.pnl.round_trips import RoundTrips
from opslib.trading.pnl.store import Known


@dataclass(frozen=True)
class Order:
    """
    The result of one order, as the broker booked it.

    Attributes:
        name: Its number; a row without one counts as an order.
        legs: Number of symbols.
        contracts: Contracts and shares, over its legs.
        value, commission, fees: Cash; `commission` is None if fees hold both.
        model: The broker's published rates for its option legs, as cash: each leg's order as a whole.
    """

    name: str
    at: datetime
    fills: int
    legs: int
    contracts: Decimal
    value: Decimal
    commission: Decimal | None
    fees: Decimal
    model: Decimal | None

    @property
    def total(self) -> Decimal:
        """Cash after costs."""
        return self.value + (self.commission or ZERO) + self.fees


def orders(fills: Iterable[Fill]) -> list[Order]:
    """
    Group fills by their order, in order of time; costs are charged per order and split over its fills arbitrarily.
    """
    groups: dict[str, list[Fill]] = {}
    for fill in fills:
        groups.setdefault(fill.order or f"row {fill.row}", []).append(fill)
    found = []
    for name, own in groups.items():
        legs: dict[tuple[str, str, str], list[Fill]] = {}
        for fill in own:
            legs.setdefault((fill.symbol, fill.instrument, fill.effect), []).append(fill)
        charged = [
            -costs.BROKER.commission(sum((f.quantity for f in leg), ZERO), leg[0].effect == "open")
            for (_, instrument, _), leg in legs.items()
            if instrument == "option" and leg[0].kind == "trade"
        ]
        values = [f.commission for f in own]
        commission = None if None in values else sum((c for c in values if c is not None), ZERO)
        found.append(
            Order(
                name,
                min(f.at for f in own),
                len(own),
                len({k[:2] for k in legs}),
                sum((f.quantity for f in own), ZERO),
                sum((f.value for f in own), ZERO),
                commission,
                sum((f.fees or ZERO for f in own), ZERO),
                sum(charged, ZERO) if own[0].order and len(charged) == len(legs) else None,
            )
        )
    return sorted(found, key=lambda o: o.at)


@dataclass(frozen=True)
class Pnl:
    """
    The results of trades by one cost model.

    Attributes:
        trips: The round trips of the fills.
        model: How trading is charged.
        rule: ``backtest_variance``.
        backtest: The backtest's own trades; None if there are none.
        backtest_results: Backtest results, by the trade's name.
        chosen: The selected round trips: all of `trips`, or those of a window.
        stated_results: Backtest results in the file of the live trades; they count if the backtest has no result.
        found: The result of `backtest_variance.compared`, if it is known already; see `within`.
        span: The period in words, if the rule's window has too few trades and was extended; see `fill_figures.counted`.
    """

    trips: RoundTrips
    model: CostModel
    rule: Rule
    backtest: list[Trade] | None
    backtest_results: Mapping[str, BacktestResult]
    chosen: list[Trade]
    stated_results: Mapping[str, BacktestResult] = field(default_factory=dict)
    found: tuple[list[Pair], list[Trade], list[Trade]] | None = None
    span: str = ""

    def within(self, start: datetime, end: datetime | None = None) -> "Pnl":
        """Select the trades that ended after `start`, up to and including `end`; pairs are those among all trades."""

        def inside(t: Trade) -> bool:
            return start < t.exited and (end is None or t.exited <= end)

        pairs, alone, phantom = self._compared
        found = [p for p in pairs if inside(p.live)], [t for t in alone if inside(t)], [t for t in phantom if inside(t)]
        return replace(
            self,
            trips=replace(self.trips, stock=[t for t in self.trips.stock if inside(t)]),
            chosen=[t for t in self.chosen if inside(t)],
            found=found,
        )

    @cached_property
    def results(self) -> list[tuple[Trade, Result]]:
        """Each trade with its result."""
        return [(trade, costs.result(trade, self.model)) for trade in self.chosen]

    @cached_property
    def shares(self) -> list[tuple[Trade, Result]]:
        """Each round trip that is not in options, with its result."""
        return [(trade, costs.result(trade, self.model)) for trade in self.trips.stock]

    @property
    def shares_sentence(self) -> str:
        """The result of round trips that are not in options, in a sentence; empty if there are none."""
        if not self.shares:
            return ""
        of = {"stock": "of shares", "future": "of futures"}
        what = " and ".join(sorted({of.get(t.legs[0].instrument, "of other instruments") for t, _ in self.shares}))
        gross, net = (sum((getattr(r, name) for _, r in self.shares), ZERO) for name in ("gross", "net"))
        unpaid = (
            ""
            if all(leg.paid for t, _ in self.shares for leg in t.legs)
            else "; the file states no costs for them, and none are assumed"
        )
        gross, spent, net = (formatting.dollars(float(v.quantize(CENT)) + 0.0) for v in (gross, gross - net, net))
        return (
            f"{len(self.shares)} round trip{'' if len(self.shares) == 1 else 's'} {what}; gross {gross}, costs "
            f"{spent}, net {net}{unpaid}"
        )

    def total(self, name: str) -> Decimal | None:
        """Return the sum of a figure over the trades; None if one of them has none."""
        values = [getattr(result, name) for _, result in self.results]
        return None if any(t is None for t in values) else sum(values, ZERO)

    def mean(self, name: str) -> Decimal | None:
        """Return the mean of a percent over the trades that have one; None without trades."""
        values = [getattr(result, name) for _, result in self.results if getattr(result, name) is not None]
        return sum(values, ZERO) / len(values) if values else None

    def weighted(self, name: str) -> Decimal | None:
        """Return a sum as a percent of the total premium; None without premium."""
        values = [(getattr(result, name), result.base) for _, result in self.results if result.base]
        base = sum((b for _, b in values if b), ZERO)
        return sum((v for v, _ in values), ZERO) / base * 100 if base else None

    @cached_property
    def _compared(self) -> tuple[list[Pair], list[Trade], list[Trade]]:
        return self.found or backtest_variance.compared(
            self.chosen, self.backtest, self.backtest_results, self.model, self.stated_results
        )

    @property
    def pairs(self) -> list[Pair]:
        """Live trades with their backtest results."""
        return self._compared[0]

    @property
    def has_backtest(self) -> bool:
        """Whether there is a backtest to compare with."""
        return self.backtest is not None or bool(self.backtest_results or self.stated_results)

    @property
    def unmatched(self) -> dict[str, list[Trade]]:
        """Trades that only one of the two has."""
        return {"live": self._compared[1], "backtest": self._compared[2]}

    @property
    def only_in_backtest(self) -> list[str]:
        """Names of trades that have only a backtest percent and were never made."""
        made = {t.name for t in (*self.trips.trades, *self.trips.partial, *(self.backtest or []))} | {
            leg.lot for leg in self.trips.open
        }
        return [name for name in {**self.stated_results, **self.backtest_results} if name not in made]

    @property
    def gaps(self) -> list[Decimal]:
        """Backtest minus live of each pair that has percents, points."""
        return [pair.gap_pp for pair in self.pairs if pair.gap_pp is not None]

    @cached_property
    def points(self) -> GapStatistics | None:
        """Statistics of the gaps in percentage points; None if there is none."""
        return backtest_variance.spread(self.gaps, self.rule.of("fills").confidence)

    @cached_property
    def dollars(self) -> GapStatistics | None:
        """Statistics of the gaps in dollars; None if there is none."""
        return backtest_variance.spread([pair.gap_usd for pair in self.pairs], self.rule.of("fills").confidence)

    @property
    def weighted_pp(self) -> Decimal | None:
        """The gap of all trades together, in points of the total premium, so that a cheap option counts little."""
        values = [(pair.gap_usd, pair.result.base) for pair in self.pairs if pair.result.base]
        base = sum((b for _, b in values if b), ZERO)
        return sum((g for g, _ in values), ZERO) / base * 100 if base else None

    @property
    def parts(self) -> Parts:
        """The difference of all pairs, live minus backtest, in its terms."""
        return sum((pair.parts for pair in self.pairs), Parts())


def of(
    fills: Iterable[Fill],
    rule: Rule,
    model: CostModel = costs.REAL,
    backtest: Iterable[Fill] | None = None,
    backtest_results: Mapping[str, BacktestResult] | None = None,
    stated_results: Mapping[str, BacktestResult] | None = None,
) -> Pnl:
    """Compute the results of fills."""
    found = round_trips.round_trips(fills)
    theirs = None if backtest is None else round_trips.round_trips(backtest).trades
    return Pnl(found, model, rule, theirs, backtest_results or {}, found.trades, stated_results or {})


def of_known(known: Known, rule: Rule, model: CostModel = costs.REAL) -> Pnl:
    """Compute the results of the fills in the database."""
    return of(
        sorted(known.fills, key=lambda f: f.at),
        rule,
        model,
        known.backtest,
        known.backtest_results,
        known.stated_results,
    )
