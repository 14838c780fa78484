"""
Test the scheduler, as real processes with a simulated clock: killed, with changed clocks, a full disk, and in parallel.

Each due job runs exactly once.
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
    """Create a home whose schedule has only these jobs."""
    home.mkdir(parents=True, exist_ok=True)
    (home / "schedule.toml").write_text(BY_HAND + "".join(jobs), encoding="utf-8")
    notebook(home / "fine.ipynb", "print('made')")
    notebook(home / "broken.ipynb", "raise ValueError('no such account')")


def job(name: str, when: str, path: str = "fine", grace: str = "30m", more: str = "") -> str:
    """Return one job as the file has it."""
    return JOB.format(name=name, when=when, path=path, grace=grace, more=more)


def at(when: str) -> datetime:
    """Return a moment of New York's time."""
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
        """Run all jobs that are due by then, with a new scheduler."""
        self.now = at(now)
        monkeypatch.setenv("OPS_CLOCK", f"{self.now.isoformat()},{time.time()},1")
        return Scheduler(self).run_once()

    def states(self) -> list[tuple[str, str]]:
        """Return the key and state of each run in the ledger."""
        assert self.store
        return [(row["due"], row["state"]) for row in ledger.all_rows(self.store)]


def test_jobs_run_once_when_they_are_due(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A job runs once when it is due, not earlier and not again; jobs due while no scheduler ran run in order, as late.
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


def test_a_job_without_catch_up_is_missed(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is recorded as missed, once, and never run."""
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


def test_a_failing_job_is_retried_twice(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A failed job is retried after pauses, and given up after three runs; the alert has the command to run it by hand.
    """
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


def test_a_hanging_job_is_ended_and_reported(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run above its time limit is ended with its kernel, has failed, and causes an alert; other due jobs run."""
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


def test_a_finished_job_is_not_run_again(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the clock is set back and forward again, a job that has run does not run again."""
    scheduled(home, job("daily", "15 minutes after the close"))
    of = Clocked(home, "2026-03-10T16:15")
    of.once("2026-03-10T16:15", monkeypatch)
    assert of.once("2026-03-10T09:00", monkeypatch) == 0 and of.once("2026-03-10T16:30", monkeypatch) == 0
    assert of.states() == [("notebook daily 2026-03-10", "ok")]
    items = DueJobs.of(of.store, of().settings, of().contacts).items(of.now)
    assert [i.state for i in items] == [ledger.OVER]


def test_a_clock_that_was_a_year_ahead(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A start recorded by a wrong clock does not prevent later runs with the right one."""
    scheduled(home, job("daily", "15 minutes after the close"))
    of = Clocked(home, "2026-12-01T10:00")
    of.once("2026-12-01T10:00", monkeypatch)
    of.once("2026-03-10T16:15", monkeypatch)
    assert of.states() == [("notebook daily 2026-03-10", "ok")]


# Retention, and a week.


def test_old_runs_are_removed(home: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """The scheduler removes files of old runs, and logs how many."""
    scheduled(home)
    of = Clocked(home, "2026-03-10T16:15")
    kept = old_run(of(), "old", 100, 10)
    with caplog.at_level(logging.INFO, "opslib"):
        assert of.once("2026-03-10T16:15", monkeypatch) == 0
    assert not kept.exists() and "removed the files of 1 old runs" in caplog.text


WEEK = ("2026-03-02T00:00", "2026-03-09T00:00")  # It contains a Sunday on which daylight saving time begins.
KILLS = 20


def started(home: Path, now: datetime, limit: bool = False, once: bool = False) -> "subprocess.Popen[bytes]":
    """Start a scheduler in its own process, at a moment from which time goes on."""
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
def test_a_week_of_failures(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """
    With twenty kills at random, a changed clock and a full disk, each due job runs once, none is missing.

    The failure is notified once.
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
        time.sleep(rng.uniform(1.0, 4.0))  # A random moment of a real process.
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


# Notifications.


class Notifying(Clocked):
    """A desk whose notifications another process sends, with a mail server that may fail."""

    def __init__(self, home: Path, now: str, mail: int):
        super().__init__(home, now)
        (home / "settings.toml").write_text(
            f'[channels.mail]\nkind = "smtp"\nhost = "127.0.0.1"\nport = {mail}\nfrom = "ops@desk.example"'
            f'\nto = ["lead@desk.example"]\n[roles."DevOps"]\nchannels = ["mail"]\n'
        )

    def tell(self, now: str) -> None:
        """Send the notifications of another process at a moment."""
        self.now = at(now)
        found = self()
        notifying = NotificationTasks(found.store, found.settings, found.rules, found.contacts, lambda: self.now)
        for _ in range(3):  # In steps, because a notification is planned after its alert was read.
            self.now += timedelta(seconds=20)
            asyncio.run(notifying.run_once())


class Mailbox:
    """A mail server that keeps its messages."""

    def __init__(self) -> None:
        self.got: list[EmailMessage] = []
        self.refuses = False

    # aiosmtpd requires this name.
    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        if self.refuses:
            return "451 later"
        self.got.append(email.message_from_bytes(envelope.content, policy=email.policy.default))
        return "250 OK"

    @property
    def subjects(self) -> list[str]:
        """Return the subjects of the messages, in order."""
        return [m["Subject"] for m in self.got]


@pytest.fixture
def mailbox() -> Iterator[tuple[Mailbox, int]]:
    """Run a mail server on this machine; yield it and its port."""
    box = Mailbox()
    server = Controller(box, hostname="127.0.0.1", port=free_port())
    server.start()
    yield box, server.port
    server.stop()


def test_a_job_that_did_not_run_is_notified_by_another_process(
    home: Path, monkeypatch: pytest.MonkeyPatch, mailbox: tuple[Mailbox, int]
) -> None:
    """
    If the scheduler is down, the owner is notified once after the grace period, and once when the job has run.

    A job that was late before anybody noticed is notified, too.
    """
    box, port = mailbox
    scheduled(home, job("daily", "15 minutes after the close", more='owner = "DevOps"'))
    of = Notifying(home, "2026-03-10T16:00", port)
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
    of.once("2026-03-11T20:00", monkeypatch)  # At the next close neither scheduler nor notifications ran.
    of.tell("2026-03-11T20:01")
    of.tell("2026-03-11T20:10")
    assert len(box.subjects) == 4 and "notebook daily 2026-03-11 was late" in box.subjects[2]
    assert {i.state for i in DueJobs.of(of.store, of().settings, of().contacts).items(of.now)} == {ledger.OVER}


def test_a_failure_is_notified_once_and_when_resolved(
    home: Path, monkeypatch: pytest.MonkeyPatch, mailbox: tuple[Mailbox, int]
) -> None:
    """It is notified once for all retries, and once when resolved; a key in its message is not sent."""
    box, port = mailbox
    scheduled(home, job("broken", "12:00", path="broken", more='owner = "DevOps"\nseverity = "critical"'))
    notebook(home / "broken.ipynb", "raise ValueError('no account at token=abcdef0123456789abcdef')")
    of = Notifying(home, "2026-03-10T12:00", port)
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


def test_a_report_is_sent_with_verdict_and_chart(
    home: Path, monkeypatch: pytest.MonkeyPatch, mailbox: tuple[Mailbox, int]
) -> None:
    """
    The report is sent once by mail, with the verdict in the subject and the first chart inline.

    If the mail server refuses, sending is retried, and the report is published anyway.
    """
    box, port = mailbox
    home.mkdir(parents=True)
    (home / "schedule.toml").write_text(
        BY_HAND.replace('[daily-report]\nwhen = "by hand"', '[daily-report]\ndeliver = ["mail"]\nwait = "1m"')
    )
    of = Notifying(home, "2026-03-10T16:00", port)
    with mailbox_refusing(box):
        assert of.once("2026-03-10T16:00", monkeypatch) == 0
        assert of.once("2026-03-10T16:15", monkeypatch) == 3 and of.states() == []  # It waits for the last snapshot.
        assert of.once("2026-03-10T16:16", monkeypatch) == 3  # Without snapshots on that day the report is incomplete.
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
    """Let the mail server refuse everything."""
    box.refuses = True
    yield
    box.refuses = False


def test_a_stopped_scheduler_leaves_no_failed_run(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A second signal stops it at once, with its kernel; the run has not failed, nobody is notified, and it runs again.
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
        time.sleep(0.3)  # Let it handle the first signal before the second.
    assert running.wait(15) == 0
    of = Clocked(home, "2026-03-10T12:05")
    assert of.once("2026-03-10T12:05", monkeypatch) == 0
    assert [r["state"] for r in ledger.runs(of.store)] == ["unknown", "ok"]
    assert of().notifications.deliveries() == []
    kernel = int((tmp_path / "begun").read_text())
    while Path(f"/proc/{kernel}").exists() and "Z" not in Path(f"/proc/{kernel}/stat").read_text():
        assert time.monotonic() < until
        time.sleep(0.05)
