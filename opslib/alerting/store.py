"""
Store alerts in the database: their states, transitions, the outbox, and the evaluator's lease.

An alert's state, its transitions and the outbox change in one transaction. Transitions are only added.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from opslib.foundation.storage.database import Database
from opslib.foundation.storage.schema import ALERTS, JUDGED, LEASES, OUTBOX, TRANSITIONS

LEASE_US = 30_000_000  # A lease that is not renewed for this long (six evaluation times) expires.
_COLUMNS = [c for c in TRANSITIONS.c if c.name not in ("app", "seq", "known_at_us")]
COLUMNS = tuple(c.name for c in _COLUMNS)
# Built once: the live dashboard reads them every few seconds, and building takes longer than executing.
_EVALUATED = sa.select(JUDGED.c.begun_us, JUDGED.c.upto_us).where(JUDGED.c.app == sa.bindparam("of"))
_BETWEEN = (
    TRANSITIONS.c.app == sa.bindparam("of"),
    TRANSITIONS.c.at_us > sa.bindparam("since"),
    TRANSITIONS.c.at_us <= sa.bindparam("upto"),
)
_TRANSITIONS = sa.select(*_COLUMNS).where(*_BETWEEN).order_by(TRANSITIONS.c.seq)
_EXTENT = sa.select(sa.func.count(), sa.func.coalesce(sa.func.max(TRANSITIONS.c.seq), 0)).where(*_BETWEEN)


@dataclass(frozen=True, slots=True)
class Lease:
    """
    The exclusive right to evaluate, for a limited time.

    Attributes:
        holder: The process that has it.
        known_us: All data known by then is in the database; nothing earlier will be added.
        begun_us, upto_us: The instants evaluated so far, (begun, upto]; None if there are none.
    """

    holder: str
    known_us: int
    begun_us: int | None
    upto_us: int | None


class AlertStore:
    """The stored alerts of one app."""

    def __init__(self, store: Database, app: str):
        self.store, self.app = store, app

    def acquire_lease(self, holder: str) -> Lease | None:
        """Acquire or renew the lease; None while another process has it."""
        with self.store.committing() as connection:
            now_us = self.store.stamp(connection)
            held = connection.execute(
                sa.select(LEASES.c.holder, LEASES.c.until_us).where(LEASES.c.app == self.app)
            ).one_or_none()
            if held and held.holder != holder and held.until_us > now_us:
                return None
            if held:
                connection.execute(
                    sa.update(LEASES).where(LEASES.c.app == self.app).values(holder=holder, until_us=now_us + LEASE_US)
                )
            else:
                connection.execute(sa.insert(LEASES).values(app=self.app, holder=holder, until_us=now_us + LEASE_US))
            evaluated = connection.execute(sa.select(JUDGED).where(JUDGED.c.app == self.app)).one_or_none()
        return Lease(
            holder, now_us, evaluated.begun_us if evaluated else None, evaluated.upto_us if evaluated else None
        )

    def leave(self, holder: str) -> None:
        """Release the lease, so that the next process need not wait until it expires."""
        with self.store.committing() as connection:
            connection.execute(sa.delete(LEASES).where(LEASES.c.app == self.app, LEASES.c.holder == holder))

    def keep(
        self,
        lease: Lease,
        since_us: int,
        upto_us: int,
        transitions: Iterable[tuple[Any, ...]],
        states: Iterable[Mapping[str, Any]],
        notified: Mapping[int, str],
    ) -> bool:
        """
        Store the evaluation of (since, upto] in one transaction.

        Args:
            transitions: Rows of `COLUMNS`, in order.
            states: The state of every alert to store.
            notified: The transitions that need a notification, by their index, with the edge: firing or resolved.

        Returns:
            False if another process has evaluated meanwhile or has the lease; then nothing was stored.

        Raises:
            StoreError: Nothing was stored.
        """
        app = self.app
        with self.store.committing() as connection:
            known_at_us = self.store.stamp(connection)
            holder = connection.execute(sa.select(LEASES.c.holder).where(LEASES.c.app == app)).scalar()
            evaluated = connection.execute(sa.select(JUDGED.c.upto_us).where(JUDGED.c.app == app)).scalar()
            if holder != lease.holder or evaluated not in (None, since_us):
                return False
            connection.execute(sa.update(LEASES).where(LEASES.c.app == app).values(until_us=known_at_us + LEASE_US))
            if evaluated is None:
                connection.execute(sa.insert(JUDGED).values(app=app, begun_us=since_us, upto_us=upto_us))
            else:
                connection.execute(sa.update(JUDGED).where(JUDGED.c.app == app).values(upto_us=upto_us))
            # The numbers are assigned here, because a PostgreSQL sequence leaves gaps after an aborted transaction.
            seq = (
                connection.execute(sa.select(sa.func.max(TRANSITIONS.c.seq)).where(TRANSITIONS.c.app == app)).scalar()
                or 0
            )
            sent = connection.execute(sa.select(sa.func.max(OUTBOX.c.seq)).where(OUTBOX.c.app == app)).scalar() or 0
            rows = [
                {"app": app, "seq": seq + 1 + i, "known_at_us": known_at_us, **dict(zip(COLUMNS, row, strict=True))}
                for i, row in enumerate(transitions)
            ]
            if rows:
                connection.execute(sa.insert(TRANSITIONS), rows)
            out = [
                {
                    "app": app,
                    "seq": sent + 1 + n,
                    "id": f"{app}/{rows[i]['alert']}/{edge}/{rows[i]['seq']}",
                    "transition": rows[i]["seq"],
                    "edge": edge,
                    "known_at_us": known_at_us,
                }
                for n, (i, edge) in enumerate(sorted(notified.items()))
            ]
            if out:
                connection.execute(sa.insert(OUTBOX), out)
            for state in states:
                which = {name: state[name] for name in ("rule", "subject", "source")}
                here = sa.and_(ALERTS.c.app == app, *(ALERTS.c[name] == value for name, value in which.items()))
                written = json.dumps(state, sort_keys=True)
                if connection.execute(sa.update(ALERTS).where(here).values(state=written)).rowcount == 0:
                    connection.execute(sa.insert(ALERTS).values(app=app, state=written, **which))
        return True

    def states(self) -> list[dict[str, Any]]:
        """Return the state of every stored alert after the last evaluated instant."""
        query = (
            sa.select(ALERTS.c.state)
            .where(ALERTS.c.app == self.app)
            .order_by(ALERTS.c.rule, ALERTS.c.subject, ALERTS.c.source)
        )
        with self.store.reading() as connection:
            return [json.loads(state) for state in connection.execute(query).scalars()]

    def evaluated(self) -> tuple[int, int] | None:
        """Return the evaluated range (begun, upto]; None if there is none."""
        with self.store.reading() as connection:
            found = connection.execute(_EVALUATED, {"of": self.app}).one_or_none()
        return (found.begun_us, found.upto_us) if found else None

    def transitions(
        self, upto_us: int, known_at_us: int | None = None, since_us: int | None = None
    ) -> list[tuple[Any, ...]]:
        """Return the transitions up to an instant (and after `since_us`, if given) as rows of `COLUMNS`, in order."""
        query = _TRANSITIONS
        if known_at_us is not None:
            query = query.where(TRANSITIONS.c.known_at_us <= known_at_us)
        parameters = {"of": self.app, "since": -1 if since_us is None else since_us, "upto": upto_us}
        with self.store.reading() as connection:
            return [tuple(row) for row in connection.execute(query, parameters)]

    def extent(self, since_us: int, upto_us: int) -> tuple[int, int]:
        """Return the number of transitions in (since, upto], and the newest one; (0, 0) if there are none."""
        with self.store.reading() as connection:
            parameters = {"of": self.app, "since": since_us, "upto": upto_us}
            count, newest = connection.execute(_EXTENT, parameters).one()
        return count, newest

    def outbox(self) -> list[tuple[str, str, tuple[Any, ...]]]:
        """Return the outbox in order: (id, firing or resolved, the transition)."""
        query = (
            sa.select(OUTBOX.c.id, OUTBOX.c.edge, *_COLUMNS)
            .join(TRANSITIONS, sa.and_(TRANSITIONS.c.app == OUTBOX.c.app, TRANSITIONS.c.seq == OUTBOX.c.transition))
            .where(OUTBOX.c.app == self.app)
            .order_by(OUTBOX.c.seq)
        )
        with self.store.reading() as connection:
            return [(row[0], row[1], tuple(row)[2:]) for row in connection.execute(query)]
