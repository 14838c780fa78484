"""
Decide which instants are evaluated and which data is used for each.

Alerts are evaluated every five seconds while the market is open, and once after its close, when they end. A live
evaluation uses the data stored within two seconds after the instant, even if it runs later. A replay uses all data
stored by now. Both use the same counter history and the same state machine.
"""

from collections import Counter, deque
from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import Any, NamedTuple

import sqlalchemy as sa

from opslib.alerting import evaluation, onset
from opslib.alerting.alerts import GRID_US, Alert, Alerts, Transition
from opslib.alerting.fill_figures import FillFigures
from opslib.foundation import clock, market_calendar
from opslib.foundation.clock import SECOND
from opslib.foundation.config.rules import Rules
from opslib.foundation.config.settings import Settings
from opslib.foundation.formatting import NEW_YORK
from opslib.foundation.market_calendar import Session
from opslib.foundation.storage import cell_types
from opslib.foundation.storage.database import Database
from opslib.foundation.storage.schema import FILLS, SAMPLES, SNAPSHOTS
from opslib.foundation.storage.snapshot_columns import SnapshotRow
from opslib.telemetry.pages.counters import CounterHistory
from opslib.telemetry.pages.snapshot import wired_fields
from opslib.telemetry.pages.store import SnapshotStore
from opslib.telemetry.probes.history import ProbeHistory
from opslib.telemetry.probes.store import Sample, SampleStore
from opslib.trading.pnl.store import OF_NO_MOMENT_US, FillStore, StoredFill

PROBED_REACH = timedelta(hours=2)  # Longer than the window of any rule about our probes.
FORGET_EVERY_US = 600 * SECOND
SETTLE_US = 2 * SECOND  # Data up to an instant counts if it is stored within this time after it.


def evaluation_time(at_us: int) -> int:
    """Return the last evaluation time at or before a time."""
    return at_us - at_us % GRID_US


# Alerts are evaluated for this long after the last stored data: longer than a session, so up to its close.
AFTER = timedelta(hours=8)


def sessions(since_us: int, upto_us: int) -> Iterator[tuple[Session, range, int | None]]:
    """
    Return the evaluation times in (since, upto].

    Returns:
        For each session: its instants of the open market, and the instant after its close if it is in the range.
        Days outside the shipped table of sessions count as closed.
    """
    first, last = market_calendar.covered()
    day = max(clock.instant(since_us).astimezone(NEW_YORK).date(), first)
    until = min(clock.instant(upto_us).astimezone(NEW_YORK).date(), last)
    while day <= until:
        if found := market_calendar.session(day):
            opens, closes = clock.micros(found.opens), clock.micros(found.closes)
            begin, end = max(opens, evaluation_time(since_us)) + GRID_US, min(closes, evaluation_time(upto_us))
            after = closes + GRID_US
            if begin <= after and evaluation_time(upto_us) > opens:
                yield found, range(begin, end + 1, GRID_US), after if since_us < after <= upto_us else None
        day += timedelta(days=1)


def evaluate_at(
    at_us: int,
    alerts: Alerts,
    counters: CounterHistory,
    rules: Rules,
    probed: ProbeHistory | None = None,
    fill_figures: FillFigures | None = None,
) -> list[Transition]:
    """Evaluate all rules at an instant from counters, probes and fills; return the transitions of the alerts."""
    by_fills = fill_figures.finding(at_us) if fill_figures else []
    return alerts.advance(
        at_us,
        [*evaluation.evaluate_rules(counters, rules, clock.instant(at_us), probed), *by_fills],
        lambda page: counters.closed(*page, at_us),
        lambda finding: onset.began_us(finding, counters, probed, at_us),
    )


class Reach(NamedTuple):
    """The start of the data that evaluating a session needs; microseconds since 1970."""

    posts_us: int
    probed_us: int


def reach_us(rules: Rules, session: Session) -> Reach:
    """Return the start of the data that evaluating a session needs; it is before the open."""
    longest = max(rule.window for rule in rules.rules.values()) + timedelta(seconds=rules.pages.reset_gap_s)
    return Reach(clock.micros(session.opens - longest), clock.micros(session.opens - PROBED_REACH))


class CompleteSession(NamedTuple):
    """
    A session that was evaluated completely, with no data that came late.

    Attributes:
        transitions: The transitions up to the close.
        alerts: The states at the close of the alerts that changed in the session.
        began: The wired fields at the open, and the times of the last snapshot and the last heartbeat before it.
        rows: Numbers of snapshots, probe samples and fills it is based on.
    """

    session: Session
    transitions: list[Transition]
    alerts: list[dict[str, Any]]
    began: tuple[list[str], int | None, int | None]
    rows: tuple[int, int, int]


class Evaluator:
    """
    Evaluates instants in order.

    Args:
        alerts: Their states after the last evaluated instant.
        live: Whether each instant is evaluated with the data known then; else with all data known now.
        known_at_us: In a replay, only data known by then; None is all.

    Attributes:
        whole: The last session that was evaluated live from open to close with the same result as a replay; None if
            there is none.
    """

    def __init__(
        self,
        store: Database,
        settings: Settings,
        rules: Rules,
        alerts: Iterable[Alert] = (),
        *,
        live: bool = False,
        known_at_us: int | None = None,
    ):
        self.store, self.settings, self.rules, self.live, self.known_at_us = store, settings, rules, live, known_at_us
        self.alerts = Alerts(rules, alerts)
        self._samples = SampleStore(store, settings.app)
        self._fill_store = FillStore(store, settings.app)
        self._session: Session | None = None
        self.whole: CompleteSession | None = None

    def evaluate(self, since_us: int, upto_us: int) -> Iterator[tuple[int, list[Transition]]]:
        """Evaluate every instant in (since, upto]; yield each with its transitions."""
        for session, open_instants, after in sessions(since_us, upto_us):
            if open_instants:
                if self._session != session:
                    self._begin(session)
                    self._in_time = self.live and open_instants.start == clock.micros(session.opens) + GRID_US
                self._fetch(upto_us, clock.micros(session.closes))
                self._fetch_probed(upto_us, clock.micros(session.closes))
                self._fetch_fills(upto_us, clock.micros(session.closes))
                for at_us in open_instants:
                    self._load_until(at_us)
                    became = (
                        []
                        if self._heartbeats.jumped(at_us)
                        else evaluate_at(
                            at_us,
                            self.alerts,
                            self._counters,
                            self.rules,
                            self._probed if self._probed.any else None,
                            self._fill_figures,
                        )
                    )
                    self._became += became
                    if self._in_time and at_us == clock.micros(session.closes):
                        self._complete(session)
                    yield at_us, became
            if after is not None:
                yield after, self.alerts.close(after)

    def _complete(self, session: Session) -> None:
        opens_us = clock.micros(session.opens)
        touched = [alert.as_json() for alert in self.alerts.alerts.values() if alert.seen_us > opens_us]
        rows = (self._rows["snapshots"], self._rows["samples"], self._rows["fills"])
        self.whole = CompleteSession(session, self._became, touched, self._began, rows)

    def _begin(self, session: Session) -> None:
        """Start a counter history for a session; it starts at the same time in live evaluation and replay."""
        start_us, self._probed_from_us = reach_us(self.rules, session)
        known_us = clock.micros(session.opens) if self.live else self.known_at_us
        app, settings = self.settings.app, self.settings
        before = SnapshotStore(self.store).last_snapshot(app, start_us, known_us)
        wired = SnapshotStore(self.store).wired(app, known_us, start_us) | frozenset(settings.wired)
        self._counters = CounterHistory(
            self.rules.pages, settings.post_every_s, wired=wired, last_before_us=before.ts_us if before else None
        )
        self._session, self._start_us, self._read_us, self._seq, self._taken = (
            session,
            start_us,
            start_us,
            0,
            set[int](),
        )
        self._waiting: deque[tuple[int, SnapshotRow]] = deque()
        heartbeat = self._begin_probed()
        self._became, self._rows = list[Transition](), Counter[str]()
        self._began = sorted(wired), before.ts_us if before else None, heartbeat.ts_us if heartbeat else None
        self._fill_figures, self._fills_seq, self._fills_us = FillFigures(self.rules), 0, OF_NO_MOMENT_US - 1

    def _begin_probed(self) -> Sample | None:
        self._probed, self._sampled_us, self._sample_seq = ProbeHistory(self.settings.fallback), self._probed_from_us, 0
        self._unseen: deque[tuple[int, Sample]] = deque()
        heartbeat = self._samples.last(
            "beat",
            self._sampled_us,
            clock.micros(self._session.opens) if self.live and self._session else self.known_at_us,
        )
        self._probed.add([heartbeat] if heartbeat else [])
        # Heartbeats are used as soon as they are known, so that jumps of our clock are known.
        self._heartbeats = ProbeHistory(samples=[heartbeat] if heartbeat else [])
        return heartbeat

    def _fetch_probed(self, upto_us: int, closes_us: int) -> None:
        """Read the probe samples stored since the last call."""
        if self.live:
            self._sample_seq, found = self._samples.written(self._sample_seq, self._probed_from_us, closes_us)
        else:
            until_us = min(upto_us, closes_us)
            found = self._samples.between(self._sampled_us, until_us, self.known_at_us)
            self._sampled_us = max(self._sampled_us, until_us)
        self._rows["samples"] += len(found)
        heartbeats = [sample for sample in found if sample.probe == "beat"]
        if any('"stepped_s"' in heartbeat.detail for heartbeat in heartbeats):
            self._in_time = False  # Which instants are skipped after a clock jump depends on when the jump was known.
        self._heartbeats.add(heartbeats)
        self._unseen = deque(
            sorted([*self._unseen, *((self._counts_from(sample), sample) for sample in found)], key=lambda w: w[0])
        )

    def _fetch_fills(self, upto_us: int, closes_us: int) -> None:
        """Read the fills stored since the last call: live in the order of writing, in a replay by their time."""
        if self.live:
            found = self._fill_store.written(self._fills_seq, closes_us)
            self._fills_seq = max([self._fills_seq, *(row.seq for row in found)])
        else:
            until_us = min(upto_us, closes_us)
            found = (
                [row for row in self._fill_store.written(0, until_us, self.known_at_us) if row.ts_us > self._fills_us]
                if until_us > self._fills_us
                else []
            )
            self._fills_us = max(self._fills_us, until_us)
        self._rows["fills"] += len(found)
        self._fill_figures.add(found, self._counts_from)

    def _fetch(self, upto_us: int, closes_us: int) -> None:
        """Read the snapshots of the session stored since the last call."""
        app = self.settings.app
        if self.live:
            written = SnapshotStore(self.store).snapshots_written(app, self._seq, self._start_us, closes_us)
            snapshots = [
                snapshot
                for snapshot in written
                if snapshot.known_at_us < upto_us + SETTLE_US and snapshot.seq not in self._taken
            ]
            # An imported snapshot with an earlier time can be stored after a snapshot that does not count yet. That
            # one must be read again.
            later = min(
                (snapshot.seq for snapshot in written if snapshot.known_at_us >= upto_us + SETTLE_US), default=None
            )
            self._seq = later - 1 if later else max([self._seq, *(snapshot.seq for snapshot in written)])
            self._taken = {seq for seq in (*self._taken, *(snapshot.seq for snapshot in snapshots)) if seq > self._seq}
        else:
            until_us = min(upto_us, closes_us)
            snapshots = SnapshotStore(self.store).snapshots(app, self._read_us, until_us, self.known_at_us)
            self._read_us = max(self._read_us, until_us)
        self._rows["snapshots"] += len(snapshots)
        self._waiting = deque(
            sorted(
                [*self._waiting, *((self._counts_from(snapshot), snapshot) for snapshot in snapshots)],
                key=lambda w: w[0],
            )
        )

    def _counts_from(self, snapshot: SnapshotRow | Sample | StoredFill) -> int:
        """Return the first instant at which a snapshot, a probe sample or a fill counts."""
        in_time_us = snapshot.ts_us + -snapshot.ts_us % GRID_US
        known_us = snapshot.known_at_us - SETTLE_US + 1
        if not self.live or known_us <= in_time_us:
            return in_time_us
        self._in_time = False
        return known_us + -known_us % GRID_US

    def _load_until(self, at_us: int) -> None:
        snapshots = []
        while self._waiting and self._waiting[0][0] <= at_us:
            snapshots.append(self._waiting.popleft()[1])
        self._counters.add(snapshots)
        for snapshot in snapshots:
            self._counters.wired |= frozenset(wired_fields(snapshot))
        while self._unseen and self._unseen[0][0] <= at_us:
            self._probed.add([self._unseen.popleft()[1]])
        if at_us % FORGET_EVERY_US == 0:
            self._probed.forget(at_us - clock.span_us(PROBED_REACH))


def data_range(store: Database, app: str, since_us: int, upto_us: int) -> tuple[int, int] | None:
    """
    Return the part of a range that can have alerts: from the app's first stored data to `AFTER` its last.

    Returns:
        Both ends in microseconds, within the range; None if the database has no data of it.
    """
    # With one aggregate per query SQLite uses the index instead of reading all rows.
    with store.reading() as connection:
        ends = [
            [
                connection.execute(
                    sa.select(of(t.c.ts_us, type_=sa.BigInteger)).where(t.c.app == app, t.c.ts_us != OF_NO_MOMENT_US)
                ).scalar()
                for of in (sa.func.min, sa.func.max)
            ]
            for t in (SNAPSHOTS, SAMPLES, FILLS)
        ]
    for found in (ts_us for both in ends for ts_us in both if ts_us is not None):
        cell_types.check_time("ts_us", found)
    known = [(first, last) for first, last in ends if first is not None and last is not None]
    if not known:
        return None
    since_us = max(since_us, min(first for first, _ in known) - GRID_US)
    upto_us = min(upto_us, max(last for _, last in known) + clock.span_us(AFTER))
    return (since_us, upto_us) if since_us < upto_us else None
