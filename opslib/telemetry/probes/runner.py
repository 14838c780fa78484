"""
Run every probe when it is due, and keep what it found.

Every look has a task of its own: one that hangs or fails delays no other. What cannot be written waits in memory, so
much of it, and is written when the store can be reached again. While the machine slept nobody looked: a look that the
sleep cut in two is not kept, since the time that it took is nobody's.
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
# A version of the app that has no /api/ws-health is asked again after so long: it may have been deployed anew.
ABSENT_S = 3600.0
OF_QUOTA = 0.5  # The share of a provider's quota that looking whether it is there may use.
MOST_WAITING = 20_000  # Samples that wait for the store: more than an hour's.
SLEPT_S = 2.0
SETTLED_S = 20.0  # A socket that takes so long will not open.
RETRY_STORE_S = 1.0
CONFIRM_S, CONFIRMED = 10.0, 3  # Until a probe has failed so often in a row it is repeated after so long.
ROUTE_REFUSED = ("denied_403", "auth_401")  # Of a route alone, while the same key is accepted on others.
LAG_MAKES = ("timeout", "unreachable", "reset", "silent")  # How a probe can end because our own process could not run.
# For so long what providers said of the market is remembered, so that a reopening is seen.
OUTSIDE_US = 2 * 3600 * SECOND
# While the app's server does not answer it is asked so often: how long it is down is then known to the second.
FOLLOW_UP_S = 1.0
# By then people are being notified: neither the log of a server nor the queue of one that hangs is filled.
MOST_FOLLOW_UPS = 45


class ProbeRunner:
    """
    Looks at everything that the settings name, each at its own pace.

    Args:
        every_s: Seconds between two looks whether something is there; what has a quota may be looked at less often.
        now: What time it is.
        speed: See `clock.speed`.
        chance: Jitter is drawn from it.
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
    ):
        self.settings, self.rules, self.now, self.every_s = settings, rules, now, every_s
        self.prober = Prober(settings, now, speed, chance)
        self.speed = self.prober.speed
        self.samples = SampleStore(store, settings.app)
        self._outside = ProbeHistory(settings.fallback)  # What the latest answers say of the time and of the market.
        self.stream = self._dialled() if settings.app_ws_url else None
        self._log: Log | None = None
        self._logger = logs.of(settings.redact)
        self.chain_probe = ChainProbe(
            settings, self.samples, self.prober, rules, lambda at: self._moment("massive", at)
        )
        self._waiting: deque[Sample] = deque()
        self._lost, self._told = 0, ""
        self._written, self._stopped, self._app_down = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._failing: dict[str, str] = {}
        self._drift_s: float | None = None
        self._lag, self._beaten_s, self._latest_s = Lag(), 0.0, 0.0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._again: dict[str, asyncio.Task[None]] = {}  # One of each symbol.
        self._chain_s: dict[str, float] = {}  # When each chain was last asked for, by the loop's clock.
        self._listened_on: date | None = None
        self._no_upstream_until_s = 0.0

    def looks(self) -> list[tuple[str, float, Callable[[], Awaitable[list[Sample]]]]]:
        """Every look: its name, seconds between two of them, and how it is made."""
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
        Each look once, all at the same time: what they saw, not kept.

        The socket is opened for it and closed again.
        """
        stream = self._dialled() if self.stream and only("socket") else None
        if stream and self.stream:
            stream.contracts = self.stream.contracts
        streaming = asyncio.create_task(stream.run()) if stream else None
        try:
            found = await asyncio.gather(
                *(self._safely(name, look) for name, _, look in self.looks() if name != "socket" and only(name))
            )
            if stream:
                found.append(await self._settled(stream))
        finally:
            await _ended(streaming)
        return [sample for samples in found for sample in samples]

    def _dialled(self) -> WebSocketProbe:
        """A connection to the socket that expects messages while the market is open, also by what the providers say."""
        stream = WebSocketProbe(self.prober, self.rules.probes)
        stream.open_since = self._open_since
        return stream

    def _open_since(self, at: datetime) -> datetime | None:
        return self._outside.open_since(clock.micros(at))

    async def _settled(self, stream: WebSocketProbe) -> list[Sample]:
        """What the socket says once it is open, or could not be opened."""
        until_s = asyncio.get_running_loop().time() + SETTLED_S / self.speed
        while not (found := await self._socket(stream)) and asyncio.get_running_loop().time() < until_s:
            await asyncio.sleep(0.05 / self.speed)
        return found

    async def run(self, stop: asyncio.Event) -> None:
        """Look until stopped; then leave a last beat that says so, and nothing open."""
        tasks = [asyncio.create_task(self._at_own_pace(name, every_s, look)) for name, every_s, look in self.looks()]
        self._loop = asyncio.get_running_loop()
        self._beaten_s = self._loop.time()
        tasks += [
            asyncio.create_task(self._at_own_pace("beat", self.every_s, self._beat)),
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
            self._put([self._beat_sample("stopped")])
            self._stopped.set()
            await writing
            self.close()

    def fetch_chains_again(self) -> None:
        """
        Fetch each chain now, or `chain_again_s` after the last time; may be called from any thread, and does nothing
        while nothing runs.
        """
        if loop := self._loop:
            with suppress(RuntimeError):  # It may have been closed since.
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
        """Let go of the log, and of the thread that judges chains."""
        self.chain_probe.close()
        if self._log:
            self._log.close()

    async def _at_own_pace(self, name: str, every_s: float, look: Callable[[], Awaitable[list[Sample]]]) -> None:
        loop = asyncio.get_running_loop()
        # Not all in the same instant.
        due_s = loop.time() + self.prober.chance.uniform(0, min(every_s, self.every_s)) / self.speed
        failures, seldom = 0, every_s >= SLOW_S
        confirmed = CONFIRMED if every_s == SLOW_S else 2  # What is seldom probed is large, too.
        while True:
            await asyncio.sleep(max(0.0, due_s - loop.time()))
            self._latest_s = max(self._latest_s, (loop.time() - due_s) * self.speed)
            samples = await self._keep_unless_slept(name, look)
            failures = failures + 1 if any(s.last and not OUTCOMES[s.outcome].usable for s in samples) else 0
            if failures and seldom and (failures < confirmed or every_s > SLOW_S):
                # What is probed seldom, and failed, is probed again soon: nothing rests on a single probe.
                due_s = loop.time() + (CONFIRM_S if failures < confirmed else SLOW_S) / self.speed
                continue
            # What was missed while one look took long is not made up for: the next is due on the grid again.
            due_s += every_s / self.speed * max(1, -(-(loop.time() - due_s) * self.speed // every_s))

    async def _keep_unless_slept(self, name: str, look: Callable[[], Awaitable[list[Sample]]]) -> list[Sample]:
        """Probe once, and keep the samples unless the machine slept meanwhile."""
        loop = asyncio.get_running_loop()
        wall, mono_s = self.now(), loop.time()
        samples = [self._under_lag(sample, mono_s) for sample in await self._safely(name, look)]
        slept_s = (self.now() - wall).total_seconds() - (loop.time() - mono_s) * self.speed
        if abs(slept_s) <= SLEPT_S * max(1.0, self.speed / 10):
            self._put(samples)
        return samples

    def _under_lag(self, sample: Sample, began_s: float) -> Sample:
        """
        A sample with the time that our own process lost while it was taken, where that is more than is borne.

        What an answer says is not affected by that. That none came in time says nothing where most of the time was
        ours.
        """
        now_s, ago_s = asyncio.get_running_loop().time(), (clock.micros(self.now()) - sample.ts_us) / SECOND
        ended_s = max(began_s, now_s - max(0.0, ago_s) / self.speed)
        took_s = ended_s - began_s if sample.seconds is None else sample.seconds / self.speed
        if sample.outcome == "silent" and sample.value is not None:
            took_s = min(sample.value, self.rules.probes.silent_after_s) / self.speed
        lost_s, lost_in_all_s = self._lag.lost_s(ended_s - took_s, ended_s), self._lag.lost_s(began_s, ended_s)
        # What one attempt lost was taken from the time of the next.
        vain = sample.outcome in LAG_MAKES and (
            doubtful(took_s, lost_s) or (sample.outcome != "silent" and doubtful(ended_s - began_s, lost_in_all_s))
        )
        if max(lost_s, lost_in_all_s if vain else 0.0) * self.speed <= self.rules.probes.lag_after_s:
            return sample
        outcome = STARVED if vain else sample.outcome
        return sample._replace(
            outcome=outcome, detail=self._json(sample.told() | {"lag_s": round(lost_s * self.speed, 2)})
        )

    async def _safely(self, name: str, look: Callable[[], Awaitable[list[Sample]]]) -> list[Sample]:
        """One look; a fault of ours in it is told, once as long as it lasts, and stands in the beat."""
        try:
            samples = await look()
        except Exception as problem:  # Whatever it is, the other looks go on.
            words = f"{problem.__class__.__name__}: {formatting.single_line(str(problem), 120)}"
            if self._failing.get(name) != words:
                self._logger.warning(f"the look at {name} failed: {words}")
            self._failing[name] = words
            return []
        self._failing.pop(name, None)
        return samples

    @cached_property
    def _questions(self) -> list[ProbeRequest]:
        return providers.questions(self.settings, self.rules.probes, self._moment, self.chain_probe.comparison.of)

    async def _ask(self, question: ProbeRequest) -> list[Sample]:
        samples = await self._acquaint(question.subject) if question.probe == "data" else []
        samples += await self.prober.look(question)
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
        if question.probe == "data" and (contracts := samples[-1].told().get("busiest")):
            self._listen_to(contracts)
        if question.probe == "data" and "gone" in samples[-1].told() and self._loop:
            self._fetch_again()
        if question.probe == "health":
            self._saw_app(samples[-1])
        return [
            self._of_plan(sample, ROUTE_REFUSED if "route" in sample.told() else ("denied_403",)) for sample in samples
        ]

    async def _acquaint(self, subject: str) -> list[Sample]:
        """
        Ask a provider for its clock first, where that is not known: without it nobody can say how old its data is.
        """
        if self._outside.skew_s(subject, clock.micros(self.now())) is not None:
            return []
        return await self._ask(next(q for q in self._questions if (q.probe, q.subject) == (IS_THERE[subject], subject)))

    def _of_plan(self, sample: Sample, refusals: tuple[str, ...]) -> Sample:
        """A refusal of one route by a provider that accepts our key on another is a matter of the plan."""
        if sample.outcome not in refusals or sample.subject not in IS_THERE:
            return sample
        well = self._outside.now(IS_THERE[sample.subject], sample.subject, clock.micros(self.now()))
        return sample._replace(outcome="entitlement_403") if well is not None and well.outcome == "ok" else sample

    def _moment(self, subject: str, middle: datetime) -> Moment:
        """
        The moment at which a provider's data is judged, by what the latest answers say of the time and of the market.

        Where our own clock is off, it is corrected. Where only the provider's is, or it is not sure whose
        is, nothing says which clock dates its data: then the earliest moment counts, so that it is stale by every
        clock.
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
        How the socket stands; that it says nothing, or nothing new, counts only once the market has been open for as
        long.
        """
        return [self._unless_closed(sample) for sample in await stream.look()]

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
        Ask the fallback for options as the app will when it needs them: which expirations there are, and the chain of
        the first.

        Returns:
            How that ended, as samples of its data, where it is not usable; nothing where it is.
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
        return [sample._replace(detail=self._json(sample.told() | {"route": what})) for sample, _ in found], found[-1][
            1
        ]

    def _saw_app(self, sample: Sample) -> None:
        """Follow up on the app's server from a probe that shows it down to one that does not."""
        if is_down(sample):
            self._app_down.set()
        else:
            self._app_down.clear()

    def _follow_up(self) -> Callable[[], Awaitable[Sample]] | None:
        """
        How the app's server is asked once more: by one request, or by its process where it has no address.

        None where neither is configured.
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
        While the app's server is down, ask it each second, not waiting for the answers before: what resumes answers
        them all.
        """

        async def once() -> list[Sample]:
            sample = await follow_up()
            if not is_down(sample):
                # Only a probe at its own pace says that it is down: an attempt that began before it was back ends
                # later.
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
        Ask the socket for these, where it was asked for nothing yet today, or where they are surely the better ones.
        """
        day = providers.today(self.now())
        if self.stream and (surely or self._listened_on != day):
            indices = [symbol for symbol in self.settings.symbols if symbol.startswith("I:")]
            self.stream.contracts, self._listened_on = (*contracts, *indices), day

    async def _upstream(self) -> list[Sample]:
        """What the app says of the socket behind its own; nothing where it does not answer, or has no such route."""
        now_s = asyncio.get_running_loop().time() * self.speed
        if now_s < self._no_upstream_until_s:
            return []
        sample = (await self.prober.look(providers.upstream_question(self.settings)))[-1]
        if sample.outcome != "ok":
            absent = OUTCOMES[sample.outcome].answered is None
            self._no_upstream_until_s = now_s + ABSENT_S if absent else 0.0
            return []
        if self.stream and sample.told()["state"] in NOT_SERVED:
            self.stream.suspected = True
        return [sample]

    async def _process(self) -> list[Sample]:
        sample = await asyncio.to_thread(host.process, self.settings, self.now())
        if not self.settings.app_url:
            self._saw_app(sample)
        return [sample]

    async def _host(self) -> list[Sample]:
        at_us = clock.micros(self.now())
        seen = await host.looks(self.settings)
        at_us = max(at_us, clock.micros(self.now()))
        return [
            Sample(
                at_us,
                "host",
                "app",
                {True: "ok", False: "server_5xx", None: "absent"}[look.ok],
                detail=self._json({"name": look.name, "told": look.told}),
            )
            for look in seen
        ]

    async def read_log(self) -> list[Sample]:
        """What is new in the app's log? Its value is the errors since the last look."""
        if self._log is None:
            last = await asyncio.to_thread(self.samples.last, "log", clock.micros(self.now()), None, "app")
            self._log = Log(self.settings.app_log, last.told().get("cursor", "") if last else "")
        try:
            told = read_log(await self._log.new())
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
        detail = told.as_json() | {"cursor": self._log.cursor}
        return [
            Sample(clock.micros(self.now()), "log", "app", "ok", None, float(told.errors), detail=self._json(detail))
        ]

    async def fetch_chain(self, symbol: str) -> list[Sample]:
        """Fetch a whole chain in market hours. Its value is how many contracts it has."""
        if self._outside.open_since(clock.micros(self.now())) is None:
            return []
        self._chain_s[symbol] = asyncio.get_running_loop().time()
        sample, results = await self.chain_probe.fetch(symbol)
        if sample.outcome == "ok":
            self._listen_to(providers.busiest(results, providers.today(self.now())), surely=True)
        return [sample]

    async def _beat(self) -> list[Sample]:
        return [self._beat_sample("ok")]

    def _beat_sample(self, outcome: str) -> Sample:
        """Our own heartbeat; its value is the memory that we hold, in MB."""
        import psutil

        loop, mine = asyncio.get_running_loop(), psutil.Process()
        now = self.now()
        drift_s = now.timestamp() - loop.time() * self.speed
        stepped_s = 0.0 if self._drift_s is None else drift_s - self._drift_s
        self._drift_s = drift_s
        lost_s, self._beaten_s = self._lag.lost_s(self._beaten_s, loop.time()) * self.speed, loop.time()
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
        Write what comes, until a last time when stopping; what the store cannot take then is lost, and that is said.
        """
        while not self._stopped.is_set():
            await self._written.wait()
            self._written.clear()
            if not await self._flush() and not self._stopped.is_set():
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._stopped.wait(), RETRY_STORE_S)
                self._written.set()
        if not await self._flush():
            self._logger.error(f"{len(self._waiting)} samples could not be kept")

    async def _flush(self) -> bool:
        """Write what waits; False where the store cannot be written."""
        batch = [self._waiting.popleft() for _ in range(len(self._waiting))]
        try:
            await asyncio.to_thread(self.samples.keep, batch)
        except StoreError as problem:
            self._waiting.extendleft(reversed(batch))
            if self._told != str(problem):
                self._told = str(problem)
                self._logger.error(f"{problem} {len(batch)} samples wait for it.")
            return False
        if self._told:
            self._logger.warning(f"the store can be written again; {len(batch)} samples that waited are kept")
            self._told = ""
        return True


async def _ended(task: "asyncio.Task[None] | None") -> None:
    """Cancel a task and wait until it is over."""
    if task is None:
        return
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
