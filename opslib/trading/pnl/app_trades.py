"""
Read the app's own trades (JSON, or CSV with the same columns), one row per round trip.

The app places no orders: its prices are quotes, and a cost model computes what a trade would have cost. Costs in a row
are actual costs, live and in a backtest. But if a slippage is stated with them, as the app does, a calculator computed
them: in a backtest they are the costs that it assumed, and for live trades nobody paid them. A row may also hold the
backtest's result of its trade (``backtest_net_pct``, ``backtest_commission_usd``, ``backtest_slippage_usd``).
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
    """Return the layout of these columns: trades, backtest percents or fills; None if it is none of them."""
    known = {plain(c) for c in names}

    def has(names: Iterable[str]) -> bool:
        return any(plain(n) in known for n in names)

    if has(ENTRY_PRICE) and has(EXIT_PRICE):
        return TRADES
    if has(_IDS) and has((*_NET_PCT, *_OWN_PCT)):
        return SAID
    return executions.layout(names)


def read(book: FillsFile, number: int, cells: Mapping[str, object]) -> None:
    """
    Read one row into a file of fills.

    Raises:
        BadFill: The row is rejected, with all reasons at once.
    """
    row = Row(number, _flat(cells), book.style)
    if book.backtest and not row.word(*ENTRY_PRICE) and row.word(*_NET_PCT, *_OWN_PCT) and row.word(*_IDS):
        _read_result(row, book)
        return
    found = _trade(row, book)
    row.done()
    book.fills += found


def _flat(cells: Mapping[str, object]) -> dict[str, object]:
    """Merge a trade's contract columns with its own columns, which take precedence."""
    contract = cells.get("contract")
    if isinstance(contract, str) and contract.lstrip().startswith("{"):  # Databases store it as JSON.
        try:
            contract = json.loads(contract)
        except (ValueError, RecursionError):
            raise BadFill(
                [f"contract is {formatting.single_line(repr(contract), 40)}; a contract as JSON was expected"]
            ) from None
    inner = contract if isinstance(contract, Mapping) else {}
    return {f"contract.{k}": v for k, v in inner.items()} | dict(cells)


def _calculated(row: Row) -> bool:
    """
    Return whether costs are stated with a slippage.

    Then a calculator computed them, as the app does: an actual fill has no separate slippage.
    """
    return bool(row.word(*_SLIPPAGE))


def _trade(row: Row, book: FillsFile) -> list[Fill]:
    """Return the fills of one trade: its entry, each partial exit, its exit; none if it was not entered."""
    state = row.word("state", "status").lower()
    if state in ("watching", "loaded"):
        if (note := "trades that were only watched or loaded, and never entered, are skipped") not in book.notes:
            book.notes.append(note)
        return []
    if state and state not in STATES:
        near = formatting.nearest(state, STATES)
        row.refuse(f"{row.name('state', 'status')} is {state!r}; one of {', '.join(STATES)} was expected.{near}")
    name, what = row.word(*_IDS) or f"row {row.number}", columns.traded(row, book, app=True)
    held = row.word(*HELD).lower()
    if held not in ("", "long", "short", "buy", "sell"):
        row.refuse(f"{row.name(*HELD)} is {held!r}; long or short was expected")
    short = held in ("short", "sell")
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
        and (note := "costs stated with a slippage are calculated, not actual: the cost model is used instead")
        not in book.notes
    ):
        book.notes.append(note)
    fills = [_leg(row, begun, what, "sell" if short else "buy", "open", quantity, price, quote(row, "entry"), name)]
    left = quantity
    for at, part, at_price in _trims(row, quantity):
        fills.append(_leg(row, at, what, "buy" if short else "sell", "close", part, at_price, (None, None), name))
        left -= part
    if left < 0:
        row.refuse(f"updates: the trims exceed the quantity {quantity}; at most 100 % in total was expected")
    if exit_price is not None and left > 0:
        ended = executions.when(row, EXIT_AT)
        if ended < begun:
            row.refuse(
                f"{row.name(*EXIT_AT)} is {formatting.iso(ended)}, before {row.name(*ENTRY_AT)} "
                f"{formatting.iso(begun)}; "
                f"an exit after its entry was expected"
            )
        fills.append(
            _leg(row, ended, what, "buy" if short else "sell", "close", left, exit_price, quote(row, "exit"), name)
        )
    elif exit_price is None and left > 0 and (state in DONE or (not state and row.word(*EXIT_AT))):
        row.refuse(f"{row.name(*EXIT_PRICE)} is empty; a price was expected, because the trade was exited")
    if paid:  # The costs of the whole trade belong to its opening; what is closed gets its share.
        nothing = {"commission": None, "blank": True} if costs["blank"] else {"commission": ZERO}
        fills = [f._replace(paid=True, **(nothing if i else costs)) for i, f in enumerate(fills)]
    net_pct, took = row.number_of(*_NET_PCT), _assumed(row, book)
    for f in fills:
        columns.within_reason(row, f.quantity, f.price, f.multiplier)
    if name in book.lots:
        row.refuse(
            f"{row.name(*_IDS)} is {name!r}, as in row {book.lots[name]}: a duplicate; each trade was expected once"
        )
    row.done()
    book.lots[name] = row.number
    if net_pct is not None or (book.backtest and took != (None, None)):
        book.backtest_results[name] = BacktestResult(name, net_pct, *took)
    return fills


def _assumed(row: Row, book: FillsFile) -> tuple[Decimal | None, Decimal | None]:
    """
    Return the commission and slippage that a backtest assumed; for a live trade only columns named as the backtest's.
    """
    own = book.backtest and (_calculated(row) or not row.word(*ENTRY_PRICE))
    commission, slippage = (
        row.number_of("backtest_commission_usd", *(COMMISSION if own else ()), least=ZERO),
        row.number_of("backtest_slippage_usd", *(_SLIPPAGE if own else ()), least=ZERO),
    )
    fees = row.number_of(*FEES, least=ZERO) if own and not row.has("backtest_commission_usd") else None
    return (commission if fees is None else (commission or ZERO) + fees), slippage


def _read_result(row: Row, book: FillsFile) -> None:
    """Read a row with a backtest's result of a trade without prices."""
    name, net_pct, costs = row.word(*_IDS), row.number_of(*_NET_PCT, *_OWN_PCT, needed=True), _assumed(row, book)
    row.done()
    book.backtest_results[name] = BacktestResult(name, net_pct, *costs)


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
    """Return the partial exits: when, how much of the original size, at which price."""
    updates, found = row.cells.get("updates"), []
    if isinstance(updates, str) and not updates.strip():
        updates = None
    if updates is not None and not (
        isinstance(updates, list) and all(isinstance(update, Mapping) for update in updates)
    ):
        row.refuse(f"updates is {formatting.single_line(repr(updates), 40)}; a list of objects was expected")
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
                f"and price were expected"
            )
            continue
        if share is None or price is None or not 0 < share <= 100 or price < 0:
            row.refuse(
                f"updates: a trim of {share} % at {price}; more than 0 and at most 100 %, at a price of at least 0, "
                f"was expected"
            )
            continue
        found.append((at, quantity * share / 100, price))
    return found
