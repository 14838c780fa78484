"""
Run a runbook for one incident: intent, action and outcome of each step on record.

All of it is in the incident's record, so a new kernel, another person or another machine goes on where it stands. A
step that changes the world is written down as intended before it is done, under a key that only one can take; who dies
between the two leaves an intention without an outcome, which nobody does again before a person has said whether it
happened.
"""

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any, NamedTuple, Protocol

from opslib.foundation import clock, formatting
from opslib.foundation.errors import IncidentError, OperatorNeeded
from opslib.foundation.version import VERSION
from opslib.incidents.evidence import Entry
from opslib.incidents.incident import Incident
from opslib.runbooks.hooks import Outcome
from opslib.runbooks.steps import ASK, BOXES, CHANGE, LOOK, Step

NOBODY_ASKED = "skipped: nobody was asked"
# How a step can stand, each with the mark that the strip shows beside the word.
MARKS = {
    "not done": "·",
    "ok": "✓",
    "not as expected": "✗",
    "unknown": "?",
    "stale": "↻",
    "skipped": "–",
    "unsure": "!",
    "done": "✓",
    "rehearsed": "○",
    "failed": "✗",
}
SETTLED = ("done",)  # What stands so is never done again.


class CheckResult(NamedTuple):
    """
    What a check saw.

    Attributes:
        good: Is it as expected? None is unknown.
        words: What was seen, with its numbers, on one line.
        content: What that rests on, for the record.
        source, query: Who said it, and what was asked.
        next: The runbook that what was seen leads to; empty is none.
        view: The panel whose picture belongs to it; empty is none.
    """

    good: bool | None
    words: str
    content: Any = None
    source: str = "store"
    query: str = ""
    next: str = ""
    view: str = ""


class StepStatus(NamedTuple):
    """How a step stands: one of `MARKS`, what was last seen or done, by whom, and when."""

    state: str
    words: str = ""
    by: str = ""
    entry: Entry | None = None

    @property
    def mark(self) -> str:
        """A sign for its state."""
        return MARKS[self.state]


class Journal(Protocol):
    """What keeps the record of an incident."""

    def read(self, name: str) -> Incident:
        """An incident as its record stands."""
        ...

    def append(
        self, name: str, kind: str, body: Mapping[str, Any], *, by: str = "", key: str = "", at: datetime | None = None
    ) -> Entry | None:
        """Write an entry down; None where there is one of that key."""
        ...


class RunbookRun:
    """
    One runbook, walked for one incident.

    Args:
        now: What time it is.
    """

    def __init__(
        self, journal: Journal, incident: str, runbook: str, now: Callable[[], datetime], rules_hash: str = ""
    ):
        self._journal, self.name, self.runbook, self._now, self._rules_hash = (
            journal,
            incident,
            runbook,
            now,
            rules_hash,
        )

    @property
    def incident(self) -> Incident:
        """The incident, as its record stands now."""
        return self._journal.read(self.name)

    def standing(self, step: Step, incident: Incident | None = None) -> StepStatus:
        """How does a step stand?"""
        did = (incident or self.incident).steps.get((self.runbook, step.name))
        if did is None:
            return StepStatus("not done")
        entry, body = did.entry, did.entry.body
        ago = self._now() - clock.instant(entry.at_us)
        match did.state:
            case "seen" if step.kind == LOOK and ago > step.fresh:
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
        told = str(body.get("words", ""))
        if state == "stale":
            told = (
                f"seen {formatting.duration(ago.total_seconds())} ago, holds for "
                f"{formatting.duration(step.fresh.total_seconds())}: {told}"
            )
        return StepStatus(state, told, entry.by, entry)

    def _write(self, step: Step, state: str, words: str, by: str = "", key: str = "", **more: Any) -> Entry | None:
        body = {
            "runbook": self.runbook,
            "step": step.name,
            "kind": step.kind,
            "state": state,
            "words": words,
            "opslib": VERSION,
            "rules_hash": self._rules_hash,
            **more,
        }
        return self._journal.append(self.name, "step", body, by=by, key=key)

    def see(self, step: Step, seen: CheckResult, as_of: datetime, by: str = "", picture: str = "") -> None:
        """Write down what a step that looks saw."""
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
        """Nobody is there to be asked."""
        if (
            self.standing(step).state in ("not done", "skipped")
            and (self.runbook, step.name) not in self.incident.steps
        ):
            self._write(step, "skipped", f"{step.name}: {NOBODY_ASKED}")

    def answer(self, step: Step, good: bool | None, by: str, note: str = "") -> None:
        """
        A person judges.

        Args:
            good: Is it as expected? None is that it cannot be told.

        Raises:
            OperatorNeeded: Nobody says who judges.
            IncidentError: It is not for a person to judge.
        """
        if step.kind != ASK:
            raise IncidentError(f"step {step.name} is judged by {step.judged_by}, not by a person.")
        if not by.strip():
            raise OperatorNeeded(f"step {step.name} is judged by a person; say who you are.")
        told = {True: "as expected", False: "not as expected", None: "cannot be told"}[good]
        self._write(
            step,
            "judged",
            f"{step.name}: {told}{': ' + note.strip() if note.strip() else ''}",
            by.strip(),
            good=good,
            note=note.strip(),
        )

    def do(
        self, step: Step, by: str, confirmed: bool, act: Callable[[dict[str, Any]], Outcome], asked: Mapping[str, Any]
    ) -> StepStatus:
        """
        Change the world, once.

        Args:
            by: Who puts their name to it.
            confirmed: Have they seen what it will do, and said yes?
            act: Does it, with what is asked of it, the id of this act among it.
            asked: What the step has filled in; written down with the intention.

        Returns:
            How the step stands now; one that was done before is not done again, and its record is given.

        Raises:
            OperatorNeeded: Nobody puts their name to it.
            IncidentError: It was not confirmed; it was begun before and nobody wrote down how it ended; or somebody is
                doing it.
        """
        if step.kind != CHANGE:
            raise IncidentError(f"step {step.name} changes nothing: there is nothing to do.")
        if not by.strip():
            raise OperatorNeeded(f"step {step.name} changes the world: {step.do} Name an operator to do it.")
        found = self.incident
        now = self.standing(step, found)
        if now.state in SETTLED:
            return now
        if now.state == "unsure":
            raise IncidentError(self._unsure(step, now))
        if not confirmed:
            raise IncidentError(f"step {step.name} was not confirmed. See what it will do, then confirm it.")
        attempt = (
            sum(
                1
                for e in found.of_kind("step")
                if e.body["runbook"] == self.runbook and e.body["step"] == step.name and e.body["state"] == "intended"
            )
            + 1
        )
        act_id = f"{self.name}/{self.runbook}/{step.name}/{attempt}"
        whole = dict(asked) | {
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
                f"{step.name}: {by.strip()} is about to: {step.do}",
                by.strip(),
                f"intended:{act_id}",
                asked=whole,
            )
            is None
        ):
            raise IncidentError(f"step {step.name} is being done by somebody else at this moment. Look again.")
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
        return self.standing(step)

    @staticmethod
    def _unsure(step: Step, now: StepStatus) -> str:
        assert now.entry
        return (
            f"step {step.name} was begun by {now.by} at {formatting.moment(clock.instant(now.entry.at_us))}, and "
            f"nobody wrote down how it ended. See whether it happened, then say so: settle({step.name!r}, True or "
            f"False, by=...)."
        )

    def settle(self, step: Step, happened: bool, by: str, note: str = "") -> StepStatus:
        """
        A person says whether an act happened that was begun and of which nobody wrote down how it ended.

        Raises:
            OperatorNeeded: Nobody says who has looked.
            IncidentError: There is nothing to settle.
        """
        if not by.strip():
            raise OperatorNeeded(f"who has looked whether step {step.name} happened? Give a name.")
        now = self.standing(step)
        if now.state != "unsure" or now.entry is None:
            raise IncidentError(f"step {step.name} is {now.state}: there is nothing to settle.")
        act_id = now.entry.body["asked"]["id"]
        told = (
            f"{by.strip()} looked: it {'happened' if happened else 'did not happen'}"
            f"{': ' + note.strip() if note.strip() else ''}"
        )
        if (
            self._write(
                step,
                "done" if happened else "undone",
                f"{step.name}: {told}",
                by.strip(),
                f"ended:{act_id}",
                id=act_id,
                mitigates=step.mitigates,
            )
            is None
        ):
            raise IncidentError(f"step {step.name} was settled by somebody else meanwhile. Look again.")
        return self.standing(step)

    def minutes(self, incident: Incident) -> float:
        """For how many minutes has the incident's clock run? Until it was over, where it is."""
        end = incident.times["resolved"].at_us if incident.status == "resolved" else None
        return max(0.0, ((end if end is not None else clock.micros(self._now())) - incident.since_us) / 60e6)

    def box(self, incident: Incident) -> str:
        """Which time box of the guide is it in?"""
        passed = timedelta(minutes=self.minutes(incident))
        return next(name for name, (_, until) in BOXES.items() if until is None or passed < timedelta(minutes=until))
