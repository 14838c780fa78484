"""
Play the scripted day through the same interfaces as a real one, in a home of its own.

The day before comes in as a file; the day itself is posted to the real receiver, page by page, with the receiver's
clock in the script's hands, while our own eyes look at a world in which the script's troubles are the matter, and a
collector judges beside it. `truth` then says whether every figure is right.
"""

import asyncio
import gc
import gzip
import http.client
import json
import random
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from dataclasses import replace
from datetime import date, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from opslib.dashboard import status
from opslib.foundation import clock, formatting, market_calendar, time_parsing
from opslib.foundation.config import rules
from opslib.foundation.config import settings as settings_module
from opslib.foundation.config.settings import Settings
from opslib.foundation.config.workspace import Workspace
from opslib.foundation.errors import OpsError
from opslib.foundation.storage.database import Database
from opslib.jobs import ledger
from opslib.services.collector import Collector
from opslib.services.server import ServerThread
from opslib.simulation.demo_day import expected_figures, probe_samples, responders
from opslib.simulation.demo_day.evaluator_process import Judge
from opslib.simulation.demo_day.home_lock import HomeLock
from opslib.simulation.world import page
from opslib.simulation.world.control import World
from opslib.simulation.world.script import Script, script
from opslib.telemetry import importing
from opslib.telemetry.pages import snapshot
from opslib.telemetry.pages.store import Post, SnapshotStore
from opslib.telemetry.probes.outcomes import OUTCOMES
from opslib.telemetry.probes.runner import ProbeRunner
from opslib.telemetry.probes.store import Sample, SampleStore

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

    from opslib.jobs.kernels import KernelPool

SEED = 1
DAY = date(2026, 3, 10)
OUTAGE_LOOK = timedelta(minutes=5)
BATCH = 2000
BEFORE_OPEN = timedelta(minutes=5)
WORLD_SPEED = 10.0  # A world second is a tenth of ours, where something takes its time.
EVERY, SELDOM = timedelta(seconds=30), timedelta(seconds=60)  # As ``ops collect --every 30s``.
CLOSELY, NOW_AND_THEN = EVERY, timedelta(minutes=10)
# Not longer than the bursts that they are to show.
CHAINS_CLOSELY, CHAINS_EVERY = timedelta(minutes=14), timedelta(minutes=29)
NEAR = timedelta(minutes=2)
# Looked at closely until a rate over ten minutes can tell that it is over.
LINGERS = {"massive_outage": timedelta(minutes=13)}
MATTERS = {
    "massive_outage": ("massive_5xx", 1.0),
    "gamma_burst": ("gamma_zero", 0.4),
    "websocket_loss": ("ws_port_blocked", 1.0),
}
JUDGE_EVERY, AFTER_CLOSE = timedelta(minutes=2), timedelta(seconds=10)
TOGETHER = 32  # Posts under way at once: they share one transaction of the receiver.
POST_ATTEMPTS, POST_TIMEOUT_S = 5, 60
SENT_AT = b"x-sent-at-us"
UNFINISHED = "unfinished"  # In the demo's home until its day has been lived and checked.
MAKING, LAY_OUT_WAIT_S = ".demo-", 300.0
HALF_A_CENT = 0.005 + 1e-9  # Money is shown to the cent, percentages are compared as closely.
CHECKED = {
    # Where the truth has a figure: where a view has it (panel, subject or None, name).
    ("massive", "requests"): ("providers", "massive", "requests"),
    ("massive", "failed"): ("providers", "massive", "failures"),
    ("massive", "fallbacks"): ("providers", "massive", "fallbacks"),
    ("tradier", "requests"): ("providers", "tradier", "requests"),
    ("greeks", "validations"): ("greeks", None, "validations"),
    ("greeks", "gamma_zero"): ("greeks", None, "gamma_zero"),
    ("greeks", "delta_out_of_bounds"): ("greeks", None, "delta_out_of_bounds"),
    ("errors",): ("system", None, "errors"),
    ("pnl", "trades"): ("pnl", None, "trades"),
    ("pnl", "gross_pct"): ("pnl", None, "gross_pct"),
    ("pnl", "net_pct"): ("pnl", None, "net_pct"),
    ("pnl", "commission_usd"): ("pnl", None, "commission_usd"),
}


def _session_script(day: date, seed: int, quiet: bool = False) -> Script:
    session = market_calendar.session(day)
    if session is None:
        raise OpsError(f"the demo needs a trading day, {day} is none.")
    return script(seed, day, opens=session.opens, closes=session.closes, quiet=quiet)


def _scripts(seed: int) -> tuple[Script, Script]:
    """A quiet day, and the day after it with its troubles."""
    return _session_script(market_calendar.previous_session(DAY).day, seed, quiet=True), _session_script(DAY, seed)


def scripted(seed: int = SEED) -> Script:
    """The day with its troubles, as it is scripted."""
    return _session_script(DAY, seed)


_sent_at: ContextVar[datetime | None] = ContextVar("sent_at", default=None)


class _World:
    """The script's clock, which the receiver and the collector read; a post that is under way has its own time."""

    def __init__(self, at: datetime):
        self.at = at

    def now(self) -> datetime:
        return _sent_at.get() or self.at


class _ArrivalTimes:
    """Let each request come at the time that its header says: posts of some minutes are sent together."""

    def __init__(self, app: "ASGIApp"):
        self._app = app

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        for name, value in scope.get("headers", ()):
            if name == SENT_AT:
                _sent_at.set(clock.instant(int(value)))
        await self._app(scope, receive, send)


class _Sender:
    """
    Connections of the pages to the receiver, for as long as this is entered.

    Args:
        url: Of the receiver.
    """

    def __init__(self, url: str):
        address = urlsplit(url)
        assert address.hostname
        self.connections = [
            http.client.HTTPConnection(address.hostname, address.port, timeout=POST_TIMEOUT_S) for _ in range(TOGETHER)
        ]

    def __enter__(self) -> "_Sender":
        return self

    def __exit__(self, *ended: object) -> None:
        for connection in self.connections:
            connection.close()

    def send(self, posts: Sequence[page.Post]) -> None:
        """
        Post what pages say, at most `TOGETHER` at once, over connections that may have been closed since the last post.

        The receiver keeps a body that comes twice once, so a post whose answer was lost is sent again.
        """
        left = list(zip(self.connections, posts, strict=False))
        for _ in range(POST_ATTEMPTS):
            asked = [(connection, post, _request(connection, post)) for connection, post in left]
            told = [(connection, post, problem or _answer(connection, post)) for connection, post, problem in asked]
            left = [(connection, post) for connection, post, problem in told if problem]
            if not left:
                return
            for connection, _ in left:
                connection.close()
        problem = next(problem for _, _, problem in told if problem)
        raise OpsError(
            f"the demo's receiver did not answer {POST_ATTEMPTS} posts of {left[0][1].page} "
            f"({str(problem) or type(problem).__name__}). Run ops demo again."
        ) from problem


def _request(connection: http.client.HTTPConnection, post: page.Post) -> Exception | None:
    """Send a post; why it could not be sent, or None."""
    body = json.dumps(post.body, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
    headers = {"content-type": "application/json", SENT_AT.decode(): str(clock.micros(post.at))}
    try:
        connection.request("POST", "/api/metrics/export", body, headers)
    except (OSError, http.client.HTTPException) as problem:
        return problem
    return None


def _answer(connection: http.client.HTTPConnection, post: page.Post) -> Exception | None:
    """
    Read the answer to a post; why there is none, or None.

    Raises:
        OpsError: It was refused.
    """
    try:
        answer = connection.getresponse()
        told = answer.read()
    except (OSError, http.client.HTTPException) as problem:
        return problem
    if answer.status != 204:
        raise OpsError(f"the demo's receiver answered {answer.status} to a post of {post.page}: {told.decode()}")
    return None


class _Eyes:
    """
    Our own probes of a world in which the script's troubles are the matter; it stands still while it is probed.

    What is kept is what ``ops collect --every 30s`` would keep. While nothing is the matter, the world is asked now and
    then
    only, and answers the same in between: what it answered last is kept again at each turn.

    Args:
        memory_mb: How much memory the collector of this demo holds.

    Attributes:
        due: When the world is to be probed again.
    """

    def __init__(
        self, scripted: Script, settings: Settings, store: Database, world: _World, memory_mb: Callable[[], float]
    ):
        self._scripted, self._world = scripted, world
        self._lever = World(scripted.opens - BEFORE_OPEN, seed=scripted.seed, speed=WORLD_SPEED, runs=False)
        self._settings, self._store = settings, store
        self.due, self._matter = scripted.opens - BEFORE_OPEN, dict[str, float]()
        self._chained: datetime | None = None
        self._memory_mb, self._chance = memory_mb, random.Random(f"{scripted.seed}/eyes")
        self._answered, self._answered_at = list[Sample](), self.due
        self._holding: asyncio.Task[None] | None = None

    def __enter__(self) -> "_Eyes":
        self._lever.__enter__()
        self._runner = asyncio.Runner()
        self._rounds = self._runner.run(self._begun())
        return self

    async def _begun(self) -> ProbeRunner:
        settings = settings_module.looking_at(self._settings, self._lever.environ)
        return ProbeRunner(
            settings,
            self._store,
            rules.load(settings.base),
            now=self._world.now,
            speed=WORLD_SPEED,
            chance=random.Random(self._scripted.seed),
        )

    def __exit__(self, *ended: Any) -> None:
        self._runner.run(self._let_go())
        self._rounds.close()
        self._runner.close()
        self._lever.__exit__(*ended)

    def look(self) -> None:
        """Probe where it is due: closely while a trouble is near, now and then while none is."""
        at = self._world.at
        if at < self.due:
            return
        near = [
            t
            for t in self._scripted.troubles
            if t.name in MATTERS and t.begins - NEAR <= at < t.ends + LINGERS.get(t.name, NEAR)
        ]
        matter = dict(MATTERS[t.name] for t in near if t.begins <= at < t.ends)
        if matter != self._matter:
            self._lever.be(**matter)
            self._matter = matter
        # The next look is due before the next trouble comes near, however calm it is now.
        coming = [t.begins - NEAR - at for t in self._scripted.troubles if t.name in MATTERS and t.begins - NEAR > at]
        every = CLOSELY if near else min([NOW_AND_THEN, *coming])
        self._lever.at(at)
        self._runner.run(self._looked(at, every))
        self.due = at + every

    def repeat(self, at: datetime) -> None:
        """
        Keep the last answers again up to a time, at each turn of the collector that comes before the world is asked
        anew.
        """
        found = list[Sample]()
        while (
            self._answered
            and self._answered_at + EVERY <= min(at, self.due - EVERY / 2)
            and all(OUTCOMES[s.outcome].usable for s in self._answered)
        ):
            self._answered_at += EVERY
            self._answered = [_again(s, EVERY.total_seconds(), self._chance) for s in self._answered]
            seldom = (self._answered_at - self._scripted.opens) % SELDOM < EVERY
            found += (s for s in self._answered if seldom or s.probe not in ("data", "metrics"))
            found.append(self._beat(self._answered_at))
        self._rounds.samples.keep(found, known_at_ts=True)

    def _beat(self, at: datetime) -> Sample:
        return Sample(
            clock.micros(at),
            "beat",
            "collector",
            "ok",
            None,
            round(self._memory_mb(), 2),
            detail=json.dumps({"every_s": EVERY.total_seconds()}),
        )

    async def _let_go(self) -> None:
        """Hold no socket any more."""
        if self._holding:
            self._holding.cancel()
            await asyncio.gather(self._holding, return_exceptions=True)
            self._holding = None

    async def _socket(self) -> list[Sample]:
        """How the socket stands that is held, as a collector holds it; where it is not well, how a new one does."""
        stream = self._rounds.stream
        assert stream
        found = await stream.look() if self._holding else []
        if found and OUTCOMES[found[-1].outcome].usable:
            return found
        await self._let_go()
        found = await self._rounds.once(lambda name: name == "socket")
        if found and OUTCOMES[found[-1].outcome].usable:
            self._holding = asyncio.create_task(stream.run())
        return found

    async def _looked(self, at: datetime, every: timedelta) -> None:
        with_chains = at >= self._scripted.opens and (
            self._chained is None or at - self._chained >= (CHAINS_CLOSELY if every == CLOSELY else CHAINS_EVERY)
        )
        self._chained = at if with_chains else self._chained
        # A few at a time: this world's seconds are short, and looks that share a processor slow each other down.
        together: dict[str, list[Awaitable[list[Sample]]]] = {}
        for name, _, look in self._rounds.looks():
            if name != "socket" and (with_chains or not name.startswith("chain")):
                together.setdefault(name.split()[0], []).append(look())
        found = [
            sample for looks in together.values() for samples in await asyncio.gather(*looks) for sample in samples
        ]
        found += await self._socket()
        self._rounds.samples.keep([*found, self._beat(at)], known_at_ts=True)
        self._answered, self._answered_at = [s for s in found if s.last and not s.probe.startswith("chain")], at


def _again(sample: Sample, after_s: float, chance: random.Random) -> Sample:
    """
    The same answer so much later: a server is up for longer, a log has nothing new, a round trip takes about as long.
    """
    value = {"health": (sample.value or 0.0) + after_s, "log": 0.0}.get(sample.probe, sample.value)
    detail = (
        json.dumps(sample.told() | {"kinds": {}, "lines": 0, "newest": {}}) if sample.probe == "log" else sample.detail
    )
    seconds = None if sample.seconds is None else round(sample.seconds * chance.uniform(0.9, 1.1), 4)
    return sample._replace(
        ts_us=sample.ts_us + round(after_s * 1e6), seconds=seconds, value=value, attempt=1, detail=detail
    )


def _collector(settings: Settings, store: Database, world: _World) -> Collector:
    return Collector(store, settings, rules.load(settings.base), "demo", world.now)


def _sample(seen: probe_samples.Seen) -> Sample:
    return Sample(
        clock.micros(seen.at),
        seen.probe,
        seen.subject,
        seen.outcome,
        seen.seconds,
        seen.value,
        seen.attempt,
        seen.last,
        json.dumps(seen.detail, sort_keys=True),
    )


def lay_out(settings: Settings, seed: int = SEED) -> None:
    """
    Make the demo's home where there is none, or a killed ``ops demo`` left half of one: both days, known as they
    happened.

    The rows are those that the receiver would have kept; `live` takes the long way and a test holds the two equal.
    """
    if settings.home.exists() and not is_unfinished(settings):
        return
    # While an ops demo runs, its own notebooks come here.
    with HomeLock(settings, 0 if _is_running(settings) else LAY_OUT_WAIT_S) as lock:
        if lock.is_mine and (is_unfinished(settings) or not settings.home.exists()):
            _remove_earlier(settings)
            _laid_out(settings, seed)
        elif not settings.home.exists():
            raise OpsError(
                f"another process has been making {settings.home} for {LAY_OUT_WAIT_S:g} s. Wait until it has "
                f"ended, then try again."
            )


def _laid_out(settings: Settings, seed: int) -> None:
    making = Path(tempfile.mkdtemp(prefix=MAKING, dir=settings.home.parent))
    try:
        days = _scripts(seed)
        world = _World(days[0].opens)
        made = replace(settings, home=making)
        store = Database(made.url, world.now)
        judge = _collector(made, store, world).judge
        judge()
        for scripted in days:
            posts = [Post(clock.micros(p.at), snapshot.read(p.body)) for p in page.posts(scripted)]
            for i in range(0, len(posts), BATCH):
                SnapshotStore(store).write(settings.app, posts[i : i + BATCH], known_at_ts=True)
            SampleStore(store, settings.app).keep(
                (_sample(seen) for seen in probe_samples.seen(scripted)), known_at_ts=True
            )
            for at, answer in probe_samples.chains(scripted):
                SampleStore(store, settings.app).keep_chain(
                    clock.micros(at), "massive", probe_samples.KEPT, "ok", [json.dumps(answer).encode()]
                )
            if scripted.troubles:
                for lapse_at, act in responders.acts(scripted):
                    world.at = lapse_at
                    judge()
                    act(Workspace(made, world.now), responders.walked)
            world.at = scripted.closes + AFTER_CLOSE
            judge()
        store.close()
        making.rename(settings.home)
    finally:
        shutil.rmtree(making, ignore_errors=True)


def is_unfinished(settings: Settings) -> bool:
    """
    Whether the demo's home was begun by an ``ops demo`` that has not ended well: it still runs, failed or was killed.
    """
    return (settings.home / UNFINISHED).exists()


def _is_running(settings: Settings) -> bool:
    """Whether the ``ops demo`` that began an unfinished home still runs."""
    try:
        return not ledger.gone((settings.home / UNFINISHED).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):  # There is none, or it was killed while it wrote who it is.
        return False


def _remove_earlier(settings: Settings) -> None:
    """
    Remove an earlier demo's home and what killed ones left beside it.

    Whoever still reads in it keeps what is open.
    """
    if settings.home.exists():
        settings.home.rename(tempfile.mkdtemp(prefix=MAKING, dir=settings.home.parent))
    for left in settings.home.parent.glob(f"{MAKING}*"):
        shutil.rmtree(left, ignore_errors=True)


def live(
    settings: Settings,
    seed: int,
    lock: HomeLock,
    progress: Callable[[Iterable[Any], int, str], Iterator[Any]],
    kernels: "KernelPool",
) -> Workspace:
    """
    Live the day: yesterday by file, today by HTTP.

    Args:
        settings: Of the demo; a home that an earlier demo made is removed first. The new one is marked as unfinished.
        lock: Of that home; the collector beside it holds it too, so that nobody begins anew before both have ended.
        progress: Shows how far an iterable of so many items has come.
        kernels: For the runbook that is opened.

    Returns:
        The desk, at the day's last instant.
    """
    _remove_earlier(settings)
    settings.home.mkdir(parents=True)
    (settings.home / UNFINISHED).write_text(ledger.process(), encoding="utf-8")
    yesterday, today = _scripts(seed)
    world = _World(yesterday.opens)
    store = Database(settings.url, world.now)
    with Judge(settings, lock.descriptor) as judge, ThreadPoolExecutor(1) as pool:
        judge.go_on(world.at)
        imported = pool.submit(_yesterday, store, settings, yesterday)
        with _Eyes(today, settings, store, world, judge.memory_mb) as eyes:  # While yesterday comes in.
            imported.result()
            world.at = yesterday.closes + AFTER_CLOSE
            judge.go_on(world.at)
            _today(store, settings, today, world, judge, eyes, progress, kernels)
        world.at = today.closes + AFTER_CLOSE
        judge.go_on(world.at)
        judge.through()
    store.close()
    world.at = today.closes
    return Workspace(settings, world.now)


def _yesterday(store: Database, settings: Settings, yesterday: Script) -> None:
    """The day before comes in as a file."""
    recording = settings.home / f"{yesterday.day}_snapshots.jsonl.gz"
    with gzip.open(recording, "wt", encoding="utf-8", compresslevel=1) as file:
        file.writelines(
            json.dumps({"ts": formatting.iso(p.at), "metrics": p.body}) + "\n" for p in page.posts(yesterday)
        )
    importing.read_file(store, settings.app, recording, known_at_ts=True)


def _today(
    store: Database,
    settings: Settings,
    today: Script,
    world: _World,
    judge: Judge,
    eyes: _Eyes,
    progress: Callable[[Iterable[Any], int, str], Iterator[Any]],
    kernels: "KernelPool",
) -> None:
    """The day itself is posted, page by page, and looked at."""
    posts = list(page.posts(today))
    gc.collect()
    # The script and all its posts stay to the end: to look through them again and again for garbage takes seconds.
    gc.freeze()
    world.at = posts[0].at
    receiver = ServerThread(
        replace(settings, secrets={}), store, rules.load(settings.base), now=world.now, known_at_ts=True
    )
    receiver.app.add_middleware(_ArrivalTimes)
    with receiver, _Sender(receiver.url) as sender:
        judged, acts = world.at, responders.acts(today)
        waiting = list[page.Post]()
        walk = partial(responders.executed, kernels=kernels)

        def send() -> None:
            if waiting:
                sender.send(waiting)
                eyes.repeat(waiting[-1].at)
                waiting.clear()

        for post in progress(
            posts, len(posts), f"living {today.day}: posting to {receiver.url}, looking at a world beside it"
        ):
            has_stop = post.at >= eyes.due or (bool(acts) and post.at >= acts[0][0])
            if has_stop or len(waiting) == TOGETHER:
                send()
                world.at = post.at
                eyes.look()
                if acts and world.at >= acts[0][0]:
                    judge.go_on(world.at)
                    judge.through()
                    acts.pop(0)[1](Workspace(settings, world.now), walk)
                if world.at - judged >= JUDGE_EVERY and judge.idle:
                    judge.go_on(world.at)
                    judged = world.at
            waiting.append(post)
        send()


def compared(desk: Workspace, seed: int) -> tuple[int, list[str]]:
    """
    Are the desk's figures those of the script, hour by hour and for the day?

    Returns:
        How many figures were compared, and each that differs, in words.
    """
    scripted = expected_figures.truth(_session_script(DAY, seed))
    count, wrong = 0, []
    for window in [*scripted["hours"], scripted["session"]]:
        start, end = time_parsing.parse(window["from"]), time_parsing.parse(window["to"])
        view = status.status_of(desk, end, f"{round((end - start).total_seconds())}s")
        for path, (panel, subject, figure) in CHECKED.items():
            expected = window["visible"]
            for key in path:
                expected = expected[key]
            found = view.figures[panel][subject][figure] if subject else view.figures[panel][figure]
            count += 1
            exact = (
                found == expected
                if isinstance(expected, int) or expected is None or found is None
                else abs(found - expected) <= HALF_A_CENT
            )
            if not exact:
                wrong.append(f"{window['from']} to {window['to']}, {' '.join(path)}: {found}, scripted {expected}")
    return count, wrong


def outage(seed: int) -> datetime:
    """The moment five minutes into the scripted outage of Massive."""
    begins = next(t.begins for t in _session_script(DAY, seed).troubles if "massive" in t.name)
    return begins + OUTAGE_LOOK
