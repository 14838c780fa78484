"""
Test the dashboard's browser part alone, with the messages that a kernel would send.

It covers missed messages, a kernel that stops sending, text from outside, and days of updates.
"""

import json
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from opslib.dashboard import live, live_state
from opslib.dashboard.live import Feed
from opslib.desk import Desk
from opslib.foundation.formatting import NEW_YORK
from opslib.runbooks import diagnose
from tests.support import demo
from tests.support.lab import browsing
from tests.support.snapshots import CLOSES, OPENS
from tests.support.system import needs

pytestmark = [pytest.mark.browser, pytest.mark.slow]

HERE = live.HERE
AT = OPENS + timedelta(hours=2)
MODEL = """async ([code, style, whole, read_only = false]) => {
    document.head.append(Object.assign(document.createElement('style'), { textContent: style }));
    const module = await import(URL.createObjectURL(new Blob([code], { type: 'text/javascript' })));
    const listening = new Set();
    window.asked = [];
    const model = { get: (name) => ({ whole, every_s: 5, read_only })[name], send: (sent) => window.asked.push(sent), \
on: (_, what) => listening.add(what), off: (_, what) => listening.delete(what) };
    window.send = (message) => listening.forEach((what) => what(message));
    window.end = module.default.render({ model, el: document.body.appendChild(document.createElement('div')) });
    window.listening = listening;
}"""


@pytest.fixture(scope="module")
def feed(tmp_path_factory: pytest.TempPathFactory) -> Feed:
    """Return the feed of the demo at the end of its day."""
    desk = Desk(demo.laid_out(tmp_path_factory.mktemp("page")), lambda: CLOSES)
    return Feed(desk, timedelta(hours=1), 5.0, None, diagnose)


@pytest.fixture
def page(feed: Feed) -> Iterator[Any]:
    """Open a page that shows one moment, with a clock controlled by the test."""
    needs("chromium")
    view = feed.view(AT)
    with browsing(1200, 900) as (shown, problems):
        shown.set_content("<body></body>")
        shown.clock.install()
        shown.evaluate(
            MODEL,
            [
                (HERE / "live.js").read_text(),
                live.style(),
                json.loads(json.dumps(live_state.full_state(view, feed.state_of(view)))),
            ],
        )
        shown.evaluate(
            "(message) => window.send(message)",
            {
                "whole": live_state.full_state(view, feed.state_of(view)),
                "range": [OPENS.timestamp(), AT.timestamp()],
                "n": 7,
            },
        )
        yield shown
        assert problems == []


def tell(page: Any, **message: Any) -> None:
    page.evaluate("(message) => window.send(message)", message)


def change(feed: Feed, seconds: int) -> str:
    """Return the message of a change, a number of seconds after the shown moment."""
    found = feed.state_of(feed.view(AT + timedelta(seconds=seconds))).after(feed.state_of(feed.view(AT)))
    assert found is not None
    return found


def not_acknowledged(feed: Feed) -> str:
    """Return the message of a change after which nobody has acknowledged an alert."""
    found, slot = feed.state_of(feed.view(AT)), live_state.HEAD.index("alerts")
    values = [""] * len(found.places)
    values[slot] = "\n".join("\t".join([*row.split("\t")[:5], ""]) for row in found.places[slot].splitlines())
    return "|".join(values)


def badge(page: Any) -> str:
    return str(page.locator(".badge").inner_text())


def test_a_missed_message_is_detected(page: Any, feed: Feed) -> None:
    """The next message in order is shown; after a gap the page requests the whole state."""
    tell(page, change=change(feed, 5), n=8)
    assert page.locator(".moment").inner_text().startswith("11:30:05 New York")
    page.evaluate("() => { window.asked = [] }")
    tell(page, change=change(feed, 5), n=10)
    assert [said["do"] for said in page.evaluate("() => window.asked")] == ["all"] and page.locator(
        ".moment"
    ).inner_text().startswith("11:30:05")


def test_only_the_first_request_has_the_initial_moment(page: Any, feed: Feed) -> None:
    """
    Only the first request has the initial moment; a past moment has a button back to now.

    The button still works after a missed message.
    """
    assert [said.get("first") for said in page.evaluate("() => window.asked")] == [True]
    view = feed.view(AT - timedelta(hours=1))
    tell(page, whole=json.loads(json.dumps(live_state.full_state(view, feed.state_of(view)))), past=True)
    assert badge(page) == "past moment" and page.locator(".moment").inner_text().startswith("10:30:00")
    tell(page, change=change(feed, 5), n=8)
    assert page.locator(".moment").inner_text().startswith("10:30:00")
    page.get_by_role("button", name="Back to now").click()
    assert page.locator(".moment").inner_text().startswith("11:30:05") and badge(page) == "live"


def test_missing_updates_are_reported(page: Any, feed: Feed) -> None:
    """
    Without messages the view is marked as old; with the next message it is live again.

    This covers a restarted kernel and a suspended laptop.
    """
    assert badge(page) == "live"
    page.clock.fast_forward(60_000)
    page.clock.run_for(2_000)
    assert (
        badge(page).startswith("no update for 6")
        and "busy, suspended or stopped" in badge(page)
        and page.locator(".ops-live.stale").count() == 1
    )
    tell(page, change=change(feed, 5), n=8)
    assert badge(page) == "live" and page.locator(".ops-live.stale").count() == 0


def test_an_unreadable_database_is_reported(page: Any, feed: Feed) -> None:
    """
    If the database cannot be read, this is shown and the figures stay; with the next update the message disappears.
    """
    tell(page, error="not up to date: the store is locked; try again.")
    assert "store is locked" in page.locator(".message").inner_text() and page.locator(".panel").count() == 4
    tell(page, change=change(feed, 5), n=8)
    assert page.locator(".message").inner_text() == ""


def test_text_from_outside_is_escaped(page: Any, feed: Feed) -> None:
    """Markup in a sentence, an alert or an answer is shown as text."""
    found = feed.state_of(feed.view(AT))
    evil = "<img src=x onerror='window.burnt=1'><script>window.burnt=1</script>"
    values = [""] * len(found.places)
    values[live_state.HEAD.index("alerts")] = "\t".join(
        ["id", "critical", "critical since 11:00 New York", evil, "massive_down", evil]
    )
    for name in ("since", "cause", "first", "works", "owner"):
        values[live_state.HEAD.index(name)] = evil
    values[live_state.HEAD.index("markers")] = f"{live_state.line(feed.view(AT), 'system')[60][0]}\t{evil}"
    values[len(live_state.HEAD) + 1] = evil
    tell(page, change="|".join(values), n=8)
    page.locator(".panel summary").first.click()
    tell(page, sentences=[evil], panel="providers")
    tell(page, text=evil, link="home/x.ipynb")
    page.clock.run_for(100)
    assert page.evaluate("() => window.burnt") is None and page.locator("img, .ops-live script").count() == 0
    page.locator("header summary").click()
    for where in (
        ".sentences li",
        ".alerts button",
        ".cause",
        ".first",
        ".works",
        ".owner",
        ".since",
        ".reason",
        ".message",
    ):
        assert evil in page.locator(where).first.inner_text(), where
    assert page.locator(".plot text", has_text=evil).count() == 4
    assert page.locator(".message a").get_attribute("href") == "/lab/tree/home/x.ipynb"


def test_it_can_be_used_without_a_mouse(page: Any, feed: Feed) -> None:
    """
    The Tab key reaches every button, chart and figure, also unfolded ones; Enter activates a button.

    A figure announces its window, count and limits.
    """

    def tabbed(presses: int) -> set[str]:
        reached = set()
        for _ in range(presses):
            page.keyboard.press("Tab")
            reached.add(
                page.evaluate(
                    "() => document.activeElement.dataset.figure ?? document.activeElement.ariaLabel ?? "
                    "document.activeElement.textContent"
                )
            )
        return reached

    tell(page, change=not_acknowledged(feed), n=8)
    page.locator(".controls button").focus()
    page.keyboard.press("Enter")
    assert badge(page) == "paused, 0 updates behind"
    for summary in page.locator(".panel summary").all():
        summary.focus()
        page.keyboard.press("Enter")
    page.evaluate("() => document.activeElement.blur()")
    assert {
        "Resume",
        "Open runbook",
        "Acknowledge",
        "your name, to acknowledge",
        "massive availability",
        "valid Greeks",
        "errors",
        "backtest variance",
        "Errors over the past 1 h, app page, per h: value at a moment",
        "moment that is shown",
        "Missed data",
        "Data Provider Health",
    } <= tabbed(80)
    cell = page.locator("td[data-figure='massive availability']")
    cell.focus()
    assert "in 1 h, of" in cell.get_attribute("title") and "warning < 99.0 %" in cell.get_attribute("title")


def test_details_stay_open(page: Any, feed: Feed) -> None:
    """
    An unfolded section requests its details with every update, and stays unfolded, also if everything is sent again.
    """
    page.locator("[data-panel=greeks] summary").click()
    until = time.monotonic() + 30
    while page.evaluate("() => window.asked.at(-1).do") != "sentences" and time.monotonic() < until:
        page.wait_for_timeout(50)  # The browser reports an unfolded section a moment after the click.
    assert page.evaluate("() => window.asked.at(-1)") | {"view": ""} == {
        "do": "sentences",
        "panel": "greeks",
        "at": "2026-03-10T15:30:00.000Z",
        "view": "",
    }
    tell(page, change=change(feed, 5), n=8)
    assert page.evaluate("() => window.asked.at(-1).at") == "2026-03-10T15:30:05.000Z"
    tell(page, sentences=["critical: it is so.", "ok: well"], panel="greeks")
    assert page.locator("[data-panel=greeks] .sentences li").all_inner_texts() == ["critical: it is so.", "ok: well"]
    view = feed.view(AT)
    whole = json.loads(json.dumps(live_state.full_state(view, feed.state_of(view))))
    whole["shape"]["window"] = "another"
    tell(page, whole=whole, n=9)
    assert [fold.get_attribute("open") is not None for fold in page.locator(".panel details").all()] == [
        False,
        True,
        False,
        False,
    ]


def test_all_charts_show_the_value_at_one_moment(page: Any, feed: Feed) -> None:
    """By pointer and arrow keys all charts show their values at one moment, as they were sent; Escape ends it."""
    view = feed.view(AT)
    lines = [dict(live_state.line(view, name)) for name in ("providers", "greeks", "pnl", "system")]
    units = ["%", "%", "%", "per h"]

    def wanted(back: int) -> list[str]:
        newest = max(lines[0])
        values = [line[newest - back] for line in lines]
        at = f"{(AT - timedelta(seconds=30 * (back + 1))).astimezone(NEW_YORK):%H:%M:%S}"
        return [f"{at}  {'no data' if v is None else f'{v:g} {unit}'}" for v, unit in zip(values, units)]

    plots = page.locator(".plot")
    plots.nth(3).focus()
    for _ in range(3):
        page.keyboard.press("ArrowLeft")
    assert page.locator(".reading").all_text_contents() == wanted(2)
    assert plots.nth(0).get_attribute("aria-valuetext") == wanted(2)[0]
    page.keyboard.press("Home")
    assert page.locator(".reading").all_text_contents() == wanted(119)
    page.keyboard.press("Escape")
    assert page.locator(".reading").all_text_contents() == [""] * 4
    box = plots.nth(0).bounding_box()
    newest = page.locator(".plot").nth(0).locator(".cursor")
    page.mouse.move(box["x"] + box["width"] - 9.2 * 12 - 1, box["y"] + 50)
    assert page.locator(".reading").all_text_contents() == wanted(0) and newest.get_attribute("visibility") == "visible"


def test_a_chart_shows_events(page: Any, feed: Feed) -> None:
    """
    A chart has a time axis, named thresholds, an alert's start, a deployment and a gap; that of P&L includes zero.
    """
    texts = page.locator("[data-panel=providers] .plot text").all_text_contents()
    assert {"10:40", "11:20", "100 %", "0 %", "critical 95.0 %", "◆ critical"} <= set(texts)
    band = page.locator("[data-panel=providers] .band.is-critical").bounding_box()
    plot = page.locator("[data-panel=providers] .plot").bounding_box()
    assert plot["height"] >= 120
    # The alert has fired since 11:22, eight of sixty minutes; the plot has margins of 3.6 and 9.2 em of 12 px.
    assert abs(band["width"] - (plot["width"] - 12.8 * 12) * 8 / 60) < 8
    zero = page.locator("[data-panel=pnl] .plot .zero").first.bounding_box()
    bars = page.locator("[data-panel=pnl] .bars").bounding_box()
    assert bars["y"] < zero["y"] < bars["y"] + bars["height"]
    found = feed.state_of(feed.view(AT))
    values, at = [""] * len(found.places), live_state.line(feed.view(AT), "system")[60][0]
    values[live_state.HEAD.index("markers")] = f"{at}\tdeploy: v2.3"
    values[live_state.HEAD.index("gaps")] = f"{at + 5}\t{at + 50}"
    tell(page, change="|".join(values), n=8)
    assert page.locator(".plot text", has_text="deploy: v2.3").count() == 4
    assert page.locator(".plot text", has_text="no snapshots").count() == 4


def test_an_alert_can_be_acknowledged(page: Any, feed: Feed) -> None:
    """
    An alert is acknowledged with a name; without one the view asks for it and sends nothing.

    Then the control is gone, and the row has the name.
    """
    assert page.locator(".owner").inner_text().startswith("Acknowledged by Tech Lead.")
    assert not page.locator(".ack-by").is_visible() and not page.get_by_role("button", name="Acknowledge").count()
    assert page.get_by_role("button", name="Open runbook").is_visible()
    tell(page, change=not_acknowledged(feed), n=8)
    button = page.get_by_role("button", name="Acknowledge", exact=True)
    page.evaluate("() => { window.asked = [] }")
    button.click()
    assert "Enter your name" in page.locator(".message").inner_text() and page.evaluate("() => window.asked") == []
    page.locator(".ack-by").fill("Ann")
    button.click()
    (sent,) = page.evaluate("() => window.asked")
    assert (sent["do"], sent["by"], sent["at"]) == ("ack", "Ann", "") and "availability-massive-page" in sent["alert"]
    page.get_by_role("button", name="Open runbook").click()
    assert page.evaluate("() => window.asked.at(-1)")["alert"] == sent["alert"]


def test_a_read_only_page_shows_no_control_that_would_be_refused(page: Any, feed: Feed) -> None:
    """It has the figures, the alerts and the past, and sends only requests that the kernel accepts."""
    view = feed.view(AT)
    page.evaluate("() => { window.end(); document.body.replaceChildren() }")
    whole = json.loads(json.dumps(live_state.full_state(view, feed.state_of(view))))
    page.evaluate(MODEL, [(HERE / "live.js").read_text(), live.style(), whole, True])
    tell(page, whole=whole, range=[OPENS.timestamp(), AT.timestamp()], n=7)
    page.evaluate("() => document.querySelectorAll('details').forEach((fold) => { fold.open = true })")
    assert page.locator(".alerts li").first.is_visible() and page.locator(".cause").is_visible()
    shown = [control for control in page.locator("button, input, a").all() if control.is_visible()]
    named = [control.get_attribute("class") or control.inner_text() for control in shown]
    assert named == ["Pause", "every", "slider", "date"]
    page.locator(".date").fill("2026-03-10T10:00")
    assert not {sent["do"] for sent in page.evaluate("() => window.asked")} & set(live.CHANGES)


@pytest.mark.parametrize("width", [1440, 1280, 420])
def test_a_reason_is_never_truncated(page: Any, feed: Feed, width: int) -> None:
    """A long reason beside a panel's title is shown whole, and nothing is wider than the page."""
    reason = "chains: Greeks with delta outside -1 to 1 (12.34 %) > 2.0 % for 15 min"
    values = [""] * len(feed.state_of(feed.view(AT)).places)
    values[len(live_state.HEAD) + 1] = reason
    page.set_viewport_size({"width": width, "height": 900})
    tell(page, change="|".join(values), n=8)
    place = page.locator("[data-panel=providers] .reason")
    assert place.inner_text() == reason
    assert place.evaluate("(p) => p.scrollWidth <= p.clientWidth && getComputedStyle(p).textOverflow === 'clip'")
    assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")
    assert page.locator("[data-panel=providers] .top .verdict").is_visible()


def test_labels_of_alerts_do_not_cover_each_other(page: Any, feed: Feed) -> None:
    """If two short spans follow each other, the second label is a line lower."""
    found, view = feed.state_of(feed.view(AT)), feed.view(AT)
    (last, _) = live_state.line(view, "providers")[-1]
    values = [""] * len(found.places)
    slot = len(live_state.HEAD) + next(
        i for i, text in enumerate(found.places[len(live_state.HEAD) :]) if "\tcritical\t◆" in text
    )
    values[slot] = f"{last - 20}\t{last - 12}\tcritical\t◆ critical\n{last - 12}\t{last - 5}\tescalate\t■ escalate"
    tell(page, change="|".join(values), n=8)
    one, two = (box.bounding_box() for box in page.locator("[data-panel=providers] .plot .strong").all())
    assert two["y"] - one["y"] >= 12, (one, two)  # The text is 12 px high; its box including the outline has 21 px.


def test_days_of_updates_do_not_leak_memory(page: Any, feed: Feed) -> None:
    """
    After five thousand updates of every figure the heap is small and constant, and an update takes little time.

    This equals a long day with updates every five seconds; a line keeps at most a thousand points.
    """
    first = feed.state_of(feed.view(AT))
    a, b = (feed.state_of(feed.view(AT + timedelta(minutes=m))) for m in (10, 20))
    there, back = b.after(a), a.after(b)
    session = page.context.new_cdp_session(page)

    def heap_mb() -> float:
        session.send("HeapProfiler.collectGarbage")
        return float(session.send("Runtime.getHeapUsage")["usedSize"]) / 1e6

    run = """async ([there, back, from, upto]) => {
        const begun = Date.now();
        for (let n = from; n < upto; n += 1) window.send({ change: n % 2 ? there : back, n });
        return Date.now() - begun;
    }"""
    assert there and back and len(first.places) == len(a.places)
    page.clock.resume()
    page.evaluate(run, [there, back, 8, 1008])
    before = heap_mb()
    took_ms = page.evaluate(run, [there, back, 1008, 6008])
    grown = heap_mb() - before
    print(f"heap {before:.1f} MB, grown by {grown:.2f} MB; {took_ms / 5_000:.2f} ms an update")
    assert before < 50 and grown < 2 and took_ms / 5_000 < 750  # 15 % of one core, with an update every five seconds.
    page.evaluate("() => window.end()")
    assert page.evaluate("() => window.listening.size") == 0
