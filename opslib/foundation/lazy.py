"""Offer the names of a package without importing their modules before use."""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def names(package: str, places: Mapping[str, str]) -> Callable[[str], Any]:
    """
    Create the `__getattr__` of a package that offers names of its modules.

    Args:
        places: Where each name is: ``module:name``, or ``module`` for the module itself.
    """

    def find(name: str) -> Any:
        if name not in places:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module, _, inside = places[name].partition(":")
        found = import_module(f"{package}.{module}")
        return getattr(found, inside) if inside else found

    return find
