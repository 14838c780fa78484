"""Measure the figure of each rule from our probes."""

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

CHAIN_LASTS_US = 2 * 900 * SECOND  # A chain is fetched every 15 minutes; one missed fetch is tolerated.
FIRST_GAPS = 15
LATE_SHARE = 0.05
_PROBE_OF = {
    # The probe and its subject (None: the rule's subject) that a rule's figure is based on.
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


def has_probes(probed: ProbeHistory, rule: Rule, subject: str, source: str) -> bool:
    """Return whether there is any probe sample for a rule, subject and source."""
    if rule.name == "app_down":
        return source == "probe" and (probed.seen("health", "app") or probed.seen("process", "app"))
    probe, one_subject = _PROBE_OF.get((rule.name, source), (None, None))
    if probe is None:
        return False
    if one_subject == "":
        return bool(probed.subjects(probe))
    return probed.seen(probe, one_subject or subject)


def _share(part: int, count: int, coverage: float | None) -> Figure:
    return (
        Figure(part / count, part, count, coverage) if count else Figure(None, coverage=coverage, absent=NOT_MEASURED)
    )


def usable_by_question(probed: ProbeHistory, subject: str, window: Window, outages: bool = True) -> list[Share]:
    """
    Return the share of usable responses for each kind of request probe, as `ProbeHistory.usable`.

    The kinds are separate because liveness probes are far more frequent than data probes.

    Args:
        outages: Whether failures during an outage of the subject count; `ProbeHistory.answered` counts those.
    """
    requests = [
        [s for s in probed.within(probe, subject, window) if s.last and s.outcome != KEPT] for probe in REQUEST_PROBES
    ]
    counted = [[s for s in samples if outages or not _in_outage(probed, s)] for samples in requests]
    return [Share(sum(OUTCOMES[s.outcome].usable for s in samples), len(samples)) for samples in counted if samples]


def _in_outage(probed: ProbeHistory, sample: Sample) -> bool:
    """
    Return whether a probe got no response during an outage of its subject.

    The liveness probes before and after it show whether there was an outage.
    """
    if OUTCOMES[sample.outcome].answered is not False:
        return False
    return any(OUTCOMES[s.outcome].answered is False for s in probed.around(IS_THERE[sample.subject], sample))


def _least_usable(probed: ProbeHistory, rule: Rule, subject: str, window: Window) -> Share:
    """
    Return the lowest share of usable responses, by its confidence bound.

    With few probes a low share is not significant.
    """
    # An outage is reported by the rule `availability`.
    shares = usable_by_question(probed, subject, window, outages=rule.name != "answers")
    enough = [s for s in shares if s.count >= rule.min_count] or shares
    return min(
        enough, key=lambda s: (wilson(s.part, s.count, rule.confidence)[1], s.part / s.count), default=Share(0, 0)
    )


def _p95(ordered: list[float]) -> float | None:
    """Return the 95th percentile by linear interpolation; None without values."""
    if not ordered:
        return None
    at = 0.95 * (len(ordered) - 1)
    low = int(at)
    return ordered[low] + (ordered[min(low + 1, len(ordered) - 1)] - ordered[low]) * (at - low)


def p95_s(probed: ProbeHistory, subject: str, window: Window) -> float | None:
    """Return the 95th percentile of the response times of our probes of a subject."""
    return _p95(probed.seconds(subject, window))


def p95_figure(seconds: list[float], coverage: float | None) -> Figure:
    """Return the 95th percentile of sorted times as a figure."""
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
    down_s = probed.socket_down_s(at_us)  # Only market hours count, so an outage before the open counts from the open.
    return (
        Figure(None, absent="no recent probe")
        if down_s is None
        else Figure(min(down_s, (at_us - clock.micros(opened)) / SECOND), note=app_state.socket_note(probed, at_us))
    )


def _app_down(probed: ProbeHistory, at_us: int) -> Figure:
    down_s = app_state.down_s(probed, at_us)
    return Figure(None, absent="no recent probe") if down_s is None else Figure(down_s)


def _errors(probed: ProbeHistory, window: Window) -> Figure:
    errors = probed.errors(window)
    # As for the page: in a window shorter than an hour the count is a lower bound of the hour's count.
    return (
        Figure(None, absent="the app's log was not read")
        if errors is None
        else Figure(errors / max(1.0, window.seconds / 3600))
    )


def _growth(probed: ProbeHistory, window: Window, coverage: float | None) -> Figure:
    found = probed.growth_mb_per_h(window)
    return Figure(found[0], count=found[1], coverage=coverage) if found else Figure(None, absent=NOT_MEASURED)


def _heartbeats(probed: ProbeHistory, at_us: int) -> Figure:
    missed = probed.missed_heartbeats(at_us)
    return Figure(None, absent=NOT_EXPECTED) if missed is None else Figure(missed)


def _chain(probed: ProbeHistory, at_us: int, read: Callable[[dict[str, int]], int]) -> Figure:
    """Measure a share of the tradable contracts over the last chain of each symbol."""
    part, count, lasting = 0, 0, Window(clock.instant(at_us - CHAIN_LASTS_US), clock.instant(at_us))
    for symbol in probed.subjects("chain"):
        last = next((s for s in reversed(probed.within("chain", symbol, lasting)) if s.outcome == "ok"), None)
        details = probed.details(last) if last else {}
        if "core" in details:
            part, count = part + read(details), count + details["core"]
    return Figure(part / count, part, count) if count else Figure(None, absent=NOT_MEASURED)


def _valid(details: Mapping[str, Any]) -> int:
    """Count the contracts with valid Greeks; stale data is reported by the rule `answers`, so it counts as valid."""
    # Chains stored by an earlier version have no "flagged".
    flagged = (
        details["missing"] + details["gamma_zero"] + details["delta_out_of_bounds"]
        if "flagged" not in details
        else details["flagged"] - details["faults"].get("stale", 0)
    )
    return max(0, int(details["core"] - flagged))


def lag_s(counters: CounterHistory, window: Window) -> float | None:
    """
    Return by how much the data on the slowest open page exceeds its normal age, at the 95th percentile; seconds.

    The normal age is the interval of the page's first snapshots, so that a page that slows down is noticed. None if no
    page is open.
    """
    pages = [
        (page, bisect_right(page.times, snapshot.ts_us) - 1)
        for page, snapshot in counters.pages_in(window)
        if window.end_us - snapshot.ts_us <= counters.how.closed_s * SECOND
    ]
    # A page that slows down has gaps longer than its interval, so only a newer page load shows that it was closed.
    still = [(page, i) for page, i in pages if not any(other.times[0] > page.times[i] for other, _ in pages)]
    late = [_late_s(page, i, window) for page, i in still]
    known = [s for s in late if s is not None]
    return max(known) if known else None


def _late_s(page: PageLoad, last: int, window: Window) -> float | None:
    first = [b - a for a, b in zip(page.times[: min(FIRST_GAPS, last)], page.times[1 : min(FIRST_GAPS, last) + 1])]
    times = page.times[max(last - 200, bisect_right(page.times, window.start_us), 0) : last + 1]
    if not first or not times:
        return None
    gaps = sorted((b - a for a, b in zip(times, [*times[1:], window.end_us])), reverse=True)
    # During a gap the age of the shown data grows from 0 to the length of the gap.
    spare, age = LATE_SHARE * sum(gaps), float(gaps[0])
    for i, gap in enumerate(gaps):
        following = gaps[i + 1] if i + 1 < len(gaps) else 0
        if (gap - following) * (i + 1) >= spare:
            age = gap - spare / (i + 1)
            break
        spare -= (gap - following) * (i + 1)
    return max(0.0, (age - sorted(first)[len(first) // 2]) / SECOND)


def _lag(probed: ProbeHistory, counters: CounterHistory, window: Window) -> Figure:
    opened = probed.open_since(window.end_us)
    if opened is None:
        return Figure(None, absent=NOT_EXPECTED)
    found = lag_s(counters, Window(max(window.start, opened), window.end))
    return Figure(None, absent=NOT_MEASURED) if found is None else Figure(found)


def measure(probed: ProbeHistory, counters: CounterHistory, rule: Rule, subject: str, window: Window) -> Figure:
    """Measure the figure of a rule from our probes; call it only if `has_probes` is true."""
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
            return p95_figure(probed.seconds(subject, window), coverage)
        case "websocket_latency":
            return p95_figure(probed.round_trips(window), coverage)
        case "websocket_down":
            return _socket(probed, at_us)
        case "errors":
            return _errors(probed, window)
        case "memory_growth":
            return _growth(probed, window, coverage)
        case "dashboard_lag":
            return _lag(probed, counters, window)
        case "heartbeat":
            return _heartbeats(probed, at_us)
        case "greeks_valid":
            return chain(_valid)
        case "gamma_zero" | "delta_out_of_bounds":
            return chain(lambda details: details[rule.name])
    raise LookupError(f"no probe measures the rule {rule.name!r}")
