"""Test small charts by day: gaps, thresholds inside the range, signs that do not overlap."""

import itertools
import re
from datetime import date, timedelta

from opslib.dashboard.trends import Trend, trends

DAYS = [date(2026, 3, 2) + timedelta(days=n) for n in range(4)]


def test_no_line_crosses_an_unknown_day() -> None:
    """An unknown day ends the line, and is marked."""
    html = trends(DAYS, [Trend("Errors", "", 0, (1.0, 2.0, None, 4.0))]).html
    lines = re.findall(r'points="([^"]+)"', html)
    assert [len(line.split()) for line in lines] == [2, 1] and html.count(">?<") == 1


def test_thresholds_are_inside_the_chart_and_their_signs_apart() -> None:
    """The mildest threshold is always in the range; signs of near thresholds do not overlap."""
    limits = (("warning", 99.0), ("notify", 98.0), ("critical", 95.0))
    far = trends(DAYS, [Trend("Uptime", "%", 2, (99.9, 99.8, 99.9, 99.9), limits, from_zero=False)])
    near = trends(DAYS, [Trend("Uptime", "%", 2, (99.9, 10.0, 99.9, 99.9), limits, from_zero=False)])
    assert "99.00 %" in far.html and far.html.count('line class="ops-limit"') == 1
    signs = sorted(float(y) for y in re.findall(r'text class="ops-limit"[^>]*y="([\d.]+)"', near.html))
    assert len(signs) == 3 and all(b - a >= 9.9 for a, b in itertools.pairwise(signs))


def test_text_of_a_trend() -> None:
    """Plain text has the lowest and the highest day (the first of equal ones); without values it says so."""
    made = trends(DAYS, [Trend("Net P&L", "%", 2, (1.5, -2.0, 1.5, None)), Trend("Trades", "", 0, (None,) * 4)])
    assert made.plain.splitlines()[1:] == [
        "  - Net P&L: lowest -2.00 % (03-03), highest 1.50 % (03-02)",
        "  - Trades: unknown on every day",
    ]
    assert trends([], []).html.count("<svg") == 0
