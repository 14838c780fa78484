"""Convert an external monitor's alert, or a job that was not made, into a change of one of our alerts."""

import json
import re
from collections.abc import Mapping

import sqlalchemy as sa

from opslib import clock, text
from opslib.notices import COLLECTOR, NEIGHBOUR, OF_COLLECTOR, OF_SCHEDULE, SCHEDULE, Edge
from opslib.rules import RUNGS


UNNAMED = "unnamed"  # Alertmanager keeps alerts without an alertname.
LONGEST_NAME, LONGEST_SENTENCE = 100, 1000


def neighbour_id(labels: str, fingerprint: str, starts_us: int) -> str:
    """
    The id of one life of a neighbour's alert, safe as the argument of a command: [A-Za-z0-9_.-]+, not beginning with -
    or a dot.

    Names that differ only in what is replaced have different fingerprints.
    """
    name = re.sub(r"[^A-Za-z0-9_.-]+", "_", json.loads(labels).get("alertname", UNNAMED))[:LONGEST_NAME].lstrip("-.")
    return f"{name or UNNAMED}-{fingerprint[:8]}-{clock.instant(starts_us):%Y%m%dT%H%M%SZ}"


_SEVERITIES = {"info": "warning", "none": "warning", "page": "critical", "emergency": "escalate"}


def severity(labels: Mapping[str, str]) -> str:
    """Which of our severities is meant by a label of another monitor? Of one that says none, somebody is told."""
    named = labels.get("severity", "")
    return named if named in RUNGS else _SEVERITIES.get(named, "notify")


def edge(row: sa.Row, now_us: int) -> Edge:
    """What another monitor says, as a change of ours."""
    labels, annotations = json.loads(row.labels), json.loads(row.annotations)
    over, own = row.ends_us <= now_us, {OF_SCHEDULE: SCHEDULE, OF_COLLECTOR: COLLECTOR}
    source = next((of for end, of in own.items() if row.fingerprint.endswith(end)), NEIGHBOUR)
    name = text.one_line(labels.get("alertname", UNNAMED), LONGEST_NAME)
    said = text.one_line(annotations.get("summary") or annotations.get("description") or name, LONGEST_SENTENCE)
    rule, subject = labels.get("rule", name), labels.get("subject", labels.get("instance", "app"))
    # Its sender says an end before it comes; one that has only fallen silent has told of no recovery.
    how = "resolved" if row.known_at_us >= row.ends_us else "ended"
    return Edge(
        "resolved" if over else "firing",
        row.ends_us if over else max(row.starts_us, 0),
        neighbour_id(row.labels, row.fingerprint, row.starts_us),
        text.one_line(rule, LONGEST_NAME),
        text.one_line(subject, LONGEST_NAME),
        source,
        how if over else "fired",
        severity(labels),
        None,
        None,
        row.starts_us,
        None,
        said if source != NEIGHBOUR else f"{said}; says another monitor",
    )
