"""
Hold an open runbook as its notebook shows it: each step with its result, and what it comes to.

Everything a button does is a plain call of `RunbookSession`, which papermill, a test or a shell can make as well. What
was seen or done is in the incident's record before it is shown.
"""

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Protocol

from opslib.alerting.verdicts import named
from opslib.dashboard import cost_details, impact, status
from opslib.dashboard.text_blocks import TextBlock, bullet_list, table
from opslib.foundation import formatting, time_parsing
from opslib.incidents import lifecycle
from opslib.incidents.evidence import Entry
from opslib.incidents.incident import Incident
from opslib.incidents.practice import PRACTICE, DryRunIncidents
from opslib.jobs.executor import attended
from opslib.runbooks import catalog, hooks, steps
from opslib.runbooks.checks import run_check
from opslib.runbooks.checks.context import CheckContext, said
from opslib.runbooks.diagnosis import diagnosis
from opslib.runbooks.diagnosis.diagnosis import Diagnosis
from opslib.runbooks.execution import RunbookRun, StepStatus
from opslib.runbooks.hooks import Hook
from opslib.runbooks.steps import ASK, BOXES, CHANGE, LOOK, Step
from opslib.telemetry.probes.runner import ProbeRunner

if TYPE_CHECKING:
    from opslib.dashboard.status import Status
    from opslib.foundation.config.workspace import Workspace


AGAIN = timedelta(seconds=10)  # Looks of our own so new are not made again.


class Widgets(Protocol):
    """Shows an open runbook or checklist with buttons."""

    def show_strip(self, book: "RunbookSession") -> None:
        """Show the strip of all steps."""

    def show(self, card: "StepCard") -> None:
        """Show one step."""

    def show_signature(self, sheet: Any, instead: TextBlock) -> None:
        """Show where a checklist is signed."""


class RunbookSession:
    """
    One runbook, open.

    Args:
        workspace: Whose.
        name: Of the runbook.
        incident: Its id; ``practice`` writes nothing anywhere.
        operator: Who works through it; a changing step needs one.
        subject, severity, limit, window: Of the alert, as they were when this was opened.
        as_of: A moment that everything is looked at as of; empty is now, and each look is made anew.
        widgets: How it is shown where somebody is there; None is as text.

    Raises:
        IncidentError: There is no such incident on this desk.
    """

    def __init__(
        self,
        workspace: "Workspace",
        name: str,
        incident: str = PRACTICE,
        operator: str = "",
        subject: str = "",
        severity: str = "",
        limit: str = "",
        window: str = "",
        as_of: str | datetime | None = None,
        widgets: "Widgets | None" = None,
    ):
        self.shelved = catalog.runbook(name)
        self.workspace, self.name, self.operator, self.limit = workspace, name, operator.strip(), limit
        at = time_parsing.parse(as_of, "close") if isinstance(as_of, str) and as_of else as_of or None
        self._as_of = at if isinstance(at, datetime) else None
        self._now = clock_of(workspace, self._as_of)
        self.practice = incident == PRACTICE
        self.window = time_parsing.parse_span(window) if window else timedelta(minutes=10)
        self._subject, self._severity = subject, severity
        journal = (
            DryRunIncidents(
                workspace.settings, self.now(), self.shelved.title, subject or "app", severity or "notify", name
            )
            if self.practice
            else lifecycle.of(workspace)
        )
        self.walk = RunbookRun(journal, incident, name, self._now, workspace.rules.hash)
        self._journal = journal
        self.incident  # noqa: B018  # Refused at once where there is none.
        self._looked: datetime | None = None
        self._seen: Status | None = None
        self.widgets = widgets
        self.pads: list[Any] = []  # What of it is shown with buttons.

    def now(self) -> datetime:
        """What time it is here."""
        return self._now()

    @property
    def incident(self) -> Incident:
        """The incident, as its record stands now."""
        return self.walk.incident

    @property
    def attended(self) -> bool:
        """Is somebody there who can be asked?"""
        return not self.practice and attended()

    @cached_property
    def hooks(self) -> dict[str, Hook]:
        """By which each changing step reaches the world; where something is only practised, all are rehearsals."""
        found = hooks.read(self.workspace.settings)
        return {name: Hook(name) for name in found} if self.practice else found

    # Looking.

    def view(self) -> "Status":
        """
        Everything as it stands now; where somebody can be asked, they are asked first.

        What was seen within seconds is not looked at again.
        """
        if (
            self._as_of is None
            and self.workspace.settings.looked_at
            and (self._looked is None or self.now() - self._looked >= AGAIN)
        ):
            hooks.in_own_thread(lambda: asyncio.run(self._look()))
            self._looked, self._seen = self.now(), None
        return self.seen()

    def seen(self) -> "Status":
        """Everything as it was last seen."""
        at = self.now()
        if self._seen is None or not timedelta(0) <= at - self._seen.window.end < AGAIN:
            self._seen = status.view_at(self.workspace, at, self.window)
        return self._seen

    async def _look(self) -> None:
        rounds = ProbeRunner(
            self.workspace.settings, self.workspace.store, self.workspace.rules, now=self.workspace.now
        )
        try:
            rounds.samples.keep(await rounds.once(lambda name: not name.startswith("chain")))
        finally:
            rounds.close()

    def look(self, name: str) -> StepStatus:
        """Look at one step's matter, now, and write down what was seen."""
        step = steps.step(name)
        view = self.view()
        seen = run_check(CheckContext(view, self.workspace, step, self.incident))
        picture = self._picture(view, seen.view)
        self.walk.see(
            step,
            seen._replace(next="" if seen.next == self.name else seen.next),
            view.window.end,
            self.operator,
            picture,
        )
        return self.walk.standing(step)

    def _picture(self, view: "Status", panel: str) -> str:
        if not panel or self.practice:
            return ""
        from opslib.dashboard import charts

        return lifecycle.of(self.workspace).picture(charts.png(view.panel(panel).draw))

    # Steps.

    def step(self, name: str) -> "StepCard":
        """
        A step, looked at where that is free and due, and how it stands; what was done is shown, not done again.

        Where nobody is there, what a person would judge is skipped, and what changes the world stays as it is.
        """
        step = steps.step(name)
        standing = self.walk.standing(step)
        if step.kind == LOOK and standing.state in ("not done", "stale", "unknown"):
            self.look(name)
        elif step.kind == ASK and not self.attended:
            self.walk.skip(step)
        return StepCard(self, step)

    def answer(self, name: str, good: bool | None, by: str = "", note: str = "") -> StepStatus:
        """A person judges a step: as expected, not, or None: cannot be told."""
        step = steps.step(name)
        self.walk.answer(step, good, by or self.operator, note)
        return self.walk.standing(step)

    def do(self, name: str, by: str = "", confirmed: bool = False, note: str = "") -> StepStatus:
        """
        Change the world, once; see `execution`.

        Raises:
            OperatorNeeded: Nobody puts their name to it.
            IncidentError: Not confirmed; begun before, without an end; or being done by somebody.
        """
        step = steps.step(name)
        self._looked = self._seen = None  # What was seen before it may be no longer so.
        act = partial(hooks.perform, step.hook, self.hooks[step.hook], self.workspace, self.incident, self._now)
        return self.walk.do(step, by or self.operator, confirmed, act, self._asked(step, note))

    def settle(self, name: str, happened: bool, by: str = "", note: str = "") -> StepStatus:
        """A person says whether an act happened of which nobody wrote down how it ended."""
        return self.walk.settle(steps.step(name), happened, by or self.operator, note)

    def note(self, words: str, by: str = "") -> Entry | None:
        """Write down what was noticed."""
        if self.practice:
            return self._journal.append(PRACTICE, "note", {"words": words}, by=by or self.operator)
        return lifecycle.of(self.workspace).note(self.incident.id, words, by or self.operator).head

    def _asked(self, step: Step, note: str = "") -> dict[str, Any]:
        """What a changing step fills in: shown before it is confirmed, written down with the intention."""
        hook = self.hooks[step.hook]
        found: dict[str, Any] = {
            "hook": step.hook,
            "how": hook.words,
            "subject": self._subject or self.incident.subject,
            "note": note,
        }
        return found | ({"says": self.said(step)} if step.says else {})

    def said(self, step: Step) -> str:
        """What a step tells somebody, filled in as of now."""
        view, incident = self.seen(), self.incident
        stands = impact.working_and_failing(view)
        parts = [
            f"{head} {', '.join(w for s, w in stands if s == state)}"
            for state, head in (("works", "Works:"), ("fails", "Does not work:"), ("unknown", "Not known:"))
            if any(s == state for s, _ in stands)
        ]
        cause = next((e.body["words"] for e in reversed(incident.of_kind("diagnosis"))), "not known yet")
        return step.says.format(
            title=incident.title,
            severity=impact.severity(view).level,
            standing="; ".join(parts),
            cause=cause,
            requests=", ".join(_requests(incident)) or "none recorded",
        )

    # What it comes to.

    @property
    def steps(self) -> list[Step]:
        """Its steps in order."""
        return self.shelved.steps

    @property
    def strip(self) -> TextBlock:
        """Every step and how it stands, and in which time box we are."""
        incident = self.incident
        rows = [
            [
                s.box,
                f"{(stands := self.walk.standing(s, incident)).mark} {stands.state}",
                s.name,
                s.do,
                stands.words.removeprefix(f"{s.name}: ").removeprefix("skipped: "),
                stands.by,
            ]
            for s in self.steps
        ]
        return table(
            self.clock_words(incident), ["min", "stands", "step", "do", "seen or done", "by"], rows, "no steps"
        )

    def clock_words(self, incident: Incident) -> str:
        """How long the incident's clock has run, which box that is, and what of the boxes before is not done."""
        box, minutes = self.walk.box(incident), self.walk.minutes(incident)
        boxes = list(BOXES)
        late = [
            s.name
            for s in self.steps
            if s.box in boxes[: boxes.index(box)]
            and self.walk.standing(s, incident).state in ("not done", "stale", "skipped")
        ]
        done = sum(
            self.walk.standing(s, incident).state in ("ok", "done", "rehearsed", "not as expected") for s in self.steps
        )
        where = (
            f"minute {minutes:.0f} since it was detected, box {box} min"
            if box != "after"
            else f"{formatting.duration(minutes * 60)} since it was detected, past the last box"
        )
        return f"{done}/{len(self.steps)} steps; {where}" + (
            f"; of earlier boxes not done: {', '.join(late)}" if late else ""
        )

    @property
    def severity(self) -> impact.Severity:
        """How bad it is, by what was seen up to now."""
        return impact.severity(self.seen())

    @property
    def impact(self) -> TextBlock:
        """What it means for who trades, and what still works, looked up now."""
        self.view()
        return self.impact_seen

    @property
    def impact_seen(self) -> TextBlock:
        """The same, by what was seen already."""
        view = self.seen()
        severity = impact.severity(view)
        rules = self.workspace.rules.rules
        standing = [a["rule"] for a in view.alerts if a["runbook"] == self.name and not a["inhibited_by"]]
        rule = next(
            (rules[name] for name in (self.incident.rule, *standing, self.name) if name in rules), None
        ) or next((r for r in rules.values() if self.name in r.runbooks.values()), None)
        lines = [f"for traders: {rule.traders}"] if rule else []
        lines += [
            f"{ {'works': 'still works', 'fails': 'does not work', 'unknown': 'not known'}[state] }: {words}"
            for state, words in impact.working_and_failing(view)
        ]
        # The rest of it stands below.
        return bullet_list(f"Severity now: {severity.level}. {severity.why.partition('. ')[0].rstrip('.')}.", lines)

    @property
    def detection(self) -> TextBlock:
        """What fired, and how its panel stands now."""
        view, incident = self.view(), self.incident
        alerts = [a for a in view.alerts if a["runbook"] == self.name or a["id"] in incident.alerts]
        lines = [
            f"{a['state']}, {a['severity']}, since {formatting.moment(time_parsing.parse(a['since']))}: "
            f"{said(a['source'])}"
            f"{a['sentence']}"
            for a in alerts
        ]
        panels = dict.fromkeys(r.panel for r in self.workspace.rules.rules.values() if self.name in r.runbooks.values())
        for panel in panels:
            found = view.panel(panel)
            told = [
                f"{found.title}: {found.told}",
                *(s for s in found.sentences if not s.startswith(("ok:", "not counted"))),
            ]
            lines += told if found.verdict != "ok" else [f"{found.title}: {found.told}", *found.sentences[:3]]
        return bullet_list(
            f"As of {formatting.moment(view.window.end)}, over {formatting.duration(self.window.total_seconds())}",
            lines or ["no alert of this runbook stands"],
        )

    @property
    def diagnosis(self) -> Diagnosis:
        """The likely cause, with the evidence for and against it; written down with the incident."""
        found = diagnosis.diagnose_at(self.workspace, self.now(), self.window)
        self._journal.append(
            self.incident.id,
            "diagnosis",
            found.as_record()
            | {
                "runbook": self.name,
                "as_of": formatting.iso(self.now()),
                "source": "diagnosis",
                "rules_hash": self.workspace.rules.hash,
            },
        )
        return found

    @property
    def costs(self) -> cost_details.CostComparison:
        """What trading cost beside what the backtest took for it."""
        return cost_details.CostComparison(self.workspace, self.now())

    @property
    def afterwards(self) -> TextBlock:
        """What is left to do when it is over: action items as the record suggests them, and the next command."""
        incident, items = self.incident, list[str]()
        for step in self.steps:
            stands = self.walk.standing(step, incident)
            if stands.state in ("not as expected", "unknown", "failed", "unsure"):
                items.append(
                    f"step {step.name} was {stands.state} ({stands.words.removeprefix(step.name + ': ')}): "
                    f"what would have made it easier?"
                )
            if stands.state == "rehearsed":
                items.append(f"step {step.name} could only be rehearsed: set a hook for {step.hook} in settings.toml")
        items.append(
            f"change to the runbook: name the notebook (runbooks/{self.name}.ipynb) and the step, such as "
            f"{self.steps[0].name if self.steps else 'its first'}"
        )
        more = [f"then: ops incident resolve {incident.id} --by NAME; ops postmortem {incident.id}"]
        return bullet_list("Action items, as the record suggests them", [*items, *more])

    @property
    def header(self) -> TextBlock:
        """Where we are: the incident, who acts, how long it has gone on."""
        incident = self.incident
        rule = self.workspace.rules.rules.get(incident.rule)
        who = (
            rule.who
            if rule
            else next(
                (r.who for r in self.workspace.rules.rules.values() if self.name in r.runbooks.values()), "Tech Lead"
            )
        )
        severity = self._severity or incident.severity
        about = (
            f"{named(rule, incident.subject)}, limit {self.limit}"
            if rule and self.limit
            else self._subject or incident.subject
        )
        lines = [
            f"{incident.id}, {incident.status}, {severity}: {about}",
            f"acts: {who}; holds it: {incident.holder or 'nobody yet'}; working here: "
            f"{self.operator or 'nobody has given a name'}",
            f"as of {formatting.moment(self.now())}; {self.clock_words(incident)}",
            "changing steps: "
            + (
                "all rehearsed, this is practice"
                if self.practice
                else ", ".join(
                    f"{s.name} ({'real' if self.hooks[s.hook].real else 'rehearsal'})"
                    for s in self.steps
                    if s.kind == CHANGE
                )
                or "none"
            ),
        ]
        return bullet_list(
            f"{self.shelved.title}{' (practice)' if self.practice else ''}: {incident.title}"
            if not self.practice
            else f"{self.shelved.title} (practice)",
            lines,
        )

    def __repr__(self) -> str:
        return self.header.plain

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        return self.header._repr_mimebundle_()

    def _ipython_display_(self) -> None:
        from IPython.display import display

        display(self.header)
        if self.attended and self.widgets:
            self.widgets.show_strip(self)


class StepCard:
    """One step as it is shown: what to do, what to expect, how it stands; with its buttons where somebody is there."""

    def __init__(self, book: RunbookSession, step: Step):
        self.book, self.step = book, step

    @property
    def standing(self) -> StepStatus:
        """How the step stands now."""
        return self.book.walk.standing(self.step)

    @property
    def text(self) -> TextBlock:
        """The step in four lines; of a changing one, what it would do."""
        step, stands = self.step, self.standing
        n = next((i for i, s in enumerate(self.book.steps, 1) if s.name == step.name), 0)
        lines = [f"expect, judged by {step.judged_by}: {step.expect}"]
        if step.kind == CHANGE and stands.state not in ("done",):
            lines += [f"it will do: {self.book.hooks[step.hook].words}"] + (
                [f"it will say: {self.book.said(step)}"] if step.says else []
            )
        seen = stands.words.removeprefix(f"{step.name}: ").removeprefix("skipped: ")
        lines.append(
            f"{stands.mark} {stands.state}{': ' + seen if seen else ''}{f' ({stands.by})' if stands.by else ''}"
        )
        if stands.state == "unsure":
            lines.append(self.book.walk._unsure(step, stands))
        if following := (stands.entry.body.get("next") if stands.entry else None):
            lines.append(
                f"this leads to another runbook: ops runbook open {following} --incident {self.book.incident.id}"
            )
        return bullet_list(f"{n}/{len(self.book.steps)} {step.name}: {step.do}", lines)

    def __repr__(self) -> str:
        return self.text.plain

    def _ipython_display_(self) -> None:
        from IPython.display import display

        if self.book.attended and self.book.widgets:
            self.book.widgets.show(self)
        else:
            display(self.text)


def clock_of(workspace: "Workspace", as_of: datetime | None) -> Callable[[], datetime]:
    """The clock of a session: it stands still at `as_of`, or is the workspace's."""
    return workspace.now if as_of is None else lambda: as_of


def _requests(incident: Incident) -> list[str]:
    """Ids that the provider gave its answers, as the record has them: what its support asks for."""
    found = [str(value) for e in incident.of_kind("step") for value in _values(e.body.get("content"), "request_id")]
    return list(dict.fromkeys(found))[:20]


def _values(found: Any, key: str) -> list[Any]:
    if isinstance(found, dict):
        return [v for k, v in found.items() if k == key and v] + [
            v for value in found.values() for v in _values(value, key)
        ]
    return [v for value in found for v in _values(value, key)] if isinstance(found, list) else []
