"""
Keep the records of incidents in the database, and copy them into their folders.

An entry is written in one transaction with the place that it takes in the chain, so two people who write at once follow
each other. What alerts, acknowledgements, deliveries and markers did is taken in from where it is kept already, each
once.
"""

import json
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from opslib.alerting.alerts import Transition
from opslib.alerting.notifications.planner import NotificationState
from opslib.alerting.notifications.store import EXPIRED
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

SHELF = "incidents"
# Markers of so long before an incident belong on its timeline: most have a change before them.
LEAD = timedelta(minutes=30)


class Incidents:
    """The incidents of one app."""

    def __init__(self, store: Database, settings: Settings, rules: Rules):
        self.store, self.settings, self.rules, self.app = store, settings, rules, settings.app
        self.records = EntryStore(store, settings)
        self._seen: tuple[int | tuple[str, str] | None, ...] = ()

    # Reading.

    def all(self) -> list[Incident]:
        """Every incident, oldest first."""
        return [self.read(name) for name in self._names()]

    def read(self, name: str, known_at: datetime | None = None) -> Incident:
        """
        One incident, by its record.

        Args:
            known_at: Only what was written down by then.

        Raises:
            IncidentError: There is none of that name, or was none then.
        """
        found = self.records.read(name, known_at) if name in self._names() else None
        if found is None:
            raise IncidentError(
                f"there is no incident {name!r}.{formatting.nearest(name, self._names())} ops incident list has "
                f"those there are."
            )
        return found

    def find(self, name: str = "") -> Incident:
        """
        The incident that is meant: by its id, by the id of one of its alerts, or, where nothing is named, the only one
        that is open.

        Raises:
            IncidentError: None is meant, or more than one could be.
        """
        if not name:
            standing = [i for i in self.all() if i.status not in CLOSED]
            if len(standing) != 1:
                known = f"Open are: {', '.join(i.id for i in standing)}." if standing else "None is open."
                raise IncidentError(f"which incident is meant? {known} Name one, as ops incident list has it.")
            return standing[0]
        by_alert = self.of_alerts().get(name)
        return self.read(by_alert or name)

    def of_alerts(self, known_at: datetime | None = None) -> dict[str, str]:
        """
        Which incident is each alert in, as known at a moment (None: now)?

        Of one that was merged, the one that goes on.
        """
        query = sa.select(ENTRIES.c.key, ENTRIES.c.incident, ENTRIES.c.line).join(
            INCIDENTS, sa.and_(INCIDENTS.c.app == ENTRIES.c.app, INCIDENTS.c.id == ENTRIES.c.incident)
        )
        query = query.where(ENTRIES.c.app == self.app, ENTRIES.c.key.like("joined:%")).order_by(
            INCIDENTS.c.into != "", INCIDENTS.c.opened_us.desc()
        )
        with self.store.reading() as connection:
            rows = connection.execute(query).all()
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
        Write an entry down; on the disk before this returns.

        Args:
            by: Who says or does it; empty is the suite itself.
            key: What it is the only one of.
            at: When it happened, where that was not now.

        Returns:
            The entry; None where there is one of that key already, which stays as it is.

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
                raise IncidentError(f"there is no incident {name!r}.")
            found = self.records.put(connection, name, kind, body, by, key, clock.micros(at) if at else None)
        if found is not None:
            self.copy(name)
        return found

    def picture(self, body: bytes) -> str:
        """Keep a picture; its SHA-256, by which an entry cites it."""
        return self.records.picture(body)

    def folder(self, name: str) -> Path:
        """Where what belongs to an incident lies."""
        return self.records.folder(SHELF, name)

    def copy(self, name: str) -> None:
        """
        Copy a record into its folder; see `EntryStore.copy`.

        Raises:
            IncidentError: The folder cannot be written; the store has it all the same.
        """
        self.records.copy(SHELF, name)

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
        Open an incident by hand; for an alert, as ``ops status`` has it, the one that it is in already where there is
        one.

        Raises:
            IncidentError: It has no title.
        """
        if alert is not None:
            with self.store.committing() as connection:
                name = self._of_alert(connection, alert, by)
            self.follow_alerts()
            return self.read(name)
        if not title.strip():
            raise IncidentError("an incident has a title: what is wrong, in a few words.")
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

    def _of_alert(self, connection: sa.Connection, alert: Mapping[str, Any], by: str) -> str:
        """The incident that an alert is in, opened where there is none yet."""
        state = connection.execute(
            sa.select(NOTICES.c.state).where(NOTICES.c.app == self.app, NOTICES.c.alert == alert["id"])
        ).scalar()
        notice = (
            NotificationState.of_json(state)
            if state
            else NotificationState(alert["id"], alert["rule"], alert["subject"], alert["source"], "", "")
        )
        about = notice.group or alert.get("inhibited_by") or alert["id"]
        # By another source it may be in one already, though nobody planned yet what is to be sent of this one.
        same = [
            n.alert
            for n in self._notices(connection)
            if (n.rule, n.subject) == (alert["rule"], alert["subject"]) and n.levels
        ]
        name = next(
            (held for known in (alert["id"], about, *same) if (held := self._held(connection, known))), None
        ) or self._about(connection, about)
        if name is None:
            since = clock.micros(time_parsing.parse(alert["since"]))
            name = self._open(connection, self._opening(alert, about), by, since if not by else None, about)
        self._belongs(connection, name, alert["id"])
        return name

    def _held(self, connection: sa.Connection, alert: str) -> str | None:
        """The incident that an alert is in; of one that was merged, the one that goes on."""
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
            "words": f"opened for {alert['severity']}: {alert['sentence']}",
        }

    def _about(self, connection: sa.Connection, about: str) -> str | None:
        """The incident of a group; of one that was merged, the one that it was merged into."""
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
        Take in what alerts, people, deliveries and markers did since the last time; open what a told alert has no
        incident for.

        Each is taken in once, whoever is killed: it is looked up by what was taken in already.

        Returns:
            The incidents whose records grew.
        """
        with self.store.reading() as connection:
            now = self._fingerprint(connection)
        # Where nothing can be written, the records are shown as they are.
        if now == self._seen or self.store.file.is_read_only:
            return []
        grown: set[str] = set()
        with self.store.committing() as connection:
            for notice in self._notices(connection):
                grown |= self._join(connection, notice)
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
        """What could be taken in: asked often, so without taking the writers' turn, and without reading a record."""
        newest = tuple(
            connection.execute(sa.select(sa.func.max(t.c.seq)).where(t.c.app == self.app)).scalar()
            for t in (TRANSITIONS, ACTS, MARKS)
        )
        told = connection.execute(
            sa.select(sa.func.count()).where(DELIVERIES.c.app == self.app, DELIVERIES.c.over_us.is_not(None))
        ).scalar()
        known = connection.execute(
            sa.select(sa.func.count(), sa.func.sum(sa.cast(INCIDENTS.c.open, sa.Integer))).where(
                INCIDENTS.c.app == self.app
            )
        ).one()
        return (*newest, told, *known, *((n.alert, n.group) for n in self._notices(connection)))

    def _notices(self, connection: sa.Connection) -> list[NotificationState]:
        """Alerts that somebody is to be told of, and which group they belong to."""
        rows = connection.execute(
            sa.select(NOTICES.c.state)
            .where(NOTICES.c.app == self.app, NOTICES.c.open.is_(True))
            .order_by(NOTICES.c.alert)
        ).scalars()
        found = [NotificationState.of_json(state) for state in rows]
        return sorted(
            (n for n in found if n.group and n.told and not n.explained), key=lambda n: (n.fired_us or 0, n.alert)
        )

    def _join(self, connection: sa.Connection, notice: NotificationState) -> set[str]:
        if self._held(connection, notice.alert):
            return set()
        name = self._about(connection, notice.group)
        if name is None:
            row = {
                "id": notice.alert,
                "rule": notice.rule,
                "subject": notice.subject,
                "source": notice.source,
                "runbook": notice.runbook,
                **self._as_it_fired(connection, notice),
            }
            name = self._open(connection, self._opening(row, notice.group), "", notice.fired_us, notice.group)
        self._belongs(connection, name, notice.alert)
        return {name}

    def _as_it_fired(self, connection: sa.Connection, notice: NotificationState) -> dict[str, Any]:
        """
        Severity, sentence and limit of the instant at which an alert fired, which an incident is opened with; of
        another monitor's alert, of now.
        """
        fired = sa.select(TRANSITIONS.c.severity, TRANSITIONS.c.sentence, TRANSITIONS.c.limit).where(
            TRANSITIONS.c.app == self.app,
            TRANSITIONS.c.alert == notice.alert,
            TRANSITIONS.c.at_us == notice.fired_us,
            TRANSITIONS.c.kind.in_(("fired", "rose", "released")),
        )
        row = connection.execute(fired.order_by(TRANSITIONS.c.seq.desc()).limit(1)).one_or_none()
        return (
            dict(row._mapping)
            if row
            else {
                "severity": notice.level or notice.worst or "notify",
                "sentence": notice.sentence,
                "limit": notice.limit,
            }
        )

    def _belongs(self, connection: sa.Connection, name: str, alert: str) -> None:
        self.records.put(
            connection,
            name,
            "joined",
            {"alert": alert, "words": f"alert {alert} belongs to it"},
            "",
            f"joined:{alert}",
            None,
        )

    def _follow(self, connection: sa.Connection, name: str) -> bool:
        """
        Write down what became of an incident's alerts, who took them, who was told, which markers stand beside it.

        Did it grow?
        """
        entries = self.records.entries(connection, name)
        kept, found, before = {e.key for e in entries}, from_entries(name, entries), len(entries)
        joined = [e.body["alert"] for e in entries if e.kind == "joined"]
        for cause in joined:  # What one of its alerts explains away belongs to it; that grows while it is gone through.
            for alert in (
                connection.execute(
                    sa.select(TRANSITIONS.c.alert)
                    .where(TRANSITIONS.c.app == self.app, TRANSITIONS.c.inhibited_by == cause)
                    .distinct()
                    .order_by(TRANSITIONS.c.alert)
                )
                .scalars()
                .all()
            ):
                if alert not in joined and self._held(connection, alert) is None:
                    self._belongs(connection, name, alert)
                    joined.append(alert)
        query = (
            sa.select(TRANSITIONS.c.seq, *(TRANSITIONS.c[c] for c in COLUMNS))
            .where(TRANSITIONS.c.app == self.app, TRANSITIONS.c.alert.in_(joined))
            .order_by(TRANSITIONS.c.seq)
        )
        for row in connection.execute(query).all():
            if (key := f"alert:{row[0]}") not in kept:
                transition = Transition(*row[1:])
                self.records.put(connection, name, "alert", self._became(transition), "", key, transition.at_us)
        acts = connection.execute(
            sa.select(ACTS)
            .where(ACTS.c.app == self.app, ACTS.c.kind == "ack", ACTS.c.id.in_([*joined, found.about]))
            .order_by(ACTS.c.seq)
        ).all()
        for act in acts:
            if (key := f"ack:{act.seq}") not in kept:
                self.records.put(
                    connection,
                    name,
                    "acknowledged",
                    {"alert": act.id, "note": act.reason, "words": f"took it{': ' + act.reason if act.reason else ''}"},
                    act.author,
                    key,
                    act.known_at_us,
                )
        told = sa.select(DELIVERIES, MESSAGES.c.body).join(
            MESSAGES, sa.and_(MESSAGES.c.app == DELIVERIES.c.app, MESSAGES.c.id == DELIVERIES.c.message)
        )
        told = told.where(
            DELIVERIES.c.app == self.app,
            DELIVERIES.c.about == found.about,
            DELIVERIES.c.about != "",
            DELIVERIES.c.state.in_((DELIVERED, EXPIRED)),
            DELIVERIES.c.made_us >= entries[0].at_us - clock.span_us(LEAD),
        ).order_by(DELIVERIES.c.seq)
        for row in connection.execute(told).all():
            if (key := f"told:{row.seq}") not in kept:
                message = json.loads(row.body)
                how = "was told" if row.state == DELIVERED else "could not be told"
                body = {
                    "message": row.message,
                    "channel": row.channel,
                    "state": row.state,
                    "kind": message["kind"],
                    "roles": message["roles"],
                    "words": f"{row.channel} {how} ({message['kind']}, {message['severity']}) for "
                    f"{', '.join(message['roles']) or 'nobody'}",
                }
                self.records.put(connection, name, "told", body, "", key, row.over_us)
        until_us = next((e.at_us for e in reversed(entries) if e.kind == "resolved"), 2**62)
        for seq, mark in Markers(self.store, self.settings).within(
            connection, entries[0].at_us - clock.span_us(LEAD), until_us
        ):
            if (key := f"mark:{seq}") not in kept:
                self.records.put(
                    connection,
                    name,
                    "mark",
                    {"mark": mark.kind, "words": f"marker, {mark.kind}: {mark.words}"},
                    mark.author,
                    key,
                    mark.ts_us,
                )
        now = self.records.entries(connection, name)
        found = from_entries(name, now)
        if found.status in CLOSED and not found.firing:
            connection.execute(
                sa.update(INCIDENTS).where(INCIDENTS.c.app == self.app, INCIDENTS.c.id == name).values(open=False)
            )
        return len(now) > before

    def _became(self, t: Transition) -> dict[str, Any]:
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
            "words": f"alert {t.kind}, {t.severity}: {t.sentence}",
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
        """Write down what somebody did with an incident, unless it stands in one of these states."""
        if not by.strip():
            raise IncidentError("who says so? Give a name.")
        with self.store.committing() as connection:
            entries = self.records.entries(connection, name)
            found = from_entries(name, entries)
            if found.status in not_when:
                raise IncidentError(
                    f"incident {name} is {found.status}{' into ' + found.into if found.into else ''}: it "
                    f"cannot be {kind} now. ops incident reopen {name} opens it again."
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
        """Write down what somebody noticed or did; also after it is over."""
        if not words.strip():
            raise IncidentError("a note has words.")
        return self._act(name, "note", {"words": words.strip()}, by, (), at)

    def hand_over(self, name: str, to: str, by: str) -> Incident:
        """Somebody else holds it now."""
        if not to.strip():
            raise IncidentError("to whom? Give a name.")
        return self._act(
            name,
            "handover",
            {"to": formatting.single_line(to.strip(), 60), "words": f"handed over to {to.strip()}"},
            by,
        )

    def mitigate(self, name: str, words: str, by: str, at: datetime | None = None) -> Incident:
        """Traders are no longer hurt by it, though it is not over."""
        if not words.strip():
            raise IncidentError("what mitigated it? Give a note.")
        return self._act(name, "mitigated", {"words": f"mitigated: {words.strip()}"}, by, at=at)

    def resolve(self, name: str, words: str, by: str, at: datetime | None = None) -> Incident:
        """
        It is over.

        Raises:
            IncidentError: An alert of it still fires, and nobody says why it is over all the same.
        """
        self.follow_alerts()
        found = self.read(name)
        if found.firing and not words.strip():
            raise IncidentError(
                f"{', '.join(found.firing)} still fires. Wait for its end, or say why it is over all the same,"
                f" with a note."
            )
        head = found.head
        body = {
            "note": words.strip(),
            "still_firing": found.firing,
            "head": {"entry": head.id, "digest": head.digest},
            "words": f"resolved{': ' + words.strip() if words.strip() else ''}; the record before this is "
            f"{head.id}, SHA-256 {head.digest}",
        }
        return self._act(name, "resolved", body, by, at=at)

    def dismiss(self, name: str, reason: str, words: str, by: str) -> Incident:
        """It was none: a false alarm, or the same as another."""
        if reason not in REASONS:
            raise IncidentError(f"an incident is dismissed as {' or '.join(REASONS)}, not as {reason!r}.")
        return self._act(
            name,
            "dismissed",
            {"reason": reason, "words": f"dismissed, {reason}{': ' + words.strip() if words.strip() else ''}"},
            by,
        )

    def reopen(self, name: str, words: str, by: str) -> Incident:
        """It is not over after all."""
        found = self.read(name)
        if found.status not in (*CLOSED, "mitigated"):
            raise IncidentError(f"incident {name} is {found.status}: there is nothing to open again.")
        return self._act(
            name, "reopened", {"words": f"opened again{': ' + words.strip() if words.strip() else ''}"}, by, ()
        )

    def merge(self, name: str, into: str, by: str) -> Incident:
        """It is the same as another: what comes is written there; what was stays here."""
        other = self.read(into)
        if into == name or other.status in CLOSED:
            raise IncidentError(
                f"{name} cannot be merged into {into}, which is {'the same' if into == name else other.status}."
            )
        found = self._act(name, "merged", {"into": into, "words": f"merged into {into}"}, by)
        joined = [e.body["alert"] for e in found.of_kind("joined")]
        with self.store.committing() as connection:
            self.records.put(
                connection,
                into,
                "note",
                {"words": f"{name} was merged into this: {found.title}", "merged": name},
                by,
                f"merged:{name}",
                None,
            )
            for alert in joined:
                self._belongs(connection, into, alert)
            connection.execute(
                sa.update(INCIDENTS)
                .where(INCIDENTS.c.app == self.app, INCIDENTS.c.id == name)
                .values(open=False, into=into)
            )
        self.follow_alerts()
        self.copy(into)
        return self.read(name)


def of(workspace: Workspace) -> Incidents:
    """The incidents of a workspace."""
    return Incidents(workspace.store, workspace.settings, workspace.rules)
