"""
Decide whose clock is off, by what every other party's clock says against ours.

The parties are massive, tradier, app and page; our own clock is one voice beside theirs. The time that most of them
share is taken as right. Where two groups are equally large it is not sure whose is; the one that holds both providers
is then likelier, since they are run apart from each other and from us and so share no error, else ours.
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
    Whose clock is off.

    Attributes:
        ours_s: Seconds by which our own clock is ahead of the time that is taken as right; 0 where it is not off.
        off: Every other party whose clock is off, with the seconds by which it is ahead of that time.
        sure: Whether more parties share that time than any other.
    """

    ours_s: float
    off: dict[str, float]
    sure: bool

    @property
    def names(self) -> list[str]:
        """Whose clock is off, ours first."""
        return [OURS, *self.off] if self.ours_s else list(self.off)

    @property
    def sentences(self) -> list[str]:
        """Whose clock is off and by how much, one sentence each; empty where all agree."""
        doubt = "" if self.sure else ", or another is: too few clocks are known to say whose. Compare them with a third"
        found, right = list[str](), "ours"
        if self.ours_s:
            right = "the others'"
            found.append(
                f"our own clock is {_by(self.ours_s)} {right}{doubt}: every time shown is off by that. Set it (NTP)."
            )
        return found + [
            f"the clock of {'the ' if party in ('app', 'page') else ''}{party} is {_by(skew_s)} {right}{doubt}."
            for party, skew_s in self.off.items()
        ]


def _by(ahead_s: float) -> str:
    return f"{formatting.duration(abs(ahead_s))} {'ahead of' if ahead_s > 0 else 'behind'}"


def compare(skews: Mapping[str, float], limit_s: float) -> Clocks:
    """
    Decide whose clock is off.

    Args:
        skews: By how many seconds each party's clock is ahead of ours.
        limit_s: Two clocks no further apart than this agree.
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
    """By how many seconds each party's clock is ahead of ours: those that we probe, and the app's page by its posts."""
    page = figures.get("clock_skew_s")
    return probed.skews(at_us) | ({PAGE: page} if page is not None else {})
