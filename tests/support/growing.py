"""Let a database grow as on the demo's day, so that each row can be read when it is written."""

import random
from typing import Any

import sqlalchemy as sa

from opslib.foundation.config.settings import Settings
from opslib.foundation.storage.database import Database
from opslib.foundation.storage.schema import FACTS, JUDGED, SAMPLES, SNAPSHOTS, TABLES, TRANSITIONS

Row = dict[str, Any]
GROWS = {SNAPSHOTS: "ts_us", SAMPLES: "ts_us", TRANSITIONS: "at_us"}


class Growing:
    """
    A database that receives the rows of another one in order of time.

    Args:
        source: The settings of the whole day.
        target: The growing database; at first it has the rows from before `start_us`.
        late: The share of snapshots and samples that are written minutes after they happened.
    """

    def __init__(self, source: Settings, target: Database, start_us: int, late: float = 0.0, seed: int = 7):
        self.app, self.target, self.at_us = source.app, target, start_us
        drawn = random.Random(seed)
        self._waiting: list[tuple[int, sa.Table, Row]] = []
        with Database(source.url).reading() as connection:
            whole = {table: _rows(connection, table) for table in TABLES.tables.values() if table is not FACTS}
        with target.committing() as connection:
            for table, rows in whole.items():
                if table is JUDGED:
                    rows = [row | {"upto_us": start_us} for row in rows]
                if table in GROWS:
                    for row in rows:
                        at_us = row[GROWS[table]]
                        if table is not TRANSITIONS and at_us > start_us and drawn.random() < late:
                            at_us += round(drawn.uniform(1, 900) * 1e6)
                        self._waiting.append((at_us, table, row))
                elif rows:
                    connection.execute(sa.insert(table), rows)
        self._waiting.sort(key=lambda waits: waits[0], reverse=True)
        self.until(start_us)

    def leave_out(self, probe: str) -> None:
        """Write no more samples of a probe."""
        self._waiting = [waits for waits in self._waiting if waits[1] is not SAMPLES or waits[2]["probe"] != probe]

    def until(self, at_us: int) -> None:
        """Write all rows that were known by a time."""
        self.at_us = at_us
        found: dict[sa.Table, list[Row]] = {}
        while self._waiting and self._waiting[-1][0] <= at_us:
            _, table, row = self._waiting.pop()
            found.setdefault(table, []).append(row)
        with self.target.committing() as connection:
            for table, rows in found.items():
                connection.execute(sa.insert(table), rows)
            connection.execute(sa.update(JUDGED).where(JUDGED.c.app == self.app).values(upto_us=at_us))


def _rows(connection: sa.Connection, table: sa.Table) -> list[Row]:
    """Return the rows of a table, those of snapshots and samples without `seq`, so that they get a new one."""
    return [
        {name: value for name, value in row.items() if name != "seq" or table not in (SNAPSHOTS, SAMPLES)}
        for row in connection.execute(sa.select(table)).mappings()
    ]
