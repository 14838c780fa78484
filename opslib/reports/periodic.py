"""
Make a report over several trading days: figures by day and in all, alerts, incidents, and what changed.

Each day's figures are those of its daily report. Sums add up counts; means are means of trades, not of days. A day with
too few snapshots makes the whole report incomplete, and is named.
"""

import hashlib
import json
from dataclasses import replace
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opslib.alerting import effects, history, replay
from opslib.alerting.alert_ids import source_name
from opslib.alerting.effects import FirstAction
from opslib.alerting.history import SeverityChange
from opslib.alerting.verdicts import VERDICT_OF, VERDICTS, describe_verdict, named
from opslib.dashboard import alert_log, daily_figures, status
from opslib.dashboard.alert_log import AlertLog
from opslib.dashboard.daily_figures import WORDS, DailyFigures, Day, percent
from opslib.dashboard.text_blocks import TextBlock, answer, bullet_list, folded, table
from opslib.dashboard.trends import Trend, trends
from opslib.foundation import clock, formatting, time_parsing
from opslib.foundation.config.rules import SEVERITIES
from opslib.foundation.errors import ReportRefused
from opslib.foundation.market_calendar import Session
from opslib.foundation.periods import Period
from opslib.foundation.version import VERSION
from opslib.incidents import lifecycle
from opslib.incidents.incident import Incident
from opslib.jobs import record
from opslib.jobs.record import RunRecord
from opslib.reports import places
from opslib.reports.daily import WORDING
from opslib.reports.overview import DIAGNOSED, in_minutes, new_york, worst_value
from opslib.runbooks.diagnosis.diagnosis import diagnose
from opslib.telemetry.pages.store import SnapshotStore

if TYPE_CHECKING:
    from opslib.foundation.config.workspace import Workspace

MOST_SHOWN = 15  # A page shows a longer table of alerts only on demand.
REPLAYED_DAYS = 5  # Re-evaluate at most this many days without recorded alerts; more would take minutes.


def total(found: list[Day]) -> dict[str, float | None]:
    """Return the template's figures over some days; a figure that is unknown on one of them is None."""

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


def figure_text(value: float | None, name: str) -> str:
    """Return a figure of the template as text."""
    unit = WORDS[name][1]
    return formatting.number(value, unit, None if unit == "" else 2)


# The rule whose thresholds a figure by day is compared with, and the number by which they are multiplied.
LIMITS = {
    "massive_uptime_pct": ("availability", 100.0),
    "tradier_uptime_pct": ("availability", 100.0),
    "greeks_valid_rate_pct": ("greeks_valid", 100.0),
    "backtest_variance_pp": ("backtest_variance", 1.0),
}


class PeriodicReport:
    """
    A report over several trading days.

    Args:
        workspace: The app's workspace.
        period: The days.
        as_of: Use only sessions that had closed by then; None is now.
        known_at: Use only data that was in the database by then; None is all data.
    """

    NAME, TITLE = "weekly", "Weekly monitoring report"

    def __init__(
        self, workspace: "Workspace", period: Period, as_of: datetime | None = None, known_at: datetime | None = None
    ):
        self.workspace, self.period, self.known_at = workspace, period, known_at
        self.upto = min(as_of or workspace.now(), period.window.end)
        if self.upto <= period.window.start:
            raise ReportRefused(
                f"no report of {period.name} can be made yet: the period begins at "
                f"{formatting.moment(period.window.start)}. Name a period that has begun."
            )
        self.partial = self.upto < period.window.end and any(s.closes > self.upto for s in period.sessions)
        self._days = DailyFigures(workspace.store, workspace.settings, workspace.rules, workspace.cache, known_at)

    @cached_property
    def sessions(self) -> list[Session]:
        """
        The trading days that had closed, from the first snapshot of the app on.

        Days before the first snapshot do not count as missing.
        """
        first = SnapshotStore(self.workspace.store).first_ts(self.workspace.settings.app)
        return [s for s in self.closed if first is not None and s.window.end_us > first]

    @property
    def closed(self) -> list[Session]:
        """All trading days of the period that had closed."""
        return [s for s in self.period.sessions if s.closes <= self.upto]

    @cached_property
    def days(self) -> list[tuple[Session, Day | None]]:
        """Each trading day with its figures; None for a day without data."""
        return [(session, self._days.of(session)) for session in self.sessions]

    @property
    def days_with_data(self) -> list[Day]:
        """The trading days with data."""
        return [day for _, day in self.days if day is not None]

    @cached_property
    def figures(self) -> dict[str, float | None]:
        """The template's figures over all days with data."""
        return total(self.days_with_data)

    @cached_property
    def previous(self) -> list[Day]:
        """The days with data of the period before."""
        return [day for session in self.period.before.sessions if (day := self._days.of(session)) is not None]

    @property
    def coverage(self) -> float | None:
        """Snapshots received of those expected, 0 to 1, over the trading days; a day without any counts as 0."""
        known = [0.0 if day is None else day.coverage or 0.0 for _, day in self.days]
        return sum(known) / len(known) if known else None

    @property
    def incomplete(self) -> str | None:
        """Why there are too few snapshots; None if there are enough, or none were expected."""
        if (
            self.closed
            and not self.sessions
            and SnapshotStore(self.workspace.store).first_ts(self.workspace.settings.app) is not None
        ):
            return "the period ended before the first snapshot was received"
        needed = self.workspace.rules["availability"].min_coverage

        def received(day: Day | None) -> str:
            if day is None:
                return "no data"
            return f"only {formatting.ratio(day.coverage, 1)} of the expected snapshots"

        short = [
            f"{session.day} ({received(day)})"
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
        """The alert log: as recorded, or re-evaluated if there is no record and there are few days."""
        found = alert_log.log_of(self.workspace, self.upto, since=self.period.window.start, known_at=self.known_at)
        if not found.missing or not 0 < len(self.days_with_data) <= REPLAYED_DAYS:
            return self._with_worst_values(found)
        # A long gap in the data is reported by its days.
        upto = self.upto if len(self.sessions) <= REPLAYED_DAYS else self.days_with_data[-1].session.closes
        return alert_log.log_of(
            self.workspace,
            upto,
            since=max(self.period.window.start, self.days_with_data[0].session.opens),
            known_at=self.known_at,
            replay=True,
        )

    def _with_worst_values(self, log: AlertLog) -> AlertLog:
        """
        Return the log with the worst value of each alert that is still active at its end.

        The record has it only from the end of an alert on, so the last session is evaluated again.
        """
        last = next((session for session, day in reversed(self.days) if day is not None), None)
        if last is None or all(change.over_us is not None for change in log.changes):
            return log
        place, rules = self.workspace, self.workspace.rules
        known_us = None if self.known_at is None else clock.micros(self.known_at)
        transitions, alerts = replay.replay_cached(place.store, place.settings, rules, last, known_us, place.cache)
        peaks = {
            (change.alert, change.severity): change.peak
            for change in history.severity_changes(transitions, rules, alerts)
            if change.over_us is None
        }
        return replace(
            log,
            changes=[
                replace(change, peak=peaks.get((change.alert, change.severity), change.peak))
                if change.over_us is None
                else change
                for change in log.changes
            ],
        )

    @cached_property
    def worst_changes(self) -> list[SeverityChange]:
        """Each alert that is not inhibited, at its highest severity, in order of firing."""
        worst: dict[str, SeverityChange] = {}
        rank = SEVERITIES.index
        for change in self.log.changes:
            if change.alert not in worst or rank(change.severity) > rank(worst[change.alert].severity):
                worst[change.alert] = change
        return sorted((r for r in worst.values() if not r.inhibited_by), key=lambda r: r.fired_us)

    @cached_property
    def incidents(self) -> list[Incident]:
        """The incidents that were opened in the period."""
        window = self.period.window
        return [
            i
            for i in lifecycle.of(self.workspace).all()
            if window.start_us < i.entries[0].at_us <= clock.micros(self.upto) and i.status != "merged"
        ]

    @property
    def alerts_unknown(self) -> str:
        """Why the alerts of the period are unknown; empty if they are known."""
        return self.log.missing if self.days_with_data else ""

    @property
    def verdict(self) -> str:
        """The worst verdict of its alerts; unknown if days are missing or rules were not evaluated."""
        found = {VERDICT_OF[r.severity] for r in self.worst_changes} | (
            {"unknown"} if self.incomplete or self.alerts_unknown or not self.days_with_data else set()
        )
        return next((v for v in VERDICTS if v in found), "ok")

    @cached_property
    def hours(self) -> list[tuple[str, float, dict[str, Any]]]:
        """
        Every hour with requests to Massive: its start, its availability and its counts.

        The best hour comes first: the highest availability, then the fewest errors.
        """
        known = [
            (hour["from"], 1 - (hour["massive_failures"] or 0) / hour["massive_requests"], hour)
            for day in self.days_with_data
            for hour in day.hours
            if hour["massive_requests"]
        ]
        return sorted(known, key=lambda h: (-h[1], h[2]["errors"] or 0, h[0]))

    @cached_property
    def changes(self) -> list[tuple[str, float | None, float | None, str, str]]:
        """Each figure: its name, the value before, the value now, the difference as text, the numbers of days."""
        before = total(self.previous)
        n = f"{len(self.previous)} and {len(self.days_with_data)}"

        def unit(name: str) -> str:
            return WORDS[name][1].replace("%", "points")

        def gap(name: str, a: float | None, b: float | None) -> str:
            return (
                formatting.UNKNOWN
                if a is None or b is None
                else f"{b - a:+z,.{0 if WORDS[name][1] == '' else 2}f} {unit(name)}".rstrip()
            )

        return [
            (name, before[name], self.figures[name], gap(name, before[name], self.figures[name]), n) for name in WORDS
        ]

    @cached_property
    def action_items(self) -> list[str]:
        """One action for each rule and subject that people were notified of, each open incident, and missing data."""
        items = []
        for name, subject in dict.fromkeys((r.rule, r.subject) for r in self.worst_changes if r.sent):
            rule = self.workspace.rules.rules.get(name)
            found = [r for r in self.worst_changes if r.sent and (r.rule, r.subject) == (name, subject)]
            if rule:
                first = self._first_action(found)
                items.append(
                    f"{named(rule, subject)}, {len(found)} alert{'s' if len(found) > 1 else ''}: {first.with_runbook}"
                )
        items += [
            f"{i.id} is {i.status}, owner: {i.owner or 'none'}: {formatting.single_line(i.headline, 100)}"
            for i in self.incidents
            if i.status in ("open", "mitigated")
        ]
        items += (
            [f"Find out why snapshots are missing: {self.incomplete}. Responsible: DevOps. Runbook: monitor_down."]
            if self.incomplete
            else []
        )
        return items

    def _first_action(self, found: list[SeverityChange]) -> FirstAction:
        """Return what to do first about alerts of one rule and subject, by the diagnosis of the worst of them."""
        worst = max(found, key=lambda r: (SEVERITIES.index(r.severity), -r.fired_us))
        at, workspace = clock.instant(worst.fired_us), self.workspace
        view = status.status(
            workspace.store,
            workspace.settings,
            workspace.rules,
            as_of=at,
            length=DIAGNOSED,
            known_at=self.known_at,
        )
        cause = effects.cause_of_alert(diagnose(view).each, worst.rule, worst.subject, worst.source)
        return effects.first_action(cause, worst.rule, worst.subject, workspace.rules)

    @cached_property
    def evidence(self) -> dict[str, Any]:
        """What is needed to recompute this report: digests of its days, its incidents and its rules."""
        digest = hashlib.sha256(
            json.dumps([day.content for day in [*self.previous, *self.days_with_data]], sort_keys=True).encode()
        ).hexdigest()
        return {
            "days": len(self.days_with_data),
            "sha256": digest,
            "incidents": {i.id: i.last_entry.digest for i in self.incidents},
            "rules_sha256": self.workspace.rules.hash,
            "opslib": VERSION,
        }

    @property
    def path(self) -> Path:
        """The path at which it is published, without the suffix."""
        return places.place(self.workspace.settings, self.NAME, self.period.name, self.partial)

    @cached_property
    def restates(self) -> str | None:
        """The suffix of the report that this one restates, such as ``r1``; None if it restates none."""
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
        """What changed since the report that this one restates, and why; empty if it restates none."""
        if not self.restates:
            return []
        published = places.published(self.path.with_name(f"{self.path.name}.json"))
        then = places.published(self.path.with_name(f"{self.path.name}.{self.restates}.json")) or published
        assert then is not None
        now, was = self.evidence, then["evidence"]
        why = [
            words
            for key, words in (
                ("days", "the days with data changed"),
                ("sha256", "the data of its days changed"),
                ("incidents", "the records of its incidents have new entries"),
                ("rules_sha256", "rules.toml changed"),
                ("opslib", f"opslib {VERSION} made it"),
            )
            if now[key] != was.get(key)
        ]
        lines = [f"This report restates an earlier one: {'; '.join(why) or 'its data changed'}."]
        lines += [
            f"{WORDS[name][0]}: was {figure_text(then['figures'][name], name)}, "
            f"is {figure_text(self.figures[name], name)}"
            for name in WORDS
            if then["figures"][name] != self.figures[name]
        ]
        lines += [f"verdict: was {then['verdict']}, is {self.verdict}"] if then["verdict"] != self.verdict else []
        return lines if len(lines) > 1 else [*lines, "No figure of the report changed."]

    @cached_property
    def unknown(self) -> dict[str, str]:
        """The figures that are unknown, each with the reason."""
        why = (
            "no data of its days"
            if not self.days_with_data
            else "unknown on at least one of its days, or never recorded"
        )
        return {name: why for name, value in self.figures.items() if value is None}

    @cached_property
    def values(self) -> dict[str, Any]:
        """The report as numbers."""

        def hour(h: tuple[str, float, dict[str, Any]]) -> dict[str, Any]:
            return {"from": h[0], "massive_uptime_pct": percent(h[1] * 100), "errors": h[2]["errors"]}

        return {
            "report": self.NAME,
            "wording": WORDING,
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
            "days_seen": len(self.days_with_data),
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
            "alerts": [r.as_json(self.workspace.rules, self.log.incidents.get(r.alert)) for r in self.log.changes],
            "alerts_unknown": self.alerts_unknown or None,
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
        """The fields that only this kind of report has."""
        return {}

    @property
    def headline(self) -> TextBlock:
        """The verdict, the limits of the data, and what people were notified of, day by day."""
        groups: dict[tuple[str, str, str], list[SeverityChange]] = {}
        for r in self.worst_changes:
            if r.sent:
                day = f"{clock.instant(r.fired_us).astimezone(formatting.NEW_YORK):%m-%d}"
                groups.setdefault((day, r.rule, r.subject), []).append(r)
        in_order = sorted(groups.values(), key=lambda found: min(map(self._began_us, found)))
        sent = [self._problem_line(found) for found in in_order]
        lines = [f"INCOMPLETE: {self.incomplete}."] if self.incomplete else []
        lines = (
            [
                f"PARTIAL: as of {formatting.moment(self.upto)}; trading days that had not closed are left out.",
                *lines,
            ]
            if self.partial
            else lines
        )
        lines += (
            [f"{len(early)} trading days before the first snapshot are left out"]
            if (early := [s for s in self.closed if s not in self.sessions])
            else []
        )
        lines += [f"alerts are unknown: {self.alerts_unknown}"] if self.alerts_unknown else []
        shown = sent[:8] + ([f"and {len(sent) - 8} more, see the alerts below"] if len(sent) > 8 else [])
        first = [("Do first", item) for item in self.action_items[:1]]
        problems, days = {key[1:] for key in groups}, {day for day, _, _ in groups}
        broken = (
            f"{len(problems)} problem{'' if len(problems) == 1 else 's'} on {len(days)}"
            if groups
            else "No problem on any"
        )
        seen = f"{len(self.days_with_data)} of {len(self.days)} trading days have data."
        described = describe_verdict(self.verdict, [r.severity for r in self.worst_changes])
        return answer(
            self.verdict,
            f"{self.period.name}: {described}. {broken} of {len(self.days)} trading days",
            [*lines, seen, *(shown or ["No alert required a notification."]), *first, *self.restated],
        )

    def _problem_line(self, found: list[SeverityChange]) -> str:
        """Return one line on the alerts of one rule and subject on one day: from when to when, and the worst value."""
        worst = max(found, key=self._badness)
        sources = " and ".join(dict.fromkeys(source_name(r.source) for r in found))
        spans = [self._first[r.alert] for r in found]
        over = [r.over_us for r in spans]
        began_us = min(r.pending_us for r in spans)
        began = f"{clock.instant(began_us).astimezone(formatting.NEW_YORK):%m-%d}"
        until = None if None in over else max(us for us in over if us is not None)
        ended = " New York, still active" if until is None else f"–{new_york(until)} New York"
        name, value, threshold = worst_value(worst, self.workspace.rules)
        lasted = in_minutes(self._at_peak(found, worst.severity))
        peak = f"peak {worst.severity}{f' {threshold}' if threshold else ''}, for {lasted}"
        what = f"{name}: {value}, {peak}" if value else f"{name} ({peak})"
        sign = formatting.SIGNS[worst.severity]
        return f"{began} {new_york(began_us)}{ended}, {sign} {what} ({sources})"

    def _at_peak(self, found: list[SeverityChange], severity: str) -> float:
        """Return for how many seconds at least one of the alerts of some changes had a severity or a higher one."""
        alerts = {r.alert for r in found}
        mine = history.episodes(r for r in self.log.changes if r.alert in alerts)
        return history.seconds_at(severity, mine, clock.micros(self.upto))

    def _badness(self, change: SeverityChange) -> tuple[int, float]:
        """Return how bad a severity change was: its severity, then its worst value."""
        rule, peak = self.workspace.rules.rules.get(change.rule), change.peak
        value = 0.0 if rule is None or peak is None else -peak if rule.better == "higher" else peak
        return SEVERITIES.index(change.severity), value

    def _began_us(self, change: SeverityChange) -> int:
        """Return when the alert of a change began."""
        return self._first[change.alert].pending_us

    @cached_property
    def _first(self) -> dict[str, SeverityChange]:
        """The first change of each alert; it begins and ends with the alert."""
        return {r.alert: r for r in reversed(self.log.changes)}

    @property
    def summary(self) -> TextBlock:
        """The guide's figures over all days, compared with the period before."""
        rows = [
            [WORDS[name][0], figure_text(now, name), figure_text(before, name), gap]
            for name, before, now, gap, _ in self.changes
        ]
        return table(
            f"{self.period.name} compared with {self.period.before.name} ({len(self.days_with_data)} and "
            f"{len(self.previous)} days)",
            ["figure", self.period.name, self.period.before.name, "difference"],
            rows,
        )

    @property
    def by_day(self) -> TextBlock:
        """The figures of each trading day."""
        rows = [
            [
                str(session.day),
                *(
                    ("no data", *("" for _ in range(len(WORDS))))
                    if day is None
                    else (formatting.ratio(day.coverage, 1), *(figure_text(day.figures[name], name) for name in WORDS))
                ),
            ]
            for session, day in self.days
        ]
        return table(
            f"Figures of {len(self.days)} trading days",
            ["day", "snapshots received", *(words for words, _ in WORDS.values())],
            [list(map(str, row)) for row in rows],
            "no trading day has closed yet",
        )

    @property
    def trends(self) -> TextBlock:
        """Every figure by day, as small charts with the same days."""
        found = []
        for name, (label, unit) in WORDS.items():
            rule, scale = LIMITS.get(name, ("", 1.0))
            limits = self.workspace.rules[rule].thresholds if rule else ()
            found.append(
                Trend(
                    label,
                    unit,
                    2 if unit else 0,
                    tuple(None if day is None else day.figures[name] for _, day in self.days),
                    tuple((severity, limit * scale) for severity, limit in limits if not isinstance(limit, str)),
                    from_zero=scale == 1.0,
                )
            )
        return trends([session.day for session, _ in self.days], found)

    @property
    def best_and_worst(self) -> TextBlock:
        """The best and the worst hour."""
        if not self.hours:
            return bullet_list("0 hours with requests to Massive", ["no hour to compare"])

        def words(h: tuple[str, float, dict[str, Any]]) -> str:
            return (
                f"{formatting.span(time_parsing.parse(h[0]), time_parsing.parse(h[0]) + daily_figures.HOUR)}: "
                f"{formatting.ratio(h[1])} "
                f"of {h[2]['massive_requests']:,} requests to Massive succeeded, errors "
                f"{formatting.number(h[2]['errors'])}"
            )

        return bullet_list(
            f"Best and worst of {len(self.hours)} hours",
            [f"best: {words(self.hours[0])}", f"worst: {words(self.hours[-1])}"],
        )

    @property
    def alerts_table(self) -> TextBlock:
        """Every alert at its highest severity; inhibited alerts are only counted."""

        def at(us: int) -> str:
            return f"{clock.instant(us).astimezone(formatting.NEW_YORK):%m-%d %H:%M:%S}"

        def lasted(r: SeverityChange) -> str:
            return "still active" if r.over_us is None else formatting.duration((r.over_us - r.pending_us) / 1e6)

        rows = [
            [
                at(self._began_us(r)),
                f"{formatting.SIGNS[r.severity]} {r.severity}",
                source_name(r.source),
                *worst_value(r, self.workspace.rules),
                formatting.duration(self._at_peak([r], r.severity)),
                lasted(self._first[r.alert]),
                self.log.incidents.get(r.alert, ""),
            ]
            for r in sorted(self.worst_changes, key=self._began_us)
        ]
        inhibited = len({r.alert for r in self.log.changes if r.inhibited_by} - {r.alert for r in self.worst_changes})
        words = f"{len(rows)} alerts, each with its peak severity; {inhibited} more were inhibited"
        found = table(
            words,
            [
                "began (New York)",
                "peak severity",
                "source",
                "alert",
                "worst value (burn rate: when it fired)",
                "threshold",
                "time at peak",
                "from beginning to end",
                "incident",
            ],
            rows,
            self.alerts_unknown or "no alert fired",
        )
        return folded(words, found) if len(rows) > MOST_SHOWN else found

    @property
    def incidents_table(self) -> TextBlock:
        """Every incident with its status and durations."""
        rows = [
            [
                i.id,
                i.status,
                i.peak,
                *(
                    _after(i, a, b)
                    for a, b in (
                        ("began", "detected"),
                        ("detected", "acknowledged"),
                        ("detected", "mitigated"),
                        ("began", "resolved"),
                    )
                ),
                formatting.single_line(i.headline, 80),
            ]
            for i in self.incidents
        ]
        return table(
            f"{len(rows)} incident{'' if len(rows) == 1 else 's'}",
            [
                "incident",
                "status",
                "peak severity",
                "time to detect",
                "time to acknowledge",
                "time to mitigate",
                "until it was resolved",
                "what was broken",
            ],
            rows,
            "no incident was opened",
        )

    @property
    def actions_list(self) -> TextBlock:
        """The action items."""
        return bullet_list("", self.action_items or ["nothing to do"])

    @property
    def actions_section(self) -> TextBlock:
        """The action items with their heading, for the Markdown."""
        return bullet_list("Action items", self.action_items or ["nothing to do"])

    @property
    def pieces(self) -> list[TextBlock]:
        """All parts in order, for the Markdown."""
        return [
            self.headline,
            self.summary,
            self.by_day,
            self.trends,
            self.best_and_worst,
            self.alerts_table,
            self.incidents_table,
            self.actions_section,
        ]

    def markdown(self) -> str:
        """Return the whole report in Markdown."""
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
        """The numbers of this report, for the executor of the notebook."""
        return RunRecord(self.values, self.markdown())


def _after(incident: Incident, first: str, then: str) -> str:
    a, b = incident.times[first].at_us, incident.times[then].at_us
    return formatting.UNKNOWN if a is None or b is None else formatting.duration(max(0, b - a) / 1e6)
