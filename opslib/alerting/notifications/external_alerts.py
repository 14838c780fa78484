"""
Convert an external monitoring system's alert into a change of one of our alerts.

The input is Alertmanager's API v2, which Prometheus uses. A job that was due and did not run is read in the same way.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from opslib.alerting.notifications.planner import COLLECTOR, EXTERNAL, OF_COLLECTOR, OF_SCHEDULE, SCHEDULE, AlertChange
from opslib.foundation import clock, formatting
from opslib.foundation.config.rules import SEVERITIES
from opslib.foundation.errors import BadAlerts
from opslib.foundation.storage.database import ResultRow

UNNAMED = "unnamed"  # Alertmanager accepts alerts without an alertname.
LONGEST_NAME, LONGEST_SENTENCE = 100, 1000


def external_alert_id(labels: str, fingerprint: str, starts_us: int) -> str:
    """
    Return the id of one episode of an external alert.

    It is safe as a command's argument: [A-Za-z0-9_.-]+, not beginning with a hyphen or a dot. Names that differ only in
    replaced characters have different fingerprints.
    """
    name = re.sub(r"[^A-Za-z0-9_.-]+", "_", json.loads(labels).get("alertname", UNNAMED))[:LONGEST_NAME].lstrip("-.")
    return f"{name or UNNAMED}-{fingerprint[:8]}-{clock.instant(starts_us):%Y%m%dT%H%M%SZ}"


_SEVERITIES = {"info": "warning", "none": "warning", "page": "critical", "emergency": "escalate"}


def severity(labels: Mapping[str, str]) -> str:
    """Map the severity label of an external alert to ours; without a label it is ``notify``."""
    named = labels.get("severity", "")
    return named if named in SEVERITIES else _SEVERITIES.get(named, "notify")


def as_alert_change(row: ResultRow, now_us: int) -> AlertChange:
    """Convert an external alert to an alert change."""
    labels, annotations = json.loads(row.labels), json.loads(row.annotations)
    over, own = row.ends_us <= now_us, {OF_SCHEDULE: SCHEDULE, OF_COLLECTOR: COLLECTOR}
    source = next((of for end, of in own.items() if row.fingerprint.endswith(end)), EXTERNAL)
    name = formatting.single_line(labels.get("alertname", UNNAMED), LONGEST_NAME)
    sentence = formatting.single_line(
        annotations.get("summary") or annotations.get("description") or name, LONGEST_SENTENCE
    )
    rule, subject = labels.get("rule", name), labels.get("subject", labels.get("instance", "app"))
    # A recovery is reported before its end time. If the sender only stopped reporting, the alert ends without recovery.
    how = "resolved" if row.known_at_us >= row.ends_us else "ended"
    return AlertChange(
        "resolved" if over else "firing",
        row.ends_us if over else max(row.starts_us, 0),
        external_alert_id(row.labels, row.fingerprint, row.starts_us),
        formatting.single_line(rule, LONGEST_NAME),
        formatting.single_line(subject, LONGEST_NAME),
        source,
        how if over else "fired",
        severity(labels),
        None,
        None,
        row.starts_us,
        None,
        sentence if source != EXTERNAL else f"{sentence} (reported by another monitoring system)",
    )


# Alertmanager's resolve_timeout: an alert without an end time is resolved if it is not repeated within this time.
LASTS = timedelta(minutes=5)
MOST = 20_000
LONGEST = 4096  # Characters of a name or value that are kept; Prometheus and Alertmanager have no limit.
_LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
_TIME = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)(?:T|[ ](?=\d\d:\d\d:\d\d$))(\d\d?):(\d\d)(?::(\d\d)(?:[.,](\d+))?)?(?:Z|([+-])"
    r"(\d\d):?(\d\d))?"
)
_ZERO = datetime(1, 1, 1, tzinfo=UTC)  # Go writes this for a missing time.
_EARLIEST, _LATEST = datetime(1970, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)


class Batch(NamedTuple):
    """
    The alerts of one request.

    Attributes:
        alerts: For each valid alert: fingerprint (of its labels), labels, annotations, starts_us and ends_us
            (microseconds since 1970).
        refused: One sentence for each invalid alert, with its place in the list.
    """

    alerts: list[dict[str, Any]]
    refused: list[str]


def read(body: bytes, now: datetime) -> Batch:
    """
    Read the alerts of one request.

    Control and bidirectional characters in labels and annotations become spaces, and long texts are cut with a note.
    The fingerprint is computed from the labels as received.

    Args:
        body: JSON, a list of alerts.
        now: Time of the request; the start of an alert without a start time.

    Raises:
        BadAlerts: The body is not a JSON list, so nothing can be stored.
    """
    try:
        # Like Go's decoder: invalid UTF-8 is replaced, and text after the list is ignored.
        found, _ = json.JSONDecoder(parse_int=float).raw_decode(body.decode("utf-8-sig", "replace").lstrip(" \t\r\n"))
    except (ValueError, RecursionError):
        raise BadAlerts("the body is not JSON; a list of alerts was expected.") from None
    if found is None:
        found = []
    if not isinstance(found, list):
        raise BadAlerts("the body is JSON but not a list; a list of alerts was expected.")
    batch = Batch(
        [],
        [
            f"alerts [{MOST}] and after: {len(found) - MOST} alerts were rejected, at most {MOST} are read from one "
            f"request"
        ]
        if len(found) > MOST
        else [],
    )
    for i, one in enumerate(found[:MOST]):
        try:
            batch.alerts.append(_alert(one, now))
        except BadAlerts as problem:
            batch.refused.append(f"alert [{i}]: {problem}")
    return batch


def _alert(found: Any, now: datetime) -> dict[str, Any]:
    if not isinstance(found, dict):
        raise BadAlerts(f"is {_shown(found)}, expected an object")
    found = {str(key).lower(): value for key, value in found.items()}  # Go's decoder ignores the case of keys.
    # A label with an empty value counts as missing.
    labels = {name: value for name, value in _texts("labels", found.get("labels")).items() if value}
    annotations = _texts("annotations", found.get("annotations"))
    if not labels:
        raise BadAlerts("at least one label pair required")
    for kind, names in (("label set", labels), ("annotations", annotations)):
        for name in names:
            if not _LABEL.fullmatch(name):
                raise BadAlerts(f"invalid {kind}: invalid name {_shown(name)}, expected letters, digits and _ only")
    starts, ends = _time("startsAt", found.get("startsat")), _time("endsAt", found.get("endsat"))
    starts = starts or ends or now
    ends = ends or now + LASTS
    if ends < starts:
        raise BadAlerts("start time must be before end time")
    fingerprint = hashlib.sha256(json.dumps(labels, sort_keys=True).encode()).hexdigest()[:16]
    clean = (
        {formatting.single_line(name, LONGEST): formatting.single_line(value, LONGEST) for name, value in texts.items()}
        for texts in (labels, annotations)
    )
    return {
        "fingerprint": fingerprint,
        "labels": next(clean),
        "annotations": next(clean),
        "starts_us": clock.micros(starts),
        "ends_us": clock.micros(ends),
    }


def _texts(name: str, found: Any) -> dict[str, str]:
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise BadAlerts(f"{name} is {_shown(found)}, expected an object of strings")
    for key, value in found.items():
        if value is not None and not isinstance(value, str):
            raise BadAlerts(f"{name}.{formatting.single_line(key, 40)} is {_shown(value)}, expected a string")
    return {key: value or "" for key, value in found.items()}


def _time(name: str, found: Any) -> datetime | None:
    """Read a time, to the microsecond and within 1970 to 9999; None if it is missing."""
    if found is None:
        return None
    if found == "":
        return _EARLIEST  # Alertmanager reads it so.
    parts = _TIME.fullmatch(found) if isinstance(found, str) and found.isascii() else None
    try:
        if parts is None:
            raise ValueError
        year, month, day, hour, minute, second, fraction, sign, off_hours, off_minutes = parts.groups()
        wall = datetime(
            max(int(year), 1),
            int(month),
            int(day),
            int(hour),
            int(minute),
            int(second or 0),
            int((fraction or "0")[:6].ljust(6, "0")),
            UTC,
        )
        off = timedelta(hours=int(off_hours or 0), minutes=int(off_minutes or 0)) * (-1 if sign == "-" else 1)
    except ValueError:
        raise BadAlerts(f"{name} is {_shown(found)}, expected a time such as 2026-03-10T14:30:00Z") from None
    if int(year) and wall - _ZERO == off:  # Go's zero time, in any zone.
        return None
    if wall.year in (1, 9999):
        return _LATEST if wall.year == 9999 else _EARLIEST
    return max(wall - off, _EARLIEST)


def _shown(found: Any) -> str:
    """Return an invalid value, shortened for a message."""
    return formatting.single_line(json.dumps(found, ensure_ascii=False), 60)
