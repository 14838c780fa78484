"""Write results to a stdout whose reader may close it at any time."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

from opslib.foundation.errors import OpsError


class Stdout:
    """
    Wrap stdout, so that a closed pipe (``ops runs | head``) does not end the command.

    Attributes:
        is_read: False after the reader has closed the pipe; what is written then is dropped.
    """

    def __init__(self, stream: TextIO):
        self._stream, self.is_read = stream, True

    def write(self, words: str) -> int:
        """Write the text, or drop it if the pipe is closed; return its length."""
        if self.is_read:
            with self._reader_may_go():
                self._stream.write(words)
        return len(words)

    def flush(self) -> None:
        """Flush; raise OpsError if stdout cannot be written, such as on a full disk."""
        if self.is_read:
            with self._reader_may_go():
                self._stream.flush()

    @contextmanager
    def _reader_may_go(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:
            self.is_read = False
            with suppress(OSError, ValueError):  # Python flushes the stream when it ends.
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
