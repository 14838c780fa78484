"""
Test the diagnosis: evidence has an age, a cause explains its consequences, and two independent causes are both named.
"""

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
    """Return every cause that was named, with its subject."""
    return {(found.cause, found.subject), *((o.cause, o.subject) for o in found.also)}


def said(found: Diagnosis, question: str, source: str = "") -> Any:
    """Return the evidence of one question."""
    return next(e for e in found.evidence if e.question == question and source in ("", e.source))


DELTA = "Are all deltas within bounds?"


def deltas(share: float, since: float, until: float = 0.0):
    """Return posts of a page with this share of impossible deltas, from `since` to `until` seconds ago."""
    return posted(
        lambda ago: (
            {"delta_out_of_bounds": round(10 * share), "greeks_valid": 10 - round(10 * share)}
            if until <= ago < since
            else {}
        )
    )


def test_no_fault_has_cause_none() -> None:
    """If everything is observed and nothing is wrong, the cause is none, with high confidence."""
    found = diagnose(view())
    assert (found.cause, found.subject, found.also, found.severity, found.runbook) == (
        "none",
        None,
        (),
        None,
        None,
    ) and found.confidence > 0.8, repr(found)
    assert all(e.age_s is not None for e in found.evidence if e.contradicts), repr(found)


def test_a_newer_page_outweighs_an_older_chain() -> None:
    """
    If the page reports impossible deltas and a valid chain is older, the page's fault is the cause.

    The evidence shows the chain as older.
    """
    found = diagnose(view(posts=deltas(0.7, 240)))
    assert (
        (found.cause, found.subject) == ("greeks_out_of_bounds", "massive")
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


@pytest.mark.parametrize(
    ("down", "fails", "subject"),
    [((), {}, "massive"), (("massive",), {}, "tradier"), ((), {"massive_successes": 0}, "app")],
    ids=["Massive serves", "Tradier serves instead", "the page's requests to Massive fail"],
)
def test_the_page_shows_the_greeks_of_the_provider_that_serves(
    down: tuple[str, ...], fails: dict[str, int], subject: str
) -> None:
    """The page does not say whose Greeks it shows: they are those of the provider that serves, if that is known."""
    samples = but(*(series(probe, name, "server_5xx", until=0) for name in down for probe in ("liveness", "data")))
    bad = {"delta_out_of_bounds": 7, "greeks_valid": 3} | fails
    found = diagnose(view([s for s in samples if s.probe != "chain"], posted(lambda ago: bad if ago < 240 else {})))
    assert ("greeks_out_of_bounds", subject) in named(found), repr(found)


def test_a_newer_valid_chain_contradicts_the_page() -> None:
    """
    A valid chain that is newer than the page's first bad delta halves the confidence, and is shown as a contradiction.
    """
    found, older = diagnose(view(but([chain(120)]), deltas(0.7, 300))), diagnose(view(posts=deltas(0.7, 300)))
    assert (found.cause, found.subject) == ("greeks_out_of_bounds", "massive") and found.confidence == pytest.approx(
        older.confidence / 2, abs=0.01
    )
    assert said(found, DELTA, "chain").contradicts == (
        "greeks_out_of_bounds",
    ) and "contradicts it:\n    Are all deltas within bounds?" in repr(found)


def test_a_chain_that_agrees_names_the_provider() -> None:
    """If a chain shows the same fault as the page, the subject is the provider, and the cause is named once."""
    found = diagnose(view(but([chain(60, faults={"delta_out_of_bounds": 60}, flagged=60)]), deltas(0.7, 300)))
    assert (found.cause, found.subject, found.also) == ("greeks_out_of_bounds", "massive", ()), repr(found)


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ({"gamma_zero": 5, "greeks_valid": 5}, "greeks_gamma_zero"),
        # Invalid without a specific fault: estimated from missing inputs.
        ({"greeks_valid": 2}, "greeks_missing"),
        ({"delta_out_of_bounds": 5, "greeks_valid": 5}, "greeks_out_of_bounds"),
    ],
)
@pytest.mark.parametrize("has_chain", [True, False])
def test_the_page_alone_finds_each_fault_of_greeks(change: dict[str, int], cause: str, has_chain: bool) -> None:
    """The page alone determines each fault of Greeks, with an older chain or without one."""
    samples = [s for s in well() if has_chain or s.probe != "chain"]
    found = diagnose(view(samples, posted(lambda ago: change if ago < 240 else {})))
    assert (found.cause, found.subject, found.also) == (cause, "massive", ()), repr(found)


def test_a_warning_of_the_page_is_no_cause() -> None:
    """One bad delta in a hundred is only a warning, and no cause."""
    found = diagnose(
        view(
            [s for s in well() if s.probe != "chain"],
            posted(lambda ago: {"delta_out_of_bounds": 1, "greeks_valid": 9} if ago % 50 == 0 else {}),
        )
    )
    assert found.cause == NONE and "> 0.5 %" in said(found, DELTA, "page").answer, repr(found)


def test_a_missing_gamma_that_the_page_counts_as_zero() -> None:
    """The page counts a missing gamma as zero; if the newest chain lacks Greeks, the cause is missing Greeks."""
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
def test_the_subject_of_bad_greeks(chains: list[Any], subject: str) -> None:
    """
    The subject is a symbol only if it alone of several has the fault, otherwise the provider; the same holds for units.
    """
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
def test_no_fault_is_less_certain_with_an_older_chain(age: float, expected: float) -> None:
    """The confidence falls by 0.2 per 900 s of the oldest chain's age, but not below 80 % of the newest chain's."""
    others = [s for s in well() if s.probe != "chain"] + [chain(0, "AAPL")]
    found, newest = diagnose(view([*others, chain(age)])), diagnose(view([*others, chain(0)]))
    assert (found.cause, newest.cause) == ("none", "none") and found.confidence == pytest.approx(
        newest.confidence * expected, abs=0.006
    )


def test_no_fault_is_half_as_certain_if_a_newer_probe_differs() -> None:
    """
    If the newest probe misses half of the stored chain's contracts, the confidence is halved.

    A chain fetched later restores it.
    """
    gone = [sample(0, "data", "massive", seconds=0.2, value=1.0, gone=25, moved=0, of=50)]
    differs, settled = diagnose(view(but(gone, [chain(40)]))), diagnose(view(but(gone, [chain(0)])))
    assert (differs.cause, settled.cause) == ("none", "none") and differs.confidence < 0.5 < 0.9 < settled.confidence
    assert (
        "of 50 contracts, 25 are missing" in said(differs, "Does the newest probe match the last stored chain?").answer
    )


def zeros(share: float, since: float):
    """Return posts of a page that counts this share of gammas as zero, from `since` seconds ago."""
    return posted(
        lambda ago: {"gamma_zero": round(10 * share), "greeks_valid": 10 - round(10 * share)} if ago < since else {}
    )


def test_zeros_of_expiring_contracts_are_no_fault() -> None:
    """
    Zeros are due to expiry if a newer chain has zeros only among contracts that expire today.

    An older chain explains them only if it has at least as many zeros as the page counts.
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
def test_a_chain_older_than_the_zeros_does_not_explain_them(since: float) -> None:
    """
    A chain fetched seconds before the page began to count zeros is older than they are, at any second of a minute.
    """
    found = diagnose(view(but([chain(since + 8, expires_today=90, expiring_zero=30)]), zeros(1.0, since)))
    assert found.cause == "greeks_gamma_zero", repr(found)
    assert (
        diagnose(view(but([chain(since - 22, expires_today=90, expiring_zero=30)]), zeros(1.0, since))).cause
        == "expiry"
    )


def refusing(line: str, times: int = 3) -> list[Any]:
    """Return log samples with one refused request every two minutes."""
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
        # A plain 403: our key works elsewhere, so it is the plan.
        ("[v0] Massive proxy error (403): HTTP 403 from /v3/snapshot/options/SPY: Forbidden", "provider_plan"),
        ("[WS options] token refused: unauthorized", "none"),  # From no provider.
    ],
)
def test_a_rejection_that_only_the_log_shows(line: str, cause: str) -> None:
    """If neither page nor probes show a rejected request, the app's log still gives the provider and the reason."""
    found = diagnose(view(but(refusing(line))))
    assert (found.cause, found.subject) == (cause, None if cause == "none" else "massive"), repr(found)
    assert cause == "none" or 0.5 < found.confidence < 0.9


def test_one_log_line_is_no_cause() -> None:
    """
    One rejected request in the log is not enough; with a probe rejected the same way it is, with the probe's reason.
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


def test_an_app_with_occasional_slow_responses() -> None:
    """
    Three responses of 3 s among 120 are a slow app, although the p95 is normal; two are not.

    They are no fault of the app if a provider was slow in the same minutes.
    """
    slow = [sample(ago, "health", "app", seconds=3.0, value=90_000 - ago, skew_s=0.0) for ago in (60, 240, 420)]
    found = diagnose(view(but(*([s] for s in slow))))
    assert (found.cause, found.subject) == ("app_slow", "app") and found.confidence < 0.8, repr(found)
    assert diagnose(view(but(*([s] for s in slow[:2])))).cause == "none"
    late = [sample(ago, "liveness", "massive", seconds=2.5, market="open", skew_s=0.1) for ago in (60, 240)]
    assert diagnose(view(but(*([s] for s in (*slow, *late))))).cause == "none"


def test_occasional_failures_of_both_providers() -> None:
    """If both providers fail some probes and the page counts failed requests, the cause is both providers."""
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
    """Return the view with only these alerts."""
    vars(found)["alerts"] = list(alerts)
    return found


def test_failures_of_a_past_network_outage_stay_explained() -> None:
    """
    A network outage of ours that has ended stays the cause of requests that failed then.

    The same holds for alerts whose window still contains them.
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


def test_an_app_slower_than_the_collectors_lag() -> None:
    """
    With a lagging collector, an app slower than the lag is slow; if the providers are slow too, it is the collector.
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
    """While the app's server is down, failed requests of the page are not Massive's fault."""
    down = but(refuses(180), series("socket", "app", "refused", since=180), series("process", "app", "gone", since=180))
    found = diagnose(
        view(
            down, posted(lambda ago: FAILING if ago < 180 else {}, said=lambda ago: {"websocket_connected": ago >= 180})
        )
    )
    assert (found.cause, found.subject, found.also) == ("app_down", "app", ()), repr(found)
    assert said(found, "Does massive respond to our probes?").supports == ()


def test_only_the_pages_requests_fail() -> None:
    """
    If only the page's requests to Massive fail, the cause is undetermined, with Massive as subject.

    The app's log can determine it.
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
def test_probes_fail_while_the_pages_requests_succeed(subjects: tuple[str, ...]) -> None:
    """
    If probes time out while the page's requests succeed, the confidence is half of what it is without such requests.
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


def test_a_recent_outage_stays_the_cause() -> None:
    """Three minutes after the end of an outage, the cause is that outage, not the page's requests."""
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
    """Each failure of either provider is its cause after two probes, and never after one."""
    found = diagnose(view(but(series("liveness", subject, outcome, since=9))))
    assert (found.cause, found.subject, found.also) == (cause, subject, ()), repr(found)
    once = diagnose(view(but(series("liveness", subject, outcome, since=0))))
    assert (once.cause, once.also) == ("none", ()) and "One failed probe is not enough" in repr(once), repr(once)


def test_only_the_data_fails() -> None:
    """
    If the plan does not include option data, that is the cause after two data probes.

    The liveness probes succeed meanwhile.
    """
    found = diagnose(view(but(series("data", "massive", "entitlement_403", since=65))))
    assert (found.cause, found.subject) == ("provider_plan", "massive"), repr(found)
    denied = diagnose(view(but(series("data", "massive", "denied_403", since=65))))
    assert (denied.cause, denied.subject) == ("provider_plan", "massive") and denied.confidence < 0.6, repr(denied)


def test_data_is_rejected_while_the_provider_is_intermittent() -> None:
    """If the plan rejects every data probe while liveness probes fail now and then, the plan is named."""
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
def test_intermittent_failures(kinds: tuple[str, ...], cause: str) -> None:
    """Failures mostly of one kind have that kind as cause; failures of several kinds are an intermittent provider."""
    found = diagnose(
        view(but(*([sample(60 + 75 * i, "liveness", "massive", kind, 0.1)] for i, kind in enumerate(kinds))))
    )
    assert (found.cause, found.subject, found.also) == (cause, "massive", ()), repr(found)


def test_regular_failures_differ_from_random_ones() -> None:
    """
    5xx for 20 s of every minute is intermittent; the same share at random is 5xx.

    A key rejected for 20 s of every minute is a wrong key.
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


def test_both_providers_fail_now_and_then() -> None:
    """If both providers fail every third probe, the one cause is that both are down."""
    flaky = [[sample(20 + 15 * i, "liveness", s, "server_5xx", 0.1)] for i in range(12) for s in ("massive", "tradier")]
    found = diagnose(view(but(*flaky)))
    assert (found.cause, found.also) == ("both_providers_down", ()), repr(found)


def test_two_providers_with_two_causes() -> None:
    """With a wrong key at one and an outage of the other, both are down, and each cause is named."""
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
    """Return log samples with these kinds of lines, from `since` seconds ago."""
    return series("log", "app", since=since, value=value, kinds=kinds, newest={})


def refuses(since: float):
    """Return samples of an app's server that refuses every connection, from `since` seconds ago."""
    return [
        *series("health", "app", "refused", since=since),
        *series("metrics", "app", "refused", until=2, since=since),
    ]


PAIRS = {
    "a wrong key explains no time-out of the app": (  # The app gives up after 150 ms; our probes need 200 ms.
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
def test_a_cause_explains_only_what_it_can_produce(name: str) -> None:
    """What one cause cannot produce is named as a separate cause."""
    changed, expected = PAIRS[name]
    found = diagnose(view(but(*changed)))
    assert named(found) == expected, repr(found)


def test_a_dead_collector_does_not_hide_the_pages_fault() -> None:
    """With a dead collector and impossible deltas on the page, both causes are named."""
    found = diagnose(view([s for s in well() if s.ts_us <= sample(90, "beat", "collector").ts_us], deltas(0.7, 240)))
    assert (
        named(found) == {("monitor_down", None), ("greeks_out_of_bounds", "massive")} and found.cause == "monitor_down"
    ), repr(found)


def test_one_refused_connection_is_not_enough() -> None:
    """One refused probe of the app's server is not enough; a second one, or a missing process, is."""
    once = diagnose(view(but(series("health", "app", "refused", since=0))))
    assert (
        once.cause == "none" and "One failed probe is not enough" in said(once, "Is the app's server running?").answer
    ), repr(once)
    for more in (
        refuses(5),
        [*series("health", "app", "refused", since=0), *series("process", "app", "gone", since=0)],
    ):
        assert (diagnose(view(but(more))).cause) == "app_down"


def test_a_server_that_responds_again_is_not_down() -> None:
    """If the health probe succeeds after the refused connections of a restart, the newer result counts."""
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


def test_an_earlier_restart_ranks_after_present_faults() -> None:
    """A present wrong key or a closed market ranks before a restart three minutes ago, which is named beside it."""
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


def test_a_plan_without_options() -> None:
    """If Tradier's plan has no options, that is the cause, although its other data is current."""
    found = diagnose(view(but(series("options", "tradier", "entitlement_403", since=600, every=60))))
    assert (found.cause, found.subject, found.also) == ("provider_plan", "tradier", ()), repr(found)


def test_slow_needs_its_minimum_count() -> None:
    """The rule needs twenty samples: five slow ones alone are too few, five among sixty are enough."""
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


def test_a_warning_is_no_cause() -> None:
    """A response time that is only a warning is shown, and is no cause beside another."""
    late = series("health", "app", since=290, seconds=0.7, value=lambda ago: 90_000 - ago)
    found = diagnose(view(but(late, series("liveness", "massive", "auth_401", since=60))))
    assert (
        named(found) == {("provider_auth", "massive")}
        and "p95 0.70 s" in said(found, "Does the app's server respond fast enough?").answer
    ), repr(found)


def test_an_earlier_restart_is_shown() -> None:
    """A restart 15 min ago is no cause, but the answer gives its time."""
    found = diagnose(
        view(but(series("health", "app", since=900, seconds=0.02, value=lambda ago: 900 - ago, skew_s=0.0)))
    )
    assert (
        found.cause == NONE
        and said(found, "Did the app's server restart?").answer == "Yes, at 10:45:00 New York, more than 5 min ago."
    ), repr(found)


def test_one_probe_of_the_socket_is_not_enough() -> None:
    """
    One probe with a closed socket is not enough, two are; a page has to be disconnected for as long as its rule says.
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
def test_each_failure_of_the_socket(outcome: str, why: str, cause: str) -> None:
    """If the app's server responds, a socket that cannot be opened is blocked, and an open one is closed or silent."""
    found = diagnose(view(but(series("socket", "app", outcome, since=30, why=why))))
    assert (found.cause, found.subject, found.also) == (cause, "app", ()), repr(found)


def test_a_server_that_never_responds_is_down() -> None:
    """A server that accepts connections and responds neither to requests nor to pings is down, not slow."""
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


def test_expiring_contracts_explain_only_zeros() -> None:
    """
    Contracts that expire today are no cause by themselves; they are the cause of a few zeros that the page counts.
    """
    expiring = but([chain(120, expires_today=90, expiring_zero=30)])
    some = posted(lambda ago: {"gamma_zero": 1, "greeks_valid": 9} if ago % 50 == 0 else {})
    assert (diagnose(view(expiring)).cause, diagnose(view(expiring, some)).cause) == ("none", "expiry")


def test_one_incomplete_chain_is_not_enough() -> None:
    """One chain marked incomplete is not enough, two are; so is one with less than half of the usual contracts."""
    assert diagnose(view(but([chain(60, outcome="partial")]))).cause == "none"
    assert (
        diagnose(view(but([chain(120, outcome="partial"), chain(60, outcome="partial")]))).cause == "provider_partial"
    )
    assert diagnose(view(but([chain(60, contracts=200)]))).cause == "provider_partial"


def test_causes_of_rules_are_known() -> None:
    """Every cause assigned to a rule, and every mechanism, is a known cause."""
    assert {*causes.OF_RULE.values()} <= {*causes.CAUSES} and {*causes.PRODUCES} <= {*causes.CAUSES}
    assert {*causes.WHOSE} == {*causes.CAUSES} and causes.whose("provider_5xx", "massive") == "Massive"


def fired(rule: str, subject: str, source: str, severity: str, inhibited_by: str | None = None) -> Transition:
    """Return the transition of an alert that fired a minute ago."""
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
def test_an_active_alert_is_never_without_a_cause(rule: str, subject: str, source: str) -> None:
    """
    If an alert is active at notify or above, the cause is never none, and a runbook is named.

    This holds although nothing else shows a fault.
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
def test_random_faults_never_leave_an_alert_without_a_cause(
    spells: list[tuple[tuple[str, str], str, int, int]], counts: dict[str, int], since: int, until: int, connected: bool
) -> None:
    """
    With random failures and an active alert at notify or above, the cause is not none.

    The confidence is from 0 to 1, and all evidence used has an age.
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
def test_errors_that_lag_cannot_explain_rank_first(outcome: str, cause: str) -> None:
    """With a lagging collector, an error response is still the provider's fault; a timeout may be the collector's."""
    starving = series("beat", "collector", since=120, value=50.0, every_s=5, lag_s=4.0)
    found = diagnose(view(but(series("liveness", "massive", outcome, since=120), starving)))
    assert found.cause == cause, repr(found)
    if cause != "monitor_down":
        assert ("monitor_down", "collector") in found.also, repr(found)
