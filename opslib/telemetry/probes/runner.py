"""
Run every probe when it is due, and store its samples.

Every probe has a task of its own: one that hangs or fails delays no other. Samples that cannot be written wait in
memory, up to a limit, until the database is available again. A probe during which the machine slept is not stored,
since its duration is not valid.
"""

import asyncio
import json
import math
import random
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import aclosing, suppress
from datetime import date, datetime, timedelta
from functools import cached_property, partial
from typing import Any

from opslib.foundation import clock, formatting, logs
from opslib.foundation.clock import SECOND
from opslib.foundation.config.rules import Rules
from opslib.foundation.config.settings import Settings
from opslib.foundation.errors import StoreError
from opslib.foundation.storage.database import Database
from opslib.telemetry import clock_skew
from opslib.telemetry.app_state import is_down
from opslib.telemetry.probes import host, providers
from opslib.telemetry.probes.app_log import Log
from opslib.telemetry.probes.app_log import read as read_log
from opslib.telemetry.probes.chain_probe import ChainProbe
from opslib.telemetry.probes.history import FOLLOW_UP, IS_THERE, STARVED, ProbeHistory, doubtful
from opslib.telemetry.probes.http import Prober, ProbeRequest
from opslib.telemetry.probes.loop_lag import Lag
from opslib.telemetry.probes.outcomes import OUTCOMES
from opslib.telemetry.probes.providers import Moment
from opslib.telemetry.probes.store import Sample, SampleStore
from opslib.telemetry.probes.websocket import NOT_SERVED, WebSocketProbe

EVERY_S = 5.0
SLOW_S, PROCESS_S, UPSTREAM_S, HOST_S, CHAIN_S = 60.0, 15.0, 15.0, 300.0, 900.0
# A version of the app without /api/ws-health is tried again after this time: a new version may have been deployed.
ABSENT_S = 3600.0
OF_QUOTA = 0.5  # The share of a provider's quota that liveness probes may use.
MOST_WAITING = 20_000  # Samples that wait for the database: more than an hour's.
SLEPT_S = 2.0
OPENED_WITHIN_S = 20.0  # A WebSocket that is not open by then will not open.
RETRY_STORE_S = 1.0
CONFIRM_S, CONFIRMED = 10.0, 3  # A failed probe is repeated after this time, until it failed this often in a row.
ROUTE_REFUSED = ("denied_403", "auth_401")  # Outcomes of a single route, while the same key is accepted on others.
LAG_MAKES = ("timeout", "unreachable", "reset", "silent")  # Outcomes that a stall of our own process can cause.
# How long the market states of providers are kept, so that a reopening is detected.
OUTSIDE_US = 2 * 3600 * SECOND
# The interval of probes while the app's server is down, so that the downtime is known to the second.
FOLLOW_UP_S = 1.0
# By then people are notified; more probes would only fill the log or the queue of the server.
MOST_FOLLOW_UPS = 45


class ProbeRunner:
    """
    Probes everything in the settings, each at its own interval.

    Args:
        every_s: The interval of liveness probes, seconds; probes with a quota may have a longer one.
        now: The clock.
        speed: See `clock.speed`.
        chance: The source of jitter.
        patience: See `Prober`.
    """

    def __init__(
        self,
        settings: Settings,
        store: Database,
        rules: Rules,
        *,
        every_s: float = EVERY_S,
        now: Callable[[], datetime] = clock.now,
        speed: float | None = None,
        chance: random.Random | None = None,
        patience: float = 1.0,
    ):
        self.settings, self.rules, self.now, self.every_s = settings, rules, now, every_s
        self.prober = Prober(settings, now, speed, chance, patience)
        self.speed = self.prober.speed
        self.samples = SampleStore(store, settings.app)
        self._outside = ProbeHistory(settings.fallback)  # The latest responses about the time and the market.
        self.stream = self._dialled() if settings.app_ws_url else None
        self._log: Log | None = None
        self._logger = logs.of(settings.redact)
        self.chain_probe = ChainProbe(
            settings, self.samples, self.prober, rules, lambda at: self._moment("massive", at)
        )
        self._waiting: deque[Sample] = deque()
        self._lost, self._logged_problem = 0, ""
        self._written, self._stopped, self._app_down = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._failing: dict[str, str] = {}
        self._drift_s: float | None = None
        self._lag, self._heartbeat_s, self._latest_s = Lag(), 0.0, 0.0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._again: dict[str, asyncio.Task[None]] = {}  # One per symbol.
        self._chain_s: dict[str, float] = {}  # When each chain was last fetched, by the loop's clock.
        self._listened_on: date | None = None
        self._no_upstream_until_s = 0.0

    def probes(self) -> list[tuple[str, float, Callable[[], Awaitable[list[Sample]]]]]:
        """List every probe: its name, its interval in seconds, and the function that runs it."""
        found: list[tuple[str, float, Callable[[], Awaitable[list[Sample]]]]] = []
        for question in self._questions:
            quick = question.probe in ("liveness", "health")
            found.append(
                (
                    f"{question.probe} of {question.subject}",
                    self._pace(question) if quick else max(SLOW_S, self.every_s),
                    partial(self._ask, question),
                )
            )
        if self.stream:
            found.append(("socket", self.every_s, partial(self._socket, self.stream)))
        if self.settings.app_url:
            found.append(("upstream of the app", max(UPSTREAM_S, self.every_s), self._upstream))
        if self.settings.app_log:
            found.append(("log", self.every_s, self.read_log))
        if self.settings.app_pid:
            found.append(
                ("process", max(PROCESS_S, self.every_s) if self.settings.app_url else self.every_s, self._process)
            )
        if self.settings.host_prefix is not None:
            found.append(("host", max(HOST_S, self.every_s), self._host))
        if self.settings.massive_url:
            found += [
                (f"chain of {symbol}", max(CHAIN_S, self.every_s), partial(self.fetch_chain, symbol))
                for symbol in self.settings.symbols
            ]
        return found

    def _pace(self, question: ProbeRequest) -> float:
        per_min = {"massive": self.settings.massive_per_min, "tradier": self.settings.tradier_per_min}.get(
            question.subject
        )
        return self.every_s if per_min is None else max(self.every_s, 60 / (OF_QUOTA * per_min))

    async def once(self, only: Callable[[str], bool] = lambda name: True) -> list[Sample]:
        """
        Run each probe once, concurrently, and return the samples without storing them.

        The WebSocket is opened for this and closed again.
        """
        stream = self._dialled() if self.stream and only("socket") else None
        if stream and self.stream:
            stream.contracts = self.stream.contracts
        streaming = asyncio.create_task(stream.run()) if stream else None
        try:
            found = await asyncio.gather(
                *(self._safely(name, probe) for name, _, probe in self.probes() if name != "socket" and only(name))
            )
            if stream:
                found.append(await self._samples_once_open(stream))
        finally:
            await _ended(streaming)
        return [sample for samples in found for sample in samples]

    def _dialled(self) -> WebSocketProbe:
        """Create a WebSocket probe that expects messages while the market is open, also by the providers' reports."""
        stream = WebSocketProbe(self.prober, self.rules.probes)
        stream.open_since = self._open_since
        return stream

    def _open_since(self, at: datetime) -> datetime | None:
        return self._outside.open_since(clock.micros(at))

    async def _samples_once_open(self, stream: WebSocketProbe) -> list[Sample]:
        """Return the samples of the WebSocket once it is open, or could not be opened."""
        until_s = asyncio.get_running_loop().time() + OPENED_WITHIN_S * self.prober.patience / self.speed
        while not (found := await self._socket(stream)) and asyncio.get_running_loop().time() < until_s:
            await asyncio.sleep(0.05 / self.speed)
        return found

    async def run(self, stop: asyncio.Event) -> None:
        """Probe until stopped; then store a last heartbeat that records the stop, and close everything."""
        tasks = [asyncio.create_task(self._at_own_pace(name, every_s, probe)) for name, every_s, probe in self.probes()]
        self._loop = asyncio.get_running_loop()
        self._heartbeat_s = self._loop.time()
        tasks += [
            asyncio.create_task(self._at_own_pace("beat", self.every_s, self._heartbeat)),
            asyncio.create_task(self._lag.run()),
        ]
        if follow_up := self._follow_up():
            tasks.append(asyncio.create_task(self._follow_up_while_down(follow_up)))
        if self.stream:
            tasks.append(asyncio.create_task(self.stream.run()))
        writing = asyncio.create_task(self._write())
        try:
            await stop.wait()
        finally:
            self._loop = None
            for task in (*tasks, *self._again.values()):
                task.cancel()
            await asyncio.gather(*tasks, *self._again.values(), return_exceptions=True)
            self._put([self._heartbeat_sample("stopped")])
            self._stopped.set()
            await writing
            self.close()

    def fetch_chains_again(self) -> None:
        """
        Fetch each chain now, or `chain_again_s` after the last time.

        May be called from any thread; does nothing while the runner is not running.
        """
        if loop := self._loop:
            with suppress(RuntimeError):  # The loop may have been closed since.
                loop.call_soon_threadsafe(self._fetch_again)

    def _fetch_again(self) -> None:
        for symbol in self.settings.symbols if self.settings.massive_url and self._loop else ():
            if symbol not in self._again:
                self._again[symbol] = asyncio.create_task(self._fetch_when_allowed(symbol))
                self._again[symbol].add_done_callback(partial(self._forget_fetch, symbol))

    def _forget_fetch(self, symbol: str, _task: "asyncio.Task[None]") -> None:
        del self._again[symbol]

    async def _fetch_when_allowed(self, symbol: str) -> None:
        again_s = self._chain_s.get(symbol, -math.inf) + self.rules.probes.chain_again_s / self.speed
        await asyncio.sleep(again_s - asyncio.get_running_loop().time())
        self._put(await self._safely(f"chain of {symbol}", partial(self.fetch_chain, symbol)))

    def close(self) -> None:
        """Close the log, and stop the thread that evaluates chains."""
        self.chain_probe.close()
        if self._log:
            self._log.close()

    async def _at_own_pace(self, name: str, every_s: float, probe: Callable[[], Awaitable[list[Sample]]]) -> None:
        loop = asyncio.get_running_loop()
        # Random start, so that probes do not all run at the same instant.
        due_s = loop.time() + self.prober.chance.uniform(0, min(every_s, self.every_s)) / self.speed
        failures, seldom = 0, every_s >= SLOW_S
        confirmed = CONFIRMED if every_s == SLOW_S else 2  # Probes with a long interval are also large.
        while True:
            await asyncio.sleep(max(0.0, due_s - loop.time()))
            self._latest_s = max(self._latest_s, (loop.time() - due_s) * self.speed)
            samples = await self._keep_unless_slept(name, probe)
            failures = failures + 1 if any(s.last and not OUTCOMES[s.outcome].usable for s in samples) else 0
            if failures and seldom and (failures < confirmed or every_s > SLOW_S):
                # A failed probe with a long interval is repeated soon, so that no result rests on a single probe.
                due_s = loop.time() + (CONFIRM_S if failures < confirmed else SLOW_S) / self.speed
                continue
            # Probes missed during a slow one are not made up for: the next is due on the grid again.
            due_s += every_s / self.speed * max(1, -(-(loop.time() - due_s) * self.speed // every_s))

    async def _keep_unless_slept(self, name: str, probe: Callable[[], Awaitable[list[Sample]]]) -> list[Sample]:
        """Probe once, and keep the samples unless the machine slept meanwhile."""
        loop = asyncio.get_running_loop()
        wall, mono_s = self.now(), loop.time()
        samples = [self._under_lag(sample, mono_s) for sample in await self._safely(name, probe)]
        slept_s = (self.now() - wall).total_seconds() - (loop.time() - mono_s) * self.speed
        if abs(slept_s) <= SLEPT_S * max(1.0, self.speed / 10):
            self._put(samples)
        return samples

    def _under_lag(self, sample: Sample, began_s: float) -> Sample:
        """
        Add the time that our process lost during a sample, if it is more than allowed.

        The content of a response is still valid. A timeout is not, if our process lost most of the time.
        """
        now_s, ago_s = asyncio.get_running_loop().time(), (clock.micros(self.now()) - sample.ts_us) / SECOND
        ended_s = max(began_s, now_s - max(0.0, ago_s) / self.speed)
        took_s = ended_s - began_s if sample.seconds is None else sample.seconds / self.speed
        if sample.outcome == "silent" and sample.value is not None:
            took_s = min(sample.value, self.rules.probes.silent_after_s) / self.speed
        lost_s, lost_in_all_s = self._lag.lost_s(ended_s - took_s, ended_s), self._lag.lost_s(began_s, ended_s)
        # Time lost in one attempt is missing in the next.
        vain = sample.outcome in LAG_MAKES and (
            doubtful(took_s, lost_s) or (sample.outcome != "silent" and doubtful(ended_s - began_s, lost_in_all_s))
        )
        if max(lost_s, lost_in_all_s if vain else 0.0) * self.speed <= self.rules.probes.lag_after_s:
            return sample
        outcome = STARVED if vain else sample.outcome
        return sample._replace(
            outcome=outcome, detail=self._json(sample.details() | {"lag_s": round(lost_s * self.speed, 2)})
        )

    async def _safely(self, name: str, probe: Callable[[], Awaitable[list[Sample]]]) -> list[Sample]:
        """Run one probe; an internal failure is logged once while it lasts, and recorded in the heartbeat."""
        try:
            samples = await probe()
        except Exception as problem:  # Whatever failed, the other probes continue.
            words = f"{problem.__class__.__name__}: {formatting.single_line(str(problem), 120)}"
            if self._failing.get(name) != words:
                self._logger.warning(f"the probe {name!r} failed: {words}")
            self._failing[name] = words
            return []
        self._failing.pop(name, None)
        return samples

    @cached_property
    def _questions(self) -> list[ProbeRequest]:
        return providers.questions(self.settings, self.rules.probes, self._moment, self.chain_probe.comparison.of)

    async def _ask(self, question: ProbeRequest) -> list[Sample]:
        samples = await self._acquaint(question.subject) if question.probe == "data" else []
        samples += await self.prober.probe(question)
        if (
            question.probe == "data"
            and question.subject == "tradier"
            and self.settings.fallback == "tradier"
            and samples[-1].outcome == "ok"
        ):
            samples = await self._options() or samples
        if question.probe == IS_THERE[question.subject]:
            self._outside.forget(clock.micros(self.now()) - OUTSIDE_US)
            self._outside.add(samples)
        if question.probe == "data" and (contracts := samples[-1].details().get("busiest")):
            self._listen_to(contracts)
        if question.probe == "data" and "gone" in samples[-1].details() and self._loop:
            self._fetch_again()
        if question.probe == "health":
            self._saw_app(samples[-1])
        return [
            self._of_plan(sample, ROUTE_REFUSED if "route" in sample.details() else ("denied_403",))
            for sample in samples
        ]

    async def _acquaint(self, subject: str) -> list[Sample]:
        """
        Probe a provider's clock first if it is unknown, since the age of its data depends on it.
        """
        if self._outside.skew_s(subject, clock.micros(self.now())) is not None:
            return []
        return await self._ask(next(q for q in self._questions if (q.probe, q.subject) == (IS_THERE[subject], subject)))

    def _of_plan(self, sample: Sample, refusals: tuple[str, ...]) -> Sample:
        """Classify a denied route as a limit of the plan if the provider accepts our key on another route."""
        if sample.outcome not in refusals or sample.subject not in IS_THERE:
            return sample
        well = self._outside.now(IS_THERE[sample.subject], sample.subject, clock.micros(self.now()))
        return sample._replace(outcome="entitlement_403") if well is not None and well.outcome == "ok" else sample

    def _moment(self, subject: str, middle: datetime) -> Moment:
        """
        Return the moment at which a provider's data is evaluated, from the latest reports of time and market.

        If our clock is off, it is corrected. If only the provider's is off, or it is not sure which one, it is unknown
        which clock dates the data: then the earliest moment counts, so that data is stale only if it is by every clock.
        """
        at_us = clock.micros(middle)
        clocks, opened = (
            clock_skew.compare(self._outside.skews(at_us), self.rules.skew_told_s),
            self._outside.open_since(at_us),
        )
        shift_s = min(
            -clocks.ours_s, clocks.off.get(subject, 0.0) - clocks.ours_s, 0.0 if not clocks.sure else math.inf
        )
        return Moment(
            middle + timedelta(seconds=shift_s), None if opened is None else (middle - opened).total_seconds()
        )

    async def _socket(self, stream: WebSocketProbe) -> list[Sample]:
        """
        Probe the WebSocket; missing or old messages count only after the market has been open for as long.
        """
        return [self._unless_closed(sample) for sample in await stream.sample()]

    def _unless_closed(self, sample: Sample) -> Sample:
        after_s = {
            "renewed": 0.0,
            "silent": self.rules.probes.silent_after_s,
            "stale": self.rules.probes.stale_after_s,
        }.get(sample.outcome)
        if after_s is None:
            return sample
        opened = self._outside.open_since(sample.ts_us)
        return (
            sample
            if opened is not None and (sample.ts_us - clock.micros(opened)) / SECOND > after_s
            else sample._replace(outcome="ok")
        )

    async def _options(self) -> list[Sample]:
        """
        Request options from the fallback as the app would: the expirations, and the chain of the first.

        Returns:
            The samples of its data if they are not usable; else nothing.
        """
        symbol = self.settings.symbols[0]
        samples, payload = await self._route("options/expirations", symbol, includeAllRoots="true")
        days = providers.expirations(payload)
        if samples[-1].outcome == "ok" and days:
            samples, _ = await self._route("options/chains", symbol, expiration=days[0], greeks="true")
        return [] if OUTCOMES[samples[-1].outcome].usable or samples[-1].outcome == "quota_kept" else samples

    async def _route(self, what: str, symbol: str, **params: str) -> tuple[list[Sample], Any]:
        question = providers.tradier_question(self.settings, what, symbol, "data", **params)
        found = [answer async for answer in self.prober.attempts(question)]
        return [sample._replace(detail=self._json(sample.details() | {"route": what})) for sample, _ in found], found[
            -1
        ][1]

    def _saw_app(self, sample: Sample) -> None:
        """Start or stop the follow-up probes of the app's server, by one of its samples."""
        if is_down(sample):
            self._app_down.set()
        else:
            self._app_down.clear()

    def _follow_up(self) -> Callable[[], Awaitable[Sample]] | None:
        """
        Return the follow-up probe of the app's server: one request, or its process if it has no address.

        None if neither is configured.
        """
        health = next((q for q in providers.questions(self.settings, self.rules.probes) if q.probe == "health"), None)

        async def request() -> Sample:
            assert health
            async with aclosing(self.prober.attempts(health)) as attempts:
                return (await anext(attempts))[0]

        async def process() -> Sample:
            return (await self._process())[0]

        if health:
            return request
        if self.settings.app_pid:
            return process
        return None

    async def _follow_up_while_down(self, follow_up: Callable[[], Awaitable[Sample]]) -> None:
        """
        Probe the app's server each second while it is down, without waiting for earlier responses.

        A server that resumes responds to all of them.
        """

        async def once() -> list[Sample]:
            sample = await follow_up()
            if not is_down(sample):
                # Only a regular probe can set it to down: an attempt that began before the server was back ends later.
                self._app_down.clear()
            return [sample._replace(probe=FOLLOW_UP)]

        async with asyncio.TaskGroup() as asking:
            while True:
                await self._app_down.wait()
                made = 0
                while self._app_down.is_set():
                    await asyncio.sleep(FOLLOW_UP_S / self.speed)
                    made += 1
                    if made <= MOST_FOLLOW_UPS:
                        asking.create_task(self._keep_unless_slept("follow-up of the app", once))

    def _listen_to(self, contracts: list[str], surely: bool = False) -> None:
        """
        Set the contracts to subscribe to, if none are set today, or if these are surely better.
        """
        day = providers.today(self.now())
        if self.stream and (surely or self._listened_on != day):
            indices = [symbol for symbol in self.settings.symbols if symbol.startswith("I:")]
            self.stream.contracts, self._listened_on = (*contracts, *indices), day

    async def _upstream(self) -> list[Sample]:
        """Probe the app's report of its upstream; no sample if it does not respond or has no such route."""
        now_s = asyncio.get_running_loop().time() * self.speed
        if now_s < self._no_upstream_until_s:
            return []
        sample = (await self.prober.probe(providers.upstream_question(self.settings)))[-1]
        if sample.outcome != "ok":
            absent = OUTCOMES[sample.outcome].answered is None
            self._no_upstream_until_s = now_s + ABSENT_S if absent else 0.0
            return []
        if self.stream and sample.details()["state"] in NOT_SERVED:
            self.stream.suspected = True
        return [sample]

    async def _process(self) -> list[Sample]:
        sample = await asyncio.to_thread(host.process, self.settings, self.now())
        if not self.settings.app_url:
            self._saw_app(sample)
        return [sample]

    async def _host(self) -> list[Sample]:
        at_us = clock.micros(self.now())
        seen = await host.run_checks(self.settings)
        at_us = max(at_us, clock.micros(self.now()))
        return [
            Sample(
                at_us,
                "host",
                "app",
                {True: "ok", False: "server_5xx", None: "absent"}[check.ok],
                detail=self._json({"name": check.name, "told": check.result}),
            )
            for check in seen
        ]

    async def read_log(self) -> list[Sample]:
        """Read new lines of the app's log; the value of the sample is the number of errors since the last one."""
        if self._log is None:
            last = await asyncio.to_thread(self.samples.last, "log", clock.micros(self.now()), None, "app")
            self._log = Log(self.settings.app_log, last.details().get("cursor", "") if last else "")
        try:
            summary = read_log(await self._log.new())
        except OSError as problem:
            return [
                Sample(
                    clock.micros(self.now()),
                    "log",
                    "app",
                    "absent",
                    detail=self._json({"why": problem.strerror or problem.__class__.__name__}),
                )
            ]
        detail = summary.as_json() | {"cursor": self._log.cursor}
        return [
            Sample(clock.micros(self.now()), "log", "app", "ok", None, float(summary.errors), detail=self._json(detail))
        ]

    async def fetch_chain(self, symbol: str) -> list[Sample]:
        """Fetch a whole chain in market hours; the value of the sample is its number of contracts."""
        if self._outside.open_since(clock.micros(self.now())) is None:
            return []
        self._chain_s[symbol] = asyncio.get_running_loop().time()
        sample, results = await self.chain_probe.fetch(symbol)
        if sample.outcome == "ok":
            self._listen_to(providers.busiest(results, providers.today(self.now())), surely=True)
        return [sample]

    async def _heartbeat(self) -> list[Sample]:
        return [self._heartbeat_sample("ok")]

    def _heartbeat_sample(self, outcome: str) -> Sample:
        """Create a heartbeat sample; its value is the memory of this process in MB."""
        import psutil

        loop, mine = asyncio.get_running_loop(), psutil.Process()
        now = self.now()
        drift_s = now.timestamp() - loop.time() * self.speed
        stepped_s = 0.0 if self._drift_s is None else drift_s - self._drift_s
        self._drift_s = drift_s
        lost_s, self._heartbeat_s = self._lag.lost_s(self._heartbeat_s, loop.time()) * self.speed, loop.time()
        late_s, self._latest_s = self._latest_s, 0.0
        detail: dict[str, Any] = {
            "every_s": self.every_s,
            "tasks": len(asyncio.all_tasks()),
            "files": mine.num_fds(),
            "waiting": len(self._waiting),
        }
        detail |= {"lag_s": round(lost_s, 2)} if lost_s > self.rules.probes.lag_after_s else {}
        detail |= {"late_s": round(late_s, 2)} if late_s > self.rules.probes.lag_after_s else {}
        detail |= {"lost": self._lost} if self._lost else {}
        detail |= {"stepped_s": round(stepped_s, 1)} if abs(stepped_s) > SLEPT_S * max(1.0, self.speed / 10) else {}
        detail |= {"failing": dict(self._failing)} if self._failing else {}
        return Sample(
            clock.micros(now),
            "beat",
            "collector",
            outcome,
            None,
            round(mine.memory_info().rss / 1e6, 2),
            detail=self._json(detail),
        )

    def _json(self, detail: dict[str, Any]) -> str:
        return self.settings.redact(json.dumps(detail, ensure_ascii=False, sort_keys=True))

    def _put(self, samples: list[Sample]) -> None:
        self._waiting.extend(samples)
        while len(self._waiting) > MOST_WAITING:
            self._waiting.popleft()
            self._lost += 1
        self._written.set()

    async def _write(self) -> None:
        """
        Write samples until stopped; samples that cannot be written at the end are lost, which is logged.
        """
        while not self._stopped.is_set():
            await self._written.wait()
            self._written.clear()
            if not await self._flush() and not self._stopped.is_set():
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._stopped.wait(), RETRY_STORE_S)
                self._written.set()
        if not await self._flush():
            self._logger.error(
                f"{len(self._waiting)} samples were lost: the database could not be written before the stop"
            )

    async def _flush(self) -> bool:
        """Write the waiting samples; return False if the database cannot be written."""
        batch = [self._waiting.popleft() for _ in range(len(self._waiting))]
        try:
            await asyncio.to_thread(self.samples.keep, batch)
        except StoreError as problem:
            self._waiting.extendleft(reversed(batch))
            if self._logged_problem != str(problem):
                self._logged_problem = str(problem)
                self._logger.error(f"{problem} {len(batch)} samples are waiting to be written.")
            return False
        if self._logged_problem:
            self._logger.warning(f"the database can be written again; {len(batch)} waiting samples were written")
            self._logged_problem = ""
        return True


async def _ended(task: "asyncio.Task[None] | None") -> None:
    """Cancel a task and wait until it has ended."""
    if task is None:
        return
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
