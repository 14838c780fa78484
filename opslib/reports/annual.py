"""Make the annual report: the year month by month, its incidents, and what the monitoring should gain next."""

from collections import Counter
from functools import cached_property
from typing import Any

from opslib.dashboard.text_blocks import TextBlock, bullet_list, table
from opslib.reports.quarterly import Quarterly

SHOWN = 10
REMEDIES = {"rehearsed": "set a hook for it", "skipped": "let a machine see it"}  # Of a step that was often not done.


class Annual(Quarterly):
    """The year's days by month, and what the monitoring should gain."""

    NAME, TITLE = "annual", "Annual monitoring report"

    @cached_property
    def causes(self) -> Counter[str]:
        """What incidents were put down to, last."""
        return Counter(
            str(i.of_kind("diagnosis")[-1].body.get("cause", "undetermined"))
            for i in self.incidents
            if i.of_kind("diagnosis")
        )

    @cached_property
    def gains(self) -> list[str]:
        """What the monitoring should gain next."""
        steps = Counter(
            (key, did.state)
            for i in self.incidents
            for key, did in i.steps.items()
            if did.state in ("rehearsed", "skipped", "failed")
        )
        quiet = [
            name
            for name, rule in self.workspace.rules.rules.items()
            if not rule.burn and name not in {r.rule for r in self.log.rises}
        ]
        items = [
            f"step {step} of {book} was {state} {count} time{'s' if count > 1 else ''}: "
            f"{REMEDIES.get(state, 'find out why')}"
            for ((book, step), state), count in steps.most_common(SHOWN)
        ]
        items += [f"no alert told of it: {words}" for words in self.missed[:SHOWN]]
        items += (
            [f"never fired: {', '.join(quiet)}: a drill shows whether they still can"]
            if quiet and self.seen and not self.unjudged
            else []
        )
        items += (
            [f"of {self.coverage:.0%} of what was expected there were looks: the rest is dark"]
            if self.coverage is not None and self.coverage < 1
            else []
        )
        return items

    @property
    def plan(self) -> TextBlock:
        """What the monitoring should gain next, for the release after this one."""
        return bullet_list("What the monitoring should gain", self.gains or ["nothing that the record shows"])

    @property
    def caused(self) -> TextBlock:
        """What incidents were put down to."""
        return table(
            "Causes",
            ["cause", "incidents"],
            [[cause, str(n)] for cause, n in self.causes.most_common()],
            "no incident has a diagnosis on record",
        )

    @property
    def more(self) -> dict[str, Any]:
        """The causes, the plan."""
        return super().more | {"causes": dict(self.causes), "plan": self.gains}

    @property
    def pieces(self) -> list[TextBlock]:
        """The plan at the end."""
        return [
            self.headline,
            self.summary,
            self.by_month,
            self.best_and_worst,
            self.incidents_told,
            self.caused,
            self.accuracy,
            self.limits,
            self.actions_told,
            self.plan,
        ]
