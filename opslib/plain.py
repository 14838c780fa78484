"""
This module knows the app's own trades (JSON, or the same columns as CSV) and plain CSV of fills, and nothing else.

The app places no orders: its prices are quotes, so what a trade would have cost is a model's to say. Costs beside a trade
are what was paid, live and in a backtest; but where a slippage stands beside them, as the app writes it, they are a
calculator's: of a backtest what it took into account, of live trades nothing that anybody paid. What a backtest said of a trade may
stand beside it (``backtest_net_pct``, ``backtest_commission_usd``, ``backtest_slippage_usd``).
"""

import json
import re
from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any

from opslib import text
from opslib.broker import occ
from opslib.errors import BadFill
from opslib.fills import ZERO, Book, Fill, Promise, Row, moment, number

APP, TRADES, FILLS, SAID = "the app's trades", "trades, a row each", "fills, a row each", "a backtest's percents, a row each"
ENTRY_PRICE, EXIT_PRICE = ("entry_price", "entryPrice"), ("exit_price", "exitPrice")
ENTRY_AT, EXIT_AT = ("entry_ts", "entryTime", "entry_time", "entered_at", "entry_date", "opened_at"), ("exit_ts", "exitTime", "exit_time", "exited_at", "exit_date", "closed_at")
AT = ("time", "ts", "timestamp", "date", "datetime", "date/time", "executed_at", "filled_at")
SYMBOL, QUANTITY = ("symbol", "ticker", "instrument"), ("quantity", "qty", "contracts", "size", "filled_qty")
PRICE, SIDE = ("price", "fill_price", "avg_price", "average_price"), ("side", "action", "buy/sell", "direction")
COMMISSION, FEES = ("commission", "commissions", "commission_usd"), ("fees", "fee", "fees_usd")
EFFECT, HELD = ("effect", "open/close", "position_effect"), ("side", "direction", "position")
RIGHT = ("right", "option_type", "call_put", "call or put", "call/put", "contract_type")
STATES, DONE = ("watching", "loaded", "entered", "exited", "closed", "open"), ("exited", "closed")
SHARES = {"stock", "stocks", "equity", "equities", "etf", "share", "shares"}
MULTIPLIER, USUAL = ("multiplier", "contractMultiplier", "contract_multiplier"), Decimal(100)
_SIDES = {"buy": ("buy", ""), "b": ("buy", ""), "bought": ("buy", ""), "sell": ("sell", ""), "s": ("sell", ""), "sold": ("sell", ""), "bto": ("buy", "open"), "stc": ("sell", "close"), "sto": ("sell", "open"), "btc": ("buy", "close")}
_SIDES |= {f"{side} to {effect}": (side, effect) for side in ("buy", "sell") for effect in ("open", "close")}
_OCC = re.compile(r"^(?:O:)?([A-Z][A-Z0-9.]*?)\s*(\d{6})([CP])(\d{8})$")
_IDS = ("trade_id", "id", "trade")
_NET_PCT, _OWN_PCT = ("backtest_net_pct", "backtestNetPct"), ("net_pct", "netPct", "net_pnl_pct", "return_pct")
_SLIPPAGE = ("slippage_usd", "slippage")


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9/]", "", name.lower())


def layout(columns: list[str]) -> str | None:
    """Are these columns of trades, or of fills? None where they are neither."""
    known = {_plain(c) for c in columns}
    has = lambda names: any(_plain(n) in known for n in names)  # noqa: E731
    if has(ENTRY_PRICE) and has(EXIT_PRICE):
        return TRADES
    if has(_IDS) and has((*_NET_PCT, *_OWN_PCT)):
        return SAID
    return FILLS if has(AT) and has(SYMBOL) and has(SIDE) and has(QUANTITY) and has(PRICE) else None


def read(book: Book, number: int, cells: Mapping[str, object]) -> None:
    """
    Put one row into a book.

    Raises:
        BadFill: It cannot be read, for every reason at once.
    """
    row = Row(number, _flat(cells))
    if book.backtest and not row.word(*ENTRY_PRICE) and row.word(*_NET_PCT, *_OWN_PCT) and row.word(*_IDS):
        _said(row, book)
        return
    found = [_fill(row, book)] if book.layout == FILLS else _trade(row, book)
    row.done()
    book.fills += [f for f in found if f]


def _flat(cells: Mapping[str, object]) -> dict[str, object]:
    """A trade with its contract's columns beside its own, which come first."""
    contract = cells.get("contract")
    if isinstance(contract, str) and contract.lstrip().startswith("{"):  # As databases keep it.
        try:
            contract = json.loads(contract)
        except (ValueError, RecursionError):
            raise BadFill([f"contract is {text.one_line(repr(contract), 40)}; a contract as JSON was wanted"]) from None
    inner = contract if isinstance(contract, Mapping) else {}
    return {f"contract.{k}": v for k, v in inner.items()} | dict(cells)


def _contract(row: Row, book: Book) -> dict[str, Any]:
    """What is traded: its name, whose price it follows, how many units it is of, and of an option its terms."""
    symbol = row.word(*(SYMBOL if row.word("instrument").lower() not in SHARES else SYMBOL[:2]), "underlying", "contract_symbol")
    right = row.word(*RIGHT).upper()[:1]
    strike = row.number_of("strike", "strike_price", "contract_strike", above=ZERO)
    expiry = row.day("expiry", "expiration", "expiration_date", "expiryDate", "contract_expiry", "contract_expiryDate")
    root = row.word("underlying", "underlying_symbol") or symbol
    if right not in ("", "C", "P"):
        row.refuse(f"{row.name(*RIGHT)} is {right!r}; C or P was wanted")
    told = {row.word(name).lower() for name in ("instrument_type", "asset", "asset_class", "asset_type", "security_type", "kind", "type", "instrument")}
    future = symbol.startswith(("/", "./"))
    multiplier = row.number_of(*MULTIPLIER, above=ZERO)
    if found := _OCC.match(symbol):
        root, right, strike = found[1], found[3], strike if strike is not None else Decimal(found[4]) / 1000
        symbol = f"{found[1]} {found[2]}{found[3]}{found[4]}"
    elif right and strike is not None and expiry is not None and not future:
        symbol = occ(root, expiry, right, strike)
    stock = bool(told & SHARES)
    if multiplier is None and future:
        row.refuse(f"{row.name(*MULTIPLIER)} is empty; a future's contract has its own, and none is taken for granted")
    if multiplier is None and not future and not stock and (note := "no multiplier is told: 100 is taken, as options usually have") not in book.notes:
        book.notes.append(note)
    instrument = "stock" if stock else ("future option" if right else "future") if future else "option"
    return {"instrument": instrument, "symbol": symbol, "underlying": root, "multiplier": multiplier or (Decimal(1) if stock else USUAL), "expiry": expiry, "strike": strike, "right": right}


def _quote(row: Row, what: str = "") -> tuple[Decimal | None, Decimal | None]:
    """The bid and the ask when it was asked for; None where one of them is missing."""
    names = [(f"{what}_{end}", f"{what}{end.title()}") if what else (end,) for end in ("bid", "ask")]
    bid, ask = (row.number_of(*own, least=ZERO) for own in names)
    if bid is not None and ask is not None and ask < bid:
        row.refuse(f"{row.name(*names[0])} {bid} is above {row.name(*names[1])} {ask}; a bid at or below its ask was wanted")
    return (bid, ask) if bid is not None and ask is not None else (None, None)


def _fill(row: Row, book: Book) -> Fill:
    told = row.word(*SIDE)
    side, effect = _SIDES.get(told.replace("_", " ").lower(), ("", ""))
    if not side:
        row.refuse(f"{row.name(*SIDE)} is {told!r}; buy, sell or one of {', '.join(k for k in _SIDES if ' ' in k)} was wanted")
    if opened := row.word(*EFFECT).lower():
        effect = {"open": "open", "opening": "open", "close": "close", "closing": "close"}.get(opened, "")
        if not effect:
            row.refuse(f"{row.name(*EFFECT)} is {opened!r}; open or close was wanted")
    what, at = _contract(row, book), row.time(*AT)
    if not what["symbol"]:
        row.refuse(f"{row.name(*SYMBOL)} is empty; what was traded was wanted")
    quantity, price = row.number_of(*QUANTITY, needed=True, above=ZERO) or Decimal(1), row.number_of(*PRICE, needed=True, least=ZERO) or ZERO
    commission, fees = (row.number_of(*names) for names in (COMMISSION, FEES))
    bid, ask = _quote(row)
    paid = row.has(*COMMISSION) or row.has(*FEES)
    costs = _paid(row, commission, fees) if paid else {}
    value = price * quantity * what["multiplier"] * (1 if side == "sell" else -1)
    return Fill(row.number, at, "trade", side=side, effect=effect, quantity=quantity, price=price, value=value, order=row.word("order_id", "order", "order #"), bid=bid, ask=ask, paid=paid, lot=row.word("trade_id", "trade"), **costs, **what)


def _paid(row: Row, commission: Decimal | None, fees: Decimal | None) -> dict[str, Any]:
    """Costs of a plain file stand there as people write them: what was paid, whatever its sign. A column of commission that is blank is a commission not told."""
    blank = commission is None and row.has(*COMMISSION)
    return {"commission": None if blank else -abs(commission or ZERO), "fees": None if fees is None else -abs(fees), "blank": blank}


def _calculated(row: Row) -> bool:
    """Do costs stand beside a slippage? Then somebody calculated them, as the app does: who was filled paid none apart."""
    return bool(row.word(*_SLIPPAGE))


def _trade(row: Row, book: Book) -> list[Fill]:
    """The fills of one trade: its entry, each part that was sold on the way, its exit; none of one that was not entered."""
    state = row.word("state", "status").lower()
    if state in ("watching", "loaded"):
        if (note := "trades that were only watched or loaded, never entered, are passed over") not in book.notes:
            book.notes.append(note)
        return []
    if state and state not in STATES:
        row.refuse(f"{row.name('state', 'status')} is {state!r}; one of {', '.join(STATES)} was wanted")
    name, what = row.word(*_IDS) or f"row {row.number}", _contract(row, book)
    told = row.word(*HELD).lower()
    if told not in ("", "long", "short", "buy", "sell"):
        row.refuse(f"{row.name(*HELD)} is {told!r}; long or short was wanted")
    short = told in ("short", "sell")
    price, quantity = row.number_of(*ENTRY_PRICE, needed=True, least=ZERO) or ZERO, row.number_of(*QUANTITY, above=ZERO) or Decimal(1)
    begun, exit_price = row.time(*ENTRY_AT), row.number_of(*EXIT_PRICE, least=ZERO)
    costs = (row.number_of(*COMMISSION), row.number_of(*FEES)) if not _calculated(row) else (None, None)
    paid = costs != (None, None)
    if book.layout == TRADES and not book.backtest and _calculated(row) and (row.word(*COMMISSION) or row.word(*FEES)) and (note := "costs beside a slippage are a calculation and not what was paid: the model stands for them") not in book.notes:
        book.notes.append(note)
    fills = [_leg(row, begun, what, "sell" if short else "buy", "open", quantity, price, _quote(row, "entry"), name)]
    left = quantity
    for at, part, at_price in _trims(row, quantity):
        fills.append(_leg(row, at, what, "buy" if short else "sell", "close", part, at_price, (None, None), name))
        left -= part
    if left < 0:
        row.refuse(f"updates: more was trimmed than the {quantity} that were bought; at most 100 % was wanted")
    if exit_price is not None and left > 0:
        ended = row.time(*EXIT_AT)
        if ended < begun:
            row.refuse(f"{row.name(*EXIT_AT)} is {text.iso(ended)}, before {row.name(*ENTRY_AT)} {text.iso(begun)}; an exit after its entry was wanted")
        fills.append(_leg(row, ended, what, "buy" if short else "sell", "close", left, exit_price, _quote(row, "exit"), name))
    elif exit_price is None and left > 0 and (state in DONE or (not state and row.word(*EXIT_AT))):
        row.refuse(f"{row.name(*EXIT_PRICE)} is empty; a trade that was exited has one")
    if paid:  # Of the whole trade: its opening bears them, and whatever is closed its share.
        nothing = {"commission": None, "blank": True} if costs[0] is None and row.has(*COMMISSION) else {"commission": ZERO}
        fills = [f._replace(paid=True, **(nothing if i else _paid(row, *costs))) for i, f in enumerate(fills)]
    said, took = row.number_of(*_NET_PCT), _assumed(row, book)
    if name in book.lots:
        row.refuse(f"{row.name(*_IDS)} is {name!r}, as in row {book.lots[name]}: a duplicate; each trade once was wanted")
    row.done()
    book.lots[name] = row.number
    if said is not None or (book.backtest and took != (None, None)):
        book.promises[name] = Promise(name, said, *took)
    return fills


def _assumed(row: Row, book: Book) -> tuple[Decimal | None, Decimal | None]:
    """The commission and the slippage that a backtest took into account; of a live trade only what is called the backtest's."""
    own = book.backtest and (_calculated(row) or not row.word(*ENTRY_PRICE))
    commission, slippage = row.number_of("backtest_commission_usd", *(COMMISSION if own else ()), least=ZERO), row.number_of("backtest_slippage_usd", *(_SLIPPAGE if own else ()), least=ZERO)
    fees = row.number_of(*FEES, least=ZERO) if own and not row.has("backtest_commission_usd") else None
    return (commission if fees is None else (commission or ZERO) + fees), slippage


def _said(row: Row, book: Book) -> None:
    """What a backtest said of a trade that it tells no prices of."""
    name, said, costs = row.word(*_IDS), row.number_of(*_NET_PCT, *_OWN_PCT, needed=True), _assumed(row, book)
    row.done()
    book.promises[name] = Promise(name, said, *costs)


def _leg(row: Row, at: datetime, what: dict[str, Any], side: str, effect: str, quantity: Decimal, price: Decimal, quote: tuple[Decimal | None, Decimal | None], lot: str) -> Fill:
    value = price * quantity * what["multiplier"] * (1 if side == "sell" else -1)
    return Fill(row.number, at, "trade", side=side, effect=effect, quantity=quantity, price=price, value=value, bid=quote[0], ask=quote[1], paid=False, lot=lot, **what)


def _trims(row: Row, quantity: Decimal) -> list[tuple[datetime, Decimal, Decimal]]:
    """What was sold on the way: when, how much of the original size, at which price."""
    updates, found = row.cells.get("updates"), []
    if isinstance(updates, str) and not updates.strip():
        updates = None
    if updates is not None and not (isinstance(updates, list) and all(isinstance(update, Mapping) for update in updates)):
        row.refuse(f"updates is {text.one_line(repr(updates), 40)}; a list of objects was wanted")
        return []
    for update in updates or []:
        if update.get("type") != "trim":
            continue
        try:
            at, share, price = moment(update.get("timestamp")), number(update.get("trimPercent")), number(update.get("price"))
        except ValueError as problem:
            row.refuse(f"updates: a trim has {text.one_line(str(problem), 40)!r}; timestamp, trimPercent and price were wanted")
            continue
        if share is None or price is None or not 0 < share <= 100 or price < 0:
            row.refuse(f"updates: a trim of {share} % at {price}; more than 0 and at most 100 % at a price was wanted")
            continue
        found.append((at, quantity * share / 100, price))
    return found
