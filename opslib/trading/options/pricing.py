"""
Price an option and its Greeks (Black and Scholes; Bjerksund and Stensland for early exercise).

All functions take and return numpy arrays of one shape, or numbers. Years have 365 days, volatilities are decimal.
Units are those of Massive's responses: delta and gamma per dollar of the underlying, theta per calendar day, vega per
point of volatility.
"""

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from numpy import ndarray as Array
else:
    Array = Any

DAYS_A_YEAR = 365
POINT = 0.01
BUMP = 1e-4  # Relative step of a numerical slope: the best compromise between rounding and curvature.


class Greeks(NamedTuple):
    """A price in dollars, and its Greeks."""

    price: Array
    delta: Array
    gamma: Array
    theta_day: Array
    vega_pt: Array


def european(call: Array, spot: Array, strike: Array, years: Array, rate: Array, carry: Array, sigma: Array) -> Greeks:
    """
    Price an option that can only be exercised at expiry, by Black, Scholes and Merton (1973).

    Args:
        call: True for a call, False for a put.
        rate, carry: Continuous, per year; `carry` is the dividend yield.

    Returns:
        NaN if years or sigma are not above 0.
    """
    import numpy as np
    from scipy.special import ndtr

    with np.errstate(all="ignore"):
        root = np.sqrt(years)
        spread = np.where((years > 0) & (sigma > 0), sigma * root, np.nan)
        d1 = (np.log(spot / strike) + (rate - carry) * years) / spread + spread / 2
        sign = np.where(call, 1.0, -1.0)
        kept, discounted = spot * np.exp(-carry * years), strike * np.exp(-rate * years)
        n1, n2 = ndtr(sign * d1), ndtr(sign * (d1 - spread))
        density = np.exp(-d1 * d1 / 2) * 0.3989422804014327
        theta = -kept * density * sigma / (2 * root) - sign * (rate * discounted * n2 - carry * kept * n1)
        return Greeks(
            sign * (kept * n1 - discounted * n2),
            sign * kept / spot * n1,
            kept / spot * density / (spot * spread),
            theta / DAYS_A_YEAR,
            kept * density * root * POINT,
        )


def american_price(
    call: Array, spot: Array, strike: Array, years: Array, rate: Array, carry: Array, sigma: Array
) -> Array:
    """
    Price an option that can be exercised at any time, by Bjerksund and Stensland (1993), approximately.

    A put is the call with spot and strike, rate and carry exchanged. If waiting costs nothing it is the European price.
    """
    import numpy as np
    from scipy.special import ndtr

    s, k, r, q = (
        np.where(call, spot, strike),
        np.where(call, strike, spot),
        np.where(call, rate, carry),
        np.where(call, carry, rate),
    )
    plain = european(np.asarray(True), s, k, years, r, q, sigma).price
    with np.errstate(all="ignore"):
        b, v2 = r - q, sigma * sigma
        spread = sigma * np.sqrt(years)
        beta = 0.5 - b / v2 + np.sqrt((b / v2 - 0.5) ** 2 + 2 * r / v2)
        never, now = beta / (beta - 1) * k, np.maximum(k, r / q * k)
        trigger = now - (never - now) * np.expm1(-(b * years + 2 * spread) * now / (never - now))
        worth = (trigger - k) * (s / trigger) ** beta

        def phi(gamma: Any, upto: Array) -> Array:
            grows = (-r + gamma * b + gamma * (gamma - 1) * v2 / 2) * years
            d = -(np.log(s / upto) + (b + (gamma - 0.5) * v2) * years) / spread
            kappa = 2 * b / v2 + 2 * gamma - 1
            # Use powers of s / trigger, which is near 1, because beta may be in the hundreds.
            value: Array = np.exp(grows) * (
                ndtr(d) - (trigger / s) ** kappa * ndtr(d - 2 * np.log(trigger / s) / spread)
            )
            return value

        early = (
            worth * (1 - phi(beta, trigger))
            + s * (phi(1.0, trigger) - phi(1.0, k))
            - k * (phi(0.0, trigger) - phi(0.0, k))
        )
        early = np.where(s >= trigger, s - k, early)
        return np.where((q > 0) & np.isfinite(early), np.maximum(early, plain), plain)


def american(call: Array, spot: Array, strike: Array, years: Array, rate: Array, carry: Array, sigma: Array) -> Greeks:
    """Price an option as `european`, with early exercise: numerical slopes of `american_price`."""
    import numpy as np

    call, spot, strike, years, rate, carry, sigma = np.broadcast_arrays(call, spot, strike, years, rate, carry, sigma)

    def at(**moved: Array) -> Array:
        return american_price(
            **(
                {
                    "call": call,
                    "spot": spot,
                    "strike": strike,
                    "years": years,
                    "rate": rate,
                    "carry": carry,
                    "sigma": sigma,
                }
                | moved
            )
        )

    step, later, wider = spot * BUMP * 10, years * BUMP, sigma * BUMP
    with np.errstate(all="ignore"):
        mid, up, down = at(), at(spot=spot + step), at(spot=spot - step)
        theta = -(at(years=years + later) - at(years=years - later)) / (2 * later * DAYS_A_YEAR)
        vega = (at(sigma=sigma + wider) - at(sigma=sigma - wider)) / (2 * wider) * POINT
        return Greeks(mid, (up - down) / (2 * step), (up - 2 * mid + down) / step**2, theta, vega)


def implied(call: Array, price: Array, forward: Array, strike: Array, years: Array, discount: Array) -> Array:
    """
    Return the volatility at which a European option has this price (Black, 1976); NaN if there is none.

    Solved by pyvolr (Jäckel, "Let's be rational"); simple Newton steps leave a third of a real chain unsolved.
    """
    import numpy as np
    from pyvolr import black76

    with np.errstate(all="ignore"):
        rate = -np.log(discount) / years
    return np.asarray(
        black76.implied_vol(
            price, np.where(call, 1, -1).astype(np.int8), forward, strike, years, rate, on_error="ignore"
        )
    )
