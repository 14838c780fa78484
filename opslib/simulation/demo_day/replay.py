"""
Play the scripted day through the same interfaces as a real one, in its own home.

The day before is imported as a file. The day itself is posted to the real receiver, page by page, with the script's
clock, while a collector probes a world with the faults of the script and evaluates the alerts. Then every figure is
compared with the expected one.
"""

import functools
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
from opslib.foundation.market_calendar import Session
from opslib.foundation.storage.database import Database
from opslib.jobs import ledger
from opslib.services.collector import Collector
from opslib.services.server import ServerThread
from opslib.simulation.demo_day import expected_figures, probe_samples, responders
from opslib.simulation.demo_day.evaluator_process import EvaluatorPart, ProbePart
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
OUTAGE_SHOWN_AFTER = timedelta(minutes=5)
BATCH = 2000
EVALUATE_EVERY, AFTER_CLOSE = timedelta(minutes=2), timedelta(seconds=10)
TOGETHER = 32  # Posts under way at once; the receiver stores them in one transaction.
POST_ATTEMPTS, POST_TIMEOUT_S = 5, 60
SENT_AT = b"x-sent-at-us"
UNFINISHED = "unfinished"  # A file in the demo's home until the day is played and checked.
MAKING, CREATE_WAIT_S = ".demo-", 300.0
HALF_A_CENT = 0.005 + 1e-9  # Money is shown to the cent; percentages use the same tolerance.
CHECKED = {
    # Place of a figure in the expected figures: panel, subject or None, and name in the status.
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


def _session(day: date) -> Session:
    session = market_calendar.session(day)
    if session is None:
        raise OpsError(f"The demo needs a trading day; {day} is not one.")
    return session


@functools.lru_cache(maxsize=2)  # The day and the day before take 0.2 s each.
def _session_script(day: date, seed: int, quiet: bool = False) -> Script:
    session = _session(day)
    return script(seed, day, opens=session.opens, closes=session.closes, quiet=quiet)


def _scripts(seed: int) -> tuple[Script, Script]:
    """Return a quiet day and the day after it, with the faults."""
    return _session_script(market_calendar.previous_session(DAY).day, seed, quiet=True), _session_script(DAY, seed)


def scripted(seed: int = SEED) -> Script:
    """Return the script of the day with the faults."""
    return _session_script(DAY, seed)


_sent_at: ContextVar[datetime | None] = ContextVar("sent_at", default=None)


class _ScriptClock:
    """The script's clock for receiver and collector; a post under way has its own time."""

    def __init__(self, at: datetime):
        self.at = at

    def now(self) -> datetime:
        return _sent_at.get() or self.at


class _ArrivalTimes:
    """Give each request the time in its header, since posts of some minutes are sent together."""

    def __init__(self, app: "ASGIApp"):
        self._app = app

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        for name, value in scope.get("headers", ()):
            if name == SENT_AT:
                _sent_at.set(clock.instant(int(value)))
        await self._app(scope, receive, send)


class _Sender:
    """
    The connections of the pages to the receiver.

    Args:
        url: URL of the receiver.
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
        Send posts, at most `TOGETHER` at once, over connections that may have been closed since the last post.

        The receiver stores a repeated body once, so a post whose response was lost is sent again.

        Raises:
            OpsError: A post was rejected, or got no response after all attempts.
        """
        left = list(zip(self.connections, posts, strict=False))
        for _ in range(POST_ATTEMPTS):
            sent = [(connection, post, _request(connection, post)) for connection, post in left]
            answered = [(connection, post, problem or _answer(connection, post)) for connection, post, problem in sent]
            left = [(connection, post) for connection, post, problem in answered if problem]
            if not left:
                return
            for connection, _ in left:
                connection.close()
        problem = next(problem for _, _, problem in answered if problem)
        raise OpsError(
            f"The demo's receiver did not respond to {POST_ATTEMPTS} posts of {left[0][1].page} "
            f"({str(problem) or type(problem).__name__}). Run ops demo again."
        ) from problem


def _request(connection: http.client.HTTPConnection, post: page.Post) -> Exception | None:
    """Send a post; return the problem, or None."""
    body = json.dumps(post.body, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
    headers = {"content-type": "application/json", SENT_AT.decode(): str(clock.micros(post.at))}
    try:
        connection.request("POST", "/api/metrics/export", body, headers)
    except (OSError, http.client.HTTPException) as problem:
        return problem
    return None


def _answer(connection: http.client.HTTPConnection, post: page.Post) -> Exception | None:
    """
    Read the response to a post; return the problem if there is none, or None.

    Raises:
        OpsError: The post was rejected.
    """
    try:
        answer = connection.getresponse()
        body = answer.read()
    except (OSError, http.client.HTTPException) as problem:
        return problem
    if answer.status != 204:
        raise OpsError(f"The demo's receiver returned {answer.status} for a post of {post.page}: {body.decode()}")
    return None


def _collector(settings: Settings, store: Database, world: _ScriptClock) -> Collector:
    return Collector(store, settings, rules.load(settings.base), "demo", world.now)


def _sample(generated: probe_samples.GeneratedSample) -> Sample:
    return Sample(
        clock.micros(generated.at),
        generated.probe,
        generated.subject,
        generated.outcome,
        generated.seconds,
        generated.value,
        generated.attempt,
        generated.last,
        json.dumps(generated.detail, sort_keys=True),
    )


def create_home(settings: Settings, seed: int = SEED) -> None:
    """
    Create the demo's home with both days, if there is none or only an incomplete one of a killed ``ops demo``.

    The rows are those that the receiver would have stored, known when they happened. `play_day` goes through the
    receiver; a test compares the two.

    Raises:
        OpsError: Another process has been creating it for `CREATE_WAIT_S`.
    """
    if settings.home.exists() and not is_unfinished(settings):
        return
    # The notebooks of a running ops demo call this, too.
    with HomeLock(settings, 0 if _is_running(settings) else CREATE_WAIT_S) as lock:
        if lock.is_mine and (is_unfinished(settings) or not settings.home.exists()):
            _remove_earlier(settings)
            _create(settings, seed)
        elif not settings.home.exists():
            raise OpsError(
                f"Another process has been creating {settings.home} for {CREATE_WAIT_S:g} s. Wait until it has "
                f"ended, then try again."
            )


def _create(settings: Settings, seed: int) -> None:
    making = Path(tempfile.mkdtemp(prefix=MAKING, dir=settings.home.parent))
    try:
        days = _scripts(seed)
        world = _ScriptClock(days[0].opens)
        own = replace(settings, home=making)
        store = Database(own.url, world.now)
        evaluate = _collector(own, store, world).evaluate_due
        evaluate()
        for scripted in days:
            posts = [Post(clock.micros(p.at), snapshot.read(p.body)) for p in page.posts(scripted)]
            for i in range(0, len(posts), BATCH):
                SnapshotStore(store).write(settings.app, posts[i : i + BATCH], known_at_ts=True)
            SampleStore(store, settings.app).keep(
                (_sample(generated) for generated in probe_samples.generate(scripted)), known_at_ts=True
            )
            for at, answer in probe_samples.chains(scripted):
                SampleStore(store, settings.app).keep_chain(
                    clock.micros(at), "massive", probe_samples.KEPT, "ok", [json.dumps(answer).encode()]
                )
            if scripted.faults:
                people = responders.Responders(scripted, Workspace(own, world.now), responders.run_unattended)
                while (action_at := people.next_at) is not None:
                    world.at = action_at
                    evaluate()
                    people.act()
            world.at = scripted.closes + AFTER_CLOSE
            evaluate()
        store.close()
        making.rename(settings.home)
    finally:
        shutil.rmtree(making, ignore_errors=True)


def is_unfinished(settings: Settings) -> bool:
    """Return whether the demo's home is of an ``ops demo`` that still runs, failed or was killed."""
    return (settings.home / UNFINISHED).exists()


def _is_running(settings: Settings) -> bool:
    """Return whether the ``ops demo`` of an unfinished home still runs."""
    try:
        return not ledger.process_ended((settings.home / UNFINISHED).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):  # There is none, or it was killed while it wrote its process ID.
        return False


def _remove_earlier(settings: Settings) -> None:
    """
    Remove an earlier demo's home and the leftovers of killed demos.

    Processes that still read it keep their open files.
    """
    if settings.home.exists():
        settings.home.rename(tempfile.mkdtemp(prefix=MAKING, dir=settings.home.parent))
    for left in settings.home.parent.glob(f"{MAKING}*"):
        shutil.rmtree(left, ignore_errors=True)


def play_day(
    settings: Settings,
    seed: int,
    lock: HomeLock,
    progress: Callable[[Iterable[Any], int, str], Iterator[Any]],
    kernels: "KernelPool",
    then: Callable[[Workspace], None],
) -> Workspace:
    """
    Play the day: yesterday from a file, today over HTTP.

    Args:
        settings: Settings of the demo. An earlier demo's home is removed first; the new one is marked as unfinished.
        lock: Lock of that home. The collector holds it, too, so that no new demo starts before both have ended.
        progress: Shows the progress of an iterable with a number of items.
        kernels: For the opened runbook; they begin their imports once the processes of the day have.
        then: Called when the incident is resolved; work that it starts runs in parallel with the rest of the day.

    Returns:
        The workspace at the last instant of the day.
    """
    _remove_earlier(settings)
    settings.home.mkdir(parents=True)
    (settings.home / UNFINISHED).write_text(ledger.process(), encoding="utf-8")
    # The processes start first, so that they import while the two days are generated here.
    with (
        ProbePart(settings, lock.descriptor, seed, _session(DAY)) as probes,
        EvaluatorPart(settings, lock.descriptor) as evaluator,
    ):
        yesterday, today = _scripts(seed)
        world = _ScriptClock(yesterday.opens)
        store = Database(settings.url, world.now)
        evaluator.advance(world.at)
        _yesterday(store, settings, yesterday)
        world.at = yesterday.closes + AFTER_CLOSE
        evaluator.advance(world.at)
        _today(store, settings, today, world, evaluator, probes, progress, kernels, then)
        world.at = today.closes + AFTER_CLOSE
        _evaluate_until(world.at, evaluator, probes)
    store.close()
    world.at = today.closes
    return Workspace(settings, world.now)


def _yesterday(store: Database, settings: Settings, yesterday: Script) -> None:
    """Import the day before from a file."""
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
    world: _ScriptClock,
    evaluator: EvaluatorPart,
    probes: ProbePart,
    progress: Callable[[Iterable[Any], int, str], Iterator[Any]],
    kernels: "KernelPool",
    then: Callable[[Workspace], None],
) -> None:
    """Post the day itself, page by page."""
    kernels.begin()
    posts = list(page.posts(today))
    gc.collect()
    # The script and all posts are kept to the end; garbage collections over them would take seconds.
    gc.freeze()
    world.at = posts[0].at
    receiver = ServerThread(
        replace(settings, secrets={}), store, rules.load(settings.base), now=world.now, known_at_ts=True
    )
    receiver.app.add_middleware(_ArrivalTimes)
    with receiver, _Sender(receiver.url) as sender:
        waiting = list[page.Post]()
        people = responders.Responders(
            today, Workspace(settings, world.now), partial(responders.run_in_kernel, kernels=kernels)
        )
        for post in progress(
            posts,
            len(posts),
            f"simulating {today.day}: posting to {receiver.url}, probing the simulated app and providers",
        ):
            is_action_due = people.next_at is not None and post.at >= people.next_at
            if is_action_due or len(waiting) == TOGETHER:
                sender.send(waiting)
                waiting.clear()
                world.at = post.at
                if is_action_due:
                    _evaluate_until(world.at, evaluator, probes)
                    was_over = people.outage_is_over
                    people.act()
                    if people.outage_is_over and not was_over:
                        then(Workspace(settings, world.now))
                _evaluate_if_idle(world.at, evaluator, probes)
            waiting.append(post)
        sender.send(waiting)


def _evaluate_if_idle(now: datetime, evaluator: EvaluatorPart, probes: ProbePart) -> None:
    """Evaluate up to what is posted and probed, if the evaluator is idle and enough time has passed."""
    if evaluator.is_idle:
        probes.poll()
        known_upto = min(now, probes.reached)
        if known_upto - evaluator.reached >= EVALUATE_EVERY:
            evaluator.advance(known_upto)


def _evaluate_until(now: datetime, evaluator: EvaluatorPart, probes: ProbePart) -> None:
    """Wait until all is probed and evaluated up to a time; earlier probes are evaluated meanwhile."""
    while not probes.is_idle and probes.reached < now:
        _evaluate_if_idle(now, evaluator, probes)
        probes.wait_for_answer()
    evaluator.advance(now)
    evaluator.wait_until()


def compare_figures(workspace: Workspace, seed: int) -> tuple[int, list[str]]:
    """
    Compare the figures of ops with the expected ones, for each hour and for the day.

    Returns:
        The number of figures compared, and each difference as text.
    """
    scripted = expected_figures.compute(_session_script(DAY, seed))
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
                wrong.append(f"{window['from']} to {window['to']}, {' '.join(path)}: {found}, expected {expected}")
    return count, wrong


def outage_moment(seed: int) -> datetime:
    """Return the time five minutes after the begin of Massive's scripted outage."""
    begins = next(t.begins for t in _session_script(DAY, seed).faults if "massive" in t.name)
    return begins + OUTAGE_SHOWN_AFTER
