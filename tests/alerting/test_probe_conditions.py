"""
Conditions measured by probes, with expected values calculated by hand: network, restarts, slow app, clocks, units,
chains.
"""

from typing import Any

import pytest

from opslib.alerting import probe_conditions
from opslib.alerting.verdicts import evaluate_figure
from opslib.telemetry.probes.history import ProbeHistory
from opslib.telemetry.probes.store import Sample
from tests.support.lived_hour import CHAIN
from tests.telemetry.probes.test_history import RULES, at, beats, over, us


def value(samples: list[Sample], rule: str, subject: str = "app", end: float = 600) -> float | None:
    """Return the value of a rule at `end` seconds."""
    found = RULES[rule]
    return probe_conditions.measure(
        ProbeHistory("tradier", samples), RULES, found, subject, over(end - found.window.total_seconds(), end)
    ).value


def severity(samples: list[Sample], rule: str, subject: str = "app", end: float = 600) -> str | None:
    found = RULES[rule]
    figure = probe_conditions.measure(
        ProbeHistory("tradier", samples), RULES, found, subject, over(end - found.window.total_seconds(), end)
    )
    return evaluate_figure(found, subject, found.sources[0], figure).severity


def line(subject: str, outcome: str, *seconds: float, probe: str = "liveness", **detail: Any) -> list[Sample]:
    return [at(s, probe, subject, outcome, **detail) for s in seconds]


def test_our_network_is_down_since_the_second_provider_failed() -> None:
    """
    If Massive is unreachable from 540 and Tradier from 560, our network is down for 40 s at 600. If one provider
    responds, even with an error, it is not down; if one is not probed, it is unknown.
    """
    massive = line("massive", "ok", 500, 520) + line("massive", "unreachable", 540, 560, 580, 600)
    tradier = line("tradier", "ok", 500, 520, 540) + line("tradier", "dns", 560, 580, 600)
    assert value(massive + tradier, "our_network") == 40
    assert value(massive + line("tradier", "ok", 600), "our_network") == 0
    assert value(massive + line("tradier", "server_5xx", 580, 600), "our_network") == 0
    assert value(massive, "our_network") is None and not probe_conditions.has_probes(
        ProbeHistory("tradier", massive), RULES["our_network"]
    )
    # An outage of the provider itself is not one of our network: time counts from the first failed connection.
    assert (
        value(
            line("massive", "server_5xx", *range(0, 540, 20)) + line("massive", "refused", 580, 600) + tradier,
            "our_network",
        )
        == 20
    )


def test_restarts_are_counted() -> None:
    """
    Restarts are counted by the start time of the process: one of two restarts in ten minutes is in the last five. A
    crash loop is critical.
    """
    births = [(10, 1), (200, 1), (215, 200), (400, 200), (415, 400)]
    process = [at(s, "process", "app", value=100.0, born=born) for s, born in births]
    assert (
        value(process, "app_restarts") == 1
        and value(process, "app_restarts", end=500) == 2
        and value(process, "app_restarts", end=800) == 0
    )
    assert severity(process, "app_restarts") == "warning"
    loop = [at(s, "process", "app", value=100.0, born=s) for s in range(0, 601, 60)]
    assert severity(loop, "app_restarts") == "critical" and value([], "app_restarts") is None
    # Two processes behind one address report two uptimes in turn: neither restarted.
    in_turn = [at(s, "health", "app", value=(5000.0 if s % 10 else 900.0) + s) for s in range(300, 601, 5)]
    assert value(in_turn, "app_restarts") == 0


@pytest.mark.parametrize(("slow", "expected"), [(0, None), (2, None), (6, "critical"), (60, "critical")])
def test_a_slow_app_is_critical_above_two_seconds(slow: int, expected: str | None) -> None:
    """
    p95 of sixty responses in five minutes: with two that take 2.6 s the rule does not fire, with six it is critical.
    """
    samples = [at(300 + 5 * i, "health", "app", took=2.6 if i >= 60 - slow else 0.02) for i in range(1, 61)] + beats(
        *range(300, 601, 5)
    )
    assert severity(samples, "app_response_time") == expected


@pytest.mark.parametrize(
    ("skew", "expected"),
    [
        ({"massive": 0.2, "tradier": -0.3, "app": 0.1}, {}),
        ({"massive": 90, "tradier": 0, "app": 0}, {"massive": 90}),
        ({"massive": 0, "tradier": -90, "app": 0}, {"tradier": 90}),
        ({"massive": 0, "tradier": 0, "app": 600}, {"app": 600}),
        ({"massive": -600, "tradier": -600, "app": -600}, {"monitor": 600}),  # Our clock is ten minutes fast,
        ({"massive": 600, "tradier": 601, "app": 600}, {"monitor": 600}),  # or slow;
        # and so is the app's, which runs on our machine.
        ({"massive": -600, "tradier": -600, "app": 0}, {"monitor": 600, "app": 600}),
        ({"massive": 90}, {"massive": 90}),
        ({"massive": 90, "app": 90}, {"monitor": 90}),
        ({}, {}),
    ],
)
def test_clock_skew_names_the_wrong_clock(skew: dict[str, float], expected: dict[str, float]) -> None:
    """
    Each clock is reported alone; ours is wrong if both providers agree, and the others are then measured by the
    providers' time.
    """
    samples = [at(600, "health" if name == "app" else "liveness", name, skew_s=s) for name, s in skew.items()]
    off = {
        name: found
        for name in RULES["clock_skew"].subjects
        if (found := value(samples, "clock_skew", name)) is not None and severity(samples, "clock_skew", name)
    }
    assert off == expected


def chain(seconds: float, outcome: str = "ok", symbol: str = "SPY", **more: Any) -> Sample:
    return at(seconds, "chain", symbol, outcome, 900.0, **((CHAIN | more) if outcome == "ok" else {}))


@pytest.mark.parametrize(
    ("last", "expected"),
    [
        ({}, None),
        ({"units": CHAIN["units"] | {"theta": "per_year"}}, "escalate"),
        ({"units": CHAIN["units"] | {"vega": None}}, None),  # Too few contracts state a unit.
        ({"median_theta": -0.05 * 365}, "escalate"),
        ({"median_theta": -0.05 * 1.5}, None),
        ({"median_iv": 0.5, "median_theta": -0.15, "median_vega": 0.25}, None),  # Market stress moves all of them.
        ({"faults": {"units": 30}}, "critical"),
        ({"faults": {"units": 1}}, None),
    ],
)
def test_changed_units_of_greeks_fire(last: dict[str, Any], expected: str | None) -> None:
    """
    The latest chain is compared with the first of the hour: changed units fire, for all or for some contracts, and so
    do medians that moved while IV did not.
    """
    assert severity([chain(100), chain(500, **last)], "greeks_units") == expected


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ([chain(100)], None),
        ([chain(100), chain(500, "partial")], "critical"),
        ([chain(100), chain(400, "ok_empty"), chain(500)], None),
        ([chain(100), chain(500, "timeout")], None),  # A failed fetch gives no information about the chain.
        ([chain(500, "partial", s) for s in "A"] + [chain(500, symbol=s) for s in "BCDEFGH"], "notify"),
        ([chain(500, "partial", s) for s in "A"] + [chain(500, symbol=f"B{i}") for i in range(30)], "warning"),
    ],
)
def test_incomplete_chains_fire(found: list[Sample], expected: str | None) -> None:
    """The severity follows the share of symbols whose latest chain is complete."""
    assert severity(found, "chain_whole") == expected and us(0)


def test_without_probes_nothing_is_measured() -> None:
    """Without probe samples no condition has a value."""
    for name in probe_conditions.NAMES:
        for subject in RULES[name].subjects:
            assert not probe_conditions.has_probes(ProbeHistory(), RULES[name])
            assert probe_conditions.measure(ProbeHistory(), RULES, RULES[name], subject, over(0, 600)).value is None
    with pytest.raises(LookupError, match="no condition"):
        probe_conditions.measure(ProbeHistory(), RULES, RULES["errors"], "app", over(0, 600))
