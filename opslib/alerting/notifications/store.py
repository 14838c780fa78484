"""
Keep notifications in the database: what is due, what was sent, and what people answered.

What is to be told of a change of alerts, and to whom, is written in the transaction that takes the change in, so it is
written once whoever is killed. A delivery is claimed for a while, sent, and only then marked as sent: who dies between
the two leaves it to be sent again, under the same id.
"""

import copy
import json
import secrets
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from typing import Any, NamedTuple

import sqlalchemy as sa

from opslib.alerting.notifications import external_alerts, planner
from opslib.alerting.notifications.planner import (
    ESCALATED_ROLE,
    ESCALATED_SEVERITY,
    FIRING,
    MISSED_SUMMARY,
    OF_SCHEDULE,
    PRESSING,
    REPEAT,
    REPORT,
    RESOLVED,
    SCHEDULE,
    AlertChange,
    Cause,
    Notification,
    NotificationState,
    Silence,
    unknown_cause,
)
from opslib.foundation import clock
from opslib.foundation.config.contacts import Contacts
from opslib.foundation.config.rules import SENT as SENT_SEVERITIES
from opslib.foundation.config.rules import SEVERITIES, Rules
from opslib.foundation.storage.cell_types import decoding
from opslib.foundation.storage.database import Database, ResultRow
from opslib.foundation.storage.schema import ACTS, DELIVERIES, FACTS, FOREIGN, MESSAGES, NOTICES, OUTBOX, TRANSITIONS

CLAIM_US = 60_000_000  # Longer than any channel may take; who has not said by then how it went is dead.
PENDING, SENT, EXPIRED = "pending", "sent", "expired"
NOBODY = ""
_OF_EDGE = [
    OUTBOX.c.edge,
    *(
        TRANSITIONS.c[name]
        for name in (
            "at_us",
            "alert",
            "rule",
            "subject",
            "source",
            "kind",
            "severity",
            "value",
            "limit",
            "pending_us",
            "peak",
            "sentence",
        )
    ),
]
# Kinds of one number are told in one message.
_TOLD_WITH = {FIRING: 0, ESCALATED_SEVERITY: 0, REPEAT: 1, ESCALATED_ROLE: 2, RESOLVED: 3, MISSED_SUMMARY: 4}


class Delivery(NamedTuple):
    """
    One message on its way by one channel; times in microseconds since 1970.

    Attributes:
        message: Its id, the same however often it is sent.
        about: The group it is about; those of one group go out in their order.
        state: pending, sent or expired.
        since_us: From when on it may go out: later than it was made where it waits for somebody's hours.
        over_us: When it was sent, or given up; None while it is pending.
        said: Why the last attempt failed; empty where none did.
    """

    seq: int
    message: str
    channel: str
    about: str
    state: str
    made_us: int
    since_us: int
    due_us: int
    attempts: int
    over_us: int | None
    said: str


_DELIVERY = [DELIVERIES.c[name] for name in Delivery._fields]


class NotificationStore:
    """What people of one app are told, and what they said."""

    def __init__(self, store: Database, app: str):
        self.store, self.app = store, app

    # What people say.

    def silence(
        self, author: str, reason: str, span: timedelta, rule: str = "", subject: str = "", source: str = ""
    ) -> Silence:
        """Keep quiet about what fits, from now on for so long; written through before this returns."""
        name = secrets.token_hex(4)
        with self.store.committing() as connection:
            at_us = self._act(
                connection,
                "silence",
                name,
                author,
                reason,
                {"rule": rule, "subject": subject, "source": source},
                lambda now_us: now_us + clock.span_us(span),
            )
        return Silence(name, author, reason, rule, subject, source, at_us, at_us + clock.span_us(span))

    def expire_silence(self, name: str, author: str) -> bool:
        """End a silence now; False where there is none of that name that still holds."""
        with self.store.committing() as connection:
            now_us = self.store.stamp(connection)
            if not any(s.id == name and s.until_us > now_us for s in self._silences(connection)):
                return False
            self._act(connection, "unsilence", name, author, "", {}, lambda _: None)
        return True

    def ack(self, name: str, author: str, note: str = "") -> None:
        """Take an alert, or the group that it belongs to, as one's own: nobody else is called for it."""
        with self.store.committing() as connection:
            self._act(connection, "ack", name, author, note, {}, lambda _: None)

    def _act(
        self,
        connection: sa.Connection,
        kind: str,
        name: str,
        author: str,
        reason: str,
        detail: Mapping[str, Any],
        until: Any,
    ) -> int:
        at_us = self.store.stamp(connection)
        seq = connection.execute(sa.select(sa.func.max(ACTS.c.seq)).where(ACTS.c.app == self.app)).scalar() or 0
        connection.execute(
            sa.insert(ACTS).values(
                app=self.app,
                seq=seq + 1,
                known_at_us=at_us,
                kind=kind,
                id=name,
                author=author,
                reason=reason,
                detail=json.dumps(detail, sort_keys=True),
                until_us=until(at_us),
            )
        )
        return at_us

    def silences(self) -> list[Silence]:
        """Every silence that there ever was, oldest first; one that was ended early ends when it was."""
        with self.store.reading() as connection:
            return self._silences(connection)

    def _silences(self, connection: sa.Connection) -> list[Silence]:
        found: dict[str, Silence] = {}
        for row in connection.execute(
            sa.select(ACTS)
            .where(ACTS.c.app == self.app, ACTS.c.kind.in_(("silence", "unsilence")))
            .order_by(ACTS.c.seq)
        ):
            if row.kind == "silence":
                with decoding("acts.detail"):
                    found[row.id] = Silence(
                        row.id,
                        row.author,
                        row.reason,
                        **json.loads(row.detail),
                        from_us=row.known_at_us,
                        until_us=row.until_us + 0,
                    )
            elif row.id in found:
                found[row.id] = found[row.id]._replace(until_us=min(found[row.id].until_us, row.known_at_us))
        return list(found.values())

    def acks(self) -> dict[str, tuple[str, int, str]]:
        """Who has taken which alert or group last, when, and what they said of it."""
        with self.store.reading() as connection:
            rows = connection.execute(
                sa.select(ACTS).where(ACTS.c.app == self.app, ACTS.c.kind == "ack").order_by(ACTS.c.seq)
            ).all()
        return {row.id: (row.author, row.known_at_us, row.reason) for row in rows}

    # What is to be told.

    def standing(self) -> list[NotificationState]:
        """Every alert of which there is, or may be, something to tell, with its group and who has taken it."""
        with self.store.reading() as connection:
            return self._open(connection)

    def plan(
        self,
        staff: Contacts,
        rules: Rules,
        diagnosed: Callable[[int], Callable[[NotificationState], Cause | None]] = lambda at_us: unknown_cause,
    ) -> list[str]:
        """
        Take in what became of alerts since the last time, and write down what is to be told of it now, to whom.

        Args:
            diagnosed: What sets an alert off, as of an instant; asked only where somebody is to be notified of
                something new.

        Returns:
            The ids of the messages that were made.

        Raises:
            StoreError: Nothing was taken in.
        """
        with self.store.reading() as connection:
            anything, new = self._anything(connection, staff)
            now_us = self._now_us(connection)
        if not anything:
            return []
        cause_of = diagnosed(now_us) if new else unknown_cause  # Outside of the transaction: it reads a view.
        with self.store.committing() as connection:
            now_us = self.store.stamp(connection)
            found = self._take_in(connection, rules, now_us)
            tellings = planner.due(
                found.values(), self._silences(connection), self._taken(connection), staff, now_us, cause_of
            )
            made = [self._write(connection, several, staff, rules, now_us) for several in _together(tellings)]
            for telling in tellings:
                if telling.kind in (RESOLVED, MISSED_SUMMARY):
                    telling.notice.closed()
            self._keep(connection, found.values())
        return made

    def _anything(self, connection: sa.Connection, staff: Contacts) -> tuple[bool, bool]:
        """
        Would planning change anything, and is somebody to be notified of something new?

        Asked often, so without taking the writers' turn.
        """
        newest = connection.execute(sa.select(sa.func.max(OUTBOX.c.seq)).where(OUTBOX.c.app == self.app)).scalar() or 0
        now_us = self._now_us(connection)
        if newest > self._planned(connection) or any(self._changed(connection, now_us)):
            return True, True  # What is due is not known before that is taken in.
        found = [copy.deepcopy(n) for n in self._open(connection)]
        before = [n.as_json() for n in found]
        tellings = planner.due(found, self._silences(connection), self._taken(connection), staff, now_us)
        changed = [n.as_json() for n in sorted(found, key=lambda n: n.alert)] != sorted(
            before, key=lambda n: n["alert"]
        )
        return bool(tellings) or changed, any(t.kind in (FIRING, ESCALATED_SEVERITY) for t in tellings)

    def _now_us(self, connection: sa.Connection) -> int:
        """
        What time it is for who writes here: never before what is written already, though the machine's clock was set
        back.
        """
        last = connection.execute(sa.select(FACTS.c.value).where(FACTS.c.key == "known_at_us")).scalar()
        with decoding("meta.known_at_us"):
            return self.store.not_before(int(last or 0))

    def _planned(self, connection: sa.Connection) -> int:
        with decoding("meta.planned"):
            return int(
                connection.execute(sa.select(FACTS.c.value).where(FACTS.c.key == f"planned:{self.app}")).scalar() or 0
            )

    def _taken(self, connection: sa.Connection) -> dict[str, tuple[str, int]]:
        rows = connection.execute(
            sa.select(ACTS.c.id, ACTS.c.author, ACTS.c.known_at_us)
            .where(ACTS.c.app == self.app, ACTS.c.kind == "ack")
            .order_by(ACTS.c.seq)
        )
        return {row.id: (row.author, row.known_at_us) for row in rows}

    def _open(self, connection: sa.Connection) -> list[NotificationState]:
        rows = connection.execute(
            sa.select(NOTICES.c.state)
            .where(NOTICES.c.app == self.app, NOTICES.c.open.is_(True))
            .order_by(NOTICES.c.alert)
        ).scalars()
        return [NotificationState.of_json(state) for state in rows]

    def _take_in(self, connection: sa.Connection, rules: Rules, now_us: int) -> dict[str, NotificationState]:
        """Every open notice, with what has come since the last time."""
        found = {n.alert: n for n in self._open(connection)}
        after, upto = self._planned(connection), 0
        query = (
            sa.select(OUTBOX.c.seq, *_OF_EDGE)
            .join(TRANSITIONS, sa.and_(TRANSITIONS.c.app == OUTBOX.c.app, TRANSITIONS.c.seq == OUTBOX.c.transition))
            .where(OUTBOX.c.app == self.app, OUTBOX.c.seq > after)
            .order_by(OUTBOX.c.seq)
        )
        for row in connection.execute(query).all():
            edge, upto = AlertChange(*row[1:]), row[0]
            self._notice(connection, found, edge, rules).take(edge)
        for row in self._changed(connection, now_us):
            with decoding("foreign_alerts"):
                edge, owner, again = (
                    external_alerts.as_alert_change(row, now_us),
                    json.loads(row.labels).get("owner", ""),
                    json.loads(row.annotations).get("again", []),
                )
            notice = self._notice(connection, found, edge, rules)
            if edge.source == SCHEDULE:
                notice.who, notice.again = owner, again
            if edge.edge != "firing" and not notice.levels and notice.told is None:
                # It began and ended since we last looked.
                notice.take(edge._replace(edge="firing", kind="fired", at_us=row.starts_us))
            notice.take(edge)
            connection.execute(
                sa.update(FOREIGN)
                .where(FOREIGN.c.app == self.app, FOREIGN.c.fingerprint == row.fingerprint)
                .values(said_over=edge.edge != "firing")
            )
        if upto:
            self.store.put(connection, f"planned:{self.app}", str(upto))
        return found

    def _notice(
        self, connection: sa.Connection, found: dict[str, NotificationState], edge: AlertChange, rules: Rules
    ) -> NotificationState:
        if edge.alert not in found:
            state = connection.execute(
                sa.select(NOTICES.c.state).where(NOTICES.c.app == self.app, NOTICES.c.alert == edge.alert)
            ).scalar()
            rule = rules.rules.get(edge.rule)
            found[edge.alert] = (
                NotificationState.of_json(state)
                if state
                else NotificationState(
                    edge.alert,
                    edge.rule,
                    edge.subject,
                    edge.source,
                    rule.panel if rule else "system",
                    rule.who if rule else "Tech Lead",
                )
            )
        return found[edge.alert]

    def _changed(self, connection: sa.Connection, now_us: int) -> list[ResultRow]:
        """Alerts of a neighbour that fire and were not taken in, or are over and were not taken in as over."""
        told = sa.select(NOTICES.c.alert).where(NOTICES.c.app == self.app, NOTICES.c.open.is_(True))
        rows = connection.execute(
            sa.select(FOREIGN)
            .where(FOREIGN.c.app == self.app, FOREIGN.c.said_over.is_(False))
            .order_by(FOREIGN.c.fingerprint)
        ).all()
        known = set(connection.execute(told).scalars()) if rows else set()
        with decoding("foreign_alerts"):
            return [
                row
                for row in rows
                if row.ends_us <= now_us
                or external_alerts.neighbour_id(row.labels, row.fingerprint, row.starts_us) not in known
            ]

    def _write(
        self, connection: sa.Connection, tellings: list[Notification], staff: Contacts, rules: Rules, now_us: int
    ) -> str:
        """One message of things that are told together, and its deliveries."""
        roles = tuple(dict.fromkeys(role for t in tellings for role in t.roles))
        severity = max((t.notice.level or t.notice.worst or "notify" for t in tellings), key=SEVERITIES.index)
        with decoding("meta.messages"):
            count = (
                int(
                    connection.execute(sa.select(FACTS.c.value).where(FACTS.c.key == f"messages:{self.app}")).scalar()
                    or 0
                )
                + 1
            )
        self.store.put(connection, f"messages:{self.app}", str(count))
        name, first = f"{self.app}-{count}", tellings[0]
        about = first.notice.group if first.kind != MISSED_SUMMARY else NOBODY
        kind = ESCALATED_SEVERITY if any(t.kind == ESCALATED_SEVERITY for t in tellings) else first.kind
        alerts = [_told_of(t.notice, rules) for t in tellings]
        body = {
            "id": name,
            "app": self.app,
            "kind": kind,
            "group": about,
            "severity": severity,
            "roles": roles,
            "panel": first.notice.panel,
            "made_us": now_us,
            "alerts": alerts,
        }
        connection.execute(
            sa.insert(MESSAGES).values(app=self.app, id=name, made_us=now_us, body=json.dumps(body, sort_keys=True))
        )
        at, due = clock.instant(now_us), dict[str, int]()
        for role in (staff.roles[r] for r in roles if r in staff.roles):
            for channel in role.channels:
                when_us = now_us if severity in PRESSING else clock.micros(role.due(at))
                due[channel] = min(when_us, due.get(channel, when_us))
        here = sa.and_(DELIVERIES.c.app == self.app, DELIVERIES.c.about == about, DELIVERIES.c.state != EXPIRED)
        if first.kind == RESOLVED:  # Who was told of the beginning is told of the end, wherever that was.
            earlier = connection.execute(sa.select(DELIVERIES.c.channel).where(here).distinct()).scalars()
            due = {channel: now_us for channel in earlier if channel in staff.channels} | due
        # What waits for somebody's hours goes out before what cannot.
        for channel in [c for c, when_us in due.items() if when_us <= now_us and about]:
            held = sa.and_(
                here,
                DELIVERIES.c.channel == channel,
                DELIVERIES.c.state == PENDING,
                DELIVERIES.c.attempts == 0,
                DELIVERIES.c.due_us > now_us,
            )
            connection.execute(sa.update(DELIVERIES).where(held).values(due_us=now_us, since_us=now_us))
        self._deliver(connection, name, about, due, now_us)
        return name

    def _deliver(self, connection: sa.Connection, name: str, about: str, due: Mapping[str, int], now_us: int) -> None:
        """A message is to go out by channels, by each from an instant on."""
        seq = (
            connection.execute(sa.select(sa.func.max(DELIVERIES.c.seq)).where(DELIVERIES.c.app == self.app)).scalar()
            or 0
        )
        for i, (channel, due_us) in enumerate(sorted(due.items())):
            connection.execute(
                sa.insert(DELIVERIES).values(
                    app=self.app,
                    seq=seq + 1 + i,
                    message=name,
                    channel=channel,
                    about=about,
                    state=PENDING,
                    made_us=now_us,
                    since_us=due_us,
                    due_us=due_us,
                    attempts=0,
                    claimed_until_us=0,
                    over_us=None,
                    said="",
                )
            )

    def _keep(self, connection: sa.Connection, found: Iterable[NotificationState]) -> None:
        for notice in found:
            here = sa.and_(NOTICES.c.app == self.app, NOTICES.c.alert == notice.alert)
            values = {"state": json.dumps(notice.as_json(), sort_keys=True), "open": notice.open}
            if connection.execute(sa.update(NOTICES).where(here).values(**values)).rowcount == 0:
                connection.execute(sa.insert(NOTICES).values(app=self.app, alert=notice.alert, **values))

    # What is on its way.

    def message(self, name: str) -> dict[str, Any]:
        """What a message says, as it was written down."""
        with self.store.reading() as connection:
            body: dict[str, Any] = json.loads(
                connection.execute(
                    sa.select(MESSAGES.c.body).where(MESSAGES.c.app == self.app, MESSAGES.c.id == name)
                ).scalar_one()
            )
        return body

    def claim(self, channel: str) -> Delivery | None:
        """
        The next delivery of a channel that is due, for a minute one's own; None where there is none.

        Those of one group go out in their order.
        """
        mine = sa.and_(DELIVERIES.c.app == self.app, DELIVERIES.c.state == PENDING, DELIVERIES.c.channel == channel)
        waiting = sa.select(*_DELIVERY, DELIVERIES.c.claimed_until_us).where(mine).order_by(DELIVERIES.c.seq)
        with self.store.reading() as connection:
            if not _next(connection.execute(waiting).all(), self._now_us(connection)):
                return None
        with self.store.committing() as connection:
            now_us = self.store.stamp(connection)
            row = _next(connection.execute(waiting).all(), now_us)
            if row is not None:
                connection.execute(
                    sa.update(DELIVERIES)
                    .where(DELIVERIES.c.app == self.app, DELIVERIES.c.seq == row.seq)
                    .values(claimed_until_us=now_us + CLAIM_US)
                )
        return Delivery(*row[:-1]) if row is not None else None

    def sent(self, delivery: Delivery) -> None:
        """It has been sent; said only after it was."""
        self._ends(delivery, state=SENT, said="")

    def expired(self, delivery: Delivery) -> None:
        """It is given up."""
        self._ends(delivery, state=EXPIRED, said=delivery.said or "nobody could be reached")

    def _ends(self, delivery: Delivery, **values: Any) -> None:
        with self.store.committing() as connection:
            now_us = self.store.stamp(connection)
            connection.execute(
                sa.update(DELIVERIES)
                .where(DELIVERIES.c.app == self.app, DELIVERIES.c.seq == delivery.seq, DELIVERIES.c.state == PENDING)
                .values(over_us=now_us, attempts=delivery.attempts + 1, **values)
            )

    def failed(self, delivery: Delivery, said: str, again_after_s: float) -> None:
        """It could not be sent; it is due again after a while."""
        with self.store.committing() as connection:
            now_us = self.store.stamp(connection)
            connection.execute(
                sa.update(DELIVERIES)
                .where(DELIVERIES.c.app == self.app, DELIVERIES.c.seq == delivery.seq, DELIVERIES.c.state == PENDING)
                .values(
                    attempts=delivery.attempts + 1,
                    claimed_until_us=0,
                    due_us=now_us + round(again_after_s * 1e6),
                    said=said,
                )
            )

    def unreachable(self, channels: Iterable[str]) -> list[str]:
        """Give up what waits for a channel that is none of these any more; the messages' ids."""
        gone = sa.and_(
            DELIVERIES.c.app == self.app, DELIVERIES.c.state == PENDING, DELIVERIES.c.channel.not_in(list(channels))
        )
        with self.store.reading() as connection:
            found = [
                f"{row.message} by {row.channel}"
                for row in connection.execute(sa.select(DELIVERIES.c.message, DELIVERIES.c.channel).where(gone))
            ]
        if found:
            with self.store.committing() as connection:
                connection.execute(
                    sa.update(DELIVERIES)
                    .where(gone)
                    .values(
                        state=EXPIRED,
                        over_us=self.store.stamp(connection),
                        said="its channel is not in the settings any more",
                    )
                )
        return found

    def quiet_until(self, body: Mapping[str, Any]) -> int | None:
        """Until when does a silence keep quiet all that a message is about? None where it does not."""
        with self.store.reading() as connection:
            silences, now_us = self._silences(connection), self._now_us(connection)
        alerts = [NotificationState(a["alert"], a["rule"], a["subject"], a["source"], "", "") for a in body["alerts"]]
        untils = [max((s.until_us for s in silences if s.holds(alert, now_us)), default=None) for alert in alerts]
        known = [until for until in untils if until is not None]
        return min(known) if known and len(known) == len(untils) else None

    def deliveries(self, most: int = 200) -> list[tuple[Delivery, dict[str, Any]]]:
        """The newest deliveries, newest first, each with what its message says."""
        query = (
            sa.select(*_DELIVERY, MESSAGES.c.body)
            .join(MESSAGES, sa.and_(MESSAGES.c.app == DELIVERIES.c.app, MESSAGES.c.id == DELIVERIES.c.message))
            .where(DELIVERIES.c.app == self.app)
            .order_by(DELIVERIES.c.seq.desc())
            .limit(most)
        )
        with self.store.reading() as connection:
            return [(Delivery(*row[:-1]), json.loads(row[-1])) for row in connection.execute(query)]

    # What a neighbour says.

    def heard(self, alerts: Iterable[Mapping[str, Any]]) -> None:
        """
        Keep what another monitor says of its alerts.

        Args:
            alerts: fingerprint, labels, annotations, starts_us, ends_us of each.

        Raises:
            StoreError: Nothing was kept.
        """
        with self.store.committing() as connection:
            now_us = self.store.stamp(connection)
            for alert in alerts:
                here = sa.and_(FOREIGN.c.app == self.app, FOREIGN.c.fingerprint == alert["fingerprint"])
                before = connection.execute(sa.select(FOREIGN).where(here)).one_or_none()
                starts_us = before.starts_us if before is not None and not before.said_over else alert["starts_us"]
                values = {
                    "known_at_us": now_us,
                    "starts_us": starts_us,
                    "ends_us": alert["ends_us"],
                    "labels": json.dumps(alert["labels"], sort_keys=True),
                    "annotations": json.dumps(alert["annotations"], sort_keys=True),
                }
                # Nobody is to be told of it.
                done = external_alerts.severity(alert["labels"]) not in SENT_SEVERITIES or alert["ends_us"] <= now_us
                if before is None:
                    connection.execute(
                        sa.insert(FOREIGN).values(
                            app=self.app, fingerprint=alert["fingerprint"], said_over=done, **values
                        )
                    )
                else:
                    connection.execute(
                        sa.update(FOREIGN).where(here).values(said_over=before.said_over and done, **values)
                    )

    def said_of_schedule(self) -> dict[str, dict[str, Any]]:
        """What was said of things that were due, by fingerprint: starts_us, ends_us, words."""
        with self.store.reading() as connection:
            rows = connection.execute(
                sa.select(FOREIGN).where(FOREIGN.c.app == self.app, FOREIGN.c.fingerprint.endswith(OF_SCHEDULE))
            ).all()
        with decoding("foreign_alerts"):
            return {
                row.fingerprint: {
                    "starts_us": row.starts_us,
                    "ends_us": row.ends_us,
                    "words": json.loads(row.annotations)["summary"],
                }
                for row in rows
            }

    def report(self, run: str, channels: Iterable[str], body: Mapping[str, Any]) -> bool:
        """
        Write down that what a run made is to be sent by some channels; once a run, however often this is asked for.

        Args:
            run: Its id in the ledger.
            body: title, lines, severity, page, notebook.

        Returns:
            False where it was written down before.
        """
        name = f"{self.app}-report-{run}"
        here = sa.select(MESSAGES.c.id).where(MESSAGES.c.app == self.app, MESSAGES.c.id == name)
        with self.store.reading() as connection:
            if connection.execute(here).first():
                return False
        with self.store.committing() as connection:
            if connection.execute(here).first():
                return False
            now_us = self.store.stamp(connection)
            told = {
                "id": name,
                "app": self.app,
                "kind": REPORT,
                "group": NOBODY,
                "roles": [],
                "panel": "system",
                "made_us": now_us,
                "alerts": [],
                **body,
            }
            connection.execute(
                sa.insert(MESSAGES).values(app=self.app, id=name, made_us=now_us, body=json.dumps(told, sort_keys=True))
            )
            self._deliver(connection, name, NOBODY, dict.fromkeys(channels, now_us), now_us)
        return True


def _next(waiting: Iterable[ResultRow], now_us: int) -> ResultRow | None:
    """The first that is due and nobody's, of those with none of their group before them."""
    before: set[str] = set()
    for row in waiting:
        if row.about not in before and row.due_us <= now_us and row.claimed_until_us <= now_us:
            return row
        before |= {row.about} if row.about else set()
    return None


def _together(tellings: list[Notification]) -> list[list[Notification]]:
    """What is told in one message: all of one group and kind; and all that began and ended untold, whatever it was."""
    found: dict[tuple[str, int], list[Notification]] = {}
    for telling in tellings:
        group = NOBODY if telling.kind == MISSED_SUMMARY else telling.notice.group
        found.setdefault((group, _TOLD_WITH[telling.kind]), []).append(telling)
    return list(found.values())


def _told_of(notice: NotificationState, rules: Rules) -> dict[str, Any]:
    """What a message keeps of one alert."""
    rule = rules.rules.get(notice.rule)
    names = (
        "alert",
        "rule",
        "subject",
        "source",
        "pending_us",
        "fired_us",
        "over_us",
        "how",
        "value",
        "limit",
        "peak",
        "sentence",
        "again",
        "cause_words",
        "headline",
        "cause_rule",
        "action",
        "traders",
    )
    runbook = notice.runbook or (rule.runbooks.get(notice.subject) if rule else None)
    return {name: getattr(notice, name) for name in names} | {
        "severity": notice.level or notice.worst or "notify",
        "runbook": runbook,
    }
