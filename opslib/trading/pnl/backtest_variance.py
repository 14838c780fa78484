"""
Compare live trades with a backtest, and decompose the difference.

Trades are paired one by one. A gap is backtest minus live, in percentage points of each one's own base and in dollars.
Its sign is kept, because a live result better than the backtest is a model error too. The difference in dollars (live
minus backtest) is decomposed into terms that add up to it exactly: see `decomposed`.
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
    One leg of a live or backtest trade, as the decomposition uses it.

    Attributes:
        sign: 1 bought first, -1 sold first.
        quantity, multiplier: Contracts, and units per contract.
        entry, exit: Prices at which it was filled, or would have been filled by the model.
        mid_entry, mid_exit: The mid price when the order was sent; None if unknown.
        half_entry, half_exit: Half the spread to be paid, by the quote or the model.
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
        """Result after costs, dollars."""
        return self.sign * self.multiplier * self.quantity * (self.exit - self.entry) - self.costs


@dataclass(frozen=True, slots=True)
class Parts:
    """
    A difference in dollars, live minus backtest, in terms that add up to it.

    Attributes:
        size: A different quantity, at the backtest's result per contract.
        timing: Different mids, at the live quantity.
        slippage: Different spreads.
        fill: Fills worse (negative) or better than the quote.
        prices: Timing, slippage and fill together, if the mid when the order was sent is unknown.
        commission: Different commission and fees, at the live quantity.
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
        """Return each term in cents so that the cents add up; the largest term absorbs the rounding difference."""
        cents = {term: getattr(self, term).quantize(CENT) for term in TERMS}
        over = self.sum.quantize(CENT) - sum(cents.values(), ZERO)
        cents[max(TERMS, key=lambda term: abs(cents[term]))] += over
        return cents


def decomposed(backtest: Side, live: Side) -> Parts:
    """
    Decompose a leg's difference.

    Size comes first, at the backtest's result per contract. The effects of prices and costs are computed at the live
    quantity, so they include the cross terms. Identity: size + timing + slippage + fill + commission = live.net -
    backtest.net.
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
    """Return the empty counterpart of a leg that only one of the two has: no contracts, at the same prices."""
    return other._replace(quantity=ZERO, costs=ZERO)


def side(leg: Leg, model: CostModel, first: bool = True, stated: BacktestResult | None = None) -> Side:
    """
    Return a leg as the decomposition uses it.

    The `first` leg of a round trip bears what is charged per round trip, and the costs in the `stated` backtest result.
    """
    paid = model.as_paid and leg.paid
    found = costs.priced(leg, model)
    m = found[2] if found else Decimal(1)
    if model.multiplier is None or found is None:  # Use the cash, because a price may be rounded.
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
        if not leg.traded:  # The clearing house closed it, without an order.
            mids[1], halves[1] = exit_, ZERO
        charged = (costs.paid(leg, model) or ZERO) - leg.fees
    else:
        halves = list(costs.ends(leg, model)) if found else [ZERO, ZERO]
        mids = [mid if mid is not None else price for mid, price in zip(mids, (entry, exit_))]
        entry, exit_ = entry + leg.side * halves[0], exit_ - leg.side * halves[1]
        charged = costs.charged(leg, model, first) + (
            model.fees_per_contract * (leg.quantity + leg.traded) if costs.per_contract(leg) else ZERO
        )
    if stated is not None and stated.commission is not None:
        charged = stated.commission if first else ZERO
    if stated is not None and stated.slippage is not None:
        entry, exit_ = entry - leg.side * halves[0], exit_ + leg.side * halves[1]
        halves = [(stated.slippage if first else ZERO) / (leg.quantity * m) / 2] * 2
        entry, exit_ = entry + leg.side * halves[0], exit_ - leg.side * halves[1]
    return Side(leg.side, leg.quantity, m, entry, exit_, mids[0], mids[1], halves[0], halves[1], charged)


@dataclass(frozen=True, slots=True)
class Pair:
    """
    A live trade and its backtest result.

    Attributes:
        gap_pp: Backtest minus live, percentage points; None if one of them has no base.
        gap_usd: Backtest minus live, dollars.
        parts: The terms of live minus backtest.
        backtest_net_pct: As the backtest states it.
        priced: Whether the backtest has prices and quantities, not only a percent.
        by_size: The part of the commission term that comes from charges per order at a smaller size; 0 or negative.
        contracts: Of live and of the backtest; None if the backtest states none.
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
    Return the extra cost of fixed charges at a smaller position, up to what the backtest was charged.

    A commission of $10 per order on 1 contract instead of 10 is $9 more than the backtest's at that size, without a
    more expensive broker.
    """
    live, backtest = list(ours), list(theirs)
    paid, charged = (sum((s.costs for s in sides), ZERO) for sides in (live, backtest))
    size, planned = (sum((s.quantity for s in sides), ZERO) for sides in (live, backtest))
    if not planned or size >= planned:
        return ZERO
    return -max(ZERO, min(paid, charged) - charged * size / planned)


def _parts(ours: dict[tuple[str, str, int], Side], theirs: dict[tuple[str, str, int], Side]) -> Parts:
    """Decompose the legs of both trades, matched by symbol and side, else by position."""
    if len(ours) == len(theirs) and not set(ours) & set(theirs):
        theirs = dict(zip(ours, theirs.values()))
    total = Parts()
    for key in dict.fromkeys([*ours, *theirs]):
        live = ours[key] if key in ours else _nothing(theirs[key])
        other = theirs[key] if key in theirs else _nothing(ours[key])
        if live.sign != other.sign:
            # It was bought in one and sold in the other, so only the results can be compared.
            total += Parts(prices=live.net - other.net)
        else:
            total += decomposed(other, live)
    return total


def against(live: Trade, backtest: Trade, model: CostModel, stated: BacktestResult | None = None) -> Pair:
    """
    Pair a live trade with the backtest's own trade.

    The backtest's side has the costs of its `stated` result; without them, both use the same cost model (actual costs
    where known).
    """
    ours, theirs = costs.result(live, model), costs.assumed(costs.result(backtest, model), stated)
    its_pct = stated.net_pct if stated is not None and stated.net_pct is not None else theirs.net_pct
    gap = None if ours.net_pct is None or its_pct is None else its_pct - ours.net_pct
    its_sides = {_leg_key(leg): side(leg, model, i == 0, stated) for i, leg in enumerate(backtest.legs)}
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


def against_backtest_percent(live: Trade, stated: BacktestResult, model: CostModel) -> Pair:
    """
    Pair a live trade with the percent that a backtest states for it.

    Its dollars are that percent of the live base. Commission and slippage are separate terms if the backtest states
    them; the rest is prices. A percent does not show the size, so the same size is assumed.
    """
    ours = costs.result(live, model)
    if stated.net_pct is None or ours.net_pct is None or ours.net_base is None:
        return Pair(live, ours, None, ZERO, Parts(), stated.net_pct, priced=False)
    gap = stated.net_pct - ours.net_pct
    difference = ours.net - stated.net_pct / 100 * ours.net_base
    commission = -(ours.costs - stated.commission) if stated.commission is not None else ZERO
    slippage = (
        -(ours.slippage - stated.slippage)
        if stated.slippage is not None and ours.slippage is not None and not ours.inside
        else ZERO
    )
    return Pair(
        live,
        ours,
        gap,
        -difference,
        Parts(slippage=slippage, commission=commission, prices=difference - slippage - commission),
        stated.net_pct,
        priced=False,
    )


def _likeness(trade: Trade) -> tuple[object, ...]:
    return trade.entered.astimezone(NEW_YORK).date(), tuple(
        sorted((leg.symbol or leg.underlying, leg.side, leg.multiplier or ZERO) for leg in trade.legs)
    )


def _same(live: Trade, backtest: Trade) -> bool:
    """
    Return whether two trades with the same name can be the same trade.

    Order numbers belong to two accounts, so everything else must agree too. The file's own trade name is enough, also
    with other legs, unless the underlyings differ.
    """
    if live.underlying and backtest.underlying and live.underlying != backtest.underlying:
        return False
    shapes = [sorted((leg.side, leg.multiplier or ZERO) for leg in t.legs) for t in (live, backtest)]
    return shapes[0] == shapes[1] or bool(live.legs[0].lot and backtest.legs[0].lot)


def paired(live: list[Trade], backtest: list[Trade]) -> tuple[list[tuple[Trade, Trade]], list[Trade], list[Trade]]:
    """
    Pair live trades with backtest trades.

    First by the name that both files give, if the underlying agrees (for an order number also sides, multipliers and
    the number of legs). The others by symbol, side, multiplier and day of entry (New York), the nearest in time first.

    Returns:
        Pairs; live trades that the backtest does not have; backtest trades that were not made.
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
    Statistics of the gaps of many trades.

    Attributes:
        n: Number of gaps.
        mean, absolute: Their mean, and the mean of their absolute values.
        deviation: Their standard deviation; None with fewer than two.
        low, high: The t interval of the mean at the rule's confidence; None with fewer than two.
    """

    n: int
    mean: float
    absolute: float
    deviation: float | None
    low: float | None
    high: float | None


def spread(gaps: Iterable[Decimal | float], confidence: float) -> GapStatistics | None:
    """Compute the statistics of gaps; None without gaps."""
    values = [float(gap) for gap in gaps]
    if not values:
        return None
    mean, n = math.fsum(values) / len(values), len(values)
    deviation = math.sqrt(math.fsum((x - mean) ** 2 for x in values) / (n - 1)) if n > 1 else None
    low, high = t_interval(mean, deviation, n, confidence) if deviation is not None else (None, None)
    return GapStatistics(n, mean, statistics.fmean(abs(x) for x in values), deviation, low, high)


def compared(
    live: list[Trade],
    backtest: list[Trade] | None,
    backtest_results: Mapping[str, BacktestResult],
    model: CostModel,
    stated_results: Mapping[str, BacktestResult] = MappingProxyType({}),
) -> tuple[list[Pair], list[Trade], list[Trade]]:
    """
    Pair every live trade with its backtest result: the backtest's own trade, else the percent that it states by name.

    Args:
        backtest: Its trades; None if only percents are known.
        backtest_results: Its results, by the trade's name.
        stated_results: Backtest results in the file of the live trades, by name; used if the backtest has no result.

    Returns:
        Pairs; live trades without a partner; backtest trades without one.
    """
    priced = {t.name for t in backtest or []}
    percents = {name for name, stated in backtest_results.items() if stated.net_pct is not None and name not in priced}
    pairs = [against_backtest_percent(t, backtest_results[t.name], model) for t in live if t.name in percents]
    same, alone, phantom = paired([t for t in live if t.name not in percents], backtest or [])
    if backtest is None and not backtest_results and not stated_results:
        return [], [], []
    pairs += [against_backtest_percent(t, stated_results[t.name], model) for t in alone if t.name in stated_results]
    return (
        [*pairs, *(against(ours, theirs, model, backtest_results.get(theirs.name)) for ours, theirs in same)],
        [t for t in alone if t.name not in stated_results],
        phantom,
    )
