"""
Decide which clock is off by comparing the clocks of all parties.

The parties are massive, tradier, app, page and the monitor (the collector's own clock). The time that most of them
share is taken as correct. If two groups are equally large, the result is not sure: the group with both providers is
then preferred, since their clocks are independent of each other and of ours; else the group with ours.
"""

import statistics
from collections.abc import Mapping
from datetime import timedelta
from typing import NamedTuple

from opslib.foundation import formatting
from opslib.telemetry.probes.history import ProbeHistory

OURS = "monitor"
PROVIDERS = frozenset({"massive", "tradier"})


class Clocks(NamedTuple):
    """
    The clocks that are off.

    Attributes:
        ours_s: Seconds by which our clock is ahead of the correct time; 0 if it is not off.
        off: Every other party whose clock is off, with the seconds by which it is ahead.
        sure: Whether one group of agreeing clocks is larger than any other.
    """

    ours_s: float
    off: dict[str, float]
    sure: bool

    @property
    def names(self) -> list[str]:
        """The parties whose clocks are off, ours first."""
        return [OURS, *self.off] if self.ours_s else list(self.off)

    @property
    def sentences(self) -> list[str]:
        """One sentence per clock that is off, with the amount; empty if all agree."""
        doubt = "" if self.sure else ", or another clock is off: too few clocks to decide. Compare them with a third"
        found, right = list[str](), "the collector's clock"
        if self.ours_s:
            right = "the other clocks"
            found.append(
                f"the collector's clock is {_by(self.ours_s)} {right}{doubt}. All times shown are off by that: set "
                f"the clock (NTP)."
            )
        return found + [
            f"the clock of {'the ' if party in ('app', 'page') else ''}{party} is {_by(skew_s)} {right}{doubt}."
            for party, skew_s in self.off.items()
        ]


def _by(ahead_s: float) -> str:
    return f"{formatting.duration(abs(ahead_s))} {'ahead of' if ahead_s > 0 else 'behind'}"


def compare(skews: Mapping[str, float], limit_s: float) -> Clocks:
    """
    Decide which clocks are off.

    Args:
        skews: The seconds by which each party's clock is ahead of ours.
        limit_s: Two clocks that differ by at most this agree.
    """
    voices = {OURS: 0.0, **skews}
    groups = [
        frozenset(name for name, at_s in voices.items() if abs(at_s - middle_s) <= limit_s)
        for middle_s in voices.values()
    ]
    largest = [group for group in groups if len(group) == max(map(len, groups))]
    with_providers = [group for group in largest if group >= PROVIDERS]
    if len(set(largest)) == 1 or all(OURS in group for group in largest):
        right, sure = largest[0], True
    else:
        right, sure = (with_providers or groups)[0], False
    right_s = 0.0 if OURS in right else statistics.median(voices[name] for name in right)
    off = {name: at_s - right_s for name, at_s in skews.items() if abs(at_s - right_s) > limit_s}
    return Clocks(0.0 if OURS in right else -right_s, off, sure)


PAGE = "page"
LATELY = timedelta(minutes=2)


def parties(probed: ProbeHistory, figures: Mapping[str, float | None], at_us: int) -> dict[str, float]:
    """Return by how many seconds each party's clock is ahead of ours, from our probes and the page's snapshots."""
    page = figures.get("clock_skew_s")
    return probed.skews(at_us) | ({PAGE: page} if page is not None else {})
