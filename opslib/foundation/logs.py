"""
Log what goes wrong, without secrets.

Everything is logged by one logger, whose filter takes out secrets, and what a terminal would obey, before any handler
sees a record. A program that shows nothing of its own gets warnings on stderr, as `logging` does.
"""

import logging
import sys
from collections.abc import Callable
from contextlib import suppress

from opslib.foundation import formatting
from opslib.foundation.config import settings


class Redacting(logging.Filter):
    """Takes out the secrets of the settings that a record comes from; of the environment where it names none."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Let every record pass, redacted."""
        redact = getattr(record, "redact", settings.redacted)
        record.msg, record.args = formatting.printable(redact(record.getMessage())), ()
        if record.exc_info:
            record.exc_text = formatting.printable(redact(logging.Formatter().formatException(record.exc_info)))
        return True


_LOGGER = logging.getLogger("opslib")
_LOGGER.addFilter(Redacting())


def of(redact: Callable[[str], str]) -> "logging.LoggerAdapter[logging.Logger]":
    """
    The logger.

    Args:
        redact: Takes out secrets: `Settings.redact` of the settings at hand.
    """
    return logging.LoggerAdapter(_LOGGER, {"redact": redact})


class _Stderr(logging.Handler):
    """Writes on what is stderr at the time; nowhere, where nobody reads it."""

    def emit(self, record: logging.LogRecord) -> None:
        if sys.stderr is not None:
            with suppress(OSError):
                sys.stderr.write(f"{self.format(record)}\n")
                sys.stderr.flush()


def to_stderr(what: str) -> None:
    """
    Show on stderr what is logged from now on.

    Args:
        what: The command, such as ``ops serve``; every line begins with it.
    """
    shown = _Stderr()
    shown.setFormatter(logging.Formatter(f"{what}: %(message)s"))
    _LOGGER.handlers, _LOGGER.disabled = [shown], False  # A library that configures logging may have disabled it.
    _LOGGER.setLevel(logging.INFO)
