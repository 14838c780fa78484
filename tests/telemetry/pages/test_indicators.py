"""
Indicators of a window: exact, with counter resets handled, per page, and unknown if the snapshots do not show them.
"""

import copy
import itertools
import json
import random
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import assume, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from opslib.foundation import time_parsing
from opslib.foundation.clock import Window
from opslib.foundation.storage import snapshot_columns
from opslib.telemetry.pages import indicators, snapshot
from opslib.telemetry.pages.store import Post, SnapshotStore
from tests.support.snapshots import (
    CLOSES,
    HOW,
    PageOf,
    at,
    counter_history,
    post,
    recorded_rows,
    snapshot_of,
    snapshot_row,
    store,
    stored_history,
    us,
    window,
)

HOURS = 6.5 * 3600
GROUP_OF = {
    "massive_requests": "massive",
    "validations": "greeks",
    "errors": "system",
    "trades": "pnl",
    "tradier_requests": "tradier",
}


class State:
    """A snapshot with its true page, its true load time, and the number of resets of each counter group so far."""

    def __init__(self, page, at_s, loaded, counts, epochs, made):
        self.page, self.at, self.loaded, self.counts, self.epochs, self.snapshot = (
            page,
            at_s,
            loaded,
            counts,
            epochs,
            made,
        )


def simulated(seed, pages=3, steps=60, lost=0.2):
    """States of pages with random counts, refreshes, resets, zeroed groups and lost posts."""
    rng = random.Random(seed)
    states, lives, loads = [], 0, []

    def free(now, skew):
        """Whether no other load is near this one by the pages' clocks. Loads at the same time have their own tests."""
        return all(abs(now + skew - other) > 12 for other in loads)

    for index in range(pages):
        loaded = -rng.randint(160, 400) if index == 0 else rng.choice([-rng.randint(160, 400), rng.randint(10, 100)])
        page_id = f"named-{index}" if rng.random() < 0.4 else None
        key, since, number = (index, 0), loaded, 0
        page = PageOf(loaded, page_id=page_id, skew=rng.choice([0, 2, -40, 180]))
        while not free(page.began, page.skew):
            page.skew += 13
        loads.append(page.began + page.skew)
        start = 1000 * 3**lives if page_id is None else 700
        lives += 1
        page.add(massive_requests=start, tradier_requests=300, validations=400, errors=300, trades=300)
        epochs, missed = dict.fromkeys(GROUP_OF.values(), 0), 0
        first = max(0, loaded + 3)
        for k in range(steps):
            now = first + 5 * k
            page.add(
                massive_requests=rng.randint(0, 3),
                tradier_requests=rng.randint(0, 1),
                validations=rng.randint(0, 3),
                errors=rng.randint(0, 2),
                trades=rng.randint(0, 2),
            )
            draw, old = rng.random() if k else 1.0, now - page.began >= 150 and free(now - 1, page.skew)
            if draw < 0.02 and old and page.held["massive_requests"] > 200 and page.held["tradier_requests"] > 200:
                page.refresh(now - 1)
                loads.append(now - 1 + page.skew)
                if page_id is None:
                    number += 1
                    key, since = (index, number), now - 1
                    page.add(massive_requests=1000 * 3**lives)
                    lives += 1
                page.add(massive_requests=2, tradier_requests=1, validations=rng.randint(0, 3), errors=1)
                epochs = {g: e + 1 for g, e in epochs.items()}
            elif draw < 0.05 and old:
                page.reset(now - 1)
                loads.append(now - 1 + page.skew)
                page.add(validations=rng.randint(0, 2))
                epochs |= {g: epochs[g] + 1 for g in ("greeks", "pnl", "system")}
            elif draw < 0.1:
                name, group = rng.choice(list(GROUP_OF.items())[:4])
                if page.held[name] > 200 and group not in ("massive",):
                    page.zero(group)
                    epochs = epochs | {group: epochs[group] + 1}
            if rng.random() < lost and missed < 8 and k:
                missed += 1
                continue
            missed = 0
            states.append(State(key, now, since, {n: page.held[n] for n in GROUP_OF}, dict(epochs), page.snapshot(now)))
    return states


def knowable(states, name, a, b):
    """The increase in (a, b] that the posts can show by the contract, counted from the true states, page by page."""
    total = 0
    for page in {t.page for t in states}:
        mine = sorted((t for t in states if t.page == page), key=lambda t: t.at)
        base = [t for t in mine if t.at <= a][-1:]
        inside = [t for t in mine if a < t.at <= b]
        if not base and inside:
            if inside[0].loaded > a:
                total += inside[0].counts[name]
            base, inside = inside[:1], inside[1:]
        before = base[0] if base else None
        for t in inside:
            same = t.epochs[GROUP_OF[name]] == before.epochs[GROUP_OF[name]]
            total += t.counts[name] - before.counts[name] if same else t.counts[name]
            before = t
    return total


@hypothesis_settings(max_examples=120, deadline=None)
@given(
    st.integers(0, 10**6),
    st.integers(1, 4),
    st.lists(st.integers(-50, 450), min_size=2, max_size=2, unique=True).map(sorted),
)
def test_every_increase_is_exact(seed, pages, ends):
    """
    For any pages and any window, the increases of requests, validations, errors and trades equal the true ones, as far
    as posts show them.
    """
    states = simulated(seed, pages)
    t, w = counter_history([k.snapshot for k in states]), window(*ends)
    for name in GROUP_OF:
        rise = t.increase(name, w)
        if not any(ends[0] < k.at <= ends[1] for k in states):
            assert rise is None
        else:
            assert rise == knowable(states, name, *ends), name
            assert type(rise) is int and rise >= 0


@hypothesis_settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.lists(st.integers(-50, 450), min_size=3, max_size=3, unique=True).map(sorted))
def test_windows_add_up(seed, ends):
    """The increases of two adjacent windows add up to that of the whole window, if no page was first seen in it."""
    states = simulated(seed)
    a, b, c = ends
    first = {p: min(t.at for t in states if t.page == p) for p in {t.page for t in states}}
    assume(not any(a < f <= c for f in first.values()))
    t = counter_history([k.snapshot for k in states])
    for name in GROUP_OF:
        assert (t.increase(name, window(a, c)) or 0) == (t.increase(name, window(a, b)) or 0) + (
            t.increase(name, window(b, c)) or 0
        )


@hypothesis_settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6))
def test_the_store_gives_the_same_increases(tmp_path_factory, seed):
    """A history read from the store gives the same increases as one built from all snapshots."""
    states = simulated(seed, steps=120)
    kept = store(tmp_path_factory.mktemp("store"))
    values = [{n: getattr(t.snapshot, n) for n in kept_names()} for t in states]
    SnapshotStore(kept).write("desk", [post_of(t, v) for t, v in zip(states, values)], known_at_ts=True)
    t = stored_history(kept, 400, 600)
    for name in GROUP_OF:
        assert (t.increase(name, window(400, 600)) or 0) == knowable(states, name, 400, 600)
    kept.close()


def kept_names():
    """Return the names of the values that a snapshot stores."""
    return [n for n in snapshot_columns.SnapshotRow._fields if n not in ("seq", "ts_us", "known_at_us", "digest")]


def post_of(state, values):
    """Return the post that a snapshot came from."""

    return Post(state.snapshot.ts_us, snapshot.Snapshot(values, state.snapshot.digest, b"{}"))


def test_a_window_counts_from_the_last_snapshot_before_it():
    """In a window (from, to], a snapshot at `from` is the start and a snapshot at `to` is inside."""
    page = PageOf(-600).add(massive_requests=100)
    snapshots = [page.add(massive_requests=10).snapshot(10 * k) for k in range(4)]  # 110 to 140, every 10 s.
    t = counter_history(snapshots)
    assert t.increase("massive_requests", window(10, 20)) == 10
    assert t.increase("massive_requests", window(9, 20)) == 20
    assert t.increase("massive_requests", window(10, 19)) is None
    assert t.increase("massive_requests", window(0, 30)) == 30


def test_a_page_loaded_inside_counts_from_zero_and_one_loaded_before_from_its_first_snapshot():
    """The load time decides whether the first snapshot of a page counts."""
    page = PageOf(7).add(massive_requests=40)
    t = counter_history([page.snapshot(12), page.add(massive_requests=2).snapshot(17)])
    assert t.increase("massive_requests", window(0, 20)) == 42
    assert t.increase("massive_requests", window(8, 20)) == 2
    assert t.increase("massive_requests", window(12, 20)) == 2


def test_a_page_reset_before_it_was_first_seen_does_not_count_its_providers():
    """
    If the last error is older than the load time, the page was reset, so its provider counters are older too and do not
    count.
    """
    page = PageOf(7).add(massive_requests=4000, validations=9)
    t = counter_history([page.snapshot(12, last_error_at_ms=us(-900) // 1000)])
    assert (t.increase("massive_requests", window(0, 20)), t.increase("validations", window(0, 20))) == (0, 9)


def test_nothing_known_is_none_not_zero():
    """The increase of a counter that no snapshot has is None."""
    page = PageOf(-600)
    t = counter_history([page.snapshot(0, errors=None), page.snapshot(5, errors=None)])
    assert t.increase("errors", window(0, 10)) is None and t.increase("validations", window(0, 10)) == 0


def test_a_group_that_is_absent_for_a_while_continues():
    """A snapshot without a group neither resets the group's counters nor doubles their increase."""
    page, snapshots = PageOf(-600).add(validations=100), []
    for k in range(4):
        metrics = page.add(validations=5).body(5 * k)
        if k in (1, 2):
            metrics["greeksQuality"] = None
        snapshots.append(snapshot_row(5 * k, metrics))
    assert counter_history(snapshots).increase("validations", window(0, 20)) == 15


def test_a_group_that_was_absent_while_it_was_zeroed_never_falls():
    """A counter that decreased counts from zero, also if a snapshot in between lacks it."""
    page = PageOf(-600).add(validations=100, massive_requests=50)
    snapshots = [page.snapshot(0)]
    metrics = page.body(5)
    metrics["greeksQuality"] = None
    snapshots.append(snapshot_row(5, metrics))
    snapshots.append(page.zero("greeks").add(validations=5).snapshot(10))
    assert counter_history(snapshots).increase("validations", window(0, 20)) == 5


def test_a_reset_of_a_young_page_in_a_gap_is_detected():
    """If a page's uptime grew by less than the time that passed, its counters were reset."""
    page = PageOf(0, page_id="lead").add(errors=1, massive_requests=50)
    snapshots = [page.snapshot(20)]
    page.reset(25).add(errors=3)
    snapshots.append(page.snapshot(50))
    assert counter_history(snapshots).increase("errors", window(20, 60)) == 3


def trading(page, gross, net, commission, slippage):
    """Add a trade to a page; its means are updated as in the app."""
    held, n = page.held, page.held["trades"] + 1
    for name, value in (("gross_mean_pct", gross), ("net_mean_pct", net), ("slippage_mean_usd", slippage)):
        held[name] = (held[name] * (n - 1) + value) / n
    held["trades"] = n
    held["commission_total_usd"] += commission
    return page


def test_means_of_a_window_are_of_its_trades():
    """The mean of a window's trades is computed from the differences of mean times count."""
    page = PageOf(-600)
    for _ in range(3):
        trading(page, 10.0, 8.0, 6.6, 100.0)
    snapshots = [
        page.snapshot(0),
        trading(page, 4.0, 1.0, 2.64, 30.0).snapshot(5),
        trading(page, -2.0, -6.0, 1.32, 11.5).snapshot(10),
    ]
    found = indicators.pnl(counter_history(snapshots), window(0, 10), 5)
    # (4 - 2) / 2 = 1, (1 - 6) / 2 = -2.5, 2.64 + 1.32 = 3.96, 30 + 11.5 = 41.5.
    assert found["trades"] == 2 and found["gross_pct"] == pytest.approx(1.0) and found["net_pct"] == pytest.approx(-2.5)
    assert (found["commission_usd"], found["slippage_usd"]) == (3.96, 41.5)


def test_means_over_two_pages_are_weighted_by_trades():
    """Three trades at 4 % on one page and one at 8 % on another have a mean of 5 %."""
    a, b = PageOf(1, page_id="a"), PageOf(2, page_id="b")
    for _ in range(3):
        trading(a, 4.0, 3.0, 1.0, 5.0)
    trading(b, 8.0, 7.0, 1.0, 5.0)
    found = indicators.pnl(counter_history([a.snapshot(5), b.snapshot(6)]), window(0, 10), 5)
    assert (found["trades"], found["gross_pct"], found["net_pct"], found["commission_usd"]) == (
        4,
        pytest.approx(5.0),
        pytest.approx(4.0),
        4.0,
    )


def test_no_trades_have_no_mean():
    """Without trades the mean is None, and the sums are 0."""
    page = PageOf(-600)
    found = indicators.pnl(counter_history([page.snapshot(0), page.snapshot(5)]), window(0, 10), 5)
    assert (found["trades"], found["gross_pct"], found["commission_usd"], found["slippage_usd"]) == (0, None, 0.0, 0.0)


def test_a_nan_makes_only_the_mean_unknown():
    """A trade with NaN makes the mean unknown from then until a reset, and leaves the other figures as they are."""
    page = PageOf(-600)
    snapshots = [page.snapshot(0), trading(page, 4.0, 1.0, 2.64, 30.0).snapshot(5)]
    spoiled = trading(page, 0.0, 0.0, 2.64, 30.0)
    snapshots += [spoiled.snapshot(10, gross_mean_pct=None), spoiled.snapshot(15, gross_mean_pct=None)]
    later = trading(page, 0.0, 0.0, 1.0, 10.0)
    snapshots.append(later.snapshot(20, gross_mean_pct=None))
    page.reset(22)
    snapshots.append(page.snapshot(25))
    snapshots.append(trading(page, 7.0, 6.0, 1.32, 9.0).snapshot(30))
    t = counter_history(snapshots)
    means = [indicators.pnl(t, window(*w), 5)["gross_pct"] for w in ((0, 5), (5, 10), (15, 20), (20, 30), (0, 30))]
    assert means == [pytest.approx(4.0), None, None, pytest.approx(7.0), None]
    assert (
        indicators.pnl(t, window(0, 20), 5)["commission_usd"] == 6.28
        and indicators.pnl(t, window(0, 20), 5)["trades"] == 3
    )


@pytest.mark.parametrize("beside", [True, False])
def test_a_nan_in_the_first_snapshot_makes_it_unknown_too(beside):
    """If the first snapshot of a page loaded in the window has NaN, the mean is unknown."""
    page = PageOf(1, page_id="a", trades=3)
    snapshots = [page.snapshot(5, gross_mean_pct=None)]
    if beside:
        snapshots.append(trading(PageOf(2, page_id="b"), 4.0, 1.0, 1.0, 5.0).snapshot(6))
    else:
        page.reset(7)
        snapshots += [page.snapshot(10), trading(page, 4.0, 1.0, 1.0, 5.0).snapshot(15)]
    assert indicators.pnl(counter_history(snapshots), window(0, 20), 5)["gross_pct"] is None


def test_commission_is_exact_to_the_cent():
    """A thousand commissions of 1.32 are exactly 1,320.00."""
    page, snapshots = PageOf(-600), []
    for k in range(1001):
        snapshots.append(page.snapshot(5 * k))
        page.held["commission_total_usd"] += 1.32
        page.held["trades"] += 1
    assert indicators.pnl(counter_history(snapshots), window(0, 6000), 5)["commission_usd"] == 1320.0


@pytest.mark.parametrize("trades", [0, 4, 5, 9])
def test_backtest_variance_is_given_with_its_trades(trades):
    """The page's last variance comes with its number of trades, so that too few of them can be recognised."""
    page = PageOf(-600, trades=trades, backtest_variance_pp=12.0)
    found = indicators.pnl(counter_history([page.snapshot(0), page.snapshot(5)]), window(0, 10), 5)
    assert (found["backtest_variance_pp"], found["variance_trades"]) == (12.0, trades)
    assert (
        indicators.pnl(counter_history([page.snapshot(0)], wired=()), window(-1, 10), 5)["backtest_variance_pp"] is None
    )


def test_an_idle_tab_does_not_hide_the_variance():
    """A tab without trades that posts two seconds later does not change the variance."""
    trader, idle = PageOf(-600, trades=12, backtest_variance_pp=17.0), PageOf(-500, page_id="idle")
    snapshots = [k for n in range(20) for k in (trader.snapshot(5 * n), idle.snapshot(5 * n + 2))]
    assert indicators.pnl(counter_history(snapshots), window(0, 100), 5)["backtest_variance_pp"] == 17.0


def test_unwired_fields_are_none():
    """Zeros of an unwired app are None: providers, fallbacks, IV anomalies and WebSocket."""
    page = PageOf(-600, websocket_connected=False).add(validations=5)
    t = counter_history([page.snapshot(0), page.snapshot(5)], wired=())
    assert indicators.providers(t, window(0, 10))["massive"] == {
        "availability": None,
        "requests": None,
        "successes": None,
        "failures": None,
        "fallbacks": None,
    }
    assert indicators.greeks(t, window(0, 10))["iv_anomalies"] is None
    found = indicators.system(t, window(0, 10))
    assert (found["websocket_connected"], found["websocket_down_seconds"], found["websocket_down_for_s"]) == (
        None,
        None,
        None,
    )


def test_counts_and_rates_of_greeks_and_providers():
    """Counts are increases, and rates are ratios of increases."""
    page = PageOf(-600).add(massive_requests=1000, tradier_requests=50, validations=100)
    snapshots = [page.snapshot(0)]
    page.add(
        massive_requests=30,
        massive_successes=29,
        massive_failures=1,
        massive_fallbacks=1,
        validations=40,
        greeks_valid=36,
        greeks_invalid=3,
        gamma_zero=2,
        delta_out_of_bounds=1,
        iv_anomalies=5,
    )
    t = counter_history([*snapshots, page.snapshot(5)])
    assert indicators.providers(t, window(0, 5))["massive"] == {
        "availability": 29 / 30,
        "requests": 30,
        "successes": 29,
        "failures": 1,
        "fallbacks": 1,
    }
    assert indicators.providers(t, window(0, 5))["tradier"]["availability"] is None
    assert indicators.greeks(t, window(0, 5)) == {
        "validations": 40,
        "valid": 36,
        "invalid": 3,
        "gamma_zero": 2,
        "delta_out_of_bounds": 1,
        "iv_anomalies": 5,
        "valid_rate": 0.9,
        "gamma_zero_rate": 0.05,
        "delta_out_of_bounds_rate": 0.025,
    }


def posting(start, end, every=5.0, jitter=0.0, lost=0.0, seed=1, loaded=-600):
    """Snapshots of a page that posts at a fixed interval, and the number of lost ones."""
    rng, page, snapshots, missing, now = random.Random(seed), PageOf(loaded), [], 0, start
    while now <= end:
        page.add(massive_requests=1)
        if rng.random() >= lost:
            snapshots.append(page.snapshot(now + rng.uniform(-jitter, jitter)))
        else:
            missing += 1
        now += every
    return snapshots, missing


@pytest.mark.parametrize("every", [5.0, 15.0, 60.0])
def test_without_lost_snapshots_coverage_is_one(every):
    """If every snapshot is received, coverage is 1, at any post interval."""
    snapshots, _ = posting(0, HOURS, every)
    assert counter_history(snapshots).coverage(window(0, HOURS)) == 1.0
    assert counter_history(snapshots).gaps(window(0, HOURS)) == []
    assert counter_history(snapshots).coverage(window(3600, 7200)) == 1.0


@pytest.mark.parametrize("lost", [0.05, 0.2, 0.4])
def test_coverage_is_received_over_expected_snapshots(lost):
    """If snapshots are lost at random, coverage is the share received."""
    snapshots, missing = posting(0, HOURS, lost=lost)
    expected = HOURS / 5
    coverage = counter_history(snapshots).coverage(window(0, HOURS))
    assert coverage == pytest.approx(1 - missing / expected, abs=6 / expected)


def test_post_jitter_does_not_reduce_coverage():
    """Snapshots that are 1.5 seconds early or late are not missing."""
    snapshots, _ = posting(0, HOURS, jitter=1.5)
    assert counter_history(snapshots).coverage(window(0, HOURS)) >= 0.98


def test_half_a_day_missing_is_half_a_coverage():
    """A page with snapshots in half of the session covers half of it, and the gap is reported."""
    snapshots, _ = posting(0, HOURS / 2)
    t = counter_history(snapshots)
    assert t.coverage(window(0, HOURS)) == pytest.approx(0.5, abs=0.001)
    (gap,) = t.gaps(window(0, HOURS))
    assert abs((gap.start - at(HOURS / 2)).total_seconds()) <= 10 and gap.end == at(HOURS)


def test_two_pages_cover_for_each_other():
    """A time without snapshots of one page is covered if another page posted."""
    a, _ = posting(0, 2000, loaded=-600)
    other = PageOf(-100, page_id="b")
    b = [other.snapshot(1900 + 5 * k) for k in range(421)]
    assert counter_history([*a, *b]).coverage(window(0, 4000)) == 1.0


def test_coverage_is_none_while_the_market_is_closed():
    """On a weekend and at night coverage is None, not zero."""
    sunday = Window(datetime(2026, 3, 8, 14, tzinfo=UTC), datetime(2026, 3, 8, 20, tzinfo=UTC))
    assert counter_history(posting(0, 100)[0]).coverage(sunday) is None
    assert counter_history([]).coverage(window(HOURS, HOURS + 3600)) is None


def test_coverage_of_an_early_close():
    """On the day after Thanksgiving snapshots are expected until 13:00 only."""
    opens, closes = datetime(2025, 11, 28, 14, 30, tzinfo=UTC), datetime(2025, 11, 28, 18, 0, tzinfo=UTC)
    page = PageOf((opens - at(0)).total_seconds() - 60)
    snapshots = [page.snapshot((opens - at(0)).total_seconds() + 5 * k) for k in range(2521)]
    assert counter_history(snapshots).coverage(Window(opens, closes + timedelta(hours=3))) == 1.0


def test_coverage_excludes_the_time_before_the_open():
    """In a window that begins before the open, only the part after the open counts."""
    snapshots, _ = posting(0, 1800)
    assert counter_history(snapshots).coverage(window(-3600, 1800)) == 1.0
    assert counter_history([]).coverage(window(-3600, 1800)) == 0.0


def socketed(down, end=600, every=5, shift=0.0, page_id=None, loaded=-600):
    """Snapshots of a page whose WebSocket is down in some spans [a, b)."""
    page, snapshots = PageOf(loaded, page_id=page_id), []
    for k in range(int(end / every) + 1):
        now = every * k + shift
        snapshots.append(page.snapshot(now, websocket_connected=not any(a <= now < b for a, b in down)))
    return snapshots


def test_seconds_without_a_socket():
    """The state in a snapshot holds until the page's next one; overlapping pages count once."""
    one = socketed([(100, 160)])
    assert indicators.system(counter_history(one), window(0, 600))["websocket_down_seconds"] == 60
    assert indicators.system(counter_history(one), window(120, 600))["websocket_down_seconds"] == 40
    two = socketed([(130, 190)], shift=2, page_id="b", loaded=-300)
    # The first page is down from 100 to 160, the other from 132 to 192: together from 100 to 192.
    assert indicators.system(counter_history([*one, *two]), window(0, 600))["websocket_down_seconds"] == 92


def test_websocket_down_duration():
    """
    The WebSocket of an open page is down since the first snapshot without it; a page whose snapshots are overdue is not
    used.
    """
    t = counter_history(socketed([(100, 1e9)], end=300))
    assert t.websocket_down_for_s(at(300)) == 200 and t.websocket_down_for_s(at(95)) == 0
    assert t.websocket_down_for_s(at(400)) is None
    assert indicators.system(t, window(0, 300))["websocket_connected"] is False


def test_websocket_down_duration_does_not_depend_on_the_window(tmp_path):
    """The down time is the full one also in a short window."""
    kept, page = store(tmp_path), PageOf(-600)
    SnapshotStore(kept).write(
        "desk", [post(5 * k, page.body(5 * k, websocket_connected=k < 10)) for k in range(1000)], known_at_ts=True
    )
    t = stored_history(kept, 4500, 4800)
    kept.close()
    assert t.websocket_down_for_s(at(4800)) == 4750


def test_a_refresh_is_one_reload():
    """A page loaded right after another one ended is one reload, at its load time."""
    page, snapshots = PageOf(-600).add(massive_requests=900), []
    for k in range(40):
        if k == 20:
            page.refresh(97)
        snapshots.append(page.add(massive_requests=2).snapshot(5 * k))
    t = counter_history(snapshots)
    assert (
        t.reloads(window(0, 200)) == [at(97)] and t.reloads(window(100, 200)) == [] and t.reloads(window(0, 96)) == []
    )
    assert indicators.system(t, window(0, 200))["restarts"] == 1


def test_an_additional_tab_is_no_reload():
    """A second page beside a first one that continues is no reload."""
    a, b = PageOf(-600).add(massive_requests=900), PageOf(50)
    snapshots = [a.add(massive_requests=2).snapshot(5 * k) for k in range(60)] + [
        b.add(massive_requests=2).snapshot(52 + 5 * k) for k in range(40)
    ]
    assert counter_history(snapshots).reloads(window(0, 300)) == []


def test_a_partial_reset_is_no_reload():
    """reset() of the app's service is no page reload."""
    page, snapshots = PageOf(-600).add(massive_requests=900), []
    for k in range(40):
        if k == 20:
            page.reset(97)
        snapshots.append(page.add(massive_requests=2, validations=1).snapshot(5 * k))
    assert counter_history(snapshots).reloads(window(0, 200)) == []


def test_a_new_page_in_the_morning_is_no_reload():
    """A new page on the day after the last page ended is no reload."""
    yesterday, today = PageOf(-90_000).add(massive_requests=900), PageOf(-120)
    snapshots = [yesterday.add(massive_requests=2).snapshot(-64_800 + 5 * k) for k in range(40)] + [
        today.add(massive_requests=2).snapshot(-60 + 5 * k) for k in range(40)
    ]
    assert counter_history(snapshots).reloads(window(-86_400, 3600)) == []


def test_errors_by_type():
    """Counts by type increase per page from the last snapshot before the window, and restart with a reset."""
    page = PageOf(-600)
    held = [{"API": 5}, {"API": 7, "UI": 1}, {"API": 7, "UI": 1}]
    snapshots = [
        page.add(massive_requests=9).snapshot(5 * k, errors_by_type=h, errors=sum(h.values()))
        for k, h in enumerate(held)
    ]
    page.reset(12)
    snapshots.append(page.snapshot(15, errors_by_type={"API": 2}, errors=2))
    t = counter_history(snapshots)
    assert indicators.system(t, window(0, 20))["errors_by_type"] == {"API": 4, "UI": 1}
    assert indicators.system(t, window(0, 20))["errors"] == 5
    assert indicators.system(t, window(10, 20))["errors_by_type"] == {"API": 2}


def test_a_lost_map_has_no_types():
    """If errorsByType is {}, the types of the errors are unknown, but their number is known."""
    page = PageOf(-600)
    found = indicators.system(counter_history([page.snapshot(0), page.add(errors=3).snapshot(5)]), window(0, 10))
    assert (found["errors"], found["errors_by_type"]) == (3, None)


def test_types_add_up_to_the_errors_after_a_reset():
    """After a reset with more errors than before, the counts by type add up to the errors."""
    page = PageOf(-600, errors=3).add(massive_requests=9)
    snapshots = [page.snapshot(0, errors_by_type={"API": 3})]
    page.reset(2).add(errors=5)
    snapshots.append(page.snapshot(5, errors_by_type={"API": 5}))
    page.add(errors=1)
    snapshots.append(page.snapshot(10, errors_by_type={"API": 6}))
    found = indicators.system(counter_history(snapshots), window(0, 20))
    assert sum(found["errors_by_type"].values()) == found["errors"] == 6


def test_types_add_up_to_the_errors_after_a_zeroed_group():
    """A type whose count decreased counts from zero."""
    page = PageOf(-600, errors=9)
    snapshots = [page.snapshot(0, errors_by_type={"API": 9})]
    page.zero("system").add(errors=2)
    snapshots.append(page.snapshot(5, errors_by_type={"API": 2}))
    found = indicators.system(counter_history(snapshots), window(0, 20))
    assert found["errors_by_type"] == {"API": 2} and found["errors"] == 2


def test_silence_is_since_the_last_snapshot_or_the_open():
    """
    While the market is open, silence is the time since the last snapshot or the open, whichever is later; while it is
    closed, it is None.
    """
    t = counter_history(posting(-300, 600)[0])
    assert indicators.silent_for_s(t, at(900)) == 300
    early = counter_history(posting(-600, -300)[0])
    assert indicators.silent_for_s(early, at(120)) == 120
    assert indicators.silent_for_s(t, CLOSES + timedelta(hours=1)) is None
    assert indicators.silent_for_s(counter_history([]), at(100)) is None


def test_silence_longer_than_the_window(tmp_path):
    """Silence that began before the window is measured from the last snapshot, not from the open."""
    kept, page = store(tmp_path), PageOf(-600)
    SnapshotStore(kept).write("desk", [post(5 * k, page.body(5 * k)) for k in range(0, 1801, 10)], known_at_ts=True)
    t = stored_history(kept, 12_600, 16_200)
    kept.close()
    assert indicators.silent_for_s(t, at(16_200)) == 16_200 - 9000


def test_the_difference_of_raw_counters_ignores_a_refresh():
    """The raw difference of counters ignores the refresh; the increase does not."""
    page, snapshots = PageOf(-600).add(massive_requests=1000), []
    for k in range(121):
        if k == 60:
            page.refresh(298)
        snapshots.append(page.add(massive_requests=2).snapshot(5 * k))
    naive = snapshots[-1].massive_requests - snapshots[0].massive_requests
    # 59 steps of 2 before the refresh, 61 after it; the raw difference is 122 - 1002.
    assert naive == -880 and counter_history(snapshots).increase("massive_requests", window(0, 600)) == 2 * 59 + 2 * 61


def test_a_page_silent_for_hours_counts_from_its_last_snapshot(tmp_path):
    """
    The last snapshot of a page, hours before the window, is its start, for pages identified by load time and by id.
    """
    kept = store(tmp_path)
    pages = [PageOf(-600).add(massive_requests=100), PageOf(-60, page_id="lead").add(massive_requests=40)]
    early = [post(i, p.body(i)) for i, p in enumerate(pages)]
    SnapshotStore(kept).write(
        "desk",
        early + [post(9000 + i, p.add(massive_requests=7 + i).body(9000 + i)) for i, p in enumerate(pages)],
        known_at_ts=True,
    )
    t = stored_history(kept, 8000, 9500)
    kept.close()
    assert t.increase("massive_requests", window(8000, 9500)) == 15 and len(t.pages) == 2


def test_two_silent_pages_of_one_load_keep_their_own_start(tmp_path):
    """Two pages restored together and silent for a long time each count from their own last snapshot."""
    kept = store(tmp_path)
    a, b = PageOf(-600).add(massive_requests=1000), PageOf(-598).add(massive_requests=100)
    posts = [
        post(0, a.body(0)),
        post(1, b.body(1)),
        post(1500, a.add(massive_requests=50).body(1500)),
        post(1501, b.add(massive_requests=7).body(1501)),
    ]
    SnapshotStore(kept).write("desk", posts, known_at_ts=True)
    t = stored_history(kept, 1000, 2000)
    kept.close()
    assert t.increase("massive_requests", window(1000, 2000)) == 57


def test_known_at_hides_later_rows(tmp_path):
    """A row that arrived late counts at its own time, but not in a history as known before it arrived."""
    kept, page = store(tmp_path), PageOf(-600).add(massive_requests=100)
    posts = [post(5 * k, page.add(massive_requests=2).body(5 * k)) for k in range(20)]
    SnapshotStore(kept).write("desk", posts[:10] + posts[15:], known_at_ts=True)
    SnapshotStore(kept).write("desk", posts[10:15])  # Known at the store's time, which is the close.
    late = window(0, 70)
    assert stored_history(kept, 0, 70).increase("massive_requests", late) == 28
    assert stored_history(kept, 0, 70, known=200).increase("massive_requests", late) == 18
    assert stored_history(kept, 0, 70, known=20).increase("massive_requests", late) == 8
    assert stored_history(kept, 0, 70, known=-1).ever_seen is False
    kept.close()


def test_later_snapshots_do_not_change_a_window(tmp_path):
    """The figures of a window that ended stay the same after later snapshots arrive."""
    kept, page = store(tmp_path), PageOf(-600).add(massive_requests=100)
    posts = [post(5 * k, page.add(massive_requests=2).body(5 * k)) for k in range(40)]
    SnapshotStore(kept).write("desk", posts[:20], known_at_ts=True)
    before = (
        indicators.system(stored_history(kept, 0, 95), window(0, 95)),
        indicators.providers(stored_history(kept, 0, 95), window(0, 95)),
    )
    SnapshotStore(kept).write("desk", posts[20:], known_at_ts=True)
    assert (
        indicators.system(stored_history(kept, 0, 95), window(0, 95)),
        indicators.providers(stored_history(kept, 0, 95), window(0, 95)),
    ) == before
    kept.close()


# The recorded day: posts of the app's own service on a scripted day, with the true values from the script.


@pytest.fixture(scope="module")
def truth(recorded):
    """The true values of the recorded day."""
    return json.loads((recorded / "truth.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def rows(recorded):
    """The rows of the recorded day."""
    return recorded_rows(recorded)


def windows_of(truth):
    """Every hour with its window, then the whole day."""
    first, last = next(iter(truth["hours"].values())), list(truth["hours"].values())[-1]
    hours = [
        (h, Window(time_parsing.parse(h["from_utc"]), time_parsing.parse(h["to_utc"]))) for h in truth["hours"].values()
    ]
    return [*hours, (truth["day"], Window(time_parsing.parse(first["from_utc"]), time_parsing.parse(last["to_utc"])))]


def shifted(metrics, ms, uptime=0):
    """The same body from a page whose clock, and optionally uptime, is off by that much."""
    changed = copy.deepcopy(metrics)
    changed["lastUpdateAt"] += ms
    changed["systemHealth"]["uptime"] = max(0, changed["systemHealth"]["uptime"] + uptime)
    return changed


def variants(rows, how):
    """The recorded day, unchanged or with a less exact page clock."""
    rng = random.Random(7)
    if how == "clock jitter":
        return [(t, shifted(m, rng.randint(-1500, 1500))) for t, m in rows]
    if how == "uptime jitter":
        return [(t, shifted(m, rng.randint(-1000, 1000), rng.randint(-1, 1))) for t, m in rows]
    if how == "clock off":
        return [(t, shifted(m, -180_000 + rng.randint(-500, 500))) for t, m in rows]
    return rows


@pytest.mark.parametrize("how", ["plain", "clock jitter", "uptime jitter", "clock off"])
def test_the_recorded_day_is_exact(rows, truth, how):
    """
    Every count of every hour and of the day is the scripted one, P&L within 0.01 percentage points, with one reload.
    """
    t = counter_history([snapshot_of(instant, m) for instant, m in variants(rows, how)])
    for true, w in windows_of(truth):
        found, greeks, pnl = indicators.providers(t, w), indicators.greeks(t, w), indicators.pnl(t, w, 5)
        for name in ("massive", "tradier"):
            seen = true[name]["visible_in_snapshots"]
            assert (found[name]["requests"], found[name]["failures"]) == (
                seen["requests"],
                seen["requests"] - seen["ok"],
            )
            assert found[name]["availability"] == pytest.approx(seen["uptime_pct"] / 100, abs=1e-6)
        assert found["massive"]["fallbacks"] == true["massive"]["fallbacks"]
        assert (greeks["validations"], greeks["valid"]) == (
            true["greeks"]["visible_in_snapshots"]["validations"],
            true["greeks"]["visible_in_snapshots"]["valid"],
        )
        assert (greeks["gamma_zero"], greeks["delta_out_of_bounds"], greeks["iv_anomalies"]) == (
            true["greeks"]["gammaIsZero_counter_increase"],
            true["greeks"]["delta_out_of_bounds"],
            true["greeks"]["iv_outliers"],
        )
        assert greeks["invalid"] == true["greeks"]["validations_with_errors"]
        assert t.increase("errors", w) == true["errors"]["visible_in_snapshots"]
        trades = true["trades"]
        assert pnl["trades"] == trades["trades"]
        assert pnl["gross_pct"] == pytest.approx(trades["avg_gross_pct"], abs=0.01) and pnl["net_pct"] == pytest.approx(
            trades["avg_net_pct"], abs=0.01
        )
        assert pnl["commission_usd"] == pytest.approx(trades["total_commission_usd"], abs=0.005) and pnl[
            "slippage_usd"
        ] == pytest.approx(trades["total_slippage_usd"], abs=0.0051)
    assert len(t.pages) == 2
    (at_restart,) = t.reloads(w)
    assert abs((at_restart - time_parsing.parse(truth["restart"]["page_load"])).total_seconds()) < 3
    assert t.coverage(w) == pytest.approx(1.0, abs=0.001)


def test_the_recorded_socket_is_down_as_scripted(rows, truth):
    """
    The WebSocket is down for five seconds per snapshot that shows it disconnected: four scripted minutes and the
    refresh.
    """
    t = counter_history([snapshot_of(instant, m) for instant, m in rows])
    found = indicators.system(t, windows_of(truth)[-1][1])
    assert found["websocket_down_seconds"] == 5 * truth["websocket"]["snapshots_showing_disconnected"]


def counts(metrics):
    """The counters of a body that are compared."""
    return {
        "massive_requests": metrics["providers"]["massive"]["requestCount"],
        "validations": metrics["greeksQuality"]["totalTrades"],
        "errors": metrics["systemHealth"]["errorCount"],
    }


def test_raw_differences_of_the_recorded_day_are_wrong(rows, truth):
    """
    The difference of the raw fields between close and open misses two thirds of the requests, and the page shows 100 %
    after an outage.
    """
    naive = {n: counts(rows[-1][1])[n] - counts(rows[0][1])[n] for n in counts(rows[0][1])}
    t, day = counter_history([snapshot_of(instant, m) for instant, m in rows]), windows_of(truth)[-1][1]
    assert naive["massive_requests"] == 4306 - 516 and t.increase("massive_requests", day) == 13_046
    assert (
        rows[-1][1]["providers"]["massive"]["uptime"] == 100
        and indicators.providers(t, day)["massive"]["availability"] < 0.911
    )


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("jitter", [0, 1500])
def test_a_second_page_and_a_reset_add_up(rows, reset, jitter):
    """
    With a second page nine minutes behind and a partial reset of the first, the increases of both pages add up exactly.
    """
    rng = random.Random(11)
    until, cut = datetime(2025, 11, 18, 16, tzinfo=UTC), datetime(2025, 11, 18, 15, 40, tzinfo=UTC)
    shift = timedelta(minutes=9, seconds=13)
    a = [(t, copy.deepcopy(m)) for t, m in rows if t <= until]
    b = [(t + shift, copy.deepcopy(m)) for t, m in rows if t + shift <= until]
    for _, m in b:
        m["lastUpdateAt"] += int(shift.total_seconds() * 1000)
        if "lastErrorAt" in m["systemHealth"]:
            m["systemHealth"]["lastErrorAt"] += int(shift.total_seconds() * 1000)
    if reset:
        base = copy.deepcopy(next(m for t, m in a if t >= cut))
        for t, m in a:
            if t > cut:
                for key in (
                    "totalTrades",
                    "validGreeks",
                    "estimatedGreeks",
                    "validationErrors",
                    "deltaOutOfBounds",
                    "gammaIsZero",
                    "ivAnomalies",
                ):
                    m["greeksQuality"][key] -= base["greeksQuality"][key]
                m["systemHealth"]["errorCount"] -= base["systemHealth"]["errorCount"]
                m["systemHealth"]["uptime"] -= base["systemHealth"]["uptime"]
                m["pnl"]["totalTrades"] -= base["pnl"]["totalTrades"]
    start = datetime(2025, 11, 18, 15, tzinfo=UTC)

    def true(name):
        total = 0
        for page in (a, b):
            values = [counts(m)[name] for t, m in page if t >= start - timedelta(seconds=5)]
            begins = len([1 for t, _ in page if start - timedelta(seconds=5) <= t <= start]) - 1
            values = values[begins:]
            total += sum(y - x if y >= x else y for x, y in itertools.pairwise(values))
        return total

    mixed = [snapshot_of(t, shifted(m, rng.randint(-jitter, jitter))) for t, m in a + b]
    rng.shuffle(mixed)
    t = counter_history(mixed)
    assert len(t.pages) == 2 and t.reloads(Window(start, until)) == []
    for name in counts(rows[0][1]):
        assert t.increase(name, Window(start, until)) == true(name)


def test_these_tests_use_the_shipped_page_limits():
    """The page limits used in these tests are the shipped ones."""
    from opslib.foundation.config import rules

    assert rules.load().pages == HOW


@pytest.mark.parametrize("seed", range(4))
def test_earlier_queries_do_not_change_results(seed):
    """A history that is queried between additions, also out of order, gives the same results as one built at once."""
    snapshots, asked = [t.snapshot for t in simulated(seed)], counter_history([])
    over = [window(-600, 600), window(0, 300), window(100, 900)]

    def answers(t):
        return [
            (
                t.increase(name, w),
                t.increase_while_open(name, w),
                t.known(w),
                t.coverage(w),
                t.snapshots_in(w),
                len(t.open_at(w.end_us)),
                [k for _, k in t.pages_in(w)],
            )
            for w in over
            for name in GROUP_OF
        ]

    random.Random(seed).shuffle(snapshots)
    for i in range(0, len(snapshots), 5):
        answers(asked)
        asked.add(snapshots[i : i + 5])
        assert answers(asked) == answers(counter_history(snapshots[: i + 5]))


def test_increase_while_open_excludes_the_time_before_the_open():
    """
    In a window that begins before the open, only the increase after the open counts; without snapshots of open hours it
    is None.
    """
    page = PageOf(-600)
    history = counter_history([page.add(massive_requests=4).snapshot(5.0 * k) for k in range(-60, 61)])
    assert (
        history.increase("massive_requests", window(-200, 200)) == 320
        and history.increase_while_open("massive_requests", window(-200, 200)) == 160
    )
    assert (
        history.increase_while_open("massive_requests", window(-200, -10)) is None
        and history.increase_while_open("massive_requests", window(400, 500)) is None
    )
