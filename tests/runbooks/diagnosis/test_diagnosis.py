"""What the fault is: evidence has an age, a mechanism explains away, and two causes are both named."""

from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from opslib.alerting import causes
from opslib.alerting.alerts import Transition
from opslib.alerting.causes import NONE
from opslib.foundation.config import rules
from opslib.foundation.config.rules import SENT
from opslib.runbooks.diagnosis.diagnosis import Diagnosis, diagnose
from tests.support.moments import NOW, but, chain, posted, sample, series, view, well
from tests.support.snapshots import us


def named(found: Diagnosis) -> set[tuple[str, str | None]]:
    """Every cause that was named, with its subject."""
    return {(found.cause, found.subject), *((o.cause, o.subject) for o in found.also)}


def said(found: Diagnosis, question: str, source: str = "") -> Any:
    """The evidence of one question."""
    return next(e for e in found.evidence if e.question == question and source in ("", e.source))


DELTA = "Are all deltas within bounds?"


def deltas(share: float, since: float, until: float = 0.0):
    """A page whose deltas are impossible in such a share, from so long ago on."""
    return posted(
        lambda ago: (
            {"delta_out_of_bounds": round(10 * share), "greeks_valid": 10 - round(10 * share)}
            if until <= ago < since
            else {}
        )
    )


def test_all_is_well() -> None:
    """Where everything is observed and nothing is wrong, the cause is none, and sure."""
    found = diagnose(view())
    assert (found.cause, found.subject, found.also, found.severity, found.runbook) == (
        "none",
        None,
        (),
        None,
        None,
    ) and found.confidence > 0.8, repr(found)
    assert all(e.age_s is not None for e in found.evidence if e.contradicts), repr(found)


def test_the_page_is_believed_against_an_older_chain() -> None:
    """
    Deltas impossible for four minutes at 70 %, a chain fetched 12 minutes ago was fine: the page is believed, and the
    chain is shown as older.
    """
    found = diagnose(view(posts=deltas(0.7, 240)))
    assert (
        (found.cause, found.subject) == ("greeks_out_of_bounds", "app")
        and found.confidence > 0.9
        and found.runbook == "greeks_quality"
        and found.severity in ("critical", "escalate")
    ), repr(found)
    page, older = said(found, DELTA, "page"), said(found, DELTA, "chain")
    assert (
        page.supports == ("greeks_out_of_bounds",)
        and page.age_s <= 5
        and older.age_s == 720
        and older.contradicts == ("greeks_out_of_bounds",)
    )


def test_a_newer_chain_that_is_fine_is_a_contradiction() -> None:
    """
    A chain fetched two minutes after the page began to count: still the alert's cause, but half as sure, and the
    contradiction is in the evidence.
    """
    found, older = diagnose(view(but([chain(120)]), deltas(0.7, 300))), diagnose(view(posts=deltas(0.7, 300)))
    assert (found.cause, found.subject) == ("greeks_out_of_bounds", "app") and found.confidence == pytest.approx(
        older.confidence / 2, abs=0.01
    )
    assert said(found, DELTA, "chain").contradicts == (
        "greeks_out_of_bounds",
    ) and "contradicts it:\n    Are all deltas within bounds?" in repr(found)


def test_a_chain_that_agrees_gives_the_provider() -> None:
    """Where a chain shows the same as the page, the subject is who sends it, and the cause is named once."""
    found = diagnose(view(but([chain(60, faults={"delta_out_of_bounds": 60}, flagged=60)]), deltas(0.7, 300)))
    assert (found.cause, found.subject, found.also) == ("greeks_out_of_bounds", "massive", ()), repr(found)


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ({"gamma_zero": 5, "greeks_valid": 5}, "greeks_gamma_zero"),
        # Not valid, and nothing is wrong with it: estimated, since something is missing.
        ({"greeks_valid": 2}, "greeks_missing"),
        ({"delta_out_of_bounds": 5, "greeks_valid": 5}, "greeks_out_of_bounds"),
    ],
)
@pytest.mark.parametrize("has_chain", [True, False])
def test_the_page_alone_finds_each_kind_of_greek(change: dict[str, int], cause: str, has_chain: bool) -> None:
    """Each fault of Greeks is found by the page, with an older chain or with none."""
    samples = [s for s in well() if has_chain or s.probe != "chain"]
    found = diagnose(view(samples, posted(lambda ago: change if ago < 240 else {})))
    assert (found.cause, found.subject, found.also) == (cause, "app", ()), repr(found)


def test_a_mere_warning_of_the_page_is_no_cause() -> None:
    """One delta in a hundred, of which people are warned only after a quarter of an hour, may be chance."""
    found = diagnose(
        view(
            [s for s in well() if s.probe != "chain"],
            posted(lambda ago: {"delta_out_of_bounds": 1, "greeks_valid": 9} if ago % 50 == 0 else {}),
        )
    )
    assert found.cause == NONE and "> 0.5 %" in said(found, DELTA, "page").answer, repr(found)


def test_a_missing_gamma_that_the_page_counts_as_zero() -> None:
    """The page counts a missing gamma as zero: where the newest chain lacks Greeks, that is the cause."""
    found = diagnose(
        view(
            but([chain(60, faults={"missing": 80}, missing=80, flagged=80)]),
            posted(lambda ago: {"gamma_zero": 4, "greeks_valid": 6} if ago < 300 else {}),
        )
    )
    assert (found.cause, found.subject, found.also) == ("greeks_missing", "massive", ()), repr(found)


BAD = {"delta_out_of_bounds": 60}


@pytest.mark.parametrize(
    ("chains", "subject"),
    [
        ([chain(60, "SPY", faults=BAD, flagged=60), chain(60, "AAPL", faults=BAD, flagged=60)], "massive"),
        (
            [chain(60, "SPY", faults=BAD, flagged=60), chain(60, "AAPL", faults=BAD, flagged=60), chain(60, "QQQ")],
            "massive",
        ),
        ([chain(60, "SPY"), chain(60, "AAPL", faults=BAD, flagged=60)], "AAPL"),
        ([chain(60, "SPY", faults=BAD, flagged=60)], "massive"),
    ],
)
def test_whose_greeks_are_bad(chains: list[Any], subject: str) -> None:
    """Those of a symbol only where it is the only one of several; the same for a kind of fault and for units."""
    found = diagnose(view(but(chains)))
    assert (found.cause, found.subject) == ("greeks_out_of_bounds", subject) and found.severity is not None, repr(found)
    drifted = [
        s._replace(detail=s.detail.replace("per_day", "per_year")) if '"flagged": 60' in s.detail else s for s in chains
    ]
    drifted = [
        s._replace(detail=s.detail.replace('"delta_out_of_bounds": 60', "").replace('"flagged": 60', '"flagged": 0'))
        for s in drifted
    ]
    units = diagnose(view(but(drifted)))
    assert (units.cause, units.subject) == ("greeks_units", subject) and units.severity is not None, repr(units)


@pytest.mark.parametrize(("age", "expected"), [(0, 1.0), (450, 0.9), (900, 0.8), (1500, 0.8)])
def test_no_fault_is_less_sure_with_an_older_chain(age: float, expected: float) -> None:
    """
    1 - 0.2 * age / 900 s, not below 0.8, of the share of questions that were answered; of several symbols by the
    oldest.
    """
    others = [s for s in well() if s.probe != "chain"] + [chain(0, "AAPL")]
    found, newest = diagnose(view([*others, chain(age)])), diagnose(view([*others, chain(0)]))
    assert (found.cause, newest.cause) == ("none", "none") and found.confidence == pytest.approx(
        newest.confidence * expected, abs=0.006
    )


def test_no_fault_is_half_as_sure_while_a_minute_probe_differs() -> None:
    """
    Half of the contracts of the newest probe are gone, and no chain has been fetched since: half as sure, and said; a
    chain fetched since settles it.
    """
    gone = [sample(0, "data", "massive", seconds=0.2, value=1.0, gone=25, moved=0, of=50)]
    differs, settled = diagnose(view(but(gone, [chain(40)]))), diagnose(view(but(gone, [chain(0)])))
    assert (differs.cause, settled.cause) == ("none", "none") and differs.confidence < 0.5 < 0.9 < settled.confidence
    assert (
        "of 50 contracts, 25 are missing" in said(differs, "Does the newest probe match the last stored chain?").answer
    )


def zeros(share: float, since: float):
    """A page that counts such a share of gammas as zero, from so long ago on."""
    return posted(
        lambda ago: {"gamma_zero": round(10 * share), "greeks_valid": 10 - round(10 * share)} if ago < since else {}
    )


def test_zeros_of_what_expires_are_no_fault() -> None:
    """
    The page counts zeros, contracts expire today, and a chain that was fetched since shows no tradable one without
    gamma: expiry; by an older chain, or one that shows zeros, it is the fault.
    """
    expiring = {"expires_today": 90, "expiring_zero": 20}
    assert (diagnose(view(but([chain(60, **expiring)]), zeros(0.1, 300))).cause) == "expiry"
    assert (diagnose(view(but([chain(400, **expiring)]), zeros(0.1, 300))).cause) == "greeks_gamma_zero"
    assert (diagnose(view(but([chain(400, **expiring, contracts=430)]), zeros(0.1, 300))).cause) == "greeks_gamma_zero"
    assert (diagnose(view(but([chain(400, **expiring, contracts=370)]), zeros(0.1, 300))).cause) == "expiry"
    assert (
        diagnose(view(but([chain(60, **expiring, faults={"gamma_zero": 40}, flagged=40)]), zeros(0.1, 300))).cause
    ) == "greeks_gamma_zero"
    assert (diagnose(view(but([chain(60)]), zeros(0.1, 300))).cause) == "greeks_gamma_zero"
    assert (
        diagnose(view(but([chain(60, expires_today=90, expiring_zero=0)]), zeros(0.1, 300))).cause
    ) == "greeks_gamma_zero"


@pytest.mark.parametrize("since", [62, 75, 100, 118])
def test_a_chain_of_just_before_the_zeros_excuses_nothing(since: float) -> None:
    """
    A chain that was fetched seconds before the page began to count zeros is older than they are, in whichever part of a
    minute they began.
    """
    found = diagnose(view(but([chain(since + 8, expires_today=90, expiring_zero=30)]), zeros(1.0, since)))
    assert found.cause == "greeks_gamma_zero", repr(found)
    assert (
        diagnose(view(but([chain(since - 22, expires_today=90, expiring_zero=30)]), zeros(1.0, since))).cause
        == "expiry"
    )


def refusing(line: str, times: int = 3) -> list[Any]:
    """An app's log with a line of a refused request every two minutes."""
    return [
        sample(120.0 * i + 20, "log", "app", "ok", None, 1.0, kinds={"auth": 1}, newest={"auth": line})
        for i in range(times)
    ]


PLAN = "[v0] Massive proxy error (403): HTTP 403 from /v3/snapshot/options/SPY: You are not entitled to this data"


@pytest.mark.parametrize(
    ("line", "cause"),
    [
        (PLAN, "provider_plan"),
        ("[v0] Massive proxy error (502): HTTP 401 from /v3/snapshot/options/SPY: Unknown API Key", "provider_auth"),
        (
            "[v0] Massive proxy error (403): HTTP 403 from /v3/snapshot/options/SPY: your IP address is not allowed",
            "provider_ip_blocked",
        ),
        # Our key is accepted elsewhere.
        ("[v0] Massive proxy error (403): HTTP 403 from /v3/snapshot/options/SPY: Forbidden", "provider_plan"),
        ("[WS options] token refused: unauthorized", "none"),  # This is nobody's provider.
    ],
)
def test_a_refusal_that_only_the_log_shows(line: str, cause: str) -> None:
    """
    The app counts no answer of 401 or 403, and none of our own few probes met one: its log names the provider and says
    why.
    """
    found = diagnose(view(but(refusing(line))))
    assert (found.cause, found.subject) == (cause, None if cause == "none" else "massive"), repr(found)
    assert cause == "none" or 0.5 < found.confidence < 0.9


def test_one_line_of_the_log_is_no_cause() -> None:
    """
    One refused request determines nothing; with one of our own probes that met the same it does, more surely, and its
    words are the probe's.
    """
    assert diagnose(view(but(refusing(PLAN, 1)))).cause == "none"
    met = diagnose(
        view(
            but(
                refusing(PLAN.replace("You are not entitled to this data", "Forbidden"), 1),
                [sample(240, "data", "massive", "ip_blocked_403")],
            )
        )
    )
    assert (met.cause, met.subject) == ("provider_ip_blocked", "massive") and met.confidence > 0.8, repr(met)


def test_an_app_that_is_slow_at_times() -> None:
    """
    Three answers of 120 took 3 s, which no answer of a sound server does: slow, though not one in twenty of the last
    minutes is; not where a provider was as slow in the same minutes.
    """
    slow = [sample(ago, "health", "app", seconds=3.0, value=90_000 - ago, skew_s=0.0) for ago in (60, 240, 420)]
    found = diagnose(view(but(*([s] for s in slow))))
    assert (found.cause, found.subject) == ("app_slow", "app") and found.confidence < 0.8, repr(found)
    assert diagnose(view(but(*([s] for s in slow[:2])))).cause == "none"
    late = [sample(ago, "liveness", "massive", seconds=2.5, market="open", skew_s=0.1) for ago in (60, 240)]
    assert diagnose(view(but(*([s] for s in (*slow, *late))))).cause == "none"


def test_both_providers_at_times() -> None:
    """
    Each provider answers some probes with an error, and the page counts requests that fail beside others: both, not one
    of them.
    """
    samples = but(
        *(
            [sample(ago, "liveness", name, "server_5xx", 0.1)]
            for name in ("massive", "tradier")
            for ago in (60, 180, 300)
        )
    )
    found = diagnose(
        view(samples, posted(lambda ago: {"massive_successes": 4, "massive_failures": 1} if ago % 20 == 0 else {}))
    )
    assert (found.cause, found.also) == ("both_providers_down", ()), repr(found)


def alerted(found: Any, *alerts: dict[str, Any]) -> Any:
    """A view with just these alerts."""
    vars(found)["alerts"] = list(alerts)
    return found


def test_what_our_network_explained_goes_on_being_explained() -> None:
    """
    Our network was gone from 8 to 4 minutes ago and is back: the requests that failed then are its doing, and so is an
    alert whose window still holds them.
    """
    gone = [series("liveness", name, "unreachable", since=480, until=245) for name in ("massive", "tradier")]
    failing = {"massive_successes": 0, "massive_failures": 5, "tradier_successes": 0, "tradier_failures": 1}
    posts = posted(lambda ago: failing if 240 <= ago < 480 else {})
    alert = {
        "id": "availability-app",
        "rule": "availability",
        "subject": "app",
        "source": "page",
        "state": "firing",
        "severity": "escalate",
        "sentence": "no provider is available",
        "inhibited_by": None,
        "runbook": "provider_availability",
    }
    for rule, subject in (
        ("availability", "app"),
        ("availability", "massive"),
        ("errors", "app"),
        ("answers", "tradier"),
    ):
        found = diagnose(alerted(view(but(*gone), posts), alert | {"rule": rule, "subject": subject}))
        assert (found.cause, found.subject, found.also) == ("our_network", None, ()), repr(found)
    assert diagnose(alerted(view(but(*gone), posts))).cause == "none"
    soon = posted(lambda ago: failing if 60 <= ago < 300 else {})
    after = diagnose(
        alerted(
            view(
                but(*(series("liveness", name, "unreachable", since=300, until=65) for name in ("massive", "tradier"))),
                soon,
            )
        )
    )
    assert (
        after.cause == "none"
        and "our network was down" in said(after, "Do the app's requests to massive succeed?").answer
    ), repr(after)
    down = [series("liveness", name, "server_5xx", since=480, until=245) for name in ("massive", "tradier")]
    assert diagnose(alerted(view(but(*down), posts), alert)).cause == "both_providers_down"


def test_an_app_that_is_slower_than_our_lag_explains() -> None:
    """
    Our collector lost half of its time: an app that takes 3 s, without what was lost, while the providers take 0.3 s is
    slow; where they take as long, it is ours.
    """
    starving = series("beat", "collector", value=50.0, every_s=5, lag_s=2.5)
    slow = series("health", "app", since=300, seconds=3.4, value=lambda ago: 90_000 - ago, skew_s=0.0, lag_s=0.4)
    found = diagnose(view(but(starving, slow)))
    assert (found.cause, found.subject) == ("app_slow", "app") and ("monitor_down", "collector") in named(found), repr(
        found
    )
    late = [
        series("liveness", name, since=300, seconds=2.0, market="open", skew_s=0.0) for name in ("massive", "tradier")
    ]
    assert diagnose(view(but(starving, slow, *late))).cause == "monitor_down"


FAILING = {"massive_successes": 0, "massive_failures": 5}


def test_an_app_server_that_is_down_explains_the_page() -> None:
    """The page's requests pass through the app's server: while that is down, their failures are not Massive's."""
    down = but(refuses(180), series("socket", "app", "refused", since=180), series("process", "app", "gone", since=180))
    found = diagnose(
        view(
            down, posted(lambda ago: FAILING if ago < 180 else {}, said=lambda ago: {"websocket_connected": ago >= 180})
        )
    )
    assert (found.cause, found.subject, found.also) == ("app_down", "app", ()), repr(found)
    assert said(found, "Does massive respond to our probes?").supports == ()


def test_a_page_that_fails_while_our_probes_are_answered_is_named() -> None:
    """
    Massive fails for the page alone, and the app's server runs: undetermined, with whose requests fail; the app's log
    decides it.
    """
    failing = posted(lambda ago: FAILING if ago < 240 else {})
    found = diagnose(view(posts=failing))
    assert (found.cause, found.subject, found.runbook, found.confidence) == (
        "undetermined",
        "massive",
        "massive_down",
        0.0,
    ) and found.severity == "critical", repr(found)
    logged = diagnose(
        view(
            but([sample(ago, "log", "app", "ok", None, 5.0, kinds={"auth": 5}, newest={}) for ago in (60, 30)]), failing
        )
    )
    assert (
        (logged.cause, logged.subject) == ("provider_auth", "massive")
        and 0 < logged.confidence < 0.6
        and said(logged, "Do the app's requests to massive succeed?").source == "logs"
    ), repr(logged)


@pytest.mark.parametrize("subjects", [("massive",), ("massive", "tradier")])
def test_our_probes_that_fail_while_the_page_s_requests_succeed(subjects: tuple[str, ...]) -> None:
    """
    Our probes have timed out for two minutes, and the page's requests went on to succeed: a contradiction, so half as
    sure as where they ceased.
    """
    out = but(*(series("liveness", s, "timeout", since=120) for s in subjects))
    silent = posted(
        lambda ago: (
            dict.fromkeys([f"{s}_{how}" for s in subjects for how in ("requests", "successes")], 0) if ago < 125 else {}
        )
    )
    found, sure = diagnose(view(out)), diagnose(view(out, silent))
    assert found.cause == sure.cause in ("provider_timeout", "both_providers_down") and sure.confidence > 0.9, repr(
        sure
    )
    assert found.confidence == pytest.approx(sure.confidence / 2, abs=0.01), repr(found)
    assert found.cause in said(found, "Do the app's requests to massive succeed?").contradicts


def test_after_a_recovery_nobody_is_blamed_anew() -> None:
    """
    Massive was out and has answered for three minutes, page and probes alike: the answer is that outage, and not the
    page's requests.
    """
    over = but(
        series("liveness", "massive", "server_5xx", since=420, until=185),
        series("data", "massive", "server_5xx", since=420, until=185),
    )
    found = diagnose(view(over, posted(lambda ago: FAILING if 185 <= ago < 420 else {})))
    assert (found.cause, found.subject, found.also) == ("provider_5xx", "massive", ()) and found.confidence < 0.6, repr(
        found
    )
    assert said(found, "Do the app's requests to massive succeed?").answer.startswith("Yes, now")


@pytest.mark.parametrize(
    ("outcome", "cause"),
    [
        ("server_5xx", "provider_5xx"),
        ("timeout", "provider_timeout"),
        ("refused", "provider_refused"),
        ("dns", "provider_dns"),
        ("tls", "provider_tls"),
        ("auth_401", "provider_auth"),
        ("entitlement_403", "provider_plan"),
        ("ip_blocked_403", "provider_ip_blocked"),
        ("rate_limited_429", "provider_rate_limited"),
        ("wrong_content", "provider_wrong_content"),
        ("bad_json", "provider_wrong_content"),
        ("ok_empty", "provider_empty"),
        ("stale", "provider_stale"),
        ("unreachable", "provider_timeout"),
        ("reset", "provider_refused"),
    ],
)
@pytest.mark.parametrize("subject", ["massive", "tradier"])
def test_each_failure_of_a_provider(outcome: str, cause: str, subject: str) -> None:
    """
    Every way in which a provider fails is its cause after two probes, whichever provider it is, and never after one.
    """
    found = diagnose(view(but(series("liveness", subject, outcome, since=9))))
    assert (found.cause, found.subject, found.also) == (cause, subject, ()), repr(found)
    once = diagnose(view(but(series("liveness", subject, outcome, since=0))))
    assert (once.cause, once.also) == ("none", ()) and "One failed probe is not enough" in repr(once), repr(once)


def test_the_data_alone_may_fail() -> None:
    """A plan refuses the option data while the provider is there: its cause, after two probes of the data."""
    found = diagnose(view(but(series("data", "massive", "entitlement_403", since=65))))
    assert (found.cause, found.subject) == ("provider_plan", "massive"), repr(found)
    denied = diagnose(view(but(series("data", "massive", "denied_403", since=65))))
    assert (denied.cause, denied.subject) == ("provider_plan", "massive") and denied.confidence < 0.6, repr(denied)


def test_data_that_is_refused_while_the_provider_comes_and_goes() -> None:
    """
    Each probe of the data is refused by the plan, and the liveness fails now and then with 5xx: the plan is found, and
    not an outage that comes and goes.
    """
    flaky = [sample(ago, "liveness", "massive", "server_5xx", 0.1) for ago in (400, 250, 120, 60)]
    found = diagnose(view(but(series("data", "massive", "entitlement_403", since=620), *([s] for s in flaky))))
    assert ("provider_plan", "massive") in named(found), repr(found)


@pytest.mark.parametrize(
    ("kinds", "cause"),
    [
        (("auth_401",) * 4, "provider_auth"),
        (("server_5xx",) * 4, "provider_5xx"),
        (("server_5xx", "reset", "server_5xx", "reset"), "provider_intermittent"),
        (("server_5xx", "timeout", "refused", "server_5xx"), "provider_intermittent"),
        (("auth_401",) * 5 + ("timeout",), "provider_auth"),
        (("auth_401", "auth_401"), "provider_auth"),
    ],
)
def test_what_fails_now_and_then(kinds: tuple[str, ...], cause: str) -> None:
    """
    Failures of one kind are that kind, also where a few are of another; of many kinds the provider comes and goes.
    """
    found = diagnose(
        view(but(*([sample(60 + 75 * i, "liveness", "massive", kind, 0.1)] for i, kind in enumerate(kinds))))
    )
    assert (found.cause, found.subject, found.also) == (cause, "massive", ()), repr(found)


def test_spells_are_distinguished_from_chance() -> None:
    """
    5xx for 20 s of every minute comes and goes; the same share of probes at random are plain 5xx; a wrong key in spells
    is a wrong key.
    """
    spells = [series("liveness", "massive", "server_5xx", since=60 * m + 19, until=60 * m) for m in range(1, 10)]
    chance = Random(1)
    scattered = [
        [sample(ago, "liveness", "massive", "server_5xx", 0.1)] for ago in range(0, 600, 5) if chance.random() < 1 / 3
    ]
    keys = [series("liveness", "massive", "auth_401", since=60 * m + 19, until=60 * m) for m in range(1, 10)]
    assert [diagnose(view(but(*changed))).cause for changed in (spells, scattered, keys)] == [
        "provider_intermittent",
        "provider_5xx",
        "provider_auth",
    ]


def test_both_providers_that_fail_now_and_then() -> None:
    """Neither provider is sure to serve where both fail at every third probe: one cause, not one of them."""
    flaky = [[sample(20 + 15 * i, "liveness", s, "server_5xx", 0.1)] for i in range(12) for s in ("massive", "tradier")]
    found = diagnose(view(but(*flaky)))
    assert (found.cause, found.also) == ("both_providers_down", ()), repr(found)


def test_two_providers_with_two_causes() -> None:
    """A wrong key at one and an outage of the other: neither serves, and each cause is named."""
    found = diagnose(
        view(
            but(
                series("liveness", "massive", "auth_401", since=120),
                series("data", "massive", "auth_401", since=120),
                series("liveness", "tradier", "server_5xx", since=120),
            )
        )
    )
    assert (
        named(found) == {("both_providers_down", None), ("provider_auth", "massive"), ("provider_5xx", "tradier")}
        and found.cause == "both_providers_down"
    ), repr(found)


def logged(since: float, value: float = 1.0, **kinds: int):
    """What the app logs at each reading since so long ago."""
    return series("log", "app", since=since, value=value, kinds=kinds, newest={})


def refuses(since: float):
    """The app's server refuses every connection since so long ago."""
    return [
        *series("health", "app", "refused", since=since),
        *series("metrics", "app", "refused", until=2, since=since),
    ]


PAIRS = {
    "a wrong key explains no time-out of the app": (  # The app gives up after 150 ms on what takes us 200.
        [
            series("liveness", "tradier", "auth_401", since=200),
            series("log", "app", since=200, value=1.0, kinds={"timeout": 1}, newest={}, waited_ms=150),
        ],
        {("provider_auth", "tradier"), ("our_timeout_too_short", "massive")},
    ),
    "an outage explains errors that it makes": (
        [series("liveness", "massive", "server_5xx", since=200), logged(200, 2.0, provider_5xx=1, other_error=1)],
        {("provider_5xx", "massive")},
    ),
    "a wrong key explains errors that it makes": (
        [series("liveness", "massive", "auth_401", since=200), logged(200, 1.0, auth=1)],
        {("provider_auth", "massive")},
    ),
    "a wrong key explains no time-outs in the log": (
        [series("liveness", "massive", "auth_401", since=200), logged(200, 2.0, timeout=2)],
        {("provider_auth", "massive"), ("error_storm", "app")},
    ),
    "an outage explains no flood of other errors": (
        [series("liveness", "massive", "server_5xx", since=200), logged(200, 9.0, provider_5xx=1, other_error=8)],
        {("provider_5xx", "massive"), ("error_storm", "app")},
    ),
    "a refused token is no consequence of an outage": (
        [series("liveness", "massive", "refused", since=200), series("socket", "app", "forbidden_403", since=200)],
        {("provider_refused", "massive"), ("socket_auth", "app")},
    ),
    "a server that is down loses its sockets": (
        [refuses(60), series("socket", "app", "refused", since=60)],
        {("app_down", "app")},
    ),
    "a server that is down silences no socket that is open": (
        [refuses(60), series("socket", "app", "silent", since=60, value=90.0)],
        {("app_down", "app"), ("socket_silent", "app")},
    ),
    "a token that nobody gives is the server's": (
        [refuses(60), series("socket", "app", "refused", since=60, why="no token for the socket")],
        {("app_down", "app")},
    ),
    "a server that is down explains no wrong key": (
        [refuses(60), series("liveness", "massive", "auth_401", since=60)],
        {("app_down", "app"), ("provider_auth", "massive")},
    ),
    "an outage cuts a chain": (
        [
            series("liveness", "massive", "timeout", since=200),
            [chain(60, outcome="partial"), chain(130, outcome="partial")],
        ],
        {("provider_timeout", "massive")},
    ),
    "a wrong key cuts no chain": (
        [
            series("liveness", "massive", "auth_401", since=30),
            [chain(60, outcome="partial"), chain(130, outcome="partial")],
        ],
        {("provider_auth", "massive"), ("provider_partial", "massive")},
    ),
    "an outage of one provider explains nothing of a chain of the other": (
        [
            series("liveness", "tradier", "timeout", since=200),
            [chain(60, outcome="partial"), chain(130, outcome="partial")],
        ],
        {("provider_timeout", "tradier"), ("provider_partial", "massive")},
    ),
    "our network": (
        [series("liveness", s, "unreachable", since=60) for s in ("massive", "tradier")]
        + [series("socket", "app", "unreachable", since=60)],
        {("our_network", None)},
    ),
    "our network explains no wrong Greeks": (
        [series("liveness", s, "dns", since=60) for s in ("massive", "tradier")]
        + [[chain(120, faults={"gamma_zero": 90}, flagged=90)]],
        {("our_network", None), ("greeks_gamma_zero", "massive")},
    ),
    "errors explain no wrong Greeks": (
        [logged(300, 2.0, other_error=2), [chain(120, faults={"delta_out_of_bounds": 90}, flagged=90)]],
        {("greeks_out_of_bounds", "massive"), ("error_storm", "app")},
    ),
    "a clock explains no wrong key": (
        [
            series("health", "app", since=300, seconds=0.02, value=lambda ago: 90_000 - ago, skew_s=600.0),
            series("liveness", "massive", "auth_401", since=60),
        ],
        {("provider_auth", "massive"), ("clock_skew", "app")},
    ),
}


@pytest.mark.parametrize("name", PAIRS)
def test_a_mechanism_explains_away(name: str) -> None:
    """What one cause cannot produce is a cause of its own."""
    changed, expected = PAIRS[name]
    found = diagnose(view(but(*changed)))
    assert named(found) == expected, repr(found)


def test_a_dead_collector_hides_nothing_that_the_page_shows() -> None:
    """The collector is dead and the page's deltas are impossible: both are named."""
    found = diagnose(view([s for s in well() if s.ts_us <= sample(90, "beat", "collector").ts_us], deltas(0.7, 240)))
    assert (
        named(found) == {("monitor_down", None), ("greeks_out_of_bounds", "app")} and found.cause == "monitor_down"
    ), repr(found)


def test_one_refused_connection_is_no_outage_of_the_app() -> None:
    """One refused probe of the app's server determines nothing; a second one, or its process that is gone, does."""
    once = diagnose(view(but(series("health", "app", "refused", since=0))))
    assert (
        once.cause == "none" and "One failed probe is not enough" in said(once, "Is the app's server running?").answer
    ), repr(once)
    for more in (
        refuses(5),
        [*series("health", "app", "refused", since=0), *series("process", "app", "gone", since=0)],
    ):
        assert (diagnose(view(but(more))).cause) == "app_down"


def test_a_server_that_answers_again_is_not_down() -> None:
    """
    The metrics were refused at a restart 50 s ago, and the health has been answered since: the newer answer is
    believed; so of a process that was gone.
    """
    again = but(
        series("health", "app", "refused", since=52, until=47),
        [sample(50, "metrics", "app", "refused")],
        [sample(48, "process", "app", "gone")],
    )
    again = [
        s for s in again if not (s.probe in ("metrics", "process") and s.ts_us > sample(48, "process", "app").ts_us)
    ]
    found = diagnose(view(again))
    assert found.cause != "app_down", repr(found)


def test_a_restart_minutes_ago_comes_after_what_goes_on() -> None:
    """
    The server was started anew three minutes ago; a wrong key that is refused now, or a market that both providers call
    closed, comes first, with the restart beside it.
    """
    anew = series("health", "app", since=180, seconds=0.02, value=lambda ago: 180 - ago, skew_s=0.0)
    refused = diagnose(view(but(anew, series("liveness", "massive", "auth_401", since=60))))
    shut = diagnose(
        view(
            but(
                anew,
                *(
                    series("liveness", s, since=120, seconds=0.2, market="closed", skew_s=0.0)
                    for s in ("massive", "tradier")
                ),
            )
        )
    )
    alone = diagnose(view(but(anew)))
    assert [(f.cause, *map(str, f.also)) for f in (refused, shut, alone)] == [
        ("provider_auth", "app_restarted of app"),
        ("market_closed", "app_restarted of app"),
        ("app_restarted",),
    ]


def test_an_options_route_that_the_plan_refuses() -> None:
    """
    Tradier is there and its quotes are new, but its plan has no options: the fallback is missing, and that is found.
    """
    found = diagnose(view(but(series("options", "tradier", "entitlement_403", since=600, every=60))))
    assert (found.cause, found.subject, found.also) == ("provider_plan", "tradier", ()), repr(found)


def test_slow_needs_its_least_count() -> None:
    """Five slow answers are no slow server where the rule asks for twenty; of sixty, five are."""
    few = [s for s in well() if s.probe != "health"] + series("health", "app", since=20, seconds=3.0, value=9000.0)
    found = diagnose(view(few))
    assert (
        found.cause == "none"
        and "too few samples (5 of 20 required)" in said(found, "Does the app's server respond fast enough?").answer
    ), repr(found)
    assert (
        diagnose(view(but(series("health", "app", since=20, seconds=3.0, value=lambda ago: 90_000 - ago)))).cause
        == "app_slow"
    )


def test_what_nobody_is_notified_of_is_no_cause() -> None:
    """Answers of 0.7 s are slower than usual and not critical: shown, and no cause beside another."""
    late = series("health", "app", since=290, seconds=0.7, value=lambda ago: 90_000 - ago)
    found = diagnose(view(but(late, series("liveness", "massive", "auth_401", since=60))))
    assert (
        named(found) == {("provider_auth", "massive")}
        and "p95 0.70 s" in said(found, "Does the app's server respond fast enough?").answer
    ), repr(found)


def test_an_earlier_restart_is_said() -> None:
    """A restart a quarter of an hour ago is no cause any more, and the answer does not say that there was none."""
    found = diagnose(
        view(but(series("health", "app", since=900, seconds=0.02, value=lambda ago: 900 - ago, skew_s=0.0)))
    )
    assert (
        found.cause == NONE
        and said(found, "Did the app's server restart?").answer == "Yes, at 10:45:00 New York, more than 5 min ago."
    ), repr(found)


def test_one_probe_of_the_socket_is_not_enough() -> None:
    """
    A socket that one probe found closed determines nothing, two do; a page that lost its own for less than the rule
    holds neither.
    """
    assert diagnose(view(but(series("socket", "app", "closed", since=0, code=1006)))).cause == "none"
    assert diagnose(view(but(series("socket", "app", "closed", since=5, code=1006)))).cause == "socket_closed"
    assert diagnose(view(posts=posted(said=lambda ago: {"websocket_connected": ago >= 6}))).cause == "none"
    assert diagnose(view(posts=posted(said=lambda ago: {"websocket_connected": ago >= 60}))).cause == "socket_closed"


@pytest.mark.parametrize(
    ("outcome", "why", "cause"),
    [
        ("timeout", "takes the connection and does not answer the upgrade", "socket_blocked"),
        ("timeout", "open, and no answer to a ping", "socket_silent"),
        ("client_4xx", "", "socket_blocked"),
        ("reset", "", "socket_blocked"),
        ("unreachable", "", "socket_blocked"),
        ("forbidden_403", "", "socket_auth"),
        ("closed", "", "socket_closed"),
        ("silent", "", "socket_silent"),
        ("wrong_content", "what answers is no WebSocket", "socket_blocked"),
    ],
)
def test_each_way_in_which_the_socket_fails(outcome: str, why: str, cause: str) -> None:
    """
    While the app's server answers, a socket that cannot be opened is blocked; an open one is closed, or says nothing.
    """
    found = diagnose(view(but(series("socket", "app", outcome, since=30, why=why))))
    assert (found.cause, found.subject, found.also) == (cause, "app", ()), repr(found)


def test_a_server_that_answers_nobody_is_down() -> None:
    """The app's server takes connections and answers none of them, nor a ping on its socket: down, not slow."""
    for outcome, why in (
        ("timeout", "open, and no answer to a ping"),
        ("timeout", "takes the connection and does not answer the upgrade"),
        ("unreachable", ""),
    ):
        found = diagnose(
            view(
                but(
                    series("health", "app", "timeout", since=30),
                    series("metrics", "app", "timeout", since=30, until=2),
                    series("socket", "app", outcome, since=30, why=why),
                )
            )
        )
        assert (found.cause, found.subject, found.also) == ("app_down", "app", ()), repr(found)


def test_contracts_that_expire_are_a_cause_of_zeros_alone() -> None:
    """
    SPY has contracts that expire every day: that is no cause while nothing is strange, and it is one of a few zeros
    that the page counts.
    """
    expiring = but([chain(120, expires_today=90, expiring_zero=30)])
    some = posted(lambda ago: {"gamma_zero": 1, "greeks_valid": 9} if ago % 50 == 0 else {})
    assert (diagnose(view(expiring)).cause, diagnose(view(expiring, some)).cause) == ("none", "expiry")


def test_a_chain_cut_once_is_not_enough() -> None:
    """One chain that came in part determines nothing, two do; one that is whole and has half of its contracts does."""
    assert diagnose(view(but([chain(60, outcome="partial")]))).cause == "none"
    assert (
        diagnose(view(but([chain(120, outcome="partial"), chain(60, outcome="partial")]))).cause == "provider_partial"
    )
    assert diagnose(view(but([chain(60, contracts=200)]))).cause == "provider_partial"


def test_every_rule_that_notifies_has_a_cause() -> None:
    """The causes of alerts are causes, and of rules that exist."""
    assert {*causes.OF_RULE.values()} <= {*causes.CAUSES} and {*causes.PRODUCES} <= {*causes.CAUSES}
    assert {*causes.WHOSE} == {*causes.CAUSES} and causes.whose("provider_5xx", "massive") == "Massive"


def fired(rule: str, subject: str, source: str, severity: str, inhibited_by: str | None = None) -> Transition:
    """An alert on record that fired a minute ago."""
    return Transition(
        us(NOW - 60),
        rule,
        subject,
        source,
        f"{rule}-{subject}-{source}",
        "fired",
        severity,
        1.0,
        0.5,
        us(NOW - 90),
        None,
        inhibited_by,
        f"{rule} is past its limit",
        "hash",
    )


EVERY = [
    (rule.name, subject, source)
    for rule in rules.load().rules.values()
    for subject in rule.subjects
    for source in rule.sources
]


@pytest.mark.parametrize(("rule", "subject", "source"), [*EVERY, ("made_up_by_another_monitor", "app", "page")])
def test_an_active_alert_is_never_none(rule: str, subject: str, source: str) -> None:
    """
    Whatever alert is active at notify or above while everything else looks well, the cause is not none, and its runbook
    is named.
    """
    for severity in SENT:
        for inhibited_by in (None, "availability-massive-page"):
            found = diagnose(view(recorded=[fired(rule, subject, source, severity, inhibited_by)]))
            assert (
                found.cause not in (NONE, *causes.NO_FAULT)
                and found.severity == severity
                and found.evidence[-1].supports == (found.cause,)
            ), repr(found)
            assert found.runbook or rule.startswith("made_up"), repr(found)
    warned = diagnose(view(recorded=[fired(rule, subject, source, "warning")]))
    assert warned.cause == NONE, repr(warned)


KINDS = [
    ("liveness", "massive"),
    ("data", "massive"),
    ("liveness", "tradier"),
    ("data", "tradier"),
    ("health", "app"),
    ("metrics", "app"),
    ("socket", "app"),
]
BAD = (
    "server_5xx",
    "timeout",
    "refused",
    "dns",
    "auth_401",
    "entitlement_403",
    "rate_limited_429",
    "wrong_content",
    "ok_empty",
    "stale",
    "unreachable",
    "reset",
    "denied_403",
    "not_found_404",
    "closed",
    "silent",
)
COUNTS = (
    {},
    FAILING,
    {"massive_successes": 3, "massive_failures": 2},
    {"gamma_zero": 3, "greeks_valid": 7},
    {"delta_out_of_bounds": 3, "greeks_valid": 7},
    {"greeks_valid": 2},
    {"errors": 2},
    {"tradier_successes": 0, "tradier_failures": 1},
)


@pytest.mark.slow
@given(
    st.lists(
        st.tuples(st.sampled_from(KINDS), st.sampled_from(BAD), st.integers(0, 600), st.integers(5, 600)), max_size=3
    ),
    st.sampled_from(COUNTS),
    st.integers(0, 900),
    st.integers(0, 300),
    st.booleans(),
)
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_whatever_is_drawn_an_active_alert_is_never_none(
    spells: list[tuple[tuple[str, str], str, int, int]], counts: dict[str, int], since: int, until: int, connected: bool
) -> None:
    """
    Spells of failing probes, a page that counts failures, a page whose socket is lost: where an alert is active at
    notify or above, the cause is not none; a confidence is from 0 to 1; and every answer that is known has an age.
    """
    samples = but(
        *(series(*kind, outcome, since=until_ + length, until=until_) for kind, outcome, until_, length in spells)
    )
    seen = view(
        samples,
        posted(
            lambda ago: counts if until <= ago < since else {},
            said=lambda ago: {"websocket_connected": connected or ago > since},
        ),
    )
    found = diagnose(seen)
    active = [a for a in seen.alerts if a["state"] == "firing" and a["severity"] in SENT]
    assert not active or found.cause not in causes.NO_FAULT, (active, found)
    assert (
        0 <= found.confidence <= 1
        and found.cause in causes.CAUSES
        and not {(o.cause, o.subject) for o in found.also} & {(found.cause, found.subject)}
    )
    assert all(e.age_s is not None and e.source for e in found.evidence if e.supports or e.contradicts), repr(found)


@pytest.mark.parametrize(
    ("outcome", "cause"), [("server_5xx", "provider_5xx"), ("auth_401", "provider_auth"), ("timeout", "monitor_down")]
)
def test_what_lag_cannot_explain_comes_before_it(outcome: str, cause: str) -> None:
    """
    Our collector gets too little time: an answer that came with an error is Massive's all the same; one that came late
    may be our doing.
    """
    starving = series("beat", "collector", since=120, value=50.0, every_s=5, lag_s=4.0)
    found = diagnose(view(but(series("liveness", "massive", outcome, since=120), starving)))
    assert found.cause == cause, repr(found)
    if cause != "monitor_down":
        assert ("monitor_down", "collector") in found.also, repr(found)
