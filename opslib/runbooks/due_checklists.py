"""
List the checklists that are due at a moment, from their records.

A checklist of a day or an hour is due on trading days until it is signed; one that follows a deployment, from its time
after the deployment on. One of a release is due once it was started.
"""

from datetime import datetime, timedelta
from typing import NamedTuple

from opslib.foundation import clock, formatting, market_calendar
from opslib.foundation.config.workspace import Workspace
from opslib.incidents.incident import Incident
from opslib.incidents.store import EntryStore
from opslib.runbooks import checklists
from opslib.runbooks.checklist_session import SIGNED, named
from opslib.runbooks.checklists import DAY, DEPLOY, HOUR, Checklist
from opslib.telemetry.markers import Markers

LASTS = timedelta(days=3)  # How long one that follows a deployment stays due: over a weekend.


class DueChecklist(NamedTuple):
    """
    A checklist that is due, or that was due and is signed.

    Attributes:
        verdict: Of a signed one, its verdict; else empty.
        words: Its state: not started, started, or by whom it was signed.
    """

    checklist: Checklist
    verdict: str
    words: str


def due(workspace: Workspace, at: datetime) -> list[DueChecklist]:
    """Return the checklists that are due at a moment, those that are not signed first."""
    records = EntryStore(workspace.store, workspace.settings)
    deployed = [
        m.ts_us for m in Markers(workspace.store, workspace.settings).between(0, clock.micros(at)) if m.kind == "deploy"
    ]
    found = []
    for checklist in checklists.table().values():
        deployed_us = max(deployed, default=None) if checklist.each == DEPLOY else None
        record = records.read(named(checklist, records, at, deployed_us))
        if record is not None or _is_due(checklist, at, deployed_us):
            found.append(_state(checklist, record))
    return sorted(found, key=lambda d: bool(d.verdict))


def _is_due(checklist: Checklist, at: datetime, deployed_us: int | None) -> bool:
    """Return whether a checklist without a record is due."""
    if checklist.each == DAY:
        return market_calendar.session(at.astimezone(formatting.NEW_YORK).date()) is not None
    if checklist.each == HOUR:
        return market_calendar.open_since(at) is not None
    if deployed_us is None:
        return False
    return timedelta() <= at - clock.instant(deployed_us) - checklist.after <= LASTS


def _state(checklist: Checklist, record: Incident | None) -> DueChecklist:
    if record is None:
        return DueChecklist(checklist, "", "not started")
    signed = next((e for e in record.entries if e.kind == SIGNED), None)
    if signed is None:
        return DueChecklist(checklist, "", "started, not signed")
    at = clock.instant(signed.at_us).astimezone(formatting.NEW_YORK)
    return DueChecklist(checklist, str(signed.body["verdict"]), f"signed by {signed.by} at {at:%H:%M} New York")
