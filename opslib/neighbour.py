"""
This module knows how another monitor tells of its alerts (Alertmanager's API v2, which a Prometheus speaks), and
nothing else.
"""

import hashlib
import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any

from opslib import clock, text
from opslib.errors import BadAlerts

LASTS = timedelta(minutes=5)  # An alert that says no end is over when it was not heard of for so long, as in Alertmanager.
MOST, LONGEST, LONGEST_NAME = 1000, 4096, 200
_LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
_FRACTION = re.compile(r"(\.\d{6})\d+")
_ZERO = datetime(1, 1, 1, tzinfo=UTC)  # What Go writes where there is no time.


def read(body: bytes, now: datetime) -> list[dict[str, Any]]:
    """
    Which alerts does another monitor tell of?

    Returns:
        Of each: fingerprint (of its labels), labels, annotations, starts_us and ends_us (microseconds since 1970).

    Raises:
        BadAlerts: The first thing that is wrong, with its place.
    """
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        raise BadAlerts("a list of alerts in JSON was wanted; this is no JSON.") from None
    if not isinstance(found, list) or len(found) > MOST:
        raise BadAlerts(f"a list of at most {MOST} alerts was wanted.")
    return [_alert(i, alert, now) for i, alert in enumerate(found)]


def _alert(i: int, found: Any, now: datetime) -> dict[str, Any]:
    if not isinstance(found, dict):
        raise BadAlerts(f"[{i}] is {text.one_line(repr(found), 40)}; an object was wanted.")
    labels, annotations = (_texts(i, name, found.get(name, {})) for name in ("labels", "annotations"))
    if not labels.get("alertname") or len(labels["alertname"]) > LONGEST_NAME:
        raise BadAlerts(f"[{i}].labels.alertname is missing; an alert has a name, of at most {LONGEST_NAME} characters.")
    # An empty label is none.
    labels = {name: value for name, value in labels.items() if value}
    starts, ends = _time(i, "startsAt", found.get("startsAt")) or now, _time(i, "endsAt", found.get("endsAt")) or now + LASTS
    if ends < starts:
        raise BadAlerts(f"[{i}].endsAt is before its startsAt.")
    fingerprint = hashlib.sha256(json.dumps(labels, sort_keys=True).encode()).hexdigest()[:16]
    return {"fingerprint": fingerprint, "labels": labels, "annotations": annotations, "starts_us": clock.micros(starts), "ends_us": clock.micros(ends)}


def _texts(i: int, name: str, found: Any) -> dict[str, str]:
    if not isinstance(found, dict):
        raise BadAlerts(f"[{i}].{name} is {text.one_line(repr(found), 40)}; an object of texts was wanted.")
    for key, value in found.items():
        if isinstance(value, str) and not _storable(value):
            raise BadAlerts(f"[{i}].{name}.{text.one_line(key, 40)} holds characters that are no text (NUL, or half of a pair).")
        if not _LABEL.fullmatch(key) or len(key) > 200 or not isinstance(value, str) or len(value) > LONGEST:
            raise BadAlerts(f"[{i}].{name}.{text.one_line(key, 40)} is {text.one_line(repr(value), 40)}; a name and a text of at most {LONGEST} characters were wanted.")
    return found


def _storable(value: str) -> bool:
    """Can every database and every channel take it?"""
    return "\0" not in value and not any("\ud800" <= c <= "\udfff" for c in value)


def _time(i: int, name: str, found: Any) -> datetime | None:
    if found is None:
        return None
    try:
        # Prometheus writes nanoseconds.
        read = datetime.fromisoformat(_FRACTION.sub(r"\1", found))
        read = read.astimezone(UTC) if read.tzinfo else None
    except (TypeError, ValueError, OverflowError):
        read = None
    if read is None:
        raise BadAlerts(f"[{i}].{name} is {text.one_line(repr(found), 40)}; a time such as 2026-03-10T14:30:00Z was wanted.")
    return None if read == _ZERO else read
