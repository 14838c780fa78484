"""
Measure conditions from our probes: our network, restarts, a slow app, clocks, units, complete chains.

`probe_figures` measures the other figures of our probes. A figure without data is ``not measured``. The limits are in
the rules.
"""

from collections.abc import Iterable
from typing import Any

from opslib.alerting import probe_figures
from opslib.alerting.verdicts import NOT_MEASURED, Figure
from opslib.foundation import clock
from opslib.foundation.clock import SECOND, Window
from opslib.foundation.config.rules import Rule, Rules
from opslib.foundation.storage.snapshot_columns import PROVIDERS
from opslib.telemetry.clock_skew import compare
from opslib.telemetry.probes.history import IS_THERE, ProbeHistory
from opslib.telemetry.probes.outcomes import TRANSPORT
from opslib.trading.options.units import USUAL

NAMES = ("our_network", "app_restarts", "app_response_time", "clock_skew", "greeks_units", "chain_whole")
NOT_WHOLE = ("partial", "ok_empty")  # Outcomes of a fetch in which the provider sent less than the whole chain.
UNKNOWN = Figure(None, absent=NOT_MEASURED)


def has_probes(probed: ProbeHistory, rule: Rule) -> bool:
    """Return whether there is any probe sample for a rule of `NAMES`."""
    match rule.name:
        case "our_network":
            return all(probed.seen("liveness", subject) for subject in PROVIDERS)
        case "app_restarts":
            return probed.seen("process", "app") or probed.seen("health", "app")
        case "app_response_time":
            return probed.seen("health", "app")
        case "clock_skew":
            return any(probed.seen(probe, subject) for subject, probe in IS_THERE.items())
    return bool(probed.subjects("chain"))


def measure(probed: ProbeHistory, rules: Rules, rule: Rule, subject: str, window: Window) -> Figure:
    """
    Measure the figure of a rule of `NAMES` over a window.

    Raises:
        LookupError: The rule is not one of them.
    """
    match rule.name:
        case "our_network":
            return _network(probed, window.end_us)
        case "app_restarts":
            return Figure(float(len(probed.restarts(window)))) if has_probes(probed, rule) else UNKNOWN
        case "app_response_time":
            return probe_figures.p95_figure(probed.seconds(subject, window), probed.coverage(window))
        case "clock_skew":
            return _skew(probed, rule, subject, window.end_us)
        case "greeks_units":
            return _units(probed, rules, window)
        case "chain_whole":
            return _whole(probed, window.end_us)
    raise LookupError(f"no condition is measured for the rule {rule.name!r}")


def _network(probed: ProbeHistory, at_us: int) -> Figure:
    """Measure for how many seconds no provider could be connected to; 0 if one can be."""
    gone = probed.network_gone(at_us)
    if gone is None:
        return UNKNOWN
    if not gone:
        return Figure(0.0)
    return Figure((at_us - max(_since(probed, subject, at_us) for subject in PROVIDERS)) / SECOND)


def _since(probed: ProbeHistory, subject: str, at_us: int) -> int:
    """Return the time of the first probe since which all failed to connect, at most an hour back."""
    found = at_us
    for sample in reversed(
        probed.within("liveness", subject, Window(clock.instant(at_us - 3600 * SECOND), clock.instant(at_us)))
    ):
        if sample.outcome not in TRANSPORT:
            break
        found = sample.ts_us
    return found


def _skew(probed: ProbeHistory, rule: Rule, subject: str, at_us: int) -> Figure:
    """
    Measure the absolute offset of a clock in seconds; for `monitor`, the offset of our clock by the others.

    See `clock_skew.compare`.
    """
    known = probed.skews(at_us)
    clocks = compare(known, float(dict(rule.thresholds)["warning"]))
    if subject == "monitor":
        return Figure(abs(clocks.ours_s)) if len(known) > 1 else UNKNOWN
    return Figure(abs(known[subject] + clocks.ours_s)) if subject in known else UNKNOWN


def _last_chains(probed: ProbeHistory, at_us: int) -> Iterable[tuple[str, list[Any]]]:
    """Return the chains of each symbol that are recent enough at an instant, oldest first."""
    lasting = Window(clock.instant(at_us - probe_figures.CHAIN_LASTS_US), clock.instant(at_us))
    return probed.chains(lasting).items()


def _units(probed: ProbeHistory, rules: Rules, window: Window) -> Figure:
    """Measure the share of tradable contracts with Greeks in unusual units, over the last chain of each symbol."""
    part = count = 0
    for symbol, chains in _last_chains(probed, window.end_us):
        summaries = [probed.details(c) for c in chains if c.outcome == "ok" and "flagged" in probed.details(c)]
        if not summaries or not summaries[-1]["core"]:
            continue
        now, core = summaries[-1], summaries[-1]["core"]
        before = [
            probed.details(c)
            for c in probed.within("chain", symbol, window)
            if c.outcome == "ok" and "flagged" in probed.details(c)
        ]
        strange = any(unit not in (None, USUAL[name]) for name, unit in now["units"].items())
        drifted = strange or _moved(before[0] if before else now, now, rules.probes.changed_by)
        part, count = part + (core if drifted else min(core, now["faults"].get("units", 0))), count + core
    return Figure(part / count, part, count) if count else UNKNOWN


def _moved(before: dict[str, Any], now: dict[str, Any], most: float) -> bool:
    """Return whether a median of theta or vega changed by more than `most` within the window while IV did not."""
    times = {
        k: abs(now[f"median_{k}"] / before[f"median_{k}"])
        for k in ("iv", "theta", "vega")
        if now.get(f"median_{k}") and before.get(f"median_{k}")
    }
    calm = 1 / most <= times.get("iv", 0.0) <= most
    return calm and any(t > most or t < 1 / most for k, t in times.items() if k != "iv")


def _whole(probed: ProbeHistory, at_us: int) -> Figure:
    """Measure the share of symbols whose last chain is complete; failed fetches do not count."""
    last = [
        next((c.outcome for c in reversed(chains) if c.outcome == "ok" or c.outcome in NOT_WHOLE), None)
        for _, chains in _last_chains(probed, at_us)
    ]
    known = [outcome for outcome in last if outcome is not None]
    whole = sum(outcome == "ok" for outcome in known)
    return Figure(whole / len(known), whole, len(known)) if known else UNKNOWN
