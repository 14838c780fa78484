"""
Read tastytrade's export of an account's history, in both its layouts.

The current layout has a row per fill with ``Value``, ``Commissions`` and ``Fees`` as signed cash. The columns ``Sub
Type``, ``Order #``, ``Total`` and ``Currency`` were added over time, so each may be missing. Its ``Average Price`` is
dollars per contract and never multiplied. The older layout, tastyworks', has ``Transaction Code`` and ``Amount``, with
commission and fees as one positive ``Fees``, no order, and times without an offset. Columns are found by name.
"""

import re
from collections.abc import Mapping
from datetime import date
from decimal import Decimal

from opslib.trading.pnl.columns import looks_like_cost, rounding, within_reason
from opslib.trading.pnl.fills import CENT, ZERO, CashMovement, Fill, FillsFile, Row
from opslib.trading.pnl.instruments import Contract, is_adjusted

LAYOUTS = TODAY, OLDER = "tastytrade", "tastyworks (older)"
_ACTIONS = {f"{side} to {effect}": (side, effect) for side in ("buy", "sell") for effect in ("open", "close")} | {
    "buy": ("buy", ""),
    "sell": ("sell", ""),
}
_ACTIONS |= {side[0] + "t" + effect[0]: (side, effect) for side, effect in list(_ACTIONS.values()) if effect}
_INSTRUMENTS = {
    "equity": "stock",
    "stock": "stock",
    "equity option": "option",
    "option": "option",
    "index option": "option",
    "future": "future",
    "future option": "future option",
    "cryptocurrency": "other",
    "fixed income": "other",
    "warrant": "other",
}
_ENDS = {
    "expiration": "expiration",
    "assignment": "assignment",
    "exercise": "exercise",
    "cash settled assignment": "cash settlement",
    "cash settled exercise": "cash settlement",
}
_DESCRIBED = (
    ("cash settle", "cash settlement"),
    ("due to expiration", "expiration"),
    ("due to assignment", "assignment"),
    ("due to exercise", "exercise"),
    ("special dividend", "special dividend"),
    ("forward split", "forward split"),
    ("reverse split", "reverse split"),
    ("symbol change", "symbol change"),
    ("stock merger", "stock merger"),
    ("transfer", "transfer"),
)
_PRICE = re.compile(r"@\s*\$?([\d,]*\.?\d+)\s*$")
_OCC = re.compile(r"^(\S+?)\s*(\d{6})([CP])(\d{8})$")
_TYPES = "Trade, Receive Deliver or Money Movement"


def layout(columns: list[str]) -> str | None:
    """Return the layout of these columns; None if it is neither."""
    known = {c.strip().lower() for c in columns}
    if {"date", "type", "symbol", "instrument type", "value", "quantity"} <= known:
        return TODAY
    return OLDER if {"date/time", "transaction code", "amount", "quantity"} <= known else None


def read(book: FillsFile, number: int, cells: Mapping[str, object]) -> None:
    """
    Read one row into a file of fills.

    Raises:
        BadFill: The row is rejected, with all reasons at once.
    """
    row = Row(number, cells, book.style)
    today = book.layout == TODAY
    if row.word("Type" if today else "Transaction Code").lower() == "money movement":
        found: Fill | CashMovement = _money(row, today)
    else:
        found = _today(row) if today else _older(row)
    if isinstance(found, Fill):
        within_reason(row, found.quantity, found.price, found.multiplier)
    for name in (name for name in cells if looks_like_cost(name)):
        if cost := row.number_of(name):
            row.refuse(
                f"{row.name(name)} is {cost}: it looks like a cost but does not belong to this layout, so the "
                f"costs of this row are unknown. Remove the column, or add it to Fees"
            )
    row.done()
    book.keep(found)


def _money(row: Row, today: bool) -> CashMovement:
    row.dollars_only()
    at, kind = row.time("Date", "Date/Time"), row.word("Sub Type", "Transaction Subcode", "Description")
    value = row.number_of("Value", "Amount", needed=True) or ZERO
    costs = (
        sum((row.number_of(name) or ZERO for name in ("Commissions", "Fees")), ZERO)
        if today
        else -(row.number_of("Fees") or ZERO)
    )
    stated = row.number_of("Total")
    return CashMovement(row.number, at, kind.lower(), row.word("Symbol"), value + costs if stated is None else stated)


def _side(row: Row, text: str, needed: bool) -> tuple[str, str]:
    found = _ACTIONS.get(text.replace("_", " ").lower().strip())
    if found is None and (text or needed):
        row.refuse(f"Action is {text!r}; one of {', '.join(a for a in _ACTIONS if ' ' in a)} was expected")
    return found or ("", "")


def _kind(row: Row, kind: str, text: str, action: str) -> str:
    """Return what happened, under our names, by the sub type or else by the description."""
    if kind == "trade":
        return "trade"
    if kind != "receive deliver":
        row.refuse(f"Type is {kind!r}; {_TYPES} was expected")
        return "trade"
    text = text.lower()
    if text in _ENDS:
        return _ENDS[text]
    if text in _ACTIONS:
        return "delivery"
    description = row.word("Description").lower()
    kind_text = text or next((ours for theirs, ours in _DESCRIBED if theirs in description), "")
    if not kind_text and not action:
        row.refuse("Sub Type and Action are empty; at least one of them was expected")
    return kind_text or "delivery"


def _instrument(row: Row, text: str, optional: bool) -> str:
    if not text:
        if optional:
            if row.word("Symbol").startswith((".", "/")):
                return "future option"
            return "option"
        if row.word("Symbol").startswith("/"):
            return "future"
        return "stock"
    found = _INSTRUMENTS.get(text.lower())
    if found is None:
        row.refuse(f"Instrument Type is {text!r}; one of {', '.join(k.title() for k in _INSTRUMENTS)} was expected")
    return found or "other"


def _today(row: Row) -> Fill:
    row.dollars_only()
    at, action, described = row.time("Date"), row.word("Action"), row.word("Description")
    kind = _kind(row, row.word("Type").lower(), row.word("Sub Type"), action)
    side, effect = _side(row, action, kind in ("trade", "delivery"))
    right = row.word("Call or Put").upper()[:1]
    symbol = row.word("Symbol")
    if not symbol:
        row.refuse("Symbol is empty; a symbol was expected")
    instrument = _instrument(row, row.word("Instrument Type"), bool(right))
    expiry, strike = row.day("Expiration Date"), row.number_of("Strike Price", above=ZERO)
    if known := _OCC.match(symbol):
        symbol = f"{known[1]} {known[2]}{known[3]}{known[4]}"
        _agreeing(row, known, expiry, strike, right)
        right, strike = right or known[3], strike if strike is not None else Decimal(known[4]) / 1000
    if right not in ("", "C", "P"):
        row.refuse(f"Call or Put is {right!r}; CALL or PUT was expected")
    if instrument == "option" and (strike is None or not right):
        row.refuse("Strike Price or Call or Put is empty; both were expected for an option")
    quantity = row.number_of("Quantity", needed=True, above=ZERO) or Decimal(1)
    value = row.number_of("Value", needed=True) or ZERO
    average = row.number_of("Average Price")
    commission, fees = (row.number_of(name) or ZERO for name in ("Commissions", "Fees"))
    stated, column = row.number_of("Total"), row.number_of("Multiplier", above=ZERO)
    # A future's difference is booked at the close, so it may have either sign.
    if kind == "trade" and instrument != "future":
        _signed(row, side, value)
    if stated is not None:
        if abs(stated - value - commission - fees) > CENT:
            row.refuse(
                f"Total is {stated}, but Value, Commissions and Fees add up to {value + commission + fees}; "
                f"agreement to the cent was expected"
            )
        fees = stated - value - commission
    text = _PRICE.search(described)
    quoted = Decimal(text[1].replace(",", "")) if text and any(c.isdigit() for c in text[1]) else None
    price, multiplier = _priced(instrument, quantity, value, quoted, column, average)
    if kind in ("trade", "delivery"):
        _agreed(row, instrument, symbol, quantity, value, quoted, column or multiplier, "Value")
    underlying = row.word("Underlying Symbol", "Root Symbol") or symbol.split()[0]
    return Fill(
        row.number,
        at,
        kind,
        instrument,
        symbol,
        underlying,
        side,
        effect,
        quantity,
        price,
        multiplier,
        value,
        commission,
        fees,
        row.word("Order #"),
        expiry=expiry,
        strike=strike,
        right=right,
    )


def _agreeing(row: Row, known: re.Match[str], expiry: date | None, strike: Decimal | None, right: str) -> None:
    """Check that the columns agree with the contract that the symbol names."""
    pairs = (
        ("Expiration Date", expiry and f"{expiry:%y%m%d}", known[2]),
        ("Strike Price", strike, Decimal(known[4]) / 1000),
        ("Call or Put", right, known[3]),
    )
    for column, text, named in pairs:
        if text and text != named:
            row.refuse(f"{column} is {text}, but Symbol names {named}; equal values were expected")


def _signed(row: Row, side: str, value: Decimal) -> None:
    if (side == "buy" and value > 0) or (side == "sell" and value < 0):
        row.refuse(
            f"Value is {value} for a {side}; a {'negative' if side == 'buy' else 'positive'} amount was expected"
        )


def _agreed(
    row: Row,
    instrument: str,
    symbol: str,
    quantity: Decimal,
    value: Decimal,
    quoted: Decimal | None,
    multiplier: Decimal | None,
    column: str,
) -> None:
    """Reject a row whose cash is not its price times its quantity, within the rounding of the price."""
    units = Decimal(1) if instrument == "stock" else multiplier
    if instrument not in ("stock", "option") or quoted is None or units is None:
        return
    computed = quoted * quantity * units
    if abs(abs(value) - computed) > max(CENT, rounding(quoted, quantity * units, instrument == "stock")):
        row.refuse(
            f"{column} is {value}, but {quantity:f} {symbol} at {quoted}"
            f"{f' × {units:f}' if units != 1 else ''} amount to {computed:f}; equal amounts were expected"
        )


def _priced(
    instrument: str,
    quantity: Decimal,
    value: Decimal,
    quoted: Decimal | None,
    column: Decimal | None,
    average: Decimal | None,
) -> tuple[Decimal | None, Decimal | None]:
    """
    Return the price of one unit, and the units per contract.

    Cash is price × quantity × multiplier. The multiplier column of futures options is always 1, whatever the contract.
    If the description states a price, the multiplier is therefore computed from the cash.
    """
    if instrument == "stock":
        return (abs(value) / quantity, Decimal(1)) if value else (quoted, Decimal(1))
    implied = abs(value) / (quoted * quantity) if quoted and value else None
    digits = -int(quoted.as_tuple().exponent) if quoted is not None else 0
    if instrument == "option" and column is not None:
        rounding = Decimal(5).scaleb(-digits - 1) * quantity * column + CENT
        if quoted is None or not value or abs(abs(value) - quoted * quantity * column) <= rounding:
            return abs(value) / (quantity * column), column
    if implied is not None and quoted is not None:
        whole = implied.quantize(Decimal(1)) if implied >= 1 else implied.quantize(CENT)
        close = (
            bool(whole)
            and abs(abs(value) - quoted * quantity * whole) <= Decimal(5).scaleb(-digits - 1) * quantity * whole + CENT
        )
        return quoted, whole if close else None
    if instrument == "option" and not value:
        return ZERO, column
    return quoted, None


def _older(row: Row) -> Fill:
    row.dollars_only()
    at, text = row.time("Date/Time"), row.word("Transaction Subcode")
    side, effect = (row.word(name).lower() for name in ("Buy/Sell", "Open/Close"))
    action = f"{side} to {effect}" if side and effect else side or (text if text.lower() in _ACTIONS else "")
    kind = _kind(row, row.word("Transaction Code").lower(), text, action)
    side, effect = _side(row, action, kind in ("trade", "delivery"))
    root, right, strike, expiry = (
        row.word("Symbol"),
        row.word("Call/Put").upper()[:1],
        row.number_of("Strike", above=ZERO),
        row.day("Expiration Date"),
    )
    if not root:
        row.refuse("Symbol is empty; a symbol was expected")
    if right not in ("", "C", "P"):
        row.refuse(f"Call/Put is {right!r}; C or P was expected")
    if right and (strike is None or expiry is None):
        row.refuse("Strike or Expiration Date is empty; both were expected for an option")
    future = root.startswith(("/", "."))
    if right:
        instrument = "future option" if future else "option"
    elif future:
        instrument = "future"
    else:
        instrument = "stock"
    quantity = row.number_of("Quantity", needed=True, above=ZERO) or Decimal(1)
    value, price = row.number_of("Amount", needed=True) or ZERO, row.number_of("Price", least=ZERO)
    fees = row.number_of("Fees") or ZERO
    # A future's difference is booked at the close, so it may have either sign.
    if kind == "trade" and instrument != "future":
        _signed(row, side, value)
    quoted = price
    price, multiplier = _priced(
        instrument, quantity, value, quoted, Decimal(100) if instrument == "option" else None, None
    )
    if kind in ("trade", "delivery"):
        _agreed(
            row, instrument, root, quantity, value, quoted, multiplier if is_adjusted(root) else Decimal(100), "Amount"
        )
    symbol = (
        Contract(root, expiry, right, strike).symbol if right and strike is not None and expiry is not None else root
    )
    return Fill(
        row.number,
        at,
        kind,
        instrument,
        symbol,
        root,
        side,
        effect,
        quantity,
        price,
        multiplier,
        value,
        None,
        -fees,
        expiry=expiry,
        strike=strike,
        right=right,
    )
