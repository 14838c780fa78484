"""Test the page of an incident in a browser: nothing is cut off, no labels overlap, and axe finds nothing."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from opslib.desk import Desk
from opslib.foundation import time_parsing
from opslib.foundation.config import settings
from opslib.runbooks import incident_page
from tests.support import demo
from tests.support.lab import browsing
from tests.support.published import problems
from tests.support.snapshots import CLOSES

pytestmark = [pytest.mark.browser, pytest.mark.slow]

ID = "2026-03-10-2"
# Pairs of labels whose boxes overlap by more than a rounding error.
OVERLAPS = """() => {
    const boxes = [...document.querySelectorAll('.ops-timeline text')].map(t => [t.textContent, t.getBBox()]);
    const found = [];
    boxes.forEach(([a, p], i) => boxes.slice(i + 1).forEach(([b, q]) => {
        const wide = Math.min(p.x + p.width, q.x + q.width) - Math.max(p.x, q.x);
        const high = Math.min(p.y + p.height, q.y + q.height) - Math.max(p.y, q.y);
        if (wide > 1 && high > 3) found.push(`${a} | ${b}`);
    }));
    const picture = document.querySelector('.ops-timeline').viewBox.baseVal;
    boxes.forEach(([a, p]) => { if (p.x < 0 || p.x + p.width > picture.width) found.push(`cut off: ${a}`) });
    return found;
}"""


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return the page of the demo's incident while it was open, while it was mitigated, and once it was resolved."""
    home = tmp_path_factory.mktemp("incident")
    demo.laid_out(home)
    found = {}
    for name, at in (
        ("open", time_parsing.parse("2026-03-10T15:27:00Z")),
        ("mitigated", time_parsing.parse("2026-03-10T15:34:00Z")),
        ("resolved", CLOSES + timedelta(minutes=1)),
    ):
        desk = Desk(settings.load(home, "demo", {}), lambda at=at: at)  # type: ignore[misc]
        found[name] = home / f"{name}.html"
        found[name].write_text(incident_page.render(desk, desk.incidents.read(ID, at)), encoding="utf-8")
    return found


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Open a browser page."""
    with browsing(1440, 900) as (page, errors):
        yield page
        assert errors == []


@pytest.mark.parametrize("name", ["open", "mitigated", "resolved"])
def test_labels_do_not_overlap(pages: dict[str, Path], browser: Any, name: str) -> None:
    """No labels of the timeline overlap, and none is cut off."""
    browser.goto(pages[name].as_uri())
    assert browser.evaluate(OVERLAPS) == []


def test_the_first_screen_has_the_answers(pages: dict[str, Path], browser: Any) -> None:
    """
    At 1440 × 900 the first screen has the problem, its beginning and owner, what works, what to do, and the times.
    """
    browser.set_viewport_size({"width": 1440, "height": 900})
    browser.goto(pages["open"].as_uri())
    for words in ("Massive returns server errors", "began 11:2", "Fault: Massive", "option data from Tradier", "began"):
        box = browser.get_by_text(words).first.bounding_box()
        assert box and box["y"] + box["height"] < 900, words
    assert browser.locator(".cards section").nth(2).bounding_box()["y"] < 500
    assert "runbook resume" in browser.locator(".cards section").nth(2).inner_text()


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("size", [(1280, 800), (3840, 2160), (420, 900)], ids=lambda s: str(s[0]))
def test_it_fits_and_is_accessible(pages: dict[str, Path], browser: Any, size: tuple[int, int], theme: str) -> None:
    """In each size and theme the page does not scroll sideways, and axe finds nothing, with everything unfolded."""
    from axe_playwright_python.sync_playwright import Axe

    browser.emulate_media(color_scheme=theme)
    browser.set_viewport_size({"width": size[0], "height": size[1]})
    browser.goto(pages["resolved"].as_uri())
    browser.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true })")
    assert browser.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    found = Axe().run(browser).response["violations"]
    assert found == [], [(v["id"], [n["html"][:160] for n in v["nodes"]][:3]) for v in found]


@pytest.mark.parametrize("name", ["open", "mitigated", "resolved"])
def test_no_source_is_shown(pages: dict[str, Path], name: str) -> None:
    """The page shows no Markdown or HTML source as text."""
    assert problems(pages[name].read_text(encoding="utf-8")) == []
