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

AT_THE_MONEY = (0.4, 0.6)  # Absolute delta.
MONTH_DAYS = 30.0


def counted(quality: ChainQuality) -> dict[str, Any]:
    """
    Summarise a chain.

    Returns:
        Counts: contracts, quoted, core, flagged, each fault of the core, those that expire that day and those of them
        without gamma; units; medians of iv, theta and vega over the core in the feed's units, None without values;
        `iv_atm`, decimal, of the expiration nearest a month away.
    """
    frame, core, faults = quality.chain.frame, quality.core, quality.faults
    kinds = {check: n for check in faults.says if (n := quality.core_with(check))}
    days = [frame[name].dt.tz_convert(NEW_YORK).dt.date for name in ("expiry", "as_of")]
    summary: dict[str, Any] = {
        "contracts": len(frame),
        "quoted": int((frame["bid"] > 0).sum()),
        "core": quality.core_count,
        "flagged": quality.flagged,
        "faults": kinds,
        "units": quality.units,
        "expires_today": int((days[0] == days[1]).sum()),
        "expiring_zero": int(((days[0] == days[1]) & (frame["gamma"].fillna(0.0) == 0)).sum()),
    }
    summary |= {name: kinds.get(name, 0) for name in ("missing", "gamma_zero", "delta_out_of_bounds")}
    for name in ("iv", "theta", "vega"):
        values = frame.loc[core, name].dropna()
        summary[f"median_{name}"] = round(float(values.median()), 6) if len(values) else None
    summary["iv_atm"] = iv_atm(quality)
    return summary


def iv_atm(quality: ChainQuality) -> float | None:
    """
    Return the volatility at the money, decimal, of the expiration nearest a month away; None without valid contracts.
    """
    import numpy as np

    fair_value = quality.fair_value
    rows = np.flatnonzero(quality.core & quality.faults.clean & np.isfinite(fair_value.iv_mid))
    size = np.abs(fair_value.delta_mid(rows))
    rows = rows[(size >= AT_THE_MONEY[0]) & (size <= AT_THE_MONEY[1])]
    if not len(rows):
        return None
    away = np.abs(fair_value.years[rows] * 365 - MONTH_DAYS)
    return round(float(np.median(fair_value.iv_mid[rows[away == away.min()]])), 6)


@dataclass(frozen=True, slots=True)
class IvBaseline:
    """
    The usual range of a symbol's volatility at the money.

    Attributes:
        days: Number of earlier days available.
        low, high: Decimal; None until enough days are available.
    """

    days: int
    low: float | None = None
    high: float | None = None

    def outside(self, iv: float | None) -> bool | None:
        """Return whether a volatility is outside the range; None while the range is unknown."""
        return None if iv is None or self.low is None or self.high is None else not self.low <= iv <= self.high


def iv_baseline(chains: Iterable[tuple[int, float | None]], as_of: datetime, limits: ChainLimits) -> IvBaseline:
    """
    Compute the usual IV range of a symbol before a day.

    Args:
        chains: When each of its chains was fetched (microseconds) and its `iv_atm`, any number per day; each day's last
            one counts, over as many days as the baseline needs.
        as_of: Only days before its date count.
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
