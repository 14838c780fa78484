"""Test trades, costs and the gap to a backtest: figures calculated by hand, general laws, and the commands."""

import json
import math
import random
import time
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from opslib import desk
from opslib.alerting import evaluator, replay
from opslib.alerting.fill_figures import evaluate_gaps
from opslib.alerting.verdicts import still_beyond_clear
from opslib.cli import main
from opslib.dashboard import pnl_details
from opslib.foundation import clock, time_parsing
from opslib.foundation import errors as book
from opslib.foundation.config import rules
from opslib.foundation.formatting import NEW_YORK
from opslib.simulation.demo_day import replay as demo_day_replay
from opslib.simulation.demo_day import trades
from opslib.telemetry import importing
from opslib.trading.pnl import backtest_variance, costs, pnl, positions, reader, round_trips
from opslib.trading.pnl.backtest_variance import Side, decomposed, spread
from opslib.trading.pnl.costs import APP, GUIDE, REAL, result
from opslib.trading.pnl.fills import Fill
from opslib.trading.pnl.store import FillStore
from tests.support.system import SHARED

D = Decimal
BROKER = SHARED / "data" / "trades" / "tastytrade_TSLL.csv"
RULE = rules.load()["backtest_variance"]
OPENS = datetime(2026, 3, 10, 14, 30, tzinfo=UTC)
SAMPLE = {
    "id": 1,
    "entry_price": 5.00,
    "exit_price": 5.50,
    "quantity": 10,
    "entry_ts": "2026-03-10T10:00",
    "exit_ts": "2026-03-10T11:00",
}


def fill(
    minute: float, side: str, quantity: object, price: object, effect: str = "", symbol: str = "XYZ C100", **other: Any
) -> Fill:
    """Return a fill of a made-up call, some minutes after the open."""
    q, p = D(str(quantity)), D(str(price))
    what = {"commission": D(0), "fees": D(0), "right": "C", "strike": D(100)} | other
    return Fill(
        0,
        OPENS + timedelta(minutes=minute),
        "trade",
        "option",
        symbol,
        "XYZ",
        side,
        effect,
        q,
        p,
        D(100),
        q * p * 100 * (1 if side == "sell" else -1),
        **what,
    )


def written(folder: Path, found: object, name: str = "trades.json") -> Path:
    (folder / name).write_text(json.dumps(found))
    return folder / name


def figures(folder: Path, found: object, reading: str = "real") -> dict[str, Any]:
    return pnl_details.of_file(written(folder, found), RULE, reading).as_json()


def test_the_guides_sample_trade(tmp_path: Path) -> None:
    """
    ``guide`` gives the guide's own figures; ``real`` applies the multiplier, costs per contract, and half the spread
    twice.
    """
    guide, real = figures(tmp_path, [SAMPLE], "guide"), figures(tmp_path, [SAMPLE])
    assert [guide[k] for k in ("gross_usd", "commission_usd", "slippage_usd", "net_usd", "net_pct", "base_usd")] == [
        5.00,
        1.30,
        0.25,
        3.45,
        6.9,
        50.0,
    ]
    assert [real[k] for k in ("gross_usd", "commission_usd", "slippage_usd", "net_usd", "net_pct", "base_usd")] == [
        500.0,
        13.0,
        26.25,
        460.75,
        9.215,
        5000.0,
    ]


@pytest.mark.parametrize(
    ("reading", "backtest", "gap"),
    [("guide", 8.5, 1.6), ("guide", 12, 5.1), ("real", 8.5, -0.715), ("real", 12, 2.785)],
)
def test_the_guides_variance(tmp_path: Path, reading: str, backtest: float, gap: float) -> None:
    """
    Backtests of 8.5 % and 12 % give gaps of 1.6 and 5.1 points under ``guide``; under ``real`` the second is below the
    threshold of 5.
    """
    found = figures(tmp_path, [SAMPLE | {"backtest_net_pct": backtest}], reading)
    assert (found["variance"]["mean_pp"], found["variance"]["n"], found["verdict"]) == (gap, 1, "unknown")
    assert "insufficient data (n=1; 20 required)" in found["why"]


@pytest.mark.parametrize(
    ("quotes", "slippage", "net", "pct"),
    [
        ({}, 51.45, 435.35, 8.653),
        ({"entry_bid": 4.95, "entry_ask": 5.05, "exit_bid": 5.45, "exit_ask": 5.55}, 196.0, 290.8, 5.697),
    ],
)
def test_the_apps_calculator(tmp_path: Path, quotes: dict[str, float], slippage: float, net: float, pct: float) -> None:
    """``app`` gives the figures of the app's calculator, with the usual and with a quoted spread."""
    found = figures(tmp_path, [SAMPLE | quotes], "app")
    assert [found[k] for k in ("commission_usd", "slippage_usd", "net_usd")] == [13.2, slippage, net] and found[
        "net_pct"
    ] == pytest.approx(pct, abs=6e-4)


def test_app_costs_equal_the_recorded_day(recorded: Path) -> None:
    """``app`` gives every figure of the recorded day's forty trades, and their gaps to the backtest."""
    theirs = {str(t["id"]): t for t in json.loads((recorded / "trades.json").read_text())}
    found = reader.read(recorded / "trades.json")
    ours = pnl.of(found.fills, RULE, APP, backtest_results=found.backtest_results)
    names = {
        "gross": "gross_usd",
        "gross_pct": "gross_pct",
        "commission": "commission_usd",
        "slippage": "slippage_usd",
        "net": "net_usd",
        "net_pct": "net_pct",
    }
    assert len(ours.results) == 40 and all(
        float(getattr(r, a)) == pytest.approx(theirs[t.name][b], abs=1e-9)
        for t, r in ours.results
        for a, b in names.items()
    )
    assert all(float(p.gap_pp or 0) == pytest.approx(theirs[p.live.name]["variance_pp"], abs=1e-9) for p in ours.pairs)


def test_decomposition_by_hand() -> None:
    """10 contracts from 5.00 to 5.50 against 8 from 5.05 to 5.42: the five terms add up to -202.44."""
    b = Side(1, D(10), D(100), D("5.00"), D("5.50"), D("4.975"), D("5.525"), D("0.025"), D("0.025"), D(13))
    live = Side(1, D(8), D(100), D("5.05"), D("5.42"), D("5.01"), D("5.46"), D("0.025"), D("0.03"), D("11.44"))
    b = b._replace(mid_entry=D(5), mid_exit=D("5.5"), half_entry=D(0), half_exit=D(0))
    parts = decomposed(b, live)
    assert (parts.size, parts.timing, parts.slippage, parts.fill, parts.commission) == (
        D("-97.40"),
        D("-40.00"),
        D("-44.00"),
        D("-20.00"),
        D("-1.04"),
    )
    assert parts.sum == live.net - b.net == D("-202.44")


def test_decomposition_terms_add_up_for_20_000_trades() -> None:
    """
    Long and short, with one to four legs, different sizes and multipliers, with and without quotes: the terms add up to
    the difference to the cent.
    """
    chance = random.Random(7)

    def cents(low, high):
        return D(chance.randint(low, high)) / 100

    signs, merged = set(), 0

    def leg(sign: int, multiplier: int, quoted: bool) -> Side:
        mids = [cents(0, 3000), cents(0, 3000)]
        halves = [cents(0, 40), cents(0, 40)]
        return Side(
            sign,
            D(chance.randint(1, 30)),
            D(multiplier),
            mids[0] + cents(-50, 50),
            mids[1] + cents(-50, 50),
            mids[0] if quoted else None,
            mids[1] if quoted else None,
            *halves,
            cents(0, 9000),
        )

    for _ in range(20_000):
        quoted, total, difference = chance.random() < 0.8, backtest_variance.Parts(), D(0)
        for _ in range(chance.choice((1, 1, 2, 4))):
            sign, multiplier = chance.choice((1, -1)), chance.choice((100, 100, 10, 50, 150))
            live, b = leg(sign, multiplier, quoted), leg(sign, multiplier, True)
            total += decomposed(b, live)
            difference += live.net - b.net
            signs.add(sign)
        merged += not quoted
        found = total.in_cents()
        assert abs(total.sum - difference) < D("1e-9") and abs(sum(found.values()) - difference) <= D("0.01")
        assert quoted or (found["timing"], found["slippage"], found["fill"]) == (0, 0, 0)
    assert signs == {1, -1} and 3000 < merged < 5000


def test_decomposition_of_paired_trades_adds_up() -> None:
    """
    The terms also add up through fills, costs and pairing, for spreads and shorts whose sizes and prices differ from
    the backtest's.
    """
    chance = random.Random(11)

    def trade(n: int, minute: float) -> list[Fill]:
        short, legs = chance.random() < 0.5, chance.choice((1, 2, 2, 4))
        found = []
        for i in range(legs):
            first = "sell" if short ^ bool(i % 2) else "buy"
            quantity, at, quoted = chance.randint(1, 9), D(chance.randint(5, 2000)) / 100, chance.random() < 0.7
            quote = {"bid": at - D("0.05"), "ask": at + D("0.05")} if quoted else {}
            what = {
                "symbol": f"XYZ {n} {i}",
                "strike": D(100 + 5 * i),
                "right": "CP"[i // 2],
                "order": "",
                "lot": str(n),
            }
            found.append(fill(minute, first, quantity, at, "open", **what, **quote, **{"commission": -D(quantity)}))
            found.append(
                fill(
                    minute + 5,
                    "buy" if first == "sell" else "sell",
                    quantity,
                    max(at + D(chance.randint(-99, 99)) / 100, D(0)),
                    "close",
                    **what,
                    **quote,
                )
            )
        return found

    live, backtest = ([f for n in range(300) for f in trade(n, n)] for _ in range(2))
    for model in (REAL, APP, GUIDE):
        found = pnl.of(live, RULE, model, backtest)
        assert len(found.pairs) == 300
        for pair in found.pairs:
            assert abs(pair.parts.sum + pair.gap_usd) < D("1e-9") and abs(
                sum(pair.parts.in_cents().values()) + pair.gap_usd
            ) <= D("0.01")


@pytest.mark.parametrize(
    "wrong",
    [
        '{ probe = { gate = "t" } }',
        "{ fills = { limit = 3 } }",
        '{ fills = { gate = "x" } }',
        '{ fills = { min_count = "many" } }',
        '{ fills = { window = "soon" } }',
        '{ fills = { longest = "30m" } }',
        '{ page = { longest = "2d" } }',
        "3",
    ],
)
def test_invalid_rule_settings_by_source_are_rejected(tmp_path: Path, wrong: str) -> None:
    """
    `by_source` accepts only sources of the rule, and only their gate, minimum count and window; for fills also the
    longest window.
    """
    (tmp_path / "rules.toml").write_text(f"[backtest_variance]\nby_source = {wrong}\n")
    with pytest.raises(book.RulesError, match="by_source|window"):
        rules.load(tmp_path)


def _fires(rule: rules.Rule, gap: float, deviation: float, count: int, times: int, seed: int) -> dict[str, float]:
    """Return how often a number of trades with a true gap get each verdict."""
    chance = random.Random(seed)
    found: dict[str, int] = {}
    for _ in range(times):
        verdict = evaluate_gaps(rule, [chance.gauss(gap, deviation) for _ in range(count)]).verdict
        found[verdict] = found.get(verdict, 0) + 1
    return {k: v / times for k, v in found.items()}


@pytest.mark.parametrize(("deviation", "most"), [(5, 0.02), (10, 0.05), (50, 0.05)])
def test_chance_fires_no_alert(deviation: float, most: float) -> None:
    """
    Three trades without a true gap are not evaluated. Without the minimum count, the interval alone keeps false alerts
    rare.
    """
    found = _fires(RULE, 0.0, deviation, 3, 10_000, 1)
    assert found == {"unknown": 1.0}
    bare = rules.replace(RULE, by_source={"fills": RULE.by_source["fills"] | {"min_count": 0}})
    found = _fires(bare, 0.0, deviation, 3, 10_000, 2)
    assert found.get("warning", 0) + found.get("critical", 0) <= max(most, 0.055) and set(found) <= {
        "ok",
        "warning",
        "critical",
    }
    found = _fires(RULE, 0.0, deviation, 20, 2_000, 3)
    assert found.get("warning", 0) + found.get("critical", 0) <= 0.06


def test_a_true_gap_fires() -> None:
    """
    A gap of 10 points over 40 trades with a deviation of 10 fires in at least 95 of 100 cases; a gap of 5, the warning
    limit, is hardly ever critical.
    """
    found = _fires(RULE, 10.0, 10.0, 40, 2_000, 4)
    assert found.get("warning", 0) + found.get("critical", 0) >= 0.95 and found.get("critical", 0) > 0.8
    assert _fires(RULE, 5.0, 10.0, 40, 2_000, 6).get("critical", 0) < 0.04
    assert _fires(RULE, 25.0, 10.0, 40, 500, 5).get("critical", 0) > 0.95


def test_the_interval_by_hand() -> None:
    """Gaps of 1, 2, 3, 4 and -5 points have mean 1, mean size 3, deviation 3.5355, and Student's factor 2.7764."""
    found = spread([1, 2, 3, 4, -5], 0.95)
    assert (
        found is not None
        and (found.n, found.mean, found.absolute) == (5, 1, 3)
        and found.deviation == pytest.approx(math.sqrt(12.5))
    )
    assert found.high == pytest.approx(1 + 2.776445 * math.sqrt(12.5 / 5), abs=1e-5) and found.low == pytest.approx(
        2 - found.high
    )
    assert spread([], 0.95) is None and spread([7], 0.95).low is None


def test_lots_are_closed_first_in_first_out() -> None:
    """
    An exit across two lots closes the older lot first; costs are shared by the closed quantity, and the rest stays
    open.
    """
    found = round_trips.round_trips(
        [
            fill(0, "buy", 2, 1.00, "open", order="a", commission=D(-2)),
            fill(1, "buy", 2, 3.00, "open", order="b", commission=D(-2)),
            fill(2, "sell", 3, 4.00, "close", order="c", commission=D(-3)),
        ]
    )
    values = [(t.name, t.legs[0].quantity, t.legs[0].gross, t.legs[0].commission, t.partial) for t in found.trades]
    assert values == [("a", 2, 600, -4, False), ("b", 1, 100, -2, True)]
    assert [(leg.left, leg.open_value, leg.open_commission) for leg in found.open] == [(1, -300, -1)]


def test_without_open_or_close_a_fill_closes_first() -> None:
    """With only sides given, a fill first closes what is held; the rest opens a position on the other side."""
    found = round_trips.round_trips([fill(0, "buy", 2, 1), fill(1, "sell", 5, 2), fill(2, "buy", 3, 1)])
    assert [(t.legs[0].side, t.legs[0].quantity, t.legs[0].gross) for t in found.trades] == [
        (1, 2, 200),
        (-1, 3, 300),
    ] and not found.open


_one = st.tuples(
    st.integers(0, 2),
    st.sampled_from(("buy", "sell")),
    st.sampled_from(("open", "close", "")),
    st.integers(1, 9),
    st.integers(0, 500),
    st.integers(0, 300),
    st.sampled_from(("", "a", "b", "c")),
)


def _made(rows: list[Any]) -> list[Fill]:
    return [
        fill(i // 2, side, q, D(p) / 100, effect, f"S{s}", commission=-D(c) / 100, fees=D("-0.127"), order=order)
        for i, (s, side, effect, q, p, c, order) in enumerate(rows)
    ]


def _sums(found: round_trips.RoundTrips) -> tuple[Decimal, Decimal]:
    """Return all cash and all contracts (bought - sold), wherever they ended."""
    legs = {
        id(leg): leg
        for leg in (*found.open, *(leg for t in (*found.trades, *found.partial, *found.stock) for leg in t.legs))
    }.values()
    cash = sum(
        (
            leg.gross + leg.open_value + (leg.commission or 0) + (leg.open_commission or 0) + leg.fees + leg.open_fees
            for leg in legs
        ),
        D(0),
    ) + sum((f.total for f in found.before), D(0))
    held = sum((leg.side * leg.left for leg in legs), D(0)) + sum(
        (f.quantity * (1 if f.side == "buy" else -1) for f in found.before), D(0)
    )
    return cash, held


@hypothesis_settings(max_examples=300, deadline=None)
@given(st.lists(_one, max_size=25))
def test_nothing_is_lost(rows: list[Any]) -> None:
    """Every cent and every contract of every fill is counted in exactly one place."""
    fills = _made(rows)
    cash, held = _sums(round_trips.round_trips(fills))
    assert cash == sum((f.total for f in fills), D(0))
    assert held == sum((f.quantity * (1 if f.side == "buy" else -1) for f in fills), D(0))


@hypothesis_settings(max_examples=100, deadline=None)
@given(st.integers(2, 6), st.integers(0, 99), st.randoms(use_true_random=False))
def test_the_sequence_of_an_orders_fills_does_not_matter(pieces: int, seed: int, chance: random.Random) -> None:
    """The partial fills of an order give the same trades and costs in any sequence."""
    rng = random.Random(seed)
    opening = [
        fill(
            0,
            "sell",
            rng.randint(1, 5),
            D(rng.randint(50, 60)) / 100,
            "open",
            order="o",
            commission=-D(rng.randint(0, 3)),
        )
        for _ in range(pieces)
    ]
    half = sum(f.quantity for f in opening) - 1
    shut = [fill(9, "buy", half, 0.2, "close", order="c"), fill(9, "buy", 1, 0.3, "close", order="d")]
    shuffled = opening[:]
    chance.shuffle(shuffled)

    def trades_of(fills):
        return [
            (t.name, t.legs[0].quantity, t.legs[0].gross, t.legs[0].commission)
            for t in round_trips.round_trips(fills).trades
        ]

    assert trades_of(opening + shut) == trades_of(shuffled + shut)
    assert pnl.orders(opening + shut)[0].commission == sum(f.commission or 0 for f in opening)


@pytest.mark.parametrize(("contracts", "charged"), [(1, 1), (10, 10), (20, 10), (1111, 10)])
def test_the_commission_cap_applies_to_the_order(contracts: int, charged: int) -> None:
    """
    Opening costs a dollar a contract, at most ten; closing is free. The app charges at least half a dollar a side.
    """
    assert costs.BROKER.commission(D(contracts), True) == charged and costs.BROKER.commission(D(contracts), False) == 0
    assert [APP.commission(D(q), True) for q in ("0.5", "1")] == [D("0.50"), D("0.66")]


def _spread(entries: list[tuple[str, str, int, float]], exits: float = 0.5) -> positions.Trade:
    """
    Return a spread of calls and puts: side, right, strike and price of each leg; all legs are closed at one price.
    """
    found = []
    for side, right, strike, price in entries:
        what = {"symbol": f"XYZ {right}{strike}", "strike": D(strike), "right": right, "order": "s"}
        found += [
            fill(0, side, 2, price, "open", **what),
            fill(5, "buy" if side == "sell" else "sell", 2, exits, "close", **(what | {"order": "x"})),
        ]
    only = round_trips.round_trips(found).trades
    assert len(only) == 1 and len(only[0].legs) == len(entries)
    return only[0]


@pytest.mark.parametrize(
    ("entries", "base", "base_is"),
    [
        ([("buy", "C", 100, 3.0), ("sell", "C", 105, 1.0)], 400, "premium paid"),
        ([("sell", "C", 100, 3.0), ("buy", "C", 105, 1.0)], 1000, "width of the spread"),
        ([("sell", "P", 100, 3.0), ("buy", "P", 90, 1.0)], 2000, "width of the spread"),
        (
            [("sell", "P", 100, 2.0), ("buy", "P", 95, 1.0), ("sell", "C", 110, 2.0), ("buy", "C", 118, 1.0)],
            1600,
            "width of the spread",
        ),
        ([("sell", "C", 100, 3.0), ("sell", "P", 100, 3.0)], 1200, "premium received"),
        ([("sell", "C", 100, 1.0), ("buy", "C", 105, 1.0)], 1000, "width of the spread"),
        ([("buy", "C", 100, 1.0), ("sell", "P", 100, 1.0)], None, "nothing: no premium, no width"),
    ],
)
def test_the_base_of_a_percentage(entries: list[tuple[str, str, int, float]], base: int | None, base_is: str) -> None:
    """
    A percentage is of the premium paid; for a spread opened for a credit, of its width; without a base there is none.
    """
    found = result(_spread(entries))
    assert (found.base, found.base_is) == (base, base_is) and (found.net_pct is None) == (base is None)


def test_a_half_closed_spread_is_partial() -> None:
    """If one leg of two is closed, there is no trade yet; the closed leg is counted as partial."""
    legs = [
        fill(0, "buy", 1, 3, "open", "A", order="s"),
        fill(0, "sell", 1, 1, "open", "B", order="s"),
        fill(5, "sell", 1, 4, "close", "A", order="x"),
    ]
    found = round_trips.round_trips(legs)
    assert (found.trades, len(found.partial), [leg.symbol for leg in found.open]) == ([], 1, ["B"])


def test_slippage_of_real_fills_needs_quotes() -> None:
    """Slippage is already in the price of a real fill: it is reported if there are quotes, and not subtracted again."""
    quoted = [
        fill(0, "buy", 2, "1.05", "open", bid=D("0.95"), ask=D("1.05"), commission=D("-1")),
        fill(5, "sell", 2, "1.40", "close", bid=D("1.40"), ask=D("1.60")),
    ]
    found = result(round_trips.round_trips(quoted).trades[0])
    assert (found.gross, found.commission, found.slippage, found.net, found.inside) == (70, 1, 30, 69, True)
    assert result(round_trips.round_trips([f._replace(bid=None, ask=None) for f in quoted]).trades[0]).slippage is None


def test_pairs_by_name_then_by_symbol_and_day() -> None:
    """
    Trades are paired by the name that both files give, otherwise by symbol, side and day; the rest stay unmatched.
    """

    def made(n, day, symbol, lot):
        return [
            fill(day * 1440 + n, "buy", 1, 1, "open", symbol, lot=lot),
            fill(day * 1440 + n + 1, "sell", 1, 2, "close", symbol, lot=lot),
        ]

    live = round_trips.round_trips(
        [*made(0, 0, "A", "1"), *made(5, 0, "B", ""), *made(9, 1, "B", ""), *made(9, 2, "C", "")]
    ).trades
    theirs = round_trips.round_trips(
        [*made(3, 0, "A", "1"), *made(2, 0, "B", "x"), *made(2, 2, "B", "y"), *made(9, 3, "D", "z")]
    ).trades
    pairs, alone, phantom = backtest_variance.paired(live, theirs)
    assert [(a.legs[0].symbol, b.name) for a, b in pairs] == [("A", "1"), ("B", "x")]
    assert [t.legs[0].symbol for t in alone] == ["B", "C"] and sorted(t.name for t in phantom) == ["y", "z"]


@pytest.fixture(scope="module")
def day(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's scripted trades, in the app's format."""
    path = tmp_path_factory.mktemp("day") / "trades.json"
    trades.write(path, demo_day_replay.scripted())
    return path


def test_the_demo_trades_match_the_script(day: Path) -> None:
    """The app's calculator, applied to the demo's trade file, gives the percentages and slippage of the script."""
    found = reader.read(day)
    ours = pnl.of(found.fills, RULE, APP, backtest_results=found.backtest_results)
    values = [e.data for e in sorted(demo_day_replay.scripted().events, key=lambda e: e.at) if e.kind == "trade"]
    assert len(values) == 54
    for (_, r), data in zip(ours.results, values, strict=True):
        assert float(r.net_pct or 0) == pytest.approx(float(data["net_pct"]), abs=0.01) and float(
            r.slippage or 0
        ) == pytest.approx(float(data["slippage_usd"]), abs=0.2)


def ops(*arguments: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    code = main.main(list(arguments))
    out, err = capsys.readouterr()
    return code, out, err


def _shifted(path: Path, folder: Path, points: float, count: int = 54, apart: float = 1) -> Path:
    """Write the same trades with a backtest that is so many points above their result under ``real``."""
    found = json.loads(path.read_text())[:count]
    net = {t.name: r.net_pct for t, r in pnl.of(reader.read(path).fills, RULE).results}
    for i, trade in enumerate(found):
        trade["backtest_net_pct"] = float(net[str(trade["id"])] or 0) + points + (apart if i % 2 else -apart)
    return written(folder, found, f"shifted{points}-{count}-{apart}.json")


@pytest.mark.parametrize(
    ("points", "count", "apart", "code", "verdict"),
    [
        (2, 54, 1, 0, "ok"),
        (7, 54, 12, 1, "warning"),
        (7, 54, 1, 2, "critical"),
        (16, 54, 1, 2, "critical"),
        (-16, 54, 1, 2, "critical"),
        (16, 19, 1, 3, "unknown"),
    ],
)
def test_the_exit_code_is_the_verdict(
    day: Path,
    tmp_path: Path,
    home: Path,
    capsys: pytest.CaptureFixture[str],
    points: float,
    count: int,
    apart: float,
    code: int,
    verdict: str,
) -> None:
    """
    The exit code is 0 for ok, 1 for warning, 2 for critical, 3 for unknown, whatever the sign of the gap; text and JSON
    agree.
    """
    path = str(_shifted(day, tmp_path, points, count, apart))
    found, out, _ = ops("pnl", path, "-o", "json", capsys=capsys)
    values = json.loads(out)
    assert (found, values["verdict"], values["variance"]["mean_pp"]) == (code, verdict, pytest.approx(points, abs=0.06))
    assert (
        values["decomposition"]["sum"]
        == values["decomposition"]["difference"]
        == pytest.approx(-values["variance"]["total_usd"], abs=0.011)
    )
    found, out, _ = ops("pnl", path, capsys=capsys)
    assert found == code and out.startswith(f"{Path(path).name}: {verdict} (")


def test_a_backtest_in_a_separate_file(
    day: Path, tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """
    Against a backtest of twice the size that lacks one live trade and has another, size is a separate term and those
    two trades are unmatched.
    """
    found = json.loads(day.read_text())
    bare = [{k: v for k, v in t.items() if not k.startswith("backtest")} for t in found]
    backtest = [t | {"quantity": t["quantity"] * 2} for t in bare[1:]] + [bare[0] | {"id": 999, "ticker": "GHOST"}]
    code, out, _ = ops(
        "pnl", str(day), "--backtest", str(written(tmp_path, backtest, "backtest.json")), "-o", "json", capsys=capsys
    )
    values = json.loads(out)
    assert (
        values["variance"]["n"],
        values["unmatched"]["live"]["names"],
        values["unmatched"]["backtest"]["names"],
    ) == (
        53,
        ["1"],
        ["999"],
    )
    live = sum(t["net_usd"] for t in values["trades_list"] if t["trade"] != "1")
    assert (
        values["decomposition"]["size"] == pytest.approx(-live, abs=0.5)
        and code == 0
        and values["variance"]["mean_pp"] == pytest.approx(0, abs=0.001)
    )


def test_a_backtests_own_costs_are_used(tmp_path: Path) -> None:
    """The costs in the backtest file are used: 2.60 and 10.00 against 13.00 and 26.25 live, at the same prices."""
    live = written(tmp_path, [SAMPLE | {"id": n} for n in range(25)])
    theirs = written(
        tmp_path, [SAMPLE | {"id": n, "commission": 2.60, "slippage_usd": 10} for n in range(25)], "backtest.json"
    )
    found = pnl_details.of_file(live, RULE, backtest=theirs).as_json()
    assert [
        found["decomposition"][k] for k in ("size", "timing", "slippage", "fill", "commission", "sum", "difference")
    ] == [0, 0, -406.25, 0, -260.0, -666.25, -666.25]
    assert (found["variance"]["mean_pp"], found["variance"]["mean_usd"], found["verdict"]) == (0.533, 26.65, "ok")


@pytest.mark.parametrize(
    "form",
    [
        "id,net_pct\n1,12\n2,11\n9,3\n",
        '[{"id": 1, "net_pct": 12}, {"id": 2, "backtest_net_pct": 11}, {"id": 9, "net_pct": 3}]',
    ],
)
def test_a_backtest_of_percentages_only(tmp_path: Path, form: str) -> None:
    """A backtest may have only a percentage for each trade; its dollars are then calculated from our premium."""
    (tmp_path / "b").write_text(form)
    found = pnl_details.of_file(
        written(tmp_path, [SAMPLE, SAMPLE | {"id": 2}, SAMPLE | {"id": 3}]), RULE, backtest=tmp_path / "b"
    )
    values = found.as_json()
    assert (
        values["variance"]["n"],
        values["variance"]["mean_pp"],
        values["variance"]["total_usd"],
        values["unmatched"]["live"]["names"],
        values["unmatched"]["backtest"],
    ) == (2, 2.285, 228.5, ["3"], {"trades": 1, "net_usd": None, "names": ["9"]})
    assert values["decomposition"]["prices"] == -228.5 and "percentage and the costs of each trade" in str(
        values["unknown"]
    )
    with pytest.raises(book.ImportRefused):
        reader.read(tmp_path / "b")  # It is not a file of fills.


def test_a_file_named_as_its_own_backtest_uses_its_stated_results(recorded: Path) -> None:
    """If the day's file is named as its own backtest, the backtest results stated in it are used, not its prices."""
    path = recorded / "trades.json"
    inside, stated_results = (
        pnl_details.of_file(path, RULE, "app").as_json(),
        pnl_details.of_file(path, RULE, "app", backtest=path).as_json(),
    )
    assert inside["variance"]["mean_pp"] == stated_results["variance"]["mean_pp"] == pytest.approx(6.0550, abs=1e-4)
    assert stated_results["decomposition"]["timing"] == 0 and stated_results["decomposition"]["slippage"] < -8000


def test_verdict_without_a_backtest_and_with_rejected_rows(
    tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A completely read file without a backtest is ok; a rejected row makes the verdict unknown and is listed."""
    code, out, _ = ops("pnl", str(written(tmp_path, [SAMPLE])), "-o", "json", capsys=capsys)
    found = json.loads(out)
    assert (code, found["variance"], found["decomposition"], found["why"]) == (
        0,
        None,
        None,
        "no backtest to compare with",
    )
    code, out, _ = ops(
        "pnl", str(written(tmp_path, [SAMPLE, SAMPLE | {"id": 2, "quantity": "lots"}])), "-o", "json", capsys=capsys
    )
    found = json.loads(out)
    assert (code, found["rejected"], found["trades"], found["rejected_rows"][0]["row"]) == (
        3,
        1,
        1,
        2,
    ) and "quantity is 'lots'" in found["rejected_rows"][0]["reasons"][0]


def test_wrong_usage_and_unreadable_files(tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """
    An unknown cost model is wrong usage. An unreadable file and a desk without fills are rejected with what to do.
    """
    assert ops("pnl", "x", "--costs", "none", capsys=capsys)[0] == 64
    for arguments, said in (
        (("pnl", str(tmp_path / "no")), "cannot be read"),
        (("pnl",), "ops import FILE --kind fills"),
        (("pnl", str(written(tmp_path, [{"entry_price": "x"}]))), "no readable fill"),
    ):
        code, out, err = ops(*arguments, capsys=capsys)
        assert (code, out) == (70, "") and said in err


def test_fills_are_imported_once(day: Path, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """
    A second import of the same content, plain or gzip, counts as duplicate. Rejected rows are kept with their reason.
    Two equal rows of one file are two fills.
    """
    import gzip

    (tmp_path / "t.json.gz").write_bytes(gzip.compress(day.read_bytes()))

    def counts(out):
        return [(r["accepted"], r["duplicate"], r["rejected"]) for r in json.loads(out)]

    assert counts(ops("import", str(day), "-o", "json", capsys=capsys)[1]) == [(54, 0, 0)]
    assert counts(ops("import", str(tmp_path / "t.json.gz"), "--kind", "fills", "-o", "json", capsys=capsys)[1]) == [
        (0, 54, 0)
    ]
    plain = (
        "time,symbol,side,qty,price,commission\n"
        + "2026-03-10T10:00,XYZ,buy,1,1,1\n" * 2
        + "2026-03-10T10:01,XYZ,buy,0,1,1\n"
    )
    (tmp_path / "plain.csv").write_text(plain)
    code, out, _ = ops("import", str(tmp_path / "plain.csv"), "-o", "json", capsys=capsys)
    assert (code, counts(out)) == (70, [(2, 0, 1)])
    assert counts(ops("import", str(tmp_path / "plain.csv"), "-o", "json", capsys=capsys)[1]) == [(0, 2, 1)]
    _, out, _ = ops("import", "--rejects", "-o", "json", capsys=capsys)
    assert [(r["source"], r["reasons"]) for r in json.loads(out)] == [
        ("plain.csv:4", ["qty is '0'; a number above 0 was expected"])
    ]
    own = desk.open("desk", home)
    known = FillStore(own.store, "desk").upto(2**62)
    read = reader.read(day)
    assert [f._replace(row=0) for f in known.fills if f.lot] == [
        f._replace(row=0) for f in read.fills
    ] and known.stated_results == read.backtest_results


def test_the_panel_uses_fills_if_there_are_any(day: Path, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """
    If the window has fills, the panel shows them, evaluated by their interval; otherwise it shows the page's figures.
    With --known-at only the fills known then count.
    """

    def status(*more):
        return json.loads(ops("status", "--window", "390m", "-o", "json", *more, capsys=capsys)[1])["panels"]["pnl"]

    assert status("--as-of", "2026-03-10T16:00")["source"] == "page"
    ops("import", str(day), "--known-at-ts", capsys=capsys)
    found = status("--as-of", "2026-03-10T16:00")
    ours = pnl.of(reader.read(day).fills, RULE, backtest_results=reader.read(day).backtest_results)
    assert (found["source"], found["verdict"], found["trades"]) == ("fills", "ok", 54)
    assert found["net_pct"] == pytest.approx(float(ours.mean("net_pct") or 0)) and found["commission_usd"] == 482.3
    assert found["backtest_variance_pp"] == pytest.approx(ours.points.mean)
    early = status("--as-of", "2026-03-10T16:00", "--known-at", "2026-03-10T11:00")
    assert (early["source"], early["verdict"], early["backtest_variance_pp"]) == (
        "fills",
        "unknown",
        None,
    ) and 0 < early["trades"] < 20
    assert status("--as-of", "2026-03-09T16:00")["source"] == "page"
    _, out, _ = ops("status", "--as-of", "2026-03-10T16:00", "--window", "390m", capsys=capsys)
    assert "fills: backtest variance (" in out and "notebooks/pnl_accuracy.ipynb" in out


def _became(found: list[Any]) -> list[tuple[str, str, str, str]]:
    return [
        (t.source, t.kind, t.severity, f"{clock.instant(t.at_us):%H:%M}")
        for t in found
        if t.rule == "backtest_variance" and t.kind not in ("pending", "dropped")
    ]


@pytest.mark.slow
def test_fills_raise_an_alert(day: Path, tmp_path: Path) -> None:
    """
    A gap of 16 points fires two minutes after the twentieth trade has ended: live, in a replay, and with a restart in
    between. Without fills nothing fires.
    """
    path = _shifted(day, tmp_path, 16)
    own = desk.open("desk", tmp_path / "home")
    begin, end = (
        clock.micros(time_parsing.parse("2026-03-10T09:00")),
        clock.micros(time_parsing.parse("2026-03-10T17:00")),
    )

    def judge(**how):
        return evaluator.Evaluator(own.store, own.settings, own.rules, **how)

    assert _became([t for _, b in judge(live=True).evaluate(begin, end) for t in b]) == []
    importing.read_fills(own.store, "desk", path, known_at_ts=True)
    twentieth = sorted(t.exited for t in round_trips.round_trips(reader.read(path).fills).trades)[19]
    live = _became([t for _, b in judge(live=True).evaluate(begin, end) for t in b])
    # The first evaluation time after it, plus two minutes.
    fires = clock.instant(clock.micros(twentieth) + -clock.micros(twentieth) % 5_000_000) + timedelta(minutes=2)
    assert (
        live[0] == ("fills", "fired", "warning", f"{fires:%H:%M}")
        and ("fills", "rose", "critical", f"{fires:%H:%M}") in live
        and live[-1][1] == "ended"
    )
    assert live == _became(replay.replay_session(own.store, own.settings, own.rules, begin, end)[0])
    middle = clock.micros(fires) - 40_000_000
    first = judge(live=True)
    halves = [t for _, b in first.evaluate(begin, middle) for t in b]
    second = evaluator.Evaluator(own.store, own.settings, own.rules, first.alerts.alerts.values(), live=True)
    assert _became(halves + [t for _, b in second.evaluate(middle, end) for t in b]) == live
    found = [a for a in own.status("2026-03-10T15:00", "390m").alerts if a["rule"] == "backtest_variance"]
    assert [(a["source"], a["state"], a["severity"]) for a in found] == [("fills", "firing", "critical")]


def test_ten_thousand_fills_are_fast() -> None:
    """Ten thousand fills become trades and results within 20 seconds."""
    fills = [
        f
        for n in range(5_000)
        for f in (
            fill(n, "buy", 1, 1, "open", f"S{n % 50}", order=str(n)),
            fill(n + 0.5, "sell", 1, 2, "close", f"S{n % 50}", order=f"x{n}"),
        )
    ]
    begun = time.monotonic()
    assert len(pnl.of(fills, RULE).results) == 5_000 and time.monotonic() - begun < 20


def test_the_panel_has_no_heavy_imports(home: Path) -> None:
    """The panel needs neither pandas, numpy, scipy nor matplotlib."""
    import subprocess
    import sys

    code = (
        "import sys; from opslib import desk; from opslib.dashboard.live import status as panels; print([m "
        "for m in ('pandas', 'numpy', 'scipy', "
        "'matplotlib') if m in sys.modules])"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )


def test_a_time_window_selects_trades_by_their_exit(day: Path) -> None:
    """Only round trips that ended within the window count."""
    noon = time_parsing.parse("2026-03-10T12:00")
    found = pnl_details.of_file(day, RULE, as_of=noon, since=noon - timedelta(hours=1))
    assert 0 < len(found.pnl.chosen) < 20 and all(
        noon - timedelta(hours=1) < t.exited <= noon for t in found.pnl.chosen
    )


def test_imported_fills_give_the_figures_of_their_file(
    day: Path, tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """
    ``ops pnl`` without a file reads the store and gives the file's figures, including other cash and the backtest's
    results.
    """
    both = [str(day)] + ([str(BROKER)] if BROKER.is_file() else [])
    for n, path in enumerate(both):
        here = ("--home", str(tmp_path / f"h{n}"))
        assert ops("import", path, *here, capsys=capsys)[0] == 0
        (code, out, _), (as_file, want, _) = (
            ops("pnl", "-o", "json", *here, capsys=capsys),
            ops("pnl", path, "-o", "json", *here, capsys=capsys),
        )
        found, wanted = json.loads(out), json.loads(want)
        same = ("as_of", "fills", "trades", "net_usd", "variance", "cash", "unmatched", "verdict")
        assert code == as_file and {k: found[k] for k in same} == {k: wanted[k] for k in same} and found["fills"] > 0
        early = json.loads(ops("pnl", "-o", "json", "--as-of", wanted["as_of"], *here, capsys=capsys)[1])
        assert early["fills"] == wanted["fills"]


def view_of(folder: Path, content: str, reading: str = "real", backtest: str = "") -> pnl_details.PnlView:
    """Return the results of a plain CSV, optionally with a backtest."""
    (folder / "live.csv").write_text(content)
    (folder / "theirs.csv").write_text(backtest)
    return pnl_details.of_file(folder / "live.csv", RULE, reading, folder / "theirs.csv" if backtest else None)


PAID = (
    "id,entry_time,exit_time,symbol,entry_price,exit_price,quantity,commission,fees\n1,2026-01-05T10:00,"
    "2026-01-05T11:00,AAA 260116C00005000,5,5.5,10,7.00,2.00\n"
)


def test_stated_costs_are_used_in_both_files(tmp_path: Path) -> None:
    """
    Commission and fees stated for a trade are used, live and in the backtest: a file compared with itself has no gap.
    """
    both = view_of(tmp_path, PAID, backtest=PAID).as_json()
    assert [both[k] for k in ("commission_usd", "fees_usd", "net_usd")] == [7, 2, 491] and (
        both["variance"]["mean_usd"],
        both["decomposition"]["sum"],
    ) == (0, 0)
    dearer = view_of(tmp_path, PAID, backtest=PAID.replace("7.00,2.00", "2.00,1.00")).as_json()
    assert (dearer["variance"]["mean_usd"], dearer["decomposition"]["commission"]) == (6, -6)
    calculated = view_of(tmp_path, PAID.replace("fees", "fees,slippage_usd").replace("2.00\n", "2.00,3\n")).as_json()
    assert calculated["commission_usd"] == 13 and any(
        "are calculated, not actual" in note for note in calculated["notes"]
    )
    blank = view_of(tmp_path, PAID.replace("7.00,2.00", ",")).as_json()
    assert blank["commission_usd"] == 13 and view_of(tmp_path, PAID, "app").as_json()["commission_usd"] == 13.2


FILLS = (
    "time,symbol,side,quantity,price,multiplier,commission,fees\n2026-01-05T10:00,AAA,buy,1,5,100,{0}"
    "\n2026-01-05T11:00,AAA,sell,1,6,100,{1}\n"
)


@pytest.mark.parametrize(
    ("buy", "sell", "commission", "fees", "cash"),
    [
        ("1,1", ",", 1.65, 1, 98),
        (",", "1,1", 1.65, 1, 98),
        ("1,", ",", 1.65, 0, 99),
        ("1,", "1,", 2, 0, 98),
        ("0,0", "0,0", 0, 0, 100),
        (",2", ",2", 1.3, 4, 96),
        (",", ",", 1.3, 0, 100),
    ],
)
def test_a_blank_commission_is_calculated_and_a_stated_zero_is_zero(
    tmp_path: Path, buy: str, sell: str, commission: float, fees: float, cash: float
) -> None:
    """
    Under ``real`` a blank commission is calculated by the model and a stated 0 is 0; the cash of the file has only
    stated costs.
    """
    found = view_of(tmp_path, FILLS.format(buy, sell))
    values = found.as_json()
    assert (values["commission_usd"], values["fees_usd"], values["cash"]["fills_usd"]) == (commission, fees, cash)
    assert found.kinds.plain.split()[-1] == f"${cash:,.2f}"
    assert "2 most expensive of 2" in found.by_order.plain


@pytest.mark.parametrize("reading", ["real", "guide", "app"])
def test_shares_have_no_option_costs(tmp_path: Path, reading: str) -> None:
    """
    A hundred shares from 10 to 11 earn 100 dollars, without a commission per contract or an option's usual spread.
    """
    found = view_of(
        tmp_path,
        "time,symbol,side,quantity,price,instrument_type\n2026-01-05T10:00,AAA,buy,100,10,equity"
        "\n2026-01-05T11:00,AAA,sell,100,11,equity\n",
        reading,
    ).as_json()
    assert found["stock"] == {"trades": 1, "gross_usd": 100.0, "net_usd": 100.0}


def test_an_interval_above_the_warning_limit_is_critical() -> None:
    """
    A mean of 6.00 with an interval of 5.81 to 6.19 over 30 trades is critical, although far below 15. With a wide
    interval it is a warning; with 19 trades it is unknown.
    """
    near = [6 + 0.509 * (1 if i % 2 else -1) for i in range(30)]
    found = evaluate_gaps(RULE, near)
    assert (
        (found.verdict, found.severity, found.limit) == ("critical", "critical", 5)
        and "(6 points) > 5 points" in found.sentence
        and "(5.81 points to 6.19 points)" in found.sentence
    )
    wide = evaluate_gaps(RULE, [6 + 4 * (1 if i % 2 else -1) for i in range(30)])
    assert (wide.verdict, evaluate_gaps(RULE, near[:19]).verdict, evaluate_gaps(RULE, [-x for x in near]).verdict) == (
        "warning",
        "unknown",
        "critical",
    )
    own = RULE.of("fills")

    def held(gaps):
        return still_beyond_clear(own, evaluate_gaps(RULE, gaps).figure, "critical", 15)

    assert held(near) and held([x - 1.2 for x in near][:30]) is True and not held([x - 2 for x in near])


ROUND = (
    "time,symbol,side,quantity,price,multiplier,commission,fees,order\n{0},{1},buy,1,5,{2},1,0,{3}\n{4},"
    "{1},sell,1,6,{2},1,0,x{3}\n"
)


def _round(at: int, symbol: str = "AAA", multiplier: int = 100, order: str = "", first: bool = True) -> str:
    rows = ROUND.format(f"2026-01-05T{at}:00", symbol, multiplier, order, f"2026-01-05T{at}:40").replace(",x\n", ",\n")
    return rows if first else rows.split("\n", 1)[1]


def test_trades_without_names_are_paired_by_time(tmp_path: Path) -> None:
    """
    The trades nearest in time are paired first, over all candidates: of live trades at 10:00 and 13:00, a backtest
    trade at 13:00 belongs to the second.
    """
    found = view_of(tmp_path, _round(10) + _round(13, first=False), backtest=_round(13)).pnl
    assert [f"{p.live.entered.astimezone(NEW_YORK):%H:%M}" for p in found.pairs] == ["13:00"] and [
        len(v) for v in found.unmatched.values()
    ] == [1, 0]
    found = view_of(
        tmp_path,
        _round(10) + _round(12, first=False),
        backtest=_round(11) + _round(13, first=False) + _round(10, first=False),
    ).pnl
    assert len(found.pairs) == 2 and [t.entered.astimezone(NEW_YORK).hour for t in found.unmatched["backtest"]] == [13]


LEG = (
    "2026-01-05T10:00,AAA 260116C00105000,sell,1,2,100,1,0,a\n2026-01-05T10:40,AAA 260116C00105000,buy,1,2,100,1,0,xa\n"
)


@pytest.mark.parametrize(
    "theirs",
    [
        _round(10, "ZZZ", order="a"),
        _round(10, "AAA", 10, "a"),
        _round(10, "AAA", order="a").replace("buy", "SIDE").replace("sell", "buy").replace("SIDE", "sell"),
        _round(10, "AAA 260116C00100000", order="a") + LEG,
    ],
    ids=["another symbol", "another multiplier", "short", "a leg more"],
)
def test_an_equal_order_number_alone_makes_no_pair(tmp_path: Path, theirs: str) -> None:
    """Two different trades with the same order number are not paired; each is unmatched."""
    found = view_of(tmp_path, _round(10, order="a"), backtest=theirs).as_json()
    assert (
        found["variance"]["n"] == 0
        and [found["unmatched"][k]["names"] for k in ("live", "backtest")] == [["a"], ["a"]]
        and found["verdict"] == "unknown"
    )


def test_a_closed_leg_of_an_open_spread_is_shown(tmp_path: Path) -> None:
    """If the short leg made $1,000 while the long one is still open, it is shown separately, in text and JSON."""
    rows = ["buy,10,5.00,A,10.00,1.50", "sell,10,2.00,A,10.00,1.50", "buy,10,1.00,B,0,1.50"]
    body = "".join(f"2026-01-0{d}T10:00,AAA   261218C000{k}000,{r}\n" for d, k, r in zip((5, 5, 6), (60, 65, 65), rows))
    found = view_of(tmp_path, "time,symbol,side,quantity,price,order,commission,fees\n" + body)
    values = found.as_json()
    assert values["partial"] == {"trades": 1, "gross_usd": 1000.0, "net_usd": 987.0} and values["realised"] == {
        "gross_usd": 1000.0,
        "net_usd": 987.0,
        "of": "trades, partial and stock",
    }
    assert "1 partly closed, not included above: realised $1,000.00, costs $13.00, net $987.00" in found.summary.plain
