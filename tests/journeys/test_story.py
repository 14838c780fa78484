"""Test the tech lead's morning, command by command, while Massive returns errors; and that no secret is shown."""

import json
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from opslib.cli import main
from opslib.desk import Desk
from opslib.foundation.config import contacts
from opslib.runbooks.hooks import HOOKS
from opslib.runbooks.session import RunbookSession
from opslib.services.collector import Collector
from opslib.simulation.drills.stepped_desk import SteppedProbes, stepped_probes
from tests.runbooks.test_execution import HOOK

LEAD = "Tech Lead"


@pytest.mark.slow
def test_from_the_alert_to_the_postmortem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """
    Alert, incident, prefilled runbook, cause, mitigation, recovery, validation, resolution and verified postmortem.

    Every number of the postmortem has its evidence; no token is in any output.
    """
    home, said = tmp_path / "home", list[str]()
    home.mkdir()
    hook = home / "hook.sh"
    hook.write_text(HOOK.replace("tok-walk-0123456789", "$OPS_MASSIVE_TOKEN"))
    hook.chmod(0o755)
    (home / "settings.toml").write_text(
        "[hooks]\n" + "".join(f'{name} = ["{hook}", "{name}"]\n' for name in HOOKS if name != "tell_channel")
    )
    with stepped_probes(home) as desk, echoing(desk.world.environ) as (massive, echoed):
        desk.more["OPS_MASSIVE_URL"] = massive
        desk.settings = desk.load_settings()
        with Path(desk.world.environ["OPS_APP_LOG"]).open("a") as log:
            log.write(f"Error: Massive API error for Bearer {desk.world.environ['OPS_MASSIVE_TOKEN']}\n")
        for name, value in (desk.world.environ | desk.more | {"OPS_HOME": str(home)}).items():
            monkeypatch.setenv(name, value)

        def ops(*words: str, code: int = 0) -> Any:
            monkeypatch.setenv("OPS_CLOCK", f"{desk.at.isoformat()},{time.time()},1")
            assert main.main([*words, "-o", "json"]) == code, (words, capsys.readouterr())
            out, err = capsys.readouterr()
            said.extend((out, err))
            return json.loads(out)

        here = Desk(desk.settings, lambda: desk.at)
        judged(desk, here)
        desk.advance(1)
        desk.world.inject(massive_5xx=1.0)
        desk.advance(7)
        judged(desk, here)
        (incident,) = ops("incident", "list")
        name = incident["id"]
        assert (
            incident["runbook"] == "massive_down" and incident["status"] == "open" and incident["subject"] == "massive"
        )
        alert = incident["alerts"][0]["alert"]
        assert next(a["incident"] for a in ops("status", code=2)["alerts"] if a["id"] == alert) == name
        assert ops("ack", name, "--by", LEAD)["incident"] == name
        desk.advance(3)  # The collector did not run during the notifications.
        opened = ops("runbook", "open", "massive_down", "--by", LEAD)
        assert (opened["incident"], opened["cause"], opened["severity"]) == (name, "provider_5xx", "notify") and opened[
            "confidence"
        ] > 0.8
        copy = Path(opened["notebook"]).read_text()
        assert (
            f'incident: str = \\"{name}\\"' in copy
            and 'limit: str = \\"95.0 %\\"' in copy
            and 'subject: str = \\"massive\\"' in copy
            and copy.index("Likely: ") < copy.index("### If Massive responds")
        )
        ops("run", opened["notebook"], "--timeout", "240")
        book = RunbookSession(Desk(desk.settings, lambda: desk.at), "massive_down", name, LEAD, as_of=desk.at)
        assert book.do("tradier_only", confirmed=True).state == "done" and [
            line.split()[0] for line in (home / "done").read_text().splitlines()
        ] == ["tradier_only"]
        assert ops("incident", "show", name)["status"] == "mitigated"
        ops("incident", "note", name, f"the key is {desk.world.environ['OPS_MASSIVE_TOKEN']}, they said", "--by", LEAD)
        desk.world.inject()
        desk.advance(13)
        judged(desk, here)
        again = RunbookSession(Desk(desk.settings, lambda: desk.at), "massive_down", name, LEAD, as_of=desk.at)
        assert again.check("massive_answers").state == "ok"
        assert ops("incident", "resolve", name, "Massive responds again", "--by", LEAD)["status"] == "resolved"
        made = ops("postmortem", name, "--by", LEAD)
        figures = {f["id"]: f for f in made["figures"]}
        assert (
            all(f["evidence"] or f["value"] is None for f in figures.values())
            and figures["massive_failed"]["part"] > 20
            and figures["massive_looks_failed"]["value"] > 0.2
        )
        assert figures["TTD"]["value"] is not None and figures["TTM"]["value"] is not None
        found = ops("verify", name)
        assert found["verified"] and found["figures"] == len(figures) and found["broken"] == []
        tokens = [value for key, value in desk.world.environ.items() if key.endswith("TOKEN")]
    assert tokens and echoed
    for token in tokens:
        assert not [p for p in home.rglob("*") if p.is_file() and token.encode() in p.read_bytes()] and not [
            s for s in said if token in s
        ]


@contextmanager
def echoing(environ: dict[str, str]) -> Iterator[tuple[str, list[str]]]:
    """
    Put a proxy before Massive that repeats the key of a failed request in body and header; yield address and keys.
    """
    lines, massive = list[str](), environ["OPS_MASSIVE_URL"]
    trusted = ssl.create_default_context(cafile=environ["SSL_CERT_FILE"])

    class Proxy(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            key = self.headers.get("Authorization", "")
            answer = httpx.get(
                massive + self.path, headers={"Authorization": key}, trust_env=False, verify=trusted, timeout=30
            )
            body = answer.content
            if answer.status_code >= 500:
                body = json.dumps(
                    {
                        "status": "ERROR",
                        "error": f"upstream failed for {key} ({massive}?apiKey={key.removeprefix('Bearer ')})",
                    }
                ).encode()
                lines.append(key)
            self.send_response_only(answer.status_code)  # The Date header is Massive's, not this machine's.
            for name, value in (
                ("Date", answer.headers["Date"]),
                ("Content-Type", answer.headers.get("Content-Type", "application/json")),
                ("Content-Length", str(len(body))),
                ("X-Request-Id", key if answer.status_code >= 500 else "1"),
            ):
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", lines
        finally:
            server.shutdown()


def judged(desk: SteppedProbes, here: Desk) -> None:
    """Evaluate the alerts as the collector does, notify people, and follow the alerts into incidents."""
    Collector(desk.store, desk.settings, desk.rules, "test", lambda: desk.at).evaluate_due()
    for _ in range(2):
        desk.at += timedelta(seconds=20)
        here.notifications.plan(contacts.Contacts(), desk.rules)
        here.incidents.follow_alerts()
