"""History derived from alert transitions: periods by severity, and since when a severity holds."""

from datetime import UTC, datetime
from typing import Any

import pytest

from opslib.alerting import history
from opslib.alerting.alerts import Transition
from opslib.foundation import clock, formatting
from opslib.foundation.config import rules

RULES = rules.load()


def us(minute: float) -> int:
    """Return the time so many minutes after 11:00 New York."""
    return clock.micros(datetime(2026, 3, 10, 15, tzinfo=UTC)) + round(minute * 60e6)


def moved(minute: float, kind: str, severity: str) -> Transition:
    """Return a transition of one alert, whose problem began at 11:00."""
    return Transition(
        us(minute), "availability", "massive", "page", "one", kind, severity, 0.5, 0.95, us(0), None, None, "down", "h"
    )


RAISED = [
    moved(0.5, "pending", "warning"),
    moved(2, "fired", "warning"),
    moved(2, "rose", "critical"),
    moved(10, "rose", "escalate"),
    moved(13, "fell", "escalate"),
]
ENDED = [*RAISED, moved(20, "resolved", "warning"), moved(20, "resolved", "critical")]


def stretches(transitions: list[Transition], upto_us: int) -> list[tuple[float, float, str]]:
    """Return the periods in minutes after 11:00."""
    parts = history.segments(history.severity_changes(transitions, RULES), upto_us)
    return [((p.since_us - us(0)) / 60e6, (p.until_us - us(0)) / 60e6, p.change.severity) for p in parts]


def test_an_alert_is_divided_by_severity() -> None:
    """Each period has the highest severity that fired in it; there is none before the alert fires or after it ends."""
    assert stretches(ENDED, us(60)) == [(2, 10, "critical"), (10, 13, "escalate"), (13, 20, "critical")]
    assert stretches(RAISED, us(60)) == [(2, 10, "critical"), (10, 13, "escalate"), (13, 60, "critical")]
    assert stretches(ENDED, us(12)) == [(2, 10, "critical"), (10, 12, "escalate")]
    assert stretches([], us(60)) == []


def test_an_alert_that_was_inhibited_for_some_time_says_until_when() -> None:
    """After its release an alert is no longer inhibited; one that always was, or never was, has no such time."""
    raised = moved(2, "fired", "warning")._replace(inhibited_by="two")
    (released,) = history.severity_changes([raised, moved(10, "released", "warning")], RULES)
    assert (released.inhibited_by, released.released_us) == (None, us(10))
    (inhibited,) = history.severity_changes([raised], RULES)
    assert (inhibited.inhibited_by, inhibited.released_us) == ("two", None)
    (never,) = history.severity_changes([moved(2, "fired", "warning")], RULES)
    assert (never.inhibited_by, never.released_us) == (None, None)


def test_time_at_a_severity_includes_higher_ones() -> None:
    """Time at the peak severity counts only its own period; time at a lower severity includes the higher ones."""
    (episode,) = history.episodes(history.severity_changes(ENDED, RULES))
    minutes = {s: history.seconds_at(s, [episode], us(60)) / 60 for s in ("warning", "critical", "escalate")}
    assert minutes == {"warning": 18, "critical": 18, "escalate": 3}


def test_time_that_two_alerts_share_counts_once() -> None:
    """Time that two alerts of one problem share counts once; an active alert counts to the end of the data."""
    other = [t._replace(alert="two", source="probe", at_us=t.at_us + 60_000_000) for t in ENDED]
    found = history.episodes(history.severity_changes([*ENDED, *other], RULES))
    assert history.seconds_at("escalate", found, us(60)) == 4 * 60
    assert history.seconds_at("critical", found, us(60)) == 19 * 60
    lasting = history.episodes(history.severity_changes(RAISED, RULES))
    assert history.seconds_at("critical", lasting, us(30)) == 28 * 60


@pytest.mark.parametrize(
    ("upto", "minute", "words"),
    [
        (1, 0.5, "warning pending since 11:00 New York"),
        (3, 2, "critical since 11:02, problem began 11:00 New York"),
        (4, 10, "escalate since 11:10, problem began 11:00 New York"),
        (5, 2, "critical since 11:02, problem began 11:00 New York"),
    ],
)
def test_since_belongs_to_the_current_severity(upto: int, minute: float, words: str) -> None:
    """
    The time given as "since" is when the current severity was reached; the beginning of the problem is given
    separately.
    """
    (row,) = history.active_alerts(RAISED[:upto], RULES)
    since = history.severity_since(RAISED[:upto])
    assert since == {"one": us(minute)}
    assert history.describe_since(row, since["one"], clock.instant(us(15))) == words
    assert row["since"] == formatting.iso(clock.instant(us(0)))


def test_an_alert_that_is_over_has_no_since() -> None:
    """A resolved alert has no "since"."""
    assert history.severity_since(ENDED) == {}


@pytest.mark.parametrize(
    ("changed", "reached", "words"),
    [
        ({"state": "unknown"}, us(2), "critical since 11:02, problem began 11:00 New York; unknown now"),
        ({}, None, "critical, problem began 11:00 New York"),
        ({}, us(0.9), "critical since 11:00 New York"),
    ],
)
def test_since_is_described_with_missing_or_equal_times(
    changed: dict[str, Any], reached: int | None, words: str
) -> None:
    """
    An unknown state is named; without the time of the severity only the beginning is given; equal minutes are given
    once.
    """
    (row,) = history.active_alerts(RAISED[:3], RULES)
    assert history.describe_since(row | changed, reached, clock.instant(us(15))) == words


def test_a_time_of_another_day_has_its_date() -> None:
    """A time of a day other than the current one is given with its date."""
    (row,) = history.active_alerts(RAISED[:3], RULES)
    assert history.describe_since(row, us(2), clock.instant(us(24 * 60))) == (
        "critical since 03-10 11:02, problem began 03-10 11:00 New York"
    )
