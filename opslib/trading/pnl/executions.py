"""
Read a broker's list of executions, one row each, in any of the usual layouts.

Among them are the histories of Schwab, Fidelity, E*TRADE, Interactive Brokers (Flex), Robinhood and Webull, and plain
CSV or JSON with the usual names. Other account activity is read as a cash movement, or rejected by name.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache
from typing import Any

from opslib.foundation import formatting
from opslib.trading.pnl import cells as cells_module
from opslib.trading.pnl import columns as c
from opslib.trading.pnl.cells import plain
from opslib.trading.pnl.fills import ZERO, CashMovement, Fill, FillsFile, Row, Style

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
LAYOUT = "fills, a row each"
DAYS_SHOWN = "dates such as {} are read as month/day/year, because the file does not show their order"
DAY_FIRST = "dates are read as day/month/year, as {} shows"
_SIDES = {
    "buy": ("buy", ""),
    "b": ("buy", ""),
    "bot": ("buy", ""),
    "bought": ("buy", ""),
    "purchase": ("buy", ""),
    "purchased": ("buy", ""),
    "reinvest shares": ("buy", ""),
    "sell": ("sell", ""),
    "s": ("sell", ""),
    "sld": ("sell", ""),
    "sold": ("sell", ""),
    "sale": ("sell", ""),
    "sell short": ("sell", "open"),
    "sold short": ("sell", "open"),
    "short sell": ("sell", "open"),
    "short sale": ("sell", "open"),
    "sellshort": ("sell", "open"),
    "ss": ("sell", "open"),
    "buy to cover": ("buy", "close"),
    "bought to cover": ("buy", "close"),
    "cover": ("buy", "close"),
    "buy cover": ("buy", "close"),
    "cover short": ("buy", "close"),
    "buytocover": ("buy", "close"),
    "bto": ("buy", "open"),
    "stc": ("sell", "close"),
    "sto": ("sell", "open"),
    "btc": ("buy", "close"),
}
_SIDES |= {
    f"{verb}{gap}to{gap}{effect}": (side, effect)
    for side, verbs in (("buy", ("buy", "bought")), ("sell", ("sell", "sold")))
    for verb in verbs
    for effect in ("open", "close")
    for gap in (" ", "")
}
_SIDES |= {
    f"{verb} {effect}": (side, effect)
    for side, verbs in (("buy", ("buy", "bought")), ("sell", ("sell", "sold")))
    for verb in verbs
    for effect in ("open", "close")
}
_ENDS = (
    (re.compile(r"(option )?expir(ed|ation|y|e)\b.*|oexp"), "expiration"),
    (re.compile(r"(option )?assign(ed|ment)?\b.*|oasgn"), "assignment"),
    (re.compile(r"(option )?exercis(ed|e)?\b.*|exchange or exercise|oexcs|oexc"), "exercise"),
)
_SENTENCE = re.compile(r"you (bought|sold)( short)?( (opening|closing) transaction)?\b.*|(reinvestment)\b.*")
_CASH = re.compile(
    r"\b(dividends?|div|interest|int|journal(ed)?|wire|moneylink|ach|transfer(red)?|deposit|withdraw(al|n)?"
    r"|contribution|distribution|fees?|tax|credit|debit|cash|adjustment|adj|rebate|refund|bonus|funds?|cdiv"
    r"|dtax|dfee|afee|gold|margin|eft|adr|check|subscription|sweep|reinvest dividend|lieu|gains?|core account"
    r"|redemption)\b"
)
_FILLED = {
    "filled",
    "fill",
    "executed",
    "complete",
    "completed",
    "partially filled",
    "partial",
    "partial fill",
    "settled",
    "done",
    "ok",
    "success",
    "closed",
    "posted",
}
_NOT_FILLED = {
    "cancelled",
    "canceled",
    "rejected",
    "expired",
    "working",
    "pending",
    "queued",
    "open",
    "new",
    "failed",
    "replaced",
    "voided",
}
_WORDS = "buy, sell, one of buy to open, buy to close, sell to open, sell to close, or expired, assigned, exercised"


def layout(columns: Iterable[str]) -> str | None:
    """
    Return the layout of columns of fills: a time, a symbol, a side, a quantity and a price; None if one is missing.
    """
    return None if missing(columns) else LAYOUT


def missing(columns: Iterable[str]) -> list[str]:
    """Return the columns of fills that are missing."""
    known = {plain(column) for column in columns}
    known -= (
        {"type"} if known & {"bid", "ask"} else set()
    )  # With quotes it means call or put, and the table is a chain.
    return [
        what
        for what, names in (
            ("time", c.AT),
            ("symbol", c.SYMBOL),
            ("side", c.SIDE),
            ("quantity", c.QUANTITY),
            ("price", c.PRICE),
        )
        if not any(plain(name) in known for name in names)
    ]


def style(
    columns: list[str], rows: Sequence[Mapping[str, object]], semicolons: bool = False
) -> tuple[Style, list[str]]:
    """
    Determine how the cells of a file must be read, from all of its rows; and notes about that for the user.

    Args:
        semicolons: Whether the cells are separated by semicolons, as with decimal commas.
    """
    keys = {plain(column): column for column in columns}

    def of(names: Iterable[str]) -> list[str]:
        return [keys[plain(name)] for name in names if plain(name) in keys]

    dates = [
        (row.get(column), cells_module.day_and_month(row.get(column)))
        for column in of((*c.AT, *c.ENTRY_AT, *c.EXIT_AT, *c.EXPIRY))
        for row in rows
    ]
    pairs = [(cell, pair) for cell, pair in dates if pair]
    day_first = [cell for cell, pair in pairs if pair[0] > 12]
    month_first = [cell for cell, pair in pairs if pair[1] > 12]
    notes = []
    if day_first and not month_first:
        notes.append(DAY_FIRST.format(formatting.single_line(repr(day_first[0]), 40)))
    elif (
        ambiguous := [cell for cell, pair in pairs if pair[0] != pair[1]]
        if not month_first and not any("fees & comm" in column.lower() for column in columns)
        else []
    ):
        notes.append(DAYS_SHOWN.format(formatting.single_line(repr(ambiguous[0]), 40)))
    figures = of((*c.PRICE, *c.QUANTITY, *c.NET, *c.GROSS, *c.COMMISSION, *c.COMBINED, *c.FEES, *c.STRIKE))
    texts = [str(row.get(column)) for column in figures for row in rows if isinstance(row.get(column), str)]
    # With semicolons as separators, 1,234 is a thousand only if some number has a decimal point.
    comma = any(map(cells_module.has_decimal_comma, texts)) or (
        semicolons and any("," in cell for cell in texts) and not any("." in cell for cell in texts)
    )
    bought = [row for row in rows if any(_side(str(row.get(column) or "")) == "buy" for column in of(c.SIDE))]
    unsigned = {
        plain(column)
        for column in of((*c.NET, *c.GROSS))
        if any(c.negative(row.get(column)) is False for row in bought)
        and not any(c.negative(row.get(column)) for row in rows)
    }
    lots = [str(row.get(column)) for column in of(c.LOT)[:1] for row in rows if not c.is_blank(row.get(column))]
    return Style(
        bool(day_first) and not month_first,
        comma,
        frozenset(unsigned),
        *c.cash_conventions(columns, rows),
        len(lots) > 1 and len(set(lots)) == len(lots),
    ), notes


def _side(text: str) -> str:
    found = _action(text)
    return found[1] if found else ""


@lru_cache(maxsize=10_000)
def _action(text: str) -> tuple[str, str, str] | None:
    """
    Return kind, side and effect of a broker's action name; None if it is neither a trade nor the end of an option.
    """
    cell = " ".join(re.sub(r"[_\-]", " ", text.lower()).split())
    if cell in _SIDES:
        return "trade", *_SIDES[cell]
    if sentence := _SENTENCE.fullmatch(cell):
        verb, short, _, transaction, _ = sentence.groups()
        effect = {"opening": "open", "closing": "close"}.get(transaction or "", "open" if short else "")
        return "trade", "sell" if verb == "sold" else "buy", effect
    return next(((kind, "", "close") for pattern, kind in _ENDS if pattern.fullmatch(cell)), None)


def is_action(cell: str) -> bool:
    """Return whether a cell is a broker's name for a trade, or for the end of an option."""
    return len(cell) > 1 and _action(cell) is not None


def read(book: FillsFile, number: int, cells: Mapping[str, object]) -> None:
    """
    Read one row into a file of fills.

    Raises:
        BadFill: The row is rejected, with all reasons at once.
    """
    row = Row(number, cells, book.style)
    status = row.word(*c.STATUS).lower()
    if status in _NOT_FILLED:
        book.unfilled.append(number)
        return
    if status and status not in _FILLED:
        row.refuse(f"{row.name(*c.STATUS)} is {status!r}; filled was expected")
    if (level := row.word("LevelOfDetail").lower()) not in ("", "execution", "trade", "detail"):
        row.refuse(
            f"{row.name('LevelOfDetail')} is {level!r}, which sums up or repeats executions; EXECUTION was expected"
        )
    row.dollars_only()
    action_text = row.word(*c.SIDE)
    action = _action(action_text)
    at = when(row)
    if action is None and _CASH.search(re.sub(r"[_\-]|\((cash|margin|shares?)\)", " ", action_text.lower())):
        found: Fill | CashMovement = _money(row, at, action_text, book)
    elif action is None:
        row.refuse(f"{row.name(*c.SIDE)} is {action_text!r}; {_WORDS} was expected")
        c.traded(row, book)
        c.stated_costs(row)
        found = CashMovement(number, at, "", "", ZERO)
    else:
        found = _end(row, at, action[0], book) if action[0] != "trade" else _trade(row, at, action[1], action[2], book)
    row.done()
    book.keep(found)


def is_day(cell: object) -> bool:
    """Return whether a cell looks like a date or a time, even if its numbers are invalid."""
    if cells_module.is_time_of_day(cell) or cells_module.day_and_month(cell):
        return True
    try:
        cells_module.moment(cell)
    except cells_module.SerialDate:
        return True
    except ValueError:
        return False
    return True


def when(row: Row, names: tuple[str, ...] = c.AT) -> datetime:
    """Return when a row happened, by its columns of these names; a day and a time in two columns are joined."""
    stated = [
        (row.name(name), row.cells[plain(name)])
        for name in names
        if row.has(name) and not c.is_blank(row.cells[plain(name)])
    ]
    if not stated:
        row.refuse(f"{row.name(*names)} is empty; a time was expected")
        return EPOCH
    clocks = [cell for _, cell in stated if cells_module.is_time_of_day(cell)]
    days = [(name, cell) for name, cell in stated if not cells_module.is_time_of_day(cell)]
    if not days:
        row.refuse(
            f"{stated[0][0]} is {formatting.single_line(repr(stated[0][1]), 40)}, a time without a day, and no other "
            f"column has the day; a date was expected"
        )
        return EPOCH
    whole = [
        (name, cell)
        for name, cell in days
        if re.search(r"\d[:;T]\d", str(cell)) and not re.search(r"[T ]00:00(:00(\.0+)?)?$", str(cell))
    ]
    name, cell = (whole or days)[0]
    if not whole and clocks:
        day = re.sub(r"[T ]00:00(:00(\.0+)?)?$", "", re.split(r"(?i)\s+as\s+of\s+", str(cell))[-1].strip())
        return row.instant(name, f"{day} {str(clocks[0]).strip()}")
    return row.instant(name, cell)


def _money(row: Row, at: datetime, action_text: str, book: FillsFile) -> CashMovement:
    """Read a cash movement; its own figure states the amount."""
    stated = c.stated_cash(row)
    quantity = row.number_of(*c.QUANTITY)
    if not stated or (quantity and (not stated[0][1] or re.search(r"transfer|journal|\bacat", action_text.lower()))):
        row.refuse(
            f"{row.name(*c.SIDE)} is {action_text!r} without a cash amount; an amount was expected, because transfers "
            f"of shares are not read"
        )
    elif stated[0][0] in book.style.unsigned:
        row.refuse(
            f"{row.name(stated[0][0])} of {action_text!r} has no sign in this file, so it may be paid or received; a "
            f"negative amount for paid cash was expected"
        )
    return CashMovement(
        row.number,
        at,
        formatting.single_line(action_text.lower(), 60),
        row.word(*c.SYMBOL),
        stated[0][1] if stated else ZERO,
    )


def _quantity(row: Row, side: str) -> Decimal:
    """Read the quantity; its sign must agree with the side."""
    quantity = row.number_of(*c.QUANTITY, needed=True)
    if quantity == 0 or (quantity is not None and quantity < 0 and side == "buy"):
        row.refuse(
            f"{row.name(*c.QUANTITY)} is {formatting.single_line(repr(str(quantity)), 40)}"
            f"{' for a buy' if quantity else ''}; a number above 0 was expected"
        )
    return abs(quantity) if quantity else Decimal(1)


def _named(row: Row, what: Mapping[str, Any]) -> None:
    if not what["symbol"]:
        row.refuse(f"{row.name(*c.SYMBOL)} is empty; a symbol was expected")


def _end(row: Row, at: datetime, kind: str, book: FillsFile) -> Fill:
    """Read the end of an option by the clearing house: no price, no cash."""
    what = c.traded(row, book)
    _named(row, what)
    key = plain(next((name for name in c.QUANTITY if row.has(name)), "quantity"))
    if isinstance(quantity_text := row.cells.get(key), str):
        row.cells[key] = re.sub(
            r"(?<=\d)\s*[SL]$", "", quantity_text.strip()
        )  # Robinhood writes 2S for two short contracts.
    quantity = _quantity(row, "")
    costs = c.stated_costs(row)
    fees = (costs.get("commission") or ZERO) + (costs.get("fees") or ZERO)
    if what["instrument"] not in ("option", "future option"):
        row.refuse(
            f"{row.name(*c.SIDE)} is {row.word(*c.SIDE)!r}, but {row.name(*c.SYMBOL)} {what['symbol']!r} "
            f"names no option; the symbol of an option was expected"
        )
    for name, stated, _ in c.stated_cash(row):
        if stated not in (ZERO, fees):
            row.refuse(
                f"{row.name(name)} is {stated} for an option that ended by {kind}; 0 was expected, because the "
                f"delivery has a row of its own"
            )
    return Fill(
        row.number,
        at,
        kind,
        side="",
        effect="close",
        quantity=quantity,
        price=ZERO,
        value=ZERO,
        order="",
        paid=True,
        commission=None if fees else ZERO,
        fees=fees or None,
        **what,
    )


def _trade(row: Row, at: datetime, side: str, effect: str, book: FillsFile) -> Fill:
    if opened := row.word(*c.EFFECT).lower():
        effect = {
            "open": "open",
            "opening": "open",
            "to open": "open",
            "o": "open",
            "close": "close",
            "closing": "close",
            "to close": "close",
            "c": "close",
        }.get(opened, "")
        if not effect:
            row.refuse(f"{row.name(*c.EFFECT)} is {opened!r}; open or close was expected")
    what = c.traded(row, book)
    _named(row, what)
    quantity, price = _quantity(row, side), row.number_of(*c.PRICE, needed=True, least=ZERO) or ZERO
    bid, ask = c.quote(row)
    costs = c.stated_costs(row)
    value = price * quantity * what["multiplier"] * (1 if side == "sell" else -1)
    if c.within_reason(row, quantity, price, what["multiplier"]) and not row.wrong:
        value, costs = c.settle_cash(
            row, side, quantity, price, what["multiplier"], costs, what["instrument"] == "option"
        )
    lot = "" if book.style.ids_of_executions else row.word(*c.LOT)
    return Fill(
        row.number,
        at,
        "trade",
        side=side,
        effect=effect,
        quantity=quantity,
        price=price,
        value=value,
        order=row.word(*c.ORDER),
        bid=bid,
        ask=ask,
        paid=bool(costs),
        lot=lot,
        **costs,
        **what,
    )
