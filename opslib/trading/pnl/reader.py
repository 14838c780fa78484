"""
Read a file of fills, of whichever kind it is, row by row.

Every row is a fill, other cash, or refused with every reason by name; none is lost, none becomes a zero. Lines before
the head, and remarks and totals after the rows, are named and passed over.
"""

import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from opslib.foundation import files, formatting
from opslib.foundation.errors import BadFill, ImportRefused
from opslib.trading.pnl import app_trades, executions, tastytrade
from opslib.trading.pnl import columns as columns_module
from opslib.trading.pnl.cells import plain as plain_name
from opslib.trading.pnl.cells import unit_of
from opslib.trading.pnl.fills import FillsFile, RejectedRow

Reader: TypeAlias = Callable[[FillsFile, int, Mapping[str, object]], None]

MOST_SHOWN = 500
MOST_BEFORE_HEAD = 60  # Lines; an account statement has no more before its first table.
WANTED = (
    "tastytrade's export (either layout), a broker's history of transactions, the app's trades as JSON, "
    "or a CSV with columns for time, symbol, side, quantity and price"
)
# Brokers whose export has columns of its own, asked in this order. Each module has LAYOUTS, their names; layout(),
# which of them has these columns; and read(), which reads a row.
BROKERS = (tastytrade,)
_READERS: dict[str, Callable[[FillsFile, int, Mapping[str, object]], None]] = {
    name: broker.read for broker in BROKERS for name in broker.LAYOUTS
}
_SEPARATOR = re.compile(r"[\"']?sep=(.)[\"']?[,;\t ]*", re.IGNORECASE)
_LABEL = re.compile(
    r"[#*=]|-{2,}|(grand |sub ?|net |transactions? |account )?totals?\b|sum\b|end of (file|report)\b|(number"
    r"|count) of\b|(generated|exported|downloaded|printed|created|disclaimer|note|page|source|(opening"
    r"|closing|ending|beginning) balance)\b",
    re.IGNORECASE,
)
_EXCEL = re.compile(r'^\s*="(.*)"\s*$')  # How a file keeps a spreadsheet from reading a cell as a number.
_LISTS = ("trades", "data", "fills", "results", "executions", "transactions")


def content(path: Path) -> str:
    """
    Read a file's text, plain or gzip: UTF-8, UTF-16 with a byte order mark, or Windows-1252 as older brokers write it.

    Raises:
        ImportRefused: It cannot be read, is too large, or is no text.
    """
    raw = files.read_bytes(path)
    try:
        return raw.decode("utf-16" if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeDecodeError as problem:
        try:
            told = raw.decode("cp1252")
        except UnicodeDecodeError:
            told = "\0"
        # Bytes of an image or a spreadsheet hold control characters; those of a text do not.
        if raw[:2] in (b"\xff\xfe", b"\xfe\xff") or any(c < " " and c not in "\t\r\n" for c in told[:100_000]):
            raise ImportRefused(f"{path} is no text in UTF-8 (byte {problem.start}); {WANTED} was wanted.") from None
        return told


def read(path: Path, backtest: bool = False) -> FillsFile:
    """
    Read what a file of fills holds.

    Args:
        backtest: Whether it is a backtest's. It may tell no more than a percent of each trade.

    Raises:
        ImportRefused: It is none, or not one of its rows can be read.
    """
    told = content(path)
    if not told.strip():
        raise ImportRefused(f"{path} is empty; {WANTED} was wanted.")
    found = FillsFile(path.name, app_trades.APP, backtest)
    if told.lstrip()[0] in "[{":
        try:
            _json(found, path, told)
        except RecursionError:
            raise ImportRefused(f"{path} is JSON nested too deeply to be trades; {WANTED} was wanted.") from None
    else:
        _csv(found, path, told)
    if not found.fills and not found.moneys and not found.promises:
        why = (
            f" The first of {len(found.refused)} rows, row {found.refused[0].row}: "
            f"{'; '.join(found.refused[0].reasons)}."
            if found.refused
            else ""
        )
        raise ImportRefused(f"{path} ({found.layout}): not one fill can be read.{why}")
    if found.unfilled:
        found.notes.append(
            f"{len(found.unfilled)} orders that were not filled are passed over: rows "
            f"{', '.join(map(str, found.unfilled[:10]))}{', …' if len(found.unfilled) > 10 else ''}"
        )
    return found.settled()


def is_fills(told: str) -> bool:
    """
    Whether a file's text, or its beginning, is that of fills; also of UTF-16 that was decoded as UTF-8, as a caller
    does who has only a beginning.
    """
    told = told.replace("\0", "").replace("\ufffd", "")
    first = told.lstrip("\ufeff \t\r\n")
    if first.startswith(("[", "{")):
        keys = {plain_name(key) for key in re.findall(r'"([^"\\]{1,60})"\s*:', first[:4000])}
        return bool(keys & {plain_name(key) for key in app_trades.ENTRY_PRICE}) or executions.layout(keys) is not None
    try:
        head = _head(told)
    except csv.Error:
        return False
    return head is not None and head[1] != app_trades.SAID


def is_percents(told: str) -> bool:
    """
    Whether a file's text, or its beginning, is a backtest's that tells a percent of each trade and no prices; live
    trades are never told so.
    """
    first = told.lstrip("\ufeff \t\r\n")
    if first.startswith(("[", "{")):
        columns = re.findall(r'"([^"\\]{1,60})"\s*:', first[:4000])
    else:
        try:
            head = _head(told)
        except csv.Error:
            return False
        columns = head[3] if head else []
    return app_trades.layout(columns) == app_trades.SAID and not {plain_name(c) for c in columns} & {
        plain_name(c) for c in app_trades.ENTRY_PRICE
    }


def _layout(columns: list[str]) -> str | None:
    return next((found for broker in BROKERS if (found := broker.layout(columns))), app_trades.layout(columns))


def _rows(told: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """The lines of a table that say anything, each with the number of its last line."""
    lines = csv.reader(io.StringIO(told, newline=""), delimiter=delimiter)
    while True:
        try:
            line = next(lines)
        except StopIteration:
            return
        except csv.Error as problem:
            raise csv.Error(f"line {lines.line_num}: {problem}") from None
        if any(cell.strip() for cell in line):
            yield lines.line_num, line


def _head(told: str) -> tuple[str, str, int, list[str]] | None:
    """The delimiter of a table, its layout, the line of its head and its columns; None where no line is a head."""
    first, _, _ = told.lstrip("\ufeff").lstrip().partition("\n")
    stated = _SEPARATOR.fullmatch(first.strip("\r "))
    for delimiter in (
        [stated[1]] if stated and stated[1] not in "\"'\r\n" else sorted(",;\t|", key=lambda d: -first.count(d))
    ):
        for count, (number, line) in enumerate(_rows(told, delimiter)):
            if count > MOST_BEFORE_HEAD:
                break
            if len(line) > 1 and (layout := _layout(line)) is not None:
                return delimiter, layout, number, line
    return None


def _csv(book: FillsFile, path: Path, told: str) -> None:
    try:
        head = _head(told)
        if head is None or (head[1] == app_trades.SAID and not book.backtest):
            lines = [
                line
                for line, _ in zip(
                    (line for _, line in _rows(told, max(",;\t|", key=told.lstrip().partition("\n")[0].count))),
                    range(MOST_BEFORE_HEAD),
                )
            ]
            likely = min(lines, key=lambda line: len(executions.missing(line)), default=[])
            lacking = executions.missing(likely)
            why = f" No column of it is recognised as {', '.join(lacking)}." if 0 < len(lacking) <= 3 else ""
            why += "".join(
                f" {formatting.single_line(column, 40)!r} is in {code}; USD was wanted."
                for column in likely
                if (code := unit_of(column))
            )
            raise ImportRefused(
                f"{path} is no file of fills: {WANTED} was wanted, found columns "
                f"{formatting.single_line(', '.join(likely), 120)!r}.{why}"
            )
        delimiter, book.layout, at, columns = head
        columns = [*columns]
        plainly = [plain_name(c) for c in columns]
        # Two columns that nobody reads may be called the same; which of two that count is meant is not to be guessed.
        counted = {
            c
            for c in plainly
            if c
            and plainly.count(c) > 1
            and (
                c in columns_module.ALL
                or [x.strip().lower() for x in columns].count(columns[plainly.index(c)].strip().lower()) > 1
            )
        }
        if counted:
            raise ImportRefused(
                f"{path} has two columns called {', '.join(sorted(counted))}; one was wanted, so that it is "
                f"known which counts. Rename or drop one."
            )
        rows, before, remarks = (
            list[tuple[int, list[str]]](),
            list[tuple[int, list[str]]](),
            list[tuple[int, list[str]]](),
        )
        for number, line in _rows(told, delimiter):
            if number < at and not _SEPARATOR.fullmatch(delimiter.join(line).lstrip("\ufeff").strip()):
                before.append((number, line))
            elif number > at and line != columns:  # Files that were put together have their head again.
                (remarks if _is_remark(line, columns) else rows).append((number, line))
    except csv.Error as problem:
        raise ImportRefused(f"{path} is no CSV ({problem}). Export it anew.") from None
    if not rows:
        raise ImportRefused(
            f"{path} ({book.layout}) has a head and no rows under it; at least one was wanted. Export it with its rows."
        )
    rows = [(number, [_EXCEL.sub(r"\1", cell) for cell in line]) for number, line in rows]
    told_as = [dict(zip(columns, line)) for _, line in rows]
    book.style, notes = (
        executions.style(columns, told_as, delimiter == ";") if book.layout not in _READERS else (book.style, [])
    )
    how = (_READERS | {executions.LAYOUT: executions.read}).get(book.layout, app_trades.read)
    for (number, line), cells in zip(rows, told_as):
        _row(book, number, line, columns, cells, how)
    if book.layout == tastytrade.OLDER:
        book.notes.append(
            "this layout has commission and fees as one figure, no order numbers, and times without an "
            "offset, read as New York"
        )
    book.notes += [
        *notes,
        *_passed_over("before its head", before, delimiter),
        *_passed_over("that are remarks or totals", remarks, delimiter),
    ]


def _passed_over(where: str, lines: list[tuple[int, list[str]]], delimiter: str) -> list[str]:
    if not lines:
        return []
    shown = "; ".join(
        f"line {number} {formatting.single_line(delimiter.join(line).strip(delimiter), 40)!r}"
        for number, line in lines[:3]
    )
    return [f"{len(lines)} lines {where} are passed over: {shown}{'; …' if len(lines) > 3 else ''}"]


def _is_remark(line: list[str], columns: list[str]) -> bool:
    """Whether a line under the head is no row: a text by itself, or a total, without a time or a side."""
    told = [cell.strip() for cell in line if cell.strip()]
    cells = {plain_name(column): cell.strip() for column, cell in zip(columns, line)}

    def of(names: Iterable[str]) -> list[str]:
        return [cells[plain_name(name)] for name in names if cells.get(plain_name(name))]

    if any(executions.is_day(cell) for cell in of(columns_module.AT)) or any(
        executions.is_action(cell) for cell in told
    ):
        return False
    if _LABEL.match(told[0]) and not (set(of(columns_module.SIDE)) - {told[0]}):
        return True
    # A total without a label, under columns of money alone.
    if executions.layout(columns) and all(columns_module.negative(cell) is not None for cell in told):
        return len(line) == len(columns) and not of(
            (
                *columns_module.AT,
                *columns_module.SYMBOL,
                *columns_module.SIDE,
                *columns_module.QUANTITY,
                *columns_module.PRICE,
            )
        )
    if all(_is_text(cell) for cell in told):  # A disclaimer; one that was not quoted falls apart at its commas.
        alone = len(told) == 1 and (
            " " in told[0]
            or (
                line[0].strip() == told[0]
                and plain_name(columns[0]) not in {plain_name(name) for name in columns_module.SYMBOL}
            )
        )
        return alone or (len(told) > 1 and len(line) != len(columns) and any(" " in cell for cell in told))
    return False


def _is_text(cell: str) -> bool:
    if columns_module.negative(cell) is not None or executions.is_day(cell):
        return False
    return " " in cell or not any(c.isdigit() for c in cell)


def _row(
    book: FillsFile, number: int, line: list[str], columns: list[str], cells: Mapping[str, object], how: Reader
) -> None:
    body = ",".join(line)
    if len(line) != len(columns) and any(cell.strip() for cell in line[len(columns) :] or ["x"]):
        book.refused.append(
            RejectedRow(
                number, (f"the row has {len(line)} cells; {len(columns)} were wanted, one for each column",), body
            )
        )
        return
    _put(book, number, cells, body, how)


def _put(book: FillsFile, number: int, cells: Mapping[str, object], body: str, how: Reader) -> None:
    try:
        how(book, number, cells)
    except BadFill as problem:
        book.refused.append(RejectedRow(number, tuple(problem.reasons), body))


def _json(book: FillsFile, path: Path, told: str) -> None:
    records = list(_records(path, told))
    rows = [found for _, found in records if isinstance(found, dict)]
    columns = list(dict.fromkeys(key for row in rows for key in row))
    how = app_trades.read
    if app_trades.layout(columns) == executions.LAYOUT:
        book.layout, how = executions.LAYOUT, executions.read
        book.style, notes = executions.style(columns, rows)
        book.notes += notes
    for number, found in records:
        body = formatting.single_line(json.dumps(found, ensure_ascii=False), MOST_SHOWN)
        if isinstance(found, dict):
            _put(book, number, found, body, how)
        else:
            book.refused.append(
                RejectedRow(number, (f"a trade was wanted, found {formatting.single_line(repr(found), 40)}",), body)
            )
    if not book.fills and not book.refused and not book.promises and not book.moneys:
        raise ImportRefused(f"{path} holds no trade that was entered; {WANTED} was wanted.")


def _records(path: Path, told: str) -> Iterator[tuple[int, Any]]:
    """The trades of a JSON file, numbered from 1: a list, a list under a name, one trade, or one a line."""
    try:
        found = json.loads(told)
    except ValueError as whole:
        for number, line in enumerate(told.splitlines(), 1):
            if line.strip():
                try:
                    yield number, json.loads(line)
                except ValueError:
                    if number == 1:
                        raise ImportRefused(f"{path} is no JSON ({whole}); {WANTED} was wanted.") from None
                    yield number, line
        return
    if isinstance(found, dict) and not any(key in found for key in app_trades.ENTRY_PRICE):
        found = next((v for k, v in found.items() if k in _LISTS and isinstance(v, list)), [found])
    yield from enumerate(found if isinstance(found, list) else [found], 1)
