"""Show the alerts of a period: which are active, which fired, which rules were noisiest."""

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any

from opslib.alerting import alert_ids, effects, evaluation, evaluator, history
from opslib.alerting import replay as alerting_replay
from opslib.alerting.alert_ids import source_name
from opslib.alerting.alerts import GRID_US, Alert, Alerts, worse
from opslib.alerting.effects import Graded
from opslib.alerting.history import SeverityChange
from opslib.alerting.store import AlertStore
from opslib.alerting.verdicts import Finding, named
from opslib.dashboard import status
from opslib.dashboard.status import Status
from opslib.dashboard.text_blocks import TextBlock, bullet_list, table
from opslib.foundation import clock, formatting, market_calendar, time_parsing
from opslib.foundation.clock import Window
from opslib.foundation.config.rules import Rules
from opslib.foundation.config.settings import Settings
from opslib.foundation.config.workspace import Workspace
from opslib.foundation.storage.database import Database
from opslib.incidents.lifecycle import Incidents
from opslib.telemetry.markers import Marker, Markers
from opslib.telemetry.pages import counters
from opslib.telemetry.pages.store import SnapshotStore
from opslib.telemetry.probes import history as probes_history
from opslib.telemetry.probes.store import SampleStore

DIAGNOSED = timedelta(minutes=10)  # The window of the diagnosis of active alerts.


@dataclass(frozen=True)
class Timeline:
    """A chart of when alerts fired in one session."""

    changes: list[SeverityChange]
    window: Window
    rules: Rules
    marks: tuple[Marker, ...] = ()

    def __repr__(self) -> str:
        rows = len(dict.fromkeys((r.rule, r.subject) for r in self.changes))
        return (
            f"{self.window}: {rows} rule{'' if rows == 1 else 's'} fired" if rows else f"{self.window}: no alert fired"
        )

    def _ipython_display_(self) -> None:
        from opslib.dashboard import charts

        notified = "; ".join(
            f"{r.severity} {_local(formatting.iso(clock.instant(r.fired_us)))} "
            f"{named(self.rules[r.rule], r.subject) if r.rule in self.rules.rules else r.rule}"
            for r in self.changes
            if r.sent
        )
        charts.show(
            {"text/plain": repr(self)},
            lambda ax: charts.with_markers(charts.alerts(ax, self.changes, self.window, self.rules), self.marks),
            "alerts over time",
            f"Alerts over time: {notified or 'nobody was notified'}",
        )


@dataclass(frozen=True)
class AlertLog:
    """
    The alerts of one app over a window.

    Attributes:
        window: The period, (start, end]; its end is the moment of the log.
        changes: Every severity change that fired in it or was still firing, in the order in which they fired.
        active: Every alert that is active at its end, worst first.
        severity_since: Since when each of them has its severity, by alert; microseconds since 1970.
        missing: Why the log does not cover the window; empty where it does.
        budgets: Measures the burn rate of each budget at its end. It reads a day of data, so it is called on demand.
        rules: The rules in effect.
        incidents: The incident of each alert.
        marks: The markers of the window.
        measured: Measures the values of the active alerts at its end, by alert. It reads data, so it is called on
            demand.
        diagnosed: Determines the causes at its end, which decide what to do first. It is called on demand, too.
    """

    app: str
    window: Window
    changes: list[SeverityChange]
    active: list[dict[str, Any]]
    severity_since: Mapping[str, int]
    missing: str
    budgets: Callable[[], list[Finding]]
    rules: Rules
    incidents: Mapping[str, str]
    marks: tuple[Marker, ...]
    measured: Callable[[], Mapping[str, float]]
    diagnosed: Callable[[], Sequence[Graded]] = tuple

    @cached_property
    def causes_now(self) -> Sequence[Graded]:
        """The causes at the end of the window, where an alert is active."""
        return self.diagnosed() if self.active else ()

    @cached_property
    def values_now(self) -> Mapping[str, float]:
        """The value of each active alert at the end of the window, where it is known."""
        return self.measured() if self.active else {}

    def as_json(self) -> list[dict[str, Any]]:
        """Return the rows of ``ops alerts -o json`` in CONTRACT.md."""
        return [change.as_json(self.rules, self.incidents.get(change.alert)) for change in self.changes]

    @property
    def summary(self) -> TextBlock:
        """The active alerts, each with what to do."""
        loud = [
            a for a in self.active if a["state"] != "pending" and a["severity"] != "warning" and not a["inhibited_by"]
        ]
        quiet = [a for a in self.active if a not in loud]
        head = f"{self.app}, {formatting.moment(self.window.end)}: " + (
            f"{len(loud)} alert{'s' if len(loud) > 1 else ''} to act on" if loud else "no alert to act on"
        )
        if quiet:
            others = f"{len(quiet)} other{'s' if len(quiet) > 1 else ''}" if loud else str(len(quiet))
            head += f"; {others} {'are' if len(quiet) > 1 else 'is'} active, and nobody is notified of them"

        def since(alert: dict[str, Any]) -> str:
            return history.describe_since(alert, self.severity_since.get(alert["id"]), self.window.end)

        lines = [f"{since(a)}: {self._what_to_do(a)}" for a in loud]
        lines += [f"{since(a)}: {self._sentence(a)}{_inhibited(a['inhibited_by'], self.rules.titles)}" for a in quiet]
        return bullet_list(head, ([self.missing] if self.missing else []) + lines)

    def _what_to_do(self, alert: dict[str, Any]) -> str:
        rule = self.rules.rules.get(alert["rule"])  # The alert may be from an earlier table, without its rule now.
        sentence = self._sentence(alert)
        if rule is None:
            return f"{sentence}. Its rule is no longer in rules.toml"
        cause = effects.cause_of_alert(self.causes_now, rule.name, alert["subject"], alert["source"])
        first = effects.first_action(cause, rule.name, alert["subject"], self.rules)
        return f"{sentence}. {first.with_runbook}"

    def _sentence(self, alert: dict[str, Any]) -> str:
        """Return an alert's sentence with its value when it fired and, if that changed, the value now."""
        sentence = alert["sentence"] or f"{alert['rule']} of {alert['subject']}"
        rule, value = self.rules.rules.get(alert["rule"]), self.values_now.get(alert["id"])
        if rule is None or value is None or alert["state"] == "pending" or rule.format_value(value) in sentence:
            return sentence
        return f"{sentence} when it fired, {rule.format_value(value)} now"

    def _worst(self, change: SeverityChange) -> SeverityChange:
        """Return a severity change with the worst value that is known, the value now included while it lasts."""
        value = self.values_now.get(change.alert) if change.over_us is None else None
        if value is None or change.rule not in self.rules.rules:
            return change
        return replace(change, peak=worse(self.rules[change.rule], change.peak, value))

    @property
    def fired(self) -> TextBlock:
        """Every severity change of the window: when it fired, its worst value, how long it lasted, its state."""
        rows = [
            [
                _local(formatting.iso(clock.instant(r.fired_us))),
                r.severity,
                self._worst(r).worst_sentence(self.rules),
                source_name(r.source),
                _state(r, self.rules.titles),
            ]
            for r in self.changes
        ]
        days = self.window.seconds / 86_400
        length = f"{days:g} days" if days > 1 and days.is_integer() else formatting.duration(self.window.seconds)
        return table(
            f"Alerts fired from {formatting.moment(self.window.start)} to {formatting.moment(self.window.end)} "
            f"({length}{_clock_change(self.window)}). Each row is a severity that an alert reached.",
            [
                "fired (New York)",
                "severity",
                "condition, with the worst value until the severity ended (burn rate: value when it fired)",
                "source",
                "state",
            ],
            rows,
            "no alert fired",
        )

    @property
    def timeline(self) -> Timeline:
        """A chart of the newest session of the window: which alerts overlapped, and which were inhibited."""
        spans = market_calendar.open_spans(self.window)
        window = spans[-1] if spans else self.window
        return Timeline(
            history.within(self.changes, window.start_us, window.end_us),
            window,
            self.rules,
            tuple(m for m in self.marks if window.start_us < m.ts_us <= window.end_us),
        )

    @property
    def noisiest(self) -> TextBlock:
        """How often each rule notified people, only recorded an alert, or was inhibited."""
        names = dict.fromkeys(r.rule for r in self.changes)
        mine = {name: [r for r in self.changes if r.rule == name] for name in names}

        def count(name: str, keep: Callable[[SeverityChange], bool]) -> int:
            return sum(1 for r in mine[name] if keep(r))

        rows = [
            [
                name,
                str(count(name, lambda r: r.sent)),
                str(count(name, lambda r: not r.sent and not r.inhibited_by)),
                str(count(name, lambda r: bool(r.inhibited_by))),
            ]
            for name in names
        ]
        return table(
            "Noisiest rules",
            ["rule", "notified", "recorded only", "inhibited"],
            sorted(rows, key=lambda r: (-int(r[1]), -int(r[2]), r[0])),
            "no alert fired",
        )

    @property
    def lead_times(self) -> TextBlock:
        """How long after its problem began each severity fired."""
        rows = [
            [
                _local(formatting.iso(clock.instant(r.fired_us))),
                r.rule,
                r.subject,
                r.severity,
                formatting.duration((r.fired_us - r.pending_us) / 1e6),
            ]
            for r in self.changes
        ]
        waits = [(r.fired_us - r.pending_us) / 1e6 for r in self.changes]
        middle = (
            f": median {formatting.duration(statistics.median(waits))}, longest {formatting.duration(max(waits))}"
            if waits
            else ""
        )
        return table(
            f"Time from the beginning of the problem to firing{middle}",
            ["fired (New York)", "rule", "subject", "severity", "after it began"],
            rows,
            "no alert fired",
        )

    @property
    def burning(self) -> TextBlock:
        """The burn rate of each error budget, over both windows of each severity."""
        rows = []
        for f in self.budgets():
            for severity, limit in f.rule.thresholds:
                assert f.rule.burn
                long, short = f.rule.burn.windows[severity]
                spent = f.figure.spent[severity] if f.figure.spent else None
                rates = [
                    f"{f.rule.format_value(None if spent is None else v)} over {formatting.duration(w.total_seconds())}"
                    for v, w in ((spent and spent.long, long), (spent and spent.short, short))
                ]
                breached = "unknown" if spent is None or spent.bound is None else "no"
                if f.severity == severity:
                    breached = "yes"
                rows.append(
                    [
                        f.rule.title,
                        f.subject,
                        severity,
                        f.rule.format_limit(limit),
                        *rates,
                        breached,
                    ]
                )
        return table(
            "Error budgets",
            ["budget", "subject", "severity", "threshold", "long window", "short window", "breached"],
            rows,
            "no rule has an error budget",
        )

    def __repr__(self) -> str:
        return "\n\n".join(repr(part) for part in (self.summary, self.fired))


def _clock_change(window: Window) -> str:
    """Return a remark if the clocks of New York changed within a window; without it its two ends seem not to match."""
    start, end = (at.astimezone(formatting.NEW_YORK).utcoffset() for at in (window.start, window.end))
    return "" if start == end else "; New York's clocks changed in between"


def _local(iso: str) -> str:
    return f"{time_parsing.parse(iso).astimezone(formatting.NEW_YORK):%m-%d %H:%M:%S}"


def _state(change: SeverityChange, titles: Mapping[str, str]) -> str:
    """Return the state of a severity change, how long it lasted, and what inhibited it."""
    state = f"no longer {change.severity}" if change.state == "fell" else change.state
    if change.over_us is not None:
        state += f" after {formatting.duration((change.over_us - change.fired_us) / 1e6)}"
    if change.released_us is not None:
        state += f" (inhibited until {_local(formatting.iso(clock.instant(change.released_us)))})"
    return state + _inhibited(change.inhibited_by, titles)


def _inhibited(by: str | None, titles: Mapping[str, str]) -> str:
    return f" (inhibited by {alert_ids.describe(by, titles)})" if by else ""


def alertlog(
    store: Database,
    settings: Settings,
    rules: Rules,
    window: Window,
    *,
    known_at: datetime | None = None,
    replay: bool = False,
    progress: Callable[[Iterable[Any]], Iterable[Any]] = lambda items: items,
    diagnose: Callable[[Status], Sequence[Graded]] = lambda view: (),
) -> AlertLog:
    """
    Load the alerts of a window.

    Args:
        known_at: Only what was recorded, or in the database, by then.
        replay: Re-evaluate with the current data and rules, instead of reading the record.
        progress: Wraps the evaluation times of a replay.
        diagnose: Returns the causes at the end of a view; see `diagnosis.Diagnosis.each`. Without it, what to do first
            is what the rules say.
    """
    if replay:
        known_us = None if known_at is None else clock.micros(known_at)
        part = evaluator.data_range(store, settings.app, window.start_us, window.end_us) or (
            window.start_us,
            window.start_us,
        )
        found, alerts = alerting_replay.replay_session(store, settings, rules, *part, known_us, progress)
        rows, missing = (
            history.severity_changes(found, rules, alerts),
            "" if SnapshotStore(store).first_ts(settings.app) is not None else "no snapshot has been received yet",
        )
    else:
        record = AlertStore(store, settings.app)
        evaluated = record.evaluated()
        found = history.load_transitions(record, window.start_us, window.end_us, known_at)
        newest = evaluated is not None and evaluated[1] <= window.end_us and known_at is None
        active = Alerts(rules, [Alert.of_json(state) for state in record.states()]) if newest else None
        rows, missing = (
            history.severity_changes(found, rules, active),
            _missing(evaluated, window, SnapshotStore(store).first_ts(settings.app)),
        )
    active_now = history.active_alerts(found, rules)
    return AlertLog(
        settings.app,
        window,
        history.within(rows, window.start_us, window.end_us),
        active_now,
        history.severity_since(found),
        missing,
        lambda: _budgets(store, settings, rules, window.end, known_at),
        rules,
        Incidents(store, settings, rules).of_alerts(),
        tuple(Markers(store, settings).between(window.start_us, window.end_us)),
        lambda: _values(store, settings, rules, window.end, known_at, active_now),
        lambda: diagnose(status.status(store, settings, rules, as_of=window.end, length=DIAGNOSED, known_at=known_at)),
    )


def log_of(
    workspace: Workspace,
    as_of: str | datetime | None = None,
    window: str = "7d",
    known_at: str | datetime | None = None,
    *,
    since: str | datetime | None = None,
    replay: bool = False,
    progress: Callable[[Iterable[Any]], Iterable[Any]] = lambda items: items,
    diagnose: Callable[[Status], Sequence[Graded]] = lambda view: (),
) -> AlertLog:
    """
    Load the alerts of a window, from arguments as people type them.

    Args:
        as_of: The moment of the log; empty is now.
        window: The length of the window before it, such as ``7d``; ignored where `since` is given.
        known_at: Only what was known, or recorded, by then; empty is all.
        replay: Re-evaluate with the current data and rules, instead of reading the record.
        progress: Wraps the evaluation times of a replay.
        diagnose: Returns the causes at the end of a view; see `alertlog`.
    """
    end, begin = (
        time_parsing.instant_of(as_of) or workspace.now(),
        time_parsing.parse(since) if isinstance(since, str) and since else time_parsing.instant_of(since),
    )
    span = Window(begin, end) if begin else Window.before(end, time_parsing.parse_span(window))
    return alertlog(
        workspace.store,
        workspace.settings,
        workspace.rules,
        span,
        known_at=time_parsing.instant_of(known_at),
        replay=replay,
        progress=progress,
        diagnose=diagnose,
    )


def _budgets(
    store: Database, settings: Settings, rules: Rules, at: datetime, known_at: datetime | None
) -> list[Finding]:
    """Measure the burn rate of each error budget at a moment."""
    reach = Window.before(at, max(rule.window for rule in rules.rules.values()))
    counter_history = counters.load(
        store, settings.app, reach, known_at, rules.pages, post_every_s=settings.post_every_s, wired=settings.wired
    )
    return [f for f in evaluation.evaluate_rules(counter_history, rules, at) if f.rule.burn]


def _values(
    store: Database,
    settings: Settings,
    rules: Rules,
    at: datetime,
    known_at: datetime | None,
    active: list[dict[str, Any]],
) -> dict[str, float]:
    """Measure the figures of active alerts at a moment, each as its alert evaluates it; burn rates are left out."""
    names = {a["rule"] for a in active if a["rule"] in rules.rules and not rules[a["rule"]].burn}
    only = replace(rules, rules={name: rules[name] for name in rules.rules if name in names})
    reach = Window.before(at, max((rule.window for rule in only.rules.values()), default=timedelta(0)))
    counter_history = counters.load(
        store, settings.app, reach, known_at, rules.pages, post_every_s=settings.post_every_s, wired=settings.wired
    )
    probed = probes_history.load(SampleStore(store, settings.app), reach, known_at, settings.fallback)
    found = {
        (f.rule.name, f.subject, f.source): f.figure.value
        for f in evaluation.evaluate_rules(counter_history, only, at, probed if probed.any else None)
    }
    values = {a["id"]: found.get((a["rule"], a["subject"], a["source"])) for a in active}
    return {name: value for name, value in values.items() if value is not None}


def _missing(evaluated: tuple[int, int] | None, window: Window, first_us: int | None) -> str:
    """Return which part of a window's market hours was not evaluated; empty where all was, from the first snapshot."""
    if evaluated is None:
        return "no alerts have been evaluated here: start ops collect, or re-evaluate with --replay"
    begun, upto = clock.instant(evaluated[0]), clock.instant(evaluated[1])
    seen = max(window.start, min(window.end, clock.instant(first_us) if first_us is not None else window.end))
    early = market_calendar.open_spans(Window(seen, min(max(begun, seen), window.end)))
    late = market_calendar.open_spans(Window(max(min(upto, window.end), window.start), window.end))
    if not early and sum(span.seconds for span in late) <= 2 * GRID_US / 1e6 + 5:
        return ""
    return (
        f"alerts were evaluated only from {formatting.moment(begun)} to {formatting.moment(upto)}; "
        f"use --replay to evaluate the rest"
    )
