"""
Test a damaged database: a command prints one sentence with the remedy and exits with 70.

There is no traceback, and no value is computed from unreadable data.
"""

import contextlib
import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

from opslib.alerting.notifications.planner import NotificationState
from opslib.cli import main
from opslib.foundation.config import settings
from opslib.foundation.errors import StoreError
from opslib.foundation.storage import cell_types
from opslib.foundation.storage.database import Database
from opslib.telemetry.pages import rescue
from opslib.telemetry.pages.store import SnapshotStore
from opslib.telemetry.probes.store import Sample, SampleStore
from tests.support import damaged
from tests.support.snapshots import post, us

COUNT = 60


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a home whose database has rows in every table."""
    return damaged.made(tmp_path_factory.mktemp("whole") / "home")


@pytest.fixture
def home(whole: Path, tmp_path: Path) -> Path:
    """Return a copy of that home, to be damaged."""
    return Path(shutil.copytree(whole, tmp_path / "home"))


def ops(capsys: pytest.CaptureFixture[str], home: Path, *arguments: str) -> tuple[int, str, str]:
    """Run a command; return its exit code, stdout and stderr."""
    capsys.readouterr()
    code = main.main([*arguments, "--home", str(home), "--app", "desk"])
    return code, *capsys.readouterr()


def edit(home: Path, *statements: str, without_checks: str = "") -> None:
    """Change a database by hand; if a table is named, its columns may be NULL from then on."""
    with contextlib.closing(sqlite3.connect(home / "store.sqlite", isolation_level=None)) as file:
        if without_checks:
            file.execute("PRAGMA writable_schema = 1")
            file.execute(
                "UPDATE sqlite_master SET sql = replace(sql, 'NOT NULL', '        ') WHERE name = ?", (without_checks,)
            )
            file.execute("PRAGMA writable_schema = RESET")
        for statement in statements:
            assert file.execute(statement).rowcount != 0, statement


@pytest.mark.slow
def test_commands_survive_random_damage(whole: Path, tmp_path: Path) -> None:
    """
    With random damage of the file each command ends as the contract says.

    The damage is bit flips, truncations, zeroed pages, values of other types, and dropped tables, columns and indexes.
    """
    seed = random.SystemRandom().randrange(10**6)
    print("seed", seed)
    assert list(damaged.failures(whole, tmp_path, random.Random(seed), COUNT, 3)) == []


@pytest.mark.slow
def test_no_damage_is_found_in_an_undamaged_database(whole: Path, home: Path) -> None:
    """In an undamaged database the test's own checks find no fault, and every command runs."""
    for arguments in damaged.commands(home):
        found = damaged.tried(arguments, home)
        assert damaged.wrong(arguments, found) == "" and "damaged" not in found[2], (arguments, found)


READ_BY_STATUS = {
    "a text where a count belongs": (
        "UPDATE snapshots SET massive_requests = 'many'",
        "",
        "snapshots.massive_requests holds 'many'",
    ),
    "bytes where a count belongs": ("UPDATE snapshots SET errors = x'00ff'", "", "snapshots.errors holds"),
    "a fraction where a count belongs": ("UPDATE snapshots SET gamma_zero = 1.5", "", "snapshots.gamma_zero holds 1.5"),
    "nothing where a count must be": ("UPDATE samples SET attempt = NULL", "samples", "samples.attempt holds None"),
    "broken JSON": ("UPDATE snapshots SET errors_by_type = '{'", "", "a JSON object was expected"),
    "JSON of another kind": ("UPDATE notices SET state = '[]'", "", ""),
    "a text that is no UTF-8": ("UPDATE snapshots SET last_error_message = CAST(x'c328' AS TEXT)", "", "decode"),
    "an outcome that there is not": ("UPDATE samples SET outcome = 'okay'", "", "samples.outcome holds 'okay'"),
    "a number beyond all numbers": ("UPDATE samples SET value = 9e999", "", "samples.value holds inf"),
    "a detail that lacks what it must have": (
        "UPDATE samples SET detail = '{}' WHERE probe = 'host'",
        "",
        "name, told is missing",
    ),
    "a flag that is none": ("UPDATE snapshots SET websocket_connected = 7", "", "0 or 1 was expected"),
    "a time after all times": (
        "UPDATE snapshots SET known_at_us = 4611686018427387904",
        "",
        "snapshots.known_at_us holds",
    ),
    "a time before all times": (
        "UPDATE snapshots SET known_at_us = -9223372036854775808",
        "",
        "snapshots.known_at_us holds",
    ),
    "a millisecond before all": ("UPDATE snapshots SET load_ms = -9223372036854775808", "", "snapshots.load_ms holds"),
    "a table that is gone": ("DROP TABLE samples", "", "no such table: samples"),
    "a column that is gone": ("ALTER TABLE snapshots RENAME COLUMN errors TO gone", "", "no such column"),
    "its facts are gone": ("DROP TABLE meta", "", "it has tables, but none called meta"),
    "its schema is gone": ("DELETE FROM meta WHERE key = 'schema'", "", "the table meta has no schema version"),
    "its schema is no number": ("UPDATE meta SET value = 'x' WHERE key = 'schema'", "", "meta.schema"),
}


@pytest.mark.parametrize("how", READ_BY_STATUS)
def test_damage_is_reported_in_one_sentence(home: Path, how: str, capsys: pytest.CaptureFixture[str]) -> None:
    """An unreadable cell is reported with its table and column, how to check the file, and how to save the rest."""
    statement, table, words = READ_BY_STATUS[how]
    edit(home, statement, without_checks=table)
    code, out, err = ops(capsys, home, "status", "--as-of", damaged.END)
    if not words:  # Status does not read this table.
        code, out, err = ops(capsys, home, "incident", "list")
    assert (code, out, len(err.splitlines())) == (70, "", 1), err
    assert (
        words in err
        and (str(home / "store.sqlite") in err or "samples.detail" in err)
        and "PRAGMA integrity_check" in err
        and "ops export snapshots" in err
    )


NO_STORE = {
    "a folder": lambda path: path.mkdir(),
    "a pipe": lambda path: os.mkfifo(path),
    "a text": lambda path: path.write_text("notes " * 1000),
    "bytes": lambda path: path.write_bytes(bytes(range(256)) * 64),
    "another program's database": lambda path: edit(path.parent, "CREATE TABLE songs (name TEXT)"),
    "a newer one": lambda path: (
        Database(settings.sqlite_url(path)).close(),
        edit(path.parent, "UPDATE meta SET value = '99' WHERE key = 'schema'"),
    ),
}


@pytest.mark.parametrize("what", NO_STORE)
def test_a_file_that_is_no_database_is_rejected(tmp_path: Path, what: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Anything else in place of the database is rejected with its path, and left unchanged."""
    NO_STORE[what](tmp_path / "store.sqlite")
    before = (tmp_path / "store.sqlite").read_bytes() if (tmp_path / "store.sqlite").is_file() else b""
    for arguments in (["status"], ["runs"], ["mark", "note", "words", "--by", "Ann"], ["export", "snapshots"]):
        code, out, err = ops(capsys, tmp_path, *arguments)
        assert (code, out, len(err.splitlines())) == (70, "", 1) and str(tmp_path) in err, err
    assert what in ("a folder", "a pipe") or (tmp_path / "store.sqlite").read_bytes() == before


def test_an_empty_file_becomes_a_database(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A process killed while creating the database leaves an empty file; the next one creates the database."""
    (tmp_path / "store.sqlite").touch()
    code, out, _ = ops(capsys, tmp_path, "status", "-o", "json")
    assert (code, json.loads(out)["verdict"]) == (3, "unknown")


def test_damage_of_unused_parts_changes_no_value(whole: Path, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Damage of parts that a command does not read leaves its result unchanged."""
    asked = ("status", "--as-of", damaged.END, "-o", "json")
    right = ops(capsys, home, *asked)
    edit(home, "DROP INDEX snapshots_by_time", "DROP TABLE pictures", "UPDATE rejects SET body = x'00'")
    assert ops(capsys, home, *asked) == right


def test_export_lists_the_rows_it_skips(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Unreadable rows are listed, all others are exported, and they can be imported into a new home."""
    _, right, _ = ops(capsys, home, "export", "snapshots")
    seqs = [
        row.seq
        for row in Database(settings.sqlite_url(home / "store.sqlite")).stream(
            rescue.sa.text("SELECT seq FROM snapshots ORDER BY ts_us, seq")
        )
    ]
    bad = dict(
        zip(
            (
                "body = x'00'",
                "ts_us = 'noon'",
                "body = 'text'",
                "page_id = CAST(x'c3' AS TEXT)",
                "known_at_us = 4611686018427387904",
                "app = x'01'",
                f"body = x'{zlib.compress(b'[').hex()}'",
            ),
            (3, 4, 50, 60, 70, 80, 90),
        )
    )
    for change, place in bad.items():
        edit(home, f"UPDATE snapshots SET {change} WHERE seq = {seqs[place]}")
    code, out, err = ops(capsys, home, "export", "snapshots")
    assert code == 70 and out.splitlines() == [
        line for n, line in enumerate(right.splitlines()) if n not in bad.values()
    ]
    assert (
        f"{len(bad)} rows of snapshots could not be read and were skipped: "
        f"{rescue._ranges(sorted(seqs[n] for n in bad.values()))}" in err
    )
    (tmp_path / "rescued.jsonl").write_text(out)
    assert ops(capsys, tmp_path / "new", "import", str(tmp_path / "rescued.jsonl"))[0] == 0
    assert len(ops(capsys, tmp_path / "new", "export", "snapshots")[1].splitlines()) == len(right.splitlines()) - len(
        bad
    )


def test_export_skips_lost_pages(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """If pages of the file are lost, all other rows are exported once, and the lost ones are listed."""
    _, right, _ = ops(capsys, home, "export", "snapshots")
    with contextlib.closing(sqlite3.connect(home / "store.sqlite")) as file:
        wide = (
            [n for (n,) in file.execute("SELECT pageno FROM dbstat WHERE name = 'snapshots' AND pagetype = 'leaf'")]
            if _has_dbstat(file)
            else _leaves(home)
        )
    content = bytearray((home / "store.sqlite").read_bytes())
    for page in (wide[2], wide[5]):
        content[4096 * (page - 1) : 4096 * page] = bytes(4096)
    (home / "store.sqlite").write_bytes(content)
    code, out, err = ops(capsys, home, "export", "snapshots")
    given, all_ = out.splitlines(), set(right.splitlines())
    named = sum(int(b or a) - int(a) + 1 for a, b in _spans(err))
    assert (
        code == 70
        and set(given) < all_
        and len(set(given)) == len(given)
        and len(given) + named == len(all_)
        and named < 60
    ), err


def _spans(err: str) -> list[tuple[str, str]]:
    import re

    return re.findall(r"(\d+)(?:-(\d+))?(?=[, ])", err.partition("were skipped: ")[2].partition("(")[0])


def _has_dbstat(file: sqlite3.Connection) -> bool:
    return bool(
        file.execute("SELECT 1 FROM pragma_compile_options WHERE compile_options = 'ENABLE_DBSTAT_VTAB'").fetchone()
    )


def _leaves(home: Path) -> list[int]:
    """Return the leaf pages of the snapshots, found by their content."""
    content = (home / "store.sqlite").read_bytes()
    return [
        n + 1
        for n in range(len(content) // 4096)
        if content[4096 * n] == 13
        and content[4096 * n : 4096 * n + 4096].count(b"desk") > 3
        and b"\x78\x01" in content[4096 * n : 4096 * n + 4096]
    ]


def test_a_foreign_log_is_ignored(home: Path) -> None:
    """If SQLite's log is lost or is another file, the rows of the database file are read."""
    held = len(SnapshotStore(Database(settings.sqlite_url(home / "store.sqlite"))).snapshots("desk", 0, 2**62, None))
    for suffix in ("-wal", "-shm"):
        (home / f"store.sqlite{suffix}").write_bytes(os.urandom(5000))
    code = (
        "import sys\nfrom pathlib import Path\nfrom opslib.foundation.config.settings import sqlite_url\n"
        "from opslib.foundation.storage.database import Database\n"
        "from opslib.telemetry.pages.store import SnapshotStore\n"
        "store = SnapshotStore(Database(sqlite_url(Path(sys.argv[1]))))\n"
        "print(len(store.snapshots('desk', 0, 2**62, None)))"
    )
    found = subprocess.run([sys.executable, "-c", code, str(home / "store.sqlite")], capture_output=True, text=True)
    assert found.stdout.strip() == str(held), found.stderr


def test_rows_are_read_back_and_wrong_json_is_rejected(store_url: str) -> None:
    """Written rows are read back in both database systems; JSON of the wrong shape is rejected when it is decoded."""
    store = Database(store_url)
    from tests.support.snapshots import body

    SnapshotStore(store).write("desk", [post(0, body(page_id="p", errors_by_type={"a": 1}))])
    SampleStore(store, "desk").keep([Sample(us(1), "beat", "collector", "ok", detail='{"tasks": 3}')])
    assert [(p.page, json.loads(p.metrics)["page"]) for p in rescue.posts(store, "desk", None, None, None)] == [
        ("p", "p")
    ]
    with pytest.raises(cell_types.DamagedCell, match="every_s is missing"):
        SampleStore(store, "desk").between(0, 2**61)[0].details()
    store.close()


@pytest.mark.parametrize(
    "change",
    [
        {"levels": 5},
        {"levels": ["loud"]},
        {"told_us": "noon"},
        {"told_us": 2**62},
        {"value": "1"},
        {"acked_by": None},
        {"more": 1},
        {"rule": None},
    ],
)
def test_a_notification_state_with_a_wrong_type_is_rejected(change: dict) -> None:
    """A stored notification state is accepted only if every field has its type."""
    right = NotificationState(
        "a", "availability", "massive", "page", "providers", "Dev Team", levels=["critical"], fired_us=us(1)
    ).as_json()
    assert NotificationState.of_json(json.dumps(right)).as_json() == right
    with pytest.raises(StoreError, match="notices.state"):
        NotificationState.of_json(json.dumps(right | change))


EDITS = {
    "a figure without its parts": ("postmortem.json", '"count":', '"xount":'),
    "figures of another kind": ("postmortem.json", '"figures": [', '"figures": [5, '),
    "a notebook of another kind": ("postmortem.ipynb", '"cells": [', '"cells": [5, '),
    "a number beyond all numbers": ("record.jsonl", '"seq":2', '"seq":1e999'),
    "a line cut off": ("record.jsonl", '"seq":2', '"se'),
}


@pytest.mark.parametrize("how", EDITS)
def test_verify_names_a_damaged_file_of_an_incident(home: Path, how: str, capsys: pytest.CaptureFixture[str]) -> None:
    """If a file of an incident is damaged, `ops verify` names that file or entry and exits with 2."""
    ops(capsys, home, "postmortem", "2026-03-10-1")
    folder = home / "desk" / "incidents" / "2026-03-10-1"
    assert ops(capsys, home, "verify", str(folder))[0] == 0
    name, before, after = EDITS[how]
    content = (folder / name).read_text(encoding="utf-8")
    assert before in content
    (folder / name).write_text(content.replace(before, after, 1), encoding="utf-8")
    code, out, _ = ops(capsys, home, "verify", str(folder))
    assert code == 2 and (name in out or "E2" in out), out


def test_a_record_with_a_damaged_entry_is_rejected(whole: Path, tmp_path: Path) -> None:
    """If a byte in a key of an entry is flipped, commands name the incident's record as damaged and exit with 70."""
    shutil.copytree(whole, home := tmp_path / "home")
    with contextlib.closing(sqlite3.connect(home / "store.sqlite")) as file:
        file.execute("""UPDATE entries SET line = replace(line, '"severity"', '"severitx"')""")
        file.commit()
    for arguments in (["incident", "show", "2026-03-10-1"], ["postmortem", "2026-03-10-1", "--check"]):
        code, _, err, _ = damaged.tried(arguments, home)
        assert code == 70 and "of the record of incident 2026-03-10-1 is damaged" in err and "Traceback" not in err


@pytest.mark.parametrize("table", ["fills", "samples", "snapshots"])
def test_a_text_in_a_time_column_is_reported(whole: Path, tmp_path: Path, table: str) -> None:
    """A text in a time column is reported as damage, also by a command that only reads the first and the last time."""
    shutil.copytree(whole, home := tmp_path / "home")
    with contextlib.closing(sqlite3.connect(home / "store.sqlite")) as file:
        file.execute(f"UPDATE {table} SET ts_us = 'many' WHERE rowid = (SELECT max(rowid) FROM {table})")
        file.commit()
    code, _, err, _ = damaged.tried(["alerts", "--from", "2026-03-10T13:50Z", "--to", damaged.END, "--replay"], home)
    assert code == 70 and "ts_us holds 'many'" in err and "Traceback" not in err
