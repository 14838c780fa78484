"""
This module knows how a SQLite file is opened so that any number of processes can write to it and lose nothing, and nothing else.
"""

import os
import sqlite3
import time
from pathlib import Path
from typing import Any

import sqlalchemy as sa

BUSY_TIMEOUT_MS = 30_000
CHECKPOINT_PAGES = 8000  # Each checkpoint makes who waits for the disk wait longer; fewer of them keep the slowest percent of posts quick.


def opened(url: sa.URL) -> sa.Engine:
    """A database in a file, or in memory, for any number of threads and processes at once."""
    if url.database:
        Path(url.database).parent.mkdir(parents=True, exist_ok=True)
    engine = sa.create_engine(url, connect_args={"timeout": BUSY_TIMEOUT_MS / 1000, "isolation_level": None})

    @sa.event.listens_for(engine, "connect")
    def settle(connection: Any, _record: Any) -> None:
        for pragma in (f"busy_timeout={BUSY_TIMEOUT_MS}", "journal_mode=WAL", "synchronous=FULL", f"wal_autocheckpoint={CHECKPOINT_PAGES}"):
            _patiently(connection, f"PRAGMA {pragma}")

    return engine


def _patiently(connection: Any, statement: str) -> None:
    """Execute what SQLite may refuse at once though others only need a moment: a change of the journal's mode does not wait by itself."""
    until_s = time.monotonic() + BUSY_TIMEOUT_MS / 1000
    while True:
        try:
            connection.execute(statement).close()
            return
        except sqlite3.OperationalError as problem:
            if "locked" not in str(problem) or time.monotonic() > until_s:
                raise
            time.sleep(0.02)


def identity(path: str) -> tuple[int, int] | None:
    """Which file stands at a path? None where none does."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino
