"""Find a free port of this machine."""

import contextlib
import random
import socket


def free_port() -> int:
    """
    A port of this machine that can be listened on, now and again after it was closed. None of those that the system
    gives away by
    itself: whoever connects somewhere may be given one of them meanwhile.
    """
    while True:
        port = random.SystemRandom().randrange(15_000, 32_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
