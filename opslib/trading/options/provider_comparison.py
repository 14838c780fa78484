"""
Compare two chains of one symbol from two providers.

They are never of one instant: one provider's Greeks may be an hour old. So what the underlying moved in between, which
shifts each delta by its gamma times the move, is found first, from the contracts themselves, and taken out.
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
    Two chains beside one another.

    Attributes:
        shared: Core contracts of both without a fault in either.
        moved_usd: What the underlying moved between them; None where too few contracts tell it.
        delta_off, iv_off: So many of these differ by more than that explains, and by more than limits and spreads
            allow.
        examples: The worst of them by name.
    """

    shared: int
    moved_usd: float | None
    delta_off: int
    iv_off: int
    examples: tuple[str, ...]

    def __repr__(self) -> str:
        if self.moved_usd is None:
            return f"too few contracts in common to compare ({self.shared})"
        return (
            f"{self.shared:,} contracts in common; the underlying {self.moved_usd:+.2f} USD between them; "
            f"delta differs in {self.delta_off:,}, volatility in {self.iv_off:,}"
        )


def crosscheck(ours: ChainQuality, theirs: ChainQuality, limits: ChainLimits) -> Crosscheck:
    """Where do two providers' Greeks differ, the move of the underlying taken out?"""
    import numpy as np

    one, two = (_sound(q) for q in (ours, theirs))
    both = one.merge(two, on=["day", "cp", "strike"], suffixes=("", "_theirs"))
    if len(both) < LEAST_SHARED:
        return Crosscheck(len(both), None, 0, 0, ())
    with np.errstate(all="ignore"):
        moves = ((both["delta_theirs"] - both["delta"]) / both["gamma"]).replace([np.inf, -np.inf], np.nan)
        moved = float(moves.median()) if moves.notna().any() else 0.0
        # Beside the move, gamma itself changes on the way: some of what it explained may remain.
        off = (
            (both["delta_theirs"] - both["delta"] - both["gamma"] * moved).abs()
            - limits.cross_delta
            - GAMMA_CHANGES * (both["gamma"] * moved).abs()
        )
        iv_off = (both["iv_theirs"] - both["iv"]).abs() - limits.cross_iv - both["wide"].fillna(0.0)
    worst = both.assign(off=off.fillna(-1)).sort_values("off", ascending=False).head(EXAMPLES)
    told = tuple(
        f"{r.day} {r.cp} {r.strike:g}: delta {r.delta:.3f} against {r.delta_theirs:.3f}"
        for r in worst[worst["off"] > 0].itertuples()
    )
    return Crosscheck(len(both), round(moved, 4), int((off > 0).sum()), int((iv_off > 0).sum()), told)


def _sound(quality: ChainQuality) -> "DataFrame":
    import numpy as np

    rows = quality.core & (quality.faults.clean | quality.faults.has("stale"))
    frame = quality.chain.frame.loc[rows, ["cp", "strike", "delta", "gamma", "iv"]].copy()
    for name in ("gamma", "iv"):
        frame[name] = frame[name] / FACTORS[name].get(quality.units[name] or "", 1.0)
    frame["day"] = quality.chain.frame.loc[rows, "expiry"].dt.tz_convert(NEW_YORK).dt.date
    quotes = quality.chain.frame.loc[rows, ["bid", "ask"]]
    vega = quality.theory.greeks(frame["iv"].to_numpy(), np.flatnonzero(rows)).vega_pt
    frame["wide"] = (quotes["ask"] - quotes["bid"]) / (100 * vega)
    sound: DataFrame = frame
    return sound
