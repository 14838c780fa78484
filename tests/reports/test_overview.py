"""Test how a report shows an alert's worst value beside its threshold."""

from pathlib import Path

import pytest

from opslib.alerting.history import SeverityChange
from opslib.foundation.config import rules
from opslib.reports.overview import worst_value


def changed(rule: str, subject: str, severity: str, peak: float | None, limit: float | None) -> SeverityChange:
    """Return a severity that an alert of the page reached."""
    return SeverityChange(
        "a", rule, subject, "page", severity, "firing", 0, 1, None, peak, limit, None, "the sentence", "hash"
    )


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        (
            changed("backtest_variance", "app", "notify", 10.03, 10.0),
            ("backtest variance", "10.03 points", "above 10 points"),
        ),
        (
            changed("availability", "massive", "critical", 0.94999, 0.95),
            ("availability of Massive", "94.999 % over 10 min", "below 95.0 %"),
        ),
        (
            changed("availability", "massive", "escalate", 0.0, None),
            ("availability of Massive", "0.00 % over 10 min", "without any success"),
        ),
        (changed("availability_burn", "massive", "critical", 20.0, 14.4), ("the sentence", "", "")),
        (changed("errors", "app", "critical", None, 50.0), ("the sentence", "", "")),
    ],
)
def test_a_worst_value_has_its_threshold(tmp_path: Path, change: SeverityChange, shown: tuple[str, str, str]) -> None:
    """
    The value has its unit and window, and differs from its threshold as shown; without a value there is the sentence.
    """
    assert worst_value(change, rules.load(tmp_path)) == shown
