"""
Read a file with option chains into the store, as the collector keeps a chain that it fetched.

Each underlying and each moment of a file is a chain of its own. A vendor's answer about one of them is kept as it is;
everything else as one row for each contract, under the names of `chain.FIELDS`.
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
    What became of the contracts of a file; and the name after the file, where one of its chains names no underlying.
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
    Read the chains of a file into the store. Reading it again changes nothing.

    Args:
        as_of: When it was so, where the file does not say; a moment within a day also says when it was fetched.
        known_at_ts: Take each chain's own time for when it was known; for replays.
        redact: Removes secrets from what is kept.

    Raises:
        ImportRefused: It holds no chain that can be read.
        UsageError: Nobody says when it was so.
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
            detail |= iv_baseline.counted(chain_quality.judge(chain, rules.chain, at))
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
    """The name under which a chain is kept that does not name its underlying."""
    return re.sub(r"[^A-Z0-9]", "", path.name.removesuffix(".gz").rsplit(".", 1)[0].upper())[:20] or "CHAIN"


def _fetched(moment: datetime, as_of: datetime | None) -> datetime:
    """When a chain was fetched: at a moment of the same day that was named, else when it was so."""
    if as_of is not None and day_end(as_of) == as_of and timedelta(0) <= as_of - moment < timedelta(days=1):
        return as_of
    return moment


def _as_sent(path: Path, found: chain_module.Chain, at: datetime) -> list[Any] | None:
    """The pages of a vendor's answer as they are; None where the file is no such answer, or would read otherwise."""
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
    """A row for each contract; a column without any value is left out, as of a feed that does not have it."""
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
