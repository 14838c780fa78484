"""
Compare two chains of one symbol from two providers.

They are never from the same instant: one provider's Greeks may be an hour old. The move of the underlying between them,
which shifts each delta by gamma times the move, is estimated from the contracts themselves and removed first.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from opslib.foundation.config.limits import ChainLimits
from opslib.foundation.formatting import NEW_YORK
from opslib.trading.options.chain_quality import EXAMPLES, ChainQuality
from opslib.trading.options.units import FACTORS

if TYPE_CHECKING:
    from pandas import DataFrame

LEAST_SHARED = 5
GAMMA_CHANGES = 0.25


@dataclass(frozen=True, slots=True)
class Crosscheck:
    """
    The comparison of two chains.

    Attributes:
        shared: Core contracts of both without a fault in either.
        moved_usd: The move of the underlying between them; None with too few contracts.
        delta_off, iv_off: Contracts that differ by more than the move, the limits and the spreads explain.
        examples: The worst of them by name.
    """

    shared: int
    moved_usd: float | None
    delta_off: int
    iv_off: int
    examples: tuple[str, ...]

    def __repr__(self) -> str:
        if self.moved_usd is None:
            return f"too few contracts in common to compare ({self.shared} of {LEAST_SHARED} required)"
        return (
            f"{self.shared:,} contracts in common; the underlying moved {self.moved_usd:+z.2f} USD between them; "
            f"delta differs in {self.delta_off:,}, volatility in {self.iv_off:,}"
        )


def crosscheck(ours: ChainQuality, theirs: ChainQuality, limits: ChainLimits) -> Crosscheck:
    """Compare two providers' Greeks, with the move of the underlying removed."""
    import numpy as np

    one, two = (_sound(q) for q in (ours, theirs))
    both = one.merge(two, on=["day", "cp", "strike"], suffixes=("", "_theirs"))
    if len(both) < LEAST_SHARED:
        return Crosscheck(len(both), None, 0, 0, ())
    with np.errstate(all="ignore"):
        spot_changes = ((both["delta_theirs"] - both["delta"]) / both["gamma"]).replace([np.inf, -np.inf], np.nan)
        moved = float(spot_changes.median()) if spot_changes.notna().any() else 0.0
        # Gamma itself changes during the move, so a part of the difference may remain.
        off = (
            (both["delta_theirs"] - both["delta"] - both["gamma"] * moved).abs()
            - limits.cross_delta
            - GAMMA_CHANGES * (both["gamma"] * moved).abs()
        )
        iv_off = (both["iv_theirs"] - both["iv"]).abs() - limits.cross_iv - both["wide"].fillna(0.0)
    worst = both.assign(off=off.fillna(-1)).sort_values("off", ascending=False).head(EXAMPLES)
    examples = tuple(
        f"{r.day} {r.cp} {r.strike:g}: delta {r.delta:.3f} against {r.delta_theirs:.3f}"
        for r in worst[worst["off"] > 0].itertuples()
    )
    return Crosscheck(len(both), round(moved, 4), int((off > 0).sum()), int((iv_off > 0).sum()), examples)


def _sound(quality: ChainQuality) -> "DataFrame":
    import numpy as np

    rows = quality.core & (quality.faults.clean | quality.faults.has("stale"))
    frame = quality.chain.frame.loc[rows, ["cp", "strike", "delta", "gamma", "iv"]].copy()
    for name in ("gamma", "iv"):
        frame[name] = frame[name] / FACTORS[name].get(quality.units[name] or "", 1.0)
    frame["day"] = quality.chain.frame.loc[rows, "expiry"].dt.tz_convert(NEW_YORK).dt.date
    quotes = quality.chain.frame.loc[rows, ["bid", "ask"]]
    vega = quality.fair_value.greeks(frame["iv"].to_numpy(), np.flatnonzero(rows)).vega_pt
    frame["wide"] = (quotes["ask"] - quotes["bid"]) / (100 * vega)
    sound: DataFrame = frame
    return sound
