"""Test a postmortem in a browser: nothing overflows, the first screen has the answers, and axe finds nothing."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe

from opslib.desk import Desk
from opslib.foundation.config import settings
from tests.support import demo
from tests.support.lab import browsing
from tests.support.snapshots import CLOSES

pytestmark = [pytest.mark.browser, pytest.mark.slow]

ID = "2026-03-10-2"  # The outage.
SIZES = ((1440, 900), (1280, 800), (3840, 2160), (420, 900))


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the postmortem of the demo's incident."""
    home = tmp_path_factory.mktemp("postmortem")
    demo.laid_out(home)
    desk = Desk(settings.load(home, "demo", {}), lambda: CLOSES + timedelta(minutes=1))
    (home / "postmortem.html").write_text(desk.postmortem(ID).html, encoding="utf-8")
    return home / "postmortem.html"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Open a browser page."""
    with browsing(1440, 900) as (shown, errors):
        yield shown
        assert errors == []


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_accessible_at_every_size(page: Path, browser: Any, theme: str) -> None:
    """Axe finds nothing with everything unfolded, and the page is never wider than its window."""
    browser.emulate_media(color_scheme=theme)
    for width, height in SIZES:
        browser.set_viewport_size({"width": width, "height": height})
        browser.goto(page.as_uri())
        browser.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
        wide = browser.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        found = [(v["id"], v["nodes"][0]["html"][:120]) for v in Axe().run(browser).response["violations"]]
        assert (wide, found) == (0, []), (theme, width)


def test_the_first_screen_has_the_answers(page: Path, browser: Any) -> None:
    """At 1440 × 900 the first screen has the title, cause, what still worked, what to do, and the five times."""
    browser.set_viewport_size({"width": 1440, "height": 900})
    browser.goto(page.as_uri())
    times = ("began 11", "detected 11", "acknowledged 11", "mitigated 11", "resolved 11")
    for words in (
        "Massive returned server errors",
        "Since when:",
        "Whose fault:",
        "Still worked:",
        "First action item:",
        *times,
    ):
        box = browser.get_by_text(words).first.bounding_box()
        assert box and box["y"] + box["height"] < 900, words


def test_a_link_leads_to_the_evidence(page: Path, browser: Any) -> None:
    """A link to an entry opens the folded appendix and shows that entry."""
    browser.goto(page.as_uri())
    link = browser.locator("#actions td a").first
    name = link.inner_text()
    link.click()
    browser.wait_for_function("() => document.querySelector(location.hash).getBoundingClientRect().height > 0")
    assert browser.evaluate("location.hash") == f"#{name}"
