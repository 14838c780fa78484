"""
Say which rules' alerts each cause sets off: by it an alert is named after its cause, and what one cause sets off is one
trouble.

A cause that stands beside an alert without setting it off explains nothing: both are notified.
"""

from typing import NamedTuple

from opslib.alerting.causes import CAUSES, OF_RULE
from opslib.foundation.config.rules import Rule, Rules
from opslib.foundation.storage.snapshot_columns import PROVIDERS

_PROVIDER = ("availability", "answers", "response_time", "availability_burn", "errors", "silence", "chain_whole")
_APP = (
    "app_down",
    "app_answers",
    "app_restarts",
    "app_response_time",
    "websocket_down",
    "websocket_latency",
    "dashboard_lag",
    "silence",
    "errors",
    "availability",
    "availability_burn",
)
_GREEKS = ("greeks_valid", "gamma_zero", "delta_out_of_bounds", "greeks_units", "greeks_burn")
_OF_KIND = {
    "provider_": _PROVIDER,
    "socket_": ("websocket_down", "websocket_latency", "errors"),
    "greeks_": _GREEKS,
    "costs_": ("backtest_variance",),
}
# The provider is up.
_ANSWERED = (
    "provider_auth",
    "provider_plan",
    "provider_ip_blocked",
    "provider_rate_limited",
    "provider_wrong_content",
    "provider_empty",
    "provider_stale",
)
EFFECTS: dict[str, tuple[str, ...]] = {
    **{cause: rules for cause in CAUSES for kind, rules in _OF_KIND.items() if cause.startswith(kind)},
    **dict.fromkeys(_ANSWERED, ("answers", *(rule for rule in _PROVIDER if rule != "answers"))),
    "both_providers_down": _PROVIDER,
    "our_network": ("our_network", *_PROVIDER),
    "our_timeout_too_short": ("availability", "availability_burn", "errors", "silence"),
    "app_down": _APP,
    "app_restarted": ("app_restarts", *(rule for rule in _APP if rule != "app_restarts")),
    "app_slow": ("app_response_time", *(rule for rule in _APP if rule != "app_response_time")),
    "market_stress": _GREEKS,
    "expiry": _GREEKS,
    "too_few_trades": ("backtest_variance",),
    "memory_leak": ("memory", "memory_growth"),
    "error_storm": ("errors",),
    "clock_skew": ("clock_skew", "answers"),
    "dashboard_slow": ("dashboard_lag",),
    "monitor_down": ("heartbeat",),
    "none": (),
    "market_closed": (),
    "undetermined": (),
}


def sets_off(cause: str, about: str | None, rule: str, subject: str, source: str) -> bool:
    """
    Whether a cause sets off an alert.

    Args:
        about: The subject of the cause; None where it has none.
        rule, subject, source: Of the alert.
    """
    if rule not in EFFECTS[cause]:
        return False
    if cause.startswith("app_"):
        # Our own probes of a provider do not pass through the app's server; the page's requests do.
        return source != "probe" or subject not in PROVIDERS
    if about in PROVIDERS:
        # That no provider is left is never one provider's doing.
        return subject == about or (subject == "app" and rule not in ("availability", "answers"))
    return True


def leading_rule(cause: str, about: str | None, runbook: str, rules: Rules) -> Rule | None:
    """
    The rule that says what a cause means and who acts first on it; None where there is none.

    It is the first of the cause's effects that has the runbook of the cause, of those that point at it where one does.
    """
    found = [rules.rules[name] for name in EFFECTS[cause] if name in rules.rules]
    found = [rule for rule in found if rule.runbooks.get(about if about in rule.subjects else "app") == runbook]
    return min(found, key=lambda rule: OF_RULE.get(rule.name) != cause, default=None)


class Advice(NamedTuple):
    """
    What to do first about a cause, and what it means for who trades.

    Attributes:
        traders: Empty where the text of the rule fits.
        other: Whether the other provider is to be checked, too.
    """

    action: str
    traders: str = ""
    other: bool = False


NOBODY_SERVES = (
    "No provider serves option data: prices and Greeks on the screen are missing or old. Do not trade options by them."
)
_NO_REFRESH = "Live prices have stopped, and refreshing the page does not bring them back yet."
OTHER = " Then check that the other provider serves."
# Where the text of a rule fits a cause, the cause is not in here. {} is the provider.
ADVICE: dict[str, Advice] = {
    "provider_5xx": Advice("Check {}'s status page.", other=True),
    "provider_timeout": Advice("Check {}'s status page.", other=True),
    "provider_refused": Advice("Check {}'s status page and our own firewall.", other=True),
    "provider_dns": Advice("Resolve {}'s name here and elsewhere: it is our resolver or their domain.", other=True),
    "provider_tls": Advice(
        "Read the certificate that {} shows, and compare it with this machine's clock and CA file.",
        other=True,
    ),
    "provider_auth": Advice("Check our key for {}: expired, revoked or mistyped. Renew it."),
    "provider_plan": Advice(
        "Check what our plan with {} covers, and have this data added to it, or take the data from elsewhere.",
        "This provider refuses this data: what rests on it cannot be had from there.",
    ),
    "provider_ip_blocked": Advice("Have {} allow our address, or go back to an address that it allows."),
    "provider_rate_limited": Advice("Ask {} less often or have the quota raised; find out who else uses our key."),
    "provider_wrong_content": Advice(
        "Read what comes back from {}'s address: a proxy, a login page or a moved address answers in its place.",
    ),
    "provider_empty": Advice(
        "Ask {} for the same contracts by hand, compare with the other provider, then ask the vendor.",
    ),
    "provider_stale": Advice(
        "Compare the times of {}'s data with the other provider's, then ask the vendor.",
        "Prices of this provider are old: trade by none of them before they are new again.",
    ),
    "provider_intermittent": Advice(
        "Find out which requests to {} fail and when, and send the vendor the times.",
        "Some requests to this provider fail: what the screen shows may be incomplete.",
    ),
    "both_providers_down": Advice(
        "Read what each provider answers, and mend first what is ours (a key, a plan, an address); then check"
        " both status pages.",
        NOBODY_SERVES,
    ),
    "our_timeout_too_short": Advice(
        "Give the app more time for {}'s answers: its time limit is shorter than they take.",
        "Some data is missing on the app's screen, though the provider sends it.",
    ),
    "app_restarted": Advice(
        "Refresh the app's pages, whose sockets were closed with the server; then read the app's log before "
        "the restart.",
        "The app's server was started anew: refresh the page, its live prices do not come back by themselves.",
    ),
    "socket_silent": Advice(
        "Read whether the app's upstream is connected (/api/ws-health): where it is, refresh the app's pages,"
        " else have the app connect it again.",
    ),
    "socket_auth": Advice(
        "Check what the app's tokens rest on, its key for Massive and its server's clock: while it refuses "
        "each token no refresh helps.",
        _NO_REFRESH,
    ),
    "socket_blocked": Advice(
        "Check what is between here and the app's WebSocket: proxy, firewall, VPN, port. While it is blocked "
        "no refresh helps.",
        _NO_REFRESH,
    ),
    "greeks_missing": Advice(
        "Compare the contracts without Greeks with the other provider, then ask the vendor.",
        "Greeks of some positions are missing, and a substitute may be shown: size no hedge by them.",
    ),
    "market_stress": Advice(
        "Check that both providers agree; the data is right, so there is nothing to mend.",
        "Volatility is high, and the Greeks are right: they move fast.",
    ),
    "expiry": Advice(
        "Judge by the contracts that do not expire today; there is nothing to mend.",
        "Contracts expire today: a gamma of zero in their wings is right.",
    ),
    "costs_commission": Advice(
        "Compare the commissions paid with those of the backtest, and set the backtest's to what is paid.",
    ),
    "costs_spread": Advice(
        "Compare the spreads paid with those of the backtest; choose liquid strikes or limit orders.",
    ),
    "costs_fill_quality": Advice(
        "Compare each fill with the mid of its moment, and ask the broker how orders are routed.",
    ),
    "costs_size": Advice("Trade the size of the backtest, or run the backtest with the size that is traded."),
    "too_few_trades": Advice(
        "Wait for more trades: so few say nothing about the backtest.",
        "There are too few trades to compare with the backtest.",
    ),
    "error_storm": Advice("Read the newest errors by kind; where they began with a deployment, undo it."),
    "clock_skew of monitor": Advice(
        "Set this machine's clock (timedatectl, NTP): providers and app agree against it.",
        "Times in our messages and panels are off; the app's prices are not affected.",
    ),
}


def advice(cause: str, about: str | None, other: bool = True) -> Advice | None:
    """
    What to do first about a cause; None where the text of its rule fits.

    Args:
        other: Whether the other provider may serve.
    """
    found = ADVICE.get(f"{cause} of {about}") or ADVICE.get(cause)
    named = str(about).title() if about in PROVIDERS else "the provider"
    if found is None:
        return None
    then = OTHER if found.other and other else ""
    return found._replace(action=found.action.format(named) + then)
