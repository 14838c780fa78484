"""
Define the drill's scenarios: what is injected when, the expected cause, and the accepted alternatives with reasons.

A scenario is a fault, a pair of simultaneous faults, a look-alike (looks like a fault but is none), or a control
(nothing needs to be done). Only the drill reads it, and only after the diagnosis is recorded.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from opslib.simulation.world.faults import NO_FAULT, SHARED, STATES

SHARES = (0.05, 0.3, 1.0)
SLIGHT = 0.05  # With so few responses affected, the only one that probes meet may be a page of a chain.
ENOUGH = 3  # Affected responses that the probes must have met before a cause is expected.
FAULT, PAIR, LOOK_ALIKE, CONTROL = KINDS = ("fault", "pair", "look-alike", "control")


@dataclass(frozen=True)
class Scenario:
    """
    One scenario to drill.

    Attributes:
        name: Name of the fault, the pair or the control.
        acts: Minute and active states from that minute on, {state: share}; the last act lasts to the end.
        cause: The expected cause.
        subject: The expected subject; None accepts any.
        panel, words: Text that the panel must show while every response is affected.
        also: Causes that must be named in addition.
        accepted: Accepted alternative causes, each with the reason; they are counted separately.
        kind: One of `KINDS`; nobody may be notified of a look-alike or a control.
        quiet: Minutes before the first act.
        minutes: Minutes after the last act that the drill waits for an alert.
        least: Minutes after the last act before which the runbook is not opened, even after a notification, so that
            every symptom is visible by then.
        probed: Whether our probes can detect it. If not, only the page's snapshots can, and no probes are run.
        marked: Whether the restart was announced by a marker.
        fills: Whether trades, each with its backtest percentage, are imported before the runbook is opened.
        share: Share of responses affected, for states that can affect fewer than all.
    """

    name: str
    acts: tuple[tuple[float, dict[str, float]], ...]
    cause: str
    subject: str | None = None
    panel: str = ""
    words: tuple[str, ...] = ()
    also: tuple[str, ...] = ()
    accepted: Mapping[str, str] = field(default_factory=dict)
    kind: str = FAULT
    quiet: float = 2.0
    minutes: float = 5.0
    least: float = 0.0
    probed: bool = True
    marked: bool = False
    fills: bool = False
    share: float = 1.0

    @property
    def injected(self) -> float:
        """The minute of the first act."""
        return self.quiet + self.acts[0][0] if self.acts else self.quiet

    @property
    def control(self) -> bool:
        """Whether nobody may be notified of it."""
        return self.kind in (LOOK_ALIKE, CONTROL)

    @property
    def causes(self) -> tuple[str, ...]:
        """The expected cause and the accepted alternatives."""
        return (self.cause, *self.accepted)


# State: its cause, subject, the panel that shows it, and the text that the panel must show.
_EXPECTED: dict[str, tuple[str, str | None, str, tuple[str, ...]]] = {
    "massive_5xx": ("provider_5xx", "massive", "providers", ("massive returns HTTP 5",)),
    "massive_timeout": (
        "provider_timeout",
        "massive",
        "providers",
        ("massive accepts the connection but does not respond in time",),
    ),
    "massive_refused": ("provider_refused", "massive", "providers", ("massive refuses the connection",)),
    "massive_dns": ("provider_dns", "massive", "providers", ("massive has a host name that does not resolve",)),
    "massive_tls": ("provider_tls", "massive", "providers", ("massive presents an untrusted TLS certificate",)),
    "massive_401": ("provider_auth", "massive", "providers", ("massive rejects our API key (401)",)),
    "massive_403_plan": ("provider_plan", "massive", "providers", ("our plan does not include this data (403)",)),
    "massive_403_ip": ("provider_ip_blocked", "massive", "providers", ("massive blocks our IP address (403)",)),
    "massive_429": (
        "provider_rate_limited",
        "massive",
        "providers",
        ("massive rejects requests above its rate limit (429)",),
    ),
    "massive_html_200": (
        "provider_wrong_content",
        "massive",
        "providers",
        ("massive returns a web page instead of data",),
    ),
    "massive_empty": ("provider_empty", "massive", "providers", ("massive returns an empty response",)),
    "massive_partial_pages": ("provider_partial", "massive", "greeks", ("massive returns an incomplete option chain",)),
    "massive_stale": ("provider_stale", "massive", "providers", ("massive returns stale data",)),
    "massive_intermittent": (
        "provider_intermittent",
        "massive",
        "providers",
        ("massive fails intermittently",),
    ),
    "tradier_down": ("provider_5xx", "tradier", "providers", ("tradier returns HTTP 5",)),
    "tradier_options_refused": ("provider_plan", "tradier", "providers", ()),
    "both_down": ("both_providers_down", None, "providers", ("no provider can serve",)),
    "our_network_down": ("our_network", None, "providers", ("our network is down",)),
    "our_timeout_short": ("our_timeout_too_short", "massive", "providers", ("the app's own timeout is too short",)),
    "app_down": ("app_down", "app", "system", ("the app refuses the connection",)),
    "app_hung": ("app_down", "app", "system", ()),
    "app_restarted": ("app_restarted", "app", "system", ("the app's server restarted at",)),
    "app_slow": ("app_slow", "app", "system", ("the app responds slowly to our probes",)),
    "ws_403": ("socket_auth", "app", "system", ("rejects the connection before it opens (HTTP 403)",)),
    "ws_port_blocked": ("socket_blocked", "app", "system", ("the app's WebSocket cannot be reached",)),
    "ws_closed_1006": ("socket_closed", "app", "system", ("the app's WebSocket", "closed")),
    "ws_open_silent": ("socket_silent", "app", "system", ("the app's WebSocket is open but sends no messages",)),
    "ws_old_clients_dead": ("socket_silent", "app", "system", ()),
    "gamma_zero": ("greeks_gamma_zero", None, "greeks", ("Greeks with gamma zero or missing",)),
    "greeks_missing": ("greeks_missing", None, "greeks", ("valid Greeks",)),
    "delta_out_of_bounds": ("greeks_out_of_bounds", None, "greeks", ("Greeks with delta outside -1 to 1",)),
    "unit_drift": ("greeks_units", None, "greeks", ("units of SPY's Greeks may have changed",)),
    "commission_up": ("costs_commission", "app", "pnl", ("backtest variance (",)),
    "spread_up": ("costs_spread", "app", "pnl", ("backtest variance (",)),
    "bad_fills": ("costs_fill_quality", "app", "pnl", ("backtest variance (",)),
    "smaller_size": ("costs_size", "app", "pnl", ("backtest variance (",)),
    "memory_leak": ("memory_leak", None, "system", ("memory growth of the app's server (",)),
    "error_storm": ("error_storm", None, "system", ("errors (",)),
    "clock_skew": ("clock_skew", "app", "system", ("the clock of the app is 10 min ahead of the collector's clock",)),
    "app_clock_behind": ("clock_skew", "app", "system", ()),
    "massive_clock_ahead": ("clock_skew", "massive", "system", ()),
    "massive_clock_behind": ("clock_skew", "massive", "system", ()),
    "tradier_clock_ahead": ("clock_skew", "tradier", "system", ()),
    "tradier_clock_behind": ("clock_skew", "tradier", "system", ()),
    "page_clock_ahead": ("clock_skew", "page", "system", ()),
    "page_clock_behind": ("clock_skew", "page", "system", ()),
    "our_clock_fast": ("clock_skew", "monitor", "system", ()),
    "our_clock_slow": ("clock_skew", "monitor", "system", ()),
    "dashboard_slow": ("dashboard_slow", None, "system", ("age of the dashboard's data (",)),
    "collector_dead": ("monitor_down", None, "system", ("the collector has missed",)),
    "collector_starved": ("monitor_down", None, "system", ()),
}
COSTS = ("commission_up", "spread_up", "bad_fills", "smaller_size")
# Only a whole chain shows these, or the page once it has counted enough. A chain is fetched every 15 minutes.
BY_CHAIN = ("massive_partial_pages", "unit_drift", "gamma_zero", "greeks_missing", "delta_out_of_bounds")
UPTO_CHAIN = 14.0  # Minutes, after the two quiet ones, until the second chain is fetched and evaluated.
AT_TIMES = "only a share of the responses is affected, so some probes fail and others succeed: it is intermittent"
ONE_SERVES = "each provider still answers most requests, so at any time at least one of them is usable"
ONE_PAGE = "5 % of the responses are affected, and the affected one was a page of a chain"
IN_ANY_ORDER = "both causes are named, in the other order"
TOO_FEW = f"fewer than {ENOUGH} of the responses were affected: too few to detect"


def _fault(state: str) -> Scenario:
    cause, subject, panel, words = _EXPECTED[state]
    found = Scenario(state, ((0.0, {state: 1.0}),), cause, subject, panel, words)
    if state in COSTS:
        return replace(found, quiet=45.0, minutes=30.0, probed=False)
    if state in BY_CHAIN:
        return replace(found, minutes=UPTO_CHAIN)
    return replace(found, minutes=12.0) if state == "memory_leak" else found


def _shared(scenario: Scenario, share: float) -> Scenario:
    """
    Return the same scenario with only a share of the responses affected.

    Some probes then fail and others succeed, which is a cause of its own.
    """
    if share == 1.0:
        return scenario
    accepted = dict(scenario.accepted)
    if scenario.cause.startswith(("provider_", "both_")) and scenario.cause != "provider_intermittent":
        accepted["provider_intermittent"] = AT_TIMES
    if scenario.cause == "both_providers_down":
        accepted["provider_5xx"] = ONE_SERVES
    if scenario.cause.startswith(("provider_", "both_")) and share <= SLIGHT:
        accepted["provider_partial"] = ONE_PAGE
    return replace(
        scenario,
        acts=((0.0, {scenario.name: share}),),
        accepted=accepted,
        words=(),
        share=share,
        minutes=max(scenario.minutes, 2 * Scenario.minutes),
    )


FAULTS = {state: _fault(state) for state in _EXPECTED}
FAULTS["massive_intermittent"] = replace(
    FAULTS["massive_intermittent"],
    accepted={"provider_5xx": "every failure that the probes met was a server error, none a torn connection"},
)
FAULTS["app_hung"] = replace(
    FAULTS["app_hung"],
    accepted={"app_slow": "it accepts connections and has not responded yet, which is all that a probe can see"},
)
PERCENTS = Scenario(
    "spread_up, percentages only",
    ((0.0, {"spread_up": 1.0}),),
    "undetermined",
    None,
    "pnl",
    ("backtest variance (",),
    quiet=6.0,
    minutes=100.0,
    least=100.0,
    probed=False,
    fills=True,
    accepted={"costs_spread": "the page's averages identify the cost, which the backtest's percentages cannot"},
)
FAULTS[PERCENTS.name] = PERCENTS
CONTROLS = {
    t.name: t
    for t in (
        Scenario("healthy", (), "none", kind=CONTROL),
        Scenario(
            "iv_stress",
            ((0.0, {"iv_stress": 1.0}),),
            "market_stress",
            None,
            "greeks",
            ("market stress, not a data fault",),
            kind=LOOK_ALIKE,
            minutes=UPTO_CHAIN,
        ),
        Scenario(
            "expiry_friday",
            ((0.0, {"expiry_friday": 1.0}),),
            "expiry",
            None,
            "greeks",
            ("expire today",),
            kind=LOOK_ALIKE,
            minutes=UPTO_CHAIN,
        ),
        Scenario("too_few_trades", ((0.0, {"too_few_trades": 1.0}),), "too_few_trades", kind=LOOK_ALIKE, minutes=8.5),
        Scenario(
            "market_closed",
            ((0.0, {"market_closed": 1.0}),),
            "market_closed",
            None,
            "providers",
            ("the market is closed",),
            kind=LOOK_ALIKE,
            quiet=0.0,
            minutes=11.0,
        ),
        Scenario(
            "market_closes_early",
            ((0.0, {"market_closes_early": 1.0}),),
            "market_closed",
            None,
            "providers",
            ("the market is closed",),
            kind=LOOK_ALIKE,
            minutes=11.0,
        ),
        Scenario("page_refreshed", ((0.0, {"page_refreshed": 1.0}),), "none", kind=CONTROL),
        Scenario("page_closed", ((0.0, {"page_closed": 1.0}),), "none", kind=CONTROL, minutes=3.0),
        Scenario(
            "a blip of 15 s", ((0.0, {"massive_empty": 1.0}), (0.25, {"healthy": 1.0})), "none", kind=CONTROL, quiet=4.0
        ),
        Scenario(
            "a planned restart",
            ((0.0, {"app_restarted": 1.0}),),
            "app_restarted",
            accepted={"none": "the restart was announced, so there is nothing to diagnose"},
            kind=CONTROL,
            marked=True,
        ),
        Scenario(
            "a second page is opened",
            ((0.0, {"page_refreshed": 1.0}), (1.0, {"healthy": 1.0}), (2.0, {"page_refreshed": 1.0})),
            "none",
            kind=CONTROL,
        ),
    )
}
PAIRS = {
    t.name: replace(t, kind=PAIR)
    for t in (
        Scenario(
            "massive_refused, ws_403",
            ((0.0, {"massive_refused": 1.0, "ws_403": 1.0}),),
            "provider_refused",
            "massive",
            also=("socket_auth",),
        ),
        Scenario(
            "massive_5xx, then page_refreshed",
            ((0.0, {"massive_5xx": 1.0}), (1.0, {"massive_5xx": 1.0, "page_refreshed": 1.0})),
            "provider_5xx",
            "massive",
        ),
        Scenario(
            "massive_5xx, page_closed", ((0.0, {"massive_5xx": 1.0, "page_closed": 1.0}),), "provider_5xx", "massive"
        ),
        Scenario(
            "iv_stress, gamma_zero",
            ((0.0, {"iv_stress": 1.0, "gamma_zero": 0.2}),),
            "greeks_gamma_zero",
            minutes=UPTO_CHAIN,
        ),
        Scenario(
            "expiry_friday, gamma_zero",
            ((0.0, {"expiry_friday": 1.0, "gamma_zero": 0.2}),),
            "greeks_gamma_zero",
            minutes=UPTO_CHAIN,
        ),
        Scenario(
            "massive_401, then massive_429",
            ((0.0, {"massive_401": 1.0}), (1.0, {"massive_429": 1.0})),
            "provider_rate_limited",
            "massive",
        ),
        Scenario(
            "massive_5xx, tradier_down", ((0.0, {"massive_5xx": 1.0, "tradier_down": 1.0}),), "both_providers_down"
        ),
        Scenario(
            "app_down, massive_timeout",
            ((0.0, {"app_down": 1.0, "massive_timeout": 1.0}),),
            "app_down",
            also=("provider_timeout",),
            accepted={"provider_timeout": IN_ANY_ORDER},
        ),
        Scenario(
            "error_storm, delta_out_of_bounds",
            ((0.0, {"error_storm": 1.0, "delta_out_of_bounds": 0.2}),),
            "greeks_out_of_bounds",
            also=("error_storm",),
            accepted={"error_storm": IN_ANY_ORDER},
            minutes=UPTO_CHAIN,
            least=UPTO_CHAIN,
        ),
        Scenario(
            "clock_skew, massive_401",
            ((0.0, {"clock_skew": 1.0, "massive_401": 1.0}),),
            "provider_auth",
            "massive",
            also=("clock_skew",),
        ),
        Scenario(
            "our_clock_fast, massive_5xx",
            ((0.0, {"our_clock_fast": 1.0, "massive_5xx": 1.0}),),
            "provider_5xx",
            "massive",
            also=("clock_skew",),
        ),
        Scenario(
            "tradier_down, our_timeout_short",
            ((0.0, {"tradier_down": 1.0, "our_timeout_short": 1.0}),),
            "provider_5xx",
            also=("our_timeout_too_short",),
            accepted={"our_timeout_too_short": IN_ANY_ORDER},
        ),
        Scenario(
            "ws_port_blocked, app_slow",
            ((0.0, {"ws_port_blocked": 1.0, "app_slow": 1.0}),),
            "socket_blocked",
            also=("app_slow",),
            accepted={"app_slow": IN_ANY_ORDER},
        ),
        Scenario(
            "unit_drift, iv_stress", ((0.0, {"unit_drift": 1.0, "iv_stress": 1.0}),), "greeks_units", minutes=UPTO_CHAIN
        ),
    )
}
assert {*FAULTS, *NO_FAULT} - {PERCENTS.name} == set(STATES)


def select_scenarios(names: tuple[str, ...], shares: tuple[float, ...]) -> Iterator[Scenario]:
    """Yield the scenarios of these names (all if empty), each fault at each share that it supports."""
    for scenario in {**FAULTS, **PAIRS, **CONTROLS}.values():
        if names and scenario.name not in names:
            continue
        if scenario.name in FAULTS and scenario.name in SHARED:
            yield from (_shared(scenario, share) for share in shares)
        elif scenario.name not in FAULTS or 1.0 in shares:
            yield scenario
