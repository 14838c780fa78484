"""Which rules' alerts each cause sets off: the table is whole, and where a cause is named, what to do first is the cause's."""

import pytest

from opslib import causes, rules
from opslib.causes import CAUSES, RUNBOOK_OF
from opslib.diagnosis import Diagnosis
from opslib.effects import EFFECTS, leading_rule, sets_off

RULES = rules.load()


def test_every_cause_has_its_effects() -> None:
    """Each cause of the contract is there; each rule is set off by one, and none that is no rule."""
    assert set(EFFECTS) == set(CAUSES)
    assert {rule for found in EFFECTS.values() for rule in found} == set(RULES.rules)


@pytest.mark.parametrize("cause", sorted(set(RUNBOOK_OF) - set(causes.NO_FAULT)))
def test_a_named_cause_says_what_to_do_first(cause: str) -> None:
    """Of each cause that has a runbook, one of its effects leads there, for Massive and for whoever else it is about."""
    for about in ("massive", "tradier") if cause.startswith("provider_") else (None, "app"):
        runbook = Diagnosis(cause, about, 1.0).runbook
        found = leading_rule(cause, about, runbook, RULES)
        assert found and found.action and runbook in found.runbooks.values(), (cause, about)


@pytest.mark.parametrize(
    ("cause", "about", "alert", "expected"),
    [
        ("app_down", "app", ("availability", "massive", "page"), True),  # The page's requests pass through the app's server,
        ("app_down", "app", ("availability", "massive", "probe"), False),  # our own do not.
        ("provider_5xx", "massive", ("availability", "massive", "probe"), True),
        ("provider_5xx", "massive", ("availability", "tradier", "probe"), False),
        ("provider_5xx", "massive", ("availability", "app", "probe"), False),  # That no provider is left is not Massive's doing alone.
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
