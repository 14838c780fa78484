"""Store markers of events (deploy, restart, note) for charts and timelines."""

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
        ts_us, known_at_us: When it happened, and when it was recorded; microseconds since 1970.
        kind: deploy, restart or note.
    """

    ts_us: int
    known_at_us: int
    kind: str
    author: str
    words: str

    @property
    def line(self) -> str:
        """The marker on one line: time, text, author."""
        return f"marker, {self.kind} at {formatting.moment(clock.instant(self.ts_us))}: {self.words} ({self.author})"


# Built once: the live dashboard reads markers every few seconds, and building takes longer than executing.
_WITHIN = (
    sa.select(MARKS.c.seq, *(MARKS.c[n] for n in Marker._fields))
    .where(
        MARKS.c.app == sa.bindparam("of"), MARKS.c.ts_us > sa.bindparam("start"), MARKS.c.ts_us <= sa.bindparam("end")
    )
    .order_by(MARKS.c.ts_us, MARKS.c.seq)
)


class Markers:
    """The markers of one app."""

    def __init__(self, store: Database, settings: Settings):
        self.store, self.settings, self.app = store, settings, settings.app

    def put(self, kind: str, words: str, by: str, at: datetime | None = None) -> Marker:
        """
        Store a marker; it is on the disk when this returns.

        Args:
            at: When it happened; None is now.

        Raises:
            UsageError: No such kind, or no words.
        """
        if kind not in KINDS:
            raise UsageError(
                f"unknown kind of marker {kind!r}; expected one of {', '.join(KINDS)}.{formatting.nearest(kind, KINDS)}"
            )
        if not words.strip():
            raise UsageError("the marker has no text; expected what happened, such as the deployed version.")

        def clean(given: str) -> str:
            return formatting.single_line(self.settings.redact(given.strip()))

        with self.store.committing() as connection:
            now_us = self.store.stamp(connection)
            found = Marker(clock.micros(at) if at else now_us, now_us, kind, clean(by), clean(words))
            seq = connection.execute(sa.select(sa.func.max(MARKS.c.seq)).where(MARKS.c.app == self.app)).scalar() or 0
            connection.execute(sa.insert(MARKS).values(app=self.app, seq=seq + 1, **found._asdict()))
        return found

    def between(self, start_us: int, end_us: int, known_at_us: int | None = None) -> list[Marker]:
        """Return the markers of (start, end] as known at a moment (None: now), in order of time."""
        with self.store.reading() as connection:
            return [
                m
                for _, m in self.within(connection, start_us, end_us)
                if known_at_us is None or m.known_at_us <= known_at_us
            ]

    def within(self, connection: sa.Connection, start_us: int, end_us: int) -> list[tuple[int, Marker]]:
        """Return the same with their sequence numbers, within the caller's transaction."""
        parameters = {"of": self.app, "start": start_us, "end": end_us}
        return [(row[0], Marker(*row[1:])) for row in connection.execute(_WITHIN, parameters)]
