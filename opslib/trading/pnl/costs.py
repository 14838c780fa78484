"""
Compute what a trade cost, as paid or by a model.

Three readings, by name. ``real`` (the default): 100 units a contract, $0.65 a contract on each side, half the spread on
each side; where a file tells what was paid, that. ``guide``: the operations guide's own sample, $1.30 a round trip and
0.5 % of the entry, without a multiplier. ``app``: the calculator of the app, which charges a cent of fees a contract,
at least half a dollar a side, the whole spread where it is quoted, 2 % less for "quality", and sets the net result
against entry and entry costs. All money is exact.
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
        per_contract_open, per_contract_close: Commission of one contract.
        per_trade: Commission of a whole round trip, whatever its size.
        fees_per_contract: Of clearing and regulators, on each side.
        least, most: Of the commission of one leg's order; None is no such bound.
        spread: Taken for the spread where none is quoted.
        share: How much of a spread is paid at each end: a half, or all of it.
        quality: By what slippage is multiplied for the quality of fills.
        exits: Does leaving pay slippage too?
        quotes: Are quotes used where they are told?
        as_paid: Does what was paid come before what the model says?
        multiplier: Taken for every contract; None is the contract's own.
        costs_in_base: Is the net result set against the entry with its costs?
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
        """
        What one leg's order of so many contracts is charged: by the order, so that its bounds hold for it as a whole.
        """
        charged = (self.per_contract_open if opens else self.per_contract_close) * contracts
        charged = charged if self.least is None or not contracts else max(charged, self.least)
        return charged if self.most is None else min(charged, self.most)

    def half_spread(self, price: Decimal, bid: Decimal | None, ask: Decimal | None) -> Decimal:
        """What one unit loses at one end."""
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
    What came of a trade, in dollars; costs are above 0.

    Attributes:
        gross: Before costs.
        commission: None where the file tells it and fees as one figure, which then is `fees`.
        slippage: Lost to the spread; None where no quote tells it.
        inside: Is the slippage inside the prices already, as in every real fill? Then net does not lose it once more.
        base: What percents are of, and `base_is` what that is; None where nothing can be.
        net_base: What the net percent is of; the same but for the app's.
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
        """After costs, and after slippage where the prices do not hold it already."""
        return self.gross - self.costs - (ZERO if self.inside or self.slippage is None else self.slippage)

    @property
    def gross_pct(self) -> Decimal | None:
        """Before costs, % of the base; None where there is none."""
        return None if not self.base else self.gross / self.base * 100

    @property
    def net_pct(self) -> Decimal | None:
        """After costs, % of the base; None where there is none."""
        return None if not self.net_base else self.net / self.net_base * 100


def priced(leg: Leg, model: CostModel) -> tuple[Decimal, Decimal, Decimal] | None:
    """A leg's entry and exit price and its multiplier, as the model sees them; None where a price is not known."""
    entry, exit_, multiplier = leg.mean(leg.entry_units), leg.mean(leg.exit_units), model.multiplier or leg.multiplier
    return None if entry is None or exit_ is None or multiplier is None else (entry, exit_, multiplier)


def quote(leg: Leg, end: str) -> tuple[Decimal | None, Decimal | None]:
    """The mean bid and ask at the ``entry`` or the ``exit`` of a leg."""
    bid, ask = leg.mean(getattr(leg, f"{end}_bid")), leg.mean(getattr(leg, f"{end}_ask"))
    return (bid, ask) if bid is not None and ask is not None else (None, None)


def ends(leg: Leg, model: CostModel) -> tuple[Decimal, Decimal]:
    """
    What one unit of a leg loses to the spread by the model, at its entry and at its exit; nothing where no order closed
    it.
    """
    found = priced(leg, model)
    if found is None:
        return ZERO, ZERO
    quotes = quote(leg, "entry"), quote(leg, "exit")
    # The usual spread is one of options: of shares only what is quoted is known.
    entry, exit_ = (
        model.half_spread(price, *told) if per_contract(leg) or (model.quotes and told[0] is not None) else ZERO
        for price, told in zip(found, quotes)
    )
    return entry, exit_ * leg.traded / leg.quantity if model.exits and leg.quantity else ZERO


def _slipped(leg: Leg) -> Decimal | None:
    """What a real leg lost against the middle of its quotes, dollars; None where one is not told."""
    found, (bid, ask), (exit_bid, exit_ask) = priced(leg, REAL), quote(leg, "entry"), quote(leg, "exit")
    if found is None or bid is None or ask is None or exit_bid is None or exit_ask is None:
        return None
    lost = leg.side * (found[0] - (bid + ask) / 2) * leg.quantity
    lost -= leg.side * (found[1] - (exit_bid + exit_ask) / 2) * leg.traded if leg.traded else ZERO
    return lost * found[2]


def per_contract(leg: Leg) -> bool:
    """Is a leg charged by the contract? Options and futures are; shares are not."""
    return leg.instrument not in ("stock", "other")


def charged(leg: Leg, model: CostModel, first: bool = False) -> Decimal:
    """The commission of a leg by a model; the `first` of a trade bears what a whole round trip is charged."""
    if not per_contract(leg):
        return ZERO
    return (
        model.commission(leg.quantity, True)
        + (model.commission(leg.traded, False) if leg.traded else ZERO)
        + (model.per_trade if first else ZERO)
    )


def paid(leg: Leg, model: CostModel) -> Decimal | None:
    """
    The commission of a leg as it was paid, and by the model where the file left it blank; None where its fees hold it
    too.
    """
    if leg.commission is None:
        return None
    return (model.commission(leg.uncharged, True) if per_contract(leg) else ZERO) - leg.commission


def assumed(found: Result, said: BacktestResult | None) -> Result:
    """The same trade with the costs that a backtest says it took into account, where it says so."""
    if said is None:
        return found
    found = found if said.commission is None else replace(found, commission=said.commission, fees=ZERO)
    return found if said.slippage is None else replace(found, slippage=said.slippage, inside=False)


def result(trade: Trade, model: CostModel = REAL) -> Result:
    """
    What came of a trade, by a reading of its costs?

    Percents are of the premium that was paid or received; of a spread for which cash came in, of the larger of that and
    what it can lose (its width), since a premium near zero makes any percent.
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
        told = [paid(leg, model) for leg in trade.legs]
        commission = None if None in told else sum((c for c in told if c is not None), ZERO)
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
