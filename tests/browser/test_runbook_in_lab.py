"""
A runbook in a real JupyterLab, driven by a browser: opened from the alert, looked, refused without a name, done with
one, noted.
"""

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from opslib.desk import Desk
from opslib.foundation import clock
from opslib.foundation.config import settings
from opslib.runbooks import opening
from opslib.runbooks.hooks import HOOKS
from opslib.services.collector import Collector
from opslib.simulation.drills.stepped_desk import BEGINS, looking
from tests.runbooks.test_execution import HOOK
from tests.support.lab import browsing, running_lab
from tests.support.system import needs

pytestmark = [pytest.mark.browser, pytest.mark.slow]

OPERATOR = "Tech Lead"


@dataclass
class Lab:
    """A running lab, and what it works on."""

    url: str
    home: Path
    incident: str
    notebook: str
    environ: dict[str, str]

    @property
    def desk(self) -> Desk:
        """The desk, opened anew."""
        return Desk(settings.load(self.home, None, self.environ))


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Massive fails, an alert fires, its runbook is opened; a lab over the home of that desk."""
    needs("chromium")
    home, at = tmp_path_factory.mktemp("lab"), tmp_path_factory.mktemp("jupyter")
    hook = home / "hook.sh"
    hook.write_text(HOOK)
    hook.chmod(0o755)
    (home / "settings.toml").write_text("[hooks]\n" + "".join(f'{name} = ["{hook}", "{name}"]\n' for name in HOOKS))
    with looking(home) as desk:
        Collector(desk.store, desk.settings, desk.rules, "test", lambda: desk.at).judge()
        desk.live(1, chains=False)
        desk.lever.be(massive_5xx=1.0)
        desk.live(8)
        judge = Collector(desk.store, desk.settings, desk.rules, "test", lambda: desk.at)
        desk.at += timedelta(seconds=5)
        judge.judge()
        here = Desk(desk.found(), lambda: desk.at)
        alert = next(
            a for a in here.status(desk.at).alerts if a["runbook"] == "massive_down" and a["state"] == "firing"
        )
        incident = here.chronicle.open("", by="", alert=alert)
        place = opening.open_for(here, "massive_down", incident, "")
        # The world stands still at its moment; the kernel's clock begins there.
        environ = desk.lever.environ | {"OPS_HOME": str(home), "OPS_CLOCK": f"{desk.at.isoformat()},{time.time()},1"}
        with running_lab(home, at, environ) as (base, token):
            yield Lab(
                f"{base}/lab/tree/{place.relative_to(home)}?reset&token={token}", home, incident.id, place.name, environ
            )


@pytest.fixture(scope="module")
def page(lab: Lab) -> Iterator[Any]:
    """The runbook, open and executed, in a browser."""
    with browsing() as (shown, problems):
        shown.goto(lab.url)
        shown.wait_for_function(
            "() => window.jupyterapp?.shell?.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'"
        )
        shown.evaluate(
            "() => { void window.jupyterapp.commands.execute('application:toggle-left-area'); void "
            "window.jupyterapp.commands.execute('notebook:run-all-cells') }"
        )
        shown.locator(".ops-strip").first.wait_for(state="attached")
        shown.wait_for_function(
            "() => window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.status === 'idle' && "
            "[...window.jupyterapp.shell.currentWidget.content.widgets].filter(c => c.model.type === "
            "'code').every(c => c.model.executionCount)"
        )
        yield shown
        assert problems == []


def card(page: Any, step: str) -> Any:
    """The card of a step."""
    index = page.evaluate(
        "(step) => window.jupyterapp.shell.currentWidget.content.widgets.findIndex(c => "
        'c.model.sharedModel.getSource() === `book.step("${step}")`)',
        step,
    )
    scroll(page, index)
    found = page.locator(".ops-step", has_text=f" {step}: ").first
    found.scroll_into_view_if_needed()
    return found


def scroll(page: Any, index: int) -> None:
    """Bring a cell onto the screen: what is far off it is not drawn."""
    page.evaluate(
        "(index) => { const book = window.jupyterapp.shell.currentWidget.content; book.activeCellIndex = "
        "index; void book.scrollToItem(index, 'smart') }",
        index,
    )


def the_strip(page: Any) -> Any:
    """The strip of all steps."""
    index = page.evaluate(
        "() => window.jupyterapp.shell.currentWidget.content.widgets.findIndex(c => "
        "c.model.sharedModel.getSource().includes('ops.runbook('))"
    )
    scroll(page, index)
    found = page.locator(".ops-strip").first
    found.scroll_into_view_if_needed()
    return found


def look_at(page: Any, name: str) -> None:
    """Keep a picture, where somebody wants to see it."""
    if folder := os.environ.get("LAB_PICTURES"):
        page.screenshot(path=f"{folder}/{name}.png")


def test_the_first_screen(page: Any) -> None:
    """The title is what a person sees; what it means for who trades and what still works stand below it."""
    page.evaluate(
        "() => { const book = window.jupyterapp.shell.currentWidget.content; book.activeCellIndex = 0; void "
        "book.scrollToItem(0, 'start') }"
    )
    for words in ("Massive does not answer", "for traders", "option data from Tradier"):
        page.locator(".jp-Notebook").get_by_text(words).first.wait_for(state="attached")
    look_at(page, "1_first_screen")


def test_a_look_is_clicked(page: Any, lab: Lab) -> None:
    """A looking step is looked at again by its button; what was seen is on record before it is shown."""
    before = sum(e.body["step"] == "massive_answers" for e in lab.desk.chronicle.read(lab.incident).of_kind("step"))
    found = card(page, "massive_answers")
    found.get_by_role("button", name="Look again").click()
    found.get_by_role("button", name="Look again").and_(page.locator(":enabled")).wait_for()
    until = time.monotonic() + 60
    while (
        sum(e.body["step"] == "massive_answers" for e in lab.desk.chronicle.read(lab.incident).of_kind("step"))
        == before
        and time.monotonic() < until
    ):
        page.wait_for_timeout(200)
    assert (
        sum(e.body["step"] == "massive_answers" for e in lab.desk.chronicle.read(lab.incident).of_kind("step"))
        == before + 1
    )
    assert "not as expected" in found.inner_text()
    look_at(page, "2_looked")


def test_a_change_is_refused_then_done(page: Any, lab: Lab) -> None:
    """
    Without a name it is refused in words; with one, and read, it is done once, at the world's side too; the strip says
    so.
    """
    found = card(page, "tradier_only")
    found.get_by_role("button", name="Do it").click()
    found.get_by_text("Refused.").wait_for()
    assert "Name an operator" in found.inner_text() and not (lab.home / "done").exists()
    look_at(page, "3_refused")
    found.get_by_label("Name").fill(OPERATOR)
    found.get_by_label("Name").press("Tab")
    found.get_by_text("I have read what it will do").click()
    found.get_by_role("button", name="Do it").click()
    # While it is being done its button says so; when it is done there is none.
    found.locator(":scope:not(:has(button))").wait_for()
    assert [line.split()[0] for line in (lab.home / "done").read_text().splitlines()] == ["tradier_only"]
    look_at(page, "4_done")
    strip = the_strip(page)
    strip.get_by_text("tradier_only done").wait_for()
    assert lab.desk.chronicle.read(lab.incident).status == "mitigated"


def test_a_note_is_added(page: Any, lab: Lab) -> None:
    """A note is on record."""
    strip = the_strip(page)
    strip.get_by_label("Name").fill(OPERATOR)
    strip.get_by_label("Note").fill("the vendor was called")
    strip.get_by_label("Note").press("Tab")
    strip.get_by_role("button", name="Add note").click()
    strip.get_by_text("noted as").wait_for()
    found = lab.desk.chronicle.read(lab.incident).of_kind("note")
    assert [(e.by, e.body["words"]) for e in found] == [(OPERATOR, "the vendor was called")] and clock.instant(
        found[0].at_us
    ) >= BEGINS
    look_at(page, "5_strip")
