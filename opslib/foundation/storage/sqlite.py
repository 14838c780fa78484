"""
Open a SQLite file so that any number of processes can write to it and lose nothing, or only read where it cannot be
written.

A file that we may not write, or that lies in a folder we may not write, is read all the same: as it is where no other
process has left anything in its write-ahead log; through that log where its index is at hand; else from a copy.
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
# Each checkpoint makes who waits for the disk wait longer; fewer of them keep the slowest percent of posts quick.
CHECKPOINT_PAGES = 8000
LOG, LOG_INDEX = "-wal", "-shm"
# Of the file and of its log: device, number, size, when it was written; None where it is not there.
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
        path: The file that was asked for; None in memory.
        is_read_only: Whether it can only be read.
        identity: Which file it is (see `identity`), once it is made; None in memory.
        before: State of the file while nobody can be writing to it (see `state`); None where others may write as we
            read.
        copied: Folder of the copy that is read; None where the file itself is.
    """

    engine: sa.Engine
    path: Path | None = None
    is_read_only: bool = False
    before: FileState | None = None
    identity: tuple[int, int] | None = None
    copied: "tempfile.TemporaryDirectory[str] | None" = field(default=None, repr=False)

    def check_writable(self) -> None:
        """
        Check that what is written now would be kept.

        Raises:
            StoreError: It can only be read, or another file has taken its place.
        """
        if self.is_read_only:
            raise StoreError(
                f"the store {self.path} can only be read here: you may not write it, or its folder. Run this "
                f"as somebody who may, or with another home (--home)."
            )
        if self.path is not None and self.identity and self.identity != identity(self.path):
            raise StoreError(
                f"the store {self.path} was taken away or replaced while it was open; what is written to it "
                f"would be lost. Start again."
            )

    def close(self) -> None:
        """Close every connection, and remove the copy where there is one."""
        self.engine.dispose()
        if self.copied is not None:
            self.copied.cleanup()


def file_of(url: sa.URL) -> Path | None:
    """The file that a URL names; None where it names none that can be looked at, such as one in memory."""
    is_file = (
        url.drivername.startswith("sqlite") and url.database not in (None, "", ":memory:") and "uri" not in url.query
    )
    return Path(str(url.database)) if is_file else None


def opened(url: sa.URL) -> Opened:
    """Open a database in a file, or in memory, for any number of threads and processes at once."""
    path = file_of(url)
    if path is not None:
        if path.exists() and not path.is_file():
            raise OSError(
                errno.EISDIR, f"it is {'a folder' if path.is_dir() else 'a device or a pipe'}; a file was expected"
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not (os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)):
            return _read_only(path)
    engine = sa.create_engine(url, connect_args={"timeout": BUSY_TIMEOUT_MS / 1000, "isolation_level": None})
    pragmas = ("journal_mode=WAL", "synchronous=FULL", f"wal_autocheckpoint={CHECKPOINT_PAGES}")
    return Opened(_settled(engine, pragmas, _refuse_foreign), path)


def _refuse_foreign(connection: sqlite3.Connection) -> None:
    """
    Refuse another program's database before anything of it is changed; one that has a log already is looked at later.

    SQLite alone may open the file: closing a descriptor of our own to it would drop every lock that this process holds
    on it, and another process would then take a log away that is still written to.
    """
    (mode,) = connection.execute("PRAGMA journal_mode").fetchone()
    if mode != "wal":
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if tables and "meta" not in tables:
            raise DamagedCell("it has tables, and not the one called meta")


def _read_only(path: Path) -> Opened:
    """Open a file that cannot be written."""
    before = state(path)
    has_log = os.path.exists(f"{path}{LOG}") and os.path.getsize(f"{path}{LOG}") > 0
    if not has_log:  # All of it is in the file; SQLite itself would want to make a log.
        return Opened(_reader(path, "immutable=1"), path, True, before=before)
    if os.path.exists(f"{path}{LOG_INDEX}"):
        return Opened(_reader(path, "mode=ro"), path, True)
    # What a killed process or a copy left: its log counts, and has no index.
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

    return _settled(sa.create_engine("sqlite://", creator=make, poolclass=sa.QueuePool), ("query_only=1",))


def _settled(
    engine: sa.Engine, pragmas: tuple[str, ...], check: Callable[[sqlite3.Connection], None] | None = None
) -> sa.Engine:
    @sa.event.listens_for(engine, "connect")
    def settle(connection: Any, _record: Any) -> None:
        _patiently(connection, f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")
        if check:
            check(connection)
        for pragma in pragmas:
            _patiently(connection, f"PRAGMA {pragma}")

    return engine


def _patiently(connection: Any, statement: str) -> None:
    """
    Execute what SQLite may refuse at once though others only need a moment: a change of the journal's mode does not
    wait by itself.
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
    """Which file stands at a path? None where none does."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def state(path: Path) -> FileState:
    """Which file lies at a path, how large it and its log are, and when each was last written."""
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
    What went wrong with a database, in one line: why, and what to do about it; `path` is its file where it has one.
    """
    cause = getattr(problem, "orig", None) or problem
    first = (getattr(cause, "what", str(cause)).strip().splitlines() or [type(cause).__name__])[0]
    code = getattr(cause, "sqlite_errorcode", None)
    if isinstance(cause, OSError):
        code = {errno.ENOSPC: sqlite3.SQLITE_FULL, errno.EDQUOT: sqlite3.SQLITE_FULL}.get(
            cause.errno or 0, sqlite3.SQLITE_CANTOPEN
        )
        first = cause.strerror or first
    told = formatting.single_line(first)
    if code is not None:
        code &= 0xFF
    is_undecodable = isinstance(cause, UnicodeDecodeError) or (
        isinstance(cause, sqlite3.OperationalError) and code is None
    )
    if path is None:
        return f"{told}. See OPS_STORE_URL."
    if isinstance(cause, DamagedCell) or is_undecodable or code in _DAMAGE:
        return (
            f"{told}; the file is damaged, or no store of this version. Check it with: sqlite3 "
            f'{shlex.quote(str(path))} "PRAGMA integrity_check". {RESCUE}'
        )
    if code == sqlite3.SQLITE_FULL:
        return (
            f"{told}: the disk that holds {path.parent} is full. Make room on it and try again; nothing "
            f"was kept of this."
        )
    if code in _DENIED:
        return f"{told}. See OPS_STORE_URL, and whether you may read and write {path} and its folder."
    return f"{told}. See OPS_STORE_URL and the folder it lies in."
