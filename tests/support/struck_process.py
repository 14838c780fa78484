"""Run a process that is killed at a given moment, unless it ends before."""

import os
import select
import signal
from collections.abc import Callable


def struck(work: Callable[[], None], after_s: float) -> tuple[bool, bool]:
    """
    Fork a child that does some work, and kill it with SIGKILL after so long.

    Nothing spins meanwhile: the child, and who else runs on this machine, has the processor to itself.

    Returns:
        Was it killed? Else, had it done its work?
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
