"""
Make the end-of-day report: the guide's template, filled from one session, as numbers and as a document.

A report is a function of the day, the facts known and the limits in force: made twice from the same, it is the same.
Where a figure cannot be known it is None and stands, with the reason, under *unknown*.
When an earlier report of the same day says something else, the new one is a restatement and tells what changed.
"""

import hashlib
import json
from datetime import date, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

from opslib.alerting import history, replay
from opslib.alerting.history import AlertEpisode
from opslib.alerting.verdicts import VERDICT_OF, named
from opslib.dashboard import panels, status
from opslib.dashboard.daily_figures import SECTIONS, WORDS, DailyFigures, Day, usual
from opslib.dashboard.daily_figures import figures as figures_of
from opslib.dashboard.status import Status
from opslib.dashboard.text_blocks import TextBlock, bullet_list, table
from opslib.foundation import clock, formatting, market_calendar, time_parsing
from opslib.foundation.clock import Window
from opslib.foundation.config.rules import SENT, Rule, Rules
from opslib.foundation.config.settings import Settings
from opslib.foundation.config.workspace import Workspace
from opslib.foundation.errors import ReportRefused
from opslib.foundation.market_calendar import Session
from opslib.foundation.storage.cache import Cache
from opslib.foundation.storage.database import Database
from opslib.foundation.version import VERSION
from opslib.jobs.record import RunRecord
from opslib.reports import places
from opslib.trading.pnl.pnl import Pnl

NAME = "daily"
TITLES = {"availability": "Availability", "data_quality": "Data Quality", "trading": "Trading Performance"}


def _why_unknown(view: Status, figure: str) -> str:
    """Why is a figure of the template not known?"""
    if view.filed is not None and figure in ("gross_pnl_pct", "net_pnl_pct", "backtest_variance_pp"):
        return _lacking(view.filed, figure)
    if not view.tape.ever_seen:
        return "no look of this app has ever come"
    if view.coverage is None:
        return "the market was closed: nothing was expected"
    if not view.tape.looks_in(view.window):
        return "no look came in this window"
    field = {
        "massive_uptime_pct": "massive",
        "tradier_uptime_pct": "tradier",
        "iv_anomalies": "iv_anomalies",
        "backtest_variance_pp": "backtest_variance",
    }.get(figure)
    if field and field not in view.tape.alive:
        return "not measured: the app has never recorded it"
    if figure.endswith(("uptime_pct", "valid_rate_pct")) and view.coverage < view.rules["availability"].min_coverage:
        return f"only {formatting.ratio(view.coverage, 1)} of the expected looks came"
    if figure in ("gross_pnl_pct", "net_pnl_pct"):
        return (
            "no trades"
            if view.figures["pnl"]["trades"] == 0
            else "the page's mean was spoiled by a trade without a number"
        )
    if figure == "backtest_variance_pp":
        return (
            f"too few trades on the page ({view.figures['pnl']['variance_trades'] or 0} of "
            f"{view.rules['backtest_variance'].min_count} needed)"
        )
    return "nothing was counted"


def _lacking(filed: Pnl, figure: str) -> str:
    """Why have fills no such figure?"""
    if not filed.chosen:
        return "no round trip ended"
    if figure != "backtest_variance_pp":
        return "no trade has a premium to set its result against"
    return (
        f"too few trades with a backtest's figure ({len(filed.gaps)} of {filed.rule.of('fills').min_count} needed)"
        if filed.wanted
        else "no backtest to compare with"
    )


def _over(rule: Rule) -> str:
    """Over which window a rate was judged: it stays past its limit until the trouble has left the window."""
    return (
        f" over {formatting.duration(rule.window.total_seconds())}"
        if rule.gate == "wilson" or rule.unit == "per_hour"
        else ""
    )


def _told(value: float | None, unit: str) -> str:
    return formatting.number(value, unit, None if unit == "" else 2)


class Daily:
    """
    The report of one day.

    Attributes:
        day: The day, New York.
        session: Its session; None where the market was closed all day.
        view: Everything over the session (over the calendar day where there was none).
        night: Everything from the previous close to the open.
        previous: The session before, for what changed.
        earlier: The published numbers of this report, where there are any that rest on something else.
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
        self._store, self._settings, self._rules, self._memory = store, settings, rules, memory
        self._known_us = None if known_at is None else clock.micros(known_at)
        before = market_calendar.previous_session(day)
        window = self._window(self.session, day, as_of)

        def at(w: Window) -> Status:
            return status.view(store, settings, rules, w, known_at)

        self.view = at(window)
        self.night = at(Window(before.closes, self.session.opens)) if self.session else None
        self.previous = before
        self.partial = bool(self.session and window.end < self.session.closes)

    @staticmethod
    def _window(session: Session | None, day: date, as_of: datetime | None) -> Window:
        if session is None:
            midnight = time_parsing.parse(f"{day}T00:00")
            return Window(midnight, time_parsing.parse(f"{day}T23:59:59"))
        if as_of and as_of <= session.opens:
            raise ReportRefused(
                f"a report of {day} was wanted as of {formatting.moment(as_of)}, before the market opened. Ask for "
                f"a later moment."
            )
        return Window(session.opens, min(as_of or session.closes, session.closes))

    @cached_property
    def figures(self) -> dict[str, dict[str, float | None]]:
        """The template's figures."""
        return figures_of(self.view)

    @cached_property
    def unknown(self) -> dict[str, str]:
        """Figures that cannot be known, each with why."""
        return {
            name: _why_unknown(self.view, name)
            for section in self.figures.values()
            for name, value in section.items()
            if value is None
        }

    @cached_property
    def alerts(self) -> list[AlertEpisode]:
        """
        What went wrong, and when, judged anew by what is known now; nothing is looked for on a day without a session.
        """
        if not self.session:
            return []
        if self.partial:
            transitions, standing = replay.replay_session(
                self._store,
                self._settings,
                self._rules,
                self.view.window.start_us,
                self.view.window.end_us,
                self._known_us,
            )
        else:
            transitions, standing = replay.of(
                self._store, self._settings, self._rules, self.session, self._known_us, self._memory
            )
        return history.lives(history.read(transitions, self._rules, standing))

    @property
    def incomplete(self) -> str | None:
        """Why this report does not stand on enough looks; None where it does, or where none were expected."""
        coverage, needed = self.view.coverage, self._rules["availability"].min_coverage
        if coverage is None:
            return None
        return f"only {formatting.ratio(coverage, 1)} of the expected looks came" if coverage < needed else None

    @property
    def verdict(self) -> str:
        """The day's verdict: the worst that its figures or any stretch of it amounted to."""
        if not self.session:
            return self.view.verdict
        order = ("ok", "warning", "unknown", "critical")
        return max([self.view.verdict, *(VERDICT_OF[a.worst.severity] for a in self.alerts)], key=order.index)

    @cached_property
    def issues(self) -> list[dict[str, Any]]:
        """Every alert of the session: when, how bad, and where it leads."""
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
                "worst": f"{a.worst.told(self._rules)}{_over(self._rules[a.worst.rule])}",
                "inhibited_by": a.worst.inhibited_by,
                "runbook": self._rules[a.worst.rule].runbooks[a.worst.subject],
            }
            for a in self.alerts
        ]

    @cached_property
    def action_items(self) -> list[str]:
        """
        What follows from the issues, once for each rule and subject that somebody was to be told of, and from what is
        missing.
        """
        items = []
        for name, subject in dict.fromkeys(
            (a.worst.rule, a.worst.subject)
            for a in self.alerts
            if a.worst.severity in SENT and not a.worst.inhibited_by
        ):
            rule = self._rules[name]
            items.append(f"{named(rule, subject)}: {rule.action} ({rule.who}; runbook {rule.runbooks[subject]})")
        if self.incomplete:
            items.append(f"Find out why looks are missing: {self.incomplete}. (DevOps; runbook monitor_down)")
        return items

    @cached_property
    def _days(self) -> DailyFigures:
        return DailyFigures(
            self._store,
            self._settings,
            self._rules,
            self._memory,
            None if self._known_us is None else clock.instant(self._known_us),
        )

    @cached_property
    def before(self) -> list[Day]:
        """The trading days before it that say what is usual, oldest first."""
        return self._days.before(self.day)

    @cached_property
    def weekday(self) -> Day | None:
        """The same weekday of the week before; None where it was no trading day, or nothing was seen of it."""
        session = (
            market_calendar.session(self.day - timedelta(days=7))
            if self.day - timedelta(days=7) >= market_calendar.covered()[0]
            else None
        )
        return self._days.of(session) if session else None

    @cached_property
    def changes(self) -> dict[str, dict[str, Any]]:
        """
        Each figure beside the previous trading day's, the same weekday's of the week before, and what is usual, with
        how many days say so.
        """
        previous, found = self._days.of(self.previous), dict[str, dict[str, Any]]()
        for section, figures in SECTIONS.items():
            for name in figures:
                usually, value = usual(self.before, name, self._rules.days), self.figures[section][name]
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
        """By what this report can be recomputed: the looks it rests on, and the limits it was judged by."""
        digest = hashlib.sha256()
        looks = {
            k.digest: k for view in (self.view, self.night) if view for page in view.tape.pages for k in page.looks
        }
        for look in sorted(looks.values(), key=lambda k: (k.ts_us, k.digest)):
            digest.update(look.ts_us.to_bytes(8, "big") + look.digest)
        wired = sorted(self.view.tape.alive)
        before = hashlib.sha256(
            json.dumps(
                [d.told for d in (*self.before, *((self.weekday,) if self.weekday else ()))], sort_keys=True
            ).encode()
        ).hexdigest()
        return {
            "looks": len(looks),
            "sha256": digest.hexdigest(),
            "wired": wired,
            "days_before_sha256": before,
            "rules_sha256": self._rules.hash,
            "opslib": VERSION,
        }

    @property
    def path(self) -> Path:
        """Where this report is published, without the ending."""
        return places.place(self._settings, NAME, self.day, self.partial)

    @cached_property
    def earlier(self) -> dict[str, Any] | None:
        """
        The published numbers of this report that rest on something else, or None.

        A report made again from the same facts compares itself with what its published self was compared with.
        """
        published = places.published(self.path.with_name(f"{self.path.name}.json"))
        if published and published["evidence"] == self.evidence:
            kept = published.get("restates")
            return places.published(self.path.with_name(f"{self.path.name}.{kept}.json")) if kept else None
        return published

    @cached_property
    def restates(self) -> str | None:
        """
        The name under which the report that this one restates is kept: ``r1``, ``r2``, …; None where it restates none.
        """
        published = places.published(self.path.with_name(f"{self.path.name}.json"))
        if published is None:
            return None
        return published.get("restates") if published["evidence"] == self.evidence else places.next_name(self.path)

    @cached_property
    def restated(self) -> list[str]:
        """What changed against the report that this one restates, and why; empty where it restates none."""
        if not self.earlier:
            return []
        then, now = self.earlier["evidence"], self.evidence
        why = []
        if now["looks"] != then["looks"] or now["sha256"] != then["sha256"]:
            why.append(f"it rests on {now['looks']:,} looks; {then['looks']:,} were known before")
        if now["rules_sha256"] != then["rules_sha256"]:
            why.append("the limits changed")
        if now["days_before_sha256"] != then.get("days_before_sha256"):
            why.append("more is known of the days before it")
        if now["wired"] != then["wired"]:
            why.append("fields thought unwired have been seen alive")
        if now["opslib"] != then["opslib"]:
            why.append(f"opslib {now['opslib']} made it; {then['opslib']} made the earlier one")
        lines = [f"This report restates an earlier one: {'; '.join(why)}."]
        for section, figures in SECTIONS.items():
            for name, (words, unit) in figures.items():
                a, b = self.earlier[section][name], self.figures[section][name]
                if a != b:
                    lines.append(f"{words}: was {_told(a, unit)}, is {_told(b, unit)}")
        if self.earlier["verdict"] != self.verdict:
            lines.append(f"verdict: was {self.earlier['verdict']}, is {self.verdict}")
        if len(lines) == 1:
            lines.append("No figure of the report changed.")
        return lines

    @cached_property
    def values(self) -> dict[str, Any]:
        """The report as numbers, as CONTRACT.md has them."""
        night = self.night.figures if self.night else None
        return {
            "day": str(self.day),
            "app": self._settings.app,
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
        """What kind of day it was."""
        if self.session is None:
            return "market closed (weekend)" if self.day.weekday() >= 5 else "market closed (holiday)"
        kind = "half day" if self.session.half else "full day"
        return f"{kind}, {formatting.span(self.view.window.start, self.view.window.end)}"

    @property
    def record(self) -> RunRecord:
        """The numbers of this report, for whoever executed the notebook."""
        return RunRecord(self.values, self.markdown())

    @property
    def headline(self) -> TextBlock:
        """Is anything wrong, since when, what to do?"""
        loud = [i for i in self.issues if i["severity"] in SENT and not i["inhibited_by"]]
        head = f"{self.day}: {self.verdict}. {self.words}."
        lines = [
            f"{time_parsing.parse(i['began']).astimezone(formatting.NEW_YORK):%H:%M} New York, "
            f"{i['minutes']:g} min: {i['worst']}"
            for i in loud
        ] or ["Nothing reached a limit at which anybody is told." if self.session else "Nothing was expected."]
        if self.incomplete:
            lines.insert(0, f"INCOMPLETE: {self.incomplete}.")
        if self.partial:
            lines.insert(
                0,
                f"PARTIAL: the market was still open; this is the day up to {formatting.moment(self.view.window.end)}.",
            )
        return bullet_list(head, self.restated + lines)

    def section(self, name: str) -> TextBlock:
        """One section of the guide's template: availability, data_quality or trading."""
        rows = [
            (words, _told(self.figures[name][figure], unit), self.unknown.get(figure, ""))
            for figure, (words, unit) in SECTIONS[name].items()
        ]
        return bullet_list(TITLES[name], [f"{w}: {v}{f' ({why})' if why else ''}" for w, v, why in rows])

    @property
    def night_before(self) -> TextBlock:
        """One line about the night before: from the previous close to the open."""
        if not self.night:
            return bullet_list("The night before", ["market closed"])
        f, window = self.night.figures, self.night.window
        seen = self.night.tape.looks_in(window)
        massive = f["providers"]["massive"]
        told = (
            f"errors {formatting.number(f['system']['errors'])}, failed Massive requests "
            f"{formatting.number(massive['failures'])} of {formatting.number(massive['requests'])}, looks {seen:,}"
        )
        return bullet_list(f"The night before, {window}", [told if seen else "no page was open"])

    @property
    def issues_told(self) -> TextBlock:
        """Issues Encountered."""
        lines = []
        for i in self.issues:
            began = time_parsing.parse(i["began"])
            until = "still so at the close" if i["ended"] is None else f"{i['minutes']:g} min"
            lines.append(
                f"{i['severity']}, {began:%H:%M:%S} UTC ({began.astimezone(formatting.NEW_YORK):%H:%M:%S} New York),"
                f" {until}: {i['worst']}; "
                f"{'explained by ' + i['inhibited_by'] if i['inhibited_by'] else 'runbook ' + i['runbook']}"
            )
        lines += [
            f"page reloaded {formatting.moment(at)}: its counters began again at zero"
            for at in self.view.tape.reloads(self.view.window)
        ]
        lines += [
            f"no looks {formatting.span(g.start, g.end)}, {formatting.duration(g.seconds)}"
            for g in self.view.tape.gaps(self.view.window)
        ]
        message = self.view.figures["system"]["last_error_message"]
        lines += [f"newest error message of a page: {formatting.single_line(message)}"] if message else []
        lines += [n for n in self.view.panel("system").notes if "clock" in n]
        return bullet_list("Issues Encountered", lines or ["none"])

    @property
    def actions_told(self) -> TextBlock:
        """Action Items."""
        return bullet_list("Action Items", self.action_items or ["nothing to do"])

    @property
    def changes_told(self) -> TextBlock:
        """What changed against the previous trading day, the same weekday, and the days before?"""
        rows = []
        for name, found in self.changes.items():
            words, unit = WORDS[name]

            def gap(a: float | None, b: float | None, unit: str = unit) -> str:
                return (
                    formatting.UNKNOWN
                    if a is None or b is None
                    else f"{b - a:+,.{0 if unit == '' else 2}f} {unit.replace('%', 'points')}".rstrip()
                )

            if found["usual_low"] is not None:
                band = f"{_told(found['usual_low'], unit)} to {_told(found['usual_high'], unit)}"
            elif found["n"]:
                band = f"median {_told(found['usual_middle'], unit)}"
            else:
                band = formatting.UNKNOWN
            rows.append(
                [
                    words,
                    _told(found["value"], unit),
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
            f"against {self.previous.day}",
            f"against {self.day - timedelta(days=7)}",
            "usual",
            "n days",
            "is it?",
        ]
        return table(
            f"Against the previous trading day ({self.previous.day}), the same weekday, and "
            f"{self._rules.days.usual_days:g} trading days before",
            header,
            rows,
        )

    def panel(self, name: str) -> panels.Panel:
        """One of the four panels over the session."""
        return self.view.panel(name)

    def markdown(self) -> str:
        """The whole report as the guide's template has it, in Markdown."""
        parts = [f"## Daily Monitoring Report - {self.day}"]
        for piece in (
            self.headline,
            *(self.section(name) for name in SECTIONS),
            self.issues_told,
            self.actions_told,
            self.night_before,
            self.changes_told,
        ):
            parts += ["", piece.markdown]
        evidence = ", ".join(f"{k} {v}" for k, v in self.evidence.items() if k != "wired")
        return "\n".join([*parts, "", f"Evidence: {formatting.in_markdown(evidence)}", ""])


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
    What happened on a trading day?

    Args:
        day: The day in New York; a day without a session gives a report that says so.
        memory: What was computed before.
        as_of: Only up to then; a report before the close is a partial one.
        known_at: Only what had come into the store by then.

    Raises:
        ReportRefused: Before the market opened, or an earlier report of that day cannot be read.
    """
    return Daily(store, settings, rules, day, as_of, known_at, memory)


def meant_day(workspace: Workspace, day: str | date | None, as_of: str | datetime | None = None) -> date:
    """The day that is meant: the one named, else the last whose session has closed."""
    if day:
        return time_parsing.parse_day(day) if isinstance(day, str) else day
    return market_calendar.last_closed(time_parsing.instant_of(as_of) or workspace.now()).day


def daily_of(
    workspace: Workspace,
    day: str | date | None = None,
    as_of: str | datetime | None = None,
    known_at: str | datetime | None = None,
) -> Daily:
    """The report of a trading day; of the last one that has closed, where none is named."""
    return daily(
        workspace.store,
        workspace.settings,
        workspace.rules,
        meant_day(workspace, day, as_of),
        workspace.memory,
        as_of=time_parsing.instant_of(as_of),
        known_at=time_parsing.instant_of(known_at),
    )
