"""Measure the figure of each rule from our own probes."""

from bisect import bisect_right
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from opslib.alerting.verdicts import NOT_EXPECTED, NOT_MEASURED, Figure
from opslib.foundation import clock
from opslib.foundation.clock import SECOND, Window
from opslib.foundation.config.rules import Rule
from opslib.foundation.intervals import wilson
from opslib.telemetry import app_state
from opslib.telemetry.pages.counters import CounterHistory
from opslib.telemetry.pages.page_loads import PageLoad
from opslib.telemetry.probes.history import IS_THERE, KEPT, REQUEST_PROBES, ProbeHistory, Share
from opslib.telemetry.probes.outcomes import OUTCOMES
from opslib.telemetry.probes.store import Sample

CHAIN_LASTS_US = 2 * 900 * SECOND  # A chain is fetched each quarter of an hour; one that was missed is borne.
FIRST_GAPS = 15
LATE_SHARE = 0.05
_SEEN_BY = {
    # Which probe, and of whom (None: of the rule's subject), a rule's figure rests on.
    ("availability", "probe"): ("liveness", None),
    ("response_time", "probe"): ("liveness", None),
    ("answers", "probe"): ("liveness", None),
    ("app_answers", "probe"): ("health", "app"),
    ("websocket_latency", "probe"): ("socket", "app"),
    ("websocket_down", "probe"): ("socket", "app"),
    ("errors", "logs"): ("log", "app"),
    ("memory_growth", "probe"): ("process", "app"),
    ("dashboard_lag", "probe"): ("beat", "collector"),
    ("heartbeat", "probe"): ("beat", "collector"),
    ("greeks_valid", "chain"): ("chain", ""),
    ("gamma_zero", "chain"): ("chain", ""),
    ("delta_out_of_bounds", "chain"): ("chain", ""),
}


def seen(probed: ProbeHistory, rule: Rule, subject: str, source: str) -> bool:
    """Have we ever looked at what a rule is about, for that source?"""
    if rule.name == "app_down":
        return source == "probe" and (probed.seen("health", "app") or probed.seen("process", "app"))
    probe, whom = _SEEN_BY.get((rule.name, source), (None, None))
    if probe is None:
        return False
    if whom == "":
        return bool(probed.subjects(probe))
    return probed.seen(probe, whom or subject)


def _share(part: int, count: int, coverage: float | None) -> Figure:
    return (
        Figure(part / count, part, count, coverage) if count else Figure(None, coverage=coverage, absent=NOT_MEASURED)
    )


def usable_by_question(probed: ProbeHistory, subject: str, window: Window, outages: bool = True) -> list[Share]:
    """
    As `ProbeHistory.usable`, of each question that was asked: whether it is there is asked far more often than for its
    data.

    Args:
        outages: Whether what failed while the subject was not there at all counts; `ProbeHistory.answered` has that.
    """
    asked = [
        [s for s in probed.within(probe, subject, window) if s.last and s.outcome != KEPT] for probe in REQUEST_PROBES
    ]
    counted = [[s for s in samples if outages or not _in_outage(probed, s)] for samples in asked]
    return [Share(sum(OUTCOMES[s.outcome].usable for s in samples), len(samples)) for samples in counted if samples]


def _in_outage(probed: ProbeHistory, sample: Sample) -> bool:
    """
    Whether a probe was not answered while its subject was not there: so said by the probe of that before or after it.
    """
    if OUTCOMES[sample.outcome].answered is not False:
        return False
    return any(OUTCOMES[s.outcome].answered is False for s in probed.around(IS_THERE[sample.subject], sample))


def _least_usable(probed: ProbeHistory, rule: Rule, subject: str, window: Window) -> Share:
    """
    The share of usable answers to the question that is most surely answered badly; of few probes a low share is not
    sure.
    """
    # Of an outage `availability` notifies.
    shares = usable_by_question(probed, subject, window, outages=rule.name != "answers")
    enough = [s for s in shares if s.count >= rule.min_count] or shares
    return min(
        enough, key=lambda s: (wilson(s.part, s.count, rule.confidence)[1], s.part / s.count), default=Share(0, 0)
    )


def _p95(ordered: list[float]) -> float | None:
    """The value that one in twenty is above, by linear interpolation; None of nothing."""
    if not ordered:
        return None
    at = 0.95 * (len(ordered) - 1)
    low = int(at)
    return ordered[low] + (ordered[min(low + 1, len(ordered) - 1)] - ordered[low]) * (at - low)


def p95_s(probed: ProbeHistory, subject: str, window: Window) -> float | None:
    """Within what time did all but one in twenty of our looks at a subject end?"""
    return _p95(probed.seconds(subject, window))


def timed(seconds: list[float], coverage: float | None) -> Figure:
    """The 95th percentile of some times, sorted."""
    value = _p95(seconds)
    return (
        Figure(value, count=len(seconds), coverage=coverage)
        if value is not None
        else Figure(None, coverage=coverage, absent=NOT_MEASURED)
    )


def _socket(probed: ProbeHistory, at_us: int) -> Figure:
    opened = probed.open_since(at_us)
    if opened is None:
        return Figure(None, absent=NOT_EXPECTED)
    down_s = probed.socket_down_s(at_us)  # In market hours: what was so before the open counts from the open.
    return (
        Figure(None, absent="nobody looked lately")
        if down_s is None
        else Figure(min(down_s, (at_us - clock.micros(opened)) / SECOND), note=app_state.socket_note(probed, at_us))
    )


def _app_down(probed: ProbeHistory, at_us: int) -> Figure:
    down_s = app_state.down_s(probed, at_us)
    return Figure(None, absent="nobody looked lately") if down_s is None else Figure(down_s)


def _logged(probed: ProbeHistory, window: Window) -> Figure:
    errors = probed.errors(window)
    # As of the page: a window shorter than an hour shows the least that the hour holds.
    return (
        Figure(None, absent="its log was not read")
        if errors is None
        else Figure(errors / max(1.0, window.seconds / 3600))
    )


def _growth(probed: ProbeHistory, window: Window, coverage: float | None) -> Figure:
    found = probed.growth_mb_per_h(window)
    return Figure(found[0], count=found[1], coverage=coverage) if found else Figure(None, absent=NOT_MEASURED)


def _beats(probed: ProbeHistory, at_us: int) -> Figure:
    missed = probed.missed_beats(at_us)
    return Figure(None, absent=NOT_EXPECTED) if missed is None else Figure(missed)


def _chain(probed: ProbeHistory, at_us: int, read: Callable[[dict[str, int]], int]) -> Figure:
    """Over the last chain of each symbol: so many of its tradable contracts."""
    part, count, lasting = 0, 0, Window(clock.instant(at_us - CHAIN_LASTS_US), clock.instant(at_us))
    for symbol in probed.subjects("chain"):
        last = next((s for s in reversed(probed.within("chain", symbol, lasting)) if s.outcome == "ok"), None)
        told = probed.told(last) if last else {}
        if "core" in told:
            part, count = part + read(told), count + told["core"]
    return Figure(part / count, part, count) if count else Figure(None, absent=NOT_MEASURED)


def _valid(told: Mapping[str, Any]) -> int:
    """What is old is no wrong Greek: `answers` has it, and one trouble is one alert."""
    # As chains were kept before.
    flagged = (
        told["missing"] + told["gamma_zero"] + told["delta_out_of_bounds"]
        if "flagged" not in told
        else told["flagged"] - told["faults"].get("stale", 0)
    )
    return max(0, int(told["core"] - flagged))


def lag_s(tape: CounterHistory, window: Window) -> float | None:
    """
    By how much later than its own rhythm is what an open page shows, all but a twentieth of the time? The worst page's.

    A page's rhythm is that of its first posts, so that one which slows down is seen to. None where no page is open.
    """
    seen = [
        (page, bisect_right(page.times, look.ts_us) - 1)
        for page, look in tape.seen_in(window)
        if window.end_us - look.ts_us <= tape.how.closed_s * SECOND
    ]
    # One that slows down is not seen for longer than its rhythm, so it is told apart only by whether another took its
    # place.
    still = [(page, i) for page, i in seen if not any(other.times[0] > page.times[i] for other, _ in seen)]
    late = [_late_s(page, i, window) for page, i in still]
    known = [s for s in late if s is not None]
    return max(known) if known else None


def _late_s(page: PageLoad, last: int, window: Window) -> float | None:
    first = [b - a for a, b in zip(page.times[: min(FIRST_GAPS, last)], page.times[1 : min(FIRST_GAPS, last) + 1])]
    times = page.times[max(last - 200, bisect_right(page.times, window.start_us), 0) : last + 1]
    if not first or not times:
        return None
    gaps = sorted((b - a for a, b in zip(times, [*times[1:], window.end_us])), reverse=True)
    # While a gap lasts, what is shown grows older from 0 to the gap: so long is it older than some age.
    spare, age = LATE_SHARE * sum(gaps), float(gaps[0])
    for i, gap in enumerate(gaps):
        following = gaps[i + 1] if i + 1 < len(gaps) else 0
        if (gap - following) * (i + 1) >= spare:
            age = gap - spare / (i + 1)
            break
        spare -= (gap - following) * (i + 1)
    return max(0.0, (age - sorted(first)[len(first) // 2]) / SECOND)


def _lag(probed: ProbeHistory, tape: CounterHistory, window: Window) -> Figure:
    opened = probed.open_since(window.end_us)
    if opened is None:
        return Figure(None, absent=NOT_EXPECTED)
    found = lag_s(tape, Window(max(window.start, opened), window.end))
    return Figure(None, absent=NOT_MEASURED) if found is None else Figure(found)


def measure(probed: ProbeHistory, tape: CounterHistory, rule: Rule, subject: str, window: Window) -> Figure:
    """What do our own looks say of what a rule is about? Only of what was ever `seen`."""
    coverage, at_us = probed.coverage(window), window.end_us
    chain = partial(_chain, probed, at_us)
    match rule.name:
        case "availability":
            return _share(*probed.answered(subject, window), coverage)
        case "answers" | "app_answers":
            return _share(*_least_usable(probed, rule, subject, window), coverage)
        case "app_down":
            return _app_down(probed, at_us)
        case "response_time":
            return timed(probed.seconds(subject, window), coverage)
        case "websocket_latency":
            return timed(probed.round_trips(window), coverage)
        case "websocket_down":
            return _socket(probed, at_us)
        case "errors":
            return _logged(probed, window)
        case "memory_growth":
            return _growth(probed, window, coverage)
        case "dashboard_lag":
            return _lag(probed, tape, window)
        case "heartbeat":
            return _beats(probed, at_us)
        case "greeks_valid":
            return chain(_valid)
        case "gamma_zero" | "delta_out_of_bounds":
            return chain(lambda told: told[rule.name])
    raise LookupError(f"our looks measure nothing for the rule {rule.name!r}")
