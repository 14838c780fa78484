"""
Compute fair values and Greeks of a chain's contracts from the prices of the chain itself.

No rate and no dividend is assumed: put-call parity near the money gives each expiration's forward, and the smallest
rate and yield that lead from the spot to it are used. Early exercise is valued by Bjerksund and Stensland.
"""

from typing import TYPE_CHECKING, Any, NamedTuple

from opslib.trading.options import pricing
from opslib.trading.options.listing_checks import Grid
from opslib.trading.options.pricing import Greeks

if TYPE_CHECKING:
    from numpy import ndarray as Array
    from pandas import DataFrame
else:
    Array = Any

YEAR_S = 365 * 86_400
# The forward is the median over this many pairs with the closest call and put prices, robust against a few bad ones.
NEAREST = 10
LEAST_PAIRS = 3
FAR_OFF = 0.3
# Share of the forward: farther from the money, most of a price is intrinsic value, and early exercise distorts parity.
NEAR_MONEY = 0.03
MOST_RATE = 0.05  # Per year, beyond what the forward implies: the highest dollar rate of the last twenty years.
DIVIDEND = (0.01, 0.05)  # Share of the spot: the range of one quarter's dividend.
MOST_CARRY = 0.15  # Per year: if spot and forward are farther apart, the spot is from another moment.
# Index roots with European options; all others are American unless the row says otherwise.
EUROPEAN = frozenset({"SPX", "SPXW", "NDX", "NDXP", "RUT", "RUTW", "VIX", "VIXW", "XSP", "DJX", "MRUT", "XEO", "XND"})


class FairValue(NamedTuple):
    """
    Model values of each row of a chain, as arrays.

    Attributes:
        grid: The position of each row among the others.
        european: Whether it can only be exercised at expiry.
        years: Time until it settles; negative if it has settled.
        mid, spot, forward, rate, carry: Prices in dollars; rate and yield continuous, per year.
        iv_mid: The volatility that its mid implies; NaN if there is none, or no bid.
        parity, spotted: Whether its forward comes from prices, and its spot from the feed.
    """

    grid: Grid
    european: Array
    years: Array
    mid: Array
    spot: Array
    forward: Array
    rate: Array
    carry: Array
    iv_mid: Array
    parity: Array
    spotted: Array

    @property
    def call(self) -> Array:
        """Whether it is a call."""
        return self.grid.call

    @property
    def strike(self) -> Array:
        """Its strike, in dollars."""
        return self.grid.strike

    def at_half(self) -> "FairValue":
        """Return the same values with every strike halved."""
        return self._replace(grid=self.grid._replace(strike=self.grid.strike / 2))

    def delta_mid(self, rows: Array) -> Array:
        """Return the deltas of some rows at the volatilities that their mids imply."""
        return pricing.european(
            self.call[rows],
            self.spot[rows],
            self.strike[rows],
            self.years[rows],
            self.rate[rows],
            self.carry[rows],
            self.iv_mid[rows],
        ).delta

    def greeks(self, iv: Array, rows: Array | None = None) -> Greeks:
        """Return price and Greeks at a volatility, for some rows or for all."""
        import numpy as np

        rows = np.arange(len(self.call)) if rows is None else rows
        given = tuple(a[rows] for a in (self.call, self.spot, self.strike, self.years, self.rate, self.carry))
        call, spot, strike, years, rate, carry = given
        found = pricing.european(call, spot, strike, years, rate, carry, iv)
        early = np.flatnonzero(~self.european[rows] & ((rate > 0) | (carry > 0)))
        if len(early):
            exercised = pricing.american(*(a[early] for a in (*given, iv)))
            for plain, better in zip(found, exercised):
                plain[early] = np.where(np.isfinite(better), better, plain[early])
        return found

    def between(self, iv: Array, rows: Array) -> tuple[Greeks, Greeks]:
        """
        Return the lowest and the highest valid figures at a volatility.

        A chain does not show the rate, nor whether its vendor models early exercise. If it does not show the forward
        either, the rate moves it.
        """
        import numpy as np

        drift = np.exp(-MOST_RATE * self.years)
        other = self._replace(
            spot=np.where(self.spotted, self.spot, self.forward * drift),
            rate=np.where(self.spotted, self.rate + MOST_RATE, MOST_RATE),
            carry=np.where(self.spotted & self.parity, self.carry + MOST_RATE, np.where(self.spotted, self.carry, 0.0)),
        )
        found = [at.greeks(iv, rows) for at in (self, other)]
        if not self.european[rows].all():
            found += [
                at._replace(european=np.ones(len(self.european), dtype=bool)).greeks(iv, rows) for at in (self, other)
            ]
        low, high = (Greeks(*(bound(v, axis=0) for v in zip(*found))) for bound in (np.min, np.max))
        # Before a dividend is paid, a short stock position earns only interest; and a forward from few prices sometimes
        # implies too high a rate.
        for rate in (0.0, MOST_RATE):
            waits = (
                self._replace(
                    rate=np.full(len(self.years), rate),
                    carry=np.zeros(len(self.years)),
                    european=np.ones(len(self.european), dtype=bool),
                )
                .greeks(iv, rows)
                .theta_day
            )
            low, high = (
                low._replace(theta_day=np.minimum(low.theta_day, waits)),
                high._replace(theta_day=np.maximum(high.theta_day, waits)),
            )
        return low, high

    def implied(self, rows: Array) -> Array:
        """Return the volatilities that the mids of some rows imply."""
        given = [a[rows] for a in (self.call, self.mid, self.forward, self.strike, self.years, self.discount)]
        return pricing.implied(*given)

    @property
    def discount(self) -> Array:
        """The value today of a dollar at settlement."""
        import numpy as np

        factor: Array = np.exp(-self.rate * self.years)
        return factor


def model_values(frame: "DataFrame", grid: Grid, sound: Array) -> FairValue:
    """
    Compute the model values of a chain's contracts.

    Args:
        frame: As in `chain.Chain`.
        grid: The position of its rows.
        sound: The rows that may be used for the forward: no fault is known in their side, strike and price.
    """
    import numpy as np

    bid, ask = (frame[name].to_numpy(dtype=float) for name in ("bid", "ask"))
    years = (frame["expiry"] - frame["as_of"]).dt.total_seconds().to_numpy() / YEAR_S
    style = frame["style"].str.lower()
    european = ((style == "european") | ((style == "") & frame["root"].isin(EUROPEAN))).to_numpy(dtype=bool)
    mid = np.where((bid >= 0) & (ask > 0), (bid + ask) / 2, np.nan)
    spot = frame["underlying_px"].to_numpy(dtype=float, copy=True)
    spot[~(spot > 0)] = np.nan
    forward = _forwards(grid, mid, spot, sound & (bid > 0))
    spotted, parity = spot > 0, ~np.isnan(forward)
    guessed = ~spotted & ~parity  # Their spot is approximated by the forward of the first expiration that has one.
    spot = np.where(spotted, spot, np.where(parity, forward, _first_forwards(grid, forward, years)))
    spotted = spotted | (guessed & (spot > 0))
    with np.errstate(all="ignore"):
        slope = np.log(forward / spot) / np.where(years > 0, years, np.nan)
        known = slope[np.isfinite(slope) & (np.abs(slope) <= MOST_CARRY)]
        parity |= len(known) > 0
        parity &= ~guessed
        slope = np.where(np.isnan(forward), np.median(known) if len(known) else 0.0, np.nan_to_num(slope))
        forward = np.where(np.isnan(forward), spot * np.exp(slope * years), forward)
    gap = np.abs(slope) * years
    # The time is so short, or the spot so old, that a rate would be meaningless.
    elsewhere = ~((np.abs(slope) <= MOST_CARRY) | ((gap > DIVIDEND[0]) & (gap < DIVIDEND[1])))
    spot = np.where(elsewhere, forward, spot)
    slope = np.where(elsewhere, 0.0, slope)
    rate, carry = np.maximum(slope, 0.0), np.maximum(-slope, 0.0)
    iv_mid, quoted = np.full(len(mid), np.nan), np.flatnonzero((bid > 0) & (years > 0))
    discount = np.exp(-rate * years)
    iv_mid[quoted] = pricing.implied(*(a[quoted] for a in (grid.call, mid, forward, grid.strike, years, discount)))
    return FairValue(grid, european, years, mid, spot, forward, rate, carry, iv_mid, parity, spotted)


def _first_forwards(grid: Grid, forward: Array, years: Array) -> Array:
    """Return for each row the forward of its root's first expiration that has one; NaN if there is none."""
    import numpy as np
    import pandas

    by = np.argsort(years, kind="stable")
    by = by[(years[by] > 0) & np.isfinite(forward[by])]
    return pandas.Series(forward[by]).groupby(grid.root[by]).first().reindex(grid.root).to_numpy()


def pairs(grid: Grid, among: Array) -> tuple[Array, Array]:
    """Return the rows of the calls, and of the puts with the same group and strike, among some rows (a mask)."""
    ours = grid.order[among[grid.order]]
    first, second = ours[:-1], ours[1:]
    same = (
        (grid.group[first] == grid.group[second])
        & (grid.strike[first] == grid.strike[second])
        & grid.call[first]
        & ~grid.call[second]
    )
    return first[same], second[same]


def _forwards(grid: Grid, mid: Array, spot: Array, usable: Array) -> Array:
    """Return each row's forward, by parity at the closest call and put prices; NaN if there are too few pairs."""
    import numpy as np
    import pandas

    calls, puts = pairs(grid, usable & np.isfinite(mid))
    apart = mid[calls] - mid[puts]
    group, far, forward = grid.group[calls], np.abs(apart), grid.strike[calls] + apart
    # A wrong strike implies an impossible forward.
    far = np.where(np.abs(np.log(np.maximum(forward, 1e-9) / spot[calls])) > FAR_OFF, np.inf, far)
    by = np.lexsort((far, group))
    nearest = pandas.DataFrame({"group": group[by], "far": far[by], "forward": forward[by], "above": apart[by] > 0})
    nearest = nearest[(nearest.groupby("group").cumcount() < NEAREST) & np.isfinite(nearest["far"])]
    found = nearest.groupby("group").agg(
        forward=("forward", "median"), pairs=("forward", "size"), far=("far", "min"), above=("above", "mean")
    )
    # Pairs must lie on both sides of the forward, because early exercise raises prices more on one side than on the
    # other.
    known = found.loc[
        (found["pairs"] >= LEAST_PAIRS)
        & (found["far"] <= NEAR_MONEY * found["forward"])
        & (found["above"] > 0)
        & (found["above"] < 1),
        "forward",
    ]
    by_row: Array = known.reindex(grid.group).to_numpy()
    return by_row
