"""Test that every file either becomes a chain or is rejected with a reason, and nothing else is printed."""

import copy
import io
import json
import math
import os
from collections.abc import Callable
from datetime import date
from decimal import Decimal
from typing import Any

import pandas
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from opslib.dashboard.chain_details import ChainView, ChainViews
from opslib.foundation import time_parsing
from opslib.foundation.config import rules
from opslib.foundation.errors import ImportRefused, UsageError
from opslib.trading.options import chain, chain_quality, iv_baseline, tables
from opslib.trading.options.provider_comparison import crosscheck
from tests.support.chains import healthy
from tests.trading.options.test_chain import cboe, massive, schwab, tradier, yahoo

RULES = rules.load(None)
AS_OF = time_parsing.parse("2026-03-10T15:30")
SMALL = healthy().iloc[::9].reset_index(drop=True)


def total(read: Callable[[], chain.Chain]) -> chain.Chain | None:
    """
    Read, evaluate and show a chain; return None if it was rejected with a reason.

    Any other exception or warning fails the test.
    """
    try:
        found = read()
    except (ImportRefused, UsageError) as problem:
        assert str(problem)
        return None
    views = [
        ChainView(chain_quality.evaluate_chain(one, RULES.chain, at), RULES)
        for one in found.by_underlying
        for at in (None, AS_OF)
    ]
    for view in views:
        json.dumps(view.as_json(), allow_nan=False), repr(view), view.verdict
        json.dumps(iv_baseline.counted(view.quality), allow_nan=False)
        crosscheck(view.quality, views[0].quality, RULES.chain)
    both = ChainViews(views, found.refused)
    json.dumps(both.as_json(), allow_nan=False), repr(both)
    return found


ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-(10**400), 10**400),
    st.floats(),
    st.sampled_from(
        [
            0,
            -1,
            1e308,
            -1e308,
            5e-324,
            1e16,
            "NaN",
            "Infinity",
            "-Infinity",
            "1e400",
            "",
            " ",
            "null",
            "−0.5",
            "12,5",
            "1_000",
            "0x10",
            "۳",
            "9" * 5000,
        ]
    ),
    st.text(max_size=12),
    st.lists(st.integers(), max_size=3),
    st.dictionaries(st.text(max_size=4), st.floats(), max_size=2),
    st.sampled_from(
        [
            "2026-03-20",
            "20260320",
            "11-18-2024",
            "0001-01-01",
            "9999-12-31T23:59:59Z",
            "9999-12-31T23:59:59-12:00",
            "0001-01-01T00:00:00+14:00",
            "18 Nov 2024",
            "2026-02-30",
            "AAPL260320C00100000",
            "AAPL269999C00100000",
            1e18,
            -1e18,
            1773172800000,
        ]
    ),
)
KEYS = st.sampled_from(
    [
        "strike",
        "strikePrice",
        "expiration",
        "expirationDate",
        "type",
        "side",
        "call",
        "put",
        "calls",
        "puts",
        "bid",
        "ask",
        "iv",
        "delta",
        "gamma",
        "theta",
        "vega",
        "symbol",
        "underlying",
        "options",
        "option",
        "data",
        "results",
        "details",
        "optionChain",
        "result",
        "quote",
        "greeks",
        "last_quote",
        "callExpDateMap",
        "putExpDateMap",
        "columns",
        "index",
        "2026-03-20",
        "2026-03-20:3",
        "100.0",
        "AAPL",
        "AAPL260320C00100000",
        "underlying_price",
        "date",
        "status",
        "request_id",
        "next_url",
        "quotes",
        "root_symbol",
        "option_type",
        "expiration_date",
        "bid_date",
    ]
)
SHAPES = st.recursive(
    ODD,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS | st.text(max_size=3), inner, max_size=6),
    max_leaves=40,
)
MANY = settings(
    max_examples=int(os.environ.get("CHAIN_SHAPES", "60")), deadline=None, suppress_health_check=list(HealthCheck)
)


@MANY
@given(SHAPES)
def test_any_json_is_read_or_rejected(payload: Any) -> None:
    """JSON of any shape, with and without the names that vendors use."""
    total(lambda: chain.of_payload(payload, "here", AS_OF))
    try:
        content = json.dumps(payload).encode()
    except ValueError:  # The number has more digits than Python writes.
        return
    total(lambda: chain.parsed(content, "here", AS_OF))


@MANY
@given(
    st.text(alphabet=st.characters(codec="utf-8"), max_size=300)
    | st.lists(
        st.lists(KEYS | ODD.map(lambda v: "" if isinstance(v, int) and abs(v) > 10**300 else str(v)), max_size=9).map(
            ",".join
        ),
        max_size=9,
    ).map("\n".join)
)
def test_any_text_is_read_or_rejected(content: str) -> None:
    """Any text, and lines of any cells."""
    total(lambda: chain.parsed(content.encode(), "here", AS_OF))


@MANY
@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_rejected(content: bytes) -> None:
    """Any bytes, also between the magic numbers of Parquet."""
    total(lambda: chain.parsed(content, "here", AS_OF))
    total(lambda: chain.parsed(b"PAR1" + content + b"PAR1", "here", AS_OF))


VENDORS: dict[str, Callable[[pandas.DataFrame], Any]] = {
    "massive": massive,
    "tradier": tradier,
    "schwab": schwab,
    "yahoo": yahoo,
    "list": lambda t: t.to_dict("records"),
    "columns": lambda t: t.to_dict("list"),
    "map": lambda t: {r["symbol"]: r for r in t.to_dict("records")},
}


def spots(payload: Any, where: tuple = ()) -> list[tuple]:
    """Return the path of every value in a payload."""
    if isinstance(payload, dict):
        inner = payload.items()
    elif isinstance(payload, list):
        inner = enumerate(payload)
    else:
        inner = ()
    return [where, *(path for key, value in inner for path in spots(value, (*where, key)))]


SPOTS = {name: spots(write(SMALL)) for name, write in VENDORS.items()}


@MANY
@given(
    st.sampled_from(sorted(VENDORS)),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), SHAPES), min_size=1, max_size=6),
    st.booleans(),
)
def test_changed_vendor_responses_are_read_or_rejected(name: str, changes: list[tuple[float, Any]], drop: bool) -> None:
    """A vendor's response in which any parts are replaced or removed."""
    payload = copy.deepcopy(VENDORS[name](SMALL))
    for share, value in changes:
        path = SPOTS[name][int(share * len(SPOTS[name]))]
        if not path:
            payload = value
            continue
        inner = payload
        try:
            for key in path[:-1]:
                inner = inner[key]
            if drop:
                del inner[path[-1]]
            else:
                inner[path[-1]] = value
        except (LookupError, TypeError):  # An earlier change has removed the parent.
            continue
    total(lambda: chain.of_payload(payload, "here", AS_OF))


@pytest.mark.slow
@MANY
@given(
    st.dictionaries(
        st.tuples(st.sampled_from([c for c in SMALL.columns if c != "as_of"]), st.integers(0, len(SMALL) - 1)),
        ODD,
        max_size=12,
    ),
    st.dictionaries(st.sampled_from(list(SMALL.columns)), ODD, max_size=2),
    st.sets(st.sampled_from(list(SMALL.columns)), max_size=6),
)
def test_changed_tables_are_read_or_rejected(
    cells: dict[tuple[str, int], Any], columns: dict[str, Any], without: set[str]
) -> None:
    """A table in which any cells are replaced, any columns have a single value, and any columns are missing."""
    table = SMALL.astype(object)
    for (name, row), value in cells.items():
        table.at[row, name] = value
    for name, value in columns.items():
        table[name] = pandas.Series([value] * len(table), dtype=object)
    table = table.drop(columns=list(without))
    total(lambda: chain.of_payload(table.to_dict("records"), "here", AS_OF))
    if all(not isinstance(v, int) or abs(v) < 10**300 for v in table.to_numpy().ravel()):
        total(lambda: chain.parsed(table.to_csv(index=False).encode(), "here", AS_OF))


TYPED: dict[str, Any] = {
    "categories": lambda t: t.assign(type=t["type"].astype("category")),
    "pandas' own missing values": lambda t: t.assign(
        delta=pandas.array([None, *[0.5] * (len(t) - 1)], dtype="Float64"),
        open_interest=pandas.array([1] * len(t), dtype="Int64"),
    ),
    "decimals": lambda t: t.assign(
        strike=[Decimal(str(k)) for k in t["strike"]], bid=[None if i == 3 else Decimal("1.25") for i in range(len(t))]
    ),
    "dates": lambda t: t.assign(expiration=[date.fromisoformat(d) for d in t["expiration"]]),
    "times with a zone": lambda t: t.assign(
        as_of=pandas.to_datetime(t["as_of"]), quote_ts=pandas.to_datetime(t["quote_ts"])
    ),
    "nanoseconds": lambda t: t.assign(as_of=pandas.to_datetime(t["as_of"]).astype("datetime64[ns, UTC]")),
    "bytes": lambda t: t.assign(type=[s.encode() for s in t["type"]]),
    "an index of several levels": lambda t: t.set_index(["expiration", "strike"]),
    "lists in cells": lambda t: t.assign(delta=[[0.1, 0.2]] * len(t)),
    "records in cells": lambda t: t.assign(greeks=[{"rho": 1.0}] * len(t)),
    "whole numbers": lambda t: t.assign(strike=t["strike"].astype(float).round().astype("int64"), bid=1),
    "booleans": lambda t: t.assign(bid=True),
    "spans": lambda t: t.assign(as_of=pandas.to_timedelta(1, "s")),
    "infinities": lambda t: t.assign(bid=math.inf, ask=-math.inf, iv=math.nan),
    "names that are numbers": lambda t: t.assign(**{"7": 1, "": 2}),
}


@pytest.mark.parametrize("kind", TYPED)
def test_parquet_column_types_are_read(kind: str) -> None:
    """Columns of every type that Parquet has are read."""
    table = SMALL.copy()
    for name in ("strike", "bid", "ask", "iv", "delta", "gamma", "theta", "vega", "underlying_price", "open_interest"):
        table[name] = table[name].astype(float)
    content = io.BytesIO()
    TYPED[kind](table).to_parquet(content)
    found = total(lambda: chain.parsed(content.getvalue(), "here", AS_OF))
    assert found is not None and len(found.frame) == len(SMALL), kind


def test_files_that_expand_too_much_are_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    A small file with too many cells is rejected by their number, before they are expanded; so is a CSV that one long
    row widens.
    """
    monkeypatch.setattr(tables, "MOST_CELLS", 300_000)
    content = io.BytesIO()
    pandas.DataFrame(
        {name: pandas.Series([1.0]).repeat(80_000) for name in ("strike", "bid", "ask", "delta")}
    ).to_parquet(content, index=False)
    assert len(content.getvalue()) < 10_000
    with pytest.raises(ImportRefused, match="expands to 80,000 rows"):
        chain.parsed(content.getvalue(), "big.parquet", AS_OF)
    with pytest.raises(ImportRefused, match="cells are read"):
        chain.parsed(b"expiration,type,strike\n" + b"2026-03-20,call,5\n" * 1000 + b"x," * 1000, "wide.csv", AS_OF)


def test_a_truncated_quote_page_is_read_or_rejected() -> None:
    """Cboe's page, truncated anywhere, is read up to that place or rejected."""
    table = healthy()
    csv_text = cboe(table[table["expiration"] == table["expiration"].iloc[0]])
    for end in range(0, len(csv_text), 997):
        total(lambda end=end: chain.parsed(csv_text[:end].encode(), "here", AS_OF))
