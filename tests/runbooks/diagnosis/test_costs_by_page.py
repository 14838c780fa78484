"""Test which costs have changed, from the means that the page posts: each is named, the larger first."""

from typing import Any

import pytest

from opslib.runbooks.diagnosis import cost_questions
from tests.support.outside_world import RULES
from tests.support.snapshots import CLOSES as AT
from tests.support.snapshots import counter_history


def means(commission: float, slippage: float, gross: float, trades: int = 10) -> dict[str, Any]:
    return {
        "trades": trades,
        "commission_usd": commission * trades,
        "slippage_usd": slippage * trades,
        "gross_pct": gross,
    }


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        (means(3.0, 5.0, 4.0), [("costs_commission", 0.9)]),
        (means(1.0, 20.0, 4.0), [("costs_spread", 0.9)]),
        # A trade pays 30 dollars more of slippage, 10 more of commission.
        (means(11.0, 35.0, 4.0), [("costs_spread", 0.675), ("costs_commission", 0.225)]),
        (means(21.0, 15.0, 4.0), [("costs_commission", 0.6), ("costs_spread", 0.3)]),
        (means(1.0, 2.0, 4.0), [("costs_size", 0.8)]),
        (means(1.0, 5.0, 3.0), [("costs_fill_quality", 0.7)]),
        (means(1.0, 5.0, 4.0), [("undetermined", 0.7)]),
        (means(1.0, 5.0, 4.0, 0), [("undetermined", 0.0)]),
    ],
)
def test_each_cost_that_has_changed_is_named(
    monkeypatch: pytest.MonkeyPatch, now: dict[str, Any], expected: list[tuple[str, float]]
) -> None:
    """Before, a trade paid 1 dollar of commission and 5 of slippage, and made 4 %."""
    monkeypatch.setattr(cost_questions, "_newest", lambda *_: (now, means(1.0, 5.0, 4.0)))
    found = cost_questions.cost_cause_of_page(
        counter_history([]), AT, RULES["backtest_variance"], RULES.probes.changed_by
    )
    assert [(a.cause, a.agree) for a in found] == expected
