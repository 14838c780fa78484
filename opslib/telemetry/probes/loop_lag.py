"""
Measure for how long our event loop was delayed.

A busy machine, a stopped process or a blocked loop makes all measured times longer. The loop is woken ten times a
second; a late wake-up is lost time, whatever the reason. Times are those of the loop's own clock.
"""

import asyncio
from collections import deque

TICK_S, NOISE_S, KEPT_S = 0.1, 0.02, 300.0


class Lag:
    """The spans of time that our event loop lost."""

    def __init__(self) -> None:
        self._lost: deque[tuple[float, float]] = deque()
        self._due_s: float | None = None

    async def run(self) -> None:
        """Measure until cancelled."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                self._due_s = loop.time() + TICK_S
                await asyncio.sleep(TICK_S)
                self.note(self._due_s, loop.time())
        finally:
            self._due_s = None

    def note(self, due_s: float, woken_s: float) -> None:
        """Record that the loop was due at one moment and ran at another."""
        if woken_s - due_s > NOISE_S:
            self._lost.append((due_s, woken_s))
        while self._lost and self._lost[0][1] < woken_s - KEPT_S:
            self._lost.popleft()

    def lost_s(self, since_s: float, until_s: float) -> float:
        """
        Return the seconds of a span, up to now, in which the loop could not run, including a delay in progress.
        """
        pending = [(self._due_s, until_s)] if self._due_s is not None and until_s - self._due_s > NOISE_S else []
        return sum(max(0.0, min(end, until_s) - max(start, since_s)) for start, end in (*self._lost, *pending))
