"""Define a leg and a trade; `round_trips` builds them from fills."""

from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal

from opslib.trading.pnl.fills import ZERO


@dataclass
class Leg:
    """
    One symbol of a trade, from its opening to its current state.

    Attributes:
        side: 1 bought first, -1 sold first.
        opened: Opened quantity; `quantity` of it was closed, `left` is still held.
        entry_value, exit_value: Cash before costs of the closed part; `open_value` of the part still held.
        commission, fees: Actual costs of the closed part, as cash; `commission` is None if fees hold both.
        entry_units, exit_units: Price × quantity of the closed part, for its mean price; None if a price is unknown.
        entry_bid … exit_ask: Quote × quantity likewise; None if a quote is unknown.
        uncharged: Closed contracts, counted on each side, whose commission the file left blank; `open_uncharged` for
            the part still held.
        traded: Quantity closed by trades, not by the clearing house.
        entry_orders, exit_orders: Number of orders.
        ends: How it ended, in order: trade, expiration, …
        names: Its earlier symbols.
        unknown: Whether it was opened before the file and continues under another symbol; it then has no result.
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
        """Return the mean price of a price × quantity; None if unknown."""
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
        legs: Its legs; more than one for a spread.
    """

    name: str
    legs: tuple[Leg, ...]

    @property
    def partial(self) -> bool:
        """Whether some of it is still held."""
        return any(leg.left for leg in self.legs)

    @property
    def entered(self) -> datetime:
        """When the first of its legs was opened."""
        return min(leg.entered for leg in self.legs)

    @property
    def exited(self) -> datetime:
        """When the last closed part was closed."""
        return max(leg.exited or leg.entered for leg in self.legs)

    @property
    def underlying(self) -> str:
        """The symbol whose price it follows."""
        return self.legs[0].underlying

    @property
    def label(self) -> str:
        """What was traded, for people: ``TSLL 251024C00015000``, ``SPY, 2 legs``."""
        return (
            self.legs[0].symbol or self.legs[0].underlying or "option"
            if len(self.legs) == 1
            else f"{self.underlying}, {len(self.legs)} legs"
        )

    @property
    def premium(self) -> Decimal:
        """Cash at its opening, before costs: negative if paid, positive if received."""
        return sum((leg.entry_value for leg in self.legs), ZERO)

    @property
    def width(self) -> Decimal | None:
        """
        The maximum loss of a spread before its credit, in dollars; None if what was sold is not covered.

        Puts and calls are treated separately: sold legs are matched with bought legs of the same right, by strike. An
        iron condor can lose only on one side.
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
            # A sold put loses down to the bought put below it, a sold call up to the bought call above it.
            apart = [
                ((b.strike or ZERO) - (s.strike or ZERO)) * (1 if right == "C" else -1) for s, b in zip(sold, bought)
            ]
            loss = max(*apart, ZERO) * (sold[0].multiplier or ZERO) * sum(leg.quantity for leg in sold)
            most = loss if most is None else max(most, loss)
        return most
