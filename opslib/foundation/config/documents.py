"""
Read the TOML files of a home directory, and validate a file only if it or its form has changed.

Validation results are cached in ``.validated`` of the home directory, one file per form, under the digest of everything
they depend on. The content of a settings file is never cached, because it may be secret. A cache file that is damaged,
from another form, or cannot be written only means that the file is validated again.
"""

import hashlib
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from opslib.foundation import files
from opslib.foundation.errors import ImportRefused, SettingsError
from opslib.foundation.storage.cache import Cache
from opslib.foundation.version import VERSION

FOLDER = ".validated"


@dataclass(frozen=True, slots=True)
class Document:
    """
    A TOML file of a home directory.

    Attributes:
        table: Its content; empty if there is no such file.
        content: Its text.
    """

    path: Path
    table: dict[str, Any]
    content: str

    def validate(self, form: Path, known: dict[str, Any], find_problems: Callable[[], list[str]]) -> None:
        """
        Raise an error if the file is invalid, unless the same text was validated before.

        Args:
            form: The module that defines the valid content.
            known: The values that the file is checked against, as JSON values.
            find_problems: Returns every problem with its place.

        Raises:
            SettingsError: Every problem.
        """

        def validated() -> dict[str, Any]:
            if problems := find_problems():
                raise SettingsError("\n".join(problems))
            return {}

        if self.content:
            once(self.path.parent, form, [digest(self.content), known], validated)


def read(path: Path) -> Document:
    """
    Read a file of a home directory; a missing file is an empty document.

    Raises:
        SettingsError: The file is not TOML, or longer than `files.MOST_SETTINGS_BYTES`.
    """
    try:
        content = files.read_text(path, files.MOST_SETTINGS_BYTES) if path.exists() else ""
        return Document(path, tomllib.loads(content), content)
    except (ImportRefused, OSError, ValueError, RecursionError) as problem:
        raise SettingsError(f"{path} cannot be read as TOML: {str(problem).rstrip('.')}. Correct the file.") from None


def once(home: Path | None, form: Path, depends_on: list[Any], make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """
    Return a value computed from a validated document, computed once per content.

    Args:
        home: The home directory that holds the cache; None means no cache.
        form: The module that validates the document; its own text is part of the cache key.
        make: Validates the document and returns the value to cache, as JSON values.
    """
    kept = Cache(home / FOLDER if home else None)
    return kept.once(form.stem.removesuffix("_form"), [VERSION, *_sources(form), *depends_on], make)


@cache
def _sources(form: Path) -> tuple[str, ...]:
    """Return the digests of the modules that validate a form."""
    return tuple(digest(path.read_text(encoding="utf-8")) for path in (form, Path(__file__).with_name("validation.py")))


def digest(content: str) -> str:
    """Return the SHA-256 of a text."""
    return hashlib.sha256(content.encode()).hexdigest()
