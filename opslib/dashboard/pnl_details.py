"""Show the result of fills in text, tables, JSON and a chart."""

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
NO_QUOTES = "the file has no quotes, so the cost of the spread is unknown"
IN_FEES = "the file has commission and fees as one figure, which is shown under fees"
A_PERCENT = (
    "the backtest has only a percentage and the costs of each trade, not its prices: the rest of the difference is "
    "shown under prices"
)
MERGED = (
    "the mid prices at the live orders are unknown, so timing, slippage and fills cannot be separated: they are "
    "shown together under prices"
)
LABELS = {
    "size": "size",
    "timing": "timing",
    "slippage": "slippage",
    "fill": "fill price",
    "prices": "prices (not separated)",
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
    """A chart of the parts of the difference to the backtest."""

    start: Decimal
    parts: dict[str, Decimal]
    end: Decimal
    pairs: int

    def __repr__(self) -> str:
        rows = [
            [LABELS[term], _usd(value)] for term, value in self.parts.items() if value or term in ("size", "commission")
        ]
        return formatting.table(
            [f"{self.pairs} paired trades", "dollars"],
            [["backtest net", _usd(self.start)], *rows, ["live net", _usd(self.end)]],
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
            "from the backtest result to the live result",
            f"From the backtest net result to the live net result, step by step. "
            f"{'; '.join(' '.join(line.split()) for line in repr(self).splitlines()[1:])}",
        )


@dataclass(frozen=True)
class PnlView:
    """
    The result of fills, and its difference to a backtest.

    Attributes:
        pnl: The figures.
        book: The source of the fills.
        theirs: The backtest's trades; None where none were given.
        as_of: The moment of the figures; by default that of the last fill.
        page: The page's figures of the same window; None where they were not requested.
        again: Computes the same fills with another cost model.
    """

    pnl: Pnl
    book: FillsFile
    theirs: FillsFile | None
    as_of: datetime
    again: Callable[[pnl_costs.CostModel], Pnl]
    page: Mapping[str, Any] | None = None

    def counted(self) -> "PnlView":
        """Limit the view to the trades that the rule evaluates: those of its window, or more if there are too few."""
        found = fill_figures.counted_trades(self.pnl, self.as_of)
        first = min((t.exited for t in found.chosen), default=self.as_of) if found else self.as_of
        since = min(first - timedelta(microseconds=1), self.as_of - self.pnl.rule.of("fills").window)
        return replace(
            self,
            pnl=found or self.pnl.within(since, self.as_of),
            again=lambda how: self.again(how).within(since, self.as_of),
        )

    @cached_property
    def finding(self) -> Finding | None:
        """The evaluation of the backtest variance; None without a backtest."""
        return fill_figures.finding(self.pnl)

    @property
    def refused(self) -> int:
        """The number of rows of both files that could not be read."""
        return len(self.book.refused) + (len(self.theirs.refused) if self.theirs else 0)

    @property
    def verdict(self) -> str:
        """
        The overall verdict.

        With a backtest, that of the variance rule; without one, ok if every row was read. A rejected row makes a
        verdict that is not critical unknown, because the sums may be incomplete.
        """
        found = self.finding.verdict if self.finding else "ok"
        return worst([found, "unknown"] if self.refused else [found])

    @property
    def why(self) -> str:
        """The reason for the verdict, in one sentence."""
        reason = self.finding.sentence if self.finding else NO_BACKTEST
        return reason + (f"; {self.refused} rows were rejected" if self.refused else "")

    @property
    def exit_code(self) -> int:
        """0 ok, 1 warning, 2 critical, 3 unknown."""
        return EXIT_CODES[self.verdict]

    @cached_property
    def orders(self) -> list[Order]:
        """The result of each order."""
        return pnl.orders(self.book.fills)

    @property
    def cash(self) -> Decimal:
        """All cash of the file after costs: fills and other cash movements."""
        return sum((f.total for f in self.book.fills), ZERO) + sum((m.total for m in self.book.moneys), ZERO)

    @property
    def unknown(self) -> dict[str, str]:
        """The figures that are unknown, and why."""
        found = {}
        if self.pnl.chosen and self.pnl.total("slippage") is None:
            found["slippage_usd"] = NO_QUOTES
        if self.pnl.chosen and self.pnl.total("commission") is None:
            found["commission_usd"] = IN_FEES
        if not self.pnl.has_backtest:
            found["variance"] = NO_BACKTEST
        elif self.pnl.parts.prices:
            found["timing, fill"] = A_PERCENT if all(not pair.priced for pair in self.pnl.pairs) else MERGED
        return found

    @property
    def summary(self) -> TextBlock:
        """The result in a few lines."""
        p = self.pnl
        options = [
            f"{_count(len(p.chosen), 'round trip')} in options; gross {_usd(p.total('gross'))}, commission "
            f"{_usd(p.total('commission'))}, fees {_usd(p.total('fees'))}, slippage "
            f"{_usd(p.total('slippage'))}"
            f"{', included in the prices' if p.chosen and all(r.inside for _, r in p.results) else ''}, net "
            f"{_usd(p.total('net'))}",
            f"mean per trade: gross {formatting.number(_rounded(p.mean('gross_pct')), '%', 2)}, net "
            f"{formatting.number(_rounded(p.mean('net_pct')), '%', 2)}; weighted by premium: net "
            f"{formatting.number(_rounded(p.weighted('net')), '%', 2)}",
        ]
        lines = [
            *(options if p.chosen or not p.shares else []),
            *filter(None, [p.shares_sentence]),
            *(f"{name}: unknown; {why}" for name, why in self.unknown.items() if name != "variance"),
            *self.book.notes,
        ]
        if p.trips.before:
            lines.append(
                f"{len(p.trips.before)} closing fills of positions opened before this file: "
                f"{_usd(sum((f.total for f in p.trips.before), ZERO))} of cash, not counted as round trips"
            )
        if p.trips.partial:
            gross, net = self._realised
            lines.append(
                f"{len(p.trips.partial)} partly closed, not included above: realised {_usd(gross)}, "
                f"costs {_usd(gross - net)}, net {_usd(net)}"
            )
        if p.trips.open:
            lines.append(f"{_count(len(p.trips.open), 'position')} still open at the end of the file")
        return bullet_list(f"{self.book.source}: {self.verdict} ({self.why})", lines)

    @property
    def kinds(self) -> TextBlock:
        """The contents of the file by kind, with their cash."""
        rows: dict[str, list[Any]] = {}
        for fill in self.book.fills:
            rows.setdefault(
                fill.instrument if fill.kind in ("trade", "delivery") else f"{fill.instrument}, {fill.kind}", []
            ).append(fill.total)
        for money in self.book.moneys:
            rows.setdefault(money.kind or "other cash", []).append(money.total)
        listed = [[kind, str(len(values)), _usd(sum(values, ZERO))] for kind, values in sorted(rows.items())]
        return table(
            "Contents of the file",
            ["kind", "rows", "cash after costs"],
            [
                *listed,
                [
                    "total",
                    str(len(self.book.fills) + len(self.book.moneys)),
                    _usd(sum((sum(v, ZERO) for v in rows.values()), ZERO)),
                ],
            ],
        )

    @property
    def by_order(self) -> TextBlock:
        """The costs of the most expensive orders, each as a whole."""
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
                "unknown" if o.model is None else _usd(o.model),
            ]
            for o in dear
        ]
        if not rows:
            return self._by_trade
        return table(
            f"Costs by order; the {len(rows)} most expensive of {len(paid)}",
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
        """The costs that the model gives for quotes, which were not traded."""
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
                t.label,
                formatting.number(float(sum((leg.quantity for leg in t.legs), ZERO))),
                _usd(r.commission),
                _usd(r.slippage),
                share(r),
            ]
            for t, r in dear
        ]
        return table(
            f"Estimated costs (these are quotes, no costs were paid); the {len(rows)} most expensive of "
            f"{len(self.pnl.chosen)} trades",
            ["trade", "description", "contracts", "commission", "slippage", "share of premium"],
            rows,
            "no trades",
        )

    @property
    def readings(self) -> TextBlock:
        """The result of the same trades with the three cost models."""
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
                    found.verdict if (found := fill_figures.finding(p)) else "not evaluated",
                ]
            )
        return table(
            "The same trades with three cost models",
            ["cost model", "gross", "commission", "slippage", "net", "mean net", "mean variance", "verdict"],
            rows,
        )

    @property
    def reconciled(self) -> TextBlock:
        """The page's figures of the same window, and why they differ."""
        if self.page is None:
            return bullet_list("Not compared with the app's page: no window was given", [])
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
                "the page counts calls of its calculator, and loses those between its last post and its unload",
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
                "the page charges the whole spread at each end, and divides by the entry value plus entry costs",
            ],
            [
                "commission",
                money(theirs["commission_usd"]),
                money(app.total("commission")),
                money(p.total("commission")),
                "the page lacks one cent of fees for each contract and side",
            ],
            [
                "slippage",
                money(theirs["slippage_usd"]),
                money(app.total("slippage")),
                money(p.total("slippage")),
                "the page: the whole spread at each end, less 2 %; fills: half of it",
            ],
            [
                "backtest variance",
                formatting.number(_rounded(theirs["backtest_variance_pp"]), "points", 2),
                formatting.number(_rounded(gaps.mean if gaps else None), "points", 2),
                formatting.number(_rounded(p.points.mean if p.points else None), "points", 2),
                "the page: its last few trades; fills: all of the window, paired one by one",
            ],
        ]
        return table(
            "The page's figures and those of the fills",
            ["figure", "page", "fills, page's cost model", f"fills, {p.model.name}", "why they differ"],
            rows,
        )

    @property
    def variance(self) -> TextBlock:
        """The difference between live and backtest, with its confidence interval."""
        p, spread, money = self.pnl, self.pnl.points, self.pnl.dollars
        if spread is None or money is None:
            return bullet_list("Backtest variance", [self.why])

        def between(low: float | None, high: float | None, text: Callable[[float | None], str]) -> str:
            return "unknown" if low is None or high is None else f"{text(low)} to {text(high)}"

        def points(v: Decimal | float | None) -> str:
            return formatting.number(_rounded(v), "points", 2)

        def dollars(v: Decimal | float | None) -> str:
            return formatting.dollars(_rounded(v))

        confidence = formatting.ratio(p.rule.of("fills").confidence, 0)
        rows = [
            ["paired trades", str(spread.n), str(money.n)],
            ["mean (backtest - live)", points(spread.mean), dollars(money.mean)],
            ["mean of absolute values", points(spread.absolute), dollars(money.absolute)],
            [
                f"{confidence} confidence interval of the mean",
                between(spread.low, spread.high, points),
                between(money.low, money.high, dollars),
            ],
            ["standard deviation", points(spread.deviation), dollars(money.deviation)],
            ["weighted by premium", points(p.weighted_pp), ""],
            ["total", "", dollars(sum((pair.gap_usd for pair in p.pairs), ZERO))],
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
        """The parts of the difference to the backtest."""
        p = self.pnl
        if not p.pairs:
            return bullet_list(
                "Parts of the difference", [NO_BACKTEST if not p.has_backtest else "no trade is matched"]
            )
        live = sum((pair.result.net for pair in p.pairs), ZERO)
        parts = p.parts.in_cents()
        return Waterfall(live.quantize(CENT) - sum(parts.values(), ZERO), parts, live.quantize(CENT), len(p.pairs))

    @property
    def worst(self) -> TextBlock:
        """The trades furthest below the backtest."""
        far = sorted(self.pnl.pairs, key=lambda pair: -pair.gap_usd)[:WORST]
        rows = [
            [
                pair.live.name,
                pair.live.label,
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
            ["trade", "description", "closed (New York)", "backtest", "live", "variance", "in dollars", "main part"],
            rows,
            NO_BACKTEST if not self.pnl.has_backtest else "no trade is matched",
        )

    @property
    def unmatched(self) -> TextBlock:
        """Trades that are only live or only in the backtest."""
        names = {"live": "live, not in the backtest", "backtest": "in the backtest, not live"}
        rows = [
            [names[where], str(len(found)), _usd(self._net(found)), ", ".join(t.name for t in found[:WORST])]
            for where, found in self.pnl.unmatched.items()
            if found
        ]
        if only := self.pnl.only_in_backtest:
            rows.append(
                [
                    "in the backtest as a percentage, not live",
                    str(len(only)),
                    formatting.UNKNOWN,
                    ", ".join(only[:WORST]),
                ]
            )
        return table(
            "Unmatched trades",
            ["trades", "count", "net", "first of them"],
            rows,
            "none" if self.pnl.has_backtest else NO_BACKTEST,
        )

    @property
    def rejected(self) -> TextBlock:
        """The rows that could not be read, with the reasons."""
        rows = [
            [b.source, str(r.row), "; ".join(r.reasons)] for b in (self.book, self.theirs) if b for r in b.refused[:200]
        ]
        return table(f"Rejected rows: {self.refused}", ["file", "row", "reason"], rows, "none")

    @property
    def _realised(self) -> tuple[Decimal, Decimal]:
        """The result of the closed legs of partly closed spreads, before and after costs."""
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
            f"cash movements, up to {formatting.moment(self.as_of)}; cost model: {self.pnl.model.name}"
        )
        parts = [
            self.summary.plain,
            source,
            self.kinds.plain,
            self.by_order.plain if self.pnl.chosen or any(f.paid for f in self.book.fills) else "",
            self.variance.plain if self.pnl.has_backtest else "",
            repr(self.decomposition) if self.pnl.pairs else "",
            self.unmatched.plain if any(self.pnl.unmatched.values()) else "",
            self.rejected.plain if self.refused else "",
        ]
        return "\n\n".join(p for p in parts if p)

    def as_json(self) -> dict[str, Any]:
        """
        Return the result in the format of ``ops pnl -o json``.

        Money is in dollars with two decimals, costs are positive. None is unknown, and `unknown` has the reason.
        """
        p, trips, evaluated = self.pnl, self.pnl.trips, self.finding
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
            if not p.has_backtest
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
                "verdict": evaluated.verdict if evaluated else "unknown",
                "severity": evaluated.severity if evaluated else None,
                "limit": evaluated.limit if evaluated else None,
                "why": evaluated.sentence if evaluated else "",
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
                for more in [p.only_in_backtest if where == "backtest" else []]
            },
            "before": {
                "fills": len(trips.before),
                "cash_usd": _cents(sum((f.total for f in trips.before), ZERO)),
                "why": "closed here, opened before this file",
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
        "what": trade.label,
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
    """Return a cost model by its name."""
    if name not in pnl_costs.PRESETS:
        raise UsageError(
            f"there is no cost model {name!r}; use one of "
            f"{', '.join(pnl_costs.PRESETS)}.{formatting.nearest(name, pnl_costs.PRESETS)}"
        )
    return pnl_costs.PRESETS[name]


def of_book(
    book: FillsFile,
    rule: Rule,
    reading: str = "real",
    theirs: FillsFile | None = None,
    as_of: datetime | None = None,
    since: datetime | None = None,
    page: Mapping[str, Any] | None = None,
) -> PnlView:
    """
    Compute the result of a book of fills.

    Args:
        reading: The cost model: real, guide, app.
        theirs: The backtest's book.
        as_of: Only fills up to then; None is all.
        since: Only round trips that closed after it; None is all.
        page: The page's figures of the same window.
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
            None if theirs is None else theirs.backtest_results,
            book.backtest_results,
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
    Compute the result of the fills of a file.

    Raises:
        ImportRefused: The file contains no fills, or no row of it can be read.
    """
    model(reading)
    book = reader.read(path)
    if backtest:
        return of_book(
            replace(book, backtest_results={}), rule, reading, reader.read(backtest, backtest=True), as_of, since, page
        )
    return of_book(book, rule, reading, None, as_of, since, page)


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
    Compute the result of the imported fills, compared with the backtest that was named or imported.

    Raises:
        ImportRefused: No fill was imported.
    """
    model(reading)
    end = as_of or now
    known_us = clock.micros(known_at) if known_at else None
    known = filings.upto(clock.micros(end), known_us)
    if not known.fills:
        raise ImportRefused(
            f"no fills of {filings.app} were imported up to {formatting.moment(end)}. Name a file, or import one: "
            f"ops import FILE --kind fills."
        )
    book = FillsFile(
        "imported fills",
        "the database",
        fills=known.fills,
        moneys=filings.moneys(clock.micros(end), known_us),
        backtest_results={} if backtest else known.stated_results,
    )
    theirs = reader.read(backtest, backtest=True) if backtest else None
    if theirs is None and (known.backtest or known.backtest_results):
        theirs = FillsFile(
            "imported backtest",
            "the database",
            backtest=True,
            fills=known.backtest or [],
            backtest_results=known.backtest_results,
        )
    return of_book(book, rule, reading, theirs, as_of, since, page)


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
    Compute the result of trades and its difference to the backtest, from arguments as people type them.

    Args:
        fills: A file: tastytrade's export, the app's trades, plain CSV; empty is the imported fills (of the demo, its
            simulated trades).
        backtest: The backtest's trades, in any of the same formats; empty is the figures recorded with the trades.
        costs: The cost model: ``real``, ``guide``, ``app``.
        as_of: Only fills up to then; empty is all.
        window: Only round trips that closed within this length before `as_of`, compared with the page's figures.
        known_at: Of the imported data, only what was known by then.

    Raises:
        ImportRefused: The file contains no fills, or nothing was imported.
    """
    end, rule = time_parsing.instant_of(as_of), workspace.rules["backtest_variance"]
    period = Window.before(end or workspace.now(), time_parsing.parse_span(window)) if window else None
    page = status.status_of(workspace, period.end, window, known_at).page_pnl if period else None
    span: dict[str, Any] = {
        "as_of": period.end if period else end,
        "since": period.start if period else None,
        "page": page,
    }
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
