"""
List the outcomes of a probe, and who is at fault for each.

An outcome is never a boolean. An HTML page with status 200, a plan that does not include the data and an exhausted
quota are not downtime of the provider. An empty response is not a success.
"""

from dataclasses import dataclass

NO_FAULT, PROVIDER, OURS, PLAN, UNCLEAR = "none", "the provider", "our side", "the plan", "unclear"


@dataclass(frozen=True, slots=True)
class Outcome:
    """
    One way in which a probe can end.

    Attributes:
        name: Its name in the database and in JSON.
        fault: Who is at fault: none, the provider, our side, the plan, or unclear.
        answered: Whether the response shows that the server is up. None where it shows neither (our key, our plan, our
            quota, a page of another server).
        usable: Whether the response holds the requested data.
        again: Whether an immediate retry can help.
        words: The problem as a predicate; the subject is put before it.
        advice: What to do about it.
    """

    name: str
    fault: str
    answered: bool | None
    usable: bool
    again: bool
    words: str
    advice: str = ""


_ALL = (
    Outcome("ok", NO_FAULT, True, True, False, "responds"),
    Outcome(
        "ok_empty",
        PROVIDER,
        True,
        False,
        False,
        "returns an empty response",
        "Try another symbol. If all are empty, contact the provider.",
    ),
    Outcome(
        "partial",
        PROVIDER,
        True,
        False,
        False,
        "returns an incomplete option chain",
        "Do not use rates computed from this chain. Contact the provider.",
    ),
    Outcome(
        "stale",
        PROVIDER,
        True,
        False,
        False,
        "returns stale data",
        "Compare with the other provider before trading on this data.",
    ),
    Outcome("server_5xx", PROVIDER, False, False, True, "returns server errors (5xx)", "Check its status page."),
    Outcome(
        "timeout",
        PROVIDER,
        False,
        False,
        True,
        "accepts the connection but does not respond in time",
        "Check its status page, and compare with the timeout of the app.",
    ),
    Outcome(
        "refused",
        PROVIDER,
        False,
        False,
        True,
        "refuses the connection",
        "Check that it is running and that the address and port are correct.",
    ),
    Outcome(
        "reset",
        PROVIDER,
        False,
        False,
        True,
        "resets the connection",
        "Check its status page, then proxies and firewalls on the way.",
    ),
    Outcome(
        "unreachable",
        UNCLEAR,
        False,
        False,
        True,
        "cannot be reached: its own fault, or the network in between",
        "Check our network: DNS, route, firewall.",
    ),
    Outcome(
        "dns",
        UNCLEAR,
        False,
        False,
        True,
        "has a host name that does not resolve: its DNS or ours",
        "Check the host name in the settings, then our DNS.",
    ),
    Outcome(
        "tls",
        PROVIDER,
        False,
        False,
        False,
        "presents an untrusted TLS certificate",
        "Do not disable verification. Check which server responds at that address.",
    ),
    Outcome("bad_json", PROVIDER, False, False, True, "returns invalid JSON", "Contact the provider."),
    Outcome(
        "wrong_content",
        UNCLEAR,
        None,
        False,
        False,
        "returns a web page instead of data",
        "Check that the address is correct, and whether a proxy answers instead.",
    ),
    Outcome(
        "schema_mismatch",
        UNCLEAR,
        None,
        False,
        False,
        "returns JSON with an unexpected structure",
        "Check that the address is correct, and whether the provider changed its response format.",
    ),
    Outcome(
        "too_large",
        UNCLEAR,
        None,
        False,
        False,
        "returns a response larger than the size limit",
        "Check that the address is correct.",
    ),
    Outcome(
        "redirected",
        UNCLEAR,
        None,
        False,
        False,
        "redirects to another host, to which no API key is sent",
        "If that host belongs to the provider, put its address into the settings.",
    ),
    Outcome(
        "auth_401",
        OURS,
        None,
        False,
        False,
        "rejects our API key (401)",
        "Check the API key. After a change, restart the app too.",
    ),
    Outcome(
        "no_key_401",
        OURS,
        None,
        False,
        False,
        "requires an API key, and none is set (401)",
        "Set OPS_MASSIVE_TOKEN or OPS_TRADIER_TOKEN, or the matching _FILE variable.",
    ),
    Outcome(
        "ip_blocked_403",
        OURS,
        None,
        False,
        False,
        "blocks our IP address (403)",
        "Check the provider's list of allowed IP addresses.",
    ),
    Outcome(
        "entitlement_403",
        PLAN,
        None,
        False,
        False,
        "reports that our plan does not include this data (403)",
        "Check the plan. A retry does not help.",
    ),
    Outcome(
        "denied_403",
        UNCLEAR,
        None,
        False,
        False,
        "denies access without giving a reason (403)",
        "Check our API key, then our plan, then its list of allowed IP addresses.",
    ),
    Outcome(
        "rate_limited_429",
        OURS,
        None,
        False,
        False,
        "rejects requests above its rate limit (429)",
        "Send fewer requests, or check who else uses the API key.",
    ),
    Outcome(
        "not_found_404",
        OURS,
        None,
        False,
        False,
        "returns HTTP 404 (not found)",
        "Check that the address is correct.",
    ),
    Outcome(
        "client_4xx",
        OURS,
        None,
        False,
        False,
        "rejects the request (4xx)",
        "Check that the address and the symbol are correct.",
    ),
    Outcome(
        "quota_kept",
        OURS,
        None,
        False,
        False,
        "was not probed, to stay within its quota",
        "Send fewer requests, or check who else uses the API key.",
    ),
    Outcome(
        "forbidden_403",
        OURS,
        None,
        False,
        False,
        "rejects the WebSocket handshake (403): its token is not valid",
        "Get a new token, and check that the app has its API key.",
    ),
    Outcome(
        "closed",
        PROVIDER,
        False,
        False,
        False,
        "closes the connection",
        "Refresh the app's page: it reconnects only once.",
    ),
    Outcome(
        "silent",
        PROVIDER,
        False,
        False,
        False,
        "keeps the connection open but sends no messages",
        "Check the app's log for its upstream. Once new connections are served, refresh the app's pages: they do not "
        "reconnect by themselves.",
    ),
    Outcome(
        "renewed",
        PROVIDER,
        True,
        False,
        False,
        "serves new connections but no longer the older ones",
        "Refresh the app's pages: their connections are not served again.",
    ),
    Outcome(
        "gone",
        PROVIDER,
        False,
        False,
        False,
        "is not running",
        "Check whether the app was restarted, and whether OPS_APP_PID names its PID file.",
    ),
    Outcome("absent", OURS, None, False, False, "is not available", "Check that the setting names the right place."),
    Outcome(
        "starved",
        OURS,
        None,
        False,
        False,
        "was not evaluated: the collector process was stalled during the probe",
        "Check the load of the machine that runs the collector.",
    ),
    Outcome("stopped", NO_FAULT, True, True, False, "was stopped"),
)
OUTCOMES = {outcome.name: outcome for outcome in _ALL}
# The outcomes of a probe while our network is down: no connection can be opened.
TRANSPORT = frozenset({"refused", "unreachable", "dns"})
