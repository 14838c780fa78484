"""
Write Home as a page for people without a kernel: what is broken, reports, runbooks, and every run.

The page is rebuilt after each run and each change of an incident, under a lock. It works offline; its only script
filters the rows of the runs. The runbooks are on a page of their own beside it.
"""

import fcntl
import hashlib
import os
from base64 import b64encode
from pathlib import Path
from typing import Any
from urllib.parse import quote

from opslib.foundation import formatting, logs, templates, time_parsing
from opslib.foundation.config import settings as settings_module
from opslib.foundation.config.settings import Settings
from opslib.foundation.config.workspace import Workspace
from opslib.foundation.errors import UsageError
from opslib.foundation.storage import temporary_files
from opslib.jobs import ledger
from opslib.reports import home, published_runs
from opslib.runbooks import catalog

NAME = "index.html"
NEWEST = 2000  # Older runs are only in the ledger.
SCRIPT = (Path(__file__).parent / "templates" / "index.js").read_text(encoding="utf-8")
SHOWN_RUNS = 20  # With more runs, their table is folded.


def write(workspace: Workspace) -> Path:
    """
    Rebuild the page.

    Raises:
        OSError: It cannot be written; the ledger still has every run.
        OpsError: What it shows cannot be read.
    """
    settings = workspace.settings
    place = settings.home / NAME
    settings.home.mkdir(parents=True, exist_ok=True)
    handle = os.open(settings.home, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        _write_runbooks(settings)
        temporary_files.replace(place, page(workspace).encode())
    finally:
        os.close(handle)
    return place


def keep_current(workspace: Workspace) -> None:
    """Rebuild the page after a change; a page that cannot be written is logged and stops nothing."""
    try:
        write(workspace)
    except Exception as problem:  # Whatever it is, the change is recorded, and its command succeeds.
        logs.of(workspace.settings.redact).warning(
            f"{workspace.settings.home / NAME} was not written ({problem.__class__.__name__}: {problem}). The next "
            f"run or change of an incident writes it again; ops status and ops runs show the same."
        )


def page(workspace: Workspace) -> str:
    """Return the page: Home, then all runs, newest first."""
    settings = workspace.settings
    found = [r for r in reversed(ledger.runs(workspace.store)) if not r["notebook"].startswith("incidents/")]
    shown = [_row(settings, run, published_runs.verdict(run["outputs"])) for run in found[:NEWEST]]
    hash_ = b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    return templates.render(
        "reports/templates/index.html",
        policy=f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{hash_}'",
        app=settings.app,
        home=home.home_of(workspace, lambda place: _address(settings, place)).block,
        runs=shown,
        folded=len(shown) > SHOWN_RUNS,
        older=len(found) - NEWEST,
        signs=formatting.SIGNS,
        script=SCRIPT,
    )


def _address(settings: Settings, place: Path) -> str:
    """Return the address of an HTML page, relative to the home directory; empty for any other file."""
    return quote(os.path.relpath(place, settings.home)) if place.suffix == ".html" else ""


def _write_runbooks(settings: Settings) -> None:
    """Write the page of all runbooks, unless it is newer than they are, or there are none."""
    if settings_module.project() is None:
        return
    place = settings.home / home.RUNBOOKS_PAGE
    sources = [*catalog.folder().glob("*.ipynb"), *Path(catalog.__file__).parent.glob("*.*")]
    if not place.exists() or place.stat().st_mtime < max(source.stat().st_mtime for source in sources):
        temporary_files.replace(place, catalog.page().encode())


def _name(run: dict[str, Any]) -> str:
    """Return the name of a run's notebook, followed by the name of the checklist if it is one."""
    return " ".join(
        [Path(run["notebook"]).stem, *([str(run["parameters"]["name"])] if run["parameters"].get("name") else [])]
    )


def _local(moment: Any) -> str:
    """Return a time in New York's time zone; text that is not a time is returned unchanged."""
    try:
        return (
            f"{time_parsing.parse(str(moment)).astimezone(formatting.NEW_YORK):%Y-%m-%d %H:%M} New York"
            if moment
            else ""
        )
    except UsageError:
        return str(moment)


def _row(settings: Settings, run: dict[str, Any], verdict: str) -> dict[str, str]:
    """Return a row of the page; it links to the published HTML if the file still exists."""
    page = next((Path(p) for p in run["outputs"] if p.endswith(".html")), None)
    given = run["parameters"]
    when = time_parsing.parse(run["ended_at"] or run["started_at"])
    return {
        "link": _address(settings, page) if page and page.exists() else "",
        "name": _name(run),
        "of": str(given.get("day") or given.get("period") or given.get("incident") or _local(given.get("as_of") or "")),
        "verdict": verdict,
        "ended": f"{when:%Y-%m-%d %H:%M}",
        "state": run["state"],
        "why": formatting.single_line(run["reason"] or "", 160),
    }
