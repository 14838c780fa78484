"""Test that no key is shown, logged, stored or written to a notebook, whatever responses contain."""

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from opslib.simulation.world.http_server import Answer, Request, Server, as_html, as_json

MASSIVE, TRADIER, SOCKET, INGEST = (
    "cAnArY/massive+0123456789",
    "cAnArY/tradier+0123456789",
    "cAnArY.socket.0123456789",
    "cAnArY-ingest-0123456789",
)
CANARIES = (MASSIVE, TRADIER, SOCKET, INGEST)
DOORS = (
    ["doctor"],
    ["doctor", "-o", "json"],
    ["status"],
    ["status", "-o", "json"],
    ["alerts"],
    ["rules"],
    ["runs", "-o", "json"],
    ["export", "snapshots"],
    ["run", "provider_health", "-p", "app=desk", "-p", "as_of="],
    ["run", "system_health", "-p", "app=desk", "-p", "as_of="],
    ["import", f"/nowhere/{MASSIVE}"],
    ["status", "--as-of", TRADIER],
)


def echoing(asked: list[int], request: Request) -> Answer:
    """Return every kind of response in turn, each with the key of the request wherever possible."""
    key = request.headers.get("authorization", "").removeprefix("Bearer ") or MASSIVE
    if request.path == "/api/ws-token":
        return as_json({"token": SOCKET, "expiresAt": 1})
    asked.append(1)
    more = {"X-Request-Id": key, "Location": f"https://elsewhere.example/?apiKey={quote(key)}"}
    chain = {
        "status": "OK",
        "request_id": key,
        "results": [
            {
                "details": {"ticker": f"O:{key}", "expiration_date": "2030-01-18"},
                "last_quote": {"bid": 1, "ask": 2, "last_updated": 1},
            }
        ],
        "next_url": f"http://127.0.0.1/x?apiKey={quote(key)}&n={len(asked)}",
    }
    answers = (
        as_json(chain, headers=more),
        as_json({"status": "ERROR", "error": f"Unknown API Key {key}"}, 401, headers=more),
        as_json({"message": f"Bearer {key} is not entitled"}, 403, headers=more),
        as_html(f"apiKey={quote(key)} {key}", 200, headers=more),
        Answer(302, key.encode(), "text/plain", more),
        as_json({"error": key}, 429, headers=more),
        Answer(400, f"Invalid {key}".encode(), "text/plain", more),
        as_html(key, 502, headers=more),
        as_json(
            {key: key, "market": key, "serverTime": key, "status": key, "uptime": key, "timestamp": key}, headers=more
        ),
        Answer(fault="reset"),
    )
    return answers[len(asked) % len(answers)]


@pytest.fixture
def echo() -> Iterator[str]:
    """Serve responses that repeat the request, in every way; yield the address."""
    asked: list[int] = []
    ready, loop = threading.Event(), asyncio.new_event_loop()
    found: list[str] = []

    async def serve() -> None:
        async def answer(request: Request) -> Answer:
            return echoing(asked, request)

        server = Server(answer, asyncio.sleep)
        await server.set_state("open")
        found.append(f"http://127.0.0.1:{server.port}")
        stop = asyncio.Event()
        loop.stop_serving = stop.set
        ready.set()
        await stop.wait()
        await server.set_state("closed")

    running = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    running.start()
    ready.wait(10)
    yield found[0]
    loop.call_soon_threadsafe(loop.stop_serving)
    running.join(10)
    loop.close()


def test_no_output_contains_a_key(echo: str, tmp_path: Path) -> None:
    """
    With servers that repeat our keys in every way, no output shows a key, and no file of the home has one.

    The outputs are those of collector, doctor, panels, notebooks, exports and errors.
    """
    home, log = tmp_path / "home", tmp_path / "app.log"
    log.write_text("")
    environ = {
        **os.environ,
        "OPS_HOME": str(home),
        "OPS_MASSIVE_TOKEN": MASSIVE,
        "OPS_TRADIER_TOKEN": TRADIER,
        "OPS_INGEST_KEY": INGEST,
        "OPS_MASSIVE_URL": echo,
        "OPS_TRADIER_URL": echo,
        "OPS_APP_URL": echo,
        "OPS_APP_WS_URL": echo.replace("http", "ws"),
        "OPS_APP_LOG": str(log),
        "OPS_APP_PID": str(os.getpid()),
        "OPS_SYMBOLS": "SPY",
        "OPS_CLOCK": f"2026-03-10T15:00:00Z,{os.stat(log).st_mtime},1",
    }
    said = {}
    collecting = subprocess.Popen(
        [sys.executable, "-m", "opslib.cli", "collect", "--every", "1s"],
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        with log.open("a") as file:
            for line in (
                f"[Massive] Error: Bearer {MASSIVE} refused",
                f"[v0] Massive proxy error (502): /x?apiKey={quote(MASSIVE)}",
                f"GET /ws/options?token={SOCKET} 502 3 - 1.0 ms",
                f"Error: token={SOCKET}",
            ):
                print(line, file=file, flush=True)
        for arguments in DOORS:
            ended = subprocess.run(
                [sys.executable, "-m", "opslib.cli", *arguments],
                env=environ,
                capture_output=True,
                text=True,
                timeout=120,
            )
            said[" ".join(arguments)] = ended.stdout + ended.stderr
    finally:
        collecting.terminate()
        said["collect"] = collecting.communicate(timeout=30)[0]
    for door, words in said.items():
        assert "Traceback" not in words, (door, words)
        for canary in CANARIES:
            assert canary not in words and quote(canary, safe="") not in words and quote(canary) not in words, door
    _home_is_clean(home)


def _home_is_clean(home: Path) -> None:
    """Check that no file of the home contains a key, nor any compressed body in the database."""
    import sqlite3
    import zlib

    packed = []
    with sqlite3.connect(home / "store.sqlite") as store:
        for table in ("chains", "snapshots", "rejects"):
            packed += [zlib.decompress(body) for (body,) in store.execute(f"SELECT body FROM {table}")]
        samples = store.execute("SELECT count(*) FROM samples").fetchone()[0]
    assert samples > 20
    files = {path: path.read_bytes() for path in home.rglob("*") if path.is_file()}
    for canary in CANARIES:
        for written in {canary, quote(canary), quote(canary, safe=""), canary.replace("/", "\\/")}:
            assert not [path for path, content in files.items() if written.encode() in content], written
            assert not [content for content in packed if written.encode() in content], written
