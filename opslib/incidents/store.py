"""Store hash-chained records in the database, and copy them with their pictures into folders."""

from collections.abc import Mapping
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from opslib.foundation import clock, formatting
from opslib.foundation.config.settings import Settings
from opslib.foundation.errors import IncidentError
from opslib.foundation.storage import temporary_files
from opslib.foundation.storage.database import Database
from opslib.foundation.storage.schema import ENTRIES, PICTURES
from opslib.incidents import evidence
from opslib.incidents.evidence import Entry
from opslib.incidents.incident import Incident, from_entries

RECORD, PICTURED = "record.jsonl", "evidence"


def copy(store: Database, app: str, name: str, place: Path) -> None:
    """
    Copy an incident's record into its folder, with its pictures.

    Raises:
        IncidentError: The folder cannot be written; the record in the database is not affected.
    """
    with store.reading() as connection:
        lines = list(
            connection.execute(
                sa.select(ENTRIES.c.line)
                .where(ENTRIES.c.app == app, ENTRIES.c.incident == name)
                .order_by(ENTRIES.c.seq)
            ).scalars()
        )
        missing = [
            p for p in {p for line in lines for p in pictures(line)} if not (place / PICTURED / f"{p}.png").exists()
        ]
        bodies = (
            {
                row.digest: row.body
                for row in connection.execute(
                    sa.select(PICTURES.c.digest, PICTURES.c.body).where(
                        PICTURES.c.app == app, PICTURES.c.digest.in_(missing)
                    )
                )
            }
            if missing
            else {}
        )
    try:
        place.mkdir(parents=True, exist_ok=True)
        for digest, body in bodies.items():
            (place / PICTURED).mkdir(exist_ok=True)
            temporary_files.replace(place / PICTURED / f"{digest}.png", body)
        temporary_files.replace(place / RECORD, "".join(f"{line}\n" for line in lines).encode())
    except OSError as problem:
        raise IncidentError(
            f"the record of {name} is in the database, but its copy in {place} could not be written "
            f"({problem.strerror}). Check the permissions of that folder and the free space."
        ) from None


def pictures(line: str) -> list[str]:
    """Return the SHA-256 of the pictures that an entry refers to."""
    if '"picture":' not in line:
        return []
    found = evidence.read(line).body.get("picture")
    return [found["sha256"]] if isinstance(found, dict) else []


class EntryStore:
    """The records of one app: incidents, checklists, feedback."""

    def __init__(self, store: Database, settings: Settings):
        self.store, self.settings, self.app = store, settings, settings.app

    def names(self, beginning: str) -> list[str]:
        """Return the names of the records with a prefix, sorted."""
        query = (
            sa.select(ENTRIES.c.incident)
            .where(ENTRIES.c.app == self.app, ENTRIES.c.incident.startswith(beginning, autoescape=True))
            .distinct()
            .order_by(ENTRIES.c.incident)
        )
        with self.store.reading() as connection:
            return list(connection.execute(query).scalars())

    def entries(self, connection: sa.Connection, name: str) -> list[Entry]:
        """Read the entries of a record within the caller's transaction; empty if there is none."""
        query = (
            sa.select(ENTRIES.c.line)
            .where(ENTRIES.c.app == self.app, ENTRIES.c.incident == name)
            .order_by(ENTRIES.c.seq)
        )
        return [evidence.read(line) for line in connection.execute(query).scalars()]

    def read(self, name: str, known_at: datetime | None = None) -> Incident | None:
        """Read a record as it was known at a time (None: now); None if there is none."""
        with self.store.reading() as connection:
            found = self.entries(connection, name)
        if known_at:
            found = [e for e in found if e.known_at_us <= clock.micros(known_at)]
        return from_entries(name, found) if found else None

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
        """Write the next entry within the caller's transaction; None if there is one with that key already."""
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
            by=formatting.single_line(by, 60),
            key=key,
            body=body,
            settings=self.settings,
        )
        connection.execute(
            sa.insert(ENTRIES).values(app=self.app, incident=name, seq=entry.seq, key=key or None, line=entry.line)
        )
        return entry

    def picture(self, body: bytes) -> str:
        """Store a picture; return its SHA-256, by which entries refer to it."""
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

    def folder(self, parent: str, name: str) -> Path:
        """Return the folder of a record's copy."""
        return self.settings.outputs / parent / name

    def copy(self, parent: str, name: str) -> None:
        """
        Copy a record with its pictures into its folder, where it can be read and verified without the database.

        Raises:
            IncidentError: The folder cannot be written; the record in the database is not affected.
        """
        copy(self.store, self.app, name, self.folder(parent, name))
