"""
Keep the ledger of runs: who runs a notebook, whether they still do, and who is to make what is due.

What is due is made once, whoever makes it: a run is claimed in the transaction that begins it. A run whose process is
gone may have done anything, so it is made again; publishing the same again changes nothing.
"""

import json
import os
import socket
from hashlib import sha256
from typing import Any, NamedTuple

import sqlalchemy as sa

from opslib.foundation import clock, formatting
from opslib.foundation.storage.database import Database, chunks
from opslib.foundation.storage.schema import RUNS

MADE = ("ok", "incomplete", "late", "missed")  # States after which nothing is to be made any more.
FAILURES, BEGINNINGS = 3, 10  # So often it is tried, where it fails; and where those that made it die.
PAUSE_US, LONGEST_US = 60_000_000, 900_000_000  # Before it is tried again, doubled each time.
SPARED_US = 300_000_000  # Beyond what a run may take: one of another host that says nothing for so long is dead.
OPEN, UNDER_WAY, PAUSED, OVER, GIVEN_UP = "open", "under way", "paused", "over", "given up"
_mine: set[str] = set()  # The runs of this process that go on.


class JobKey(NamedTuple):
    """
    Something that is to be made once; times in microseconds since 1970.

    Attributes:
        name: What, and of when, such as ``report daily 2026-03-10``: the same whoever makes it, and at whatever time it
            is due.
        at_us: When it was due; None where somebody makes it by hand, whether it was made before or not.
        late_us: From when on it is late.
        lapses_us: How long a run of it may take.
    """

    name: str
    at_us: int | None = None
    late_us: int | None = None
    lapses_us: int = 0


def process() -> str:
    """Who is running: host, process and when it was started, so that a later look can tell whether it is gone."""
    import psutil

    return f"{socket.gethostname()}|{os.getpid()}|{psutil.Process().create_time():.2f}"


def gone(who: str) -> bool:
    """Whether a process, as `process` names it, has ended; False of another host's, of which it cannot be known."""
    import psutil

    host, pid, created = who.split("|")
    if host != socket.gethostname():
        return False
    try:
        found = psutil.Process(int(pid))
        return found.status() == psutil.STATUS_ZOMBIE or abs(found.create_time() - float(created)) > 1
    except psutil.NoSuchProcess:
        return True


def _going_on(row: dict[str, Any]) -> bool:
    """Does a run that was begun and not ended still go on, as far as can be told?"""
    return row["id"] in _mine if row["process"] == process() else not gone(row["process"])


def job_state(due: JobKey, rows: list[dict[str, Any]], now_us: int) -> str:
    """
    What is to be done about something that is due, going by its runs, oldest first?

    Returns:
        `OPEN`: it is to be made now; `UNDER_WAY`; `PAUSED`: it failed, and is made again in a while; `OVER`: it was
            made, or
        is missed for good; `GIVEN_UP`: it failed too often.
    """
    if any(row["state"] in MADE for row in rows):
        return OVER
    begun = [row for row in rows if row["state"] == "running"]
    if any(_going_on(row) and now_us - row["started_at_us"] < due.lapses_us + SPARED_US for row in begun):
        return UNDER_WAY
    failed = [row for row in rows if row["state"] == "failed"]
    if len(failed) >= FAILURES or len(rows) >= BEGINNINGS:
        return GIVEN_UP
    pause_us = min(PAUSE_US * 2 ** (len(failed) - 1), LONGEST_US) if failed else 0
    # A clock that was set back far is waited for no longer.
    return PAUSED if failed and -LONGEST_US < now_us - (failed[-1]["ended_at_us"] or 0) < pause_us else OPEN


def begins(store: Database, due: JobKey | None, **row: Any) -> bool:
    """
    Write a run into the ledger before it begins; False where what is due is no longer to be made: then nothing is
    written.
    """
    _mine.add(row["id"])
    begun = False
    try:
        with store.committing() as connection:
            if due and due.at_us is not None:
                made = _select_due(connection, row["app"], [due.name])
                if job_state(due, made, clock.micros(store.now())) != OPEN:
                    return False
            _insert(connection, {"outputs": "[]", "due": due.name if due else None} | row)
        begun = True
    finally:
        if not begun:
            _mine.discard(row["id"])
    return begun


def _insert(connection: sa.Connection, row: dict[str, Any]) -> None:
    """Write a row of the ledger, of this process, which has not ended unless it says so."""
    connection.execute(sa.insert(RUNS).values({"ended_at_us": None, "reason": None, "process": process()} | row))


def ends(
    store: Database,
    run_id: str,
    *,
    state: str,
    reason: str | None,
    ended_at_us: int,
    outputs: list[str],
    kernel: str | None = None,
) -> None:
    """Write into the ledger how a run ended; where that fails, nobody takes it for going on."""
    _mine.discard(run_id)
    values = {"state": state, "reason": reason, "ended_at_us": ended_at_us, "outputs": json.dumps(outputs)}
    with store.committing() as connection:
        connection.execute(sa.update(RUNS).where(RUNS.c.id == run_id).values(values | {"kernel": kernel}))


def missed(store: Database, app: str, due: JobKey, notebook: str, why: str) -> None:
    """Write down that something was not made, and will not be."""
    _noted(store, app, due, notebook, "missed", why)


def refused(store: Database, app: str, due: JobKey, notebook: str, why: str) -> None:
    """Write down that something could not be begun; where that was written down already, nothing is."""
    _noted(store, app, due, notebook, "failed", why)


def _noted(store: Database, app: str, due: JobKey, notebook: str, state: str, why: str) -> None:
    now_us = clock.micros(store.now())
    name = f"{clock.instant(now_us):%Y%m%dT%H%M%SZ}-{state}-{sha256(due.name.encode()).hexdigest()[:12]}"
    begins(
        store,
        due,
        id=name,
        app=app,
        notebook=notebook,
        parameters="{}",
        started_at_us=now_us,
        state=state,
        reason=why,
        ended_at_us=now_us,
    )
    _mine.discard(name)


def all_rows(store: Database) -> list[dict[str, Any]]:
    """The rows of the ledger as they are stored, oldest first."""
    return [dict(row._mapping) for row in store.stream(sa.select(RUNS).order_by(RUNS.c.started_at_us, RUNS.c.id))]


def rows_due(store: Database, app: str, names: list[str]) -> list[dict[str, Any]]:
    """Every run of what is due under these names, oldest first."""
    with store.reading() as connection:
        return [row for some in chunks(names, 500) for row in _select_due(connection, app, some)]


def _select_due(connection: sa.Connection, app: str, names: list[str]) -> list[dict[str, Any]]:
    found = sa.select(RUNS).where(RUNS.c.app == app, RUNS.c.due.in_(names)).order_by(RUNS.c.started_at_us, RUNS.c.id)
    return [dict(row._mapping) for row in connection.execute(found)]


def runs(store: Database) -> list[dict[str, Any]]:
    """
    The ledger as CONTRACT.md has it, oldest first.

    A run that was begun and not ended, whose process is gone, is *unknown*: it may have done anything.
    """
    found = []
    for row in all_rows(store):
        state, reason = row["state"], row["reason"]
        if state == "running" and not _going_on(row):
            state, reason = "unknown", "the process that ran it is gone, and did not say how it ended"
        ended = row["ended_at_us"]
        found.append(
            {
                "id": row["id"],
                "notebook": row["notebook"],
                "parameters": json.loads(row["parameters"]),
                "state": state,
                "reason": reason,
                "started_at": formatting.iso(clock.instant(row["started_at_us"])),
                "ended_at": None if ended is None else formatting.iso(clock.instant(ended)),
                "outputs": json.loads(row["outputs"]),
                "due": row["due"],
                "kernel": row["kernel"],
            }
        )
    return found


def anchor(store: Database, app: str, incident: str, entry_id: str, digest: str) -> None:
    """
    Write the head of an incident's record into the ledger: who changes that record later does not change this with it.
    """
    now_us = clock.micros(store.now())
    row: dict[str, Any] = {
        "id": f"{clock.instant(now_us):%Y%m%dT%H%M%SZ}-incident-{incident}-{entry_id}-{digest[:8]}",
        "app": app,
        "notebook": f"incidents/{incident}",
        "parameters": json.dumps({"incident": incident, "entry": entry_id, "digest": digest}),
        "started_at_us": now_us,
        "ended_at_us": now_us,
        "state": "ok",
        "outputs": "[]",
    }
    with store.committing() as connection:
        _insert(connection, row)


def anchors(store: Database, app: str, incident: str) -> dict[str, str]:
    """The heads of an incident's record that the ledger has: digest by entry."""
    found = (
        json.loads(row["parameters"])
        for row in all_rows(store)
        if row["app"] == app and row["notebook"] == f"incidents/{incident}"
    )
    return {p["entry"]: p["digest"] for p in found if "entry" in p and "digest" in p}
