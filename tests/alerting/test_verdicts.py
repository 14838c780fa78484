"""Figures get the verdict that the thresholds say, chance fires nothing, and unknown is never ok."""

import math
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from opslib.alerting.verdicts import BudgetBurn, Figure, describe_verdict, evaluate_figure, worst
from opslib.foundation.config import rules
from opslib.foundation.intervals import t_interval, wilson

NO = rules.NO_SUCCESS


@pytest.fixture(scope="module")
def table():
    """Return the shipped rules."""
    return rules.load()


@pytest.mark.parametrize(
    ("part", "count", "low", "high"),
    [
        # Wilson 1927 with z = 1.959964: (p + z²/2n ± z √(p(1-p)/n + z²/4n²)) / (1 + z²/n).
        (0, 10, 0.0, 0.2775328),  # z²/(n + z²) = 3.841459 / 13.841459
        (10, 10, 0.7224672, 1.0),
        (29, 30, 0.8332961, 0.9940914),
        (50, 100, 0.4038315, 0.5961685),  # 0.5 ± z/2 √(1/(n + z²)) = 0.5 ± 0.979982 / 10.190260
        (1, 1, 0.2065493, 1.0),
        (0, 0, 0.0, 1.0),
    ],
)
def test_wilson_by_hand(part, count, low, high):
    """Known intervals are reproduced to six places."""
    assert wilson(part, count) == (pytest.approx(low, abs=1e-6), pytest.approx(high, abs=1e-6))


@hypothesis_settings(max_examples=200, deadline=None)
@given(st.integers(1, 10**7), st.data())
def test_wilson_contains_the_point_and_narrows(count, data):
    """The interval lies in 0 to 1, contains the point, is symmetric, and narrows with ten times the samples."""
    part = data.draw(st.integers(0, count))
    low, high = wilson(part, count)
    assert 0 <= low <= part / count + 1e-12 and part / count - 1e-12 <= high <= 1
    assert wilson(count - part, count) == (pytest.approx(1 - high, abs=1e-12), pytest.approx(1 - low, abs=1e-12))
    again = wilson(10 * part, 10 * count)
    assert again[1] - again[0] < high - low


@hypothesis_settings(max_examples=200, deadline=None)
@given(st.integers(1, 500), st.data())
def test_wilson_solves_its_own_equation(count, data):
    """From an end of the interval inside 0 to 1, the point is 1.96 standard errors away."""
    part = data.draw(st.integers(0, count))
    for end in wilson(part, count):
        if 1e-9 < end < 1 - 1e-9:
            assert abs(part / count - end) == pytest.approx(
                1.959963984540054 * math.sqrt(end * (1 - end) / count), rel=1e-6
            )


def test_more_parts_than_samples_do_not_crash():
    """A page that counts more gamma errors than validations does not crash the evaluation."""
    evaluate_figure(rules.load()["gamma_zero"], "app", "page", Figure(1.5, 300, 200, 1.0))


def rate(part, count, coverage=1.0):
    """Return a rate as it is measured."""
    return Figure(part / count, part, count, coverage)


JUDGED = [
    # rule, subject, figure, verdict, severity, limit
    ("availability", "massive", rate(1000, 1000), "ok", None, 0.99),
    ("availability", "massive", rate(29, 30), "ok", None, 0.99),  # High end 0.9941: one of thirty is chance.
    ("availability", "massive", rate(965, 1000), "warning", "notify", 0.98),  # High end, at 99 %, 0.9772.
    ("availability", "massive", rate(9850, 10000), "warning", "warning", 0.99),  # High end 0.9872.
    ("availability", "massive", rate(900, 1000), "critical", "critical", 0.95),
    ("availability", "massive", rate(0, 20), "critical", "escalate", NO),
    ("availability", "massive", rate(1, 20), "critical", "critical", 0.95),
    ("availability", "massive", rate(0, 19), "unknown", None, 0.99),  # 19 of 20 needed.
    ("availability", "massive", rate(0, 500, 0.79), "unknown", None, 0.99),
    ("availability", "massive", rate(0, 500, 0.8), "critical", "escalate", NO),
    ("greeks_valid", "app", rate(950, 1000), "ok", None, 0.90),
    ("greeks_valid", "app", rate(885, 1000), "ok", None, 0.90),  # High end 0.9033 reaches 0.90: could be chance.
    ("greeks_valid", "app", rate(880, 1000), "warning", "warning", 0.90),  # High end 0.8987.
    ("greeks_valid", "app", rate(700, 1000), "critical", "critical", 0.75),
    ("greeks_valid", "app", rate(400, 1000), "critical", "escalate", 0.50),
    ("gamma_zero", "app", rate(0, 1000), "ok", None, 0.005),
    ("gamma_zero", "app", rate(8, 1000), "ok", None, 0.005),  # 0.8 %, low end 0.41 %: could be chance.
    ("gamma_zero", "app", rate(15, 1000), "warning", "warning", 0.005),  # Low end 0.91 %.
    ("gamma_zero", "app", rate(40, 1000), "warning", "notify", 0.02),  # Low end 2.95 %.
    ("gamma_zero", "app", rate(400, 1000), "critical", "critical", 0.05),
    ("gamma_zero", "app", rate(99, 99), "unknown", None, 0.005),
    ("errors", "app", Figure(5.0, coverage=1.0), "ok", None, 20),
    ("errors", "app", Figure(20.0, coverage=1.0), "ok", None, 20),
    ("errors", "app", Figure(20.1, coverage=1.0), "warning", "warning", 20),
    ("errors", "app", Figure(50.1, coverage=1.0), "critical", "critical", 50),
    ("websocket_down", "app", Figure(0.0), "ok", None, 0),
    ("websocket_down", "app", Figure(5.0), "warning", "warning", 0),
    ("websocket_down", "app", Figure(60.0), "warning", "warning", 0),
    ("websocket_down", "app", Figure(61.0), "critical", "critical", 60),
    ("websocket_down", "app", Figure(601.0), "critical", "escalate", 600),
    ("backtest_variance", "app", Figure(5.0, count=5), "ok", None, 5),
    ("backtest_variance", "app", Figure(5.1, count=5), "warning", "warning", 5),
    ("backtest_variance", "app", Figure(12.0, count=5), "warning", "notify", 10),
    ("backtest_variance", "app", Figure(16.0, count=5), "critical", "critical", 15),
    ("backtest_variance", "app", Figure(21.0, count=5), "critical", "escalate", 20),
    ("backtest_variance", "app", Figure(21.0, count=4), "unknown", None, 5),
    ("memory", "app", Figure(101.0), "critical", "escalate", 100),
    ("memory", "app", Figure(51.0), "warning", "warning", 50),
    ("silence", "app", Figure(181.0), "critical", "critical", 180),
    ("heartbeat", "app", Figure(3.0), "warning", "warning", 1),
]


@pytest.mark.parametrize(("name", "subject", "figure", "verdict", "severity", "limit"), JUDGED)
def test_a_figure_gives_verdict_severity_and_limit(table, name, subject, figure, verdict, severity, limit):
    """
    The highest crossed threshold gives verdict, severity and limit; a value equal to the threshold does not cross it.
    """
    found = evaluate_figure(table[name], subject, "page", figure)
    assert (found.verdict, found.severity, found.limit) == (verdict, severity, limit)


@pytest.mark.parametrize(
    ("absent", "counted"),
    [
        ("not measured", False),
        ("not expected", False),
        ("too few samples", False),
        ("no snapshot received", True),
        ("nothing was counted", True),
        ("", True),
    ],
)
def test_unknown_is_never_ok(table, absent, counted):
    """
    Without a value the verdict is unknown; a figure that is not measured, not expected or of too few samples is not
    counted.
    """
    found = evaluate_figure(table["errors"], "app", "page", Figure(None, coverage=1.0, absent=absent))
    assert (found.verdict, found.severity, found.counted) == ("unknown", None, counted)


SENTENCES = [
    ("availability", "massive", rate(900, 1000), "availability of massive (90.00 % over 10 min) < 95.0 %"),
    ("availability", "massive", rate(0, 50), "availability of massive (0.00 % over 10 min) = 0 (no success)"),
    ("availability", "tradier", rate(1000, 1000), "availability of tradier (100.00 % over 10 min) ≥ 99.0 %"),
    ("availability", "massive", rate(5, 9), "availability of massive: too few samples (9 of 20 required)"),
    ("errors", "app", Figure(51.0, coverage=1.0), "errors (51 per h) > 50 per h"),
    (
        "errors",
        "app",
        Figure(6.0, coverage=1.0),
        "errors (6 per h) ≤ 20 per h, no alert (objective 5 per h not met)",
    ),
    ("errors", "app", Figure(None, coverage=0.0, absent="no snapshot received"), "errors: no snapshot received"),
    (
        "errors",
        "app",
        Figure(9.0, coverage=0.5),
        "errors: only 50 % of the expected snapshots received (≥ 80 % required)",
    ),
    ("backtest_variance", "app", Figure(12.34, count=7), "backtest variance (12.34 points) > 10 points"),
]


@pytest.mark.parametrize(("name", "subject", "figure", "sentence"), SENTENCES)
def test_a_sentence_says_value_and_limit(table, name, subject, figure, sentence):
    """The sentence has the name, the measured value, the comparison and the limit."""
    assert evaluate_figure(table[name], subject, "page", figure).sentence == sentence


def test_a_value_beyond_its_limit_does_not_read_as_equal(table):
    """A value that rounds to its limit is shown with enough digits to tell the difference; an equal value is not."""
    rule = table["response_time"]
    assert evaluate_figure(rule, "massive", "probe", Figure(0.503, count=100)).sentence.endswith("(0.503 s) > 0.50 s")
    assert evaluate_figure(rule, "massive", "probe", Figure(0.50004, count=100)).sentence.endswith(
        "(0.50004 s) > 0.50 s"
    )
    assert evaluate_figure(rule, "massive", "probe", Figure(0.5, count=100)).sentence.startswith(
        "p95 response time of massive (0.50 s) ≤ 0.50 s"
    )


def test_a_share_names_the_window_it_is_measured_over(table):
    """A share names its window: the panel's or the rule's. A share of the latest chains names none."""
    found = evaluate_figure(table["greeks_valid"], "app", "page", rate(700, 1000))
    assert found.sentence == "valid Greeks (70.00 % over 10 min) < 75.0 %"
    assert found._replace(over=timedelta(hours=1)).sentence == "valid Greeks (70.00 % over 1 h) < 75.0 %"
    assert "(70.00 %) <" in evaluate_figure(table["greeks_valid"].of("chain"), "app", "chain", rate(700, 1000)).sentence


def test_a_value_that_is_not_significant_says_so(table):
    """If a rate crosses its limit and its interval does not, the sentence states the count and the interval."""
    found = evaluate_figure(table["availability"], "massive", "page", rate(29, 30)).sentence
    assert found == (
        "availability of massive (96.67 % over 10 min) < 99.0 %, but not significant with 30 samples (confidence "
        "interval 76.82 % to 99.61 %)"
    )


@hypothesis_settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(sorted(n for n, r in rules.load().rules.items() if not r.burn)),
    st.floats(0, 1000),
    st.floats(0, 1000),
    st.integers(100, 10_000),
)
def test_a_worse_value_never_has_a_lower_severity(name, a, b, count):
    """The worse of two values of one rule never has a lower severity."""
    rule = rules.load()[name]

    def rung(value):
        if rule.unit == "ratio":
            part = round(value / 1000 * count)
            figure = rate(part, count)
        else:
            figure = Figure(value, count=count)
        return (
            rules.SEVERITIES.index(found)
            if (found := evaluate_figure(rule, rule.subjects[0], "page", figure).severity)
            else -1
        )

    good, bad = (max(a, b), min(a, b)) if rule.better == "higher" else (min(a, b), max(a, b))
    assert rung(bad) >= rung(good)


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        (["ok"], "ok"),
        (["ok", "warning"], "warning"),
        (["warning", "unknown", "ok"], "unknown"),
        (["unknown", "critical"], "critical"),
        ([], "unknown"),
    ],
)
def test_the_worst_verdict_wins(verdicts, expected):
    """Critical beats unknown, unknown beats warning, warning beats ok; no verdict at all is unknown."""
    assert worst(verdicts) == expected and worst(reversed(verdicts)) == expected


@pytest.mark.parametrize(
    ("count", "quantile"),
    # Student's 97.5th percentile, from printed tables.
    [
        (2, 12.706205),
        (3, 4.302653),
        (4, 3.182446),
        (7, 2.446912),
        (10, 2.262157),
        (12, 2.200985),
        (20, 2.093024),
        (30, 2.045230),
        (61, 2.000298),
        (121, 1.979930),
        (1001, 1.962339),
    ],
)
def test_student_interval_equals_printed_tables(count, quantile):
    """The interval of a mean equals the printed tables to their last digit, from two samples on."""
    low, high = t_interval(5.0, 2.0, count)
    assert (high - 5) * math.sqrt(count) / 2 == pytest.approx(quantile, abs=6e-7) and 5 - low == pytest.approx(high - 5)


def test_one_sample_gives_an_infinite_interval():
    """One sample gives an infinite interval."""
    assert t_interval(5.0, 2.0, 1) == (-math.inf, math.inf)


def test_a_mean_fires_only_if_its_interval_excludes_zero(table):
    """A mean of 12 points over 25 trades fires if its interval excludes zero, or if the deviation is unknown."""
    rule = table["backtest_variance"].of("fills")

    def severity_of(value, deviation):
        return evaluate_figure(rule, "app", "fills", Figure(value, count=25, deviation=deviation)).severity

    assert [severity_of(12.0, 30.0), severity_of(12.0, 20.0), severity_of(12.0, None), severity_of(4.9, 0.1)] == [
        None,
        "notify",
        "notify",
        None,
    ]


def test_a_mean_is_critical_only_if_its_interval_excludes_the_warning_limit(table):
    """A mean of 16 points is critical only if its interval excludes the warning limit of 5; otherwise it is notify."""
    rule = table["backtest_variance"].of("fills")

    def severity_of(value, deviation):
        return evaluate_figure(rule, "app", "fills", Figure(value, count=25, deviation=deviation)).severity

    assert [severity_of(16.0, 20.0), severity_of(16.0, 28.0), severity_of(21.0, 28.0), severity_of(21.0, 45.0)] == [
        "critical",
        "notify",
        "escalate",
        "notify",
    ]


def test_each_source_has_its_own_gate(table):
    """The page's variance is evaluated by its value from 5 trades on, the fills' by its interval from 20 trades on."""
    rule = table["backtest_variance"]
    assert (rule.of("page").gate, rule.of("page").min_count, rule.of("fills").gate, rule.of("fills").min_count) == (
        "value",
        5,
        "t",
        20,
    )
    found = evaluate_figure(rule.of("fills"), "app", "fills", Figure(30.0, count=7, deviation=1.0))
    assert (found.verdict, found.severity, found.counted, found.sentence) == (
        "unknown",
        None,
        False,
        "backtest variance: insufficient data (n=7; 20 required)",
    )


def test_not_a_number_is_unknown(table):
    """NaN is unknown, never ok, although it crosses no threshold in a comparison."""
    assert evaluate_figure(table["greeks_valid"], "app", "page", Figure(math.nan, 1, 1000, 1.0)).verdict == "unknown"


def test_a_budget_needs_both_windows(table):
    """
    A burn rate reaches a severity if both windows cross its threshold; the sentence says how long the error budget
    would last.
    """
    rule = table["availability_burn"]

    def spent(**bound):
        return {rung: BudgetBurn(20.0, 30.0, bound.get(rung)) for rung, _ in rule.thresholds}

    assert (
        evaluate_figure(
            rule, "massive", "page", Figure(20.0, spent=spent(warning=2.9, notify=5.9, critical=14.3))
        ).severity
        is None
    )
    assert evaluate_figure(rule, "massive", "page", Figure(20.0, spent=spent(warning=3.1))).severity == "warning"
    found = evaluate_figure(
        rule, "massive", "page", Figure(20.0, spent=spent(warning=20.0, notify=20.0, critical=19.0))
    )
    assert (
        found.sentence
        == "availability burn rate of massive (20.0 times over 1 h, 30.0 times over 5 min; the error budget of "
        "30 days would last 36 h) > 14.4 times"
    )


def test_a_burn_rate_without_data_is_unknown(table):
    """Without snapshots the burn rate is unknown, not zero."""
    assert (
        evaluate_figure(table["greeks_burn"], "app", "page", Figure(None, absent="no snapshot received")).verdict
        == "unknown"
    )


@pytest.mark.parametrize(
    ("verdict", "severities", "words"),
    [
        ("warning", ["warning", None, "notify"], "warning (worst severity: notify)"),
        ("critical", ["critical", "escalate", "warning"], "critical (worst severity: escalate)"),
        ("critical", ["critical", "notify"], "critical"),
        ("warning", ["warning"], "warning"),
        ("ok", [None], "ok"),
        ("ok", ["critical"], "ok (worst severity: critical)"),
        ("unknown", ["notify"], "unknown (worst severity: notify)"),
    ],
)
def test_a_verdict_names_a_worse_severity(verdict, severities, words):
    """A severity is named only if it is worse than the verdict."""
    assert describe_verdict(verdict, severities) == words


def test_a_verdict_puts_remark_and_severity_in_one_bracket():
    """The remark comes before the severity."""
    assert describe_verdict("unknown", ["notify"], "nothing to evaluate") == (
        "unknown (nothing to evaluate; worst severity: notify)"
    )


def test_durations_from_one_minute_on_are_shown_in_minutes(table):
    """
    Durations have one format in values, thresholds and sentences; a value just above its threshold keeps its decimals.
    """
    rule = table["websocket_down"]
    assert [rule.format_value(v) for v in (0.0, 45.0, 64.71, 228.0, None)] == [
        "0 s",
        "45 s",
        "1 min 5 s",
        "3 min 48 s",
        "unknown",
    ]
    assert rule.format_limit(60.0) == "1 min" and table["response_time"].format_value(0.5) == "0.50 s"
    assert evaluate_figure(rule, "app", "page", Figure(60.2)).sentence == "WebSocket down (60.200 s) > 1 min"
