"""Draw alerts as bars on one time axis, in HTML that follows the colours of its page."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from opslib.dashboard.text_blocks import TextBlock
from opslib.foundation import formatting
from opslib.foundation.clock import Window

HOUR = timedelta(hours=1)
MOST_HOURS = 8  # The axis labels every hour of at most this many, else every second one.


@dataclass(frozen=True)
class Bar:
    """
    A stretch of time.

    Attributes:
        verdict: Its state, a key of `formatting.SIGNS`.
        thickness: From 1 to 4: a severity is thicker than a lower one.
        hollow: Whether it is drawn as an outline.
        lane: The line of its row, from 0; bars of different sources need different ones.
        words: What a reader sees who points at it.
    """

    begins: datetime
    ends: datetime
    verdict: str
    thickness: int = 4
    hollow: bool = False
    lane: int = 0
    words: str = ""


@dataclass(frozen=True)
class TimelineRow:
    """
    One row of a timeline.

    Attributes:
        label: What it is, in words.
        verdict: Its state, a key of `formatting.SIGNS`.
        when: When, and for how long.
        peak: How long of that time it had this state, such as ``for 3 min``; empty if that is all of it.
        sources: The source of each lane, written beside its last bar; empty if there is only one.
    """

    label: str
    verdict: str
    when: str
    bars: tuple[Bar, ...]
    peak: str = ""
    sources: tuple[str, ...] = ()

    @property
    def state(self) -> str:
        """Its state in words: ``peak escalate for 3 min``."""
        return f"peak {self.verdict} {self.peak}" if self.peak else self.verdict

    @property
    def lanes(self) -> int:
        """The number of lines that its bars need."""
        return 1 + max((bar.lane for bar in self.bars), default=0)


def timeline(title: str, window: Window, rows: list[TimelineRow], notes: list[str]) -> TextBlock:
    """
    Return rows with bars on the time axis of a window, New York time; plain text and Markdown list the rows.

    Args:
        title: What the chart shows.
        notes: Lines under it, such as what its bars mean.
    """

    def at(moment: datetime) -> float:
        share = (moment - window.start) / (window.end - window.start)
        return round(100 * min(max(share, 0.0), 1.0), 2)

    placed = [
        (
            row,
            [(bar, at(bar.begins), round(max(at(bar.ends) - at(bar.begins), 0.3), 2)) for bar in row.bars],
            [
                (source, lane, at(min(b.begins for b in mine)), at(max(b.ends for b in mine)))
                for lane, source in enumerate(row.sources)
                if (mine := [b for b in row.bars if b.lane == lane])
            ],
        )
        for row in rows
    ]
    signs = formatting.SIGNS
    lines = [f"{signs[row.verdict]} {row.when}  {row.label} ({row.state})" for row in rows]
    return TextBlock(
        "\n".join([title, *(f"  {line}" for line in lines)]),
        "dashboard/templates/timeline.html",
        {
            "title": title,
            "rows": placed,
            "hours": [(f"{hour:%H:%M}", at(hour)) for hour in _hours(window)],
            "notes": notes if rows else [],
            "signs": signs,
        },
        "\n".join([f"{formatting.in_markdown(title)}:", "", *(f"- {formatting.in_markdown(line)}" for line in lines)])
        if rows
        else formatting.in_markdown(title),
    )


def _hours(window: Window) -> list[datetime]:
    """Return the hours of the axis in New York time: full hours inside the window, and its start and end."""
    start, end = window.start.astimezone(formatting.NEW_YORK), window.end.astimezone(formatting.NEW_YORK)
    step = HOUR if window.end - window.start <= MOST_HOURS * HOUR else 2 * HOUR
    hour = start.replace(minute=0, second=0, microsecond=0) + HOUR
    inner = []
    while hour < end:
        inner.append(hour)
        hour += step
    near = step * 0.6  # Labels that are nearer overlap on a phone.
    return [start, *(h for h in inner if h - start > near and end - h > near), end]
