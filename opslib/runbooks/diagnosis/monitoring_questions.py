"""
Ask the questions about what everything else is observed through: the market's hours, the clocks, our own collector's
time.

An answer's cause is empty where all is well, and None where nobody knows; see `answers.Found`.
"""

from collections.abc import Mapping

from opslib.alerting import probe_figures
from opslib.foundation import clock, formatting, market_calendar
from opslib.foundation.clock import Window
from opslib.foundation.config.limits import ProbeLimits
from opslib.foundation.config.rules import Rule
from opslib.runbooks.diagnosis.answers import Found
from opslib.telemetry.clock_skew import LATELY, compare
from opslib.telemetry.probes.history import IS_THERE, ProbeHistory


def market(probed: ProbeHistory, at_us: int) -> Found:
    """Whether the market is open: by the calendar, then by what the providers say."""
    question = "Is the market open?"
    if market_calendar.open_since(clock.instant(at_us)) is None:
        return Found(question, "no, by the calendar.", "market_closed")
    if not probed.market_shut(at_us):
        return Found(question, "yes.", "")
    return Found(
        question,
        f"no, by the last word of {' and '.join(probed.market_said_by(at_us))}, though the calendar has a session.",
        "market_closed",
    )


def collector(probed: ProbeHistory, limits: ProbeLimits, at_us: int) -> Found:
    """Whether our own collector gets the time that it needs; a share of it that it lost makes everything look slow."""
    question, window = "Does our collector get the time that it needs?", Window.before(clock.instant(at_us), LATELY)
    share, dropped = probed.lost_share(window), probed.starved(window)
    if share is None:
        return Found(question, "it does not run.", None)
    if share <= limits.starved_share:
        return Found(
            question,
            f"yes; it lost {formatting.ratio(share, 0)} of the last {formatting.duration(window.seconds)}.",
            "",
        )
    lost = f"; {dropped} probes say nothing for it" if dropped else ""
    return Found(
        question,
        f"no: in the last {formatting.duration(window.seconds)} it could not run for "
        f"{formatting.ratio(share, 0)} of the "
        f"time{lost}. What looks slow from here is not sure to be. See what else this machine does.",
        "monitor_down",
        "collector",
    )


def slow_everywhere(probed: ProbeHistory, rule: Rule, window: Window) -> bool:
    """Whether both providers and the app are all slow at once: what they share is our own network."""
    limit, p95 = (
        float(dict(rule.ladder)["warning"]),
        [probe_figures.p95_s(probed, subject, window) for subject in IS_THERE],
    )
    return all(seconds is not None and rule.past(seconds, limit) for seconds in p95)


def clocks(skews: Mapping[str, float], limit_s: float) -> list[Found]:
    """Whether all clocks agree: one answer for each that does not; ours where the others agree against it."""
    question = "Do all clocks agree?"
    if not skews:
        return [Found(question, "nobody says.", None)]
    found = compare(skews, limit_s)
    answers = zip(found.names, found.sentences)
    return [
        Found(question, f"no: {words}", "clock_skew", party, 1.0 if found.sure else 0.5) for party, words in answers
    ] or [Found(question, "yes.", "")]
