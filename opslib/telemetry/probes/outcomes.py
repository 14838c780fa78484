"""
List how a probe can end, and whose fault that is.

Never a bool: a page of HTML with 200, a plan that does not cover the data and a quota that is used up are no downtime
of the provider, and a provider that answers with nothing in it is no success of anybody's.
"""

from dataclasses import dataclass

NOBODY, PROVIDER, OURS, PLAN, UNCLEAR = "nobody's", "the provider's", "ours", "the plan's", "unclear whose"


@dataclass(frozen=True, slots=True)
class Outcome:
    """
    How a look ended.

    Attributes:
        name: Its name in the store and in JSON.
        fault: Whose it is: nobody's, the provider's, ours, the plan's, or unclear.
        answered: Did it answer as one that is up? None where that cannot be said of it (our key, our plan, our quota, a
            page of somebody else's).
        usable: Was there what we asked for?
        again: Is it worth asking again at once?
        words: What is the matter, with the subject before it.
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
    Outcome("ok", NOBODY, True, True, False, "answers"),
    Outcome(
        "ok_empty",
        PROVIDER,
        True,
        False,
        False,
        "answers, with nothing in it",
        "Ask with another symbol; where all are empty, ask the provider.",
    ),
    Outcome(
        "partial",
        PROVIDER,
        True,
        False,
        False,
        "answers only a part of the chain",
        "Trust no rate of this chain; ask the provider.",
    ),
    Outcome(
        "stale",
        PROVIDER,
        True,
        False,
        False,
        "answers with old data",
        "Compare with the other provider before trading on it.",
    ),
    Outcome(
        "server_5xx", PROVIDER, False, False, True, "answers with an error of its own (5xx)", "See its status page."
    ),
    Outcome(
        "timeout",
        PROVIDER,
        False,
        False,
        True,
        "takes the connection and does not answer in time",
        "See its status page; compare with how long the app waits.",
    ),
    Outcome(
        "refused",
        PROVIDER,
        False,
        False,
        True,
        "refuses the connection",
        "See whether it runs, and whether the address and port are right.",
    ),
    Outcome(
        "reset",
        PROVIDER,
        False,
        False,
        True,
        "tears the connection",
        "See its status page, then what stands between us.",
    ),
    Outcome(
        "unreachable",
        UNCLEAR,
        False,
        False,
        True,
        "cannot be connected to: theirs, or the network between us",
        "Check our own network: DNS, route, firewall.",
    ),
    Outcome(
        "dns",
        UNCLEAR,
        False,
        False,
        True,
        "has a name that cannot be resolved: its DNS, or ours",
        "Check the name in the settings, then our DNS.",
    ),
    Outcome(
        "tls",
        PROVIDER,
        False,
        False,
        False,
        "shows a certificate that cannot be trusted",
        "Do not go on without it; see who answers at that address.",
    ),
    Outcome("bad_json", PROVIDER, False, False, True, "says JSON and sends none that can be read", "Ask the provider."),
    Outcome(
        "wrong_content",
        UNCLEAR,
        None,
        False,
        False,
        "answers with a page instead of data (200 proves nothing)",
        "See whether the address is right, and what stands between us.",
    ),
    Outcome(
        "schema_mismatch",
        UNCLEAR,
        None,
        False,
        False,
        "answers JSON that is not what was asked for",
        "See whether the address is right, and whether the provider has changed its answer.",
    ),
    Outcome(
        "too_large",
        UNCLEAR,
        None,
        False,
        False,
        "answers far more than was asked for",
        "See whether the address is right.",
    ),
    Outcome(
        "redirected",
        UNCLEAR,
        None,
        False,
        False,
        "sends us elsewhere, where our key is not shown",
        "Put the address it names into the settings, if it is the provider's.",
    ),
    Outcome(
        "auth_401",
        OURS,
        None,
        False,
        False,
        "does not accept our key (401)",
        "Check the key; a new one needs a restart of the app too.",
    ),
    Outcome(
        "no_key_401",
        OURS,
        None,
        False,
        False,
        "wants a key, and none is set",
        "Set OPS_MASSIVE_TOKEN or OPS_TRADIER_TOKEN, or its file.",
    ),
    Outcome(
        "ip_blocked_403",
        OURS,
        None,
        False,
        False,
        "does not let our address in (403)",
        "Check the provider's list of allowed addresses.",
    ),
    Outcome(
        "entitlement_403",
        PLAN,
        None,
        False,
        False,
        "says that our plan does not cover this (403)",
        "Check the plan; asking again changes nothing.",
    ),
    Outcome(
        "denied_403",
        UNCLEAR,
        None,
        False,
        False,
        "refuses us without saying why (403)",
        "Check our key, then our plan, then its list of allowed addresses.",
    ),
    Outcome(
        "rate_limited_429",
        OURS,
        None,
        False,
        False,
        "says that we ask too often (429)",
        "Ask less often, or see who else uses the key.",
    ),
    Outcome(
        "not_found_404",
        OURS,
        None,
        False,
        False,
        "does not know what we ask for (404)",
        "See whether the address is right.",
    ),
    Outcome(
        "client_4xx",
        OURS,
        None,
        False,
        False,
        "refuses our question (4xx)",
        "See whether the address and the symbol are right.",
    ),
    Outcome(
        "quota_kept",
        OURS,
        None,
        False,
        False,
        "was not asked, to keep within its quota",
        "Ask less often, or see who else uses the key.",
    ),
    Outcome(
        "forbidden_403",
        OURS,
        None,
        False,
        False,
        "refuses the socket before it opens (403): its token",
        "Get a new token; see whether the app's key is there.",
    ),
    Outcome(
        "closed",
        PROVIDER,
        False,
        False,
        False,
        "closes the socket",
        "Refresh the app's page: it tries once, then never again.",
    ),
    Outcome(
        "silent",
        PROVIDER,
        False,
        False,
        False,
        "holds the socket open and says nothing",
        "See the app's log for its upstream; once new connections are served, refresh the app's pages: they "
        "do not notice.",
    ),
    Outcome(
        "renewed",
        PROVIDER,
        True,
        False,
        False,
        "serves new connections, and those from before no longer",
        "Refresh the app's pages: the connections that they hold are not served again.",
    ),
    Outcome(
        "gone",
        PROVIDER,
        False,
        False,
        False,
        "has no such process",
        "See whether the app was restarted, and whether OPS_APP_PID names its pid file.",
    ),
    Outcome("absent", OURS, None, False, False, "is not there", "See whether the setting names the right place."),
    Outcome(
        "starved",
        OURS,
        None,
        False,
        False,
        "was not judged: our own process could not run meanwhile",
        "See what else this machine does.",
    ),
    Outcome("stopped", NOBODY, True, True, False, "was stopped"),
)
OUTCOMES = {outcome.name: outcome for outcome in _ALL}
# What a network of ours that is gone looks like: nothing can be connected to.
TRANSPORT = frozenset({"refused", "unreachable", "dns"})
