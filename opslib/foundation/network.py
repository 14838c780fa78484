"""Find a free port of this machine."""

import contextlib
import random
import socket
import ssl
from collections.abc import Iterator

from opslib.foundation import formatting


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


def tls_context(ca_file: str | None) -> ssl.SSLContext:
    """The certificates that are trusted: the known ones, and those of a file where one is named."""
    import certifi

    context = ssl.create_default_context(cafile=certifi.where())
    if ca_file:
        context.load_verify_locations(ca_file)
    return context


def tls_failure(problem: BaseException) -> str:
    """Why is a certificate, or what stands in its place, not trusted? Empty where it is nothing of that."""
    for cause in _under(problem):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return formatting.single_line(cause.verify_message, 120)
        if isinstance(cause, ssl.SSLError):
            return (
                "what answers there speaks no TLS"
                if cause.reason in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST")
                else formatting.single_line((cause.reason or "TLS").lower().replace("_", " "), 120)
            )
    return ""


def _under(problem: BaseException | None) -> Iterator[BaseException]:
    """An exception and everything that it was raised from."""
    seen: set[int] = set()
    waiting = [problem]
    while waiting:
        cause = waiting.pop()
        if cause is None or id(cause) in seen:
            continue
        seen.add(id(cause))
        yield cause
        waiting += [
            cause.__context__,
            cause.__cause__,
            *(cause.exceptions if isinstance(cause, BaseExceptionGroup) else ()),
        ]
