"""
Show a runbook with buttons: the incident with its next step, the progress of all steps, and one card per step.

Each click is one call of the session, recorded before it is shown; an error is shown in the card. The same output holds
plain text, so that a saved notebook is readable without widgets.
"""

import threading
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from opslib.dashboard.text_blocks import TextBlock
from opslib.foundation import formatting, templates
from opslib.foundation.errors import OpsError
from opslib.runbooks import incident_page
from opslib.runbooks.session import StepCard, result_words
from opslib.runbooks.steps import ASK, CHECK

if TYPE_CHECKING:
    import ipywidgets

    from opslib.incidents.incident import Incident
    from opslib.runbooks.checklist_session import ChecklistSession
    from opslib.runbooks.session import RunbookSession

_PRESSED = threading.RLock()  # Callbacks may come from any thread; one click ends before the next begins.


class StepWidget:
    """
    Show one step with its buttons.

    Attributes:
        box: The widget.
    """

    def __init__(self, card: "StepCard"):
        import ipywidgets as w

        self._card, self._session, self._step = card, card.session, card.step
        self._asks = ""  # What the row of buttons asks for.
        self._text, self._message = w.HTML(), w.HTML()
        self._who = w.Text(value=card.session.operator, description="Name", layout=w.Layout(width="16em"))
        self._note = w.Text(description="Note", layout=w.Layout(width="26em"))
        self._read = w.Checkbox(
            value=False, description="I have read what it will do", indent=False, layout=w.Layout(width="17em")
        )
        self._row = w.HBox(layout=w.Layout(flex_flow="row wrap", align_items="center"))
        self.box = w.VBox(
            [self._text, self._row, self._message],
            layout=w.Layout(margin="2px 0 12px 0"),
        )
        self.box.add_class("ops-step")
        self.refresh()

    def _button(self, words: str, act: Callable[[], Any], style: str = "") -> "ipywidgets.Button":
        import ipywidgets as w

        found = w.Button(
            description=words, button_style=style, layout=w.Layout(width="auto"), tooltip=f"{words}: {self._step.do}"
        )
        found.on_click(lambda _: self._press(found, act))
        return found

    def _press(self, button: "ipywidgets.Button", act: Callable[[], Any]) -> None:
        with _PRESSED:
            before, button.disabled = button.description, True
            button.description = "checking…" if self._step.kind == CHECK else "…"
            # It takes clicks again once everything is redrawn: a button that moves meanwhile loses a click.
            try:
                try:
                    act()
                    self._message.value = ""
                except OpsError as problem:
                    self._message.value = _error_html(self._session.workspace.settings.redact(str(problem)))
                refresh(self._session)
            finally:
                button.description, button.disabled = before, False

    def _answer(self, good: bool | None) -> None:
        self._session.answer(self._step.name, good, self._who.value, self._note.value)

    def refresh(self) -> None:
        """Show the status of the step."""
        status, text = self._card.status, self._card.text
        self._text.value = text.html
        shown = "ops-folded" if text.values["folded"] else "ops-card"
        for name in ("ops-folded", "ops-card", *(f"is-{verdict}" for verdict in formatting.SIGNS)):
            self.box.remove_class(name)
        self.box.add_class(shown)
        self.box.add_class(f"is-{text.values['verdict']}")
        asks = status.state if status.state in ("done", "unsure") else self._step.kind
        if asks != self._asks:  # Buttons that stay are kept: a click on one that is replaced meanwhile would be lost.
            self._asks = asks
            self._show_row(asks)

    def _show_row(self, asks: str) -> None:
        if asks == "done":
            self._row.children = ()
        elif asks == "unsure":
            self._row.children = (
                self._who,
                self._button("It took effect", lambda: self._confirm_outcome(True)),
                self._button("It did not take effect", lambda: self._confirm_outcome(False)),
            )
        elif self._step.kind == CHECK:
            self._row.children = (self._button("Check again", lambda: self._session.check(self._step.name)),)
        elif self._step.kind == ASK:
            yes, no = ("Healthy", "Not healthy") if self._step.symptom else ("As expected", "Not as expected")
            answers = ((yes, True, "success"), (no, False, "danger"), ("Unknown", None, ""))
            self._row.children = (
                self._who,
                self._note,
                *(
                    self._button(
                        words,
                        partial(self._answer, good),
                        style,
                    )
                    for words, good, style in answers
                ),
            )
        else:
            real = self._session.hooks[self._step.hook].real
            self._row.children = (
                self._who,
                self._read,
                self._button("Run it" if real else "Dry run", self._do, "warning" if real else "info"),
            )

    def _do(self) -> None:
        self._session.do(self._step.name, self._who.value or " ", self._read.value)
        self._read.value = False

    def _confirm_outcome(self, happened: bool) -> None:
        self._session.confirm_outcome(self._step.name, happened, self._who.value or " ")


class ProgressWidget:
    """Show the incident with its next step, the progress of a runbook, and a field for notes."""

    def __init__(self, session: "RunbookSession"):
        import ipywidgets as w

        self._session = session
        self._head, self._facts, self._text, self._message = w.HTML(), w.HTML(), w.HTML(), w.HTML()
        self._next = w.VBox(layout=w.Layout(flex="1 1 24em", min_width="0"))
        self._next.add_class("ops-next")
        self._facts.layout = w.Layout(flex="1 1 24em", min_width="0")
        self._waits: tuple[str, StepWidget] | None = None
        self._who = w.Text(value=session.operator, description="Name", layout=w.Layout(width="16em"))
        self._note = w.Text(description="Note", placeholder="observation", layout=w.Layout(width="34em"))
        again, add = (
            w.Button(description="Refresh", layout=w.Layout(width="auto")),
            w.Button(description="Add note", layout=w.Layout(width="auto")),
        )
        again.on_click(lambda _: refresh(session))
        add.on_click(lambda _: self._add())
        self._top = w.VBox(
            [
                self._head,
                w.HBox(
                    [self._next, self._facts], layout=w.Layout(flex_flow="row wrap", width="100%", grid_gap="0 2em")
                ),
            ]
        )
        self._top.add_class("ops-answer")
        self.box = w.VBox(
            [
                self._top,
                self._text,
                w.HBox([again, self._who, self._note, add], layout=w.Layout(flex_flow="row wrap")),
                self._message,
            ]
        )
        self.box.add_class("ops-strip")
        self.refresh()

    def _add(self) -> None:
        with _PRESSED:
            try:
                entry = self._session.note(self._note.value, self._who.value or " ")
                self._note.value = ""
                self._message.value = templates.render("runbooks/templates/noted.html", entry=entry.id if entry else "")
            except OpsError as problem:
                self._message.value = _error_html(str(problem))
            refresh(self._session)

    def refresh(self) -> None:
        """Show how the incident stands, its next step, and the status of all steps."""
        session, incident = self._session, self._session.incident
        verdict = session.headline_verdict(incident)
        for name in ("unknown", *formatting.SIGNS):
            self._top.remove_class(f"is-{name}")
        self._top.add_class(f"is-{verdict}")
        self._head.value = templates.render(
            "runbooks/templates/headline.html",
            verdict=verdict,
            signs=formatting.SIGNS,
            headline=session.headline(incident),
        )
        self._facts.value = templates.render("runbooks/templates/facts.html", facts=session.facts(incident))
        self._show_next(incident)
        needed, ruled_out = session.needed(incident), session.ruled_out
        rows = [(session.title_of(step), status, result_words(step, status)) for step, status in needed]
        self._text.value = templates.render(
            "runbooks/templates/progress.html",
            incident=incident,
            clock=session.clock_words(incident),
            left=[row for row in rows if not row[1].finished],
            done=[row for row in rows if row[1].finished],
            spared=[(session.title_of(s), ruled_out[s.name]) for s in session.steps if s.name in ruled_out],
            cause=session.cause.headline,
        )

    def _show_next(self, incident: "Incident") -> None:
        """Show the next step with its buttons; a step that is already shown keeps what was typed."""
        import ipywidgets as w

        step = self._session.next_step(incident)
        if step is None:
            self._waits, self._next.children = None, (w.HTML("<p><strong>Every step is done.</strong></p>"),)
        elif self._waits is None or self._waits[0] != step.name:
            title = templates.render("runbooks/templates/next.html", title=self._session.title_of(step))
            self._waits = step.name, StepWidget(StepCard(self._session, step))
            self._next.children = (w.HTML(title), self._waits[1].box)
        else:
            self._waits[1].refresh()


class SignatureWidget:
    """Show the signature of a checklist."""

    def __init__(self, sheet: "ChecklistSession"):
        import ipywidgets as w

        self._sheet = sheet
        self._text = w.HTML()
        self._who, self._sign = (
            w.Text(value=sheet.operator, description="Name", layout=w.Layout(width="16em")),
            w.Button(description="Sign", layout=w.Layout(width="auto")),
        )
        self._sign.on_click(lambda _: self._put())
        self._row = w.HBox([self._who, self._sign])
        self.box = w.VBox([self._text, self._row])
        self.box.add_class("ops-foot")
        self.refresh()

    def _put(self) -> None:
        with _PRESSED:
            error = ""
            try:
                self._sheet.sign(self._who.value)
            except OpsError as problem:
                error = _error_html(str(problem))
            refresh(self._sheet)
            self._text.value += error

    def refresh(self) -> None:
        """Show the signature, or the field for it."""
        self._text.value = self._sheet.signature.text.html
        self._row.children = () if self._sheet.signed else (self._who, self._sign)


def _error_html(why: str) -> str:
    return templates.render("runbooks/templates/refused.html", why=why)


def refresh(session: "RunbookSession") -> None:
    """Update every widget of a runbook in this notebook, then the page of its incident."""
    for shown in session.shown_widgets:
        shown.refresh()
    if session.has_page:
        incident_page.refresh(session.workspace, session.incident.id)


def show(card: "StepCard") -> None:
    """
    Show a step with its buttons, and as text where a notebook is shown without widgets.
    """
    pad = StepWidget(card)
    for shown in card.session.shown_widgets if card.step.kind == CHECK else ():
        if isinstance(shown, ProgressWidget):
            shown.refresh()  # The check may have run just now.
    card.session.shown_widgets.append(pad)
    _display(pad.box, card.text._repr_mimebundle_())


def show_progress(session: "RunbookSession") -> None:
    """Show the progress of a runbook."""
    strip = ProgressWidget(session)
    session.shown_widgets.append(strip)
    _display(strip.box, session.strip._repr_mimebundle_())


def show_signature(sheet: "ChecklistSession", instead: TextBlock) -> None:
    """Show the signature of a checklist."""
    foot = SignatureWidget(sheet)
    sheet.shown_widgets.append(foot)
    _display(foot.box, instead._repr_mimebundle_())


def _display(box: "ipywidgets.Box", instead: dict[str, str]) -> None:
    """Display one output that holds a widget and its text alternative."""
    from IPython.display import display

    display(
        instead
        | {
            "application/vnd.jupyter.widget-view+json": {
                "version_major": 2,
                "version_minor": 0,
                "model_id": box.model_id,
            }
        },
        raw=True,
    )
