"""Provide days for tests: the scripted day of the demo as posts, and ways to write them."""

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
    """Return a scripted day."""
    session = market_calendar.session(day)
    assert session
    return script(seed, day, opens=session.opens, closes=session.closes, quiet=quiet)


@functools.cache
def posts(day: date = DAY, seed: int = 1, quiet: bool = False) -> tuple[Post, ...]:
    """Return every post of a scripted day, as the receiver stores it."""
    return tuple(Post(clock.micros(p.at), snapshot.read(p.body)) for p in page.posts(scripted(day, seed, quiet)))


def filled(url: str | URL, app: str = "desk", **which: object) -> Database:
    """Return a database that contains a scripted day, each post known when it happened."""
    store = Database(url)
    SnapshotStore(store).write(app, posts(**which), known_at_ts=True)
    return store


def line(post: Post) -> str:
    """Return a post as a line of a file."""
    return json.dumps({"ts": clock.instant(post.ts_us).isoformat(), "metrics": json.loads(post.snapshot.body)})


def at(text: str) -> datetime:
    """Return a time of the scripted day, from New York time: ``11:25``."""
    return time_parsing.parse(f"{DAY}T{text}")
