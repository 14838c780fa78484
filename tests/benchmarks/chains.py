"""
Measure every check of Greeks on a million European contracts in memory, with implied volatilities.

The peer is vollib, which recomputes as many Greeks.
"""

import time
from collections.abc import Iterator
from pathlib import Path

from opslib.foundation.config import rules
from opslib.trading.options import chain, chain_quality, pricing

COUNT, STRIKES, EXPIRATIONS, BESIDE = 1_000_000, 100, 25, 20_000


def made(count: int) -> chain.Chain:
    """Return a healthy chain of European contracts: underlyings of 25 expirations with 100 strikes each."""
    import numpy as np
    import pandas

    at, groups = pandas.Timestamp("2026-03-10T15:30Z"), count // (2 * STRIKES)
    group, place, call = (
        np.repeat(np.arange(groups), 2 * STRIKES),
        np.tile(np.repeat(np.arange(STRIKES), 2), groups),
        np.tile([True, False], groups * STRIKES),
    )
    days, symbol = (group % EXPIRATIONS) * 7 + 3.18, group // EXPIRATIONS
    spot = 100.0 + symbol
    strike = np.round(spot * (0.8 + 0.004 * place), 2)
    iv = np.round(0.2 + 0.1 * np.abs(np.log(strike / spot)), 4)
    priced = pricing.european(call, spot, strike, days / 365, 0.04, 0.01, iv)
    half, name = np.maximum(0.01, priced.price * 0.004), np.char.add("S", symbol.astype(str))
    frame = pandas.DataFrame(
        {
            "underlying": name,
            "root": name,
            "symbol": "",
            "cp": np.where(call, "call", "put"),
            "style": "european",
            "timeframe": "REAL-TIME",
            "strike": strike,
            "multiplier": 100.0,
            "bid": np.round(np.maximum(priced.price - half, 0), 2),
            "ask": np.round(priced.price + half, 2),
            "bid_size": 10.0,
            "ask_size": 10.0,
            "iv": iv,
            "delta": np.round(priced.delta, 4),
            "gamma": np.round(priced.gamma, 4),
            "theta": np.round(priced.theta_day, 4),
            "vega": np.round(priced.vega_pt, 4),
            "oi": 100.0,
            "volume": 1.0,
            "underlying_px": spot,
            "as_of": at,
            "expiry": at + pandas.to_timedelta(days, unit="D"),
            "quote_ts": at,
            "underlying_ts": at,
            "greeks_ts": pandas.to_datetime(pandas.Series([None] * len(call)), utc=True),
            "why_missing": "",
            "symbol_says": "",
            "place": np.arange(1, len(call) + 1),
        }
    )
    return chain.Chain(frame[list(chain.COLUMNS)], "plain")


def measure(folder: Path) -> Iterator[dict]:
    """Measure seconds of wall time, the best of three; vollib runs on fewer contracts, and its time is scaled up."""
    from vollib.black_scholes_merton.greeks import analytical

    million, limits = made(COUNT), rules.load(None).chain
    chain_quality.evaluate_chain(made(2 * STRIKES * EXPIRATIONS), limits)
    times = []
    for _ in range(3):
        began = time.perf_counter()
        found = chain_quality.evaluate_chain(million, limits)
        times.append(time.perf_counter() - began)
    rows = million.frame.head(BESIDE)
    years = (rows["expiry"] - rows["as_of"]).dt.total_seconds() / (365 * 86_400)
    began = time.perf_counter()
    for flag, spot, strike, left, iv in zip(
        rows["cp"].str[0], rows["underlying_px"], rows["strike"], years, rows["iv"]
    ):
        for greek in (analytical.delta, analytical.gamma, analytical.theta, analytical.vega):
            greek(flag, spot, strike, left, 0.04, iv, 0.01)
    beside = (time.perf_counter() - began) * COUNT / BESIDE
    best = min(times)
    yield {
        "what": "a million European contracts, every check",
        "core": found.core_count,
        "flagged": found.flagged,
        "seconds": round(best, 2),
        "reach": 3.0,
        "vollib_four_greeks_s": round(beside, 1),
        "ratio": round(best / beside, 3),
    }
