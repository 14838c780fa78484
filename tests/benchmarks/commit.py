"""
Measure the durable commit of one snapshot during reads; the peer is sqlite3 alone, committing a row of the same size.
"""

import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from opslib.foundation.storage.database import Database
from opslib.simulation.demo_day import replay
from opslib.simulation.world import page
from opslib.telemetry.pages.snapshot import read
from opslib.telemetry.pages.store import Post, SnapshotStore

COMMITS = 1500


def _percentiles(times: list[float]) -> dict[str, float]:
    ordered = sorted(times)
    return {
        "p50_ms": round(1000 * ordered[len(ordered) // 2], 2),
        "p99_ms": round(1000 * ordered[int(len(ordered) * 0.99)], 2),
    }


def measure(folder: Path) -> Iterator[dict]:
    """Measure milliseconds per commit, p50 and p99, while another process repeatedly reads an hour."""
    from opslib.foundation import clock

    posts = [Post(clock.micros(p.at), read(p.body)) for p in page.posts(replay._session_script(replay.DAY, 1))][
        : 2 * COMMITS
    ]
    store = Database(f"sqlite:///{folder / 'store.sqlite'}")
    SnapshotStore(store).write("desk", posts[:COMMITS])
    reader = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "from opslib import desk\nd = desk.open('desk')\nn = 0\n"
            "while True:\n d.status('2026-03-10T11:00').as_json(); n += 1\n print(n, flush=True)",
        ],
        env={**os.environ, "OPS_HOME": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert reader.stdout and reader.stdout.readline()
    times = []
    for post in posts[COMMITS:]:
        began = time.perf_counter()
        SnapshotStore(store).write("desk", [post])
        times.append(time.perf_counter() - began)
    if reader.poll() is None:
        errors = ""
    elif reader.stderr:
        errors = reader.stderr.read()
    else:
        errors = "?"
    with reader:  # Closes its pipes and waits for it.
        reader.kill()
    bare = sqlite3.connect(folder / "bare.sqlite", isolation_level=None)
    for pragma in ("journal_mode=WAL", "synchronous=FULL"):
        bare.execute(f"PRAGMA {pragma}")
    bare.execute("CREATE TABLE t (a INTEGER PRIMARY KEY, b BLOB)")
    plain = []
    for post in posts[COMMITS:]:
        began = time.perf_counter()
        bare.execute("INSERT INTO t (b) VALUES (?)", (post.snapshot.body,))
        plain.append(time.perf_counter() - began)
    ours, theirs = _percentiles(times), _percentiles(plain)
    yield {
        "what": "durable commit of one snapshot, a reader at work",
        **ours,
        "reach_p50_ms": 5,
        "reach_p99_ms": 25,
        "reader_errors": errors,
        "bare_sqlite_no_reader": theirs,
        "ratio_p50": round(ours["p50_ms"] / theirs["p50_ms"], 2),
    }
