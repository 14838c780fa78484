"""Add up what fills came to: trades, costs, and the gap to a backtest, as figures."""

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
    What one order came to, as the broker booked it.

    Attributes:
        name: Its number; a row without one stands by itself.
        legs: How many symbols.
        contracts: Contracts and shares, over its legs.
        value, commission, fees: Cash; `commission` is None where fees hold both.
        model: What the broker's published rates come to for its option legs, as cash: each leg's order as a whole.
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
    """Fills by their order: costs are charged by that, and split over its fills as it happens. In order of time."""
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
        told = [f.commission for f in own]
        commission = None if None in told else sum((c for c in told if c is not None), ZERO)
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
    What trades came to by one reading of their costs.

    Attributes:
        trips: What became of the fills.
        model: How trading is charged.
        rule: ``backtest_variance``.
        backtest: The backtest's own trades; None where none were given.
        promises: What a backtest said of trades, by their names.
        chosen: The round trips that are meant; all of `trips`, or those of a window.
        beside: What stands beside the live trades in their own file; it counts where the backtest says nothing.
        found: What `backtest_variance.compared` came to, where it is known already; see `within`.
        span: From when on trades count, in words, where the rule's window holds too few of them; see
            `fill_figures.counted`.
    """

    trips: RoundTrips
    model: CostModel
    rule: Rule
    backtest: list[Trade] | None
    promises: Mapping[str, BacktestResult]
    chosen: list[Trade]
    beside: Mapping[str, BacktestResult] = field(default_factory=dict)
    found: tuple[list[Pair], list[Trade], list[Trade]] | None = None
    span: str = ""

    def within(self, start: datetime, end: datetime | None = None) -> "Pnl":
        """The trades that ended after `start`, up to and at `end`, paired with the backtest's as among all."""

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
        """Each trade with what came of it."""
        return [(trade, costs.result(trade, self.model)) for trade in self.chosen]

    @cached_property
    def shares(self) -> list[tuple[Trade, Result]]:
        """Each round trip in what is no option, with what came of it."""
        return [(trade, costs.result(trade, self.model)) for trade in self.trips.stock]

    @property
    def shares_told(self) -> str:
        """What round trips in what is no option came to, in a sentence; empty where there are none."""
        if not self.shares:
            return ""
        of = {"stock": "of shares", "future": "of futures"}
        what = " and ".join(sorted({of.get(t.legs[0].instrument, "of what is no option") for t, _ in self.shares}))
        gross, net = (sum((getattr(r, name) for _, r in self.shares), ZERO) for name in ("gross", "net"))
        unpaid = (
            ""
            if all(leg.paid for t, _ in self.shares for leg in t.legs)
            else "; the file tells no costs of them, and none are assumed"
        )
        gross, spent, net = (formatting.dollars(float(v.quantize(CENT)) + 0.0) for v in (gross, gross - net, net))
        return (
            f"{len(self.shares)} round trip{'' if len(self.shares) == 1 else 's'} {what}; gross {gross}, costs "
            f"{spent}, net {net}{unpaid}"
        )

    def total(self, name: str) -> Decimal | None:
        """The sum of a figure over the trades; None where one of them has none."""
        told = [getattr(result, name) for _, result in self.results]
        return None if any(t is None for t in told) else sum(told, ZERO)

    def mean(self, name: str) -> Decimal | None:
        """The mean of a percent over the trades that have one; None of none."""
        told = [getattr(result, name) for _, result in self.results if getattr(result, name) is not None]
        return sum(told, ZERO) / len(told) if told else None

    def weighted(self, name: str) -> Decimal | None:
        """A sum as a percent of all premium together; None of none."""
        told = [(getattr(result, name), result.base) for _, result in self.results if result.base]
        base = sum((b for _, b in told if b), ZERO)
        return sum((v for v, _ in told), ZERO) / base * 100 if base else None

    @cached_property
    def _compared(self) -> tuple[list[Pair], list[Trade], list[Trade]]:
        return self.found or backtest_variance.compared(
            self.chosen, self.backtest, self.promises, self.model, self.beside
        )

    @property
    def pairs(self) -> list[Pair]:
        """Live trades beside the backtest's."""
        return self._compared[0]

    @property
    def wanted(self) -> bool:
        """Is there a backtest to compare with?"""
        return self.backtest is not None or bool(self.promises or self.beside)

    @property
    def unmatched(self) -> dict[str, list[Trade]]:
        """Trades that only one of the two has."""
        return {"live": self._compared[1], "backtest": self._compared[2]}

    @property
    def only_said(self) -> list[str]:
        """The names of trades that a backtest tells a percent of, and that were never made."""
        made = {t.name for t in (*self.trips.trades, *self.trips.partial, *(self.backtest or []))} | {
            leg.lot for leg in self.trips.open
        }
        return [name for name in {**self.beside, **self.promises} if name not in made]

    @property
    def gaps(self) -> list[Decimal]:
        """Backtest minus live of each pair that has percents, points."""
        return [pair.gap_pp for pair in self.pairs if pair.gap_pp is not None]

    @cached_property
    def points(self) -> GapStatistics | None:
        """The gaps in percentage points; None where there is none."""
        return backtest_variance.spread(self.gaps, self.rule.of("fills").confidence)

    @cached_property
    def dollars(self) -> GapStatistics | None:
        """The gaps in dollars; None where there is none."""
        return backtest_variance.spread([pair.gap_usd for pair in self.pairs], self.rule.of("fills").confidence)

    @property
    def weighted_pp(self) -> Decimal | None:
        """The gap of all trades together, points of all premium: a cheap option counts as little as it cost."""
        told = [(pair.gap_usd, pair.result.base) for pair in self.pairs if pair.result.base]
        base = sum((b for _, b in told if b), ZERO)
        return sum((g for g, _ in told), ZERO) / base * 100 if base else None

    @property
    def parts(self) -> Parts:
        """The difference of all pairs, live minus backtest, in its terms."""
        return sum((pair.parts for pair in self.pairs), Parts())


def of(
    fills: Iterable[Fill],
    rule: Rule,
    model: CostModel = costs.REAL,
    backtest: Iterable[Fill] | None = None,
    promises: Mapping[str, BacktestResult] | None = None,
    beside: Mapping[str, BacktestResult] | None = None,
) -> Pnl:
    """What did all these fills come to?"""
    found = round_trips.round_trips(fills)
    theirs = None if backtest is None else round_trips.round_trips(backtest).trades
    return Pnl(found, model, rule, theirs, promises or {}, found.trades, beside or {})


def of_known(known: Known, rule: Rule, model: CostModel = costs.REAL) -> Pnl:
    """What did the fills come to that the store holds?"""
    return of(sorted(known.fills, key=lambda f: f.at), rule, model, known.backtest, known.promises, known.beside)
