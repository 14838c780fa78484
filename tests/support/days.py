"""Days for tests: the demo's scripted day as posts, and ways to write them."""

import functools
import json
from datetime import date, datetime

from sqlalchemy import URL

from opslib.foundation import clock, market_calendar, time_parsing
from opslib.foundation.storage.database import Database
from opslib.simulation.demo_day import replay
from opslib.simulation.world import page
from opslib.simulation.world.script import Script, script
from opslib.telemetry.pages import snapshot
from opslib.telemetry.pages.store import Post, SnapshotStore

DAY = replay.DAY


@functools.cache
def scripted(day: date = DAY, seed: int = 1, quiet: bool = False) -> Script:
    """A scripted day."""
    session = market_calendar.session(day)
    assert session
    return script(seed, day, opens=session.opens, closes=session.closes, quiet=quiet)


@functools.cache
def posts(day: date = DAY, seed: int = 1, quiet: bool = False) -> tuple[Post, ...]:
    """Every post of a scripted day, as the receiver would keep it."""
    return tuple(Post(clock.micros(p.at), snapshot.read(p.body)) for p in page.posts(scripted(day, seed, quiet)))


def filled(url: str | URL, app: str = "desk", **which: object) -> Database:
    """A store that holds a scripted day, known as it happened."""
    store = Database(url)
    SnapshotStore(store).write(app, posts(**which), known_at_ts=True)
    return store


def line(post: Post) -> str:
    """A post as a line of a file."""
    return json.dumps({"ts": clock.instant(post.ts_us).isoformat(), "metrics": json.loads(post.snapshot.body)})


def at(text: str) -> datetime:
    """A moment of the scripted day, New York: ``11:25``."""
    return time_parsing.parse(f"{DAY}T{text}")
