"""
Show the steps of a runbook with buttons: a card for each step, a strip of them all.

Each press is one plain call of the open runbook, made and recorded before it is shown; what it refuses is said in words
in the card. The same stands as plain words in the same output, so that a saved notebook shows it without them.
"""

import threading
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from opslib.dashboard.text_blocks import TextBlock
from opslib.foundation import templates
from opslib.foundation.errors import OpsError
from opslib.runbooks.steps import ASK, LOOK

if TYPE_CHECKING:
    import ipywidgets

    from opslib.runbooks.checklist_session import ChecklistSession
    from opslib.runbooks.session import RunbookSession, StepCard

COLOURS = {
    "ok": "#2e7d4f",
    "done": "#2e7d4f",
    "not as expected": "#c0392b",
    "failed": "#c0392b",
    "unsure": "#c0392b",
    "rehearsed": "#0b5cad",
    "unknown": "#8a6d00",
    "stale": "#8a6d00",
    "skipped": "#6b7680",
    "not done": "#6b7680",
}
_PRESSED = threading.RLock()  # Callbacks may come from any thread; one press is through before the next begins.


class StepWidget:
    """
    The card of one step with its buttons.

    Attributes:
        box: The widget.
    """

    def __init__(self, card: "StepCard"):
        import ipywidgets as w

        self._card, self._book, self._step = card, card.book, card.step
        self._told, self._said = w.HTML(), w.HTML()
        self._who = w.Text(value=card.book.operator, description="Name", layout=w.Layout(width="16em"))
        self._note = w.Text(description="Note", layout=w.Layout(width="26em"))
        self._read = w.Checkbox(
            value=False, description="I have read what it will do", indent=False, layout=w.Layout(width="17em")
        )
        self._row = w.HBox(layout=w.Layout(flex_flow="row wrap", align_items="center"))
        self.box = w.VBox(
            [self._told, self._row, self._said],
            layout=w.Layout(border_left="5px solid #8a94a0", padding="2px 10px", margin="2px 0 12px 0"),
        )
        self.box.add_class("ops-step")
        self.refresh()

    def _button(self, words: str, act: Callable[[], Any], style: str = "") -> "ipywidgets.Button":
        import ipywidgets as w

        found = w.Button(
            description=words, button_style=style, layout=w.Layout(width="auto"), tooltip=f"{words}: {self._step.name}"
        )
        found.on_click(lambda _: self._press(found, act))
        return found

    def _press(self, button: "ipywidgets.Button", act: Callable[[], Any]) -> None:
        with _PRESSED:
            before, button.disabled = button.description, True
            button.description = "looking…" if self._step.kind == LOOK else "…"
            try:
                act()
                self._said.value = ""
            except OpsError as problem:
                self._said.value = _refused(self._book.workspace.settings.redact(str(problem)))
            finally:
                button.description, button.disabled = before, False
            refresh(self._book)

    def _answer(self, good: bool | None) -> None:
        self._book.answer(self._step.name, good, self._who.value, self._note.value)

    def refresh(self) -> None:
        """Show how the step stands now."""
        stands = self._card.standing
        self.box.layout.border_left = f"5px solid {COLOURS[stands.state]}"
        told = self._card.text
        self._told.value = told.html
        if stands.state == "done":
            self._row.children = ()
        elif stands.state == "unsure":
            self._row.children = (
                self._who,
                self._button("It happened", lambda: self._settle(True)),
                self._button("It did not happen", lambda: self._settle(False)),
            )
        elif self._step.kind == LOOK:
            self._row.children = (self._button("Look again", lambda: self._book.look(self._step.name)),)
        elif self._step.kind == ASK:
            answers = (
                ("As expected", True, "success"),
                ("Not as expected", False, "danger"),
                ("Cannot be told", None, ""),
            )
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
            real = self._book.hooks[self._step.hook].real
            self._row.children = (
                self._who,
                self._read,
                self._button("Do it" if real else "Rehearse it", self._do, "warning" if real else "info"),
            )

    def _do(self) -> None:
        self._book.do(self._step.name, self._who.value or " ", self._read.value)
        self._read.value = False

    def _settle(self, happened: bool) -> None:
        self._book.settle(self._step.name, happened, self._who.value or " ")


class ProgressWidget:
    """All steps of a runbook in one row, with the incident's clock, and a place for notes."""

    def __init__(self, book: "RunbookSession"):
        import ipywidgets as w

        self._book = book
        self._told, self._said = w.HTML(), w.HTML()
        self._who = w.Text(value=book.operator, description="Name", layout=w.Layout(width="16em"))
        self._note = w.Text(description="Note", placeholder="what you noticed", layout=w.Layout(width="34em"))
        again, add = (
            w.Button(description="Refresh", layout=w.Layout(width="auto")),
            w.Button(description="Add note", layout=w.Layout(width="auto")),
        )
        again.on_click(lambda _: refresh(book))
        add.on_click(lambda _: self._add())
        self.box = w.VBox(
            [self._told, w.HBox([again, self._who, self._note, add], layout=w.Layout(flex_flow="row wrap")), self._said]
        )
        self.box.add_class("ops-strip")
        self.refresh()

    def _add(self) -> None:
        with _PRESSED:
            try:
                entry = self._book.note(self._note.value, self._who.value or " ")
                self._note.value = ""
                self._said.value = templates.render("runbooks/templates/noted.html", entry=entry.id if entry else "")
            except OpsError as problem:
                self._said.value = _refused(str(problem))
            refresh(self._book)

    def refresh(self) -> None:
        """Show how all steps stand now."""
        book, incident = self._book, self._book.incident
        self._told.value = templates.render(
            "runbooks/templates/progress.html",
            incident=incident,
            clock=book.clock_words(incident),
            steps=[(step, book.walk.standing(step, incident)) for step in book.steps],
            colours=COLOURS,
        )


class SignatureWidget:
    """Where a checklist is signed."""

    def __init__(self, sheet: "ChecklistSession"):
        import ipywidgets as w

        self._sheet = sheet
        self._told = w.HTML()
        self._who, self._sign = (
            w.Text(value=sheet.operator, description="Name", layout=w.Layout(width="16em")),
            w.Button(description="Sign", layout=w.Layout(width="auto")),
        )
        self._sign.on_click(lambda _: self._put())
        self._row = w.HBox([self._who, self._sign])
        self.box = w.VBox([self._told, self._row])
        self.box.add_class("ops-foot")
        self.refresh()

    def _put(self) -> None:
        with _PRESSED:
            said = ""
            try:
                self._sheet.sign(self._who.value)
            except OpsError as problem:
                said = _refused(str(problem))
            refresh(self._sheet)
            self._told.value += said

    def refresh(self) -> None:
        """Show who signed it, or where to."""
        self._told.value = self._sheet.signature.text.html
        self._row.children = () if self._sheet.signed else (self._who, self._sign)


def _refused(why: str) -> str:
    return templates.render("runbooks/templates/refused.html", why=why)


def refresh(book: "RunbookSession") -> None:
    """Show every card and strip of a runbook in this notebook as it stands now."""
    for shown in book.pads:
        shown.refresh()


def show(card: "StepCard") -> None:
    """
    Show a step with its buttons; where a notebook is shown without them, the step as it stood stands in their place.
    """
    pad = StepWidget(card)
    card.book.pads.append(pad)
    _display(pad.box, card.text._repr_mimebundle_())


def show_strip(book: "RunbookSession") -> None:
    """Show the strip of a runbook."""
    strip = ProgressWidget(book)
    book.pads.append(strip)
    _display(strip.box, book.strip._repr_mimebundle_())


def show_signature(sheet: "ChecklistSession", instead: TextBlock) -> None:
    """Show where a checklist is signed."""
    foot = SignatureWidget(sheet)
    sheet.pads.append(foot)
    _display(foot.box, instead._repr_mimebundle_())


def _display(box: "ipywidgets.Box", instead: dict[str, str]) -> None:
    """One output: the widget where there are widgets, the words where there are none."""
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
