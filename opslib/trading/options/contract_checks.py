"""
Find what is wrong with the contracts of a chain.

A contract has one fault, the first that explains it: a row whose calls and puts are swapped is not also told for its
delta.
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

ROUNDED = 1.5  # Units of the last digit: what is smaller may be sent as 0.
EPSILON_DELTA, EPSILON = 1e-3, 1e-6
LIVE_SHARE = 0.3  # Of the core: where so many quotes are new after the close, the others are old.
MOVED_ALIKE = 0.5  # Of those whose figures do not fit.
# Strikes are not exactly at the money; within so many standard deviations they are near enough.
CALENDAR_SLACK, AT_THE_MONEY = 1.05, 0.25


# What can be wrong, and whether it is impossible (error) or suspicious (warning).
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
        codes: The number of the first that was marked, as in `CODES`; 0 where there is none.
        says: What a row with a fault looks like, and how bad it is beside others.
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
        """Which rows have none so far?"""
        clean: Array = self.codes == 0
        return clean

    def has(self, *checks: str) -> Array:
        """Which rows have one of these?"""
        import numpy as np

        return np.isin(self.codes, [CODES[check] for check in checks])


@dataclass(frozen=True)
class Case:
    """
    A chain as it is judged.

    Attributes:
        frame: As of `chain.Chain`.
        column: Its figures as arrays, in the usual units.
        theory: What was reckoned of it.
        core: Which rows are to be right.
        faults: What was found of each row.
        limits: Within what it may be off.
        given: What was recomputed of the core with its own volatilities; between what it may lie, `low` and `high`.
    """

    frame: Any
    column: dict[str, Array]
    theory: FairValue
    core: Array
    faults: ContractFaults
    limits: ChainLimits
    given: dict[str, Array]
    low: dict[str, Array]
    high: dict[str, Array]

    def beyond(self, name: str) -> Array:
        """How far is a figure from between where it may lie?"""
        import numpy as np

        distance: Array = np.maximum(
            np.maximum(self.low[name] - self.column[name], self.column[name] - self.high[name]), 0.0
        )
        return distance

    def nearest(self, name: str) -> Array:
        """The figure that may be right and is nearest."""
        import numpy as np

        closest: Array = np.clip(self.column[name], self.low[name], self.high[name])
        return closest


def doubled(column: dict[str, Array], theory: FairValue, core: Array, limits: ChainLimits) -> Array:
    """Which contracts have the figures, and the price, of the one at half their strike, and not their own?"""
    import numpy as np

    found, delta, iv = np.zeros(len(core), dtype=bool), column["delta"], column["iv"]
    suspect = core & ~(np.abs(iv - theory.iv_mid) < limits.iv_off) & (theory.years * 365 >= limits.least_days)
    rows = np.flatnonzero(suspect & (np.isfinite(delta) | np.isfinite(iv)))
    if len(rows):
        half, mid, spread = theory.at_half(), theory.mid[rows], (column["ask"] - column["bid"])[rows]
        implied = half.implied(rows)
        own, other = (
            at.greeks(np.where(iv[rows] >= IV_RANGE[0], iv[rows], by_price), rows)
            for at, by_price in ((theory, theory.iv_mid[rows]), (half, implied))
        )
        told = np.isfinite(delta[rows])
        near = np.where(
            told,
            np.abs(other.delta - delta[rows]) < np.minimum(limits.delta_off, np.abs(delta[rows]) / 2),
            np.abs(implied - iv[rows]) < limits.iv_off,
        )
        priced = np.abs(other.price - mid) < np.maximum(mid / 5, spread)
        found[rows] = (
            near
            & priced
            & ~(np.abs(other.price - mid) >= np.abs(own.price - mid))
            & ~(
                told
                & (np.abs(own.delta - delta[rows]) < limits.delta_off)
                & (np.abs(own.price - mid) < np.maximum(mid / 5, spread))
            )
        )
    return found


def exchanged(column: dict[str, Array], theory: FairValue, among: Array, limits: ChainLimits) -> Array:
    """Which calls and puts of a strike have one another's price, by parity?"""
    import numpy as np

    found = np.zeros(len(among), dtype=bool)
    calls, puts = pairs(theory.grid, among & (theory.years > 0) & theory.parity)
    apart, fair = theory.mid[calls] - theory.mid[puts], (theory.discount * (theory.forward - theory.strike))[calls]
    spread = (column["ask"] - column["bid"])[calls] + (column["ask"] - column["bid"])[puts]
    band = (
        spread
        + limits.spot_off * theory.spot[calls]
        + np.where(theory.european[calls], 0.0, -np.expm1(-MOST_RATE * theory.years[calls]) * theory.strike[calls])
    )
    swapped = (np.abs(fair) > band) & (np.abs(apart - fair) > band) & (np.abs(apart + fair) <= band)
    calls, puts = calls[swapped], puts[swapped]
    fits = np.ones(len(calls), dtype=bool)
    # What each should cost by its own volatility is what the other one does.
    for rows, others in ((calls, puts), (puts, calls)):
        own = theory.greeks(column["iv"][rows], rows)
        fits &= ~(
            np.abs(own.price - theory.mid[others])
            > np.maximum(spread[swapped], limits.iv_off * 100 * own.vega_pt) + limits.spot_off * theory.spot[rows]
        )
    found[np.concatenate([calls[fits], puts[fits]])] = True
    return found


def judge_rows(case: Case, supplied: list[str]) -> None:
    """What is wrong with a row by itself? `supplied` are the figures that its feed has."""
    import numpy as np

    column, theory, core, faults, limits, given = (
        case.column,
        case.theory,
        case.core,
        case.faults,
        case.limits,
        case.given,
    )
    delta, gamma, iv, call, why = column["delta"], column["gamma"], column["iv"], theory.call, case.frame["why_missing"]
    with np.errstate(all="ignore"):
        faults.mark(
            core & (why == "sentinel").to_numpy(dtype=bool),
            "sentinel",
            lambda i: "holds no number where one was wanted (NaN as text, -999 or the like)",
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
        # What the contract of the other side would have.
        other = np.abs(delta - (given["delta"] - np.where(call, 1.0, -1.0)))
        own = np.abs(-delta - given["delta"])
        told = (other - own)[wrong & np.isfinite(other - own)]
        swapped = np.median(told) <= 0 if len(told) else True
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
            "iv": theory.iv_mid,
        }
        far = {
            name: elsewhere(name, column[name], wanted[name], digit(column[name]), limits)
            & (theory.years * 365 >= limits.least_days)
            for name in wanted
        }
        # Where exercise at once is worth as much, the tree has a kink, and its figure is not to be believed alone.
        for name in ("gamma", "vega", "theta"):
            far[name] &= case.beyond(name) > 0

        def says(i: int) -> str:
            return ", ".join(
                f"{n} {column[n][i] / wanted[n][i]:.3g} times what was recomputed" for n in far if far[n][i]
            )

        faults.mark(core & np.any(list(far.values()), axis=0), "units", says)
        faults.mark(
            core & (gamma == 0) & (given["gamma"] >= digit(gamma) * ROUNDED) & (case.beyond("gamma") > 0),
            "gamma_zero",
            lambda i: f"gamma 0, about {given['gamma'][i]:.2g} was wanted",
            np.nan_to_num(given["gamma"]),
        )
        faults.mark(
            core & ((gamma < -EPSILON) | (column["vega"] < -EPSILON)),
            "negative",
            lambda i: f"gamma {gamma[i]:g}, vega {column['vega'][i]:g}; neither can be below 0",
        )
        faults.mark(
            core & ((iv < IV_RANGE[0]) | (iv > IV_RANGE[1])) & ~(np.abs(iv - theory.iv_mid) < limits.iv_off),
            "iv_out_of_range",
            lambda i: f"iv {iv[i]:g}",
        )


def _decay(case: Case) -> Array:
    """What time costs a day, beside interest."""
    import numpy as np

    iv = np.where(case.column["iv"] > 0, case.column["iv"], case.theory.iv_mid)
    decay: Array = case.given["gamma"] * case.theory.spot**2 * iv**2 / 2 / pricing.DAYS_A_YEAR
    return decay


def judge_age(case: Case, fetched_at: datetime | None) -> None:
    """Which quotes and Greeks are old, counted in the hours in which the market is open?"""
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
            # After the close most stand still; where many do not, the others are old.
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


def judge_values(case: Case) -> bool:
    """
    Which figures are not those that their own volatility, and their own price, lead to?

    Says whether many are of another moment.
    """
    import numpy as np

    column, theory, faults, limits, given = case.column, case.theory, case.faults, case.limits, case.given
    judged = case.core & (theory.years * 365 >= limits.least_days)
    iv, spread = column["iv"], column["ask"] - column["bid"]
    with np.errstate(all="ignore"):
        decay, bad = _decay(case), {}
        off = case.beyond("delta") - given["gamma"] * theory.spot * limits.spot_off
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
        # In dollars, by the price that its volatility leads to, since early exercise is no volatility.
        spared = [
            limits.iv_off * 100 * given["vega"],
            limits.iv_spreads * spread,
            limits.spot_off * theory.spot * np.abs(given["delta"]),
        ]
        priced = np.maximum(case.low["price"] - theory.mid, theory.mid - case.high["price"]) - np.max(spared, axis=0)
        value = theory.mid - np.maximum(np.where(theory.call, 1.0, -1.0) * (theory.spot - theory.strike), 0.0)
        told = (
            np.isfinite(iv)
            & (value > spread)
            & ~(
                np.abs(iv - theory.iv_mid)
                < np.maximum(limits.iv_off, limits.iv_spreads * spread / (100 * given["vega"]))
            )
        )
        iv_off = np.where(told, priced, 0.0)
        suspect = judged & faults.clean & (bad["delta"] | (iv_off > 0))
        moved = _mark_moved(case, suspect, judged)
        if not moved:
            usable = faults.clean & (column["bid"] > 0)
            faults.mark(
                case.core & exchanged(column, theory, usable, limits),
                "calls_puts_swapped",
                lambda i: f"has the price of the {'put' if theory.call[i] else 'call'}, by parity",
            )

        def says(i: int) -> str:
            return ", ".join(
                f"{n} {column[n][i]:g}, {given[n][i]:.3g} recomputed"
                for n in ("delta", "gamma", "theta", "vega")
                if bad[n][i]
            )

        faults.mark(judged & np.any(list(bad.values()), axis=0), "recompute", says, np.nan_to_num(off))
        faults.mark(
            judged & (iv_off > 0),
            "iv_vs_price",
            lambda i: f"iv {iv[i]:.3g}, its mid implies {theory.iv_mid[i]:.3g}",
            np.nan_to_num(iv_off),
        )
        faults.mark(
            judged & (column["theta"] > EPSILON) & (case.high["theta"] < -decay / 2),
            "theta_sign",
            lambda i: f"theta {column['theta'][i]:g}; time costs who holds it",
            np.nan_to_num(column["theta"]),
        )
        worth = np.where(theory.call, 1.0, -1.0) * np.stack(
            [(theory.forward - theory.strike) * theory.discount, theory.spot - theory.strike]
        )
        below = worth.min(axis=0) - column["ask"] - np.maximum(spread, theory.spot * limits.spot_off)
        faults.mark(
            judged & theory.parity & (not moved) & (column["ask"] > 0) & (below > 0),
            "below_intrinsic",
            lambda i: f"asked for {below[i]:.2f} less than exercising it brings",
            np.nan_to_num(below),
        )
    return moved


def _mark_moved(case: Case, suspect: Array, judged: Array) -> bool:
    """
    Figures that fit one another at another price of the underlying, the same for many contracts, are of another moment.
    """
    import numpy as np

    theory, column, given, rows = case.theory, case.column, case.given, np.flatnonzero(suspect)
    if len(rows) < LEAST_FOR_UNITS:
        return False
    moved = (column["delta"] - given["delta"]) / given["gamma"] / theory.spot
    if not np.isfinite(moved[rows]).any():
        return False
    middle = np.median(moved[rows][np.isfinite(moved[rows])])
    alike = np.abs(moved - middle) < np.abs(middle) / 3
    if np.abs(middle) <= 3 * case.limits.spot_off or alike[rows].mean() <= MOVED_ALIKE:
        return False
    told = np.abs(given["gamma"] * theory.spot * middle) > 3 * digit(column["delta"])
    case.faults.mark(
        judged & (alike & told | suspect),
        "stale",
        lambda i: f"its figures are of a price of the underlying {middle:+.1%} from the others'",
    )
    return True


def judge_together(case: Case) -> None:
    """What is wrong between contracts, each of which is well by itself?"""
    import numpy as np

    column, theory, faults, limits = case.column, case.theory, case.faults, case.limits
    delta, bid, ask, strike, group = column["delta"], column["bid"], column["ask"], theory.strike, theory.grid.group
    clean = case.core & faults.clean & (theory.years * 365 >= limits.least_days)
    with np.errstate(all="ignore"):
        calls, puts = pairs(theory.grid, clean)
        apart = np.abs(delta[calls] - delta[puts] - np.exp(-theory.carry[calls] * theory.years[calls]))
        unknown = -np.expm1(-MOST_RATE * theory.years[calls])  # What a rate that nobody tells may come to.
        most = np.where(theory.european[calls], limits.pair_off_european + unknown, limits.pair_off + 2 * unknown)
        _mark_at(
            faults,
            calls[apart > most],
            "pair",
            lambda i: (
                f"its delta {delta[i]:g} and that of the {'put' if theory.call[i] else 'call'} do not differ by one"
            ),
        )
        # Parity in prices: a band of the spreads, and for American ones of what early exercise can be worth.
        gap = np.abs(
            (bid[calls] + ask[calls] - bid[puts] - ask[puts]) / 2
            - theory.discount[calls] * (theory.forward[calls] - strike[calls])
        )
        early = np.where(theory.european[calls], 0.0, strike[calls] * unknown)
        band = (ask - bid)[calls] + (ask - bid)[puts] + early + limits.spot_off * theory.spot[calls]
        _mark_at(
            faults,
            calls[theory.parity[calls] & (gap > 2 * band)],
            "parity",
            lambda i: "call and put are priced further apart than their spreads and early exercise explain",
        )
        for side in (True, False):
            ours = theory.grid.order[(clean & (theory.call == side))[theory.grid.order]]
            one, two = ours[:-1], ours[1:]
            same = (group[one] == group[two]) & (strike[one] < strike[two])
            _mark_at(
                faults,
                two[same & (delta[two] - delta[one] > limits.step_off)],
                "monotone",
                lambda i: f"delta {delta[i]:g} is above that of the strike below",
            )
            sold, bought = (two, one) if side else (one, two)  # A call costs less the higher its strike, a put more.
            _mark_at(
                faults,
                sold[same & (bid[sold] - ask[bought] > (ask - bid)[sold])],
                "vertical",
                lambda i: "sold, with its neighbour bought, it pays without risk",
            )
            low, mid, high = ours[:-2], ours[1:-1], ours[2:]
            three = (group[low] == group[high]) & (strike[low] < strike[mid]) & (strike[mid] < strike[high])
            share = (strike[high] - strike[mid]) / (strike[high] - strike[low])
            free = bid[mid] - share * ask[low] - (1 - share) * ask[high]
            _mark_at(
                faults,
                mid[three & (free > (ask - bid)[mid])],
                "butterfly",
                lambda i: "sold twice, with both neighbours bought, it pays without risk",
            )
        _judge_calendar(case, clean & faults.clean)


def _mark_at(faults: ContractFaults, rows: Array, check: str, says: Callable[[int], str]) -> None:
    import numpy as np

    mask = np.zeros(len(faults.codes), dtype=bool)
    mask[rows] = True
    faults.mark(mask, check, says)


def _judge_calendar(case: Case, clean: Array) -> None:
    """
    Does what a later expiration at the money may vary by, as asked, come to less than what an earlier one does, as bid?
    """
    import numpy as np
    import pandas

    theory, column, grid = case.theory, case.column, case.theory.grid
    away = np.abs(np.log(theory.strike / theory.forward))
    rows = np.flatnonzero(clean & theory.parity & (away < AT_THE_MONEY * theory.iv_mid * np.sqrt(theory.years)))
    if len(rows) < 2:
        return
    nearest = rows[pandas.Series(away[rows]).groupby(grid.group[rows]).idxmin().to_numpy()]
    nearest = nearest[np.lexsort((theory.years[nearest], grid.root[nearest]))]
    given = [a[nearest] for a in (theory.forward, theory.strike, theory.years, theory.discount)]
    bid, ask = (
        pricing.implied(theory.call[nearest], column[name][nearest], *given) ** 2 * theory.years[nearest]
        for name in ("bid", "ask")
    )
    later = nearest[1:][(grid.root[nearest[1:]] == grid.root[nearest[:-1]]) & (ask[1:] * CALENDAR_SLACK < bid[:-1])]
    _mark_at(
        case.faults,
        later,
        "calendar",
        lambda i: "at the money it may move less, as asked, than an expiration before it, as bid",
    )
