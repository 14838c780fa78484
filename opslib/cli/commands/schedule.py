"""Run ``ops schedule``: show, try and install the schedule."""

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opslib.cli.output import Reply
from opslib.foundation import clock, formatting, market_calendar, time_parsing
from opslib.foundation.clock import Window
from opslib.foundation.errors import OpsError, UsageError
from opslib.foundation.formatting import NEW_YORK
from opslib.foundation.storage import temporary_files
from opslib.jobs import ledger, schedule
from opslib.jobs.due import HORIZON, DueJob, DueJobs
from opslib.telemetry.pages.store import SnapshotStore

if TYPE_CHECKING:
    from opslib.desk import Desk

AHEAD = timedelta(days=370)  # So that a yearly job is listed with its next date.
PATIENCE_S = 30
_SERVICE = """[Unit]
Description=Run the jobs that are due for {app}

[Service]
Type=oneshot
EnvironmentFile=-{home}/environment
ExecStart={command}
"""
_TIMER = """[Unit]
Description=Every minute: run the jobs that are due for {app}

[Timer]
OnCalendar=*-*-* *:*:00
Persistent=true

[Install]
WantedBy=timers.target
"""


def execute(
    opened: Callable[[], "Desk"], options: argparse.Namespace, progress: Callable[..., Iterable[Any]]
) -> Reply | int:
    """
    Run one of run, list, try and install; return what to show, or the exit code of run.

    Raises:
        UsageError: The options do not go together.
    """
    if (options.what == "install") != bool(options.how):
        raise UsageError("ops schedule install needs systemd or cron; the other forms take neither.")
    if not 1 <= options.workers <= 32:
        raise UsageError(f"--workers is {options.workers}; expected 1 to 32.")
    match options.what:
        case "run":
            return run(opened, options.workers, options.once)
        case "install":
            return install(opened(), options.how)
        case "try":
            return try_run(opened(), options.as_of, progress)
    return listed(opened())


def run(opened: Callable[[], "Desk"], workers: int, once: bool) -> int:
    """Run the jobs that are due, once or until stopped, and return the exit code."""
    from opslib.services import scheduler

    if once:
        return scheduler.Scheduler(opened, workers).run_once()
    print("running jobs when they are due (ops schedule list shows them). Press Ctrl-C to stop.", file=sys.stderr)
    scheduler.serve(opened, workers)
    return 0


def ranged(
    desk: "Desk", options: argparse.Namespace, timeout_s: float, progress: Callable[..., Iterable[Any]]
) -> tuple[Reply, set[str]]:
    """
    Make every report of a range that does not exist yet; return the result of each, and the states they ended in.

    Raises:
        UsageError: It is not a range of that report, or an option is only for single reports.
    """
    from opslib.reports import backfill

    if options.partial or options.as_of or options.known_at:
        raise UsageError("--partial, --as-of and --known-at are for a single report, not for a range.")
    if options.workers is not None and (options.scheduler or not 1 <= options.workers <= 32):
        raise UsageError("--workers is 1 to 32, and cannot be combined with --scheduler.")
    if (options.name == schedule.DAILY) != bool(options.day):
        raise UsageError("a range is given with --day for the daily report, and with --period for the others.")
    ofs = backfill.period_names(options.name, options.day or options.period)

    def bar(running: Iterable[Any]) -> Iterable[Any]:
        return progress(running, len(ofs), f"making {len(ofs)} {options.name} reports", "reports")

    made = (
        backfill.make_on_cluster(desk, options.scheduler, options.name, ofs, timeout_s, bar)
        if options.scheduler
        else backfill.make_locally(desk, options.name, ofs, options.workers or 2, timeout_s, bar)
    )
    rows = [[m.of, m.state, m.place and f"{m.place}.html", formatting.single_line(m.reason, 120)] for m in made]
    return Reply(
        [
            {"of": m.of, "state": m.state, "reason": m.reason or None, "page": (m.place and f"{m.place}.html") or None}
            for m in made
        ],
        formatting.table(["report of", "state", "page", "reason"], rows),
    ), {m.state for m in made}


def listed(desk: "Desk") -> Reply:
    """List each job with its next time and its last result."""
    due_jobs, now = DueJobs.of(desk.store, desk.settings, desk.contacts), desk.now()
    deployed = [
        clock.instant(m.ts_us)
        for m in desk.marks.between(clock.micros(now - HORIZON), clock.micros(now))
        if m.kind == "deploy"
    ]
    _first, last = market_calendar.covered()
    until = min(now + AHEAD, time_parsing.parse(f"{last}T00:00"))
    rows, values = [], []
    found = {item.job.name: item for item in due_jobs.items(now)}
    for name, job in due_jobs.jobs.items():
        following = next(iter(job.moments(Window(now, max(now, until)), deployed)), None)
        item = found.get(name)
        last_state = _last_state(item) if item else ""
        shown = f"{following.at.astimezone(NEW_YORK):%a %Y-%m-%d %H:%M}" if following else ""
        rows.append(
            [
                name,
                f"{job.kind} {job.what}",
                job.when_text,
                shown,
                f"{item.due.name}: {last_state}" if item else "",
                job.owner,
            ]
        )
        values.append(
            {
                "job": name,
                "runs": f"{job.kind} {job.what}",
                "when": job.when_text,
                "next": formatting.iso(following.at) if following else None,
                "makes": job.made_at(following) if following else None,
                "last": {"due": item.due.name, "due_at": formatting.iso(item.at), "state": last_state}
                if item
                else None,
                "owner": job.owner,
                "severity": job.severity,
                "catch_up": job.catch_up,
                "deliver": list(job.deliver),
            }
        )
    head = (
        ""
        if due_jobs.since()
        else "The schedule is not running yet. Start it with ops schedule run or ops schedule install.\n\n"
    )
    return Reply(values, head + formatting.table(["job", "runs", "when", "next (New York)", "last", "owner"], rows))


def _last_state(item: DueJob) -> str:
    if item.made:
        return str(item.made["state"])
    return "not run" if item.state == ledger.OPEN else item.state


def try_run(desk: "Desk", as_of: str | None, progress: Callable[..., Iterable[Any]]) -> Reply:
    """
    Run every job once, as of a time; for the demo that of its last snapshot, else now.

    Raises:
        SettingsError: The schedule cannot be read.
    """
    from opslib.services import scheduler

    last = SnapshotStore(desk.store).last_snapshot(desk.settings.app, clock.micros(desk.now()), None)
    at = desk.now()
    if as_of:
        at = time_parsing.parse(as_of)
    elif desk.settings.app == "demo" and last:
        at = clock.instant(last.ts_us)
    jobs = schedule.read(desk.settings.base, desk.contacts)
    ended = scheduler.dry_run(
        desk, jobs, at, lambda running: progress(running, len(running), f"running {len(running)} jobs once", "jobs")
    )
    rows = [
        [
            job.name,
            outcome.state,
            (outcome.record or {}).get("values", {}).get("verdict", ""),
            f"{place}.html",
            formatting.single_line(outcome.reason or "", 120),
        ]
        for job, outcome, place in ended
    ]
    values = [
        {"job": job.name, "state": outcome.state, "reason": outcome.reason, "page": f"{place}.html"}
        for job, outcome, place in ended
    ]
    return Reply(
        values,
        formatting.table(["job", "state", "verdict", "page", "reason"], rows),
        all(outcome.state != "failed" for _, outcome, _ in ended),
    )


def install(desk: "Desk", how: str) -> Reply:
    """
    Install a systemd timer or a cron line that runs due jobs every minute.

    Raises:
        UsageError: systemd or cron is not on this machine.
        OpsError: It failed.
    """
    settings = desk.settings
    if any(not c.isprintable() for c in str(settings.base)):
        raise UsageError(
            f"the name of the home directory {str(settings.base)!r} contains a character that {how} does not accept. "
            f"Expected printable characters on one line. Rename it, or use a symbolic link."
        )
    command = [
        sys.executable,
        "-m",
        "opslib.cli",
        "--home",
        str(settings.base),
        "--app",
        settings.app,
        "schedule",
        "run",
        "--once",
    ]
    return _systemd(settings.app, settings.base, command) if how == "systemd" else _cron(settings.app, command)


def _systemd(app: str, home: Path, command: list[str]) -> Reply:
    folder = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "systemd" / "user"
    name = f"opslib-schedule-{app}"
    quoted = " ".join(
        '"' + part.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$") + '"'
        for part in command
    )
    with temporary_files.refusing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    for ending, content in (
        (".service", _SERVICE.format(app=app, home=str(home).replace("%", "%%"), command=quoted)),
        (".timer", _TIMER.format(app=app)),
    ):
        with temporary_files.refusing(folder):
            temporary_files.replace(folder / f"{name}{ending}", content.encode())
    then = f"systemctl --user daemon-reload && systemctl --user enable --now {name}.timer"
    words = (
        f"wrote {folder / name}.service and .timer. Enable it with:\n\n  {then}\n\nPut secrets that are in your "
        f"environment into {home / 'environment'}, readable only by you. To keep it running while you are logged "
        f"out: loginctl enable-linger"
    )
    return Reply({"files": [str(folder / f"{name}{ending}") for ending in (".service", ".timer")], "then": then}, words)


def _cron(app: str, command: list[str]) -> Reply:
    import shlex

    if shutil.which("crontab") is None:
        raise UsageError("crontab was not found on this machine. Install cron, or use ops schedule install systemd.")
    mark = f"# ops schedule of {app}"
    listing = subprocess.run(["crontab", "-l"], capture_output=True, text=True, timeout=PATIENCE_S)
    kept = [line for line in listing.stdout.splitlines() if not line.endswith(mark)] if listing.returncode == 0 else []
    line = f"* * * * * {shlex.join(command).replace('%', chr(92) + '%')} {mark}"
    done = subprocess.run(
        ["crontab", "-"], input="\n".join([*kept, line]) + "\n", capture_output=True, text=True, timeout=PATIENCE_S
    )
    if done.returncode:
        raise OpsError(f"crontab failed: {formatting.single_line(done.stderr, 160)}.")
    return Reply({"line": line}, f"added to your crontab, every minute:\n\n  {line}")
