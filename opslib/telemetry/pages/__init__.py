"""Validate and store the snapshots that the app's pages post, and compute figures from them."""

from typing import TYPE_CHECKING

from opslib.foundation import lazy

if TYPE_CHECKING:
    from opslib.telemetry.pages import indicators
    from opslib.telemetry.pages.counters import CounterHistory
else:
    __getattr__ = lazy.names(
        __name__,
        {
            "CounterHistory": "counters:CounterHistory",
            "indicators": "indicators",
        },
    )

__all__ = ["CounterHistory", "indicators"]
