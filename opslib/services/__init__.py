"""Run the three long-running processes: server, collector, scheduler."""

from typing import TYPE_CHECKING

from opslib.foundation import lazy

if TYPE_CHECKING:
    from opslib.services.collector import collect
    from opslib.services.scheduler import serve as run_schedule
    from opslib.services.server import serve
else:
    __getattr__ = lazy.names(
        __name__,
        {
            "collect": "collector:collect",
            "run_schedule": "scheduler:serve",
            "serve": "server:serve",
        },
    )

__all__ = ["collect", "run_schedule", "serve"]
