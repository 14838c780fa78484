"""
Read the rows of a table that were added to a moving time window since the last read.

Rows are only added, so a reader that keeps what it has read needs the new ones only. It notices when that is not so
(a row was deleted, an older file was restored, the clock went back), and then everything must be read again.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import sqlalchemy as sa

from opslib.foundation.storage.database import Database, ResultRow

MOST = 1000  # Rows written between two reads; after more, such as an import, everything is read again.


class NewRows:
    """
    The rows of one app that are new in a table with the columns `app`, `seq` and `ts_us`.

    Args:
        columns: The names of the columns to read.
    """

    def __init__(self, store: Database, app: str, table: sa.Table, columns: Sequence[str]):
        self._store, self._app, self.table, c = store, app, table, table.c
        self._read: dict[int, int] | None = None  # Times of the rows that were read, by their number.
        self._start_us, self._end_us, self._written = 0, 0, 0
        inside = (c.app == sa.bindparam("of"), c.ts_us > sa.bindparam("start"), c.ts_us <= sa.bindparam("end"))
        last = sa.select(sa.func.coalesce(sa.func.max(c.seq), 0)).scalar_subquery()
        rows = sa.select(c.seq, c.ts_us, c.app, *(c[name].label(f"{name}_") for name in columns))
        # The last row of the table first, so that it is never newer than the rows that are counted.
        self._newest = sa.select(last)
        self._counted = sa.select(last, sa.func.count(), sa.func.coalesce(sa.func.max(c.seq), 0)).where(*inside)
        self._by_time = rows.where(*inside)
        # Without the app, so that SQLite finds the rows by their number and not all rows of the app.
        self._by_number = rows.where(c.seq > sa.bindparam("after")).limit(MOST)

    def everything(self, start_us: int, end_us: int) -> list[tuple[Any, ...]]:
        """Return the columns of all rows of (start, end], in the order of writing."""
        with self._store.reading() as connection:
            self._written = connection.execute(self._newest).scalar_one()
            rows = connection.execute(self._by_time, self._of(start_us, end_us)).all()
        self._read = {row.seq: row.ts_us for row in rows}
        self._start_us, self._end_us = start_us, end_us
        return _columns(rows)

    def added(self, start_us: int, end_us: int) -> list[tuple[Any, ...]] | None:
        """
        Return the columns of the rows of (start, end] that are new since the last read, in the order of writing.

        Returns:
            None where everything must be read again, also where the window moved back.
        """
        known, self._read = self._read, None
        if known is None or start_us < self._start_us or end_us < self._end_us:
            return None
        with self._store.reading() as connection:
            written, count, newest = connection.execute(self._counted, self._of(start_us, end_us)).one()
            rows = list(connection.execute(self._by_time, self._of(max(start_us, self._end_us), end_us)))
            if written != self._written:
                late = connection.execute(self._by_number, {"after": self._written}).all()
                mine = [row for row in late if row.app == self._app]
                if written < self._written or len(late) == MOST or any(row.ts_us <= start_us for row in mine):
                    return None
                rows += [row for row in mine if row.ts_us <= self._end_us]
        fresh = {row.seq: row for row in rows if row.seq not in known}
        if start_us > self._start_us:
            known = {seq: us for seq, us in known.items() if us > start_us}
        known |= {seq: row.ts_us for seq, row in fresh.items()}
        later = sum(seq > written for seq in fresh)  # Written since the rows were counted.
        if len(known) - later != count or (count and newest not in known):
            return None
        self._read, self._start_us, self._end_us, self._written = known, start_us, end_us, written
        return _columns(fresh.values())

    def _of(self, start_us: int, end_us: int) -> dict[str, Any]:
        return {"of": self._app, "start": start_us, "end": end_us}


def _columns(rows: Iterable[ResultRow]) -> list[tuple[Any, ...]]:
    return [tuple(row)[3:] for row in sorted(rows, key=lambda row: row.seq)]
