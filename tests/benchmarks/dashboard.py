"""
An update of the live dashboard while every figure changes: bytes on the wire and the kernel's CPU, beside the same told
as HTML with four inline SVG, and as one PNG; and whether 100,000 updates leave anything behind.
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
from opslib.foundation.config import settings
from opslib.simulation.demo_day import replay
from tests.support.snapshots import CLOSES, at

HOUR, UPDATES, MANY, VIEWS = timedelta(hours=1), 60, 100_000, 10
_SESSION = Session(key=b"a" * 36, username="kernel")


def _wire(content: dict[str, Any]) -> int:
    """The bytes of one message to one browser, its header and signature among them."""
    parts = _SESSION.serialize(
        _SESSION.msg("comm_msg", {"comm_id": "0" * 32, "data": {"method": "custom", "content": content}}, parent={})
    )
    return sum(len(part) for part in parts)


def _changing(found: DashboardState, n: int, sentences: bool = True) -> DashboardState:
    """The same with every figure another, and with `sentences` every number in words too: none says what it said."""
    said, at = set[int](), 6
    for panel in found.shape["panels"]:
        said |= set(range(at + 1, at + 1 + live_state.MOST_SENTENCES))
        at += 2 + live_state.MOST_SENTENCES + len(panel["figures"])

    def turn(place):
        return "".join(str((int(c) + n) % 10) if c.isdigit() else c for c in place)

    return DashboardState(
        found.shape,
        tuple(place if i in said and not sentences else turn(place) for i, place in enumerate(found.places)),
    )


def _html(view: Status) -> str:
    """The peer: panels as HTML, each with its line as SVG."""
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
    """The other end, that takes what it is told as bytes and keeps nothing."""

    def send(self, message: dict[str, Any]) -> None:
        _wire(message)


def measure(folder: Path) -> Iterator[dict[str, Any]]:
    """Bytes and CPU milliseconds an update, peers in the same run; megabytes of growth."""
    place = settings.load(folder, "demo", {})
    replay.lay_out(place)
    desk = Desk(place, lambda: CLOSES)
    feed = Feed(desk, HOUR, 5.0)
    views = [feed.view(at(4 * 3600 + 5 * n)) for n in range(UPDATES + 1)]
    sizes, figures_only, real, cpu, seen, reading = [], [], [], [], [], []
    before = was = feed.screen(views[0])
    for n, view in enumerate(views[1:], 1):
        ms, found = _timed(lambda view=view: feed.screen(view))
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
    yield _growth(feed, views[0])


def _growth(feed: Feed, view: Status) -> dict[str, Any]:
    """A hundred thousand updates to ten views, told and forgotten."""
    browsers = [_Browser() for _ in range(VIEWS)]
    for browser in browsers:
        feed._listening.add(browser)
    first = feed.screen(view)
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
        "whole_bytes": len(json.dumps(live_state.whole(view, first))),
    }
