"""Test that every state of the simulated world has its probe outcomes and its sentence in a panel."""

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
from opslib.simulation.drills.stepped_desk import stepped_probes
from opslib.simulation.world.faults import SKEWED, STATES
from opslib.telemetry.probes.store import SampleStore

pytestmark = [pytest.mark.drill, pytest.mark.slow]


class Shown(NamedTuple):
    """The expected panel, verdict, words and outcomes of a state."""

    panel: str
    verdict: str
    words: tuple[str, ...]
    outcomes: dict[str, str] = {}  # noqa: RUF012  # Never modified.
    never: tuple[str, ...] = ()
    share: float = 1.0


MASSIVE_WELL, TRADIER_WELL = "massive responds to our probes", "tradier responds to our probes"
NO_DOWNTIME = ("availability of massive (0", "no provider is available")
TABLE: dict[str, Shown] = {
    "healthy": Shown(
        "providers", "ok", (MASSIVE_WELL, TRADIER_WELL), {"massive": "ok", "tradier": "ok"}, ("warning", "critical")
    ),
    "massive_5xx": Shown(
        "providers",
        "critical",
        ("massive returns HTTP 5", "(server error, ", "Fault: the provider", "tradier can serve"),
        {"massive": "server_5xx", "tradier": "ok"},
    ),
    "massive_timeout": Shown(
        "providers",
        "",
        ("massive accepts the connection but does not respond in time", "Fault: the provider"),
        {"massive": "timeout"},
    ),
    "massive_refused": Shown("providers", "critical", ("massive refuses the connection",), {"massive": "refused"}),
    "massive_dns": Shown(
        "providers", "critical", ("massive has a host name that does not resolve",), {"massive": "dns"}
    ),
    "massive_tls": Shown(
        "providers", "critical", ("massive presents an untrusted TLS certificate",), {"massive": "tls"}
    ),
    "massive_401": Shown(
        "providers",
        "critical",
        ("massive rejects our API key (401)", '"Unknown API Key"', "Fault: our side"),
        {"massive": "auth_401"},
        NO_DOWNTIME,
    ),
    "massive_403_plan": Shown(
        "providers",
        "critical",
        ("our plan does not include this data (403)", "Fault: the plan"),
        {"massive": "entitlement_403"},
        NO_DOWNTIME,
    ),
    "massive_403_ip": Shown(
        "providers",
        "critical",
        ("massive blocks our IP address (403)", "Fault: our side"),
        {"massive": "ip_blocked_403"},
        NO_DOWNTIME,
    ),
    "massive_429": Shown(
        "providers",
        "",
        ("massive rejects requests above its rate limit (429)", "Fault: our side"),
        {"massive": "rate_limited_429"},
        NO_DOWNTIME,
    ),
    "massive_html_200": Shown(
        "providers",
        "critical",
        ("massive returns a web page instead of data", "Fault: unclear"),
        {"massive": "wrong_content"},
        ("probes: availability of massive (",),
    ),
    "massive_empty": Shown(
        "providers", "critical", ("massive returns an empty response",), {"massive": "ok_empty"}, NO_DOWNTIME
    ),
    "massive_partial_pages": Shown(
        "greeks",
        "warning",
        ("the chain of SPY: massive returns an incomplete option chain (1 pages, 250 contracts)",),
        {"massive": "ok"},
    ),
    "massive_stale": Shown(
        "providers", "critical", ("massive returns stale data (data 21 min old",), {"massive": "stale"}, NO_DOWNTIME
    ),
    "massive_intermittent": Shown(
        "providers",
        "critical",
        ("massive fails intermittently", "Fault: the provider"),
        {},
        ("no provider is available",),
    ),
    "tradier_down": Shown(
        "providers",
        "critical",
        (MASSIVE_WELL, "tradier returns HTTP 5"),
        {"massive": "ok", "tradier": "server_5xx"},
        ("no provider can serve",),
    ),
    "both_down": Shown(
        "providers",
        "critical",
        ("no provider is available", "no provider can serve"),
        {"massive": "server_5xx", "tradier": "server_5xx"},
        ("our network is down",),
    ),
    "our_network_down": Shown(
        "providers",
        "critical",
        ("our network is down: no provider can be reached", "no provider can serve"),
        {"massive": "unreachable", "tradier": "unreachable"},
        ("100.00 %) <", "100.00 % over 5 min) <", "100.00 % over 10 min) <", "100.00 % over 1 h) <"),
    ),
    "our_timeout_short": Shown(
        "providers",
        "warning",
        ("the app's requests to massive time out after 150 ms", "the app's own timeout is too short", MASSIVE_WELL),
        {"massive": "ok"},
        NO_DOWNTIME,
    ),
    "app_down": Shown(
        "system",
        "critical",
        ("the app refuses the connection", "Fault: the app", "the app's process is not running"),
        {"massive": "ok"},
    ),
    "app_restarted": Shown("system", "warning", ("the app's server restarted at 10:31",), {"massive": "ok"}),
    "app_slow": Shown("system", "critical", ("the app responds slowly to our probes (p95",)),
    "page_refreshed": Shown("system", "ok", ("page loads / reloads 2 / 1",)),
    "page_closed": Shown("system", "", ("time without a new snapshot or request (",), {"massive": "ok"}),
    "ws_403": Shown(
        "system",
        "critical",
        ("the app's WebSocket rejects the connection before it opens (HTTP 403): check its token", "WebSocket down"),
    ),
    "ws_port_blocked": Shown(
        "system", "critical", ("the app's WebSocket cannot be reached: the port is blocked", "WebSocket down")
    ),
    "gamma_zero": Shown("greeks", "critical", ("chains: Greeks with gamma zero or missing (",), share=0.2),
    "greeks_missing": Shown("greeks", "", ("chains: valid Greeks (", " missing"), {}, (), share=0.3),
    "delta_out_of_bounds": Shown(
        "greeks",
        "critical",
        ("chains: Greeks with delta outside -1 to 1 (",),
        {},
        ("critical: chains: Greeks with gamma",),
        share=0.2,
    ),
    "unit_drift": Shown("greeks", "critical", ("the units of SPY's Greeks may have changed", "its IV did not change")),
    "iv_stress": Shown("greeks", "ok", ("market stress, not a data fault",), {}, ("the units of",)),
    "expiry_friday": Shown(
        "greeks", "ok", ("SPY has 90 contracts that expire today: a gamma of 0 in their wings is correct",)
    ),
    "market_closed": Shown("providers", "ok", ("the providers report that the market is closed",), {}, ("critical",)),
    "commission_up": Shown("pnl", "", ("backtest variance (",)),
    "spread_up": Shown("pnl", "", ("backtest variance (",)),
    "bad_fills": Shown("pnl", "", ("backtest variance (",)),
    "smaller_size": Shown("pnl", "", ("backtest variance (",)),
    "too_few_trades": Shown("pnl", "unknown", ("backtest variance: ",), {}, ("critical", "warning")),
    "memory_leak": Shown("system", "critical", ("memory growth of the app's server (",)),
    "error_storm": Shown("system", "critical", ("log: errors (", "the app logged")),
    "clock_skew": Shown(
        "system",
        "critical",
        ("the clock of the app is 10 min ahead of the collector's clock",),
        {},
        ("the collector's clock is",),
    ),
    "dashboard_slow": Shown(
        "system",
        "",
        ("age of the dashboard's data (",),
        {},
        ("time without a new snapshot or request (4",),
    ),
    "collector_dead": Shown("system", "critical", ("the collector has missed", "missed heartbeats of the collector (")),
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
HELD_OPEN = {"ws_closed_1006", "ws_open_silent"}  # Tested with an open WebSocket in test_world_lived.
# These are tested with the servers, and their diagnosis in drills.
DRILLED = {
    "market_closes_early",
    "tradier_options_refused",
    "ws_old_clients_dead",
    "app_hung",
    "collector_starved",
    *(name for name in SKEWED if name != "clock_skew"),
}
LENGTHY = ("our_network_down", "massive_timeout", "app_slow")  # Each probe takes long.
COSTS = ("commission_up", "spread_up", "bad_fills", "smaller_size", "too_few_trades")

# A simulated provider's speed depends on the machine's load, and these states are not about speed.
SLOW_ALLOWED = """
[response_time]
objective = 3.0
warning = 5.0
critical = 20.0
clear = { warning = 4.0, critical = 15.0 }
"""


def test_every_state_is_tested() -> None:
    """Every state has a row here, is tested with an open WebSocket, or is drilled."""
    assert set(TABLE) | HELD_OPEN | DRILLED == set(STATES) and set(FAULTS) | set(CONTROLS) >= DRILLED


@pytest.mark.parametrize("state", TABLE)
def test_a_state_is_reported_in_its_panel(tmp_path: Path, state: str) -> None:
    """With a world in a state, the diagnosis names its cause, and its panel has the expected sentences and verdict."""
    expected = TABLE[state]
    simulated_min, shown_min = (1.25, 2) if state in LENGTHY else (2.5, 3)
    if state == "memory_leak":
        simulated_min, shown_min = 8, 9
    if state in ("massive_stale", "massive_403_plan"):
        simulated_min = shown_min = 4  # These need more minutes, since the data probe runs once a minute.
    if state != "app_slow":
        (tmp_path / "rules.toml").write_text(SLOW_ALLOWED)
    with stepped_probes(tmp_path) as desk:
        desk.rules = rules.load(tmp_path)
        has_chains = expected.panel in (
            "providers",
            "greeks",
        )  # A chain takes as long to evaluate as a minute's probes.
        # The response time rule needs twenty probes.
        desk.advance(4 if state == "app_slow" else 1, chains=has_chains)
        if state in COSTS[:4]:
            desk.advance(30, probing=False)  # The usual cost of trades.
        if state != "healthy":
            desk.world.inject(**{state: expected.share})
        if state in COSTS:
            desk.advance(30, probing=False)
        if state == "collector_dead":
            desk.at += timedelta(minutes=2)
        else:
            desk.advance(simulated_min, chains=has_chains and state not in LENGTHY)
        view = desk.view(timedelta(minutes=30 if state in COSTS else shown_min))
    found = diagnose(view)
    assert found.cause in CAUSES[state], f"{found!r}"
    if state.startswith(("massive", "our_timeout")):
        assert found.subject == "massive", f"{found!r}"
    if state == "tradier_down":
        assert found.subject == "tradier", f"{found!r}"
    print(f"DIAG {state}: {found.words}")
    panel = view.panel(expected.panel)
    text = repr(panel)
    assert all(words in " ".join(text.split()) for words in expected.words), text
    assert not [
        words
        for words in expected.never
        if words in "\n".join(s for s in panel.sentences if not s.startswith("not evaluated"))
    ], text
    assert not expected.verdict or panel.verdict == expected.verdict, text
    probes = view.as_json()["panels"]["providers"]["probes"]
    assert {name: probes[name]["outcome"] for name in expected.outcomes} == expected.outcomes
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
    """The process of a hung app exists and its port accepts connections without a response; afterwards it continues."""
    with stepped_probes(tmp_path) as desk:
        url, pid = desk.world.environ["OPS_APP_URL"], int((desk.world.folder / "app.pid").read_text())
        assert httpx.get(f"{url}/ping", trust_env=False).status_code == 200
        desk.world.inject(app_hung=1.0)
        desk.world.set_time(desk.at + timedelta(seconds=60))
        until = time.monotonic() + 30
        while psutil.Process(pid).status() != psutil.STATUS_STOPPED and time.monotonic() < until:
            time.sleep(0.01)  # The signal arrives after a delay.
        assert psutil.Process(pid).status() == psutil.STATUS_STOPPED
        with pytest.raises(httpx.ReadTimeout):
            httpx.get(f"{url}/ping", trust_env=False, timeout=httpx.Timeout(30.0, read=0.3))
        desk.world.inject()
        health = httpx.get(f"{url}/api/health", trust_env=False, timeout=30.0).json()
        assert health["timestamp"] == "2026-03-10T14:31:00.000Z" and health["uptime"] == 60


def test_every_probe_has_its_production_interval(tmp_path: Path) -> None:
    """
    In 15 minutes each probe runs as often as under `ops collect`.

    Fast probes run every 5 s, data probes each minute, chains at once and then every 15 minutes; one socket stays open.
    """
    with stepped_probes(tmp_path) as desk:
        desk.chains = True
        desk.advance(15.5)
        counts = Counter((s.probe, s.subject) for s in SampleStore(desk.store, "desk").between(0, 2**62) if s.last)
        clients = httpx.get(f"{desk.world.environ['OPS_APP_URL']}/api/ws-health", trust_env=False).json()["metrics"][
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
    """If the app has no fallback, a fault of Massive alone leaves no usable provider, whatever Tradier's state."""
    with stepped_probes(tmp_path, OPS_FALLBACK="none") as desk:
        desk.advance(1)
        desk.world.inject(massive_5xx=1.0)
        desk.advance(3)
        view = desk.view(timedelta(minutes=3))
    assert "no provider can serve: no fallback is configured" in repr(view.panel("providers"))
    assert view.as_json()["panels"]["providers"]["probes"]["serving"] == "nobody"
    assert any(f.subject == "app" and f.source == "probe" and f.severity == "escalate" for f in view.findings)
