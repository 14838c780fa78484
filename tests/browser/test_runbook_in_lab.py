"""
Test a runbook in a real JupyterLab, driven by a browser.

It is opened from the alert; a check is run, an action is refused without a name and run with one, a note is added.
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
from opslib.simulation.drills.stepped_desk import BEGINS, stepped_probes
from tests.runbooks.test_execution import HOOK
from tests.support.lab import browsing, running_lab
from tests.support.system import needs

pytestmark = [pytest.mark.browser, pytest.mark.slow]

OPERATOR = "Tech Lead"


@dataclass
class Lab:
    """A running lab, and its home."""

    url: str
    home: Path
    incident: str
    notebook: str
    environ: dict[str, str]

    @property
    def desk(self) -> Desk:
        """Open the desk again."""
        return Desk(settings.load(self.home, None, self.environ))


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Make Massive fail, open the runbook of the alert, and start a lab for that home."""
    needs("chromium")
    home, at = tmp_path_factory.mktemp("lab"), tmp_path_factory.mktemp("jupyter")
    hook = home / "hook.sh"
    hook.write_text(HOOK)
    hook.chmod(0o755)
    (home / "settings.toml").write_text("[hooks]\n" + "".join(f'{name} = ["{hook}", "{name}"]\n' for name in HOOKS))
    with stepped_probes(home) as desk:
        Collector(desk.store, desk.settings, desk.rules, "test", lambda: desk.at).evaluate_due()
        desk.advance(1, chains=False)
        desk.world.inject(massive_5xx=1.0)
        desk.advance(8)
        judge = Collector(desk.store, desk.settings, desk.rules, "test", lambda: desk.at)
        desk.at += timedelta(seconds=5)
        judge.evaluate_due()
        here = Desk(desk.load_settings(), lambda: desk.at)
        alert = next(
            a for a in here.status(desk.at).alerts if a["runbook"] == "massive_down" and a["state"] == "firing"
        )
        incident = here.incidents.open("", by="", alert=alert)
        place = opening.open_for(here, "massive_down", incident, "")
        # The simulated world is stopped; the kernel's clock starts at its time.
        environ = desk.world.environ | {"OPS_HOME": str(home), "OPS_CLOCK": f"{desk.at.isoformat()},{time.time()},1"}
        with running_lab(home, at, environ) as (base, token):
            yield Lab(
                f"{base}/lab/tree/{place.relative_to(home)}?reset&token={token}", home, incident.id, place.name, environ
            )


@pytest.fixture(scope="module")
def page(lab: Lab) -> Iterator[Any]:
    """Open and execute the runbook in a browser."""
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
    """Return the widget of a step."""
    index = page.evaluate(
        "(step) => window.jupyterapp.shell.currentWidget.content.widgets.findIndex(c => "
        'c.model.sharedModel.getSource() === `runbook.step("${step}")`)',
        step,
    )
    scroll(page, index)
    found = page.locator(".ops-step", has_text=step).first
    found.scroll_into_view_if_needed()
    return found


def scroll(page: Any, index: int) -> None:
    """Scroll to a cell, because distant cells are not drawn."""
    page.evaluate(
        "(index) => { const book = window.jupyterapp.shell.currentWidget.content; book.activeCellIndex = "
        "index; void book.scrollToItem(index, 'smart') }",
        index,
    )


def the_strip(page: Any) -> Any:
    """Return the progress of all steps."""
    index = page.evaluate(
        "() => window.jupyterapp.shell.currentWidget.content.widgets.findIndex(c => "
        "c.model.sharedModel.getSource().includes('ops.runbook('))"
    )
    scroll(page, index)
    found = page.locator(".ops-strip").first
    found.scroll_into_view_if_needed()
    return found


def screenshot(page: Any, name: str) -> None:
    """Save a screenshot, if a folder for it is configured."""
    if folder := os.environ.get("LAB_PICTURES"):
        page.screenshot(path=f"{folder}/{name}.png")


def test_the_first_screen(page: Any) -> None:
    """The first screen has what is broken, what still works and what to do first."""
    page.evaluate(
        "() => { const book = window.jupyterapp.shell.currentWidget.content; book.activeCellIndex = 0; void "
        "book.scrollToItem(0, 'start') }"
    )
    # There is no likely cause, because time goes on while no collector runs.
    for words in ("Massive's API is down", "Next step", "Massive's status page", "option data from", " to do · "):
        page.locator(".jp-Notebook").get_by_text(words).first.wait_for(state="attached")
    screenshot(page, "1_first_screen")


def test_a_check_is_run_again(page: Any, lab: Lab) -> None:
    """A check is run again by its button; its result is recorded before it is shown."""
    before = sum(e.body["step"] == "massive_answers" for e in lab.desk.incidents.read(lab.incident).of_kind("step"))
    found = card(page, "massive_answers")
    found.get_by_role("button", name="Check again").click()
    found.get_by_role("button", name="Check again").and_(page.locator(":enabled")).wait_for()
    until = time.monotonic() + 60
    while (
        sum(e.body["step"] == "massive_answers" for e in lab.desk.incidents.read(lab.incident).of_kind("step"))
        == before
        and time.monotonic() < until
    ):
        page.wait_for_timeout(200)
    assert (
        sum(e.body["step"] == "massive_answers" for e in lab.desk.incidents.read(lab.incident).of_kind("step"))
        == before + 1
    )
    assert "△ symptom confirmed" in found.inner_text()
    screenshot(page, "2_looked")


def test_an_action_is_refused_then_run(page: Any, lab: Lab) -> None:
    """
    Without a name an action is refused with a message; with a name it runs once.

    It has taken effect, and the progress shows its result.
    """
    found = card(page, "tradier_only")
    found.get_by_role("button", name="Run it").click()
    found.get_by_text("Not done.").wait_for()
    assert "Give your name" in found.inner_text() and not (lab.home / "done").exists()
    screenshot(page, "3_refused")
    found.get_by_label("Name").fill(OPERATOR)
    found.get_by_label("Name").press("Tab")
    found.get_by_text("I have read what it will do").click()
    found.get_by_role("button", name="Run it").click()
    # The button shows that the action is running, and then disappears.
    found.locator(":scope:not(:has(button))").wait_for()
    assert [line.split()[0] for line in (lab.home / "done").read_text().splitlines()] == ["tradier_only"]
    screenshot(page, "4_done")
    strip = the_strip(page)
    strip.locator("summary", has_text="Done:").click()
    strip.locator("li", has_text="✓ done Switch to Tradier only").wait_for()
    assert lab.desk.incidents.read(lab.incident).status == "mitigated"


def test_a_note_is_added(page: Any, lab: Lab) -> None:
    """A note is recorded."""
    strip = the_strip(page)
    strip.get_by_label("Name").last.fill(OPERATOR)
    strip.get_by_label("Note").last.fill("the vendor was called")
    strip.get_by_label("Note").last.press("Tab")
    strip.get_by_role("button", name="Add note").click()
    strip.get_by_text("note recorded as").wait_for()
    found = lab.desk.incidents.read(lab.incident).of_kind("note")
    assert [(e.by, e.body["words"]) for e in found] == [(OPERATOR, "the vendor was called")] and clock.instant(
        found[0].at_us
    ) >= BEGINS
    screenshot(page, "5_strip")
