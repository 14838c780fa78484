"""Find a free port, and set up TLS trust."""

import contextlib
import random
import socket
import ssl
from collections.abc import Iterator

from opslib.foundation import formatting


def free_port() -> int:
    """
    Return a port of this machine that is free to listen on, now and again after it was closed.

    Ports that the system assigns by itself are excluded, because an outgoing connection could get the same one
    meanwhile.
    """
    while True:
        port = random.SystemRandom().randrange(15_000, 32_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def tls_context(ca_file: str | None) -> ssl.SSLContext:
    """Return a TLS context that trusts the known certificates, and those of a file if one is given."""
    import certifi

    context = ssl.create_default_context(cafile=certifi.where())
    if ca_file:
        context.load_verify_locations(ca_file)
    return context


def tls_failure(problem: BaseException) -> str:
    """Return why a TLS connection is not trusted; empty if the exception has another cause."""
    for cause in _under(problem):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return formatting.single_line(cause.verify_message, 120)
        if isinstance(cause, ssl.SSLError):
            return (
                "the server does not speak TLS"
                if cause.reason in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST")
                else formatting.single_line((cause.reason or "TLS").lower().replace("_", " "), 120)
            )
    return ""


def _under(problem: BaseException | None) -> Iterator[BaseException]:
    """Iterate over an exception and everything that it was raised from."""
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
