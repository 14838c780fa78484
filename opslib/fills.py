"""
This module knows what a fill is, and how a cell of a broker's file becomes a number or a time, and nothing else.

A `Fill` is one execution of one leg of one order, or what a clearing house did to a position (it expired, was assigned,
exercised, split). Money is `Decimal`, signed as cash: what comes in is positive. What a file does not tell is None.
Who reads which file is `book`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal, InvalidOperation
from typing import NamedTuple

from opslib import clock, text
from opslib.errors import BadFill, UsageError

ZERO = Decimal(0)
CENT = Decimal("0.01")
OPTIONS = ("option", "future option")
LARGEST = Decimal("1e12")
NONE = ("", "--", "-", "n/a", "na", "none", "null")  # How files write that there is nothing.
_NUMBER = re.compile(r"[+-]?(\d{1,3}(,\d{3})+|\d+)?(\.\d*)?([eE][+-]?\d{1,2})?")
_US_TIME = re.compile(r"(\d{1,2})/(\d{1,2})/(\d{4}|\d{2})(?:[ T,]+(\d{1,2}):(\d{2})(?::(\d{2}))?\s*([AaPp][Mm])?)?")


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
        paid: Is it an execution, with costs as paid? Else its price is a quote, and what it would have cost is a model's to say.
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


class Money(NamedTuple):
    """Cash that is no fill: a dividend, a deposit, interest, a fee."""

    row: int
    at: datetime
    kind: str
    symbol: str
    total: Decimal


class Refused(NamedTuple):
    """A row that was refused: its line, why (column, what was found, what was wanted), and the row as it stood."""

    row: int
    reasons: tuple[str, ...]
    body: str


class Promise(NamedTuple):
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
class Book:
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
    """

    source: str
    layout: str
    backtest: bool = False
    fills: list[Fill] = field(default_factory=list)
    moneys: list[Money] = field(default_factory=list)
    promises: dict[str, Promise] = field(default_factory=dict)
    refused: list[Refused] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    lots: dict[str, int] = field(default_factory=dict)

    def settled(self) -> "Book":
        """The same book with its fills in order of time; those of one instant as an account is kept: oldest row first."""
        newest_first = len(self.fills) > 1 and self.fills[0].at > self.fills[-1].at
        order = list(reversed(self.fills)) if newest_first else self.fills
        self.fills = sorted(order, key=lambda f: f.at)
        self.moneys.sort(key=lambda m: m.at)
        return self


class Row:
    """
    One row of a file, whose cells are asked for by the names that a column may have.

    What is wrong is collected, so that a row is refused with every reason at once: see `done`.
    """

    def __init__(self, number: int, cells: Mapping[str, object]):
        self.number, self.cells, self.wrong = number, {_plain(k): v for k, v in cells.items()}, list[str]()
        self.names = {_plain(k): k for k in cells}

    def _found(self, names: tuple[str, ...]) -> tuple[str, object]:
        return next(((self.name(n), self.cells[_plain(n)]) for n in names if self.cells.get(_plain(n)) is not None), (self.name(*names), None))

    def name(self, *names: str) -> str:
        """What the file itself calls a column of one of these names; the first of them where it has none."""
        return next((text.one_line(self.names[_plain(n)].strip(), 60) for n in names if _plain(n) in self.names), names[0])

    def has(self, *names: str) -> bool:
        """Has the file a column of one of these names?"""
        return any(_plain(n) in self.cells for n in names)

    def refuse(self, why: str) -> None:
        """Something is wrong with the row."""
        self.wrong.append(why)

    def word(self, *names: str) -> str:
        """A text; empty where there is none."""
        found = self._found(names)[1]
        told = " ".join(str(found).split()) if found is not None else ""
        return "" if told.lower() in NONE else text.one_line(told, 300)

    def number_of(self, *names: str, needed: bool = False, least: Decimal | None = None, above: Decimal | None = None) -> Decimal | None:
        """A number; None where there is none, or where it was refused."""
        name, found = self._found(names)
        shown = text.one_line(repr(found), 40)
        try:
            value = number(found)
        except ValueError:
            self.refuse(f"{name} is {shown}; a number was wanted")
            return None
        if value is None:
            if needed:
                self.refuse(f"{name} is empty; a number was wanted")
            return None
        if (least is not None and value < least) or (above is not None and value <= above):
            self.refuse(f"{name} is {shown}; {f'at least {least}' if least is not None else f'a number above {above}'} was wanted")
            return None
        return value

    def time(self, *names: str) -> datetime:
        """A time; without an offset it is New York."""
        name, found = self._found(names)
        try:
            return moment(found)
        except ValueError:
            self.refuse(f"{name} is {text.one_line(repr(found), 40)}; a time such as 2025-10-23T17:33:29+0100 was wanted")
            return datetime(1970, 1, 1, tzinfo=UTC)

    def day(self, *names: str) -> date | None:
        """A day; None where there is none."""
        name, found = self._found(names)
        if found is None or str(found).strip().lower() in NONE:
            return None
        try:
            return moment(found).astimezone(text.NEW_YORK).date()
        except ValueError:
            self.refuse(f"{name} is {text.one_line(repr(found), 40)}; a day such as 10/24/25 was wanted")
            return None

    def done(self) -> None:
        """
        Nothing more is asked.

        Raises:
            BadFill: Something was wrong, each thing by its name.
        """
        if self.wrong:
            raise BadFill(list(dict.fromkeys(self.wrong)))


def _plain(name: str) -> str:
    """A column's name, whatever its case, spaces and signs."""
    return re.sub(r"[^a-z0-9#/]", "", name.lower().replace("\ufeff", ""))


def number(found: object) -> Decimal | None:
    """
    A cell as an exact number: thousands separators, a dollar sign and brackets for less than nothing are understood; None of nothing.

    Raises:
        ValueError: It is something else.
    """
    if found is None or isinstance(found, bool):
        if found is None:
            return None
        raise ValueError(found)
    if isinstance(found, (int, float)):
        value = Decimal(repr(found))
    else:
        cell = str(found).strip().replace("−", "-")
        if cell.lower() in NONE:
            return None
        negative = cell.startswith("(") and cell.endswith(")")
        cell = re.sub(r"^([+-]?)\s*\$\s*", r"\1", cell[1:-1] if negative else cell).strip()
        if not _NUMBER.fullmatch(cell) or not any(c.isdigit() for c in cell):
            raise ValueError(found)
        try:
            value = Decimal(cell.replace(",", ""))
        except InvalidOperation:
            raise ValueError(found) from None
        value = -value if negative else value
    if not value.is_finite() or abs(value) >= LARGEST:
        raise ValueError(found)
    return value


def moment(found: object) -> datetime:
    """
    A cell as an instant: ISO 8601, also with ``+0100``; ``12/29/2020 3:36 PM``; without an offset New York.

    Raises:
        ValueError: It is none.
    """
    cell = str(found).strip() if isinstance(found, str) else ""
    if us := _US_TIME.fullmatch(cell):
        month, day, year, hour, minute, second, half = us.groups()
        hours = int(hour or 0) % 12 + 12 * (half.upper() == "PM") if half else int(hour or 0)
        if half and not 1 <= int(hour) <= 12:
            raise ValueError(found)
        cell = datetime(int(year) + (2000 if len(year) == 2 else 0), int(month), int(day), hours, int(minute or 0), int(second or 0)).isoformat()
    try:
        return clock.parse(cell)
    except UsageError as problem:
        raise ValueError(str(problem)) from None
