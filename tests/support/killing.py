"""
Kill collectors: ``python tests/support/killing.py URL SEED KILLS``.

Prints how many were killed, in how many rounds. Each round evaluates the posts of the app ``straight`` again under
another name, by collectors that are forked and killed with SIGKILL at a random moment, until one of them finishes. A
collector that makes no progress is given more time.
"""

import json
import random
import sys
import tempfile
from functools import partial
from pathlib import Path

import sqlalchemy as sa

from opslib.alerting.store import AlertStore
from opslib.foundation.config import rules, settings
from opslib.foundation.storage.database import Database
from opslib.foundation.storage.schema import ALIVE, SNAPSHOTS
from opslib.services import collector
from opslib.services.collector import Collector
from tests.support.snapshots import at
from tests.support.struck_process import struck

NOW = at(2410)  # After the last post of the test's 40 minutes.


def copied(store: Database, app: str) -> None:
    """Copy the posts of the straight run to another app name, with the times at which they were known."""
    for table in (SNAPSHOTS, ALIVE):
        columns = [c for c in table.c if c.name not in ("app", "seq")]
        with store.writing() as connection:
            rows = connection.execute(
                sa.select(*columns).where(table.c.app == "straight").order_by(table.c.known_at_us)
            ).all()
            connection.execute(sa.insert(table), [{**row._mapping, "app": app} for row in rows])


TABLE = rules.load()  # Read once, before the processes are forked.


def child(url: str, app: str, holder: str) -> None:
    """Run a collector from its start to its end."""
    collector.AT_ONCE = 7
    found = settings.Settings(home=Path(tempfile.gettempdir()) / "ops-no-home", app=app)
    Collector(Database(url, lambda: NOW), found, TABLE, holder, lambda: NOW).evaluate_due()


def killed(url: str, seed: int, wanted: int) -> tuple[int, int]:
    """Kill collectors; return how many were killed, and in how many rounds."""
    rng, kills, rounds, n = random.Random(seed), 0, 0, 0
    store = Database(url, lambda: NOW)
    while kills < wanted:
        app, rounds, done, longest_s, upto = f"round{rounds}", rounds + 1, False, 0.15, None
        copied(store, app)
        record = AlertStore(store, app)
        store.close()
        while not done:
            n += 1
            was_killed, done = struck(partial(child, url, app, f"c{n}"), rng.uniform(0.01, longest_s))
            kills += was_killed
            record.leave(f"c{n}")  # As if its lease had expired.
            longest_s, upto = (
                (longest_s * 1.2 if record.evaluated() == upto else max(0.1, longest_s * 0.9)),
                record.evaluated(),
            )
            store.close()  # No connection may be open at a fork.
    return kills, rounds


if __name__ == "__main__":
    print(json.dumps(killed(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))))
