"""Probe the app and its providers, and store the results."""

from typing import TYPE_CHECKING

from opslib.foundation import lazy

if TYPE_CHECKING:
    from opslib.telemetry.probes.history import ProbeHistory
    from opslib.telemetry.probes.runner import ProbeRunner
else:
    __getattr__ = lazy.names(
        __name__,
        {
            "ProbeHistory": "history:ProbeHistory",
            "ProbeRunner": "runner:ProbeRunner",
        },
    )

__all__ = ["ProbeHistory", "ProbeRunner"]
