"""Show what fills came to: in words, tables, JSON and a picture."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from functools import cached_property
from pathlib import Path
from typing import Any

from opslib.alerting import fill_figures
from opslib.alerting.verdicts import EXIT_CODES, Finding, worst
from opslib.dashboard import status
from opslib.dashboard.text_blocks import TextBlock, bullet_list, table
from opslib.foundation import clock, formatting, time_parsing
from opslib.foundation.clock import Window
from opslib.foundation.config.rules import Rule
from opslib.foundation.config.settings import SAMPLE_FILLS
from opslib.foundation.config.workspace import Workspace
from opslib.foundation.errors import ImportRefused, UsageError
from opslib.trading.pnl import costs as pnl_costs
from opslib.trading.pnl import pnl, reader
from opslib.trading.pnl.backtest_variance import TERMS, Pair
from opslib.trading.pnl.fills import CENT, ZERO, Fill, FillsFile
from opslib.trading.pnl.pnl import Order, Pnl
from opslib.trading.pnl.positions import Leg, Trade
from opslib.trading.pnl.store import FillStore

NO_BACKTEST = "no backtest to compare with"
NO_QUOTES = "no quotes in the file that would tell what was lost to the spread"
IN_FEES = "the file has commission and fees as one figure, which stands under fees"
A_PERCENT = (
    "the backtest told a percent of each trade and its costs, not its prices: what those costs do "
    "not explain stands under prices"
)
MERGED = (
    "nothing tells the market's middle when the live orders were sent, so that timing, slippage and "
    "fills cannot be told apart: they stand together under prices"
)
LABELS = {
    "size": "size",
    "timing": "timing",
    "slippage": "slippage",
    "fill": "fill price",
    "prices": "prices (not told apart)",
    "commission": "commission and fees",
}
WORST = 5


def _cents(value: Decimal | None) -> float | None:
    return None if value is None else float(value.quantize(CENT)) + 0.0


def _rounded(value: Decimal | float | None, digits: int = 2) -> float | None:
    return None if value is None else round(float(value), digits) + 0.0


def _largest_part(pair: Pair) -> str:
    return max(TERMS, key=lambda term: abs(getattr(pair.parts, term)))


def _usd(value: Decimal | None) -> str:
    return formatting.dollars(_cents(value))


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _local(at: datetime) -> str:
    return f"{at.astimezone(formatting.NEW_YORK):%Y-%m-%d %H:%M:%S}"


@dataclass(frozen=True)
class Waterfall:
    """What the difference to the backtest is made of, as a picture."""

    start: Decimal
    parts: dict[str, Decimal]
    end: Decimal
    pairs: int

    def __repr__(self) -> str:
        told = [
            [LABELS[term], _usd(value)] for term, value in self.parts.items() if value or term in ("size", "commission")
        ]
        return formatting.table(
            [f"of {self.pairs} trades", "dollars"],
            [["backtest net", _usd(self.start)], *told, ["live net", _usd(self.end)]],
        )

    def _ipython_display_(self) -> None:
        from opslib.dashboard import charts

        steps = [
            (LABELS[term].replace(" (", "\n(").replace(" and ", "\nand "), float(value))
            for term, value in self.parts.items()
            if value or term in ("size", "commission")
        ]
        charts.show(
            {"text/plain": repr(self)},
            lambda ax: charts.waterfall(
                ax, ("backtest\nnet", float(self.start)), steps, ("live\nnet", float(self.end))
            ),
            "from the backtest's result to the live one",
            f"From the backtest's net result to the live one, step by step. "
            f"{'; '.join(' '.join(line.split()) for line in repr(self).splitlines()[1:])}",
        )


@dataclass(frozen=True)
class PnlView:
    """
    What fills came to, and how far that is from what a backtest said.

    Attributes:
        pnl: The figures.
        book: Where the fills come from.
        theirs: The backtest's book; None where none was given.
        as_of: The moment that is meant: the last fill's where none was asked for.
        page: What the app's page says of the same window; None where nobody asked it.
        again: The same fills by another reading of costs.
    """

    pnl: Pnl
    book: FillsFile
    theirs: FillsFile | None
    as_of: datetime
    again: Callable[[pnl_costs.CostModel], Pnl]
    page: Mapping[str, Any] | None = None

    def counted(self) -> "PnlView":
        """Of the trades by which the rule judges: those of its window, or of more where it holds too few."""
        found = fill_figures.counted(self.pnl, self.as_of)
        first = min((t.exited for t in found.chosen), default=self.as_of) if found else self.as_of
        since = min(first - timedelta(microseconds=1), self.as_of - self.pnl.rule.of("fills").window)
        return replace(
            self,
            pnl=found or self.pnl.within(since, self.as_of),
            again=lambda how: self.again(how).within(since, self.as_of),
        )

    @cached_property
    def finding(self) -> Finding | None:
        """What the gaps to the backtest amount to; None where there is no backtest."""
        return fill_figures.finding(self.pnl)

    @property
    def refused(self) -> int:
        """How many rows could not be read, of both files."""
        return len(self.book.refused) + (len(self.theirs.refused) if self.theirs else 0)

    @property
    def verdict(self) -> str:
        """
        What everything adds up to.

        The backtest variance by its rule, where there is a backtest; without one, ok where every row was read. A row
        that was refused makes what is not critical unknown: the sums may lack it.
        """
        found = self.finding.verdict if self.finding else "ok"
        return worst([found, "unknown"] if self.refused else [found])

    @property
    def why(self) -> str:
        """What the verdict rests on, in one sentence."""
        told = self.finding.sentence if self.finding else NO_BACKTEST
        return told + (f"; {self.refused} rows were refused" if self.refused else "")

    @property
    def exit_code(self) -> int:
        """0 ok, 1 warning, 2 critical, 3 unknown."""
        return EXIT_CODES[self.verdict]

    @cached_property
    def orders(self) -> list[Order]:
        """What each order came to."""
        return pnl.orders(self.book.fills)

    @property
    def cash(self) -> Decimal:
        """All cash of the file: every fill and every other movement, after costs."""
        return sum((f.total for f in self.book.fills), ZERO) + sum((m.total for m in self.book.moneys), ZERO)

    @property
    def unknown(self) -> dict[str, str]:
        """Which figures cannot be known, and why."""
        found = {}
        if self.pnl.chosen and self.pnl.total("slippage") is None:
            found["slippage_usd"] = NO_QUOTES
        if self.pnl.chosen and self.pnl.total("commission") is None:
            found["commission_usd"] = IN_FEES
        if not self.pnl.wanted:
            found["variance"] = NO_BACKTEST
        elif self.pnl.parts.prices:
            found["timing, fill"] = A_PERCENT if all(not pair.priced for pair in self.pnl.pairs) else MERGED
        return found

    @property
    def answer(self) -> TextBlock:
        """What came of it?"""
        p = self.pnl
        options = [
            f"{_count(len(p.chosen), 'round trip')} of options; gross {_usd(p.total('gross'))}, commission "
            f"{_usd(p.total('commission'))}, fees {_usd(p.total('fees'))}, slippage "
            f"{_usd(p.total('slippage'))}"
            f"{', in the prices' if p.chosen and all(r.inside for _, r in p.results) else ''}, net "
            f"{_usd(p.total('net'))}",
            f"mean of the trades: gross {formatting.number(_rounded(p.mean('gross_pct')), '%', 2)}, net "
            f"{formatting.number(_rounded(p.mean('net_pct')), '%', 2)}; of all premium together: net "
            f"{formatting.number(_rounded(p.weighted('net')), '%', 2)}",
        ]
        lines = [
            *(options if p.chosen or not p.shares else []),
            *filter(None, [p.shares_told]),
            *(
                f"{name}: not known, since there are {why}" if why is NO_QUOTES else f"{name}: not known; {why}"
                for name, why in self.unknown.items()
                if name != "variance"
            ),
            *self.book.notes,
        ]
        if p.trips.before:
            lines.append(
                f"{len(p.trips.before)} closed, opened before this file: "
                f"{_usd(sum((f.total for f in p.trips.before), ZERO))} of cash, no round trip"
            )
        if p.trips.partial:
            gross, net = self._realised
            lines.append(
                f"{len(p.trips.partial)} partly closed, which no figure above holds: realised {_usd(gross)}, "
                f"costs {_usd(gross - net)}, net {_usd(net)}"
            )
        if p.trips.open:
            lines.append(f"{_count(len(p.trips.open), 'position')} still held when the file ends")
        return bullet_list(f"{self.book.source}: {self.verdict} ({self.why})", lines)

    @property
    def kinds(self) -> TextBlock:
        """What is in the file, and how much cash is it of?"""
        rows: dict[str, list[Any]] = {}
        for fill in self.book.fills:
            rows.setdefault(
                fill.instrument if fill.kind in ("trade", "delivery") else f"{fill.instrument}, {fill.kind}", []
            ).append(fill.total)
        for money in self.book.moneys:
            rows.setdefault(money.kind or "other cash", []).append(money.total)
        told = [[kind, str(len(values)), _usd(sum(values, ZERO))] for kind, values in sorted(rows.items())]
        return table(
            "What the file holds",
            ["kind", "rows", "cash after costs"],
            [
                *told,
                [
                    "all together",
                    str(len(self.book.fills) + len(self.book.moneys)),
                    _usd(sum((sum(v, ZERO) for v in rows.values()), ZERO)),
                ],
            ],
        )

    @property
    def by_order(self) -> TextBlock:
        """What did the dearest orders cost, each as a whole?"""
        paid = pnl.orders(f for f in self.book.fills if f.paid)
        dear = sorted(paid, key=lambda o: (o.commission or ZERO) + o.fees)[:WORST]
        rows = [
            [
                o.name,
                _local(o.at),
                str(o.fills),
                str(o.legs),
                formatting.number(float(o.contracts)),
                _usd(o.value),
                _usd(o.commission),
                _usd(o.fees),
                _usd(o.total),
                "not told" if o.model is None else _usd(o.model),
            ]
            for o in dear
        ]
        if not rows:
            return self._by_trade
        return table(
            f"Costs by order; the {len(rows)} dearest of {len(paid)}",
            [
                "order",
                "at (New York)",
                "fills",
                "legs",
                "contracts",
                "value",
                "commission",
                "fees",
                "total",
                "published rates",
            ],
            rows,
        )

    @property
    def _by_trade(self) -> TextBlock:
        """Of quotes, which nobody traded at: what each trade would have cost by the model."""
        dear = sorted(self.pnl.results, key=lambda r: -(r[1].costs + (r[1].slippage or ZERO)))[:WORST]

        def share(r: pnl_costs.Result) -> str:
            return (
                formatting.number(_rounded((r.costs + (r.slippage or ZERO)) / r.base * 100), "%", 2)
                if r.base
                else formatting.UNKNOWN
            )

        rows = [
            [
                t.name,
                t.told,
                formatting.number(float(sum((leg.quantity for leg in t.legs), ZERO))),
                _usd(r.commission),
                _usd(r.slippage),
                share(r),
            ]
            for t, r in dear
        ]
        return table(
            f"No costs were paid, these are quotes; what the {len(rows)} dearest of {len(self.pnl.chosen)} "
            f"trades would have cost",
            ["trade", "what", "contracts", "commission", "slippage", "of the premium"],
            rows,
            "no trade",
        )

    @property
    def readings(self) -> TextBlock:
        """What do the same trades come to by the three readings of costs?"""
        rows = []
        for model in pnl_costs.PRESETS.values():
            p = self.again(model)
            variance = p.points
            rows.append(
                [
                    model.name,
                    _usd(p.total("gross")),
                    _usd(p.total("commission")),
                    _usd(p.total("slippage")),
                    _usd(p.total("net")),
                    formatting.number(_rounded(p.mean("net_pct")), "%", 2),
                    formatting.number(_rounded(variance.mean if variance else None), "points", 2),
                    judged.verdict if (judged := fill_figures.finding(p)) else "not judged",
                ]
            )
        return table(
            "The same trades by three readings",
            ["costs", "gross", "commission", "slippage", "net", "mean net", "mean gap", "verdict"],
            rows,
        )

    @property
    def reconciled(self) -> TextBlock:
        """What does the app's page say of the same hours, and why does it differ?"""
        if self.page is None:
            return bullet_list("The app's page was not asked", [])
        theirs, app = self.page, self.again(pnl_costs.APP)

        def percent(v: Decimal | None) -> str:
            return formatting.number(_rounded(v), "%", 2)

        def money(v: Decimal | None) -> str:
            return formatting.dollars(_rounded(v))

        p = self.pnl
        gaps = app.points
        rows = [
            [
                "trades",
                formatting.number(theirs["trades"]),
                str(len(app.chosen)),
                str(len(p.chosen)),
                "the page counts calls of its calculator, and forgets what came between its last post and its unload",
            ],
            [
                "mean gross",
                percent(theirs["gross_pct"]),
                percent(app.mean("gross_pct")),
                percent(p.mean("gross_pct")),
                "the same prices",
            ],
            [
                "mean net",
                percent(theirs["net_pct"]),
                percent(app.mean("net_pct")),
                percent(p.mean("net_pct")),
                "the page charges the whole spread at each end, and sets the result against entry and entry costs",
            ],
            [
                "commission",
                money(theirs["commission_usd"]),
                money(app.total("commission")),
                money(p.total("commission")),
                "a cent of fees more for each contract and side",
            ],
            [
                "slippage",
                money(theirs["slippage_usd"]),
                money(app.total("slippage")),
                money(p.total("slippage")),
                "the whole spread at each end, less 2 %; ours is half of it",
            ],
            [
                "backtest variance",
                formatting.number(_rounded(theirs["backtest_variance_pp"]), "points", 2),
                formatting.number(_rounded(gaps.mean if gaps else None), "points", 2),
                formatting.number(_rounded(p.points.mean if p.points else None), "points", 2),
                "the page has its last few trades, ours all of the window, paired one by one",
            ],
        ]
        return table(
            "The page's figures beside ours",
            ["figure", "the page", "ours, by the page's model", f"ours, {p.model.name}", "why they differ"],
            rows,
        )

    @property
    def variance(self) -> TextBlock:
        """How far is live from the backtest, and could that be chance?"""
        p, spread, money = self.pnl, self.pnl.points, self.pnl.dollars
        if spread is None or money is None:
            return bullet_list("Backtest variance", [self.why])

        def between(low: float | None, high: float | None, told: Callable[[float | None], str]) -> str:
            return "unknown" if low is None or high is None else f"{told(low)} to {told(high)}"

        def points(v: Decimal | float | None) -> str:
            return formatting.number(_rounded(v), "points", 2)

        def dollars(v: Decimal | float | None) -> str:
            return formatting.dollars(_rounded(v))

        confidence = formatting.ratio(p.rule.of("fills").confidence, 0)
        rows = [
            ["trades paired", str(spread.n), str(money.n)],
            ["mean (backtest - live)", points(spread.mean), dollars(money.mean)],
            ["mean, whatever its sign", points(spread.absolute), dollars(money.absolute)],
            [
                f"the true mean lies, {confidence}",
                between(spread.low, spread.high, points),
                between(money.low, money.high, dollars),
            ],
            ["standard deviation of the trades", points(spread.deviation), dollars(money.deviation)],
            ["weighted by premium", points(p.weighted_pp), ""],
            ["all together", "", dollars(sum((pair.gap_usd for pair in p.pairs), ZERO))],
        ]
        return table(
            f"{self.finding.severity or self.finding.verdict}: {self.finding.sentence}"
            if self.finding
            else "Backtest variance",
            ["figure", "points", "dollars"],
            rows,
        )

    @property
    def decomposition(self) -> "Waterfall | TextBlock":
        """What is the difference made of?"""
        p = self.pnl
        if not p.pairs:
            return bullet_list(
                "What the difference is made of", [NO_BACKTEST if not p.wanted else "no trade is matched"]
            )
        live = sum((pair.result.net for pair in p.pairs), ZERO)
        parts = p.parts.in_cents()
        return Waterfall(live.quantize(CENT) - sum(parts.values(), ZERO), parts, live.quantize(CENT), len(p.pairs))

    @property
    def worst(self) -> TextBlock:
        """Which trades are furthest below the backtest?"""
        far = sorted(self.pnl.pairs, key=lambda pair: -pair.gap_usd)[:WORST]
        rows = [
            [
                pair.live.name,
                pair.live.told,
                _local(pair.live.exited),
                formatting.number(_rounded(pair.backtest_net_pct), "%", 2),
                formatting.number(_rounded(pair.result.net_pct), "%", 2),
                formatting.number(_rounded(pair.gap_pp), "points", 2),
                _usd(pair.gap_usd),
                LABELS[_largest_part(pair)],
            ]
            for pair in far
        ]
        return table(
            f"The {len(rows)} trades furthest below the backtest",
            ["trade", "what", "closed (New York)", "backtest", "live", "gap", "gap in dollars", "mostly"],
            rows,
            NO_BACKTEST if not self.pnl.wanted else "no trade is matched",
        )

    @property
    def unmatched(self) -> TextBlock:
        """Which trades has only one of the two?"""
        names = {"live": "made, and not in the backtest", "backtest": "in the backtest, and never made"}
        rows = [
            [names[where], str(len(found)), _usd(self._net(found)), ", ".join(t.name for t in found[:WORST])]
            for where, found in self.pnl.unmatched.items()
            if found
        ]
        if only := self.pnl.only_said:
            rows.append(
                [
                    "a percent of the backtest, and never made",
                    str(len(only)),
                    formatting.UNKNOWN,
                    ", ".join(only[:WORST]),
                ]
            )
        return table(
            "Trades without a partner",
            ["which", "trades", "net", "the first of them"],
            rows,
            "none" if self.pnl.wanted else NO_BACKTEST,
        )

    @property
    def rejected(self) -> TextBlock:
        """Which rows could not be read, and why?"""
        rows = [
            [b.source, str(r.row), "; ".join(r.reasons)] for b in (self.book, self.theirs) if b for r in b.refused[:200]
        ]
        return table(f"Rows refused: {self.refused}", ["file", "row", "why"], rows, "none")

    @property
    def _realised(self) -> tuple[Decimal, Decimal]:
        """What the closed legs of partly closed spreads came to, before and after costs."""
        found = [
            pnl_costs.result(replace(t, legs=tuple(leg for leg in t.legs if leg.quantity)), self.pnl.model)
            for t in self.pnl.trips.partial
        ]
        return sum((r.gross for r in found), ZERO), sum((r.net for r in found), ZERO)

    def _net(self, found: list[Trade]) -> Decimal:
        return sum((pnl_costs.result(t, self.pnl.model).net for t in found), ZERO)

    def __repr__(self) -> str:
        b = self.book
        source = (
            f"{b.layout}: {len(b.fills)} fills of {len(self.orders)} orders, {len(b.moneys)} other "
            f"movements of cash, up to {formatting.moment(self.as_of)}; costs: {self.pnl.model.name}"
        )
        parts = [
            self.answer.plain,
            source,
            self.kinds.plain,
            self.by_order.plain if self.pnl.chosen or any(f.paid for f in self.book.fills) else "",
            self.variance.plain if self.pnl.wanted else "",
            repr(self.decomposition) if self.pnl.pairs else "",
            self.unmatched.plain if any(self.pnl.unmatched.values()) else "",
            self.rejected.plain if self.refused else "",
        ]
        return "\n\n".join(p for p in parts if p)

    def as_json(self) -> dict[str, Any]:
        """
        Everything as ``ops pnl -o json`` shows it: money in dollars with two decimals, costs above 0; None is unknown,
        and `unknown` says why.
        """
        p, trips, judged = self.pnl, self.pnl.trips, self.finding
        spread, money, parts = p.points, p.dollars, p.parts.in_cents()
        merged = bool(p.parts.prices)
        stock = [r for _, r in p.shares]
        known = [r for _, r in p.results if r.base]
        return {
            "as_of": formatting.iso(self.as_of),
            "source": self.book.source,
            "layout": self.book.layout,
            "costs": p.model.name,
            "fills": len(self.book.fills),
            "orders": len(self.orders),
            "trades": len(p.chosen),
            "open": len(trips.open),
            "rejected": self.refused,
            "gross_usd": _cents(p.total("gross")),
            "commission_usd": _cents(p.total("commission")),
            "fees_usd": _cents(p.total("fees")),
            "slippage_usd": _cents(p.total("slippage")),
            "net_usd": _cents(p.total("net")),
            "gross_pct": _rounded(p.mean("gross_pct"), 4),
            "net_pct": _rounded(p.mean("net_pct"), 4),
            "net_weighted_pct": _rounded(p.weighted("net"), 4),
            "base_usd": _cents(sum((r.base for r in known if r.base), ZERO)) if known else None,
            "bases": dict(Counter(r.base_is for _, r in p.results)),
            "variance": None
            if not p.wanted
            else {
                "n": spread.n if spread else 0,
                "mean_pp": _rounded(spread.mean if spread else None, 4),
                "absolute_pp": _rounded(spread.absolute if spread else None, 4),
                "interval_pp": [_rounded(spread.low, 4), _rounded(spread.high, 4)] if spread else None,
                "deviation_pp": _rounded(spread.deviation if spread else None, 4),
                "weighted_pp": _rounded(p.weighted_pp, 4),
                "mean_usd": _rounded(money.mean if money else None),
                "absolute_usd": _rounded(money.absolute if money else None),
                "interval_usd": [_rounded(money.low), _rounded(money.high)] if money else None,
                "total_usd": _cents(sum((pair.gap_usd for pair in p.pairs), ZERO)),
                "days": len({pair.live.entered.astimezone(formatting.NEW_YORK).date() for pair in p.pairs}),
                "verdict": judged.verdict if judged else "unknown",
                "severity": judged.severity if judged else None,
                "limit": judged.limit if judged else None,
                "why": judged.sentence if judged else "",
            },
            "decomposition": None
            if not p.pairs
            else {
                term: None if merged and term in ("timing", "slippage", "fill") and not parts[term] else _cents(value)
                for term, value in parts.items()
            }
            | {"sum": _cents(sum(parts.values(), ZERO)), "difference": _cents(p.parts.sum)},
            "unmatched": {
                where: {
                    "trades": len(found) + len(more),
                    "net_usd": None if more else _cents(self._net(found)),
                    "names": [*(t.name for t in found), *more],
                }
                for where, found in p.unmatched.items()
                for more in [p.only_said if where == "backtest" else []]
            },
            "before": {
                "fills": len(trips.before),
                "cash_usd": _cents(sum((f.total for f in trips.before), ZERO)),
                "why": "closed, opened before this file",
            },
            "partial": {
                "trades": len(trips.partial),
                **dict(zip(("gross_usd", "net_usd"), map(_cents, self._realised))),
            },
            "realised": {
                "gross_usd": _cents((p.total("gross") or ZERO) + sum((r.gross for r in stock), self._realised[0])),
                "net_usd": _cents((p.total("net") or ZERO) + sum((r.net for r in stock), self._realised[1])),
                "of": "trades, partial and stock",
            },
            "stock": {
                "trades": len(stock),
                "gross_usd": _cents(sum((r.gross for r in stock), ZERO)),
                "net_usd": _cents(sum((r.net for r in stock), ZERO)),
            },
            "cash": {
                "fills_usd": _cents(sum((f.total for f in self.book.fills), ZERO)),
                "other_usd": _cents(sum((m.total for m in self.book.moneys), ZERO)),
                "total_usd": _cents(self.cash),
                "other": dict(sorted(self._moneys().items())),
            },
            "orders_list": [
                {
                    "order": o.name,
                    "at": formatting.iso(o.at),
                    "fills": o.fills,
                    "legs": o.legs,
                    "contracts": float(o.contracts),
                    "value_usd": _cents(o.value),
                    "commission_usd": _cents(o.commission),
                    "fees_usd": _cents(o.fees),
                    "total_usd": _cents(o.total),
                }
                for o in self.orders
            ],
            "trades_list": [_trade_json(t, r) for t, r in p.results],
            "open_list": [
                {
                    "symbol": leg.symbol,
                    "side": "long" if leg.side > 0 else "short",
                    "quantity": float(leg.left),
                    "entered": formatting.iso(leg.entered),
                    "value_usd": _cents(leg.open_value),
                }
                for leg in trips.open
            ],
            "rejected_rows": [
                {"file": b.source, "row": r.row, "reasons": list(r.reasons)}
                for b in (self.book, self.theirs)
                if b
                for r in b.refused
            ],
            "notes": self.book.notes,
            "unknown": self.unknown,
            "verdict": self.verdict,
            "why": self.why,
        }

    def _moneys(self) -> dict[str, float | None]:
        sums: dict[str, Decimal] = {}
        for money in self.book.moneys:
            sums[money.kind] = sums.get(money.kind, ZERO) + money.total
        return {kind: _cents(total) for kind, total in sums.items()}


def _trade_json(trade: Trade, result: pnl_costs.Result) -> dict[str, Any]:
    return {
        "trade": trade.name,
        "what": trade.told,
        "underlying": trade.underlying,
        "entered": formatting.iso(trade.entered),
        "exited": formatting.iso(trade.exited),
        "partial": trade.partial,
        "legs": [_leg_json(leg) for leg in trade.legs],
        "gross_usd": _cents(result.gross),
        "commission_usd": _cents(result.commission),
        "fees_usd": _cents(result.fees),
        "slippage_usd": _cents(result.slippage),
        "net_usd": _cents(result.net),
        "gross_pct": _rounded(result.gross_pct, 4),
        "net_pct": _rounded(result.net_pct, 4),
        "base_usd": _cents(result.base),
        "base_is": result.base_is,
    }


def _leg_json(leg: Leg) -> dict[str, Any]:
    prices = [_rounded(leg.mean(units), 6) for units in (leg.entry_units, leg.exit_units)]
    return {
        "symbol": leg.symbol,
        "instrument": leg.instrument,
        "side": "long" if leg.side > 0 else "short",
        "quantity": float(leg.quantity),
        "multiplier": None if leg.multiplier is None else float(leg.multiplier),
        "entry_price": prices[0],
        "exit_price": prices[1],
        "ends": list(dict.fromkeys(leg.ends)),
        "formerly": leg.names,
    }


def model(name: str) -> pnl_costs.CostModel:
    """A reading of costs by its name."""
    if name not in pnl_costs.PRESETS:
        raise UsageError(
            f"costs are {name!r}; one of {', '.join(pnl_costs.PRESETS)} was "
            f"wanted.{formatting.nearest(name, pnl_costs.PRESETS)}"
        )
    return pnl_costs.PRESETS[name]


def told(
    book: FillsFile,
    rule: Rule,
    reading: str = "real",
    theirs: FillsFile | None = None,
    as_of: datetime | None = None,
    since: datetime | None = None,
    page: Mapping[str, Any] | None = None,
) -> PnlView:
    """
    What did the fills of a book come to?

    Args:
        reading: How trading is charged: real, guide, app.
        theirs: The backtest's book.
        as_of: Only what happened up to then; None is everything.
        since: Only round trips that ended after it; None is all.
        page: What the app's page says of the same window.
    """
    if as_of is not None:
        book = replace(
            book, fills=[f for f in book.fills if f.at <= as_of], moneys=[m for m in book.moneys if m.at <= as_of]
        )
    fills: list[Fill] = book.fills

    def again(how: pnl_costs.CostModel) -> Pnl:
        found = pnl.of(
            fills,
            rule,
            how,
            None if theirs is None else theirs.fills,
            None if theirs is None else theirs.promises,
            book.promises,
        )
        return found if since is None else found.within(since)

    last = max((f.at for f in fills), default=None) or max((m.at for m in book.moneys), default=None)
    moment = as_of or last
    assert moment
    return PnlView(again(model(reading)), book, theirs, moment, again, page)


def of_file(
    path: Path,
    rule: Rule,
    reading: str = "real",
    backtest: Path | None = None,
    as_of: datetime | None = None,
    since: datetime | None = None,
    page: Mapping[str, Any] | None = None,
) -> PnlView:
    """
    What did the fills of a file come to?

    Raises:
        ImportRefused: A file is none of fills, or not one row of it can be read.
    """
    model(reading)
    book = reader.read(path)
    if backtest:
        return told(replace(book, promises={}), rule, reading, reader.read(backtest, backtest=True), as_of, since, page)
    return told(book, rule, reading, None, as_of, since, page)


def of_store(
    filings: FillStore,
    rule: Rule,
    reading: str = "real",
    backtest: Path | None = None,
    as_of: datetime | None = None,
    since: datetime | None = None,
    page: Mapping[str, Any] | None = None,
    *,
    known_at: datetime | None,
    now: datetime,
) -> PnlView:
    """
    What did the fills come to that were imported, beside the backtest's that was named or imported?

    Raises:
        ImportRefused: There is none.
    """
    model(reading)
    end = as_of or now
    known_us = clock.micros(known_at) if known_at else None
    known = filings.upto(clock.micros(end), known_us)
    if not known.fills:
        raise ImportRefused(
            f"no fill was imported for {filings.app} up to {formatting.moment(end)}. Name a file, or: ops import "
            f"FILE --kind fills."
        )
    book = FillsFile(
        "imported fills",
        "the store",
        fills=known.fills,
        moneys=filings.moneys(clock.micros(end), known_us),
        promises={} if backtest else known.beside,
    )
    theirs = reader.read(backtest, backtest=True) if backtest else None
    if theirs is None and (known.backtest or known.promises):
        theirs = FillsFile(
            "imported backtest", "the store", backtest=True, fills=known.backtest or [], promises=known.promises
        )
    return told(book, rule, reading, theirs, as_of, since, page)


def accuracy_of(
    workspace: Workspace,
    fills: str | Path | None = None,
    backtest: str | Path | None = None,
    costs: str = "real",
    as_of: str | datetime | None = None,
    window: str = "",
    known_at: str | datetime | None = None,
) -> PnlView:
    """
    What trades came to, and how far that is from the backtest.

    Args:
        fills: A file: tastytrade's export, the app's trades, plain CSV; empty is what was imported (of the demo, its
            script's trades).
        backtest: The backtest's trades, in any of the same forms; empty is what stands beside the trades.
        costs: How trading is charged: ``real``, ``guide``, ``app``.
        as_of: Only what happened up to then; empty is everything.
        window: Only round trips that ended so long before `as_of`, and what the app's page says of the same time.
        known_at: Of what was imported, only what was known by then.

    Raises:
        ImportRefused: A file is none of fills, or nothing was imported.
    """
    end, rule = time_parsing.instant_of(as_of), workspace.rules["backtest_variance"]
    asked = Window.before(end or workspace.now(), time_parsing.parse_span(window)) if window else None
    page = status.status_of(workspace, asked.end, window, known_at).page_pnl if asked else None
    span: dict[str, Any] = {"as_of": asked.end if asked else end, "since": asked.start if asked else None, "page": page}
    own = workspace.settings.home / SAMPLE_FILLS
    if fills:
        path = Path(fills)
    elif own.exists():
        path = own
    else:
        path = None
    theirs = Path(backtest) if backtest else None
    if path:
        return of_file(path, rule, costs, theirs, **span)
    return of_store(
        FillStore(workspace.store, workspace.settings.app),
        rule,
        costs,
        theirs,
        known_at=time_parsing.instant_of(known_at),
        now=workspace.now(),
        **span,
    )
