"""
Test the receiver's connections: half-sent heads, slow bodies, idle clients and clients that never read.

Complete posts are accepted meanwhile.
"""

import http.client
import json
import resource
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from pathlib import Path

import psutil
import pytest

from opslib.foundation import clock
from opslib.services import connections
from opslib.telemetry.pages.store import SnapshotStore
from tests.services.test_server import AS_JSON, POST, Receiver, a_body, asked, awaited, raw, receiving, running

HEAD = (
    b"POST %s HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: 4000\r\n" % POST.encode()
)


@pytest.fixture
def many_files() -> Iterator[int]:
    """Yield how many connections a test may open: as many as the machine allows, up to 3,000."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = min(hard, 4096) if hard != resource.RLIM_INFINITY else 4096
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, most), hard))
    yield min(3000, max(soft, most) - 400)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def opened(url: str, sent: bytes) -> socket.socket:
    host, _, port = url.removeprefix("http://").partition(":")
    made = socket.create_connection((host, int(port)), timeout=60)
    with suppress(OSError):  # It may be closed already, to limit the number of connections.
        made.sendall(sent)
    return made


def closed(connection: socket.socket) -> bool:
    """Return whether the other side closes within a minute."""
    connection.settimeout(60)
    with suppress(ConnectionError):
        while connection.recv(65_536):
            pass
    return True


@pytest.mark.parametrize(
    "sent",
    [HEAD, b"", HEAD + b"\r\n{", b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"],
    ids=["half a head", "nothing", "half a body", "idle after an answer"],
)
@pytest.mark.parametrize("count", [300, 3000])
def test_complete_posts_are_accepted_beside_incomplete_ones(
    home: Path, many_files: int, sent: bytes, count: int
) -> None:
    """
    While thousands of connections do not finish their requests, each complete post is accepted, also over keep-alive.

    The number of open files is bounded.
    """
    with running(home) as found, ExitStack() as open_ones:
        kept_alive = http.client.HTTPConnection(found.url.removeprefix("http://"), timeout=60)
        open_ones.callback(kept_alive.close)
        posted, slowest = 0, 0.0
        for n in range(min(count, many_files)):
            open_ones.enter_context(opened(found.url, sent))
            if n % 100 == 99:
                began = time.monotonic()
                assert asked(found.url, "POST", POST, raw(a_body(posted)), AS_JSON).status == 204
                kept_alive.request("POST", POST, raw(a_body(posted + 1)), AS_JSON)
                answer = kept_alive.getresponse()
                answer.read()
                assert answer.status == 204
                posted, slowest = posted + 2, max(slowest, time.monotonic() - began)
        assert slowest < 15  # A second or less on an idle machine.
        process = psutil.Process(found.process.pid)
        awaited(lambda: process.num_fds() < connections.MOST_CONNECTIONS + 60, "a bounded number of open files")
        assert asked(found.url, "GET", "/health").status == 200


@contextmanager
def hurried(
    monkeypatch: pytest.MonkeyPatch,
    head: float = 600,
    body: float = 600,
    idle: float = 600,
    answer: float = 600,
    **more: object,
) -> Iterator[Receiver]:
    """Run a receiver with other time limits."""
    monkeypatch.setattr(connections, "SECONDS", (head, body, idle, answer))
    with receiving(**more) as found:
        yield found


@pytest.mark.parametrize(
    ("limit", "sent"),
    [
        ("head", b""),
        ("head", b"P"),
        ("head", HEAD),
        ("body", HEAD + b"\r\n"),
        ("body", HEAD + b"\r\n{"),
        ("idle", b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"),
        ("head", b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\nGET"),
    ],
)
def test_each_phase_has_a_time_limit(home: Path, monkeypatch: pytest.MonkeyPatch, limit: str, sent: bytes) -> None:
    """A connection too long in its head, its body or between requests is closed, and nothing of it is kept."""
    with hurried(monkeypatch, **{limit: 0.5}) as found, opened(found.url, sent) as connection:
        assert closed(connection)
        assert found.bodies() == [] and SnapshotStore(found.store).rejects("desk") == []


@pytest.mark.parametrize("sent", [b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\n", HEAD + b"\r\n"], ids=["head", "body"])
def test_a_slow_trickle_does_not_extend_the_limit(home: Path, monkeypatch: pytest.MonkeyPatch, sent: bytes) -> None:
    """The limit of a head or body counts from its beginning, also if it is sent byte by byte."""
    with hurried(monkeypatch, head=1, body=1) as found, opened(found.url, sent) as connection:
        until = time.monotonic() + 60
        with pytest.raises(OSError):
            while time.monotonic() < until:
                connection.sendall(b"x")
                time.sleep(0.05)  # As a slow client does.


def test_a_client_that_never_reads_is_closed(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection whose client sends requests and never reads a response is closed."""
    with hurried(monkeypatch, answer=1, idle=1) as found, opened(found.url, b"") as connection:
        ask = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
        connection.settimeout(1)
        with suppress(TimeoutError, ConnectionError):
            for _ in range(4000):
                connection.sendall(ask)
        awaited(lambda: not found_connections(found.url), "the connection is closed", 60)


def found_connections(url: str) -> list[object]:
    """Return the connections of this process that were accepted at an address."""
    port = int(url.rpartition(":")[2])
    return [
        c
        for c in psutil.Process().net_connections("tcp")
        if c.laddr and c.laddr.port == port and c.status == psutil.CONN_ESTABLISHED
    ]


def test_a_stalled_server_does_not_time_clients_out(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the whole process stalls, e.g. on a busy or suspended machine, what arrived meanwhile is accepted."""
    stall = threading.Event()

    def now() -> datetime:
        if stall.is_set():
            stall.clear()
            time.sleep(5)  # The event loop stalls.
        return clock.now()

    with hurried(monkeypatch, head=2, body=2, now=now) as found:
        body = raw(a_body())
        whole = (
            b"POST %s HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
            % (POST.encode(), len(body), body)
        )
        with (
            opened(found.url, whole[:40]) as in_head,
            opened(found.url, whole[:-5]) as in_body,
            opened(found.url, b"") as asks,
        ):
            stall.set()
            asks.sendall(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
            awaited(lambda: not stall.is_set(), "the stall")
            in_head.sendall(whole[40:])
            in_body.sendall(whole[-5:])
            for connection in (in_head, in_body):
                assert connection.recv(65_536).startswith(b"HTTP/1.1 204")


@pytest.mark.slow
def test_pipelined_posts_wait_for_each_other(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pipelined posts are all accepted, although storing the first takes longer than the limit of a head or body."""

    write = SnapshotStore.write

    def slowly(*a: object, **k: object) -> int:
        time.sleep(3)  # A slow disk.
        return write(*a, **k)

    with hurried(monkeypatch, head=1, body=1, idle=1) as found:
        monkeypatch.setattr(SnapshotStore, "write", slowly)
        sent = b""
        for n in range(3):
            body = json.dumps(a_body(n)).encode()
            sent += (
                b"POST %s HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
                % (POST.encode(), len(body), body)
            )
        with opened(found.url, sent[:-10]) as connection:
            connection.sendall(sent[-10:])
            said = b""
            while said.count(b"HTTP/1.1 204") < 3:
                more = connection.recv(65_536)
                assert more, said
                said += more


def test_default_time_limits() -> None:
    """A client may be idle for at least a minute between requests, and has several seconds for each request."""
    head, body, idle, answer = connections.SECONDS
    assert 5 <= head <= 30 and body >= 30 and 60 <= idle <= 300 and answer >= 60 and connections.MOST_CONNECTIONS >= 256
    assert connections.webserver(lambda *_: None).config.timeout_keep_alive == idle
