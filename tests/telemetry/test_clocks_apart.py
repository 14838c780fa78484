"""
Clock skew: the wrong clock is named, and fresh data is not called stale because of it; for each party, both directions,
and all together.
"""

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from opslib.dashboard.status import Status
from opslib.foundation.clock import Window
from opslib.runbooks.diagnosis.diagnosis import diagnose
from opslib.simulation.world.http_server import Answer, as_json
from opslib.telemetry.probes.history import ProbeHistory
from opslib.telemetry.probes.store import Sample
from tests.support import snapshots
from tests.support.chains import AT as CHAIN_AT
from tests.support.chains import healthy
from tests.support.outside_world import BEGINS, RULES, Outside, probing, seen
from tests.trading.options.test_chain import massive

ALL = ("massive", "tradier", "app", "page")
PROVIDERS = ("massive", "tradier")


def view(samples: Sequence[Sample], at: datetime, page_ahead_s: float | None = 0.0, minutes: float = 3) -> Status:
    """The status of these samples and of a page that posts every five seconds."""
    began_s = (BEGINS - snapshots.OPENS).total_seconds()
    page = snapshots.PageOf(began_s - 600, skew=page_ahead_s or 0.0)
    every = range(round(began_s), round((at - snapshots.OPENS).total_seconds()) + 1, 5)
    counters = snapshots.counter_history(
        [page.add(massive_requests=1, tradier_requests=1, validations=1).snapshot(s) for s in every]
        if page_ahead_s is not None
        else []
    )
    return Status(
        "desk",
        Window(at - timedelta(minutes=minutes), at),
        None,
        counters,
        RULES,
        probed=ProbeHistory("tradier", samples),
    )


OFF = [(), *((party,) for party in ALL), PROVIDERS, ("app", "page"), ALL]


@pytest.mark.parametrize("ahead_s", [600.0, -600.0])
@pytest.mark.parametrize(
    ("off", "dated"),
    [(off, "by its own clock") for off in OFF]
    + [((party,), "by the true time") for party in PROVIDERS]
    + [(PROVIDERS, "by the true time")],
)
def test_the_wrong_clock_is_named(tmp_path: Path, off: tuple[str, ...], ahead_s: float, dated: str) -> None:
    """Each party with a wrong clock is named, or ours if all agree against it; no data is stale because of it."""
    outside = Outside()
    for party in off:
        if party in outside.ahead_s:
            outside.ahead_s[party] = ahead_s
        if party in PROVIDERS and (dated == "by its own clock" or off == ALL):
            outside.data_ahead_s[party] = ahead_s
    samples = seen(tmp_path, outside, 40)
    assert {s.outcome for s in samples} == {"ok"}
    found = diagnose(view(samples, outside.at, ahead_s if "page" in off else 0.0))
    if not off:
        assert found.cause == "none"
        return
    expected = ["clock_skew of monitor"] if off == ALL else [f"clock_skew of {party}" for party in off]
    assert [f"{found.cause} of {found.subject}", *map(str, found.also)] == expected and found.confidence > 0.6


@pytest.mark.parametrize("ahead_s", [600.0, -600.0])
def test_stale_data_is_found_although_our_clock_is_wrong(tmp_path: Path, ahead_s: float) -> None:
    """If all others agree against our clock, data older than the limit is stale by the true time, with its true age."""
    outside = Outside()
    outside.ahead_s, outside.data_ahead_s = (
        dict.fromkeys(outside.ahead_s, ahead_s),
        dict.fromkeys(outside.data_ahead_s, ahead_s),
    )
    outside.frozen = BEGINS - timedelta(seconds=310)
    samples = seen(tmp_path, outside, 40)
    data = [s for s in samples if s.probe == "data"]
    assert {s.outcome for s in data} == {"stale"} and [
        s.value for s in data if s.subject == "tradier"
    ] == pytest.approx([330.0, 350.0], abs=1.0)


def test_the_first_data_sample_uses_the_corrected_clock(tmp_path: Path) -> None:
    """A new collector, or a single run of `ops doctor`, reads the clocks before it evaluates the age of data."""
    outside = Outside()
    outside.ahead_s, outside.data_ahead_s = (
        dict.fromkeys(outside.ahead_s, -600.0),
        dict.fromkeys(outside.data_ahead_s, -600.0),
    )
    assert {(s.subject, s.outcome) for s in seen(tmp_path, outside, 20) if s.probe == "data"} == {
        ("massive", "ok"),
        ("tradier", "ok"),
    }


@pytest.mark.parametrize(
    ("parties", "page_ahead_s", "off", "expected", "sure"),
    [
        # One against one: it is named, as not sure.
        (("massive",), None, ("massive",), ["massive"], False),
        (("massive",), 600.0, ("massive",), ["monitor"], True),
        (("massive", "app"), None, ("massive", "app"), ["monitor"], True),
        (("massive", "app"), None, ("app",), ["app"], True),
        (("app",), None, ("app",), ["app"], False),
        ((), 600.0, (), ["page"], False),
    ],
)
def test_few_clocks(
    tmp_path: Path,
    parties: tuple[str, ...],
    page_ahead_s: float | None,
    off: tuple[str, ...],
    expected: list[str],
    sure: bool,
) -> None:
    """
    With one other clock it cannot be decided whose is off: the other is named, with the doubt. With two that agree it
    is ours.
    """
    outside = Outside()
    for party in off:
        outside.ahead_s[party] = outside.data_ahead_s[party] = 600.0
    shown = view(seen(tmp_path, outside, 40, parties), outside.at, page_ahead_s)
    found = diagnose(shown)
    words = [s.words for s in shown.summaries if "clock" in s.words] if parties else []
    assert [found.cause, found.subject] == ["clock_skew", *expected]
    assert (found.confidence > 0.5) is sure and all(("too few clocks to decide" in w) is not sure for w in words)


@pytest.mark.parametrize("ours_s", [2400.0, 0.0, -2400.0])
def test_the_age_of_chain_quotes_uses_the_corrected_clock(tmp_path: Path, ours_s: float) -> None:
    """A fresh chain is fresh if our own clock is right, 40 minutes fast or 40 minutes slow."""
    pages = massive(healthy())
    payload = {**pages[0], "results": pages[0]["results"] + pages[1]["results"]}

    async def go() -> Sample:
        outside = Outside()
        outside.at = CHAIN_AT + timedelta(seconds=ours_s)
        outside.ahead_s = dict.fromkeys(outside.ahead_s, -ours_s)
        outside.data_ahead_s = dict.fromkeys(outside.data_ahead_s, -ours_s)
        async with probing(tmp_path, outside) as rounds:
            await rounds.once(lambda name: name.startswith(("liveness", "health")))
            outside.refuses = lambda request: as_json({**payload, "next_url": None})
            (sample,) = await rounds.fetch_chain("SPY")
            return sample

    details = asyncio.run(go()).details()
    assert details["core"] > 150 and details["faults"].get("stale", 0) == 0 and details["flagged"] == 0


@pytest.mark.parametrize(
    ("headers", "skew_s"),
    [
        ({"Date": "Tue, 10 Mar 2026 15:10:00 GMT"}, 600.5),
        ({"Date": "Tue, 10 Mar 2026 15:10:00 GMT", "Age": "30"}, None),
        ({"Date": "soon"}, None),
        ({}, None),
    ],
)
def test_a_clock_is_read_from_the_date_header(tmp_path: Path, headers: dict[str, str], skew_s: float | None) -> None:
    """
    A response without a time in its body, an error too, has a Date header in whole seconds, so half a second is added.
    The Date of a cached response is not used.
    """
    outside = Outside()
    outside.refuses = lambda request: Answer(503, b"no", "text/plain", headers)
    outside.at = BEGINS - timedelta(seconds=20)
    samples = seen(tmp_path, outside, 20, ("massive",))
    probed = ProbeHistory("tradier", samples)
    assert outside.at == BEGINS and probed.skew_s("massive", round(BEGINS.timestamp() * 1e6)) == skew_s


def test_a_clock_step_is_detected_within_nine_posts() -> None:
    """If the page's clock jumps by ten minutes, its skew is right after nine more posts."""
    page = snapshots.PageOf(0, page_id="p")
    posts = [page.snapshot(s) for s in range(0, 600, 5)]
    page.skew = 600.0
    posts += [page.snapshot(s) for s in range(600, 645, 5)]
    (posting,) = snapshots.counter_history(posts).pages
    assert posting.skew_s == pytest.approx(600.0)
