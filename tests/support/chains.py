"""
Provide chains: healthy ones of a known surface, and the same with one kind of fault.

A table has a row for each contract under usual column names, all text, as in a CSV file; faults are put into some of
its core rows.
"""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random

import numpy as np
import pandas

from opslib.simulation.world.option_surface import Surface
from opslib.trading.options.chain import Chain, read

AT = datetime(2026, 3, 10, 15, 30, tzinfo=UTC)
STEP = timedelta(minutes=40)

COLUMNS = [
    "symbol",
    "underlying",
    "expiration",
    "type",
    "strike",
    "bid",
    "ask",
    "iv",
    "delta",
    "gamma",
    "theta",
    "vega",
    "open_interest",
    "underlying_price",
    "quote_ts",
    "as_of",
]


def healthy(symbol: str = "SPY", seed: int = 1, at: datetime = AT, *, expires_today: bool = False) -> pandas.DataFrame:
    """Return a healthy chain as a feed lists it, with or without contracts that expire that day."""
    rows = [
        [
            c.ticker,
            c.symbol,
            c.expiry,
            c.side,
            c.strike,
            c.bid,
            c.ask,
            c.iv,
            c.delta,
            c.gamma,
            c.theta,
            c.vega,
            c.open_interest,
            c.spot,
            datetime.fromtimestamp(c.quoted_at_s, UTC).isoformat(),
            at.isoformat(),
        ]
        for c in Surface(seed).chain(symbol, at.timestamp(), expires_today=expires_today)
    ]
    return pandas.DataFrame(rows, columns=COLUMNS, dtype=object).astype(object).where(lambda f: f.notna(), None)


def table_of(chain: Chain) -> pandas.DataFrame:
    """Return a parsed chain as such a table."""
    f = chain.frame
    stamps = f["as_of"].map(lambda t: t.isoformat())
    days = f["expiry"].dt.tz_convert("America/New_York").dt.strftime("%Y-%m-%d")
    found = pandas.DataFrame(
        {
            "symbol": f["symbol"],
            "underlying": f["underlying"],
            "expiration": days,
            "type": f["cp"],
            "strike": f["strike"],
            "bid": f["bid"],
            "ask": f["ask"],
            "iv": f["iv"],
            "delta": f["delta"],
            "gamma": f["gamma"],
            "theta": f["theta"],
            "vega": f["vega"],
            "open_interest": f["oi"],
            "underlying_price": f["underlying_px"],
            "quote_ts": stamps,
            "as_of": stamps,
        }
    )
    return found.astype(object).where(found.notna(), None).dropna(axis=1, how="all")


def core(table: pandas.DataFrame, *, later: bool = True) -> np.ndarray:
    """Return the core rows: those with a quote and a delta between 0.05 and 0.95."""
    delta = table["delta"].astype(float).abs()
    return np.flatnonzero((table["bid"].astype(float) > 0) & delta.between(0.05, 0.95))


def written(table: pandas.DataFrame, folder: Path, name: str = "chain.csv") -> Path:
    """Write the table as CSV."""
    path = folder / name
    table.to_csv(path, index=False)
    return path


def _times(column: str, factor: float) -> Callable:
    def fault(table: pandas.DataFrame, rows: np.ndarray, rng: Random) -> pandas.DataFrame:
        return _set(table, rows, **{column: [float(v) * factor for v in table[column].iloc[rows]]})

    return fault


def _set(table: pandas.DataFrame, rows: np.ndarray, **cells: object) -> pandas.DataFrame:
    found = table.copy()
    for name, values in cells.items():
        found.iloc[rows, found.columns.get_loc(name)] = values
    return found


def _gamma_zero(table: pandas.DataFrame, rows: np.ndarray, rng: Random) -> pandas.DataFrame:
    near = [i for i in rows if 0.3 <= abs(float(table["delta"].iloc[i])) <= 0.7] or [
        i for i in core(table) if 0.3 <= abs(float(table["delta"].iloc[i])) <= 0.7
    ][:1]
    return _set(table, np.array(near, dtype=int), gamma=0.0)


def _hundredfold(table: pandas.DataFrame, rows: np.ndarray, rng: Random) -> pandas.DataFrame:
    for name in ("gamma", "theta", "vega"):
        table = _times(name, 100)(table, rows, rng) if name in table else table
    return table


def _other_side(table: pandas.DataFrame, rows: np.ndarray, rng: Random) -> pandas.DataFrame:
    return _set(table, rows, type=["put" if t == "call" else "call" for t in table["type"].iloc[rows]])


def _exchanged(table: pandas.DataFrame, rows: np.ndarray, rng: Random) -> pandas.DataFrame:
    """Exchange the values of each call with those of its put."""
    place = {(e, k, t): i for i, (e, k, t) in enumerate(zip(table["expiration"], table["strike"], table["type"]))}
    found = table.copy()
    names = [n for n in ("bid", "ask", "iv", "delta", "gamma", "theta", "vega") if n in table]
    for i in rows:
        e, k, t = (table[n].iloc[i] for n in ("expiration", "strike", "type"))
        j = place.get((e, k, "put" if t == "call" else "call"))
        if j is not None and table.iloc[[i, j]][names].notna().all(axis=None):
            for a, b in ((i, j), (j, i)):
                found.iloc[a, [found.columns.get_loc(n) for n in names]] = table.iloc[b][names].to_numpy()
    return found


def _stale(table: pandas.DataFrame, rows: np.ndarray, rng: Random) -> pandas.DataFrame:
    half = rng.sample(range(len(table)), len(table) // 2)
    return _set(
        table,
        np.array(sorted(half)),
        quote_ts=[(datetime.fromisoformat(t) - STEP).isoformat() for t in table["quote_ts"].iloc[sorted(half)]],
    )


def _text(table: pandas.DataFrame, rows: np.ndarray, rng: Random) -> pandas.DataFrame:
    return (
        _set(table, rows, gamma="NaN")
        if rng.random() < 0.5
        else _set(table, rows, **{n: "NaN" for n in ("iv", "delta", "gamma", "theta", "vega") if n in table})
    )


def _sentinel(table: pandas.DataFrame, rows: np.ndarray, rng: Random) -> pandas.DataFrame:
    return _set(
        table,
        rows,
        **{
            n: -999.0
            for n in rng.choice([("iv",), ("delta",), ("gamma",), ("iv", "delta", "gamma", "theta", "vega")])
            if n in table
        },
    )


def _crossed(table: pandas.DataFrame, rows: np.ndarray, rng: Random) -> pandas.DataFrame:
    return _set(table, rows, bid=list(table["ask"].iloc[rows]), ask=list(table["bid"].iloc[rows]))


def _page(table: pandas.DataFrame, rows: np.ndarray, rng: Random) -> pandas.DataFrame:
    """Drop a range of rows in the vendor's order: by expiration, calls before puts, by strike."""
    ordered = table.sort_values(
        ["expiration", "type", "strike"], key=lambda c: c.astype(float) if c.name == "strike" else c, ignore_index=True
    )
    own = core(ordered)
    # Within an expiration's calls or puts, since rows missing at their end might never have been listed.
    first = rng.choice([i for i in range(len(own) - len(rows)) if own[i + len(rows)] - own[i] == len(rows)] or [0])
    return ordered.drop(index=own[first : first + len(rows)]).reset_index(drop=True)


def _repeated(table: pandas.DataFrame, rows: np.ndarray, rng: Random) -> pandas.DataFrame:
    return pandas.concat([table, table.iloc[rows]], ignore_index=True)


def _doubled(table: pandas.DataFrame, rows: np.ndarray, rng: Random) -> pandas.DataFrame:
    return _set(table, rows, strike=[float(k) * 2 for k in table["strike"].iloc[rows]])


def _past(table: pandas.DataFrame, rows: np.ndarray, rng: Random) -> pandas.DataFrame:
    day = (datetime.fromisoformat(table["as_of"].iloc[0]) - timedelta(days=5)).date()
    return _set(table, rows, expiration=day.isoformat(), **({"symbol": ""} if "symbol" in table else {}))


def _past_added(table: pandas.DataFrame, rows: np.ndarray, rng: Random) -> pandas.DataFrame:
    return pandas.concat([table, _past(table.iloc[rows], np.arange(len(rows)), rng)], ignore_index=True)


# Each kind of fault, and the only check that must report it.
FAULTS: dict[str, tuple[str, Callable]] = {
    "gamma zeroed at the money": ("gamma_zero", _gamma_zero),
    "gamma, theta and vega a hundred times": ("units", _hundredfold),
    "gamma a hundred times": ("units", _times("gamma", 100)),
    "theta a year": ("units", _times("theta", 365)),
    "theta a trading year": ("units", _times("theta", 252)),
    "vega a whole": ("units", _times("vega", 100)),
    "iv in percent": ("units", _times("iv", 100)),
    "sides relabelled": ("calls_puts_swapped", _other_side),
    "calls and puts exchanged": ("calls_puts_swapped", _exchanged),
    "half stale": ("stale", _stale),
    "NaN as text": ("sentinel", _text),
    "-999": ("sentinel", _sentinel),
    "crossed": ("crossed", _crossed),
    "a page missing": ("incomplete", _page),
    "rows listed twice": ("duplicate", _repeated),
    "strikes doubled": ("strike_mismatch", _doubled),
    "expired still listed": ("expired", _past),
    "expired ones added": ("expired", _past_added),
    "delta above one": ("delta_out_of_bounds", _times("delta", 25)),
    "delta of the wrong sign": ("delta_sign", _times("delta", -1)),
}


def faulty(table: pandas.DataFrame, fault: str, share: float, seed: int) -> pandas.DataFrame:
    """Return the table with a fault in a share of its core rows."""
    rng = Random(seed)
    own = core(table)
    rows = np.array(sorted(rng.sample(list(own), max(1, round(share * len(own))))))
    return FAULTS[fault][1](table, rows, rng)


def opened(path: Path) -> pandas.DataFrame:
    """Open a real chain as such a table."""
    return table_of(read(path))
