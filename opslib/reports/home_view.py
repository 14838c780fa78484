"""Show Home in a notebook, and show it again when something changes, as long as the kernel runs."""

import os
import threading
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from opslib.dashboard.text_blocks import TextBlock
from opslib.foundation import formatting, templates
from opslib.foundation.config.workspace import Workspace
from opslib.foundation.errors import OpsError
from opslib.incidents import lifecycle
from opslib.jobs import jupyterlab
from opslib.jobs.executor import attended
from opslib.reports import home, index_page
from opslib.reports.home import EVERY_S, Address
from opslib.runbooks import incident_page

if TYPE_CHECKING:
    import ipywidgets

_stop = threading.Event()  # Set when Home is shown anew: only the newest is kept current.


class HomeView:
    """
    Home in a notebook.

    Text is what it is now. Where a person uses the notebook, its display is kept current, and an incident is
    acknowledged by a button.
    """

    def __init__(self, workspace: Workspace, address: Address):
        self._workspace, self._address = workspace, address
        self._shown: tuple[Any, ...] = ()
        self._turn = threading.Lock()  # Callbacks and the check may come at the same time.

    @property
    def block(self) -> TextBlock:
        """Home as of now, as plain text, HTML and Markdown."""
        return home.home_of(self._workspace, self._address).block

    def __repr__(self) -> str:
        return repr(self.block)

    def changed(self) -> home.Home | None:
        """Return Home as of now if it differs from what was shown last in more than ages; None if it does not."""
        found = home.home_of(self._workspace, self._address)
        if found.substance == self._shown:
            return None
        self._shown = found.substance
        return found

    def _ipython_display_(self) -> None:
        from IPython.display import display

        global _stop
        _stop.set()
        if not attended() or os.environ.get(jupyterlab.READ_ONLY):
            display(self.block)
            return
        _stop = threading.Event()
        found = home.home_of(self._workspace, self._address)
        self._shown, (answer, rest) = found.substance, found.parts
        self._buttons = AcknowledgeWidget(self._workspace, self.refresh)
        self._buttons.show(found.unowned)
        top = display(answer, display_id=True)
        display(self._buttons.box)
        self._handles = (top, display(rest, display_id=True))
        threading.Thread(target=self._keep_current, args=(_stop,), name="ops home", daemon=True).start()

    def _keep_current(self, stop: threading.Event) -> None:
        while not stop.wait(EVERY_S):
            self.refresh()

    def refresh(self) -> None:
        """Show what has changed."""
        with self._turn:
            try:
                if (found := self.changed()) is not None:
                    for handle, part in zip(self._handles, found.parts):
                        handle.update(part)
                    self._buttons.show(found.unowned)
            except OpsError as problem:  # The next check may succeed.
                self._shown = ()
                self._handles[0].update(home.unreadable(formatting.single_line(str(problem))))
                self._handles[1].update({"text/plain": ""}, raw=True)
                self._buttons.show([])


class AcknowledgeWidget:
    """
    Acknowledge open incidents: a field for a name, and a button for each incident.

    Args:
        changed: Called after an acknowledgement.
    """

    def __init__(self, workspace: Workspace, changed: Callable[[], None]):
        import ipywidgets as w

        self._workspace, self._changed = workspace, changed
        self._incidents: list[str] = []
        self._who = w.Text(placeholder="your name", description="Name", layout=w.Layout(width="18em"))
        self._who.style.description_width = "initial"
        self._row, self._message = w.HBox(layout=w.Layout(flex_flow="row wrap")), w.HTML()
        self.box = w.VBox([self._row, self._message])

    def show(self, incidents: list[str]) -> None:
        """Show a button for each of these incidents; nothing if there is none. A name that was typed stays."""
        import ipywidgets as w

        if incidents == self._incidents:
            return
        buttons = [w.Button(description=f"Acknowledge {name}", layout=w.Layout(width="auto")) for name in incidents]
        for button, name in zip(buttons, incidents):
            button.on_click(partial(self._press, name))
        self._incidents, self._row.children = incidents, (self._who, *buttons) if buttons else ()

    def _press(self, incident: str, button: "ipywidgets.Button") -> None:
        button.disabled = True
        try:
            lifecycle.of(self._workspace).acknowledge(incident, self._who.value)
            self._message.value = ""
            self._changed()
            incident_page.refresh(self._workspace, incident)
            index_page.keep_current(self._workspace)
        except OpsError as problem:
            self._message.value = templates.render("runbooks/templates/refused.html", why=str(problem))
        finally:
            button.disabled = False
