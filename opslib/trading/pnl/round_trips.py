"""
Match fills into round trips, first in first out.

A leg is what one order opened in one symbol, with everything that closed it: fills, expiry, assignment. A trade is the
option legs that were opened together: those of one order, or those that the file itself calls one trade. Stock is kept
separate. A close without an opening in the file never becomes an opening; it is kept as `before`. A corporate action
(special dividend, split, symbol change) closes at a value and opens again at the opposite value: the position continues
under another symbol, with its costs. Every cent of every fill is counted exactly once.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import timedelta
from decimal import Decimal

from opslib.trading.pnl.fills import OPTIONS, ZERO, Fill
from opslib.trading.pnl.positions import Leg, Trade

DONE_TO = ("expiration", "assignment", "exercise", "cash settlement")
ORDINARY = ("trade", "delivery", *DONE_TO)
ONE_EVENT = timedelta(minutes=10)  # The two halves of a corporate action are at most this far apart.
_GRAIN = Decimal("0.000001")


@dataclass
class RoundTrips:
    """
    The round trips of fills.

    Attributes:
        trades: Round trips of options, by when they ended: complete ones, and the closed part of a single leg.
        partial: Spreads of which only some legs are closed.
        stock: Round trips in stock, futures and other instruments that are not options.
        open: Legs of which some is still held.
        before: Fills that close a position opened before the file.
        renamed: Number of positions that continued under another symbol.
    """

    trades: list[Trade] = field(default_factory=list)
    partial: list[Trade] = field(default_factory=list)
    stock: list[Trade] = field(default_factory=list)
    open: list[Leg] = field(default_factory=list)
    before: list[Fill] = field(default_factory=list)
    renamed: int = 0


class _Event:
    """One event of a symbol: fills of one order without a fill of another order between them."""

    def __init__(self, fill: Fill, opens: Fill | None = None):
        self.fills, self.opens = [fill], opens

    def __getattr__(self, name: str) -> object:
        return getattr(self.fills[0], name)


def _part(whole: Decimal, quantity: Decimal, of: Decimal) -> Decimal:
    """Return the share of a sum for a part of a quantity; the last part gets the remainder, so that nothing is lost."""
    return whole if quantity >= of else (whole * quantity / of).quantize(_GRAIN)


def _shared(whole: Decimal | None, quantity: Decimal, of: Decimal) -> tuple[Decimal | None, Decimal | None]:
    if whole is None:
        return None, None
    part = _part(whole, quantity, of)
    return part, whole - part


def _add(a: Decimal | None, b: Decimal | None) -> Decimal | None:
    return None if a is None or b is None else a + b


def _commission_of(fill: Fill) -> Decimal | None:
    """Return the commission of a fill; None if its fees include it, 0 if no cost is stated."""
    return None if fill.commission is None and fill.fees and not fill.blank else fill.commission or ZERO


def _units(fill: Fill, price: Decimal | None) -> Decimal | None:
    return None if price is None else price * fill.quantity


def _key(fill: Fill) -> tuple[str, str, str]:
    return fill.lot, fill.instrument, fill.symbol


def _events(fills: Iterable[Fill]) -> list[_Event]:
    """
    Return the events in order; the two halves of a corporate action are one event, and so are neighbours of one order.
    """
    fills = list(fills)
    halves = [f for f in fills if f.kind not in ORDINARY]
    partner: dict[int, Fill] = {}
    for closing in (f for f in halves if f.effect == "close"):
        for opening in halves:
            if (
                opening.effect == "open"
                and id(opening) not in partner
                and opening.kind == closing.kind
                and opening.side != closing.side
                and opening.value == -closing.value
                and opening.instrument == closing.instrument
                and opening.right == closing.right
                and abs(opening.at - closing.at) <= ONE_EVENT
            ):
                partner[id(closing)], partner[id(opening)] = opening, closing
                break

    def rank(f: Fill) -> int:
        if f.kind not in ORDINARY:
            return 0 if f.effect == "close" else 1
        return {"open": 2, "": 3, "close": 4}[f.effect] + (3 if f.kind in DONE_TO else 0)

    found, last = list[_Event](), dict[tuple[str, str, str], _Event]()
    for fill in sorted(fills, key=lambda f: (f.at, rank(f))):
        if id(fill) in partner:
            if fill.effect == "close":
                found.append(_Event(fill, partner[id(fill)]))
                last.pop(_key(fill), None)
                last.pop(_key(partner[id(fill)]), None)
            continue
        before = last.get(_key(fill))
        same = (
            before is not None
            and fill.order
            and (before.order, before.side, before.effect, before.kind)
            == (fill.order, fill.side, fill.effect, fill.kind)
        )
        if same and before is not None:
            before.fills.append(fill)
        else:
            found.append(_Event(fill))
            last[_key(fill)] = found[-1]
    return found


def _merged(event: _Event) -> Fill:
    """Merge the fills of an event into one, at their mean price."""
    fills = event.fills
    if len(fills) == 1:
        return fills[0]
    quantity = sum((f.quantity for f in fills), ZERO)

    def mean(name: str) -> Decimal | None:
        return (
            None
            if any(getattr(f, name) is None for f in fills)
            else sum((getattr(f, name) * f.quantity for f in fills), ZERO) / quantity
        )

    def total(name: str) -> Decimal | None:
        return None if any(getattr(f, name) is None for f in fills) else sum((getattr(f, name) for f in fills), ZERO)

    return fills[0]._replace(
        at=min(f.at for f in fills),
        quantity=quantity,
        price=mean("price"),
        bid=mean("bid"),
        ask=mean("ask"),
        value=sum((f.value for f in fills), ZERO),
        commission=total("commission"),
        fees=total("fees"),
    )


class _Positions:
    """The held positions, as legs in the order in which they were opened."""

    def __init__(self) -> None:
        self.held: dict[tuple[str, str, str], list[Leg]] = defaultdict(list)
        self.legs: list[Leg] = []
        self.found = RoundTrips()

    def apply(self, event: _Event) -> None:
        fill = _merged(event)
        if event.opens is not None:
            self._rename(fill, event.opens)
        elif fill.effect == "open":
            self._open(fill)
        else:
            rest = self._close(fill)
            if rest is None:
                return
            if fill.effect == "" and fill.side and fill.kind in ("trade", "delivery"):
                self._open(rest)
            else:
                self.found.before.append(rest)

    def _open(self, fill: Fill) -> None:
        leg = Leg(
            fill.symbol,
            fill.underlying,
            fill.instrument,
            1 if fill.side == "buy" else -1,
            fill.order,
            fill.lot,
            fill.paid,
            fill.multiplier,
            fill.strike,
            fill.right,
            fill.expiry,
            fill.at,
        )
        leg.opened = leg.left = fill.quantity
        leg.open_value, leg.open_commission, leg.open_fees = fill.value, _commission_of(fill), fill.fees or ZERO
        leg.open_uncharged = fill.quantity if fill.blank else ZERO
        leg.open_units, leg.open_bid, leg.open_ask = (_units(fill, p) for p in (fill.price, fill.bid, fill.ask))
        self.held[_key(fill)].append(leg)
        self.legs.append(leg)

    def _close(self, fill: Fill) -> Fill | None:
        """Close held legs, the oldest first; return the part of the fill that had nothing to close."""
        legs = self.held[_key(fill)]
        if not fill.side and legs:
            side = legs[0].side
        elif fill.side == "buy":
            side = -1
        else:
            side = 1
        for leg in [leg for leg in legs if leg.side == side and leg.left]:
            take = min(leg.left, fill.quantity)
            part, rest = _split(fill, take)
            if leg.unknown:
                leg.left -= take
                self.found.before.append(part)
            else:
                _closed(leg, part)
            if not leg.left:
                legs.remove(leg)
            if rest is None:
                return None
            fill = rest
        return fill

    def _rename(self, closing: Fill, opening: Fill) -> None:
        """Continue a position under another symbol, with its costs and without cash."""
        side, left = -1 if closing.side == "buy" else 1, closing.quantity
        scale = opening.quantity / closing.quantity
        legs = self.held[_key(closing)]
        for leg in [leg for leg in legs if leg.side == side]:
            if left <= 0 or leg.left > left:
                break
            left -= leg.left
            legs.remove(leg)
            leg.names.append(leg.symbol)
            # The part closed under the old symbol is converted to the new units, so that one mean price is valid.
            leg.opened, leg.left, leg.quantity, leg.traded = (
                q * scale for q in (leg.opened, leg.left, leg.quantity, leg.traded)
            )
            leg.symbol, leg.underlying, leg.strike, leg.expiry, leg.multiplier = (
                opening.symbol,
                opening.underlying,
                opening.strike,
                opening.expiry,
                opening.multiplier,
            )
            costs = closing.total + opening.total
            leg.open_fees += costs
            closing, opening = (
                closing._replace(value=ZERO, commission=ZERO, fees=ZERO),
                opening._replace(value=ZERO, commission=ZERO, fees=ZERO),
            )
            self.held[_key(opening)].append(leg)
        self.found.renamed += left < closing.quantity
        if left > 0:  # The rest was opened before the file, or cannot be distinguished from such a position.
            rest = closing._replace(quantity=left)
            if (over := self._close(rest)) is not None:
                self.found.before.append(over)
            rest = opening._replace(quantity=left * scale)
            self.found.before.append(rest)
            self._open(rest._replace(value=ZERO, commission=ZERO, fees=ZERO))
            self.legs[-1].unknown = True


def _split(fill: Fill, take: Decimal) -> tuple[Fill, Fill | None]:
    """Split a fill in two: a part of its quantity, and the rest."""
    if take >= fill.quantity:
        return fill, None
    value = _part(fill.value, take, fill.quantity)
    commission, fees = (_shared(whole, take, fill.quantity) for whole in (fill.commission, fill.fees))
    return (
        fill._replace(quantity=take, value=value, commission=commission[0], fees=fees[0]),
        fill._replace(quantity=fill.quantity - take, value=fill.value - value, commission=commission[1], fees=fees[1]),
    )


def _closed(leg: Leg, part: Fill) -> None:
    """Close a part of a leg by a fill: its share of the opening's cost moves to the realised part."""
    take = part.quantity
    for there, held in (
        ("entry_value", "open_value"),
        ("commission", "open_commission"),
        ("fees", "open_fees"),
        ("uncharged", "open_uncharged"),
        ("entry_units", "open_units"),
        ("entry_bid", "open_bid"),
        ("entry_ask", "open_ask"),
    ):
        gone, rest = _shared(getattr(leg, held), take, leg.left)
        setattr(leg, there, _add(getattr(leg, there), gone))
        setattr(leg, held, rest)
    done_to = part.kind in DONE_TO
    leg.exit_value += part.value
    leg.commission = _add(leg.commission, _commission_of(part))
    leg.fees += part.fees or ZERO
    leg.uncharged += take if part.blank else ZERO
    leg.exit_units = _add(
        leg.exit_units, abs(part.value) / (leg.multiplier or 1) if done_to else _units(part, part.price)
    )
    leg.exit_bid, leg.exit_ask = (
        have if done_to else _add(have, _units(part, p))
        for have, p in ((leg.exit_bid, part.bid), (leg.exit_ask, part.ask))
    )
    leg.quantity += take
    leg.left -= take
    leg.traded += ZERO if done_to else take
    leg.exited = part.at if leg.exited is None else max(leg.exited, part.at)
    leg.ends.append(part.kind)
    leg.exit_orders.append(part.order or f"row {part.row}")


def _grouped(legs: list[Leg]) -> list[Trade]:
    """Group the legs that were opened together into trades."""
    groups: dict[tuple[str, ...], list[Leg]] = {}
    for i, leg in enumerate(legs):
        apart = leg.instrument not in OPTIONS
        key: tuple[str, ...]
        if leg.lot:
            key = (leg.lot,)
        elif leg.order:
            key = (leg.order, leg.underlying if apart else "", leg.symbol if apart else "")
        else:
            key = ("", str(i))
        groups.setdefault((*key, "apart" if apart else "option"), []).append(leg)
    return [
        Trade(g[0].lot or g[0].order or f"{g[0].symbol} {g[0].entered.isoformat()}", tuple(g)) for g in groups.values()
    ]


def round_trips(fills: Iterable[Fill]) -> RoundTrips:
    """
    Match fills into round trips.

    Fills of one order in one symbol count as one, so their order does not matter. Without fills there are no trades.
    """
    positions = _Positions()
    for event in _events(fills):
        positions.apply(event)
    found = positions.found
    found.open = [leg for leg in positions.legs if leg.left]
    for trade in _grouped(positions.legs):
        if not any(leg.quantity for leg in trade.legs):
            continue
        if trade.legs[0].instrument not in OPTIONS:
            found.stock.append(trade)
        elif len(trade.legs) > 1 and trade.partial:
            found.partial.append(trade)
        else:
            found.trades.append(trade)
    found.trades.sort(key=lambda t: (t.exited, t.entered, t.name))
    return found
