"""
Every state of the simulated world, seen through its doors alone: its own outcome, and the panel sentence that a lead
needs.
"""

import time
from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import httpx
import psutil
import pytest

from opslib.foundation.config import rules
from opslib.runbooks.diagnosis.diagnosis import diagnose
from opslib.simulation.drills.scenarios import CONTROLS, FAULTS
from opslib.simulation.drills.stepped_desk import looking
from opslib.simulation.world.faults import SKEWED, STATES
from opslib.telemetry.probes.store import SampleStore

pytestmark = [pytest.mark.drill, pytest.mark.slow]


class Told(NamedTuple):
    """What a state must read like."""

    panel: str
    verdict: str
    words: tuple[str, ...]
    outcomes: dict[str, str] = {}  # noqa: RUF012  # Nobody changes it.
    never: tuple[str, ...] = ()
    share: float = 1.0


MASSIVE_WELL, TRADIER_WELL = "massive answers us", "tradier answers us"
NO_DOWNTIME = ("availability of massive (0", "no provider is left")
TABLE: dict[str, Told] = {
    "healthy": Told(
        "providers", "ok", (MASSIVE_WELL, TRADIER_WELL), {"massive": "ok", "tradier": "ok"}, ("warning", "critical")
    ),
    "massive_5xx": Told(
        "providers",
        "critical",
        ("massive answers with an error of its own (5xx) (HTTP 5", "Fault: the provider's", "tradier can serve"),
        {"massive": "server_5xx", "tradier": "ok"},
    ),
    "massive_timeout": Told(
        "providers",
        "",
        ("massive takes the connection and does not answer in time", "Fault: the provider's"),
        {"massive": "timeout"},
    ),
    "massive_refused": Told("providers", "critical", ("massive refuses the connection",), {"massive": "refused"}),
    "massive_dns": Told("providers", "critical", ("massive has a name that cannot be resolved",), {"massive": "dns"}),
    "massive_tls": Told(
        "providers", "critical", ("massive shows a certificate that cannot be trusted",), {"massive": "tls"}
    ),
    "massive_401": Told(
        "providers",
        "critical",
        ("massive does not accept our key (401)", '"Unknown API Key"', "Fault: ours"),
        {"massive": "auth_401"},
        NO_DOWNTIME,
    ),
    "massive_403_plan": Told(
        "providers",
        "critical",
        ("our plan does not cover this (403)", "Fault: the plan's"),
        {"massive": "entitlement_403"},
        NO_DOWNTIME,
    ),
    "massive_403_ip": Told(
        "providers",
        "critical",
        ("massive does not let our address in (403)", "Fault: ours"),
        {"massive": "ip_blocked_403"},
        NO_DOWNTIME,
    ),
    "massive_429": Told(
        "providers",
        "",
        ("massive says that we ask too often (429)", "Fault: ours"),
        {"massive": "rate_limited_429"},
        NO_DOWNTIME,
    ),
    "massive_html_200": Told(
        "providers",
        "critical",
        ("massive answers with a page instead of data (200 proves nothing)", "Fault: unclear whose"),
        {"massive": "wrong_content"},
        ("by our own looks: availability of massive (",),
    ),
    "massive_empty": Told(
        "providers", "critical", ("massive answers, with nothing in it",), {"massive": "ok_empty"}, NO_DOWNTIME
    ),
    "massive_partial_pages": Told(
        "greeks",
        "warning",
        ("the chain of SPY: massive answers only a part of the chain (1 pages, 250 contracts)",),
        {"massive": "ok"},
    ),
    "massive_stale": Told(
        "providers", "critical", ("massive answers with old data (data 21 min old",), {"massive": "stale"}, NO_DOWNTIME
    ),
    "massive_intermittent": Told(
        "providers",
        "critical",
        ("massive answers some of our looks and not others", "Fault: the provider's"),
        {},
        ("no provider is left",),
    ),
    "tradier_down": Told(
        "providers",
        "critical",
        (MASSIVE_WELL, "tradier answers with an error of its own"),
        {"massive": "ok", "tradier": "server_5xx"},
        ("nobody can serve",),
    ),
    "both_down": Told(
        "providers",
        "critical",
        ("no provider is left", "nobody can serve"),
        {"massive": "server_5xx", "tradier": "server_5xx"},
        ("our own network first",),
    ),
    "our_network_down": Told(
        "providers",
        "critical",
        ("our own network first: neither provider can be connected to", "nobody can serve"),
        {"massive": "unreachable", "tradier": "unreachable"},
        ("100.00 %) <",),
    ),
    "our_timeout_short": Told(
        "providers",
        "warning",
        ("the app gives up on massive after 150 ms", "the app's own timeout is too short", MASSIVE_WELL),
        {"massive": "ok"},
        NO_DOWNTIME,
    ),
    "app_down": Told(
        "system",
        "critical",
        ("the app refuses the connection", "Fault: the app's", "the app's process is gone"),
        {"massive": "ok"},
    ),
    "app_restarted": Told("system", "warning", ("the app's server was started anew at 10:31",), {"massive": "ok"}),
    "app_slow": Told("system", "critical", ("the app is slow to answer us (p95",)),
    "page_refreshed": Told("system", "ok", ("pages seen / reloads 2 / 1",)),
    "page_closed": Told("system", "", ("silence (no post, or no request in the posts) (",), {"massive": "ok"}),
    "ws_403": Told(
        "system", "critical", ("the app's WebSocket refuses us before it opens (HTTP 403): its token", "WebSocket down")
    ),
    "ws_port_blocked": Told(
        "system", "critical", ("the app's WebSocket cannot be connected to while the port is blocked", "WebSocket down")
    ),
    "gamma_zero": Told("greeks", "critical", ("by our own chains: share with gamma zero or missing (",), share=0.2),
    "greeks_missing": Told("greeks", "", ("by our own chains: valid Greeks (", " missing"), {}, (), share=0.3),
    "delta_out_of_bounds": Told(
        "greeks",
        "critical",
        ("by our own chains: share with delta outside -1 to 1 (",),
        {},
        ("critical: by our own chains: share with gamma",),
        share=0.2,
    ),
    "unit_drift": Told("greeks", "critical", ("the units of SPY's Greeks may have changed", "its IV not")),
    "iv_stress": Told("greeks", "ok", ("market stress, no fault of the data",), {}, ("the units of",)),
    "expiry_friday": Told(
        "greeks", "ok", ("SPY has 90 contracts that expire today: a gamma of 0 in their wings is right",)
    ),
    "market_closed": Told("providers", "ok", ("the providers say that the market is closed",), {}, ("critical",)),
    "commission_up": Told("pnl", "", ("backtest variance (",)),
    "spread_up": Told("pnl", "", ("backtest variance (",)),
    "bad_fills": Told("pnl", "", ("backtest variance (",)),
    "smaller_size": Told("pnl", "", ("backtest variance (",)),
    "too_few_trades": Told("pnl", "unknown", ("backtest variance: ",), {}, ("critical", "warning")),
    "memory_leak": Told("system", "critical", ("growth of the app's server (",)),
    "error_storm": Told("system", "critical", ("by our own reading of the log: errors (", "the app logged")),
    "clock_skew": Told(
        "system", "critical", ("the clock of the app is 10 min ahead of ours",), {}, ("our own clock is",)
    ),
    "dashboard_slow": Told(
        "system", "", ("age of what the dashboard shows (",), {}, ("silence (no post, or no request in the posts) (4",)
    ),
    "collector_dead": Told("system", "critical", ("our collector has missed", "missed beats of the monitor (")),
}
CAUSES: dict[str, tuple[str, ...]] = {
    "healthy": ("none",),
    "massive_5xx": ("provider_5xx",),
    "massive_timeout": ("provider_timeout",),
    "massive_refused": ("provider_refused",),
    "massive_dns": ("provider_dns",),
    "massive_tls": ("provider_tls",),
    "massive_401": ("provider_auth",),
    "massive_403_plan": ("provider_plan",),
    "massive_403_ip": ("provider_ip_blocked",),
    "massive_429": ("provider_rate_limited",),
    "massive_html_200": ("provider_wrong_content",),
    "massive_empty": ("provider_empty",),
    "massive_partial_pages": ("provider_partial",),
    "massive_stale": ("provider_stale",),
    "massive_intermittent": ("provider_intermittent", "provider_5xx"),
    "tradier_down": ("provider_5xx",),
    "both_down": ("both_providers_down",),
    "our_network_down": ("our_network",),
    "our_timeout_short": ("our_timeout_too_short",),
    "app_down": ("app_down",),
    "app_restarted": ("app_restarted",),
    "app_slow": ("app_slow",),
    "page_refreshed": ("none",),
    "page_closed": ("none",),
    "ws_403": ("socket_auth",),
    "ws_port_blocked": ("socket_blocked",),
    "gamma_zero": ("greeks_gamma_zero",),
    "greeks_missing": ("greeks_missing",),
    "delta_out_of_bounds": ("greeks_out_of_bounds",),
    "unit_drift": ("greeks_units",),
    "iv_stress": ("market_stress",),
    "expiry_friday": ("expiry",),
    "market_closed": ("market_closed",),
    "commission_up": ("costs_commission",),
    "spread_up": ("costs_spread",),
    "bad_fills": ("costs_fill_quality",),
    "smaller_size": ("costs_size",),
    "too_few_trades": ("too_few_trades", "none"),
    "memory_leak": ("memory_leak",),
    "error_storm": ("error_storm",),
    "clock_skew": ("clock_skew",),
    "dashboard_slow": ("dashboard_slow",),
    "collector_dead": ("monitor_down",),
}
HELD_OPEN = {"ws_closed_1006", "ws_open_silent"}  # What happens to a socket that is held: test_world_lived.
# What the servers of the world do is tested where each is; what a desk makes of these is drilled.
DRILLED = {
    "market_closes_early",
    "tradier_options_refused",
    "ws_old_clients_dead",
    "app_hung",
    "collector_starved",
    *(name for name in SKEWED if name != "clock_skew"),
}
LENGTHY = ("our_network_down", "massive_timeout", "app_slow")  # Each look takes its time.
COSTS = ("commission_up", "spread_up", "bad_fills", "smaller_size", "too_few_trades")

# How fast a simulated provider answers depends on what else the machine does, and is not what these states are about.
AT_LEISURE = """
[response_time]
objective = 3.0
warning = 5.0
critical = 20.0
clear = { warning = 4.0, critical = 15.0 }
"""


def test_every_state_is_told() -> None:
    """No state of the world is without a row, here or where sockets are held, or is drilled."""
    assert set(TABLE) | HELD_OPEN | DRILLED == set(STATES) and set(FAULTS) | set(CONTROLS) >= DRILLED


@pytest.mark.parametrize("state", TABLE)
def test_a_state_has_its_sentence(tmp_path: Path, state: str) -> None:
    """
    A desk that looks at the world in a state says what is the matter, in the right panel, and does not say what is not.
    """
    told = TABLE[state]
    lived_min, shown_min = (1.25, 2) if state in LENGTHY else (2.5, 3)
    if state == "memory_leak":
        lived_min, shown_min = 8, 9
    if state == "massive_stale":
        lived_min = shown_min = 4  # At a probe a minute, enough answers to be sure, all of old data.
    if state != "app_slow":
        (tmp_path / "rules.toml").write_text(AT_LEISURE)
    with looking(tmp_path) as desk:
        desk.rules = rules.load(tmp_path)
        desk.live(4 if state == "app_slow" else 1, chains=True)  # To call it slow the rule wants twenty probes.
        if state in COSTS[:4]:
            desk.live(30, looks=False)  # What trades usually cost.
        if state != "healthy":
            desk.lever.be(**{state: told.share})
        if state in COSTS:
            desk.live(30, looks=False)
        if state == "collector_dead":
            desk.at += timedelta(minutes=2)
        else:
            desk.live(lived_min, chains=state not in LENGTHY)
        view = desk.view(timedelta(minutes=30 if state in COSTS else shown_min))
    found = diagnose(view)
    assert found.cause in CAUSES[state], f"{found!r}"
    if state.startswith(("massive", "our_timeout")):
        assert found.subject == "massive", f"{found!r}"
    if state == "tradier_down":
        assert found.subject == "tradier", f"{found!r}"
    print(f"DIAG {state}: {found.words}")
    panel = view.panel(told.panel)
    text = repr(panel)
    assert all(words in " ".join(text.split()) for words in told.words), text
    assert not [
        words
        for words in told.never
        if words in "\n".join(s for s in panel.sentences if not s.startswith("not counted"))
    ], text
    assert not told.verdict or panel.verdict == told.verdict, text
    probes = view.as_json()["panels"]["providers"]["probes"]
    assert {name: probes[name]["outcome"] for name in told.outcomes} == told.outcomes
    if state in ("commission_up", "spread_up", "bad_fills", "smaller_size"):
        assert panel.verdict in ("warning", "critical") and (view.figures["pnl"]["backtest_variance_pp"] or 0) > 10, (
            text
        )
    if state == "our_network_down":
        assert (
            probes["our_network"] == "gone" and probes["serving"] == "nobody" and probes["massive"]["availability"] < 1
        )
    if state == "massive_5xx":
        assert probes["serving"] == "tradier" and probes["our_network"] == "ok"


def test_a_hung_app(tmp_path: Path) -> None:
    """
    Its process lives and its port takes connections, and nothing is answered, for as long as it hangs; then it goes on.
    """
    with looking(tmp_path) as desk:
        url, pid = desk.lever.environ["OPS_APP_URL"], int((desk.lever.folder / "app.pid").read_text())
        assert httpx.get(f"{url}/ping", trust_env=False).status_code == 200
        desk.lever.be(app_hung=1.0)
        desk.lever.at(desk.at + timedelta(seconds=60))
        until = time.monotonic() + 30
        while psutil.Process(pid).status() != psutil.STATUS_STOPPED and time.monotonic() < until:
            time.sleep(0.01)  # A signal was sent; when it arrives is the machine's.
        assert psutil.Process(pid).status() == psutil.STATUS_STOPPED
        with pytest.raises(httpx.ReadTimeout):
            httpx.get(f"{url}/ping", trust_env=False, timeout=httpx.Timeout(30.0, read=0.3))
        desk.lever.be()
        told = httpx.get(f"{url}/api/health", trust_env=False, timeout=30.0).json()
        assert told["timestamp"] == "2026-03-10T14:31:00.000Z" and told["uptime"] == 60


def test_every_probe_has_its_production_pace(tmp_path: Path) -> None:
    """
    In a quarter of an hour each probe is made as often as `ops collect` makes it: what is quick each 5 s, data each
    minute, a chain at once and then each 15 minutes; the socket is held.
    """
    with looking(tmp_path) as desk:
        desk.chains = True
        desk.live(15.5)
        counts = Counter((s.probe, s.subject) for s in SampleStore(desk.store, "desk").between(0, 2**62) if s.last)
        clients = httpx.get(f"{desk.lever.environ['OPS_APP_URL']}/api/ws-health", trust_env=False).json()["metrics"][
            "options"
        ]["totalClients"]
    quick = dict.fromkeys(
        (
            ("liveness", "massive"),
            ("liveness", "tradier"),
            ("health", "app"),
            ("socket", "app"),
            ("log", "app"),
            ("beat", "collector"),
        ),
        186,
    )
    expected = {
        **quick,
        ("process", "app"): 62,
        ("data", "massive"): 16,
        ("data", "tradier"): 16,
        ("metrics", "app"): 16,
        ("chain", "SPY"): 2,
        ("chain", "AAPL"): 2,
    }
    assert {
        what: n for what, n in counts.items() if abs(n - expected.get(what, n)) > 1
    } == {} and expected.keys() <= counts.keys(), counts
    assert clients == 1


def test_an_app_without_a_fallback(tmp_path: Path) -> None:
    """Where the app has no Tradier, Massive's trouble alone leaves nobody to serve, whatever Tradier answers us."""
    with looking(tmp_path, OPS_FALLBACK="none") as desk:
        desk.live(1)
        desk.lever.be(massive_5xx=1.0)
        desk.live(3)
        view = desk.view(timedelta(minutes=3))
    assert "nobody can serve: no fallback is configured" in repr(view.panel("providers"))
    assert view.as_json()["panels"]["providers"]["probes"]["serving"] == "nobody"
    assert any(f.subject == "app" and f.source == "probe" and f.severity == "escalate" for f in view.findings)
