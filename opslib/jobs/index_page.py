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

from opslib.foundation import formatting, time_parsing
from opslib.foundation.config.settings import Settings
from opslib.foundation.errors import UsageError
from opslib.foundation.storage import temporary_files
from opslib.foundation.storage.database import Database
from opslib.jobs import ledger
from opslib.jobs.html_export import STYLE

NAME = "index.html"
NEWEST = 2000  # More runs than this are in the ledger alone.
SCRIPT = """
const box = document.getElementById('search'), told = document.getElementById('told');
const rows = [...document.querySelectorAll('#runs tbody tr')];
const sift = () => {
  const words = box.value.toLowerCase().split(/\\s+/).filter(Boolean);
  let shown = 0;
  for (const row of rows) { row.hidden = !words.every(w => row.textContent.toLowerCase().includes(w)); shown += \
!row.hidden }
  told.textContent = shown + ' of ' + rows.length + ' runs';
};
box.addEventListener('input', sift); sift();
"""
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
    e = formatting.in_html
    hash_ = b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{hash_}'"
    head = "<thead><tr><th>notebook</th><th>of</th><th>verdict</th><th>ended</th><th>run</th><th>why</th></tr></thead>"
    more = (
        f"<p>{len(found) - NEWEST:,} older runs are in the ledger: <code>ops runs</code>.</p>"
        if len(found) > NEWEST
        else ""
    )
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta '
        f'http-equiv="Content-Security-Policy" content="{policy}"><meta name="viewport" '
        f'content="width=device-width, initial-scale=1">'
        f"<title>{e(settings.app)}: every run</title><style>{STYLE}body {{ max-width: 80rem }} input {{ font: "
        f"inherit; padding: .3rem .6rem; width: 24rem; max-width: 100% }} td:not(:last-child) {{ white-space: "
        f"nowrap }}</style></head>\n<body>\n"
        f"<h1>{e(settings.app)}: the newest of each notebook</h1>\n<table>{head}<tbody>"
        f"{''.join(_row(settings, run, verdict) for run, verdict in newest.values())}</tbody></table>\n"
        f'<h2>Every run</h2>\n<p><label>Search <input id="search" type="search" placeholder="weekly critical '
        f'2026-03"></label> <span id="told">{len(shown)} runs</span></p>\n'
        f'<table id="runs">{head}<tbody>{"".join(_row(settings, run, verdict) for run, verdict in shown)}</'
        f"tbody></table>{more}\n<script>{SCRIPT}</script>\n</body></html>\n"
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


def _row(settings: Settings, run: dict[str, Any], verdict: str) -> str:
    e = formatting.in_html
    page = next((Path(p) for p in run["outputs"] if p.endswith(".html")), None)
    name, given = _name(run), run["parameters"]
    of = given.get("day") or given.get("period") or given.get("incident") or _local(given.get("as_of") or "")
    link = (
        f'<a href="{e(quote(os.path.relpath(page, settings.home)))}">{e(name)}</a>'
        if page and page.exists()
        else e(name)
    )
    when = time_parsing.parse(run["ended_at"] or run["started_at"])
    return (
        f"<tr><th scope='row'>{link}</th><td>{e(str(of))}</td><td>{MARKS.get(verdict, '')} {e(verdict)}</"
        f"td><td>{when:%Y-%m-%d %H:%M} UTC</td><td>{e(run['state'])}</td><td>"
        f"{e(formatting.single_line(run['reason'] or '', 160))}</td></tr>"
    )
