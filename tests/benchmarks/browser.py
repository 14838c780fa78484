"""
Measure the live dashboard in a real browser for half an hour: its share of a core and its JavaScript heap.

One view and ten views are compared with HTML and four SVG, with one PNG, and with an idle JupyterLab. Each variant has
its own browser and kernel; all run in the same minutes. ``BENCH_MINUTES`` shortens it.
"""

import os
import statistics
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).parent.parent.parent
sys.path.insert(0, str(PROJECT / "tests"))  # For the tests' JupyterLab.

from tests.support.lab import IDLE, beside_a_world, launched, notebook, running_lab  # noqa: E402

MINUTES = float(os.environ.get("BENCH_MINUTES", "30"))
EVERY_S, SETTLED_S, STILL_S, MINUTE_S, SPEED = 5, 60, 60, 60.0, 4.0
_PEER = """import threading, time
import ipywidgets
from IPython.display import display
import opslib as ops
from opslib.dashboard.live import _picture
from tests.benchmarks.dashboard import _html

desk = ops.connect("desk")
shown = ipywidgets.{kind}({first})
display(shown)

def go():
    while True:
        view = desk.status(window="10m")
        shown.value = {made}
        time.sleep(5)

threading.Thread(target=go, daemon=True).start()
"""
CELLS = {
    "a JupyterLab in which nothing moves": "1",
    "live, one view": 'import opslib as ops\n\nops.live("desk", window="10m")',
    "live, ten views": (
        "import opslib as ops\nfrom IPython.display import display\n\n"
        'for _ in range(10):\n    display(ops.live("desk", window="10m"))'
    ),
    "HTML with SVG": _PEER.format(kind="HTML", first="", made="_html(view)"),
    "PNG": _PEER.format(kind="Image", first="width=1300", made="_picture(view)"),
}


@dataclass
class Way:
    """One variant, in its own browser."""

    browser: Any
    page: Any
    spent: list[tuple[float, float]] = field(default_factory=list)
    heaps: list[float] = field(default_factory=list)

    def cpu_s(self) -> float:
        """Return the CPU seconds used by all processes of the browser."""
        session = self.browser.new_browser_cdp_session()
        found = session.send("SystemInfo.getProcessInfo")["processInfo"]
        session.detach()
        return float(sum(process["cpuTime"] for process in found))

    def heap_mb(self) -> float:
        """Return the page's JavaScript heap after garbage collection."""
        session = self.page.context.new_cdp_session(self.page)
        session.send("HeapProfiler.collectGarbage")
        used = float(session.send("Runtime.getHeapUsage")["usedSize"]) / 1e6
        session.detach()
        return used


def _share(ways: dict[str, Way], seconds: float, clocked: Any) -> dict[str, float]:
    """Return the percentage of a core that each browser uses over a number of seconds."""
    before = {name: way.cpu_s() for name, way in ways.items()}
    begun = clocked()
    next(iter(ways.values())).page.wait_for_timeout(1000 * seconds)
    passed = clocked() - begun
    return {name: 100 * (way.cpu_s() - before[name]) / passed for name, way in ways.items()}


def measure(folder: Path) -> Iterator[dict[str, Any]]:
    """
    Measure percent of a core while updating, in the busiest second, and paused, and the heap.

    The heap is in MB before, after the first minute, and at the end.
    """
    import time

    from playwright.sync_api import sync_playwright

    home, at, logs = (folder / name for name in ("home", "jupyter", "logs"))
    for made in (home, at, logs):
        made.mkdir()
    for n, cell in enumerate(CELLS.values()):
        notebook(home / f"way{n}.ipynb", cell)
    with (
        beside_a_world(home, logs, SPEED) as (_, environ),
        running_lab(home, at, environ | {"PYTHONPATH": str(PROJECT)}) as (base, token),
        sync_playwright() as playwright,
    ):
        ways = dict[str, Way]()
        for n, name in enumerate(CELLS):
            browser = launched(playwright)
            page = browser.new_page(viewport={"width": 1500, "height": 1150})
            page.set_default_timeout(90_000)
            page.goto(f"{base}/lab/tree/way{n}.ipynb?token={token}")
            page.wait_for_function(IDLE)
            page.wait_for_timeout(3000)
            ways[name] = way = Way(browser, page)
            way.heaps.append(way.heap_mb())
            page.evaluate("() => { void window.jupyterapp.commands.execute('notebook:run-cell') }")
            page.wait_for_function("() => document.querySelector('.jp-OutputArea-output') !== null")
        page.wait_for_timeout(1000 * SETTLED_S)
        for way in ways.values():
            way.heaps.append(way.heap_mb())
        seconds = [_share(ways, 1.0, time.monotonic) for _ in range(4 * EVERY_S)]
        shares = list[dict[str, float]]()
        for _ in range(max(1, round(MINUTES))):
            shares.append(_share(ways, MINUTE_S, time.monotonic))
            for way in ways.values():
                way.heaps.append(way.heap_mb())
        for name, way in ways.items():
            if name.startswith("live"):
                way.page.evaluate(
                    "() => document.querySelectorAll('.ops-live .controls button').forEach((button) => button.click())"
                )
        still = _share(ways, STILL_S, time.monotonic)
        for name, way in ways.items():
            yield {
                "measure": f"browser, {name}",
                "minutes": len(shares),
                "updating_cpu_pct": round(statistics.mean(s[name] for s in shares), 2),
                "busiest_second_cpu_pct": round(max(s[name] for s in seconds), 1),
                "paused_cpu_pct": round(still[name], 2) if name.startswith("live") else None,
                "heap_before_mb": round(way.heaps[0], 1),
                "heap_after_a_minute_mb": round(way.heaps[1], 1),
                "heap_end_mb": round(way.heaps[-1], 1),
                "heap_most_mb": round(max(way.heaps[1:]), 1),
                "widget_mb": round(way.heaps[-1] - way.heaps[0], 1),
                "grown_mb": round(way.heaps[-1] - way.heaps[1], 2),
            }
            way.browser.close()
