"""External alerts: received from and sent to other systems, with a real Prometheus and Alertmanager if installed."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from opslib.alerting.notifications import external_alerts
from opslib.alerting.notifications.store import NotificationStore
from opslib.foundation import clock
from opslib.foundation.config import rules
from opslib.foundation.config import settings as settings_module
from opslib.foundation.config.contacts import Channel, Contacts, Role
from opslib.foundation.config.rules import PATH
from opslib.foundation.errors import BadAlerts
from opslib.foundation.storage.database import Database
from opslib.services import server
from opslib.services.notifying import NotificationTasks
from opslib.services.server import ServerThread
from opslib.simulation.world.http_server import Answer
from opslib.telemetry.pages import refused_posts
from opslib.telemetry.pages.store import SnapshotStore
from tests.alerting.notifications.test_channels import receiver
from tests.support.servers import free_port
from tests.support.snapshots import PageOf, at, post
from tests.support.system import needs

NOW = datetime(2026, 3, 10, 15, 0, tzinfo=UTC)
RULES = rules.load()
ZERO = "0001-01-01T00:00:00Z"


def alert(name: str = "DiskFull", ends: datetime | None = None, **labels: str) -> dict[str, Any]:
    found: dict[str, Any] = {
        "labels": {"alertname": name, "instance": "host1", **labels},
        "annotations": {"summary": "the disk of host1 is full"},
        "startsAt": "2026-03-10T14:59:00.123456789Z",
        "generatorURL": "http://p/",
    }
    return found | ({"endsAt": ends.isoformat()} if ends else {})


def read(*alerts: Any) -> external_alerts.Batch:
    return external_alerts.read(json.dumps(alerts).encode(), NOW)


def test_an_alert_is_identified_by_its_labels() -> None:
    """
    An alert is identified by its labels; without an end it lasts five minutes; empty times and labels count as missing.
    """
    one, same, other = read(alert(), alert(note=""), alert(instance="host2")).alerts
    assert one["fingerprint"] == same["fingerprint"] != other["fingerprint"] and one["starts_us"] == clock.micros(
        datetime(2026, 3, 10, 14, 59, 0, 123456, UTC)
    )
    assert one["ends_us"] == clock.micros(NOW + timedelta(minutes=5))
    never = read(alert() | {"startsAt": ZERO, "endsAt": ZERO}).alerts[0]
    assert (never["starts_us"], never["ends_us"]) == (clock.micros(NOW), clock.micros(NOW + timedelta(minutes=5)))


@pytest.mark.parametrize("body", [b"{", b"{}", b"", b"3", b'"x"', b"[" * 100_000, b"[{]", b"\xff\xfe"])
def test_a_body_that_is_not_a_list_is_rejected(body: bytes) -> None:
    """A body that is not a JSON list is rejected as a whole."""
    with pytest.raises(BadAlerts, match="a list of alerts was expected"):
        external_alerts.read(body, NOW)


@pytest.mark.parametrize("body", [b"null", b"[]", b"  []  ", b"[] and more", b"\xef\xbb\xbf[]"])
def test_an_empty_list_is_accepted(body: bytes) -> None:
    """As in Alertmanager, null is an empty list, and anything after the list is ignored."""
    assert external_alerts.read(body, NOW) == ([], [])


ODD: dict[str, tuple[Any, str]] = {
    "a number": (1, "is 1.0, expected an object"),
    "null": (None, "is null"),
    "no labels": ({}, "at least one label pair"),
    "null labels": ({"labels": None}, "at least one label pair"),
    "empty labels": ({"labels": {"alertname": ""}}, "at least one label pair"),
    "a list of labels": ({"labels": []}, "labels is"),
    "a number as value": ({"labels": {"alertname": 3}}, "labels.alertname is 3"),
    "an object as value": ({"labels": {"a": {}}}, "labels.a is"),
    "NaN as value": ({"labels": {"a": float("nan")}}, "labels.a is NaN"),
    "a dotted name": ({"labels": {"a.b": "c"}}, 'invalid label set: invalid name "a.b"'),
    "a dash": ({"labels": {"a-b": "c"}}, "invalid name"),
    "a colon": ({"labels": {"a:b": "c"}}, "invalid name"),
    "a digit first": ({"labels": {"1a": "c"}}, "invalid name"),
    "UTF-8": ({"labels": {"größe": "c"}}, "invalid name"),
    "no name": ({"labels": {"": "c"}}, "invalid name"),
    "a name with a newline": ({"labels": {"a\n": "c"}}, "invalid name"),
    "a dotted annotation": ({"labels": {"a": "b"}, "annotations": {"a.b": "c"}}, "invalid annotations"),
    "a list of annotations": ({"labels": {"a": "b"}, "annotations": []}, "annotations is"),
    "a number as annotation": ({"labels": {"a": "b"}, "annotations": {"a": 1}}, "annotations.a is"),
    "soon": ({"labels": {"a": "b"}, "startsAt": "soon"}, 'startsAt is "soon", expected a time such as'),
    "a number as time": ({"labels": {"a": "b"}, "endsAt": 5}, "endsAt is"),
    "a day": ({"labels": {"a": "b"}, "startsAt": "2026-03-10"}, "startsAt"),
    "February 30": ({"labels": {"a": "b"}, "startsAt": "2026-02-30T10:00:00Z"}, "startsAt"),
    "24 h": ({"labels": {"a": "b"}, "startsAt": "2026-03-10T24:00:00Z"}, "startsAt"),
    "an end before its start": (
        {"labels": {"a": "b"}, "startsAt": "2026-03-10T10:00:00Z", "endsAt": "2026-03-10T09:00:00Z"},
        "start time must be before end time",
    ),
    "a start in an hour": (
        {"labels": {"a": "b"}, "startsAt": "2026-03-10T16:00:00Z"},
        "start time must be before end time",
    ),
}


@pytest.mark.parametrize(("odd", "words"), ODD.values(), ids=ODD)
@pytest.mark.parametrize("place", [0, 1, 2])
def test_an_invalid_alert_rejects_no_other(odd: Any, words: str, place: int) -> None:
    """An invalid alert is rejected with its place and reason; the others are stored."""
    good = [alert("One"), alert("Two")]
    good.insert(place, odd)
    found = read(*good)
    assert [a["labels"]["alertname"] for a in found.alerts] == ["One", "Two"]
    assert len(found.refused) == 1 and found.refused[0].startswith(f"alert [{place}]: ") and words in found.refused[0]


@pytest.mark.parametrize("name", ["d01_one_long_description", "d02_zero_start_past_end"])
def test_case_files_are_stored_completely(name: str) -> None:
    """
    Both alerts of each case file are stored, as in Alertmanager 0.25; a text that is too long is truncated and says so.
    """
    body = (Path(__file__).parents[2] / "cases" / f"{name}.json").read_bytes()
    found = external_alerts.read(body, NOW)
    assert len(found.alerts) == len(json.loads(body)) == 2 and found.refused == []
    if name.startswith("d01"):
        description = found.alerts[0]["annotations"]["description"]
        assert "characters)" in description and len(description) < external_alerts.LONGEST + 40 < len(
            json.loads(body)[0]["annotations"]["description"]
        )


TIMES = {
    "2026-03-10T10:00:00+05:30": datetime(2026, 3, 10, 4, 30, tzinfo=UTC),
    "2026-03-10T10:00:00.123456789Z": datetime(2026, 3, 10, 10, 0, 0, 123456, UTC),
    "2026-03-10T10:00:00,5Z": datetime(2026, 3, 10, 10, 0, 0, 500000, UTC),
    "2026-03-10T10:00Z": datetime(2026, 3, 10, 10, tzinfo=UTC),
    "2026-03-10T10:00:00": datetime(2026, 3, 10, 10, tzinfo=UTC),
    "0001-01-01T01:00:00+01:00": NOW,
    "0001-01-01T00:00:00+01:00": datetime(1970, 1, 1, tzinfo=UTC),
    "0000-01-01T00:00:00Z": datetime(1970, 1, 1, tzinfo=UTC),
    "1960-01-01T00:00:00Z": datetime(1970, 1, 1, tzinfo=UTC),
    "": datetime(1970, 1, 1, tzinfo=UTC),
}


@pytest.mark.parametrize(("written", "read_as"), TIMES.items())
def test_times_are_read_as_by_alertmanager(written: str, read_as: datetime) -> None:
    """
    Times are read as by Alertmanager: with offset, nanoseconds, or UTC without a zone. Go's zero time in any zone
    counts as missing; times before 1970 become 1970.
    """
    assert read(alert() | {"startsAt": written}).alerts[0]["starts_us"] == clock.micros(read_as)


def test_unusual_but_valid_alerts_are_stored() -> None:
    """
    An alert is stored without an alertname, with keys in any case, an odd generatorURL, unknown keys, a null label,
    invalid UTF-8 or huge numbers.
    """
    odd = [
        {"Labels": {"severity": "critical", "x": None}, "GENERATORURL": 3, "more": {"a": [1]}, "status": "firing"},
        {"labels": {"alertname": "a" * 9000}},
        {"labels": {f"l{n}": "x" for n in range(300)}},
        {"labels": {"a": "\ud800"}},
    ]
    assert len(read(*odd).alerts) == 4 and read(*odd).refused == []
    raw = b'[{"labels": {"alertname": "n", "a": "\xff\xfe"}, "n": ' + b"9" * 6000 + b"}]"
    assert len(external_alerts.read(raw, NOW).alerts) == 1
    many = read(*[{"labels": {"n": str(n)}} for n in range(external_alerts.MOST + 2)])
    assert len(many.alerts) == external_alerts.MOST and "2 alerts were rejected" in many.refused[0]


@pytest.mark.parametrize(
    "name",
    [
        "$(reboot)",
        "a b;c|d&e",
        "\x1b[2J\x1b]0;x\x07",
        "\u202eevil",
        "größe",
        "--help",
        "..",
        "",
        "`id`",
        "a/../b",
        "x" * 5000,
        "'\"\\",
        "\r\n",
        "\u200b",
    ],
)
def test_an_alert_id_is_safe_in_a_shell(name: str, store_url: str) -> None:
    """
    Whatever the alert's name is, its id matches [A-Za-z0-9_.-]+ and does not start with a hyphen. Its texts have no
    control or bidirectional characters. Different names have different ids.
    """
    desk = Heard(store_url)
    texts = f"{name} \x1b[31m \u202e \u2066 \x9b \x07"
    desk.hears(
        alert(name, severity="critical", subject=texts) | {"annotations": {"summary": texts}},
        alert(f"{name}!", severity="critical", rule=texts) | {"annotations": {}},
    )
    desk.tells(20)
    found = [a for _, body in desk.notifications.deliveries() for a in body["alerts"]]
    assert len({a["alert"] for a in found}) == 2
    for a in found:
        assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", a["alert"]) and len(a["alert"]) < 150
        assert all(a[key].isprintable() and len(a[key]) < 1100 for key in ("rule", "subject", "sentence"))


class Heard:
    """A desk that receives external alerts, with a clock that is set by hand."""

    def __init__(self, url: str):
        self.at = NOW
        self.store = Database(url, lambda: self.at)
        self.notifications = NotificationStore(self.store, "desk")

    def hears(self, *alerts: dict[str, Any]) -> None:
        found = external_alerts.read(json.dumps(alerts).encode(), self.at)
        assert found.refused == []
        self.notifications.store_external_alerts(found.alerts)

    def tells(self, after_s: float) -> list[tuple[str, str, str, str]]:
        self.at += timedelta(seconds=after_s)
        made = [self.notifications.message(name) for name in self.notifications.plan(Contacts(), RULES)]
        return [(m["kind"], m["severity"], a["rule"], a["how"]) for m in made for a in m["alerts"]]


def test_an_external_alert_episode(store_url: str) -> None:
    """
    An external alert is notified once, then its resolution. If its sender stops, it ends without being resolved; if it
    fires again, it is notified again.
    """
    desk = Heard(store_url)
    for _ in range(4):
        desk.hears(alert(severity="critical", ends=desk.at + timedelta(minutes=4)))
        desk.tells(20)
    assert desk.tells(0) == []
    (_only, notification), *_ = desk.notifications.deliveries()
    assert (
        notification["kind"],
        notification["severity"],
        notification["roles"],
        notification["alerts"][0]["sentence"],
    ) == (
        "firing",
        "critical",
        ["Tech Lead"],
        "the disk of host1 is full (reported by another monitoring system)",
    ) and len(desk.notifications.deliveries()) == 1
    desk.hears(alert(severity="critical", ends=desk.at - timedelta(seconds=1)))
    assert desk.tells(1) == [("over", "critical", "DiskFull", "resolved")] and desk.tells(600) == []
    desk.hears(alert(severity="critical", ends=desk.at + timedelta(minutes=4)) | {"startsAt": desk.at.isoformat()})
    assert desk.tells(16) == [("firing", "critical", "DiskFull", "")] and desk.tells(100) == []
    assert desk.tells(200) == [("over", "critical", "DiskFull", "ended")] and desk.notifications.open_states() == []


def test_missed_external_alert_is_summarised(store_url: str) -> None:
    """An external alert that began and ended between two plannings is reported afterwards."""
    desk = Heard(store_url)
    desk.hears(alert(severity="critical", ends=desk.at + timedelta(minutes=4)))
    assert desk.tells(1000) == [("passed", "critical", "DiskFull", "ended")] and desk.tells(100) == []


def test_external_warnings_are_not_notified(store_url: str) -> None:
    """
    An external warning, or an alert that was over on arrival, notifies no one. An alert without a severity is notified.
    """
    desk = Heard(store_url)
    desk.hears(alert(severity="warning"), alert("Old", ends=NOW - timedelta(seconds=5)), alert("Plain"))
    assert desk.tells(20) == [("firing", "notify", "Plain", "")] and desk.tells(400) == [
        ("over", "notify", "Plain", "ended")
    ]


@contextmanager
def process(*command: str, ready: Callable[[], bool], **how: Any) -> Iterator[subprocess.Popen[str]]:
    """Run a server from when it is ready; kill it at the end."""
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True, **how)
    try:
        until(ready)
        yield running
    finally:
        running.kill()
        running.wait()


def until(holds: Callable[[], Any], within_s: float = 45.0) -> None:
    deadline = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.1)  # The other process signals nothing, so poll.


def asked(url: str, body: Any = None) -> Any:
    request = urllib.request.Request(
        url, None if body is None else json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            said = answer.read()
            return json.loads(said) if said and said[:1] in b"[{" else said
    except urllib.error.URLError:
        return None


@contextmanager
def alertmanager(folder: Path, hook: str, port: int) -> Iterator[subprocess.Popen[str]]:
    """Run a real Alertmanager that notifies a webhook at once."""
    folder.mkdir(exist_ok=True)
    (folder / "am.yml").write_text(
        f"route: {{receiver: hook, group_wait: 1s, group_interval: 1s, repeat_interval: 4h, group_by: "
        f"[alertname]}}\nreceivers: [{{name: hook, webhook_configs: [{{url: '{hook}/am', send_resolved: true}}]}}]\n"
    )
    command = [
        needs("prometheus-alertmanager"),
        f"--config.file={folder / 'am.yml'}",
        f"--storage.path={folder / 'am'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--cluster.listen-address=",
    ]
    with process(*command, ready=lambda: asked(f"http://127.0.0.1:{port}/-/ready") is not None) as running:
        yield running


@pytest.mark.slow
def test_a_kill_loses_silences_in_alertmanager_but_not_here(tmp_path: Path) -> None:
    """
    An Alertmanager killed three seconds after it notified of A and accepted a silence for B has lost both: on the next
    resend it notifies of A again and of B. Our collector, killed in the same way, keeps both.
    """
    got: list[str] = []
    with receiver(
        lambda r: got.extend(a["labels"]["alertname"] for a in json.loads(r.body)["alerts"]) or Answer(200)
    ) as url:
        port = free_port()
        base = f"http://127.0.0.1:{port}/api/v2"

        def send(*names):
            return asked(f"{base}/alerts", [{"labels": {"alertname": n}} for n in names])

        real = datetime.fromtimestamp(time.clock_gettime(time.CLOCK_REALTIME), UTC)
        with alertmanager(tmp_path, url, port) as running:
            silence = {
                "matchers": [{"name": "alertname", "value": "B", "isRegex": False}],
                "startsAt": real.isoformat(),
                "endsAt": (real + timedelta(hours=2)).isoformat(),
                "createdBy": "Ann",
                "comment": "known",
            }
            assert asked(f"{base}/silences", silence)
            until(lambda: [s["status"]["state"] for s in asked(f"{base}/silences")] == ["active"])
            send("A", "B")
            until(lambda: "A" in got)
            time.sleep(3)  # Alertmanager was measured with this wait; it writes its state only every 15 minutes.
            assert got == ["A"] and len(asked(f"{base}/silences")) == 1
            running.send_signal(signal.SIGKILL)
            running.wait()
        with alertmanager(tmp_path, url, port):
            assert asked(f"{base}/silences") == [] and asked(f"{base}/alerts") == []
            send("A", "B")
            until(lambda: got.count("A") == 2 and "B" in got)  # One message may contain both, or each its own.
        assert got.count("A") == 2 and got.count("B") == 1

    ours: list[dict[str, Any]] = []
    home = tmp_path / "home"
    began = time.clock_gettime(time.CLOCK_REALTIME)
    with receiver(lambda r: ours.append(json.loads(r.body)) or Answer(204)) as url:
        home.mkdir()
        (home / "settings.toml").write_text(
            f'[channels.hook]\nkind = "webhook"\nurl = "{url}"\n[roles."Tech Lead"]\nchannels = ["hook"]'
            f'\n[notify]\ngroup_wait = "1s"\n'
        )
        environ = {**os.environ, "OPS_HOME": str(home), "OPS_CLOCK": f"2026-03-10T15:00:00Z,{began},1"}

        def ops(*what):
            return [sys.executable, "-m", "opslib.cli", *what]

        silenced = subprocess.run(
            ops("silence", "add", "--rule", "B", "--for", "2h", "--reason", "known", "--by", "Ann"),
            env=environ,
            capture_output=True,
            text=True,
        )
        # `--rule` accepts only our rules; an external alert is silenced by its subject.
        assert silenced.returncode == 64
        subprocess.run(
            ops("silence", "add", "--subject", "B", "--for", "2h", "--reason", "known", "--by", "Ann"),
            env=environ,
            check=True,
            capture_output=True,
        )
        store = Database(
            f"sqlite:///{home / 'store.sqlite'}",
            lambda: NOW + timedelta(seconds=time.clock_gettime(time.CLOCK_REALTIME) - began),
        )

        def now():
            return store.now()

        def hear():
            return NotificationStore(store, "desk").store_external_alerts(
                external_alerts.read(
                    json.dumps(
                        [alert(n, subject=n, severity="critical", ends=now() + timedelta(minutes=4)) for n in "AB"]
                    ).encode(),
                    now(),
                ).alerts
            )

        for _ in range(2):
            hear()
            collecting = subprocess.Popen(
                ops("collect"), env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            until(lambda: ours)
            time.sleep(3)
            collecting.send_signal(signal.SIGKILL)
            collecting.wait()
    assert [[a["rule"] for a in m["alerts"]] for m in ours] == [["A"]]
    assert [s.subject for s in NotificationStore(store, "desk").silences()] == ["B"]


@pytest.mark.slow
def test_alerts_of_a_real_prometheus_are_notified_once(tmp_path: Path) -> None:
    """
    A real Prometheus scrapes our /metrics and fires our exported rules. Its alert of our rule is notified only once,
    with ours; its own alert is notified, too; a real Alertmanager accepts our notifications.
    """
    prometheus, began = needs("prometheus"), time.clock_gettime(time.CLOCK_REALTIME)

    def store_at():
        return at(1000) + timedelta(seconds=time.clock_gettime(time.CLOCK_REALTIME) - began)

    home = tmp_path / "home"
    home.mkdir()
    (home / "rules.toml").write_text('[availability]\nfor = "1s"\n')
    got: list[dict[str, Any]] = []
    settings, table = settings_module.load(home, None, {}), rules.load(home)
    store = Database(settings.url, store_at)
    made = PageOf(-600)
    for k in range(200):
        dead = k >= 80
        SnapshotStore(store).write(
            "desk",
            [
                post(
                    5.0 * k,
                    made.add(
                        massive_requests=6,
                        massive_successes=0 if dead else 6,
                        massive_failures=6 if dead else 0,
                        tradier_requests=6,
                        tradier_successes=6,
                    ).body(5.0 * k),
                )
            ],
            known_at_ts=True,
        )
    am_port, prometheus_port = free_port(), free_port()
    with (
        receiver(lambda r: got.append(json.loads(r.body)) or Answer(200)) as hook,
        alertmanager(tmp_path / "am", hook, am_port),
        ServerThread(settings, store, table, now=store_at) as served,
    ):
        from opslib.alerting import prometheus_rules

        (tmp_path / "ours.yml").write_text(prometheus_rules.prometheus_rules(table))
        (tmp_path / "more.yml").write_text(
            "groups: [{name: more, interval: 1s, rules: [{alert: OnlyTheyKnow, expr: 'vector(1)', labels: "
            "{severity: critical}, annotations: {summary: something else is wrong}}]}]\n"
        )
        (tmp_path / "p.yml").write_text(
            f"global: {{scrape_interval: 1s, evaluation_interval: 1s}}\nrule_files: [ours.yml, more.yml]"
            f"\nscrape_configs: [{{job_name: ops, static_configs: [{{targets: "
            f"['{served.url.removeprefix('http://')}']}}]}}]\n"
            f"alerting: {{alertmanagers: [{{api_version: v2, static_configs: [{{targets: "
            f"['{served.url.removeprefix('http://')}']}}]}}]}}\n"
        )
        (tmp_path / "ours.yml").write_text((tmp_path / "ours.yml").read_text().replace("interval: 15s", "interval: 1s"))
        base = f"http://127.0.0.1:{prometheus_port}/api/v1"
        command = [
            prometheus,
            f"--config.file={tmp_path / 'p.yml'}",
            f"--storage.tsdb.path={tmp_path / 'tsdb'}",
            f"--web.listen-address=127.0.0.1:{prometheus_port}",
            "--rules.alert.resend-delay=2s",
        ]

        def fires():
            return {
                (a["labels"]["alertname"], a["labels"].get("subject"))
                for a in (asked(f"{base}/alerts") or {"data": {"alerts": []}})["data"]["alerts"]
                if a["state"] == "firing"
            }

        with process(*command, ready=lambda: asked(f"http://127.0.0.1:{prometheus_port}/-/ready") is not None):
            until(lambda: ("availability_critical", "massive") in fires() and ("OnlyTheyKnow", None) in fires())
            assert not [name for name, subject in fires() if subject == "tradier"]
            until(lambda: _heard(store) >= {"availability_critical", "OnlyTheyKnow"})
        # Our own alert fires, too; the problem is notified once.
        from tests.support.receivers import fires as ours_fire

        ours_fire(store, "desk", 1000, "firing")
        hooks = {
            "hook": Channel("hook", "webhook", {"url": f"{hook}/hook"}),
            "am": Channel("am", "alertmanager", {"url": f"http://127.0.0.1:{am_port}"}),
        }
        contacts = Contacts({name: Role(name, (), ("hook", "am")) for name in PATH}, hooks)
        store._now = lambda: store_at() + timedelta(seconds=20)
        notifying = NotificationTasks(store, settings, table, contacts, store._now)
        made_ids = notifying.plan()
        sent = [a for name in made_ids for a in notifying.notifications.message(name)["alerts"]]
        assert [a["source"] for a in sent if a["rule"] == "availability"] == ["page"] and [
            a["source"] for a in sent if a["rule"] == "OnlyTheyKnow"
        ] == ["prometheus"]

        async def send() -> None:
            for channel in hooks.values():
                while await notifying.sender.send(channel):
                    pass

        asyncio.run(send())
        # Alertmanager uses the machine's clock, by which our alerts of March are over. Only their delivery is checked.
        assert {d.state for d, _ in notifying.notifications.deliveries()} == {"sent"}


def _heard(store: Database) -> set[str]:
    import sqlalchemy as sa

    from opslib.foundation.storage.schema import FOREIGN

    with store.reading() as connection:
        return {json.loads(labels)["alertname"] for labels in connection.execute(sa.select(FOREIGN.c.labels)).scalars()}


def test_our_alerts_fire_and_resolve_in_alertmanager(tmp_path: Path) -> None:
    """Our alert is active in a real Alertmanager, with its runbook, and is resolved there when it is resolved here."""
    from opslib.alerting.notifications import channels, message
    from tests.alerting.notifications.test_channels import body

    got: list[dict[str, Any]] = []
    port = free_port()
    channel, settings = (
        Channel("am", "alertmanager", {"url": f"http://127.0.0.1:{port}"}),
        settings_module.load(tmp_path, None, {}),
    )
    now = datetime.fromtimestamp(time.clock_gettime(time.CLOCK_REALTIME), UTC)

    def us(seconds):
        return clock.micros(now) + round(seconds * 1e6)

    def notification(kind: str) -> message.Message:
        made = body(kind)
        made["alerts"][0] |= {"pending_us": us(-60), "fired_us": us(-30), "over_us": us(0) if kind == "over" else None}
        return message.compose(made, RULES, Contacts(), None)

    with receiver(lambda r: got.append(json.loads(r.body)) or Answer(200)) as hook, alertmanager(tmp_path, hook, port):
        asyncio.run(channels.deliver(channel, notification("firing"), settings, now))
        until(lambda: got)
        (stands,) = asked(f"http://127.0.0.1:{port}/api/v2/alerts")
        assert (
            stands["labels"]["alertname"] == "availability"
            and stands["annotations"]["runbook"] == "massive_down"
            and stands["status"]["state"] == "active"
        )
        asyncio.run(channels.deliver(channel, notification("over"), settings, now))
        until(lambda: got[-1]["status"] == "resolved")


def test_the_receiver_accepts_alerts(tmp_path: Path) -> None:
    """
    `ops serve` responds 200 to alerts that it has stored, 400 with the reason to invalid ones, and 401 without the key.
    """
    import httpx

    settings = settings_module.load(tmp_path, None, {"OPS_INGEST_KEY": "k-0123456789"})
    store = Database(settings.url)
    with ServerThread(settings, store, RULES) as served:
        where, key = f"{served.url}/api/v2/alerts", {"Authorization": "Bearer k-0123456789"}
        assert httpx.post(where, json=[alert()]).status_code == 401 and _heard(store) == set()
        assert httpx.post(where, json=[alert()], headers=key).status_code == 200 and _heard(store) == {"DiskFull"}
        refused = httpx.post(where, json=[{"labels": {}}, alert("Kept")], headers=key)
        assert (
            refused.status_code == 400
            and refused.json() == "alert [0]: at least one label pair required"
            and _heard(store) == {"DiskFull", "Kept"}
        )
        for body, kind, status in (
            (b"{", "application/json", 400),
            (b"[]", "application/json; charset=utf-8", 200),
            (b"[]", "text/plain", 415),
            (b"[]", "application/x-www-form-urlencoded", 415),
            (b"[" + b" " * server.LARGEST_ALERTS + b"]", "application/json", 413),
        ):
            assert httpx.post(where, content=body, headers=key | {"Content-Type": kind}).status_code == status
    (row,) = [r for r in refused_posts.read(store, settings.app, 0, 2**60) if "an alert is not valid" in r.reason]
    assert row.count == 1 and row.reason == "an alert is not valid: at least one label pair required"
