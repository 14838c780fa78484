"""Test the checks: each passes, fails or is unknown as of a moment, with the figure and what was expected."""

import json
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from opslib import desk as desk_module
from opslib.dashboard import cost_details, status
from opslib.desk import Desk
from opslib.foundation import clock
from opslib.foundation.storage import snapshot_columns
from opslib.incidents.practice import PRACTICE, DryRunIncidents
from opslib.runbooks import catalog, steps
from opslib.runbooks.checks import costs, run_check
from opslib.runbooks.checks.context import CheckContext
from opslib.runbooks.execution import CheckResult
from opslib.runbooks.steps import Step
from opslib.simulation.demo_day import replay, trades
from opslib.simulation.drills.stepped_desk import stepped_probes
from opslib.telemetry.pages import snapshot
from opslib.telemetry.pages.store import Post, SnapshotStore
from opslib.telemetry.probes.store import Sample, SampleStore
from opslib.trading.pnl import reader
from opslib.trading.pnl.store import FillStore
from tests.support.snapshots import OPENS, body

AT = OPENS + timedelta(minutes=90)
LOOKS = [s for s in steps.table().values() if s.kind == steps.CHECK]


def laid(home: Path, samples: list[Sample] = (), posts: list[Post] = (), **secrets: str) -> Desk:
    """Return a desk with only these probe samples and posts, each known at its own time."""
    found = desk_module.open("desk", home, {"OPS_HOME": str(home), **secrets})
    SampleStore(found.store, "desk").keep(samples, known_at_ts=True)
    if posts:
        SnapshotStore(found.store).write("desk", posts, known_at_ts=True)
    return Desk(found.settings, lambda: AT)


def asked(desk: Desk, step: Step | str, at: datetime = AT) -> CheckResult:
    """Return the result of a step's check as of a moment, over ten minutes."""
    found = steps.step(step) if isinstance(step, str) else step
    incident = DryRunIncidents(desk.settings, at, "t", "app", "notify", "incident").read(PRACTICE)
    return run_check(CheckContext(status.view_at(desk, at, timedelta(minutes=10)), desk, found, incident))


def every(
    probe: str,
    subject: str,
    outcome: str = "ok",
    *,
    seconds: float | None = None,
    value: float | None = None,
    minutes: float = 40,
    until: float = 0,
    every_s: int = 15,
    extra: dict[str, Any] | None = None,
    **detail: Any,
) -> list[Sample]:
    """Return samples of one probe over the last minutes before `AT`."""
    count = round((minutes - until) * 60 / every_s)
    return [
        Sample(
            clock.micros(AT - timedelta(minutes=until, seconds=every_s * i)),
            probe,
            subject,
            outcome,
            seconds,
            value,
            detail=json.dumps(detail | (extra or {})),
        )
        for i in range(count)
    ]


def well() -> list[Sample]:
    """Return samples of all probes over forty minutes, all successful."""
    return [
        *every("liveness", "massive", seconds=0.2, market="open", skew_s=0.1),
        *every("data", "massive", seconds=0.2, value=1.0),
        *every("liveness", "tradier", seconds=0.1, market="open", skew_s=0.0, quota_left=100),
        *every("data", "tradier", seconds=0.1, value=1.0),
        *every("health", "app", seconds=0.02, value=9000.0, skew_s=0.0),
        *every("metrics", "app", seconds=0.02, status=200),
        *every("socket", "app", seconds=0.04, value=0.5),
        *every("process", "app", value=140.0, pid=7, born=1_700_000_000.0, threads=11),
        *every("log", "app", value=0.0, kinds={"access": 3}, newest={}),
        *every("beat", "collector", value=50.0, **BEAT),
        *(
            s
            for name, result in (
                ("DNS of massive", "10.0.0.1"),
                ("TCP to tradier", "connects"),
                ("port 8080 listening", "a process listens"),
                ("free memory", "3,000 MB of 8,000 MB available"),
                ("largest five processes", "node 140 MiB"),
            )
            for s in every("host", "app", minutes=1, every_s=60, name=name, told=result)
        ),
        *every("chain", "SPY", seconds=0.5, value=450.0, minutes=30, every_s=900, **CHAIN),
    ]


BEAT: dict[str, Any] = {"extra": {"every_s": 15}}
CHAIN: dict[str, Any] = {
    "core": 200,
    "flagged": 0,
    "faults": {},
    "missing": 0,
    "gamma_zero": 0,
    "delta_out_of_bounds": 0,
    "expires_today": 0,
    "units": {"theta": "per_day", "vega": "per_point", "gamma": "per_dollar", "iv": "decimal"},
    "iv_atm": 0.18,
    "median_iv": 0.18,
    "median_theta": -0.2,
    "median_vega": 0.3,
    "contracts": 450,
    "pages": 2,
}


def but(*changed: list[Sample]) -> list[Sample]:
    """Return the samples of `well`, with these in place of those of the same probe and time."""
    mine = [s for found in changed for s in found]
    taken = {(s.probe, s.subject, s.ts_us, s.details().get("name")) for s in mine}
    return [s for s in well() if (s.probe, s.subject, s.ts_us, s.details().get("name")) not in taken] + mine


def posted(minutes: int = 60, **changed: Callable[[int], Any] | Any) -> list[Post]:
    """
    Return a page's posts every five seconds, with rising counters.

    A field given as a function is called with the number of the post.
    """
    found, loaded = [], AT - timedelta(minutes=minutes)
    for i in range(minutes * 12 + 1):
        at = loaded + timedelta(seconds=5 * i)
        details = {k: v(i) if callable(v) else v for k, v in changed.items()}
        rising = {
            "massive_requests": 10 * i,
            "massive_successes": 10 * i,
            "massive_failures": 0,
            "tradier_requests": i,
            "tradier_successes": i,
            "tradier_failures": 0,
            "validations": 10 * i,
            "greeks_valid": 10 * i,
            "gamma_zero": 0,
            "delta_out_of_bounds": 0,
            "greeks_invalid": 0,
            "errors": 0,
            "trades": 10,
            "uptime_s": 5 * i,
        }
        known = {f.name for f in snapshot_columns.FIELDS}
        found.append(
            Post(
                clock.micros(at),
                snapshot.read(
                    body(
                        **{
                            k: v
                            for k, v in (rising | {"page_clock_ms": clock.micros(at) // 1000} | details).items()
                            if k in known
                        }
                    )
                ),
            )
        )
    return found


DOWN = {"minutes": 5}
# In the samples of `well` a check passes; here it fails, with these texts in the result.
BAD: dict[str, tuple[list[list[Sample]], tuple[str, ...]]] = {
    "massive_answers": (
        [every("liveness", "massive", "server_5xx", seconds=0.1, status=503, said="oh", **DOWN)],
        ("5xx", "HTTP 503", '"oh"', "the provider"),
    ),
    "tradier_answers": ([every("data", "tradier", "stale", value=900.0, **DOWN)], ("stale data",)),
    "massive_availability": (
        [every("liveness", "massive", "timeout", minutes=12)],
        ("availability of massive (0.00 % over 10 min)", "0 (no success)"),
    ),
    "tradier_availability": (
        [every("liveness", "tradier", "refused", minutes=12)],
        ("availability of tradier (0.00 % over 10 min)",),
    ),
    "who_serves": (
        [every("liveness", "massive", "server_5xx", **DOWN), every("liveness", "tradier", "server_5xx", **DOWN)],
        ("no provider can serve",),
    ),
    "not_ours": (
        [every("liveness", "massive", "unreachable", **DOWN), every("liveness", "tradier", "dns", **DOWN)],
        ("our side: neither provider accepts a connection",),
    ),
    "massive_steady": (
        [
            every(probe, "massive", "server_5xx", minutes=m, until=m - 1)
            for probe in ("liveness", "data")
            for m in (4, 2)
        ],
        ("is flapping: state changes in 5 min: 4 (at most 2",),
    ),
    "tradier_steady": (
        [
            every("liveness", "tradier", "timeout", minutes=4, until=3),
            every("liveness", "tradier", "timeout", minutes=2, until=1),
        ],
        ("tradier is flapping",),
    ),
    "app_waits_enough": (
        [
            every(
                "log",
                "app",
                value=2.0,
                minutes=3,
                kinds={"timeout": 2},
                newest={"timeout": "timed out after 150 ms"},
                waited_ms=150,
            )
        ],
        ("after 150 ms", "massive responds to our probes within 0.20 s"),
    ),
    "massive_quick": (
        [every("liveness", "massive", seconds=3.0, minutes=10)],
        ("p95 response time of massive (3 s) > 2 s",),
    ),
    "tradier_quick": (
        [every("liveness", "tradier", seconds=0.9, minutes=10)],
        ("p95 response time of tradier (0.90 s) > 0.50 s",),
    ),
    "massive_key": (
        [every("data", "massive", "auth_401", status=401, said="Unknown API Key", **DOWN)],
        ("rejects our API key (401)", "Unknown API Key"),
    ),
    "massive_plan": ([every("data", "massive", "entitlement_403", **DOWN)], ("our plan does not include this data",)),
    "massive_address": ([every("liveness", "massive", "ip_blocked_403", **DOWN)], ("blocks our IP address",)),
    "massive_quota": (
        [every("liveness", "massive", "rate_limited_429", minutes=1)],
        ("rejects requests above its rate limit", "of 40 attempts"),
    ),
    "tradier_key": ([every("liveness", "tradier", "auth_401", **DOWN)], ("tradier rejects our API key",)),
    "tradier_quota": (
        [every("liveness", "tradier", "rate_limited_429", **DOWN)],
        ("tradier rejects requests above its rate limit",),
    ),
    "host_reaches_massive": (
        [every("host", "app", "server_5xx", minutes=1, every_s=60, name="DNS of massive", told="does not resolve")],
        ("DNS of massive: does not resolve",),
    ),
    "host_reaches_tradier": (
        [every("host", "app", "server_5xx", minutes=1, every_s=60, name="TCP to tradier", told="no answer")],
        ("TCP to tradier: no answer",),
    ),
    "port_listens": (
        [
            every(
                "host",
                "app",
                "server_5xx",
                minutes=1,
                every_s=60,
                name="port 8080 listening",
                told="no process listens",
            )
        ],
        ("no process listens",),
    ),
    "provider_errors": (
        [
            every(
                "log",
                "app",
                value=3.0,
                minutes=2,
                kinds={"provider_5xx": 3, "access": 9},
                newest={"provider_5xx": "[v0] Massive proxy error (502)"},
            )
        ],
        ("errors in the last 10 min: 24 (expected: 0; provider 5xx 24)", "proxy error (502)"),
    ),
    "socket_log": (
        [
            every(
                "log",
                "app",
                value=1.0,
                minutes=1,
                kinds={"socket_closed": 1},
                newest={"socket_closed": "[WS options] upstream closed with code 1006"},
            )
        ],
        ("socket closed 4", "1006"),
    ),
    "errors_by_kind": (
        [every("log", "app", value=5.0, minutes=1, kinds={"other_error": 5}, newest={"other_error": "TypeError: x"})],
        ("other error 20", "TypeError"),
    ),
    "error_rate": (
        [every("log", "app", value=5.0, minutes=10, kinds={"other_error": 5}, newest={"other_error": "x"})],
        ("errors (200 per h) > 50 per h",),
    ),
    "greeks_valid": (
        [
            every(
                "chain",
                "SPY",
                value=450.0,
                minutes=1,
                every_s=60,
                **CHAIN | {"flagged": 120, "faults": {"missing": 120}, "missing": 120},
            )
        ],
        ("valid Greeks (40.00 %) < 50.0 %",),
    ),
    "greeks_kinds": (
        [
            every(
                "chain",
                "SPY",
                value=450.0,
                minutes=1,
                every_s=60,
                **CHAIN | {"flagged": 60, "faults": {"gamma_zero": 60}, "gamma_zero": 60},
            )
        ],
        ("gamma zero or missing (30.00 %) > 5.0 %",),
    ),
    "greeks_faults": (
        [
            every(
                "chain",
                "SPY",
                value=450.0,
                minutes=1,
                every_s=60,
                **CHAIN | {"flagged": 60, "faults": {"gamma_zero": 60}},
            )
        ],
        ("SPY: 60 gamma zero among 200 tradable contracts",),
    ),
    "greeks_complete": (
        [every("chain", "SPY", "partial", value=250.0, minutes=1, every_s=60)],
        ("returns an incomplete option chain (250 contracts)",),
    ),
    "greeks_units": (
        [
            every(
                "chain",
                "SPY",
                value=450.0,
                minutes=1,
                every_s=60,
                **CHAIN | {"units": CHAIN["units"] | {"theta": "per_year"}},
            )
        ],
        ("theta per year, expected per day",),
    ),
    "expiring_today": (
        [every("chain", "SPY", value=450.0, minutes=1, every_s=60, **CHAIN | {"expires_today": 90})],
        ("90 contracts expire today",),
    ),
    "iv_usual": (
        [every("chain", "SPY", value=450.0, minutes=1, every_s=60, **CHAIN | {"iv_atm": 0.5, "median_iv": 0.5})],
        ("market stress", "SPY 50.0 % at-the-money IV"),
    ),
    "socket_open": (
        [every("socket", "app", "silent", value=95.0, minutes=2)],
        ("keeps the connection open but sends no messages for 1 min 35 s",),
    ),
    "socket_quick": ([every("socket", "app", seconds=2.5, minutes=10)], ("WebSocket round trip (2.50 s) > 2 s",)),
    "close_code": ([every("socket", "app", "closed", minutes=2, code=1006)], ("code 1006", "abnormal closure")),
    "server_answers": (
        [every("health", "app", "wrong_content", status=200, **DOWN)],
        ("returns a web page instead of data",),
    ),
    "server_runs": ([every("process", "app", "gone", **DOWN)], ("is not running",)),
    "no_restart": (
        [every("process", "app", value=90.0, pid=8, born=1_773_100_000.0, threads=11, **DOWN)],
        ("restarted at 10:55",),
    ),
    "nothing_changed": (
        [every("process", "app", value=90.0, pid=8, born=1_773_100_000.0, threads=11, **DOWN)],
        ("the server restarted",),
    ),
    "server_growth": (
        [
            [
                Sample(
                    clock.micros(AT - timedelta(seconds=15 * i)),
                    "process",
                    "app",
                    "ok",
                    None,
                    900.0 - 5 * i,
                    detail='{"born": 1700000000.0}',
                )
                for i in range(160)
            ]
        ],
        ("memory growth of the app's server (1,200.00 MB per h) > 500 MB per h",),
    ),
    "app_quick": (
        [every("health", "app", seconds=1.5, value=9000.0, **DOWN)],
        ("p95 of the app's server (1.50 s) > 0.50 s",),
    ),
    "collector_beats": (
        [every("beat", "collector", value=50.0, minutes=2, extra=BEAT["extra"] | {"failing": {"log": "KeyError"}})],
        ("failing: log",),
    ),
    "clocks_agree": (
        [every("health", "app", seconds=0.02, value=9000.0, skew_s=600.0, **DOWN)],
        ("app +600.0 s; expected within 30 s",),
    ),
    "massive_on_target": (
        [every("liveness", "massive", "timeout", minutes=4)],
        ("probes:", "objective: at least 99.0 %"),
    ),
    "tradier_on_target": ([every("liveness", "tradier", "refused", minutes=4)], ("availability of tradier in 10 min",)),
    "massive_quick_enough": (
        [every("liveness", "massive", seconds=0.4, minutes=12)],
        ("0.40 s (p95 of", "objective: at most 0.30 s"),
    ),
    "tradier_quick_enough": ([every("liveness", "tradier", seconds=0.4, minutes=12)], ("0.40 s",)),
    "greeks_on_target": (
        [
            every(
                "chain",
                "SPY",
                value=450.0,
                minutes=1,
                every_s=60,
                **CHAIN | {"flagged": 20, "faults": {"missing": 20}, "missing": 20},
            )
        ],
        ("chains: 90.00 % (180 of 200)",),
    ),
    "errors_on_target": (
        [every("log", "app", value=5.0, minutes=5, kinds={"other_error": 5}, newest={"other_error": "x"})],
        ("objective: at most 5 per h",),
    ),
    "night_errors": (
        [every("log", "app", value=5.0, kinds={"other_error": 5}, newest={"other_error": "x"})],
        ("800 (log)", "since the last close: other error 800", "objective: at most 5 per h"),
    ),
    "metrics_answers": (
        [every("metrics", "app", "wrong_content", status=200, **DOWN)],
        ("/api/metrics returns a web page instead of data",),
    ),
    "monitor_memory": (
        [
            [
                Sample(
                    clock.micros(AT - timedelta(seconds=15 * i)),
                    "beat",
                    "collector",
                    "ok",
                    None,
                    900.0 - 5 * i,
                    detail='{"every_s": 15}',
                )
                for i in range(160)
            ]
        ],
        ("MB per h", "warning from 100 MB per h"),
    ),
    "all_panels": (
        [every("liveness", "massive", "timeout", minutes=12)],
        ("Data Provider Health: escalate: probes: availability of massive (0.00 % over 10 min)",),
    ),
}
LEADS = {
    "not_ours": "provider_availability",
    "massive_steady": "provider_availability",
    "app_waits_enough": "provider_availability",
    "massive_key": "provider_availability",
    "server_answers": "monitor_down",
}


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    """Return a desk without faults."""
    found = laid(tmp_path_factory.mktemp("good"), well(), posted(websocket_connected=True))
    yield found
    found.store.close()


@pytest.mark.parametrize(
    "step",
    [
        s
        for s in LOOKS
        if s.name
        not in (
            "requests_moved",
            "iv_usual",
            "host_largest",
            "host_memory",
            "chain_by_contract",
            "page_memory",
            "dashboard_age",
            "key_age",
            "fallbacks_counted",
            "error_seen",
            "no_slower",
            "trends_usual",
            "memory_in_bounds",
            "service_begins",
            *(s.name for s in LOOKS if s.check == "staged"),
            *(s.name for s in LOOKS if s.check in dir(costs) or s.check in ("costs", "fills")),
        )
    ],
    ids=lambda s: s.name,
)
def test_each_check_passes_without_faults(good: Desk, step: Step) -> None:
    """Without faults each check passes, links no runbook, and has a text, a query and content."""
    found = asked(good, step)
    assert found.good is True and not found.next, (step.name, found)
    assert found.words and found.query and found.content is not None


@pytest.mark.parametrize("name", BAD)
def test_each_check_fails_with_its_fault(tmp_path: Path, name: str) -> None:
    """With one fault the check for it fails, and its result gives the figure or the fault."""
    changed, words = BAD[name]
    desk = laid(tmp_path, but(*changed), posted(websocket_connected=True))
    found = asked(desk, name)
    assert found.good is False, found
    assert all(w in found.words for w in words), found.words
    assert found.next == LEADS.get(name, found.next) and (not found.next or found.next in catalog.names())
    desk.store.close()


@pytest.mark.parametrize("step", LOOKS, ids=lambda s: s.name)
def test_without_data_a_check_is_unknown(tmp_path: Path, step: Step) -> None:
    """Without any data a check neither passes nor fails."""
    desk = laid(tmp_path)
    found = asked(desk, step)
    assert found.good is None and found.words and not found.next, found
    desk.store.close()


@pytest.mark.slow
def test_as_of_a_moment(tmp_path: Path) -> None:
    """The result as of a moment is the same when it is computed later, with newer data in the store."""
    before = laid(tmp_path / "a", but(every("liveness", "massive", "timeout", minutes=12)), posted())
    after = [
        Sample(clock.micros(AT + timedelta(seconds=15 * i)), s.probe, s.subject, "server_5xx", detail=s.detail)
        for i in range(1, 40)
        for s in well()[:2]
    ]
    later = laid(
        tmp_path / "b",
        [*but(every("liveness", "massive", "timeout", minutes=12)), *after],
        [
            *posted(),
            *(Post(clock.micros(AT + timedelta(seconds=5 * i)), p.snapshot) for i, p in enumerate(posted(2), 1)),
        ],
    )

    def without_seq(seen):
        return seen._replace(content=None if isinstance(seen.content, dict) and "seq" in seen.content else seen.content)

    for step in LOOKS:
        assert without_seq(asked(before, step)) == without_seq(asked(later, step)), step.name


# What the page reports.


def test_page_and_probes_are_both_shown(tmp_path: Path) -> None:
    """If the page counts failures and our probes have none, the result shows both, and the check fails."""
    desk = laid(tmp_path, well(), posted(massive_successes=lambda i: 5 * i, massive_failures=lambda i: 5 * i))
    found = asked(desk, "massive_availability")
    assert (
        found.good is False
        and "app page: availability of massive (50.00 % over 10 min)" in found.words
        and "probes: availability of massive (100.00 % over 10 min)" in found.words
    )


def test_all_requests_go_to_the_fallback(tmp_path: Path) -> None:
    """The check passes only if no requests go to Massive and some go to Tradier."""
    still = laid(tmp_path / "a", well(), posted())
    moved = laid(tmp_path / "b", well(), posted(massive_requests=7, massive_successes=7))
    assert (
        asked(still, "requests_moved").good is False
        and "240 to massive, 24 to tradier" in asked(still, "requests_moved").words
    )
    assert asked(moved, "requests_moved").good is True


def test_only_the_pages_socket_is_disconnected(tmp_path: Path) -> None:
    """
    If only the page's WebSocket is disconnected, the advice is to refresh the page.

    Once it is connected, the check passes.
    """
    lost = laid(tmp_path / "a", well(), posted(websocket_connected=lambda i: i < 700))
    found = asked(lost, "socket_open")
    assert "only the page is disconnected: refresh it" in found.words and found.good is False
    assert asked(lost, "page_hears").good is False
    fine = laid(tmp_path / "b", well(), posted(websocket_connected=True))
    found = asked(fine, "page_hears")
    assert found.good is True and "pages open: 1, WebSocket connected" in found.words


def test_memory_of_the_page(tmp_path: Path) -> None:
    """The memory that a page posts is compared with its threshold; for a page that posts none the result is unknown."""
    desk = laid(tmp_path / "a", well(), posted(memory_bytes=120_000_000))
    assert (
        asked(desk, "page_memory").good is False
        and "memory of the page (120 MB) > 100 MB" in asked(desk, "page_memory").words
    )
    assert asked(laid(tmp_path / "b", well(), posted()), "page_memory").good is None


def test_posts_that_stop(tmp_path: Path) -> None:
    """
    Ten minutes without a post fail the check, even if all probes succeed; the result gives the age of the newest row.
    """
    stopped = [p for p in posted() if p.ts_us <= clock.micros(AT - timedelta(minutes=11))]
    desk = laid(tmp_path, well(), stopped)
    found = asked(desk, "posts_arrive")
    assert found.good is False and "11 min" in found.words and "11 min" in asked(desk, "store_answers").words


def test_errors_caused_by_an_outage(tmp_path: Path) -> None:
    """Errors that an outage causes link its runbook; other errors link none."""
    failing = posted(
        massive_successes=lambda i: 10 * min(i, 600),
        massive_failures=lambda i: 10 * max(0, i - 600),
        errors=lambda i: max(0, i - 600),
    )
    desk = laid(tmp_path / "a", but(every("liveness", "massive", "server_5xx", minutes=10)), failing)
    found = asked(desk, "errors_own")
    assert found.good is False and found.next == "massive_down", found
    assert asked(desk, "other_alerts").next == "massive_down"
    alone = laid(tmp_path / "b", well(), posted(errors=lambda i: max(0, i - 600)))
    assert asked(alone, "errors_own").good is True and "have their own cause" in asked(alone, "errors_own").words
    assert asked(alone, "other_alerts").next == "error_rate"


def test_a_deployment_marker_is_a_change(tmp_path: Path) -> None:
    """A deployment marked within the hour counts as a change; a note does not."""
    desk = laid(tmp_path, well())
    desk.marks.put("note", "page refreshed", "Ann", AT - timedelta(minutes=5))
    assert asked(desk, "nothing_changed").good is True
    desk.marks.put("deploy", "v1.4.1", "Ann", AT - timedelta(minutes=20))
    assert (
        asked(desk, "nothing_changed").good is False
        and "deploy at 10:40:00 New York: v1.4.1" in asked(desk, "nothing_changed").words
    )


# Trades.


def traded(home: Path, change: Callable[[dict[str, Any]], dict[str, Any]] = lambda t: t, count: int = 50) -> Desk:
    """Return a desk with the demo's trades, each changed by a function; all are closed at the market's close."""
    home.mkdir(parents=True, exist_ok=True)
    (home / "sample_trades.json").write_text(json.dumps([change(t) for t in trades.trades(replay.scripted())[:count]]))
    return laid(home)


CLOSE = OPENS + timedelta(hours=6.5)


def test_costs_line_by_line(tmp_path: Path) -> None:
    """
    The afternoon's wider spreads appear only as slippage.

    With the proposed change the same trades are within the limit.
    """
    desk = traded(tmp_path)
    table, found = asked(desk, "costs_as_assumed", CLOSE), cost_details.CostComparison(desk, CLOSE)
    commission, slippage, total = found.lines
    assert (
        total.over == commission.over + slippage.over
        and table.good is False
        and table.content["slippage"]["difference_usd"] > 5000
    )
    assert (
        asked(desk, "commission_as_assumed", CLOSE).good is True
        and asked(desk, "slippage_as_assumed", CLOSE).good is False
        and asked(desk, "spreads_usual", CLOSE).good is False
    )
    assert (
        list(table.content) == ["commission", "slippage", "total"]
        and "-slippage_pct = 0.4900" in found.change.plain
        and "+slippage_pct" in found.change.plain
        and "commission_usd = 0.6600" in found.change.plain
    )
    assert abs(found._gap(found.proposed) or 9) < abs(found._gap() or 0) and found._gap(found.proposed) < 0.5


def test_a_higher_commission(tmp_path: Path) -> None:
    """If the backtest assumed a third of the commission, the check fails, with both charges per contract and side."""
    found = asked(
        traded(tmp_path, lambda t: t | {"backtest_commission_usd": round(t["backtest_commission_usd"] / 3, 2)}),
        "commission_as_assumed",
        CLOSE,
    )
    assert found.good is False and "$0.650" in found.words and "assumed $0.220" in found.words


def test_the_last_trades_and_their_least_number(tmp_path: Path) -> None:
    """
    The last ten trades are shown; 19 are too few, 50 are enough.

    Quotes without executions leave fees, fills and size unknown.
    """
    desk = traded(tmp_path / "a")
    ten = asked(desk, "last_ten_trades", CLOSE)
    assert (
        ten.good is False
        and len(ten.content) == 10
        and cost_details.CostComparison(desk, CLOSE).newest.plain.count("\n") == 11
    )
    assert (
        asked(desk, "enough_trades", CLOSE).good is True
        and asked(traded(tmp_path / "b", count=19), "enough_trades", CLOSE).good is False
    )
    for name in ("no_new_fee", "fills_at_market", "size_as_backtested"):
        assert asked(desk, name, CLOSE).good is None, name


def paid(
    home: Path, *, live: float = 10, fee: float = 0.65, missed: float = 0.0, late_fee: float | None = None
) -> Desk:
    """Return a desk with forty fills that have prices, quotes and costs, and with the backtest's own trades."""
    home.mkdir(parents=True, exist_ok=True)
    head = "time,symbol,side,effect,quantity,price,bid,ask,commission,fees,trade_id,right,strike,expiry,multiplier\n"
    rows: dict[str, list[str]] = {"live": [], "backtest": []}
    for n in range(20):
        for end, minute, middle, sign in (("buy", 3 * n, 5.0, 1), ("sell", 3 * n + 2, 5.3, -1)):
            at = (OPENS + timedelta(minutes=minute)).isoformat()
            charged = fee if late_fee is None or n < 10 else late_fee
            for kept, quantity, price, cost in (
                ("live", live, middle + sign * (0.02 + missed), charged),
                ("backtest", 10, middle + sign * 0.02, 0.65),
            ):
                rows[kept].append(
                    f"{at},SPY 260320C00600000,{end},{'open' if sign > 0 else 'close'},{quantity:g},{price},"
                    f"{middle - 0.02},{middle + 0.02},{cost * quantity:.2f},0,t{n},C,600,2026-03-20,100\n"
                )
    (home / "backtest.csv").write_text(head + "".join(rows["backtest"]))
    (home / "live.csv").write_text(head + "".join(rows["live"]))
    desk = laid(home)
    FillStore(desk.store, "desk").keep(reader.read(home / "live.csv"), known_at_ts=True)
    return desk


def test_each_cost_fails_only_its_own_check(tmp_path: Path) -> None:
    """
    If fills are as the backtest assumed, all checks pass.

    Worse fills, a smaller size, a new fee and a higher commission each fail their own check; a new fee may also fail
    that of the commission.
    """
    names = ("commission_as_assumed", "fills_at_market", "size_as_backtested", "no_new_fee")
    for i, (how, wrong) in enumerate(
        [
            ({}, ""),
            ({"missed": 0.05}, "fills_at_market"),
            ({"live": 2}, "size_as_backtested"),
            ({"late_fee": 0.95}, "no_new_fee"),
            ({"fee": 1.0}, "commission_as_assumed"),
        ]
    ):
        desk = paid(tmp_path / str(i), **how)
        results = {name: asked(desk, name, CLOSE) for name in names}
        assert results.get(wrong, CheckResult(False, "")).good is False, (how, results)
        assert all(
            seen.good is True
            for name, seen in results.items()
            if name != wrong and not (wrong == "no_new_fee" and name == "commission_as_assumed")
        ), (how, results)


# Stored chains, and simulated worlds.


def test_a_stored_chain_contract_by_contract(tmp_path: Path) -> None:
    """The chain stored during the burst is validated contract by contract, and the result names one of them."""
    script = replay.scripted()
    from opslib.simulation.demo_day import probe_samples

    at, answer = next(
        (at, a)
        for at, a in probe_samples.chains(script)
        if next(t for t in script.faults if t.name == "gamma_burst").begins
        <= at
        < next(t for t in script.faults if t.name == "gamma_burst").ends
    )
    desk = laid(tmp_path, [Sample(clock.micros(at), "chain", "SPY", "ok", detail=json.dumps(CHAIN))])
    SampleStore(desk.store, "desk").keep_chain(clock.micros(at), "massive", "SPY", "ok", [json.dumps(answer).encode()])
    found = asked(desk, "chain_by_contract", at + timedelta(minutes=5))
    assert (
        found.good is False
        and "tradable contracts valid" in found.words
        and "gamma zero" in found.words
        and "for example SPY" in found.words
    )


def test_no_check_result_contains_a_key(tmp_path: Path) -> None:
    """If a provider rejects our key and repeats it, no result contains a secret, and the fault is ours."""
    with stepped_probes(tmp_path) as probes:
        probes.advance(1)
        probes.world.inject(massive_401=1.0)
        probes.advance(1.5)
        desk, found = Desk(probes.load_settings(), lambda: probes.at), {}
        found = {s.name: asked(desk, s, probes.at) for s in LOOKS}
        secrets = [secret for secret in desk.settings.secrets.values() if secret]
    assert secrets and not [
        name for name, seen in found.items() for secret in secrets if secret in json.dumps(seen, default=str)
    ]
    assert (
        found["massive_key"].good is False
        and found["not_ours"].good is False
        and found["massive_address"].good is None
        and found["tradier_answers"].good is True
    )
