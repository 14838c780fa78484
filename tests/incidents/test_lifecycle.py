"""The life cycle of incidents, on both databases, with a clock that is set by hand."""

import json
import threading
from datetime import timedelta
from pathlib import Path

import pytest

from opslib.alerting.alerts import Transition
from opslib.alerting.notifications.store import NotificationStore
from opslib.alerting.store import AlertStore
from opslib.foundation.config import rules, settings
from opslib.foundation.config.contacts import Contacts, Role
from opslib.foundation.config.rules import PATH
from opslib.foundation.errors import IncidentError
from opslib.foundation.storage.database import Database
from opslib.incidents import evidence
from opslib.incidents.lifecycle import Incidents
from opslib.telemetry.markers import Markers
from tests.support.snapshots import at, us

TABLE = rules.load()
PAGE, PROBE = "availability-massive-page-1", "availability-massive-probe-1"


class Desk:
    """A store, its incidents and a clock."""

    def __init__(self, url: str, home: Path):
        self.now_s = 600.0
        self.store = Database(url, lambda: at(self.now_s))
        self.settings = settings.Settings(home, "desk", secrets={"OPS_MASSIVE_TOKEN": "tok-123456789"})
        self.incidents = Incidents(self.store, self.settings, TABLE)
        self.notifications, self.marks = NotificationStore(self.store, "desk"), Markers(self.store, self.settings)
        self.contacts = Contacts({name: Role(name) for name in PATH}, group_wait=timedelta(seconds=15))

    def change(
        self,
        seconds: float,
        alert: str,
        kind: str,
        severity: str,
        edge: str = "",
        rule: str = "availability",
        subject: str = "massive",
        by: str | None = None,
    ) -> None:
        """Record one transition of an alert, with its outbox entry if people are to be notified."""
        record = AlertStore(self.store, "desk")
        turn = record.acquire_lease("judge")
        assert turn
        row = Transition(
            us(seconds),
            rule,
            subject,
            "page",
            alert,
            kind,
            severity,
            0.7,
            0.95,
            us(500),
            None,
            by,
            f"{rule} of {subject} is low",
            TABLE.hash,
        )
        assert record.keep(
            turn, turn.upto_us if turn.upto_us is not None else us(0), us(seconds), [row], [], {0: edge} if edge else {}
        )
        record.leave("judge")

    def later(self, seconds: float) -> None:
        """Advance the clock, plan notifications, and let the incidents follow the alerts."""
        self.now_s += seconds
        self.notifications.plan(self.contacts, TABLE)
        self.incidents.follow_alerts()

    def outage(self) -> str:
        """Start an outage of Massive and notify people; return the incident's id."""
        self.change(595, PAGE, "fired", "critical", "firing")
        self.later(20)
        self.later(20)
        (found,) = self.incidents.all()
        return found.id


@pytest.fixture
def desk(store_url: str, tmp_path: Path) -> Desk:
    """A desk on each kind of database."""
    return Desk(store_url, tmp_path)


def test_an_alert_opens_its_incident(desk: Desk) -> None:
    """A notified alert opens one incident with its title, limit, runbook and time, however often it is followed."""
    name = desk.outage()
    found = desk.incidents.read(name)
    assert (
        name == "2026-03-10-1"
        and found.runbook == "massive_down"
        and found.rule == "availability"
        and found.subject == "massive"
        and found.severity == "critical"
    )
    assert found.alerts == {PAGE: "firing"} and found.entries[0].at_us == us(595) and found.status == "open"
    assert found.times["detected"].at_us == us(595) and found.times["detected"].precision_s == 5.0
    assert (
        found.times["began"].at_us == us(500)
        and found.times["began"].precision_s == 600.0
        and "crossed its limit" in found.times["began"].source
    )
    assert found.times["acknowledged"].at_us is None and "no one" in found.times["acknowledged"].source
    before = len(found.entries)
    Incidents(desk.store, desk.settings, TABLE).follow_alerts()
    assert len(desk.incidents.read(name).entries) == before


def test_inhibited_alerts_belong_to_the_incident(desk: Desk) -> None:
    """An inhibited alert opens no incident; it joins that of its inhibiting alert, also over several steps."""
    name = desk.outage()
    desk.change(650, PROBE, "fired", "critical", by=PAGE)
    desk.change(660, "errors-app-page-1", "fired", "critical", rule="errors", subject="app", by=PROBE)
    desk.later(60)
    assert (
        set(desk.incidents.read(name).alerts) == {PAGE, PROBE, "errors-app-page-1"} and len(desk.incidents.all()) == 1
    )
    assert desk.incidents.of_alerts() == dict.fromkeys((PAGE, PROBE, "errors-app-page-1"), name)


def test_every_event_is_on_the_timeline(desk: Desk) -> None:
    """
    Alerts, acknowledgements, deliveries, markers, notes and handovers are each on the timeline once, ordered by time.
    """
    desk.marks.put("deploy", "v1.4", "Dee", at(300))
    name = desk.outage()
    desk.notifications.ack(PAGE, "Ann", "mine")
    desk.incidents.follow_alerts()
    desk.incidents.note(name, "the vendor was called", "Bob")
    desk.incidents.hand_over(name, "Bob", "Ann")
    delivery = desk.notifications.claim("terminal")
    assert delivery
    desk.notifications.sent(delivery)
    desk.change(900, PAGE, "resolved", "critical", "resolved")
    desk.later(400)
    found = desk.incidents.read(name)
    kinds = [e.kind for e in found.timeline]
    assert (
        sorted(kinds) == ["acknowledged", "alert", "alert", "handover", "mark", "note", "opened", "told"]
        and kinds[0] == "mark"
        and kinds[-1] == "alert"
    )
    assert [e.at_us for e in found.timeline] == sorted(e.at_us for e in found.timeline)
    assert (
        found.owner == "Bob"
        and found.people == ["Dee", "Ann", "Bob"]
        and found.times["acknowledged"].source == "acknowledged by Ann"
        and found.alerts == {PAGE: "resolved"}
    )
    assert evidence.checked(e.line for e in found.entries)[1] == []


def test_the_incident_folder_can_be_verified(desk: Desk) -> None:
    """The incident folder holds the whole record, which verifies without the database, and its picture."""
    name = desk.outage()
    digest = desk.incidents.picture(b"\x89PNG picture")
    desk.incidents.append(name, "evidence", {"words": "a picture", "picture": {"sha256": digest, "name": "providers"}})
    folder = desk.incidents.folder(name)
    found, broken = evidence.checked((folder / "record.jsonl").read_text().splitlines())
    assert (
        not broken
        and found == desk.incidents.read(name).entries
        and (folder / "evidence" / f"{digest}.png").read_bytes() == b"\x89PNG picture"
    )


def test_incident_life_cycle(desk: Desk) -> None:
    """
    An incident can be mitigated, resolved (while an alert fires only with a note), reopened and dismissed; a resolved
    one accepts only notes.
    """
    name = desk.outage()
    assert desk.incidents.mitigate(name, "Tradier only", "Ann").status == "mitigated"
    with pytest.raises(IncidentError, match=f"{PAGE} still fires"):
        desk.incidents.resolve(name, "", "Ann")
    found = desk.incidents.resolve(name, "the feed is back; the rate needs its ten minutes", "Ann")
    assert (
        found.status == "resolved"
        and found.of_kind("resolved")[0].body["head"]["digest"] == found.entries[-2].digest
        and found.of_kind("resolved")[0].body["still_firing"] == [PAGE]
    )
    with pytest.raises(IncidentError, match="is resolved"):
        desk.incidents.mitigate(name, "again", "Ann")
    assert desk.incidents.note(name, "an afterthought", "Bob").status == "resolved"
    desk.change(900, PAGE, "resolved", "critical", "resolved")
    desk.later(400)
    assert desk.incidents.read(name).alerts == {PAGE: "resolved"}, (
        "what comes after it was called over is on its record too"
    )
    found = desk.incidents.reopen(name, "it is back", "Ann")
    assert found.status == "open" and found.times["resolved"].at_us is None
    assert desk.incidents.dismiss(name, "false alarm", "a test", "Ann").status == "dismissed"
    with pytest.raises(IncidentError, match="reason to dismiss"):
        desk.incidents.dismiss(name, "boring", "", "Ann")
    for act in (
        lambda: desk.incidents.note(name, "x", " "),
        lambda: desk.incidents.note(name, "", "Ann"),
        lambda: desk.incidents.note("2026-03-10-9", "x", "Ann"),
        lambda: desk.incidents.open(" ", by="Ann"),
    ):
        with pytest.raises(IncidentError):
            act()


def test_events_of_a_merged_incident_go_to_the_other(desk: Desk) -> None:
    """New events of a merged incident are written to the other one; earlier entries stay."""
    name = desk.outage()
    other = desk.incidents.open("two prices differ", by="Bob")
    assert desk.incidents.merge(name, other.id, "Ann").status == "merged"
    desk.change(900, PAGE, "resolved", "critical", "resolved")
    desk.later(400)
    assert (
        desk.incidents.read(other.id).alerts == {PAGE: "resolved"}
        and desk.incidents.of_alerts() == {PAGE: other.id}
        and desk.incidents.find(PAGE).id == other.id
    )
    assert desk.incidents.read(name).alerts == {PAGE: "firing"} and desk.incidents.find().id == other.id
    with pytest.raises(IncidentError, match="cannot be merged"):
        desk.incidents.merge(other.id, other.id, "Ann")


def test_a_dismissed_incident_is_not_opened_again_for_its_alert(desk: Desk) -> None:
    """A dismissed incident is not opened again while its alert fires; the next alert episode opens another one."""
    name = desk.outage()
    desk.incidents.dismiss(name, "false alarm", "", "Ann")
    desk.later(60)
    assert [i.id for i in desk.incidents.all()] == [name]
    desk.change(900, PAGE, "resolved", "critical", "resolved")
    desk.later(400)
    desk.change(1200, "availability-massive-page-2", "fired", "critical", "firing")
    desk.later(300)
    desk.later(60)
    assert [i.id for i in desk.incidents.all()] == [name, "2026-03-10-2"] and set(
        desk.incidents.read("2026-03-10-2").alerts
    ) == {"availability-massive-page-2"}


def test_simultaneous_writers_lose_no_entry(desk: Desk) -> None:
    """With eight simultaneous writers no entry is lost, the chain has no fork, and a key is written once."""
    name = desk.outage()
    before, won = len(desk.incidents.read(name).entries), list[bool]()

    def writes(n: int) -> None:
        mine = Incidents(
            Database(desk.store._engine.url.render_as_string(hide_password=False), lambda: at(700)),
            desk.settings,
            TABLE,
        )
        for i in range(5):
            mine.append(name, "note", {"words": f"{n} {i}"}, by=f"P{n}")
        won.append(
            mine.append(
                name, "step", {"runbook": "r", "step": "s", "state": "intended", "words": "x"}, key="intended:1"
            )
            is not None
        )

    threads = [threading.Thread(target=writes, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = desk.incidents.read(name)
    assert (
        len(found.entries) == before + 41
        and won.count(True) == 1
        and evidence.checked(e.line for e in found.entries)[1] == []
    )
    assert [e.body["words"] for e in found.of_kind("note") if e.by == "P3"] == [f"3 {i}" for i in range(5)]


def test_an_incident_as_known_at_a_time(desk: Desk) -> None:
    """An incident as known at a time has only the entries written by then."""
    name = desk.outage()
    then = at(desk.now_s)
    desk.now_s += 100
    desk.incidents.note(name, "seen earlier", "Ann", at(600))
    assert [e.kind for e in desk.incidents.read(name, then).of_kind("note")] == [] and desk.incidents.read(
        name
    ).of_kind("note")[0].at_us == us(600)
    with pytest.raises(IncidentError, match="there is no incident"):
        desk.incidents.read(name, at(10))
    assert desk.incidents.of_alerts(at(10)) == {} and json.loads(json.dumps(desk.incidents.read(name).as_json()))
