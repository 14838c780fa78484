"""
The dashboard's part in the browser by itself, told what a kernel would tell it: what it does with a message that was
missed, a kernel that falls silent, text from outside, days of updates.
"""

import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from opslib.dashboard import live, live_state
from opslib.dashboard.live import Feed
from opslib.desk import Desk
from tests.support import demo
from tests.support.lab import browsing
from tests.support.snapshots import CLOSES, OPENS
from tests.support.system import needs

pytestmark = [pytest.mark.browser, pytest.mark.slow]

HERE = live.HERE
AT = OPENS + timedelta(hours=2)
MODEL = """async ([code, style, whole]) => {
    document.head.append(Object.assign(document.createElement('style'), { textContent: style }));
    const module = await import(URL.createObjectURL(new Blob([code], { type: 'text/javascript' })));
    const listening = new Set();
    window.asked = [];
    const model = { get: (name) => ({ whole, every_s: 5 })[name], send: (said) => window.asked.push(said), on: (_, \
what) => listening.add(what), off: (_, what) => listening.delete(what) };
    window.tell = (message) => listening.forEach((what) => what(message));
    window.end = module.default.render({ model, el: document.body.appendChild(document.createElement('div')) });
    window.listening = listening;
}"""


@pytest.fixture(scope="module")
def feed(tmp_path_factory: pytest.TempPathFactory) -> Feed:
    """The demo's, at the end of its day."""
    return Feed(Desk(demo.laid_out(tmp_path_factory.mktemp("page")), lambda: CLOSES), timedelta(hours=1), 5.0)


@pytest.fixture
def page(feed: Feed) -> Iterator[Any]:
    """A page that shows one moment, its clock in the test's hands."""
    needs("chromium")
    view = feed.view(AT)
    with browsing(1200, 900) as (shown, problems):
        shown.set_content("<body></body>")
        shown.clock.install()
        shown.evaluate(
            MODEL,
            [
                (HERE / "live.js").read_text(),
                (HERE / "live.css").read_text(),
                json.loads(json.dumps(live_state.whole(view, feed.screen(view)))),
            ],
        )
        shown.evaluate(
            "(message) => window.tell(message)",
            {"whole": live_state.whole(view, feed.screen(view)), "range": [OPENS.timestamp(), AT.timestamp()], "n": 7},
        )
        yield shown
        assert problems == []


def tell(page: Any, **message: Any) -> None:
    page.evaluate("(message) => window.tell(message)", message)


def change(feed: Feed, seconds: int) -> str:
    """What is another so many seconds after the moment that is shown."""
    found = feed.screen(feed.view(AT + timedelta(seconds=seconds))).after(feed.screen(feed.view(AT)))
    assert found is not None
    return found


def badge(page: Any) -> str:
    return str(page.locator(".badge").inner_text())


def test_a_missed_message_is_noticed(page: Any, feed: Feed) -> None:
    """The next in turn is shown; one out of turn is not, and all of it is asked for."""
    tell(page, change=change(feed, 5), n=8)
    assert page.locator(".moment").inner_text().startswith("11:30:05 New York")
    page.evaluate("() => { window.asked = [] }")
    tell(page, change=change(feed, 5), n=10)
    assert [said["do"] for said in page.evaluate("() => window.asked")] == ["all"] and page.locator(
        ".moment"
    ).inner_text().startswith("11:30:05")


def test_it_begins_where_it_was_told_to(page: Any, feed: Feed) -> None:
    """
    The first question is the only one that says so; a past moment has its way back to now, which holds when something
    is missed later.
    """
    assert [said.get("first") for said in page.evaluate("() => window.asked")] == [True]
    view = feed.view(AT - timedelta(hours=1))
    tell(page, whole=json.loads(json.dumps(live_state.whole(view, feed.screen(view)))), past=True)
    assert badge(page) == "as of then" and page.locator(".moment").inner_text().startswith("10:30:00")
    tell(page, change=change(feed, 5), n=8)
    assert page.locator(".moment").inner_text().startswith("10:30:00")
    page.get_by_role("button", name="Back to now").click()
    assert page.locator(".moment").inner_text().startswith("11:30:05") and badge(page) == "live"


def test_silence_is_said_and_ends_by_itself(page: Any, feed: Feed) -> None:
    """
    A kernel that is restarted, a laptop that slept: what is shown is marked as old, and is live again with the next
    word.
    """
    assert badge(page) == "live"
    page.clock.fast_forward(60_000)
    page.clock.run_for(2_000)
    assert (
        badge(page).startswith("nothing heard for 6")
        and "busy, asleep or gone" in badge(page)
        and page.locator(".ops-live.stale").count() == 1
    )
    tell(page, change=change(feed, 5), n=8)
    assert badge(page) == "live" and page.locator(".ops-live.stale").count() == 0


def test_trouble_is_said_and_goes(page: Any, feed: Feed) -> None:
    """A store that cannot be read is said in words, what was seen stays, and the words go with the next look."""
    tell(page, trouble="not up to date: the store is locked; try again.")
    assert "store is locked" in page.locator(".told").inner_text() and page.locator(".panel").count() == 4
    tell(page, change=change(feed, 5), n=8)
    assert page.locator(".told").inner_text() == ""


def test_text_from_outside_is_text(page: Any, feed: Feed) -> None:
    """Markup in a sentence, an alert or an answer is shown as it stands, and does nothing."""
    places = list(feed.screen(feed.view(AT)).places)
    evil = "<img src=x onerror='window.burnt=1'><script>window.burnt=1</script>"
    alert = "\t".join(["id", "critical", "firing", "11:00:00", evil, "massive_down", evil])
    told = [""] * len(places)
    told[5], told[7] = alert, evil
    tell(page, change="|".join(told), n=8)
    tell(page, said=evil, link="home/x.ipynb")
    page.clock.run_for(100)
    assert page.evaluate("() => window.burnt") is None and page.locator("img, .ops-live script").count() == 0
    assert (
        page.locator(".panel li").first.inner_text() == evil
        and evil in page.locator(".alerts button").first.inner_text()
    )
    assert page.locator(".told a").get_attribute("href") == "/lab/tree/home/x.ipynb"


def test_it_can_be_used_without_a_mouse(page: Any) -> None:
    """
    Every button and figure is reached by the Tab key, the first is Pause, and Enter presses it; a figure says its
    window, its count and its limits.
    """
    page.keyboard.press("Tab")
    assert page.evaluate("() => document.activeElement.textContent") == "Pause"
    page.keyboard.press("Enter")
    assert badge(page) == "paused, 0 updates behind"
    reached = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.add(
            page.evaluate(
                "() => document.activeElement.dataset.figure ?? document.activeElement.ariaLabel ?? "
                "document.activeElement.textContent"
            )
        )
    assert {
        "massive availability",
        "valid Greeks",
        "errors",
        "backtest variance",
        "moment that is shown",
        "Missed data",
        "Data Provider Health",
    } <= reached
    cell = page.locator("td[data-figure='massive availability']")
    cell.focus()
    assert "in 1 h, of" in cell.get_attribute("title") and "warning < 99.0 %" in cell.get_attribute("title")


def test_days_of_updates_leave_nothing_behind(page: Any, feed: Feed) -> None:
    """
    Five thousand updates, a long day of them every five seconds, in which each figure changes: the heap stays flat and
    small, a line holds a thousand points, and an update costs little.
    """
    first = feed.screen(feed.view(AT))
    a, b = (feed.screen(feed.view(AT + timedelta(minutes=m))) for m in (10, 20))
    there, back = b.after(a), a.after(b)
    session = page.context.new_cdp_session(page)

    def heap_mb() -> float:
        session.send("HeapProfiler.collectGarbage")
        return float(session.send("Runtime.getHeapUsage")["usedSize"]) / 1e6

    run = """async ([there, back, from, upto]) => {
        const begun = Date.now();
        for (let n = from; n < upto; n += 1) window.tell({ change: n % 2 ? there : back, n });
        return Date.now() - begun;
    }"""
    assert there and back and len(first.places) == len(a.places)
    page.clock.resume()
    page.evaluate(run, [there, back, 8, 1008])
    before = heap_mb()
    took_ms = page.evaluate(run, [there, back, 1008, 6008])
    grown = heap_mb() - before
    print(f"heap {before:.1f} MB, grown by {grown:.2f} MB; {took_ms / 5_000:.2f} ms an update")
    assert before < 50 and grown < 2 and took_ms / 5_000 < 750  # Of five seconds, 15 % of a core.
    page.evaluate("() => window.end()")
    assert page.evaluate("() => window.listening.size") == 0
