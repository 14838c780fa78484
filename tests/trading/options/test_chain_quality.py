"""
Test the evaluation of Greeks on real and generated chains, healthy and with each fault, and pricing against other
libraries.
"""

import math
import random
import zlib
from datetime import timedelta
from pathlib import Path

import numpy as np
import pandas
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opslib.foundation import clock, time_parsing
from opslib.foundation.config import rules
from opslib.trading.options import chain, chain_quality, iv_baseline, pricing
from opslib.trading.options.chain_quality import ChainQuality
from opslib.trading.options.provider_comparison import crosscheck
from tests.support.chains import AT, FAULTS, core, faulty, healthy, opened, written
from tests.support.system import SHARED

LIMITS = rules.load(None).chain
REAL = {"SPY": "cboe_SPY_2025-09-25_quotedata.csv", "A": "optopsy_A_2016-01-05.csv"}
GENERATED = {"SPY": ("SPY", 1), "cheap": ("F", 2), "dear": ("TSLA", 3)}


def judged(table: pandas.DataFrame, folder: Path) -> ChainQuality:
    """Write a table, read it, and evaluate it."""
    return chain_quality.evaluate_chain(chain.read(written(table, folder)), LIMITS)


def found(quality: ChainQuality) -> dict[str, int]:
    """Count the contracts of each fault."""
    return {f.check: f.count for f in quality.findings}


def real(name: str) -> Path:
    """Return the path of a real chain in the shared folder; skip the test if it is missing."""
    path = SHARED / "data" / "chains" / REAL[name]
    if not path.exists():
        pytest.skip("the shared folder with real chains is not beside the project")
    return path


@pytest.mark.parametrize(("name", "least", "share"), [("SPY", 1000, 0.005), ("A", 100, 0.0)])
def test_real_chains_are_healthy(name: str, least: int, share: float) -> None:
    """
    Few core contracts of a real chain are flagged, although the guide's method calls a sixth of the SPY chain invalid.
    """
    q = chain_quality.evaluate_chain(chain.read(real(name)), LIMITS)
    assert q.core_count >= least and q.flagged <= share * q.core_count and not q.significant(LIMITS)
    assert (q.units["gamma"], q.units["iv"]) == ("per_dollar", "decimal")
    if name == "SPY":  # Reference figures of this file, counted independently.
        assert (len(q.chain.frame), q.core_count, round(q.raw_valid / len(q.chain.frame), 3)) == (3716, 1285, 0.835)


@pytest.mark.parametrize("seed", range(5))
def test_generated_chains_are_healthy(seed: int, tmp_path: Path) -> None:
    """Nothing is flagged in a healthy chain, whatever its underlying's price and its expirations are."""
    for symbol in ("SPY", "AAPL", "F", "ZZ"):
        q = judged(healthy(symbol, seed), tmp_path)
        assert found(q) == {} and q.core_count > 30
        assert q.units == {"theta": "per_day", "vega": "per_point", "gamma": "per_dollar", "iv": "decimal"}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_named_and_no_other(fault: str, tmp_path: Path) -> None:
    """
    From one contract in a hundred to one in five, with or without contract symbols, the fault is named and nothing else
    is.
    """
    seed = zlib.crc32(fault.encode())
    for (symbol, base), share in zip(GENERATED.values(), (0.01, 0.08, 0.2)):
        for table in (healthy(symbol, base), healthy(symbol, base).drop(columns="symbol")):
            wrong = faulty(table, fault, share, seed)
            if not wrong.equals(table):
                assert set(found(judged(wrong, tmp_path))) == {FAULTS[fault][0]}, (fault, symbol, share, seed)


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", REAL)
def test_each_fault_is_named_in_a_real_chain(name: str, fault: str, tmp_path: Path) -> None:
    """In a real chain the fault adds findings of its own kind only."""
    table = opened(real(name))
    if {"theta a year": "theta", "theta a trading year": "theta", "vega a whole": "vega"}.get(fault, "iv") not in table:
        return
    seed = zlib.crc32(f"{name} {fault}".encode())
    before = found(judged(table, tmp_path))
    share = random.Random(seed).uniform(0.01, 0.2)
    after = found(judged(faulty(table, fault, share, seed), tmp_path))
    assert {check for check, n in after.items() if n > before.get(check, 0)} == {FAULTS[fault][0]}, (
        fault,
        share,
        seed,
        after,
    )


def test_a_whole_feed_in_other_units(tmp_path: Path) -> None:
    """If a whole feed has another unit, that is one finding, and its Greeks are evaluated in that unit."""
    table = healthy()
    for name, factor, unit in (
        ("theta", 365, "per_year"),
        ("vega", 100, "per_unit"),
        ("gamma", 100, "x100"),
        ("iv", 100, "percent"),
    ):
        q = judged(table.assign(**{name: table[name].astype(float) * factor}), tmp_path)
        assert (q.units[name], q.flagged, set(found(q))) == (unit, 0, {"units"})
        assert unit.replace("_", " ") in q.findings[0].examples[0]


def test_correct_zeros_are_no_fault(tmp_path: Path) -> None:
    """A gamma of 0 in the wings and missing Greeks deep in the money are no fault, but count as not covered."""
    table = healthy()
    deep = (
        table["delta"].isna()
        | (table["delta"].astype(float).abs() > 0.97)
        | (table["delta"].astype(float).abs() < 0.03)
    )
    table.loc[deep, ["gamma", "theta", "vega"]] = 0.0
    q = judged(table, tmp_path)
    assert found(q) == {} and q.raw_valid < len(table) and q.covered < len(table)


def test_staleness_depends_on_the_plan(tmp_path: Path) -> None:
    """
    Quotes of a delayed plan may be late by its delay; in a real-time plan the same quotes are stale.

    Quotes do not become stale while the market is closed.
    """
    table = healthy()
    read = chain.read(written(table, tmp_path))
    late = AT + timedelta(minutes=25)
    assert chain_quality.evaluate_chain(read, LIMITS, late).core_with("stale") == read_core(read)
    delayed = chain.read(written(table.assign(timeframe="DELAYED"), tmp_path))
    assert chain_quality.evaluate_chain(delayed, LIMITS, late).core_with("stale") == 0
    closed = time_parsing.parse("2026-03-10T16:00")
    shut = chain.read(written(table.assign(quote_ts=closed.isoformat(), as_of=closed.isoformat()), tmp_path))
    assert chain_quality.evaluate_chain(shut, LIMITS, time_parsing.parse("2026-03-11T09:00")).core_with("stale") == 0


def read_core(read: chain.Chain) -> int:
    """Return the number of core contracts of a chain."""
    return chain_quality.evaluate_chain(read, LIMITS).core_count


def test_figures_of_an_earlier_time_are_stale(tmp_path: Path) -> None:
    """Contracts whose figures fit another price of the underlying are stale, whatever their timestamps say."""
    table = healthy("SPY", 1)
    moved = float(table["underlying_price"].iloc[0]) * 1.02
    rows = sorted(random.Random(5).sample(list(core(table)), len(core(table)) // 5))
    years = (
        pandas.to_datetime(table["expiration"]).dt.tz_localize("America/New_York") + pandas.Timedelta(hours=16) - AT
    ).dt.total_seconds().to_numpy() / (365 * 86_400)
    then = pricing.european(
        (table["type"] == "call").to_numpy(),
        moved,
        table["strike"].astype(float).to_numpy(),
        years,
        0.04,
        0.0,
        table["iv"].astype(float).to_numpy(),
    )
    old = table.copy()
    for name, values in (
        ("bid", then.price * 0.996),
        ("ask", then.price * 1.004),
        ("delta", then.delta),
        ("gamma", then.gamma),
        ("theta", then.theta_day),
        ("vega", then.vega_pt),
    ):
        old.iloc[rows, old.columns.get_loc(name)] = values[rows].round(4)
    names = found(judged(old, tmp_path))
    assert names["stale"] > len(rows) / 2 and set(names) <= {"stale", "recompute", "iv_vs_price", "missing"}


def test_core_coverage_and_weighted_rates(tmp_path: Path) -> None:
    """Core faults and coverage are counted separately; weights count the contracts that are held."""
    table = healthy()
    rows = core(table)
    broken = table.copy()
    broken.iloc[rows[:10], broken.columns.get_loc("gamma")] = None
    q = judged(broken, tmp_path)
    assert (q.core_with("missing"), q.flagged, q.core_count) == (10, 10, len(rows))
    assert q.covered == judged(table, tmp_path).covered - 10
    held = np.zeros(len(table))
    held[rows[:10]] = 3.0
    held[rows[10:20]] = 1.0
    assert q.weighted(held) == pytest.approx(0.25) and q.weighted(np.zeros(len(table))) is None


def test_two_providers_are_compared(tmp_path: Path) -> None:
    """The move of the underlying between the two chains is removed; the remaining differences are named."""
    now = judged(healthy("SPY", 1), tmp_path)
    table = healthy("SPY", 1)
    # The deltas of a spot price 1.50 higher.
    table["delta"] = [None if d is None else d + 1.5 * g for d, g in zip(table["delta"], table["gamma"])]
    same = crosscheck(now, judged(table, tmp_path), LIMITS)
    assert (
        same.shared > 150 and same.moved_usd == pytest.approx(1.5, abs=0.02) and (same.delta_off, same.iv_off) == (0, 0)
    )
    rows = core(table)[-3:]
    table.iloc[rows, table.columns.get_loc("delta")] = [float(d) + 0.06 for d in table["delta"].iloc[rows]]
    off = crosscheck(now, judged(table, tmp_path), LIMITS)
    assert off.delta_off >= 2 and off.examples


def test_an_iv_baseline_needs_twenty_days() -> None:
    """Without twenty days there is no baseline; with them, a value outside their range is reported."""
    at = time_parsing.parse("2026-03-10T11:00")

    def day(back: int, iv: float) -> tuple[int, float]:
        return clock.micros(at - timedelta(days=back)), iv

    few = iv_baseline.iv_baseline([day(i, 0.2) for i in range(1, 20)], at, LIMITS)
    assert (few.days, few.low, few.outside(0.9)) == (19, None, None)
    ivs = [0.18 + 0.002 * (i % 11) for i in range(1, 31)]
    enough = iv_baseline.iv_baseline([day(i, iv) for i, iv in enumerate(ivs, 1)] + [day(0, 0.9)], at, LIMITS)
    assert (
        enough.days == 20
        and enough.outside(0.19) is False
        and enough.outside(0.6) is True
        and enough.outside(None) is None
    )


@settings(max_examples=200, deadline=None)
@given(
    st.booleans(), st.floats(50, 200), st.floats(0.01, 2), st.floats(0, 0.08), st.floats(0, 0.06), st.floats(0.05, 1.5)
)
def test_european_prices_equal_vollib(
    call: bool, strike: float, years: float, rate: float, carry: float, sigma: float
) -> None:
    """Price and Greeks of European options equal those of vollib, an independent implementation."""
    from vollib.black_scholes_merton import black_scholes_merton
    from vollib.black_scholes_merton.greeks import analytical as oracle

    flag, price = "c" if call else "p", pricing.european(call, 100.0, strike, years, rate, carry, sigma)
    wanted = [
        black_scholes_merton(flag, 100.0, strike, years, rate, sigma, carry),
        *(
            getattr(oracle, name)(flag, 100.0, strike, years, rate, sigma, carry)
            for name in ("delta", "gamma", "theta", "vega")
        ),
    ]
    assert [float(v) for v in price] == pytest.approx(wanted, abs=1e-9)


def test_american_prices_equal_quantlib() -> None:
    """Price and Greeks of American options equal QuantLib's Bjerksund-Stensland approximation of 1993."""
    import QuantLib as ql

    rng, today, days = random.Random(4), ql.Date(15, 6, 2025), ql.Actual365Fixed()
    ql.Settings.instance().evaluationDate = today

    def flat(rate):
        return ql.YieldTermStructureHandle(ql.FlatForward(today, rate, days))

    compared = 0
    for _ in range(300):
        call, strike, left, rate, carry, sigma = (
            rng.random() < 0.5,
            100 * math.exp(rng.gauss(0, 0.12)),
            rng.randint(5, 700),
            rng.uniform(0.005, 0.08),
            rng.choice([0.0, rng.uniform(0, 0.08)]),
            rng.uniform(0.1, 0.7),
        )
        process = ql.BlackScholesMertonProcess(
            ql.QuoteHandle(ql.SimpleQuote(100.0)),
            flat(carry),
            flat(rate),
            ql.BlackVolTermStructureHandle(ql.BlackConstantVol(today, ql.NullCalendar(), sigma, days)),
        )
        option = ql.VanillaOption(
            ql.PlainVanillaPayoff(ql.Option.Call if call else ql.Option.Put, strike),
            ql.AmericanExercise(today, today + left),
        )
        option.setPricingEngine(ql.BjerksundStenslandApproximationEngine(process))
        price = [float(v) for v in pricing.american(call, 100.0, strike, left / 365, rate, carry, sigma)]
        if abs(abs(option.delta()) - 1) < 1e-3:
            continue  # About to be exercised: the slopes have a kink there, which finite differences miss.
        assert price == pytest.approx(
            [option.NPV(), option.delta(), option.gamma(), option.thetaPerDay(), option.vega() / 100], abs=2e-4
        )
        compared += 1
    assert compared > 200


@settings(max_examples=100, deadline=None)
@given(st.booleans(), st.floats(80, 125), st.floats(0.05, 2), st.floats(0.08, 1.2))
def test_implied_volatility_reproduces_the_price(call: bool, strike: float, years: float, sigma: float) -> None:
    """The volatility implied by a price gives that price again."""
    price = pricing.european(call, 100.0, strike, years, 0.03, 0.0, sigma).price
    forward = 100.0 * math.exp(0.03 * years)
    if float(price) - max(0.0, (1 if call else -1) * (100.0 - strike * math.exp(-0.03 * years))) > 1e-6:
        found = pricing.implied(
            *(np.array([v]) for v in (call, float(price), forward, strike, years, math.exp(-0.03 * years)))
        )
        assert float(pricing.european(call, 100.0, strike, years, 0.03, 0.0, float(found[0])).price) == pytest.approx(
            float(price), abs=1e-9
        )
