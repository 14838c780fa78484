"""
Run the live dashboard: read the database every few seconds in a thread, and exchange messages with browsers.

One feed reads for all views of a desk, and goes on while a cell runs. Each view has its own moment and its own pause. A
browser that comes back, or comes late, asks for all of it.
"""

import os
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opslib.dashboard import live_state, status
from opslib.dashboard.live_state import DashboardState
from opslib.dashboard.status import DEEPER, Status
from opslib.foundation import clock, formatting, market_calendar, templates, time_parsing
from opslib.foundation.errors import OpsError, UsageError
from opslib.incidents import lifecycle
from opslib.incidents.feedback import Feedback
from opslib.incidents.incident import Incident
from opslib.jobs import jupyterlab
from opslib.jobs.executor import attended

if TYPE_CHECKING:
    from opslib.foundation.config.workspace import Workspace

SHORTEST_S, LONGEST_S = 1.0, 60.0
HERE = Path(__file__).parent / "static"
CHANGES = ("open", "deeper", "feedback")  # What leaves something behind: not from a page that only shows.
VOILA = "voila/"  # So it names itself to its kernels; it asks nobody, and draws.
STILL = (
    "This front end draws no Jupyter widgets, so nothing moves here: this is how it stood at {moment}. "
    "ops lab and ops dashboard show it live; the cell run again is a newer moment."
)
PICTURE_INCHES = (13.0, 6.4)

Opener = Callable[["Workspace", str, Incident, str, datetime | None], Path]


class Feed:
    """
    Reads the store for all views of a desk, in a thread of its own, for as long as there is one.

    Args:
        workspace: Whose; its store is only read.
        window: How far back each figure looks.
        every_s: Seconds between two looks.
    """

    def __init__(self, workspace: "Workspace", window: timedelta, every_s: float, opener: "Opener | None" = None):
        self.workspace, self.window, self.every_s, self.opener = workspace, window, every_s, opener
        self._listening: weakref.WeakSet[Any] = weakref.WeakSet()
        # Held for moments only: who asks never waits for a look at a store that answers late.
        self._turn = threading.Condition(threading.RLock())
        self._looking = threading.Lock()
        self._last: tuple[Status, DashboardState] | None = None
        self._n = 0  # So many changes were told: who misses one knows it by the next.
        self._thread: threading.Thread | None = None

    def view(self, at: datetime) -> Status:
        """Everything as of a moment."""
        return status.view_at(self.workspace, at, self.window)

    def screen(self, view: Status) -> DashboardState:
        """What stands on the dashboard of it."""
        return live_state.screen(view, formatting.duration(self.window.total_seconds()))

    def join(self, panel: Any) -> None:
        """One more is listening: from now on it is told of every change."""
        with self._turn:
            self._listening.add(panel)
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="ops live", daemon=True)
                self._thread.start()

    def pace(self, every_s: float) -> None:
        """Look so often from now on."""
        with self._turn:
            self.every_s = min(LONGEST_S, max(SHORTEST_S, every_s))
            self._turn.notify()

    def everything(self) -> dict[str, Any]:
        """What a view that knows nothing needs."""
        with self._turn:
            return {"whole": self.all(), "range": self.range(), "n": self._n}

    def all(self) -> dict[str, Any]:
        """All of what was seen last, for who comes late; looked at now where nothing was yet."""
        last = self._last or self._look()
        return live_state.whole(*last)

    def range(self) -> list[float]:
        """From when to when can one look back on the day that is shown? Seconds since 1970."""
        now = self.workspace.now()
        session = market_calendar.session(now.astimezone(formatting.NEW_YORK).date())
        begins = session.opens if session and session.opens < now else now - timedelta(hours=8)
        return [begins.timestamp(), now.timestamp()]

    def _run(self) -> None:
        while True:
            with self._turn:
                if not self._listening:
                    self._thread = None
                    return
            self.tell()
            with self._turn:
                self._turn.wait(self.every_s)

    def tell(self) -> None:
        """
        Look once, and tell everybody who listens what is another than before; what went wrong, where something did.
        """
        before = self._last
        try:
            _, found = self._look()
        except OpsError as problem:
            self._send({"trouble": f"not up to date: {self.workspace.settings.redact(str(problem))}"})
            return
        change = found.after(before[1]) if before else None
        with self._turn:
            self._n += 1
        self._send(self.everything() if change is None else {"change": change, "n": self._n})

    def _look(self) -> tuple[Status, DashboardState]:
        with self._looking:
            view = self.view(self.workspace.now())
            self._last = view, self.screen(view)
            return self._last

    def _send(self, message: dict[str, Any]) -> None:
        for panel in list(self._listening):
            with suppress(RuntimeError):  # Its kernel is going away.
                panel.send(message)


class Live:
    """
    The live dashboard of a desk: four panels, the alerts, any past moment.

    Where nobody is there (a scheduler, papermill, a test) it is a picture and its words, of the same moment; where a
    front end draws no widgets, the panels' tables and a sentence that says so.

    Args:
        as_of: A moment to begin at; None is now.
        opener: Opens the runbook of an alert for its incident; see `opening.open_for`. None opens none.

    Attributes:
        feed: Who reads for it.
    """

    def __init__(
        self,
        workspace: "Workspace",
        window: timedelta,
        every_s: float,
        as_of: datetime | None = None,
        opener: "Opener | None" = None,
    ):
        self.workspace, self.as_of = workspace, as_of
        self.feed = _feed(workspace, window)
        self.feed.opener = opener or self.feed.opener
        self.feed.every_s = every_s

    @property
    def _view(self) -> Status:
        return self.feed.view(self.as_of or self.workspace.now())

    def __repr__(self) -> str:
        return _words(self._view)

    def _ipython_display_(self) -> None:
        from IPython.display import display

        view = self._view
        words = _words(view)
        if attended() or os.environ.get("SERVER_SOFTWARE", "").startswith(VOILA):
            shown = self.widget._repr_mimebundle_()
            display(
                (shown[0] if isinstance(shown, tuple) else shown)
                | {"text/plain": words, "text/html": _static_text(view)},
                raw=True,
            )
        else:
            display(
                {"text/plain": words, "image/png": _picture(view)}, metadata={"image/png": {"alt": words}}, raw=True
            )

    @property
    def widget(self) -> Any:
        """The widget: another each time; all share one feed."""
        made = _kind()(whole=self.feed.all(), every_s=round(self.feed.every_s))
        made.feed, made.as_of = self.feed, self.as_of
        made.on_msg(lambda _, said, buffers: answered(self.feed, made, said))
        self.feed.join(made)
        return made


def _words(view: Status) -> str:
    """What everything comes to at a moment, and each panel."""
    return "\n".join(
        [
            f"{view.verdict}, as of {formatting.moment(view.window.end)}",
            *(f"{panel.title}: {panel.told}" for panel in view.panels),
        ]
    )


def _static_text(view: Status) -> str:
    """What stands where a front end draws no widgets."""
    words = STILL.format(moment=formatting.moment(view.window.end))
    return templates.render("dashboard/templates/still.html", words=words, panels=view.panels)


def _picture(view: Status) -> bytes:
    """All four panels over time, as PNG."""
    from opslib.dashboard import charts

    def draw(ax: Any) -> None:
        figure = ax.figure
        ax.remove()
        for panel, place in zip(view.panels, figure.subplots(2, 2, gridspec_kw={"hspace": 0.75, "wspace": 0.18}).flat):
            panel.draw(place)
            place.set_title(f"{panel.title}: {panel.told}", fontsize=10, loc="left")

    return charts.png(draw, PICTURE_INCHES)


_FEEDS: dict[tuple[str, str, float], Feed] = {}


def _feed(workspace: "Workspace", window: timedelta) -> Feed:
    """The one feed of a desk and a window in this kernel."""
    key = (str(workspace.settings.url), workspace.settings.app, window.total_seconds())
    return _FEEDS.setdefault(key, Feed(workspace, window, 5.0))


@cache
def _kind() -> Any:
    """The widget's class; made once, where it is wanted: nobody else has to import what it needs."""
    import anywidget
    import traitlets

    class Dashboard(anywidget.AnyWidget):
        _esm = HERE / "live.js"
        _css = HERE / "live.css"
        whole = traitlets.Dict().tag(sync=True)
        every_s = traitlets.Int(5).tag(sync=True)

        def get_state(self, key: Any = None, drop_defaults: bool = False) -> Any:
            if key is None and getattr(self, "feed", None) is not None:
                # Who comes back sees what was seen last, not what was so at first.
                self._trait_values["whole"] = self.feed.all()
            return super().get_state(key, drop_defaults)

    return Dashboard


# What a browser asks.


def answered(feed: Feed, widget: Any, said: dict[str, Any]) -> None:
    """Answer what a view asks; what cannot be done is said to it in words."""
    view = str(said.get("view", ""))
    if os.environ.get(jupyterlab.READ_ONLY) and said.get("do") in CHANGES:
        widget.send({"said": "this page only shows; ops lab is where things are done", "view": view})
        return
    acts: dict[str, Callable[[], dict[str, Any]]] = {
        "all": feed.everything,
        "at": lambda: _at(feed, said),
        "every": lambda: _paced(feed, widget, said),
        "open": lambda: _opened(feed, said),
        "feedback": lambda: _kept(feed, said),
        "deeper": lambda: _deeper(feed, said),
    }
    try:
        widget.send(acts[said["do"]]() | {"view": view})
        if said.get("first") and widget.as_of is not None:
            widget.send(_at(feed, {"at_s": widget.as_of.timestamp()}) | {"view": view})
    except (OpsError, KeyError, TypeError, ValueError) as problem:
        told = str(problem) if isinstance(problem, OpsError) else f"that cannot be done ({problem.__class__.__name__})"
        widget.send({"said": feed.workspace.settings.redact(told), "view": view})


def _at(feed: Feed, said: dict[str, Any]) -> dict[str, Any]:
    """Everything as of a past moment."""
    at = time_parsing.parse(str(said["local"])) if "local" in said else clock.instant(round(float(said["at_s"]) * 1e6))
    if at > feed.workspace.now():
        raise UsageError(f"{formatting.moment(at)} is still to come.")
    view = feed.view(at)
    return {"whole": live_state.whole(view, feed.screen(view)), "past": True}


def _paced(feed: Feed, widget: Any, said: dict[str, Any]) -> dict[str, Any]:
    feed.pace(float(said["seconds"]))
    widget.every_s = round(feed.every_s)
    return {"said": f"an update every {feed.every_s:g} s"}


def _opened(feed: Feed, said: dict[str, Any]) -> dict[str, Any]:
    """The runbook of an alert, filled in for its incident."""
    workspace, at = feed.workspace, time_parsing.parse(said["at"]) if said.get("at") else None
    alert = next((a for a in feed.view(at or workspace.now()).alerts if a["id"] == said["alert"]), None)
    if alert is None or not alert["runbook"]:
        raise UsageError(f"no alert {said['alert']!r} with a runbook stands at that moment.")
    if feed.opener is None:
        raise UsageError(f"runbooks are not opened from here; run ops runbook open {alert['runbook']}.")
    incident = lifecycle.of(workspace).open("", by="", alert=alert)
    place = feed.opener(workspace, alert["runbook"], incident, "", at)
    return _link(workspace, place, f"runbook {alert['runbook']} is open for incident {incident.id}:")


def _deeper(feed: Feed, said: dict[str, Any]) -> dict[str, Any]:
    """The notebook that looks deeper into a panel, as of the moment that is shown, executed."""
    from opslib.jobs import executor

    workspace = feed.workspace
    given = {"app": workspace.settings.app, "as_of": said["at"]}
    _, place = executor.run(
        executor.notebook(DEEPER[said["panel"]]), given, settings=workspace.settings, store=workspace.store
    )
    return _link(workspace, place.with_suffix(".ipynb"), f"{DEEPER[said['panel']]}, as of {said['at']}:")


def _link(workspace: "Workspace", place: Path, words: str) -> dict[str, Any]:
    """Where something is, as JupyterLab opens it; its path where that lies outside."""
    seen = jupyterlab.link(place)
    if seen is None and place.is_relative_to(workspace.settings.base):
        seen = str(place.relative_to(workspace.settings.base))  # A lab over the home, as `lab_url` has it.
    return {"said": words, "link": seen} if seen else {"said": f"{words} {place}"}


def _kept(feed: Feed, said: dict[str, Any]) -> dict[str, Any]:
    """What the monitoring missed, or told for nothing; the quarterly report reads it."""
    at = time_parsing.parse(said["at"])
    kept = Feedback(lifecycle.of(feed.workspace).records).give(
        said["kind"], said["words"], said["by"], said.get("alert", ""), at
    )
    return {"said": f"kept as {kept.kind} of {formatting.moment(at)}, by {kept.author}"}
