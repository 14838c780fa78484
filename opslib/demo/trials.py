"""
Knows what runbooks are drilled against: what is injected, when, and which answers are right. Only the drill reads it, and
only after the suite's own verdict is on record.

A trial is a fault, a pair of things that are told apart only by looking twice, or a control in which nothing is to be done.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from opslib.demo.states import NO_FAULT, SHARED, STATES

SHARES = (0.05, 0.3, 1.0)
SLIGHT = 0.05  # So few answers hit may be nothing that needs be done.


@dataclass(frozen=True)
class Trial:
    """
    One thing to drill.

    Attributes:
        name: Of the fault, the pair or the control.
        acts: What is the matter from which minute on: {state: share}; the last lasts to the end.
        causes: The right ones; the first is what is expected, another says the same with less.
        also: Causes that must be found beside it.
        subject: Whom it must be about; None is that it does not matter.
        panel, words: What the panel must say while everything is hit.
        control: Is nobody to be told of it?
        quiet: Minutes before anything is the matter.
        minutes: For so long after the last act the drill waits for an alert.
        looked_at: Do our own looks say something of it? Else only the page's posts do, and no look is made.
        marked: Was a restart announced?
        held: Is the app's socket held open?
        share: Of what is hit, where it can be less than all.
    """

    name: str
    acts: tuple[tuple[float, dict[str, float]], ...]
    causes: tuple[str, ...]
    subject: str | None = None
    panel: str = ""
    words: tuple[str, ...] = ()
    also: tuple[str, ...] = ()
    control: bool = False
    quiet: float = 2.0
    minutes: float = 5.0
    looked_at: bool = True
    marked: bool = False
    held: bool = False
    share: float = 1.0

    @property
    def injected(self) -> float:
        """The minute at which the first thing is the matter."""
        return self.quiet + self.acts[0][0] if self.acts else self.quiet


# State: its causes, whom it is about, the panel that shows it, and what that must say.
_TOLD: dict[str, tuple[tuple[str, ...], str | None, str, tuple[str, ...]]] = {
    "massive_5xx": (("provider_5xx",), "massive", "providers", ("massive answers with an error of its own (5xx)",)),
    "massive_timeout": (("provider_timeout",), "massive", "providers", ("massive takes the connection and does not answer in time",)),
    "massive_refused": (("provider_refused",), "massive", "providers", ("massive refuses the connection",)),
    "massive_dns": (("provider_dns",), "massive", "providers", ("massive has a name that cannot be resolved",)),
    "massive_tls": (("provider_tls",), "massive", "providers", ("massive shows a certificate that cannot be trusted",)),
    "massive_401": (("provider_auth",), "massive", "providers", ("massive does not accept our key (401)",)),
    "massive_403_plan": (("provider_plan",), "massive", "providers", ("our plan does not cover this (403)",)),
    "massive_403_ip": (("provider_ip_blocked",), "massive", "providers", ("massive does not let our address in (403)",)),
    "massive_429": (("provider_rate_limited",), "massive", "providers", ("massive says that we ask too often (429)",)),
    "massive_html_200": (("provider_wrong_content",), "massive", "providers", ("massive answers with a page instead of data",)),
    "massive_empty": (("provider_empty",), "massive", "providers", ("massive answers, with nothing in it",)),
    "massive_partial_pages": (("provider_partial",), "massive", "greeks", ("massive answers only a part of the chain",)),
    "massive_stale": (("provider_stale",), "massive", "providers", ("massive answers with old data",)),
    "massive_intermittent": (("provider_intermittent", "provider_5xx"), "massive", "providers", ("massive answers some of our looks and not others",)),
    "tradier_down": (("provider_5xx",), "tradier", "providers", ("tradier answers with an error of its own",)),
    "both_down": (("both_providers_down",), None, "providers", ("nobody can serve",)),
    "our_network_down": (("our_network",), None, "providers", ("our own network first",)),
    "our_timeout_short": (("our_timeout_too_short",), "massive", "providers", ("the app's own timeout is too short",)),
    "app_down": (("app_down",), "app", "system", ("the app refuses the connection",)),
    "app_restarted": (("app_restarted",), "app", "system", ("the app's server was started anew",)),
    "app_slow": (("app_slow",), "app", "system", ("the app is slow to answer us",)),
    "ws_403": (("socket_auth",), "app", "system", ("the app's WebSocket refuses us before it opens (HTTP 403)",)),
    "ws_port_blocked": (("socket_blocked",), "app", "system", ("the app's WebSocket cannot be connected to",)),
    "ws_closed_1006": (("socket_closed",), "app", "system", ("the app's WebSocket is closed on us (code 1006)",)),
    "ws_open_silent": (("socket_silent",), "app", "system", ("the app's WebSocket is open and silent",)),
    "gamma_zero": (("greeks_gamma_zero",), None, "greeks", ("share with gamma zero or missing",)),
    "greeks_missing": (("greeks_missing",), None, "greeks", ("valid Greeks",)),
    "delta_out_of_bounds": (("greeks_out_of_bounds",), None, "greeks", ("share with delta outside -1 to 1",)),
    "unit_drift": (("greeks_units",), None, "greeks", ("units of SPY's Greeks may have changed",)),
    "commission_up": (("costs_commission",), "app", "pnl", ("backtest variance (",)),
    "spread_up": (("costs_spread",), "app", "pnl", ("backtest variance (",)),
    "bad_fills": (("costs_fill_quality",), "app", "pnl", ("backtest variance (",)),
    "smaller_size": (("costs_size",), "app", "pnl", ("backtest variance (",)),
    "memory_leak": (("memory_leak",), None, "system", ("growth of the app's server (",)),
    "error_storm": (("error_storm",), None, "system", ("errors (",)),
    "clock_skew": (("clock_skew",), "app", "system", ("the clock of the app is 10 min ahead of ours",)),
    "dashboard_slow": (("dashboard_slow",), None, "system", ("age of what the dashboard shows (",)),
    "collector_dead": (("monitor_down",), None, "system", ("our collector has missed",)),
}
COSTS = ("commission_up", "spread_up", "bad_fills", "smaller_size")
HELD_OPEN = ("ws_closed_1006", "ws_open_silent")  # What happens to a socket that is held: each look opens one of its own otherwise.


def _fault(state: str) -> Trial:
    causes, subject, panel, words = _TOLD[state]
    found = Trial(state, ((0.0, {state: 1.0}),), causes, subject, panel, words)
    if state in COSTS:
        return replace(found, quiet=45.0, minutes=30.0, looked_at=False)
    if state in HELD_OPEN:
        return replace(found, held=True)
    return replace(found, minutes=12.0) if state == "memory_leak" else found


def _shared(trial: Trial, share: float) -> Trial:
    """The same, with only a share of what is answered hit: some looks fail and others do not, which is a cause of its own; of very few, all that is seen may be one page of a chain that is missing."""
    if share == 1.0:
        return trial
    some = ("provider_intermittent", *(("provider_5xx",) if trial.causes[0] == "both_providers_down" else ()), *(("provider_partial",) if share <= SLIGHT else ())) if trial.causes[0].startswith(("provider_", "both_")) else ()
    return replace(trial, acts=((0.0, {trial.name: share}),), causes=(*trial.causes, *some), words=(), share=share, minutes=2 * trial.minutes)


FAULTS = {state: _fault(state) for state in _TOLD}
CONTROLS = {
    t.name: replace(t, control=True)
    for t in (
        Trial("healthy", (), ("none",)),
        Trial("iv_stress", ((0.0, {"iv_stress": 1.0}),), ("market_stress",), None, "greeks", ("market stress, no fault of the data",)),
        Trial("expiry_friday", ((0.0, {"expiry_friday": 1.0}),), ("expiry",), None, "greeks", ("expire today",)),
        Trial("too_few_trades", ((0.0, {"too_few_trades": 1.0}),), ("too_few_trades", "none")),
        Trial("market_closed", ((0.0, {"market_closed": 1.0}),), ("market_closed",), None, "providers", ("the market is closed",)),
        Trial("page_refreshed", ((0.0, {"page_refreshed": 1.0}),), ("none",)),
        Trial("page_closed", ((0.0, {"page_closed": 1.0}),), ("none",), minutes=3.0),
        Trial("a blip of 15 s", ((0.0, {"massive_empty": 1.0}), (0.25, {"healthy": 1.0})), ("none",), quiet=4.0),
        Trial("a planned restart", ((0.0, {"app_restarted": 1.0}),), ("app_restarted", "none"), marked=True),
        Trial("a second page is opened", ((0.0, {"page_refreshed": 1.0}), (1.0, {"healthy": 1.0}), (2.0, {"page_refreshed": 1.0})), ("none",)),
    )
}
PAIRS = {
    t.name: t
    for t in (
        Trial("massive_refused, ws_403", ((0.0, {"massive_refused": 1.0, "ws_403": 1.0}),), ("provider_refused",), "massive", also=("socket_auth",)),
        Trial("massive_5xx, then page_refreshed", ((0.0, {"massive_5xx": 1.0}), (1.0, {"massive_5xx": 1.0, "page_refreshed": 1.0})), ("provider_5xx",), "massive"),
        Trial("massive_5xx, page_closed", ((0.0, {"massive_5xx": 1.0, "page_closed": 1.0}),), ("provider_5xx",), "massive"),
        Trial("iv_stress, gamma_zero", ((0.0, {"iv_stress": 1.0, "gamma_zero": 0.2}),), ("greeks_gamma_zero",)),
        Trial("expiry_friday, gamma_zero", ((0.0, {"expiry_friday": 1.0, "gamma_zero": 0.2}),), ("greeks_gamma_zero",)),
        Trial("massive_401, then massive_429", ((0.0, {"massive_401": 1.0}), (1.0, {"massive_429": 1.0})), ("provider_rate_limited",), "massive"),
        Trial("massive_5xx, tradier_down", ((0.0, {"massive_5xx": 1.0, "tradier_down": 1.0}),), ("both_providers_down",)),
        Trial("app_down, massive_timeout", ((0.0, {"app_down": 1.0, "massive_timeout": 1.0}),), ("app_down", "provider_timeout")),
        Trial("error_storm, delta_out_of_bounds", ((0.0, {"error_storm": 1.0, "delta_out_of_bounds": 0.2}),), ("greeks_out_of_bounds", "error_storm")),
        Trial("clock_skew, massive_401", ((0.0, {"clock_skew": 1.0, "massive_401": 1.0}),), ("provider_auth",), "massive", also=("clock_skew",)),
        Trial("tradier_down, our_timeout_short", ((0.0, {"tradier_down": 1.0, "our_timeout_short": 1.0}),), ("provider_5xx", "our_timeout_too_short")),
        Trial("ws_port_blocked, app_slow", ((0.0, {"ws_port_blocked": 1.0, "app_slow": 1.0}),), ("socket_blocked", "app_slow")),
        Trial("unit_drift, iv_stress", ((0.0, {"unit_drift": 1.0, "iv_stress": 1.0}),), ("greeks_units", "market_stress")),
    )
}
assert {*FAULTS, *NO_FAULT} == set(STATES)


def trials(names: tuple[str, ...], shares: tuple[float, ...]) -> Iterator[Trial]:
    """The trials of these names (none: all), each fault at each share that it can have."""
    for trial in {**FAULTS, **PAIRS, **CONTROLS}.values():
        if names and trial.name not in names:
            continue
        if trial.name in FAULTS and trial.name in SHARED:
            yield from (_shared(trial, share) for share in shares)
        elif trial.name not in FAULTS or 1.0 in shares:
            yield trial
