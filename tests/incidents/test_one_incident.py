"""One problem is one incident, whichever source reports it first."""

from pathlib import Path

from opslib.dashboard import status
from opslib.incidents.lifecycle import Incidents
from opslib.runbooks import incident_page
from tests.alerting.notifications.test_one_cause import massive
from tests.support.lived_hour import BEGINS_S, RULES, Desk


def test_a_second_source_opens_no_second_incident(tmp_path: Path) -> None:
    """An alert of the same rule and subject from another source joins the existing incident."""
    desk = Desk(tmp_path, massive("server_5xx")).live(BEGINS_S + 120)
    incidents = Incidents(desk.store, desk.settings, RULES)
    incidents.follow_alerts()
    (incident,) = incidents.all()
    assert incident.runbook == "massive_down"
    alert = next(
        a
        for a in status.status(desk.store, desk.settings, RULES, as_of=desk.now).alerts
        if a["rule"] == "availability" and a["subject"] == "massive"
    )
    other = alert | {"id": f"{alert['id']}-seen-by-another", "source": "another"}
    assert incidents.open("", by="Ann", alert=other).id == incident.id and len(incidents.all()) == 1


def test_the_incident_page_is_written_when_it_changes(tmp_path: Path) -> None:
    """The process that sends notifications writes the page of each changed incident, once for each change."""
    desk = Desk(tmp_path, massive("server_5xx")).live(BEGINS_S + 120)
    desk.notifying.follow_alerts()
    desk.notifying.write_pages()
    (incident,) = Incidents(desk.store, desk.settings, RULES).all()
    page = incident_page.path(desk.settings, incident.id)
    assert "Massive returns server errors (5xx)" in page.read_text(encoding="utf-8")
    page.unlink()
    desk.notifying.follow_alerts()
    desk.notifying.write_pages()
    assert not page.exists()  # Nothing changed, so no page is written.
