"""Keep the append-only record of each incident: evidence, timeline, life cycle."""

from typing import TYPE_CHECKING

from opslib.foundation import lazy

if TYPE_CHECKING:
    from opslib.incidents.evidence import Entry
    from opslib.incidents.feedback import Feedback
    from opslib.incidents.incident import Incident
    from opslib.incidents.lifecycle import Incidents
else:
    __getattr__ = lazy.names(
        __name__,
        {
            "Entry": "evidence:Entry",
            "Feedback": "feedback:Feedback",
            "Incident": "incident:Incident",
            "Incidents": "lifecycle:Incidents",
        },
    )

__all__ = ["Entry", "Feedback", "Incident", "Incidents"]
