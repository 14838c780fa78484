"""What a figure of the tape amounts to: what rules are about is measured, and never invented."""

import functools
from datetime import timedelta

import pytest

from opslib.alerting import evaluation, history, replay
from opslib.alerting.evaluation import Windows
from opslib.foundation import clock, market_calendar, time_parsing
from opslib.foundation.clock import Window
from opslib.foundation.config import rules
from tests.support.snapshots import CLOSES, OPENS, PageOf, at, tape, window


@functools.cache
def table():
    """The shipped table."""
    return rules.load()


def observe(t, name, subject, w):
    """The figure of a rule over a window."""
    windows = Windows(w.end)
    windows[w.end - w.start] = w
    return evaluation.measure_page(t, table(), table()[name], subject, windows, w.end - w.start)


def found_on(looks, session):
    """The alerts of a session, as the tape of all its looks tells them."""
    return history.lives(
        history.read(replay.replay_view(tape(looks), table(), session.start_us, session.end_us), table())
    )


def counting(until, every=5.0, **steps):
    """Looks of a page that counts the same at each post."""
    made, looks = PageOf(-600).add(massive_requests=500, validations=500), []
    for k in range(int(until / every) + 1):
        looks.append(made.add(**steps).look(every * k))
    return looks


def test_no_look_is_unknown_and_no_alert_but_silence():
    """A day of nothing after a look fires nothing but silence."""
    looks = counting(300, massive_requests=3, validations=3)
    (silence,) = [a for a in found_on(looks, window(0, 3600)) if not a.worst.inhibited_by]
    assert (silence.worst.rule, silence.worst.severity, silence.over_us) == ("silence", "escalate", None)
    assert clock.instant(silence.began_us) == at(300)  # When the last look came, not when the limit was passed.


def test_an_app_never_seen_is_not_measured():
    """Without a look ever, nothing is measured, nothing counts and nothing is wrong."""
    empty = tape([])
    judged = evaluation.at(empty, table(), window(0, 3600))
    assert {f.verdict for f in judged} == {"unknown"} and not any(f.counted for f in judged)
    assert replay.replay_view(empty, table(), window(0, 600).start_us, window(0, 600).end_us) == []


def test_a_closed_market_is_not_expected():
    """After the close nothing is expected of the pages and nothing counts against them."""
    night = Window(CLOSES + timedelta(hours=1), CLOSES + timedelta(hours=2))
    judged = evaluation.at(tape(counting(300, massive_requests=3, validations=3)), table(), night)
    assert {f.rule.name for f in judged if f.counted} == set()


def test_one_look_in_the_open_market_judges_nothing_green():
    """A single look shows no increase: rates are unknown, not ok."""
    t = tape(counting(0, massive_requests=3, validations=3))
    verdicts = {f.rule.name: f.verdict for f in evaluation.at(t, table(), window(-300, 300)) if f.rule.gate == "wilson"}
    assert set(verdicts.values()) == {"unknown"}


def test_every_rule_and_subject_is_judged_once_in_order():
    """One finding for each rule and subject, in the table's order."""
    judged = evaluation.at(tape(counting(300, massive_requests=3)), table(), window(0, 300))
    assert [(f.rule.name, f.subject) for f in judged] == [
        (r.name, s) for r in table().rules.values() if not r.burn for s in r.subjects
    ]


def test_errors_of_a_short_window_are_the_least_an_hour_holds():
    """Six errors in five minutes are six an hour at least, not seventy-two; of two hours, half."""
    t = tape(counting(7200, every=60, errors=1, massive_requests=3))
    assert observe(t, "errors", "app", window(0, 300)).value == 5
    assert observe(t, "errors", "app", window(0, 7200)).value == 60


def test_a_stretch_shorter_than_its_hold_is_none():
    """A socket back within the rule's `for` fires nothing; one gone for longer does, and is over when it is back."""
    made, looks = PageOf(-600), []
    for k in range(241):
        now = 5.0 * k
        looks.append(
            made.add(massive_requests=1).look(now, websocket_connected=not (298 <= now < 308 or 600 <= now < 700))
        )
    (found,) = [a for a in found_on(looks, window(0, 1200)) if a.worst.rule == "websocket_down"]
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
    made, looks = PageOf(-600, trades=6), []
    for k in range(241):
        value = [points for since, points in spans if 5 * k >= since][-1]
        looks.append(made.add(massive_requests=1).look(5.0 * k, backtest_variance_pp=value))
    return [a for a in found_on(looks, window(0, 1200)) if a.worst.rule == "backtest_variance"]


def test_an_alert_has_held():
    """Variance past its limit for a minute fires nothing, for three minutes it does: the rule asks for two."""
    assert varying((0, 3.0), (300, 12.0), (360, 3.0)) == []
    (found,) = varying((0, 3.0), (300, 12.0), (480, 3.0))
    assert (clock.instant(found.began_us), found.state, found.worst.severity) == (at(300), "resolved", "notify")
    assert clock.instant(found.over_us) == at(480) + table()["backtest_variance"].keep_firing_for


def test_what_is_unknown_ends_no_alert():
    """A minute of which nothing is known neither ends an alert nor makes two of it, and its time counts for nothing."""
    (found,) = varying((0, 3.0), (300, 12.0), (400, None), (460, 7.0), (600, 4.0))
    assert (clock.instant(found.began_us), found.worst.peak) == (at(300), 12.0)
    assert (clock.instant(found.worst.fired_us), found.worst.severity) == (
        at(300) + timedelta(seconds=120 + 60),
        "warning",
    )


def test_variance_below_five_trades_is_not_counted():
    """Four trades of a page say nothing about variance, five do, and its sign does not matter."""
    for trades, verdict, counted in ((4, "unknown", False), (5, "critical", True)):
        made = PageOf(-600, trades=trades, backtest_variance_pp=-17.0)
        (found,) = [
            f
            for f in evaluation.at(tape([made.look(0), made.look(5)]), table(), window(0, 10))
            if f.rule.name == "backtest_variance"
        ]
        assert (found.verdict, found.counted) == (verdict, counted)


def test_memory_is_that_of_the_largest_page():
    """The largest page of the window is judged; without any that tells it, nothing is measured."""
    a, b = PageOf(-600), PageOf(-500, page_id="b")
    t = tape([a.look(0, memory_bytes=30_000_000), b.look(1, memory_bytes=120_000_000)])
    assert observe(t, "memory", "app", window(-1, 5)).value == 120.0
    assert observe(tape([a.look(2)]), "memory", "app", window(-1, 5)).absent == "not measured"


@pytest.mark.parametrize(
    "more",
    [
        {"validations": 200, "gamma_zero": 300},
        {"validations": 200, "delta_out_of_bounds": 201},
        {"massive_requests": 30, "massive_successes": 80},
    ],
)
def test_counters_that_contradict_each_other_break_no_view(more):
    """A page whose parts rise by more than their whole is judged without a crash, and never as ok."""
    made = PageOf(-600).add(massive_requests=500, massive_successes=100, validations=500)
    looks = [made.look(0)]
    made.add(**more)
    looks += [made.look(5.0 * k) for k in range(1, 61)]
    name = {"gamma_zero": "gamma_zero", "delta_out_of_bounds": "delta_out_of_bounds"}.get(
        list(more)[-1], "availability"
    )
    assert {
        f.verdict
        for f in evaluation.at(tape(looks), table(), window(0, 300))
        if f.rule.name == name and f.subject in ("app", "massive")
    } - {"ok"}


def test_the_days_of_the_tests_are_trading_days():
    """The tests' session is the one the clock knows."""
    assert market_calendar.session(time_parsing.parse_day("2026-03-10")).window == Window(OPENS, CLOSES)
