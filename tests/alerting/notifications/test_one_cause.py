"""One cause gives one notification with the right runbook, for each cause and each rule that it triggers."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from opslib.dashboard import status
from opslib.runbooks.diagnosis import diagnosis
from tests.support.lived_hour import BEGINS_S, RULES, Desk, World, healthy

BOTH = [("liveness", "massive"), ("data", "massive"), ("liveness", "tradier"), ("data", "tradier")]
MASSIVE = BOTH[:2]


def massive(outcome: str, errors: int = 4):
    """Massive fails for us and for the page; the app logs each failure."""

    def fault(world: World) -> None:
        world.every(outcome, *MASSIVE)
        world.fails["massive"], world.errors, world.page_errors = 1.0, errors, errors

    return fault


def both(outcome: str):
    def fault(world: World) -> None:
        world.every(outcome, *BOTH)
        world.fails |= {"massive": 1.0, "tradier": 1.0}
        world.errors = world.page_errors = 4

    return fault


def network(world: World) -> None:
    """We cannot connect to either provider; the app, on another machine, is healthy."""
    world.every("unreachable", *BOTH)


def network_of_all(world: World) -> None:
    """Neither we nor the app's page, on the same machine, can connect to either provider."""
    both("unreachable")(world)


def app_down(world: World) -> None:
    """
    The app's server is down: its socket closes and the page's requests through it fail; the page can still post to us.
    """
    world.every("refused", ("health", "app"), ("socket", "app"))
    world.every("gone", ("process", "app"))
    world.fails |= {"massive": 1.0, "tradier": 1.0}
    world.connected, world.page_errors = False, 4


def app_down_mute(world: World) -> None:
    """The app's server is down, and the page's posts, which pass through it, do not arrive either."""
    app_down(world)
    world.posts = False


def app_hung(world: World) -> None:
    world.every("timeout", ("health", "app"), ("socket", "app"))
    world.fails |= {"massive": 1.0, "tradier": 1.0}
    world.connected = False


def app_slow(world: World) -> None:
    world.seconds["app"] = 2.6


def socket_closed(world: World) -> None:
    """The app's sockets are closed, both the page's and ours."""
    world.every("closed", ("socket", "app"))
    world.connected = False


def gamma_zero(world: World) -> None:
    world.invalid = world.zero = 3
    world.chain = ("ok", {"flagged": 90, "faults": {"gamma_zero": 90}, "gamma_zero": 90})


def units(world: World) -> None:
    world.chain = (
        "ok",
        {
            "flagged": 300,
            "faults": {"units": 300},
            "units": {"gamma": "per_dollar", "theta": "per_year", "vega": "per_point", "iv": "decimal"},
            "median_theta": -18.25,
        },
    )


def partial(world: World) -> None:
    world.chain = ("partial", {})


def storm(world: World) -> None:
    world.errors = world.page_errors = 3


def our_clock(world: World) -> None:
    world.skew = {"massive": -600.0, "tradier": -600.0, "app": -600.0}


def tradiers_clock(world: World) -> None:
    world.skew["tradier"] = 90.0


def in_part(world: World) -> None:
    """Massive responds to about three in ten requests with a server error, the page's and ours."""
    if world.second % 50 in (5, 20, 40):
        world.every("server_5xx", *MASSIVE)
    world.fails["massive"], world.page_errors = 0.25, 1


def hanging(world: World) -> None:
    """Massive accepts connections and does not respond; the page's requests never end, so it does not count them."""
    world.every("timeout", *MASSIVE)
    world.hangs = True


def impatient(world: World) -> None:
    """The app's timeout for Massive is too short: its requests fail, our probes get responses."""
    world.fails["massive"], world.errors, world.page_errors = 1.0, 4, 4


def socket_alone(outcome: str):
    """Only our own socket fails; the page's stays connected."""

    def fault(world: World) -> None:
        world.every(outcome, ("socket", "app"))

    return fault


def bounds(world: World) -> None:
    world.invalid = world.bounds = 7
    world.chain = ("ok", {"flagged": 200, "faults": {"delta_out_of_bounds": 200}, "delta_out_of_bounds": 200})


def missing(world: World) -> None:
    world.invalid = 4
    world.chain = ("ok", {"flagged": 120, "faults": {"missing": 120}, "missing": 120})


def grows(world: World) -> None:
    world.memory_mb = 180.0


# Cause: the fault, the rules of which one may be notified first, their subject, and the runbook that the message names.
CAUSES = {
    "provider_5xx": (massive("server_5xx"), {"availability"}, "massive", "massive_down"),
    "provider_timeout": (massive("timeout"), {"availability"}, "massive", "massive_down"),
    "provider_refused": (massive("refused"), {"availability"}, "massive", "massive_down"),
    "provider_tls": (massive("tls"), {"availability"}, "massive", "massive_down"),
    "provider_auth": (massive("auth_401"), {"answers", "availability", "errors"}, None, "provider_availability"),
    "provider_plan": (massive("entitlement_403"), {"answers", "availability", "errors"}, None, "provider_availability"),
    "provider_ip_blocked": (
        massive("ip_blocked_403"),
        {"answers", "availability", "errors"},
        None,
        "provider_availability",
    ),
    "provider_rate_limited": (
        massive("rate_limited_429"),
        {"answers", "availability", "errors"},
        None,
        "provider_availability",
    ),
    "provider_wrong_content": (
        massive("wrong_content"),
        {"answers", "availability", "errors"},
        None,
        "provider_availability",
    ),
    "both_providers_down": (both("server_5xx"), {"availability"}, "app", "provider_availability"),
    "our_network": (network, {"our_network"}, "app", "provider_availability"),
    "app_down": (app_down, {"app_down", "app_answers", "websocket_down"}, "app", "monitor_down"),
    "app_down, and its pages mute": (
        app_down_mute,
        {"app_down", "app_answers", "websocket_down"},
        "app",
        "monitor_down",
    ),
    "app_slow": (app_slow, {"app_response_time"}, "app", "monitor_down"),
    "socket_closed": (socket_closed, {"websocket_down"}, "app", "websocket_down"),
    "greeks_gamma_zero": (gamma_zero, {"gamma_zero"}, "app", "greeks_quality"),
    "greeks_units": (units, {"greeks_units"}, "app", "greeks_quality"),
    "provider_partial": (partial, {"chain_whole"}, "massive", "provider_availability"),
    "error_storm": (storm, {"errors"}, "app", "error_rate"),
    "provider_dns": (massive("dns"), {"availability"}, "massive", "massive_down"),
    "provider_empty": (massive("ok_empty"), {"answers", "availability", "errors"}, None, "provider_availability"),
    "provider_stale": (massive("stale"), {"answers", "availability", "errors"}, None, "provider_availability"),
    "provider_5xx at 30 %": (in_part, {"availability"}, "massive", "massive_down"),
    "provider_timeout, and the page's requests hang": (hanging, {"availability", "silence"}, "massive", "massive_down"),
    "our_timeout_too_short": (impatient, {"availability"}, "massive", "massive_down"),
    "socket_silent": (socket_alone("silent"), {"websocket_down"}, "app", "websocket_down"),
    "socket_auth": (socket_alone("forbidden_403"), {"websocket_down"}, "app", "websocket_down"),
    "greeks_out_of_bounds": (bounds, {"delta_out_of_bounds", "greeks_valid"}, "app", "greeks_quality"),
    "greeks_missing": (missing, {"greeks_valid"}, "app", "greeks_quality"),
    "memory_leak": (grows, {"memory"}, "app", "memory_growth"),
    "clock_skew of monitor": (our_clock, {"clock_skew"}, "monitor", "monitor_down"),
    "clock_skew of tradier": (tradiers_clock, {"clock_skew"}, "tradier", "monitor_down"),
}


@pytest.mark.parametrize("name", CAUSES)
def test_one_cause_is_one_notification(tmp_path: Path, name: str) -> None:
    """
    In ten minutes of a fault people get one firing message, later ones only at higher severities, each with the runbook
    of the cause.
    """
    fault, wanted, subject, runbook = CAUSES[name]
    desk = Desk(tmp_path, fault).live(BEGINS_S + 600)
    sent = [
        (
            m["kind"],
            m["severity"],
            round(m["after_s"]),
            [(a["rule"], a["subject"], a["source"], a["runbook"]) for a in m["alerts"]],
            m["link"],
        )
        for m in desk.sent
    ]
    assert [m["kind"] for m in desk.sent if m["kind"] != "rose"] == ["firing"], sent
    first = desk.sent[0]
    assert {a["rule"] for a in first["alerts"]} <= wanted and {a["runbook"] for a in first["alerts"]} == {runbook}, sent
    assert subject is None or {a["subject"] for a in first["alerts"]} == {subject}, sent
    assert all({a["runbook"] for a in m["alerts"]} == {runbook} for m in desk.sent), sent


def test_a_healthy_desk_notifies_no_one(tmp_path: Path) -> None:
    """Half an hour without a fault notifies no one."""
    assert Desk(tmp_path, healthy).live(1800).sent == []


@pytest.mark.parametrize(
    ("fault", "firsts"),
    [(network, {"our_network"}), (network_of_all, {"our_network"}), (app_down, {"app_down", "websocket_down"})],
    ids=["our network", "our network, and the page's", "the app's server"],
)
def test_inhibited_alerts_are_not_notified_afterwards(
    tmp_path: Path, fault: Callable[[World], None], firsts: set[str]
) -> None:
    """For 20 minutes after a fault of 4 minutes, its inhibited alerts notify no one."""
    desk = Desk(tmp_path, fault, until_s=BEGINS_S + 240).live(BEGINS_S + 240)
    while desk.second < BEGINS_S + 1500:
        desk.live(desk.second + 300)
        found = diagnosis.diagnose(
            status.status(desk.store, desk.settings, RULES, as_of=desk.now, length=timedelta(minutes=10))
        )
        assert found.cause == "none" or fault is app_down, (desk.second - BEGINS_S, found.words)
    assert {a["rule"] for m in desk.sent for a in m["alerts"]} <= firsts, desk.texts
