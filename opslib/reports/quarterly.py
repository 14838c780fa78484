"""
Make the quarterly report: the days, and whether the monitoring was right: precision, recall, lead, proposed limits.

What is true is what people said: they dismissed an incident as a false alarm, took it and resolved it, opened one that
no alert had seen, or gave feedback. What nobody judged counts for neither side, and is named.
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
from opslib.reports.periodic import PeriodicReport, told, total

RIGHT, WRONG, UNJUDGED = "true", "false alarm", "not judged"


class ProposedLimit(NamedTuple):
    """
    A limit that could be moved.

    Attributes:
        to: Where to, in the rule's unit: just past the last of its false alarms.
        kept, lost: So many true alerts would still have fired, and not.
        spared: So many false alarms would not have.
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
    """The quarter's days, and how right the monitoring was."""

    NAME, TITLE = "quarterly", "Quarterly monitoring report"

    @cached_property
    def months(self) -> list[tuple[str, int, int, dict[str, float | None]]]:
        """Each month that has begun: its name, days seen, its trading days, its figures."""
        found = []
        for span in dict.fromkeys(periods.of(periods.MONTH, session.day) for session, _ in self.days):
            mine = [day for session, day in self.days if span.first <= session.day <= span.last]
            seen = [day for day in mine if day is not None]
            found.append((span.name, len(seen), len(mine), total(seen)))
        return found

    @property
    def by_month(self) -> TextBlock:
        """The guide's figures, month by month."""
        rows = [
            [name, f"{seen} of {of}", *(told(figures[figure], figure) for figure in WORDS)]
            for name, seen, of, figures in self.months
        ]
        return table(
            "Month by month",
            ["month", "days seen", *(words for words, _ in WORDS.values())],
            rows,
            "no trading day is over yet",
        )

    @cached_property
    def opinions(self) -> list[Opinion]:
        """What people said of the monitoring in it."""
        return Feedback(lifecycle.of(self.workspace).records).within(self.period.window, self.known_at)

    @cached_property
    def judged(self) -> list[tuple[SeverityChange, str]]:
        """Every alert that people were told of, at its worst, and whether it was true."""
        noise, useful = ({o.alert for o in self.opinions if o.kind == kind} for kind in (NOISE, USEFUL))
        of = {i.id: i for i in self.incidents}
        found = []
        for rise in (r for r in self.rises if r.sent):
            incident = of.get(self.log.incidents.get(rise.alert, ""))
            if rise.alert in noise or (incident is not None and _reason(incident) == WRONG):
                found.append((rise, WRONG))
            elif rise.alert in useful or (incident is not None and incident.status in ("mitigated", "resolved")):
                found.append((rise, RIGHT))
            else:
                found.append((rise, UNJUDGED))
        return found

    @cached_property
    def missed(self) -> list[str]:
        """What no alert told of: incidents that people opened, and data that they missed."""
        by_hand = [
            f"{i.id}: {formatting.single_line(i.title, 100)}"
            for i in self.incidents
            if i.entries[0].body.get("how") == "hand" and not i.alerts and i.status != "dismissed"
        ]
        return by_hand + [
            f"{formatting.moment(clock.instant(o.at_us))}: {o.words}" for o in self.opinions if o.kind == MISSED
        ]

    def _count(self, verdict: str) -> int:
        return sum(v == verdict for _, v in self.judged)

    @property
    def precision(self) -> float | None:
        """True ones of those that were judged, 0 to 1; None of none."""
        right, wrong = self._count(RIGHT), self._count(WRONG)
        return right / (right + wrong) if right + wrong else None

    @property
    def recall(self) -> float | None:
        """True ones of all troubles that are known, 0 to 1; None of none."""
        right = self._count(RIGHT)
        return right / (right + len(self.missed)) if right + len(self.missed) else None

    @property
    def accuracy(self) -> TextBlock:
        """How right were the alerts, and what did they miss?"""
        right, wrong, open_ = (self._count(v) for v in (RIGHT, WRONG, UNJUDGED))
        lines = [
            f"precision: {formatting.ratio(self.precision, 1)} ({right} true, {wrong} false alarms; {open_} that "
            f"nobody judged count for neither)",
            f"recall: {formatting.ratio(self.recall, 1)} ({right} seen by an alert, {len(self.missed)} that people "
            f"had to find)",
            *(f"missed: {words}" for words in self.missed),
        ]
        return bullet_list(f"Accuracy of the monitoring, {len(self.judged)} alerts that people were told of", lines)

    @property
    def delays(self) -> TextBlock:
        """How late was each incident detected? Each value, since a mean of such times misleads."""
        rows = [
            [
                i.id,
                formatting.UNKNOWN if (s := _delay_s(i)) is None else formatting.duration(s),
                i.rule or "by hand",
                formatting.single_line(i.title, 80),
            ]
            for i in sorted(self.incidents, key=lambda i: -(_delay_s(i) or 0.0))
        ]
        return table(
            "From its beginning until it was detected, the latest first",
            ["incident", "after", "rule", "what"],
            rows,
            "no incident was opened",
        )

    @cached_property
    def moves(self) -> list[ProposedLimit]:
        """Limits worth moving: of each rule and subject with false alarms, just past the last of them."""
        found = []
        for name, subject in dict.fromkeys((r.rule, r.subject) for r, v in self.judged if v == WRONG):
            rule = self.workspace.rules.rules.get(name)
            mine = [
                (r, v)
                for r, v in self.judged
                if (r.rule, r.subject) == (name, subject) and r.peak is not None and r.limit is not None
            ]
            false = [r for r, v in mine if v == WRONG]
            if rule is None or rule.burn or not false:
                continue
            sign = 1 if rule.better == "lower" else -1
            worst = max(false, key=lambda r: sign * (r.peak or 0.0))
            assert worst.peak is not None and worst.limit is not None
            right = [r.peak for r, v in mine if v == RIGHT and r.peak is not None]
            kept = sum(rule.past(peak, worst.peak) for peak in right)
            found.append(
                ProposedLimit(
                    name, subject, worst.severity, worst.limit, worst.peak, kept, len(right) - kept, len(false)
                )
            )
        return found

    @property
    def limits(self) -> TextBlock:
        """Which limits are worth moving, and what would that have changed?"""
        lines = []
        for move in self.moves:
            rule = self.workspace.rules[move.rule]
            lines.append(
                f"{named(rule, move.subject)}, {move.severity}: from {rule.told(move.limit)} to "
                f"{rule.told(move.to)} spares {move.spared} false alarms; of {move.kept + move.lost} true "
                f"ones {move.kept} would still have fired{', so it is not worth it' if move.lost else ''}"
            )
        if lines:
            lines.append(
                f"write it into a file, then try it on these days: ops rules backtest --from "
                f"{self.period.first}T00:00 --to {self.period.last}T23:59 --candidate FILE"
            )
        return bullet_list(
            "Limits worth moving", lines or ["no false alarm of a limit was judged: there is nothing to move"]
        )

    @property
    def said(self) -> TextBlock:
        """What people said."""
        rows = [[formatting.moment(clock.instant(o.at_us)), o.kind, o.author, o.alert, o.words] for o in self.opinions]
        return table(
            "Feedback",
            ["when", "what", "who", "alert", "words"],
            rows,
            "nobody said anything: ops feedback missed-data | noise | useful",
        )

    @property
    def more(self) -> dict[str, Any]:
        """The months, and how right the monitoring was."""
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
                "not_judged": self._count(UNJUDGED),
                "missed": self.missed,
            },
            "detected_after_s": {i.id: _delay_s(i) for i in self.incidents},
            "limits": [m._asdict() for m in self.moves],
            "feedback": [o._asdict() for o in self.opinions],
        }

    @property
    def pieces(self) -> list[TextBlock]:
        """By month instead of by day, and the monitoring's accuracy."""
        return [
            self.headline,
            self.summary,
            self.by_month,
            self.best_and_worst,
            self.accuracy,
            self.delays,
            self.limits,
            self.said,
            self.alerts_told,
            self.incidents_told,
            self.actions_told,
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
