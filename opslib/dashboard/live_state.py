"""
List what stands on the live dashboard as of a moment, place by place, and the differences of two moments.

Every text is the one that `ops status` and the panels say, made here; so what a browser shows of a moment is that view,
not a reckoning of its own.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from opslib.dashboard.panels import Panel
from opslib.dashboard.status import DEEPER, Status
from opslib.foundation import clock, formatting, time_parsing
from opslib.foundation.clock import Window
from opslib.foundation.config.rules import Rule
from opslib.foundation.storage.snapshot_columns import PROVIDERS
from opslib.telemetry.pages import indicators

SAME = ""  # In a change: this place says what it said before.
BLANK = "~"  # In a change: this place says nothing now.
# Stands between places, a byte in any encoding; where a text holds it, something like it is shown.
BETWEEN, INSTEAD = "|", "¦"
# A point of a line is of so many seconds, on a grid from midnight UTC, so that only the newest ones change.
STEP_S = 30
# So many of them are told with each change: the one that is growing, and the one before, which may have grown since it
# was told last.
NEWEST = 2
MOST_SENTENCES = 4
# Which rule is behind a figure, and which figure says of how many: what hovering tells.
BEHIND = {
    "massive availability": ("availability", "massive requests / failures"),
    "tradier availability": ("availability", "tradier requests / failures"),
    "massive, our looks' p95 / mean": ("response_time", "massive, our own looks"),
    "tradier, our looks' p95 / mean": ("response_time", "tradier, our own looks"),
    "valid Greeks": ("greeks_valid", "validations / with an error"),
    "gamma zero or missing": ("gamma_zero", "validations / with an error"),
    "delta outside -1 to 1": ("delta_out_of_bounds", "validations / with an error"),
    "backtest variance": ("backtest_variance", "trades"),
    "errors": ("errors", ""),
    "WebSocket": ("websocket_down", ""),
    "memory of the largest page": ("memory", ""),
    "WebSocket round trip p95, our looks": ("websocket_latency", ""),
}


@dataclass(frozen=True)
class DashboardState:
    """
    The dashboard as of one moment.

    Attributes:
        shape: What does not change from moment to moment: each panel's title, figures, what hovering tells, its line.
        places: Every text that does, in the order of the shape: the head, then of each panel its verdict, four
            sentences, its figures and the newest points of its line.
    """

    shape: dict[str, Any]
    places: tuple[str, ...]

    def after(self, before: "DashboardState") -> str | None:
        """
        What of it is another than before, in as few bytes as may be; None where its shape is, so that all of it must be
        told.
        """
        if before.shape != self.shape or len(before.places) != len(self.places):
            return None
        return BETWEEN.join(SAME if was == now else now or BLANK for was, now in zip(before.places, self.places))


def screen(view: Status, window_words: str) -> DashboardState:
    """What stands on the dashboard at the end of a view?"""
    panels = view.panels
    shape = {
        "app": view.app,
        "window": window_words,
        "steps": round(view.window.seconds / STEP_S),
        "panels": [
            {
                "name": p.name,
                "title": p.title,
                "deeper": DEEPER.get(p.name, ""),
                "line": LINES[p.name][0],
                "unit": LINES[p.name][1],
                "span": LINES[p.name][2],
                "figures": [{"label": label, **_hover(view.rules.rules, label, p)} for label, _, _ in p.rows],
            }
            for p in panels
        ],
    }
    end = view.window.end
    last = view.tape.seen_in(view.window)
    age_s = (view.window.end_us - max(look.ts_us for _, look in last)) / 1e6 if last else None
    seen = "market closed" if view.coverage is None else f"{formatting.ratio(view.coverage, 1)} of the expected looks"
    head = [
        formatting.iso(end),
        f"{end.astimezone(formatting.NEW_YORK):%H:%M:%S} New York",
        view.verdict,
        formatting.UNKNOWN if age_s is None else formatting.duration(age_s),
        seen,
        _alerts(view),
    ]
    places = [*head]
    for panel in panels:
        points = line(view, panel.name, NEWEST)
        told = panel.sentences[:MOST_SENTENCES]
        places += [
            panel.told,
            *told,
            *[""] * (MOST_SENTENCES - len(told)),
            *(value for _, value, _ in panel.rows),
            ";".join(f"{at}:{'' if value is None else f'{value:g}'}" for at, value in points),
        ]
    return DashboardState(shape, tuple(place.replace(BETWEEN, INSTEAD) for place in places))


def _hover(rules: Mapping[str, Rule], label: str, panel: Panel) -> dict[str, Any]:
    """Of a figure: its limits in words, and the place in its panel of the figure that says of how many."""
    if label not in BEHIND:
        return {"limits": "no limit of its own", "of": None}
    name, count = BEHIND[label]
    rule = rules[name]
    than = "<" if rule.better == "higher" else ">"
    limits = ", ".join(f"{rung} {than} {rule.limit_told(limit)}" for rung, limit in rule.ladder)
    labels = [row[0] for row in panel.rows]
    return {"limits": limits, "of": labels.index(count) if count in labels else None}


def _alerts(view: Status) -> str:
    """
    The strip of alerts, worst first, one a line: id, severity, state, since when, what it says, its runbook, who has
    it.
    """
    rows = [
        "\t".join(
            [
                a["id"],
                a["severity"],
                a["state"],
                f"{time_parsing.parse(a['since']).astimezone(formatting.NEW_YORK):%H:%M:%S}",
                formatting.single_line(a["sentence"]),
                a["runbook"] or "",
                a["acked_by"] or "",
            ]
        )
        for a in view.alerts
        if a["state"] != "pending" and not a["inhibited_by"]
    ]
    return "\n".join(rows)


# Of each panel: what its line is of, its unit, and from where to where it reaches at least.
LINES: dict[str, tuple[str, str, tuple[int, int]]] = {
    "providers": ("availability of massive", "%", (90, 100)),
    "greeks": ("valid Greeks", "%", (90, 100)),
    "pnl": ("mean net result", "%", (-5, 5)),
    "system": ("errors", "per min", (0, 1)),
}


def line(view: Status, panel: str, newest: int | None = None) -> list[tuple[int, float | None]]:
    """
    The points of a panel's line, oldest first: which step of the day since midnight UTC, and its value.

    Args:
        newest: Only so many of them; None is all of the view's window.

    Returns:
        A value of None where nothing was seen, or nothing can be said.
    """
    midnight_us = view.window.end_us - view.window.end_us % 86_400_000_000
    step_us = STEP_S * 1_000_000
    last = (view.window.end_us - midnight_us - 1) // step_us
    first = max(0, (view.window.start_us - midnight_us) // step_us) if newest is None else max(0, last - newest + 1)
    ends = [(at, min(midnight_us + (at + 1) * step_us, view.window.end_us)) for at in range(first, last + 1)]
    return [
        (at, _point(view, panel, Window(clock.instant(midnight_us + at * step_us), clock.instant(end_us))))
        for at, end_us in ends
    ]


def _point(view: Status, panel: str, step: Window) -> float | None:
    if not view.tape.looks_in(step):
        return None
    match panel:
        case "providers":
            found = indicators.providers(view.tape, step)[PROVIDERS[0]]["availability"]
            return None if found is None else round(100 * found, 2)
        case "greeks":
            found = indicators.greeks(view.tape, step)["valid_rate"]
            return None if found is None else round(100 * found, 2)
        case "pnl":
            found = indicators.pnl(view.tape, step, 0)["net_pct"]
            return None if found is None else round(found, 2)
        case _:
            errors = view.tape.rise("errors", step)
            return None if errors is None else round(errors * 60 / step.seconds, 2)


def whole(view: Status, found: DashboardState) -> dict[str, Any]:
    """All of it, for who sees it for the first time: shape, places, and every point of each line."""
    return {
        "shape": found.shape,
        "places": list(found.places),
        "lines": [line(view, panel["name"]) for panel in found.shape["panels"]],
    }
