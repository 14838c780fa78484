"""
This module knows what a diagnosis may end in, and nothing else: the causes of CONTRACT.md, what each means, what points at
it, and which runbook goes on from there.
"""

UNDETERMINED, NONE = "undetermined", "none"
NO_FAULT = (NONE, "market_stress", "expiry", "too_few_trades", "market_closed")
OF_OUTCOME = {
    "server_5xx": "provider_5xx", "timeout": "provider_timeout", "refused": "provider_refused", "dns": "provider_dns", "tls": "provider_tls", "auth_401": "provider_auth", "no_key_401": "provider_auth",
    "entitlement_403": "provider_plan", "ip_blocked_403": "provider_ip_blocked", "rate_limited_429": "provider_rate_limited", "wrong_content": "provider_wrong_content", "bad_json": "provider_wrong_content",
    "schema_mismatch": "provider_wrong_content", "too_large": "provider_wrong_content", "redirected": "provider_wrong_content", "ok_empty": "provider_empty", "partial": "provider_partial", "stale": "provider_stale",
}  # fmt: skip
OF_SOCKET = {"closed": "socket_closed", "refused": "socket_closed", "reset": "socket_closed", "silent": "socket_silent", "renewed": "socket_silent", "timeout": "socket_silent", "forbidden_403": "socket_auth", "auth_401": "socket_auth", "no_key_401": "socket_auth", "unreachable": "socket_blocked"}
HEADLINES = {
    NONE: "Nothing is the matter with what is looked at.", UNDETERMINED: "What is the matter cannot be told from what was seen.",
    "provider_5xx": "{} answers with errors of its own.", "provider_timeout": "{} takes the connection and does not answer in time.", "provider_refused": "{} refuses the connection.", "provider_dns": "The name of {} cannot be resolved.",
    "provider_tls": "{} shows a certificate that cannot be trusted.", "provider_auth": "{} does not accept our key.", "provider_plan": "Our plan with {} does not cover this data.", "provider_ip_blocked": "{} does not let our address in.",
    "provider_rate_limited": "We ask {} too often.", "provider_wrong_content": "{} answers with something that is no data.", "provider_empty": "{} answers with nothing in it.", "provider_partial": "{} sends only a part of the chain.",
    "provider_stale": "{} sends old data.", "provider_intermittent": "{} answers some requests and not others.", "both_providers_down": "Neither provider serves.", "our_network": "Our own network is gone: neither provider can be connected to.",
    "our_timeout_too_short": "The app gives up on {} sooner than it answers.", "app_down": "The app's server does not run.", "app_restarted": "The app's server was started anew, and its sockets were closed with it.", "app_slow": "The app's server is slow to answer.",
    "socket_closed": "The app's WebSocket is closed; its page does not come back by itself.", "socket_silent": "The app's WebSocket is open and says nothing.", "socket_auth": "The app's WebSocket refuses us: its token.", "socket_blocked": "The app's WebSocket cannot be connected to: its port.",
    "greeks_gamma_zero": "Gamma comes as zero where it cannot be.", "greeks_missing": "Greeks are missing from what the provider sends.", "greeks_out_of_bounds": "Deltas come that are impossible.", "greeks_units": "The provider has changed the units of its Greeks.",
    "market_stress": "The market is under stress: volatility is high, and the data is right.", "expiry": "Contracts expire today: a gamma of zero in their wings is right.", "costs_commission": "Commissions are higher than the backtest assumes.",
    "costs_spread": "Spreads are wider than the backtest assumes.", "costs_fill_quality": "Fills are worse than the backtest assumes.", "costs_size": "Positions are smaller than in the backtest: fixed costs weigh more.", "too_few_trades": "There are too few trades to say anything about the backtest.",
    "memory_leak": "The app's server, or its page, goes on growing.", "error_storm": "The app logs far more errors than usual, and no outage explains them.", "clock_skew": "A clock is off.", "dashboard_slow": "What the dashboard shows is old.",
    "monitor_down": "Our own collector does not run: nobody is watching.", "market_closed": "The market is closed.",
}  # fmt: skip
CAUSES = tuple(HEADLINES)
RUNBOOK_OF = {
    **{c: "provider_availability" for c in CAUSES if c.startswith("provider_") or c in ("both_providers_down", "our_network", "our_timeout_too_short")}, **{c: "greeks_quality" for c in (*(c for c in CAUSES if c.startswith("greeks_")), "market_stress", "expiry")},
    **{c: "backtest_variance" for c in CAUSES if c.startswith("costs_") or c == "too_few_trades"}, **{c: "websocket_down" for c in CAUSES if c.startswith("socket_")}, "memory_leak": "memory_growth", "error_storm": "error_rate",
    "dashboard_slow": "dashboard_slow", **{c: "monitor_down" for c in ("app_down", "app_restarted", "app_slow", "clock_skew", "monitor_down")},
}  # fmt: skip
MASSIVE_OUT = ("provider_5xx", "provider_timeout", "provider_refused", "provider_dns", "provider_tls")
