"""What went wrong during a day is found when it happened, and nothing else is."""

import functools
from datetime import timedelta

import pytest
from looks import CLOSES, OPENS, PageOf, at, look_of, recorded_rows, tape, window

from opslib import clock, findings, rules
from opslib.clock import Window
from opslib.demo import page, tour

SENT = ("notify", "critical", "escalate")


@functools.cache
def table():
    """The shipped table."""
    return rules.load()


def found_on(looks, session):
    """Every episode of a session."""
    return findings.episodes(tape(looks), table(), session)


@pytest.fixture(scope="module")
def recorded_episodes(recorded):
    """The episodes of the recorded day."""
    session = clock.session(clock.parse_day("2025-11-18"))
    return found_on([look_of(t, m) for t, m in recorded_rows(recorded)], session.window)


def one(episodes, rule, subject="app"):
    """The one episode of a rule that is worth sending."""
    (found,) = [e for e in episodes if e.worst.rule.name == rule and e.worst.subject == subject and e.worst.severity in SENT]
    return found


def ny(text):
    """A moment of the recorded day, New York."""
    return clock.parse(f"2025-11-18T{text}")


def test_the_outage_is_found(recorded_episodes):
    """Massive's outage from 11:20 to 11:32 escalates within two minutes and ends when its window has passed it."""
    found = one(recorded_episodes, "availability", "massive")
    assert found.worst.severity == "escalate" and not found.ongoing
    assert ny("11:20") < found.began <= ny("11:22") and ny("11:32") < found.ended <= ny("11:32") + table()["availability"].window + timedelta(minutes=1)


def test_the_burst_of_gamma_zero_is_found(recorded_episodes):
    """The burst from 10:10 to 10:25 is critical within two minutes and over when its window is."""
    found = one(recorded_episodes, "gamma_zero")
    assert found.worst.severity == "critical"
    assert ny("10:10") < found.began <= ny("10:12") and ny("10:25") < found.ended <= ny("10:36")
    valid = one(recorded_episodes, "greeks_valid")
    assert ny("10:10") < valid.began <= ny("10:14") and ny("10:25") < valid.ended <= ny("10:36") and valid.worst.severity == "critical"


def test_the_lost_socket_is_found(recorded_episodes):
    """The socket is down from 14:30 to 14:34, which is critical after a minute and no escalation."""
    found = one(recorded_episodes, "websocket_down")
    assert found.worst.severity == "critical" and abs(found.began - ny("14:30:30")) <= timedelta(seconds=30) and abs(found.ended - ny("14:34")) <= timedelta(seconds=30)
    assert found.worst.figure.value == pytest.approx(240, abs=30)


def test_the_rising_variance_is_found(recorded_episodes):
    """Variance passes 5 at 13:15 and 10 at 15:15; between, a refresh leaves too few trades to say."""
    spans = [e for e in recorded_episodes if e.worst.rule.name == "backtest_variance"]
    assert spans and ny("13:15") <= spans[0].began <= ny("13:16")
    assert spans[-1].worst.severity == "notify" and spans[-1].worst.figure.value == pytest.approx(10.95, abs=0.2) and spans[-1].ongoing


def test_nothing_else_is_sent(recorded_episodes):
    """Beside the scripted troubles only the errors of the outage are worth sending, and they come with it."""
    sent = {(e.worst.rule.name, e.worst.subject) for e in recorded_episodes if e.worst.severity in SENT}
    assert sent == {("availability", "massive"), ("gamma_zero", "app"), ("greeks_valid", "app"), ("websocket_down", "app"), ("backtest_variance", "app"), ("errors", "app")}
    errors = one(recorded_episodes, "errors")
    assert ny("11:20") < errors.began <= ny("11:22") and errors.ended <= ny("12:33")


@pytest.mark.parametrize("seed", [1, 2, 3, 4, 5, 6, 7, 8])
def test_a_quiet_day_sends_nothing(seed):
    """On a day without troubles no episode is worth sending, whatever the seed."""
    quiet, _ = tour._scripts(seed)
    looks = [look_of(p.at, p.body) for p in page.posts(quiet)]
    sent = [e for e in found_on(looks, Window(quiet.opens, quiet.closes)) if e.worst.severity in SENT]
    assert sent == []


def counting(until, every=5.0, **steps):
    """Looks of a page that counts the same at each post."""
    made, looks = PageOf(-600).add(massive_requests=500, validations=500), []
    for k in range(int(until / every) + 1):
        looks.append(made.add(**steps).look(every * k))
    return looks


def test_no_look_is_unknown_and_no_episode_but_silence():
    """A day of nothing after a look begins no episode but that of silence."""
    looks = counting(300, massive_requests=3, validations=3)
    spans = found_on(looks, window(0, 3600))
    assert {e.worst.rule.name for e in spans} == {"silence"}
    (silence,) = spans
    assert silence.ongoing and silence.worst.severity == "escalate" and at(300) < silence.began <= at(390)


def test_an_app_never_seen_is_not_measured():
    """Without a look ever, nothing is measured, nothing counts and nothing is wrong."""
    empty = tape([])
    judged = findings.at(empty, table(), window(0, 3600))
    assert {f.verdict for f in judged} == {"unknown"} and not any(f.counted for f in judged)
    assert findings.episodes(empty, table(), window(0, 600)) == []


def test_a_closed_market_is_not_expected():
    """After the close nothing is expected of the pages and nothing counts against them."""
    night = Window(CLOSES + timedelta(hours=1), CLOSES + timedelta(hours=2))
    judged = findings.at(tape(counting(300, massive_requests=3, validations=3)), table(), night)
    assert {f.rule.name for f in judged if f.counted} == set()


def test_one_look_in_the_open_market_judges_nothing_green():
    """A single look shows no increase: rates are unknown, not ok."""
    t = tape(counting(0, massive_requests=3, validations=3))
    verdicts = {f.rule.name: f.verdict for f in findings.at(t, table(), window(-300, 300)) if f.rule.gate == "wilson"}
    assert set(verdicts.values()) == {"unknown"}


def test_every_rule_and_subject_is_judged_once_in_order():
    """One finding for each rule and subject, in the table's order."""
    judged = findings.at(tape(counting(300, massive_requests=3)), table(), window(0, 300))
    assert [(f.rule.name, f.subject) for f in judged] == [(r.name, s) for r in table().rules.values() for s in r.subjects]


def test_errors_of_a_short_window_are_the_least_an_hour_holds():
    """Six errors in five minutes are six an hour at least, not seventy-two; of two hours, half."""
    t = tape(counting(7200, every=60, errors=1, massive_requests=3))
    assert findings.observe(t, table()["errors"], "app", window(0, 300)).value == 5
    assert findings.observe(t, table()["errors"], "app", window(0, 7200)).value == 60


def test_a_stretch_shorter_than_its_hold_is_none():
    """A socket back within the rule's `for` is no episode; one gone for longer is."""
    made, looks = PageOf(-600), []
    for k in range(241):
        now = 5.0 * k
        looks.append(made.add(massive_requests=1).look(now, websocket_connected=not (298 <= now < 302 or 600 <= now < 700)))
    spans = [e for e in found_on(looks, window(0, 1200)) if e.worst.rule.name == "websocket_down"]
    # 300 s is on the grid: past the limit there, over at 330, and that is 30 s, more than the 15 of the rule.
    assert [e.began for e in spans][-1] <= at(630) and all(e.ended - e.began >= table()["websocket_down"].hold for e in spans)


def varying(*spans):
    """Looks of a page with six trades whose variance is such from such a second on, for twenty minutes."""
    made, looks = PageOf(-600, trades=6), []
    for k in range(241):
        value = [points for since, points in spans if 5 * k >= since][-1]
        looks.append(made.add(massive_requests=1).look(5.0 * k, backtest_variance_pp=value))
    return [e for e in found_on(looks, window(0, 1200)) if e.worst.rule.name == "backtest_variance"]


def test_an_episode_has_held():
    """Variance past its limit for a minute is none, for three minutes one: the rule asks for two."""
    assert varying((0, 3.0), (300, 12.0), (360, 3.0)) == []
    (found,) = varying((0, 3.0), (300, 12.0), (480, 3.0))
    assert (found.began, found.ended, found.ongoing, found.worst.severity) == (at(300), at(480), False, "notify")


def test_what_is_unknown_ends_no_episode():
    """A minute of which nothing is known neither ends an episode nor makes two of it."""
    (found,) = varying((0, 3.0), (300, 12.0), (400, None), (460, 7.0), (600, 4.0))
    assert (found.began, found.ended, found.worst.figure.value) == (at(300), at(600), 12.0)


def test_variance_below_five_trades_is_not_counted():
    """Four trades of a page say nothing about variance, five do, and its sign does not matter."""
    for trades, verdict, counted in ((4, "unknown", False), (5, "critical", True)):
        made = PageOf(-600, trades=trades, backtest_variance_pp=-17.0)
        (found,) = [f for f in findings.at(tape([made.look(0), made.look(5)]), table(), window(0, 10)) if f.rule.name == "backtest_variance"]
        assert (found.verdict, found.counted) == (verdict, counted)


def test_memory_is_that_of_the_largest_page():
    """The largest page of the window is judged; without any that tells it, nothing is measured."""
    a, b = PageOf(-600), PageOf(-500, page_id="b")
    t = tape([a.look(0, memory_bytes=30_000_000), b.look(1, memory_bytes=120_000_000)])
    assert findings.observe(t, table()["memory"], "app", window(-1, 5)).value == 120.0
    assert findings.observe(tape([a.look(2)]), table()["memory"], "app", window(-1, 5)).absent == "not measured"


@pytest.mark.parametrize("more", [{"validations": 200, "gamma_zero": 300}, {"validations": 200, "delta_out_of_bounds": 201}, {"massive_requests": 30, "massive_successes": 80}])
def test_counters_that_contradict_each_other_break_no_view(more):
    """A page whose parts rise by more than their whole is judged without a crash, and never as ok."""
    made = PageOf(-600).add(massive_requests=500, massive_successes=100, validations=500)
    looks = [made.look(0)]
    made.add(**more)
    looks += [made.look(5.0 * k) for k in range(1, 61)]
    name = {"gamma_zero": "gamma_zero", "delta_out_of_bounds": "delta_out_of_bounds"}.get(list(more)[-1], "availability")
    assert {f.verdict for f in findings.at(tape(looks), table(), window(0, 300)) if f.rule.name == name and f.subject in ("app", "massive")} - {"ok"}


def test_the_days_of_the_tests_are_trading_days():
    """The tests' session is the one the clock knows."""
    assert clock.session(clock.parse_day("2026-03-10")).window == Window(OPENS, CLOSES)
