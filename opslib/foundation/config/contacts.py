"""
Read roles, people, hours and channels of settings.toml (the guide's Escalation Path), strictly.

Where nothing is set every role is told on the terminal, which needs nothing. The secret of a channel (the address of a
Slack webhook, a PagerDuty key, a password) stands in ``OPS_CHANNEL_NAME``, or in the file that
``OPS_CHANNEL_NAME_FILE`` names, never in ``settings.toml``.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, time, timedelta
from pathlib import Path
from typing import Any

from opslib.foundation import market_calendar, time_parsing
from opslib.foundation.config import documents
from opslib.foundation.config.rules import PATH
from opslib.foundation.config.settings import Settings
from opslib.foundation.errors import SettingsError
from opslib.foundation.formatting import NEW_YORK

ALWAYS, MARKET = "always", "market"
TERMINAL = "terminal"
PAGERDUTY = "https://events.pagerduty.com/v2/enqueue"
SOON = timedelta(days=8)  # Whatever the hours, they come round within it.

# Kinds that can do nothing without one.
SECRET_OF = {"slack": "the webhook's address", "pagerduty": "the integration's routing key"}
_SPANS = {
    "group_wait": timedelta(seconds=15),
    "escalate_after": timedelta(minutes=15),
    "repeat_every": timedelta(hours=4),
    "expire_after": timedelta(hours=24),
}
_FORM = Path(__file__).with_name("contacts_form.py")
_TABLES = ("roles", "channels", "notify")


@dataclass(frozen=True, slots=True)
class Channel:
    """
    One way to reach people.

    Attributes:
        name: Its name in the settings.
        kind: terminal, slack, pagerduty, alertmanager, smtp, webhook or command.
        told: What the settings say of it.
    """

    name: str
    kind: str
    told: Mapping[str, Any] = field(default_factory=dict)

    @property
    def secret(self) -> str:
        """The name of its secret."""
        return f"OPS_CHANNEL_{self.name.upper()}"


@dataclass(frozen=True, slots=True)
class Role:
    """
    One role of the Escalation Path.

    Attributes:
        people: Who has it; shown in what is sent.
        channels: Where it is told.
        hours: When it is told of what can wait: ``always``, ``market``, or ``08:30-17:00`` (New York, weekdays).
    """

    name: str
    people: tuple[str, ...] = ()
    channels: tuple[str, ...] = (TERMINAL,)
    hours: str = ALWAYS

    def on_duty(self, at: datetime) -> bool:
        """Is it told at once, whatever it is?"""
        if self.hours == ALWAYS:
            return True
        if self.hours == MARKET:
            return market_calendar.open_since(at) is not None
        here = at.astimezone(NEW_YORK)
        begins, ends = _span(self.hours)
        inside = begins <= here.time() < ends if begins < ends else not ends <= here.time() < begins
        return here.weekday() < 5 and inside

    def due(self, at: datetime) -> datetime:
        """
        From when on is it told of what can wait?

        At once while it is on duty, else when it next is, to the minute.
        """
        if self.on_duty(at):
            return at
        minute, until = at.replace(second=0, microsecond=0) + timedelta(minutes=1), at + SOON
        return next(
            (
                m
                for m in (minute + timedelta(minutes=i) for i in range(round(SOON.total_seconds() / 60)))
                if self.on_duty(m)
            ),
            until,
        )


def _span(hours: str) -> tuple[time, time]:
    begins, _, ends = hours.partition("-")
    return time.fromisoformat(begins), time.fromisoformat(ends)


@dataclass(frozen=True, slots=True)
class Contacts:
    """
    Who is told, and how.

    Attributes:
        roles: Every role of the Escalation Path, by name.
        channels: By name; the terminal is always there.
        group_wait: What fires within this of what it belongs to is told with it.
        escalate_after: A critical alert that nobody has acknowledged for so long is told to the next role as well.
        repeat_every: What still fires, unacknowledged, is told again so often.
        expire_after: What could not be delivered for so long is given up, and that is said.
        lab_url: Where JupyterLab stands; empty is that nobody said.
    """

    roles: dict[str, Role] = field(default_factory=lambda: {name: Role(name) for name in PATH})
    channels: dict[str, Channel] = field(default_factory=lambda: {TERMINAL: Channel(TERMINAL, TERMINAL)})
    group_wait: timedelta = _SPANS["group_wait"]
    escalate_after: timedelta = _SPANS["escalate_after"]
    repeat_every: timedelta = _SPANS["repeat_every"]
    expire_after: timedelta = _SPANS["expire_after"]
    lab_url: str = ""

    def told(self, who: str, severity: str) -> tuple[str, ...]:
        """Which roles are told at once of an alert whose rule names a role? Of what escalates, everybody."""
        return PATH if severity == "escalate" else (who,)

    def after(self, roles: tuple[str, ...]) -> str | None:
        """
        Which role comes next on the path, when those that were told say nothing?

        Upwards first, then whoever is left.
        """
        furthest = max((PATH.index(r) for r in roles if r in PATH), default=-1)
        left = [r for r in (*PATH[furthest + 1 :], *reversed(PATH[: furthest + 1])) if r not in roles]
        return left[0] if left else None


def read(settings: Settings) -> Contacts:
    """
    Who is told, by ``settings.toml`` of a desk?

    Raises:
        SettingsError: What stands there cannot be meant; every problem with its place.
    """
    document = documents.read(settings.base / "settings.toml")
    found = {name: document.table[name] for name in _TABLES if name in document.table}
    named = found.get("channels", {})
    known = {"roles": PATH, "channels": [TERMINAL, *(named if isinstance(named, dict) else ())]}

    def problems() -> list[str]:
        from opslib.foundation.config import contacts_form, validation

        return validation.problems(contacts_form.ContactsForm, found, str(document.path), known)

    document.validate(_FORM, known, problems)
    channels = {TERMINAL: Channel(TERMINAL, TERMINAL)} | {
        name: Channel(name, told["kind"], {key: value for key, value in told.items() if key != "kind"})
        for name, told in found.get("channels", {}).items()
    }
    if unset := [c for c in channels.values() if c.kind in SECRET_OF and not settings.secret(c.secret)]:
        raise SettingsError(
            "\n".join(
                f"{document.path}, [channels.{c.name}]: {c.secret} is not set; it holds {SECRET_OF[c.kind]}. "
                f"Set it, or {c.secret}_FILE."
                for c in unset
            )
        )
    roles = {name: Role(name) for name in PATH} | {
        name: Role(
            name,
            tuple(told.get("people", ())),
            tuple(told.get("channels", (TERMINAL,))),
            told.get("hours", ALWAYS),
        )
        for name, told in found.get("roles", {}).items()
    }
    notify = found.get("notify", {})
    spans = {key: time_parsing.parse_span(notify[key]) for key in _SPANS if key in notify}
    return Contacts(roles, channels, **spans, lab_url=notify.get("lab_url", "").rstrip("/"))
