"""List the causes of CONTRACT.md: what each means, which outcomes indicate it, its symptoms and its runbook."""

from opslib.foundation.storage.snapshot_columns import PROVIDERS

UNDETERMINED, NONE = "undetermined", "none"
NO_FAULT = (NONE, "market_stress", "expiry", "too_few_trades", "market_closed")
OF_OUTCOME = {
    "server_5xx": "provider_5xx",
    "timeout": "provider_timeout",
    "refused": "provider_refused",
    "dns": "provider_dns",
    "tls": "provider_tls",
    "auth_401": "provider_auth",
    "no_key_401": "provider_auth",
    "entitlement_403": "provider_plan",
    "ip_blocked_403": "provider_ip_blocked",
    "rate_limited_429": "provider_rate_limited",
    "wrong_content": "provider_wrong_content",
    "bad_json": "provider_wrong_content",
    "schema_mismatch": "provider_wrong_content",
    "too_large": "provider_wrong_content",
    "redirected": "provider_wrong_content",
    "ok_empty": "provider_empty",
    "partial": "provider_partial",
    "stale": "provider_stale",
    "unreachable": "provider_timeout",
    "reset": "provider_refused",
}
# If the socket cannot be opened while the app's server responds, something between us and the app blocks it. "upgrade"
# is a WebSocket upgrade request without a response.
OF_SOCKET = {
    "client_4xx": "socket_blocked",
    "wrong_content": "socket_blocked",
    "redirected": "socket_blocked",
    "server_5xx": "socket_blocked",
    "reset": "socket_blocked",
    "tls": "socket_blocked",
    "dns": "socket_blocked",
    "upgrade": "socket_blocked",
    "closed": "socket_closed",
    "refused": "socket_closed",
    "silent": "socket_silent",
    "renewed": "socket_silent",
    "timeout": "socket_silent",
    "forbidden_403": "socket_auth",
    "auth_401": "socket_auth",
    "no_key_401": "socket_auth",
    "unreachable": "socket_blocked",
    "no_token": "socket_auth",
}
HEADLINES = {
    NONE: "No problem was found.",
    UNDETERMINED: "The cause could not be determined.",
    "provider_5xx": "{} returns server errors (5xx).",
    "provider_timeout": "{} accepts the connection but does not respond in time.",
    "provider_refused": "{} refuses the connection.",
    "provider_dns": "The host name of {} cannot be resolved.",
    "provider_tls": "The TLS certificate of {} is not trusted.",
    "provider_auth": "{} rejects our API key.",
    "provider_plan": "Our plan with {} does not include this data.",
    "provider_ip_blocked": "{} blocks our IP address.",
    "provider_rate_limited": "{} rate-limits our requests.",
    "provider_wrong_content": "{} returns a response that is not the expected data.",
    "provider_empty": "{} returns responses without data.",
    "provider_partial": "{} returns an incomplete option chain.",
    "provider_stale": "{} returns old data.",
    "provider_intermittent": "{} responds to some requests but not to others.",
    "both_providers_down": "Neither provider is available.",
    "our_network": "Our network is down: neither provider can be reached.",
    "our_timeout_too_short": "The app's timeout for {} is shorter than its response time.",
    "app_down": "The app's server is not running or does not respond.",
    "app_restarted": "The app's server was restarted, which closed its WebSocket connections.",
    "app_slow": "The app's server responds slowly.",
    "socket_closed": "The app's WebSocket is closed, and the page does not reconnect by itself.",
    "socket_silent": "The app's WebSocket is open but sends no data.",
    "socket_auth": "The app's WebSocket rejects our token.",
    "socket_blocked": "The connection to the app's WebSocket is blocked.",
    "greeks_gamma_zero": "Gamma is zero for contracts where it cannot be zero.",
    "greeks_missing": "Greeks are missing in {}'s data.",
    "greeks_out_of_bounds": "Some deltas are outside their valid range.",
    "greeks_units": "{} changed the units of its Greeks.",
    "market_stress": "The market is under stress: volatility is high, and the data is correct.",
    "expiry": "Contracts expire today: a gamma of zero in their wings is correct.",
    "costs_commission": "Commissions are higher than the backtest assumes.",
    "costs_spread": "Spreads are wider than the backtest assumes.",
    "costs_fill_quality": "Fills are worse than the backtest assumes.",
    "costs_size": "Positions are smaller than in the backtest, so fixed costs weigh more.",
    "too_few_trades": "There are too few trades to compare with the backtest.",
    "memory_leak": "The memory of the app's server or page keeps growing.",
    "error_storm": "The app logs far more errors than usual, and no outage explains them.",
    "clock_skew": "A system clock is wrong.",
    "dashboard_slow": "The dashboard shows old data.",
    "monitor_down": "The collector is not running, so nothing is monitored.",
    "market_closed": "The market is closed.",
}
CAUSES = tuple(HEADLINES)
# Whose fault each cause is, as a report says it. Where the provider is known, its name replaces "the provider".
PROVIDER, DATA = "the provider", "the provider's data"
GREEKS = "greeks_"  # The begin of the causes that are about Greeks.
WHOSE = {
    NONE: "nobody",
    UNDETERMINED: "unknown",
    **{c: PROVIDER for c in CAUSES if c.startswith("provider_")},
    "provider_auth": "ours: the API key",
    "provider_plan": "ours: the plan",
    "provider_ip_blocked": "ours: the IP address",
    "provider_rate_limited": "ours: too many requests",
    "provider_dns": "unclear: the provider, or our name resolution",
    "both_providers_down": "both providers",
    "our_network": "ours: the network",
    "our_timeout_too_short": "ours: the app's timeout",
    **dict.fromkeys(
        ("app_down", "app_restarted", "app_slow", "memory_leak", "error_storm", "dashboard_slow"), "ours: the app"
    ),
    **{c: "ours: the app's WebSocket" for c in CAUSES if c.startswith("socket_")},
    "socket_blocked": "ours: the network to the app",
    **{c: DATA for c in CAUSES if c.startswith("greeks_")},
    **dict.fromkeys(("market_stress", "expiry", "market_closed"), "nobody: the market"),
    **{c: "ours: trading costs" for c in CAUSES if c.startswith("costs_")},
    "too_few_trades": "nobody: too few trades",
    **dict.fromkeys(("clock_skew", "monitor_down"), "ours: the monitoring"),
}
RUNBOOK_OF = {
    **{
        c: "provider_availability"
        for c in CAUSES
        if c.startswith("provider_") or c in ("both_providers_down", "our_network", "our_timeout_too_short")
    },
    **dict.fromkeys((*(c for c in CAUSES if c.startswith("greeks_")), "market_stress", "expiry"), "greeks_quality"),
    **{c: "backtest_variance" for c in CAUSES if c.startswith("costs_") or c == "too_few_trades"},
    **{c: "websocket_down" for c in CAUSES if c.startswith("socket_")},
    "memory_leak": "memory_growth",
    "error_storm": "error_rate",
    "dashboard_slow": "dashboard_slow",
    **dict.fromkeys(("app_down", "app_restarted", "app_slow", "clock_skew", "monitor_down"), "monitor_down"),
}
# Causes that a collector short of CPU time cannot report by mistake: they need a received response or its content.
NOT_BY_LAG = frozenset(
    c
    for c in CAUSES
    if c.startswith("greeks_")
    or (c.startswith("provider_") and c not in ("provider_timeout", "provider_intermittent", "provider_dns"))
)
MASSIVE_OUT = ("provider_5xx", "provider_timeout", "provider_refused", "provider_dns", "provider_tls")


def headline(cause: str, subject: str | None) -> str:
    """Return the meaning of a cause in one sentence; `subject` is the provider, symbol or app that it is about."""
    if (cause, subject) == ("monitor_down", "collector"):
        return (
            "Our collector is running but gets too little processor time: response times measured here are unreliable."
        )
    name = provider_name(cause, subject)
    words = HEADLINES[cause].format(subject if name == PROVIDER and subject and not cause.startswith(GREEKS) else name)
    return words[0].upper() + words[1:]


def provider_name(cause: str, subject: str | None) -> str:
    """
    Return the name of the provider whose data or requests a cause is about, such as ``Massive``.

    It is "the provider" if it is unknown. A cause about Greeks that names a symbol was found in the chain of that
    symbol, and every chain is fetched from Massive.
    """
    if subject in PROVIDERS:
        return str(subject).title()
    return "Massive" if cause.startswith(GREEKS) and subject not in (None, "", "app") else PROVIDER


# The symptoms that each cause can produce, and therefore explain. A symptom is the outcome of a provider's probe,
# "chain:" plus the outcome of a chain, "app:" plus the outcome of a probe of the app, "socket:" plus the outcome of a
# socket probe, "page:" plus a counter of the app's page, "log:" plus the type of a logged error, or another cause. A
# cause at one provider explains no symptom of the other provider.
_CONNECTION = frozenset({"refused", "unreachable", "dns", "timeout", "reset"})
_CHAIN_CUT = frozenset({"chain:partial"})
_REQUESTS_FAIL = frozenset(
    {"page:availability", "page:silence", "log:provider_5xx", "log:other_error", "log:access_5xx", "page:errors"}
)
_APP_GONE = frozenset(
    {
        "page:availability",
        "page:silence",
        "page:errors",
        "page:websocket",
        "page:greeks",
        "socket:closed",
        "socket:refused",
        "socket:reset",
        "socket:timeout",
        "socket:unreachable",
        "socket:upgrade",
        "socket:server_5xx",
        "socket:no_token",
        "log:other_error",
        "log:access_5xx",
        "log:socket_error",
        "log:socket_closed",
        "app_slow",
        "app:slower",
        "dashboard_slow",
        "app_restarted",
    }
)
_SOCKET = frozenset({"page:websocket", "log:socket_closed", "log:socket_error"})
PRODUCES: dict[str, frozenset[str]] = {
    "provider_5xx": frozenset({"server_5xx"}) | _CHAIN_CUT | _REQUESTS_FAIL,
    "provider_timeout": frozenset({"timeout", "unreachable", "log:timeout", "our_timeout_too_short"})
    | _CHAIN_CUT
    | _REQUESTS_FAIL,
    "provider_refused": frozenset({"refused", "reset", "log:refused"}) | _CHAIN_CUT | _REQUESTS_FAIL,
    "provider_dns": frozenset({"dns", "log:dns"}) | _CHAIN_CUT | _REQUESTS_FAIL,
    "provider_tls": frozenset({"tls", "log:tls"}) | _CHAIN_CUT | _REQUESTS_FAIL,
    "provider_auth": frozenset({"auth_401", "no_key_401", "log:auth"}) | _REQUESTS_FAIL,
    "provider_plan": frozenset({"entitlement_403", "denied_403", "log:auth"}) | _REQUESTS_FAIL,
    "provider_ip_blocked": frozenset({"ip_blocked_403", "denied_403", "log:auth"}) | _REQUESTS_FAIL,
    "provider_rate_limited": frozenset({"rate_limited_429", "log:rate_limit"}) | _CHAIN_CUT | _REQUESTS_FAIL,
    "provider_wrong_content": frozenset({"wrong_content", "bad_json", "schema_mismatch", "too_large", "redirected"})
    | _CHAIN_CUT
    | _REQUESTS_FAIL,
    "provider_empty": frozenset({"ok_empty", "chain:ok_empty", "log:other_error"}),
    "provider_partial": _CHAIN_CUT,
    "provider_stale": frozenset({"stale", "chain:stale"}),
    "provider_intermittent": frozenset({"server_5xx", "log:timeout", "our_timeout_too_short"})
    | _CONNECTION
    | _CHAIN_CUT
    | _REQUESTS_FAIL,
    "our_network": frozenset(
        {
            "both_providers_down",
            "app:unreachable",
            "app:dns",
            "app:timeout",
            "socket:unreachable",
            "socket:timeout",
            "socket:upgrade",
            "socket:dns",
            "socket:closed",
            "page:silence",
            "log:timeout",
            "log:dns",
            "log:refused",
        }
    )
    | _CONNECTION
    | _CHAIN_CUT
    | _REQUESTS_FAIL,
    "our_timeout_too_short": frozenset({"log:timeout"}) | _REQUESTS_FAIL,
    "app_down": _APP_GONE,
    "app_restarted": _APP_GONE - {"app_restarted"},
    "app_slow": frozenset(
        {
            "page:availability",
            "page:errors",
            "socket:timeout",
            "socket:upgrade",
            "socket:no_token",
            "dashboard_slow",
            "log:timeout",
            "log:other_error",
            "log:access_5xx",
        }
    ),
    "socket_closed": _SOCKET,
    "socket_silent": _SOCKET,
    "socket_auth": _SOCKET | {"log:auth"},
    "socket_blocked": _SOCKET,
    "greeks_missing": frozenset({"page:greeks"}),
    "market_closed": frozenset(
        {"stale", "chain:stale", "socket:silent", "socket:renewed", "page:silence", "dashboard_slow"}
    ),
    "monitor_down": frozenset({"app_slow", "latency"}),
    "clock_skew": frozenset({"stale", "chain:stale"}),
}
OF_LOG = {
    "timeout": "provider_timeout",
    "dns": "provider_dns",
    "refused": "provider_refused",
    "tls": "provider_tls",
    "rate_limit": "provider_rate_limited",
    "auth": "provider_auth",
}
# The cause assumed for an alert when the diagnosis found nothing more. For every other rule it is undetermined.
OF_RULE = {
    "greeks_valid": "greeks_missing",
    "greeks_burn": "greeks_missing",
    "gamma_zero": "greeks_gamma_zero",
    "delta_out_of_bounds": "greeks_out_of_bounds",
    "errors": "error_storm",
    "websocket_down": "socket_closed",
    "websocket_latency": "app_slow",
    "memory": "memory_leak",
    "memory_growth": "memory_leak",
    "dashboard_lag": "dashboard_slow",
    "heartbeat": "monitor_down",
    "response_time": "provider_timeout",
    "app_answers": "app_down",
    "app_down": "app_down",
    "availability_burn": "provider_intermittent",
    "our_network": "our_network",
    "app_restarts": "app_restarted",
    "app_response_time": "app_slow",
    "clock_skew": "clock_skew",
    "greeks_units": "greeks_units",
    "chain_whole": "provider_partial",
}


def whose(cause: str, subject: str | None) -> str:
    """Return whose fault a cause is; the provider is named if it is known."""
    return WHOSE[cause].replace(PROVIDER, provider_name(cause, subject))
