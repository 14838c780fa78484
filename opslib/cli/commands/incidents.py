"""Run the commands ``incident``, ``mark``, ``runbook`` and ``postmortem``."""

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from opslib.alerting.notifications.message import Code, command
from opslib.cli.commands import checklists
from opslib.cli.commands.alerts import who
from opslib.cli.output import Reply
from opslib.foundation import clock, formatting, time_parsing
from opslib.foundation.errors import IncidentError, UsageError
from opslib.foundation.storage import atomic_files
from opslib.incidents.incident import CLOSED, Incident
from opslib.jobs import ledger
from opslib.reports.postmortem import drafting
from opslib.reports.postmortem.document import Postmortem, lint
from opslib.runbooks import cases, catalog, opening, session

if TYPE_CHECKING:
    from opslib.desk import Desk


def incident(desk: "Desk", options: argparse.Namespace) -> Reply:
    """
    List, show, open, or write down what somebody did with an incident.

    Raises:
        UsageError: Something that it needs was not given.
        IncidentError: It is not such that this can be done.
    """
    desk.chronicle.follow_alerts()
    if options.what == "list":
        return _listed(desk.chronicle.all())
    if options.what == "open":
        return _shown(_open(desk, options))
    name, words = _named(desk, options.words)
    if options.what == "show":
        found = desk.chronicle.read(name, time_parsing.parse(options.known_at) if options.known_at else None)
        return Reply(
            found.as_json()
            | {
                "timeline": [
                    {
                        "at": formatting.iso(clock.instant(e.at_us)),
                        "kind": e.kind,
                        "by": e.by or None,
                        "words": e.body.get("words", e.kind),
                        "evidence": e.id,
                    }
                    for e in found.timeline
                ]
            },
            repr(found),
        )
    by, at = who(options.by), time_parsing.happened(options.at, desk.now())
    chronicle = desk.chronicle
    acts: dict[str, Callable[[], Incident]] = {
        "note": lambda: chronicle.note(name, words, by, at),
        "mitigate": lambda: chronicle.mitigate(name, words, by, at),
        "resolve": lambda: _resolved(desk, chronicle.resolve(name, words, by, at)),
        "dismiss": lambda: chronicle.dismiss(name, options.reason or "", words, by),
        "reopen": lambda: chronicle.reopen(name, words, by),
        "merge": lambda: chronicle.merge(name, chronicle.find(options.into).id if options.into else "", by),
        "handover": lambda: chronicle.hand_over(name, options.to or "", by),
    }
    return _shown(acts[options.what]())


def _named(desk: "Desk", words: list[str]) -> tuple[str, str]:
    """
    Which incident is meant, and what is said of it?

    The first word names it; where it names none, the only open one is meant.
    """
    known = {i.id for i in desk.chronicle.all()} | set(desk.chronicle.of_alerts())
    if words and words[0] in known:
        return desk.chronicle.find(words[0]).id, " ".join(words[1:])
    if words and (words[0][:4].isdigit() or (len(words) == 1 and " " not in words[0])):
        raise IncidentError(
            f"there is no incident {words[0]!r}.{formatting.nearest(words[0], known)} ops incident list has "
            f"those there are."
        )
    return desk.chronicle.find().id, " ".join(words)


def _open(desk: "Desk", options: argparse.Namespace) -> Incident:
    by = who(options.by)
    if options.alert:
        alert = next((a for a in desk.status(options.as_of).alerts if a["id"] == options.alert), None)
        if alert is None:
            held = desk.chronicle.of_alerts().get(options.alert)
            if held is None:
                active = [a["id"] for a in desk.status(options.as_of).alerts]
                raise IncidentError(
                    f"no alert {options.alert!r} stands.{formatting.nearest(options.alert, active)} ops status has "
                    f"those that do."
                )
            return desk.chronicle.read(held)
        return desk.chronicle.open("", by=by, alert=alert)
    runbook = catalog.runbook(options.runbook).name if options.runbook else "incident"
    return desk.chronicle.open(
        " ".join(options.words), by=by, runbook=runbook, subject=options.subject, severity=options.severity
    )


def _resolved(desk: "Desk", found: Incident) -> Incident:
    """
    It is over: the head of its record goes into the ledger, and to who was told of it, where nobody can change it with
    the record.
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
        desk.staff,
        f"{desk.settings.app}-{found.id}-{entry.id}",
        words,
        desk.now(),
        aloud=False,
        lines=lines,
    ):
        state = "could not be told" if why else "was told"
        desk.chronicle.append(
            found.id,
            "told",
            {
                "channel": channel,
                "state": "expired" if why else "sent",
                "head": {"entry": entry.id, "digest": entry.digest},
                "words": f"{channel} {state} that it is resolved{': it ' + why if why else ''}",
            },
            key=f"resolved:{entry.id}:{channel}",
        )
    return desk.chronicle.read(found.id)


def _shown(found: Incident) -> Reply:
    return Reply(found.as_json(), f"{found!r}\n\nhead {found.head.id}, SHA-256 {found.head.digest}")


def _listed(found: list[Incident]) -> Reply:
    rows = [[i.id, i.status, i.current, i.peak, i.title, i.holder or "nobody", i.runbook] for i in reversed(found)]
    return Reply(
        [i.as_json() for i in found],
        formatting.table(["incident", "status", "severity now", "peak", "what", "held by", "runbook"], rows)
        if rows
        else "there was no incident yet",
    )


def mark(desk: "Desk", options: argparse.Namespace) -> Reply:
    """Put a marker on every chart and timeline."""
    found = desk.marks.put(
        options.kind, " ".join(options.words), who(options.by), time_parsing.happened(options.at, desk.now())
    )
    desk.chronicle.follow_alerts()
    at = clock.instant(found.ts_us)
    return Reply(
        {"at": formatting.iso(at), "kind": found.kind, "by": found.author, "words": found.words},
        f"marked {found.kind} at {formatting.moment(at)}: {found.words}",
    )


def runbook(desk: "Desk", options: argparse.Namespace) -> Reply:
    """Open a runbook for an incident, or go on with one."""
    if options.what == "open":
        return _opened(desk, options)
    desk.chronicle.follow_alerts()
    found = desk.chronicle.find(options.incident or "")
    copies = [e for e in found.of_kind("runbook") if not options.name or e.body["runbook"] == options.name]
    if not copies:
        raise IncidentError(
            f"no runbook {options.name or ''} was opened for {found.id} yet: ops runbook open "
            f"{options.name or found.runbook} --incident {found.id}.".replace("  ", " ")
        )
    body = copies[-1].body
    place = desk.chronicle.folder(found.id) / body["notebook"]
    if not place.exists():  # Another machine opened it: here it is opened anew, and goes on from the same record.
        place = opening.open_for(desk, body["runbook"], found, options.by or "")
    book = session.RunbookSession(desk, body["runbook"], found.id, options.by or "", as_of=options.as_of or "")
    return Reply(
        {"incident": found.id, "runbook": body["runbook"], "notebook": str(place), "link": _link(desk, place)},
        f"{book.strip.plain}\n\n{_how(desk, place)}",
    )


def _opened(desk: "Desk", options: argparse.Namespace) -> Reply:
    shelved = catalog.runbook(options.name or "")
    desk.chronicle.follow_alerts()
    by = who(options.by)
    found = desk.chronicle.find(options.incident) if options.incident else _for(desk, shelved.name, by, options)
    if found.status in CLOSED:
        raise IncidentError(f"incident {found.id} is {found.status}; ops incident reopen {found.id} opens it again.")
    place = opening.open_for(
        desk, shelved.name, found, by, time_parsing.parse(options.as_of) if options.as_of else None
    )
    book = session.RunbookSession(desk, shelved.name, found.id, by, as_of=options.as_of or "")
    likely = desk.chronicle.read(found.id).of_kind("runbook")[-1].body
    values = {
        "incident": found.id,
        "runbook": shelved.name,
        "notebook": str(place),
        "link": _link(desk, place),
        "cause": likely["cause"],
        "confidence": likely["confidence"],
        "severity": book.severity.level,
    }
    return Reply(
        values,
        "\n\n".join([book.header.plain, book.impact_seen.plain, f"likely: {likely['headline']}", _how(desk, place)]),
    )


def _for(desk: "Desk", name: str, by: str, options: argparse.Namespace) -> Incident:
    """
    The incident that a runbook is opened for: of the worst alert that leads to it, else the newest open one of it, else
    one opened by hand, which is asked first.

    Raises:
        IncidentError: Nothing leads to it, and nobody at a terminal wants a new incident.
    """
    view = desk.status(options.as_of)
    leads = [a for a in view.alerts if a["runbook"] == name and a["state"] != "pending" and not a["inhibited_by"]]
    if leads:
        return desk.chronicle.open("", by=by, alert=leads[0])
    standing = [i for i in desk.chronicle.all() if i.runbook == name and i.status not in CLOSED]
    if standing:
        return standing[-1]
    quiet = f"no alert leads to the runbook {name} now, and no open incident has it"
    if not (
        checklists.at_terminal()
        and checklists.heard(f"{quiet[0].upper()}{quiet[1:]}. Open a new incident for it? y or n: ") == "y"
    ):
        opens = command("incident", "open", catalog.runbook(name).title, "--runbook", name, where=desk.settings.where)
        raise IncidentError(
            f"{quiet}, so none was opened. Name one with --incident ID (ops incident list), or open one first: {opens}"
        )
    return desk.chronicle.open(catalog.runbook(name).title, by=by, runbook=name)


def _link(desk: "Desk", place: Any) -> str | None:
    if not desk.staff.lab_url or not place.is_relative_to(desk.settings.base):
        return None
    return f"{desk.staff.lab_url}/lab/tree/{place.relative_to(desk.settings.base)}"


def _how(desk: "Desk", place: Any) -> str:
    link = _link(desk, place)
    return f"open it: {link or f'jupyter lab {place}'}"


def shelved(options: argparse.Namespace) -> Reply:
    """
    List the runbooks, or read one in the terminal: without a kernel, a store or a network.

    Raises:
        UsageError: No runbook was named.
    """
    if options.what == "list":
        books = [catalog.runbook(name) for name in catalog.names()]
        rows = [[b.name, b.title, str(len(b.steps))] for b in books]
        return Reply(
            [{"runbook": b.name, "title": b.title, "steps": [s.name for s in b.steps]} for b in books],
            formatting.table(["runbook", "what a person sees", "steps"], rows),
        )
    if options.html:
        atomic_files.publish(
            options.html.with_suffix(""), {options.html.suffix or ".html": catalog.page().encode()}, None
        )
        return Reply({"page": str(options.html)}, f"every runbook, for paper or a phone: {options.html}")
    if not options.name:
        raise UsageError(f"a runbook was wanted; there are: {', '.join(catalog.names())}.")
    found = catalog.runbook(options.name)
    return Reply({"runbook": found.name, "title": found.title, "text": found.plain}, found.plain.rstrip())


def postmortem(desk: "Desk", options: argparse.Namespace) -> Reply:
    """Draft the postmortem of an incident, say what it lacks, or take it on to another status."""
    name = desk.chronicle.find(options.id or "").id
    if options.freeze:
        return _frozen(desk, name, options)
    if options.check:
        found = drafting.take_in(desk, name, who(options.by))
        lacks = lint(Postmortem(found))
        words = (
            [f"the postmortem of {name} lacks:", *(f"  {lack!r}" for lack in lacks)]
            if lacks
            else [f"the postmortem of {name} lacks nothing"]
        )
        return Reply({"incident": name, "lacks": [lack._asdict() for lack in lacks]}, "\n".join(words), not lacks)
    if options.cause:
        raise UsageError("--cause says what was the matter in what is frozen: it goes with --freeze.")
    made, place, lacks = drafting.draft(desk, name, who(options.by), options.status or "")
    values = {
        "incident": name,
        "status": made.status,
        "document": f"{place}.md",
        "head": {"entry": made.head.id, "digest": made.head.digest},
        "figures": [f.as_json() for f in made.figures],
        "lacks": len(lacks),
    }
    words = [
        f"postmortem of {name}, {made.status}: {len(made.figures)} figures, each with its evidence",
        f"write in   {place}.md",
        f"read       {place}.html",
        f"still lacks {len(lacks)} things: ops postmortem {name} --check",
    ]
    return Reply(values, "\n".join([*words, f"head {made.head.id}, SHA-256 {made.head.digest}"]))


def _frozen(desk: "Desk", name: str, options: argparse.Namespace) -> Reply:
    """Freeze the moment of an incident, and say at once whether today's runbook finds in it what was the matter."""
    made = cases.freeze(
        desk, desk.chronicle.read(name), options.cause, time_parsing.parse(options.as_of) if options.as_of else None
    )
    tried = made.tried(desk.settings)
    words = [
        f"case {made.id}: {made.cause}, as of {formatting.moment(made.at)}, by runbook {made.runbook}, "
        f"{len(made.walk)} steps",
        f"kept in {made.store.parent}",
        repr(tried),
        f"again: ops --app {desk.settings.app} drill {made.id}",
    ]
    return Reply(
        made.facts
        | {
            "case": str(made.store.parent),
            "right": tried.right,
            "found": tried.found.diagnosis.cause,
            "wrong": [*tried.wrong, *tried.strayed],
        },
        "\n".join(words),
        tried.right,
    )
