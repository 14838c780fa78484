"""
Which rules' alerts each cause sets off: the table is whole, and where a cause is named, what to do first is the
cause's.
"""

from types import SimpleNamespace

import pytest

from opslib.alerting import causes
from opslib.alerting.causes import CAUSES, RUNBOOK_OF
from opslib.alerting.effects import EFFECTS, advice, leading_rule, sets_off
from opslib.foundation.config import rules
from opslib.runbooks.diagnosis.diagnosis import Diagnosis

RULES = rules.load()


def test_every_cause_has_its_effects() -> None:
    """Each cause of the contract is there, and each rule is set off by one."""
    assert set(EFFECTS) == set(CAUSES)
    assert set(RULES.rules) <= {rule for found in EFFECTS.values() for rule in found}


@pytest.mark.parametrize("cause", sorted(set(RUNBOOK_OF) - set(causes.NO_FAULT)))
def test_a_named_cause_says_what_to_do_first(cause: str) -> None:
    """
    Of each cause that has a runbook, one of its effects leads there, for Massive and for whoever else it is about.
    """
    for about in ("massive", "tradier") if cause.startswith("provider_") else (None, "app"):
        runbook = Diagnosis.runbook.fget(SimpleNamespace(cause=cause, subject=about, alert_runbook=None))
        found = leading_rule(cause, about, runbook, RULES)
        assert found and found.action and runbook in found.runbooks.values(), (cause, about)


@pytest.mark.parametrize(
    ("cause", "about", "alert", "expected"),
    [
        # The page's requests pass through the app's server,
        ("app_down", "app", ("availability", "massive", "page"), True),
        ("app_down", "app", ("availability", "massive", "probe"), False),  # our own do not.
        ("provider_5xx", "massive", ("availability", "massive", "probe"), True),
        ("provider_5xx", "massive", ("availability", "tradier", "probe"), False),
        # That no provider is left is not Massive's doing alone.
        ("provider_5xx", "massive", ("availability", "app", "probe"), False),
        ("both_providers_down", None, ("availability", "app", "probe"), True),
        ("provider_auth", "massive", ("errors", "app", "logs"), True),
        ("provider_5xx", "massive", ("memory", "app", "page"), False),  # It stands beside it, and is notified.
        ("greeks_units", "SPY", ("greeks_valid", "app", "chain"), True),
        ("none", None, ("errors", "app", "logs"), False),
    ],
)
def test_what_a_cause_sets_off(cause: str, about: str | None, alert: tuple[str, str, str], expected: bool) -> None:
    """An alert is named after a cause only where the cause can set it off."""
    assert sets_off(cause, about, *alert) is expected


# What is to be done first, by cause and subject: words that must be in it, and words that must not.
FIRST = {
    ("provider_5xx", "massive"): ("Massive's status page", "our key"),
    ("provider_timeout", "tradier"): ("Tradier's status page", "key"),
    ("provider_refused", "massive"): ("status page", "key"),
    ("provider_dns", "massive"): ("name", "status page"),
    ("provider_tls", "massive"): ("certificate", "status page"),
    ("provider_auth", "tradier"): ("key for Tradier", "status page"),
    ("provider_plan", "tradier"): ("plan with Tradier", "status page"),
    ("provider_ip_blocked", "massive"): ("address", "status page"),
    ("provider_rate_limited", "massive"): ("less often", "status page"),
    ("provider_wrong_content", "massive"): ("proxy", "status page"),
    ("provider_empty", "massive"): ("by hand", "key"),
    ("provider_partial", "massive"): ("number of contracts", "key"),
    ("provider_stale", "massive"): ("times of Massive's data", "key"),
    ("provider_intermittent", "massive"): ("Which requests", "budget"),
    ("both_providers_down", None): ("what is ours", "other provider serves"),
    ("our_network", None): ("DNS", "status page"),
    ("our_timeout_too_short", "massive"): ("more time for Massive's", "budget"),
    ("app_down", "app"): ("start it", "status page"),
    ("app_restarted", "app"): ("Refresh", "start it"),
    ("app_slow", "app"): ("CPU", "start it"),
    ("socket_closed", "app"): ("Refresh", "key"),
    ("socket_silent", "app"): ("upstream", "does not reconnect"),
    ("socket_auth", "app"): ("tokens", "Refresh the app"),
    ("socket_blocked", "app"): ("firewall", "Refresh the app"),
    ("greeks_gamma_zero", "massive"): ("other provider", "which error"),
    ("greeks_missing", "massive"): ("without Greeks", "which error"),
    ("greeks_out_of_bounds", "massive"): ("other provider", "which error"),
    ("greeks_units", "massive"): ("theta and vega", "which error"),
    ("market_stress", None): ("nothing to mend", "vendor"),
    ("expiry", None): ("nothing to mend", "vendor"),
    ("costs_commission", None): ("commissions", "spreads"),
    ("costs_spread", None): ("spreads", "commissions"),
    ("costs_fill_quality", None): ("fill", "commissions"),
    ("costs_size", None): ("size", "commissions"),
    ("too_few_trades", None): ("more trades", "vendor"),
    ("memory_leak", "app"): ("reload the page", "vendor"),
    ("error_storm", "app"): ("by kind", "outage"),
    ("clock_skew", "monitor"): ("this machine's clock", "the one that is off"),
    ("clock_skew", "massive"): ("the one that is off", "this machine"),
    ("dashboard_slow", "app"): ("dashboard", "vendor"),
    ("monitor_down", None): ("collector", "vendor"),
}


def test_what_to_do_first_fits_each_cause() -> None:
    """
    Of each cause that can set off an alert, by hand: what is done first is about that cause, and not what helps with
    another.
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
