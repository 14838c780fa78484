"""
Recognise the columns of fills, and read the costs, the cash and the instrument of a row.

Names are compared without case, spaces and signs. A cost that is not recognised is rejected by its name, never counted
as 0.
"""

from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from functools import lru_cache
from typing import Any

from opslib.foundation import formatting
from opslib.trading.pnl import instruments
from opslib.trading.pnl.cells import LARGEST, NONE, number, plain, words
from opslib.trading.pnl.fills import CENT, ZERO, FillsFile, Row

AT = (
    "date/time",
    "datetime",
    "timestamp",
    "ts",
    "executed_at",
    "filled_at",
    "filled time",
    "exec time",
    "execution time",
    "trade date/time",
    "trade time",
    "transaction time",
    "execution date",
    "trade date",
    "transaction date",
    "activity date",
    "run date",
    "date",
    "time",
    "tradetime",
)
ENTRY_AT, EXIT_AT = (
    ("entry_ts", "entryTime", "entry_time", "entered_at", "entry_date", "opened_at"),
    ("exit_ts", "exitTime", "exit_time", "exited_at", "exit_date", "closed_at"),
)
SYMBOL = ("symbol", "ticker", "instrument", "symbol/cusip")
QUANTITY = ("filled_qty", "filled", "filled quantity", "quantity", "qty", "contracts", "shares", "size")
PRICE = (
    "fill_price",
    "avg_price",
    "average_price",
    "avg fill price",
    "execution price",
    "trade price",
    "price",
    "t. price",
    "share price",
    "unit price",
)
SIDE = (
    "side",
    "action",
    "buy/sell",
    "direction",
    "trans code",
    "transaction type",
    "order side",
    "transaction",
    "activity",
    "activity type",
    "b/s",
    "type",
)
EFFECT = ("effect", "open/close", "position_effect", "pos effect", "open/close indicator")
RIGHT = ("right", "option_type", "call_put", "call or put", "call/put", "put/call", "contract_type")
STRIKE, EXPIRY = (
    ("strike", "strike_price", "contract_strike"),
    (
        "expiry",
        "expiration",
        "expiration_date",
        "expiryDate",
        "contract_expiry",
        "contract_expiryDate",
        "exp",
        "exp date",
    ),
)
MULTIPLIER, USUAL = ("multiplier", "contractMultiplier", "contract_multiplier"), Decimal(100)
KINDS = (
    "instrument_type",
    "asset_class",
    "asset_type",
    "security_type",
    "asset category",
    "product type",
    "sec type",
    "asset",
    "kind",
    "type",
    "instrument",
)
STRICT_KINDS = KINDS[:7]
STATUS = ("status", "order status", "state")
ORDER = ("order_id", "order", "order #", "order number", "iborderid")
LOT = ("trade_id", "trade")
COMMISSION = (
    "commission",
    "commissions",
    "commission_usd",
    "comm",
    "ibcommission",
    "brokerage",
    "brokerage fee",
    "total commission",
    "commission amount",
)
COMBINED = (
    "fees & comm",
    "fees & commissions",
    "comm/fee",
    "comm/fees",
    "commission/fees",
    "commissions & fees",
    "commission & fees",
    "commission and fees",
    "commissions and fees",
    "fees and commissions",
    "fees and commission",
    "fees/commission",
    "fees/commissions",
    "total fees",
    "total costs",
)
FEES = (
    "fees",
    "fee",
    "fees_usd",
    "reg fee",
    "reg fees",
    "regulatory fee",
    "regulatory fees",
    "other fees",
    "misc fees",
    "exchange fee",
    "exchange fees",
    "clearing fee",
    "clearing fees",
    "orf",
    "orf fee",
    "sec fee",
    "sec fees",
    "taf",
    "taf fee",
    "finra fee",
    "transaction fee",
    "transaction fees",
    "contract fee",
    "contract fees",
    "platform fee",
    "tax",
    "taxes",
    "levy",
    "stamp duty",
)
NET = (
    "net amount",
    "net proceeds",
    "net cash",
    "amount",
    "total",
    "total amount",
    "net",
    "net total",
    "net value",
    "total value",
    "total cost",
    "cost",
    "debit/credit",
    "credit/debit",
    "cash",
    "cash amount",
    "cash flow",
    "transaction amount",
    "settlement amount",
    "amount_usd",
)
GROSS = (
    "value",
    "gross",
    "gross amount",
    "gross proceeds",
    "gross value",
    "proceeds",
    "trademoney",
    "principal",
    "principal amount",
    "notional",
    "trade value",
    "trade amount",
    "consideration",
)
CASH_SIGNED = {"ibcommission", "comm/fee"}  # Interactive Brokers books a cost below 0 and a rebate above it.
POSITION_SIGNED = {"trademoney"}  # Its figure is positive for a purchase.
_COST_WORDS = {
    "fee",
    "fees",
    "comm",
    "commission",
    "commissions",
    "charge",
    "charges",
    "surcharge",
    "tax",
    "taxes",
    "levy",
    "levies",
    "brokerage",
    "duty",
    "stamp",
    "gst",
    "vat",
    "stt",
    "costs",
}
_NO_COST_WORDS = {
    "currency",
    "ccy",
    "type",
    "lot",
    "lots",
    "id",
    "basis",
    "rate",
    "code",
    "description",
    "pct",
    "percent",
    "name",
    "backtest",
    "model",
}
_LOOSE_OTHERS = {"crypto", "cryptocurrency", "forex", "bond", "bonds", "mutual fund", "warrant", "cfd", "fixed income"}
_COSTS = frozenset(plain(name) for name in (*COMMISSION, *COMBINED, *FEES))
ALL = frozenset(
    plain(name)
    for names in (
        AT,
        SYMBOL,
        QUANTITY,
        PRICE,
        SIDE,
        EFFECT,
        RIGHT,
        STRIKE,
        EXPIRY,
        MULTIPLIER,
        KINDS,
        STATUS,
        ORDER,
        LOT,
        COMMISSION,
        COMBINED,
        FEES,
        NET,
        GROSS,
    )
    for name in names
)
EXACT = Decimal("0.009")
MOST, MOST_UNITS = Decimal(10**9), Decimal(10**6)  # Larger values would overflow exact sums of many rows.
NO_MULTIPLIER = "the file has no multiplier: 100 is assumed, as usual for options"
NO_CONTRACT = "some options are named only by their underlying: options with the same symbol count as one contract"


@lru_cache(maxsize=10_000)
def looks_like_cost(column: str) -> bool:
    """Return whether a column's name means a fee, a commission, a charge or a tax that is not recognised."""
    found = set(words(column))
    is_cost = bool(found & _COST_WORDS) or (
        "cost" in found and bool(found & {"transaction", "trading", "trade", "execution"})
    )
    return is_cost and not found & _NO_COST_WORDS and plain(column) not in ALL


def stated_costs(row: Row) -> dict[str, Any]:
    """
    Return the costs that a row states, as cash: commission, fees, and whether its commission is blank.

    Empty without such a column. Commission is None if one figure holds both. Every column of fees counts.
    """
    for key, column in row.names.items():
        cell = str(row.cells[key] or "").strip()
        if looks_like_cost(column) and any(digit.isdigit() for digit in cell) and _sure(cell) != 0:
            row.refuse(
                f"{row.name(key)} is {formatting.single_line(cell, 40)}: it looks like a cost but is not recognised, "
                f"so the costs of this row are unknown. Rename it Fees or Commission, or remove it"
            )
    if not any(row.has(*names) for names in (COMMISSION, COMBINED, FEES)):
        return {}
    commission, fees = _cash(row, COMMISSION), _cash(row, FEES)
    combined = _cash(row, COMBINED)
    if combined is not None and (commission or fees):
        if combined != (commission or ZERO) + (fees or ZERO):
            row.refuse(
                f"{row.name(*COMBINED)} is {-combined}, but its parts add up to "
                f"{-(commission or ZERO) - (fees or ZERO)}; equal amounts were expected"
            )
        combined = None
    if combined is not None or (row.has(*COMBINED) and commission is None and fees is None):
        return {"commission": None, "fees": combined, "blank": False}
    blank = commission is None and row.has(*COMMISSION)
    if commission is None and not blank:
        commission = -ZERO
    return {"commission": commission, "fees": fees, "blank": blank}


def _cash(row: Row, names: tuple[str, ...]) -> Decimal | None:
    """
    Return the sum of all columns with these names, as cash; None if all are blank.

    Files write a cost with either sign.
    """
    found = []
    for key in dict.fromkeys(plain(name) for name in names):
        if key in row.cells and (value := row.number_of(key)) is not None:
            found.append(value if key in CASH_SIGNED else -abs(value))
    return sum(found[1:], found[0]) if found else None


def stated_cash(row: Row) -> list[tuple[str, Decimal, bool]]:
    """Return every cash figure that a row states: the column, the cash, and whether the column may be after costs."""
    found = []
    for names, net in ((NET, True), (GROSS, False)):
        for key in dict.fromkeys(plain(name) for name in names):
            if key in row.cells and (value := row.number_of(key)) is not None:
                found.append((key, -value if key in POSITION_SIGNED else value, net))
    debit, credit = row.number_of("debit"), row.number_of("credit")
    if debit is not None or credit is not None:
        found.append(("credit" if row.has("credit") else "debit", abs(credit or ZERO) - abs(debit or ZERO), True))
    return found


def rounding(price: Decimal, units: Decimal, rounded: bool) -> Decimal:
    """
    Return the largest difference between cash and price times units: less than a cent if the price is exact.

    A price with more than two digits is a rounded mean. A price with two digits may be rounded too, if `rounded`.
    """
    digits = max(-int(price.as_tuple().exponent), 0)
    return EXACT + Decimal(5).scaleb(-max(digits, 2) - 1) * units if rounded or digits > 2 else EXACT


def settle_cash(
    row: Row, side: str, quantity: Decimal, price: Decimal, multiplier: Decimal, costs: dict[str, Any], option: bool
) -> tuple[Decimal, dict[str, Any]]:
    """
    Return the cash of a fill before costs, and its costs, checked against the cash that the row states.

    A row is rejected if its own figure contradicts quantity × price × multiplier, both before and after costs. If a
    price was rounded, the row's own cash counts. If no column states costs, the difference in a figure after costs is
    the cost, within what brokers charge.
    """
    computed = price * quantity * multiplier * (1 if side == "sell" else -1)
    value, paid = computed, (costs.get("commission") or ZERO) + (costs.get("fees") or ZERO)
    near, most = (
        rounding(price, quantity * multiplier, row.style.rounded and not option),
        max(abs(computed) / 100, Decimal("1.50") * quantity if option else Decimal(1)),
    )
    for key, stated, net in stated_cash(row):
        if key in row.style.unsigned:
            stated = abs(stated) if computed >= 0 else -abs(stated)
        off = min(abs(stated - computed), abs(stated - computed - paid))
        if off <= EXACT:
            costs = costs or ({"commission": ZERO, "fees": ZERO, "blank": False} if net else {})
        elif net and not costs and (option or not row.style.rounded) and 0 < computed - stated <= most:
            costs = {"commission": None, "fees": stated - computed, "blank": False}
            paid = stated - computed
        elif off <= near:
            is_after = key in row.style.after_costs or (
                key not in row.style.before_costs and net and key.startswith(("net", "total"))
            )
            if paid and net and not is_after and key not in row.style.before_costs:
                row.refuse(
                    f"{row.name(key)} is {_shown(stated)}; because the price is rounded, the file does not show "
                    f"whether that is before or after costs of {_shown(-paid)}"
                )
            value = stated - paid if is_after else stated
            costs = costs or ({"commission": ZERO, "fees": ZERO, "blank": False} if net else {})
        else:
            after = f", or {_shown(computed + paid)} after costs of {_shown(-paid)}" if paid else ""
            row.refuse(
                f"{row.name(key)} is {_shown(stated)}, but {_plainly(quantity)} at {_plainly(price)}"
                f"{f' × {_plainly(multiplier)}' if multiplier != 1 else ''} amount to {_shown(computed)}{after}; "
                f"agreement to the cent was expected"
            )
    return value, costs


def cash_conventions(
    columns: list[str], rows: Sequence[Mapping[str, object]]
) -> tuple[frozenset[str], frozenset[str], bool]:
    """
    Determine the conventions of a file's cash columns, from rows that agree with their price to the cent.

    Returns:
        The columns that are after costs; those that are before costs; whether prices are rounded to two digits, because
        in several rows the cash is within half a cent per share.
    """
    keys = {plain(column): column for column in columns}

    def one(row: Mapping[str, object], names: Iterable[str]) -> Decimal | None:
        return next((value for name in names if (value := _sure(row.get(keys.get(plain(name), "")))) is not None), None)

    after, before, rounded = set[str](), set[str](), 0
    for row in rows:
        quantity, price = one(row, QUANTITY), one(row, PRICE)
        if quantity is None or price is None:
            continue
        paid = sum((abs(_sure(row.get(column)) or ZERO) for key, column in keys.items() if key in _COSTS), ZERO)
        gross, near = abs(quantity * price), rounding(price, abs(quantity), True)
        for key in (plain(name) for name in (*NET, *GROSS) if plain(name) in keys):
            stated = abs(_sure(row.get(keys[key])) or ZERO)
            off = [(abs(stated - computed), abs(abs(stated - computed) - paid)) for computed in (gross, gross * USUAL)]
            exact = [found for found in off if min(found) <= EXACT]
            if exact and paid > 2 * CENT:
                (before if exact[0][0] <= EXACT else after).add(key)
            rounded += not exact and min(off[0]) <= near
    return frozenset(after - before), frozenset(before - after), rounded > 1


def _sure(cell: object) -> Decimal | None:
    try:
        return number(cell)
    except ValueError:
        return None


def _plainly(value: Decimal) -> str:
    return f"{value.normalize():f}"


def _shown(value: Decimal) -> str:
    return f"{value:.2f}" if value == value.quantize(CENT) else _plainly(value)


def traded(row: Row, book: FillsFile, app: bool = False) -> dict[str, Any]:
    """
    Return what is traded: its symbol, its underlying, its multiplier, and for an option its terms.

    Args:
        app: Whether the row is one of the app's trades. The app trades only options, so a trade without a symbol is
            one.
    """
    kinds = {name: row.word(name).lower() for name in KINDS if row.has(name)}
    stated_kinds, strict = set(kinds.values()) - {""}, {kinds[name] for name in STRICT_KINDS if kinds.get(name)}
    typed = kinds.get("instrument", "") in instruments.SHARE_WORDS | instruments.OPTION_WORDS | instruments.OTHER_WORDS
    symbol = row.word(*(SYMBOL[:2] if typed else SYMBOL), "underlying", "contract_symbol")
    described = row.word("description", "security description")
    right = row.word(*RIGHT).upper()[:1] or next(
        (w[0].upper() for w in stated_kinds if w in ("call", "put", "c", "p")), ""
    )
    strike = row.number_of(*STRIKE, least=ZERO) or None
    expiry, stated = row.day(*EXPIRY), row.number_of(*MULTIPLIER, above=ZERO)
    root = row.word("underlying", "underlying_symbol", "root symbol") or symbol
    if right not in ("", "C", "P"):
        row.refuse(f"{row.name(*RIGHT)} is {right!r}; C or P was expected")
    others = instruments.OTHER_WORDS & strict | _LOOSE_OTHERS & stated_kinds
    known = (
        instruments.SHARE_WORDS | instruments.OPTION_WORDS | instruments.FUTURE_WORDS | instruments.FUTURE_OPTION_WORDS
    )
    if others or strict - known:
        name = next(n for n, word in kinds.items() if word in others | (strict - known))
        row.refuse(f"{row.name(name)} is {kinds[name]!r}; stock or option was expected, other kinds are not read")
    future = symbol.startswith(("/", "./")) or bool(
        stated_kinds & (instruments.FUTURE_WORDS | instruments.FUTURE_OPTION_WORDS)
    )
    if future:
        if stated is None:
            row.refuse(
                f"{row.name(*MULTIPLIER)} is empty; a number was expected, because each future has its own multiplier"
            )
        option = bool(right or stated_kinds & instruments.FUTURE_OPTION_WORDS)
        return {
            "instrument": "future option" if option else "future",
            "symbol": symbol,
            "underlying": root,
            "multiplier": stated or USUAL,
            "expiry": expiry,
            "strike": strike,
            "right": right,
        }
    named = instruments.contract(symbol) or (instruments.contract(described) if described else None)
    if named and not instruments.contract(symbol) and symbol and not named.root.startswith(symbol.upper()):
        named = None
    if named:
        for column, have, stated_by_symbol in (
            (row.name(*EXPIRY), expiry, named.expiry),
            (row.name(*STRIKE), strike, named.strike),
            (row.name(*RIGHT), right, named.right),
        ):
            if have and have != stated_by_symbol:
                row.refuse(f"{column} is {have}, but the symbol names {stated_by_symbol}; equal values were expected")
        symbol, root, right, strike, expiry = named.symbol, named.root, named.right, named.strike, named.expiry
    shares = bool((strict if named else stated_kinds) & instruments.SHARE_WORDS)
    option = bool(
        named
        or stated_kinds & instruments.OPTION_WORDS
        or right
        or (strike and expiry)
        or (stated not in (None, Decimal(1)) and not shares)
        or (app and not symbol)
    )
    if shares and (named or (strict and right and strike)):
        row.refuse(
            f"{next(row.name(n) for n, w in kinds.items() if w in instruments.SHARE_WORDS)} says shares, but "
            f"the row names an option; one instrument was expected"
        )
    if shares or not option:
        _shares(row, symbol, described, shares, stated)
        symbol = symbol.upper() if instruments.is_share_symbol(symbol) else symbol
        return {
            "instrument": "stock",
            "symbol": symbol,
            "underlying": symbol if not row.word("underlying", "underlying_symbol") else root,
            "multiplier": Decimal(1),
            "expiry": None,
            "strike": None,
            "right": "",
        }
    if not named and right and strike and expiry:
        symbol = (
            instruments.Contract(root.upper().split()[0] if root else "", expiry, right, strike).symbol
            if root
            else symbol
        )
    elif not named and symbol and not app and NO_CONTRACT not in book.notes:
        book.notes.append(NO_CONTRACT)
    units = stated or (named.multiplier if named else None)
    if units is None and instruments.is_adjusted(root):
        row.refuse(
            f"{row.name(*MULTIPLIER)} is empty; a number was expected, because {root} is a mini or adjusted contract "
            f"with its own multiplier"
        )
    if units is None and NO_MULTIPLIER not in book.notes:
        book.notes.append(NO_MULTIPLIER)
    return {
        "instrument": "option",
        "symbol": symbol,
        "underlying": root,
        "multiplier": units or USUAL,
        "expiry": expiry,
        "strike": strike,
        "right": right,
    }


def _shares(row: Row, symbol: str, described: str, stated_so: bool, multiplier: Decimal | None) -> None:
    """Reject a row that is not clearly about shares."""
    name, upper = row.name(*SYMBOL), symbol.upper()
    if multiplier not in (None, Decimal(1)):
        row.refuse(f"{row.name(*MULTIPLIER)} is {multiplier} for shares; 1 was expected")
    if instruments.names_an_option(symbol) or (
        not stated_so and described and instruments.describes_an_option(described)
    ):
        row.refuse(
            f"{name} {symbol!r}{f' ({described})' if described else ''} seems to name an option, in an unknown "
            f"format; a symbol such as AAPL 251219C00150000, or columns for strike, expiry and right, was expected"
        )
    elif upper.lstrip("$") in instruments.INDICES:
        row.refuse(f"{name} is {symbol!r}, an index, which has no shares; the symbol of an option was expected")
    elif symbol and not stated_so and not instruments.is_share_symbol(symbol):
        row.refuse(
            f"{name} is {symbol!r}; a symbol of shares such as AAPL, or of an option such as AAPL "
            f"251219C00150000, was expected"
        )


def within_reason(row: Row, quantity: Decimal, price: Decimal | None, multiplier: Decimal | None) -> bool:
    """
    Reject a row with more than a billion units or dollars, or a contract of more than a million units.

    Returns:
        Whether the row is within these limits.
    """
    for names, value, most in ((QUANTITY, quantity, MOST), (PRICE, price, MOST), (MULTIPLIER, multiplier, MOST_UNITS)):
        if value is not None and value > most:
            row.refuse(f"{row.name(*names)} is {formatting.single_line(str(value), 40)}; at most {most:,} was expected")
            return False
    if abs(quantity * (price or ZERO) * (multiplier or ZERO)) >= LARGEST:
        row.refuse(f"{quantity:f} at {price} amount to a trillion dollars or more; less was expected")
        return False
    return True


def quote(row: Row, what: str = "") -> tuple[Decimal | None, Decimal | None]:
    """Return bid and ask at the time of the order; None for both if one of them is missing."""
    names = [(f"{what}_{end}", f"{what}{end.title()}") if what else (end,) for end in ("bid", "ask")]
    bid, ask = (row.number_of(*own, least=ZERO) for own in names)
    if bid is not None and ask is not None and ask < bid:
        row.refuse(
            f"{row.name(*names[0])} {bid} is above {row.name(*names[1])} {ask}; a bid at or below the ask was expected"
        )
    return (bid, ask) if bid is not None and ask is not None else (None, None)


def is_blank(cell: object) -> bool:
    """Return whether a cell is empty."""
    return cell is None or str(cell).strip().lower() in NONE


def negative(cell: object) -> bool | None:
    """Return whether a cell is a number below 0; None if it is not a number, or 0."""
    value = _sure(cell)
    return value < 0 if value else None
