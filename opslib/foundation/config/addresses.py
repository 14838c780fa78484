"""Check addresses, hosts and symbols given by a settings file or the environment."""

import re
from urllib.parse import SplitResult, urlsplit

HTTP, SOCKET = ("http", "https"), ("ws", "wss")
_HOST = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*|\[[0-9a-f:.]+\]")
_LONGEST_SYMBOL = 12


def parts(address: str) -> SplitResult:
    """Return an address in its parts; all are empty if it is invalid."""
    try:
        found = urlsplit(address)
        found.port  # noqa: B018  # Reading it raises an error if it is invalid.
        return found
    except ValueError:
        return urlsplit("")


def is_address(address: str, schemes: tuple[str, ...] = HTTP) -> bool:
    """Return whether a text is an address that a program can connect to."""
    found = parts(address)
    return found.scheme in schemes and bool(found.hostname) and not any(c.isspace() for c in address)


def holds_login(address: str) -> bool:
    """Return whether an address holds a name or a password."""
    found = parts(address)
    return bool(found.username or found.password)


def is_host(name: str) -> bool:
    """Return whether a name, in lower case, is valid as the host of a request: without scheme, port or path."""
    return bool(_HOST.fullmatch(name))


def is_symbol(name: str) -> bool:
    """Return whether a name, in capitals, is valid as the symbol of an underlying."""
    return name.removeprefix("I:").replace(".", "").isalnum() and len(name) <= _LONGEST_SYMBOL
