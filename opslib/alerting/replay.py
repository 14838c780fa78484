"""
Re-evaluate the alerts of a session, and cache the result.

A replay evaluates thousands of instants. Rows are only added to the database, so the number of rows and the newest row
of the session show whether a cached result is still valid.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from opslib.alerting import evaluator
from opslib.alerting.alerts import Alert, Alerts, Transition
from opslib.alerting.evaluator import Evaluator, evaluate_at, sessions
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

FORM = 1  # Version of the cached result; other versions are computed again.


def replay_cached(
    store: Database, settings: Settings, rules: Rules, session: Session, known_at_us: int | None, cache: Cache
) -> tuple[list[Transition], Alerts]:
    """
    Replay a session with the present data and rules.

    Returns:
        The transitions from its open to its close, and the alerts at the close.
    """

    def evaluate() -> dict[str, Any]:
        transitions, alerts = replay_session(
            store, settings, rules, clock.micros(session.opens), clock.micros(session.closes), known_at_us
        )
        return {
            "transitions": [list(t) for t in transitions],
            "alerts": [alert.as_json() for alert in alerts.alerts.values()],
        }

    kept = cache.once(_name(session), list(_basis_of(store, settings, rules, session, known_at_us)), evaluate)
    return [Transition(*row) for row in kept["transitions"]], Alerts(
        rules, [Alert.of_json(state) for state in kept["alerts"]]
    )


def cache_session(live: Evaluator, cache: Cache) -> None:
    """
    Cache the live evaluation of a session as its replay, if no data came late.

    The session then is not evaluated a second time for its report.
    """
    whole, live.whole = live.whole, None
    if whole is None:
        return
    basis = _basis_of(live.store, live.settings, live.rules, whole.session, None)
    counts = basis.snapshots[0], basis.samples[0], basis.fills[0]
    if counts == whole.rows and (basis.wired, basis.before_us, basis.heartbeat_us) == whole.began:
        found = {"transitions": [list(t) for t in whole.transitions], "alerts": whole.alerts}
        cache.keep(_name(whole.session), list(basis), found)


def _name(session: Session) -> str:
    return f"{session.day}-alerts"


class _Basis(NamedTuple):
    """
    All inputs of a session's replay.

    Attributes:
        wired: The wired fields at the open.
        before_us, heartbeat_us: The times of the last snapshot and the last heartbeat before it.
        market: The hours of the open market.
        snapshots, samples, fills: The number of rows as far back as any rule needs, and the newest.
    """

    form: int
    version: str
    rules: str
    post_every_s: float
    fallback: str
    wired: list[str]
    before_us: int | None
    heartbeat_us: int | None
    market: list[tuple[int, int]]
    snapshots: tuple[int, int]
    samples: tuple[int, int]
    fills: tuple[int, int]


def _basis_of(store: Database, settings: Settings, rules: Rules, session: Session, known_at_us: int | None) -> _Basis:
    app, reach, closes_us = settings.app, evaluator.reach_us(rules, session), clock.micros(session.closes)
    samples = SampleStore(store, app)
    before, heartbeat = (
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
        sorted(SnapshotStore(store).wired(app, known_at_us, reach.posts_us) | frozenset(settings.wired)),
        before.ts_us if before else None,
        heartbeat.ts_us if heartbeat else None,
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
    Replay (since, upto] with the present data and rules.

    The first session is evaluated from its open, so that alerts that began before `since` are known.

    Returns:
        The transitions from that open on, and the alerts at the end.
    """
    if found := next(sessions(since_us, upto_us), None):
        since_us = min(since_us, clock.micros(found[0].opens))
    evaluation = Evaluator(store, settings, rules, known_at_us=known_at_us)
    transitions = [t for _, became in progress(evaluation.evaluate(since_us, upto_us)) for t in became]
    return transitions, evaluation.alerts


def replay_view(
    counters: CounterHistory,
    rules: Rules,
    since_us: int,
    upto_us: int,
    probed: ProbeHistory | None = None,
    fills: Iterable[StoredFill] = (),
) -> list[Transition]:
    """
    Evaluate (since, upto] from the data of a view: counters, probes and fills.

    It is used if no evaluation is stored. Alerts that began before `since` begin there, and burn rates are left out.
    """
    rules = rules.without_budgets()
    found, alerts, fill_figures = [], Alerts(rules), FillFigures(rules)
    fill_figures.add(fills, lambda row: row.ts_us)
    for _, open_instants, after in sessions(since_us, upto_us):
        for at_us in (instant for instant in open_instants if probed is None or not probed.jumped(instant)):
            found += evaluate_at(at_us, alerts, counters, rules, probed, fill_figures)
        found += alerts.close(after) if after else []
    return found
