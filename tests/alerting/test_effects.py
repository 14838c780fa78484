"""The alerts that each cause triggers: the table is complete, and the first action fits the cause."""

import re
from types import SimpleNamespace

import pytest

from opslib.alerting import causes
from opslib.alerting.causes import CAUSES, RUNBOOK_OF
from opslib.alerting.effects import (
    EFFECTS,
    SURE,
    advice,
    cause_of_alert,
    first_action,
    for_traders,
    leading_rule,
    sets_off,
)
from opslib.foundation.config import rules
from opslib.runbooks.diagnosis.diagnosis import Diagnosis, Other

RULES = rules.load()


def test_every_cause_has_its_effects() -> None:
    """Each cause of the contract is listed, and each rule can be triggered by some cause."""
    assert set(EFFECTS) == set(CAUSES)
    assert set(RULES.rules) <= {rule for found in EFFECTS.values() for rule in found}


@pytest.mark.parametrize("cause", sorted(set(RUNBOOK_OF) - set(causes.NO_FAULT)))
def test_each_runbook_cause_has_a_leading_rule(cause: str) -> None:
    """Each cause with a runbook has a leading rule that names this runbook, for each subject."""
    for about in ("massive", "tradier") if cause.startswith("provider_") else (None, "app"):
        runbook = Diagnosis.runbook.fget(SimpleNamespace(cause=cause, subject=about, alert_runbook=None))
        found = leading_rule(cause, about, runbook, RULES)
        assert found and found.action and runbook in found.runbooks.values(), (cause, about)


@pytest.mark.parametrize(
    ("cause", "about", "alert", "expected"),
    [
        # The page's requests pass through the app's server,
        ("app_down", "app", ("availability", "massive", "page"), True),
        ("app_down", "app", ("availability", "massive", "probe"), False),  # Our own requests do not.
        ("provider_5xx", "massive", ("availability", "massive", "probe"), True),
        ("provider_5xx", "massive", ("availability", "tradier", "probe"), False),
        # Massive alone does not cause "no provider is available".
        ("provider_5xx", "massive", ("availability", "app", "probe"), False),
        ("both_providers_down", None, ("availability", "app", "probe"), True),
        ("provider_auth", "massive", ("errors", "app", "logs"), True),
        (
            "provider_5xx",
            "massive",
            ("memory", "app", "page"),
            False,
        ),  # It is another problem, so people are notified of it.
        ("greeks_units", "SPY", ("greeks_valid", "app", "chain"), True),
        ("none", None, ("errors", "app", "logs"), False),
    ],
)
def test_a_cause_triggers_its_alerts(
    cause: str, about: str | None, alert: tuple[str, str, str], expected: bool
) -> None:
    """An alert is named after a cause only if the cause can trigger it."""
    assert sets_off(cause, about, *alert) is expected


# The first action by cause and subject: words that it must contain, and words that it must not contain.
FIRST = {
    ("provider_5xx", "massive"): ("Massive's status page", "our key"),
    ("provider_timeout", "tradier"): ("Tradier's status page", "key"),
    ("provider_refused", "massive"): ("status page", "key"),
    ("provider_dns", "massive"): ("name", "status page"),
    ("provider_tls", "massive"): ("certificate", "status page"),
    ("provider_auth", "tradier"): ("API key for Tradier", "status page"),
    ("provider_plan", "tradier"): ("plan with Tradier", "status page"),
    ("provider_ip_blocked", "massive"): ("address", "status page"),
    ("provider_rate_limited", "massive"): ("fewer requests to Massive", "status page"),
    ("provider_wrong_content", "massive"): ("proxy", "status page"),
    ("provider_empty", "massive"): ("by hand", "key"),
    ("provider_partial", "massive"): ("number of contracts", "key"),
    ("provider_stale", "massive"): ("timestamps of Massive's data", "key"),
    ("provider_intermittent", "massive"): ("Which requests", "budget"),
    ("both_providers_down", None): ("our side", "other provider is available"),
    ("our_network", None): ("DNS", "status page"),
    ("our_timeout_too_short", "massive"): ("timeout for Massive", "budget"),
    ("app_down", "app"): ("start it", "status page"),
    ("app_restarted", "app"): ("Refresh", "start it"),
    ("app_slow", "app"): ("CPU", "start it"),
    ("socket_closed", "app"): ("Refresh", "key"),
    ("socket_silent", "app"): ("upstream", "does not reconnect"),
    ("socket_auth", "app"): ("tokens", "Refresh the app"),
    ("socket_blocked", "app"): ("firewall", "Refresh the app"),
    ("greeks_gamma_zero", "massive"): ("Tradier", "which error"),
    ("greeks_missing", "massive"): ("without Greeks", "which error"),
    ("greeks_out_of_bounds", "massive"): ("Tradier", "which error"),
    ("greeks_units", "massive"): ("theta and vega", "which error"),
    ("market_stress", None): ("nothing to fix", "vendor"),
    ("expiry", None): ("nothing to fix", "vendor"),
    ("costs_commission", None): ("commissions", "spreads"),
    ("costs_spread", None): ("spreads", "commissions"),
    ("costs_fill_quality", None): ("fill", "commissions"),
    ("costs_size", None): ("size", "commissions"),
    ("too_few_trades", None): ("more trades", "vendor"),
    ("memory_leak", "app"): ("reload the page", "vendor"),
    ("error_storm", "app"): ("by type", "outage"),
    ("clock_skew", "monitor"): ("this machine's clock", "the one that is off"),
    ("clock_skew", "massive"): ("the one that is off", "this machine"),
    ("dashboard_slow", "app"): ("dashboard", "vendor"),
    ("monitor_down", None): ("collector", "vendor"),
}


def test_what_to_do_first_fits_each_cause() -> None:
    """
    The first action of each cause that can trigger an alert fits that cause and no other; the expected words are
    written by hand.
    """
    assert {cause for cause, _ in FIRST} == {cause for cause, rules_ in EFFECTS.items() if rules_}
    for (cause, about), (wanted, unwanted) in FIRST.items():
        runbook = Diagnosis.runbook.fget(SimpleNamespace(cause=cause, subject=about, alert_runbook=None))
        rule, of_cause = leading_rule(cause, about, runbook or "", RULES), advice(cause, about)
        if of_cause:
            said = of_cause.action
        elif rule:
            said = rule.action
        else:
            said = ""
        assert wanted.lower() in said.lower() and unwanted.lower() not in said.lower() and "{" not in said, (
            cause,
            said,
        )


@pytest.mark.parametrize(
    ("cause", "about", "also", "alert", "expected"),
    [
        (
            "provider_5xx",
            "massive",
            (),
            ("availability", "massive"),
            "Check Massive's status page. Make sure that Tradier is available. Responsible: Tech Lead.",
        ),
        # The alert's own rule points at the cause: its text and its role.
        ("error_storm", "app", (), ("errors", "app"), f"{advice('error_storm', 'app').action} Responsible: "),
        # Both providers are down for different causes: one action for each.
        (
            "both_providers_down",
            None,
            (Other("provider_auth", "massive"), Other("provider_5xx", "tradier")),
            ("availability", "app"),
            "Massive: Check our API key for Massive: expired, revoked or mistyped. Renew it. Tradier: Check Tradier's "
            "status page. Responsible: Tech Lead.",
        ),
        (
            "both_providers_down",
            None,
            (),
            ("availability", "app"),
            f"{advice('both_providers_down', None).action} Responsible: ",
        ),
        ("app_down", "app", (), ("", ""), RULES["app_down"].action),  # No alert is active yet.
        ("none", None, (), ("", ""), ""),
        ("market_closed", None, (), ("", ""), ""),
    ],
)
def test_the_first_action_names_who_acts(
    cause: str, about: str | None, also: tuple[Other, ...], alert: tuple[str, str], expected: str
) -> None:
    """The first action is that of the cause, else that of the rule, with the role; it is empty if nothing is wrong."""
    found = Diagnosis(None, cause, about, 0.97, also=also)
    said = str(first_action(found, *alert, RULES))
    assert said.startswith(expected) and bool(said) == bool(expected)
    assert not said or said.endswith(".")


def test_without_a_cause_the_rule_says_what_to_do() -> None:
    """No diagnosis: the action, the role and the runbook of the rule; of no provider at all, that of both providers."""
    rule = RULES["websocket_down"]
    assert first_action(None, rule.name, "app", RULES).with_runbook == (
        f"{rule.action} Responsible: Tech Lead. Runbook: websocket_down."
    )
    assert first_action(None, "availability", "app", RULES).action == advice("both_providers_down", None).action
    assert first_action(None, "gone", "app", RULES).action == ""


def test_only_a_sure_cause_that_triggers_the_alert_decides() -> None:
    """The first cause that is confident enough and can trigger the alert; no other one speaks for it."""
    blocked = Diagnosis(None, "socket_blocked", "app", SURE)
    costs = Diagnosis(None, "costs_fill_quality", "app", 0.7)
    websocket = ("websocket_down", "app", "page")
    assert cause_of_alert([costs, blocked], *websocket) is blocked
    assert cause_of_alert([Diagnosis(None, "socket_blocked", "app", SURE - 0.01)], *websocket) is None
    assert cause_of_alert([blocked], "backtest_variance", "app", "page") is None
    assert cause_of_alert([blocked, costs], "backtest_variance", "app", "page") is None
    assert cause_of_alert([blocked, costs], "backtest_variance", "app", "page", least=0.5) is costs


@pytest.mark.parametrize("subject", ["massive", "SPY"])
@pytest.mark.parametrize("cause", [c for c in CAUSES if c.startswith("greeks_")])
def test_the_provider_is_named_where_it_is_known(cause: str, subject: str) -> None:
    """
    Fault and action name Massive: as the subject, and where a symbol is, whose chain was fetched from Massive.

    The page alone does not say which provider's Greeks it shows.
    """
    assert causes.whose(cause, subject) == "Massive's data" and "Massive" in advice(cause, subject).action
    assert "the provider" not in causes.headline(cause, subject).lower()
    assert causes.whose(cause, "app") == "the provider's data" and "ask the provider" in advice(cause, "app").action


@pytest.mark.parametrize("provider", ["massive", "tradier"])
def test_no_text_of_a_known_provider_hides_its_name(provider: str) -> None:
    """Of every cause at a provider: fault, action and headline name both providers, and say "vendor" nowhere."""
    for cause in (c for c in CAUSES if c.startswith(("provider_", "greeks_"))):
        action = advice(cause, provider).action
        for words in (causes.whose(cause, provider), causes.headline(cause, provider), action):
            assert not re.search("the (other )?provider|vendor", words.lower()), (cause, words)


def test_traders_read_the_name_of_the_provider() -> None:
    """The impact of a provider's alert names the provider; a text about the app stays as it is."""
    assert for_traders(RULES["availability"], "massive", None).startswith("Option data of Massive may be ")
    assert for_traders(RULES["availability"], "massive", "tradier") == (
        "Tradier serves option data. Its Greeks are up to 1 h old. Data of Massive may be missing or old: do not trade "
        "on it."
    )
    assert for_traders(RULES["errors"], "app", "massive") == RULES["errors"].traders
