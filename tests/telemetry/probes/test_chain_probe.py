"""
A completely fetched chain is "ok" only if calls have their puts and no contract of the last complete chain is missing.
"""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from random import Random
from typing import Any

import pytest

from opslib.foundation.config import settings
from opslib.foundation.storage.database import Database
from opslib.simulation.world.http_server import Answer, Request, as_json
from opslib.telemetry.probes import providers
from opslib.telemetry.probes.runner import ProbeRunner
from opslib.telemetry.probes.store import Sample
from opslib.trading.options import completeness
from opslib.trading.options.completeness import Comparison, listed, why_partial
from tests.support.outside_world import RULES
from tests.support.servers import serving
from tests.telemetry.probes.test_runner import OPEN

DAY = date(2026, 3, 10)
GREEKS = {"delta": 0.5, "gamma": 0.02, "theta": -0.05, "vega": 0.2}


def contract(strike: int, side: str = "call", expiry: str = "2026-03-20", **greeks: float | None) -> dict[str, Any]:
    ticker = f"O:SPY{expiry[2:].replace('-', '')}{side[0].upper()}{strike * 1000:08d}"
    details = {"ticker": ticker, "expiration_date": expiry, "strike_price": strike, "contract_type": side}
    return {
        "details": details,
        "implied_volatility": 0.2,
        "greeks": {k: v for k, v in (GREEKS | greeks).items() if v is not None},
    }


def contracts(strikes: int = 50, expiry: str = "2026-03-20") -> list[dict[str, Any]]:
    return [contract(400 + i, side, expiry) for side in ("call", "put") for i in range(strikes)]


def half(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return Random(7).sample(found, len(found) // 2)


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        (contracts(), ""),
        (contracts()[:95], ""),  # 5 of 95 contracts lack their put, about 5 %.
        (contracts()[:80], "20 of 80 contracts lack their call or put"),
        (contracts()[:50], "50 of 100 contracts of the last complete chain are missing"),
        (
            [c for c in contracts() if c["details"]["strike_price"] < 425],
            "50 of 100 contracts of the last complete chain are missing",
        ),
        (contracts(expiry="2026-03-27"), "100 of 100 contracts of the last complete chain are missing"),
        (contracts() + contracts(expiry="2026-03-27"), ""),
    ],
)
def test_missing_contracts_are_counted(now: list[dict[str, Any]], expected: str) -> None:
    """For a chain of 50 strikes: calls without puts, strikes missing on both sides, and a missing expiry."""
    assert why_partial(listed(now), listed(contracts()), DAY, RULES.chain) == expected


def test_a_chain_with_only_calls_is_complete() -> None:
    """Only calls, without an earlier complete chain, are accepted as intended; calls with a few puts are partial."""
    calls = [c for c in contracts() if c["details"]["contract_type"] == "call"]
    few = [*calls, *(c for c in contracts() if c["details"]["contract_type"] == "put")][: len(calls) + 5]
    assert why_partial(listed(calls), None, DAY, RULES.chain) == ""
    assert why_partial(listed(few), None, DAY, RULES.chain) == "45 of 55 contracts lack their call or put"


def test_expired_contracts_may_be_missing() -> None:
    """
    Contracts that expire today may be missing; a first chain has none to compare with; entries that are not contracts
    are ignored.
    """
    assert (
        why_partial(listed(contracts()), listed(contracts() + contracts(expiry=DAY.isoformat())), DAY, RULES.chain)
        == ""
    )
    assert why_partial(listed(contracts(25)), None, DAY, RULES.chain) == ""
    assert (
        why_partial(listed(contracts()[:19]), listed(contracts(8)), DAY, RULES.chain) == ""
    )  # Too few contracts to decide.
    assert listed([{}, {"details": {}}, {"details": None}]) == {"expiries": {}, "unpaired": 0}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda found: found, {}),
        (lambda found: [*found[1:], contract(900)], {}),  # A new strike replaces another.
        (half, {"gone": 50, "moved": 0, "of": 100}),
        (
            lambda found: [contract(400 + i, "call", theta=-0.05 * 365) for i in range(50)] + found[50:],
            {"gone": 0, "moved": 50, "of": 100},
        ),
        (
            lambda found: [contract(400 + i, "call", gamma=0.0) for i in range(50)] + found[50:],
            {"gone": 0, "moved": 50, "of": 100},
        ),
        (
            lambda found: [contract(400 + i, "call", gamma=None) for i in range(50)] + found[50:],
            {"gone": 0, "moved": 50, "of": 100},
        ),
        (
            lambda found: [contract(400 + i, "call", delta=1.4) for i in range(50)] + found[50:],
            {"gone": 0, "moved": 50, "of": 100},
        ),
        # A market that moves.
        (
            lambda found: (
                [contract(400 + i, "call", delta=0.2, gamma=0.05, theta=-0.2, vega=0.05) for i in range(50)]
                + found[50:]
            ),
            {},
        ),
        # A market under stress.
        (lambda found: [c | {"implied_volatility": 0.6} | {"greeks": GREEKS | {"theta": -1.5}} for c in found], {}),
    ],
)
def test_the_contracts_of_a_probe_are_compared(
    change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]], expected: dict[str, int]
) -> None:
    """
    The contracts are compared with those of the last probe before a complete chain: how many are missing, and how many
    have implausibly changed Greeks.
    """
    made = Comparison(RULES.chain, RULES.probes.changed_by)
    assert made.of(contracts()) == {} and made.of(change(contracts())) == expected
    assert made.of(change(contracts())) == expected  # It stays different until a complete chain confirms it.
    made.confirm()
    assert made.of(change(contracts())) == {}


def test_a_random_selection_of_contracts_is_ignored() -> None:
    """After three complete chains were fetched in vain, a difference no longer counts."""
    made, chance = Comparison(RULES.chain, RULES.probes.changed_by), Random(1)
    found = list[bool]()
    for _ in range(8):
        found.append(bool(made.of(chance.sample(contracts(500), 50))))
        made.confirm()
    assert found == [False, True, True, True, False, False, False, False]


def test_half_a_chain_is_partial(tmp_path: Path) -> None:
    """
    If half of the strikes vanish after the first chain, although every page answers 200, the next chain is partial,
    also after a restart. A new day starts a new comparison.
    """
    begun = list[int]()

    async def go(url: str, minutes: int, count: int) -> list[Sample]:
        found = settings.load(tmp_path, None, {"OPS_MASSIVE_URL": url, "OPS_SYMBOLS": "SPY"})
        made = ProbeRunner(found, Database(found.url), RULES, now=lambda: OPEN + timedelta(minutes=minutes), speed=1.0)
        samples = [
            sample._replace(ts_us=sample.ts_us + i) for i in range(count) for sample in await made.fetch_chain("SPY")
        ]
        made.samples.keep(samples)
        made.close()
        return samples

    async def both() -> list[Sample]:
        def answer(request: Request) -> Answer:
            begun.append(1)
            return as_json({"status": "OK", "results": contracts() if len(begun) == 1 else contracts(25)})

        async with serving(answer) as url:
            return [*await go(url, 0, 2), *await go(url, 20, 1), *await go(url, 24 * 60, 1)]

    found = asyncio.run(both())
    why = "50 of 100 contracts of the last complete chain are missing"
    assert [(s.outcome, s.value, s.details().get("unpaired")) for s in found] == [
        ("ok", 100, 0),
        ("partial", 50, 0),
        ("partial", 50, 0),
        ("ok", 50, 0),
    ]
    assert [s.details()["why"] for s in found[1:3]] == [why, why]


def test_a_minute_probe_that_differs_fetches_the_chain_again(tmp_path: Path) -> None:
    """
    If contracts of the minute's probe vanish between two chains, the complete chain is fetched before its 15-minute
    interval ends.
    """
    probed = list[int]()

    def answer(request: Request) -> Answer:
        if request.query.get("limit") == providers.FEW:
            probed.append(1)
        return as_json(
            {"status": "OK", "market": "open", "results": half(contracts()) if len(probed) > 1 else contracts()}
        )

    async def go() -> list[list[Sample]]:
        async with serving(answer) as url:
            found = settings.load(tmp_path, None, {"OPS_MASSIVE_URL": url, "OPS_SYMBOLS": "SPY"})
            limits = replace(RULES, probes=replace(RULES.probes, chain_again_s=0.001))
            made = ProbeRunner(found, Database(found.url), limits, now=lambda: OPEN, speed=1.0)
            made._loop = asyncio.get_running_loop()
            question = next(q for q in made._questions if q.probe == "data")
            first = [*await made._ask(question), *await made.fetch_chain("SPY")]
            assert not made._again
            second = await made._ask(question)
            await asyncio.gather(*made._again.values())
            made.close()
            return [[s for s in samples if s.probe != "liveness"] for samples in (first, [*second, *made._waiting])]

    first, second = asyncio.run(go())
    assert [(s.probe, s.outcome) for s in first] == [("data", "ok"), ("chain", "ok")]
    assert [(s.probe, s.outcome) for s in second] == [("data", "ok"), ("chain", "partial")]
    assert second[0].details()["gone"] == 50 and second[1].details()["why"] in (
        "50 of 100 contracts of the last complete chain are missing",
        *(f"{n} of 50 contracts lack their call or put" for n in range(51)),
    )


def test_the_first_probe_has_no_difference() -> None:
    """A probe without contracts, and the first probe, have no difference."""
    made = Comparison(RULES.chain, RULES.probes.changed_by)
    assert made.of([]) == {} and made.of([None, {"details": {"ticker": ""}}]) == {} and made.of(contracts(3)) == {}
    assert completeness.GREEKS == ("delta", "gamma", "theta", "vega")
