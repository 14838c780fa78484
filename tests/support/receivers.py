"""
Kill processes that send notifications: ``python tests/support/receivers.py URL SEED KILLS``. Prints the result.

In each round some alerts fire, one of them silenced. Processes that plan and send notifications are forked and killed
with SIGKILL at random moments, until everything is sent. Then all alerts are resolved, and the same follows again. The
receiver, another process, responds with success, with 500, slowly, or closes the connection; it records each message
and its response.
"""

import asyncio
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from datetime import timedelta
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx  # noqa: F401  # Imported before the fork, so that children need not import it.
import sqlalchemy as sa

from opslib.alerting.alerts import Transition
from opslib.alerting.notifications.sender import Sender
from opslib.alerting.notifications.store import PENDING, SENT, NotificationStore
from opslib.alerting.store import AlertStore
from opslib.foundation.config import rules, settings
from opslib.foundation.config.contacts import Channel, Contacts, Role
from opslib.foundation.config.rules import PATH
from opslib.foundation.storage.database import Database
from opslib.foundation.storage.schema import DELIVERIES, LEASES
from tests.support.snapshots import at, us
from tests.support.struck_process import struck

SPEED = 400.0  # Speed of a child's clock, so that it does not wait.
NEVER = timedelta(days=300)
ALERTS = {
    "availability": "massive",
    "gamma_zero": "app",
    "websocket_down": "app",
    "backtest_variance": "app",
    "errors": "app",
}
SILENT = "errors"
JUMP_S = 70.0  # Longer than a claim is valid.


def contacts(port: int) -> Contacts:
    """Return contacts whose roles are all notified by one webhook."""
    return Contacts(
        {name: Role(name, (), ("hook",)) for name in PATH},
        {"hook": Channel("hook", "webhook", {"url": f"http://127.0.0.1:{port}/"})},
        escalate_after=NEVER,
        repeat_every=NEVER,
        expire_after=NEVER,
    )


def receive(place: str) -> None:
    """Listen, report the port, and record each request and its response."""
    chance = random.Random(1)
    file = open(place, "a", buffering=1)  # noqa: SIM115

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            drawn = chance.random()
            if drawn < 0.15:
                status = 500
            elif drawn < 0.25:
                status = 0
            else:
                status = 204
            edge = {"over": "over", "passed": "both"}.get(body["kind"], "firing")
            edges = [[a["alert"], edge] for a in body["alerts"]]
            file.write(json.dumps({"id": body["id"], "status": status, "told": edges}) + "\n")
            if drawn > 0.9:
                time.sleep(0.03)
            if status:
                self.send_response(status)
                self.send_header("content-length", "0")
                self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hook)
    print(server.server_port, flush=True)
    server.serve_forever()


def fires(store: Database, app: str, seconds: float, edge: str, severity: str = "critical", kind: str = "") -> None:
    """
    Make each alert fire or resolve, in one transaction, as a collector stores it.

    Args:
        edge: firing or resolved; empty for a transition that needs no notification.
    """
    record = AlertStore(store, app)
    turn = record.acquire_lease("judge")
    assert turn
    kind = kind or ("fired" if edge == "firing" else "resolved")
    rows = [
        Transition(
            us(seconds),
            rule,
            subject,
            "page",
            f"{rule}-{app}",
            kind,
            severity,
            1.0,
            0.5,
            us(seconds),
            None,
            None,
            f"{rule} is past its limit",
            "hash",
        )
        for rule, subject in ALERTS.items()
    ]
    assert record.keep(
        turn,
        turn.upto_us if turn.upto_us is not None else us(0),
        us(seconds),
        rows,
        [],
        dict.fromkeys(range(len(rows)), edge) if edge else {},
    )
    record.leave("judge")


class Clock:
    """Return a clock with a start time and a speed."""

    def __init__(self, begins_s: float):
        self.begins_s, self.since = begins_s, time.monotonic()

    def now(self):
        return at(self.begins_s + (time.monotonic() - self.since) * SPEED)


TABLE = rules.load()  # Read once, before the processes are forked.


def child(url: str, app: str, port: int, begins_s: float) -> None:
    """Plan and send notifications until none is left."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    ticking = Clock(begins_s)
    store = Database(url, ticking.now)
    # The list of what still works is left out: it is slow to compute and not needed here.
    sender = Sender(
        store, settings.Settings(home=Path(tempfile.gettempdir()), app=app), TABLE, contacts(port), ticking.now
    )

    async def until_done() -> None:
        channel = sender.contacts.channels["hook"]
        while True:
            sender.notifications.plan(sender.contacts, TABLE)
            while await sender.send(channel):
                pass
            if settled(store, app):
                return

    asyncio.run(until_done())


def settled(store: Database, app: str) -> bool:
    """Return whether everything is planned and sent."""
    with store.reading() as connection:
        waiting = connection.execute(
            sa.select(sa.func.count()).where(DELIVERIES.c.app == app, DELIVERIES.c.state == PENDING)
        ).scalar_one()
    loud = [n for n in NotificationStore(store, app).open_states() if n.rule != SILENT]
    planned = int(store.recall(f"planned:{app}") or 0)
    return (
        not waiting and planned == len(AlertStore(store, app).outbox()) and all(n.notified and n.levels for n in loud)
    )


def killed(url: str, seed: int, wanted: int, port: int) -> dict[str, int]:
    """
    Kill processes, in as many rounds as it takes, two at least.

    On a slow machine one round may finish without a kill.
    """
    rng, kills, rounds, now_s, torn = random.Random(seed), 0, 0, 100.0, 0
    while kills < wanted or rounds < 2:
        app, rounds, longest_s = f"round{rounds}", rounds + 1, 0.12
        store = Database(url, Clock(now_s).now)
        NotificationStore(store, app).silence("Ann", "known", NEVER, rule=SILENT)
        store.close()
        for edge in ("firing", "resolved"):
            now_s += JUMP_S
            store = Database(url, Clock(now_s).now)
            fires(store, app, now_s, edge)
            store.close()
            done = False
            while not done:
                now_s += JUMP_S
                was_killed, done = struck(partial(child, url, app, port, now_s), rng.uniform(0.01, longest_s))
                if was_killed:
                    kills += 1
                    store = Database(url, Clock(now_s + 0.5).now)
                    with store.reading() as connection:
                        torn += connection.execute(
                            sa.select(sa.func.count()).where(
                                DELIVERIES.c.app == app,
                                DELIVERIES.c.state == PENDING,
                                DELIVERIES.c.claimed_until_us > us(now_s),
                            )
                        ).scalar_one()
                    store.close()
                now_s += 0.12 * SPEED
                longest_s = min(0.6, longest_s * 1.02)
            store = Database(url, Clock(now_s).now)
            assert settled(store, app)
            with store.writing() as connection:
                connection.execute(sa.delete(LEASES))
            store.close()
    return {"kills": kills, "rounds": rounds, "between": torn}


if __name__ == "__main__":
    if sys.argv[1] == "receive":
        receive(sys.argv[2])
    place = Path(sys.argv[4])
    receiver = subprocess.Popen(
        [sys.executable, "-m", "tests.support.receivers", "receive", str(place)], stdout=subprocess.PIPE, text=True
    )
    try:
        found = killed(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(receiver.stdout.readline()))
    finally:
        receiver.kill()
    store = Database(sys.argv[1])
    with store.reading() as connection:
        sent = [
            row.message
            for row in connection.execute(sa.select(DELIVERIES.c.message, DELIVERIES.c.state))
            if row.state == SENT
        ]
    print(json.dumps(found | {"sent": sent}))
