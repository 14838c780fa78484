"""
Deliver notifications: plan, render, send, retry, and give up after a day.

Each channel has a task of its own, so that one which hangs delays no other. Any number of processes may do this on one
store: what one has claimed no other sends, until it must be dead.
"""

import asyncio
import base64
import json
import random
import threading
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import datetime
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Protocol

from opslib.alerting.notifications import channels
from opslib.alerting.notifications import message as message_module
from opslib.alerting.notifications.channels import DeliveryFailed
from opslib.alerting.notifications.message import Message, Situation
from opslib.alerting.notifications.planner import REPORT, Cause, NotificationState, unknown_cause
from opslib.alerting.notifications.store import Delivery, NotificationStore
from opslib.foundation import clock, formatting, logs
from opslib.foundation.config.contacts import Channel, Contacts
from opslib.foundation.config.rules import PATH, SENT, Rules
from opslib.foundation.config.settings import Settings
from opslib.foundation.errors import StoreError, UsageError
from opslib.foundation.storage.database import Database

LOOK_S = 1.0  # Between two looks whether there is anything to tell.
BACKOFF_S, LONGEST_S = 1.0, 300.0
STAND_AGAIN_S = 60.0
PULSE_S = 60.0
PATIENCE_S = 10.0
# Kinds of channels that take words; the others take alerts.
TEXT_CHANNELS = ("terminal", "slack", "webhook", "smtp", "command")


class Situations(Protocol):
    """Reads how everything stood at an instant (microseconds)."""

    def at(self, at_us: int) -> Situation | None:
        """How everything stood; None where that cannot be read."""

    def cause_at(self, at_us: int) -> Callable[[NotificationState], Cause | None]:
        """What sets an alert off."""


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
        chance: Jitter is drawn from it.
        beating: Is whoever it works for well? While it is, a heartbeat service is told so, where one is configured.
        situations: Reads how everything stood, and what set an alert off; None where nobody can.
        before, after: What is done each time before and after it is planned what people are notified of.
    """

    def __init__(
        self,
        store: Database,
        settings: Settings,
        rules: Rules,
        staff: Contacts,
        now: Callable[[], datetime] = clock.now,
        chance: random.Random | None = None,
        beating: Callable[[], bool] = lambda: False,
        situations: "Situations | None" = None,
        before: Sequence[Callable[[], None]] = (),
        after: Sequence[Callable[[], None]] = (),
        complaints: "Complaints | None" = None,
    ):
        self.store, self.settings, self.rules, self.staff, self.now = store, settings, rules, staff, now
        self.dispatch, self._situations, self._before, self._after = (
            NotificationStore(store, settings.app),
            situations,
            before,
            after,
        )
        self._chance, self._beating = chance or random.Random(), beating
        # Of a message that is tried again and again, not all that it was read from.
        self.rendered = lru_cache(maxsize=64)(self._rendered)
        self._complaints = complaints or Complaints(settings)
        self._ill = False

    def plan(self) -> list[str]:
        """Write down what is to be told now; the ids of the messages."""
        return self.dispatch.plan(
            self.staff, self.rules, self._situations.cause_at if self._situations else lambda at_us: unknown_cause
        )

    def _rendered(self, name: str) -> Message:
        """A message as people read it: the same whenever it is asked for."""
        # Before anything is escaped or cut.
        body = json.loads(self.settings.redact(json.dumps(self.dispatch.message(name))))
        return message_module.compose(
            body,
            self.rules,
            self.staff,
            self._situation(body["made_us"]) if body["kind"] != REPORT else None,
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
        return max(self._chance.uniform(longest_s / 2, longest_s), min(asked_s or 0.0, 3600.0))

    def _picture(self, channel: Channel, told: Message) -> bytes | None:
        """
        The panel that a message is about, as it looked then, or the first chart of what was made; where the channel
        takes a picture.
        """
        if channel.kind == "smtp" and told.kind == REPORT:
            return _first_chart(Path(told.facts["notebook"]))
        if channel.kind != "smtp" or not told.facts["alerts"]:
            return None
        found = self._situation(told.facts["made_us"])
        return found.picture(told.facts["panel"]) if found else None

    def _situation(self, at_us: int) -> Situation | None:
        return self._situations.at(at_us) if self._situations else None

    async def stand(self) -> None:
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

    async def run(self, stop: asyncio.Event) -> None:
        """Plan and send until stopped; what is on its way is finished first."""
        tasks = [
            asyncio.create_task(self._often(stop, LOOK_S, partial(self.send_all, channel)))
            for channel in self.staff.channels.values()
        ]
        tasks += [
            asyncio.create_task(self._often(stop, LOOK_S, self._plan)),
            asyncio.create_task(self._often(stop, STAND_AGAIN_S, self.stand)),
            asyncio.create_task(self._often(stop, PULSE_S, self._pulse)),
        ]
        await asyncio.gather(*tasks)

    async def _often(self, stop: asyncio.Event, every_s: float, what: Callable[[], Awaitable[None]]) -> None:
        while not stop.is_set():
            try:
                await what()
                self._complaints.over("store")
            except StoreError as problem:
                self._complaints.say("store", str(problem))
            # Whatever it is, it is said, and tried again; and we are not well.
            except Exception as problem:
                self._ill = True
                self._complaints.say(
                    f"fault {problem}",
                    f"telling people failed: {problem.__class__.__name__}: {formatting.single_line(str(problem), 160)}",
                    always=True,
                )
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), every_s / clock.speed())

    def plan_all(self) -> None:
        """Write down what is to be told of alerts, between what is done before and after."""
        for task in self._before:
            task()
        self.plan()
        for task in self._after:
            task()

    async def _plan(self) -> None:
        await asyncio.to_thread(self.plan_all)
        self._ill = False
        for lost in await asyncio.to_thread(self.dispatch.unreachable, self.staff.channels):
            self._complaints.say(
                "lost", f"{lost} is given up: that channel is not in the settings any more", always=True
            )

    async def send_all(self, channel: Channel) -> None:
        """Send all that is due by a channel."""
        while await self.send(channel):
            pass

    async def _pulse(self) -> None:
        """Tell a heartbeat service that we are well, so that somebody hears of it when all of this machine is gone."""
        url = self.settings.secret("OPS_HEARTBEAT_URL")
        if not url or self._ill or not self._beating():
            return
        import httpx

        try:
            async with httpx.AsyncClient(timeout=PATIENCE_S, follow_redirects=False) as client:
                answer = await client.get(url)
            if not answer.is_success:
                self._complaints.say("pulse", f"the heartbeat service answered {answer.status_code}")
            else:
                self._complaints.over("pulse")
        except (httpx.RequestError, httpx.InvalidURL) as problem:
            self._complaints.say("pulse", f"the heartbeat service could not be reached ({problem.__class__.__name__})")


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


async def flush(notifier: Sender) -> None:
    """Plan, and send what is due by now; what fails waits for the next time."""
    notifier.plan_all()
    await asyncio.gather(*(notifier.send_all(channel) for channel in notifier.staff.channels.values()))


def run(notifier: Sender, stop: threading.Event) -> None:
    """Tell people from a thread of its own, until stopped."""

    async def telling() -> None:
        stopping = asyncio.Event()
        task = asyncio.create_task(notifier.run(stopping))
        await asyncio.to_thread(stop.wait)
        stopping.set()
        await task

    asyncio.run(telling())


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
            if staff.channels[name].kind in TEXT_CHANNELS[not aloud :]
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
