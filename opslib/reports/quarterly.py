"""
Make the quarterly report: figures by month, precision and recall of the alerts, time to detect, proposed thresholds.

People decide whether an alert was true: they dismiss its incident as a false alarm, or mitigate or resolve it, or give
feedback. An incident that people opened without an alert was missed. Alerts without a decision are listed and do not
count.
"""

from functools import cached_property
from typing import Any, NamedTuple

from opslib.alerting.history import SeverityChange
from opslib.alerting.verdicts import named
from opslib.dashboard.daily_figures import WORDS
from opslib.dashboard.text_blocks import TextBlock, bullet_list, table
from opslib.foundation import clock, formatting, periods
from opslib.incidents import lifecycle
from opslib.incidents.feedback import MISSED, NOISE, USEFUL, Feedback, Opinion
from opslib.incidents.incident import Incident
from opslib.reports.periodic import PeriodicReport, figure_text, total

RIGHT, WRONG, NOT_ASSESSED = "true", "false alarm", "not assessed"


class ProposedLimit(NamedTuple):
    """
    A threshold that could be changed.

    Attributes:
        to: The proposed threshold in the rule's unit, just beyond the worst false alarm.
        kept, lost: The numbers of true alerts that would still have fired, and that would not.
        spared: The number of false alarms that would not have fired.
    """

    rule: str
    subject: str
    severity: str
    limit: float
    to: float
    kept: int
    lost: int
    spared: int


class Quarterly(PeriodicReport):
    """The quarterly report: figures by month, and the accuracy of the alerts."""

    NAME, TITLE = "quarterly", "Quarterly monitoring report"

    @cached_property
    def months(self) -> list[tuple[str, int, int, dict[str, float | None]]]:
        """Each month that has begun: its name, the days with data, its trading days, its figures."""
        found = []
        for span in dict.fromkeys(periods.of(periods.MONTH, session.day) for session, _ in self.days):
            mine = [day for session, day in self.days if span.first <= session.day <= span.last]
            with_data = [day for day in mine if day is not None]
            found.append((span.name, len(with_data), len(mine), total(with_data)))
        return found

    @property
    def by_month(self) -> TextBlock:
        """The guide's figures by month."""
        rows = [
            [name, f"{with_data} of {of}", *(figure_text(figures[figure], figure) for figure in WORDS)]
            for name, with_data, of, figures in self.months
        ]
        return table(
            f"Figures of {len(rows)} month{'' if len(rows) == 1 else 's'}",
            ["month", "days with data", *(words for words, _ in WORDS.values())],
            rows,
            "no trading day has closed yet",
        )

    @cached_property
    def feedback(self) -> list[Opinion]:
        """The feedback that people gave in the period."""
        return Feedback(lifecycle.of(self.workspace).records).within(self.period.window, self.known_at)

    @cached_property
    def assessed(self) -> list[tuple[SeverityChange, str]]:
        """Every alert that people were notified of, at its highest severity, and whether it was true."""
        noise, useful = ({o.alert for o in self.feedback if o.kind == kind} for kind in (NOISE, USEFUL))
        of = {i.id: i for i in self.incidents}
        found = []
        for change in (r for r in self.worst_changes if r.sent):
            incident = of.get(self.log.incidents.get(change.alert, ""))
            if change.alert in noise or (incident is not None and _reason(incident) == WRONG):
                found.append((change, WRONG))
            elif change.alert in useful or (incident is not None and incident.status in ("mitigated", "resolved")):
                found.append((change, RIGHT))
            else:
                found.append((change, NOT_ASSESSED))
        return found

    @cached_property
    def missed(self) -> list[str]:
        """What no alert detected: incidents that people opened, and reports of missed data."""
        by_hand = [
            f"{i.id}: {formatting.single_line(i.title, 100)}"
            for i in self.incidents
            if i.entries[0].body.get("how") == "hand" and not i.alerts and i.status != "dismissed"
        ]
        return by_hand + [
            f"{formatting.moment(clock.instant(o.at_us))}: {o.words}" for o in self.feedback if o.kind == MISSED
        ]

    def _count(self, verdict: str) -> int:
        return sum(v == verdict for _, v in self.assessed)

    @property
    def precision(self) -> float | None:
        """True alerts of the assessed alerts, 0 to 1; None without assessed alerts."""
        right, wrong = self._count(RIGHT), self._count(WRONG)
        return right / (right + wrong) if right + wrong else None

    @property
    def recall(self) -> float | None:
        """True alerts of all known problems, 0 to 1; None without known problems."""
        right = self._count(RIGHT)
        return right / (right + len(self.missed)) if right + len(self.missed) else None

    @property
    def accuracy(self) -> TextBlock:
        """Precision and recall of the alerts, and what they missed."""
        right, wrong, open_ = (self._count(v) for v in (RIGHT, WRONG, NOT_ASSESSED))
        lines = [
            f"precision: {formatting.ratio(self.precision, 1)} ({right} true, {wrong} false alarms; {open_} not "
            f"assessed, not counted)",
            f"recall: {formatting.ratio(self.recall, 1)} ({right} detected by an alert, {len(self.missed)} "
            f"found by people)",
            *(f"missed: {words}" for words in self.missed),
        ]
        return bullet_list(f"{len(self.assessed)} alerts that people were notified of", lines)

    @property
    def delays(self) -> TextBlock:
        """The time to detect of each incident; no mean, since a mean of such times misleads."""
        rows = [
            [
                i.id,
                formatting.UNKNOWN if (s := _delay_s(i)) is None else formatting.duration(s),
                i.rule or "opened by hand",
                formatting.single_line(i.title, 80),
            ]
            for i in sorted(self.incidents, key=lambda i: -(_delay_s(i) or 0.0))
        ]
        return table(
            "From the beginning of the incident until it was detected, longest first",
            ["incident", "time to detect", "rule", "title"],
            rows,
            "no incident was opened",
        )

    @cached_property
    def proposed_limits(self) -> list[ProposedLimit]:
        """A threshold for each rule and subject with false alarms, just beyond the worst of them."""
        found = []
        for name, subject in dict.fromkeys((r.rule, r.subject) for r, v in self.assessed if v == WRONG):
            rule = self.workspace.rules.rules.get(name)
            mine = [
                (r, v)
                for r, v in self.assessed
                if (r.rule, r.subject) == (name, subject) and r.peak is not None and r.limit is not None
            ]
            false = [r for r, v in mine if v == WRONG]
            if rule is None or rule.burn or not false:
                continue
            sign = 1 if rule.better == "lower" else -1
            worst = max(false, key=lambda r: sign * (r.peak or 0.0))
            assert worst.peak is not None and worst.limit is not None
            right = [r.peak for r, v in mine if v == RIGHT and r.peak is not None]
            kept = sum(rule.crosses(peak, worst.peak) for peak in right)
            found.append(
                ProposedLimit(
                    name, subject, worst.severity, worst.limit, worst.peak, kept, len(right) - kept, len(false)
                )
            )
        return found

    @property
    def limits(self) -> TextBlock:
        """The proposed thresholds, and how many alerts each would have changed."""
        lines = []
        for move in self.proposed_limits:
            rule = self.workspace.rules[move.rule]
            lines.append(
                f"{named(rule, move.subject)}, {move.severity}: from {rule.format_value(move.limit)} to "
                f"{rule.format_value(move.to)} prevents {move.spared} false alarms; of {move.kept + move.lost} true "
                f"alerts {move.kept} would still have fired{'; not recommended' if move.lost else ''}"
            )
        if lines:
            lines.append(
                f"to test a change on these days, write it into a file and run: ops rules backtest --from "
                f"{self.period.first}T00:00 --to {self.period.last}T23:59 --candidate FILE"
            )
        return bullet_list(
            f"{len(self.proposed_limits)} proposed threshold{'' if len(self.proposed_limits) == 1 else 's'}",
            lines or ["no alert was assessed as a false alarm, so no change is proposed"],
        )

    @property
    def feedback_table(self) -> TextBlock:
        """The feedback that people gave."""
        rows = [[formatting.moment(clock.instant(o.at_us)), o.kind, o.author, o.alert, o.words] for o in self.feedback]
        return table(
            f"{len(rows)} entries",
            ["time", "kind", "by", "alert", "text"],
            rows,
            "no feedback was given; to give feedback, run ops feedback missed-data, noise or useful",
        )

    @property
    def more(self) -> dict[str, Any]:
        """The figures by month, and the accuracy of the alerts."""
        return {
            "months": [
                {"month": name, "days_seen": seen, "trading_days": of, **figures}
                for name, seen, of, figures in self.months
            ],
            "accuracy": {
                "precision": self.precision,
                "recall": self.recall,
                "true": self._count(RIGHT),
                "false_alarms": self._count(WRONG),
                "not_judged": self._count(NOT_ASSESSED),
                "missed": self.missed,
            },
            "detected_after_s": {i.id: _delay_s(i) for i in self.incidents},
            "limits": [m._asdict() for m in self.proposed_limits],
            "feedback": [o._asdict() for o in self.feedback],
        }

    @property
    def pieces(self) -> list[TextBlock]:
        """All parts in order: by month instead of by day, with the accuracy of the alerts."""
        return [
            self.headline,
            self.summary,
            self.by_month,
            self.best_and_worst,
            self.accuracy,
            self.delays,
            self.limits,
            self.feedback_table,
            self.alerts_table,
            self.incidents_table,
            self.actions_section,
        ]


def _reason(incident: Incident) -> str:
    return (
        next((str(e.body["reason"]) for e in incident.of_kind("dismissed")), "")
        if incident.status == "dismissed"
        else ""
    )


def _delay_s(incident: Incident) -> float | None:
    began, detected = incident.times["began"].at_us, incident.times["detected"].at_us
    return None if began is None or detected is None else max(0, detected - began) / 1e6
