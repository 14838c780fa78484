"""One trouble is one incident, whoever saw it first."""

from pathlib import Path

from opslib.dashboard import status
from opslib.incidents.lifecycle import Incidents
from tests.alerting.notifications.test_one_cause import massive
from tests.support.lived_hour import BEGINS_S, RULES, Desk


def test_a_second_source_opens_no_second_incident(tmp_path: Path) -> None:
    """
    An alert of the same rule and subject that fires before anything of it was planned belongs to the incident there is.
    """
    desk = Desk(tmp_path, massive("server_5xx")).live(BEGINS_S + 120)
    chronicle = Incidents(desk.store, desk.settings, RULES)
    chronicle.follow_alerts()
    (incident,) = chronicle.all()
    assert incident.runbook == "massive_down"
    alert = next(
        a
        for a in status.status(desk.store, desk.settings, RULES, as_of=desk.now).alerts
        if a["rule"] == "availability" and a["subject"] == "massive"
    )
    other = alert | {"id": f"{alert['id']}-seen-by-another", "source": "another"}
    assert chronicle.open("", by="Ann", alert=other).id == incident.id and len(chronicle.all()) == 1
