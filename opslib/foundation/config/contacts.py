"""
Read roles, people, hours and channels of settings.toml (the guide's Escalation Path) and reject invalid ones.

Without settings every role is notified on the terminal, which needs no configuration. The secret of a channel (the
address of a Slack webhook, a PagerDuty key, a password) is in ``OPS_CHANNEL_NAME``, or in the file that
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
from opslib.foundation.config.settings import DEMO, Settings
from opslib.foundation.errors import SettingsError
from opslib.foundation.formatting import NEW_YORK

ALWAYS, MARKET = "always", "market"
TERMINAL = "terminal"
INBOX = "notifications.html"  # In the demo's home directory: the page that its messages are appended to.
PAGERDUTY = "https://events.pagerduty.com/v2/enqueue"
SOON = timedelta(days=8)  # All working hours occur at least once within this time.

# The channel kinds that need a secret.
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
        kind: terminal, slack, pagerduty, alertmanager, smtp, webhook, file or command.
        options: Its other keys in the settings.
    """

    name: str
    kind: str
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def secret(self) -> str:
        """The name of its secret."""
        return f"OPS_CHANNEL_{self.name.upper()}"


@dataclass(frozen=True, slots=True)
class Role:
    """
    One role of the Escalation Path.

    Attributes:
        people: The people who have it; shown in notifications.
        channels: The channels that notify it.
        hours: When it is notified of what can wait: ``always``, ``market``, or ``08:30-17:00`` (New York, weekdays).
    """

    name: str
    people: tuple[str, ...] = ()
    channels: tuple[str, ...] = (TERMINAL,)
    hours: str = ALWAYS

    def on_duty(self, at: datetime) -> bool:
        """Return whether it is notified at once of everything."""
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
        Return from when on it is notified of what can wait.

        At once while it is on duty, else when it is next on duty, to the minute.
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
    Who is notified, and how.

    Attributes:
        roles: Every role of the Escalation Path, by name.
        channels: By name; the terminal always exists.
        group_wait: Related alerts that fire within this time are notified together.
        escalate_after: After this time without an acknowledgement a critical alert is also sent to the next role.
        repeat_every: How often a firing, unacknowledged alert is notified again.
        expire_after: A notification that could not be delivered for this long is given up, and reported as failed.
        lab_url: Address of JupyterLab; empty if it is not set.
    """

    roles: dict[str, Role] = field(default_factory=lambda: {name: Role(name) for name in PATH})
    channels: dict[str, Channel] = field(default_factory=lambda: {TERMINAL: Channel(TERMINAL, TERMINAL)})
    group_wait: timedelta = _SPANS["group_wait"]
    escalate_after: timedelta = _SPANS["escalate_after"]
    repeat_every: timedelta = _SPANS["repeat_every"]
    expire_after: timedelta = _SPANS["expire_after"]
    lab_url: str = ""

    def notified_roles(self, who: str, severity: str) -> tuple[str, ...]:
        """Return the roles that are notified at once of an alert with this role; for severity escalate all of them."""
        return PATH if severity == "escalate" else (who,)

    def next_role(self, roles: tuple[str, ...]) -> str | None:
        """
        Return the next role on the path if those that were notified do not acknowledge.

        Upwards first, then the remaining roles.
        """
        furthest = max((PATH.index(r) for r in roles if r in PATH), default=-1)
        left = [r for r in (*PATH[furthest + 1 :], *reversed(PATH[: furthest + 1])) if r not in roles]
        return left[0] if left else None


def read(settings: Settings) -> Contacts:
    """
    Read the contacts from ``settings.toml``; the demo has its own, so that it notifies nobody but its page.

    Raises:
        SettingsError: The file is invalid; every problem with its place.
    """
    if settings.app == DEMO:
        inbox = Channel("inbox", "file", {"path": str(settings.home / INBOX)})
        channels = {TERMINAL: Channel(TERMINAL, TERMINAL), inbox.name: inbox}
        return Contacts({name: Role(name, (), (inbox.name,)) for name in PATH}, channels)
    document = documents.read(settings.base / "settings.toml")
    found = {name: document.table[name] for name in _TABLES if name in document.table}
    named = found.get("channels", {})
    known = {"roles": PATH, "channels": [TERMINAL, *(named if isinstance(named, dict) else ())]}

    def problems() -> list[str]:
        from opslib.foundation.config import contacts_form, validation

        return validation.problems(contacts_form.ContactsForm, found, str(document.path), known)

    document.validate(_FORM, known, problems)
    channels = {TERMINAL: Channel(TERMINAL, TERMINAL)} | {
        name: Channel(name, options["kind"], {key: value for key, value in options.items() if key != "kind"})
        for name, options in found.get("channels", {}).items()
    }
    if unset := [c for c in channels.values() if c.kind in SECRET_OF and not settings.secret(c.secret)]:
        raise SettingsError(
            "\n".join(
                f"{document.path}, [channels.{c.name}]: {c.secret} is not set; it must hold {SECRET_OF[c.kind]}. "
                f"Set it, or {c.secret}_FILE."
                for c in unset
            )
        )
    roles = {name: Role(name) for name in PATH} | {
        name: Role(
            name,
            tuple(options.get("people", ())),
            tuple(options.get("channels", (TERMINAL,))),
            options.get("hours", ALWAYS),
        )
        for name, options in found.get("roles", {}).items()
    }
    notify = found.get("notify", {})
    spans = {key: time_parsing.parse_span(notify[key]) for key in _SPANS if key in notify}
    return Contacts(roles, channels, **spans, lab_url=notify.get("lab_url", "").rstrip("/"))
