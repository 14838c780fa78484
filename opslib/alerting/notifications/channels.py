"""
Deliver to each kind of channel: Slack and its likes, PagerDuty, Alertmanager, mail, webhook, command, terminal.

A channel is told when it says that it was, and not before: by 2xx, by the mail server taking the message, by exit 0.
"""

import asyncio
import hashlib
import json
import smtplib
import ssl
from datetime import datetime, timedelta
from email.message import EmailMessage
from email.utils import format_datetime
from typing import TYPE_CHECKING, Any

from opslib.alerting.notifications.message import Message
from opslib.alerting.notifications.planner import MISSED_SUMMARY, RESOLVED
from opslib.foundation import clock, formatting, logs, templates
from opslib.foundation.config.contacts import PAGERDUTY, Channel
from opslib.foundation.config.settings import Settings
from opslib.foundation.network import tls_context
from opslib.foundation.version import VERSION

# Kinds that accept free text too; the others accept only alerts.
TEXT_CHANNELS = ("terminal", "slack", "webhook", "smtp", "command")
PATIENCE_S = 20.0  # For one message by one channel; well below what a delivery is claimed for.
if TYPE_CHECKING:
    import httpx

# Of PagerDuty's events: at the same time; characters of an id and of details.
AT_ONCE, LONGEST_KEY, LONGEST_DETAIL = 10, 255, 20_000
STANDS_FOR = timedelta(minutes=10)  # So long an Alertmanager believes that an alert fires, unless it hears again.
_PAGERDUTY_SEVERITY = {"notify": "warning", "critical": "critical", "escalate": "critical"}


class DeliveryFailed(Exception):
    """
    A channel was not told.

    Attributes:
        wait_s: For how long it asks to be left alone; None where it does not say.
    """

    def __init__(self, why: str, wait_s: float | None = None):
        super().__init__(why)
        self.wait_s = wait_s


async def deliver(
    channel: Channel, message: Message, settings: Settings, now: datetime, picture: bytes | None = None
) -> None:
    """
    Tell a message by a channel.

    Args:
        picture: A PNG, where the channel takes one.

    Raises:
        NotTold: It was not told, or did not say that it was.
    """
    how = {
        "terminal": _terminal,
        "slack": _slack,
        "pagerduty": _pagerduty,
        "alertmanager": _alertmanager,
        "smtp": _smtp,
        "webhook": _webhook,
        "command": _command,
    }[channel.kind]
    try:
        async with asyncio.timeout(PATIENCE_S / clock.speed()):
            await how(channel, message, settings, now, picture)
    except TimeoutError:
        raise DeliveryFailed(f"gave no answer within {PATIENCE_S:g} s") from None


async def _terminal(
    channel: Channel, message: Message, settings: Settings, now: datetime, picture: bytes | None
) -> None:
    try:
        print(f"\n{formatting.printable(settings.redact(message.plain))}\n", flush=True)
    except OSError as problem:
        raise DeliveryFailed(f"the terminal cannot be written ({problem.strerror})") from None


async def _slack(channel: Channel, message: Message, settings: Settings, now: datetime, picture: bytes | None) -> None:
    await _post(str(settings.secret(channel.secret)), {"text": settings.redact(message.slack)}, settings)


async def _pagerduty(
    channel: Channel, message: Message, settings: Settings, now: datetime, picture: bytes | None
) -> None:
    """One event an alert, by the alert's own id, so that one that is sent again is no other incident."""
    few = asyncio.Semaphore(AT_ONCE)
    async with _client(settings) as client:

        async def one(event: dict[str, Any]) -> None:
            async with few:
                await _said_yes(client, channel.told.get("url", PAGERDUTY), event, settings, {})

        await asyncio.gather(
            *(one(event) for event in pagerduty_events(message, str(settings.secret(channel.secret)), settings))
        )


def pagerduty_events(message: Message, key: str, settings: Settings) -> list[dict[str, Any]]:
    """
    Events v2 of a message: trigger what fires, resolve what is over, and say nothing of what nobody was ever called
    for.
    """
    if message.kind == MISSED_SUMMARY:
        return []
    facts = message.facts
    found = []
    for alert in facts["alerts"] or [
        {
            "alert": message.id,
            "severity": message.severity,
            "sentence": message.title,
            "subject": facts["app"],
            "rule": "test",
        }
    ]:
        name = (
            alert["alert"]
            if len(alert["alert"]) <= LONGEST_KEY
            else hashlib.sha256(alert["alert"].encode()).hexdigest()
        )
        event: dict[str, Any] = {
            "routing_key": key,
            "dedup_key": name,
            "event_action": "resolve" if message.kind == RESOLVED else "trigger",
        }
        if message.kind != RESOLVED:
            event["payload"] = {
                "summary": formatting.single_line(settings.redact(alert["sentence"]), 1000),
                "source": facts["app"],
                "severity": _PAGERDUTY_SEVERITY.get(alert["severity"], "warning"),
                "component": alert["subject"],
                "group": facts["panel"],
                "class": alert["rule"],
                "custom_details": {
                    "text": _whole_lines(settings.redact(message.plain), LONGEST_DETAIL),
                    "message": message.id,
                },
            }
            event["links"] = [{"href": message.link, "text": "Open the runbook"}] if message.link else []
        found.append(event)
    return found


def _whole_lines(words: str, most: int) -> str:
    """As many whole lines as fit: half a command must not be pasted."""
    return words if len(words) <= most else words[:most].rpartition("\n")[0]


async def _alertmanager(
    channel: Channel, message: Message, settings: Settings, now: datetime, picture: bytes | None
) -> None:
    if message.kind != MISSED_SUMMARY:
        await resend_firing(channel, alertmanager_alerts(message, now), settings)


def alertmanager_alerts(message: Message, now: datetime) -> list[dict[str, Any]]:
    """The alerts of a message as Alertmanager's API v2 takes them."""
    facts, found = message.facts, []
    for alert in facts["alerts"] or [
        {
            "alert": message.id,
            "rule": "test",
            "subject": facts["app"],
            "source": "opslib",
            "severity": "notify",
            "sentence": message.title,
            "pending_us": clock.micros(now),
            "over_us": None,
            "runbook": None,
        }
    ]:
        ends = (
            clock.instant(alert["over_us"])
            if message.kind == RESOLVED and alert["over_us"] is not None
            else now + (STANDS_FOR if message.kind != "test" else timedelta(minutes=1))
        )
        found.append(alertmanager_alert(alert, facts["app"], ends))
    return found


def alertmanager_alert(alert: dict[str, Any], app: str, ends: datetime) -> dict[str, Any]:
    """
    One alert as Alertmanager's API v2 takes it.

    Its labels do not change while it lasts: its severity rises and falls, and is told in the annotations.
    """
    labels = {
        "alertname": alert["rule"],
        "app": app,
        "rule": alert["rule"],
        "subject": alert["subject"],
        "source": alert["source"],
    }
    told = {"summary": alert["sentence"], "severity": alert["severity"], "alert": alert["alert"]} | (
        {"runbook": alert["runbook"]} if alert["runbook"] else {}
    )
    starts = clock.instant(alert["pending_us"])
    # It takes no alert that ends as it starts.
    return {
        "labels": labels,
        "annotations": told,
        "startsAt": formatting.iso(starts),
        "endsAt": formatting.iso(max(ends, starts + timedelta(seconds=1))),
    }


async def resend_firing(channel: Channel, alerts: list[dict[str, Any]], settings: Settings) -> None:
    """
    Say how alerts stand to an Alertmanager, which forgets what it does not hear again.

    Raises:
        NotTold: It was not told.
    """
    await _post(
        f"{channel.told['url'].rstrip('/')}/api/v2/alerts",
        json.loads(settings.redact(json.dumps(alerts))),
        settings,
        settings.secret(channel.secret),
    )


async def _webhook(
    channel: Channel, message: Message, settings: Settings, now: datetime, picture: bytes | None
) -> None:
    body = message.facts | {"title": message.title, "text": message.plain, "link": message.link}
    await _post(
        channel.told["url"],
        json.loads(settings.redact(json.dumps(body))),
        settings,
        settings.secret(channel.secret),
        {"Idempotency-Key": message.id},
    )


async def _post(
    url: str, body: Any, settings: Settings, token: str | None = None, more: dict[str, str] | None = None
) -> None:
    async with _client(settings) as client:
        await _said_yes(
            client, url, body, settings, (more or {}) | ({"Authorization": f"Bearer {token}"} if token else {})
        )


def _client(settings: Settings) -> "httpx.AsyncClient":
    import httpx

    return httpx.AsyncClient(
        verify=tls_context(settings.ca_file),
        follow_redirects=False,
        timeout=PATIENCE_S / clock.speed(),
        headers={"User-Agent": f"opslib/{VERSION}"},
    )


async def _said_yes(
    client: "httpx.AsyncClient", url: str, body: Any, settings: Settings, headers: dict[str, str]
) -> None:
    """Post, and take nothing but 2xx for a yes. Whatever is posted is printable."""
    import httpx

    try:
        answer = await client.post(url, json=formatting.printable_values(body), headers=headers)
    except (httpx.RequestError, httpx.InvalidURL) as problem:
        raise DeliveryFailed(f"could not be reached ({problem.__class__.__name__})") from None
    if not answer.is_success:
        wait = answer.headers.get("retry-after", "")
        raise DeliveryFailed(
            f"answered {answer.status_code}: {_said(answer.content, settings)}",
            float(wait) if wait.isascii() and wait.isdigit() else None,
        )


def _said(words: bytes | str, settings: Settings) -> str:
    """What a receiver says of itself, on one line, without secrets."""
    told = words[:2000].decode("utf-8", "replace") if isinstance(words, bytes) else words[:2000]
    return formatting.single_line(settings.redact(told).strip(), 120)


async def _smtp(channel: Channel, message: Message, settings: Settings, now: datetime, picture: bytes | None) -> None:
    await asyncio.to_thread(_mail, channel, message, settings, now, picture)


def mail(channel: Channel, message: Message, settings: Settings, now: datetime, picture: bytes | None) -> EmailMessage:
    """A message as a mail: text, HTML, and the picture of its panel."""
    found, told = EmailMessage(), channel.told
    found["Subject"] = settings.redact(message.title)
    found["From"], found["To"] = told["from"], ", ".join(told["to"])
    found["Date"] = format_datetime(now)
    domain = told["from"].rpartition("@")[2].strip(">") or "localhost"
    found["Message-ID"] = f"<{message.id}.{message.facts['made_us']}@{domain}>"  # The same when it is sent again.
    found.set_content(settings.redact(message.plain))
    shown_html = templates.render(
        "alerting/notifications/templates/mail.html", message=settings.redact(message.html), picture=bool(picture)
    )
    found.add_alternative(shown_html, subtype="html")
    if picture:
        shown: Any = found.get_payload()
        shown[1].add_related(picture, "image", "png", cid="<panel>", filename="panel.png")
    return found


def _mail(channel: Channel, message: Message, settings: Settings, now: datetime, picture: bytes | None) -> None:
    told, found = channel.told, mail(channel, message, settings, now, picture)
    tls, password = told.get("tls", "none"), settings.secret(channel.secret)
    timeout_s = PATIENCE_S / clock.speed()
    try:
        context = tls_context(settings.ca_file) if tls != "none" else None
        with (
            smtplib.SMTP_SSL(told["host"], told.get("port", 465), timeout=timeout_s, context=context)
            if tls == "tls"
            else smtplib.SMTP(
                told["host"], told.get("port", 587 if tls == "starttls" else 25), timeout=timeout_s
            ) as server
        ):
            if tls == "starttls":
                server.starttls(context=context)
            if password:
                if tls == "none":
                    raise DeliveryFailed(
                        f"{channel.secret} is set, and a password is not sent without TLS; set tls to starttls or tls"
                    )
                server.login(told.get("user", told["from"]), password)
            refused = server.send_message(found)
        if refused:
            logs.of(settings.redact).warning(f"{channel.name} was not taken for {', '.join(sorted(refused))}")
    except TimeoutError:
        raise DeliveryFailed(f"gave no answer within {PATIENCE_S:g} s") from None
    except smtplib.SMTPResponseException as problem:
        raise DeliveryFailed(f"answered {problem.smtp_code}: {_said(problem.smtp_error, settings)}") from None
    except (smtplib.SMTPException, ssl.SSLError, OSError) as problem:
        raise DeliveryFailed(f"could not be told ({problem.__class__.__name__})") from None


async def _command(
    channel: Channel, message: Message, settings: Settings, now: datetime, picture: bytes | None
) -> None:
    """A command gets the message as JSON on its stdin; exit 0 says that it was told."""
    body = message.facts | {"title": message.title, "text": message.plain, "link": message.link}
    try:
        running = await asyncio.create_subprocess_exec(
            *channel.told["command"],
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
    except OSError as problem:
        raise DeliveryFailed(f"{channel.told['command'][0]} cannot be run ({problem.strerror})") from None
    try:
        _, said = await running.communicate(settings.redact(json.dumps(body)).encode())
    finally:
        if running.returncode is None:
            running.kill()
            await running.wait()
    if running.returncode:
        raise DeliveryFailed(f"exit {running.returncode}: {_said(said, settings)}")
