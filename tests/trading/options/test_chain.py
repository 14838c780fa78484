"""Test chains in every format: the same contracts give the same frame; unreadable ones are rejected with a reason."""

import gzip
import json
import math
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas
import pytest

from opslib.foundation import formatting as clock
from opslib.foundation import time_parsing
from opslib.foundation.config import rules
from opslib.foundation.errors import ImportRefused, UsageError
from opslib.trading.options import chain, chain_quality
from tests.support.chains import AT, healthy

LIMITS = rules.load(None).chain
Table = pandas.DataFrame


def _ms(at: datetime) -> int:
    return round(at.timestamp() * 1000)


def massive(t: Table) -> Any:
    """Return a chain as Massive nests it, in two pages."""
    rows = [
        {
            "details": {
                "contract_type": r.type,
                "exercise_style": "american",
                "expiration_date": r.expiration,
                "shares_per_contract": 100,
                "strike_price": r.strike,
                "ticker": f"O:{r.symbol}",
            },
            "last_quote": {
                "bid": r.bid,
                "ask": r.ask,
                "bid_size": 1,
                "ask_size": 1,
                "last_updated": _ms(AT) * 10**6,
                "timeframe": "REAL-TIME",
            },
            "underlying_asset": {"ticker": r.underlying, "price": r.underlying_price, "last_updated": _ms(AT) * 10**6},
            "open_interest": r.open_interest,
            "day": {},
        }
        | (
            {"implied_volatility": r.iv, "greeks": {k: getattr(r, k) for k in ("delta", "gamma", "theta", "vega")}}
            if r.iv is not None
            else {}
        )
        for r in t.itertuples()
    ]
    half = len(rows) // 2
    return [
        {"status": "OK", "request_id": "1", "results": rows[:half], "next_url": "https://api.massive.com/v3/x"},
        {"status": "OK", "request_id": "2", "results": rows[half:]},
    ]


def tradier(t: Table) -> Any:
    """Return a chain as Tradier sends it: one response per expiration, and the underlying's quote separately."""

    def option(r: Any) -> dict[str, Any]:
        greeks_ = (
            None
            if r.iv is None
            else {k: getattr(r, k) for k in ("delta", "gamma", "theta", "vega")}
            | {"smv_vol": r.iv, "mid_iv": r.iv, "updated_at": "2026-03-10 14:59:27"}
        )
        return {
            "symbol": r.symbol,
            "underlying": r.underlying,
            "root_symbol": r.underlying,
            "expiration_date": r.expiration,
            "option_type": r.type,
            "strike": r.strike,
            "contract_size": 100,
            "bid": r.bid,
            "ask": r.ask,
            "bid_date": _ms(AT),
            "ask_date": _ms(AT),
            "open_interest": r.open_interest,
            "greeks": greeks_,
        }

    days = [[option(r) for r in rows.itertuples()] for _, rows in t.groupby("expiration")]
    return [{"options": {"option": rows}} for rows in days] + [
        {"quotes": {"quote": {"symbol": t["underlying"].iloc[0], "last": t["underlying_price"].iloc[0]}}}
    ]


def schwab(t: Table) -> Any:
    """
    Return a chain as TD Ameritrade and Schwab send it: volatilities in percent, NaN as text, and -999 where nothing
    could be calculated.
    """
    found: dict[str, Any] = {
        "symbol": t["underlying"].iloc[0],
        "status": "SUCCESS",
        "underlying": None,
        "underlyingPrice": t["underlying_price"].iloc[0],
        "isDelayed": False,
        "callExpDateMap": {},
        "putExpDateMap": {},
    }
    for r in t.itertuples():
        row = {
            "putCall": r.type.upper(),
            "symbol": r.symbol,
            "strikePrice": r.strike,
            "multiplier": 100.0,
            "bid": r.bid,
            "ask": r.ask,
            "quoteTimeInLong": _ms(AT),
            "openInterest": r.open_interest,
            "totalVolume": 1,
        }
        row |= (
            {"volatility": round(r.iv * 100, 3), **{k: getattr(r, k) for k in ("delta", "gamma", "theta", "vega")}}
            if r.iv is not None
            else {"volatility": "NaN", "delta": "NaN", "gamma": "NaN", "theta": -999.0, "vega": "NaN"}
        )
        found[f"{r.type}ExpDateMap"].setdefault(f"{r.expiration}:3", {}).setdefault(str(r.strike), []).append(row)
    return found


def yahoo(t: Table) -> Any:
    """Return a chain as Yahoo sends it: without Greeks, and with 0.00001 where it found no volatility."""
    days = []
    for day, rows in t.groupby("expiration"):
        stamp = round(datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp())

        def side(s, rows=rows, stamp=stamp):
            return [
                {
                    "contractSymbol": r.symbol,
                    "strike": r.strike,
                    "bid": r.bid,
                    "ask": r.ask,
                    "impliedVolatility": 1e-5 if r.iv is None else r.iv,
                    "openInterest": r.open_interest,
                    "expiration": stamp,
                    "lastTradeDate": 1,
                }
                for r in rows.itertuples()
                if r.type == s
            ]

        days.append({"expirationDate": stamp, "calls": side("call"), "puts": side("put")})
    quote = {"regularMarketPrice": t["underlying_price"].iloc[0], "regularMarketTime": round(AT.timestamp())}
    return {
        "optionChain": {
            "result": [{"underlyingSymbol": t["underlying"].iloc[0], "quote": quote, "options": days}],
            "error": None,
        }
    }


def cboe(t: Table) -> str:
    """Return a chain as on Cboe's quote page: a call and a put on each line."""
    at = AT.astimezone(clock.NEW_YORK)
    lines = [
        "",
        f"{t['underlying'].iloc[0]} Trust,Last: {t['underlying_price'].iloc[0]},Change: 0.1",
        f'"Date: {at:%B} {at.day}, {at.year} at {at.hour % 12 or 12}:{at:%M} {at:%p} EDT",Bid: 1,Ask: 2,Size: '
        f'1*1,"Volume: 1,000"',
    ]
    side = "Last Sale,Net,Bid,Ask,Volume,IV,Delta,Gamma,Open Interest"
    lines.append(f"Expiration Date,Calls,{side},Strike,Puts,{side}")

    def cells(r):
        return (
            f"{r.symbol},0,0,{r.bid},{r.ask},1,{r.iv or 0},{r.delta if r.delta is not None else 0},"
            f"{r.gamma or 0},{r.open_interest}"
        )

    for (day, strike), rows in t.groupby(["expiration", "strike"]):
        call, put = (next(r for r in rows.itertuples() if r.type == s) for s in ("call", "put"))
        lines.append(f"{datetime.fromisoformat(day):%a %b %d %Y},{cells(call)},{strike:.2f},{cells(put)}")
    return "\n".join(lines)


FORMATS: dict[str, tuple[Callable[[Table], str], tuple[str, ...], float]] = {
    "massive": (lambda t: json.dumps(massive(t)), ("iv", "delta", "gamma", "theta", "vega"), 1.0),
    "massive, a page a line": (
        lambda t: "\n".join(json.dumps(page) for page in massive(t)),
        ("iv", "delta", "gamma", "theta", "vega"),
        1.0,
    ),
    "tradier": (lambda t: json.dumps(tradier(t)), ("iv", "delta", "gamma", "theta", "vega"), 1.0),
    "schwab": (
        lambda t: "// a chain of that day\n" + json.dumps(schwab(t)).replace('"status"', '/* as sent */ "status"'),
        ("delta", "gamma", "theta", "vega"),
        100.0,
    ),
    "yahoo": (lambda t: json.dumps(yahoo(t)), ("iv",), 1.0),
    "cboe": (cboe, ("delta", "gamma"), 1.0),
    "plain": (lambda t: t.to_csv(index=False), ("iv", "delta", "gamma", "theta", "vega"), 1.0),
    "plain, by other names": (
        lambda t: t.rename(
            columns={
                "type": "Call/Put",
                "expiration": "EXPIRE_DATE",
                "strike": "Strike Price",
                "bid": "Best Bid",
                "ask": "Best Offer",
                "as_of": "QuoteDateTime",
                "underlying_price": "Spot",
            }
        ).to_csv(index=False),
        ("iv", "delta", "gamma", "theta", "vega"),
        1.0,
    ),
}


def settled(table: Table) -> Table:
    """Return a chain's contracts in the order that the reader should give."""
    return table.sort_values(["expiration", "type", "strike"], ignore_index=True)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("zipped", [False, True])
def test_every_format_holds_the_same_contracts(name: str, zipped: bool, tmp_path: Path) -> None:
    """In every format, with gzip or without, each contract has the same figures and time, and the chain is healthy."""
    table = settled(healthy())
    write, figures, _ = FORMATS[name]
    path = tmp_path / ("chain.gz" if zipped else "chain")
    content = write(table).encode()
    path.write_bytes(gzip.compress(content) if zipped else content)
    read = chain.read(path)
    assert (read.refused, read.partial, len(read.frame)) == ((), "", len(table))
    assert abs((read.as_of - AT).total_seconds()) < 60
    frame = read.frame.assign(
        day=read.frame["expiry"].dt.tz_convert("America/New_York").dt.strftime("%Y-%m-%d")
    ).sort_values(["day", "cp", "strike"], ignore_index=True)
    assert (
        list(frame["cp"]) == list(table["type"])
        and list(frame["strike"]) == [float(k) for k in table["strike"]]
        and list(frame["day"]) == list(table["expiration"])
    )
    for field in ("bid", "ask"):
        assert list(frame[field]) == [float(v) for v in table[field]]
    for field in figures:
        for mine, theirs in zip(frame[field], table[field]):
            assert (mine == theirs or (theirs is None and (math.isnan(mine) or mine in (0.0, 1e-5)))) or (
                name == "schwab" and field == "iv"
            ), (field, mine, theirs)
    q = chain_quality.evaluate_chain(read, LIMITS)
    assert q.flagged == 0 and q.core_count > 150, q.findings
    assert q.units["iv"] == ("percent" if name == "schwab" else "decimal")


def test_each_missing_greek_has_a_reason() -> None:
    """
    Each contract without a Greek has the reason: not quoted, a sentinel, null, not sent, not solvable, or not in the
    plan.
    """
    table = healthy()
    rows = massive(table)[0]["results"][:6]
    quoted = [r for r in massive(table)[0]["results"] if r.get("greeks") and r["last_quote"]["bid"] > 0][:100]
    cases = {
        "field_absent": lambda r: r.pop("greeks"),
        "null": lambda r: r["greeks"].update(gamma=None),
        "sentinel": lambda r: r["greeks"].update(gamma="NaN"),
        "unsolvable": lambda r: r.update(implied_volatility=0.0),
        "no_quote": lambda r: (r.pop("greeks"), r["last_quote"].update(bid=0)),
    }
    for (_why, spoil), row in zip(cases.items(), quoted):
        spoil(row)
    read = chain.of_payload({"status": "OK", "request_id": "1", "results": quoted}, "here")
    assert list(read.frame["why_missing"][: len(cases)]) == list(cases) and set(
        read.frame["why_missing"][len(cases) :]
    ) == {""}
    bare = chain.of_payload(
        {
            "status": "OK",
            "request_id": "1",
            "results": [{k: v for k, v in r.items() if k not in ("greeks", "implied_volatility")} for r in rows],
        },
        "here",
    )
    assert set(bare.frame["why_missing"]) == {"plan"}


def test_times_dates_and_settlement(tmp_path: Path) -> None:
    """
    A time without an offset is New York time, and a date alone is that day's close. An expiration settles at the close,
    on half days early, monthly index options at the open.
    """
    table = healthy().head(40)
    naive = tmp_path / "naive.csv"
    table.assign(as_of="2026-03-10 11:30:00", quote_ts="2026-03-10 11:30:00").to_csv(naive, index=False)
    assert chain.read(naive).as_of == AT
    dated = tmp_path / "dated.csv"
    table.drop(columns=["quote_ts"]).assign(as_of="03/10/2026").to_csv(dated, index=False)
    assert chain.read(dated).as_of == time_parsing.parse("2026-03-10T16:00")
    undated = tmp_path / "undated.csv"
    table.drop(columns=["quote_ts", "as_of"]).to_csv(undated, index=False)
    assert chain.read(undated, time_parsing.parse("2026-03-10")).as_of == time_parsing.parse("2026-03-10T16:00")
    with pytest.raises(UsageError, match="--as-of"):
        chain.read(undated)
    from opslib.trading.options.contracts import settles

    day = datetime.fromisoformat
    assert settles(day("2026-03-20").date(), "SPY") == time_parsing.parse("2026-03-20T16:00")
    assert settles(day("2026-03-20").date(), "SPX") == time_parsing.parse("2026-03-20T09:30") and settles(
        day("2026-03-20").date(), "SPXW"
    ) == time_parsing.parse("2026-03-20T16:00")
    assert settles(day("2026-11-27").date(), "SPY") == time_parsing.parse("2026-11-27T13:00")


def test_rows_with_different_times_are_one_chain_per_day(tmp_path: Path) -> None:
    """
    Quotes of different seconds are one chain as of the newest. A file of two days is two chains; a time between them
    selects the first.
    """
    table = healthy()
    path = tmp_path / "chain.csv"
    table.drop(columns="quote_ts").assign(as_of=[f"2026-03-10T11:29:{i % 60:02d}" for i in range(len(table))]).to_csv(
        path, index=False
    )
    read = chain.read(path)
    assert (
        read.frame["as_of"].nunique() == 1
        and read.frame["quote_ts"].nunique() == 60
        and chain_quality.evaluate_chain(read, LIMITS).flagged == 0
    )
    both = pandas.concat(
        [
            table.drop(columns="quote_ts").assign(as_of="2026-03-09"),
            table.drop(columns="quote_ts").assign(as_of="2026-03-10"),
        ]
    )
    both.to_csv(path, index=False)
    assert chain.read(path).frame["as_of"].nunique() == 2
    assert chain.read(path, time_parsing.parse("2026-03-09T20:00")).as_of == time_parsing.parse("2026-03-09T16:00")


def test_parquet_is_read_like_csv(tmp_path: Path) -> None:
    """A Parquet file gives the same contracts as CSV, without a finding."""
    table = healthy()
    for name in ("strike", "bid", "ask", "iv", "delta", "gamma", "theta", "vega", "underlying_price"):
        table[name] = table[name].astype(float)
    path = tmp_path / "chain.parquet"
    table.to_parquet(path)
    q = chain_quality.evaluate_chain(chain.read(path), LIMITS)
    assert (len(q.chain.frame), q.flagged) == (len(table), 0) and q.core_count > 150


def test_a_row_without_a_contract_is_rejected_with_its_reason(tmp_path: Path) -> None:
    """The reason states the line, what was found and what was expected; rejected rows are a finding."""
    table = healthy().head(60)
    table.loc[3, "strike"], table.loc[5, "type"], table.loc[7, "expiration"] = "abc", "straddle", "soon"
    table.loc[[3, 5, 7], "symbol"] = ""
    path = tmp_path / "chain.csv"
    table.to_csv(path, index=False)
    read = chain.read(path)
    assert [why for _, why in read.refused] == [
        "strike is 'abc'; a number above 0 was expected",
        "type is 'straddle'; call or put was expected",
        "expiration is 'soon'; a date was expected",
    ]
    assert [place.rpartition(":")[2] for place, _ in read.refused] == ["4", "6", "8"] and len(read.frame) == 57
    assert {f.check: f.count for f in chain_quality.evaluate_chain(read, LIMITS).findings}["unreadable"] == 3


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "chain"),
        (b"<html><body>502</body></html>", "chain"),
        (b"\x00\x01\x02\xff", "neither UTF-8 text"),
        (b'{"a": 1}', "no chain of a known format"),
        (b'{"status": "OK", "request_id": "1", "results": []}', "no contract"),
        (
            b'{"status":"NOT_AUTHORIZED","request_id":"1","message":"your plan does not have this"}',
            "your plan does not have this",
        ),
        (b'{"options": null}', "no contract"),
        (b"a,b\n1,2\n", "chain"),
        (b"expiration,type,strike\n", "no row"),
        (b"[" * 20_000, "nested too deeply|not valid JSON"),
        (gzip.compress(b"expiration,type,strike\n2026-03-20,call,5\n", mtime=0)[:-9], "truncated"),
        (b"PAR1 this is none", "not valid Parquet"),
    ],
)
def test_a_file_without_a_chain_is_rejected(content: bytes, words: str, tmp_path: Path) -> None:
    """The message says what was expected and what was found, without a traceback."""
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(ImportRefused, match=words):
        chain.read(path)
    with pytest.raises(ImportRefused, match="is a directory"):
        chain.read(tmp_path)


def test_missing_pages_are_reported(tmp_path: Path) -> None:
    """A response that refers to another page, or contains an error page, is marked as partial."""
    pages = massive(healthy())
    for payload, words in (
        (pages[:1], "another page follows"),
        ([pages[0], {"status": "ERROR", "error": "Unknown API Key", "request_id": "3"}], "Unknown API Key"),
    ):
        read = chain.of_payload(payload, "here")
        assert words in read.partial
        assert "incomplete" in {f.check for f in chain_quality.evaluate_chain(read, LIMITS).findings}
