"""
List due jobs with their runs, and the alerts of jobs that failed, are late or were missed.

The list is computed from the schedule and the ledger on each call, by the scheduler and by the collector. No state is
kept in a process, so jobs missed during a downtime are found afterwards.
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

HORIZON = timedelta(days=40)  # Jobs that were due earlier are ignored.
ALERT_AGE = timedelta(days=7)  # Jobs that were due earlier raise no alert.
# An alert ends after ALERT_US unless it is renewed; it is renewed RENEW_US before its end.
ALERT_US, RENEW_US = 86_400_000_000, 43_200_000_000
BRIEF_US = 60_000_000  # The duration of an alert whose job ended before the first notification.
AHEAD = timedelta(days=1)  # A recorded start further in the future was written with a wrong clock.


class DueJob(NamedTuple):
    """
    One due job.

    Attributes:
        job: The job of the schedule.
        at: The time at which it was due.
        due: Its key in the ledger, with its deadline.
        rows: Its runs, oldest first.
        state: What to do about it, one of the states in `ledger`.
    """

    job: Job
    at: datetime
    due: JobKey
    rows: list[dict[str, Any]]
    state: str

    @property
    def made(self) -> dict[str, Any] | None:
        """The run that completed it, or the row that records it as missed; None if there is neither."""
        return next((row for row in self.rows if row["state"] in ledger.MADE), None)

    def command(self, home: Path) -> list[str]:
        """Return the arguments of ``ops`` that run it; the path of a notebook is absolute."""
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
    """The due jobs of one app, from its schedule and the ledger."""

    def __init__(self, store: Database, settings: Settings, jobs: Mapping[str, Job]):
        self.store, self.settings, self.jobs = store, settings, jobs
        self._key = f"scheduled:{settings.app}"

    @classmethod
    def of(cls, store: Database, settings: Settings, contacts: Contacts) -> "DueJobs":
        """Create it from the schedule of the home directory."""
        return cls(store, settings, schedule.read(settings.base, contacts))

    def since(self) -> dict[str, int]:
        """Return the time from which each job is due, in microseconds; empty if the schedule never ran."""
        kept: dict[str, int] = json.loads(self.store.recall(self._key) or "{}")
        return kept

    def begin(self, now: datetime) -> None:
        """
        Record that the jobs are due from now on.

        A new job is also due for its last occurrence if that is within its grace period.
        """
        known = self.since()
        far = clock.micros(now + AHEAD)
        found = {
            name: known[name] if known.get(name, far + 1) <= far else clock.micros(now - job.grace)
            for name, job in self.jobs.items()
        }
        if found != known:
            self.store.remember(self._key, json.dumps(found, sort_keys=True))

    def items(self, now: datetime) -> list[DueJob]:
        """Return every job that was due since the schedule runs and within `HORIZON`, oldest first."""
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
            if due.name not in named:  # If two jobs have the same key, the first due one counts.
                named.add(due.name)
                rows = runs.get(due.name, [])
                items.append(DueJob(job, at, due, rows, ledger.job_state(due, rows, now_us)))
        return items

    def alerts_of_missed(self, now: datetime, held: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
        """
        Return the alerts of jobs that failed, are late or were missed.

        Args:
            held: The alerts raised so far, by fingerprint: starts_us, ends_us, words.

        Returns:
            External alerts for the notification store; empty if nothing has changed.
        """
        now_us, found = clock.micros(now), []
        for item in self.items(now):
            if now - item.at > ALERT_AGE:
                continue
            name = fingerprint(item.due)
            problem, before = _problem(item, now_us), held.get(name)
            if problem is None or (item.state == ledger.OVER and before and before["ends_us"] <= now_us):
                continue
            starts_us, words = problem
            if item.state == ledger.OVER:
                ends_us = now_us if before else now_us + BRIEF_US
            else:
                ends_us = now_us + ALERT_US
                if before and before["ends_us"] > now_us + RENEW_US and before["words"] == words:
                    continue
            if (
                before
                and item.state == ledger.OVER
                and before["words"] == words
                and before["ends_us"] <= now_us + BRIEF_US
            ):
                continue  # The alert was raised after the job had ended, and ends by itself.
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
                    "annotations": {"summary": words, "again": item.command(self.settings.base)},
                    "starts_us": starts_us,
                    "ends_us": ends_us,
                }
            )
        return found


def fingerprint(due: JobKey) -> str:
    """Return the fingerprint of the alert of a job key."""
    return f"{sha256(due.name.encode()).hexdigest()[:8]}{OF_SCHEDULE}"


def _problem(item: DueJob, now_us: int) -> tuple[int, str] | None:
    """
    Return when a problem of a due job began, in microseconds, and its sentence; None without a problem.

    The sentence stays the same while the problem does.
    """
    due, made, failed = item.due, item.made, [row for row in item.rows if row["state"] == "failed"]
    assert due.late_us is not None
    when = f"due {formatting.moment(item.at)}"
    if made is not None and made["state"] == "missed":
        return due.late_us, f"{due.name} was missed: {made['reason']} ({when})"
    if made is not None and made["state"] == "late":
        return due.late_us, f"{due.name} was late: {made['reason']} ({when})"
    if failed:
        given_up = f"; no retry after {len(failed)} failed runs" if item.state == ledger.GIVEN_UP else ""
        return failed[0][
            "ended_at_us"
        ], f"{due.name} failed: {formatting.single_line(failed[0]['reason'] or '', 160)}{given_up} ({when})"
    if made is None and item.state == ledger.GIVEN_UP:
        return due.late_us, f"{due.name} failed: its process died in each of {len(item.rows)} runs; no retry ({when})"
    if made is None and now_us > due.late_us:
        return due.late_us, f"{due.name} did not run ({when}); check that the scheduler is running"
    return None
