"""
Run periodic tasks concurrently until stopped; each pauses for some time between two runs.

A failed task is logged and runs again after its usual pause. A slow task delays no other.
"""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import NamedTuple

from opslib.alerting.notifications.sender import Complaints
from opslib.foundation import clock, formatting
from opslib.foundation.errors import StoreError


class PeriodicTask(NamedTuple):
    """
    A task that is repeated.

    Attributes:
        name: What it does, for the log line of a failure.
        run: Does it once.
        pause_s: Returns the pause between the end of a run and the start of the next, in seconds of the clock.
    """

    name: str
    run: Callable[[], Awaitable[object]]
    pause_s: Callable[[], float]


def every(name: str, seconds: float, run: Callable[[], Awaitable[object]]) -> PeriodicTask:
    """Create a task with a constant pause."""
    return PeriodicTask(name, run, lambda: seconds)


def run_until_stopped(tasks: Sequence[PeriodicTask], stop: threading.Event, complaints: Complaints) -> None:
    """Run tasks in this thread until stopped; runs in progress are finished first."""

    async def repeat(task: PeriodicTask, stopping: asyncio.Event) -> None:
        while not stopping.is_set():
            try:
                await task.run()
                complaints.over("store")
            except StoreError as problem:
                complaints.say("store", str(problem))
            # Any failure is logged, and the task runs again.
            except Exception as problem:
                complaints.say(
                    f"fault {problem}",
                    f"{task.name} failed: {problem.__class__.__name__}: {formatting.single_line(str(problem), 160)}",
                    always=True,
                )
            with suppress(TimeoutError):
                await asyncio.wait_for(stopping.wait(), task.pause_s() / clock.speed())

    async def repeat_all() -> None:
        stopping = asyncio.Event()
        running = [asyncio.create_task(repeat(task, stopping)) for task in tasks]
        await asyncio.to_thread(stop.wait)
        stopping.set()
        await asyncio.gather(*running)

    asyncio.run(repeat_all())
