"""
Define what runbooks are drilled against: what is injected, when, which answer is expected, and which others are
accepted and why. Only the drill reads it, and only after the suite's own verdict is on record.

A trial is a fault, a pair of faults at once, a look-alike (it looks like a fault and is none), or a control in which
nothing is to be done.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from opslib.simulation.world.faults import NO_FAULT, SHARED, STATES

SHARES = (0.05, 0.3, 1.0)
SLIGHT = 0.05  # With so few answers hit, all that is seen may be one page of a chain.
ENOUGH = 3  # Hits that our probes must have met before a cause can be asked for.
FAULT, PAIR, LOOK_ALIKE, CONTROL = KINDS = ("fault", "pair", "look-alike", "control")


@dataclass(frozen=True)
class Scenario:
    """
    One thing to drill.

    Attributes:
        name: Of the fault, the pair or the control.
        acts: What is the matter from which minute on: {state: share}; the last lasts to the end.
        cause: The answer that is expected.
        subject: Whom it must be about; None is that it does not matter.
        panel, words: What the panel must say while everything is hit.
        also: Causes that must be named beside it.
        accepted: Another cause that is accepted, and why; it is counted apart.
        kind: One of `KINDS`; of a look-alike and of a control nobody is to be told.
        quiet: Minutes before anything is the matter.
        minutes: For so long after the last act the drill waits for an alert.
        least: For so long after the last act nobody opens the runbook, whoever was told: all that is the matter can be
            seen by then.
        looked_at: Do our own probes say something of it? Else only the page's posts do, and none is made.
        marked: Was a restart announced?
        fills: Are trades imported, each with a backtest's percent beside it, before the runbook is opened?
        share: Of what is hit, where it can be less than all.
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
    looked_at: bool = True
    marked: bool = False
    fills: bool = False
    share: float = 1.0

    @property
    def injected(self) -> float:
        """The minute at which the first thing is the matter."""
        return self.quiet + self.acts[0][0] if self.acts else self.quiet

    @property
    def control(self) -> bool:
        """Is nobody to be told of it?"""
        return self.kind in (LOOK_ALIKE, CONTROL)

    @property
    def causes(self) -> tuple[str, ...]:
        """The answer that is expected, and those that are accepted."""
        return (self.cause, *self.accepted)


# State: its cause, whom it is about, the panel that shows it, and what that must say.
_TOLD: dict[str, tuple[str, str | None, str, tuple[str, ...]]] = {
    "massive_5xx": ("provider_5xx", "massive", "providers", ("massive answers with an error of its own (5xx)",)),
    "massive_timeout": (
        "provider_timeout",
        "massive",
        "providers",
        ("massive takes the connection and does not answer in time",),
    ),
    "massive_refused": ("provider_refused", "massive", "providers", ("massive refuses the connection",)),
    "massive_dns": ("provider_dns", "massive", "providers", ("massive has a name that cannot be resolved",)),
    "massive_tls": ("provider_tls", "massive", "providers", ("massive shows a certificate that cannot be trusted",)),
    "massive_401": ("provider_auth", "massive", "providers", ("massive does not accept our key (401)",)),
    "massive_403_plan": ("provider_plan", "massive", "providers", ("our plan does not cover this (403)",)),
    "massive_403_ip": ("provider_ip_blocked", "massive", "providers", ("massive does not let our address in (403)",)),
    "massive_429": ("provider_rate_limited", "massive", "providers", ("massive says that we ask too often (429)",)),
    "massive_html_200": (
        "provider_wrong_content",
        "massive",
        "providers",
        ("massive answers with a page instead of data",),
    ),
    "massive_empty": ("provider_empty", "massive", "providers", ("massive answers, with nothing in it",)),
    "massive_partial_pages": ("provider_partial", "massive", "greeks", ("massive answers only a part of the chain",)),
    "massive_stale": ("provider_stale", "massive", "providers", ("massive answers with old data",)),
    "massive_intermittent": (
        "provider_intermittent",
        "massive",
        "providers",
        ("massive answers some of our looks and not others",),
    ),
    "tradier_down": ("provider_5xx", "tradier", "providers", ("tradier answers with an error of its own",)),
    "tradier_options_refused": ("provider_plan", "tradier", "providers", ()),
    "both_down": ("both_providers_down", None, "providers", ("nobody can serve",)),
    "our_network_down": ("our_network", None, "providers", ("our own network first",)),
    "our_timeout_short": ("our_timeout_too_short", "massive", "providers", ("the app's own timeout is too short",)),
    "app_down": ("app_down", "app", "system", ("the app refuses the connection",)),
    "app_hung": ("app_down", "app", "system", ()),
    "app_restarted": ("app_restarted", "app", "system", ("the app's server was started anew",)),
    "app_slow": ("app_slow", "app", "system", ("the app is slow to answer us",)),
    "ws_403": ("socket_auth", "app", "system", ("the app's WebSocket refuses us before it opens (HTTP 403)",)),
    "ws_port_blocked": ("socket_blocked", "app", "system", ("the app's WebSocket cannot be connected to",)),
    "ws_closed_1006": ("socket_closed", "app", "system", ("the app's WebSocket", "closed")),
    "ws_open_silent": ("socket_silent", "app", "system", ("the app's WebSocket is open and silent",)),
    "ws_old_clients_dead": ("socket_silent", "app", "system", ()),
    "gamma_zero": ("greeks_gamma_zero", None, "greeks", ("share with gamma zero or missing",)),
    "greeks_missing": ("greeks_missing", None, "greeks", ("valid Greeks",)),
    "delta_out_of_bounds": ("greeks_out_of_bounds", None, "greeks", ("share with delta outside -1 to 1",)),
    "unit_drift": ("greeks_units", None, "greeks", ("units of SPY's Greeks may have changed",)),
    "commission_up": ("costs_commission", "app", "pnl", ("backtest variance (",)),
    "spread_up": ("costs_spread", "app", "pnl", ("backtest variance (",)),
    "bad_fills": ("costs_fill_quality", "app", "pnl", ("backtest variance (",)),
    "smaller_size": ("costs_size", "app", "pnl", ("backtest variance (",)),
    "memory_leak": ("memory_leak", None, "system", ("growth of the app's server (",)),
    "error_storm": ("error_storm", None, "system", ("errors (",)),
    "clock_skew": ("clock_skew", "app", "system", ("the clock of the app is 10 min ahead of ours",)),
    "app_clock_behind": ("clock_skew", "app", "system", ()),
    "massive_clock_ahead": ("clock_skew", "massive", "system", ()),
    "massive_clock_behind": ("clock_skew", "massive", "system", ()),
    "tradier_clock_ahead": ("clock_skew", "tradier", "system", ()),
    "tradier_clock_behind": ("clock_skew", "tradier", "system", ()),
    "page_clock_ahead": ("clock_skew", "page", "system", ()),
    "page_clock_behind": ("clock_skew", "page", "system", ()),
    "our_clock_fast": ("clock_skew", "monitor", "system", ()),
    "our_clock_slow": ("clock_skew", "monitor", "system", ()),
    "dashboard_slow": ("dashboard_slow", None, "system", ("age of what the dashboard shows (",)),
    "collector_dead": ("monitor_down", None, "system", ("our collector has missed",)),
    "collector_starved": ("monitor_down", None, "system", ()),
}
COSTS = ("commission_up", "spread_up", "bad_fills", "smaller_size")
# Only a whole chain shows these, or the page does once it has counted enough; a chain is fetched each quarter of an
# hour.
BY_CHAIN = ("massive_partial_pages", "unit_drift", "gamma_zero", "greeks_missing", "delta_out_of_bounds")
UPTO_CHAIN = 14.0  # Minutes after two quiet ones until the second chain is fetched and judged.
AT_TIMES = "only a share of the answers is hit, so that some probes fail and others do not: it comes and goes"
ONE_SERVES = "each provider still answers most of what it is asked, so that at any moment one of them serves"
ONE_PAGE = "one answer in twenty is hit, and what was met was a page of a chain"
IN_ANY_ORDER = "both are named, the other one first"
TOO_FEW = f"fewer than {ENOUGH} of the answers that we got were hit: there was too little to see"


def _fault(state: str) -> Scenario:
    cause, subject, panel, words = _TOLD[state]
    found = Scenario(state, ((0.0, {state: 1.0}),), cause, subject, panel, words)
    if state in COSTS:
        return replace(found, quiet=45.0, minutes=30.0, looked_at=False)
    if state in BY_CHAIN:
        return replace(found, minutes=UPTO_CHAIN)
    return replace(found, minutes=12.0) if state == "memory_leak" else found


def _shared(trial: Scenario, share: float) -> Scenario:
    """
    The same, with only a share of what is answered hit: some probes fail and others do not, which is a cause of its
    own.
    """
    if share == 1.0:
        return trial
    accepted = dict(trial.accepted)
    if trial.cause.startswith(("provider_", "both_")) and trial.cause != "provider_intermittent":
        accepted["provider_intermittent"] = AT_TIMES
    if trial.cause == "both_providers_down":
        accepted["provider_5xx"] = ONE_SERVES
    if trial.cause.startswith(("provider_", "both_")) and share <= SLIGHT:
        accepted["provider_partial"] = ONE_PAGE
    return replace(
        trial,
        acts=((0.0, {trial.name: share}),),
        accepted=accepted,
        words=(),
        share=share,
        minutes=max(trial.minutes, 2 * Scenario.minutes),
    )


FAULTS = {state: _fault(state) for state in _TOLD}
FAULTS["massive_intermittent"] = replace(
    FAULTS["massive_intermittent"],
    accepted={
        "provider_5xx": "every failure that was met happened to be an error of its own, and none a torn connection"
    },
)
FAULTS["app_hung"] = replace(
    FAULTS["app_hung"],
    accepted={
        "app_slow": "it takes connections and has not answered yet, which is as far as anybody can see from outside"
    },
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
    looked_at=False,
    fills=True,
    accepted={"costs_spread": "the page's own means tell apart what the backtest's percentages do not"},
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
            ("market stress, no fault of the data",),
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
            accepted={"none": "it was announced, so that nothing is to be found out"},
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


def trials(names: tuple[str, ...], shares: tuple[float, ...]) -> Iterator[Scenario]:
    """The trials of these names (none: all), each fault at each share that it can have."""
    for trial in {**FAULTS, **PAIRS, **CONTROLS}.values():
        if names and trial.name not in names:
            continue
        if trial.name in FAULTS and trial.name in SHARED:
            yield from (_shared(trial, share) for share in shares)
        elif trial.name not in FAULTS or 1.0 in shares:
            yield trial
