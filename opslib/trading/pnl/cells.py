"""
Read a cell of a broker's file as an exact number, an instant or a plain column name.

Numbers are US dollars and counts in US notation. A cell that cannot be read is rejected with a reason, never guessed.
"""

import re
from datetime import datetime
from decimal import Decimal, InvalidOperation
from functools import lru_cache

from opslib.foundation import time_parsing
from opslib.foundation.errors import UsageError

LARGEST = Decimal("1e12")
SMALLEST = Decimal("1e-12")  # A smaller value is not a price or a count, but float noise that would break exact sums.
NONE = ("", "--", "-", "n/a", "na", "none", "null")  # How files write a missing value.
DOLLARS = ("usd", "us$", "$", "us dollar", "us dollars", "u.s. dollar", "u.s. dollars", "dollar", "dollars")
MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
FIRST_YEAR, LAST_YEAR = 1970, 2199
_NUMBER = re.compile(r"[+-]?(\d{1,3}(,\d{3})+|\d+)?(\.\d*)?([eE][+-]?\d{1,2})?")
_CURRENCY = re.compile(
    r"(?i)US\$|[A-Z]{1,2}\$|[€£¥₹₩₽₿]|kr|p|AUD|BRL|BTC|CAD|CHF|CN[HY]|CZK|DKK|ETH|EUR|GB[PX]|HKD|HUF|ILS|INR"
    r"|JPY|KRW|MXN|NOK|NZD|PLN|RUB|SEK|SGD|THB|TRY|TWD|USD[CT]|ZAR"
)
_DECIMAL_COMMA = re.compile(r"[^\d]*(\d+,(\d{1,2}|\d{4,})|\d{1,3}(\.\d{3})+,\d+)[^\d]*")
_TIME = re.compile(
    r"(\d{1,2}):(\d{2})(?::(\d{2})(\.\d{1,6})?\d*)?\s*([AaPp])?\.?(?:[Mm]\.?)?\s*(Z|[A-Za-z]{2,3}"
    r"|[+-]\d{2}:?\d{2})?|(\d{2})(\d{2})(\d{2})"
)
_DATE = re.compile(
    r"(?P<y1>\d{4})[-/.](?P<m1>\d{1,2})[-/.](?P<d1>\d{1,2})|(?P<y2>\d{4})(?P<m2>\d{2})(?P<d2>\d{2})"
    r"|(?P<a>\d{1,2})(?P<sep>[-/.])(?P<b>\d{1,2})(?P=sep)(?P<y3>\d{4}|\d{2})"
    r"|(?P<d4>\d{1,2})[- ]?(?P<n4>[A-Za-z]{3,9})\.?[- ]?'?(?P<y4>\d{4}|\d{2})|(?P<n5>[A-Za-z]{3,9})\.?[- "
    r"](?P<d5>\d{1,2})(?:, ?| |-)'?(?P<y5>\d{4}|\d{2})"
)
_ZONES = {"z": "+00:00", "utc": "+00:00", "gmt": "+00:00", "et": "", "est": "-05:00", "edt": "-04:00"}


class ForeignCurrency(ValueError):
    """A cell holds money in a currency other than US dollars; its text is the currency."""


class DecimalComma(ValueError):
    """A cell holds a number with a decimal comma."""


class SerialDate(ValueError):
    """A cell holds a spreadsheet's day number instead of a date."""


@lru_cache(maxsize=10_000)
def plain(name: str) -> str:
    """
    Normalise a column's name: without case, spaces, signs and a unit of US dollars.

    ``Price ($)`` and ``Price (USD)`` are ``price``.
    """
    name = re.sub(r"(?i)[(\[]\s*(usd|us\$|\$)\s*[)\]]", "", name)
    return re.sub(r"[^a-z0-9#/]", "", name.lower().replace("%", "pct"))


def words(name: str) -> list[str]:
    """
    Return the words of a column's name in lower case: ``IBCommissionCurrency`` is ``ib``, ``commission``, ``currency``.
    """
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", name)
    return re.findall(r"[a-z]+", apart.lower())


def number(found: object) -> Decimal | None:
    """
    Read a cell as an exact number; None if it is empty.

    It accepts thousands separators, a dollar sign, ``USD``, and brackets or a trailing minus for negative numbers.

    Raises:
        ForeignCurrency: It is money in another currency.
        DecimalComma: It has a decimal comma.
        ValueError: It is not a number.
    """
    if found is None:
        return None
    if isinstance(found, bool):
        raise ValueError(found)
    if isinstance(found, float):
        value = Decimal(repr(found))
    elif isinstance(found, int):
        value = Decimal(found) if abs(found) < LARGEST else LARGEST
    else:
        cell = str(found).strip().replace("−", "-").replace("–", "-").removeprefix("'")
        if cell.lower() in NONE:
            return None
        value = _amount(cell)
    if not value.is_finite() or abs(value) >= LARGEST or 0 < abs(value) < SMALLEST:
        raise ValueError(found)
    return value


@lru_cache(maxsize=10_000)
def _amount(cell: str) -> Decimal:
    negative = cell.startswith("(") and cell.endswith(")")
    cell = cell[1:-1].strip() if negative else cell
    if code := foreign(cell):
        raise ForeignCurrency(code)
    cell = re.sub(r"(?i)^([+-]?)\s*(us\$|usd|\$)\s*", r"\1", cell)
    cell = re.sub(r"(?i)\s*(usd|us\$|\$)$", "", cell).strip()
    if re.fullmatch(r"[^+\-()]*\d[^+\-()]*-", cell):
        cell = f"-{cell[:-1].strip()}"
    if _DECIMAL_COMMA.fullmatch(cell):
        raise DecimalComma(cell)
    if len(cell) > 60 or not _NUMBER.fullmatch(cell) or not any(c.isdigit() for c in re.split("[eE]", cell)[0]):
        raise ValueError(cell)
    try:
        value = Decimal(cell.replace(",", ""))
    except InvalidOperation:
        raise ValueError(cell) from None
    return -value if negative else value


def foreign(cell: str) -> str:
    """Return the currency in a cell if it is not the US dollar: ``£12``, ``12 EUR``, ``C$5``; else an empty text."""
    if not any(c.isdigit() for c in cell) or (not cell.isascii() and not re.search("[€£¥₹₩₽₿]", cell)):
        return ""
    rest = re.sub(r"[\d.,+\-()\s]", "", cell)
    found = _CURRENCY.fullmatch(rest)
    return "" if not found or rest.lower() in DOLLARS else rest


@lru_cache(maxsize=10_000)
def unit_of(name: str) -> str:
    """
    Return the currency in brackets in a column's name, if it is not the US dollar, as ``Price (GBP)``; else empty.
    """
    found = re.search(r"[(\[]\s*([^)\]]{1,4})\s*[)\]]", name)
    text = found[1].strip() if found else ""
    return text if text.lower() not in (*DOLLARS, "p", "kr") and _CURRENCY.fullmatch(text) else ""


def has_decimal_comma(found: object) -> bool:
    """Return whether a cell is a number with an unambiguous decimal comma, such as ``12,50`` or ``1.234,5``."""
    return (
        isinstance(found, str) and len(found) < 60 and bool(_DECIMAL_COMMA.fullmatch(found.strip().replace("−", "-")))
    )


def day_and_month(found: object) -> tuple[int, int] | None:
    """Return the two numbers of a date whose order is ambiguous, as written; None for any other cell."""
    cell = _effective(found)
    date = _DATE.match(cell)
    return (int(date["a"]), int(date["b"])) if date and date["a"] and date["sep"] != "." else None


def is_time_of_day(found: object) -> bool:
    """Return whether a cell is a time without a day: ``10:01:00``, ``3:36 PM``, ``101500``."""
    return isinstance(found, str) and bool(_TIME.fullmatch(found.strip()))


def _effective(found: object) -> str:
    """Return the text of a cell; for ``03/09/2026 as of 03/06/2026`` the effective day."""
    if isinstance(found, str):
        cell = found.strip()
    elif type(found) is int:
        cell = str(found)
    else:
        cell = ""
    return re.split(r"(?i)\s+as\s+of\s+", cell)[-1].strip() if len(cell) < 80 else ""


def moment(found: object, day_first: bool = False) -> datetime:
    """
    Read a cell as an instant, UTC.

    Such as ISO 8601, ``12/29/2020 3:36 PM``, ``11-18-2024``, ``18-Nov-2024``, ``20241118;101500``. Without an offset or
    zone (UTC, ET, EST, EDT) it is in New York.

    Args:
        day_first: Whether ``03/04/2026`` is the third of April.

    Raises:
        SerialDate: It is a spreadsheet's day number.
        ValueError: It is not a time, or not in the years 1970 to 2199.
    """
    cell = _effective(found)
    if re.fullmatch(r"[2-6]\d{4}(\.\d+)?", cell) or (isinstance(found, float) and 20_000 <= found < 70_000):
        raise SerialDate(found)
    if (date := _DATE.match(cell)) and not re.match(r"\d{4}-\d{2}-\d{2}(T|$)", cell):
        rest = cell[date.end() :]
        time = _TIME.fullmatch(rest.lstrip(" T,;:")) if rest else None
        if (rest and not time) or (time and rest[0] not in " T,;:"):
            raise ValueError(found)
        cell = _day(date, day_first, found) + (_clock(time, found) if time else "")
    try:
        instant = time_parsing.parse(cell)
    except UsageError as problem:
        raise ValueError(str(problem)) from None
    if not FIRST_YEAR <= instant.year <= LAST_YEAR:
        raise ValueError(found)
    return instant


def _day(date: re.Match[str], day_first: bool, found: object) -> str:
    part = date.groupdict()
    if part["a"]:
        first, second = int(part["a"]), int(part["b"])
        year, month, day = part["y3"], *((second, first) if day_first or part["sep"] == "." else (first, second))
    elif named := part["n4"] or part["n5"]:
        if named[:3].lower() not in MONTHS:
            raise ValueError(found)
        year, month, day = part["y4"] or part["y5"], MONTHS.index(named[:3].lower()) + 1, int(part["d4"] or part["d5"])
    else:
        year, month, day = part["y1"] or part["y2"], int(part["m1"] or part["m2"]), int(part["d1"] or part["d2"])
    return datetime(int(year) + (2000 if len(year) == 2 else 0), month, day).date().isoformat()


def _clock(time: re.Match[str], found: object) -> str:
    hour, minute, second, fraction, half, zone, *packed = time.groups()
    if packed[0]:
        return f"T{':'.join(packed)}"
    if half and not 1 <= int(hour) <= 12:
        raise ValueError(found)
    hours = int(hour)
    if half:
        hours = hours % 12 + (12 if half.lower() == "p" else 0)
    offset = zone if zone and zone[0] in "+-" else _ZONES.get((zone or "et").lower())
    if offset is None:
        raise ValueError(found)
    return f"T{hours:02d}:{minute}:{second or '00'}{fraction or ''}{offset}"
