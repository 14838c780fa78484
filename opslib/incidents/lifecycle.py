"""
Manage incidents: open, acknowledge, mitigate, resolve, merge, hand over, and follow their alerts.

An entry and its place in the hash chain are written in one transaction, so simultaneous writers are put in order.
Alert changes, acknowledgements, deliveries and markers are copied from their tables, each once.
"""

import json
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from opslib.alerting.alerts import Transition
from opslib.alerting.notifications.planner import KIND_NAMES, NotificationState
from opslib.alerting.notifications.store import EXPIRED, NotificationStore
from opslib.alerting.notifications.store import SENT as DELIVERED
from opslib.alerting.store import COLUMNS
from opslib.foundation import clock, formatting, time_parsing
from opslib.foundation.config.rules import Rules
from opslib.foundation.config.settings import Settings
from opslib.foundation.config.workspace import Workspace
from opslib.foundation.errors import IncidentError
from opslib.foundation.formatting import NEW_YORK
from opslib.foundation.storage.database import Database
from opslib.foundation.storage.schema import ACTS, DELIVERIES, ENTRIES, INCIDENTS, MARKS, MESSAGES, NOTICES, TRANSITIONS
from opslib.incidents import evidence
from opslib.incidents.evidence import Entry
from opslib.incidents.incident import CLOSED, REASONS, Incident, from_entries
from opslib.incidents.store import EntryStore
from opslib.telemetry.markers import Markers

FOLDER = "incidents"
# Markers up to this long before an incident are on its timeline, because most incidents follow a change.
LEAD = timedelta(minutes=30)
# Words for the kinds of alert transitions on a timeline.
_CHANGES = {
    "pending": "alert pending ({})",
    "dropped": "pending alert cleared ({})",
    "fired": "alert fired ({})",
    "rose": "severity raised to {}",
    "fell": "severity no longer {}",
    "unknown": "alert without data ({})",
    "known": "alert has data again ({})",
    "released": "alert no longer inhibited ({})",
    "resolved": "alert resolved (severity was {})",
    "ended": "alert ended ({})",
}
# Built once: the live dashboard reads them every few seconds, and building takes longer than executing.
_JOINED = (
    sa.select(ENTRIES.c.key, ENTRIES.c.incident, ENTRIES.c.line)
    .join(INCIDENTS, sa.and_(INCIDENTS.c.app == ENTRIES.c.app, INCIDENTS.c.id == ENTRIES.c.incident))
    .where(ENTRIES.c.app == sa.bindparam("of"), ENTRIES.c.key.like("joined:%"))
    .order_by(INCIDENTS.c.into != "", INCIDENTS.c.opened_us.desc())
)


class Incidents:
    """The incidents of one app."""

    def __init__(self, store: Database, settings: Settings, rules: Rules):
        self.store, self.settings, self.rules, self.app = store, settings, rules, settings.app
        self.records = EntryStore(store, settings)
        self._seen: tuple[int | tuple[str, str] | None, ...] = ()

    # Reading.

    def all(self) -> list[Incident]:
        """Return every incident, oldest first."""
        return [self.read(name) for name in self._names()]

    def recent(self, closed: int) -> list[Incident]:
        """Return the incidents that are not closed, and the newest closed ones up to a number; newest first."""
        found, left = list[Incident](), closed
        query = sa.select(INCIDENTS.c.id, INCIDENTS.c.open).where(INCIDENTS.c.app == self.app)
        with self.store.reading() as connection:
            rows = connection.execute(query.order_by(INCIDENTS.c.opened_us.desc(), INCIDENTS.c.id.desc())).all()
        for row in rows:
            if row.open or left > 0:
                found.append(self.read(row.id))
                left -= not row.open
        return found

    def read(self, name: str, known_at: datetime | None = None) -> Incident:
        """
        Read one incident from its record.

        Args:
            known_at: Read only the entries written by then.

        Raises:
            IncidentError: There is no such incident, or there was none then.
        """
        found = self.records.read(name, known_at) if name in self._names() else None
        if found is None:
            raise IncidentError(
                f"there is no incident {name!r}.{formatting.nearest(name, self._names())} ops incident list shows all "
                f"incidents."
            )
        return found

    def find(self, name: str = "") -> Incident:
        """
        Find an incident by its id or the id of one of its alerts; without a name, the only open one.

        Raises:
            IncidentError: There is no such incident; or, without a name, not exactly one is open.
        """
        if not name:
            open_incidents = [i for i in self.all() if i.status not in CLOSED]
            if len(open_incidents) != 1:
                known = f"Open are: {', '.join(i.id for i in open_incidents)}." if open_incidents else "None is open."
                raise IncidentError(f"no incident is named. {known} Name one; ops incident list shows all incidents.")
            return open_incidents[0]
        by_alert = self.of_alerts().get(name)
        return self.read(by_alert or name)

    def of_alerts(self, known_at: datetime | None = None) -> dict[str, str]:
        """
        Return the incident of each alert, as known at a time (None: now).

        For a merged incident it is the one it was merged into.
        """
        with self.store.reading() as connection:
            rows = connection.execute(_JOINED, {"of": self.app}).all()
        known_us = 2**62 if known_at is None else clock.micros(known_at)
        return {
            row.key.removeprefix("joined:"): row.incident
            for row in reversed(rows)
            if known_at is None or evidence.read(row.line).known_at_us <= known_us
        }

    def _names(self) -> list[str]:
        with self.store.reading() as connection:
            return list(
                connection.execute(
                    sa.select(INCIDENTS.c.id)
                    .where(INCIDENTS.c.app == self.app)
                    .order_by(INCIDENTS.c.opened_us, INCIDENTS.c.id)
                ).scalars()
            )

    # Writing.

    def append(
        self, name: str, kind: str, body: Mapping[str, Any], *, by: str = "", key: str = "", at: datetime | None = None
    ) -> Entry | None:
        """
        Write an entry; committed before this returns.

        Args:
            by: The person who recorded it; empty: ops itself.
            key: A key that at most one entry of the incident has.
            at: When it happened, if not now.

        Returns:
            The entry; None if there is one with that key already, which is kept.

        Raises:
            IncidentError: There is no such incident.
            StoreError: Nothing was written.
        """
        with self.store.committing() as connection:
            if (
                connection.execute(
                    sa.select(INCIDENTS.c.id).where(INCIDENTS.c.app == self.app, INCIDENTS.c.id == name)
                ).scalar()
                is None
            ):
                raise IncidentError(f"there is no incident {name!r}. ops incident list shows all incidents.")
            found = self.records.put(connection, name, kind, body, by, key, clock.micros(at) if at else None)
        if found is not None:
            self.copy(name)
        return found

    def picture(self, body: bytes) -> str:
        """Store a picture; return its SHA-256, by which entries refer to it."""
        return self.records.picture(body)

    def folder(self, name: str) -> Path:
        """Return the incident's folder."""
        return self.records.folder(FOLDER, name)

    def copy(self, name: str) -> None:
        """
        Copy a record into its folder; see `EntryStore.copy`.

        Raises:
            IncidentError: The folder cannot be written; the record in the database is not affected.
        """
        self.records.copy(FOLDER, name)

    # The life of an incident.

    def open(
        self,
        title: str,
        *,
        by: str,
        alert: Mapping[str, Any] | None = None,
        runbook: str = "incident",
        subject: str = "app",
        severity: str = "notify",
    ) -> Incident:
        """
        Open an incident by hand or for an alert.

        An alert is given as in ``ops status``. If it belongs to an incident already, that one is returned.

        Raises:
            IncidentError: It has no title.
        """
        if alert is not None:
            with self.store.committing() as connection:
                name = self._open_for_alert(connection, alert, by)
            self.follow_alerts()
            return self.read(name)
        if not title.strip():
            raise IncidentError("an incident needs a title that describes the problem in a few words.")
        body = {
            "title": formatting.single_line(title.strip()),
            "subject": subject,
            "runbook": runbook,
            "severity": severity,
            "how": "hand",
            "rules_hash": self.rules.hash,
            "words": f"opened by hand: {title.strip()}",
        }
        with self.store.committing() as connection:
            name = self._open(connection, body, by, None)
        self.copy(name)
        return self.read(name)

    def _open_for_alert(self, connection: sa.Connection, alert: Mapping[str, Any], by: str) -> str:
        """Return the incident of an alert; open one if there is none."""
        stored = connection.execute(
            sa.select(NOTICES.c.state).where(NOTICES.c.app == self.app, NOTICES.c.alert == alert["id"])
        ).scalar()
        state = (
            NotificationState.of_json(stored)
            if stored
            else NotificationState(alert["id"], alert["rule"], alert["subject"], alert["source"], "", "")
        )
        about = state.group or alert.get("inhibited_by") or alert["id"]
        # The alert from another source may be in an incident already, before notifications of this one are planned.
        same = [
            n.alert
            for n in self._notified_alerts(connection)
            if (n.rule, n.subject) == (alert["rule"], alert["subject"]) and n.levels
        ]
        name = next(
            (held for known in (alert["id"], about, *same) if (held := self._incident_of(connection, known))), None
        ) or self._incident_of_group(connection, about)
        if name is None:
            since = clock.micros(time_parsing.parse(alert["since"]))
            name = self._open(connection, self._opening(alert, about), by, since if not by else None, about)
        self._add_alert(connection, name, alert["id"])
        return name

    def _incident_of(self, connection: sa.Connection, alert: str) -> str | None:
        """Return the incident of an alert; for a merged one, the incident it was merged into."""
        query = sa.select(ENTRIES.c.incident).join(
            INCIDENTS, sa.and_(INCIDENTS.c.app == ENTRIES.c.app, INCIDENTS.c.id == ENTRIES.c.incident)
        )
        return connection.execute(
            query.where(ENTRIES.c.app == self.app, ENTRIES.c.key == f"joined:{alert}")
            .order_by(INCIDENTS.c.into != "", INCIDENTS.c.opened_us.desc())
            .limit(1)
        ).scalar()

    def _opening(self, alert: Mapping[str, Any], about: str) -> dict[str, Any]:
        rule = self.rules.rules.get(alert["rule"])
        return {
            "title": alert["sentence"],
            "alert": alert["id"],
            "rule": alert["rule"],
            "subject": alert["subject"],
            "source": alert["source"],
            "severity": alert["severity"],
            "about": about,
            "how": "alert",
            "rules_hash": self.rules.hash,
            "runbook": alert.get("runbook") or (rule.runbooks.get(alert["subject"]) if rule else None) or "incident",
            "limit": alert.get("limit"),
            "window_s": rule.window.total_seconds() if rule else None,
            "words": f"opened with severity {alert['severity']}: {alert['sentence']}",
        }

    def _incident_of_group(self, connection: sa.Connection, about: str) -> str | None:
        """Return the incident of a group; for a merged one, the incident it was merged into."""
        found = connection.execute(
            sa.select(INCIDENTS.c.id, INCIDENTS.c.into).where(INCIDENTS.c.app == self.app, INCIDENTS.c.about == about)
        ).one_or_none()
        while found is not None and found.into:
            found = connection.execute(
                sa.select(INCIDENTS.c.id, INCIDENTS.c.into).where(
                    INCIDENTS.c.app == self.app, INCIDENTS.c.id == found.into
                )
            ).one_or_none()
        return found.id if found else None

    def _open(
        self, connection: sa.Connection, body: Mapping[str, Any], by: str, at_us: int | None, about: str | None = None
    ) -> str:
        known_us = self.store.stamp(connection)
        when_us = known_us if at_us is None else at_us
        day = f"{clock.instant(when_us).astimezone(NEW_YORK):%Y-%m-%d}"
        names = (
            connection.execute(
                sa.select(INCIDENTS.c.id).where(INCIDENTS.c.app == self.app, INCIDENTS.c.id.like(f"{day}-%"))
            )
            .scalars()
            .all()
        )
        name = f"{day}-{max((int(n.rpartition('-')[2]) for n in names), default=0) + 1}"
        connection.execute(
            sa.insert(INCIDENTS).values(
                app=self.app, id=name, opened_us=known_us, about=about or name, open=True, into=""
            )
        )
        self.records.put(
            connection, name, "opened", dict(body) | {"app": self.app, "about": about or name}, by, "opened", at_us
        )
        return name

    def follow_alerts(self) -> list[str]:
        """
        Copy new alert changes, acknowledgements, deliveries and markers into the records of open incidents.

        An incident is opened for each notified alert that has none. Each event is copied once even if a process is
        killed, because its key is checked first.

        Returns:
            The incidents whose records grew.
        """
        with self.store.reading() as connection:
            now = self._fingerprint(connection)
        # If the database is read-only, the records are shown as they are.
        if now == self._seen or self.store.file.is_read_only:
            return []
        grown: set[str] = set()
        with self.store.committing() as connection:
            for state in self._notified_alerts(connection):
                grown |= self._join(connection, state)
            for name in (
                connection.execute(
                    sa.select(INCIDENTS.c.id)
                    .where(INCIDENTS.c.app == self.app, INCIDENTS.c.open.is_(True))
                    .order_by(INCIDENTS.c.opened_us)
                )
                .scalars()
                .all()
            ):
                if self._follow(connection, name):
                    grown.add(name)
        for name in sorted(grown):
            self.copy(name)
        self._seen = now
        return sorted(grown)

    def _fingerprint(self, connection: sa.Connection) -> tuple[int | tuple[str, str] | None, ...]:
        """Return what changes if there is something to copy; called often, so it takes no write lock."""
        newest = tuple(
            connection.execute(sa.select(sa.func.max(t.c.seq)).where(t.c.app == self.app)).scalar()
            for t in (TRANSITIONS, ACTS, MARKS)
        )
        ended_deliveries = connection.execute(
            sa.select(sa.func.count()).where(DELIVERIES.c.app == self.app, DELIVERIES.c.over_us.is_not(None))
        ).scalar()
        known = connection.execute(
            sa.select(sa.func.count(), sa.func.sum(sa.cast(INCIDENTS.c.open, sa.Integer))).where(
                INCIDENTS.c.app == self.app
            )
        ).one()
        return (*newest, ended_deliveries, *known, *((n.alert, n.group) for n in self._notified_alerts(connection)))

    def _notified_alerts(self, connection: sa.Connection) -> list[NotificationState]:
        """Return the notified alerts with their groups."""
        rows = connection.execute(
            sa.select(NOTICES.c.state)
            .where(NOTICES.c.app == self.app, NOTICES.c.open.is_(True))
            .order_by(NOTICES.c.alert)
        ).scalars()
        found = [NotificationState.of_json(state) for state in rows]
        return sorted(
            (n for n in found if n.group and n.notified and not n.replaced), key=lambda n: (n.fired_us or 0, n.alert)
        )

    def _join(self, connection: sa.Connection, state: NotificationState) -> set[str]:
        if self._incident_of(connection, state.alert):
            return set()
        name = self._incident_of_group(connection, state.group)
        if name is None:
            row = {
                "id": state.alert,
                "rule": state.rule,
                "subject": state.subject,
                "source": state.source,
                "runbook": state.runbook,
                **self._values_when_fired(connection, state),
            }
            name = self._open(connection, self._opening(row, state.group), "", state.fired_us, state.group)
        self._add_alert(connection, name, state.alert)
        return {name}

    def _values_when_fired(self, connection: sa.Connection, state: NotificationState) -> dict[str, Any]:
        """
        Return severity, sentence and limit of an alert when it fired; for an external alert, its present ones.

        An incident is opened with them.
        """
        fired = sa.select(TRANSITIONS.c.severity, TRANSITIONS.c.sentence, TRANSITIONS.c.limit).where(
            TRANSITIONS.c.app == self.app,
            TRANSITIONS.c.alert == state.alert,
            TRANSITIONS.c.at_us == state.fired_us,
            TRANSITIONS.c.kind.in_(("fired", "rose", "released")),
        )
        row = connection.execute(fired.order_by(TRANSITIONS.c.seq.desc()).limit(1)).one_or_none()
        return (
            dict(row._mapping)
            if row
            else {
                "severity": state.level or state.worst or "notify",
                "sentence": state.sentence,
                "limit": state.limit,
            }
        )

    def _add_alert(self, connection: sa.Connection, name: str, alert: str) -> None:
        self.records.put(
            connection,
            name,
            "joined",
            {"alert": alert, "words": f"alert {alert} added"},
            "",
            f"joined:{alert}",
            None,
        )

    def _follow(self, connection: sa.Connection, name: str) -> bool:
        """
        Copy the alert changes, acknowledgements, deliveries and markers of one incident into its record.

        Returns:
            Whether the record grew.
        """
        entries = self.records.entries(connection, name)
        kept, found = {e.key for e in entries}, from_entries(name, entries)
        joined = self._join_inhibited(connection, name, [e.body["alert"] for e in entries if e.kind == "joined"])
        since_us = entries[0].at_us - clock.span_us(LEAD)
        until_us = next((e.at_us for e in reversed(entries) if e.kind == "resolved"), 2**62)
        self._copy_alerts(connection, name, joined, kept)
        self._copy_acknowledgements(connection, name, [*joined, found.about], kept)
        self._copy_deliveries(connection, name, found.about, since_us, kept)
        self._copy_markers(connection, name, since_us, until_us, kept)
        now = self.records.entries(connection, name)
        found = from_entries(name, now)
        if found.status in CLOSED and not found.firing:
            connection.execute(
                sa.update(INCIDENTS).where(INCIDENTS.c.app == self.app, INCIDENTS.c.id == name).values(open=False)
            )
        return len(now) > len(entries)

    def _join_inhibited(self, connection: sa.Connection, name: str, joined: list[str]) -> list[str]:
        """Add the alerts that the joined alerts inhibit to the incident, and return all of its alerts."""
        joined = list(joined)
        for inhibitor in joined:  # The list grows during the loop, because an inhibited alert can inhibit another.
            inhibited = (
                sa.select(TRANSITIONS.c.alert)
                .where(TRANSITIONS.c.app == self.app, TRANSITIONS.c.inhibited_by == inhibitor)
                .distinct()
                .order_by(TRANSITIONS.c.alert)
            )
            for alert in connection.execute(inhibited).scalars().all():
                if alert not in joined and self._incident_of(connection, alert) is None:
                    self._add_alert(connection, name, alert)
                    joined.append(alert)
        return joined

    def _copy_alerts(self, connection: sa.Connection, name: str, joined: list[str], kept: set[str]) -> None:
        query = (
            sa.select(TRANSITIONS.c.seq, *(TRANSITIONS.c[c] for c in COLUMNS))
            .where(TRANSITIONS.c.app == self.app, TRANSITIONS.c.alert.in_(joined))
            .order_by(TRANSITIONS.c.seq)
        )
        for row in connection.execute(query).all():
            if (key := f"alert:{row[0]}") not in kept:
                transition = Transition(*row[1:])
                self.records.put(connection, name, "alert", self._alert_body(transition), "", key, transition.at_us)

    def _copy_acknowledgements(self, connection: sa.Connection, name: str, about: list[str], kept: set[str]) -> None:
        query = (
            sa.select(ACTS)
            .where(ACTS.c.app == self.app, ACTS.c.kind == "ack", ACTS.c.id.in_(about))
            .order_by(ACTS.c.seq)
        )
        for act in connection.execute(query).all():
            if (key := f"ack:{act.seq}") not in kept:
                words = f"acknowledged{': ' + act.reason if act.reason else ''}"
                body = {"alert": act.id, "note": act.reason, "words": words}
                self.records.put(connection, name, "acknowledged", body, act.author, key, act.known_at_us)

    def _copy_deliveries(self, connection: sa.Connection, name: str, about: str, since_us: int, kept: set[str]) -> None:
        query = sa.select(DELIVERIES, MESSAGES.c.body).join(
            MESSAGES, sa.and_(MESSAGES.c.app == DELIVERIES.c.app, MESSAGES.c.id == DELIVERIES.c.message)
        )
        query = query.where(
            DELIVERIES.c.app == self.app,
            DELIVERIES.c.about == about,
            DELIVERIES.c.about != "",
            DELIVERIES.c.state.in_((DELIVERED, EXPIRED)),
            DELIVERIES.c.made_us >= since_us,
        ).order_by(DELIVERIES.c.seq)
        for row in connection.execute(query).all():
            if (key := f"told:{row.seq}") not in kept:
                message = json.loads(row.body)
                how = "delivered" if row.state == DELIVERED else "could not be delivered"
                body = {
                    "message": row.message,
                    "channel": row.channel,
                    "state": row.state,
                    "kind": message["kind"],
                    "roles": message["roles"],
                    "words": f"notification ({KIND_NAMES.get(message['kind'], message['kind'])}, "
                    f"{message['severity']}) for {', '.join(message['roles']) or 'no role'} {how} to {row.channel}",
                }
                self.records.put(connection, name, "told", body, "", key, row.over_us)

    def _copy_markers(self, connection: sa.Connection, name: str, since_us: int, until_us: int, kept: set[str]) -> None:
        for seq, mark in Markers(self.store, self.settings).within(connection, since_us, until_us):
            if (key := f"mark:{seq}") not in kept:
                body = {"mark": mark.kind, "words": f"marker ({mark.kind}): {mark.words}"}
                self.records.put(connection, name, "mark", body, mark.author, key, mark.ts_us)

    def _alert_body(self, t: Transition) -> dict[str, Any]:
        def at(us: int) -> str:
            return formatting.iso(clock.instant(us))

        rule = self.rules.rules.get(t.rule)
        return {
            "alert": t.alert,
            "rule": t.rule,
            "subject": t.subject,
            "source": t.source,
            "kind": t.kind,
            "severity": t.severity,
            "value": t.value,
            "limit": t.limit,
            "peak": t.peak,
            "pending_at": at(t.pending_us),
            "window_s": rule.window.total_seconds() if rule else None,
            "sentence": t.sentence,
            "inhibited_by": t.inhibited_by,
            "rules_hash": t.rules_hash,
            "words": f"{_CHANGES[t.kind].format(t.severity)}: {t.sentence}",
        }

    def _act(
        self,
        name: str,
        kind: str,
        body: Mapping[str, Any],
        by: str,
        not_when: tuple[str, ...] = CLOSED,
        at: datetime | None = None,
    ) -> Incident:
        """Write an action of a person, unless the incident is in one of the given states."""
        if not by.strip():
            raise IncidentError("a name is required: the person who records this.")
        with self.store.committing() as connection:
            entries = self.records.entries(connection, name)
            found = from_entries(name, entries)
            if found.status in not_when:
                raise IncidentError(
                    f"incident {name} is {found.status}{' into ' + found.into if found.into else ''}; it cannot be "
                    f"{'handed over' if kind == 'handover' else kind} now. Run ops incident reopen {name} first."
                )
            self.records.put(connection, name, kind, body, by, "", clock.micros(at) if at else None)
            if kind == "reopened":
                connection.execute(
                    sa.update(INCIDENTS)
                    .where(INCIDENTS.c.app == self.app, INCIDENTS.c.id == name)
                    .values(open=True, into="")
                )
        self.follow_alerts()
        self.copy(name)
        return self.read(name)

    def note(self, name: str, words: str, by: str, at: datetime | None = None) -> Incident:
        """Add a note; also possible after the incident is closed."""
        if not words.strip():
            raise IncidentError("the note is empty; a text was expected.")
        return self._act(name, "note", {"words": words.strip()}, by, (), at)

    def acknowledge(self, name: str, by: str, note: str = "") -> None:
        """
        Acknowledge an incident with all its alerts: no further role is notified.

        Raises:
            IncidentError: There is no such incident, or no name.
        """
        if not (by := formatting.single_line(by.strip(), 60)):
            raise IncidentError("an acknowledgement needs your name.")
        NotificationStore(self.store, self.app).ack(self.read(name).about, by, note)
        self.follow_alerts()

    def hand_over(self, name: str, to: str, by: str) -> Incident:
        """Hand the incident over to another owner."""
        if not to.strip():
            raise IncidentError("a name is required: the new owner.")
        return self._act(
            name,
            "handover",
            {"to": formatting.single_line(to.strip(), 60), "words": f"handed over to {to.strip()}"},
            by,
        )

    def mitigate(self, name: str, words: str, by: str, at: datetime | None = None) -> Incident:
        """Record that traders are no longer affected, although the incident is not resolved."""
        if not words.strip():
            raise IncidentError("a note is required: what mitigated the incident.")
        return self._act(name, "mitigated", {"words": f"mitigated: {words.strip()}"}, by, at=at)

    def resolve(self, name: str, words: str, by: str, at: datetime | None = None) -> Incident:
        """
        Record that the incident is resolved.

        Raises:
            IncidentError: One of its alerts still fires, and there is no note that says why it is resolved anyway.
        """
        self.follow_alerts()
        found = self.read(name)
        if found.firing and not words.strip():
            raise IncidentError(
                f"{', '.join(found.firing)} still fires. Wait until it is resolved, or give a note that says why the "
                f"incident is resolved anyway."
            )
        last = found.last_entry
        body = {
            "note": words.strip(),
            "still_firing": found.firing,
            "head": {"entry": last.id, "digest": last.digest},
            "words": f"resolved{': ' + words.strip() if words.strip() else ''}; previous entry {last.id}, SHA-256 "
            f"{last.digest}",
        }
        return self._act(name, "resolved", body, by, at=at)

    def dismiss(self, name: str, reason: str, words: str, by: str) -> Incident:
        """Dismiss the incident as a false alarm or a duplicate."""
        if reason not in REASONS:
            raise IncidentError(f"the reason to dismiss an incident must be {' or '.join(REASONS)}; found {reason!r}.")
        return self._act(
            name,
            "dismissed",
            {"reason": reason, "words": f"dismissed, {reason}{': ' + words.strip() if words.strip() else ''}"},
            by,
        )

    def reopen(self, name: str, words: str, by: str) -> Incident:
        """Reopen a closed or mitigated incident."""
        found = self.read(name)
        if found.status not in (*CLOSED, "mitigated"):
            raise IncidentError(
                f"incident {name} is {found.status}; only a closed or mitigated incident can be reopened."
            )
        return self._act(
            name, "reopened", {"words": f"reopened{': ' + words.strip() if words.strip() else ''}"}, by, ()
        )

    def merge(self, name: str, into: str, by: str) -> Incident:
        """Merge the incident into another one: later events are recorded there, earlier ones stay here."""
        other = self.read(into)
        if into == name or other.status in CLOSED:
            raise IncidentError(
                f"{name} cannot be merged into {into}: "
                f"{'it is the same incident' if into == name else f'that incident is {other.status}'}."
            )
        found = self._act(name, "merged", {"into": into, "words": f"merged into {into}"}, by)
        joined = [e.body["alert"] for e in found.of_kind("joined")]
        with self.store.committing() as connection:
            self.records.put(
                connection,
                into,
                "note",
                {"words": f"incident {name} merged into this one: {found.title}", "merged": name},
                by,
                f"merged:{name}",
                None,
            )
            for alert in joined:
                self._add_alert(connection, into, alert)
            connection.execute(
                sa.update(INCIDENTS)
                .where(INCIDENTS.c.app == self.app, INCIDENTS.c.id == name)
                .values(open=False, into=into)
            )
        self.follow_alerts()
        self.copy(into)
        return self.read(name)


def of(workspace: Workspace) -> Incidents:
    """Return the incidents of a workspace."""
    return Incidents(workspace.store, workspace.settings, workspace.rules)
