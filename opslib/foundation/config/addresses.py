"""Judge addresses, hosts and symbols, as a settings file or the environment gives them."""

import re
from urllib.parse import SplitResult, urlsplit

HTTP, SOCKET = ("http", "https"), ("ws", "wss")
_HOST = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*|\[[0-9a-f:.]+\]")
_LONGEST_SYMBOL = 12


def parts(address: str) -> SplitResult:
    """An address in its parts; of what is none, all are empty."""
    try:
        found = urlsplit(address)
        found.port  # noqa: B018  # Reading it is what refuses a bad one.
        return found
    except ValueError:
        return urlsplit("")


def is_address(address: str, schemes: tuple[str, ...] = HTTP) -> bool:
    """Whether a program could ask there."""
    found = parts(address)
    return found.scheme in schemes and bool(found.hostname) and not any(c.isspace() for c in address)


def holds_login(address: str) -> bool:
    """Whether an address holds a name or a password."""
    found = parts(address)
    return bool(found.username or found.password)


def is_host(name: str) -> bool:
    """Whether a name, in lower case, can be the host of a request: without scheme, port or path."""
    return bool(_HOST.fullmatch(name))


def is_symbol(name: str) -> bool:
    """Whether a name, in capitals, can be that of an underlying."""
    return name.removeprefix("I:").replace(".", "").isalnum() and len(name) <= _LONGEST_SYMBOL
