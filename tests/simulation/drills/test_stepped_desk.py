"""Test the clock of the stepped probes: it can be moved ahead and stopped, and never goes back."""

import asyncio
import time

import anyio
import pytest

from opslib.simulation.drills import stepped_desk
from opslib.simulation.drills.stepped_desk import _Ahead

pytestmark = pytest.mark.drill


def test_a_stall_of_the_machine_is_not_world_time() -> None:
    """
    At most 5 ms are counted between two readings, so that a stall of 60 ms adds 5 ms.

    No reading is before an earlier one.
    """
    loop, seen = _Ahead(), list[float]()
    try:
        loop.longest_s = stepped_desk.LONGEST_NAP_S
        seen.append(loop.time())
        time.sleep(0.06)
        seen.append(loop.time())
        assert seen[1] - seen[0] == pytest.approx(stepped_desk.LONGEST_NAP_S)
        loop.reach(seen[0] + 9.0)
        loop.reach(seen[0] + 3.0)
        seen.append(loop.time())
        assert 0 <= seen[2] - seen[0] - 9.0 < 0.1
        with loop.held():
            time.sleep(0.02)
            seen += [loop.time(), loop.time()]
            loop.reach(seen[-1] + 1.0)
        loop.longest_s = float("inf")
        seen.append(loop.time())
        assert seen[-1] - seen[-2] >= 1.0 and seen == sorted(seen)
    finally:
        loop.close()


def test_a_reached_deadline_stays_reached() -> None:
    """
    A connection whose deadline is reached while the machine stalls ends as a timeout.
    """

    async def given_up(loop: _Ahead) -> str:
        async def connect() -> str:
            try:
                with anyio.fail_after(1.0):
                    await asyncio.Event().wait()
            except TimeoutError:
                return "timeout"
            return "no outcome"

        connecting = asyncio.create_task(connect())
        await asyncio.sleep(0)
        loop.longest_s = stepped_desk.LONGEST_NAP_S
        loop.reach(loop.time() + 0.999)
        while not connecting.done():
            time.sleep(0.02)
            await asyncio.sleep(0.0005)
        return connecting.result()

    loop = _Ahead()
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        assert runner.run(given_up(loop)) == "timeout"
