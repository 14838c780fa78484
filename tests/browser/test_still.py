"""
Test the dashboard as a static output: executed by papermill it is a picture in notebook, HTML and PDF.

In plain Notebook it is live, as in JupyterLab.
"""

import json
import os
import re
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from opslib.dashboard import live
from opslib.desk import Desk
from opslib.foundation import time_parsing
from opslib.foundation.config import settings
from tests.support import demo
from tests.support.lab import IDLE, browsing, notebook, running_lab
from tests.support.snapshots import CLOSES
from tests.support.system import needs

pytestmark = [pytest.mark.browser, pytest.mark.slow]

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "dashboard.ipynb"
AS_OF = "2026-03-10T11:27"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a home with the demo's day."""
    found = tmp_path_factory.mktemp("still")
    demo.laid_out(found)
    return found


@pytest.fixture(scope="module")
def executed(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Execute the notebook as of a moment by the papermill command, without `ops`."""
    made = tmp_path_factory.mktemp("papermill") / "out.ipynb"
    subprocess.run(
        [sys.executable, "-m", "papermill", str(NOTEBOOK), str(made), "-p", "as_of", AS_OF],
        env={name: value for name, value in os.environ.items() if name != "OPS_UNATTENDED"} | {"OPS_HOME": str(home)},
        check=True,
        capture_output=True,
        timeout=200,
    )
    return made


def outputs(made: Path, source: str) -> list[dict[str, Any]]:
    """Return the outputs of a cell."""
    cells = json.loads(made.read_text())["cells"]
    return [
        output["data"]
        for cell in cells
        if "".join(cell["source"]).startswith(source)
        for output in cell.get("outputs", [])
    ]


def test_papermill_leaves_a_picture(executed: Path, home: Path) -> None:
    """The output is no widget but a picture, and a text with the same verdicts as ``ops status`` of that moment."""
    first_row, shown = outputs(executed, "ops.live(")
    assert "Do first: " in "".join(first_row["text/plain"])
    view = Desk(settings.load(home, "demo", {}), lambda: CLOSES).status(AS_OF)
    assert set(shown) == {"image/png", "text/plain"}
    words = "".join(shown["text/plain"]).splitlines()
    assert (
        words[0].startswith(f"{view.verdict}, as of ")
        and "(11:27:00 New York)" in words[0]
        and words[1:] == [f"{panel.title}: {panel.verdict_text}" for panel in view.panels]
    )
    assert "widgets" not in json.loads(executed.read_text())["metadata"]


def test_the_picture_is_in_html_and_pdf(executed: Path) -> None:
    """Converted by the nbconvert command and opened without a network, the picture is shown, also in PDF."""
    needs("chromium")
    subprocess.run(
        [sys.executable, "-m", "nbconvert", "--to", "html", "--no-input", str(executed)],
        check=True,
        capture_output=True,
        timeout=120,
    )
    with browsing(1300, 1000) as (page, problems):
        page.route(re.compile("^https?:"), lambda route: route.abort())
        page.goto(executed.with_suffix(".html").as_uri())
        drawn = page.evaluate("() => [...document.querySelectorAll('img')].map((img) => img.naturalWidth)")
        assert len(drawn) == 5 and min(drawn) > 300 and max(drawn) >= 1200
        assert (
            page.get_by_text("Data Provider Health: critical, over 1 h").count()
            and page.get_by_text("11:27:00 New York").count()
        )
        printed = executed.with_suffix(".pdf")
        page.pdf(path=str(printed), format="A4", print_background=True)
        assert problems == []
    widths = [int(found) for found in re.findall(rb"/Subtype /Image\s[^>]*?/Width (\d+)", printed.read_bytes())]
    assert max(widths) >= 1200 and len([w for w in widths if w > 300]) >= 5


def test_without_widgets_there_is_a_text(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A front end without widgets shows a sentence with the moment, and the four panels.

    Text from outside is escaped.
    """
    shown: list[dict[str, str]] = []
    monkeypatch.setattr("IPython.display.display", lambda data, **more: shown.append(data))
    monkeypatch.setattr(live, "attended", lambda: True)
    desk = Desk(settings.load(home, "demo", {}), lambda: CLOSES)
    live.Live(desk, timedelta(hours=1), 60.0, time_parsing.parse(AS_OF))._ipython_display_()
    (output,) = shown
    assert (
        "application/vnd.jupyter.widget-view+json" in output
        and output["text/html"].startswith("<p>This front end does not support Jupyter widgets")
        and "11:27:00 New York" in output["text/html"]
    )
    assert (
        all(panel._html() in output["text/html"] for panel in desk.status(AS_OF).panels)
        and "<script" not in output["text/html"]
    )


def test_plain_notebook_is_live(home: Path, tmp_path: Path) -> None:
    """Jupyter Notebook shows four panels, updates and a past moment, and the link to a runbook opens it."""
    needs("chromium")
    notebook(tmp_path / "plain.ipynb", f'import opslib as ops\n\nops.live("demo", "{AS_OF}")')
    with (
        running_lab(tmp_path, tmp_path / "jupyter", {"OPS_HOME": str(home)}, "notebook") as (base, token),
        browsing(1400, 1000) as (page, problems),
    ):
        page.goto(f"{base}/notebooks/plain.ipynb?token={token}")
        page.wait_for_function(IDLE)
        page.wait_for_timeout(1000)
        problems.clear()  # Ignore messages of Notebook's start.
        page.evaluate("() => { void window.jupyterapp.commands.execute('notebook:run-cell') }")
        page.locator(".ops-live .panel").nth(3).wait_for()
        page.wait_for_function("() => document.querySelector('.ops-live .moment').textContent.startsWith('11:27:00')")
        page.get_by_role("button", name="Back to now").click()
        page.wait_for_function("() => document.querySelector('.ops-live .badge').textContent === 'live'")
        if folder := os.environ.get("LAB_PICTURES"):
            page.screenshot(path=f"{folder}/plain_notebook.png")
        assert (
            page.locator(".jp-Notebook").count() == 1
            and page.locator("#jp-main-dock-panel").count() == 0
            and problems == []
        )
