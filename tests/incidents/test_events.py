"""Events of an incident, in plain words: each once, in order, with its source."""

from pathlib import Path
from typing import Any

import pytest

from opslib.foundation.config.settings import Settings
from opslib.incidents import evidence
from opslib.incidents.evidence import Entry
from opslib.incidents.incident import Incident, from_entries
from tests.support.snapshots import at, us

ALERT, SENTENCE = "availability-massive-probe-1", "availability of massive (73.91 %) < 95.0 % for 30 s"


def incident(tmp_path: Path, *steps: tuple[float, str, str, dict[str, Any]], **opened: Any) -> Incident:
    """Return an incident with entries: seconds, kind, person, content."""
    given = {"title": SENTENCE, "alert": ALERT, "severity": "critical", "words": f"opened with severity: {SENTENCE}"}
    entries: list[Entry] = []
    for seconds, kind, by, body in [(0.0, "opened", "", given | opened), *steps]:
        entries.append(
            evidence.linked(
                entries[-1] if entries else None,
                at_us=us(seconds),
                known_at_us=us(seconds),
                kind=kind,
                by=by,
                key="",
                body=body,
                settings=Settings(tmp_path, "desk"),
            )
        )
    return from_entries("2026-03-10-1", entries)


def change(seconds: float, kind: str, severity: str, words: str) -> tuple[float, str, str, dict[str, Any]]:
    """Return a recorded change of the alert."""
    body = {
        "alert": ALERT,
        "rule": "availability",
        "subject": "massive",
        "source": "probe",
        "kind": kind,
        "severity": severity,
        "pending_at": at(0).isoformat(),
        "window_s": 600.0,
        "inhibited_by": None,
        "sentence": SENTENCE,
        "words": f"{words}: {SENTENCE}",
    }
    return seconds, "alert", "", body


def events_of(found: Incident) -> list[tuple[float, str, tuple[str, ...]]]:
    """Return the events: seconds, words, evidence."""
    return [((e.at_us - us(0)) / 1e6, e.words, e.evidence) for e in found.events]


def test_each_change_is_shown_once_with_its_source(tmp_path: Path) -> None:
    """
    Severity changes of one alert at one time are one event with the worst severity; the incident opens when the alert
    fires.
    """
    found = incident(
        tmp_path,
        change(60, "fired", "warning", "alert fired (warning)"),
        change(60, "rose", "critical", "severity raised to critical"),
        change(90, "rose", "escalate", "severity raised to escalate"),
        change(120, "resolved", "warning", "alert resolved (severity was warning)"),
        change(120, "resolved", "critical", "alert resolved (severity was critical)"),
    )
    assert events_of(found) == [
        (60.0, f"alert fired (critical), probes: {SENTENCE}", ("E2", "E3")),
        (60.0, f"opened with severity: {SENTENCE}", ("E1",)),
        (90.0, f"severity raised to escalate, probes: {SENTENCE}", ("E4",)),
        (120.0, f"alert resolved, probes: {SENTENCE}", ("E5", "E6")),
    ]
    assert found.timeline[0].at_us == us(0)  # The record itself is unchanged.


def test_a_lowered_severity_names_the_one_that_is_left(tmp_path: Path) -> None:
    """Of several severities that are left at the same time, one event names the worst before and the worst after."""
    found = incident(
        tmp_path,
        change(60, "fired", "warning", "alert fired (warning)"),
        change(60, "rose", "critical", "severity raised to critical"),
        change(90, "rose", "escalate", "severity raised to escalate"),
        change(100, "fell", "escalate", "severity no longer escalate"),
        change(110, "fell", "critical", "severity no longer critical"),
    )
    assert [words for _, words, _ in events_of(found)][-2:] == [
        f"severity lowered from escalate to critical, probes: {SENTENCE}",
        f"severity lowered from critical to warning, probes: {SENTENCE}",
    ]


def test_an_action_is_one_event(tmp_path: Path) -> None:
    """The intent and the outcome of an action are one event. An intent without an outcome is shown; digests are not."""
    step = {"runbook": "massive_down", "step": "tradier_only"}
    found = incident(
        tmp_path,
        (10, "step", "Ann", step | {"state": "intended", "asked": {"id": "a"}, "words": "tradier_only: Ann started"}),
        (12, "step", "Ann", step | {"state": "done", "id": "a", "words": "tradier_only: switched", "mitigates": True}),
        (20, "step", "Ann", step | {"state": "intended", "asked": {"id": "b"}, "words": "tradier_only: Ann started"}),
        (30, "resolved", "Ann", {"words": "resolved: it responds; previous entry E4, SHA-256 abc"}),
    )
    assert events_of(found)[1:] == [
        (12.0, "tradier_only: switched", ("E2", "E3")),
        (20.0, "tradier_only: Ann started", ("E4",)),
        (30.0, "resolved: it responds", ("E5",)),
    ]


@pytest.mark.parametrize(
    ("title", "words"),
    [
        (SENTENCE, "Availability of massive below 95.0 %"),
        ("availability of massive (0.00 %) = 0 (no success) for 30 s", "Availability of massive: no success"),
        ("backtest variance (10.03 points) > 10 points for 2 min", "Backtest variance above 10 points"),
        ("the vendor's portal is slow", "The vendor's portal is slow"),
    ],
)
def test_the_headline_is_in_words(tmp_path: Path, title: str, words: str) -> None:
    """Without a diagnosis the headline is the alert's sentence in plain words; with one it is the cause."""
    assert incident(tmp_path, title=title).headline == words
    cause = {"cause": "provider_5xx", "subject": "massive", "confidence": 0.9, "words": ""}
    nothing = cause | {"cause": "undetermined", "subject": None}
    diagnosed = incident(tmp_path, (5, "diagnosis", "", cause), (9, "diagnosis", "", nothing), title=title)
    assert diagnosed.headline == "Massive returns server errors (5xx)"
    by_hand = incident(tmp_path, (5, "diagnosis", "", cause), title=title, alert="")
    assert by_hand.headline == words and repr(by_hand).startswith(f"2026-03-10-1: {words}")
