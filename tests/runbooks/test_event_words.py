"""Test the texts of an incident's events: without IDs of steps, causes, probe outcomes or alerts."""

from typing import Any

import pytest

from opslib.incidents.evidence import BEGINNING, Entry
from opslib.incidents.incident import Event, Time
from opslib.runbooks import event_words
from tests.support.snapshots import us


def said(kind: str, words: str, **body: Any) -> str:
    """Return the text of an event with such an entry."""
    entry = Entry(7, us(0), us(0), kind, "Ann", "", {"words": words, **body}, BEGINNING, BEGINNING)
    return event_words.words(Event(us(0), kind, "Ann", words, ("E7",), entry))


@pytest.mark.parametrize(
    ("event", "words"),
    [
        (
            {"kind": "step", "words": "tradier_only: switched", "step": "tradier_only", "state": "done"},
            "Switch the app to Tradier only: switched",
        ),
        (
            {"kind": "step", "words": "massive_status_page: failed: an outage", "step": "massive_status_page"}
            | {"state": "judged"},
            "Read Massive's status page (https://status.massive.com): an outage",
        ),
        ({"kind": "step", "words": "gone: done", "step": "gone", "state": "done"}, "gone: done"),
        (
            {"kind": "diagnosis", "words": "x", "cause": "provider_5xx", "subject": "massive", "confidence": 0.97},
            "diagnosis: Massive returns server errors (5xx), confidence 97 %",
        ),
        (
            {"kind": "diagnosis", "words": "x", "cause": "provider_5xx", "subject": "massive", "confidence": 0.9}
            | {"also": [{"cause": "app_slow", "subject": None}]},
            "diagnosis: Massive returns server errors (5xx), confidence 90 %; also: The app's server responds slowly",
        ),
        ({"kind": "diagnosis", "words": "its own words.", "cause": "undetermined"}, "diagnosis: its own words"),
        (
            {"kind": "runbook", "words": "x", "runbook": "massive_down", "cause": "undetermined"},
            "runbook massive_down opened",
        ),
        (
            {
                "kind": "time",
                "words": "beginning determined: 10:00, when a probe of tradier failed (timeout), 5 s after",
            },
            "beginning determined: 10:00, when a probe of Tradier failed: it accepts the connection but does not "
            "respond in time, 5 s after",
        ),
        ({"kind": "note", "words": "step a was done"}, "step a was done"),
    ],
)
def test_words(event: dict[str, Any], words: str) -> None:
    """Each kind of event names what it is about; what a person wrote is unchanged."""
    assert said(**event) == words


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (
            "first failed probe of massive: server_5xx; previous probe passed",
            "first failed probe of Massive: it returns server errors (5xx)",
        ),
        ("first failed probe of app: removed", "first failed probe of app: it ended with removed"),
        ("step tradier_only was done", 'the action "Switch the app to Tradier only" was done'),
        ("alert availability-massive-page-20260310T152215Z", "alert availability of massive (app page)"),
        ("alert clock_skew-monitor-probe-20260310T152215Z", "alert clock skew of the collector's machine (probes)"),
        ("acknowledged by Ann", "acknowledged by Ann"),
    ],
)
def test_the_source_of_a_time(source: str, words: str) -> None:
    """The evidence of a time is named, and its accuracy is given."""
    assert event_words.source(source) == words
    at = us(0)
    assert event_words.time(Time(at, source, 29.8, "E7")).endswith(f"New York) ({words}; ± 30 s; E7)")
    assert event_words.time(Time(None, "it is not resolved")) == "unknown (it is not resolved)"
