"""
Compute from our probes how long the app's server has been down, and which connections its WebSocket serves.

Times without probes give no result.
"""

import itertools
from bisect import bisect_right
from datetime import timedelta
from itertools import takewhile

from opslib.foundation import clock, formatting
from opslib.foundation.clock import SECOND, Window
from opslib.telemetry.pages.counters import CounterHistory
from opslib.telemetry.pages.page_loads import PageLoad
from opslib.telemetry.probes.history import FOLLOW_UP, FRESH_US, ProbeHistory
from opslib.telemetry.probes.outcomes import OUTCOMES
from opslib.telemetry.probes.store import Sample

BACK = timedelta(hours=2)  # The longest outage that is measured; a longer one is shown as this long.
OF_PACE = 8  # The interval between probes is measured over this many.


def is_down(sample: Sample) -> bool:
    """
    Return whether a sample of the app's server shows it down.

    It is down if a request got no usable response, or if its process is gone.
    """
    return not OUTCOMES[sample.outcome].usable and sample.outcome != "absent"


def down_s(probed: ProbeHistory, at_us: int) -> float | None:
    """
    Return for how many seconds the app's server has been down, up to its newest probe.

    They run from the start of the first failed request to the end of the newest one, so that a restart is never shown
    longer than it was; at most `BACK`. 0 if the newest response was usable; None without a recent probe.
    """
    probe = "health" if probed.seen("health", "app") else "process"
    if probed.now(probe, "app", at_us) is None:
        return None
    window = Window.before(clock.instant(at_us), BACK)
    own, extra = probed.within(probe, "app", window), probed.within(FOLLOW_UP, "app", window)
    well = [next((s for s in reversed(found) if OUTCOMES[s.outcome].usable), None) for found in (own, extra)]
    # An attempt that started before the newest response does not describe the time after it, even if it ended later.
    since_us = max((_began_us(s) for s in well if s), default=0)
    newer = (s for found in (own, extra) for s in takewhile(lambda s: s.ts_us > since_us, reversed(found)))
    down = sorted((s for s in newer if is_down(s) and _began_us(s) > since_us), key=_began_us)
    apart_us = max(FRESH_US, 3 * _pace_us(own))
    first = len(down) - 1
    while first > 0 and _began_us(down[first]) - down[first - 1].ts_us <= apart_us:
        first -= 1
    return (max(s.ts_us for s in down[first:]) - _began_us(down[first])) / SECOND if down else 0.0


def _began_us(sample: Sample) -> int:
    return sample.ts_us - round((sample.seconds or 0.0) * SECOND)


def _pace_us(samples: list[Sample]) -> int:
    """Return the median interval between the newest probes; 0 for fewer than two."""
    ends = [s.ts_us for s in samples[-OF_PACE:] if s.last]
    gaps = sorted(b - a for a, b in itertools.pairwise(ends))
    return gaps[len(gaps) // 2] if gaps else 0


def upstream(probed: ProbeHistory, at_us: int) -> str:
    """Describe the state that the app reports of its upstream WebSocket; empty if it reports none."""
    last = probed.now("upstream", "app", at_us)
    if last is None:
        return ""
    detail = last.details()
    error = f" ({detail['error']})" if detail.get("error") and detail["state"] != "connected" else ""
    return f"the app reports its upstream as {detail['state']}{error}"


def unserved_page(history: CounterHistory, probed: ProbeHistory, at_us: int) -> tuple[float, PageLoad] | None:
    """
    Return the open page whose WebSocket is no longer served since the app lost its upstream, and for how many seconds.

    The page still reports an open connection. A connection older than the loss is never served again. A page has a new
    one if it was loaded since, if it reported a closed one meanwhile, or if the server restarted. None if there is no
    such page.
    """
    dead_us = probed.older_dead_since_us(at_us)
    if dead_us is None or probed.restarts(Window(clock.instant(dead_us), clock.instant(at_us))):
        return None
    for page, last in history.open_at(at_us):
        since = page.snapshots[max(0, bisect_right(page.times, dead_us) - 1) : last + 1]
        if (
            page.loaded_at_us is not None
            and page.loaded_at_us < dead_us
            and all(snapshot.websocket_connected for snapshot in since)
        ):
            return (at_us - dead_us) / SECOND, page
    return None


def unserved_note(at_us: int, down_s: float) -> str:
    """Describe a page whose connection is no longer served."""
    since = clock.instant(at_us - round(down_s * SECOND)).astimezone(formatting.NEW_YORK)
    return (
        f"pages connected before {since:%H:%M:%S} New York receive no messages since the app lost its upstream; new "
        f"connections do: refresh the pages"
    )


def socket_note(probed: ProbeHistory, at_us: int) -> str:
    """Describe which connections of the app's WebSocket are served, if not all are; empty if that is unknown."""
    last = probed.now("socket", "app", at_us)
    if last is not None and last.outcome == "renewed":
        return "new connections receive messages, older ones do not: refresh the pages"
    if last is None or last.outcome != "silent":
        return ""
    tried = last.details().get("tried", 0)
    note = f"neither old nor new connections receive messages ({tried} tried)" if tried else ""
    return "; ".join(part for part in (note, upstream(probed, at_us)) if part)
