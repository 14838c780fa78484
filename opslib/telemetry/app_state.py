"""
Work out from our own probes for how long the app's server has been down, and whom its WebSocket serves.

Nothing is said of a time in which nobody probed.
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

BACK = timedelta(hours=2)  # An outage is read from so far back; one that is longer is shown as this long.
OF_PACE = 8  # Probes from which it is read how far they are apart.


def is_down(sample: Sample) -> bool:
    """
    Whether a sample of the app's server shows it down: a request without a usable answer, or a process that is gone.
    """
    return not OUTCOMES[sample.outcome].usable and sample.outcome != "absent"


def down_s(probed: ProbeHistory, at_us: int) -> float | None:
    """
    Seconds for which the app's server is shown to be down, up to its newest probe.

    They run from when the first request without an answer was sent to when the newest was given up, so a restart is
    never taken for longer than it was; at most `BACK`. 0 where the newest answer was usable; None where nobody probed
    lately.
    """
    probe = "health" if probed.seen("health", "app") else "process"
    if probed.now(probe, "app", at_us) is None:
        return None
    window = Window.before(clock.instant(at_us), BACK)
    own, extra = probed.within(probe, "app", window), probed.within(FOLLOW_UP, "app", window)
    well = [next((s for s in reversed(found) if OUTCOMES[s.outcome].usable), None) for found in (own, extra)]
    # An attempt that began before the newest answer says nothing of the time after it, though it may end later.
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
    """How far the newest probes are apart: the middle one of their distances; 0 of fewer than two."""
    ends = [s.ts_us for s in samples[-OF_PACE:] if s.last]
    gaps = sorted(b - a for a, b in itertools.pairwise(ends))
    return gaps[len(gaps) // 2] if gaps else 0


def upstream(probed: ProbeHistory, at_us: int) -> str:
    """What the app says of the socket behind its own, in words; empty where it says nothing."""
    last = probed.now("upstream", "app", at_us)
    if last is None:
        return ""
    told = last.told()
    error = f" ({told['error']})" if told.get("error") and told["state"] != "connected" else ""
    return f"the app says that its upstream is {told['state']}{error}"


def left_behind(tape: CounterHistory, probed: ProbeHistory, at_us: int) -> tuple[float, PageLoad] | None:
    """
    The open page whose WebSocket is not served since the app lost its upstream, though its flag says that it is open;
    and for how many seconds.

    A connection that is older than the loss is never served again. A page that was loaded since has a new one; so has
    one whose flag went down meanwhile, and every page once the server was started anew. None where there is no such
    page.
    """
    dead_us = probed.old_dead_us(at_us)
    if dead_us is None or probed.restarts(Window(clock.instant(dead_us), clock.instant(at_us))):
        return None
    for page, last in tape.open_at(at_us):
        since = page.looks[max(0, bisect_right(page.times, dead_us) - 1) : last + 1]
        if (
            page.loaded_at_us is not None
            and page.loaded_at_us < dead_us
            and all(look.websocket_connected for look in since)
        ):
            return (at_us - dead_us) / SECOND, page
    return None


def left_note(at_us: int, down_s: float) -> str:
    """What is to be said of a page that is left behind."""
    since = clock.instant(at_us - round(down_s * SECOND)).astimezone(formatting.NEW_YORK)
    return (
        f"pages connected before {since:%H:%M:%S} New York are not served since the app lost its upstream, "
        f"new connections are: refresh the pages"
    )


def socket_note(probed: ProbeHistory, at_us: int) -> str:
    """Who is served by the app's WebSocket where not all are, in words; empty where that is not known."""
    last = probed.now("socket", "app", at_us)
    if last is not None and last.outcome == "renewed":
        return "old connections are dead, new ones are served: refresh the pages"
    if last is None or last.outcome != "silent":
        return ""
    tried = last.told().get("tried", 0)
    note = f"dead for old and new connections ({tried} tried)" if tried else ""
    return "; ".join(part for part in (note, upstream(probed, at_us)) if part)
