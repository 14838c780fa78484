"""
Evaluate the alerts of a session anew, once for what it rests on.

`watch.replayed` judges thousands of instants. The store is only ever added to, so how many rows are known of the time
that is looked at, and which is the newest, tells whether that would come out otherwise.
"""

from typing import Any

from opslib import clock, watch
from opslib.alerts import Alert, Alerts, Transition
from opslib.clock import Session
from opslib.filings import Filings
from opslib.memory import Memory
from opslib.rules import Rules
from opslib.samples import Samples
from opslib.settings import VERSION, Settings
from opslib.snapshot_store import SnapshotStore
from opslib.store import Store

FORM = 1  # Of what is remembered: another form is computed anew.


def of(
    store: Store, settings: Settings, rules: Rules, session: Session, known_at_us: int | None, memory: Memory
) -> tuple[list[Transition], Alerts]:
    """
    What do today's data and rules say became of alerts from a session's open to its close, and how do they stand there?
    As `watch.replayed`.
    """

    def judged() -> dict[str, Any]:
        transitions, alerts = watch.replayed(
            store, settings, rules, clock.micros(session.opens), clock.micros(session.closes), known_at_us
        )
        return {
            "transitions": [list(t) for t in transitions],
            "alerts": [alert.as_json() for alert in alerts.alerts.values()],
        }

    kept = memory.once(f"{session.day}-alerts", _rests_on(store, settings, rules, session, known_at_us), judged)
    return [Transition(*row) for row in kept["transitions"]], Alerts(
        rules, [Alert.of_json(state) for state in kept["alerts"]]
    )


def _rests_on(store: Store, settings: Settings, rules: Rules, session: Session, known_at_us: int | None) -> list[Any]:
    """
    All that a replay of a session depends on: posts and our own looks as far back as any rule goes, fills, what is
    wired, when the market was open, the limits.
    """
    app, reach, closes_us = settings.app, watch.reach_us(rules, session), clock.micros(session.closes)
    samples = Samples(store, app)
    before, beat = (
        SnapshotStore(store).last_look(app, reach.posts_us, known_at_us),
        samples.last("beat", reach.probed_us, known_at_us),
    )
    market = [
        (clock.micros(found.opens), clock.micros(found.closes))
        for found, _, _ in watch.sessions(reach.posts_us, closes_us)
    ]
    return [
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
        Filings(store, app).extent(closes_us, known_at_us),
    ]
