"""
Draw counters, probes and alerts on an Axes.

Each chart shows a time series with its thresholds as labelled lines. Periods without snapshots are hatched and
labelled, and no line crosses a gap. Colour is never the only distinction: lines differ in dash and marker, thresholds
have labels.
"""

import io
import itertools
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from opslib.alerting.history import SeverityChange
from opslib.alerting.verdicts import named
from opslib.foundation import formatting
from opslib.foundation.clock import SECOND, Window, instant
from opslib.foundation.config.rules import SEVERITIES, Rule, Rules
from opslib.telemetry.markers import Marker
from opslib.telemetry.pages import indicators
from opslib.telemetry.pages.counters import CounterHistory
from opslib.telemetry.probes.history import IS_THERE, ProbeHistory
from opslib.telemetry.probes.outcomes import OUTCOMES

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from opslib.trading.options.chain_quality import ChainQuality

INK, SOFT, GREY = "#1f2933", "#4a5866", "#8a94a0"
LINES = (("#0b5cad", "-", "o"), ("#b3540a", "--", "s"))
SMILES = (*LINES, ("#4a6b2a", ":", "^"))
LIMITS = {"warning": "#7a5200", "notify": "#9a4a00", "critical": "#a8201a", "escalate": "#7d1238"}
SIZE_INCHES, DPI = (9.0, 2.7), 110
BREAK, BREAK_HEIGHT = 90, 3.5  # Where an axis in % is broken, and how many % above it are as high as all below it.
# Rules about the share of Greeks with one error, named as the page's counter, with the label of their line.
OF_GREEKS = {"gamma_zero": "gamma zero or missing", "delta_out_of_bounds": "delta outside -1 to 1"}
LABEL_HEIGHT = 0.075  # The height of a threshold's label as a share of a chart's height.


def show(
    words: dict[str, str],
    draw: Callable[["Axes"], Any],
    name: str,
    alt_text: str,
    size: tuple[float, float] = SIZE_INCHES,
) -> None:
    """Show text and its chart in a notebook; `alt_text` describes the chart for people who cannot see it."""
    from IPython.display import display

    display(words, raw=True)
    display(
        {"text/plain": f"[chart: {name}]", "image/png": png(draw, size)},
        metadata={"image/png": {"alt": alt_text}},
        raw=True,
    )


def alerts(ax: "Axes", changes: list[SeverityChange], window: Window, rules: Rules) -> "Axes":
    """
    Draw when alerts fired.

    One row for each rule and subject. A thicker bar is a higher severity; an inhibited alert is hatched.
    """
    rows = list(dict.fromkeys((r.rule, r.subject) for r in changes))
    for r in sorted(changes, key=lambda r: SEVERITIES.index(r.severity)):
        y, begin = len(rows) - 1 - rows.index((r.rule, r.subject)), max(instant(r.fired_us), window.start)
        end = window.end if r.over_us is None else min(instant(r.over_us), window.end)
        thick = 0.25 + 0.15 * SEVERITIES.index(r.severity)
        ax.barh(
            y,
            _on_axis(end - begin),
            left=_on_axis(begin),
            height=thick,
            color="none" if r.inhibited_by else LIMITS[r.severity],
            edgecolor=LIMITS[r.severity],
            hatch="////" if r.inhibited_by else None,
            linewidth=0.8,
            zorder=2 + SEVERITIES.index(r.severity),
        )
        if r.sent and not any(
            o.alert == r.alert and SEVERITIES.index(o.severity) > SEVERITIES.index(r.severity) for o in changes
        ):
            ax.text(
                _on_axis(begin),
                y + 0.42,
                f"{r.severity} {begin.astimezone(formatting.NEW_YORK):%H:%M:%S}",
                fontsize=7,
                color=LIMITS[r.severity],
                va="center",
            )
    ax.set_yticks(
        range(len(rows)),
        [named(rules[rule], subject) if rule in rules.rules else rule for rule, subject in reversed(rows)],
    )
    ax.set_ylim(-0.6, max(len(rows), 1) - 0.2)
    _time(ax, window)
    ax.legend(
        handles=[_legend_patch(severity) for severity in SEVERITIES] + [_legend_patch(None)],
        ncols=5,
        fontsize=7,
        frameon=False,
        loc="lower left",
        bbox_to_anchor=(0, 1.0),
    )
    return ax


def _on_axis(at: datetime | timedelta) -> Any:
    """Return a time or a span for a matplotlib axis; its type hints allow only numbers."""
    return at


def with_markers(ax: "Axes", marks: Iterable[Marker]) -> "Axes":
    """Add a labelled line for each marker."""
    for mark in marks:
        at = _on_axis(instant(mark.ts_us))
        ax.axvline(at, color="#555555", linestyle=(0, (2, 2)), linewidth=1)
        ax.annotate(
            f" {mark.kind}: {formatting.single_line(mark.words, 24)}".replace("$", r"\$"),
            (at, 1),
            xycoords=("data", "axes fraction"),
            va="top",
            fontsize=7,
            rotation=90,
            color="#555555",
        )
    return ax


def with_beginning(ax: "Axes", since_us: int, window: Window) -> "Axes":
    """Add a labelled line where an alert began, if that is in the window; microseconds since 1970."""
    at = instant(since_us)
    if window.start <= at <= window.end:
        ax.axvline(_on_axis(at), color=INK, linewidth=1.2)
        ax.annotate(
            f"began {at.astimezone(formatting.NEW_YORK):%H:%M}",
            (_on_axis(at), 1.02),
            xycoords=("data", "axes fraction"),
            ha="right" if (at - window.start).total_seconds() > window.seconds / 2 else "left",
            fontsize=9,
            fontweight="bold",
            color=INK,
        )
    return ax


def _legend_patch(severity: str | None) -> Any:
    """Return the legend entry of a severity; None is for inhibited alerts."""
    from matplotlib.patches import Patch

    return (
        Patch(facecolor=LIMITS[severity], label=severity)
        if severity
        else Patch(facecolor="none", edgecolor=INK, hatch="////", label="inhibited")
    )


def _step_minutes(window: Window) -> int:
    """Return the length of a step of a chart: about sixty are drawn."""
    return max(1, round(window.seconds / 60 / 60))


def _each(window: Window) -> str:
    """Return what each point of a chart covers, such as ``per 6 min``."""
    minutes = _step_minutes(window)
    return f"per {minutes} min" if minutes > 1 else "per minute"


def _steps(window: Window) -> list[Window]:
    """
    Divide the window into about sixty steps that begin at full minutes of the clock.

    So charts of overlapping windows show the same values; only the first and the last step may be shorter.
    """
    step_us = _step_minutes(window) * 60 * SECOND
    inner = range(window.start_us // step_us * step_us + step_us, window.end_us, step_us)
    edges = [window.start, *map(instant, inner), window.end]
    return [Window(a, b) for a, b in itertools.pairwise(edges)]


def _time(ax: "Axes", window: Window) -> None:
    """Format the time axis."""
    from matplotlib.dates import AutoDateLocator, DateFormatter

    locator = AutoDateLocator(tz=formatting.NEW_YORK, minticks=4, maxticks=9)
    ax.xaxis.set_major_locator(locator)
    ax.xaxis.set_major_formatter(DateFormatter("%H:%M", tz=formatting.NEW_YORK))
    ax.set_xlim(_on_axis(window.start), _on_axis(window.end))
    ax.set_xlabel("New York time", color=SOFT, fontsize=8)
    ax.tick_params(labelsize=8, colors=INK)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)


def _frame(ax: "Axes", counters: CounterHistory, window: Window, unit: str) -> None:
    """Draw the time axis, the unit, page reloads and the periods without snapshots."""
    _time(ax, window)
    ax.set_ylabel(unit, color=INK, fontsize=9)
    for gap in counters.gaps(window):
        ax.axvspan(
            _on_axis(gap.start),
            _on_axis(gap.end),
            facecolor="none",
            edgecolor=GREY,
            hatch="////",
            linewidth=0,
            alpha=0.5,
        )
        if gap.seconds > window.seconds / 20:
            ax.text(
                _on_axis(gap.start + (gap.end - gap.start) / 2),
                0.5,
                "no snapshots",
                transform=ax.get_xaxis_transform(),
                ha="center",
                color=INK,
                fontsize=8,
                rotation=90 if gap.seconds < window.seconds / 8 else 0,
            )
    for at in map(_on_axis, counters.reloads(window)):
        ax.axvline(at, color=GREY, linestyle=":", linewidth=1)
        ax.text(
            at,
            1.0,
            " page reloaded",
            transform=ax.get_xaxis_transform(),
            va="bottom",
            ha="center",
            color=SOFT,
            fontsize=7,
        )


def _limits(ax: "Axes", rule: Rule, scale: float, highest: float | None = None) -> None:
    """
    Draw the rule's thresholds as lines, each with its severity and value; labels of near lines are moved apart.

    Thresholds far above all values are left out. The limits of the value axis must be set before.
    """
    drawn = [
        (severity, limit * scale)
        for severity, limit in rule.thresholds
        if not isinstance(limit, str) and (highest is None or limit * scale <= highest)
    ]
    for severity, at in drawn:
        ax.axhline(at, color=LIMITS[severity], linewidth=1, linestyle=(0, (6, 3)), zorder=1)
    heights = [float(ax.transAxes.inverted().transform(ax.transData.transform((0, at)))[1]) for _, at in drawn]
    for (severity, at), height in zip(drawn, apart(heights, LABEL_HEIGHT)):
        if -0.05 <= height <= 1.2:
            ax.text(
                1.005,
                height,
                f"{formatting.SIGNS[severity]} {severity} {at:g}",
                transform=ax.transAxes,
                va="center",
                color=LIMITS[severity],
                fontsize=7,
            )


def apart(heights: list[float], least: float) -> list[float]:
    """Return positions of labels as near to the given ones as possible, in the same order, at least so far apart."""
    order = sorted(range(len(heights)), key=lambda i: heights[i])
    groups: list[list[int]] = []
    for i in order:
        groups.append([i])
        while len(groups) > 1 and _bottom(groups[-1], heights, least) < _top(groups[-2], heights, least) + least:
            groups[-2:] = [groups[-2] + groups[-1]]
    placed = list(heights)
    for group in groups:
        bottom = _bottom(group, heights, least)
        for n, i in enumerate(group):
            placed[i] = bottom + n * least
    return placed


def _bottom(group: list[int], heights: list[float], least: float) -> float:
    """Return the lowest position of labels that stand closely together around their mean."""
    return sum(heights[i] for i in group) / len(group) - least * (len(group) - 1) / 2


def _top(group: list[int], heights: list[float], least: float) -> float:
    return _bottom(group, heights, least) + least * (len(group) - 1)


def _broken_below(ax: "Axes", lowest: float) -> None:
    """
    Set a value axis in % from 90 to 100, where the thresholds are.

    If there are lower values, 0 to 90 is compressed into a quarter of the axis, and the break is marked.
    """
    if lowest >= BREAK:
        ax.set_ylim(BREAK, 100.4)
        ax.set_yticks([90, 92, 94, 96, 98, 100])
        return
    steep = BREAK / BREAK_HEIGHT

    def drawn(values: Any) -> Any:
        import numpy as np

        return np.where(values < BREAK, BREAK - (BREAK - values) / steep, values)

    def valued(places: Any) -> Any:
        import numpy as np

        return np.where(places < BREAK, BREAK - (BREAK - places) * steep, places)

    ax.set_yscale("function", functions=(drawn, valued))
    ax.set_ylim(-5, 100.4)
    ax.set_yticks([0, 45, 90, 92, 94, 96, 98, 100])
    ax.axhspan(-5, BREAK, facecolor="#eef1f4", zorder=0)
    ax.axhline(BREAK, color=INK, linewidth=0.8, zorder=1)
    ax.text(
        0.995,
        BREAK - 4,
        f"below {BREAK} %: another scale",
        transform=ax.get_yaxis_transform(),
        va="top",
        ha="right",
        fontsize=7,
        color=INK,
    )


def _rates(counters: CounterHistory, steps: list[Window], part: str, count: str) -> list[tuple[Window, float]]:
    rates = ((step, counters.increase(part, step), counters.increase(count, step)) for step in steps)
    return [(step, 100 * some / total) for step, some, total in rates if total and some is not None]


def _line(ax: "Axes", points: list[tuple[Window, float]], which: int, label: str) -> None:
    """Draw a line through points, with a gap where a step has no point."""
    colour, dash, marker = LINES[which]
    xs, ys = [], []
    for i, (step, value) in enumerate(points):
        if i and points[i - 1][0].end != step.start:
            xs.append(_on_axis(points[i - 1][0].end))
            ys.append(float("nan"))
        xs.append(_on_axis(step.start + (step.end - step.start) / 2))
        ys.append(value)
    ax.plot(xs, ys, color=colour, linestyle=dash, marker=marker, markersize=3, linewidth=1.4, label=label, zorder=3)


def providers(ax: "Axes", counters: CounterHistory, window: Window, rules: Rules) -> "Axes":
    """Draw the availability of each provider over time, %."""
    steps = _steps(window)
    _frame(ax, counters, window, f"availability {_each(window)}, %")
    lowest = 100.0
    for i, name in enumerate(n for n in rules["availability"].subjects if n in counters.wired):
        points = _rates(counters, steps, f"{name}_successes", f"{name}_requests")
        lowest = min([lowest, *(v for _, v in points)])
        _line(ax, points, i, name)
    _broken_below(ax, lowest)
    _limits(ax, rules["availability"], 100)
    return _legend(ax)


def greeks(ax: "Axes", counters: CounterHistory, window: Window, rules: Rules) -> "Axes":
    """Draw the share of valid Greeks, and of those whose gamma is zero or missing, over time, %."""
    steps = _steps(window)
    _frame(ax, counters, window, f"share of validations {_each(window)}, %")
    _line(ax, _rates(counters, steps, "greeks_valid", "validations"), 0, "valid")
    _line(ax, _rates(counters, steps, "gamma_zero", "validations"), 1, OF_GREEKS["gamma_zero"])
    ax.set_ylim(-3, 103)
    _limits(ax, rules["greeks_valid"], 100)
    return _legend(ax)


def invalid_greeks(ax: "Axes", counters: CounterHistory, window: Window, rule: Rule) -> "Axes":
    """Draw the share of Greeks with one error over time, %, with the thresholds of its rule, one of `OF_GREEKS`."""
    _frame(ax, counters, window, f"share of validations {_each(window)}, %")
    points = _rates(counters, _steps(window), rule.name, "validations")
    _line(ax, points, 1, OF_GREEKS[rule.name])
    highest = max([v for _, v in points] + [limit * 100 for _, limit in rule.thresholds if not isinstance(limit, str)])
    ax.set_ylim(-0.03 * highest, 1.1 * highest)
    _limits(ax, rule, 100)
    return _legend(ax)


def pnl(ax: "Axes", counters: CounterHistory, window: Window, rules: Rules) -> "Axes":
    """Draw the page's backtest variance as trades close, and the mean net result of the trades of each step."""
    rule = rules["backtest_variance"]
    _frame(ax, counters, window, "points (line), % (bars)")
    highest = 12.0
    variance = []
    for step in _steps(window):
        found = indicators.pnl(counters, step, rule.min_count)
        if found["backtest_variance_pp"] is not None and (found["variance_trades"] or 0) >= rule.min_count:
            variance.append((step, found["backtest_variance_pp"]))
            highest = max(highest, found["backtest_variance_pp"] * 1.1)
        if found["trades"] and found["net_pct"] is not None:
            ax.bar(
                _on_axis(step.start + (step.end - step.start) / 2),
                found["net_pct"],
                width=_on_axis((step.end - step.start) * 0.8),
                color=LINES[1][0],
                alpha=0.45,
                zorder=2,
            )
    ax.plot([], [], color=LINES[1][0], alpha=0.45, linewidth=7, label="net result of the trades, %")
    _line(ax, variance, 0, "backtest variance, points")
    ax.axhline(0, color=GREY, linewidth=0.8)
    ax.set_ylim(min(ax.get_ylim()[0], -highest / 10), max(ax.get_ylim()[1], highest))
    _limits(ax, rule, 1, highest)
    return _legend(ax)


def system(ax: "Axes", counters: CounterHistory, window: Window, rules: Rules) -> "Axes":
    """Draw the errors of each step, and when a WebSocket was down."""
    steps = _steps(window)
    _frame(ax, counters, window, f"errors {_each(window)}")
    for step in steps:
        errors = counters.increase("errors", step)
        if errors:
            ax.bar(
                _on_axis(step.start + (step.end - step.start) / 2),
                errors,
                width=_on_axis((step.end - step.start) * 0.8),
                color=LINES[0][0],
                zorder=2,
            )
    ax.plot([], [], color=LINES[0][0], linewidth=7, label="errors")
    down = counters.websocket_down_spans(window) if "websocket" in counters.wired else []
    for i, (a, b) in enumerate(down):
        ax.axvspan(
            _on_axis(instant(a)),
            _on_axis(instant(b)),
            color=LIMITS["critical"],
            alpha=0.25,
            label="WebSocket down" if i == 0 else None,
        )
    ax.set_ylim(bottom=0)
    if ax.get_ylim()[1] < 5:
        ax.set_ylim(0, 5)
    return _legend(ax)


def response_times(ax: "Axes", probed: ProbeHistory, window: Window, rules: Rules, subjects: tuple[str, ...]) -> "Axes":
    """Draw the response time of each probe; failed probes are crosses at the top."""
    _time(ax, window)
    ax.set_ylabel("response time, s", color=INK, fontsize=9)
    rule, slowest = rules["response_time"], 0.0
    for i, subject in enumerate(subjects):
        colour, _, marker = LINES[i]
        found = probed.within(IS_THERE[subject], subject, window)
        good = [(s.ts_us, s.seconds) for s in found if OUTCOMES[s.outcome].usable and s.seconds is not None]
        bad = [s for s in found if not OUTCOMES[s.outcome].usable]
        ax.plot(
            [_on_axis(instant(ts_us)) for ts_us, _ in good],
            [seconds for _, seconds in good],
            linestyle="none",
            marker=marker,
            markersize=2.5,
            color=colour,
            label=subject,
            zorder=3,
        )
        ax.plot(
            [_on_axis(instant(s.ts_us)) for s in bad],
            [0.98 - 0.05 * i] * len(bad),
            linestyle="none",
            marker="x",
            markersize=4,
            color=colour,
            label=f"{subject}: no usable response" if bad else None,
            transform=ax.get_xaxis_transform(),
            zorder=3,
        )
        slowest = max([slowest, *(seconds for _, seconds in good)])
    warning = rule.thresholds[0][1]
    ax.set_ylim(0, max(slowest * 1.25, float(warning) * 1.4))
    _limits(ax, rule, 1, max(slowest * 1.25, float(warning)))
    return _legend(ax)


def smile(ax: "Axes", quality: "ChainQuality") -> "Axes":
    """
    Draw the volatility at each strike of the core contracts, for the three expirations that have most of them.

    Contracts with a fault are crosses.
    """
    import numpy as np

    fair_value, core = quality.fair_value, quality.core
    iv = quality.chain.frame["iv"].to_numpy(dtype=float) / (100.0 if quality.units["iv"] == "percent" else 1.0)
    iv = np.where(np.isfinite(iv), iv, fair_value.iv_mid)
    groups, sizes = np.unique(fair_value.grid.group[core], return_counts=True)
    bad = core & ~quality.faults.clean
    for i, group in enumerate(sorted(groups[np.argsort(-sizes, kind="stable")][:3])):
        colour, dash, marker = SMILES[i]
        rows = np.flatnonzero(core & ~bad & (fair_value.grid.group == group) & np.isfinite(iv))
        rows = rows[np.argsort(fair_value.strike[rows], kind="stable")]
        day = quality.chain.frame["expiry"].iloc[rows[0]].tz_convert(formatting.NEW_YORK) if len(rows) else None
        for side, filled in ((True, colour), (False, "none")):
            own = rows[fair_value.call[rows] == side]
            ax.plot(
                fair_value.strike[own],
                iv[own] * 100,
                linestyle=dash if side else "none",
                marker=marker,
                markersize=3.5,
                linewidth=0.8,
                color=colour,
                markerfacecolor=filled,
                label=f"{day:%Y-%m-%d}" if side and day is not None else None,
                zorder=3,
            )
    wrong = np.flatnonzero(bad)
    if len(wrong):
        ax.plot(
            fair_value.strike[wrong],
            np.clip(np.nan_to_num(iv[wrong] * 100), 0, None),
            linestyle="none",
            marker="x",
            markersize=6,
            color=LIMITS["critical"],
            label=f"{len(wrong):,} with a fault",
            zorder=4,
        )
    ax.set_xlabel("strike, USD (filled: calls, hollow: puts)", color=GREY, fontsize=8)
    ax.set_ylabel("implied volatility, %", color=INK, fontsize=9)
    good = iv[core & ~bad & np.isfinite(iv)] * 100
    if len(good):
        ax.set_ylim(0, float(good.max()) * 1.25)
    ax.tick_params(labelsize=8, colors=INK)
    ax.grid(axis="y", color="#e4e7eb", linewidth=0.6)
    return _legend(ax)


def waterfall(ax: "Axes", start: tuple[str, float], steps: list[tuple[str, float]], end: tuple[str, float]) -> "Axes":
    """Draw a waterfall from one sum of dollars to another; each bar has its amount, negative steps are hatched."""
    at, names = start[1], [start[0], *(name for name, _ in steps), end[0]]
    ax.bar(0, start[1], color=LINES[0][0], width=0.6)
    tops = [max(start[1], 0.0)]
    for i, (_, step) in enumerate(steps, 1):
        ax.bar(
            i,
            step,
            bottom=at,
            width=0.6,
            color="white" if step < 0 else LINES[1][0],
            edgecolor=LINES[1][0],
            hatch="////" if step < 0 else None,
            linewidth=1,
        )
        ax.plot([i - 1 + 0.3, i - 0.3], [at, at], color=GREY, linewidth=0.8)
        tops.append(max(at, at + step))
        at += step
    ax.plot([len(steps) + 0.3, len(steps) + 0.7], [at, at], color=GREY, linewidth=0.8)
    ax.bar(len(names) - 1, end[1], color=LINES[0][0], width=0.6)
    tops.append(max(end[1], 0.0))
    low, high = ax.get_ylim()
    ax.set_ylim(low - (high - low) * 0.04, high + (high - low) * 0.12)
    for i, value in enumerate([start[1], *(step for _, step in steps), end[1]]):
        sign = "+" if 0 < i < len(names) - 1 and value > 0 else ""
        ax.text(
            i,
            tops[i] + (high - low) * 0.02,
            f"{sign}{formatting.dollars(value)}",
            ha="center",
            va="bottom",
            fontsize=8,
            color=INK,
        )
    ax.axhline(0, color=INK, linewidth=0.8)
    ax.set_xticks(range(len(names)), names, fontsize=8)
    ax.set_ylabel("dollars, all paired trades", color=INK, fontsize=9)
    ax.tick_params(labelsize=8, colors=INK)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    return ax


def _legend(ax: "Axes") -> "Axes":
    """Add a legend below the chart."""
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.22), ncols=4, frameon=False, fontsize=8)
    return ax


def png(draw: Callable[["Axes"], Any], size: tuple[float, float] = SIZE_INCHES) -> bytes:
    """Render a chart as PNG; the same data gives the same bytes."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with rc_context({"font.family": "DejaVu Sans", "hatch.linewidth": 0.4, "timezone": "UTC"}):
        figure = Figure(figsize=size, dpi=DPI, facecolor="white")
        FigureCanvasAgg(figure)
        draw(figure.subplots())
        out = io.BytesIO()
        figure.savefig(out, format="png", bbox_inches="tight", metadata={"Software": None})
    return out.getvalue()
