"""
Define a fill, and read the cells of a broker's row.

A `Fill` is one execution of one leg of one order, or an action of the clearing house on a position (expired, assigned,
exercised, split). Money is `Decimal`, signed as cash: incoming cash is positive. A value that a file does not state is
None. `reader` decides which module reads which file.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal
from functools import lru_cache
from typing import NamedTuple

from opslib.foundation import formatting
from opslib.foundation.errors import BadFill
from opslib.trading.pnl import cells as cells_module
from opslib.trading.pnl.cells import DOLLARS, NONE, DecimalComma, ForeignCurrency, SerialDate, moment, number, plain

ZERO = Decimal(0)
CENT = Decimal("0.01")
OPTIONS = ("option", "future option")
_CURRENCY_WORDS = {"currency", "ccy", "curr", "cur"}


@lru_cache(maxsize=10_000)
def _names_currency(column: str) -> bool:
    return bool(_CURRENCY_WORDS & {*cells_module.words(column)})


class Style(NamedTuple):
    """
    How the cells of a file are to be read, as far as only all of its rows together show it.

    Attributes:
        day_first: Whether a date such as 03/04/2026 is the third of April.
        decimal_comma: Whether some number has a decimal comma, so that every comma in a number is ambiguous.
        unsigned: The cash columns without a sign, also for paid cash.
        after_costs, before_costs: The cash columns that are after or before costs, as some rows show.
        rounded: Whether prices of shares are rounded to cents, as several rows show.
        ids_of_executions: Whether the column that may name a trade differs in each row, so that it names no round trip.
    """

    day_first: bool = False
    decimal_comma: bool = False
    unsigned: frozenset[str] = frozenset()
    after_costs: frozenset[str] = frozenset()
    before_costs: frozenset[str] = frozenset()
    rounded: bool = False
    ids_of_executions: bool = False


class Fill(NamedTuple):
    """
    One execution of one leg, or an action of the clearing house on a position.

    Attributes:
        row: Its line in the file; 0 if there is none.
        at: When, aware.
        kind: trade, expiration, assignment, exercise, cash settlement, or the corporate action by its name in the file.
        instrument: option, future option, stock, future, other.
        symbol: What is held: two fills with the same symbol belong to one position. Spaces are reduced to one.
        underlying: The symbol whose price it follows.
        side: buy, sell; empty if the file leaves it to the position.
        effect: open, close; empty if the file leaves it to the position.
        quantity: Contracts or shares, above 0.
        price: For one unit, as quoted; None if unknown.
        multiplier: Units per contract; None if unknown.
        value: Cash before costs.
        commission, fees: Cash, so a cost is negative; None if not stated (`commission` also if `fees` holds both).
        order: Its order; empty if it has none.
        bid, ask: The quote when the order was sent; None if not stated.
        paid: Whether it is an execution with actual costs. Otherwise its price is a quote, and a cost model computes
            the costs.
        blank: Whether its commission is blank although the column exists; the cost model is then used.
        lot: The trade that the file itself assigns it to; empty if it assigns none.
        expiry, strike, right: Of an option: day, price, C or P.
    """

    row: int
    at: datetime
    kind: str
    instrument: str
    symbol: str
    underlying: str
    side: str
    effect: str
    quantity: Decimal
    price: Decimal | None
    multiplier: Decimal | None
    value: Decimal
    commission: Decimal | None = None
    fees: Decimal | None = None
    order: str = ""
    bid: Decimal | None = None
    ask: Decimal | None = None
    paid: bool = True
    lot: str = ""
    expiry: date | None = None
    strike: Decimal | None = None
    right: str = ""
    blank: bool = False

    @property
    def total(self) -> Decimal:
        """Cash after actual costs."""
        return self.value + (self.commission or ZERO) + (self.fees or ZERO)


class CashMovement(NamedTuple):
    """Cash that is not a fill: a dividend, a deposit, interest, a fee."""

    row: int
    at: datetime
    kind: str
    symbol: str
    total: Decimal


class RejectedRow(NamedTuple):
    """A rejected row: its line, the reasons (column, what was found, what was expected), and its original text."""

    row: int
    reasons: tuple[str, ...]
    body: str


class BacktestResult(NamedTuple):
    """
    A backtest's result of a trade, without the trade itself.

    Attributes:
        net_pct: Its net result, %; None if it is computed from prices.
        commission, slippage: The costs that it assumed, dollars; None if not stated.
    """

    lot: str
    net_pct: Decimal | None
    commission: Decimal | None = None
    slippage: Decimal | None = None


@dataclass
class FillsFile:
    """
    The content of a file of fills.

    Attributes:
        source: The file's name.
        layout: The layout of the file, in words.
        fills: In order of time.
        moneys: Cash movements.
        backtest_results: Backtest results, by the trade's own name.
        refused: The rejected rows.
        notes: Remarks about the file for the user.
        lots: The row of each trade that has a name.
        backtest: Whether it is a backtest's file. Its costs are then the assumed ones.
        style: How its cells are to be read.
        unfilled: The rows of orders that were cancelled or are not filled yet.
    """

    source: str
    layout: str
    backtest: bool = False
    fills: list[Fill] = field(default_factory=list)
    moneys: list[CashMovement] = field(default_factory=list)
    backtest_results: dict[str, BacktestResult] = field(default_factory=dict)
    refused: list[RejectedRow] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    lots: dict[str, int] = field(default_factory=dict)
    style: Style = Style()
    unfilled: list[int] = field(default_factory=list)

    def sorted_by_time(self) -> "FillsFile":
        """Sort the fills by time; those of one instant by row, oldest first."""
        newest_first = len(self.fills) > 1 and self.fills[0].at > self.fills[-1].at
        order = list(reversed(self.fills)) if newest_first else self.fills
        self.fills = sorted(order, key=lambda f: f.at)
        self.moneys.sort(key=lambda m: m.at)
        return self

    def keep(self, found: Fill | CashMovement) -> None:
        """Add the content of a row."""
        if isinstance(found, CashMovement):
            self.moneys.append(found)
        else:
            self.fills.append(found)


class Row:
    """
    One row of a file, whose cells are found by any of their usual column names.

    Problems are collected, so that a row is rejected with all reasons at once: see `done`.
    """

    def __init__(self, number: int, cells: Mapping[str, object], style: Style = Style()):
        self.number, self.cells, self.wrong, self.style = (
            number,
            {plain(k): v for k, v in cells.items()},
            list[str](),
            style,
        )
        self.names = {plain(k): k for k in cells}

    def _found(self, names: tuple[str, ...]) -> tuple[str, object]:
        first = None
        for name in names:
            cell = self.cells.get(plain(name))
            if cell is not None and str(cell).strip().lower() not in NONE:
                return self.name(name), cell
            first = name if first is None and cell is not None else first
        return (self.name(first), self.cells[plain(first)]) if first is not None else (self.name(*names), None)

    def name(self, *names: str) -> str:
        """Return the file's own name of a column with one of these names; the first of them if there is none."""
        return next(
            (formatting.single_line(self.names[plain(n)].strip(), 60) for n in names if plain(n) in self.names),
            names[0],
        )

    def has(self, *names: str) -> bool:
        """Return whether the file has a column with one of these names."""
        return any(plain(n) in self.cells for n in names)

    def refuse(self, why: str) -> None:
        """Record a reason to reject the row."""
        self.wrong.append(why)

    def word(self, *names: str) -> str:
        """Return a text; empty if there is none."""
        found = self._found(names)[1]
        text = " ".join(str(found).split()) if found is not None else ""
        return "" if text.lower() in NONE else formatting.single_line(text, 300)

    def number_of(
        self, *names: str, needed: bool = False, least: Decimal | None = None, above: Decimal | None = None
    ) -> Decimal | None:
        """Return a number; None if there is none, or if it was rejected."""
        name, found = self._found(names)
        shown = formatting.single_line(repr(found), 40)
        try:
            if self.style.decimal_comma and isinstance(found, str) and "," in found:
                raise DecimalComma(found)
            value = number(found)
        except ForeignCurrency as problem:
            self.refuse(f"{name} is {shown}, in {problem}; US dollars were expected, amounts are not converted")
            return None
        except DecimalComma:
            self.refuse(
                f"{name} is {shown}; this file may use decimal commas, decimal points were expected. Export it with "
                f"US number formats"
            )
            return None
        except ValueError:
            self.refuse(f"{name} is {shown}; a number was expected")
            return None
        if value is None:
            if needed:
                self.refuse(f"{name} is empty; a number was expected")
            return None
        if (least is not None and value < least) or (above is not None and value <= above):
            self.refuse(
                f"{name} is {shown}; {f'at least {least}' if least is not None else f'a number above {above}'}"
                f" was expected"
            )
            return None
        return value

    def time(self, *names: str) -> datetime:
        """Return a time; without an offset it is in New York."""
        name, found = self._found(names)
        return self.instant(name, found)

    def instant(self, name: str, found: object) -> datetime:
        """Return the instant of a cell under this name; reject the row if it is not a time."""
        try:
            return moment(found, self.style.day_first)
        except SerialDate:
            self.refuse(
                f"{name} is {formatting.single_line(repr(found), 40)}, a spreadsheet's day number; a date was "
                f"expected. Format the column as a date and export again"
            )
        except ValueError:
            self.refuse(
                f"{name} is {formatting.single_line(repr(found), 40)}; a time such as "
                f"2025-10-23T17:33:29+0100 was expected"
            )
        return datetime(1970, 1, 1, tzinfo=UTC)

    def day(self, *names: str) -> date | None:
        """Return a day; None if there is none."""
        name, found = self._found(names)
        if found is None or str(found).strip().lower() in NONE:
            return None
        try:
            return moment(found, self.style.day_first).astimezone(formatting.NEW_YORK).date()
        except ValueError:
            self.refuse(f"{name} is {formatting.single_line(repr(found), 40)}; a day such as 10/24/25 was expected")
            return None

    def dollars_only(self) -> None:
        """
        Reject a row if a currency column, or the header of a money column, names a currency other than the US dollar.
        """
        for key, name in self.names.items():
            if _names_currency(name):
                text = " ".join(str(self.cells[key] or "").split())
                if text.lower() not in (*NONE, *DOLLARS):
                    self.refuse(
                        f"{formatting.single_line(name.strip(), 60)} is {formatting.single_line(text, 40)!r}; "
                        f"USD was expected, amounts are not converted"
                    )
            elif code := cells_module.unit_of(name):
                self.refuse(
                    f"{formatting.single_line(name.strip(), 60)!r} is a column in {code}; USD was expected, amounts "
                    f"are not converted"
                )

    def done(self) -> None:
        """
        Finish reading the row.

        Raises:
            BadFill: The row is rejected, with all reasons.
        """
        if self.wrong:
            raise BadFill(list(dict.fromkeys(self.wrong)))
