"""
Map each cause to the rules whose alerts it triggers.

Notifications use the map to name the cause of an alert and to group the alerts of one cause. A cause that does not
trigger an alert does not group it: people are notified of both.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol, TypeVar

from opslib.alerting.causes import CAUSES, OF_RULE, provider_name
from opslib.foundation.config.rules import Rule, Rules
from opslib.foundation.storage.snapshot_columns import PROVIDERS

SURE = 0.9  # From this confidence on, the cause of an alert decides what is broken and what to do first.
LIKELY = 0.5  # From this confidence on, a notification names the cause as a likely one.
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
# The provider responds, so `answers` leads.
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
    Return whether a cause triggers an alert.

    Args:
        about: The subject of the cause; None if it has none.
        rule, subject, source: Of the alert.
    """
    if rule not in EFFECTS[cause]:
        return False
    if cause.startswith("app_"):
        # Our probes of a provider do not pass through the app's server; the page's requests do.
        return source != "probe" or subject not in PROVIDERS
    if about in PROVIDERS:
        # One provider alone cannot cause "no provider is available".
        return subject == about or (subject == "app" and rule not in ("availability", "answers"))
    return True


def leading_rule(cause: str, about: str | None, runbook: str, rules: Rules) -> Rule | None:
    """
    Return the rule that holds a cause's texts and the role that acts first; None if there is none.

    It is the first effect of the cause with the cause's runbook. Rules whose default cause is this cause come first.
    """
    found = [rules.rules[name] for name in EFFECTS[cause] if name in rules.rules]
    found = [rule for rule in found if rule.runbooks.get(about if about in rule.subjects else "app") == runbook]
    return min(found, key=lambda rule: OF_RULE.get(rule.name) != cause, default=None)


class Advice(NamedTuple):
    """
    The first action for a cause, and its impact on traders.

    Attributes:
        traders: Empty if the rule's text fits.
        other: Whether the other provider must be checked, too.
    """

    action: str
    traders: str = ""
    other: bool = False


NOBODY_SERVES = (
    "No provider delivers option data: prices and Greeks on the screen are missing or old. Do not trade options on "
    "them."
)
_NO_REFRESH = "Live prices have stopped, and refreshing the page does not restore them yet."
EXCEPT_GREEKS = ", except Greeks"  # Behind option data of a provider while Greeks do not work.
OTHER = " Make sure that the other provider is available."
# Causes whose rule already has a fitting text are not listed. {} is the provider.
ADVICE: dict[str, Advice] = {
    "provider_5xx": Advice("Check {}'s status page.", other=True),
    "provider_timeout": Advice("Check {}'s status page.", other=True),
    "provider_refused": Advice("Check {}'s status page and our firewall.", other=True),
    "provider_dns": Advice(
        "Resolve {}'s host name here and from another network. The fault is our resolver or their domain.", other=True
    ),
    "provider_tls": Advice(
        "Inspect the certificate that {} presents, and check this machine's clock and CA file.",
        other=True,
    ),
    "provider_auth": Advice("Check our API key for {}: expired, revoked or mistyped. Renew it."),
    "provider_plan": Advice(
        "Check what our plan with {} includes. Add this data to the plan, or get it from another source.",
        "This provider does not deliver this data: figures that need it are not available.",
    ),
    "provider_ip_blocked": Advice("Ask {} to allow our IP address, or switch back to an address that it allows."),
    "provider_rate_limited": Advice(
        "Send fewer requests to {}, or have the quota raised. Find out who else uses our API key."
    ),
    "provider_wrong_content": Advice(
        "Inspect the response from {}'s address: a proxy, a login page or a redirect may respond instead.",
    ),
    "provider_empty": Advice(
        "Request the same contracts from {} by hand, compare with the other provider, then ask {}.",
    ),
    "provider_stale": Advice(
        "Compare the timestamps of {}'s data with the other provider's, then ask {}.",
        "Prices from this provider are old: do not trade on them until they update again.",
    ),
    "provider_intermittent": Advice(
        "Find out which requests to {} fail and when, and send it the times.",
        "Some requests to this provider fail: the data on the screen may be incomplete.",
    ),
    "both_providers_down": Advice(
        "Read the response of each provider. Fix what is on our side first (key, plan, address), then check both "
        "status pages.",
        NOBODY_SERVES,
    ),
    "our_timeout_too_short": Advice(
        "Increase the app's timeout for {}: it is shorter than the response time.",
        "Some data is missing on the app's screen, although the provider sends it.",
    ),
    "app_restarted": Advice(
        "Refresh the app's pages, because the restart closed their sockets. Then read the app's log from before the "
        "restart.",
        "The app's server was restarted. Refresh the page: live prices do not come back by themselves.",
    ),
    "socket_silent": Advice(
        "Check whether the app's upstream is connected (/api/ws-health). If it is, refresh the app's pages; if not, "
        "reconnect the app to its upstream.",
    ),
    "socket_auth": Advice(
        "Check the app's API key for Massive and its server's clock. Refreshing the page does not help while tokens "
        "are rejected.",
        _NO_REFRESH,
    ),
    "socket_blocked": Advice(
        "Check the proxy, firewall, VPN and port between here and the app's WebSocket. Refreshing the page does not "
        "help while it is blocked.",
        _NO_REFRESH,
    ),
    "provider_partial": Advice("Compare the number of contracts of {} with the other provider, then ask {}."),
    "greeks_gamma_zero": Advice("Compare the contracts with the other provider, then ask {}."),
    "greeks_out_of_bounds": Advice("Compare the contracts with the other provider, then ask {}."),
    "greeks_units": Advice(
        "Compare theta and vega of a few contracts with the other provider, then ask {} what changed."
    ),
    "greeks_missing": Advice(
        "Compare the contracts without Greeks with the other provider, then ask {}.",
        "Greeks of some positions are missing, and substitutes may be shown: do not size hedges by them.",
    ),
    "market_stress": Advice(
        "Check that both providers agree. The data is correct, so there is nothing to fix.",
        "Volatility is high and the Greeks are correct: they change fast.",
    ),
    "expiry": Advice(
        "Use the contracts that do not expire today. There is nothing to fix.",
        "Contracts expire today: a gamma of zero in their wings is correct.",
    ),
    "costs_commission": Advice(
        "Compare the commissions paid with those of the backtest, and use the actual commissions in the backtest.",
    ),
    "costs_spread": Advice(
        "Compare the spreads paid with those of the backtest. Choose liquid strikes or limit orders.",
    ),
    "costs_fill_quality": Advice(
        "Compare each fill with the mid price at that time, and ask the broker how orders are routed.",
    ),
    "costs_size": Advice("Trade the position size of the backtest, or run the backtest with the traded size."),
    "too_few_trades": Advice(
        "Wait for more trades before you compare with the backtest.",
        "There are too few trades to compare with the backtest.",
    ),
    "error_storm": Advice("Read the newest errors by type. If they began with a deployment, roll it back."),
    "clock_skew of monitor": Advice(
        "Set this machine's clock (timedatectl, NTP): the providers and the app agree, and this clock differs.",
        "Times in our notifications and panels are wrong. The app's prices are not affected.",
    ),
}


def other_serves(failed: str, serving: str) -> str:
    """Return the impact on traders while another provider serves option data."""
    greeks = " Its Greeks are up to 1 h old." if serving == "tradier" else ""
    return (
        f"{serving.title()} serves option data.{greeks} Data of {failed.title()} may be missing or old: do not trade "
        f"on it."
    )


def for_traders(rule: Rule, subject: str | None, serving: str | None) -> str:
    """
    Return what an alert of a rule means for traders, with the name of its provider.

    Args:
        serving: The provider in use; None if it is unknown.
    """
    if subject in PROVIDERS and serving in PROVIDERS and serving != subject:
        return other_serves(subject, serving)
    return rule.traders.replace("this provider", subject.title()) if subject in PROVIDERS else rule.traders


def advice(cause: str, about: str | None, other: bool = True) -> Advice | None:
    """
    Return the first action for a cause; None if its rule's text fits.

    Args:
        other: Whether the other provider may be used.
    """
    found = ADVICE.get(f"{cause} of {about}") or ADVICE.get(cause)
    if found is None:
        return None
    name = provider_name(cause, about)
    action = (found.action + (OTHER if found.other and other else "")).replace("{}", name)
    others = [p.title() for p in PROVIDERS if p.title() != name]
    return found._replace(action=action.replace("the other provider", others[0]) if len(others) == 1 else action)


class Part(Protocol):
    """One cause of a diagnosis."""

    @property
    def cause(self) -> str: ...  # noqa: D102
    @property
    def subject(self) -> str | None: ...  # noqa: D102


class Found(Part, Protocol):
    """The part of a diagnosis that the first action depends on; see `diagnosis.Diagnosis`."""

    @property
    def runbook(self) -> str | None: ...  # noqa: D102
    @property
    def also(self) -> Sequence[Part]: ...  # noqa: D102


def parts(found: Found) -> list[Part]:
    """Return the cause of each provider where both are down for different causes; else nothing."""
    each = [part for part in found.also if part.subject in PROVIDERS] if found.cause == "both_providers_down" else []
    return each if len({part.cause for part in each}) > 1 else []


def advice_of(found: Found) -> Advice | None:
    """Return the first action for a diagnosis, for each provider if they differ; None if its rule's text fits."""
    whole = advice(found.cause, found.subject)
    each = [
        f"{str(part.subject).title()}: {own.action}"
        for part in parts(found)
        if (own := advice(part.cause, part.subject, other=False))
    ]
    return whole._replace(action=" ".join(each)) if whole and each else whole


def acting_rule(found: Found, alert_rule: str, alert_subject: str, rules: Rules) -> Rule | None:
    """
    Return the rule with the texts and the role for a diagnosis.

    It is the rule of the alert if that points at the cause, else the one of the cause.
    """
    own = rules.rules.get(alert_rule)
    if own and OF_RULE.get(own.name) == found.cause and own.runbooks.get(alert_subject) == found.runbook:
        return own
    return leading_rule(found.cause, found.subject, found.runbook or "", rules)


class FirstAction(NamedTuple):
    """
    What to do first.

    Attributes:
        action: Empty if there is nothing to do.
        who: The role that acts; empty if none is known.
        runbook: Empty if there is none.
    """

    action: str
    who: str = ""
    runbook: str = ""

    def __str__(self) -> str:
        return f"{self.action} Responsible: {self.who}." if self.action and self.who else self.action

    @property
    def with_runbook(self) -> str:
        """The action, the role and the runbook."""
        return f"{self} Runbook: {self.runbook}." if self.runbook else str(self)


def first_action(found: Found | None, alert_rule: str, alert_subject: str, rules: Rules) -> FirstAction:
    """
    Return what to do first about an alert: what its cause needs, else what its rule says.

    Every message, page and report that shows an action takes it from here, so that none contradicts another.

    Args:
        found: The diagnosis of the alert, such as `cause_of_alert` returns it; None if there is none.
        alert_rule, alert_subject: Of the alert; empty if no alert is active.
    """
    own = rules.rules.get(alert_rule)
    if found is None:
        general = advice("both_providers_down", None) if _is_no_provider(alert_rule, alert_subject) else None
        if own is None:
            return FirstAction("")
        return FirstAction(general.action if general else own.action, own.who, own.runbooks.get(alert_subject) or "")
    rule, of_cause = acting_rule(found, alert_rule, alert_subject, rules), advice_of(found)
    who = rule or (own if of_cause else None)
    action = of_cause.action if of_cause else rule.action if rule else ""
    return FirstAction(action, who.who if who else "", found.runbook or "")


def _is_no_provider(rule: str, subject: str) -> bool:
    return (rule, subject) == ("availability", "app")


class Graded(Found, Protocol):
    """A diagnosis with its confidence."""

    @property
    def confidence(self) -> float: ...  # noqa: D102


D = TypeVar("D", bound=Graded)


def cause_of_alert(causes: Iterable[D], rule: str, subject: str, source: str, least: float = SURE) -> D | None:
    """
    Return the first of several causes that is confident enough and that triggers an alert; None if there is none.

    Args:
        causes: The causes of one diagnosis, see `diagnosis.Diagnosis.each`.
        rule, subject, source: Of the alert.
        least: The least confidence.
    """
    return next(
        (d for d in causes if d.confidence >= least and sets_off(d.cause, d.subject, rule, subject, source)), None
    )
