"""Test chains from practice, each with its right result: the files of tests/cases, and variations of them."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pandas
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opslib.dashboard import chain_sources
from opslib.dashboard.chain_details import ChainView, ChainViews
from opslib.foundation import time_parsing
from opslib.foundation.config import rules
from opslib.foundation.errors import ImportRefused
from opslib.trading.options import chain, chain_quality
from opslib.trading.options.contracts import is_day_first, read_day, read_moment
from tests.support.chains import AT, core, healthy, written

RULES = rules.load(None)
CASES = Path(__file__).parents[2] / "cases"
CONTROL = CASES / "a00_control_healthy.csv"
DAY = time_parsing.parse("2026-03-10")
TABLE = pandas.read_csv(CONTROL)
RECORDS: list[dict[str, Any]] = json.loads(TABLE.to_json(orient="records"))
FIGURES = ("delta", "gamma", "theta", "vega")


def ops(home: Path, *given: str) -> tuple[int, str, str]:
    """Run the command; return its exit code and what it printed. Python's warnings appear on stderr."""
    ended = subprocess.run(
        [sys.executable, "-m", "opslib.cli", "--home", str(home), "greeks", *given],
        capture_output=True,
        text=True,
        timeout=240,
        env=os.environ | {"PYTHONWARNINGS": "always"},
    )
    return ended.returncode, ended.stdout, ended.stderr


def judged(
    content: pandas.DataFrame | str | bytes | list | dict, folder: Path, as_of: datetime | None = DAY
) -> ChainView | ChainViews:
    """Evaluate a file with this content."""
    path = folder / "chain.txt"
    if isinstance(content, pandas.DataFrame):
        content = content.to_csv(index=False)
    path.write_bytes(
        content
        if isinstance(content, bytes)
        else (content if isinstance(content, str) else json.dumps(content)).encode()
    )
    return chain_sources.of_file(path, RULES, as_of)


def summary(view: ChainView | ChainViews) -> tuple[str, int, int, dict[str, int]]:
    """Return the verdict, number of contracts, number of core contracts, and faults."""
    found = view.as_json()
    return (
        found["verdict"],
        found["contracts"],
        found["core"]["contracts"],
        {f["check"]: f["count"] for f in found["findings"]},
    )


HEALTHY = ("ok", 44, 38, {})


@pytest.mark.parametrize(
    ("case", "as_of", "code", "contracts", "core_contracts", "faults", "says"),
    [
        ("a00_control_healthy.csv", "2026-03-10", 0, 44, 38, {}, ""),
        (
            "a01_two_underlyings_symbol_column.csv",
            "2026-03-10",
            0,
            44,
            44,
            {},
            "2 underlyings are in this file; each is evaluated separately",
        ),
        ("a02_leaps_2031.json", "2026-03-10", 0, 24, 24, {}, ""),
        (
            "a04_all_greeks_zero_on_some.csv",
            "2026-03-10",
            1,
            44,
            38,
            {"gamma_zero": 10},
            "valid Greeks of the chain (73.68 %) < 90.0 %",
        ),
        (
            "a05_all_greeks_zero_on_all.csv",
            "2026-03-10",
            2,
            44,
            35,
            {"gamma_zero": 35},
            "valid Greeks of the chain (0.00 %)",
        ),
        ("a06_tradier_option_list_alone.json", "2026-03-10T15:55", 0, 22, 22, {}, ""),
        ("a07_quote_columns_named_otherwise.csv", "2026-03-10", 0, 44, 38, {}, ""),
        (
            "a08_calls_only_no_underlying_price.csv",
            "2026-03-10",
            3,
            22,
            0,
            {},
            "the forward is unknown: no column of the underlying's price was recognised, and 22 quoted calls "
            "and 0 quoted puts",
        ),
    ],
)
def test_case_files_on_the_command_line(
    case: str,
    as_of: str,
    code: int,
    contracts: int,
    core_contracts: int,
    faults: dict[str, int],
    says: str,
    tmp_path: Path,
) -> None:
    """Each case file gives the right result and exit code, and nothing on stderr."""
    rc, out, err = ops(tmp_path, str(CASES / case), "--as-of", as_of, "-o", "json")
    found = json.loads(out)
    said = [line for line in err.splitlines() if " is a day without a time; it was read as its close" not in line]
    assert (rc, said) == (code, [])
    assert (found["contracts"], found["core"]["contracts"], {f["check"]: f["count"] for f in found["findings"]}) == (
        contracts,
        core_contracts,
        faults,
    )
    assert says in " ".join([*found["why"], *found["notes"]])


@pytest.mark.parametrize(
    ("case", "words"),
    [("a03_questrade_chain.json", "callSymbolId"), ("a03b_yahoo_refusal_in_place.json", "Too Many Requests")],
)
def test_other_files_are_rejected_on_the_command_line(case: str, words: str, tmp_path: Path) -> None:
    """A file without a chain exits with 70; the message names the file and what was found in it."""
    rc, out, err = ops(tmp_path, str(CASES / case), "--as-of", "2026-03-10")
    assert (rc, out) == (70, "") and case in err and words in err and "Traceback" not in err


# Broken Greeks: a wrong value must not take a contract out of the core.

SPY, CHEAP = healthy("SPY", 1), healthy("F", 2)


def _put(table: pandas.DataFrame, rows: np.ndarray, **cells: Any) -> pandas.DataFrame:
    found = table.copy()
    for name, values in cells.items():
        found.iloc[rows, found.columns.get_loc(name)] = values
    return found


def _side(table: pandas.DataFrame, rows: np.ndarray) -> np.ndarray:
    return np.where(table["type"].iloc[rows] == "call", 1.0, -1.0)


BREAKS: dict[str, tuple[str, Callable[[pandas.DataFrame, np.ndarray], pandas.DataFrame]]] = {
    "all zero": ("gamma_zero", lambda t, r: _put(t, r, delta=0.0, gamma=0.0, theta=0.0, vega=0.0)),
    "all zero, volatility too": ("missing", lambda t, r: _put(t, r, delta=0.0, gamma=0.0, theta=0.0, vega=0.0, iv=0.0)),
    "delta one, gamma and vega zero": ("gamma_zero", lambda t, r: _put(t, r, delta=_side(t, r), gamma=0.0, vega=0.0)),
    "delta one, no volatility": (
        "missing",
        lambda t, r: _put(t, r, delta=_side(t, r), gamma=0.0, vega=0.0, theta=0.0, iv=0.0),
    ),
    "gamma null": ("missing", lambda t, r: _put(t, r, gamma=None)),
    "all null": ("missing", lambda t, r: _put(t, r, delta=None, gamma=None, theta=None, vega=None)),
    "NaN": ("sentinel", lambda t, r: _put(t, r, delta="NaN", gamma="NaN", theta="NaN", vega="NaN")),
    "delta alone zero": ("recompute", lambda t, r: _put(t, r, delta=0.0)),
    "delta and gamma exchanged": (
        "",
        lambda t, r: _put(t, r, delta=t["gamma"].iloc[r].to_numpy(), gamma=t["delta"].iloc[r].to_numpy()),
    ),
}


@pytest.mark.parametrize("name", BREAKS)
@pytest.mark.parametrize("table", [SPY, CHEAP], ids=["SPY", "F"])
def test_broken_greeks_are_found(name: str, table: pandas.DataFrame, tmp_path: Path) -> None:
    """
    With a third of a chain or all of it broken, nearly all broken core contracts are flagged, others are not, and the
    verdict is not ok.
    """
    check, spoil = BREAKS[name]
    own = set(core(table))
    for rows in (np.array(sorted(Random(7).sample(range(len(table)), len(table) // 3))), np.arange(len(table))):
        view = chain_sources.of_file(written(spoil(table, rows), tmp_path), RULES, None)
        assert isinstance(view, ChainView)
        flagged = set(np.flatnonzero(view.quality.core & ~view.quality.faults.clean))
        wanted = own & set(rows)
        least = 0.7 if name.endswith("exchanged") else 0.9
        assert len(flagged & wanted) >= least * len(wanted), "what is broken left what is judged"
        assert view.verdict in ("warning", "critical") and (len(rows) < len(table) or view.verdict == "critical")
        if not name.endswith("exchanged"):
            assert flagged <= set(rows) and {f.check for f in view.quality.findings} == {check}


CONTRARY = st.sampled_from([0.0, 1.0, -1.0, None, "NaN", 1e-9, 37.0, -0.999999])


@settings(max_examples=25, deadline=None)
@given(st.dictionaries(st.integers(0, len(CHEAP) - 1), st.tuples(CONTRARY, CONTRARY, CONTRARY), max_size=60))
def test_wrong_greeks_take_no_contract_out_of_the_core(
    tmp_path_factory: pytest.TempPathFactory, changes: dict[int, tuple[Any, Any, Any]]
) -> None:
    """A contract whose quotes put it well inside the core is evaluated, whatever its delta, gamma and vega are."""
    folder = tmp_path_factory.mktemp("contrary")
    size = CHEAP["delta"].astype(float).abs()
    inside = set(np.flatnonzero(size.between(0.1, 0.9) & (CHEAP["bid"].astype(float) > 0)))
    table = CHEAP.copy()
    for row, values in changes.items():
        for name, value in zip(("delta", "gamma", "vega"), values):
            table.iloc[row, table.columns.get_loc(name)] = value
    quality = chain_quality.evaluate_chain(chain.read(written(table, folder)), RULES.chain)
    assert inside <= set(np.flatnonzero(quality.core))


@pytest.mark.parametrize("hours", [0, 2, 4])
def test_zero_greeks_in_the_wings_are_no_fault(hours: int, tmp_path: Path) -> None:
    """
    A healthy feed has contracts in the wings with delta 0 or ±1, no gamma and no volatility, also on the day of
    expiration; they are no fault.
    """
    for table in (
        healthy("SPY", 1, AT + timedelta(hours=hours)),
        healthy("SPY", 1, AT + timedelta(hours=hours), expires_today=True),
    ):
        delta = table["delta"].astype(float)
        deep = np.flatnonzero(delta.isna() | (delta.abs() > 0.975) | (delta.abs() < 0.025))
        side = _side(table, deep)
        in_the_money = (
            side * (table["underlying_price"].astype(float).iloc[deep] - table["strike"].astype(float).iloc[deep]) > 0
        )
        wings = _put(table, deep, delta=np.where(in_the_money, side, 0.0), gamma=0.0, theta=0.0, vega=0.0, iv=0.0)
        view = chain_sources.of_file(written(wings, tmp_path), RULES, None)
        assert (view.verdict, summary(view)[3]) == ("ok", {}) and len(deep) > 20


@pytest.mark.parametrize("hours", [0, 2])
def test_contracts_that_expire_today_are_evaluated(hours: int, tmp_path: Path) -> None:
    """Contracts at the money that expire within hours are evaluated, and found when their Greeks are zero."""
    at = AT + timedelta(hours=hours)
    table = healthy("SPY", 1, at, expires_today=True)
    today = table[table["expiration"] == at.date().isoformat()].reset_index(drop=True)
    assert len(today) > 20 and summary(chain_sources.of_file(written(today, tmp_path), RULES, None))[3] == {}
    rows = core(today)
    view = chain_sources.of_file(written(BREAKS["all zero"][1](today, rows), tmp_path), RULES, None)
    assert summary(view)[3].get("gamma_zero", 0) >= len(rows) / 2 and view.verdict != "ok"


# Several underlyings.


@pytest.mark.parametrize(
    "column", ["symbol", "ticker", "underlying", "root", "Underlying Symbol", "act_symbol", "Stock Name"]
)
def test_underlyings_are_separated_by_any_symbol_column(column: str, tmp_path: Path) -> None:
    """
    Two symbols with the same strikes are two chains, whatever the column's name is; the file has the worst verdict.
    """
    zeroed = TABLE.assign(**dict.fromkeys(FIGURES, 0.0))
    view = judged(pandas.concat([TABLE.assign(**{column: "AAA"}), TABLE.assign(**{column: "BBB"})]), tmp_path)
    assert summary(view) == ("ok", 88, 76, {})
    found = view.as_json()
    assert [(s["symbol"], s["verdict"], s["core"]["contracts"]) for s in found["symbols"]] == [
        ("AAA", "ok", 38),
        ("BBB", "ok", 38),
    ]
    assert (
        found["notes"] == ["2 underlyings are in this file; each is evaluated separately"]
        and found["units"]["theta"] == "per_day"
    )
    view = judged(pandas.concat([TABLE.assign(**{column: "AAA"}), zeroed.assign(**{column: "BBB"})]), tmp_path)
    assert [(s["symbol"], s["verdict"]) for s in view.as_json()["symbols"]] == [
        ("AAA", "ok"),
        ("BBB", "critical"),
    ] and view.exit_code == 2
    assert (
        "AAA" in repr(view)
        and "BBB" in repr(view)
        and view.rates
        and view.faults
        and view.units
        and view.usual
        and view.other_provider
        and view.smile
    )


def _occ(row: dict[str, Any], underlying: str = "AAA") -> str:
    return (
        f"{underlying}{row['expiration'][2:].replace('-', '')}{row['type'][0].upper()}{int(row['strike'] * 1000):08d}"
    )


def test_underlyings_are_separated_by_contract_symbols(tmp_path: Path) -> None:
    """The roots of the contract symbols separate the underlyings, in tables and JSON; SPXW belongs to SPX."""
    both = [r | {"contractSymbol": _occ(r, u)} for u in ("AAA", "BBB") for r in RECORDS]
    for content in (
        both,
        pandas.DataFrame(both),
        {"AAA": RECORDS, "BBB": RECORDS},
        [r | {"ticker": u, "symbol": _occ(r, u)} for u in ("AAA", "BBB") for r in RECORDS],
    ):
        assert summary(judged(content, tmp_path)) == ("ok", 88, 76, {})
    index = judged([r | {"contractSymbol": _occ(r, u)} for u in ("SPX", "SPXW") for r in RECORDS], tmp_path)
    assert isinstance(index, ChainView) and index.as_json()["symbol"] == "SPX"


def test_rejected_rows_of_a_file_with_several_underlyings(tmp_path: Path) -> None:
    """A rejected row belongs to no symbol; it is reported, and the file is not ok."""
    table = pandas.concat([TABLE.assign(symbol="AAA"), TABLE.assign(symbol="BBB")]).astype(object)
    table.iloc[5, table.columns.get_loc("strike")] = "abc"
    view = judged(table, tmp_path)
    assert view.verdict == "warning" and summary(view)[3]["unreadable"] == 1 and "strike is 'abc'" in repr(view)


# Expirations outside the session calendar.


def _other_day(day: str, as_of: str) -> pandas.DataFrame:
    one = TABLE[TABLE["expiration"] == "2026-03-27"]
    shift = datetime.fromisoformat(as_of) - datetime.fromisoformat("2026-03-10")
    days = (
        {"2026-03-27": day}
        if day
        else {d: str((datetime.fromisoformat(d) + shift).date()) for d in TABLE["expiration"].unique()}
    )
    return (one if day else TABLE).assign(expiration=lambda t: t["expiration"].map(days), date=as_of)


@pytest.mark.parametrize(
    ("as_of", "assumed"),
    [("2012-03-13", False), ("1999-03-09", False), ("2044-03-08", False), ("1985-03-12", True), ("2140-03-08", True)],
)
def test_chains_of_any_year_are_evaluated(as_of: str, assumed: bool, tmp_path: Path) -> None:
    """
    Chains of any year are evaluated. Outside the session calendar regular sessions are assumed, with a note for the
    contracts concerned.
    """
    view = judged(_other_day("", as_of), tmp_path)
    assert summary(view)[:3] == ("ok", 44, 38)
    notes = [note for note in view.as_json()["notes"] if "assumed regular session" in note]
    assert bool(notes) == assumed and all("44 contracts" in note and "1993 to 2100" in note for note in notes)


@pytest.mark.parametrize("day", ["2031-12-19", "2035-01-19", "2099-12-18", "2150-12-18"])
def test_a_far_expiration_does_not_affect_the_others(day: str, tmp_path: Path) -> None:
    """A contract with a far expiration does not change the result of the others."""
    far = TABLE[TABLE["expiration"] == "2026-03-27"].head(2).assign(expiration=day, bid=0)
    view = judged(pandas.concat([TABLE, far]), tmp_path)
    assert summary(view) == ("ok", 46, 38, {}) and (
        ("2150-12-18" in " ".join(view.as_json()["notes"])) == (day == "2150-12-18")
    )


@pytest.mark.parametrize("day", ["0001-01-01", "9999-12-31", "1899-12-31", "2300-01-19"])
def test_an_impossible_expiration_year_is_rejected(day: str, tmp_path: Path) -> None:
    """A row with an impossible expiration is rejected with its reason, and the other contracts are evaluated."""
    view = judged(pandas.concat([TABLE, TABLE.head(1).assign(expiration=day)]), tmp_path)
    assert (view.verdict, summary(view)[3]) == ("warning", {"unreadable": 1}) and f"expiration is '{day}'" in repr(view)


# Nestings, column names and dates.

CALLS, PUTS = (
    [{k: v for k, v in r.items() if k not in ("type", "underlying_price")} for r in RECORDS if r["type"] == side]
    for side in ("call", "put")
)


def _tree(*levels: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for r in RECORDS:
        inner = found
        for level in levels[:-1]:
            inner = inner.setdefault(str(r[level]), {})
        inner[str(r[levels[-1]])] = {k: v for k, v in r.items() if k not in levels}
    return found


NESTINGS: dict[str, Any] = {
    "a list": RECORDS,
    "under data": {"data": RECORDS},
    "under results": {"status": "ok", "results": RECORDS},
    "under a word of its own": {"payload": {"book": {"legs": RECORDS}}},
    "by symbol": {"AAA": RECORDS},
    "by contract": {
        "data": {_occ(r): {k: v for k, v in r.items() if k not in ("expiration", "type", "strike")} for r in RECORDS}
    },
    "by expiration, side and strike": _tree("expiration", "type", "strike"),
    "by side, expiration and strike": _tree("type", "expiration", "strike"),
    "calls and puts apart": {"underlying": {"symbol": "AAA", "last": 100.0}, "calls": CALLS, "puts": PUTS},
    "call and put of a strike together": [
        {"strike": c["strike"], "expiration": c["expiration"], "call": c, "put": p}
        for c, p in zip(CALLS, PUTS, strict=True)
    ],
    "latest quotes as Alpaca nests them": {
        "snapshots": {
            _occ(r): {
                "latestQuote": {"bp": r["bid"], "ap": r["ask"], "t": "2026-03-10T20:00:00Z"},
                "impliedVolatility": r["iv"],
                "greeks": {n: r[n] for n in FIGURES},
            }
            for r in RECORDS
        }
    },
    "Greeks and quotes nested": [
        {k: v for k, v in r.items() if k not in (*FIGURES, "bid", "ask")}
        | {"greeks": {n: r[n] for n in FIGURES}, "quote": {"bid": r["bid"], "ask": r["ask"]}}
        for r in RECORDS
    ],
    "what names a contract apart from its figures": [
        {
            "contract": {
                "symbol": "AAA",
                "lastTradeDateOrContractMonth": r["expiration"].replace("-", ""),
                "strike": r["strike"],
                "right": r["type"][0].upper(),
            },
            "bid": r["bid"],
            "ask": r["ask"],
            "modelGreeks": {"impliedVol": r["iv"], **{n: r[n] for n in FIGURES}, "undPrice": 100},
        }
        for r in RECORDS
    ],
    "a list a column": {"s": "ok", **{name: [r[name] for r in RECORDS] for name in RECORDS[0]}},
    "pandas, by column": json.loads(TABLE.to_json(orient="columns")),
    "pandas, by row": json.loads(TABLE.to_json(orient="index")),
    "pandas, split": json.loads(TABLE.to_json(orient="split")),
    "pandas, table": json.loads(TABLE.to_json(orient="table")),
    "lines of cells": [list(TABLE.columns), *json.loads(TABLE.to_json(orient="values"))],
}


@pytest.mark.parametrize("name", NESTINGS)
def test_every_nesting_gives_the_same_chain(name: str, tmp_path: Path) -> None:
    """The same contracts are the same chain in every nesting."""
    assert summary(judged(NESTINGS[name], tmp_path)) == HEALTHY


@pytest.mark.parametrize(
    "wrap",
    [
        lambda o: o,
        lambda o: {"option": o},
        lambda o: {"options": o},
        lambda o: {"data": {"options": {"option": o}}},
        lambda o: [{"options": {"option": o}}],
    ],
)
def test_tradier_contracts_with_and_without_envelope(wrap: Callable[[Any], Any], tmp_path: Path) -> None:
    """Tradier's contracts are read with and without the objects around them."""
    view = judged(
        wrap(json.loads((CASES / "a06_tradier_option_list_alone.json").read_text())),
        tmp_path,
        time_parsing.parse("2026-03-10T16:00"),
    )
    assert summary(view) == ("ok", 22, 22, {}) and view.as_json()["provider"] == "tradier"


@pytest.mark.parametrize(
    "names",
    [
        ("bidPrice", "askPrice"),
        ("Best Bid", "Best Offer"),
        ("BID_1545", "ASK_1545"),
        ("Bid ($)", "Ask ($)"),
        ("NBBO Bid", "NBBO Ask"),
        ("opt_bid_px", "opt_ask_px"),
        ("Bid Price [USD]", "Ask Price [USD]"),
        ("quote.bid", "quote.ask"),
        ("closing bid", "closing ask"),
    ],
)
def test_quote_columns_under_other_names_are_read(names: tuple[str, str], tmp_path: Path) -> None:
    """Additional words in the column names do not hide bids and asks."""
    assert summary(judged(TABLE.rename(columns={"bid": names[0], "ask": names[1]}), tmp_path)) == HEALTHY


@pytest.mark.parametrize(
    "written_as",
    [
        "%m-%d-%Y",
        "%m/%d/%y",
        "%m/%d/%Y",
        "%Y%m%d",
        "%b %d %Y",
        "%d-%b-%Y",
        "%d %b %y",
        "%B %d, %Y",
        "%Y/%m/%d",
        "%d/%m/%Y",
        "%d.%m.%Y",
        "%a %b %d %Y",
        "%m-%d-%Y %H:%M",
        "%d%b%y",
        "%b-%d-%Y",
        "%b %d '%y",
    ],
)
def test_unambiguous_expiration_formats_are_read(written_as: str, tmp_path: Path) -> None:
    """Each date format is read if it is unambiguous."""
    assert (
        summary(
            judged(TABLE.assign(expiration=pandas.to_datetime(TABLE["expiration"]).dt.strftime(written_as)), tmp_path)
        )
        == HEALTHY
    )


def test_date_formats() -> None:
    """Dates with slashes are US dates unless their column shows otherwise; other ambiguous dates are not read."""
    day = datetime(2024, 11, 18).date()
    assert [
        read_day(d)
        for d in ("11-18-2024", "11/18/24", "20241118", "Nov 18 2024", "18.11.2024", "18-NOV-24", "20241118.0")
    ] == [day] * 7
    assert (read_day("04-05-2026"), read_day("04/05/2026"), read_day("04-05-2026", True), read_day("05-05-2026")) == (
        None,
        datetime(2026, 4, 5).date(),
        datetime(2026, 5, 4).date(),
        datetime(2026, 5, 5).date(),
    )
    assert [read_day(d) for d in ("13-13-2024", "2024-02-30", "31/04/2024", "Foo 18 2024", "", "8", "99999999")] == [
        None
    ] * 7
    assert (
        is_day_first(["18.11.2024", "04.05.2026"]),
        is_day_first(["11-18-2024", "04-05-2026"]),
        is_day_first(["04-05-2026"]),
        is_day_first(["18-11-2024", "11-18-2024"]),
    ) == (True, False, None, None)
    assert (
        read_moment("11/18/2024 3:45 PM") == datetime(2024, 11, 18, 15, 45)
        and read_moment("18-Nov-2024 09:30:15") == datetime(2024, 11, 18, 9, 30, 15)
        and read_moment("11/18/2024 25:00") is None
    )


def test_an_ambiguous_date_is_rejected(tmp_path: Path) -> None:
    """The message names both readings and the format to use."""
    with pytest.raises(ImportRefused, match=r"'04-05-2026'; this may be month first or day first; write it as"):
        judged(TABLE.assign(expiration="04-05-2026"), tmp_path)


def _csv(**how: Any) -> str:
    return TABLE.to_csv(index=False, **how)


@pytest.mark.parametrize(
    "content",
    [
        _csv(sep=";"),
        _csv(sep="\t"),
        _csv(sep="|"),
        _csv(sep=";", decimal=","),
        "sep=,\n" + _csv(),
        "sep=;\r\n" + _csv(sep=";"),
        "Chain of AAA\nSaved 2026-03-10\n\n" + _csv(),
        _csv().replace("\n", ",\n"),
        _csv(quoting=1),
        ("\N{ZERO WIDTH NO-BREAK SPACE}" + _csv()).encode("utf-16"),
    ],
    ids=[
        "semicolon",
        "tab",
        "bar",
        "decimal comma",
        "sep=,",
        "sep=;",
        "preamble",
        "trailing comma",
        "quoted",
        "UTF-16",
    ],
)
def test_table_formats_are_read(content: str | bytes, tmp_path: Path) -> None:
    """Any delimiter, Excel's ``sep=`` line, a preamble and trailing commas are accepted."""
    assert summary(judged(content, tmp_path)) == HEALTHY


SIDE_BY_SIDE = (
    TABLE[TABLE["type"] == "call"]
    .drop(columns="type")
    .merge(
        TABLE[TABLE["type"] == "put"].drop(columns="type"),
        on=["expiration", "strike", "underlying_price", "date"],
        suffixes=("|call", "|put"),
    )
)


@pytest.mark.parametrize(
    "form", ["{side[0]}_{name}", "{Side} {Name}", "{name}_{side}", "{side}{Name}", "{SIDE}S.{name}"]
)
def test_calls_and_puts_side_by_side(form: str, tmp_path: Path) -> None:
    """A table with a call and a put on each line is read, however its column names tell them apart."""

    def column(name: str) -> str:
        what, _, side = name.partition("|")
        return (
            form.format(name=what, Name=what.title(), side=side, Side=side.title(), SIDE=side.upper()) if side else name
        )

    assert summary(judged(SIDE_BY_SIDE.rename(columns=column), tmp_path)) == HEALTHY


def test_lines_after_the_last_contract_are_skipped(tmp_path: Path) -> None:
    """Totals and terms of use are skipped, with a note."""
    view = judged(_csv() + "\nTotal,,,44\nData delayed by 15 minutes\n", tmp_path)
    assert (
        summary(view) == HEALTHY
        and "2 lines after the last contract were skipped: 'Total,,,44'" in view.as_json()["notes"]
    )


# Reasons for an unknown verdict.


@pytest.mark.parametrize(
    ("table", "why"),
    [
        (
            TABLE.rename(columns={"bid": "Geld", "ask": "Brief"}),
            "no column of quotes was recognised for bids and asks; other columns: 'Geld', 'Brief'",
        ),
        (
            TABLE.drop(columns=["bid", "ask"]).assign(mid=1.0),
            "no column of quotes was recognised for bids and asks; other columns: 'mid'",
        ),
        (
            [
                {
                    "contract": {"root": "AAA", "expiration": 20260327, "strike": 90, "right": "C"},
                    "ticks": [[1, 1.0, 1.1]],
                }
            ],
            "no column of quotes was recognised for bids and asks; other columns: 'ticks'",
        ),
        (TABLE.assign(bid=0.0), "none of 44 contracts has a bid above 0"),
        (
            TABLE.drop(columns=list(FIGURES)).assign(bid="dear", ask="cheap"),
            "44 contracts have no bid; cells that are not numbers: bid 'dear' (44), ask 'cheap' (44)",
        ),
        (TABLE.drop(columns=[*FIGURES, "iv"]), "this feed has neither Greeks nor volatilities"),
        (
            TABLE.rename(columns={"delta": "dlt", "gamma": "gma", "theta": "tht", "vega": "vga", "iv": "sigma hat"}),
            "this feed has neither Greeks nor volatilities; not understood: 'sigma hat', 'dlt', 'gma', 'tht', 'vga'",
        ),
        (
            TABLE.assign(expiration=TABLE["expiration"].map({"2026-03-27": "2026-03-05", "2026-04-17": "2026-03-06"})),
            "all 44 quoted contracts had settled by 2026-03-10",
        ),
        (
            TABLE[TABLE["type"] == "put"].drop(columns="underlying_price"),
            "the forward is unknown: no column of the underlying's price was recognised, and 0 quoted calls "
            "and 22 quoted puts",
        ),
        (
            TABLE[TABLE["type"] == "call"].rename(columns={"underlying_price": "kurs"}),
            "no column of the underlying's price was recognised (not understood: 'kurs')",
        ),
        (
            TABLE[TABLE["type"] == "call"].assign(
                underlying_price=500.0,
                bid=500 - TABLE["strike"],
                ask=500.1 - TABLE["strike"],
                delta=1,
                gamma=0,
                theta=0,
                vega=0,
                iv=0,
            ),
            "none of 22 quoted contracts is near enough to the money",
        ),
    ],
)
def test_why_a_chain_could_not_be_evaluated(table: pandas.DataFrame | list, why: str, tmp_path: Path) -> None:
    """The verdict is unknown, with the right reason."""
    view = judged(table, tmp_path)
    assert view.verdict == "unknown" and view.exit_code == 3 and why in " ".join(view.as_json()["why"])


def test_forwards_come_from_put_call_parity(tmp_path: Path) -> None:
    """Without the underlying's price, forwards come from put-call parity."""
    view = judged(TABLE.drop(columns="underlying_price"), tmp_path)
    assert summary(view) == HEALTHY and "forwards come from put-call parity" in " ".join(view.as_json()["notes"])
    zeroed = judged(TABLE.drop(columns="underlying_price").assign(**dict.fromkeys(FIGURES, 0.0)), tmp_path)
    assert zeroed.verdict == "critical"


def test_empty_greek_columns_are_a_fault(tmp_path: Path) -> None:
    """Greek columns without values are critical; a table without Greek columns is evaluated by its volatilities."""
    empty = judged(TABLE.assign(**dict.fromkeys(FIGURES, "")), tmp_path)
    assert empty.verdict == "critical" and summary(empty)[3] == {"missing": 35}
    assert summary(judged(TABLE.drop(columns=list(FIGURES)), tmp_path)) == ("ok", 44, 35, {})


def test_parquet_with_text_numbers_is_read(tmp_path: Path) -> None:
    """The same chain is read from Parquet, with another column name and with numbers as text."""
    content = io.BytesIO()
    TABLE.rename(columns={"bid": "Bid Price (USD)"}).assign(
        strike=TABLE["strike"].map("${:,.2f}".format), iv=TABLE["iv"].map("{:.2%}".format)
    ).to_parquet(content)
    assert summary(judged(content.getvalue(), tmp_path)) == HEALTHY
