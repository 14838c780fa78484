"""An unscheduled market closure: nothing is stale, silent or down during it or just after it."""

import asyncio
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from opslib.alerting import probe_figures, replay
from opslib.dashboard.status import Status
from opslib.foundation import clock, market_calendar
from opslib.foundation.clock import Window
from opslib.runbooks.diagnosis.diagnosis import diagnose
from opslib.telemetry.pages.counters import CounterHistory
from opslib.telemetry.probes.history import ProbeHistory
from opslib.telemetry.probes.outcomes import OUTCOMES
from opslib.telemetry.probes.store import Sample
from tests.support import snapshots
from tests.support.outside_world import BEGINS, RULES, Outside, passing, probing

# Seconds after `BEGINS`; the first quotes come a little after the reopening.
CLOSES_S, REOPENS_S, QUOTED_S, ENDS_S = 120, 720, 740, 1200


def at(seconds: float) -> datetime:
    return BEGINS + timedelta(seconds=seconds)


def day(home: Path, parties: tuple[str, ...]) -> list[Sample]:
    """Return the samples of twenty minutes with a market-wide halt of ten, in which the socket is open and silent."""
    outside = Outside()

    def each() -> None:
        s = (outside.at - BEGINS).total_seconds()
        outside.market = "closed" if CLOSES_S <= s < REOPENS_S else "open"
        outside.frozen = at(CLOSES_S) if CLOSES_S <= s < QUOTED_S else None

    async def go() -> list[Sample]:
        async with probing(home, outside, parties) as rounds:
            found = []
            for _ in range(round(ENDS_S / 30)):
                found += await passing(rounds, outside, 30, 30, each)
                silent_s = (outside.at - outside.frozen).total_seconds() if outside.frozen else 1.0
                found.append(
                    rounds._unless_closed(
                        Sample(
                            clock.micros(outside.at),
                            "socket",
                            "app",
                            "silent" if silent_s > RULES.probes.silent_after_s else "ok",
                            0.02,
                            silent_s,
                        )
                    )
                )
            return found

    return asyncio.run(go())


def history_of(posts_while_closed: bool) -> CounterHistory:
    """Return the counters of a page that sends no requests while the market is closed and may not even be open then."""
    page = snapshots.PageOf((BEGINS - snapshots.OPENS).total_seconds() - 600)
    found = []
    for s in range(0, ENDS_S + 1, 5):
        closed = CLOSES_S <= s < REOPENS_S + 20
        page.add(**({} if closed else {"massive_requests": 1, "tradier_requests": 1, "validations": 1}))
        found += [page.snapshot((at(s) - snapshots.OPENS).total_seconds())] if posts_while_closed or not closed else []
    return snapshots.counter_history(found)


def view(samples: list[Sample], counters: CounterHistory, seconds: float) -> Status:
    end = at(seconds)
    return Status(
        "desk",
        Window(end - timedelta(minutes=5), end),
        None,
        counters,
        RULES,
        probed=ProbeHistory("tradier", [s for s in samples if s.ts_us <= clock.micros(end)]),
    )


@pytest.mark.parametrize("parties", [("massive", "tradier", "app"), ("massive", "app")], ids=["both", "massive alone"])
def test_nothing_is_stale_silent_or_down(tmp_path: Path, parties: tuple[str, ...]) -> None:
    """
    No probe ends as stale or silent, and no alert fires. The diagnosis says that the market is closed during the halt
    and that there is no fault before and after; asked later, it says the same.
    """
    samples = day(tmp_path, parties)
    assert [s for s in samples if not OUTCOMES[s.outcome].usable] == []
    whole = ProbeHistory("tradier", samples)
    for posts_while_closed in (True, False):
        counters = history_of(posts_while_closed)
        became = replay.replay_view(counters, RULES, clock.micros(BEGINS), clock.micros(at(ENDS_S)), whole)
        assert [(t.rule, t.subject, t.source, t.kind, t.severity) for t in became if t.kind in ("fired", "rose")] == []
        for seconds, cause in (
            (115, "none"),
            (155, "market_closed"),
            (500, "market_closed"),
            (715, "market_closed"),
            (755, "none"),
            (900, "none"),
            (1190, "none"),
        ):
            shown = view(samples, counters, seconds)
            # With one provider less is known.
            expected = (cause,) if cause != "none" or len(parties) > 2 else (cause, "undetermined")
            assert diagnose(shown).cause in expected, (seconds, diagnose(shown))
            assert not [f for f in shown.findings if f.severity], seconds
            later = Status("desk", shown.window, None, counters, RULES, probed=whole)
            assert diagnose(later).as_json() == diagnose(shown).as_json(), seconds


def word(seconds: float, subject: str, market: str, outcome: str = "ok", skew_s: float = 0.0) -> Sample:
    return Sample(
        clock.micros(at(seconds)),
        "liveness",
        subject,
        outcome,
        0.1,
        detail=f'{{"market": "{market}", "skew_s": {skew_s}}}' if outcome == "ok" else "{}",
    )


@pytest.mark.parametrize(
    ("samples", "shut"),
    [
        ([word(0, "massive", "closed"), word(0, "tradier", "closed")], True),
        ([word(0, "massive", "closed"), word(0, "tradier", "open")], False),
        ([word(0, "massive", "extended-hours"), word(0, "tradier", "postmarket")], True),
        ([word(0, "massive", "closed")], False),  # A single response of one provider decides nothing.
        ([word(-5, "massive", "closed"), word(0, "massive", "closed")], True),
        ([word(-5, "massive", "open"), word(0, "massive", "closed")], False),
        # A provider that does not respond does not count.
        ([word(-5, "massive", "closed"), word(0, "massive", "closed"), word(0, "tradier", "", "timeout")], True),
        ([word(0, "massive", "", "timeout"), word(0, "tradier", "", "timeout")], False),
        # By its own clock it is 09:00.
        ([word(-5, "massive", "closed", skew_s=-7200.0), word(0, "massive", "closed", skew_s=-7200.0)], False),
        ([word(0, "massive", "closed", skew_s=-7200.0), word(0, "tradier", "open")], False),
        # One is closed by its own wrong clock, the other by its response: they do not agree.
        ([word(0, "massive", "closed", skew_s=-7200.0), word(0, "tradier", "closed")], False),
        # Both differ: our clock is off.
        ([word(0, "massive", "closed", skew_s=-7200.0), word(0, "tradier", "premarket", skew_s=-7200.0)], True),
    ],
)
def test_market_closure_needs_agreement_of_providers(samples: list[Sample], shut: bool) -> None:
    """
    All providers that respond must report the market as closed; a single one must report it twice, and not because its
    own clock is off.
    """
    probed = ProbeHistory("tradier", samples)
    assert probed.market_shut(clock.micros(at(2))) is shut
    assert (probed.open_since(clock.micros(at(2))) is None) is shut


def test_market_open_since() -> None:
    """
    The market is open since the open of the calendar, after a halt since the last report of closed. A provider that is
    wrong all day changes nothing.
    """
    opens = market_calendar.open_since(BEGINS)
    both = [
        word(s, subject, "closed" if 0 <= s < 100 else "open")
        for s in range(-100, 300, 5)
        for subject in ("massive", "tradier")
    ]
    halted, wrong = (
        ProbeHistory("tradier", both),
        ProbeHistory(
            "tradier",
            [
                word(s, subject, market)
                for s in range(-100, 300, 5)
                for subject, market in (("massive", "closed"), ("tradier", "open"))
            ],
        ),
    )
    assert [halted.open_since(clock.micros(at(s))) for s in (-3, 50, 97, 101, 250)] == [
        opens,
        None,
        None,
        at(95),
        at(95),
    ]
    assert (
        wrong.open_since(clock.micros(at(200))) == opens
        and ProbeHistory("tradier").open_since(clock.micros(at(0))) == opens
    )


def test_a_socket_is_down_since_the_market_reopened() -> None:
    """A socket that was lost or silent in a halt is down since the reopening."""
    said = [
        word(s, subject, "closed" if s < 100 else "open")
        for s in range(0, 300, 5)
        for subject in ("massive", "tradier")
    ]
    for outcome in ("closed", "silent"):
        down = [Sample(clock.micros(at(s)), "socket", "app", outcome, None, float(s)) for s in range(50, 300, 5)]
        found = probe_figures.measure(
            ProbeHistory("tradier", [*said, *down]),
            snapshots.counter_history([]),
            RULES["websocket_down"],
            "app",
            Window(at(0), at(135)),
        )
        assert found.value == pytest.approx(40.0)
