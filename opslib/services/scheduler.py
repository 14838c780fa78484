"""
Make what is due, in the order in which it was due: claim it in the ledger, make it, send it.

It holds no timers and remembers nothing: it looks every few seconds at what was due by now and was not made. So it may
be killed, asleep or moved in time; whoever looks next finds the same, and any number of them make each thing once.
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
from opslib.reports import publishing
from opslib.runbooks import checklists
from opslib.services.notifying import NotificationTasks
from opslib.telemetry.pages.store import SnapshotStore

LOOK_S = 5.0
SET = ("settings.toml", "rules.toml", schedule.NAME)
WORKERS = 2
LAST_LOOK = timedelta(seconds=30)  # A look so near to the close was the last one, however often a page posts.
SENT_FOR = timedelta(days=1)  # What was made longer ago is not sent any more.
# What is being made may be finished so long after we were asked to stop; what is not is made by the next one.
STOP_S = 20.0


class Scheduler:
    """
    Makes what is due of one desk.

    Args:
        opened: Gives the desk as its settings are now; asked again when they were changed.
        workers: So many things are made at once.
        kernels: Where kernels are had that need not import anything first.
    """

    def __init__(self, opened: Callable[[], Workspace], workers: int = WORKERS, kernels: KernelPool | None = None):
        self._opened, self.workers, self.kernels = opened, workers, kernels
        self.workspace = opened()
        self._set: dict[Path, int] = {}
        self.ended: list[tuple[DueJob, str, str]] = []
        self._going: dict[str, threading.Thread] = {}
        self._said: dict[str, str] = {}
        self._sent: set[str] = set()  # Only for speed: that it is sent once, the store sees to.
        self._turn = threading.Lock()

    @property
    def going(self) -> int:
        """How many things are being made by us?"""
        with self._turn:
            self._going = {name: thread for name, thread in self._going.items() if thread.is_alive()}
            return len(self._going)

    def look(self) -> list[DueJob]:
        """
        Begin what is open, as far as there are workers; note what is missed; send what was made.

        Returns:
            What is to be made and is not begun yet: it waits for data, for a worker, or to be tried again.

        Raises:
            StoreError: The store cannot be read or written; nothing is lost by that.
        """
        self._renew()
        workspace, now = self.workspace, self.workspace.now()
        agenda = DueJobs.of(workspace.store, workspace.settings, workspace.staff)
        _known(agenda)
        agenda.begin(now)
        left = []
        for item in agenda.items(now):
            late = item.due.late_us is not None and clock.micros(now) > item.due.late_us
            if item.standing == ledger.OVER:
                self._send(item, now)
            elif item.standing == ledger.PAUSED:
                left.append(item)
            elif item.standing != ledger.OPEN or item.due.name in self._going:
                continue
            elif late and not item.job.catch_up:
                self._missed(item, now)
            elif not _ready(workspace, item, now) or self.going >= self.workers:
                left.append(item)
            else:
                self._begin(workspace, item)
        if gone := retention.sweep_daily(workspace):
            self._say(
                "sweep", f"the files of {len(gone)} old runs are gone; the ledger has how they ended", logging.INFO
            )
        return left

    def _renew(self) -> None:
        """What was set meanwhile counts from now on."""
        found = {p: p.stat().st_mtime_ns for p in (self.workspace.settings.base / name for name in SET) if p.exists()}
        if found == self._set:
            return
        try:
            self.workspace, self._set = self._opened(), found
            self._said.pop("settings", None)
        except SettingsError as problem:  # What held until now holds until it is set right.
            self._say("settings", str(problem))

    def _missed(self, item: DueJob, now: datetime) -> None:
        why = f"nobody made it within {formatting.duration(item.job.grace.total_seconds())}, and it is not caught up"
        ledger.missed(self.workspace.store, self.workspace.settings.app, item.due, item.job.name, why)
        self._end(item, "missed", why)

    def _begin(self, workspace: Workspace, item: DueJob) -> None:
        thread = threading.Thread(target=self._make, args=(workspace, item), name=item.due.name, daemon=True)
        with self._turn:
            self._going[item.due.name] = thread
        thread.start()

    def _make(self, workspace: Workspace, item: DueJob) -> None:
        try:
            outcome, _ = make(workspace, item, self.kernels)
            self._end(item, outcome.state, outcome.reason or "")
        except AlreadyMade:
            return
        except StoreError as problem:
            self._say("store", str(problem))
        # Refused, or a fault of ours: it stops no other, the ledger says so, and people are told by it.
        except Exception as problem:
            why = workspace.settings.redact(
                str(problem)
                if isinstance(problem, OpsError)
                else f"{problem.__class__.__name__}: {formatting.single_line(str(problem), 160)}"
            )
            try:
                ledger.refused(workspace.store, workspace.settings.app, item.due, item.job.name, why)
            except StoreError as lost:
                self._say("store", str(lost))
            self._end(item, "failed", why)

    def _end(self, item: DueJob, state: str, why: str) -> None:
        self.ended.append((item, state, why))
        self._say(item.due.name, f"{item.due.name}: {state}{f' ({why})' if why else ''}", logging.INFO)

    def _send(self, item: DueJob, now: datetime) -> None:
        """Have what was made sent, once, where it is to be sent."""
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
            run["id"], item.job.deliver, _delivered(self.workspace, item)
        )
        self._sent.add(run["id"])

    def _say(self, about: str, words: str, level: int = logging.WARNING) -> None:
        """Log it; the same of one thing once."""
        if self._said.get(about) != words:
            self._said[about] = words
            logs.of(self.workspace.settings.redact).log(level, words)

    def run(self, stop: threading.Event) -> None:
        """Make what is due until stopped, and tell people."""
        telling = threading.Thread(target=self._tell, args=(stop,), daemon=True)
        telling.start()
        while not stop.is_set():
            try:
                self.look()
                self._said.pop("store", None)
            except StoreError as problem:
                self._say("store", str(problem))
            except OpsError as problem:
                self._say("look", str(problem))
            stop.wait(LOOK_S / clock.speed())
        for thread in list(self._going.values()):
            thread.join(STOP_S / max(len(self._going), 1))
        telling.join(STOP_S)

    def _tell(self, stop: threading.Event) -> None:
        workspace = self.workspace
        NotificationTasks(workspace.store, workspace.settings, workspace.rules, workspace.staff, workspace.now).run(
            stop
        )

    def once(self) -> int:
        """
        Make all that is due by now, tell people, and end.

        Returns:
            0: nothing failed and nothing is left; 3: something waits, for data or after a failure, or was missed or
            incomplete; 70: something failed.
        """
        left = self.look()
        while self.going:
            for thread in list(self._going.values())[:1]:
                thread.join(0.2)
            left = self.look()
        workspace = self.workspace
        asyncio.run(
            NotificationTasks(
                workspace.store, workspace.settings, workspace.rules, workspace.staff, workspace.now
            ).run_once()
        )
        states = {state for _, state, _ in self.ended}
        if "failed" in states:
            return 70
        return 3 if left or states & {"incomplete", "missed"} else 0


def make(workspace: Workspace, item: DueJob, kernels: KernelPool | None = None) -> tuple[Outcome, Path]:
    """
    Make one thing that is due.

    Raises:
        AlreadyMade: Somebody else makes it, or has made it.
        OpsError: It cannot be made.
    """
    job, due = item.job, item.due
    how: dict[str, Any] = {"timeout_s": job.timeout.total_seconds()}
    if job.kind == REPORT:
        of = job.of(item.at)
        told: dict[str, Any] = {"as_of": None, "known_at": None, "partial": False, "due": due}
        return (
            publishing.publish_daily(workspace, of, **told, **how, kernels=kernels)
            if job.what == DAILY
            else publishing.publish_review(workspace, job.what, of, **told, **how, kernels=kernels)
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


def _known(agenda: DueJobs) -> None:
    """Is there a checklist of each name that the schedule has?"""
    for job in agenda.jobs.values():
        if job.kind == CHECKLIST and job.what not in checklists.table():
            raise SettingsError(
                f"{agenda.settings.base / schedule.NAME}, {job.name}: there is no checklist {job.what!r}; "
                f"there are: {', '.join(checklists.table())}.{formatting.nearest(job.what, checklists.table())}"
            )


def _ready(workspace: Workspace, item: DueJob, now: datetime) -> bool:
    """Has the last look come that is expected of the day, or has it been waited for long enough?"""
    if not item.job.wait or now >= item.at + item.job.wait or (item.job.kind, item.job.what) != (REPORT, DAILY):
        return True
    closes = market_calendar.last_closed(item.at).closes
    return (
        SnapshotStore(workspace.store).first_snapshot(workspace.settings.app, clock.micros(closes - LAST_LOOK), None)
        is not None
    )


def _delivered(workspace: Workspace, item: DueJob) -> dict[str, Any]:
    """What is sent of something that was made."""
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
            f"{workspace.settings.app}: due {formatting.moment(item.at)}, made "
            f"{formatting.moment(clock.instant(run['ended_at_us']))}; {run['state']}"
            f"{': ' + run['reason'] if run['reason'] else ''}.",
        ]
    ]
    lines += [["", formatting.single_line(words.lstrip("- "), 300)] for words in values.get("headline", ())[:10]]
    lines += [["To do", formatting.single_line(words, 300)] for words in values.get("action_items", ())[:10]]
    lines += [["Stands in", files[".html"]]] if ".html" in files else []
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


def rehearse(
    workspace: Workspace, jobs: dict[str, Job], as_of: datetime, progress: Callable[[list[Any]], Iterable[Any]]
) -> list[tuple[Job, Outcome, Path]]:
    """
    Make everything that is scheduled once, as of a moment: reports under the name of partial ones where they are not
    over, checklists without a trace.

    Returns:
        Each job, how it ended, and where it is.
    """
    from concurrent.futures import ThreadPoolExecutor

    with with_kernel_pool(lambda: workspace) as (_, kernels), ThreadPoolExecutor(WORKERS) as pool:
        running = [(job, pool.submit(_rehearsed, workspace, job, as_of, kernels)) for job in jobs.values()]
        return [(job, *found.result()) for job, found in progress(running)]


def _rehearsed(workspace: Workspace, job: Job, as_of: datetime, kernels: KernelPool) -> tuple[Outcome, Path]:
    moment = formatting.iso(as_of)
    how: dict[str, Any] = {"timeout_s": job.timeout.total_seconds()}
    if job.kind == REPORT:
        told: dict[str, Any] = {"as_of": moment, "known_at": None, "partial": True}
        if job.what == DAILY:
            return publishing.publish_daily(workspace, None, **told, **how, kernels=kernels)
        return publishing.publish_review(
            workspace,
            job.what,
            periods.of(periods.REPORTS[job.what], as_of.astimezone(formatting.NEW_YORK).date()).name,
            **told,
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
    Make what is due until SIGTERM or Ctrl-C; what is being made then may be finished within `STOP_S`, or until the
    second of them.

    What is not finished by then is left as if we had been killed: it did not fail, and the next one makes it.
    """
    stop = threading.Event()

    def asked(*_: Any) -> None:
        if stop.is_set():
            os._exit(0)
        stop.set()

    before = {number: signal.signal(number, asked) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        with closing(KernelPool(without_secrets(os.environ))) as kernels:
            making = Scheduler(opened, workers, kernels)
            making.run(stop)
            if making.going:
                os._exit(0)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
