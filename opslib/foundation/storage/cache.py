"""
Cache computed values in files, under the digest of everything they depend on.

The cache only saves time: a file that is lost, damaged or cannot be written means that the value is computed again.
Verification does not use it, because anybody could have written a cache file.
"""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from opslib.foundation import files
from opslib.foundation.errors import ImportRefused
from opslib.foundation.storage import temporary_files

FOLDER = ".memory"  # In the output directory of an app.


class Cache:
    """
    A cache of computed values.

    Args:
        folder: Directory of the cache files; None means that nothing is cached.
    """

    def __init__(self, folder: Path | None):
        self._folder = folder

    def once(self, name: str, depends_on: list[Any], compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """
        Return a computed value, computed once for what it depends on.

        Args:
            name: Name of the cache file; one for each kind of value.
            depends_on: Everything that the value depends on, as JSON values.
            compute: Returns the value, as JSON values that survive a round trip.
        """
        if self._folder is None:
            return compute()
        basis, path = _digest(depends_on), self._folder / f"{name}.json"
        try:
            kept = json.loads(files.read_bytes(path))
            if kept["basis"] == basis and kept["digest"] == _digest(kept["found"]):
                value: dict[str, Any] = kept["found"]
                return value
        except (ImportRefused, ValueError, KeyError, TypeError, RecursionError):
            pass  # The file is missing or damaged.
        found = compute()
        self.keep(name, depends_on, found)
        return found

    def keep(self, name: str, depends_on: list[Any], found: dict[str, Any]) -> None:
        """Cache the value that `once` would compute, if the caller already knows it."""
        if self._folder is not None:
            kept = {"basis": _digest(depends_on), "digest": _digest(found), "found": found}
            self._keep(self._folder / f"{name}.json", kept)

    @staticmethod
    def _keep(path: Path, kept: dict[str, Any]) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary_files.replace(path, json.dumps(kept).encode())
        except OSError:
            return  # The value is computed again next time.


def _digest(found: Any) -> str:
    """Return the digest of a value; the order of keys counts. It reveals damage that leaves valid JSON."""
    return hashlib.sha256(json.dumps(found).encode()).hexdigest()
