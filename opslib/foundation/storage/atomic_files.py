"""
Put files in their place, all of them or none.

Several files cannot be renamed at once. So they are written beside their place, synced, and made ready by one rename
of their folder; then they move. A process killed while they move leaves them ready, and the next one moves the rest.
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
    Put files in their place, all of them or none.

    Args:
        path: Their common place and name, without ending.
        files: Contents by ending, such as ``.html``.
        keep_as: Under which name (``r1``) the files that stand there now are kept; None replaces them.

    Returns:
        Where they are now.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary_files.remove_left(path.parent)
    staging = temporary_files.beside(path)
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
            path.parent.rmdir()  # Where nothing else is in it, it was made for this.
        raise
    finish(path.parent, staging.name + _READY)
    return [path.with_name(f"{path.name}{ending}") for ending in files]


def finish(folder: Path, mine: str = "") -> None:
    """
    Move what was made ready and not moved: what a killed process left half done. Publishers take turns.

    Args:
        mine: The ready folder of the caller, whose failure is the caller's; what others left and cannot be moved stays.
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
