"""
Read the TOML files of a home, and validate one only when it, or what validates it, has changed.

What was found valid is remembered in ``.validated`` of the home, in one file for each form, under the digest of all
that it rests on. Nothing that a settings file says is kept there, since it may be a secret. What is damaged, foreign or
cannot be written is validated again.
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
    A TOML file of a home.

    Attributes:
        table: What it says; empty where there is no such file.
        content: Its text.
    """

    path: Path
    table: dict[str, Any]
    content: str

    def validate(self, form: Path, known: dict[str, Any], find_problems: Callable[[], list[str]]) -> None:
        """
        Refuse what cannot be meant, unless the same text was found valid before.

        Args:
            form: The module that says what may stand in it.
            known: What values are held against, fit for JSON.
            find_problems: Names every problem with its place.

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
    Read a file of a home; one that is not there says nothing.

    Raises:
        SettingsError: It is no TOML, or longer than `files.MOST_SETTINGS_BYTES`.
    """
    try:
        content = files.read_text(path, files.MOST_SETTINGS_BYTES) if path.exists() else ""
        return Document(path, tomllib.loads(content), content)
    except (ImportRefused, OSError, ValueError, RecursionError) as problem:
        raise SettingsError(f"{path} cannot be read as TOML: {problem}.") from None


def once(home: Path | None, form: Path, rests_on: list[Any], make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """
    What a validated document comes to, made once for what it rests on.

    Args:
        home: Where it is remembered; None is nowhere.
        form: The module that validates it; its own text is part of what the document rests on.
        make: Validates, and gives what is to be kept, fit for JSON.
    """
    kept = Cache(home / FOLDER if home else None)
    return kept.once(form.stem.removesuffix("_form"), [VERSION, *_sources(form), *rests_on], make)


@cache
def _sources(form: Path) -> tuple[str, ...]:
    """Digests of the modules that validate by a form."""
    return tuple(digest(path.read_text(encoding="utf-8")) for path in (form, Path(__file__).with_name("validation.py")))


def digest(content: str) -> str:
    """SHA-256 of a text."""
    return hashlib.sha256(content.encode()).hexdigest()
