"""
Read files that come from outside within bounds, plain or compressed by gzip.

What is no regular file (a folder, a device, a pipe) is refused by name. A file that is read whole may hold `MOST_BYTES`
once it is expanded; of a file that is read line by line, each line may hold `LONGEST_LINE`, and a compressed one may
expand to `MOST_EXPANSION` times its size. So no file makes a command take more memory than a few times `MOST_BYTES`.
"""

import gzip
import os
import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from opslib.foundation.errors import ImportRefused

MOST_BYTES = 64 * 2**20  # Some 60,000 contracts of Massive as JSON.
MOST_SETTINGS_BYTES = 2**20  # Of a file that a person writes: settings, rules, a schedule, tests of rules.
LONGEST_LINE = 1_000_000
MOST_EXPANSION = 200  # A recorded day of posts compresses by 20 to 60; gzip cannot do better than 1,032.
CHUNK = 2**20
SMALL = 16 * 2**20  # Up to here a file may expand as far as it likes.
GZIP = b"\x1f\x8b"


def read_bytes(path: Path, most_bytes: int = MOST_BYTES) -> bytes:
    """
    Read a whole file, expanded where it is compressed.

    Raises:
        ImportRefused: No readable regular file, a damaged one, or one of more than `most_bytes` once expanded.
    """
    with _opened(path) as file:
        content = file.read(most_bytes + 1)
    if len(content) > most_bytes:
        most = f"{most_bytes // 2**20} MiB" if most_bytes >= 2**20 else f"{most_bytes // 2**10} KiB"
        raise ImportRefused(
            f"{path} holds more than {most}; a file of at most that much, once expanded, is read. Split it."
        )
    return content


def read_text(path: Path, most_bytes: int = MOST_BYTES) -> str:
    """
    Read a whole text file: UTF-8, or UTF-16 with a byte order mark, which is left out.

    Raises:
        ImportRefused: As `read_bytes`, or it is no such text.
    """
    content = read_bytes(path, most_bytes)
    is_utf16 = content[:2] in (b"\xff\xfe", b"\xfe\xff")
    try:
        return content.decode("utf-16" if is_utf16 else "utf-8-sig")
    except UnicodeDecodeError as problem:
        raise ImportRefused(
            f"{path} is no UTF-8 text (byte {problem.start:,} is {content[problem.start]:#04x}). Save it as "
            f"UTF-8 and try again."
        ) from None


def lines(path: Path, longest: int = LONGEST_LINE) -> Iterator[tuple[int, bytes]]:
    """
    Read a file line by line, with line numbers from 1, ends of line left out; empty lines are left out but counted.

    A line longer than `longest` bytes comes cut to `longest` + 1 bytes, so that a caller can refuse it by its number;
    one longer than `MOST_BYTES` refuses the file.

    Raises:
        ImportRefused: As `read_bytes`; also a compressed file that expands more than `MOST_EXPANSION` times.
    """
    with _opened(path) as file:
        most = max(SMALL, path.stat().st_size * MOST_EXPANSION)
        number, expanded, begun, length = 0, 0, b"", 0
        while chunk := file.read(CHUNK):
            expanded += len(chunk)
            _bound(path, expanded, most)
            *ended, rest = chunk.split(b"\n")
            for line in ended:
                number, line, begun = number + 1, begun + line, b""
                if found := _trimmed(line, longest):
                    yield number, found
            length = length + len(rest) if not ended else len(rest)
            if length > MOST_BYTES:
                raise ImportRefused(
                    f"{path}, line {number + 1}, holds more than {MOST_BYTES // 2**20} MiB; a text with ends "
                    f"of lines was expected."
                )
            begun = (begun + rest)[: longest + 1]  # Of a line that goes on for long, no more is held than shows that.
        if found := _trimmed(begun, longest):
            yield number + 1, found


def _trimmed(line: bytes, longest: int) -> bytes:
    return line.strip() if len(line) <= longest else line[: longest + 1]


def _bound(path: Path, expanded: int, most: int) -> None:
    if expanded > most:
        raise ImportRefused(
            f"{path} expands to more than {MOST_EXPANSION} times its size; a recording does not. Expand it by "
            f"yourself and look at it."
        )


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """A file of bytes as it is, or expanded."""
    try:
        # Without O_NONBLOCK a pipe that nobody writes to would hold us here for good.
        with open(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb") as raw:
            mode = os.fstat(raw.fileno()).st_mode
            if stat.S_ISDIR(mode):
                raise ImportRefused(f"{path} is a folder; a file was expected.")
            if not stat.S_ISREG(mode):
                raise ImportRefused(
                    f"{path} is no regular file; a file on disk was expected. Save what it gives into a file first."
                )
            is_zipped = raw.read(2) == GZIP
            raw.seek(0)
            if is_zipped:
                with gzip.open(raw, "rb") as expanding:
                    yield expanding  # type: ignore[misc]  # It reads as a file does.
            else:
                yield raw
    except IsADirectoryError:
        raise ImportRefused(f"{path} is a folder; a file was expected.") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as problem:
        raise ImportRefused(
            f"{path} is cut off or damaged ({problem}). Get a whole copy; of an import, rows that were read "
            f"are passed over."
        ) from None
    except ValueError as problem:
        raise ImportRefused(f"{str(path)!r} is no name of a file ({problem}).") from None
    except OSError as problem:
        raise ImportRefused(f"{path} cannot be read ({problem.strerror or problem}).") from None
