"""
Deliver notifications: render, send, retry, and report as failed after a day.

Several processes may do this on one database: a delivery claimed by one process is not sent by another until the claim
expires.
"""

import asyncio
import base64
import json
import random
from collections.abc import Callable
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from opslib.alerting.notifications import channels
from opslib.alerting.notifications import message as message_module
from opslib.alerting.notifications.channels import DeliveryFailed
from opslib.alerting.notifications.message import Message, Situation
from opslib.alerting.notifications.planner import REPORT, NotificationState
from opslib.alerting.notifications.store import Delivery, NotificationStore
from opslib.foundation import clock, formatting, logs
from opslib.foundation.config.contacts import Channel, Contacts
from opslib.foundation.config.rules import PATH, SENT, SEVERITIES, Rules
from opslib.foundation.config.settings import Settings
from opslib.foundation.errors import StoreError, UsageError
from opslib.foundation.storage.database import Database

BACKOFF_S, LONGEST_S = 1.0, 300.0


class Complaints:
    """Logs each problem once for as long as it lasts."""

    def __init__(self, settings: Settings):
        self._logger, self._lasting = logs.of(settings.redact), set[str]()

    def say(self, about: str, words: str, always: bool = False) -> None:
        """Log a problem; not again while it lasts, unless `always`."""
        if always or about not in self._lasting:
            self._logger.warning(words)
        self._lasting.add(about)

    def over(self, about: str) -> None:
        """Mark a problem as over."""
        self._lasting.discard(about)


class Sender:
    """
    Sends the notifications of one app.

    Args:
        now: Returns the current time; only the demo and tests replace it.
        situation: Returns the state of all panels at a time; None if it cannot be read.
    """

    def __init__(
        self,
        store: Database,
        settings: Settings,
        rules: Rules,
        contacts: Contacts,
        now: Callable[[], datetime] = clock.now,
        situation: Callable[[datetime], Situation | None] = lambda at: None,
        complaints: Complaints | None = None,
    ):
        self.store, self.settings, self.rules, self.contacts, self.now = store, settings, rules, contacts, now
        self.notifications, self._situation = NotificationStore(store, settings.app), situation
        # A message that is retried often is composed only once.
        self.rendered = lru_cache(maxsize=64)(self._rendered)
        self._complaints = complaints or Complaints(settings)

    def _rendered(self, name: str) -> Message:
        """Compose a stored message; the result is always the same."""
        # Secrets are removed before anything is escaped or cut.
        body = json.loads(self.settings.redact(json.dumps(self.notifications.message(name))))
        return message_module.compose(
            body,
            self.rules,
            self.contacts,
            self._situation(clock.instant(body["made_us"])) if body["kind"] != REPORT else None,
            self.settings.where,
        )

    async def send(self, channel: Channel) -> bool:
        """Send the next due message of a channel; return False if there was none."""
        delivery = await asyncio.to_thread(self.notifications.claim, channel.name)
        if delivery is None:
            return False
        now = self.now()
        if clock.micros(now) - delivery.since_us > clock.span_us(self.contacts.expire_after):
            await asyncio.to_thread(self.notifications.expired, delivery)
            self._complaints.say(
                channel.name,
                f"{delivery.message} failed: it could not be delivered to {channel.name} within "
                f"{self.contacts.expire_after} ({delivery.said or 'no attempt was made'})",
                always=True,
            )
            return True
        try:
            message = await asyncio.to_thread(self.rendered, delivery.message)
            if (until_us := await asyncio.to_thread(self.notifications.silenced_until, message.facts)) is not None:
                await asyncio.to_thread(
                    self.notifications.failed, delivery, "silenced", (until_us - clock.micros(now)) / 1e6
                )
                return True
            await channels.deliver(
                channel, message, self.settings, now, await asyncio.to_thread(self._picture, channel, message)
            )
        except StoreError:
            raise
        # Any error is logged, the message is retried, and the other channels continue.
        except Exception as problem:
            why = (
                str(problem)
                if isinstance(problem, DeliveryFailed)
                else formatting.single_line(
                    self.settings.redact(f"internal error ({problem.__class__.__name__}: {problem})"), 160
                )
            )
            self._complaints.say(
                channel.name,
                f"delivering {delivery.message} to {channel.name} failed: {why}; it is retried with increasing delay",
            )
            await asyncio.to_thread(
                self.notifications.failed,
                delivery,
                why,
                self._pause_s(delivery, problem.wait_s if isinstance(problem, DeliveryFailed) else None),
            )
            return True
        await asyncio.to_thread(self.notifications.sent, delivery)
        self._complaints.over(channel.name)
        return True

    def _pause_s(self, delivery: Delivery, requested_s: float | None) -> float:
        longest_s = min(LONGEST_S, BACKOFF_S * 2 ** min(delivery.attempts, 16))
        return max(random.uniform(longest_s / 2, longest_s), min(requested_s or 0.0, 3600.0))

    def _picture(self, channel: Channel, message: Message) -> bytes | None:
        """
        Return the picture of a message, if the channel accepts one.

        It shows the message's panel as of that time, or the first chart of a report.
        """
        if channel.kind not in channels.PICTURES:
            return None
        if message.kind == REPORT:
            return _first_chart(Path(message.facts["notebook"]))
        if not message.facts["alerts"]:
            return None
        found = self._situation(clock.instant(message.facts["made_us"]))
        alerts = message.facts["alerts"]
        worst = max(alerts, key=lambda alert: SEVERITIES.index(alert["severity"]))
        since_us = min(alert["pending_us"] for alert in alerts)
        return found.picture(message.facts["panel"], worst["rule"], since_us) if found else None

    async def resend_firing(self) -> None:
        """Send the notified alerts that still fire to each Alertmanager again, which expires what is not repeated."""
        known = [c for c in self.contacts.channels.values() if c.kind == "alertmanager"]
        if not known:
            return
        now = self.now()
        states = await asyncio.to_thread(self.notifications.open_states)
        alerts = [
            channels.alertmanager_alert(self._alert_of(n), self.settings.app, now + channels.EXPIRES_AFTER)
            for n in states
            if n.notified and n.level in SENT
        ]
        for channel in known if alerts else []:
            try:
                await channels.resend_firing(channel, alerts, self.settings)
            except DeliveryFailed as problem:
                self._complaints.say(
                    channel.name, f"sending the firing alerts to {channel.name} again failed: {problem}"
                )

    def _alert_of(self, state: NotificationState) -> dict[str, Any]:
        rule = self.rules.rules.get(state.rule)
        return {
            name: getattr(state, name) for name in ("alert", "rule", "subject", "source", "pending_us", "sentence")
        } | {"severity": state.level, "runbook": rule.runbooks.get(state.subject) if rule else None}

    async def send_all(self, channel: Channel) -> None:
        """Send all due messages of a channel."""
        while await self.send(channel):
            pass


def _first_chart(notebook: Path) -> bytes | None:
    """Return the first picture in an executed notebook; None if there is none or the notebook is missing."""
    try:
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
        found = next(
            (o["data"]["image/png"] for c in cells for o in c.get("outputs", ()) if "image/png" in o.get("data", {})),
            None,
        )
        return base64.b64decode("".join(found)) if found else None
    except (OSError, ValueError, KeyError):
        return None


def test_delivery(settings: Settings, contacts: Contacts, target: str, now: datetime) -> list[tuple[str, str]]:
    """
    Send a test message to a channel, to all channels of a role, or (if empty) to all channels.

    Returns:
        Each channel's name with the reason why delivery failed; empty if it succeeded.

    Raises:
        UsageError: There is no such channel or role.
    """
    if target in PATH:
        names = contacts.roles[target].channels
    elif target in contacts.channels or not target:
        names = (target,) if target else tuple(contacts.channels)
    else:
        known = (*contacts.channels, *PATH)
        raise UsageError(
            f"there is no channel or role {target!r}; expected one of: {', '.join(known)}."
            f"{formatting.nearest(target, known)}"
        )

    return _each(
        settings,
        contacts,
        names,
        lambda name: message_module.test_message(settings.app, name, contacts, settings.where),
        now,
    )


def broadcast(
    settings: Settings,
    contacts: Contacts,
    name: str,
    words: str,
    now: datetime,
    on_terminal: bool = True,
    lines: tuple[tuple[str, str], ...] = (),
) -> list[tuple[str, str]]:
    """
    Send free text to every channel of every role that accepts text.

    Args:
        name: The id of the message, the same for every attempt.
        on_terminal: Whether to send it to the terminal, too.
        lines: The lines after the text; see `Message.lines`.

    Returns:
        Each channel's name with the reason why delivery failed; empty if it succeeded.
    """
    names = tuple(
        dict.fromkeys(
            name
            for role in contacts.roles.values()
            for name in role.channels
            if contacts.channels[name].kind in channels.TEXT_CHANNELS
            and (on_terminal or contacts.channels[name].kind != "terminal")
        )
    )
    return _each(
        settings, contacts, names, lambda _: message_module.free_text(settings.app, name, words, contacts, lines), now
    )


def _each(
    settings: Settings, contacts: Contacts, names: tuple[str, ...], message: Callable[[str], Message], now: datetime
) -> list[tuple[str, str]]:
    async def one(name: str) -> tuple[str, str]:
        try:
            await channels.deliver(contacts.channels[name], message(name), settings, now)
        except DeliveryFailed as problem:
            return name, str(problem)
        except Exception as problem:  # A test message must show any problem of a channel.
            return name, formatting.single_line(
                settings.redact(f"internal error ({problem.__class__.__name__}: {problem})"), 160
            )
        return name, ""

    async def all_of_them() -> list[tuple[str, str]]:
        return list(await asyncio.gather(*(one(name) for name in names)))

    return asyncio.run(all_of_them())
