"""
Read the app's own trades (JSON, or the same columns as CSV), a row for each round trip.

The app places no orders: its prices are quotes, so what a trade would have cost is a model's to say. Costs beside a
trade are what was paid, live and in a backtest; but where a slippage stands beside them, as the app writes it, they are
a calculator's: of a backtest what it took into account, of live trades nothing that anybody paid. What a backtest said
of a trade may stand beside it (``backtest_net_pct``, ``backtest_commission_usd``, ``backtest_slippage_usd``).
"""

import json
from collections.abc import Iterable, Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any

from opslib.foundation import formatting
from opslib.foundation.errors import BadFill
from opslib.trading.pnl import columns, executions
from opslib.trading.pnl.cells import moment, number, plain
from opslib.trading.pnl.columns import COMMISSION, ENTRY_AT, EXIT_AT, FEES, quote
from opslib.trading.pnl.fills import ZERO, BacktestResult, Fill, FillsFile, Row

APP, TRADES, FILLS, SAID = (
    "the app's trades",
    "trades, a row each",
    executions.LAYOUT,
    "a backtest's percents, a row each",
)
ENTRY_PRICE, EXIT_PRICE = ("entry_price", "entryPrice"), ("exit_price", "exitPrice")
QUANTITY, HELD = ("quantity", "qty", "contracts", "size", "filled_qty", "shares"), ("side", "direction", "position")
STATES, DONE = ("watching", "loaded", "entered", "exited", "closed", "open"), ("exited", "closed")
_IDS = ("trade_id", "id", "trade")
_NET_PCT, _OWN_PCT = ("backtest_net_pct", "backtestNetPct"), ("net_pct", "netPct", "net_pnl_pct", "return_pct")
_SLIPPAGE = ("slippage_usd", "slippage")


def layout(names: list[str]) -> str | None:
    """Are these columns of trades, or of fills? None where they are neither."""
    known = {plain(c) for c in names}

    def has(wanted: Iterable[str]) -> bool:
        return any(plain(n) in known for n in wanted)

    if has(ENTRY_PRICE) and has(EXIT_PRICE):
        return TRADES
    if has(_IDS) and has((*_NET_PCT, *_OWN_PCT)):
        return SAID
    return executions.layout(names)


def read(book: FillsFile, number: int, cells: Mapping[str, object]) -> None:
    """
    Put one row into a book.

    Raises:
        BadFill: It cannot be read, for every reason at once.
    """
    row = Row(number, _flat(cells), book.style)
    if book.backtest and not row.word(*ENTRY_PRICE) and row.word(*_NET_PCT, *_OWN_PCT) and row.word(*_IDS):
        _said(row, book)
        return
    found = _trade(row, book)
    row.done()
    book.fills += found


def _flat(cells: Mapping[str, object]) -> dict[str, object]:
    """A trade with its contract's columns beside its own, which come first."""
    contract = cells.get("contract")
    if isinstance(contract, str) and contract.lstrip().startswith("{"):  # As databases keep it.
        try:
            contract = json.loads(contract)
        except (ValueError, RecursionError):
            raise BadFill(
                [f"contract is {formatting.single_line(repr(contract), 40)}; a contract as JSON was wanted"]
            ) from None
    inner = contract if isinstance(contract, Mapping) else {}
    return {f"contract.{k}": v for k, v in inner.items()} | dict(cells)


def _calculated(row: Row) -> bool:
    """
    Do costs stand beside a slippage?

    Then somebody calculated them, as the app does: who was filled paid none apart.
    """
    return bool(row.word(*_SLIPPAGE))


def _trade(row: Row, book: FillsFile) -> list[Fill]:
    """
    The fills of one trade: its entry, each part that was sold on the way, its exit; none of one that was not entered.
    """
    state = row.word("state", "status").lower()
    if state in ("watching", "loaded"):
        if (note := "trades that were only watched or loaded, never entered, are passed over") not in book.notes:
            book.notes.append(note)
        return []
    if state and state not in STATES:
        row.refuse(f"{row.name('state', 'status')} is {state!r}; one of {', '.join(STATES)} was wanted")
    name, what = row.word(*_IDS) or f"row {row.number}", columns.traded(row, book, app=True)
    told = row.word(*HELD).lower()
    if told not in ("", "long", "short", "buy", "sell"):
        row.refuse(f"{row.name(*HELD)} is {told!r}; long or short was wanted")
    short = told in ("short", "sell")
    price, quantity = (
        row.number_of(*ENTRY_PRICE, needed=True, least=ZERO) or ZERO,
        row.number_of(*QUANTITY, above=ZERO) or Decimal(1),
    )
    begun, exit_price = executions.when(row, ENTRY_AT), row.number_of(*EXIT_PRICE, least=ZERO)
    row.dollars_only()
    costs = {} if _calculated(row) else columns.stated_costs(row)
    paid = any(costs.get(name) is not None for name in ("commission", "fees"))
    if (
        book.layout == TRADES
        and not book.backtest
        and _calculated(row)
        and (row.word(*COMMISSION) or row.word(*FEES))
        and (note := "costs beside a slippage are a calculation and not what was paid: the model stands for them")
        not in book.notes
    ):
        book.notes.append(note)
    fills = [_leg(row, begun, what, "sell" if short else "buy", "open", quantity, price, quote(row, "entry"), name)]
    left = quantity
    for at, part, at_price in _trims(row, quantity):
        fills.append(_leg(row, at, what, "buy" if short else "sell", "close", part, at_price, (None, None), name))
        left -= part
    if left < 0:
        row.refuse(f"updates: more was trimmed than the {quantity} that were bought; at most 100 % was wanted")
    if exit_price is not None and left > 0:
        ended = executions.when(row, EXIT_AT)
        if ended < begun:
            row.refuse(
                f"{row.name(*EXIT_AT)} is {formatting.iso(ended)}, before {row.name(*ENTRY_AT)} "
                f"{formatting.iso(begun)}; "
                f"an exit after its entry was wanted"
            )
        fills.append(
            _leg(row, ended, what, "buy" if short else "sell", "close", left, exit_price, quote(row, "exit"), name)
        )
    elif exit_price is None and left > 0 and (state in DONE or (not state and row.word(*EXIT_AT))):
        row.refuse(f"{row.name(*EXIT_PRICE)} is empty; a trade that was exited has one")
    if paid:  # Of the whole trade: its opening bears them, and whatever is closed its share.
        nothing = {"commission": None, "blank": True} if costs["blank"] else {"commission": ZERO}
        fills = [f._replace(paid=True, **(nothing if i else costs)) for i, f in enumerate(fills)]
    said, took = row.number_of(*_NET_PCT), _assumed(row, book)
    for f in fills:
        columns.within_reason(row, f.quantity, f.price, f.multiplier)
    if name in book.lots:
        row.refuse(
            f"{row.name(*_IDS)} is {name!r}, as in row {book.lots[name]}: a duplicate; each trade once was wanted"
        )
    row.done()
    book.lots[name] = row.number
    if said is not None or (book.backtest and took != (None, None)):
        book.promises[name] = BacktestResult(name, said, *took)
    return fills


def _assumed(row: Row, book: FillsFile) -> tuple[Decimal | None, Decimal | None]:
    """
    The commission and the slippage that a backtest took into account; of a live trade only what is called the
    backtest's.
    """
    own = book.backtest and (_calculated(row) or not row.word(*ENTRY_PRICE))
    commission, slippage = (
        row.number_of("backtest_commission_usd", *(COMMISSION if own else ()), least=ZERO),
        row.number_of("backtest_slippage_usd", *(_SLIPPAGE if own else ()), least=ZERO),
    )
    fees = row.number_of(*FEES, least=ZERO) if own and not row.has("backtest_commission_usd") else None
    return (commission if fees is None else (commission or ZERO) + fees), slippage


def _said(row: Row, book: FillsFile) -> None:
    """What a backtest said of a trade that it tells no prices of."""
    name, said, costs = row.word(*_IDS), row.number_of(*_NET_PCT, *_OWN_PCT, needed=True), _assumed(row, book)
    row.done()
    book.promises[name] = BacktestResult(name, said, *costs)


def _leg(
    row: Row,
    at: datetime,
    what: dict[str, Any],
    side: str,
    effect: str,
    quantity: Decimal,
    price: Decimal,
    quote: tuple[Decimal | None, Decimal | None],
    lot: str,
) -> Fill:
    value = price * quantity * what["multiplier"] * (1 if side == "sell" else -1)
    return Fill(
        row.number,
        at,
        "trade",
        side=side,
        effect=effect,
        quantity=quantity,
        price=price,
        value=value,
        bid=quote[0],
        ask=quote[1],
        paid=False,
        lot=lot,
        **what,
    )


def _trims(row: Row, quantity: Decimal) -> list[tuple[datetime, Decimal, Decimal]]:
    """What was sold on the way: when, how much of the original size, at which price."""
    updates, found = row.cells.get("updates"), []
    if isinstance(updates, str) and not updates.strip():
        updates = None
    if updates is not None and not (
        isinstance(updates, list) and all(isinstance(update, Mapping) for update in updates)
    ):
        row.refuse(f"updates is {formatting.single_line(repr(updates), 40)}; a list of objects was wanted")
        return []
    for update in updates or []:
        if update.get("type") != "trim":
            continue
        try:
            at, share, price = (
                moment(update.get("timestamp")),
                number(update.get("trimPercent")),
                number(update.get("price")),
            )
        except ValueError as problem:
            row.refuse(
                f"updates: a trim has {formatting.single_line(str(problem), 40)!r}; timestamp, trimPercent "
                f"and price were wanted"
            )
            continue
        if share is None or price is None or not 0 < share <= 100 or price < 0:
            row.refuse(f"updates: a trim of {share} % at {price}; more than 0 and at most 100 % at a price was wanted")
            continue
        found.append((at, quantity * share / 100, price))
    return found
