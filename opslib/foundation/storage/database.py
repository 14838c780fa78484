"""
Open the database, serialise writers, stamp each write, and keep small facts.

The database is SQLite (WAL, synchronous=FULL) or PostgreSQL, through SQLAlchemy Core; one wide row per snapshot. Rows
are only added. Each has two times: `ts_us`, when it happened, and `known_at_us`, when it was stored. The latter is set
inside the write and never decreases, so a query can ask what was known at any earlier moment. Writers run one at a time
(SQLite's own lock; an advisory lock in PostgreSQL), so `seq` and `known_at_us` increase together.
"""

import sqlite3
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any, TypeAlias, TypeVar

import sqlalchemy as sa

from opslib.foundation import clock
from opslib.foundation.errors import StoreError
from opslib.foundation.storage import migrations, sqlite
from opslib.foundation.storage.cell_types import DamagedCell, decoding
from opslib.foundation.storage.schema import FACTS, TABLES

T = TypeVar("T")
Query: TypeAlias = sa.Select[*tuple[Any, ...]]
ResultRow: TypeAlias = sa.Row[*tuple[Any, ...]]

# Each migrates the tables by one schema version; the first version is 1.
MIGRATIONS: tuple[Callable[[sa.Connection], None], ...] = (
    migrations.add_times_of_wired_fields,
    migrations.add_probes,
    migrations.add_notifications,
    migrations.add_fills,
    migrations.add_incidents,
    migrations.add_due_runs,
)
WRITERS_LOCK = 7_061_902  # The key of PostgreSQL's advisory lock, the same for every writer.
# SQLite's own error messages may contain undecodable text.
_FAILURES = (sa.exc.SQLAlchemyError, sqlite3.Error, UnicodeDecodeError, DamagedCell)
# The statements of every post, built once: building a statement takes longer than executing it.
_FACT = sa.select(FACTS.c.value).where(FACTS.c.key == sa.bindparam("of"))
_FACT_IS = sa.update(FACTS).where(FACTS.c.key == sa.bindparam("of")).values(value=sa.bindparam("now"))


class Database:
    """
    The database of one workspace.

    Opening creates it if it does not exist, and migrates an older one to the current schema.

    Args:
        url: SQLAlchemy URL, as text or object; ``postgresql://`` uses psycopg.
        now: Returns the current time, for `known_at`; only the demo passes another clock.

    Raises:
        StoreError: It cannot be opened, or was created by a newer opslib.
    """

    def __init__(self, url: str | sa.URL, now: Callable[[], datetime] = clock.now):
        self._known = (0, 0.0)  # The last time returned, and the machine's monotonic time then.
        self._now, self._name = now, "of OPS_STORE_URL"
        self.file = sqlite.Opened(None)  # type: ignore[arg-type]  # It can then be closed even if opening fails.
        try:
            parsed = sa.make_url(url)
            if parsed.drivername in ("postgresql", "postgres"):
                parsed = parsed.set(drivername="postgresql+psycopg")
            self.is_sqlite = parsed.drivername.startswith("sqlite")
            self._name = str(parsed.database) if self.is_sqlite else parsed.render_as_string(hide_password=True)
            self.file.path = sqlite.file_of(parsed)
            self.file = (
                sqlite.open_database(parsed)
                if self.is_sqlite
                else sqlite.Opened(sa.create_engine(parsed, isolation_level="READ COMMITTED", pool_pre_ping=True))
            )
            self._engine = self.file.engine
            weakref.finalize(self, self.file.close)  # Closes the connections if the caller does not.
            self._prepare()
            self.file.identity = sqlite.identity(self.file.path) if self.file.path else None
        except (*_FAILURES, OSError, ImportError, ValueError) as problem:
            raise self._failure("opened", problem) from problem

    def _failure(self, what: str, problem: Exception) -> StoreError:
        return StoreError(f"the database {self._name} could not be {what}: {sqlite.advice(problem, self.file.path)}")

    def _prepare(self) -> None:
        with self._engine.connect() as connection:
            tables = sa.inspect(connection).get_table_names()
            if "meta" in tables and self._schema(connection) == len(MIGRATIONS) + 1:
                return
        if tables and "meta" not in tables and self.is_sqlite:
            raise DamagedCell("it has tables, but none called meta")
        if self.file.is_read_only:
            raise StoreError(
                f"the database {self._name} is empty or of an older version, and you may not write to it. Run ops "
                f"status once as a user who may write; that updates the database."
            )
        with self.writing() as connection:
            there = sa.inspect(connection).has_table("meta")
            found = self._schema(connection) if there else None
            if there and found is None:
                raise DamagedCell("the table meta has no schema version")
            for migrate in MIGRATIONS[found - 1 :] if found else ():
                migrate(connection)
            TABLES.create_all(connection)
            self.put(connection, "schema", str(len(MIGRATIONS) + 1))

    def _schema(self, connection: sa.Connection) -> int | None:
        """Return the schema version of the existing tables; None while another process is creating them."""
        found = connection.execute(_FACT, {"of": "schema"}).scalar()
        with decoding("meta.schema"):
            number = None if found is None else int(found)
        if number and number > len(MIGRATIONS) + 1:
            raise StoreError(
                f"the database {self._name} was created by a newer opslib (schema {found}; this version supports up to "
                f"{len(MIGRATIONS) + 1}). Install the newer version."
            )
        return number

    @contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """Open a transaction that no other writer overlaps; it is committed whole or rolled back."""
        self.file.check_writable()
        with self._engine.connect() as connection:
            if self.is_sqlite:
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            else:
                # The receiver answers 204 only for durable data, whatever the server's default is.
                connection.exec_driver_sql("SET LOCAL synchronous_commit = on")
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(WRITERS_LOCK)))
            try:
                yield connection
                if self.is_sqlite:
                    connection.exec_driver_sql("COMMIT")
                else:
                    connection.commit()
            except BaseException:
                if not self.is_sqlite:
                    connection.rollback()
                # On a full disk SQLite has rolled back by itself.
                elif (driver := connection.connection.driver_connection) is not None and driver.in_transaction:
                    connection.exec_driver_sql("ROLLBACK")
                raise

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """Open a connection that only reads."""
        try:
            with self._engine.connect() as connection:
                yield connection
        except _FAILURES as problem:
            raise self._failure("read", problem) from problem
        if self.file.before and self.file.path and self.file.before != sqlite.state(self.file.path):
            raise StoreError(f"the database {self._name} was changed while it was read. Run the command again.")

    def put(self, connection: sa.Connection, key: str, value: str) -> None:
        """Store a small fact under a key, as part of a transaction."""
        if connection.execute(_FACT_IS, {"of": key, "now": value}).rowcount == 0:
            connection.execute(sa.insert(FACTS).values(key=key, value=value))

    def now(self) -> datetime:
        """Return the current time for writers of this database."""
        return self._now()

    def not_before(self, last_us: int) -> int:
        """
        Return the current time in microseconds, never earlier than an earlier write.

        If the clock was set back, time continues from the last write at its usual speed.
        """
        now_us, (known_us, at_s) = clock.micros(self._now()), self._known
        if now_us < last_us:
            now_us = max(last_us, known_us + round((time.monotonic() - at_s) * clock.speed() * 1e6))
        self._known = (now_us, time.monotonic())
        return now_us

    def stamp(self, connection: sa.Connection) -> int:
        """Return the time of this write in microseconds, never earlier than an earlier write."""
        last = connection.execute(_FACT, {"of": "known_at_us"}).scalar()
        with decoding("meta.known_at_us"):
            known_at = self.not_before(int(last or 0))
        self.put(connection, "known_at_us", str(known_at))
        return known_at

    def stream(self, query: Query | sa.TextClause) -> Iterator[ResultRow]:
        """Yield the rows of a query without holding all of them in memory."""
        with self.reading() as connection:
            yield from connection.execution_options(yield_per=1000).execute(query)

    @contextmanager
    def committing(self) -> Iterator[sa.Connection]:
        """Open a transaction as `writing`, with database errors as StoreError."""
        try:
            with self.writing() as connection:
                yield connection
        except _FAILURES as problem:
            raise self._failure("written", problem) from problem

    def recall(self, key: str) -> str | None:
        """Return a small fact stored under a key, or None."""
        with self.reading() as connection:
            return connection.execute(_FACT, {"of": key}).scalar()

    def remember(self, key: str, value: str) -> None:
        """Store a small fact under a key."""
        with self.committing() as connection:
            self.put(connection, key, value)

    def close(self) -> None:
        """Close the database."""
        self.file.close()


def chunks(items: list[T], size: int) -> Iterator[list[T]]:
    """Split a list into parts, so that no statement has too many parameters."""
    return (items[i : i + size] for i in range(0, len(items), size))
