"""
Evaluate the Greeks of a chain.

Everything is evaluated on **core** contracts: quoted, unexpired and neither deep in nor far out of the money. For other
contracts a healthy feed also sends a gamma of 0 and no volatility.
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
    check_age,
    check_rows,
    check_together,
    check_values,
    doubled,
)
from opslib.trading.options.fair_value import FairValue, model_values, pairs
from opslib.trading.options.units import DOCUMENTED, FACTORS, IV_RANGE, USUAL, detected, iv_unit

if TYPE_CHECKING:
    from numpy import ndarray as Array
else:
    Array = Any

EXAMPLES, COLUMNS_SHOWN = 3, 12
AGREES = 2.0  # Factor at the edge of the core, measured from 0 or from 1, whichever is nearer.
# Up to this delta, by the price of the other side, a vendor that found a volatility also has a delta; measured 0.91.
DEEP = 0.85
# Vendors that document every figure; other vendors are evaluated only on what they send.
PROMISED = ("massive", "tradier", "schwab")


@dataclass(frozen=True)
class Finding:
    """One kind of fault: its check, its severity, the number of contracts, and the worst of them by name."""

    check: str
    severity: str
    count: int
    examples: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class ChainQuality:
    """
    The evaluation of a chain's Greeks.

    Attributes:
        chain: The chain as it was read.
        fair_value: The model values computed from it.
        core: Which rows are core contracts.
        faults: The faults of each row.
        raw_valid: Contracts that are valid by the guide's method: nothing missing, gamma not 0, |delta| ≤ 1, IV from 1
            % to 500 %.
        covered: Contracts with every Greek that the feed has.
        units: The unit of each figure; None if it could not be determined.
        findings: Every fault, the most frequent first.
        notes: Remarks that are not faults.
    """

    chain: Chain
    fair_value: FairValue
    core: Array
    faults: ContractFaults
    raw_valid: int
    covered: int
    units: dict[str, str | None]
    findings: tuple[Finding, ...]
    notes: tuple[str, ...] = ()

    @property
    def as_of(self) -> datetime:
        """The time of the chain."""
        return self.chain.as_of

    @property
    def core_count(self) -> int:
        """Number of evaluated contracts."""
        return int(self.core.sum())

    @property
    def flagged(self) -> int:
        """Number of evaluated contracts with a fault."""
        return int((self.core & ~self.faults.clean).sum())

    def core_with(self, check: str) -> int:
        """Return the number of core contracts with this fault."""
        return int((self.core & (self.faults.codes == CODES[check])).sum())

    def weighted(self, weights: Array) -> float | None:
        """Return the valid rate of the core, weighted by contract; None if all weights are zero."""
        import numpy as np

        weights = np.where(self.core & (weights > 0), weights, 0.0)
        total = float(weights.sum())
        return float(weights[self.faults.clean].sum()) / total if total else None

    def significant(self, limits: ChainLimits) -> list[Finding]:
        """Return the findings that exceed what a healthy chain has."""
        core = self.core_count
        return [
            f
            for f in self.findings
            if f.check in ("incomplete", "unreadable")
            or wilson(f.count, max(core, f.count, 1))[0] > limits.told_share
            or (core and f.count / core > limits.told_share and f.count >= EXAMPLES)
        ]


def evaluate_chain(chain: Chain, limits: ChainLimits, fetched_at: datetime | None = None) -> ChainQuality:
    """
    Evaluate the Greeks of a chain.

    Args:
        limits: The tolerances.
        fetched_at: When it was fetched; without it, the age of a quote is measured against the newest quote.
    """
    import numpy as np

    # Cells from outside may have any size, so overflows are expected.
    with np.errstate(all="ignore"):
        return _evaluate(chain, limits, fetched_at)


def _evaluate(chain: Chain, limits: ChainLimits, fetched_at: datetime | None) -> ChainQuality:
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
        lambda i: f"its symbol {single_line(frame['symbol'].iloc[i], 30)} is that of a {symbol.iloc[i]}",
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
        lambda i: f"delta {column['delta'][i]:g} of a {frame['cp'].iloc[i]} that is already listed",
    )
    if (swapped := faults.has("calls_puts_swapped")).any():  # From here on they count as the side of their figures.
        grid = listing_checks.grid(frame, call ^ swapped)
    size = frame["multiplier"].to_numpy(dtype=float)
    fair_value = model_values(
        frame,
        grid,
        faults.clean
        & ~contrary
        & ~listing_checks.repeated(grid, size, faults.clean)
        & ~(column["bid"] > column["ask"]),
    )
    core = _core(frame, column, fair_value, limits) & ~late
    iv = iv_unit(column["iv"], fair_value, core & faults.clean, limits)
    column["iv"] /= FACTORS["iv"][iv or "decimal"]
    faults.mark(
        doubled(column, fair_value, core & faults.clean & ~contrary, limits),
        "strike_mismatch",
        lambda i: f"its figures belong to strike {fair_value.strike[i] / 2:g}",
    )
    faults.mark(
        listing_checks.repeated(grid, size, faults.clean),
        "duplicate",
        lambda i: f"listed again in row {frame['place'].iloc[i]}",
    )
    supplied = [name for name in SENT if chain.provider in PROMISED or name in chain.sent]
    case, units = _case(frame, column, fair_value, core, faults, limits)
    units["iv"] = iv
    check_rows(case, supplied)
    check_age(case, fetched_at)
    if not check_values(case):  # If many contracts are from another moment, neighbours cannot be compared.
        check_together(case)
    known = core & np.isfinite(fair_value.forward)
    extra = _check_listing(chain, grid, core, faults)
    for name, unit in units.items():
        if unit not in (None, DOCUMENTED.get((chain.provider, name), USUAL[name])):
            extra.append(
                Finding(
                    "units",
                    "error",
                    int(core.sum()),
                    (f"every {name} is {unit.replace('_', ' ')}; {USUAL[name].replace('_', ' ')} was expected",),
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
    # Without a forward the fair value of a contract is unknown, so it is not evaluated.
    return ChainQuality(
        chain,
        fair_value,
        known,
        faults,
        int(raw.sum()),
        int(covered.sum()),
        units,
        findings,
        _notes(chain, fair_value, core & ~known),
    )


def _core(frame: Any, column: dict[str, Array], fair_value: FairValue, limits: ChainLimits) -> Array:
    """
    Return the contracts whose figures have to be right, as a mask of rows.

    They are quoted, unexpired, and tradable by what their quotes imply. A vendor's own delta can add a contract, never
    remove one: a delta that contradicts the quotes (0, 1, none, impossible) changes nothing. It only decides on which
    side of the edge a contract is if it agrees with the quotes.
    """
    import numpy as np

    size, bid, spread = np.abs(column["delta"]), column["bid"], column["ask"] - column["bid"]
    rows = np.arange(len(size))
    unread = (frame["why_missing"] == "sentinel").to_numpy(dtype=bool)
    with np.errstate(all="ignore"):
        implied = np.abs(fair_value.delta_mid(rows))
        moved = [
            np.abs(fair_value._replace(spot=fair_value.spot * (1 + step)).delta_mid(rows))
            for step in (limits.spot_off, -limits.spot_off)
        ]
        depth = np.where(fair_value.call, 1.0, -1.0) * (fair_value.spot - fair_value.strike)  # Above 0 in the money.
        calls, puts = pairs(fair_value.grid, np.ones(len(size), dtype=bool))
        theirs = np.full(len(size), np.nan)
        theirs[calls], theirs[puts] = 1 - implied[puts], 1 - implied[calls]
        theirs = np.where((depth > 0) | np.isnan(implied), theirs, np.nan)
        model = np.where(np.isfinite(theirs), theirs, implied)
        inside = _between(model, limits)
        # A price that is all intrinsic value implies no volatility, so none is expected. A value that is marked as
        # missing is still a fault.
        least = np.where(unread, spread / 4, spread)
        is_known = fair_value.mid - np.maximum(depth, 0.0) > np.where(
            depth > 0, np.maximum(least, limits.spot_off * fair_value.spot), least
        )
        is_known |= unread & np.isnan(fair_value.mid)
        # The vendor did find one.
        is_known |= (column["iv"] >= IV_RANGE[0]) & (model <= DEEP) & ((depth <= 0) | np.isfinite(theirs))
        # This close to expiry a contract is core only if a slightly different spot would not change that.
        is_known &= (fair_value.years * 365 >= limits.least_days) | (
            _between(moved[0], limits) & _between(moved[1], limits)
        )
        agrees = np.abs(np.log(np.minimum(size, 1 - size) / np.minimum(model, 1 - model))) <= np.log(AGREES)
        wanted = inside & is_known & ~(agrees & ~_between(size, limits))
    claimed = _between(size, limits) | ((size > 1) & np.isnan(fair_value.forward))
    sent: Array = ((bid > 0) | (np.isnan(bid) & unread)) & (fair_value.years > 0) & (wanted | claimed)
    return sent


def _between(size: Array, limits: ChainLimits) -> Array:
    return (size >= limits.core_from) & (size <= limits.core_upto)


def _case(
    frame: Any,
    column: dict[str, Array],
    fair_value: FairValue,
    core: Array,
    faults: ContractFaults,
    limits: ChainLimits,
) -> tuple[Case, dict[str, str | None]]:
    """Return the chain with recomputed core figures in the usual units, and the units that it had."""
    import numpy as np

    iv, rows = column["iv"], np.flatnonzero(core)
    with np.errstate(all="ignore"):
        near = np.abs(np.log(iv / fair_value.iv_mid)) < np.log(np.sqrt(FACTORS["iv"]["percent"]))
    # A row without a volatility, or with one in another unit, is recomputed with the volatility that its price implies.
    own = np.where((near | np.isnan(fair_value.iv_mid)) & (iv >= IV_RANGE[0]), iv, fair_value.iv_mid)[rows]
    parts = []
    for found in (fair_value.greeks(own, rows), *fair_value.between(own, rows)):
        part = {name: np.full(len(core), np.nan) for name in ("price", "delta", "gamma", "theta", "vega")}
        for name, values in zip(part, found):
            part[name][rows] = values
        parts.append(part)
    units = detected(column, parts[0], core & faults.clean, limits)
    for name, unit in units.items():
        if unit not in (None, USUAL[name]):
            column[name] /= FACTORS[name][unit]
    return Case(frame, column, fair_value, core, faults, limits, *parts), units


def _check_listing(chain: Chain, grid: listing_checks.Grid, core: Array, faults: ContractFaults) -> list[Finding]:
    """Return the findings about missing contracts and unreadable rows."""
    import numpy as np

    aside = faults.has("expired", "strike_mismatch")
    roots = range(int(grid.root.max()) + 1)  # An expired contract may belong to any time of the file.
    # For a doubled strike also the half of it.
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
        missing = [
            f"{_group(chain, int(np.argmax(grid.group == group)))} {'call' if call else 'put'} {k:g}: not listed"
            for group, k, call in gone[:EXAMPLES]
        ]
        found.append(
            Finding(
                "incomplete",
                "error",
                max(len(gone), 1),
                tuple(([chain.partial] if chain.partial else []) + missing)[:EXAMPLES],
            )
        )
    return found


def _group(chain: Chain, i: int) -> str:
    row = chain.frame.iloc[i]
    return f"{single_line(str(row['root']), 12)} {row['expiry'].tz_convert(NEW_YORK):%Y-%m-%d}"


def _finding(chain: Chain, check: str, faults: ContractFaults) -> Finding:
    """Return the finding about the rows with one fault, with the worst of them by name."""
    import numpy as np

    def named(i: int) -> str:
        return f"{_group(chain, i)} {chain.frame['cp'].iloc[i]} {chain.frame['strike'].iloc[i]:g}"

    rows = np.flatnonzero(faults.codes == CODES[check])
    says, how_bad = faults.says[check]
    worst = rows if how_bad is None else rows[np.argsort(-how_bad[rows], kind="stable")]
    return Finding(check, CHECKS[check], len(rows), tuple(f"{named(int(i))}: {says(int(i))}" for i in worst[:EXAMPLES]))


def _merged(findings: list[Finding]) -> tuple[Finding, ...]:
    """Return one finding per check, the most frequent first."""
    found: dict[str, Finding] = {}
    for f in findings:
        known = found.get(f.check)
        found[f.check] = (
            Finding(f.check, f.severity, max(known.count, f.count), (*f.examples, *known.examples)[:EXAMPLES])
            if known
            else f
        )
    return tuple(sorted(found.values(), key=lambda f: (-f.count, f.check)))


def _notes(chain: Chain, fair_value: FairValue, unpriced: Array) -> tuple[str, ...]:
    """Return the remarks that are not faults; `unpriced` are the rows without a known forward."""
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
        found.append("this feed has no Greeks: only its volatilities and prices were evaluated")
    if lacks and chain.unread:
        found.append(
            f"no column for {' or '.join(lacks)} was recognised; unknown columns: {listed_columns(chain.unread)}"
        )
    if chain.garbled:
        found.append(f"cells that are not numbers: {', '.join(chain.garbled)}")
    if chain.after:
        found.append(
            f"{len(chain.after):,} lines after the last contract were skipped: {single_line(chain.after[0], 60)!r}"
        )
    days = sorted({str(at.tz_convert(NEW_YORK).date()) for at in frame["expiry"][unpriced]})
    if days:
        found.append(
            f"{int(unpriced.sum()):,} contracts were not evaluated: there is neither an underlying's price nor enough "
            f"call and put pairs for the forward of {', '.join(days[:EXAMPLES])}"
            f"{f' and {len(days) - EXAMPLES} more' if len(days) > EXAMPLES else ''}"
        )
    elif not fair_value.spotted.any() and fair_value.parity.any():
        found.append("the underlying's price is missing: forwards come from put-call parity")
    unquoted = int((~(frame["bid"] > 0)).sum())
    if unquoted and frame["bid"].notna().any():
        found.append(f"{unquoted:,} contracts have no bid: they are not traded, and their volatility is unknown")
    settled = int(((frame["expiry"] <= frame["as_of"]) & ~listing_checks.expired(frame)).sum())
    if settled:
        found.append(f"{settled:,} contracts settled that day")
    first, last = market_calendar.covered()
    years = frame["expiry"].dt.tz_convert(NEW_YORK).dt.year.to_numpy()
    assumed = np.flatnonzero((years < first.year) | (years > last.year))
    if len(assumed):
        days = sorted({str(frame["expiry"].iloc[i].tz_convert(NEW_YORK).date()) for i in assumed})
        found.append(
            f"{len(assumed):,} contracts use an assumed regular session, because the session calendar covers only "
            f"{first.year} to {last.year}: those of {', '.join(days[:EXAMPLES])}"
            f"{f' and {len(days) - EXAMPLES} more' if len(days) > EXAMPLES else ''}"
        )
    return tuple(found)


def listed_columns(names: Sequence[str]) -> str:
    """Return the first names of a list of columns from outside, for people."""
    shown = ", ".join(repr(single_line(name, 30)) for name in names[:COLUMNS_SHOWN])
    return f"{shown} and {len(names) - COLUMNS_SHOWN} more" if len(names) > COLUMNS_SHOWN else shown
