"""
Read the formats of vendors: Massive, Tradier, TD Ameritrade and Schwab, Yahoo, Cboe's quote page.

Each reader returns one dict per contract, with the names of `chain.FIELDS` and unchanged cells; a missing name was not
sent. `chain` interprets the cells.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, tzinfo
from typing import Any

from opslib.foundation.formatting import NEW_YORK, single_line

Row = dict[str, Any]
_OF_QUOTE = {
    "bid": ("bid", "bp"),
    "ask": ("ask", "ap"),
    "bid_size": ("bid_size",),
    "ask_size": ("ask_size",),
    "quote_ts": ("last_updated",),
    "timeframe": ("timeframe",),
}
_OF_TDA = {
    "symbol": ("symbol",),
    "cp": ("putCall",),
    "strike": ("strikePrice",),
    "multiplier": ("multiplier",),
    "bid": ("bid", "bidPrice"),
    "ask": ("ask", "askPrice"),
    "bid_size": ("bidSize",),
    "ask_size": ("askSize",),
    "quote_ts": ("quoteTimeInLong",),
    "iv": ("volatility",),
    "delta": ("delta",),
    "gamma": ("gamma",),
    "theta": ("theta",),
    "vega": ("vega",),
    "oi": ("openInterest",),
    "volume": ("totalVolume",),
}
_OF_TRADIER = {
    "symbol": ("symbol",),
    "underlying": ("underlying",),
    "root": ("root_symbol",),
    "expiry": ("expiration_date",),
    "cp": ("option_type",),
    "strike": ("strike",),
    "multiplier": ("contract_size",),
    "bid": ("bid",),
    "ask": ("ask",),
    "bid_size": ("bidsize", "bid_size"),
    "ask_size": ("asksize", "ask_size"),
    "oi": ("open_interest",),
    "volume": ("volume",),
    "underlying_px": ("underlying_price",),
}
_OF_YAHOO = {
    "symbol": ("contractSymbol",),
    "strike": ("strike",),
    "bid": ("bid",),
    "ask": ("ask",),
    "iv": ("impliedVolatility",),
    "oi": ("openInterest",),
    "volume": ("volume",),
}
_CBOE = {
    "bid": "bid",
    "ask": "ask",
    "iv": "iv",
    "delta": "delta",
    "gamma": "gamma",
    "theta": "theta",
    "vega": "vega",
    "openinterest": "oi",
    "open int": "oi",
    "open interest": "oi",
    "volume": "volume",
    "vol": "volume",
}


def _take(source: Any, names: Mapping[str, Sequence[str]]) -> Row:
    """Return the cells that exist, under our names."""
    source = _map(source)
    return {ours: source[name] for ours, theirs in names.items() for name in reversed(theirs) if name in source}


def several(found: Any) -> list[Any]:
    """Return a list for a value that a vendor sends as one object, as null, or as a list."""
    if isinstance(found, list):
        return found
    if found is None:
        return []
    return [found]


def is_massive(payload: Any) -> bool:
    """Return whether a payload is Massive's snapshot, one page or several, or only its contracts."""
    first = payload[0] if isinstance(payload, list) and payload else payload
    if not isinstance(first, Mapping):
        return False
    results = [r for r in several(first.get("results")) if isinstance(r, Mapping)]
    if results and not any("details" in r for r in results):
        return False
    return (
        "details" in first
        or bool(results)
        or ("results" in first and first["results"] == [])
        or ("request_id" in first and "status" in first)
    )


def massive(payload: Any) -> tuple[list[Row], str]:
    """Return the contracts of Massive's snapshot, and why some are missing, as far as the response says so."""
    pages = several(payload)
    whole = [p for p in pages if isinstance(p, Mapping) and "details" not in p]
    contracts = [
        r for p in pages if isinstance(p, Mapping) for r in (several(p.get("results")) if "details" not in p else [p])
    ]
    partial = ""
    if whole and whole[-1].get("next_url"):
        partial = f"the last of {len(whole)} page(s) says that another page follows"
    if broken := [
        (i, p)
        for i, p in enumerate(pages, 1)
        if not isinstance(p, Mapping) or p.get("status") in ("ERROR", "NOT_AUTHORIZED", "NOT_FOUND")
    ]:
        number, page = broken[0]
        message = (page.get("error") or page.get("message")) if isinstance(page, Mapping) else ""
        partial = f"page {number} is an error without contracts"
        if message:
            partial += f": {single_line(str(message), 120)}"
    return [_massive_row(c) for c in contracts], partial


def _massive_row(contract: Any) -> Row:
    contract = _map(contract)
    details, asset = contract.get("details"), contract.get("underlying_asset")
    row = _take(
        details,
        {
            "symbol": ("ticker",),
            "cp": ("contract_type",),
            "strike": ("strike_price",),
            "expiry": ("expiration_date",),
            "style": ("exercise_style",),
            "multiplier": ("shares_per_contract",),
        },
    )
    row |= _take(contract.get("last_quote"), _OF_QUOTE) | _take(
        contract.get("greeks"), {name: (name,) for name in ("delta", "gamma", "theta", "vega")}
    )
    row |= _take(contract, {"iv": ("implied_volatility",), "oi": ("open_interest",)}) | _take(
        contract.get("day"), {"volume": ("volume",)}
    )
    return row | _take(
        asset, {"underlying": ("ticker",), "underlying_px": ("price", "value"), "underlying_ts": ("last_updated",)}
    )


def is_tradier(payload: Any) -> bool:
    """Return whether a payload is Tradier's chain, of one expiration or several."""
    parts = several(payload)
    chains = [part["options"] for part in parts if isinstance(part, Mapping) and "options" in part]
    return (
        bool(chains)
        and all(isinstance(part, Mapping) for part in parts)
        and all(c is None or (isinstance(c, Mapping) and "option" in c) for c in chains)
    )


def is_tradier_options(payload: Any) -> bool:
    """Return whether a payload is only the list of contracts of Tradier's chain."""
    return (
        isinstance(payload, list)
        and bool(payload)
        and all(
            isinstance(o, Mapping) and {"option_type", "expiration_date", "root_symbol"} <= o.keys() for o in payload
        )
    )


def tradier(payload: Any) -> list[Row]:
    """Return the contracts of Tradier's chain, with the underlying's quote if the payload has one."""
    rows, parts = [], several(payload)
    quotes = [part["quotes"] for part in parts if isinstance(part.get("quotes"), Mapping)]
    prices = {
        str(q.get("symbol")): q.get("last")
        for quote in quotes
        for q in several(quote.get("quote"))
        if isinstance(q, Mapping)
    }
    for part in parts:
        for option in map(_map, several(_map(part.get("options")).get("option"))):
            row = _take(option, _OF_TRADIER)
            greeks = option.get("greeks")
            row |= _take(
                greeks,
                {
                    "delta": ("delta",),
                    "gamma": ("gamma",),
                    "theta": ("theta",),
                    "vega": ("vega",),
                    "iv": ("smv_vol", "mid_iv"),
                    "greeks_ts": ("updated_at",),
                },
            )
            stamps = [
                s for s in (option.get("bid_date"), option.get("ask_date")) if isinstance(s, (int, float)) and s > 0
            ]
            if stamps:
                row["quote_ts"] = max(stamps)
            if (price := prices.get(str(option.get("underlying")))) is not None:
                row["underlying_px"] = price
            rows.append(row)
    return rows


def is_schwab(payload: Any) -> bool:
    """Return whether a payload is the chain of TD Ameritrade or Schwab."""
    return isinstance(payload, Mapping) and ("callExpDateMap" in payload or "putExpDateMap" in payload)


def schwab(payload: Mapping[str, Any]) -> list[Row]:
    """Return the contracts of TD Ameritrade's or Schwab's chain; its volatilities are percent."""
    asset = _map(payload.get("underlying"))
    shared = {
        "underlying": payload.get("symbol") or asset.get("symbol"),
        "timeframe": "DELAYED" if payload.get("isDelayed") else "REAL-TIME",
    }
    price = payload.get("underlyingPrice") or asset.get("mark") or asset.get("last")
    rows = []
    for name in ("callExpDateMap", "putExpDateMap"):
        for expiry, strikes in _map(payload.get(name)).items():
            for strike, options in _map(strikes).items():
                for option in several(options):
                    row = (
                        shared
                        | {
                            "expiry": str(expiry).partition(":")[0],
                            "strike": strike,
                            "cp": name[:4].replace("putE", "put"),
                        }
                        | _take(option, _OF_TDA)
                    )
                    rows.append(row | ({"underlying_px": price} if price else {}))
    return rows


def is_yahoo(payload: Any) -> bool:
    """Return whether a payload is Yahoo's chain."""
    parts = [_map(part).get("optionChain") for part in several(payload)]
    return bool(parts) and all(isinstance(part, Mapping) and "result" in part for part in parts)


def yahoo(payload: Any) -> list[Row]:
    """Return the contracts of Yahoo's chain: implied volatilities, no Greeks."""
    rows = []
    for result in [_map(r) for part in several(payload) for r in several(part["optionChain"]["result"])]:
        shared = _take(
            result.get("quote"), {"underlying_px": ("regularMarketPrice",), "as_of": ("regularMarketTime",)}
        ) | {"underlying": result.get("underlyingSymbol")}
        for group in map(_map, several(result.get("options"))):
            for side in ("call", "put"):
                rows += [
                    shared
                    | {"cp": side, "expiry": _map(option).get("expiration", group.get("expirationDate"))}
                    | _take(option, _OF_YAHOO)
                    for option in several(group.get(f"{side}s"))
                ]
    return rows


def _map(found: Any) -> Mapping[str, Any]:
    """Return a mapping unchanged, and an empty one for anything else, so that an unexpected shape yields no rows."""
    return found if isinstance(found, Mapping) else {}


_MONTHS = {
    m: i for i, m in enumerate(("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"), 1)
}
_DATED = re.compile(r"([A-Za-z]{3})[a-z]*\.? (\d{1,2}),? (\d{4})(?:,? (?:at|@) (\d{1,2}):(\d{2}) ?([AP]M)?)?")


def written_date(text: str) -> datetime | None:
    """
    Parse a date in words, in New York; None if there is none.

    Such as ``September 25, 2025 at 9:05 PM EDT`` or ``Wed Oct 01 2025``.
    """
    found = _DATED.search(text)
    month = _MONTHS.get(found[1].lower()) if found else None
    if not found or not month:
        return None
    hour = int(found[4] or 0)
    if found[6]:
        hour = hour % 12 + (12 if found[6] == "PM" else 0)
    try:
        return datetime(int(found[3]), month, int(found[2]), hour, int(found[5] or 0), tzinfo=NEW_YORK)
    except ValueError:
        return None


def cboe_header(lines: Sequence[Sequence[str]]) -> int | None:
    """Return the line that holds the column names of Cboe's quote page; None if there is none."""
    for i, line in enumerate(lines[:12]):
        names = [cell.strip().lower() for cell in line]
        if "calls" in names and "puts" in names and "strike" in names:
            return i
    return None


def cboe(lines: Sequence[Sequence[str]], header: int) -> Iterator[Row]:
    """
    Yield the contracts of Cboe's quote page.

    Each line has a call and a put; the lines above state the underlying and the time.
    """
    above = [cell.strip() for line in lines[:header] for cell in line]
    price = next((cell.partition(":")[2].strip() for cell in above if cell.lower().startswith("last:")), None)
    # In an older layout the price is beside the name.
    price = price or next((cell for cell in above[1:3] if re.fullmatch(r"[\d,]+\.\d+", cell)), None)
    at = next((found for cell in above if (found := written_date(cell))), None)
    names = [cell.strip().lower() for cell in lines[header]]
    middle, puts = names.index("strike"), names.index("puts")
    halves = {"call": (names.index("calls"), middle), "put": (puts, len(names))}
    for line in lines[header + 1 :]:
        if not any(cell.strip() for cell in line):
            continue
        line = [*line, *[""] * (len(names) - len(line))]
        for side, (first, end) in halves.items():
            row: Row = {
                "symbol": line[first],
                "expiry": line[0],
                "cp": side,
                "strike": line[middle],
                "underlying_px": price,
            }
            row |= {ours: line[i] for i in range(first + 1, end) if (ours := _CBOE.get(names[i]))}
            yield row | ({"as_of": at.astimezone(UTC).isoformat()} if at else {})


def without_comments(text: str) -> str:
    """Remove comments from JSON, except inside strings."""
    return re.sub(r'("(?:\\.|[^"\\])*")|//[^\n]*|/\*.*?\*/', lambda m: m[1] or "", text, flags=re.DOTALL)


def stamp(cell: Any, zone: tzinfo = NEW_YORK) -> datetime | None:
    """
    Parse a time as vendors write it; None if it is not a time.

    It may be seconds, milliseconds, microseconds or nanoseconds since 1970, ISO 8601 or words. Without an offset it is
    in `zone`.
    """
    try:
        number = float(cell)
    except (TypeError, ValueError, OverflowError):
        text = str(cell or "").strip()[:80]
        try:
            found = datetime.fromisoformat(text) if text else None
        except ValueError:
            return written_date(text)
        return found.replace(tzinfo=zone) if found and found.tzinfo is None else found
    if not 1e8 < number < 5e18:
        return None
    while number > 1e11:
        number /= 1000
    return datetime.fromtimestamp(number, UTC)


WRAPPERS = (
    "data",
    "results",
    "result",
    "response",
    "body",
    "payload",
    "options",
    "option",
    "chain",
    "optionchain",
    "options_chain",
)


def _candidates(payload: Any) -> Iterator[Any]:
    """Yield a payload, then its content without each wrapper around it."""
    for _ in range(6):
        yield payload
        inner = [
            v for k, v in _map(payload).items() if str(k).lower() in WRAPPERS and isinstance(v, (list, Mapping)) and v
        ]
        if len(inner) != 1:
            return
        payload = inner[0]


def rows_of(payload: Any) -> tuple[str, list[Row], str] | None:
    """Return the provider of a payload, its contracts, and why some are missing; None for an unknown format."""
    for found in _candidates(payload):
        if is_schwab(found):
            return "schwab", schwab(found), ""
        if is_yahoo(found):
            return "yahoo", yahoo(found), ""
        if is_tradier(found):
            return "tradier", tradier(found), ""
        if is_tradier_options(found):
            return "tradier", tradier([{"options": {"option": found}}]), ""
        if is_massive(found):
            rows, partial = massive(found)
            return "massive", rows, partial
    return None


NOISE = frozenset(
    [
        "usd",
        "dollar",
        "dollars",
        "price",
        "px",
        "quote",
        "quotes",
        "quoted",
        "latest",
        "current",
        "nbbo",
        "best",
        "option",
        "options",
        "contract",
        "greek",
        "greeks",
        "leg",
        "value",
        "val",
        "eod",
        "1545",
        "opt",
        "o",
        "market",
        "last",
        "closing",
        "final",
        "live",
        "delayed",
        "realtime",
        "model",
        "computed",
        "calculated",
    ]
)
UNITS = frozenset({"usd", "dollar", "dollars", "eod", "1545"})


def _tokens(name: str) -> list[str]:
    """
    Return the words of a column's name, without units in brackets.

    Such as ``bidPrice``, ``Bid Price (USD)``, ``last_quote.bid``.
    """
    bare = re.sub(r"\(.*?\)|\[.*?\]", " ", name)
    apart = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", bare)
    return re.findall(r"[a-z0-9]+", apart.lower())


def plain(names: Iterable[str]) -> dict[str, str]:
    """
    Return our field of each column of a plain table, by its usual names; the first match counts.

    First by the whole name, then without words such as ``price``, ``best`` or ``usd``, which do not identify the
    content.
    """
    names = list(dict.fromkeys(names))
    found: dict[str, str] = {}
    whole = {"".join(word for word in _tokens(name) if word not in UNITS): name for name in reversed(names)} | {
        re.sub(r"[^a-z0-9]", "", name.lower()): name for name in reversed(names)
    }
    if "actsymbol" in whole and "vol" in whole:  # DoltHub's name for it.
        found[whole["vol"]] = "iv"
    for ours, usual in USUAL.items():
        if ours not in found.values():
            found |= next(({whole[alias]: ours} for alias in usual if alias in whole and whole[alias] not in found), {})
    for name in names:
        words = [word for word in _tokens(name) if word not in NOISE]
        ours = _BARE.get("".join(words), "") if words and name not in found else ""
        if ours and ours not in found.values():
            found[name] = ours
    return found


USUAL: dict[str, tuple[str, ...]] = {
    "symbol": (
        "optionsymbol",
        "contractsymbol",
        "contractid",
        "contract",
        "optionid",
        "osi",
        "occ",
        "occsymbol",
        "ticker",
        "symbol",
    ),
    "underlying": ("underlying", "underlyingsymbol", "underlyingticker", "actsymbol", "stock", "underlier"),
    "root": ("root", "rootsymbol", "optionroot"),
    "expiry": (
        "expiration",
        "expiry",
        "expirationdate",
        "expirydate",
        "expiredate",
        "expdate",
        "exdate",
        "maturity",
        "exp",
        "expirdate",
        "lasttradedateorcontractmonth",
        "tradedateormonth",
    ),
    "cp": ("cp", "optiontype", "contracttype", "type", "right", "putcall", "callput", "cpflag", "side", "optionside"),
    "strike": ("strike", "strikeprice", "strikepx", "exerciseprice", "k"),
    "style": ("exercisestyle", "style"),
    "multiplier": ("multiplier", "sharespercontract", "contractsize"),
    "bid": ("bid", "bidprice", "bestbid", "bp"),
    "ask": ("ask", "askprice", "bestoffer", "bestask", "offer", "ap"),
    "bid_size": ("bidsize",),
    "ask_size": ("asksize",),
    "iv": (
        "iv",
        "impliedvolatility",
        "impliedvol",
        "implvolatility",
        "ivmean",
        "midiv",
        "smvvol",
        "sigma",
        "impvol",
        "volatility",
    ),
    "delta": ("delta",),
    "gamma": ("gamma",),
    "theta": ("theta", "thetaday"),
    "vega": ("vega", "vegapt"),
    "oi": ("openinterest", "oi", "openint"),
    "volume": ("volume", "totalvolume", "vol"),
    "underlying_px": (
        "underlyingprice",
        "underlyinglast",
        "underlyingpx",
        "spot",
        "spotprice",
        "stockprice",
        "underlyingclose",
        "activeunderlyingprice",
        "underlyingassetprice",
        "underlyingassetvalue",
        "underlyingmark",
        "undprice",
        "modelgreeksundprice",
        "s",
    ),
    "underlying_ts": ("underlyingts", "underlyingtime"),
    "quote_ts": (
        "quotets",
        "quotetime",
        "quotetimestamp",
        "quotetimeinlong",
        "lastupdated",
        "quotelastupdated",
        "lastquotelastupdated",
        "lastquotetime",
        "latestquotet",
        "biddate",
        "askdate",
    ),
    "greeks_ts": ("greeksts", "greekstime", "updatedat"),
    "timeframe": ("timeframe",),
    "as_of": (
        "asof",
        "quotereadtime",
        "quotedatetime",
        "quoteunixtime",
        "datetime",
        "timestamp",
        "fetchedat",
        "datadate",
        "quotedate",
        "tradedate",
        "date",
    ),
}
_BARE = {
    alias: ours
    for ours in (
        "strike",
        "bid",
        "ask",
        "bid_size",
        "ask_size",
        "iv",
        "delta",
        "gamma",
        "theta",
        "vega",
        "oi",
        "expiry",
    )
    for alias in USUAL[ours]
}
