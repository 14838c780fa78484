"""
Read all snapshots of a database, also of a damaged one: unreadable rows are named, the others are returned.

Snapshots are returned in order of time. If the file itself is damaged, the remaining ones follow in the order of
writing, read in ever smaller ranges of rows around the damage.
"""

import contextlib
import json
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import sqlalchemy as sa

from opslib.foundation import formatting
from opslib.foundation.errors import StoreError
from opslib.foundation.storage import cell_types
from opslib.foundation.storage.database import Database, Query
from opslib.foundation.storage.schema import SNAPSHOTS

_RAW = sa.types.NullType()  # Unchecked, so that a damaged cell affects only its own row.
_COLUMNS = [sa.type_coerce(SNAPSHOTS.c[name], _RAW).label(name) for name in ("seq", "ts_us", "known_at_us")]
_BODY = sa.type_coerce(SNAPSHOTS.c.body, _RAW).label("body")
RANGE = 4096  # Rows per query around damage.


class Kept(NamedTuple):
    """
    A snapshot as it was posted.

    Attributes:
        ts_us, known_at_us: When it happened and when it was known, microseconds since 1970 UTC.
        page: The page id; None if it has none.
        metrics: The JSON.
    """

    ts_us: int
    known_at_us: int
    page: str | None
    metrics: str


def posts(
    store: Database, app: str, start_us: int | None, end_us: int | None, known_at_us: int | None
) -> Iterator[Kept]:
    """
    Yield every snapshot of an app in (start, end] as known at a moment (None: all), oldest first.

    Raises:
        StoreError: After the last readable one, if some could not be read; it names their rows and the reason.
    """
    s = SNAPSHOTS.c
    # Read as text, SQLite would fail on invalid UTF-8, and on all rows after it.
    page = sa.cast(s.page_id, sa.LargeBinary) if store.is_sqlite else s.page_id
    query = sa.select(*_COLUMNS, sa.type_coerce(page, _RAW).label("page"), _BODY).where(s.app == app)
    for bound in (
        None if start_us is None else s.ts_us > start_us,
        None if end_us is None else s.ts_us <= end_us,
        None if known_at_us is None else s.known_at_us <= known_at_us,
    ):
        query = query if bound is None else query.where(bound)
    given, damaged = set[int](), dict[int, str]()
    try:
        for row in store.stream(query.order_by(s.ts_us, s.seq)):
            given.add(row.seq)
            yield from _kept(row, damaged)
    except StoreError as problem:
        if not store.is_sqlite:
            raise
        for row in _around(store, query, 1, _last(store, given), given, damaged, problem):
            yield from _kept(row, damaged)
    if store.is_sqlite:  # No query finds a row without a valid app or time.
        astray = sa.text(
            "SELECT seq, typeof(app) AS app, typeof(ts_us) AS ts_us FROM snapshots WHERE typeof(app) <> "
            "'text' OR typeof(ts_us) <> 'integer'"
        )
        with contextlib.suppress(StoreError):  # Unreadable rows were named above.
            damaged |= {
                row.seq: f"snapshots.app is {row.app}, ts_us is {row.ts_us}" for row in store.stream(astray)
            } | damaged
    if damaged:
        reasons = dict.fromkeys(damaged.values())
        raise StoreError(
            f"{len(damaged):,} rows of snapshots could not be read and were skipped: "
            f"{_ranges(sorted(damaged))} ({formatting.single_line('; '.join(reasons), 300)}). The others were exported."
        )


def _kept(row: Any, damaged: dict[int, str]) -> Iterator[Kept]:
    """Yield a row as a snapshot; a damaged row is recorded instead."""
    try:
        for name in ("ts_us", "known_at_us"):
            cell_types.check_time(f"snapshots.{name}", getattr(row, name))
        with cell_types.decoding("snapshots.body"):
            metrics = zlib.decompress(row.body).decode("utf-8-sig")
            json.loads(metrics)
        with cell_types.decoding("snapshots.page_id"):
            page = row.page.decode() if isinstance(row.page, bytes) else row.page
    except cell_types.DamagedCell as problem:
        damaged[row.seq] = problem.what
        return
    yield Kept(row.ts_us, row.known_at_us, page, metrics)


def _last(store: Database, given: set[int]) -> int:
    """Return the number of the newest row."""
    found = max(given, default=0)
    for query in ("SELECT seq FROM sqlite_sequence WHERE name = 'snapshots'", "SELECT max(seq) FROM snapshots"):
        try:
            found = max(
                [found, *(row[0] for row in store.stream(sa.text(query)) if type(row[0]) is int and row[0] < 2**48)]
            )
        except StoreError:
            continue  # This table is damaged too; the other may not be.
    return found


def _around(
    store: Database,
    query: Query,
    first: int,
    last: int,
    given: set[int],
    damaged: dict[int, str],
    problem: StoreError,
) -> Iterator[Any]:
    """Yield the remaining rows of a range; an unreadable range is halved down to single rows."""
    spans = [(start, min(start + RANGE - 1, last)) for start in range(first, last + 1, RANGE)]
    while spans:
        start, end = spans.pop(0)
        try:
            rows = list(store.stream(query.where(SNAPSHOTS.c.seq.between(start, end)).order_by(SNAPSHOTS.c.seq)))
        except StoreError as found:
            if start < end:
                middle = (start + end) // 2
                spans[:0] = [(start, middle), (middle + 1, end)]
            elif start not in given:
                damaged[start] = str(found.__cause__ or found).splitlines()[0]
            continue
        for row in rows:
            if row.seq not in given:
                given.add(row.seq)
                yield row


def _ranges(numbers: list[int]) -> str:
    """Format whole numbers as ranges: ``3, 7-9``."""
    spans: list[list[int]] = []
    for number in numbers:
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in spans)
