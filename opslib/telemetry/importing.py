"""
Read files of snapshots, fills, backtests, chains and logs into the store, and give posts back.

A line of snapshots is ``{"ts": …, "metrics": {…}}``, as ``ops export snapshots`` writes it. Each row is accepted, known
already (duplicate), or refused with a reason, which is kept.
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
    What became of the rows of a file: counts that add up to all its rows.

    Attributes:
        kind: Of which kind it is, one of `KINDS`.
        errors: Of a log how many errors the file holds; None of other files.
        by_kind: Of a log how many errors of each kind.
        remark: What else a user must know; empty where nothing.
    """

    kind: str
    accepted: int
    duplicate: int
    rejected: int
    errors: int | None = None
    by_kind: dict[str, int] = field(default_factory=dict)
    remark: str = ""

    def as_json(self) -> dict[str, Any]:
        """For ``ops import -o json``."""
        counts = {"kind": self.kind, "accepted": self.accepted, "duplicate": self.duplicate, "rejected": self.rejected}
        return counts if self.errors is None else counts | {"errors": self.errors, "by_kind": self.by_kind}


def _is_snapshots(path: Path, first: bytes) -> bool:
    """Whether a file's first line is a snapshot."""
    if path.suffix in (".csv", ".parquet", ".ipynb"):
        return False
    return first.startswith(b"{") and b'"metrics"' in first


def _post(line: bytes) -> Post:
    if len(line) > LONGEST_LINE:
        raise BadSnapshot([f"the line has {len(line):,} bytes; at most {LONGEST_LINE:,} are read"])
    row: Any = snapshot.loads(line)
    if not isinstance(row, dict) or "metrics" not in row:
        raise BadSnapshot(['a line is {"ts": …, "metrics": {…}}; this one is not'])
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
    Read one file of snapshots into the store. Reading it again changes nothing.

    Args:
        known_at_ts: Take each row's own time for when it was known; for replays.
        progress: Shows how many lines have come.

    Raises:
        ImportRefused: Not a readable file of snapshots.
    """
    rows = rejected = accepted = 0
    posts: list[Post] = []
    rejects: list[RejectedPost] = []
    for number, line in progress(files.lines(path)):
        if rows == 0 and not _is_snapshots(path, line):
            raise ImportRefused(
                f'{path} is no file of snapshots: lines of {{"ts": …, "metrics": {{…}}}} were wanted, found '
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
        raise ImportRefused(f"{path} is empty; lines of snapshots were wanted.")
    return ImportResult("snapshots", accepted, rows - rejected - accepted, rejected)


def read_fills(store: Database, app: str, path: Path, *, known_at_ts: bool = False) -> ImportResult:
    """
    Read one file of fills into the store, with what a backtest said of its trades. Reading it again changes nothing.

    Raises:
        ImportRefused: It is none, or not one row of it can be read.
    """
    found = reader.read(path)
    return _kept(store, app, path, "fills", found, FillStore(store, app).keep(found, known_at_ts=known_at_ts))


def read_backtest(store: Database, app: str, path: Path, *, known_at_ts: bool = False) -> ImportResult:
    """
    Read one file of a backtest into the store: its trades with their prices, or what percent it says each came to.

    Reading it again changes nothing; of a trade that the store has otherwise the newest import counts.

    Raises:
        ImportRefused: It is none, or not one row of it can be read.
    """
    found = reader.read(path, backtest=True)
    return _kept(
        store, app, path, "backtest", found, FillStore(store, app).keep_backtest(found, known_at_ts=known_at_ts)
    )


def _kept(store: Database, app: str, path: Path, kind: str, found: FillsFile, counts: tuple[int, int]) -> ImportResult:
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
    Read one file into the store, of the kind that is named, else of the one its content shows.

    Args:
        rules: By which a chain is judged.
        as_of: When a chain or a log was so, where it does not say.
        known_at_ts: Take each row's own time for when it was known; for replays.
        redact: Removes secrets from what is kept of chains and logs.
        progress: Shows how many lines have come.

    Raises:
        ImportRefused: It is of no kind that can be read, or not readable.
        UsageError: A chain does not say when it was so, and neither does `as_of`.
    """
    match kind or kind_of(path):
        case "fills":
            return read_fills(store, app, path, known_at_ts=known_at_ts)
        case "backtest":
            return read_backtest(store, app, path, known_at_ts=known_at_ts)
        case "chain":
            kept = chain_import.read(store, app, path, rules, as_of=as_of, known_at_ts=known_at_ts, redact=redact)
            remark = (
                f"its contracts name no underlying, so the chain is kept under the file's name: ops greeks "
                f"{kept.by_file} --as-of TIME"
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
    said = (
        [f"{found.without_zone:,} lines state a time without an offset, which was read as New York's"]
        if found.without_zone
        else []
    )
    said += (
        [
            f"{found.read_live:,} lines are of times at which the collector read the app's log itself; they "
            f"were not counted again"
        ]
        if found.read_live
        else []
    )
    return "; ".join(said)


def kind_of(path: Path) -> str:
    """
    The kind that a file's content shows, one of `KINDS`.

    Raises:
        ImportRefused: It shows none, or cannot be read.
    """
    found, size = list[bytes](), 0
    for _, line in files.lines(path):
        found.append(line)
        size += len(line) + 1
        if size >= BEGINNING:
            break
    if not found:
        raise ImportRefused(f"{path} is empty; snapshots, fills, a backtest, a chain or a log was expected.")
    start = b"\n".join(found)[:BEGINNING].decode("utf-8-sig", "replace")
    if _is_snapshots(path, found[0]):
        return "snapshots"
    if reader.is_percents(start):
        return "backtest"
    if reader.is_fills(start):
        # Live trades and a backtest's look alike; taken for live ones, a backtest's would spoil every figure.
        if "backtest" in path.name.lower():
            raise ImportRefused(
                f"{path} holds trades; its name says that they are a backtest's, its content does not. Name "
                f"what they are: --kind backtest, or --kind fills."
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
        f'{path} is none of the files that can be read: lines of snapshots {{"ts": …, "metrics": {{…}}}}, '
        f"{reader.WANTED}, a backtest (--kind backtest), an option chain, or a log. Found "
        f"{formatting.single_line(start[:60])!r}. If it is one of these, name it with --kind."
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
    Which stretch of time do a day, or two ends, mean, up to a moment? None where they mean all.

    Raises:
        UsageError: A day and an end, or none of these.
    """
    if day and (start or end):
        raise UsageError("--day, or --from and --to, not both.")
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
    Give every post as it came, a JSON line each with ts, known_at, page and metrics; oldest first.

    Raises:
        StoreError: After the last line: some rows could not be read; names them.
    """
    start, end = (clock.micros(window.start), clock.micros(window.end)) if window else (None, None)
    for ts, known, page, body in rescue.posts(store, app, start, end, clock.micros(known_at) if known_at else None):
        # A newline cannot stand inside a JSON string, so taking them out changes nothing that was said.
        metrics = body.replace("\r", " ").replace("\n", " ")
        yield (
            f'{{"ts":{json.dumps(formatting.iso(clock.instant(ts)))},'
            f'"known_at":{json.dumps(formatting.iso(clock.instant(known)))},"page":{json.dumps(page)},'
            f'"metrics":{metrics}}}'
        )
