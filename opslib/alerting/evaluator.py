"""
Decide which instants are evaluated, and what is known at each.

Alerts are judged while the market is open, every five seconds of the epoch, and once after its close, when they end.
Live, an instant is judged by what had come into the store two seconds after it, whenever that is done; in a replay, by
all that is known of it now. Both run through the same tape and the same state machine.
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
from opslib.telemetry.pages.snapshot import shown_alive
from opslib.telemetry.pages.store import SnapshotStore
from opslib.telemetry.probes.history import ProbeHistory
from opslib.telemetry.probes.store import Sample, SampleStore
from opslib.trading.pnl.store import OF_NO_MOMENT_US, FillStore, StoredFill

PROBED_REACH = timedelta(hours=2)  # Further than any rule about our own looks reaches.
FORGET_EVERY_US = 600 * SECOND
SETTLE_US = 2 * SECOND  # What happened up to an instant may take so long to be known, and counts all the same.


def evaluation_time(at_us: int) -> int:
    """The last instant of the grid at or before a moment."""
    return at_us - at_us % GRID_US


# So long after the last fact alerts are still evaluated: longer than a session, so up to its close.
AFTER = timedelta(hours=8)


def sessions(since_us: int, upto_us: int) -> Iterator[tuple[Session, range, int | None]]:
    """
    Which instants are judged after one moment, up to and at another?

    Returns:
        For each session: its instants of the open market, and the one after its close where that is among them.
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


def judged_at(
    at_us: int,
    alerts: Alerts,
    tape: CounterHistory,
    rules: Rules,
    probed: ProbeHistory | None = None,
    realised: FillFigures | None = None,
) -> list[Transition]:
    """What becomes of alerts at an instant, by a tape, what our own looks saw, and fills?"""
    by_fills = realised.finding(at_us) if realised else []
    return alerts.advance(
        at_us,
        [*evaluation.evaluate_rules(tape, rules, clock.instant(at_us), probed), *by_fills],
        lambda page: tape.closed(*page, at_us),
        lambda finding: onset.began_us(finding, tape, probed, at_us),
    )


class Reach(NamedTuple):
    """From when on is what judging a session rests on? Microseconds since 1970."""

    posts_us: int
    probed_us: int


def reach_us(rules: Rules, session: Session) -> Reach:
    """How far before its open does judging a session look?"""
    longest = max(rule.window for rule in rules.rules.values()) + timedelta(seconds=rules.pages.reset_gap_s)
    return Reach(clock.micros(session.opens - longest), clock.micros(session.opens - PROBED_REACH))


class WholeSession(NamedTuple):
    """
    A session of which every instant was judged, when all that is known of it was known in time.

    Attributes:
        transitions: What became of alerts up to the close.
        alerts: As they stood at the close; those that the session did not touch are not among them.
        began: What was wired when it opened, and when the last snapshot and the last beat before it were.
        rows: How many snapshots, probe samples and fills it rests on.
    """

    session: Session
    transitions: list[Transition]
    alerts: list[dict[str, Any]]
    began: tuple[list[str], int | None, int | None]
    rows: tuple[int, int, int]


class Evaluator:
    """
    Judges instants in their order.

    Args:
        alerts: As they stood after the last instant that was judged.
        live: Judge each instant by what was known then; else by all that is known now.
        known_at_us: In a replay, only what was known by then; None is all.

    Attributes:
        whole: The last session that was judged live from its open to its close, and as a replay would judge it; None
            where there is none.
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
        self._filings = FillStore(store, settings.app)
        self._session: Session | None = None
        self.whole: WholeSession | None = None

    def judge(self, since_us: int, upto_us: int) -> Iterator[tuple[int, list[Transition]]]:
        """Judge every instant in (since, upto]; yields each with what became of alerts at it."""
        for session, open_instants, after in sessions(since_us, upto_us):
            if open_instants:
                if self._session != session:
                    self._begin(session)
                    self._in_time = self.live and open_instants.start == clock.micros(session.opens) + GRID_US
                self._fetch(upto_us, clock.micros(session.closes))
                self._fetch_probed(upto_us, clock.micros(session.closes))
                self._fetch_filed(upto_us, clock.micros(session.closes))
                for at_us in open_instants:
                    self._feed(at_us)
                    became = (
                        []
                        if self._beats.jumped(at_us)
                        else judged_at(
                            at_us,
                            self.alerts,
                            self._tape,
                            self.rules,
                            self._probed if self._probed.any else None,
                            self._realised,
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
        self.whole = WholeSession(session, self._became, touched, self._began, rows)

    def _begin(self, session: Session) -> None:
        """A tape of its own for each session, that begins at the same moment whoever judges, and whenever."""
        start_us, self._probed_from_us = reach_us(self.rules, session)
        known_us = clock.micros(session.opens) if self.live else self.known_at_us
        app, settings = self.settings.app, self.settings
        before = SnapshotStore(self.store).last_snapshot(app, start_us, known_us)
        alive = SnapshotStore(self.store).alive(app, known_us, start_us) | frozenset(settings.wired)
        self._tape = CounterHistory(
            self.rules.pages, settings.post_every_s, alive=alive, last_before_us=before.ts_us if before else None
        )
        self._session, self._start_us, self._read_us, self._seq, self._taken = (
            session,
            start_us,
            start_us,
            0,
            set[int](),
        )
        self._waiting: deque[tuple[int, SnapshotRow]] = deque()
        beat = self._begin_probed()
        self._became, self._rows = list[Transition](), Counter[str]()
        self._began = sorted(alive), before.ts_us if before else None, beat.ts_us if beat else None
        self._realised, self._filed_seq, self._filed_us = FillFigures(self.rules), 0, OF_NO_MOMENT_US - 1

    def _begin_probed(self) -> Sample | None:
        self._probed, self._sampled_us, self._sample_seq = ProbeHistory(self.settings.fallback), self._probed_from_us, 0
        self._unseen: deque[tuple[int, Sample]] = deque()
        beat = self._samples.last(
            "beat",
            self._sampled_us,
            clock.micros(self._session.opens) if self.live and self._session else self.known_at_us,
        )
        self._probed.add([beat] if beat else [])
        # As soon as they are known, so that what our clock jumped over is.
        self._beats = ProbeHistory(samples=[beat] if beat else [])
        return beat

    def _fetch_probed(self, upto_us: int, closes_us: int) -> None:
        """Read what our own looks have seen since the last time, and let go of what no rule looks back to."""
        if self.live:
            self._sample_seq, found = self._samples.written(self._sample_seq, self._probed_from_us, closes_us)
        else:
            until_us = min(upto_us, closes_us)
            found = self._samples.between(self._sampled_us, until_us, self.known_at_us)
            self._sampled_us = max(self._sampled_us, until_us)
        self._rows["samples"] += len(found)
        beats = [sample for sample in found if sample.probe == "beat"]
        if any('"stepped_s"' in beat.detail for beat in beats):
            self._in_time = False  # Which instants a clock jumped over depends on when that was known.
        self._beats.add(beats)
        self._unseen = deque(
            sorted([*self._unseen, *((self._counts_from(sample), sample) for sample in found)], key=lambda w: w[0])
        )

    def _fetch_filed(self, upto_us: int, closes_us: int) -> None:
        """Read which fills have come since the last time: live by the order of writing, in a replay by their time."""
        if self.live:
            found = self._filings.written(self._filed_seq, closes_us)
            self._filed_seq = max([self._filed_seq, *(row.seq for row in found)])
        else:
            until_us = min(upto_us, closes_us)
            found = (
                [row for row in self._filings.written(0, until_us, self.known_at_us) if row.ts_us > self._filed_us]
                if until_us > self._filed_us
                else []
            )
            self._filed_us = max(self._filed_us, until_us)
        self._rows["fills"] += len(found)
        self._realised.add(found, self._counts_from)

    def _fetch(self, upto_us: int, closes_us: int) -> None:
        """Read what has come of the session since the last time."""
        app = self.settings.app
        if self.live:
            written = SnapshotStore(self.store).snapshots_written(app, self._seq, self._start_us, closes_us)
            looks = [look for look in written if look.known_at_us < upto_us + SETTLE_US and look.seq not in self._taken]
            # A recording that is read in with its own times may stand behind a post that is not known yet: that one
            # must be read again.
            later = min((look.seq for look in written if look.known_at_us >= upto_us + SETTLE_US), default=None)
            self._seq = later - 1 if later else max([self._seq, *(look.seq for look in written)])
            self._taken = {seq for seq in (*self._taken, *(look.seq for look in looks)) if seq > self._seq}
        else:
            until_us = min(upto_us, closes_us)
            looks = SnapshotStore(self.store).looks(app, self._read_us, until_us, self.known_at_us)
            self._read_us = max(self._read_us, until_us)
        self._rows["snapshots"] += len(looks)
        self._waiting = deque(
            sorted([*self._waiting, *((self._counts_from(look), look) for look in looks)], key=lambda w: w[0])
        )

    def _counts_from(self, look: SnapshotRow | Sample | StoredFill) -> int:
        """The first instant at which a look, a sample of ours, or a fill counts."""
        in_time_us = look.ts_us + -look.ts_us % GRID_US
        known_us = look.known_at_us - SETTLE_US + 1
        if not self.live or known_us <= in_time_us:
            return in_time_us
        self._in_time = False
        return known_us + -known_us % GRID_US

    def _feed(self, at_us: int) -> None:
        looks = []
        while self._waiting and self._waiting[0][0] <= at_us:
            looks.append(self._waiting.popleft()[1])
        self._tape.add(looks)
        for look in looks:
            self._tape.alive |= frozenset(shown_alive(look))
        while self._unseen and self._unseen[0][0] <= at_us:
            self._probed.add([self._unseen.popleft()[1]])
        if at_us % FORGET_EVERY_US == 0:
            self._probed.forget(at_us - clock.span_us(PROBED_REACH))


def held(store: Database, app: str, since_us: int, upto_us: int) -> tuple[int, int] | None:
    """
    The part of a range for which the store can have alerts: from its first fact of an app to `AFTER` its last one.

    Returns:
        Both ends in microseconds, within the range; None where the store holds nothing of it.
    """
    # One aggregate a query: SQLite then seeks in the index instead of reading all of it.
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
