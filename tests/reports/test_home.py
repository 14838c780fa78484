"""Test Home: what is broken comes first, with links where they can be opened; it is the same in every place."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

import pytest

from opslib.desk import Desk
from opslib.foundation import time_parsing
from opslib.foundation.config import settings
from opslib.foundation.config.workspace import Workspace
from opslib.incidents import Incidents
from opslib.jobs import jupyterlab
from opslib.reports import home, index_page
from opslib.reports.home_view import AcknowledgeWidget, HomeView
from opslib.runbooks import catalog, due_checklists, opening
from opslib.runbooks.checklist_session import ChecklistSession
from opslib.services import start_page
from opslib.telemetry import Markers

OUTAGE = "2026-03-10T11:27"


def nowhere(place: Path) -> str:
    return ""


def opened(found: Desk, title: str, severity: str, runbook: str = "massive_down") -> str:
    return found.incidents.open(title, by="Ann", severity=severity, runbook=runbook).id


def test_no_incident(at: Callable[[str], Desk], tmp_path: Path) -> None:
    """Without an open incident the first row says so, and names an active alert; after the close, the last report."""
    quiet = home.home_of(at("2026-03-10T09:58"), nowhere)
    assert quiet.answer.words == "No open incident" and quiet.answer.verdict == "ok" and quiet.works == []
    assert quiet.answer.facts == ["no report yet"]
    outage = home.home_of(at(OUTAGE), nowhere)
    assert (
        outage.answer.verdict == "critical"
        and outage.answer.words == "Active alert: Massive returns server errors (5xx)"
    )
    assert outage.answer.facts[0].startswith("availability of massive (")
    assert any("since 11:2" in fact for fact in outage.answer.facts)
    # Its incident of the demo's day is closed, and the alert fires: nothing says that all is well.
    assert (
        "its incident 2026-03-10-2 was resolved at 11:52 by Tech Lead; the alert still fires" in outage.answer.facts
        and outage.answer.advice.startswith("Reopen the incident: ops incident reopen 2026-03-10-2")
    )
    assert "fault: Massive, confidence 97 %" in outage.answer.facts
    assert outage.answer.first.startswith("Check Massive's status page.")
    assert outage.as_of.endswith("1 alert to act on without an open incident") and "o open incident" not in (
        outage.block.plain + outage.block.html + outage.block.markdown
    )
    assert ("ok", "works") in {(verdict, state) for verdict, state, _ in outage.works}
    empty = Workspace(settings.load(tmp_path / "empty", "desk", {}), lambda: time_parsing.parse("2026-03-11T03:00"))
    night = home.home_of(empty, nowhere)
    assert night.answer.words == "No open incident; the market is closed" and "no report yet" in night.answer.facts


def test_open_incidents_come_first(at: Callable[[str], Desk]) -> None:
    """
    The worst incident comes first, the others follow; each has its state, age and owner, and the first has what to do.
    """
    found = at(OUTAGE)
    opened(found, "Something small", "notify", "incident")
    name = opened(found, "Massive <b>is</b> gone", "critical")
    shown = home.home_of(at("2026-03-10T11:41"), nowhere)
    assert shown.answer.verdict == "critical" and shown.answer.words == "Massive <b>is</b> gone"
    alert, small = shown.others  # By severity.
    assert alert.words.startswith("Active alert: availability of massive") and small.words == "Something small"
    assert (shown.open_count, shown.alert_count) == (2, 1)
    assert shown.as_of.endswith("2 open incidents, 1 alert to act on without an open incident")
    assert f"incident {name}, open" in shown.answer.facts and "not acknowledged" in shown.answer.facts
    assert any(re.fullmatch(r"began .* New York, .* ago", fact) for fact in shown.answer.facts)
    assert shown.answer.advice.startswith(f"Acknowledge: ops ack {name} --by NAME")
    assert "Massive &lt;b&gt;is&lt;/b&gt; gone" in shown.block.html and "<b>is" not in shown.block.html
    assert shown.block.plain.index("Massive <b>is") < shown.block.plain.index("Something small")
    # Where no link can be opened, there is a name and a command.
    assert "<a " not in shown.block.html and f"ops runbook show {'massive_down'}" in shown.block.html

    found.incidents.append(name, "diagnosis", {"cause": "provider_5xx", "subject": "massive", "confidence": 0.97})
    known = home.home_of(found, nowhere)
    # The alert of the outage belongs to neither incident.
    assert known.others[0].words.startswith("Active alert: ") and known.others[0].words in known.block.plain
    assert "fault: Massive, confidence 97 %" in known.answer.facts
    assert [state for _, state, _ in known.works] == sorted(state for _, state, _ in known.works)

    found.incidents.hand_over(name, "Ben", by="Ann")
    assert "owner: Ben" in home.home_of(found, nowhere).answer.facts
    found.incidents.resolve(name, "it is back", by="Ben")
    later = home.home_of(found, nowhere)
    assert [a.words for a in later.others] == ["Something small"] and later.closed[0].id == name


@pytest.mark.parametrize("runbook", ["massive_down", "error_rate"])
def test_the_button_names_the_runbook_that_it_opens(at: Callable[[str], Desk], runbook: str) -> None:
    """An incident that was opened for one runbook and worked through with another has a button for the latter."""
    found = at(OUTAGE)
    name = opened(found, "Something", "escalate", "incident")
    place = opening.open_for(found, runbook, found.incidents.read(name), "Ann")
    (link, *_) = home.home_of(found, lambda path: path.name if path == place else "").answer.links
    assert link.words == f"Continue the runbook: {catalog.titles()[runbook]}"


@pytest.mark.parametrize("place", ["index.html", "/"])
def test_an_alert_of_a_closed_incident_is_no_all_clear(at: Callable[[str], Desk], place: str) -> None:
    """An alert that fires although its incident is closed is the first row of every Home, with what to do."""
    found = at("2026-03-10T15:30")
    page = index_page.page(found) if place == "index.html" else start_page.page(found, "127.0.0.1:8900", True)
    answer = page[page.index('class="ops-answer') :].partition("</section>")[0]
    assert "is-notify" in answer and "Active alert: backtest variance" in answer and "Do first:" in answer
    assert "its incident 2026-03-10-4 was resolved at 15:47 by Trading Manager; the alert still fires" in answer
    assert "points) &gt; 10 points for 2 min when it fired" in answer and "no open incident" not in page.lower()


def test_the_tile_of_a_panel_shows_its_worst_severity(at: Callable[[str], Desk]) -> None:
    """An active notify alert makes its panel's tile ▲ notify, not △ warning; a due checklist has no warning sign."""
    page = home.home_of(at("2026-03-10T15:30"), nowhere).block.html
    tile = page[page.index("P&amp;L Accuracy") :].partition("</li>")[0]
    assert "▲ notify" in tile and "△" not in tile and "notify: " not in tile
    assert "<strong>due</strong>" in page and "△ due" not in page


def test_a_closed_incident_has_its_time_span(at: Callable[[str], Desk]) -> None:
    """A closed incident is listed with when it was detected and resolved."""
    shown = home.home_of(at(OUTAGE), nowhere)
    notes = {incident.id: shown.past(incident).note for incident in shown.closed}
    assert notes["2026-03-10-2"] == "2026-03-10-2 · resolved · peak escalate · open 11:22–11:52"


def test_an_alert_of_an_open_incident_is_shown_once(at: Callable[[str], Desk]) -> None:
    """The row of an incident says what to do first about its alert; the alert has no row of its own."""
    found = at(OUTAGE)
    found.incidents.reopen("2026-03-10-2", "it fires", by="Ann")
    shown = home.home_of(found, nowhere)
    assert (shown.open_count, shown.alert_count, shown.others) == (1, 0, [])
    assert "incident 2026-03-10-2, open" in shown.answer.facts and shown.as_of.endswith(": 1 open incident")
    assert shown.answer.first.startswith("Check Massive's status page.")


def test_links_in_the_lab(at: Callable[[str], Desk], monkeypatch: pytest.MonkeyPatch) -> None:
    """In JupyterLab every link is a file that it can open; an existing copy of the runbook is linked."""
    found = at(OUTAGE)
    place = jupyterlab.prepare(found.settings, {}, catalog.titles())
    monkeypatch.setenv(jupyterlab.ROOT, str(place.root))
    name = opened(found, "Massive is gone", "critical")
    (found.incidents.folder(name) / "01_massive_down.ipynb").write_text("{}")
    found.incidents.append(name, "runbook", {"runbook": "massive_down", "notebook": "01_massive_down.ipynb"})
    (found.incidents.folder(name) / "incident.html").write_text("x")
    links = [unquote(link) for link in re.findall(r'href="([^"]+)"', found.home().block.html)]
    assert links[:2] == [
        f"home/demo/demo/incidents/{name}/01_massive_down.ipynb",
        f"home/demo/demo/incidents/{name}/incident.html",
    ]
    assert all((place.root / link).is_file() for link in links)
    assert {
        "dashboard.ipynb",
        "notebooks/alerts.ipynb",
        "notebooks/checklist.ipynb",
        "runbooks/massive_down.ipynb",
    } <= {*links}


def test_links_of_the_page(at: Callable[[str], Desk]) -> None:
    """In index.html every link is an HTML page beside it; all runbooks are on one page."""
    found = at(OUTAGE)
    opened(found, "Massive is gone", "critical")
    page = index_page.write(found).read_text()
    links = re.findall(r'href="([^"]+)"', page)
    assert links[0] == "runbooks.html#massive_down" and len(links) >= len(catalog.names())
    runbooks = (found.settings.home / "runbooks.html").read_text()
    for link in links:
        file, _, part = unquote(link).partition("#")
        assert (found.settings.home / file).is_file() and (not part or f"id='{part}'" in runbooks)


def test_checklists_due(tmp_path: Path) -> None:
    """
    A daily checklist is due on a trading day until it is signed, an hourly one while the market is open.

    Others are due after a deployment.
    """
    found = Workspace(settings.load(tmp_path, "desk", {}), lambda: time_parsing.parse("2026-03-10T11:00"))

    def due(when: str) -> dict[str, str]:
        return {d.checklist.name: d.verdict or d.words for d in due_checklists.due(found, time_parsing.parse(when))}

    daily = {"morning": "not started", "monitor-health": "not started"}
    assert due("2026-03-10T11:00") == daily | {"hourly": "not started"} and due("2026-03-10T17:00") == daily
    assert due("2026-03-08T11:00") == {}  # A Sunday.
    ChecklistSession(found, "morning", "Ann")
    assert due("2026-03-10T11:00")["morning"] == "started, not signed"
    Markers(found.store, found.settings).put("deploy", "v2", "Ann", time_parsing.parse("2026-03-10T10:00"))
    assert {"post-deploy-1h", "post-deploy-24h"} & {*due("2026-03-10T11:00")} == {"post-deploy-1h"}
    assert due("2026-03-11T10:00")["post-deploy-24h"] == "not started"
    assert "post-deploy-24h" not in due("2026-03-18T10:00")


def test_recent_incidents(at: Callable[[str], Desk]) -> None:
    """All open incidents are listed, then the newest closed ones."""
    found = at(OUTAGE)
    names = [opened(found, f"incident {n}", "notify", "incident") for n in range(4)]
    for name in names[:3]:
        found.incidents.resolve(name, "over", by="Ann")
    Incidents(found.store, found.settings, found.rules).follow_alerts()
    assert [i.id for i in found.incidents.recent(2)] == [names[3], names[2], names[1]]
    assert [i.id for i in found.incidents.recent(9)] == [*reversed(names), *(f"2026-03-10-{n}" for n in (4, 3, 2, 1))]


def test_home_is_shown_again_after_a_change(at: Callable[[str], Desk]) -> None:
    """A view returns Home once, and again after a change; the time alone is no change."""
    moments = iter([f"2026-03-10T13:05:{second:02}" for second in range(10)])
    found = replace(at(OUTAGE), now=lambda: time_parsing.parse(next(moments)))
    view = HomeView(found, nowhere)
    first = view.changed()
    assert first is not None and "checked every 30 s" in first.parts[1].html and view.changed() is None
    name = opened(at("2026-03-10T13:05"), "Massive is gone", "critical")
    again = view.changed()
    assert again is not None and f"incident {name}, open" in again.block.plain and view.changed() is None


def test_an_incident_is_acknowledged_by_a_button(at: Callable[[str], Desk]) -> None:
    """In a notebook a button replaces the command: it needs a name, and Home then shows the owner."""
    found, redrawn = at(OUTAGE), list[str]()
    name = opened(found, "Massive is gone", "critical")
    answer, rest = home.home_of(found, nowhere).parts
    assert "Massive is gone" in answer.html and "ops ack" not in answer.html + rest.html
    assert "Runbooks by symptom" in rest.html and "Runbooks by symptom" not in answer.html

    shown = AcknowledgeWidget(found, lambda: redrawn.append(home.home_of(found, nowhere).block.plain))
    shown.show(home.home_of(found, nowhere).unowned)
    who, button = shown._row.children
    assert button.description == f"Acknowledge {name}"
    button.click()
    assert "needs your name" in shown._message.value and not redrawn and found.incidents.read(name).owner == ""
    who.value = "Ann"
    button.click()
    assert found.incidents.read(name).owner == "Ann" and shown._message.value == ""
    assert "owner: Ann" in redrawn[0] and "owner: Ann" in (found.settings.home / "index.html").read_text()
    shown.show(home.home_of(found, nowhere).unowned)
    assert shown._row.children == ()
