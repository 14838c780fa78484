"""
This module knows how the scripted day is lived: through the same doors as a real one, in a home of its own, and nothing else.

The day before comes in as a file; the day itself is posted to the real receiver, page by page, with the receiver's
clock in the script's hands. `truth` then says whether every figure is right.
"""

import gzip
import http.client
import json
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from datetime import date, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

from opslib import clock, intake, rules, snapshot, text
from opslib.collect import Collector
from opslib.demo import page, truth
from opslib.demo.day import Script, script
from opslib.desk import Desk
from opslib.errors import OpsError
from opslib.server import Served
from opslib.settings import Settings
from opslib.store import Post, Store

SEED = 1
DAY = date(2026, 3, 10)
OUTAGE_LOOK = timedelta(minutes=5)
BATCH = 2000
JUDGE_EVERY, AFTER_CLOSE = timedelta(minutes=2), timedelta(seconds=10)
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
    session = clock.session(day)
    if session is None:
        raise OpsError(f"the demo needs a trading day, {day} is none.")
    return script(seed, day, opens=session.opens, closes=session.closes, quiet=quiet)


def _scripts(seed: int) -> tuple[Script, Script]:
    """A quiet day, and the day after it with its troubles."""
    return _session_script(clock.previous_session(DAY).day, seed, quiet=True), _session_script(DAY, seed)


class _World:
    """The script's clock, which the receiver and the collector read."""

    def __init__(self, at: datetime):
        self.at = at

    def now(self) -> datetime:
        return self.at


def _collector(settings: Settings, store: Store, world: _World) -> Collector:
    return Collector(store, settings, rules.load(settings.base), "demo", world.now)


def lay_out(settings: Settings, seed: int = SEED) -> None:
    """
    Make the demo's home where there is none: both days, known as they happened. Two who try at once agree.

    The rows are those that the receiver would have kept; `live` takes the long way and a test holds the two equal.
    """
    if settings.home.exists():
        return
    settings.home.parent.mkdir(parents=True, exist_ok=True)
    making = Path(tempfile.mkdtemp(prefix=".demo-", dir=settings.home.parent))
    try:
        days = _scripts(seed)
        world = _World(days[0].opens)
        store = Store(replace(settings, home=making).url, world.now)
        judge = _collector(settings, store, world).judge
        judge()
        for scripted in days:
            posts = [Post(clock.micros(p.at), snapshot.read(p.body)) for p in page.posts(scripted)]
            for i in range(0, len(posts), BATCH):
                store.write(settings.app, posts[i : i + BATCH], known_at_ts=True)
            world.at = scripted.closes + AFTER_CLOSE
            judge()
        store.close()
        try:
            making.rename(settings.home)
        except OSError:
            if not settings.home.exists():
                raise
    finally:
        shutil.rmtree(making, ignore_errors=True)


def live(settings: Settings, seed: int, progress: Callable[[Iterable, int, str], Iterator]) -> Desk:
    """
    Live the day: yesterday by file, today by HTTP.

    Args:
        settings: Of the demo; a home that an earlier demo made is taken away first.
        progress: Shows how far an iterable of so many items has come.

    Returns:
        The desk, at the day's last instant.
    """
    shutil.rmtree(settings.home, ignore_errors=True)
    settings.home.mkdir(parents=True)
    yesterday, today = _scripts(seed)
    world = _World(yesterday.opens)
    store = Store(settings.url, world.now)
    collector = _collector(settings, store, world)
    collector.judge()
    recording = settings.home / f"{yesterday.day}_snapshots.jsonl.gz"
    with gzip.open(recording, "wt", encoding="utf-8", compresslevel=1) as file:
        file.writelines(json.dumps({"ts": text.iso(p.at), "metrics": p.body}) + "\n" for p in page.posts(yesterday))
    intake.read_file(store, settings.app, recording, known_at_ts=True)
    world.at = yesterday.closes + AFTER_CLOSE
    collector.judge()
    posts = list(page.posts(today))
    with Served(replace(settings, secrets={}), store, rules.load(settings.base), now=world.now) as served:
        address = urlsplit(served.url)
        connection = http.client.HTTPConnection(address.hostname, address.port, timeout=30)
        judged = world.at
        for post in progress(posts, len(posts), f"posting {today.day} to {served.url}"):
            world.at = post.at
            if world.at - judged >= JUDGE_EVERY:
                collector.judge()
                judged = world.at
            connection.request("POST", "/api/metrics/export", json.dumps(post.body), {"Content-Type": "application/json"})
            answer = connection.getresponse()
            problem = answer.read()
            if answer.status != 204:
                raise OpsError(f"the receiver answered {answer.status} to a post of {post.page}: {problem.decode()}")
        connection.close()
    world.at = today.closes + AFTER_CLOSE
    collector.judge()
    store.close()
    world.at = today.closes
    return Desk(settings, world.now)


def compared(desk: Desk, seed: int) -> tuple[int, list[str]]:
    """
    Are the desk's figures those of the script, hour by hour and for the day?

    Returns:
        How many figures were compared, and each that differs, in words.
    """
    scripted = truth.truth(_session_script(DAY, seed))
    count, wrong = 0, []
    for window in [*scripted["hours"], scripted["session"]]:
        start, end = clock.parse(window["from"]), clock.parse(window["to"])
        view = desk.status(end, f"{round((end - start).total_seconds())}s")
        for path, (panel, subject, figure) in CHECKED.items():
            expected = window["visible"]
            for key in path:
                expected = expected[key]
            found = view.figures[panel][subject][figure] if subject else view.figures[panel][figure]
            count += 1
            exact = found == expected if isinstance(expected, int) or expected is None or found is None else abs(found - expected) <= HALF_A_CENT
            if not exact:
                wrong.append(f"{window['from']} to {window['to']}, {' '.join(path)}: {found}, scripted {expected}")
    return count, wrong


def outage(seed: int) -> datetime:
    """The moment five minutes into the scripted outage of Massive."""
    begins = next(t.begins for t in _session_script(DAY, seed).troubles if "massive" in t.name)
    return begins + OUTAGE_LOOK
