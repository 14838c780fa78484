"""
Read from the app's log which requests a provider refused: with our key, our plan, our address or our quota.

The app's page counts no answer of 401, 403 or 429, and its server none at all, so that only its log shows them.
"""

import re
from collections.abc import Iterable
from typing import NamedTuple

from opslib.alerting.causes import OF_OUTCOME
from opslib.foundation import formatting
from opslib.telemetry.probes.http import refusal
from opslib.telemetry.probes.store import Sample

KINDS = ("auth", "rate_limit")  # Kinds of lines that tell of a refusal.
CAUSES = ("provider_auth", "provider_plan", "provider_ip_blocked", "provider_rate_limited")
_STATUS = re.compile(
    r"(?i)\bHTTP (?P<said>40[013]|429)\b|\b(?:status|code|error|massive|tradier)\]?:? *\(?(?P<told>40[013]|429)\b"
)


class Denied(NamedTuple):
    """
    Requests that a provider refused.

    Attributes:
        count: How many lines tell of it.
        cause: What the newest that says why says; None where none does.
        line: The newest.
        at_us, since_us: When the newest and the first were read, microseconds since 1970.
    """

    count: int  # type: ignore[assignment]  # Nobody calls the tuple's own count.
    cause: str | None
    line: str
    at_us: int
    since_us: int


def of_log(samples: Iterable[Sample], subject: str) -> Denied | None:
    """Which requests of a provider were refused, by samples of the log in order of time; None where none names it."""
    count, cause, line, times = 0, None, "", list[int]()
    for sample in samples:
        told = sample.told()
        for kind in KINDS:
            newest = told.get("newest", {}).get(kind, "")
            if subject in newest.lower():
                count, line = count + told["kinds"].get(kind, 1), newest
                cause = _cause(newest) or cause
                times.append(sample.ts_us)
    return Denied(count, cause, formatting.single_line(line, 100), times[-1], times[0]) if times else None


def _cause(line: str) -> str | None:
    """Why a request was refused, by the status and the words of a line; None where these do not say."""
    found = _STATUS.search(line)
    status = int(found["said"] or found["told"]) if found else 0
    words = line[found.end() :].lower() if found else line.lower()
    outcome = refusal(status, "", words, True) if status else ""
    return OF_OUTCOME.get(outcome) if OF_OUTCOME.get(outcome) in CAUSES else None
