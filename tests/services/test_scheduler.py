"""
The scheduler: real processes over a simulated clock, killed, moved in time, on a full disk, beside one another; each
thing is made once.
"""

import asyncio
import email
import email.policy
import json
import logging
import os
import random
import re
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller

from opslib import desk
from opslib.cli import main
from opslib.desk import Desk
from opslib.foundation import time_parsing
from opslib.foundation.storage.database import Database
from opslib.jobs import ledger
from opslib.jobs.due import DueJobs
from opslib.services.notifying import NotificationTasks
from opslib.services.scheduler import Scheduler
from tests.jobs.test_executor import notebook
from tests.jobs.test_retention import run as old_run
from tests.support.servers import free_port

BY_HAND = "\n".join(
    f'[{name}]\nwhen = "by hand"'
    for name in (
        "daily-report",
        "weekly-report",
        "success-report",
        "monthly-report",
        "quarterly-report",
        "annual-report",
        "morning",
        "hourly",
        "monitor-health",
        "post-deploy-1h",
        "post-deploy-24h",
        "post-deploy-1w",
    )
)
JOB = '\n[{name}]\nruns = "notebook {path}.ipynb"\nwhen = "{when}"\ngrace = "{grace}"\n{more}'


def scheduled(home: Path, *jobs: str) -> None:
    """A home whose schedule has these jobs and none of the shipped ones."""
    home.mkdir(parents=True, exist_ok=True)
    (home / "schedule.toml").write_text(BY_HAND + "".join(jobs), encoding="utf-8")
    notebook(home / "fine.ipynb", "print('made')")
    notebook(home / "broken.ipynb", "raise ValueError('no such account')")


def job(name: str, when: str, path: str = "fine", grace: str = "30m", more: str = "") -> str:
    """One job as the file has it."""
    return JOB.format(name=name, when=when, path=path, grace=grace, more=more)


def at(when: str) -> datetime:
    """A moment by New York's clock."""
    return time_parsing.parse(when)


class Clocked:
    """A desk whose time is given."""

    def __init__(self, home: Path, now: str):
        self.now, self.home = at(now), home
        self.store: Database | None = None

    def __call__(self) -> Desk:
        found = Desk(desk.open(home=self.home).settings, lambda: self.now)
        self.store = found.store
        return found

    def once(self, now: str, monkeypatch: pytest.MonkeyPatch) -> int:
        """All that is due by then, made by a scheduler of its own."""
        self.now = at(now)
        monkeypatch.setenv("OPS_CLOCK", f"{self.now.isoformat()},{time.time()},1")
        return Scheduler(self).run_once()

    def states(self) -> list[tuple[str, str]]:
        """What the ledger has, by name."""
        assert self.store
        return [(row["due"], row["state"]) for row in ledger.all_rows(self.store)]


def test_a_day(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Nothing before it is due, once when it is, nothing again; what was due while nobody looked is made in order, and is
    late.
    """
    scheduled(home, job("daily", "15 minutes after the close"))
    of = Clocked(home, "2026-03-10T16:00")
    assert (of.once("2026-03-10T16:00", monkeypatch), of.states()) == (0, [])
    assert (of.once("2026-03-10T16:15", monkeypatch), of.states()) == (0, [("notebook daily 2026-03-10", "ok")])
    assert (of.once("2026-03-10T16:20", monkeypatch), len(of.states())) == (0, 1)
    assert of.once("2026-03-13T16:16", monkeypatch) == 0
    assert of.states()[1:] == [
        ("notebook daily 2026-03-11", "late"),
        ("notebook daily 2026-03-12", "late"),
        ("notebook daily 2026-03-13", "ok"),
    ]
    index = (home / "index.html").read_text()
    assert index.count("<td>ok</td>") >= 2 and index.count("<td>late</td>") >= 2


def test_what_is_not_caught_up_is_missed(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is written down as missed, once, and never made."""
    scheduled(home, job("each", "every hour while open", more="catch_up = false"))
    of = Clocked(home, "2026-03-10T09:45")
    assert of.once("2026-03-10T09:45", monkeypatch) == 0
    assert of.once("2026-03-10T12:10", monkeypatch) == 3
    assert sorted(of.states()) == [
        ("notebook each 2026-03-10T10", "missed"),
        ("notebook each 2026-03-10T11", "missed"),
        ("notebook each 2026-03-10T12", "ok"),
    ]
    assert of.once("2026-03-10T12:11", monkeypatch) == 0 and len(of.states()) == 3


def test_what_fails_is_tried_thrice(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With pauses between, then given up; and it says so with the command that makes it by hand."""
    scheduled(home, job("broken", "12:00", path="broken"))
    of = Clocked(home, "2026-03-10T12:00")
    assert [of.once(f"2026-03-10T12:{m:02}", monkeypatch) for m in (0, 0, 2, 3, 5, 20)] == [70, 3, 70, 3, 70, 0]
    assert Counter(of.states()) == {("notebook broken 2026-03-10", "failed"): 3}
    (alert,) = DueJobs.of(of.store, of().settings, of().contacts).alerts_of_missed(of.now, {})
    assert (
        "no such account" in alert["annotations"]["summary"]
        and "no retry after 3 failed runs" in alert["annotations"]["summary"]
        and alert["annotations"]["again"] == ["run", str(home / "broken.ipynb")]
    )


def test_what_hangs_is_ended_and_reported(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A run that goes on for longer than its job may take is ended with its kernel, has failed, and somebody is notified;
    what is due beside it is made.
    """
    scheduled(home, job("stuck", "12:00", path="stuck", more='timeout = "2s"'), job("fine", "12:00"))
    notebook(
        home / "stuck.ipynb",
        f"import os, pathlib; pathlib.Path({str(home / 'pid')!r}).write_text(str(os.getpid()))",
        "import time; time.sleep(600)",
    )
    of = Clocked(home, "2026-03-10T12:00")
    assert of.once("2026-03-10T12:00", monkeypatch) == 70
    assert sorted(of.states()) == [("notebook fine 2026-03-10", "ok"), ("notebook stuck 2026-03-10", "failed")]
    with pytest.raises(ProcessLookupError):
        os.kill(int((home / "pid").read_text()), 0)
    (alert,) = DueJobs.of(of.store, of().settings, of().contacts).alerts_of_missed(of.now, {})
    assert "notebook stuck 2026-03-10 failed" in alert["annotations"]["summary"] and re.search(
        "2 s|time ran out|imed ?out", alert["annotations"]["summary"]
    ), alert


def test_what_is_made_by_hand_is_made(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two that make the same at once: one makes it; and what a clock that was set back asks again is not made again."""
    scheduled(home, job("daily", "15 minutes after the close"))
    of = Clocked(home, "2026-03-10T16:15")
    of.once("2026-03-10T16:15", monkeypatch)
    assert of.once("2026-03-10T09:00", monkeypatch) == 0 and of.once("2026-03-10T16:30", monkeypatch) == 0
    assert of.states() == [("notebook daily 2026-03-10", "ok")]
    items = DueJobs.of(of.store, of().settings, of().contacts).items(of.now)
    assert [i.state for i in items] == [ledger.OVER]


def test_a_desk_whose_clock_was_a_year_ahead(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a wrong clock wrote down as the beginning does not keep it from beginning."""
    scheduled(home, job("daily", "15 minutes after the close"))
    of = Clocked(home, "2026-12-01T10:00")
    of.once("2026-12-01T10:00", monkeypatch)
    of.once("2026-03-10T16:15", monkeypatch)
    assert of.states() == [("notebook daily 2026-03-10", "ok")]


# A week.


def test_old_runs_go_and_it_says_so(
    home: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Files of old runs are taken away in passing, with a line of how many."""
    scheduled(home)
    of = Clocked(home, "2026-03-10T16:15")
    kept = old_run(of(), "old", 100, 10)
    with caplog.at_level(logging.INFO, "opslib"):
        assert of.once("2026-03-10T16:15", monkeypatch) == 0
    assert not kept.exists() and "removed the files of 1 old runs" in caplog.text


WEEK = ("2026-03-02T00:00", "2026-03-09T00:00")  # With a Sunday on which the clocks go forward.
KILLS = 20


def started(home: Path, now: datetime, limit: bool = False, once: bool = False) -> "subprocess.Popen[bytes]":
    """A scheduler of its own process, at a moment from which time runs on."""
    small: Callable[[], None] | None = (
        (lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))) if limit else None
    )
    environ = os.environ | {"OPS_HOME": str(home), "OPS_CLOCK": f"{now.isoformat()},{time.time()},1"}
    with (home.parent / "said").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "opslib.cli", "schedule", "run", *(["--once"] if once else [])],
            env=environ,
            stdout=log,
            stderr=subprocess.STDOUT,
            preexec_fn=small,
        )


@pytest.mark.slow
def test_a_week_that_nothing_goes_well_in(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """
    Killed twenty times at random, the clock moved, the disk full once, two at a time: each thing that was due is made
    once, none is missing, the failure is reported once.
    """
    scheduled(
        home,
        job("daily", "15 minutes after the close"),
        job("noon", "12:00"),
        job("night", "02:30, every day"),
        job("broken", "10:00, first trading day of the week", path="broken"),
    )
    seed = random.SystemRandom().randrange(10**6)
    rng, (begins, ends) = random.Random(seed), map(at, WEEK)
    assert started(home, begins, once=True).wait(60) == 0
    now = begins
    for kill in range(KILLS // 2):
        now += (ends - begins) / (KILLS // 2)
        moved = {3: -timedelta(days=1), 6: timedelta(hours=3)}.get(kill, timedelta())
        both = [started(home, now + moved, limit=kill == 5) for _ in range(2)]
        time.sleep(rng.uniform(1.0, 4.0))  # A random instant of a real process's life.
        for process in both:
            process.send_signal(signal.SIGKILL)
            process.wait()
    for later in range(4):
        last = [started(home, ends + timedelta(minutes=10 * later), once=True) for _ in range(2)]
        assert {process.wait(120) for process in last} <= {0, 3, 70}
    found = desk.open(home=home)
    items = DueJobs.of(found.store, found.settings, found.contacts).items(ends)
    due = [i.due.name for i in items]
    assert Counter(name.split()[1] for name in due) == {"daily": 5, "noon": 5, "night": 7, "broken": 1}, (seed, due)
    said = (home.parent / "said").read_text()
    made = Counter(row["due"] for row in ledger.all_rows(found.store) if row["state"] in ledger.MADE)
    assert made == Counter(name for name in due if "broken" not in name), (seed, said)
    capsys.readouterr()
    assert main.main(["--home", str(home), "runs", "-o", "json"]) == 0
    runs = json.loads(capsys.readouterr().out)
    assert {r["state"] for r in runs} <= {"ok", "late", "unknown", "failed"} and not [
        r for r in runs if r["state"] == "running"
    ]
    index = (home / "index.html").read_text()
    assert index.count("<tr><th scope='row'>") == len(runs)
    sent = [
        d
        for d, body in found.notifications.deliveries()
        if body["kind"] == "firing" and any("broken" in a["subject"] for a in body["alerts"])
    ]
    assert len(sent) == 1, (seed, sent)


# Telling.


class Told(Clocked):
    """A desk whose people are notified by somebody other than the scheduler, with a mail server that may fail."""

    def __init__(self, home: Path, now: str, mail: int):
        super().__init__(home, now)
        (home / "settings.toml").write_text(
            f'[channels.mail]\nkind = "smtp"\nhost = "127.0.0.1"\nport = {mail}\nfrom = "ops@desk.example"'
            f'\nto = ["lead@desk.example"]\n[roles."DevOps"]\nchannels = ["mail"]\n'
        )

    def tell(self, now: str) -> None:
        """What another process tells by then."""
        self.now = at(now)
        found = self()
        notifying = NotificationTasks(found.store, found.settings, found.rules, found.contacts, lambda: self.now)
        for _ in range(3):  # Second by second, because a notification is planned after its alert was read.
            self.now += timedelta(seconds=20)
            asyncio.run(notifying.run_once())


class Mailbox:
    """A mail server that keeps what it gets."""

    def __init__(self) -> None:
        self.got: list[EmailMessage] = []
        self.refuses = False

    # The name that aiosmtpd asks for.
    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        if self.refuses:
            return "451 later"
        self.got.append(email.message_from_bytes(envelope.content, policy=email.policy.default))
        return "250 OK"

    @property
    def subjects(self) -> list[str]:
        """Of what came, in order."""
        return [m["Subject"] for m in self.got]


@pytest.fixture
def mailbox() -> Iterator[tuple[Mailbox, int]]:
    """A mail server on this machine, and its port."""
    box = Mailbox()
    server = Controller(box, hostname="127.0.0.1", port=free_port())
    server.start()
    yield box, server.port
    server.stop()


def test_what_nobody_made_is_reported_by_another(
    home: Path, monkeypatch: pytest.MonkeyPatch, mailbox: tuple[Mailbox, int]
) -> None:
    """
    The scheduler died: past its grace its owner is notified, once; when it is made after all that is reported, once;
    what was late before anybody looked is reported, too.
    """
    box, port = mailbox
    scheduled(home, job("daily", "15 minutes after the close", more='owner = "DevOps"'))
    of = Told(home, "2026-03-10T16:00", port)
    of.once("2026-03-10T16:00", monkeypatch)
    of.tell("2026-03-10T16:40")
    assert box.subjects == []
    of.tell("2026-03-10T16:46")
    of.tell("2026-03-10T17:30")
    assert [s.split(" (due")[0] for s in box.subjects] == [
        "[notify] notebook daily 2026-03-10 did not run"
    ] and "DevOps" in str(box.got[0].get_body(("plain",)))
    of.once("2026-03-10T18:00", monkeypatch)
    of.tell("2026-03-10T18:01")
    of.tell("2026-03-10T19:00")
    assert len(box.subjects) == 2 and box.subjects[1].startswith("[ok] resolved: notebook daily 2026-03-10")
    of.once("2026-03-11T20:00", monkeypatch)  # It was down over the next close, and so was everybody.
    of.tell("2026-03-11T20:01")
    of.tell("2026-03-11T20:10")
    assert len(box.subjects) == 4 and "notebook daily 2026-03-11 was late" in box.subjects[2]
    assert {i.state for i in DueJobs.of(of.store, of().settings, of().contacts).items(of.now)} == {ledger.OVER}


def test_a_failure_is_reported_once_and_its_end_too(
    home: Path, monkeypatch: pytest.MonkeyPatch, mailbox: tuple[Mailbox, int]
) -> None:
    """However often it is tried again; and no key that stands in its message goes out."""
    box, port = mailbox
    scheduled(home, job("broken", "12:00", path="broken", more='owner = "DevOps"\nseverity = "critical"'))
    notebook(home / "broken.ipynb", "raise ValueError('no account at token=abcdef0123456789abcdef')")
    of = Told(home, "2026-03-10T12:00", port)
    of.once("2026-03-10T12:00", monkeypatch)
    of.tell("2026-03-10T12:00:30")
    of.once("2026-03-10T12:03", monkeypatch)
    of.tell("2026-03-10T12:04")
    notebook(home / "broken.ipynb", "print('mended')")
    of.once("2026-03-10T12:10", monkeypatch)
    of.tell("2026-03-10T12:11")
    assert [s.split(":")[0].split(" failed")[0] for s in box.subjects] == [
        "[critical] notebook broken 2026-03-10",
        "[ok] resolved",
    ]
    assert not any("abcdef0123456789" in str(m) for m in box.got)


def test_what_was_made_is_sent_with_its_verdict_and_chart(
    home: Path, monkeypatch: pytest.MonkeyPatch, mailbox: tuple[Mailbox, int]
) -> None:
    """
    By mail, once; the verdict in the subject, the first chart inline.

    A mail server that refuses is tried again, and the report is made all the same.
    """
    box, port = mailbox
    home.mkdir(parents=True)
    (home / "schedule.toml").write_text(
        BY_HAND.replace('[daily-report]\nwhen = "by hand"', '[daily-report]\ndeliver = ["mail"]\nwait = "1m"')
    )
    of = Told(home, "2026-03-10T16:00", port)
    with mailbox_refusing(box):
        assert of.once("2026-03-10T16:00", monkeypatch) == 0
        assert of.once("2026-03-10T16:15", monkeypatch) == 3 and of.states() == []  # It waits for the last snapshot.
        assert of.once("2026-03-10T16:16", monkeypatch) == 3  # Of a day of which nothing was seen it is incomplete.
        assert of.states() == [("report daily 2026-03-10", "incomplete")] and box.subjects == []
    of.tell("2026-03-10T16:30")
    of.tell("2026-03-10T16:40")
    (mail,) = box.got
    assert mail["Subject"] == "[unknown] report daily 2026-03-10"
    text = mail.get_body(("plain",)).get_content()
    assert (
        "\n? 2026-03-10: unknown" in text and "\nTo do: Find out why snapshots are missing" in text and "{" not in text
    )
    pictures = [part for part in mail.walk() if part.get_content_type() == "image/png"]
    assert len(pictures) == 1 and pictures[0].get_content().startswith(b"\x89PNG")


@contextmanager
def mailbox_refusing(box: Mailbox) -> Iterator[None]:
    """While inside, the mail server takes nothing."""
    box.refuses = True
    yield
    box.refuses = False


def test_asked_to_stop_it_leaves_nothing_failed(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Asked twice it goes at once, its kernel with it; what it was making has not failed: nobody is notified, and the next
    one makes it.
    """
    scheduled(home, job("long", "12:00", path="long"))
    notebook(
        home / "long.ipynb",
        f"import os, pathlib, time\nif not pathlib.Path('{tmp_path}/begun').exists():\n    "
        f"pathlib.Path('{tmp_path}/begun').write_text(str(os.getpid()))\n    time.sleep(120)",
    )
    running = started(home, at("2026-03-10T12:00"))
    until = time.monotonic() + 60
    while not (tmp_path / "begun").exists() or not (tmp_path / "begun").read_text():
        assert running.poll() is None and time.monotonic() < until
        time.sleep(0.05)
    for _ in range(2):
        running.send_signal(signal.SIGTERM)
        time.sleep(0.3)  # The first is to be taken before the second comes.
    assert running.wait(15) == 0
    of = Clocked(home, "2026-03-10T12:05")
    assert of.once("2026-03-10T12:05", monkeypatch) == 0
    assert [r["state"] for r in ledger.runs(of.store)] == ["unknown", "ok"]
    assert of().notifications.deliveries() == []
    kernel = int((tmp_path / "begun").read_text())
    while Path(f"/proc/{kernel}").exists() and "Z" not in Path(f"/proc/{kernel}/stat").read_text():
        assert time.monotonic() < until
        time.sleep(0.05)
