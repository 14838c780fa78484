"""
Build the postmortem of an incident from its record and from the texts that people wrote.

The document depends only on the record up to one entry, its last, so it can be rebuilt and compared. It is blameless:
it shows responders by role, and names stay in the record.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from opslib.dashboard import charts
from opslib.dashboard.text_blocks import (
    KeyFigure,
    TextBlock,
    answer,
    bullet_list,
    folded,
    key_figures,
    links,
    markdown_to_html,
    one_after_another,
    table,
)
from opslib.foundation import clock, files, formatting, templates
from opslib.foundation.config.rules import PATH
from opslib.foundation.errors import ImportRefused
from opslib.foundation.storage.snapshot_columns import PROVIDERS
from opslib.incidents import durations, evidence
from opslib.incidents.durations import Duration
from opslib.incidents.evidence import Entry
from opslib.incidents.incident import CLOSED, GRID_S, TIMES, Incident, StepRecord, from_entries, words
from opslib.jobs import html_export, record
from opslib.reports.postmortem import actions, figures, headline, outage_chart, timeline
from opslib.reports.postmortem.figures import Figure
from opslib.runbooks import event_words, incident_page
from opslib.runbooks.steps import purpose

STATUSES = ("Draft", "In review", "Reviewed", "Closed")
# The review of a critical incident is due within three days, of any other within a week.
MEETING = {"critical": timedelta(days=3), "escalate": timedelta(days=3)}
OPENS, CLOSES = "<!-- write below: {} -->", "<!-- end of {} -->"
# The instruction for the text of each section. It is shown in brackets until somebody writes the text.
ASKED = {
    "overview": "Summarize the contributing factors, the duration and the impact in two sentences.",
    "detection": "Describe how the incident was detected: by which alert, by a person or by chance. Name the alert "
    "that should have fired, and what would halve the time to detect.",
    "factors": "List several contributing factors: the trigger, the conditions that allowed it, the process, and "
    "what made it worse. Do not name persons.",
    "response": "List what was tried, in order and with its result; what ended the incident; whether the fix is "
    "permanent.",
    "well": "List what went well.",
    "badly": "List what went wrong.",
    "lucky": "List where luck prevented a worse outcome, and what was surprising.",
    "messages": "Summarize the messages that were sent to traders and to others.",
    "actions": "Suggested from the record. Keep the items that are needed, confirm their owners and dates, and remove "
    "this line.",
}
HEADINGS = {
    "overview": "Summary",
    "actions": "Action items",
    "detection": "Detection",
    "factors": "Contributing factors",
    "response": "Response",
    "well": "What went well",
    "badly": "What went wrong",
    "lucky": "Where we got lucky",
    "messages": "Communication",
}
# The name of the evidence that is the chart of the outage.
OUTAGE_PICTURE = "outage"
# A provider of whose requests less than this share failed still worked.
STILL_WORKS = 0.05
# How fast people were: the figure, its label, what it starts from, and the seconds within which it is well, if any.
SPEEDS = (
    ("TTD", "Time to detect", "from the beginning", actions.DETECTED_WITHIN_S),
    ("TTM", "Time to mitigate", "from the detection", None),
)
_BLOCK = re.compile(r"<!-- write below: (\w+) -->\n(.*?)\n<!-- end of \1 -->", re.DOTALL)


class Section(NamedTuple):
    """A section: its heading, its facts, the key in `ASKED` of its text; HTML folds its facts under a line of words."""

    heading: str
    facts: tuple[TextBlock, ...]
    key: str = ""
    folds: str = ""


@dataclass(frozen=True)
class Postmortem:
    """
    The postmortem of one incident, built from its record.

    Attributes:
        incident: The incident with its record up to the last entry used.
    """

    incident: Incident

    @property
    def status(self) -> str:
        """The status of the document: Draft, In review, Reviewed or Closed."""
        return self.incident.document or STATUSES[0]

    @property
    def drills(self) -> list[str]:
        """
        The regression cases that must pass before the document is closed.

        An action item names one as ``drill ID`` in the column *tracker*.
        """
        trackers = [item.get("tracker", "") for item in actions.items(self.written("actions"))]
        return list(
            dict.fromkeys(found[1] for tracker in trackers if (found := re.fullmatch(r"drill\s+([\w.-]+)", tracker)))
        )

    @property
    def last_entry(self) -> Entry:
        """The last entry of the record that it was made from."""
        return self.incident.last_entry

    @property
    def figures(self) -> list[Figure]:
        """Every number in the document."""
        return [*figures.figures(self.incident), *figures.durations(self.incident)]

    def written(self, section: str) -> str:
        """Return the text that people wrote for a section, or the instruction in brackets if there is none."""
        if self.is_written(section):
            return str(self.incident.written[section].body["text"])
        placeholder = f"[{ASKED[section]}]"
        return f"{placeholder}\n\n{actions.table(self.incident)}" if section == "actions" else placeholder

    def is_written(self, section: str) -> bool:
        """Return whether people wrote a text for a section."""
        return section in self.incident.written

    def role(self, text: str) -> str:
        """Replace the names of responders in a text by their roles."""
        for n, name in sorted(enumerate(self.incident.people), key=lambda p: -len(p[1])):
            text = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", self._roles[n], text)
        return text

    @property
    def persons(self) -> list[str]:
        """The names of the responders who did not sign with a role, such as ``Tech Lead``."""
        return [name for name in self.incident.people if name not in PATH]

    @property
    def _roles(self) -> list[str]:
        persons = self.persons
        return [
            name if name in PATH else f"responder {persons.index(name) + 1}" if len(persons) > 1 else "the responder"
            for name in self.incident.people
        ]

    @property
    def title(self) -> str:
        """What was broken, for how long and on which day."""
        return self.role(headline.title(self.incident))

    @property
    def header(self) -> TextBlock:
        """Since when and until when, whose fault, what still worked, what was done, and what to do first."""
        found = self.incident
        resolved, mitigated = found.times["resolved"].at_us, found.times["mitigated"].at_us
        over = found.status == "resolved" and resolved is not None
        if resolved is not None and over:
            status = f"Resolved at {_local(resolved)} New York: {self._said_of('resolved')}"
        elif mitigated is not None and found.status == "mitigated":
            status = f"Mitigated at {_local(mitigated)} New York, not resolved"
        else:
            status = found.status[:1].upper() + found.status[1:]
        lines: list[tuple[str, str]] = [
            ("Since when", self._since),
            ("Whose fault", self._fault),
            *(("Still worked", works) for works in filter(None, [", ".join(self._still_worked)])),
            *(("Done", done) for done in filter(None, [self._done])),
            *(("Only dry runs, nothing was changed", dry) for dry in filter(None, [self._dry_runs])),
        ]
        first = actions.items(self.written("actions"))
        if first and "what" in first[0]:
            what = first[0]["what"].replace("\\", "").partition(": ")[0]
            more = [f"{name} {first[0][name]}" for name in ("owner", "due") if first[0].get(name)]
            lines.append(("First action item", ", ".join([formatting.single_line(what), *more])))
        lines.append(("Incident", self._state))
        return answer("ok" if over else "warning" if found.status == "mitigated" else "critical", status, lines)

    @property
    def _since(self) -> str:
        """When it began, in both time zones and as exactly as it is known, and when its alert was over."""
        began, ended = durations.span(self.incident)
        if began is None:
            return f"unknown ({self.incident.times['began'].source})"
        precision_s = self.incident.times["began"].precision_s
        about = "" if precision_s is not None and precision_s <= GRID_S else "about "
        day = f"{clock.instant(began).astimezone(formatting.NEW_YORK):%Y-%m-%d}"
        until = (
            f"; {durations.end(self.incident)} at {_local(ended)}"
            if ended is not None and len(self._durations) > 1
            else ""
        )
        return f"{day}, {about}{_local(began)} New York ({durations.to_the_minute(began):%H:%M} UTC){until}"

    @property
    def _state(self) -> str:
        """The incident, its peak severity, the status of the document, and when the review is due."""
        peak, status = self.incident.peak, self.status.lower()
        return f"{self.incident.id}; peak severity: {peak}; postmortem: {status}, review due by {self._review:%Y-%m-%d}"

    @property
    def _done(self) -> str:
        """The actions that were done, and how it was mitigated."""
        found = self.incident
        done = [(step, did.entry.at_us) for (_, step), did in found.steps.items() if did.state == "done"]
        parts = [f"{_local(at_us)} {purpose(step)}" for step, at_us in done]
        if mitigated := found.of_kind("mitigated"):
            parts.append(f"{_local(mitigated[-1].at_us)} mitigated: {self._said_of('mitigated')}")
        return "; ".join(parts)

    @property
    def _dry_runs(self) -> str:
        """The actions that were only dry runs."""
        return "; ".join(
            f'"{purpose(step)}"' for (_, step), did in self.incident.steps.items() if did.state == "rehearsed"
        )

    def _said_of(self, kind: str) -> str:
        """Return what a responder wrote when the incident was mitigated or resolved the last time."""
        text = words(self.incident.of_kind(kind)[-1]).partition("; previous entry E")[0]
        return formatting.single_line(self.role(text.removeprefix(f"{kind}: ")), 120)

    @property
    def _review(self) -> datetime:
        """When the review is due: within three days of the detection of a critical incident, else within a week."""
        detected = self.incident.times["detected"].at_us or self.incident.entries[0].at_us
        worst = max(self._minutes, key=self._order, default="notify")
        return clock.instant(detected) + MEETING.get(worst, timedelta(days=7))

    @property
    def _fault(self) -> str:
        """Whose fault it is, and how certain that is; the title says what was broken."""
        found = headline.cause_of(self.incident)
        if found.cause not in headline.PAST:
            return "unknown: the record holds no cause"
        sure = f" (confidence {formatting.ratio(found.confidence, 0)})" if found.confidence is not None else ""
        shown_by = f" [{found.entry.id}]" if found.entry else ""
        return f"{found.whose}{sure}{shown_by}"

    @property
    def _still_worked(self) -> list[str]:
        """What still worked, by the captured metrics: providers, live prices, Greeks; empty if nothing is known."""
        found = {f.id: f.result for f in figures.figures(self.incident)}
        rule, works = self.incident.rule, list[str]()
        for name in PROVIDERS:
            failed = found[f"{name}_failed"]
            if name != self.incident.subject and failed.value is not None and failed.value < STILL_WORKS:
                count = formatting.number(failed.count)
                served = formatting.number((failed.count or 0) - (failed.part or 0))
                words = f"{name.title()} ({served} of {count} requests succeeded"
                if self.incident.subject == "massive" and found["fallbacks"].value:
                    fallbacks = formatting.number(found["fallbacks"].value)
                    words += f"; it served {fallbacks} requests after Massive and all retries failed"
                works.append(f"{words})")
        if not rule.startswith("websocket") and found["websocket_down"].value == 0:
            works.append("live prices over the WebSocket (never down)")
        greeks = next(f for f in figures.figures(self.incident) if f.id == "greeks_invalid")
        invalid, is_ok = greeks.result.value, figures.verdict(self.incident, greeks) == "ok"
        if not rule.startswith(("greeks", "gamma", "delta")) and invalid is not None and is_ok:
            works.append(f"Greeks ({formatting.ratio(1 - invalid, 1)} valid)")
        return works

    @property
    def _durations(self) -> list[Duration]:
        """How long it lasted, by each measure."""
        return durations.measure(self.incident)

    @property
    def key_figures(self) -> TextBlock:
        """How long it lasted by each measure, what failed, and how fast people were."""
        found = {f.id: f for f in self.figures}
        made = [self._lasted(each) for each in self._durations]
        made += [self._counted(found[name], label) for name, label in _impact_of(self.incident)[: 4 - len(made)]]
        for name, label, start, within_s in SPEEDS:
            took = found[name].result.value
            state = ("ok" if took <= within_s else "warning") if took is not None and within_s else ""
            goal = f"{start}; goal: {formatting.duration(within_s)}" if within_s else start
            text = durations.rounded(took) if took is not None else formatting.UNKNOWN
            made.append(KeyFigure(label, text, state if took is not None else "unknown", (goal, *self._notes(name))))
        return key_figures(made)

    def _lasted(self, each: Duration) -> KeyFigure:
        """Return one of the durations, with its span."""
        label = f"{each.label[:1].upper()}{each.label[1:]}"
        if each.seconds is None:
            return KeyFigure(label, formatting.UNKNOWN, "unknown", (self._not_over,))
        return KeyFigure(label, durations.rounded(each.seconds), "", (each.span, each.note))

    @property
    def _not_over(self) -> str:
        return "it is not over" if self.incident.status not in CLOSED else "not recorded"

    def _notes(self, name: str) -> list[str]:
        """Return the notes of a speed: how a mitigation was made that was no action, and the acknowledgement."""
        if name == "TTD":
            took = next(f.result.value for f in figures.durations(self.incident) if f.id == "TTA")
            return [f"acknowledged {durations.rounded(took)} later"] if took is not None else []
        ends = [did for did in self.incident.steps.values() if _ends_impact(did)]
        if self.incident.times["mitigated"].at_us is not None and ends and all(d.state == "rehearsed" for d in ends):
            return ["by a person; the runbook's action was only a dry run"]
        return []

    def _counted(self, figure: Figure, label: str) -> KeyFigure:
        """Return one figure of the impact, with its verdict by the thresholds of the rules."""
        value, part, count, _ = figure.result
        began, ended = durations.span(self.incident)
        between = f", {_local(began)}–{_local(ended)}" if began is not None and ended is not None else ""
        notes = () if count is None else (f"{formatting.number(part)} of {formatting.number(count)}{between}",)
        if value is None:
            return KeyFigure(label, formatting.UNKNOWN, "unknown")
        text = formatting.ratio(value, 1) if figure.unit == "ratio" else figure.text
        return KeyFigure(label, text, figures.verdict(self.incident, figure), notes)

    @staticmethod
    def _order(severity: str) -> int:
        return (
            ("warning", "notify", "critical", "escalate").index(severity)
            if severity in ("warning", "notify", "critical", "escalate")
            else 0
        )

    @property
    def _minutes(self) -> dict[str, float]:
        """The minutes at each severity, to the end of the incident, or to the last entry while it is not resolved."""
        found, spans = self.incident, dict[str, float]()
        end = durations.span(found)[1] or self.last_entry.at_us
        marks = [(us, severity) for us, severity, _ in sorted(found.severities)]
        for (us, severity), following in zip(marks, [*(m[0] for m in marks[1:]), end]):
            spans[severity] = spans.get(severity, 0.0) + max(0.0, min(following, end) - us) / 60e6
        return {s: round(m, 1) for s, m in spans.items() if m}

    @property
    def impact(self) -> TextBlock:
        """The impact from the beginning until the alert was over: each number with total and evidence."""
        rows = [
            [f.words, f.text, ", ".join(f.evidence) or "none"]
            for f in figures.figures(self.incident)
            if f.id != "lasted"  # It is among the durations.
        ]
        return table(f"From the beginning until {durations.end(self.incident)}", ["measure", "value", "evidence"], rows)

    @property
    def outage(self) -> TextBlock | None:
        """The chart of the outage with the times of the incident; None if no metrics were captured."""
        found = outage_chart.outage_of(self.incident)
        if found is None:
            return None
        words = outage_chart.describe(self.incident, found)
        picture = next(
            (e for e in reversed(self.incident.of_kind("evidence")) if e.body.get("name") == OUTAGE_PICTURE), None
        )
        described = formatting.in_markdown(words)
        return TextBlock(
            words,
            "reports/templates/outage.html",
            {"svg": outage_chart.svg(self.incident, found)},
            described
            if picture is None
            else f"![{described}](evidence/{picture.body['picture']['sha256']}.png)\n\n{described}",
        )

    def show_outage(self) -> None:
        """Show the chart of the outage in a notebook, as a picture; nothing if no metrics were captured."""
        found = outage_chart.outage_of(self.incident)
        if found is not None:
            words = outage_chart.describe(self.incident, found)
            charts.show(
                {"text/plain": words},
                lambda ax: outage_chart.draw(ax, self.incident, found),
                OUTAGE_PICTURE,
                words,
                outage_chart.SIZE_INCHES,
            )

    @property
    def times(self) -> TextBlock:
        """The five times of the incident, each with its source and precision; unknown if there is no evidence."""
        rows = []
        for name in TIMES:
            found = self.incident.times[name]
            at = formatting.moment(clock.instant(found.at_us)) if found.at_us is not None else formatting.UNKNOWN
            rows.append(
                [
                    name,
                    at,
                    self.role(event_words.source(found.source)),
                    f"± {found.precision_s:g} s" if found.precision_s is not None else formatting.UNKNOWN,
                    found.evidence or "none",
                ]
            )
        return table("Times of the incident", ["event", "time", "source", "precision", "evidence"], rows)

    @property
    def durations(self) -> TextBlock:
        """How long it lasted and how fast people were; no means, since durations of incidents vary too much."""
        rows = [
            [
                each.label,
                durations.exact(each.seconds) if each.seconds is not None else formatting.UNKNOWN,
                event_words.source(each.starts),
                each.ends,
                ", ".join(each.evidence) or "none",
            ]
            for each in self._durations
        ]
        rows += [
            [figures.DURATION_NAMES[f.id], f.text, *f.words.split(" to "), ", ".join(f.evidence) or "none"]
            for f in figures.durations(self.incident)
            if f.id != "TTR"  # It is the time until resolved, above.
        ]
        return table("Durations, and what each one counts", ["measure", "duration", "starts", "ends", "evidence"], rows)

    @property
    def timeline(self) -> TextBlock:
        """
        The events from the beginning of the incident in few rows, in both time zones.

        An event that was recorded later stands at the time at which it happened, with the delay.
        """
        found = timeline.rows(self.incident)
        rows = timeline.cells(found, self.role, self._who)
        return table(f"Events from {timeline.day_of(found)}", ["UTC", "New York", "event", "evidence"], rows)

    def _who(self, name: str) -> str:
        """Return the role of a person."""
        return self._roles[self.incident.people.index(name)]

    @property
    def detection(self) -> TextBlock:
        """How the incident was detected, and which notifications were sent."""
        sent = self.incident.of_kind("told")
        lines = [f"detected: {self.role(event_words.time(self.incident.times['detected']))}"]
        lines += [f"{e.body['words']} [{e.id}]" for e in sent] or ["no notification was sent"]
        return bullet_list("Alerts and notifications", lines)

    @property
    def response(self) -> TextBlock:
        """The diagnosis, the actions and what ended the incident, in order; checks are in the timeline."""
        lines = [
            row
            for row in timeline.every_row(self.incident)
            if row.entries[-1].kind in ("diagnosis", "mitigated", "resolved", "reopened", "handover")
            or (row.entries[-1].kind == "step" and row.entries[-1].body["state"] not in ("seen", "skipped", "judged"))
        ]
        rows = timeline.cells(lines, self.role, self._who)
        title = f"Diagnosis and actions from {timeline.day_of(lines)}" if lines else "Diagnosis and actions"
        return table(title, ["UTC", "New York", "action", "evidence"], rows, "no action is on record")

    @property
    def appendix(self) -> TextBlock:
        """Every entry of the record with its SHA-256."""
        rows = [
            [e.id, f"{clock.instant(e.at_us):%H:%M:%S}", e.kind_name, self.role(words(e)), e.digest]
            for e in self.incident.entries
        ]
        last = self.last_entry
        title = f"Entries E1 to {last.id}, in the order of recording"
        return one_after_another(
            table(title, ["entry", "UTC", "kind", "content", "SHA-256"], rows),
            bullet_list("Source", [f"made from the record up to {last.id}, SHA-256 {last.digest}"]),
        )

    @property
    def sections(self) -> list[Section]:
        """Each section in order."""
        pages = links([("the incident and its runbooks", incident_page.NAME)])
        summary = (self.header, self.key_figures, self.outage, pages)
        return [
            Section(HEADINGS["overview"], tuple(block for block in summary if block), "overview"),
            Section(HEADINGS["actions"], (), "actions"),
            Section("How long it took", (self.durations, folded("The five times, with their sources", self.times))),
            Section("Impact", (self.impact,), folds="Every figure with its total and its evidence"),
            Section("Timeline", (self.timeline,)),
            Section(HEADINGS["detection"], (self.detection,), "detection"),
            Section(HEADINGS["factors"], (), "factors"),
            Section(HEADINGS["response"], (self.response,), "response"),
            Section(HEADINGS["well"], (), "well"),
            Section(HEADINGS["badly"], (), "badly"),
            Section(HEADINGS["lucky"], (), "lucky"),
            Section(HEADINGS["messages"], (), "messages"),
            Section("Appendix: evidence", (self.appendix,), folds="Every entry of the record with its SHA-256"),
        ]

    @property
    def markdown(self) -> str:
        """The document in Markdown, with a text field for each section that people write."""
        parts = [
            f"# {formatting.in_markdown(self.title)}",
            "",
            f"Postmortem of incident {self.incident.id}. Write only in the text fields, between a comment "
            "`write below` and its `end of`. `ops postmortem` rebuilds everything else from the record.",
            "",
        ]
        for section in self.sections:
            parts += [f"## {section.heading}", ""]
            for facts in section.facts:
                parts += [facts.markdown, ""]
            if key := section.key:
                parts += [OPENS.format(key), self.written(key), CLOSES.format(key), ""]
        return "\n".join(parts)

    @property
    def html(self) -> str:
        """
        The document as one HTML page without scripts or requests.

        Sections without facts and without a text are listed at the end, with what to write.
        """
        missing = [
            (HEADINGS[s.key], ASKED[s.key])
            for s in self.sections
            if s.key and s.key != "actions" and not self.is_written(s.key)
        ]
        shown = [
            (s.heading, s.key, s.facts, s.folds, self._shown_text(s.key))
            for s in self.sections
            if s.facts or self._shown_text(s.key)
        ]
        made = templates.render(
            "reports/templates/postmortem.html",
            policy=html_export.POLICY,
            title=self.title,
            incident=self.incident.id,
            sections=shown,
            missing=missing,
        )
        return _with_links(made)

    def _shown_text(self, key: str) -> str:
        """Return the text of a section as HTML; empty if nobody wrote one."""
        if not key or not (self.is_written(key) or key == "actions"):
            return ""
        text = self.written(key)
        if key == "actions":
            text = text.replace(f"[{ASKED[key]}]", "*Suggested from the record; not confirmed yet.*")
        return markdown_to_html(text)

    def as_json(self) -> dict[str, Any]:
        """Return the numbers and texts, for programs and for `ops verify`."""
        return {
            "incident": self.incident.id,
            "status": self.status,
            "head": {"entry": self.last_entry.id, "digest": self.last_entry.digest},
            "figures": [f.as_json() for f in self.figures],
            "times": self.incident.as_json()["times"],
            "written": {section: self.written(section) for section in ASKED},
        }

    @property
    def files(self) -> dict[str, bytes]:
        """The published files besides the notebook, by suffix."""
        return {
            ".md": self.markdown.encode(),
            ".html": self.html.encode(),
            ".json": record.as_json(evidence.plain(self.as_json())).encode(),
        }

    def _repr_html_(self) -> str:
        return one_after_another(self.header, self.key_figures).html

    def __repr__(self) -> str:
        return "\n".join([self.title, self.header.plain, self.key_figures.plain])


def _local(at_us: int) -> str:
    """Return the time in New York, to the minute."""
    return f"{durations.to_the_minute(at_us).astimezone(formatting.NEW_YORK):%H:%M}"


def _ends_impact(did: StepRecord) -> bool:
    """Return whether a step is an action that ends the impact."""
    return bool((did.intended or did.entry).body.get("mitigates") or did.entry.body.get("mitigates"))


def _impact_of(incident: Incident) -> list[tuple[str, str]]:
    """Return the figures that show the impact of an incident, each with its label."""
    if incident.subject in PROVIDERS:
        found = [
            (f"{incident.subject}_failed", f"Failed requests to {incident.subject.title()}"),
            ("fallbacks", "Requests served by the fallback"),
        ]
    elif incident.rule.startswith(("greeks", "gamma", "delta")):
        found = [("greeks_invalid", "Invalid Greeks"), ("errors", "Errors of the app")]
    elif incident.rule.startswith("websocket"):
        found = [("websocket_down", "WebSocket down"), ("errors", "Errors of the app")]
    else:
        found = [("errors", "Errors of the app"), ("trades", "Trades closed meanwhile")]
    return found


def _with_links(page: str) -> str:
    """Make each entry of the appendix a target, and each mention of one in a cell or in brackets a link to it."""
    page = re.sub(r"<tr><th scope='row'>(E\d+)</th>", r"<tr id='\1'><th scope='row'>\1</th>", page)
    known = set(re.findall(r"<tr id='(E\d+)'>", page))

    def linked(cell: re.Match[str]) -> str:
        return (
            cell[1]
            + re.sub(r"E\d+", lambda e: f"<a href='#{e[0]}'>{e[0]}</a>" if e[0] in known else e[0], cell[2])
            + cell[3]
        )

    return re.sub(r"(<td[^>]*>|\[)(E\d+(?:(?:, |–)E\d+)*)(</td>|\])", linked, page)


def human_text(markdown: str) -> dict[str, str]:
    """Return the texts that people wrote in a document, by section."""
    return {name: text.strip() for name, text in _BLOCK.findall(markdown) if name in ASKED}


def outside(markdown: str) -> list[str]:
    """Return the lines of a document outside its text fields; the fields are empty."""
    return _BLOCK.sub(lambda m: f"{OPENS.format(m[1])}\n{CLOSES.format(m[1])}", markdown).splitlines()


def edited(theirs: str, ours: str) -> list[tuple[int, str]]:
    """Return the lines outside the text fields that differ from the generated ones, each with its number."""
    a, b = outside(theirs), outside(ours)
    return [(n + 1, line) for n, line in enumerate(a) if n >= len(b) or line != b[n]] + (
        [(len(a) + 1, "")] if len(a) < len(b) else []
    )


def published_texts(path: Path, digests: Mapping[str, str]) -> dict[str, str] | None:
    """
    Return the texts of a document as they were published, by section.

    Args:
        path: The Markdown of the document; the texts are in the JSON file of the same name.
        digests: The SHA-256 of each published file, by name.

    Returns:
        None if the JSON file is not the published one.
    """
    place = path.with_suffix(".json")
    try:
        content = files.read_bytes(place)
        if sha256(content).hexdigest() != digests.get(place.name):
            return None
        return {str(section): str(text) for section, text in json.loads(content)["written"].items()}
    except (OSError, ValueError, LookupError, AttributeError, TypeError, RecursionError, ImportRefused):
        return None


def only_texts_differ(markdown: str, texts: Mapping[str, str], digest: str) -> bool:
    """
    Return whether a document equals the published one except for its text fields.

    The comparison uses the digest of the published file, so it does not depend on the wording of this version.

    Args:
        texts: The published texts, by section.
        digest: The SHA-256 of the published document.
    """
    restored = _BLOCK.sub(lambda m: f"{OPENS.format(m[1])}\n{texts.get(m[1], m[2])}\n{CLOSES.format(m[1])}", markdown)
    return sha256(restored.encode()).hexdigest() == digest


BLAME = re.compile(
    r"(?i)\b(human error|operator error|user error|should have|should not have|shouldn't have|failed to|could "
    r"have|careless(?:ly|ness)?|negligen\w+|incompeten\w+|his fault|her fault|their fault|to blame|mistake of"
    r"|stupid\w*|obvious(?:ly)?)\b"
)
NOT_WRITTEN = "not written yet"
ONE_CAUSE = re.compile(r"(?i)\b(?:the )?root cause\b(?!s)")
CLOCK = re.compile(r"\b(\d{1,2}:\d{2})(?::\d{2})?\b(?!\s*(?:UTC|Z\b))")


class LintFinding(NamedTuple):
    """A problem of a postmortem: its section, the problem, and what to do."""

    section: str
    what: str
    todo: str

    def __repr__(self) -> str:
        return f"{HEADINGS.get(self.section, self.section)}: {self.what}. {self.todo}"


def by_section(lacks: list[LintFinding]) -> list[str]:
    """Return one line for each section that has problems: its heading, the problems, and what to do first."""
    found = {heading: [lack for lack in lacks if lack.section == section] for section, heading in HEADINGS.items()}
    return [
        f"{heading}: {'; '.join(lack.what for lack in mine)}. {mine[0].todo}" for heading, mine in found.items() if mine
    ]


def lint(found: Postmortem) -> list[LintFinding]:
    """List the problems to fix before a postmortem is reviewed, in the order of its sections."""
    lacks: list[LintFinding] = []
    for section in HEADINGS:
        question, text = ASKED[section], found.written(section)
        if section != "actions" and (not text.strip() or text.strip() == f"[{question}]"):
            lacks.append(LintFinding(section, NOT_WRITTEN, question))
            continue
        lacks += [
            LintFinding(
                section, f"assigns blame ({m[0]!r})", "Describe what happened and why it was likely, not who did it."
            )
            for m in BLAME.finditer(text)
        ]
        lacks += [
            LintFinding(section, f"names {name!r}", "Write the role of the person; names stay in the record.")
            for name in found.persons
            if section != "actions" and re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text)
        ]
        lacks += [
            LintFinding(section, f"gives the time {m[1]} without UTC", "Give times in UTC, such as 15:22 UTC.")
            for m in CLOCK.finditer(text)
        ]
        lacks += [
            LintFinding(section, "names one root cause", "List several contributing factors.")
            for _ in ONE_CAUSE.findall(text)
        ]
        if section == "factors":
            lacks += _lint_factors(text)
        if section == "actions":
            if f"[{question}]" in text:
                todo = "Keep the items that are needed, confirm owners and dates, and remove the line in brackets."
                lacks.append(LintFinding(section, "the suggested items are not confirmed", todo))
            lacks += [LintFinding(section, what, todo) for what, todo in actions.problems(text)]
    return lacks


def _lint_factors(text: str) -> list[LintFinding]:
    """Return the problem of a text with fewer than two contributing factors."""
    factors = [line for line in text.splitlines() if re.match(r"\s*(?:[-*]|\d+\.)\s+\S", line)]
    if len(factors) >= 2:
        return []
    what = f"lists {timeline.plural(len(factors), 'factor')}"
    return [LintFinding("factors", what, "List at least two, each on a line that begins with -.")]


def of_incident(found: Incident, upto: str = "") -> Postmortem:
    """
    Return the postmortem of an incident.

    Args:
        upto: The last entry of the record to use, such as ``E42``; empty is all of it.
    """
    return Postmortem(from_entries(found.id, found.entries[: found.find(upto).seq]) if upto else found)
