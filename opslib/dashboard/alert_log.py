"""Show what alerts did over a stretch of time: which are active, which fired, which rules were noisiest."""

import statistics
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from opslib.alerting import alerts as watch
from opslib.alerting import evaluation, evaluator, history
from opslib.alerting import replay as alerting_replay
from opslib.alerting.alerts import Alert, Alerts
from opslib.alerting.history import SeverityChange
from opslib.alerting.store import AlertStore
from opslib.alerting.verdicts import Finding, named
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


@dataclass(frozen=True)
class Timeline:
    """When alerts fired in one session, as a picture."""

    rises: list[SeverityChange]
    window: Window
    rules: Rules
    marks: tuple[Marker, ...] = ()

    def __repr__(self) -> str:
        rows = dict.fromkeys((r.rule, r.subject) for r in self.rises)
        return f"{self.window}: {len(rows)} rules fired" if rows else f"{self.window}: nothing fired"

    def _ipython_display_(self) -> None:
        from opslib.dashboard import charts

        told = "; ".join(
            f"{r.severity} {_local(formatting.iso(clock.instant(r.fired_us)))} "
            f"{named(self.rules[r.rule], r.subject) if r.rule in self.rules.rules else r.rule}"
            for r in self.rises
            if r.sent
        )
        charts.show(
            {"text/plain": repr(self)},
            lambda ax: charts.with_markers(charts.alerts(ax, self.rises, self.window, self.rules), self.marks),
            "alerts over time",
            f"Alerts over time: {told or 'nothing was told'}",
        )


@dataclass(frozen=True)
class AlertLog:
    """
    The alerts of one app over a window.

    Attributes:
        window: What is asked about, (start, end]; its end is the moment of the log.
        rises: Every rise that fired in it, or still did, in the order in which they fired.
        standing: How every alert stands at its end, worst first.
        lacking: Why the log does not cover the window; empty where it does.
        budgets: Measures how fast each budget is spent at its end; it reads a day, so only who shows it asks.
        rules: The limits in force.
        incidents: Which incident each alert is in.
        marks: What somebody said happened in the window.
    """

    app: str
    window: Window
    rises: list[SeverityChange]
    standing: list[dict[str, Any]]
    lacking: str
    budgets: Callable[[], list[Finding]]
    rules: Rules
    incidents: Mapping[str, str]
    marks: tuple[Marker, ...]

    def as_json(self) -> list[dict[str, Any]]:
        """The rows of CONTRACT.md's ``ops alerts``."""
        return [rise.as_json(self.rules, self.incidents.get(rise.alert)) for rise in self.rises]

    @property
    def answer(self) -> TextBlock:
        """What fires now, and what does it say to do?"""
        loud = [
            a for a in self.standing if a["state"] != "pending" and a["severity"] != "warning" and not a["inhibited_by"]
        ]
        head = f"{self.app}, {formatting.moment(self.window.end)}: " + (
            f"{len(loud)} alert{'s' if len(loud) > 1 else ''} to act on" if loud else "nothing to act on"
        )
        lines = [f"{a['severity']}, since {_local(a['since'])}: {self._what_to_do(a)}" for a in loud]
        quiet = [a for a in self.standing if a not in loud]
        lines += [
            f"{a['state']}, {a['severity']}, since {_local(a['since'])}: {a['sentence']}{_explained(a['inhibited_by'])}"
            for a in quiet
        ]
        return bullet_list(head, ([self.lacking] if self.lacking else []) + lines)

    def _what_to_do(self, alert: dict[str, Any]) -> str:
        rule = self.rules.rules.get(alert["rule"])  # Recorded under an earlier table, its rule may be gone.
        sentence = alert["sentence"] or f"{alert['rule']} of {alert['subject']}"
        return (
            f"{sentence}. {rule.action} ({rule.who}; runbook {alert['runbook']})"
            if rule
            else f"{sentence}. Its rule is no longer in rules.toml"
        )

    @property
    def fired(self) -> TextBlock:
        """Every rise of the window: when, how long it took, how bad it became, how it ended."""
        rows = [
            [
                _local(formatting.iso(clock.instant(r.fired_us))),
                r.severity,
                r.told(self.rules),
                "still" if r.over_us is None else formatting.duration((r.over_us - r.fired_us) / 1e6),
                r.state,
                r.inhibited_by or "",
            ]
            for r in self.rises
        ]
        return table(
            f"Fired, {self.window}",
            ["fired (New York)", "severity", "what, at its worst", "for", "now", "explained by"],
            rows,
            "nothing fired",
        )

    @property
    def timeline(self) -> Timeline:
        """The newest session of the window, as a picture: which alerts overlapped, and which explained another away?"""
        spans = market_calendar.open_spans(self.window)
        window = spans[-1] if spans else self.window
        return Timeline(
            history.within(self.rises, window.start_us, window.end_us),
            window,
            self.rules,
            tuple(m for m in self.marks if window.start_us < m.ts_us <= window.end_us),
        )

    @property
    def noisiest(self) -> TextBlock:
        """Which rules told people most often, and which only took note?"""
        names = dict.fromkeys(r.rule for r in self.rises)
        mine = {name: [r for r in self.rises if r.rule == name] for name in names}

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
            ["rule", "told", "only noted", "explained away"],
            sorted(rows, key=lambda r: (-int(r[1]), -int(r[2]), r[0])),
            "nothing fired",
        )

    @property
    def lead_times(self) -> TextBlock:
        """Of each rise, how long its figure was past the limit before anybody could be told."""
        rows = [
            [
                _local(formatting.iso(clock.instant(r.fired_us))),
                r.rule,
                r.subject,
                r.severity,
                f"{(r.fired_us - r.pending_us) / 1e6:g}",
            ]
            for r in self.rises
        ]
        waits = [(r.fired_us - r.pending_us) / 1e6 for r in self.rises]
        middle = f"; median {statistics.median(waits):g} s, longest {max(waits):g} s" if waits else ""
        return table(
            f"Past the limit before it fired{middle}",
            ["fired (New York)", "rule", "subject", "severity", "seconds"],
            rows,
            "nothing fired",
        )

    @property
    def burning(self) -> TextBlock:
        """How fast is each budget spent, over both windows of each rung?"""
        rows = []
        for f in self.budgets():
            for rung, limit in f.rule.ladder:
                assert f.rule.burn
                long, short = f.rule.burn.windows[rung]
                spent = f.figure.spent[rung] if f.figure.spent else None
                told = [
                    f"{f.rule.told(None if spent is None else v)} over {formatting.duration(w.total_seconds())}"
                    for v, w in ((spent and spent.long, long), (spent and spent.short, short))
                ]
                past = "unknown" if spent is None or spent.bound is None else "no"
                if f.severity == rung:
                    past = "yes"
                rows.append(
                    [
                        f.rule.title,
                        f.subject,
                        rung,
                        f.rule.limit_told(limit),
                        *told,
                        past,
                    ]
                )
        return table(
            "Budgets",
            ["budget", "of", "rung", "limit", "long window", "short window", "past it"],
            rows,
            "no budget is kept",
        )

    def __repr__(self) -> str:
        return "\n\n".join(repr(part) for part in (self.answer, self.fired))


def _local(iso: str) -> str:
    return f"{time_parsing.parse(iso).astimezone(formatting.NEW_YORK):%m-%d %H:%M:%S}"


def _explained(by: str | None) -> str:
    return f" (explained by {by})" if by else ""


def alertlog(
    store: Database,
    settings: Settings,
    rules: Rules,
    window: Window,
    *,
    known_at: datetime | None = None,
    replay: bool = False,
    progress: Callable[[Iterable[Any]], Iterable[Any]] = lambda items: items,
) -> AlertLog:
    """
    What did alerts do over a window?

    Args:
        known_at: Only what was on record, or in the store, by then.
        replay: Judge anew, by the data and rules now at hand, instead of reading the record.
        progress: Wraps the instants of a replay.
    """
    if replay:
        known_us = None if known_at is None else clock.micros(known_at)
        part = evaluator.held(store, settings.app, window.start_us, window.end_us) or (window.start_us, window.start_us)
        found, alerts = alerting_replay.replay_session(store, settings, rules, *part, known_us, progress)
        rows, lacking = (
            history.read(found, rules, alerts),
            "" if SnapshotStore(store).first_ts(settings.app) is not None else "no look has ever come",
        )
    else:
        record = AlertStore(store, settings.app)
        judged = record.judged()
        found = history.recorded(record, window.start_us, window.end_us, known_at)
        newest = judged is not None and judged[1] <= window.end_us and known_at is None
        standing = Alerts(rules, [Alert.of_json(state) for state in record.states()]) if newest else None
        rows, lacking = (
            history.read(found, rules, standing),
            _lacking(judged, window, SnapshotStore(store).first_ts(settings.app)),
        )
    return AlertLog(
        settings.app,
        window,
        history.within(rows, window.start_us, window.end_us),
        history.active_alerts(found, rules),
        lacking,
        lambda: _budgets(store, settings, rules, window.end, known_at),
        rules,
        Incidents(store, settings, rules).of_alerts(),
        tuple(Markers(store, settings).between(window.start_us, window.end_us)),
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
) -> AlertLog:
    """
    What alerts did.

    Args:
        as_of: The moment of the log; empty is now.
        window: How far it looks back from there, such as ``7d``; or from `since`.
        known_at: Only what was known, or on record, by then; empty is all.
        replay: Evaluate anew, by the data and rules now at hand, instead of reading the record.
        progress: Wraps the instants of a replay.
    """
    end, begin = (
        time_parsing.instant_of(as_of) or workspace.now(),
        time_parsing.parse(since) if isinstance(since, str) and since else time_parsing.instant_of(since),
    )
    asked = Window(begin, end) if begin else Window.before(end, time_parsing.parse_span(window))
    return alertlog(
        workspace.store,
        workspace.settings,
        workspace.rules,
        asked,
        known_at=time_parsing.instant_of(known_at),
        replay=replay,
        progress=progress,
    )


def _budgets(
    store: Database, settings: Settings, rules: Rules, at: datetime, known_at: datetime | None
) -> list[Finding]:
    """How fast is each budget spent, at a moment?"""
    reach = Window.before(at, max(rule.window for rule in rules.rules.values()))
    tape = counters.load(
        store, settings.app, reach, known_at, rules.pages, post_every_s=settings.post_every_s, wired=settings.wired
    )
    return [f for f in evaluation.evaluate_rules(tape, rules, at) if f.rule.burn]


def _lacking(judged: tuple[int, int] | None, window: Window, first_us: int | None) -> str:
    """Which part of a window did nobody judge? Empty where all of its open market was, from the first look on."""
    if judged is None:
        return "no collector has ever judged here (ops collect does); --replay judges anew"
    begun, upto = clock.instant(judged[0]), clock.instant(judged[1])
    seen = max(window.start, min(window.end, clock.instant(first_us) if first_us is not None else window.end))
    early = market_calendar.open_spans(Window(seen, min(max(begun, seen), window.end)))
    late = market_calendar.open_spans(Window(max(min(upto, window.end), window.start), window.end))
    if not early and sum(span.seconds for span in late) <= 2 * watch.GRID_US / 1e6 + 5:
        return ""
    return f"judged only from {formatting.moment(begun)} to {formatting.moment(upto)}; --replay judges the rest anew"
