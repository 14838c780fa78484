"""
Knows what can be the matter with the world: the name of every state, which of them can hit a share of what is
answered, and what is the matter now. No name of a state leaves the world by any door.
"""

from random import Random

# Name: what is the matter. Those marked with a share may hit only so much of what they touch.
SHARED = (
    "massive_5xx", "massive_timeout", "massive_401", "massive_403_plan", "massive_403_ip", "massive_429", "massive_html_200", "massive_empty", "massive_intermittent",
    "tradier_down", "both_down", "app_slow", "gamma_zero", "greeks_missing", "delta_out_of_bounds", "unit_drift", "error_storm",
)  # fmt: skip
WHOLE = (
    "healthy", "massive_refused", "massive_dns", "massive_tls", "massive_partial_pages", "massive_stale", "our_network_down", "our_timeout_short", "app_down", "app_restarted",
    "page_refreshed", "page_closed", "ws_closed_1006", "ws_open_silent", "ws_403", "ws_port_blocked", "iv_stress", "expiry_friday", "market_closed",
    "commission_up", "spread_up", "bad_fills", "smaller_size", "too_few_trades", "memory_leak", "clock_skew", "dashboard_slow", "collector_dead",
)  # fmt: skip
STATES = (*WHOLE, *SHARED)
NO_FAULT = ("healthy", "iv_stress", "expiry_friday", "market_closed", "too_few_trades", "page_refreshed", "page_closed")


class States:
    """
    What is the matter, and whom it hits next.

    Draws are made for each state by itself, in their order, so that one state does not change whom another hits.
    """

    def __init__(self, seed: int):
        self._seed = seed
        self._draws: dict[str, Random] = {}
        self.active: dict[str, float] = {}

    def become(self, active: dict[str, float]) -> None:
        """Let just these be the matter: share by name, above 0 and up to 1."""
        for name, share in active.items():
            if name not in STATES:
                raise ValueError(f"there is no state {name!r}")
            if not 0 < share <= 1 or (share < 1 and name not in SHARED):
                raise ValueError(f"{name} cannot hit a share of {share}")
        self.active = {name: share for name, share in active.items() if name != "healthy"}

    def on(self, name: str) -> bool:
        """Is it the matter at all?"""
        return name in self.active

    def hits(self, name: str) -> bool:
        """Does it hit this one? Asked once for each thing that it may hit."""
        share = self.active.get(name, 0.0)
        if share in (0.0, 1.0):
            return share == 1.0
        return self._draws.setdefault(name, Random(f"{self._seed}/{name}")).random() < share


def codes(seed: int) -> dict[str, str]:
    """A word for each state that says nothing of it: what is said to the world over a pipe is said in these."""
    rng = Random(f"{seed}/codes")
    return {name: f"w{rng.getrandbits(48):012x}" for name in STATES}
