"""
Make the first screen of the daily report: the answer, six key figures, and every alert on one time axis.

The alerts that people were notified of are grouped into problems, one for each rule and subject. The diagnosis at the
moment when a problem was worst says whose fault it was and what still worked.
"""

import os
from datetime import date, timedelta
from functools import cached_property
from typing import Any, NamedTuple, Protocol

from opslib.alerting import causes, effects
from opslib.alerting.alert_ids import source_name
from opslib.alerting.effects import FirstAction
from opslib.alerting.evaluation import is_no_provider_rule
from opslib.alerting.history import AlertEpisode, SeverityChange, seconds_at, segments
from opslib.alerting.verdicts import compared_value, describe_verdict, named, over_window, subject_title
from opslib.dashboard import impact
from opslib.dashboard.status import Status
from opslib.dashboard.text_blocks import KeyFigure, TextBlock, answer, key_figures, links
from opslib.dashboard.timeline import Bar, TimelineRow, timeline
from opslib.foundation import clock, formatting
from opslib.foundation.clock import Window
from opslib.foundation.config.rules import SENT, SEVERITIES, Rule, Rules
from opslib.foundation.config.settings import Settings
from opslib.foundation.market_calendar import Session
from opslib.jobs.executor import MADE_MEANWHILE, UNATTENDED
from opslib.reports import places
from opslib.runbooks.diagnosis.diagnosis import Diagnosis, diagnose

DIAGNOSED = timedelta(minutes=10)  # The window of a problem's diagnosis.
# The figures of the first screen: label, rule, subject, name in the report, unit.
FIGURES = (
    ("availability of Massive", "availability", "massive", "massive_uptime_pct", "%"),
    ("availability of Tradier", "availability", "tradier", "tradier_uptime_pct", "%"),
    ("valid Greeks", "greeks_valid", "app", "greeks_valid_rate_pct", "%"),
    ("backtest variance, points", "backtest_variance", "app", "backtest_variance_pp", ""),
    ("errors", "errors", "app", "system_errors", ""),
)


class Reported(Protocol):
    """What the first screen shows of a daily report."""

    @property
    def day(self) -> date:
        """The day in New York."""

    @property
    def session(self) -> Session | None:
        """Its session; None where the market was closed."""

    @property
    def partial(self) -> bool:
        """Whether the session was still open."""

    @property
    def view(self) -> Status:
        """The status over the session."""

    @property
    def settings(self) -> Settings:
        """The settings of the app."""

    @property
    def rules(self) -> Rules:
        """The rules in effect."""

    @property
    def alerts(self) -> list[AlertEpisode]:
        """The alerts of the session."""

    @property
    def figures(self) -> dict[str, dict[str, float | None]]:
        """The template's figures, by section."""

    @property
    def changes(self) -> dict[str, dict[str, Any]]:
        """Each figure with those of the days before."""

    @property
    def unknown(self) -> dict[str, str]:
        """The figures that are unknown, each with the reason."""

    @property
    def verdict(self) -> str:
        """The day's verdict."""

    @property
    def words(self) -> str:
        """The kind of day, with its hours."""

    @property
    def incomplete(self) -> str | None:
        """Why there are too few snapshots; None if there are enough."""

    @property
    def restated(self) -> list[str]:
        """What changed since an earlier report of the day."""

    @property
    def action_items(self) -> list[str]:
        """What to do."""

    def status_over(self, window: Window) -> Status:
        """Return the status over a window, from the data that the report may use."""


class Problem(NamedTuple):
    """
    The alerts of one rule and subject that people were notified of.

    Attributes:
        worst: The episode with the highest severity; the first if there are several.
        over_us: When the last one was over; None while one lasts.
        how: How that one was over: ``was resolved``, or ``ended``, which is no recovery.
        found: The diagnosis at the moment when it was worst.
        works: What still worked then.
    """

    rule: Rule
    subject: str
    worst: AlertEpisode
    began_us: int
    over_us: int | None
    how: str
    found: Diagnosis
    works: tuple[str, ...]

    @property
    def name(self) -> str:
        """What was wrong, in words."""
        return titled(self.rule, self.subject)

    @property
    def whose(self) -> str:
        """Whose fault it was."""
        return causes.whose(self.found.cause, self.found.subject)

    @property
    def cause(self) -> Diagnosis | None:
        """The cause of its worst alert, if the diagnosis is sure of one; it decides what to do first."""
        change = self.worst.worst
        return effects.cause_of_alert(self.found.each, change.rule, change.subject, change.source)

    @property
    def order(self) -> tuple[bool, int, int]:
        """The order of acting: what is still active first, then the most severe, then the first."""
        return self.over_us is not None, -SEVERITIES.index(self.worst.worst.severity), self.began_us


def titled(rule: Rule, subject: str) -> str:
    """Return the rule's title with its subject, the provider with a capital letter."""
    return named(rule, subject_title(subject))


def new_york(us: int) -> str:
    """Return a time of the day in New York, to the minute."""
    return f"{clock.instant(us).astimezone(formatting.NEW_YORK):%H:%M}"


def in_minutes(seconds: float) -> str:
    """Return a length of time in whole minutes, at least one, such as ``3 min``."""
    return formatting.duration(max(60, round(seconds / 60) * 60))


def when(began_us: int, over_us: int | None) -> str:
    """Return a stretch of time in New York, such as ``11:22–11:45``, or ``13:50–close``."""
    return f"{new_york(began_us)}–{'close' if over_us is None else new_york(over_us)}"


def beyond(rule: Rule, severity: str) -> str:
    """Return a severity with its threshold, such as ``critical below 95.0 %``."""
    limit = dict(rule.thresholds).get(severity)
    if limit is None:
        return severity
    if isinstance(limit, str):
        return f"{severity} without any success"
    return f"{severity} {'below' if rule.better == 'higher' else 'above'} {rule.format_limit(limit)}"


def worst_value(change: SeverityChange, rules: Rules) -> tuple[str, str, str]:
    """Return an alert's figure, its worst value, and the threshold; without a value, its sentence and nothing else."""
    rule = rules.rules.get(change.rule)
    if rule is None or rule.burn or change.peak is None or is_no_provider_rule(rule, change.subject):
        return change.sentence, "", ""
    limit = change.limit if change.limit is not None else dict(rule.thresholds).get(change.severity)
    value = compared_value(rule, change.peak, "" if limit is None else limit, over_window(rule, change.source))
    if limit is None or isinstance(limit, str):
        threshold = beyond(rule, change.severity).removeprefix(change.severity).strip()
    else:
        threshold = f"{'below' if rule.better == 'higher' else 'above'} {rule.format_limit(limit)}"
    return titled(rule, change.subject), value, threshold


def _threshold(rule: Rule, severity: str | None) -> str:
    """Return the threshold of a severity that was reached; without one, the mildest severity with its threshold."""
    return beyond(rule, severity).removeprefix(severity).strip() if severity else beyond(rule, rule.thresholds[0][0])


class Overview:
    """The first screen of one daily report."""

    def __init__(self, report: Reported):
        self.report = report
        self.rules = report.rules

    @cached_property
    def problems(self) -> list[Problem]:
        """The problems of the session, in the order in which they began."""
        groups: dict[tuple[str, str], list[AlertEpisode]] = {}
        for a in self.report.alerts:
            if a.worst.severity in SENT and not a.worst.inhibited_by:
                groups.setdefault((a.worst.rule, a.worst.subject), []).append(a)
        return [self._problem(self.rules[rule], subject, found) for (rule, subject), found in groups.items()]

    def _problem(self, rule: Rule, subject: str, found: list[AlertEpisode]) -> Problem:
        worst = max(found, key=lambda a: (SEVERITIES.index(a.worst.severity), -a.worst.fired_us))
        view = self.report.status_over(Window.before(clock.instant(worst.worst.fired_us), DIAGNOSED))
        over = [a.over_us for a in found]
        last = max(found, key=lambda a: a.over_us or 0)
        works = (words.partition(" (")[0] for state, words in impact.working_and_failing(view) if state == "works")
        return Problem(
            rule,
            subject,
            worst,
            min(a.began_us for a in found),
            None if None in over else max(us for us in over if us is not None),
            "ended" if last.state == "ended" else "was resolved",
            diagnose(view),
            tuple(works),
        )

    @staticmethod
    def _in_short(problem: Problem) -> str:
        ours = problem.whose.removeprefix("ours: ")
        fault = f"fault: {problem.whose}" if ours == problem.whose else f"fault on our side: {ours}"
        return f"{problem.name} {when(problem.began_us, problem.over_us)} ({fault})"

    def first_action(self, problem: Problem) -> FirstAction:
        """Return what to do first about a problem."""
        return effects.first_action(problem.cause, problem.rule.name, problem.subject, self.rules)

    def lasted(self, began_us: int, over_us: int | None) -> str:
        """Return how long something lasted, in minutes; until the end of the data if it still lasts."""
        end_us = self.report.view.window.end_us if over_us is None else over_us
        return in_minutes((end_us - began_us) / clock.SECOND)

    def at_each_severity(self, episode: AlertEpisode) -> str:
        """Return how long an alert had each severity that it reached, or a higher one, as `ops alerts` counts it."""
        reached = {c.severity for c in episode.changes}
        end_us = self.report.view.window.end_us
        return ", ".join(
            f"{s} {formatting.duration(seconds_at(s, [episode], end_us))}" for s in SEVERITIES if s in reached
        )

    def _extreme(self, problem: Problem) -> str:
        """Return what was wrong, with its worst value."""
        change, rule = problem.worst.worst, problem.rule
        if change.peak is None or rule.burn:
            return change.worst_sentence(self.rules)
        return f"{problem.name} {'down' if rule.better == 'higher' else 'up'} to {rule.format_value(change.peak)}"

    def _since(self, problem: Problem) -> str:
        """Return since when a problem lasted, and for how long its alert was active, with the window that it uses."""
        began = f"{new_york(problem.began_us)} New York ({clock.instant(problem.began_us):%H:%M} UTC)"
        lasted, over = (
            self.lasted(problem.began_us, problem.over_us),
            over_window(problem.rule, problem.worst.worst.source),
        )
        if problem.over_us is None:
            return f"{began}; still active at the end of the data, after {lasted}."
        length = formatting.duration(over.total_seconds()) if over else ""
        window = (
            f" (the alert looks back over {length}, so it resolves up to {length} after the problem)" if over else ""
        )
        return f"{began}; the alert {problem.how} at {new_york(problem.over_us)}, after {lasted}{window}."

    @property
    def answer(self) -> TextBlock:
        """The verdict, what was broken, since when, whose fault it was, what still worked, and what to do first."""
        report, lines = self.report, list[str | tuple[str, str]]()
        if report.partial:
            end = formatting.moment(report.view.window.end)
            lines.append(("PARTIAL", f"the market was still open; the data ends at {end}."))
        if report.incomplete:
            lines.append(("INCOMPLETE", f"{report.incomplete}."))
        severities = [f.severity for f in report.view.findings if f.counted]
        severities += [a.worst.severity for a in report.alerts]
        words, verdict = f"{report.day}: {describe_verdict(report.verdict, severities)}", report.verdict
        if self.problems:
            worst = min(self.problems, key=lambda p: p.order[1:])
            words += f". {_sentence(self._extreme(worst))}"
            lines.append(("Since when", self._since(worst)))
            sure = formatting.ratio(worst.found.confidence, 0)
            lines += [
                ("Cause", f"{worst.found.headline} Fault: {worst.whose} (confidence {sure})."),
                (
                    f"Still worked at {new_york(worst.worst.worst.fired_us)}, when it was worst",
                    f"{', '.join(worst.works) or 'nothing that was measured'}.",
                ),
            ]
            over = [self._in_short(p) for p in self.problems if p is not worst and p.over_us is not None]
            lines += [("Also broken", f"{'; '.join(over)}.")] if over else []
            active = [self._in_short(p) for p in self.problems if p.over_us is None]
            lines.append(("Still broken at the end", f"{'; '.join(active) or 'nothing, no such alert is active'}."))
            first = min(self.problems, key=lambda p: p.order)
            todo = self.first_action(first)
            action = todo.action.rstrip(".")
            lines.append(("Do first", f"{todo.who}: {action[0].lower()}{action[1:]} ({first.name})."))
        elif not report.session:
            lines.append("No data was expected.")
        else:
            lines.append("No alert required a notification.")
            lines += [("Do first", item) for item in report.action_items[:1]]
        return answer(verdict, words, [*lines, *report.restated])

    @property
    def figures(self) -> TextBlock:
        """Six figures of the whole session, each with its threshold and its change against the usual."""
        return key_figures([*(self._figure(*row) for row in FIGURES), self._socket])

    def _figure(self, label: str, rule: str, subject: str, name: str, unit: str) -> KeyFigure:
        value = next(section[name] for section in self.report.figures.values() if name in section)
        found = next(
            (f for f in self.report.view.findings if (f.rule.name, f.subject, f.source) == (rule, subject, "page")),
            None,
        )
        if name == "backtest_variance_pp" and self.report.view.fills_pnl is not None:
            found = next((f for f in self.report.view.findings if f.source == "fills"), None)
        shown = formatting.number(value, unit, 0 if name == "system_errors" else 2)
        if value is None or found is None or found.verdict == "unknown":
            why = self.report.unknown.get(name, "")
            return KeyFigure(label, shown, "unknown", (why,) if why else ())
        threshold = _threshold(found.rule, found.severity)
        if name == "system_errors" and found.figure.value is not None:  # Its thresholds are per hour.
            threshold = f"{found.rule.format_value(found.figure.value)}, {threshold}"
        return KeyFigure(label, shown, found.severity or found.verdict, (threshold, self._usual(name)))

    def _usual(self, name: str) -> str:
        """Return the usual range of a figure, or without one its change since the previous trading day."""
        found, digits = self.report.changes[name], 0 if name == "system_errors" else 2
        if found["usual_low"] is not None:
            return f"usual {found['usual_low']:,.{digits}f} to {found['usual_high']:,.{digits}f}"
        if found["previous"] is None or found["value"] is None:
            return "usual range unknown"
        return f"day before {found['previous']:,.{digits}f} ({found['value'] - found['previous']:+z,.{digits}f})"

    @property
    def _socket(self) -> KeyFigure:
        """The longest time in which a page's WebSocket was down."""
        view, rule = self.report.view, self.rules["websocket_down"]
        label = "WebSocket, longest time down"
        if view.figures["system"]["websocket_down_seconds"] is None:
            return KeyFigure(label, formatting.UNKNOWN, "unknown")
        spans = view.counters.websocket_down_spans(view.window)
        longest = max(((b - a) / clock.SECOND for a, b in spans), default=0.0)
        reached = [s for s, limit in rule.thresholds if not isinstance(limit, str) and rule.crosses(longest, limit)]
        count = f"{len(spans)} time{'' if len(spans) == 1 else 's'} in the session, measured by the app page"
        return KeyFigure(
            label,
            formatting.duration(longest),
            reached[-1] if reached else "ok",
            (_threshold(rule, reached[-1] if reached else None), count),
        )

    @property
    def chart(self) -> TextBlock:
        """Every alert of the session as a bar: the problems first, then their consequences."""
        window = self.report.view.window
        groups: dict[tuple[bool, str, str], list[AlertEpisode]] = {}
        problems = {(p.rule.name, p.subject) for p in self.problems}
        for a in self.report.alerts:
            key = a.worst.rule, a.worst.subject
            groups.setdefault((key not in problems, *key), []).append(a)
        rows = [self._row(rule, subject, found) for (_, rule, subject), found in sorted(groups.items(), key=_by_time)]
        rows += self._gaps
        hollow = any(bar.hollow for row in rows for bar in row.bars)
        notes = [
            "The figures above are over the whole session. Each bar is an alert: thin and grey from the beginning of "
            "its problem until it fired, then thicker with its severity ("
            + ", ".join(f"{formatting.SIGNS[s]} {s}" for s in SEVERITIES)
            + (
                "). Bars that are not filled are consequences of another alert; nobody was notified of them."
                if hollow
                else ")."
            )
        ]
        title = f"Alerts of the {self.report.words}" if rows else f"No alert fired: {self.report.words}."
        return timeline(title, window, rows, notes)

    def _row(self, rule: str, subject: str, found: list[AlertEpisode]) -> TimelineRow:
        mine = [a for a in found if not a.worst.inhibited_by] or found
        worst = max(mine, key=lambda a: SEVERITIES.index(a.worst.severity)).worst.severity
        began = min(a.began_us for a in found)
        over = None if any(a.over_us is None for a in found) else max(a.over_us or 0 for a in found)
        sources = list(dict.fromkeys(source_name(a.worst.source) for a in found))
        bars = [bar for a in found for bar in self._bars(a, sources.index(source_name(a.worst.source)))]
        if problem := next((p for p in self.problems if (p.rule.name, p.subject) == (rule, subject)), None):
            began, over = problem.began_us, problem.over_us  # The same times as in the answer above it.
        whole = self.lasted(began, over)
        at_peak = in_minutes(seconds_at(worst, mine, self.report.view.window.end_us))
        label = titled(self.rules[rule], subject) if rule in self.rules.rules else rule
        peak = "" if at_peak == whole else f"for {at_peak}"
        beside = tuple(sources) if len(sources) > 1 else ()
        return TimelineRow(label, worst, f"{when(began, over)}, {whole}", tuple(bars), peak, beside)

    def _bars(self, episode: AlertEpisode, lane: int) -> list[Bar]:
        """Return the bars of an alert: the time before it fired, then each stretch with its severity there."""
        window, hollow = self.report.view.window, bool(episode.worst.inhibited_by)
        source = source_name(episode.worst.source)

        def bar(since_us: int, until_us: int, state: str, words: str, thickness: int) -> Bar:
            text = f"{words} {new_york(since_us)}–{new_york(until_us)}, {source}"
            return Bar(clock.instant(since_us), clock.instant(until_us), state, thickness, hollow, lane, text)

        parts = segments(episode.changes, window.end_us)
        pending = [bar(episode.began_us, parts[0].since_us, "unknown", "not fired yet", 1)] if parts else []
        return pending + [
            bar(p.since_us, p.until_us, p.change.severity, p.change.severity, 1 + SEVERITIES.index(p.change.severity))
            for p in sorted(parts, key=lambda p: SEVERITIES.index(p.change.severity))
        ]

    @property
    def _gaps(self) -> list[TimelineRow]:
        """A row for the time without snapshots, if there is any."""
        gaps = self.report.view.counters.gaps(self.report.view.window)
        if not gaps:
            return []
        whole = formatting.duration(sum(g.seconds for g in gaps))
        bars = tuple(Bar(g.start, g.end, "unknown", 4, True, 0, "no snapshots") for g in gaps)
        return [
            TimelineRow("no snapshots", "unknown", f"{len(gaps)} gap{'' if len(gaps) == 1 else 's'}, {whole}", bars)
        ]

    @property
    def links(self) -> TextBlock | None:
        """
        Links to the incidents of the alerts: page, runbook and postmortem, where the files exist or are being made.

        They are relative to the place of a published page, so a notebook that a person has open shows none.
        """
        if not os.environ.get(UNATTENDED):
            return None
        found, meanwhile = [], os.environ.get(MADE_MEANWHILE, "").split(os.pathsep)
        alerts = {str(a.worst.alert) for a in self.report.alerts}
        for name in sorted({incident for alert, incident in self.report.view.incidents.items() if alert in alerts}):
            folder = places.incident(self.report.settings, name)
            for path in [folder / "incident.html", *sorted(folder.glob("[0-9]*_*.html")), folder / "postmortem.html"]:
                if path.exists() or str(path) in meanwhile:
                    kind = {"incident": "Incident", "postmortem": "Postmortem of"}.get(path.stem)
                    words = f"{kind} {name}" if kind else f"Runbook {path.stem.partition('_')[2]} of {name}"
                    found.append((words, f"../../incidents/{name}/{path.name}"))
        return links(found) if found else None


def _by_time(group: tuple[tuple[bool, str, str], list[AlertEpisode]]) -> tuple[bool, int]:
    (consequence, _, _), found = group
    return consequence, min(a.began_us for a in found)


def _sentence(words: str) -> str:
    return words[:1].upper() + words[1:]
