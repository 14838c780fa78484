"""
Show and run an open runbook: its steps with their results, the impact, the diagnosis and the follow-up.

Each button makes one call of `RunbookSession`, which papermill, a test or a shell can make as well. A result is written
to the incident's record before it is shown.
"""

import asyncio
import re
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Protocol

from opslib.alerting import effects
from opslib.alerting.causes import whose
from opslib.alerting.notifications.message import command
from opslib.alerting.verdicts import named
from opslib.dashboard import cost_details, impact, status
from opslib.dashboard.text_blocks import TextBlock, bullet_list, table
from opslib.foundation import clock, formatting, time_parsing
from opslib.incidents import lifecycle
from opslib.incidents.evidence import Entry
from opslib.incidents.incident import Incident
from opslib.incidents.practice import PRACTICE, DryRunIncidents
from opslib.jobs.executor import attended
from opslib.runbooks import catalog, hooks, steps
from opslib.runbooks.checks import run_check
from opslib.runbooks.checks.context import CheckContext, source_prefix
from opslib.runbooks.diagnosis import diagnosis
from opslib.runbooks.diagnosis.diagnosis import UNSEEN, Diagnosis, Other
from opslib.runbooks.execution import RunbookRun, StepStatus
from opslib.runbooks.hooks import Hook
from opslib.runbooks.steps import ACTION, ASK, BOXES, CHECK, Step, purpose
from opslib.telemetry.probes.runner import ProbeRunner

if TYPE_CHECKING:
    from opslib.dashboard.status import Status
    from opslib.foundation.config.workspace import Workspace


NOT_NEEDED = "– not needed"  # The status of a step of a branch for another cause, whatever its check found.
AGAIN = timedelta(seconds=10)  # Probes are not repeated within this time.


class Widgets(Protocol):
    """A view of an open runbook or checklist with buttons."""

    def show_progress(self, session: "RunbookSession") -> None:
        """Show the progress of all steps."""

    def show(self, card: "StepCard") -> None:
        """Show one step."""

    def show_signature(self, sheet: Any, instead: TextBlock) -> None:
        """Show the signature of a checklist."""


class RunbookSession:
    """
    One open runbook.

    Args:
        workspace: The workspace of the app.
        name: The name of the runbook.
        incident: The ID of the incident; ``practice`` writes nothing.
        operator: The person who runs it; an action needs one.
        subject, severity, limit, window: Those of the alert when this copy was opened.
        as_of: The evaluation time; empty means now, with new probes for each check.
        widgets: The view with buttons; None shows text only.

    Raises:
        IncidentError: The incident does not exist.
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
        self.template = catalog.runbook(name)
        self.workspace, self.name, self.operator, self.limit = workspace, name, operator.strip(), limit
        at = time_parsing.parse(as_of, "close") if isinstance(as_of, str) and as_of else as_of or None
        self._as_of = at if isinstance(at, datetime) else None
        self._now = clock_of(workspace, self._as_of)
        self.practice = incident == PRACTICE
        self.window = time_parsing.parse_span(window) if window else timedelta(minutes=10)
        self._subject, self._severity = subject, severity
        journal = (
            DryRunIncidents(
                workspace.settings, self.now(), self.template.title, subject or "app", severity or "notify", name
            )
            if self.practice
            else lifecycle.of(workspace)
        )
        self.execution = RunbookRun(journal, incident, name, self._now, workspace.rules.hash)
        self._journal = journal
        self.incident  # noqa: B018  # Raises here if the incident does not exist.
        self._begin(widgets)

    def _begin(self, widgets: "Widgets | None") -> None:
        """Set what a new session has not probed, read, drawn or shown yet."""
        self._probed_at: datetime | None = None
        self._last_status: Status | None = None
        self._cause: tuple[Status, Diagnosis] | None = None
        self._pictured: tuple[Status | None, dict[str, str]] = (None, {})  # The pictures of a status, by panel.
        self.widgets = widgets
        self.shown_widgets: list[Any] = []  # The widgets that show it.

    def now(self) -> datetime:
        """Return the time of this session's clock."""
        return self._now()

    @property
    def incident(self) -> Incident:
        """The incident, read from its record now."""
        return self.execution.incident

    @property
    def attended(self) -> bool:
        """Whether a person is available to answer."""
        return not self.practice and attended()

    @cached_property
    def hooks(self) -> dict[str, Hook]:
        """The hook of each action; in practice every hook is a dry run."""
        found = hooks.read(self.workspace.settings)
        return {name: Hook(name) for name in found} if self.practice else found

    # Checks.

    def view(self) -> "Status":
        """
        Return the current status, after new probes if probing is configured.

        Probes are not repeated within `AGAIN`.
        """
        if (
            self._as_of is None
            and self.workspace.settings.targets
            and (self._probed_at is None or self.now() - self._probed_at >= AGAIN)
        ):
            hooks.in_own_thread(lambda: asyncio.run(self._probe()))
            self._probed_at, self._last_status = self.now(), None
        return self.last_status()

    def last_status(self) -> "Status":
        """Return the status without new probes."""
        at = self.now()
        if self._last_status is None or not timedelta(0) <= at - self._last_status.window.end < AGAIN:
            self._last_status = status.view_at(self.workspace, at, self.window)
        return self._last_status

    async def _probe(self) -> None:
        rounds = ProbeRunner(
            self.workspace.settings, self.workspace.store, self.workspace.rules, now=self.workspace.now
        )
        try:
            rounds.samples.keep(await rounds.once(lambda name: not name.startswith("chain")))
        finally:
            rounds.close()

    def check(self, name: str) -> StepStatus:
        """Run the check of a step now, and record its result."""
        step = steps.step(name)
        view = self.view()
        seen = run_check(CheckContext(view, self.workspace, step, self.incident))
        picture = self._picture(view, seen.view)
        self.execution.record_result(
            step,
            seen._replace(next="" if seen.next == self.name else seen.next),
            view.window.end,
            self.operator,
            picture,
        )
        return self.execution.status_of(step)

    def _picture(self, view: "Status", panel: str) -> str:
        if not panel or self.practice:
            return ""
        from opslib.dashboard import charts

        if self._pictured[0] is not view:
            self._pictured = (view, {})
        made = self._pictured[1]
        if panel not in made:
            made[panel] = lifecycle.of(self.workspace).picture(charts.png(view.panel(panel).draw))
        return made[panel]

    # Steps.

    def step(self, name: str) -> "StepCard":
        """
        Return a step with its status; run its check first if the check is due.

        Without a person, ask steps are recorded as skipped, and actions do not run.
        """
        step = steps.step(name)
        step_status = self.execution.status_of(step)
        if step.kind == CHECK and step_status.state in ("not done", "stale", "unknown"):
            self.check(name)
        elif step.kind == ASK and not self.attended:
            self.execution.skip(step)
        return StepCard(self, step)

    def answer(self, name: str, good: bool | None, by: str = "", note: str = "") -> StepStatus:
        """Record a person's answer: True for passed, False for failed, None for unknown."""
        step = steps.step(name)
        self.execution.answer(step, good, by or self.operator, note)
        return self.execution.status_of(step)

    def do(self, name: str, by: str = "", confirmed: bool = False, note: str = "") -> StepStatus:
        """
        Run an action, once; see `execution`.

        Raises:
            OperatorNeeded: No name was given.
            IncidentError: The action was not confirmed, its earlier outcome is unknown, or another person is running
                it.
        """
        step = steps.step(name)
        self._probed_at = self._last_status = None  # The action may change the status.
        act = partial(hooks.perform, step.hook, self.hooks[step.hook], self.workspace, self.incident, self._now)
        return self.execution.do(step, by or self.operator, confirmed, act, self._parameters(step, note))

    def confirm_outcome(self, name: str, happened: bool, by: str = "", note: str = "") -> StepStatus:
        """Record whether an action with an unknown outcome took effect."""
        return self.execution.confirm_outcome(steps.step(name), happened, by or self.operator, note)

    def note(self, words: str, by: str = "") -> Entry | None:
        """Add a note to the incident's record."""
        if self.practice:
            return self._journal.append(PRACTICE, "note", {"words": words}, by=by or self.operator)
        return lifecycle.of(self.workspace).note(self.incident.id, words, by or self.operator).last_entry

    def _parameters(self, step: Step, note: str = "") -> dict[str, Any]:
        """Return the request of an action: shown before it is confirmed, and recorded with the intent."""
        hook = self.hooks[step.hook]
        found: dict[str, Any] = {
            "hook": step.hook,
            "how": hook.words,
            "subject": self._subject or self.incident.subject,
            "note": note,
        }
        return found | ({"says": self.message_of(step)} if step.says else {})

    def describe_action(self, step: Step) -> str:
        """Return what an action will do; one without a command is done by hand."""
        hook = self.hooks[step.hook]
        if hook.real:
            return f"it will do: {hook.words}"
        if self.practice:
            return f"practice: a dry run, nothing is changed; the action is to {hooks.HOOKS[step.hook]}"
        incident, by_hand = self.incident, ""
        if step.hook == "silence" and incident.rule:
            what = ("--rule", incident.rule, "--subject", incident.subject, "--for", "1h", "--reason", incident.id)
            by_hand = f": {command('silence', 'add', *what, where=self.workspace.settings.where)}"
        return (
            f"not connected: {step.hook} is not set in [hooks] of settings.toml. The action to "
            f"{hooks.HOOKS[step.hook]} is only a dry run that changes nothing; do it by hand{by_hand or '.'}"
        )

    def message_preview(self, step: Step) -> str:
        """Return the message that an action would send now; an all-clear is not shown while something does not work."""
        if step.says.startswith("Resolved:"):
            failing = [words for state, words in impact.working_and_failing(self.last_status()) if state == "fails"]
            if failing:
                return f"do not send it yet, something does not work: {', '.join(failing)}"
        return f"message, if it is sent now: {self.message_of(step)}"

    def message_of(self, step: Step) -> str:
        """Return the message of an action, filled in with the current status."""
        view, incident = self.last_status(), self.incident
        effects = impact.working_and_failing(view)
        parts = [
            f"{head} {', '.join(w for s, w in effects if s == state)}"
            for state, head in (("works", "Works:"), ("fails", "Does not work:"), ("unknown", "Unknown:"))
            if any(s == state for s, _ in effects)
        ]
        cause = next((e.body["words"] for e in reversed(incident.of_kind("diagnosis"))), "not yet known")
        return step.says.format(
            title=self._trouble(incident).rstrip("."),
            standing="; ".join(parts),
            cause=cause,
            requests=", ".join(_requests(incident)) or "none recorded",
        )

    @property
    def has_page(self) -> bool:
        """Whether its incident has a page; a dry run has none."""
        return not self.practice

    # Views.

    @property
    def steps(self) -> list[Step]:
        """Its steps in order."""
        return self.template.steps

    @property
    def strip(self) -> TextBlock:
        """Every step with its status, and the current time box; a step that is not needed has no result."""
        incident, ruled_out, rows = self.incident, self.ruled_out, list[list[str]]()
        for s in self.steps:
            found = self.execution.status_of(s, incident)
            if s.name in ruled_out:
                shown = [NOT_NEEDED, self.title_of(s), f'for another cause ("{ruled_out[s.name]}")', ""]
            else:
                shown = [f"{found.mark} {found.label}", self.title_of(s), result_words(s, found), found.by]
            rows.append([s.box, *shown])
        return table(self.clock_words(incident), ["min", "status", "step", "result", "by"], rows, "no steps")

    def title_of(self, step: Step) -> str:
        """Return the title of a step."""
        return self._titles[step.name]

    @cached_property
    def _titles(self) -> dict[str, str]:
        return self.template.titles

    @property
    def cause(self) -> Diagnosis:
        """
        The likely cause by the last status; if nothing is wrong any more, the last one in the record.

        It is computed once for each status, and is not recorded.
        """
        view = self.last_status()
        if self._cause is None or self._cause[0] is not view:
            self._cause = view, diagnosis.diagnose(view)
        found = self._cause[1]
        if found.cause not in UNSEEN:
            return found
        recorded = [e.body for e in self.incident.of_kind("runbook", "diagnosis") if e.body.get("cause")]
        last = next((body for body in reversed(recorded) if body["cause"] not in UNSEEN), None)
        if last is None:
            return found
        also = tuple(Other(**other) for other in last.get("also", ()))
        return Diagnosis(found.window, last["cause"], last.get("subject"), last["confidence"], also=also)

    @property
    def ruled_out(self) -> dict[str, str]:
        """The steps that the likely cause makes unnecessary, each with the title of its branch."""
        incident, found = self.incident, self.template.ruled_out(self.cause.settled)
        return {name: branch for name, branch in found.items() if not self._acted(steps.step(name), incident)}

    def _acted(self, step: Step, incident: Incident) -> bool:
        """Return whether a person has done something for a step."""
        state = self.execution.status_of(step, incident).state
        return step.kind != CHECK and state not in ("not done", "skipped")

    def needed(self, incident: Incident) -> list[tuple[Step, StepStatus]]:
        """Return the steps that the likely cause does not rule out, in order, each with its status."""
        ruled_out = self.ruled_out
        return [(s, self.execution.status_of(s, incident)) for s in self.steps if s.name not in ruled_out]

    def next_step(self, incident: Incident) -> Step | None:
        """
        Return the first step that waits for a person; None if none does.

        Checks run by themselves. An action without a known outcome comes first.
        """
        needed = self.needed(incident)
        unsure = [s for s, step_status in needed if step_status.state == "unsure"]
        waiting = [
            s for s, step_status in needed if s.kind != CHECK and step_status.state in ("not done", "skipped", "failed")
        ]
        return next(iter([*unsure, *waiting]), None)

    def clock_words(self, incident: Incident) -> str:
        """Return how many steps are done, to do and not needed, and `time_words`."""
        needed = self.needed(incident)
        done = sum(step_status.finished for _, step_status in needed)
        spared = len(self.steps) - len(needed)
        counts = [f"{done} done", f"{len(needed) - done} to do", *([f"{spared} not needed"] if spared else [])]
        return f"{' · '.join(counts)}; {self.time_words(incident)}"

    def time_words(self, incident: Incident) -> str:
        """Return the time since detection, the steps that are due now, and the steps overdue."""
        box, minutes = self.execution.box(incident), self.execution.minutes(incident)
        boxes = list(BOXES)
        needed = self.needed(incident)
        late = [
            self.title_of(s)
            for s, step_status in needed
            if s.box in boxes[: boxes.index(box)] and step_status.state in ("not done", "stale", "skipped")
        ]
        passed = formatting.duration(int(minutes) * 60) if minutes >= 1 else "less than a minute"
        when = f"resolved {passed} after detection" if incident.status == "resolved" else f"detected {passed} ago"
        due = f"steps of minutes {box.replace('-', '–')}" if box != "after" else "steps after the incident"
        now = "" if incident.status == "resolved" else f"; now due: {due}"
        return f"{when}{now}" + (f"; overdue: {', '.join(late)}" if late else "")

    @property
    def severity(self) -> impact.Severity:
        """The severity by the last status."""
        return impact.severity(self.last_status())

    @property
    def impact(self) -> TextBlock:
        """The impact on traders, and what still works, after new probes."""
        self.view()
        return self.impact_seen

    @property
    def impact_seen(self) -> TextBlock:
        """The impact by the last status."""
        view = self.last_status()
        severity = impact.severity(view)
        rules = self.workspace.rules.rules
        active = [a["rule"] for a in view.alerts if a["runbook"] == self.name and not a["inhibited_by"]]
        rule = next((rules[name] for name in (self.incident.rule, *active, self.name) if name in rules), None) or next(
            (r for r in rules.values() if self.name in r.runbooks.values()), None
        )
        # An incident that a person opened is about the app; its runbook may be about one provider.
        of_runbook = [s for s, name in rule.runbooks.items() if name == self.name] if rule else []
        subject = of_runbook[0] if len(of_runbook) == 1 else self.incident.subject
        lines = [f"for traders: {effects.for_traders(rule, subject, impact.serving(view))}"] if rule else []
        lines += [
            f"{ {'works': 'still works', 'fails': 'does not work', 'unknown': 'unknown'}[state] }: {words}"
            for state, words in impact.working_and_failing(view)
        ]
        # The lines below hold the rest of the reason.
        return bullet_list(f"Trader impact: {severity.why.partition('. ')[0].rstrip('.')}.", lines)

    @property
    def detection(self) -> TextBlock:
        """The alerts of this runbook, and the current state of their panel."""
        view, incident = self.view(), self.incident
        alerts = [a for a in view.alerts if a["runbook"] == self.name or a["id"] in incident.alerts]
        lines = [
            f"alert, {view.describe_since(a)}: {source_prefix(a['source'])}{a['sentence']} "
            f"(value when it became {a['severity']})"
            for a in alerts
        ]
        panels = dict.fromkeys(r.panel for r in self.workspace.rules.rules.values() if self.name in r.runbooks.values())
        for panel in panels:
            found = view.panel(panel)
            detections = [
                f"{found.title} now: {found.verdict_text}",
                *(s for s in found.sentences if not s.startswith(("ok:", "not evaluated"))),
            ]
            lines += (
                detections
                if found.verdict != "ok"
                else [f"{found.title} now: {found.verdict_text}", *found.sentences[:3]]
            )
        return bullet_list(
            f"As of {formatting.moment(view.window.end)}, window {formatting.duration(self.window.total_seconds())}",
            lines or ["no alert of this runbook is active"],
        )

    @property
    def diagnosis(self) -> Diagnosis:
        """The likely cause, with the evidence for and against it; recorded with the incident."""
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
        """The actual trading costs and the backtest's assumptions."""
        return cost_details.CostComparison(self.workspace, self.now())

    @property
    def afterwards(self) -> TextBlock:
        """The suggested action items, and the next command."""
        incident, items = self.incident, list[str]()
        for step, step_status in self.needed(incident):
            if step_status.state in ("not as expected", "unknown", "failed", "unsure"):
                items.append(
                    f'"{purpose(step.name)}": {step_status.label} ({result_words(step, step_status)}). '
                    f"Decide whether this needs an action item."
                )
            if step_status.state == "rehearsed":
                items.append(f'"{purpose(step.name)}" was only a dry run: set {step.hook} in [hooks] of settings.toml')
        items.append(
            f"changes to the runbook: name the notebook (runbooks/{self.name}.ipynb) and the step, for example "
            f"{self.title_of(self.steps[0]) if self.steps else 'the first'}"
        )
        more = [f"next: ops incident resolve {incident.id} --by NAME; ops postmortem {incident.id}"]
        return bullet_list("Suggested action items", [*items, *more])

    @property
    def header(self) -> TextBlock:
        """What is broken, since when, whose fault it is, what still works, and the next step."""
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
            f"{named(rule, incident.subject)}, threshold {self.limit}"
            if rule and self.limit
            else self._subject or incident.subject
        )
        facts, step = self.facts(incident), self.next_step(incident)
        following = f"{self.title_of(step)}. {step.do}" if step else "none: every step is done"
        lines = [
            f"incident {incident.id}: {incident.status}, {severity}; {about}",
            *(f"{label.lower()}: {words}" for label, words in facts),
            f"next step: {following}",
            f"acts first: {who}; incident owner: {incident.owner or 'none'}; this runbook is run by: "
            f"{self.operator or 'nobody (give a name to run actions)'}",
            # Its checks run after this header is shown, so the numbers of steps done are only below them.
            f"as of {formatting.moment(self.now())}; {self.time_words(incident)}",
            self._which_actions_are_real(),
        ]
        title = f"{self.template.title} (practice)" if self.practice else f"{self.template.title}: {incident.title}"
        text = bullet_list(title, lines)
        values = {
            "verdict": self.headline_verdict(incident),
            "signs": formatting.SIGNS,
            "headline": self.headline(incident),
            "facts": facts,
            "next": step and self.title_of(step),
            "do": step and step.do,
            "lines": [lines[0], *lines[-3:]],
        }
        return TextBlock(text.plain, "runbooks/templates/header.html", values, text.markdown)

    def _which_actions_are_real(self) -> str:
        """Say which actions change something, and which are dry runs because no command is set for them."""
        if self.practice:
            return "actions: all are dry runs (practice)"
        actions = [s for s in self.steps if s.kind == ACTION]
        real = [self.title_of(s) for s in actions if self.hooks[s.hook].real]
        dry = [self.title_of(s) for s in actions if not self.hooks[s.hook].real]
        why = "because no command is set for them in [hooks] of settings.toml"
        if not actions:
            return "actions: none"
        if not real:
            return f"actions: all are dry runs, {why}"
        return f"real actions: {', '.join(real)}" + (f"; dry runs, {why}: {', '.join(dry)}" if dry else "")

    def headline(self, incident: Incident) -> str:
        """Return the state of the incident in one sentence: the likely cause, or its title if none is known."""
        trouble = self._trouble(incident)
        return f"Resolved: {trouble}" if incident.status == "resolved" else trouble

    def _trouble(self, incident: Incident) -> str:
        """Return the likely cause as a sentence, or the incident's title if none is known."""
        return incident.title if self.cause.cause in UNSEEN else self.cause.headline

    def headline_verdict(self, incident: Incident) -> str:
        """Return the severity now, as a key of `formatting.SIGNS`."""
        found = self._severity or incident.severity
        return "ok" if incident.status == "resolved" else found if found in formatting.SIGNS else "unknown"

    def facts(self, incident: Incident) -> list[tuple[str, str]]:
        """Return what is broken, since when, whose fault it is and what still works, each with its label."""
        effects = impact.working_and_failing(self.last_status())

        def those(state: str) -> str:
            return ", ".join(words.partition(" (")[0] for found, words in effects if found == state) or "nothing known"

        alerts = [a for a in self.last_status().alerts if a["runbook"] == self.name or a["id"] in incident.alerts]
        began = min(
            (time_parsing.parse(a["since"]) for a in alerts),
            default=clock.instant(incident.times["began"].at_us or incident.since_us),
        )
        lasts = formatting.duration(max(0.0, (self.now() - began).total_seconds()))
        cause = self.cause
        return [
            ("Broken", those("fails")),
            ("Since", f"{began.astimezone(formatting.NEW_YORK):%H:%M} New York, for {lasts}"),
            (
                "Fault",
                f"{whose(cause.cause, cause.subject)}, confidence {formatting.ratio(cause.confidence, 0)}"
                if cause.cause not in UNSEEN
                else "unknown: no cause was found",
            ),
            ("Still works", those("works")),
        ]

    def __repr__(self) -> str:
        return self.header.plain

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        return self.header._repr_mimebundle_()

    def _ipython_display_(self) -> None:
        from IPython.display import display

        if self.attended and self.widgets:
            self.widgets.show_progress(self)
        else:
            display(self.header)


class StepCard:
    """One step as it is shown: what to do, what is expected, its status, and buttons if a person is available."""

    def __init__(self, session: RunbookSession, step: Step):
        self.session, self.step = session, step

    @property
    def status(self) -> StepStatus:
        """The status of the step now."""
        return self.session.execution.status_of(self.step)

    @property
    def text(self) -> TextBlock:
        """The step as text: its result, what to do and what is expected; for an action also what it will do."""
        step, step_status, session = self.step, self.status, self.session
        branch = session.ruled_out.get(step.name)
        seen = result_words(step, step_status)
        result = f"{step_status.mark} {step_status.label}{': ' + seen if seen else ''}"
        result += f" (by {step_status.by})" if step_status.by else ""
        if branch is not None:
            result = f'{NOT_NEEDED}: for another cause ("{branch}"). The likely cause is: {session.cause.headline}'
        lines = [step.aim]
        if step.kind == ACTION and step_status.state not in ("done",):
            lines += [session.describe_action(step)] + ([session.message_preview(step)] if step.says else [])
        if step_status.state == "unsure":
            lines.append(session.execution._unsure(step, step_status))
        if following := (step_status.entry.body.get("next") if step_status.entry else None):
            lines.append(
                f"continue with another runbook: ops runbook open {following} --incident {session.incident.id}"
            )
        plain = bullet_list(f"{step.do} ({step.name})", [result, *lines])
        values = {
            "step": step,
            "stands": step_status,
            "verdict": step_status.verdict if branch is None else "unknown",
            "seen": seen,
            "lines": lines,
            "not_needed": result if branch is not None else "",
            "folded": branch is not None or (step_status.finished and step_status.verdict != "critical"),
        }
        return TextBlock(plain.plain, "runbooks/templates/step.html", values, plain.markdown)

    def __repr__(self) -> str:
        return self.text.plain

    def _ipython_display_(self) -> None:
        from IPython.display import display

        if self.session.attended and self.session.widgets:
            self.session.widgets.show(self)
        else:
            display(self.text)


def clock_of(workspace: "Workspace", as_of: datetime | None) -> Callable[[], datetime]:
    """Return the clock of a session: fixed at `as_of`, or the workspace's."""
    return workspace.now if as_of is None else lambda: as_of


def result_words(step: Step, step_status: StepStatus) -> str:
    """Return the last result of a step without the words that its place and its label say."""
    if step_status.state == "skipped":
        return ""
    words = step_status.words.removeprefix(f"{step.name}: ")
    return re.sub(r"^(?:skipped|passed|failed|unknown|dry run, nothing was changed): ", "", words)


def _requests(incident: Incident) -> list[str]:
    """Return the request IDs of the provider's responses in the record, for its support."""
    found = [str(value) for e in incident.of_kind("step") for value in _values(e.body.get("content"), "request_id")]
    return list(dict.fromkeys(found))[:20]


def _values(found: Any, key: str) -> list[Any]:
    if isinstance(found, dict):
        return [v for k, v in found.items() if k == key and v] + [
            v for value in found.values() for v in _values(value, key)
        ]
    return [v for value in found for v in _values(value, key)] if isinstance(found, list) else []
