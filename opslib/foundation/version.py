"""The version of the package, which the build reads."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass


VERSION = "0.1.0"
