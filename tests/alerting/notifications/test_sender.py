"""
Notifications end to end: the demo's day notifies the right roles, a dead collector is detected, and messages are
complete.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from argparse import Namespace
from datetime import timedelta
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from opslib.alerting.notifications import message
from opslib.alerting.notifications.store import EXPIRED, PENDING, SENT
from opslib.cli.commands import alerts as commands
from opslib.dashboard import impact
from opslib.foundation import clock, formatting, time_parsing
from opslib.foundation.config import rules
from opslib.foundation.config import settings as settings_module
from opslib.foundation.config.contacts import Channel, Contacts, Role
from opslib.foundation.config.rules import PATH
from opslib.foundation.storage.database import Database
from opslib.services import collector
from opslib.services.collector import Collector, Standby
from opslib.services.notifying import NotificationTasks
from opslib.simulation.world.http_server import Answer, Request
from opslib.telemetry.pages.store import SnapshotStore
from opslib.telemetry.probes.store import Sample, SampleStore
from tests.alerting.notifications.test_channels import receiver
from tests.support.days import at, posts, scripted
from tests.support.servers import free_port

RULES = rules.load()
KEEPS_PASSED = "-all"


class Day:
    """The demo's scripted day, evaluated and notified at every step of a clock that is set by hand."""

    def __init__(self, home: Path, url: str, begins: str, keeps_passed: bool = False, **contacts: Any):
        self.at = at(begins)
        self.settings = settings_module.load(home, None, {})
        self.store = Database(self.settings.url, lambda: self.at)
        self._waiting = list(reversed(posts()))
        self._come()
        self.judge = Collector(self.store, self.settings, RULES, "one", lambda: self.at)
        hooks = {
            name: Channel(name, "webhook", {"url": f"{url}/{name}{KEEPS_PASSED if keeps_passed else ''}"})
            for name in ("desk", "lead")
        }
        roles = {name: Role(name, (), ("lead",) if name == "Tech Lead" else ("desk",)) for name in PATH}
        self.notifying = NotificationTasks(
            self.store, self.settings, RULES, Contacts(roles, hooks, **contacts), lambda: self.at
        )

    def _come(self) -> None:
        """Store the posts up to the current time."""
        come = []
        while self._waiting and clock.instant(self._waiting[-1].ts_us) <= self.at:
            come.append(self._waiting.pop())
        SnapshotStore(self.store).write("desk", come, known_at_ts=True)

    def live(self, until: str, step_s: int = 15) -> None:
        while self.at < at(until):
            self.at += timedelta(seconds=step_s)
            self._come()
            self.judge.evaluate_due()
            self.notifying.plan()
            asyncio.run(self._send())

    async def _send(self) -> None:
        for channel in self.notifying.contacts.channels.values():
            while await self.notifying.sender.send(channel):
                pass


@pytest.fixture
def got() -> list[tuple[str, dict[str, Any]]]:
    """The received messages: where each went, and its body."""
    return []


@pytest.fixture
def hook(got: list[tuple[str, dict[str, Any]]]) -> Any:
    """A receiver that ignores summaries of alerts that were resolved before the test's start."""

    def answer(r: Request) -> Answer:
        body = json.loads(r.body)
        if body["kind"] != "passed" or KEEPS_PASSED in r.path:
            got.append((r.path.strip("/").removesuffix(KEEPS_PASSED), body))
        return Answer(204)

    with receiver(answer) as url:
        yield url


def test_an_outage_sends_three_notifications(tmp_path: Path, hook: str, got: list[tuple[str, dict[str, Any]]]) -> None:
    """
    The outage of Massive notifies the Tech Lead, then all roles when it escalates, then all of them when it is
    resolved. Its effects notify no one.
    """
    outage = next(t for t in scripted().faults if t.name == "massive_outage")
    day = Day(tmp_path, hook, "11:15")
    day.live("12:30")
    assert [(where, m["kind"], m["severity"]) for where, m in got] == [
        ("lead", "firing", "critical"),
        ("desk", "rose", "escalate"),
        ("lead", "rose", "escalate"),
        ("desk", "over", "escalate"),
        ("lead", "over", "escalate"),
    ]
    assert {a["rule"] for _, m in got for a in m["alerts"]} == {"availability"} and {
        a["subject"] for _, m in got for a in m["alerts"]
    } == {"massive"}
    first = got[0][1]
    assert outage.begins < clock.instant(first["made_us"]) < outage.begins + timedelta(minutes=3) and first[
        "roles"
    ] == ["Tech Lead"]
    assert set(next(m for _, m in got if m["kind"] == "rose")["roles"]) == set(PATH)
    assert (
        "Still works: option data from Tradier (100.0 % of" in first["text"]
        and "Does not work: option data from Massive" in first["text"]
    )
    assert (
        "ops runbook open massive_down" in first["text"] and f"ops ack {first['alerts'][0]['alert']}" in first["text"]
    )


def test_an_acknowledged_alert_is_not_escalated(
    tmp_path: Path, hook: str, got: list[tuple[str, dict[str, Any]]]
) -> None:
    """The burst of bad Greeks is escalated without an acknowledgement and not with one."""
    for who, expected in (("", ["firing", "rose", "unheard"]), ("Ann", ["firing", "rose"])):
        got.clear()
        day = Day(tmp_path / (who or "nobody"), hook, "10:05")
        day.live("10:15")
        if who:
            day.notifying.notifications.ack(got[-1][1]["alerts"][0]["alert"], who)
        day.live("10:30", 30)
        assert [m["kind"] for _, m in got] == expected


def test_alerts_of_a_downtime_are_notified_late(
    tmp_path: Path, hook: str, got: list[tuple[str, dict[str, Any]]]
) -> None:
    """
    After a morning in which no process ran, resolved alerts come in one summary and firing ones at once, marked as
    late.
    """
    day = Day(tmp_path, hook, "09:31", keeps_passed=True)
    day.live("09:32", 60)
    day.at = at("15:40")
    day.live("15:41", 60)
    passed, fires = ([m for _, m in got if m["kind"] == kind] for kind in ("passed", "firing"))
    assert {a["rule"] for m in passed for a in m["alerts"]} == {"gamma_zero", "availability", "websocket_down"} and len(
        {m["id"] for m in passed}
    ) == 1
    assert {a["rule"] for m in fires for a in m["alerts"]} == {
        "backtest_variance"
    } and " after the alert fired: before that, no one could be notified" in fires[0]["text"]
    assert "[late] resolved before anyone was notified: 3 alerts" in passed[0]["text"]


def test_a_failing_channel_is_retried_and_blocks_no_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """
    While one channel fails, the other is sent. Deliveries to the failing one are retried with increasing delay and
    expire after a day.
    """
    well: list[tuple[str, str]] = []
    broken = [True]

    def answer(r: Request) -> Answer:
        where = r.path.strip("/")
        if where == "lead" and broken[0]:
            return Answer(503, b"maintenance")
        if (kind := json.loads(r.body)["kind"]) != "passed":
            well.append((where, kind))
        return Answer(204)

    with receiver(answer) as url:
        day = Day(tmp_path, url, "11:20")
        day.live("11:50", 30)
        waits = [d for d, _ in day.notifying.notifications.deliveries() if d.state == PENDING]
        assert {d.channel for d in waits} == {"lead"} and [kind for _, kind in well] == ["rose", "over"]
        assert max(d.attempts for d in waits) <= 16 and waits[-1].said == "HTTP 503: maintenance"
        broken[0] = False
        day.at += timedelta(minutes=10)
        asyncio.run(day._send())
        assert [kind for where, kind in well if where == "lead"] == ["firing", "rose", "over"]
        assert {d.state for d, _ in day.notifying.notifications.deliveries()} == {SENT}
    assert capsys.readouterr().err.count("to lead failed: HTTP 503") <= 3

    day = Day(tmp_path / "gone", "http://127.0.0.1:1", "11:20")
    day.live("11:25", 60)
    day.at += timedelta(hours=25)
    asyncio.run(day._send())
    assert {d.state for d, _ in day.notifying.notifications.deliveries()} == {
        EXPIRED
    } and "could not be delivered to lead within" in capsys.readouterr().err


def test_a_message_reads_the_same_whenever_it_is_sent(tmp_path: Path, hook: str) -> None:
    """A message that is sent late has the same text: what still works is read as of the time of the message."""
    day = Day(tmp_path, hook, "11:20")
    day.live("11:25")
    (first, _), *_ = day.notifying.notifications.deliveries()
    words = day.notifying.sender.rendered(first.message).plain
    day.at = at("15:00")
    later = NotificationTasks(day.store, day.settings, RULES, day.notifying.contacts, lambda: day.at)
    assert later.sender.rendered(first.message).plain == words


def test_a_message_silenced_while_its_channel_fails_waits_for_the_silence(
    tmp_path: Path, got: list[tuple[str, dict[str, Any]]]
) -> None:
    """A message that is silenced while its channel fails is sent only after the silence."""
    broken = [True]

    def answer(r: Request) -> Answer:
        if not broken[0]:
            got.append((r.path.strip("/"), json.loads(r.body)))
        return Answer(503 if broken[0] else 204)

    with receiver(answer) as url:
        day = Day(tmp_path, url, "11:20")
        day.live("11:25", 30)
        day.notifying.notifications.silence("Ann", "known", timedelta(minutes=30), rule="availability")
        broken[0] = False
        day.live("11:40", 60)
        assert [m for where, m in got if where == "lead"] == []
        day.at = at("11:58")
        asyncio.run(day._send())
        assert next(m["kind"] for where, m in got if where == "lead") == "firing"


def test_an_internal_error_does_not_stop_other_channels(
    tmp_path: Path,
    hook: str,
    got: list[tuple[str, dict[str, Any]]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """
    An internal error in one channel is logged and its message is retried; other channels continue. If planning fails,
    the tasks are unhealthy.
    """
    from opslib.alerting.notifications import channels

    day = Day(tmp_path, hook, "11:20")
    tell = channels._webhook

    async def broken(channel: Channel, *more: Any) -> None:
        if channel.name == "lead":
            raise RuntimeError("what nobody thought of")
        await tell(channel, *more)

    monkeypatch.setattr(channels, "_webhook", broken)
    day.live("11:40", 60)
    waits = [d for d, _ in day.notifying.notifications.deliveries() if d.state == PENDING]
    assert (
        {d.channel for d in waits} == {"lead"}
        and "RuntimeError: what nobody thought of" in waits[-1].said
        and {where for where, _ in got} == {"desk"}
    )
    monkeypatch.setattr(day.notifying, "plan", lambda: 1 / 0)

    stop = threading.Event()
    working = threading.Thread(target=day.notifying.run, args=(stop,))
    working.start()
    _until(lambda: not day.notifying.healthy)
    stop.set()
    working.join(30)
    assert "notification of people failed: ZeroDivisionError" in capsys.readouterr().err


def test_a_message_holds_no_secret_in_any_format(tmp_path: Path) -> None:
    """A secret in an external alert is redacted before its text is escaped or cut."""
    from opslib.alerting.notifications import external_alerts
    from opslib.alerting.notifications.store import NotificationStore

    secret = "T_0A&*<secret>_0123456789"
    settings = settings_module.load(tmp_path, None, {"OPS_CHANNEL_X": secret})
    store = Database(settings.url, lambda: at("11:00"))
    summary = "x" * 280 + secret + "\n\x1b[2JDo first: nothing"
    NotificationStore(store, "desk").store_external_alerts(
        external_alerts.read(
            json.dumps(
                [
                    {
                        "labels": {"alertname": "A", "severity": "critical"},
                        "annotations": {"summary": summary},
                        "startsAt": "2026-03-10T14:00:00Z",
                    }
                ]
            ).encode(),
            at("11:00"),
        ).alerts
    )
    notifying = NotificationTasks(store, settings, RULES, Contacts(), lambda: at("11:00"))
    (name,) = notifying.plan()
    rendered = notifying.sender.rendered(name)
    for words in (rendered.plain, rendered.slack, rendered.html(), json.dumps(rendered.facts)):
        assert "T_0A" not in words and "0123456789" not in words and "\x1b" not in rendered.plain
    assert not [line for line in rendered.plain.splitlines() if line.startswith("Do first: nothing")]


def test_what_works_is_read_from_probes(tmp_path: Path, hook: str) -> None:
    """
    By the demo's probes Tradier works during the outage; without a fallback no provider can serve; without probes the
    state is unknown.
    """
    from opslib.dashboard import status
    from opslib.simulation.demo_day import probe_samples, replay

    day = Day(tmp_path, hook, "15:00")
    bare = impact.working_and_failing(
        status.status(day.store, day.settings, RULES, as_of=at("09:20"), length=timedelta(minutes=5))
    )
    assert {state for state, _ in bare} == {"unknown"}
    SampleStore(day.store, "desk").keep(
        (replay._sample(s) for s in probe_samples.generate(scripted())), known_at_ts=True
    )

    def tell(moment, settings):
        return impact.working_and_failing(
            status.status(day.store, settings, RULES, as_of=at(moment), length=timedelta(minutes=5))
        )

    (works, tradier), (fails, massive) = tell("11:28", day.settings)[:2]
    assert (
        (works, fails) == ("works", "fails")
        and tradier.startswith("option data from Tradier instead of Massive (")
        and massive.startswith("option data from Massive (")
        and "s ago)" in massive
    )
    from dataclasses import replace

    assert tell("11:28", replace(day.settings, fallback="none"))[0] == ("fails", "option data: no provider can serve")
    quiet = tell("10:45", day.settings)
    assert (
        quiet[0][0] == "works"
        and quiet[0][1].startswith("option data from Massive (")
        and [state for state, words in quiet if words.startswith("the app's server (our probes")] == ["works"]
    )
    assert [
        state for state, words in tell("14:33", day.settings) if words.startswith("live prices over the WebSocket")
    ] == ["fails"]
    gone = [Sample(clock.micros(at("15:30")), "liveness", name, "unreachable") for name in ("massive", "tradier")]
    SampleStore(day.store, "desk").keep(gone, known_at_ts=True)
    assert tell("15:30", day.settings)[0] == ("fails", "our network: no provider can be reached")


def test_a_mail_has_the_picture_of_its_panel(tmp_path: Path, hook: str) -> None:
    """A channel that accepts pictures gets the panel as of the message's time; other channels get none."""
    day = Day(tmp_path, hook, "11:20")
    day.live("11:25", 30)
    (first, _), *_ = day.notifying.notifications.deliveries()
    rendered = day.notifying.sender.rendered(first.message)
    picture = day.notifying.sender._picture(Channel("mail", "smtp"), rendered)
    assert picture and picture.startswith(b"\x89PNG") and len(picture) < 200_000
    assert day.notifying.sender._picture(Channel("hook", "webhook"), rendered) is None


def test_external_text_is_not_markup() -> None:
    """Markup in a sentence is shown literally in Slack and is inert in HTML."""
    from tests.alerting.notifications.test_channels import body

    made = body()
    made["alerts"][0]["sentence"] = "<script>alert(1)</script> *bold* <!channel> & `code`"
    found = message.compose(made, RULES, Contacts(), None)
    assert "<!channel>" not in found.slack and "&lt;!channel&gt;" in found.slack and "*bold*" not in found.slack
    assert (
        "<script>" not in found.html()
        and "&lt;script&gt;" in found.html()
        and "unknown: the collected data cannot be read" in found.plain
    )


def test_a_dead_collector_is_replaced(tmp_path: Path, hook: str, got: list[tuple[str, dict[str, Any]]]) -> None:
    """
    Another process detects a dead collector, then evaluates and notifies. It does not if the collector was stopped or
    the market is closed.
    """
    day = Day(tmp_path, hook, "10:45")

    def beat(seconds, outcome="ok"):
        return Sample(
            clock.micros(at("10:45") + timedelta(seconds=seconds)),
            "beat",
            "collector",
            outcome,
            detail='{"every_s": 5.0}',
        )

    standby = Standby(day.store, day.settings, RULES, day.notifying.contacts, lambda: day.at)
    assert not standby.needed()
    SampleStore(day.store, "desk").keep([beat(-10), beat(-5), beat(0)], known_at_ts=True)
    day.at = at("10:45") + timedelta(seconds=20)
    assert not standby.needed()
    day.at = at("10:45") + timedelta(seconds=30)
    assert standby.needed()
    while day.at < at("10:47"):
        day.at += timedelta(seconds=5)
        standby._collector.evaluate_due()
        standby._notifying.plan()
        asyncio.run(day._send())
    assert [(m["kind"], a["rule"], m["severity"]) for _, m in got for a in m["alerts"]] == [
        ("firing", "heartbeat", "critical")
    ] and got[0][1]["roles"] == ["DevOps"]
    day.at = at("16:30")
    assert not standby.needed()
    day.at = at("10:50")
    SampleStore(day.store, "desk").keep([beat(200, "stopped")], known_at_ts=True)
    assert not standby.needed()


@pytest.mark.slow
def test_the_receiver_notifies_of_a_dead_collector(
    tmp_path: Path, hook: str, got: list[tuple[str, dict[str, Any]]]
) -> None:
    """When a collector is killed, `ops serve` notifies DevOps, and again when a new collector resolves the alert."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "settings.toml").write_text(
        f'[channels.hook]\nkind = "webhook"\nurl = "{hook}/hook"\n[roles.DevOps]\nchannels = ["hook"]\n'
    )
    began = time.clock_gettime(time.CLOCK_REALTIME)
    environ = {**os.environ, "OPS_HOME": str(home), "OPS_CLOCK": f"2026-03-10T15:00:00Z,{began},6"}

    def start(*what):
        return subprocess.Popen(
            [sys.executable, "-m", "opslib.cli", *what],
            env=environ,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    serving, first = start("serve", "--port", str(free_port())), start("collect", "--every", "5s")
    second = None
    try:
        store = Database(f"sqlite:///{home / 'store.sqlite'}")
        _until(lambda: SampleStore(store, "desk").last("beat", 2**62) is not None)
        first.send_signal(signal.SIGKILL)
        first.wait()
        _until(lambda: any(m["kind"] == "firing" and m["alerts"][0]["rule"] == "heartbeat" for _, m in got))
        second = start("collect", "--every", "5s")
        _until(lambda: any(m["kind"] == "over" and m["alerts"][0]["rule"] == "heartbeat" for _, m in got))
    finally:
        for process in (serving, *([second] if second else [])):
            process.terminate()
            process.wait(30)
        for process in (serving, first, second):
            if process and process.stderr:
                process.stderr.close()
    assert serving.returncode in (0, -signal.SIGTERM) and got[0][1]["roles"] == ["DevOps"]


def _until(holds: Any, within_s: float = 60.0) -> None:
    deadline = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.05)  # The other process signals nothing, so poll.


def test_the_heartbeat_service_is_called(tmp_path: Path) -> None:
    """The heartbeat service is called only while the collector is healthy; its address is shown nowhere."""
    beats: list[str] = []
    with receiver(lambda r: beats.append(r.path) or Answer(200)) as url:
        settings = settings_module.load(tmp_path, None, {"OPS_HEARTBEAT_URL": f"{url}/ping/uuid-0123456789"})
        assert (
            "uuid-0123456789" not in repr(settings)
            and settings.redact(f"{url}/ping/uuid-0123456789") == "[OPS_HEARTBEAT_URL]"
        )
        day = Day(tmp_path, url, "10:45")
        day.judge.settings = settings
        send = partial(collector.send_heartbeat, day.judge, day.notifying)
        asyncio.run(send())
        assert beats == []  # Nothing was evaluated yet.
        day.judge.evaluate_due()
        asyncio.run(send())
        assert len(beats) == 1
        day.notifying.healthy = False
        asyncio.run(send())
    assert beats == ["/ping/uuid-0123456789"]


def test_a_collector_is_healthy_while_it_evaluates(tmp_path: Path) -> None:
    """A collector is healthy if it evaluated within the last minute."""
    day = Day(tmp_path, "http://127.0.0.1:1", "10:45")
    assert not day.judge.healthy
    day.judge.evaluate_due()
    assert day.judge.healthy
    day.at += timedelta(seconds=collector.HEALTHY_S + 1)
    assert not day.judge.healthy


def test_ack_silence_and_notify_commands(
    tmp_path: Path,
    hook: str,
    got: list[tuple[str, dict[str, Any]]],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`ops ack`, `silence` and `notify` take effect, reject invalid input, and print JSON on request."""
    from opslib.cli import main

    day = Day(tmp_path, hook, "11:20")
    day.live("11:25", 30)
    monkeypatch.setenv("OPS_HOME", str(tmp_path))
    (tmp_path / "settings.toml").write_text(
        f'[channels.hook]\nkind = "webhook"\nurl = "{hook}/tried"\n[roles.DevOps]\nchannels = ["hook", "terminal"]\n'
    )

    def ops(*words: str) -> tuple[int, str]:
        code = main.main([*words])
        said = capsys.readouterr()
        return code, said.out + said.err

    alert = got[0][1]["alerts"][0]["alert"]
    assert (
        ops("ack", alert, "--by", "Ann", "--as-of", "2026-03-10T11:25")[0] == 0
        and day.notifying.notifications.acks()[alert][0] == "Ann"
    )
    taken = json.loads(ops("status", "--as-of", "2026-03-10T11:25", "-o", "json")[1])["alerts"]
    assert {a["id"]: a["acked_by"] for a in taken}[alert] is None  # As of that time it was not acknowledged yet.
    code, said = ops("ack", alert[:-2], "--by", "Ann", "--as-of", "2026-03-10T11:25")
    assert code == 64 and f"Did you mean '{alert}'" in said
    code, said = ops(
        "silence",
        "add",
        "--rule",
        "availability",
        "--for",
        "2h",
        "--reason",
        "maintenance",
        "--by",
        "Ann",
        "-o",
        "json",
    )
    assert code == 0 and json.loads(said)[0]["rule"] == "availability"
    assert (
        ops("silence", "add", "--for", "2h", "--reason", "x")[0] == 64
        and ops("silence", "add", "--rule", "availability", "--reason", "x")[0] == 64
        and ops("silence", "add", "--rule", "availabilty", "--for", "1h", "--reason", "x")[0] == 64
    )
    name = json.loads(said)[0]["id"]
    assert (
        name in ops("silence")[1]
        and ops("silence", "end", name, "--by", "Ben")[0] == 0
        and ops("silence", "end", name)[0] == 64
        and "no active silences" in ops("silence", "list")[1]
    )
    code, said = ops("notify", "-o", "json")
    assert code == 0 and [(r["kind"], r["state"], r["channel"]) for r in json.loads(said) if r["kind"] != "passed"] == [
        ("firing", "sent", "lead")
    ]
    code, said = ops("notify", "--test", "DevOps")
    assert code == 0 and "hook: delivered" in said and "terminal: delivered" in said and got[-1][0] == "tried"
    assert ops("notify", "--test", "nobody")[0] == 64


def test_the_list_of_notifications_shows_new_york_time(tmp_path: Path, hook: str) -> None:
    """The table shows when each one was created in New York time; the JSON form keeps UTC."""
    day = Day(tmp_path, hook, "11:20")
    day.live("11:25", 30)
    desk: Any = SimpleNamespace(notifications=day.notifying.notifications)
    reply = commands.notify(desk, Namespace(test=None))
    head, *lines = reply.words.splitlines()
    assert head.startswith("created, New York") and reply.values
    for line, row in zip(lines, reply.values):
        created = time_parsing.parse(row["created_at"]).astimezone(formatting.NEW_YORK)
        assert row["created_at"].endswith("Z") and line.startswith(f"{created:%Y-%m-%d %H:%M:%S}  ")
