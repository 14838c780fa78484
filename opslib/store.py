"""
This module knows how facts are kept and given back, and nothing else.

One wide row a post, in SQLite (WAL, synchronous=FULL) or PostgreSQL, through SQLAlchemy Core. Rows are only ever
added. Each has two times: `ts_us`, when it happened, and `known_at_us`, when it came into the store, which is stamped
inside the write and never goes back; so what was known at any moment can be asked for at any later one.
Writers take turns (SQLite's own lock; an advisory lock in PostgreSQL), so `seq` and `known_at_us` rise together.
"""

import json
import sqlite3
import time
import weakref
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from typing import Any

import sqlalchemy as sa

from opslib import clock, schema, sqlite
from opslib.cell_types import DamagedCell, check_time, decoding
from opslib.errors import StoreError
from opslib.schema import ALIVE, FACTS, REJECTS, RUNS, SNAPSHOTS, TABLES
from opslib.snapshot import Look, Snapshot

MIGRATIONS: tuple[Callable[[sa.Connection], None], ...] = (schema.alive_has_times, schema.probes_are_kept, schema.people_are_told, schema.fills_are_kept, schema.incidents_are_kept, schema.runs_are_due)  # Each brings the tables one schema further; the first schema is 1.
WRITERS_LOCK = 7_061_902  # Any number, the same for every writer: the key of PostgreSQL's advisory lock.
MOST_POST_REJECTS = 10_000
_FAILURES = (sa.exc.SQLAlchemyError, sqlite3.Error, UnicodeDecodeError, DamagedCell)  # SQLite's own messages may hold damaged text.
_LOOK = [SNAPSHOTS.c[name] for name in Look._fields]
# What every post asks, made once: to build a statement costs more than to execute it.
_FACT = sa.select(FACTS.c.value).where(FACTS.c.key == sa.bindparam("of"))
_FACT_IS = sa.update(FACTS).where(FACTS.c.key == sa.bindparam("of")).values(value=sa.bindparam("now"))
_HELD = sa.select(SNAPSHOTS.c.digest).where(SNAPSHOTS.c.app == sa.bindparam("whose"), SNAPSHOTS.c.digest.in_(sa.bindparam("digests", expanding=True)))
_KEEP = sa.insert(SNAPSHOTS)
_WIRED = sa.select(ALIVE.c.field, ALIVE.c.known_at_us, ALIVE.c.ts_us).where(ALIVE.c.app == sa.bindparam("whose"))


@dataclass(frozen=True, slots=True)
class Reject:
    """
    Something that was refused, and why.

    Attributes:
        source: Where it came from: file and line, or ``post``.
        reasons: Every bad field.
        body: The bytes that were refused.
    """

    source: str
    reasons: tuple[str, ...]
    body: bytes


@dataclass(frozen=True, slots=True)
class Post:
    """A snapshot and when it happened (`ts_us`, microseconds since 1970)."""

    ts_us: int
    snapshot: Snapshot


class Store:
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
        self._now, self._name, self.file = now, "the store's URL", sqlite.Opened(None)  # type: ignore[arg-type]
        try:
            parsed = sa.make_url(url)
            if parsed.drivername in ("postgresql", "postgres"):
                parsed = parsed.set(drivername="postgresql+psycopg")
            self.is_sqlite = parsed.drivername.startswith("sqlite")
            self._name = str(parsed.database) if self.is_sqlite else parsed.render_as_string(hide_password=True)
            self.file.path = sqlite.file_of(parsed)
            self.file = sqlite.opened(parsed) if self.is_sqlite else sqlite.Opened(sa.create_engine(parsed, isolation_level="READ COMMITTED", pool_pre_ping=True))
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
            raise StoreError(f"the store {self._name} is empty or of an older version, and cannot be written here. Open it once where it can be written, such as with ops status; that brings it up to date.")
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
            raise StoreError(f"the store {self._name} was made by a newer opslib (schema {found}; this one knows {len(MIGRATIONS) + 1}). Install that one.")
        return number

    @contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """A transaction that no other writer overlaps; it is kept whole, or nothing of it is."""
        self.file.check_writable()
        with self._engine.connect() as connection:
            if self.is_sqlite:
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            else:
                connection.exec_driver_sql("SET LOCAL synchronous_commit = on")  # Whatever the server is set to: a 204 stands for the disk.
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(WRITERS_LOCK)))
            try:
                yield connection
                connection.exec_driver_sql("COMMIT") if self.is_sqlite else connection.commit()
            except BaseException:
                if not self.is_sqlite:
                    connection.rollback()
                elif connection.connection.driver_connection.in_transaction:  # On a full disk SQLite has rolled back by itself.
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
        """What time it is, microseconds, never before an earlier write; after a clock that was set back it goes on from there at its usual pace."""
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

    def write(self, app: str, posts: Iterable[Post], rejects: Iterable[Reject] = (), *, known_at_ts: bool = False) -> int:
        """
        Keep posts and rejects, in one transaction: when this returns they are on the disk, or it raised and none is.

        Args:
            app: Whose they are.
            posts: A body that the app already has is passed over.
            rejects: Kept with their reasons; the same body refused again is kept once.
            known_at_ts: Take each post's own time for when it was known; for replays only.

        Returns:
            How many posts were new.

        Raises:
            StoreError: Nothing was kept.
        """
        new = {p.snapshot.digest: p for p in reversed(list(posts))}
        with self.committing() as connection:
            known_at = self.stamp(connection)
            for digests in _chunks(list(new), 500):
                for digest in connection.execute(_HELD, {"whose": app, "digests": digests}).scalars():
                    del new[bytes(digest)]
            rows = [
                {"app": app, "ts_us": p.ts_us, "known_at_us": p.ts_us if known_at_ts else known_at, "digest": d, "body": zlib.compress(p.snapshot.body, 1), **p.snapshot.values}
                for d, p in reversed(new.items())
            ]
            if rows:
                connection.execute(_KEEP, rows)
                self._note_alive(connection, app, rows, new)
            self._keep_rejects(connection, app, list(rejects), known_at)
        return len(rows)

    @staticmethod
    def _note_alive(connection: sa.Connection, app: str, rows: list[dict], posts: dict[bytes, Post]) -> None:
        """Since when do we know, and of which time, that a field is wired? Kept on writing, so that no view has to search the past."""
        first: dict[tuple[str, int], int] = {}
        for row in rows:
            for name in posts[row["digest"]].snapshot.alive():
                key = (name, row["known_at_us"])
                first[key] = min(first.get(key, row["ts_us"]), row["ts_us"])
        known: dict[str, list[tuple[int, int]]] = {}
        for field, known_at_us, ts_us in connection.execute(_WIRED, {"whose": app}) if first else ():
            known.setdefault(field, []).append((known_at_us, ts_us))
        for (name, known_at_us), ts_us in sorted(first.items(), key=lambda f: (f[0][1], f[1])):
            if any(k <= known_at_us and t <= ts_us for k, t in known.get(name, ())):
                continue
            which = sa.and_(ALIVE.c.app == app, ALIVE.c.field == name, ALIVE.c.known_at_us == known_at_us)
            if connection.execute(sa.update(ALIVE).where(which).values(ts_us=ts_us)).rowcount == 0:
                connection.execute(sa.insert(ALIVE).values(app=app, field=name, known_at_us=known_at_us, ts_us=ts_us))
            known.setdefault(name, []).append((known_at_us, ts_us))

    def keep_rejects(self, app: str, rejects: list[Reject]) -> None:
        """Keep what was refused of a file, with its reasons; the same refused again is kept once."""
        if rejects:
            with self.committing() as connection:
                self._keep_rejects(connection, app, rejects, self.stamp(connection))

    @staticmethod
    def _keep_rejects(connection: sa.Connection, app: str, rejects: list[Reject], known_at: int) -> None:
        for reject in rejects:
            digest = sha256(reject.source.encode() + b"\0" + reject.body).digest()
            if connection.execute(sa.select(REJECTS.c.seq).where(REJECTS.c.app == app, REJECTS.c.digest == digest)).first():
                continue
            connection.execute(
                sa.insert(REJECTS).values(
                    app=app, source=reject.source, known_at_us=known_at, reasons=json.dumps(list(reject.reasons)), digest=digest, body=zlib.compress(reject.body, 1)
                )
            )

    def post_rejects(self, app: str) -> int:
        """How many refused posts of that app are kept; the receiver stops at `MOST_POST_REJECTS`, lest a stranger fill the disk."""
        with self.reading() as connection:
            return connection.execute(sa.select(sa.func.count()).where(REJECTS.c.app == app, REJECTS.c.source == "post")).scalar_one()

    def looks_written(self, app: str, after_seq: int, start_us: int, end_us: int) -> list[Look]:
        """The looks written after a row, of what happened after `start_us`, up to and at `end_us`, by the order of writing."""
        s = SNAPSHOTS.c
        return self._looks(sa.select(*_LOOK).where(s.app == app, s.seq > after_seq, s.ts_us > start_us, s.ts_us <= end_us).order_by(s.seq), None)

    def looks(self, app: str, start_us: int, end_us: int, known_at_us: int | None) -> list[Look]:
        """
        What was seen after `start_us`, up to and at `end_us`, as known at `known_at_us` (None: all that is known)?

        In order of time; an empty list where there is nothing.
        """
        query = sa.select(*_LOOK).where(SNAPSHOTS.c.app == app, SNAPSHOTS.c.ts_us > start_us, SNAPSHOTS.c.ts_us <= end_us)
        return self._looks(query.order_by(SNAPSHOTS.c.ts_us, SNAPSHOTS.c.seq), known_at_us)

    def extent(self, app: str, start_us: int, end_us: int, known_at_us: int | None) -> tuple[int, int]:
        """How many looks are of (start, end], as known at a moment (None: all), and which is the newest row of them? 0, 0 of none."""
        s = SNAPSHOTS.c
        query = sa.select(sa.func.count(), sa.func.coalesce(sa.func.max(s.seq), 0)).where(s.app == app, s.ts_us > start_us, s.ts_us <= end_us)
        with self.reading() as connection:
            count, newest = connection.execute(query if known_at_us is None else query.where(s.known_at_us <= known_at_us)).one()
        return count, newest

    def last_look(self, app: str, before_us: int, known_at_us: int | None, *, connected: bool | None = None, **which: Any) -> Look | None:
        """
        What was the last look at or before an instant? None where there is none.

        Args:
            connected: Only one whose WebSocket was so.
            which: Of one page only: its `page_id`; or, where that is None, its `load_ms` within `jitter_ms`.
        """
        s = SNAPSHOTS.c
        found = self._of_page(sa.select(s.seq).where(s.app == app, s.ts_us <= before_us), known_at_us, **which)
        if connected is not None:
            found = found.where(s.websocket_connected == connected)
        return self._one(found.order_by(s.ts_us.desc(), s.seq.desc()))

    def first_look(self, app: str, after_us: int, known_at_us: int | None, **which: Any) -> Look | None:
        """What was the first look of a page (see `last_look`) after an instant? None where there is none."""
        s = SNAPSHOTS.c
        return self._one(self._of_page(sa.select(s.seq).where(s.app == app, s.ts_us > after_us), known_at_us, **which).order_by(s.ts_us, s.seq))

    @staticmethod
    def _of_page(query: sa.Select, known_at_us: int | None, page_id: str | None = None, load_ms: int | None = None, jitter_ms: int = 0) -> sa.Select:
        s = SNAPSHOTS.c
        if page_id:
            query = query.where(s.page_id == page_id)
        elif load_ms is not None:
            query = query.where(s.page_id.is_(None), s.load_ms.between(load_ms - jitter_ms, load_ms + jitter_ms))
        return query if known_at_us is None else query.where(s.known_at_us <= known_at_us)

    def _one(self, which: sa.Select) -> Look | None:
        """The one look whose `seq` is found first: by an index alone, so that only its own row is read."""
        found = self._looks(sa.select(*_LOOK).where(SNAPSHOTS.c.seq == which.limit(1).scalar_subquery()), None)
        return found[0] if found else None

    def _looks(self, query: sa.Select, known_at_us: int | None) -> list[Look]:
        if known_at_us is not None:
            query = query.where(SNAPSHOTS.c.known_at_us <= known_at_us)
        with self.reading() as connection:
            return [Look._make(row) for row in connection.execute(query)]

    def alive(self, app: str, known_at_us: int | None, ts_us: int | None = None) -> frozenset[str]:
        """Which fields that an unwired app leaves at zero were known to move, up to `ts_us` (see `snapshot.NEVER_SEEN_ALIVE`)?"""
        query = sa.select(ALIVE.c.field).where(ALIVE.c.app == app)
        if ts_us is not None:
            query = query.where(ALIVE.c.ts_us <= ts_us)
        if known_at_us is not None:
            query = query.where(ALIVE.c.known_at_us <= known_at_us)
        with self.reading() as connection:
            return frozenset(connection.execute(query).scalars())

    def first_ts(self, app: str) -> int | None:
        """When the oldest look happened, microseconds; None where there is none."""
        with self.reading() as connection:
            first = connection.execute(sa.select(sa.func.min(SNAPSHOTS.c.ts_us, type_=sa.BigInteger)).where(SNAPSHOTS.c.app == app)).scalar()
            if first is not None:
                check_time("snapshots.ts_us", first)
            return first

    def bodies(self, app: str, start_us: int | None, end_us: int | None, known_at_us: int | None) -> Iterator[tuple[int, int, str | None, bytes]]:
        """Every post as it came, oldest first: (ts_us, known_at_us, page id or None, body), without holding them all."""
        s = SNAPSHOTS.c
        bounds = (None if start_us is None else s.ts_us > start_us, None if end_us is None else s.ts_us <= end_us, None if known_at_us is None else s.known_at_us <= known_at_us)
        query = sa.select(s.ts_us, s.known_at_us, s.page_id, s.body).where(s.app == app, *(b for b in bounds if b is not None)).order_by(s.ts_us, s.seq)
        for row in self.stream(query):
            with decoding("snapshots.body"):
                body = zlib.decompress(row.body)
            yield row.ts_us, row.known_at_us, row.page_id, body

    def stream(self, query: sa.Select | sa.TextClause) -> Iterator[sa.Row]:
        """The rows of a query, without holding them all."""
        with self.reading() as connection:
            yield from connection.execution_options(yield_per=1000).execute(query)

    def rejects(self, app: str) -> list[tuple[int, Reject]]:
        """What was refused, in the order it came: (known_at_us, reject)."""
        r = REJECTS.c
        found = list(self.stream(sa.select(r.known_at_us, r.source, r.reasons, r.body).where(r.app == app).order_by(r.seq)))
        with decoding("rejects.body"):
            return [(row.known_at_us, Reject(row.source, tuple(map(str, json.loads(row.reasons))), zlib.decompress(row.body))) for row in found]

    def run_begins(self, taken: Callable[[list[dict[str, Any]]], bool] | None = None, **row: Any) -> bool:
        """
        Write a run into the ledger before it begins.

        Args:
            taken: Of the runs of what is due there, oldest first: is it no longer anybody's? Asked in the same transaction.

        Returns:
            False where it was taken: then nothing is written.
        """
        with self.committing() as connection:
            if taken is not None and taken(self._runs_due(connection, row["app"], [row["due"]])):
                return False
            connection.execute(sa.insert(RUNS).values({"ended_at_us": None, "reason": None} | row))
        return True

    def run_ends(self, run_id: str, *, state: str, reason: str | None, ended_at_us: int, outputs: list[str], kernel: str | None = None) -> None:
        """Write into the ledger how a run ended, and which kind of kernel executed it."""
        with self.committing() as connection:
            connection.execute(sa.update(RUNS).where(RUNS.c.id == run_id).values(state=state, reason=reason, ended_at_us=ended_at_us, outputs=json.dumps(outputs), kernel=kernel))

    def runs_due(self, app: str, names: list[str]) -> list[dict[str, Any]]:
        """Every run of what is due under these names, oldest first."""
        with self.reading() as connection:
            return [row for some in _chunks(names, 500) for row in self._runs_due(connection, app, some)]

    @staticmethod
    def _runs_due(connection: sa.Connection, app: str, names: list[str]) -> list[dict[str, Any]]:
        found = sa.select(RUNS).where(RUNS.c.app == app, RUNS.c.due.in_(names)).order_by(RUNS.c.started_at_us, RUNS.c.id)
        return [dict(row._mapping) for row in connection.execute(found)]

    @contextmanager
    def committing(self) -> Iterator[sa.Connection]:
        """As `writing`, with the store's own error."""
        try:
            with self.writing() as connection:
                yield connection
        except _FAILURES as problem:
            raise self._failure("written", problem) from problem

    def runs(self) -> list[dict[str, Any]]:
        """The ledger as it stands, oldest first."""
        return [dict(row._mapping) for row in self.stream(sa.select(RUNS).order_by(RUNS.c.started_at_us, RUNS.c.id))]

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


def _chunks(items: list, size: int) -> Iterator[list]:
    return (items[i : i + size] for i in range(0, len(items), size))
