"""Figures measured from counters: each rule's figure is measured or unknown, never invented."""

import functools
from datetime import timedelta

import pytest

from opslib.alerting import evaluation, history, replay
from opslib.alerting.evaluation import Windows
from opslib.foundation import clock, market_calendar, time_parsing
from opslib.foundation.clock import Window
from opslib.foundation.config import rules
from tests.support.snapshots import CLOSES, OPENS, PageOf, at, counter_history, window


@functools.cache
def table():
    """Return the shipped rules."""
    return rules.load()


def observe(t, name, subject, w):
    """Return the figure of a rule over a window."""
    windows = Windows(w.end)
    windows[w.end - w.start] = w
    return evaluation.measure_page(t, table(), table()[name], subject, windows, w.end - w.start)


def found_on(snapshots, session):
    """Return the alert episodes of a session, from all its snapshots."""
    return history.episodes(
        history.severity_changes(
            replay.replay_view(counter_history(snapshots), table(), session.start_us, session.end_us), table()
        )
    )


def counting(until, every=5.0, **steps):
    """Return snapshots of a page whose counters increase steadily."""
    made, snapshots = PageOf(-600).add(massive_requests=500, validations=500), []
    for k in range(int(until / every) + 1):
        snapshots.append(made.add(**steps).snapshot(every * k))
    return snapshots


def test_no_snapshot_fires_only_silence():
    """If no snapshots come after the first minutes, only silence fires."""
    snapshots = counting(300, massive_requests=3, validations=3)
    (silence,) = [a for a in found_on(snapshots, window(0, 3600)) if not a.worst.inhibited_by]
    assert (silence.worst.rule, silence.worst.severity, silence.over_us) == ("silence", "escalate", None)
    # The time of the last snapshot, not the time at which the threshold was crossed.
    assert clock.instant(silence.began_us) == at(300)


def test_an_app_never_seen_is_not_measured():
    """Without any snapshot nothing is measured or evaluated."""
    empty = counter_history([])
    judged = evaluation.evaluate_window(empty, table(), window(0, 3600))
    assert {f.verdict for f in judged} == {"unknown"} and not any(f.counted for f in judged)
    assert replay.replay_view(empty, table(), window(0, 600).start_us, window(0, 600).end_us) == []


def test_nothing_is_expected_while_the_market_is_closed():
    """After the close nothing is expected of the pages."""
    night = Window(CLOSES + timedelta(hours=1), CLOSES + timedelta(hours=2))
    judged = evaluation.evaluate_window(
        counter_history(counting(300, massive_requests=3, validations=3)), table(), night
    )
    assert {f.rule.name for f in judged if f.counted} == set()


def test_one_snapshot_gives_no_rate():
    """A single snapshot gives no increase: rates are unknown, not ok."""
    t = counter_history(counting(0, massive_requests=3, validations=3))
    verdicts = {
        f.rule.name: f.verdict
        for f in evaluation.evaluate_window(t, table(), window(-300, 300))
        if f.rule.gate == "wilson"
    }
    assert set(verdicts.values()) == {"unknown"}


def test_one_finding_per_rule_and_subject():
    """There is one finding per rule and subject, in the order of the rules."""
    judged = evaluation.evaluate_window(counter_history(counting(300, massive_requests=3)), table(), window(0, 300))
    assert [(f.rule.name, f.subject) for f in judged] == [
        (r.name, s) for r in table().rules.values() if not r.burn for s in r.subjects
    ]


def test_errors_of_a_short_window_are_a_lower_bound():
    """Errors are counted, not extrapolated: five in five minutes are 5 per hour, 120 in two hours are 60 per hour."""
    t = counter_history(counting(7200, every=60, errors=1, massive_requests=3))
    assert observe(t, "errors", "app", window(0, 300)).value == 5
    assert observe(t, "errors", "app", window(0, 7200)).value == 60


def test_a_breach_shorter_than_for_fires_nothing():
    """A socket that is back within the rule's `for` fires nothing; a longer outage fires and resolves."""
    made, snapshots = PageOf(-600), []
    for k in range(241):
        now = 5.0 * k
        snapshots.append(
            made.add(massive_requests=1).snapshot(now, websocket_connected=not (298 <= now < 308 or 600 <= now < 700))
        )
    (found,) = [a for a in found_on(snapshots, window(0, 1200)) if a.worst.rule == "websocket_down"]
    assert abs(clock.instant(found.began_us) - at(600)) <= timedelta(seconds=5) and found.worst.severity == "critical"
    assert (
        at(700)
        <= clock.instant(found.over_us)
        <= at(700) + table()["websocket_down"].keep_firing_for + timedelta(seconds=10)
    )


def varying(*spans):
    """Return the variance alerts of a page with six trades in twenty minutes; each span is (from second, variance)."""
    made, snapshots = PageOf(-600, trades=6), []
    for k in range(241):
        value = [points for since, points in spans if 5 * k >= since][-1]
        snapshots.append(made.add(massive_requests=1).snapshot(5.0 * k, backtest_variance_pp=value))
    return [a for a in found_on(snapshots, window(0, 1200)) if a.worst.rule == "backtest_variance"]


def test_an_alert_fires_after_its_for():
    """Variance above its threshold for one minute does not fire, for three minutes it does: `for` is two minutes."""
    assert varying((0, 3.0), (300, 12.0), (360, 3.0)) == []
    (found,) = varying((0, 3.0), (300, 12.0), (480, 3.0))
    assert (clock.instant(found.began_us), found.state, found.worst.severity) == (at(300), "resolved", "notify")
    assert clock.instant(found.over_us) == at(480) + table()["backtest_variance"].keep_firing_for


def test_missing_data_do_not_end_an_alert():
    """A minute without data neither ends nor splits an alert, and does not count towards `for`."""
    (found,) = varying((0, 3.0), (300, 12.0), (400, None), (460, 7.0), (600, 4.0))
    assert (clock.instant(found.began_us), found.worst.peak) == (at(300), 12.0)
    assert (clock.instant(found.worst.fired_us), found.worst.severity) == (
        at(300) + timedelta(seconds=120 + 60),
        "warning",
    )


def test_variance_needs_five_trades():
    """Four trades are too few for the variance, five are enough; the sign does not matter."""
    for trades, verdict, counted in ((4, "unknown", False), (5, "critical", True)):
        made = PageOf(-600, trades=trades, backtest_variance_pp=-17.0)
        (found,) = [
            f
            for f in evaluation.evaluate_window(
                counter_history([made.snapshot(0), made.snapshot(5)]), table(), window(0, 10)
            )
            if f.rule.name == "backtest_variance"
        ]
        assert (found.verdict, found.counted) == (verdict, counted)


def test_memory_is_that_of_the_largest_page():
    """The memory figure is that of the largest page in the window; without memory values it is not measured."""
    a, b = PageOf(-600), PageOf(-500, page_id="b")
    t = counter_history([a.snapshot(0, memory_bytes=30_000_000), b.snapshot(1, memory_bytes=120_000_000)])
    assert observe(t, "memory", "app", window(-1, 5)).value == 120.0
    assert observe(counter_history([a.snapshot(2)]), "memory", "app", window(-1, 5)).absent == "not measured"


@pytest.mark.parametrize(
    "more",
    [
        {"validations": 200, "gamma_zero": 300},
        {"validations": 200, "delta_out_of_bounds": 201},
        {"massive_requests": 30, "massive_successes": 80},
    ],
)
def test_contradicting_counters_are_never_ok(more):
    """Contradicting counters do not crash the evaluation and are never ok."""
    made = PageOf(-600).add(massive_requests=500, massive_successes=100, validations=500)
    snapshots = [made.snapshot(0)]
    made.add(**more)
    snapshots += [made.snapshot(5.0 * k) for k in range(1, 61)]
    name = {"gamma_zero": "gamma_zero", "delta_out_of_bounds": "delta_out_of_bounds"}.get(
        list(more)[-1], "availability"
    )
    assert {
        f.verdict
        for f in evaluation.evaluate_window(counter_history(snapshots), table(), window(0, 300))
        if f.rule.name == name and f.subject in ("app", "massive")
    } - {"ok"}


def test_the_days_of_the_tests_are_trading_days():
    """The day used in the tests is a session of the calendar."""
    assert market_calendar.session(time_parsing.parse_day("2026-03-10")).window == Window(OPENS, CLOSES)
