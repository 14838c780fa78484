"""
Operate an options-trading app from notebooks: dashboard, runbooks, checklists and reports.

Notebooks start with ``import opslib as ops``::

    desk = ops.connect("demo")               # connect to an app; prints which snapshots are stored
    view = desk.status("2026-03-10T11:25")   # panels and alerts as of a time; prints its verdict
    view.panel("providers")                  # one panel: verdict, table, chart
    desk.samples("2026-03-10T11:25")         # the snapshots of the window, as a frame
    desk.daily_report("2026-03-10")          # the end-of-day report
    desk.pnl("fills.csv", "backtest.csv")    # results of trades against the backtest
    run = ops.runbook("massive_down", "demo")  # an open runbook; run.step("massive_answers") is one of its steps
    ops.live("demo")                         # the live dashboard
    ops.checklist("morning", "demo").run()   # a checklist; items that can be checked are checked
"""

from pathlib import Path
from typing import TYPE_CHECKING

from opslib.foundation.version import VERSION as __version__

if TYPE_CHECKING:
    from opslib.dashboard import Live
    from opslib.desk import Desk
    from opslib.runbooks import ChecklistSession, RunbookSession
    from opslib.simulation.drills.scoreboard_view import ScoreboardView

__all__ = ["__version__", "checklist", "connect", "live", "runbook", "scoreboard"]


def connect(app: str | None = None, home: str | Path | None = None, new: bool = False) -> "Desk":
    """
    Connect to an app.

    Args:
        app: Name of the app (default: the one in settings.toml, else ``desk``). ``demo`` is a recorded day;
            it is created if it does not exist, and its clock stands at its last snapshot.
        home: Home directory (default: ``OPS_HOME``, else the project's ``outputs/``).
        new: Whether `app` may be a new one, without data.

    Raises:
        UsageError: There is no such app, and `new` is False.
    """
    from dataclasses import replace

    from opslib import desk
    from opslib.foundation import clock
    from opslib.foundation.config import workspace
    from opslib.foundation.config.settings import DEMO, SAMPLE_FILLS

    found = desk.open(app, home)
    if found.settings.app != DEMO:
        if app and not new:
            workspace.refuse_unknown(found.settings)
        return found
    from opslib.simulation.demo_day import replay, trades
    from opslib.telemetry.pages.store import SnapshotStore

    replay.create_home(found.settings)
    if not (sample := found.settings.home / SAMPLE_FILLS).exists():
        trades.write(sample, replay.scripted())
    last = SnapshotStore(found.store).last_snapshot(DEMO, 2**62, None)
    return replace(found, now=lambda: clock.instant(last.ts_us)) if last else found


def runbook(
    name: str,
    app: str | None = None,
    incident: str = "practice",
    operator: str = "",
    subject: str = "",
    severity: str = "",
    limit: str = "",
    window: str = "",
    as_of: str = "",
) -> "RunbookSession":
    """
    Open a runbook for an incident.

    A copy in an incident's folder uses the home directory that it is in.

    Args:
        name: Name of the runbook.
        app: Name of the app.
        incident: ID of the incident; ``practice`` is a dry run that stores nothing.
        operator: Name of the person who works through it; actions need one.
        subject, severity, limit, window: The alert's, when the runbook was opened.
        as_of: Time of the checks (empty: now).
    """
    from opslib.runbooks import RunbookSession, widgets

    return RunbookSession(
        connect(app, _home_around(Path.cwd(), incident)),
        name,
        incident,
        operator,
        subject,
        severity,
        limit,
        window,
        as_of,
        widgets,
    )


def checklist(
    name: str, app: str | None = None, operator: str = "", as_of: str = "", practice: bool = False
) -> "ChecklistSession":
    """
    Open a checklist.

    Args:
        name: Such as ``morning``; ``ops checklist`` lists them.
        app: Name of the app.
        operator: Name of the person who runs it.
        as_of: Time of the checks (empty: now).
        practice: Store nothing.
    """
    from opslib.runbooks import ChecklistSession, widgets

    return ChecklistSession(connect(app), name, operator, as_of, practice, widgets)


def live(app: str | None = None, as_of: str = "", window: str = "1h", every: str = "5s") -> "Live":
    """
    Show the live dashboard.

    Args:
        app: Name of the app.
        as_of: Time to start at (empty: now); a button returns to now.
        window: Window of the figures, such as ``1h``.
        every: Interval of updates, ``1s`` to ``60s``.
    """
    from opslib.dashboard import Live
    from opslib.foundation import time_parsing
    from opslib.runbooks import diagnose, open_runbook

    at = time_parsing.parse(as_of, "close") if as_of else None
    return Live(
        connect(app),
        time_parsing.parse_span(window),
        time_parsing.parse_span(every).total_seconds(),
        at,
        open_runbook,
        diagnose,
    )


def scoreboard() -> "ScoreboardView":
    """
    Show how often the runbooks found the cause, in the last recorded drill (``ops drill --record``).
    """
    from opslib.simulation.drills import scoreboard_view

    return scoreboard_view.read()


def _home_around(here: Path, incident: str) -> Path | None:
    """Return the home directory of an incident's folder ``APP/incidents/ID``; None if this is no such folder."""
    from opslib.foundation.config.settings import DEMO

    if here.name != incident or here.parent.name != "incidents":
        return None
    home = here.parents[2]
    return home.parent if here.parents[1].name == DEMO and home.name == DEMO else home
