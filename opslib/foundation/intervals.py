"""Compute confidence intervals: Wilson's for a rate, Student's t for a mean."""

import functools
import math
import statistics

MANY_FOR_T = 200  # From this many degrees of freedom, the series for Student's quantile is exact to ten digits.


@functools.cache
def _z(confidence: float) -> float:
    """Return the number of standard deviations that contain such a share of the normal distribution."""
    return statistics.NormalDist().inv_cdf((1 + confidence) / 2)


def wilson(part: int, count: int, confidence: float = 0.95) -> tuple[float, float]:
    """
    Return the interval that contains the true rate with such confidence, given `part` of `count`.

    Wilson's score interval (1927), which is valid for small counts and for rates near 0 and 1; (0, 1) without samples.
    """
    if count == 0:
        return 0.0, 1.0
    z = _z(confidence)
    rate, z2 = min(1.0, max(0.0, part / count)), z**2
    middle = (rate + z2 / (2 * count)) / (1 + z2 / count)
    reach = z * math.sqrt(rate * (1 - rate) / count + z2 / (4 * count**2)) / (1 + z2 / count)
    return max(0.0, middle - reach), min(1.0, middle + reach)


def _within(t: float, df: int) -> float:
    """
    Return the share of Student's distribution between -t and t.

    Abramowitz and Stegun, 26.7.3 and 26.7.4: exact.
    """
    angle = math.atan(t / math.sqrt(df))
    cosine, odd = math.cos(angle), df % 2
    term = total = 1.0
    if odd:
        term = total = cosine if df > 1 else 0.0
    for k in range(3 if odd else 2, df - 1, 2):
        term *= (k - 1) / k * cosine**2
        total += term
    return (angle + math.sin(angle) * total) * 2 / math.pi if odd else math.sin(angle) * total


@functools.cache
def _t(df: int, confidence: float) -> float:
    """
    Return the number of standard errors around a mean for such confidence.

    By bisection; for many samples by the series 26.7.5.
    """
    z = _z(confidence)
    if df >= MANY_FOR_T:
        terms = ((z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96, (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384)
        tail: float = sum(term / df ** (i + 1) for i, term in enumerate(terms))
        return z + tail
    low, high = z, 2 * z
    while _within(high, df) < confidence:
        low, high = high, 2 * high
    while high - low > high * 1e-12:
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, df) < confidence else (low, middle)
    return high


def t_interval(mean: float, deviation: float, count: int, confidence: float = 0.95) -> tuple[float, float]:
    """
    Return the interval that contains the true mean with such confidence.

    Student's interval (1908) for `count` samples with this mean and deviation; (-inf, inf) for fewer than two samples.
    """
    if count < 2:
        return -math.inf, math.inf
    reach = _t(count - 1, confidence) * deviation / math.sqrt(count)
    return mean - reach, mean + reach
