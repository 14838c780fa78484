"""Execute and publish notebooks, list due jobs, and record every run in a ledger."""

from typing import TYPE_CHECKING

from opslib.foundation import lazy

if TYPE_CHECKING:
    from opslib.jobs import ledger
    from opslib.jobs.due import DueJobs
    from opslib.jobs.executor import execute, publish_run
    from opslib.jobs.kernels import KernelPool
    from opslib.jobs.schedule import read as read_schedule
else:
    __getattr__ = lazy.names(
        __name__,
        {
            "DueJobs": "due:DueJobs",
            "KernelPool": "kernels:KernelPool",
            "execute": "executor:execute",
            "ledger": "ledger",
            "publish_run": "executor:publish_run",
            "read_schedule": "schedule:read",
        },
    )

__all__ = ["DueJobs", "KernelPool", "execute", "ledger", "publish_run", "read_schedule"]
