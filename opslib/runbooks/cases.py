"""
Freeze a moment of an incident, and check later whether today's rules and runbook still find the same cause in it.

What is frozen is what had happened by then (posts, our own looks, chains, lines of the log as they were counted, fills,
markers), with every secret taken out and nobody's name in it; it is walked with nobody there, and writes nothing.
"""

import contextlib
import itertools
import json
import shutil
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import sqlalchemy as sa

from opslib.alerting import evaluator, replay
from opslib.alerting.causes import CAUSES, NONE, UNDETERMINED
from opslib.foundation import clock, formatting, market_calendar, time_parsing
from opslib.foundation.config.settings import sqlite_url
from opslib.foundation.config.workspace import Workspace
from opslib.foundation.errors import IncidentError
from opslib.foundation.storage import temporary_files
from opslib.foundation.storage.database import Database
from opslib.foundation.storage.schema import ALIVE, CHAINS, FILLS, MARKS, SAMPLES
from opslib.incidents.incident import Incident
from opslib.incidents.practice import PRACTICE
from opslib.runbooks import catalog
from opslib.runbooks.diagnosis.diagnosis import Diagnosis
from opslib.runbooks.session import RunbookSession
from opslib.telemetry.pages import snapshot
from opslib.telemetry.pages.store import Post, SnapshotStore

if TYPE_CHECKING:
    from opslib.foundation.config.settings import Settings

FOLDER, FACTS, STORE = "cases", "case.json", "store.sqlite"
BACK = timedelta(hours=2)  # So far before the session's open, as far as a rule looks.
# How a step stood, in one sign; what a person would have been asked, or would have done, is a dot.
SIGNS = {"ok": "+", "not as expected": "-", "unknown": "?"}
ASKED, ANY = ".", "*"


class Walked(NamedTuple):
    """
    A runbook that was walked with nobody there: what was the matter, and each step with how it stood (`SIGNS`), in
    order.
    """

    diagnosis: Diagnosis
    walk: tuple[tuple[str, str], ...]


def walked(book: RunbookSession) -> Walked:
    """
    What does a runbook find that is only practised, and how does each of its steps stand?

    Nothing is written anywhere.
    """
    cards = [book.step(step.name) for step in book.steps]
    signs = tuple((card.step.name, SIGNS.get(card.standing.state, ASKED)) for card in cards)
    return Walked(book.diagnosis, signs)


def deviations(agreed: Sequence[tuple[str, str]], found: Sequence[tuple[str, str]]) -> list[str]:
    """By what does a walk differ from the one that was agreed on? In words; empty is by nothing."""
    was, now = [step for step, _ in agreed], [step for step, _ in found]
    lacks = [f"step {step} is not walked" for step in was if step not in now] + [
        f"step {step} is new" for step in now if step not in was
    ]
    kept = [step for step in was if step in now]
    moved = [f"step {b} is walked before {a}" for a, b in itertools.pairwise(kept) if now.index(b) < now.index(a)]
    signs = dict(found)
    told = {sign: state for state, sign in SIGNS.items()} | {ASKED: "left to people"}
    return (
        lacks
        + moved
        + [
            f"step {step} is {told[signs[step]]}, agreed was {told[sign]}"
            for step, sign in agreed
            if sign != ANY and signs.get(step, sign) != sign
        ]
    )


@dataclass(frozen=True)
class RegressionCase:
    """
    A moment that was frozen, with what people agreed on.

    Attributes:
        id: Of the incident.
        runbook: Which is walked.
        rule, subject, severity, limit: Of the alert that told of it; an empty rule is that somebody opened it by hand.
        window: How far back is looked.
        at: The moment at which it is walked.
        cause, of: What was the matter, and with whom; None is that it does not matter with whom.
        walk: The steps in order, each with how it stood.
        store: The file that holds what had happened by then.
    """

    id: str
    runbook: str
    rule: str
    subject: str
    severity: str
    limit: str
    window: timedelta
    at: datetime
    cause: str
    of: str | None
    walk: tuple[tuple[str, str], ...]
    store: Path

    @property
    def facts(self) -> dict[str, Any]:
        """As it is kept beside its store."""
        given = {
            "id": self.id,
            "runbook": self.runbook,
            "rule": self.rule,
            "subject": self.subject,
            "severity": self.severity,
            "limit": self.limit,
            "window_s": self.window.total_seconds(),
            "at": formatting.iso(self.at),
        }
        return given | {"cause": self.cause, "of": self.of, "walk": [list(stood) for stood in self.walk]}

    def workspace(self, settings: "Settings") -> Workspace:
        """A desk that sees what had happened by then, and nothing since; its rules are today's."""
        return Workspace(
            replace(settings, store_url=sqlite_url(self.store), secrets={}), lambda: self.at, remembers=False
        )

    def book(self, workspace: Workspace) -> RunbookSession:
        """Its runbook, open at its moment, to practise."""
        return RunbookSession(
            workspace,
            self.runbook,
            PRACTICE,
            subject=self.subject,
            severity=self.severity,
            limit=self.limit,
            window=f"{self.window.total_seconds():.0f}s",
            as_of=self.at,
        )

    def tried(self, settings: "Settings") -> "Tried":
        """Do today's rules and runbook find what was the matter?"""
        workspace = self.workspace(settings)
        with contextlib.closing(workspace.store):
            found = walked(self.book(workspace))
            wrong = [] if found.diagnosis.cause == self.cause else [f"cause {found.diagnosis.cause}, not {self.cause}"]
            wrong += (
                [f"it is about {found.diagnosis.subject}, not {self.of}"]
                if self.of is not None and found.diagnosis.subject != self.of
                else []
            )
            wrong += self._untold(workspace)
        return Tried(self, found, tuple(wrong), tuple(deviations(self.walk, found.walk)))

    def _untold(self, workspace: Workspace) -> list[str]:
        """Is anybody told of it, as badly as they were?"""
        if not self.rule:
            return []
        told = {t.severity for t in alerts(workspace, self.at) if (t.rule, t.subject) == (self.rule, self.subject)}
        return [] if self.severity in told else [f"nobody is told of {self.rule} of {self.subject} as {self.severity}"]


class Tried(NamedTuple):
    """
    What became of a case today: what was found, what is wrong with that, and by what the way differs; both empty where
    all is as agreed.
    """

    case: RegressionCase
    found: Walked
    wrong: tuple[str, ...]
    strayed: tuple[str, ...]

    @property
    def right(self) -> bool:
        """Is all as agreed?"""
        return not self.wrong and not self.strayed

    def __repr__(self) -> str:
        return (
            "today's rules and runbook find it, by the way that was agreed"
            if self.right
            else f"missed: {'; '.join((*self.wrong, *self.strayed))}"
        )


def alerts(workspace: Workspace, upto: datetime, since: datetime | None = None) -> list[Any]:
    """
    What would have fired by today's rules up to a moment, from another on (None: from the session's open), but for what
    another explains away?
    """
    until_us = clock.micros(upto)
    if since is None:
        found, _ = replay.replay_session(workspace.store, workspace.settings, workspace.rules, until_us - 1, until_us)
    else:
        found = [
            t
            for _, became in evaluator.Evaluator(workspace.store, workspace.settings, workspace.rules).judge(
                clock.micros(since), until_us
            )
            for t in became
        ]
    return [t for t in found if t.kind in ("fired", "rose") and not t.inhibited_by]


# Freezing.


def freeze(workspace: Workspace, incident: Incident, cause: str = "", as_of: datetime | None = None) -> RegressionCase:
    """
    Freeze the moment of an incident at which its runbook was worked through, as a case of this desk.

    Args:
        cause: What people agreed was the matter; empty is what the suite found then.
        as_of: Another moment than that of the last diagnosis.

    Raises:
        IncidentError: There is no such cause, or nobody has said what was the matter.
    """
    found, at = _agreed(incident, cause)
    at = as_of or at
    rule = workspace.rules.rules.get(incident.rule)
    severity = next(
        (severity for us, severity, _ in reversed(incident.severities) if us <= clock.micros(at)), incident.severity
    )
    limit = incident.limit(severity)
    runbook = next(
        (
            e.body["runbook"]
            for e in reversed(incident.of_kind("diagnosis"))
            if e.body.get("runbook") in catalog.names()
        ),
        incident.runbook,
    )
    place = folder(workspace.settings) / incident.id
    made = place.with_name(f".{place.name}.new")
    shutil.rmtree(made, ignore_errors=True)
    with temporary_files.refusing(made):
        made.mkdir(parents=True)
    case = RegressionCase(
        incident.id,
        runbook,
        incident.rule,
        incident.subject,
        severity,
        rule.limit_told(limit) if rule and limit is not None else "",
        rule.window if rule else timedelta(minutes=10),
        at,
        *found,
        (),
        made / STORE,
    )
    _copy(workspace, case)
    held = case.workspace(workspace.settings)
    with contextlib.closing(held.store):
        case = replace(case, walk=walked(case.book(held)).walk)
    (made / FACTS).write_text(json.dumps(case.facts, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    shutil.rmtree(place, ignore_errors=True)
    made.rename(place)
    return replace(case, store=place / STORE)


def _agreed(incident: Incident, cause: str) -> tuple[tuple[str, str | None], datetime]:
    """What was the matter, with whom, and when was that looked at last?"""
    said = [
        e for e in incident.of_kind("diagnosis", "runbook") if e.body.get("cause") not in (None, NONE, UNDETERMINED)
    ]
    over = incident.times["mitigated"].at_us or incident.times["resolved"].at_us
    before = [e for e in said if over is None or e.at_us <= over] or said
    at = clock.instant(before[-1].at_us if before else incident.since_us + 60_000_000)
    if cause:
        if cause not in CAUSES:
            raise IncidentError(f"there is no cause {cause!r}.{formatting.nearest(cause, CAUSES)}")
        return (cause, None), _looked(before, at)
    if not before:
        raise IncidentError(
            f"nobody has found out what was the matter in {incident.id}. Say it: --cause CAUSE, one of "
            f"{', '.join(CAUSES)}."
        )
    told = before[-1].body
    subject = (
        told.get("subject")
        if before[-1].kind == "diagnosis"
        else next(
            (
                e.body.get("subject")
                for e in reversed(incident.of_kind("diagnosis"))
                if e.body.get("cause") == told["cause"]
            ),
            None,
        )
    )
    return (told["cause"], subject), _looked(before, at)


def _looked(said: Sequence[Any], otherwise: datetime) -> datetime:
    """As of when was it last looked?"""
    as_of = said[-1].body.get("as_of") or said[-1].body.get("given", {}).get("as_of") if said else None
    return time_parsing.parse(as_of, "close") if as_of else otherwise


def _copy(workspace: Workspace, case: RegressionCase) -> None:
    """What had happened up to the moment of a case, into a store of its own, without secrets or names."""
    settings, app = workspace.settings, workspace.settings.app
    until_us = clock.micros(case.at)
    session = market_calendar.session(case.at.astimezone(formatting.NEW_YORK).date())
    since_us = clock.micros((session.opens if session else case.at) - BACK)
    with contextlib.closing(Database(sqlite_url(case.store), lambda: case.at)) as store:
        clean = (
            (ts_us, settings.redact(body.decode("utf-8", "replace")).encode())
            for ts_us, _, _, body in SnapshotStore(workspace.store).bodies(app, since_us, until_us, None)
        )
        SnapshotStore(store).write(
            app, (Post(ts_us, snapshot.read(snapshot.loads(body), body)) for ts_us, body in clean), known_at_ts=True
        )
        for table, kept in ((ALIVE, None), (SAMPLES, since_us), (CHAINS, since_us), (FILLS, None), (MARKS, since_us)):
            where = [table.c.app == app, table.c.ts_us <= until_us, *([] if kept is None else [table.c.ts_us > kept])]
            with workspace.store.reading() as connection:
                rows = [dict(row._mapping) for row in connection.execute(sa.select(table).where(*where))]
            _put(store, table, [_without(settings, row) for row in rows])


def _put(store: Database, table: sa.Table, rows: list[dict[str, Any]]) -> None:
    with store.committing() as connection:
        if table is ALIVE:
            connection.execute(sa.delete(ALIVE))  # Those that the posts told of are among them.
        if rows:
            connection.execute(sa.insert(table), rows)


def _without(settings: "Settings", row: dict[str, Any]) -> dict[str, Any]:
    """A row without secrets, and without who put it there and what they said."""
    kept = {name: settings.redact(value) if isinstance(value, str) else value for name, value in row.items()}
    if isinstance(pages := row.get("body"), bytes):
        kept["body"] = zlib.compress(settings.redact(zlib.decompress(pages).decode("utf-8", "replace")).encode())
    return kept | {name: "" for name in ("author", "words") if name in row}


# On the shelf.


def folder(settings: "Settings") -> Path:
    """Where the cases of a desk lie."""
    return settings.outputs / FOLDER


def names(settings: "Settings") -> list[str]:
    """Every case of a desk."""
    return sorted(path.parent.name for path in folder(settings).glob(f"*/{FACTS}"))


def read(settings: "Settings", name: str) -> RegressionCase:
    """
    One case.

    Raises:
        IncidentError: There is none of that name, or it cannot be read.
    """
    place = folder(settings) / name
    if name not in names(settings):
        raise IncidentError(
            f"there is no case {name!r}.{formatting.nearest(name, names(settings))} ops postmortem {name} --freeze "
            f"makes one of an incident."
        )
    try:
        told = json.loads((place / FACTS).read_text(encoding="utf-8"))
        kept = {key: told[key] for key in ("id", "runbook", "rule", "subject", "severity", "limit", "cause", "of")}
        return RegressionCase(
            **kept,
            window=timedelta(seconds=told["window_s"]),
            at=time_parsing.parse(told["at"]),
            walk=tuple((step, sign) for step, sign in told["walk"]),
            store=place / STORE,
        )
    except (ValueError, KeyError, TypeError) as problem:
        raise IncidentError(
            f"{place / FACTS} is not the case that was frozen ({problem.__class__.__name__}: {problem}). "
            f"Freeze it again: ops postmortem {name} --freeze."
        ) from None
