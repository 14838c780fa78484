"""Run ``ops schedule``: show the schedule, try it, and install it into the system."""

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

AHEAD = timedelta(days=370)  # What is due once a year is shown, too.
PATIENCE_S = 30
_SERVICE = """[Unit]
Description=What is due by the schedule of {app}

[Service]
Type=oneshot
EnvironmentFile=-{home}/environment
ExecStart={command}
"""
_TIMER = """[Unit]
Description=Each minute: what is due by the schedule of {app}

[Timer]
OnCalendar=*-*-* *:*:00
Persistent=true

[Install]
WantedBy=timers.target
"""


def asked(
    opened: Callable[[], "Desk"], options: argparse.Namespace, progress: Callable[..., Iterable[Any]]
) -> Reply | int:
    """
    What is asked of the schedule: what to show, or of making what is due the exit code.

    Raises:
        UsageError: It was asked wrongly.
    """
    if (options.what == "install") != bool(options.how):
        raise UsageError("ops schedule install takes systemd or cron, and nothing else does.")
    if not 1 <= options.workers <= 32:
        raise UsageError(f"--workers is 1 to 32, found {options.workers}.")
    match options.what:
        case "run":
            return run(opened, options.workers, options.once)
        case "install":
            return install(opened(), options.how)
        case "try":
            return tried(opened(), options.as_of, progress)
    return listed(opened())


def run(opened: Callable[[], "Desk"], workers: int, once: bool) -> int:
    """Make what is due: by now, or until stopped. The exit code."""
    from opslib.services import scheduler

    if once:
        return scheduler.Scheduler(opened, workers).once()
    print("making what is due; ops schedule list shows it; Ctrl-C stops", file=sys.stderr)
    scheduler.serve(opened, workers)
    return 0


def ranged(
    desk: "Desk", options: argparse.Namespace, timeout_s: float, progress: Callable[..., Iterable[Any]]
) -> tuple[Reply, set[str]]:
    """
    Make every report of a range that is not made yet; what became of each, and the states that they ended in.

    Raises:
        UsageError: It is no range of that report's, or it is asked for with what only one report can have.
    """
    from opslib.reports import backfill

    if options.partial or options.as_of or options.known_at:
        raise UsageError(
            "of a range reports are whole, of all that is known now; --partial, --as-of and --known-at are "
            "of one report."
        )
    if options.workers is not None and (options.scheduler or not 1 <= options.workers <= 32):
        raise UsageError("--workers is 1 to 32, and not together with --scheduler.")
    if (options.name == schedule.DAILY) != bool(options.day):
        raise UsageError("a range is of a --day for the daily report, of a --period for the others.")
    ofs = backfill.span(options.name, options.day or options.period)

    def bar(running: Iterable[Any]) -> Iterable[Any]:
        return progress(running, len(ofs), f"making {len(ofs)} {options.name} reports", "reports")

    made = (
        backfill.there(desk, options.scheduler, options.name, ofs, timeout_s, bar)
        if options.scheduler
        else backfill.here(desk, options.name, ofs, options.workers or 2, timeout_s, bar)
    )
    rows = [[m.of, m.state, m.place and f"{m.place}.html", formatting.single_line(m.reason, 120)] for m in made]
    return Reply(
        [
            {"of": m.of, "state": m.state, "reason": m.reason or None, "page": (m.place and f"{m.place}.html") or None}
            for m in made
        ],
        formatting.table(["of", "state", "page", "why"], rows),
    ), {m.state for m in made}


def listed(desk: "Desk") -> Reply:
    """What comes next, and what became of what was due last?"""
    agenda, now = DueJobs.of(desk.store, desk.settings, desk.staff), desk.now()
    deployed = [
        clock.instant(m.ts_us)
        for m in desk.marks.between(clock.micros(now - HORIZON), clock.micros(now))
        if m.kind == "deploy"
    ]
    _first, last = market_calendar.covered()
    until = min(now + AHEAD, time_parsing.parse(f"{last}T00:00"))
    rows, values = [], []
    found = {item.job.name: item for item in agenda.items(now)}
    for name, job in agenda.jobs.items():
        following = next(iter(job.moments(Window(now, max(now, until)), deployed)), None)
        item = found.get(name)
        last_state = _last_state(item) if item else ""
        shown = f"{following.at.astimezone(NEW_YORK):%a %Y-%m-%d %H:%M}" if following else ""
        rows.append(
            [
                name,
                f"{job.kind} {job.what}",
                job.said,
                shown,
                f"{item.due.name}: {last_state}" if item else "",
                job.owner,
            ]
        )
        values.append(
            {
                "job": name,
                "runs": f"{job.kind} {job.what}",
                "when": job.said,
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
        if agenda.since()
        else "The schedule of this desk has not run yet: ops schedule run, or ops schedule install.\n\n"
    )
    return Reply(values, head + formatting.table(["job", "runs", "when", "next (New York)", "last", "owner"], rows))


def _last_state(item: DueJob) -> str:
    if item.made:
        return str(item.made["state"])
    return "not made" if item.standing == ledger.OPEN else item.standing


def tried(desk: "Desk", as_of: str | None, progress: Callable[..., Iterable[Any]]) -> Reply:
    """
    Make everything that is scheduled once, as of a moment: of the demo that of its last look, else now.

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
    jobs = schedule.read(desk.settings.base, desk.staff)
    ended = scheduler.rehearse(
        desk, jobs, at, lambda running: progress(running, len(running), f"making {len(running)} things once", "things")
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
        formatting.table(["job", "state", "verdict", "page", "why"], rows),
        all(outcome.state != "failed" for _, outcome, _ in ended),
    )


def install(desk: "Desk", how: str) -> Reply:
    """
    Have the system make what is due, each minute.

    Raises:
        UsageError: The program that would be asked is not on this machine.
        OpsError: It refused.
    """
    settings = desk.settings
    if any(not c.isprintable() for c in str(settings.base)):
        raise UsageError(
            f"the home {str(settings.base)!r} has a character in its name that {how} cannot take; a folder "
            f"whose name is printable, on one line, was expected. Move it, or link to it."
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
        f"written: {folder / name}.service and .timer. Switch it on with:\n\n  {then}\n\nKeys that the "
        f"environment holds go into {home / 'environment'}, readable by you alone; loginctl enable-linger keeps "
        f"it running when nobody is logged in."
    )
    return Reply({"files": [str(folder / f"{name}{ending}") for ending in (".service", ".timer")], "then": then}, words)


def _cron(app: str, command: list[str]) -> Reply:
    import shlex

    if shutil.which("crontab") is None:
        raise UsageError("crontab is not on this machine. Install cron, or take ops schedule install systemd.")
    mark = f"# ops schedule of {app}"
    asked = subprocess.run(["crontab", "-l"], capture_output=True, text=True, timeout=PATIENCE_S)
    kept = [line for line in asked.stdout.splitlines() if not line.endswith(mark)] if asked.returncode == 0 else []
    line = f"* * * * * {shlex.join(command).replace('%', chr(92) + '%')} {mark}"
    done = subprocess.run(
        ["crontab", "-"], input="\n".join([*kept, line]) + "\n", capture_output=True, text=True, timeout=PATIENCE_S
    )
    if done.returncode:
        raise OpsError(f"crontab refused: {formatting.single_line(done.stderr, 160)}.")
    return Reply({"line": line}, f"in your crontab, once a minute:\n\n  {line}")
