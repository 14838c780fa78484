"""
Run the live dashboard: read the database every few seconds in a thread, and exchange messages with browsers.

One feed reads for all views of an app, also while a cell runs. Each view has its own moment and its own pause. A
browser that connects late, or again, requests the full state.
"""

import os
import threading
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opslib.alerting.notifications.store import NotificationStore
from opslib.dashboard import live_state, status, text_blocks
from opslib.dashboard.live_state import Answer, DashboardState, Diagnosed
from opslib.dashboard.status import DETAILS, Recent, Status
from opslib.dashboard.text_blocks import TextBlock
from opslib.foundation import clock, formatting, market_calendar, templates, time_parsing
from opslib.foundation.clock import SECOND
from opslib.foundation.errors import IncidentError, OpsError, UsageError
from opslib.incidents import lifecycle
from opslib.incidents.feedback import Feedback
from opslib.incidents.incident import Incident
from opslib.jobs import jupyterlab
from opslib.jobs.executor import attended

if TYPE_CHECKING:
    from opslib.foundation.config.workspace import Workspace
    from opslib.foundation.storage.database import Database

SHORTEST_S, LONGEST_S = 1.0, 60.0
HERE = Path(__file__).parent / "static"
STYLES = templates.PACKAGE / "foundation" / "styles" / "components.css"
CHANGES = ("open", "details", "feedback", "ack")  # Requests that change something: refused on a read-only page.
VOILA = "voila/"  # Voilà's name in SERVER_SOFTWARE; it shows widgets without an interactive session.
STILL = (
    "This front end does not support Jupyter widgets. This is a static view as of {moment}. "
    "Use ops lab or ops dashboard for the live view, or run the cell again to refresh."
)
PICTURE_INCHES = (13.0, 6.4)

Opener = Callable[["Workspace", str, Incident, str, datetime | None], Path]
Diagnoser = Callable[[Status], Diagnosed]
ANSWERED_S = 30  # The diagnosis is repeated this often while nothing else changes.


class Feed:
    """
    Read the database for all views of an app, in its own thread, as long as there is a view.

    Args:
        workspace: The app's workspace; its database is only read.
        window: The window of each figure.
        every_s: Seconds between two updates.
        opener, diagnoser: See `Live`.
    """

    def __init__(
        self,
        workspace: "Workspace",
        window: timedelta,
        every_s: float,
        opener: "Opener | None" = None,
        diagnoser: "Diagnoser | None" = None,
    ):
        self.workspace, self.window, self.every_s = workspace, window, every_s
        self.opener, self.diagnoser = opener, diagnoser
        self._answered: tuple[Any, Answer] | None = None
        self._listening: weakref.WeakSet[Any] = weakref.WeakSet()
        # Held for moments only, so that a request never waits for a slow read of the database.
        self._turn = threading.Condition(threading.RLock())
        self._reading = threading.Lock()
        self._last: tuple[Status, DashboardState] | None = None
        self._recent: Recent | None = None
        self._past: tuple[Database, Recent] | None = None  # What the last past moment was read from.
        self._n = 0  # The number of changes sent so far; a view that misses one notices it by the next number.
        self._thread: threading.Thread | None = None

    def view(self, at: datetime) -> Status:
        """Load the status as of a moment."""
        return status.view_at(self.workspace, at, self.window, before=live_state.before(self.workspace.rules))

    def state_at(self, at: datetime) -> dict[str, Any]:
        """Return the full state as of a moment; as a slider is moved, only what is new since the last one is read."""
        store = self.workspace.store
        if self._past is None or self._past[0] is not store:
            self._past = store, Recent(self.workspace)
        past, before = self._past[1], live_state.before(self.workspace.rules)
        with past.lock:
            view = status.view_at(self.workspace, at, self.window, past, before)
            return live_state.full_state(view, self.state_of(view))

    def state_of(self, view: Status) -> DashboardState:
        """Make the dashboard's state for a status."""
        return live_state.dashboard_state(view, formatting.duration(self.window.total_seconds()), self.answer_of(view))

    def answer_of(self, view: Status) -> Answer:
        """Return the first row's sentences; made again where the alerts change, and every `ANSWERED_S` seconds."""
        alerts = [(a["id"], a["state"], a["severity"], a["acked_by"], a["incident"]) for a in view.alerts]
        key = (view.verdict, alerts, view.window.end_us // (ANSWERED_S * SECOND))
        if (held := self._answered) is None or held[0] != key:
            held = self._answered = (key, live_state.answer(view, self.diagnoser, self._owner_at(view.window.end)))
        return held[1]

    def _owner_at(self, at: datetime) -> Callable[[str], str]:
        """Return a function from an incident to its owner at a moment; empty where the record has none by then."""

        def owner_of(incident: str) -> str:
            try:
                return lifecycle.of(self.workspace).read(incident, at).owner
            except IncidentError:
                return ""

        return owner_of

    def join(self, panel: Any) -> None:
        """Add a view: from now on it receives every change."""
        with self._turn:
            self._listening.add(panel)
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="ops live", daemon=True)
                self._thread.start()

    def set_interval(self, every_s: float) -> None:
        """Set the interval between updates, in seconds."""
        with self._turn:
            self.every_s = min(LONGEST_S, max(SHORTEST_S, every_s))
            self._turn.notify()

    def everything(self) -> dict[str, Any]:
        """Return what a new view needs: the full state, the time range and the number of the last change."""
        with self._turn:
            return {"whole": self.latest(), "range": self.range(), "n": self._n}

    def latest(self) -> dict[str, Any]:
        """Return the full state as last read; read it now where that has not happened yet."""
        last = self._last or self._read()
        with self._steady():
            return live_state.full_state(*last)

    def sentences(self, at: datetime, panel: str) -> list[str]:
        """Return every sentence of a panel at a moment; that of the last update is not read again."""
        last = self._last
        if last is None or last[0].window.end != at:
            return live_state.sentences(self.view(at), panel)
        with self._steady():
            return live_state.sentences(last[0], panel)

    def _steady(self) -> AbstractContextManager[Any]:
        """Keep the data of the last update as it is, while figures of it are computed outside of `_read`."""
        return self._recent.lock if self._recent else nullcontext()

    def range(self) -> list[float]:
        """Return the first and the last moment that can be shown of today, in seconds since 1970."""
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
            self.broadcast_changes()
            with self._turn:
                self._turn.wait(self.every_s)

    def broadcast_changes(self) -> None:
        """Read the database once, and send every view what has changed, or the error."""
        before = self._last
        try:
            _, found = self._read()
        except OpsError as problem:
            self._send({"error": f"not up to date: {self.workspace.settings.redact(str(problem))}"})
            return
        change = found.after(before[1]) if before else None
        with self._turn:
            self._n += 1
        self._send(self.everything() if change is None else {"change": change, "n": self._n})

    def _read(self) -> tuple[Status, DashboardState]:
        with self._reading:
            if self.workspace.reopen_replaced() or self._recent is None:
                self._recent = Recent(self.workspace)
            before = live_state.before(self.workspace.rules)
            view = status.view_at(self.workspace, self.workspace.now(), self.window, self._recent, before)
            with self._recent.lock:
                self._last = view, self.state_of(view)
            return self._last

    def _send(self, message: dict[str, Any]) -> None:
        for panel in list(self._listening):
            with suppress(RuntimeError):  # The kernel is shutting down.
                panel.send(message)


class Live:
    """
    The live dashboard of an app: four panels, the alerts, any past moment.

    In an unattended run (a scheduler, papermill, a test) it is a chart and its text. In a front end without widgets it
    is a static view with the panels' tables.

    Args:
        as_of: The moment to begin at; None is now.
        opener: Opens the runbook of an alert for its incident; see `opening.open_for`. Without it no runbook is opened.
        diagnoser: Determines the cause; see `diagnosis.diagnose`. Without it no cause is shown.

    Attributes:
        feed: Reads the database for this view.
    """

    def __init__(
        self,
        workspace: "Workspace",
        window: timedelta,
        every_s: float,
        as_of: datetime | None = None,
        opener: "Opener | None" = None,
        diagnoser: "Diagnoser | None" = None,
    ):
        self.workspace, self.as_of = workspace, as_of
        self.feed = _feed(workspace, window)
        self.feed.opener = opener or self.feed.opener
        self.feed.diagnoser = diagnoser or self.feed.diagnoser
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
            display(self._first_row(view))
            display(
                {"text/plain": words, "image/png": _picture(view)}, metadata={"image/png": {"alt": words}}, raw=True
            )

    def _first_row(self, view: Status) -> TextBlock:
        """Return the first row as text, for a page that nobody can press a button on."""
        found = self.feed.answer_of(view)
        lines = [found.cause, found.since, found.first, found.works, found.owner]
        return text_blocks.answer(
            view.verdict,
            f"{view.verdict_text}, as of {formatting.moment(view.window.end)}",
            [f"{line[:1].upper()}{line[1:]}" for line in lines if line],
        )

    @property
    def widget(self) -> Any:
        """A new widget each time; all widgets share one feed."""
        made = _kind()(whole=self.feed.latest(), every_s=round(self.feed.every_s), read_only=_read_only())
        made.feed, made.as_of = self.feed, self.as_of
        made.on_msg(lambda _, request, buffers: answer(self.feed, made, request))
        self.feed.join(made)
        return made


def _words(view: Status) -> str:
    """Return the overall verdict at a moment, and that of each panel."""
    return "\n".join(
        [
            f"{view.verdict_text}, as of {formatting.moment(view.window.end)}",
            *(f"{panel.title}: {panel.verdict_text}" for panel in view.panels),
        ]
    )


def _static_text(view: Status) -> str:
    """Return the HTML for a front end without widgets."""
    words = STILL.format(moment=formatting.moment(view.window.end))
    return templates.render("dashboard/templates/still.html", words=words, panels=view.panels)


def _picture(view: Status) -> bytes:
    """Draw the charts of all four panels, as PNG."""
    from opslib.dashboard import charts

    def draw(ax: Any) -> None:
        figure = ax.figure
        ax.remove()
        for panel, place in zip(view.panels, figure.subplots(2, 2, gridspec_kw={"hspace": 0.75, "wspace": 0.34}).flat):
            panel.draw(place)
            place.set_title(f"{panel.title}: {panel.verdict_text}", fontsize=10, loc="left")

    return charts.png(draw, PICTURE_INCHES)


_FEEDS: dict[tuple[str, str, float], Feed] = {}


def _feed(workspace: "Workspace", window: timedelta) -> Feed:
    """Return the one feed of an app and a window in this kernel."""
    key = (str(workspace.settings.url), workspace.settings.app, window.total_seconds())
    return _FEEDS.setdefault(key, Feed(workspace, window, 5.0))


def style() -> str:
    """Return the style sheet: the shared colours and components, which not every front end has, then its own."""
    return "\n".join(path.read_text(encoding="utf-8") for path in (STYLES, HERE / "live.css"))


@cache
def _kind() -> Any:
    """Make the widget's class once, on first use, so that nothing else imports its dependencies."""
    import anywidget
    import traitlets

    class Dashboard(anywidget.AnyWidget):
        _esm = HERE / "live.js"
        _css = style()
        whole = traitlets.Dict().tag(sync=True)
        every_s = traitlets.Int(5).tag(sync=True)
        read_only = traitlets.Bool(False).tag(sync=True)

        def get_state(self, key: Any = None, drop_defaults: bool = False) -> Any:
            if key is None and getattr(self, "feed", None) is not None:
                # A front end that reconnects shows the newest state, not the one at creation.
                self._trait_values["whole"] = self.feed.latest()
            return super().get_state(key, drop_defaults)

    return Dashboard


# Requests of a browser.


def _read_only() -> bool:
    """Whether requests that change something are refused."""
    return bool(os.environ.get(jupyterlab.READ_ONLY))


def answer(feed: Feed, widget: Any, request: dict[str, Any]) -> None:
    """Answer a request of a view; a request that fails is answered with the reason."""
    view = str(request.get("view", ""))
    if _read_only() and request.get("do") in CHANGES:
        widget.send({"text": "this page is read-only; use ops lab to make changes", "view": view})
        return
    acts: dict[str, Callable[[], dict[str, Any]]] = {
        "all": feed.everything,
        "at": lambda: _at(feed, request),
        "every": lambda: _set_interval(feed, widget, request),
        "open": lambda: _open_runbook(feed, request),
        "feedback": lambda: _record_feedback(feed, request),
        "ack": lambda: _acknowledge(feed, request),
        "sentences": lambda: _sentences(feed, request),
        "details": lambda: _details(feed, request),
    }
    try:
        widget.send(acts[request["do"]]() | {"view": view})
        if request.get("first") and widget.as_of is not None:
            widget.send(_at(feed, {"at_s": widget.as_of.timestamp()}) | {"view": view})
    except (OpsError, LookupError, TypeError, ValueError) as problem:
        text = str(problem) if isinstance(problem, OpsError) else f"that request failed ({problem.__class__.__name__})"
        widget.send({"text": feed.workspace.settings.redact(text), "view": view})


def _at(feed: Feed, request: dict[str, Any]) -> dict[str, Any]:
    """Return the full state as of a past moment."""
    at = (
        time_parsing.parse(str(request["local"]))
        if "local" in request
        else clock.instant(round(float(request["at_s"]) * 1e6))
    )
    if at > feed.workspace.now():
        raise UsageError(f"{formatting.moment(at)} is in the future; choose a moment up to now.")
    return {"whole": feed.state_at(at), "past": True}


def _set_interval(feed: Feed, widget: Any, request: dict[str, Any]) -> dict[str, Any]:
    feed.set_interval(float(request["seconds"]))
    widget.every_s = round(feed.every_s)
    return {"text": f"updates every {feed.every_s:g} s"}


def _alert(feed: Feed, request: dict[str, Any]) -> dict[str, Any]:
    """Return the alert that a request is about, at its moment; without one, now."""
    at = time_parsing.parse(request["at"]) if request.get("at") else feed.workspace.now()
    alert = next((a for a in feed.view(at).alerts if a["id"] == request["alert"]), None)
    if alert is None:
        raise UsageError(f"no alert {request['alert']!r} was active at that moment; choose an alert from the list.")
    return alert


def _acknowledge(feed: Feed, request: dict[str, Any]) -> dict[str, Any]:
    """Acknowledge an alert as ``ops ack`` does, and show it at once."""
    by = formatting.single_line(str(request["by"]).strip(), 60)
    if not by:
        raise UsageError("an acknowledgement needs your name. Enter it beside the button.")
    alert, workspace = _alert(feed, request), feed.workspace
    NotificationStore(workspace.store, workspace.settings.app).ack(alert["id"], by)
    lifecycle.of(workspace).follow_alerts()
    feed.set_interval(feed.every_s)
    return {
        "text": f"{alert['id']} acknowledged by {by}. You will be notified again only if it gets worse or is resolved."
    }


def _sentences(feed: Feed, request: dict[str, Any]) -> dict[str, Any]:
    """Return every sentence of a panel at a moment; that of the last update is not read again."""
    at, panel = time_parsing.parse(request["at"]), request["panel"]
    return {"sentences": feed.sentences(at, panel), "panel": panel}


def _open_runbook(feed: Feed, request: dict[str, Any]) -> dict[str, Any]:
    """Open the runbook of an alert, filled in for its incident."""
    workspace, at = feed.workspace, time_parsing.parse(request["at"]) if request.get("at") else None
    alert = _alert(feed, request)
    if not alert["runbook"]:
        raise UsageError(f"the alert {request['alert']!r} has no runbook; choose another alert from the list.")
    if feed.opener is None:
        raise UsageError(f"runbooks cannot be opened from here; run ops runbook open {alert['runbook']}.")
    incident = lifecycle.of(workspace).open("", by="", alert=alert)
    place = feed.opener(workspace, alert["runbook"], incident, "", at)
    return _link(workspace, place, f"runbook {alert['runbook']} is open for incident {incident.id}:")


def _details(feed: Feed, request: dict[str, Any]) -> dict[str, Any]:
    """Execute the notebook with the details of a panel, as of the moment that is shown."""
    from opslib.jobs import executor

    workspace = feed.workspace
    given = {"app": workspace.settings.app, "as_of": request["at"]}
    _, place = executor.run(
        executor.notebook(DETAILS[request["panel"]]), given, settings=workspace.settings, store=workspace.store
    )
    return _link(workspace, place.with_suffix(".ipynb"), f"{DETAILS[request['panel']]}, as of {request['at']}:")


def _link(workspace: "Workspace", place: Path, words: str) -> dict[str, Any]:
    """Return a message with a link that JupyterLab opens, or with the path where it lies outside JupyterLab."""
    link = jupyterlab.link(place)
    if link is None and place.is_relative_to(workspace.settings.base):
        # JupyterLab runs in the home directory, as `lab_url` has it.
        link = str(place.relative_to(workspace.settings.base))
    return {"text": words, "link": link} if link else {"text": f"{words} {place}"}


def _record_feedback(feed: Feed, request: dict[str, Any]) -> dict[str, Any]:
    """Record feedback: missed data, or an alert that was noise. The quarterly report reads it."""
    at = time_parsing.parse(request["at"])
    kept = Feedback(lifecycle.of(feed.workspace).records).give(
        request["kind"], request["words"], request["by"], request.get("alert", ""), at
    )
    return {"text": f"feedback recorded: {kept.kind}, {formatting.moment(at)}, by {kept.author}"}
