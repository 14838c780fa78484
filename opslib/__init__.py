"""
An operations notebook suite for an options-trading app.

Notebooks say ``import opslib as ops`` and ask a desk; everything else follows from it::

    desk = ops.connect("demo")               # bind; prints what we are bound to
    view = desk.status("2026-03-10T11:25")   # everything as of a moment; a view prints its verdict
    view.panel("providers")                  # one question: verdict, table, picture
    desk.samples("2026-03-10T11:25")         # the looks behind it, as a frame
    desk.daily_report("2026-03-10")          # the end-of-day report
    desk.pnl("fills.csv", "backtest.csv")    # what trades came to, beside the backtest
    book = ops.runbook("massive_down", "demo")  # a runbook, open; book.step("massive_answers") is one step of it
    ops.live("demo")                         # the live dashboard; from any moment there is a way back to now
    ops.checklist("morning", "demo").run()   # a checklist, its boxes looked at
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
    Which desk are we bound to?

    Args:
        app: Its name; the only one configured, else ``desk``. ``demo`` is a recorded day that needs nothing: it is
            laid out where there is none yet, and its clock stands at its last look.
        home: Its folder; ``OPS_HOME``, else the project's ``outputs/``.
        new: Whether `app` may be one of which there is nothing yet.

    Raises:
        UsageError: There is no such app, and a new one was not meant.
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

    replay.lay_out(found.settings)
    if not (sample := found.settings.home / SAMPLE_FILLS).exists():
        trades.lay_out(sample, replay.scripted())
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
    Which runbook is open, for which incident?

    A copy under an incident finds its own desk: the home that it lies in.

    Args:
        name: Of the runbook.
        app: Whose.
        incident: Its id; ``practice`` writes nothing anywhere.
        operator: Who works through it; a step that changes the world needs one.
        subject, severity, limit, window: Of the alert, as they were when this was opened.
        as_of: A moment to look at everything as of; empty is now.
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
    Which checklist is open?

    Args:
        name: Such as ``morning``; ``ops checklist`` lists them.
        app: Whose.
        operator: Who goes through it.
        as_of: A moment to look at everything as of; empty is now.
        practice: Write nothing anywhere.
    """
    from opslib.runbooks import ChecklistSession, widgets

    return ChecklistSession(connect(app), name, operator, as_of, practice, widgets)


def live(app: str | None = None, as_of: str = "", window: str = "1h", every: str = "5s") -> "Live":
    """
    How does everything stand, now and from now on?

    Args:
        app: Whose.
        as_of: A moment to begin at; empty is now. From any moment there is a way back to now.
        window: How far back each figure looks, such as ``1h``.
        every: How often it is looked, ``1s`` to ``60s``.
    """
    from opslib.dashboard import Live
    from opslib.foundation import time_parsing
    from opslib.runbooks import open_runbook

    at = time_parsing.parse(as_of, "close") if as_of else None
    return Live(
        connect(app),
        time_parsing.parse_span(window),
        time_parsing.parse_span(every).total_seconds(),
        at,
        open_runbook,
    )


def scoreboard() -> "ScoreboardView":
    """
    How often do the runbooks find the cause?

    By the last drill of everything that was recorded (``ops drill --record``).
    """
    from opslib.simulation.drills import scoreboard_view

    return scoreboard_view.read()


def _home_around(here: Path, incident: str) -> Path | None:
    """The home in which a folder ``APP/incidents/ID`` lies; None where this is none."""
    from opslib.foundation.config.settings import DEMO

    if here.name != incident or here.parent.name != "incidents":
        return None
    home = here.parents[2]
    return home.parent if here.parents[1].name == DEMO and home.name == DEMO else home
