"""
Open the database, write in turns, stamp each write, and keep small facts.

One wide row a post, in SQLite (WAL, synchronous=FULL) or PostgreSQL, through SQLAlchemy Core. Rows are only ever
added. Each has two times: `ts_us`, when it happened, and `known_at_us`, when it came into the store, which is stamped
inside the write and never goes back; so what was known at any moment can be asked for at any later one.
Writers take turns (SQLite's own lock; an advisory lock in PostgreSQL), so `seq` and `known_at_us` rise together.
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

# Each brings the tables one schema further; the first schema is 1.
MIGRATIONS: tuple[Callable[[sa.Connection], None], ...] = (
    migrations.add_times_of_wired_fields,
    migrations.add_probes,
    migrations.add_notifications,
    migrations.add_fills,
    migrations.add_incidents,
    migrations.add_due_runs,
)
WRITERS_LOCK = 7_061_902  # Any number, the same for every writer: the key of PostgreSQL's advisory lock.
# SQLite's own messages may hold damaged text.
_FAILURES = (sa.exc.SQLAlchemyError, sqlite3.Error, UnicodeDecodeError, DamagedCell)
# What every post asks, made once: to build a statement costs more than to execute it.
_FACT = sa.select(FACTS.c.value).where(FACTS.c.key == sa.bindparam("of"))
_FACT_IS = sa.update(FACTS).where(FACTS.c.key == sa.bindparam("of")).values(value=sa.bindparam("now"))


class Database:
    """
    The facts of a desk.

    Opening one makes it where there is none, and brings an older one to today's schema.

    Args:
        url: SQLAlchemy URL, as text or made; ``postgresql://`` is spoken through psycopg.
        now: What time it is, for `known_at`; only the demo gives another one.

    Raises:
        StoreError: It cannot be opened, or a newer opslib made it.
    """

    def __init__(self, url: str | sa.URL, now: Callable[[], datetime] = clock.now):
        self._known = (0, 0.0)  # The last time that was given, and when by the machine's steady clock.
        self._now, self._name = now, "the store's URL"
        self.file = sqlite.Opened(None)  # type: ignore[arg-type]  # So that it can be closed, should opening fail.
        try:
            parsed = sa.make_url(url)
            if parsed.drivername in ("postgresql", "postgres"):
                parsed = parsed.set(drivername="postgresql+psycopg")
            self.is_sqlite = parsed.drivername.startswith("sqlite")
            self._name = str(parsed.database) if self.is_sqlite else parsed.render_as_string(hide_password=True)
            self.file.path = sqlite.file_of(parsed)
            self.file = (
                sqlite.opened(parsed)
                if self.is_sqlite
                else sqlite.Opened(sa.create_engine(parsed, isolation_level="READ COMMITTED", pool_pre_ping=True))
            )
            self._engine = self.file.engine
            weakref.finalize(self, self.file.close)  # Who forgets to close a store leaves no connection behind.
            self._prepare()
            self.file.identity = sqlite.identity(self.file.path) if self.file.path else None
        except (*_FAILURES, OSError, ImportError, ValueError) as problem:
            raise self._failure("opened", problem) from problem

    def _failure(self, what: str, problem: Exception) -> StoreError:
        return StoreError(f"the store {self._name} could not be {what}: {sqlite.advice(problem, self.file.path)}")

    def _prepare(self) -> None:
        with self._engine.connect() as connection:
            tables = sa.inspect(connection).get_table_names()
            if "meta" in tables and self._schema(connection) == len(MIGRATIONS) + 1:
                return
        if tables and "meta" not in tables and self.is_sqlite:
            raise DamagedCell("it has tables, and not the one called meta")
        if self.file.is_read_only:
            raise StoreError(
                f"the store {self._name} is empty or of an older version, and cannot be written here. Open it "
                f"once where it can be written, such as with ops status; that brings it up to date."
            )
        with self.writing() as connection:
            there = sa.inspect(connection).has_table("meta")
            found = self._schema(connection) if there else None
            if there and found is None:
                raise DamagedCell("meta does not say which schema it is of")
            for migrate in MIGRATIONS[found - 1 :] if found else ():
                migrate(connection)
            TABLES.create_all(connection)
            self.put(connection, "schema", str(len(MIGRATIONS) + 1))

    def _schema(self, connection: sa.Connection) -> int | None:
        """The schema of the tables that are there; None while somebody is just making them."""
        found = connection.execute(_FACT, {"of": "schema"}).scalar()
        with decoding("meta.schema"):
            number = None if found is None else int(found)
        if number and number > len(MIGRATIONS) + 1:
            raise StoreError(
                f"the store {self._name} was made by a newer opslib (schema {found}; this one knows "
                f"{len(MIGRATIONS) + 1}). Install that one."
            )
        return number

    @contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """A transaction that no other writer overlaps; it is kept whole, or nothing of it is."""
        self.file.check_writable()
        with self._engine.connect() as connection:
            if self.is_sqlite:
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            else:
                # Whatever the server is set to: a 204 stands for the disk.
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
        """A connection that only reads."""
        try:
            with self._engine.connect() as connection:
                yield connection
        except _FAILURES as problem:
            raise self._failure("read", problem) from problem
        if self.file.before and self.file.path and self.file.before != sqlite.state(self.file.path):
            raise StoreError(f"the store {self._name} was written while it was read. Run this again.")

    def put(self, connection: sa.Connection, key: str, value: str) -> None:
        """Remember a small fact under a key, as part of a transaction."""
        if connection.execute(_FACT_IS, {"of": key, "now": value}).rowcount == 0:
            connection.execute(sa.insert(FACTS).values(key=key, value=value))

    def now(self) -> datetime:
        """What time it is, for who writes here."""
        return self._now()

    def not_before(self, last_us: int) -> int:
        """
        What time it is, microseconds, never before an earlier write; after a clock that was set back it goes on from
        there at its usual pace.
        """
        now_us, (known_us, at_s) = clock.micros(self._now()), self._known
        if now_us < last_us:
            now_us = max(last_us, known_us + round((time.monotonic() - at_s) * clock.speed() * 1e6))
        self._known = (now_us, time.monotonic())
        return now_us

    def stamp(self, connection: sa.Connection) -> int:
        """When this write is known, microseconds: now, but never before an earlier write."""
        last = connection.execute(_FACT, {"of": "known_at_us"}).scalar()
        with decoding("meta.known_at_us"):
            known_at = self.not_before(int(last or 0))
        self.put(connection, "known_at_us", str(known_at))
        return known_at

    def stream(self, query: Query | sa.TextClause) -> Iterator[ResultRow]:
        """The rows of a query, without holding them all."""
        with self.reading() as connection:
            yield from connection.execution_options(yield_per=1000).execute(query)

    @contextmanager
    def committing(self) -> Iterator[sa.Connection]:
        """As `writing`, with the store's own error."""
        try:
            with self.writing() as connection:
                yield connection
        except _FAILURES as problem:
            raise self._failure("written", problem) from problem

    def recall(self, key: str) -> str | None:
        """A small fact remembered under a key, or None."""
        with self.reading() as connection:
            return connection.execute(_FACT, {"of": key}).scalar()

    def remember(self, key: str, value: str) -> None:
        """Remember a small fact under a key."""
        with self.committing() as connection:
            self.put(connection, key, value)

    def close(self) -> None:
        """Let go of the database."""
        self.file.close()


def chunks(items: list[T], size: int) -> Iterator[list[T]]:
    """A list in parts of a size, so that no statement has too many parameters."""
    return (items[i : i + size] for i in range(0, len(items), size))
