"""Test that the scripted day, its posts and its expected figures agree and do not change."""

import itertools
import json
import time
from collections import defaultdict
from datetime import UTC, datetime, timedelta

import pytest

from opslib.simulation.demo_day.expected_figures import compute, naive
from opslib.simulation.world.page import posts
from opslib.simulation.world.script import HOSTILE_MESSAGE, POST_INTERVAL_S, script

OPENS = datetime(2026, 3, 10, 13, 30, tzinfo=UTC)
CLOSES = datetime(2026, 3, 10, 20, 0, tzinfo=UTC)
SUMMED = ("massive", "tradier", "greeks")


def written(seed=1, quiet=False, closes=CLOSES):
    return script(seed, opens=OPENS, closes=closes, quiet=quiet)


@pytest.fixture(scope="module")
def day():
    return written()


@pytest.fixture(scope="module")
def posted(day):
    return list(posts(day))


@pytest.fixture(scope="module")
def true(day):
    return compute(day)


def counters(body):
    """Return the counts of a posted body, grouped and named as by compute()."""
    providers = {
        name: {
            "requests": provider["requestCount"],
            "ok": provider["successCount"],
            "failed": provider["failureCount"],
            "fallbacks": provider["fallbackCount"],
        }
        for name, provider in body["providers"].items()
    }
    greeks, pnl = body["greeksQuality"], body["pnl"]
    return {
        **providers,
        "greeks": {
            "validations": greeks["totalTrades"],
            "valid": greeks["validGreeks"],
            "gamma_zero": greeks["gammaIsZero"],
            "delta_out_of_bounds": greeks["deltaOutOfBounds"],
            "iv_anomalies": greeks["ivAnomalies"],
        },
        "system": {"errors": body["systemHealth"]["errorCount"], "trades": pnl["totalTrades"]},
    }


def flat(figures):
    """Return compute()'s counts in the shape of counters()."""
    system = {"errors": figures["errors"], "trades": figures["pnl"]["trades"]}
    return {**{group: figures[group] for group in SUMMED}, "system": system}


def added(*grouped, sign=1):
    total = defaultdict(lambda: defaultdict(int))
    for index, groups in enumerate(grouped):
        for group, names in groups.items():
            for name, value in names.items():
                total[group][name] += value if index == 0 else sign * value
    return {group: dict(names) for group, names in total.items()}


def by_page(posted):
    bodies = defaultdict(list)
    for post in posted:
        bodies[post.page].append(post)
    return bodies


def test_the_same_seed_gives_the_same_day(day, posted):
    again = written()
    assert again == day
    assert list(posts(again)) == posted


def test_another_seed_gives_other_times_and_figures(day, true):
    other = written(seed=2)
    assert [t.begins for t in other.faults] != [t.begins for t in day.faults]
    assert compute(other)["session"]["visible"] != true["session"]["visible"]


@pytest.mark.parametrize("closes", [CLOSES, OPENS + timedelta(minutes=210)])
@pytest.mark.parametrize("seed", range(1, 8))
def test_hours_add_up_to_the_session(seed, closes):
    figures = compute(written(seed, closes=closes))
    hours = [flat(hour["visible"]) for hour in figures["hours"]]
    assert added(*hours) == flat(figures["session"]["visible"])
    for name in ("restarts", "websocket_down_s"):
        assert sum(hour[name] for hour in figures["hours"]) == figures["session"][name]


def test_counts_by_page_load_equal_the_expected_ones(posted, true):
    """The expected counts are the sum over page loads of the last body minus the last body at or before the open."""
    parts = []
    for page_posts in by_page(posted).values():
        before = [post for post in page_posts if post.at <= OPENS]
        start = [counters(before[-1].body)] if before else []
        parts.append(added(counters(page_posts[-1].body), *start, sign=-1))
    assert added(*parts) == flat(true["session"]["visible"])


def test_the_last_body_of_a_page_counts_all_its_events(day, posted):
    for key, page_posts in by_page(posted).items():
        last = page_posts[-1]
        events = [e for e in day.events if e.page == key and e.at <= last.at]
        kinds = [event.kind for event in events]
        counted = counters(last.body)
        assert counted["greeks"]["validations"] == kinds.count("greeks")
        assert counted["system"] == {
            "errors": kinds.count("error"),
            "trades": kinds.count("trade"),
        }
        requests = sum(counted[name]["requests"] for name in ("massive", "tradier"))
        assert requests == kinds.count("request")


def test_counters_and_clocks_only_increase_within_a_page_load(posted):
    for page_posts in by_page(posted).values():
        for earlier, later in itertools.pairwise(page_posts):
            rise = added(counters(later.body), counters(earlier.body), sign=-1)
            assert min(value for names in rise.values() for value in names.values()) >= 0
            assert later.body["lastUpdateAt"] > earlier.body["lastUpdateAt"]
            assert later.body["systemHealth"]["uptime"] > earlier.body["systemHealth"]["uptime"]
            assert (later.at - earlier.at).total_seconds() == POST_INTERVAL_S


def test_posts_are_in_order_of_time_and_end_with_the_session(posted):
    keys = [(post.at, post.page) for post in posted]
    assert keys == sorted(keys)
    last = {page: page_posts[-1].at for page, page_posts in by_page(posted).items()}
    assert last["trader-2"] == CLOSES
    assert CLOSES - timedelta(seconds=POST_INTERVAL_S) < last["lead"] <= CLOSES


def test_bodies_are_json_and_separate_objects(posted):
    for post in posted[:: len(posted) // 50]:
        assert json.loads(json.dumps(post.body, allow_nan=False)) == post.body
    first = posted[0].body
    assert first is not posted[1].body
    assert first["providers"]["massive"] != posted[-1].body["providers"]["massive"]


def test_only_the_page_of_the_lead_has_an_id_and_memory(posted):
    for page, page_posts in by_page(posted).items():
        for post in page_posts:
            assert ("page" in post.body) == ("client" in post.body) == (page == "lead")
    memory = [post.body["client"]["memoryBytes"] for post in by_page(posted)["lead"]]
    assert memory == sorted(memory)
    assert 31_000_000 <= memory[0] < memory[-1] <= 38_000_000


def test_the_clock_of_the_lead_is_ahead_and_drifts(posted):
    ahead = [p.body["lastUpdateAt"] / 1000 - p.at.timestamp() for p in by_page(posted)["lead"]]
    assert 1.99 <= min(ahead) < 2.1
    assert 2.7 < max(ahead) <= 2.81


def test_every_request_to_massive_fails_in_the_outage(day):
    outage = next(t for t in day.faults if t.name == "massive_outage")
    assert 11 <= (outage.ends - outage.begins).total_seconds() / 60 <= 14
    during = [e for e in day.events if outage.begins <= e.at < outage.ends]
    massive = [e for e in during if e.kind == "request" and e.data["provider"] == "massive"]
    assert massive and not any(e.data["ok"] for e in massive)
    fallbacks = sum(e.kind == "fallback" for e in day.events)
    assert fallbacks == sum(e.data.get("type") == "API_ERROR" for e in day.events)


def test_variance_exceeds_ten_points_after_noon(day):
    noon = OPENS + timedelta(minutes=150)
    points = [(e.at, e.data["points"]) for e in day.events if e.kind == "variance"]
    assert max(value for at, value in points if at < noon) < 5
    assert max(value for _, value in points) > 10


def test_the_websocket_is_down_on_every_open_page(day, posted):
    loss = next(t for t in day.faults if t.name == "websocket_loss")
    during = [p for p in posted if loss.begins <= p.at < loss.ends]
    assert {p.page for p in during} == {"trader-2", "lead"}
    assert not any(p.body["systemHealth"]["webSocketConnected"] for p in during)
    outside = [p for p in posted if not loss.begins <= p.at < loss.ends]
    assert all(p.body["systemHealth"]["webSocketConnected"] for p in outside)


def test_one_error_message_is_hostile(posted):
    messages = {p.body["systemHealth"].get("lastErrorMessage") for p in posted}
    assert HOSTILE_MESSAGE in messages
    assert "lastErrorAt" not in by_page(posted)["trader-2"][0].body["systemHealth"]


def test_last_minus_first_body_gives_wrong_counts(day, true):
    wrong, right = naive(day), true["session"]["visible"]
    assert wrong["massive"]["requests"] < right["massive"]["requests"] / 2
    assert wrong["massive"]["fallbacks"] == 0 < right["massive"]["fallbacks"]


def test_a_quiet_day_has_no_faults():
    quiet = written(quiet=True)
    figures = compute(quiet)
    assert quiet.faults == ()
    assert [life.key for life in quiet.pages] == ["trader", "lead"]
    assert figures["restarts"] == figures["session"]["websocket_down_s"] == 0
    massive = figures["session"]["visible"]["massive"]
    assert massive["fallbacks"] == 0
    assert massive["failed"] / massive["requests"] < 0.005
    assert not any(e.data.get("message") == HOSTILE_MESSAGE for e in quiet.events)


def test_a_day_is_written_within_two_seconds():
    started_s = time.perf_counter()
    assert sum(1 for _ in posts(written(seed=3))) > 8000
    assert time.perf_counter() - started_s < 2


def test_expected_figures_are_plain_json(true):
    assert json.loads(json.dumps(true, allow_nan=False)) == true


def test_golden_figures_of_seed_1(day, true, posted):
    session = true["session"]["visible"]
    assert (len(day.events), len(posted)) == (41808, 8501)
    assert session["massive"] == {"requests": 17639, "ok": 16104, "failed": 1535, "fallbacks": 493}
    assert session["greeks"] == {
        "validations": 10782,
        "valid": 10558,
        "gamma_zero": 124,
        "delta_out_of_bounds": 29,
        "iv_anomalies": 23,
    }
    assert (session["errors"], session["pnl"]["trades"]) == (513, 54)
    assert session["pnl"]["net_pct"] == pytest.approx(-3.259944647, abs=1e-9)
    assert true["session"]["websocket_down_s"] == 230.0
    assert (true["restarts"], true["pages"], true["page_loads"]) == (1, 2, 3)
