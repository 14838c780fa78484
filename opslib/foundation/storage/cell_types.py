"""
Check the type of every cell read from SQLite, which accepts any value in any column.

`check_columns` replaces the type of each column by one that raises an error on reading a value that the column cannot
hold. A damaged or edited file is then reported by table and column where it is read, instead of failing later in a
calculation. PostgreSQL enforces the types itself, so its values are not checked.
"""

import json
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import sqlalchemy as sa

from opslib.foundation.errors import StoreError

# The times that a datetime can hold, from the year 2 to the end of 9999.
EARLIEST_US, LATEST_US = -62_100_000_000_000_000, 253_402_300_799_999_999
LATEST_MS = LATEST_US // 1000
INFINITE = float("inf")
A_TIME = "a time in microseconds since 1970"


RESCUE = (
    "To save what is still readable, run ops export snapshots and import the result into a new home directory with "
    "ops import."
)


class DamagedCell(StoreError):
    """
    A cell of the database holds a value that its column cannot hold.

    Attributes:
        what: Which cell, and why, without what to do.
    """

    def __init__(self, what: str):
        self.what = what
        super().__init__(
            f'the database is damaged: {what}. Check its file with: sqlite3 FILE "PRAGMA integrity_check". {RESCUE}'
        )


def damaged(where: str, found: Any, expected: str) -> DamagedCell:
    """Create the error for a cell; `where` is its table and column."""
    shown = repr(found if not isinstance(found, str | bytes) or len(found) <= 40 else found[:40])
    return DamagedCell(f"{where} holds {shown}; {expected} was expected")


@contextmanager
def decoding(where: str) -> Iterator[None]:
    """Convert errors while decoding stored text or bytes into a `DamagedCell` with the first error as its cause."""
    try:
        yield
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError, zlib.error) as problem:
        raise DamagedCell(f"{where} cannot be decoded ({type(problem).__name__}: {str(problem)[:80]})") from problem


@lru_cache(maxsize=64)
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def fits(value: Any, kind: Any) -> bool:
    """Return whether a value read from JSON is of an annotated type."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return any(fits(value, part) for part in parts)
    if origin is list:
        return isinstance(value, list) and all(fits(item, parts[0]) for item in value)
    if origin is dict:
        return isinstance(value, dict) and all(fits(k, parts[0]) and fits(v, parts[1]) for k, v in value.items())
    if origin is tuple:
        return (
            isinstance(value, tuple)
            and len(value) == len(parts)
            and all(fits(item, part) for item, part in zip(value, parts))
        )
    if kind in (int, float):
        return type(value) is int or (kind is float and type(value) is float)
    return kind is Any or isinstance(value, kind)


def require_types(found: Any) -> None:
    """
    Check the types of all fields of a dataclass made from stored JSON, and that every ``…_us`` field is a time.

    Raises:
        ValueError: A field has the wrong type, or is not a time.
    """
    for name, kind in _hints(found.__class__).items():
        value = getattr(found, name)
        if not fits(value, kind) or (
            name.endswith("_us") and value is not None and not EARLIEST_US <= value <= LATEST_US
        ):
            raise ValueError(f"{name} is {str(value)[:40]!r}")


def check_time(where: str, found: Any) -> None:
    """
    Check that a value is a time in microseconds since 1970.

    Raises:
        DamagedCell: It is not.
    """
    _whole(where, True, EARLIEST_US, LATEST_US, A_TIME)(found)


def _whole(where: str, required: bool, least: int, most: int, expected: str) -> Callable[[Any], Any]:
    def check(found: Any) -> Any:
        if (type(found) is int and least <= found <= most) or (found is None and not required):
            return found
        raise damaged(where, found, expected)

    return check


def _plain(where: str, required: bool, kinds: tuple[type, ...], expected: str) -> Callable[[Any], Any]:
    def check(found: Any) -> Any:
        if type(found) in kinds or (found is None and not required):
            return found
        raise damaged(where, found, expected)

    return check


def _number(where: str, required: bool) -> Callable[[Any], Any]:
    def check(found: Any) -> Any:
        if (type(found) in (float, int) and -INFINITE < found < INFINITE) or (found is None and not required):
            return found
        raise damaged(where, found, "a finite number")

    return check


def _flag(where: str, required: bool) -> Callable[[Any], Any]:
    def check(found: Any) -> Any:
        if found is None and not required:
            return None
        if type(found) is int and found in (0, 1):
            return bool(found)
        raise damaged(where, found, "0 or 1")

    return check


def _json(where: str, required: bool, kind: type) -> Callable[[Any], Any]:
    expected = f"a JSON {'list' if kind is list else 'object'}"

    def check(found: Any) -> Any:
        if found == "{}" if kind is dict else found == "[]":
            return found
        if found is None and not required:
            return None
        try:
            if type(found) is str and isinstance(json.loads(found), kind):
                return found
        except (ValueError, RecursionError):
            pass  # The error is raised below, with the column's name.
        raise damaged(where, found, expected)

    return check


def _check_of(column: sa.Column[Any], json_columns: dict[str, type]) -> Callable[[Any], Any]:
    where = f"{column.table.name}.{column.name}"
    required = not column.nullable and column.name != "seq"  # The maximum over no rows is NULL.
    match column.type:
        case _ if where in json_columns:
            return _json(where, required, json_columns[where])
        case sa.Boolean():
            return _flag(where, required)
        case sa.Integer() if column.name.endswith("_us"):
            return _whole(where, required, EARLIEST_US, LATEST_US, A_TIME)
        case sa.Integer() if column.name.endswith("_ms"):
            return _whole(where, required, -LATEST_MS, LATEST_MS, "a time in milliseconds since 1970")
        case sa.Integer():
            return _whole(where, required, -(2**63), 2**63, "a whole number")
        case sa.Double():
            return _number(where, required)
        case sa.LargeBinary():
            return _plain(where, required, (bytes,), "bytes")
    return _plain(where, required, (str,), "text")


def _with(kind: type[sa.types.TypeEngine[Any]], check: Callable[[Any], Any]) -> sa.types.TypeEngine[Any]:
    """Create a type like `kind` whose values are checked when they are read."""

    class Checked(kind):  # type: ignore[misc, valid-type]  # The base class is a parameter.
        cache_ok = True

        def result_processor(self, dialect: sa.Dialect, coltype: object) -> Callable[[Any], Any] | None:
            return check if dialect.name == "sqlite" else super().result_processor(dialect, coltype)

    return Checked()


def check_columns(tables: sa.MetaData, json_columns: dict[str, type]) -> None:
    """
    Give every column a type that checks the values read from it.

    Args:
        json_columns: The text columns that hold JSON, each with its kind.
    """
    for table in tables.tables.values():
        for column in table.columns:
            # SQLite itself keeps a row id a whole number.
            if not column.primary_key or not isinstance(column.type, sa.Integer) or len(table.primary_key) > 1:
                column.type = _with(type(column.type), _check_of(column, json_columns))
