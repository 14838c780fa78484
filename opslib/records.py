"""
Keep chained records in the database, by name, and copy them into folders.

An entry is written in one transaction with the place that it takes in the chain, so two people who write at once follow
each other.
"""

from collections.abc import Mapping
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from opslib import clock, dossier, evidence, text
from opslib.evidence import Entry
from opslib.incident import Incident, fold
from opslib.schema import ENTRIES, PICTURES
from opslib.settings import Settings
from opslib.store import Store


class Records:
    """The records of one app: of its incidents and of its checklists."""

    def __init__(self, store: Store, settings: Settings):
        self.store, self.settings, self.app = store, settings, settings.app

    def names(self, beginning: str) -> list[str]:
        """The records whose names begin so, in order of their names."""
        query = (
            sa.select(ENTRIES.c.incident)
            .where(ENTRIES.c.app == self.app, ENTRIES.c.incident.startswith(beginning, autoescape=True))
            .distinct()
            .order_by(ENTRIES.c.incident)
        )
        with self.store.reading() as connection:
            return list(connection.execute(query).scalars())

    def entries(self, connection: sa.Connection, name: str) -> list[Entry]:
        """A record, inside somebody's transaction; nothing where there is none."""
        query = (
            sa.select(ENTRIES.c.line)
            .where(ENTRIES.c.app == self.app, ENTRIES.c.incident == name)
            .order_by(ENTRIES.c.seq)
        )
        return [evidence.read(line) for line in connection.execute(query).scalars()]

    def read(self, name: str, known_at: datetime | None = None) -> Incident | None:
        """A record, folded, as it was known at a moment (None: now); None where there is none."""
        with self.store.reading() as connection:
            found = self.entries(connection, name)
        if known_at:
            found = [e for e in found if e.known_at_us <= clock.micros(known_at)]
        return fold(name, found) if found else None

    def put(
        self,
        connection: sa.Connection,
        name: str,
        kind: str,
        body: Mapping[str, Any],
        by: str,
        key: str,
        at_us: int | None,
    ) -> Entry | None:
        """The next entry of a record, inside somebody's transaction; None where there is one of that key already."""
        here = sa.and_(ENTRIES.c.app == self.app, ENTRIES.c.incident == name)
        if key and connection.execute(sa.select(ENTRIES.c.seq).where(here, ENTRIES.c.key == key)).scalar() is not None:
            return None
        line = connection.execute(
            sa.select(ENTRIES.c.line).where(here).order_by(ENTRIES.c.seq.desc()).limit(1)
        ).scalar()
        known_us = self.store.stamp(connection)
        entry = evidence.linked(
            evidence.read(line) if line else None,
            at_us=known_us if at_us is None else at_us,
            known_at_us=known_us,
            kind=kind,
            by=text.one_line(by, 60),
            key=key,
            body=body,
            settings=self.settings,
        )
        connection.execute(
            sa.insert(ENTRIES).values(app=self.app, incident=name, seq=entry.seq, key=key or None, line=entry.line)
        )
        return entry

    def picture(self, body: bytes) -> str:
        """Keep a picture; its SHA-256, by which an entry cites it."""
        name = sha256(body).hexdigest()
        with self.store.committing() as connection:
            if (
                connection.execute(
                    sa.select(PICTURES.c.digest).where(PICTURES.c.app == self.app, PICTURES.c.digest == name)
                ).scalar()
                is None
            ):
                connection.execute(sa.insert(PICTURES).values(app=self.app, digest=name, body=body))
        return name

    def folder(self, shelf: str, name: str) -> Path:
        """Where the copy of a record lies."""
        return self.settings.outputs / shelf / name

    def copy(self, shelf: str, name: str) -> None:
        """
        Copy a record into its folder, with its pictures: there it can be read, and verified, without the store.

        Raises:
            IncidentError: The folder cannot be written; the store has it all the same.
        """
        dossier.copy(self.store, self.app, name, self.folder(shelf, name))
