"""
Request silence of a page that rarely sends requests: measured by the page's usual gap, and a stop is still detected.
"""

import itertools
from collections.abc import Iterable
from pathlib import Path

import pytest

from opslib.alerting import evaluation, history, replay
from opslib.alerting.history import SeverityChange
from opslib.foundation.config import rules, settings
from opslib.telemetry.pages import indicators
from opslib.telemetry.pages.store import Post, SnapshotStore
from tests.support.snapshots import PageOf, at, post, store, stored_history, us

DESK = settings.Settings(home=None, app="desk")
RULES = rules.load()


def requests_at(gaps: Iterable[float], until: float) -> list[float]:
    """Times at which requests are sent: one after each gap, repeatedly."""
    found = [0.0]
    for gap in itertools.cycle(gaps):
        if found[-1] + gap > until:
            return found
        found.append(found[-1] + gap)
    raise AssertionError


def posts_of(requests: list[float], until: float, **how: float) -> list[Post]:
    """
    Posts of a page, one every five seconds, with the requests sent by then; its Greeks validations increase all the
    time.
    """
    page, found, sent = PageOf(how.get("loaded", -600.0)).add(massive_requests=50), [], iter([*requests, float("inf")])
    following = next(sent)
    for second in range(-5, int(until) + 1, 5):
        while following <= second:
            page.add(massive_requests=1)
            following = next(sent)
        page.add(validations=3)
        found.append(post(second, page.body(second)))
    return found


def changes_of(tmp_path: Path, posts: list[Post], until: float) -> list[SeverityChange]:
    """Severity changes of the silence rule."""
    kept = store(tmp_path)
    SnapshotStore(kept).write("desk", posts, known_at_ts=True)
    found, standing = replay.replay_session(kept, DESK, RULES, us(0), us(until))
    return [r for r in history.severity_changes(found, RULES, standing) if r.rule == "silence"]


IDLE = {
    "three at once, each minute and a little": (70.0, 0.5, 0.5),
    "three, one after the other": (5.0, 10.0, 70.0),
    "one each minute and a little": (71.0,),
    "one each minute and a half": (90.0,),
    "many, then a pause": (*[5.0] * 12, 75.0),
}


@pytest.mark.parametrize("gaps", IDLE.values(), ids=IDLE)
def test_an_idle_page_is_not_silent(tmp_path: Path, gaps: tuple[float, ...]) -> None:
    """
    A page with rare but regular requests causes no notification in 40 minutes, and after ten minutes not even a
    warning.
    """
    found = changes_of(tmp_path, posts_of(requests_at(gaps, 2400), 2400), 2400)
    assert [r for r in found if r.sent] == [] and [r for r in found if r.fired_us > us(600)] == []


# Gaps; seconds from the last request to the warning, and to the notification: twice the usual gap, at least 60
# and 180 s, at most three times that; the alert fires at the next evaluation.
STOPS = {
    "a busy page, as ever": ((5.0,), 60, 180),
    "one a minute": ((60.0,), 120, 180),
    "one each two minutes": ((120.0,), 180, 240),
    "one each five minutes": ((300.0,), 180, 540),
}


@pytest.mark.parametrize(("gaps", "warning", "critical"), STOPS.values(), ids=STOPS)
def test_a_stop_of_requests_is_detected(
    tmp_path: Path, gaps: tuple[float, ...], warning: float, critical: float
) -> None:
    """A page that still posts but sends no more requests is silent, whatever its usual gap was."""
    requests = requests_at(gaps, 2400)
    found = [r for r in changes_of(tmp_path, posts_of(requests, 3200), 3200) if r.fired_us > us(requests[-1] + 60)]
    after = {(r.subject, r.severity): (r.fired_us - us(requests[-1])) / 1e6 for r in found}
    for subject in ("app", "massive"):
        assert (
            warning < after[subject, "warning"] <= warning + 15
            and critical < after[subject, "critical"] <= critical + 15
        ), after
    assert {(r.severity, r.limit) for r in found} >= {("critical", critical)}, (
        "the limit that was applied is the one that is recorded"
    )


def test_an_outage_does_not_change_the_usual_gap(tmp_path: Path) -> None:
    """One stop of ten minutes does not change the usual gap: the next stop is detected as soon as the first."""
    requests = [*requests_at((5.0,), 1200), *(1800 + s for s in requests_at((5.0,), 600))]
    found = [
        r
        for r in changes_of(tmp_path, posts_of(requests, 3000), 3000)
        if r.severity == "critical" and r.subject == "massive"
    ]
    assert [60 < (r.fired_us - us(last)) / 1e6 <= 195 for r, last in zip(found, (1200, 2400), strict=True)] == [
        True,
        True,
    ]


@pytest.mark.parametrize(
    ("requests", "expected"),
    [
        ([], None),
        ([0, 60, 120], None),  # Two gaps are too few.
        ([0, 60, 120, 180], 60.0),
        ([0, 5, 15, 60, 65, 75, 120], 45.0),
        ([0, 5, 10, 15, 20, 620, 625, 630], 5.0),  # The single longest gap is ignored as a stop.
        # Gaps more than half an hour before the last request no longer count.
        ([0, 300, 600, 900, *range(905, 2800, 5)], 5.0),
    ],
)
def test_the_usual_gap(tmp_path: Path, requests: list[float], expected: float | None) -> None:
    """
    The usual gap is the second longest of the last half hour before the newest request; expected values are computed by
    hand.
    """
    kept = store(tmp_path)
    SnapshotStore(kept).write("desk", posts_of(requests, 3000), known_at_ts=True)
    made = stored_history(kept, 0, 3000)
    assert indicators.usual_gap_s(made, us(3000), "massive") == expected


def test_without_posts_the_shipped_limits_apply(tmp_path: Path) -> None:
    """If no page posts, the shipped limits apply: rare requests say nothing about posts."""
    kept = store(tmp_path)
    SnapshotStore(kept).write("desk", posts_of(requests_at((60.0,), 1800), 1800), known_at_ts=True)
    made = stored_history(kept, 0, 2000)
    found = {
        (f.subject, f.severity, f.limit)
        for f in evaluation.evaluate_rules(made, RULES, at(1800 + 200))
        if f.rule.name == "silence"
    }
    assert ("app", "critical", 180) in found
