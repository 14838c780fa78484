"""
Provide moments for the diagnosis: a status of probe samples and posts at production intervals, made in memory.

Times are seconds before the moment; everything is healthy unless stated otherwise.
"""

import json
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Any

from opslib.dashboard.status import Status
from opslib.foundation.config import rules
from opslib.foundation.storage.snapshot_columns import SnapshotRow
from opslib.telemetry.probes.history import ProbeHistory
from opslib.telemetry.probes.store import Sample
from tests.support.snapshots import PageOf, at, counter_history, us, window

NOW = 5400.0  # Seconds after the open: 11:00 in New York.
PACE = {
    "liveness": 5.0,
    "health": 5.0,
    "socket": 5.0,
    "beat": 5.0,
    "log": 5.0,
    "process": 15.0,
    "data": 60.0,
    "metrics": 60.0,
    "chain": 900.0,
}
UNITS = {"theta": "per_day", "vega": "per_point", "gamma": "per_dollar", "iv": "decimal"}
CHAIN = {
    "core": 200,
    "flagged": 0,
    "faults": {},
    "missing": 0,
    "gamma_zero": 0,
    "delta_out_of_bounds": 0,
    "expires_today": 0,
    "units": UNITS,
    "iv_atm": 0.18,
    "median_iv": 0.18,
    "median_theta": -0.2,
    "median_vega": 0.3,
    "contracts": 450,
    "pages": 2,
}


def sample(
    ago: float,
    probe: str,
    subject: str,
    outcome: str = "ok",
    seconds: float | None = None,
    value: float | None = None,
    last: bool = True,
    **detail: Any,
) -> Sample:
    """Return one sample, of a given age."""
    return Sample(us(NOW - ago), probe, subject, outcome, seconds, value, 1, last, json.dumps(detail))


def series(
    probe: str,
    subject: str,
    outcome: str = "ok",
    *,
    since: float = 1200.0,
    until: float = 0.0,
    every: float | None = None,
    seconds: float | None = None,
    value: Any = None,
    **detail: Any,
) -> list[Sample]:
    """Return samples of one probe at its usual interval, between two ages; `value` may be a function of the age."""
    pace = every or PACE[probe]
    ages = [until + pace * i for i in range(int((since - until) / pace) + 1)]
    return [
        sample(ago, probe, subject, outcome, seconds, value(ago) if callable(value) else value, **detail)
        for ago in ages
    ]


def chain(ago: float, symbol: str = "SPY", outcome: str = "ok", **other: Any) -> Sample:
    """Return one fetched chain; `faults` and other parts may be replaced."""
    held = CHAIN | other
    return sample(
        ago, "chain", symbol, outcome, 0.5, float(held["contracts"]), **(held if outcome == "ok" else {"pages": 1})
    )


def well() -> list[Sample]:
    """Return 20 minutes in which every probe succeeds and two chains are fetched."""
    return [
        *series("liveness", "massive", seconds=0.2, market="open", skew_s=0.1),
        *series("data", "massive", seconds=0.2, value=1.0),
        *series("liveness", "tradier", seconds=0.1, market="open", skew_s=0.0),
        *series("data", "tradier", seconds=0.1, value=1.0),
        *series("health", "app", seconds=0.02, value=lambda ago: 90_000.0 - ago, skew_s=0.0),
        *series("metrics", "app", until=2, seconds=0.02, status=200),
        *series("socket", "app", seconds=0.04, value=0.5),
        *series("process", "app", value=140.0, pid=7, born=1_700_000_000.0),
        *series("log", "app", value=0.0, kinds={}, newest={}),
        *series("beat", "collector", value=50.0, every_s=5),
        chain(1620.0),
        chain(720.0),
    ]


def but(*changed: Iterable[Sample], base: list[Sample] | None = None) -> list[Sample]:
    """
    Return a healthy moment with some samples replaced.

    Each given sample replaces those of its probe and subject between the oldest and the newest of its group.
    """
    held = well() if base is None else base
    for group in changed:
        mine, spans = list(group), dict[tuple[str, str], tuple[int, int]]()
        for s in mine:
            first, last = spans.get((s.probe, s.subject), (s.ts_us, s.ts_us))
            spans[s.probe, s.subject] = (min(first, s.ts_us), max(last, s.ts_us))
        held = [
            s
            for s in held
            if not (
                (s.probe, s.subject) in spans
                and spans[s.probe, s.subject][0] <= s.ts_us <= spans[s.probe, s.subject][1]
            )
        ] + mine
    return sorted(held, key=lambda s: s.ts_us)


Change = Callable[[float], dict[str, int]]


def posted(
    change: Change = lambda ago: {},
    *,
    since: float = 1200.0,
    until: float = 0.0,
    said: Callable[[float], dict[str, Any]] = lambda ago: {},
) -> list[SnapshotRow]:
    """
    Return the posts of one page, one every five seconds.

    Args:
        change: How much more each counter increases before a post of a given age; requests and validations increase by
            themselves.
        said: Fields with another value in a post of a given age.
    """
    page, snapshots, ago = PageOf(NOW - since - 600), list[SnapshotRow](), since
    while ago >= until:
        more = {
            "massive_requests": 5,
            "massive_successes": 5,
            "tradier_requests": 1,
            "tradier_successes": 1,
            "validations": 10,
            "greeks_valid": 10,
        }
        page.add(**{**more, **change(ago)})
        snapshots.append(page.snapshot(NOW - ago, **said(ago)))
        ago -= 5.0
    return snapshots


def view(
    samples: Iterable[Sample] | None = None,
    posts: Iterable[SnapshotRow] | None = None,
    length: float = 600.0,
    **more: Any,
) -> Status:
    """Return the view of such a moment."""
    probed = ProbeHistory("tradier", well() if samples is None else samples)
    return Status(
        "desk",
        window(NOW - length, NOW),
        None,
        counter_history(posted() if posts is None else posts),
        rules.load(),
        probed=probed if probed.any else None,
        **more,
    )


MOMENT = at(NOW)
HOUR = timedelta(hours=1)
