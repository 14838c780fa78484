"""Figures from our own probes (shares, times, coverage), with expected values computed by hand."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opslib.alerting import probe_figures
from opslib.foundation import clock
from opslib.foundation.clock import Window
from opslib.foundation.config import rules
from opslib.telemetry.pages.counters import CounterHistory
from opslib.telemetry.probes.history import ProbeHistory
from opslib.telemetry.probes.store import Sample

T0 = datetime(2026, 3, 10, 15, 0, tzinfo=UTC)
RULES = rules.load()


def us(seconds: float) -> int:
    return clock.micros(T0 + timedelta(seconds=seconds))


def at(
    seconds: float,
    probe: str,
    subject: str,
    outcome: str = "ok",
    value: float | None = None,
    took: float | None = None,
    last: bool = True,
    **detail: Any,
) -> Sample:
    return Sample(us(seconds), probe, subject, outcome, took, value, 1, last, json.dumps(detail))


def over(start: float, end: float) -> Window:
    return Window(T0 + timedelta(seconds=start), T0 + timedelta(seconds=end))


def beats(*seconds: float, every: float = 5.0, stopped: bool = False) -> list[Sample]:
    found = [at(s, "beat", "collector", every_s=every) for s in seconds]
    return [*found[:-1], found[-1]._replace(outcome="stopped")] if stopped else found


def test_only_provider_faults_count_for_availability() -> None:
    """
    Of a success, a 5xx, a timeout and five responses whose fault is ours, the plan's or unclear, availability is 1 of 3
    and usable responses are 1 of 8.
    """
    outcomes = (
        "ok",
        "server_5xx",
        "timeout",
        "auth_401",
        "entitlement_403",
        "rate_limited_429",
        "wrong_content",
        "ip_blocked_403",
    )
    probed = ProbeHistory(
        "tradier",
        [at(i, "liveness", "massive", o) for i, o in enumerate(outcomes)]
        + [at(9, "liveness", "massive", "quota_kept")],
    )
    assert probed.answered("massive", over(-1, 10)) == (1, 3) and probed.usable("massive", over(-1, 10)) == (1, 8)
    assert probed.answered("tradier", over(-1, 10)) == (0, 0)


def test_attempts_count_for_availability_and_probes_for_usability() -> None:
    """A probe that failed once and then succeeded is one of two attempts, and one usable probe."""
    probed = ProbeHistory(
        "tradier", [at(1, "liveness", "massive", "server_5xx", last=False), at(2, "liveness", "massive")]
    )
    assert probed.answered("massive", over(0, 5)) == (1, 2) and probed.usable("massive", over(0, 5)) == (1, 1)


def test_the_current_result_of_a_probe() -> None:
    """
    The last result holds until no sample was taken for a minute. Samples skipped for the quota are ignored. "Since" is
    the first sample in a row of faults.
    """
    probed = ProbeHistory(
        "tradier",
        [
            at(0, "liveness", "massive"),
            at(10, "liveness", "massive", "timeout"),
            at(20, "liveness", "massive", "server_5xx"),
            at(30, "liveness", "massive", "quota_kept"),
        ],
    )
    now, since = probed.now("liveness", "massive", us(40)), probed.since("liveness", "massive", us(40))
    assert now and since and (now.outcome, since.ts_us) == ("server_5xx", us(10))
    assert probed.now("liveness", "massive", us(30 + 61)) is None and probed.now("liveness", "massive", us(-1)) is None


@pytest.mark.parametrize(
    ("seen", "window", "expected"),
    [
        ([], (0, 60), None),
        (beats(0, 5, 10, 15, 20), (0, 20), 1.0),
        (beats(30, 35, 40, 45, 50, 55, 60), (0, 60), 1.0),  # Started in the window: the time before is not expected.
        (beats(0, 5, 10), (0, 30), 20 / 30),  # Dead after 10: two heartbeat intervals still count as covered.
        (beats(0, 5, 10, stopped=True), (0, 60), 1.0),  # Stopped: the time after is not expected.
        (beats(0, 5, 40, 45, 50), (0, 50), 25 / 50),  # A gap of 35 s, of which 10 s count as covered.
        (beats(-100), (0, 60), 0.0),  # Dead before the window.
        (beats(-100, -95, stopped=True), (0, 60), None),
    ],
)
def test_coverage(seen: list[Sample], window: tuple[float, float], expected: float | None) -> None:
    """Coverage is the share of a window in which the collector ran, from the first heartbeat in it on."""
    assert ProbeHistory("tradier", seen).coverage(over(*window)) == (
        None if expected is None else pytest.approx(expected)
    )


@given(
    st.lists(st.integers(0, 600), min_size=1, max_size=40, unique=True),
    st.randoms(use_true_random=False),
    st.integers(0, 300),
    st.integers(1, 300),
)
@settings(max_examples=80, deadline=None)
def test_samples_may_come_in_any_order(seconds: list[int], chance: Any, start: int, length: int) -> None:
    """The results do not depend on the order in which samples are added, and coverage is from 0 to 1."""
    straight = [
        s
        for n in sorted(seconds)
        for s in (*beats(n), at(n, "liveness", "massive", chance.choice(["ok", "timeout", "auth_401"]), took=0.1))
    ]
    mixed = straight.copy()
    chance.shuffle(mixed)
    one, other, window = ProbeHistory("tradier", straight), ProbeHistory("tradier"), over(start, start + length)
    for sample in mixed:
        other.add([sample])

    def tell(p):
        return (
            p.coverage(window),
            p.answered("massive", window),
            p.usable("massive", window),
            p.now("liveness", "massive", window.end_us),
            p.missed_heartbeats(window.end_us),
        )

    assert tell(one) == tell(other) and 0 <= (tell(one)[0] or 0) <= 1


def test_missed_heartbeats() -> None:
    """
    A heartbeat late by less than one interval is not missed. 60 s after the last one at an interval of 5 s, 11 are
    missed. A stopped collector misses none.
    """
    probed = ProbeHistory("tradier", beats(0, 5))
    assert [probed.missed_heartbeats(us(s)) for s in (-1, 5, 14, 15, 65)] == [None, 0, 0, 1, 11]
    assert ProbeHistory("tradier", beats(0, 5, stopped=True)).missed_heartbeats(us(500)) is None


def test_the_time_for_which_the_websocket_is_down() -> None:
    """
    A closed WebSocket is down since its first such sample, a silent one since its last message, an ok one is not down.
    """
    closed = ProbeHistory(
        "tradier", [at(0, "socket", "app"), at(5, "socket", "app", "closed"), at(10, "socket", "app", "closed")]
    )
    assert (closed.socket_down_s(us(2)), closed.socket_down_s(us(12)), closed.socket_down_s(us(-5))) == (0.0, 7.0, None)
    silent = ProbeHistory("tradier", [at(0, "socket", "app", value=1.0), at(40, "socket", "app", "silent", value=41.0)])
    assert silent.socket_down_s(us(41)) == 42.0


def test_memory_growth_since_the_last_start() -> None:
    """1 MB a minute is a growth of 60 MB an hour; samples before a restart do not count."""
    before = [at(60 * i, "process", "app", value=500.0 + 50 * i, born=1.0) for i in range(5)]
    after = [at(300 + 60 * i, "process", "app", value=100.0 + i, born=300.0) for i in range(11)]
    found = ProbeHistory("tradier", [*before, *after]).growth_mb_per_h(over(-1, 1000))
    assert found == (pytest.approx(60.0), 11)
    assert ProbeHistory("tradier", after[:2]).growth_mb_per_h(over(-1, 1000)) is None


def test_restarts_are_counted_once() -> None:
    """A new process and a decreased server uptime are one restart; a server that continues is none."""
    process = [at(10 * i, "process", "app", value=1.0, born=0.0 if i < 3 else 27.0) for i in range(6)]
    health = [at(10 * i + 1, "health", "app", value=100.0 + 10 * i if i < 3 else 10.0 * (i - 3)) for i in range(6)]
    assert ProbeHistory("tradier", [*process, *health]).restarts(over(0, 100)) == [us(30)]
    assert (
        ProbeHistory("tradier", [*process, *health]).restarts(over(40, 100)) == []
        and ProbeHistory("tradier", health[:3]).restarts(over(0, 100)) == []
    )


def test_our_network_is_suspected_if_no_provider_is_reachable() -> None:
    """Our own network is suspected only if both providers are probed and neither can be connected to."""

    def look(massive, tradier):
        return ProbeHistory(
            "tradier",
            [at(0, "liveness", "massive", massive), *([at(0, "liveness", "tradier", tradier)] if tradier else [])],
        ).network_gone(us(1))

    assert (look("dns", "unreachable"), look("refused", "ok"), look("server_5xx", "server_5xx"), look("dns", "")) == (
        True,
        False,
        False,
        None,
    )


def test_the_serving_provider() -> None:
    """Massive if its data is usable, else Tradier if the app has it as fallback, else nobody; None without samples."""

    def look(fallback: str, **outcomes: str) -> str | None:
        return ProbeHistory(
            fallback, [at(0, probe, subject, o) for subject, o in outcomes.items() for probe in ("liveness", "data")]
        ).serving(us(1))

    assert (
        look("tradier", massive="ok", tradier="ok") == "massive"
        and look("tradier", massive="entitlement_403", tradier="ok") == "tradier"
    )
    assert (
        look("none", massive="server_5xx", tradier="ok") == "nobody"
        and look("tradier", massive="timeout", tradier="auth_401") == "nobody"
    )
    assert look("tradier", tradier="ok") is None and look("tradier", massive="timeout") is None


def test_the_market_is_closed_only_if_all_providers_agree() -> None:
    """If one provider says open, or does not respond, the market calendar applies."""

    def look(*states):
        return ProbeHistory(
            "tradier",
            [at(0, "liveness", s, "ok" if m else "timeout", market=m) for s, m in zip(("massive", "tradier"), states)],
        ).market_shut(us(1))

    assert look("closed", "closed") and look("extended-hours", "premarket")
    assert not look("open", "closed") and not look("closed", "") and not ProbeHistory("tradier").market_shut(us(1))


def test_state_changes_separate_an_outage_from_flapping() -> None:
    """An outage that began and ended is two state changes; alternating failures are one each time."""

    def line(word):
        return ProbeHistory(
            "tradier",
            [
                at(i, "liveness", "massive", {"o": "ok", "x": "server_5xx", "k": "auth_401"}[c])
                for i, c in enumerate(word)
            ],
        ).state_changes("massive", over(-1, 100))

    assert (line("ooxxxxoo"), line("oxoxox"), line("oooo"), line("okokok")) == (2, 5, 0, 0)


def test_errors_in_the_log() -> None:
    """Errors and kinds in a window are summed; with a log that could not be read they are None, not zero."""
    probed = ProbeHistory(
        "tradier",
        [
            at(1, "log", "app", value=2.0, kinds={"timeout": 2}, newest={"timeout": "a"}, waited_ms=400),
            at(2, "log", "app", value=1.0, kinds={"timeout": 1, "access": 9}, newest={"timeout": "b"}, waited_ms=150),
        ],
    )
    window = over(0, 5)
    assert (
        probed.errors(window),
        probed.log_kinds(window),
        probed.log_newest(window),
        probed.gave_up_after_ms(window),
    ) == (3, {"access": 9, "timeout": 3}, {"timeout": "b"}, 150)
    assert ProbeHistory("tradier", [at(1, "log", "app", "absent")]).errors(window) is None


def test_each_kind_of_request_is_evaluated_separately() -> None:
    """
    Sixty successful liveness probes do not outweigh five data probes with stale data: the worst kind of request counts.
    """
    well = [at(i, "liveness", "massive") for i in range(60)]
    stale = [at(10 * i, "data", "massive", "stale") for i in range(5)]
    probed, window = ProbeHistory("tradier", [*well, *stale]), over(-1, 100)
    assert probed.usable("massive", window) == (60, 65) and sorted(
        probe_figures.usable_by_question(probed, "massive", window)
    )[0] == (0, 5)
    assert (
        probe_figures.measure(probed, CounterHistory(RULES.pages, 5.0), RULES["answers"], "massive", window).value
        == 0.0
    )


def test_the_last_result_holds_while_the_quota_is_used_up() -> None:
    """
    Probes skipped for the quota keep the result before them valid. Without any probe for a minute, no result holds.
    """
    probed = ProbeHistory(
        "tradier",
        [
            at(0, "liveness", "massive", "rate_limited_429"),
            *(at(5 * i, "liveness", "massive", "quota_kept") for i in range(1, 100)),
        ],
    )
    now = probed.now("liveness", "massive", us(400))
    assert now and now.outcome == "rate_limited_429" and probed.now("liveness", "massive", us(495 + 61)) is None


def test_state_changes_of_the_websocket() -> None:
    """A WebSocket that is lost and returns repeatedly changes state each time; one that is lost once changes once."""

    def line(word):
        return ProbeHistory(
            "tradier", [at(5 * i, "socket", "app", {"o": "ok", "x": "closed"}[c]) for i, c in enumerate(word)]
        ).socket_state_changes(over(-1, 1000))

    assert (line("oxoxoxo"), line("ooxxxx"), line("oooo")) == (6, 1, 0)


def test_forgetting_keeps_the_last_sample() -> None:
    """Old samples are removed, but the last sample of each probe and subject stays."""
    probed = ProbeHistory("tradier", [*beats(0, 5), at(0, "liveness", "massive"), at(100, "liveness", "massive")])
    probed.forget(us(50))
    assert probed.usable("massive", over(-1, 200)) == (1, 1) and probed.missed_heartbeats(us(65)) == 11


def test_figures_of_rules() -> None:
    """
    p95 is interpolated between the two largest of 20 samples. Availability without samples that count is "not
    measured".
    """
    counters, window = CounterHistory(RULES.pages, 5.0), over(-1, 100)
    probed = ProbeHistory(
        "tradier",
        [at(i, "liveness", "massive", took=0.1 * (i + 1)) for i in range(20)]
        + [at(i, "liveness", "tradier", "auth_401", took=0.1) for i in range(20)],
    )
    found = probe_figures.measure(probed, counters, RULES["response_time"], "massive", window)
    assert found.value == pytest.approx(1.905)
    refused = probe_figures.measure(probed, counters, RULES["availability"], "tradier", window)
    assert (refused.value, refused.absent) == (None, "not measured") and probe_figures.measure(
        probed, counters, RULES["answers"], "tradier", window
    ).value == 0.0
    assert not probe_figures.has_probes(probed, RULES["websocket_down"], "app", "probe") and probe_figures.has_probes(
        probed, RULES["availability"], "massive", "probe"
    )
