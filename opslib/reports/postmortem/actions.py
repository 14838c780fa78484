"""
Suggest the action items of a postmortem from the record, and check those that people wrote.

Suggestions are few: a step is evaluated by its last entry, and one whose result was as expected is no item.
"""

import re
from datetime import timedelta
from typing import NamedTuple

from opslib.alerting import causes
from opslib.foundation import clock, formatting
from opslib.incidents import durations
from opslib.incidents.incident import Incident, words
from opslib.reports.postmortem import figures, headline
from opslib.reports.postmortem.timeline import plural
from opslib.runbooks import steps
from opslib.runbooks.steps import purpose

KINDS = ("prevent", "detect", "mitigate", "process")
COLUMNS = ("what", "type", "owner", "due", "evidence", "tracker")
HEADER = f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}"
# What prevents an incident takes longer than the rest.
DUE = {"prevent": timedelta(days=30)} | dict.fromkeys(("detect", "mitigate", "process"), timedelta(days=14))
MOST = 6
# An outage that an alert detects is detected within this time.
DETECTED_WITHIN_S = 120.0
_UNKNOWABLE = "could not be determined"
_NOT_SET = re.compile(r"(\w+) is not set in settings\.toml")


class Item(NamedTuple):
    """An action item: what to do, its type, and the entries that show why."""

    what: str
    kind: str
    evidence: str


def suggested(incident: Incident) -> list[Item]:
    """Return at most six action items that the record suggests, the most important first."""
    mitigating, other = _of_actions(incident)
    items = [*mitigating, _prevention(incident), *other, *_detection(incident), *_unknown_checks(incident)]
    return [*items[: MOST - 1], *_of_runbooks(incident)]


def _of_actions(incident: Incident) -> tuple[list[Item], list[Item]]:
    """Return the items of actions that had no effect: of those that end the impact, and of others."""
    mitigating, other = list[Item](), list[Item]()
    for (runbook, step), did in incident.steps.items():
        about = f'"{purpose(step)}" of runbook {runbook}'
        if did.state == "rehearsed":
            known = steps.table().get(step)
            setting = f"; set {known.hook} in [hooks] of settings.toml" if known else ""
            what = f"Set up the action {about}: so far it is only a dry run{setting}"
        elif did.state == "failed":
            result = words(did.entry).removeprefix(f"{step}: ").removeprefix("failed: ")
            what = f"Find out why the action {about} failed: {result}"
        elif did.state == "intended":
            what = f"Find out whether the action {about} took effect: no outcome is recorded"
        else:
            continue
        body = did.intended.body if did.intended else did.entry.body
        ends_impact = bool(body.get("mitigates") or did.entry.body.get("mitigates"))
        (mitigating if ends_impact else other).append(Item(what, "mitigate", did.entry.id))
    return mitigating, other


def _prevention(incident: Incident) -> Item:
    """Return the item about the cause itself."""
    cause = headline.cause_of(incident)
    shown_by = cause.entry.id if cause.entry else incident.entries[0].id
    if cause.cause not in headline.PAST:
        return Item("Determine the cause: no diagnosis found one", "prevent", shown_by)
    if cause.cause in causes.NO_FAULT:
        return Item("Review the threshold: the alert had a cause that is nobody's fault", "prevent", shown_by)
    if cause.whose == cause.subject.title():
        below = next((f for f in figures.figures(incident) if f.id == f"{cause.subject}_minutes_critical"), None)
        of_min = f" of {below.result.part} min" if below and below.result.part else ""
        return Item(
            f"Ask {cause.whose} what caused the outage{of_min} and what prevents the next one", "prevent", shown_by
        )
    what = f'Remove the cause "{headline.past(cause)}" ({cause.whose.replace(": ", ", ")})'
    return Item(what, "prevent", shown_by)


def _detection(incident: Incident) -> list[Item]:
    """Return the items about how the incident was detected and who was notified."""
    detected = incident.times["detected"]
    shown_by = detected.evidence or incident.entries[0].id
    found = []
    if not incident.of_kind("alert"):
        found.append(Item("Add an alert rule: a person noticed the incident before an alert fired", "detect", shown_by))
    elif not incident.of_kind("told"):
        found.append(Item("Set up a notification channel: nobody was notified", "detect", shown_by))
    took = next(f.result.value for f in figures.durations(incident) if f.id == "TTD")
    if took is not None and took > DETECTED_WITHIN_S:
        what = f"Detect it sooner: it took {durations.rounded(took)} (goal: {formatting.duration(DETECTED_WITHIN_S)})"
        found.append(Item(what, "detect", shown_by))
    return found


def _unknown_checks(incident: Incident) -> list[Item]:
    """Return one item for the checks whose last result is unknown for a reason that can be removed."""
    seen = [
        (step, did.entry)
        for (_, step), did in incident.steps.items()
        if did.state == "seen" and did.entry.body.get("good") is None and _UNKNOWABLE not in words(did.entry)
    ]
    if not seen:
        return []
    names, shown_by = "; ".join(f'"{purpose(step)}"' for step, _ in seen), ", ".join(entry.id for _, entry in seen)
    if len(seen) > 1:
        return [Item(f"Make the results of these checks known: {names}", "detect", shown_by)]
    reason = words(seen[0][1]).removeprefix(f"{seen[0][0]}: ").partition(". ")[0].partition("; ")[0]
    if setting := _NOT_SET.search(reason):
        what = f"Set {setting[1]} in settings.toml: without it the check {names} has no result"
    else:
        what = f"Make the result of the check {names} known: {reason}"
    return [Item(what, "detect", shown_by)]


def _of_runbooks(incident: Incident) -> list[Item]:
    """Return one item for the runbooks that were used, with the number of questions that nobody answered."""
    opened = {str(e.body["runbook"]): e.id for e in incident.of_kind("runbook")}
    if not opened:
        return []
    skipped = sum(did.state == "skipped" for did in incident.steps.values())
    asked = skipped + sum(did.state == "judged" for did in incident.steps.values())
    left = f"; nobody answered {skipped} of its {plural(asked, 'question')}" if skipped else ""
    what = f"Add what was learned to {' and '.join(f'runbook {name}' for name in opened)}{left}"
    return [Item(what, "process", ", ".join(opened.values()))]


def table(incident: Incident) -> str:
    """Return the suggested items as a table in Markdown; the owner is the incident's, and people confirm each item."""
    first = clock.instant(incident.times["detected"].at_us or incident.entries[0].at_us)

    def line(item: Item) -> str:
        due = f"{first + DUE[item.kind]:%Y-%m-%d}"
        cells = (item.what, item.kind, incident.owner, due, item.evidence, "")
        return f"| {' | '.join(formatting.in_markdown(c) for c in cells)} |"

    return "\n".join([HEADER, *(line(item) for item in suggested(incident))])


def items(text: str) -> list[dict[str, str]]:
    """Return the action items of a table in Markdown, each by column; other columns than ours are allowed."""
    lines = [
        [c.strip() for c in re.split(r"(?<!\\)\|", line.strip().strip("|"))]
        for line in text.splitlines()
        if line.strip().startswith("|")
    ]
    return [dict(zip([c.lower() for c in lines[0]], line)) for line in lines[2:]] if lines else []


def problems(text: str) -> list[tuple[str, str]]:
    """Return what is missing in a table of action items, and what to do: one problem for all items that share it."""
    found = items(text)
    if not found:
        return [("no action item", "Add an action that prevents, detects or mitigates such an incident.")]
    wrong: dict[tuple[str, str], list[int]] = {}
    for n, item in enumerate(found, 1):
        kind, owner, due = (item.get(column, "") for column in ("type", "owner", "due"))
        if not owner:
            wrong.setdefault(("no owner", "Name the owner."), []).append(n)
        if not re.fullmatch(r"\d{4}-\d{2}-\d{2}", due):
            missing = f"the due date {due!r}, not a date" if due else "no due date"
            wrong.setdefault((missing, "Give a date, such as 2026-03-20."), []).append(n)
        if kind not in KINDS:
            unknown = f"the unknown type {kind!r}" if kind else "no type"
            wrong.setdefault((unknown, f"Use one of {', '.join(KINDS)}."), []).append(n)
    return [(f"{_numbered(numbers)} {what}", todo) for (what, todo), numbers in wrong.items()]


def _numbered(numbers: list[int]) -> str:
    """Return ``item 2 has``, or ``items 2, 3 have``."""
    several = len(numbers) > 1
    return f"item{'s' if several else ''} {', '.join(map(str, numbers))} {'have' if several else 'has'}"
