"""
Judge which Greeks of a chain are right.

Everything is judged on **core** contracts, quoted, unexpired and neither deep in nor out of the money: outside of them
a gamma of 0 and a volatility of none are what a healthy feed sends.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from opslib.foundation import market_calendar
from opslib.foundation.config.limits import ChainLimits
from opslib.foundation.formatting import NEW_YORK, single_line
from opslib.foundation.intervals import wilson
from opslib.trading.options import listing_checks
from opslib.trading.options.chain import SENT, UNSOLVED_IV, Chain
from opslib.trading.options.contract_checks import (
    CHECKS,
    CODES,
    EPSILON_DELTA,
    Case,
    ContractFaults,
    doubled,
    judge_age,
    judge_rows,
    judge_together,
    judge_values,
)
from opslib.trading.options.fair_value import FairValue, model_values, pairs
from opslib.trading.options.units import DOCUMENTED, FACTORS, IV_RANGE, USUAL, detected, iv_unit

if TYPE_CHECKING:
    from numpy import ndarray as Array
else:
    Array = Any

EXAMPLES, COLUMNS_SHOWN = 3, 12
AGREES = 2.0  # Times, at the edge of the core: from 0 or from 1, whichever is nearer.
# Up to this delta, by the price of the other side, a vendor that found a volatility has a delta too; measured 0.91.
DEEP = 0.85
# Vendors who promise every figure; of others only what they send is wanted.
PROMISED = ("massive", "tradier", "schwab")


@dataclass(frozen=True)
class Finding:
    """One kind of fault: its check, how bad, how many contracts, and the worst of them by name."""

    check: str
    severity: str
    count: int
    examples: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class ChainQuality:
    """
    What the Greeks of a chain are worth.

    Attributes:
        chain: As it was read.
        theory: What was reckoned of it.
        core: Which rows are core contracts.
        faults: Of each row what is wrong with it.
        raw_valid: Contracts valid by the guide's reading: nothing missing, gamma not 0, |delta| ≤ 1, IV from 1 % to 500
            %.
        covered: Contracts with every Greek that the feed has.
        units: In which unit each figure is; None where it cannot be told.
        findings: Every fault, the most frequent first.
        notes: What is worth knowing and no fault.
    """

    chain: Chain
    theory: FairValue
    core: Array
    faults: ContractFaults
    raw_valid: int
    covered: int
    units: dict[str, str | None]
    findings: tuple[Finding, ...]
    notes: tuple[str, ...] = ()

    @property
    def as_of(self) -> datetime:
        """Of when it is."""
        return self.chain.as_of

    @property
    def core_count(self) -> int:
        """How many contracts were judged?"""
        return int(self.core.sum())

    @property
    def flagged(self) -> int:
        """How many of them have a fault?"""
        return int((self.core & ~self.faults.clean).sum())

    def core_with(self, check: str) -> int:
        """How many core contracts have that fault?"""
        return int((self.core & (self.faults.codes == CODES[check])).sum())

    def weighted(self, weights: Array) -> float | None:
        """The valid rate of the core, each contract by its weight; None where nothing weighs."""
        import numpy as np

        weights = np.where(self.core & (weights > 0), weights, 0.0)
        total = float(weights.sum())
        return float(weights[self.faults.clean].sum()) / total if total else None

    def told(self, limits: ChainLimits) -> list[Finding]:
        """Those findings that are more than a good chain has."""
        core = self.core_count
        return [
            f
            for f in self.findings
            if f.check in ("incomplete", "unreadable")
            or wilson(f.count, max(core, f.count, 1))[0] > limits.told_share
            or (core and f.count / core > limits.told_share and f.count >= EXAMPLES)
        ]


def judge(chain: Chain, limits: ChainLimits, fetched_at: datetime | None = None) -> ChainQuality:
    """
    Which Greeks of a chain are right?

    Args:
        limits: Within what they may be off.
        fetched_at: When it was fetched; without it, quotes are as old as the newest of them is newer.
    """
    import numpy as np

    # Cells from outside are of any size, and what overflows is no fault of the reckoning.
    with np.errstate(all="ignore"):
        return _judge(chain, limits, fetched_at)


def _judge(chain: Chain, limits: ChainLimits, fetched_at: datetime | None) -> ChainQuality:
    import numpy as np

    frame = chain.frame
    column = {name: frame[name].to_numpy(dtype=float, copy=True) for name in ("strike", "bid", "ask", *SENT)}
    faults, call = ContractFaults(np.zeros(len(frame), dtype=np.int8)), (frame["cp"] == "call").to_numpy(dtype=bool)
    late = listing_checks.expired(frame)
    faults.mark(late, "expired", lambda i: f"expired {frame['expiry'].iloc[i].tz_convert(NEW_YORK):%Y-%m-%d}")
    symbol = frame["symbol_says"]
    other = symbol.isin(["call", "put"]).to_numpy()
    faults.mark(
        other,
        "calls_puts_swapped",
        lambda i: f"its symbol {single_line(frame['symbol'].iloc[i], 30)} is of a {symbol.iloc[i]}",
    )
    faults.mark(
        (symbol != "").to_numpy(dtype=bool),
        "strike_mismatch",
        lambda i: f"its symbol {single_line(frame['symbol'].iloc[i], 30)} has {symbol.iloc[i]}",
    )
    contrary = (
        faults.clean
        & (np.where(call, -column["delta"], column["delta"]) > EPSILON_DELTA)
        & (np.abs(column["delta"]) <= 1)
    )
    grid = listing_checks.grid(frame, call)
    faults.mark(
        listing_checks.mislabelled(grid, contrary),
        "calls_puts_swapped",
        lambda i: f"delta {column['delta'][i]:g} of a {frame['cp'].iloc[i]}, which is listed already",
    )
    if (swapped := faults.has("calls_puts_swapped")).any():  # From here on they are what their figures are.
        grid = listing_checks.grid(frame, call ^ swapped)
    size = frame["multiplier"].to_numpy(dtype=float)
    theory = model_values(
        frame,
        grid,
        faults.clean
        & ~contrary
        & ~listing_checks.repeated(grid, size, faults.clean)
        & ~(column["bid"] > column["ask"]),
    )
    core = _core(frame, column, theory, limits) & ~late
    iv = iv_unit(column["iv"], theory, core & faults.clean, limits)
    column["iv"] /= FACTORS["iv"][iv or "decimal"]
    faults.mark(
        doubled(column, theory, core & faults.clean & ~contrary, limits),
        "strike_mismatch",
        lambda i: f"its figures are of strike {theory.strike[i] / 2:g}",
    )
    faults.mark(
        listing_checks.repeated(grid, size, faults.clean),
        "duplicate",
        lambda i: f"listed again in row {frame['place'].iloc[i]}",
    )
    supplied = [name for name in SENT if chain.provider in PROMISED or name in chain.sent]
    case, units = _case(frame, column, theory, core, faults, limits)
    units["iv"] = iv
    judge_rows(case, supplied)
    judge_age(case, fetched_at)
    if not judge_values(case):  # Between neighbours of which many are of another moment nothing can be told.
        judge_together(case)
    known = core & np.isfinite(theory.forward)
    extra = _judge_listing(chain, grid, core, faults)
    for name, unit in units.items():
        if unit not in (None, DOCUMENTED.get((chain.provider, name), USUAL[name])):
            extra.append(
                Finding(
                    "units",
                    "error",
                    int(core.sum()),
                    (f"every {name} is {unit.replace('_', ' ')}; {USUAL[name].replace('_', ' ')} was wanted",),
                )
            )
    findings = _merged([_finding(chain, check, faults) for check in faults.says] + extra)
    complete = (
        np.all([np.isfinite(column[name]) for name in supplied], axis=0)
        if supplied
        else np.zeros(len(frame), dtype=bool)
    )
    covered = complete & ~(column["iv"] < UNSOLVED_IV) if "iv" in supplied else complete
    raw = (
        complete
        & ~(column["gamma"] == 0)
        & ~(np.abs(column["delta"]) > 1)
        & ~((column["iv"] < IV_RANGE[0]) | (column["iv"] > IV_RANGE[1]))
    )
    # Of what a contract should be worth nothing is known without a forward, so that none can be called right.
    return ChainQuality(
        chain,
        theory,
        known,
        faults,
        int(raw.sum()),
        int(covered.sum()),
        units,
        findings,
        _notes(chain, theory, core & ~known),
    )


def _core(frame: Any, column: dict[str, Array], theory: FairValue, limits: ChainLimits) -> Array:
    """
    The contracts whose figures have to be right, as a mask of rows: quoted, unexpired, and tradable by what their
    quotes imply.

    A vendor's own delta can bring a contract in, never keep it out: one that contradicts the quotes (0, 1, none,
    impossible) changes nothing. It only says on which side of the edge a contract is, where it agrees with the quotes.
    """
    import numpy as np

    size, bid, spread = np.abs(column["delta"]), column["bid"], column["ask"] - column["bid"]
    rows = np.arange(len(size))
    unread = (frame["why_missing"] == "sentinel").to_numpy(dtype=bool)
    with np.errstate(all="ignore"):
        implied = np.abs(theory.delta_mid(rows))
        moved = [
            np.abs(theory._replace(spot=theory.spot * (1 + step)).delta_mid(rows))
            for step in (limits.spot_off, -limits.spot_off)
        ]
        depth = np.where(theory.call, 1.0, -1.0) * (theory.spot - theory.strike)  # Above 0 in the money.
        calls, puts = pairs(theory.grid, np.ones(len(size), dtype=bool))
        theirs = np.full(len(size), np.nan)
        theirs[calls], theirs[puts] = 1 - implied[puts], 1 - implied[calls]
        theirs = np.where((depth > 0) | np.isnan(implied), theirs, np.nan)
        model = np.where(np.isfinite(theirs), theirs, implied)
        inside = _between(model, limits)
        # Nobody can tell the volatility of a price that is all exercise, and none is wanted; a value that says itself
        # that it is none is.
        least = np.where(unread, spread / 4, spread)
        tells = theory.mid - np.maximum(depth, 0.0) > np.where(
            depth > 0, np.maximum(least, limits.spot_off * theory.spot), least
        )
        tells |= unread & np.isnan(theory.mid)
        # The vendor did find one.
        tells |= (column["iv"] >= IV_RANGE[0]) & (model <= DEEP) & ((depth <= 0) | np.isfinite(theirs))
        # So near to its end a contract is wanted only where a spot of another second would not change that.
        tells &= (theory.years * 365 >= limits.least_days) | (_between(moved[0], limits) & _between(moved[1], limits))
        agrees = np.abs(np.log(np.minimum(size, 1 - size) / np.minimum(model, 1 - model))) <= np.log(AGREES)
        wanted = inside & tells & ~(agrees & ~_between(size, limits))
    claimed = _between(size, limits) | ((size > 1) & np.isnan(theory.forward))
    sent: Array = ((bid > 0) | (np.isnan(bid) & unread)) & (theory.years > 0) & (wanted | claimed)
    return sent


def _between(size: Array, limits: ChainLimits) -> Array:
    return (size >= limits.core_from) & (size <= limits.core_upto)


def _case(
    frame: Any, column: dict[str, Array], theory: FairValue, core: Array, faults: ContractFaults, limits: ChainLimits
) -> tuple[Case, dict[str, str | None]]:
    """The chain with what was recomputed of its core, its figures in the usual units; and in which units they were."""
    import numpy as np

    iv, rows = column["iv"], np.flatnonzero(core)
    with np.errstate(all="ignore"):
        near = np.abs(np.log(iv / theory.iv_mid)) < np.log(np.sqrt(FACTORS["iv"]["percent"]))
    # A row whose own volatility is of another unit, or none, is recomputed with its price's.
    own = np.where((near | np.isnan(theory.iv_mid)) & (iv >= IV_RANGE[0]), iv, theory.iv_mid)[rows]
    parts = []
    for found in (theory.greeks(own, rows), *theory.between(own, rows)):
        part = {name: np.full(len(core), np.nan) for name in ("price", "delta", "gamma", "theta", "vega")}
        for name, values in zip(part, found):
            part[name][rows] = values
        parts.append(part)
    units = detected(column, parts[0], core & faults.clean, limits)
    for name, unit in units.items():
        if unit not in (None, USUAL[name]):
            column[name] /= FACTORS[name][unit]
    return Case(frame, column, theory, core, faults, limits, *parts), units


def _judge_listing(chain: Chain, grid: listing_checks.Grid, core: Array, faults: ContractFaults) -> list[Finding]:
    """What is not there, and what could not be read?"""
    import numpy as np

    aside = faults.has("expired", "strike_mismatch")
    roots = range(int(grid.root.max()) + 1)  # What has expired may be of any moment of the file.
    # Of a doubled strike the half.
    known = {
        (root, float(grid.strike[i]) / part, bool(grid.call[i]))
        for i in np.flatnonzero(aside)
        for part in (1, 2)
        for root in roots
    }
    gone = listing_checks.missing_contracts(grid, ~aside, core, known)
    found = (
        [
            Finding(
                "unreadable",
                "error",
                len(chain.refused),
                tuple(f"{single_line(place, 80)}: {why}" for place, why in chain.refused[:EXAMPLES]),
            )
        ]
        if chain.refused
        else []
    )
    if chain.partial or len(gone) > len(chain.refused):
        told = [
            f"{_group(chain, int(np.argmax(grid.group == group)))} {'call' if call else 'put'} {k:g}: not listed"
            for group, k, call in gone[:EXAMPLES]
        ]
        found.append(
            Finding(
                "incomplete",
                "error",
                max(len(gone), 1),
                tuple(([chain.partial] if chain.partial else []) + told)[:EXAMPLES],
            )
        )
    return found


def _group(chain: Chain, i: int) -> str:
    row = chain.frame.iloc[i]
    return f"{single_line(str(row['root']), 12)} {row['expiry'].tz_convert(NEW_YORK):%Y-%m-%d}"


def _finding(chain: Chain, check: str, faults: ContractFaults) -> Finding:
    """The rows with one fault, the worst of them by name."""
    import numpy as np

    def named(i: int) -> str:
        return f"{_group(chain, i)} {chain.frame['cp'].iloc[i]} {chain.frame['strike'].iloc[i]:g}"

    rows = np.flatnonzero(faults.codes == CODES[check])
    says, how_bad = faults.says[check]
    worst = rows if how_bad is None else rows[np.argsort(-how_bad[rows], kind="stable")]
    return Finding(check, CHECKS[check], len(rows), tuple(f"{named(int(i))}: {says(int(i))}" for i in worst[:EXAMPLES]))


def _merged(findings: list[Finding]) -> tuple[Finding, ...]:
    """One finding a check, the most frequent first."""
    found: dict[str, Finding] = {}
    for f in findings:
        known = found.get(f.check)
        found[f.check] = (
            Finding(f.check, f.severity, max(known.count, f.count), (*f.examples, *known.examples)[:EXAMPLES])
            if known
            else f
        )
    return tuple(sorted(found.values(), key=lambda f: (-f.count, f.check)))


def _notes(chain: Chain, theory: FairValue, unpriced: Array) -> tuple[str, ...]:
    """What is worth knowing and no fault? `unpriced` are the rows that nothing tells a forward of."""
    import numpy as np

    frame, sent, found = chain.frame, chain.sent, []
    lacks = [
        words
        for words, fields in (
            ("bids", ("bid",)),
            ("asks", ("ask",)),
            ("Greeks", SENT[1:]),
            ("volatilities", ("iv",)),
            ("the underlying's price", ("underlying_px",)),
        )
        if not sent.intersection(fields)
    ]
    if "Greeks" in lacks and "volatilities" not in lacks:
        found.append("this feed has no Greeks: its volatilities and prices alone were judged")
    if lacks and chain.unread:
        found.append(
            f"no column of {', nor of '.join(lacks)} was recognised; not understood: {listed_columns(chain.unread)}"
        )
    if chain.garbled:
        found.append(f"cells that are no numbers: {', '.join(chain.garbled)}")
    if chain.after:
        found.append(
            f"{len(chain.after):,} lines after the last contract were passed over: {single_line(chain.after[0], 60)!r}"
        )
    days = sorted({str(at.tz_convert(NEW_YORK).date()) for at in frame["expiry"][unpriced]})
    if days:
        found.append(
            f"{int(unpriced.sum()):,} contracts were not judged: neither an underlying's price nor pairs of "
            f"call and put tell the forward of {', '.join(days[:EXAMPLES])}"
            f"{f' and {len(days) - EXAMPLES} more' if len(days) > EXAMPLES else ''}"
        )
    elif not theory.spotted.any() and theory.parity.any():
        found.append("the underlying's price is not given: forwards are those of put-call parity")
    unquoted = int((~(frame["bid"] > 0)).sum())
    if unquoted and frame["bid"].notna().any():
        found.append(f"{unquoted:,} contracts have no bid: nobody trades them, and nobody can tell their volatility")
    settled = int(((frame["expiry"] <= frame["as_of"]) & ~listing_checks.expired(frame)).sum())
    if settled:
        found.append(f"{settled:,} contracts have settled that day")
    first, last = market_calendar.covered()
    years = frame["expiry"].dt.tz_convert(NEW_YORK).dt.year.to_numpy()
    assumed = np.flatnonzero((years < first.year) | (years > last.year))
    if len(assumed):
        days = sorted({str(frame["expiry"].iloc[i].tz_convert(NEW_YORK).date()) for i in assumed})
        found.append(
            f"{len(assumed):,} contracts rest on an assumed regular session, as the session calendar has the "
            f"years {first.year} to {last.year}: those of {', '.join(days[:EXAMPLES])}"
            f"{f' and {len(days) - EXAMPLES} more' if len(days) > EXAMPLES else ''}"
        )
    return tuple(found)


def listed_columns(names: Sequence[str]) -> str:
    """Names of columns from outside, the first of them."""
    shown = ", ".join(repr(single_line(name, 30)) for name in names[:COLUMNS_SHOWN])
    return f"{shown} and {len(names) - COLUMNS_SHOWN} more" if len(names) > COLUMNS_SHOWN else shown
