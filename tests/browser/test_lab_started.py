"""Test `ops lab` and `ops dashboard` as a person starts them: launcher, separate settings, a read-only page."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import psutil
import pytest
from axe_playwright_python.sync_playwright import Axe

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
    """Return a home with the demo's day."""
    found = tmp_path_factory.mktemp("started")
    demo.laid_out(found)
    return found


@contextmanager
def started(home: Path, what: str) -> Iterator[str]:
    """Start a lab, or the read-only dashboard, by its command; yield its address."""
    with (home / f"{what}.log").open("w+") as said:
        running = subprocess.Popen(
            [sys.executable, "-m", "opslib.cli", "--home", str(home), "--app", "demo", what, "--no-browser"],
            stdout=said,
            stderr=said,
            env=os.environ | {"HOME": str(home)},
            start_new_session=True,
        )
        try:
            yield address_of(running, home / f"{what}.log")
        finally:
            end(running)


def opening(address: str, place: str) -> str:
    """Return the address at which the lab opens a file, with the tabs of the last session closed."""
    return re.sub(r"/lab/tree/[^?]*[?]", f"/lab/tree/{place}?reset&", address)


def end(running: subprocess.Popen[Any]) -> None:
    """End a process that has its own session, and all its children, also if it hangs."""
    kernels = psutil.Process(running.pid).children(recursive=True) if running.poll() is None else []
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(running.pid, number)
        # A kernel has a process group of its own.
        _, kernels = psutil.wait_procs(kernels, timeout=20)
        for kernel in kernels:
            with contextlib.suppress(psutil.NoSuchProcess):
                kernel.send_signal(number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            running.wait(20)
            if not kernels:
                return


def test_the_lab_opens_home(home: Path) -> None:
    """
    The lab opens Home, already executed: what is broken comes first, and the keyboard reaches everything.

    A link opens its notebook in the lab. The user's own settings are neither read nor written.
    """
    needs("chromium")
    with started(home, "lab") as address, browsing(1440, 900) as (page, problems):
        processes = [p.info for p in psutil.process_iter(["cmdline"])]
        command = next(c for p in processes if "jupyter" in (c := " ".join(p["cmdline"] or ())) and str(home) in c)
        assert "token" not in command
        page.goto(address)
        page.locator(".ops-home .ops-answer").wait_for(timeout=labs.RUNS_S * 1000)
        assert "Active alert: backtest variance" in page.locator(".ops-home .ops-answer").inner_text()
        shown = "\n".join(page.locator(".ops-home").all_inner_texts())
        for words in ("Runbooks by symptom", *catalog.titles().values(), "Latest reports", "Checklists due"):
            assert words in shown
        # Code is hidden, and each link has a name and can be reached.
        assert page.locator(".jp-NotebookPanel .cm-content").count() == 0
        found = Axe().run(page, context=".ops-home").response["violations"]
        assert [(v["id"], v["nodes"][0]["html"]) for v in found] == []
        if folder := os.environ.get("LAB_PICTURES"):
            page.screenshot(path=f"{folder}/lab_home.png")
        page.locator(".ops-home a").get_by_text(catalog.runbook("massive_down").title, exact=True).first.focus()
        page.keyboard.press("Enter")
        page.locator(".jp-NotebookPanel .jp-RenderedMarkdown").get_by_text("Massive's API is down").first.wait_for()
        assert (
            not page.get_by_text("Would you like to get notified about official Jupyter news").count()
            and problems == []
        )
        # A narrow window shows one document, without the side bar.
        page.set_viewport_size({"width": 420, "height": 800})
        page.goto(opening(address, jupyterlab.HOME))
        page.locator(".ops-home .ops-answer").wait_for(timeout=labs.RUNS_S * 1000)
        place = page.locator(".ops-home .ops-answer").bounding_box()
        assert place and place["width"] > 250 and page.locator("#jp-left-stack").is_hidden()
    assert not (home / ".jupyter").exists() and not (home / ".local" / "share" / "jupyter" / "runtime").exists()


def test_the_launcher(home: Path) -> None:
    """The launcher lists Home, the runbooks by symptom, the notebooks and the reports, each with an icon."""
    needs("chromium")
    with started(home, "lab") as address, browsing() as (page, problems):
        page.goto(re.sub(r"/lab/tree/[^?]*", "/lab", address) + "&reset")
        launcher = page.locator(".jp-Launcher")
        launcher.get_by_text("Runbooks by symptom", exact=True).wait_for()
        titles = (*catalog.titles().values(), "Home", jupyterlab.LIVE, *jupyterlab.NOW.values(), "Daily report")
        for title in titles:
            launcher.locator(".jp-LauncherCard", has_text=title).first.wait_for(state="attached")
        for title in titles:  # A card without an icon shows the initials of its title.
            assert launcher.locator(".jp-LauncherCard", has_text=title).first.locator("svg").count() == 1, title
        assert problems == []


def test_a_runbook_runs_in_the_lab(home: Path) -> None:
    """
    The runbook copy opened for an incident, the README's second screenshot, runs in the lab when it is opened.

    The next step is at the top with its buttons, and a click leads to the one after it.
    """
    needs("chromium")
    for act in (
        ["incident", "open", "Massive's API is down"],
        ["runbook", "open", "massive_down", "--incident", "2026-03-10-5", "--as-of", "2026-03-10T11:27"],
    ):
        assert main.main(["--home", str(home), "--app", "demo", *act, "--by", "Ann"]) == 0
    with started(home, "lab") as address, browsing(1400, 1000) as (page, problems):
        # Close the tabs of the last session.
        page.goto(opening(address, "home/demo/demo/incidents/2026-03-10-5/01_massive_down.ipynb"))
        page.locator(".ops-notebook .jp-RenderedMarkdown").first.wait_for()
        # It runs on opening and shows no code; the progress counts the results of its checks.
        page.get_by_text("10 done · 15 to do · 6 not needed").first.wait_for(timeout=labs.RUNS_S * 1000)
        assert page.locator(".ops-notebook .jp-CodeCell .cm-content").count() == 0
        first = page.locator(".ops-strip").first.inner_text()
        for fact in ("Massive returns server errors", "11:22 New York", "Massive, confidence", "data from Tradier"):
            assert fact in first
        if folder := os.environ.get("LAB_PICTURES"):
            page.screenshot(path=f"{folder}/incident.png")
        following = page.locator(".ops-next")
        following.get_by_text("Massive's status page", exact=True).wait_for()
        following.get_by_role("button", name="Healthy", exact=True).click()
        following.get_by_text("Notify the trading team", exact=True).wait_for()
        page.get_by_text("11 done · 14 to do · 6 not needed").first.wait_for()
        assert problems == []


def test_notebooks_that_run_on_opening(home: Path) -> None:
    """A notebook with `run_on_open` runs when it is opened, but only in folders that opslib writes."""
    needs("chromium")
    (home / "demo" / "incidents" / "x").mkdir(parents=True)
    for place, asks in (
        ("demo/incidents/x/asks.ipynb", True),
        ("demo/incidents/x/silent.ipynb", False),
        ("demo/asks.ipynb", True),
    ):
        labs.notebook(home / place, "print('it', 'ran')")
        found = json.loads((home / place).read_text())
        found["metadata"]["opslib"] = {"run_on_open": asks}
        (home / place).write_text(json.dumps(found))
    with started(home, "lab") as address, browsing() as (page, problems):
        for place in ("demo/incidents/x/silent.ipynb", "demo/asks.ipynb", "demo/incidents/x/asks.ipynb"):
            page.goto(opening(address, f"home/{place}"))
            page.get_by_text("Python 3 (ipykernel) | Idle").wait_for()
            if place == "demo/incidents/x/asks.ipynb":
                page.get_by_text("it ran").wait_for()
            else:
                # The result of running the cell by hand is the first one.
                page.locator(".jp-CodeCell").first.click()
                page.keyboard.press("Control+Enter")
                page.get_by_text("it ran").wait_for()
            # The number appears after the output, when the kernel has replied.
            # A notebook that runs on opening hides it.
            page.get_by_text("[1]:").wait_for(state="attached")
            assert problems == []


def test_the_dashboard_is_read_only(home: Path) -> None:
    """
    The dashboard has four panels, no code, and no access without the token.

    It shows no control that would write.
    """
    needs("chromium")
    with started(home, "dashboard") as address, browsing(1440, 900) as (page, problems):
        with urlopen(address.partition("?")[0], timeout=20) as stranger:
            assert "/login" in stranger.url and b"widget-view" not in stranger.read()
        asked, console = list[str](), list[str]()
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda said: console.append(said.text) if said.type == "error" else None)
        page.goto(address)
        page.locator(".ops-live .panel").nth(3).wait_for()
        assert page.evaluate("() => document.querySelector('.ops-live .past').getBoundingClientRect().bottom") <= 900
        assert [url for url in asked if not url.startswith((address.partition("?")[0], "data:", "blob:"))] == []
        assert page.locator("text=import opslib").count() == 0
        for control in ("Missed data", "Acknowledge", "Open runbook"):
            assert page.get_by_role("button", name=control).count() == 0, control
        if folder := os.environ.get("LAB_PICTURES"):
            page.screenshot(path=f"{folder}/dashboard_page.png")
        assert problems == [] and console == []
    assert oct((home / ".lab" / "config" / "voila.json").stat().st_mode)[-3:] == "600"


def test_the_prepared_folder(home: Path, tmp_path: Path) -> None:
    """
    The folder has links to project and home, and a launcher entry for every runbook; preparing it again is harmless.

    A file inside the folder has a path in the lab, any other has none.
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


def test_an_invalid_port(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An invalid port is refused with a message."""
    assert (
        main.main(["--home", str(home), "--app", "demo", "lab", "--port", "70000"]) == 64
        and "--port" in capsys.readouterr().err
    )
