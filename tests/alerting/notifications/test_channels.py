"""Each kind of channel against a real receiver: confirmed deliveries, failures, slow and unresponsive receivers."""

import asyncio
import json
import os
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import trustme
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult

from opslib.alerting.notifications import channels, message, sender
from opslib.alerting.notifications.channels import DeliveryFailed
from opslib.alerting.notifications.message import Message
from opslib.foundation.config import rules
from opslib.foundation.config import settings as settings_module
from opslib.foundation.config.contacts import Channel, Contacts, Role
from opslib.foundation.config.rules import PATH
from opslib.foundation.config.settings import Settings
from opslib.simulation.world.http_server import Answer, Request
from tests.support.servers import serving

NOW = datetime(2026, 3, 10, 15, 24, tzinfo=UTC)
US = 1_000_000
SECRET = "cAnArY-of-a-channel-0123456789"
STAFF = Contacts(lab_url="https://lab.example")


def body(kind: str = "firing", **changed: Any) -> dict[str, Any]:
    """Return the stored body of a message about Massive."""
    began = round(NOW.timestamp() - 90) * US
    alert = {
        "alert": "availability-massive-page-1",
        "rule": "availability",
        "subject": "massive",
        "source": "page",
        "pending_us": began,
        "fired_us": began + 60 * US,
        "over_us": None,
        "how": "",
        "value": 0.0,
        "limit": 0.95,
        "peak": 0.0,
        "sentence": "availability of massive (0.00 %) < 95.0 % for 1 min",
        "severity": "critical",
        "runbook": "massive_down",
    }
    if kind in ("over", "passed"):
        alert |= {"over_us": round(NOW.timestamp()) * US, "how": "resolved", "value": 0.998}
    return {
        "id": "desk-7",
        "app": "desk",
        "kind": kind,
        "group": "availability-massive-page-1",
        "severity": "critical",
        "roles": ["Tech Lead"],
        "panel": "providers",
        "made_us": round(NOW.timestamp()) * US,
        "alerts": [alert],
    } | changed


def notification(kind: str = "firing", **changed: Any) -> Message:
    """Return the composed message."""
    return message.compose(body(kind, **changed), rules.load(), STAFF, None)


def found(tmp_path: Path, **secrets: str) -> Settings:
    return settings_module.load(tmp_path, None, {"OPS_CHANNEL_X": SECRET} | secrets)


def tell(channel: Channel, what: Message, settings: Settings, picture: bytes | None = None) -> str:
    """Deliver a message; return why it failed, or an empty text if it did not."""
    try:
        asyncio.run(channels.deliver(channel, what, settings, NOW, picture))
    except DeliveryFailed as problem:
        return str(problem)
    return ""


@contextmanager
def receiver(answer: Callable[[Request], Answer], state: str = "open") -> Iterator[str]:
    """Run a web server in a separate thread."""
    loop, ready, place = asyncio.new_event_loop(), threading.Event(), list[str]()
    stop = asyncio.Event()

    async def serve() -> None:
        async with serving(answer, state) as url:
            place.append(url)
            ready.set()
            await stop.wait()

    running = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    running.start()
    ready.wait(10)
    try:
        yield place[0]
    finally:
        loop.call_soon_threadsafe(stop.set)
        running.join(10)
        loop.close()


def over_http(tmp_path: Path, kind: str, url: str) -> tuple[Channel, Settings]:
    """Return a channel of an HTTP kind, and settings with its secret."""
    if kind == "slack":
        return Channel("x", "slack"), found(tmp_path, OPS_CHANNEL_X=f"{url}/services/{SECRET}")
    return Channel("x", kind, {"url": url}), found(tmp_path)


HTTP = ("slack", "pagerduty", "alertmanager", "webhook")


@pytest.mark.parametrize("kind", HTTP)
def test_each_receiver_gets_its_format(tmp_path: Path, kind: str) -> None:
    """Each kind of receiver gets the sentence, the runbook, stable ids, and the secret in its proper place."""
    got: list[Request] = []
    with receiver(lambda r: got.append(r) or Answer(202)) as url:
        channel, settings = over_http(tmp_path, kind, url)
        assert [tell(channel, notification(k), settings) for k in ("firing", "over")] == ["", ""]
    first, last = (json.loads(r.body) for r in got)
    assert all(r.method == "POST" and r.headers["content-type"] == "application/json" for r in got)
    match kind:
        case "slack":
            assert got[0].path == f"/services/{SECRET}" and list(first) == ["text", "blocks"]
            assert (
                first["text"].startswith("*[critical] availability of massive (0.00 %) &lt; 95.0 % for 1 min*")
                and "<https://lab.example/lab/tree/runbooks/massive_down.ipynb|Runbook>" in first["text"]
            )
        case "pagerduty":
            assert (first["routing_key"], first["event_action"], last["event_action"]) == (
                SECRET,
                "trigger",
                "resolve",
            ) and first["dedup_key"] == last["dedup_key"] == "availability-massive-page-1"
            assert (
                first["payload"]["severity"] == "critical"
                and first["payload"]["summary"].startswith("availability of massive")
                and {link["text"] for link in first["links"]} == {"Acknowledge", "Runbook", "Dashboard"}
                and any(link["href"].endswith("massive_down.ipynb") for link in first["links"])
            )
        case "alertmanager":
            assert (
                got[0].path == "/api/v2/alerts"
                and first[0]["labels"] == last[0]["labels"]
                and first[0]["labels"]["alertname"] == "availability"
            )
            assert (
                first[0]["endsAt"] > first[0]["startsAt"]
                and last[0]["endsAt"] == "2026-03-10T15:24:00.000Z"
                and got[0].headers["authorization"] == f"Bearer {SECRET}"
            )
        case "webhook":
            assert (
                got[0].headers["idempotency-key"] == first["id"] == "desk-7"
                and got[0].headers["authorization"] == f"Bearer {SECRET}"
            )
            assert first["alerts"][0]["limit"] == 0.95 and "ops runbook open massive_down" in first["text"]


@pytest.mark.parametrize("kind", HTTP)
@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (Answer(500, b"down"), "HTTP 500: down"),
        (Answer(404), "HTTP 404"),
        (Answer(302, headers={"Location": "http://127.0.0.1:1/"}), "HTTP 302"),
        (Answer(fault="reset"), "could not be reached"),
        (Answer(fault="hang"), "no response within"),
        (Answer(200, b"x" * 4000, fault="drip"), "no response within"),
    ],
)
def test_an_unconfirmed_delivery_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, answer: Answer, why: str
) -> None:
    """Without a 2xx response in time the delivery fails with a reason and without the secret; the next one succeeds."""
    monkeypatch.setattr(channels, "PATIENCE_S", 0.4 if "no response" in why else 10.0)
    answers = [answer]
    with receiver(lambda r: answers.pop() if answers else Answer(202)) as url:
        channel, settings = over_http(tmp_path, kind, url)
        said = tell(channel, notification(), settings)
        assert why in said and SECRET not in said and url not in said
        monkeypatch.setattr(channels, "PATIENCE_S", 10.0)
        assert tell(channel, notification(), settings) == ""


def test_an_unreachable_receiver_is_reported(tmp_path: Path) -> None:
    """A closed port and an invalid address are reported as not reachable."""
    with receiver(lambda r: Answer(), "closed") as url:
        channel, settings = over_http(tmp_path, "webhook", url)
        assert "could not be reached (ConnectError)" in tell(channel, notification(), settings)
    assert "could not be reached" in tell(
        Channel("x", "slack"), notification(), found(tmp_path, OPS_CHANNEL_X="not an address")
    )


def test_retry_after_is_respected(tmp_path: Path) -> None:
    """The Retry-After header of a response sets the delay of the retry."""
    with receiver(lambda r: Answer(429, b"slow down", headers={"Retry-After": "30"})) as url:
        channel, settings = over_http(tmp_path, "webhook", url)
        with pytest.raises(DeliveryFailed) as problem:
            asyncio.run(channels.deliver(channel, notification(), settings, NOW))
    assert problem.value.wait_s == 30


def test_a_large_group_reaches_pagerduty_completely(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All 150 alerts of a message reach PagerDuty, each with a valid key; the text lists ten of them."""
    made = body()
    made["alerts"] = [made["alerts"][0] | {"alert": f"{i}-" + "x" * (300 if i == 0 else 3)} for i in range(150)]
    what = message.compose(made, rules.load(), STAFF, None)
    got: list[Request] = []
    monkeypatch.setattr(channels, "PATIENCE_S", 6.0)
    with receiver(lambda r: got.append(r) or Answer(202, after_s=10)) as url:  # A tenth of a second of real time.
        channel, settings = over_http(tmp_path, "pagerduty", url)
        assert tell(channel, what, settings) == ""
    keys = {json.loads(r.body)["dedup_key"] for r in got}
    assert (
        len(keys) == 150 and max(map(len, keys)) <= 255 and "140 more alerts" in what.plain and len(what.slack) < 4000
    )


def test_alerts_resolved_before_notification_open_nothing(tmp_path: Path) -> None:
    """Alerts that were resolved before anyone was notified open nothing in PagerDuty or Alertmanager."""
    got: list[Request] = []
    with receiver(lambda r: got.append(r) or Answer(202)) as url:
        for kind in ("pagerduty", "alertmanager"):
            channel, settings = over_http(tmp_path, kind, url)
            assert tell(channel, notification("passed"), settings) == ""
    assert got == []


class Postbox:
    """Stores received mails, and responds with `answer`."""

    def __init__(self) -> None:
        self.mails: list[Any] = []
        self.answer = "250 taken"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        from email import message_from_bytes
        from email.policy import default

        if self.answer == "never":
            await asyncio.sleep(30)
        if self.answer.startswith("250"):
            self.mails.append(message_from_bytes(envelope.content, policy=default))
        return self.answer


@contextmanager
def mail_server(box: Postbox, **how: Any) -> Iterator[int]:
    class Free(Controller):
        def factory(self) -> SMTP:
            return SMTP(self.handler, **how)

        def _trigger_server(self) -> None:
            self.port = self.server.sockets[0].getsockname()[1]
            super()._trigger_server()

    running = Free(box, hostname="127.0.0.1", port=0)
    running.start()
    try:
        yield running.server.sockets[0].getsockname()[1]
    finally:
        running.stop()


def mailing(port: int, **more: Any) -> Channel:
    return Channel(
        "x",
        "smtp",
        {
            "host": "127.0.0.1",
            "port": port,
            "from": "ops@desk.example",
            "to": ["lead@desk.example", "boss@desk.example"],
        }
        | more,
    )


def test_mail_content_and_failures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A mail has subject, text, HTML, picture and a stable id. If the server rejects it or does not respond, the delivery
    fails.
    """
    box, settings = Postbox(), settings_module.load(tmp_path, None, {})
    with mail_server(box) as port:
        assert (
            tell(mailing(port), notification(), settings, b"\x89PNG of a panel") == ""
            and tell(mailing(port), notification(), settings) == ""
        )
        box.answer = "451 later"
        assert tell(mailing(port), notification(), settings) == "the mail server responded 451: later"
        box.answer = "never"
        monkeypatch.setattr(channels, "PATIENCE_S", 0.3)
        assert "no response within" in tell(mailing(port), notification(), settings)
        monkeypatch.setattr(channels, "PATIENCE_S", 20.0)
        box.answer = "250 taken"
        assert tell(mailing(port), notification("over"), settings) == ""
    first, again, last = box.mails
    assert (
        first["subject"] == "[critical] availability of massive (0.00 %) < 95.0 % for 1 min"
        and first["to"] == "lead@desk.example, boss@desk.example"
    )
    assert (
        first["message-id"] == again["message-id"]
        and last["subject"] == "[ok] resolved: availability of Massive (now 99.80 %, worst 0.00 %, over 10 min)"
    )
    kinds = [part.get_content_type() for part in first.walk()]
    assert (
        kinds == ["multipart/alternative", "text/plain", "multipart/related", "text/html", "image/png"]
        and "ops runbook open massive_down" in first.get_body(("plain",)).get_content()
    )
    page = first.get_body(("html",)).get_content()
    order = [
        "<h1",
        "◆ Severity critical: availability of massive (0.00 %) &lt; 95.0 %",
        "Do first",
        "Since",
        "Whose fault",
        "cid:panel",
        "In a terminal",
        "ops ack",
    ]
    places = [page.index(words) for words in order]
    assert places == sorted(places) and 'alt="Chart: ' in page and "<link" not in page
    # Mail clients without stylesheet support show the inline colours; the stylesheet adds only dark ones.
    assert page.count("<style") == page.count("@media") == 1 and "@media (prefers-color-scheme: dark)" in page
    assert "image/png" not in [part.get_content_type() for part in again.walk()]
    assert tell(mailing(1), notification(), settings) == "the mail could not be sent (ConnectionRefusedError)"


def test_a_mail_password_is_sent_only_over_trusted_tls(tmp_path: Path) -> None:
    """A password is sent only over TLS to a server with a trusted certificate."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    seen: list[bytes] = []

    def admitted(server: Any, session: Any, envelope: Any, mechanism: str, data: Any) -> AuthResult:
        seen.append(data.password)
        right = data.password == SECRET.encode()
        return AuthResult(success=right, handled=right)

    box = Postbox()
    with mail_server(
        box, tls_context=context, require_starttls=True, auth_required=True, authenticator=admitted
    ) as port:
        trusting = found(tmp_path, SSL_CERT_FILE=str(tmp_path / "ca.pem"))
        assert (
            tell(mailing(port, tls="starttls", user="ops"), notification(), trusting) == ""
            and seen == [SECRET.encode()]
            and len(box.mails) == 1
        )
        assert "could not be sent" in tell(mailing(port, tls="starttls", user="ops"), notification(), found(tmp_path))
        assert "not sent without TLS" in tell(mailing(port, user="ops"), notification(), trusting)
        refused = tell(
            mailing(port, tls="starttls", user="ops"),
            notification(),
            found(tmp_path, SSL_CERT_FILE=str(tmp_path / "ca.pem"), OPS_CHANNEL_X="another-password"),
        )
        assert "535" in refused and "another-password" not in refused
    assert set(seen) == {SECRET.encode(), b"another-password"}


def test_command_channel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A command gets the message on stdin. A failing, hanging or missing command is a failed delivery; none is left
    running.
    """
    settings = settings_module.load(tmp_path, None, {})

    def run(*command):
        return tell(Channel("x", "command", {"command": list(command)}), notification(), settings)

    assert run("sh", "-c", f"cat > '{tmp_path}/got'") == "" and json.loads((tmp_path / "got").read_text())[
        "title"
    ].startswith("[critical]")
    assert run("sh", "-c", "echo no such pager >&2; exit 3") == "exit code 3: no such pager"
    assert "cannot be run" in run("/nowhere/pager") and run("true") == ""
    monkeypatch.setattr(channels, "PATIENCE_S", 0.3)
    assert "no response within" in run("sh", "-c", f"echo $$ > '{tmp_path}/pid'; exec sleep 60")
    pid = int((tmp_path / "pid").read_text())
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_file_channel_appends_to_one_page(tmp_path: Path) -> None:
    """
    The file channel writes one page: each message follows the earlier ones, with time and chart. If the folder cannot
    be written, the delivery fails.
    """
    settings, channel = found(tmp_path), Channel("x", "file", {"path": "kept/messages.html"})
    assert (
        tell(channel, notification(), settings, b"PNG of a panel")
        == tell(channel, notification("over"), settings)
        == ""
    )
    page = (tmp_path / "kept" / "messages.html").read_text(encoding="utf-8")
    assert page.count("<!doctype html>") == page.count("<h1") == 1 and page.count("<article") == page.count("<h2") == 2
    assert (
        page.index("◆ Severity critical: ") < page.index("✓ Resolved: ") and page.count("data:image/png;base64,") == 1
    )
    assert page.count("2026-03-10 15:24:00 UTC (11:24:00 New York)</p>") == 2 and SECRET not in page
    (tmp_path / "kept").rename(tmp_path / "other")
    (tmp_path / "kept").write_text("a file where the folder was")
    assert "messages.html failed (" in tell(channel, notification(), settings)


def test_terminal_channel(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The terminal needs no configuration and shows no secret."""
    settings = found(tmp_path)
    what = notification()
    assert (
        tell(
            Channel("terminal", "terminal"),
            message.Message(
                what.id, what.kind, what.severity, f"{what.title} {SECRET}", what.lines, what.link, what.facts
            ),
            settings,
        )
        == ""
    )
    said = capsys.readouterr().out
    assert (
        "[critical] availability of massive" in said
        and SECRET not in said
        and "Acknowledge: ops ack availability-massive-page-1" in said
    )


def test_each_channel_can_be_tested(tmp_path: Path) -> None:
    """A channel, or all channels of a role, get a test message; failures are reported with their reason."""
    got: list[Request] = []
    with receiver(lambda r: got.append(r) or Answer(500 if r.path == "/bad" else 204)) as url:
        ways = {
            "good": Channel("good", "webhook", {"url": url}),
            "bad": Channel("bad", "webhook", {"url": f"{url}/bad"}),
        }
        contacts = Contacts(
            {name: Role(name, (), ("good", "bad") if name == "Tech Lead" else ("good",)) for name in PATH}, ways
        )
        settings = settings_module.load(tmp_path, None, {})
        assert [(name, bool(why)) for name, why in sender.test_delivery(settings, contacts, "Tech Lead", NOW)] == [
            ("good", False),
            ("bad", True),
        ]
        assert (
            sender.test_delivery(settings, contacts, "good", NOW) == [("good", "")]
            and len(sender.test_delivery(settings, contacts, "", NOW)) == 2
        )
        with pytest.raises(Exception, match="there is no channel or role 'Tech Led'.*Did you mean 'Tech Lead'"):
            sender.test_delivery(settings, contacts, "Tech Led", NOW)
    assert "This is a test message" in json.loads(got[0].body)["text"]


def test_a_silent_mail_server_times_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mail server that accepts the connection and does not respond times out."""
    monkeypatch.setattr(channels, "PATIENCE_S", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert "no response within" in tell(
            mailing(silent.getsockname()[1]), notification(), settings_module.load(tmp_path, None, {})
        )
