"""
Find the faults of the contracts of a chain.

A contract has at most one fault, the first one that explains it: a row whose calls and puts are swapped is not also
flagged for its delta.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from opslib.foundation import market_calendar
from opslib.foundation.clock import Window
from opslib.foundation.config.limits import ChainLimits
from opslib.trading.options import pricing
from opslib.trading.options.chain import UNSOLVED_IV
from opslib.trading.options.fair_value import MOST_RATE, FairValue, pairs
from opslib.trading.options.units import IV_RANGE, LEAST_FOR_UNITS, digit, elsewhere

if TYPE_CHECKING:
    from numpy import ndarray as Array
else:
    Array = Any

ROUNDED = 1.5  # Units of the last digit: a smaller value may be sent as 0.
EPSILON_DELTA, EPSILON = 1e-3, 1e-6
LIVE_SHARE = 0.3  # Share of the core: if this many quotes are new after the close, the others are stale.
MOVED_ALIKE = 0.5  # Share of the contracts whose figures do not fit.
# Strikes are not exactly at the money; within this many standard deviations they are close enough.
CALENDAR_SLACK, AT_THE_MONEY = 1.05, 0.25


# The possible faults, and whether each is impossible (error) or suspicious (warning).
CHECKS = {
    "expired": "error",
    "duplicate": "error",
    "calls_puts_swapped": "error",
    "strike_mismatch": "error",
    "sentinel": "error",
    "crossed": "error",
    "delta_out_of_bounds": "error",
    "delta_sign": "error",
    "missing": "error",
    "units": "error",
    "gamma_zero": "error",
    "negative": "error",
    "iv_out_of_range": "error",
    "stale": "error",
    "incomplete": "error",
    "unreadable": "error",
    "recompute": "warning",
    "iv_vs_price": "warning",
    "theta_sign": "warning",
    "below_intrinsic": "warning",
    "pair": "warning",
    "monotone": "warning",
    "vertical": "warning",
    "butterfly": "warning",
    "parity": "warning",
    "calendar": "warning",
}
CODES = {check: code for code, check in enumerate(CHECKS, 1)}


@dataclass
class ContractFaults:
    """
    The fault of each row.

    Attributes:
        codes: The code of the first fault that was marked, as in `CODES`; 0 if there is none.
        says: By check, the description of a row's fault, and how bad it is compared with others.
    """

    codes: Array
    says: dict[str, tuple[Callable[[int], str], Array | None]] = field(default_factory=dict)

    def mark(self, rows: Array, check: str, says: Callable[[int], str], how_bad: Array | None = None) -> None:
        """Mark rows (a mask) that have no fault yet."""
        fresh = rows & (self.codes == 0)
        if fresh.any():
            self.codes[fresh] = CODES[check]
            self.says[check] = (says, how_bad)

    @property
    def clean(self) -> Array:
        """The rows without a fault so far, as a mask."""
        clean: Array = self.codes == 0
        return clean

    def has(self, *checks: str) -> Array:
        """Return the rows with one of these faults, as a mask."""
        import numpy as np

        return np.isin(self.codes, [CODES[check] for check in checks])


@dataclass(frozen=True)
class Case:
    """
    A chain under evaluation.

    Attributes:
        frame: As in `chain.Chain`.
        column: Its figures as arrays, in the usual units.
        fair_value: The model values computed from it.
        core: The rows that have to be right.
        faults: The faults found so far.
        limits: The tolerances.
        given: The core recomputed with its own volatilities; a figure may lie between `low` and `high`.
    """

    frame: Any
    column: dict[str, Array]
    fair_value: FairValue
    core: Array
    faults: ContractFaults
    limits: ChainLimits
    given: dict[str, Array]
    low: dict[str, Array]
    high: dict[str, Array]

    def beyond(self, name: str) -> Array:
        """Return how far a figure is outside its valid range."""
        import numpy as np

        distance: Array = np.maximum(
            np.maximum(self.low[name] - self.column[name], self.column[name] - self.high[name]), 0.0
        )
        return distance

    def nearest(self, name: str) -> Array:
        """Return the nearest valid figure."""
        import numpy as np

        closest: Array = np.clip(self.column[name], self.low[name], self.high[name])
        return closest


def doubled(column: dict[str, Array], fair_value: FairValue, core: Array, limits: ChainLimits) -> Array:
    """Return the contracts whose figures and price belong to the contract at half their strike."""
    import numpy as np

    found, delta, iv = np.zeros(len(core), dtype=bool), column["delta"], column["iv"]
    suspect = core & ~(np.abs(iv - fair_value.iv_mid) < limits.iv_off) & (fair_value.years * 365 >= limits.least_days)
    rows = np.flatnonzero(suspect & (np.isfinite(delta) | np.isfinite(iv)))
    if len(rows):
        half, mid, spread = fair_value.at_half(), fair_value.mid[rows], (column["ask"] - column["bid"])[rows]
        implied = half.implied(rows)
        own, other = (
            at.greeks(np.where(iv[rows] >= IV_RANGE[0], iv[rows], by_price), rows)
            for at, by_price in ((fair_value, fair_value.iv_mid[rows]), (half, implied))
        )
        has_delta = np.isfinite(delta[rows])
        near = np.where(
            has_delta,
            np.abs(other.delta - delta[rows]) < np.minimum(limits.delta_off, np.abs(delta[rows]) / 2),
            np.abs(implied - iv[rows]) < limits.iv_off,
        )
        priced = np.abs(other.price - mid) < np.maximum(mid / 5, spread)
        found[rows] = (
            near
            & priced
            & ~(np.abs(other.price - mid) >= np.abs(own.price - mid))
            & ~(
                has_delta
                & (np.abs(own.delta - delta[rows]) < limits.delta_off)
                & (np.abs(own.price - mid) < np.maximum(mid / 5, spread))
            )
        )
    return found


def exchanged(column: dict[str, Array], fair_value: FairValue, among: Array, limits: ChainLimits) -> Array:
    """Return the calls and puts of a strike that have each other's price, by parity."""
    import numpy as np

    found = np.zeros(len(among), dtype=bool)
    calls, puts = pairs(fair_value.grid, among & (fair_value.years > 0) & fair_value.parity)
    apart, fair = (
        fair_value.mid[calls] - fair_value.mid[puts],
        (fair_value.discount * (fair_value.forward - fair_value.strike))[calls],
    )
    spread = (column["ask"] - column["bid"])[calls] + (column["ask"] - column["bid"])[puts]
    band = (
        spread
        + limits.spot_off * fair_value.spot[calls]
        + np.where(
            fair_value.european[calls], 0.0, -np.expm1(-MOST_RATE * fair_value.years[calls]) * fair_value.strike[calls]
        )
    )
    swapped = (np.abs(fair) > band) & (np.abs(apart - fair) > band) & (np.abs(apart + fair) <= band)
    calls, puts = calls[swapped], puts[swapped]
    fits = np.ones(len(calls), dtype=bool)
    # The price that the own volatility of each implies is the price of the other one.
    for rows, others in ((calls, puts), (puts, calls)):
        own = fair_value.greeks(column["iv"][rows], rows)
        fits &= ~(
            np.abs(own.price - fair_value.mid[others])
            > np.maximum(spread[swapped], limits.iv_off * 100 * own.vega_pt) + limits.spot_off * fair_value.spot[rows]
        )
    found[np.concatenate([calls[fits], puts[fits]])] = True
    return found


def check_rows(case: Case, supplied: list[str]) -> None:
    """Mark the faults of single rows; `supplied` are the figures that the feed has."""
    import numpy as np

    column, fair_value, core, faults, limits, given = (
        case.column,
        case.fair_value,
        case.core,
        case.faults,
        case.limits,
        case.given,
    )
    delta, gamma, iv, call, why = (
        column["delta"],
        column["gamma"],
        column["iv"],
        fair_value.call,
        case.frame["why_missing"],
    )
    with np.errstate(all="ignore"):
        faults.mark(
            core & (why == "sentinel").to_numpy(dtype=bool),
            "sentinel",
            lambda i: "a value is not a number (NaN as text, -999 or similar); a number was expected",
        )
        faults.mark(
            core & (column["bid"] > column["ask"]),
            "crossed",
            lambda i: f"bid {column['bid'][i]:g} above ask {column['ask'][i]:g}",
            column["bid"] - column["ask"],
        )
        faults.mark(
            core & (np.abs(delta) > 1 + EPSILON_DELTA),
            "delta_out_of_bounds",
            lambda i: f"delta {delta[i]:g}",
            np.abs(delta),
        )
        wrong = core & (np.where(call, -delta, delta) > EPSILON_DELTA)
        # The delta that the contract of the other side would have.
        other = np.abs(delta - (given["delta"] - np.where(call, 1.0, -1.0)))
        own = np.abs(-delta - given["delta"])
        distances = (other - own)[wrong & np.isfinite(other - own)]
        swapped = np.median(distances) <= 0 if len(distances) else True
        faults.mark(
            wrong,
            "calls_puts_swapped" if swapped else "delta_sign",
            lambda i: f"delta {delta[i]:g} of a {'call' if call[i] else 'put'}",
            np.abs(delta),
        )
        lost = (
            np.any([np.isnan(column[name]) for name in supplied], axis=0)
            if supplied
            else np.zeros(len(core), dtype=bool)
        )
        faults.mark(
            core & (lost | (iv < UNSOLVED_IV)),
            "missing",
            lambda i: (
                f"{', '.join(n for n in supplied if column[n][i] != column[n][i]) or 'iv'} missing "
                f"({why.iloc[i] or 'unsolvable'})"
            ),
        )
        wanted = {
            "gamma": given["gamma"],
            "vega": given["vega"],
            "theta": np.where(np.abs(given["theta"]) > _decay(case) / 4, given["theta"], np.nan),
            "iv": fair_value.iv_mid,
        }
        far = {
            name: elsewhere(name, column[name], wanted[name], digit(column[name]), limits)
            & (fair_value.years * 365 >= limits.least_days)
            for name in wanted
        }
        # If immediate exercise is worth as much, the model has a kink, so its figure alone is not reliable.
        for name in ("gamma", "vega", "theta"):
            far[name] &= case.beyond(name) > 0

        def says(i: int) -> str:
            return ", ".join(
                f"{n} is {column[n][i] / wanted[n][i]:.3g} times the recomputed value" for n in far if far[n][i]
            )

        faults.mark(core & np.any(list(far.values()), axis=0), "units", says)
        faults.mark(
            core & (gamma == 0) & (given["gamma"] >= digit(gamma) * ROUNDED) & (case.beyond("gamma") > 0),
            "gamma_zero",
            lambda i: f"gamma 0, about {given['gamma'][i]:.2g} was expected",
            np.nan_to_num(given["gamma"]),
        )
        faults.mark(
            core & ((gamma < -EPSILON) | (column["vega"] < -EPSILON)),
            "negative",
            lambda i: f"gamma {gamma[i]:g}, vega {column['vega'][i]:g}; neither may be negative",
        )
        faults.mark(
            core & ((iv < IV_RANGE[0]) | (iv > IV_RANGE[1])) & ~(np.abs(iv - fair_value.iv_mid) < limits.iv_off),
            "iv_out_of_range",
            lambda i: f"iv {iv[i]:g}",
        )


def _decay(case: Case) -> Array:
    """Return the time decay of a day, without interest."""
    import numpy as np

    iv = np.where(case.column["iv"] > 0, case.column["iv"], case.fair_value.iv_mid)
    decay: Array = case.given["gamma"] * case.fair_value.spot**2 * iv**2 / 2 / pricing.DAYS_A_YEAR
    return decay


def check_age(case: Case, fetched_at: datetime | None) -> None:
    """Mark stale quotes and Greeks; their age counts market hours only."""
    import numpy as np

    frame, core, faults, limits = case.frame, case.core, case.faults, case.limits
    for name, most_s in (("quote_ts", limits.stale_after_s), ("greeks_ts", limits.greeks_stale_after_s)):
        stamps = frame[name]
        if stamps[core].isna().all():
            continue
        upto = fetched_at or (frame["as_of"].max() if name == "greeks_ts" else stamps.max()).to_pydatetime()
        upto = max(upto, stamps.max().to_pydatetime())
        late = frame["timeframe"].str.upper().eq("DELAYED").to_numpy() & (name == "quote_ts") & (fetched_at is not None)
        ages = {at: _open_s(at.to_pydatetime(), upto) for at in stamps[core].dropna().dt.floor("s").unique()}
        age = stamps.dt.floor("s").map(ages).to_numpy(dtype=float)
        passed = (upto - stamps).dt.total_seconds().to_numpy()
        if market_calendar.open_since(upto) is None and (passed[core] <= most_s).mean() >= LIVE_SHARE:
            # After the close most quotes stop; if many do not, the others are stale.
            age = np.maximum(age, passed - most_s)
        old = core & (age - np.where(late, limits.stale_after_s, 0.0) > most_s)
        what = "quote" if name == "quote_ts" else "Greeks"
        faults.mark(
            old,
            "stale",
            partial(_older, what, passed),
            np.nan_to_num(passed),
        )


def _older(what: str, seconds: Array, i: int) -> str:
    return f"{what} {seconds[i] / 60:,.0f} min older than the chain"


def _open_s(start: datetime, end: datetime) -> float:
    return sum(span.seconds for span in market_calendar.open_spans(Window(start, end))) if start < end else 0.0


def check_values(case: Case) -> bool:
    """Mark figures that do not match their own volatility and price; return whether many are from another moment."""
    import numpy as np

    column, fair_value, faults, limits, given = case.column, case.fair_value, case.faults, case.limits, case.given
    checked = case.core & (fair_value.years * 365 >= limits.least_days)
    iv, spread = column["iv"], column["ask"] - column["bid"]
    with np.errstate(all="ignore"):
        decay, bad = _decay(case), {}
        off = case.beyond("delta") - given["gamma"] * fair_value.spot * limits.spot_off
        for name, times in (("gamma", limits.gamma_times), ("theta", limits.theta_times), ("vega", limits.vega_times)):
            near, step = case.nearest(name), digit(column[name])
            bad[name] = (np.abs(np.log(column[name] / near)) > np.log(times)) & (
                np.maximum(np.abs(near), np.abs(column[name])) > 5 * step
            )
            bad[name] &= np.abs(column[name] - near) > (decay / 2 if name == "theta" else 1.5 * step)
        bad["delta"] = (off > limits.delta_off) | (
            (column["delta"] == 0)
            & (np.abs(given["delta"]) >= np.maximum(limits.core_from, ROUNDED * digit(column["delta"])))
        )
        # In dollars, by the price that its volatility implies, because early exercise does not show in volatility.
        spared = [
            limits.iv_off * 100 * given["vega"],
            limits.iv_spreads * spread,
            limits.spot_off * fair_value.spot * np.abs(given["delta"]),
        ]
        priced = np.maximum(case.low["price"] - fair_value.mid, fair_value.mid - case.high["price"]) - np.max(
            spared, axis=0
        )
        value = fair_value.mid - np.maximum(
            np.where(fair_value.call, 1.0, -1.0) * (fair_value.spot - fair_value.strike), 0.0
        )
        comparable = (
            np.isfinite(iv)
            & (value > spread)
            & ~(
                np.abs(iv - fair_value.iv_mid)
                < np.maximum(limits.iv_off, limits.iv_spreads * spread / (100 * given["vega"]))
            )
        )
        iv_off = np.where(comparable, priced, 0.0)
        suspect = checked & faults.clean & (bad["delta"] | (iv_off > 0))
        moved = _mark_moved(case, suspect, checked)
        if not moved:
            usable = faults.clean & (column["bid"] > 0)
            faults.mark(
                case.core & exchanged(column, fair_value, usable, limits),
                "calls_puts_swapped",
                lambda i: f"has the price of the {'put' if fair_value.call[i] else 'call'}, by parity",
            )

        def says(i: int) -> str:
            return ", ".join(
                f"{n} {column[n][i]:g}, {given[n][i]:.3g} recomputed"
                for n in ("delta", "gamma", "theta", "vega")
                if bad[n][i]
            )

        faults.mark(checked & np.any(list(bad.values()), axis=0), "recompute", says, np.nan_to_num(off))
        faults.mark(
            checked & (iv_off > 0),
            "iv_vs_price",
            lambda i: f"iv {iv[i]:.3g}, its mid implies {fair_value.iv_mid[i]:.3g}",
            np.nan_to_num(iv_off),
        )
        faults.mark(
            checked & (column["theta"] > EPSILON) & (case.high["theta"] < -decay / 2),
            "theta_sign",
            lambda i: f"theta {column['theta'][i]:g}; a holder loses value with time, so theta should be negative",
            np.nan_to_num(column["theta"]),
        )
        worth = np.where(fair_value.call, 1.0, -1.0) * np.stack(
            [(fair_value.forward - fair_value.strike) * fair_value.discount, fair_value.spot - fair_value.strike]
        )
        below = worth.min(axis=0) - column["ask"] - np.maximum(spread, fair_value.spot * limits.spot_off)
        faults.mark(
            checked & fair_value.parity & (not moved) & (column["ask"] > 0) & (below > 0),
            "below_intrinsic",
            lambda i: f"its ask is {below[i]:.2f} below its exercise value",
            np.nan_to_num(below),
        )
    return moved


def _mark_moved(case: Case, suspect: Array, checked: Array) -> bool:
    """Mark figures from another moment: many contracts fit at the same other price of the underlying."""
    import numpy as np

    fair_value, column, given, rows = case.fair_value, case.column, case.given, np.flatnonzero(suspect)
    if len(rows) < LEAST_FOR_UNITS:
        return False
    moved = (column["delta"] - given["delta"]) / given["gamma"] / fair_value.spot
    if not np.isfinite(moved[rows]).any():
        return False
    middle = np.median(moved[rows][np.isfinite(moved[rows])])
    alike = np.abs(moved - middle) < np.abs(middle) / 3
    if np.abs(middle) <= 3 * case.limits.spot_off or alike[rows].mean() <= MOVED_ALIKE:
        return False
    significant = np.abs(given["gamma"] * fair_value.spot * middle) > 3 * digit(column["delta"])
    case.faults.mark(
        checked & (alike & significant | suspect),
        "stale",
        lambda i: f"its figures belong to a price of the underlying {middle:+z.1%} from that of the others",
    )
    return True


def check_together(case: Case) -> None:
    """Mark faults between contracts that are valid by themselves."""
    import numpy as np

    column, fair_value, faults, limits = case.column, case.fair_value, case.faults, case.limits
    delta, bid, ask, strike, group = (
        column["delta"],
        column["bid"],
        column["ask"],
        fair_value.strike,
        fair_value.grid.group,
    )
    clean = case.core & faults.clean & (fair_value.years * 365 >= limits.least_days)
    with np.errstate(all="ignore"):
        calls, puts = pairs(fair_value.grid, clean)
        apart = np.abs(delta[calls] - delta[puts] - np.exp(-fair_value.carry[calls] * fair_value.years[calls]))
        unknown = -np.expm1(-MOST_RATE * fair_value.years[calls])  # The effect of an unknown rate.
        most = np.where(fair_value.european[calls], limits.pair_off_european + unknown, limits.pair_off + 2 * unknown)
        _mark_at(
            faults,
            calls[apart > most],
            "pair",
            lambda i: (
                f"its delta {delta[i]:g} and the delta of the {'put' if fair_value.call[i] else 'call'} do not differ "
                f"by 1"
            ),
        )
        # Parity in prices: the tolerance is the spreads, plus for American options the value of early exercise.
        gap = np.abs(
            (bid[calls] + ask[calls] - bid[puts] - ask[puts]) / 2
            - fair_value.discount[calls] * (fair_value.forward[calls] - strike[calls])
        )
        early = np.where(fair_value.european[calls], 0.0, strike[calls] * unknown)
        band = (ask - bid)[calls] + (ask - bid)[puts] + early + limits.spot_off * fair_value.spot[calls]
        _mark_at(
            faults,
            calls[fair_value.parity[calls] & (gap > 2 * band)],
            "parity",
            lambda i: "call and put prices differ by more than their spreads and early exercise explain",
        )
        for side in (True, False):
            ours = fair_value.grid.order[(clean & (fair_value.call == side))[fair_value.grid.order]]
            one, two = ours[:-1], ours[1:]
            same = (group[one] == group[two]) & (strike[one] < strike[two])
            _mark_at(
                faults,
                two[same & (delta[two] - delta[one] > limits.step_off)],
                "monotone",
                lambda i: f"delta {delta[i]:g} is above the delta of the next lower strike",
            )
            sold, bought = (two, one) if side else (one, two)  # A call costs less the higher its strike, a put more.
            _mark_at(
                faults,
                sold[same & (bid[sold] - ask[bought] > (ask - bid)[sold])],
                "vertical",
                lambda i: "selling it and buying the adjacent strike gives a riskless profit",
            )
            low, mid, high = ours[:-2], ours[1:-1], ours[2:]
            three = (group[low] == group[high]) & (strike[low] < strike[mid]) & (strike[mid] < strike[high])
            share = (strike[high] - strike[mid]) / (strike[high] - strike[low])
            free = bid[mid] - share * ask[low] - (1 - share) * ask[high]
            _mark_at(
                faults,
                mid[three & (free > (ask - bid)[mid])],
                "butterfly",
                lambda i: "selling it twice and buying both adjacent strikes gives a riskless profit",
            )
        _check_calendar(case, clean & faults.clean)


def _mark_at(faults: ContractFaults, rows: Array, check: str, says: Callable[[int], str]) -> None:
    import numpy as np

    mask = np.zeros(len(faults.codes), dtype=bool)
    mask[rows] = True
    faults.mark(mask, check, says)


def _check_calendar(case: Case, clean: Array) -> None:
    """Mark expirations whose total variance at the money, by the ask, is below that of an earlier one, by the bid."""
    import numpy as np
    import pandas

    fair_value, column, grid = case.fair_value, case.column, case.fair_value.grid
    away = np.abs(np.log(fair_value.strike / fair_value.forward))
    rows = np.flatnonzero(
        clean & fair_value.parity & (away < AT_THE_MONEY * fair_value.iv_mid * np.sqrt(fair_value.years))
    )
    if len(rows) < 2:
        return
    nearest = rows[pandas.Series(away[rows]).groupby(grid.group[rows]).idxmin().to_numpy()]
    nearest = nearest[np.lexsort((fair_value.years[nearest], grid.root[nearest]))]
    given = [a[nearest] for a in (fair_value.forward, fair_value.strike, fair_value.years, fair_value.discount)]
    bid, ask = (
        pricing.implied(fair_value.call[nearest], column[name][nearest], *given) ** 2 * fair_value.years[nearest]
        for name in ("bid", "ask")
    )
    later = nearest[1:][(grid.root[nearest[1:]] == grid.root[nearest[:-1]]) & (ask[1:] * CALENDAR_SLACK < bid[:-1])]
    _mark_at(
        case.faults,
        later,
        "calendar",
        lambda i: "at the money its total variance (ask) is below that of an earlier expiration (bid)",
    )
