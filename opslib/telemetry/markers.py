"""Keep markers: what somebody says happened at a moment, for every chart and timeline."""

from datetime import datetime
from typing import NamedTuple

import sqlalchemy as sa

from opslib.foundation import clock, formatting
from opslib.foundation.config.settings import Settings
from opslib.foundation.errors import UsageError
from opslib.foundation.storage.database import Database
from opslib.foundation.storage.schema import MARKS

KINDS = ("deploy", "restart", "note")


class Marker(NamedTuple):
    """
    A marker.

    Attributes:
        ts_us, known_at_us: When it happened, and when it was written down; microseconds since 1970.
        kind: deploy, restart or note.
    """

    ts_us: int
    known_at_us: int
    kind: str
    author: str
    words: str

    @property
    def told(self) -> str:
        """On one line: when, what, who says so."""
        return f"marker, {self.kind} at {formatting.moment(clock.instant(self.ts_us))}: {self.words} ({self.author})"


class Markers:
    """The markers of one app."""

    def __init__(self, store: Database, settings: Settings):
        self.store, self.settings, self.app = store, settings, settings.app

    def put(self, kind: str, words: str, by: str, at: datetime | None = None) -> Marker:
        """
        Put a marker; on the disk before this returns.

        Args:
            at: When it happened; None is now.

        Raises:
            UsageError: No such kind, or no words.
        """
        if kind not in KINDS:
            raise UsageError(f"a marker is {', '.join(KINDS)}; found {kind!r}.{formatting.nearest(kind, KINDS)}")
        if not words.strip():
            raise UsageError("a marker has words: what happened, such as the version that was deployed.")

        def clean(given: str) -> str:
            return formatting.single_line(self.settings.redact(given.strip()))

        with self.store.committing() as connection:
            now_us = self.store.stamp(connection)
            found = Marker(clock.micros(at) if at else now_us, now_us, kind, clean(by), clean(words))
            seq = connection.execute(sa.select(sa.func.max(MARKS.c.seq)).where(MARKS.c.app == self.app)).scalar() or 0
            connection.execute(sa.insert(MARKS).values(app=self.app, seq=seq + 1, **found._asdict()))
        return found

    def between(self, start_us: int, end_us: int, known_at_us: int | None = None) -> list[Marker]:
        """The markers of (start, end], as known at a moment (None: now), in order of time."""
        with self.store.reading() as connection:
            return [
                m
                for _, m in self.within(connection, start_us, end_us)
                if known_at_us is None or m.known_at_us <= known_at_us
            ]

    def within(self, connection: sa.Connection, start_us: int, end_us: int) -> list[tuple[int, Marker]]:
        """The same with their numbers, inside somebody's transaction."""
        query = (
            sa.select(MARKS.c.seq, *(MARKS.c[n] for n in Marker._fields))
            .where(MARKS.c.app == self.app, MARKS.c.ts_us > start_us, MARKS.c.ts_us <= end_us)
            .order_by(MARKS.c.ts_us, MARKS.c.seq)
        )
        return [(row[0], Marker(*row[1:])) for row in connection.execute(query)]
