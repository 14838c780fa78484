"""
Measure an update of the live dashboard while every figure changes: bytes and the kernel's CPU time.

The peers are HTML with four inline SVG, and one PNG. It also measures whether 100,000 updates leave anything in memory.
"""

import base64
import json
import statistics
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
from jupyter_client.session import Session

from opslib.dashboard import live_state
from opslib.dashboard.live import Feed, _picture
from opslib.dashboard.live_state import DashboardState
from opslib.dashboard.status import Status
from opslib.desk import Desk
from opslib.foundation import clock
from opslib.foundation.config import settings
from opslib.foundation.config.settings import Settings
from opslib.simulation.demo_day import replay
from tests.support.growing import Growing
from tests.support.snapshots import CLOSES, at

HOUR, UPDATES, MANY, VIEWS = timedelta(hours=1), 60, 100_000, 10
_SESSION = Session(key=b"a" * 36, username="kernel")


def _wire(content: dict[str, Any]) -> int:
    """Return the bytes of one message to one browser, with its header and signature."""
    parts = _SESSION.serialize(
        _SESSION.msg("comm_msg", {"comm_id": "0" * 32, "data": {"method": "custom", "content": content}}, parent={})
    )
    return sum(len(part) for part in parts)


def _changing(found: DashboardState, n: int, sentences: bool = True) -> DashboardState:
    """Return the state with every figure changed, and with `sentences` also every number in the texts."""
    said = {
        live_state.HEAD.index(name)
        for name in ("alerts", "since", "cause", "first", "works", "owner", "markers", "gaps")
    }
    at = len(live_state.HEAD)
    for panel in found.shape["panels"]:
        values = sum(len(key["values"]) for key in panel["keys"])
        after = at + 2 + len(panel["figures"]) + values + len(panel["keys"]) + 2
        said |= {at + 1, after - 1, *range(after - 2 - len(panel["keys"]), after - 2)}  # Reason, bands, thresholds.
        at = after

    def turn(place):
        return "".join(str((int(c) + n) % 10) if c.isdigit() else c for c in place)

    return DashboardState(
        found.shape,
        tuple(place if i in said and not sentences else turn(place) for i, place in enumerate(found.places)),
    )


def _html(view: Status) -> str:
    """Return the peer: panels as HTML, each with its line as SVG."""
    parts = []
    for panel in view.panels:
        points = " ".join(f"{x},{90 - (value or 0) % 90:.1f}" for x, value in live_state.line(view, panel.name))
        parts.append(
            f"{panel._html()}<svg viewBox='0 0 120 90'><polyline fill='none' stroke='#0b5cad' points='{points}'/></svg>"
        )
    return "".join(parts)


def _timed(what: Callable[[], Any]) -> tuple[float, Any]:
    begun = time.process_time()
    found = what()
    return 1000 * (time.process_time() - begun), found


class _Browser:
    """A receiver that serialises messages and keeps nothing."""

    sent = 0

    def send(self, message: dict[str, Any]) -> None:
        self.sent += 1
        _wire(message)


def measure(folder: Path) -> Iterator[dict[str, Any]]:
    """Measure bytes and CPU milliseconds per update, peers in the same run, and growth in megabytes."""
    place = settings.load(folder, "demo", {})
    replay.create_home(place)
    desk = Desk(place, lambda: CLOSES)
    feed = Feed(desk, HOUR, 5.0)
    views = [feed.view(at(4 * 3600 + 5 * n)) for n in range(UPDATES + 1)]
    sizes, figures_only, real, cpu, seen, reading = [], [], [], [], [], []
    before = was = feed.state_of(views[0])
    for n, view in enumerate(views[1:], 1):
        ms, found = _timed(lambda view=view: feed.state_of(view))
        seen.append(ms)
        real.append(_wire({"change": found.after(was), "n": n}))
        was = found
        figures_only.append(_wire({"change": _changing(found, n, False).after(_changing(found, n - 1, False)), "n": n}))
        other = _changing(found, n)
        change_ms, size = _timed(lambda other=other, before=before, n=n: _wire({"change": other.after(before), "n": n}))
        before = other
        sizes.append(size)
        cpu.append(change_ms)
        reading.append(_timed(lambda n=n: feed.view(at(4 * 3600 + 5 * n)).alerts)[0])
    html_ms, html = zip(*(_timed(lambda view=view: _wire({"html": _html(view)})) for view in views[1:11]))
    png_ms, png = zip(
        *(
            _timed(lambda: _wire({"png": base64.b64encode(_picture(feed.view(at(4 * 3600)))).decode()}))
            for _ in range(3)
        )
    )
    figures = sum(len(panel["figures"]) for panel in before.shape["panels"])
    yield {
        "measure": "dashboard, bytes an update, every figure changing",
        "figures": figures,
        "p50": statistics.median(figures_only),
        "max": max(figures_only),
        "with_every_sentence_p50": statistics.median(sizes),
        "with_every_sentence_max": max(sizes),
        "as_it_comes_p50": statistics.median(real),
        "as_it_comes_max": max(real),
        "html_svg": statistics.median(html),
        "png": statistics.median(png),
        "ratio_html": round(statistics.median(html) / statistics.median(figures_only), 1),
        "ratio_png": round(statistics.median(png) / statistics.median(figures_only), 1),
    }
    yield {
        "measure": "dashboard, kernel CPU ms an update: what changed, to the wire",
        "p50": round(statistics.median(cpu), 2),
        "max": round(max(cpu), 2),
        "what_stands_there": round(statistics.median(seen), 2),
        "reading_the_store": round(statistics.median(reading), 1),
        "html_svg": round(statistics.median(html_ms), 1),
        "png": round(statistics.median(png_ms), 1),
    }
    yield _updates(place, folder / "growing")
    yield _growth(feed, views[0])


def _updates(source: Settings, home: Path) -> dict[str, Any]:
    """Measure whole updates, from the database to the wire, while the demo's day is written row by row."""
    times = [at(4 * 3600 + 122 + 5 * n) for n in range(2 * UPDATES + 1)]
    desk = Desk(settings.load(home, "demo", {}), lambda: clock.instant(growing.at_us))
    growing = Growing(source, desk.store, clock.micros(times[0]))
    feed = Feed(desk, HOUR, 5.0)
    feed._listening.add(browser := _Browser())
    feed.broadcast_changes()
    took, afresh = [], []
    for n, now in enumerate(times[1:]):
        growing.until(clock.micros(now))
        took.append(_timed(feed.broadcast_changes)[0])
        if n % 10 == 0:
            afresh.append(_timed(lambda now=now: feed.state_of(feed.view(now)))[0])
    assert browser.sent == len(took) + 1
    return {
        "measure": "dashboard, kernel CPU ms an update: the database to the wire, new rows each time",
        "p50": round(statistics.median(took), 1),
        "mean": round(statistics.mean(took), 1),
        "max": round(max(took), 1),
        "everything_read_p50": round(statistics.median(afresh), 1),
    }


def _growth(feed: Feed, view: Status) -> dict[str, Any]:
    """Send 100,000 updates to ten views; return the growth of memory."""
    browsers = [_Browser() for _ in range(VIEWS)]
    for browser in browsers:
        feed._listening.add(browser)
    first = feed.state_of(view)
    turned = [_changing(first, n) for n in range(10)]

    def rss():
        return psutil.Process().memory_info().rss / 1e6

    for n in range(MANY // 100):
        feed._send({"change": turned[n % 10].after(turned[(n - 1) % 10]), "n": n})
    before, begun = rss(), time.process_time()
    for n in range(MANY // VIEWS):
        feed._send({"change": turned[n % 10].after(turned[(n - 1) % 10]), "n": n})
    return {
        "measure": f"dashboard, growth over {MANY:,} updates ({MANY // VIEWS:,} to each of {VIEWS} views), MB",
        "growth_mb": round(rss() - before, 2),
        "cpu_ms_each": round(1000 * (time.process_time() - begun) / MANY, 3),
        "whole_bytes": len(json.dumps(live_state.full_state(view, first))),
    }
