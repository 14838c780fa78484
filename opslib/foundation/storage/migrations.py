"""Migrate the tables of an older database to the current schema: one function per version."""

import sqlalchemy as sa

from opslib.foundation.storage.schema import ALIVE, FACTS, OUTBOX, RUNS, SNAPSHOTS, TABLES
from opslib.foundation.storage.snapshot_columns import WIRED_FIELDS


def add_times_of_wired_fields(connection: sa.Connection) -> None:
    """
    Migrate to schema 2: since when each field is wired, beside since when this is known.

    The times of existing rows are computed from the snapshots.
    """
    connection.execute(sa.text("ALTER TABLE alive ADD COLUMN ts_us BIGINT NOT NULL DEFAULT 0"))
    for row in connection.execute(sa.select(ALIVE.c.app, ALIVE.c.field, ALIVE.c.known_at_us)).all():
        moved = sa.or_(
            *(
                sa.and_(
                    SNAPSHOTS.c[c].is_not(None),
                    SNAPSHOTS.c[c] if isinstance(SNAPSHOTS.c[c].type, sa.Boolean) else SNAPSHOTS.c[c] != 0,
                )
                for c in WIRED_FIELDS[row.field]
            )
        )
        first = sa.select(sa.func.min(SNAPSHOTS.c.ts_us, type_=sa.BigInteger)).where(
            SNAPSHOTS.c.app == row.app, SNAPSHOTS.c.known_at_us <= row.known_at_us, moved
        )
        ts_us = connection.execute(first).scalar()
        connection.execute(
            sa.update(ALIVE)
            .where(ALIVE.c.app == row.app, ALIVE.c.field == row.field, ALIVE.c.known_at_us == row.known_at_us)
            .values(ts_us=ts_us if ts_us is not None else row.known_at_us)
        )


def add_probes(connection: sa.Connection) -> None:
    """Migrate to schema 3: tables for probe samples. `create_all` creates them; existing rows do not change."""


def add_notifications(connection: sa.Connection) -> None:
    """
    Migrate to schema 4: tables for notifications and acknowledgements.

    Entries that were in the outbox before notifications existed are not sent.
    """
    TABLES.create_all(connection)
    for row in connection.execute(
        sa.select(OUTBOX.c.app, sa.func.max(OUTBOX.c.seq).label("seq")).group_by(OUTBOX.c.app)
    ).all():
        connection.execute(sa.insert(FACTS).values(key=f"planned:{row.app}", value=str(row.seq)))


def add_fills(connection: sa.Connection) -> None:
    """
    Migrate to schema 5: a table for fills and backtest results. `create_all` creates it; existing rows do not change.
    """


def add_incidents(connection: sa.Connection) -> None:
    """
    Migrate to schema 6: tables for markers, incidents and their entries.

    `create_all` creates them; existing rows do not change.
    """


def add_due_runs(connection: sa.Connection) -> None:
    """Migrate to schema 7: the due job of a run, and the kernel that executed it; unknown for earlier runs."""
    there = {column["name"] for column in sa.inspect(connection).get_columns(RUNS.name)}
    for name in ("due", "kernel"):
        if name not in there:
            connection.execute(sa.text(f"ALTER TABLE runs ADD COLUMN {name} TEXT"))
    connection.execute(sa.text("CREATE INDEX IF NOT EXISTS runs_due ON runs (app, due)"))
