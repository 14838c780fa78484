"""
Read CSV and Parquet into plain tables of cells, within size limits, and recognise their columns.

A table with calls and puts side by side is converted to one contract per row. Cells stay unchanged.
"""

import csv
import io
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from opslib.foundation.errors import ImportRefused
from opslib.foundation.formatting import single_line
from opslib.trading.options import vendors
from opslib.trading.options.contracts import named

if TYPE_CHECKING:
    from pandas import DataFrame

MOST_CELLS = 30_000_000  # Enough for a market of 600,000 contracts in 50 columns.
MOST_CELL_CHARACTERS = 1_000_000
HEADER_WITHIN = 25  # Lines in which the header is searched, because a preamble may precede it.
DELIMITERS = ",;\t|"
_HALF = re.compile(
    r"(?i:(?P<before>c|p|calls?|puts?)[_ .](?P<one>.+)|(?P<two>.+)[_ .](?P<after>c|p|calls?|puts?))"
    r"|(?P<joined>call|put|Call|Put)(?P<three>[A-Z].+)"
)
_DECIMAL_COMMA, _DECIMAL_POINT = re.compile(r"[-+]?(\d+|\d{1,3}(\.\d{3})+),\d+ ?%?"), re.compile(r"[-+]?\d*\.\d+ ?%?")
_OF_UNDERLYING = (
    "underl",
    "ticker",
    "symbol",
    "stock",
    "name",
    "asset",
    "security",
    "instrument",
    "product",
    "company",
    "root",
)
LEAST_OF_ONE = 4  # With at least this many rows per name, a name is that of an underlying, not of a contract.
_QUOTE = frozenset({"bid", "ask", "iv", "delta"})


def of_csv(text: str, name: str) -> "tuple[DataFrame, tuple[str, ...]]":
    """
    Return the table in a CSV, all cells text.

    It is separated by comma, semicolon, tab or bar, with or without lines above its header.

    Returns:
        The table, and the lines after its last contract that do not belong to it (totals, terms of use).

    Raises:
        ImportRefused: No line has the column names of a chain, or nothing follows it.
    """
    import pandas

    lines = text.splitlines()[:HEADER_WITHIN]
    delimiter = next((line[4:5] for line in lines[:1] if line[:4].lower() == "sep=" and len(line.strip()) == 5), "")
    rows: list[list[str]] = []
    for mark in delimiter or DELIMITERS:
        first = cells(text, mark, name, HEADER_WITHIN)
        header = next((i for i, line in enumerate(first) if _is_header(line)), None)
        if header is not None:
            rows = cells(text, mark, name)[header:]
            break
    else:
        shown = next((line for line in lines if line.strip()), "")
        raise ImportRefused(
            f"{name} holds no chain: JSON of a vendor, or CSV with columns for expiration, type and strike, "
            f"or the contract's symbol, was expected, found {single_line(shown[:200])!r}. Rename its columns and try "
            f"again."
        )
    names = [cell.strip() or f"column {i}" for i, cell in enumerate(rows[0], 1)]
    body = [line for line in rows[1:] if any(cell.strip() for cell in line)]
    end = next(
        (i for i in range(len(body), 0, -1) if sum(bool(cell.strip()) for cell in body[i - 1]) * 3 > len(names)), 0
    )
    body, after = body[:end], tuple(mark.join(line).strip(f"{mark} ") for line in body[end:])
    if not body:
        raise ImportRefused(f"{name} has a header and no row; at least one row was expected.")
    width = max(len(names), max(map(len, body)))
    names += [f"column {i}" for i in range(len(names) + 1, width + 1)]  # For cells beyond the header.
    if width * len(body) > MOST_CELLS:
        raise ImportRefused(
            f"{name} has {len(body):,} rows of up to {width:,} cells; at most {MOST_CELLS:,} cells are read. Split it."
        )
    rows = [[*map(str.strip, line), *[""] * (width - len(line))] for line in body]
    if (
        mark != ","
        and any(_DECIMAL_COMMA.fullmatch(cell) for line in rows for cell in line)
        and not any(_DECIMAL_POINT.fullmatch(cell) for line in rows for cell in line)
    ):
        rows = [
            [cell.replace(".", "").replace(",", ".") if _DECIMAL_COMMA.fullmatch(cell) else cell for cell in line]
            for line in rows
        ]
    return pandas.DataFrame(rows, columns=names, dtype=object), after


def cells(text: str, delimiter: str, name: str, most: int | None = None) -> list[list[str]]:
    """
    Return the cells of a CSV, of its first lines or of all.

    Raises:
        ImportRefused: It is not valid CSV.
    """
    found: list[list[str]] = []
    try:
        for line in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter):
            found.append(line)
            if most is not None and len(found) >= most:
                break
    except csv.Error as problem:
        if most is not None:
            return found
        raise ImportRefused(f"{name} is not valid CSV: line {len(found) + 1:,}: {problem}.") from None
    return found


def _is_header(line: Sequence[str]) -> bool:
    """Return whether the cells of a line are the column names of a chain."""
    if len(line) < 2:
        return False
    ours = set(vendors.plain([_half(cell.strip())[1] for cell in line]).values())
    return (
        ours >= {"expiry", "strike"}
        or ours >= {"strike", "cp"}
        or bool("symbol" in ours and ours & (_QUOTE | {"strike", "expiry", "cp"}))
    )


def of_parquet(content: bytes, name: str) -> "DataFrame":
    """
    Return the table in a Parquet file.

    Raises:
        ImportRefused: It cannot be read, or expands beyond the size limit.
    """
    import pyarrow
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(io.BytesIO(content))
        rows, columns = file.metadata.num_rows, file.schema_arrow
        if (
            rows * max(1, len(columns)) > MOST_CELLS
            or sum(file.metadata.row_group(i).total_byte_size for i in range(file.metadata.num_row_groups))
            > 16 * MOST_CELLS
        ):
            raise ImportRefused(
                f"{name} expands to {rows:,} rows of {len(columns):,} columns; at most {MOST_CELLS:,} cells are "
                f"read. Split it."
            )
        texts = [
            field.name
            for field in columns
            if pyarrow.types.is_string(field.type)
            or pyarrow.types.is_large_string(field.type)
            or pyarrow.types.is_binary(field.type)
        ]
        # A long text that many rows share is kept once in memory.
        table = parquet.ParquetFile(io.BytesIO(content), read_dictionary=texts).read()
        found: DataFrame = table.to_pandas(ignore_metadata=True, timestamp_as_object=True).astype(object)
    except (
        pyarrow.ArrowException,
        OSError,
        ValueError,
        TypeError,
        OverflowError,
        KeyError,
        NotImplementedError,
        MemoryError,
    ) as problem:
        raise ImportRefused(f"{name} is not valid Parquet: {single_line(str(problem))}.") from None
    if not len(found):
        raise ImportRefused(f"{name} has a header and no row; at least one row was expected.")
    return found


def by_contract(table: "DataFrame") -> "DataFrame":
    """Return a table with one contract per row and unique column names."""
    import pandas

    # Cboe's files have quotes of 15:45 and after the close; those of 15:45 are used.
    table = table.set_axis(
        [re.sub(r"(?i)_1545$", "", str(c).strip().strip("[]").strip()) for c in table.columns], axis=1
    )
    table = table.loc[:, ~table.columns.duplicated()]
    halves = {
        side: {c: rest for c in table.columns for which, rest in [_half(c)] if which == side}
        for side in ("call", "put")
    }
    if all(_QUOTE & set(vendors.plain(half.values()).values()) for half in halves.values()):
        common = [c for c in table.columns if not any(c in half for half in halves.values())]
        # A single delta for both sides can be right for at most one of them, and the file does not say for which.
        both = {c: f"{c} of both sides" for c, field in vendors.plain(common).items() if field == "delta"}
        table, common, parts = table.rename(columns=both), [both.get(c, c) for c in common], []
        for side, half in halves.items():
            part = table[[*common, *half]].rename(columns=half).drop(columns="cp", errors="ignore").assign(cp=side)
            parts.append(part.loc[:, ~part.columns.duplicated()])
        table = pandas.concat(parts, ignore_index=True)
    return table


def _half(column: str) -> tuple[str, str]:
    """Return the side that a column's name states, and the rest of the name; the side is empty if it covers both."""
    found = _HALF.fullmatch(column)
    if not found:
        return "", column
    side = (found["before"] or found["after"] or found["joined"]).lower()
    return "call" if side[0] == "c" else "put", found["one"] or found["two"] or found["three"]


def named_columns(table: "DataFrame") -> dict[str, str]:
    """
    Return our field of each column, by its name.

    A column that may hold the contract's symbol or its underlying's is recognised by its content.
    """
    names = vendors.plain(table.columns)
    of_symbol = [
        c
        for c in table.columns
        if names.get(c) in ("symbol", "underlying", "root")
        or re.sub(r"[^a-z]", "", c.lower()) in vendors.USUAL["symbol"]
    ]
    named_column = next((c for c in of_symbol if names_contracts(table[c])), None)
    if named_column is not None and names.get(named_column) != "symbol":
        other = next((c for c, field in names.items() if field == "symbol"), None)
        if other is not None:
            del names[other]
            if "underlying" not in names.values():
                names[other] = "underlying"
        names[named_column] = "symbol"
    if named_column is None and not {"underlying", "symbol", "root"} & set(names.values()):
        rest = [c for c in table.columns if c not in names and any(word in c.lower() for word in _OF_UNDERLYING)]
        names |= next(({c: "underlying"} for c in rest if _is_shared(table[c])), {})
    return names


def _is_shared(cells: "Any") -> bool:
    """Return whether a column has a name in each cell, and few distinct names."""
    words = {str(cell).strip() for cell in cells}
    return (
        "" not in words
        and all(any(c.isalpha() for c in word) for word in words)
        and len(words) <= max(1, len(cells) // LEAST_OF_ONE)
    )


def names_contracts(cells: "Any") -> bool:
    """Return whether a column holds symbols of contracts."""
    return any(named(str(cell).strip()) for cell in _some(cells))


def _some(cells: "Any") -> Iterator[Any]:
    yield from (cell for cell in cells.iloc[:20])
