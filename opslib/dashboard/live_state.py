"""
List the texts of the live dashboard at a moment, slot by slot, and the differences between two moments.

Every text is made here, and a figure equals the one in `ops status` and in the panels. A browser computes no figure.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple, Protocol

from opslib.alerting import causes, effects, evaluation, history
from opslib.alerting.alert_ids import source_name
from opslib.alerting.effects import Part
from opslib.alerting.history import SeverityChange
from opslib.alerting.verdicts import NOT_MEASURED, VERDICT_OF, Finding, named
from opslib.dashboard import impact
from opslib.dashboard.panels import Panel
from opslib.dashboard.status import DETAILS, Status
from opslib.foundation import clock, formatting, time_parsing
from opslib.foundation.clock import Window
from opslib.foundation.config.rules import SENT, SEVERITIES, Rule, Rules
from opslib.foundation.storage.snapshot_columns import PROVIDERS
from opslib.telemetry.pages import indicators

SAME = ""  # In a change: the text of this slot is the same as before.
BLANK = "~"  # In a change: this slot is empty now.
# Separates slots, one byte in any encoding; where a text contains it, a similar character is shown.
BETWEEN, INSTEAD = "|", "¦"
# Seconds per point of a chart, on a grid from midnight UTC, so that only the newest points change.
STEP_S = 30
STEP_US = STEP_S * 1_000_000
# Points that are sent with each change: the one that is growing, and the one before, which may have grown since it was
# sent last.
NEWEST = 2
# The slots before those of the panels, in order.
HEAD = (
    "iso",
    "moment",
    "verdict",
    "age",
    "coverage",
    "alerts",
    "since",
    "cause",
    "first",
    "works",
    "owner",
    "markers",
    "gaps",
)
# The rule behind a figure, and the figure that holds its count: shown in the tooltip.
BEHIND = {
    "massive availability": ("availability", "massive requests / failures"),
    "tradier availability": ("availability", "tradier requests / failures"),
    "massive, probes, p95 / mean": ("response_time", "massive, probes"),
    "tradier, probes, p95 / mean": ("response_time", "tradier, probes"),
    "valid Greeks": ("greeks_valid", "validations / not valid / with an error"),
    "gamma zero or missing": ("gamma_zero", "validations / not valid / with an error"),
    "delta outside -1 to 1": ("delta_out_of_bounds", "validations / not valid / with an error"),
    "backtest variance": ("backtest_variance", "trades"),
    "errors": ("errors", ""),
    "WebSocket": ("websocket_down", ""),
    "memory of the largest page": ("memory", ""),
    "WebSocket round trip p95, probes": ("websocket_latency", ""),
}


class Value(NamedTuple):
    """
    One value of a key figure.

    Attributes:
        name: What tells it from the others of its key figure: its source, or what it is about.
        rule, subject, source: The rule that evaluates it; without one it is a figure of the panel.
        row: The label of that figure.
        part: Which part of that figure's text, between slashes.
    """

    name: str
    rule: str = ""
    subject: str = "app"
    source: str = "page"
    row: str = ""
    part: int = 0


def _by_sources(rule: str, subject: str, **names: str) -> tuple[Value, ...]:
    return tuple(Value(name, rule, subject, source) for source, name in names.items())


# The key figures of each panel: the label, and its values side by side.
KEYS: dict[str, tuple[tuple[str, tuple[Value, ...]], ...]] = {
    "providers": (
        ("Availability of Massive", _by_sources("availability", "massive", page="app", probe="probes")),
        ("Availability of Tradier", _by_sources("availability", "tradier", page="app", probe="probes")),
        (
            "Response p95, probes",
            tuple(Value(name.title(), "response_time", name, "probe") for name in PROVIDERS),
        ),
    ),
    "greeks": (
        ("Valid Greeks", _by_sources("greeks_valid", "app", page="app", chain="chains")),
        ("Gamma zero or missing", _by_sources("gamma_zero", "app", page="app", chain="chains")),
        ("Delta outside −1 to 1", _by_sources("delta_out_of_bounds", "app", page="app", chain="chains")),
    ),
    "pnl": (
        ("Mean trade result", (Value("net", row="mean net result"), Value("gross", row="mean gross result"))),
        ("Backtest variance", _by_sources("backtest_variance", "app", page="app", fills="fills")),
        ("Trades", (Value("closed", row="trades"),)),
        (
            "Costs",
            (
                Value("commission", row="commission / slippage"),
                Value("slippage", row="commission / slippage", part=1),
            ),
        ),
    ),
    "system": (
        ("Errors", _by_sources("errors", "app", page="app", logs="log")),
        ("WebSocket down", _by_sources("websocket_down", "app", page="app", probe="probes")),
        ("Memory", (Value("largest app page", "memory"),)),
        ("Response p95", (Value("probes", "app_response_time", source="probe"),)),
    ),
}


class Scale(NamedTuple):
    """
    One range of a chart's value axis.

    Attributes:
        knots: (value, height from 0 to 1), lowest first; more than two make an axis with a break.
        ticks: (value, label).
    """

    knots: tuple[tuple[float, float], ...]
    ticks: tuple[tuple[float, str], ...]


class Chart(NamedTuple):
    """
    What a panel's chart shows.

    Attributes:
        unit: Of its values, and of the reading under the pointer.
        kind: line or bars; bars begin at zero.
        bar_px: The least width of a bar; that of single events is wider.
        scales: The ranges of its axis, narrowest first: a browser takes the first that holds every value, so that noise
            never fills the height. Without any, they are made from the rule's thresholds: see `_scales_of`.
        rule, factor: The rule whose thresholds are drawn, and what they are multiplied by to be in the chart's unit.
    """

    label: str
    unit: str
    kind: str
    scales: tuple[Scale, ...] = ()
    rule: str = ""
    factor: float = 1.0
    bar_px: int = 3


CHARTS = {
    "providers": Chart(
        "Availability of Massive per {step}, app page",
        "%",
        "line",
        # Thresholds are between 95 and 99 %, an outage is at 0: the lower part of the axis is compressed.
        (Scale(((0, 0.0), (90, 0.3), (100, 1.0)), ((0, "0 %"), (90, "90 %"), (95, "95 %"), (100, "100 %"))),),
        "availability",
        100.0,
    ),
    "greeks": Chart(
        "Valid Greeks per {step}, app page",
        "%",
        "line",
        (Scale(((0, 0.0), (100, 1.0)), ((0, "0 %"), (50, "50 %"), (100, "100 %"))),),
        "greeks_valid",
        100.0,
    ),
    "pnl": Chart(
        "Mean net result of the trades, app page",
        "%",
        "bars",
        tuple(
            Scale(((-top, 0.0), (top, 1.0)), ((-top, f"-{top} %"), (0, "0 %"), (top, f"{top} %")))
            for top in (10, 20, 30, 50, 100)
        ),
        bar_px=7,
    ),
    # Each point is what the alert evaluates, so that it can be compared with the thresholds.
    "system": Chart("Errors over the past {window}, app page", "per h", "line", rule="errors"),
}
# The highest value of a chart above its thresholds, as multiples of the part of the axis that holds them.
TOPS = (2, 5, 10, 20, 50, 100, 1000)


class Diagnosed(Protocol):
    """The part of a diagnosis that the first row shows; see `diagnosis.Diagnosis`."""

    @property
    def cause(self) -> str: ...  # noqa: D102
    @property
    def subject(self) -> str | None: ...  # noqa: D102
    @property
    def confidence(self) -> float: ...  # noqa: D102
    @property
    def headline(self) -> str: ...  # noqa: D102
    @property
    def runbook(self) -> str | None: ...  # noqa: D102
    @property
    def also(self) -> Sequence[Part]: ...  # noqa: D102


class Answer(NamedTuple):
    """
    The sentences of the first row; empty where there is nothing to say.

    Attributes:
        since: Since when the worst alert has its severity, and when its problem began.
        cause: The cause, since when, whose fault, and the confidence.
        first: The first action, where the cause is certain enough to be named in a notification.
        works: What still works, and what does not.
        owner: Who acknowledged the worst alert, and who owns its incident.
    """

    since: str = ""
    cause: str = ""
    first: str = ""
    works: str = ""
    owner: str = ""


@dataclass(frozen=True)
class DashboardState:
    """
    The dashboard at one moment.

    Attributes:
        shape: What stays the same from moment to moment: each panel's title, labels, tooltips and chart.
        places: Every text that changes, in the order of the shape: `HEAD`, then for each panel its verdict, a reason
            that no key figure shows, its figures, the values of its key figures, their thresholds, the newest points
            of its chart, and when an alert fired.
    """

    shape: dict[str, Any]
    places: tuple[str, ...]

    def after(self, before: "DashboardState") -> str | None:
        """Return the changed texts as one short string; None where the shape changed and everything must be sent."""
        if before.shape != self.shape or len(before.places) != len(self.places):
            return None
        return BETWEEN.join(SAME if was == now else now or BLANK for was, now in zip(before.places, self.places))


def dashboard_state(view: Status, window_words: str, summary: Answer) -> DashboardState:
    """Make the dashboard's state at the end of a status' window."""
    panels, end = view.panels, view.window.end
    keys = {panel.name: _keys(view, panel) for panel in panels}
    offset = end.astimezone(formatting.NEW_YORK).utcoffset()
    shape = {
        "app": view.app,
        "window": window_words,
        "steps": round(view.window.seconds / STEP_S),
        "step_s": STEP_S,
        "offset_s": offset.total_seconds() if offset else 0,
        "panels": [
            {
                "name": p.name,
                "title": p.title,
                "details": DETAILS.get(p.name, ""),
                "chart": _chart(CHARTS[p.name], view.rules),
                "keys": [
                    {"label": label, "values": [value.name for value, _ in values]} for label, values in keys[p.name]
                ],
                "figures": [{"label": label, **_hover(view.rules.rules, label, p)} for label, _, _ in p.rows],
            }
            for p in panels
        ],
    }
    last = view.counters.pages_in(view.window)
    age_s = (view.window.end_us - max(snapshot.ts_us for _, snapshot in last)) / 1e6 if last else None
    coverage = "market closed" if view.coverage is None else f"{formatting.ratio(view.coverage, 1)} received"
    places = [
        formatting.iso(end),
        f"{end.astimezone(formatting.NEW_YORK):%H:%M:%S} New York",
        view.verdict_text,
        formatting.UNKNOWN if age_s is None else formatting.duration(age_s),
        coverage,
        _alerts(view),
        *summary,
        _markers(view),
        _gaps(view),
    ]
    changes = history.severity_changes(view.transitions, view.rules)
    for panel in panels:
        mine = [found for _, values in keys[panel.name] for _, found in values if isinstance(found, Finding)]
        places += [
            panel.verdict_text,
            _reason(panel, mine),
            *(value for _, value, _ in panel.rows),
            *(_value(found) for _, values in keys[panel.name] for _, found in values),
            *(
                _threshold([found for _, found in values if isinstance(found, Finding)])
                for _, values in keys[panel.name]
            ),
            ";".join(f"{at}:{'' if value is None else f'{value:g}'}" for at, value in line(view, panel.name, NEWEST)),
            _bands(view, panel.name, changes),
        ]
    return DashboardState(shape, tuple(place.replace(BETWEEN, INSTEAD) for place in places))


def sentences(view: Status, panel: str) -> list[str]:
    """Return every sentence and note of a panel, for its details."""
    found = view.panel(panel)
    return [*found.sentences, *found.notes]


# The first row.


def answer(view: Status, diagnose: Callable[[Status], Diagnosed] | None, owner_of: Callable[[str], str]) -> Answer:
    """
    Say since when the verdict holds, what the cause is, what to do first, what still works, and who owns it.

    Args:
        diagnose: Determines the cause; it runs only where the verdict is not ok or an alert is active.
        owner_of: Returns the owner of an incident; empty if there is none.
    """
    active = [a for a in view.alerts if a["state"] != "pending"]
    if view.verdict == "ok" and not active:
        return Answer(cause="No alert is firing.")
    notified = [a for a in active if not a["inhibited_by"]]
    worst = notified[0] if notified else None
    since, began = "", None
    if worst:
        # The alerts that another one inhibits have the same cause, and may have begun before it.
        alike = [a for a in active if a["severity"] == worst["severity"]]
        earliest = min(a["since"] for a in alike)
        reached_us = min((us for a in alike if (us := view.severity_since.get(a["id"])) is not None), default=None)
        began = time_parsing.parse(earliest)
        minutes = round((view.window.end - began).total_seconds() / 60)
        if VERDICT_OF[worst["severity"]] == view.verdict:
            since = history.describe_since(worst | {"since": earliest}, reached_us, view.window.end)
            since = since.removeprefix(f"{view.verdict_text} ")  # The verdict stands before it.
            since += f", {formatting.duration(60 * minutes)} ago" if minutes else ""
    found = diagnose(view) if diagnose else None
    cause = cause_sentence(view, found, began) if found else ""
    first = (
        str(effects.first_action(found, worst["rule"] if worst else "", worst["subject"] if worst else "", view.rules))
        if found and found.confidence >= effects.SURE
        else ""
    )
    if worst and cause == causes.HEADLINES[causes.UNDETERMINED]:
        cause = f"{formatting.single_line(worst['sentence'])}. {cause}"
    works = "" if view.verdict == "ok" else works_sentence(impact.things(view))
    return Answer(
        since,
        cause[:1].upper() + cause[1:],
        f"Do first: {first}" if first else "",
        works,
        _owner(worst, active, owner_of),
    )


def cause_sentence(view: Status, found: Diagnosed, began: datetime | None = None) -> str:
    """Return the cause, since when, whose fault it is, and the confidence, in one line."""
    sure = f"confidence {formatting.ratio(found.confidence, 0)}".replace(" %", "\N{NO-BREAK SPACE}%")
    if found.cause == causes.UNDETERMINED:
        return found.headline
    if found.cause == causes.NONE:
        past = next((f for f in view.findings if f.counted and f.verdict == view.verdict != "ok"), None)
        window = formatting.duration(view.window.seconds)
        still = f" {past.verdict.capitalize()} over {window}: {named(past.rule, past.subject)}." if past else ""
        return f"No fault is found now ({sure}).{still}"
    what = found.headline.rstrip(".")
    problem = (
        view.problem(found.subject) if found.subject in PROVIDERS and found.cause.startswith("provider_") else None
    )
    if problem:
        began = problem.since or began
        what = f"{(found.subject or '').title()} {problem.words}"
    when = f" since {began.astimezone(formatting.NEW_YORK):%H:%M}" if began else ""
    return f"{what}{when}. Fault: {causes.whose(found.cause, found.subject)} ({sure})."


NAMES = {
    "massive": "option data from Massive",
    "tradier": "option data from Tradier",
    "prices": "live prices",
    "greeks": "Greeks",
    "server": "the app's server",
    "data": "option data from any provider",
}


def works_sentence(things: list[impact.Thing]) -> str:
    """Say what still works, what does not, and what is unknown."""
    found = {state: [t.about for t in things if t.state == state] for state in ("works", "fails", "unknown")}
    served = ""
    if "tradier" in found["works"] and "massive" in found["fails"]:
        served = "Tradier serves in Massive's place. "
        found["works"].remove("tradier")
        found["fails"].remove("massive")
    parts = (("Still works", "works"), ("Does not work", "fails"), ("Unknown", "unknown"))
    listed = {state: ", ".join(dict.fromkeys(NAMES[about] for about in found[state])) for _, state in parts}
    if served:
        listed["works"] = listed["works"].replace(NAMES["greeks"], f"{NAMES['greeks']} (from Tradier, up to 1 h old)")
    if "greeks" in found["fails"]:
        listed["works"] = re.sub("option data from [A-Z][a-z]+", r"\g<0> (except Greeks)", listed["works"])
    return served + " ".join(f"{words}: {listed[state]}." for words, state in parts if listed[state])


def _owner(worst: dict[str, Any] | None, active: list[dict[str, Any]], owner_of: Callable[[str], str]) -> str:
    if worst is None:
        return ""
    acked = (
        f"Acknowledged by {formatting.single_line(worst['acked_by'], 60)}."
        if worst["acked_by"]
        else "Nobody has acknowledged it."
        if worst["severity"] in SENT
        else "Nobody is notified of a warning."
    )
    incident = worst["incident"] or next((a["incident"] for a in active if a["incident"]), None)
    if incident is None:
        return acked
    owner = formatting.single_line(owner_of(incident), 60)
    return f"{acked} Incident {incident}: {f'owner {owner}' if owner else 'no owner'}."


# Key figures.


def _keys(view: Status, panel: Panel) -> list[tuple[str, list[tuple[Value, Finding | str]]]]:
    """Return each key figure with its values: the evaluated one, or the text of the panel's figure."""
    findings = {(f.rule.name, f.subject, f.source): f for f in view.findings}
    rows = {label: text for label, text, _ in panel.rows}
    found = []
    for label, wanted in KEYS[panel.name]:
        values: list[tuple[Value, Finding | str]] = []
        for value in wanted:
            one = findings.get((value.rule, value.subject, value.source))
            if value.row:
                values.append((value, rows[value.row].split(" / ")[value.part]))
            elif one is not None and not (one.figure.absent == NOT_MEASURED and not one.counted):
                values.append((value, one))
        found.append((label, values or [(wanted[0], formatting.UNKNOWN)]))
    return found


def _value(found: Finding | str) -> str:
    """Return the sign of a value's state and the value; without the sign where no rule evaluates it."""
    if isinstance(found, str):
        return found
    return f"{formatting.SIGNS[found.severity or found.verdict]} {found.rule.format_value(found.figure.value)}"


def _threshold(found: list[Finding]) -> str:
    """Return the threshold that the worst of these values crossed, or else the first one."""
    if not found:
        return ""
    worst = max(found, key=lambda f: SEVERITIES.index(f.severity) if f.severity else -1)
    severity, limit = next(
        (pair for pair in worst.rule.thresholds if pair[0] == worst.severity), worst.rule.thresholds[0]
    )
    return f"{severity} {_than(worst.rule)} {worst.rule.format_limit(limit)}"


def _than(rule: Rule) -> str:
    return "<" if rule.better == "higher" else ">"


def _reason(panel: Panel, shown: list[Finding]) -> str:
    """Return the first sentence behind a panel's verdict where no key figure shows that verdict."""
    if panel.verdict == "ok" or any(f.verdict == panel.verdict for f in shown) or not panel.sentences:
        return ""
    return panel.sentences[0].partition(": ")[2].partition(". ")[0]


def _hover(rules: Mapping[str, Rule], label: str, panel: Panel) -> dict[str, Any]:
    """Return a figure's thresholds in words, and the position in its panel of the figure that holds its count."""
    if label not in BEHIND:
        return {"limits": "no threshold", "of": None}
    name, count = BEHIND[label]
    rule = rules[name]
    limits = ", ".join(f"{severity} {_than(rule)} {rule.format_limit(limit)}" for severity, limit in rule.thresholds)
    labels = [row[0] for row in panel.rows]
    return {"limits": limits, "of": labels.index(count) if count in labels else None}


def _alerts(view: Status) -> str:
    """
    List the active alerts, worst first, one per line.

    The fields are separated by tabs: id, severity, its severity and since when, sentence, runbook, who acknowledged it.
    """
    rows = [
        "\t".join(
            [
                a["id"],
                a["severity"],
                view.describe_since(a),
                formatting.single_line(a["sentence"]),
                a["runbook"] or "",
                a["acked_by"] or "",
            ]
        )
        for a in view.alerts
        if a["state"] != "pending" and not a["inhibited_by"]
    ]
    return "\n".join(rows)


# Charts. A moment is a step since midnight UTC of the shown day.


def _chart(chart: Chart, rules: Rules) -> dict[str, Any]:
    """Return the part of a chart that stays the same."""
    rule = rules.rules.get(chart.rule)
    scales = chart.scales or _scales_of(rules[chart.rule])
    return {
        "label": chart.label.format(
            window=formatting.duration(rule.window.total_seconds()) if rule else "", step=formatting.duration(STEP_S)
        ),
        "unit": chart.unit,
        "kind": chart.kind,
        "wide": chart.bar_px,
        "scales": [{"knots": [list(k) for k in s.knots], "ticks": [list(t) for t in s.ticks]} for s in scales],
        "limits": [
            {
                "at": limit * chart.factor,
                "severity": severity,
                "words": f"{severity} {rule.format_limit(limit)}",
            }
            for severity, limit in (rule.thresholds if rule else ())
            if not isinstance(limit, str)
        ]
        if rule
        else [],
    }


def _scales_of(rule: Rule) -> tuple[Scale, ...]:
    """
    Return scales from zero to above the rule's highest threshold.

    For higher values the axis has a break there, so that the thresholds stay apart.
    """
    most = 1.2 * max(float(limit) for _, limit in rule.thresholds if not isinstance(limit, str))
    step = 10 ** math.floor(math.log10(most))
    top = math.ceil(most / step) * step
    low = ((0.0, "0"), (top / 2, f"{top / 2:g}"), (float(top), f"{top:g}"))
    return (
        Scale(((0, 0.0), (top, 1.0)), low),
        *(Scale(((0, 0.0), (top, 0.6), (top * n, 1.0)), (*low, (top * n, f"{top * n:,g}"))) for n in TOPS),
    )


def before(rules: Rules) -> timedelta:
    """Return how long before the window of a status the charts need its snapshots."""
    return rules["errors"].window


def _midnight_us(view: Status) -> int:
    return view.window.end_us - view.window.end_us % 86_400_000_000


def _markers(view: Status) -> str:
    """List deploys, restarts, notes and page reloads of the window, one per line: the step, a tab, the words."""
    midnight_us = _midnight_us(view)
    found = [(m.ts_us, f"{m.kind}: {formatting.single_line(m.words, 24)}") for m in view.marks]
    found += [(clock.micros(at), "page reload") for at in view.counters.reloads(view.window)]
    return "\n".join(f"{(at_us - midnight_us) // STEP_US}\t{words}" for at_us, words in sorted(found))


def _gaps(view: Status) -> str:
    """List the spans without snapshots, one per line: the first and the last step; the last is empty while it lasts."""
    midnight_us = _midnight_us(view)
    return "\n".join(
        f"{(g.start_us - midnight_us) // STEP_US}\t"
        f"{'' if g.end_us >= view.window.end_us else (g.end_us - midnight_us) // STEP_US}"
        for g in view.counters.gaps(view.window)
    )


def _bands(view: Status, panel: str, changes: list[SeverityChange]) -> str:
    """
    List when alerts of a panel fired, in order of time, one span per line.

    The fields are separated by tabs: the first and the last step (empty while it fires), the worst severity then, and
    its words; an alert of a figure that the chart does not draw is named.
    """
    midnight_us, start_us, end_us = _midnight_us(view), view.window.start_us, view.window.end_us
    mine = [
        c
        for c in history.within(changes, start_us, end_us)
        if c.rule in view.rules.rules and view.rules[c.rule].panel == panel
    ]
    spans: list[tuple[int, int | None, str, str]] = []
    edges = sorted(
        {c.fired_us for c in mine} | {c.over_us for c in mine if c.over_us is not None and c.over_us <= end_us}
    )
    for a, b in zip(edges, [*edges[1:], None]):
        held = [c for c in mine if c.fired_us <= a and (c.over_us is None or c.over_us > a)]
        if not held or (b is not None and b <= start_us):
            continue
        drawn = CHARTS[panel].rule
        worst = max(held, key=lambda c: (SEVERITIES.index(c.severity), c.rule == drawn, c.source == evaluation.PAGE))
        other = ""  # The chart draws what the app page counts.
        if worst.rule != drawn or worst.source != evaluation.PAGE:
            source = "" if worst.source == evaluation.PAGE else f" by {source_name(worst.source)}"
            other = f": {view.rules[worst.rule].title}{source}, not this line"
        words = f"{formatting.SIGNS[worst.severity]} {worst.severity}{other}"
        if spans and spans[-1][1:3] == (a, worst.severity):
            spans[-1] = (spans[-1][0], b, worst.severity, max(spans[-1][3], words, key=len))
        else:
            spans.append((a, b, worst.severity, words))
    return "\n".join(
        f"{(a - midnight_us) // STEP_US}\t{'' if b is None else (b - midnight_us) // STEP_US}\t{severity}\t{words}"
        for a, b, severity, words in spans
    )


def line(view: Status, panel: str, newest: int | None = None) -> list[tuple[int, float | None]]:
    """
    Return the points of a panel's chart, oldest first: the step since midnight UTC, and its value.

    Args:
        newest: Only this many of the newest points; None is all of the window.

    Returns:
        A point's value is None where there is no data.
    """
    midnight_us = _midnight_us(view)
    last = (view.window.end_us - midnight_us - 1) // STEP_US
    first = max(0, (view.window.start_us - midnight_us) // STEP_US) if newest is None else max(0, last - newest + 1)
    ends = [(at, min(midnight_us + (at + 1) * STEP_US, view.window.end_us)) for at in range(first, last + 1)]
    return [
        (at, _point(view, panel, Window(clock.instant(midnight_us + at * STEP_US), clock.instant(end_us))))
        for at, end_us in ends
    ]


def _point(view: Status, panel: str, step: Window) -> float | None:
    if not view.counters.snapshots_in(step):
        return None
    match panel:
        case "providers":
            found = indicators.providers(view.counters, step)[PROVIDERS[0]]["availability"]
            return None if found is None else round(100 * found, 2)
        case "greeks":
            found = indicators.greeks(view.counters, step)["valid_rate"]
            return None if found is None else round(100 * found, 2)
        case "pnl":
            found = indicators.pnl(view.counters, step, 0)["net_pct"]
            return None if found is None else round(found, 2)
        case _:
            rule = view.rules["errors"]
            windows = evaluation.Windows(step.end)
            found = evaluation.measure_page(view.counters, view.rules, rule, "app", windows, rule.window).value
            return None if found is None else round(found, 2)


def full_state(view: Status, found: DashboardState) -> dict[str, Any]:
    """Return the complete state, for a view that opens: shape, texts, and every point of each line."""
    return {
        "shape": found.shape,
        "places": list(found.places),
        "lines": [line(view, panel["name"]) for panel in found.shape["panels"]],
    }
