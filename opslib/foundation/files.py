"""
Read files from outside within size limits, plain or gzip-compressed.

Anything that is not a regular file (a directory, a device, a pipe) is rejected by name. A file that is read whole may
hold `MOST_BYTES` after decompression. When a file is read line by line, each line may hold `LONGEST_LINE`, and a
compressed file may expand to `MOST_EXPANSION` times its size. No file makes a command use more memory than a few times
`MOST_BYTES`.
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

MOST_BYTES = 64 * 2**20  # About 60,000 contracts of Massive as JSON.
MOST_SETTINGS_BYTES = 2**20  # For files that a person writes: settings, rules, a schedule, rule tests.
LONGEST_LINE = 1_000_000
MOST_EXPANSION = 200  # A recorded day of posts compresses by 20 to 60; gzip cannot do better than 1,032.
CHUNK = 2**20
SMALL = 16 * 2**20  # The expansion limit applies only above this size.
GZIP = b"\x1f\x8b"


def read_bytes(path: Path, most_bytes: int = MOST_BYTES) -> bytes:
    """
    Read a whole file, decompressed if it is compressed.

    Raises:
        ImportRefused: The file is not a readable regular file, is damaged, or holds more than `most_bytes`
            decompressed.
    """
    with _open(path) as file:
        content = file.read(most_bytes + 1)
    if len(content) > most_bytes:
        most = f"{most_bytes // 2**20} MiB" if most_bytes >= 2**20 else f"{most_bytes // 2**10} KiB"
        raise ImportRefused(
            f"{path} holds more than {most}, the largest size that is read (after decompression). Split the file."
        )
    return content


def read_text(path: Path, most_bytes: int = MOST_BYTES) -> str:
    """
    Read a whole text file: UTF-8, or UTF-16 with a byte order mark, which is dropped.

    Raises:
        ImportRefused: As `read_bytes`, or the text is in another encoding.
    """
    content = read_bytes(path, most_bytes)
    is_utf16 = content[:2] in (b"\xff\xfe", b"\xfe\xff")
    try:
        return content.decode("utf-16" if is_utf16 else "utf-8-sig")
    except UnicodeDecodeError as problem:
        raise ImportRefused(
            f"{path} is not UTF-8 text (byte {problem.start:,} is {content[problem.start]:#04x}). Save it as "
            f"UTF-8 and try again."
        ) from None


def lines(path: Path, longest: int = LONGEST_LINE) -> Iterator[tuple[int, bytes]]:
    """
    Read a file line by line, as line number (from 1) and content without the line end; empty lines only count.

    A line longer than `longest` bytes is cut to `longest` + 1 bytes, so that the caller can reject it by its number. A
    line longer than `MOST_BYTES` makes the whole file fail.

    Raises:
        ImportRefused: As `read_bytes`; also if a compressed file expands more than `MOST_EXPANSION` times.
    """
    with _open(path) as file:
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
                    f"{path}, line {number + 1}, holds more than {MOST_BYTES // 2**20} MiB; expected a text file with "
                    f"line ends."
                )
            begun = (begun + rest)[: longest + 1]  # One byte more than allowed is enough to recognise a long line.
        if found := _trimmed(begun, longest):
            yield number + 1, found


def _trimmed(line: bytes, longest: int) -> bytes:
    return line.strip() if len(line) <= longest else line[: longest + 1]


def _bound(path: Path, expanded: int, most: int) -> None:
    if expanded > most:
        raise ImportRefused(
            f"{path} expands to more than {MOST_EXPANSION} times its size, which no recording does. Decompress it "
            f"yourself and check its content."
        )


@contextmanager
def _open(path: Path) -> Iterator[BinaryIO]:
    """Open a file of bytes, decompressed if it is compressed."""
    try:
        # Without O_NONBLOCK, opening a pipe without a writer would block forever.
        with open(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb") as raw:
            mode = os.fstat(raw.fileno()).st_mode
            if stat.S_ISDIR(mode):
                raise ImportRefused(f"{path} is a directory; expected a file.")
            if not stat.S_ISREG(mode):
                raise ImportRefused(
                    f"{path} is not a regular file; expected a file on disk. Save its content to a file first."
                )
            is_zipped = raw.read(2) == GZIP
            raw.seek(0)
            if is_zipped:
                with gzip.open(raw, "rb") as expanding:
                    yield expanding  # type: ignore[misc]  # It has the methods of a file.
            else:
                yield raw
    except IsADirectoryError:
        raise ImportRefused(f"{path} is a directory; expected a file.") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as problem:
        raise ImportRefused(
            f"{path} is truncated or damaged ({problem}). Get a complete copy and import it; rows that are already "
            f"imported count as duplicates."
        ) from None
    except ValueError as problem:
        raise ImportRefused(f"{str(path)!r} is not a valid file name ({problem}).") from None
    except OSError as problem:
        raise ImportRefused(f"{path} cannot be read ({problem.strerror or problem}).") from None
