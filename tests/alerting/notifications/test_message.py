"""Notifications describe the fault correctly: whose requests fail, since when, how severe, and what works now."""

import re
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from opslib.alerting import effects, onset
from opslib.alerting.notifications import slack
from opslib.alerting.notifications.message import IncidentPage, Message, Situation, Working, compose
from opslib.alerting.notifications.planner import NotificationState
from opslib.alerting.notifications.sender import Complaints
from opslib.cli.commands import incidents
from opslib.dashboard import impact, status
from opslib.foundation import clock, formatting, time_parsing
from opslib.foundation.clock import Window
from opslib.foundation.config.contacts import Contacts
from opslib.incidents.lifecycle import Incidents
from opslib.runbooks.diagnosis import diagnosis
from opslib.runbooks.diagnosis.diagnosis import Diagnosis
from opslib.services.situations import Situations
from tests.alerting.notifications.test_channels import body
from tests.alerting.notifications.test_one_cause import app_down, both, massive, partial, socket_closed, units
from tests.support.lived_hour import BEGINS_S, RULES, Desk, World, healthy
from tests.support.snapshots import PageOf

HOUR = timedelta(hours=1)


def page_alone(world: World) -> None:
    """The page's requests to Massive fail; our probes of it are answered."""
    world.fails["massive"] = 1.0


def lines(text: str) -> dict[str, str]:
    """Return the lines of a message by heading."""
    return dict(line.split(": ", 1) for line in text.splitlines() if ": " in line)


def view(desk: Desk, length: timedelta = timedelta(minutes=5)) -> status.Status:
    return status.status(desk.store, desk.settings, RULES, as_of=desk.now, length=length)


def test_a_message_names_the_page_when_only_its_requests_fail(tmp_path: Path) -> None:
    """If only the page's requests fail, the message says so, and does not say that Massive works."""
    desk = Desk(tmp_path, page_alone).live(BEGINS_S + 180)
    said = lines(desk.texts[0])
    assert (
        desk.sent[0]["alerts"][0]["source"] == "page" and "only the page's own requests fail" in said["Does not work"]
    )
    assert "option data from Massive" not in said.get("Still works", "")


def test_a_stopped_app_server_notifies_nothing_about_providers(tmp_path: Path) -> None:
    """
    If the app's server stops, the page's requests fail, too. Ten minutes later nobody was notified of Massive or
    Tradier; their alerts are inhibited by the app's.
    """
    desk = Desk(tmp_path, app_down).live(BEGINS_S + 660)
    assert {a["subject"] for m in desk.sent for a in m["alerts"]} == {"app"} and {
        a["rule"] for m in desk.sent for a in m["alerts"]
    } <= {"app_down", "app_answers", "websocket_down"}
    alerts = {a["id"]: a for a in view(desk).alerts}
    found = [a for a in alerts.values() if a["rule"] == "availability" and a["source"] == "page"]
    # "No provider is available" is inhibited by the app's server.
    roots = [alerts.get(a["inhibited_by"], {}).get("inhibited_by") or a["inhibited_by"] for a in found]
    assert found and all(str(root).startswith(("app_down-", "app_answers-")) for root in roots), roots


def restarted(world: World) -> None:
    """
    Restart the app's server: it is down for twenty seconds and comes back as another process; the page's requests fail
    meanwhile.
    """
    if world.second < BEGINS_S + 20:
        app_down(world)
        world.connected = True
    else:
        world.born, world.uptime = 9_000.0, world.second - BEGINS_S - 20


def test_a_clean_restart_notifies_no_one(tmp_path: Path) -> None:
    """A clean restart notifies no one and is recorded."""
    desk = Desk(tmp_path, restarted).live(BEGINS_S + 720)
    assert desk.sent == [], desk.texts
    assert [t for t in desk.judge.record.transitions(clock.micros(desk.now)) if t[1] == "app_restarts"]


def test_since_is_the_beginning_of_the_fault(tmp_path: Path) -> None:
    """Massive fails from 09:45:00: message and status give that time, although the alert fired later."""
    desk = Desk(tmp_path, massive("server_5xx")).live(BEGINS_S + 180)
    assert "Since: 09:45 New York" in desk.texts[0]
    assert {a["since"] for a in view(desk).alerts if a["rule"] == "availability" and a["subject"] == "massive"} == {
        "2026-03-10T13:45:00.000Z"
    }


@pytest.mark.parametrize(
    ("events", "bearable", "expected"),
    [
        ([(1, 0, 1), (2, 0, 1), (3, 1, 1), (4, 1, 1)], 0.01, 3),
        # A single failure long before does not belong to the fault.
        ([(1, 1, 1), *((t, 0, 1) for t in range(2, 150)), (150, 1, 1), (151, 1, 1)], 0.01, 150),
        # An intermittent fault began with its first failure.
        ([(1, 1, 1), (2, 0, 1), (3, 1, 1), (4, 0, 1), (5, 1, 1)], 0.01, 1),
        ([(1, 0, 4), (2, 0, 4)], 0.01, None),
        ([], 0.01, None),
    ],
)
def test_a_fault_begins_with_its_first_failure(
    events: list[tuple[int, float, float]], bearable: float, expected: int | None
) -> None:
    """The fault begins with the first failure of the period up to now that exceeds the accepted failure rate most."""
    assert onset._start(events, bearable) == expected


def test_an_incident_opens_with_the_severity_at_which_it_fired(tmp_path: Path) -> None:
    """
    The first entry of an incident has the severity and sentence with which the alert fired, even if it was worse when
    the incident was written. The list shows peak and current severity.
    """
    desk = Desk(tmp_path, massive("server_5xx", errors=0), until_s=BEGINS_S + 240).live(BEGINS_S + 200)
    lifecycle = Incidents(desk.store, desk.settings, RULES)
    lifecycle.follow_alerts()
    (incident,) = lifecycle.all()
    opened, first = (
        incident.entries[0],
        next(
            e
            for e in incident.entries
            if e.kind == "alert"
            and e.body["severity"] == "notify"
            and e.body["alert"] == incident.entries[0].body["alert"]
        ),
    )
    assert (opened.at_us, opened.body["severity"], opened.body["title"]) == (
        first.at_us,
        first.body["severity"],
        first.body["sentence"],
    )
    assert incident.peak == incident.current == "critical" != opened.body["severity"]
    desk.live(BEGINS_S + 1200)
    lifecycle.follow_alerts()
    (incident,) = lifecycle.all()
    assert (incident.peak, incident.current) == ("critical", "none")
    listed = incidents._list(SimpleNamespace(now=lambda: clock.instant(2**52)), [incident])
    assert (
        listed.values[0]["peak_severity"] == "critical"
        and listed.values[0]["current_severity"] == "none"
        and "peak" in listed.words
    )


def blames_the_app(desk: Desk, length: timedelta = HOUR) -> bool:
    found = view(desk, length)
    return any("not at massive" in s.words for s in found.summaries) or any(
        "not at massive" in s for s in found.panel("providers").sentences
    )


def test_no_one_is_blamed_after_recovery(tmp_path: Path) -> None:
    """After an outage of Massive no panel blames the app."""
    desk = Desk(tmp_path, massive("server_5xx"), until_s=BEGINS_S + 300)
    for after_s in (310, 360, 450, 590, 610, 900, 1500):
        desk.live(BEGINS_S + after_s)
        assert not blames_the_app(desk), after_s


def test_the_app_is_blamed_only_while_the_pages_requests_fail(tmp_path: Path) -> None:
    """
    The panel points at the app while the page's requests fail and our probes get responses, and no longer after that.
    """
    desk = Desk(tmp_path, page_alone, until_s=BEGINS_S + 400).live(BEGINS_S + 300)
    assert blames_the_app(desk) and blames_the_app(desk, timedelta(minutes=5))
    assert not blames_the_app(desk.live(BEGINS_S + 1000))


def ours_alone(world: World) -> None:
    """Our own socket is closed; the page's last post said that it is connected, and no more posts come."""
    world.every("closed", ("socket", "app"))
    world.posts = False


def page_socket(world: World) -> None:
    """The page's socket is closed and does not come back; ours works."""
    world.connected = False


@pytest.mark.parametrize("fault", [ours_alone, page_socket, socket_closed], ids=lambda f: f.__name__)
def test_live_prices_are_not_both_failing_and_working(tmp_path: Path, fault: Any) -> None:
    """A message that live prices have stopped does not say that they still work; it says how old the information is."""
    desk = Desk(tmp_path, fault).live(BEGINS_S + 120)
    stopped = [
        text for text, sent in zip(desk.texts, desk.sent) if any(a["rule"] == "websocket_down" for a in sent["alerts"])
    ]
    assert stopped
    for text in stopped:
        assert (
            "live prices" not in lines(text).get("Still works", "")
            and "live prices over the WebSocket" in lines(text)["Does not work"]
            and " ago" in lines(text)["Does not work"]
        )


def stopped_and_uncounted(world: World) -> None:
    """The app's server is down; the page still posts, but its counters do not increase."""
    app_down(world)
    world.counts = False


def refused_and_uncounted(world: World) -> None:
    """Massive rejects our key; the page does not count rejected requests and sends no others."""
    massive("auth_401")(world)
    world.counts, world.errors = False, 1


def slow(world: World) -> None:
    """The app's server takes three seconds for each response."""
    world.seconds["app"] = 3.0


def no_plan(world: World) -> None:
    """Tradier's plan does not include options; its quotes still work."""
    world.every("entitlement_403", ("data", "tradier"))


def ours_closed(world: World) -> None:
    """Our own socket is closed; the page still reports its socket as connected."""
    world.every("closed", ("socket", "app"))


def test_a_connected_flag_does_not_show_that_live_prices_work(tmp_path: Path) -> None:
    """
    If our own socket is closed and the page still reports its socket as connected, the message does not say that live
    prices work for the page.
    """
    desk = Desk(tmp_path, ours_closed).live(BEGINS_S + 120)
    assert (
        "still counts its own connection as open" in lines(desk.texts[0])["Does not work"]
        and "works: " not in lines(desk.texts[0])["Does not work"]
    )


def test_counters_without_increase_do_not_show_that_anything_works(tmp_path: Path) -> None:
    """
    Counters that have not increased since the fault began do not count as a sign that something works, however new the
    post is.
    """
    for name, fault in (("a", stopped_and_uncounted), ("b", refused_and_uncounted)):
        desk = Desk(tmp_path / name, fault).live(BEGINS_S + 300)
        late = [text for text, sent in zip(desk.texts, desk.sent) if sent["after_s"] > 75 or name == "a"]
        assert late and not [
            text
            for text in late
            for part in lines(text).get("Still works", "").split("; ")
            if "the app's page" in part and not part.startswith("live prices")
        ], late
        standing = {thing.about: thing for thing in impact.things(view(desk))}
        assert standing["massive"].state != "works" or name == "a"
        assert "works: the app's page" not in standing["massive"].words


def test_a_slow_server_is_not_reported_as_working(tmp_path: Path) -> None:
    """A server that takes three seconds is reported as slow, with its p95, and nowhere as working."""
    desk = Desk(tmp_path, slow).live(BEGINS_S + 300)
    text = next(
        text
        for text, sent in zip(desk.texts, desk.sent)
        if any(a["rule"] == "app_response_time" for a in sent["alerts"])
    )
    assert "the app's server: it responds slowly, p95 3 s" in lines(text)["Does not work"], text
    assert "the app's server" not in lines(text).get("Still works", "") + lines(text).get("Works again", "")
    assert lines(text)["Do first"].startswith(RULES["app_response_time"].action)


def test_a_fallback_without_options_is_not_an_outage(tmp_path: Path) -> None:
    """
    If Tradier's plan does not include options, the message says to check the plan, and that no provider can replace
    Massive.
    """
    desk = Desk(tmp_path, no_plan).live(BEGINS_S + 420)
    text = next(
        text for text, sent in zip(desk.texts, desk.sent) if any(a["subject"] == "tradier" for a in sent["alerts"])
    )
    assert (
        lines(text)["Do first"].startswith("Check what our plan with Tradier includes")
        and "no provider can replace Massive if it fails" in text
    ), text


def two_causes(world: World) -> None:
    """Massive accepts connections and does not respond; Tradier rejects our key."""
    world.every("timeout", ("liveness", "massive"), ("data", "massive"))
    world.every("auth_401", ("liveness", "tradier"), ("data", "tradier"))
    world.fails |= {"massive": 1.0, "tradier": 1.0}


def test_two_causes_are_both_named(tmp_path: Path) -> None:
    """
    If each provider fails for a different cause, the first line names both causes, and each has its own first action.
    """
    desk = Desk(tmp_path, two_causes).live(BEGINS_S + 240)
    text = desk.texts[0]
    assert all(
        words in text.splitlines()[0]
        for words in ("Neither provider is available", "Massive accepts the connection", "Tradier rejects our API key")
    ), text
    assert (
        "Tradier: Check our API key for Tradier" in lines(text)["Do first"]
        and "Massive: Check Massive's status page" in lines(text)["Do first"]
    )
    assert lines(text)["For traders"] == effects.NOBODY_SERVES
    assert not re.search(r"check that (\w+ )*(provider|Tradier|Massive) is available", text)


def test_no_provider_available_is_stated(tmp_path: Path) -> None:
    """If no provider is available, no message tells a trader to check which one is."""
    for name, fault in (("down", both("server_5xx")), ("refused", both("auth_401"))):
        desk = Desk(tmp_path / name, fault).live(BEGINS_S + 420)
        firing = [text for text, sent in zip(desk.texts, desk.sent) if sent["kind"] in ("firing", "rose")]
        assert firing and {lines(text)["For traders"] for text in firing} == {effects.NOBODY_SERVES}, firing
        assert not [text for text in firing if re.search(r"that (\w+ )*(provider|Tradier|Massive) is available", text)]


def answers_nothing(world: World) -> None:
    """Massive's data responses are empty, which the page counts as successes."""
    world.every("ok_empty", ("data", "massive"))


def test_an_empty_response_is_not_a_success(tmp_path: Path) -> None:
    """The page counts empty responses as successes; the message does not report them as working."""
    desk = Desk(tmp_path, answers_nothing).live(BEGINS_S + 300)
    assert (
        "works: " not in lines(desk.texts[0])["Does not work"]
        and "option data from Massive (" in lines(desk.texts[0])["Does not work"]
    ), desk.texts[0]


def test_the_pages_validation_does_not_show_that_units_or_chains_work(tmp_path: Path) -> None:
    """
    If Greeks have other units or chains are incomplete, the message does not say that they work, although the page's
    validation passes.
    """
    desk = Desk(tmp_path / "units", units).live(BEGINS_S + 240)
    assert "in unusual units" in lines(desk.texts[0])["Does not work"] and "Works again" not in lines(desk.texts[0]), (
        desk.texts[0]
    )
    desk = Desk(tmp_path / "partial", partial).live(BEGINS_S + 300)
    assert "chains are incomplete" in lines(desk.texts[0])["Does not work"] and "Works again" not in lines(
        desk.texts[0]
    ), desk.texts[0]


def test_the_newest_source_decides() -> None:
    """
    Of two sources the newer one decides if the other is old; if both are recent, both are named; without a source the
    state is unknown.
    """
    page, probe = impact.Report(True, "the app's page", 240.0), impact.Report(False, "our probes", 4.0)
    assert impact._combine("it", "prices", [page, probe])[:3] == ("fails", "it (our probes, 4 s ago)", "prices")
    assert impact._combine("it", "prices", [page._replace(age_s=30.0), probe])[:3] == (
        "fails",
        "it (fails: our probes, 4 s ago; works: the app's page, 30 s ago)",
        "prices",
    )
    assert impact._combine("it", "prices", [page, probe._replace(works=True)])[:3] == (
        "works",
        "it (our probes, 4 s ago)",
        "prices",
    )
    assert impact._combine("it", "prices", []).state == "unknown"


def test_a_failing_diagnosis_does_not_block_notifications(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """If the diagnosis fails, people are notified without a cause, and the error is logged once."""

    def broken(view: Any) -> None:
        raise ZeroDivisionError("made up")

    monkeypatch.setattr("opslib.runbooks.diagnosis.diagnosis.diagnose", broken)
    desk = Desk(tmp_path, massive("server_5xx")).live(BEGINS_S + 180)
    assert (
        desk.sent[0]["kind"] == "firing"
        and not desk.sent[0]["alerts"][0]["headline"]
        and "Cause" not in lines(desk.texts[0])
    )
    assert capsys.readouterr().err.count("the diagnosis failed (ZeroDivisionError: made up)") == 1


def test_two_problems_are_two_notifications(tmp_path: Path) -> None:
    """An outage of Massive does not explain growing memory: people are notified of both, each with its cause."""

    def both(world: World) -> None:
        massive("server_5xx")(world)
        world.memory_mb = 180.0

    desk = Desk(tmp_path, both).live(BEGINS_S + 300)
    assert {a["rule"] for m in desk.sent if m["kind"] == "firing" for a in m["alerts"]} >= {"availability", "memory"}
    named = {
        (a["rule"], a["headline"])
        for m in desk.sent
        if m["kind"] == "firing"
        for a in m["alerts"]
        if a["rule"] in ("availability", "memory")
    }
    assert named == {
        ("availability", "Massive returns server errors (5xx)."),
        ("memory", "The memory of the app's server or page keeps growing."),
    }


# Until `LOST_S` no connection receives messages; until `SERVED_S` the probe reports that only new connections do.
LOST_S, SERVED_S = 240, 360


def upstream_lost(world: World) -> None:
    """
    The app loses its upstream and reconnects four minutes later: pages connected before never receive messages again,
    but still report their socket as connected.
    """
    after_s = world.second - BEGINS_S
    if after_s <= SERVED_S:
        world.every("silent" if after_s <= LOST_S else "renewed", ("socket", "app"))
        world.dead_s = BEGINS_S


def test_an_alert_stays_until_pages_connected_before_are_reloaded(tmp_path: Path) -> None:
    """
    After the app's upstream and our own socket are back, the alert of the page that was connected before continues
    until the page is reloaded.
    """
    desk = Desk(tmp_path, upstream_lost).live(BEGINS_S + 900)
    assert "over" not in [m["kind"] for m in desk.sent], desk.texts
    seen = view(desk)
    (alert,) = [a for a in seen.alerts if a["rule"] == "websocket_down"]
    assert (alert["source"], alert["state"]) == ("page", "firing") and "refresh the pages" in alert["sentence"]
    found = diagnosis.diagnose(seen)
    assert (found.cause, found.subject, found.runbook) == (
        "socket_silent",
        "app",
        "websocket_down",
    ) and found.confidence >= 0.9, found
    (prices,) = [thing for thing in impact.things(seen) if thing.about == "prices"]
    assert prices.state == "fails" and "pages connected before 09:45:00 New York receive no messages" in prices.words
    desk.page = PageOf(BEGINS_S + 900)  # The page is reloaded.
    desk.live(BEGINS_S + 1200)
    assert desk.sent[-1]["kind"] == "over" and not [a for a in view(desk).alerts if a["rule"] == "websocket_down"], (
        desk.texts[-1]
    )


@pytest.mark.parametrize(
    "healed", ["loaded since", "its flag went down", "the server was started anew", "old connections are served again"]
)
def test_a_socket_alert_resolves_if_pages_receive_messages_again(tmp_path: Path, healed: str) -> None:
    """
    If the page has a new connection, or old connections receive messages again, the alert is resolved when our own
    socket recovers.
    """

    def fault(world: World) -> None:
        upstream_lost(world)
        after_s = world.second - BEGINS_S
        if healed == "its flag went down" and after_s == LOST_S - 60:
            world.connected = False
        if healed == "the server was started anew" and after_s > LOST_S - 60:
            world.born, world.uptime = 9_000.0, after_s - LOST_S + 60
        if healed == "old connections are served again" and after_s > LOST_S:
            world.probe, world.dead_s = {}, None

    desk = Desk(tmp_path, fault).live(BEGINS_S + LOST_S - 30)
    if healed == "loaded since":
        desk.page = PageOf(desk.second)
    desk.live(BEGINS_S + 900)
    assert desk.sent[-1]["kind"] == "over" and diagnosis.diagnose(view(desk)).cause == "none", desk.texts


def refused_while_starved(world: World) -> None:
    """The collector is short of CPU time; two minutes later Massive rate-limits our requests."""
    world.lag_s = 2.0
    if world.second > BEGINS_S + 120:
        world.every("rate_limited_429", ("liveness", "massive"), ("data", "massive"))


def test_a_provider_cause_comes_first_while_our_machine_is_busy(tmp_path: Path) -> None:
    """
    A busy machine of ours is a separate fault: the cause at Massive is still certain, comes first, and is named in the
    message.
    """
    desk = Desk(tmp_path, refused_while_starved).live(BEGINS_S + 300)
    text = next(
        text for text, sent in zip(desk.texts, desk.sent) if any(a["rule"] == "answers" for a in sent["alerts"])
    )
    assert diagnosis.diagnose(view(desk)).cause == "provider_rate_limited"
    # The headline is the cause, so only its confidence follows.
    assert text.splitlines()[0].startswith("[notify] Massive rate-limits our requests") and "Cause" not in lines(text)
    said = lines(text)
    assert re.search(r" \(confidence \d+ %\)$", said["Whose fault"]) and "Confidence" not in said
    assert said["Also"].startswith("Our collector is running but")
    assert said["Do first"].startswith("Send fewer requests to Massive")


def resolution(things: list[Working], **changed: Any) -> Message:
    """The message that the alert about Greeks is over, with what works then."""
    made = body("over", panel="greeks")
    made["alerts"] = [
        a | {"rule": "gamma_zero", "subject": "app", "value": 0.0, "peak": 0.35, "over_us": a["fired_us"]} | changed
        for a in made["alerts"]
    ]
    situation = Situation(things, "tradier", "massive", lambda panel, rule, since_us: b"", lambda alert: None)
    return compose(made, RULES, Contacts(), situation)


DATA = Working("works", "option data from Massive (our probes, 0 s ago)", "massive", "our probes", 0.0)


@pytest.mark.parametrize(
    ("greeks", "state", "heading", "title"),
    [
        (
            Working("works", "Greeks (chains: 99.0 % valid, 3 s ago)", "greeks", "chains: 99.0 % valid", 3.0),
            "ok",
            "✓ Resolved: ",
            "[ok] resolved: ",
        ),
        (
            Working("fails", "Greeks (chains: 58.8 % valid, 30 s ago)", "greeks", "chains: 58.8 % valid", 30.0),
            "warning",
            "△ Partly resolved, Greeks still broken: ",
            "[partly resolved] Greeks still broken; resolved: ",
        ),
        (
            Working("fails", "Greeks (chains: 58.8 % valid, 22 min ago)", "greeks", "chains: 58.8 % valid", 1320.0),
            "unknown",
            "? Resolved, Greeks not confirmed yet: ",
            "[unknown] Greeks not confirmed yet; resolved: ",
        ),
        (
            Working("works", "Greeks (chains: 99.0 % valid, 22 min ago)", "greeks", "chains: 99.0 % valid", 1320.0),
            "unknown",
            "? Resolved, Greeks not confirmed yet: ",
            "[unknown] Greeks not confirmed yet; resolved: ",
        ),
        (
            Working("unknown", "Greeks: the app's page counted no validation in the last 3 min", "greeks"),
            "unknown",
            "? Resolved, Greeks not confirmed yet: ",
            "[unknown] Greeks not confirmed yet; resolved: ",
        ),
    ],
    ids=["works", "broken", "last seen broken", "last seen working", "unknown"],
)
def test_a_resolution_is_all_clear_only_if_it_is(greeks: Working, state: str, heading: str, title: str) -> None:
    """What is still broken, or was last seen long ago, is in the headline, and the sign is not that of all clear."""
    said = resolution([DATA, greeks])
    assert (said.state, said.heading.startswith(heading), said.title.startswith(title)) == (state, True, True), said
    assert said.do_first == (
        "Check that traders see it work again."
        if state == "ok"
        else "Check on the dashboard whether this works again: Greeks."
    )
    assert f"is-{state}" in said.article() and slack.blocks(said)[0]["text"]["text"].startswith(heading)
    if greeks.is_old:
        then = "working" if greeks.state == "works" else "not working"
        assert lines(said.plain)["Unknown"] == f"Greeks: {then} when last checked 22 min ago ({greeks.source})"
        assert "Greeks" not in lines(said.plain)["Works now"] and "Does not work" not in lines(said.plain)


@pytest.mark.parametrize(
    ("how", "word", "since"),
    [
        ("resolved", "Resolved", "resolved at "),
        ("fell", "Lowered to warning", "lowered to warning at "),
        ("ended", "Ended", "ended at "),
    ],
)
def test_an_alert_is_over_in_three_ways(how: str, word: str, since: str) -> None:
    """Resolved, lowered to warning (it still fires as a warning) and ended (market or page closed) are three words."""
    for things, left in (([DATA], ""), ([DATA, Working("unknown", "Greeks", "greeks")], ", Greeks not confirmed yet")):
        said = resolution(things, how=how)
        assert said.heading.partition(" ")[2].startswith(f"{word}{left}: "), said.heading
        assert f"{'; ' if left else '] '}{word.lower()}: " in said.title
        assert f"; {since}11:23 New York, after " in f"; {lines(said.plain)['Since']}"


def test_what_is_unknown_is_not_excepted_from_what_works() -> None:
    """Greeks that were last seen broken long ago are unknown, so option data is not said to work without them."""
    data = DATA._replace(words="option data from Massive, except Greeks (our probes, 0 s ago)")
    source = "chains: 61.4 % valid; the app's page: 98.9 % valid over 5 min, 5 s ago, too few validations for a verdict"
    greeks = Working("fails", "Greeks (chains: 61.4 % valid)", "greeks", source, 1230.0)
    found = lines(resolution([data, greeks]).plain)
    assert found["Works now"] == "option data from Massive (our probes, 0 s ago)"
    assert found["Unknown"].startswith("Greeks: not working when last checked 20 min 30 s ago (chains: 61.4 % valid). ")
    assert ". Since then: the app's page: 98.9 % valid over 5 min, 5 s ago, " in found["Unknown"]
    assert ", except Greeks" in lines(resolution([data, greeks._replace(age_s=3.0)]).plain)["Works now"]


def test_something_else_that_is_broken_is_named_too() -> None:
    """A resolution is no all-clear while anything that trading depends on does not work."""
    greeks = Working("works", "Greeks (chains: 99.0 % valid, 3 s ago)", "greeks", "chains: 99.0 % valid", 3.0)
    said = resolution([DATA._replace(state="fails"), greeks])
    assert said.heading.startswith("△ Partly resolved, option data from Massive still broken: ")
    # What is unknown and was not part of the alert is no news.
    assert resolution([DATA._replace(state="unknown", age_s=None), greeks]).heading.startswith("✓ Resolved: ")


def test_a_job_that_ran_is_an_all_clear_of_its_own() -> None:
    """That a scheduled job ran again says nothing about the app, and what does not work there is no part of it."""
    said = resolution(
        [DATA._replace(state="fails")], source="schedule", rule="job", sentence="notebook daily did not run"
    )
    assert said.heading == "✓ Resolved: notebook daily did not run" and said.do_first == ""


def test_what_works_by_old_data_does_not_still_work() -> None:
    """While an alert fires, what worked long ago is unknown; what was seen broken stays broken."""
    made, old = body("firing"), {"source": "chains: 99.0 % valid", "age_s": 1320.0}
    words = "Greeks (chains: 99.0 % valid, 22 min ago)"
    for state, heading in (("works", "Unknown"), ("fails", "Does not work")):
        things = [DATA, Working(state, words, "greeks", **old)]
        said = compose(
            made, RULES, Contacts(), Situation(things, "", "", lambda panel, rule, us: b"", lambda alert: None)
        )
        assert "Greeks" in lines(said.plain)[heading] and "Greeks" not in lines(said.plain).get("Still works", "")


def test_two_sources_of_one_outage_are_told_apart() -> None:
    """The resolution of an outage that page and probes saw names the source in each line, and counts one problem."""
    made = body("over")
    (page,) = (a | {"cause": "provider_5xx of massive"} for a in made["alerts"])
    probe = page | {"alert": "p", "source": "probe", "pending_us": page["pending_us"] - 7_000_000}
    text = compose(made | {"alerts": [page, probe]}, RULES, Contacts(), None).plain
    first, second = (line for line in text.splitlines() if line.startswith("Peak critical: "))
    assert "by the app's page, since 11:22 New" in first and "by our probes, since 11:22 New" in second
    assert text.startswith("[ok] resolved: availability of Massive (") and " more)" not in text
    assert "Whose fault: Massive" in text.splitlines()
    assert lines(text)["Since"].startswith("11:22 New York") and "; resolved at 11:24 New York, after " in text
    other = page | {"rule": "errors", "subject": "app"}
    assert "(and 1 more)" in compose(made | {"alerts": [page, other]}, RULES, Contacts(), None).title


def test_since_when_it_is_active_and_since_when_so_severe() -> None:
    """The beginning of the alert at any severity, and of the present severity if that is later."""
    made = body("firing")
    (alert,) = made["alerts"]
    later = [alert | {"active_us": alert["pending_us"] - 3_600_000_000, "level_us": alert["pending_us"]}]
    first = lines(compose(made | {"alerts": later}, RULES, Contacts(), None).plain)["Since"]
    assert first == "10:22 New York (2026-03-10 14:22 UTC); severity critical since 11:22 New York"
    same = [alert | {"active_us": alert["pending_us"], "level_us": alert["pending_us"]}]
    assert "; " not in lines(compose(made | {"alerts": same}, RULES, Contacts(), None).plain)["Since"]
    over = body("over")
    over["alerts"] = [a | {"active_us": a["pending_us"] - 3_600_000_000} for a in over["alerts"]]
    assert lines(compose(over, RULES, Contacts(), None).plain)["Since"].startswith("10:22 New York")


@pytest.mark.parametrize("known", [True, False])
def test_commands_name_the_incident_if_there_is_one(known: bool) -> None:
    """Runbook and acknowledgement are of the incident; before it is opened, of the alert."""
    made = body("firing")
    page = IncidentPage("2026-03-10-2", "desk/incidents/2026-03-10-2/incident.html", "") if known else None
    situation = Situation([DATA], "", "", lambda panel, rule, us: b"", lambda alert: page)
    found = lines(compose(made, RULES, Contacts(), situation).plain)
    name = "2026-03-10-2" if known else made["alerts"][0]["alert"]
    assert found["Runbook"].endswith(f" --incident {name}") and found["Acknowledge"] == f"ops ack {name}"


def grows_worse(world: World) -> None:
    """The page has grown beyond the warning, ten minutes later beyond critical."""
    world.memory_mb = 70.0 if world.second < BEGINS_S + 600 else 180.0


def test_a_warning_counts_as_the_beginning(tmp_path: Path) -> None:
    """An alert that was a warning first: the message and the status agree on since when it is active."""
    desk = Desk(tmp_path, grows_worse).live(BEGINS_S + 1500)
    (sent,), text = desk.sent, desk.texts[0]
    (active,) = [a for a in view(desk).alerts if a["id"] == sent["alerts"][0]["alert"]]
    since = time_parsing.parse(active["since"]).astimezone(formatting.NEW_YORK)
    assert (
        lines(text)["Since"].startswith(f"{since:%H:%M} New York") and f"; severity {active['severity']} since" in text
    )


def test_a_likely_cause_is_named_as_likely(tmp_path: Path) -> None:
    """
    A diagnosis that is not sure: fault and cause are named with its confidence; the action is the rule's, and no other
    alert is merged with it.
    """
    desk = Desk(tmp_path, massive("server_5xx")).live(BEGINS_S + 100)
    state = NotificationState("a-1", "backtest_variance", "app", "page", "pnl", "Trading Manager")
    situations = Situations(desk.store, desk.settings, RULES, Complaints(desk.settings))
    half_sure = Diagnosis(Window.before(desk.now, HOUR), "costs_fill_quality", "app", 0.7)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(diagnosis, "diagnose", lambda view: half_sure)
        cause = situations.cause_at(clock.micros(desk.now))(state)
    assert cause is not None and (cause.name, cause.likely) == ("", "costs_fill_quality of app")
    state.set_cause(cause)
    made = body("firing", panel="pnl")
    made["alerts"] = [
        a | {"rule": "backtest_variance", "subject": "app", "likely": state.likely, "cause_words": state.cause_words}
        for a in made["alerts"]
    ]
    said = compose(made, RULES, Contacts(), None)
    assert lines(said.plain)["Whose fault"] == "probably ours: trading costs"
    assert lines(said.plain)["Likely cause"] == "Fills are worse than the backtest assumes, confidence 70 %."
    assert (
        said.do_first.startswith(RULES["backtest_variance"].action)
        and said.headline == said.facts["alerts"][0]["sentence"]
    )


def test_greeks_name_both_sources_if_the_newer_one_is_too_little_for_a_verdict(tmp_path: Path) -> None:
    """The page counted too little for a verdict since the last chain: both sources are named with their times."""
    desk = Desk(tmp_path, healthy).live(600)
    for length, counted in ((timedelta(seconds=10), True), (timedelta(minutes=5), False)):
        (greeks,) = (t for t in impact.things(view(desk, length)) if t.about == "greeks")
        named = re.search(r"chains: .*; the app's page: \d+\.\d % valid over 10 s, 0 s ago, too few", greeks.words)
        assert bool(named) == counted, greeks
        old = Working(*greeks)._replace(age_s=1320.0).as_unknown
        assert old.name == "Greeks" and ("the app's page" in old.words and "too few" in old.words) == counted, old
        assert len(Message.items("Unknown", greeks.words)) == 1


def test_the_chart_of_a_message_is_that_of_its_alert(tmp_path: Path) -> None:
    """An alert about gamma has a chart of its own share; one about valid Greeks has that of the panel."""
    desk = Desk(tmp_path, healthy).live(120)
    found = Situations(desk.store, desk.settings, RULES, Complaints(desk.settings)).at(desk.now)
    assert found
    gamma, valid, delta = (
        found.picture("greeks", rule, clock.micros(desk.now))
        for rule in ("gamma_zero", "greeks_valid", "delta_out_of_bounds")
    )
    assert len({gamma, valid, delta}) == 3 and found.picture("greeks", "greeks_burn", clock.micros(desk.now)) == valid


def test_traders_read_which_provider_serves() -> None:
    """Where the other provider serves, the message names it; traders need not check which one serves."""
    made = body("firing")
    for serving, expected in (("tradier", effects.other_serves("massive", "tradier")), ("massive", None), ("", None)):
        situation = Situation([DATA], "tradier", serving, lambda panel, rule, us: b"", lambda alert: None)
        said = lines(compose(made, RULES, Contacts(), situation).plain)["For traders"]
        assert said == (expected or RULES["availability"].traders) and ("Tradier serves" in said) == bool(expected)
