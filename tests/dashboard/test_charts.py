"""Test charts: the thresholds are in the picture, their labels apart, and an axis in % is broken below 90."""

import itertools
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from opslib.dashboard import charts, status
from opslib.dashboard.charts import apart
from opslib.foundation.config import settings
from opslib.foundation.config.workspace import Workspace
from opslib.telemetry.pages.store import SnapshotStore
from tests.support import days


@pytest.mark.parametrize(
    ("heights", "expected"),
    [
        ([], []),
        ([0.5], [0.5]),
        ([0.1, 0.9], [0.1, 0.9]),
        ([0.5, 0.5], [0.45, 0.55]),
        ([0.55, 0.45, 0.5], [0.6, 0.4, 0.5]),
    ],
)
def test_labels_are_moved_apart(heights: list[float], expected: list[float]) -> None:
    """Labels keep their order; they stay in place if there is room, and move closely around it otherwise."""
    assert apart(heights, 0.1) == pytest.approx(expected)


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Return a workspace with the scripted day, in which Massive fails for a while."""
    desk = Workspace(settings.load(tmp_path_factory.mktemp("home"), "desk", {}))
    SnapshotStore(desk.store).write("desk", days.posts(), known_at_ts=True)
    return desk


def _drawn(draw: Callable[..., Any], view: status.Status) -> Any:
    figure = Figure(figsize=charts.SIZE_INCHES, dpi=charts.DPI)
    FigureCanvasAgg(figure)
    ax = figure.subplots()
    draw(ax, view.counters, view.window, view.rules)
    figure.draw_without_rendering()
    return ax


@pytest.fixture(scope="module")
def drawn(desk: Workspace) -> Any:
    """Return the chart of availability of the day."""
    return _drawn(charts.providers, status.view_at(desk, days.at("16:00"), days.at("16:00") - days.at("09:30")))


@pytest.mark.parametrize("draw", [charts.pnl, charts.greeks])
def test_the_label_of_a_threshold_is_at_its_line(draw: Callable[..., Any], desk: Workspace) -> None:
    """Thresholds that are far apart have their labels at the height of their lines, each with the line's value."""
    ax = _drawn(draw, status.view_at(desk, days.at("11:27"), timedelta(hours=1)))
    labels = [text for text in ax.texts if text.get_text().startswith(("△", "▲", "◆", "■"))]
    assert len(labels) >= 2
    for text in labels:
        height = ax.transAxes.transform((0, text.get_position()[1]))[1]
        assert height == pytest.approx(ax.transData.transform((0, float(text.get_text().split()[-1])))[1], abs=1)


def test_every_threshold_has_its_own_label(drawn: Any) -> None:
    """The labels of 99, 98 and 95 % are all in the picture and do not overlap."""
    labels = [text for text in drawn.texts if text.get_text().startswith(("△", "▲", "◆"))]
    assert [text.get_text() for text in labels] == ["△ warning 99", "▲ notify 98", "◆ critical 95"]
    boxes = [text.get_window_extent() for text in labels]
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))


def test_the_axis_is_broken_below_ninety(drawn: Any) -> None:
    """
    The range from 90 to 100 % takes most of the height; lower values are still in the picture, and the break is
    labelled.
    """
    zero, ninety, hundred = (drawn.transData.transform((0, value))[1] for value in (0, 90, 100))
    box = drawn.get_window_extent()
    assert box.y0 <= zero < ninety < hundred <= box.y1
    assert (hundred - ninety) / box.height > 0.6
    assert any("another scale" in text.get_text() for text in drawn.texts)


def test_the_axis_of_a_good_day_begins_at_ninety() -> None:
    """Without a value below 90 % nothing is compressed."""
    ax = Figure().subplots()
    charts._broken_below(ax, 99.5)
    assert ax.get_ylim() == (90, 100.4) and ax.get_yscale() == "linear" and not ax.texts


def test_steps_begin_at_full_minutes(desk: Workspace) -> None:
    """Charts of overlapping windows show the same value of a minute; only the first and the last step are shorter."""
    drawn = []
    for second in (15, 45):
        view = status.view_at(desk, days.at("11:27") + timedelta(seconds=second), timedelta(hours=1))
        drawn.append(dict(zip(*_drawn(charts.greeks, view).lines[0].get_data())))
        steps = charts._steps(view.window)
        assert (steps[0].start, steps[-1].end) == (view.window.start, view.window.end)
        assert {step.seconds for step in steps[1:-1]} == {60} and all(step.start.second == 0 for step in steps[1:])
    shared = drawn[0].keys() & drawn[1].keys()
    assert len(shared) >= 59 and all(drawn[0][at] == drawn[1][at] for at in shared)


@pytest.mark.parametrize("name", charts.OF_GREEKS)
def test_one_error_of_greeks_has_the_thresholds_of_its_rule(name: str, desk: Workspace) -> None:
    """The chart of an alert about one error of Greeks has that error's line and limits, not those of valid Greeks."""
    view = status.view_at(desk, days.at("11:27"), timedelta(hours=1))
    ax = _drawn(lambda ax, counters, window, rules: charts.invalid_greeks(ax, counters, window, rules[name]), view)
    labels = [text.get_text() for text in ax.texts if text.get_text().startswith(("△", "▲", "◆", "■"))]
    assert labels == ["△ warning 0.5", "▲ notify 2", "◆ critical 5"]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == [charts.OF_GREEKS[name]]
