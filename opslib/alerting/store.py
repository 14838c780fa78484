"""
Keep the record of alerts in the database: their states, transitions, the outbox, and the evaluator's lease.

An alert's state, its transitions and the outbox change in one transaction, or not at all. Transitions are only added.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from opslib.foundation.storage.database import Database
from opslib.foundation.storage.schema import ALERTS, JUDGED, LEASES, OUTBOX, TRANSITIONS

LEASE_US = 30_000_000  # Who has not judged for so long has lost the right to; six instants.
_COLUMNS = [c for c in TRANSITIONS.c if c.name not in ("app", "seq", "known_at_us")]
COLUMNS = tuple(c.name for c in _COLUMNS)


@dataclass(frozen=True, slots=True)
class Lease:
    """
    The right to judge, for a while.

    Attributes:
        holder: Who has it.
        known_us: All that was known by then is in the store, and nothing will come in between any more.
        begun_us, upto_us: The instants judged so far, (begun, upto]; None where none was ever judged.
    """

    holder: str
    known_us: int
    begun_us: int | None
    upto_us: int | None


class AlertStore:
    """The alerts of one app as the store keeps them."""

    def __init__(self, store: Database, app: str):
        self.store, self.app = store, app

    def acquire_lease(self, holder: str) -> Lease | None:
        """The right to judge, taken or kept; None while somebody else has it."""
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
            judged = connection.execute(sa.select(JUDGED).where(JUDGED.c.app == self.app)).one_or_none()
        return Lease(holder, now_us, judged.begun_us if judged else None, judged.upto_us if judged else None)

    def leave(self, holder: str) -> None:
        """Give the right to judge back, so that the next one need not wait for it."""
        with self.store.committing() as connection:
            connection.execute(sa.delete(LEASES).where(LEASES.c.app == self.app, LEASES.c.holder == holder))

    def keep(
        self,
        turn: Lease,
        since_us: int,
        upto_us: int,
        transitions: Iterable[tuple[Any, ...]],
        states: Iterable[Mapping[str, Any]],
        told: Mapping[int, str],
    ) -> bool:
        """
        Keep what was judged in (since, upto], in one transaction.

        Args:
            transitions: Rows of `COLUMNS`, in order.
            states: Every alert that is to be remembered.
            told: Which transitions, by their place, somebody is to be told of, with the edge: firing or resolved.

        Returns:
            False where somebody else has judged meanwhile, or holds the right to; nothing was kept then.

        Raises:
            StoreError: Nothing was kept.
        """
        app = self.app
        with self.store.committing() as connection:
            known_at_us = self.store.stamp(connection)
            holder = connection.execute(sa.select(LEASES.c.holder).where(LEASES.c.app == app)).scalar()
            judged = connection.execute(sa.select(JUDGED.c.upto_us).where(JUDGED.c.app == app)).scalar()
            if holder != turn.holder or judged not in (None, since_us):
                return False
            connection.execute(sa.update(LEASES).where(LEASES.c.app == app).values(until_us=known_at_us + LEASE_US))
            if judged is None:
                connection.execute(sa.insert(JUDGED).values(app=app, begun_us=since_us, upto_us=upto_us))
            else:
                connection.execute(sa.update(JUDGED).where(JUDGED.c.app == app).values(upto_us=upto_us))
            # Numbered by hand: a sequence of PostgreSQL's own leaves holes where a transaction was broken off.
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
                for n, (i, edge) in enumerate(sorted(told.items()))
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
        """Every alert that is remembered, as it stood after the last instant that was judged."""
        query = (
            sa.select(ALERTS.c.state)
            .where(ALERTS.c.app == self.app)
            .order_by(ALERTS.c.rule, ALERTS.c.subject, ALERTS.c.source)
        )
        with self.store.reading() as connection:
            return [json.loads(state) for state in connection.execute(query).scalars()]

    def judged(self) -> tuple[int, int] | None:
        """Which instants were judged, (begun, upto]? None where none was ever."""
        with self.store.reading() as connection:
            found = connection.execute(
                sa.select(JUDGED.c.begun_us, JUDGED.c.upto_us).where(JUDGED.c.app == self.app)
            ).one_or_none()
        return (found.begun_us, found.upto_us) if found else None

    def transitions(
        self, upto_us: int, known_at_us: int | None = None, since_us: int | None = None
    ) -> list[tuple[Any, ...]]:
        """
        What became of alerts up to an instant, as rows of `COLUMNS` in order; since another one where it is given.
        """
        query = (
            sa.select(*_COLUMNS)
            .where(TRANSITIONS.c.app == self.app, TRANSITIONS.c.at_us <= upto_us)
            .order_by(TRANSITIONS.c.seq)
        )
        if since_us is not None:
            query = query.where(TRANSITIONS.c.at_us > since_us)
        if known_at_us is not None:
            query = query.where(TRANSITIONS.c.known_at_us <= known_at_us)
        with self.store.reading() as connection:
            return [tuple(row) for row in connection.execute(query)]

    def outbox(self) -> list[tuple[str, str, tuple[Any, ...]]]:
        """What is to be told, in order: (id, firing or resolved, the transition it tells)."""
        query = (
            sa.select(OUTBOX.c.id, OUTBOX.c.edge, *_COLUMNS)
            .join(TRANSITIONS, sa.and_(TRANSITIONS.c.app == OUTBOX.c.app, TRANSITIONS.c.seq == OUTBOX.c.transition))
            .where(OUTBOX.c.app == self.app)
            .order_by(OUTBOX.c.seq)
        )
        with self.store.reading() as connection:
            return [(row[0], row[1], tuple(row)[2:]) for row in connection.execute(query)]
