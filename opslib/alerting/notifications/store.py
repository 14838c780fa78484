"""
Store notifications in the database: messages, deliveries, silences and acknowledgements.

The messages of an alert change are written in the transaction that reads the change, so each is written once even if a
process is killed. A delivery is claimed for a while, sent, and only then marked as sent. If the process dies in
between, it is sent again under the same id.
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

CLAIM_US = 60_000_000  # Longer than any delivery may take. A sender that has not reported by then is considered dead.
PENDING, SENT, EXPIRED = "pending", "sent", "expired"
NOBODY = ""
# Built once: the live dashboard reads them every few seconds, and building takes longer than executing.
_ACTS = sa.select(ACTS).where(ACTS.c.app == sa.bindparam("of")).order_by(ACTS.c.seq)
_ACKS, _SILENCES = _ACTS.where(ACTS.c.kind == "ack"), _ACTS.where(ACTS.c.kind.in_(("silence", "unsilence")))
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
# Kinds with the same number are combined in one message.
_COMBINED_WITH = {FIRING: 0, ESCALATED_SEVERITY: 0, REPEAT: 1, ESCALATED_ROLE: 2, RESOLVED: 3, MISSED_SUMMARY: 4}


class Delivery(NamedTuple):
    """
    The delivery of one message to one channel; times in microseconds since 1970.

    Attributes:
        message: Its id, the same for every attempt.
        about: The group it is about; deliveries of one group are sent in order.
        state: pending, sent or expired.
        since_us: Earliest time of sending; later than `made_us` if it waits for working hours.
        over_us: When it was sent or expired; None while it is pending.
        said: Why the last attempt failed; empty if none did.
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
    """The notifications, silences and acknowledgements of one app."""

    def __init__(self, store: Database, app: str):
        self.store, self.app = store, app

    # Actions of people.

    def silence(
        self, author: str, reason: str, span: timedelta, rule: str = "", subject: str = "", source: str = ""
    ) -> Silence:
        """Silence the matching alerts from now for a time span; committed before this returns."""
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
        """Expire a silence now; return False if there is no active silence of that id."""
        with self.store.committing() as connection:
            now_us = self.store.stamp(connection)
            if not any(s.id == name and s.until_us > now_us for s in self._silences(connection)):
                return False
            self._act(connection, "unsilence", name, author, "", {}, lambda _: None)
        return True

    def ack(self, name: str, author: str, note: str = "") -> None:
        """Acknowledge an alert or its group; it is not escalated to other roles after that."""
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
        """Return every silence, oldest first; one that was expired early ends at that time."""
        with self.store.reading() as connection:
            return self._silences(connection)

    def _silences(self, connection: sa.Connection) -> list[Silence]:
        found: dict[str, Silence] = {}
        for row in connection.execute(_SILENCES, {"of": self.app}):
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
        """Return the last acknowledgement by id of an alert or group: person, time, note."""
        with self.store.reading() as connection:
            rows = connection.execute(_ACKS, {"of": self.app}).all()
        return {row.id: (row.author, row.known_at_us, row.reason) for row in rows}

    # Planning.

    def open_states(self) -> list[NotificationState]:
        """Return the state of every alert for which a notification is or may become due."""
        with self.store.reading() as connection:
            return self._open(connection)

    def plan(
        self,
        contacts: Contacts,
        rules: Rules,
        diagnosed: Callable[[int], Callable[[NotificationState], Cause | None]] = lambda at_us: unknown_cause,
    ) -> list[str]:
        """
        Read the alert changes since the last call, and write the messages that are due now.

        Args:
            diagnosed: Returns the causes of alerts as of an instant; called only if there is something new to notify.

        Returns:
            The ids of the new messages.

        Raises:
            StoreError: Nothing was read or written.
        """
        with self.store.reading() as connection:
            anything, new = self._has_work(connection, contacts)
            now_us = self._now_us(connection)
        if not anything:
            return []
        cause_of = diagnosed(now_us) if new else unknown_cause  # It reads a lot, so it runs outside the transaction.
        with self.store.committing() as connection:
            now_us = self.store.stamp(connection)
            found = self._read_changes(connection, rules, now_us)
            notifications = planner.due_notifications(
                found.values(), self._silences(connection), self._acknowledged(connection), contacts, now_us, cause_of
            )
            made = [self._write(connection, several, contacts, rules, now_us) for several in _together(notifications)]
            for notification in notifications:
                if notification.kind in (RESOLVED, MISSED_SUMMARY):
                    notification.state.reset()
            self._keep(connection, found.values())
        return made

    def _has_work(self, connection: sa.Connection, contacts: Contacts) -> tuple[bool, bool]:
        """
        Return whether planning would change anything, and whether there is something new to notify.

        It is called often, so it takes no write lock.
        """
        newest = connection.execute(sa.select(sa.func.max(OUTBOX.c.seq)).where(OUTBOX.c.app == self.app)).scalar() or 0
        now_us = self._now_us(connection)
        if newest > self._planned(connection) or any(self._changed(connection, now_us)):
            return True, True  # The changes must be read before it is known what is due.
        found = [copy.deepcopy(n) for n in self._open(connection)]
        before = [n.as_json() for n in found]
        notifications = planner.due_notifications(
            found, self._silences(connection), self._acknowledged(connection), contacts, now_us
        )
        changed = [n.as_json() for n in sorted(found, key=lambda n: n.alert)] != sorted(
            before, key=lambda n: n["alert"]
        )
        return bool(notifications) or changed, any(t.kind in (FIRING, ESCALATED_SEVERITY) for t in notifications)

    def _now_us(self, connection: sa.Connection) -> int:
        """
        Return the current time for writers.

        It is never before the newest written time, even if the machine's clock was set back.
        """
        last = connection.execute(sa.select(FACTS.c.value).where(FACTS.c.key == "known_at_us")).scalar()
        with decoding("meta.known_at_us"):
            return self.store.not_before(int(last or 0))

    def _planned(self, connection: sa.Connection) -> int:
        with decoding("meta.planned"):
            return int(
                connection.execute(sa.select(FACTS.c.value).where(FACTS.c.key == f"planned:{self.app}")).scalar() or 0
            )

    def _acknowledged(self, connection: sa.Connection) -> dict[str, tuple[str, int]]:
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

    def _read_changes(self, connection: sa.Connection, rules: Rules, now_us: int) -> dict[str, NotificationState]:
        """Return every open state, updated with the changes since the last call."""
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
            state = self._state(connection, found, edge, rules)
            state.apply(edge)
            state.active_us = state.active_us or self._active_us(connection, edge.alert)
        for row in self._changed(connection, now_us):
            with decoding("foreign_alerts"):
                edge, owner, again = (
                    external_alerts.as_alert_change(row, now_us),
                    json.loads(row.labels).get("owner", ""),
                    json.loads(row.annotations).get("again", []),
                )
            state = self._state(connection, found, edge, rules)
            if edge.source == SCHEDULE:
                state.who, state.again = owner, again
            if edge.edge != "firing" and not state.levels and state.notified is None:
                # It began and ended since the last call.
                state.apply(edge._replace(edge="firing", kind="fired", at_us=row.starts_us))
            state.apply(edge)
            connection.execute(
                sa.update(FOREIGN)
                .where(FOREIGN.c.app == self.app, FOREIGN.c.fingerprint == row.fingerprint)
                .values(said_over=edge.edge != "firing")
            )
        for state in found.values():
            if state.how == "fell" and state.over_us is not None:
                last = self._last_transition(connection, state.alert)
                if last and last.kind in ("resolved", "ended") and last.at_us >= state.over_us:
                    state.over_us, state.how = last.at_us, last.kind
        if upto:
            self.store.put(connection, f"planned:{self.app}", str(upto))
        return found

    def _active_us(self, connection: sa.Connection, alert: str) -> int:
        """Return since when an alert is active at any severity, also one that needs no notification."""
        query = sa.select(sa.func.min(TRANSITIONS.c.pending_us)).where(
            TRANSITIONS.c.app == self.app, TRANSITIONS.c.alert == alert
        )
        return int(connection.execute(query).scalar_one())

    def _last_transition(self, connection: sa.Connection, alert: str) -> ResultRow | None:
        """Return the time and kind of an alert's last transition, also of one without notification; None if none."""
        query = (
            sa.select(TRANSITIONS.c.at_us, TRANSITIONS.c.kind)
            .where(TRANSITIONS.c.app == self.app, TRANSITIONS.c.alert == alert)
            .order_by(TRANSITIONS.c.seq.desc())
            .limit(1)
        )
        return connection.execute(query).first()

    def _state(
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
        """Return external alerts whose start or end was not processed yet."""
        query = sa.select(NOTICES.c.alert).where(NOTICES.c.app == self.app, NOTICES.c.open.is_(True))
        rows = connection.execute(
            sa.select(FOREIGN)
            .where(FOREIGN.c.app == self.app, FOREIGN.c.said_over.is_(False))
            .order_by(FOREIGN.c.fingerprint)
        ).all()
        known = set(connection.execute(query).scalars()) if rows else set()
        with decoding("foreign_alerts"):
            return [
                row
                for row in rows
                if row.ends_us <= now_us
                or external_alerts.external_alert_id(row.labels, row.fingerprint, row.starts_us) not in known
            ]

    def _write(
        self,
        connection: sa.Connection,
        notifications: list[Notification],
        contacts: Contacts,
        rules: Rules,
        now_us: int,
    ) -> str:
        """Write one message for several notifications, and its deliveries."""
        roles = tuple(dict.fromkeys(role for t in notifications for role in t.roles))
        severity = max((t.state.level or t.state.worst or "notify" for t in notifications), key=SEVERITIES.index)
        with decoding("meta.messages"):
            count = (
                int(
                    connection.execute(sa.select(FACTS.c.value).where(FACTS.c.key == f"messages:{self.app}")).scalar()
                    or 0
                )
                + 1
            )
        self.store.put(connection, f"messages:{self.app}", str(count))
        name, first = f"{self.app}-{count}", notifications[0]
        about = first.state.group if first.kind != MISSED_SUMMARY else NOBODY
        kind = ESCALATED_SEVERITY if any(t.kind == ESCALATED_SEVERITY for t in notifications) else first.kind
        alerts = [_alert_facts(t.state, rules) for t in notifications]
        body = {
            "id": name,
            "app": self.app,
            "kind": kind,
            "group": about,
            "severity": severity,
            "roles": roles,
            "panel": first.state.panel,
            "made_us": now_us,
            "alerts": alerts,
        }
        connection.execute(
            sa.insert(MESSAGES).values(app=self.app, id=name, made_us=now_us, body=json.dumps(body, sort_keys=True))
        )
        at, due = clock.instant(now_us), dict[str, int]()
        for role in (contacts.roles[r] for r in roles if r in contacts.roles):
            for channel in role.channels:
                when_us = now_us if severity in PRESSING else clock.micros(role.due(at))
                due[channel] = min(when_us, due.get(channel, when_us))
        here = sa.and_(DELIVERIES.c.app == self.app, DELIVERIES.c.about == about, DELIVERIES.c.state != EXPIRED)
        if first.kind == RESOLVED:  # The resolution goes to every channel that got the alert.
            earlier = connection.execute(sa.select(DELIVERIES.c.channel).where(here).distinct()).scalars()
            due = {channel: now_us for channel in earlier if channel in contacts.channels} | due
        # Deliveries that wait for working hours are sent before an urgent one of the same group.
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
        """Write the deliveries of a message, each with its earliest time."""
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
        for state in found:
            here = sa.and_(NOTICES.c.app == self.app, NOTICES.c.alert == state.alert)
            values = {"state": json.dumps(state.as_json(), sort_keys=True), "open": state.open}
            if connection.execute(sa.update(NOTICES).where(here).values(**values)).rowcount == 0:
                connection.execute(sa.insert(NOTICES).values(app=self.app, alert=state.alert, **values))

    # Deliveries.

    def message(self, name: str) -> dict[str, Any]:
        """Return the stored body of a message."""
        with self.store.reading() as connection:
            body: dict[str, Any] = json.loads(
                connection.execute(
                    sa.select(MESSAGES.c.body).where(MESSAGES.c.app == self.app, MESSAGES.c.id == name)
                ).scalar_one()
            )
        return body

    def claim(self, channel: str) -> Delivery | None:
        """
        Claim the next due delivery of a channel for a minute; None if there is none.

        Deliveries of one group are sent in order.
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
        """Mark a delivery as sent; call this only after the receiver confirmed it."""
        self._ends(delivery, state=SENT, said="")

    def expired(self, delivery: Delivery) -> None:
        """Mark a delivery as failed for good."""
        self._ends(delivery, state=EXPIRED, said=delivery.said or "no attempt was made")

    def _ends(self, delivery: Delivery, **values: Any) -> None:
        with self.store.committing() as connection:
            now_us = self.store.stamp(connection)
            connection.execute(
                sa.update(DELIVERIES)
                .where(DELIVERIES.c.app == self.app, DELIVERIES.c.seq == delivery.seq, DELIVERIES.c.state == PENDING)
                .values(over_us=now_us, attempts=delivery.attempts + 1, **values)
            )

    def failed(self, delivery: Delivery, said: str, again_after_s: float) -> None:
        """Record a failed attempt and when to retry."""
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

    def expire_unreachable(self, channels: Iterable[str]) -> list[str]:
        """Expire deliveries to channels that are no longer configured; return which messages and channels."""
        gone = sa.and_(
            DELIVERIES.c.app == self.app, DELIVERIES.c.state == PENDING, DELIVERIES.c.channel.not_in(list(channels))
        )
        with self.store.reading() as connection:
            found = [
                f"{row.message} to {row.channel}"
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
                        said="the channel is no longer in the settings",
                    )
                )
        return found

    def silenced_until(self, body: Mapping[str, Any]) -> int | None:
        """Return until when silences cover all alerts of a message; None if they do not."""
        with self.store.reading() as connection:
            silences, now_us = self._silences(connection), self._now_us(connection)
        alerts = [NotificationState(a["alert"], a["rule"], a["subject"], a["source"], "", "") for a in body["alerts"]]
        untils = [max((s.until_us for s in silences if s.matches(alert, now_us)), default=None) for alert in alerts]
        known = [until for until in untils if until is not None]
        return min(known) if known and len(known) == len(untils) else None

    def deliveries(self, most: int = 200) -> list[tuple[Delivery, dict[str, Any]]]:
        """Return the newest deliveries, newest first, each with the body of its message."""
        query = (
            sa.select(*_DELIVERY, MESSAGES.c.body)
            .join(MESSAGES, sa.and_(MESSAGES.c.app == DELIVERIES.c.app, MESSAGES.c.id == DELIVERIES.c.message))
            .where(DELIVERIES.c.app == self.app)
            .order_by(DELIVERIES.c.seq.desc())
            .limit(most)
        )
        with self.store.reading() as connection:
            return [(Delivery(*row[:-1]), json.loads(row[-1])) for row in connection.execute(query)]

    # Alerts of external monitoring systems.

    def store_external_alerts(self, alerts: Iterable[Mapping[str, Any]]) -> None:
        """
        Store the alerts of an external monitoring system.

        Args:
            alerts: fingerprint, labels, annotations, starts_us, ends_us of each.

        Raises:
            StoreError: Nothing was stored.
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
                # Such an alert needs no notification.
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

    def schedule_alerts(self) -> dict[str, dict[str, Any]]:
        """Return the alerts about due jobs, by fingerprint: starts_us, ends_us, words."""
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
        Write the message and deliveries for a run's report; only once per run.

        Args:
            run: Its id in the ledger.
            body: title, lines, severity, page, notebook.

        Returns:
            False if it was written before.
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
            content = {
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
                sa.insert(MESSAGES).values(
                    app=self.app, id=name, made_us=now_us, body=json.dumps(content, sort_keys=True)
                )
            )
            self._deliver(connection, name, NOBODY, dict.fromkeys(channels, now_us), now_us)
        return True


def _next(waiting: Iterable[ResultRow], now_us: int) -> ResultRow | None:
    """Return the first due and unclaimed delivery that has no earlier one of its group before it."""
    before: set[str] = set()
    for row in waiting:
        if row.about not in before and row.due_us <= now_us and row.claimed_until_us <= now_us:
            return row
        before |= {row.about} if row.about else set()
    return None


def _together(notifications: list[Notification]) -> list[list[Notification]]:
    """Combine notifications into messages: one per group and kind, one for all missed alerts."""
    found: dict[tuple[str, int], list[Notification]] = {}
    for notification in notifications:
        group = NOBODY if notification.kind == MISSED_SUMMARY else notification.state.group
        found.setdefault((group, _COMBINED_WITH[notification.kind]), []).append(notification)
    return list(found.values())


def _alert_facts(state: NotificationState, rules: Rules) -> dict[str, Any]:
    """Return the part of a message body that describes one alert."""
    rule = rules.rules.get(state.rule)
    names = (
        "alert",
        "rule",
        "subject",
        "source",
        "active_us",
        "pending_us",
        "fired_us",
        "over_us",
        "how",
        "value",
        "limit",
        "peak",
        "sentence",
        "again",
        "acked_by",
        "cause",
        "cause_words",
        "headline",
        "cause_rule",
        "action",
        "traders",
        "likely",
    )
    runbook = state.runbook or (rule.runbooks.get(state.subject) if rule else None)
    return {name: getattr(state, name) for name in names} | {
        "severity": state.level or state.worst or "notify",
        "level_us": state.reached.get(state.level or "", state.pending_us),
        "runbook": runbook,
    }
