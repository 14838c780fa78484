"""
Import a file with option chains into the database, in the form in which the collector stores a fetched chain.

Each underlying and each time in a file is a separate chain. A vendor's response about one of them is stored unchanged;
everything else as one row per contract, with the names of `chain.FIELDS`.
"""

import json
import re
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from opslib.foundation import clock, files, formatting
from opslib.foundation.config.rules import Rules
from opslib.foundation.errors import ImportRefused
from opslib.foundation.formatting import NEW_YORK
from opslib.foundation.storage.database import Database
from opslib.telemetry.pages.store import RejectedPost, SnapshotStore
from opslib.telemetry.probes.store import Sample, SampleStore
from opslib.trading.options import chain as chain_module
from opslib.trading.options import chain_quality, iv_baseline
from opslib.trading.options.contracts import day_end

if TYPE_CHECKING:
    from pandas import DataFrame

VENDORS = ("massive", "tradier", "schwab", "yahoo")
TIMES = ("quote_ts", "underlying_ts", "greeks_ts", "as_of")


class Counts(NamedTuple):
    """
    The counts of a file's contracts.

    Attributes:
        by_file: The symbol made from the file name, if a chain of the file has no underlying; else empty.
    """

    accepted: int
    duplicate: int
    rejected: int
    by_file: str


def read(
    store: Database,
    app: str,
    path: Path,
    rules: Rules,
    *,
    as_of: datetime | None = None,
    known_at_ts: bool = False,
    redact: Callable[[str], str] = str,
) -> Counts:
    """
    Import the chains of a file. A second import changes nothing.

    Args:
        as_of: The time of the chain if the file has none; a time within the day is also taken as the fetch time.
        known_at_ts: Use each chain's own time as its known-at time; for replays.
        redact: Removes secrets from stored texts.

    Raises:
        ImportRefused: It holds no readable chain.
        UsageError: Neither the file nor `as_of` gives the time of the chain.
    """
    found = chain_module.read(path, as_of)
    parts = list(found.frame.groupby(["underlying", "as_of"], sort=True))
    samples, counts = SampleStore(store, app), {True: 0, False: 0}
    for (named, _), part in parts:
        symbol = str(named).upper() or _by_file(path)
        at = _fetched(
            part["as_of"].iloc[0].to_pydatetime(),
            as_of if len(parts) == 1 or part["as_of"].max() == found.frame["as_of"].max() else None,
        )
        pages = (_as_sent(path, found, at) if len(parts) == 1 else None) or _rows(part, symbol)
        chain = chain_module.of_payload(pages, f"the chain of {symbol}", at)
        detail: dict[str, Any] = {"pages": len(pages), "file": formatting.single_line(path.name, 80)}
        try:
            detail |= iv_baseline.counted(chain_quality.evaluate_chain(chain, rules.chain, at))
        except ImportRefused as problem:
            detail |= {"why": str(problem)}
        sample = Sample(
            clock.micros(at),
            "chain",
            symbol,
            "ok",
            None,
            float(len(part)),
            detail=redact(json.dumps(detail, ensure_ascii=False, sort_keys=True)),
        )
        kept = [redact(json.dumps(page, ensure_ascii=False, separators=(",", ":"))).encode() for page in pages]
        counts[samples.keep_imported_chain(found.provider, symbol, kept, sample, known_at_ts=known_at_ts)] += len(part)
    SnapshotStore(store).keep_rejects(
        app, [RejectedPost(f"{path.name}:{place.rsplit(':', 1)[-1]}", (why,), b"") for place, why in found.refused]
    )
    return Counts(
        counts[True], counts[False], len(found.refused), "" if all(named for (named, _), _ in parts) else _by_file(path)
    )


def _by_file(path: Path) -> str:
    """Return the symbol for a chain without an underlying: made from the file name."""
    return re.sub(r"[^A-Z0-9]", "", path.name.removesuffix(".gz").rsplit(".", 1)[0].upper())[:20] or "CHAIN"


def _fetched(moment: datetime, as_of: datetime | None) -> datetime:
    """Return when a chain was fetched: at `as_of` if it is on the same day, else at the time of the chain."""
    if as_of is not None and day_end(as_of) == as_of and timedelta(0) <= as_of - moment < timedelta(days=1):
        return as_of
    return moment


def _as_sent(path: Path, found: chain_module.Chain, at: datetime) -> list[Any] | None:
    """Return the pages of a vendor's response unchanged; None if the file is no such response."""
    if found.provider not in VENDORS:
        return None
    try:
        payload = json.loads(files.read_bytes(path))
        pages = payload if isinstance(payload, list) else [payload]
        again = chain_module.of_payload(pages, str(path), at)
    except (ValueError, RecursionError, ImportRefused):
        return None
    return pages if again.provider == found.provider and len(again.frame) == len(found.frame) else None


def _rows(frame: "DataFrame", symbol: str) -> list[dict[str, Any]]:
    """Return a row per contract, without columns that have no value."""
    import pandas

    table = frame[list(chain_module.FIELDS)].copy()
    table["underlying"] = [named or symbol for named in table["underlying"]]
    table["expiry"] = table["expiry"].dt.tz_convert(NEW_YORK).dt.strftime("%Y-%m-%d")
    for name in TIMES:
        table[name] = [None if pandas.isna(at) else formatting.iso(at.to_pydatetime()) for at in table[name]]
    table = table.drop(columns=[name for name in table.columns if all(pandas.isna(v) or v == "" for v in table[name])])
    return [
        {str(name): value for name, value in row.items() if not pandas.isna(value)} for row in table.to_dict("records")
    ]
