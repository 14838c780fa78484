"""
Import a log into the database, as the samples that the collector would have stored had it read that log live.

A line counts at its own time, or at that of the line above it. The lines of 5 seconds form one sample; minutes without
lines in between are samples without an error. Each sample holds the digests of its lines, so that a second import, or
one of a longer copy, adds only new lines.
"""

import base64
import json
from bisect import bisect_left, bisect_right
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

from opslib.foundation import clock, files, formatting
from opslib.foundation.errors import ImportRefused
from opslib.foundation.formatting import NEW_YORK
from opslib.foundation.storage.database import Database
from opslib.telemetry.pages.store import RejectedPost, SnapshotStore
from opslib.telemetry.probes import app_log, log_lines
from opslib.telemetry.probes.app_log import Entry, Summary
from opslib.telemetry.probes.log_lines import LogLine
from opslib.telemetry.probes.store import Sample, SampleStore

SAMPLE_US, QUIET_US = 5_000_000, 60_000_000
MOST_QUIET_US = 3_600_000_000  # After a longer gap the log does not show whether the app was running.
READ_LIVE_US = 120_000_000  # Between two collector samples this close, the collector read the log itself.
BATCH = 20_000
MOST_REJECTS = 1_000
DIGEST_BYTES = 6
NO_TIME = "neither this line nor a line above it has a time; give it with --as-of TIME"


@dataclass
class Counts:
    """The counts of a log's lines, and its errors by kind."""

    accepted: int = 0
    duplicate: int = 0
    rejected: int = 0
    errors: int = 0
    by_kind: Counter[str] = field(default_factory=Counter)
    read_live: int = 0
    without_zone: int = 0


class Instants:
    """
    Converts the times of lines into instants, in the order of the lines.

    A time without a zone is New York time. If it is ambiguous (the log also has zones, or the clock is set back), the
    meaning nearest to the line above counts. A missing year is the one nearest to the line above, else the last one
    before `as_of`.
    """

    def __init__(self, path: Path, as_of: datetime | None):
        self._path, self._as_of = path, as_of
        self._before: datetime | None = None
        self._zones = False
        self.without_zone = 0

    def of(self, number: int, at: datetime | None) -> datetime | None:
        """
        Return the instant of a line: by its own time, else that of the line above, else `as_of`, else None.

        Raises:
            ImportRefused: Its time has no year, and the year cannot be found.
        """
        if at is None:
            return self._before or self._as_of
        meanings = self._meanings(number, at)
        if not meanings:
            return self._before or self._as_of
        before = self._before
        self._before = min(meanings, key=lambda m: abs(m - before)) if before else meanings[0]
        self._zones |= at.tzinfo is not None
        self.without_zone += at.tzinfo is None
        return self._before

    def _meanings(self, number: int, at: datetime) -> list[datetime]:
        if at.year != log_lines.NO_YEAR:
            return self._in_zones(at)
        if self._before:
            return [m for year in range(self._before.year - 1, self._before.year + 2) for m in self._in_year(at, year)]
        if self._as_of is None:
            raise ImportRefused(
                f"{self._path}:{number} has a time without a year ({at:%b %d %H:%M:%S}). Give a later moment, such as "
                f"--as-of 2025-12-31T23:59."
            )
        latest = self._as_of + timedelta(days=1)
        found = (m for year in range(latest.year, latest.year - 5, -1) for m in self._in_year(at, year) if m <= latest)
        return [m for m in [next(found, None)] if m]

    def _in_year(self, at: datetime, year: int) -> list[datetime]:
        try:
            return self._in_zones(at.replace(year=year))
        except ValueError:  # 29 February in a common year.
            return []

    def _in_zones(self, at: datetime) -> list[datetime]:
        if not 1970 < at.year < 9990:
            return []
        if at.tzinfo:
            return [at]
        local = [at.replace(tzinfo=NEW_YORK, fold=fold).astimezone(UTC) for fold in (0, 1)]
        return [*dict.fromkeys(local), *([at.replace(tzinfo=UTC)] if self._zones else [])]


def read(
    store: Database,
    app: str,
    path: Path,
    *,
    as_of: datetime | None = None,
    known_at_ts: bool = False,
    redact: Callable[[str], str] = str,
    progress: Callable[[Iterable[Any]], Iterable[Any]] = iter,
) -> Counts:
    """
    Import a log. A second import, or one of a longer copy, adds only new lines.

    Args:
        as_of: The time of lines without a known time; also gives the year of times without one.
        known_at_ts: Use each line's own time as its known-at time; for replays.
        redact: Removes secrets from stored texts.
        progress: Shows the number of lines read.

    Raises:
        ImportRefused: It is not a readable text file; more than `MOST_REJECTS` lines cannot be read; a year is missing.
    """
    counts, instants, rejects = Counts(), Instants(path, as_of), list[RejectedPost]()
    placed: deque[tuple[bytes, int]] = deque()

    def lines() -> Iterator[LogLine]:
        for number, raw in progress(files.lines(path)):
            line = log_lines.read(raw[: app_log.LONGEST_LINE].decode("utf-8", "replace"))
            if len(raw) > files.LONGEST_LINE:
                why = f"the line is longer than {files.LONGEST_LINE:,} bytes"
            elif b"\0" in raw:
                why = "the line contains binary data"
            else:
                why = ""
            at = None if why else instants.of(number, line.at)
            if at is None:
                rejects.append(
                    RejectedPost(
                        f"{path.name}:{number}",
                        (why or NO_TIME,),
                        redact(raw[: app_log.LONGEST_LINE].decode("utf-8", "replace")).encode(),
                    )
                )
                if len(rejects) > MOST_REJECTS:
                    raise ImportRefused(
                        f"{path}: more than {MOST_REJECTS:,} lines cannot be read; the first is line "
                        f"{rejects[0].source.rsplit(':', 1)[1]}: {rejects[0].reasons[0]}. Nothing after line "
                        f"{number - 1:,} was read."
                    )
                if not why:
                    without_time.append(line)
                continue
            placed.append((raw, clock.micros(at)))
            yield line

    without_time: list[LogLine] = []
    keeping = _Keeping(SampleStore(store, app), path.name, counts, redact, known_at_ts)
    try:
        for entry in app_log.entries(lines()):
            keeping.add(entry, [placed.popleft() for _ in range(entry.count)])
        keeping.flush(all_of_it=True)
    finally:
        SnapshotStore(store).keep_rejects(app, rejects)
    for entry in app_log.entries(iter(without_time)):
        keeping.count(entry)
    if not (counts.accepted or counts.duplicate or rejects):
        raise ImportRefused(f"{path} is empty; expected lines of a log.")
    counts.rejected, counts.without_zone = len(rejects), instants.without_zone
    return counts


class _Keeping:
    """Entries that wait to be stored, in samples by the end of their 5 seconds."""

    def __init__(
        self, samples: SampleStore, name: str, counts: Counts, redact: Callable[[str], str], known_at_ts: bool
    ):
        self._samples, self._name, self._counts, self._redact, self._known_at_ts = (
            samples,
            name,
            counts,
            redact,
            known_at_ts,
        )
        self._waiting: dict[int, list[tuple[Entry, list[bytes], int]]] = {}
        self._lines = 0
        self._last_us: int | None = None  # The last sample of this log up to now.

    def add(self, entry: Entry, lines: list[tuple[bytes, int]]) -> None:
        self.count(entry)
        at_us = lines[0][1]
        digests = [sha256(raw).digest()[:DIGEST_BYTES] for raw, _ in lines]
        self._waiting.setdefault(-(-at_us // SAMPLE_US) * SAMPLE_US, []).append((entry, digests, at_us))
        self._lines += len(lines)
        if self._lines >= BATCH:
            self.flush()

    def count(self, entry: Entry) -> None:
        """Count an entry of the file, new or not."""
        if entry.is_error:
            self._counts.errors += 1
            self._counts.by_kind[entry.kind] += 1

    def flush(self, all_of_it: bool = False) -> None:
        """Store the waiting entries; while reading, without the newest 5 seconds, which may be incomplete."""
        ends = sorted(self._waiting)
        if not all_of_it:
            ends = ends[:-1] or ends
        if ends:
            parts = {end: self._waiting.pop(end) for end in ends}
            self._samples.keep_imported(
                "log",
                min(ends[0], self._last_us or ends[0]) - READ_LIVE_US - SAMPLE_US,
                ends[-1] + READ_LIVE_US,
                lambda kept: self._new_samples(parts, kept),
                known_at_ts=self._known_at_ts,
            )
            self._last_us = max(ends[-1], self._last_us or 0)
        self._lines = sum(len(digests) for entries in self._waiting.values() for _, digests, _ in entries)

    def _new_samples(self, parts: dict[int, list[tuple[Entry, list[bytes], int]]], kept: list[Sample]) -> list[Sample]:
        known: dict[int, Counter[bytes]] = {}
        live = list[int]()
        for sample in kept:
            detail = sample.details()
            if sample.outcome == "ok" and "imported" not in detail:
                live.append(sample.ts_us)
            elif "imported" in detail:
                known.setdefault(sample.ts_us, Counter()).update(_digests(detail["imported"]))
        times = sorted({sample.ts_us for sample in kept})
        made = []
        for end, entries in sorted(parts.items()):
            found, fresh = Summary(), list[bytes]()
            for entry, digests, at_us in entries:
                if _between(live, at_us, READ_LIVE_US):
                    self._counts.duplicate += len(digests)
                    self._counts.read_live += len(digests)
                    continue
                new = [digest for digest in digests if not self._is_known(known.get(end), digest)]
                if digests[0] in new:
                    found.add(entry)
                fresh += new
                self._counts.duplicate += len(digests) - len(new)
            self._counts.accepted += len(fresh)
            if fresh:
                summary = found.summarise(len(fresh))
                made.append(
                    self._sample(
                        end,
                        summary.errors,
                        summary.as_json() | {"imported": base64.b64encode(b"".join(fresh)).decode()},
                    )
                )
        return made + self._quiet(sorted(parts), times)

    @staticmethod
    def _is_known(known: Counter[bytes] | None, digest: bytes) -> bool:
        if known is None or not known[digest]:
            return False
        known[digest] -= 1
        return True

    def _quiet(self, ends: list[int], times: list[int]) -> list[Sample]:
        """Return a sample without lines for each minute without log lines."""
        made = list[Sample]()
        for before, end in zip([self._last_us or ends[0], *ends], ends):
            if QUIET_US < end - before <= MOST_QUIET_US:
                quiet = (
                    at
                    for at in range(before + QUIET_US, end, QUIET_US)
                    if bisect_right(times, at) == bisect_right(times, at - QUIET_US)
                )
                made += [self._sample(at, 0, {"lines": 0, "kinds": {}, "newest": {}, "imported": ""}) for at in quiet]
        return made

    def _sample(self, at_us: int, errors: int, detail: dict[str, Any]) -> Sample:
        return Sample(
            at_us,
            "log",
            "app",
            "ok",
            None,
            float(errors),
            detail=self._redact(
                json.dumps(
                    detail | {"file": formatting.single_line(self._name, 80)}, ensure_ascii=False, sort_keys=True
                )
            ),
        )


def _between(times: list[int], at_us: int, apart_us: int) -> bool:
    """Return whether an instant lies between two neighbours of sorted times that are at most `apart_us` apart."""
    i = bisect_left(times, at_us)
    return 0 < i < len(times) and times[i] - times[i - 1] <= apart_us


def _digests(encoded: str) -> Iterator[bytes]:
    whole = base64.b64decode(encoded)
    return (whole[i : i + DIGEST_BYTES] for i in range(0, len(whole), DIGEST_BYTES))
