"""
Hold the postmortem of one incident: facts read off its record, and between them what people have written.

It is a function of the record up to one entry, its head; so whoever has the record can render it again, and sees what
was
edited. Names stay in the record: here those who acted are "the responder", for it is about what happened, not about
who.
"""

import re
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NamedTuple

from opslib.dashboard.text_blocks import TextBlock, bullet_list, markdown_to_html, one_after_another, table
from opslib.foundation import clock, formatting, templates
from opslib.incidents import evidence
from opslib.incidents.evidence import Entry
from opslib.incidents.incident import TIMES, Incident, from_entries, words
from opslib.jobs import html_export, record
from opslib.reports.postmortem import figures
from opslib.reports.postmortem.figures import Figure

STATUSES = ("Draft", "In review", "Reviewed", "Closed")
# Of the severest within three days, of others within a week.
MEETING = {"critical": timedelta(days=3), "escalate": timedelta(days=3)}
KINDS = ("prevent", "mitigate", "detect", "process")
PRIORITIES = ("high", "medium", "low")
OPENS, CLOSES = "<!-- write below: {} -->", "<!-- end of {} -->"
# What people write, by section: what is asked of them. Until they do, that stands there in brackets.
ASKED = {
    "overview": "Two sentences: what contributed, how long it lasted, what it did to whom.",
    "detection": "How was it noticed: by which alert, by a person, by chance? Which alert should have fired? "
    "What would halve that time?",
    "factors": "Contributing factors, several: what set it off, which conditions let it, what in how we work;"
    " what made it worse. No person is a cause.",
    "response": "What was tried, in order, and with what result; what ended it, and whether that holds for good.",
    "well": "What went well?",
    "badly": "What went badly?",
    "lucky": "Where were we lucky? What surprised us?",
    "messages": "What was said to those who trade, and to others?",
    "actions": "",
}
HEADER = "| what | type | owner | priority | due | tracker |\n|---|---|---|---|---|---|"
_BLOCK = re.compile(r"<!-- write below: (\w+) -->\n(.*?)\n<!-- end of \1 -->", re.DOTALL)


@dataclass(frozen=True)
class Postmortem:
    """
    The postmortem of one incident, as its record has it.

    Attributes:
        incident: By its record, up to the head.
    """

    incident: Incident

    @property
    def status(self) -> str:
        """Draft, In review, Reviewed or Closed."""
        return self.incident.document or STATUSES[0]

    @property
    def drills(self) -> list[str]:
        """
        The cases that its action items name as what must pass before it is closed: ``drill ID`` in the column of the
        tracker.
        """
        trackers = [row[5] for row in _items(self.written("actions")) if len(row) > 5]
        return list(
            dict.fromkeys(found[1] for tracker in trackers if (found := re.fullmatch(r"drill\s+([\w.-]+)", tracker)))
        )

    @property
    def head(self) -> Entry:
        """The newest entry of the record that it was made from."""
        return self.incident.head

    @property
    def figures(self) -> list[Figure]:
        """Every number in it."""
        return [*figures.figures(self.incident), *figures.durations(self.incident)]

    def written(self, section: str) -> str:
        """What people have written there; what is asked of them, in brackets, until they do."""
        if section in self.incident.written:
            return str(self.incident.written[section].body["text"])
        return self._suggested() if section == "actions" else f"[{ASKED[section]}]"

    def _suggested(self) -> str:
        """Action items as the record suggests them; who does them and by when is for people to say."""
        rows = []
        for (runbook, step), did in self.incident.steps.items():
            body = did.entry.body
            if did.state == "rehearsed":
                rows.append(
                    (f"set a hook for step {step} of runbook {runbook}: it could only be rehearsed", "mitigate")
                )
            elif did.state == "failed":
                rows.append((f"find out why step {step} of runbook {runbook} failed", "mitigate"))
            elif did.state == "skipped":
                rows.append((f"step {step} of runbook {runbook} was not done: does it belong there?", "process"))
            elif did.state == "seen" and body.get("good") is None:
                rows.append((f"make step {step} of runbook {runbook} able to see: it was unknown", "detect"))
        books = dict.fromkeys(e.body["runbook"] for e in self.incident.of_kind("runbook"))
        rows += [(f"change runbook {b} (runbooks/{b}.ipynb), step …: what was learnt", "process") for b in books]

        def cell(c: str) -> str:
            return formatting.in_markdown(c)

        return "\n".join([HEADER, *(f"| {cell(what)} | {kind} |  |  |  |  |" for what, kind in rows)])

    # Facts.

    def role(self, told: str) -> str:
        """Text in which who acted is the responder, not a name."""
        for n, name in sorted(enumerate(self.incident.people), key=lambda p: -len(p[1])):
            told = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", self._roles[n], told)
        return told

    @property
    def _roles(self) -> list[str]:
        several = len(self.incident.people) > 1
        return [f"responder {n + 1}" if several else "the responder" for n in range(len(self.incident.people))]

    @property
    def header(self) -> TextBlock:
        """What it is about, how bad it was, how far this document is, by when people meet over it."""
        found = self.incident
        detected = found.times["detected"].at_us or found.entries[0].at_us
        meet = clock.instant(detected) + MEETING.get(
            max(self._minutes, key=lambda s: self._order(s), default="notify"), timedelta(days=7)
        )
        lines = [
            f"incident {found.id}, {found.status}; subject {found.subject}; runbook {found.runbook}",
            f"status of this document: {self.status}",
            "minutes at each severity: "
            + (", ".join(f"{s} {m:g}" for s, m in self._minutes.items()) or formatting.UNKNOWN),
            f"to be talked over by {meet:%Y-%m-%d} (UTC)",
            f"made from the record up to {self.head.id}, SHA-256 {self.head.digest}",
        ]
        return bullet_list(f"Postmortem of {found.id}: {self.role(found.title)}", lines)

    @staticmethod
    def _order(severity: str) -> int:
        return (
            ("warning", "notify", "critical", "escalate").index(severity)
            if severity in ("warning", "notify", "critical", "escalate")
            else 0
        )

    @property
    def _minutes(self) -> dict[str, float]:
        """How long it was at each severity, minutes; to its end, or to the head while it is not over."""
        found, spans = self.incident, dict[str, float]()
        end = figures.span(found)[1] or self.head.at_us
        marks = [(us, severity) for us, severity, _ in sorted(found.severities)]
        for (us, severity), following in zip(marks, [*(m[0] for m in marks[1:]), end]):
            spans[severity] = spans.get(severity, 0.0) + max(0.0, min(following, end) - us) / 60e6
        return {s: round(m, 1) for s, m in spans.items() if m}

    @property
    def impact(self) -> TextBlock:
        """
        What it did, from when it began: each number with what it is a part of, and the evidence that it comes out of.
        """
        rows = [[f.words, f.told, ", ".join(f.evidence) or "none"] for f in figures.figures(self.incident)]
        return table("Impact, from when it began", ["what", "how much", "evidence"], rows)

    @property
    def times(self) -> TextBlock:
        """Five times, each with what shows it and how exactly; unknown stays unknown."""
        rows = []
        for name in TIMES:
            found = self.incident.times[name]
            at = formatting.moment(clock.instant(found.at_us)) if found.at_us is not None else formatting.UNKNOWN
            rows.append(
                [
                    name,
                    at,
                    self.role(found.source),
                    f"{found.precision_s:g} s" if found.precision_s is not None else formatting.UNKNOWN,
                    found.evidence or "none",
                ]
            )
        return table("Five times", ["", "when", "shown by", "to within", "evidence"], rows)

    @property
    def durations(self) -> TextBlock:
        """Four durations of this incident alone: means over many say little of durations as uneven as these."""
        return table(
            "Four durations",
            ["", "from", "how long", "evidence"],
            [[f.id, f.words, f.told, ", ".join(f.evidence) or "none"] for f in figures.durations(self.incident)],
        )

    @property
    def timeline(self) -> TextBlock:
        """
        What happened, in UTC, from before it began; what was known only later stands by when it happened, and says so.
        """
        rows = []
        for e in self.incident.timeline:
            late = (
                f" (written down {formatting.duration((e.known_at_us - e.at_us) / 1e6)} later)"
                if e.known_at_us - e.at_us > 60_000_000 and e.kind in ("note", "mark", "mitigated", "resolved")
                else ""
            )
            who = f"{self._roles[self.incident.people.index(e.by)]}: " if e.by in self.incident.people else ""
            rows.append([f"{clock.instant(e.at_us):%Y-%m-%d %H:%M:%S} UTC", who + self.role(words(e)) + late, e.id])
        return table("Timeline", ["when", "what", "evidence"], rows)

    @property
    def detection(self) -> TextBlock:
        """What noticed it, and what was told to whom."""
        told = self.incident.of_kind("told")
        lines = [f"detected: {self.role(repr(self.incident.times['detected']))}"]
        lines += [f"{e.body['words']} [{e.id}]" for e in told] or ["nobody was told by a channel"]
        return bullet_list("Detection", lines)

    @property
    def response(self) -> TextBlock:
        """What was done, in order: diagnoses, steps, what changed the world."""
        rows = [
            [f"{clock.instant(e.at_us):%H:%M:%S} UTC", self.role(words(e)), e.id]
            for e in self.incident.timeline
            if e.kind in ("runbook", "diagnosis", "step", "mitigated", "resolved", "reopened", "handover")
        ]
        return table("Response", ["when", "what", "evidence"], rows, "nothing was done that is on record")

    @property
    def appendix(self) -> TextBlock:
        """Every piece of evidence, with its SHA-256."""
        rows = [[e.id, e.kind, self.role(words(e)), e.digest] for e in self.incident.entries]
        return table(f"Evidence, to {self.head.id}", ["", "kind", "what", "SHA-256"], rows)

    @property
    def sections(self) -> list[tuple[str, TextBlock | None, str]]:
        """Heading, facts, and which of `ASKED` stands below them, in order."""
        return [
            ("Overview", self.header, "overview"),
            ("Impact", self.impact, ""),
            (
                "Five times, four durations",
                one_after_another(self.times, self.durations),
                "",
            ),
            ("Timeline", self.timeline, ""),
            ("Detection", self.detection, "detection"),
            ("Contributing factors", None, "factors"),
            ("Response", self.response, "response"),
            ("What went well", None, "well"),
            ("What went badly", None, "badly"),
            ("Where we were lucky", None, "lucky"),
            ("Action items", None, "actions"),
            ("Messages", None, "messages"),
            ("Appendix: evidence", self.appendix, ""),
        ]

    # Forms.

    @property
    def markdown(self) -> str:
        """
        The document that people write in: theirs is what stands between the marks, all else is made anew each time.
        """
        parts = [
            f"# Postmortem of {self.incident.id}",
            "",
            "What stands between the marks is yours to write; everything else is made anew from the record "
            "by `ops postmortem`.",
            "",
        ]
        for heading, facts, section in self.sections:
            parts += [f"## {heading}", ""]
            parts += [facts.markdown, ""] if facts else []
            parts += [OPENS.format(section), self.written(section), CLOSES.format(section), ""] if section else []
        return "\n".join(parts)

    @property
    def html(self) -> str:
        """The same as one page that opens anywhere: no script, no request."""
        return templates.render(
            "reports/templates/postmortem.html",
            policy=html_export.POLICY,
            incident=self.incident.id,
            sections=[
                (heading, facts, markdown_to_html(self.written(section)) if section else "")
                for heading, facts, section in self.sections
            ],
        )

    def as_json(self) -> dict[str, Any]:
        """The numbers, for a program and for `ops verify`."""
        return {
            "incident": self.incident.id,
            "status": self.status,
            "head": {"entry": self.head.id, "digest": self.head.digest},
            "figures": [f.as_json() for f in self.figures],
            "times": self.incident.as_json()["times"],
            "written": {section: self.written(section) for section in ASKED},
        }

    @property
    def files(self) -> dict[str, bytes]:
        """What is published beside the notebook, by ending."""
        return {
            ".md": self.markdown.encode(),
            ".html": self.html.encode(),
            ".json": record.as_json(evidence.plain(self.as_json())).encode(),
        }

    def __repr__(self) -> str:
        return self.header.plain


def human_text(markdown: str) -> dict[str, str]:
    """What stands between the marks of a document, by section."""
    return {name: told.strip() for name, told in _BLOCK.findall(markdown) if name in ASKED}


def outside(markdown: str) -> list[str]:
    """What stands outside the marks of a document, line by line; between them nothing."""
    return _BLOCK.sub(lambda m: f"{OPENS.format(m[1])}\n{CLOSES.format(m[1])}", markdown).splitlines()


def edited(theirs: str, ours: str) -> list[tuple[int, str]]:
    """Which lines outside the marks differ from what was made: their number, and what stands there."""
    a, b = outside(theirs), outside(ours)
    return [(n + 1, line) for n, line in enumerate(a) if n >= len(b) or line != b[n]] + (
        [(len(a) + 1, "")] if len(a) < len(b) else []
    )


BLAME = re.compile(
    r"(?i)\b(human error|operator error|user error|should have|should not have|shouldn't have|failed to|could "
    r"have|careless(?:ly|ness)?|negligen\w+|incompeten\w+|his fault|her fault|their fault|to blame|mistake of"
    r"|stupid\w*|obvious(?:ly)?)\b"
)
ONE_CAUSE = re.compile(r"(?i)\b(?:the )?root cause\b(?!s)")
CLOCK = re.compile(r"\b(\d{1,2}:\d{2})(?::\d{2})?\b(?!\s*(?:UTC|Z\b))")


class LintFinding(NamedTuple):
    """Something that a postmortem lacks, or says as it had better not: where, what, and what to do."""

    section: str
    what: str
    todo: str

    def __repr__(self) -> str:
        return f"{self.section}: {self.what}. {self.todo}"


def lint(found: Postmortem) -> list[LintFinding]:
    """What does a postmortem lack before others read it? Nothing found is an empty list."""
    lacks: list[LintFinding] = []
    for section, asked in ASKED.items():
        told = found.written(section)
        if section != "actions" and (not told.strip() or told.strip() == f"[{asked}]"):
            lacks.append(LintFinding(section, "nobody has written it", asked))
            continue
        lacks += [
            LintFinding(section, f"blames ({m[0]!r})", "Say what happened and what made it likely, not who did wrong.")
            for m in BLAME.finditer(told)
        ]
        lacks += [
            LintFinding(section, f"names {name!r}", "Say which role acted; names stay in the record.")
            for name in found.incident.people
            if section != "actions" and re.search(rf"(?<!\w){re.escape(name)}(?!\w)", told)
        ]
        lacks += [
            LintFinding(section, f"gives the time {m[1]} without UTC", "Give times in UTC, such as 15:22 UTC.")
            for m in CLOCK.finditer(told)
        ]
        lacks += [
            LintFinding(section, "speaks of one root cause", "Name contributing factors: there are several.")
            for _ in ONE_CAUSE.findall(told)
        ]
    factors = [line for line in found.written("factors").splitlines() if re.match(r"\s*(?:[-*]|\d+\.)\s+\S", line)]
    if len(factors) < 2 and not any(lack.section == "factors" and "nobody" in lack.what for lack in lacks):
        lacks.append(
            LintFinding(
                "factors",
                f"lists {len(factors)} factor{'' if len(factors) == 1 else 's'}",
                "List at least two, one a line beginning with -.",
            )
        )
    return lacks + _of_actions(found.written("actions"))


def _items(told: str) -> list[list[str]]:
    """The action items of a table as it is written in Markdown, cell by cell."""
    return [
        [c.strip() for c in re.split(r"(?<!\\)\|", line.strip().strip("|"))]
        for line in told.splitlines()
        if line.strip().startswith("|")
    ][2:]


def _of_actions(told: str) -> list[LintFinding]:
    rows = _items(told)
    if not rows:
        return [
            LintFinding(
                "actions",
                "there is no action item",
                "Say what is changed so that this is rarer, shorter or seen sooner.",
            )
        ]
    found = []
    for n, row in enumerate(rows, 1):
        what, kind, owner, priority, due = [*row, "", "", "", "", ""][:5]
        name = f"item {n} ({formatting.single_line(what, 40)})"
        found += [
            LintFinding("actions", f"{name} has no {missing}", todo)
            for missing, value, todo in (
                ("owner", owner, "Name who does it."),
                ("due date", due, "Give a day, such as 2026-03-20."),
            )
            if not value
        ]
        found += (
            [LintFinding("actions", f"{name} is of type {kind!r}", f"One of {', '.join(KINDS)}.")]
            if kind not in KINDS
            else []
        )
        found += (
            [LintFinding("actions", f"{name} has the priority {priority!r}", f"One of {', '.join(PRIORITIES)}.")]
            if priority not in PRIORITIES
            else []
        )
        found += (
            [LintFinding("actions", f"{name} is due {due!r}, which is no day", "Give a day, such as 2026-03-20.")]
            if due and not re.fullmatch(r"\d{4}-\d{2}-\d{2}", due)
            else []
        )
    return found


def of_incident(found: Incident, upto: str = "") -> Postmortem:
    """
    The postmortem of an incident.

    Args:
        upto: The entry up to which its record is read, such as ``E42``; empty is all of it.
    """
    return Postmortem(from_entries(found.id, found.entries[: found.find(upto).seq]) if upto else found)
