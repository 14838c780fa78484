"""
This module knows which fills of an app the store holds, and what a backtest said of them, and nothing else: one row each, only ever added.
"""

import json
from collections.abc import Iterable
from datetime import date
from decimal import Decimal
from hashlib import sha256
from typing import Any, NamedTuple

import sqlalchemy as sa

from opslib import clock
from opslib.cell_types import decoding
from opslib.fills import Book, Fill, Money, Promise
from opslib.schema import FILLS
from opslib.store import Store

_BATCH = 500
_NUMBERS = {"quantity", "price", "multiplier", "value", "commission", "fees", "bid", "ask", "strike"}


def _body(found: Fill | Money | Promise) -> str:
    """What is kept of a fill: everything but the row of the file in which it stood."""
    # A field that came later is kept only where it says something, so that what was kept before it is known again.
    told = {k: v for k, v in found._asdict().items() if k not in ("row", "at") and (k != "blank" or v)}
    return json.dumps({k: str(v) if isinstance(v, (Decimal, date)) else v for k, v in told.items()}, sort_keys=True)


def _fill(row: Any) -> Fill:
    with decoding(f"fills.body of row {row.seq}"):
        told = json.loads(row.body)
        read = {k: Decimal(v) if k in _NUMBERS and v is not None else v for k, v in told.items()}
        read["expiry"] = date.fromisoformat(told["expiry"]) if told["expiry"] else None
        return Fill(row=row.seq, at=clock.instant(row.ts_us), **read)


def _money(row: Any) -> Money:
    with decoding(f"fills.body of row {row.seq}"):
        told = json.loads(row.body)
        return Money(row.seq, clock.instant(row.ts_us), told["kind"], told["symbol"], Decimal(told["total"]))


def _promise(row: Any) -> Promise:
    with decoding("fills.body of a backtest"):
        told = json.loads(row.body)
        return Promise(told["lot"], *(Decimal(told[k]) if told[k] is not None else None for k in ("net_pct", "commission", "slippage")))


class Filed(NamedTuple):
    """A row as the store has it: which it is, when it happened, when it was known, and what it tells."""

    seq: int
    ts_us: int
    known_at_us: int
    told: Fill | Promise


class Filings:
    """The fills of one app, and what a backtest said of its trades."""

    def __init__(self, store: Store, app: str):
        self.store, self.app = store, app

    def keep(self, book: Book, *, known_at_ts: bool = False) -> tuple[int, int]:
        """
        Keep what a book holds; what is known already is passed over, so that a file read again changes nothing.

        Two rows of a file that say exactly the same are two fills; so the n-th of its likes is one row, whichever file has it.

        Args:
            known_at_ts: Take each row's own time for when it was known; for replays.

        Returns:
            How many rows of the file are new, at least in part, and how many were known.

        Raises:
            StoreError: Nothing was kept.
        """
        ended = {f.lot: f for f in book.fills}  # What a backtest said counts from when the trade ended.
        kept: list[tuple[int, str, int, str, str, str]] = [(f.row, "fill", clock.micros(f.at), f.symbol, f.order, _body(f)) for f in book.fills]
        kept += [(m.row, "money", clock.micros(m.at), m.symbol, "", _body(m)) for m in book.moneys]
        kept += [(ended[p.lot].row, "backtest", clock.micros(ended[p.lot].at), "", "", _body(p)) for p in book.promises.values()]
        likes: dict[tuple[str, int, str], int] = {}
        rows, lines = [], {}
        for line, kind, ts_us, symbol, order, body in kept:
            nth = likes[kind, ts_us, body] = likes.get((kind, ts_us, body), 0) + 1
            digest = sha256(f"{kind}\0{ts_us}\0{nth}\0{body}".encode()).digest()
            lines[digest] = line
            rows.append({"app": self.app, "ts_us": ts_us, "kind": kind, "source": book.source, "symbol": symbol, "order_id": order, "digest": digest, "body": body})
        new = set[int]()
        with self.store.committing() as connection:
            known_at_us = self.store.stamp(connection)
            for i in range(0, len(rows), _BATCH):
                part = rows[i : i + _BATCH]
                known = set(connection.execute(sa.select(FILLS.c.digest).where(FILLS.c.app == self.app, FILLS.c.digest.in_([r["digest"] for r in part]))).scalars())
                fresh = [r | {"known_at_us": r["ts_us"] if known_at_ts else known_at_us} for r in part if r["digest"] not in known]
                if fresh:
                    connection.execute(sa.insert(FILLS), fresh)
                new |= {lines[r["digest"]] for r in fresh}
        return len(new), len(set(lines.values())) - len(new)

    def any(self, start_us: int, end_us: int, known_at_us: int | None = None) -> bool:
        """Is there any fill in (start, end]?"""
        query = self._asked(sa.select(FILLS.c.seq).where(FILLS.c.kind == "fill", FILLS.c.ts_us > start_us), end_us, known_at_us)
        with self.store.reading() as connection:
            return connection.execute(query.limit(1)).first() is not None

    def extent(self, end_us: int, known_at_us: int | None = None) -> tuple[int, int]:
        """How many rows are there up to and at an instant, as known at a moment (None: all), and which is the newest? 0, 0 of none."""
        query = self._asked(sa.select(sa.func.count(), sa.func.coalesce(sa.func.max(FILLS.c.seq), 0)), end_us, known_at_us)
        with self.store.reading() as connection:
            count, newest = connection.execute(query).one()
        return count, newest

    def upto(self, end_us: int, known_at_us: int | None = None) -> tuple[list[Fill], dict[str, Promise]]:
        """Every fill up to and at an instant, in order of time, and what a backtest said, by the trade's name; as known at a moment (None: all)."""
        query = self._asked(sa.select(FILLS.c.seq, FILLS.c.ts_us, FILLS.c.kind, FILLS.c.body), end_us, known_at_us).order_by(FILLS.c.ts_us, FILLS.c.seq)
        with self.store.reading() as connection:
            rows: Iterable[Any] = connection.execute(query).all()
        return [_fill(row) for row in rows if row.kind == "fill"], {p.lot: p for p in (_promise(row) for row in rows if row.kind == "backtest")}

    def moneys(self, end_us: int, known_at_us: int | None = None) -> list[Money]:
        """Every other movement of cash up to and at an instant, in order of time; as known at a moment (None: all)."""
        query = self._asked(sa.select(FILLS.c.seq, FILLS.c.ts_us, FILLS.c.body).where(FILLS.c.kind == "money"), end_us, known_at_us)
        with self.store.reading() as connection:
            return [_money(row) for row in connection.execute(query.order_by(FILLS.c.ts_us, FILLS.c.seq)).all()]

    def written(self, after_seq: int, end_us: int, known_at_us: int | None = None) -> list[Filed]:
        """The fills, and what a backtest said, written after a row, of what happened up to and at an instant, by the order of writing."""
        query = self._asked(sa.select(FILLS.c.seq, FILLS.c.ts_us, FILLS.c.known_at_us, FILLS.c.kind, FILLS.c.body).where(FILLS.c.seq > after_seq, FILLS.c.kind != "money"), end_us, known_at_us)
        with self.store.reading() as connection:
            rows = connection.execute(query.order_by(FILLS.c.seq)).all()
        return [Filed(row.seq, row.ts_us, row.known_at_us, _fill(row) if row.kind == "fill" else _promise(row)) for row in rows]

    def _asked(self, query: sa.Select, end_us: int, known_at_us: int | None) -> sa.Select:
        query = query.where(FILLS.c.app == self.app, FILLS.c.ts_us <= end_us)
        return query if known_at_us is None else query.where(FILLS.c.known_at_us <= known_at_us)
