"""
Hold an open checklist: which one is meant, each item with its result, what it comes to, and who signed it.

A box is a step, and is walked as the steps of a runbook are: what looks is free, what a person judges is asked, what
changes the world goes through a hook, by name, once. Its record is a chain of its own, in the store and in its folder,
so it can be gone on with half-way, by another person, on another machine, and verified. What could not be asked is not
done.
"""

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from opslib.alerting.verdicts import EXIT_CODES, VERDICTS
from opslib.dashboard.text_blocks import TextBlock, bullet_list, table
from opslib.foundation import clock, formatting, time_parsing
from opslib.foundation.errors import IncidentError, OperatorNeeded
from opslib.foundation.formatting import NEW_YORK
from opslib.incidents.evidence import Entry
from opslib.incidents.incident import Incident
from opslib.incidents.practice import PRACTICE, DryRunIncidents
from opslib.incidents.store import EntryStore
from opslib.runbooks import checklists
from opslib.runbooks.checklists import DAY, DEPLOY, DEPLOYED, HOUR, RELEASE, Checklist
from opslib.runbooks.execution import RunbookRun, StepStatus
from opslib.runbooks.session import RunbookSession, StepCard, Widgets, clock_of
from opslib.runbooks.steps import LOOK, Step
from opslib.telemetry.markers import Markers

if TYPE_CHECKING:
    from opslib.foundation.config.workspace import Workspace

SHELF = "checklists"
OPENED, SIGNED = "opened", "signed"
# How long what a box saw counts for its checklist.
HOLDS = {HOUR: timedelta(hours=1), DAY: timedelta(hours=12), RELEASE: timedelta(days=14), DEPLOY: timedelta(days=2)}
WRONG, OPEN = ("not as expected", "failed", "unsure"), ("not done", "unknown", "stale", "skipped", "rehearsed")


class ChecklistStore:
    """The journal of checklists: their records in the store, each copied into its folder."""

    def __init__(self, records: EntryStore):
        self.records = records

    def read(self, name: str) -> Incident:
        """A checklist as its record stands."""
        found = self.records.read(name)
        if found is None:
            raise IncidentError(f"there is no checklist {name!r} on record.")
        return found

    def append(
        self, name: str, kind: str, body: Mapping[str, Any], *, by: str = "", key: str = "", at: datetime | None = None
    ) -> Entry | None:
        """
        Write an entry down, on the disk before this returns; None where there is one of that key, or the checklist was
        signed.
        """
        with self.records.store.committing() as connection:
            if any(e.kind == SIGNED for e in self.records.entries(connection, name)):
                raise IncidentError(f"checklist {name} was signed: what it says stands. The next one is a new one.")
            found = self.records.put(connection, name, kind, body, by, key, clock.micros(at) if at else None)
        if found is not None:
            self.records.copy(SHELF, name)
        return found


class ChecklistSession(RunbookSession):
    """
    One checklist, open.

    Args:
        workspace: Whose.
        name: Of the checklist, as checklists.toml has it.
        operator: Who goes through it.
        as_of: A moment that everything is looked at as of; empty is now, and each look is made anew.
        practice: Write nothing anywhere, and ask nobody.

    Raises:
        UsageError: There is no such checklist.
    """

    def __init__(
        self,
        workspace: "Workspace",
        name: str,
        operator: str = "",
        as_of: str | datetime | None = None,
        practice: bool = False,
        widgets: Widgets | None = None,
    ):
        self.checklist: Checklist = checklists.checklist(name)
        self.workspace, self.name, self.operator, self.limit = workspace, name, operator.strip(), ""
        at = time_parsing.parse(as_of, "close") if isinstance(as_of, str) and as_of else as_of or None
        self._as_of = at if isinstance(at, datetime) else None
        self._now = clock_of(workspace, self._as_of)
        self.practice, self.window = practice, timedelta(hours=1)
        self._subject, self._severity = "app", ""
        deployed = (
            max(
                (
                    m
                    for m in Markers(workspace.store, workspace.settings).between(0, clock.micros(self.now()))
                    if m.kind == "deploy"
                ),
                key=lambda m: m.ts_us,
                default=None,
            )
            if self.checklist.each == DEPLOY
            else None
        )
        told: dict[str, Any] = {
            "title": self.checklist.title,
            "runbook": name,
            "severity": "notify",
            "how": "checklist",
            "app": workspace.settings.app,
            "rules_hash": workspace.rules.hash,
        }
        told |= (
            {
                DEPLOYED: deployed.ts_us,
                "words": f"{self.checklist.title}, for the deployment at "
                f"{formatting.moment(clock.instant(deployed.ts_us))}: {deployed.words}",
            }
            if deployed
            else {"words": f"{self.checklist.title}, begun"}
        )
        if practice:
            journal: Any = DryRunIncidents(
                workspace.settings, self.now(), self.checklist.title, "app", "notify", name, told
            )
            self.id = PRACTICE
        else:
            records = EntryStore(workspace.store, workspace.settings)
            journal, self.id = (
                ChecklistStore(records),
                _named(self.checklist, records, self.now(), None if deployed is None else deployed.ts_us),
            )
            if records.read(self.id) is None:
                journal.append(self.id, OPENED, told, by=self.operator, key=OPENED, at=self.now())
        self._journal = journal
        self.walk = RunbookRun(journal, self.id, name, self._now, workspace.rules.hash)
        self.widgets = widgets
        self._looked, self._seen, self.pads = None, None, []

    @property
    def steps(self) -> list[Step]:
        """Its boxes in order."""
        return self.checklist.steps

    @property
    def signed(self) -> Entry | None:
        """Who signed it, and when; None where nobody has."""
        return next((e for e in self.incident.entries if e.kind == SIGNED), None)

    @property
    def due_us(self) -> int | None:
        """From when on is it due? Of one that follows a deployment only; None of others, or where none was marked."""
        deployed = self.incident.entries[0].body.get(DEPLOYED)
        return None if deployed is None else deployed + clock.span_us(self.checklist.after)

    def run(self, asked: Callable[[StepCard], None] | None = None) -> "ChecklistSession":
        """
        Go through every box in order: what is free to look at and due is looked at; a signed checklist stays as it is.

        Args:
            asked: Puts a box to somebody who is there, and takes the answer; without it nobody is asked.
        """
        for step in self.steps if self.signed is None else ():
            if asked is None or step.kind == LOOK:
                self.step(step.name)
            elif self.walk.standing(step).state not in ("ok", "done", "not as expected"):
                asked(StepCard(self, step))
        return self

    def stands(self) -> dict[str, StepStatus]:
        """How each box stands; of a signed checklist, as it was signed."""
        incident = self.incident
        found = {step.name: self._held(self.walk.standing(step, incident)) for step in self.steps}
        if self.signed is not None:
            found = {name: standing._replace(state=self.signed.body["boxes"][name]) for name, standing in found.items()}
        return found

    def _held(self, standing: StepStatus) -> StepStatus:
        """
        What a box saw holds for its checklist longer than for an incident, though it is looked at again whenever
        somebody goes on.
        """
        if (
            standing.state != "stale"
            or standing.entry is None
            or self.now() - clock.instant(standing.entry.at_us) > HOLDS[self.checklist.each]
        ):
            return standing
        return standing._replace(
            state={True: "ok", False: "not as expected", None: "unknown"}[standing.entry.body["good"]]
        )

    @property
    def wrong(self) -> list[str]:
        """Boxes that are not as they should be."""
        return [name for name, standing in self.stands().items() if standing.state in WRONG]

    @property
    def left(self) -> list[str]:
        """Boxes that are not done."""
        return [name for name, standing in self.stands().items() if standing.state in OPEN]

    @property
    def early(self) -> str:
        """Why it is too early for it to be done; empty where it is not."""
        if self.checklist.each != DEPLOY or self.signed is not None:
            return ""
        if self.due_us is None:
            return "no deployment was marked: ops mark deploy TEXT puts the marker that this follows"
        return (
            f"it is due from {formatting.moment(clock.instant(self.due_us))} on"
            if clock.micros(self.now()) < self.due_us
            else ""
        )

    @property
    def verdict(self) -> str:
        """
        critical where a box is not as it should be (warning, where its own rules say no worse); unknown where one is
        not done; ok.
        """
        if self.signed is not None:
            return str(self.signed.body["verdict"])
        stands = self.stands()
        found = {"warning" if _mild(stands[name]) else "critical" for name in self.wrong} | (
            {"unknown"} if self.left or self.early else set()
        )
        return next((v for v in VERDICTS if v in found), "ok")

    @property
    def exit_code(self) -> int:
        """0 ok, 1 warning, 2 critical, 3 unknown: something is not done."""
        return EXIT_CODES[self.verdict]

    def sign(self, by: str = "") -> Entry:
        """
        Put a name under it; from then on it stands as it is.

        Raises:
            OperatorNeeded: Nobody signs.
            IncidentError: It was signed before, or is only practised.
        """
        who = by.strip() or self.operator
        if not who:
            raise OperatorNeeded(f"who signs checklist {self.id}? Give a name.")
        if self.practice:
            raise IncidentError("a checklist that is only practised is not signed.")
        boxes = {name: standing.state for name, standing in self.stands().items()}
        head, verdict, left, wrong = self.incident.head, self.verdict, self.left, self.wrong
        words = (
            f"signed, {verdict}: {len(boxes) - len(left) - len(wrong)} of {len(boxes)} boxes as "
            f"expected{'; not done: ' + ', '.join(left) if left else ''}"
            f"{'; not as expected: ' + ', '.join(wrong) if wrong else ''}{'; ' + self.early if self.early else ''}"
        )
        entry = self._journal.append(
            self.id,
            SIGNED,
            {"verdict": verdict, "boxes": boxes, "head": {"entry": head.id, "digest": head.digest}, "words": words},
            by=who,
            key=SIGNED,
            at=self._as_of,
        )
        assert entry is not None  # A second signature is refused before it is written.
        return entry

    def note(self, words: str, by: str = "") -> Entry | None:
        """Write down what was noticed."""
        if not words.strip():
            raise IncidentError("a note has words.")
        if not (by.strip() or self.operator):
            raise OperatorNeeded("who says so? Give a name.")
        return self._journal.append(self.id, "note", {"words": words.strip()}, by=by.strip() or self.operator)

    @property
    def signature(self) -> "Signature":
        """Who signed it; where somebody is there and nobody has, the place to do so."""
        return Signature(self)

    def clock_words(self, incident: Incident) -> str:
        """How far it is."""
        stands = self.stands()
        done = sum(s.state in ("ok", "done") for s in stands.values())
        return f"{done}/{len(stands)} boxes as expected, {len(self.left)} not done"

    @property
    def strip(self) -> TextBlock:
        """Every box and how it stands, under the guide's headings."""
        stands = self.stands()
        rows = [
            [
                self.checklist.section_of(s),
                f"{stands[s.name].mark} {stands[s.name].state}",
                s.name,
                s.do,
                stands[s.name].words.removeprefix(f"{s.name}: ").removeprefix("skipped: "),
                stands[s.name].by,
            ]
            for s in self.steps
        ]
        return table(
            self.clock_words(self.incident),
            ["section", "stands", "box", "do", "seen, answered or done", "by"],
            rows,
            "no boxes",
        )

    @property
    def header(self) -> TextBlock:
        """Is it done, and what is wrong?"""
        stands, signed = self.stands(), self.signed
        lines = [f"not as expected: {name}: {stands[name].words.removeprefix(name + ': ')}" for name in self.wrong]
        lines += [f"not done ({len(self.left)}): {', '.join(self.left)}"] if self.left else []
        lines += [self.early] if self.early else []
        lines += (
            [f"signed by {signed.by}, {formatting.moment(clock.instant(signed.at_us))}"]
            if signed
            else ["practice: nothing is written, and nobody is asked" if self.practice else "not signed yet"]
        )
        return bullet_list(
            f"{self.checklist.title}{'' if self.practice else f' {self.id}'}: {self.verdict}. "
            f"{self.clock_words(self.incident)}.",
            lines,
        )

    @property
    def cards(self) -> "Cards":
        """Every box with its buttons, where somebody is there; else as it stands."""
        return Cards(self)

    def as_json(self) -> dict[str, Any]:
        """For a program."""
        stands, signed = self.stands(), self.signed
        boxes = [
            {
                "box": s.name,
                "section": self.checklist.section_of(s),
                "do": s.do,
                "expect": s.expect,
                "judged_by": s.judged_by,
                "state": stands[s.name].state,
                "said": stands[s.name].words.removeprefix(f"{s.name}: ") or None,
                "by": stands[s.name].by or None,
                "evidence": entry.id if (entry := stands[s.name].entry) else None,
            }
            for s in self.steps
        ]
        return {
            "checklist": self.name,
            "id": self.id,
            "as_of": formatting.iso(self.now()),
            "verdict": self.verdict,
            "early": self.early or None,
            "not_done": self.left,
            "not_as_expected": self.wrong,
            "signed": {"by": signed.by, "at": formatting.iso(clock.instant(signed.at_us))} if signed else None,
            "head": {"entry": self.incident.head.id, "digest": self.incident.head.digest},
            "boxes": boxes,
        }

    def __repr__(self) -> str:
        return f"{self.header.plain}\n\n{self.strip.plain}"


class Cards:
    """All boxes of a checklist as a notebook shows them."""

    def __init__(self, sheet: ChecklistSession):
        self._sheet = sheet

    def __repr__(self) -> str:
        return self._sheet.strip.plain

    def _ipython_display_(self) -> None:
        from IPython.display import display

        if not self._sheet.attended:
            display(self._sheet.strip)
            return
        for step in self._sheet.steps:
            StepCard(self._sheet, step)._ipython_display_()


class Signature:
    """The foot of a checklist: who signed it, or where to."""

    def __init__(self, sheet: ChecklistSession):
        self._sheet = sheet

    @property
    def text(self) -> TextBlock:
        """Who signed it and what it said then, or how it is signed."""
        signed, sheet = self._sheet.signed, self._sheet
        if signed:
            return bullet_list(
                f"Signed by {signed.by}, {formatting.moment(clock.instant(signed.at_us))}",
                [str(signed.body["words"]), f"{signed.id}, SHA-256 {signed.digest}"],
            )
        how = "practice is not signed" if sheet.practice else f"here, or: ops checklist {sheet.name} --sign --by NAME"
        return bullet_list("Not signed yet", [how, f"not done: {', '.join(sheet.left) or 'nothing'}"])

    def __repr__(self) -> str:
        return self.text.plain

    def _ipython_display_(self) -> None:
        from IPython.display import display

        if self._sheet.attended and self._sheet.widgets and self._sheet.signed is None:
            self._sheet.widgets.show_signature(self._sheet, self.text)
        else:
            display(self.text)


def _mild(standing: StepStatus) -> bool:
    """Do the rules behind a box that looked call what it saw a warning, and no worse?"""
    content = standing.entry.body.get("content") if standing.entry else None
    verdicts = [row.get("verdict") for row in content if isinstance(row, dict)] if isinstance(content, list) else []
    return "warning" in verdicts and "critical" not in verdicts


def _named(checklist: Checklist, records: EntryStore, at: datetime, deployed_us: int | None) -> str:
    """
    Which one is meant at a moment: that of its day, its hour, its deployment; the one of a release that nobody has
    signed yet.
    """
    local = at.astimezone(NEW_YORK)
    if checklist.each == HOUR:
        return f"{checklist.name}-{local:%Y-%m-%dT%H}"
    if checklist.each == DEPLOY and deployed_us is not None:
        return f"{checklist.name}-{clock.instant(deployed_us):%Y%m%dT%H%M%SZ}"
    name = f"{checklist.name}-{local:%Y-%m-%d}"
    if checklist.each in (DAY, DEPLOY):
        return name
    of_releases = records.names(f"{checklist.name}-")
    for other in reversed(of_releases):
        found = records.read(other)
        if found is not None and not any(e.kind == SIGNED for e in found.entries):
            return other
    return name if name not in of_releases else f"{name}-{1 + sum(other.startswith(name) for other in of_releases)}"
