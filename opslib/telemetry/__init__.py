"""Collect observations: snapshots from pages, our probes, markers, imported files."""

from typing import TYPE_CHECKING

from opslib.foundation import lazy

if TYPE_CHECKING:
    from opslib.telemetry.markers import Markers
else:
    __getattr__ = lazy.names(
        __name__,
        {
            "Markers": "markers:Markers",
        },
    )

__all__ = ["Markers"]
