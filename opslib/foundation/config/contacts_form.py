"""Define the valid content of settings.toml for roles, channels and notification times."""

import re
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, Field

from opslib.foundation.config import addresses
from opslib.foundation.config.validation import (
    Span,
    Table,
    Texts,
    by_kind,
    expected,
    one_of,
    some_of,
)

_HOURS = re.compile(r"always|market|([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)")


def _hours(given: str) -> str:
    if not _HOURS.fullmatch(given):
        raise ValueError
    return given


def _web_address(given: str) -> str:
    if not addresses.is_address(given) or addresses.holds_login(given):
        raise ValueError
    return given


def _lab_address(given: str) -> str:
    if addresses.parts(given).query:
        raise ValueError
    return _web_address(given)


def _line(given: str) -> str:
    if "\r" in given or "\n" in given:
        raise ValueError
    return given


Url = Annotated[
    str,
    AfterValidator(_web_address),
    expected("an http address without a name or password (secrets belong in OPS_CHANNEL_NAME),", secret=True),
]
LabUrl = Annotated[
    str,
    AfterValidator(_lab_address),
    expected("an address of JupyterLab such as https://HOST, without a name, password or token,", secret=True),
]
Line = Annotated[str, AfterValidator(_line)]
Words = Annotated[str, expected("a text")]
Command = Annotated[
    list[Annotated[str, Field(min_length=1)]],
    Field(min_length=1),
    expected("a list of a program and its arguments", secret=True),
]


class RoleForm(Table):
    """One role of the Escalation Path."""

    people: Texts = Field(default_factory=list)
    channels: Annotated[list[str], some_of(known="channels", least=1)] = Field(default_factory=list)
    hours: Annotated[
        str,
        AfterValidator(_hours),
        expected("always, market, or a span such as 08:30-17:00 (New York, weekdays),"),
    ] = "always"


class ChannelForm(Table):
    """The keys of every channel."""

    hint: ClassVar[str] = " Secrets belong in the environment: OPS_CHANNEL_ and the channel's name in capitals."

    kind: str


class UrlForm(ChannelForm):
    """A channel that needs an address."""

    url: Url


class PagerDutyForm(ChannelForm):
    """PagerDuty, or a service that accepts its events."""

    url: Url | None = None


class SmtpForm(ChannelForm):
    """A mail server."""

    host: Words
    port: Annotated[int, Field(gt=0, lt=65_536), expected("a whole number from 1 to 65535")] = 25
    from_: Annotated[Line, expected("an address on one line")] = Field(alias="from")
    to: Annotated[list[Annotated[Line, Field(min_length=1)]], Field(min_length=1), expected("a list of addresses,")]
    user: Annotated[str, expected("a text", secret=True)] = ""
    tls: Annotated[str, one_of("none", "starttls", "tls")] = "none"


class FileForm(ChannelForm):
    """An HTML page on this machine."""

    path: Words


class CommandForm(ChannelForm):
    """A command that is run."""

    command: Command


CHANNELS: dict[str, type[Table]] = {
    "terminal": ChannelForm,
    "slack": ChannelForm,
    "pagerduty": PagerDutyForm,
    "alertmanager": UrlForm,
    "smtp": SmtpForm,
    "webhook": UrlForm,
    "file": FileForm,
    "command": CommandForm,
}


class NotifyForm(Table):
    """When people are notified, and where JupyterLab is."""

    group_wait: Span | None = None
    escalate_after: Span | None = None
    repeat_every: Span | None = None
    expire_after: Span | None = None
    lab_url: LabUrl | None = None


ChannelName = Annotated[
    str, Field(pattern="^[a-z][a-z0-9_]{0,30}$"), expected("a name of lower-case letters, digits and _")
]


class ContactsForm(Table):
    """The tables of settings.toml that define who is notified, and how."""

    roles: dict[Annotated[str, one_of(known="roles")], RoleForm] = Field(default_factory=dict)
    channels: dict[ChannelName, Annotated[Any, by_kind(CHANNELS)]] = Field(default_factory=dict)
    notify: NotifyForm | None = None
