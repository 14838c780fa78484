"""Test that the page posts its counters, under every fault, however the time is divided into calls."""

import json
import subprocess
import sys
from collections.abc import Callable

import pytest

from opslib.simulation.world.faults import STATES, States
from opslib.simulation.world.page_activity import GAMMA_MISSING_TEXT, PageActivity

AT_S = 1773153000.0  # 2026-03-10 10:30 in New York.
HALF_HOUR_S = 1800.0
VARIANCE_LIMIT = 10.0


class Lived:
    """A page and its posts."""

    def __init__(self, *names: str, seed: int = 3, at_s: float = AT_S):
        self.states = States(seed)
        self.states.inject(dict.fromkeys(names, 1.0))
        self.life, self.at_s = PageActivity(seed, at_s, self.states), at_s
        self.posts: list[tuple[float, dict]] = []

    def go(self, seconds: float, *names: str, **shares: float) -> "Lived":
        """Inject these states and advance the time."""
        self.states.inject(dict.fromkeys(names, 1.0) | shares)
        self.at_s += seconds
        self.posts += self.life.posts(self.at_s)
        return self

    @property
    def last(self) -> dict:
        return self.posts[-1][1]

    def grown(self, *path: str) -> float:
        """Return how much a counter increased from the first post to the last."""
        return _at(self.posts[-1][1], path) - _at(self.posts[0][1], path)

    def sockets(self) -> list[bool]:
        return [body["systemHealth"]["webSocketConnected"] for _, body in self.posts]


def _at(body: dict, path: tuple[str, ...]) -> float:
    for name in path:
        body = body[name]
    return body


def of_provider(lived: Lived, name: str) -> tuple[float, float, float]:
    """Return the increases of requests, failures and fallbacks of a provider."""
    return tuple(lived.grown("providers", name, field) for field in ("requestCount", "failureCount", "fallbackCount"))


def greeks(lived: Lived) -> dict[str, float]:
    return {
        field: lived.grown("greeksQuality", field)
        for field in (
            "totalTrades",
            "validGreeks",
            "estimatedGreeks",
            "validationErrors",
            "deltaOutOfBounds",
            "gammaIsZero",
            "ivAnomalies",
        )
    }


def while_on(*names: str, seconds: float = HALF_HOUR_S, seed: int = 3, **shares: float) -> Lived:
    """Return a page with these active states, which begin a minute after its load; its posts begin there."""
    lived = Lived(seed=seed).go(60)
    lived.posts = lived.posts[-1:]
    return lived.go(seconds, *names, **shares)


def test_a_page_posts_every_five_seconds() -> None:
    """A page posts every 5 s after its load, up to and including the requested time, and never twice."""
    lived = Lived().go(12).go(3).go(0).go(5)
    assert [at_s - AT_S for at_s, _ in lived.posts] == [5, 10, 15, 20]
    assert [body["systemHealth"]["uptime"] for _, body in lived.posts] == [5, 10, 15, 20]
    assert [body["lastUpdateAt"] for _, body in lived.posts] == [at_s * 1000 for at_s, _ in lived.posts]
    assert not Lived().go(4.5).posts
    assert len({body["page"] for _, body in lived.posts}) == 1
    assert all(body["client"]["memoryBytes"] > 0 for _, body in lived.posts)


@pytest.mark.parametrize(
    "name",
    [
        None,
        "massive_timeout",
        "massive_5xx",
        "ws_closed_1006",
        "commission_up",
        "memory_leak",
        "clock_skew",
        "dashboard_slow",
    ],
)
def test_the_bodies_do_not_depend_on_the_calls(name: str | None) -> None:
    """One call, many calls, and calls at irregular times give the same bodies."""
    names = [name] if name else []
    whole = Lived().go(30).go(900, *names)
    odd, fine = Lived().go(30), Lived().go(30)
    for seconds in (0.4, 13.1, 486.5, 400.0):
        odd.go(seconds, *names)
    for _ in range(900):
        fine.go(1, *names)
    assert whole.posts == odd.posts == fine.posts
    assert len(whole.posts) >= 20


def test_bodies_depend_on_the_seed() -> None:
    """Another seed gives other bodies; the same seed gives equal ones, also in a process with another hash seed."""
    code = (
        f"import json; from opslib.simulation.world.page_activity import PageActivity as Life; "
        f"from opslib.simulation.world.faults import States; "
        f"print(json.dumps(Life(3, {AT_S}, States(3)).posts({AT_S + 300})))"
    )
    elsewhere = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONHASHSEED": "99"}, capture_output=True, text=True, check=True
    ).stdout
    here = Lived().go(300).posts
    assert json.loads(elsewhere) == json.loads(json.dumps(here))
    assert Lived(seed=4).go(300).posts != here


def test_a_good_half_hour() -> None:
    """Without a fault nearly all requests succeed, and the variance is that of the calm spread."""
    lived = while_on()
    (requests, failures, fallbacks), (tradier, _, _) = of_provider(lived, "massive"), of_provider(lived, "tradier")
    assert 800 <= requests <= 1000 and failures < 0.01 * requests and fallbacks == 0
    assert 80 <= tradier <= 170
    found = greeks(lived)
    assert found["totalTrades"] == 540 and found["validGreeks"] > 0.95 * 540 and found["gammaIsZero"] < 0.02 * 540
    assert found["estimatedGreeks"] > found["validationErrors"]  # A missing theta is estimated and no error.
    assert 0 < lived.last["pnl"]["backtestVariance"] < 5 <= lived.last["pnl"]["totalTrades"] <= 8
    assert all(lived.sockets()) and lived.grown("systemHealth", "errorCount") <= 5
    assert 12 <= lived.last["systemHealth"]["webSocketLatencyMs"] <= 120


@pytest.mark.parametrize("name", ["massive_5xx", "massive_html_200", "massive_intermittent"])
def test_a_call_fails_three_times_before_the_fallback(name: str) -> None:
    """Each call to Massive fails three times, is reported as a fallback and an error, and goes to Tradier."""
    lived = while_on(name)
    requests, failures, fallbacks = of_provider(lived, "massive")
    assert failures >= 2300 and requests - failures <= 3 and abs(failures - 3 * fallbacks) <= 5
    tradier, tradier_failures, _ = of_provider(lived, "tradier")
    assert tradier > fallbacks and tradier_failures < 0.02 * tradier
    assert abs(lived.grown("systemHealth", "errorCount") - fallbacks) <= 5
    assert lived.last["systemHealth"]["lastErrorMessage"]
    assert greeks(lived)["validGreeks"] > 500


def test_a_share_fails() -> None:
    """
    With three in ten attempts failing there are few fallbacks: most calls succeed at their second or third attempt.
    """
    requests, failures, fallbacks = of_provider(while_on(massive_intermittent=0.3), "massive")
    assert 0.25 < failures / requests < 0.35 and 5 <= fallbacks <= 60


@pytest.mark.parametrize(
    "name",
    [
        "massive_timeout",
        "massive_refused",
        "massive_dns",
        "massive_tls",
        "massive_401",
        "massive_403_plan",
        "massive_403_ip",
        "massive_429",
    ],
)
def test_an_exception_is_not_counted(name: str) -> None:
    """A request that throws, or gets 401, 403 or 429, is not counted for Massive; Tradier gets the call."""
    lived = while_on(name)
    assert of_provider(lived, "massive")[0] <= 1 and of_provider(lived, "massive")[1:] == (0, 0)
    assert of_provider(lived, "tradier")[0] > 800
    assert greeks(lived)["validGreeks"] > 500 and lived.grown("systemHealth", "errorCount") <= 5


def test_without_a_network_nothing_is_counted() -> None:
    """Without a network neither provider nor any Greeks are counted, since a failed snapshot is not validated."""
    lived = while_on("our_network_down")
    assert of_provider(lived, "massive")[0] <= 1 and of_provider(lived, "tradier")[0] <= 1
    assert greeks(lived)["totalTrades"] == 0
    assert len(lived.posts) == 361


@pytest.mark.parametrize("name", ["app_down", "app_hung"])
def test_requests_fail_with_the_apps_server(name: str) -> None:
    """
    Every request of the page goes through the app's server.

    Without the server each call fails once and is an error, none goes to Tradier, and no Greeks are validated.
    """
    lived = while_on(name)
    requests, failures, fallbacks = of_provider(lived, "massive")
    assert requests - failures <= 1 and failures > 800 and fallbacks == 0
    assert of_provider(lived, "tradier")[0] <= 1 and greeks(lived)["totalTrades"] == 0
    assert (
        failures <= lived.grown("systemHealth", "errorCount") <= failures + 6
        and lived.last["systemHealth"]["lastErrorMessage"] == "Failed to fetch"
    )


def test_a_short_timeout_fails_most_calls() -> None:
    """With a timeout of 150 ms most calls are not counted for Massive, and some succeed within it."""
    lived = while_on("our_timeout_short")
    requests, failures, fallbacks = of_provider(lived, "massive")
    assert 80 <= requests <= 420 and failures <= 3 and fallbacks == 0
    assert of_provider(lived, "tradier")[0] > 500


def test_tradier_fails() -> None:
    """If Tradier is down its own requests fail, and Massive is healthy."""
    lived = while_on("tradier_down")
    tradier, failures, _ = of_provider(lived, "tradier")
    assert tradier == failures > 80 and of_provider(lived, "massive")[1] <= 8
    assert greeks(lived)["totalTrades"] == 540


@pytest.mark.parametrize("names", [("both_down",), ("massive_5xx", "tradier_down")])
def test_both_fail(names: tuple[str, ...]) -> None:
    """When both are down the fallback fails too, and no Greeks are validated."""
    lived = while_on(*names)
    for provider in ("massive", "tradier"):
        requests, failures, _ = of_provider(lived, provider)
        assert requests - failures <= 3 and failures > 800
    assert greeks(lived)["totalTrades"] == 0


@pytest.mark.parametrize("name", ["app_down", "ws_closed_1006", "ws_403", "ws_port_blocked"])
def test_a_lost_socket_stays_lost_until_a_reload(name: str) -> None:
    """A lost socket does not come back with the end of the fault, but with a page reload."""
    lived = Lived().go(60).go(60, name).go(60)
    sockets = lived.sockets()
    assert sockets == [True] * 12 + [False] * 24
    assert lived.go(30, "page_refreshed").sockets()[-5:] == [True] * 5
    assert lived.go(30, name).sockets()[-5:] == [False] * 5
    assert not any(lived.go(60, name, "page_refreshed").sockets()[-5:])


def test_a_short_loss_is_repaired_by_the_retry() -> None:
    """A loss of less than a second is repaired by the page's single retry."""
    assert Lived().go(60).go(1, "ws_closed_1006").go(30).sockets()[-5:] == [True] * 5


def test_a_silent_socket_looks_connected() -> None:
    """A silent socket stays connected, and its latency stays at the last value."""
    lived = while_on("ws_open_silent")
    assert all(lived.sockets()) and len({body["systemHealth"]["webSocketLatencyMs"] for _, body in lived.posts}) == 1


def test_a_refresh_is_a_new_load() -> None:
    """A refresh sets counters and uptime to zero under a new page id, once."""
    lived = Lived().go(600).go(10, "page_refreshed").go(10, "page_refreshed").go(10)
    before, after, later = lived.posts[119][1], lived.posts[120][1], lived.last
    assert before["page"] != after["page"] == later["page"]
    assert (after["systemHealth"]["uptime"], later["systemHealth"]["uptime"]) == (5, 30)
    assert after["providers"]["massive"]["requestCount"] < 10 < before["providers"]["massive"]["requestCount"]


def test_a_closed_page_posts_nothing() -> None:
    """A closed page posts nothing, also if it is closed from the start; when it is opened again it is a new load."""
    lived = Lived().go(60).go(600, "page_closed").go(30)
    assert [at_s - AT_S for at_s, _ in lived.posts] == [*range(5, 61, 5), *range(665, 691, 5)]
    assert lived.posts[11][1]["page"] != lived.last["page"] and lived.last["systemHealth"]["uptime"] == 30
    assert not Lived("page_closed").go(60, "page_closed").posts


@pytest.mark.parametrize(
    ("shares", "low", "high"),
    [({"gamma_zero": 1.0}, 0.33, 0.47), ({"gamma_zero": 0.1}, 0.06, 0.15), ({"expiry_friday": 1.0}, 0.01, 0.05)],
)
def test_gamma_is_zero(shares: dict[str, float], low: float, high: float) -> None:
    """Gamma is exactly zero in 40 % of the validations, in the given share, or in 3 % when options expire."""
    found = greeks(while_on(**shares))
    assert low < found["gammaIsZero"] / found["totalTrades"] < high
    assert found["estimatedGreeks"] >= found["gammaIsZero"] == found["validationErrors"] - found["deltaOutOfBounds"]


def test_greeks_are_missing() -> None:
    """Missing Greeks are estimated and counted as a gamma that was not provided."""
    found = greeks(while_on("greeks_missing"))
    assert found["gammaIsZero"] == found["estimatedGreeks"] == found["totalTrades"] == 540
    assert GAMMA_MISSING_TEXT == "Gamma not provided (critical for position risk)"


def test_delta_is_out_of_bounds() -> None:
    """The share of deltas out of bounds is counted as such, and as validation errors."""
    found = greeks(while_on(delta_out_of_bounds=0.3))
    assert (
        0.22 < found["deltaOutOfBounds"] / found["totalTrades"] < 0.38
        and found["validationErrors"] >= found["deltaOutOfBounds"]
    )


def per_trade(field: str, lived: Lived) -> float:
    pnl = lived.last["pnl"]
    return pnl[field] / (pnl["totalTrades"] if field == "totalCommissionCost" else 1)


@pytest.mark.parametrize(
    ("name", "sign"),
    [
        (
            "commission_up",
            lambda now, calm: per_trade("totalCommissionCost", now) > 4 * per_trade("totalCommissionCost", calm),
        ),
        ("spread_up", lambda now, calm: per_trade("avgSlippageCost", now) > 2.5 * per_trade("avgSlippageCost", calm)),
        ("bad_fills", lambda now, calm: per_trade("avgGrossPnL", now) < per_trade("avgGrossPnL", calm) - 7),
        (
            "smaller_size",
            lambda now, calm: per_trade("avgSlippageCost", now) < 0.5 * per_trade("avgSlippageCost", calm),
        ),
    ],
)
def test_each_cost_of_trades_is_visible(name: str, sign: Callable[[Lived, Lived], bool]) -> None:
    """Within half an hour the variance exceeds ten points, and the cost that causes it is visible."""
    for seed in range(8):
        calm, now = while_on(seed=seed), while_on(name, seed=seed)
        assert calm.last["pnl"]["backtestVariance"] < 5 < VARIANCE_LIMIT < now.last["pnl"]["backtestVariance"] < 25
        assert sign(now, calm)


def test_too_few_trades() -> None:
    """One to three trades in half an hour have a variance above the limit; validations are unaffected."""
    lived = while_on("too_few_trades")
    assert 1 <= lived.grown("pnl", "totalTrades") <= 3 and greeks(lived)["totalTrades"] == 540
    assert lived.last["pnl"]["backtestVariance"] > VARIANCE_LIMIT


def test_memory_leaks() -> None:
    """During a leak the page's memory grows by 60 kB/s more; it keeps that memory until a reload."""
    calm, lived = while_on(seconds=600), while_on("memory_leak", seconds=600)
    assert lived.grown("client", "memoryBytes") - calm.grown("client", "memoryBytes") == 600 * 60_000
    assert lived.go(5).last["client"]["memoryBytes"] > 60e6
    assert lived.go(5, "page_refreshed").last["client"]["memoryBytes"] < 32e6


def test_error_storm() -> None:
    """An error occurs about every ten seconds."""
    assert 130 <= while_on("error_storm").grown("systemHealth", "errorCount") <= 240


def test_the_clock_changes_with_a_page_load() -> None:
    """A wrong clock begins with a reload of the page; it is 600 s ahead until the first load after the fault."""
    lived = Lived().go(60).go(60, "clock_skew").go(60).go(60, "page_refreshed")
    ahead = [body["lastUpdateAt"] / 1000 - at_s for at_s, body in lived.posts]
    assert ahead == [0] * 12 + [600] * 24 + [0] * 12
    assert len({body["page"] for _, body in lived.posts}) == 3


@pytest.mark.parametrize(
    ("name", "ahead_s", "loads"),
    [
        ("page_clock_ahead", 600, 2),
        ("page_clock_behind", -600, 2),
        ("our_clock_fast", -600, 1),
        ("our_clock_slow", 600, 1),
        ("massive_clock_ahead", 0, 1),
    ],
)
def test_the_pages_clock_and_ours(name: str, ahead_s: float, loads: int) -> None:
    """
    The page's own clock changes with a page load, in both directions.

    If our clock is wrong, there is no page load, and only the timestamps are shifted.
    """
    lived = Lived().go(60).go(60, name).go(60)
    ahead = [body["lastUpdateAt"] / 1000 - at_s for at_s, body in lived.posts]
    assert ahead[:24] == [0] * 12 + [ahead_s] * 12 and ahead[24:] == [ahead_s if loads == 2 else 0] * 12
    assert len({body["page"] for _, body in lived.posts}) == loads
    assert [body["systemHealth"]["uptime"] for _, body in lived.posts][11:13] == ([60, 5] if loads == 2 else [60, 65])
    stamps = [body["providers"]["massive"]["lastUpdateAt"] / 1000 - at_s for at_s, body in lived.posts[12:24]]
    assert all(ahead_s - 60 <= s <= ahead_s for s in stamps)


def test_a_socket_without_upstream_is_silent_until_a_reload() -> None:
    """The socket stays open without messages, even when upstream is back, and gets messages again after a reload."""
    lived = Lived().go(60).go(60, "ws_old_clients_dead").go(60).go(60, "page_refreshed")
    latencies = [body["systemHealth"]["webSocketLatencyMs"] for _, body in lived.posts]
    assert (
        all(lived.sockets())
        and len({*latencies[:12]}) > 5
        and len({*latencies[13:36]}) == 1
        and len({*latencies[36:]}) > 5
    )


def test_a_slow_dashboard() -> None:
    """Posts come only every 40 s and contain everything that was counted."""
    slow, usual = Lived().go(800, "dashboard_slow"), Lived().go(800)
    assert [at_s for at_s, _ in slow.posts] == [at_s for at_s, _ in usual.posts if at_s % 40 == 0]
    assert slow.posts[5] in usual.posts


def test_volatility_in_stress() -> None:
    """More IV anomalies are counted, and nothing else is."""
    calm, stressed = while_on(), while_on("iv_stress")
    assert greeks(stressed)["ivAnomalies"] > 10 + greeks(calm)["ivAnomalies"]
    assert of_provider(stressed, "massive") == of_provider(calm, "massive")


def test_a_closed_market() -> None:
    """With the market closed, by fault or by the hour, posts continue, without requests, validations or trades."""
    evening = Lived(at_s=AT_S + 9 * 3600).go(300)
    for lived in (while_on("market_closed", seconds=300), while_on("market_closes_early", seconds=300), evening):
        assert of_provider(lived, "massive")[0] <= 1 and of_provider(lived, "tradier")[0] <= 1
        assert greeks(lived)["totalTrades"] == lived.grown("pnl", "totalTrades") == 0
        assert len(lived.posts) >= 60 and all(lived.sockets())


@pytest.mark.parametrize(
    "name",
    [
        "app_slow",
        "app_restarted",
        "unit_drift",
        "massive_empty",
        "massive_stale",
        "massive_partial_pages",
        "collector_dead",
    ],
)
def test_faults_that_do_not_affect_the_page(name: str) -> None:
    """A fault that does not affect the page's counters changes no body."""
    assert while_on(name, seconds=300).posts == while_on(seconds=300).posts


def test_no_name_of_a_state_is_in_a_body() -> None:
    """Whatever the fault, no body has the name of a state."""
    for name in STATES:
        said = json.dumps(Lived().go(30).go(120, name).posts)
        assert not [other for other in STATES if other in said]


def test_trades_as_the_app_keeps_them() -> None:
    """
    Each round trip is returned once, with its prices and its backtest percentage, but without costs.

    A page reload starts an empty list.
    """
    lived = Lived().go(HALF_HOUR_S, "spread_up")
    fills = lived.life.fills()
    assert len(fills) == _at(lived.last, ("pnl", "totalTrades")) == len({row["id"] for row in fills}) > 5
    assert not [
        key for row in fills for key in row if "commission" in key or "slippage" in key or "bid" in key
    ] and all("backtest_net_pct" in row for row in fills)
    calm = Lived().go(HALF_HOUR_S).life.fills()
    assert all(
        wide["entry_price"] > row["entry_price"] and wide["backtest_net_pct"] == row["backtest_net_pct"]
        for wide, row in zip(fills, calm, strict=True)
    )
    assert lived.go(1, "page_refreshed").life.fills() == []
