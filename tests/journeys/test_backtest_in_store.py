"""Test a stored backtest: its effect on panel, alert, diagnosis and runbook, and windows that grow."""

import csv
import gzip
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from opslib import desk
from opslib.alerting import evaluator, fill_figures
from opslib.cli import main
from opslib.dashboard import cost_details, pnl_details, status
from opslib.desk import Desk
from opslib.foundation import clock, market_calendar, time_parsing
from opslib.foundation.config import rules
from opslib.runbooks.diagnosis.diagnosis import diagnose_at
from opslib.telemetry import importing

OPENS = time_parsing.parse("2026-03-10T09:30")
AT = time_parsing.parse("2026-03-10T15:30")
RULE = rules.load()["backtest_variance"]
CAUSES = ("costs_commission", "costs_spread", "costs_fill_quality", "costs_size")
TRADE = (
    "trade_id",
    "symbol",
    "right",
    "strike",
    "expiry",
    "multiplier",
    "quantity",
    "entry_time",
    "entry_price",
    "entry_bid",
    "entry_ask",
    "exit_time",
    "exit_price",
    "exit_bid",
    "exit_ask",
    "commission",
)
FILL = (
    "time",
    "symbol",
    "side",
    "effect",
    "quantity",
    "price",
    "bid",
    "ask",
    "commission",
    "fees",
    "trade_id",
    "right",
    "strike",
    "expiry",
    "multiplier",
)


@dataclass
class World:
    """Live trades and those of the backtest, before they are written to a file."""

    live: list[dict[str, Any]]
    backtest: list[dict[str, Any]]


def made(
    cause: str, seed: int, count: int = 24, begins: Any = OPENS, apart: timedelta = timedelta(minutes=13)
) -> World:
    """
    Return trades with random prices, times, spreads and sizes, of which one cost differs from the backtest.

    Commission is $0.65 a contract and $2 an order. The cost that differs is one of: a much higher commission; a spread
    eight times as wide; fills 6 % beyond the quote; or one contract instead of twenty, of an option so cheap that the
    fixed charge shows.
    """
    rng, world = random.Random(f"{cause} {seed}"), World([], [])
    for n in range(count):
        cheap = cause == "costs_size"
        entry, size = (
            rng.uniform(0.3, 0.6) if cheap else rng.uniform(2, 6),
            rng.randint(15, 25) if cheap else rng.randint(5, 12),
        )
        exit_ = entry * (1 + rng.gauss(0.08, 0.10))
        spread = entry * rng.uniform(0.008, 0.012)
        at = begins + n * apart
        for whose, kept in (("backtest", world.backtest), ("live", world.live)):
            ours = whose == "live"
            half = spread / 2 * (rng.uniform(7, 9) if ours and cause == "costs_spread" else rng.uniform(0.9, 1.1))
            mids = [m * (1 + (rng.gauss(0, 0.004) if ours else 0)) for m in (entry, exit_)]
            if ours and cause == "costs_fill_quality":
                beyond = entry * rng.uniform(0.05, 0.07)
            elif ours:
                beyond = rng.gauss(0, 0.001) * entry
            else:
                beyond = 0.0
            quantity = size
            if ours:
                quantity = 1 if cause == "costs_size" else max(1, size + rng.randint(-1, 1))
            rate = rng.uniform(17, 21) if ours and cause == "costs_commission" else 0.65
            kept.append(
                {
                    "id": f"t{n}",
                    "at": at + (timedelta(seconds=rng.uniform(0, 20)) if ours else timedelta(0)),
                    "quantity": quantity,
                    "entry": mids[0] + half + beyond,
                    "exit": max(mids[1] - half - beyond, 0.01),
                    "half": half,
                    "mids": mids,
                    "costs": 2 * (rate * quantity + 2),
                }
            )
    return world


def as_fills(path: Path, trades: list[dict[str, Any]], names: bool = True, quotes: bool = True) -> Path:
    """Return two executions per trade, with their costs."""
    with path.open("w", newline="") as out:
        rows = csv.writer(out)
        rows.writerow(FILL)
        for t in trades:
            for end, side, price, mid, at in (
                ("open", "buy", t["entry"], t["mids"][0], t["at"]),
                ("close", "sell", t["exit"], t["mids"][1], t["at"] + timedelta(minutes=5)),
            ):
                quote = (f"{mid - t['half']:.6f}", f"{mid + t['half']:.6f}") if quotes else ("", "")
                rows.writerow(
                    [
                        at.isoformat(),
                        "SPY 260320C00600000",
                        side,
                        end,
                        t["quantity"],
                        f"{price:.6f}",
                        *quote,
                        f"{t['costs'] / 2:.4f}",
                        "0",
                        t["id"] if names else "",
                        "C",
                        "600",
                        "2026-03-20",
                        "100",
                    ]
                )
    return path


def as_trades(path: Path, trades: list[dict[str, Any]]) -> Path:
    """Return one JSON row per trade, with quotes and the commission of the round trip."""
    rows = []
    for t in trades:
        quotes = {
            f"{end}_{side}": round(mid + sign * t["half"], 6)
            for end, mid in zip(("entry", "exit"), t["mids"])
            for side, sign in (("bid", -1), ("ask", 1))
        }
        rows.append(
            {
                "id": t["id"],
                "ticker": "SPY",
                "contract": {"strike": 600, "expiry": "2026-03-20", "type": "C"},
                "quantity": t["quantity"],
                "contractMultiplier": 100,
                "entry_ts": t["at"].isoformat(),
                "exit_ts": (t["at"] + timedelta(minutes=5)).isoformat(),
                "entry_price": round(t["entry"], 6),
                "exit_price": round(t["exit"], 6),
                **quotes,
                "commission": round(t["costs"], 4),
            }
        )
    path.write_text(json.dumps(rows))
    return path


def as_percents(path: Path, trades: list[dict[str, Any]]) -> Path:
    """Return the name of each trade, and its backtest percentage."""
    with path.open("w", newline="") as out:
        rows = csv.writer(out)
        rows.writerow(("trade_id", "backtest_net_pct"))
        for t in trades:
            net = (t["exit"] - t["entry"]) * 100 * t["quantity"] - t["costs"]
            rows.writerow((t["id"], f"{net / (t['entry'] * 100 * t['quantity']) * 100:.6f}"))
    return path


def opened(home: Path, *files: tuple[str, Path]) -> Desk:
    """Return a desk whose database has these files."""
    own = desk.open("desk", home)
    for kind, path in files:
        importing.read_any(own.store, "desk", path, kind, rules=own.rules)
    return own


def diagnosed(own: Desk, at: Any = AT, length: timedelta = timedelta(minutes=10)) -> Any:
    return diagnose_at(own, at, length)


def asked(own: Desk, at: Any = AT) -> str:
    """Return the answer to the diagnostic question about the backtest."""
    return next(c.answer for c in diagnosed(own, at).evidence if "backtest" in c.question)


@pytest.mark.parametrize("form", [as_fills, as_trades])
@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("cause", CAUSES)
def test_the_diagnosis_names_the_cost_that_differs(
    tmp_path: Path, cause: str, seed: int, form: Callable[[Path, list], Path]
) -> None:
    """
    For random trades the diagnosis names the cost that differs and its runbook, from the database alone.

    `ops pnl` of the same files shows it as the largest loss.
    """
    world = made(cause, seed)
    live, theirs = as_fills(tmp_path / "live.csv", world.live), form(tmp_path / "said", world.backtest)
    own = opened(tmp_path / "home", ("fills", live), ("backtest", theirs))
    found = diagnosed(own)
    assert (found.cause, found.subject, found.runbook, found.also) == (cause, "app", "backtest_variance", ()), found
    assert found.confidence > 0.8, found
    files = pnl_details.of_file(live, RULE, backtest=theirs).as_json()
    stored = own.pnl(as_of=AT).as_json()
    assert stored["decomposition"] == files["decomposition"] and stored["variance"] == files["variance"]
    worst = min((v or 0, term) for term, v in files["decomposition"].items() if term not in ("sum", "difference"))[1]
    assert {
        "commission": "costs_commission",
        "slippage": "costs_spread",
        "fill": "costs_fill_quality",
        "size": "costs_size",
    }[worst] == cause


@pytest.mark.parametrize("cause", CAUSES)
def test_percentages_alone_determine_no_cause(tmp_path: Path, cause: str) -> None:
    """
    Percentages alone cannot distinguish the costs: undetermined, with the file that would decide.

    A backtest with prices then decides.
    """
    world = made(cause, 1)
    live, said = as_fills(tmp_path / "live.csv", world.live), as_percents(tmp_path / "said.csv", world.backtest)
    own = opened(tmp_path / "home", ("fills", live), ("backtest", said))
    assert diagnosed(
        own
    ).cause == "undetermined" and "import a backtest with prices to decide: ops import --kind backtest FILE" in asked(
        own
    )
    beside = tmp_path / "beside.json"
    percents = {
        row["trade_id"]: float(row["backtest_net_pct"]) for row in csv.DictReader(said.read_text().splitlines())
    }
    beside.write_text(
        json.dumps(
            [
                t | {"backtest_net_pct": percents[t["id"]]}
                for t in json.loads(as_trades(tmp_path / "t.json", world.live).read_text())
            ]
        )
    )
    own = opened(tmp_path / "beside", ("fills", beside))
    assert diagnosed(own).cause == "undetermined" and "ops import --kind backtest FILE" in asked(own)
    importing.read_any(own.store, "desk", as_trades(tmp_path / "b.json", world.backtest), "backtest", rules=own.rules)
    assert diagnosed(own).cause == cause


def test_percentages_with_costs_determine_them_with_less_confidence(tmp_path: Path) -> None:
    """If percentages have commission and slippage and only the commission differs, it is named, with at most 90 %."""
    world = made("costs_commission", 2)
    said = tmp_path / "said.json"
    rows = []
    for t in world.backtest:
        net = (t["exit"] - t["entry"]) * 100 * t["quantity"] - t["costs"]
        rows.append(
            {
                "id": t["id"],
                "net_pct": net / (t["entry"] * t["quantity"]),
                "commission": t["costs"],
                "slippage": 4 * t["half"] * 50 * t["quantity"],
            }
        )
    said.write_text(json.dumps(rows))
    own = opened(tmp_path / "home", ("fills", as_fills(tmp_path / "live.csv", world.live)), ("backtest", said))
    found = diagnosed(own)
    assert found.cause == "costs_commission" and 0.5 < found.confidence <= 0.9


def test_without_quotes_spreads_and_fills_are_not_distinguished(tmp_path: Path) -> None:
    """
    Without quotes, wider spreads and worse fills cannot be distinguished: undetermined.

    A higher commission is still found.
    """
    for cause, wanted in (
        ("costs_spread", "undetermined"),
        ("costs_fill_quality", "undetermined"),
        ("costs_commission", "costs_commission"),
    ):
        world = made(cause, 3)
        own = opened(
            tmp_path / cause,
            ("fills", as_fills(tmp_path / "live.csv", world.live, quotes=False)),
            ("backtest", as_fills(tmp_path / "b.csv", world.backtest)),
        )
        assert diagnosed(own).cause == wanted
        assert (
            "import fills and a backtest with the bid and ask at the time of each order to decide" in asked(own)
        ) is (wanted == "undetermined")


def test_two_costs_at_once_are_both_named(tmp_path: Path) -> None:
    """If commission and spread are both higher, both are named, with a confidence below 75 %."""
    world, dear = made("costs_spread", 4), made("costs_commission", 4)
    for ours, _other in zip(world.live, dear.live):
        ours["costs"] = 2 * (13 * ours["quantity"] + 2)
    found = diagnosed(
        opened(
            tmp_path / "home",
            ("fills", as_fills(tmp_path / "live.csv", world.live)),
            ("backtest", as_fills(tmp_path / "b.csv", world.backtest)),
        )
    )
    assert {found.cause, *map(str, found.also)} == {"costs_spread", "costs_commission of app"} or {
        found.cause,
        *map(str, found.also),
    } == {"costs_commission", "costs_spread of app"}
    assert found.confidence < 0.75


def test_a_better_result_is_no_higher_cost(tmp_path: Path) -> None:
    """If live results are far above the backtest, the variance exceeds its limit, but no cost is named."""
    world = made("none", 5)
    for t in world.live:
        t["exit"] += 1.0
        t["mids"][1] += 1.0
    own = opened(
        tmp_path / "home",
        ("fills", as_fills(tmp_path / "live.csv", world.live)),
        ("backtest", as_fills(tmp_path / "b.csv", world.backtest)),
    )
    assert diagnosed(own).cause == "undetermined" and "better than the backtest's" in asked(own)


def test_trades_as_backtested_are_no_fault(tmp_path: Path) -> None:
    """With random variation alone there is no fault, whatever the size of live positions."""
    world = made("none", 6)
    for t in world.live:
        t["costs"] = 2 * (0.65 * t["quantity"] + 2)
    own = opened(
        tmp_path / "home",
        ("fills", as_fills(tmp_path / "live.csv", world.live)),
        ("backtest", as_fills(tmp_path / "b.csv", world.backtest)),
    )
    assert not diagnosed(own).cause.startswith("costs_") and "≤ 5 points" in asked(own)


def test_far_smaller_positions_are_found_by_dollars(tmp_path: Path) -> None:
    """
    One contract instead of ten: with a fixed charge the cause is the size, although the variance is within its limit.

    Without a fixed charge a smaller size has no effect and is no fault.
    """
    for fixed, wanted in ((10.0, True), (0.0, False)):
        world = made("none", 8)
        for live, theirs in zip(world.live, world.backtest):
            for t, size in ((live, 1), (theirs, 10)):
                t["quantity"], t["costs"] = size, fixed + 0.2 * size
        own = opened(
            tmp_path / str(fixed),
            ("fills", as_fills(tmp_path / "live.csv", world.live)),
            ("backtest", as_fills(tmp_path / "b.csv", world.backtest)),
        )
        assert (diagnosed(own).cause == "costs_size") is wanted and "≤ 5 points" in asked(own)
        assert ("positions have 1.0 contracts, 10.0 in the backtest: in dollars $" in asked(own)) is wanted, asked(own)


@pytest.mark.parametrize("cause", CAUSES)
def test_too_few_trades_determine_no_cost(tmp_path: Path, cause: str) -> None:
    """With nineteen trades no cost is named, however bad they are."""
    world = made(cause, 7, 19)
    own = opened(
        tmp_path / "home",
        ("fills", as_fills(tmp_path / "live.csv", world.live)),
        ("backtest", as_fills(tmp_path / "b.csv", world.backtest)),
    )
    assert (diagnosed(own).cause, diagnosed(own).also) == ("too_few_trades", ())
    calm = made("none", 7, 19)
    own = opened(
        tmp_path / "calm",
        ("fills", as_fills(tmp_path / "live.csv", calm.live)),
        ("backtest", as_fills(tmp_path / "b.csv", calm.backtest)),
    )
    assert diagnosed(own).cause not in ("too_few_trades", *CAUSES)


# Growing windows.


def test_the_start_of_a_growing_window() -> None:
    """
    By hand: a window with enough trades stays; one with too few grows back to the twentieth newest trade.

    It grows at most to the longest window; without a new trade nothing is evaluated.
    """
    rule, day = RULE.of("fills"), 86_400_000_000
    assert (rule.min_count, rule.window, rule.longest) == (20, timedelta(days=1), timedelta(days=30))

    def start(exited):
        return fill_figures.start_us(exited, 100 * day, rule.window, rule)

    full = [99 * day + n for n in range(1, 26)]
    assert start(full) == 99 * day
    one_a_day = [k * day - 1 for k in range(1, 101)]
    assert start(one_a_day) == 81 * day - 2  # The twentieth newest is that of day 81.
    sparse = [k * day - 1 for k in range(2, 101, 2)]  # Fifteen in thirty days.
    assert start(sparse) == 70 * day
    assert start(one_a_day[:-1]) is None and start([]) is None
    assert start([99 * day + 1]) == 70 * day


def _daily(cause: str, days: int, each: int) -> World:
    """Return a few trades on every trading day, the last on the day of `AT`."""
    world, day = World([], []), OPENS
    for n in range(days):
        part = made(cause, n, each, day, timedelta(minutes=20))
        for kept, found in ((world.live, part.live), (world.backtest, part.backtest)):
            kept += [t | {"id": f"d{n}{t['id']}"} for t in found]
        day = market_calendar.previous_session(day.date()).opens
    return world


def test_a_window_with_too_few_trades_grows(tmp_path: Path) -> None:
    """
    With four trades a day, alert, panel, diagnosis and cost comparison evaluate the newest twenty, and say so.

    A fixed window would always be unknown.
    """
    world = _daily("costs_spread", 8, 4)
    own = opened(tmp_path / "home")
    for kind, path in (
        ("fills", as_fills(tmp_path / "live.csv", world.live)),
        ("backtest", as_fills(tmp_path / "b.csv", world.backtest)),
    ):
        importing.read_any(own.store, "desk", path, kind, rules=own.rules, known_at_ts=True)
    found = diagnosed(own)
    assert (found.cause, found.subject) == ("costs_spread", "app")
    assert "the newest 20 trades, since 2026-03-04" in asked(own) and "have fewer than 20" in asked(own)
    (change,) = [
        f
        for f in status.view_at(own, AT, timedelta(hours=6)).findings
        if f.rule.name == "backtest_variance" and f.source == "fills"
    ]
    assert (
        change.severity in ("critical", "escalate")
        and change.figure.count == 20
        and "the newest 20 trades" in change.sentence
    )
    begin, end = clock.micros(OPENS), clock.micros(AT)
    for live in (True, False):
        fired = [
            t
            for _, became in evaluator.Evaluator(own.store, own.settings, own.rules, live=live).evaluate(begin, end)
            for t in became
            if t.rule == "backtest_variance" and t.kind == "fired"
        ]
        assert [(t.source, t.severity) for t in fired][:1] == [
            ("fills", "warning")
        ] and "the newest 20 trades" in fired[0].sentence
    spent = cost_details.CostComparison(own, AT)
    assert len(spent.pairs) == 20 and spent.accuracy is not None and "the newest 20 trades" in spent.accuracy.why


def test_a_window_grows_at_most_to_its_limit(tmp_path: Path) -> None:
    """
    With one trade a week the longest window of thirty days has too few; the answer has their number and the window.
    """
    world = made("costs_spread", 9, 10, time_parsing.parse("2026-01-06T10:00"), timedelta(days=7))
    own = opened(
        tmp_path / "home",
        ("fills", as_fills(tmp_path / "live.csv", world.live)),
        ("backtest", as_fills(tmp_path / "b.csv", world.backtest)),
    )
    assert diagnosed(own).cause == "too_few_trades"
    assert "n=5; 20 required" in asked(own) and "all 5 trades of the last 30 days" in asked(own)


# In the database, by commands.


def ops(*arguments: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    code = main.main(list(arguments))
    out, err = capsys.readouterr()
    return code, out, err


def counts(out: str) -> list[tuple[str, int, int, int]]:
    return [(r["kind"], r["accepted"], r["duplicate"], r["rejected"]) for r in json.loads(out)]


def test_a_backtest_is_stored_once(tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """
    An import is accepted once, then duplicate, plain or gzip; a longer copy adds what is new.

    A rejected row is kept with its reason.
    """
    world = made("costs_spread", 1)
    path = as_trades(tmp_path / "b.json", world.backtest[:20])

    def command(name):
        return ops("import", "--kind", "backtest", str(name), "-o", "json", capsys=capsys)

    code, out, _ = command(path)
    assert (code, counts(out)) == (0, [("backtest", 40, 0, 0)])
    (tmp_path / "b.json.gz").write_bytes(gzip.compress(path.read_bytes()))
    assert counts(command(tmp_path / "b.json.gz")[1]) == [("backtest", 0, 40, 0)]
    assert counts(command(as_trades(tmp_path / "b.json", world.backtest))[1]) == [("backtest", 8, 40, 0)]
    rows = json.loads(path.read_text())
    (tmp_path / "wrong.json").write_text(json.dumps([*rows[:2], rows[3] | {"quantity": "lots"}]))
    code, out, _err = command(tmp_path / "wrong.json")
    assert (code, counts(out)) == (70, [("backtest", 0, 4, 1)])
    _, out, _ = ops("import", "--rejects", "-o", "json", capsys=capsys)
    assert [(r["source"], r["reasons"]) for r in json.loads(out)] == [
        ("wrong.json:3", ["quantity is 'lots'; a number was expected"])
    ]
    assert ops("pnl", capsys=capsys)[0] == 70  # A backtest alone has no live trades.


def test_the_newest_imported_backtest_counts(tmp_path: Path, home: Path) -> None:
    """
    A recomputed backtest replaces the stored one of the same trades, with or without trade IDs.

    The older one counts again when it is imported again.
    """
    world, other = made("costs_commission", 1), made("costs_commission", 1)
    for t in other.backtest:
        t["costs"] = (
            made("costs_commission", 1).live[int(t["id"][1:])]["costs"]
            * t["quantity"]
            / made("costs_commission", 1).live[int(t["id"][1:])]["quantity"]
        )
    for names in (True, False):
        own = opened(
            tmp_path / f"home{names}",
            ("fills", as_fills(tmp_path / "live.csv", world.live, names)),
            ("backtest", as_fills(tmp_path / "old.csv", world.backtest, names)),
        )
        assert diagnosed(own).cause == "costs_commission"
        importing.read_any(
            own.store, "desk", as_fills(tmp_path / "new.csv", other.backtest, names), "backtest", rules=own.rules
        )
        assert own.pnl(as_of=AT).as_json()["variance"]["n"] == 24 and not diagnosed(own).cause.startswith("costs_")
        again = importing.read_any(own.store, "desk", tmp_path / "old.csv", "backtest", rules=own.rules)
        assert (again.accepted, diagnosed(own).cause) == (48, "costs_commission")


def test_a_later_backtest_is_not_known_before(tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As known before its import there is no backtest; imported with the rows' own times it is known since then."""
    world = made("costs_spread", 1)
    own = opened(tmp_path / "home", ("backtest", as_fills(tmp_path / "b.csv", world.backtest)))
    importing.read_any(
        own.store, "desk", as_fills(tmp_path / "live.csv", world.live), "fills", rules=own.rules, known_at_ts=True
    )

    def view(home):
        return json.loads(
            ops(
                "--home",
                str(home),
                "status",
                "--as-of",
                "2026-03-10T15:30",
                "--known-at",
                "2026-03-10T15:30",
                "--window",
                "6h",
                "-o",
                "json",
                capsys=capsys,
            )[1]
        )["panels"]["pnl"]

    assert view(tmp_path / "home")["backtest_variance_pp"] is None
    replayed = desk.open("desk", tmp_path / "replayed")
    for kind, path in (("fills", "live.csv"), ("backtest", "b.csv")):
        importing.read_any(replayed.store, "desk", tmp_path / path, kind, rules=replayed.rules, known_at_ts=True)
    assert view(tmp_path / "replayed")["backtest_variance_pp"] > 5


def test_the_kind_of_a_file_is_guessed_by_its_content(
    tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """
    Trades with percentages are a backtest, trades with prices are live.

    If the name says otherwise, the kind is not guessed and has to be given.
    """
    world = made("costs_spread", 1)
    assert importing.kind_of(as_percents(tmp_path / "said.csv", world.backtest)) == "backtest"
    (tmp_path / "said.json").write_text(json.dumps([{"id": "t1", "net_pct": 3.5}]))
    assert importing.kind_of(tmp_path / "said.json") == "backtest"
    assert (
        importing.kind_of(as_fills(tmp_path / "march.csv", world.live))
        == importing.kind_of(as_trades(tmp_path / "march.json", world.live))
        == "fills"
    )
    code, _, err = ops("import", str(as_fills(tmp_path / "Backtest_march.csv", world.backtest)), capsys=capsys)
    assert code == 70 and "--kind backtest" in err and "--kind fills" in err
    assert ops("import", str(tmp_path / "said.csv"), "-o", "json", capsys=capsys)[0] == 0
    assert ops("import", "--kind", "backtest", str(tmp_path / "Backtest_march.csv"), capsys=capsys)[0] == 0


def test_an_old_backtest_starts_no_evaluation_of_its_years(tmp_path: Path) -> None:
    """Alerts are not evaluated for the years that a backtest covers."""
    world = made("costs_spread", 1, begins=time_parsing.parse("2020-03-10T09:30"))
    own = opened(tmp_path / "home", ("backtest", as_fills(tmp_path / "b.csv", world.backtest)))
    assert evaluator.data_range(own.store, "desk", 0, 2**55) is None
