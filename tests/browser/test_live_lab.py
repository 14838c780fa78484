"""
Test the live dashboard in a real JupyterLab with a running simulated world.

It covers updates, pause, a fault, the past, an alert's runbook, and a busy kernel.
"""

import itertools
import os
import random
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
from axe_playwright_python.sync_playwright import Axe

from opslib.desk import Desk
from opslib.foundation import clock
from opslib.foundation.config import settings
from opslib.foundation.formatting import NEW_YORK
from opslib.simulation.world.control import World
from opslib.telemetry.pages.store import SnapshotStore
from tests.support import demo
from tests.support.lab import IDLE, beside_a_world, browsing, notebook, running_lab
from tests.support.snapshots import CLOSES, OPENS
from tests.support.system import needs

pytestmark = [pytest.mark.browser, pytest.mark.slow]

SPEED, EVERY_S = 8.0, 5
MOMENTS = 200  # They change with the date.
CELL = 'import opslib as ops\n\nops.live("desk", window="10m")'
BUSY = "import time\n\ntime.sleep(12)"


@dataclass
class Shown:
    """The dashboard in a browser, its simulated world, and every request of the page."""

    page: Any
    world: World
    home: Path
    environ: dict[str, str]
    requests: list[str]
    console: list[str]

    def text(self, of: str) -> str:
        return str(self.page.locator(f".ops-live {of}").first.inner_text())

    def moment(self) -> str:
        return self.text(".moment")

    def panel(self, name: str) -> str:
        return self.text(f"[data-panel={name}] .top .verdict")

    def moved(self, was: str, within_s: float) -> str:
        """Wait for the next moment shown, and return it."""
        self.page.wait_for_function(
            "(was) => document.querySelector('.ops-live .moment').textContent !== was", arg=was, timeout=within_s * 1000
        )
        return self.moment()

    def screenshot(self, name: str) -> None:
        """Save a screenshot, if a folder for it is configured."""
        if folder := os.environ.get("LAB_PICTURES"):
            self.page.screenshot(path=f"{folder}/{name}.png")


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shown]:
    """Start a healthy simulated world, its receiver and collector, and a lab with the notebook executed."""
    needs("chromium")
    home, at, logs = (tmp_path_factory.mktemp(name) for name in ("home", "jupyter", "logs"))
    notebook(home / "live.ipynb", CELL, BUSY)
    with (
        beside_a_world(home, logs, SPEED) as (world, environ),
        running_lab(home, at, environ) as (base, token),
        browsing(1500, 1330) as (page, problems),
    ):
        requests, console = list[str](), list[str]()
        page.on("request", lambda request: requests.append(request.url))
        page.on("console", lambda said: console.append(said.text) if said.type == "error" else None)
        page.goto(f"{base}/lab/tree/live.ipynb?reset&token={token}")
        page.wait_for_function(IDLE)
        page.evaluate(
            "() => { void window.jupyterapp.commands.execute('application:toggle-left-area'); void "
            "window.jupyterapp.commands.execute('notebook:run-cell') }"
        )
        page.locator(".ops-live .panel").nth(3).wait_for()
        yield Shown(page, world, home, environ, requests, console)
        assert problems == []


def seconds(moment: str) -> int:
    """Return a shown moment as seconds of the day."""
    hours, minutes, secs = (int(part) for part in re.match(r"(\d+):(\d+):(\d+) New York", moment).groups())
    return 3600 * hours + 60 * minutes + secs


def test_updates_arrive(shown: Shown) -> None:
    """Four panels are drawn, and three updates arrive five seconds apart."""
    assert shown.page.locator(".ops-live .panel").count() == 4
    moments, clocked = [shown.moment()], list[float]()
    for _ in range(4):
        moments.append(shown.moved(moments[-1], 3 * EVERY_S))
        clocked.append(time.monotonic())
    gaps = [b - a for a, b in itertools.pairwise(clocked)]
    assert all(abs(gap - EVERY_S) < 2.0 for gap in gaps), gaps
    assert [seconds(b) > seconds(a) for a, b in itertools.pairwise(moments)] == [True] * 4
    assert shown.text(".badge") == "live" and all(
        figure.strip() for figure in shown.page.locator(".ops-live td").all_text_contents()
    )
    shown.screenshot("live_1_healthy")


def test_pause(shown: Shown) -> None:
    """While paused nothing changes, and a badge counts the missed updates; resumed, the view shows the newest data."""
    desk = Desk(settings.load(shown.home, "desk", shown.environ))
    shown.page.get_by_role("button", name="Pause").click()
    held, rows = shown.moment(), SnapshotStore(desk.store).first_ts("desk")
    shown.page.wait_for_function(
        "() => /paused, [2-9] updates behind/.test(document.querySelector('.ops-live .badge').textContent)",
        timeout=5 * EVERY_S * 1000,
    )
    assert shown.moment() == held and rows is not None
    with desk.store.reading() as connection:
        kept = connection.exec_driver_sql("SELECT count(*) FROM snapshots").scalar()
    shown.page.wait_for_timeout(2000)
    with desk.store.reading() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM snapshots").scalar() > kept
    shown.screenshot("live_2_paused")
    shown.page.get_by_role("button", name="Resume").click()
    assert seconds(shown.moment()) > seconds(held) + SPEED * EVERY_S and shown.text(".badge") == "live"


def test_a_busy_kernel_stops_no_update(shown: Shown) -> None:
    """While a cell runs for twelve seconds, two updates arrive."""
    shown.page.evaluate(
        "() => { const book = window.jupyterapp.shell.currentWidget.content; book.activeCellIndex = 1; void "
        "window.jupyterapp.commands.execute('notebook:run-cell') }"
    )
    shown.page.wait_for_function(
        "() => window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.status === 'busy'"
    )
    first = shown.moved(shown.moment(), 8)
    shown.moved(first, 8)
    assert (
        shown.page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.status")
        == "busy"
    )
    shown.page.wait_for_function(IDLE)
    shown.page.evaluate(
        "() => { const book = window.jupyterapp.shell.currentWidget.content; book.activeCellIndex = 0; void "
        "book.scrollToItem(0, 'start') }"
    )


def test_a_fault_and_the_moment_before_it(shown: Shown) -> None:
    """If Massive fails, the panel changes; the slider shows an earlier healthy moment; back to now shows the fault."""
    verdict = "document.querySelector('.ops-live [data-panel=providers] .top .verdict').textContent"
    # A busy machine's probes can fail.
    shown.page.wait_for_function(f"() => !{verdict}.includes('critical')", timeout=120_000)
    healthy = seconds(shown.moment())
    healthy -= healthy % 5  # The slider moves in steps of 5 s.
    at = f"{healthy // 3600:02}:{healthy // 60 % 60:02}:{healthy % 60:02}"
    shown.world.inject(massive_refused=1.0)
    shown.page.wait_for_function(f"() => {verdict}.includes('critical')", timeout=60_000)
    shown.screenshot("live_3_fault")
    now = shown.moment()
    shown.page.locator(".ops-live .slider").evaluate(
        "(slider, s) => { slider.value = Number(slider.min) + s; slider.dispatchEvent(new Event('input')) }",
        healthy - seconds("09:30:00 New York"),
    )
    shown.page.wait_for_function(
        "(at) => document.querySelector('.ops-live .badge').textContent === 'past moment'"
        " && document.querySelector('.ops-live .moment').textContent.startsWith(at)",
        arg=at,
    )
    assert "critical" not in shown.panel("providers"), shown.text("[data-panel=providers]")
    shown.screenshot("live_4_past")
    shown.page.wait_for_timeout(1500)
    assert shown.moment().startswith(at)
    shown.page.get_by_role("button", name="Back to now").click()
    assert seconds(shown.moment()) >= seconds(now) and "critical" in shown.panel("providers")


def test_the_alert_opens_its_runbook(shown: Shown) -> None:
    """A click on an alert of the list opens its runbook, filled in for its incident, and shows the path."""
    alert = shown.page.locator(".ops-live .alerts li", has_text="availability of massive")
    alert.first.wait_for(state="attached", timeout=90_000)
    shown.page.locator(".ops-live header summary").click()
    alert.locator("button").first.click()
    shown.page.locator(".ops-live .message a").wait_for()
    link = shown.page.locator(".ops-live .message a").get_attribute("href")
    assert (
        link
        and link.startswith("/lab/tree/")
        and (shown.home / link.removeprefix("/lab/tree/")).exists()
        and "massive_down" in link
    )
    shown.screenshot("live_5_runbook")


def test_the_worst_alert_is_acknowledged(shown: Shown) -> None:
    """
    It is acknowledged with a name from the first row; the next update shows the name, and the incident has an owner.
    """
    shown.page.locator(".ops-live .ack-by").fill("Ann")
    shown.page.get_by_role("button", name="Acknowledge", exact=True).click()
    shown.page.locator(".ops-live .owner", has_text="Acknowledged by Ann.").wait_for(timeout=30_000)
    assert "acknowledged by Ann" in shown.text(".message")
    shown.page.locator(".ops-live .ack-by").wait_for(state="hidden")
    shown.screenshot("live_5b_acknowledged")


def test_a_panel_opens_its_details(shown: Shown) -> None:
    """A click on a panel's name executes the notebook with details as of the shown moment, and shows its path."""
    shown.page.locator(".ops-live [data-panel=system] h3 a").click()
    shown.page.locator(".ops-live .message a[href*=system_health]").wait_for()
    link = shown.page.locator(".ops-live .message a").get_attribute("href")
    assert (
        link
        and "system_health, as of 2026-" in shown.text(".message")
        and (shown.home / link.removeprefix("/lab/tree/")).exists()
    )


def test_no_request_leaves_the_machine(shown: Shown) -> None:
    """No request leaves the machine, and the page reports no error."""
    assert not [
        url for url in shown.requests if not url.startswith(("http://127.0.0.1:", "data:", "blob:", "ws://127.0.0.1:"))
    ]
    assert not [said for said in shown.console if "ops" in said.lower() or "widget" in said.lower()], shown.console


def test_a_reloaded_page_shows_now(shown: Shown) -> None:
    """After a page reload the saved output is drawn again, with the present state."""
    before = shown.moment()
    shown.page.evaluate("() => window.jupyterapp.commands.execute('docmanager:save')")
    shown.page.reload()
    shown.page.locator(".ops-live .panel").nth(3).wait_for()
    first = shown.moment()
    assert seconds(first) >= seconds(before)
    shown.moved(first, 3 * EVERY_S)


def test_a_locked_database_is_reported(shown: Shown) -> None:
    """
    While the database is locked for ten seconds, the view stays up and shows the age of its data.

    Snapshots posted meanwhile are stored afterwards, and the view is current again.
    """
    age = (
        "() => { const [, n, unit] = document.querySelector('.ops-live .age').textContent.match(/last snapshot "
        "([0-9.]+) (s|min)/); return Number(n) * (unit === 's' ? 1 : 60) }"
    )
    desk = Desk(settings.load(shown.home, "desk", shown.environ))
    with desk.store.writing() as connection:
        connection.exec_driver_sql("UPDATE meta SET value = value")
        begun = time.monotonic()
        shown.page.wait_for_function(f"() => ({age})() >= 40", timeout=20_000)
        shown.moved(shown.moment(), 3 * EVERY_S)
        shown.page.wait_for_timeout(max(0.0, 10 - (time.monotonic() - begun)) * 1000)
    shown.page.wait_for_function(f"() => ({age})() <= 30", timeout=30_000)
    assert shown.text(".badge") == "live" and shown.text(".message") == ""


def test_the_view_recovers_after_a_suspension(shown: Shown) -> None:
    """
    After half a minute of suspension of the lab and its kernels the view recovers by itself.

    Meanwhile its data is marked as old.
    """
    names = ("jupyter", "jupyter-lab", "ipykernel_launcher")
    asleep = [
        found
        for found in psutil.process_iter(["cmdline"])
        if any(Path(part).name in names for part in found.info["cmdline"] or [])
        and found.environ().get("OPS_HOME") == str(shown.home)
    ]
    assert len(asleep) >= 2
    before = shown.moment()
    try:
        for process in asleep:
            process.suspend()
        shown.page.wait_for_function(
            "() => /no update for (1[89]|2[0-9]) s: the kernel is busy, suspended or stopped/"
            ".test(document.querySelector('.ops-live .badge').textContent)",
            timeout=45_000,
        )
        assert shown.page.locator(".ops-live.stale .panel").count() == 4
        stood = shown.moment()
    finally:
        for process in asleep:
            process.resume()
    assert seconds(stood) - seconds(before) < 3 * EVERY_S * SPEED
    shown.page.wait_for_function(
        "() => document.querySelector('.ops-live .badge').textContent === 'live'", timeout=30_000
    )
    assert seconds(shown.moment()) > seconds(stood) + 15 * SPEED and shown.page.locator(".ops-live.stale").count() == 0


def test_a_restarted_kernel_is_reported(shown: Shown) -> None:
    """After a kernel restart the view stays, marked as old, with the reason; running the cell again makes it live."""
    shown.page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.restart()")
    shown.page.wait_for_function(
        "() => document.querySelector('.ops-live .badge').textContent.includes('busy, suspended or stopped')",
        timeout=60_000,
    )
    assert shown.page.locator(".ops-live.stale .panel").count() == 4
    shown.page.wait_for_function(IDLE)
    shown.page.evaluate(
        "() => { const book = window.jupyterapp.shell.currentWidget.content; book.activeCellIndex = 0; void "
        "window.jupyterapp.commands.execute('notebook:run-cell') }"
    )
    shown.page.wait_for_function(
        "() => document.querySelectorAll('.ops-live .panel').length === 4 && "
        "document.querySelector('.ops-live .badge').textContent === 'live'"
    )


def test_any_moment_equals_the_status(shown: Shown) -> None:
    """
    At 200 random moments of the demo's day, each verdict and figure equals that of ``ops status``.

    The moments change with the date. Most are in order of time, as with the slider; the others jump.
    """
    drawn = random.Random(f"{clock.now():%Y%m%d}")
    moments = [OPENS + timedelta(seconds=5 * drawn.randrange(60, 4680)) for _ in range(MOMENTS)]
    moments[MOMENTS // 5 :] = sorted(moments[MOMENTS // 5 :])
    demo.laid_out(shown.home)
    notebook(shown.home / "demo.ipynb", 'import opslib as ops\n\nops.live("demo")')
    page = shown.page
    page.evaluate("() => window.jupyterapp.commands.execute('docmanager:open', { path: 'demo.ipynb' })")
    page.wait_for_function(
        "() => window.jupyterapp.shell.currentWidget?.context?.path === 'demo.ipynb' && "
        "window.jupyterapp.shell.currentWidget.sessionContext?.session?.kernel?.status === 'idle'"
    )
    page.evaluate("() => { void window.jupyterapp.commands.execute('notebook:run-cell') }")
    page.wait_for_function(
        "() => document.querySelectorAll('.jp-NotebookPanel:not(.lm-mod-hidden) .ops-live .panel').length === 4"
    )
    read = """(locals) => { window.found = (async () => {
        const root = document.querySelector('.jp-NotebookPanel:not(.lm-mod-hidden) .ops-live'), found = [];
        for (const local of locals) {
            const date = root.querySelector('.date');
            date.value = local;
            date.dispatchEvent(new Event('change'));
            while (!root.querySelector('.moment').textContent.startsWith(local.slice(11))) await new Promise((go) => \
setTimeout(go, 5));
            const panels = [...root.querySelectorAll('.panel')].map((panel) => [panel.dataset.panel, \
panel.querySelector('.top .verdict').textContent.slice(2), [...panel.querySelectorAll('td')].map((cell) => \
[cell.dataset.figure, cell.textContent])]);
            found.push([root.querySelector('header .verdict').textContent.slice(2), panels]);
        }
        return found;
    })() }"""
    # The browser reads the moments while their values are computed here.
    page.evaluate(read, [f"{at.astimezone(NEW_YORK):%Y-%m-%dT%H:%M:%S}" for at in moments])
    desk = Desk(settings.load(shown.home, "demo", {}), lambda: CLOSES)
    statuses = [
        (view.verdict_text, view.as_json(), {panel.name: (panel.verdict_text, panel.rows) for panel in view.panels})
        for view in map(desk.status, moments)
    ]
    read_there = page.evaluate("() => window.found")
    for at, (view_verdict, found, expected), (verdict, panels) in zip(moments, statuses, read_there, strict=True):
        assert verdict == view_verdict and verdict.split(" ")[0] == found["verdict"]
        assert [name for name, _, _ in panels] == ["providers", "greeks", "pnl", "system"]
        for name, stands, figures in panels:
            words, rows = expected[name]
            assert stands == words and figures == [[label, value] for label, value, _ in rows], (at, name)
        read_as = {label: value for _, _, figures in panels for label, value in figures}
        for provider in ("massive", "tradier"):
            known = found["panels"]["providers"]["subjects"][provider]
            assert read_as[f"{provider} availability"] == (
                "unknown" if known["availability"] is None else f"{100 * known['availability']:.2f} %"
            )
            assert read_as[f"{provider} requests / failures"] == f"{known['requests']:,} / {known['failures']:,}"
        assert read_as["valid Greeks"] == (
            "unknown"
            if found["panels"]["greeks"]["valid_rate"] is None
            else f"{100 * found['panels']['greeks']['valid_rate']:.2f} %"
        )
        assert read_as["trades"] == f"{found['panels']['pnl']['trades']:,}"


def themed(page: Any, theme: str) -> None:
    """Switch JupyterLab to its light or its dark theme."""
    page.evaluate(
        "(theme) => window.jupyterapp.commands.execute('apputils:change-theme', { theme: `JupyterLab ${theme}` })",
        theme,
    )
    page.wait_for_function("(dark) => document.body.dataset.jpThemeLight === String(!dark)", arg=theme == "Dark")
    page.wait_for_timeout(1500)


def test_accessibility(shown: Shown) -> None:
    """An accessibility checker finds nothing serious, in the light and in the dark theme."""
    root = ".jp-NotebookPanel:not(.lm-mod-hidden) .ops-live"
    shown.page.locator(f"{root} .date").fill("2026-03-10T11:27:00")  # In the outage, with an alert.
    shown.page.wait_for_function(
        "(root) => document.querySelector(`${root} .moment`).textContent.startsWith('11:27:00') && "
        "document.querySelector(`${root} .alerts .is-critical`)",
        arg=root,
    )
    for theme in ("Light", "Dark"):
        themed(shown.page, theme)
        shown.page.evaluate(
            "(root) => document.querySelectorAll(`${root} details`).forEach((fold) => { fold.open = true })", root
        )
        shown.page.locator(f"{root} .panel .sentences li").first.wait_for()
        found = Axe().run(shown.page, context={"include": [[".jp-NotebookPanel:not(.lm-mod-hidden) .ops-live"]]})
        serious = [
            (v["id"], [node["html"][:160] for node in v["nodes"]])
            for v in found.response["violations"]
            if v["impact"] in ("serious", "critical")
        ]
        assert serious == [], serious
        shown.page.evaluate(
            "(root) => document.querySelectorAll(`${root} details`).forEach((fold) => { fold.open = false })", root
        )
        shown.screenshot(f"live_6_{theme.lower()}")


@pytest.mark.parametrize("theme", ["Light", "Dark"])
@pytest.mark.parametrize("size", [(1440, 900), (1280, 800), (3840, 2160), (420, 900)], ids=lambda s: str(s[0]))
def test_it_fits(shown: Shown, size: tuple[int, int], theme: str) -> None:
    """
    On a laptop, a wall display and a phone, in both themes, nothing is cut off or needs to be scrolled sideways.

    On usual screens and wall displays all panels are visible at once.
    """
    root = ".jp-NotebookPanel:not(.lm-mod-hidden) .ops-live"
    shown.page.set_viewport_size({"width": size[0], "height": size[1]})
    themed(shown.page, theme)
    wide = shown.page.evaluate(
        "() => { const root = document.querySelector('.jp-NotebookPanel:not(.lm-mod-hidden) .ops-live'); "
        "return [root.scrollWidth, root.clientWidth, ...[...root.querySelectorAll('.panel')].map((p) => "
        "p.scrollWidth - p.clientWidth)] }"
    )
    assert wide[0] <= wide[1] + 1 and all(over <= 1 for over in wide[2:]), wide
    if size[0] >= 1440:
        seen = shown.page.evaluate(
            "(root) => [document.querySelector(`${root} .grid`).getBoundingClientRect().bottom, "
            "document.querySelector('.jp-NotebookPanel:not(.lm-mod-hidden) .jp-WindowedPanel-outer')"
            ".getBoundingClientRect().bottom]",
            root,
        )
        assert seen[0] <= seen[1], seen
    # Each chart is drawn at its displayed size, at least 120 px high, in the color of the theme.
    charts = shown.page.evaluate(
        "(root) => [...document.querySelectorAll(`${root} .plot`)].map((plot) => [plot.clientHeight, "
        "Number(plot.firstChild.getAttribute('width')) - plot.clientWidth, "
        "getComputedStyle(plot.querySelector('.line, .bars')).getPropertyValue('--ops-line').trim()])",
        root,
    )
    assert [chart[1:] for chart in charts] == [[0, "#8cc4ff" if theme == "Dark" else "#0b5cad"]] * 4
    assert all(chart[0] >= 120 for chart in charts)
    shown.screenshot(f"live_7_{size[0]}_{theme.lower()}")
