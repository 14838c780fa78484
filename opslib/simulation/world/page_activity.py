"""
Simulate the events on the trader's page while a fault is active, and so the snapshots it posts.

Each whole second of a page load has its own random draw, so the bodies do not depend on how the time is divided into
calls. page.py defines how the page counts, script.py how often events happen without a fault.
"""

import heapq
from datetime import UTC, datetime
from math import floor
from random import Random
from typing import Any

from opslib.simulation.world import market_hours, script
from opslib.simulation.world.faults import OUR_CLOCK, SKEWED, States
from opslib.simulation.world.page import Page
from opslib.simulation.world.script import Event, PageLife

POSITIONS = 3
TRADE_EVERY_S, HELD_S = 240, 60.0
SLOW_POST_INTERVAL_S = 40
TRIES_S = 3.1  # Three attempts of the page at a server that refuses them, with the pauses between.
HANGS_S = 30.0  # Three attempts of ten seconds each at a server that never responds.
LEAK_BYTES_PER_S = 60_000
SHORT_TIMEOUT_MS = 150

GAMMA_ZERO_SHARE = 0.4
GAMMA_ZERO_SHARE_AT_EXPIRY = 0.03
GAMMA_MISSING_TEXT = "Gamma not provided (critical for position risk)"
IV_ANOMALIES_PER_HOUR_IN_STRESS = 90.0
STORM_ERRORS_PER_S = 0.1

# The page counts each attempt that fails with an HTTP error. Exceptions, and 401, 403 and 429, are not counted.
COUNTED = ("massive_5xx", "both_down", "massive_intermittent", "massive_html_200")
THROWN_AFTER_S = {
    "massive_timeout": 10.0,
    "massive_refused": 0.01,
    "massive_dns": 0.02,
    "massive_tls": 0.06,
    "massive_401": 0.15,
    "massive_403_plan": 0.15,
    "massive_403_ip": 0.15,
    "massive_429": 1.0,
}
UNREACHABLE = ("our_network_down",)
BY_THE_APP = ("app_down", "app_hung")  # Every request of the page goes through the app's server.
NO_SOCKET = ("app_down", "ws_closed_1006", "ws_403", "ws_port_blocked")
UPSTREAM_LOST = ("ws_open_silent", "ws_old_clients_dead", "our_network_down")
RELOADS = {
    "page_refreshed",
    *(name for name, (parties, _) in SKEWED.items() if "page" in parties and name not in OUR_CLOCK),
}
STAMPS = ("lastUpdateAt", "lastErrorAt")
STORM_MESSAGES = (
    ("API_ERROR", "Request failed with status 500"),
    ("VALIDATION_ERROR", "Position update was rejected"),
    ("NETWORK_ERROR", "Failed to fetch"),
    ("UI_ERROR", "Cannot read properties of undefined"),
)

# Small premiums and large orders, so that a fee per contract and a minimum fee per order each have a visible effect.
CHEAPEST_USD, DEAREST_USD = 0.5, 1.0
FEWEST_CONTRACTS, MOST_CONTRACTS = 8, 12
LEAST_FEE_USD_PER_ORDER = 5.0
RAISED_FEE_USD_PER_CONTRACT_SIDE = 6.2
RAISED_SPREAD = 0.085
BAD_FILL = 0.07
FEW_OF, UNLUCKY_FILL = 3, 0.2  # With too few trades, 1 of 3 happens, each far below the backtest.
QUALITY = 0.98  # Share of the spread that is paid on each leg.


class PageActivity:
    """
    The trader's page: its page loads in order, and the snapshots of each.

    Args:
        seed: Seed of all random draws.
        at_s: World time at which the page is loaded.
        states: The active states, read at every call.
    """

    def __init__(self, seed: int, at_s: float, states: States):
        self._seed, self._states = seed, states
        self._at_s, self._second = at_s, floor(at_s)
        self._was = set(states.active)
        self._loads = 0
        self._load = None if states.on("page_closed") else self._new_load()

    def fills(self) -> list[dict[str, Any]]:
        """
        Return the round trips of this page load so far, as the app stores them.

        Each has the percentage of its backtest, and nothing else of the backtest.
        """
        return self._load.fills if self._load else []

    def posts(self, upto_s: float) -> list[tuple[float, dict[str, Any]]]:
        """
        Return what the page posts after the last call, up to and at `upto_s`: world time and body, oldest first.

        The states that are active now count as active since the last call. If the time goes back, nothing is posted
        until it is past the last call again.
        """
        self._apply_states()
        interval_s = SLOW_POST_INTERVAL_S if self._states.on("dashboard_slow") else script.POST_INTERVAL_S
        found = []
        while self._second + 1 <= upto_s:
            if self._load:
                _Second(self._seed, self._states, self._load, self._second).happen()
                self._load.count_until(self._second + 1)
            self._second += 1
            if self._load and self._second % interval_s == 0:
                found.append((float(self._second), self._load.body(self._second)))
        self._at_s = max(self._at_s, upto_s)
        return found

    def _apply_states(self) -> None:
        """Load, reload or close the page, by the states that changed since the last call."""
        now = set(self._states.active)
        came, went = now - self._was, self._was - now
        self._was = now
        if "page_closed" in now:
            self._load = None
        elif came & RELOADS or "page_closed" in went:
            self._load = self._new_load()

    def _new_load(self) -> "_Load":
        self._loads += 1
        ahead_s = 0.0 if any(self._states.on(name) for name in OUR_CLOCK) else self._states.ahead_s("page")
        return _Load(self._seed, self._loads, self._at_s, ahead_s, self._states)


class _Load:
    """One page load: its counters, its future events, and the state that later seconds need."""

    def __init__(self, seed: int, number: int, at_s: float, ahead_s: float, states: States):
        self._states = states
        self.key = f"trader-{number}"
        self.loaded_s = at_s
        self.gaps: list[float] = []
        self.fills: list[dict[str, Any]] = []
        self.leaked_bytes = 0
        self.socket = "new"
        self._coming: list[tuple[float, int, Event]] = []
        self._added = 0
        at, page_id = _instant(at_s), f"desk-{Random(f'{seed}/{self.key}').getrandbits(16):04x}"
        self._page = Page(PageLife(self.key, page_id, at, None, 0, ahead_s, 0.0, at, at))

    def add(self, at_s: float, kind: str, **data: object) -> None:
        """Add an event at an instant, but not before the page load."""
        at_s = max(round(at_s, 3), self.loaded_s)
        heapq.heappush(self._coming, (at_s, self._added, Event(_instant(at_s), self.key, kind, data)))
        self._added += 1

    def count_until(self, at_s: float) -> None:
        """Count all events up to and at an instant."""
        while self._coming and self._coming[0][0] <= at_s:
            self._page.apply(heapq.heappop(self._coming)[2])

    def body(self, at_s: float) -> dict[str, Any]:
        """Return what the page posts at an instant."""
        body = self._page.body(_instant(at_s))
        body["client"]["memoryBytes"] += self.leaked_bytes
        ours = next((name for name in OUR_CLOCK if self._states.on(name)), None)
        return body if ours is None else _stamped_off(body, round(SKEWED[ours][1] * 1000))


class _Second:
    """One whole second of one page load."""

    def __init__(self, seed: int, states: States, load: _Load, second: int):
        self._seed, self._states, self._load, self._second = seed, states, load, second
        self._rng = Random(f"{seed}/{load.key}/{second}")
        self._is_market_open = (
            market_hours.session(second) == "open"
            and not states.on("market_closed")
            and not states.on("market_closes_early")
        )

    def happen(self) -> None:
        """Add the events of this second."""
        self._keep_socket()
        if self._is_market_open:
            self._ask_for_data()
            self._validate()
            self._trade()
        self._err()
        if self._states.on("memory_leak"):
            self._load.leaked_bytes += LEAK_BYTES_PER_S

    def _share(self, *names: str) -> float:
        """Return the largest share of these states."""
        return max(self._states.active.get(name, 0.0) for name in names)

    def _is_hit(self, *names: str) -> bool:
        return self._rng.random() < self._share(*names)

    def _happens(self, per_hour: float) -> bool:
        return self._rng.random() < per_hour / 3600

    def _moment(self) -> float:
        return self._second + self._rng.random()

    def _keep_socket(self) -> None:
        """
        Simulate the page's WebSocket.

        It is opened after the load. After a failure or loss it is tried once more a second later, then never again. It
        gets no messages once the app has lost its upstream connection.
        """
        load, at_s = self._load, self._second + self._rng.random() / 2
        is_barred = self._share(*NO_SOCKET) > 0
        if load.socket in ("new", "again") and self._second + 1 > load.loaded_s + script.SOCKET_CONNECT_S:
            if is_barred:
                load.socket = "again" if load.socket == "new" else "given up"
            else:
                load.socket = "open"
                load.add(max(at_s, load.loaded_s + script.SOCKET_CONNECT_S), "ws", connected=True)
        elif load.socket in ("open", "deaf") and is_barred:
            load.socket = "again"
            load.add(at_s, "ws", connected=False)
            load.add(at_s, "error", type="NETWORK_ERROR", message="WebSocket closed with code 1006")
        elif load.socket == "open" and self._share(*UPSTREAM_LOST):
            load.socket = "deaf"  # It stays open, and the app sends it no more messages.
        elif (
            load.socket == "open"
            and self._is_market_open
            and not self._states.on("app_hung")
            and self._second % script.LATENCY_INTERVAL_S == 2
        ):
            load.add(self._moment(), "ws_latency", ms=round(max(12.0, self._rng.gauss(48, 15))))

    def _ask_for_data(self) -> None:
        if self._happens(script.MASSIVE_REQUESTS_PER_HOUR):
            self._call_massive(self._moment())
        if self._happens(script.TRADIER_REQUESTS_PER_HOUR):
            self._ask_tradier(self._moment())

    def _call_massive(self, at_s: float) -> None:
        """Make one call: up to three attempts, then Tradier; the page reports it only if an attempt was counted."""
        if self._share(*UNREACHABLE):
            return
        if self._share(*BY_THE_APP):
            ends_s = at_s + (TRIES_S if self._states.on("app_down") else HANGS_S)
            self._load.add(ends_s, "request", provider="massive", ms=round((ends_s - at_s) * 1000), ok=False)
            self._load.add(ends_s, "error", type="MassiveREST", message="Failed to fetch")
            return
        usual_ms, is_reported = self._rng.gauss(195, 55), False
        for attempt in range(script.ATTEMPTS_PER_CALL):
            ms = round(max(35.0, usual_ms + self._rng.gauss(0, 10)))
            thrown_after_s = self._thrown_after_s(ms)
            if thrown_after_s is None:
                is_failed = self._rng.random() < script.ATTEMPT_FAILURE_RATE or self._is_hit(*COUNTED)
                self._load.add(at_s + ms / 1000, "request", provider="massive", ms=ms, ok=not is_failed)
                if not is_failed:
                    return
                is_reported = True
            at_s += (ms / 1000 if thrown_after_s is None else thrown_after_s) + 0.1 * 2**attempt
        if is_reported:
            self._load.add(at_s, "fallback", provider="massive")
            self._load.add(at_s, "error", type="API_ERROR", message="Massive answered HTTP 503 three times")
        self._ask_tradier(at_s)

    def _thrown_after_s(self, ms: int) -> float | None:
        """
        Return after how many seconds an attempt that takes `ms` ends uncounted.

        None if it gets a response and is counted.
        """
        for name, after_s in THROWN_AFTER_S.items():
            if self._is_hit(name):
                return after_s
        return SHORT_TIMEOUT_MS / 1000 if self._states.on("our_timeout_short") and ms > SHORT_TIMEOUT_MS else None

    def _ask_tradier(self, at_s: float) -> None:
        if self._share(*UNREACHABLE, *BY_THE_APP):
            return
        ms = round(max(30.0, self._rng.gauss(150, 40)))
        is_failed = self._rng.random() < script.ATTEMPT_FAILURE_RATE or self._is_hit("tradier_down", "both_down")
        self._load.add(at_s + ms / 1000, "request", provider="tradier", ms=ms, ok=not is_failed)

    def _validate(self) -> None:
        """
        Validate each position's Greeks every ten seconds.

        Nothing is counted while neither provider has sent a snapshot of the chain.
        """
        if self._happens(
            IV_ANOMALIES_PER_HOUR_IN_STRESS if self._states.on("iv_stress") else script.IV_ANOMALIES_PER_HOUR
        ):
            self._load.add(self._moment(), "iv_anomaly")
        if self._second % script.VALIDATION_INTERVAL_S != 3:
            return
        for _ in range(POSITIONS):
            is_without_massive = self._is_hit(*COUNTED, *THROWN_AFTER_S)
            if self._share(*UNREACHABLE, *BY_THE_APP) or (
                is_without_massive and self._is_hit("tradier_down", "both_down")
            ):
                continue
            cause, errors = self._finding()
            is_estimated = cause in ("gamma_zero", "gamma_missing", "theta_missing")
            self._load.add(
                self._second + 0.5, "greeks", valid=not errors, estimated=is_estimated, cause=cause, errors=errors
            )

    def _finding(self) -> tuple[str, tuple[str, ...]]:
        if self._is_hit("greeks_missing"):
            return "gamma_missing", (GAMMA_MISSING_TEXT,)
        gamma_rate = script.GAMMA_ZERO_RATE
        if self._states.on("expiry_friday"):
            gamma_rate = GAMMA_ZERO_SHARE_AT_EXPIRY
        if share := self._share("gamma_zero"):
            gamma_rate = share if share < 1 else GAMMA_ZERO_SHARE
        if self._rng.random() < gamma_rate:
            return "gamma_zero", (script.GAMMA_ZERO_TEXT,)
        if self._rng.random() < script.DELTA_RATE or self._is_hit("delta_out_of_bounds"):
            return "delta_out_of_bounds", (script.DELTA_TEXT,)
        return ("theta_missing", ()) if self._rng.random() < script.THETA_MISSING_RATE else ("clean", ())

    def _trade(self) -> None:
        """
        Make one round trip every four minutes, at a random second.

        Each also updates the mean of the last five gaps to the backtest.
        """
        stretch, on = self._second // TRADE_EVERY_S, self._states.on
        rng = Random(f"{self._seed}/{self._load.key}/trade/{stretch}")
        due = stretch * TRADE_EVERY_S + rng.randint(TRADE_EVERY_S // 4, TRADE_EVERY_S * 3 // 4)
        few = on("too_few_trades")
        if self._second != due or (few and stretch % FEW_OF):
            return
        entry_usd = rng.uniform(CHEAPEST_USD, DEAREST_USD)
        exit_usd = entry_usd * (1 + max(-0.5, rng.gauss(0.05, 0.1)))
        contracts = 1 if on("smaller_size") else rng.randint(FEWEST_CONTRACTS, MOST_CONTRACTS)
        spread = (RAISED_SPREAD if on("spread_up") else script.CALM_SPREAD) * rng.uniform(0.9, 1.1)
        fee_usd = RAISED_FEE_USD_PER_CONTRACT_SIDE if on("commission_up") else script.COMMISSION_USD_PER_CONTRACT_SIDE
        if few:
            missed = UNLUCKY_FILL
        elif on("bad_fills"):
            missed = BAD_FILL
        else:
            missed = 0.0
        live = _round_trip(
            entry_usd * (1 + missed),
            exit_usd * (1 - missed),
            contracts,
            spread,
            max(fee_usd * contracts, LEAST_FEE_USD_PER_ORDER),
        )
        backtest = _round_trip(
            entry_usd, exit_usd, contracts, script.BACKTEST_SPREAD, script.COMMISSION_USD_PER_CONTRACT_SIDE * contracts
        )
        self._load.gaps = [*self._load.gaps, backtest["net_pct"] - live["net_pct"]][-script.VARIANCE_TRADES :]
        at_s = self._second + rng.random()
        self._load.add(at_s, "trade", **live)
        self._load.fills.append(
            {
                "id": self._second,
                "ticker": "SPY",
                "contract": {"strike": 670.0, "expiry": "2026-03-13", "type": "C"},
                "state": "EXITED",
                "quantity": contracts,
                "contractMultiplier": 100,
                "entry_ts": _instant(at_s - HELD_S).isoformat(),
                "exit_ts": _instant(at_s).isoformat(),
                "entry_price": round(entry_usd * (1 + missed) * (1 + QUALITY * spread), 4),
                "exit_price": round(exit_usd * (1 - missed) * (1 - QUALITY * spread), 4),
                "backtest_net_pct": round(backtest["net_pct"], 6),
            }
        )
        self._load.add(at_s, "variance", points=sum(self._load.gaps) / len(self._load.gaps))

    def _err(self) -> None:
        if self._happens(script.UI_ERRORS_PER_HOUR):
            self._load.add(self._moment(), "error", type="UI_ERROR", message=self._rng.choice(script.UI_MESSAGES))
        if self._rng.random() < STORM_ERRORS_PER_S * self._share("error_storm"):
            kind, message = self._rng.choice(STORM_MESSAGES)
            self._load.add(self._moment(), "error", type=kind, message=message)


def _stamped_off(body: dict[str, Any], by_ms: int) -> dict[str, Any]:
    """Return a body with all timestamps shifted, as a receiver with a wrong clock sees a correct page."""
    off = {key: body[key] + by_ms for key in body if key in STAMPS}
    parts = {key: _stamped_off(part, by_ms) for key, part in body.items() if isinstance(part, dict)}
    return body | off | parts


def _instant(at_s: float) -> datetime:
    return datetime.fromtimestamp(at_s, UTC)


def _round_trip(entry_usd: float, exit_usd: float, contracts: int, spread: float, side_usd: float) -> dict[str, float]:
    """Compute a round trip in percent of its entry and in dollars; the spread is paid on both legs."""
    size = contracts * 100
    entry_slippage_usd, exit_slippage_usd = QUALITY * entry_usd * size * spread, QUALITY * exit_usd * size * spread
    net_usd = (exit_usd - entry_usd) * size - 2 * side_usd - entry_slippage_usd - exit_slippage_usd
    return {
        "gross_pct": (exit_usd - entry_usd) / entry_usd * 100,
        "net_pct": net_usd / (entry_usd * size + side_usd + entry_slippage_usd) * 100,
        "commission_usd": 2 * side_usd,
        "slippage_usd": entry_slippage_usd + exit_slippage_usd,
    }
