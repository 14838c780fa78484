"""Run ``ops demo``: play a day, make its report, dashboard and postmortem, and compare each figure with the script."""

import argparse
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

from opslib.cli.output import Reply
from opslib.dashboard import status
from opslib.foundation import formatting
from opslib.foundation.config import settings as settings_module
from opslib.foundation.config.settings import Settings, without_secrets
from opslib.foundation.config.workspace import Workspace
from opslib.foundation.errors import OpsError
from opslib.incidents import lifecycle
from opslib.jobs import executor
from opslib.jobs.kernels import KernelPool
from opslib.reports import publishing
from opslib.reports.postmortem import drafting
from opslib.simulation.demo_day import replay, responders
from opslib.simulation.demo_day.home_lock import HomeLock

LOCK_WAIT_S = 60.0  # What a killed demo left running ends within seconds, on a busy machine too.


def asked(options: argparse.Namespace, progress: Callable[..., Iterator[Any]], say: Callable[[str], None]) -> Reply:
    """Live through the day, and show what came of it; not done where a figure is another than the script's."""
    settings = settings_module.load(options.home, settings_module.DEMO)
    seed = replay.SEED if options.seed is None else options.seed
    with HomeLock(settings, LOCK_WAIT_S) as lock:
        if not lock.is_mine:
            raise OpsError(
                f"another ops demo is running in {settings.base}. Wait until it has ended, or name another "
                f"folder with --home."
            )
        return _lived(settings, seed, lock, progress, say)


def _lived(
    settings: Settings, seed: int, lock: HomeLock, progress: Callable[..., Iterator[Any]], say: Callable[[str], None]
) -> Reply:
    # Its notebooks import what they need while the day is lived.
    with closing(KernelPool(without_secrets(os.environ))) as kernels:
        desk = replay.live(settings, seed, lock, progress, kernels)
        return _told(desk, seed, kernels, say)


def _told(desk: Workspace, seed: int, kernels: KernelPool, say: Callable[[str], None]) -> Reply:
    """Make the documents of a day that was lived, compare its figures with the script's, and say what came of it."""
    settings, worst = desk.settings, replay.outage(seed)
    say("executing the daily report and a dashboard, and checking every figure against the script")
    with ThreadPoolExecutor() as pool:  # Each notebook has a kernel of its own.
        checked = pool.submit(replay.compared, desk, seed)
        pictured = pool.submit(_dashboard, desk, formatting.iso(worst), kernels)
        incident = responders.incident(desk)
        drafted = pool.submit(drafting.draft, desk, incident, responders.LEAD, kernels=kernels)
        outcome, place = publishing.publish_daily(
            desk,
            replay.DAY,
            as_of=None,
            known_at=None,
            partial=False,
            timeout_s=executor.TIMEOUT_S,
            kernels=kernels,
        )
        picture, (count, wrong), (_, postmortem, _) = pictured.result(), checked.result(), drafted.result()
    if outcome.state != "ok":
        raise OpsError(f"the demo's daily report is {outcome.state}: {outcome.reason}. Run ops demo again.")
    runbook = min(
        lifecycle.of(desk).folder(incident).glob("[0-9][0-9]_*.html"),
        default=lifecycle.of(desk).folder(incident) / f"01_{responders.RUNBOOK}.html",
    )
    made = {
        "report": Path(f"{place}.html"),
        "dashboard": Path(f"{picture}.html"),
        "runbook": runbook,
        "postmortem": Path(f"{postmortem}.html"),
    }
    if missing := [str(path) for path in made.values() if not path.is_file()]:
        raise OpsError(f"the demo did not make {', '.join(missing)}. Run ops demo again.")
    (settings.home / replay.UNFINISHED).unlink()
    view = status.status_of(desk, worst)
    told = [
        s
        for name in ("providers", "greeks", "pnl", "system")
        for s in view.panel(name).sentences
        if s.startswith(("critical", "escalate"))
    ]
    words = [
        f"A trading day, {replay.DAY}, seed {seed}: two pages posted it to the receiver, which kept it in "
        f"{settings.home}.",
        f"\nAs it stood at {formatting.moment(worst)}: {view.verdict}",
        *(f"  {s}" for s in told),
        f"\n{count - len(wrong)} of {count} figures equal the script's own truth.",
        *wrong,
        f"\ndaily report   {made['report']}",
        f"dashboard      {made['dashboard']}",
        f"the runbook    {runbook}",
        f"postmortem     {made['postmortem']} (a draft; write in {postmortem.name}.md beside it)",
        f"its evidence   ops --app demo verify {incident}",
        "alerts         ops --app demo alerts",
        f"any moment     ops --app demo status --as-of {worst.astimezone(formatting.NEW_YORK):%Y-%m-%dT%H:%M}",
        "by hand        ops --app demo lab (ops --app demo dashboard: without code)",
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
        raise OpsError(f"the demo's dashboard failed: {outcome.reason}. Run ops demo again.")
    return place
