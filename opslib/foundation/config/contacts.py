"""
Read roles, people, hours and channels of settings.toml (the guide's Escalation Path), strictly.

Where nothing is set every role is told on the terminal, which needs nothing. The secret of a channel (the address of a
Slack webhook, a PagerDuty key, a password) stands in ``OPS_CHANNEL_NAME``, or in the file that
``OPS_CHANNEL_NAME_FILE`` names, never in ``settings.toml``.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, time, timedelta
from typing import Any, NoReturn
from urllib.parse import SplitResult, urlsplit

from opslib.foundation import formatting, market_calendar, time_parsing
from opslib.foundation.config.rules import PATH
from opslib.foundation.config.settings import Settings, toml
from opslib.foundation.errors import SettingsError, UsageError
from opslib.foundation.formatting import NEW_YORK

ALWAYS, MARKET = "always", "market"
TERMINAL = "terminal"
PAGERDUTY = "https://events.pagerduty.com/v2/enqueue"
SOON = timedelta(days=8)  # Whatever the hours, they come round within it.

# What each kind of channel may be told in settings.toml, and what of it must be there.
KINDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "terminal": ((), ()),
    "slack": ((), ()),
    "pagerduty": (("url",), ()),
    "alertmanager": (("url",), ("url",)),
    "smtp": (("host", "port", "from", "to", "user", "tls"), ("host", "from", "to")),
    "webhook": (("url",), ("url",)),
    "command": (("command",), ("command",)),
}
# Kinds that can do nothing without one.
SECRET_OF = {"slack": "the webhook's address", "pagerduty": "the integration's routing key"}
_TYPES: dict[str, type] = {
    "url": str,
    "host": str,
    "port": int,
    "from": str,
    "to": list,
    "user": str,
    "tls": str,
    "command": list,
}
_SPANS = {
    "group_wait": timedelta(seconds=15),
    "escalate_after": timedelta(minutes=15),
    "repeat_every": timedelta(hours=4),
    "expire_after": timedelta(hours=24),
}
_NAME = re.compile(r"[a-z][a-z0-9_]{0,30}")
_HOURS = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)")


@dataclass(frozen=True, slots=True)
class Channel:
    """
    One way to reach people.

    Attributes:
        name: Its name in the settings.
        kind: One of `KINDS`.
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
        SettingsError: What stands there cannot be meant; named by its place.
    """
    path = settings.base / "settings.toml"
    found = toml(path)

    def wrong(where: str, what: str) -> NoReturn:
        raise SettingsError(f"{path}, {where}: {what}")

    channels = {TERMINAL: Channel(TERMINAL, TERMINAL)} | {
        name: _channel(name, told, settings, wrong) for name, told in _tables(found, "channels", wrong)
    }
    roles = {name: Role(name) for name in PATH} | {
        name: _role(name, told, channels, wrong) for name, told in _tables(found, "roles", wrong)
    }
    return Contacts(roles, channels, **_notify(found.get("notify", {}), wrong))


def _tables(found: Mapping[str, Any], name: str, wrong: Any) -> list[tuple[str, dict[str, Any]]]:
    tables = found.get(name, {})
    if not isinstance(tables, dict) or not all(isinstance(table, dict) for table in tables.values()):
        wrong(name, f"tables such as [{name}.NAME] were wanted.")
    return list(tables.items())


def _channel(name: str, told: dict[str, Any], settings: Settings, wrong: Any) -> Channel:
    where = f"channels.{name}"
    if not _NAME.fullmatch(name):
        wrong(where, "a channel's name is lower-case letters, digits and _.")
    kind = told.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        wrong(where, f"kind is {kind!r}; it may be {', '.join(KINDS)}.{formatting.nearest(str(kind), KINDS)}")
    may, must = KINDS[kind]
    for key, value in told.items():
        if key != "kind" and key not in may:
            wrong(
                where,
                f"{key!r} is nothing that a {kind} channel knows; it may set: {', '.join(may) or 'nothing'}"
                f".{formatting.nearest(key, may)} Secrets belong in OPS_CHANNEL_{name.upper()}.",
            )
        if key != "kind" and (
            not isinstance(value, _TYPES[key])
            or isinstance(value, bool)
            or (isinstance(value, list) and not (value and all(isinstance(v, str) and v for v in value)))
        ):
            wrong(where, f"{key} is {value!r}, which is not of the kind that is wanted there.")
    for key in must:
        if key not in told:
            wrong(where, f"{key} is missing.")
    if "url" in told:
        parts = _parts(told["url"])
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.password:
            wrong(
                where,
                "url is no http address, or holds a password; what is secret belongs in "
                + f"OPS_CHANNEL_{name.upper()}.",
            )
    if not 0 < told.get("port", 1) < 65_536:
        wrong(where, f"port is {told['port']}; 1 to 65535 was wanted.")
    if any(c in told.get("from", "") + "".join(told.get("to", ())) for c in "\r\n"):
        wrong(where, "from and to are addresses on one line each.")
    if told.get("tls", "none") not in ("none", "starttls", "tls"):
        wrong(where, f"tls is {told['tls']!r}; it may be none, starttls or tls.")
    channel = Channel(name, kind, {k: v for k, v in told.items() if k != "kind"})
    if kind in SECRET_OF and not settings.secret(channel.secret):
        wrong(where, f"{channel.secret} is not set; it holds {SECRET_OF[kind]}. Set it, or {channel.secret}_FILE.")
    return channel


def _parts(told: object) -> SplitResult:
    """An address in its parts; of what is none, all are empty."""
    try:
        parts = urlsplit(told) if isinstance(told, str) else urlsplit("")
        parts.port  # noqa: B018  # Reading it is what refuses a bad one.
        return parts
    except ValueError:
        return urlsplit("")


def _role(name: str, told: dict[str, Any], channels: Mapping[str, Channel], wrong: Any) -> Role:
    where = f"roles.{name!r}"
    if name not in PATH:
        wrong(where, f"there is no such role; there are: {', '.join(PATH)}.{formatting.nearest(name, PATH)}")
    for key, value in told.items():
        if key not in ("people", "channels", "hours"):
            wrong(
                where,
                f"{key!r} is nothing that a role has; it has people, channels and "
                f"hours.{formatting.nearest(key, ('people', 'channels', 'hours'))}",
            )
        if key != "hours" and not (isinstance(value, list) and all(isinstance(v, str) for v in value)):
            wrong(where, f"{key} is {value!r}; a list of names was wanted.")
    unknown = [c for c in told.get("channels", ()) if c not in channels]
    if unknown:
        wrong(
            where,
            f"channels names {unknown[0]!r}; there are: {', '.join(channels)}"
            f".{formatting.nearest(unknown[0], channels)}",
        )
    if told.get("channels") == []:
        wrong(where, "channels is empty: nobody would be told.")
    hours = told.get("hours", ALWAYS)
    if hours not in (ALWAYS, MARKET) and not (isinstance(hours, str) and _HOURS.fullmatch(hours)):
        wrong(
            where, f"hours is {hours!r}; always, market, or a span such as 08:30-17:00 (New York, weekdays) was wanted."
        )
    return Role(name, tuple(told.get("people", ())), tuple(told.get("channels", (TERMINAL,))), hours)


def _notify(told: Any, wrong: Any) -> dict[str, Any]:
    if not isinstance(told, dict):
        wrong("notify", "a table was wanted.")
    found: dict[str, Any] = {}
    for key, value in told.items():
        if key == "lab_url":
            parts = _parts(value)
            if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.username:
                wrong(
                    "notify",
                    "lab_url is no address of JupyterLab such as https://HOST, without a name, password or token.",
                )
            found[key] = value.rstrip("/")
            continue
        if key not in _SPANS:
            wrong(
                "notify",
                f"{key!r} is nothing that can be set there; it may set: lab_url, {', '.join(_SPANS)}"
                f".{formatting.nearest(key, (*_SPANS, 'lab_url'))}",
            )
        try:
            found[key] = time_parsing.parse_span(str(value))
        except UsageError as problem:
            wrong("notify", f"{key}: {problem}")
    return found
