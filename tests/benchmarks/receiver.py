"""
Measure the receiver at 32 connections, each post acknowledged after its fsync; the peer is a group commit without HTTP.
"""

import asyncio
import json
import os
import queue
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from tests.benchmarks import month

CONNECTIONS = 32
POSTS, BEFORE = 20_000, 500  # The first `BEFORE` posts are not measured.


def _bodies() -> list[bytes]:
    body = month.template()
    found = []
    for _i in range(POSTS):
        body["lastUpdateAt"] += 1
        body["providers"]["massive"]["requestCount"] += 1
        found.append(json.dumps(body).encode())
    return found


async def _post_all(port: int, bodies: list[bytes]) -> tuple[float, list[float], int]:
    """Send all posts over the connections; return seconds, each post's seconds, and how many did not get status 204."""
    waiting = iter(bodies)
    times: list[float] = []
    bad = 0

    async def one() -> None:
        nonlocal bad
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for body in waiting:
            began = time.perf_counter()
            writer.write(
                b"POST /api/metrics/export HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r"
                b"\nContent-Length: %d\r\n\r\n" % len(body) + body
            )
            head = await reader.readuntil(b"\r\n\r\n")
            times.append(time.perf_counter() - began)
            bad += b" 204 " not in head.split(b"\r\n")[0]
        writer.close()

    began = time.perf_counter()
    await asyncio.gather(*(one() for _ in range(CONNECTIONS)))
    return time.perf_counter() - began, times, bad


def _bare(folder: Path, bodies: list[bytes]) -> float:
    """Measure posts per second of a writer thread alone, with as many callers as there are connections."""
    waiting: queue.Queue = queue.Queue()

    def write() -> None:
        database = sqlite3.connect(folder / "bare.sqlite", isolation_level=None)
        for pragma in ("journal_mode=WAL", "synchronous=FULL"):
            database.execute(f"PRAGMA {pragma}")
        database.execute("CREATE TABLE t (a INTEGER PRIMARY KEY, b BLOB)")
        while (first := waiting.get()) is not None:
            batch = [first]
            while not waiting.empty() and len(batch) < 512:
                batch.append(waiting.get())
            database.execute("BEGIN")
            database.executemany("INSERT INTO t (b) VALUES (?)", [(b,) for b, _ in batch])
            database.execute("COMMIT")
            for _, done in batch:
                done.set()

    thread = threading.Thread(target=write)
    thread.start()
    source = iter(bodies)

    def caller() -> None:
        for body in source:
            done = threading.Event()
            waiting.put((body, done))
            done.wait()

    lock = threading.Lock()
    plain = source

    class Locked:
        def __iter__(self) -> "Locked":
            return self

        def __next__(self) -> bytes:
            with lock:
                return next(plain)

    source = Locked()
    callers = [threading.Thread(target=caller) for _ in range(CONNECTIONS)]
    began = time.perf_counter()
    for c in callers:
        c.start()
    for c in callers:
        c.join()
    seconds = time.perf_counter() - began
    waiting.put(None)
    thread.join()
    return len(bodies) / seconds


def measure(folder: Path) -> Iterator[dict]:
    """Measure posts per second and milliseconds per post."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    bodies = _bodies()
    server = subprocess.Popen(
        [sys.executable, "-m", "opslib.cli", "serve", "--port", str(port)],
        env={**os.environ, "OPS_HOME": str(folder)},
        stderr=subprocess.DEVNULL,
    )
    try:
        for _ in range(200):
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                time.sleep(0.1)
        asyncio.run(_post_all(port, bodies[:BEFORE]))
        seconds, times, bad = asyncio.run(_post_all(port, bodies[BEFORE:]))
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(30)
    ordered = sorted(times)
    rate, bare = len(times) / seconds, _bare(folder, bodies)
    yield {
        "what": f"receiver, {CONNECTIONS} connections",
        "posts_per_s": round(rate),
        "reach": 2000,
        "p50_ms": round(1000 * ordered[len(ordered) // 2], 1),
        "p99_ms": round(1000 * ordered[int(len(ordered) * 0.99)], 1),
        "reach_p99_ms": 25,
        "not_204": bad,
        "bare_group_commit_per_s": round(bare),
        "ratio": round(rate / bare, 2),
    }
