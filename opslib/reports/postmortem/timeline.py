"""
Tell the events of an incident in few rows.

Each of these is one row: a run of a runbook, all consequences (inhibited alerts of other rules), and a change that
several sources show within a minute. Every entry stays in the appendix. A row stands at the time at which its event
happened.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from opslib.alerting.alert_ids import source_name
from opslib.foundation import clock, formatting
from opslib.incidents.evidence import Entry
from opslib.incidents.incident import OVER, Event, Incident, from_entries
from opslib.runbooks import event_words, steps
from opslib.runbooks.execution import NOT_YET, SYMPTOM, no_fault
from opslib.runbooks.steps import purpose

# Checks of one runbook within this time of each other are one run.
RUN_US = 120_000_000
LATE_US = 60_000_000
# The same change of several sources within this time is one row, and so is a fall of an alert just before its end.
SAME_US = 60_000_000
# A row names its entries one stretch after the other up to this number of stretches, else from the first to the last.
MOST_STRETCHES = 5
FAILED = "failed"
RESULTS = ("passed", SYMPTOM, FAILED, NOT_YET, "unknown")
CONFIRMED = {SYMPTOM: "confirmed the symptom"}


@dataclass
class Row:
    """One row of a timeline: when in microseconds, what, by whom (empty: ops itself), and its entries."""

    at_us: int
    words: str
    by: str = ""
    entries: list[Entry] = field(default_factory=list)

    @property
    def evidence(self) -> str:
        """The ids of its entries: ``E7``, ``E8–E27``, or several stretches of them."""
        numbers = sorted({e.seq for e in self.entries})
        starts = [n for n in numbers if n - 1 not in numbers]
        ends = [n for n in numbers if n + 1 not in numbers]
        if len(starts) > MOST_STRETCHES:
            starts, ends = [numbers[0]], [numbers[-1]]
        return ", ".join(f"E{a}" if a == b else f"E{a}–E{b}" for a, b in zip(starts, ends))

    @property
    def last(self) -> Entry:
        """The last of its entries that was added."""
        return self.entries[-1]


def rows(incident: Incident) -> list[Row]:
    """Return the events in the order in which they happened, from the beginning of the incident, in few rows."""
    found = every_row(incident)
    found = _without_consequences(incident, found)
    found = _one_row_for_each_start(found)
    found = _one_row_for_each_change(found)
    return _one_row_for_each_run(found)


def every_row(incident: Incident) -> list[Row]:
    """Return a row for each event in the order in which they happened; checks of a run are one row."""
    found, open_runs = list[Row](), dict[tuple[str, str], Row]()
    began = incident.times["began"]
    if began.at_us is not None:
        found.append(
            Row(began.at_us, f"began: {event_words.source(began.source)}", entries=[incident.find(began.evidence)])
        )
    for event in incident.events:
        key = _run_of(event.entry)
        if key is None and event.kind != "time":
            entries = [incident.find(name) for name in event.evidence]
            # The entry that the event is about is the last one.
            entries = [*(e for e in entries if e is not event.entry), event.entry]
            found.append(Row(event.at_us, _words(event), event.by, entries))
        elif key is not None:
            run = open_runs.get(key)
            if run is None or event.at_us - run.last.at_us > RUN_US:
                open_runs[key] = run = Row(event.at_us, "", event.by)
                found.append(run)
            run.entries.append(event.entry)
    for row in found:
        row.words = row.words or _run_words(incident, row.entries)
    return sorted(found, key=lambda r: r.at_us)


def _without_consequences(incident: Incident, found: list[Row]) -> list[Row]:
    """Put the changes of inhibited alerts of other rules or subjects into one row, where the first of them fired."""
    own = (incident.rule, incident.subject)
    inhibited = {
        e.body["alert"]
        for e in incident.of_kind("alert")
        if e.body["inhibited_by"] and (e.body["rule"], e.body["subject"]) != own
    }
    consequences = [row for row in found if row.last.kind == "alert" and row.last.body["alert"] in inhibited]
    if len(consequences) < 2:
        return found
    entries = [e for row in consequences for e in row.entries]
    sources: dict[str, list[str]] = {}
    for e in entries:
        what = e.body["sentence"].partition(" (")[0]
        source = source_name(e.body["source"])
        if source not in sources.setdefault(what, []):
            sources[what].append(source)
    names = " and ".join(f"{what} ({', '.join(several)})" for what, several in sources.items())
    fired = next(
        (row.at_us for row in consequences if row.last.body["kind"] in ("fired", "rose")), consequences[0].at_us
    )
    until = clock.instant(max(row.at_us for row in consequences)).astimezone(formatting.NEW_YORK)
    words = (
        f"alerts inhibited as consequences: {names}; their states changed {len(consequences)} times "
        f"until {until:%H:%M:%S} New York"
    )
    return _in_order([*(row for row in found if row not in consequences), Row(fired, words, entries=entries)])


def _one_row_for_each_start(found: list[Row]) -> list[Row]:
    """Join rows of an alert: pending with fired, fired with the incident's opening, a fall with the end after it."""
    kept = list[Row]()
    for n, row in enumerate(found):
        body, later = row.last.body, found[n + 1 :]
        into: Row | None = None
        if row.last.kind == "opened" and body.get("alert"):
            into = next((r for r in found if r.at_us == row.at_us and r.last.kind == "alert"), None)
            if into is not None:
                into.words += "; incident opened"
        elif row.last.kind == "alert":
            mine = [r for r in later if r.last.kind == "alert" and r.last.body["alert"] == body["alert"]]
            if body["kind"] == "pending":
                into = next((r for r in mine if r.last.body["kind"] in ("fired", "rose")), None)
            elif body["kind"] == "fell":
                near = (r for r in mine if r.at_us - row.at_us <= SAME_US)
                into = next((r for r in near if r.last.body["kind"] in OVER), None)
            elif body["kind"] == "released":
                into = next((r for r in [*reversed(kept), *later] if _is_rise_of(r, body["alert"], row.at_us)), None)
        if into is None:
            kept.append(row)
        else:
            into.entries[:0] = row.entries
    return kept


def _is_rise_of(row: Row, alert: str, at_us: int) -> bool:
    """Return whether a row is a rise of an alert at a time."""
    return row.last.kind == "alert" and row.last.body["alert"] == alert and row.at_us == at_us


def _one_row_for_each_change(found: list[Row]) -> list[Row]:
    """Join rows of the same change of the same figure that several sources show within a minute."""
    kept = list[Row]()
    for row in found:
        same = next((r for r in reversed(kept) if _is_same_change(r, row)), None)
        if same is None:
            kept.append(row)
            continue
        later, source = row.at_us - same.at_us, row.last.body["source"]
        when = f" {formatting.duration(later / 1e6)}" if later else ""
        if row.last.body["kind"] in OVER:  # What counts is when the last one ends.
            source = same.last.body["source"]
            same.at_us, same.words, earlier = row.at_us, row.words, f"{when} earlier" if when else ""
            same.words += f"; {source_name(source)}{earlier}"
            same.entries += row.entries
        else:
            same.words += f"; likewise the alert by {source_name(source)}{f',{when} later' if when else ''}"
            same.entries[:0] = row.entries
    return _in_order(kept)


def _is_same_change(row: Row, other: Row) -> bool:
    """Return whether two rows are the same change of a figure, from two sources, within a minute."""
    if row.last.kind != "alert" or other.last.kind != "alert" or other.at_us - row.at_us > SAME_US:
        return False
    a, b = row.last.body, other.last.body
    return bool(a["source"] != b["source"] and _change_of(a) == _change_of(b))


def _change_of(body: dict[str, object]) -> tuple[object, ...]:
    """Return what a change of an alert is: rule, subject, direction, and the severity unless it is over."""
    kind = {"rose": "fired"}.get(str(body["kind"]), body["kind"])
    return body["rule"], body["subject"], kind, "" if kind in OVER else body["severity"]


def _one_row_for_each_run(found: list[Row]) -> list[Row]:
    """Join the opening of a runbook, its checks and its unanswered questions."""
    kept = list[Row]()
    for row in found:
        runbook = str(row.last.body.get("runbook", ""))
        opened = next(
            (r for r in reversed(kept) if r.entries[0].kind == "runbook" and row.at_us - r.at_us <= RUN_US), None
        )
        if _run_of(row.last) and opened is not None and opened.entries[0].body["runbook"] == runbook:
            opened.words += f"; {row.words.removeprefix(f'runbook {runbook}: ')}"
            opened.entries += row.entries
        else:
            kept.append(row)
    return kept


def _in_order(found: Iterable[Row]) -> list[Row]:
    return sorted(found, key=lambda r: r.at_us)


def _words(event: Event) -> str:
    """Return the text of an event; with the delay, if it was recorded later than it happened."""
    late_us, words = event.entry.known_at_us - event.at_us, event_words.words(event)
    if late_us <= LATE_US or event.kind not in ("note", "mark", "mitigated", "resolved"):
        return words
    return f"{words} (recorded {formatting.duration(late_us / 1e6)} later)"


def _run_of(entry: Entry) -> tuple[str, str] | None:
    """Return the runbook and the state of an entry that is shown together with others of its run; None for others."""
    if entry.kind == "step" and entry.body["state"] in ("seen", "skipped"):
        return str(entry.body["runbook"]), str(entry.body["state"])
    return None


def _run_words(incident: Incident, entries: list[Entry]) -> str:
    """Summarize the checks of a run with their results, or the questions that nobody answered."""
    runbook, count = entries[0].body["runbook"], len(entries)
    if entries[0].body["state"] == "skipped":
        return f"runbook {runbook}: {plural(count, 'question')} not answered yet"
    results = [(_result(incident, e), str(e.body["step"])) for e in entries]
    found = {result: [step for of, step in results if of == result] for result in RESULTS}
    counts = ", ".join(f"{len(names)} {CONFIRMED.get(result, result)}" for result, names in found.items() if names)
    named = [
        f"{result} by: {'; '.join(_quoted(step) for step in found[result])}"
        for result in (SYMPTOM, FAILED)
        if found[result]
    ]
    which = f" ({'. '.join(named)})" if named else ""
    return f"runbook {runbook}: {plural(count, 'check')}: {counts}{which}"


def _quoted(step: str) -> str:
    return f'"{purpose(step)}"'


def _result(incident: Incident, entry: Entry) -> str:
    """Return the result of a check, in the words that its step is shown with."""
    good, step = entry.body.get("good"), steps.table().get(str(entry.body["step"]))
    if good is None:
        return "unknown"
    if good or step is None:
        return "passed" if good else FAILED
    then = from_entries(incident.id, incident.entries[: entry.seq])
    return no_fault(step, str(entry.body["runbook"]), then, entry) or FAILED


def plural(count: int, noun: str) -> str:
    """Return a count with its noun: ``1 check``, ``3 checks``."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def day_of(found: list[Row]) -> str:
    """Return the day of the first row, UTC; rows of this day show their time only."""
    return f"{clock.instant(found[0].at_us):%Y-%m-%d}"


def cells(found: list[Row], role: Callable[[str], str], who: Callable[[str], str]) -> list[list[str]]:
    """
    Return the cells of each row: UTC, New York, the event, its evidence.

    Args:
        role: Replaces names of people in a text.
        who: The role of a person by name.
    """
    made, before = list[list[str]](), day_of(found) if found else ""
    for row in found:
        at = clock.instant(row.at_us)
        day = f"{at:%Y-%m-%d}"
        utc = f"{at:%H:%M:%S}" if day == before else f"{day} {at:%H:%M:%S}"
        local = f"{at.astimezone(formatting.NEW_YORK):%H:%M:%S}"
        made.append([utc, local, f"{who(row.by)}: {role(row.words)}" if row.by else role(row.words), row.evidence])
        before = day
    return made
