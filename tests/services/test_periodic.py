"""Test periodic tasks: a task that hangs or fails delays no other, and running tasks finish before the end."""

import asyncio
import threading
from pathlib import Path

import pytest

from opslib.alerting.notifications.sender import Complaints
from opslib.foundation.config import settings
from opslib.foundation.errors import StoreError
from opslib.services import periodic


def test_a_hanging_or_failing_task_delays_no_other(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """
    All other tasks run three times while one hangs; each failure is logged, and an unavailable database at least once.
    """
    stop, ran, released, ended = threading.Event(), list[str](), asyncio.Event(), list[str]()

    async def hang() -> None:
        await released.wait()
        stop.set()
        await asyncio.sleep(0)  # The stop has been requested by then, and the task still finishes.
        ended.append("hang")

    async def fail() -> None:
        ran.append("fail")
        raise ZeroDivisionError("what nobody thought of")

    async def lack_the_store() -> None:
        ran.append("store")
        raise StoreError("the store could not be written")

    async def go_on() -> None:
        ran.append("go on")
        if min(ran.count(name) for name in ("fail", "store", "go on")) >= 3:
            released.set()

    tasks = [periodic.every(f.__name__, 0.001, f) for f in (hang, fail, lack_the_store)]
    tasks.append(periodic.PeriodicTask("going on", go_on, lambda: 0.001))
    periodic.run_until_stopped(tasks, stop, Complaints(settings.load(tmp_path, None, {})))
    assert ended and released.is_set()
    said = [record.getMessage() for record in caplog.records]
    assert said.count("fail failed: ZeroDivisionError: what nobody thought of") == ran.count("fail")
    # A task that needs no database may succeed in between, which resets the once-only message.
    assert "the store could not be written" in said
