"""
`ops lab` and `ops dashboard` as a person starts them: the launcher's entries, settings of their own, a page that only
shows.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

import psutil
import pytest

from opslib.cli import main
from opslib.foundation.config import settings
from opslib.jobs import jupyterlab
from opslib.runbooks import catalog
from tests.support import demo
from tests.support import lab as labs
from tests.support.lab import address_of, browsing
from tests.support.system import needs

pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home in which the demo's day lies."""
    found = tmp_path_factory.mktemp("started")
    demo.laid_out(found)
    return found


@contextmanager
def started(home: Path, what: str) -> Iterator[str]:
    """A lab, or the dashboard without code, by the shell: its address."""
    with (home / f"{what}.log").open("w+") as said:
        running = subprocess.Popen(
            [sys.executable, "-m", "opslib.cli", "--home", str(home), "--app", "demo", what, "--no-browser"],
            stdout=said,
            stderr=said,
            env=os.environ | {"HOME": str(home)},
        )
        try:
            yield address_of(running, home / f"{what}.log")
        finally:
            for process in psutil.Process(running.pid).children(recursive=True):
                process.terminate()
            running.terminate()
            running.wait(20)


def test_the_launcher_has_the_suite(home: Path) -> None:
    """
    Runbooks by what a person sees, what there is to look at, reports; a click opens one; nothing of the user's own
    settings is read or written.
    """
    needs("chromium")
    with started(home, "lab") as address, browsing() as (page, problems):
        command = " ".join(
            next(
                p.cmdline()
                for p in psutil.process_iter()
                if "jupyter" in " ".join(p.cmdline()) and str(home) in " ".join(p.cmdline())
            )
        )
        assert "token" not in command
        page.goto(address)
        for name in catalog.names():
            page.locator(".jp-Launcher").get_by_text(catalog.runbook(name).title, exact=True).first.wait_for(
                state="attached"
            )
        for title in (jupyterlab.LIVE, *jupyterlab.NOW.values(), "Daily report", "Weekly report"):
            page.locator(".jp-Launcher").get_by_text(title, exact=True).first.wait_for(state="attached")
        if folder := os.environ.get("LAB_PICTURES"):
            page.screenshot(path=f"{folder}/lab_launcher.png")
        page.locator(".jp-Launcher").get_by_text(catalog.runbook("massive_down").title, exact=True).first.click()
        page.locator(".jp-NotebookPanel .jp-RenderedMarkdown").get_by_text("Massive does not answer").first.wait_for()
        assert (
            not page.get_by_text("Would you like to get notified about official Jupyter news").count()
            and problems == []
        )
    assert not (home / ".jupyter").exists() and not (home / ".local" / "share" / "jupyter" / "runtime").exists()


def test_a_runbook_is_worked_through_in_it(home: Path) -> None:
    """
    The second screen of the README: the copy that was opened for an incident, in the lab; its cells run, the likely
    branch is first and the first step has its buttons.
    """
    needs("chromium")
    for act in (
        ["incident", "open", "Massive does not answer"],
        ["runbook", "open", "massive_down", "--incident", "2026-03-10-2", "--as-of", "2026-03-10T11:27"],
    ):
        assert main.main(["--home", str(home), "--app", "demo", *act, "--by", "Ann"]) == 0
    with started(home, "lab") as address, browsing(1400, 1000) as (page, problems):
        # Without the tabs of last time.
        page.goto(
            address.replace("/lab?", "/lab/tree/home/demo/demo/incidents/2026-03-10-2/01_massive_down.ipynb?reset&")
        )
        page.locator(".jp-NotebookPanel .jp-RenderedMarkdown").first.wait_for()
        # What is asked of a kernel that has not started is lost.
        page.get_by_text("Python 3 (ipykernel) | Idle").wait_for()
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_text("Run All Cells", exact=True).click()
        last, until = (
            page.get_by_text("0/31 steps; minute 0 since it was detected").first,
            time.monotonic() + labs.RUNS_S,
        )
        # Cells that are not on the screen are not on the page, and outputs push the last one off it.
        while not last.count():
            assert time.monotonic() < until, page.locator(".jp-NotebookPanel").inner_text()[-2000:]
            page.evaluate(
                "() => { const o = document.querySelector('.jp-WindowedPanel-outer'); o.scrollTop = o.scrollHeight }"
            )
            page.wait_for_timeout(250)
        page.mouse.move(700, 500)
        page.evaluate("() => { document.querySelector('.jp-WindowedPanel-outer').scrollTop = 0 }")
        first = page.locator(".ops-step").first
        for _ in range(60):  # Cells that are not on the screen are not on the page.
            if first.count():
                break
            page.mouse.wheel(0, 300)
            page.wait_for_timeout(250)
        first.scroll_into_view_if_needed()
        first.get_by_role("button", name="Look").click()
        first.get_by_text("availability of massive").first.wait_for()
        if folder := os.environ.get("LAB_PICTURES"):
            page.screenshot(path=f"{folder}/incident.png")
        assert problems == []


def test_the_dashboard_without_code_only_shows(home: Path) -> None:
    """Four panels, no code, nobody without the token; what would leave something behind is refused in words."""
    needs("chromium")
    with started(home, "dashboard") as address, browsing(1400, 1000) as (page, problems):
        with urlopen(address.partition("?")[0], timeout=20) as stranger:
            assert "/login" in stranger.url and b"widget-view" not in stranger.read()
        asked = list[str]()
        page.on("request", lambda request: asked.append(request.url))
        page.goto(address)
        page.locator(".ops-live .panel").nth(3).wait_for()
        assert [url for url in asked if not url.startswith((address.partition("?")[0], "data:", "blob:"))] == []
        assert page.locator("text=import opslib").count() == 0
        page.locator(".ops-live .words").fill("nothing")
        page.locator(".ops-live .by").fill("Junior Trader")
        page.get_by_role("button", name="Missed data").click()
        page.get_by_text("this page only shows").wait_for()
        if folder := os.environ.get("LAB_PICTURES"):
            page.screenshot(path=f"{folder}/dashboard_page.png")
        assert problems == []
    assert oct((home / ".lab" / "config" / "voila.json").stat().st_mode)[-3:] == "600"


def test_what_is_laid_out(home: Path, tmp_path: Path) -> None:
    """
    Links to the project and the home, entries for every runbook; laid out twice it is the same; a file that a lab sees
    has a path there, another has none.
    """
    found = settings.load(tmp_path / "home", "desk", {})
    (tmp_path / "home").mkdir()
    place = jupyterlab.prepare(found, {"JUPYTER_TOKEN": "t"}, catalog.titles())
    assert (
        jupyterlab.prepare(found, {"JUPYTER_TOKEN": "t"}, catalog.titles()) == place
        and place.environ["JUPYTER_TOKEN"] == "t"
        and "t" not in place.lab(1, False)
    )
    entries = json.loads((tmp_path / "home" / ".lab" / "launcher" / "jp_app_launcher.yaml").read_text())
    assert {e["source"][0]["args"]["path"] for e in entries} >= {
        f"runbooks/{name}.ipynb" for name in catalog.names()
    } and len({e["id"] for e in entries}) == len(entries)
    assert all((place.root / e["source"][0]["args"]["path"]).exists() for e in entries)
    (tmp_path / "home" / "desk").mkdir()
    (tmp_path / "home" / "desk" / "x.ipynb").write_text("{}")
    assert jupyterlab.link(tmp_path / "home" / "desk" / "x.ipynb", place.environ) == "home/desk/x.ipynb"
    assert jupyterlab.link(catalog.folder() / "massive_down.ipynb", place.environ) == "runbooks/massive_down.ipynb"
    assert (
        jupyterlab.link(tmp_path / "else.txt", place.environ) is None
        and jupyterlab.link(tmp_path / "home" / "desk" / "x.ipynb", {}) is None
    )


def test_a_port_that_is_none(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is refused by name."""
    assert (
        main.main(["--home", str(home), "--app", "demo", "lab", "--port", "70000"]) == 64
        and "--port" in capsys.readouterr().err
    )
