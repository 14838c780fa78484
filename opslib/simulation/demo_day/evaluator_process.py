"""
Run the demo's collector in parallel with the posts, in two processes: one probes, one evaluates.

Each evaluation time uses what was known two seconds after it, whenever it is evaluated. So the result does not depend
on how far the posts have progressed.
"""

import gc
import os
import select
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Self

from opslib.foundation import clock, crash_log, market_calendar
from opslib.foundation.config import rules
from opslib.foundation.config import settings as settings_module
from opslib.foundation.config.settings import Settings
from opslib.foundation.errors import OpsError
from opslib.foundation.market_calendar import Session
from opslib.simulation.world.script import script

PROBED_EVERY = timedelta(minutes=2)


class _Part:
    """
    A part of the collector, in its own process while the context is active.

    Args:
        settings: Settings of the demo.
        lock: Descriptor of the lock on the home, which the process holds until it ends.

    Attributes:
        reached: The time up to which the process was done at the last poll.
    """

    def __init__(self, settings: Settings, lock: int, *arguments: str):
        self._settings, self._lock, self._arguments = settings, lock, arguments
        self._requested = deque[datetime]()
        self.reached = clock.EPOCH

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "opslib.simulation.demo_day.evaluator_process",
                str(self._settings.base),
                self._settings.app,
                *self._arguments,
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,  # Otherwise `select` would miss buffered answers.
            pass_fds=[self._lock],
        )
        return self

    def __exit__(self, *ended: object) -> None:
        assert self._process.stdin and self._process.stdout
        if self._requested:
            self._process.terminate()  # The day was interrupted.
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()

    def advance(self, now: datetime) -> None:
        """Request the work up to a time, after the earlier requests."""
        assert self._process.stdin
        self._requested.append(now)
        with suppress(BrokenPipeError):  # Waiting for the answer reports that the process has ended.
            self._process.stdin.write(f"{clock.micros(now)}\n".encode())

    @property
    def is_idle(self) -> bool:
        """Whether every request is done."""
        self.poll()
        return not self._requested

    def poll(self) -> None:
        """Update `reached` without waiting."""
        assert self._process.stdout
        while self._requested and select.select([self._process.stdout], [], [], 0)[0]:
            self.wait_for_answer()

    def wait_until(self, until: datetime | None = None) -> None:
        """Wait until the process has reached a time; with None, until every request is done."""
        while self._requested and (until is None or self.reached < until):
            self.wait_for_answer()

    def wait_for_answer(self) -> None:
        """Wait until the next request is done."""
        assert self._process.stdout
        if not self._process.stdout.readline():
            self._requested.clear()
            raise OpsError(
                f"The demo's collector exited with code {self._process.wait()} (see above). Run ops demo again."
            )
        self.reached = self._requested.popleft()


class EvaluatorPart(_Part):
    """The part of the collector that evaluates the alerts."""


class ProbePart(_Part):
    """
    The part of the collector that probes the world of a scripted day.

    It does not depend on the posts, so the whole day is requested at the start.
    """

    def __init__(self, settings: Settings, lock: int, seed: int, session: Session):
        super().__init__(settings, lock, str(seed), session.day.isoformat())
        self._moments = poll_times(session.opens, session.closes)

    def __enter__(self) -> Self:
        super().__enter__()
        for moment in self._moments:
            self.advance(moment)
        return self


def poll_times(opens: datetime, closes: datetime) -> list[datetime]:
    """Return the times at which the probes report their progress: every two minutes, and after the close."""
    count = (closes - opens) // PROBED_EVERY
    return [*(opens + n * PROBED_EVERY for n in range(count)), closes + PROBED_EVERY]


def main(home: str, app: str, *probed: str) -> None:
    """
    Evaluate or probe up to the time of each input line, microseconds since 1970 UTC, and answer each line.

    Args:
        probed: Seed and day of the script whose world is probed; without them the process evaluates.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C stops the parent process; this one ends with the pipe.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # Exit normally, so that the world is stopped, too.
    settings = settings_module.load(Path(home), app)
    moments = (clock.instant(int(line)) for line in sys.stdin)
    if probed:
        _probe(settings, moments, *probed)
    else:
        _evaluate(settings, moments)


def _evaluate(settings: Settings, moments: Iterator[datetime]) -> None:
    from opslib.foundation.storage.database import Database
    from opslib.services.collector import Collector  # Not needed by the probe process.

    collector: Collector | None = None
    at = clock.EPOCH

    def now() -> datetime:
        return at

    for moment in moments:
        at = moment
        if collector is None:
            collector = Collector(Database(settings.url, now), settings, rules.load(settings.base), "demo", now)
        print(collector.evaluate_due(), flush=True)


def _probe(settings: Settings, moments: Iterator[datetime], seed: str, day: str) -> None:
    from opslib.simulation.demo_day.prober import Prober

    session = market_calendar.session(date.fromisoformat(day))
    assert session
    scripted = script(int(seed), session.day, opens=session.opens, closes=session.closes)
    gc.collect()
    gc.freeze()  # The script is kept to the end.
    with Prober(scripted, settings) as prober:
        for now in moments:
            prober.probe_until(now)
            print(flush=True)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except BrokenPipeError:
        # The parent process was killed, so nobody reads the answer.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OpsError as problem:
        sys.exit(f"ops demo, collector: {problem}")
    except Exception as problem:
        sys.exit(crash_log.record(problem, sys.argv[1], "the collector of ops demo"))
