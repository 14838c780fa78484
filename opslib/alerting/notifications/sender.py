"""
Deliver notifications: render, send, retry, and give up after a day.

Any number of processes may do this on one store: what one has claimed no other sends, until it must be dead.
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
from opslib.foundation.config.rules import PATH, SENT, Rules
from opslib.foundation.config.settings import Settings
from opslib.foundation.errors import StoreError, UsageError
from opslib.foundation.storage.database import Database

BACKOFF_S, LONGEST_S = 1.0, 300.0


class Complaints:
    """Logs what goes wrong, once for as long as it lasts."""

    def __init__(self, settings: Settings):
        self._logger, self._lasting = logs.of(settings.redact), set[str]()

    def say(self, about: str, words: str, always: bool = False) -> None:
        """Say what is wrong with something; not again while it lasts, unless always."""
        if always or about not in self._lasting:
            self._logger.warning(words)
        self._lasting.add(about)

    def over(self, about: str) -> None:
        """Nothing is wrong with it any more."""
        self._lasting.discard(about)


class Sender:
    """
    Tells people of one app's alerts.

    Args:
        now: What time it is; only the demo and tests give another one.
        situation: How everything stood at a moment; None where that cannot be read.
    """

    def __init__(
        self,
        store: Database,
        settings: Settings,
        rules: Rules,
        staff: Contacts,
        now: Callable[[], datetime] = clock.now,
        situation: Callable[[datetime], Situation | None] = lambda at: None,
        complaints: Complaints | None = None,
    ):
        self.store, self.settings, self.rules, self.staff, self.now = store, settings, rules, staff, now
        self.dispatch, self._situation = NotificationStore(store, settings.app), situation
        # Of a message that is tried again and again, not all that it was read from.
        self.rendered = lru_cache(maxsize=64)(self._rendered)
        self._complaints = complaints or Complaints(settings)

    def _rendered(self, name: str) -> Message:
        """A message as people read it: the same whenever it is asked for."""
        # Before anything is escaped or cut.
        body = json.loads(self.settings.redact(json.dumps(self.dispatch.message(name))))
        return message_module.compose(
            body,
            self.rules,
            self.staff,
            self._situation(clock.instant(body["made_us"])) if body["kind"] != REPORT else None,
            self.settings.where,
        )

    async def send(self, channel: Channel) -> bool:
        """Send the next message that is due by a channel; False where none was."""
        delivery = await asyncio.to_thread(self.dispatch.claim, channel.name)
        if delivery is None:
            return False
        now = self.now()
        if clock.micros(now) - delivery.since_us > clock.span_us(self.staff.expire_after):
            await asyncio.to_thread(self.dispatch.expired, delivery)
            self._complaints.say(
                channel.name,
                f"{delivery.message} is given up: {channel.name} could not be told within "
                f"{self.staff.expire_after} ({delivery.said or 'it was never reached'})",
                always=True,
            )
            return True
        try:
            told = await asyncio.to_thread(self.rendered, delivery.message)
            if (until_us := await asyncio.to_thread(self.dispatch.quiet_until, told.facts)) is not None:
                await asyncio.to_thread(
                    self.dispatch.failed, delivery, "kept quiet", (until_us - clock.micros(now)) / 1e6
                )
                return True
            await channels.deliver(
                channel, told, self.settings, now, await asyncio.to_thread(self._picture, channel, told)
            )
        except StoreError:
            raise
        # Whatever it is, the message waits, it is said, and the other channels go on.
        except Exception as problem:
            why = (
                str(problem)
                if isinstance(problem, DeliveryFailed)
                else formatting.single_line(
                    self.settings.redact(f"failed here ({problem.__class__.__name__}: {problem})"), 160
                )
            )
            self._complaints.say(
                channel.name, f"{channel.name} was not told of {delivery.message}: it {why}; it is tried again"
            )
            await asyncio.to_thread(
                self.dispatch.failed,
                delivery,
                why,
                self._pause_s(delivery, problem.wait_s if isinstance(problem, DeliveryFailed) else None),
            )
            return True
        await asyncio.to_thread(self.dispatch.sent, delivery)
        self._complaints.over(channel.name)
        return True

    def _pause_s(self, delivery: Delivery, asked_s: float | None) -> float:
        longest_s = min(LONGEST_S, BACKOFF_S * 2 ** min(delivery.attempts, 16))
        return max(random.uniform(longest_s / 2, longest_s), min(asked_s or 0.0, 3600.0))

    def _picture(self, channel: Channel, told: Message) -> bytes | None:
        """
        The panel that a message is about, as it looked then, or the first chart of what was made; where the channel
        takes a picture.
        """
        if channel.kind == "smtp" and told.kind == REPORT:
            return _first_chart(Path(told.facts["notebook"]))
        if channel.kind != "smtp" or not told.facts["alerts"]:
            return None
        found = self._situation(clock.instant(told.facts["made_us"]))
        return found.picture(told.facts["panel"]) if found else None

    async def resend_firing(self) -> None:
        """Say to each Alertmanager what still fires and was told: it forgets what it does not hear again."""
        known = [c for c in self.staff.channels.values() if c.kind == "alertmanager"]
        if not known:
            return
        now = self.now()
        notices = await asyncio.to_thread(self.dispatch.standing)
        alerts = [
            channels.alertmanager_alert(self._alert_of(n), self.settings.app, now + channels.STANDS_FOR)
            for n in notices
            if n.told and n.level in SENT
        ]
        for channel in known if alerts else []:
            try:
                await channels.resend_firing(channel, alerts, self.settings)
            except DeliveryFailed as problem:
                self._complaints.say(channel.name, f"{channel.name} was not told what still fires: it {problem}")

    def _alert_of(self, notice: NotificationState) -> dict[str, Any]:
        rule = self.rules.rules.get(notice.rule)
        return {
            name: getattr(notice, name) for name in ("alert", "rule", "subject", "source", "pending_us", "sentence")
        } | {"severity": notice.level, "runbook": rule.runbooks.get(notice.subject) if rule else None}

    async def send_all(self, channel: Channel) -> None:
        """Send all that is due by a channel."""
        while await self.send(channel):
            pass


def _first_chart(notebook: Path) -> bytes | None:
    """The first picture in an executed notebook; None where there is none, or the notebook is gone."""
    try:
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
        found = next(
            (o["data"]["image/png"] for c in cells for o in c.get("outputs", ()) if "image/png" in o.get("data", {})),
            None,
        )
        return base64.b64decode("".join(found)) if found else None
    except (OSError, ValueError, KeyError):
        return None


def test_delivery(settings: Settings, staff: Contacts, target: str, now: datetime) -> list[tuple[str, str]]:
    """
    Try the ways to a channel, or to all channels of a role, or (empty) all there are, with a message that says it is a
    trial.

    Returns:
        Each channel's name, and why it was not told; empty where it was.

    Raises:
        UsageError: There is no such channel or role.
    """
    if target in PATH:
        names = staff.roles[target].channels
    elif target in staff.channels or not target:
        names = (target,) if target else tuple(staff.channels)
    else:
        known = (*staff.channels, *PATH)
        raise UsageError(
            f"there is no channel or role {target!r}; there are: {', '.join(known)}.{formatting.nearest(target, known)}"
        )

    return _each(
        settings, staff, names, lambda name: message_module.test_message(settings.app, name, staff, settings.where), now
    )


def broadcast(
    settings: Settings,
    staff: Contacts,
    name: str,
    words: str,
    now: datetime,
    aloud: bool = True,
    lines: tuple[tuple[str, str], ...] = (),
) -> list[tuple[str, str]]:
    """
    Tell everybody, by every channel of a role, what somebody says.

    Args:
        name: The id of what is said, the same however often it is sent.
        aloud: On the terminal too?
        lines: What follows the words; see `Message.lines`.

    Returns:
        Each channel's name, and why it was not told; empty where it was.
    """
    names = tuple(
        dict.fromkeys(
            name
            for role in staff.roles.values()
            for name in role.channels
            if staff.channels[name].kind in channels.TEXT_CHANNELS
            and (aloud or staff.channels[name].kind != "terminal")
        )
    )
    return _each(
        settings, staff, names, lambda _: message_module.free_text(settings.app, name, words, staff, lines), now
    )


def _each(
    settings: Settings, staff: Contacts, names: tuple[str, ...], message: Callable[[str], Message], now: datetime
) -> list[tuple[str, str]]:
    async def one(name: str) -> tuple[str, str]:
        try:
            await channels.deliver(staff.channels[name], message(name), settings, now)
        except DeliveryFailed as problem:
            return name, str(problem)
        except Exception as problem:  # A trial is there to show whatever is wrong with a way.
            return name, formatting.single_line(
                settings.redact(f"failed here ({problem.__class__.__name__}: {problem})"), 160
            )
        return name, ""

    async def all_of_them() -> list[tuple[str, str]]:
        return list(await asyncio.gather(*(one(name) for name in names)))

    return asyncio.run(all_of_them())
