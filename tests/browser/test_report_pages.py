"""Test report pages in a browser: accessible, nothing overflows, and the first screen has the answers."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe

from opslib.desk import Desk
from opslib.foundation import templates
from opslib.foundation.config import settings
from opslib.jobs import html_export
from opslib.telemetry.pages.store import SnapshotStore
from tests.support import days
from tests.support.lab import browsing
from tests.support.system import needs

pytestmark = [pytest.mark.browser, pytest.mark.slow]

SIZES = ((1440, 900), (1280, 800), (3840, 2160), (420, 900))


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Write a page with the parts of the daily report, and one with those of the weekly report."""
    home = tmp_path_factory.mktemp("home")
    desk = Desk(settings.load(home, "desk", {}))
    SnapshotStore(desk.store).write("desk", days.posts(), known_at_ts=True)
    daily, weekly = desk.daily_report(days.DAY), desk.review("weekly", "2026-W11", days.at("16:01"))
    parts = {
        "daily": [
            *(block.html for block in (daily.first_screen, daily.actions_list, daily.issues_list)),
            *(daily.panel(name)._repr_mimebundle_()["text/html"] for name in ("providers", "system")),
            daily.changes_table.html,
        ],
        "weekly": [
            b.html for b in (weekly.headline, weekly.trends, weekly.summary, weekly.by_day, weekly.alerts_table)
        ],
    }
    for name, found in parts.items():
        body = "".join([f"<h1>{name.title()} monitoring report</h1><p>For traders.</p>", *found])
        page = templates.render("jobs/templates/page.html", policy=html_export.POLICY, title=name, body=body)
        (home / f"{name}.html").write_text(page, encoding="utf-8")
    return {name: home / f"{name}.html" for name in parts}


@pytest.fixture(scope="module")
def shown() -> Iterator[Any]:
    """Open one browser page for all tests."""
    needs("chromium")
    with browsing() as (page, problems):
        yield page
        assert problems == []


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("name", ["daily", "weekly"])
def test_accessible_at_every_size(pages: dict[str, Path], shown: Any, name: str, theme: str) -> None:
    """Axe finds nothing, the page is never wider than its window, and no row of the chart is cut off."""
    shown.emulate_media(color_scheme=theme)
    for width, height in SIZES:
        shown.set_viewport_size({"width": width, "height": height})
        shown.goto(pages[name].as_uri())
        wide = shown.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        found = [(v["id"], v["nodes"][0]["html"][:120]) for v in Axe().run(shown).response["violations"]]
        assert (wide, found) == (0, []), (name, theme, width)
        cut = shown.evaluate(
            "() => [...document.querySelectorAll('.ops-timeline')].filter(f => f.scrollWidth > f.clientWidth + 1)"
            ".length"
        )
        assert cut == 0, (name, theme, width)


def test_the_first_screen_of_the_daily_report(pages: dict[str, Path], shown: Any) -> None:
    """
    At 1440 × 900 the answer, the six figures and the whole chart are visible without scrolling, and nothing is cut off.
    """
    shown.set_viewport_size({"width": 1440, "height": 900})
    shown.goto(pages["daily"].as_uri())
    assert shown.locator(".ops-figure").count() == 6
    chart = shown.locator(".ops-timeline").bounding_box()
    assert chart is not None and chart["y"] + chart["height"] <= 900
    cut = shown.evaluate(
        "() => [...document.querySelectorAll('.ops-value')].filter(v => v.scrollWidth > v.clientWidth + 1)"
        ".map(v => v.textContent)"
    )
    assert cut == []
    bars, track = shown.locator(".ops-bar"), shown.locator("tbody .ops-track").first.bounding_box()
    places = [bars.nth(i).bounding_box() for i in range(bars.count())]
    assert len(places) > 5 and track is not None
    assert all(
        b and track["x"] - 1 <= b["x"] and b["x"] + b["width"] <= track["x"] + track["width"] + 4 for b in places
    )


def test_ok_sentences_are_folded(pages: dict[str, Path], shown: Any) -> None:
    """The sentences of a panel that are ok are hidden until unfolded, also with the keyboard."""
    shown.goto(pages["daily"].as_uri())
    folded = shown.get_by_text("ok: availability of tradier")
    assert not folded.is_visible()
    shown.locator("details.ops-fold summary", has_text=" ok").first.focus()
    shown.keyboard.press("Enter")
    assert folded.is_visible()


def test_numbers_do_not_wrap(pages: dict[str, Path], shown: Any) -> None:
    """In the table of days each figure is on one line; a wide table scrolls inside itself."""
    shown.set_viewport_size({"width": 420, "height": 900})
    shown.goto(pages["weekly"].as_uri())
    lines = shown.evaluate(
        """() => [...document.querySelectorAll('td.ops-short')].filter(c => c.textContent.trim()).map(cell => {
            const text = document.createRange()
            text.selectNodeContents(cell)
            return text.getClientRects().length
        })"""
    )
    assert lines and set(lines) == {1}
    assert shown.evaluate("Math.max(...[...document.querySelectorAll('tbody tr')].map(r => r.offsetHeight))") < 200
