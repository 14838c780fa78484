"""Test a read-only home: reading works, writing is rejected in one sentence, and no temporary file is left."""

import contextlib
import errno
import os
import shlex
import shutil
import signal
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from opslib.cli import main
from opslib.foundation.config.settings import sqlite_url
from opslib.foundation.errors import StoreError
from opslib.foundation.storage import atomic_files, temporary_files
from opslib.foundation.storage.cache import Cache
from opslib.foundation.storage.cell_types import DamagedCell
from opslib.foundation.storage.database import Database
from opslib.jobs import ledger
from opslib.telemetry.pages.store import SnapshotStore
from tests.support import damaged
from tests.support.system import absent

LOOKING = [
    ["status", "--as-of", damaged.END],
    ["alerts", "--to", damaged.END],
    ["incident", "list"],
    ["incident", "show", "2026-03-10-1"],
    ["runs"],
    ["verify", "2026-03-10-1"],
    ["export", "snapshots"],
    ["notify"],
    ["rules"],
    ["runbook", "show", "massive_down"],
    ["pnl", "--as-of", "2026-03-10T16:00"],
    ["silence"],
    ["import", "--rejects"],
]
WRITING = [
    ["mark", "note", "words", "--by", "Ann"],
    ["incident", "note", "2026-03-10-1", "words", "--by", "Ann"],
    ["silence", "add", "--rule", "errors", "--for", "1h", "--reason", "x", "--by", "Ann"],
    ["feedback", "useful", "words", "--by", "Ann"],
    ["collect"],
    ["serve"],
    ["lab", "--no-browser"],
    ["schedule", "run", "--once"],
]
POWERS = "-dac_override,-dac_read_search,-fowner"  # Without these capabilities root, too, is bound by file modes.


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a home whose database has rows in every table."""
    return damaged.made(tmp_path_factory.mktemp("whole") / "home")


def ordinary() -> list[str]:
    """Return the start of a command that is bound by file modes even if root runs the tests."""
    if os.geteuid():
        return []
    command = ["setpriv", f"--bounding-set={POWERS}"]
    if not shutil.which("setpriv") or subprocess.run([*command, "true"], capture_output=True).returncode:
        absent("setpriv")
    return command


def ran(arguments: list[str], home: Path) -> subprocess.CompletedProcess[str]:
    """Run a command that is bound by file modes."""
    return subprocess.run(
        [*ordinary(), sys.executable, "-m", "opslib.cli", *arguments, "--home", str(home), "--app", "desk"],
        capture_output=True,
        text=True,
        timeout=120,
        stdin=subprocess.DEVNULL,
    )


@contextlib.contextmanager
def frozen(home: Path) -> Iterator[Path]:
    """Make everything in a home read-only."""
    every = [home, *home.rglob("*")]
    modes = {path: path.stat().st_mode for path in every}
    for path, mode in modes.items():
        path.chmod(mode & ~0o222)
    try:
        yield home
    finally:
        for path, mode in modes.items():
            path.chmod(mode)


def listing(home: Path) -> dict[str, int]:
    return {str(p.relative_to(home)): p.stat().st_mtime_ns for p in [home, *home.rglob("*")]}


@pytest.mark.slow
def test_reading_commands_work_in_a_read_only_home(whole: Path, tmp_path: Path) -> None:
    """Commands that only read have the same result as in a writable home; others are rejected. No file changes."""
    shutil.copytree(whole, home := tmp_path / "home")
    damaged.tried(["incident", "list"], home)  # This first follows the alerts that fired since.
    expected = [damaged.tried(arguments, home)[:2] for arguments in LOOKING]
    with frozen(home):
        before = listing(home)
        found = [ran(arguments, home) for arguments in LOOKING]
        assert [(f.returncode, f.stdout) for f in found] == expected, [f.stderr for f in found if f.returncode == 70]
        for arguments in WRITING:
            refused = ran(arguments, home)
            *before_it, sentence = refused.stderr.strip().splitlines()
            assert refused.returncode == 70 and not before_it, (arguments, refused.stderr)
            assert "is read-only" in sentence or "could not be " in sentence
        assert listing(home) == before


def reads(path: Path, *how: str) -> subprocess.CompletedProcess[str]:
    """Read a database while bound by file modes; the process prints the number of posts."""
    code = (
        "import sys\nfrom pathlib import Path\nfrom opslib.foundation.config.settings import sqlite_url\n"
        "from opslib.foundation.storage.database import Database\n"
        "from opslib.telemetry.pages.store import SnapshotStore\n"
        "store = SnapshotStore(Database(sqlite_url(Path(sys.argv[1]))))\n"
        "print(len(store.snapshots('desk', 0, 2**62, None)))"
    )
    return subprocess.run(
        [*ordinary(), sys.executable, "-c", code, str(path)], capture_output=True, text=True, timeout=120
    )


def test_posts_in_the_log_are_read(whole: Path, tmp_path: Path) -> None:
    """
    Posts that are only in SQLite's log are read, during a write and after a killed process or a copy left them there.
    """
    shutil.copytree(whole, home := tmp_path / "home")
    store, path = Database(sqlite_url(home / "store.sqlite")), home / "store.sqlite"
    held = len(SnapshotStore(store).snapshots("desk", 0, 2**62, None))
    from tests.support.snapshots import body, post

    SnapshotStore(store).write("desk", [post(5000, body(errors=4))])
    assert (home / "store.sqlite-wal").stat().st_size and (home / "store.sqlite-shm").exists()
    with frozen(home):
        found = reads(path)
    assert found.stdout.strip() == str(held + 1), found.stderr
    shutil.copytree(home, left := tmp_path / "left")
    (left / "store.sqlite-shm").unlink()
    with frozen(left):
        found = reads(left / "store.sqlite")
        assert found.stdout.strip() == str(held + 1), found.stderr
        assert not (left / "store.sqlite-shm").exists()
    assert not list(Path(tempfile_folder()).glob("ops-store-*")), "the copy that was read is removed"
    store.close()


def tempfile_folder() -> str:
    import tempfile

    return tempfile.gettempdir()


def test_a_concurrent_write_is_detected(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the file is read without its log, a concurrent write makes the read fail instead of mixing two states."""
    shutil.copytree(whole, home := tmp_path / "home")
    path = home / "store.sqlite"
    with monkeypatch.context() as patched:
        patched.setattr(os, "access", lambda *_: False)
        reader = Database(sqlite_url(path))
        assert ledger.all_rows(reader) and reader.file.is_read_only
    writer = Database(sqlite_url(path))
    writer.remember("a", "b")
    with pytest.raises(StoreError, match="was changed while it was read. Run the command again"):
        ledger.all_rows(reader)
    with pytest.raises(StoreError, match="is read-only"):
        reader.remember("a", "c")


def test_an_older_database_that_cannot_be_migrated(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An older read-only database is not migrated; the message says how to migrate it."""
    shutil.copytree(whole, home := tmp_path / "home")
    with contextlib.closing(sqlite3.connect(home / "store.sqlite")) as file:
        file.execute("UPDATE meta SET value = '6' WHERE key = 'schema'")
        file.commit()
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(
        StoreError, match="older version, and you may not write to it. Run ops status once as a user who may write"
    ):
        Database(sqlite_url(home / "store.sqlite"))


def test_a_mounted_read_only_home(whole: Path, tmp_path: Path) -> None:
    """Root, too, can read a home on a file system that is mounted read-only."""
    if os.geteuid() or not shutil.which("unshare"):
        pytest.skip("only root can mount")
    script = (
        f"mount --bind {whole} {whole} && mount -o remount,ro,bind {whole} && exec "
        f"{shlex.quote(sys.executable)} -m opslib.cli runs --home {whole} --app desk"
    )
    found = subprocess.run(["unshare", "-m", "sh", "-c", script], capture_output=True, text=True, timeout=120)
    if "mount" in found.stderr:
        pytest.skip("this machine does not let root mount")
    assert (found.returncode, "daily" in found.stdout) == (0, True), found.stderr


FULL = textwrap.dedent("""
    import sys
    from pathlib import Path
    from opslib.foundation.storage import atomic_files
    try:
        atomic_files.publish(Path(sys.argv[1]) / "reports" / "2026" / "x", {".json": b"1", ".html": b"x" * 3_000_000}, \
None)
    except OSError as problem:
        print(problem.strerror, sorted(p.name for p in Path(sys.argv[1]).rglob("*")))
""")


def test_a_full_disk_leaves_no_temporary_file(tmp_path: Path) -> None:
    """On a full disk no temporary file is left, and the next run succeeds once there is space."""
    if os.geteuid() or not shutil.which("unshare"):
        pytest.skip("only root can mount a small disk")
    script = (
        f"mount -t tmpfs -o size=1m small {tmp_path} && {shlex.quote(sys.executable)} -c '{FULL}' "
        f"{tmp_path} && mkdir {tmp_path}/home && head -c 950000 /dev/zero > {tmp_path}/big && "
        f"{shlex.quote(sys.executable)} -m opslib.cli mark note words --by Ann --home {tmp_path}/home --app desk; "
        f"echo $?; rm {tmp_path}/big; {shlex.quote(sys.executable)} -m opslib.cli mark note words --by Ann --home "
        f"{tmp_path}/home --app desk; echo $?"
    )
    found = subprocess.run(["unshare", "-m", "sh", "-c", script], capture_output=True, text=True, timeout=120)
    if "mount" in found.stderr:
        pytest.skip("this machine does not let root mount")
    lines = found.stdout.splitlines()
    assert lines[0] == "No space left on device ['reports']", found
    assert (
        lines[1] == "70"
        and f"the disk that holds {tmp_path}/home is full. Nothing was saved. Free some space" in found.stderr
    ), found
    assert lines[-1] == "0", found


@pytest.mark.parametrize("failing", ["write", "fsync", "rename"])
def test_a_failed_publication_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str) -> None:
    """Whichever disk operation fails, the old files are unchanged and no other file is left."""
    atomic_files.publish(tmp_path / "a" / "x", {".json": b"1", ".md": b"one"}, None)

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(
            *{"write": (atomic_files, "_write"), "fsync": (os, "fsync"), "rename": (Path, "rename")}[failing], fail
        )
        for folder in ("a", "b"):
            with pytest.raises(OSError, match="No space"):
                atomic_files.publish(tmp_path / folder / "x", {".json": b"2", ".md": b"two"}, None)
    assert (
        sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*")) == ["a", "a/x.json", "a/x.md"]
        and (tmp_path / "a" / "x.json").read_bytes() == b"1"
    )
    atomic_files.publish(tmp_path / "b" / "x", {".json": b"2"}, None)
    assert (tmp_path / "b" / "x.json").read_bytes() == b"2"


def test_temporary_files_of_a_killed_process_are_removed(tmp_path: Path) -> None:
    """Temporary files of a killed process are removed; those of a running process and of another host are kept."""
    code = (
        "import os, sys\nfrom pathlib import Path\nfrom opslib.foundation.storage import temporary_files\n"
        "p = Path(sys.argv[1])\ntemporary_files.temporary_name(p / 'x.json').write_text('half')\n"
        "f = temporary_files.temporary_name(p / 'y')\nf.mkdir()\n(f / 'z').write_text('half')\n"
        "print('there', flush=True)\nsys.stdin.read()"
    )
    running = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert running.stdout and running.stdout.readline() == "there\n"
    other = tmp_path / ".x.json.elsewhere.999999999-0123abcd"
    other.write_text("half")
    temporary_files.replace(tmp_path / "mine", b"whole")
    assert len(list(tmp_path.iterdir())) == 4, "it lives, so what it makes stays"
    running.send_signal(signal.SIGKILL)
    running.communicate()
    atomic_files.publish(tmp_path / "report", {".json": b"1"}, None)
    assert {p.name for p in tmp_path.iterdir()} == {"mine", other.name, "report.json"}


def test_a_cache_that_cannot_be_written_is_computed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache that cannot be written only costs time, and leaves no temporary file."""
    memory, counted = Cache(tmp_path / "m"), []

    def compute() -> dict:
        counted.append(1)
        return {"n": 1}

    with monkeypatch.context() as patched:
        patched.setattr(
            os, "replace", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left on device"))
        )
        assert [memory.once("a", [1], compute) for _ in range(2)] == [{"n": 1}] * 2
    assert len(counted) == 2 and list((tmp_path / "m").iterdir()) == []
    assert [memory.once("a", [1], compute) for _ in range(2)] == [{"n": 1}] * 2 and len(counted) == 3


def test_the_error_of_sqlite_is_the_cause(tmp_path: Path) -> None:
    """SQLite's own error is the cause of ours, for the log."""
    (tmp_path / "store.sqlite").write_text("no database, but long enough to look like something that is none" * 20)
    with pytest.raises(StoreError, match="PRAGMA integrity_check") as refused:
        Database(sqlite_url(tmp_path / "store.sqlite"))
    assert (
        "not a database" in str(refused.value)
        and refused.value.__cause__ is not None
        and not isinstance(refused.value, DamagedCell)
    )
    assert main.main(["status", "--home", str(tmp_path)]) == 70
