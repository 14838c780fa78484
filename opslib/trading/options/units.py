"""Detect the units of a feed by comparing its figures with recomputed ones."""

from typing import TYPE_CHECKING, Any

from opslib.foundation.config.limits import ChainLimits
from opslib.trading.options.fair_value import FairValue

if TYPE_CHECKING:
    from numpy import ndarray as Array
else:
    Array = Any

FACTORS = {
    "gamma": {"per_dollar": 1.0, "x100": 100.0, "x0.01": 0.01},
    "theta": {
        "per_day": 1.0,
        "per_year": 365.0,
        "per_trading_year": 252.0,
        "x100": 100.0,
        "x0.01": 0.01,
        "x1/365": 1 / 365,
    },
    "vega": {"per_point": 1.0, "per_unit": 100.0, "x0.01": 0.01},
    "iv": {"decimal": 1.0, "percent": 100.0, "x0.01": 0.01},
}
USUAL = {"gamma": "per_dollar", "theta": "per_day", "vega": "per_point", "iv": "decimal"}
DOCUMENTED = {("schwab", "iv"): "percent"}  # Documented units of a vendor that differ from the usual ones.
# Conversion factors between units.
TIMES = {
    "gamma": (100.0, 0.01),
    "theta": (100.0, 252.0, 365.0, 0.01, 1 / 252, 1 / 365),
    "vega": (100.0, 0.01),
    "iv": (100.0, 0.01),
}
LEAST_FOR_UNITS = 5
NEARLY_ALL = 0.75
IV_RANGE = (0.01, 5.0)  # As in the guide.


def iv_unit(iv: Array, fair_value: FairValue, core: Array, limits: ChainLimits) -> str | None:
    """Return the unit of a feed's volatilities, compared with those that prices imply; None with too few values."""
    import numpy as np

    with np.errstate(all="ignore"):
        return _unit("iv", iv / fair_value.iv_mid, core, limits)


def detected(
    column: dict[str, Array], given: dict[str, Array], core: Array, limits: ChainLimits
) -> dict[str, str | None]:
    """
    Return the unit of each Greek of a feed, by the median of its ratio to the recomputed value.

    None with too few values.
    """
    import numpy as np

    units: dict[str, str | None] = {}
    with np.errstate(all="ignore"):
        for name in ("theta", "vega", "gamma"):
            # A heavily rounded value does not show its unit.
            precise = np.where(np.abs(column[name]) > digit(column[name]) * 5, column[name], np.nan)
            units[name] = _unit(name, precise / given[name], core, limits)
    return units


def _unit(name: str, ratio: Array, core: Array, limits: ChainLimits) -> str | None:
    import numpy as np

    known = ratio[core & np.isfinite(ratio) & (ratio > 0)]
    if len(known) < LEAST_FOR_UNITS:
        return None
    middle = float(np.median(known))
    unit = min(FACTORS[name], key=lambda u: abs(np.log(middle / FACTORS[name][u])))
    return unit if abs(np.log(middle / FACTORS[name][unit])) <= np.log(limits.unit_within) else None


def elsewhere(name: str, value: Array, wanted: Array, step: float, limits: ChainLimits) -> Array:
    """Return the values that match the expected ones except for the factor of another unit."""
    import numpy as np

    apart = np.abs(value - wanted) > np.maximum((limits.unit_within - 1) * np.abs(wanted), 1.5 * step)
    spared = (limits.unit_within - 1) * np.abs(wanted)
    fits = [np.abs(value / f - wanted) < (np.maximum(spared, 0.6 * step) if f > 1 else spared) for f in TIMES[name]]
    elsewhere: Array = apart & np.any(fits, axis=0) & (value * wanted > 0) & (np.abs(value) > 3 * step)
    return elsewhere


def digit(values: Array) -> float:
    """Return the smallest step in which nearly all of a feed's figures are sent."""
    import numpy as np

    some = values[np.isfinite(values) & (values != 0)][:5000]
    if not len(some):
        return 1e-4  # The feed sends only zeros; assume that it is not finer than other feeds.
    for digits in range(9):
        if (np.abs(some * 10**digits - np.round(some * 10**digits)) < 1e-6).mean() >= NEARLY_ALL:
            return 10.0**-digits
    return 10.0**-9
