"""This module knows what still works, and how bad it is; and nothing else."""

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from opslib.panels import View


class Severity(NamedTuple):
    """How bad it is, and why."""

    level: str
    why: str


def standing(view: "View") -> list[tuple[str, str]]:
    """What works, what fails, what is not known."""
    from importlib import import_module

    return import_module("opslib.message").standing(view)


def severity(view: "View") -> Severity:
    """How bad is it?"""
    return Severity("unknown", "not judged yet")
