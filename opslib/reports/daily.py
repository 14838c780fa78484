"""
Make the end-of-day report: the guide's template, filled from one session, as numbers and as a document.

A report depends only on the day, the known data and the thresholds in effect. The same input gives the same report.
A figure that cannot be computed is None; its reason is listed under *unknown*.
If an earlier report of the same day used other data, the new one is a restatement and lists what changed.
"""

import hashlib
import json
from datetime import date, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

from opslib.alerting import alert_ids, history, replay
from opslib.alerting.alert_ids import source_name
from opslib.alerting.history import AlertEpisode
from opslib.alerting.verdicts import VERDICT_OF, named
from opslib.dashboard import panels, status
from opslib.dashboard.daily_figures import SECTIONS, WORDS, DailyFigures, Day, usual
from opslib.dashboard.daily_figures import figures as figures_of
from opslib.dashboard.status import Status
from opslib.dashboard.text_blocks import TextBlock, bullet_list, folded, one_after_another, table
from opslib.foundation import clock, formatting, market_calendar, time_parsing
from opslib.foundation.clock import Window
from opslib.foundation.config.rules import Rules
from opslib.foundation.config.settings import Settings
from opslib.foundation.config.workspace import Workspace
from opslib.foundation.errors import ReportRefused
from opslib.foundation.market_calendar import Session
from opslib.foundation.storage.cache import Cache
from opslib.foundation.storage.database import Database
from opslib.foundation.version import VERSION
from opslib.jobs.record import RunRecord
from opslib.reports import places
from opslib.reports.overview import Overview, Problem, new_york, when
from opslib.trading.pnl.pnl import Pnl

NAME = "daily"
TITLES = {"availability": "Availability", "data_quality": "Data Quality", "trading": "Trading Performance"}
# The entries of the evidence as the Markdown shows them; the names in the JSON file are fixed.
EVIDENCE_LABELS = {
    "looks": "snapshots",
    "sha256": "SHA-256",
    "days_before_sha256": "SHA-256 of the days before",
    "rules_sha256": "SHA-256 of the rules",
    "opslib": "opslib",
}
# The version of the sentences. `ops verify` compares sentences only with a report of the same version.
WORDING = 8


def _why_unknown(view: Status, figure: str) -> str:
    """Return why a figure of the template is unknown."""
    if view.fills_pnl is not None and figure in ("gross_pnl_pct", "net_pnl_pct", "backtest_variance_pp"):
        return _why_fills_lack(view.fills_pnl, figure)
    if not view.counters.ever_seen:
        return "no snapshot of this app was ever received"
    if view.coverage is None:
        return "the market was closed; no snapshots were expected"
    if not view.counters.snapshots_in(view.window):
        return "no snapshot was received in this window"
    field = {
        "massive_uptime_pct": "massive",
        "tradier_uptime_pct": "tradier",
        "iv_anomalies": "iv_anomalies",
        "backtest_variance_pp": "backtest_variance",
    }.get(figure)
    if field and field not in view.counters.wired:
        return "not measured: the app has never recorded a value"
    if figure.endswith(("uptime_pct", "valid_rate_pct")) and view.coverage < view.rules["availability"].min_coverage:
        return f"only {formatting.ratio(view.coverage, 1)} of the expected snapshots were received"
    if figure in ("gross_pnl_pct", "net_pnl_pct"):
        return (
            "no trades"
            if view.figures["pnl"]["trades"] == 0
            else "the page's mean is not a number, because one trade has no result"
        )
    if figure == "backtest_variance_pp":
        return (
            f"too few trades on the page ({view.figures['pnl']['variance_trades'] or 0} of "
            f"{view.rules['backtest_variance'].min_count} required)"
        )
    return "no requests or events were counted"


def _why_fills_lack(fills_pnl: Pnl, figure: str) -> str:
    """Return why a figure cannot be computed from fills."""
    if not fills_pnl.chosen:
        return "no round trip was completed"
    if figure != "backtest_variance_pp":
        return "no trade has a premium, so a result in percent is undefined"
    return (
        f"too few trades with a backtest result ({len(fills_pnl.gaps)} of "
        f"{fills_pnl.rule.of('fills').min_count} required)"
        if fills_pnl.has_backtest
        else "no backtest was imported"
    )


def _figure_text(value: float | None, unit: str) -> str:
    """Return a figure of the template as text."""
    return formatting.number(value, unit, None if unit == "" else 2)


class Daily:
    """
    The report of one day.

    Attributes:
        day: The day, New York.
        session: Its session; None where the market was closed all day.
        view: The status over the session (over the calendar day if there was none).
        night: The status from the previous close to the open; None without a session.
        previous: The session before, for the changes.
        partial: Whether the session was still open.
    """

    def __init__(
        self,
        store: Database,
        settings: Settings,
        rules: Rules,
        day: date,
        as_of: datetime | None,
        known_at: datetime | None,
        memory: Cache,
    ):
        self.day, self.session = day, market_calendar.session(day)
        self._store, self.settings, self.rules, self._cache = store, settings, rules, memory
        self._known_at, self._known_us = known_at, None if known_at is None else clock.micros(known_at)
        before = market_calendar.previous_session(day)
        window = self._window(self.session, day, as_of)
        self.view = self.status_over(window)
        self.night = self.status_over(Window(before.closes, self.session.opens)) if self.session else None
        self.previous = before
        self.partial = bool(self.session and window.end < self.session.closes)

    def status_over(self, window: Window) -> Status:
        """Return the status over a window, from the data that this report may use."""
        return status.view(self._store, self.settings, self.rules, window, self._known_at)

    @staticmethod
    def _window(session: Session | None, day: date, as_of: datetime | None) -> Window:
        if session is None:
            midnight = time_parsing.parse(f"{day}T00:00")
            return Window(midnight, time_parsing.parse(f"{day}T23:59:59"))
        if as_of and as_of <= session.opens:
            raise ReportRefused(
                f"the report of {day} cannot be made as of {formatting.moment(as_of)}: the market had not opened yet. "
                f"Give a later time."
            )
        return Window(session.opens, min(as_of or session.closes, session.closes))

    @cached_property
    def figures(self) -> dict[str, dict[str, float | None]]:
        """The template's figures, by section; None where unknown."""
        return figures_of(self.view)

    @cached_property
    def unknown(self) -> dict[str, str]:
        """The figures that are unknown, each with the reason."""
        return {
            name: _why_unknown(self.view, name)
            for section in self.figures.values()
            for name, value in section.items()
            if value is None
        }

    @cached_property
    def alerts(self) -> list[AlertEpisode]:
        """The alerts of the session, re-evaluated with the data known now; none on a day without a session."""
        if not self.session:
            return []
        if self.partial:
            transitions, alerts = replay.replay_session(
                self._store,
                self.settings,
                self.rules,
                self.view.window.start_us,
                self.view.window.end_us,
                self._known_us,
            )
        else:
            transitions, alerts = replay.replay_cached(
                self._store, self.settings, self.rules, self.session, self._known_us, self._cache
            )
        return history.episodes(history.severity_changes(transitions, self.rules, alerts))

    @property
    def incomplete(self) -> str | None:
        """Why there are too few snapshots for this report; None if there are enough, or none were expected."""
        coverage, needed = self.view.coverage, self.rules["availability"].min_coverage
        if coverage is None:
            return None
        if coverage >= needed:
            return None
        return f"only {formatting.ratio(coverage, 1)} of the expected snapshots were received"

    @property
    def verdict(self) -> str:
        """The day's verdict: the worst of its figures and of its alerts."""
        if not self.session:
            return self.view.verdict
        order = ("ok", "warning", "unknown", "critical")
        return max([self.view.verdict, *(VERDICT_OF[a.worst.severity] for a in self.alerts)], key=order.index)

    @cached_property
    def issues(self) -> list[dict[str, Any]]:
        """Every alert of the session: its times, its severity and its runbook."""
        until = self.view.window.end_us
        return [
            {
                "alert": a.worst.alert,
                "rule": a.worst.rule,
                "subject": a.worst.subject,
                "severity": a.worst.severity,
                "began": formatting.iso(clock.instant(a.began_us)),
                "ended": None if a.over_us is None else formatting.iso(clock.instant(a.over_us)),
                "minutes": round(((until if a.over_us is None else a.over_us) - a.began_us) / 60e6, 1),
                "worst": a.worst.worst_sentence(self.rules),
                "inhibited_by": a.worst.inhibited_by,
                "runbook": self.rules[a.worst.rule].runbooks[a.worst.subject],
            }
            for a in self.alerts
        ]

    def _action_item(self, problem: Problem) -> str:
        """Return what to do about a problem: of one that was resolved, review its incident."""
        name, first = named(problem.rule, problem.subject), self._overview.first_action(problem)
        if problem.over_us is None:
            return f"{name}: {first.with_runbook}"
        over = f"{name} ({problem.how.split()[-1]} {new_york(problem.over_us)})"
        incident = self.view.incidents.get(str(problem.worst.worst.alert))
        if problem.how == "ended" or incident is None:
            return f"{over}: {first.with_runbook}"
        return f"{over}: Review incident {incident} and complete its postmortem. Responsible: {first.who}."

    @cached_property
    def action_items(self) -> list[str]:
        """
        One action for each rule and subject that people were notified of, and one for missing snapshots.

        What is still active comes first, then what was most severe.
        """
        items = [self._action_item(p) for p in sorted(self._overview.problems, key=lambda p: p.order)]
        if self.incomplete:
            items.append(
                f"Find out why snapshots are missing: {self.incomplete}. Responsible: DevOps. Runbook: monitor_down."
            )
        return items

    @cached_property
    def _days(self) -> DailyFigures:
        return DailyFigures(
            self._store,
            self.settings,
            self.rules,
            self._cache,
            None if self._known_us is None else clock.instant(self._known_us),
        )

    @cached_property
    def before(self) -> list[Day]:
        """The trading days before it that define the usual range, oldest first."""
        return self._days.before(self.day)

    @cached_property
    def weekday(self) -> Day | None:
        """The same weekday of the week before; None if it was no trading day or has no data."""
        session = (
            market_calendar.session(self.day - timedelta(days=7))
            if self.day - timedelta(days=7) >= market_calendar.covered()[0]
            else None
        )
        return self._days.of(session) if session else None

    @cached_property
    def changes(self) -> dict[str, dict[str, Any]]:
        """
        Each figure with those of the previous trading day and of the same weekday of the week before.

        It also holds the usual range and the number of days that the range is based on.
        """
        previous, found = self._days.of(self.previous), dict[str, dict[str, Any]]()
        for section, figures in SECTIONS.items():
            for name in figures:
                usually, value = usual(self.before, name, self.rules.days), self.figures[section][name]
                found[name] = {
                    "previous": previous.figures[name] if previous else None,
                    "weekday": self.weekday.figures[name] if self.weekday else None,
                    "value": value,
                    "usual_low": usually.low,
                    "usual_middle": usually.middle,
                    "usual_high": usually.high,
                    "n": usually.n,
                    "outside": usually.outside(value),
                }
        return found

    @cached_property
    def evidence(self) -> dict[str, Any]:
        """What is needed to recompute this report: digests of its snapshots and of its rules."""
        digest = hashlib.sha256()
        snapshots = {
            k.digest: k
            for view in (self.view, self.night)
            if view
            for page in view.counters.pages
            for k in page.snapshots
        }
        for snapshot in sorted(snapshots.values(), key=lambda k: (k.ts_us, k.digest)):
            digest.update(snapshot.ts_us.to_bytes(8, "big") + snapshot.digest)
        wired = sorted(self.view.counters.wired)
        before = hashlib.sha256(
            json.dumps(
                [d.content for d in (*self.before, *((self.weekday,) if self.weekday else ()))], sort_keys=True
            ).encode()
        ).hexdigest()
        return {
            "looks": len(snapshots),
            "sha256": digest.hexdigest(),
            "wired": wired,
            "days_before_sha256": before,
            "rules_sha256": self.rules.hash,
            "opslib": VERSION,
        }

    @property
    def path(self) -> Path:
        """Where this report is published, without the ending."""
        return places.place(self.settings, NAME, self.day, self.partial)

    @cached_property
    def earlier(self) -> dict[str, Any] | None:
        """
        The published numbers that this report restates, or None.

        A report made again from the same data is compared with the same earlier report as its published version.
        """
        published = places.published(self.path.with_name(f"{self.path.name}.json"))
        if published and published["evidence"] == self.evidence:
            kept = published.get("restates")
            return places.published(self.path.with_name(f"{self.path.name}.{kept}.json")) if kept else None
        return published

    @cached_property
    def restates(self) -> str | None:
        """The suffix of the report that this one restates, such as ``r1``; None if it restates none."""
        published = places.published(self.path.with_name(f"{self.path.name}.json"))
        if published is None:
            return None
        return published.get("restates") if published["evidence"] == self.evidence else places.next_name(self.path)

    @cached_property
    def restated(self) -> list[str]:
        """What changed since the report that this one restates, and why; empty if it restates none."""
        if not self.earlier:
            return []
        then, now = self.earlier["evidence"], self.evidence
        why = []
        if now["looks"] != then["looks"] or now["sha256"] != then["sha256"]:
            why.append(f"it uses {now['looks']:,} snapshots, the earlier one {then['looks']:,}")
        if now["rules_sha256"] != then["rules_sha256"]:
            why.append("rules.toml changed")
        if now["days_before_sha256"] != then.get("days_before_sha256"):
            why.append("the data of the days before changed")
        if now["wired"] != then["wired"]:
            why.append("fields that had no values now have some")
        if now["opslib"] != then["opslib"]:
            why.append(f"opslib {now['opslib']} made it, opslib {then['opslib']} the earlier one")
        lines = [f"This report restates an earlier one: {'; '.join(why)}."]
        for section, figures in SECTIONS.items():
            for name, (words, unit) in figures.items():
                a, b = self.earlier[section][name], self.figures[section][name]
                if a != b:
                    lines.append(f"{words}: was {_figure_text(a, unit)}, is {_figure_text(b, unit)}")
        if self.earlier["verdict"] != self.verdict:
            lines.append(f"verdict: was {self.earlier['verdict']}, is {self.verdict}")
        if len(lines) == 1:
            lines.append("No figure of the report changed.")
        return lines

    @cached_property
    def values(self) -> dict[str, Any]:
        """The report as numbers, with the fields of CONTRACT.md."""
        night = self.night.figures if self.night else None
        return {
            "day": str(self.day),
            "wording": WORDING,
            "app": self.settings.app,
            "verdict": self.verdict,
            "headline": self.headline.plain.splitlines(),
            "session": self.words,
            "partial": self.partial,
            "incomplete": self.incomplete,
            "coverage": None if self.view.coverage is None else round(self.view.coverage, 4),
            **self.figures,
            "night": None
            if night is None
            else {
                "massive_requests": night["providers"]["massive"]["requests"],
                "massive_failures": night["providers"]["massive"]["failures"],
                "errors": night["system"]["errors"],
            },
            "issues": self.issues,
            "action_items": self.action_items,
            "changes": self.changes,
            "unknown": self.unknown,
            "restates": self.restates,
            "restated": self.restated,
            "evidence": self.evidence,
        }

    @property
    def words(self) -> str:
        """The kind of day, with its hours."""
        if self.session is None:
            return "market closed (weekend)" if self.day.weekday() >= 5 else "market closed (holiday)"
        kind = "half day" if self.session.half else "full day"
        return f"{kind}, {formatting.span(self.view.window.start, self.view.window.end)}"

    @property
    def record(self) -> RunRecord:
        """The numbers of this report, for the executor of the notebook."""
        return RunRecord(self.values, self.markdown())

    @cached_property
    def _overview(self) -> Overview:
        return Overview(self)

    @property
    def headline(self) -> TextBlock:
        """The answer: the verdict, what was broken, whose fault it was, what still worked, what to do first."""
        return self._overview.answer

    @property
    def first_screen(self) -> TextBlock:
        """The answer with links to the incidents, six key figures, and every alert on one time axis."""
        blocks = [self.headline, self._overview.links, self._overview.figures, self._overview.chart]
        return one_after_another(*(block for block in blocks if block is not None))

    def section(self, name: str) -> TextBlock:
        """Return one section of the guide's template: availability, data_quality or trading."""
        trades = self.figures["trading"]["total_trades"]
        means = f" (mean of {trades:,.0f} trade{'' if trades == 1 else 's'})" if trades else ""
        lines = []
        for figure, (words, unit) in SECTIONS[name].items():
            why = f" ({self.unknown[figure]})" if figure in self.unknown else ""
            mean = means if figure in ("gross_pnl_pct", "net_pnl_pct") and not why else ""
            lines.append(f"{words}: {_figure_text(self.figures[name][figure], unit)}{why}{mean}")
        return bullet_list("", lines)

    @property
    def night_before(self) -> TextBlock:
        """One line about the night before: from the previous close to the open."""
        if not self.night:
            return bullet_list("No night before", ["market closed"])
        f, window = self.night.figures, self.night.window
        seen = self.night.counters.snapshots_in(window)
        massive = f["providers"]["massive"]
        line = (
            f"errors {formatting.number(f['system']['errors'])}, failed Massive requests "
            f"{formatting.number(massive['failures'])} of {formatting.number(massive['requests'])}, snapshots {seen:,}"
        )
        return bullet_list(str(window), [line if seen else "no snapshot: no page was open"])

    @property
    def issues_list(self) -> TextBlock:
        """Issues Encountered: the alerts as tables, then everything else that happened."""
        sent, others = list[list[str]](), list[list[str]]()
        for issue, alert in zip(self.issues, self.alerts):
            row = [
                f"{formatting.SIGNS[issue['severity']]} {issue['severity']}",
                when(alert.began_us, alert.over_us),
                issue["worst"],
                self._overview.at_each_severity(alert),
                source_name(alert.worst.source),
            ]
            if issue["inhibited_by"]:
                others.append([*row, alert_ids.describe(issue["inhibited_by"], self.view.rules.titles)])
            else:
                sent.append([*row, issue["runbook"]])
        header = [
            "peak severity",
            "New York",
            "worst value (burn rate: when it fired)",
            "time at each severity or above",
            "source",
        ]
        blocks = [table(f"{len(sent)} alert{'' if len(sent) == 1 else 's'}", [*header, "runbook"], sent, "none")]
        if others:
            words = f"{len(others)} more, each a consequence of another alert"
            blocks.append(folded(words, table(words, [*header, "consequence of"], others)))
        if self._other_issues:
            blocks.append(bullet_list("Other issues", self._other_issues))
        return one_after_another(*blocks)

    @property
    def _other_issues(self) -> list[str]:
        """Page reloads, gaps in the snapshots, the newest error message, and clocks that are wrong."""
        lines = [
            f"page reloaded {formatting.moment(at)}: its counters were reset to zero"
            for at in self.view.counters.reloads(self.view.window)
        ]
        lines += [
            f"no snapshots {formatting.span(g.start, g.end)}, {formatting.duration(g.seconds)}"
            for g in self.view.counters.gaps(self.view.window)
        ]
        message = self.view.figures["system"]["last_error_message"]
        lines += [f"newest error message: {formatting.single_line(message)}"] if message else []
        return lines + [n for n in self.view.panel("system").notes if "clock" in n]

    @property
    def _issue_lines(self) -> TextBlock:
        """Issues Encountered as a list, for the Markdown."""
        lines = []
        for issue, alert in zip(self.issues, self.alerts):
            until = clock.instant(self.view.window.end_us if alert.over_us is None else alert.over_us)
            active = ", still active at the close" if alert.over_us is None else ""
            after = (
                f"consequence of {alert_ids.describe(issue['inhibited_by'], self.view.rules.titles)}"
                if issue["inhibited_by"]
                else f"runbook {issue['runbook']}"
            )
            lines.append(
                f"peak {issue['severity']}, {formatting.span(clock.instant(alert.began_us), until)}{active}, "
                f"{source_name(alert.worst.source)}: {issue['worst']}; time at each severity or above: "
                f"{self._overview.at_each_severity(alert)}; {after}"
            )
        return bullet_list("", [*lines, *self._other_issues] or ["none"])

    @property
    def actions_list(self) -> TextBlock:
        """Action Items."""
        return bullet_list("", self.action_items or ["nothing to do"])

    @property
    def changes_table(self) -> TextBlock:
        """The changes since the previous trading day and the same weekday, with the usual range."""
        rows = []
        for name, found in self.changes.items():
            words, unit = WORDS[name]

            def gap(a: float | None, b: float | None, unit: str = unit) -> str:
                return (
                    formatting.UNKNOWN
                    if a is None or b is None
                    else f"{b - a:+z,.{0 if unit == '' else 2}f} {unit.replace('%', 'points')}".rstrip()
                )

            if found["usual_low"] is not None:
                band = f"{_figure_text(found['usual_low'], unit)} to {_figure_text(found['usual_high'], unit)}"
            elif found["n"]:
                band = f"unknown; median {_figure_text(found['usual_middle'], unit)}"
            else:
                band = formatting.UNKNOWN
            rows.append(
                [
                    words,
                    _figure_text(found["value"], unit),
                    gap(found["previous"], found["value"]),
                    gap(found["weekday"], found["value"]),
                    band,
                    str(found["n"]),
                    {True: "not usual", False: "usual", None: formatting.UNKNOWN}[found["outside"]],
                ]
            )
        header = [
            "figure",
            str(self.day),
            f"change since {self.previous.day}",
            f"change since {self.day - timedelta(days=7)}",
            "usual range",
            "days compared",
            "assessment",
        ]
        return table(
            f"Compared with the previous trading day ({self.previous.day}), the same weekday of the week before, and "
            f"up to {self.rules.days.usual_days:g} trading days before",
            header,
            rows,
        )

    def panel(self, name: str) -> panels.Panel:
        """Return one of the four panels over the session."""
        return self.view.panel(name)

    def markdown(self) -> str:
        """Return the whole report in Markdown, with the headings of the guide's template."""
        parts = [f"## Daily Monitoring Report - {self.day}", "", self.first_screen.markdown]
        for name in SECTIONS:
            parts += ["", f"### {TITLES[name]}", "", _body(self.section(name))]
        parts += ["", "### Issues Encountered", "", _body(self._issue_lines)]
        parts += ["", "### Action Items", "", _body(self.actions_list)]
        night = f", {self.night.window}" if self.night else ""
        parts += ["", f"### Night before{night}", "", _body(self.night_before)]
        parts += ["", self.changes_table.markdown]
        evidence = ", ".join(f"{EVIDENCE_LABELS[k]} {v}" for k, v in self.evidence.items() if k in EVIDENCE_LABELS)
        return "\n".join([*parts, "", f"Evidence: {formatting.in_markdown(evidence)}", ""])


def _body(block: TextBlock) -> str:
    """Return the Markdown of a block without its heading."""
    return block.markdown.partition("\n\n")[2] if block.markdown.startswith("### ") else block.markdown


def daily(
    store: Database,
    settings: Settings,
    rules: Rules,
    day: date,
    memory: Cache,
    *,
    as_of: datetime | None = None,
    known_at: datetime | None = None,
) -> Daily:
    """
    Return the report of a trading day.

    Args:
        day: The day in New York; a day without a session gives a report that says so.
        memory: The cache of computed figures.
        as_of: The end of the data; a report before the close is partial. None is the close.
        known_at: Use only data that was in the database by then; None is all data.

    Raises:
        ReportRefused: The market had not opened, or an earlier report of that day cannot be read.
    """
    return Daily(store, settings, rules, day, as_of, known_at, memory)


def meant_day(workspace: Workspace, day: str | date | None, as_of: str | datetime | None = None) -> date:
    """Return the given day, or the last day whose session has closed."""
    if day:
        return time_parsing.parse_day(day) if isinstance(day, str) else day
    return market_calendar.last_closed(time_parsing.instant_of(as_of) or workspace.now()).day


def daily_of(
    workspace: Workspace,
    day: str | date | None = None,
    as_of: str | datetime | None = None,
    known_at: str | datetime | None = None,
) -> Daily:
    """Return the report of a trading day, by default of the last day whose session has closed."""
    return daily(
        workspace.store,
        workspace.settings,
        workspace.rules,
        meant_day(workspace, day, as_of),
        workspace.cache,
        as_of=time_parsing.instant_of(as_of),
        known_at=time_parsing.instant_of(known_at),
    )
