"""Run runbooks and checklists: steps, checks, diagnosis, sessions and widgets."""

from typing import TYPE_CHECKING

from opslib.foundation import lazy

if TYPE_CHECKING:
    from opslib.runbooks.checklist_session import ChecklistSession
    from opslib.runbooks.checks import CHECKS
    from opslib.runbooks.diagnosis.diagnosis import diagnose
    from opslib.runbooks.opening import open_for as open_runbook
    from opslib.runbooks.session import RunbookSession
else:
    __getattr__ = lazy.names(
        __name__,
        {
            "CHECKS": "checks:CHECKS",
            "ChecklistSession": "checklist_session:ChecklistSession",
            "RunbookSession": "session:RunbookSession",
            "diagnose": "diagnosis.diagnosis:diagnose",
            "open_runbook": "opening:open_for",
        },
    )

__all__ = ["CHECKS", "ChecklistSession", "RunbookSession", "diagnose", "open_runbook"]
