"""
Store the fills of an app, and the backtest results of its trades; rows are only added.

A fill counts from when it happened. A backtest's trade has no time of its own: it counts from when it was imported. If
several backtests computed a trade, the newest import counts.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from datetime import date
from decimal import Decimal
from hashlib import sha256
from typing import Any, NamedTuple

import sqlalchemy as sa

from opslib.foundation import clock
from opslib.foundation.formatting import NEW_YORK
from opslib.foundation.storage.cell_types import damaged, decoding
from opslib.foundation.storage.database import Database, Query
from opslib.foundation.storage.schema import FILLS
from opslib.trading.pnl.fills import BacktestResult, CashMovement, Fill, FillsFile

_BATCH = 500
_NUMBERS = {"quantity", "price", "multiplier", "value", "commission", "fees", "bid", "ask", "strike"}
# The kind of a row from a backtest's own file; the kind "backtest" is a result in the file of a live trade.
BACKTEST = "backtest trade"
OF_NO_MOMENT_US = 0


def _body(found: Fill | CashMovement | BacktestResult) -> str:
    """Return what is stored of a fill: everything but its row in the file."""
    # A field added later is stored only if it is set, so that rows stored before it are recognised.
    content = {k: v for k, v in found._asdict().items() if k not in ("row", "at") and (k != "blank" or v)}
    return json.dumps({k: str(v) if isinstance(v, (Decimal, date)) else v for k, v in content.items()}, sort_keys=True)


def _fill(row: Any) -> Fill:
    with decoding(f"fills.body of row {row.seq}"):
        return _read_fill(row.seq, row.ts_us, json.loads(row.body))


def _read_fill(seq: int, ts_us: int, content: dict[str, Any]) -> Fill:
    read: dict[str, Any] = {k: Decimal(v) if k in _NUMBERS and v is not None else v for k, v in content.items()}
    read["expiry"] = date.fromisoformat(content["expiry"]) if content["expiry"] else None
    return Fill(row=seq, at=clock.instant(ts_us), **read)


def _money(row: Any) -> CashMovement:
    with decoding(f"fills.body of row {row.seq}"):
        content = json.loads(row.body)
        return CashMovement(
            row.seq, clock.instant(row.ts_us), content["kind"], content["symbol"], Decimal(content["total"])
        )


def _backtest_result(row: Any) -> BacktestResult:
    with decoding("fills.body of a backtest"):
        return _read_backtest_result(json.loads(row.body))


def _read_backtest_result(content: dict[str, Any]) -> BacktestResult:
    return BacktestResult(
        content["lot"],
        *(Decimal(content[k]) if content[k] is not None else None for k in ("net_pct", "commission", "slippage")),
    )


class Computed(NamedTuple):
    """
    A backtest's result of one trade.

    Attributes:
        name: The trade: the name that the file gives it, else its symbol and day (New York), which then count as one.
        fills: Its executions; empty if only a percent is known.
        result: Its percent and its costs, if they are known.
    """

    name: str
    fills: tuple[Fill, ...]
    result: BacktestResult | None


def _computed(row: Any) -> Computed:
    with decoding("fills.body of a backtest's trade"):
        content = json.loads(row.body)
        fills = tuple(_read_fill(row.seq, fill.pop("at_us"), fill) for fill in content["fills"])
        return Computed(
            content["name"], fills, _read_backtest_result(content["promise"]) if content["promise"] else None
        )


_READ: dict[str, Callable[[Any], Fill | BacktestResult | Computed]] = {
    "fill": _fill,
    "backtest": _backtest_result,
    BACKTEST: _computed,
}


def _content_of(row: Any) -> Fill | BacktestResult | Computed:
    if row.kind not in _READ:
        raise damaged("fills.kind", row.kind, f"one of {', '.join(_READ)}")
    return _READ[row.kind](row)


class StoredFill(NamedTuple):
    """A stored row: its number, when it happened (0 for a backtest's trade), when it was known, and its content."""

    seq: int
    ts_us: int
    known_at_us: int
    content: Fill | BacktestResult | Computed


class Known:
    """
    What is known of an app's trades at a moment; rows are added one by one.

    Attributes:
        fills: Of live trades.
        stated_results: Backtest results in the file of the live trades, by name.
    """

    def __init__(self, rows: Iterable[StoredFill] = ()):
        self.fills, self.stated_results = list[Fill](), dict[str, BacktestResult]()
        self._computed = dict[str, tuple[int, Computed]]()
        for row in rows:
            self.add(row)

    def add(self, row: StoredFill) -> None:
        """Add a row."""
        if isinstance(row.content, Fill):
            self.fills.append(row.content)
        elif isinstance(row.content, BacktestResult):
            self.stated_results[row.content.lot] = row.content
        elif self._computed.get(row.content.name, (0, None))[0] < row.seq:
            self._computed[row.content.name] = row.seq, row.content

    @property
    def has_backtest(self) -> bool:
        """Whether there is any backtest result to compare with."""
        return bool(self.stated_results or self._computed)

    @property
    def backtest(self) -> list[Fill] | None:
        """The fills of the imported backtests, in order of time; None if there are none."""
        found = [fill for _, content in sorted(self._computed.values(), key=lambda c: c[0]) for fill in content.fills]
        return sorted(found, key=lambda f: f.at) or None

    @property
    def backtest_results(self) -> dict[str, BacktestResult]:
        """The results of these backtests without fills, by the trade's name."""
        return {
            content.result.lot: content.result
            for _, content in sorted(self._computed.values(), key=lambda c: c[0])
            if content.result
        }


def _name(fill: Fill) -> str:
    """Return the backtest trade that a fill belongs to; without a name, a symbol's fills of one day are one trade."""
    day = fill.at.astimezone(NEW_YORK).date()
    return f"trade {fill.lot}" if fill.lot else f"{fill.symbol} {day}"


def _of_book(book: FillsFile) -> Iterator[Computed]:
    """Yield the trades of a backtest's file."""
    fills = dict[str, list[Fill]]()
    for fill in book.fills:
        fills.setdefault(_name(fill), []).append(fill)
    for name, own in fills.items():
        yield Computed(name, tuple(own), book.backtest_results.get(own[0].lot) if own[0].lot else None)
    priced = {fill.lot for fill in book.fills}
    for lot, result in book.backtest_results.items():
        if lot not in priced:
            yield Computed(f"trade {lot}", (), result)


def _body_of(trade: Computed) -> str:
    fills = [json.loads(_body(fill)) | {"at_us": clock.micros(fill.at)} for fill in trade.fills]
    return json.dumps(
        {"name": trade.name, "fills": fills, "promise": json.loads(_body(trade.result)) if trade.result else None},
        sort_keys=True,
    )


# Built once: the live dashboard runs them every few seconds, and building takes longer than executing.
_ANY = (
    sa.select(FILLS.c.seq)
    .where(
        FILLS.c.app == sa.bindparam("of"),
        FILLS.c.kind == "fill",
        FILLS.c.ts_us > sa.bindparam("start"),
        FILLS.c.ts_us <= sa.bindparam("end"),
    )
    .limit(1)
)


class FillStore:
    """The stored fills of one app, and the backtest results of its trades."""

    def __init__(self, store: Database, app: str):
        self.store, self.app = store, app

    def keep(self, book: FillsFile, *, known_at_ts: bool = False) -> tuple[int, int]:
        """
        Store the content of a file; known rows are skipped, so that importing a file again changes nothing.

        Two identical rows of a file are two fills; the n-th of them is the same row in every file.

        Args:
            known_at_ts: Use each row's own time as the time when it was known; for replays.

        Returns:
            How many rows of the file are new, at least in part, and how many were known.

        Raises:
            StoreError: Nothing was stored.
        """
        ended = {f.lot: f for f in book.fills}  # A backtest result counts from when the trade ended.
        kept: list[tuple[int, str, int, str, str, str]] = [
            (f.row, "fill", clock.micros(f.at), f.symbol, f.order, _body(f)) for f in book.fills
        ]
        kept += [(m.row, "money", clock.micros(m.at), m.symbol, "", _body(m)) for m in book.moneys]
        kept += [
            (ended[p.lot].row, "backtest", clock.micros(ended[p.lot].at), "", "", _body(p))
            for p in book.backtest_results.values()
        ]
        likes: dict[tuple[str, int, str], int] = {}
        rows: list[dict[str, Any]] = []
        lines: dict[bytes, int] = {}
        for line, kind, ts_us, symbol, order, body in kept:
            nth = likes[kind, ts_us, body] = likes.get((kind, ts_us, body), 0) + 1
            digest = sha256(f"{kind}\0{ts_us}\0{nth}\0{body}".encode()).digest()
            lines[digest] = line
            rows.append(
                {
                    "app": self.app,
                    "ts_us": ts_us,
                    "kind": kind,
                    "source": book.source,
                    "symbol": symbol,
                    "order_id": order,
                    "digest": digest,
                    "body": body,
                }
            )
        new = set[int]()
        with self.store.committing() as connection:
            known_at_us = self.store.stamp(connection)
            for i in range(0, len(rows), _BATCH):
                part = rows[i : i + _BATCH]
                known = set(
                    connection.execute(
                        sa.select(FILLS.c.digest).where(
                            FILLS.c.app == self.app, FILLS.c.digest.in_([r["digest"] for r in part])
                        )
                    ).scalars()
                )
                fresh = [
                    r | {"known_at_us": r["ts_us"] if known_at_ts else known_at_us}
                    for r in part
                    if r["digest"] not in known
                ]
                if fresh:
                    connection.execute(sa.insert(FILLS), fresh)
                new |= {lines[r["digest"]] for r in fresh}
        return len(new), len(set(lines.values())) - len(new)

    def keep_backtest(self, book: FillsFile, *, known_at_ts: bool = False) -> tuple[int, int]:
        """
        Store a backtest's result of each trade, unless the same result is stored already.

        Args:
            known_at_ts: Use the time of each trade's first fill as the time when it was known; for replays.

        Returns:
            How many rows of the file are new, and how many were known.

        Raises:
            StoreError: Nothing was stored.
        """
        trades, lines = {c.name: c for c in _of_book(book)}, dict[str, int]()
        for fill in book.fills:
            lines[_name(fill)] = lines.get(_name(fill), 0) + 1
        f, new = FILLS.c, list[str]()
        with self.store.committing() as connection:
            known_at_us = self.store.stamp(connection)
            kept = dict[str, tuple[int, str]]()  # For each trade the number of versions, and the newest.
            for row in connection.execute(
                sa.select(f.order_id, f.body)
                .where(f.app == self.app, f.ts_us == OF_NO_MOMENT_US, f.kind == BACKTEST)
                .order_by(f.seq)
            ):
                if row.order_id in trades:
                    kept[row.order_id] = kept.get(row.order_id, (0, ""))[0] + 1, row.body
            for name, trade in trades.items():
                body, (version, newest) = _body_of(trade), kept.get(name, (0, ""))
                if body == newest:
                    continue
                new.append(name)
                digest = sha256(f"{BACKTEST}\0{version}\0{body}".encode()).digest()
                known = clock.micros(trade.fills[0].at) if known_at_ts and trade.fills else known_at_us
                connection.execute(
                    sa.insert(FILLS).values(
                        app=self.app,
                        ts_us=OF_NO_MOMENT_US,
                        known_at_us=known,
                        kind=BACKTEST,
                        source=book.source,
                        symbol=trade.fills[0].symbol if trade.fills else "",
                        order_id=name,
                        digest=digest,
                        body=body,
                    )
                )
        accepted = sum(lines.get(name, 1) for name in new)
        return accepted, sum(lines.get(name, 1) for name in trades) - accepted

    def any(self, start_us: int, end_us: int, known_at_us: int | None = None) -> bool:
        """Return whether there is a fill in (start, end]."""
        query = _ANY if known_at_us is None else _ANY.where(FILLS.c.known_at_us <= known_at_us)
        with self.store.reading() as connection:
            return connection.execute(query, {"of": self.app, "start": start_us, "end": end_us}).first() is not None

    def extent(self, end_us: int, known_at_us: int | None = None) -> tuple[int, int]:
        """
        Return the number of rows up to an instant, as known at a moment (None: all), and the newest row.

        0, 0 if there are none.
        """
        query = self._restricted(
            sa.select(sa.func.count(), sa.func.coalesce(sa.func.max(FILLS.c.seq), 0)), end_us, known_at_us
        )
        with self.store.reading() as connection:
            count, newest = connection.execute(query).one()
        return count, newest

    def upto(self, end_us: int, known_at_us: int | None = None) -> Known:
        """Return what is known of trades up to an instant, fills in order of time, as known at a moment (None: all)."""
        return Known(sorted(self.written(0, end_us, known_at_us), key=lambda row: (row.ts_us, row.seq)))

    def moneys(self, end_us: int, known_at_us: int | None = None) -> list[CashMovement]:
        """Return the cash movements up to an instant, in order of time, as known at a moment (None: all)."""
        query = self._restricted(
            sa.select(FILLS.c.seq, FILLS.c.ts_us, FILLS.c.body).where(FILLS.c.kind == "money"), end_us, known_at_us
        )
        with self.store.reading() as connection:
            return [_money(row) for row in connection.execute(query.order_by(FILLS.c.ts_us, FILLS.c.seq)).all()]

    def written(self, after_seq: int, end_us: int, known_at_us: int | None = None) -> list[StoredFill]:
        """
        Return the fills and backtest results stored after a row, of what happened up to an instant, in stored order.
        """
        query = self._restricted(
            sa.select(FILLS.c.seq, FILLS.c.ts_us, FILLS.c.known_at_us, FILLS.c.kind, FILLS.c.body).where(
                FILLS.c.seq > after_seq, FILLS.c.kind != "money"
            ),
            end_us,
            known_at_us,
        )
        with self.store.reading() as connection:
            rows = connection.execute(query.order_by(FILLS.c.seq)).all()
        return [StoredFill(row.seq, row.ts_us, row.known_at_us, _content_of(row)) for row in rows]

    def _restricted(self, query: Query, end_us: int, known_at_us: int | None) -> Query:
        query = query.where(FILLS.c.app == self.app, FILLS.c.ts_us <= end_us)
        return query if known_at_us is None else query.where(FILLS.c.known_at_us <= known_at_us)
