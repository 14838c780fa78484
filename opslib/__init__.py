"""
An operations notebook suite for an options-trading app.

Notebooks say ``import opslib as ops`` and ask a desk; everything else follows from it::

    desk = ops.connect("demo")               # bind; prints what we are bound to
    view = desk.status("2026-03-10T11:25")   # everything as of a moment; a view prints its verdict
    view.panel("providers")                  # one question: verdict, table, picture
    desk.samples("2026-03-10T11:25")         # the looks behind it, as a frame
    desk.daily_report("2026-03-10")          # the end-of-day report
    desk.pnl("fills.csv", "backtest.csv")    # what trades came to, beside the backtest
"""

from pathlib import Path
from typing import TYPE_CHECKING

from opslib.settings import VERSION as __version__

if TYPE_CHECKING:
    from opslib.desk import Desk

__all__ = ["__version__", "connect"]


def connect(app: str | None = None, home: str | Path | None = None) -> "Desk":
    """
    Which desk are we bound to?

    Args:
        app: Its name; the only one configured, else ``desk``. ``demo`` is a recorded day that needs nothing: it is
            laid out where there is none yet, and its clock stands at its last look.
        home: Its folder; ``OPS_HOME``, else the project's ``outputs/``.
    """
    from dataclasses import replace

    from opslib import clock, desk
    from opslib.settings import DEMO, SAMPLE_FILLS

    found = desk.open(app, home)
    if found.settings.app != DEMO:
        return found
    from opslib.demo import blotter, tour

    tour.lay_out(found.settings)
    if not (sample := found.settings.home / SAMPLE_FILLS).exists():
        blotter.lay_out(sample, tour.scripted())
    last = found.store.last_look(DEMO, 2**62, None)
    return replace(found, now=lambda: clock.instant(last.ts_us)) if last else found
