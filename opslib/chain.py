"""
This module knows what a chain of options is: one frame, whoever sent it, with what is missing and why; and nothing else.
"""

import csv
import gzip
import io
import json
import re
import zlib
from dataclasses import dataclass
from datetime import UTC, datetime, time, tzinfo
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opslib import feeds, text
from opslib.contracts import SIDES, american_day, close_of, day_end, day_of, settles
from opslib.contracts import named as named_as
from opslib.errors import ImportRefused, UsageError
from opslib.text import NEW_YORK

if TYPE_CHECKING:
    from pandas import DataFrame, Series

TEXTS = ("underlying", "root", "symbol", "cp", "style", "timeframe")
NUMBERS = ("strike", "multiplier", "bid", "ask", "bid_size", "ask_size", "iv", "delta", "gamma", "theta", "vega", "oi", "volume", "underlying_px")
TIMES = ("as_of", "expiry", "quote_ts", "underlying_ts", "greeks_ts")
FIELDS = TEXTS + NUMBERS + TIMES
COLUMNS = (*FIELDS, "why_missing", "symbol_says", "place")
SENT = ("iv", "delta", "gamma", "theta", "vega")  # What a vendor works out, and may fail to.
SENTINELS = frozenset({-999.0, -9999.0, -99.0, -99999.0, 999999.0})
UNSOLVED_IV = 1e-4  # A solver's way to say that it found none; seen as 0 and as 0.00001.
MOST_BYTES = 1 << 30
NOTHING = frozenset({"", "null", "none", "--", "-", "n/a", "na", "<na>"})


@dataclass(frozen=True, eq=False)
class Chain:
    """
    The contracts of a chain.

    Attributes:
        frame: One row a contract, columns `COLUMNS`. Times are UTC: `as_of` when the row was so, `expiry` the instant at which
            it settles. Prices are dollars, Greeks and `iv` in whatever unit the feed has, all float, NaN for absent.
            `why_missing` says why a Greek or `iv` is absent: plan, no_quote, unsolvable, field_absent, null, sentinel; empty
            where nothing is. `symbol_says` is what the contract's symbol says otherwise than its row. `place` is its row.
        provider: Whose it is: massive, tradier, schwab, cboe, yahoo, or plain.
        partial: Why contracts are missing, as far as the answer says so.
        refused: What could not be read: its place and why.
    """

    frame: "DataFrame"
    provider: str
    partial: str = ""
    refused: tuple[tuple[str, str], ...] = ()

    @property
    def as_of(self) -> datetime:
        """The last instant that a row is of."""
        return self.frame["as_of"].max().to_pydatetime()

    def __repr__(self) -> str:
        names = ", ".join(sorted(map(str, self.frame["underlying"].unique()))[:5])
        return f"{len(self.frame):,} contracts of {names} from {self.provider}, as of {text.moment(self.as_of)}"


def read(path: Path, as_of: datetime | None = None) -> Chain:
    """
    What does a file hold? Massive's, Tradier's, TD Ameritrade's, Schwab's or Yahoo's JSON (with comments or without), Cboe's page of
    quotes, plain CSV or Parquet; compressed by gzip or not.

    Args:
        as_of: When it was so, where the file does not say.

    Raises:
        ImportRefused: It cannot be read, or holds no contract.
        UsageError: It does not say when it was so, and neither does anybody else.
    """
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ImportRefused(f"{path} has more than {MOST_BYTES >> 30} GiB; a chain was wanted.")
        content = path.read_bytes()
        content = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
    except IsADirectoryError:
        raise ImportRefused(f"{path} is a folder; a file with a chain was wanted.") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as problem:
        raise ImportRefused(f"{path} is cut off or damaged ({problem}).") from None
    except OSError as problem:
        raise ImportRefused(f"{path} cannot be read ({problem.strerror}).") from None
    return parsed(content, str(path), as_of)


def parsed(content: bytes, name: str, as_of: datetime | None = None) -> Chain:
    """The same as `read`, of bytes that came from somewhere else."""
    if content[:4] == b"PAR1":
        return _table(_parquet(content, name), name, as_of)
    try:
        told = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ImportRefused(f"{name} is neither text in UTF-8 nor Parquet; a chain was wanted.") from None
    if re.match(r"\s*(\{|//|/\*|\[\s*([{\[\]]|//|/\*))", told):
        return _of_json(told, name, as_of)
    first = list(csv.reader(told.splitlines()[:12]))
    header = feeds.cboe_header(first)
    if header is not None:
        return of_rows("cboe", feeds.cboe(list(csv.reader(io.StringIO(told))), header), name, as_of=as_of)
    if not first or len(first[0]) < 3:
        raise ImportRefused(f"{name} holds no chain: JSON of a vendor, or CSV with columns such as expiration, type and strike was wanted, found {text.one_line(told[:60])!r}.")
    import pandas

    try:
        frame = pandas.read_csv(io.StringIO(told), dtype=str, keep_default_na=False, skipinitialspace=True)
    except (pandas.errors.ParserError, ValueError) as problem:
        raise ImportRefused(f"{name} is no CSV that can be read: {text.one_line(str(problem))}.") from None
    return _table(frame, name, as_of)


def _parquet(content: bytes, name: str) -> "DataFrame":
    import pandas
    import pyarrow

    try:
        return pandas.read_parquet(io.BytesIO(content))
    except (pyarrow.ArrowException, OSError, ValueError) as problem:
        raise ImportRefused(f"{name} is no Parquet that can be read: {text.one_line(str(problem))}.") from None


def _of_json(told: str, name: str, as_of: datetime | None) -> Chain:
    try:
        payload = json.loads(told, parse_constant=str)  # NaN, as some write it, is kept as what it says.
    except RecursionError:
        raise ImportRefused(f"{name} is JSON nested deeper than any chain.") from None
    except ValueError:
        try:
            payload = json.loads(feeds.without_comments(told), parse_constant=str)
        except ValueError as problem:
            lines = [line for line in told.splitlines() if line.strip()]
            try:  # A page a line.
                payload = [json.loads(line, parse_constant=str) for line in lines] if len(lines) > 1 else None
            except ValueError:
                payload = None
            if payload is None:
                raise ImportRefused(f"{name} is no JSON that can be read: {problem}.") from None
    return of_payload(payload, name, as_of)


def of_payload(payload: Any, name: str, as_of: datetime | None = None) -> Chain:
    """
    The chain in a vendor's answer, or in a list of its pages.

    Raises:
        ImportRefused: It is nobody's answer that we know, or holds no contract.
    """
    found = feeds.rows_of(payload)
    if found is None and isinstance(payload, list) and payload and all(isinstance(r, dict) for r in payload):
        import pandas

        return _table(pandas.DataFrame(payload), name, as_of)
    if found is None:
        shown = ", ".join(map(str, payload))[:80] if isinstance(payload, dict) else type(payload).__name__
        raise ImportRefused(f"{name} holds no chain that we know: an answer of Massive, Tradier, Schwab or Yahoo was wanted, found JSON with {text.one_line(shown)!r}.")
    provider, rows, partial = found
    return of_rows(provider, rows, name, partial=partial, as_of=as_of)


def of_rows(provider: str, rows: Any, name: str, *, partial: str = "", as_of: datetime | None = None) -> Chain:
    """The chain of a reader's rows; see `feeds`."""
    import pandas

    rows = list(rows)
    if not rows:
        raise ImportRefused(f"{name} holds no contract of {provider}'s chain. {partial or 'Was the symbol right?'}")
    absent = object()
    frame = pandas.DataFrame({field: pandas.Series([row.get(field, absent) for row in rows], dtype=object) for field in FIELDS})
    return _settled(frame, absent, provider, name, partial, as_of)


def _table(table: "DataFrame", name: str, as_of: datetime | None) -> Chain:
    """The chain of a plain table, by the usual names of its columns; with a call and a put on each line too."""
    import pandas

    table = table.rename(columns=lambda c: str(c).strip().strip("[]").strip().removesuffix("_1545"))  # Of Cboe's files the quotes of 15:45, not those after the close.
    table = table.reset_index() if "strike" in (table.index.names or []) else table
    if not len(table):
        raise ImportRefused(f"{name} has the names of columns, and no row.")
    halves = {side: {c: c[len(m[0]) :] for c in table.columns if (m := re.match(rf"(?i){letters}[_ ]", c))} for side, letters in (("call", "(?:c|call)"), ("put", "(?:p|put)"))}
    if all(any(named.lower() in ("bid", "iv", "delta", "ask") for named in half.values()) for half in halves.values()):
        common = [c for c in table.columns if not any(c in half for half in halves.values())]
        table = pandas.concat([table[[*common, *half]].rename(columns=half).assign(cp=side) for side, half in halves.items()], ignore_index=True)
    names = feeds.plain(table.columns)
    frame = table[list(names)].rename(columns=names)
    if "expiry" not in frame and "cp" not in frame and "symbol" not in frame:
        raise ImportRefused(f"{name} holds no chain: columns for expiration, type and strike, or the contract's symbol, were wanted, found {text.one_line(', '.join(map(str, table.columns)))}.")
    absent = object()
    frame = frame.astype(object)
    for field in FIELDS:
        if field not in frame:
            frame[field] = absent
    provider = "yahoo" if "contractSymbol" in table.columns and "inTheMoney" in table.columns else "plain"
    return _settled(frame.reset_index(drop=True), absent, provider, name, "", as_of)


def _settled(raw: "DataFrame", absent: object, provider: str, name: str, partial: str, as_of: datetime | None) -> Chain:
    """Cells into numbers and times, with what is missing and why; rows that name no contract are refused."""
    import numpy as np
    import pandas

    frame = pandas.DataFrame(index=raw.index)
    bad = np.full(len(raw), "", dtype=object)
    lacking: dict[str, Any] = {}
    for field in TEXTS:
        frame[field] = [str(v).strip() if v is not absent and v is not None and v == v else "" for v in raw[field]]
    for field in NUMBERS:
        frame[field], lacking[field] = _numbers(raw[field], absent)
    named = [named_as(s) for s in frame["symbol"]]
    frame["root"] = [r or (n[0] if n else u.removeprefix("I:")) for r, n, u in zip(frame["root"], named, frame["underlying"])]
    frame["underlying"] = [u or (r.rstrip("0123456789") if r else "") for u, r in zip(frame["underlying"], frame["root"])]
    sides = [SIDES.get(c.lower(), "") or (n[2] if n and not c else "") for c, n in zip(frame["cp"], named)]
    strikes = frame["strike"].to_numpy(copy=True)
    given = np.array([n[3] if n else np.nan for n in named], dtype=float)
    strikes = np.where(np.isnan(strikes), given, strikes)
    frame["strike"] = strikes
    days = [day_of(v, n, absent) for v, n in zip(raw["expiry"], named)]
    frame["ends"] = [str(day) for day in days]
    for i, (side, day) in enumerate(zip(sides, days)):
        if not side:
            bad[i] = f"type is {text.one_line(str(raw['cp'][i] if raw['cp'][i] is not absent else ''))!r}, call or put was wanted"
        elif day is None:
            bad[i] = f"expiration is {text.one_line(str(raw['expiry'][i] if raw['expiry'][i] is not absent else ''))!r}, a date was wanted"
        elif not strikes[i] > 0 or not np.isfinite(strikes[i]):
            bad[i] = f"strike is {text.one_line(str(raw['strike'][i] if raw['strike'][i] is not absent else ''))!r}, a number above 0 was wanted"
    frame["symbol_says"] = ["" if not n or not s or np.isnan(k) else ("" if n[2] == s else n[2]) or ("" if abs(n[3] - k) < 0.0051 else f"strike {n[3]:g}") for n, s, k in zip(named, sides, strikes)]
    frame["cp"] = sides
    frame["place"] = np.arange(1, len(raw) + 1)
    for field in ("quote_ts", "underlying_ts", "greeks_ts", "as_of"):
        frame[field] = _times(raw[field], absent, UTC if field == "greeks_ts" else NEW_YORK)
    frame["as_of"] = _moments(frame, provider, name, as_of)
    keep = bad == ""
    refused = tuple((f"{name}:{i + 1}", str(bad[i])) for i in np.flatnonzero(~keep))
    if not keep.any():
        raise ImportRefused(f"{name} holds no contract that can be read: {refused[0][0]}: {refused[0][1]}.")
    if as_of is not None and (earlier := keep & (frame["as_of"] <= day_end(as_of)).to_numpy()).any():
        keep = earlier  # Of a file of many days those that had been.
    instants = [settles(day, root) if ok else pandas.NaT for day, root, ok in zip(days, frame["root"], keep)]
    frame["expiry"] = pandas.to_datetime(pandas.Series(instants, index=frame.index), utc=True)
    frame["multiplier"] = frame["multiplier"].where(frame["multiplier"] > 0)
    frame["why_missing"] = _why(frame, lacking)
    return Chain(frame.loc[keep, list(COLUMNS)].reset_index(drop=True), provider, partial, refused)


def _numbers(cells: "Series", absent: object) -> tuple[Any, Any]:
    """Cells as floats, NaN for what is none; and of each why: empty, field_absent, null, sentinel."""
    import numpy as np

    values, why = np.full(len(cells), np.nan), np.full(len(cells), "", dtype=object)
    for i, cell in enumerate(cells):
        if cell is absent:
            why[i] = "field_absent"
            continue
        if cell is None or cell != cell or (isinstance(cell, str) and cell.strip().lower() in NOTHING):
            # A float that is no number came as one: in JSON, or in a table's own way to say that there is nothing.
            why[i] = "null"
            continue
        try:
            told = cell.strip().replace(",", "").lstrip("$") if isinstance(cell, str) else cell
            number = float(told[:-1]) / 100 if isinstance(told, str) and told.endswith("%") else float(told)
        except (TypeError, ValueError, OverflowError):
            why[i] = "sentinel"
            continue
        if not np.isfinite(number) or number in SENTINELS:
            why[i] = "sentinel"
        else:
            values[i] = number
    return values, why


def _moments(frame: "DataFrame", provider: str, name: str, as_of: datetime | None) -> "Series":
    """
    Of which moment is each row? Of what the file says; a date alone is that day's close. Where each contract has a moment of its
    own, and none two of a day, they are quotes of one chain, which is of the newest.
    """
    import pandas

    if provider in ("massive", "tradier", "schwab"):
        frame["as_of"] = frame[["quote_ts", "underlying_ts"]].max(axis=1).max()
    told = {at: pandas.Timestamp(day_end(at.to_pydatetime())) for at in frame["as_of"].dropna().unique()}
    if provider in ("plain", "yahoo"):  # A date that a file gives in UTC is that date, not the evening before in New York.
        told |= {at: pandas.Timestamp(close_of(at.date())) for at in told if at.time() == time(0)}
    found = pandas.to_datetime(frame["as_of"].map(told), utc=True).astype("datetime64[us, UTC]")
    if found.isna().any():
        if as_of is None:
            raise UsageError(f"{name} does not say when it was so: give --as-of.")
        found = found.fillna(pandas.Timestamp(day_end(as_of)))
    days = found.dt.tz_convert(NEW_YORK).dt.date
    contract = [frame[n] for n in ("root", "symbol", "strike", "cp")] + [frame["ends"], days]
    if found.nunique() > days.nunique() and found.groupby(contract, dropna=False).nunique().max() == 1:
        frame["quote_ts"] = frame["quote_ts"].where(frame["quote_ts"].notna(), found)
        found = found.groupby(days).transform("max")
    return found


def _times(cells: "Series", absent: object, zone: tzinfo) -> "Series":
    import pandas

    known: dict[Any, Any] = {}
    found = []
    for cell in cells:
        if cell is absent or cell is None or cell == "" or cell != cell:
            found.append(pandas.NaT)
            continue
        key = str(cell)
        if key not in known:
            at = cell if isinstance(cell, datetime) else american_day(key) or feeds.stamp(cell, zone)
            at = at.replace(tzinfo=zone) if isinstance(at, datetime) and at.tzinfo is None else at
            known[key] = pandas.Timestamp(at) if at else pandas.NaT
        found.append(known[key])
    return pandas.to_datetime(pandas.Series(found, index=cells.index), utc=True)


def _why(frame: "DataFrame", lacking: dict[str, Any]) -> Any:
    """Why is a Greek or a volatility missing? Of several reasons the one that says most."""
    import numpy as np

    supplied = [field for field in SENT if np.isfinite(frame[field]).any() or (lacking[field] == "sentinel").any()]
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
    said = np.any([lacking[field] == "sentinel" for field in (*supplied, "bid", "ask")], axis=0)
    unsolved = frame["iv"].to_numpy() < UNSOLVED_IV if "iv" in supplied else np.zeros(len(frame), dtype=bool)
    why = np.where(gone & unquoted & (why != ""), "no_quote", why)
    why = np.where(unsolved & (why == ""), "unsolvable", why)
    return np.where(said, "sentinel", why)
