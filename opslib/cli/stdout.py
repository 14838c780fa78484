"""Write results to a stdout whose reader may go at any moment."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

from opslib.foundation.errors import OpsError


class Stdout:
    """
    Our stdout. Once its reader has gone (``ops runs | head``), what is written is dropped, and the command ends as it
    would have.

    Attributes:
        is_read: Whether somebody may still read what is written.
    """

    def __init__(self, stream: TextIO):
        self._stream, self.is_read = stream, True

    def write(self, words: str) -> int:
        """Write, or drop, so many characters."""
        if self.is_read:
            with self._reader_may_go():
                self._stream.write(words)
        return len(words)

    def flush(self) -> None:
        """Hand on what is held back; raises OpsError where stdout cannot take it, such as on a full disk."""
        if self.is_read:
            with self._reader_may_go():
                self._stream.flush()

    @contextmanager
    def _reader_may_go(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:
            self.is_read = False
            with suppress(OSError, ValueError):  # What the stream still holds has to go somewhere when Python ends.
                os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())
        except (OSError, ValueError) as problem:
            if isinstance(problem, UnicodeError):
                raise
            self.is_read = False
            raise OpsError(
                f"the result could not be written to stdout ({getattr(problem, 'strerror', None) or problem})."
            ) from problem

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
