"""
Run a runbook for one incident, and record the intent, the action and the outcome of each step.

The incident's record holds the whole state, so that another kernel, person or machine can continue. The intent of an
action is recorded under a unique key before the action runs. If the process dies before the outcome is recorded, the
step is "outcome unknown" and is not repeated until a person confirms what happened.
"""

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any, NamedTuple, Protocol

from opslib.foundation import clock, formatting
from opslib.foundation.errors import IncidentError, OperatorNeeded
from opslib.foundation.storage.snapshot_columns import PROVIDERS
from opslib.foundation.version import VERSION
from opslib.incidents.evidence import Entry
from opslib.incidents.incident import Incident
from opslib.runbooks.hooks import Outcome
from opslib.runbooks.steps import ACTION, ASK, BOXES, CHECK, Step

NOBODY_ASKED = "skipped: no person was available to answer"
# The states of a step, each with the mark that is shown beside its label.
MARKS = {
    "not done": "·",
    "ok": "✓",
    "not as expected": "✗",
    "unknown": "?",
    "stale": "↻",
    "skipped": "·",
    "unsure": "!",
    "done": "✓",
    "rehearsed": "○",
    "failed": "✗",
}
# What people read for those states whose stored word is not plain.
LABELS = {
    "ok": "passed",
    "not as expected": "failed",
    "skipped": "not answered yet",
    "unsure": "outcome unknown",
    "rehearsed": "dry run",
}
# A failed check that is no fault: what the incident is about, or checked before the action that it follows.
SYMPTOM, NOT_YET = "symptom confirmed", "not due yet"
MARKS_INSTEAD = {SYMPTOM: formatting.SIGNS["warning"], NOT_YET: "·"}
# The states of a step as verdicts, for their colours; the others are `unknown`.
VERDICT_OF = {
    "ok": "ok",
    "done": "ok",
    "rehearsed": "ok",
    "not as expected": "critical",
    "failed": "critical",
    "unsure": "critical",
}
FINISHED = ("ok", "done", "rehearsed", "not as expected")  # The states in which nothing is left to do.
SETTLED = ("done",)  # A step in this state is never run again.


class CheckResult(NamedTuple):
    """
    The result of a check.

    Attributes:
        good: Whether the check passed; None means unknown.
        words: The result with its numbers, on one line.
        content: The data behind the result, for the record.
        source, query: Where the data came from, and how it was queried.
        next: The runbook to continue with; empty means none.
        view: The panel whose chart belongs to the result; empty means none.
    """

    good: bool | None
    words: str
    content: Any = None
    source: str = "store"
    query: str = ""
    next: str = ""
    view: str = ""


class StepStatus(NamedTuple):
    """
    The status of a step.

    Attributes:
        state: One of `MARKS`.
        words: The last result, which `by` obtained and `entry` records.
        instead: What a failed check means if it is no fault of the step: `SYMPTOM`, `NOT_YET`, or empty.
    """

    state: str
    words: str = ""
    by: str = ""
    entry: Entry | None = None
    instead: str = ""

    @property
    def mark(self) -> str:
        """The mark of its state."""
        return MARKS_INSTEAD.get(self._means, MARKS[self.state])

    @property
    def label(self) -> str:
        """The state in the words that people read."""
        return self._means or LABELS.get(self.state, self.state)

    @property
    def verdict(self) -> str:
        """The state as a verdict, which decides its colour."""
        means = {SYMPTOM: "warning", NOT_YET: "unknown"}
        return means.get(self._means, VERDICT_OF.get(self.state, "unknown"))

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do for the step."""
        return self.state in FINISHED and self._means != NOT_YET

    @property
    def _means(self) -> str:
        return self.instead if self.state == "not as expected" else ""


class Journal(Protocol):
    """A store of incident records."""

    def read(self, name: str) -> Incident:
        """Return an incident, built from its record."""
        ...

    def append(
        self, name: str, kind: str, body: Mapping[str, Any], *, by: str = "", key: str = "", at: datetime | None = None
    ) -> Entry | None:
        """Append an entry, or return None if its key exists."""
        ...


class RunbookRun:
    """
    One run of a runbook for one incident.

    Args:
        now: The clock.
        symptoms: Whether a failed check can be the symptom of an incident; false for a checklist.
    """

    def __init__(
        self,
        journal: Journal,
        incident: str,
        runbook: str,
        now: Callable[[], datetime],
        rules_hash: str = "",
        symptoms: bool = True,
    ):
        self._symptoms = symptoms
        self._journal, self.name, self.runbook, self._now, self._rules_hash = (
            journal,
            incident,
            runbook,
            now,
            rules_hash,
        )

    @property
    def incident(self) -> Incident:
        """The incident, read from its record now."""
        return self._journal.read(self.name)

    def status_of(self, step: Step, incident: Incident | None = None) -> StepStatus:
        """Return the status of a step."""
        found = incident or self.incident
        did = found.steps.get((self.runbook, step.name))
        if did is None:
            return StepStatus("not done")
        entry, body = did.entry, did.entry.body
        ago = self._now() - clock.instant(entry.at_us)
        match did.state:
            case "seen" if step.kind == CHECK and ago > step.fresh:
                state = "stale"
            case "seen" | "judged":
                state = {True: "ok", False: "not as expected", None: "unknown"}[body["good"]]
            case "skipped":
                state = "skipped"
            case "intended":
                state = "unsure"
            case "undone":
                state = "not done"
            case other:
                state = other
        text = str(body.get("words", ""))
        if state == "stale":
            text = (
                f"checked {formatting.duration(ago.total_seconds())} ago, valid for "
                f"{formatting.duration(step.fresh.total_seconds())}: {text}"
            )
        return StepStatus(state, text, entry.by, entry, no_fault(step, self.runbook, found, entry, self._symptoms))

    def _write(self, step: Step, state: str, words: str, by: str = "", key: str = "", **more: Any) -> Entry | None:
        body = {
            "runbook": self.runbook,
            "step": step.name,
            "kind": step.recorded_kind,
            "state": state,
            "words": words,
            "opslib": VERSION,
            "rules_hash": self._rules_hash,
            **more,
        }
        return self._journal.append(self.name, "step", body, by=by, key=key)

    def record_result(self, step: Step, seen: CheckResult, as_of: datetime, by: str = "", picture: str = "") -> None:
        """Record the result of a check."""
        more: dict[str, Any] = {"next": seen.next} if seen.next else {}
        more |= {"picture": {"sha256": picture, "name": seen.view}} if picture else {}
        self._write(
            step,
            "seen",
            f"{step.name}: {seen.words}",
            by,
            good=seen.good,
            content=seen.content,
            source=seen.source,
            query=seen.query,
            as_of=formatting.iso(as_of),
            **more,
        )

    def skip(self, step: Step) -> None:
        """Record that no person was available to answer an ask step."""
        if (
            self.status_of(step).state in ("not done", "skipped")
            and (self.runbook, step.name) not in self.incident.steps
        ):
            self._write(step, "skipped", f"{step.name}: {NOBODY_ASKED}")

    def answer(self, step: Step, good: bool | None, by: str, note: str = "") -> None:
        """
        Record a person's answer.

        Args:
            good: Whether the step passed; None means unknown.

        Raises:
            OperatorNeeded: No name was given.
            IncidentError: The step is not answered by a person.
        """
        if step.kind != ASK:
            raise IncidentError(f"step {step.name} is evaluated by {step.evaluated_by}; a person cannot answer it.")
        if not by.strip():
            raise OperatorNeeded(f"step {step.name} is answered by a person: give your name.")
        label = {True: "passed", False: "failed", None: "unknown"}[good]
        self._write(
            step,
            "judged",
            f"{step.name}: {label}{': ' + note.strip() if note.strip() else ''}",
            by.strip(),
            good=good,
            note=note.strip(),
        )

    def do(
        self,
        step: Step,
        by: str,
        confirmed: bool,
        act: Callable[[dict[str, Any]], Outcome],
        parameters: Mapping[str, Any],
    ) -> StepStatus:
        """
        Run an action, once.

        Args:
            by: The operator's name.
            confirmed: Whether the operator has read what the action will do, and confirmed it.
            act: Runs the action; receives the request, with the ID of this action in it.
            parameters: The step's request, recorded with the intent.

        Returns:
            The status of the step now. An action that is done does not run again.

        Raises:
            OperatorNeeded: No name was given.
            IncidentError: The action was not confirmed, its earlier outcome is unknown, or another person is running
                it.
        """
        if step.kind != ACTION:
            raise IncidentError(f"step {step.name} is not an action: there is nothing to run.")
        if not by.strip():
            raise OperatorNeeded(f"step {step.name} is an action: {step.do} Give your name to run it.")
        found = self.incident
        now = self.status_of(step, found)
        if now.state in SETTLED:
            return now
        if now.state == "unsure":
            raise IncidentError(self._unsure(step, now))
        if not confirmed:
            raise IncidentError(f"step {step.name} was not confirmed. Read what it will do, then confirm it.")
        attempt = (
            sum(
                1
                for e in found.of_kind("step")
                if e.body["runbook"] == self.runbook and e.body["step"] == step.name and e.body["state"] == "intended"
            )
            + 1
        )
        act_id = f"{self.name}/{self.runbook}/{step.name}/{attempt}"
        whole = dict(parameters) | {
            "id": act_id,
            "incident": self.name,
            "runbook": self.runbook,
            "step": step.name,
            "operator": by.strip(),
        }
        if (
            self._write(
                step,
                "intended",
                f"{step.name}: {by.strip()} started: {step.do}",
                by.strip(),
                f"intended:{act_id}",
                asked=whole,
            )
            is None
        ):
            raise IncidentError(f"another person is running step {step.name} now. Wait, then check its status.")
        ended = act(whole)
        more = {"output": ended.output} if ended.output else {}
        self._write(
            step,
            ended.state,
            f"{step.name}: {ended.words}",
            by.strip(),
            f"ended:{act_id}",
            id=act_id,
            mitigates=step.mitigates,
            **more,
        )
        return self.status_of(step)

    @staticmethod
    def _unsure(step: Step, now: StepStatus) -> str:
        assert now.entry
        return (
            f"{now.by} started step {step.name} at {formatting.moment(clock.instant(now.entry.at_us))}, but no outcome "
            f"was recorded. Check whether it took effect, then run confirm_outcome({step.name!r}, True or False, "
            f"by=...)."
        )

    def confirm_outcome(self, step: Step, happened: bool, by: str, note: str = "") -> StepStatus:
        """
        Record whether an action with an unknown outcome took effect.

        Raises:
            OperatorNeeded: No name was given.
            IncidentError: The outcome of the step is not unknown.
        """
        if not by.strip():
            raise OperatorNeeded(f"the outcome of step {step.name} is confirmed by a person: give your name.")
        now = self.status_of(step)
        if now.state != "unsure" or now.entry is None:
            raise IncidentError(f"step {step.name} is {now.label}: there is no outcome to confirm.")
        act_id = now.entry.body["asked"]["id"]
        text = (
            f"{by.strip()} confirmed: it {'took effect' if happened else 'did not take effect'}"
            f"{': ' + note.strip() if note.strip() else ''}"
        )
        if (
            self._write(
                step,
                "done" if happened else "undone",
                f"{step.name}: {text}",
                by.strip(),
                f"ended:{act_id}",
                id=act_id,
                mitigates=step.mitigates,
            )
            is None
        ):
            raise IncidentError(f"another person confirmed the outcome of step {step.name} first. Check its status.")
        return self.status_of(step)

    def minutes(self, incident: Incident) -> float:
        """Return the minutes since detection, up to the resolution if the incident is resolved."""
        end = incident.times["resolved"].at_us if incident.status == "resolved" else None
        return max(0.0, ((end if end is not None else clock.micros(self._now())) - incident.since_us) / 60e6)

    def box(self, incident: Incident) -> str:
        """Return the current time box of the guide."""
        passed = timedelta(minutes=self.minutes(incident))
        return next(name for name, (_, until) in BOXES.items() if until is None or passed < timedelta(minutes=until))


def no_fault(step: Step, runbook: str, incident: Incident, entry: Entry, symptoms: bool = True) -> str:
    """
    Return what a failed result of a step means if it is no fault: `SYMPTOM`, `NOT_YET`, or empty.

    A provider's failing is the symptom of an incident about that provider; of one about the app, only the first
    provider's, because the other one is the fallback. After the end of the incident a failed check is a fault.

    Args:
        incident: The incident, as it was when the result was recorded.
        symptoms: Whether a failed check can be the symptom of an incident; false for a checklist.
    """
    if step.after:
        did = incident.steps.get((runbook, step.after))
        return "" if did and did.entry.at_us < entry.at_us and did.state in ("done", "rehearsed") else NOT_YET
    resolved = incident.times["resolved"].at_us
    about = incident.subject if incident.subject in PROVIDERS else PROVIDERS[0]
    if not step.symptom or not symptoms or (resolved is not None and entry.at_us > resolved):
        return ""
    return SYMPTOM if step.of not in PROVIDERS or step.of == about else ""
