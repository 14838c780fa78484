"""
Count rejected posts by reason and origin.

They are counted in memory and added to one small record of the database every few seconds. So an unknown sender can
neither slow the server nor fill the disk, and every other process sees the counts.
"""

import json
import threading
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import NamedTuple

import sqlalchemy as sa

from opslib.foundation import clock, formatting, logs
from opslib.foundation.errors import StoreError
from opslib.foundation.storage.database import Database
from opslib.foundation.storage.schema import FACTS

FLUSH_S = 2.0
LOG_S = 60.0  # At most one log line per reason and origin in this time.
MINUTE_US = 60_000_000
MOST_ROWS = 1500  # A row is one minute of one reason and origin, so this is more than a day of one page.
MOST_AT_ONCE = 50  # Reasons and origins between two flushes; more are counted together.
OTHERS = "other origins"
LONGEST = 120
MOST_SAID = 5
_FACT = sa.select(FACTS.c.value).where(FACTS.c.key == sa.bindparam("of"))


class Refused(NamedTuple):
    """
    Posts that were rejected for one reason, from one origin.

    Attributes:
        first_us, last_us: When the first and the newest of them arrived, microseconds since 1970.
        status: The HTTP status of the response.
        reason: The reason in words.
        origin: The page's origin, or the address of a client without one.
        count: Their number.
    """

    first_us: int
    last_us: int
    status: int
    reason: str
    origin: str
    count: int  # type: ignore[assignment]  # tuple.count is not used.

    @property
    def words(self) -> str:
        """The rejected posts in one sentence."""
        what = "request" if self.status == 421 else "post"  # A wrong Host is rejected for reads too.
        return (
            f"{self.count:,} {what}{'' if self.count == 1 else 's'} from {self.origin} rejected: "
            f"{self.reason} (HTTP {self.status})"
        )

    def and_also(self, other: "Refused | None") -> "Refused":
        """Return the sum of two, of the same status, reason and origin."""
        return (
            self
            if other is None
            else self._replace(
                first_us=min(self.first_us, other.first_us),
                last_us=max(self.last_us, other.last_us),
                count=self.count + other.count,
            )
        )


def read(store: Database, app: str, start_us: int, end_us: int, known_at_us: int | None = None) -> list[Refused]:
    """
    Return the posts rejected within (start, end], to the minute: one row per reason and origin, the newest first.

    Raises:
        StoreError: The database cannot be read.
    """
    found: dict[tuple[int, str, str], Refused] = {}
    for row in _stored(store.recall(_key(app))):
        if start_us < row.last_us <= (end_us if known_at_us is None else min(known_at_us, end_us)):
            which = (row.status, row.reason, row.origin)
            found[which] = row.and_also(found.get(which))
    return sorted(found.values(), key=lambda r: (-r.last_us, r.origin, r.reason))


def sentences(found: Sequence[Refused]) -> list[str]:
    """Describe rejected posts: one sentence for each of the newest, and one for all others."""
    others = found[MOST_SAID:]
    return [r.words for r in found[:MOST_SAID]] + (
        [f"{sum(r.count for r in others):,} more were rejected, for {len(others)} other reasons or from other origins"]
        if others
        else []
    )


def _key(app: str) -> str:
    return f"refused:{app}"


def _stored(value: str | None) -> list[Refused]:
    try:
        return [
            Refused(int(first_us), int(last_us), int(status), str(reason), str(origin), int(count))
            for first_us, last_us, status, reason, origin, count in json.loads(value or "[]")
        ]
    except (ValueError, TypeError):
        raise StoreError(
            "the counts of rejected posts in the database are damaged and cannot be read. Restore the database from a "
            "backup."
        ) from None


class Refusals:
    """
    Counts rejected posts, and writes the counts to the database in a thread of its own.

    Args:
        now: The clock; only the demo passes its own.
        redact: Removes secrets from log lines.
    """

    def __init__(self, store: Database, app: str, now: Callable[[], datetime], redact: Callable[[str], str]):
        self._store, self._app, self._now, self._redact = store, app, now, redact
        # By minute, status, reason and origin: first, last, count.
        self._counted: dict[tuple[int, int, str, str], tuple[int, int, int]] = {}
        self._logged: dict[tuple[int, str, str], int] = {}  # When each status, reason and origin was logged last.
        self._unstored: list[Refused] = []
        self._lock, self._some, self._stop = threading.Lock(), threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="refusals", daemon=True)
        self._thread.start()

    def count(self, status: int, reason: str, origin: str) -> None:
        """Count one rejected post, without waiting for the database."""
        now_us = clock.micros(self._now())
        key = (
            now_us // MINUTE_US,
            status,
            self._redact(formatting.single_line(reason, LONGEST)),
            self._redact(formatting.single_line(origin, LONGEST)),
        )
        with self._lock:
            if key not in self._counted and len(self._counted) >= MOST_AT_ONCE:
                key = (
                    (*key[:3], OTHERS)
                    if len(self._counted) < 2 * MOST_AT_ONCE
                    else (key[0], 0, "for several reasons", OTHERS)
                )
            first_us, _, before = self._counted.get(key, (now_us, now_us, 0))
            self._counted[key] = (first_us, now_us, before + 1)
        self._some.set()

    def _run(self) -> None:
        while not self._stop.is_set():
            self._some.wait()
            self._some.clear()
            self.flush()
            self._stop.wait(FLUSH_S)
        self.flush()

    def flush(self) -> None:
        """Add the counts to those in the database, and log them."""
        with self._lock:
            counted, self._counted = self._counted, {}
        if not counted:
            return
        rows = self._unstored + [
            Refused(first_us, last_us, status, reason, origin, n)
            for (_, status, reason, origin), (first_us, last_us, n) in counted.items()
        ]
        self._log(rows[len(self._unstored) :])
        try:
            with self._store.committing() as connection:
                found = {
                    (r.last_us // MINUTE_US, r.status, r.reason, r.origin): r
                    for r in _stored(connection.execute(_FACT, {"of": _key(self._app)}).scalar())
                }
                for row in rows:
                    key = (row.last_us // MINUTE_US, row.status, row.reason, row.origin)
                    found[key] = row.and_also(found.get(key))
                newest = sorted(found.values(), key=lambda r: r.last_us)[-MOST_ROWS:]
                self._store.put(connection, _key(self._app), json.dumps(newest))
            self._unstored = []
        except (StoreError, OSError) as problem:
            self._unstored = rows[-MOST_ROWS:]  # They are written the next time.
            total = sum(r.count for r in rows)
            logs.of(self._redact).error(
                f"the counts of {total} rejected posts could not be written to the database: {problem}"
            )

    def _log(self, rows: list[Refused]) -> None:
        for row in rows:
            which = (row.status, row.reason, row.origin)
            if row.last_us - self._logged.get(which, -(10**18)) >= LOG_S * 1e6:
                if len(self._logged) >= 2 * MOST_AT_ONCE:
                    self._logged.clear()
                self._logged[which] = row.last_us
                logs.of(self._redact).warning(row.words)

    def close(self) -> None:
        """Write the remaining counts, then stop."""
        self._stop.set()
        self._some.set()
        self._thread.join()
