"""
Evaluate the alerts of a session anew, once for what it rests on.

A replay evaluates thousands of instants. The store is only ever added to, so how many rows are known of the time
that is looked at, and which is the newest, tells whether that would come out otherwise.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from opslib.alerting import evaluator
from opslib.alerting.alerts import Alert, Alerts, Transition
from opslib.alerting.evaluator import Evaluator, judged_at, sessions
from opslib.alerting.fill_figures import FillFigures
from opslib.foundation import clock
from opslib.foundation.config.rules import Rules
from opslib.foundation.config.settings import Settings
from opslib.foundation.market_calendar import Session
from opslib.foundation.storage.cache import Cache
from opslib.foundation.storage.database import Database
from opslib.foundation.version import VERSION
from opslib.telemetry.pages.counters import CounterHistory
from opslib.telemetry.pages.store import SnapshotStore
from opslib.telemetry.probes.history import ProbeHistory
from opslib.telemetry.probes.store import SampleStore
from opslib.trading.pnl.store import FillStore, StoredFill

FORM = 1  # Of what is remembered: another form is computed anew.


def of(
    store: Database, settings: Settings, rules: Rules, session: Session, known_at_us: int | None, memory: Cache
) -> tuple[list[Transition], Alerts]:
    """
    What do today's data and rules say became of alerts from a session's open to its close, and how do they stand there?
    The alerts of a session, replayed from its snapshots and samples.
    """

    def judged() -> dict[str, Any]:
        transitions, alerts = replay_session(
            store, settings, rules, clock.micros(session.opens), clock.micros(session.closes), known_at_us
        )
        return {
            "transitions": [list(t) for t in transitions],
            "alerts": [alert.as_json() for alert in alerts.alerts.values()],
        }

    kept = memory.once(_name(session), list(_rests_on(store, settings, rules, session, known_at_us)), judged)
    return [Transition(*row) for row in kept["transitions"]], Alerts(
        rules, [Alert.of_json(state) for state in kept["alerts"]]
    )


def remember(watch: Evaluator, memory: Cache) -> None:
    """
    Keep what a replay of a session would find, where it was just judged live and nothing of it was known late.

    So a session is judged once, and its report is there at once.
    """
    whole, watch.whole = watch.whole, None
    if whole is None:
        return
    basis = _rests_on(watch.store, watch.settings, watch.rules, whole.session, None)
    counts = basis.snapshots[0], basis.samples[0], basis.fills[0]
    if counts == whole.rows and (basis.alive, basis.before_us, basis.beat_us) == whole.began:
        found = {"transitions": [list(t) for t in whole.transitions], "alerts": whole.alerts}
        memory.keep(_name(whole.session), list(basis), found)


def _name(session: Session) -> str:
    return f"{session.day}-alerts"


class _Basis(NamedTuple):
    """
    All that a replay of a session depends on.

    Attributes:
        alive: What is wired when it opens.
        before_us, beat_us: When the last snapshot and the last beat before it were.
        market: When the market was open.
        snapshots, samples, fills: How many rows there are as far back as any rule goes, and the newest.
    """

    form: int
    version: str
    rules: str
    post_every_s: float
    fallback: str
    alive: list[str]
    before_us: int | None
    beat_us: int | None
    market: list[tuple[int, int]]
    snapshots: tuple[int, int]
    samples: tuple[int, int]
    fills: tuple[int, int]


def _rests_on(store: Database, settings: Settings, rules: Rules, session: Session, known_at_us: int | None) -> _Basis:
    app, reach, closes_us = settings.app, evaluator.reach_us(rules, session), clock.micros(session.closes)
    samples = SampleStore(store, app)
    before, beat = (
        SnapshotStore(store).last_snapshot(app, reach.posts_us, known_at_us),
        samples.last("beat", reach.probed_us, known_at_us),
    )
    market = [
        (clock.micros(found.opens), clock.micros(found.closes))
        for found, _, _ in evaluator.sessions(reach.posts_us, closes_us)
    ]
    return _Basis(
        FORM,
        VERSION,
        rules.hash,
        settings.post_every_s,
        settings.fallback,
        sorted(SnapshotStore(store).alive(app, known_at_us, reach.posts_us) | frozenset(settings.wired)),
        before.ts_us if before else None,
        beat.ts_us if beat else None,
        market,
        SnapshotStore(store).extent(app, reach.posts_us, closes_us, known_at_us),
        samples.extent(reach.probed_us, closes_us, known_at_us),
        FillStore(store, app).extent(closes_us, known_at_us),
    )


def replay_session(
    store: Database,
    settings: Settings,
    rules: Rules,
    since_us: int,
    upto_us: int,
    known_at_us: int | None = None,
    progress: Callable[[Iterable[Any]], Iterable[Any]] = lambda items: items,
) -> tuple[list[Transition], Alerts]:
    """
    What do today's data and rules say became of alerts in (since, upto]?

    The first session is judged from its open, so that what began before `since` is known; returns the transitions from
    that open on, and the alerts as they stand at the end.
    """
    if found := next(sessions(since_us, upto_us), None):
        since_us = min(since_us, clock.micros(found[0].opens))
    watch = Evaluator(store, settings, rules, known_at_us=known_at_us)
    transitions = [t for _, became in progress(watch.judge(since_us, upto_us)) for t in became]
    return transitions, watch.alerts


def replay_view(
    tape: CounterHistory,
    rules: Rules,
    since_us: int,
    upto_us: int,
    probed: ProbeHistory | None = None,
    filed: Iterable[StoredFill] = (),
) -> list[Transition]:
    """
    What became of alerts in (since, upto], by a tape, what our own looks saw, and fills, as they stand?

    For a view, where nobody has judged: what began before `since` begins there, and budgets are not judged.
    """
    rules = rules.without_budgets()
    found, alerts, realised = [], Alerts(rules), FillFigures(rules)
    realised.add(filed, lambda row: row.ts_us)
    for _, open_instants, after in sessions(since_us, upto_us):
        for at_us in (instant for instant in open_instants if probed is None or not probed.jumped(instant)):
            found += judged_at(at_us, alerts, tape, rules, probed, realised)
        found += alerts.close(after) if after else []
    return found
