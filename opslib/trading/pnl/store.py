"""
Keep the fills of an app in the store, and what backtests said of its trades: rows that are only ever added.

A fill counts from when it happened. A backtest's trade is of no moment: it was computed, and counts from when it is
known. Of a trade that several backtests computed the newest import counts.
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
# The kind of a row that a backtest of its own says; "backtest" is what stood beside a live trade.
BACKTEST = "backtest trade"
OF_NO_MOMENT_US = 0


def _body(found: Fill | CashMovement | BacktestResult) -> str:
    """What is kept of a fill: everything but the row of the file in which it stood."""
    # A field that came later is kept only where it says something, so that what was kept before it is known again.
    told = {k: v for k, v in found._asdict().items() if k not in ("row", "at") and (k != "blank" or v)}
    return json.dumps({k: str(v) if isinstance(v, (Decimal, date)) else v for k, v in told.items()}, sort_keys=True)


def _fill(row: Any) -> Fill:
    with decoding(f"fills.body of row {row.seq}"):
        return _read_fill(row.seq, row.ts_us, json.loads(row.body))


def _read_fill(seq: int, ts_us: int, told: dict[str, Any]) -> Fill:
    read: dict[str, Any] = {k: Decimal(v) if k in _NUMBERS and v is not None else v for k, v in told.items()}
    read["expiry"] = date.fromisoformat(told["expiry"]) if told["expiry"] else None
    return Fill(row=seq, at=clock.instant(ts_us), **read)


def _money(row: Any) -> CashMovement:
    with decoding(f"fills.body of row {row.seq}"):
        told = json.loads(row.body)
        return CashMovement(row.seq, clock.instant(row.ts_us), told["kind"], told["symbol"], Decimal(told["total"]))


def _promise(row: Any) -> BacktestResult:
    with decoding("fills.body of a backtest"):
        return _read_promise(json.loads(row.body))


def _read_promise(told: dict[str, Any]) -> BacktestResult:
    return BacktestResult(
        told["lot"], *(Decimal(told[k]) if told[k] is not None else None for k in ("net_pct", "commission", "slippage"))
    )


class Computed(NamedTuple):
    """
    What a backtest computed of one trade.

    Attributes:
        name: Which trade: the name that the file gives it, else its symbol and day (New York), which then are one.
        fills: Its executions; empty where only a percent is told.
        promise: Its percent and its costs, where they are told.
    """

    name: str
    fills: tuple[Fill, ...]
    promise: BacktestResult | None


def _computed(row: Any) -> Computed:
    with decoding("fills.body of a backtest's trade"):
        told = json.loads(row.body)
        fills = tuple(_read_fill(row.seq, fill.pop("at_us"), fill) for fill in told["fills"])
        return Computed(told["name"], fills, _read_promise(told["promise"]) if told["promise"] else None)


_READ: dict[str, Callable[[Any], Fill | BacktestResult | Computed]] = {
    "fill": _fill,
    "backtest": _promise,
    BACKTEST: _computed,
}


def _told(row: Any) -> Fill | BacktestResult | Computed:
    if row.kind not in _READ:
        raise damaged("fills.kind", row.kind, f"one of {', '.join(_READ)}")
    return _READ[row.kind](row)


class StoredFill(NamedTuple):
    """
    A row as the store has it: which it is, when it happened (a backtest's trade: never), when it was known, and what it
    tells.
    """

    seq: int
    ts_us: int
    known_at_us: int
    told: Fill | BacktestResult | Computed


class Known:
    """
    What is known of an app's trades at a moment, row by row as it becomes known.

    Attributes:
        fills: Of live trades.
        beside: What a backtest said of a trade in the file of that trade itself, by its name.
    """

    def __init__(self, rows: Iterable[StoredFill] = ()):
        self.fills, self.beside = list[Fill](), dict[str, BacktestResult]()
        self._computed = dict[str, tuple[int, Computed]]()
        for row in rows:
            self.add(row)

    def add(self, row: StoredFill) -> None:
        """Take in a row."""
        if isinstance(row.told, Fill):
            self.fills.append(row.told)
        elif isinstance(row.told, BacktestResult):
            self.beside[row.told.lot] = row.told
        elif self._computed.get(row.told.name, (0, None))[0] < row.seq:
            self._computed[row.told.name] = row.seq, row.told

    @property
    def has_backtest(self) -> bool:
        """Whether anything is known that a trade can be compared with."""
        return bool(self.beside or self._computed)

    @property
    def backtest(self) -> list[Fill] | None:
        """The fills of the backtests that were imported, in order of time; None where there are none."""
        found = [fill for _, told in sorted(self._computed.values(), key=lambda c: c[0]) for fill in told.fills]
        return sorted(found, key=lambda f: f.at) or None

    @property
    def promises(self) -> dict[str, BacktestResult]:
        """What these backtests said of trades besides their fills, by the trade's name."""
        return {
            told.promise.lot: told.promise
            for _, told in sorted(self._computed.values(), key=lambda c: c[0])
            if told.promise
        }


def _name(fill: Fill) -> str:
    """Which trade of a backtest a fill is of; without a name, its symbol's fills of one day are one."""
    day = fill.at.astimezone(NEW_YORK).date()
    return f"trade {fill.lot}" if fill.lot else f"{fill.symbol} {day}"


def _of_book(book: FillsFile) -> Iterator[Computed]:
    """What a backtest's book says, trade by trade."""
    fills = dict[str, list[Fill]]()
    for fill in book.fills:
        fills.setdefault(_name(fill), []).append(fill)
    for name, own in fills.items():
        yield Computed(name, tuple(own), book.promises.get(own[0].lot) if own[0].lot else None)
    priced = {fill.lot for fill in book.fills}
    for lot, promise in book.promises.items():
        if lot not in priced:
            yield Computed(f"trade {lot}", (), promise)


def _body_of(trade: Computed) -> str:
    fills = [json.loads(_body(fill)) | {"at_us": clock.micros(fill.at)} for fill in trade.fills]
    return json.dumps(
        {"name": trade.name, "fills": fills, "promise": json.loads(_body(trade.promise)) if trade.promise else None},
        sort_keys=True,
    )


class FillStore:
    """The fills of one app, and what a backtest said of its trades."""

    def __init__(self, store: Database, app: str):
        self.store, self.app = store, app

    def keep(self, book: FillsFile, *, known_at_ts: bool = False) -> tuple[int, int]:
        """
        Keep what a book holds; what is known already is passed over, so that a file read again changes nothing.

        Two rows of a file that say exactly the same are two fills; so the n-th of its likes is one row, whichever file
        has it.

        Args:
            known_at_ts: Take each row's own time for when it was known; for replays.

        Returns:
            How many rows of the file are new, at least in part, and how many were known.

        Raises:
            StoreError: Nothing was kept.
        """
        ended = {f.lot: f for f in book.fills}  # What a backtest said counts from when the trade ended.
        kept: list[tuple[int, str, int, str, str, str]] = [
            (f.row, "fill", clock.micros(f.at), f.symbol, f.order, _body(f)) for f in book.fills
        ]
        kept += [(m.row, "money", clock.micros(m.at), m.symbol, "", _body(m)) for m in book.moneys]
        kept += [
            (ended[p.lot].row, "backtest", clock.micros(ended[p.lot].at), "", "", _body(p))
            for p in book.promises.values()
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
        Keep what a backtest's book says of each trade, where the store does not say the same of it already.

        Args:
            known_at_ts: Take the time of each trade's first fill for when it was known; for replays.

        Returns:
            How many rows of the file say something new, and how many were known.

        Raises:
            StoreError: Nothing was kept.
        """
        trades, lines = {c.name: c for c in _of_book(book)}, dict[str, int]()
        for fill in book.fills:
            lines[_name(fill)] = lines.get(_name(fill), 0) + 1
        f, new = FILLS.c, list[str]()
        with self.store.committing() as connection:
            known_at_us = self.store.stamp(connection)
            kept = dict[str, tuple[int, str]]()  # Of each trade how many versions there are, and the newest.
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
        """Is there any fill in (start, end]?"""
        query = self._asked(
            sa.select(FILLS.c.seq).where(FILLS.c.kind == "fill", FILLS.c.ts_us > start_us), end_us, known_at_us
        )
        with self.store.reading() as connection:
            return connection.execute(query.limit(1)).first() is not None

    def extent(self, end_us: int, known_at_us: int | None = None) -> tuple[int, int]:
        """
        How many rows are there up to and at an instant, as known at a moment (None: all), and which is the newest? 0, 0
        of none.
        """
        query = self._asked(
            sa.select(sa.func.count(), sa.func.coalesce(sa.func.max(FILLS.c.seq), 0)), end_us, known_at_us
        )
        with self.store.reading() as connection:
            count, newest = connection.execute(query).one()
        return count, newest

    def upto(self, end_us: int, known_at_us: int | None = None) -> Known:
        """What is known of trades up to and at an instant, fills in order of time; as known at a moment (None: all)."""
        return Known(sorted(self.written(0, end_us, known_at_us), key=lambda row: (row.ts_us, row.seq)))

    def moneys(self, end_us: int, known_at_us: int | None = None) -> list[CashMovement]:
        """Every other movement of cash up to and at an instant, in order of time; as known at a moment (None: all)."""
        query = self._asked(
            sa.select(FILLS.c.seq, FILLS.c.ts_us, FILLS.c.body).where(FILLS.c.kind == "money"), end_us, known_at_us
        )
        with self.store.reading() as connection:
            return [_money(row) for row in connection.execute(query.order_by(FILLS.c.ts_us, FILLS.c.seq)).all()]

    def written(self, after_seq: int, end_us: int, known_at_us: int | None = None) -> list[StoredFill]:
        """
        The fills, and what backtests said, written after a row, of what happened up to and at an instant, by the order
        of writing.
        """
        query = self._asked(
            sa.select(FILLS.c.seq, FILLS.c.ts_us, FILLS.c.known_at_us, FILLS.c.kind, FILLS.c.body).where(
                FILLS.c.seq > after_seq, FILLS.c.kind != "money"
            ),
            end_us,
            known_at_us,
        )
        with self.store.reading() as connection:
            rows = connection.execute(query.order_by(FILLS.c.seq)).all()
        return [StoredFill(row.seq, row.ts_us, row.known_at_us, _told(row)) for row in rows]

    def _asked(self, query: Query, end_us: int, known_at_us: int | None) -> Query:
        query = query.where(FILLS.c.app == self.app, FILLS.c.ts_us <= end_us)
        return query if known_at_us is None else query.where(FILLS.c.known_at_us <= known_at_us)
