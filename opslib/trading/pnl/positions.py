"""Define a leg and a trade; `trades` makes them of fills."""

from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal

from opslib.trading.pnl.fills import ZERO


@dataclass
class Leg:
    """
    One symbol of a trade, from its opening to wherever it has come.

    Attributes:
        side: 1 bought first, -1 sold first.
        opened: How much was opened; `quantity` of it was closed, `left` is still held.
        entry_value, exit_value: Cash before costs of what was closed; `open_value` of what is still held.
        commission, fees: As paid for what was closed, as cash; `commission` is None where fees hold both.
        entry_units, exit_units: Price × quantity of what was closed, for its mean price; None where a price is not
            told.
        entry_bid … exit_ask: Quote × quantity likewise; None where a quote is not told.
        uncharged: Contracts of what was closed, counted on each side, whose commission the file left blank;
            `open_uncharged` of what is held.
        traded: How much was closed by fills that cost something, not by the clearing house.
        entry_orders, exit_orders: How many orders it took.
        ends: How it ended, in order: trade, expiration, …
        names: Under which names it stood before.
        unknown: Was it opened before the file, and only goes on in it under another name? Then no result is told of it.
    """

    symbol: str
    underlying: str
    instrument: str
    side: int
    order: str
    lot: str
    paid: bool
    multiplier: Decimal | None
    strike: Decimal | None
    right: str
    expiry: object
    entered: datetime
    exited: datetime | None = None
    opened: Decimal = ZERO
    left: Decimal = ZERO
    quantity: Decimal = ZERO
    traded: Decimal = ZERO
    entry_value: Decimal = ZERO
    exit_value: Decimal = ZERO
    open_value: Decimal = ZERO
    commission: Decimal | None = ZERO
    fees: Decimal = ZERO
    open_commission: Decimal | None = ZERO
    open_fees: Decimal = ZERO
    uncharged: Decimal = ZERO
    open_uncharged: Decimal = ZERO
    entry_units: Decimal | None = ZERO
    open_units: Decimal | None = ZERO
    exit_units: Decimal | None = ZERO
    entry_bid: Decimal | None = ZERO
    entry_ask: Decimal | None = ZERO
    open_bid: Decimal | None = ZERO
    open_ask: Decimal | None = ZERO
    exit_bid: Decimal | None = ZERO
    exit_ask: Decimal | None = ZERO
    exit_orders: list[str] = field(default_factory=list)
    ends: list[str] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    unknown: bool = False

    def mean(self, units: Decimal | None) -> Decimal | None:
        """Price × quantity as the mean price; None where it cannot be known."""
        return None if units is None or not self.quantity else units / self.quantity

    @property
    def gross(self) -> Decimal:
        """Realised cash before costs."""
        return self.entry_value + self.exit_value


@dataclass(frozen=True)
class Trade:
    """
    One round trip: the legs that were opened together.

    Attributes:
        name: The file's own name of it, else its order, else symbol and time.
        legs: Its legs; of a spread more than one.
    """

    name: str
    legs: tuple[Leg, ...]

    @property
    def partial(self) -> bool:
        """Is some of it still held?"""
        return any(leg.left for leg in self.legs)

    @property
    def entered(self) -> datetime:
        """When the first of its legs was opened."""
        return min(leg.entered for leg in self.legs)

    @property
    def exited(self) -> datetime:
        """When the last of what was closed was closed."""
        return max(leg.exited or leg.entered for leg in self.legs)

    @property
    def underlying(self) -> str:
        """Whose price it follows."""
        return self.legs[0].underlying

    @property
    def told(self) -> str:
        """What was traded, for people: ``TSLL 251024C00015000``, ``SPY, 2 legs``."""
        return (
            self.legs[0].symbol or self.legs[0].underlying or "option"
            if len(self.legs) == 1
            else f"{self.underlying}, {len(self.legs)} legs"
        )

    @property
    def premium(self) -> Decimal:
        """Cash at its opening, before costs: below 0 paid, above 0 received."""
        return sum((leg.entry_value for leg in self.legs), ZERO)

    @property
    def width(self) -> Decimal | None:
        """
        What a spread can lose at most before its credit, in dollars; None where nothing covers what was sold.

        Of puts and calls apart, what was sold is set against what was bought of the same right, by strike; an iron
        condor can lose only on one side.
        """
        most = None
        for right in ("C", "P"):
            sold = sorted(
                (leg for leg in self.legs if leg.right == right and leg.side < 0), key=lambda leg: leg.strike or ZERO
            )
            bought = sorted(
                (leg for leg in self.legs if leg.right == right and leg.side > 0), key=lambda leg: leg.strike or ZERO
            )
            if not sold:
                continue
            if sum(leg.quantity for leg in bought) < sum(leg.quantity for leg in sold) or any(
                leg.multiplier is None or leg.strike is None for leg in (*sold, *bought)
            ):
                return None
            # A put that was sold loses as far as to the one bought below it, a call as far as to the one above.
            apart = [
                ((b.strike or ZERO) - (s.strike or ZERO)) * (1 if right == "C" else -1) for s, b in zip(sold, bought)
            ]
            loss = max(*apart, ZERO) * (sold[0].multiplier or ZERO) * sum(leg.quantity for leg in sold)
            most = loss if most is None else max(most, loss)
        return most
