"""Test the shipped limits against DESIGN.md, and that every problem of an invalid table is reported by name."""

from datetime import timedelta

import pytest

from opslib.alerting.verdicts import Figure, evaluate_figure
from opslib.foundation.config import rules
from opslib.foundation.errors import RulesError

NO = rules.NO_SUCCESS
# DESIGN.md, "The thresholds of limits", by hand: better, unit, objective, warning, notify, critical, escalate.
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
    # Ours: responses to our own probes, whoever's fault, and how fast the app's server grows ("judged by its slope").
    "answers": ("higher", "ratio", 0.99, 0.95, 0.90, 0.50, None),
    "app_answers": ("higher", "ratio", 0.99, 0.95, 0.80, 0.50, None),
    "app_down": ("lower", "s", 0, 10, None, 30, None),
    "memory_growth": ("lower", "MB_per_h", 20, 100, None, 500, None),
    # Conditions of our own probes that had no notification before, or one under another name.
    "our_network": ("lower", "s", 0, 0, None, 45, 600),
    "app_restarts": ("lower", "times", 0, 0, 2, 4, None),
    "app_response_time": ("lower", "s", 0.3, 0.5, None, 2.0, None),
    "clock_skew": ("lower", "s", 5, 15, 30, 300, None),
    "greeks_units": ("lower", "ratio", 0.0, 0.005, 0.02, 0.05, 0.5),
    "chain_whole": ("higher", "ratio", 1.0, 1.0, 0.95, 0.5, None),
}
# Its burn rates (reference table of the SRE workbook, the pairs that fit trading days): factor, long, short.
BURN = {"warning": (3, 24, 2), "notify": (6, 6, 0.5), "critical": (14.4, 1, 1 / 12)}


@pytest.fixture(scope="module")
def table():
    """Return the shipped table."""
    return rules.load()


@pytest.fixture
def laid_over(tmp_path):
    """Return a function that loads a table over the shipped one."""

    def load(content):
        (tmp_path / "rules.toml").write_bytes(content if isinstance(content, bytes) else content.encode())
        return rules.load(tmp_path)

    return load


def test_the_shipped_table_has_the_limits_of_the_design(table):
    """The rules have the limits of DESIGN.md, those for our own probes included; both ratios have a budget."""
    found = {
        n: (r.better, r.unit, r.objective, *(dict(r.thresholds).get(rung) for rung in rules.SEVERITIES))
        for n, r in table.rules.items()
        if not r.burn
    }
    assert found == DESIGN
    budgets = {n: r for n, r in table.rules.items() if r.burn}
    assert {n: r.burn.of for n, r in budgets.items()} == {
        "availability_burn": "availability",
        "greeks_burn": "greeks_valid",
    }
    for rule in budgets.values():
        assert {
            rung: (factor, *(w.total_seconds() / 3600 for w in rule.burn.windows[rung]))
            for rung, factor in rule.thresholds
        } == BURN


def test_the_shipped_windows_and_gates(table):
    """Rates need their Wilson interval; windows and minimum counts are those of the design."""
    assert {n for n, r in table.rules.items() if r.gate == "wilson" and not r.burn} == {
        "availability",
        "greeks_valid",
        "gamma_zero",
        "delta_out_of_bounds",
        "answers",
        "app_answers",
        "greeks_units",
    }
    for name in ("greeks_valid", "gamma_zero", "delta_out_of_bounds"):
        assert (table[name].window, table[name].min_count) == (timedelta(minutes=10), 100)
    assert (table["availability"].window, table["errors"].window, table["backtest_variance"].min_count) == (
        timedelta(minutes=10),
        timedelta(hours=1),
        5,
    )
    assert table["availability"].runbooks == {
        "massive": "massive_down",
        "tradier": "provider_availability",
        "app": "provider_availability",
    }
    assert all(r.who and r.action and r.runbooks for r in table.rules.values())


def test_a_home_without_a_table_has_the_shipped_one(table, tmp_path):
    """Without a rules.toml, or with an empty one, the shipped table applies."""
    assert rules.load(tmp_path).hash == table.hash
    (tmp_path / "rules.toml").write_text("")
    assert rules.load(tmp_path).hash == table.hash


def test_a_table_overrides_single_keys(table, laid_over):
    """One key changes, all others stay, and the hash differs."""
    own = laid_over("[errors]\nwarning = 30\n\n[pages]\nload_jitter_s = 2\n")
    assert dict(own["errors"].thresholds) == {"warning": 30, "critical": 50} and own["errors"].objective == 5
    assert own["availability"] == table["availability"] and own.hash != table.hash
    assert own.pages.load_jitter_s == 2 and own.pages.reset_gap_s == table.pages.reset_gap_s


def test_inhibiting_rules_can_be_overridden(laid_over):
    """
    A table without `inhibited_from` may name fewer inhibiting rules; a source's own list applies to that source only.
    """
    own = laid_over('[errors]\ninhibited_by = ["availability"]')
    assert own["errors"].inhibited_by == ("availability",) and own["errors"].inhibited_from["availability"] == "notify"
    assert (
        "app_answers" in own["availability"].of("page").inhibited_by
        and "app_answers" not in own["availability"].of("probe").inhibited_by
    )


MISTAKES = {
    "a rule that is none": ("[availabilty]\nwarning = 0.9", ["availabilty", "Did you mean 'availability'?"]),
    "a key that is none": ("[errors]\nwarnin = 3", ["errors", "warnin", "Did you mean 'warning'?"]),
    "no table": ("errors = 3", ["errors", "a table was expected"]),
    "no TOML": ("[errors", ["not TOML"]),
    "a text for a number": ('[errors]\nwarning = "20"', ["errors", "warning", "a number was expected"]),
    "true for a number": ("[errors]\nobjective = true", ["errors", "objective"]),
    "not a number": ("[errors]\nwarning = nan", ["errors", "warning"]),
    "no end": ("[errors]\ncritical = inf", ["errors", "critical"]),
    "a ratio above 1": ("[availability]\nobjective = 99", ["availability", "objective", "from 0 to 1"]),
    "a share above 1": ("[gamma_zero]\ncritical = 5", ["gamma_zero", "critical"]),
    "coverage above 1": ("[errors]\nmin_coverage = 80", ["errors", "min_coverage"]),
    "a negative count": ("[errors]\nmin_count = -1", ["errors", "min_count"]),
    "a better that is none": ('[errors]\nbetter = "less"', ["errors", "better", "higher or lower"]),
    "a unit that is none": ('[errors]\nunit = "furlong"', ["errors", "unit"]),
    "a gate that is none": ('[errors]\ngate = "wald"', ["errors", "gate"]),
    "green for want of data": ('[errors]\nno_data = "ok"', ["errors", "no_data", "keep or alert"]),
    "a panel that is none": ('[errors]\npanel = "weather"', ["errors", "panel"]),
    "a span that is none": ('[errors]\nwindow = "an hour"', ["errors", "window", "5m"]),
    "a number for a span": ("[errors]\nfor = 60", ["errors", "for"]),
    "an empty title": ('[errors]\ntitle = ""', ["errors", "title"]),
    "a number for a name": ("[errors]\nwho = 3", ["errors", "who"]),
    "no subject": ("[errors]\nsubjects = []", ["errors", "subjects"]),
    "a text for a list": ('[errors]\nsources = "page"', ["errors", "sources"]),
    "a runbook that is none": (
        '[errors]\nrunbook = "error_rates"',
        ["errors", "error_rates", "Did you mean 'error_rate'?"],
    ),
    "a span of some rungs": ('[errors]\nfor = { warning = "1m" }', ["errors", "for", "critical"]),
    "a burn that never fires": (
        "[availability_burn]\ncritical = 144",
        ["availability_burn", "critical", "144", "could never fire"],
    ),
    "a burn of a budget of nothing": (
        "[availability]\nobjective = 1",
        ["availability_burn", "of", "objective below 1"],
    ),
    "a burn of no rule": ('[greeks_burn]\nof = "greeks"', ["greeks_burn", "of", "greeks"]),
    "a burn of no ratio": ('[greeks_burn]\nof = "errors"', ["greeks_burn", "whose unit is a ratio"]),
    "a burn whose short window is the longer": ('[greeks_burn]\nshort = "7h"', ["greeks_burn", "short", "notify"]),
    "half a burn": ('[errors]\nof = "availability"', ["errors", "budget is missing"]),
    "inhibited by no rule": (
        '[errors]\ninhibited_by = ["availabilty"]',
        ["errors", "inhibited_by", "Did you mean 'availability'?"],
    ),
    "inhibited by each other": (
        '[availability]\ninhibited_by = ["errors"]',
        ["availability", "errors", "inhibit each other"],
    ),
    "inhibited from no severity": (
        '[errors]\ninhibited_from = { availability = "loud" }',
        ["errors", "inhibited_from", "notify"],
    ),
    "inhibited from a rule that is none": (
        '[errors]\ninhibited_from = { availabilty = "notify" }',
        ["errors", "inhibited_from", "Did you mean 'availability'?"],
    ),
    "one source inhibited by no rule": (
        '[availability]\nby_source = { page = { inhibited_by = ["app_answer"] } }',
        ["availability", "inhibited_by", "Did you mean 'app_answers'?"],
    ),
    "one source inhibited by a text": (
        '[availability]\nby_source = { page = { inhibited_by = "errors" } }',
        ["[availability.by_source.page]: inhibited_by", "a list of rules"],
    ),
    "a patience that is none": ('[errors]\nunknown_after = "soon"', ["errors", "unknown_after"]),
    "a runbook for nobody": (
        '[availability]\nrunbook = { massive = "massive_down" }',
        ["availability", "runbook", "tradier"],
    ),
    "a number for a runbook": ("[errors]\nrunbook = 3", ["errors", "runbook"]),
    "thresholds that rise": ("[availability]\nwarning = 0.94", ["availability", "thresholds", "decrease"]),
    "thresholds that fall": ("[errors]\nwarning = 60", ["errors", "thresholds", "increase"]),
    "a warning before the objective": ("[errors]\nobjective = 21", ["errors", "thresholds"]),
    "an early escalation": ("[memory]\nescalate = 99", ["memory", "thresholds"]),
    "no success where a number is wanted": ('[availability]\ncritical = "no success"', ["availability", "critical"]),
    "a page limit that is none": ("[pages]\njitter = 3", ["pages", "jitter"]),
    "a page limit of nothing": ("[pages]\nreset_gap_s = 0", ["pages", "reset_gap_s"]),
    "a page limit in words": ('[pages]\nlate_after = "soon"', ["pages", "late_after"]),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_an_invalid_table_is_rejected_with_its_place(laid_over, tmp_path, name):
    """An invalid table is rejected with its place, its rule and its key."""
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
def test_a_table_that_would_be_evaluated_wrongly_is_rejected(laid_over, name):
    """A table that is well formed but would be evaluated wrongly is rejected as well."""
    with pytest.raises(RulesError):
        laid_over(LET_IN[name])


def test_equal_thresholds_are_allowed(laid_over):
    """Two severities may have the same threshold: the higher one is reached with the lower."""
    own = laid_over("[errors]\nwarning = 50")
    assert evaluate_figure(own["errors"], "app", "page", Figure(51)).severity == "critical"
    assert evaluate_figure(own["errors"], "app", "page", Figure(50)).severity is None


def test_every_problem_is_reported_at_once(laid_over):
    """Three mistakes in three rules are three problems in one message."""
    with pytest.raises(RulesError) as caught:
        laid_over("[errors]\nwarning = 60\n\n[memory]\nunit = 3\n\n[silence]\nfor = 1\n")
    assert len(caught.value.problems) == 3 and all(
        name in str(caught.value) for name in ("[errors]", "[memory]", "[silence]")
    )


def test_a_feasible_burn_at_the_edge_is_kept(laid_over):
    """A factor that needs 99 % of failures can still fire; one that needs all of them cannot."""
    assert dict(laid_over("[availability_burn]\ncritical = 99").rules["availability_burn"].thresholds)["critical"] == 99
    with pytest.raises(RulesError):
        laid_over("[availability_burn]\ncritical = 100")


def test_a_span_for_each_severity(laid_over):
    """`for` may be one span or one per severity, and a severity's evaluation looks back as far as its window."""
    own = laid_over('[errors]\nfor = { warning = "10m", critical = "0s" }')
    assert own["errors"].holds == {"warning": timedelta(minutes=10), "critical": timedelta(0)}
    assert (own["errors"].lookback("critical"), own["availability_burn"].lookback("notify")) == (
        timedelta(hours=1),
        timedelta(hours=6),
    )


@pytest.mark.parametrize(("value", "shown"), [(0.0, "0 intervals"), (1.0, "1 interval"), (3.0, "3 intervals")])
def test_one_interval_is_singular(value: float, shown: str) -> None:
    """The unit of missed heartbeats agrees with the number."""
    assert rules.load()["heartbeat"].format_value(value) == shown
