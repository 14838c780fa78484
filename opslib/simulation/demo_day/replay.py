"""
Play the scripted day through the same interfaces as a real one, in a home of its own.

The day before comes in as a file; the day itself is posted to the real receiver, page by page, with the receiver's
clock in the script's hands, while a collector probes a world in which the script's troubles are the matter, and judges.
`truth` then says whether every figure is right.
"""

import gc
import gzip
import http.client
import json
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
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
from opslib.foundation.config.settings import Settings
from opslib.foundation.config.workspace import Workspace
from opslib.foundation.errors import OpsError
from opslib.foundation.storage.database import Database
from opslib.jobs import ledger
from opslib.services.collector import Collector
from opslib.services.server import ServerThread
from opslib.simulation.demo_day import expected_figures, probe_samples, responders
from opslib.simulation.demo_day.evaluator_process import Judge, Probes
from opslib.simulation.demo_day.home_lock import HomeLock
from opslib.simulation.world import page
from opslib.simulation.world.script import Script, script
from opslib.telemetry import importing
from opslib.telemetry.pages import snapshot
from opslib.telemetry.pages.store import Post, SnapshotStore
from opslib.telemetry.probes.store import Sample, SampleStore

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

    from opslib.jobs.kernels import KernelPool

SEED = 1
DAY = date(2026, 3, 10)
OUTAGE_LOOK = timedelta(minutes=5)
BATCH = 2000
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
        laid = replace(settings, home=making)
        store = Database(laid.url, world.now)
        judge = _collector(laid, store, world).judge
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
                    act(Workspace(laid, world.now), responders.walked)
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
    with Judge(settings, lock.descriptor) as judge, Probes(settings, lock.descriptor, today) as probes:
        judge.go_on(world.at)
        _yesterday(store, settings, yesterday)
        world.at = yesterday.closes + AFTER_CLOSE
        judge.go_on(world.at)
        _today(store, settings, today, world, judge, probes, progress, kernels)
        world.at = today.closes + AFTER_CLOSE
        probes.through()
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
    probes: Probes,
    progress: Callable[[Iterable[Any], int, str], Iterator[Any]],
    kernels: "KernelPool",
) -> None:
    """The day itself is posted, page by page."""
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
        acts = responders.acts(today)
        waiting = list[page.Post]()
        walk = partial(responders.executed, kernels=kernels)
        for post in progress(
            posts, len(posts), f"living {today.day}: posting to {receiver.url}, looking at a world beside it"
        ):
            is_acted = bool(acts) and post.at >= acts[0][0]
            if is_acted or len(waiting) == TOGETHER:
                sender.send(waiting)
                waiting.clear()
                world.at = post.at
                if is_acted:
                    probes.through(world.at)
                    judge.go_on(world.at)
                    judge.through()
                    acts.pop(0)[1](Workspace(settings, world.now), walk)
                if judge.idle:
                    probes.look_up()
                    known_upto = min(world.at, probes.reached)
                    if known_upto - judge.reached >= JUDGE_EVERY:
                        judge.go_on(known_upto)
            waiting.append(post)
        sender.send(waiting)


def compared(workspace: Workspace, seed: int) -> tuple[int, list[str]]:
    """
    Are the desk's figures those of the script, hour by hour and for the day?

    Returns:
        How many figures were compared, and each that differs, in words.
    """
    scripted = expected_figures.truth(_session_script(DAY, seed))
    count, wrong = 0, []
    for window in [*scripted["hours"], scripted["session"]]:
        start, end = time_parsing.parse(window["from"]), time_parsing.parse(window["to"])
        view = status.status_of(workspace, end, f"{round((end - start).total_seconds())}s")
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
