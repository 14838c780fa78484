"""
Run due jobs in the order in which they were due: claim each in the ledger, run it, send its result.

The scheduler holds no timers and no state. Every few seconds it lists the jobs that are due and not done. It may be
killed, suspended or have its clock changed: the next check gives the same list. Several schedulers run each job once.
"""

import asyncio
import json
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterable
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from opslib.alerting.notifications.store import NotificationStore
from opslib.foundation import clock, formatting, logs, market_calendar, periods
from opslib.foundation.config.settings import without_secrets
from opslib.foundation.config.workspace import Workspace
from opslib.foundation.errors import AlreadyMade, OpsError, SettingsError, StoreError
from opslib.jobs import executor, ledger, retention, schedule
from opslib.jobs.due import DueJob, DueJobs
from opslib.jobs.executor import Outcome
from opslib.jobs.kernels import KernelPool, with_kernel_pool
from opslib.jobs.schedule import CHECKLIST, DAILY, REPORT, Job
from opslib.reports import index_page, publishing
from opslib.runbooks import checklists
from opslib.services.notifying import NotificationTasks
from opslib.telemetry.pages.store import SnapshotStore

CHECK_S = 5.0
SET = ("settings.toml", "rules.toml", schedule.NAME)
WORKERS = 2
LAST_SNAPSHOT = timedelta(seconds=30)  # A snapshot this close to the market close is the last one of the day.
SENT_FOR = timedelta(days=1)  # Older results are not sent any more.
# How long running jobs may take to finish after a stop; the next scheduler runs those that do not.
STOP_S = 20.0


class Scheduler:
    """
    Runs the due jobs of one app.

    Args:
        opened: Opens the workspace with the current settings; called again after they changed.
        workers: How many jobs run at once.
        kernels: Pool of kernels with imports already done.
    """

    def __init__(self, opened: Callable[[], Workspace], workers: int = WORKERS, kernels: KernelPool | None = None):
        self._opened, self.workers, self.kernels = opened, workers, kernels
        self.workspace = opened()
        self._set: dict[Path, int] = {}
        self.ended: list[tuple[DueJob, str, str]] = []
        self._running: dict[str, threading.Thread] = {}
        self._logged: dict[str, str] = {}
        self._sent: set[str] = set()  # Only for speed; the database ensures that each is sent once.
        self._lock = threading.Lock()

    @property
    def running(self) -> int:
        """The number of jobs that this process is running."""
        with self._lock:
            self._running = {name: thread for name, thread in self._running.items() if thread.is_alive()}
            return len(self._running)

    def start_due(self) -> list[DueJob]:
        """
        Start due jobs as far as workers are free, record missed ones, and send results.

        Returns:
            Due jobs that are not started: they wait for data, for a worker, or for a retry.

        Raises:
            StoreError: The database cannot be read or written; nothing is lost.
        """
        self._reload_settings()
        workspace, now = self.workspace, self.workspace.now()
        due_jobs = DueJobs.of(workspace.store, workspace.settings, workspace.contacts)
        _check_checklists(due_jobs)
        due_jobs.begin(now)
        left = []
        for item in due_jobs.items(now):
            late = item.due.late_us is not None and clock.micros(now) > item.due.late_us
            if item.state == ledger.OVER:
                self._send(item, now)
            elif item.state == ledger.PAUSED:
                left.append(item)
            elif item.state != ledger.OPEN or item.due.name in self._running:
                continue
            elif late and not item.job.catch_up:
                self._record_missed(item, now)
            elif not _is_ready(workspace, item, now) or self.running >= self.workers:
                left.append(item)
            else:
                self._begin(workspace, item)
        if gone := retention.sweep_daily(workspace):
            self._log(
                "sweep", f"removed the files of {len(gone)} old runs; their results stay in the ledger", logging.INFO
            )
        return left

    def _reload_settings(self) -> None:
        """Reload the settings if their files changed."""
        found = {p: p.stat().st_mtime_ns for p in (self.workspace.settings.base / name for name in SET) if p.exists()}
        if found == self._set:
            return
        try:
            self.workspace, self._set = self._opened(), found
            self._logged.pop("settings", None)
        except SettingsError as problem:  # The previous settings stay in effect until the files are corrected.
            self._log("settings", str(problem))

    def _record_missed(self, item: DueJob, now: datetime) -> None:
        why = f"it was not started within {formatting.duration(item.job.grace.total_seconds())}, and catch_up is off"
        ledger.missed(self.workspace.store, self.workspace.settings.app, item.due, item.job.name, why)
        self._end(item, "missed", why)

    def _begin(self, workspace: Workspace, item: DueJob) -> None:
        thread = threading.Thread(target=self._make, args=(workspace, item), name=item.due.name, daemon=True)
        with self._lock:
            self._running[item.due.name] = thread
        thread.start()

    def _make(self, workspace: Workspace, item: DueJob) -> None:
        try:
            outcome, _ = make(workspace, item, self.kernels)
            index_page.keep_current(workspace)
            self._end(item, outcome.state, outcome.reason or "")
        except AlreadyMade:
            return
        except StoreError as problem:
            self._log("store", str(problem))
        # A refused or failed job stops no other. The ledger records it, and people are notified.
        except Exception as problem:
            why = workspace.settings.redact(
                str(problem)
                if isinstance(problem, OpsError)
                else f"{problem.__class__.__name__}: {formatting.single_line(str(problem), 160)}"
            )
            try:
                ledger.refused(workspace.store, workspace.settings.app, item.due, item.job.name, why)
            except StoreError as lost:
                self._log("store", str(lost))
            self._end(item, "failed", why)

    def _end(self, item: DueJob, state: str, why: str) -> None:
        self.ended.append((item, state, why))
        self._log(item.due.name, f"{item.due.name}: {state}{f' ({why})' if why else ''}", logging.INFO)

    def _send(self, item: DueJob, now: datetime) -> None:
        """Send the result of a finished job, once, if the schedule says so."""
        run = item.made
        if (
            not item.job.deliver
            or run is None
            or run["state"] == "missed"
            or run["id"] in self._sent
            or now - clock.instant(run["ended_at_us"]) > SENT_FOR
        ):
            return
        NotificationStore(self.workspace.store, self.workspace.settings.app).report(
            run["id"], item.job.deliver, _message_of(self.workspace, item)
        )
        self._sent.add(run["id"])

    def _log(self, about: str, words: str, level: int = logging.WARNING) -> None:
        """Log a line; the same line about the same subject only once."""
        if self._logged.get(about) != words:
            self._logged[about] = words
            logs.of(self.workspace.settings.redact).log(level, words)

    def run(self, stop: threading.Event) -> None:
        """Run due jobs and notify people until stopped."""
        notifying = threading.Thread(target=self._notify, args=(stop,), daemon=True)
        notifying.start()
        while not stop.is_set():
            try:
                self.start_due()
                self._logged.pop("store", None)
            except StoreError as problem:
                self._log("store", str(problem))
            except OpsError as problem:
                self._log("check", str(problem))
            stop.wait(CHECK_S / clock.speed())
        for thread in list(self._running.values()):
            thread.join(STOP_S / max(len(self._running), 1))
        notifying.join(STOP_S)

    def _notify(self, stop: threading.Event) -> None:
        workspace = self.workspace
        NotificationTasks(workspace.store, workspace.settings, workspace.rules, workspace.contacts, workspace.now).run(
            stop
        )

    def run_once(self) -> int:
        """
        Run all jobs that are due now, notify people, and return the exit code.

        Returns:
            0: nothing failed and nothing is left; 3: a job waits for data or a retry, or was missed or incomplete; 70:
            a job failed.
        """
        left = self.start_due()
        while self.running:
            for thread in list(self._running.values())[:1]:
                thread.join(0.2)
            left = self.start_due()
        workspace = self.workspace
        asyncio.run(
            NotificationTasks(
                workspace.store, workspace.settings, workspace.rules, workspace.contacts, workspace.now
            ).run_once()
        )
        states = {state for _, state, _ in self.ended}
        if "failed" in states:
            return 70
        return 3 if left or states & {"incomplete", "missed"} else 0


def make(workspace: Workspace, item: DueJob, kernels: KernelPool | None = None) -> tuple[Outcome, Path]:
    """
    Run one due job.

    Raises:
        AlreadyMade: Another process runs it, or has run it.
        OpsError: It cannot be run.
    """
    job, due = item.job, item.due
    how: dict[str, Any] = {"timeout_s": job.timeout.total_seconds()}
    if job.kind == REPORT:
        of = job.of(item.at)
        options: dict[str, Any] = {"as_of": None, "known_at": None, "partial": False, "due": due}
        return (
            publishing.publish_daily(workspace, of, **options, **how, kernels=kernels)
            if job.what == DAILY
            else publishing.publish_review(workspace, job.what, of, **options, **how, kernels=kernels)
        )
    if job.kind == CHECKLIST:
        path, given = (
            executor.notebook("checklist"),
            {"name": job.what, "app": workspace.settings.app, "operator": "", "as_of": "", "practice": False},
        )
    else:
        path, given = workspace.settings.base / job.what, dict(job.parameters)
    return executor.run(
        path, given, settings=workspace.settings, store=workspace.store, due=due, kernels=kernels, **how
    )


def _check_checklists(due_jobs: DueJobs) -> None:
    """Check that each checklist of the schedule exists."""
    for job in due_jobs.jobs.values():
        if job.kind == CHECKLIST and job.what not in checklists.table():
            raise SettingsError(
                f"{due_jobs.settings.base / schedule.NAME}, {job.name}: no checklist {job.what!r}; "
                f"expected one of {', '.join(checklists.table())}.{formatting.nearest(job.what, checklists.table())}"
            )


def _is_ready(workspace: Workspace, item: DueJob, now: datetime) -> bool:
    """Return whether the last snapshot of the day arrived, or the waiting time is over."""
    if not item.job.wait or now >= item.at + item.job.wait or (item.job.kind, item.job.what) != (REPORT, DAILY):
        return True
    closes = market_calendar.last_closed(item.at).closes
    return (
        SnapshotStore(workspace.store).first_snapshot(
            workspace.settings.app, clock.micros(closes - LAST_SNAPSHOT), None
        )
        is not None
    )


def _message_of(workspace: Workspace, item: DueJob) -> dict[str, Any]:
    """Return the message about a finished job."""
    run = item.made
    assert run
    files = {Path(p).suffix: p for p in json.loads(run["outputs"])}
    try:
        values = json.loads(Path(files[".json"]).read_text(encoding="utf-8")) if ".json" in files else {}
    except (OSError, ValueError):
        values = {}
    verdict = str(values.get("verdict", run["state"]))
    lines = [
        [
            "",
            f"{workspace.settings.app}: due {formatting.moment(item.at)}, finished "
            f"{formatting.moment(clock.instant(run['ended_at_us']))}; {run['state']}"
            f"{': ' + run['reason'] if run['reason'] else ''}.",
        ]
    ]
    lines += [["", formatting.single_line(words.lstrip("- "), 300)] for words in values.get("headline", ())[:10]]
    lines += [["To do", formatting.single_line(words, 300)] for words in values.get("action_items", ())[:10]]
    lines += [["Report", files[".html"]]] if ".html" in files else []
    severity = {"critical": "critical", "warning": "notify"}.get(verdict, "warning")
    return {
        "title": f"[{verdict}] {item.due.name}",
        "lines": lines,
        "severity": severity,
        "verdict": verdict,
        "state": run["state"],
        "page": files.get(".html", ""),
        "notebook": files.get(".ipynb", ""),
    }


def dry_run(
    workspace: Workspace, jobs: dict[str, Job], as_of: datetime, progress: Callable[[list[Any]], Iterable[Any]]
) -> list[tuple[Job, Outcome, Path]]:
    """
    Run every scheduled job once, as of a moment.

    Reports of periods that are not over get the name of partial ones; checklists leave no record.

    Returns:
        Each job, its outcome, and the path of its notebook.
    """
    from concurrent.futures import ThreadPoolExecutor

    with with_kernel_pool(lambda: workspace) as (_, kernels), ThreadPoolExecutor(WORKERS) as pool:
        running = [(job, pool.submit(_dry_run_job, workspace, job, as_of, kernels)) for job in jobs.values()]
        return [(job, *found.result()) for job, found in progress(running)]


def _dry_run_job(workspace: Workspace, job: Job, as_of: datetime, kernels: KernelPool) -> tuple[Outcome, Path]:
    moment = formatting.iso(as_of)
    how: dict[str, Any] = {"timeout_s": job.timeout.total_seconds()}
    if job.kind == REPORT:
        options: dict[str, Any] = {"as_of": moment, "known_at": None, "partial": True}
        if job.what == DAILY:
            return publishing.publish_daily(workspace, None, **options, **how, kernels=kernels)
        return publishing.publish_review(
            workspace,
            job.what,
            periods.of(periods.REPORTS[job.what], as_of.astimezone(formatting.NEW_YORK).date()).name,
            **options,
            **how,
            kernels=kernels,
        )
    if job.kind == CHECKLIST:
        return executor.run(
            executor.notebook("checklist"),
            {"name": job.what, "app": workspace.settings.app, "operator": "", "as_of": moment, "practice": True},
            settings=workspace.settings,
            store=workspace.store,
            kernels=kernels,
            **how,
        )
    return executor.run(
        workspace.settings.base / job.what,
        dict(job.parameters),
        settings=workspace.settings,
        store=workspace.store,
        kernels=kernels,
        **how,
    )


def serve(opened: Callable[[], Workspace], workers: int) -> None:
    """
    Run due jobs until SIGTERM or Ctrl-C.

    Running jobs may finish within `STOP_S`, or until a second signal. A job that is not finished by then did not fail:
    the next scheduler runs it.
    """
    stop = threading.Event()

    def request_stop(*_: Any) -> None:
        if stop.is_set():
            os._exit(0)
        stop.set()

    before = {number: signal.signal(number, request_stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        with closing(KernelPool(without_secrets(os.environ))) as kernels:
            scheduler = Scheduler(opened, workers, kernels)
            scheduler.run(stop)
            if scheduler.running:
                os._exit(0)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
