"""
Draw an incident to scale as SVG: its times, people's actions, alerts, and the figure that breached, on one time axis.

The picture takes its colours from the page's stylesheet, so it follows the light and the dark theme and prints. Every
label has a place of its own: no two overlap, and a state has a sign besides its colour.
"""

import html
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

from opslib.alerting import evaluation, history
from opslib.alerting.alert_ids import source_name
from opslib.alerting.history import SeverityChange
from opslib.alerting.store import AlertStore
from opslib.alerting.verdicts import named
from opslib.dashboard.text_blocks import markdown_to_html
from opslib.foundation import clock, formatting, templates
from opslib.foundation.clock import Window
from opslib.foundation.config.rules import Rule
from opslib.incidents import lifecycle
from opslib.incidents.incident import ENDED, TIMES, Event, Incident, from_entries
from opslib.runbooks import steps
from opslib.runbooks.execution import RunbookRun, StepStatus

if TYPE_CHECKING:
    from opslib.dashboard.status import Status
    from opslib.foundation.config.workspace import Workspace

WIDTH, LEFT, RIGHT = 1060.0, 244.0, 934.0  # The picture, and the part of it that is the time axis.
CHARACTER, BOLD = 6.7, 7.4  # The mean width of a character of the labels (12 px), rounded up.
LINE, ROW, FIGURE_HEIGHT = 17.0, 24.0, 170.0
MOST_ALERTS, MOST_ACTION_ROWS, POINTS = 6, 7, 120
TICKS_S = (60, 120, 300, 600, 900, 1800, 3600, 7200, 10_800, 21_600, 43_200, 86_400)


class Shape(NamedTuple):
    """One element of the picture: its tag, its attributes and its text."""

    tag: str
    attributes: dict[str, str | float]
    words: str = ""


class Moment(NamedTuple):
    """A labelled instant; microseconds since 1970."""

    at_us: int
    words: str


def picture(workspace: "Workspace", incident: Incident, view: "Status", until: datetime) -> str:
    """
    Return the picture of an incident as a part of an HTML page.

    Args:
        view: The status whose window is the time axis.
        until: The end of the incident, or the present time while it is not closed.
    """
    return templates.render(
        "runbooks/templates/incident_chart.html", **_Drawing(workspace, incident, view, until).values()
    )


class _Drawing:
    """The picture, from top to bottom; `y` is where the next part begins."""

    def __init__(self, workspace: "Workspace", incident: Incident, view: "Status", until: datetime):
        self.workspace, self.incident, self.view, self.until = workspace, incident, view, until
        self.window, self.shapes, self.y = view.window, list[Shape](), 0.0

    def values(self) -> dict[str, object]:
        times = [
            Moment(at_us, f"{name} {_clock(at_us)}")
            for name in TIMES
            if (at_us := self.incident.times[name].at_us) is not None and self.window.start_us <= at_us
        ]
        if self.until == self.window.end and self.incident.times["resolved"].at_us is None:
            times.append(Moment(self.window.end_us, f"now {_clock(self.window.end_us)}"))
        lines = self._times(times)
        self._actions()
        self._alerts()
        self._figure()
        self._axis()
        began_us = self.incident.times["began"].at_us or self.incident.since_us
        left, right = self.x(began_us), self.x(clock.micros(self.until))
        span = Shape("rect", {"class": "span", "x": left, "y": 0, "width": max(1, right - left), "height": self.y - 34})
        drawn = [Shape("line", {"class": "time", "x1": x, "x2": x, "y1": top, "y2": self.y - 34}) for x, top in lines]
        return {
            "shapes": [span, *drawn, *self.shapes],
            "width": WIDTH,
            "height": round(self.y),
            "words": f"Timeline of incident {self.incident.id}: " + "; ".join(m.words for m in times),
        }

    # Places.

    def x(self, at_us: int) -> float:
        share = (at_us - self.window.start_us) / (self.window.end_us - self.window.start_us)
        return round(LEFT + min(1.0, max(0.0, share)) * (RIGHT - LEFT), 1)

    def _text(self, x: float, y: float, words: str, kind: str = "", anchor: str = "start") -> None:
        self.shapes.append(
            Shape("text", {"class": kind, "x": round(x, 1), "y": round(y, 1), "text-anchor": anchor}, words)
        )

    def _head(self, words: str) -> None:
        """Write the heading of a part, at the left."""
        self._text(0, self.y + 12, words, "head")

    def _stairs(self, moments: Sequence[Moment], character: float = CHARACTER) -> list[tuple[Moment, int, str]]:
        """
        Give each label a row in which it overlaps no other label, and no line that comes down from a label above.

        Returns:
            Each moment with its row, and ``end`` where its label stands at the left of its instant.
        """
        ends, placed = list[float](), list[tuple[Moment, int, str]]()
        for found in sorted(moments):
            x, width = self.x(found.at_us), len(found.words) * character + 10
            before = x + width > WIDTH
            left = x - width if before else x
            row = next((r for r in range(len(ends)) if all(end <= left - 2 for end in ends[r:])), len(ends))
            ends[row : row + 1] = [left + width]
            placed.append((found, row, "end" if before else "start"))
        return placed

    # Parts.

    def _times(self, moments: Sequence[Moment]) -> list[tuple[float, float]]:
        """Draw the labels of the five times; return where their lines begin."""
        placed = self._stairs(moments, BOLD)
        self._head("Times")
        lines = []
        for found, row, anchor in placed:
            x, y = self.x(found.at_us), self.y + row * LINE
            self._text(x + (5 if anchor == "start" else -5), y + 12, found.words, "strong", anchor)
            lines.append((x, y))
        self.y += (max((row for _, row, _ in placed), default=0) + 1) * LINE + 10
        return lines

    def _actions(self) -> None:
        """Draw what people did, each with its label."""
        moments = _grouped(self.workspace, self.incident, self.window)
        if not moments:
            return
        self._head("People and changes")
        placed = self._stairs(moments)
        left_out = [m for m, row, _ in placed if row >= MOST_ACTION_ROWS]
        for found, row, anchor in placed:
            if row < MOST_ACTION_ROWS:
                x, y = self.x(found.at_us), self.y + row * LINE
                self.shapes.append(Shape("circle", {"class": "dot", "cx": x, "cy": y + 8, "r": 4}))
                self._text(x + (8 if anchor == "start" else -8), y + 12, found.words, "", anchor)
        self.y += (min(MOST_ACTION_ROWS, max(row for _, row, _ in placed) + 1)) * LINE
        if left_out:
            self._text(LEFT, self.y + 12, f"and {len(left_out)} more, in the table below", "soft")
            self.y += LINE
        self.y += 10

    def _alerts(self) -> None:
        """Draw a bar for each alert, from where its figure crossed the limit until it was over."""
        found = self._changes()
        names = list(dict.fromkeys(c.alert for c in found))
        if not names:
            return
        self._head("Alerts")
        self.y += LINE
        for name in names[:MOST_ALERTS]:
            self._bar([c for c in found if c.alert == name])
            self.y += ROW
        if len(names) > MOST_ALERTS:
            self._text(LEFT, self.y + 10, f"and {len(names) - MOST_ALERTS} more that these inhibit", "soft")
            self.y += LINE
        self.y += 8

    def _changes(self) -> list[SeverityChange]:
        """Return the severities that the incident's alerts reached, then those of the alerts that they inhibit."""
        record = AlertStore(self.workspace.store, self.workspace.settings.app)
        window = self.window
        changes = history.within(
            history.severity_changes(
                history.load_transitions(record, window.start_us, window.end_us, None), self.workspace.rules
            ),
            window.start_us,
            window.end_us,
        )
        mine = {*self.incident.alerts, self.incident.about}
        mine |= {c.alert for c in changes if (c.rule, c.subject) == (self.incident.rule, self.incident.subject)}
        inhibited = {c.alert for c in changes if c.inhibited_by in mine} - mine
        return sorted(
            (c for c in changes if c.alert in mine | inhibited), key=lambda c: (c.alert in inhibited, c.fired_us)
        )

    def _bar(self, changes: list[SeverityChange]) -> None:
        first, y = changes[0], self.y
        rule = self.workspace.rules.rules.get(first.rule)
        name = named(rule, first.subject) if rule else first.rule
        source = source_name(first.source)
        room = int((LEFT - 10) / CHARACTER) - len(source) - 2
        self._text(LEFT - 10, y + 13, f"{name if len(name) <= room else name[: room - 1] + '…'}, {source}", "", "end")
        pending, end_us = self.x(first.pending_us), self.window.end_us
        starts = self.x(first.fired_us)
        self.shapes.append(
            Shape(
                "rect", {"class": "pending", "x": pending, "y": y + 7, "width": max(0, starts - pending), "height": 3}
            )
        )
        for since_us, until_us, change in history.segments(changes, end_us):
            x, width = self.x(since_us), max(2.0, self.x(until_us) - self.x(since_us))
            state = f"is-{change.severity}"
            kind = "inhibited" if change.inhibited_by else "bar"
            self.shapes.append(
                Shape("rect", {"class": f"{kind} {state}", "x": x, "y": y, "width": round(width, 1), "height": 17})
            )
            sign = formatting.SIGNS[change.severity]
            words = f"{sign} {change.severity}{', inhibited' if change.inhibited_by else ''}"
            words = words if len(words) * CHARACTER + 8 <= width else sign
            if len(words) * CHARACTER + 4 <= width:
                self._text(x + 4, y + 13, words, f"in-{kind} {state}")

    def _figure(self) -> None:
        """Draw the figure that breached, as it was evaluated, with its thresholds."""
        rules, incident = self.workspace.rules, self.incident
        rule = rules.rules.get(incident.rule)
        if rule is None:
            return
        only = replace(rules, rules={r: rules[r] for r in (*([rule.burn.of] if rule.burn else []), rule.name)})
        step = timedelta(seconds=max(5.0, self.window.seconds / POINTS))
        series: dict[str, list[tuple[int, float | None]]] = {}
        at = self.window.start
        while at <= self.window.end:
            for f in evaluation.evaluate_rules(self.view.counters, only, at, self.view.probed):
                if (f.rule.name, f.subject) == (rule.name, incident.subject):
                    series.setdefault(f.source, []).append((clock.micros(at), f.figure.value))
            at += step
        series = {source: points for source, points in series.items() if any(v is not None for _, v in points)}
        if series:
            self._plot(rule, series)

    def _plot(self, rule: Rule, series: dict[str, list[tuple[int, float | None]]]) -> None:
        values = [(us, v, source) for source, points in series.items() for us, v in points if v is not None]
        at_us, worst, source = (min if rule.better == "higher" else max)(values, key=lambda p: p[1])
        low, high, ticks = _scale(rule, [v for _, v, _ in values])
        name = named(rule, self.incident.subject)
        is_rate = rule.unit in ("ratio", "per_hour") and not rule.burn
        window = f" over {formatting.duration(rule.window.total_seconds())}" if is_rate else ""
        head = f"{name[:1].upper()}{name[1:]}{window}, as its alerts evaluate it"
        if rule.burn:  # Its alerts evaluate a short window, too.
            spans = dict.fromkeys(long for long, _ in rule.burn.windows.values())
            lengths = ", ".join(formatting.duration(span.total_seconds()) for span in sorted(spans))
            head = f"{name[:1].upper()}{name[1:]}, highest of its long windows ({lengths})"
        extreme = "lowest" if rule.better == "higher" else "highest"
        text = f"{extreme} {rule.format_value(worst)}{window} at {_clock(at_us)} ({source_name(source)})"
        self._text(0, self.y + 12, head, "head")
        self._text(RIGHT, self.y + 12, text, "strong", "end")
        bottom = self.y + LINE + 10 + 14 * max(0, len(series) - 2) + FIGURE_HEIGHT

        def y(value: float) -> float:
            return round(bottom - (min(max(value, low), high) - low) / (high - low) * FIGURE_HEIGHT, 1)

        for value in ticks:
            self.shapes.append(
                Shape("line", {"class": "grid", "x1": LEFT, "x2": RIGHT, "y1": y(value), "y2": y(value)})
            )
            self._text(LEFT - 8, y(value) + 4, _short(rule, value), "soft", "end")
        labels = list[tuple[float, str, str]]()
        for severity, limit in rule.thresholds:
            if isinstance(limit, str) or not low <= limit <= high:
                continue
            place = {"x1": LEFT, "x2": RIGHT, "y1": y(limit), "y2": y(limit)}
            self.shapes.append(Shape("line", {"class": f"limit is-{severity}", **place}))
            labels.append((y(limit), severity, f"{formatting.SIGNS[severity]} {severity} {_short(rule, limit)}"))
        labels.sort()
        for place_y, (_, severity, words) in zip(_apart([label[0] + 4 for label in labels], bottom), labels):
            self._text(RIGHT + 8, place_y, words, f"limit-label is-{severity}")
        for n, (source, points) in enumerate(series.items()):
            self.shapes.append(Shape("path", {"class": f"series s{n % 3}", "d": self._path(points, y)}))
            line = ("——", "– –", "· · ·")[n % 3]
            self._text(RIGHT + 8, self.y - 2 + 14 * n, f"{line} {source_name(source)}", f"key s{n % 3}")
        self.shapes.append(Shape("circle", {"class": "worst", "cx": self.x(at_us), "cy": y(worst), "r": 4}))
        self.y = bottom + 8

    def _path(self, points: list[tuple[int, float | None]], y: Callable[[float], float]) -> str:
        """Return the path of a line; it is interrupted where the value is unknown."""
        parts, drawing = [], False
        for us, value in points:
            if value is not None:
                parts.append(f"{'L' if drawing else 'M'}{self.x(us)} {y(value)}")
            drawing = value is not None
        return "".join(parts)

    def _axis(self) -> None:
        """Draw the time axis, in New York time."""
        step = next((s for s in TICKS_S if self.window.seconds / s <= 10), TICKS_S[-1])
        start = self.window.start.astimezone(formatting.NEW_YORK)
        at = start.replace(hour=0, minute=0, second=0, microsecond=0)
        days = (self.window.end.astimezone(formatting.NEW_YORK).date() - start.date()).days
        self.shapes.append(Shape("line", {"class": "axis", "x1": LEFT, "x2": RIGHT, "y1": self.y, "y2": self.y}))
        while at <= self.window.end:
            if at > self.window.start:
                x = self.x(clock.micros(at))
                self.shapes.append(Shape("line", {"class": "axis", "x1": x, "x2": x, "y1": self.y, "y2": self.y + 5}))
                self._text(x, self.y + 17, f"{at:%m-%d %H:%M}" if days else f"{at:%H:%M}", "soft", "middle")
            at += timedelta(seconds=step)
        self._text(LEFT - 40, self.y + 17, f"{start:%Y-%m-%d}, New York time", "soft", "end")
        self.y += 34


def _clock(at_us: int) -> str:
    return f"{clock.instant(at_us).astimezone(formatting.NEW_YORK):%H:%M:%S}"


def _grouped(workspace: "Workspace", incident: Incident, window: Window) -> list[Moment]:
    """Return what people did and what was changed; checks of one person within a minute are one moment."""
    found, checks = list[Moment](), dict[tuple[str, int], list[int]]()
    for e in incident.events:
        body, who = e.entry.body, f" ({e.by})" if e.by else ""
        if not window.start_us <= e.at_us <= window.end_us:
            continue
        if e.kind == "step" and body["state"] == "seen":
            key = next((k for k in checks if k[0] == e.by and e.at_us - k[1] < 60_000_000), (e.by, e.at_us))
            checks.setdefault(key, []).append(e.at_us)
            continue
        match e.kind:
            case "runbook":
                text = f"runbook {body['runbook']} opened"
            case "note":
                text = f"note: {plain(e.words)}"
            case "mark" | "handover" | "reopened":
                text = plain(e.words)
            case "step" if body["state"] in (*ENDED, "judged", "intended"):
                text = _action_words(workspace, incident, e)
            case _:
                continue
        found.append(Moment(e.at_us, (text if len(text) <= 60 else f"{text[:59]}…") + who))
    for (by, at_us), times in checks.items():
        found.append(Moment(at_us, f"{len(times)} check{'s' if len(times) > 1 else ''} run{f' ({by})' if by else ''}"))
    return sorted(found)


def plain(markdown: str) -> str:
    """Return a text that people wrote without its Markdown and without tags."""
    shown = html.unescape(re.sub(r"<[^>]+>", " ", markdown_to_html(markdown)))
    return " ".join(re.sub(r"</?[a-zA-Z][^<>]*>", " ", shown).split())


def do_of(event: Event) -> str:
    """Return what the step of an event does, in words; its name if there is no such step any more."""
    known = steps.table().get(event.entry.body["step"])
    return known.do if known else str(event.entry.body["step"])


def result_of(workspace: "Workspace", incident: Incident, event: Event) -> StepStatus:
    """Return the status of a step right after an event; unknown if there is no such step any more."""
    known, at_us = steps.table().get(event.entry.body["step"]), event.at_us
    if known is None:
        return StepStatus("unknown")
    then = from_entries(incident.id, incident.entries[: event.entry.seq])
    run = RunbookRun(lifecycle.of(workspace), incident.id, event.entry.body["runbook"], lambda: clock.instant(at_us))
    return run.status_of(known, then)


def _action_words(workspace: "Workspace", incident: Incident, event: Event) -> str:
    """Return what a person did in a step, and the result unless it is simply done."""
    do = re.sub(r" \([^)]*\)", "", steps.purpose(str(event.entry.body["step"])))
    label = result_of(workspace, incident, event).label
    return do if label == "done" else f"{do}: {label}"


def _scale(rule: Rule, values: list[float]) -> tuple[float, float, list[float]]:
    """Return the range of the value axis and its ticks: with the thresholds near the values, and room at the top."""
    limits = [float(limit) for _, limit in rule.thresholds if not isinstance(limit, str)]
    if rule.unit == "ratio" and rule.better == "higher":
        lowest = min([*values, *limits])
        low = 0.0 if lowest < 0.7 else max(0.0, int((lowest - 0.005) * 50) / 50)
        high = 1.0
    else:
        low, most = 0.0, max(values)
        near = [limit for limit in limits if limit <= most * 1.5]
        high = max([most, *near, *limits[:1]]) * 1.12 or 1.0
    step = _nice((high - low) / 4)
    first = -(-low // step) * step
    return low, high, [first + step * i for i in range(20) if first + step * i <= high + step / 1000]


def _apart(places: list[float], lowest: float) -> list[float]:
    """Move labels that are listed from the top until they are a line apart, and none is below the lowest place."""
    made = list(places)
    for n in range(1, len(made)):
        made[n] = max(made[n], made[n - 1] + 14)
    for n in reversed(range(len(made))):
        made[n] = min(made[n], (made[n + 1] if n + 1 < len(made) else lowest + 14) - 14)
    return made


def _nice(rough: float) -> float:
    """Return the round number (1, 2, 2.5 or 5 times a power of ten) that is at least this large."""
    power = 10.0 ** (len(str(int(rough))) - 1) if rough >= 1 else 1.0
    while power > rough:
        power /= 10
    return next(power * n for n in (1, 2, 2.5, 5, 10) if power * n >= rough * 0.999)


def _short(rule: Rule, value: float) -> str:
    """Format a value of the axis without needless decimals."""
    return rule.format_value(value, 0 if (value * (100 if rule.unit == "ratio" else 1)) % 1 < 1e-9 else 1)
