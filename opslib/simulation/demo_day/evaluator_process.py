"""
Evaluate the demo's alerts beside the day that is played: a collector in a process of its own.

An instant is judged by what was known two seconds after it, whenever that is done; so nothing of what comes out depends
on how far the day has gone on meanwhile.
"""

import os
import select
import signal
import subprocess
import sys
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from opslib.foundation import clock, crash_log
from opslib.foundation.config import rules
from opslib.foundation.config import settings as settings_module
from opslib.foundation.config.settings import Settings
from opslib.foundation.errors import OpsError
from opslib.foundation.storage.database import Database
from opslib.services.collector import Collector


class Judge:
    """
    A collector that judges for as long as this is entered.

    Args:
        settings: Whose alerts.
        lock: Descriptor of the lock on its home, which it holds until it has ended.
    """

    def __init__(self, settings: Settings, lock: int):
        self._settings, self._lock, self._judging = settings, lock, False

    def __enter__(self) -> "Judge":
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "opslib.simulation.demo_day.evaluator_process",
                str(self._settings.base),
                self._settings.app,
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            pass_fds=[self._lock],
        )
        return self

    def __exit__(self, *ended: object) -> None:
        assert self._process.stdin and self._process.stdout
        if self._judging:
            self._process.kill()  # The day was broken off.
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()

    def go_on(self, now: datetime) -> None:
        """Let it judge what is due at a moment, once it is through with what was due before."""
        self.through()
        assert self._process.stdin
        self._judging = True
        with suppress(BrokenPipeError):  # Who waits for its answer hears that it has ended.
            self._process.stdin.write(f"{clock.micros(now)}\n")

    @property
    def idle(self) -> bool:
        """Is it through with what it was asked for?"""
        assert self._process.stdout
        return not self._judging or bool(select.select([self._process.stdout], [], [], 0)[0])

    def memory_mb(self) -> float:
        """How much memory the collector holds."""
        import psutil

        return psutil.Process(self._process.pid).memory_info().rss / 1e6

    def through(self) -> None:
        """Wait until all is judged that it was asked for."""
        assert self._process.stdout
        if self._judging and not self._process.stdout.readline():
            raise OpsError(f"the collector of the demo ended with {self._process.wait()}; it says why above.")
        self._judging = False


def main(home: str, app: str) -> None:
    """Judge at each moment that a line names, microseconds since 1970, and answer how many instants were."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for who lives the day; this ends with the pipe.
    settings = settings_module.load(Path(home), app)
    collector: Collector | None = None
    at_us = 0

    def now() -> datetime:
        return clock.instant(at_us)

    for line in sys.stdin:
        at_us = int(line)
        if collector is None:
            collector = Collector(Database(settings.url, now), settings, rules.load(settings.base), "demo", now)
        print(collector.judge(), flush=True)


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
