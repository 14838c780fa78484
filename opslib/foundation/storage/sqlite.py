"""
Open a SQLite file for any number of writing processes, or read-only if it cannot be written.

A file that we may not write, or that lies in a directory we may not write, is read directly if its write-ahead log is
empty; through that log if its index exists; else from a copy.
"""

import errno
import os
import shlex
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import quote

import sqlalchemy as sa

from opslib.foundation import formatting
from opslib.foundation.errors import StoreError
from opslib.foundation.storage.cell_types import RESCUE, DamagedCell

BUSY_TIMEOUT_MS = 30_000
# A checkpoint delays every writer that waits for the disk; fewer checkpoints keep the slowest percent of posts fast.
CHECKPOINT_PAGES = 8000
LOG, LOG_INDEX = "-wal", "-shm"
# For the file and for its log: device, inode, size and time of the last write; None if it does not exist.
FileState: TypeAlias = tuple[tuple[int, int, int, int] | None, ...]
_DAMAGE = (
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_ERROR,
    sqlite3.SQLITE_MISMATCH,
    sqlite3.SQLITE_FORMAT,
)
_DENIED = (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM)


@dataclass
class Opened:
    """
    An opened SQLite database.

    Attributes:
        path: The requested file; None for a database in memory.
        is_read_only: Whether it can only be read.
        identity: Which file it is (see `identity`), once it exists; None for a database in memory.
        before: State of the file while nobody can be writing to it (see `state`); None if others may write meanwhile.
        copied: Directory of the copy that is read; None if the file itself is read.
    """

    engine: sa.Engine
    path: Path | None = None
    is_read_only: bool = False
    before: FileState | None = None
    identity: tuple[int, int] | None = None
    copied: "tempfile.TemporaryDirectory[str] | None" = field(default=None, repr=False)

    def check_writable(self) -> None:
        """
        Check that data written now would be kept.

        Raises:
            StoreError: It can only be read, or another file has replaced it.
        """
        if self.is_read_only:
            raise StoreError(
                f"the database {self.path} is read-only: you may not write to it or to its directory. Run the command "
                f"as a user who may, or with another home directory (--home)."
            )
        if self.path is not None and self.identity and self.identity != identity(self.path):
            raise StoreError(
                f"the database {self.path} was removed or replaced while it was open; data written to it would be "
                f"lost. Restart the command."
            )

    def is_replaced(self) -> bool:
        """
        Return whether another file has replaced it since it was opened.

        Raises:
            StoreError: It was removed.
        """
        if self.path is None or not self.identity:
            return False
        found = identity(self.path)
        if found is None:
            raise StoreError(f"the database {self.path} was removed while it was open. Restore it from a backup.")
        return found != self.identity

    def close(self) -> None:
        """Close every connection, and remove the copy if there is one."""
        self.engine.dispose()
        if self.copied is not None:
            self.copied.cleanup()


def file_of(url: sa.URL) -> Path | None:
    """Return the file that a URL names; None if it names none, such as a database in memory."""
    is_file = (
        url.drivername.startswith("sqlite") and url.database not in (None, "", ":memory:") and "uri" not in url.query
    )
    return Path(str(url.database)) if is_file else None


def open_database(url: sa.URL) -> Opened:
    """Open a database in a file, or in memory, for any number of threads and processes at once."""
    path = file_of(url)
    if path is not None:
        if path.exists() and not path.is_file():
            raise OSError(
                errno.EISDIR, f"it is {'a directory' if path.is_dir() else 'a device or a pipe'}; a file was expected"
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not (os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)):
            return _read_only(path)
    engine = sa.create_engine(url, connect_args={"timeout": BUSY_TIMEOUT_MS / 1000, "isolation_level": None})
    pragmas = ("journal_mode=WAL", "synchronous=FULL", f"wal_autocheckpoint={CHECKPOINT_PAGES}")
    return Opened(_configured(engine, pragmas, _refuse_foreign), path)


def _refuse_foreign(connection: sqlite3.Connection) -> None:
    """
    Reject another program's database before anything in it is changed; one that has a log already is checked later.

    Only SQLite itself may open the file: closing a descriptor of our own to it would drop every lock that this process
    holds on it, and another process could then remove a log that is still written to.
    """
    (mode,) = connection.execute("PRAGMA journal_mode").fetchone()
    if mode != "wal":
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if tables and "meta" not in tables:
            raise DamagedCell("it has tables, but none called meta")


def _read_only(path: Path) -> Opened:
    """Open a file that cannot be written."""
    before = state(path)
    has_log = os.path.exists(f"{path}{LOG}") and os.path.getsize(f"{path}{LOG}") > 0
    if not has_log:  # The file is complete; without this option SQLite would try to create a log.
        return Opened(_reader(path, "immutable=1"), path, True, before=before)
    if os.path.exists(f"{path}{LOG_INDEX}"):
        return Opened(_reader(path, "mode=ro"), path, True)
    # A killed process or a copy left a log without an index; the log's content counts.
    folder = tempfile.TemporaryDirectory(prefix="ops-store-")
    for ending in ("", LOG):
        shutil.copyfile(f"{path}{ending}", f"{folder.name}/store.sqlite{ending}")
    return Opened(_reader(Path(folder.name) / "store.sqlite", "mode=rw"), path, True, before=before, copied=folder)


def _reader(path: Path, how: str) -> sa.Engine:
    address = f"file:{quote(str(path.absolute()))}?{how}"

    def make() -> Any:
        return sqlite3.connect(
            address, uri=True, timeout=BUSY_TIMEOUT_MS / 1000, isolation_level=None, check_same_thread=False
        )

    return _configured(sa.create_engine("sqlite://", creator=make, poolclass=sa.QueuePool), ("query_only=1",))


def _configured(
    engine: sa.Engine, pragmas: tuple[str, ...], check: Callable[[sqlite3.Connection], None] | None = None
) -> sa.Engine:
    @sa.event.listens_for(engine, "connect")
    def configure(connection: Any, _record: Any) -> None:
        _patiently(connection, f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")
        if check:
            check(connection)
        for pragma in pragmas:
            _patiently(connection, f"PRAGMA {pragma}")

    return engine


def _patiently(connection: Any, statement: str) -> None:
    """
    Execute a statement and retry while the database is locked.

    A change of the journal mode fails at once instead of waiting for other processes.
    """
    until_s = time.monotonic() + BUSY_TIMEOUT_MS / 1000
    while True:
        try:
            connection.execute(statement).close()
            return
        except sqlite3.OperationalError as problem:
            if "locked" not in str(problem) or time.monotonic() > until_s:
                raise
            time.sleep(0.02)


def identity(path: str | Path) -> tuple[int, int] | None:
    """Return the device and inode of the file at a path; None if there is none."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def state(path: Path) -> FileState:
    """Return which file is at a path, the sizes of it and its log, and when each was last written."""
    found: list[tuple[int, int, int, int] | None] = []
    for ending in ("", LOG):
        try:
            stat = os.stat(f"{path}{ending}")
            found.append((stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns))
        except FileNotFoundError:
            found.append(None)
    return tuple(found)


def advice(problem: BaseException, path: Path | None) -> str:
    """
    Return one line about a database error: its cause and what to do.

    Args:
        path: The file of the database, if it has one.
    """
    cause = getattr(problem, "orig", None) or problem
    first = (getattr(cause, "what", str(cause)).strip().splitlines() or [type(cause).__name__])[0]
    code = getattr(cause, "sqlite_errorcode", None)
    if isinstance(cause, OSError):
        code = {errno.ENOSPC: sqlite3.SQLITE_FULL, errno.EDQUOT: sqlite3.SQLITE_FULL}.get(
            cause.errno or 0, sqlite3.SQLITE_CANTOPEN
        )
        first = cause.strerror or first
    reason = formatting.single_line(first)
    if code is not None:
        code &= 0xFF
    is_undecodable = isinstance(cause, UnicodeDecodeError) or (
        isinstance(cause, sqlite3.OperationalError) and code is None
    )
    if path is None:
        return f"{reason}. Check OPS_STORE_URL."
    if isinstance(cause, DamagedCell) or is_undecodable or code in _DAMAGE:
        return (
            f"{reason}; the file is damaged, or not a database of this version. Check it with: sqlite3 "
            f'{shlex.quote(str(path))} "PRAGMA integrity_check". {RESCUE}'
        )
    if code == sqlite3.SQLITE_FULL:
        return (
            f"{reason}: the disk that holds {path.parent} is full. Nothing was saved. Free some space on it and try "
            f"again."
        )
    if code in _DENIED:
        return f"{reason}. Check OPS_STORE_URL, and whether you may read and write {path} and its directory."
    return f"{reason}. Check OPS_STORE_URL and the directory of the file."
