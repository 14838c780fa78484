"""
Say which rules' alerts each cause sets off: by it an alert is named after its cause, and what one cause sets off is one trouble.

A cause that stands beside an alert without setting it off explains nothing: both are notified.
"""

from opslib.causes import CAUSES
from opslib.rules import Rule, Rules
from opslib.snapshot import PROVIDERS

_PROVIDER = ("availability", "answers", "response_time", "availability_burn", "errors", "silence", "chain_whole")
_APP = ("app_down", "app_answers", "app_restarts", "app_response_time", "websocket_down", "websocket_latency", "dashboard_lag", "silence", "errors", "availability", "availability_burn")
_GREEKS = ("greeks_valid", "gamma_zero", "delta_out_of_bounds", "greeks_units", "greeks_burn")
_OF_KIND = {"provider_": _PROVIDER, "socket_": ("websocket_down", "websocket_latency", "errors"), "greeks_": _GREEKS, "costs_": ("backtest_variance",)}
_ANSWERED = ("provider_auth", "provider_plan", "provider_ip_blocked", "provider_rate_limited", "provider_wrong_content", "provider_empty", "provider_stale")  # The provider is up.
EFFECTS: dict[str, tuple[str, ...]] = {
    **{cause: rules for cause in CAUSES for kind, rules in _OF_KIND.items() if cause.startswith(kind)},
    **dict.fromkeys(_ANSWERED, ("answers", *(rule for rule in _PROVIDER if rule != "answers"))),
    "both_providers_down": _PROVIDER, "our_network": ("our_network", *_PROVIDER), "our_timeout_too_short": ("availability", "availability_burn", "errors", "silence"),
    "app_down": _APP, "app_restarted": ("app_restarts", *(rule for rule in _APP if rule != "app_restarts")), "app_slow": ("app_response_time", *(rule for rule in _APP if rule != "app_response_time")), "market_stress": _GREEKS, "expiry": _GREEKS, "too_few_trades": ("backtest_variance",),
    "memory_leak": ("memory", "memory_growth"), "error_storm": ("errors",), "clock_skew": ("clock_skew", "answers"), "dashboard_slow": ("dashboard_lag",), "monitor_down": ("heartbeat",),
    "none": (), "market_closed": (), "undetermined": (),
}  # fmt: skip


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
    """The rule that says what to do first about a cause, and who does: the first of its effects with the runbook of the cause; None where there is none."""
    found = (rules.rules[name] for name in EFFECTS[cause] if name in rules.rules)
    return next((rule for rule in found if rule.runbooks.get(about if about in rule.subjects else "app") == runbook), None)
