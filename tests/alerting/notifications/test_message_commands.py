"""Commands in messages can be copied from every kind of message on every kind of channel and run in a shell."""

import html
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from opslib.alerting.notifications import message
from opslib.alerting.notifications.message import Code, Message
from opslib.alerting.notifications.store import NotificationStore
from opslib.foundation.config import rules
from opslib.foundation.config import settings as settings_module
from opslib.foundation.config.contacts import Channel, Contacts, Role
from opslib.foundation.config.rules import PATH
from opslib.foundation.config.settings import Settings
from opslib.foundation.storage.database import Database
from opslib.incidents.lifecycle import Incidents
from opslib.services.notifying import NotificationTasks
from opslib.simulation.world.http_server import Answer, Request
from tests.alerting.notifications.test_channels import NOW, Postbox, body, mail_server, mailing, receiver, tell
from tests.alerting.notifications.test_sender import Day
from tests.support.days import at

RULES = rules.load()
MARKUP = (
    "*bold* _it_ ~gone~ `ops ack EVIL` ```x``` <!channel> <@U012> <http://evil.example|click> > quote gamma_zero & co"
)
KINDS = ("firing", "rose", "repeat", "unheard", "over", "passed")
CHANNELS = ("slack", "pagerduty", "alertmanager", "smtp", "webhook", "command", "terminal")
COMMAND = re.compile(r"(?:^|: )(ops .+)$", re.M)


class Codes(HTMLParser):
    """Collect the contents of the code elements of an HTML page."""

    def __init__(self, page: str):
        super().__init__()
        self.found: list[str] = []
        self._inside = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self._inside = tag == "code"

    def handle_endtag(self, tag: str) -> None:
        self._inside = False

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.found.append(data)


def spans(mrkdwn: str) -> list[str]:
    """Return the code spans of a Slack message, as Slack shows them."""
    return [html.unescape(a or b) for a, b in re.findall(r"```(.+?)```|`([^`\n]+)`", mrkdwn)]


def in_blocks(blocks: list[dict[str, Any]]) -> str:
    """Return the markup of a Slack message's blocks."""
    texts = [t for b in blocks for t in (b.get("text"), *b.get("fields", ()), *b.get("elements", ())) if t]
    return "\n".join(t["text"] for t in texts if t["type"] == "mrkdwn")


def copied(
    kind: str, what: Message, settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> list[str]:
    """Send a message over a channel of a kind; return the commands that a person can copy from it."""
    if kind == "terminal":
        capsys.readouterr()
        assert tell(Channel("x", kind), what, settings) == ""
        return COMMAND.findall(capsys.readouterr().out)
    if kind == "command":
        kept = tmp_path / "kept.json"
        assert (
            tell(
                Channel(
                    "x",
                    kind,
                    {
                        "command": [
                            sys.executable,
                            "-c",
                            "import sys, pathlib; pathlib.Path(sys.argv[1]).write_bytes(sys.stdin.buffer.read())",
                            str(kept),
                        ]
                    },
                ),
                what,
                settings,
            )
            == ""
        )
        return COMMAND.findall(json.loads(kept.read_bytes())["text"])
    if kind == "smtp":
        box = Postbox()
        with mail_server(box) as port:
            assert tell(mailing(port), what, settings) == ""
        plain, page = (box.mails[0].get_body((form,)).get_content().replace("\r\n", "\n") for form in ("plain", "html"))
        found = COMMAND.findall(plain)
        assert [c for c in Codes(page).found if c.startswith("ops ")] == found
        return found
    got: list[Request] = []
    with receiver(lambda r: got.append(r) or Answer(202)) as url:
        if kind == "slack":
            channel, settings = (
                Channel("x", kind),
                settings_module.load(settings.base, settings.app, {"OPS_CHANNEL_X": f"{url}/services/A-SECRET-PATH"}),
            )
        else:
            channel, settings = (
                Channel("x", kind, {"url": url}),
                settings_module.load(settings.base, settings.app, {"OPS_CHANNEL_X": "a-routing-key-0123"}),
            )
        assert tell(channel, what, settings) == ""
    sent = [json.loads(r.body) for r in got]
    match kind:
        case "slack":
            shown = [c for c in spans(in_blocks(sent[0]["blocks"])) if c.startswith("ops ")]
            assert shown == [c for c in spans(sent[0]["text"]) if c.startswith("ops ")]
            return shown
        case "pagerduty":
            return [
                c
                for event in sent
                for c in COMMAND.findall(event.get("payload", {}).get("custom_details", {}).get("text", ""))
            ]
        case "alertmanager":
            return COMMAND.findall("\n".join(json.dumps(alert, indent=0) for alerts in sent for alert in alerts))
    return COMMAND.findall(sent[0]["text"])


def shell(command: str, home: Path) -> subprocess.CompletedProcess[str]:
    """Run a command in a shell that has only ``ops`` on its path, without our environment variables."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("OPS_")} | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(home),
    }
    return subprocess.run(["bash", "-c", command], cwd="/", env=environ, capture_output=True, text=True, timeout=280)


@pytest.fixture(scope="module")
def alive(tmp_path_factory: pytest.TempPathFactory) -> Day:
    """
    A desk during its outage, with a notification and an incident; its home has characters that a shell interprets.
    """
    day = Day(tmp_path_factory.mktemp("it's a `desk` & more") / "home $HOME", "http://127.0.0.1:1", "11:20")
    day.live("11:26", 30)
    Incidents(day.store, day.settings, RULES).follow_alerts()
    return day


def made(day: Day, kind: str) -> Message:
    """Return a message of a kind about the firing alert, with free text that contains markup."""
    (notice,) = [
        n for n in day.notifying.notifications.open_states() if n.rule == "availability" and n.subject == "massive"
    ]
    alert = body("over" if kind in ("over", "passed") else "firing")["alerts"][0] | {
        "alert": notice.alert,
        "sentence": MARKUP,
    }
    where = day.settings.where
    contacts = Contacts({name: Role(name, (MARKUP,)) for name in PATH}, lab_url="https://lab.example")
    if kind in KINDS:
        return message.compose(body(kind, alerts=[alert] * (12 if kind == "rose" else 1)), RULES, contacts, None, where)
    if kind == "missed job":
        late = alert | {
            "rule": "schedule",
            "source": "schedule",
            "runbook": None,
            "again": ["report", "weekly", "--period", "2026-W10"],
        }
        return message.compose(body("firing", alerts=[late]), RULES, contacts, None, where)
    if kind == "report":
        page = "/x/a_b_c *d*.html"
        return message.compose(
            {
                "id": "desk-report-1",
                "app": "desk",
                "kind": "report",
                "severity": "notify",
                "title": MARKUP,
                "lines": [["", MARKUP], ["Report", page]],
                "page": page,
                "made_us": 1,
                "roles": [],
                "panel": "system",
                "alerts": [],
            },
            RULES,
            contacts,
            None,
            where,
        )
    if kind == "trial":
        return message.test_message("desk", "terminal", contacts, where)
    return message.free_text(
        "desk",
        "desk-1",
        MARKUP,
        contacts,
        (("SHA-256", Code("ab" * 32)), ("Read it", message.command("incident", "list", where=where))),
    )


ALL = (*KINDS, "missed job", "report", "trial", "said")


@pytest.mark.parametrize("kind", ALL)
def test_commands_are_the_same_on_every_channel(
    alive: Day, kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """
    Decoded as its medium decodes it, every channel shows the same commands. Free text never becomes markup, and no
    invisible characters are inserted.
    """
    what = made(alive, kind)
    meant = [str(words) for _, words in what.lines if isinstance(words, Code) and words.startswith("ops ")]
    assert bool(meant) == (kind not in ("over", "passed", "report"))
    for name in CHANNELS:
        expected = (
            []
            if name == "alertmanager" or (name == "pagerduty" and kind in ("over", "passed"))
            else meant * (12 if (name, kind) == ("pagerduty", "rose") else 1)
        )
        assert copied(name, what, alive.settings, tmp_path, capsys) == expected, name
    codes = [str(words) for _, words in what.lines if isinstance(words, Code)]
    assert spans(what.slack) == codes
    free = re.sub(r"```.+?```|`[^`\n]+`", "", what.slack).replace("<https://lab.example", "")
    assert (
        "<!" not in free
        and "<@" not in free
        and "<http" not in free
        and "`" not in free
        and "~" not in free
        and "EVIL" not in "".join(codes)
    )
    # Remove our own headings and title.
    shown = [re.sub(r"^\*[^*]*:\* ", "", line) if ":* " in line else line.strip("*") for line in free.splitlines()]
    assert not [
        line for line in shown if "*" in line or re.search(r"(?<!\w)_|_(?!\w)", line) or line.startswith(("&gt;", ">"))
    ]
    assert "\u200b" not in what.slack and (kind in ("trial", "over") or "gamma_zero" in what.slack)


def test_every_command_runs_as_pasted(alive: Day) -> None:
    """
    Each command of each kind of message runs as pasted: it exits with 0 (3 for a report without data) and takes effect
    on that desk.
    """
    commands = list(
        dict.fromkeys(
            str(words)
            for kind in ALL
            for _, words in made(alive, kind).lines
            if isinstance(words, Code) and words.startswith("ops ")
        )
    )
    assert len(commands) == 6
    incident = Incidents(alive.store, alive.settings, RULES).all()[-1]
    for command in commands:
        ended = shell(command, alive.settings.base)
        assert ended.returncode == 0 or ("report weekly" in command and ended.returncode == 3), (command, ended.stderr)
        if " ack " in command:
            assert "acknowledged by" in ended.stdout and [
                by for by, _, _ in alive.notifying.notifications.acks().values()
            ]
        if "runbook open" in command:
            assert (
                list((alive.settings.outputs / "incidents" / incident.id).glob("01_massive_down.ipynb"))
                and len(Incidents(alive.store, alive.settings, RULES).all()) == 1
            )
        if "report weekly" in command:
            assert list((alive.settings.outputs / "reports").rglob("2026-W10_weekly.html"))
        if "--test" in command:
            assert "[test] desk" in ended.stdout
        if "-o json" in command:
            assert json.loads(ended.stdout)
        if "incident list" in command:
            assert incident.id in ended.stdout


def test_a_missed_job_message_has_the_command_to_run_it(tmp_path: Path) -> None:
    """
    The message about a missed job has the complete command, with the notebook's absolute path and parameters; its
    sentence has none.
    """
    from opslib.jobs.due import DueJobs

    home = tmp_path / "my home"
    home.mkdir()
    (home / "mine.ipynb").write_text("{}")
    (home / "schedule.toml").write_text(
        '[mine]\nruns = "notebook mine.ipynb"\nwhen = "08:00"\ngrace = "1h"\nparameters = { words = "a b", '
        'deep = 3 }\n[morning]\nruns = "checklist morning"\nwhen = "08:00"\n'
    )
    settings = settings_module.load(home, "two", {})
    store = Database(settings.url, lambda: at("10:30"))
    agenda = DueJobs.of(store, settings, Contacts())
    agenda.begin(at("07:00"))
    found = agenda.alerts_of_missed(at("10:30"), {})
    NotificationStore(store, "two").store_external_alerts(found)
    notifying = NotificationTasks(store, settings, RULES, Contacts(), lambda: at("10:30"))
    made = [notifying.sender.rendered(name) for name in notifying.plan()]
    by_hand = {str(words) for m in made for head, words in m.lines if head == "Run by hand"}
    where = f"--home '{home}' --app two"
    assert by_hand == {
        f"ops run '{home}/mine.ipynb' -p 'words=a b' -p deep=3 {where}",
        f"ops checklist morning {where}",
    }
    assert len(found) == 2 and all("ops " not in a["annotations"]["summary"] for a in found)


def test_a_command_names_home_and_app_only_where_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command names the home and the app only if a shell without our environment would use others."""

    def where(home, app=None, environ=None):
        return settings_module.load(home, app, environ or {}).where

    assert where(tmp_path) == ("--home", str(tmp_path)) and where(None, None, {"OPS_HOME": str(tmp_path)}) == (
        "--home",
        str(tmp_path),
    )
    assert (
        where(tmp_path, "two") == where(tmp_path, None, {"OPS_APP": "two"}) == ("--home", str(tmp_path), "--app", "two")
    )
    (tmp_path / "settings.toml").write_text('app = "two"')
    assert where(tmp_path) == ("--home", str(tmp_path)) and where(tmp_path, "desk")[2:] == ("--app", "desk")
    assert where(None) == () and where(None, "demo") == ("--app", "demo")


def test_an_id_that_begins_with_a_hyphen_is_not_an_option() -> None:
    """An alert id that begins with a hyphen is passed as an id, not as an option."""
    what = message.compose(
        body(alerts=[body()["alerts"][0] | {"alert": "-rf-1"}]), RULES, Contacts(), None, ("--home", "/a b")
    )
    assert [str(w) for _, w in what.lines if isinstance(w, Code)] == [
        "ops runbook open massive_down --incident=-rf-1 --home '/a b'",
        "ops ack --home '/a b' -- -rf-1",
    ]


# Characters that a terminal, a mail program or a chat would interpret instead of showing. Newline and tab belong to our
# own layout.
OBEYED = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-"
    "\ufffb\ud800-\udfff\U000e0000-\U000e0fff]"
)
OUTSIDE = st.text(
    st.one_of(
        st.characters(codec=None, exclude_categories=()),
        st.sampled_from("\x1b\x9b\r\n\u202e\u2066\u200d\u200b\u2028\ud800\U000e0041`*_<>&"),
    ),
    max_size=30,
).map(lambda words: f"{words}\x1b[31m\u202e\r\nBcc: x@evil.example\u200b")


@hypothesis_settings(max_examples=150, deadline=None)
@given(outside=OUTSIDE, kind=st.sampled_from((*KINDS, "report", "said")))
def test_no_control_characters_are_sent(tmp_path_factory: pytest.TempPathFactory, outside: str, kind: str) -> None:
    """External text, anywhere in a message, sends no control character to any channel."""
    from opslib.alerting.notifications import channels

    settings = settings_module.load(Path("/nowhere"), "desk", {})
    alert = body("over" if kind in ("over", "passed") else "firing")["alerts"][0] | dict.fromkeys(
        ("alert", "rule", "subject", "source", "sentence", "runbook"), outside
    )
    contacts = Contacts({name: Role(name, (outside,)) for name in PATH})
    if kind == "report":
        what = message.compose(
            {
                "id": "desk-report-1",
                "app": "desk",
                "kind": "report",
                "severity": "notify",
                "title": outside,
                "lines": [[outside, outside]],
                "page": "",
                "made_us": 1,
                "panel": "system",
                "alerts": [],
            },
            RULES,
            contacts,
            None,
        )
    elif kind == "said":
        what = message.free_text("desk", "desk-1", outside, contacts, ((outside, Code(outside)),))
    else:
        what = message.compose(body(kind, alerts=[alert], group=outside, roles=[*PATH, outside]), RULES, contacts, None)
    mail = channels.mail(mailing(25), what, settings, NOW, None)
    parts = [
        what.plain,
        what.slack,
        what.html(),
        mail["subject"],
        mail["message-id"],
        *(part.get_content() for part in mail.walk() if not part.is_multipart()),
    ]
    posted = [what.facts, channels.pagerduty_events(what, "key", settings), channels.alertmanager_alerts(what, NOW)]
    assert not [p for p in (*parts, *map(texts, posted)) if OBEYED.search(p.replace("\r\n", "\n"))]
    assert what.plain.count("\n") == len(what.lines) + bool(what.link) and "\n" not in what.title and "Bcc" not in mail
    bytes(mail)  # The mail can be serialised.


def texts(found: Any) -> str:
    """Return every text in a JSON value, joined."""
    if isinstance(found, str):
        return found
    if isinstance(found, dict):
        return "".join(texts(k) + texts(v) for k, v in found.items())
    return "".join(map(texts, found)) if isinstance(found, list | tuple) else ""
