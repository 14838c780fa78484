"""
Run the collector: probe, evaluate when it holds the lease, and have people notified.

Any number of collectors may run on one store; one of them judges. When it dies, another goes on at the instant after
the last that was kept, with what was known then, so that nobody can tell from the record that anything died.
"""

import asyncio
import json
import secrets
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from datetime import datetime
from functools import partial

from opslib.alerting import evaluation, replay
from opslib.alerting.alerts import GRID_US, Alert, Transition
from opslib.alerting.evaluator import SETTLE_US, Evaluator, evaluation_time
from opslib.alerting.notifications.planner import OF_COLLECTOR
from opslib.alerting.notifications.store import NotificationStore
from opslib.alerting.store import AlertStore, Lease
from opslib.foundation import clock, formatting, logs, market_calendar
from opslib.foundation.clock import SECOND
from opslib.foundation.config.contacts import Contacts
from opslib.foundation.config.rules import SENT, Rules
from opslib.foundation.config.settings import Settings
from opslib.foundation.errors import StoreError
from opslib.foundation.storage import cache
from opslib.foundation.storage.cache import Cache
from opslib.foundation.storage.database import Database
from opslib.services import periodic
from opslib.services.notifying import NotificationTasks
from opslib.services.periodic import PeriodicTask
from opslib.telemetry.probes.history import ProbeHistory
from opslib.telemetry.probes.runner import SLEPT_S, ProbeRunner
from opslib.telemetry.probes.store import SampleStore

HEARTBEAT_S = 60.0
PATIENCE_S = 10.0  # For the answer of a heartbeat service.
WELL_S = 60.0  # Who has judged, or seen that nothing is to be judged, so lately is well.
SET_BACK_US = 30 * SECOND  # A clock that is set back by less is not worth a word.
AT_ONCE = 60  # Instants that are kept together; who catches up loses no more than these when killed.


def breaches_greeks(became: list[Transition], rules: Rules) -> bool:
    """Whether a rule about the page's Greeks begins to breach, so that the chains are to be fetched anew."""
    return any(
        t.source == evaluation.PAGE and t.kind in ("pending", "fired", "rose") and rules[t.rule].panel == "greeks"
        for t in became
    )


class Collector:
    """
    Judges the alerts of one app, when it is its turn.

    Args:
        holder: Its name among collectors; no other may have it.
        now: What time it is; only the demo gives another one.
        greeks_breach: Called when a rule about the page's Greeks begins to breach, so that the chains are fetched anew.
    """

    def __init__(
        self,
        store: Database,
        settings: Settings,
        rules: Rules,
        holder: str,
        now: Callable[[], datetime] = clock.now,
        greeks_breach: Callable[[], None] = lambda: None,
    ):
        self.settings, self.rules, self.holder, self.now, self.greeks_breach = (
            settings,
            rules,
            holder,
            now,
            greeks_breach,
        )
        self.record = AlertStore(store, settings.app)
        self._memory = Cache(settings.outputs / cache.FOLDER)
        self._watch: Evaluator | None = None
        self._upto_us: int | None = None
        self._well_at: datetime | None = None
        self._drift_s: float | None = None
        self._blind_until_us: int | None = None
        self._logger = logs.of(settings.redact)

    @property
    def well(self) -> bool:
        """Has it come to the end of what was to be judged lately?"""
        return self._well_at is not None and (self.now() - self._well_at).total_seconds() <= WELL_S

    def judge(self) -> int | None:
        """
        Judge every instant that is due and was not judged yet.

        Returns:
            How many were judged; None where it is another collector's turn.

        Raises:
            StoreError: What could not be kept is judged again the next time.
        """
        try:
            found = self._judge()
        except StoreError:
            self._watch = None
            raise
        self._well_at = self.now()
        return found

    def _judge(self) -> int | None:
        turn = self.record.acquire_lease(self.holder)
        if turn is None:
            self._watch = None
            return None
        now_us = clock.micros(self.now())
        upto_us = evaluation_time(min(turn.known_us, now_us) - SETTLE_US)
        since_us = self._begins(upto_us) if turn.upto_us is None else turn.upto_us
        if since_us - now_us > SET_BACK_US and since_us != self._blind_until_us:
            self._say_blind(turn, now_us, since_us)
        if self._watch is None or self._upto_us != since_us:
            states = [Alert.of_json(state) for state in self.record.states()]
            self._watch = Evaluator(self.record.store, self.settings, self.rules, states, live=True)
        self._upto_us = since_us
        count, kept_us, transitions = 0, since_us, list[Transition]()
        for at_us, became in self._watch.judge(since_us, upto_us):
            count += 1
            transitions += became
            if breaches_greeks(became, self.rules):
                self.greeks_breach()
            if count % AT_ONCE == 0:
                if not self._keep(turn, kept_us, at_us, transitions):
                    return None
                kept_us, transitions = at_us, []
        if (kept_us < upto_us or (turn.upto_us is None and not count)) and not self._keep(
            turn, kept_us, upto_us, transitions
        ):
            return None
        replay.remember(self._watch, self._memory)
        return count

    @staticmethod
    def _begins(upto_us: int) -> int:
        """Who judges for the first time begins with the session that is open, else now."""
        opened = market_calendar.open_since(clock.instant(upto_us))
        return clock.micros(opened) if opened else upto_us

    def _say_blind(self, turn: Lease, now_us: int, until_us: int) -> None:
        """
        Notify people that the clock was set back: what was judged before cannot be judged again, so nothing is until it
        is past.
        """
        self._blind_until_us = until_us
        until, ahead_s = clock.instant(until_us), (until_us - now_us) / SECOND
        words = (
            f"This machine's clock was set back by {formatting.duration(ahead_s)}: no alert is judged until it is "
            f"past {formatting.moment(until)}. "
            "Compare it with a time server; if it is wrong, set it right. Watch the app by hand until then."
        )
        labels = {"alertname": "clock_skew", "rule": "clock_skew", "subject": "monitor", "severity": "critical"}
        alert = {"fingerprint": f"setback{OF_COLLECTOR}", "labels": labels, "annotations": {"summary": words}}
        NotificationStore(self.record.store, self.settings.app).heard(
            [alert | {"starts_us": now_us, "ends_us": turn.known_us + until_us - now_us}]
        )
        self._logger.warning(words)

    def _keep(self, turn: Lease, since_us: int, upto_us: int, transitions: list[Transition]) -> bool:
        assert self._watch
        told = {i: edge for i, t in enumerate(transitions) if (edge := self._edge(t))}
        kept = self.record.keep(
            turn, since_us, upto_us, transitions, [a.as_json() for a in self._watch.alerts.alerts.values()], told
        )
        self._upto_us = upto_us
        if not kept:
            self._watch = None
        return kept

    @staticmethod
    def _edge(t: Transition) -> str | None:
        """Is somebody to be told of a transition, and of which edge?"""
        if t.severity not in SENT or t.inhibited_by:
            return None
        return {
            "fired": "firing",
            "rose": "firing",
            "released": "firing",
            "fell": "resolved",
            "resolved": "resolved",
            "ended": "resolved",
        }.get(t.kind)

    def _tell_jump(self) -> None:
        """
        Keep a beat that says so where our own clock was set forward, or the machine slept, since the last time.

        The prober says the same with its next beat; the instants between must not be judged before that is known.
        """
        now = self.now()
        drift_s = now.timestamp() - time.monotonic() * clock.speed()
        stepped_s = 0.0 if self._drift_s is None else drift_s - self._drift_s
        if stepped_s > SLEPT_S * max(1.0, clock.speed() / 10) and self._watch is not None:
            samples = SampleStore(self.record.store, self.settings.app)
            last = samples.last("beat", clock.micros(now))
            if last and last.outcome != "stopped":
                detail = json.dumps(
                    {"every_s": last.told()["every_s"], "stepped_s": round(stepped_s, 1)}, sort_keys=True
                )
                samples.keep([last._replace(ts_us=clock.micros(now), detail=detail)])
        self._drift_s = drift_s

    def evaluate(self) -> None:
        """Judge what is due by now, having said first whether our clock jumped; raises as `judge` does."""
        self._tell_jump()
        self.judge()

    def until_next_s(self) -> float:
        """How long it is until the next instant is to be judged."""
        now_us = clock.micros(self.now())
        return (GRID_US - (now_us - SETTLE_US) % GRID_US) / SECOND

    def leave(self) -> None:
        """Let another collector go on at once."""
        try:
            self.record.leave(self.holder)
        except StoreError as problem:
            self._logger.error(f"{problem} The next collector waits until our turn is over.")


class Standby:
    """
    Watches over the collector from another process: where it has died, this one judges and tells in its place.

    A collector that was stopped, or never was, is missed by nobody; nor is one while the market is closed.
    """

    def __init__(
        self,
        store: Database,
        settings: Settings,
        rules: Rules,
        staff: Contacts,
        now: Callable[[], datetime] = clock.now,
    ):
        self._samples, self._rules, self._now = SampleStore(store, settings.app), rules, now
        self._logger = logs.of(settings.redact)
        self._collector = Collector(store, settings, rules, f"standby-{secrets.token_hex(8)}", now)
        self._notifying = NotificationTasks(store, settings, rules, staff, now)

    def needed(self) -> bool:
        """Has the collector fallen silent for longer than its rule bears?"""
        at_us = clock.micros(self._now())
        beat = self._samples.last("beat", at_us)
        missed = ProbeHistory(samples=[beat]).missed_beats(at_us) if beat else None
        return (
            missed is not None
            and market_calendar.open_since(self._now()) is not None
            and self._rules["heartbeat"].past(missed, float(dict(self._rules["heartbeat"].ladder)["critical"]))
        )

    def run(self, stop: threading.Event) -> None:
        """Stand by until stopped."""
        told, telling, quiet = "", None, threading.Event()
        while not stop.is_set():
            try:
                if self.needed():
                    self._collector.judge()
                    if telling is None:
                        self._logger.warning(
                            "the collector has fallen silent; alerts are judged and told from here until it is back"
                        )
                        quiet.clear()
                        telling = threading.Thread(target=self._notifying.run, args=(quiet,), name="standby notify")
                        telling.start()
                elif telling is not None:
                    self._collector.record.leave(self._collector.holder)
                    quiet.set()
                    telling.join()
                    telling = None
                told = ""
            except StoreError as problem:
                if str(problem) != told:
                    told = str(problem)
                    self._logger.error(told)
            stop.wait(GRID_US / SECOND / clock.speed())
        quiet.set()
        if telling is not None:
            telling.join()


def periodic_tasks(judge: Collector, notifying: NotificationTasks, own_thread: Executor) -> list[PeriodicTask]:
    """List what the collector does again and again, beside probing; judging has a thread of its own."""

    async def evaluate() -> None:
        await asyncio.get_running_loop().run_in_executor(own_thread, judge.evaluate)

    return [
        PeriodicTask("judging alerts", evaluate, judge.until_next_s),
        *notifying.tasks(),  # Watch what is due, plan, follow alerts into incidents; send.
        periodic.every("the heartbeat", HEARTBEAT_S, partial(send_heartbeat, judge, notifying)),
    ]


async def send_heartbeat(judge: Collector, notifying: NotificationTasks) -> None:
    """
    Tell a heartbeat service that we are well, so that somebody hears of it when all of this machine is gone.

    Nothing is sent while we are not, or where no service is configured.
    """
    url, complaints = judge.settings.secret("OPS_HEARTBEAT_URL"), notifying.complaints
    if not url or not judge.well or not notifying.well:
        return
    import httpx

    try:
        async with httpx.AsyncClient(timeout=PATIENCE_S, follow_redirects=False) as client:
            answer = await client.get(url)
        if not answer.is_success:
            complaints.say("pulse", f"the heartbeat service answered {answer.status_code}")
        else:
            complaints.over("pulse")
    except (httpx.RequestError, httpx.InvalidURL) as problem:
        complaints.say("pulse", f"the heartbeat service could not be reached ({problem.__class__.__name__})")


def collect(settings: Settings, store: Database, rules: Rules, staff: Contacts, every_s: float) -> None:
    """
    Look at everything that the settings name, judge every rule and tell people, until SIGTERM or SIGINT.

    The periodic tasks have a thread of their own, so that however long one takes, every look is made in time.

    Raises:
        StoreError: The store can only be read.
    """
    store.file.check_writable()
    stop = threading.Event()
    rounds = ProbeRunner(settings, store, rules, every_s=every_s)
    judge = Collector(store, settings, rules, secrets.token_hex(8), greeks_breach=rounds.fetch_chains_again)
    notifying = NotificationTasks(store, settings, rules, staff)

    def work() -> None:
        with ThreadPoolExecutor(1, "judge") as own_thread:
            periodic.run_until_stopped(periodic_tasks(judge, notifying, own_thread), stop, notifying.complaints)
        judge.leave()

    async def looking() -> None:
        loop, stopping = asyncio.get_running_loop(), asyncio.Event()
        for name in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(name, stopping.set)
        await rounds.run(stopping)

    working = threading.Thread(target=work, name="periodic tasks")
    working.start()
    try:
        asyncio.run(looking())
    finally:
        stop.set()
        working.join()
