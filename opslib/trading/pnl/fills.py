"""
Define a fill, and read the cells of a broker's row.

A `Fill` is one execution of one leg of one order, or what a clearing house did to a position (it expired, was assigned,
exercised, split). Money is `Decimal`, signed as cash: what comes in is positive. What a file does not tell is None.
Who reads which file is `book`.
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
        decimal_comma: Whether some number has a decimal comma, so that no comma in a number is sure.
        unsigned: The columns of cash that have no sign, also where cash was paid.
        after_costs, before_costs: The columns of cash that some rows show to be so.
        rounded: Whether prices of shares are rounded to cents, as several rows show.
        ids_of_executions: Whether what may be the name of a trade is another in each row, so that it names no round
            trip.
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
    One execution of one leg, or what was done to a position.

    Attributes:
        row: Its line in the file; 0 where there is none.
        at: When, aware.
        kind: trade, expiration, assignment, exercise, cash settlement, or the corporate action by its name in the file.
        instrument: option, future option, stock, future, other.
        symbol: What is held: two fills with the same are of one position. Spaces are one.
        underlying: Whose price it follows.
        side: buy, sell; empty where the file leaves it to the position.
        effect: open, close; empty where the file leaves it to the position.
        quantity: Contracts or shares, above 0.
        price: For one unit, as quoted; None where it cannot be told.
        multiplier: Units of a contract; None where it cannot be told.
        value: Cash before costs.
        commission, fees: Cash, so a cost is negative; None where not told (`commission` also where `fees` holds both).
        order: Its order; empty where it has none.
        bid, ask: The quote when it was asked for; None where not told.
        paid: Is it an execution, with costs as paid? Else its price is a quote, and what it would have cost is a
            model's to say.
        blank: Was its commission left blank beside others that were told? Then a model's stands for it.
        lot: The trade that the file itself says it is of; empty where it says nothing of the kind.
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
        """Cash after costs as paid."""
        return self.value + (self.commission or ZERO) + (self.fees or ZERO)


class CashMovement(NamedTuple):
    """Cash that is no fill: a dividend, a deposit, interest, a fee."""

    row: int
    at: datetime
    kind: str
    symbol: str
    total: Decimal


class RejectedRow(NamedTuple):
    """A row that was refused: its line, why (column, what was found, what was wanted), and the row as it stood."""

    row: int
    reasons: tuple[str, ...]
    body: str


class BacktestResult(NamedTuple):
    """
    What a backtest said of a trade, where it is told beside the trade itself.

    Attributes:
        net_pct: Its net result, %; None where its prices tell it.
        commission, slippage: What it took into account, dollars; None where not told.
    """

    lot: str
    net_pct: Decimal | None
    commission: Decimal | None = None
    slippage: Decimal | None = None


@dataclass
class FillsFile:
    """
    What a file of fills holds.

    Attributes:
        source: The file's name.
        layout: Who wrote it, in words.
        fills: In order of time.
        moneys: What is no fill.
        promises: What a backtest said, by the trade's own name.
        refused: What could not be read.
        notes: What a reader must know of the file.
        lots: The row of each trade that has a name.
        backtest: Is it a backtest's? Then what it says of costs is what it took into account.
        style: How its cells are to be read.
        unfilled: The rows of orders that were cancelled or are not filled yet.
    """

    source: str
    layout: str
    backtest: bool = False
    fills: list[Fill] = field(default_factory=list)
    moneys: list[CashMovement] = field(default_factory=list)
    promises: dict[str, BacktestResult] = field(default_factory=dict)
    refused: list[RejectedRow] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    lots: dict[str, int] = field(default_factory=dict)
    style: Style = Style()
    unfilled: list[int] = field(default_factory=list)

    def settled(self) -> "FillsFile":
        """
        The same book with its fills in order of time; those of one instant as an account is kept: oldest row first.
        """
        newest_first = len(self.fills) > 1 and self.fills[0].at > self.fills[-1].at
        order = list(reversed(self.fills)) if newest_first else self.fills
        self.fills = sorted(order, key=lambda f: f.at)
        self.moneys.sort(key=lambda m: m.at)
        return self

    def keep(self, found: Fill | CashMovement) -> None:
        """Put what a row says into the book."""
        if isinstance(found, CashMovement):
            self.moneys.append(found)
        else:
            self.fills.append(found)


class Row:
    """
    One row of a file, whose cells are asked for by the names that a column may have.

    What is wrong is collected, so that a row is refused with every reason at once: see `done`.
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
        """What the file itself calls a column of one of these names; the first of them where it has none."""
        return next(
            (formatting.single_line(self.names[plain(n)].strip(), 60) for n in names if plain(n) in self.names),
            names[0],
        )

    def has(self, *names: str) -> bool:
        """Has the file a column of one of these names?"""
        return any(plain(n) in self.cells for n in names)

    def refuse(self, why: str) -> None:
        """Something is wrong with the row."""
        self.wrong.append(why)

    def word(self, *names: str) -> str:
        """A text; empty where there is none."""
        found = self._found(names)[1]
        told = " ".join(str(found).split()) if found is not None else ""
        return "" if told.lower() in NONE else formatting.single_line(told, 300)

    def number_of(
        self, *names: str, needed: bool = False, least: Decimal | None = None, above: Decimal | None = None
    ) -> Decimal | None:
        """A number; None where there is none, or where it was refused."""
        name, found = self._found(names)
        shown = formatting.single_line(repr(found), 40)
        try:
            if self.style.decimal_comma and isinstance(found, str) and "," in found:
                raise DecimalComma(found)
            value = number(found)
        except ForeignCurrency as problem:
            self.refuse(f"{name} is {shown}, in {problem}; US dollars were expected, and nothing here converts")
            return None
        except DecimalComma:
            self.refuse(
                f"{name} is {shown}; in this file a comma may be a decimal one, a decimal point was expected. "
                f"Export it with US number formats"
            )
            return None
        except ValueError:
            self.refuse(f"{name} is {shown}; a number was wanted")
            return None
        if value is None:
            if needed:
                self.refuse(f"{name} is empty; a number was wanted")
            return None
        if (least is not None and value < least) or (above is not None and value <= above):
            self.refuse(
                f"{name} is {shown}; {f'at least {least}' if least is not None else f'a number above {above}'}"
                f" was wanted"
            )
            return None
        return value

    def time(self, *names: str) -> datetime:
        """A time; without an offset it is New York."""
        name, found = self._found(names)
        return self.instant(name, found)

    def instant(self, name: str, found: object) -> datetime:
        """The instant of a cell that stands under this name; refused where it is none."""
        try:
            return moment(found, self.style.day_first)
        except SerialDate:
            self.refuse(
                f"{name} is {formatting.single_line(repr(found), 40)}, a spreadsheet's count of days; a date was "
                f"expected. Give the column a date format and export again"
            )
        except ValueError:
            self.refuse(
                f"{name} is {formatting.single_line(repr(found), 40)}; a time such as "
                f"2025-10-23T17:33:29+0100 was wanted"
            )
        return datetime(1970, 1, 1, tzinfo=UTC)

    def day(self, *names: str) -> date | None:
        """A day; None where there is none."""
        name, found = self._found(names)
        if found is None or str(found).strip().lower() in NONE:
            return None
        try:
            return moment(found, self.style.day_first).astimezone(formatting.NEW_YORK).date()
        except ValueError:
            self.refuse(f"{name} is {formatting.single_line(repr(found), 40)}; a day such as 10/24/25 was wanted")
            return None

    def dollars_only(self) -> None:
        """
        Refuse a row of which any column of currency, or the head of a column of money, names another than the US
        dollar.
        """
        for key, name in self.names.items():
            if _names_currency(name):
                told = " ".join(str(self.cells[key] or "").split())
                if told.lower() not in (*NONE, *DOLLARS):
                    self.refuse(
                        f"{formatting.single_line(name.strip(), 60)} is {formatting.single_line(told, 40)!r}; "
                        f"USD was wanted, "
                        f"and nothing here converts"
                    )
            elif code := cells_module.unit_of(name):
                self.refuse(
                    f"{formatting.single_line(name.strip(), 60)!r} is a column in {code}; USD was wanted, and nothing "
                    f"here converts"
                )

    def done(self) -> None:
        """
        Nothing more is asked.

        Raises:
            BadFill: Something was wrong, each thing by its name.
        """
        if self.wrong:
            raise BadFill(list(dict.fromkeys(self.wrong)))
