"""Make the guide's success metrics after a week: each line passed, failed or unknown, with its figure."""

from functools import cached_property
from typing import Any, NamedTuple

from opslib.dashboard import daily_figures
from opslib.dashboard.text_blocks import TextBlock
from opslib.dashboard.text_blocks import table as tabled
from opslib.foundation.market_calendar import Session
from opslib.incidents import lifecycle
from opslib.incidents.feedback import MISSED, Feedback
from opslib.reports.periodic import PeriodicReport, told
from opslib.runbooks.checklists import checklist

# Whether the dashboard answers everybody is what a person said in this box.
RESPONSIVE = ("post-deploy-1w", "under_load")


class Metric(NamedTuple):
    """
    One line of the guide's success metrics.

    Attributes:
        passed: None is unknown.
        said: The figure behind it, on one line.
    """

    name: str
    words: str
    passed: bool | None
    said: str

    @property
    def state(self) -> str:
        """pass, fail or unknown."""
        return {True: "pass", False: "fail", None: "unknown"}[self.passed]


class Success(PeriodicReport):
    """Seven days against the guide's success metrics."""

    NAME, TITLE = "success", "Success metrics"

    @cached_property
    def sessions(self) -> list[Session]:
        """All of its trading days: a week that was begun late was not seen whole."""
        return self.closed

    @cached_property
    def metrics(self) -> list[Metric]:
        """Each line of the guide's Success Metrics."""
        rules, f = self.workspace.rules, self.figures

        def aim(rule: str, name: str) -> bool | None:
            value, held = f[name], rules[rule]
            if value is None:
                return None
            return not held.past(value / (100 if held.unit == "ratio" else 1), held.objective)

        # A week that was not seen whole has not passed.
        def whole(passed: bool | None) -> bool | None:
            return None if passed and (self.incomplete or not self.seen) else passed

        uptime = [aim("availability", f"{name}_uptime_pct") for name in ("massive", "tradier")]
        if False in uptime:
            both = False
        elif None in uptime:
            both = None
        else:
            both = True
        critical = [r for r in self.rises if r.severity in ("critical", "escalate")]
        counted = None if self.unjudged or not self.seen else len(critical) < rules.days.most_critical
        missed = [
            o
            for o in Feedback(lifecycle.of(self.workspace).records).within(self.period.window, self.known_at)
            if o.kind == MISSED
        ]
        gap = (
            None
            if f["backtest_variance_pp"] is None
            else abs(f["backtest_variance_pp"]) < rules["backtest_variance"].objective
        )
        return [
            Metric(
                "uptime",
                "availability at its objective on both providers",
                whole(both),
                f"massive {told(f['massive_uptime_pct'], 'massive_uptime_pct')}, tradier "
                f"{told(f['tradier_uptime_pct'], 'tradier_uptime_pct')}, at least "
                f"{rules['availability'].limit_told(rules['availability'].objective)} is aimed for",
            ),
            Metric(
                "greeks",
                "valid Greeks at their objective",
                whole(aim("greeks_valid", "greeks_valid_rate_pct")),
                f"{told(f['greeks_valid_rate_pct'], 'greeks_valid_rate_pct')}, at least "
                f"{rules['greeks_valid'].limit_told(rules['greeks_valid'].objective)} is aimed for",
            ),
            Metric(
                "variance",
                "mean backtest variance below its objective",
                whole(gap),
                f"{told(f['backtest_variance_pp'], 'backtest_variance_pp')}, below "
                f"{rules['backtest_variance'].limit_told(rules['backtest_variance'].objective)} is aimed for",
            ),
            Metric(
                "critical_errors",
                f"fewer than {rules.days.most_critical:g} critical errors",
                whole(counted),
                self.unjudged or f"{len(critical)} alerts reached critical",
            ),
            Metric(
                "missed_data",
                "no trader reported missed data",
                not missed if self.seen or missed else None,
                "; ".join(o.words for o in missed) or "nobody said so (ops feedback missed-data)",
            ),
            self._responsive(),
            self._trends(),
        ]

    def _responsive(self) -> Metric:
        """Did a person find the dashboard responsive, and was it never late?"""
        late = [r for r in self.rises if r.rule == "dashboard_lag"]
        name, box = RESPONSIVE
        held = [
            lifecycle.of(self.workspace).records.read(found, self.known_at)
            for found in lifecycle.of(self.workspace).records.names(f"{name}-")
        ]
        answers = [
            did.entry.body.get("good")
            for sheet in held
            if sheet is not None
            for (_, step), did in sheet.steps.items()
            if step == box and did.state == "judged" and did.entry.at_us > self.period.window.start_us
        ]
        if late or False in answers:
            passed = False
        elif True in answers:
            passed = True
        else:
            passed = None
        words = [f"{len(late)} alerts of its age"] if late else []
        words += (
            ["a person found it so" if answers[-1] else "a person found it not so"]
            if answers
            else [f"nobody was asked: ops checklist {checklist(name).name}, box {box}"]
        )
        return Metric("responsive", "the dashboard is responsive to everybody", passed, "; ".join(words))

    def _trends(self) -> Metric:
        """Was any day of them not usual, by the trading days before it?"""
        off, compared = [], 0
        for day in self.seen:
            before = self._days.before(day.day)
            for name in daily_figures.WORDS:
                usual = daily_figures.usual(before, name, self.workspace.rules.days)
                outside = usual.outside(day.figures[name])
                compared += outside is not None
                off += [f"{day.day} {daily_figures.WORDS[name][0]} {told(day.figures[name], name)}"] if outside else []
        return Metric(
            "trends",
            "trends are as expected",
            not off if compared else None,
            "; ".join(off)
            or (
                f"{compared} figures compared with the days before them, all usual"
                if compared
                else f"fewer than {self.workspace.rules.days.least_days:g} trading days are held before any of them"
            ),
        )

    @property
    def verdict(self) -> str:
        """critical where a line failed, unknown where one is, ok."""
        states = {m.passed for m in self.metrics}
        if False in states:
            return "critical"
        if None in states:
            return "unknown"
        return "ok"

    @property
    def table(self) -> TextBlock:
        """Every line with its figure."""
        return tabled(
            f"{sum(m.passed is True for m in self.metrics)} of {len(self.metrics)} passed",
            ["metric", "stands", "by"],
            [[m.words, m.state, m.said] for m in self.metrics],
        )

    @property
    def more(self) -> dict[str, Any]:
        """The lines."""
        return {
            "metrics": [{"metric": m.name, "words": m.words, "state": m.state, "said": m.said} for m in self.metrics]
        }

    @property
    def pieces(self) -> list[TextBlock]:
        """The metrics first."""
        return [
            self.headline,
            self.table,
            self.summary,
            self.by_day,
            self.alerts_told,
            self.incidents_told,
            self.actions_told,
        ]
