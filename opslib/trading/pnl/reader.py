"""
Read a file of fills of any known kind, row by row.

Every row is a fill, a cash movement, or rejected with all reasons; no row is lost or counted as zero. Lines before the
header, and remarks and totals after the rows, are named and skipped.
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
MOST_BEFORE_HEAD = 60  # Lines; an account statement has at most this many before its first table.
WANTED = (
    "tastytrade's export (either layout), a broker's history of transactions, the app's trades as JSON, "
    "or a CSV with columns for time, symbol, side, quantity and price"
)
# Brokers whose export has columns of its own, tried in this order. Each module has LAYOUTS, their names; layout(), the
# layout that has these columns; and read(), which reads a row.
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
_EXCEL = re.compile(r'^\s*="(.*)"\s*$')  # Prevents a spreadsheet from reading a cell as a number.
_LISTS = ("trades", "data", "fills", "results", "executions", "transactions")


def content(path: Path) -> str:
    """
    Read a file's text, plain or gzip.

    It may be UTF-8, UTF-16 with a byte order mark, or Windows-1252 as older brokers write it.

    Raises:
        ImportRefused: It cannot be read, is too large, or is not text.
    """
    raw = files.read_bytes(path)
    try:
        return raw.decode("utf-16" if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeDecodeError as problem:
        try:
            text = raw.decode("cp1252")
        except UnicodeDecodeError:
            text = "\0"
        # Images and spreadsheets contain control characters; text does not.
        if raw[:2] in (b"\xff\xfe", b"\xfe\xff") or any(c < " " and c not in "\t\r\n" for c in text[:100_000]):
            raise ImportRefused(f"{path} is not UTF-8 text (byte {problem.start}); {WANTED} was expected.") from None
        return text


def read(path: Path, backtest: bool = False) -> FillsFile:
    """
    Read a file of fills.

    Args:
        backtest: Whether it is a backtest's file, which may hold only a percent per trade.

    Raises:
        ImportRefused: It is not a file of fills, or none of its rows can be read.
    """
    text = content(path)
    if not text.strip():
        raise ImportRefused(f"{path} is empty; {WANTED} was expected.")
    found = FillsFile(path.name, app_trades.APP, backtest)
    if text.lstrip()[0] in "[{":
        try:
            _json(found, path, text)
        except RecursionError:
            raise ImportRefused(f"{path} is JSON nested too deeply to be trades; {WANTED} was expected.") from None
    else:
        _csv(found, path, text)
    if not found.fills and not found.moneys and not found.backtest_results:
        why = (
            f" The first of {len(found.refused)} rows, row {found.refused[0].row}: "
            f"{'; '.join(found.refused[0].reasons)}."
            if found.refused
            else ""
        )
        raise ImportRefused(f"{path} ({found.layout}) has no readable fill.{why}")
    if found.unfilled:
        found.notes.append(
            f"{len(found.unfilled)} orders that were not filled are skipped: rows "
            f"{', '.join(map(str, found.unfilled[:10]))}{', …' if len(found.unfilled) > 10 else ''}"
        )
    return found.sorted_by_time()


def is_fills(text: str) -> bool:
    """
    Return whether a file's text, or its beginning, is a file of fills.

    It also accepts UTF-16 decoded as UTF-8, because a caller may have only the beginning of a file.
    """
    text = text.replace("\0", "").replace("\ufffd", "")
    first = text.lstrip("\ufeff \t\r\n")
    if first.startswith(("[", "{")):
        keys = {plain_name(key) for key in re.findall(r'"([^"\\]{1,60})"\s*:', first[:4000])}
        return bool(keys & {plain_name(key) for key in app_trades.ENTRY_PRICE}) or executions.layout(keys) is not None
    try:
        head = _head(text)
    except csv.Error:
        return False
    return head is not None and head[1] != app_trades.SAID


def is_percents(text: str) -> bool:
    """
    Return whether a file's text, or its beginning, is a backtest's with a percent per trade and no prices.

    Live trades never have this form.
    """
    first = text.lstrip("\ufeff \t\r\n")
    if first.startswith(("[", "{")):
        columns = re.findall(r'"([^"\\]{1,60})"\s*:', first[:4000])
    else:
        try:
            head = _head(text)
        except csv.Error:
            return False
        columns = head[3] if head else []
    return app_trades.layout(columns) == app_trades.SAID and not {plain_name(c) for c in columns} & {
        plain_name(c) for c in app_trades.ENTRY_PRICE
    }


def _layout(columns: list[str]) -> str | None:
    return next((found for broker in BROKERS if (found := broker.layout(columns))), app_trades.layout(columns))


def _rows(text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the non-empty lines of a table, each with the number of its last line."""
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    while True:
        try:
            line = next(lines)
        except StopIteration:
            return
        except csv.Error as problem:
            raise csv.Error(f"line {lines.line_num}: {problem}") from None
        if any(cell.strip() for cell in line):
            yield lines.line_num, line


def _head(text: str) -> tuple[str, str, int, list[str]] | None:
    """Return a table's delimiter, its layout, the line of its header and its columns; None if there is no header."""
    first, _, _ = text.lstrip("\ufeff").lstrip().partition("\n")
    stated = _SEPARATOR.fullmatch(first.strip("\r "))
    for delimiter in (
        [stated[1]] if stated and stated[1] not in "\"'\r\n" else sorted(",;\t|", key=lambda d: -first.count(d))
    ):
        for count, (number, line) in enumerate(_rows(text, delimiter)):
            if count > MOST_BEFORE_HEAD:
                break
            if len(line) > 1 and (layout := _layout(line)) is not None:
                return delimiter, layout, number, line
    return None


def _csv(book: FillsFile, path: Path, text: str) -> None:
    try:
        head = _head(text)
        if head is None or (head[1] == app_trades.SAID and not book.backtest):
            lines = [
                line
                for line, _ in zip(
                    (line for _, line in _rows(text, max(",;\t|", key=text.lstrip().partition("\n")[0].count))),
                    range(MOST_BEFORE_HEAD),
                )
            ]
            likely = min(lines, key=lambda line: len(executions.missing(line)), default=[])
            lacking = executions.missing(likely)
            why = f" No column is recognised as {', '.join(lacking)}." if 0 < len(lacking) <= 3 else ""
            why += "".join(
                f" {formatting.single_line(column, 40)!r} is in {code}; USD was expected."
                for column in likely
                if (code := unit_of(column))
            )
            raise ImportRefused(
                f"{path} is not a file of fills: {WANTED} was expected, found columns "
                f"{formatting.single_line(', '.join(likely), 120)!r}.{why}"
            )
        delimiter, book.layout, at, columns = head
        columns = [*columns]
        plainly = [plain_name(c) for c in columns]
        # Columns that are not read may share a name. Of two used columns with one name it is unknown which counts.
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
                f"{path} has two columns called {', '.join(sorted(counted))}; one was expected. Rename or remove one."
            )
        rows, before, remarks = (
            list[tuple[int, list[str]]](),
            list[tuple[int, list[str]]](),
            list[tuple[int, list[str]]](),
        )
        for number, line in _rows(text, delimiter):
            if number < at and not _SEPARATOR.fullmatch(delimiter.join(line).lstrip("\ufeff").strip()):
                before.append((number, line))
            elif number > at and line != columns:  # Concatenated files repeat their header.
                (remarks if _is_remark(line, columns) else rows).append((number, line))
    except csv.Error as problem:
        raise ImportRefused(f"{path} is not valid CSV ({problem}). Export it again.") from None
    if not rows:
        raise ImportRefused(
            f"{path} ({book.layout}) has a header and no rows; at least one was expected. Export it with its rows."
        )
    rows = [(number, [_EXCEL.sub(r"\1", cell) for cell in line]) for number, line in rows]
    cells_of_rows = [dict(zip(columns, line)) for _, line in rows]
    book.style, notes = (
        executions.style(columns, cells_of_rows, delimiter == ";") if book.layout not in _READERS else (book.style, [])
    )
    how = (_READERS | {executions.LAYOUT: executions.read}).get(book.layout, app_trades.read)
    for (number, line), cells in zip(rows, cells_of_rows):
        _row(book, number, line, columns, cells, how)
    if book.layout == tastytrade.OLDER:
        book.notes.append(
            "this layout has commission and fees as one figure, no order numbers, and times without an "
            "offset, which are read as New York"
        )
    book.notes += [
        *notes,
        *_skipped("before the header", before, delimiter),
        *_skipped("that are remarks or totals", remarks, delimiter),
    ]


def _skipped(where: str, lines: list[tuple[int, list[str]]], delimiter: str) -> list[str]:
    if not lines:
        return []
    shown = "; ".join(
        f"line {number} {formatting.single_line(delimiter.join(line).strip(delimiter), 40)!r}"
        for number, line in lines[:3]
    )
    return [f"{len(lines)} lines {where} are skipped: {shown}{'; …' if len(lines) > 3 else ''}"]


def _is_remark(line: list[str], columns: list[str]) -> bool:
    """Return whether a line under the header is not a row: a single text, or a total, without a time or a side."""
    filled = [cell.strip() for cell in line if cell.strip()]
    cells = {plain_name(column): cell.strip() for column, cell in zip(columns, line)}

    def of(names: Iterable[str]) -> list[str]:
        return [cells[plain_name(name)] for name in names if cells.get(plain_name(name))]

    if any(executions.is_day(cell) for cell in of(columns_module.AT)) or any(
        executions.is_action(cell) for cell in filled
    ):
        return False
    if _LABEL.match(filled[0]) and not (set(of(columns_module.SIDE)) - {filled[0]}):
        return True
    # A total without a label has values only in money columns.
    if executions.layout(columns) and all(columns_module.negative(cell) is not None for cell in filled):
        return len(line) == len(columns) and not of(
            (
                *columns_module.AT,
                *columns_module.SYMBOL,
                *columns_module.SIDE,
                *columns_module.QUANTITY,
                *columns_module.PRICE,
            )
        )
    if all(_is_text(cell) for cell in filled):  # A disclaimer, which is split at its commas if it is not quoted.
        alone = len(filled) == 1 and (
            " " in filled[0]
            or (
                line[0].strip() == filled[0]
                and plain_name(columns[0]) not in {plain_name(name) for name in columns_module.SYMBOL}
            )
        )
        return alone or (len(filled) > 1 and len(line) != len(columns) and any(" " in cell for cell in filled))
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
                number, (f"the row has {len(line)} cells; {len(columns)} were expected, one for each column",), body
            )
        )
        return
    _put(book, number, cells, body, how)


def _put(book: FillsFile, number: int, cells: Mapping[str, object], body: str, how: Reader) -> None:
    try:
        how(book, number, cells)
    except BadFill as problem:
        book.refused.append(RejectedRow(number, tuple(problem.reasons), body))


def _json(book: FillsFile, path: Path, text: str) -> None:
    records = list(_records(path, text))
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
                RejectedRow(number, (f"expected a trade, found {formatting.single_line(repr(found), 40)}",), body)
            )
    if not book.fills and not book.refused and not book.backtest_results and not book.moneys:
        raise ImportRefused(f"{path} holds no trade that was entered; {WANTED} was expected.")


def _records(path: Path, text: str) -> Iterator[tuple[int, Any]]:
    """Yield the trades of a JSON file, numbered from 1: a list, a list under a name, one trade, or one per line."""
    try:
        found = json.loads(text)
    except ValueError as whole:
        for number, line in enumerate(text.splitlines(), 1):
            if line.strip():
                try:
                    yield number, json.loads(line)
                except ValueError:
                    if number == 1:
                        raise ImportRefused(f"{path} is not valid JSON ({whole}); {WANTED} was expected.") from None
                    yield number, line
        return
    if isinstance(found, dict) and not any(key in found for key in app_trades.ENTRY_PRICE):
        found = next((v for k, v in found.items() if k in _LISTS and isinstance(v, list)), [found])
    yield from enumerate(found if isinstance(found, list) else [found], 1)
