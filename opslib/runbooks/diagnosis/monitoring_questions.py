"""
Answer the diagnostic questions about market hours, clocks and the collector, on which all other answers depend.

The cause of an answer is empty if there is no fault, and None if it is unknown; see `answers.Found`.
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
    """Answer whether the market is open: by the calendar, then by the providers."""
    question = "Is the market open?"
    if market_calendar.open_since(clock.instant(at_us)) is None:
        return Found(question, "No, by the calendar.", "market_closed")
    if not probed.market_shut(at_us):
        return Found(question, "Yes.", "")
    return Found(
        question,
        f"No, by the last response of {' and '.join(probed.providers_with_market_state(at_us))}, "
        "although the calendar has a session.",
        "market_closed",
    )


def collector(probed: ProbeHistory, limits: ProbeLimits, at_us: int) -> Found:
    """Answer whether our collector gets enough processor time; without it, everything looks slow."""
    question, window = "Does our collector get enough processor time?", Window.before(clock.instant(at_us), LATELY)
    share, dropped = probed.lost_share(window), probed.starved(window)
    if share is None:
        return Found(question, "Unknown: it is not running.", None)
    if share <= limits.starved_share:
        return Found(
            question,
            f"Yes: it was delayed for {formatting.ratio(share, 0)} of the last {formatting.duration(window.seconds)}.",
            "",
        )
    lost = f"; {dropped} probes were discarded" if dropped else ""
    return Found(
        question,
        f"No: it could not run for {formatting.ratio(share, 0)} of the last "
        f"{formatting.duration(window.seconds)}{lost}. Response times measured here are unreliable. Check the load of "
        f"this machine.",
        "monitor_down",
        "collector",
    )


def slow_everywhere(probed: ProbeHistory, rule: Rule, window: Window) -> bool:
    """Return whether both providers and the app are slow at the same time; they share our network."""
    limit, p95 = (
        float(dict(rule.thresholds)["warning"]),
        [probe_figures.p95_s(probed, subject, window) for subject in IS_THERE],
    )
    return all(seconds is not None and rule.crosses(seconds, limit) for seconds in p95)


def clocks(skews: Mapping[str, float], limit_s: float) -> list[Found]:
    """Answer whether all clocks agree: one answer per wrong clock; ours if the others agree with each other."""
    question = "Do all clocks agree?"
    if not skews:
        return [Found(question, "Unknown: no clock to compare with.", None)]
    found = compare(skews, limit_s)
    answers = zip(found.names, found.sentences)
    return [
        Found(question, f"No: {words}", "clock_skew", party, 1.0 if found.sure else 0.5) for party, words in answers
    ] or [Found(question, "Yes.", "")]
