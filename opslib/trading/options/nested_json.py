"""
Find contracts in JSON with a nesting that `vendors` does not know.

It reads lists of contracts, tables by column (as pandas writes them, or one list per column), and maps by symbol,
expiration, strike or side, inside any other structure. Values around a contract, such as its underlying's price, are
added to it.
"""

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

from opslib.trading.options import vendors
from opslib.trading.options.contracts import SIDES, named, read_moment

Row = dict[str, Any]
MOST_DEPTH = 16
LEAST_COLUMNS = 3
# Fields that may be stated once for many contracts.
SURROUNDING = frozenset(
    {
        "underlying",
        "underlying_px",
        "underlying_ts",
        "root",
        "expiry",
        "strike",
        "cp",
        "as_of",
        "quote_ts",
        "multiplier",
        "style",
        "timeframe",
    }
)
OF_UNDERLYING = frozenset(
    {"price", "last", "lastprice", "lasttradeprice", "mark", "currentprice", "regularmarketprice", "close"}
)
OF_CONTRACT = frozenset({"bid", "ask", "iv", "delta", "gamma", "theta", "vega", "oi"})
DETAILS = frozenset({"contract", "details", "option", "instrument", "security", "info", "description"})
ERRORS = ("error", "errors", "fault", "message", "errormessage", "description", "detail", "reason")
_TICKER = re.compile(r"\^?[A-Z][A-Z0-9.]{0,5}")


def rows(payload: Any) -> list[Row]:
    """
    Return every contract in a JSON value as a table row; nested cells are named ``outer.inner``.

    Empty if nothing looks like a contract: no strike, and no symbol that names a contract.
    """
    return list(_rows_in(payload, {}, 0))


def error_message(payload: Any, depth: int = 0) -> str:
    """Return the error message that a payload contains; empty if there is none."""
    if depth > MOST_DEPTH or not isinstance(payload, (Mapping, list)):
        return ""
    if isinstance(payload, Mapping):
        for name in ERRORS:
            found = next((v for k, v in payload.items() if _plain(k) == name), None)
            if isinstance(found, str) and found:
                return found
    children = list(payload.values() if isinstance(payload, Mapping) else payload)[:50]
    return next((words for child in children if (words := error_message(child, depth + 1))), "")


@lru_cache(maxsize=2_000)
def _fields(keys: tuple[str, ...]) -> dict[str, str]:
    """Return our name of each key that has one."""
    return vendors.plain(keys)


def _plain(key: Any) -> str:
    return re.sub(r"[^a-z0-9]", "", str(key).lower())


def _rows_in(found: Any, around: Row, depth: int) -> Iterator[Row]:
    if depth > MOST_DEPTH:
        return
    if isinstance(found, list):
        if found and all(isinstance(line, list) for line in found) and all(isinstance(cell, str) for cell in found[0]):
            yield from _rows_in([dict(zip(found[0], line)) for line in found[1:]], around, depth + 1)
            return
        for item in found:
            yield from _rows_in(item, around, depth + 1)
    elif isinstance(found, Mapping):
        yield from _of_mapping({str(key): value for key, value in found.items()}, around, depth)


def _of_mapping(found: Row, around: Row, depth: int) -> Iterator[Row]:
    if isinstance(found.get("columns"), list) and isinstance(found.get("data"), list):  # As pandas splits a table.
        yield from _rows_in(
            [dict(zip(map(str, found["columns"]), line)) for line in found["data"] if isinstance(line, list)],
            around,
            depth + 1,
        )
        return
    ours = _fields(tuple(found))
    by_column = [
        key for key, field in ours.items() if field in ("strike", "symbol") and isinstance(found[key], (list, Mapping))
    ]
    if by_column and sum(_is_alike(found[key], found[by_column[0]]) for key in ours) >= LEAST_COLUMNS:
        yield from _of_columns(found, by_column[0], around, depth)
        return
    scalars = {key: value for key, value in found.items() if not isinstance(value, (list, Mapping))}
    sides = [key for key in found if key.lower() in SIDES and key not in scalars]
    fields = {field: found[key] for key, field in ours.items() if key in scalars}
    is_contract = (
        _describes_one(found)
        or "strike" in fields
        or named(str(fields.get("symbol", "")))
        or (("strike" in around or "symbol" in around) and OF_CONTRACT & _deep_fields(found))
    )
    if is_contract and not sides:
        own = _flat(found)
        has = set(_fields(tuple(own)).values())
        yield {name: value for name, value in around.items() if name not in has} | own
        return
    inner = around | _surrounding(scalars)
    for key, value in found.items():
        if (
            isinstance(value, Mapping)
            and value
            and not any(isinstance(v, (list, Mapping)) for v in value.values())
            and "strike" not in _fields(tuple(map(str, value))).values()
        ):
            inner |= {
                k: v for k, v in _surrounding({f"{key}.{k}": v for k, v in value.items()}).items() if k not in inner
            }
    for key, value in found.items():
        if isinstance(value, (list, Mapping)):
            yield from _rows_in(value, inner | _of_key(key, inner), depth + 1)


def _describes_one(found: Row) -> bool:
    """Return whether a mapping has a nested mapping that names its contract."""
    parts = [
        _fields(tuple(map(str, part))) | {"": str(part.get("symbol", ""))}
        for key, part in found.items()
        if key.lower() in DETAILS and isinstance(part, Mapping)
    ]
    return any("strike" in part.values() or named(part[""]) for part in parts)


def _deep_fields(found: Row) -> frozenset[str]:
    return frozenset(_fields(tuple(_flat(found))).values())


def _flat(found: Mapping[str, Any], before: str = "", depth: int = 0) -> Row:
    """Return a contract's cells, nested ones named by all their outer keys."""
    row: Row = {}
    for key, value in found.items():
        if isinstance(value, Mapping) and depth < 4:
            row |= _flat(value, before if str(key).lower() in DETAILS else f"{before}{key}.", depth + 1)
        else:
            row[f"{before}{key}"] = value
    return row


def _of_columns(found: Row, first: str, around: Row, depth: int) -> Iterator[Row]:
    """Yield the rows of a table written by column: a list per column, or a map of places per column."""
    wanted = found[first]
    places = list(wanted) if isinstance(wanted, Mapping) else list(range(len(wanted)))
    columns = {key: value for key, value in found.items() if _is_alike(value, wanted)}
    inner = around | _surrounding(
        {key: value for key, value in found.items() if not isinstance(value, (list, Mapping))}
    )
    for place in places:
        yield from _rows_in(
            {key: value.get(place) if isinstance(value, Mapping) else value[place] for key, value in columns.items()},
            inner,
            depth + 1,
        )


def _is_alike(one: Any, other: Any) -> bool:
    """Return whether two values are columns of one table."""
    return type(one) is type(other) and len(one) == len(other)


def _surrounding(scalars: Mapping[str, Any]) -> Row:
    """Return what the scalars around contracts state about each of them, under our names."""
    found: Row = {}
    ours = _fields(tuple(scalars))
    for key, value in scalars.items():
        field = ours.get(key, "")
        outer, _, last = key.rpartition(".")
        if _plain(last) in OF_UNDERLYING and (not outer or _plain(outer) in ("underlying", "quote", "stock")):
            field = "underlying_px"
        if _plain(last) == "symbol" and (not outer or _plain(outer) in ("underlying", "quote", "stock")):
            field = "underlying"
        if field not in SURROUNDING or value is None or value == "":
            continue
        if field == "cp" and str(value).lower() not in SIDES:
            continue
        if field in ("underlying_px", "strike") and (
            isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0
        ):
            continue
        found.setdefault(field, value)
    return found


def _of_key(key: str, around: Row) -> Row:
    """
    Return what the key of a map states about the contracts below it.

    That is their side, symbol, expiration, strike or underlying.
    """
    if key.lower() in SIDES:
        return {"cp": SIDES[key.lower()]}
    if named(key):
        return {"symbol": key}
    day = key.partition(":")[0]
    if re.fullmatch(r"\d{4}-\d\d-\d\d.*", day) or read_moment(day):
        return {"expiry": day[:10] if day[4:5] == "-" else day}
    if re.fullmatch(r"\d{1,6}(\.\d+)?", key) and "expiry" in around:
        return {"strike": key}
    return {"underlying": key} if _TICKER.fullmatch(key) and "underlying" not in around else {}
