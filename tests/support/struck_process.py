"""Run a process that is killed at a given moment, unless it ends before."""

import os
import select
import signal
from collections.abc import Callable


def struck(work: Callable[[], None], after_s: float) -> tuple[bool, bool]:
    """
    Fork a child that does some work, and kill it with SIGKILL after `after_s` seconds.

    The wait uses no processor time, so that it does not slow down the child or other processes.

    Returns:
        Whether it was killed, and whether it had finished its work.
    """
    reading, writing = os.pipe()  # The child's end closes when the child exits, for any reason.
    pid = os.fork()
    if not pid:
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    os.close(writing)
    if not select.select([reading], [], [], after_s)[0]:
        os.kill(pid, signal.SIGKILL)
    status = os.waitpid(pid, 0)[1]
    os.close(reading)
    return os.WIFSIGNALED(status), os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0
