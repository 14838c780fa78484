"""
Write the page that lists every run of a notebook with how it ended and its verdict.

It is made anew from the ledger after each run, under a lock, so that it never says less than the ledger. It opens
anywhere, offline; its one script only hides the rows that do not hold what is typed.
"""

import fcntl
import hashlib
import json
import os
from base64 import b64encode
from pathlib import Path
from typing import Any
from urllib.parse import quote

from opslib.foundation import formatting, templates, time_parsing
from opslib.foundation.config.settings import Settings
from opslib.foundation.errors import UsageError
from opslib.foundation.storage import temporary_files
from opslib.foundation.storage.database import Database
from opslib.jobs import ledger

NAME = "index.html"
NEWEST = 2000  # More runs than this are in the ledger alone.
SCRIPT = (Path(__file__).parent / "templates" / "index.js").read_text(encoding="utf-8")
MARKS = {"ok": "✓", "warning": "!", "critical": "✗", "unknown": "?"}


def write(settings: Settings, store: Database) -> Path:
    """
    Make the page anew.

    Raises:
        OSError: It cannot be written; the ledger has all of it.
    """
    place = settings.home / NAME
    settings.home.mkdir(parents=True, exist_ok=True)
    handle = os.open(settings.home, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        temporary_files.replace(place, page(settings, ledger.runs(store)).encode())
    finally:
        os.close(handle)
    return place


def page(settings: Settings, runs: list[dict[str, Any]]) -> str:
    """The page: the newest of each notebook, then all of them, the newest first."""
    found = [r for r in reversed(runs) if not r["notebook"].startswith("incidents/")]
    shown = [(r, _verdict(r)) for r in found[:NEWEST]]
    newest: dict[str, tuple[dict[str, Any], str]] = {}
    for run, verdict in shown:
        newest.setdefault(_name(run), (run, verdict))
    hash_ = b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    return templates.render(
        "jobs/templates/index.html",
        policy=f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{hash_}'",
        app=settings.app,
        newest=[_row(settings, run, verdict) for run, verdict in newest.values()],
        runs=[_row(settings, run, verdict) for run, verdict in shown],
        older=len(found) - NEWEST,
        script=SCRIPT,
    )


def _verdict(run: dict[str, Any]) -> str:
    """The verdict of what a run published; empty where it published none that can still be read."""
    path = next((p for p in run["outputs"] if p.endswith(".json")), None)
    try:
        return str(json.loads(Path(path).read_text(encoding="utf-8"))["verdict"]) if path else ""
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _name(run: dict[str, Any]) -> str:
    """The notebook, and which of its kind, where one makes several: each checklist is one of them."""
    return " ".join(
        [Path(run["notebook"]).stem, *([str(run["parameters"]["name"])] if run["parameters"].get("name") else [])]
    )


def _local(moment: Any) -> str:
    """A moment by New York's clock; what is none, as it was given."""
    try:
        return (
            f"{time_parsing.parse(str(moment)).astimezone(formatting.NEW_YORK):%Y-%m-%d %H:%M} New York"
            if moment
            else ""
        )
    except UsageError:
        return str(moment)


def _row(settings: Settings, run: dict[str, Any], verdict: str) -> dict[str, str]:
    """What the page shows of a run; its link leads from the page to what the run published, where that still is."""
    page = next((Path(p) for p in run["outputs"] if p.endswith(".html")), None)
    given = run["parameters"]
    when = time_parsing.parse(run["ended_at"] or run["started_at"])
    return {
        "link": quote(os.path.relpath(page, settings.home)) if page and page.exists() else "",
        "name": _name(run),
        "of": str(given.get("day") or given.get("period") or given.get("incident") or _local(given.get("as_of") or "")),
        "mark": MARKS.get(verdict, ""),
        "verdict": verdict,
        "ended": f"{when:%Y-%m-%d %H:%M}",
        "state": run["state"],
        "why": formatting.single_line(run["reason"] or "", 160),
    }
