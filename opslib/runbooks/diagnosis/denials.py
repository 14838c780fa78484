"""
Read from the app's log which requests a provider rejected because of our key, plan, address or quota.

The app's page counts no 401, 403 or 429 response, and its server counts no responses, so only the log shows them.
"""

import re
from collections.abc import Iterable
from typing import NamedTuple

from opslib.alerting.causes import OF_OUTCOME
from opslib.foundation import formatting
from opslib.telemetry.probes.http import refusal
from opslib.telemetry.probes.store import Sample

KINDS = ("auth", "rate_limit")  # Kinds of log lines that report a rejected request.
CAUSES = ("provider_auth", "provider_plan", "provider_ip_blocked", "provider_rate_limited")
_STATUS = re.compile(
    r"(?i)\bHTTP (?P<said>40[013]|429)\b|\b(?:status|code|error|massive|tradier)\]?:? *\(?(?P<status>40[013]|429)\b"
)


class Denied(NamedTuple):
    """
    Requests that a provider rejected.

    Attributes:
        count: The number of such lines.
        cause: The cause in the newest line that states one; None if none does.
        line: The newest line.
        at_us, since_us: When the newest and the first were read, microseconds since 1970.
    """

    count: int  # type: ignore[assignment]  # The tuple's own count method is not used.
    cause: str | None
    line: str
    at_us: int
    since_us: int


def of_log(samples: Iterable[Sample], subject: str) -> Denied | None:
    """Return the rejected requests to a provider, from samples of the log in time order; None if there are none."""
    count, cause, line, times = 0, None, "", list[int]()
    for sample in samples:
        details = sample.details()
        for kind in KINDS:
            newest = details.get("newest", {}).get(kind, "")
            if subject in newest.lower():
                count, line = count + details["kinds"].get(kind, 1), newest
                cause = _cause(newest) or cause
                times.append(sample.ts_us)
    return Denied(count, cause, formatting.single_line(line, 100), times[-1], times[0]) if times else None


def _cause(line: str) -> str | None:
    """Return why a request was rejected, by status and text of a line; None if they do not say."""
    found = _STATUS.search(line)
    status = int(found["said"] or found["status"]) if found else 0
    words = line[found.end() :].lower() if found else line.lower()
    outcome = refusal(status, "", words, True) if status else ""
    return OF_OUTCOME.get(outcome) if OF_OUTCOME.get(outcome) in CAUSES else None
