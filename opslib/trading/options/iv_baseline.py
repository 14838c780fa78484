"""Summarise a chain in a few numbers, and compute the usual IV range of its symbol from earlier days."""

import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from opslib.foundation import clock
from opslib.foundation.config.limits import ChainLimits
from opslib.foundation.formatting import NEW_YORK
from opslib.trading.options.chain_quality import ChainQuality

AT_THE_MONEY = (0.4, 0.6)  # Sizes of delta.
MONTH_DAYS = 30.0


def counted(quality: ChainQuality) -> dict[str, Any]:
    """
    What does a chain come to?

    Returns:
        Counts: contracts, quoted, core, flagged, each fault of the core, those that expire that day and those of them
            without gamma; units; medians of iv, theta
        and vega over the core as the feed has them, None of nothing; `iv_atm`, decimal, of the expiration nearest a
        month away.
    """
    frame, core, faults = quality.chain.frame, quality.core, quality.faults
    kinds = {check: n for check in faults.says if (n := quality.core_with(check))}
    days = [frame[name].dt.tz_convert(NEW_YORK).dt.date for name in ("expiry", "as_of")]
    told: dict[str, Any] = {
        "contracts": len(frame),
        "quoted": int((frame["bid"] > 0).sum()),
        "core": quality.core_count,
        "flagged": quality.flagged,
        "faults": kinds,
        "units": quality.units,
        "expires_today": int((days[0] == days[1]).sum()),
        "expiring_zero": int(((days[0] == days[1]) & (frame["gamma"].fillna(0.0) == 0)).sum()),
    }
    told |= {name: kinds.get(name, 0) for name in ("missing", "gamma_zero", "delta_out_of_bounds")}
    for name in ("iv", "theta", "vega"):
        values = frame.loc[core, name].dropna()
        told[f"median_{name}"] = round(float(values.median()), 6) if len(values) else None
    told["iv_atm"] = iv_atm(quality)
    return told


def iv_atm(quality: ChainQuality) -> float | None:
    """
    The volatility at the money, decimal, of the expiration nearest a month away; None where nothing sound tells it.
    """
    import numpy as np

    theory = quality.theory
    rows = np.flatnonzero(quality.core & quality.faults.clean & np.isfinite(theory.iv_mid))
    size = np.abs(theory.delta_mid(rows))
    rows = rows[(size >= AT_THE_MONEY[0]) & (size <= AT_THE_MONEY[1])]
    if not len(rows):
        return None
    away = np.abs(theory.years[rows] * 365 - MONTH_DAYS)
    return round(float(np.median(theory.iv_mid[rows[away == away.min()]])), 6)


@dataclass(frozen=True, slots=True)
class IvBaseline:
    """
    Between which volatilities at the money is a symbol usually?

    Attributes:
        days: So many days before are held.
        low, high: Decimal; None until enough days are.
    """

    days: int
    low: float | None = None
    high: float | None = None

    def outside(self, iv: float | None) -> bool | None:
        """Is a volatility outside of it? None while that is not known."""
        return None if iv is None or self.low is None or self.high is None else not self.low <= iv <= self.high


def iv_baseline(chains: Iterable[tuple[int, float | None]], as_of: datetime, limits: ChainLimits) -> IvBaseline:
    """
    What was usual for a symbol before a day?

    Args:
        chains: When each of its chains was fetched (microseconds) and its `iv_atm`, any number a day; each day's last
            counts, of as many days as a band needs.
        as_of: Only the days before its own count.
    """
    today = as_of.astimezone(NEW_YORK).date()
    last: dict[Any, float] = {}
    for ts_us, iv in sorted(chains, key=lambda chain: chain[0]):
        day = clock.instant(ts_us).astimezone(NEW_YORK).date()
        if day < today and iv:
            last[day] = iv
    wanted = int(limits.band_days)
    known = [last[day] for day in sorted(last)[-wanted:]]
    if len(known) < wanted:
        return IvBaseline(len(known))
    middle = statistics.median(known)
    width = limits.band_times * statistics.median(abs(v - middle) for v in known)
    return IvBaseline(len(known), round(max(0.0, middle - width), 6), round(middle + width, 6))
