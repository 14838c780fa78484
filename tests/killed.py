"""
Kill collectors: ``python tests/killed.py URL SEED KILLS``. Prints how many were killed, and in how many rounds.

Each round judges the posts of the app ``straight`` anew under another name, by collectors that are forked and killed
with SIGKILL at a random moment, until one of them comes to the end. Whoever makes no headway is given longer.
"""

import json
import os
import random
import signal
import sys
import time

import sqlalchemy as sa
from looks import at

from opslib import collect, rules, settings
from opslib.collect import Collector
from opslib.record import Record
from opslib.schema import ALIVE, SNAPSHOTS
from opslib.store import Store

NOW = at(2410)  # After the last post of the test's forty minutes.


def copied(store: Store, app: str) -> None:
    """The posts of the straight run under another name, known as they were."""
    for table in (SNAPSHOTS, ALIVE):
        columns = [c for c in table.c if c.name not in ("app", "seq")]
        with store.writing() as connection:
            rows = connection.execute(sa.select(*columns).where(table.c.app == "straight").order_by(table.c.known_at_us)).all()
            connection.execute(sa.insert(table), [{**row._mapping, "app": app} for row in rows])


def child(url: str, app: str, holder: str) -> int:
    """A collector in a process of its own, from its first breath to its last instant."""
    pid = os.fork()
    if pid:
        return pid
    try:
        collect.AT_ONCE = 7
        Collector(Store(url, lambda: NOW), settings.Settings(home=None, app=app), rules.load(), holder, lambda: NOW).judge()  # type: ignore[arg-type]
        os._exit(0)
    finally:
        os._exit(1)


def killed(url: str, seed: int, wanted: int) -> tuple[int, int]:
    """Kill so many collectors; returns how many were, and the rounds it took."""
    rng, kills, rounds, n = random.Random(seed), 0, 0, 0
    while kills < wanted:
        app, rounds, done, longest_s, upto = f"round{rounds}", rounds + 1, False, 0.15, None
        store = Store(url, lambda: NOW)
        copied(store, app)
        store.close()
        while not done:
            n += 1
            pid = child(url, app, f"c{n}")
            deadline = time.monotonic() + rng.uniform(0.01, longest_s)
            while time.monotonic() < deadline:  # The moment is the point; nothing is waited for.
                pass
            os.kill(pid, signal.SIGKILL)
            status = os.waitpid(pid, 0)[1]
            kills += os.WIFSIGNALED(status)
            done = os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0
            store = Store(url, lambda: NOW)
            record = Record(store, app)
            record.leave(f"c{n}")  # As if its lease had run out.
            longest_s, upto = (longest_s * 1.2 if record.judged() == upto else max(0.1, longest_s * 0.9)), record.judged()
            store.close()  # No connection may be open when a process is forked.
    return kills, rounds


if __name__ == "__main__":
    print(json.dumps(killed(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))))
