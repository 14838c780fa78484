"""Test what a postmortem derives from a record: its title, its timeline and the suggested action items."""

import re
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from opslib.alerting import causes
from opslib.desk import Desk
from opslib.foundation.config import settings
from opslib.incidents import evidence
from opslib.incidents.evidence import Entry
from opslib.incidents.incident import Incident, from_entries
from opslib.reports.postmortem import actions, headline, outage_chart, timeline
from opslib.reports.postmortem.document import Postmortem
from tests.support import demo
from tests.support.snapshots import CLOSES, us

ID = "2026-03-10-2"  # The outage.
ALERT = "errors-app-page-1"
Given = tuple[float, str, str, Mapping[str, Any]]


@pytest.fixture(scope="module")
def incident(tmp_path_factory: pytest.TempPathFactory) -> Incident:
    """Return the incident of the demo day."""
    home = tmp_path_factory.mktemp("given")
    demo.laid_out(home)
    return Desk(settings.load(home, "demo", {}), lambda: CLOSES + timedelta(minutes=1)).incidents.read(ID)


def recorded(*given: Given) -> Incident:
    """Return the incident of a record with these entries: minutes since its beginning, kind, person and body."""
    entries = list[Entry]()
    for minutes, kind, by, body in given:
        at_us = us(minutes * 60)
        entries.append(
            evidence.linked(
                entries[-1] if entries else None,
                at_us=at_us,
                known_at_us=us(body.get("opened_min", minutes) * 60),
                kind=kind,
                by=by,
                key="",
                body={"words": kind, **body},
                settings=settings.Settings(Path("/nowhere"), "desk"),
            )
        )
    return from_entries("2026-03-10-9", entries)


def opened(title: str, rule: str = "", subject: str = "app", **more: Any) -> Given:
    """Return the entry that opens an incident; with a rule, for an alert."""
    alert = {"alert": ALERT, "rule": rule, "severity": "critical"} if rule else {}
    return (0, "opened", "" if rule else "Ann", {"title": title, "subject": subject, **alert, **more})


def alert(minutes: float, kind: str, severity: str = "critical", rule: str = "errors") -> Given:
    """Return an entry with a change of the alert."""
    body = {"alert": ALERT, "rule": rule, "subject": "app", "source": "page", "kind": kind, "severity": severity}
    began = "2026-03-10T13:30:00Z"
    more = {"pending_at": began, "window_s": 60.0, "inhibited_by": None, "limit": 1.0, "words": f"{kind} {severity}"}
    return (minutes, "alert", "", body | more)


def step(minutes: float, name: str, state: str, **more: Any) -> Given:
    """Return an entry with a result of a step."""
    return (minutes, "step", "Ann", {"runbook": "r", "step": name, "state": state, "words": f"{name}: {state}", **more})


def test_every_cause_has_a_title() -> None:
    """Each cause of the contract that can be a fault has a text for a title."""
    assert set(headline.PAST) == set(causes.CAUSES) - {causes.NONE, causes.UNDETERMINED}


def test_the_title_is_built_from_diagnosis_and_times(incident: Incident) -> None:
    """The title has what was broken, for how long and when; without a diagnosis, what the alert or a person stated."""
    assert headline.title(incident) == "Massive returned server errors for 12 min on 2026-03-10"
    sentence = "backtest variance (12 points) > 5 points"
    fired, ended = alert(0, "fired", rule="backtest_variance"), alert(30, "resolved", rule="backtest_variance")
    assert headline.title(recorded(opened(sentence, "backtest_variance"), fired, ended)).startswith(
        "Backtest variance was above its threshold for 30 min on 2026-03-"
    )
    diagnosed = (1, "diagnosis", "", {"cause": "memory_leak", "subject": None, "confidence": 0.9})
    after = (40, "diagnosis", "", {"cause": "app_down", "subject": None, "confidence": 0.9})
    kept = recorded(opened(sentence, "errors"), alert(0, "fired"), diagnosed, alert(30, "resolved"), after)
    assert headline.title(kept).startswith("The memory of the app's server or page kept growing for 30 min on ")
    by_hand = recorded(opened("no Greeks for TSLA"))
    assert headline.title(by_hand).startswith("No Greeks for TSLA since ")


def test_the_timeline_is_short_and_in_order(incident: Incident) -> None:
    """A run, the consequences, and a change that two sources show are one row each; every entry is in some row."""
    rows, every = timeline.rows(incident), timeline.every_row(incident)
    given = [row.words for row in rows]
    assert 15 <= len(rows) <= 20 < len(every) and [r.at_us for r in rows] == sorted(r.at_us for r in rows)
    assert [text for text in given if "burn rate" in text or "errors (page" in text] == [
        "alerts inhibited as consequences: errors (app page, log) and availability burn rate of massive (app page); "
        "their states changed 14 times until 13:37:05 New York"
    ]
    opened_row = next(text for text in given if text.startswith("runbook massive_down opened"))
    assert "16 checks: " in opened_row and opened_row.endswith("; 8 questions not answered yet")
    assert any("massive_down; nobody answered 7 of its 8 questions" in i.what for i in actions.suggested(incident))
    assert (
        '(symptom confirmed by: "Compare Massive\'s availability as counted by the app with our probes"; "Request '
        in opened_row
    )
    assert [text.partition(":")[0] for text in given if "; incident opened" in text] == [
        "alert fired (notify), app page"
    ]
    ends = [row for row in rows if "alert resolved" in row.words]
    assert len(ends) == 1 and ends[0].words.endswith(" s earlier") and "; probes " in ends[0].words
    assert re.match(
        r"alert resolved, app page: availability of massive now 100\.00 % \(was [\d.]+ % over 10 min, < 99\.0 %\); ",
        ends[0].words,
    ), ends[0].words
    assert all("SHA-256" not in text for text in given) and given[0] == (
        "began: first failed probe of Massive: it returns server errors (5xx)"
    )
    for several in (rows, every):
        covered = {e.seq for row in several for e in row.entries}
        assert {e.seq for e in incident.timeline} - {e.seq for e in incident.of_kind("time")} <= covered


def test_only_consequences_are_grouped() -> None:
    """Alerts that are not inhibited keep their own rows."""

    def other(minutes: float, kind: str, name: str, by: str | None) -> Given:
        _, entry, _, body = alert(minutes, kind, rule="response_time")
        return minutes, entry, "", {**body, "alert": name, "inhibited_by": by, "sentence": "response time (2 s) > 1 s"}

    def words(by: str | None) -> list[str]:
        mine = alert(0, "fired")
        mine[3]["sentence"] = "errors (60 per h) > 50 per h"  # type: ignore[index]
        more = (other(1, "fired", "b", by), other(9, "resolved", "b", by))
        return [row.words for row in timeline.rows(recorded(opened("x", "errors"), mine, *more))]

    assert words(ALERT)[-1].startswith(
        "alerts inhibited as consequences: response time (app page); their states changed 2 times until "
    )
    assert [text.partition(",")[0] for text in words(None)[-2:]] == ["alert fired (critical)", "alert resolved"]


def test_an_action_without_an_outcome_stays() -> None:
    """An intended action is left out only if its outcome follows."""
    begun, ended = step(1, "a", "intended", asked={"id": "1"}), step(2, "a", "done", id="1")
    given = timeline.rows(recorded(opened("x"), begun, ended, step(3, "b", "intended", asked={"id": "2"})))
    assert [row.words for row in given] == ["opened", "a: done", "b: intended"]


def test_actions_and_dry_runs_are_distinguished() -> None:
    """The first screen distinguishes actions from dry runs."""
    begun, done = step(1, "a", "intended", asked={"id": "1"}, mitigates=True), step(2, "a", "done", id="1")
    drafted = Postmortem(recorded(opened("x", "errors"), alert(0, "fired"), begun, done, step(3, "b", "rehearsed")))
    assert '  Done: 09:32 a\n  Only dry runs, nothing was changed: "b"\n' in drafted.header.plain
    assert "dry run" not in drafted.key_figures.plain


def test_the_precision_of_the_beginning() -> None:
    """The first screen gives the beginning to the minute, with "about" unless it is known to a few seconds."""

    def since(precision_s: float) -> str:
        at = {"which": "began", "at": "2026-03-10T13:29:55Z", "source": "by hand", "precision_s": precision_s}
        return Postmortem(recorded(opened("x", "errors"), alert(0, "fired"), (1, "time", "Ann", at))).header.plain

    assert "2026-03-10, about 09:30 New York (13:30 UTC)" in since(29.8)
    assert "2026-03-10, 09:30 New York (13:30 UTC)" in since(1.0)


def test_action_items_follow_the_last_entry() -> None:
    """A step whose last result passed is no item; one whose last result is unknown is."""
    seen = [step(1, "a", "seen", good=None), step(1, "b", "seen", good=True), step(1, "c", "skipped")]
    later = [step(5, "a", "seen", good=True), step(5, "b", "seen", good=None)]
    items = actions.suggested(recorded(opened("x", "errors"), alert(0, "fired"), *seen, *later))
    known = [item for item in items if "known" in item.what]
    assert [item.what for item in known] == ['Make the result of the check "b" known: seen'] and "E7" in known[
        0
    ].evidence
    assert not any(" c " in item.what or "skipped" in item.what for item in items)
    undone = recorded(opened("x", "errors"), step(1, "a", "failed", mitigates=True), step(2, "a", "done"))
    assert not any(item.kind == "mitigate" for item in actions.suggested(undone))


def test_action_items_are_few_and_complete(incident: Incident) -> None:
    """The demo's incident has three to six items, each with type, owner, due date and entries that exist."""
    items = actions.items(Postmortem(incident).written("actions"))
    assert 3 <= len(items) <= 6 and len({item["what"] for item in items}) == len(items)
    for item in items:
        assert item["type"] in actions.KINDS and item["owner"] == "Tech Lead" and item["due"] > "2026-03-10"
        assert all(incident.find(name) for name in item["evidence"].split(", "))
    assert items[0]["what"] == (
        'Set up the action "Switch the app to Tradier only" of runbook massive\\_down: so far it is only a dry run; '
        "set tradier\\_only in \\[hooks\\] of settings.toml"
    ), "what ends the impact comes first"
    assert [item["what"] for item in items if "host" in item["what"]] == [
        "Set host\\_prefix in settings.toml: without it the check \"On the app's host, test DNS, connection, "
        'certificate and route to Massive" has no result'
    ]
    assert actions.problems(actions.table(incident)) == []


def test_columns_of_an_earlier_version_are_read() -> None:
    """Items are read by the names of their columns, so that a table with a priority stays readable."""
    header = "| what | type | owner | priority | due | tracker |"
    old = f"{header}\n|---|---|---|---|---|---|\n| a | detect | Bob | high | 2026-03-20 | drill X |"
    assert (actions.items(old)[0]["due"], actions.items(old)[0]["tracker"]) == ("2026-03-20", "drill X")
    assert actions.problems(old) == []


def test_the_chart_has_gaps_and_every_time(incident: Incident) -> None:
    """A minute without requests is a gap, every time of the incident is shown, and the chart is reproducible."""
    outage = outage_chart.outage_of(incident)
    assert outage is not None and outage.limit == 95.0
    assert outage_chart.svg(incident, outage) == outage_chart.svg(incident, outage)
    assert [name for name, _ in outage_chart.events(incident)] == [
        "began",
        "detected",
        "acknowledged",
        "mitigated",
        "resolved",
    ]
    assert outage_chart._share({"n": 0, "bad": 0}, "n", "bad") is None
    assert outage_chart._share({"n": 4, "bad": 1}, "n", "bad") == 75.0
    assert outage_chart.outage_of(recorded(opened("x"))) is None
