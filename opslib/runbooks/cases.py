"""
Freeze the moment of an incident as a regression case, and check whether today's rules and runbook find its cause.

A case has the data known at that moment (snapshots, probe samples, chains, counted log lines, fills, markers), without
secrets and without names. It is run unattended and writes nothing.
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
BACK = timedelta(hours=2)  # The data before the session's open that rules use.
# The result of a step as one sign; a step for a person is a dot.
SIGNS = {"ok": "+", "not as expected": "-", "unknown": "?"}
ASKED, ANY = ".", "*"


class UnattendedRun(NamedTuple):
    """An unattended run of a runbook: the diagnosis, and each step in order with its result (`SIGNS`)."""

    diagnosis: Diagnosis
    results: tuple[tuple[str, str], ...]


def run_unattended(session: RunbookSession) -> UnattendedRun:
    """Run a runbook without a person, as practice: nothing is written."""
    cards = [session.step(step.name) for step in session.steps]
    signs = tuple((card.step.name, SIGNS.get(card.status.state, ASKED)) for card in cards)
    return UnattendedRun(session.diagnosis, signs)


def deviations(expected: Sequence[tuple[str, str]], found: Sequence[tuple[str, str]]) -> list[str]:
    """List the deviations of a run from the expected run, as text; empty if there are none."""
    was, now = [step for step, _ in expected], [step for step, _ in found]
    lacks = [f"step {step} is missing" for step in was if step not in now] + [
        f"step {step} is new" for step in now if step not in was
    ]
    kept = [step for step in was if step in now]
    moved = [f"step {b} runs before {a}" for a, b in itertools.pairwise(kept) if now.index(b) < now.index(a)]
    signs = dict(found)
    words = {"+": "passed", "-": "failed", "?": "unknown", ASKED: "left to a person"}
    return (
        lacks
        + moved
        + [
            f"step {step}: {words[signs[step]]}, expected {words[sign]}"
            for step, sign in expected
            if sign != ANY and signs.get(step, sign) != sign
        ]
    )


@dataclass(frozen=True)
class RegressionCase:
    """
    A frozen moment, with the cause and the run that people agreed on.

    Attributes:
        id: ID of the incident.
        runbook: The runbook that is run.
        rule, subject, severity, limit: Of the alert; an empty rule means that the incident was opened by hand.
        window: The window of the checks.
        at: The time as of which it is run.
        cause, of: The expected cause and its subject; None accepts any subject.
        results: The expected steps in order, each with its result.
        store: The database file with the data known at that time.
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
    results: tuple[tuple[str, str], ...]
    store: Path

    @property
    def facts(self) -> dict[str, Any]:
        """The content of the file beside its database."""
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
        return given | {"cause": self.cause, "of": self.of, "walk": [list(result) for result in self.results]}

    def workspace(self, settings: "Settings") -> Workspace:
        """Return a workspace with the data known at that time and today's rules."""
        return Workspace(
            replace(settings, store_url=sqlite_url(self.store), secrets={}), lambda: self.at, uses_cache=False
        )

    def session(self, workspace: Workspace) -> RunbookSession:
        """Open its runbook as of its time, as practice."""
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

    def run(self, settings: "Settings") -> "CaseResult":
        """Run the case with today's rules and runbook."""
        workspace = self.workspace(settings)
        with contextlib.closing(workspace.store):
            found = run_unattended(self.session(workspace))
            wrong = (
                [] if found.diagnosis.cause == self.cause else [f"cause {found.diagnosis.cause}, expected {self.cause}"]
            )
            wrong += (
                [f"subject {found.diagnosis.subject}, expected {self.of}"]
                if self.of is not None and found.diagnosis.subject != self.of
                else []
            )
            wrong += self._missing_alert(workspace)
        return CaseResult(self, found, tuple(wrong), tuple(deviations(self.results, found.results)))

    def _missing_alert(self, workspace: Workspace) -> list[str]:
        """Return the problem if no alert of the same severity fires; empty if one does."""
        if not self.rule:
            return []
        severities = {
            t.severity for t in alerts(workspace, self.at) if (t.rule, t.subject) == (self.rule, self.subject)
        }
        return (
            []
            if self.severity in severities
            else [f"no alert {self.rule} of {self.subject} with severity {self.severity}"]
        )


class CaseResult(NamedTuple):
    """The result of a case: the run, what is wrong with it, and its deviations; the last two are empty if it passes."""

    case: RegressionCase
    found: UnattendedRun
    wrong: tuple[str, ...]
    deviations: tuple[str, ...]

    @property
    def right(self) -> bool:
        """Whether the case passes."""
        return not self.wrong and not self.deviations

    def __repr__(self) -> str:
        return (
            "passed: today's rules and runbook find the cause with the expected run"
            if self.right
            else f"failed: {'; '.join((*self.wrong, *self.deviations))}"
        )


def alerts(workspace: Workspace, upto: datetime, since: datetime | None = None) -> list[Any]:
    """
    Evaluate today's rules up to a time; return the alerts that would fire, without inhibited ones.

    `since` None means the session's open.
    """
    until_us = clock.micros(upto)
    if since is None:
        found, _ = replay.replay_session(workspace.store, workspace.settings, workspace.rules, until_us - 1, until_us)
    else:
        found = [
            t
            for _, became in evaluator.Evaluator(workspace.store, workspace.settings, workspace.rules).evaluate(
                clock.micros(since), until_us
            )
            for t in became
        ]
    return [t for t in found if t.kind in ("fired", "rose") and not t.inhibited_by]


# Freezing.


def freeze(workspace: Workspace, incident: Incident, cause: str = "", as_of: datetime | None = None) -> RegressionCase:
    """
    Freeze the time at which an incident's runbook was run as a regression case.

    Args:
        cause: The cause that people agreed on; empty for the one that the diagnosis found.
        as_of: Another time than that of the last diagnosis.

    Raises:
        IncidentError: The cause is unknown, or the incident has no diagnosis.
    """
    found, at = _expected(incident, cause)
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
        rule.format_limit(limit) if rule and limit is not None else "",
        rule.window if rule else timedelta(minutes=10),
        at,
        *found,
        (),
        made / STORE,
    )
    _copy(workspace, case)
    held = case.workspace(workspace.settings)
    with contextlib.closing(held.store):
        case = replace(case, results=run_unattended(case.session(held)).results)
    (made / FACTS).write_text(json.dumps(case.facts, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    shutil.rmtree(place, ignore_errors=True)
    made.rename(place)
    return replace(case, store=place / STORE)


def _expected(incident: Incident, cause: str) -> tuple[tuple[str, str | None], datetime]:
    """Return cause, subject, and the time of the last diagnosis."""
    diagnosed = [
        e for e in incident.of_kind("diagnosis", "runbook") if e.body.get("cause") not in (None, NONE, UNDETERMINED)
    ]
    over = incident.times["mitigated"].at_us or incident.times["resolved"].at_us
    before = [e for e in diagnosed if over is None or e.at_us <= over] or diagnosed
    at = clock.instant(before[-1].at_us if before else incident.since_us + 60_000_000)
    if cause:
        if cause not in CAUSES:
            raise IncidentError(f"Unknown cause: {cause!r}.{formatting.nearest(cause, CAUSES)}")
        return (cause, None), _last_time(before, at)
    if not before:
        raise IncidentError(
            f"Incident {incident.id} has no diagnosed cause. Give it with --cause CAUSE, one of {', '.join(CAUSES)}."
        )
    body = before[-1].body
    subject = (
        body.get("subject")
        if before[-1].kind == "diagnosis"
        else next(
            (
                e.body.get("subject")
                for e in reversed(incident.of_kind("diagnosis"))
                if e.body.get("cause") == body["cause"]
            ),
            None,
        )
    )
    return (body["cause"], subject), _last_time(before, at)


def _last_time(entries: Sequence[Any], otherwise: datetime) -> datetime:
    """Return the time as of which the last diagnosis was made."""
    as_of = entries[-1].body.get("as_of") or entries[-1].body.get("given", {}).get("as_of") if entries else None
    return time_parsing.parse(as_of, "close") if as_of else otherwise


def _copy(workspace: Workspace, case: RegressionCase) -> None:
    """Copy the data known at the time of a case into its own database, without secrets or names."""
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
            connection.execute(sa.delete(ALIVE))  # The copied rows include those of the posts.
        if rows:
            connection.execute(sa.insert(table), rows)


def _without(settings: "Settings", row: dict[str, Any]) -> dict[str, Any]:
    """Return a row without secrets, author and free text."""
    kept = {name: settings.redact(value) if isinstance(value, str) else value for name, value in row.items()}
    if isinstance(pages := row.get("body"), bytes):
        kept["body"] = zlib.compress(settings.redact(zlib.decompress(pages).decode("utf-8", "replace")).encode())
    return kept | {name: "" for name in ("author", "words") if name in row}


# Stored cases.


def folder(settings: "Settings") -> Path:
    """Return the folder of the cases of a home."""
    return settings.outputs / FOLDER


def names(settings: "Settings") -> list[str]:
    """Return the name of every case of a home."""
    return sorted(path.parent.name for path in folder(settings).glob(f"*/{FACTS}"))


def read(settings: "Settings", name: str) -> RegressionCase:
    """
    Read a case.

    Raises:
        IncidentError: There is no case of that name, or it cannot be read.
    """
    place = folder(settings) / name
    if name not in names(settings):
        raise IncidentError(
            f"There is no case {name!r}.{formatting.nearest(name, names(settings))} Create one from an incident with: "
            f"ops postmortem {name} --freeze"
        )
    try:
        facts = json.loads((place / FACTS).read_text(encoding="utf-8"))
        kept = {key: facts[key] for key in ("id", "runbook", "rule", "subject", "severity", "limit", "cause", "of")}
        return RegressionCase(
            **kept,
            window=timedelta(seconds=facts["window_s"]),
            at=time_parsing.parse(facts["at"]),
            results=tuple((step, sign) for step, sign in facts["walk"]),
            store=place / STORE,
        )
    except (ValueError, KeyError, TypeError) as problem:
        raise IncidentError(
            f"{place / FACTS} is not a valid case ({problem.__class__.__name__}: {problem}). "
            f"Freeze it again: ops postmortem {name} --freeze."
        ) from None
