"""
Publish the page of an incident: what is broken, since when, whose fault, what still works, what to do, the timeline.

The page is ``incident.html`` in the incident's folder. It holds no script and loads nothing, and is written again
whenever the incident changes: whoever changes it calls `refresh`.
"""

import os
import re
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from markupsafe import Markup

from opslib.alerting import effects
from opslib.alerting.causes import NO_FAULT, UNDETERMINED, headline, whose
from opslib.dashboard import impact, status
from opslib.dashboard.text_blocks import markdown_to_html
from opslib.foundation import clock, formatting, logs, templates, time_parsing
from opslib.foundation.config.settings import Settings
from opslib.foundation.storage import temporary_files
from opslib.incidents import durations, lifecycle
from opslib.incidents.incident import CLOSED, Event, Incident, words
from opslib.jobs import html_export
from opslib.runbooks import event_words, incident_chart
from opslib.runbooks.diagnosis import diagnosis
from opslib.runbooks.session import RunbookSession
from opslib.runbooks.steps import purpose

if TYPE_CHECKING:
    from opslib.dashboard.status import Status
    from opslib.foundation.config.workspace import Workspace

NAME = "incident.html"
LEAD, AFTER = timedelta(minutes=5), timedelta(minutes=3)
STATUS_KINDS = ("opened", "mitigated", "resolved", "reopened", "dismissed", "merged")  # Entries that set the status.


class Cause(NamedTuple):
    """The cause by diagnosis: what is broken, whose fault, how sure, and as of when."""

    words: str
    fault: str
    confidence: float
    at: datetime


class StepRow(NamedTuple):
    """A step that was run: what it does, and each result that differed from the one before, by whom and when."""

    do: str
    results: "list[tuple[str, str, Markup, str, str]]"
    notable: bool


def path(settings: Settings, name: str) -> Path:
    """Return the path of the page of an incident; it exists once the incident has changed."""
    return settings.outputs / lifecycle.FOLDER / name / NAME


def publish(workspace: "Workspace", name: str) -> Path:
    """
    Write the page of an incident into its folder, whole or not at all.

    Raises:
        IncidentError: There is no such incident.
        OpsError: The page could not be written.
    """
    incident = lifecycle.of(workspace).read(name)
    place = path(workspace.settings, name)
    content = render(workspace, incident).encode()
    with temporary_files.refusing(place):
        place.parent.mkdir(parents=True, exist_ok=True)
        temporary_files.replace(place, content)
    return place


def refresh(workspace: "Workspace", name: str) -> None:
    """Write the page of an incident after a change; a page that cannot be written is logged and stops nothing."""
    try:
        publish(workspace, name)
    except Exception as problem:  # Whatever it is, the change is recorded, and responding goes on.
        logs.of(workspace.settings.redact).warning(
            f"the page of incident {name} was not written ({problem.__class__.__name__}: {problem}). Its record is "
            f"complete. Write the page again with: ops incident show {name} --html"
        )


def render(workspace: "Workspace", incident: Incident) -> str:
    """Return the page of an incident as HTML."""
    began_us, ended_us = _span(incident)
    now = workspace.now()
    until = now if ended_us is None else clock.instant(ended_us)
    until = max(until, clock.instant(began_us) + timedelta(minutes=1))
    end = until if ended_us is None else until + max(AFTER, (until - clock.instant(began_us)) * 0.06)
    start = max(clock.instant(began_us) - max(LEAD, (until - clock.instant(began_us)) * 0.15), end - status.MOST_WINDOW)
    view = status.view_at(workspace, end, end - start)
    at = until if ended_us is None else _diagnosed_at(incident) or clock.instant(incident.since_us)
    rule = workspace.rules.rules.get(incident.rule)
    moment = status.view_at(workspace, at, rule.window if rule else timedelta(minutes=10))
    cause = _cause(incident, moment, at)
    works = impact.working_and_failing(moment)
    state, steps = _state(incident), _steps(workspace, incident)
    return templates.render(
        "runbooks/templates/incident.html",
        policy=html_export.POLICY,
        app=workspace.settings.app,
        incident=incident,
        title=cause.words if cause and incident.entries[0].body.get("alert") else incident.headline,
        tab=incident_chart.plain(incident.headline),
        state=state,
        severity=_severity(incident),
        status_words=_status_words(incident, began_us, until),
        signs=formatting.SIGNS | {"none": "✓"},
        began_at=_short_time(began_us),
        status_at=_short_time(next(e.at_us for e in reversed(incident.of_kind(*STATUS_KINDS)))),
        peak_at=_short_time(next(us for us, severity, _ in incident.severities if severity == incident.peak)),
        acknowledged=_acknowledged(incident),
        lasted=formatting.duration((until - clock.instant(began_us)).total_seconds()),
        lasted_label=_lasted_label(incident),
        lengths=_lengths(incident),
        mitigated=_mitigated(incident),
        over=ended_us is not None,
        span=_local_span(clock.instant(began_us), until if ended_us is not None else None),
        cause=cause,
        fault=cause.fault.replace(": ", ", ") if cause else "",
        cause_at=f"{cause.at.astimezone(formatting.NEW_YORK):%H:%M}" if cause else "",
        traders=effects.for_traders(rule, incident.subject, impact.serving(view)) if rule and ended_us is None else "",
        works=[_parts(words) for s, words in works if s == "works"],
        fails=[_parts(words) for s, words in works if s == "fails"],
        works_at=f"{at.astimezone(formatting.NEW_YORK):%H:%M}",
        following=_next(workspace, incident),
        links=_links(workspace, incident),
        picture=incident_chart.picture(workspace, incident, view, until),
        steps=[row for row in steps if row.notable],
        other_steps=[row for row in steps if not row.notable],
        skipped=sum(s.state == "skipped" for s in incident.steps.values()),
        times=[
            (name, _when(found.at_us), event_words.source(found.source), found.evidence)
            for name, found in incident.times.items()
        ],
        events=[
            (_when(e.at_us), e.by, _markup(workspace, incident, e), ", ".join(e.evidence)) for e in incident.events
        ],
        evidence=[(e.id, e.kind_name, _code(str(e.body.get("words") or e.kind)), e.digest) for e in incident.entries],
        made=formatting.moment(now) if ended_us is None else "",
    )


def _span(incident: Incident) -> tuple[int, int | None]:
    """Return when an incident began (else: was detected) and when it was closed; None while it is not."""
    began_us = incident.times["began"].at_us or incident.since_us
    if incident.status not in CLOSED:
        return began_us, None
    closed = incident.times["resolved"].at_us or incident.of_kind("dismissed", "merged")[-1].at_us
    return began_us, max(began_us, closed)


def _diagnosed_at(incident: Incident) -> datetime | None:
    """Return the time of the newest recorded diagnosis that found a fault."""
    found = incident.diagnosed
    if found is None:
        return None
    return time_parsing.parse(found.body["as_of"]) if found.body.get("as_of") else clock.instant(found.at_us)


def _cause(incident: Incident, view: "Status", at: datetime) -> Cause | None:
    """Return the cause by the diagnosis now, else by the newest that is recorded; None if none found a fault."""
    diagnosed = incident.diagnosed
    if incident.status in CLOSED and diagnosed:
        name, subject, sure = diagnosed.body["cause"], diagnosed.body.get("subject"), diagnosed.body["confidence"]
        return Cause(headline(name, subject).rstrip("."), whose(name, subject), sure, at)
    found = diagnosis.diagnose(view)
    if found.cause not in (UNDETERMINED, *NO_FAULT):
        return Cause(found.headline.rstrip("."), whose(found.cause, found.subject), found.confidence, at)
    if diagnosed is None:
        return None
    name, subject, sure = diagnosed.body["cause"], diagnosed.body.get("subject"), diagnosed.body["confidence"]
    return Cause(headline(name, subject).rstrip("."), whose(name, subject), sure, _diagnosed_at(incident) or at)


def _state(incident: Incident) -> str:
    """Return the state by which the answer is coloured: ok once it is closed, else its severity."""
    if incident.status in CLOSED:
        return "ok"
    return "warning" if _severity(incident) == "none" else _severity(incident)


def _severity(incident: Incident) -> str:
    """Return the severity now; where alerts from elsewhere inhibit all that fire, the last one that it had."""
    return incident.severity if incident.current == "none" and incident.firing else incident.current


def _lengths(incident: Incident) -> list[str]:
    """Return how long the incident lasted by each measure, with what it counts; nothing if there is only one."""
    found = [each for each in durations.measure(incident) if each.seconds is not None]
    lengths = [f"{durations.rounded(each.seconds or 0.0)} {each.label} ({each.note})" for each in found]
    return lengths if len(lengths) > 1 else []


def _mitigated(incident: Incident) -> str:
    """Return when and how a person mitigated the incident, and which actions were dry runs; empty if nobody did."""
    found = incident.of_kind("mitigated")
    if not found:
        return ""
    rehearsed = [purpose(step) for (_, step), did in incident.steps.items() if did.state == "rehearsed"]
    only = f". Dry runs, which changed nothing: {'; '.join(rehearsed)}" if rehearsed else ""
    return f"{_short_time(found[-1].at_us)} New York: {words(found[-1]).removeprefix('mitigated: ')}{only}"


def _lasted_label(incident: Incident) -> str:
    """Return what the duration of the incident ends with."""
    return {"resolved": "Until resolved", "dismissed": "Until dismissed", "merged": "Until merged"}.get(
        incident.status, "Duration so far"
    )


def _status_words(incident: Incident, began_us: int, until: datetime) -> str:
    lasted = formatting.duration((until - clock.instant(began_us)).total_seconds())
    match incident.status:
        case "open":
            return f"Open for {lasted}" + (
                "" if incident.firing or not incident.alerts else ", its alerts are resolved"
            )
        case "mitigated":
            return f"Mitigated, not resolved yet, for {lasted}"
        case "merged":
            return f"Merged into {incident.into}"
        case "dismissed":
            return f"Dismissed: {incident.of_kind('dismissed')[-1].body['reason']}"
    return f"Resolved after {lasted}"


def _local_span(start: datetime, end: datetime | None) -> str:
    a = start.astimezone(formatting.NEW_YORK)
    if end is None:
        return f"began {a:%H:%M:%S} New York, {a:%Y-%m-%d}"
    b = end.astimezone(formatting.NEW_YORK)
    day = "" if a.date() == b.date() else f"{b:%Y-%m-%d} "
    return f"{a:%Y-%m-%d} {a:%H:%M:%S} to {day}{b:%H:%M:%S} New York"


def _parts(words: str) -> tuple[str, str]:
    """Return what works or not, and the source in brackets after it, with its age if that is a minute or more."""
    found = re.match(r"(.*?) \((.*?)\)(.*)", re.sub(r", \d+ s ago", "", words))
    return (found[1], found[2] + found[3]) if found else (words, "")


def _when(at_us: int | None) -> str:
    if at_us is None:
        return formatting.UNKNOWN
    at = clock.instant(at_us)
    local = at.astimezone(formatting.NEW_YORK)
    return f"{local:%H:%M:%S} New York, {at:%Y-%m-%d %H:%M:%S} UTC"


def _acknowledged(incident: Incident) -> str:
    at_us = incident.times["acknowledged"].at_us
    return "not acknowledged" if at_us is None else f"acknowledged {_short_time(at_us)}"


def _next(workspace: "Workspace", incident: Incident) -> tuple[str, str]:
    """Return the next thing to do, and the command for it; empty if there is none."""
    ops = " ".join(["ops", *workspace.settings.where])
    name = incident.id
    if incident.status == "merged":
        return f"Continue with incident {incident.into}.", f"{ops} incident show {incident.into}"
    if incident.status == "dismissed":
        return "Nothing: it was dismissed.", ""
    if incident.status == "resolved":
        match incident.document:
            case "Closed":
                return "Nothing: its postmortem is closed.", ""
            case _ if incident.of_kind("published"):
                return "Complete the postmortem; the check lists what is missing.", f"{ops} postmortem {name} --check"
        return "Draft the postmortem.", f"{ops} postmortem {name}"
    if incident.times["acknowledged"].at_us is None:
        return "Acknowledge it, so that it has an owner.", f"{ops} ack {name} --by NAME"
    opened = [e.body["runbook"] for e in incident.of_kind("runbook")]
    if not opened:
        return (
            f"Open the runbook {incident.runbook}.",
            f"{ops} runbook open {incident.runbook} --incident {name} --by NAME",
        )
    session = RunbookSession(workspace, opened[-1], name, as_of=workspace.now())
    step = session.next_step(incident) if incident.firing else None
    if step and step.box != "after":
        return step.do, f"{ops} runbook resume {name}"
    if incident.firing:
        return "Watch until its alerts are resolved.", f"{ops} status"
    return "Resolve it: none of its alerts fires.", f'{ops} incident resolve {name} "WHAT ENDED IT" --by NAME'


def _links(workspace: "Workspace", incident: Incident) -> list[tuple[str, str]]:
    """Return the pages about the incident that exist: words and address, relative to its own page."""
    settings, folder = workspace.settings, path(workspace.settings, incident.id).parent
    began = clock.instant(_span(incident)[0]).astimezone(formatting.NEW_YORK)
    found = [
        *((f"runbook {page.stem[3:]}, as it was run", page) for page in sorted(folder.glob("[0-9][0-9]_*.html"))),
        ("postmortem", folder / "postmortem.html"),
        (
            f"daily report of {began:%Y-%m-%d}",
            settings.outputs / "reports" / f"{began:%Y}" / f"{began:%Y-%m-%d}_daily.html",
        ),
        ("all reports and runs", settings.base / "index.html"),
        ("the record with its hashes", folder / "record.jsonl"),
    ]
    pages = [(words, os.path.relpath(page, folder)) for words, page in found if page.is_file()]
    lab = workspace.contacts.lab_url
    if lab:
        copies = sorted(folder.glob("[0-9][0-9]_*.ipynb"))
        pages += [
            (f"runbook {copy.stem[3:]} in JupyterLab", f"{lab}/lab/tree/{copy.relative_to(settings.base)}")
            for copy in copies
            if copy.is_relative_to(settings.base)
        ]
        pages.append(("dashboard in JupyterLab", f"{lab}/lab/tree/notebooks/dashboard.ipynb"))
    return pages


def _steps(workspace: "Workspace", incident: Incident) -> list[StepRow]:
    """Return the steps that were run, in order, each with its results; steps that nobody answered are left out."""
    rows: dict[tuple[str, str], StepRow] = {}
    for e in incident.events:
        body = e.entry.body
        if e.kind != "step" or body["state"] == "skipped":
            continue
        key = (body["runbook"], body["step"])
        outcome = incident_chart.result_of(workspace, incident, e)
        row = rows.setdefault(key, StepRow(incident_chart.do_of(e), [], False))
        if body["state"] != "seen" or outcome.label not in ("passed", "unknown"):
            rows[key] = row._replace(notable=True)
        words = outcome.label
        found = (outcome.mark, words, _result(e), e.by, _short_time(e.at_us))
        if row.results and row.results[-1][1] == words:
            row.results[-1] = found
        else:
            row.results.append(found)
    return list(rows.values())


def _short_time(at_us: int) -> str:
    return f"{clock.instant(at_us).astimezone(formatting.NEW_YORK):%H:%M:%S}"


def _result(event: Event) -> Markup:
    """Return the words of a step's result, without the name of the step and the state, which are shown, too."""
    body = event.entry.body
    text = event.words.removeprefix(f"{body['step']}: ")
    text = re.sub(
        r"^(?:skipped|passed|failed|unknown|could not be determined|dry run, nothing was changed)(?::\s*|$)", "", text
    )
    return _code(text)


def _markup(workspace: "Workspace", incident: Incident, event: Event) -> Markup:
    """Return an event for the page: a note as the Markdown that people write, everything else as text."""
    if event.kind == "note":
        return Markup(markdown_to_html(str(event.entry.body.get("words", ""))))  # noqa: S704  # The converter escapes.
    if event.kind != "step":
        return _code(event_words.words(event))
    result = Markup(": {}").format(found) if (found := _result(event)) else ""
    outcome = incident_chart.result_of(workspace, incident, event)
    return Markup("{} <strong>{} {}</strong>{}").format(
        incident_chart.do_of(event), outcome.mark, outcome.label, result
    )


def _code(words: str) -> Markup:
    """Escape a text; what the app's log said, at its end, and other source is shown as code."""
    ours, newest, outside = words.partition("newest: ")
    quoted = Markup("<code>{}</code>").format(formatting.printable(outside)) if newest else ""
    return Markup("{}{}{}").format(templates.quoting(ours), newest, quoted)
