"""Descriptions of alert IDs."""

import pytest

from opslib.alerting import alert_ids


@pytest.mark.parametrize(
    ("alert", "described"),
    [
        ("availability-massive-page-20260310T152215Z", "availability of massive, app page"),
        ("greeks_valid-BRK-B-chain-20260310T152215Z", "greeks_valid of BRK-B, chains"),
        ("HighErrorRate-api-external-7f3a", "HighErrorRate-api-external-7f3a"),
        ("errors-app-logs-20260310T152215Z", "errors, log"),
        ("", ""),
    ],
)
def test_an_id_is_described(alert: str, described: str) -> None:
    """Rule, subject and source are named; the ID of an external monitoring system stays as it is."""
    assert alert_ids.describe(alert) == described


def test_a_rule_is_named_by_its_title() -> None:
    """With the titles of the rules, the alert is described by that of its rule."""
    described = alert_ids.describe("gamma_zero-app-page-20260310T152215Z", {"gamma_zero": "Greeks with gamma zero"})
    assert described == "Greeks with gamma zero, app page"
