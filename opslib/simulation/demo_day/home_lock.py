"""Lock the demo's home, so that no two processes create it at once, or before a killed one has ended."""

import fcntl
import os
import time
from typing import Any

from opslib.foundation.config.settings import Settings

FILE = ".demo.lock"
POLL_S = 0.1


class HomeLock:
    """
    A lock on the demo's home, held in the context and by each process that inherits its descriptor.

    The system releases it when the last of them ends.

    Args:
        settings: Settings of the demo.
        wait_s: How long to wait for another process to release it.

    Attributes:
        is_mine: Whether it was acquired within that time.
        descriptor: Descriptor of the lock file, for processes that must hold it, too.
    """

    def __init__(self, settings: Settings, wait_s: float = 0.0):
        self._path, self._wait_s = settings.home.parent / FILE, wait_s
        self.is_mine, self.descriptor = False, -1

    def __enter__(self) -> "HomeLock":
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self.descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        until_s = time.monotonic() + self._wait_s
        while not self.is_mine:
            try:
                fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self.is_mine = True
            except BlockingIOError:
                if time.monotonic() >= until_s:
                    break
                time.sleep(POLL_S)
        return self

    def __exit__(self, *ended: Any) -> None:
        os.close(self.descriptor)
