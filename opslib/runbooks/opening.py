"""Open a runbook for an incident: a copy in its folder, filled in, with the likely branch first."""

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
    Open a runbook for an incident: a copy in its folder, filled in, the likely branch first.

    Args:
        as_of: Look at everything as of then, always; None is now.

    Returns:
        Where the copy is; the exemplar in ``runbooks/`` is never worked in.
    """
    shelved = catalog.runbook(name)
    rule = workspace.rules.rules.get(incident.rule)
    limit = incident.limit()
    found = diagnosis.diagnose_at(workspace, as_of or workspace.now(), rule.window if rule else timedelta(minutes=10))
    given = {
        "app": workspace.settings.app,
        "incident": incident.id,
        "operator": operator,
        "subject": incident.subject,
        "severity": incident.severity,
        "limit": rule.limit_told(limit) if rule and limit is not None else "",
        "window": f"{round(rule.window.total_seconds())}s" if rule else "",
        "as_of": formatting.iso(as_of) if as_of else "",
    }
    folder = lifecycle.of(workspace).folder(incident.id)
    with temporary_files.refusing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    number = max((int(p.name[:2]) for p in folder.glob("[0-9][0-9]_*.ipynb")), default=0) + 1
    place = folder / f"{number:02}_{name}.ipynb"
    content = json.dumps(catalog.fill_in(shelved, given, [found.cause]), indent=1, ensure_ascii=False) + "\n"
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
        "words": f"runbook {name} opened as {place.name}; likely {found.cause}",
    }
    lifecycle.of(workspace).append(incident.id, "runbook", body, by=operator)
    return place
