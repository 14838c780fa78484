"""
Test the receiver over real sockets: its contract, invalid requests, kill -9 and a full disk.

Contract tests run it in this process (`ServerThread`); tests that need a process run ``ops serve``.
"""

import asyncio
import http.client
import json
import os
import re
import resource
import selectors
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from opslib.cli import main
from opslib.desk import Desk
from opslib.foundation import clock
from opslib.foundation.config import rules, settings
from opslib.foundation.config.settings import Settings
from opslib.foundation.errors import SettingsError, StoreError
from opslib.foundation.storage import snapshot_columns, sqlite
from opslib.foundation.storage.database import Database
from opslib.services import server
from opslib.telemetry.pages.store import SnapshotStore
from tests.support import snapshots
from tests.support.servers import free_port
from tests.support.system import needs

POST = "/api/metrics/export"
AS_JSON = {"Content-Type": "application/json"}
AS_BEACON = {"Content-Type": "text/plain;charset=UTF-8"}
LARGEST = 64 * 1024
NOON = datetime.fromisoformat("2026-03-10T16:00:00+00:00")


@dataclass
class Answer:
    """A response: status, headers in lower case, body."""

    status: int
    headers: dict[str, str]
    body: bytes

    def problem(self) -> dict[str, Any]:
        """Return the body of an RFC 9457 problem, whose status is that of the response."""
        assert self.headers["content-type"] == "application/problem+json"
        found = json.loads(self.body)
        assert found["status"] == self.status
        return found


@dataclass
class Clock:
    """A clock that the test sets."""

    at: datetime

    def now(self) -> datetime:
        """Return the time."""
        return self.at


@dataclass
class Receiver:
    """A receiver in this process, with its settings and database."""

    url: str
    settings: Settings
    store: Database

    def ask(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Answer:
        """Send one request."""
        return asked(self.url, method, path, body, headers)

    def post(self, body: Any, headers: dict[str, str] | None = None, path: str = POST) -> Answer:
        """Post a body, as JSON unless it is bytes."""
        return asked(self.url, "POST", path, raw(body), AS_JSON if headers is None else headers)

    def bodies(self) -> list[bytes]:
        """Return every body in the database."""
        return bodies(self.store)


def raw(body: Any) -> bytes:
    """Return a body as the bytes that are sent."""
    return body if isinstance(body, bytes) else json.dumps(body).encode()


def bodies(store: Database) -> list[bytes]:
    """Return every body in a database."""
    return [body for _, _, _, body in SnapshotStore(store).bodies("desk", None, None, None)]


def canonical(body: bytes) -> str:
    """Return the content of a body in one canonical form."""
    return json.dumps(json.loads(body.decode("utf-8-sig")), sort_keys=True)


def asked(url: str, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Answer:
    """Send one request on its own connection."""
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=40)
    try:
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
    finally:
        connection.close()


@contextmanager
def receiving(*, now: Callable[[], datetime] = clock.now, **environ: str) -> Iterator[Receiver]:
    """Run a receiver in this process, on the home of the test."""
    found = settings.load(None, None, {"OPS_HOME": os.environ["OPS_HOME"], **environ})
    store = Database(found.url, now)
    try:
        with server.ServerThread(found, store, rules.load(found.base), now=now) as served:
            yield Receiver(served.url, found, store)
    finally:
        store.close()


@dataclass
class Running:
    """An ``ops serve`` in its own process."""

    url: str
    process: subprocess.Popen
    said: Path

    def stderr(self) -> str:
        """Return its output so far."""
        return self.said.read_text(encoding="utf-8", errors="replace")


def awaited(true: Callable[[], bool], what: str, seconds: float = 30) -> None:
    """Wait until a condition is true."""
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until, f"{what} did not come within {seconds} s"
        time.sleep(0.02)


def answers(url: str) -> bool:
    """Return whether the server responds."""
    with suppress(OSError):
        return asked(url, "GET", "/health").status == 200
    return False


@contextmanager
def running(home: Path, *more: str, prefix: Iterable[str] = (), **environ: str) -> Iterator[Running]:
    """Run ``ops serve`` on a home; end it afterwards if it still runs."""
    port = free_port()
    home.parent.mkdir(parents=True, exist_ok=True)
    said = home.parent / f"serve-{port}.stderr"
    with open(said, "wb") as to:
        command = [*prefix, sys.executable, "-m", "opslib.cli", "serve", "--port", str(port), *more]
        process = subprocess.Popen(command, env=os.environ | {"OPS_HOME": str(home), **environ}, stderr=to, stdout=to)
    found = Running(f"http://127.0.0.1:{port}", process, said)
    try:
        awaited(lambda: process.poll() is not None or answers(found.url), "ops serve")
        assert process.poll() is None, found.stderr()
        yield found
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait(40)


def ops(home: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess:
    """Run one command in its own process."""
    return subprocess.run(
        [sys.executable, "-m", "opslib.cli", *arguments],
        env=os.environ | {"OPS_HOME": str(home), **environ},
        capture_output=True,
        timeout=60,
    )


def exported(home: Path) -> list[dict[str, Any]]:
    """Return the rows of ``ops export snapshots``."""
    found = ops(home, "export", "snapshots")
    assert (found.returncode, found.stderr) == (0, b"")
    return [json.loads(line) for line in found.stdout.decode().split("\n") if line]


def a_body(number: int = 0, **changed: Any) -> dict[str, Any]:
    """Return a complete body, different for each number."""
    return snapshots.body(**{"page_clock_ms": clock.micros(clock.now()) // 1000 - 10_000_000 + number, **changed})


# The contract, row by row.


@pytest.mark.parametrize(
    "headers",
    [AS_JSON, AS_BEACON, {"Content-Type": "TEXT/PLAIN"}, {"Content-Type": 'application/json; charset="utf-8"'}],
    ids=lambda h: h["Content-Type"],
)
def test_a_post_is_stored_unchanged(home: Path, headers: dict[str, str]) -> None:
    """A post gets 204 without a body, as JSON and as sendBeacon sends it, and is stored byte for byte."""
    sent = json.dumps(a_body(last_error_message="café \U0001f600"), indent=2, ensure_ascii=False).encode()
    with receiving() as receiver:
        answer = receiver.post(sent, headers)
        assert (answer.status, answer.body) == (204, b"")
        assert receiver.bodies() == [sent]
    assert [line["metrics"] for line in exported(home)] == [json.loads(sent)]


def test_page_id_and_memory_are_in_the_body(home: Path) -> None:
    """A page's ID and memory, which a beacon can send only in the body, are stored as page and figure."""
    with receiving() as receiver:
        assert receiver.post(a_body(page_id="lead-1", memory_bytes=31_500_000), AS_BEACON).status == 204
        view = Desk(receiver.settings).status()
        assert [p.name for p in view.counters.pages] == ["lead-1"]
        assert view.figures["system"]["memory_mb"] == 31.5
    assert [line["page"] for line in exported(home)] == ["lead-1"]


def test_every_invalid_field_is_named_at_once(home: Path) -> None:
    """A body with many invalid fields gets one problem that names each by its place in the JSON, and is not stored."""
    sent = a_body(
        massive_requests=-1,
        massive_fallbacks=True,
        tradier_requests=1.5,
        tradier_failures="7",
        validations=2**60,
        gamma_zero=[],
        trades={},
        gross_mean_pct="much",
        net_mean_pct=True,
        errors=-0.5,
        uptime_s=-3,
        websocket_connected=1,
        last_error_at_ms=12,
        last_error_message=5,
        page_clock_ms="now",
        memory_bytes=-1,
        page_id="",
        errors_by_type={"API_ERROR": -1},
    )
    bad = {
        "providers.massive.requestCount",
        "providers.massive.fallbackCount",
        "providers.tradier.requestCount",
        "providers.tradier.failureCount",
        "greeksQuality.totalTrades",
        "greeksQuality.gammaIsZero",
        "pnl.totalTrades",
        "pnl.avgGrossPnL",
        "pnl.avgNetPnL",
        "systemHealth.errorCount",
        "systemHealth.uptime",
        "systemHealth.webSocketConnected",
        "systemHealth.lastErrorAt",
        "systemHealth.lastErrorMessage",
        "lastUpdateAt",
        "client.memoryBytes",
        "page",
        "systemHealth.errorsByType",
    }
    with receiving() as receiver:
        answer = receiver.post(sent)
        assert answer.status == 400
        fields = answer.problem()["fields"]
        assert {f.split(" ")[0] for f in fields} == bad
        assert len(fields) == len(bad)
        assert receiver.bodies() == []
        ((_, reject),) = SnapshotStore(receiver.store).rejects("desk")
        assert (reject.source, reject.body) == ("post", raw(sent))


NO_METRICS = {
    "nothing": b"",
    "no JSON": b"hello",
    "half": b'{"pnl": {',
    "two": b"{} {}",
    "a list": b"[]",
    "null": b"null",
    "a number": b"7",
    "text": b'"x"',
    "another object": b'{"a": 1}',
    "NUL": b"{}\x00",
    "NaN": b'{"pnl":{"avgNetPnL":NaN},"lastUpdateAt":1773158400000}',
    "Infinity": b'{"pnl":{"avgNetPnL":-Infinity},"lastUpdateAt":1773158400000}',
    "1e999": b'{"pnl":{"avgNetPnL":1e999},"lastUpdateAt":1773158400000}',
    "5000 digits": b'{"pnl":{"totalTrades":' + b"9" * 5000 + b'},"lastUpdateAt":1773158400000}',
    "4000 digits": b'{"pnl":{"avgNetPnL":' + b"9" * 4000 + b'},"lastUpdateAt":1773158400000}',
    "UTF-16": '{"pnl":{},"lastUpdateAt":1773158400000}'.encode("utf-16"),
    "Latin-1": b'{"pnl":{},"lastUpdateAt":1773158400000,"x":"\xe9"}',
    "deep": b"[" * 30_000,
    "deep and closed": b'{"pnl":' + b"[" * 30_000 + b"]" * 30_000 + b',"lastUpdateAt":1773158400000}',
    "no time": b'{"pnl":{}}',
    "raw newline": b'{"pnl":{},"lastUpdateAt":1773158400000,"x":"\n"}',
}


@pytest.mark.parametrize("sent", NO_METRICS.values(), ids=NO_METRICS)
def test_an_invalid_body_is_rejected_with_the_reason(home: Path, sent: bytes) -> None:
    """A body that is no dashboard-metrics JSON gets 400 with a reason, is kept among the rejected, and is no row."""
    with receiving() as receiver:
        answer = receiver.post(sent)
        assert answer.status == 400
        assert answer.problem()["fields"]
        assert receiver.bodies() == []
        assert [reject.body for _, reject in SnapshotStore(receiver.store).rejects("desk")] == [sent]


def test_a_byte_order_mark_is_accepted(home: Path) -> None:
    """A body with a byte order mark is stored with it, and exported as JSON."""
    with receiving() as receiver:
        assert receiver.post(b"\xef\xbb\xbf" + raw(a_body())).status == 204
    assert len(exported(home)) == 1


KEYS = {
    "no key": (None, ""),
    "a wrong key": (None, "?key=wrong"),
    "an empty key": (None, "?key="),
    "the key's beginning": (None, "?key=ingest-key-123"),
    "a wrong bearer": ("Bearer wrong", ""),
    "a wrong bearer before the key": ("Bearer wrong", "?key=ingest-key-1234"),
    "no bearer": ("Basic ingest-key-1234", ""),
    "the reading key": ("Bearer read-key-1234", ""),
    "no ASCII": ("Bearer \xff\xfe", "?key=%FF%FE%00"),
}


@pytest.mark.parametrize(("authorization", "query"), KEYS.values(), ids=KEYS)
def test_without_the_key_nothing_is_accepted(home: Path, authorization: str | None, query: str) -> None:
    """If a key is set, a post without it gets 401 and leaves no trace, not even among the rejected."""
    with receiving(OPS_INGEST_KEY="ingest-key-1234", OPS_READ_KEY="read-key-1234") as receiver:
        headers = AS_JSON | ({"Authorization": authorization} if authorization else {})
        for sent in (a_body(), b"no JSON"):
            answer = receiver.post(sent, headers, POST + query)
            assert answer.status == 401
            assert "ey" in answer.problem()["detail"]
            assert answer.headers["www-authenticate"] == "Bearer"
        assert receiver.bodies() == SnapshotStore(receiver.store).rejects("desk") == []


def test_the_key_as_bearer_token_and_as_parameter(home: Path) -> None:
    """The ingest key is accepted as a Bearer token and, for a beacon, which has no headers, as the parameter `key`."""
    with receiving(OPS_INGEST_KEY="ingest key+1234/=") as receiver:
        assert receiver.post(a_body(1), AS_JSON | {"Authorization": "Bearer ingest key+1234/="}).status == 204
        assert receiver.post(a_body(2), AS_JSON | {"Authorization": "bearer ingest key+1234/="}).status == 204
        assert receiver.post(a_body(3), AS_BEACON, f"{POST}?key=ingest%20key%2B1234%2F%3D").status == 204
        assert len(receiver.bodies()) == 3


def test_the_ingest_key_only_writes(home: Path) -> None:
    """With both keys set, figures need the read key and posts the ingest key; /health needs none."""
    with receiving(OPS_INGEST_KEY="ingest-key-1234", OPS_READ_KEY="read-key-1234") as receiver:
        for path in ("/metrics", "/api/metrics"):
            for headers in ({}, {"Authorization": "Bearer ingest-key-1234"}):
                answer = receiver.ask("GET", path, headers=headers)
                assert (answer.status, answer.problem()["title"]) == (401, "The read key is required")
            assert receiver.ask("GET", path, headers={"Authorization": "Bearer read-key-1234"}).status == 200
        assert receiver.ask("GET", "/health").status == 200


def padded(size: int) -> bytes:
    """Return a valid body of exactly that many bytes."""
    made = raw(a_body())
    return made[:-1] + b" " * (size - len(made)) + b"}"


def in_chunks(body: bytes, size: int = 4096) -> Iterator[bytes]:
    """Return a body in pieces, which http.client sends chunked."""
    return (body[i : i + size] for i in range(0, len(body), size))


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_above_64_kib_is_too_large(home: Path, chunked: bool) -> None:
    """A body of 64 KiB is accepted, one byte more gets 413, with a Content-Length and chunked."""
    with receiving() as receiver:
        for size, status in ((LARGEST, 204), (LARGEST + 1, 413), (4 * LARGEST, 413)):
            sent = padded(size)
            answer = receiver.ask("POST", POST, in_chunks(sent) if chunked else sent, AS_JSON)
            assert answer.status == status
            assert status == 204 or "65536" in answer.problem()["detail"]
        assert [len(b) for b in receiver.bodies()] == [LARGEST]
        assert SnapshotStore(receiver.store).rejects("desk") == []


def test_a_too_large_content_length_is_rejected(home: Path) -> None:
    """A Content-Length that is too large is rejected before the body arrives, however the number is written."""
    with receiving() as receiver:
        for length in ("65537", "99999999999999999999", "000000000000000065537"):
            said = spoken(
                receiver.url,
                f"POST {POST} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r"
                f"\nContent-Length: {length}\r\nConnection: close\r\n\r\n".encode()
                + (b"x" * 65537 if length.startswith("0") else b""),
            )
            assert said.startswith((b"HTTP/1.1 413", b"HTTP/1.1 400"))


@pytest.mark.parametrize(
    "kind",
    [
        "",
        "text/html",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/jsonx",
        "json",
    ],
)
def test_other_content_types_are_rejected(home: Path, kind: str) -> None:
    """Types other than JSON and plain text, and no type, get 415 with the accepted types."""
    with receiving() as receiver:
        answer = receiver.post(a_body(), {"Content-Type": kind} if kind else {})
        assert answer.status == 415
        assert "application/json or text/plain" in answer.problem()["detail"]
        assert receiver.bodies() == []


def test_a_compressed_body_is_rejected(home: Path) -> None:
    """A body with a content encoding gets 415, because posts are stored unchanged."""
    with receiving() as receiver:
        assert receiver.post(a_body(1), AS_JSON | {"Content-Encoding": "gzip"}).status == 415
        assert receiver.post(a_body(2), AS_JSON | {"Content-Encoding": "identity"}).status == 204


def test_a_post_that_cannot_be_stored_is_not_acknowledged(
    home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """
    While the database fails, every post, valid or not, gets 503 with Retry-After; afterwards posts are accepted again.
    """
    with receiving(OPS_INGEST_KEY="ingest-key-1234") as receiver:
        path = f"{POST}?key=ingest-key-1234"

        def fails(*_: Any, **__: Any) -> int:
            raise StoreError("the store of ingest-key-1234 is gone")

        with monkeypatch.context() as patched:
            patched.setattr(SnapshotStore, "write", fails)
            for sent in (a_body(1), b"no JSON"):
                answer = receiver.post(sent, path=path)
                assert answer.status == 503
                assert int(answer.headers["retry-after"]) > 0
                assert answer.problem()["title"]
        assert receiver.bodies() == []
        assert receiver.post(a_body(1), path=path).status == 204
    said = capfd.readouterr().err
    assert "could not be written to the database" in said
    assert "Traceback" not in said
    assert "ingest-key-1234" not in said


def test_any_failure_of_the_database_is_a_503(
    home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Any unexpected failure of the database gets 503, never 500, and the writer keeps running."""
    with receiving() as receiver:
        for problem in (
            OSError(28, "No space left on device"),
            sqlite3.DatabaseError("malformed"),
            MemoryError(),
            ValueError("?"),
        ):

            def fails(*_: Any, problem: Exception = problem, **__: Any) -> int:
                raise problem

            with monkeypatch.context() as patched:
                patched.setattr(SnapshotStore, "write", fails)
                assert receiver.post(a_body()).status == 503
        assert receiver.post(a_body()).status == 204
    assert "Traceback" not in capfd.readouterr().err


def test_a_locked_database_is_a_503_after_a_wait(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While another program locks the database, a post waits, then gets 503; once unlocked, posts are accepted."""
    monkeypatch.setattr(sqlite, "BUSY_TIMEOUT_MS", 300)
    with receiving() as receiver:
        other = sqlite3.connect(receiver.settings.home / "store.sqlite", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        answer = receiver.post(a_body())
        assert (answer.status, "retry-after" in answer.headers) == (503, True)
        assert receiver.ask("GET", "/api/metrics").status == 200
        other.execute("ROLLBACK")
        other.close()
        assert receiver.post(a_body()).status == 204
        assert len(receiver.bodies()) == 1


def test_a_full_queue_is_a_503(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the queue of posts to write is full, another post gets 503 at once, and those in the queue are stored."""
    monkeypatch.setattr(server, "MOST_WAITING", 2)
    held, entered, write = threading.Event(), threading.Event(), SnapshotStore.write

    def slowly(*a: Any, **k: Any) -> int:
        entered.set()
        assert held.wait(30)
        return write(*a, **k)

    monkeypatch.setattr(SnapshotStore, "write", slowly)
    with receiving() as receiver, ThreadPoolExecutor(8) as pool:
        waiting = [pool.submit(receiver.post, a_body(0))]
        assert entered.wait(30)
        waiting += [pool.submit(receiver.post, a_body(n)) for n in range(1, 8)]
        awaited(lambda: sum(w.done() for w in waiting) >= 5, "the refusals")
        held.set()
        found = sorted(w.result().status for w in waiting)
        assert found == [204] * 3 + [503] * 5
        assert len(receiver.bodies()) == 3


def test_a_full_disk_loses_nothing_acknowledged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """
    On a disk that fills up, posts get 503 and the log names the disk; figures can still be read.

    All acknowledged posts are stored.
    """
    if os.geteuid() != 0:
        pytest.skip("only root may mount a small disk")
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)], capture_output=True).returncode:
        pytest.skip("a small disk cannot be mounted here")
    try:
        monkeypatch.setenv("OPS_HOME", str(disk / "home"))
        acknowledged, found = [], set()
        with receiving() as receiver:
            for number in range(400):
                sent = a_body(number) | {"padding": os.urandom(20_000).hex()}
                answer = receiver.post(sent)
                found.add(answer.status)
                if answer.status == 503:
                    assert "retry-after" in answer.headers
                    break
                acknowledged.append(raw(sent))
            assert found == {204, 503}
            assert receiver.bodies() == acknowledged
            assert {receiver.ask("GET", path).status for path in ("/health", "/api/metrics", "/metrics")} == {200}
        assert "disk is full" in capfd.readouterr().err
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_file_that_cannot_grow_is_a_503(home: Path) -> None:
    """
    While the database file cannot grow, posts get 503; acknowledged posts are kept, and posts are accepted again later.
    """
    with running(home) as found:
        acknowledged = []

        def posts(upto: int, until: int) -> int:
            for number in range(upto, upto + 200):
                sent = a_body(number) | {"padding": os.urandom(15_000).hex()}
                answer = asked(found.url, "POST", POST, raw(sent), AS_JSON)
                if answer.status == 204:
                    acknowledged.append(sent)
                if answer.status == until:
                    return number
                assert answer.status in (204, 503)
            raise AssertionError(f"never {until}")

        _, hard = resource.prlimit(found.process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(found.process.pid, resource.RLIMIT_FSIZE, (600_000, hard))
        posts(0, 503)
        assert asked(found.url, "GET", "/health").status == 200
        resource.prlimit(found.process.pid, resource.RLIMIT_FSIZE, (hard, hard))
        posts(1000, 204)
        assert "Traceback" not in found.stderr()
    assert [line["metrics"] for line in exported(home)] == acknowledged
    assert len(acknowledged) > 5


def test_no_post_is_acknowledged_into_a_removed_file(home: Path) -> None:
    """A post is not acknowledged into a removed file: a 204 means that an export has the post."""
    with running(home) as found:
        assert asked(found.url, "POST", POST, raw(a_body(1)), AS_JSON).status == 204
        for file in home.glob("store.sqlite*"):
            file.unlink()
        status = asked(found.url, "POST", POST, raw(a_body(2)), AS_JSON).status
    held = [line["metrics"]["lastUpdateAt"] for line in exported(home)]
    assert (status, len(held)) in ((503, 0), (204, 1))


def test_a_repeated_body_is_one_row(home: Path) -> None:
    """A repeated body, also in another notation and at the same time, is acknowledged each time and stored once."""
    sent = a_body()
    again = json.dumps(dict(reversed(sent.items())), indent=1).encode()
    with receiving() as receiver, ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda n: receiver.post(again if n % 2 else sent).status, range(40)))
        assert set(found) == {204}
        assert len(receiver.bodies()) == 1


ORIGIN = "https://app.example"


def test_preflight_of_configured_origins(home: Path) -> None:
    """A preflight from a configured origin is allowed POST with its headers; other origins get 403."""
    asks = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}
    with receiving(OPS_CORS_ORIGINS=f"{ORIGIN}/, http://localhost:5173", OPS_INGEST_KEY="ingest-key-1234") as receiver:
        for origin in (ORIGIN, "http://localhost:5173"):
            answer = receiver.ask("OPTIONS", POST, headers={"Origin": origin, **asks})
            assert (answer.status, answer.headers["access-control-allow-origin"]) == (204, origin)
            assert answer.headers["access-control-allow-methods"] == "POST"
            assert {"authorization", "content-type"} <= set(answer.headers["access-control-allow-headers"].split(", "))
            assert answer.headers["vary"].lower() == "origin"
        for origin in (
            "https://app.example.evil",
            "http://app.example",
            "https://app.example:8443",
            "null",
            "*",
            "https://evil.example",
        ):
            answer = receiver.ask("OPTIONS", POST, headers={"Origin": origin, **asks})
            assert (answer.status, [h for h in answer.headers if h.startswith("access-control")]) == (403, [])
        assert receiver.ask("OPTIONS", POST).status == 204


def test_a_post_from_another_origin_is_rejected(home: Path) -> None:
    """A page of an origin that is not configured cannot post; without configured origins no page can."""
    with receiving(OPS_CORS_ORIGINS=ORIGIN) as receiver:
        assert receiver.post(a_body(1), AS_BEACON | {"Origin": "https://evil.example"}).status == 403
        assert receiver.bodies() == []
        answer = receiver.post(a_body(1), AS_BEACON | {"Origin": ORIGIN})
        assert (answer.status, answer.headers["access-control-allow-origin"]) == (204, ORIGIN)
    with receiving() as receiver:
        assert receiver.post(a_body(2), AS_JSON | {"Origin": ORIGIN}).status == 403


def test_origins_in_the_settings_file(home: Path) -> None:
    """An origin in settings.toml is accepted with and without a trailing slash."""
    home.mkdir()
    (home / "settings.toml").write_text(f'cors_origins = ["{ORIGIN}/"]\n')
    with receiving() as receiver:
        assert receiver.post(a_body(), AS_JSON | {"Origin": ORIGIN}).status == 204


def test_a_page_can_read_every_rejection(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every response to a configured origin has its CORS header, so that the page can read the reason."""
    with receiving(OPS_CORS_ORIGINS=ORIGIN, OPS_INGEST_KEY="k-1234") as receiver:
        origin, key = {"Origin": ORIGIN}, f"{POST}?key=k-1234"
        found = {
            400: receiver.post(b"{}", AS_JSON | origin, key),
            401: receiver.post(a_body(), AS_JSON | origin),
            413: receiver.post(b"x" * (LARGEST + 1), AS_JSON | origin, key),
            415: receiver.post(a_body(), {"Content-Type": "text/html"} | origin, key),
        }
        monkeypatch.setattr(SnapshotStore, "write", lambda *_: (_ for _ in ()).throw(StoreError("gone")))
        found[503] = receiver.post(a_body(), AS_JSON | origin, key)
        assert {status: answer.status for status, answer in found.items()} == {status: status for status in found}
        assert {
            status: answer.headers.get("access-control-allow-origin") for status, answer in found.items()
        } == dict.fromkeys(found, ORIGIN)


def test_health(home: Path) -> None:
    """/health has three fields, with an uptime by the clock and a time in UTC with Z."""
    world = Clock(NOON)
    with receiving(now=world.now) as receiver:
        world.at += timedelta(seconds=75)
        answer = receiver.ask("GET", "/health")
        assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
        assert json.loads(answer.body) == {"status": "ok", "uptime": 75.0, "timestamp": "2026-03-10T16:01:15.000Z"}


def test_api_metrics_equals_the_status(home: Path) -> None:
    """/api/metrics equals the output of ``ops status -o json`` for the same moment, field by field."""
    world = Clock(NOON - timedelta(seconds=600))
    one, two = snapshots.PageOf(1000, page_id="lead"), snapshots.PageOf(2000)
    with receiving(now=world.now) as receiver:
        while world.at <= NOON:
            seconds = (world.at - snapshots.OPENS).total_seconds()
            for page, errors in ((one, 0), (two, 1)):
                page.add(massive_requests=7, tradier_requests=1, validations=3, gamma_zero=1, errors=errors)
                assert receiver.post(page.body(seconds)).status == 204
            world.at += timedelta(seconds=5)
        world.at = NOON
        answer = receiver.ask("GET", "/api/metrics")
        assert answer.status == 200
        found = json.loads(answer.body)
    printed = ops(home, "status", "--as-of", "2026-03-10T16:00:00Z", "-o", "json")
    assert printed.stderr == b""
    assert found == json.loads(printed.stdout)
    assert found["panels"]["providers"]["subjects"]["massive"]["requests"] == 240 * 7


def test_other_paths_and_methods_are_rejected(home: Path) -> None:
    """Paths and methods that are not in the contract get 404 or 405, and nothing redirects."""
    with receiving() as receiver:
        assert {
            receiver.ask("GET", path).status
            for path in (
                "/api",
                "/metrics/x",
                "/../etc/passwd",
                "/docs",
                "//evil.example/health",
                "/health/",
                "/api/metrics/export/",
            )
        } == {404}
        assert {receiver.ask(method, POST).status for method in ("GET", "PUT", "DELETE", "PATCH", "TRACE")} == {405}
        assert {
            receiver.ask(method, path).status
            for method in ("POST", "DELETE")
            for path in ("/health", "/metrics", "/api/metrics")
        } == {405}


def test_listening_on_other_addresses_needs_both_keys(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Listening on an address that others can reach is refused before it begins, naming every missing key."""
    for host in ("0.0.0.0", "::", "192.0.2.7", "desk.example", ""):
        assert main.main(["serve", "--host", host]) == 70
        said = capsys.readouterr().err
        assert "OPS_INGEST_KEY" in said
        assert "OPS_READ_KEY" in said
        assert "listening on" not in said
    monkeypatch.setenv("OPS_READ_KEY", "read-key-1234")
    assert main.main(["serve", "--host", "0.0.0.0"]) == 70
    said = capsys.readouterr().err
    assert "OPS_INGEST_KEY not set" in said
    assert "read-key-1234" not in said


def test_loopback_needs_no_key(home: Path) -> None:
    """Loopback in any spelling needs no key; with both keys any address is allowed."""
    for host in ("127.0.0.1", "127.1.2.3", "::1", "localhost"):
        server._checked_host(settings.load(), host)
    with pytest.raises(SettingsError):
        server._checked_host(settings.load(), "0.0.0.0")
    server._checked_host(settings.load(environ={"OPS_INGEST_KEY": "a", "OPS_READ_KEY": "b"}), "0.0.0.0")


def test_with_both_keys_it_listens_on_all_addresses(home: Path) -> None:
    """With both keys set ``ops serve --host 0.0.0.0`` accepts requests that have the key."""
    with running(home, "--host", "0.0.0.0", OPS_INGEST_KEY="ingest-key-1234", OPS_READ_KEY="read-key-1234") as found:
        assert asked(found.url, "POST", POST, raw(a_body()), AS_JSON).status == 401
        assert asked(found.url, "POST", f"{POST}?key=ingest-key-1234", raw(a_body()), AS_JSON).status == 204
        assert asked(found.url, "GET", "/metrics?key=read-key-1234").status == 200


def test_a_port_in_use_is_reported(home: Path) -> None:
    """A second server on the same port exits with 70 and a message, and does not say that it listens."""
    with running(home) as found:
        second = ops(home, "serve", "--port", found.url.rpartition(":")[2])
        assert second.returncode == 70
        assert b"use another --port" in second.stderr
        assert b"listening on" not in second.stderr


def test_no_response_and_no_log_contains_a_secret(home: Path) -> None:
    """No response (including headers) to any request with any key, and no line on stderr, contains a secret."""
    secrets = {
        "OPS_INGEST_KEY": "ingest-key-1234",
        "OPS_READ_KEY": "ingest-key-1234-read",
        "OPS_MASSIVE_TOKEN": "massive-token-1234",
        "OPS_TRADIER_TOKEN": "tradier-token-1234",
    }
    said = []
    with running(home, OPS_CORS_ORIGINS=ORIGIN, **secrets) as found:
        for key in secrets.values():
            for path in ("/health", "/metrics", "/api/metrics", POST, f"{POST}/", "/metrics/", "/health/", "/nothing"):
                for method in ("GET", "POST", "OPTIONS", "HEAD"):
                    for headers in ({}, {"Authorization": f"Bearer {key}"}, {"Origin": ORIGIN}):
                        answer = asked(
                            found.url,
                            method,
                            f"{path}?key={key}",
                            b"{}" if method == "POST" else None,
                            AS_JSON | headers,
                        )
                        said.append(f"{method} {path}: {answer.status} {answer.headers} {answer.body!r}")
        spoken(found.url, f"GET /?key={secrets['OPS_READ_KEY']} HTTP/9\r\nA\r\n\r\n".encode())
        with sqlite3.connect(home / "store.sqlite") as other:
            other.execute("DROP TABLE rejects")
        other.close()
        asked(found.url, "POST", f"{POST}?key={secrets['OPS_INGEST_KEY']}", b"{}", AS_JSON)
        said.append(found.stderr())
    assert [line for line in said for secret in secrets.values() if secret in line] == []
    assert "could not be written to the database" in said[-1]


def test_a_secret_inside_another_is_redacted(home: Path) -> None:
    """If one secret begins with another, both are redacted completely."""
    found = settings.load(environ={"OPS_INGEST_KEY": "abc-123", "OPS_READ_KEY": "abc-123-and-more"})
    assert found.redact("x abc-123-and-more y abc-123") == "x [OPS_READ_KEY] y [OPS_INGEST_KEY]"


HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&`${1}"


def test_markup_from_a_page_is_escaped(home: Path) -> None:
    """Markup in a page's error message, ID or error type is shown as text in every panel."""
    with receiving() as receiver:
        sent = a_body(
            last_error_message=HOSTILE,
            last_error_at_ms=clock.micros(clock.now()) // 1000,
            page_id=HOSTILE[:100],
            errors_by_type={HOSTILE: 2},
        )
        assert receiver.post(sent).status == 204
        view = Desk(receiver.settings).status()
        shown = [panel._repr_mimebundle_()["text/html"] for panel in view.panels]
        quoted = view.panel("system")._repr_mimebundle_()["text/html"].replace("<code>", "").replace("</code>", "")
        assert "&lt;script&gt;alert(1)&lt;/script&gt;" in quoted
        ours = "section|p|strong|span|code|div|details|summary|ul|li|table|thead|tbody|tr|th|td"
        assert not re.search(f"<(?!/?({ours})[ >])", "".join(shown))
        assert "onerror" not in "".join(re.findall("<[^>]*>", "".join(shown)))


POISONS = {
    "a count of null": {"errors_by_type": {"API_ERROR": None}},
    "a lone surrogate as a type": {"errors_by_type": {"\ud800": 3}},
    "NUL as a type": {"errors_by_type": {"\0": 1}},
    "a very long uptime": {"uptime_s": 2**53},
    "the largest count": {
        "errors": 2**53,
        "massive_requests": 2**53,
        "massive_successes": 2**53,
        "trades": 2**53,
        "gross_mean_pct": 2**53,
    },
    "a lone surrogate in a message": {"last_error_message": "\udfff"},
    "a formula as a name": {"page_id": "$\\frac{$"},
    "the last instant": {"page_clock_ms": 4_102_444_800_000},
    "the first instant": {"page_clock_ms": 946_684_800_000},
    "a message turned round": {"last_error_message": "\u202e\u2028\x1b[2J"},
}


@pytest.mark.parametrize("changed", POISONS.values(), ids=POISONS)
def test_no_post_makes_the_figures_unreadable(
    home: Path, changed: dict[str, Any], capfd: pytest.CaptureFixture[str]
) -> None:
    """Whatever a page posts, accepted or not, figures, panels, samples and export can still be read."""
    world = Clock(clock.now() - timedelta(seconds=20))
    with receiving(now=world.now) as receiver:
        for n in range(3):
            world.at += timedelta(seconds=5)
            assert receiver.post(a_body(n, **changed)).status in (204, 400)
        assert receiver.post(a_body(9)).status == 204
        assert {path: receiver.ask("GET", path).status for path in ("/metrics", "/api/metrics")} == {
            "/metrics": 200,
            "/api/metrics": 200,
        }
        desk = Desk(receiver.settings, world.now)
        assert [panel._repr_mimebundle_() for panel in desk.status().panels]
        assert len(desk.samples()) == len(receiver.bodies())
    assert "Traceback" not in capfd.readouterr().err
    assert ops(home, "status", "-o", "json").stderr == b""
    exported(home)


# Thousands of invalid requests.


def spoken(url: str, sent: bytes, quiet: float = 0.3) -> bytes:
    """Return the response to raw bytes, until the other side closes or is silent."""
    host, _, port = url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=quiet) as connection:
        return _heard([(connection, sent)], quiet)[0]


def _heard(talks: list[tuple[socket.socket, bytes]], quiet: float) -> list[bytes]:
    """Send everything on every socket; return what is received until all are closed or silent."""
    heard, left = {c: b"" for c, _ in talks}, dict(talks)
    with selectors.DefaultSelector() as selector:
        for connection, _ in talks:
            connection.setblocking(False)
            selector.register(connection, selectors.EVENT_READ | selectors.EVENT_WRITE)
        while selector.get_map() and (ready := selector.select(quiet)):
            for key, events in ready:
                connection: Any = key.fileobj
                try:
                    if events & selectors.EVENT_WRITE:
                        left[connection] = left[connection][connection.send(left[connection]) :]
                        if not left[connection]:
                            selector.modify(connection, selectors.EVENT_READ)
                    elif events & selectors.EVENT_READ:
                        more = connection.recv(65_536)
                        heard[connection] += more
                        if not more:
                            selector.unregister(connection)
                except BlockingIOError:
                    pass
                except OSError:
                    selector.unregister(connection)
    return [heard[c] for c, _ in talks]


class Lines:
    """Keep-alive connections to one receiver, on which requests are sent without waiting for responses."""

    def __init__(self, url: str, count: int):
        host, _, port = url.removeprefix("http://").partition(":")
        self._open = [socket.create_connection((host, int(port)), timeout=30) for _ in range(count)]
        self._files = [c.makefile("rb") for c in self._open]

    def post(self, sent: list[bytes]) -> list[int]:
        """Post all bodies, spread over the connections; return the statuses in order."""
        parts = [sent[i :: len(self._open)] for i in range(len(self._open))]
        for connection, part in zip(self._open, parts):
            connection.sendall(
                b"".join(
                    b"POST %s HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r"
                    b"\nContent-Length: %d\r\n\r\n%s" % (POST.encode(), len(b), b)
                    for b in part
                )
            )
        found = [0] * len(sent)
        for i, (file, part) in enumerate(zip(self._files, parts)):
            found[i :: len(self._open)] = [self._status(file) for _ in part]
        return found

    @staticmethod
    def _status(file: Any) -> int:
        status, length = int(file.readline().split()[1]), 0
        while (line := file.readline()) not in (b"\r\n", b""):
            name, _, value = line.partition(b":")
            length = int(value) if name.lower() == b"content-length" else length
        file.read(length)
        return status

    def close(self) -> None:
        """Close all connections."""
        for one in (*self._files, *self._open):
            one.close()


LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(min_value=2**53 - 2, max_value=2**53 + 2),
    st.integers(min_value=-(2**70), max_value=2**70),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=20),
    st.text(st.characters(categories=["Cs", "Cc", "Cf", "Zl", "Co"]), max_size=6),
    st.sampled_from(["", "<script>", "__proto__", "NaN", "1", "true"]),
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.text(max_size=5) | st.text(st.characters(categories=["Cs"]), max_size=2), inner, max_size=4
        )
    ),
    max_leaves=8,
)
NASTY = (
    "NaN",
    "Infinity",
    "-Infinity",
    "1e999",
    "-1e999",
    "1e308",
    "5e-324",
    "-0",
    "-0.0",
    "0.1",
    "1E2",
    "9" * 309,
    "9" * 4299,
    "9" * 4301,
    "-" + "9" * 5000,
    "-1",
    "true",
    "false",
    '"\\ud800"',
    '"\\udc00\\ud800"',
    '"\\u0000"',
    '"\\ufeff"',
    '"\\ud83d\\ude00"',
    '{"\\ud800":1}',
    '{"\\u0000":2}',
    '{"A":null}',
    '{"A":1,"A":2}',
    '{"A":1.0}',
    '{"A":true}',
    '{"":1}',
    "[" * 400 + "]" * 400,
    '{"a":' * 900 + "1" + "}" * 900,
    "[" * 5000,
    '"' + "x" * 60_000 + '"',
    "{}",
    "[]",
    "[[],{}]",
    "{",
    '"',
    "'a'",
    "01",
    "+1",
    ".5",
    "1.",
    "0x10",
    "1_000",
    "undefined",
    "\u2028",
    "//",
    "1/**/",
    "",
    " ",
    "\x00",
    "9007199254740993",
    "1773158400000",
    "4102444800001",
)
TOKENS = st.sampled_from(NASTY) | VALUES.map(json.dumps)
HERE = "here it stands"


def _templates() -> list[str]:
    """Return valid bodies with one place left open: each field, each object with fields, and unknown places."""
    names = [f.name for f in snapshot_columns.FIELDS] + ["errors_by_type"]
    made = [
        json.dumps({**snapshots.body(**{name: HERE}), **({} if name == "page_clock_ms" else {"lastUpdateAt": "time"})})
        for name in names
    ]
    whole = snapshots.body() | {"lastUpdateAt": "time"}
    made += [
        json.dumps(whole | {top: HERE})
        for top in ("providers", "greeksQuality", "pnl", "systemHealth", "client", "unknown")
    ]
    made += [
        json.dumps(whole | {"providers": {"massive": HERE}}),
        json.dumps(whole | {"pnl": {"unknown": HERE}}),
        json.dumps(snapshots.body(errors_by_type={"A": HERE}) | {"lastUpdateAt": "time"}),
    ]
    return [*made, json.dumps(whole)[:-1] + ', "pnl": ' + json.dumps(HERE) + "}", json.dumps(HERE)]


TEMPLATES = _templates()
WRITTEN: tuple[Callable[[str], bytes], ...] = (
    lambda t: b"\xef\xbb\xbf" + t.encode("utf-8", "surrogatepass"),
    lambda t: t.encode("utf-16", "surrogatepass"),
    lambda t: t.encode("latin-1", "replace"),
    lambda t: t.encode("utf-8", "surrogatepass")[:-1],
    lambda t: t.encode("utf-8", "surrogatepass") + b"\x00",
    lambda t: b"\n\t" + t.encode("utf-8", "surrogatepass") + b"\r\n",
    lambda t: t.encode("utf-8", "surrogatepass").replace(b"e", b"\xff", 1),
)


@pytest.mark.slow
def test_ten_thousand_random_bodies(home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """
    Any value at any place of a body is accepted or rejected, never a 5xx.

    Exactly the accepted bodies are stored, and figures stay readable.
    """
    world, acknowledged, counted = Clock(NOON), [], [0]
    with receiving(now=world.now) as receiver:
        lines = Lines(receiver.url, 8)

        @hypothesis_settings(
            max_examples=170, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
        )
        @given(token=TOKENS)
        def every_place(token: str) -> None:
            world.at += timedelta(hours=2)
            texts = []
            for n, template in enumerate(TEMPLATES):
                counted[0] += 1
                texts.append(
                    template.replace('"time"', str(1_700_000_000_000 + counted[0]))
                    .replace(f'"{HERE}"', token)
                    .replace(": 600", f": {n}")
                )
            sent = [t.encode("utf-8", "surrogatepass") for t in texts] + [write(texts[-2]) for write in WRITTEN]
            found = lines.post(sent)
            assert set(found) <= {204, 400, 413}
            acknowledged.extend(b for b, status in zip(sent, found) if status == 204)
            counted[0] += len(WRITTEN) + 2
            for path in ("/metrics", "/api/metrics"):
                answer = receiver.ask("GET", path)
                assert (path, answer.status) == (path, 200)

        try:
            every_place()
        finally:
            lines.close()
        assert counted[0] >= 8_500
        assert len(acknowledged) > 500
        held = receiver.bodies()
    assert len(held) == len({canonical(b) for b in held})
    assert {canonical(b) for b in held} == {canonical(b) for b in acknowledged}
    assert set(held) <= set(acknowledged)
    assert "Traceback" not in capfd.readouterr().err


BAD_HEADERS = (
    b"Content-Length: 5",
    b"Content-Length: -1",
    b"Content-Length: 1e3",
    b"Content-Length: \xb2",
    b"Content-Length: 0x10",
    b"Content-Length: 99999999999999999999999",
    b"Content-Length:",
    b"Transfer-Encoding: chunked",
    b"Transfer-Encoding: gzip, chunked",
    b"Transfer-Encoding: identity",
    b"Expect: 100-continue",
    b"Expect: 200-maybe",
    b"Connection: Upgrade",
    b"Upgrade: websocket",
    b"Upgrade: h2c",
    b"HTTP2-Settings: AAMAAABkAAQAAP__",
    b"Origin: null",
    b"Origin: \xff",
    b"Origin: https://app.example",
    b"Authorization: Bearer \xff\xfe",
    b"Authorization:",
    b"Authorization: Bearer",
    b"Content-Type: text/plain",
    b"Content-Type: application/json",
    b"Content-Type: \x00",
    b"Content-Type: ;;;",
    b"Content-Encoding: gzip",
    b"Host: [::",
    b"Host:",
    b"Host: a@b:99999",
    b"Host: evil.example",
    b": nameless",
    b"No colon",
    b" folded: 1",
    b"X-Long: " + b"a" * 9000,
    b"X: \r\n folded",
    b"Cookie: " + b"a=b; " * 50,
    b"Range: bytes=0-",
    b"X-Forwarded-For: 1.1.1.1, <script>",
    b"Sec-WebSocket-Key: x",
    b"Trailer: a",
    b"\xff\xfe: x",
    b"X: a\x00b",
    b"X: a\rb",
)
METHODS = st.sampled_from(
    [b"POST"] * 6
    + [
        b"GET",
        b"OPTIONS",
        b"PUT",
        b"HEAD",
        b"DELETE",
        b"TRACE",
        b"CONNECT",
        b"PATCH",
        b"PROPFIND",
        b"post",
        b"BREW",
        b"PRI",
        b"",
        b"P\x00ST",
        b"G" * 300,
    ]
)
TARGETS = st.sampled_from(
    [POST.encode()] * 8
    + [
        b"/metrics",
        b"/api/metrics",
        b"/health",
        b"/health/",
        b"/",
        b"*",
        b"",
        b"//",
        b"http://[::/health",
        b"http://evil/health/",
        b"/%",
        b"/%00",
        b"/%ff%fe",
        b"/..%2f..",
        b"/\xff",
        b"/api/metrics/export?key=%ff&key=\xfe&" + b"&" * 999,
        b"/?" + b"a" * 5000,
        b"/health#x",
        b"/api/metrics?window=-1",
        b"a b",
    ]
) | st.binary(max_size=30)
FRAMES = st.sampled_from(["length", "length", "chunked", "chunked", "short", "long", "none", "bad chunk", "garbage"])
VERSIONS = st.sampled_from([b" HTTP/1.1", b" HTTP/1.1", b" HTTP/1.1", b" HTTP/1.0", b" HTTP/2.0", b" HTTP/9", b""])
STRANGE = st.one_of(
    st.tuples(
        METHODS,
        TARGETS,
        st.lists(st.sampled_from(BAD_HEADERS), max_size=3),
        FRAMES,
        VERSIONS,
        st.booleans(),
        st.binary(max_size=40),
    ),
    st.tuples(
        st.just(b"POST"),
        st.just(POST.encode()),
        st.just([]),
        FRAMES,
        st.just(b" HTTP/1.1"),
        st.just(True),
        st.binary(max_size=40),
    ),
)


def _written(
    method: bytes,
    target: bytes,
    headers: list[bytes],
    frame: str,
    version: bytes,
    good: bool,
    noise: bytes,
    body: bytes,
) -> bytes:
    """Return one random request, as bytes."""
    if frame == "garbage":
        return noise + b"\r\n\r\n" + body
    head = [
        method + b" " + target + version,
        b"Host: 127.0.0.1",
        *([b"Content-Type: application/json"] if good else headers),
    ]
    sent = body if good else noise
    match frame:
        case "length" | "short" | "long":
            head.append(b"Content-Length: %d" % (len(sent) + {"length": 0, "short": -3, "long": 7}[frame]))
        case "chunked":
            head.append(b"Transfer-Encoding: chunked")
            size = len(noise) + 1
            sent = (
                b"".join(b"%x;x=y\r\n%s\r\n" % (len(p), p) for p in in_chunks(sent, size))
                + b"0\r\nTrailing: yes\r\n\r\n"
            )
        case "bad chunk":
            head.append(b"Transfer-Encoding: chunked")
            sent = b"%s\r\n%s\r\n" % (noise[:9] or b"zz", sent)
    return b"\r\n".join([*head, b"Connection: close", b"", sent])


@pytest.mark.slow
def test_two_thousand_random_requests(home: Path) -> None:
    """
    Whatever bytes are sent, no response is a 5xx, no traceback is printed, and the server keeps running.

    Every acknowledged body is stored, once.
    """
    counted, acknowledged, maybe = [0], set(), set()
    with running(home, OPS_CORS_ORIGINS="https://app.example") as found:
        port = int(found.url.rpartition(":")[2])

        @hypothesis_settings(
            max_examples=110, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
        )
        @given(strange=st.lists(STRANGE, min_size=20, max_size=20))
        def at_once(strange: list[tuple]) -> None:
            talks, sent = [], []
            for one in strange:
                counted[0] += 1
                sent.append(raw(a_body(counted[0])))
                talks.append((socket.create_connection(("127.0.0.1", port), timeout=10), _written(*one, sent[-1])))
            try:
                heard = _heard(talks, 0.05)
            finally:
                for connection, _ in talks:
                    connection.close()
            statuses = [[int(s) for s in re.findall(rb"HTTP/1\.1 (\d{3}) ", h)] for h in heard]
            assert [(said[1][:300], s) for said, s in zip(talks, statuses) if any(status >= 500 for status in s)] == []
            for body, (method, target, _, frame, _, good, _), got in zip(sent, strange, statuses):
                maybe.add(canonical(body))
                if (
                    method == b"POST"
                    and target == POST.encode()
                    and good
                    and frame in ("length", "chunked")
                    and 204 in got
                ):
                    acknowledged.add(canonical(body))

        at_once()
        assert answers(found.url)
        said = found.stderr()
    assert counted[0] >= 2_000
    assert len(acknowledged) > 100
    held = [json.dumps(line["metrics"], sort_keys=True) for line in exported(home)]
    assert acknowledged <= set(held) <= maybe
    assert len(held) == len(set(held))
    assert "Traceback" not in said


def test_endless_headers_are_rejected(home: Path) -> None:
    """A request with endless headers is rejected before it fills the memory."""
    with running(home) as found:
        before = psutil.Process(found.process.pid).memory_info().rss
        with socket.create_connection(("127.0.0.1", int(found.url.rpartition(":")[2])), timeout=10) as connection:
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n")
            with suppress(OSError):
                for n in range(60):
                    connection.sendall(b"X-%d: " % n + b"a" * 1_000_000 + b"\r\n")
            grown = psutil.Process(found.process.pid).memory_info().rss - before
        assert answers(found.url)
        assert grown < 20_000_000


def test_a_disconnect_within_the_body_leaves_nothing(home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A page that disconnects within its body leaves no row, no rejected body and no traceback."""
    with receiving() as receiver:
        sent = raw(a_body())
        for cut in (0, 1, len(sent) // 2, len(sent) - 1):
            with socket.create_connection(("127.0.0.1", int(receiver.url.rpartition(":")[2]))) as connection:
                connection.sendall(
                    b"POST %s HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r"
                    b"\nContent-Length: %d\r\n\r\n%s" % (POST.encode(), len(sent), sent[:cut])
                )
        assert receiver.post(a_body(1)).status == 204
        assert len(receiver.bodies()) == 1
        assert SnapshotStore(receiver.store).rejects("desk") == []
    assert "Traceback" not in capfd.readouterr().err


def test_a_cancelled_post_does_not_stop_the_writer(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request cancelled while its post waits to be written, as at shutdown, gets 503, and the next one is stored."""
    held, entered, write = threading.Event(), threading.Event(), SnapshotStore.write

    def slowly(*a: Any, **k: Any) -> int:
        entered.set()
        assert held.wait(30)
        return write(*a, **k)

    monkeypatch.setattr(SnapshotStore, "write", slowly)
    found = settings.load()
    store = Database(found.url)
    app = server.build(found, store, rules.load(found.base))

    async def post(number: int) -> list[dict]:
        said: list[dict] = []

        async def receive() -> dict:
            return {"type": "http.request", "body": raw(a_body(number)), "more_body": False}

        async def send(message: dict) -> None:
            said.append(message)

        scope = {
            "type": "http",
            "method": "POST",
            "path": POST,
            "raw_path": POST.encode(),
            "query_string": b"",
            "root_path": "",
            "scheme": "http",
            "http_version": "1.1",
            "headers": [(b"host", b"127.0.0.1"), (b"content-type", b"application/json")],
            "server": ("a", 80),
            "client": ("b", 1),
        }
        await app(scope, receive, send)
        return said

    async def scene() -> list[dict]:
        first = asyncio.create_task(post(1))
        await asyncio.to_thread(entered.wait, 30)
        first.cancel()
        assert (await first)[0]["status"] == 503
        held.set()
        return await asyncio.wait_for(post(2), 10)

    assert asyncio.run(scene())[0]["status"] == 204
    app.state.writer.close()
    assert len(bodies(store)) in (1, 2)
    store.close()


# Processes: killed, traced, and several at once.


class Poster:
    """Pages that post on keep-alive connections until the server has stopped, and keep what was acknowledged."""

    def __init__(self, url: str, name: str, count: int = 10**9):
        self.url, self.name, self.count = url, name, count
        self.posted: list[dict] = []
        self.acknowledged: list[dict] = []
        self.refused: list[int] = []
        self.thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        connection = http.client.HTTPConnection(self.url.removeprefix("http://"), timeout=40)
        with suppress(OSError, http.client.HTTPException):
            for number in range(self.count):
                sent = a_body(number, page_id=self.name, errors=number)
                self.posted.append(sent)
                connection.request("POST", POST, raw(sent), AS_JSON)
                answer = connection.getresponse()
                answer.read()
                if answer.status == 204:
                    self.acknowledged.append(sent)
                else:
                    self.refused.append(answer.status)
        connection.close()


def said_by(posts: Iterable[dict]) -> list[str]:
    """Return bodies in a comparable form, sorted."""
    return sorted(json.dumps(p, sort_keys=True) for p in posts)


def test_a_killed_server_has_stored_what_it_acknowledged(home: Path) -> None:
    """
    After SIGKILL under load, four times on one home, every acknowledged post is in the export, and none is there twice.
    """
    posted, acknowledged = [], []
    for life, upto in enumerate((5, 60, 150, 90)):
        with running(home) as found:
            posters = [Poster(found.url, f"{life}-{n}") for n in range(6)]
            for poster in posters:
                poster.thread.start()
            awaited(lambda: sum(len(p.acknowledged) for p in posters) >= upto, "the posts")  # noqa: B023
            found.process.send_signal(signal.SIGKILL)
            found.process.wait(30)
            for poster in posters:
                poster.thread.join(60)
                assert poster.refused == []
        posted += [b for p in posters for b in p.posted]
        acknowledged += [b for p in posters for b in p.acknowledged]
        held = said_by(line["metrics"] for line in exported(home))
        assert len(held) == len(set(held))
        assert set(said_by(acknowledged)) <= set(held) <= set(said_by(posted))
    assert len(acknowledged) >= 300
    assert len(posted) > len(acknowledged)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_a_stop_signal_finishes_running_requests(home: Path, how: signal.Signals) -> None:
    """
    Stopped under load, it finishes running requests, exits without a traceback, and has stored all acknowledged posts.
    """
    with running(home) as found:
        posters = [Poster(found.url, str(n)) for n in range(4)]
        for poster in posters:
            poster.thread.start()
        awaited(lambda: sum(len(p.acknowledged) for p in posters) >= 40, "the posts")
        found.process.send_signal(how)
        assert found.process.wait(30) in (0, -how)
        for poster in posters:
            poster.thread.join(60)
            assert not any(status == 500 for status in poster.refused)
        assert "Traceback" not in found.stderr()
    held = said_by(line["metrics"] for line in exported(home))
    assert set(said_by(b for p in posters for b in p.acknowledged)) <= set(held)


SOCKET = re.compile(r"^(\w+)\((\d+)<TCP(?:v6)?:\[(.*?)\]>")
SYNC = re.compile(r"^f(?:data)?sync\(\d+<([^>]*)>")


def calls(trace: str) -> Iterator[tuple[int, int, str, str]]:
    """Yield each system call of a ``strace -f`` trace: first and last line, the complete text, and the return value."""
    begun: dict[str, tuple[int, str]] = {}
    for number, line in enumerate(trace.splitlines()):
        parted = re.match(r"(?:\[pid +)?(\d+)\]? +(?:[\d:.]+ +)?(.*)", line)
        if not parted:
            continue
        process, words = parted.groups()
        if words.endswith("<unfinished ...>"):
            begun[process] = number, words.removesuffix("<unfinished ...>").rstrip()
            continue
        first = number
        if resumed := re.match(r"<\.\.\. \w+ resumed>(.*)", words):
            if process not in begun:
                continue
            first, head = begun.pop(process)
            words = head + resumed[1]
        yield first, number, words, words.rpartition(" = ")[2]


def unsynced(trace: str) -> tuple[int, list[str]]:
    """
    Return the number of 204 responses in a trace, and those written without a completed sync of the database before.

    The sync must begin after the request was read.
    """
    events = defaultdict(list)
    synced = []
    for first, last, words, returned in calls(trace):
        if (found := SYNC.match(words)) and "store.sqlite" in found[1] and returned.strip() == "0":
            synced.append((first, last))
        elif found := SOCKET.match(words):
            name, _, peers = found.groups()
            if name in ("read", "recvfrom", "recvmsg", "recv") and not returned.startswith(("-1", "0", "?")):
                events[peers].append((last, "read", words))
            elif name in ("write", "writev", "sendto", "sendmsg", "send") and "HTTP/1.1 204" in words:
                events[peers].append((first, "answer", words))
    count, wrong = 0, []
    for lines in events.values():
        read = None
        for at, what, words in sorted(lines):
            if what == "read":
                read = at
            else:
                count += 1
                if read is None or not any(read < begin and end < at for begin, end in synced):
                    wrong.append(words)
    return count, wrong


def test_no_204_before_the_sync_to_disk(home: Path, tmp_path: Path) -> None:
    """
    Every 204 is written only after an fsync of the database that began after its request was read.

    The test fails with ``synchronous=OFF`` or NORMAL, and with a receiver that responds before the writer has written.
    As a check, the trace without its syncs is evaluated, too.
    """
    strace, trace = needs("strace"), tmp_path / "trace"
    traced = [
        strace,
        "-f",
        "-tt",
        "-yy",
        "-s",
        "64",
        "-e",
        "trace=fsync,fdatasync,write,writev,sendto,sendmsg,read,recvfrom,recvmsg",
        "-o",
        str(trace),
    ]
    with running(home, prefix=traced) as found:
        posters = [Poster(found.url, str(n), 10) for n in range(6)]
        for poster in posters:
            poster.thread.start()
        for poster in posters:
            poster.thread.join(60)
            assert len(poster.acknowledged) == 10
        (child,) = psutil.Process(found.process.pid).children()
        child.terminate()
        found.process.wait(30)
    text = trace.read_text(encoding="utf-8", errors="replace")
    assert unsynced(text) == (60, [])
    without = "\n".join(line for line in text.splitlines() if "sync" not in line)
    assert len(unsynced(without)[1]) == 60


def test_two_receivers_and_readers_share_a_home(home: Path) -> None:
    """Two servers on one home accept posts while the status is read; no post is rejected, and every row is stored."""
    with running(home) as one, running(home) as other:
        posters = [Poster(url, f"{n}-{url[-5:]}", 60) for url in (one.url, other.url) for n in range(3)]
        same = [Poster(url, "the same", 0) for url in (one.url, other.url)]
        for poster in posters:
            poster.thread.start()
        reads = []
        while any(p.thread.is_alive() for p in posters) or len(reads) < 3:
            reads.append(ops(home, "status", "-o", "json"))
        for poster in posters:
            poster.thread.join(60)
            assert (len(poster.acknowledged), poster.refused) == (60, [])
        twice = raw(a_body(999_999))
        assert [asked(p.url, "POST", POST, twice, AS_JSON).status for p in same] == [204, 204]
        assert {r.returncode for r in reads} <= {0, 1, 2, 3}
        assert {r.stderr for r in reads} == {b""}
        totals = {
            next(
                line
                for line in asked(url, "GET", "/metrics").body.splitlines()
                if line.startswith(b"trading_system_errors_total ")
            )
            for url in (one.url, other.url)
        }
        assert len(totals) == 1  # The gauges may differ, because they are read at two moments.
        assert "Traceback" not in one.stderr() + other.stderr()
    held = said_by(line["metrics"] for line in exported(home))
    assert held == sorted(
        [*said_by(b for p in posters for b in p.acknowledged), json.dumps(json.loads(twice), sort_keys=True)]
    )


def test_simultaneous_first_commands(home: Path) -> None:
    """Eight commands that find no database create it together, and none fails."""
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: ops(home, "status", "-o", "json"), range(8)))
    assert {(f.returncode, f.stderr) for f in found} == {(3, b"")}


def test_an_export_is_always_utf8(home: Path) -> None:
    """An export is UTF-8, also if the terminal's encoding is ASCII."""
    with receiving() as receiver:
        assert (
            receiver.post(
                json.dumps(a_body(last_error_message="é\u2028\U0001f600"), ensure_ascii=False).encode()
            ).status
            == 204
        )
    expected = ops(home, "export", "snapshots").stdout
    assert ops(home, "export", "snapshots", PYTHONIOENCODING="ascii").stdout == expected != b""
