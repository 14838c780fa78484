"""Test the timeline: bars at their places on the axis, hours in New York, rows that a terminal can show."""

import itertools
import re
from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from opslib.dashboard.timeline import Bar, TimelineRow, timeline
from opslib.foundation import time_parsing
from opslib.foundation.clock import Window


def at(text: str) -> datetime:
    return time_parsing.parse(f"2026-03-10T{text}")


DAY = Window(at("09:30"), at("16:00"))


def bars(html: str) -> list[tuple[float, float]]:
    """Return the left end and the width of each bar, in % of the axis."""
    return [(float(a), float(b)) for a, b in re.findall(r'class="ops-bar[^>]*left:([\d.]+)%;width:([\d.]+)%', html)]


def test_a_bar_is_at_its_time_on_the_axis() -> None:
    """A bar over half of the window is half as wide as the axis; a bar that exceeds the window is cut."""
    rows = [
        TimelineRow("half", "critical", "09:30–12:45", (Bar(at("09:30"), at("12:45"), "critical"),)),
        TimelineRow("beyond", "warning", "all day", (Bar(at("08:00"), at("17:00"), "warning"),)),
        TimelineRow("short", "notify", "15:59", (Bar(at("15:59"), at("15:59"), "notify"),)),
    ]
    half, beyond, short = bars(timeline("Alerts", DAY, rows, []).html)
    assert half == (0, 50) and beyond == (0, 100)
    assert short[0] == pytest.approx(99.74, abs=0.01) and short[1] > 0, "an instant is still seen"


def test_bars_of_several_lanes_and_kinds() -> None:
    """A row is as high as its lanes; a hollow bar and a severity are CSS classes, and each label is in the text."""
    row = TimelineRow(
        "errors",
        "critical",
        "11:00–12:00",
        (
            Bar(at("11:00"), at("12:00"), "critical", 3, hollow=True),
            Bar(at("11:00"), at("12:00"), "warning", 1, lane=1),
        ),
    )
    html = timeline("Alerts", DAY, [row], []).html
    assert "height:28px" in html and "ops-bar is-critical is-hollow" in html and "ops-bar is-warning" in html


def test_each_lane_names_its_source_beside_its_last_bar() -> None:
    """On the right of the bars, or on the left of them where they end too near to the right edge."""
    early, late = (Bar(at("10:00"), at("11:00"), "critical"), Bar(at("11:00"), at("15:45"), "notify", lane=1))
    row = TimelineRow("errors", "critical", "10:00–15:45", (early, late), sources=("app page", "probes"))
    html = timeline("Alerts", DAY, [row], []).html
    assert re.findall(r'class="ops-source" style="([^"]+)">([^<]+)<', html) == [
        ("top:0px;left:23.08%", "app page"),
        ("top:14px;right:76.92%", "probes"),
    ]
    assert "ops-source" not in timeline("Alerts", DAY, [replace(row, sources=())], []).html


@pytest.mark.parametrize(
    ("closes", "hours"),
    [
        ("16:00", ["09:30", "11:00", "12:00", "13:00", "14:00", "15:00", "16:00"]),
        ("13:00", ["09:30", "11:00", "12:00", "13:00"]),
    ],
)
def test_hours_of_the_axis(closes: str, hours: list[str]) -> None:
    """The axis has its ends and the full hours that are not too near to them, in New York time."""
    html = timeline("Alerts", Window(at("09:30"), at(closes)), [], []).html
    assert re.findall(r'class="ops-hour"[^>]*>([\d:]+)<', html) == hours


def test_a_long_axis_has_fewer_hours() -> None:
    """Labels of a whole day do not touch."""
    midnight = at("00:00")
    html = timeline("Alerts", Window(midnight, midnight + timedelta(hours=24)), [], []).html
    places = [float(found) for found in re.findall(r'class="ops-hour" style="left:([\d.]+)%', html)]
    assert len(places) <= 14 and all(b - a > 5 for a, b in itertools.pairwise(places))


def test_text_from_outside_is_escaped() -> None:
    """Plain text and Markdown list the rows; HTML escapes markup in a label."""
    row = TimelineRow("<b>x</b>", "critical", "11:00–12:00", ())
    made = timeline("Alerts", DAY, [row], ["a note"])
    assert made.plain == "Alerts\n  ◆ 11:00–12:00  <b>x</b> (critical)"
    assert "<b>" not in made.html and "a note" in made.html and "&lt;b&gt;" in made.markdown
