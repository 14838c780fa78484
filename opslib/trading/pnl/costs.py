"""
Compute what a trade cost, as paid or by a model.

There are three cost models, by name. ``real`` (the default): 100 units per contract, $0.65 per contract on each side,
half the spread on each side; actual costs if the file states them. ``guide``: the operations guide's own sample, $1.30
per round trip and 0.5 % of the entry, without a multiplier. ``app``: the app's calculator, which charges a cent of fees
per contract, at least half a dollar per side, the whole spread if it is quoted, 2 % less for "quality", and relates the
net result to entry plus entry costs. All money is exact.
"""

from dataclasses import dataclass, replace
from decimal import Decimal

from opslib.trading.pnl.fills import ZERO, BacktestResult
from opslib.trading.pnl.positions import Leg, Trade


@dataclass(frozen=True, slots=True)
class CostModel:
    """
    How trading is charged. Money in dollars, spreads as a share of the price.

    Attributes:
        per_contract_open, per_contract_close: Commission per contract.
        per_trade: Commission per round trip, at any size.
        fees_per_contract: Clearing and regulatory fees, on each side.
        least, most: Bounds of the commission of one leg's order; None if there is none.
        spread: Assumed spread if none is quoted.
        share: Share of a spread that is paid at each end: a half, or all of it.
        quality: Factor on slippage for the quality of fills.
        exits: Whether the exit pays slippage too.
        quotes: Whether quotes are used if they are known.
        as_paid: Whether actual costs take precedence over the model.
        multiplier: Assumed for every contract; None means the contract's own.
        costs_in_base: Whether the net result is relative to the entry including its costs.
    """

    name: str
    per_contract_open: Decimal = ZERO
    per_contract_close: Decimal = ZERO
    per_trade: Decimal = ZERO
    fees_per_contract: Decimal = ZERO
    least: Decimal | None = None
    most: Decimal | None = None
    spread: Decimal = Decimal("0.005")
    share: Decimal = Decimal(1)
    quality: Decimal = Decimal(1)
    exits: bool = True
    quotes: bool = True
    as_paid: bool = False
    multiplier: Decimal | None = None
    costs_in_base: bool = False

    def commission(self, contracts: Decimal, opens: bool) -> Decimal:
        """Return the commission of one leg's order; the bounds apply to the order as a whole."""
        charged = (self.per_contract_open if opens else self.per_contract_close) * contracts
        charged = charged if self.least is None or not contracts else max(charged, self.least)
        return charged if self.most is None else min(charged, self.most)

    def half_spread(self, price: Decimal, bid: Decimal | None, ask: Decimal | None) -> Decimal:
        """Return what one unit loses at one end, dollars."""
        spread = ask - bid if self.quotes and bid is not None and ask is not None else price * self.spread
        return spread * self.share * self.quality


# domain: commission of each contract and side; half the spread at each end
REAL = CostModel(
    "real", per_contract_open=Decimal("0.65"), per_contract_close=Decimal("0.65"), share=Decimal("0.5"), as_paid=True
)
# operations-guide.md, "High Backtest Variance": the sample calculation
GUIDE = CostModel("guide", per_trade=Decimal("1.30"), exits=False, quotes=False, multiplier=Decimal(1))
# the app's calculator: 0.65 + 0.01 a contract, at least 1.00 a round trip
APP = CostModel(
    "app",
    per_contract_open=Decimal("0.66"),
    per_contract_close=Decimal("0.66"),
    least=Decimal("0.50"),
    quality=Decimal("0.98"),
    costs_in_base=True,
)
# its published rates: a dollar to open, nothing to close, at most ten a leg's order
BROKER = CostModel("tastytrade", per_contract_open=Decimal(1), most=Decimal(10))
PRESETS = {model.name: model for model in (REAL, GUIDE, APP)}


@dataclass(frozen=True, slots=True)
class Result:
    """
    The result of a trade, in dollars; costs are positive.

    Attributes:
        gross: Before costs.
        commission: None if the file states it and fees as one figure, which then is `fees`.
        slippage: Lost to the spread; None if no quote is known.
        inside: Whether the slippage is already inside the prices, as in every real fill; net then does not subtract it.
        base: The base of percents, and `base_is` its name; None if there is none.
        net_base: The base of the net percent; it differs only for the model ``app``.
    """

    gross: Decimal
    commission: Decimal | None
    fees: Decimal
    slippage: Decimal | None
    inside: bool
    base: Decimal | None
    base_is: str
    net_base: Decimal | None

    @property
    def costs(self) -> Decimal:
        """Commission and fees."""
        return (self.commission or ZERO) + self.fees

    @property
    def net(self) -> Decimal:
        """After costs, and after slippage if the prices do not contain it."""
        return self.gross - self.costs - (ZERO if self.inside or self.slippage is None else self.slippage)

    @property
    def gross_pct(self) -> Decimal | None:
        """Before costs, % of the base; None without a base."""
        return None if not self.base else self.gross / self.base * 100

    @property
    def net_pct(self) -> Decimal | None:
        """After costs, % of the base; None without a base."""
        return None if not self.net_base else self.net / self.net_base * 100


def priced(leg: Leg, model: CostModel) -> tuple[Decimal, Decimal, Decimal] | None:
    """Return a leg's entry price, exit price and multiplier by the model; None if a price is unknown."""
    entry, exit_, multiplier = leg.mean(leg.entry_units), leg.mean(leg.exit_units), model.multiplier or leg.multiplier
    return None if entry is None or exit_ is None or multiplier is None else (entry, exit_, multiplier)


def quote(leg: Leg, end: str) -> tuple[Decimal | None, Decimal | None]:
    """Return the mean bid and ask at the ``entry`` or the ``exit`` of a leg."""
    bid, ask = leg.mean(getattr(leg, f"{end}_bid")), leg.mean(getattr(leg, f"{end}_ask"))
    return (bid, ask) if bid is not None and ask is not None else (None, None)


def ends(leg: Leg, model: CostModel) -> tuple[Decimal, Decimal]:
    """
    Return what one unit of a leg loses to the spread by the model, at its entry and at its exit.

    The exit is 0 if no order closed it.
    """
    found = priced(leg, model)
    if found is None:
        return ZERO, ZERO
    quotes = quote(leg, "entry"), quote(leg, "exit")
    # The assumed spread applies to options; for shares only a quoted spread is used.
    entry, exit_ = (
        model.half_spread(price, *quoted) if per_contract(leg) or (model.quotes and quoted[0] is not None) else ZERO
        for price, quoted in zip(found, quotes)
    )
    return entry, exit_ * leg.traded / leg.quantity if model.exits and leg.quantity else ZERO


def _slipped(leg: Leg) -> Decimal | None:
    """Return what a real leg lost against the mid of its quotes, dollars; None if a quote is unknown."""
    found, (bid, ask), (exit_bid, exit_ask) = priced(leg, REAL), quote(leg, "entry"), quote(leg, "exit")
    if found is None or bid is None or ask is None or exit_bid is None or exit_ask is None:
        return None
    lost = leg.side * (found[0] - (bid + ask) / 2) * leg.quantity
    lost -= leg.side * (found[1] - (exit_bid + exit_ask) / 2) * leg.traded if leg.traded else ZERO
    return lost * found[2]


def per_contract(leg: Leg) -> bool:
    """Return whether a leg is charged per contract: options and futures are, shares are not."""
    return leg.instrument not in ("stock", "other")


def charged(leg: Leg, model: CostModel, first: bool = False) -> Decimal:
    """Return the commission of a leg by a model; the `first` leg of a trade bears the charge per round trip."""
    if not per_contract(leg):
        return ZERO
    return (
        model.commission(leg.quantity, True)
        + (model.commission(leg.traded, False) if leg.traded else ZERO)
        + (model.per_trade if first else ZERO)
    )


def paid(leg: Leg, model: CostModel) -> Decimal | None:
    """Return the actual commission of a leg, by the model if the file left it blank; None if its fees include it."""
    if leg.commission is None:
        return None
    return (model.commission(leg.uncharged, True) if per_contract(leg) else ZERO) - leg.commission


def assumed(found: Result, stated: BacktestResult | None) -> Result:
    """Return the same result with the costs that a backtest states it assumed."""
    if stated is None:
        return found
    found = found if stated.commission is None else replace(found, commission=stated.commission, fees=ZERO)
    return found if stated.slippage is None else replace(found, slippage=stated.slippage, inside=False)


def result(trade: Trade, model: CostModel = REAL) -> Result:
    """
    Compute the result of a trade by a cost model.

    Percents are relative to the premium paid or received. For a credit spread the base is the larger of the credit and
    the maximum loss (its width), because a premium near zero would inflate any percent.
    """
    as_paid = model.as_paid and all(leg.paid for leg in trade.legs)
    known = [priced(leg, model) for leg in trade.legs]
    own = model.multiplier is None
    gross = premium = ZERO
    for leg, prices in zip(trade.legs, known):
        if own or prices is None:
            gross, premium = gross + leg.gross, premium + leg.entry_value
        else:
            gross += leg.side * (prices[1] - prices[0]) * leg.quantity * prices[2]
            premium -= leg.side * prices[0] * leg.quantity * prices[2]
    if as_paid:
        commissions = [paid(leg, model) for leg in trade.legs]
        commission = None if None in commissions else sum((c for c in commissions if c is not None), ZERO)
        fees = -sum((leg.fees for leg in trade.legs), ZERO)
        lost = [_slipped(leg) for leg in trade.legs]
        slippage = None if None in lost else sum((s for s in lost if s is not None), ZERO)
        entry_costs = ZERO
    else:
        opened = [model.commission(leg.quantity, True) if per_contract(leg) else ZERO for leg in trade.legs]
        commission = sum((charged(leg, model, i == 0) for i, leg in enumerate(trade.legs)), ZERO)
        fees = model.fees_per_contract * sum(
            (leg.quantity + leg.traded for leg in trade.legs if per_contract(leg)), ZERO
        )
        at = [ends(leg, model) for leg in trade.legs]
        sizes = [leg.quantity * (prices[2] if prices else ZERO) for leg, prices in zip(trade.legs, known)]
        slippage = None if None in known else sum(((a + b) * size for (a, b), size in zip(at, sizes)), ZERO)
        entry_costs = sum(opened, ZERO) + sum((a * size for (a, _), size in zip(at, sizes)), ZERO)
    base, base_is = _base(trade, premium, own)
    net_base = base + entry_costs if base is not None and model.costs_in_base else base
    return Result(gross, commission, fees, slippage, as_paid, base, base_is, net_base)


def _base(trade: Trade, premium: Decimal, own: bool) -> tuple[Decimal | None, str]:
    if premium < 0:
        return -premium, "premium paid"
    if len(trade.legs) > 1 and own and (width := trade.width) is not None and width > premium:
        return width, "width of the spread"
    return (premium, "premium received") if premium else (None, "nothing: no premium, no width")
