"""Figures measured from counters: each rule's figure is measured and never invented."""

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
    """The shipped table."""
    return rules.load()


def observe(t, name, subject, w):
    """The figure of a rule over a window."""
    windows = Windows(w.end)
    windows[w.end - w.start] = w
    return evaluation.measure_page(t, table(), table()[name], subject, windows, w.end - w.start)


def found_on(snapshots, session):
    """The alerts of a session, from all its snapshots."""
    return history.episodes(
        history.severity_changes(
            replay.replay_view(counter_history(snapshots), table(), session.start_us, session.end_us), table()
        )
    )


def counting(until, every=5.0, **steps):
    """Snapshots of a page with constant increases."""
    made, snapshots = PageOf(-600).add(massive_requests=500, validations=500), []
    for k in range(int(until / every) + 1):
        snapshots.append(made.add(**steps).snapshot(every * k))
    return snapshots


def test_no_snapshot_fires_only_silence():
    """A day without snapshots after the first one fires only silence."""
    snapshots = counting(300, massive_requests=3, validations=3)
    (silence,) = [a for a in found_on(snapshots, window(0, 3600)) if not a.worst.inhibited_by]
    assert (silence.worst.rule, silence.worst.severity, silence.over_us) == ("silence", "escalate", None)
    assert clock.instant(silence.began_us) == at(300)  # When the last snapshot came, not when the limit was passed.


def test_an_app_never_seen_is_not_measured():
    """Without any snapshot nothing is measured or evaluated."""
    empty = counter_history([])
    judged = evaluation.evaluate_window(empty, table(), window(0, 3600))
    assert {f.verdict for f in judged} == {"unknown"} and not any(f.counted for f in judged)
    assert replay.replay_view(empty, table(), window(0, 600).start_us, window(0, 600).end_us) == []


def test_a_closed_market_is_not_expected():
    """After the close nothing is expected of the pages."""
    night = Window(CLOSES + timedelta(hours=1), CLOSES + timedelta(hours=2))
    judged = evaluation.evaluate_window(
        counter_history(counting(300, massive_requests=3, validations=3)), table(), night
    )
    assert {f.rule.name for f in judged if f.counted} == set()


def test_one_snapshot_gives_no_rate():
    """A single snapshot has no increase: rates are unknown, not ok."""
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
    """Six errors in five minutes are at least six per hour, not 72; in two hours half of that."""
    t = counter_history(counting(7200, every=60, errors=1, massive_requests=3))
    assert observe(t, "errors", "app", window(0, 300)).value == 5
    assert observe(t, "errors", "app", window(0, 7200)).value == 60


def test_a_stretch_shorter_than_for_fires_nothing():
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
    """
    The alerts of variance of a page with six trades, whose variance is such from such a second on, for twenty minutes.
    """
    made, snapshots = PageOf(-600, trades=6), []
    for k in range(241):
        value = [points for since, points in spans if 5 * k >= since][-1]
        snapshots.append(made.add(massive_requests=1).snapshot(5.0 * k, backtest_variance_pp=value))
    return [a for a in found_on(snapshots, window(0, 1200)) if a.worst.rule == "backtest_variance"]


def test_an_alert_fires_after_its_for():
    """Variance above its limit for one minute fires nothing, for three it does: `for` is two minutes."""
    assert varying((0, 3.0), (300, 12.0), (360, 3.0)) == []
    (found,) = varying((0, 3.0), (300, 12.0), (480, 3.0))
    assert (clock.instant(found.began_us), found.state, found.worst.severity) == (at(300), "resolved", "notify")
    assert clock.instant(found.over_us) == at(480) + table()["backtest_variance"].keep_firing_for


def test_what_is_unknown_ends_no_alert():
    """A minute without data neither ends nor splits an alert, and does not count."""
    (found,) = varying((0, 3.0), (300, 12.0), (400, None), (460, 7.0), (600, 4.0))
    assert (clock.instant(found.began_us), found.worst.peak) == (at(300), 12.0)
    assert (clock.instant(found.worst.fired_us), found.worst.severity) == (
        at(300) + timedelta(seconds=120 + 60),
        "warning",
    )


def test_variance_needs_five_trades():
    """Four trades are too few for the variance, five are enough, and the sign does not matter."""
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
    """The largest page of the window counts; without memory values nothing is measured."""
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
def test_counters_that_contradict_each_other_break_no_view(more):
    """Contradicting counters are evaluated without a crash, and never as ok."""
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
    """The tests' session is a session of the calendar."""
    assert market_calendar.session(time_parsing.parse_day("2026-03-10")).window == Window(OPENS, CLOSES)
