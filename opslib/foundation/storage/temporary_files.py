"""
Name files that are being made, replace files by whole ones, and remove what killed processes left half made.

A name holds the host and the process that makes it: only that host can say whether the process is gone. So on a shared
disk no host removes what another is making.
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
_MADE = re.compile(r"\..+\.(?P<host>[A-Za-z0-9-]+)\.(?P<process>\d+)-[0-9a-f]{8}")


def beside(path: Path) -> Path:
    """A name beside `path`, of this process alone, under which it is made."""
    return path.with_name(f".{path.name}.{_HOST}.{os.getpid()}-{uuid.uuid4().hex[:8]}")


@contextlib.contextmanager
def refusing(place: Path) -> Iterator[None]:
    """
    Refuse in one sentence where something cannot be written at or below a place.

    Raises:
        OpsError: It could not; says why, and what to do.
    """
    try:
        yield
    except OSError as problem:
        do = (
            "Make room on that disk"
            if problem.errno in (errno.ENOSPC, errno.EDQUOT)
            else "See whether you may write there"
        )
        raise OpsError(
            f"{problem.filename or place} could not be written ({problem.strerror or problem}). {do}, and try again."
        ) from problem


def replace(path: Path, content: bytes) -> None:
    """
    Write a file whole or not at all; what processes that are gone left half made in its folder is removed.

    Raises:
        OSError: It could not be written; what was there is still there, and nothing half made is.
    """
    remove_left(path.parent)
    making = beside(path)
    try:
        making.write_bytes(content)
        os.replace(making, path)
    except BaseException:
        making.unlink(missing_ok=True)
        raise


def make(path: Path, content: bytes) -> None:
    """
    Write a file that is not there yet, whole or not at all.

    Raises:
        OSError: It could not be written, or is there.
    """
    with open(path, "xb") as file:
        try:
            file.write(content)
            file.flush()
        except BaseException:
            path.unlink()
            raise


def remove_left(folder: Path) -> None:
    """Remove what processes of this host that are gone were making in a folder; what cannot be removed stays."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        left = [
            entry
            for entry in entries
            if (made := _MADE.fullmatch(entry.name)) and made["host"] == _HOST and _is_gone(int(made["process"]))
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
        pass  # It is somebody else's, and there.
    return False
