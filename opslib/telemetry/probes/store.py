"""Store the samples of our probes in the database: one row per attempt, only ever added."""

import json
import zlib
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import sqlalchemy as sa

from opslib.foundation.storage.cell_types import damaged, decoding, fits
from opslib.foundation.storage.database import Database, Query
from opslib.foundation.storage.schema import CHAINS, SAMPLES
from opslib.telemetry.probes.outcomes import OUTCOMES


class Sample(NamedTuple):
    """
    One attempt of a probe.

    Attributes:
        ts_us: When the attempt ended, microseconds since 1970 UTC.
        probe: The probe: liveness, data, health, metrics, upstream, socket, log, process, chain, host, beat,
            follow_up.
        subject: What was probed: massive, tradier, app, collector, a symbol.
        outcome: How it ended; a name of `outcomes.OUTCOMES`.
        seconds: Duration to the last byte; None if it is not timed.
        value: The measured number, in the unit of the probe; None if there is none.
        attempt: 1 for the first.
        last: Whether it is the last attempt, whose outcome is that of the probe.
        detail: Further details as JSON, without secrets.
        known_at_us: When it was stored; 0 before.
    """

    ts_us: int
    probe: str
    subject: str
    outcome: str
    seconds: float | None = None
    value: float | None = None
    attempt: int = 1
    last: bool = True
    detail: str = "{}"
    known_at_us: int = 0

    def details(self) -> dict[str, Any]:
        """
        Return the details.

        Raises:
            DamagedCell: The stored value is not valid.
        """
        return _detail(self.probe, self.outcome, self.detail)

    @property
    def iv_atm(self) -> float | None:
        """The at-the-money volatility of a chain; None if it is unknown."""
        return self.details().get("iv_atm") if self.outcome == "ok" else None


_NUMBER, _TEXT, _COUNTS = int | float | None, str | None, dict[str, int]
# The types of details that are used; other details are only shown.
_KINDS: dict[str, Any] = {
    "quota_left": _NUMBER,
    "skew_s": _NUMBER,
    "lag_s": int | float,
    "late_s": int | float,
    "every_s": int | float,
    "stepped_s": int | float,
    "lost": int,
    "waited_ms": _NUMBER,
    "born": int | float,
    "pages": int,
    "contracts": int,
    "core": int,
    "flagged": int,
    "iv_atm": _NUMBER,
    "median_iv": _NUMBER,
    "median_theta": _NUMBER,
    "median_vega": _NUMBER,
    "gamma_zero": int,
    "delta_out_of_bounds": int,
    "expires_today": int,
    "expiring_zero": int,
    "said": _TEXT,
    "why": _TEXT,
    "market": _TEXT,
    "route": str,
    "state": str,
    "error": str,
    "tried": int,
    "name": str,
    "told": str,
    "kinds": _COUNTS,
    "faults": _COUNTS,
    "newest": dict[str, str],
    "units": dict[str, str | None],
    "failing": dict[str, Any] | list[str],
}
_REQUIRED = {"host": ("name", "told"), "beat": ("every_s",)}
LARGEST = 1e12  # No number of a detail, and no measured value, is larger.


@lru_cache(maxsize=8192)
def _detail(probe: str, outcome: str, detail: str) -> dict[str, Any]:
    with decoding("samples.detail"):
        found: dict[str, Any] = json.loads(detail)
        required = _REQUIRED.get(probe, ())
        if probe == "chain" and "core" in found:
            required = (
                ("faults", "contracts", "units", "iv_atm")
                if "flagged" in found
                else ("missing", "gamma_zero", "delta_out_of_bounds")
            )
        if lacking := [name for name in required if name not in found]:
            raise ValueError(f"{', '.join(lacking)} is missing")
        for name, value in found.items():
            if not fits(value, _KINDS.get(name, Any)) or (
                isinstance(value, int | float) and not -LARGEST < value < LARGEST
            ):
                raise ValueError(f"{name} is {str(value)[:40]}")
        if outcome != "ok" and not fits(found.get("status", 0), int):
            raise ValueError("status is not a number")
        return found


_COLUMNS = [SAMPLES.c[name] for name in Sample._fields]


class SampleStore:
    """The samples of one app and its providers."""

    def __init__(self, store: Database, app: str):
        self.store, self.app = store, app

    def keep(self, samples: Iterable[Sample], *, known_at_ts: bool = False) -> None:
        """
        Store samples in one transaction.

        Raises:
            StoreError: Nothing was stored.
        """
        rows = [sample._asdict() for sample in samples]
        if not rows:
            return
        with self.store.committing() as connection:
            known_at_us = self.store.stamp(connection)
            for row in rows:
                row |= {"app": self.app, "known_at_us": row["ts_us"] if known_at_ts else known_at_us}
            connection.execute(sa.insert(SAMPLES), rows)

    def keep_imported(
        self,
        probe: str,
        start_us: int,
        end_us: int,
        made: Callable[[list[Sample]], list[Sample]],
        *,
        known_at_ts: bool = False,
    ) -> None:
        """
        Store what `made` returns for the existing samples of a probe in (start, end], in one transaction.

        Raises:
            StoreError: Nothing was stored.
        """
        s = SAMPLES.c
        query = (
            sa.select(*_COLUMNS)
            .where(s.app == self.app, s.probe == probe, s.ts_us > start_us, s.ts_us <= end_us)
            .order_by(s.ts_us, s.seq)
        )
        with self.store.committing() as connection:
            known_at_us = self.store.stamp(connection)
            rows = [sample._asdict() for sample in made([Sample._make(row) for row in connection.execute(query)])]
            for row in rows:
                row |= {"app": self.app, "known_at_us": row["ts_us"] if known_at_ts else known_at_us}
            if rows:
                connection.execute(sa.insert(SAMPLES), rows)

    def keep_imported_chain(
        self, provider: str, symbol: str, pages: Sequence[bytes], sample: Sample, *, known_at_ts: bool = False
    ) -> bool:
        """
        Store a chain of a file with its sample, unless it exists already, and return whether it is new.

        Raises:
            StoreError: Nothing was stored.
        """
        c, body = CHAINS.c, zlib.compress(b"[" + b",".join(pages) + b"]", 6)
        same = sa.select(c.body).where(
            c.app == self.app, c.symbol == symbol, c.ts_us == sample.ts_us, c.provider == provider
        )
        with self.store.committing() as connection:
            if any(zlib.decompress(kept) == zlib.decompress(body) for kept in connection.execute(same).scalars()):
                return False
            known_at_us = sample.ts_us if known_at_ts else self.store.stamp(connection)
            connection.execute(
                sa.insert(CHAINS).values(
                    app=self.app,
                    ts_us=sample.ts_us,
                    known_at_us=known_at_us,
                    provider=provider,
                    symbol=symbol,
                    outcome=sample.outcome,
                    body=body,
                )
            )
            connection.execute(
                sa.insert(SAMPLES).values(**sample._asdict() | {"app": self.app, "known_at_us": known_at_us})
            )
        return True

    def between(self, start_us: int, end_us: int, known_at_us: int | None = None) -> list[Sample]:
        """Return the samples of (start, end] in order of time."""
        s = SAMPLES.c
        query = (
            sa.select(*_COLUMNS)
            .where(s.app == self.app, s.ts_us > start_us, s.ts_us <= end_us)
            .order_by(s.ts_us, s.seq)
        )
        return self._read(query, known_at_us)

    def extent(self, start_us: int, end_us: int, known_at_us: int | None = None) -> tuple[int, int]:
        """
        Return the number of samples in (start, end] as known at a moment (None: all), and their newest row.

        It is (0, 0) if there are none.
        """
        s = SAMPLES.c
        query = sa.select(sa.func.count(), sa.func.coalesce(sa.func.max(s.seq), 0)).where(
            s.app == self.app, s.ts_us > start_us, s.ts_us <= end_us
        )
        with self.store.reading() as connection:
            count, newest = connection.execute(
                query if known_at_us is None else query.where(s.known_at_us <= known_at_us)
            ).one()
        return count, newest

    def written(
        self, after_seq: int, start_us: int, end_us: int, known_at_us: int | None = None
    ) -> tuple[int, list[Sample]]:
        """
        Return the last row and the samples of (start, end] that were written after a row, in the order of writing.

        They are those known at a moment (None: all).
        """
        s = SAMPLES.c
        query = (
            sa.select(s.seq, *_COLUMNS)
            .where(s.app == self.app, s.seq > after_seq, s.ts_us > start_us, s.ts_us <= end_us)
            .order_by(s.seq)
        )
        query = query if known_at_us is None else query.where(s.known_at_us <= known_at_us)
        with self.store.reading() as connection:
            found = [(row[0], sample_of(row[1:])) for row in connection.execute(query)]
        return max([after_seq, *(seq for seq, _ in found)]), [sample for _, sample in found]

    def chains_of(self, symbol: str, start_us: int, end_us: int) -> list[Sample]:
        """Return the chain samples of a symbol in (start, end] in order of time."""
        s = SAMPLES.c
        query = (
            sa.select(*_COLUMNS)
            .where(s.app == self.app, s.probe == "chain", s.subject == symbol, s.ts_us > start_us, s.ts_us <= end_us)
            .order_by(s.ts_us, s.seq)
        )
        return self._read(query, None)

    def last(
        self, probe: str, upto_us: int, known_at_us: int | None = None, subject: str | None = None
    ) -> Sample | None:
        """Return the last sample of a probe at or before an instant; None if there is none."""
        s = SAMPLES.c
        query = (
            sa.select(*_COLUMNS)
            .where(s.app == self.app, s.ts_us <= upto_us, s.probe == probe)
            .order_by(s.ts_us.desc(), s.seq.desc())
            .limit(1)
        )
        found = self._read(query if subject is None else query.where(s.subject == subject), known_at_us)
        return found[0] if found else None

    def keep_chain(self, ts_us: int, provider: str, symbol: str, outcome: str, pages: Sequence[bytes]) -> None:
        """
        Store the pages of a chain unchanged.

        Raises:
            StoreError: Nothing was stored.
        """
        body = zlib.compress(b"[" + b",".join(pages) + b"]", 6)
        with self.store.committing() as connection:
            known_at_us = self.store.stamp(connection)
            connection.execute(
                sa.insert(CHAINS).values(
                    app=self.app,
                    ts_us=ts_us,
                    known_at_us=known_at_us,
                    provider=provider,
                    symbol=symbol,
                    outcome=outcome,
                    body=body,
                )
            )

    def chain(
        self, symbol: str, upto_us: int, known_at_us: int | None = None, provider: str = ""
    ) -> tuple[int, str, list[dict[str, Any]]] | None:
        """
        Return the last chain of a symbol at or before an instant, of one provider or (empty) of any source.

        Returns:
            When it was fetched, the outcome, its pages; None if there is none.
        """
        c = CHAINS.c
        query = (
            sa.select(c.ts_us, c.outcome, c.body)
            .where(
                c.app == self.app,
                c.symbol == symbol,
                *([c.provider == provider] if provider else []),
                c.ts_us <= upto_us,
            )
            .order_by(c.ts_us.desc(), c.seq.desc())
            .limit(1)
        )
        query = query if known_at_us is None else query.where(c.known_at_us <= known_at_us)
        with self.store.reading() as connection:
            row = connection.execute(query).one_or_none()
        if row is None:
            return None
        with decoding("chains.body"):
            return row.ts_us, row.outcome, json.loads(zlib.decompress(row.body))

    def _read(self, query: Query, known_at_us: int | None) -> list[Sample]:
        if known_at_us is not None:
            query = query.where(SAMPLES.c.known_at_us <= known_at_us)
        with self.store.reading() as connection:
            return [sample_of(row) for row in connection.execute(query)]


def sample_of(row: Sequence[Any]) -> Sample:
    """Convert a row to a sample; an unknown outcome or an impossible number is a damaged cell."""
    found = Sample._make(row)
    if found.outcome not in OUTCOMES:
        raise damaged("samples.outcome", found.outcome, "an outcome such as ok")
    for name, value in (("seconds", found.seconds), ("value", found.value)):
        if value is not None and not -LARGEST < value < LARGEST:
            raise damaged(f"samples.{name}", value, "a number that can be measured")
    return found
