"""
Draw the outage: the figure that the incident is about, its threshold, and the five times of the incident.

It is drawn from the record alone. As SVG its colours are those of the page, so it follows the dark theme and prints.
"""

import io
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from opslib.foundation import clock, formatting, time_parsing
from opslib.foundation.storage.snapshot_columns import PROVIDERS
from opslib.incidents import durations
from opslib.incidents.incident import TIMES, Incident
from opslib.reports.postmortem import headline

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SIZE_INCHES = (10.0, 3.5)
# Colours of the drawing, and the colours of the page that replace them.
INK, SOFT, GRID, LINE, OTHER, LIMIT, BAND = (
    ("#16202a", "var(--ops-ink)"),
    ("#4a5866", "var(--ops-soft)"),
    ("#c6ced6", "var(--ops-edge)"),
    ("#0b5cad", "var(--ops-line)"),
    ("#9a4a00", "var(--ops-notify)"),
    ("#a8201a", "var(--ops-critical)"),
    ("#a8201b", "var(--ops-critical)"),
)
# Before and after the incident: this part of its length, and at least these many minutes.
MARGIN, MARGIN_MIN = 0.12, 4
_CHARACTER = 0.0084  # Width of a character of a label, as part of the axis.


@dataclass(frozen=True)
class Outage:
    """
    What the chart shows.

    Attributes:
        unit: The label of the value axis.
        lines: The values of each line: the end of its interval, and the value or None.
        limit: The critical threshold; None if the figure has none.
        per: The length of an interval.
        is_share: Whether the values are percentages.
    """

    unit: str
    lines: dict[str, list[tuple[datetime, float | None]]]
    limit: float | None
    per: timedelta
    is_share: bool


def outage_of(incident: Incident) -> Outage | None:
    """Return the figure that an incident is about, from its captured metrics; None if none were captured."""
    entry = durations.metrics(incident)
    if entry is None or not entry.body["content"]["rows"]:
        return None
    content = entry.body["content"]
    per = timedelta(seconds=content["step_s"])
    each = "each minute" if content["step_s"] == 60 else f"each {formatting.duration(content['step_s'])}"
    limits = {name: of.get("critical") for name, of in content["limits"].items()}

    def line(value: Any) -> list[tuple[datetime, float | None]]:
        return [(time_parsing.parse(row["at"]), value(row)) for row in content["rows"]]

    def served(provider: str) -> list[tuple[datetime, float | None]]:
        return line(lambda row: _share(row, f"{provider}_requests", f"{provider}_failures"))

    if incident.subject in PROVIDERS:
        lines = {headline.subject_name(p): served(p) for p in sorted(PROVIDERS, key=lambda p: p != incident.subject)}
        limit = limits.get("availability")
        return Outage(f"% of requests that succeeded, {each}", lines, limit and limit * 100, per, True)
    if incident.rule.startswith(("greeks", "gamma", "delta")):
        limit = limits.get("greeks_valid")
        valid = line(lambda row: _share(row, "validations", "invalid"))
        return Outage(f"% of Greeks valid, {each}", {"Valid Greeks": valid}, limit and limit * 100, per, True)
    if incident.rule.startswith("websocket"):
        down = line(lambda row: row.get("websocket_down_s"))
        return Outage(f"seconds with WebSocket down, {each}", {"WebSocket down": down}, None, per, False)
    limit = limits.get("errors")  # Per hour in the rules.
    errors = line(lambda row: row.get("errors"))
    return Outage(f"errors, {each}", {"Errors": errors}, limit and limit * content["step_s"] / 3600, per, False)


def _share(row: Mapping[str, Any], count: str, failed: str) -> float | None:
    """Return the share without failures in percent; None if there was nothing to count."""
    if not row.get(count) or row.get(failed) is None:
        return None
    return float(100 * (row[count] - row[failed]) / row[count])


def events(incident: Incident) -> list[tuple[str, datetime]]:
    """Return the known times of an incident: began, detected, acknowledged, mitigated, resolved."""
    return [(name, clock.instant(at_us)) for name in TIMES if (at_us := incident.times[name].at_us) is not None]


def describe(incident: Incident, outage: Outage) -> str:
    """Describe the chart in one line, for people who cannot see it and for plain text."""
    name, line = next(iter(outage.lines.items()))
    known = [(value, at) for at, value in line if value is not None]
    unit = " %" if outage.is_share else ""
    parts = [f"{name}: {outage.unit}"]
    if known:
        value, at = min(known) if outage.is_share else max(known)
        worst = "lowest" if outage.is_share else "highest"
        parts.append(f"{worst} {value:.0f}{unit} at {at.astimezone(formatting.NEW_YORK):%H:%M}")
    if outage.limit is not None:
        parts.append(f"critical threshold {outage.limit:g}{unit}")
    parts += [f"{event} {at.astimezone(formatting.NEW_YORK):%H:%M:%S}" for event, at in events(incident)]
    return "; ".join(parts) + " (New York)"


def draw(ax: "Axes", incident: Incident, outage: Outage) -> "Axes":
    """Draw the figure with its threshold, a band until the alerts ended, and each known time with its name."""
    from matplotlib import dates

    marks = events(incident)
    start, end = _window(incident, outage)
    ax.set_xlim(_at(start), _at(end))
    _values(ax, outage)
    began, ended = durations.span(incident)
    if began is not None and ended is not None:
        a, b = clock.instant(began), clock.instant(ended)
        ax.axvspan(_at(a), _at(b), facecolor=BAND[0], alpha=0.12, linewidth=0, zorder=0)
        ax.text(
            _at(b),
            0.03,
            f"until {durations.end(incident)}: {durations.rounded((b - a).total_seconds())} ",
            transform=ax.get_xaxis_transform(),
            ha="right",
            va="bottom",
            color=LIMIT[0],
            fontsize=10,
            fontweight="bold",
            zorder=6,
        )
    _mark(ax, marks, start, end)
    ax.xaxis.set_major_locator(dates.AutoDateLocator(minticks=5, maxticks=12, tz=formatting.NEW_YORK))
    ax.xaxis.set_major_formatter(dates.DateFormatter("%H:%M", tz=formatting.NEW_YORK))
    hours = -(start.astimezone(formatting.NEW_YORK).utcoffset() or timedelta()) // timedelta(hours=1)
    day = f"{start.astimezone(formatting.NEW_YORK):%Y-%m-%d}"
    ax.set_xlabel(f"New York time, {day} (UTC = New York + {hours} h)", color=SOFT[0], fontsize=10, loc="left")
    ax.set_ylabel(outage.unit, color=SOFT[0], fontsize=10)
    ax.tick_params(labelsize=10, colors=INK[0])
    for side in ax.spines.values():
        side.set_color(GRID[0])
    for name in ("top", "right"):
        ax.spines[name].set_visible(False)
    ax.grid(axis="y", color=GRID[0], linewidth=0.6)
    ax.set_axisbelow(True)
    ax.legend(loc="upper right", bbox_to_anchor=(1.0, -0.09), ncols=3, frameon=False, fontsize=10, labelcolor=INK[0])
    return ax


def _window(incident: Incident, outage: Outage) -> tuple[datetime, datetime]:
    """Return the time that the chart shows: the incident with a margin, as far as there are data."""
    first_line = next(iter(outage.lines.values()))
    first, last = first_line[0][0] - outage.per, first_line[-1][0]
    at = [when for _, when in events(incident)] or [first, last]
    margin = max((max(at) - min(at)) * MARGIN, timedelta(minutes=MARGIN_MIN), outage.per * 2)
    return max(first, min(at) - margin), max(min(last, max(at) + margin), max(at) + margin / 4)


def _values(ax: "Axes", outage: Outage) -> None:
    """Draw the lines, with gaps where nothing was counted, and the threshold."""
    styles = ((LINE[0], "-", "o", 2.2), (OTHER[0], "--", "s", 1.4))
    for (name, line), (colour, dash, marker, width) in zip(outage.lines.items(), styles):
        ax.plot(
            [_at(at - outage.per / 2) for at, _ in line],
            [float("nan") if value is None else value for _, value in line],
            color=colour,
            linestyle=dash,
            marker=marker,
            markersize=3,
            linewidth=width,
            label=name,
            zorder=5 if name == next(iter(outage.lines)) else 4,
        )
    known = [v for line in outage.lines.values() for _, v in line if v is not None]
    if outage.is_share:
        low = 0.0 if not known or min(known) < 80 else 80.0
        ax.set_ylim(low, 100 + (100 - low) * 0.04)
    else:
        ax.set_ylim(0, max([*known, outage.limit or 0, 1]) * 1.15)
    if outage.limit is not None:
        ax.axhline(outage.limit, color=LIMIT[0], linestyle=(0, (6, 3)), linewidth=1.2, zorder=3)
        ax.text(
            1.006,
            outage.limit,
            f"critical\n{'<' if outage.is_share else '>'} {outage.limit:g}{' %' if outage.is_share else ''}",
            transform=ax.get_yaxis_transform(),
            va="center",
            color=LIMIT[0],
            fontsize=10,
            zorder=6,
        )


def _mark(ax: "Axes", marks: list[tuple[str, datetime]], start: datetime, end: datetime) -> None:
    """Draw each time as a line with its name above the chart, an earlier one higher, so that no line crosses a name."""
    placed: list[tuple[float, int, str, bool]] = []
    for name, at in sorted(marks, key=lambda m: m[1], reverse=True):
        x, text = (at - start) / (end - start), f"{name} {at.astimezone(formatting.NEW_YORK):%H:%M:%S}"
        width = len(text) * _CHARACTER
        flips = x + width > 1.03  # It would leave the chart on the right.
        left = x - width if flips else x
        row = max(
            (other + 1 for at_x, other, _, _ in placed if left <= at_x + 0.01 and at_x <= left + width), default=0
        )
        placed.append((x, row, text, flips))
    for x, row, text, flips in placed:
        y = 1.03 + 0.085 * row
        ax.plot([x, x], [0, y + 0.065], transform=ax.transAxes, color=INK[0], linewidth=1, clip_on=False, zorder=5)
        ax.text(
            x + (-0.004 if flips else 0.004),
            y,
            text,
            transform=ax.transAxes,
            ha="right" if flips else "left",
            va="bottom",
            color=INK[0],
            fontsize=10,
            zorder=6,
        )


def _at(instant: datetime) -> Any:
    """Return an instant as the axis takes it."""
    from matplotlib import dates

    return dates.date2num(instant)


def svg(incident: Incident, outage: Outage) -> str:
    """Return the chart as an SVG element for a page; the same record gives the same text."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with rc_context(
        {"svg.fonttype": "none", "svg.hashsalt": incident.id, "font.family": "DejaVu Sans", "timezone": "UTC"}
    ):
        figure = Figure(figsize=SIZE_INCHES)
        FigureCanvasSVG(figure)
        draw(figure.subplots(), incident, outage)
        out = io.StringIO()
        figure.savefig(
            out, format="svg", bbox_inches="tight", transparent=True, metadata=dict.fromkeys(("Date", "Creator"))
        )
    drawn = out.getvalue()
    made = re.sub(
        r"(?s)<defs>\s*<style.*?</style>\s*</defs>|<metadata>.*?</metadata>", "", drawn[drawn.index("<svg") :]
    )
    box = re.search(r'viewBox="([^"]+)"', made)
    alt = formatting.in_html(describe(incident, outage))
    opening = f'<svg role="img" aria-label="{alt}" viewBox="{box[1] if box else ""}">'
    made = opening + made[made.index(">") + 1 :]
    for colour, of_page in (INK, SOFT, GRID, LINE, OTHER, LIMIT, BAND):
        made = made.replace(colour, of_page)
    return made.replace("'DejaVu Sans'", "system-ui, sans-serif").strip()
