"""
Say what an event of an incident means, for people who do not know the IDs in its record.

A step is named by what it does, a cause and the outcome of a probe by their meaning, an alert by its figure and source.
The record and its JSON keep their sentences.
"""

import re
from collections.abc import Mapping
from typing import Any

from opslib.alerting.alert_ids import describe
from opslib.alerting.causes import HEADLINES, UNDETERMINED, headline
from opslib.alerting.verdicts import subject_title
from opslib.foundation import clock, formatting
from opslib.incidents.incident import Event, Time
from opslib.runbooks.steps import purpose
from opslib.telemetry.probes.outcomes import OUTCOMES

_FAILED_PROBE = re.compile(r"first failed probe of (?P<subject>\S+): (?P<outcome>\w+)(?:; previous probe passed)?")
_FAILED = re.compile(r"when a probe of (?P<subject>\S+) failed \((?P<outcome>\w+)\)")
_STEP_DONE = re.compile(r"step (\w+) was done")
_ALERT = re.compile(r"\S+-\d{8}T\d{6}Z")


def words(event: Event) -> str:
    """Return the text of an event on one line."""
    body = event.entry.body
    match event.kind:
        case "step":
            step = str(body["step"])
            result = event.words.removeprefix(f"{step}: ")
            if body["state"] == "judged":  # An answer: what the person saw says more than passed or failed.
                result = re.sub(r"^(passed|failed): (?=\S)", "", result)
            return f"{purpose(step)}: {result}"
        case "diagnosis":
            return f"diagnosis: {cause(body) or event.words}".rstrip(".")
        case "runbook":
            likely = cause(body)
            return f"runbook {body['runbook']} opened{f'; likely cause: {likely}' if likely else ''}"
        case "time":
            return _FAILED.sub(
                lambda m: f"when a probe of {subject_title(m['subject'])} failed: it {_meaning(m['outcome'])}",
                event.words,
            )
    return event.words


def cause(body: Mapping[str, Any]) -> str:
    """Return the meaning of the cause that an entry names, with its confidence; empty if it names none."""
    name, sure = body.get("cause"), body.get("confidence")
    if name not in HEADLINES or name == UNDETERMINED:
        return ""
    confidence = f", confidence {formatting.ratio(sure, 0)}" if isinstance(sure, float) else ""
    others = "; ".join(_headline(other) for other in body.get("also", ()) if other.get("cause") in HEADLINES)
    return f"{_headline(body)}{confidence}{f'; also: {others}' if others else ''}"


def _headline(body: Mapping[str, Any]) -> str:
    return headline(body["cause"], body.get("subject")).rstrip(".")


def time(found: Time) -> str:
    """Return one of the five times, with its evidence and its accuracy."""
    if found.at_us is None:
        return f"{formatting.UNKNOWN} ({source(found.source)})"
    accuracy = f"; ± {formatting.duration(found.precision_s)}" if found.precision_s else ""
    return f"{formatting.moment(clock.instant(found.at_us))} ({source(found.source)}{accuracy}; {found.evidence})"


def source(text: str) -> str:
    """Return the evidence of a time, which is `Time.source`."""
    text = _FAILED_PROBE.sub(
        lambda m: f"first failed probe of {subject_title(m['subject'])}: it {_meaning(m['outcome'])}", text
    )
    text = _STEP_DONE.sub(lambda m: f'the action "{purpose(m[1])}" was done', text)
    return _ALERT.sub(lambda m: _alert(m[0]), text)


def _alert(name: str) -> str:
    """Return ``availability of massive (app page)`` for the ID of an alert."""
    figure, _, source = describe(name).replace("_", " ").rpartition(", ")
    return f"{figure} ({source})" if figure else name


def _meaning(outcome: str) -> str:
    """Return the outcome of a probe as a predicate; its name if there is no such outcome any more."""
    return OUTCOMES[outcome].words if outcome in OUTCOMES else f"ended with {outcome}"
