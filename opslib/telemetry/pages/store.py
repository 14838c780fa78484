"""
Keep the snapshots that pages posted, and what was refused of them, and give them back as they were known at any moment.

One wide row a snapshot. `store` has the database; rows are only ever added.
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
# What every post asks, made once: to build a statement costs more than to execute it.
_LOOK = [SNAPSHOTS.c[name] for name in SnapshotRow._fields]
_HELD = sa.select(SNAPSHOTS.c.digest).where(
    SNAPSHOTS.c.app == sa.bindparam("whose"), SNAPSHOTS.c.digest.in_(sa.bindparam("digests", expanding=True))
)
_KEEP = sa.insert(SNAPSHOTS)
_WIRED = sa.select(ALIVE.c.field, ALIVE.c.known_at_us, ALIVE.c.ts_us).where(ALIVE.c.app == sa.bindparam("whose"))


@dataclass(frozen=True, slots=True)
class RejectedPost:
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


class SnapshotStore:
    """The snapshots of a database, and the posts that were refused."""

    def __init__(self, store: Database):
        self.store = store

    def write(
        self, app: str, posts: Iterable[Post], rejects: Iterable[RejectedPost] = (), *, known_at_ts: bool = False
    ) -> int:
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
                self._note_alive(connection, app, rows, new)
            self._keep_rejects(connection, app, list(rejects), known_at)
        return len(rows)

    @staticmethod
    def _note_alive(connection: sa.Connection, app: str, rows: list[dict[str, Any]], posts: dict[bytes, Post]) -> None:
        """
        Since when do we know, and of which time, that a field is wired?

        Kept on writing, so that no view has to search the past.
        """
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

    def keep_rejects(self, app: str, rejects: list[RejectedPost]) -> None:
        """Keep what was refused of a file, with its reasons; the same refused again is kept once."""
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
        How many refused posts of that app are kept; the receiver stops at `MOST_POST_REJECTS`, lest a stranger fill the
        disk.
        """
        with self.store.reading() as connection:
            return connection.execute(
                sa.select(sa.func.count()).where(REJECTS.c.app == app, REJECTS.c.source == "post")
            ).scalar_one()

    def snapshots_written(self, app: str, after_seq: int, start_us: int, end_us: int) -> list[SnapshotRow]:
        """
        The looks written after a row, of what happened after `start_us`, up to and at `end_us`, by the order of
        writing.
        """
        s = SNAPSHOTS.c
        return self._looks(
            sa.select(*_LOOK)
            .where(s.app == app, s.seq > after_seq, s.ts_us > start_us, s.ts_us <= end_us)
            .order_by(s.seq),
            None,
        )

    def looks(self, app: str, start_us: int, end_us: int, known_at_us: int | None) -> list[SnapshotRow]:
        """
        What was seen after `start_us`, up to and at `end_us`, as known at `known_at_us` (None: all that is known)?

        In order of time; an empty list where there is nothing.
        """
        query = sa.select(*_LOOK).where(
            SNAPSHOTS.c.app == app, SNAPSHOTS.c.ts_us > start_us, SNAPSHOTS.c.ts_us <= end_us
        )
        return self._looks(query.order_by(SNAPSHOTS.c.ts_us, SNAPSHOTS.c.seq), known_at_us)

    def extent(self, app: str, start_us: int, end_us: int, known_at_us: int | None) -> tuple[int, int]:
        """
        How many looks are of (start, end], as known at a moment (None: all), and which is the newest row of them? 0, 0
        of none.
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

    def first_snapshot(self, app: str, after_us: int, known_at_us: int | None, **which: Any) -> SnapshotRow | None:
        """What was the first look of a page (see `last_snapshot`) after an instant? None where there is none."""
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
        """The one look whose `seq` is found first: by an index alone, so that only its own row is read."""
        found = self._looks(sa.select(*_LOOK).where(SNAPSHOTS.c.seq == which.limit(1).scalar_subquery()), None)
        return found[0] if found else None

    def _looks(self, query: Query, known_at_us: int | None) -> list[SnapshotRow]:
        if known_at_us is not None:
            query = query.where(SNAPSHOTS.c.known_at_us <= known_at_us)
        with self.store.reading() as connection:
            return [SnapshotRow._make(row) for row in connection.execute(query)]

    def alive(self, app: str, known_at_us: int | None, ts_us: int | None = None) -> frozenset[str]:
        """
        Which fields that an unwired app leaves at zero were known to move, up to `ts_us` (see
        `snapshot.WIRED_FIELDS`)?
        """
        query = sa.select(ALIVE.c.field).where(ALIVE.c.app == app)
        if ts_us is not None:
            query = query.where(ALIVE.c.ts_us <= ts_us)
        if known_at_us is not None:
            query = query.where(ALIVE.c.known_at_us <= known_at_us)
        with self.store.reading() as connection:
            return frozenset(connection.execute(query).scalars())

    def first_ts(self, app: str) -> int | None:
        """When the oldest look happened, microseconds; None where there is none."""
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
        Every post as it came, oldest first: (ts_us, known_at_us, page id or None, body), without holding them all.
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
        """What was refused, in the order it came: (known_at_us, reject)."""
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
