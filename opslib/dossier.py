"""Copy the record and pictures of an incident into its folder, so that they can be read and verified there."""

from pathlib import Path

import sqlalchemy as sa

from opslib import evidence, temporary
from opslib.errors import IncidentError
from opslib.schema import ENTRIES, PICTURES
from opslib.store import Store

RECORD, PICTURED = "record.jsonl", "evidence"


def copy(store: Store, app: str, name: str, place: Path) -> None:
    """
    Copy an incident's record into its folder, with its pictures.

    Raises:
        IncidentError: The folder cannot be written; the store has it all the same.
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
            temporary.replace(place / PICTURED / f"{digest}.png", body)
        temporary.replace(place / RECORD, "".join(f"{line}\n" for line in lines).encode())
    except OSError as problem:
        raise IncidentError(
            f"the record of {name} is in the store; its copy in {place} could not be written ({problem.strerror})."
        ) from None


def pictures(line: str) -> list[str]:
    """Which pictures does an entry cite, by their SHA-256?"""
    if '"picture":' not in line:
        return []
    found = evidence.read(line).body.get("picture")
    return [found["sha256"]] if isinstance(found, dict) else []
