"""Test the live dashboard without a browser: its content, its updates, its requests, and when the database is read."""

import json
import random
import re
import statistics
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from opslib.alerting.notifications.planner import NotificationState
from opslib.alerting.notifications.sender import Complaints
from opslib.dashboard import live, live_state
from opslib.dashboard.live import Feed
from opslib.dashboard.live_state import BETWEEN, BLANK, DashboardState
from opslib.dashboard.probe_summary import ProbeSummary
from opslib.dashboard.status import Status
from opslib.desk import Desk
from opslib.foundation import clock
from opslib.foundation.clock import Window
from opslib.foundation.config import settings
from opslib.foundation.errors import StoreError
from opslib.incidents.feedback import Feedback
from opslib.jobs import jupyterlab
from opslib.runbooks import opening
from opslib.runbooks.diagnosis import diagnosis
from opslib.services.situations import Situations
from opslib.telemetry.markers import Markers
from opslib.telemetry.pages.store import SnapshotStore
from tests.support import demo, snapshots
from tests.support.snapshots import CLOSES, OPENS

AT = datetime(2026, 3, 10, 15, 25, tzinfo=UTC)
HOUR = timedelta(hours=1)
HEADER_BYTES = 627  # Size of the rest of a message with four numbers, as measured.


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    """Return the demo's desk at the end of its day."""
    return Desk(demo.laid_out(tmp_path_factory.mktemp("live")), lambda: CLOSES)


@pytest.fixture
def feed(desk: Desk) -> Feed:
    return Feed(desk, HOUR, 5.0, opening.open_for, diagnosis.diagnose)


def taken_in(before: list[str], change: str) -> list[str]:
    """Apply an update to the places, as the browser does."""
    parts = change.split(BETWEEN)
    assert len(parts) == len(before)
    changed = {place: "" if now == BLANK else now for place, now in enumerate(parts) if now}
    return [changed.get(place, was) for place, was in enumerate(before)]


class Listening:
    """A view that keeps the messages it receives."""

    def __init__(self) -> None:
        self.heard: list[dict[str, Any]] = []
        self.came = threading.Event()
        self.as_of: datetime | None = None
        self.every_s = 5

    def send(self, message: dict[str, Any]) -> None:
        self.heard.append(json.loads(json.dumps(message)))
        self.came.set()


def test_updates_add_up_to_the_whole_state(feed: Feed) -> None:
    """The previous state plus an update is exactly the next state; updates are small."""
    drawn = random.Random(7)
    sizes = list[int]()
    for _ in range(6):
        at = OPENS + timedelta(minutes=drawn.uniform(70, 380))
        before = feed.state_of(feed.view(at))
        places = list(before.places)
        for _ in range(6):
            at += timedelta(seconds=5)
            after = feed.state_of(feed.view(at))
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


def head(found: DashboardState, name: str) -> str:
    return found.places[live_state.HEAD.index(name)]


def panel_slots(found: DashboardState, name: str) -> dict[str, list[str]]:
    """Return the texts of one panel by their kind."""
    at = len(live_state.HEAD)
    for panel in found.shape["panels"]:
        sizes = {
            "verdict": 1,
            "reason": 1,
            "figures": len(panel["figures"]),
            "values": sum(len(key["values"]) for key in panel["keys"]),
            "limits": len(panel["keys"]),
            "points": 1,
            "bands": 1,
        }
        slots = {}
        for part, size in sizes.items():
            slots[part], at = list(found.places[at : at + size]), at + size
        if panel["name"] == name:
            return slots
    raise LookupError(name)


def test_the_dashboard_shows_the_values_of_the_status(feed: Feed, desk: Desk) -> None:
    """
    Every verdict and value of every panel is that of the status at the same moment.

    Chart points are on a grid of steps; the newest two are part of each update.
    """
    view = desk.status(AT)
    found = feed.state_of(feed.view(AT))
    for panel, shape in zip(view.panels, found.shape["panels"]):
        slots = panel_slots(found, panel.name)
        assert slots["verdict"] == [panel.verdict_text] and shape["title"] == panel.title
        assert [(f["label"], v) for f, v in zip(shape["figures"], slots["figures"])] == [
            (label, value) for label, value, _ in panel.rows
        ]
        points = live_state.line(view, panel.name)
        newest = ";".join(f"{step}:{'' if value is None else f'{value:g}'}" for step, value in points[-2:])
        assert (
            slots["points"] == [newest]
            and len(points) == 120
            and [step for step, _ in points] == list(range(points[0][0], points[0][0] + 120))
        )
    assert sum(sum(map(len, panel_slots(found, p.name).values())) for p in view.panels) == len(found.places) - len(
        live_state.HEAD
    )
    for name, value, figure in (
        ("providers", 0, "massive availability"),
        ("providers", 2, "tradier availability"),
        ("greeks", 0, "valid Greeks"),
        ("pnl", 0, "mean net result"),
        ("pnl", 2, "backtest variance"),
        ("pnl", 3, "trades"),
        ("system", 4, "memory of the largest page"),
    ):  # A key figure is the panel's value with a sign for its state.
        text = {label: text for label, text, _ in view.panel(name).rows}[figure]
        assert panel_slots(found, name)["values"][value].lstrip("✓△▲◆■? ") == text, figure
    assert head(found, "verdict") == view.verdict
    assert [row.split("\t")[0] for row in head(found, "alerts").splitlines()] == [
        a["id"] for a in view.alerts if a["state"] != "pending" and not a["inhibited_by"]
    ]
    hovers = {f["label"]: f for f in found.shape["panels"][0]["figures"]}
    assert (
        hovers["massive availability"]["limits"].startswith("warning < 99.0 %")
        and hovers["massive availability"]["of"] == 1
    )
    assert all(live_state.BETWEEN not in place for place in found.places)


def test_the_first_row_has_cause_action_and_owner(feed: Feed, desk: Desk) -> None:
    """
    In Massive's outage the first row has its start, the cause, the first action, what still works, and the owner.

    The values of the page and of the probes are side by side.
    """
    found = feed.state_of(feed.view(AT + timedelta(minutes=2)))
    assert head(found, "since") == "since 11:23, problem began 11:22 New York, 5 min ago"
    assert re.fullmatch(
        r"Massive returns HTTP 50\d since 11:22\. Fault: Massive \(confidence 9\d\s%\)\.", head(found, "cause")
    )
    assert head(found, "first") == (
        "Do first: Check Massive's status page. Make sure that Tradier is available. Responsible: Tech Lead."
    )
    assert head(found, "works") == (
        "Tradier serves in Massive's place. Still works: live prices, Greeks (from Tradier, up to 1 h old), "
        "the app's server."
    )
    assert head(found, "owner").startswith("Acknowledged by Tech Lead.")
    keys = found.shape["panels"][0]["keys"][0]
    slots = panel_slots(found, "providers")
    assert (keys["label"], keys["values"]) == ("Availability of Massive", ["app", "probes"])
    assert slots["values"][0] == f"◆ {slots['figures'][0]}" and slots["values"][1].startswith("◆ 8")
    assert slots["limits"][0] == "critical < 95.0 %"
    # The active alert has two severities: notify, then critical.
    spans = [row.split("\t") for row in slots["bands"][0].splitlines()]
    assert [span[2] for span in spans] == ["notify", "critical"] and spans[-1][1] == "" and spans[0][1] == spans[1][0]
    # An alert of a value that the chart does not draw has its name.
    greeks = [row.split("\t") for row in panel_slots(found, "greeks")["bands"][0].splitlines()]
    assert spans[-1][3] == "◆ critical" and "◆ critical: Greeks with gamma zero or missing, not this line" in [
        row[3] for row in greeks
    ]


def test_the_first_action_is_that_of_the_notification(feed: Feed, desk: Desk) -> None:
    """
    The row and the notification of the worst alert have the same action; if the cause is uncertain neither has one.
    """
    situations = Situations(desk.store, desk.settings, desk.rules, Complaints(desk.settings))
    for minutes, certain in ((2, True), (15, False)):
        at = AT + timedelta(minutes=minutes)
        alert = next(a for a in desk.status(at).alerts if a["state"] != "pending" and not a["inhibited_by"])
        notice = NotificationState(alert["id"], alert["rule"], alert["subject"], alert["source"], "", "")
        cause = situations.cause_at(clock.micros(at))(notice)
        action = (cause.action or desk.rules[cause.rule].action) if cause and certain else ""
        wanted = f"Do first: {action} Responsible: {cause.who}." if cause and certain else ""
        assert head(feed.state_of(feed.view(at)), "first") == wanted and bool(action) == certain


def test_errors_are_drawn_as_they_are_evaluated(feed: Feed, desk: Desk) -> None:
    """
    Each point is the rate that the alert evaluates at that time; the newest is the panel's value.

    The thresholds have the same unit, and are on the axis whether there are few errors or many.
    """
    at = AT + timedelta(minutes=1)
    view = feed.view(at)
    chart = feed.state_of(view).shape["panels"][3]["chart"]
    rule = desk.rules["errors"]
    assert (chart["label"], chart["unit"]) == ("Errors over the past 1 h, app page", "per h")
    assert [(limit["severity"], limit["at"]) for limit in chart["limits"]] == list(rule.thresholds)
    for scale in chart["scales"]:
        (low, *_, (top, height)) = scale["knots"]
        held = next(knot for knot in scale["knots"] if knot[0] >= max(limit["at"] for limit in chart["limits"]))
        assert low == [0, 0] and height == 1 and held[1] >= 0.6 and top in [value for value, _ in scale["ticks"]]
    assert chart["scales"][-1]["knots"][-1][0] >= 10_000
    points = live_state.line(view, "system")
    shown = panel_slots(feed.state_of(view), "system")["values"][0]
    assert points[-1][1] and shown.lstrip("✓△▲◆■? ") == f"{points[-1][1]:g} per h"
    for back in (1, 40, 119):  # The oldest point needs the snapshots of the hour before the window.
        then = at - timedelta(seconds=30 * back)
        alone = desk.status(then)
        (found,) = [f for f in alone.findings if f.rule.name == "errors" and f.source == "page"]
        assert points[-1 - back][1] == found.figure.value, then


def test_an_axis_fits_the_thresholds_in_effect(desk: Desk) -> None:
    """Other thresholds result in another axis."""
    rule = replace(desk.rules["errors"], thresholds=(("warning", 200), ("critical", 800)))
    scales = live_state._scales_of(rule)
    assert [scale.knots[-1][0] for scale in scales[:3]] == [1000, 2000, 5000]
    assert [label for _, label in scales[1].ticks] == ["0", "500", "1000", "2,000"]


def test_a_diagnosis_is_made_only_if_an_alert_fires(desk: Desk) -> None:
    """Without an alert the first row is one line and no diagnosis is made; with one, not twice within half a minute."""
    asked: list[datetime] = []

    def diagnose(view: Status) -> Any:
        asked.append(view.window.end)
        return diagnosis.diagnose(view)

    quiet = next(
        at
        for at in (OPENS + timedelta(minutes=5 * n) for n in range(12, 78))
        if (view := desk.status(at)).verdict == "ok" and not view.alerts
    )
    feed = Feed(desk, HOUR, 5.0, None, diagnose)
    found = feed.state_of(feed.view(quiet))
    assert [head(found, name) for name in ("since", "cause", "first", "works", "owner")] == [
        "",
        "No alert is firing.",
        "",
        "",
        "",
    ]
    assert asked == []
    for seconds in (0, 5, 10):
        feed.state_of(feed.view(AT + timedelta(minutes=2, seconds=seconds)))
    assert asked == [AT + timedelta(minutes=2)]
    assert head(Feed(desk, HOUR, 5.0).state_of(desk.status(AT)), "cause") == ""


def test_a_verdict_without_a_figure_has_a_reason(feed: Feed, desk: Desk) -> None:
    """If no key figure of a panel has its verdict, the panel shows the reason."""
    view = desk.status(AT)
    panel = view.panel("greeks")
    summary = ProbeSummary("greeks", "warning", "the chain of AAPL could not be fetched. Check it.")
    worse = replace(panel, verdict="warning", summaries=(summary,), findings=())
    assert live_state._reason(worse, []) == "the chain of AAPL could not be fetched"
    bad = [f for f in view.findings if f.verdict == "critical"][:1]
    assert live_state._reason(replace(worse, verdict="critical"), bad) == "" == live_state._reason(panel, [])


def test_the_details_of_a_panel_can_be_requested(feed: Feed, desk: Desk) -> None:
    """A request returns every sentence and note of a panel at the moment shown."""
    panel = desk.status(AT).panel("providers")
    said = asked(feed, do="sentences", panel="providers", at="2026-03-10T15:25:00.000Z")
    assert said["sentences"] == [*panel.sentences, *panel.notes] and said["panel"] == "providers"
    assert "request failed" in asked(feed, do="sentences", panel="x", at="2026-03-10T15:25:00.000Z")["text"]


def test_markers_and_gaps_are_on_the_charts(tmp_path: Path) -> None:
    """Markers and gaps are at their step since midnight; a gap that continues has no end."""
    desk = Desk(settings.load(tmp_path, "desk", {}), lambda: snapshots.at(900))
    posts = [
        snapshots.post(s, snapshots.body(massive_requests=100 + s)) for s in [*range(0, 300, 5), *range(600, 700, 5)]
    ]
    SnapshotStore(desk.store).write("desk", posts, known_at_ts=True)
    Markers(desk.store, desk.settings).put("deploy", "v2.3 | of today", "Ann", snapshots.at(120))
    feed = Feed(desk, timedelta(minutes=15), 5.0)
    found = feed.state_of(feed.view(snapshots.at(900)))
    first = clock.micros(OPENS) % 86_400_000_000 // 30_000_000
    assert head(found, "markers") == f"{first + 4}\tdeploy: v2.3 ¦ of today"
    gaps = [row.split("\t") for row in head(found, "gaps").splitlines()]
    assert [gap[0] for gap in gaps] == [str(first + 10), str(first + 23)] and gaps[0][1] == str(first + 20)
    assert gaps[1][1] == ""


def test_a_state_of_another_shape_is_sent_whole(feed: Feed) -> None:
    """If figures are added or removed, the whole state is sent instead of an update."""
    found = feed.state_of(feed.view(AT))
    other = DashboardState(found.shape | {"window": "2 h"}, found.places)
    assert other.after(found) is None and found.after(found) == BETWEEN * (len(found.places) - 1)
    before, after = DashboardState({}, ("a", "b", "c")), DashboardState({}, ("a", "", "d"))
    # An emptied place differs from an unchanged one.
    assert after.after(before) == "|~|d" and taken_in(list(before.places), "|~|d") == list(after.places)


def test_one_feed_serves_every_view(desk: Desk) -> None:
    """All views share one read: a new view gets the next update, or requests the whole state."""
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
    feed.set_interval(1.0)
    assert first.came.wait(20) and second.came.wait(20)
    (change,) = (m for m in second.heard[:1])
    assert (
        change["n"] == first.heard[0]["n"] + 1
        and taken_in(first.heard[0]["whole"]["places"], change["change"])[0] == "2026-03-10T15:25:05.000Z"
    )
    assert (
        feed.latest()["places"][0] == "2026-03-10T15:25:05.000Z"
        and sum(t.name == "ops live" for t in threading.enumerate()) >= 1
    )


def test_the_feed_ends_with_its_last_view(desk: Desk) -> None:
    """When the last view is gone, the thread ends."""
    feed, one = Feed(desk, HOUR, 1.0), Listening()
    feed.join(one)
    assert one.came.wait(20) and feed._thread is not None
    thread = feed._thread
    del one
    feed.set_interval(1.0)
    thread.join(20)
    assert not thread.is_alive()


def test_a_database_error_is_shown(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """The view shows the error and keeps its content; once the database can be read, updates continue."""
    feed, one = Feed(desk, HOUR, 60.0), Listening()
    feed._listening.add(one)
    feed.broadcast_changes()
    with monkeypatch.context() as patch:
        patch.setattr(
            live.status, "view_at", lambda *_: (_ for _ in ()).throw(StoreError("the store is locked; try again."))
        )
        feed.broadcast_changes()
    assert one.heard[-1]["error"] == "not up to date: the store is locked; try again."
    assert json.loads(json.dumps(feed.latest())) == one.heard[0]["whole"]
    feed.broadcast_changes()
    assert "change" in one.heard[-1]


def test_a_locked_table_is_waited_for(postgres_url: str, tmp_path: Path) -> None:
    """
    While a table is locked, no error is shown and the last state is available at once; the next update has the new
    rows.
    """
    at = [snapshots.at(60)]
    desk = Desk(settings.load(tmp_path, "desk", {"OPS_STORE_URL": postgres_url}), lambda: at[0])
    SnapshotStore(desk.store).write("desk", [snapshots.post(30, snapshots.body())], known_at_ts=True)
    feed, one = Feed(desk, HOUR, 60.0), Listening()
    feed._listening.add(one)
    feed.broadcast_changes()
    at[0] = snapshots.at(120)
    SnapshotStore(desk.store).write("desk", [snapshots.post(110, snapshots.body())], known_at_ts=True)
    with desk.store.writing() as connection:
        connection.exec_driver_sql("LOCK TABLE snapshots IN ACCESS EXCLUSIVE MODE")
        waiting = threading.Thread(target=feed.broadcast_changes)
        waiting.start()
        waiting.join(1.0)
        assert waiting.is_alive() and len(one.heard) == 1
        assert feed.everything()["whole"]["places"][0] == "2026-03-10T13:31:00.000Z"
    waiting.join(20)
    assert taken_in(one.heard[0]["whole"]["places"], one.heard[1]["change"])[0] == "2026-03-10T13:32:00.000Z"


FIGURES = {  # What the operations guide names, section by section, and the dashboard's figures for it.
    "Massive uptime": ("massive availability",),
    "Tradier available as fallback": ("tradier availability", "massive fallbacks", "tradier fallbacks"),
    "response times": (
        "massive, probes, p95 / mean",
        "tradier, probes, p95 / mean",
        "app, probes, p95 / mean",
    ),
    "Greeks validation rate": ("valid Greeks", "validations / not valid / with an error"),
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
    "WebSocket latency": ("WebSocket round trip p95, probes",),
    "memory usage": ("memory of the largest page",),
}


@pytest.mark.parametrize("named", FIGURES)
def test_every_figure_of_the_guide_is_on_the_dashboard(feed: Feed, named: str) -> None:
    """Each figure that the guide names is on the dashboard, with its limits on hover."""
    found = feed.state_of(feed.view(AT))
    labels = [(figure["label"], figure["limits"]) for panel in found.shape["panels"] for figure in panel["figures"]]
    assert set(FIGURES[named]) <= {label for label, _ in labels} and all(
        limits for label, limits in labels if label in FIGURES[named]
    )


def test_figures_with_a_count_are_named_in_the_guide() -> None:
    """Each figure that is shown with the count behind it is named in the guide."""
    named = {label for labels in FIGURES.values() for label in labels}
    assert set(live_state.BEHIND) <= named


def asked(feed: Feed, **said: Any) -> dict[str, Any]:
    """Send a request as a view and return the response."""
    one = Listening()
    live.answer(feed, one, {"view": "v1", **said})
    assert one.heard[0]["view"] == "v1"
    return one.heard[0]


def test_any_moment_can_be_requested(feed: Feed) -> None:
    """A moment is requested by the slider's seconds or by a New York time; a future or invalid one is rejected."""
    by_slider, by_hand = asked(feed, do="at", at_s=AT.timestamp()), asked(feed, do="at", local="2026-03-10T11:25:00")
    assert by_slider == by_hand and by_slider["past"] and by_slider["whole"]["places"][0] == "2026-03-10T15:25:00.000Z"
    assert "in the future" in asked(feed, do="at", local="2026-03-11T11:25")["text"]
    for wrong in ({"do": "at", "at_s": "x"}, {"do": "burn"}, {"do": "at"}, {"do": "feedback"}, {}):
        assert "request failed" in asked(feed, **wrong)["text"]
    one = Listening()
    one.as_of = AT
    for first in (True, False):
        live.answer(feed, one, {"do": "all", "view": "v1", "first": first})
    assert [("past" in m, m["whole"]["places"][0]) for m in one.heard] == [
        (False, "2026-03-10T20:00:00.000Z"),
        (True, "2026-03-10T15:25:00.000Z"),
        (False, "2026-03-10T20:00:00.000Z"),
    ]
    begins, now = asked(feed, do="all")["range"]
    assert (begins, now) == (OPENS.timestamp(), CLOSES.timestamp())


def test_the_slider_moves_in_both_directions(feed: Feed) -> None:
    """The state at each moment equals one read on its own, after steps of seconds to hours in either direction."""
    at = OPENS + timedelta(hours=2)
    for minutes in (0.5, 7, 0.5, -0.5, 61, 0, -120, 3, 150):
        at += timedelta(minutes=minutes)
        view = feed.view(at)
        assert feed.state_at(at) == live_state.full_state(view, feed.state_of(view)), at


def test_feedback_is_recorded(feed: Feed, desk: Desk) -> None:
    """Feedback about missed data is recorded; noise without an alert is rejected."""
    assert (
        "feedback recorded: missed-data"
        in asked(
            feed,
            do="feedback",
            kind="missed-data",
            alert="",
            words="no Greeks for TSLA",
            by="Ann",
            at="2026-03-10T15:25:00Z",
        )["text"]
    )
    assert (
        "feedback 'noise' needs an alert"
        in asked(feed, do="feedback", kind="noise", alert="", words="", by="Ann", at="2026-03-10T15:25:00Z")["text"]
    )


def test_noise_is_recorded_with_its_alert(feed: Feed, desk: Desk) -> None:
    """Noise reported at an alert is recorded with the alert's id, where the quarterly report reads it."""
    alert = desk.status(AT).alerts[0]["id"]
    assert (
        "feedback recorded: noise"
        in asked(feed, do="feedback", kind="noise", alert=alert, words="", by="Ann", at="2026-03-10T15:25:00Z")["text"]
    )
    kept = Feedback(desk.incidents.records).within(Window.before(AT, timedelta(minutes=1)))
    assert ("noise", alert, "Ann") in [(o.kind, o.alert, o.author) for o in kept]


def test_an_alert_is_acknowledged(desk: Desk) -> None:
    """
    An alert is acknowledged with a name, as by `ops ack`; without a name or an active alert the request is rejected.
    """
    alert = desk.status(AT).alerts[0]["id"]
    # The record takes the time of an acknowledgement from the desk's clock, which is at the moment shown.
    now = Desk(desk.settings, lambda: AT)
    feed = Feed(now, HOUR, 5.0)
    assert "needs your name" in asked(feed, do="ack", alert=alert, by="  ")["text"]
    assert "no alert 'x' was active" in asked(feed, do="ack", alert="x", by="Ann")["text"]
    said = asked(feed, do="ack", alert=alert, by="Ann\nLee")
    assert said["text"].startswith(f"{alert} acknowledged by Ann Lee.")
    assert now.notifications.acks()[alert][0] == "Ann Lee"


def test_a_panel_opens_its_notebook(feed: Feed, desk: Desk) -> None:
    """The details of a panel are its notebook, executed as of the moment shown."""
    said = asked(feed, do="details", panel="system", at="2026-03-10T15:25:00.000Z")
    place = desk.settings.base / said["link"]
    assert (
        said["text"] == "system_health, as of 2026-03-10T15:25:00.000Z:"
        and place.exists()
        and "2026-03-10T15:25:00.000Z" in place.read_text()
    )


def test_a_read_only_view_changes_nothing(feed: Feed, monkeypatch: pytest.MonkeyPatch) -> None:
    """A read-only view rejects every request that changes something; any moment can still be requested."""
    monkeypatch.setenv(jupyterlab.READ_ONLY, "1")
    for do in live.CHANGES:
        assert (
            "read-only"
            in asked(
                feed, do=do, alert="x", panel="system", at="2026-03-10T15:25:00Z", kind="noise", words="w", by="b"
            )["text"]
        )
    assert asked(feed, do="at", at_s=AT.timestamp())["past"]


def test_a_view_knows_whether_it_is_read_only(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """The widget has the read-only flag, so that the view hides controls that would be rejected."""
    assert live.Live(desk, HOUR, 5.0, AT).widget.read_only is False
    monkeypatch.setenv(jupyterlab.READ_ONLY, "1")
    assert live.Live(desk, HOUR, 5.0, AT).widget.read_only is True


def test_a_long_write_does_not_block_reading(feed: Feed, desk: Desk) -> None:
    """While another process is in a write transaction, the dashboard still reads."""
    one = Listening()
    feed._listening.add(one)
    with desk.store.writing() as connection:
        connection.exec_driver_sql("UPDATE meta SET value = value")
        feed.broadcast_changes()
        feed.broadcast_changes()
    assert "whole" in one.heard[0] and "change" in one.heard[1] and not [m for m in one.heard if "error" in m]


def test_an_alert_opens_its_runbook(feed: Feed, desk: Desk) -> None:
    """
    The runbook is opened for the alert's incident as of the moment shown; an alert that is not active then is rejected.
    """
    alert = next(a for a in desk.status(AT).alerts if a["runbook"] == "massive_down" and a["state"] == "firing")
    said = asked(feed, do="open", alert=alert["id"], at="2026-03-10T15:25:00Z")
    opened = list(desk.incidents.folder(alert["incident"]).glob("*_massive_down.ipynb"))
    newest = max(opened)
    assert said["text"].startswith("runbook massive_down is open for incident") and said["link"].endswith(newest.name)
    assert '"2026-03-10T15:25:00' in newest.read_text() or "15:25:00" in newest.read_text()
    assert "no alert 'x'" in asked(feed, do="open", alert="x", at="2026-03-10T15:25:00Z")["text"]


def test_without_a_browser_the_dashboard_is_a_picture(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a front end the dashboard is shown as its text and a PNG of all four panels."""
    shown: list[Any] = []
    monkeypatch.setattr("IPython.display.display", lambda data, **more: shown.append(data))
    one = live.Live(desk, HOUR, 5.0, AT, diagnoser=diagnosis.diagnose)
    one._ipython_display_()
    row, picture = shown
    assert (
        picture["text/plain"] == repr(one)
        and picture["image/png"].startswith(b"\x89PNG")
        and len(picture["image/png"]) > 20_000
    )
    assert row.plain.startswith("◆ critical, as of 2026-03-10 15:25:00 UTC (11:25:00 New York)\n")
    for answered in ("Massive", "Since 11:2", "Do first: ", "Still works: "):
        assert answered in row.plain, row.plain
    assert repr(one).splitlines()[
        0
    ] == "critical, as of 2026-03-10 15:25:00 UTC (11:25:00 New York)" and "Data Provider Health: critical" in repr(one)


def test_the_browser_code_loads_nothing_from_elsewhere() -> None:
    """The JavaScript and CSS contain no address and load nothing."""
    for name in ("live.js", "live.css"):
        content = (live.HERE / name).read_text().replace("http://www.w3.org/2000/svg", "")  # An XML namespace.
        assert (
            "http" not in content
            and "import " not in content.replace("@import", "import ")
            and "eval(" not in content
            and "innerHTML" not in content
        )
