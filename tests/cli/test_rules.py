"""Alert rules are checked, tested in promtool's format, exported to Prometheus and backtested."""

import argparse
import json
import random
import subprocess
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from opslib.alerting import backtest, prometheus_rules, rule_tests
from opslib.alerting.backtest import KnownIncident
from opslib.alerting.history import SeverityChange
from opslib.cli.commands import rules
from opslib.cli.main import main
from opslib.foundation import clock, time_parsing
from opslib.foundation.config import rules as config_rules
from opslib.foundation.config import settings
from opslib.foundation.errors import RulesError, UsageError
from opslib.telemetry.pages.store import SnapshotStore
from tests.support import days
from tests.support.snapshots import us
from tests.support.system import needs


@pytest.fixture(scope="module")
def table():
    """The shipped rules."""
    return config_rules.load()


PROMETHEUS = """
groups:
- name: g
  rules:
  - alert: Hot
    expr: heat{room="a"} > 10
    for: 1m
    keep_firing_for: 30s
    labels: {severity: critical, team: x}
    annotations: {said: "{{ $labels.room }} is {{ $value }}"}
"""
TEST = """
rule_files: [rules.yml]
evaluation_interval: 15s
tests:
- interval: 15s
  input_series:
  - {series: 'heat{room="a"}', values: '5x3 11+1x7 5x6'}
  - {series: 'heat{room="b"}', values: '50x16'}
  alert_rule_test:
  - {eval_time: 1m, alertname: Hot}
  - {eval_time: 1m45s, alertname: Hot}
  - eval_time: 2m
    alertname: Hot
    exp_alerts: [{exp_labels: {room: a, severity: critical, team: x}, exp_annotations: {said: a is 15}}]
  - eval_time: 2m45s
    alertname: Hot
    exp_alerts: [{exp_labels: {room: a, severity: critical, team: x}, exp_annotations: {said: a is 18}}]
  - eval_time: 3m30s
    alertname: Hot
"""


@pytest.fixture
def written(tmp_path):
    """Return a function that writes a test and its rules file, and returns the path of the test."""

    def write(test, prometheus=PROMETHEUS):
        (tmp_path / "rules.yml").write_text(prometheus)
        (tmp_path / "test.yml").write_text(test)
        return tmp_path / "test.yml"

    return write


def test_promtool_tests_give_the_same_result(written, table):
    """
    A test of a rule with `for` and `keep_firing_for` passes under both tools; with a wrong time or label it fails under
    both.
    """
    promtool = needs("promtool")

    def run(path):
        return subprocess.run(
            [promtool, "test", "rules", str(path)], capture_output=True, text=True, cwd=path.parent
        ).returncode

    path = written(TEST.replace("exp_annotations: {said: a is 18}", "exp_annotations: {said: a is 18}"))
    tried = rule_tests.run(path, table)
    assert (tried.count, tried.failures, run(path)) == (5, [], 0)
    for wrong in (
        TEST.replace("eval_time: 2m\n", "eval_time: 1m30s\n"),
        TEST.replace("eval_time: 3m30s", "eval_time: 3m"),
        TEST.replace("team: x}, exp", "team: y}, exp"),
    ):
        path = written(wrong)
        assert rule_tests.run(path, table).failures and run(path) == 1


@pytest.mark.parametrize("compare", ["<", ">", "<=", ">=", "==", "!="])
def test_every_comparison_agrees_with_promtool(written, table, compare):
    """
    A series that reaches its limit exactly fires at the same times under both tools, for each comparison operator and
    with an interval of the group.
    """
    promtool = needs("promtool")
    rules_file = (
        PROMETHEUS.replace('heat{room="a"} > 10', f'heat{{room="a"}} {compare} 10')
        .replace("- name: g", "- name: g\n  interval: 30s")
        .replace("for: 1m", "for: 30s")
        .replace("    keep_firing_for: 30s\n", "")
    )
    values = "5 5 10 10 10 10 15 15 15 15 10 10 5 5 5 5 5 5 5 5 5"
    asked = "".join(f"  - {{eval_time: {15 * i}s, alertname: Hot}}\n" for i in range(21))
    head = TEST.split("  alert_rule_test:")[0].replace("5x3 11+1x7 5x6", values)
    failures = rule_tests.run(written(head + "  alert_rule_test:\n" + asked, rules_file), table).failures
    fires = {int(f.split(" at ")[1].split("s:")[0]) for f in failures}
    said = "".join(
        f"  - {{eval_time: {15 * i}s, alertname: Hot, exp_alerts: [{{exp_labels: {{room: a, severity: "
        f"critical, team: x}}, exp_annotations: {{said: 'a is {values.split()[i // 2 * 2]}'}}}}]}}\n"
        if 15 * i in fires
        else f"  - {{eval_time: {15 * i}s, alertname: Hot}}\n"
        for i in range(21)
    )
    path = written(head + "  alert_rule_test:\n" + said, rules_file)
    theirs = subprocess.run([promtool, "test", "rules", str(path)], capture_output=True, text=True, cwd=path.parent)
    assert fires and rule_tests.run(path, table).failures == [] and theirs.returncode == 0, (
        theirs.stdout + theirs.stderr
    )


def test_an_eval_time_after_the_last_input_is_an_error(written, table):
    """promtool answers from its lookback here; we reject the test and name both times."""
    path = written(TEST.replace("eval_time: 3m30s", "eval_time: 6m"))
    with pytest.raises(RulesError, match="tested at 6 min, after its last input at 4 min 30 s"):
        rule_tests.run(path, table)


def test_every_tick_is_evaluated(written, table):
    """A dip between two eval times also restarts `for`."""
    path = written(TEST.replace("5x3 11+1x7 5x6", "11x2 5 11x12").split("  - eval_time: 2m\n")[0])
    assert rule_tests.run(path, table).failures == []
    path = written(TEST.replace("5x3 11+1x7 5x6", "11x15").split("  - eval_time: 2m\n")[0])
    assert (
        rule_tests.run(path, table).failures[0]
        == f"{path}, test 1: Hot at 1m: expected nothing; found {{'room': 'a', 'severity': 'critical', 'team': 'x'}}"
    )


OUR_TEST = """
evaluation_interval: 5s
tests:
- name: an outage
  interval: 5s
  input_series:
  - {series: 'availability{subject="massive"}', values: '1x11 0.9x30 _x40 1x40'}
  alert_rule_test:
  - {eval_time: 1m, alertname: availability}
  - eval_time: 2m
    alertname: availability
    exp_alerts: [{exp_labels: {subject: massive, source: page, severity: critical}, exp_annotations: {runbook: \
massive_down}}]
  - eval_time: 6m50s
    alertname: availability
    exp_alerts: [{exp_labels: {subject: massive, source: page, severity: critical}}]
  - {eval_time: 10m, alertname: availability}
"""


def test_our_own_rules_can_be_tested(tmp_path, table):
    """
    A series with the name of a rule tests the rules in effect: missing samples do not resolve an alert. An overriding
    rules file is tested as such.
    """
    (tmp_path / "test.yml").write_text(OUR_TEST)
    tried = rule_tests.run(tmp_path / "test.yml", table)
    assert (tried.count, tried.failures) == (4, [])
    (tmp_path / "own.toml").write_text("[availability]\ncritical = 0.85\nescalate = 0.80\n")
    (tmp_path / "test.yml").write_text("rule_files: [own.toml]\n" + OUR_TEST)
    assert len(rule_tests.run(tmp_path / "test.yml", table).failures) == 2


NOT_UNDERSTOOD = {
    "no YAML": ("tests: [", "cannot be read as YAML"),
    "an unknown key": (TEST.replace("interval: 15s\n  input", "intervall: 15s\n  input"), "Did you mean 'interval'?"),
    "an alert that is none": (TEST.replace("alertname: Hot}", "alertname: Hott}", 1), "Did you mean 'Hot'?"),
    "PromQL tests": (TEST + "  promql_expr_test: []\n", "promql_expr_test is not a valid key"),
    "values that are none": (TEST.replace("5x3 11", "5y3 11"), "5y3"),
    "labels that are none": (TEST.replace('room="b"', 'room=~"b"'), "other matchers are not supported"),
    "a span that is none": (TEST.replace("eval_time: 1m,", "eval_time: soon,"), "soon"),
}


@pytest.mark.parametrize("name", NOT_UNDERSTOOD)
def test_an_invalid_test_file_is_rejected(written, table, name):
    """A test file that could only be evaluated by guessing is rejected, with the place of the error."""
    content, words = NOT_UNDERSTOOD[name]
    with pytest.raises(RulesError) as caught:
        rule_tests.run(written(content), table)
    assert words in str(caught.value) and ".yml" in str(caught.value)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ("rate(heat[5m]) > 10", "Only a series compared"),
        ("heat > on() other", "Only a series compared"),
        ("heat > bool 10", "Only a series compared"),
    ],
)
def test_an_unsupported_expression_is_rejected(written, table, wrong, words):
    """Only the comparison of a series with a number is supported; every other expression is rejected."""
    with pytest.raises(RulesError, match=words):
        rule_tests.run(written(TEST, PROMETHEUS.replace('heat{room="a"} > 10', wrong)), table)


def test_the_export_passes_promtool_and_our_own_test(tmp_path, table):
    """The exported rules pass `promtool check rules`, and one test of a dead provider passes under both tools."""
    promtool = needs("promtool")
    (tmp_path / "rules.yml").write_text(prometheus_rules.prometheus_rules(table))
    assert (
        subprocess.run(
            [promtool, "check", "rules", "--lint=all", "--lint-fatal", "rules.yml"], cwd=tmp_path, capture_output=True
        ).returncode
        == 0
    )
    series = 'trading_rule_bound{rule="availability",source="page",subject="massive"}'
    labels = "{rule: availability, runbook: massive_down, severity: critical, source: page, subject: massive}"
    said = (
        f"{{action: '{table['availability'].action.replace(chr(39), chr(39) * 2)}', summary: 'availability "
        f"of massive < 95.0 %'}}"
    )
    (tmp_path / "test.yml").write_text(f"""
rule_files: [rules.yml]
evaluation_interval: 15s
tests:
- interval: 15s
  input_series: [{{series: '{series}', values: '0.999x8 0.4x12 0.999x20'}}]
  alert_rule_test:
  - {{eval_time: 2m30s, alertname: availability_critical}}
  - {{eval_time: 2m45s, alertname: availability_critical, exp_alerts: [{{exp_labels: {labels}, exp_annotations: {said}\
}}]}}
  - {{eval_time: 7m15s, alertname: availability_critical, exp_alerts: [{{exp_labels: {labels}, exp_annotations: {said}\
}}]}}
  - {{eval_time: 7m30s, alertname: availability_critical}}
""")
    assert subprocess.run([promtool, "test", "rules", "test.yml"], cwd=tmp_path, capture_output=True).returncode == 0
    assert rule_tests.run(tmp_path / "test.yml", table).failures == []


def test_every_severity_is_exported_or_listed_as_not_exported(table):
    """
    Each rule with the source page has an alert for each severity and subject; burn-rate rules are listed as evaluated
    only by opslib.
    """
    import yaml

    text = prometheus_rules.prometheus_rules(table)
    rows = yaml.safe_load(text)["groups"][0]["rules"]
    wanted = (
        sum(
            len(r.thresholds) * len([s for s in r.subjects if (r.name, s) != ("availability", "app")])
            for r in table.rules.values()
            if not r.burn and "page" in r.sources
        )
        + 1
    )
    assert len(rows) == wanted and len({(r["alert"], r["labels"]["subject"]) for r in rows}) == wanted
    assert "Evaluated only by opslib: availability_burn, greeks_burn." in text.splitlines()[0] and table.hash in text


def asked(desk, **options):
    """Return what `ops rules` answers."""
    defaults = {
        "what": "show",
        "argument": None,
        "start": None,
        "end": None,
        "troubles": None,
        "candidate": None,
        "days": 0,
        "seed": None,
    }
    return rules.run(desk, argparse.Namespace(**defaults | options), lambda items, total, words, unit: items)


def test_check_lists_the_differences_from_the_shipped_rules(home, capsys):
    """
    `ops rules check` exits 0 and lists what differs from the shipped rules; invalid rules exit 70 and every problem is
    named.
    """
    assert main(["rules", "check"]) == 0 and "Nothing differs" in capsys.readouterr().out
    home.mkdir(exist_ok=True)
    (home / "rules.toml").write_text("[errors]\nwarning = 30\n")
    assert main(["rules", "check"]) == 0 and "errors: thresholds is (('warning', 30)" in capsys.readouterr().out
    (home / "rules.toml").write_text("[errors]\nwarning = 60\n\n[availability_burn]\ncritical = 200\n")
    assert main(["rules", "check"]) == 70
    err = capsys.readouterr().err
    assert all(words in err for words in ("rules.toml, [errors]:", "rules.toml, [availability_burn]:"))
    assert (
        main(["rules", "test"]) == 64
        and main(["rules", "export", "grafana"]) == 64
        and main(["rules", "show", "x"]) == 64
    )


def test_exit_codes_of_test_and_export(home, tmp_path, capsys):
    """`ops rules test` exits 0 or 70 and prints its counts as JSON; `export` prints rules."""
    (tmp_path / "good.yml").write_text(OUR_TEST)
    (tmp_path / "bad.yml").write_text(OUR_TEST.replace("severity: critical", "severity: warning"))
    assert main(["rules", "test", str(tmp_path / "good.yml"), "-o", "json"]) == 0 and json.loads(
        capsys.readouterr().out
    ) == {"expectations": 4, "failures": []}
    assert (
        main(["rules", "test", str(tmp_path / "bad.yml")]) == 70
        and "2 of 4 expectations met" in capsys.readouterr().out
    )
    assert main(["rules", "export", "prometheus"]) == 0 and capsys.readouterr().out.startswith("# Rules ")


@pytest.fixture(scope="module")
def history(tmp_path_factory):
    """A desk with one scripted day, and the file of its known incidents."""
    from opslib.desk import Desk

    folder = tmp_path_factory.mktemp("history")
    desk = Desk(settings.Settings(home=folder, app="desk"), lambda: time_parsing.parse(f"{days.DAY}T16:00"))
    SnapshotStore(desk.store).write("desk", days.posts(seed=5), known_at_ts=True)
    rule = {
        "gamma_burst": ("gamma_zero", "app"),
        "massive_outage": ("availability", "massive"),
        "websocket_loss": ("websocket_down", "app"),
        "costs_rise": ("backtest_variance", "app"),
    }
    troubles = [
        {"rule": rule[t.name][0], "subject": rule[t.name][1], "from": t.begins.isoformat(), "to": t.ends.isoformat()}
        for t in days.scripted(seed=5).faults
        if t.name in rule
    ]
    (folder / "troubles.json").write_text(json.dumps(troubles))
    return desk, folder / "troubles.json"


def test_the_backtest_is_scored_against_known_incidents(history):
    """
    The rules detect every known incident of a scripted day without a false notification; less sensitive candidate rules
    detect fewer.
    """
    desk, labels = history
    deaf = Path(desk.settings.home) / "deaf.toml"
    deaf.write_text("[gamma_zero]\nnotify = 0.6\ncritical = 0.7\n\n[websocket_down]\ncritical = 500\n")
    found = asked(
        desk, what="backtest", start=f"{days.DAY}T09:30", end=f"{days.DAY}T16:00", troubles=labels, candidate=deaf
    ).values["history"]
    ours, theirs = found["in effect"], found["candidate"]
    assert (
        ours["found"]["unsized"] == [4, 4] and ours["false"] == 0 and ours["precision"] == 1 and ours["sessions"] == 1
    )
    # Variance rises slowly; the other faults are sudden.
    assert theirs["found"]["unsized"] == [4, 2] and len(ours["lead_s"]) == 4 and sorted(ours["lead_s"])[2] < 300


def test_without_known_incidents_nothing_is_counted_as_false(history):
    """Without known incidents, no notification counts as false, and the answer says so."""
    desk, _ = history
    answer = asked(desk, what="backtest", start=f"{days.DAY}T09:30", end=f"{days.DAY}T16:00")
    assert (
        "no known incidents were given" in answer.words
        and answer.values["history"]["in effect"]["false"] == 0
        and answer.values["labelled"] is False
    )


def test_a_backtest_without_data_is_rejected(history):
    """A backtest of days without stored snapshots is rejected."""
    desk, _ = history
    with pytest.raises(UsageError, match="no snapshot of desk"):
        asked(desk, what="backtest", start="2026-02-02T09:30", end="2026-02-02T16:00")


@pytest.mark.slow
def test_resampled_days_detect_large_incidents(history):
    """
    On six days resampled from the background, incidents of five times the limit are detected and at most one
    notification is false; the same seed gives the same result.
    """
    desk, labels = history
    seed = random.SystemRandom().randrange(10**6)
    print(f"seed {seed}")

    def ask():
        return asked(
            desk,
            what="backtest",
            start=f"{days.DAY}T09:30",
            end=f"{days.DAY}T16:00",
            troubles=labels,
            days=6,
            seed=seed,
        ).values["resampled"]["in effect"]

    found = ask()
    assert (
        found["sessions"] == 6
        and found["false"] <= 1
        and sum(n for key, (n, _) in found["found"].items() if key.endswith("×"))
        == sum(n for key, (n, _) in found["found"].items() if key.endswith("min"))
    )
    assert ask() == found


def test_an_injected_incident_has_the_given_size(history, table):
    """An injected incident of five times two percent makes one request in ten fail while it lasts, and none before."""
    desk, labels = history
    window = clock.Window(time_parsing.parse(f"{days.DAY}T09:30"), time_parsing.parse(f"{days.DAY}T16:00"))
    back = backtest.extract_background(
        desk.store, desk.settings, table, window, backtest.read_known_incidents(labels, table)
    )
    trouble = KnownIncident("availability", "massive", us(3600), us(3600 + 2400), 5.0)
    snapshots = list(backtest._snapshots(random.Random(3), table, back, [trouble]))

    def at(seconds):
        return next(k for k in snapshots if k.ts_us == us(seconds))

    def rate(a, b):
        return (at(b).massive_failures - at(a).massive_failures) / (at(b).massive_requests - at(a).massive_requests)

    assert rate(0, 3600) < 0.01 and rate(3600, 6000) == pytest.approx(0.1, abs=0.025)
    assert all(k.massive_requests == k.massive_successes + k.massive_failures for k in snapshots)


def rise(rule, severity, seconds, subject="app", inhibited_by=None):
    """A severity change, in seconds after the open."""
    return SeverityChange(
        "a",
        rule,
        subject,
        "page",
        severity,
        "resolved",
        us(seconds - 60),
        us(seconds),
        us(seconds + 600),
        1.0,
        1.0,
        inhibited_by,
        "",
        "",
    )


def test_notifications_are_right_beside_or_false(table):
    """
    A notification is right if its rule has a known incident in its window, "beside" if only another rule has one,
    otherwise false. Warnings and inhibited alerts do not count.
    """
    trouble = KnownIncident("gamma_zero", "app", us(1000), us(1600), 2.0)
    pages = [
        rise("gamma_zero", "notify", 1100),
        rise("gamma_zero", "notify", 1500),
        rise("greeks_valid", "critical", 1200),
        rise("errors", "critical", 9000),
        rise("errors", "warning", 9500),
        rise("errors", "critical", 9500, inhibited_by="x"),
    ]
    score = backtest.score(pages, [trouble], table, 1)
    assert (score.right, score.beside, score.false, score.flaps, score.lead_s) == (2, 1, 1, 1, [100.0])
    assert score.found == {"2×": [1, 1], "up to 15 min": [1, 1]} and score.false_notifications[0].startswith(
        "errors app critical"
    )
    late = us(1600) + clock.span_us(table["gamma_zero"].window + table["gamma_zero"].keep_firing_for)
    assert backtest.score([replace(pages[0], fired_us=late + 5_000_000)], [trouble], table, 1).false == 1


@pytest.mark.parametrize(
    "content",
    [
        "{}",
        "[1]",
        '[{"rule": "errors"}]',
        "no",
        '[{"rule": "erors", "from": "2026-03-10T10:00", "to": "2026-03-10T11:00"}]',
    ],
)
def test_an_invalid_file_of_known_incidents_is_rejected(tmp_path, table, content):
    """An invalid file of known incidents is rejected."""
    (tmp_path / "t.json").write_text(content)
    with pytest.raises(UsageError, match="t.json"):
        backtest.read_known_incidents(tmp_path / "t.json", table)


def test_the_windows_used_here_are_the_shipped_ones(table):
    """The window that these tests assume is the shipped one."""
    assert table["gamma_zero"].window == timedelta(minutes=10)
