"""Open a runbook for an incident as a filled-in copy in its folder."""

import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from opslib.foundation import formatting
from opslib.foundation.storage import temporary_files
from opslib.incidents import lifecycle
from opslib.incidents.incident import Incident
from opslib.runbooks import catalog
from opslib.runbooks.diagnosis import diagnosis

if TYPE_CHECKING:
    from opslib.foundation.config.workspace import Workspace


def open_for(
    workspace: "Workspace", name: str, incident: Incident, operator: str, as_of: datetime | None = None
) -> Path:
    """
    Copy a runbook into the incident's folder, filled in, with the likely branch first.

    Args:
        as_of: Evaluate everything as of this time; None means now.

    Returns:
        The path of the copy. The template in ``runbooks/`` is not changed.
    """
    template = catalog.runbook(name)
    rule = workspace.rules.rules.get(incident.rule)
    limit = incident.limit()
    found = diagnosis.diagnose_at(workspace, as_of or workspace.now(), rule.window if rule else timedelta(minutes=10))
    given = {
        "app": workspace.settings.app,
        "incident": incident.id,
        "operator": operator,
        "subject": incident.subject,
        "severity": incident.severity,
        "limit": rule.format_limit(limit) if rule and limit is not None else "",
        "window": f"{round(rule.window.total_seconds())}s" if rule else "",
        "as_of": formatting.iso(as_of) if as_of else "",
    }
    folder = lifecycle.of(workspace).folder(incident.id)
    with temporary_files.refusing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    number = max((int(p.name[:2]) for p in folder.glob("[0-9][0-9]_*.ipynb")), default=0) + 1
    place = folder / f"{number:02}_{name}.ipynb"
    sure = formatting.ratio(found.confidence, 0)
    why = formatting.in_markdown(f"the diagnosis, confidence {sure}, found another cause: {found.headline}")
    made = catalog.fill_in(template, given, found.settled or {found.cause}, why if found.settled else "")
    content = json.dumps(made, indent=1, ensure_ascii=False) + "\n"
    with temporary_files.refusing(place):
        temporary_files.make(place, content.encode())
    body = {
        "runbook": name,
        "notebook": place.name,
        "cause": found.cause,
        "subject": found.subject,
        "also": [o._asdict() for o in found.also],
        "confidence": found.confidence,
        "headline": found.words,
        "given": given,
        "words": f"runbook {name} opened as {place.name}; likely cause: {found.cause}",
    }
    lifecycle.of(workspace).append(incident.id, "runbook", body, by=operator)
    return place
