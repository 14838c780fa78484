"""Run the commands ``incident``, ``mark``, ``runbook`` and ``postmortem``."""

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from opslib.alerting.notifications.message import Code, command
from opslib.cli.commands import checklists
from opslib.cli.commands.alerts import author
from opslib.cli.output import Reply
from opslib.foundation import clock, formatting, time_parsing
from opslib.foundation.errors import IncidentError, UsageError
from opslib.foundation.storage import atomic_files
from opslib.incidents.incident import CLOSED, Incident, from_entries
from opslib.jobs import ledger
from opslib.reports.postmortem import drafting, timeline
from opslib.reports.postmortem.document import Postmortem, by_section, lint
from opslib.reports.postmortem.timeline import plural
from opslib.runbooks import cases, catalog, event_words, incident_page, opening, session

if TYPE_CHECKING:
    from opslib.desk import Desk


def incident(desk: "Desk", options: argparse.Namespace) -> Reply:
    """
    List, show or open incidents, or record what was done.

    Raises:
        UsageError: A required option is missing.
        IncidentError: The incident's status does not allow it.
    """
    if options.html and options.what != "show":
        raise UsageError("--html is used with show: ops incident show ID --html.")
    desk.incidents.follow_alerts()
    if options.what == "list":
        return _list(desk, desk.incidents.all())
    if options.what == "open":
        opened = _open(desk, options)
        incident_page.refresh(desk, opened.id)
        return _reply(desk, opened)
    name, words = _named(desk, options.words)
    if options.what == "show":
        return _page(desk, name, options) if options.html else _read(desk, name, options)
    by, at = author(options.by), time_parsing.happened(options.at, desk.now())
    incidents = desk.incidents
    acts: dict[str, Callable[[], Incident]] = {
        "note": lambda: incidents.note(name, words, by, at),
        "mitigate": lambda: incidents.mitigate(name, words, by, at),
        "resolve": lambda: _resolved(desk, incidents.resolve(name, words, by, at)),
        "dismiss": lambda: incidents.dismiss(name, options.reason or "", words, by),
        "reopen": lambda: incidents.reopen(name, words, by),
        "merge": lambda: incidents.merge(name, incidents.find(options.into).id if options.into else "", by),
        "handover": lambda: incidents.hand_over(name, options.to or "", by),
    }
    found = acts[options.what]()
    incident_page.refresh(desk, found.id)
    return _reply(desk, found)


def _read(desk: "Desk", name: str, options: argparse.Namespace) -> Reply:
    """Show an incident and its timeline; as JSON, every entry of its record."""
    found = desk.incidents.read(name, time_parsing.parse(options.known_at) if options.known_at else None)
    entries = [
        {
            "at": formatting.iso(clock.instant(e.at_us)),
            "kind": e.kind,
            "by": e.by or None,
            "words": e.body.get("words", e.kind),
            "evidence": e.id,
        }
        for e in sorted(found.entries, key=lambda e: (e.at_us, e.seq))
    ]
    rows = timeline.rows(found)
    cells = timeline.cells(rows, role=lambda words: words, who=lambda by: by)
    events = formatting.table(
        ["UTC", "New York", "event"], [[utc, local, f"{words} [{ids}]"] for utc, local, words, ids in cells]
    )
    last = found.entries[-1]
    every = command("incident", "show", found.id, "-o", "json", where=desk.settings.where)
    text = [
        _head(desk, found),
        f"Events from {timeline.day_of(rows)}\n{events}",
        f"The record has {len(found.entries)} entries, the newest is {last.id} ({last.kind_name}). Show all: {every}",
    ]
    return Reply(found.as_json() | {"timeline": entries}, "\n\n".join(text))


def _head(desk: "Desk", found: Incident) -> str:
    """Return what is broken, its status, and the five times."""
    times = (f"  {name}: {event_words.time(at)}" for name, at in found.times.items())
    return "\n".join([*_so_far(desk, found).summary, *times])


def _page(desk: "Desk", name: str, options: argparse.Namespace) -> Reply:
    """
    Write the page of an incident.

    Raises:
        UsageError: An earlier state of the record was asked for.
    """
    if options.known_at:
        raise UsageError("--html writes the page of the record as it is now. Use it without --known-at.")
    place = incident_page.publish(desk, name)
    return Reply({"incident": name, "page": str(place)}, f"page of incident {name}: {place}")


def _named(desk: "Desk", words: list[str]) -> tuple[str, str]:
    """
    Return the incident's ID and the rest of the text.

    The first word names the incident; if it names none, the only open incident is meant.
    """
    known = {i.id for i in desk.incidents.all()} | set(desk.incidents.of_alerts())
    if words and words[0] in known:
        return desk.incidents.find(words[0]).id, " ".join(words[1:])
    if words and (words[0][:4].isdigit() or (len(words) == 1 and " " not in words[0])):
        raise IncidentError(
            f"there is no incident {words[0]!r}.{formatting.nearest(words[0], known)} ops incident list "
            f"shows all of them."
        )
    return desk.incidents.find().id, " ".join(words)


def _open(desk: "Desk", options: argparse.Namespace) -> Incident:
    by = author(options.by)
    if options.alert:
        alert = next((a for a in desk.status(options.as_of).alerts if a["id"] == options.alert), None)
        if alert is None:
            held = desk.incidents.of_alerts().get(options.alert)
            if held is None:
                active = [a["id"] for a in desk.status(options.as_of).alerts]
                raise IncidentError(
                    f"no active alert has the ID {options.alert!r}.{formatting.nearest(options.alert, active)} "
                    f"ops status lists active alerts."
                )
            return desk.incidents.read(held)
        return desk.incidents.open("", by=by, alert=alert)
    runbook = catalog.runbook(options.runbook).name if options.runbook else "incident"
    return desk.incidents.open(
        " ".join(options.words), by=by, runbook=runbook, subject=options.subject, severity=options.severity
    )


def _resolved(desk: "Desk", found: Incident) -> Incident:
    """
    Publish the digest of the record's last entry: in the ledger, and in the notification that it is resolved.

    Whoever rewrites the record cannot change those.
    """
    entry = found.of_kind("resolved")[-1]
    ledger.anchor(desk.store, desk.settings.app, found.id, entry.id, entry.digest)
    from opslib.alerting.notifications import sender

    words = f"{found.id} is resolved ({found.title}). Its record ends with {entry.id}"
    lines = (
        ("SHA-256 of its last entry", Code(entry.digest)),
        ("Read it", command("incident", "show", found.id, where=desk.settings.where)),
    )
    for channel, why in sender.broadcast(
        desk.settings,
        desk.contacts,
        f"{desk.settings.app}-{found.id}-{entry.id}",
        words,
        desk.now(),
        on_terminal=False,
        lines=lines,
    ):
        state = "failed" if why else "delivered"
        desk.incidents.append(
            found.id,
            "told",
            {
                "channel": channel,
                "state": "expired" if why else "sent",
                "head": {"entry": entry.id, "digest": entry.digest},
                "words": f"notification that it is resolved, by {channel}: {state}{': ' + why if why else ''}",
            },
            key=f"resolved:{entry.id}:{channel}",
        )
    return desk.incidents.read(found.id)


def _reply(desk: "Desk", found: Incident) -> Reply:
    """Return an incident with the entry that a person recorded last."""
    done = next((e for e in reversed(found.entries) if e.by), None)
    return Reply(
        found.as_json(),
        "\n\n".join(
            [
                _head(desk, found),
                *([f"recorded: {done.by}: {done.body.get('words', done.kind_name)} [{done.id}]"] if done else []),
                f"last entry {found.last_entry.id}, SHA-256 {found.last_entry.digest}",
            ]
        ),
    )


def _so_far(desk: "Desk", found: Incident) -> Incident:
    """Return an incident without changes of its alerts after the present; the clock of the demo stands still."""
    now_us = clock.micros(desk.now())
    return from_entries(found.id, [e for e in found.entries if e.kind != "alert" or e.at_us <= now_us])


def _list(desk: "Desk", found: list[Incident]) -> Reply:
    rows = [
        [i.id, i.status_words, i.current, i.peak, i.headline, i.owner or "none", i.runbook]
        for i in (_so_far(desk, i) for i in reversed(found))
    ]
    return Reply(
        [i.as_json() for i in found],
        formatting.table(["incident", "status", "severity", "peak", "title", "owner", "runbook"], rows)
        if rows
        else "no incidents yet",
    )


def mark(desk: "Desk", options: argparse.Namespace) -> Reply:
    """Put a marker on every chart and timeline."""
    found = desk.marks.put(
        options.kind, " ".join(options.words), author(options.by), time_parsing.happened(options.at, desk.now())
    )
    desk.incidents.follow_alerts()
    at = clock.instant(found.ts_us)
    return Reply(
        {"at": formatting.iso(at), "kind": found.kind, "by": found.author, "words": found.words},
        f"marked {found.kind} at {formatting.moment(at)}: {found.words}",
    )


def runbook(desk: "Desk", options: argparse.Namespace) -> Reply:
    """Open a runbook for an incident, or resume one."""
    if options.what == "open":
        return _open_runbook(desk, options)
    desk.incidents.follow_alerts()
    found = desk.incidents.find(options.incident or "")
    copies = [e for e in found.of_kind("runbook") if not options.name or e.body["runbook"] == options.name]
    if not copies:
        raise IncidentError(
            f"the runbook {options.name or found.runbook} is not open for {found.id}. Open it with: ops runbook open "
            f"{options.name or found.runbook} --incident {found.id}"
        )
    body = copies[-1].body
    place = desk.incidents.folder(found.id) / body["notebook"]
    if not place.exists():  # It was opened on another machine; a copy here resumes from the same record.
        place = opening.open_for(desk, body["runbook"], found, options.by or "")
    opened = session.RunbookSession(desk, body["runbook"], found.id, options.by or "", as_of=options.as_of or "")
    return Reply(
        {"incident": found.id, "runbook": body["runbook"], "notebook": str(place), "link": _link(desk, place)},
        f"{opened.strip.plain}\n\n{_how(desk, place)}",
    )


def _open_runbook(desk: "Desk", options: argparse.Namespace) -> Reply:
    shelved = catalog.runbook(options.name or "")
    desk.incidents.follow_alerts()
    by = author(options.by)
    found = desk.incidents.find(options.incident) if options.incident else _for(desk, shelved.name, by, options)
    if found.status in CLOSED:
        raise IncidentError(f"incident {found.id} is {found.status}; To reopen it: ops incident reopen {found.id}")
    place = opening.open_for(
        desk, shelved.name, found, by, time_parsing.parse(options.as_of) if options.as_of else None
    )
    opened = session.RunbookSession(desk, shelved.name, found.id, by, as_of=options.as_of or "")
    incident_page.refresh(desk, found.id)
    likely = desk.incidents.read(found.id).of_kind("runbook")[-1].body
    values = {
        "incident": found.id,
        "runbook": shelved.name,
        "notebook": str(place),
        "link": _link(desk, place),
        "cause": likely["cause"],
        "confidence": likely["confidence"],
        "severity": opened.severity.level,
    }
    return Reply(
        values,
        "\n\n".join(
            [opened.header.plain, opened.impact_seen.plain, f"likely: {likely['headline']}", _how(desk, place)]
        ),
    )


def _for(desk: "Desk", name: str, by: str, options: argparse.Namespace) -> Incident:
    """
    Return the incident that a runbook is opened for.

    It is the incident of the worst alert that names the runbook, else the newest open incident with it, else a new one
    if the person at the terminal confirms it.

    Raises:
        IncidentError: There is none, and none was confirmed.
    """
    view = desk.status(options.as_of)
    leads = [a for a in view.alerts if a["runbook"] == name and a["state"] != "pending" and not a["inhibited_by"]]
    if leads:
        return desk.incidents.open("", by=by, alert=leads[0])
    open_incidents = [i for i in desk.incidents.all() if i.runbook == name and i.status not in CLOSED]
    if open_incidents:
        return open_incidents[-1]
    none = f"no active alert and no open incident names the runbook {name}"
    if not (
        checklists.at_terminal()
        and checklists.prompt(f"{none[0].upper()}{none[1:]}. Open a new incident for it? y or n: ") == "y"
    ):
        opens = command("incident", "open", catalog.runbook(name).title, "--runbook", name, where=desk.settings.where)
        raise IncidentError(
            f"{none}. Give an incident with --incident ID (ops incident list shows them), or open one: {opens}"
        )
    return desk.incidents.open(catalog.runbook(name).title, by=by, runbook=name)


def _link(desk: "Desk", place: Any) -> str | None:
    if not desk.contacts.lab_url or not place.is_relative_to(desk.settings.base):
        return None
    return f"{desk.contacts.lab_url}/lab/tree/{place.relative_to(desk.settings.base)}"


def _how(desk: "Desk", place: Any) -> str:
    link = _link(desk, place)
    return f"open it: {link or f'jupyter lab {place}'}"


def shelved(options: argparse.Namespace) -> Reply:
    """
    List the runbooks, or show one in the terminal; it needs no kernel, database or network.

    Raises:
        UsageError: No runbook was named.
    """
    if options.what == "list":
        books = [catalog.runbook(name) for name in catalog.names()]
        rows = [[b.name, b.title, str(len(b.steps))] for b in books]
        return Reply(
            [{"runbook": b.name, "title": b.title, "steps": [s.name for s in b.steps]} for b in books],
            formatting.table(["runbook", "symptom", "steps"], rows),
        )
    if options.html:
        atomic_files.publish(
            options.html.with_suffix(""), {options.html.suffix or ".html": catalog.page().encode()}, None
        )
        return Reply({"page": str(options.html)}, f"all runbooks on one page: {options.html}")
    if not options.name:
        raise UsageError(f"no runbook was named. Name one of: {', '.join(catalog.names())}.")
    found = catalog.runbook(options.name)
    return Reply({"runbook": found.name, "title": found.title, "text": found.plain}, found.plain.rstrip())


def postmortem(desk: "Desk", options: argparse.Namespace) -> Reply:
    """Draft or check the postmortem of an incident, or set its status."""
    name = desk.incidents.find(options.id or "").id
    if options.freeze:
        return _freeze(desk, name, options)
    if options.check:
        found = drafting.take_in(desk, name, author(options.by))
        lacks = lint(Postmortem(found))
        sections = by_section(lacks)
        words = (
            [
                f"the postmortem of {name} is not ready for review; {plural(len(sections), 'section')} to complete:",
                *(f"  {line}" for line in sections),
            ]
            if lacks
            else [f"the postmortem of {name} is complete"]
        )
        return Reply({"incident": name, "missing": [lack._asdict() for lack in lacks]}, "\n".join(words), not lacks)
    if options.cause:
        raise UsageError("--cause is used with --freeze: it is the cause of the frozen incident.")
    made, place, lacks = drafting.draft(desk, name, author(options.by), options.status or "")
    values = {
        "incident": name,
        "status": made.status,
        "document": f"{place}.md",
        "last_entry": {"entry": made.last_entry.id, "digest": made.last_entry.digest},
        "figures": [f.as_json() for f in made.figures],
        "missing": len(lacks),
    }
    words = [
        f"postmortem of {name}, {made.status}: {len(made.figures)} figures, each with its evidence",
        f"write in   {place}.md",
        f"read       {place}.html",
        f"missing    {plural(len(by_section(lacks)), 'section')}; list them with: ops postmortem {name} --check",
    ]
    return Reply(values, "\n".join([*words, f"last entry {made.last_entry.id}, SHA-256 {made.last_entry.digest}"]))


def _freeze(desk: "Desk", name: str, options: argparse.Namespace) -> Reply:
    """Keep the moment of an incident as a regression case, and run it once."""
    made = cases.freeze(
        desk, desk.incidents.read(name), options.cause, time_parsing.parse(options.as_of) if options.as_of else None
    )
    result = made.run(desk.settings)
    words = [
        f"regression case {made.id}: {made.cause}, as of {formatting.moment(made.at)}, runbook {made.runbook}, "
        f"{len(made.results)} steps",
        f"stored in {made.store.parent}",
        repr(result),
        f"run it again: ops --app {desk.settings.app} drill {made.id}",
    ]
    return Reply(
        made.facts
        | {
            "case": str(made.store.parent),
            "right": result.right,
            "found": result.found.diagnosis.cause,
            "wrong": [*result.wrong, *result.deviations],
        },
        "\n".join(words),
        result.right,
    )
