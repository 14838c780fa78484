"""
Log problems with secrets redacted.

There is one logger. Its filter removes secrets and control characters before a handler sees a record. A program that
configures no output gets warnings on stderr, as usual with `logging`.
"""

import logging
import sys
from collections.abc import Callable
from contextlib import suppress

from opslib.foundation import formatting
from opslib.foundation.config import settings


class Redacting(logging.Filter):
    """Filter that redacts the secrets of a record's settings, or those of the environment if it names none."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Redact the record and let it pass."""
        redact = getattr(record, "redact", settings.redacted)
        record.msg, record.args = formatting.printable(redact(record.getMessage())), ()
        if record.exc_info:
            record.exc_text = formatting.printable(redact(logging.Formatter().formatException(record.exc_info)))
        return True


_LOGGER = logging.getLogger("opslib")
_LOGGER.addFilter(Redacting())


def of(redact: Callable[[str], str]) -> "logging.LoggerAdapter[logging.Logger]":
    """
    Return the logger.

    Args:
        redact: The function that redacts secrets: `Settings.redact` of the settings in use.
    """
    return logging.LoggerAdapter(_LOGGER, {"redact": redact})


class _Stderr(logging.Handler):
    """Handler that writes to the current stderr, and drops the record if there is none."""

    def emit(self, record: logging.LogRecord) -> None:
        if sys.stderr is not None:
            with suppress(OSError):
                sys.stderr.write(f"{self.format(record)}\n")
                sys.stderr.flush()


def to_stderr(what: str) -> None:
    """
    Show log records on stderr from now on.

    Args:
        what: The command, such as ``ops serve``; every line starts with it.
    """
    shown = _Stderr()
    shown.setFormatter(logging.Formatter(f"{what}: %(message)s"))
    _LOGGER.handlers, _LOGGER.disabled = [shown], False  # A library that configures logging may have disabled it.
    _LOGGER.setLevel(logging.INFO)
