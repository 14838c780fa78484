"""
The clock of the simulated collector is moved ahead and held, and never goes back, so that no probe loses its outcome.
"""

import asyncio
import time

import anyio
import pytest

from opslib.simulation.drills import stepped_desk
from opslib.simulation.drills.stepped_desk import _Ahead

pytestmark = pytest.mark.drill


def test_a_stall_of_the_machine_is_no_time_of_the_world_and_takes_none_back() -> None:
    """
    While at most 5 ms count between two readings, 60 ms in which nobody could run add 5 ms; no reading is before one
    that came earlier.
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


def test_a_deadline_that_was_reached_stays_reached() -> None:
    """
    A connection is given up at a deadline of 1 s that the clock is moved to, and the machine stalls at that moment: it
    ends as a timeout, nothing else.
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
