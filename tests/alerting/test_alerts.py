"""
Alerts behave like Prometheus alerts, checked with its compliance cases, promtool and general laws; differences are
deliberate.
"""

import json
import math
import random
import re
import subprocess
from collections import Counter
from dataclasses import replace
from datetime import timedelta
from typing import NamedTuple

import pytest
from hypothesis import example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from opslib.alerting.alerts import Alert, Alerts
from opslib.alerting.verdicts import BudgetBurn, Figure, evaluate_figure
from opslib.foundation.config import rules
from tests.support.system import needs

T0 = 1_763_476_200_000_000  # 2025-11-18 14:30 UTC.
STALE = "stale"  # A marker by which Prometheus knows at once that a series has ended; for us it is a missing sample.


def made_up(limit, hold_s=0, keep_s=0, name="made_up", better="lower"):
    """Return a rule with one threshold, critical, evaluated by the value itself."""
    return rules.Rule(
        name=name,
        title=name,
        unit="s",
        better=better,
        objective=limit,
        thresholds=(("critical", limit),),
        clear={},
        confidence=0.95,
        gate="value",
        window=timedelta(minutes=1),
        holds={"critical": timedelta(seconds=hold_s)},
        keep_firing_for=timedelta(seconds=keep_s),
        unknown_after=timedelta(minutes=5),
        min_count=0,
        min_coverage=0,
        no_data="keep",
        subjects=("app", "massive", "tradier"),
        sources=("page",),
        panel="system",
        runbooks={},
        who="",
        action="",
        traders="",
    )


def machine(*made, standing=()):
    """Return a state machine over a table of made-up rules."""
    return Alerts(replace(rules.load(), rules={rule.name: rule for rule in made}, hash="made up"), standing)


def figure(value):
    """Return a figure of one sample; None and stale mean that no sample came."""
    return Figure(None, absent="no snapshot received") if value in (None, STALE) else Figure(value)


class Tick(NamedTuple):
    """The input of one evaluation: the time, and the newest sample since the evaluation before."""

    at_us: int
    value: float | str | None


def ticks(values, sample_s, every_s):
    """Yield every evaluation of a series."""
    for at_s in range(0, len(values) * sample_s, every_s):
        since = [values[i] for i in range(max(0, (at_s - every_s) // sample_s + 1), at_s // sample_s + 1)]
        yield Tick(T0 + at_s * 1_000_000, next((v for v in reversed(since) if v is not None), None))


class Life(NamedTuple):
    """The result for a series: the state of its alert at each evaluation, and all transitions."""

    states: list[str]
    severities: list[str | None]
    found: list


def lived(rule, values, sample_s, every_s):
    """Evaluate one series with our state machine."""
    alerts, life = machine(rule), Life([], [], [])
    for tick in ticks(values, sample_s, every_s):
        life.found.extend(alerts.advance(tick.at_us, [evaluate_figure(rule, "app", "page", figure(tick.value))]))
        alert = alerts.alerts.get((rule.name, "app", "page"))
        life.states.append(alert.state if alert else "idle")
        life.severities.append(alert.severity if alert else None)
    return life


def promtools(value: object) -> str:
    """Return a value in promtool's notation."""
    if value is None:
        return "_"
    if value == STALE:
        return STALE
    return "NaN" if math.isnan(value) else repr(value)


class Pair(NamedTuple):
    """A rule and a series, for promtool and for our state machine; durations in seconds."""

    name: str
    better: str
    limit: float
    hold_s: int
    keep_s: int
    sample_s: int
    every_s: int
    values: list

    @property
    def rule(self):
        """Our rule."""
        return made_up(self.limit, self.hold_s, self.keep_s, self.name, self.better)

    @property
    def series(self):
        """The values in promtool's notation."""
        return " ".join(map(promtools, self.values))

    @property
    def life(self):
        """The result of our state machine."""
        return lived(self.rule, self.values, self.sample_s, self.every_s)


def promtool(folder, expected):
    """
    Check pairs of (Pair, the state at each evaluation) with promtool; return (whether it agrees, its output).

    Every evaluation of every pair is checked twice: which alerts fire, and what the series ALERTS holds.
    """
    program, files = needs("promtool"), []
    groups = {}
    for pair, states in expected:
        groups.setdefault((pair.sample_s, pair.every_s), []).append((pair, states))
    for (sample_s, every_s), members in groups.items():
        firing, held = [], []
        for pair, states in members:
            for i, state in enumerate(states):
                at, labels = f"{i * every_s}s", f'alertname="{pair.name}", alertstate="{state}"'
                firing.append(
                    {
                        "eval_time": at,
                        "alertname": pair.name,
                        "exp_alerts": [{"exp_labels": {}}] if state == "firing" else [],
                    }
                )
                samples = [] if state == "idle" else [{"labels": f"ALERTS{{{labels}}}", "value": 1}]
                held.append({"eval_time": at, "expr": f'ALERTS{{alertname="{pair.name}"}}', "exp_samples": samples})
        written = []
        for p, _ in members:
            expr = f"{p.name} {'<' if p.better == 'higher' else '>'} {p.limit!r}"
            written.append({"alert": p.name, "expr": expr, "for": f"{p.hold_s}s", "keep_firing_for": f"{p.keep_s}s"})
        series = [{"series": p.name, "values": p.series} for p, _ in members]
        test = {"interval": f"{sample_s}s", "input_series": series, "alert_rule_test": firing, "promql_expr_test": held}
        name = f"{sample_s}-{every_s}"
        # JSON is valid YAML.
        (folder / f"rules-{name}.yml").write_text(json.dumps({"groups": [{"name": "all", "rules": written}]}))
        files.append(f"test-{name}.yml")
        (folder / files[-1]).write_text(
            json.dumps({"rule_files": [f"rules-{name}.yml"], "evaluation_interval": f"{every_s}s", "tests": [test]})
        )
    done = subprocess.run([program, "test", "rules", *files], cwd=folder, capture_output=True, text=True, timeout=120)
    return done.returncode == 0, done.stdout + done.stderr


# ---- The cases of Prometheus's alert-generator compliance specification 1.0: samples every 15 s, evaluated every 30 s.

START = [3, 5, 5, 5, 9, 9, 9, 9]
PENDING_FIRING_RESOLVED = [*START, *[11] * 13, *[15] * 32, *[19] * 16, *[9] * 20, *[15] * 45, *[8] * 16]
PENDING_RESOLVED = [*START, *[11] * 11, 9, *[None] * 40]
ZERO_AND_SMALL = [*START, *[15] * 13, *[9] * 72, *[11] * 13, 9]
FIRST = [*[1] * 8, *[11] * 65, *[9] * 12]
SECOND = [*[1] * 32, *[11] * 33, *[9] * 20]
CASES = [
    Pair("PendingAndFiringAndResolved", "lower", 10, 360, 0, 15, 30, PENDING_FIRING_RESOLVED),
    Pair("PendingAndResolved", "lower", 10, 180, 0, 15, 30, PENDING_RESOLVED),
    Pair("AlwaysInactive", "lower", 99, 180, 0, 15, 30, PENDING_RESOLVED),
    Pair("ZeroFor", "lower", 10, 0, 0, 15, 30, ZERO_AND_SMALL),
    Pair("SmallFor", "lower", 13, 15, 0, 15, 30, ZERO_AND_SMALL),
    Pair("First", "lower", 10, 180, 0, 15, 30, FIRST),
    Pair("Second", "lower", 10, 180, 0, 15, 30, SECOND),
]
CASE = {pair.name: pair for pair in CASES}


def summary(found):
    """
    Return the transitions: number of the sample, kind, value then, and number of the sample since which it is pending.
    """
    return [((t.at_us - T0) // 15_000_000, t.kind, t.value, (t.pending_us - T0) // 15_000_000) for t in found]


def spread(*parts):
    """
    Return the states of a case, evaluated every two samples; each part is (state, number of the sample before which it
    ends).
    """
    states = []
    for state, end in parts:
        states += [state] * ((end + 1) // 2 - len(states))
    return states


def test_pending_then_firing_then_resolved_twice():
    """
    An alert is pending at the first evaluation above the threshold, fires after its `for`, resolves at the first
    evaluation below, and can fire again.
    """
    life = CASE["PendingAndFiringAndResolved"].life
    assert summary(life.found) == [
        (8, "pending", 11, 8),
        (32, "fired", 15, 8),
        (70, "resolved", 9, 8),
        (90, "pending", 15, 90),
        (114, "fired", 15, 90),
        (134, "resolved", 8, 90),
    ]
    assert life.states == spread(
        ("idle", 8), ("pending", 32), ("firing", 69), ("idle", 89), ("pending", 113), ("firing", 134), ("idle", 150)
    )
    assert {t.severity for t in life.found} == {"critical"} and {t.limit for t in life.found} == {10}
    assert [t.peak for t in life.found] == [None, None, 19, None, None, 15] and len({t.alert for t in life.found}) == 2


def test_pending_then_dropped_and_always_inactive():
    """
    An alert that clears within its `for` is dropped and never fires. A rule that never breaches has no alert, even when
    samples stop.
    """
    life = CASE["PendingAndResolved"].life
    assert summary(life.found) == [(8, "pending", 11, 8), (20, "dropped", 9, 8)]
    assert life.states == spread(("idle", 8), ("pending", 19), ("idle", 60))
    life = CASE["AlwaysInactive"].life
    assert not life.found and set(life.states) == {"idle"}


def test_zero_for_fires_at_once_and_a_short_for_at_the_second_evaluation():
    """
    Without a `for` an alert fires at the first evaluation. With a `for` shorter than the interval it is pending for one
    evaluation, then fires.
    """
    life = CASE["ZeroFor"].life
    assert summary(life.found) == [
        (8, "pending", 15, 8),
        (8, "fired", 15, 8),
        (22, "resolved", 9, 8),
        (94, "pending", 11, 94),
        (94, "fired", 11, 94),
        (106, "resolved", 9, 94),
    ]
    assert life.states == spread(("idle", 8), ("firing", 21), ("idle", 93), ("firing", 106), ("idle", 107))
    life = CASE["SmallFor"].life
    assert summary(life.found) == [(8, "pending", 15, 8), (10, "fired", 15, 8), (22, "resolved", 9, 8)]
    assert life.states == spread(("idle", 8), ("pending", 10), ("firing", 21), ("idle", 107))


def test_a_rule_about_alerts_sees_alerts_of_the_same_evaluation():
    """
    A rule that counts the alerts of another rule, and is evaluated after it, fires at the same time as the second of
    them and resolves with it.
    """
    each, both = made_up(10, 180, name="each"), made_up(1, name="both")
    first, second, found = machine(each), machine(both), []
    for one, other in zip(ticks(FIRST, 15, 30), ticks(SECOND, 15, 30), strict=True):
        found += first.advance(
            one.at_us,
            [
                evaluate_figure(each, "massive", "page", figure(one.value)),
                evaluate_figure(each, "tradier", "page", figure(other.value)),
            ],
        )
        firing = sum(alert.state == "firing" for alert in first.alerts.values())
        found += second.advance(one.at_us, [evaluate_figure(both, "app", "page", figure(firing))])
    assert [
        (sample, kind, t.subject, value) for t, (sample, kind, value, _) in zip(found, summary(found), strict=True)
    ] == [
        (8, "pending", "massive", 11),
        (20, "fired", "massive", 11),
        (32, "pending", "tradier", 11),
        (44, "fired", "tradier", 11),
        (44, "pending", "app", 2),
        (44, "fired", "app", 2),
        (66, "resolved", "tradier", 9),
        (66, "resolved", "app", 1),
        (74, "resolved", "massive", 9),
    ]


def test_promtool_agrees_on_every_case(tmp_path):
    """Prometheus has each case in the same state as we do at every evaluation."""
    agrees, output = promtool(tmp_path, [(pair, pair.life.states) for pair in CASES])
    assert agrees, output


# ---- Random rules and series.


def hovering(chance, limit, count):
    """Return a series that crosses a threshold back and forth and sometimes equals it."""
    side, flip, values = chance.choice((-1, 1)), chance.uniform(0.04, 0.5), []
    for _ in range(count):
        side = -side if chance.random() < flip else side
        values.append(float(limit if chance.random() < 0.04 else limit + side * chance.randint(1, 12) / 4))
    return values


def random_pairs(chance):
    """Return twenty pairs for each interval from 5 to 15 s."""
    pairs = []
    for every_s in range(5, 16):
        for _ in range(20):
            limit = chance.randint(4, 200) / 4
            hold_s, keep_s = chance.choice((0, 5, 10, 15, 30, 45, 60, 90, 120)), chance.choice((0, 10, 20, 30, 60, 120))
            values = hovering(chance, limit, chance.randint(60, 120))
            pairs.append(
                Pair(
                    f"r{len(pairs)}",
                    chance.choice(("higher", "lower")),
                    limit,
                    hold_s,
                    keep_s,
                    every_s,
                    every_s,
                    values,
                )
            )
    return pairs


def test_promtool_agrees_on_random_rules_and_series(tmp_path):
    """
    For 220 random rules, each with a series around its threshold, Prometheus has the same state as we do at every
    evaluation.
    """
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    pairs = random_pairs(random.Random(seed))
    lives = [pair.life for pair in pairs]
    kinds = Counter(t.kind for life in lives for t in life.found)
    # Otherwise the comparison covers too little.
    assert min(kinds[kind] for kind in ("pending", "dropped", "fired", "resolved")) > 50, kinds
    agrees, output = promtool(tmp_path, [(pair, life.states) for pair, life in zip(pairs, lives, strict=True)])
    assert agrees, f"seed {seed}\n{output[:4000]}"


@pytest.mark.parametrize(("span", "at"), [("hold_s", "1m"), ("keep_s", "2m50s")])
def test_the_comparison_can_fail(tmp_path, span, at):
    """
    If our `for` or `keep_firing_for` were one interval longer, promtool would report the difference at the expected
    time.
    """
    pair = Pair("shifted", "lower", 10.0, 30, 20, 10, 10, [9.0] * 3 + [11.0] * 12 + [9.0] * 6)
    assert promtool(tmp_path, [(pair, pair.life.states)])[0]
    agrees, output = promtool(tmp_path, [(pair, pair._replace(**{span: getattr(pair, span) + 10}).life.states)])
    assert not agrees and set(re.findall(r"time: (\w+),", output)) == {at}, output


# ---- Deliberate differences: unknown data neither begin nor end an alert.

FIRING, PENDING, IDLE = ["firing"], ["pending"], ["idle"]


def differs(folder, pair, theirs):
    """Return our result of a pair, after promtool has confirmed that Prometheus's states are `theirs`."""
    agrees, output = promtool(folder, [(pair, theirs)])
    assert agrees, output
    return pair.life


def test_a_firing_alert_stays_when_samples_stop(tmp_path):
    """
    Five minutes after the last sample Prometheus resolves the alert; ours keeps firing and becomes unknown after
    another five minutes.
    """
    # Five minutes are not a multiple of 45 s: a sample exactly that old counts only in some versions of Prometheus.
    pair = Pair("ceased", "lower", 10, 30, 0, 45, 45, [15.0] * 5 + [None] * 10)
    life = differs(tmp_path, pair, PENDING + FIRING * 10 + IDLE * 4)
    assert life.states == PENDING + FIRING * 11 + ["unknown"] * 3
    assert set(life.severities[1:]) == {"critical"} and [t.kind for t in life.found] == ["pending", "fired", "unknown"]


def test_a_firing_alert_stays_when_its_series_ends(tmp_path):
    """
    When a series ends, Prometheus resolves its alert at once and fires a new one when it is back. Ours stays the same
    alert until a good value arrives.
    """
    pair = Pair("ended", "lower", 10, 30, 0, 15, 15, [15.0] * 4 + [STALE] + [None] * 3 + [15.0] * 4 + [9.0])
    life = differs(tmp_path, pair, PENDING * 2 + FIRING * 2 + IDLE * 4 + PENDING * 2 + FIRING * 2 + IDLE)
    assert life.states == PENDING * 2 + FIRING * 10 + IDLE
    assert [t.kind for t in life.found] == ["pending", "fired", "resolved"]


def test_a_firing_alert_stays_while_the_value_is_nan(tmp_path):
    """
    NaN is above no threshold, so Prometheus resolves. For us NaN is unknown, and the alert keeps firing until a number
    clears it.
    """
    pair = Pair("no_number", "lower", 10, 0, 0, 15, 15, [15.0] * 2 + [math.nan] * 3 + [9.0])
    life = differs(tmp_path, pair, FIRING * 2 + IDLE * 4)
    assert life.states == FIRING * 5 + IDLE


def test_keep_firing_for_counts_only_known_time(tmp_path):
    """
    Prometheus's `keep_firing_for` runs out while samples are missing; ours counts only time in which the alert is known
    to be clear.
    """
    pair = Pair("kept", "lower", 10, 0, 45, 15, 15, [15.0, 9.0, STALE, None, None, None, 9.0, 9.0, 9.0, 9.0])
    life = differs(tmp_path, pair, FIRING * 4 + IDLE * 6)
    assert life.states == FIRING * 8 + IDLE * 2


@pytest.mark.parametrize(
    ("gap", "theirs"),
    [
        ([None] * 4, PENDING * 4 + FIRING * 8),  # It continues with the old sample and fires without a new one.
        ([STALE] + [None] * 3, PENDING * 2 + IDLE * 4 + PENDING * 4 + FIRING * 2),
        ([math.nan] * 4, PENDING * 2 + IDLE * 4 + PENDING * 4 + FIRING * 2),
    ],
    ids=["missing", "stale", "NaN"],
)
def test_for_counts_only_known_time(tmp_path, gap, theirs):
    """
    After a gap Prometheus fires on an old sample or starts over; ours waits and continues: a `for` of one minute needs
    one minute of data.
    """
    pair = Pair("gap", "lower", 10, 60, 0, 15, 15, [15.0] * 2 + gap + [15.0] * 6)
    life = differs(tmp_path, pair, theirs)
    assert life.states == PENDING * 8 + FIRING * 4
    assert (life.found[1].at_us - life.found[1].pending_us) // 1_000_000 == 60 + 60


# ---- Laws.

BEGINS_OR_ENDS = {"pending", "fired", "rose", "fell", "resolved", "dropped", "ended"}
VALUES = {
    "ok": 3.0,
    "between": 7.0,
    "warning": 15.0,
    "notify": 25.0,
    "critical": 35.0,
    "escalate": 45.0,
    "missing": None,
    "no number": math.nan,
}
UNKNOWN = ("missing", "no number")
LIMITS = {"warning": 10.0, "notify": 20.0, "critical": 30.0, "escalate": 40.0}


def seconds(*choices):
    """Draw one of these durations."""
    return st.sampled_from([timedelta(seconds=s) for s in choices])


@st.composite
def rules_with_thresholds(draw, name, no_data=("keep", "alert"), inhibited_by=()):
    """Draw a rule with thresholds of one to four severities, each with its own `for`."""
    rungs = [rung for rung in rules.SEVERITIES if rung == "critical" or draw(st.booleans())]
    return replace(
        made_up(0, name=name),
        thresholds=tuple((rung, LIMITS[rung]) for rung in rungs),
        holds={rung: draw(seconds(0, 5, 30, 60)) for rung in rungs},
        clear=draw(st.sampled_from(({}, {"warning": 5.0}, {"critical": 8.0}))),
        keep_firing_for=draw(seconds(0, 10, 40)),
        no_data=draw(st.sampled_from(no_data)),
        unknown_after=draw(seconds(15, 60)),
        inhibited_by=inhibited_by,
    )


def outcomes(*names):
    """Draw up to forty evaluations: seconds since the one before, and one outcome for each name; None is no finding."""
    return st.lists(
        st.tuples(st.sampled_from((5, 10, 30)), *(st.sampled_from((*VALUES, None)) for _ in names)), max_size=40
    )


def findings(found, *of):
    """Return the findings of one evaluation."""
    return [
        evaluate_figure(rule, "app", "page", figure(VALUES[outcome]))
        for rule, outcome in zip(of, found, strict=True)
        if outcome
    ]


@hypothesis_settings(max_examples=300, deadline=None)
@given(rules_with_thresholds("one", ("keep",)), outcomes("one"))
def test_unknown_neither_begins_nor_ends(rule, sequence):
    """
    An evaluation without data makes no alert pending, firing, resolved, dropped or ended, and changes no severity.
    """
    alerts, at_us = machine(rule), T0
    for after_s, outcome in sequence:
        at_us += after_s * 1_000_000
        kinds = {t.kind for t in alerts.advance(at_us, findings((outcome,), rule))}
        if outcome in UNKNOWN or outcome is None:
            assert not kinds & BEGINS_OR_ENDS, (outcome, kinds)


@hypothesis_settings(max_examples=300, deadline=None)
@given(
    rules_with_thresholds("one"),
    rules_with_thresholds("two", inhibited_by=("one",)),
    outcomes("one", "two"),
    st.integers(0, 40),
)
def test_a_restored_state_machine_continues_the_same(one, two, sequence, stops_at):
    """A state machine saved as JSON after any evaluation and restored behaves like one that never stopped."""
    alerts, at_us = machine(one, two), T0
    again = machine(one, two)
    for i, (after_s, *found) in enumerate(sequence):
        at_us += after_s * 1_000_000
        if i == stops_at:
            again = machine(
                one,
                two,
                standing=[
                    Alert.of_json(json.loads(json.dumps(a.as_json(), allow_nan=False))) for a in again.alerts.values()
                ],
            )
        assert again.advance(at_us, findings(found, one, two)) == alerts.advance(at_us, findings(found, one, two))
    assert again.alerts == alerts.alerts


BOTH = replace(
    made_up(0, name="one"),
    thresholds=(("warning", 10.0), ("critical", 30.0)),
    holds={"warning": timedelta(0), "critical": timedelta(0)},
)
SLOW = replace(BOTH, holds={"warning": timedelta(minutes=15), "critical": timedelta(0)})
WANTED = replace(BOTH, no_data="alert", unknown_after=timedelta(seconds=15))
OTHER = replace(made_up(0, name="two"), inhibited_by=("one",))
DOWN_AND_UP = [(30, "critical", None), (30, "warning", None), (30, "critical", None), (30, "ok", None)]


@hypothesis_settings(max_examples=500, deadline=None)
@given(rules_with_thresholds("one"), rules_with_thresholds("two", inhibited_by=("one",)), outcomes("one", "two"))
@example(BOTH, OTHER, DOWN_AND_UP)
@example(SLOW, OTHER, DOWN_AND_UP)
@example(WANTED, OTHER, [(30, "missing", "ok"), (30, "missing", "critical")])
def test_transitions_of_an_episode_come_in_order(one, two, sequence):
    """
    An alert is pending before it fires and fires before it resolves. A severity is left only after it was reached, and
    before it is reached again.
    """
    alerts, at_us, lives, seen = machine(one, two), T0, {}, set()
    for after_s, *outcome in sequence:
        at_us += after_s * 1_000_000
        for t in alerts.advance(at_us, findings(outcome, one, two)):
            if t.kind == "pending":
                assert t.alert not in seen, "a life begins once"
                seen.add(t.alert)
                lives[t.alert] = []
            assert t.alert in lives, (t.kind, "of an alert that was never pending, or is over")
            reached = lives[t.alert]
            if t.kind in ("fired", "rose"):
                assert t.severity not in reached and (t.kind == "fired") == (not reached), (t.kind, t.severity, reached)
                reached.append(t.severity)
            elif t.kind in ("fell", "resolved", "ended"):
                assert t.severity in reached, (t.kind, t.severity, reached)
                reached.remove(t.severity)
            elif t.kind == "dropped":
                assert not reached, (t.kind, reached)
            elif t.kind != "pending":
                assert reached and t.severity in rules.SEVERITIES, (t.kind, t.severity, reached)
        standing = {a.id: [r.severity for r in a.reached] for a in alerts.alerts.values() if a.id}
        assert not any(lives.pop(over) for over in set(lives) - set(standing)), (
            "an alert is over, and a severity of it was never left"
        )
        assert standing == lives
        assert all(bool(a.severity) == bool(a.reached) for a in alerts.alerts.values()), (
            "what fires has a severity that is open, and the other way round"
        )


@pytest.mark.parametrize("values", [(15.0, 3.0), (15.0, 15.0), (3.0, 15.0), (3.0, 3.0)], ids=str)
def test_two_findings_for_one_alert_are_rejected(values):
    """
    Each rule, subject and source has one finding per evaluation; a second one is rejected, whatever the order and the
    values.
    """
    rule = made_up(10)
    with pytest.raises(ValueError, match="two findings for made_up app page"):
        machine(rule).advance(T0, [evaluate_figure(rule, "app", "page", Figure(value)) for value in values])


def test_findings_of_two_subjects_are_two_alerts():
    """Findings of one rule for two subjects and two sources at one time are separate alerts."""
    rule = made_up(10)
    found = machine(rule).advance(
        T0,
        [
            evaluate_figure(rule, subject, source, Figure(15.0))
            for subject in ("massive", "tradier")
            for source in ("page", "probe")
        ],
    )
    assert len({t.alert for t in found if t.kind == "fired"}) == 4


def test_an_inhibited_alert_is_released_only_where_it_breaches_again():
    """
    After the inhibiting alert is resolved, people are notified of the inhibited alert only at severities whose
    threshold its value breaches again.
    """
    one = made_up(30, name="one")
    rungs = {"warning": 10.0, "notify": 20.0, "critical": 30.0}
    two = replace(
        made_up(0, name="two"),
        thresholds=tuple(rungs.items()),
        holds=dict.fromkeys(rungs, timedelta(0)),
        clear={"warning": 5.0, "notify": 6.0, "critical": 8.0},
        inhibited_by=("one",),
    )
    alerts, released = machine(one, two), []
    for second, (first, second_value) in {
        0: (40, 40),
        30: (0, 12),
        60: (0, 12),
        90: (0, 12),
        120: (0, 9),
        150: (0, 25),
        180: (0, 25),
    }.items():
        found = alerts.advance(
            T0 + second * 1_000_000,
            [
                evaluate_figure(one, "app", "page", figure(first)),
                evaluate_figure(two, "app", "page", figure(second_value)),
            ],
        )
        released += [(second, t.severity) for t in found if t.kind == "released"]
        fired = [t.inhibited_by is not None for t in found if t.rule == "two" and t.kind == "fired"]
        assert fired == ([True] if second == 0 else [])
    assert [(second, severity) for second, severity in released if severity in rules.SENT] == [(150, "critical")], (
        released
    )


def test_the_end_of_a_burn_rate_shows_both_windows():
    """
    The short window of a burn rate ends it while the long one is still above the threshold: its end shows both.

    A value that the alert's sentence has already is not repeated.
    """
    rule = rules.load()["availability_burn"]
    alerts, found = machine(rule), []
    for k in range(1440):  # Two hours; the short window recovers after 30 minutes.
        long, short = 20.0, 30.0 if k < 360 else 0.0
        bound = min(long, short)
        spent = {severity: BudgetBurn(long, short, bound) for severity, _ in rule.thresholds}
        finding = evaluate_figure(rule, "massive", "page", Figure(long, spent=spent))
        found += alerts.advance(T0 + k * 5_000_000, [finding])
    ends = [t.sentence for t in found if t.kind == "resolved"]
    assert ends and all(
        re.search(r"; now 20\.0 times over \w+( \w+)*, 0\.0 times over \w+( \w+)*$", end) for end in ends
    )
    assert lived(made_up(5.0), [7.0, 3.0], 60, 60).found[-1].sentence == "made_up (7 s) > 5 s; now 3 s"
    none = dict.fromkeys(("warning", "critical"), timedelta(0))
    both = replace(made_up(5.0), thresholds=(("warning", 1.0), ("critical", 5.0)), holds=none)
    assert lived(both, [7.0, 3.0], 60, 60).found[-1].sentence == "made_up (3 s) > 1 s"
