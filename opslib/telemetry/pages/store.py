"""
Store snapshots and rejected posts, and read them as they were known at any moment.

Each snapshot is one wide row. Rows are only ever added.
"""

import json
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import sqlalchemy as sa

from opslib.foundation.storage.cell_types import check_time, decoding
from opslib.foundation.storage.database import Database, Query, chunks
from opslib.foundation.storage.schema import ALIVE, REJECTS, SNAPSHOTS
from opslib.foundation.storage.snapshot_columns import SnapshotRow
from opslib.telemetry.pages.snapshot import Snapshot

MOST_POST_REJECTS = 10_000
# Statements of every post, built once: building them costs more than executing them.
_COLUMNS = [SNAPSHOTS.c[name] for name in SnapshotRow._fields]
_HELD = sa.select(SNAPSHOTS.c.digest).where(
    SNAPSHOTS.c.app == sa.bindparam("whose"), SNAPSHOTS.c.digest.in_(sa.bindparam("digests", expanding=True))
)
_KEEP = sa.insert(SNAPSHOTS)
_WIRED = sa.select(ALIVE.c.field).where(ALIVE.c.app == sa.bindparam("whose"))
_WIRED_SINCE = sa.select(ALIVE.c.field, ALIVE.c.known_at_us, ALIVE.c.ts_us).where(ALIVE.c.app == sa.bindparam("whose"))


@dataclass(frozen=True, slots=True)
class RejectedPost:
    """
    A rejected post or row, with the reasons.

    Attributes:
        source: Where it came from: file and line, or ``post``.
        reasons: Every bad field.
        body: The rejected bytes.
    """

    source: str
    reasons: tuple[str, ...]
    body: bytes


@dataclass(frozen=True, slots=True)
class Post:
    """A snapshot and its time (`ts_us`, microseconds since 1970)."""

    ts_us: int
    snapshot: Snapshot


class SnapshotStore:
    """The snapshots and rejected posts in a database."""

    def __init__(self, store: Database):
        self.store = store

    def write(
        self, app: str, posts: Iterable[Post], rejects: Iterable[RejectedPost] = (), *, known_at_ts: bool = False
    ) -> int:
        """
        Write posts and rejects in one transaction; when this returns, they are on the disk.

        Args:
            app: The app to which they belong.
            posts: A body that is stored already is skipped.
            rejects: Stored with their reasons; the same body is stored only once.
            known_at_ts: Use each post's own time as its known-at time; for replays only.

        Returns:
            The number of new posts.

        Raises:
            StoreError: Nothing was written.
        """
        new = {p.snapshot.digest: p for p in reversed(list(posts))}
        with self.store.committing() as connection:
            known_at = self.store.stamp(connection)
            for digests in chunks(list(new), 500):
                for digest in connection.execute(_HELD, {"whose": app, "digests": digests}).scalars():
                    del new[bytes(digest)]
            rows = [
                {
                    "app": app,
                    "ts_us": p.ts_us,
                    "known_at_us": p.ts_us if known_at_ts else known_at,
                    "digest": d,
                    "body": zlib.compress(p.snapshot.body, 1),
                    **p.snapshot.values,
                }
                for d, p in reversed(new.items())
            ]
            if rows:
                connection.execute(_KEEP, rows)
                self._note_wired(connection, app, rows, new)
            self._keep_rejects(connection, app, list(rejects), known_at)
        return len(rows)

    @staticmethod
    def _note_wired(connection: sa.Connection, app: str, rows: list[dict[str, Any]], posts: dict[bytes, Post]) -> None:
        """
        Store since when, and as of which time, a field is known to be wired.

        This is done on writing, so that no query has to search the past.
        """
        first: dict[tuple[str, int], int] = {}
        for row in rows:
            for name in posts[row["digest"]].snapshot.wired():
                key = (name, row["known_at_us"])
                first[key] = min(first.get(key, row["ts_us"]), row["ts_us"])
        known: dict[str, list[tuple[int, int]]] = {}
        for field, known_at_us, ts_us in connection.execute(_WIRED_SINCE, {"whose": app}) if first else ():
            known.setdefault(field, []).append((known_at_us, ts_us))
        for (name, known_at_us), ts_us in sorted(first.items(), key=lambda f: (f[0][1], f[1])):
            if any(k <= known_at_us and t <= ts_us for k, t in known.get(name, ())):
                continue
            which = sa.and_(ALIVE.c.app == app, ALIVE.c.field == name, ALIVE.c.known_at_us == known_at_us)
            if connection.execute(sa.update(ALIVE).where(which).values(ts_us=ts_us)).rowcount == 0:
                connection.execute(sa.insert(ALIVE).values(app=app, field=name, known_at_us=known_at_us, ts_us=ts_us))
            known.setdefault(name, []).append((known_at_us, ts_us))

    def keep_rejects(self, app: str, rejects: list[RejectedPost]) -> None:
        """Store the rejected rows of a file with their reasons; the same row is stored only once."""
        if rejects:
            with self.store.committing() as connection:
                self._keep_rejects(connection, app, rejects, self.store.stamp(connection))

    @staticmethod
    def _keep_rejects(connection: sa.Connection, app: str, rejects: list[RejectedPost], known_at: int) -> None:
        for reject in rejects:
            digest = sha256(reject.source.encode() + b"\0" + reject.body).digest()
            if connection.execute(
                sa.select(REJECTS.c.seq).where(REJECTS.c.app == app, REJECTS.c.digest == digest)
            ).first():
                continue
            connection.execute(
                sa.insert(REJECTS).values(
                    app=app,
                    source=reject.source,
                    known_at_us=known_at,
                    reasons=json.dumps(list(reject.reasons)),
                    digest=digest,
                    body=zlib.compress(reject.body, 1),
                )
            )

    def post_rejects(self, app: str) -> int:
        """
        Count the stored rejected posts of an app.

        The server stores at most `MOST_POST_REJECTS`, so that an unknown sender cannot fill the disk.
        """
        with self.store.reading() as connection:
            return connection.execute(
                sa.select(sa.func.count()).where(REJECTS.c.app == app, REJECTS.c.source == "post")
            ).scalar_one()

    def snapshots_written(self, app: str, after_seq: int, start_us: int, end_us: int) -> list[SnapshotRow]:
        """
        Return the snapshots of (start, end] that were written after a row, in the order of writing.
        """
        s = SNAPSHOTS.c
        return self._read_snapshots(
            sa.select(*_COLUMNS)
            .where(s.app == app, s.seq > after_seq, s.ts_us > start_us, s.ts_us <= end_us)
            .order_by(s.seq),
            None,
        )

    def snapshots(self, app: str, start_us: int, end_us: int, known_at_us: int | None) -> list[SnapshotRow]:
        """
        Return the snapshots of (start, end] as known at `known_at_us` (None: all), in order of time.
        """
        query = sa.select(*_COLUMNS).where(
            SNAPSHOTS.c.app == app, SNAPSHOTS.c.ts_us > start_us, SNAPSHOTS.c.ts_us <= end_us
        )
        return self._read_snapshots(query.order_by(SNAPSHOTS.c.ts_us, SNAPSHOTS.c.seq), known_at_us)

    def extent(self, app: str, start_us: int, end_us: int, known_at_us: int | None) -> tuple[int, int]:
        """
        Return the number of snapshots in (start, end] as known at a moment (None: all), and their newest row.

        It is (0, 0) if there are none.
        """
        s = SNAPSHOTS.c
        query = sa.select(sa.func.count(), sa.func.coalesce(sa.func.max(s.seq), 0)).where(
            s.app == app, s.ts_us > start_us, s.ts_us <= end_us
        )
        with self.store.reading() as connection:
            count, newest = connection.execute(
                query if known_at_us is None else query.where(s.known_at_us <= known_at_us)
            ).one()
        return count, newest

    def last_snapshot(
        self, app: str, before_us: int, known_at_us: int | None, *, connected: bool | None = None, **which: Any
    ) -> SnapshotRow | None:
        """
        Return the last snapshot at or before an instant; None if there is none.

        Args:
            connected: Only one with this state of the WebSocket.
            which: Selects one page: its `page_id`; or, if that is None, its `load_ms` within `jitter_ms`.
        """
        s = SNAPSHOTS.c
        found = self._of_page(sa.select(s.seq).where(s.app == app, s.ts_us <= before_us), known_at_us, **which)
        if connected is not None:
            found = found.where(s.websocket_connected == connected)
        return self._one(found.order_by(s.ts_us.desc(), s.seq.desc()))

    def first_snapshot(self, app: str, after_us: int, known_at_us: int | None, **which: Any) -> SnapshotRow | None:
        """Return the first snapshot of a page (see `last_snapshot`) after an instant; None if there is none."""
        s = SNAPSHOTS.c
        return self._one(
            self._of_page(sa.select(s.seq).where(s.app == app, s.ts_us > after_us), known_at_us, **which).order_by(
                s.ts_us, s.seq
            )
        )

    @staticmethod
    def _of_page(
        query: Query,
        known_at_us: int | None,
        page_id: str | None = None,
        load_ms: int | None = None,
        jitter_ms: int = 0,
    ) -> Query:
        s = SNAPSHOTS.c
        if page_id:
            query = query.where(s.page_id == page_id)
        elif load_ms is not None:
            query = query.where(s.page_id.is_(None), s.load_ms.between(load_ms - jitter_ms, load_ms + jitter_ms))
        return query if known_at_us is None else query.where(s.known_at_us <= known_at_us)

    def _one(self, which: Query) -> SnapshotRow | None:
        """Return the first snapshot of a `seq` query; the index finds it, so that only its own row is read."""
        found = self._read_snapshots(
            sa.select(*_COLUMNS).where(SNAPSHOTS.c.seq == which.limit(1).scalar_subquery()), None
        )
        return found[0] if found else None

    def _read_snapshots(self, query: Query, known_at_us: int | None) -> list[SnapshotRow]:
        if known_at_us is not None:
            query = query.where(SNAPSHOTS.c.known_at_us <= known_at_us)
        with self.store.reading() as connection:
            return [SnapshotRow._make(row) for row in connection.execute(query)]

    def wired(self, app: str, known_at_us: int | None, ts_us: int | None = None) -> frozenset[str]:
        """
        Return the fields that are known to be wired, up to `ts_us` (see `snapshot.WIRED_FIELDS`).

        An app that does not wire them leaves them at zero.
        """
        query = _WIRED
        if ts_us is not None:
            query = query.where(ALIVE.c.ts_us <= ts_us)
        if known_at_us is not None:
            query = query.where(ALIVE.c.known_at_us <= known_at_us)
        with self.store.reading() as connection:
            return frozenset(connection.execute(query, {"whose": app}).scalars())

    def first_ts(self, app: str) -> int | None:
        """Return the time of the oldest snapshot, microseconds; None if there is none."""
        with self.store.reading() as connection:
            first = connection.execute(
                sa.select(sa.func.min(SNAPSHOTS.c.ts_us, type_=sa.BigInteger)).where(SNAPSHOTS.c.app == app)
            ).scalar()
            if first is not None:
                check_time("snapshots.ts_us", first)
            return first

    def bodies(
        self, app: str, start_us: int | None, end_us: int | None, known_at_us: int | None
    ) -> Iterator[tuple[int, int, str | None, bytes]]:
        """
        Yield every post unchanged, oldest first: (ts_us, known_at_us, page id or None, body).
        """
        s = SNAPSHOTS.c
        bounds = (
            None if start_us is None else s.ts_us > start_us,
            None if end_us is None else s.ts_us <= end_us,
            None if known_at_us is None else s.known_at_us <= known_at_us,
        )
        query = (
            sa.select(s.ts_us, s.known_at_us, s.page_id, s.body)
            .where(s.app == app, *(b for b in bounds if b is not None))
            .order_by(s.ts_us, s.seq)
        )
        for row in self.store.stream(query):
            with decoding("snapshots.body"):
                body = zlib.decompress(row.body)
            yield row.ts_us, row.known_at_us, row.page_id, body

    def rejects(self, app: str) -> list[tuple[int, RejectedPost]]:
        """Return the rejected posts and rows in the order of arrival: (known_at_us, reject)."""
        r = REJECTS.c
        found = list(
            self.store.stream(sa.select(r.known_at_us, r.source, r.reasons, r.body).where(r.app == app).order_by(r.seq))
        )
        with decoding("rejects.body"):
            return [
                (
                    row.known_at_us,
                    RejectedPost(row.source, tuple(map(str, json.loads(row.reasons))), zlib.decompress(row.body)),
                )
                for row in found
            ]
