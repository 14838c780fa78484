"""
Run periodic tasks side by side until stopped, each again some time after it ended.

A task that fails is said to have failed, and begins again at its usual pace; one that takes long delays no other.
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
    Something that is done again and again.

    Attributes:
        name: What it does, as said where it fails.
        run: Does it once.
        pause_s: How long to wait from its end until it begins again, in seconds of the clock.
    """

    name: str
    run: Callable[[], Awaitable[object]]
    pause_s: Callable[[], float]


def every(name: str, seconds: float, run: Callable[[], Awaitable[object]]) -> PeriodicTask:
    """Make a task that always pauses for as long."""
    return PeriodicTask(name, run, lambda: seconds)


def run_until_stopped(tasks: Sequence[PeriodicTask], stop: threading.Event, complaints: Complaints) -> None:
    """Run tasks in this thread until stopped; what is under way is finished first."""

    async def repeat(task: PeriodicTask, stopping: asyncio.Event) -> None:
        while not stopping.is_set():
            try:
                await task.run()
                complaints.over("store")
            except StoreError as problem:
                complaints.say("store", str(problem))
            # Whatever it is, it is said, and tried again.
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
