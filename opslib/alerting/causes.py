"""List the causes of CONTRACT.md: what each means, what points at it, its symptoms and its runbook."""

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
# A socket that cannot be opened while the app's server answers is blocked by what stands between; "upgrade" is an
# upgrade that nothing answered.
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
    NONE: "Nothing is the matter with what is looked at.",
    UNDETERMINED: "What is the matter cannot be told from what was seen.",
    "provider_5xx": "{} answers with errors of its own.",
    "provider_timeout": "{} takes the connection and does not answer in time.",
    "provider_refused": "{} refuses the connection.",
    "provider_dns": "The name of {} cannot be resolved.",
    "provider_tls": "{} shows a certificate that cannot be trusted.",
    "provider_auth": "{} does not accept our key.",
    "provider_plan": "Our plan with {} does not cover this data.",
    "provider_ip_blocked": "{} does not let our address in.",
    "provider_rate_limited": "We ask {} too often.",
    "provider_wrong_content": "{} answers with something that is no data.",
    "provider_empty": "{} answers with nothing in it.",
    "provider_partial": "{} sends only a part of the chain.",
    "provider_stale": "{} sends old data.",
    "provider_intermittent": "{} answers some requests and not others.",
    "both_providers_down": "Neither provider serves.",
    "our_network": "Our own network is gone: neither provider can be connected to.",
    "our_timeout_too_short": "The app gives up on {} sooner than it answers.",
    "app_down": "The app's server does not run, or answers nobody.",
    "app_restarted": "The app's server was started anew, and its sockets were closed with it.",
    "app_slow": "The app's server is slow to answer.",
    "socket_closed": "The app's WebSocket is closed; its page does not come back by itself.",
    "socket_silent": "The app's WebSocket is open and says nothing.",
    "socket_auth": "The app's WebSocket refuses us: its token.",
    "socket_blocked": "The app's WebSocket cannot be connected to: its port.",
    "greeks_gamma_zero": "Gamma comes as zero where it cannot be.",
    "greeks_missing": "Greeks are missing from what the provider sends.",
    "greeks_out_of_bounds": "Deltas come that are impossible.",
    "greeks_units": "The provider has changed the units of its Greeks.",
    "market_stress": "The market is under stress: volatility is high, and the data is right.",
    "expiry": "Contracts expire today: a gamma of zero in their wings is right.",
    "costs_commission": "Commissions are higher than the backtest assumes.",
    "costs_spread": "Spreads are wider than the backtest assumes.",
    "costs_fill_quality": "Fills are worse than the backtest assumes.",
    "costs_size": "Positions are smaller than in the backtest: fixed costs weigh more.",
    "too_few_trades": "There are too few trades to say anything about the backtest.",
    "memory_leak": "The app's server, or its page, goes on growing.",
    "error_storm": "The app logs far more errors than usual, and no outage explains them.",
    "clock_skew": "A clock is off.",
    "dashboard_slow": "What the dashboard shows is old.",
    "monitor_down": "Our own collector does not run: nobody is watching.",
    "market_closed": "The market is closed.",
}
CAUSES = tuple(HEADLINES)
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
# What a collector that gets too little time cannot mistake slowness for: an answer that came, and what stood in it.
NOT_BY_LAG = frozenset(
    c
    for c in CAUSES
    if c.startswith("greeks_")
    or (c.startswith("provider_") and c not in ("provider_timeout", "provider_intermittent", "provider_dns"))
)
MASSIVE_OUT = ("provider_5xx", "provider_timeout", "provider_refused", "provider_dns", "provider_tls")


# What each cause can produce, and so explain. A symptom is the outcome of a provider's probe, "chain:" and the outcome
# of a chain, "app:" and the outcome of a probe of the app, "socket:" and that of its socket, "page:" and what the app's
# page counts, "log:" and the kind of a logged error, or another cause. What one provider does explains nothing of the
# other provider.
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
# The cause of an alert of which nothing more was found out; of every other rule the cause is then undetermined.
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
