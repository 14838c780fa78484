"""
Make a small database with rows in every table, and damage copies of it at random.

`python tests/support/damaged.py COUNT [SEED]` damages COUNT copies, runs commands on each, and prints every failure.
"""

import contextlib
import io
import os
import random
import shutil
import sqlite3
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

from opslib.alerting.notifications.store import NotificationStore
from opslib.cli import main, parser
from opslib.foundation.config import rules, settings
from opslib.foundation.config.contacts import Channel, Contacts, Role
from opslib.foundation.errors import OpsError
from opslib.foundation.storage.database import Database
from opslib.incidents.lifecycle import Incidents
from opslib.jobs import ledger
from opslib.jobs.ledger import JobKey
from opslib.services.collector import Collector
from opslib.telemetry.markers import Markers
from opslib.telemetry.pages.store import RejectedPost, SnapshotStore
from opslib.telemetry.probes.store import Sample, SampleStore
from tests.alerting.test_store import troubled
from tests.support.snapshots import at, body, post, us

LASTS_S = 1500
END = f"{at(LASTS_S):%Y-%m-%dT%H:%M:%SZ}"
DETAILS = {
    "host": '{"name": "disk", "told": "80 %"}',
    "beat": '{"every_s": 5, "tasks": 3}',
    "log": '{"kinds": {"provider_5xx": 1}, "newest": {"provider_5xx": "boom"}}',
    "socket": '{"code": 1006, "why": "gone"}',
    "process": '{"born": 1772900000.0, "pid": 42, "threads": 3}',
    "chain": '{"contracts": 100, "core": 50, "flagged": 2, "faults": {"gamma_zero": 2}, "units": {"theta": '
    '"per_day"}, "iv_atm": 0.2, "median_iv": 0.2, "median_theta": -0.1, "median_vega": 0.1, "pages": 2}',
}
FILLS = """symbol,side,quantity,price,time,expiry,strike,type,commission,fees
XYZ,sell to open,1,4.37,2026-03-10T14:40:00Z,2026-04-17,15,call,1.00,0.12
XYZ,buy to close,1,4.32,2026-03-10T15:00:00Z,2026-04-17,15,call,0.00,0.12
"""
SLOWEST_S = 30.0  # The slowest command takes 11 s on a slow, busy machine; a longer one hangs.
VERDICTS = {"status", "checklist", "greeks", "pnl", "doctor", "verify"}


def made(home: Path) -> Path:
    """Set up a home whose database has rows in every table; return the home."""
    home.mkdir(parents=True)
    found = settings.Settings(home=home, app="desk")
    store, table, now = Database(found.url, lambda: at(0)), rules.load(), at(LASTS_S + 10)
    for seconds, late, metrics in sorted(troubled(7), key=lambda p: p[0] + p[1]):
        if seconds <= LASTS_S:
            store._now = lambda known=seconds + late: at(known)
            SnapshotStore(store).write("desk", [post(seconds, metrics)])
    store._now = lambda: now
    SnapshotStore(store).write(
        "desk",
        [
            post(
                LASTS_S + 1,
                body(last_error_message="boom", errors_by_type={"timeout": 2}, page_id="p1", memory_bytes=10**8),
            )
        ],
        [RejectedPost("post", ("pnl is 4, expected an object",), b'{"pnl": 4}')],
    )
    probes = ("liveness", "data", "health", "log", "host", "beat", "socket", "process", "chain")
    SampleStore(store, "desk").keep(
        Sample(
            us(s),
            probe,
            subject,
            "ok" if s % 300 else "timeout",
            0.2,
            1.0,
            detail=DETAILS.get(probe, '{"status": 200, "skew_s": 0.1}'),
        )
        for s in range(0, LASTS_S, 60)
        for probe in probes
        for subject in (
            ("massive", "tradier")
            if probe in ("liveness", "data")
            else ({"beat": "collector", "chain": "SPY"}.get(probe, "app"),)
        )
    )
    SampleStore(store, "desk").keep_chain(us(600), "massive", "SPY", "ok", [b'{"results": []}'])
    assert Collector(store, found, table, "one", lambda: now).evaluate_due()
    notifications = NotificationStore(store, "desk")
    notifications.silence("Ann", "planned", timedelta(hours=1), rule="errors")
    contacts = Contacts(
        {name: Role(name, (), ("hook",)) for name in ("Dev Team", "Tech Lead")},
        {"hook": Channel("hook", "webhook", {"url": "http://127.0.0.1:9/"})},
    )
    assert notifications.plan(contacts, table)
    delivery = notifications.claim("hook")
    assert delivery
    notifications.sent(delivery)
    notifications.ack(notifications.open_states()[0].alert, "Ann")
    notifications.store_external_alerts(
        [
            {
                "fingerprint": "abc",
                "labels": {"alertname": "DiskFull", "severity": "critical"},
                "annotations": {"summary": "full"},
                "starts_us": us(10),
                "ends_us": us(10**6),
            }
        ]
    )
    incidents = Incidents(store, found, table)
    assert incidents.follow_alerts()
    opened = incidents.open("slow", by="Ann")
    incidents.note(opened.id, "the vendor called", "Ann")
    incidents.records.picture(b"no picture")
    Markers(store, found).put("deploy", "v1.2", "Ann", at(900))
    for n, state in enumerate(("ok", "failed")):
        assert ledger.begins(
            store,
            JobKey(f"report daily 2026-03-0{n + 3}"),
            id=f"run{n}",
            app="desk",
            notebook="notebooks/daily.ipynb",
            parameters='{"day": "2026-03-03"}',
            started_at_us=us(n),
            state="running",
        )
        ledger.ends(store, f"run{n}", state=state, reason=None, ended_at_us=us(n + 1), outputs=[])
    (home / "fills.csv").write_text(FILLS)
    with contextlib.redirect_stdout(io.StringIO()):
        assert (
            main.main(["import", str(home / "fills.csv"), "--known-at-ts", "--home", str(home), "--app", "desk"]) == 0
        )
        assert main.main(["feedback", "useful", "the panel", "--by", "Ann", "--home", str(home), "--app", "desk"]) == 0
    store.close()
    with contextlib.closing(sqlite3.connect(home / "store.sqlite")) as file:
        file.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        empty = [
            name
            for (name,) in file.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
            if not file.execute(f"SELECT 1 FROM {name}").fetchone()
        ]
        assert not empty, empty
    return home


def commands(home: Path) -> list[list[str]]:
    """Return commands that read or write the database, as typed."""
    incidents = sorted(p.name for p in (home / "desk" / "incidents").iterdir())
    return [
        ["status", "--as-of", END],
        ["status", "--as-of", END, "-o", "json"],
        ["status"],
        ["alerts", "--to", END],
        ["alerts", "--from", f"{at(LASTS_S - 300):%Y-%m-%dT%H:%M:%SZ}", "--to", END, "--replay", "-o", "json"],
        ["runs"],
        ["runs", "-o", "json"],
        ["incident", "list"],
        ["incident", "show", incidents[0]],
        ["incident", "show", incidents[-1], "-o", "json"],
        ["incident", "note", incidents[-1], "words", "--by", "Ann"],
        ["export", "snapshots"],
        ["pnl", "--as-of", END],
        ["pnl", "-o", "json"],
        ["greeks", "SPY", "--as-of", END],
        ["notify"],
        ["silence", "list"],
        ["silence", "add", "--rule", "errors", "--for", "1h", "--reason", "x", "--by", "Ann"],
        ["verify", incidents[0]],
        ["postmortem", incidents[0], "--check"],
        ["mark", "note", "words", "--by", "Ann"],
        ["import", str(home / "fills.csv")],
        ["import", "--rejects"],
        ["rules"],
        ["ack", "availability-massive", "--by", "Ann"],
        ["feedback", "useful", "words", "--by", "Ann"],
        ["checklist", "monitor-health"],
        ["schedule", "list"],
        ["rules", "backtest", "--days", "0", "--from", "2026-03-10", "--to", END],
    ]


BAD_CELLS = [
    "NULL",
    "'many'",
    "''",
    "-1",
    "4611686018427387904",
    "-9223372036854775808",
    "1e300",
    "9e999",
    "x'00ff'",
    "'{'",
    "'[]'",
    "'{}'",
    "'null'",
    "CAST(x'c328' AS TEXT)",
    "CAST(zeroblob(5) AS TEXT)",
    "zeroblob(20)",
    "'{\"a\": {}}'",
    "99999999999999999",
]


def damage(home: Path, rng: random.Random) -> str:
    """Damage the database of a home in one way; return the damage as text."""
    path = home / "store.sqlite"
    size = path.stat().st_size
    kind = rng.choice(
        (
            "flip",
            "flip",
            "flips",
            "flips",
            "truncate",
            "zero",
            "cell",
            "cell",
            "cell",
            "cell",
            "cell",
            "text",
            "text",
            "drop table",
            "drop column",
            "drop index",
            "log",
            "schema",
        )
    )
    content = bytearray(path.read_bytes())
    if kind in ("flip", "flips"):
        places = [rng.randrange(size) for _ in range(1 if kind == "flip" else rng.randrange(2, 60))]
        for place in places:
            content[place] ^= 1 << rng.randrange(8)
        path.write_bytes(content)
        return f"{kind} at {places[:5]}"
    if kind == "truncate":
        length = rng.randrange(1, size)
        path.write_bytes(content[:length])
        return f"truncated to {length} of {size}"
    if kind == "zero":
        page = rng.randrange(size // 4096)
        content[4096 * page : 4096 * page + 4096] = bytes(4096)
        path.write_bytes(content)
        return f"page {page + 1} zeroed"
    if kind == "log":
        (home / "store.sqlite-wal").write_bytes(rng.randbytes(rng.randrange(1, 9000)))
        (home / "store.sqlite-shm").write_bytes(rng.randbytes(rng.randrange(1, 40000)))
        return "a log of random bytes"
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as file:
        tables = [
            name
            for (name,) in file.execute(
                "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite%'"
            )
        ]
        table = rng.choice(tables)
        columns = [row[1] for row in file.execute(f"PRAGMA table_info({table})")]
        column = rng.choice(columns)
        if kind == "schema":
            value = rng.choice(["99", "x", "", "1", "-4"])
            file.execute(
                "UPDATE meta SET value = ? WHERE key = ?",
                (value, key := rng.choice(["schema", "known_at_us", "planned:desk", "messages:desk"])),
            )
            return f"meta {key} = {value!r}"
        if kind == "drop table":
            file.execute(f"DROP TABLE {table}")
            return f"table {table} dropped"
        if kind == "drop index":
            name = rng.choice(
                [n for (n,) in file.execute("SELECT name FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL")]
            )
            file.execute(f"DROP INDEX {name}")
            return f"index {name} dropped"
        if kind == "drop column":
            with contextlib.suppress(sqlite3.Error):
                file.execute(f'ALTER TABLE {table} RENAME COLUMN "{column}" TO gone')
            return f"{table}.{column} renamed"
        which = rng.choice(
            ["rowid = (SELECT max(rowid) FROM {0})", "rowid = (SELECT min(rowid) FROM {0})", "1 = 1", "rowid % 7 = 3"]
        ).format(table)
        file.execute("PRAGMA writable_schema = 1")
        file.execute("UPDATE sqlite_master SET sql = replace(sql, 'NOT NULL', '        ') WHERE name = ?", (table,))
        file.execute("PRAGMA writable_schema = RESET")
        if kind == "text":  # Only one character of a text, so that JSON mostly stays JSON.
            for rowid, found in file.execute(f'SELECT rowid, "{column}" FROM {table} WHERE {which}').fetchall():
                if isinstance(found, str) and found:
                    place = rng.randrange(len(found))
                    with contextlib.suppress(sqlite3.IntegrityError):
                        file.execute(
                            f'UPDATE {table} SET "{column}" = ? WHERE rowid = ?',
                            (found[:place] + rng.choice('a0}{",:-x\u20ac\u0000') + found[place + 1 :], rowid),
                        )
            return f"a character of {table}.{column} where {which}"
        value = rng.choice(BAD_CELLS)
        with contextlib.suppress(sqlite3.IntegrityError):
            file.execute(f'UPDATE {table} SET "{column}" = {value} WHERE {which}')
        return f"{table}.{column} = {value} where {which}"


def command(arguments: list[str]) -> int:
    """Run a command as `cli.main` does, but raise its unexpected exceptions."""
    options = parser.parser(main.COMMANDS).parse_args(arguments)
    for name in ("as_of", "known_at"):
        setattr(options, name, getattr(options, name, None))
    options.output = getattr(options, "output", "text")
    try:
        return int(options.run(options))
    except OpsError as problem:
        print(f"ops: {problem}", file=sys.stderr)
        return problem.exit_code


def tried(arguments: list[str], home: Path) -> tuple[int, str, str, float]:
    """
    Run a command in this process; return exit code, stdout, stderr and seconds.

    Of an unexpected exception the traceback is in stderr.
    """
    out, err, began = io.StringIO(), io.StringIO(), time.process_time()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = command([*arguments, "--home", str(home), "--app", "desk"])
        except SystemExit as ends:
            code = int(ends.code or 0)
        except BaseException:  # An exception is the finding.
            traceback.print_exc()
            code = -1
    return code, out.getvalue(), err.getvalue(), time.process_time() - began


def wrong(arguments: list[str], found: tuple[int, str, str, float]) -> str:
    """Return what is wrong with the result of a command; empty if nothing is."""
    code, _, err, seconds = found
    if code == -1 or "Traceback" in err:
        return f"an exception came out:\n{err}"
    if code not in ((0, 1, 2, 3, 64, 70) if arguments[0] in VERDICTS else (0, 3, 64, 70)):
        return f"exit code {code}"
    if code in (64, 70) and not err.strip() and arguments[0] not in (*VERDICTS, "postmortem"):
        return f"exit code {code} without a word"
    return f"it took {seconds:.1f} s" if seconds > SLOWEST_S else ""


def failures(whole: Path, place: Path, rng: random.Random, count: int, most: int) -> Iterator[str]:
    """Damage copies of a home, run commands on each, and return what went wrong."""
    for n in range(count):
        home = place / f"h{n}"
        shutil.copytree(whole, home)
        how = damage(home, rng)
        every = commands(home)
        for arguments in rng.sample(every, min(most, len(every))):
            if problem := wrong(arguments, tried(arguments, home)):
                yield f"{how}: ops {' '.join(arguments)}: {problem}"
        shutil.rmtree(home)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        os.environ["OPS_HOME"] = folder
        seed = int(sys.argv[2]) if len(sys.argv) > 2 else random.SystemRandom().randrange(10**6)
        print("seed", seed, flush=True)
        begun, found = time.monotonic(), 0
        for failure in failures(
            made(Path(folder) / "whole"),
            Path(folder),
            random.Random(seed),
            int(sys.argv[1]),
            int(sys.argv[3]) if len(sys.argv) > 3 else 99,
        ):
            found += 1
            print("FAILED", failure, flush=True)
        print(found, "failures in", sys.argv[1], f"damaged stores, {time.monotonic() - begun:.0f} s")
