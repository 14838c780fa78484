"""
List every state of the simulated world, which of them can affect a share of the responses, and which are active.

No interface of the world reveals the name of a state.
"""

from random import Random

# States that can affect only a share of the responses, and states that affect all of them.
SHARED = (
    "massive_5xx",
    "massive_timeout",
    "massive_401",
    "massive_403_plan",
    "massive_403_ip",
    "massive_429",
    "massive_html_200",
    "massive_empty",
    "massive_intermittent",
    "tradier_down",
    "both_down",
    "app_slow",
    "gamma_zero",
    "greeks_missing",
    "delta_out_of_bounds",
    "unit_drift",
    "error_storm",
)
WHOLE = (
    "healthy",
    "massive_refused",
    "massive_dns",
    "massive_tls",
    "massive_partial_pages",
    "massive_stale",
    "our_network_down",
    "our_timeout_short",
    "app_down",
    "app_restarted",
    "page_refreshed",
    "page_closed",
    "ws_closed_1006",
    "ws_open_silent",
    "ws_403",
    "ws_port_blocked",
    "iv_stress",
    "expiry_friday",
    "market_closed",
    "commission_up",
    "spread_up",
    "bad_fills",
    "smaller_size",
    "too_few_trades",
    "memory_leak",
    "clock_skew",
    "dashboard_slow",
    "collector_dead",
    "market_closes_early",
    "tradier_options_refused",
    "ws_old_clients_dead",
    "app_hung",
    "collector_starved",
    "app_clock_behind",
    "massive_clock_ahead",
    "massive_clock_behind",
    "tradier_clock_ahead",
    "tradier_clock_behind",
    "page_clock_ahead",
    "page_clock_behind",
    "our_clock_fast",
    "our_clock_slow",
)
STATES = (*WHOLE, *SHARED)
NO_FAULT = (
    "healthy",
    "iv_stress",
    "expiry_friday",
    "market_closed",
    "market_closes_early",
    "too_few_trades",
    "page_refreshed",
    "page_closed",
)
OURS = ("collector_dead", "collector_starved")  # Faults of our side; the world does not simulate them.

# State: the parties whose clocks it moves, and by how many seconds these are then ahead. If our own clock is fast, all
# others are behind it.
PARTIES = ("massive", "tradier", "app", "page")
OFF_S = 600.0
SKEWED: dict[str, tuple[tuple[str, ...], float]] = {
    "clock_skew": (("app", "page"), OFF_S),
    "app_clock_behind": (("app",), -OFF_S),
    "massive_clock_ahead": (("massive",), OFF_S),
    "massive_clock_behind": (("massive",), -OFF_S),
    "tradier_clock_ahead": (("tradier",), OFF_S),
    "tradier_clock_behind": (("tradier",), -OFF_S),
    "page_clock_ahead": (("page",), OFF_S),
    "page_clock_behind": (("page",), -OFF_S),
    "our_clock_fast": (PARTIES, -OFF_S),
    "our_clock_slow": (PARTIES, OFF_S),
}
OUR_CLOCK = ("our_clock_fast", "our_clock_slow")


class States:
    """
    The active states, and which response each of them affects next.

    Each state has its own sequence of random draws, so that one state does not change what another affects.

    Attributes:
        active: Share by name of each active state.
        hit: Number of responses, or contracts of a chain, affected so far.
    """

    def __init__(self, seed: int):
        self._seed = seed
        self._draws: dict[str, Random] = {}
        self.active: dict[str, float] = {}
        self.hit = 0

    def inject(self, active: dict[str, float]) -> None:
        """
        Make these the only active states: share by name, above 0 and up to 1.

        Raises:
            ValueError: A state is unknown, or cannot have its share.
        """
        for name, share in active.items():
            if name not in STATES:
                raise ValueError(f"unknown state {name!r}")
            if not 0 < share <= 1 or (share < 1 and name not in SHARED):
                raise ValueError(f"{name} cannot affect a share of {share}")
        self.active = {name: share for name, share in active.items() if name != "healthy"}

    def on(self, name: str) -> bool:
        """Return whether a state is active."""
        return name in self.active

    def hits(self, name: str) -> bool:
        """Draw whether a state affects this response; call it once for each response that it may affect."""
        share = self.active.get(name, 0.0)
        drawn = share == 1.0 or (
            share > 0.0 and self._draws.setdefault(name, Random(f"{self._seed}/{name}")).random() < share
        )
        self.hit += drawn
        return drawn

    def ahead_s(self, party: str) -> float:
        """Return by how many seconds the clock of one of `PARTIES` is ahead of the world's time."""
        return sum(by_s for name, (parties, by_s) in SKEWED.items() if name in self.active and party in parties)


def codes(seed: int) -> dict[str, str]:
    """Return a meaningless code for each state; commands to the world use these codes."""
    rng = Random(f"{seed}/codes")
    return {name: f"w{rng.getrandbits(48):012x}" for name in STATES}
