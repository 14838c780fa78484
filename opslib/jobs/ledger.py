"""
Record every run in the ledger, claim due jobs, and detect runs whose process has ended.

A due job runs once: the transaction that begins a run also claims the job. If the process of a run has ended without a
result, the job runs again; publishing the same result twice changes nothing.
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

MADE = ("ok", "incomplete", "late", "missed")  # States after which the job does not run again.
FAILURES, BEGINNINGS = 3, 10  # The most failed runs of a job, and the most runs if processes die.
PAUSE_US, LONGEST_US = 60_000_000, 900_000_000  # The delay before a retry, doubled each time.
SPARED_US = 300_000_000  # A run on another host counts as dead this long after its timeout.
OPEN, UNDER_WAY, PAUSED, OVER, GIVEN_UP = "open", "running", "waiting to retry", "completed", "failed"
_mine: set[str] = set()  # The active runs of this process.


class JobKey(NamedTuple):
    """
    The key of a job that is to run once; times in microseconds since 1970.

    Attributes:
        name: The job and its day or period, such as ``report daily 2026-03-10``. It does not depend on the process that
            runs the job, nor on the time at which it is due.
        at_us: The time at which it was due; None for a run by hand, which always runs.
        late_us: The time from which it is late.
        lapses_us: The timeout of a run.
    """

    name: str
    at_us: int | None = None
    late_us: int | None = None
    lapses_us: int = 0


def process() -> str:
    """Return the identity of this process: host, PID and start time, so that others can check whether it has ended."""
    import psutil

    return f"{socket.gethostname()}|{os.getpid()}|{psutil.Process().create_time():.2f}"


def process_ended(identity: str) -> bool:
    """Return whether a process has ended, by its identity from `process`; False for a process of another host."""
    import psutil

    host, pid, created = identity.split("|")
    if host != socket.gethostname():
        return False
    try:
        found = psutil.Process(int(pid))
        return found.status() == psutil.STATUS_ZOMBIE or abs(found.create_time() - float(created)) > 1
    except psutil.NoSuchProcess:
        return True


def _is_active(row: dict[str, Any]) -> bool:
    """Return whether a run that has not ended is still running, as far as can be determined."""
    return row["id"] in _mine if row["process"] == process() else not process_ended(row["process"])


def job_state(due: JobKey, rows: list[dict[str, Any]], now_us: int) -> str:
    """
    Return the state of a due job from its runs, oldest first.

    Returns:
        `OPEN`: to run now. `UNDER_WAY`: running. `PAUSED`: failed, retried after a delay. `OVER`: completed or missed.
        `GIVEN_UP`: failed too often.
    """
    if any(row["state"] in MADE for row in rows):
        return OVER
    begun = [row for row in rows if row["state"] == "running"]
    if any(_is_active(row) and now_us - row["started_at_us"] < due.lapses_us + SPARED_US for row in begun):
        return UNDER_WAY
    failed = [row for row in rows if row["state"] == "failed"]
    if len(failed) >= FAILURES or len(rows) >= BEGINNINGS:
        return GIVEN_UP
    pause_us = min(PAUSE_US * 2 ** (len(failed) - 1), LONGEST_US) if failed else 0
    # If the clock was set back far, do not wait for it.
    return PAUSED if failed and -LONGEST_US < now_us - (failed[-1]["ended_at_us"] or 0) < pause_us else OPEN


def begins(store: Database, due: JobKey | None, **row: Any) -> bool:
    """
    Record a run in the ledger before it begins.

    Returns:
        False if the job is not open any more; then nothing is recorded.
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
    """Insert a row of this process; it has not ended unless the row has an end."""
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
    """Record the end of a run; if that fails, the run no longer counts as active."""
    _mine.discard(run_id)
    values = {"state": state, "reason": reason, "ended_at_us": ended_at_us, "outputs": json.dumps(outputs)}
    with store.committing() as connection:
        connection.execute(sa.update(RUNS).where(RUNS.c.id == run_id).values(values | {"kernel": kernel}))


def missed(store: Database, app: str, due: JobKey, notebook: str, why: str) -> None:
    """Record that a job was missed and will not run."""
    _record_without_run(store, app, due, notebook, "missed", why)


def refused(store: Database, app: str, due: JobKey, notebook: str, why: str) -> None:
    """Record that a job could not be started; nothing is recorded twice."""
    _record_without_run(store, app, due, notebook, "failed", why)


def _record_without_run(store: Database, app: str, due: JobKey, notebook: str, state: str, why: str) -> None:
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
    """Return the stored rows of the ledger, oldest first."""
    return [dict(row._mapping) for row in store.stream(sa.select(RUNS).order_by(RUNS.c.started_at_us, RUNS.c.id))]


def rows_due(store: Database, app: str, names: list[str]) -> list[dict[str, Any]]:
    """Return every run of the jobs with these names, oldest first."""
    with store.reading() as connection:
        return [row for some in chunks(names, 500) for row in _select_due(connection, app, some)]


def _select_due(connection: sa.Connection, app: str, names: list[str]) -> list[dict[str, Any]]:
    found = sa.select(RUNS).where(RUNS.c.app == app, RUNS.c.due.in_(names)).order_by(RUNS.c.started_at_us, RUNS.c.id)
    return [dict(row._mapping) for row in connection.execute(found)]


def runs(store: Database) -> list[dict[str, Any]]:
    """
    Return the ledger with the fields of CONTRACT.md, oldest first.

    A run without an end whose process has ended is *unknown*.
    """
    found = []
    for row in all_rows(store):
        state, reason = row["state"], row["reason"]
        if state == "running" and not _is_active(row):
            state, reason = "unknown", "its process ended without recording a result"
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
    """Record the last entry of an incident in the ledger, so that a later change of its record can be detected."""
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
    """Return the digests of an incident's entries that the ledger has, by entry."""
    found = (
        json.loads(row["parameters"])
        for row in all_rows(store)
        if row["app"] == app and row["notebook"] == f"incidents/{incident}"
    )
    return {p["entry"]: p["digest"] for p in found if "entry" in p and "digest" in p}
