"""
Publish several files together or not at all.

Several files cannot be renamed at once. They are therefore written beside their place, synced, and marked ready by one
rename of their directory; then they are moved. If the process is killed while they move, the next publication in that
directory moves the rest.
"""

import contextlib
import fcntl
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from opslib.foundation.storage import temporary_files

_READY = ".ready"


def publish(path: Path, files: Mapping[str, bytes], keep_as: str | None) -> list[Path]:
    """
    Publish several files together or not at all.

    Args:
        path: Their common path and name, without ending.
        files: Contents by ending, such as ``.html``.
        keep_as: The suffix (``r1``) under which the existing files are kept; None replaces them.

    Returns:
        The paths of the files.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary_files.remove_left(path.parent)
    staging = temporary_files.temporary_name(path)
    try:
        staging.mkdir()
        for ending, content in files.items():
            _write(staging / f"{path.name}{ending}", content)
        _write(staging / "keep_as", (keep_as or "").encode())
        _sync(staging)
        staging.rename(staging.with_name(staging.name + _READY))
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        with contextlib.suppress(OSError):
            path.parent.rmdir()  # If it is empty, it was created for these files.
        raise
    finish(path.parent, staging.name + _READY)
    return [path.with_name(f"{path.name}{ending}") for ending in files]


def finish(folder: Path, mine: str = "") -> None:
    """
    Move files that are ready but not moved, such as those of a killed process. Publishers wait for each other.

    Args:
        mine: The ready directory of the caller, whose failure is raised; other directories that cannot be moved stay.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        for ready in sorted(folder.glob(f".*{_READY}"), key=lambda p: p.stat().st_mtime_ns):
            try:
                _move(ready, folder)
            except OSError:
                if not mine or ready.name == mine:
                    raise
        _sync(folder)
    finally:
        os.close(handle)


def _move(ready: Path, folder: Path) -> None:
    keep_as = (ready / "keep_as").read_text() if (ready / "keep_as").exists() else ""
    for new in sorted(p for p in ready.iterdir() if p.name != "keep_as"):
        target = folder / new.name
        kept = folder / f"{new.stem}.{keep_as}{new.suffix}"
        if keep_as and target.exists() and not kept.exists():
            os.link(target, kept)
        os.replace(new, target)
    shutil.rmtree(ready)


def _write(path: Path, content: bytes) -> None:
    with open(path, "xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
