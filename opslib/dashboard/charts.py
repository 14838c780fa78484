"""
Draw counters, probes and alerts on an Axes.

Each picture shows a time series with its limits as labelled lines. Where no look came the picture is hatched and says
so; a gap is never bridged by a line. Colour never stands alone: lines differ in dash and marker, limits carry words.
"""

import io
import itertools
from collections.abc import Callable, Iterable
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, Any

from opslib.alerting.history import SeverityChange
from opslib.alerting.verdicts import named
from opslib.foundation import formatting
from opslib.foundation.clock import Window, instant
from opslib.foundation.config.rules import SEVERITIES, Rule, Rules
from opslib.telemetry.markers import Marker
from opslib.telemetry.pages import indicators
from opslib.telemetry.pages.counters import CounterHistory
from opslib.telemetry.probes.history import IS_THERE, ProbeHistory
from opslib.telemetry.probes.outcomes import OUTCOMES

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from opslib.trading.options.chain_quality import ChainQuality

INK, GREY = "#1f2933", "#8a94a0"
LINES = (("#0b5cad", "-", "o"), ("#b3540a", "--", "s"))
SMILES = (*LINES, ("#4a6b2a", ":", "^"))
LIMITS = {"warning": "#b58900", "notify": "#cb6a16", "critical": "#c0392b", "escalate": "#8e1b3a"}
SIZE_INCHES, DPI = (9.0, 2.7), 110


def show(
    words: dict[str, str], draw: Callable[["Axes"], Any], name: str, told: str, size: tuple[float, float] = SIZE_INCHES
) -> None:
    """Show words and the picture that goes with them in a notebook; `told` is the picture for who cannot see it."""
    from IPython.display import display

    display(words, raw=True)
    display(
        {"text/plain": f"[picture: {name}]", "image/png": png(draw, size)},
        metadata={"image/png": {"alt": told}},
        raw=True,
    )


def alerts(ax: "Axes", rises: list[SeverityChange], window: Window, rules: Rules) -> "Axes":
    """
    When did alerts fire, and how loud?

    One row for each rule and subject; the louder, the thicker; hatched is explained away.
    """
    rows = list(dict.fromkeys((r.rule, r.subject) for r in rises))
    for r in sorted(rises, key=lambda r: SEVERITIES.index(r.severity)):
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
            o.alert == r.alert and SEVERITIES.index(o.severity) > SEVERITIES.index(r.severity) for o in rises
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
        handles=[_key(severity) for severity in SEVERITIES] + [_key(None)],
        ncols=5,
        fontsize=7,
        frameon=False,
        loc="lower left",
        bbox_to_anchor=(0, 1.0),
    )
    return ax


def _on_axis(at: datetime | timedelta) -> Any:
    """A time, or a span of it, as matplotlib takes it on an axis, though its types only name numbers."""
    return at


def with_markers(ax: "Axes", marks: Iterable[Marker]) -> "Axes":
    """The same picture with a line for each marker, named where it stands."""
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


def _key(severity: str | None) -> Any:
    """What a bar of the picture of alerts means."""
    from matplotlib.patches import Patch

    return (
        Patch(facecolor=LIMITS[severity], label=severity)
        if severity
        else Patch(facecolor="none", edgecolor=INK, hatch="////", label="explained by another")
    )


def _steps(window: Window) -> list[Window]:
    """The window in about sixty steps of whole minutes."""
    step = timedelta(minutes=max(1, round(window.seconds / 60 / 60)))
    edges = [window.start]
    while edges[-1] < window.end:
        edges.append(min(edges[-1] + step, window.end))
    return [Window(a, b) for a, b in itertools.pairwise(edges)]


def _time(ax: "Axes", window: Window) -> None:
    """The time axis."""
    from matplotlib.dates import AutoDateLocator, DateFormatter

    locator = AutoDateLocator(tz=formatting.NEW_YORK, minticks=4, maxticks=9)
    ax.xaxis.set_major_locator(locator)
    ax.xaxis.set_major_formatter(DateFormatter("%H:%M", tz=formatting.NEW_YORK))
    ax.set_xlim(_on_axis(window.start), _on_axis(window.end))
    ax.set_xlabel("New York time", color=GREY, fontsize=8)
    ax.tick_params(labelsize=8, colors=INK)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)


def _frame(ax: "Axes", tape: CounterHistory, window: Window, unit: str) -> None:
    """Time axis, unit, reloads and the stretches in which nothing was seen."""
    _time(ax, window)
    ax.set_ylabel(unit, color=INK, fontsize=9)
    for gap in tape.gaps(window):
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
                "no looks",
                transform=ax.get_xaxis_transform(),
                ha="center",
                color=INK,
                fontsize=8,
                rotation=90 if gap.seconds < window.seconds / 8 else 0,
            )
    for at in map(_on_axis, tape.reloads(window)):
        ax.axvline(at, color=GREY, linestyle=":", linewidth=1)
        ax.text(
            at,
            1.0,
            " page reloaded",
            transform=ax.get_xaxis_transform(),
            va="bottom",
            ha="center",
            color=GREY,
            fontsize=7,
        )


def _limits(ax: "Axes", rule: Rule, scale: float, highest: float | None = None) -> None:
    """
    The rule's limits as lines with their names; those far above anything drawn are left out, near ones share a line of
    text.
    """
    low, high = ax.get_ylim()
    labels: list[tuple[float, list[str]]] = []
    for rung, limit in rule.ladder:
        if isinstance(limit, str) or (highest is not None and limit * scale > highest):
            continue
        at = limit * scale
        ax.axhline(at, color=LIMITS[rung], linewidth=1, linestyle=(0, (6, 3)), zorder=1)
        if labels and abs(labels[-1][0] - at) < (high - low) * 0.07:
            labels[-1][1].append(rung)
        else:
            labels.append((at, [rung]))
    for at, names in labels:
        ax.text(
            1.005,
            at,
            "/".join(names),
            transform=ax.get_yaxis_transform(),
            va="center",
            color=LIMITS[names[-1]],
            fontsize=7,
        )


def _rates(tape: CounterHistory, steps: list[Window], part: str, count: str) -> list[tuple[Window, float]]:
    rates = ((step, tape.rise(part, step), tape.rise(count, step)) for step in steps)
    return [(step, 100 * some / total) for step, some, total in rates if total and some is not None]


def _line(ax: "Axes", points: list[tuple[Window, float]], which: int, label: str) -> None:
    """A line through points, broken where a step between them has none."""
    colour, dash, marker = LINES[which]
    xs, ys = [], []
    for i, (step, value) in enumerate(points):
        if i and points[i - 1][0].end != step.start:
            xs.append(_on_axis(points[i - 1][0].end))
            ys.append(float("nan"))
        xs.append(_on_axis(step.start + (step.end - step.start) / 2))
        ys.append(value)
    ax.plot(xs, ys, color=colour, linestyle=dash, marker=marker, markersize=3, linewidth=1.4, label=label, zorder=3)


def providers(ax: "Axes", tape: CounterHistory, window: Window, rules: Rules) -> "Axes":
    """Availability of each provider over time, %."""
    steps = _steps(window)
    _frame(ax, tape, window, "availability, %")
    lowest = 100.0
    for i, name in enumerate(n for n in rules["availability"].subjects if n in tape.alive):
        points = _rates(tape, steps, f"{name}_successes", f"{name}_requests")
        lowest = min([lowest, *(v for _, v in points)])
        _line(ax, points, i, name)
    ax.set_ylim(min(lowest, 94) - (4 if lowest < 90 else 0.5), 100.4 if lowest >= 90 else 103)
    _limits(ax, rules["availability"], 100)
    return _named(ax)


def greeks(ax: "Axes", tape: CounterHistory, window: Window, rules: Rules) -> "Axes":
    """Valid Greeks, and the share whose gamma is zero or missing, over time, %."""
    steps = _steps(window)
    _frame(ax, tape, window, "of validations, %")
    _line(ax, _rates(tape, steps, "greeks_valid", "validations"), 0, "valid")
    _line(ax, _rates(tape, steps, "gamma_zero", "validations"), 1, "gamma zero or missing")
    ax.set_ylim(-3, 103)
    _limits(ax, rules["greeks_valid"], 100)
    return _named(ax)


def pnl(ax: "Axes", tape: CounterHistory, window: Window, rules: Rules) -> "Axes":
    """Backtest variance of the page as trades close, and the mean net result of the trades of each step."""
    rule = rules["backtest_variance"]
    _frame(ax, tape, window, "points / %")
    highest = 12.0
    variance = []
    for step in _steps(window):
        found = indicators.pnl(tape, step, rule.min_count)
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
    _limits(ax, rule, 1, highest)
    ax.axhline(0, color=GREY, linewidth=0.8)
    return _named(ax)


def system(ax: "Axes", tape: CounterHistory, window: Window, rules: Rules) -> "Axes":
    """Errors in each step, and when a WebSocket was down."""
    steps = _steps(window)
    minutes = round(steps[0].seconds / 60)
    _frame(ax, tape, window, f"errors per {minutes} min" if minutes > 1 else "errors per minute")
    for step in steps:
        errors = tape.rise("errors", step)
        if errors:
            ax.bar(
                _on_axis(step.start + (step.end - step.start) / 2),
                errors,
                width=_on_axis((step.end - step.start) * 0.8),
                color=LINES[0][0],
                zorder=2,
            )
    ax.plot([], [], color=LINES[0][0], linewidth=7, label="errors")
    down = tape.websocket_down_spans(window) if "websocket" in tape.alive else []
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
    return _named(ax)


def looked(ax: "Axes", probed: ProbeHistory, window: Window, rules: Rules, subjects: tuple[str, ...]) -> "Axes":
    """How long each of our looks took; those that gave nothing usable stand as crosses at the top."""
    _time(ax, window)
    ax.set_ylabel("answer within, s", color=INK, fontsize=9)
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
            label=f"{subject}: no usable answer" if bad else None,
            transform=ax.get_xaxis_transform(),
            zorder=3,
        )
        slowest = max([slowest, *(seconds for _, seconds in good)])
    warning = rule.ladder[0][1]
    ax.set_ylim(0, max(slowest * 1.25, float(warning) * 1.4))
    _limits(ax, rule, 1, max(slowest * 1.25, float(warning)))
    return _named(ax)


def by_day(
    ax: "Axes", rows: "list[tuple[date, dict[str, float | None]]]", unit: str, rule: Rule | None, scale: float
) -> "Axes":
    """Figures day by day; a day of which one is not known is hatched, and says so."""
    names = list(rows[0][1]) if rows else []
    for i, name in enumerate(names):
        colour, dash, marker = LINES[i]
        ax.plot(
            range(len(rows)),
            [float("nan") if (v := found[name]) is None else v for _, found in rows],
            color=colour,
            linestyle=dash,
            marker=marker,
            markersize=5,
            linewidth=1.4,
            label=name,
            zorder=3,
        )
    for at, (_, found) in enumerate(rows):
        if all(v is None for v in found.values()):
            ax.axvspan(at - 0.4, at + 0.4, facecolor="none", edgecolor=GREY, hatch="////", linewidth=0, alpha=0.5)
            ax.text(
                at,
                0.5,
                "not known",
                transform=ax.get_xaxis_transform(),
                ha="center",
                color=INK,
                fontsize=8,
                rotation=90,
            )
    step = max(1, len(rows) // 12)
    ax.set_xticks(range(0, len(rows), step), [f"{day:%m-%d}" for day, _ in rows][::step])
    ax.set_xlim(-0.6, max(len(rows), 1) - 0.4)
    known = [v for _, found in rows for v in found.values() if v is not None]
    if rule is None or rule.better == "lower":
        ax.set_ylim(0, max([*known, 1.0]) * 1.2)
    else:
        ax.set_ylim(min([*known, 94.0]) - 1, 100.5)
    if rule:
        _limits(ax, rule, scale, max([*known, 1.0]) * 1.2 if rule.better == "lower" else None)
    ax.set_ylabel(unit, color=INK, fontsize=9)
    ax.set_xlabel("trading day, New York", color=GREY, fontsize=8)
    ax.tick_params(labelsize=8, colors=INK)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    return _named(ax) if names else ax


def smile(ax: "Axes", quality: "ChainQuality") -> "Axes":
    """
    Volatility at each strike of the core, of the three expirations with most of it; what has a fault stands as a cross.
    """
    import numpy as np

    theory, core = quality.theory, quality.core
    iv = quality.chain.frame["iv"].to_numpy(dtype=float) / (100.0 if quality.units["iv"] == "percent" else 1.0)
    iv = np.where(np.isfinite(iv), iv, theory.iv_mid)
    groups, sizes = np.unique(theory.grid.group[core], return_counts=True)
    bad = core & ~quality.faults.clean
    for i, group in enumerate(sorted(groups[np.argsort(-sizes, kind="stable")][:3])):
        colour, dash, marker = SMILES[i]
        rows = np.flatnonzero(core & ~bad & (theory.grid.group == group) & np.isfinite(iv))
        rows = rows[np.argsort(theory.strike[rows], kind="stable")]
        day = quality.chain.frame["expiry"].iloc[rows[0]].tz_convert(formatting.NEW_YORK) if len(rows) else None
        for side, filled in ((True, colour), (False, "none")):
            own = rows[theory.call[rows] == side]
            ax.plot(
                theory.strike[own],
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
            theory.strike[wrong],
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
    return _named(ax)


def waterfall(ax: "Axes", start: tuple[str, float], steps: list[tuple[str, float]], end: tuple[str, float]) -> "Axes":
    """
    From one sum of dollars to another, step by step; each bar says how much it is, and hatching what makes it less.
    """
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
    ax.set_ylabel("dollars, over all pairs", color=INK, fontsize=9)
    ax.tick_params(labelsize=8, colors=INK)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    return ax


def _named(ax: "Axes") -> "Axes":
    """The names of the lines, below the picture where they hide nothing."""
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.22), ncols=4, frameon=False, fontsize=8)
    return ax


def png(draw: Callable[["Axes"], Any], size: tuple[float, float] = SIZE_INCHES) -> bytes:
    """A picture as PNG: the same bytes for the same tape."""
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
