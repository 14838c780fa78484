"""
Decide which instrument a row of a broker's file is about: an option, shares, or one that is not read.

A row is an option only if the row says so: a column for the kind of instrument, a symbol or a description that names a
contract, or columns for strike and expiry. Otherwise it is shares. Every other instrument is rejected by name.
"""

import re
from datetime import date
from decimal import Decimal
from functools import lru_cache
from typing import NamedTuple

from opslib.foundation.formatting import NEW_YORK
from opslib.trading.pnl.cells import moment

OPTION_WORDS = frozenset(
    {
        "option",
        "options",
        "opt",
        "optn",
        "equity option",
        "index option",
        "etf option",
        "stock option",
        "call",
        "put",
        "call option",
        "put option",
        "op",
        "listed option",
    }
)
SHARE_WORDS = frozenset(
    {
        "stock",
        "stocks",
        "stk",
        "equity",
        "equities",
        "eq",
        "etf",
        "etfs",
        "share",
        "shares",
        "common stock",
        "us equity",
        "adr",
        "stock/etf",
    }
)
FUTURE_WORDS = frozenset({"future", "futures", "fut"})
FUTURE_OPTION_WORDS = frozenset({"future option", "futures option", "futures options", "fop", "option on future"})
OTHER_WORDS = frozenset(
    {
        "crypto",
        "cryptocurrency",
        "cryptocurrencies",
        "coin",
        "forex",
        "fx",
        "currency",
        "cash",
        "bond",
        "bonds",
        "fixed income",
        "treasury",
        "bill",
        "note",
        "cd",
        "mutual fund",
        "mutual funds",
        "fund",
        "mf",
        "money market",
        "warrant",
        "warrants",
        "war",
        "right",
        "rights",
        "cfd",
        "commodity",
        "metal",
        "index",
        "ind",
        "swap",
        "structured product",
        "event contract",
    }
)
SHARE, ODD_LOT = Decimal(1), re.compile(r"\((\d+)\s*SHS?\)")
_MONTH = r"(?:JAN|FEB|MAR|APR|MAY|JUN|JUL|AUG|SEP|OCT|NOV|DEC)[A-Z]*\.?"
_ROOT = r"[.\-]?\s?(?:O:)?(?P<root>\$?[A-Z]{1,6}(?:[./][A-Z]{1,2})?\d?)"
_STRIKE = r"\$?(?P<strike>\d[\d,]*(?:\.\d+)?|\.\d+)"
_RIGHT = r"(?P<right>C|P|CALL|PUT)S?"
_DAY = (
    rf"(?P<day>\d{{1,2}}/\d{{1,2}}/(?:\d{{4}}|\d{{2}})|\d{{4}}-\d{{2}}-\d{{2}}|{_MONTH}[ -]\d{{1,2}},?[ "
    rf"-]'?(?:\d{{4}}|\d{{2}})|\d{{1,2}}[ -]?{_MONTH}[ -]?'?(?:\d{{4}}|\d{{2}})|20\d{{6}}|\d{{6}})"
)
_SPELLINGS = [
    re.compile(rf"{_ROOT}\s*(?P<packed>\d{{6}})(?P<right>[CP])(?P<thousandths>\d{{8}})"),
    re.compile(rf"{_ROOT}\s*(?P<packed>\d{{6}})(?P<right>[CP])(?P<strike>\d+(?:\.\d+)?)"),
    re.compile(rf"{_ROOT}_(?P<us>\d{{6}})(?P<right>[CP])(?P<strike>\d+(?:\.\d+)?)"),
    *(
        re.compile(rf"{_ROOT}[ _]+{order}(?:\s*\(\d+ SHS?\))?")
        for order in (
            rf"{_DAY}[ _]+{_STRIKE}[ _]*{_RIGHT}",
            rf"{_DAY}[ _]+{_RIGHT}[ _]*{_STRIKE}",
            rf"{_STRIKE}[ _]*{_RIGHT}[ _]+{_DAY}",
            rf"{_RIGHT}[ _]*{_STRIKE}[ _]+{_DAY}",
            rf"{_DAY}[ _]+{_RIGHT}[ _]*@?[ _]*{_STRIKE}",
        )
    ),
    re.compile(rf"{_RIGHT}\s*\((?P<root>[A-Z]{{1,6}}\d?)\).*?{_DAY}\s+{_STRIKE}(?:\s*\(\d+ SHS?\))?"),
]
_LOOKS_LIKE_OPTION = re.compile(r"\b[CP]\s*\$?\d|\d{6}[CP]\d|\d\s*[CP]$|\b(?:CALL|PUT)S?\b.*\d|\d.*\b(?:CALL|PUT)S?\b")
_TICKER = re.compile(r"\$?[A-Z]{1,6}(?:[.\-/ ][A-Z]{1,2})?|[A-Z]{1,4}\d?")
_FUTURE = re.compile(r"[A-Z0-9]{1,3}[FGHJKMNQUVXZ]\d{1,2}")
# Indices, which have no shares.
INDICES = frozenset(
    {"SPX", "SPXW", "NDX", "NDXP", "RUT", "RUTW", "VIX", "VIXW", "XSP", "DJX", "OEX", "XEO", "MRUT", "XND"}
)
_PAIR = re.compile(
    r"[A-Z0-9]{2,5}[-/.](?:USD|USDT|USDC|EUR|GBP|JPY|BTC)|(?:EUR|GBP|AUD|NZD|USD|CAD|CHF)[./]?(?:USD|JPY|CHF"
    r"|CAD|GBP|EUR)|[A-Z]{3,4}USD[TC]?"
)


class Contract(NamedTuple):
    """An option contract: its root, expiry, C or P, strike, and the units that its description states."""

    root: str
    expiry: date
    right: str
    strike: Decimal
    multiplier: Decimal | None = None

    @property
    def symbol(self) -> str:
        """The OCC symbol, as ``TSLL 251024C00015000``."""
        return f"{self.root} {self.expiry:%y%m%d}{self.right}{int(self.strike * 1000):08d}"


@lru_cache(maxsize=10_000)
def contract(text: str) -> Contract | None:
    """
    Parse the name of an option contract in any usual format; None if the text names none.

    Among them ``AAPL  251219C00150000``, ``.AAPL251219C150``, ``AAPL 12/19/2025 150.00 C``, ``SPY Dec 19 '25 $600
    Call``.
    """
    cell = " ".join(text.upper().split())[:200]
    cell = re.sub(r"^(OPTION )?(EXPIRATION|ASSIGNMENT|EXERCISE)( FOR| OF)? ", "", cell)
    for spelling in _SPELLINGS:
        found = spelling.fullmatch(cell)
        if not found:
            continue
        part = found.groupdict()
        day = _day(part)
        if day is None:
            return None
        strike = (
            Decimal(part["thousandths"]) / 1000 if part.get("thousandths") else Decimal(part["strike"].replace(",", ""))
        )
        if not 0 < strike < 100_000 or strike * 1000 % 1:
            return None
        units = ODD_LOT.search(cell)
        return Contract(
            part["root"].removeprefix("$"), day, part["right"][0], strike, Decimal(units[1]) if units else None
        )
    return None


def _day(part: dict[str, str | None]) -> date | None:
    if packed := part.get("packed"):
        text = f"20{packed}"
    elif us := part.get("us"):
        text = f"20{us[4:]}{us[:4]}"
    else:
        text = str(part["day"])
        text = f"20{text}" if re.fullmatch(r"\d{6}", text) else text
    try:
        return (
            moment(text.replace("'", " ").replace("  ", " ").replace("-", " ") if re.search("[A-Z]", text) else text)
            .astimezone(NEW_YORK)
            .date()
        )
    except ValueError:
        return None


@lru_cache(maxsize=10_000)
def names_an_option(text: str) -> bool:
    """
    Return whether a symbol or description seems to name an option, also in a format that `contract` does not read.
    """
    return bool(_LOOKS_LIKE_OPTION.search(" ".join(text.upper().split())[:200]))


def describes_an_option(text: str) -> bool:
    """Return whether a description mentions a call or a put with numbers."""
    return bool(re.search(r"\b(?:CALL|PUT)S?\b.*\d|\d.*\b(?:CALL|PUT)S?\b", text.upper()[:200]))


@lru_cache(maxsize=10_000)
def is_share_symbol(symbol: str) -> bool:
    """
    Return whether a symbol can be that of shares: a ticker, also with a class (BRK.B).

    Currency pairs, futures and bond numbers are not.
    """
    cell = symbol.upper()
    return bool(_TICKER.fullmatch(cell)) and not _PAIR.fullmatch(cell) and not _FUTURE.fullmatch(cell)


def is_adjusted(root: str) -> bool:
    """
    Return whether a root such as AAPL7 or TSLL1 is that of a mini or adjusted contract, without the usual 100 units.
    """
    return root[-1:].isdigit()
