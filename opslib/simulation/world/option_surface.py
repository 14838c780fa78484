"""Generate plausible option chains: a Black-Scholes surface with skew, rounded as a feed rounds."""

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from math import erf, exp, log, pi, sin, sqrt
from random import Random

from opslib.simulation.world.market_hours import CLOSES, NEW_YORK

SPOTS = {"SPY": 670.0, "AAPL": 252.0, "QQQ": 598.0}
RATE = 0.04
YEAR_S = 365 * 86_400
STRIKES_A_SIDE, WEEKLIES, MONTHLIES = 22, 3, 2
SMILE, TILT, LEAST_SMILE_YEARS = 0.15, -0.6, 0.004
LONGEST_SYMBOL, UNLISTED = 6, "NOSUCH"
LEAST_TIME_VALUE_USD = 0.01


@dataclass(frozen=True, slots=True)
class Contract:
    """
    One contract as a feed lists it.

    Prices are in dollars, `iv` is decimal, theta per calendar day, vega per volatility point. Greeks and `iv` are None
    if the vendor sends none; `last` is None if the contract never traded. `quoted_at_s` is the minute of the quote.
    """

    ticker: str
    symbol: str
    root: str
    expiry: str
    side: str
    strike: float
    bid: float
    ask: float
    bid_size: int
    ask_size: int
    last: float | None
    volume: int
    open_interest: int
    iv: float | None
    delta: float | None
    gamma: float | None
    theta: float | None
    vega: float | None
    rho: float | None
    spot: float
    quoted_at_s: int


def _cdf(x: float) -> float:
    return (1 + erf(x / sqrt(2))) / 2


def priced(
    side: str, spot: float, strike: float, years: float, iv: float
) -> tuple[float, float, float, float, float, float]:
    """
    Price a European contract without dividends (Black and Scholes, 1973).

    Returns:
        Price, delta, gamma, theta per day, vega per point and rho per point.
    """
    root = iv * sqrt(years)
    d1 = (log(spot / strike) + (RATE + iv * iv / 2) * years) / root
    d2 = d1 - root
    discounted, density = strike * exp(-RATE * years), exp(-d1 * d1 / 2) / sqrt(2 * pi)
    sign = 1 if side == "call" else -1
    price = sign * (spot * _cdf(sign * d1) - discounted * _cdf(sign * d2))
    theta = -spot * density * iv / (2 * sqrt(years)) - sign * RATE * discounted * _cdf(sign * d2)
    rho = sign * years * discounted * _cdf(sign * d2) / 100
    return price, sign * _cdf(sign * d1), density / (spot * root), theta / 365, spot * density * sqrt(years) / 100, rho


def is_listed(symbol: str) -> bool:
    """Return whether a symbol has options."""
    return symbol.isascii() and symbol.isalpha() and len(symbol) <= LONGEST_SYMBOL and symbol != UNLISTED


class Surface:
    """Chains of any symbol at any time; equal seeds give equal chains."""

    def __init__(self, seed: int):
        self._seed = seed
        self._chain = lru_cache(maxsize=32)(self._make)

    def spot(self, symbol: str, at_s: float, stressed: bool = False) -> float:
        """Return the price of an underlying, which varies within two percent."""
        rng = Random(f"{self._seed}/{symbol}")
        usual = SPOTS.get(symbol) or 20 + rng.random() * 300
        swing = 0.011 * sin(2 * pi * at_s / 23_000 + rng.random() * 6) + 0.004 * sin(
            2 * pi * at_s / 3_100 + rng.random() * 6
        )
        return round(usual * (1 + swing) * (0.94 if stressed else 1.0), 2)

    def chain(self, symbol: str, at_s: float, *, stressed: bool = False, expires_today: bool = False) -> list[Contract]:
        """Return every contract listed at an instant, quoted at the beginning of its minute."""
        return self._chain(symbol, int(at_s // 60) * 60, stressed, expires_today)

    def _make(self, symbol: str, at_s: int, stressed: bool, expires_today: bool) -> list[Contract]:
        spot = self.spot(symbol, at_s, stressed)
        if spot >= 200:
            step = 5.0
        elif spot >= 60:
            step = 2.5
        else:
            step = 1.0
        middle = round(spot / step) * step
        strikes = [middle + step * i for i in range(-STRIKES_A_SIDE, STRIKES_A_SIDE + 1) if middle + step * i > 0]
        calm = 0.165 if symbol in ("SPY", "QQQ") else 0.26
        found = []
        for expiry in _expiries(datetime.fromtimestamp(at_s, NEW_YORK).date(), expires_today):
            settles = datetime.combine(expiry, CLOSES, NEW_YORK).astimezone(UTC)
            years = (settles.timestamp() - at_s) / YEAR_S
            if years <= 0:
                continue
            rng = Random(f"{self._seed}/{symbol}/{expiry}/{at_s // 900}")
            level = calm * (1 + 0.12 * sqrt(0.1 / (years + 0.1)))
            for strike in strikes:
                away = log(strike / spot) / (level * sqrt(max(years, LEAST_SMILE_YEARS)))
                # The wings are linear in variance, not in volatility. Otherwise a call with a higher strike could cost
                # more than one with a lower strike.
                iv = level * (3.2 if stressed else 1.0) * sqrt(1 + SMILE * (TILT * away + sqrt(away * away + 1) - 1))
                found += [
                    self._contract(rng, symbol, expiry, side, strike, spot, years, round(iv, 4), stressed, at_s)
                    for side in ("call", "put")
                ]
        return found

    @staticmethod
    def _contract(
        rng: Random,
        symbol: str,
        expiry: date,
        side: str,
        strike: float,
        spot: float,
        years: float,
        iv: float,
        stressed: bool,
        at_s: int,
    ) -> Contract:
        price, delta, gamma, theta, vega, rho = priced(side, spot, strike, years, iv)
        intrinsic = max(0.0, (spot - strike) if side == "call" else (strike - spot))
        worth = max(price, intrinsic)  # American options can be exercised early; the formula is European.
        half = max(0.01, worth * 0.004) * (4 if stressed else 1)
        bid, ask = round(max(0.0, worth - half - 0.004), 2), round(worth + half + 0.006, 2)
        solvable = price - intrinsic > LEAST_TIME_VALUE_USD or abs(delta) < 0.5
        traded = bid > 0 and rng.random() < 0.8
        ticker = f"{symbol}{expiry:%y%m%d}{side[0].upper()}{round(strike * 1000):08d}"
        sent = solvable or None  # A vendor sends no Greeks if it cannot solve for the volatility.
        last = round((bid + ask) / 2, 2) if traded else None
        volume = rng.randint(1, 9000) if traded else 0
        return Contract(
            ticker,
            symbol,
            symbol,
            expiry.isoformat(),
            side,
            strike,
            bid,
            ask,
            rng.randint(5, 300) if bid else 0,
            rng.randint(5, 300),
            last,
            volume,
            rng.randint(0, 20_000),
            sent and iv,
            sent and round(delta, 4),
            sent and round(gamma, 4),
            sent and round(theta, 4),
            sent and round(vega, 4),
            sent and round(rho, 4),
            spot,
            at_s,
        )


def _expiries(day: date, expires_today: bool) -> list[date]:
    """Return the next weekly Fridays, then the next monthly ones; with `expires_today`, today first."""
    friday = day + timedelta(days=(4 - day.weekday()) % 7 or 7)
    weekly = [friday + timedelta(weeks=w) for w in range(WEEKLIES)]
    later = (weekly[-1] + timedelta(weeks=w) for w in range(1, 5 * MONTHLIES + 1))
    found = weekly + [at for at in later if is_monthly(at)][:MONTHLIES]
    return [day, *found] if expires_today else found


def is_monthly(expiry: date) -> bool:
    """Return whether a date is the third Friday of its month."""
    return expiry.weekday() == 4 and 15 <= expiry.day <= 21


def midnight_ns(at_s: float) -> int:
    """Return the start of the New York day of an instant, in nanoseconds since 1970 UTC."""
    day = datetime.fromtimestamp(at_s, NEW_YORK).date()
    return round(datetime.combine(day, time(0), NEW_YORK).timestamp()) * 10**9
