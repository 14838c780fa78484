"""
List the jobs that were due by a moment, what became of each, and which of them people are to be notified of.

It is asked anew each time, of the schedule and the ledger, by whoever makes what is due and by whoever tells people
that it was not made. So nothing is forgotten with a process, and a day of downtime is found when somebody looks again.
"""

import json
from collections.abc import Mapping
from datetime import datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from opslib.alerting.notifications.planner import OF_SCHEDULE
from opslib.foundation import clock, formatting
from opslib.foundation.clock import Window
from opslib.foundation.config.contacts import Contacts
from opslib.foundation.config.settings import Settings
from opslib.foundation.storage.database import Database
from opslib.jobs import ledger, schedule
from opslib.jobs.ledger import JobKey
from opslib.jobs.schedule import CHECKLIST, REPORT, Job
from opslib.telemetry.markers import Markers

HORIZON = timedelta(days=40)  # What was due before that is neither made nor asked for any more.
TOLD_FOR = timedelta(days=7)  # So long somebody is told that something was not made.
# What is told stands for so long, and is said again before it ends.
STANDS_US, AGAIN_US = 86_400_000_000, 43_200_000_000
BRIEFLY_US = 60_000_000  # What was over before anybody could be told stands so long.
AHEAD = timedelta(days=1)  # A record that begins so far from now was written by a clock that was wrong.


class DueJob(NamedTuple):
    """
    One thing that was due.

    Attributes:
        job: What makes it.
        at: When it was due.
        due: Its name in the ledger, and until when it is in time.
        rows: Its runs, oldest first.
        standing: What is to be done about it; see `ledger`.
    """

    job: Job
    at: datetime
    due: JobKey
    rows: list[dict[str, Any]]
    standing: str

    @property
    def made(self) -> dict[str, Any] | None:
        """The run that made it, or the note that it was missed; None where there is none."""
        return next((row for row in self.rows if row["state"] in ledger.MADE), None)

    def again(self, home: Path) -> list[str]:
        """The words after ``ops`` by which somebody makes it; of a notebook its path is absolute."""
        *_, of = self.due.name.split(" ")
        if self.job.kind == REPORT:
            return [
                "report",
                self.job.what,
                "--day" if self.job.what in (schedule.DAILY, "success") else "--period",
                of,
            ]
        if self.job.kind == CHECKLIST:
            return ["checklist", self.job.what]
        values = (
            (name, value if isinstance(value, str) else json.dumps(value))
            for name, value in self.job.parameters.items()
        )
        return [
            "run",
            str(home / self.job.what),
            *(word for name, value in values for word in ("-p", f"{name}={value}")),
        ]


class DueJobs:
    """What is due of one app, by its schedule and the ledger."""

    def __init__(self, store: Database, settings: Settings, jobs: Mapping[str, Job]):
        self.store, self.settings, self.jobs = store, settings, jobs
        self._key = f"scheduled:{settings.app}"

    @classmethod
    def of(cls, store: Database, settings: Settings, staff: Contacts) -> "DueJobs":
        """By the schedule of a desk's home."""
        return cls(store, settings, schedule.read(settings.base, staff))

    def since(self) -> dict[str, int]:
        """From when on is each job due, microseconds? Of a desk whose schedule never ran, nothing is."""
        kept: dict[str, int] = json.loads(self.store.recall(self._key) or "{}")
        return kept

    def begin(self, now: datetime) -> None:
        """From now on what these jobs make is due; of a job that is new, what is not late yet is due, too."""
        known = self.since()
        far = clock.micros(now + AHEAD)
        found = {
            name: known[name] if known.get(name, far + 1) <= far else clock.micros(now - job.grace)
            for name, job in self.jobs.items()
        }
        if found != known:
            self.store.remember(self._key, json.dumps(found, sort_keys=True))

    def items(self, now: datetime) -> list[DueJob]:
        """Everything that was due by a moment, since the schedule runs and within `HORIZON`; oldest first."""
        since, deployed, found = self.since(), [], list[tuple[datetime, Job, JobKey]]()
        if any(job.when.kind == "deploy" for job in self.jobs.values()):
            deployed = [
                clock.instant(m.ts_us)
                for m in Markers(self.store, self.settings).between(clock.micros(now - HORIZON), clock.micros(now))
                if m.kind == "deploy"
            ]
        for name, job in self.jobs.items():
            begins = max(clock.instant(since[name]), now - HORIZON) if name in since else now
            for moment in job.moments(Window(min(begins, now), now), deployed):
                found.append(
                    (
                        moment.at,
                        job,
                        JobKey(
                            job.made_at(moment),
                            clock.micros(moment.at),
                            clock.micros(moment.at + job.grace),
                            clock.span_us(job.timeout),
                        ),
                    )
                )
        runs: dict[str, list[dict[str, Any]]] = {}
        for row in ledger.rows_due(self.store, self.settings.app, [due.name for _, _, due in found]):
            runs.setdefault(row["due"], []).append(row)
        now_us, named = clock.micros(now), set[str]()
        items = []
        for at, job, due in sorted(found, key=lambda f: (f[0], f[1].name)):
            if due.name not in named:  # Where two jobs make the same, the first that is due counts.
                named.add(due.name)
                rows = runs.get(due.name, [])
                items.append(DueJob(job, at, due, rows, ledger.job_state(due, rows, now_us)))
        return items

    def told(self, now: datetime, held: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
        """
        What is to be said of what failed, is late or was missed?

        Args:
            held: What was said so far, by fingerprint: starts_us, ends_us, words.

        Returns:
            Alerts as `NotificationStore.heard` takes them; none where nothing has changed.
        """
        now_us, found = clock.micros(now), []
        for item in self.items(now):
            if now - item.at > TOLD_FOR:
                continue
            name = fingerprint(item.due)
            trouble, before = _trouble(item, now_us), held.get(name)
            if trouble is None or (item.standing == ledger.OVER and before and before["ends_us"] <= now_us):
                continue
            starts_us, words = trouble
            if item.standing == ledger.OVER:
                ends_us = now_us if before else now_us + BRIEFLY_US
            else:
                ends_us = now_us + STANDS_US
                if before and before["ends_us"] > now_us + AGAIN_US and before["words"] == words:
                    continue
            if (
                before
                and item.standing == ledger.OVER
                and before["words"] == words
                and before["ends_us"] <= now_us + BRIEFLY_US
            ):
                continue  # It was over when it was first said, and ends by itself.
            labels = {
                "alertname": "schedule",
                "rule": "schedule",
                "subject": item.due.name,
                "severity": item.job.severity,
                "owner": item.job.owner,
            }
            found.append(
                {
                    "fingerprint": name,
                    "labels": labels,
                    "annotations": {"summary": words, "again": item.again(self.settings.base)},
                    "starts_us": starts_us,
                    "ends_us": ends_us,
                }
            )
        return found


def fingerprint(due: JobKey) -> str:
    """By which a thing that was due is known among alerts."""
    return f"{sha256(due.name.encode()).hexdigest()[:8]}{OF_SCHEDULE}"


def _trouble(item: DueJob, now_us: int) -> tuple[int, str] | None:
    """
    Since when, and how, is something not as it should be?

    None where all is well. What is said does not change while nothing does.
    """
    due, made, failed = item.due, item.made, [row for row in item.rows if row["state"] == "failed"]
    assert due.late_us is not None
    when = f"due {formatting.moment(item.at)}"
    if made is not None and made["state"] == "missed":
        return due.late_us, f"{due.name} was missed: {made['reason']} ({when})"
    if made is not None and made["state"] == "late":
        return due.late_us, f"{due.name} was late: {made['reason']} ({when})"
    if failed:
        given_up = f"; given up after {len(failed)} tries" if item.standing == ledger.GIVEN_UP else ""
        return failed[0][
            "ended_at_us"
        ], f"{due.name} failed: {formatting.single_line(failed[0]['reason'] or '', 160)}{given_up} ({when})"
    if made is None and item.standing == ledger.GIVEN_UP:
        return due.late_us, f"{due.name} was begun {len(item.rows)} times, and whoever made it died each time ({when})"
    if made is None and now_us > due.late_us:
        return due.late_us, f"{due.name} was not made ({when}); is the scheduler running?"
    return None
