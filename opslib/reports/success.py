"""Evaluate the guide's success metrics after a week: each passed, failed or unknown, with its figure."""

from functools import cached_property
from typing import Any, NamedTuple

from opslib.dashboard import daily_figures
from opslib.dashboard.text_blocks import TextBlock
from opslib.dashboard.text_blocks import table as tabled
from opslib.foundation.market_calendar import Session
from opslib.incidents import lifecycle
from opslib.incidents.feedback import MISSED, Feedback
from opslib.reports.periodic import PeriodicReport, figure_text
from opslib.runbooks.checklists import checklist

# The checklist and its item in which a person reports whether the dashboard is responsive.
RESPONSIVE = ("post-deploy-1w", "under_load")


class Metric(NamedTuple):
    """
    One line of the guide's success metrics.

    Attributes:
        passed: Whether it is met; None is unknown.
        detail: The figure that decides it, on one line.
    """

    name: str
    words: str
    passed: bool | None
    detail: str

    @property
    def state(self) -> str:
        """The state: pass, fail or unknown."""
        return {True: "pass", False: "fail", None: "unknown"}[self.passed]


class Success(PeriodicReport):
    """The success report: seven days compared with the guide's success metrics."""

    NAME, TITLE = "success", "Success metrics"

    @cached_property
    def sessions(self) -> list[Session]:
        """All trading days of the week: if monitoring began during the week, the days before count as missing."""
        return self.closed

    @cached_property
    def metrics(self) -> list[Metric]:
        """Each metric of the guide's Success Metrics."""
        rules, f = self.workspace.rules, self.figures

        def aim(rule: str, name: str) -> bool | None:
            value, held = f[name], rules[rule]
            if value is None:
                return None
            return not held.crosses(value / (100 if held.unit == "ratio" else 1), held.objective)

        # A week with missing data cannot pass.
        def whole(passed: bool | None) -> bool | None:
            return None if passed and (self.incomplete or not self.days_with_data) else passed

        uptime = [aim("availability", f"{name}_uptime_pct") for name in ("massive", "tradier")]
        if False in uptime:
            both = False
        elif None in uptime:
            both = None
        else:
            both = True
        critical = [r for r in self.worst_changes if r.severity in ("critical", "escalate")]
        counted = None if self.alerts_unknown or not self.days_with_data else len(critical) < rules.days.most_critical
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
                "availability of both providers meets its objective",
                whole(both),
                f"massive {figure_text(f['massive_uptime_pct'], 'massive_uptime_pct')}, tradier "
                f"{figure_text(f['tradier_uptime_pct'], 'tradier_uptime_pct')}, objective at "
                f"least {rules['availability'].format_limit(rules['availability'].objective)}",
            ),
            Metric(
                "greeks",
                "valid Greeks meet their objective",
                whole(aim("greeks_valid", "greeks_valid_rate_pct")),
                f"{figure_text(f['greeks_valid_rate_pct'], 'greeks_valid_rate_pct')}, objective at "
                f"least {rules['greeks_valid'].format_limit(rules['greeks_valid'].objective)}",
            ),
            Metric(
                "variance",
                "mean backtest variance below its objective",
                whole(gap),
                f"{figure_text(f['backtest_variance_pp'], 'backtest_variance_pp')}, objective "
                f"below {rules['backtest_variance'].format_limit(rules['backtest_variance'].objective)}",
            ),
            Metric(
                "critical_errors",
                f"fewer than {rules.days.most_critical:g} critical errors",
                whole(counted),
                self.alerts_unknown or f"{len(critical)} alerts reached critical",
            ),
            Metric(
                "missed_data",
                "no trader reported missed data",
                not missed if self.days_with_data or missed else None,
                "; ".join(o.words for o in missed) or "no report of missed data (ops feedback missed-data)",
            ),
            self._responsive(),
            self._trends(),
        ]

    def _responsive(self) -> Metric:
        """Return whether a person found the dashboard responsive and no alert on its lag fired."""
        late = [r for r in self.worst_changes if r.rule == "dashboard_lag"]
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
        words = [f"{len(late)} alerts on the dashboard's lag"] if late else []
        words += (
            [f"reported as {'responsive' if answers[-1] else 'not responsive'} in the checklist"]
            if answers
            else [f"not reported yet: run ops checklist {checklist(name).name}, item {box}"]
        )
        return Metric("responsive", "the dashboard is responsive for everybody", passed, "; ".join(words))

    def _trends(self) -> Metric:
        """Return whether every figure was within its usual range on every day."""
        off, compared = [], 0
        for day in self.days_with_data:
            before = self._days.before(day.day)
            for name in daily_figures.WORDS:
                usual = daily_figures.usual(before, name, self.workspace.rules.days)
                outside = usual.outside(day.figures[name])
                compared += outside is not None
                off += (
                    [f"{day.day} {daily_figures.WORDS[name][0]} {figure_text(day.figures[name], name)}"]
                    if outside
                    else []
                )
        return Metric(
            "trends",
            "figures are within their usual range",
            not off if compared else None,
            "; ".join(off)
            or (
                f"{compared} figures compared with the days before, all within the usual range"
                if compared
                else f"fewer than {self.workspace.rules.days.least_days:g} trading days before them have data"
            ),
        )

    @property
    def verdict(self) -> str:
        """The verdict: critical if a metric failed, else unknown if one is unknown, else ok."""
        states = {m.passed for m in self.metrics}
        if False in states:
            return "critical"
        if None in states:
            return "unknown"
        return "ok"

    @property
    def table(self) -> TextBlock:
        """Every metric with its state and its figure."""
        return tabled(
            f"{sum(m.passed is True for m in self.metrics)} of {len(self.metrics)} metrics passed",
            ["metric", "state", "figure"],
            [[m.words, m.state, m.detail] for m in self.metrics],
        )

    @property
    def more(self) -> dict[str, Any]:
        """The metrics."""
        return {
            "metrics": [
                {"metric": m.name, "words": m.words, "state": m.state, "detail": m.detail} for m in self.metrics
            ]
        }

    @property
    def pieces(self) -> list[TextBlock]:
        """All parts in order; the metrics come first."""
        return [
            self.headline,
            self.table,
            self.summary,
            self.by_day,
            self.alerts_table,
            self.incidents_table,
            self.actions_section,
        ]
