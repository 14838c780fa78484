"""
This module knows who runs a notebook and whether they still do, and nothing else: how the ledger of runs is read.
"""

import json
import os
import socket
from typing import Any

from opslib import clock, text
from opslib.evidence import Entry
from opslib.store import Store


def process() -> str:
    """Who is running: host, process and when it was started, so that a later look can tell whether it is gone."""
    import psutil

    return f"{socket.gethostname()}|{os.getpid()}|{psutil.Process().create_time():.2f}"


def _gone(who: str) -> bool:
    """Is the process of a run on this host gone? Of another host it cannot be told."""
    import psutil

    host, pid, created = who.split("|")
    if host != socket.gethostname():
        return False
    try:
        found = psutil.Process(int(pid))
        return found.status() == psutil.STATUS_ZOMBIE or abs(found.create_time() - float(created)) > 1
    except psutil.NoSuchProcess:
        return True


def runs(store: Store) -> list[dict[str, Any]]:
    """
    The ledger as CONTRACT.md has it, oldest first.

    A run that was begun and not ended, whose process is gone, is *unknown*: it may have done anything.
    """
    found = []
    for row in store.runs():
        state, reason = row["state"], row["reason"]
        if state == "running" and _gone(row["process"]):
            state, reason = "unknown", "the process that ran it is gone, and did not say how it ended"
        ended = row["ended_at_us"]
        found.append(
            {
                "id": row["id"], "notebook": row["notebook"], "parameters": json.loads(row["parameters"]), "state": state, "reason": reason,
                "started_at": text.iso(clock.instant(row["started_at_us"])), "ended_at": None if ended is None else text.iso(clock.instant(ended)), "outputs": json.loads(row["outputs"]),
            }
        )  # fmt: skip
    return found


def anchor(store: Store, app: str, incident: str, entry: Entry) -> None:
    """Write the head of an incident's record into the ledger: who changes that record later does not change this with it."""
    now_us = clock.micros(store.now())
    row = {"id": f"{clock.instant(now_us):%Y%m%dT%H%M%SZ}-incident-{incident}-{entry.id}-{entry.digest[:8]}", "app": app, "notebook": f"incidents/{incident}", "started_at_us": now_us, "outputs": "[]", "process": process()}
    store.run_begins(**row, parameters=json.dumps({"incident": incident, "entry": entry.id, "digest": entry.digest}), state="ok")
    store.run_ends(row["id"], state="ok", reason=None, ended_at_us=now_us, outputs=[])


def anchors(store: Store, app: str, incident: str) -> dict[str, str]:
    """The heads of an incident's record that the ledger has: digest by entry."""
    found = (json.loads(row["parameters"]) for row in store.runs() if row["app"] == app and row["notebook"] == f"incidents/{incident}")
    return {p["entry"]: p["digest"] for p in found if "entry" in p and "digest" in p}
