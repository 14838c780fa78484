"""
Run the collector: probe, evaluate alert rules while it holds the lease, and notify people.

Several collectors may run on one database; the one that holds the lease evaluates. If it dies, another one resumes
after the last stored evaluation time with the data known then, so that the record shows no difference.
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
HEARTBEAT_TIMEOUT_S = 10.0
HEALTHY_S = 60.0  # A collector is healthy if its last complete evaluation is at most this old.
SET_BACK_US = 30 * SECOND  # People are notified if the clock is set back by more than this.
AT_ONCE = 60  # Evaluation times that are stored together; a collector killed while catching up loses at most these.


def breaches_greeks(became: list[Transition], rules: Rules) -> bool:
    """Return whether a rule about the page's Greeks starts to breach, so that the chains must be fetched again."""
    return any(
        t.source == evaluation.PAGE and t.kind in ("pending", "fired", "rose") and rules[t.rule].panel == "greeks"
        for t in became
    )


class Collector:
    """
    Evaluates the alerts of one app while it holds the lease.

    Args:
        holder: Unique name of this collector, for the lease.
        now: The clock; only the demo passes its own.
        greeks_breach: Called when a rule about the page's Greeks starts to breach, to fetch the chains again.
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
        self._cache = Cache(settings.outputs / cache.FOLDER)
        self._evaluator: Evaluator | None = None
        self._upto_us: int | None = None
        self._healthy_at: datetime | None = None
        self._drift_s: float | None = None
        self._set_back_until_us: int | None = None
        self._logger = logs.of(settings.redact)

    @property
    def healthy(self) -> bool:
        """Whether all due evaluations were completed lately."""
        return self._healthy_at is not None and (self.now() - self._healthy_at).total_seconds() <= HEALTHY_S

    def evaluate_due(self) -> int | None:
        """
        Evaluate the rules at every time that is due and not evaluated yet.

        Returns:
            The number of evaluation times; None if another collector holds the lease.

        Raises:
            StoreError: The results could not be stored; they are evaluated again the next time.
        """
        try:
            found = self._evaluate_due()
        except StoreError:
            self._evaluator = None
            raise
        self._healthy_at = self.now()
        return found

    def _evaluate_due(self) -> int | None:
        lease = self.record.acquire_lease(self.holder)
        if lease is None:
            self._evaluator = None
            return None
        now_us = clock.micros(self.now())
        upto_us = evaluation_time(min(lease.known_us, now_us) - SETTLE_US)
        since_us = self._first_since_us(upto_us) if lease.upto_us is None else lease.upto_us
        if since_us - now_us > SET_BACK_US and since_us != self._set_back_until_us:
            self._report_set_back(lease, now_us, since_us)
        if self._evaluator is None or self._upto_us != since_us:
            states = [Alert.of_json(state) for state in self.record.states()]
            self._evaluator = Evaluator(self.record.store, self.settings, self.rules, states, live=True)
        self._upto_us = since_us
        count, kept_us, transitions = 0, since_us, list[Transition]()
        for at_us, became in self._evaluator.evaluate(since_us, upto_us):
            count += 1
            transitions += became
            if breaches_greeks(became, self.rules):
                self.greeks_breach()
            if count % AT_ONCE == 0:
                if not self._keep(lease, kept_us, at_us, transitions):
                    return None
                kept_us, transitions = at_us, []
        if (kept_us < upto_us or (lease.upto_us is None and not count)) and not self._keep(
            lease, kept_us, upto_us, transitions
        ):
            return None
        replay.cache_session(self._evaluator, self._cache)
        return count

    @staticmethod
    def _first_since_us(upto_us: int) -> int:
        """Return where the first evaluation starts: at the open of the current session, else now."""
        opened = market_calendar.open_since(clock.instant(upto_us))
        return clock.micros(opened) if opened else upto_us

    def _report_set_back(self, lease: Lease, now_us: int, until_us: int) -> None:
        """
        Notify people that the clock was set back, so that no rule is evaluated until it passes its old time.

        An evaluation time is never evaluated twice.
        """
        self._set_back_until_us = until_us
        until, ahead_s = clock.instant(until_us), (until_us - now_us) / SECOND
        words = (
            f"The clock of the collector's machine was set back by {formatting.duration(ahead_s)}. No alert is "
            f"evaluated until {formatting.moment(until)}. "
            "Compare the clock with a time server and correct it if it is wrong. Watch the app manually until then."
        )
        labels = {"alertname": "clock_skew", "rule": "clock_skew", "subject": "monitor", "severity": "critical"}
        alert = {"fingerprint": f"setback{OF_COLLECTOR}", "labels": labels, "annotations": {"summary": words}}
        NotificationStore(self.record.store, self.settings.app).store_external_alerts(
            [alert | {"starts_us": now_us, "ends_us": lease.known_us + until_us - now_us}]
        )
        self._logger.warning(words)

    def _keep(self, lease: Lease, since_us: int, upto_us: int, transitions: list[Transition]) -> bool:
        assert self._evaluator
        edges = {i: edge for i, t in enumerate(transitions) if (edge := self._edge(t))}
        kept = self.record.keep(
            lease, since_us, upto_us, transitions, [a.as_json() for a in self._evaluator.alerts.alerts.values()], edges
        )
        self._upto_us = upto_us
        if not kept:
            self._evaluator = None
        return kept

    @staticmethod
    def _edge(t: Transition) -> str | None:
        """Return the edge of which people are notified for a transition: firing, resolved, or None."""
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

    def _record_clock_jump(self) -> None:
        """
        Store a heartbeat that records it if the clock was set forward, or the machine slept, since the last call.

        The probe runner records the same with its next heartbeat; the times in between must not be evaluated before.
        """
        now = self.now()
        drift_s = now.timestamp() - time.monotonic() * clock.speed()
        stepped_s = 0.0 if self._drift_s is None else drift_s - self._drift_s
        if stepped_s > SLEPT_S * max(1.0, clock.speed() / 10) and self._evaluator is not None:
            samples = SampleStore(self.record.store, self.settings.app)
            last = samples.last("beat", clock.micros(now))
            if last and last.outcome != "stopped":
                detail = json.dumps(
                    {"every_s": last.details()["every_s"], "stepped_s": round(stepped_s, 1)}, sort_keys=True
                )
                samples.keep([last._replace(ts_us=clock.micros(now), detail=detail)])
        self._drift_s = drift_s

    def evaluate(self) -> None:
        """Record whether the clock jumped, then evaluate what is due; raises as `evaluate_due` does."""
        self._record_clock_jump()
        self.evaluate_due()

    def until_next_s(self) -> float:
        """Return the seconds until the next evaluation time."""
        now_us = clock.micros(self.now())
        return (GRID_US - (now_us - SETTLE_US) % GRID_US) / SECOND

    def leave(self) -> None:
        """Release the lease, so that another collector continues at once."""
        try:
            self.record.leave(self.holder)
        except StoreError as problem:
            self._logger.error(f"{problem} The lease could not be released; the next collector waits until it expires.")


class Standby:
    """
    Takes over evaluation and notifications from another process if the collector dies.

    It does not take over for a collector that was stopped or never started, nor while the market is closed.
    """

    def __init__(
        self,
        store: Database,
        settings: Settings,
        rules: Rules,
        contacts: Contacts,
        now: Callable[[], datetime] = clock.now,
    ):
        self._samples, self._rules, self._now = SampleStore(store, settings.app), rules, now
        self._logger = logs.of(settings.redact)
        self._collector = Collector(store, settings, rules, f"standby-{secrets.token_hex(8)}", now)
        self._notifying = NotificationTasks(store, settings, rules, contacts, now)

    def needed(self) -> bool:
        """Return whether more heartbeats of the collector are missed than its rule allows."""
        at_us = clock.micros(self._now())
        heartbeat = self._samples.last("beat", at_us)
        missed = ProbeHistory(samples=[heartbeat]).missed_heartbeats(at_us) if heartbeat else None
        return (
            missed is not None
            and market_calendar.open_since(self._now()) is not None
            and self._rules["heartbeat"].crosses(missed, float(dict(self._rules["heartbeat"].thresholds)["critical"]))
        )

    def run(self, stop: threading.Event) -> None:
        """Stand by until stopped."""
        logged, notifying, stop_notifying = "", None, threading.Event()
        while not stop.is_set():
            try:
                if self.needed():
                    self._collector.evaluate_due()
                    if notifying is None:
                        self._logger.warning(
                            "the collector sends no heartbeats: ops serve evaluates alerts and notifies people "
                            "until it is back"
                        )
                        stop_notifying.clear()
                        notifying = threading.Thread(
                            target=self._notifying.run, args=(stop_notifying,), name="standby notify"
                        )
                        notifying.start()
                elif notifying is not None:
                    self._collector.record.leave(self._collector.holder)
                    stop_notifying.set()
                    notifying.join()
                    notifying = None
                logged = ""
            except StoreError as problem:
                if str(problem) != logged:
                    logged = str(problem)
                    self._logger.error(logged)
            stop.wait(GRID_US / SECOND / clock.speed())
        stop_notifying.set()
        if notifying is not None:
            notifying.join()


def periodic_tasks(collector: Collector, notifying: NotificationTasks, own_thread: Executor) -> list[PeriodicTask]:
    """List the periodic tasks of the collector, besides probes; evaluation has a thread of its own."""

    async def evaluate() -> None:
        await asyncio.get_running_loop().run_in_executor(own_thread, collector.evaluate)

    return [
        PeriodicTask("alert evaluation", evaluate, collector.until_next_s),
        *notifying.tasks(),  # Check scheduled jobs, plan, open incidents; send.
        periodic.every("heartbeat request", HEARTBEAT_S, partial(send_heartbeat, collector, notifying)),
    ]


async def send_heartbeat(collector: Collector, notifying: NotificationTasks) -> None:
    """
    Send a heartbeat to an external service, which notifies people if this whole machine fails.

    Nothing is sent while the collector is unhealthy, or if no service is configured.
    """
    url, complaints = collector.settings.secret("OPS_HEARTBEAT_URL"), notifying.complaints
    if not url or not collector.healthy or not notifying.healthy:
        return
    import httpx

    try:
        async with httpx.AsyncClient(timeout=HEARTBEAT_TIMEOUT_S, follow_redirects=False) as client:
            answer = await client.get(url)
        if not answer.is_success:
            complaints.say(
                "pulse", f"the heartbeat service returned HTTP {answer.status_code}; check OPS_HEARTBEAT_URL"
            )
        else:
            complaints.over("pulse")
    except (httpx.RequestError, httpx.InvalidURL) as problem:
        complaints.say(
            "pulse", f"the heartbeat service cannot be reached ({problem.__class__.__name__}); check OPS_HEARTBEAT_URL"
        )


def collect(settings: Settings, store: Database, rules: Rules, contacts: Contacts, every_s: float) -> None:
    """
    Probe everything in the settings, evaluate all rules and notify people, until SIGTERM or SIGINT.

    The periodic tasks have a thread of their own, so that a slow task does not delay probes.

    Raises:
        StoreError: The database is read-only.
    """
    store.file.check_writable()
    stop = threading.Event()
    runner = ProbeRunner(settings, store, rules, every_s=every_s)
    collector = Collector(store, settings, rules, secrets.token_hex(8), greeks_breach=runner.fetch_chains_again)
    notifying = NotificationTasks(store, settings, rules, contacts)

    def work() -> None:
        with ThreadPoolExecutor(1, "evaluate") as own_thread:
            periodic.run_until_stopped(periodic_tasks(collector, notifying, own_thread), stop, notifying.complaints)
        collector.leave()

    async def probe() -> None:
        loop, stopping = asyncio.get_running_loop(), asyncio.Event()
        for name in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(name, stopping.set)
        await runner.run(stopping)

    working = threading.Thread(target=work, name="periodic tasks")
    working.start()
    try:
        asyncio.run(probe())
    finally:
        stop.set()
        working.join()
