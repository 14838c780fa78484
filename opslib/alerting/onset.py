"""
Find when the problem of a finding began, which can be before its alert was pending.

A rate crosses a limit only when its confidence interval does, so its alert is pending later than the first failed
sample. The problem began with the stretch up to now whose failures exceed the allowed rate most.
"""

from collections.abc import Iterable

from opslib.alerting.verdicts import Finding
from opslib.foundation import clock
from opslib.foundation.clock import SECOND, Window
from opslib.foundation.storage.snapshot_columns import PROVIDERS
from opslib.telemetry.pages.counters import CounterHistory
from opslib.telemetry.probes.history import IS_THERE, KEPT, REQUEST_PROBES, ProbeHistory
from opslib.telemetry.probes.outcomes import OUTCOMES
from opslib.telemetry.probes.store import Sample

TIMES = ("websocket_down", "silence", "our_network", "app_down")  # Rules whose figure is the duration of the problem.
COUNTED = {"greeks_valid": "greeks_valid", "gamma_zero": "gamma_zero", "delta_out_of_bounds": "delta_out_of_bounds"}
Event = tuple[int, float, float]  # Time, number of failures, number of all.


def began_us(finding: Finding, counters: CounterHistory, probed: ProbeHistory | None, at_us: int) -> int | None:
    """
    Return when the problem of a finding began, microseconds since 1970; None if it is not known.

    It is at most the rule's window before the instant.
    """
    rule, value = finding.rule, finding.figure.value
    if value is None or not finding.severity:
        return None
    if rule.name in TIMES:
        return at_us - round(value * SECOND)
    window, limit = Window.before(clock.instant(at_us), rule.window), rule.thresholds[0][1]
    if rule.burn or isinstance(limit, str):
        return None
    if rule.name in ("response_time", "app_response_time") and probed:
        slow = [
            (s.ts_us, float(rule.crosses(s.seconds, limit)), 1.0)
            for s in probed.within(IS_THERE[finding.subject], finding.subject, window)
            if s.seconds is not None
        ]
        return _start(slow, 0.5)  # For a percentile: since when most responses are slow.
    if rule.name == "availability" and finding.subject == "app":  # No provider is available since the last one failed.
        each = [began_us(finding._replace(subject=subject), counters, probed, at_us) for subject in PROVIDERS]
        return max((us for us in each if us is not None), default=None)
    allowed = 1 - limit if rule.better == "higher" else limit
    if finding.source == "probe" and probed and rule.name in ("availability", "answers", "app_answers"):
        return _start(_failed(probed, rule.name, finding.subject, window), allowed)
    if finding.source == "page" and (rule.name == "availability" or rule.name in COUNTED):
        return _start(_counted(counters, rule.name, finding.subject, window), allowed)
    return None


def _start(events: Iterable[Event], allowed: float) -> int | None:
    """Return the time of the first failure of the stretch up to now whose failures exceed the allowed rate most."""
    most, total, found = 0.0, 0.0, None
    for at_us, bad, count in sorted(events, reverse=True):
        total += bad - allowed * count
        if bad and total > most:
            most, found = total, at_us
    return found


def _failed(probed: ProbeHistory, rule: str, subject: str, window: Window) -> list[Event]:
    probes = (IS_THERE[subject],) if rule == "availability" else REQUEST_PROBES
    samples: list[Sample] = [
        s for probe in probes for s in probed.within(probe, subject, window) if s.last and s.outcome != KEPT
    ]
    answers = [
        (s.ts_us, OUTCOMES[s.outcome].answered if rule == "availability" else OUTCOMES[s.outcome].usable)
        for s in samples
    ]
    return [(ts_us, float(not ok), 1.0) for ts_us, ok in answers if ok is not None]


def _counted(counters: CounterHistory, rule: str, subject: str, window: Window) -> list[Event]:
    """Return what the page counted between one snapshot and the next."""
    times = sorted(
        {ts_us for page in counters.pages for ts_us in page.times if window.start_us < ts_us <= window.end_us}
    )
    part, whole = (
        (f"{subject}_successes", f"{subject}_requests") if rule == "availability" else (COUNTED[rule], "validations")
    )
    found = list[Event]()
    for since_us, upto_us in zip([window.start_us, *times], times):
        between = Window(clock.instant(since_us), clock.instant(upto_us))
        some, count = counters.increase(part, between) or 0, counters.increase(whole, between) or 0
        good_counted = rule in ("availability", "greeks_valid")
        found.append((upto_us, float(count - some if good_counted else some), float(count)))
    return found
