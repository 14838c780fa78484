"""Days for tests: the demo's scripted day as posts, and ways to write them."""

import functools
import json
from datetime import date, datetime

from sqlalchemy import URL

from opslib import clock, snapshot
from opslib.demo import page, tour
from opslib.demo.day import Script, script
from opslib.snapshot_store import Post, SnapshotStore
from opslib.store import Store

DAY = tour.DAY


@functools.cache
def scripted(day: date = DAY, seed: int = 1, quiet: bool = False) -> Script:
    """A scripted day."""
    session = clock.session(day)
    assert session
    return script(seed, day, opens=session.opens, closes=session.closes, quiet=quiet)


@functools.cache
def posts(day: date = DAY, seed: int = 1, quiet: bool = False) -> tuple[Post, ...]:
    """Every post of a scripted day, as the receiver would keep it."""
    return tuple(Post(clock.micros(p.at), snapshot.read(p.body)) for p in page.posts(scripted(day, seed, quiet)))


def filled(url: str | URL, app: str = "desk", **which: object) -> Store:
    """A store that holds a scripted day, known as it happened."""
    store = Store(url)
    SnapshotStore(store).write(app, posts(**which), known_at_ts=True)
    return store


def line(post: Post) -> str:
    """A post as a line of a file."""
    return json.dumps({"ts": clock.instant(post.ts_us).isoformat(), "metrics": json.loads(post.snapshot.body)})


def at(text: str) -> datetime:
    """A moment of the scripted day, New York: ``11:25``."""
    return clock.parse(f"{DAY}T{text}")
