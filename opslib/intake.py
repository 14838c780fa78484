"""
This module knows how files of snapshots and of fills are read into the store, and posts given back, and nothing else.

A line of snapshots is ``{"ts": …, "metrics": {…}}``, as ``ops export snapshots`` writes it; what a file of fills is,
`book` knows. Every row is accepted, known already, or refused by name; what is refused is kept with its reason.
"""

import gzip
import json
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from opslib import book as book_module, clock, snapshot, text
from opslib.clock import Window
from opslib.errors import BadSnapshot, ImportRefused, UsageError
from opslib.filings import Filings
from opslib.store import Post, Reject, Store

BATCH = 2000
LONGEST_LINE = 1_000_000
BEGINNING = 20_000


@dataclass(frozen=True, slots=True)
class Imported:
    """What became of the rows of a file: counts that add up to all its rows."""

    accepted: int
    duplicate: int
    rejected: int


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """The lines of a file, plain or gzip, with their numbers; empty ones are none."""
    try:
        with open(path, "rb") as raw:
            zipped = raw.read(2) == b"\x1f\x8b"
        with gzip.open(path, "rb") if zipped else open(path, "rb") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, line.strip()
    except IsADirectoryError:
        raise ImportRefused(f"{path} is a folder; a file was wanted.") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as problem:
        raise ImportRefused(f"{path} is cut off or damaged ({problem}); what came before was kept. Import a whole copy again: rows that are known are passed over.") from None
    except OSError as problem:
        raise ImportRefused(f"{path} cannot be read ({problem.strerror}).") from None


def _is_snapshots(path: Path, first: bytes) -> bool:
    """Does a file's first line look like a snapshot?"""
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
        ts = clock.micros(clock.parse(row["ts"])) if isinstance(row.get("ts"), str) else None
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


def read_file(store: Store, app: str, path: Path, *, known_at_ts: bool = False, progress: Callable[[Iterable], Iterable] = iter) -> Imported:
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
    rejects: list[Reject] = []
    for number, line in progress(_lines(path)):
        if rows == 0 and not _is_snapshots(path, line):
            raise ImportRefused(f'{path} is no file of snapshots: lines of {{"ts": …, "metrics": {{…}}}} were wanted, found {text.one_line(line[:60].decode("utf-8", "replace"))!r}. Chains and logs cannot be read yet.')
        rows += 1
        try:
            posts.append(_post(line))
        except BadSnapshot as problem:
            rejects.append(Reject(f"{path.name}:{number}", tuple(problem.fields), line[:LONGEST_LINE]))
            rejected += 1
        if len(posts) + len(rejects) >= BATCH:
            accepted += store.write(app, posts, rejects, known_at_ts=known_at_ts)
            posts, rejects = [], []
    accepted += store.write(app, posts, rejects, known_at_ts=known_at_ts) if posts or rejects else 0
    if rows == 0:
        raise ImportRefused(f"{path} is empty; lines of snapshots were wanted.")
    return Imported(accepted, rows - rejected - accepted, rejected)


def read_fills(store: Store, app: str, path: Path, *, known_at_ts: bool = False) -> Imported:
    """
    Read one file of fills into the store, with what a backtest said of its trades. Reading it again changes nothing.

    Raises:
        ImportRefused: It is none, or not one row of it can be read.
    """
    found = book_module.read(path)
    accepted, duplicate = Filings(store, app).keep(found, known_at_ts=known_at_ts)
    store.keep_rejects(app, [Reject(f"{path.name}:{r.row}", r.reasons, r.body.encode()) for r in found.refused])
    return Imported(accepted, duplicate, len(found.refused))


def read_any(store: Store, app: str, path: Path, kind: str | None = None, *, known_at_ts: bool = False, progress: Callable[[Iterable], Iterable] = iter) -> Imported:
    """
    Read one file into the store, of the kind that is named, else of the one its content shows.

    Raises:
        ImportRefused: It is of no kind that can be read.
    """
    if kind is None:
        first = next((line for _, line in _lines(path)), b"")
        kind = "snapshots" if _is_snapshots(path, first) or not book_module.is_fills(_start(path)) else "fills"
    if kind == "fills":
        return read_fills(store, app, path, known_at_ts=known_at_ts)
    return read_file(store, app, path, known_at_ts=known_at_ts, progress=progress)


def _start(path: Path) -> str:
    """The beginning of a file, as text; enough to tell what it is."""
    found = b""
    for _, line in _lines(path):  # Which refuses a file that is cut off; what reads it afterwards would too.
        found += line + b"\n"
        if len(found) >= BEGINNING:
            break
    return found[:BEGINNING].decode("utf-8-sig", "replace")


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
        first, microsecond = clock.parse_day(day), timedelta(microseconds=1)
        found = Window(clock.parse(f"{first}T00:00") - microsecond, clock.parse(f"{first + timedelta(days=1)}T00:00") - microsecond)
    elif start or end:
        found = Window(clock.parse(start or "1970-01-01T00:00Z"), clock.parse(end, "end") if end else clock.instant(2**57))
    if as_of:
        upto = clock.parse(as_of, "close")
        found = Window(min(found.start, upto), min(found.end, upto)) if found else Window(clock.parse("1970-01-01T00:00Z"), upto)
    return found


def exported(store: Store, app: str, window: Window | None, known_at: datetime | None) -> Iterator[str]:
    """Every post as it came, a JSON line each with ts, known_at, page and metrics; oldest first."""
    start, end = (clock.micros(window.start), clock.micros(window.end)) if window else (None, None)
    for ts, known, page, body in store.bodies(app, start, end, clock.micros(known_at) if known_at else None):
        # A newline cannot stand inside a JSON string, so taking them out changes nothing that was said.
        metrics = body.decode("utf-8-sig").replace("\r", " ").replace("\n", " ")
        yield f'{{"ts":{json.dumps(text.iso(clock.instant(ts)))},"known_at":{json.dumps(text.iso(clock.instant(known)))},"page":{json.dumps(page)},"metrics":{metrics}}}'
