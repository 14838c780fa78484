"""Test files from outside: limits on size, line length and expansion; only regular files are accepted."""

import gzip
import os
import resource
from pathlib import Path

import pytest

from opslib.foundation import files
from opslib.foundation.errors import ImportRefused


def test_plain_and_compressed_are_read_alike(tmp_path: Path) -> None:
    """A file and its gzip have the same bytes and the same lines, with the line numbers of an editor."""
    content = b"\xef\xbb\xbfone\r\n\n  two\nthree"
    (tmp_path / "plain").write_bytes(content)
    (tmp_path / "zipped").write_bytes(gzip.compress(content))
    for name in ("plain", "zipped"):
        assert files.read_bytes(tmp_path / name) == content
        assert files.read_text(tmp_path / name) == "one\r\n\n  two\nthree"
        assert list(files.lines(tmp_path / name)) == [(1, b"\xef\xbb\xbfone"), (3, b"two"), (4, b"three")]


@pytest.mark.parametrize("path", ["/dev/zero", "/dev/null", "/", "/no/such/file", "a\0b"])
def test_only_regular_files_are_read(path: str) -> None:
    """A device, a directory, a missing file and an impossible name are rejected at once, each in one sentence."""
    for reading in (files.read_bytes, files.read_text, lambda p: list(files.lines(p))):
        with pytest.raises(ImportRefused):
            reading(Path(path))


def test_a_pipe_without_a_writer_is_rejected(tmp_path: Path) -> None:
    """A named pipe does not block."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ImportRefused, match="not a regular file"):
        files.read_bytes(tmp_path / "pipe")


@pytest.mark.parametrize(
    "cut",
    [
        b"\x1f\x8b",
        gzip.compress(b"x" * 1000)[:-9],
        gzip.compress(bytes(i * i % 251 for i in range(1000)))[:200],
        b"\x1f\x8b" + b"\0" * 50,
    ],
    # The bytes differ in each worker, since a gzip contains the time when it was made.
    ids=["head", "small", "half", "zeros"],
)
def test_a_damaged_gzip_is_rejected(tmp_path: Path, cut: bytes) -> None:
    """A truncated or damaged gzip file is rejected, whole or line by line."""
    (tmp_path / "cut").write_bytes(cut)
    with pytest.raises(ImportRefused, match="truncated or damaged"):
        files.read_bytes(tmp_path / "cut")
    with pytest.raises(ImportRefused, match="truncated or damaged"):
        list(files.lines(tmp_path / "cut"))


@pytest.mark.parametrize("unit", [b"\0", b"\n", b"[", b'{"a": 1}\n'])
def test_a_gzip_bomb_is_rejected(tmp_path: Path, unit: bytes) -> None:
    """A gzip file that expands a thousandfold is rejected, with memory of at most four times the limit."""
    with gzip.open(tmp_path / "bomb", "wb") as file:
        for _ in range(100):
            file.write(unit * (2**20 // len(unit)))
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ImportRefused, match="more than 64 MiB"):
        files.read_bytes(tmp_path / "bomb")
    with pytest.raises(ImportRefused, match="expands to more than|holds more than"):
        for _ in files.lines(tmp_path / "bomb"):
            pass
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - most < 4 * files.MOST_BYTES // 1024


def test_a_long_line_is_truncated(tmp_path: Path) -> None:
    """A line over the limit is cut to the limit plus one byte; the lines beside it are complete."""
    (tmp_path / "long").write_bytes(b"a\n" + b"x" * 25 + b"\n" + b"y" * 10 + b"\nb\n")
    assert list(files.lines(tmp_path / "long", longest=10)) == [(1, b"a"), (2, b"x" * 11), (3, b"y" * 10), (4, b"b")]


def test_an_endless_line_is_rejected(tmp_path: Path) -> None:
    """A line longer than a file may be is rejected without reading it to its end."""
    with (tmp_path / "long").open("wb") as file:
        file.truncate(2**33)
    with pytest.raises(ImportRefused, match="line 1, holds more than 64 MiB"):
        list(files.lines(tmp_path / "long"))
