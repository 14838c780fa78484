"""
The app's WebSocket address may have a token in its query, as in the app itself. The token is used and never shown.
"""

import asyncio
import json
import logging
from pathlib import Path

import pytest
from websockets.asyncio.server import ServerConnection, serve

from opslib.cli import main
from opslib.dashboard import doctor
from opslib.foundation.config import settings
from opslib.foundation.errors import SettingsError
from opslib.foundation.storage.database import Database
from opslib.simulation.world.http_server import Answer, Request, as_json
from opslib.telemetry.probes.runner import ProbeRunner
from tests.support.outside_world import BEGINS, RULES
from tests.support.servers import serving

TOKEN = "eyJleHAiOjE3/zU+.0a1b2c3d4e5f"
QUERY = "token=eyJleHAiOjE3%2FzU%2B.0a1b2c3d4e5f"


def leaks(text: str) -> bool:
    return any(part in text for part in (TOKEN, QUERY, "eyJleHAiOjE3", "0a1b2c3d4e5f"))


def test_the_query_is_a_secret() -> None:
    """
    The query is not part of the shown address. Text and JSON that contain it are redacted. A child process without
    secrets gets the address without it.
    """
    environ = {"OPS_APP_WS_URL": f"wss://app.example/ws/options?{QUERY}"}
    found = settings.load(".", None, environ)
    assert (
        found.app_ws_url == "wss://app.example/ws/options"
        and found.secret("OPS_APP_WS_URL") == QUERY
        and not leaks(repr(found))
    )
    for said in (
        f"GET /ws/options?{QUERY}",
        f"the token {TOKEN} was refused",
        json.dumps({"url": f"wss://app.example/?{QUERY}", "token": TOKEN}),
    ):
        assert not leaks(found.redact(said)) and not leaks(settings.redacted(said, environ))
    assert settings.without_secrets(environ) == {"OPS_APP_WS_URL": "wss://app.example/ws/options"}


@pytest.mark.parametrize(
    "url",
    [f"http://app.example/ws?{QUERY}", f"wss://?{QUERY}", f"wss://a b?{QUERY}", f"wss://me:you@app.example/?{QUERY}"],
)
def test_the_message_about_an_invalid_address_has_no_query(url: str) -> None:
    """The message about an address that cannot be used does not contain its query."""
    with pytest.raises(SettingsError) as refused:
        settings.load(".", None, {"OPS_APP_WS_URL": url})
    assert not leaks(str(refused.value))


def test_an_address_in_the_settings_file_has_no_query(tmp_path: Path) -> None:
    """settings.toml has no secrets, so an address with a query is rejected there; no other address may have one."""
    (tmp_path / "settings.toml").write_text(f'app_ws_url = "wss://app.example/ws/options?{QUERY}"\n')
    with pytest.raises(SettingsError, match="a secret") as refused:
        settings.load(tmp_path, None, {})
    assert not leaks(str(refused.value))
    with pytest.raises(SettingsError, match="name, password or query"):
        settings.load(".", None, {"OPS_APP_URL": "http://app.example/?key=1"})


@pytest.mark.parametrize(
    ("path", "query", "wanted"),
    [
        ("/ws/options", QUERY, f"/ws/options?{QUERY}"),
        ("", QUERY, f"/ws/options?{QUERY}"),
        ("/ws/options", "desk=1", "/ws/options?desk=1&token=fresh"),
    ],
)
def test_the_websocket_is_opened_with_the_token(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, path: str, query: str, wanted: str
) -> None:
    """
    A token in the settings is used, and none is requested from the app. If it is rejected, neither store, log nor `ops
    doctor` contains the query.
    """
    asked, posted = [], []
    caplog.set_level(logging.DEBUG)

    def http(request: Request) -> Answer:
        posted.append(request.path)
        return as_json(
            {"token": "fresh"}
            if request.path == "/api/ws-token"
            else {"status": "ok", "uptime": 1.0, "timestamp": BEGINS.isoformat()}
        )

    async def attend(client: ServerConnection) -> None:
        asked.append(client.request.path)
        await client.close(1008, f"bad {QUERY}")

    async def go() -> list[str]:
        async with serving(http) as app, serve(attend, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            found = settings.load(
                tmp_path, None, {"OPS_APP_URL": app, "OPS_APP_WS_URL": f"ws://127.0.0.1:{port}{path}?{query}"}
            )
            rounds = ProbeRunner(found, Database(found.url), RULES, now=lambda: BEGINS, speed=1.0)
            samples = await rounds.once(lambda name: name == "socket")
            rounds.samples.keep(samples)
            rounds.close()
            return [repr(samples), *(str(doctor._probe_check(found, s)) for s in samples)]

    texts = asyncio.run(go())
    assert asked[0] == wanted and ("/api/ws-token" in posted) is (query == "desk=1")
    kept = b"".join(p.read_bytes() for p in tmp_path.rglob("store.sqlite*"))
    ours = [r.getMessage() for r in caplog.records if r.name.startswith("opslib")]
    assert not any(map(leaks, (*texts, *ours, kept.decode("latin-1"))))


def test_the_command_line_does_not_print_the_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`ops status` and `ops doctor`, as text and as JSON, run with the token and do not print it."""
    monkeypatch.setenv("OPS_HOME", str(tmp_path))
    monkeypatch.setenv("OPS_APP_WS_URL", f"ws://127.0.0.1:1/ws/options?{QUERY}")
    for command in (["status"], ["status", "-o", "json"], ["doctor"], ["doctor", "-o", "json"]):
        assert main.main(command) in (0, 1, 2, 3)
        said = capsys.readouterr()
        assert not leaks(said.out + said.err)
