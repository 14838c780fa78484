"""
Import files of snapshots, fills, backtests, chains and logs into the database, and export snapshots.

A line of snapshots is ``{"ts": …, "metrics": {…}}``, as ``ops export snapshots`` writes it. Each row is accepted,
duplicate, or rejected; rejected rows are stored with their reason.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from opslib.foundation import clock, files, formatting, time_parsing
from opslib.foundation.clock import Window
from opslib.foundation.config.rules import Rules
from opslib.foundation.errors import BadSnapshot, ImportRefused, UsageError
from opslib.foundation.storage.database import Database
from opslib.telemetry import chain_import, log_import
from opslib.telemetry.pages import rescue, snapshot
from opslib.telemetry.pages.store import Post, RejectedPost, SnapshotStore
from opslib.telemetry.probes import log_lines
from opslib.trading.pnl import reader
from opslib.trading.pnl.fills import FillsFile
from opslib.trading.pnl.store import FillStore

BATCH = 2000
LONGEST_LINE = files.LONGEST_LINE
BEGINNING = 20_000
KINDS = ("snapshots", "fills", "backtest", "chain", "log")
_OF_CHAIN = re.compile(
    r'(?i)"(?:details|strike|strike_price|strikePrice|option_type|contractSymbol|callExpDateMap|putExpDateMap'
    r'|optionChain|putCall|contract_type)"'
)


@dataclass(frozen=True, slots=True)
class ImportResult:
    """
    The counts of a file's rows; they add up to all its rows.

    Attributes:
        kind: The kind of file, one of `KINDS`.
        errors: For a log, the number of errors in the file; None for other files.
        by_kind: For a log, the number of errors of each kind.
        remark: A remark for the user; empty if there is none.
    """

    kind: str
    accepted: int
    duplicate: int
    rejected: int
    errors: int | None = None
    by_kind: dict[str, int] = field(default_factory=dict)
    remark: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return the JSON of ``ops import -o json``."""
        counts = {"kind": self.kind, "accepted": self.accepted, "duplicate": self.duplicate, "rejected": self.rejected}
        return counts if self.errors is None else counts | {"errors": self.errors, "by_kind": self.by_kind}


def _is_snapshots(path: Path, first: bytes) -> bool:
    """Return whether a file's first line is a snapshot."""
    if path.suffix in (".csv", ".parquet", ".ipynb"):
        return False
    return first.startswith(b"{") and b'"metrics"' in first


def _post(line: bytes) -> Post:
    if len(line) > LONGEST_LINE:
        raise BadSnapshot([f"the line has {len(line):,} bytes; expected at most {LONGEST_LINE:,}"])
    row: Any = snapshot.loads(line)
    if not isinstance(row, dict) or "metrics" not in row:
        raise BadSnapshot(['the line is not a snapshot; expected {"ts": …, "metrics": {…}}'])
    bad = []
    ts = None
    try:
        ts = clock.micros(time_parsing.parse(row["ts"])) if isinstance(row.get("ts"), str) else None
        if ts is None:
            bad.append(f"ts is {row.get('ts')!r}, expected an ISO 8601 time")
    except UsageError as problem:
        bad.append(f"ts: {problem}")
    found = None
    try:
        found = snapshot.read(row["metrics"])
    except BadSnapshot as problem:
        bad += problem.fields
    page = row.get("page")
    if page is not None and not (isinstance(page, str) and 0 < len(page) <= 128 and page.isprintable()):
        bad.append(f"page is {page!r}, expected 1 to 128 printable characters")
    if bad or ts is None or found is None:
        raise BadSnapshot(bad)
    if page is not None and found.values["page_id"] is None:
        found = snapshot.Snapshot({**found.values, "page_id": page}, found.digest, found.body)
    return Post(ts, found)


def read_file(
    store: Database,
    app: str,
    path: Path,
    *,
    known_at_ts: bool = False,
    progress: Callable[[Iterable[Any]], Iterable[Any]] = iter,
) -> ImportResult:
    """
    Import one file of snapshots. A second import changes nothing.

    Args:
        known_at_ts: Use each row's own time as its known-at time; for replays.
        progress: Shows the number of lines read.

    Raises:
        ImportRefused: It is not a readable file of snapshots.
    """
    rows = rejected = accepted = 0
    posts: list[Post] = []
    rejects: list[RejectedPost] = []
    for number, line in progress(files.lines(path)):
        if rows == 0 and not _is_snapshots(path, line):
            raise ImportRefused(
                f'{path} is not a file of snapshots: expected lines of {{"ts": …, "metrics": {{…}}}}, found '
                f"{formatting.single_line(line[:60].decode('utf-8', 'replace'))!r}."
            )
        rows += 1
        try:
            posts.append(_post(line))
        except BadSnapshot as problem:
            rejects.append(RejectedPost(f"{path.name}:{number}", tuple(problem.fields), line[:LONGEST_LINE]))
            rejected += 1
        if len(posts) + len(rejects) >= BATCH:
            accepted += SnapshotStore(store).write(app, posts, rejects, known_at_ts=known_at_ts)
            posts, rejects = [], []
    accepted += SnapshotStore(store).write(app, posts, rejects, known_at_ts=known_at_ts) if posts or rejects else 0
    if rows == 0:
        raise ImportRefused(f"{path} is empty; expected lines of snapshots.")
    return ImportResult("snapshots", accepted, rows - rejected - accepted, rejected)


def read_fills(store: Database, app: str, path: Path, *, known_at_ts: bool = False) -> ImportResult:
    """
    Import one file of fills, with the backtest results of its trades. A second import changes nothing.

    Raises:
        ImportRefused: It is not a file of fills, or none of its rows can be read.
    """
    found = reader.read(path)
    return _stored(store, app, path, "fills", found, FillStore(store, app).keep(found, known_at_ts=known_at_ts))


def read_backtest(store: Database, app: str, path: Path, *, known_at_ts: bool = False) -> ImportResult:
    """
    Import one file of a backtest: its trades with their prices, or the percentage of each trade.

    A second import changes nothing. If a trade differs from the stored one, the newest import counts.

    Raises:
        ImportRefused: It is not a backtest, or none of its rows can be read.
    """
    found = reader.read(path, backtest=True)
    return _stored(
        store, app, path, "backtest", found, FillStore(store, app).keep_backtest(found, known_at_ts=known_at_ts)
    )


def _stored(
    store: Database, app: str, path: Path, kind: str, found: FillsFile, counts: tuple[int, int]
) -> ImportResult:
    SnapshotStore(store).keep_rejects(
        app, [RejectedPost(f"{path.name}:{r.row}", r.reasons, r.body.encode()) for r in found.refused]
    )
    return ImportResult(kind, *counts, len(found.refused))


def read_any(
    store: Database,
    app: str,
    path: Path,
    kind: str | None = None,
    *,
    rules: Rules,
    as_of: datetime | None = None,
    known_at_ts: bool = False,
    redact: Callable[[str], str] = str,
    progress: Callable[[Iterable[Any]], Iterable[Any]] = iter,
) -> ImportResult:
    """
    Import one file, of the given kind or of the kind found from its content.

    Args:
        rules: The rules by which a chain is evaluated.
        as_of: The time of a chain or log line that states none.
        known_at_ts: Use each row's own time as its known-at time; for replays.
        redact: Removes secrets from stored chains and logs.
        progress: Shows the number of lines read.

    Raises:
        ImportRefused: It is of no known kind, or not readable.
        UsageError: Neither the chain nor `as_of` gives its time.
    """
    match kind or kind_of(path):
        case "fills":
            return read_fills(store, app, path, known_at_ts=known_at_ts)
        case "backtest":
            return read_backtest(store, app, path, known_at_ts=known_at_ts)
        case "chain":
            kept = chain_import.read(store, app, path, rules, as_of=as_of, known_at_ts=known_at_ts, redact=redact)
            remark = (
                f"its contracts have no underlying, so the chain is stored under the file's name; read it with ops "
                f"greeks {kept.by_file} --as-of TIME"
                if kept.by_file
                else ""
            )
            return ImportResult("chain", kept.accepted, kept.duplicate, kept.rejected, remark=remark)
        case "log":
            found = log_import.read(
                store, app, path, as_of=as_of, known_at_ts=known_at_ts, redact=redact, progress=progress
            )
            return ImportResult(
                "log",
                found.accepted,
                found.duplicate,
                found.rejected,
                found.errors,
                dict(sorted(found.by_kind.items())),
                _remark(found),
            )
    return read_file(store, app, path, known_at_ts=known_at_ts, progress=progress)


def _remark(found: log_import.Counts) -> str:
    remarks = (
        [f"{found.without_zone:,} lines have a time without an offset, which was read as New York time"]
        if found.without_zone
        else []
    )
    remarks += (
        [
            f"{found.read_live:,} lines are from times when the collector read the app's log itself; they were not "
            f"counted again"
        ]
        if found.read_live
        else []
    )
    return "; ".join(remarks)


def kind_of(path: Path) -> str:
    """
    Find the kind of a file from its content: one of `KINDS`.

    Raises:
        ImportRefused: The content fits no kind, or cannot be read.
    """
    found, size = list[bytes](), 0
    for _, line in files.lines(path):
        found.append(line)
        size += len(line) + 1
        if size >= BEGINNING:
            break
    if not found:
        raise ImportRefused(f"{path} is empty; expected snapshots, fills, a backtest, a chain or a log.")
    start = b"\n".join(found)[:BEGINNING].decode("utf-8-sig", "replace")
    if _is_snapshots(path, found[0]):
        return "snapshots"
    if reader.is_percents(start):
        return "backtest"
    if reader.is_fills(start):
        # Live trades and those of a backtest have the same columns; a backtest read as live would corrupt every figure.
        if "backtest" in path.name.lower():
            raise ImportRefused(
                f"{path} holds trades: its name suggests a backtest, its content does not. State the kind: --kind "
                f"backtest or --kind fills."
            )
        return "fills"
    if start.startswith("PAR1") or _is_chain(start):
        return "chain"
    lines = [log_lines.read(line) for line in start.splitlines()[:100]]
    if 2 * sum(
        line.at is not None
        or line.is_error is not None
        or line.is_access
        or line.continues
        or bool(re.match(r"\[[\w ]+\] ", line.text))
        for line in lines
    ) > len(lines):
        return "log"
    raise ImportRefused(
        f'{path} is of no known kind: expected lines of snapshots {{"ts": …, "metrics": {{…}}}}, '
        f"{reader.WANTED}, a backtest (--kind backtest), an option chain, or a log; found "
        f"{formatting.single_line(start[:60])!r}. If it is one of these, state it with --kind."
    )


def _is_chain(start: str) -> bool:
    if re.match(r"\s*(\{|\[|//|/\*)", start):
        return bool(_OF_CHAIN.search(start))
    headers = (re.split(r"[,;\t]", line.lower()) for line in start.splitlines()[:8])
    return any(
        len(names) > 2
        and any("strike" in name or "option symbol" in name or "contractsymbol" in name for name in names)
        for names in headers
    )


def window(day: str | None, start: str | None, end: str | None, as_of: str | None) -> Window | None:
    """
    Return the window of a day, or of two ends, up to a moment; None for all time.

    Raises:
        UsageError: A day together with an end, or an unreadable time.
    """
    if day and (start or end):
        raise UsageError("--day cannot be combined with --from or --to; use one of them.")
    found = None
    if day:
        first, microsecond = time_parsing.parse_day(day), timedelta(microseconds=1)
        found = Window(
            time_parsing.parse(f"{first}T00:00") - microsecond,
            time_parsing.parse(f"{first + timedelta(days=1)}T00:00") - microsecond,
        )
    elif start or end:
        found = Window(
            time_parsing.parse(start or "1970-01-01T00:00Z"),
            time_parsing.parse(end, "end") if end else clock.instant(2**57),
        )
    if as_of:
        upto = time_parsing.parse(as_of, "close")
        found = (
            Window(min(found.start, upto), min(found.end, upto))
            if found
            else Window(time_parsing.parse("1970-01-01T00:00Z"), upto)
        )
    return found


def exported(store: Database, app: str, window: Window | None, known_at: datetime | None) -> Iterator[str]:
    """
    Yield every snapshot as it was posted: a JSON line with ts, known_at, page and metrics; oldest first.

    Raises:
        StoreError: After the last line, if some rows could not be read; it names them.
    """
    start, end = (clock.micros(window.start), clock.micros(window.end)) if window else (None, None)
    for ts, known, page, body in rescue.posts(store, app, start, end, clock.micros(known_at) if known_at else None):
        # A JSON string cannot contain a raw newline, so removing newlines does not change the content.
        metrics = body.replace("\r", " ").replace("\n", " ")
        yield (
            f'{{"ts":{json.dumps(formatting.iso(clock.instant(ts)))},'
            f'"known_at":{json.dumps(formatting.iso(clock.instant(known)))},"page":{json.dumps(page)},'
            f'"metrics":{metrics}}}'
        )
