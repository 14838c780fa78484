"""
The options of the fallback are probed before they are needed: a plan with quotes only is detected before Massive fails.
"""

from collections.abc import Callable
from pathlib import Path

import pytest

from opslib.alerting import probe_figures
from opslib.dashboard import doctor
from opslib.foundation import clock
from opslib.foundation.clock import Window
from opslib.runbooks.diagnosis.diagnosis import diagnose
from opslib.simulation.world.http_server import Answer, Request, as_json
from opslib.telemetry.pages.counters import CounterHistory
from opslib.telemetry.probes.history import ProbeHistory
from tests.support.outside_world import RULES, Outside, seen
from tests.telemetry.test_clocks_apart import view

PLAN = as_json({"fault": {"faultstring": "Your plan does not include options. Please upgrade."}}, 403)
REFUSED, UNKNOWN_KEY = as_json({"message": "Forbidden"}, 403), Answer(401, b"Invalid Access Token", "text/plain")


def refusing(answer: Answer, routes: str = "/options/") -> Callable[[Request], Answer | None]:
    return lambda request: answer if routes in request.path and request.path.startswith("/v1/markets") else None


@pytest.mark.parametrize(
    ("answer", "routes", "cause"),
    [
        (PLAN, "/options/", "provider_plan"),
        (PLAN, "/options/chains", "provider_plan"),
        (REFUSED, "/options/", "provider_plan"),
        (UNKNOWN_KEY, "/options/", "provider_plan"),
        (UNKNOWN_KEY, "/markets/", "provider_auth"),
        (as_json({"options": None}), "/options/chains", "provider_empty"),
    ],
)
def test_options_rejected_while_quotes_work(tmp_path: Path, answer: Answer, routes: str, cause: str) -> None:
    """
    If a key is accepted for quotes but not for options, the cause is the plan; if it is accepted nowhere, the cause is
    the key.
    """
    outside = Outside()
    outside.refuses = refusing(answer, routes)
    samples = seen(tmp_path, outside, 60, OPS_TRADIER_TOKEN="a-key-of-ours")
    found = diagnose(view(samples, outside.at))
    assert (found.cause, found.subject) == (cause, "tradier")
    probed = ProbeHistory("tradier", samples)
    assert (
        probed.serving(clock.micros(outside.at)) == "massive"
        and probed.skew_s("massive", clock.micros(outside.at)) is not None
    )
    usable = probe_figures.measure(
        probed,
        CounterHistory(RULES.pages, 5.0),
        RULES["answers"],
        "tradier",
        Window.before(outside.at, RULES["answers"].window),
    )
    assert usable.value == 0.0 and (usable.count or 0) >= RULES["answers"].min_count


def test_a_plan_with_options_is_ok(tmp_path: Path) -> None:
    """
    If options are available the data probe is ok, with the age of the quotes, and the probes request four paths only.
    """
    outside = Outside()
    samples = seen(tmp_path, outside, 20, ("tradier",))
    assert [(s.outcome, s.value) for s in samples if s.probe == "data"] == [("ok", pytest.approx(1.0, abs=0.2))]
    assert sorted(set(outside.asked)) == [
        "/v1/markets/clock",
        "/v1/markets/options/chains",
        "/v1/markets/options/expirations",
        "/v1/markets/quotes",
    ]


def test_without_a_fallback_its_options_are_not_probed(tmp_path: Path) -> None:
    """An app without a fallback does not need Tradier's options."""
    outside = Outside()
    seen(tmp_path, outside, 20, ("tradier",), OPS_FALLBACK="none")
    assert not [path for path in outside.asked if "options" in path]


def test_the_quota_is_respected(tmp_path: Path) -> None:
    """Requests beyond the quota are not sent, and do not make the fallback fail."""
    (tmp_path / "settings.toml").write_text("tradier_per_min = 6\n")
    outside = Outside()
    samples = seen(tmp_path, outside, 60, ("tradier",))
    assert len(outside.asked) <= 1 + 6 / 60 * 60 and {s.outcome for s in samples if s.subject == "tradier"} <= {
        "ok",
        "quota_kept",
    }


def test_the_doctor_reports_the_plan(tmp_path: Path) -> None:
    """`ops doctor` names the path and the plan."""
    import asyncio

    from tests.support.outside_world import probing

    outside = Outside()
    outside.refuses = refusing(PLAN)

    async def go() -> list[doctor.Check]:
        async with probing(tmp_path, outside) as rounds:
            samples = await rounds.once(lambda name: name == "data of tradier")
            return [
                doctor._probe_check(rounds.settings, sample)
                for sample in samples
                if sample.last and sample.probe == "data"
            ]

    (check,) = asyncio.run(go())
    assert (
        check.verdict == "warning"
        and "our plan does not include this data (403)" in check.result
        and "at options/expirations" in check.result
    )
