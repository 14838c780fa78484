"""
This module knows the collector, the process that judges: whose turn it is, what was missed, when to judge again; and
nothing else.

Any number of collectors may run on one store; one of them judges. When it dies, another goes on at the instant after
the last that was kept, with what was known then, so that nobody can tell from the record that anything died.
"""

import sys
import threading
from collections.abc import Callable
from datetime import datetime

from opslib import clock
from opslib.alerts import GRID_US, Alert, Transition
from opslib.errors import StoreError
from opslib.page import SECOND
from opslib.record import Record, Turn
from opslib.rules import SENT, Rules
from opslib.settings import Settings
from opslib.store import Store
from opslib.watch import SETTLE_US, Watch, grid

AT_ONCE = 60  # Instants that are kept together; who catches up loses no more than these when killed.


class Collector:
    """
    Judges the alerts of one app, when it is its turn.

    Args:
        holder: Its name among collectors; no other may have it.
        now: What time it is; only the demo gives another one.
    """

    def __init__(self, store: Store, settings: Settings, rules: Rules, holder: str, now: Callable[[], datetime] = clock.now):
        self.settings, self.rules, self.holder, self.now = settings, rules, holder, now
        self.record = Record(store, settings.app)
        self._watch: Watch | None = None
        self._upto_us: int | None = None

    def judge(self) -> int | None:
        """
        Judge every instant that is due and was not judged yet.

        Returns:
            How many were judged; None where it is another collector's turn.

        Raises:
            StoreError: What could not be kept is judged again the next time.
        """
        try:
            return self._judge()
        except StoreError:
            self._watch = None
            raise

    def _judge(self) -> int | None:
        turn = self.record.take_turn(self.holder)
        if turn is None:
            self._watch = None
            return None
        upto_us = grid(turn.known_us - SETTLE_US)
        since_us = self._begins(upto_us) if turn.upto_us is None else turn.upto_us
        if self._watch is None or self._upto_us != since_us:
            states = [Alert.of_json(state) for state in self.record.states()]
            self._watch = Watch(self.record.store, self.settings, self.rules, states, live=True)
        self._upto_us = since_us
        count, kept_us, transitions = 0, since_us, list[Transition]()
        for at_us, became in self._watch.judge(since_us, upto_us):
            count += 1
            transitions += became
            if count % AT_ONCE == 0:
                if not self._keep(turn, kept_us, at_us, transitions):
                    return None
                kept_us, transitions = at_us, []
        if (kept_us < upto_us or turn.upto_us is None and not count) and not self._keep(turn, kept_us, upto_us, transitions):
            return None
        return count

    @staticmethod
    def _begins(upto_us: int) -> int:
        """Who judges for the first time begins with the session that is open, else now."""
        opened = clock.open_since(clock.instant(upto_us))
        return clock.micros(opened) if opened else upto_us

    def _keep(self, turn: Turn, since_us: int, upto_us: int, transitions: list[Transition]) -> bool:
        assert self._watch
        told = {i: edge for i, t in enumerate(transitions) if (edge := self._edge(t))}
        kept = self.record.keep(turn, since_us, upto_us, transitions, [a.as_json() for a in self._watch.alerts.alerts.values()], told)
        self._upto_us = upto_us
        if not kept:
            self._watch = None
        return kept

    @staticmethod
    def _edge(t: Transition) -> str | None:
        """Is somebody to be told of a transition, and of which edge?"""
        if t.severity not in SENT or t.inhibited_by:
            return None
        return {"fired": "firing", "rose": "firing", "released": "firing", "fell": "resolved", "resolved": "resolved", "ended": "resolved"}.get(t.kind)

    def run(self, stop: threading.Event) -> None:
        """Judge every instant as it comes, until stopped; a store that cannot be reached is told and tried again."""
        while not stop.is_set():
            try:
                self.judge()
            except StoreError as problem:
                print(f"ops collect: {problem}", file=sys.stderr)
            now_us = clock.micros(self.now())
            stop.wait((GRID_US - (now_us - SETTLE_US) % GRID_US) / SECOND)
        self.record.leave(self.holder)
