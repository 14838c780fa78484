"""The limits are DESIGN.md's ladder, a table that cannot be judged by is refused by name, and figures amount to what the ladder says."""

import math
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from opslib import rules
from opslib.errors import RulesError
from opslib.rules import Figure, judge, wilson, worst

NO = rules.NO_SUCCESS
# DESIGN.md, "The ladder of limits", by hand: better, unit, objective, warning, notify, critical, escalate.
DESIGN = {
    "availability": ("higher", "ratio", 0.99, 0.99, 0.98, 0.95, NO),
    "response_time": ("lower", "s", 0.300, 0.500, None, 2.0, None),
    "greeks_valid": ("higher", "ratio", 0.95, 0.90, None, 0.75, 0.50),
    "gamma_zero": ("lower", "ratio", 0, 0.005, 0.02, 0.05, None),
    "errors": ("lower", "per_hour", 5, 20, None, 50, None),
    "websocket_latency": ("lower", "s", 0.100, 0.500, None, 2.0, None),
    "websocket_down": ("lower", "s", 0, 0, None, 60, 600),
    "backtest_variance": ("lower", "pp", 5, 5, 10, 15, 20),
    "memory": ("lower", "MB", 50, 50, None, 100, 100),
    "delta_out_of_bounds": ("lower", "ratio", 0, 0.005, 0.02, 0.05, None),
    "silence": ("lower", "s", 0, 60, None, 180, 600),
    "dashboard_lag": ("lower", "s", 5, 15, None, 60, None),
    "heartbeat": ("lower", "intervals", 0, 1, None, 3, None),
}


@pytest.fixture(scope="module")
def table():
    """The shipped table."""
    return rules.load()


@pytest.fixture
def laid_over(tmp_path):
    """A way to lay a table of one's own over the shipped one."""

    def load(content):
        (tmp_path / "rules.toml").write_bytes(content if isinstance(content, bytes) else content.encode())
        return rules.load(tmp_path)

    return load


def test_the_shipped_table_is_the_design(table):
    """Every rule of DESIGN.md is there with its limits, and no other."""
    found = {n: (r.better, r.unit, r.objective, *(dict(r.ladder).get(rung) for rung in rules.RUNGS)) for n, r in table.rules.items()}
    assert found == DESIGN


def test_the_shipped_windows_and_gates(table):
    """Rates wait for their Wilson interval: five minutes for availability, ten and a hundred for Greeks, an hour for errors."""
    assert {n for n, r in table.rules.items() if r.gate == "wilson"} == {"availability", "greeks_valid", "gamma_zero", "delta_out_of_bounds"}
    for name in ("greeks_valid", "gamma_zero", "delta_out_of_bounds"):
        assert (table[name].window, table[name].min_count) == (timedelta(minutes=10), 100)
    assert (table["availability"].window, table["errors"].window, table["backtest_variance"].min_count) == (timedelta(minutes=10), timedelta(hours=1), 5)
    assert table["availability"].runbooks == {"massive": "massive_down", "tradier": "provider_availability"}
    assert all(r.who and r.action and r.runbooks for r in table.rules.values())


def test_a_home_without_a_table_has_the_shipped_one(table, tmp_path):
    """No table of one's own changes nothing, nor does an empty one."""
    assert rules.load(tmp_path).hash == table.hash
    (tmp_path / "rules.toml").write_text("")
    assert rules.load(tmp_path).hash == table.hash


def test_a_table_lies_over_key_by_key(table, laid_over):
    """One key changes, all others stay, and the hash says that it is another table."""
    own = laid_over("[errors]\nwarning = 30\n\n[pages]\nload_jitter_s = 2\n")
    assert dict(own["errors"].ladder) == {"warning": 30, "critical": 50} and own["errors"].objective == 5
    assert own["availability"] == table["availability"] and own.hash != table.hash
    assert own.pages.load_jitter_s == 2 and own.pages.reset_gap_s == table.pages.reset_gap_s


MISTAKES = {
    "a rule that is none": ("[availabilty]\nwarning = 0.9", ["availabilty", "Did you mean 'availability'?"]),
    "a key that is none": ("[errors]\nwarnin = 3", ["errors", "warnin", "Did you mean 'warning'?"]),
    "no table": ("errors = 3", ["errors", "a table [errors] was wanted"]),
    "no TOML": ("[errors", ["not TOML"]),
    "a text for a number": ('[errors]\nwarning = "20"', ["errors", "warning", "a number was wanted"]),
    "true for a number": ("[errors]\nobjective = true", ["errors", "objective"]),
    "not a number": ("[errors]\nwarning = nan", ["errors", "warning"]),
    "no end": ("[errors]\ncritical = inf", ["errors", "critical"]),
    "a ratio above 1": ("[availability]\nobjective = 99", ["availability", "objective", "from 0 to 1"]),
    "a share above 1": ("[gamma_zero]\ncritical = 5", ["gamma_zero", "critical"]),
    "coverage above 1": ("[errors]\nmin_coverage = 80", ["errors", "min_coverage"]),
    "a negative count": ("[errors]\nmin_count = -1", ["errors", "min_count"]),
    "a better that is none": ('[errors]\nbetter = "less"', ["errors", "better", "higher, lower"]),
    "a unit that is none": ('[errors]\nunit = "furlong"', ["errors", "unit"]),
    "a gate that is none": ('[errors]\ngate = "wald"', ["errors", "gate"]),
    "green for want of data": ('[errors]\nno_data = "ok"', ["errors", "no_data", "keep, alert"]),
    "a panel that is none": ('[errors]\npanel = "weather"', ["errors", "panel"]),
    "a span that is none": ('[errors]\nwindow = "an hour"', ["errors", "window", "5m"]),
    "a number for a span": ("[errors]\nfor = 60", ["errors", "for"]),
    "an empty title": ('[errors]\ntitle = ""', ["errors", "title"]),
    "a number for a name": ("[errors]\nwho = 3", ["errors", "who"]),
    "no subject": ("[errors]\nsubjects = []", ["errors", "subjects"]),
    "a text for a list": ('[errors]\nsources = "page"', ["errors", "sources"]),
    "a runbook for nobody": ('[availability]\nrunbook = { massive = "massive_down" }', ["availability", "runbook", "tradier"]),
    "a number for a runbook": ("[errors]\nrunbook = 3", ["errors", "runbook"]),
    "a ladder that rises": ("[availability]\nwarning = 0.94", ["availability", "ladder", "down"]),
    "a ladder that falls": ("[errors]\nwarning = 60", ["errors", "ladder", "up"]),
    "a warning before the objective": ("[errors]\nobjective = 21", ["errors", "ladder"]),
    "an early escalation": ("[memory]\nescalate = 99", ["memory", "ladder"]),
    "no success where a number is wanted": ('[availability]\ncritical = "no success"', ["availability", "critical"]),
    "a page limit that is none": ("[pages]\njitter = 3", ["pages", "jitter"]),
    "a page limit of nothing": ("[pages]\nreset_gap_s = 0", ["pages", "reset_gap_s"]),
    "a page limit in words": ('[pages]\nlate_after = "soon"', ["pages", "late_after"]),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_refused_by_name(laid_over, tmp_path, name):
    """A table that cannot be judged by is refused, with its place, its rule and its key."""
    content, words = MISTAKES[name]
    with pytest.raises(RulesError) as caught:
        laid_over(content)
    for word in (str(tmp_path / "rules.toml"), *words):
        assert word in str(caught.value)


LET_IN = {
    "R1 no success where lower is better, so that a perfect figure escalates": '[gamma_zero]\nescalate = "no success"',
    "R2 a window of no length": '[errors]\nwindow = "0s"',
    "R3 a subject that nothing measures": '[availability]\nsubjects = ["masive", "tradier"]\nrunbook = "massive_down"',
    "R4 a source that is none": '[errors]\nsources = ["pgae"]',
    "R5 a table that is no UTF-8": b'[errors]\ntitle = "\xe9"',
    "R6 an integer beyond every float": "[errors]\ncritical = " + "9" * 400,
    "R7 a page limit without end": "[pages]\nload_jitter_s = inf",
    "R8 an end of alert beyond its beginning": "[errors]\nclear = 40",
    "R9 a subject twice": '[availability]\nsubjects = ["massive", "massive"]\nrunbook = "massive_down"',
}


@pytest.mark.parametrize("name", LET_IN)
def test_a_subtler_mistake_is_refused_too(laid_over, name):
    """A table that would be judged by wrongly is refused as well."""
    with pytest.raises(RulesError):
        laid_over(LET_IN[name])


def test_equal_rungs_are_allowed(laid_over):
    """Two rungs on one limit are no mistake: the higher one is reached with the lower."""
    own = laid_over("[errors]\nwarning = 50")
    assert judge(own["errors"], "app", "page", Figure(51)).severity == "critical"
    assert judge(own["errors"], "app", "page", Figure(50)).severity is None


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
    """Known intervals come out to six places."""
    assert wilson(part, count) == (pytest.approx(low, abs=1e-6), pytest.approx(high, abs=1e-6))


@hypothesis_settings(max_examples=200, deadline=None)
@given(st.integers(1, 10**7), st.data())
def test_wilson_holds_the_point_and_shrinks(count, data):
    """The interval lies in 0 to 1, holds the point, mirrors, and narrows with ten times the samples."""
    part = data.draw(st.integers(0, count))
    low, high = wilson(part, count)
    assert 0 <= low <= part / count + 1e-12 and part / count - 1e-12 <= high <= 1
    assert wilson(count - part, count) == (pytest.approx(1 - high, abs=1e-12), pytest.approx(1 - low, abs=1e-12))
    again = wilson(10 * part, 10 * count)
    assert again[1] - again[0] < high - low


@hypothesis_settings(max_examples=200, deadline=None)
@given(st.integers(1, 500), st.data())
def test_wilson_solves_its_own_equation(count, data):
    """An inner end of the interval is the rate from which the point lies 1.96 standard errors away."""
    part = data.draw(st.integers(0, count))
    for end in wilson(part, count):
        if 1e-9 < end < 1 - 1e-9:
            assert abs(part / count - end) == pytest.approx(rules.Z_95 * math.sqrt(end * (1 - end) / count), rel=1e-6)


def test_more_parts_than_samples_break_nothing():
    """A page that counts more gamma errors than validations is judged or unknown, not a crash."""
    judge(rules.load()["gamma_zero"], "app", "page", Figure(1.5, 300, 200, 1.0))


def rate(part, count, coverage=1.0):
    """A rate as it is measured."""
    return Figure(part / count, part, count, coverage)


JUDGED = [
    # rule, subject, figure, verdict, severity, limit
    ("availability", "massive", rate(1000, 1000), "ok", None, 0.99),
    ("availability", "massive", rate(29, 30), "ok", None, 0.99),  # High end 0.9941: one of thirty is chance.
    ("availability", "massive", rate(970, 1000), "warning", "notify", 0.98),  # High end 0.9789.
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
def test_a_figure_amounts_to_its_rung(table, name, subject, figure, verdict, severity, limit):
    """The highest rung that is passed gives verdict, severity and limit; on the limit is not past it."""
    found = judge(table[name], subject, "page", figure)
    assert (found.verdict, found.severity, found.limit) == (verdict, severity, limit)


@pytest.mark.parametrize(
    ("absent", "counted"), [("not measured", False), ("not expected", False), ("too few", False), ("no look came", True), ("nothing counted", True), ("", True)]
)
def test_what_is_unknown_is_never_ok(table, absent, counted):
    """Without a value the verdict is unknown; only what nothing measures or nobody expects is not counted."""
    found = judge(table["errors"], "app", "page", Figure(None, coverage=1.0, absent=absent))
    assert (found.verdict, found.severity, found.counted) == ("unknown", None, counted)


SENTENCES = [
    ("availability", "massive", rate(900, 1000), "availability of massive (90.00 %) < 95.0 %"),
    ("availability", "massive", rate(0, 50), "availability of massive (0.00 %) = 0, not one success"),
    ("availability", "tradier", rate(1000, 1000), "availability of tradier (100.00 %) ≥ 99.0 %"),
    ("availability", "massive", rate(5, 9), "availability of massive: too few to judge (9 of 20 needed)"),
    ("errors", "app", Figure(51.0, coverage=1.0), "errors (51 per h) > 50 per h"),
    ("errors", "app", Figure(6.0, coverage=1.0), "errors (6 per h) ≤ 20 per h, below objective 5 per h"),
    ("errors", "app", Figure(None, coverage=0.0, absent="no look came"), "errors: no look came"),
    ("errors", "app", Figure(9.0, coverage=0.5), "errors: only 50 % of the looks came (≥ 80 % needed)"),
    ("backtest_variance", "app", Figure(12.34, count=7), "backtest variance (12.34 points) > 10 points"),
]


@pytest.mark.parametrize(("name", "subject", "figure", "sentence"), SENTENCES)
def test_a_sentence_says_value_and_limit(table, name, subject, figure, sentence):
    """Name, measured value, comparison and limit stand in one sentence."""
    assert judge(table[name], subject, "page", figure).sentence == sentence


def test_what_could_be_chance_says_so(table):
    """A rate past its limit whose interval is not says of how many it is, and between what it lies."""
    found = judge(table["availability"], "massive", "page", rate(29, 30)).sentence
    assert found == "availability of massive (96.67 %) < 99.0 %, but of 30 it could be chance (83.33 % to 99.41 %)"


@hypothesis_settings(max_examples=200, deadline=None)
@given(st.sampled_from(sorted(DESIGN)), st.floats(0, 1000), st.floats(0, 1000), st.integers(100, 10_000))
def test_worse_never_amounts_to_less(name, a, b, count):
    """Of two figures of one rule the worse one reaches no lower rung."""
    rule = rules.load()[name]

    def rung(value):
        if rule.unit == "ratio":
            part = round(value / 1000 * count)
            figure = rate(part, count)
        else:
            figure = Figure(value, count=count)
        return rules.RUNGS.index(found) if (found := judge(rule, rule.subjects[0], "page", figure).severity) else -1

    good, bad = (max(a, b), min(a, b)) if rule.better == "higher" else (min(a, b), max(a, b))
    assert rung(bad) >= rung(good)


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [(["ok"], "ok"), (["ok", "warning"], "warning"), (["warning", "unknown", "ok"], "unknown"), (["unknown", "critical"], "critical"), ([], "unknown")],
)
def test_verdicts_add_up(verdicts, expected):
    """Critical before unknown before warning before ok; of nothing, nothing is known."""
    assert worst(verdicts) == expected and worst(reversed(verdicts)) == expected
