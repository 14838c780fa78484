"""Test the contacts of the settings: strict reading, every wrong line named, secrets only from the environment."""

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from opslib.foundation.config import contacts, settings
from opslib.foundation.config.contacts import Contacts, Role
from opslib.foundation.config.rules import PATH
from opslib.foundation.errors import SettingsError

WHOLE = """
[roles."Tech Lead"]
people = ["Ann", "Ben"]
channels = ["slack", "mail"]
hours = "08:30-17:00"

[roles.DevOps]
channels = ["pager"]

[channels.slack]
kind = "slack"
[channels.pager]
kind = "pagerduty"
[channels.mail]
kind = "smtp"
host = "mail.example"
from = "ops@desk.example"
to = ["lead@desk.example"]
tls = "starttls"
[channels.am]
kind = "alertmanager"
url = "http://127.0.0.1:9093"
[channels.script]
kind = "command"
command = ["/usr/local/bin/page", "--loud"]

[notify]
group_wait = "30s"
escalate_after = "10m"
lab_url = "https://lab.desk.example/"
"""
SECRETS = {"OPS_CHANNEL_SLACK": "https://hooks.example/services/T0/B0/secret", "OPS_CHANNEL_PAGER": "key-0123456789"}


def read(tmp_path: Path, content: str, **environ: str) -> Contacts:
    (tmp_path / "settings.toml").write_text(content)
    return contacts.read(settings.load(tmp_path, None, environ))


def test_defaults(tmp_path: Path) -> None:
    """Without settings every role of the guide's path exists and is notified on the terminal, at any hour."""
    found = contacts.read(settings.load(tmp_path, None, {}))
    assert (
        tuple(found.roles) == PATH
        and all(r.channels == ("terminal",) and r.hours == "always" for r in found.roles.values())
        and list(found.channels) == ["terminal"]
    )


def test_every_setting(tmp_path: Path) -> None:
    """
    Roles, channels and times are read as written; a channel's secret comes from the environment or from a named file.
    """
    found = read(tmp_path, WHOLE, **SECRETS)
    assert found.roles["Tech Lead"] == Role(
        "Tech Lead", ("Ann", "Ben"), ("slack", "mail"), "08:30-17:00"
    ) and found.roles["Junior Trader"] == Role("Junior Trader")
    assert (found.group_wait, found.escalate_after, found.repeat_every, found.lab_url) == (
        timedelta(seconds=30),
        timedelta(minutes=10),
        timedelta(hours=4),
        "https://lab.desk.example",
    )
    (tmp_path / "hook").write_text(SECRETS["OPS_CHANNEL_SLACK"] + "\n")
    held = settings.load(tmp_path, None, {"OPS_CHANNEL_SLACK_FILE": str(tmp_path / "hook"), "OPS_CHANNEL_PAGER": "k"})
    assert (
        held.secret("OPS_CHANNEL_SLACK") == SECRETS["OPS_CHANNEL_SLACK"]
        and contacts.read(held).channels["slack"].kind == "slack"
    )
    assert SECRETS["OPS_CHANNEL_SLACK"] not in repr(held) + held.redact(f"posting to {SECRETS['OPS_CHANNEL_SLACK']}")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('[roles."Tech Led"]', "the name is 'Tech Led'; .* or DevOps was expected.*Did you mean 'Tech Lead'"),
        ('[roles.DevOps]\nchanels = ["x"]', "there is no key 'chanels'.*Did you mean 'channels'"),
        ('[roles.DevOps]\nchannels = ["slak"]', "channels names 'slak'; a list of at least one of terminal"),
        ("[roles.DevOps]\nchannels = []", r"channels is \[\]; a list of at least one"),
        ('[roles.DevOps]\nhours = "9-5"', "hours is '9-5'; always, market, or a span"),
        ('[channels.x]\nkind = "slac"', "kind is 'slac'.*Did you mean 'slack'"),
        ('[channels.X]\nkind = "terminal"', "lower-case"),
        ('[channels.x]\nkind = "slack"', "OPS_CHANNEL_X is not set; it must hold the webhook's address"),
        (
            '[channels.x]\nkind = "slack"\nurl = "https://hooks.example/secret"',
            "there is no key 'url'.*Secrets belong in the environment: OPS_CHANNEL_",
        ),
        ('[channels.x]\nkind = "webhook"', "url is missing"),
        (
            '[channels.x]\nkind = "webhook"\nurl = "https://me:secret@host/"',
            "an http address without a name or password",
        ),
        ('[channels.x]\nkind = "webhook"\nurl = "host"', "an http address"),
        ('[channels.x]\nkind = "smtp"\nhost = "h"\nfrom = "a"\nto = "b"', "to is 'b'; a list of addresses"),
        ('[channels.x]\nkind = "smtp"\nhost = "h"\nfrom = "a"\nto = ["b"]\ntls = "yes"', "none, starttls or tls"),
        ('[channels.x]\nkind = "command"\ncommand = []', "command is empty; a list"),
        ("[notify]\nescalate = '1m'", "there is no key 'escalate'.*Did you mean 'escalate_after'"),
        ("[notify]\nrepeat_every = 'often'", "repeat_every is 'often'; a span of time such as 5m"),
        ("[notify]\nlab_url = 'https://lab.example/?token=x'", "without a name, password or token, was expected.$"),
        ("[notify]\nlab_url = 'http://[x'", "lab_url is invalid"),
        ('[channels.x]\nkind = ["slack"]', "kind is .'slack'.; terminal, slack"),
        ('[channels.x]\nkind = "webhook"\nurl = "http://[bad"', "an http address"),
        ('[channels.x]\nkind = "webhook"\nurl = "http://host:99999"', "an http address"),
        ('[channels.x]\nkind = "smtp"\nhost = "h"\nfrom = "a"\nto = ["b"]\nport = 70000', "port is 70000"),
        ('[channels.x]\nkind = "smtp"\nhost = "h"\nfrom = "a\\nBcc: c"\nto = ["b"]', "an address on one line"),
        ("roles = 1", "roles is 1; a table was expected"),
    ],
)
def test_invalid_contacts_are_rejected(tmp_path: Path, content: str, words: str) -> None:
    """Each invalid line is reported with its place and what was expected."""
    with pytest.raises(SettingsError, match=words) as refused:
        read(tmp_path, content)
    assert not re.search("example/secret|me:secret|token=x", str(refused.value))


@pytest.mark.parametrize(
    ("hours", "moment", "on_duty", "due"),
    [
        ("always", "2026-03-08T03:00", True, "2026-03-08T03:00"),
        ("market", "2026-03-10T12:00", True, "2026-03-10T12:00"),
        ("market", "2026-03-10T18:00", False, "2026-03-11T09:31"),
        ("market", "2026-03-13T16:01", False, "2026-03-16T09:31"),
        ("08:30-17:00", "2026-03-10T08:29", False, "2026-03-10T08:30"),
        ("08:30-17:00", "2026-03-10T17:00", False, "2026-03-11T08:30"),
        ("08:30-17:00", "2026-03-07T12:00", False, "2026-03-09T08:30"),
        ("22:00-06:00", "2026-03-10T23:00", True, "2026-03-10T23:00"),
        ("22:00-06:00", "2026-03-10T12:00", False, "2026-03-10T22:00"),
    ],
)
def test_hours_of_duty(hours: str, moment: str, on_duty: bool, due: str) -> None:
    """
    A role on duty is notified at once, any other when its duty starts next.

    That holds across a night, a weekend and a DST change.
    """
    from opslib.foundation import time_parsing

    role, at = Role("DevOps", hours=hours), time_parsing.parse(moment)
    assert role.on_duty(at) is on_duty and role.due(at) == time_parsing.parse(due)


def test_an_error_shows_no_secret(tmp_path: Path) -> None:
    """An address with a password is rejected without showing it; the path of a secret address is a secret, too."""
    with pytest.raises(SettingsError) as refused:
        read(tmp_path, '[notify]\nlab_url = "http://ann:hunter2secret@lab/"')
    assert "hunter2secret" not in str(refused.value)
    held = settings.load(tmp_path.parent, None, SECRETS)
    assert "B0/secret" not in held.redact("Cannot POST /services/T0/B0/secret") and held.redact("secret") == "secret"


def test_escalation_path() -> None:
    """
    Severity escalate notifies all roles. Without an acknowledgement the next role up the path follows, then the others.
    """
    found = Contacts()
    assert (
        found.notified_roles("Tech Lead", "critical") == ("Tech Lead",)
        and found.notified_roles("Tech Lead", "escalate") == PATH
    )
    assert (found.next_role(("Junior Trader",)), found.next_role(("Tech Lead", "DevOps")), found.next_role(PATH)) == (
        "Trading Manager",
        "Trading Manager",
        None,
    )
    assert datetime(2026, 3, 8, 7, tzinfo=UTC) == found.roles["DevOps"].due(datetime(2026, 3, 8, 7, tzinfo=UTC))
