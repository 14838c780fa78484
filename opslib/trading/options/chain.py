"""Hold an option chain from any vendor as one frame, with the reason for every missing value."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, time, tzinfo
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opslib.foundation import files, formatting
from opslib.foundation.errors import ImportRefused, UsageError
from opslib.foundation.formatting import NEW_YORK
from opslib.trading.options import nested_json, tables, vendors
from opslib.trading.options.contracts import (
    AMBIGUOUS,
    SIDES,
    WEEKLY_ROOTS,
    close_of,
    day_end,
    day_of,
    is_ambiguous,
    is_day_first,
    read_moment,
    settles,
)
from opslib.trading.options.contracts import (
    named as named_as,
)

if TYPE_CHECKING:
    from pandas import DataFrame, Series

TEXTS = ("underlying", "root", "symbol", "cp", "style", "timeframe")
NUMBERS = (
    "strike",
    "multiplier",
    "bid",
    "ask",
    "bid_size",
    "ask_size",
    "iv",
    "delta",
    "gamma",
    "theta",
    "vega",
    "oi",
    "volume",
    "underlying_px",
)
TIMES = ("as_of", "expiry", "quote_ts", "underlying_ts", "greeks_ts")
FIELDS = TEXTS + NUMBERS + TIMES
COLUMNS = (*FIELDS, "why_missing", "symbol_says", "place")
SENT = ("iv", "delta", "gamma", "theta", "vega")  # The figures that a vendor computes, and may fail to.
SENTINELS = frozenset({-999.0, -9999.0, -99.0, -99999.0, 999999.0})
UNSOLVED_IV = 1e-4  # Solvers send 0 or 0.00001 if they find no volatility.
YEARS = (1970, 2200)  # Listed options began in 1973.
MOST_STRIKE, MOST_NUMBER = 1e7, 1e15
NOTHING = frozenset({"", "null", "none", "--", "-", "n/a", "na", "<na>"})


@dataclass(frozen=True, eq=False)
class Chain:
    """
    The contracts of a chain.

    Attributes:
        frame: One row per contract, columns `COLUMNS`. Times are UTC: `as_of` is the time of the row, `expiry` the
            instant at which it settles. Prices are dollars, Greeks and `iv` in the unit of the feed, all float, NaN if
            absent. `why_missing` says why a Greek or `iv` is absent: plan, no_quote, unsolvable, field_absent, null,
            sentinel; empty if nothing is missing. `symbol_says` is what the contract's symbol contradicts in its row.
            `place` is its row.
        provider: The provider: massive, tradier, schwab, cboe, yahoo, or plain.
        partial: Why contracts are missing, as far as the response says so.
        refused: The rows that could not be read: place and reason.
        sent: Fields that at least one row has, even if empty.
        unread: Columns of a plain table that were not recognised.
        garbled: Fields with cells that are not numbers: the count, and one of them.
        after: Lines after the last contract of a plain table that do not belong to it.
    """

    frame: "DataFrame"
    provider: str
    partial: str = ""
    refused: tuple[tuple[str, str], ...] = ()
    sent: frozenset[str] = frozenset(FIELDS)
    unread: tuple[str, ...] = ()
    garbled: tuple[str, ...] = ()
    after: tuple[str, ...] = ()

    @property
    def as_of(self) -> datetime:
        """The latest time of any row."""
        newest: datetime = self.frame["as_of"].max().to_pydatetime()
        return newest

    @property
    def by_underlying(self) -> "list[Chain]":
        """The chain of each underlying, by name; rejected rows belong to none of them."""
        frames = [found.reset_index(drop=True) for _, found in self.frame.groupby("underlying", sort=True)]
        return [self] if len(frames) == 1 else [replace(self, frame=frame, refused=()) for frame in frames]

    def __repr__(self) -> str:
        names = ", ".join(sorted(map(str, self.frame["underlying"].unique()))[:5])
        return f"{len(self.frame):,} contracts of {names} from {self.provider}, as of {formatting.moment(self.as_of)}"


def read(path: Path, as_of: datetime | None = None) -> Chain:
    """
    Read the chain in a file.

    It may be the JSON of Massive, Tradier, TD Ameritrade, Schwab or Yahoo (with or without comments), Cboe's quote
    page, contracts in JSON of another nesting, plain CSV or Parquet; gzip-compressed or not.

    Args:
        as_of: The time of the chain, if the file does not state it.

    Raises:
        ImportRefused: The file cannot be read, or holds no contract.
        UsageError: Neither the file nor the caller states the time of the chain.
    """
    return parsed(files.read_bytes(path), str(path), as_of)


def parsed(content: bytes, name: str, as_of: datetime | None = None) -> Chain:
    """Read a chain as `read` does, from bytes of another source."""
    if content[:4] == b"PAR1":
        return _table(tables.of_parquet(content, name), name, as_of)
    try:
        text = content.decode("utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeDecodeError:
        raise ImportRefused(f"{name} is neither UTF-8 text nor Parquet; an option chain was expected.") from None
    if re.match(r"\s*(\{|//|/\*|\[\s*([{\[\]]|//|/\*))", text):
        return _of_json(text, name, as_of)
    header = vendors.cboe_header(tables.cells(text, ",", name, 12))
    if header is not None:
        return of_rows("cboe", vendors.cboe(tables.cells(text, ",", name), header), name, as_of=as_of)
    table, after = tables.of_csv(text, name)
    return replace(_table(table, name, as_of), after=after)


def _of_json(text: str, name: str, as_of: datetime | None) -> Chain:
    try:
        payload = json.loads(text, parse_constant=str)  # A literal NaN is kept as text.
    except RecursionError:
        raise ImportRefused(f"{name} is JSON nested too deeply; an option chain was expected.") from None
    except ValueError:
        try:
            payload = json.loads(vendors.without_comments(text), parse_constant=str)
        except (ValueError, RecursionError) as problem:
            lines = [line for line in text.splitlines() if line.strip()]
            try:  # One page per line.
                payload = [json.loads(line, parse_constant=str) for line in lines] if len(lines) > 1 else None
            except (ValueError, RecursionError):
                payload = None
            if payload is None:
                raise ImportRefused(f"{name} is not valid JSON: {formatting.single_line(str(problem))}.") from None
    return of_payload(payload, name, as_of)


def of_payload(payload: Any, name: str, as_of: datetime | None = None) -> Chain:
    """
    Return the chain in a vendor's response, or in a list of its pages; else the contracts in it, at any nesting.

    Raises:
        ImportRefused: It contains no contract.
    """
    found = vendors.rows_of(payload)
    if found is not None:
        provider, rows, partial = found
        return of_rows(
            provider,
            rows,
            name,
            partial=partial or ("" if rows else formatting.single_line(nested_json.error_message(payload), 120)),
            as_of=as_of,
        )
    rows = nested_json.rows(payload)
    if not rows:
        if isinstance(payload, Mapping):
            shown = ", ".join(map(str, payload))[:80]
        elif isinstance(payload, list):
            shown = f"a list of {len(payload):,}"
        else:
            shown = type(payload).__name__
        words = (
            nested_json.error_message(payload) or next((v for v in payload.values() if isinstance(v, str)), "")
            if isinstance(payload, Mapping)
            else ""
        )
        raise ImportRefused(
            f"{name} holds no chain of a known format: a response of Massive, Tradier, Schwab or Yahoo, or "
            f"contracts with a strike, was expected, found JSON with {formatting.single_line(shown)!r}"
            f"{f', which says {formatting.single_line(words, 120)!r}' if words else ''}."
        )
    import pandas

    return _table(pandas.DataFrame(pandas.Series(rows, dtype=object).tolist(), dtype=object), name, as_of)


def of_rows(provider: str, rows: Any, name: str, *, partial: str = "", as_of: datetime | None = None) -> Chain:
    """Create a chain from the rows of a reader in `vendors`."""
    import pandas

    rows = list(rows)
    if not rows:
        raise ImportRefused(f"{name} holds no contract of {provider}'s chain. {partial or 'Check the symbol.'}")
    absent = object()
    frame = pandas.DataFrame(
        {field: pandas.Series([row.get(field, absent) for row in rows], dtype=object) for field in FIELDS}
    )
    return _converted(frame, absent, provider, name, partial, as_of)


def _table(table: "DataFrame", name: str, as_of: datetime | None) -> Chain:
    """Create the chain of a plain table by its column names, also with a call and a put on each line."""
    table = tables.by_contract(table)
    names = tables.named_columns(table)
    frame = table[list(names)].rename(columns=names)
    lacks = [
        words
        for field, words in (("expiry", "the expiration"), ("cp", "call or put"), ("strike", "the strike"))
        if field not in frame
    ]
    if lacks and not ("symbol" in frame and tables.names_contracts(frame["symbol"])):
        raise ImportRefused(
            f"{name} holds no chain: columns for expiration, type and strike, or the contract's symbol, were "
            f"expected, found {formatting.single_line(', '.join(table.columns))}. Missing: {', '.join(lacks)}."
        )
    absent = object()
    frame = frame.astype(object)
    for field in FIELDS:
        if field not in frame:
            frame.insert(len(frame.columns), field, [absent] * len(frame))
    provider = "yahoo" if "contractSymbol" in table.columns and "inTheMoney" in table.columns else "plain"
    found = _converted(frame.reset_index(drop=True), absent, provider, name, "", as_of)
    return replace(found, unread=tuple(c for c in table.columns if c not in names))


def _converted(
    raw: "DataFrame", absent: object, provider: str, name: str, partial: str, as_of: datetime | None
) -> Chain:
    """Convert cells into numbers and times, with the reasons for missing values; reject rows that name no contract."""
    import numpy as np
    import pandas

    frame = pandas.DataFrame(index=raw.index)
    bad = np.full(len(raw), "", dtype=object)
    lacking: dict[str, Any] = {}
    garbled: list[str] = []
    raw = pandas.DataFrame(
        {field: pandas.Series([_cell(v) for v in raw[field]], dtype=object) for field in FIELDS}, index=raw.index
    )
    sent = frozenset(field for field in FIELDS if any(v is not absent for v in raw[field]))

    def show(field: str, i: int) -> str:
        return repr(
            formatting.single_line("" if raw[field][i] is absent or raw[field][i] is None else _text(raw[field][i]), 60)
        )

    for field in TEXTS:
        frame[field] = ["" if v is absent or v is None else _text(v) for v in raw[field]]
    for field in NUMBERS:
        frame[field], lacking[field], odd = _numbers(raw[field], absent)
        garbled += [f"{field} {formatting.single_line(odd[0], 30)!r} ({len(odd):,})"] if odd else []
    named = [named_as(s) for s in frame["symbol"]]
    if (
        "underlying" not in sent
        and not any(named)
        and len(set(frame["symbol"])) <= max(1, len(raw) // tables.LEAST_OF_ONE)
    ):
        # This column `symbol` names the underlying, not the contract.
        frame["underlying"], frame["symbol"] = frame["symbol"], ""
    frame["root"] = [
        r or (n[0] if n else u.removeprefix("I:")) for r, n, u in zip(frame["root"], named, frame["underlying"])
    ]
    frame["underlying"] = [
        u or WEEKLY_ROOTS.get(r, r.rstrip("0123456789")) for u, r in zip(frame["underlying"], frame["root"])
    ]
    sides = [SIDES.get(c.lower(), "") or (n[2] if n and not c else "") for c, n in zip(frame["cp"], named)]
    strikes = frame["strike"].to_numpy(copy=True)
    given = np.array([n[3] if n else np.nan for n in named], dtype=float)
    strikes = np.where(np.isnan(strikes), given, strikes)
    frame["strike"] = strikes
    day_first = is_day_first(v for v in raw["expiry"] if isinstance(v, str))
    days = [day_of(None if v is absent else v, n, day_first) for v, n in zip(raw["expiry"], named)]
    frame["ends"] = [str(day) for day in days]
    for i, (side, day) in enumerate(zip(sides, days)):
        if not side:
            bad[i] = f"type is {show('cp', i)}; call or put was expected"
        elif day is None:
            cell = raw["expiry"][i]
            why = AMBIGUOUS if isinstance(cell, str) and is_ambiguous(cell) else "a date was expected"
            bad[i] = f"expiration is {show('expiry', i)}; {why}"
        elif not YEARS[0] <= day.year <= YEARS[1]:
            bad[i] = f"expiration is {show('expiry', i)}; a date from {YEARS[0]} to {YEARS[1]} was expected"
        elif not 0 < strikes[i] <= MOST_STRIKE:
            bad[i] = f"strike is {show('strike', i)}; a number above 0 was expected"
    frame["symbol_says"] = [
        ""
        if not n or not s or np.isnan(k)
        else ("" if n[2] == s else n[2]) or ("" if abs(n[3] - k) < 0.0051 else f"strike {n[3]:g}")
        for n, s, k in zip(named, sides, strikes)
    ]
    frame["cp"] = sides
    frame["place"] = np.arange(1, len(raw) + 1)
    for field in ("quote_ts", "underlying_ts", "greeks_ts", "as_of"):
        frame[field] = _times(raw[field], absent, UTC if field == "greeks_ts" else NEW_YORK, day_first)
    frame["as_of"] = _moments(frame, provider, name, as_of)
    keep = bad == ""
    refused = tuple((f"{name}:{i + 1}", str(bad[i])) for i in np.flatnonzero(~keep))
    if not keep.any():
        raise ImportRefused(f"{name} holds no readable contract: {refused[0][0]}: {refused[0][1]}.")
    if as_of is not None and (earlier := keep & (frame["as_of"] <= day_end(as_of)).to_numpy()).any():
        keep = earlier  # If the file has many days, keep those up to `as_of`.
    instants = [settles(day, root) if ok else pandas.NaT for day, root, ok in zip(days, frame["root"], keep)]
    frame["expiry"] = pandas.to_datetime(pandas.Series(instants, index=frame.index), utc=True)
    frame["multiplier"] = frame["multiplier"].where(frame["multiplier"] > 0)
    frame["why_missing"] = _why(frame, lacking)
    return Chain(
        frame.loc[keep, list(COLUMNS)].reset_index(drop=True), provider, partial, refused, sent, garbled=tuple(garbled)
    )


def _cell(cell: Any) -> Any:
    """Return a cell unchanged, or None if it only says that there is no value."""
    if cell is None or isinstance(cell, (str, int, bool, dict, list)):
        return cell
    try:
        blank = cell != cell
    except (TypeError, ValueError, ArithmeticError):
        return str(cell)
    if not isinstance(blank, bool):  # An array, or pandas' own NA.
        try:
            return None if blank else cell
        except (TypeError, ValueError):
            return None if type(cell).__name__ == "NAType" else str(cell)
    return None if blank else cell


def _text(cell: Any) -> str:
    if isinstance(cell, bytes):
        cell = cell.decode("utf-8", "replace")
    try:
        return str(cell).strip()
    except ValueError:  # Python refuses to write an integer with that many digits.
        return "a number of thousands of digits"


def _numbers(cells: "Series", absent: object) -> tuple[Any, Any, list[str]]:
    """
    Convert cells into floats, NaN for a missing value.

    Returns:
        The floats; the reason for each missing one (empty, field_absent, null, sentinel); the cells that are not
        numbers.
    """
    import numpy as np

    values, why, odd = np.full(len(cells), np.nan), np.full(len(cells), "", dtype=object), list[str]()
    for i, cell in enumerate(cells):
        if cell is absent:
            why[i] = "field_absent"
            continue
        if cell is None or (isinstance(cell, str) and cell.strip().lower() in NOTHING):
            # A float NaN was a NaN in JSON, or the table's own mark for a missing value.
            why[i] = "null"
            continue
        try:
            if isinstance(cell, bool):
                number = float("nan")
            elif isinstance(cell, (str, bytes)):
                number = _number(_text(cell))
            else:
                number = float(cell)
        except (TypeError, ValueError, OverflowError, ArithmeticError):
            why[i] = "sentinel"
            odd.append(_text(cell))
            continue
        if not abs(number) <= MOST_NUMBER or number in SENTINELS:
            why[i] = "sentinel"
        else:
            values[i] = number
    return values, why, odd


def _number(text: str) -> float:
    """
    Parse a number as people write it: 1,234.50, $1.20, 22.97 %.

    Raises:
        ValueError: It is not a number, or a comma does not separate thousands.
    """
    text = text.replace("\N{MINUS SIGN}", "-").replace("$", "").removesuffix("USD").strip()
    if "," in text:
        if not re.fullmatch(r"[-+]?[1-9]\d{0,2}(,\d{3})+(\.\d*)?", text):
            raise ValueError
        text = text.replace(",", "")
    if "_" in text:
        raise ValueError
    return float(text[:-1]) / 100 if text.endswith("%") else float(text)


def _moments(frame: "DataFrame", provider: str, name: str, as_of: datetime | None) -> "Series":
    """
    Return the time of each row as the file states it; a date alone means that day's close.

    If each contract has a time of its own, and no contract appears twice on a day, the rows are the quotes of one
    chain, which gets the newest of these times.
    """
    import pandas

    if provider in ("massive", "tradier", "schwab"):
        frame["as_of"] = frame[["quote_ts", "underlying_ts"]].max(axis=1).max()
    instants = {at: pandas.Timestamp(day_end(at.to_pydatetime())) for at in frame["as_of"].dropna().unique()}
    # A date given in UTC means that date, not the evening before in New York.
    if provider in ("plain", "yahoo"):
        instants |= {at: pandas.Timestamp(close_of(at.date())) for at in instants if at.time() == time(0)}
    found = pandas.to_datetime(frame["as_of"].map(instants), utc=True).astype("datetime64[us, UTC]")
    if found.isna().any():
        if as_of is None:
            raise UsageError(f"{name} does not state the time of the chain. Add --as-of.")
        found = found.fillna(pandas.Timestamp(day_end(as_of)))
    days = found.dt.tz_convert(NEW_YORK).dt.date
    contract = [frame[n] for n in ("root", "symbol", "strike", "cp")] + [frame["ends"], days]
    if found.nunique() > days.nunique() and found.groupby(contract, dropna=False).nunique().max() == 1:
        frame["quote_ts"] = frame["quote_ts"].where(frame["quote_ts"].notna(), found)
        found = found.groupby(days).transform("max")
    return found


def _times(cells: "Series", absent: object, zone: tzinfo, day_first: bool | None) -> "Series":
    import pandas

    known: dict[Any, Any] = {}
    found = []
    for cell in cells:
        if cell is absent or cell is None or cell == "":
            found.append(pandas.NaT)
            continue
        key = _text(cell)
        if key not in known:
            at = cell if isinstance(cell, datetime) else read_moment(key, day_first) or vendors.stamp(key, zone)
            known[key] = pandas.NaT if at is None else _instant(at, zone)
        found.append(known[key])
    return pandas.to_datetime(pandas.Series(found, index=cells.index, dtype="datetime64[us, UTC]"), utc=True)


def _instant(at: datetime, zone: tzinfo) -> Any:
    import pandas

    if not YEARS[0] <= at.year <= YEARS[1]:
        return pandas.NaT
    return pandas.Timestamp(at.replace(tzinfo=zone) if at.tzinfo is None else at).tz_convert("UTC").as_unit("us")


def _why(frame: "DataFrame", lacking: dict[str, Any]) -> Any:
    """Return why a Greek or a volatility is missing; of several reasons the most informative."""
    import numpy as np

    supplied = [field for field in SENT if (lacking[field] != "field_absent").any()]
    why = np.full(len(frame), "", dtype=object)
    if not supplied:
        why[:] = "plan"
        return why
    gone = np.zeros(len(frame), dtype=bool)
    for field in supplied:
        here = np.isnan(frame[field].to_numpy())
        why = np.where(here & (why == ""), lacking[field], why)
        gone |= here
    unquoted = ~(frame["bid"].to_numpy() > 0)
    is_sentinel = np.any([lacking[field] == "sentinel" for field in (*supplied, "bid", "ask")], axis=0)
    unsolved = frame["iv"].to_numpy() < UNSOLVED_IV if "iv" in supplied else np.zeros(len(frame), dtype=bool)
    why = np.where(gone & unquoted & (why != ""), "no_quote", why)
    why = np.where(unsolved & (why == ""), "unsolvable", why)
    return np.where(is_sentinel, "sentinel", why)
