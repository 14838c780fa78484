"""Make the annual report: figures by month, incidents and their causes, and gaps in the monitoring."""

from collections import Counter
from functools import cached_property
from typing import Any

from opslib.dashboard.text_blocks import TextBlock, bullet_list, table
from opslib.reports.postmortem.timeline import plural
from opslib.reports.quarterly import Quarterly
from opslib.runbooks.steps import purpose

SHOWN = 10
# The stored state of a step that was not done, with its shown form and its remedy.
STEP_STATES = {"rehearsed": "a dry run", "skipped": "skipped", "failed": "failed"}
REMEDIES = {"rehearsed": "configure a hook for it", "skipped": "automate it"}


class Annual(Quarterly):
    """The annual report: figures by month, causes of incidents, and gaps in the monitoring."""

    NAME, TITLE = "annual", "Annual monitoring report"

    @cached_property
    def causes(self) -> Counter[str]:
        """The number of incidents by the cause of their last diagnosis."""
        return Counter(
            str(i.of_kind("diagnosis")[-1].body.get("cause", "undetermined"))
            for i in self.incidents
            if i.of_kind("diagnosis")
        )

    @cached_property
    def gains(self) -> list[str]:
        """The gaps in the monitoring, as actions for the next release."""
        steps = Counter(
            (key, did.state)
            for i in self.incidents
            for key, did in i.steps.items()
            if did.state in ("rehearsed", "skipped", "failed")
        )
        quiet = [
            name
            for name, rule in self.workspace.rules.rules.items()
            if not rule.burn and name not in {r.rule for r in self.log.changes}
        ]
        items = [
            f'"{purpose(step)}" of runbook {runbook}: {STEP_STATES[state]} {plural(count, "time")}; '
            f"{REMEDIES.get(state, 'find out why')}"
            for ((runbook, step), state), count in steps.most_common(SHOWN)
        ]
        items += [f"not detected by an alert: {words}" for words in self.missed[:SHOWN]]
        items += (
            [f"rules that never fired: {', '.join(quiet)}; test them with ops drill"]
            if quiet and self.days_with_data and not self.alerts_unknown
            else []
        )
        items += (
            [f"only {self.coverage:.0%} of the expected snapshots were received; close the gaps"]
            if self.coverage is not None and self.coverage < 1
            else []
        )
        return items

    @property
    def plan(self) -> TextBlock:
        """The gaps in the monitoring, as actions for the next release."""
        count = len(self.gains)
        return bullet_list(f"{count} gap{'' if count == 1 else 's'}", self.gains or ["no gap is on record"])

    @property
    def causes_table(self) -> TextBlock:
        """The causes of the incidents."""
        return table(
            f"{len(self.causes)} cause{'' if len(self.causes) == 1 else 's'}, by the last diagnosis of each incident",
            ["cause", "incidents"],
            [[cause, str(n)] for cause, n in self.causes.most_common()],
            "no incident has a diagnosis on record",
        )

    @property
    def more(self) -> dict[str, Any]:
        """The causes and the gaps."""
        return super().more | {"causes": dict(self.causes), "plan": self.gains}

    @property
    def pieces(self) -> list[TextBlock]:
        """All parts in order; the gaps come last."""
        return [
            self.headline,
            self.summary,
            self.by_month,
            self.best_and_worst,
            self.incidents_table,
            self.causes_table,
            self.accuracy,
            self.limits,
            self.actions_section,
            self.plan,
        ]
