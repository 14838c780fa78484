"""Run ``ops demo``: play a day, make its report, dashboard and postmortem, and compare each figure with the script."""

import argparse
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

from opslib.cli.output import Reply
from opslib.dashboard import status
from opslib.foundation import formatting
from opslib.foundation.config import contacts
from opslib.foundation.config import settings as settings_module
from opslib.foundation.config.settings import Settings, without_secrets
from opslib.foundation.config.workspace import Workspace
from opslib.foundation.errors import OpsError
from opslib.incidents import lifecycle
from opslib.jobs import executor
from opslib.jobs.kernels import KernelPool
from opslib.reports import publishing
from opslib.reports.postmortem import drafting
from opslib.runbooks import incident_page
from opslib.simulation.demo_day import replay, responders
from opslib.simulation.demo_day.home_lock import HomeLock

LOCK_WAIT_S = 60.0  # Processes of a killed demo end within seconds, also on a busy machine.


def play(options: argparse.Namespace, progress: Callable[..., Iterator[Any]], say: Callable[[str], None]) -> Reply:
    """Play the demo day and show the results; fails if a figure differs from the expected one."""
    settings = settings_module.load(options.home, settings_module.DEMO)
    seed = replay.SEED if options.seed is None else options.seed
    with HomeLock(settings, LOCK_WAIT_S) as lock:
        if not lock.is_mine:
            raise OpsError(
                f"another ops demo is running in {settings.base}. Wait until it has ended, or give another "
                f"home directory with --home."
            )
        return _run(settings, seed, lock, progress, say)


def _run(
    settings: Settings, seed: int, lock: HomeLock, progress: Callable[..., Iterator[Any]], say: Callable[[str], None]
) -> Reply:
    # The kernels import their libraries while the day is played. Each notebook has its own kernel.
    with ThreadPoolExecutor() as pool, closing(KernelPool(without_secrets(os.environ), begins=False)) as kernels:
        pictured = Future[Path]()

        def picture(desk: Workspace) -> None:
            """Make the dashboard of the outage in parallel with the rest of the day, which it does not show."""
            nonlocal pictured
            pictured = pool.submit(_dashboard, desk, formatting.iso(replay.outage_moment(seed)), kernels)

        desk = replay.play_day(settings, seed, lock, progress, kernels, picture)
        return _results(desk, seed, pool, kernels, pictured, say)


def _results(
    desk: Workspace,
    seed: int,
    pool: ThreadPoolExecutor,
    kernels: KernelPool,
    pictured: Future[Path],
    say: Callable[[str], None],
) -> Reply:
    """Make the documents of the played day, compare its figures with the expected ones, and return the results."""
    settings, worst = desk.settings, replay.outage_moment(seed)
    say("executing the daily report and the dashboard, and comparing every figure with the simulated events")
    checked = pool.submit(replay.compare_figures, desk, seed)
    incident = responders.outage_incident(desk)
    pages = {i.id: incident_page.path(settings, i.id) for i in lifecycle.of(desk).all()}
    drafted = pool.submit(drafting.draft, desk, incident, responders.LEAD, kernels=kernels)
    outcome, place = publishing.publish_daily(
        desk,
        replay.DAY,
        as_of=None,
        known_at=None,
        partial=False,
        timeout_s=executor.TIMEOUT_S,
        kernels=kernels,
        made_meanwhile=[*pages.values(), lifecycle.of(desk).folder(incident) / f"{drafting.NAME}.html"],
    )
    picture, (count, wrong), (_, postmortem, _) = pictured.result(), checked.result(), drafted.result()
    if outcome.state != "ok":
        raise OpsError(f"The demo's daily report is {outcome.state}: {outcome.reason}. Run ops demo again.")
    for name in pages:  # The pages link to the report, and it to them.
        incident_page.publish(desk, name)
    runbook = min(
        lifecycle.of(desk).folder(incident).glob("[0-9][0-9]_*.html"),
        default=lifecycle.of(desk).folder(incident) / f"01_{responders.RUNBOOK}.html",
    )
    made = {
        "report": Path(f"{place}.html"),
        "dashboard": Path(f"{picture}.html"),
        "runbook": runbook,
        "notifications": settings.home / contacts.INBOX,
        "postmortem": Path(f"{postmortem}.html"),
    }
    if missing := [str(path) for path in [*made.values(), *pages.values()] if not path.is_file()]:
        raise OpsError(f"The demo did not create {', '.join(missing)}. Run ops demo again.")
    (settings.home / replay.UNFINISHED).unlink()
    view = status.status_of(desk, worst)
    findings = [
        s
        for name in ("providers", "greeks", "pnl", "system")
        for s in view.panel(name).sentences
        if s.startswith(("critical", "escalate"))
    ]
    words = [
        f"Simulated trading day {replay.DAY}, seed {seed}. Two simulated app pages posted snapshots. Files: "
        f"{settings.home}",
        f"\nStatus at {formatting.moment(worst)}: {view.verdict_text}",
        *(f"  {s}" for s in findings),
        f"\n{count - len(wrong)} of {count} figures equal those computed separately from the simulated events.",
        *wrong,
        f"\ndaily report   {made['report']}",
        f"dashboard      {made['dashboard']}",
        f"runbook        {runbook}",
        f"postmortem     {made['postmortem']} (a draft; edit {postmortem.name}.md beside it)",
        f"notifications  {made['notifications']}",
        f"verify         ops --app demo verify {incident}",
        "alerts         ops --app demo alerts",
        f"any time       ops --app demo status --as-of {worst.astimezone(formatting.NEW_YORK):%Y-%m-%dT%H:%M}",
        "JupyterLab     ops --app demo lab (the dashboard alone: ops --app demo dashboard)",
    ]
    values = {
        "seed": seed,
        "figures": count,
        "wrong": wrong,
        "state": outcome.state,
        "incident": incident,
        **{name: str(path) for name, path in made.items()},
    }
    return Reply(values, "\n".join(words), not wrong)


def _dashboard(desk: Workspace, as_of: str, kernels: KernelPool) -> Path:
    outcome, place = executor.run(
        executor.notebook("dashboard"),
        {"app": desk.settings.app, "as_of": as_of},
        settings=desk.settings,
        store=desk.store,
        kernels=kernels,
    )
    if outcome.state != "ok":
        raise OpsError(f"The demo's dashboard failed: {outcome.reason}. Run ops demo again.")
    return place
