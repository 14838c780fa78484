"""
This module knows which kind of file of fills is before us, and reads it row by row, and nothing else.

Every row is a fill, other cash, or refused with every reason by name; none is lost, none becomes a zero.
"""

import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from opslib import broker, plain, text
from opslib.errors import BadFill, ImportRefused
from opslib.fills import Book, Refused

LARGEST_FILE = 200_000_000
MOST_SHOWN = 500
WANTED = "tastytrade's export (either layout), the app's trades as JSON, or a CSV with columns for time, symbol, side, quantity and price"


def content(path: Path) -> str:
    """
    A file's text, plain or gzip; a byte order mark is passed over.

    Raises:
        ImportRefused: It cannot be read, or is no text.
    """
    try:
        raw = path.read_bytes()
        raw = gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
        if len(raw) > LARGEST_FILE:
            raise ImportRefused(f"{path} has {len(raw):,} bytes; at most {LARGEST_FILE:,} are read at once. Split it.")
        return raw.decode("utf-16" if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except IsADirectoryError:
        raise ImportRefused(f"{path} is a folder; a file was wanted.") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as problem:
        raise ImportRefused(f"{path} is cut off or damaged ({problem}). Get a whole copy.") from None
    except UnicodeDecodeError as problem:
        raise ImportRefused(f"{path} is no text in UTF-8 (byte {problem.start}); {WANTED} was wanted.") from None
    except OSError as problem:
        raise ImportRefused(f"{path} cannot be read ({problem.strerror}).") from None


def read(path: Path, backtest: bool = False) -> Book:
    """
    What does a file of fills hold?

    Args:
        backtest: Is it a backtest's? It may tell no more than a percent of each trade.

    Raises:
        ImportRefused: It is none, or not one of its rows can be read.
    """
    told = content(path)
    if not told.strip():
        raise ImportRefused(f"{path} is empty; {WANTED} was wanted.")
    found = Book(path.name, plain.APP, backtest)
    if told.lstrip()[0] in "[{":
        try:
            _json(found, path, told)
        except RecursionError:
            raise ImportRefused(f"{path} is JSON nested too deeply to be trades; {WANTED} was wanted.") from None
    else:
        _csv(found, path, told)
    if not found.fills and not found.moneys and not found.promises:
        why = f" The first of {len(found.refused)} rows, row {found.refused[0].row}: {'; '.join(found.refused[0].reasons)}." if found.refused else ""
        raise ImportRefused(f"{path} ({found.layout}): not one fill can be read.{why}")
    return found.settled()


def is_fills(told: str) -> bool:
    """Does a file's text look like one of fills?"""
    first = told.lstrip("\ufeff \t\r\n")
    if first.startswith(("[", "{")):
        return any(f'"{key}"' in first[:4000] for key in plain.ENTRY_PRICE)
    columns = next(csv.reader(io.StringIO(first.splitlines()[0], newline=""), delimiter=_delimiter(first)), []) if first else []
    return broker.layout(columns) is not None or plain.layout(columns) in (plain.TRADES, plain.FILLS)


def _delimiter(told: str) -> str:
    first = told.lstrip("\ufeff\r\n").splitlines()[0] if told.strip() else ""
    return max(",;\t", key=first.count)


def _csv(book: Book, path: Path, told: str) -> None:
    lines = csv.reader(io.StringIO(told, newline=""), delimiter=_delimiter(told))
    try:
        columns = next((line for line in lines if any(cell.strip() for cell in line)), [])
        plainly = [c.strip().lower() for c in columns if c.strip()]
        if twice := sorted({c for c in plainly if plainly.count(c) > 1}):
            raise ImportRefused(f"{path} has two columns called {', '.join(twice)}; one was wanted, so that it is known which counts. Rename or drop one.")
        layout = broker.layout(columns) or plain.layout(columns)
        if layout is None or (layout == plain.SAID and not book.backtest):
            raise ImportRefused(f"{path} is no file of fills: {WANTED} was wanted, found columns {text.one_line(', '.join(columns), 120)!r}.")
        book.layout = layout
        how = broker.read if layout in (broker.TODAY, broker.OLDER) else plain.read
        rows = 0
        for line in lines:
            if any(cell.strip() for cell in line) and line != columns:  # Files that were put together have their head again.
                rows += 1
                _row(book, lines.line_num, line, columns, how)
        if not rows:
            raise ImportRefused(f"{path} ({layout}) has a head and no rows under it; at least one was wanted. Export it with its rows.")
    except csv.Error as problem:
        raise ImportRefused(f"{path}, line {lines.line_num}, is no CSV ({problem}). Export it anew.") from None
    if layout == broker.OLDER:
        book.notes.append("this layout has commission and fees as one figure, no order numbers, and times without an offset, read as New York")


def _row(book: Book, number: int, line: list[str], columns: list[str], how: Any) -> None:
    body = ",".join(line)
    if len(line) != len(columns) and any(cell.strip() for cell in line[len(columns) :] or ["x"]):
        book.refused.append(Refused(number, (f"the row has {len(line)} cells; {len(columns)} were wanted, one for each column",), body))
        return
    _put(book, number, dict(zip(columns, line)), body, how)


def _put(book: Book, number: int, cells: Mapping[str, object], body: str, how: Any) -> None:
    try:
        how(book, number, cells)
    except BadFill as problem:
        book.refused.append(Refused(number, tuple(problem.reasons), body))


def _json(book: Book, path: Path, told: str) -> None:
    for number, found in _records(path, told):
        body = text.one_line(json.dumps(found, ensure_ascii=False), MOST_SHOWN)
        if isinstance(found, dict):
            _put(book, number, found, body, plain.read)
        else:
            book.refused.append(Refused(number, (f"a trade was wanted, found {text.one_line(repr(found), 40)}",), body))
    if not book.fills and not book.refused and not book.promises:
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
    if isinstance(found, dict) and not any(key in found for key in plain.ENTRY_PRICE):
        found = next((v for k, v in found.items() if k in ("trades", "data", "fills", "results") and isinstance(v, list)), [found])
    yield from enumerate(found if isinstance(found, list) else [found], 1)
