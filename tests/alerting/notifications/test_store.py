"""
Stored notifications: planned once, sent at least once and in order even if a process is killed, and not within a
silence.
"""

import json
import random
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from opslib.alerting.notifications.store import CLAIM_US, EXPIRED, SENT, Delivery, NotificationStore
from opslib.foundation.config import rules
from opslib.foundation.config.contacts import Channel, Contacts, Role
from opslib.foundation.config.rules import PATH
from opslib.foundation.storage.database import Database
from opslib.foundation.storage.schema import ACTS, DELIVERIES, FOREIGN, MESSAGES, NOTICES, OUTBOX
from opslib.jobs import ledger
from tests.support.receivers import ALERTS, SILENT, fires
from tests.support.snapshots import at, us

RULES = rules.load()
HOOKED = Contacts(
    {name: Role(name, (), ("hook",)) for name in PATH},
    {"hook": Channel("hook", "webhook", {"url": "http://127.0.0.1:1"})},
)
KILLS = {"sqlite": 300, "postgresql": 60}


class Desk:
    """A store whose clock is set by hand."""

    def __init__(self, url: str, contacts: Contacts = HOOKED):
        self.at_s, self.contacts = 0.0, contacts
        self.store = Database(url, lambda: at(self.at_s))
        self.notifications = NotificationStore(self.store, "desk")

    def plan(self, seconds: float) -> list[dict]:
        """Plan notifications at `seconds`; return the messages."""
        self.at_s = seconds
        return [self.notifications.message(name) for name in self.notifications.plan(self.contacts, RULES)]

    def claim(self, channel: str = "hook") -> Delivery | None:
        return self.notifications.claim(channel)


@pytest.fixture
def desk(store_url: str) -> Desk:
    return Desk(store_url)


def test_a_notification_is_planned_once(desk: Desk) -> None:
    """
    Alerts of one panel that fire together are one message, however often they are planned; their resolution is another.
    """
    fires(desk.store, "desk", 100, "firing")
    assert desk.plan(104) == []
    made = desk.plan(115)
    assert sorted((m["panel"], sorted(a["rule"] for a in m["alerts"])) for m in made) == [
        ("greeks", ["gamma_zero"]),
        ("pnl", ["backtest_variance"]),
        ("providers", ["availability"]),
        ("system", ["errors", "websocket_down"]),
    ]
    assert {m["kind"] for m in made} == {"firing"} and len({m["id"] for m in made}) == 4
    assert desk.plan(120) == [] and NotificationStore(desk.store, "desk").plan(HOOKED, RULES) == []
    fires(desk.store, "desk", 200, "resolved")
    assert {m["kind"] for m in desk.plan(200)} == {"over"} and desk.notifications.open_states() == []


@pytest.mark.parametrize(("resolved_s", "how", "over_s"), [(206, "resolved", 206), (None, "fell", 200)])
def test_an_alert_that_resolves_soon_is_not_notified_as_lowered(
    desk: Desk, resolved_s: float | None, how: str, over_s: float
) -> None:
    """
    An alert below its last notified severity is notified after the group wait; if it resolved by then, as resolved.
    """
    fires(desk.store, "desk", 100, "firing")
    desk.plan(115)
    fires(desk.store, "desk", 200, "resolved", kind="fell")
    assert desk.plan(205) == []
    if resolved_s is not None:
        fires(desk.store, "desk", resolved_s, "", severity="warning", kind="resolved")
    made = desk.plan(215)
    assert {(m["kind"], a["how"], a["over_us"]) for m in made for a in m["alerts"]} == {("over", how, us(over_s))}
    assert desk.plan(300) == [] and desk.notifications.open_states() == []


def test_a_claim_is_exclusive_until_it_expires(desk: Desk) -> None:
    """A claimed delivery is not given to another sender until the claim expires; a sent one never again."""
    fires(desk.store, "desk", 100, "firing")
    count = len(desk.plan(115))
    mine = [desk.claim() for _ in range(count + 1)]
    assert mine[-1] is None and len({d.message for d in mine[:-1] if d}) == count
    desk.at_s += CLAIM_US / 1e6 + 1
    again = desk.claim()
    assert again and again.message == mine[0].message
    desk.notifications.sent(again)
    assert [d.state for d, _ in desk.notifications.deliveries() if d.message == again.message] == [SENT]
    desk.notifications.failed(again, "late", 1)
    desk.notifications.expired(again)
    # A sent delivery stays sent.
    assert [d.state for d, _ in desk.notifications.deliveries() if d.message == again.message] == [SENT]


def test_a_group_is_sent_in_order(desk: Desk) -> None:
    """On one channel a resolution never overtakes its alert; other groups do not wait."""
    fires(desk.store, "desk", 100, "firing")
    desk.plan(115)
    first = desk.claim()
    assert first
    desk.notifications.failed(first, "it answered 500", 100)
    fires(desk.store, "desk", 130, "resolved")
    desk.plan(150)
    found = []
    while delivery := desk.claim():
        found.append(desk.notifications.message(delivery.message))
        desk.notifications.sent(delivery)
    assert first.about not in [m["group"] for m in found]
    kinds = {m["group"]: [n["kind"] for n in found if n["group"] == m["group"]] for m in found}
    assert len(kinds) == 3 and all(k == ["firing", "over"] for k in kinds.values())
    desk.at_s = 300
    rest = [desk.claim()]
    desk.notifications.sent(rest[0])
    rest.append(desk.claim())
    assert (
        [desk.notifications.message(d.message)["kind"] for d in rest if d] == ["firing", "over"]
        and rest[0]
        and rest[0].attempts == 1
        and rest[0].said == "it answered 500"
    )


def test_an_expired_delivery_is_kept(desk: Desk) -> None:
    """An expired delivery is kept with its last reason and does not block later ones."""
    fires(desk.store, "desk", 100, "firing")
    desk.plan(115)
    first = desk.claim()
    assert first
    desk.notifications.expired(first._replace(said="it answered 404"))
    found = next(d for d, _ in desk.notifications.deliveries() if d.message == first.message)
    assert (found.state, found.said) == (EXPIRED, "it answered 404") and found.over_us is not None


def test_notify_waits_for_working_hours(store_url: str) -> None:
    """Outside a role's hours an alert of severity notify waits; a critical one does not."""
    late = Contacts(
        {**HOOKED.roles, "Trading Manager": Role("Trading Manager", (), ("hook",), "12:00-13:00")}, HOOKED.channels
    )
    desk = Desk(store_url, late)
    fires(desk.store, "desk", 100, "firing")
    with desk.store.writing() as connection:
        connection.execute(sa.text("UPDATE transitions SET severity = 'notify' WHERE rule = 'gamma_zero'"))
    desk.plan(115)
    due = {m["panel"]: d.due_us for d, m in desk.notifications.deliveries()}
    noon = us((12 - 9.5) * 3600)
    assert due["greeks"] == noon and due["pnl"] == due["providers"] == us(115)


def test_a_waiting_delivery_blocks_nothing(store_url: str) -> None:
    """When a waiting alert is raised, both messages go out at once, in order; waiting does not count towards expiry."""
    late = Contacts(
        {**HOOKED.roles, "Trading Manager": Role("Trading Manager", (), ("hook",), "12:00-13:00")}, HOOKED.channels
    )
    desk = Desk(store_url, late)
    fires(desk.store, "desk", 100, "firing", "notify")
    desk.plan(115)
    noon = us((12 - 9.5) * 3600)
    held = [d for d, m in desk.notifications.deliveries() if m["panel"] == "greeks"]
    assert [(d.since_us, d.due_us) for d in held] == [(noon, noon)]
    fires(desk.store, "desk", 200, "firing", "critical")
    desk.plan(200)
    found = []
    while delivery := desk.claim():
        found.append(desk.notifications.message(delivery.message))
        desk.notifications.sent(delivery)
    assert [m["kind"] for m in found if m["panel"] == "greeks"] == ["firing", "rose"]


def test_a_resolution_goes_to_every_channel_of_the_alert(store_url: str) -> None:
    """A resolution goes to every channel that got the alert; deliveries to removed channels expire."""
    desk = Desk(store_url, Contacts(HOOKED.roles, HOOKED.channels | {"other": Channel("other", "terminal")}))
    fires(desk.store, "desk", 100, "firing")
    desk.plan(115)
    desk.contacts = Contacts({name: Role(name, (), ("other",)) for name in PATH}, desk.contacts.channels)
    fires(desk.store, "desk", 200, "resolved")
    desk.plan(200)
    assert {d.channel for d, m in desk.notifications.deliveries() if m["kind"] == "over"} == {"hook", "other"}
    assert (
        len(desk.notifications.expire_unreachable(["other"])) == 8
        and desk.notifications.expire_unreachable(["other"]) == []
    )
    assert {d.state for d, _ in desk.notifications.deliveries() if d.channel == "hook"} == {EXPIRED}


def test_notifications_are_sent_after_the_clock_is_set_back(store_url: str) -> None:
    """
    An entry written while the clock was two hours ahead does not block notifications after the clock is corrected.
    """
    desk = Desk(store_url)
    desk.at_s = 7200
    desk.notifications.ack("x", "Ann")
    desk.at_s = 0
    fires(desk.store, "desk", 10, "firing")
    assert desk.plan(30) and desk.claim()


def test_actions_are_committed_at_once(store_url: str) -> None:
    """A silence, its expiry and an acknowledgement are visible to other processes before the command returns."""
    desk = Desk(store_url)
    made = desk.notifications.silence("Ann", "maintenance", timedelta(hours=2), rule="availability", subject="massive")
    desk.notifications.ack("availability-massive", "Ben", "on it")
    other = NotificationStore(Database(store_url, lambda: at(60)), "desk")
    assert other.silences() == [made] and made.until_us - made.from_us == 7200 * 10**6
    assert other.acks() == {"availability-massive": ("Ben", us(0), "on it")}
    assert (
        other.expire_silence(made.id, "Cid")
        and not other.expire_silence(made.id, "Cid")
        and not other.expire_silence("other", "Cid")
    )
    assert [s.until_us for s in NotificationStore(desk.store, "desk").silences()] == [us(60)]
    with desk.store.reading() as connection:
        assert [row.kind for row in connection.execute(sa.select(ACTS).order_by(ACTS.c.seq))] == [
            "silence",
            "ack",
            "unsilence",
        ]


def test_an_older_database_sends_nothing_old(store_url: str) -> None:
    """A database of the third schema is upgraded, and its old outbox is not sent."""
    desk = Desk(store_url)
    fires(desk.store, "desk", 100, "firing")
    with desk.store.writing() as connection:
        for table in (ACTS, NOTICES, MESSAGES, DELIVERIES, FOREIGN):
            table.drop(connection)
        connection.execute(sa.text("DROP INDEX runs_due"))
        for name in ("due", "kernel"):
            connection.execute(sa.text(f"ALTER TABLE runs DROP COLUMN {name}"))
        connection.execute(sa.text("UPDATE meta SET value = '3' WHERE key = 'schema'"))
    desk.store.close()
    again = Desk(store_url)
    daily = ledger.JobKey("report daily 2026-03-10")
    ledger.begins(again.store, daily, id="r", app="desk", notebook="n", parameters="{}", state="ok", started_at_us=0)
    assert [row["due"] for row in ledger.rows_due(again.store, "desk", [daily.name])] == [daily.name]
    assert again.plan(500) == [] and again.notifications.open_states() == []
    fires(again.store, "desk", 600, "resolved")
    fires(again.store, "desk", 700, "firing")
    assert {m["kind"] for m in again.plan(800)} == {"firing"}
    with again.store.reading() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(OUTBOX)).scalar() == 3 * len(ALERTS)


@pytest.mark.slow
def test_kills_lose_no_notification(store_url: str, tmp_path: Path) -> None:
    """
    With kills at hundreds of random moments and good, failing and slow receivers, every start and end is sent, in
    order.
    """
    wanted, seed, place = KILLS[store_url.split(":")[0]], random.SystemRandom().randrange(10**6), tmp_path / "received"
    print(f"seed {seed}")
    ended = subprocess.run(
        [sys.executable, "-m", "tests.support.receivers", store_url, str(seed), str(wanted), str(place)],
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout)
    received = [json.loads(line) for line in place.read_text().splitlines()]
    taken = [r for r in received if r["status"] == 204]
    assert found["kills"] >= wanted and found["rounds"] >= 2 and found["between"] >= wanted / 20, found
    assert set(found["sent"]) <= {r["id"] for r in taken} and found["sent"]
    for n in range(found["rounds"]):
        for rule in ALERTS:
            kinds = [what for r in taken for alert, what in r["told"] if alert == f"{rule}-round{n}"]
            assert (
                (not kinds) if rule == SILENT else kinds[0] in ("firing", "both") and kinds[-1] in ("over", "both")
            ), (
                seed,
                n,
                rule,
                kinds,
            )
    assert not [r for r in received for alert, _ in r["told"] if alert.startswith(f"{SILENT}-")]
