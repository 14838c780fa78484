"""
Compare live trades with a backtest, and decompose the difference.

Trades are paired one by one. A gap is backtest minus live, in percentage points of each one's own base and in dollars;
its sign is kept, since a live result better than the backtest is an error of the model too. The difference in dollars
(live minus backtest) is taken apart into five terms that add up to it exactly: see `decomposed`.
"""

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from types import MappingProxyType
from typing import NamedTuple

from opslib.foundation.formatting import NEW_YORK
from opslib.foundation.intervals import t_interval
from opslib.trading.pnl import costs
from opslib.trading.pnl.costs import CostModel, Result
from opslib.trading.pnl.fills import CENT, ZERO, BacktestResult
from opslib.trading.pnl.positions import Leg, Trade

TERMS = ("size", "timing", "slippage", "fill", "prices", "commission")


class Side(NamedTuple):
    """
    One leg of one of the two, live or backtest, as the decomposition sees it.

    Attributes:
        sign: 1 bought first, -1 sold first.
        quantity, multiplier: Contracts, and units of one.
        entry, exit: Prices at which it was filled, or by the model would have been.
        mid_entry, mid_exit: The middle of the market when it was asked for; None where nothing tells it.
        half_entry, half_exit: Half the spread that was to be paid, by the quote or the model.
        costs: Commission and fees, dollars.
    """

    sign: int
    quantity: Decimal
    multiplier: Decimal
    entry: Decimal
    exit: Decimal
    mid_entry: Decimal | None
    mid_exit: Decimal | None
    half_entry: Decimal
    half_exit: Decimal
    costs: Decimal

    @property
    def net(self) -> Decimal:
        """Its result after costs, dollars."""
        return self.sign * self.multiplier * self.quantity * (self.exit - self.entry) - self.costs


@dataclass(frozen=True, slots=True)
class Parts:
    """
    A difference in dollars, live minus backtest, in its terms, which add up to it.

    Attributes:
        size: Another quantity, at the backtest's result a contract.
        timing: Other mids, at the live quantity.
        slippage: Other spreads.
        fill: Fills beyond the touch (below 0), or better than it.
        prices: Timing, slippage and fill in one, where nothing tells the mid when the order was sent.
        commission: Other commission and fees, at the live quantity.
    """

    size: Decimal = ZERO
    timing: Decimal = ZERO
    slippage: Decimal = ZERO
    fill: Decimal = ZERO
    prices: Decimal = ZERO
    commission: Decimal = ZERO

    @property
    def sum(self) -> Decimal:
        """Live minus backtest, dollars."""
        return sum((getattr(self, term) for term in TERMS), ZERO)

    def __add__(self, other: "Parts") -> "Parts":
        return Parts(*(getattr(self, term) + getattr(other, term) for term in TERMS))

    def in_cents(self) -> dict[str, Decimal]:
        """Each term to the cent, so that the cents add up too: what rounding leaves over goes to the largest term."""
        told = {term: getattr(self, term).quantize(CENT) for term in TERMS}
        over = self.sum.quantize(CENT) - sum(told.values(), ZERO)
        told[max(TERMS, key=lambda term: abs(told[term]))] += over
        return told


def decomposed(backtest: Side, live: Side) -> Parts:
    """
    What is a leg's difference made of?

    Size comes first, at the backtest's result a contract; what prices and costs did is told at the live quantity, so
    the
    cross terms stand with them. Identically: size + timing + slippage + fill + commission = live.net - backtest.net.
    """
    m, s, q = live.multiplier, live.sign, live.quantity
    scale = backtest.multiplier / m if backtest.multiplier != m else Decimal(1)
    b_entry, b_exit = backtest.entry * scale, backtest.exit * scale
    size = (q - backtest.quantity) * (
        s * m * (b_exit - b_entry) - (backtest.costs / backtest.quantity if backtest.quantity else ZERO)
    )
    commission = -(live.costs - (backtest.costs * q / backtest.quantity if backtest.quantity else ZERO))
    mids = (live.mid_entry, live.mid_exit, backtest.mid_entry, backtest.mid_exit)
    if any(mid is None for mid in mids):
        return Parts(
            size=size, prices=s * m * q * ((live.exit - live.entry) - (b_exit - b_entry)), commission=commission
        )
    e_l, x_l, e_b, x_b = (mid if mid is not None else ZERO for mid in mids)
    e_b, x_b, h_b = e_b * scale, x_b * scale, (backtest.half_entry + backtest.half_exit) * scale
    h_l = live.half_entry + live.half_exit
    beyond_l = s * (live.entry - e_l) - s * (live.exit - x_l) - h_l
    beyond_b = s * (b_entry - e_b) - s * (b_exit - x_b) - h_b
    return Parts(
        size=size,
        timing=s * m * q * ((x_l - x_b) - (e_l - e_b)),
        slippage=-m * q * (h_l - h_b),
        fill=-m * q * (beyond_l - beyond_b),
        commission=commission,
    )


def _nothing(other: Side) -> Side:
    """A leg that the other one of the two has not: no contracts of it, at the same prices."""
    return other._replace(quantity=ZERO, costs=ZERO)


def side(leg: Leg, model: CostModel, first: bool = True, said: BacktestResult | None = None) -> Side:
    """
    A leg as the decomposition sees it; `first`, where a round trip is charged as one, bears that, and what a backtest
    `said` of its costs.
    """
    paid = model.as_paid and leg.paid
    found = costs.priced(leg, model)
    m = found[2] if found else Decimal(1)
    if model.multiplier is None or found is None:  # By the cash, so that nothing is lost to a price that was rounded.
        entry, exit_ = -leg.side * leg.entry_value / (leg.quantity * m), leg.side * leg.exit_value / (leg.quantity * m)
    else:
        entry, exit_ = found[0], found[1]
    mids = [
        ((q[0] + q[1]) / 2 if q[0] is not None and q[1] is not None else None)
        for q in (costs.quote(leg, "entry"), costs.quote(leg, "exit"))
    ]
    if paid:
        halves = [
            ((q[1] - q[0]) / 2 if q[0] is not None and q[1] is not None else ZERO)
            for q in (costs.quote(leg, "entry"), costs.quote(leg, "exit"))
        ]
        if not leg.traded:  # The clearing house closed it: no order, no market.
            mids[1], halves[1] = exit_, ZERO
        charged = (costs.paid(leg, model) or ZERO) - leg.fees
    else:
        halves = list(costs.ends(leg, model)) if found else [ZERO, ZERO]
        mids = [mid if mid is not None else price for mid, price in zip(mids, (entry, exit_))]
        entry, exit_ = entry + leg.side * halves[0], exit_ - leg.side * halves[1]
        charged = costs.charged(leg, model, first) + (
            model.fees_per_contract * (leg.quantity + leg.traded) if costs.per_contract(leg) else ZERO
        )
    if said is not None and said.commission is not None:
        charged = said.commission if first else ZERO
    if said is not None and said.slippage is not None:
        entry, exit_ = entry - leg.side * halves[0], exit_ + leg.side * halves[1]
        halves = [(said.slippage if first else ZERO) / (leg.quantity * m) / 2] * 2
        entry, exit_ = entry + leg.side * halves[0], exit_ - leg.side * halves[1]
    return Side(leg.side, leg.quantity, m, entry, exit_, mids[0], mids[1], halves[0], halves[1], charged)


@dataclass(frozen=True, slots=True)
class Pair:
    """
    A live trade and what the backtest said of it.

    Attributes:
        gap_pp: Backtest minus live, percentage points; None where one of them has no base.
        gap_usd: Backtest minus live, dollars.
        parts: Of live minus backtest.
        backtest_net_pct: As the backtest has it.
        priced: Whether the backtest told its prices and quantities, not only a percent.
        by_size: How much of the commission term a charge by the order, whatever its size, comes to at a smaller size; 0
            or below.
        contracts: Of live and of the backtest; None where the backtest tells none.
    """

    live: Trade
    result: Result
    gap_pp: Decimal | None
    gap_usd: Decimal
    parts: Parts
    backtest_net_pct: Decimal | None
    priced: bool = True
    by_size: Decimal = ZERO
    contracts: tuple[Decimal, Decimal] | None = None


def _leg_key(leg: Leg) -> tuple[str, str, int]:
    return leg.symbol, leg.right, leg.side


def _by_size(ours: Iterable[Side], theirs: Iterable[Side]) -> Decimal:
    """
    What fixed charges cost more because the position is smaller: up to what the backtest was charged, they did not fall
    with its size.

    A commission of $10 an order on 1 contract instead of 10 is $9 more than the backtest's at that size, and no dearer
    broker.
    """
    (paid, size), (charged, wanted) = (
        (sum((s.costs for s in sides), ZERO), sum((s.quantity for s in sides), ZERO))
        for sides in (list(ours), list(theirs))
    )
    if not wanted or size >= wanted:
        return ZERO
    return -max(ZERO, min(paid, charged) - charged * size / wanted)


def _parts(ours: dict[tuple[str, str, int], Side], theirs: dict[tuple[str, str, int], Side]) -> Parts:
    """The legs of both set against each other: by their symbol and side, else by their place."""
    if len(ours) == len(theirs) and not set(ours) & set(theirs):
        theirs = dict(zip(ours, theirs.values()))
    total = Parts()
    for key in dict.fromkeys([*ours, *theirs]):
        live = ours[key] if key in ours else _nothing(theirs[key])
        other = theirs[key] if key in theirs else _nothing(ours[key])
        if live.sign != other.sign:
            # Bought in one and sold in the other: nothing to compare but the result.
            total += Parts(prices=live.net - other.net)
        else:
            total += decomposed(other, live)
    return total


def against(live: Trade, backtest: Trade, model: CostModel, said: BacktestResult | None = None) -> Pair:
    """
    A live trade beside the backtest's own: with the costs that the backtest took into account, where it `said` so; else
    both by one reading (what was paid, where it was).
    """
    ours, theirs = costs.result(live, model), costs.assumed(costs.result(backtest, model), said)
    its_pct = said.net_pct if said is not None and said.net_pct is not None else theirs.net_pct
    gap = None if ours.net_pct is None or its_pct is None else its_pct - ours.net_pct
    its_sides = {_leg_key(leg): side(leg, model, i == 0, said) for i, leg in enumerate(backtest.legs)}
    our_sides = {_leg_key(leg): side(leg, model, i == 0) for i, leg in enumerate(live.legs)}
    sizes = sum((s.quantity for s in our_sides.values()), ZERO), sum((s.quantity for s in its_sides.values()), ZERO)
    return Pair(
        live,
        ours,
        gap,
        theirs.net - ours.net,
        _parts(our_sides, its_sides),
        its_pct,
        by_size=_by_size(our_sides.values(), its_sides.values()),
        contracts=sizes,
    )


def against_backtest_percent(live: Trade, said: BacktestResult, model: CostModel) -> Pair:
    """
    A live trade beside the percent that a backtest told of it.

    Its dollars are that percent of our base. Its costs tell commission and slippage apart where it told them; the rest
    is prices: the percent says nothing of the size, so that it is taken as the same.
    """
    ours = costs.result(live, model)
    if said.net_pct is None or ours.net_pct is None or ours.net_base is None:
        return Pair(live, ours, None, ZERO, Parts(), said.net_pct, priced=False)
    gap = said.net_pct - ours.net_pct
    difference = ours.net - said.net_pct / 100 * ours.net_base
    commission = -(ours.costs - said.commission) if said.commission is not None else ZERO
    slippage = (
        -(ours.slippage - said.slippage)
        if said.slippage is not None and ours.slippage is not None and not ours.inside
        else ZERO
    )
    return Pair(
        live,
        ours,
        gap,
        -difference,
        Parts(slippage=slippage, commission=commission, prices=difference - slippage - commission),
        said.net_pct,
        priced=False,
    )


def _likeness(trade: Trade) -> tuple[object, ...]:
    return trade.entered.astimezone(NEW_YORK).date(), tuple(
        sorted((leg.symbol or leg.underlying, leg.side, leg.multiplier or ZERO) for leg in trade.legs)
    )


def _same(live: Trade, backtest: Trade) -> bool:
    """
    May two trades of one name be the same?

    Order numbers are of two accounts, so that everything must agree besides. The file's own name of a trade says itself
    that it is the same, with other legs too; only of another underlying it cannot be.
    """
    if live.underlying and backtest.underlying and live.underlying != backtest.underlying:
        return False
    told = [sorted((leg.side, leg.multiplier or ZERO) for leg in t.legs) for t in (live, backtest)]
    return told[0] == told[1] or bool(live.legs[0].lot and backtest.legs[0].lot)


def paired(live: list[Trade], backtest: list[Trade]) -> tuple[list[tuple[Trade, Trade]], list[Trade], list[Trade]]:
    """
    Which trades are the same?

    By the name that both files give, where they share one and the underlying agrees (of an order number also sides,
    multipliers and the number of legs); the others by symbol, side, multiplier and day of entry (New York), those
    nearest in time first.

    Returns:
        Pairs; live trades that the backtest has not; the backtest's that were never made.
    """
    names: dict[str, Trade] = {t.name: t for t in backtest if t.legs[0].lot or t.legs[0].order}
    pairs, left = list[tuple[Trade, Trade]](), list[Trade]()
    taken = set[int]()
    for trade in live:
        found = names.get(trade.name)
        if found is not None and id(found) not in taken and _same(trade, found):
            pairs.append((trade, found))
            taken.add(id(found))
        else:
            left.append(trade)
    waiting: dict[tuple[object, ...], list[Trade]] = defaultdict(list)
    for trade in backtest:
        if id(trade) not in taken:
            waiting[_likeness(trade)].append(trade)
    near = [
        (abs(ours.entered - theirs.entered), ours.entered, n, m, ours, theirs)
        for n, ours in enumerate(left)
        for m, theirs in enumerate(waiting.get(_likeness(ours), []))
    ]
    for *_, ours, theirs in sorted(near, key=lambda found: found[:4]):
        if id(ours) not in taken and id(theirs) not in taken:
            pairs.append((ours, theirs))
            taken |= {id(ours), id(theirs)}

    def by_entry(found: list[Trade]) -> list[Trade]:
        return sorted((t for t in found if id(t) not in taken), key=lambda t: t.entered)

    return pairs, by_entry(left), by_entry(backtest)


class GapStatistics(NamedTuple):
    """
    Gaps of many trades.

    Attributes:
        n: How many.
        mean, absolute: Their mean, and that of their sizes.
        deviation: Their standard deviation; None of fewer than two.
        low, high: Between which the true mean lies, with the rule's confidence, by Student's t; None likewise.
    """

    n: int
    mean: float
    absolute: float
    deviation: float | None
    low: float | None
    high: float | None


def spread(gaps: Iterable[Decimal | float], confidence: float) -> GapStatistics | None:
    """What do gaps amount to? None of none."""
    told = [float(gap) for gap in gaps]
    if not told:
        return None
    mean, n = math.fsum(told) / len(told), len(told)
    deviation = math.sqrt(math.fsum((x - mean) ** 2 for x in told) / (n - 1)) if n > 1 else None
    low, high = t_interval(mean, deviation, n, confidence) if deviation is not None else (None, None)
    return GapStatistics(n, mean, statistics.fmean(abs(x) for x in told), deviation, low, high)


def compared(
    live: list[Trade],
    backtest: list[Trade] | None,
    promises: Mapping[str, BacktestResult],
    model: CostModel,
    beside: Mapping[str, BacktestResult] = MappingProxyType({}),
) -> tuple[list[Pair], list[Trade], list[Trade]]:
    """
    Every live trade beside what the backtest said of it: the backtest's own trade, else the percent it told of it by
    name.

    Args:
        backtest: Its trades; None where only percents are told.
        promises: What it said, by the trade's name.
        beside: What stands beside the live trades themselves, by their name; it counts where the backtest says nothing.

    Returns:
        Pairs; live trades without a partner; the backtest's without one.
    """
    priced = {t.name for t in backtest or []}
    percents = {name for name, said in promises.items() if said.net_pct is not None and name not in priced}
    told = [against_backtest_percent(t, promises[t.name], model) for t in live if t.name in percents]
    same, alone, phantom = paired([t for t in live if t.name not in percents], backtest or [])
    if backtest is None and not promises and not beside:
        return [], [], []
    told += [against_backtest_percent(t, beside[t.name], model) for t in alone if t.name in beside]
    return (
        [*told, *(against(ours, theirs, model, promises.get(theirs.name)) for ours, theirs in same)],
        [t for t in alone if t.name not in beside],
        phantom,
    )
