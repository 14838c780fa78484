"""
Name temporary files, replace files atomically, and remove what killed processes left unfinished.

A temporary name holds the host and the process that makes it. Only that host can tell whether the process still runs,
so on a shared disk no host removes the files of another.
"""

import contextlib
import errno
import os
import re
import shutil
import socket
import uuid
from collections.abc import Iterator
from pathlib import Path

from opslib.foundation.errors import OpsError

_HOST = re.sub(r"[^A-Za-z0-9-]", "-", socket.gethostname()) or "host"
_TEMPORARY_NAME = re.compile(r"\..+\.(?P<host>[A-Za-z0-9-]+)\.(?P<process>\d+)-[0-9a-f]{8}")


def temporary_name(path: Path) -> Path:
    """Return a temporary name next to `path` that only this process uses."""
    return path.with_name(f".{path.name}.{_HOST}.{os.getpid()}-{uuid.uuid4().hex[:8]}")


@contextlib.contextmanager
def refusing(place: Path) -> Iterator[None]:
    """
    Convert an OSError while writing at or below a place into an error message.

    Raises:
        OpsError: The file could not be written; the message says why, and what to do.
    """
    try:
        yield
    except OSError as problem:
        do = (
            "Free some space on that disk"
            if problem.errno in (errno.ENOSPC, errno.EDQUOT)
            else "Check that you may write there"
        )
        raise OpsError(
            f"{problem.filename or place} could not be written ({problem.strerror or problem}). {do}, and try again."
        ) from problem


def replace(path: Path, content: bytes) -> None:
    """
    Write a file whole or not at all, and remove unfinished files of ended processes in its directory.

    Raises:
        OSError: It could not be written; the old file is unchanged and no unfinished file is left.
    """
    remove_left(path.parent)
    making = temporary_name(path)
    try:
        making.write_bytes(content)
        os.replace(making, path)
    except BaseException:
        making.unlink(missing_ok=True)
        raise


def make(path: Path, content: bytes) -> None:
    """
    Write a new file, whole or not at all.

    Raises:
        OSError: It could not be written, or exists already.
    """
    with open(path, "xb") as file:
        try:
            file.write(content)
            file.flush()
        except BaseException:
            path.unlink()
            raise


def remove_left(folder: Path) -> None:
    """Remove unfinished files of this host's ended processes in a directory; files that cannot be removed stay."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        left = [
            entry
            for entry in entries
            if (made := _TEMPORARY_NAME.fullmatch(entry.name))
            and made["host"] == _HOST
            and _is_gone(int(made["process"]))
        ]
        for entry in left:
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path, ignore_errors=True)
            else:
                os.unlink(entry.path)


def _is_gone(process: int) -> bool:
    if process == os.getpid():
        return False
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return True
    except PermissionError:
        pass  # The process exists and belongs to another user.
    return False
