"""
Keep computed values under what they depend on.

It is kept in a folder of the desk under what it rests on: from another basis it is computed anew. It is for speed
alone; what is lost, cannot be written or is no such thing is computed again. Who verifies does without it, since
anybody can write a file.
"""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from opslib.foundation import files
from opslib.foundation.errors import ImportRefused
from opslib.foundation.storage import temporary_files

FOLDER = ".memory"  # In the outputs of an app.


class Cache:
    """
    What was computed before.

    Args:
        folder: Where it is kept; None remembers nothing.
    """

    def __init__(self, folder: Path | None):
        self._folder = folder

    def once(self, name: str, rests_on: list[Any], compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """
        What comes of a computation, computed once for what it rests on.

        Args:
            name: Of the file; one for each thing that may be asked for.
            rests_on: All that the outcome depends on, fit for JSON.
            compute: Gives the outcome, fit for JSON: what is remembered of it and what it gives are one.
        """
        if self._folder is None:
            return compute()
        basis, path = _digest(rests_on), self._folder / f"{name}.json"
        try:
            kept = json.loads(files.read_bytes(path))
            if kept["basis"] == basis and kept["digest"] == _digest(kept["found"]):
                remembered: dict[str, Any] = kept["found"]
                return remembered
        except (ImportRefused, ValueError, KeyError, TypeError, RecursionError):
            pass  # None is there, or it is broken.
        found = compute()
        self.keep(name, rests_on, found)
        return found

    def keep(self, name: str, rests_on: list[Any], found: dict[str, Any]) -> None:
        """Keep what `once` would compute, by whoever knows it already."""
        if self._folder is not None:
            kept = {"basis": _digest(rests_on), "digest": _digest(found), "found": found}
            self._keep(self._folder / f"{name}.json", kept)

    @staticmethod
    def _keep(path: Path, kept: dict[str, Any]) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary_files.replace(path, json.dumps(kept).encode())
        except OSError:
            return  # It is computed again.


def _digest(found: Any) -> str:
    """Of what was computed, so that damage which leaves valid JSON behind is seen; the order of keys counts."""
    return hashlib.sha256(json.dumps(found).encode()).hexdigest()
