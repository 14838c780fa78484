"""
Make a report over several trading days: figures by day and in all, alerts, incidents, and what changed.

Each day's figures are those of its daily report. What is added up is counts; a mean is that of trades, not of days. A
day of which too little was seen makes the whole incomplete, by name.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opslib.alerting.history import SeverityChange
from opslib.alerting.verdicts import VERDICT_OF, VERDICTS, named
from opslib.dashboard import alert_log, daily_figures
from opslib.dashboard.alert_log import AlertLog
from opslib.dashboard.daily_figures import WORDS, DailyFigures, Day, percent
from opslib.dashboard.text_blocks import TextBlock, bullet_list, table
from opslib.foundation import clock, formatting, time_parsing
from opslib.foundation.errors import ReportRefused
from opslib.foundation.market_calendar import Session
from opslib.foundation.periods import Period
from opslib.foundation.version import VERSION
from opslib.incidents import lifecycle
from opslib.incidents.incident import Incident
from opslib.jobs import record
from opslib.jobs.record import RunRecord
from opslib.reports import places
from opslib.telemetry.pages.store import SnapshotStore

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from opslib.foundation.config.workspace import Workspace

REPLAYED_DAYS = 5  # Where nobody judged, so many days are judged anew; more would take minutes.


def total(found: list[Day]) -> dict[str, float | None]:
    """The template's figures over some days; None of what is unknown on one of them that was seen."""

    def add(name: str) -> int | None:
        parts = [day.counts[name] for day in found]
        return sum(p for p in parts if p is not None) if parts and None not in parts else None

    def share(part: str, count: str, inverse: bool = False) -> float | None:
        some, whole = add(part), add(count)
        return None if some is None or not whole else percent(100 * ((whole - some) if inverse else some) / whole)

    def mean(name: str) -> float | None:
        parts = [(day.means[name], day.counts["trades"] or 0) for day in found]
        traded = [(value, n) for value, n in parts if n]
        return (
            percent(sum(value * n for value, n in traded if value is not None) / sum(n for _, n in traded))
            if traded and all(value is not None for value, _ in traded)
            else None
        )

    gaps = [day.means["backtest_variance_pp"] for day in found if day.means["backtest_variance_pp"] is not None]
    return {
        "massive_uptime_pct": share("massive_failures", "massive_requests", inverse=True),
        "tradier_uptime_pct": share("tradier_failures", "tradier_requests", inverse=True),
        "system_errors": add("errors"),
        "greeks_valid_rate_pct": share("valid", "validations"),
        "iv_anomalies": add("iv_anomalies"),
        "gamma_zero_errors": add("gamma_zero"),
        "total_trades": add("trades"),
        "gross_pnl_pct": mean("gross_pct"),
        "net_pnl_pct": mean("net_pct"),
        "backtest_variance_pp": percent(sum(g for g in gaps if g is not None) / len(gaps)) if gaps else None,
    }


def told(value: float | None, name: str) -> str:
    """A figure of the template for people."""
    unit = WORDS[name][1]
    return formatting.number(value, unit, None if unit == "" else 2)


@dataclass(frozen=True)
class Picture:
    """A picture with its words."""

    words: TextBlock
    name: str
    draw: "Callable[[Axes], Any]"

    def __repr__(self) -> str:
        return self.words.plain

    def _ipython_display_(self) -> None:
        from opslib.dashboard import charts

        charts.show(self.words._repr_mimebundle_(), self.draw, self.name, self.words.plain)


class PeriodicReport:
    """
    Some trading days together.

    Args:
        workspace: Whose.
        period: Which days.
        as_of: Only sessions that had closed by then; None is now.
        known_at: Only what was known by then; None is all.
    """

    NAME, TITLE = "weekly", "Weekly monitoring report"

    def __init__(
        self, workspace: "Workspace", period: Period, as_of: datetime | None = None, known_at: datetime | None = None
    ):
        self.workspace, self.period, self.known_at = workspace, period, known_at
        self.upto = min(as_of or workspace.now(), period.window.end)
        if self.upto <= period.window.start:
            raise ReportRefused(
                f"a report of {period.name} was wanted, which begins only at "
                f"{formatting.moment(period.window.start)}. Ask for one that has begun."
            )
        self.partial = self.upto < period.window.end and any(s.closes > self.upto for s in period.sessions)
        self._days = DailyFigures(workspace.store, workspace.settings, workspace.rules, workspace.memory, known_at)

    @cached_property
    def sessions(self) -> list[Session]:
        """
        Its trading days that had closed, from the first on of which anything was ever seen: only what has begun can be
        missing.
        """
        first = SnapshotStore(self.workspace.store).first_ts(self.workspace.settings.app)
        return [s for s in self.closed if first is not None and s.window.end_us > first]

    @property
    def closed(self) -> list[Session]:
        """All of its trading days that had closed."""
        return [s for s in self.period.sessions if s.closes <= self.upto]

    @cached_property
    def days(self) -> list[tuple[Session, Day | None]]:
        """Each of them in figures; None where nothing was seen."""
        return [(session, self._days.of(session)) for session in self.sessions]

    @property
    def seen(self) -> list[Day]:
        """Those of which something was seen."""
        return [day for _, day in self.days if day is not None]

    @cached_property
    def figures(self) -> dict[str, float | None]:
        """The template's figures over all of them."""
        return total(self.seen)

    @cached_property
    def previous(self) -> list[Day]:
        """The days of the period before."""
        return [day for session in self.period.before.sessions if (day := self._days.of(session)) is not None]

    @property
    def coverage(self) -> float | None:
        """Looks received of those expected, over its trading days; a day without any is 0."""
        known = [0.0 if day is None else day.coverage or 0.0 for _, day in self.days]
        return sum(known) / len(known) if known else None

    @property
    def incomplete(self) -> str | None:
        """Why it does not stand on enough looks; None where it does, or where none were expected."""
        if (
            self.closed
            and not self.sessions
            and SnapshotStore(self.workspace.store).first_ts(self.workspace.settings.app) is not None
        ):
            return "it was over before the first look came"
        needed = self.workspace.rules["availability"].min_coverage

        def came(day: Day | None) -> str:
            return "nothing was seen" if day is None else f"only {formatting.ratio(day.coverage, 1)} of the looks came"

        short = [
            f"{session.day} ({came(day)})"
            for session, day in self.days
            if day is None or (day.coverage or 0.0) < needed
        ]
        return (
            f"{len(short)} of {len(self.days)} trading days: {', '.join(short[:5])}"
            f"{' and more' if len(short) > 5 else ''}"
            if short
            else None
        )

    @cached_property
    def log(self) -> AlertLog:
        """What alerts did: by the record; of few days that nobody judged, judged anew."""
        found = alert_log.log_of(self.workspace, self.upto, since=self.period.window.start, known_at=self.known_at)
        if not found.lacking or not 0 < len(self.seen) <= REPLAYED_DAYS:
            return found
        # What a long silence amounts to is told by its days.
        upto = self.upto if len(self.sessions) <= REPLAYED_DAYS else self.seen[-1].session.closes
        return alert_log.log_of(
            self.workspace,
            upto,
            since=max(self.period.window.start, self.seen[0].session.opens),
            known_at=self.known_at,
            replay=True,
        )

    @cached_property
    def rises(self) -> list[SeverityChange]:
        """The worst rise of each alert that nothing else explains, in order."""
        worst: dict[str, SeverityChange] = {}
        order = ("warning", "notify", "critical", "escalate")
        for rise in self.log.rises:
            if rise.alert not in worst or order.index(rise.severity) > order.index(worst[rise.alert].severity):
                worst[rise.alert] = rise
        return [r for r in worst.values() if not r.inhibited_by]

    @cached_property
    def incidents(self) -> list[Incident]:
        """What was opened in it."""
        window = self.period.window
        return [
            i
            for i in lifecycle.of(self.workspace).all()
            if window.start_us < i.entries[0].at_us <= clock.micros(self.upto) and i.status != "merged"
        ]

    @property
    def unjudged(self) -> str:
        """Why it is not known what alerts did; empty where it is."""
        return self.log.lacking if self.seen else ""

    @property
    def verdict(self) -> str:
        """The worst that its alerts amounted to; unknown where days are missing, or nobody judged them."""
        found = {VERDICT_OF[r.severity] for r in self.rises} | (
            {"unknown"} if self.incomplete or self.unjudged or not self.seen else set()
        )
        return next((v for v in VERDICTS if v in found), "ok")

    @cached_property
    def hours(self) -> list[tuple[str, float, dict[str, Any]]]:
        """
        Every hour with requests to Massive: when it began, its availability, its counts; best first: most answered,
        fewest errors.
        """
        known = [
            (hour["from"], 1 - (hour["massive_failures"] or 0) / hour["massive_requests"], hour)
            for day in self.seen
            for hour in day.hours
            if hour["massive_requests"]
        ]
        return sorted(known, key=lambda h: (-h[1], h[2]["errors"] or 0, h[0]))

    @cached_property
    def changes(self) -> list[tuple[str, float | None, float | None, str, str]]:
        """Each figure: its name, before, now, the difference in words, and of how many days each."""
        before = total(self.previous)
        n = f"{len(self.previous)} and {len(self.seen)}"

        def unit(name: str) -> str:
            return WORDS[name][1].replace("%", "points")

        def gap(name: str, a: float | None, b: float | None) -> str:
            return (
                formatting.UNKNOWN
                if a is None or b is None
                else f"{b - a:+,.{0 if WORDS[name][1] == '' else 2}f} {unit(name)}".rstrip()
            )

        return [
            (name, before[name], self.figures[name], gap(name, before[name], self.figures[name]), n) for name in WORDS
        ]

    @property
    def action_items(self) -> list[str]:
        """What follows: once for each rule and subject that told people, how often; and from what is missing."""
        items = []
        for name, subject in dict.fromkeys((r.rule, r.subject) for r in self.rises if r.sent):
            rule = self.workspace.rules.rules.get(name)
            count = sum((r.rule, r.subject) == (name, subject) for r in self.rises if r.sent)
            if rule:
                items.append(
                    f"{named(rule, subject)}, {count} time{'s' if count > 1 else ''}: {rule.action} ({rule.who}; "
                    f"runbook {rule.runbooks[subject]})"
                )
        items += [
            f"{i.id} is {i.status}, held by {i.holder or 'nobody'}: {formatting.single_line(i.title, 100)}"
            for i in self.incidents
            if i.status in ("open", "mitigated")
        ]
        items += (
            [f"Find out why looks are missing: {self.incomplete} (DevOps; runbook monitor_down)"]
            if self.incomplete
            else []
        )
        return items

    @cached_property
    def evidence(self) -> dict[str, Any]:
        """By what it can be recomputed: what each day rests on, the records of its incidents, the limits."""
        digest = hashlib.sha256(
            json.dumps([day.told for day in [*self.previous, *self.seen]], sort_keys=True).encode()
        ).hexdigest()
        return {
            "days": len(self.seen),
            "sha256": digest,
            "incidents": {i.id: i.head.digest for i in self.incidents},
            "rules_sha256": self.workspace.rules.hash,
            "opslib": VERSION,
        }

    @property
    def path(self) -> Path:
        """Where it is published, without the ending."""
        return places.place(self.workspace.settings, self.NAME, self.period.name, self.partial)

    @cached_property
    def restates(self) -> str | None:
        """The name under which the one that this restates is kept; None where it restates none."""
        published = places.published(self.path.with_name(f"{self.path.name}.json"))
        if published is None:
            return None
        return (
            published.get("restates")
            if published["evidence"] == json.loads(record.as_json(self.evidence))
            else places.next_name(self.path)
        )

    @cached_property
    def restated(self) -> list[str]:
        """What changed against the one that this restates, and why; empty where it restates none."""
        if not self.restates:
            return []
        published = places.published(self.path.with_name(f"{self.path.name}.json"))
        then = places.published(self.path.with_name(f"{self.path.name}.{self.restates}.json")) or published
        assert then is not None
        now, was = self.evidence, then["evidence"]
        why = [
            words
            for key, words in (
                ("days", "other days are known"),
                ("sha256", "its days rest on other facts"),
                ("incidents", "the records of its incidents grew"),
                ("rules_sha256", "the limits changed"),
                ("opslib", f"opslib {VERSION} made it"),
            )
            if now[key] != was.get(key)
        ]
        lines = [f"This report restates an earlier one: {'; '.join(why) or 'something else was known'}."]
        lines += [
            f"{WORDS[name][0]}: was {told(then['figures'][name], name)}, is {told(self.figures[name], name)}"
            for name in WORDS
            if then["figures"][name] != self.figures[name]
        ]
        lines += [f"verdict: was {then['verdict']}, is {self.verdict}"] if then["verdict"] != self.verdict else []
        return lines if len(lines) > 1 else [*lines, "No figure of the report changed."]

    @cached_property
    def unknown(self) -> dict[str, str]:
        """Figures that are not known, each with why."""
        why = (
            "nothing was seen of its days"
            if not self.seen
            else "it is unknown on one of its days, or was never recorded"
        )
        return {name: why for name, value in self.figures.items() if value is None}

    @cached_property
    def values(self) -> dict[str, Any]:
        """The report as numbers."""

        def hour(h: tuple[str, float, dict[str, Any]]) -> dict[str, Any]:
            return {"from": h[0], "massive_uptime_pct": percent(h[1] * 100), "errors": h[2]["errors"]}

        return {
            "report": self.NAME,
            "period": self.period.name,
            "from": str(self.period.first),
            "to": str(self.period.last),
            "app": self.workspace.settings.app,
            "verdict": self.verdict,
            "headline": self.headline.plain.splitlines(),
            "partial": self.partial,
            "incomplete": self.incomplete,
            "coverage": None if self.coverage is None else round(self.coverage, 4),
            "trading_days": len(self.days),
            "days_seen": len(self.seen),
            "figures": self.figures,
            "days": [
                {
                    "day": str(session.day),
                    "coverage": None if day is None else day.coverage,
                    **({} if day is None else day.figures),
                }
                for session, day in self.days
            ],
            "best_hour": hour(self.hours[0]) if self.hours else None,
            "worst_hour": hour(self.hours[-1]) if self.hours else None,
            "alerts": [r.as_json(self.workspace.rules, self.log.incidents.get(r.alert)) for r in self.log.rises],
            "alerts_unknown": self.unjudged or None,
            "incidents": [i.as_json() for i in self.incidents],
            "changes": {name: gap for name, _, _, gap, _ in self.changes},
            "action_items": self.action_items,
            "unknown": self.unknown,
            "restates": self.restates,
            "restated": self.restated,
            "evidence": self.evidence,
            **self.more,
        }

    @property
    def more(self) -> dict[str, Any]:
        """What else this kind of report has, as numbers."""
        return {}

    # For people.

    @property
    def headline(self) -> TextBlock:
        """Is anything wrong, since when, what to do?"""
        loud = [
            f"{clock.instant(r.fired_us).astimezone(formatting.NEW_YORK):%m-%d %H:%M} New York, {r.severity}: "
            f"{r.told(self.workspace.rules)}"
            for r in self.rises
            if r.sent
        ]
        lines = [f"INCOMPLETE: {self.incomplete}."] if self.incomplete else []
        lines = (
            [
                f"PARTIAL: as of {formatting.moment(self.upto)}; its trading days that are not over are not in it.",
                *lines,
            ]
            if self.partial
            else lines
        )
        lines += (
            [f"{len(early)} trading days are of before anything was ever seen, and are left out"]
            if (early := [s for s in self.closed if s not in self.sessions])
            else []
        )
        lines += [f"what alerts did is not known: {self.unjudged}"] if self.unjudged else []
        shown = loud[:8] + ([f"and {len(loud) - 8} more, below"] if len(loud) > 8 else [])
        return bullet_list(
            f"{self.TITLE} {self.period.name}: {self.verdict}. {len(self.seen)} of {len(self.days)} trading days seen.",
            self.restated + lines + (shown or ["Nothing reached a limit at which anybody is told."]),
        )

    @property
    def summary(self) -> TextBlock:
        """The guide's figures over all days, beside those before."""
        rows = [
            [WORDS[name][0], told(now, name), told(before, name), gap] for name, before, now, gap, _ in self.changes
        ]
        return table(
            f"{self.period.name} beside {self.period.before.name} ({len(self.seen)} and {len(self.previous)} days)",
            ["figure", self.period.name, self.period.before.name, "difference"],
            rows,
        )

    @property
    def by_day(self) -> TextBlock:
        """Each trading day."""
        rows = [
            [
                str(session.day),
                *(
                    ("nothing was seen", *("" for _ in range(len(WORDS))))
                    if day is None
                    else (formatting.ratio(day.coverage, 1), *(told(day.figures[name], name) for name in WORDS))
                ),
            ]
            for session, day in self.days
        ]
        return table(
            "Day by day",
            ["day", "looks", *(words for words, _ in WORDS.values())],
            [list(map(str, row)) for row in rows],
            "no trading day is over yet",
        )

    @property
    def trend(self) -> Picture:
        """Availability of each provider, day by day."""
        rows = [
            (
                session.day,
                {name: None if day is None else day.figures[f"{name}_uptime_pct"] for name in ("massive", "tradier")},
            )
            for session, day in self.days
        ]
        return Picture(
            self._trend_words("massive_uptime_pct", "tradier_uptime_pct"),
            "availability by day",
            lambda ax: _plots().by_day(ax, rows, "availability, %", self.workspace.rules["availability"], 100),
        )

    @property
    def errors_trend(self) -> Picture:
        """Errors, day by day."""
        rows = [
            (session.day, {"errors": None if day is None else day.figures["system_errors"]})
            for session, day in self.days
        ]
        return Picture(
            self._trend_words("system_errors"),
            "errors by day",
            lambda ax: _plots().by_day(ax, rows, "errors of the day", None, 1),
        )

    @property
    def variance_trend(self) -> Picture:
        """Backtest variance, day by day."""
        rows = [
            (session.day, {"backtest variance": None if day is None else day.figures["backtest_variance_pp"]})
            for session, day in self.days
        ]
        return Picture(
            self._trend_words("backtest_variance_pp"),
            "backtest variance by day",
            lambda ax: _plots().by_day(ax, rows, "points", self.workspace.rules["backtest_variance"], 1),
        )

    def _trend_words(self, *names: str) -> TextBlock:
        lines = []
        for name in names:
            known = [(day.figures[name], day.day) for day in self.seen if day.figures[name] is not None]
            ends = (
                [f"least {told(low, name)} ({on})" for low, on in [min(known, key=lambda k: (k[0], k[1]))]]
                + [f"most {told(high, name)} ({on})" for high, on in [max(known, key=lambda k: (k[0], k[1]))]]
                if known
                else ["not known on any day"]
            )
            lines.append(f"{WORDS[name][0]}: {', '.join(ends)}, n {len(known)} days")
        return bullet_list("Trend", lines)

    @property
    def best_and_worst(self) -> TextBlock:
        """The best and the worst hour."""
        if not self.hours:
            return bullet_list("Best and worst hour", ["no hour with a request to Massive was seen"])

        def words(h: tuple[str, float, dict[str, Any]]) -> str:
            return (
                f"{formatting.span(time_parsing.parse(h[0]), time_parsing.parse(h[0]) + daily_figures.HOUR)}: "
                f"{formatting.ratio(h[1])} "
                f"of {h[2]['massive_requests']:,} requests to Massive answered, errors "
                f"{formatting.number(h[2]['errors'])}"
            )

        return bullet_list(
            f"Best and worst of {len(self.hours)} hours",
            [f"best: {words(self.hours[0])}", f"worst: {words(self.hours[-1])}"],
        )

    @property
    def alerts_told(self) -> TextBlock:
        """Every alert at its worst; what another explains is counted."""

        def at(us: int) -> str:
            return f"{clock.instant(us).astimezone(formatting.NEW_YORK):%m-%d %H:%M:%S}"

        first = {r.alert: r for r in reversed(self.log.rises)}  # The first rise of an alert is over when the alert is.

        def lasted(r: SeverityChange) -> str:
            return "still" if r.over_us is None else formatting.duration((r.over_us - r.pending_us) / 1e6)

        rows = [
            [
                at(r.fired_us),
                r.severity,
                r.source,
                r.told(self.workspace.rules),
                lasted(first[r.alert]),
                self.log.incidents.get(r.alert, ""),
            ]
            for r in sorted(self.rises, key=lambda r: r.fired_us)
        ]
        explained = len({r.alert for r in self.log.rises if r.inhibited_by} - {r.alert for r in self.rises})
        return table(
            f"Alerts, each at its worst; {explained} more that another explains",
            ["fired (New York)", "severity", "by", "what", "for", "incident"],
            rows,
            self.unjudged or "nothing fired",
        )

    @property
    def incidents_told(self) -> TextBlock:
        """Every incident, with how long each of its times took."""
        rows = [
            [
                i.id,
                i.status,
                i.severity,
                *(
                    _after(i, a, b)
                    for a, b in (
                        ("began", "detected"),
                        ("detected", "acknowledged"),
                        ("detected", "mitigated"),
                        ("began", "resolved"),
                    )
                ),
                formatting.single_line(i.title, 80),
            ]
            for i in self.incidents
        ]
        return table(
            "Incidents",
            ["incident", "stands", "severity", "to detect", "to take", "to mitigate", "until over", "what"],
            rows,
            "no incident was opened",
        )

    @property
    def actions_told(self) -> TextBlock:
        """What follows."""
        return bullet_list("Action items", self.action_items or ["nothing to do"])

    @property
    def pieces(self) -> list[TextBlock]:
        """All of it in order, for its Markdown."""
        return [
            self.headline,
            self.summary,
            self.by_day,
            self.best_and_worst,
            self.alerts_told,
            self.incidents_told,
            self.actions_told,
        ]

    def markdown(self) -> str:
        """The whole report in Markdown."""
        parts = [f"## {self.TITLE} - {self.period.name}"]
        for piece in self.pieces:
            parts += ["", piece.markdown]
        return "\n".join(
            [
                *parts,
                "",
                f"Evidence: {self.evidence['days']} days, SHA-256 {self.evidence['sha256']}, rules "
                f"{self.evidence['rules_sha256']}, opslib {VERSION}",
                "",
            ]
        )

    @property
    def record(self) -> RunRecord:
        """The numbers of this report, for whoever executed the notebook."""
        return RunRecord(self.values, self.markdown())


def _after(incident: Incident, first: str, then: str) -> str:
    a, b = incident.times[first].at_us, incident.times[then].at_us
    return formatting.UNKNOWN if a is None or b is None else formatting.duration(max(0, b - a) / 1e6)


def _plots() -> Any:
    from opslib.dashboard import charts

    return charts
