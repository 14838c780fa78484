"""
Show and run an open checklist: its items with their results, its verdict and its signature.

Items run like the steps of a runbook: checks are read-only, a person answers ask steps, and actions run a hook with
a name, once. Each checklist has its own chain of records in the database and in its folder, so that another person or
machine can continue and verify it. An item that no person answered is not done.
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
from opslib.runbooks.steps import CHECK, Step, purpose
from opslib.telemetry.markers import Markers

if TYPE_CHECKING:
    from opslib.foundation.config.workspace import Workspace

FOLDER = "checklists"
OPENED, SIGNED = "opened", "signed"
# How long the result of a check is valid for its checklist.
HOLDS = {HOUR: timedelta(hours=1), DAY: timedelta(hours=12), RELEASE: timedelta(days=14), DEPLOY: timedelta(days=2)}
WRONG, OPEN = ("not as expected", "failed", "unsure"), ("not done", "unknown", "stale", "skipped", "rehearsed")


class ChecklistStore:
    """Store the records of checklists in the database, with a copy in each checklist's folder."""

    def __init__(self, records: EntryStore):
        self.records = records

    def read(self, name: str) -> Incident:
        """Return a checklist, built from its record."""
        found = self.records.read(name)
        if found is None:
            raise IncidentError(f"there is no record of checklist {name!r}.")
        return found

    def append(
        self, name: str, kind: str, body: Mapping[str, Any], *, by: str = "", key: str = "", at: datetime | None = None
    ) -> Entry | None:
        """
        Append an entry durably, or return None if its key exists.

        Raises:
            IncidentError: The checklist is signed.
        """
        with self.records.store.committing() as connection:
            if any(e.kind == SIGNED for e in self.records.entries(connection, name)):
                raise IncidentError(f"checklist {name} is signed and can no longer change. Open the next one instead.")
            found = self.records.put(connection, name, kind, body, by, key, clock.micros(at) if at else None)
        if found is not None:
            self.records.copy(FOLDER, name)
        return found


class ChecklistSession(RunbookSession):
    """
    One open checklist.

    Args:
        workspace: The workspace of the app.
        name: The name of the checklist in checklists.toml.
        operator: The person who completes it.
        as_of: The evaluation time; empty means now, with new probes for each check.
        practice: Write nothing, and ask no person.

    Raises:
        UsageError: The checklist does not exist.
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
        body: dict[str, Any] = {
            "title": self.checklist.title,
            "runbook": name,
            "severity": "notify",
            "how": "checklist",
            "app": workspace.settings.app,
            "rules_hash": workspace.rules.hash,
        }
        body |= (
            {
                DEPLOYED: deployed.ts_us,
                "words": f"{self.checklist.title}, for the deployment at "
                f"{formatting.moment(clock.instant(deployed.ts_us))}: {deployed.words}",
            }
            if deployed
            else {"words": f"{self.checklist.title}, started"}
        )
        if practice:
            journal: Any = DryRunIncidents(
                workspace.settings, self.now(), self.checklist.title, "app", "notify", name, body
            )
            self.id = PRACTICE
        else:
            records = EntryStore(workspace.store, workspace.settings)
            journal, self.id = (
                ChecklistStore(records),
                named(self.checklist, records, self.now(), None if deployed is None else deployed.ts_us),
            )
            if records.read(self.id) is None:
                journal.append(self.id, OPENED, body, by=self.operator, key=OPENED, at=self.now())
        self._journal = journal
        self.execution = RunbookRun(journal, self.id, name, self._now, workspace.rules.hash, symptoms=False)
        self._begin(widgets)

    @property
    def steps(self) -> list[Step]:
        """Its items in order."""
        return self.checklist.steps

    def title_of(self, step: Step) -> str:
        """Return what an item asks for: items have no titles."""
        return step.do

    @property
    def ruled_out(self) -> dict[str, str]:
        """No item of a checklist is ruled out."""
        return {}

    @property
    def has_page(self) -> bool:
        """A checklist has no page of an incident."""
        return False

    @property
    def signed(self) -> Entry | None:
        """The entry with its signature; None if it is not signed."""
        return next((e for e in self.incident.entries if e.kind == SIGNED), None)

    @property
    def due_us(self) -> int | None:
        """When it is due, if it follows a deployment; else None, or None if no deployment was marked."""
        deployed = self.incident.entries[0].body.get(DEPLOYED)
        return None if deployed is None else deployed + clock.span_us(self.checklist.after)

    def run(self, ask: Callable[[StepCard], None] | None = None) -> "ChecklistSession":
        """
        Run every item in order: checks that are due run; a signed checklist does not change.

        Args:
            ask: Asks a person about an item and records the answer; without it, ask items are skipped.
        """
        for step in self.steps if self.signed is None else ():
            if ask is None or step.kind == CHECK:
                self.step(step.name)
            elif self.execution.status_of(step).state not in ("ok", "done", "not as expected"):
                ask(StepCard(self, step))
        return self

    def statuses(self) -> dict[str, StepStatus]:
        """Return the status of each item; of a signed checklist, the status at its signature."""
        incident = self.incident
        found = {step.name: self._held(self.execution.status_of(step, incident)) for step in self.steps}
        if self.signed is not None:
            found = {name: status._replace(state=self.signed.body["boxes"][name]) for name, status in found.items()}
        return found

    def _held(self, status: StepStatus) -> StepStatus:
        """
        Return a status that is valid longer than in a runbook; a check still runs again when the checklist is opened.
        """
        if (
            status.state != "stale"
            or status.entry is None
            or self.now() - clock.instant(status.entry.at_us) > HOLDS[self.checklist.each]
        ):
            return status
        return status._replace(state={True: "ok", False: "not as expected", None: "unknown"}[status.entry.body["good"]])

    @property
    def wrong(self) -> list[str]:
        """The items that failed."""
        return [name for name, status in self.statuses().items() if status.state in WRONG]

    @property
    def left(self) -> list[str]:
        """The items that are not done."""
        return [name for name, status in self.statuses().items() if status.state in OPEN]

    @property
    def early(self) -> str:
        """Why it is not due yet; empty if it is due."""
        if self.checklist.each != DEPLOY or self.signed is not None:
            return ""
        if self.due_us is None:
            return "no deployment was marked: set a marker with ops mark deploy TEXT"
        return (
            f"not due before {formatting.moment(clock.instant(self.due_us))}"
            if clock.micros(self.now()) < self.due_us
            else ""
        )

    @property
    def verdict(self) -> str:
        """
        The verdict: critical if an item failed (warning if its rules say so), unknown if one is not done, else ok.
        """
        if self.signed is not None:
            return str(self.signed.body["verdict"])
        statuses = self.statuses()
        found = {"warning" if _mild(statuses[name]) else "critical" for name in self.wrong} | (
            {"unknown"} if self.left or self.early else set()
        )
        return next((v for v in VERDICTS if v in found), "ok")

    @property
    def exit_code(self) -> int:
        """0 ok, 1 warning, 2 critical, 3 unknown (an item is not done)."""
        return EXIT_CODES[self.verdict]

    def sign(self, by: str = "") -> Entry:
        """
        Sign the checklist; a signed checklist can no longer change.

        Raises:
            OperatorNeeded: No name was given.
            IncidentError: It is already signed, or in practice.
        """
        who = by.strip() or self.operator
        if not who:
            raise OperatorNeeded(f"a signature of checklist {self.id} needs a name: give your name.")
        if self.practice:
            raise IncidentError("a checklist in practice cannot be signed.")
        states = {name: status.state for name, status in self.statuses().items()}
        head, verdict, left, wrong = self.incident.last_entry, self.verdict, self.left, self.wrong
        words = (
            f"signed, {verdict}: {len(states) - len(left) - len(wrong)} of {len(states)} items "
            f"passed{'; not done: ' + ', '.join(left) if left else ''}"
            f"{'; failed: ' + ', '.join(wrong) if wrong else ''}{'; ' + self.early if self.early else ''}"
        )
        entry = self._journal.append(
            self.id,
            SIGNED,
            {"verdict": verdict, "boxes": states, "head": {"entry": head.id, "digest": head.digest}, "words": words},
            by=who,
            key=SIGNED,
            at=self._as_of,
        )
        assert entry is not None  # A second signature raises before it is written.
        return entry

    def note(self, words: str, by: str = "") -> Entry | None:
        """Add a note to the record."""
        if not words.strip():
            raise IncidentError("the note is empty: give its text.")
        if not (by.strip() or self.operator):
            raise OperatorNeeded("a note needs a name: give your name.")
        return self._journal.append(self.id, "note", {"words": words.strip()}, by=by.strip() or self.operator)

    @property
    def signature(self) -> "Signature":
        """The signature, or the field for it if a person is available."""
        return Signature(self)

    def clock_words(self, incident: Incident) -> str:
        """Return its progress."""
        statuses = self.statuses()
        done = sum(s.state in ("ok", "done") for s in statuses.values())
        return f"{done}/{len(statuses)} items passed, {len(self.left)} not done or unknown"

    @property
    def strip(self) -> TextBlock:
        """Every item with its status, under headings."""
        statuses = self.statuses()
        rows = [
            [
                self.checklist.section_of(s),
                f"{statuses[s.name].mark} {statuses[s.name].label}",
                s.do,
                statuses[s.name].words.removeprefix(f"{s.name}: ").removeprefix("skipped: "),
                statuses[s.name].by,
            ]
            for s in self.steps
        ]
        return table(
            self.clock_words(self.incident),
            ["section", "status", "item", "result", "by"],
            rows,
            "no items",
        )

    @property
    def header(self) -> TextBlock:
        """The verdict, the failed items and the items that are not done."""
        statuses, signed = self.statuses(), self.signed
        lines = [
            f"failed: {purpose(name)}: {statuses[name].words.removeprefix(name + ': ').removeprefix('failed: ')}"
            for name in self.wrong
        ]
        lines += [f"not done or unknown ({len(self.left)}): {'; '.join(map(purpose, self.left))}"] if self.left else []
        lines += [self.early] if self.early else []
        lines += (
            [f"signed by {signed.by}, {formatting.moment(clock.instant(signed.at_us))}"]
            if signed
            else ["practice: nothing is written, and no person is asked" if self.practice else "not signed yet"]
        )
        return bullet_list(
            f"{self.checklist.title}{'' if self.practice else f' {self.id}'}: {self.verdict}. "
            f"{self.clock_words(self.incident)}.",
            lines,
        )

    @property
    def cards(self) -> "Cards":
        """Every item with its buttons if a person is available; else its status."""
        return Cards(self)

    def as_json(self) -> dict[str, Any]:
        """Return it for programs."""
        statuses, signed = self.statuses(), self.signed
        items = [
            {
                "item": s.name,
                "section": self.checklist.section_of(s),
                "do": s.do,
                "expect": s.expect,
                "evaluated_by": s.evaluated_by,
                "state": "skipped" if statuses[s.name].state == "skipped" else statuses[s.name].label,
                "result": statuses[s.name].words.removeprefix(f"{s.name}: ") or None,
                "by": statuses[s.name].by or None,
                "evidence": entry.id if (entry := statuses[s.name].entry) else None,
            }
            for s in self.steps
        ]
        return {
            "checklist": self.name,
            "id": self.id,
            "as_of": formatting.iso(self.now()),
            "verdict": self.verdict,
            "not_due": self.early or None,
            "not_done": self.left,
            "failed": self.wrong,
            "signed": {"by": signed.by, "at": formatting.iso(clock.instant(signed.at_us))} if signed else None,
            "head": {"entry": self.incident.last_entry.id, "digest": self.incident.last_entry.digest},
            "items": items,
        }

    def __repr__(self) -> str:
        return f"{self.header.plain}\n\n{self.strip.plain}"


class Cards:
    """All items of a checklist as a notebook shows them."""

    def __init__(self, session: ChecklistSession):
        self._session = session

    def __repr__(self) -> str:
        return self._session.strip.plain

    def _ipython_display_(self) -> None:
        from IPython.display import display

        if not self._session.attended:
            display(self._session.strip)
            return
        for step in self._session.steps:
            StepCard(self._session, step)._ipython_display_()


class Signature:
    """The signature of a checklist."""

    def __init__(self, session: ChecklistSession):
        self._session = session

    @property
    def text(self) -> TextBlock:
        """The signature with its verdict, or how to sign."""
        signed, session = self._session.signed, self._session
        if signed:
            return bullet_list(
                f"Signed by {signed.by}, {formatting.moment(clock.instant(signed.at_us))}",
                [str(signed.body["words"]), f"{signed.id}, SHA-256 {signed.digest}"],
            )
        how = (
            "a checklist in practice cannot be signed"
            if session.practice
            else f"sign here, or run: ops checklist {session.name} --sign --by NAME"
        )
        return bullet_list("Not signed yet", [how, f"not done: {', '.join(session.left) or 'none'}"])

    def __repr__(self) -> str:
        return self.text.plain

    def _ipython_display_(self) -> None:
        from IPython.display import display

        if self._session.attended and self._session.widgets and self._session.signed is None:
            self._session.widgets.show_signature(self._session, self.text)
        else:
            display(self.text)


def _mild(status: StepStatus) -> bool:
    """Return whether the rules behind a failed check say warning and nothing worse."""
    content = status.entry.body.get("content") if status.entry else None
    verdicts = [row.get("verdict") for row in content if isinstance(row, dict)] if isinstance(content, list) else []
    return "warning" in verdicts and "critical" not in verdicts


def named(checklist: Checklist, records: EntryStore, at: datetime, deployed_us: int | None) -> str:
    """
    Return the ID of the checklist for a time: of its day, hour or deployment, or of the release not yet signed.
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
