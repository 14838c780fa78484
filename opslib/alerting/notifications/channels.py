"""
Deliver messages to Slack (and compatible), PagerDuty, Alertmanager, mail, webhook, command or terminal.

A delivery succeeds only if the receiver confirms it: HTTP 2xx, acceptance by the mail server, or exit code 0.
"""

import asyncio
import base64
import hashlib
import json
import smtplib
import ssl
from datetime import datetime, timedelta
from email.message import EmailMessage
from email.utils import format_datetime
from typing import TYPE_CHECKING, Any

from opslib.alerting.notifications import message as messages
from opslib.alerting.notifications import slack
from opslib.alerting.notifications.message import Message
from opslib.alerting.notifications.planner import MISSED_SUMMARY, RESOLVED
from opslib.foundation import clock, formatting, logs
from opslib.foundation.config.contacts import PAGERDUTY, Channel
from opslib.foundation.config.settings import Settings
from opslib.foundation.network import tls_context
from opslib.foundation.version import VERSION

# Kinds that accept free text too; the others accept only alerts.
TEXT_CHANNELS = ("terminal", "slack", "webhook", "smtp", "file", "command")
PICTURES = ("smtp", "file")  # Kinds that show a picture.
PATIENCE_S = 20.0  # Timeout of one delivery; well below the time for which a delivery is claimed.
if TYPE_CHECKING:
    import httpx

# PagerDuty events: parallel requests; most characters of an id and of the details.
AT_ONCE, LONGEST_KEY, LONGEST_DETAIL = 10, 255, 20_000
EXPIRES_AFTER = timedelta(minutes=10)  # An Alertmanager keeps an alert firing for this long if it is not sent again.
_PAGERDUTY_SEVERITY = {"notify": "warning", "critical": "critical", "escalate": "critical"}


class DeliveryFailed(Exception):
    """
    A message could not be delivered to a channel.

    Attributes:
        wait_s: Seconds to wait before the next attempt, as the receiver asked (Retry-After); None if it did not.
    """

    def __init__(self, why: str, wait_s: float | None = None):
        super().__init__(why)
        self.wait_s = wait_s


async def deliver(
    channel: Channel, message: Message, settings: Settings, now: datetime, picture: bytes | None = None
) -> None:
    """
    Deliver a message to a channel.

    Args:
        picture: A PNG, if the channel accepts one.

    Raises:
        DeliveryFailed: The receiver did not confirm the delivery.
    """
    how = {
        "terminal": _terminal,
        "slack": _slack,
        "pagerduty": _pagerduty,
        "alertmanager": _alertmanager,
        "smtp": _smtp,
        "webhook": _webhook,
        "file": _file,
        "command": _command,
    }[channel.kind]
    try:
        async with asyncio.timeout(PATIENCE_S / clock.speed()):
            await how(channel, message, settings, now, picture)
    except TimeoutError:
        raise DeliveryFailed(f"no response within {PATIENCE_S:g} s") from None


async def _terminal(
    channel: Channel, message: Message, settings: Settings, now: datetime, picture: bytes | None
) -> None:
    try:
        print(f"\n{formatting.printable(settings.redact(message.plain))}\n", flush=True)
    except OSError as problem:
        raise DeliveryFailed(f"writing to the terminal failed ({problem.strerror})") from None


async def _slack(channel: Channel, message: Message, settings: Settings, now: datetime, picture: bytes | None) -> None:
    await _post(str(settings.secret(channel.secret)), slack.payload(message.redacted(settings.redact)), settings)


async def _pagerduty(
    channel: Channel, message: Message, settings: Settings, now: datetime, picture: bytes | None
) -> None:
    """Send one event per alert with the alert's id, so that sending it again opens no second incident."""
    few = asyncio.Semaphore(AT_ONCE)
    async with _client(settings) as client:

        async def one(event: dict[str, Any]) -> None:
            async with few:
                await _post_confirmed(client, channel.options.get("url", PAGERDUTY), event, settings, {})

        await asyncio.gather(
            *(one(event) for event in pagerduty_events(message, str(settings.secret(channel.secret)), settings))
        )


def pagerduty_events(message: Message, key: str, settings: Settings) -> list[dict[str, Any]]:
    """
    Return the PagerDuty events (v2) of a message: trigger for firing alerts, resolve for resolved ones.

    There is none for alerts that resolved before anyone was notified.
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
                "summary": formatting.single_line(settings.redact(messages.describe_problem(alert)), 1000),
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
            event["links"] = [{"href": url, "text": name} for name, url in message.buttons]
        found.append(event)
    return found


def _whole_lines(words: str, most: int) -> str:
    """Return as many whole lines as fit, so that nobody pastes half a command."""
    return words if len(words) <= most else words[:most].rpartition("\n")[0]


async def _alertmanager(
    channel: Channel, message: Message, settings: Settings, now: datetime, picture: bytes | None
) -> None:
    if message.kind != MISSED_SUMMARY:
        await resend_firing(channel, alertmanager_alerts(message, now), settings)


def alertmanager_alerts(message: Message, now: datetime) -> list[dict[str, Any]]:
    """Return the alerts of a message in the format of Alertmanager's API v2."""
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
            else now + (EXPIRES_AFTER if message.kind != "test" else timedelta(minutes=1))
        )
        found.append(alertmanager_alert(alert, facts["app"], ends))
    return found


def alertmanager_alert(alert: dict[str, Any], app: str, ends: datetime) -> dict[str, Any]:
    """
    Return one alert in the format of Alertmanager's API v2.

    Its labels stay constant while it fires. Its severity can change, so it is an annotation.
    """
    labels = {
        "alertname": alert["rule"],
        "app": app,
        "rule": alert["rule"],
        "subject": alert["subject"],
        "source": alert["source"],
    }
    annotations = {"summary": alert["sentence"], "severity": alert["severity"], "alert": alert["alert"]} | (
        {"runbook": alert["runbook"]} if alert["runbook"] else {}
    )
    starts = clock.instant(alert["pending_us"])
    # Alertmanager rejects an alert whose end is not after its start.
    return {
        "labels": labels,
        "annotations": annotations,
        "startsAt": formatting.iso(starts),
        "endsAt": formatting.iso(max(ends, starts + timedelta(seconds=1))),
    }


async def resend_firing(channel: Channel, alerts: list[dict[str, Any]], settings: Settings) -> None:
    """
    Send firing alerts to an Alertmanager again, which expires alerts that are not repeated.

    Raises:
        DeliveryFailed: The Alertmanager did not accept them.
    """
    await _post(
        f"{channel.options['url'].rstrip('/')}/api/v2/alerts",
        json.loads(settings.redact(json.dumps(alerts))),
        settings,
        settings.secret(channel.secret),
    )


async def _webhook(
    channel: Channel, message: Message, settings: Settings, now: datetime, picture: bytes | None
) -> None:
    body = message.facts | {"title": message.title, "text": message.plain, "link": message.link}
    await _post(
        channel.options["url"],
        json.loads(settings.redact(json.dumps(body))),
        settings,
        settings.secret(channel.secret),
        {"Idempotency-Key": message.id},
    )


async def _post(
    url: str, body: Any, settings: Settings, token: str | None = None, more: dict[str, str] | None = None
) -> None:
    async with _client(settings) as client:
        await _post_confirmed(
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


async def _post_confirmed(
    client: "httpx.AsyncClient", url: str, body: Any, settings: Settings, headers: dict[str, str]
) -> None:
    """Post JSON and require a 2xx response. Control characters in the body are replaced."""
    import httpx

    try:
        answer = await client.post(url, json=formatting.printable_values(body), headers=headers)
    except (httpx.RequestError, httpx.InvalidURL) as problem:
        raise DeliveryFailed(f"could not be reached ({problem.__class__.__name__})") from None
    if not answer.is_success:
        wait = answer.headers.get("retry-after", "")
        raise DeliveryFailed(
            f"HTTP {answer.status_code}: {_error_text(answer.content, settings)}",
            float(wait) if wait.isascii() and wait.isdigit() else None,
        )


def _error_text(response: bytes | str, settings: Settings) -> str:
    """Return the receiver's error text on one line, without secrets."""
    text = response[:2000].decode("utf-8", "replace") if isinstance(response, bytes) else response[:2000]
    return formatting.single_line(settings.redact(text).strip(), 120)


async def _smtp(channel: Channel, message: Message, settings: Settings, now: datetime, picture: bytes | None) -> None:
    await asyncio.to_thread(_mail, channel, message, settings, now, picture)


def mail(channel: Channel, message: Message, settings: Settings, now: datetime, picture: bytes | None) -> EmailMessage:
    """Compose the mail of a message: text, HTML, and the picture of its panel."""
    found, options, message = EmailMessage(), channel.options, message.redacted(settings.redact)
    found["Subject"] = message.title
    found["From"], found["To"] = options["from"], ", ".join(options["to"])
    found["Date"] = format_datetime(now)
    domain = options["from"].rpartition("@")[2].strip(">") or "localhost"
    found["Message-ID"] = f"<{message.id}.{message.facts['made_us']}@{domain}>"  # The same for every attempt.
    found.set_content(message.plain)
    found.add_alternative(message.html("cid:panel" if picture else ""), subtype="html")
    if picture:
        shown: Any = found.get_payload()
        shown[1].add_related(picture, "image", "png", cid="<panel>", filename="panel.png")
    return found


def _mail(channel: Channel, message: Message, settings: Settings, now: datetime, picture: bytes | None) -> None:
    options, found = channel.options, mail(channel, message, settings, now, picture)
    tls, password = options.get("tls", "none"), settings.secret(channel.secret)
    timeout_s = PATIENCE_S / clock.speed()
    try:
        context = tls_context(settings.ca_file) if tls != "none" else None
        with (
            smtplib.SMTP_SSL(options["host"], options.get("port", 465), timeout=timeout_s, context=context)
            if tls == "tls"
            else smtplib.SMTP(
                options["host"], options.get("port", 587 if tls == "starttls" else 25), timeout=timeout_s
            ) as server
        ):
            if tls == "starttls":
                server.starttls(context=context)
            if password:
                if tls == "none":
                    raise DeliveryFailed(
                        f"{channel.secret} is set, but a password is not sent without TLS; set tls to starttls or tls"
                    )
                server.login(options.get("user", options["from"]), password)
            refused = server.send_message(found)
        if refused:
            logs.of(settings.redact).warning(
                f"{channel.name}: the mail server rejected {', '.join(sorted(refused))} as recipient"
            )
    except TimeoutError:
        raise DeliveryFailed(f"no response within {PATIENCE_S:g} s") from None
    except smtplib.SMTPResponseException as problem:
        raise DeliveryFailed(
            f"the mail server responded {problem.smtp_code}: {_error_text(problem.smtp_error, settings)}"
        ) from None
    except (smtplib.SMTPException, ssl.SSLError, OSError) as problem:
        raise DeliveryFailed(f"the mail could not be sent ({problem.__class__.__name__})") from None


async def _file(channel: Channel, message: Message, settings: Settings, now: datetime, picture: bytes | None) -> None:
    """Append the message, as a mail shows it, to an HTML page on this machine."""
    place = settings.base / channel.options["path"]
    source = f"data:image/png;base64,{base64.b64encode(picture).decode()}" if picture else ""
    page, title = (
        message.redacted(settings.redact).article(source, formatting.moment(now)),
        f"Notifications of {settings.app}",
    )
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with place.open("a", encoding="utf-8") as file:
            file.write(page if file.tell() else f"{messages.page(title)}{page}")
    except OSError as problem:
        raise DeliveryFailed(f"writing to {place} failed ({problem.strerror})") from None


async def _command(
    channel: Channel, message: Message, settings: Settings, now: datetime, picture: bytes | None
) -> None:
    """Run a command with the message as JSON on stdin; exit code 0 confirms the delivery."""
    body = message.facts | {"title": message.title, "text": message.plain, "link": message.link}
    try:
        running = await asyncio.create_subprocess_exec(
            *channel.options["command"],
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
    except OSError as problem:
        raise DeliveryFailed(f"{channel.options['command'][0]} cannot be run ({problem.strerror})") from None
    try:
        _, errors = await running.communicate(settings.redact(json.dumps(body)).encode())
    finally:
        if running.returncode is None:
            running.kill()
            await running.wait()
    if running.returncode:
        raise DeliveryFailed(f"exit code {running.returncode}: {_error_text(errors, settings)}")
