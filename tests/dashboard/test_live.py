"""The live dashboard under its browser: what stands on it, what is told of a change, who reads the store, and when."""

import json
import random
import statistics
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from opslib.dashboard import live, live_state
from opslib.dashboard.live import Feed
from opslib.dashboard.live_state import BETWEEN, BLANK, DashboardState
from opslib.desk import Desk
from opslib.foundation.clock import Window
from opslib.foundation.config import settings
from opslib.foundation.errors import StoreError
from opslib.incidents.feedback import Feedback
from opslib.jobs import jupyterlab
from opslib.runbooks import opening
from opslib.telemetry.pages.store import SnapshotStore
from tests.support import demo, snapshots
from tests.support.snapshots import CLOSES, OPENS

AT = datetime(2026, 3, 10, 15, 25, tzinfo=UTC)
HOUR = timedelta(hours=1)
HEADER_BYTES = 627  # Of a message that says four numbers, measured: reference/notebooks.md of the design.


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    """The demo's desk at the end of its day."""
    return Desk(demo.laid_out(tmp_path_factory.mktemp("live")), lambda: CLOSES)


@pytest.fixture
def feed(desk: Desk) -> Feed:
    return Feed(desk, HOUR, 5.0, opening.open_for)


def taken_in(before: list[str], change: str) -> list[str]:
    """What a browser makes of a change: place by place."""
    told = change.split(BETWEEN)
    assert len(told) == len(before)
    changed = {place: "" if now == BLANK else now for place, now in enumerate(told) if now}
    return [changed.get(place, was) for place, was in enumerate(before)]


class Listening:
    """A view's end of the wire."""

    def __init__(self) -> None:
        self.heard: list[dict[str, Any]] = []
        self.came = threading.Event()
        self.as_of: datetime | None = None
        self.every_s = 5

    def send(self, message: dict[str, Any]) -> None:
        self.heard.append(json.loads(json.dumps(message)))
        self.came.set()


def test_changes_add_up_to_the_moment(feed: Feed) -> None:
    """
    From any moment to any later one, what changed and what was there give exactly what stands there; in few bytes.
    """
    drawn = random.Random(7)
    sizes = list[int]()
    for _ in range(6):
        at = OPENS + timedelta(minutes=drawn.uniform(70, 380))
        before = feed.screen(feed.view(at))
        places = list(before.places)
        for _ in range(6):
            at += timedelta(seconds=5)
            after = feed.screen(feed.view(at))
            change = after.after(before)
            assert change is not None
            places = taken_in(places, change)
            assert places == list(after.places)
            sizes.append(len(json.dumps({"change": change, "n": 1000}, ensure_ascii=False).encode()))
            before = after
    assert statistics.median(sizes) + HEADER_BYTES <= 1024 and max(sizes) + HEADER_BYTES <= 2048, (
        statistics.median(sizes),
        max(sizes),
    )


def test_what_stands_there_is_what_status_says(feed: Feed, desk: Desk) -> None:
    """
    Every verdict and figure of every panel, as the panels of that moment have it; a line's points are of the grid, the
    newest as told with each change.
    """
    view = desk.status(AT)
    found = feed.screen(feed.view(AT))
    at = 6
    for panel, shape in zip(view.panels, found.shape["panels"]):
        assert found.places[at] == panel.told and shape["title"] == panel.title
        assert list(found.places[at + 1 : at + 5]) == (panel.sentences + [""] * 4)[:4]
        assert [(f["label"], v) for f, v in zip(shape["figures"], found.places[at + 5 :])] == [
            (label, value) for label, value, _ in panel.rows
        ]
        points = live_state.line(view, panel.name)
        newest = ";".join(f"{step}:{'' if value is None else f'{value:g}'}" for step, value in points[-2:])
        assert (
            found.places[at + 5 + len(panel.rows)] == newest
            and len(points) == 120
            and [step for step, _ in points] == list(range(points[0][0], points[0][0] + 120))
        )
        at += 6 + len(panel.rows)
    assert at == len(found.places) and found.places[2] == view.verdict
    assert [row.split("\t")[0] for row in found.places[5].splitlines()] == [
        a["id"] for a in view.alerts if a["state"] != "pending" and not a["inhibited_by"]
    ]
    hovers = {f["label"]: f for f in found.shape["panels"][0]["figures"]}
    assert (
        hovers["massive availability"]["limits"].startswith("warning < 99.0 %")
        and hovers["massive availability"]["of"] == 1
    )
    assert all(live_state.BETWEEN not in place for place in found.places)


def test_another_shape_is_told_whole(feed: Feed) -> None:
    """Where figures come or go there is no change to tell: all of it is."""
    found = feed.screen(feed.view(AT))
    other = DashboardState(found.shape | {"window": "2 h"}, found.places)
    assert other.after(found) is None and found.after(found) == BETWEEN * (len(found.places) - 1)
    before, after = DashboardState({}, ("a", "b", "c")), DashboardState({}, ("a", "", "d"))
    # What says nothing now is not what is the same.
    assert after.after(before) == "|~|d" and taken_in(list(before.places), "|~|d") == list(after.places)


def test_one_feed_tells_everybody(desk: Desk) -> None:
    """Who joins is told of the next look; who comes late asks for all of it; nobody looks twice for two."""
    at = [AT]
    clocked = Desk(desk.settings, lambda: at[0])
    feed, first, second = Feed(clocked, HOUR, 60.0), Listening(), Listening()
    feed.join(first)
    assert (
        first.came.wait(20)
        and "whole" in first.heard[0]
        and first.heard[0]["whole"]["places"][0] == "2026-03-10T15:25:00.000Z"
    )
    at[0] += timedelta(seconds=5)
    feed.join(second)
    first.came.clear()
    feed.pace(1.0)
    assert first.came.wait(20) and second.came.wait(20)
    (change,) = (m for m in second.heard[:1])
    assert (
        change["n"] == first.heard[0]["n"] + 1
        and taken_in(first.heard[0]["whole"]["places"], change["change"])[0] == "2026-03-10T15:25:05.000Z"
    )
    assert (
        feed.all()["places"][0] == "2026-03-10T15:25:05.000Z"
        and sum(t.name == "ops live" for t in threading.enumerate()) >= 1
    )


def test_nobody_is_left_reading(desk: Desk) -> None:
    """When the last view is gone the thread ends by itself."""
    feed, one = Feed(desk, HOUR, 1.0), Listening()
    feed.join(one)
    assert one.came.wait(20) and feed._thread is not None
    thread = feed._thread
    del one
    feed.pace(1.0)
    thread.join(20)
    assert not thread.is_alive()


def test_a_store_that_cannot_be_read_is_said(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """The view is told why, keeps what it has, and goes on when the store is there again."""
    feed, one = Feed(desk, HOUR, 60.0), Listening()
    feed._listening.add(one)
    feed.tell()
    with monkeypatch.context() as patch:
        patch.setattr(
            Feed, "view", lambda self, at: (_ for _ in ()).throw(StoreError("the store is locked; try again."))
        )
        feed.tell()
    assert one.heard[-1]["trouble"] == "not up to date: the store is locked; try again."
    assert json.loads(json.dumps(feed.all())) == one.heard[0]["whole"]
    feed.tell()
    assert "change" in one.heard[-1]


def test_a_table_that_is_locked_is_waited_for(postgres_url: str, tmp_path: Path) -> None:
    """
    Where a database lets nobody read for a while, nobody is told anything wrong, who asks for what was seen last is
    answered at once, and the next look tells what came.
    """
    at = [snapshots.at(60)]
    desk = Desk(settings.load(tmp_path, "desk", {"OPS_STORE_URL": postgres_url}), lambda: at[0])
    SnapshotStore(desk.store).write("desk", [snapshots.post(30, snapshots.body())], known_at_ts=True)
    feed, one = Feed(desk, HOUR, 60.0), Listening()
    feed._listening.add(one)
    feed.tell()
    at[0] = snapshots.at(120)
    SnapshotStore(desk.store).write("desk", [snapshots.post(110, snapshots.body())], known_at_ts=True)
    with desk.store.writing() as connection:
        connection.exec_driver_sql("LOCK TABLE snapshots IN ACCESS EXCLUSIVE MODE")
        waiting = threading.Thread(target=feed.tell)
        waiting.start()
        waiting.join(1.0)
        assert waiting.is_alive() and len(one.heard) == 1
        assert feed.everything()["whole"]["places"][0] == "2026-03-10T13:31:00.000Z"
    waiting.join(20)
    assert taken_in(one.heard[0]["whole"]["places"], one.heard[1]["change"])[0] == "2026-03-10T13:32:00.000Z"


FIGURES = {  # What the operations guide names, section by section, and the figures of the dashboard that answer to it.
    "Massive uptime": ("massive availability",),
    "Tradier available as fallback": ("tradier availability", "massive fallbacks", "tradier fallbacks"),
    "response times": (
        "massive, our looks' p95 / mean",
        "tradier, our looks' p95 / mean",
        "app, our looks' p95 / mean",
    ),
    "Greeks validation rate": ("valid Greeks", "validations / with an error"),
    "gamma = 0": ("gamma zero or missing",),
    "delta out of bounds": ("delta outside -1 to 1",),
    "IV anomalies": ("IV anomalies",),
    "total trades": ("trades",),
    "gross and net P&L": ("mean gross result", "mean net result"),
    "commission and slippage": ("commission / slippage",),
    "backtest variance": ("backtest variance",),
    "error count": ("errors",),
    "error breakdown by type": ("errors by type",),
    "WebSocket connected": ("WebSocket",),
    "WebSocket latency": ("WebSocket round trip p95, our looks",),
    "memory usage": ("memory of the largest page",),
}


@pytest.mark.parametrize("named", FIGURES)
def test_every_figure_that_the_guide_names_is_there(feed: Feed, named: str) -> None:
    """Each stands on the dashboard, with what hovering tells of it."""
    found = feed.screen(feed.view(AT))
    labels = [(figure["label"], figure["limits"]) for panel in found.shape["panels"] for figure in panel["figures"]]
    assert set(FIGURES[named]) <= {label for label, _ in labels} and all(
        limits for label, limits in labels if label in FIGURES[named]
    )


def test_every_figure_stands_for_something_that_the_guide_names() -> None:
    """What is on the dashboard beside them is how much a figure rests on."""
    named = {label for labels in FIGURES.values() for label in labels}
    assert set(live_state.BEHIND) <= named


def asked(feed: Feed, **said: Any) -> dict[str, Any]:
    """What a view is answered."""
    one = Listening()
    live.answered(feed, one, {"view": "v1", **said})
    assert one.heard[0]["view"] == "v1"
    return one.heard[0]


def test_any_moment_can_be_asked_for(feed: Feed) -> None:
    """
    By the slider's seconds or by a time typed in New York; what is still to come, or no question at all, is refused in
    words.
    """
    by_slider, by_hand = asked(feed, do="at", at_s=AT.timestamp()), asked(feed, do="at", local="2026-03-10T11:25:00")
    assert by_slider == by_hand and by_slider["past"] and by_slider["whole"]["places"][0] == "2026-03-10T15:25:00.000Z"
    assert "still to come" in asked(feed, do="at", local="2026-03-11T11:25")["said"]
    for wrong in ({"do": "at", "at_s": "x"}, {"do": "burn"}, {"do": "at"}, {"do": "feedback"}, {}):
        assert "cannot be done" in asked(feed, **wrong)["said"]
    one = Listening()
    one.as_of = AT
    for first in (True, False):
        live.answered(feed, one, {"do": "all", "view": "v1", "first": first})
    assert [("past" in m, m["whole"]["places"][0]) for m in one.heard] == [
        (False, "2026-03-10T20:00:00.000Z"),
        (True, "2026-03-10T15:25:00.000Z"),
        (False, "2026-03-10T20:00:00.000Z"),
    ]
    begins, now = asked(feed, do="all")["range"]
    assert (begins, now) == (OPENS.timestamp(), CLOSES.timestamp())


def test_what_people_think_is_kept(feed: Feed, desk: Desk) -> None:
    """
    Missed data in words, noise of an alert; who says so is asked for by the view, and what is noise of nothing is
    refused.
    """
    assert (
        "kept as missed-data"
        in asked(
            feed,
            do="feedback",
            kind="missed-data",
            alert="",
            words="no Greeks for TSLA",
            by="Ann",
            at="2026-03-10T15:25:00Z",
        )["said"]
    )
    assert (
        "which alert was noise"
        in asked(feed, do="feedback", kind="noise", alert="", words="", by="Ann", at="2026-03-10T15:25:00Z")["said"]
    )


def test_noise_is_of_an_alert(feed: Feed, desk: Desk) -> None:
    """Pressed beside an alert, it is kept with the alert's id, where the quarterly report reads it."""
    alert = desk.status(AT).alerts[0]["id"]
    assert (
        "kept as noise"
        in asked(feed, do="feedback", kind="noise", alert=alert, words="", by="Ann", at="2026-03-10T15:25:00Z")["said"]
    )
    kept = Feedback(desk.chronicle.records).within(Window.before(AT, timedelta(minutes=1)))
    assert ("noise", alert, "Ann") in [(o.kind, o.alert, o.author) for o in kept]


def test_a_panel_leads_deeper(feed: Feed, desk: Desk) -> None:
    """The notebook that looks deeper, executed as of the moment that is shown."""
    said = asked(feed, do="deeper", panel="system", at="2026-03-10T15:25:00.000Z")
    place = desk.settings.base / said["link"]
    assert (
        said["said"] == "system_health, as of 2026-03-10T15:25:00.000Z:"
        and place.exists()
        and "2026-03-10T15:25:00.000Z" in place.read_text()
    )


def test_a_page_that_only_shows_changes_nothing(feed: Feed, monkeypatch: pytest.MonkeyPatch) -> None:
    """What would leave something behind is refused; any moment may still be asked for."""
    monkeypatch.setenv(jupyterlab.READ_ONLY, "1")
    for do in live.CHANGES:
        assert (
            "only shows"
            in asked(
                feed, do=do, alert="x", panel="system", at="2026-03-10T15:25:00Z", kind="noise", words="w", by="b"
            )["said"]
        )
    assert asked(feed, do="at", at_s=AT.timestamp())["past"]


def test_a_writer_that_holds_the_store_stops_nothing(feed: Feed, desk: Desk) -> None:
    """Somebody writes for a long time: it is read all the same."""
    one = Listening()
    feed._listening.add(one)
    with desk.store.writing() as connection:
        connection.exec_driver_sql("UPDATE meta SET value = value")
        feed.tell()
        feed.tell()
    assert "whole" in one.heard[0] and "change" in one.heard[1] and not [m for m in one.heard if "trouble" in m]


def test_an_alert_opens_its_runbook(feed: Feed, desk: Desk) -> None:
    """Filled in for its incident, as of the moment that is shown; an alert that does not stand then is refused."""
    alert = next(a for a in desk.status(AT).alerts if a["runbook"] == "massive_down" and a["state"] == "firing")
    said = asked(feed, do="open", alert=alert["id"], at="2026-03-10T15:25:00Z")
    opened = list(desk.chronicle.folder(alert["incident"]).glob("*_massive_down.ipynb"))
    newest = max(opened)
    assert said["said"].startswith("runbook massive_down is open for incident") and said["link"].endswith(newest.name)
    assert '"2026-03-10T15:25:00' in newest.read_text() or "15:25:00" in newest.read_text()
    assert "no alert 'x'" in asked(feed, do="open", alert="x", at="2026-03-10T15:25:00Z")["said"]


def test_where_nobody_is_there_it_is_a_picture(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its words are the same as where somebody is; the picture is a PNG of all four panels."""
    shown: list[Any] = []
    monkeypatch.setattr("IPython.display.display", lambda data, **more: shown.append(data))
    one = live.Live(desk, HOUR, 5.0, AT)
    one._ipython_display_()
    assert (
        shown[0]["text/plain"] == repr(one)
        and shown[0]["image/png"].startswith(b"\x89PNG")
        and len(shown[0]["image/png"]) > 20_000
    )
    assert repr(one).splitlines()[
        0
    ] == "critical, as of 2026-03-10 15:25:00 UTC (11:25:00 New York)" and "Data Provider Health: critical" in repr(one)


def test_nothing_comes_from_elsewhere() -> None:
    """The browser's part names no address and loads nothing."""
    for name in ("live.js", "live.css"):
        content = (live.HERE / name).read_text()
        assert (
            "http" not in content.replace("https://www.w3.org", "")
            and "import " not in content.replace("@import", "import ")
            and "eval(" not in content
            and "innerHTML" not in content
        )
