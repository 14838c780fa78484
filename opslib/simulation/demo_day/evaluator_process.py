"""
Probe and evaluate beside the day that is played: the demo's collector, in two processes of its own.

An instant is judged by what was known two seconds after it, whenever that is done; so nothing of what comes out depends
on how far the day has gone on meanwhile.
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
from opslib.foundation.storage.database import Database
from opslib.services.collector import Collector
from opslib.simulation.demo_day.prober import Prober
from opslib.simulation.world.script import Script, script

PROBED_EVERY = timedelta(minutes=2)


class _Beside:
    """
    A part of a collector, in a process of its own for as long as this is entered.

    Args:
        settings: Of the demo.
        lock: Descriptor of the lock on its home, which it holds until it has ended.

    Attributes:
        reached: The moment up to which it was through when last asked.
    """

    def __init__(self, settings: Settings, lock: int, *told: str):
        self._settings, self._lock, self._told = settings, lock, told
        self._asked = deque[datetime]()
        self.reached = clock.EPOCH

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "opslib.simulation.demo_day.evaluator_process",
                str(self._settings.base),
                self._settings.app,
                *self._told,
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,  # So that `select` sees every answer.
            pass_fds=[self._lock],
        )
        return self

    def __exit__(self, *ended: object) -> None:
        assert self._process.stdin and self._process.stdout
        if self._asked:
            self._process.terminate()  # The day was broken off.
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()

    def go_on(self, now: datetime) -> None:
        """Let it do what is due up to a moment, after what it was asked for before."""
        assert self._process.stdin
        self._asked.append(now)
        with suppress(BrokenPipeError):  # Who waits for its answer hears that it has ended.
            self._process.stdin.write(f"{clock.micros(now)}\n".encode())

    @property
    def idle(self) -> bool:
        """Whether it is through with everything that it was asked for."""
        self.look_up()
        return not self._asked

    def look_up(self) -> None:
        """Bring `reached` up to date, without waiting."""
        assert self._process.stdout
        while self._asked and select.select([self._process.stdout], [], [], 0)[0]:
            self._take_answer()

    def through(self, until: datetime | None = None) -> None:
        """Wait until it has reached a moment; None is until all is done that it was asked for."""
        while self._asked and (until is None or self.reached < until):
            self._take_answer()

    def _take_answer(self) -> None:
        assert self._process.stdout
        if not self._process.stdout.readline():
            self._asked.clear()
            raise OpsError(f"the collector of the demo ended with {self._process.wait()}; it says why above.")
        self.reached = self._asked.popleft()


class Judge(_Beside):
    """The part of a collector that judges."""


class Probes(_Beside):
    """
    The part of a collector that probes the world of a scripted day.

    It depends on nothing that is posted, so it goes through the whole day from the beginning.
    """

    def __init__(self, settings: Settings, lock: int, probed: Script):
        super().__init__(settings, lock, str(probed.seed), probed.day.isoformat())
        self._moments = spread(probed.opens, probed.closes)

    def __enter__(self) -> Self:
        super().__enter__()
        for moment in self._moments:
            self.go_on(moment)
        return self


def spread(opens: datetime, closes: datetime) -> list[datetime]:
    """The moments of a session at which it is said how far its probes have come: every two minutes, and after it."""
    count = (closes - opens) // PROBED_EVERY
    return [*(opens + n * PROBED_EVERY for n in range(count)), closes + PROBED_EVERY]


def main(home: str, app: str, *probed: str) -> None:
    """
    Judge, or probe, up to each moment that a line names, microseconds since 1970, and answer each.

    Args:
        probed: The seed and the day of the script whose world is probed; none is that it judges.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for who lives the day; this ends with the pipe.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # So that the world is cleaned away.
    settings = settings_module.load(Path(home), app)
    moments = (clock.instant(int(line)) for line in sys.stdin)
    if probed:
        _probe(settings, moments, *probed)
    else:
        _judge(settings, moments)


def _judge(settings: Settings, moments: Iterator[datetime]) -> None:
    collector: Collector | None = None
    at = clock.EPOCH

    def now() -> datetime:
        return at

    for moment in moments:
        at = moment
        if collector is None:
            collector = Collector(Database(settings.url, now), settings, rules.load(settings.base), "demo", now)
        print(collector.judge(), flush=True)


def _probe(settings: Settings, moments: Iterator[datetime], seed: str, day: str) -> None:
    session = market_calendar.session(date.fromisoformat(day))
    assert session
    scripted = script(int(seed), session.day, opens=session.opens, closes=session.closes)
    gc.collect()
    gc.freeze()  # The script stays to the end.
    with Prober(scripted, settings) as prober:
        for now in moments:
            prober.probe_until(now)
            print(flush=True)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except BrokenPipeError:
        # Nobody waits for the answer any more: the demo was killed.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OpsError as problem:
        sys.exit(f"ops demo, its collector: {problem}")
    except Exception as problem:
        sys.exit(crash_log.record(problem, sys.argv[1], "the collector of ops demo"))
