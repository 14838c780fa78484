"""Draw several figures by day as small charts with the same days, in HTML that follows the colours of its page."""

from dataclasses import dataclass
from datetime import date

from opslib.dashboard.charts import apart
from opslib.dashboard.text_blocks import TextBlock
from opslib.foundation import formatting

LEFT, RIGHT, TOP, BOTTOM = 58.0, 302.0, 12.0, 74.0  # The plot in a chart of 320 × 96.
HEADING = "Lowest and highest day"  # Of the list that plain text and Markdown have instead of charts.
SIGN_HEIGHT = 10.0  # How far the signs of near thresholds are kept apart.
MOST_DOTS = 31  # A line with more points has no dots.


@dataclass(frozen=True)
class Trend:
    """
    One figure by day.

    Attributes:
        label: What it is, in words.
        unit: Its unit; may be empty.
        digits: The decimals of its values.
        values: Its value on each day; None is unknown.
        limits: Severities with their thresholds, in the figure's unit.
        from_zero: Whether its axis includes zero.
    """

    label: str
    unit: str
    digits: int
    values: tuple[float | None, ...]
    limits: tuple[tuple[str, float], ...] = ()
    from_zero: bool = True

    def text(self, value: float) -> str:
        """Return a value with its unit."""
        return formatting.number(value, self.unit, self.digits)

    def mark(self, value: float) -> str:
        """Return a value for the axis, where only a percent sign fits."""
        return formatting.number(value, "%" if self.unit == "%" else "", self.digits)


def trends(days: list[date], found: list[Trend]) -> TextBlock:
    """Return a small chart for each figure; plain text and Markdown tell the lowest and the highest day of each."""
    charts = [_chart(days, trend) for trend in found]
    lines = [f"{trend.label}: {chart['words']}" for trend, chart in zip(found, charts)]
    return TextBlock(
        "\n".join([HEADING, *(f"  - {line}" for line in lines)]),
        "dashboard/templates/trends.html",
        {
            "charts": charts,
            "signs": formatting.SIGNS,
            "marks": [(_across(i, days), f"{days[i]:%m-%d}") for i in sorted({0, len(days) - 1}) if days],
            "left": LEFT,
            "right": RIGHT,
            "top": TOP,
            "bottom": BOTTOM,
        },
        "\n".join([f"### {HEADING}", "", *(f"- {formatting.in_markdown(line)}" for line in lines)]),
    )


def _chart(days: list[date], trend: Trend) -> dict[str, object]:
    """Return what the template draws: places in the chart, and words."""
    known = [(value, day) for value, day in zip(trend.values, days) if value is not None]
    if known:
        (least, first), (most, last) = min(known), max(known, key=lambda k: (k[0], -k[1].toordinal()))
        words = f"lowest {trend.text(least)} ({first:%m-%d}), highest {trend.text(most)} ({last:%m-%d})"
    else:
        words = "unknown on every day"
    near = [limit for _, limit in trend.limits[:1]]
    ends = [*(value for value, _ in known), *near, *([0.0] if trend.from_zero else [])]
    low, high = (min(ends), max(ends)) if ends else (0.0, 1.0)
    high = high if high > low else low + 1.0

    def up(value: float) -> float:
        return round(BOTTOM - (BOTTOM - TOP) * (value - low) / (high - low), 1)

    places = [None if value is None else (_across(i, days), up(value)) for i, value in enumerate(trend.values)]
    limits = [(severity, up(limit)) for severity, limit in trend.limits if low <= limit <= high]
    signs = apart([at for _, at in limits], SIGN_HEIGHT)
    lines, line = list[str](), list[str]()
    for place in [*places, None]:
        if place is not None:
            line.append(f"{place[0]},{place[1]}")
        elif line:
            lines, line = [*lines, " ".join(line)], []
    return {
        "label": trend.label,
        "words": words,
        "lines": lines,
        "dots": [place for place in places if place is not None] if len(days) <= MOST_DOTS else [],
        "gaps": [_across(i, days) for i, place in enumerate(places) if place is None],
        "limits": [(severity, at, sign) for (severity, at), sign in zip(limits, signs)],
        "zero": up(0.0) if low < 0 < high else None,
        "low": trend.mark(low),
        "high": trend.mark(high),
    }


def _across(i: int, days: list[date]) -> float:
    """Return the horizontal place of a day, the middle of its part of the axis."""
    return round(LEFT + (RIGHT - LEFT) * (i + 0.5) / len(days), 1)
