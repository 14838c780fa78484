"""
When a notification is due, for which roles and of which alerts: whenever the current and the notified state differ.
"""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opslib.alerting.notifications.planner import AlertChange, Cause, NotificationState, Silence, due_notifications
from opslib.foundation.config.contacts import Contacts
from opslib.foundation.config.rules import PATH

S = 1_000_000
STAFF = Contacts()
WAIT, AFTER, REPEAT = 15, 15 * 60, 4 * 3600


def edge(kind: str, at_s: float, severity: str = "critical", alert: str = "a", how: str = "") -> AlertChange:
    which = "firing" if kind in ("fired", "rose", "released") else "resolved"
    return AlertChange(
        which,
        round(at_s * S),
        alert,
        "availability",
        "massive",
        "page",
        kind,
        severity,
        0.5,
        0.95,
        round(at_s * S) - 60 * S,
        0.4,
        f"{alert} {severity}",
    )


class Desk:
    """Notification states, silences, acknowledgements, and everything that was sent."""

    def __init__(self, *alerts: str, panel: str = "providers", who: str = "Tech Lead"):
        self.notices = {
            name: NotificationState(name, "availability", "massive", "page", panel, who) for name in alerts or ("a",)
        }
        self.silences: list[Silence] = []
        self.acks: dict[str, tuple[str, int]] = {}
        self.sent: list[tuple[float, str, str, tuple[str, ...]]] = []

    def happens(self, kind: str, at_s: float, severity: str = "critical", alert: str = "a") -> "Desk":
        self.notices[alert].apply(edge(kind, at_s, severity, alert))
        return self

    def quiet(self, from_s: float, until_s: float, **what: str) -> "Desk":
        self.silences.append(
            Silence(
                "s",
                "Ann",
                "why",
                what.get("rule", ""),
                what.get("subject", ""),
                what.get("source", ""),
                round(from_s * S),
                round(until_s * S),
            )
        )
        return self

    def at(self, at_s: float) -> list[tuple[str, str]]:
        found = due_notifications(
            [n for n in self.notices.values() if n.open], self.silences, self.acks, STAFF, round(at_s * S)
        )
        self.sent += [(at_s, t.kind, t.state.alert, t.roles) for t in found]
        for telling in found:
            if telling.kind in ("over", "passed"):
                telling.state.reset()
        return [(t.kind, t.state.alert) for t in found]


@pytest.mark.parametrize(("severity", "waits_s"), [("notify", 15), ("critical", 5), ("escalate", 5)])
def test_fired_then_resolved(severity: str, waits_s: int) -> None:
    """A firing alert is notified once after the group wait, its resolution once; both go to the role of its rule."""
    desk = Desk().happens("fired", 100, severity)
    assert [desk.at(t) for t in (100, 99 + waits_s, 100 + waits_s, 101 + waits_s, 200)] == [
        [],
        [],
        [("firing", "a")],
        [],
        [],
    ]
    desk.happens("resolved", 300, severity)
    assert [desk.at(t) for t in (300, 301)] == [[("over", "a")], []] and all(
        "Tech Lead" in roles for *_, roles in desk.sent
    )
    assert not desk.notices["a"].open


def test_raised_severity_is_notified_at_once() -> None:
    """A raised severity does not wait for a group; escalate notifies all roles; a lowered severity notifies no one."""
    desk = Desk().happens("fired", 0, "notify").happens("rose", 0, "critical")
    assert desk.at(WAIT) == [("firing", "a")]
    desk.happens("rose", 100, "escalate")
    assert desk.at(100) == [("rose", "a")] and set(desk.sent[-1][3]) == set(PATH)
    desk.happens("fell", 200, "escalate")
    assert desk.at(200) == []
    desk.happens("fell", 210, "critical").happens("resolved", 300, "notify")
    assert desk.at(300) == [("over", "a")] and set(desk.sent[-1][3]) == set(PATH)


def test_severity_reached_again_is_not_notified_again() -> None:
    """A severity that is left and reached again soon within one episode is notified once."""
    desk = Desk().happens("fired", 0, "critical")
    desk.at(WAIT)
    for t in range(60, 600, 60):
        desk.happens("fell" if t % 120 else "rose", t, "escalate")
        desk.at(t)
    assert [kind for _, kind, *_ in desk.sent] == ["firing", "rose"]


def test_one_message_for_a_group() -> None:
    """
    Alerts of one panel that fire during the wait or while the group is open share a message; two panels are two groups.
    """
    desk = Desk("a", "b").happens("fired", 0, alert="a").happens("fired", 10, alert="b")
    assert desk.at(WAIT) == [("firing", "a"), ("firing", "b")] and {n.group for n in desk.notices.values()} == {"a"}
    desk.notices["c"] = NotificationState("c", "gamma_zero", "app", "page", "greeks", "Trading Manager")
    desk.happens("fired", 20, alert="c")
    assert desk.at(20) == [] and desk.at(20 + WAIT) == [("firing", "c")] and desk.notices["c"].group == "c"
    desk.happens("resolved", 100, alert="a")
    # b still fires: the resolution of a waits for others that resolve with it.
    assert desk.at(100) == [] and desk.at(100 + WAIT) == [("over", "a")]
    desk.happens("resolved", 200, alert="b")
    assert desk.at(200) == [("over", "b")]


@pytest.mark.parametrize(("severity", "expected"), [("critical", ["unheard"] * 3), ("notify", [])])
def test_unacknowledged_alert_escalates(severity: str, expected: list[str]) -> None:
    """A critical alert without acknowledgement escalates role by role; a lower severity is only repeated."""
    desk = Desk().happens("fired", 0, severity)
    for minute in range(1, 90):
        desk.at(60 * minute)
    assert [kind for _, kind, *_ in desk.sent] == ["firing", *expected]
    assert [roles for *_, roles in desk.sent[1:]] == [("DevOps",), ("Trading Manager",), ("Junior Trader",)][
        : len(expected)
    ]
    assert desk.at(90 * 60 + REPEAT) == [("repeat", "a")]


def test_acknowledged_alert_is_not_repeated() -> None:
    """An acknowledged alert is neither repeated nor escalated; a raised severity and the resolution are notified."""
    for taken in ("a", "g"):
        desk = Desk().happens("fired", 0)
        desk.at(WAIT)
        desk.notices["a"].group = "g"
        desk.acks[taken] = ("Ann", 20 * S)
        assert not [t for minute in range(1, 600) for t in desk.at(60 * minute)] and desk.notices["a"].acked_by == "Ann"
        desk.happens("rose", 40_000, "escalate")
        assert desk.at(40_000) == [("rose", "a")]
        desk.happens("resolved", 50_000, "escalate").happens("resolved", 50_000, "critical")
        assert desk.at(50_000) == [("over", "a")]


def test_acknowledgement_covers_the_group() -> None:
    """Acknowledging one alert acknowledges its group, also while the alert is pending."""
    desk = Desk("a", "b").happens("fired", 0, alert="a").happens("fired", 1, alert="b")
    desk.at(WAIT)
    desk.acks["b"] = ("Ann", 20 * S)
    assert not [t for minute in range(1, 200) for t in desk.at(60 * minute)] and {
        n.acked_by for n in desk.notices.values()
    } == {"Ann"}
    early = Desk()
    early.acks["a"] = ("Ann", 70 * S)
    early.happens("fired", 100)
    assert early.at(100 + WAIT) == [("firing", "a")] and early.at(100 + WAIT + AFTER) == []


def test_severity_reached_much_later_is_notified_again() -> None:
    """A severity that is reached again long after its notification is notified again, first to the rule's own role."""
    desk = Desk().happens("fired", 0, "notify").happens("rose", 0, "critical")
    desk.at(WAIT)
    desk.happens("fell", 100, "critical")
    assert desk.at(100) == []
    desk.happens("rose", 4000, "critical")
    assert desk.at(4000) == [("rose", "a")] and desk.sent[-1][3] == ("Tech Lead",) and desk.at(4000 + AFTER - 1) == []


def test_after_a_silence_a_firing_alert_is_repeated() -> None:
    """An alert notified before a silence and still firing after it is repeated to its role, without escalation."""
    desk = Desk().happens("fired", 0)
    desk.at(WAIT)
    desk.quiet(100, 3700)
    assert not [t for s in range(100, 3700, 60) for t in desk.at(s)]
    assert desk.at(3700) == [("repeat", "a")] and desk.sent[-1][3] == ("Tech Lead",) and desk.at(3760) == []


def test_acknowledgement_ends_with_the_episode() -> None:
    """An acknowledgement ends with the episode: it does not cover the alert when it fires again."""
    desk = Desk().happens("fired", 0, "critical")
    desk.at(WAIT)
    desk.acks["a"] = ("Ann", 20 * S)
    desk.at(30)
    desk.happens("fell", 100, "critical")
    desk.at(100 + WAIT)
    desk.happens("rose", 5000, "critical")
    assert desk.at(5000 + WAIT) == [("firing", "a")] and desk.at(5000 + WAIT + AFTER) == [("unheard", "a")]


def test_a_silenced_alert_notifies_no_one() -> None:
    """
    An alert that resolves within a silence is never notified; one that still fires is notified when the silence ends.
    """
    desk = Desk().quiet(0, 1000).happens("fired", 10)
    assert not [t for s in range(10, 500, 10) for t in desk.at(s)]
    desk.happens("resolved", 500)
    assert not [t for s in range(500, 2000, 10) for t in desk.at(s)] and not desk.notices["a"].open

    desk = Desk().quiet(0, 1000, rule="availability").happens("fired", 10)
    assert not [t for s in range(10, 1000, 10) for t in desk.at(s)] and desk.at(1000) == [("firing", "a")]

    desk = Desk().happens("fired", 10)
    desk.at(30)
    desk.quiet(100, 1000, subject="massive").happens("resolved", 500)
    assert not [t for s in range(100, 1000, 10) for t in desk.at(s)] and desk.at(1000) == [("over", "a")]


def test_a_silence_matches_only_its_alerts() -> None:
    """A silence applies only to its rule, subject and source, and only within its time."""
    for what in ({"rule": "errors"}, {"subject": "tradier"}, {"source": "probe"}):
        assert Desk().quiet(0, 1000, **what).happens("fired", 0).at(WAIT) == [("firing", "a")]
    assert Desk().quiet(0, WAIT).happens("fired", 0).at(WAIT) == [("firing", "a")]
    assert Desk().quiet(WAIT + 1, 1000).happens("fired", 0).at(WAIT) == [("firing", "a")]


def test_missed_alert_is_summarised_once() -> None:
    """An alert that was resolved before anyone could be notified is reported once afterwards."""
    desk = Desk("a", "b").happens("fired", 0).happens("resolved", 100).happens("fired", 50, alert="b")
    assert desk.at(5000) == [("passed", "a"), ("firing", "b")] and desk.at(5001) == [] and not desk.notices["a"].open


def test_another_episode_is_another_notification() -> None:
    """After its resolution was notified, an alert that fires again is notified again."""
    desk = Desk().happens("fired", 0, "notify")
    desk.at(WAIT)
    desk.happens("fell", 100, "notify")
    assert desk.at(100 + WAIT) == [("over", "a")]
    desk.happens("rose", 200, "critical")
    assert desk.at(200 + WAIT) == [("firing", "a")]


def test_external_alert_of_our_rule_is_not_notified_twice() -> None:
    """
    An external alert of the rule and subject of our firing alert is not notified again; one of another subject is.
    """
    desk = Desk().happens("fired", 0)
    desk.notices["p"] = NotificationState("p", "availability", "massive", "prometheus", "providers", "Tech Lead")
    desk.happens("fired", 0, alert="p")
    assert desk.at(WAIT) == [("firing", "a")]
    desk.happens("resolved", 100, alert="p")
    desk.happens("resolved", 100)
    assert desk.at(100) == [("over", "a")] and not [n for n in desk.notices.values() if n.open]
    first = Desk()
    first.notices["p"] = NotificationState("p", "availability", "massive", "prometheus", "providers", "Tech Lead")
    first.happens("fired", 0, alert="p")
    assert first.at(WAIT) == [("firing", "p")]
    # Our alert fires later: people were already notified, and our alert decides when it is over, even while the
    # external one still fires.
    first.happens("fired", 30)
    assert first.at(30 + WAIT) == []
    first.happens("resolved", 100)
    assert first.at(100 + WAIT) == [("over", "a")] and not [t for s in range(120, 900, 60) for t in first.at(s)]
    first.happens("resolved", 1000, alert="p")
    assert first.at(1000 + WAIT) == []
    desk.notices["q"] = NotificationState("q", "availability", "tradier", "prometheus", "providers", "Tech Lead")
    desk.happens("fired", 200, alert="q")
    assert desk.at(200 + WAIT) == [("firing", "q")]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["notify", "critical", "escalate", "over", "look", "quiet", "loud"]), st.integers(1, 90)
        ),
        max_size=60,
    )
)
@settings(max_examples=200, deadline=None)
def test_every_notified_alert_gets_a_resolution(steps: list[tuple[str, int]]) -> None:
    """
    Each notified alert is followed by its resolution, no resolution comes without an alert, and nothing is sent within
    a silence.
    """
    desk, now, fires = Desk(), 0.0, set[str]()
    for what, after in steps:
        now += after
        if what in PATHS and what not in fires:
            desk.happens("rose" if fires else "fired", now, what)
            fires.add(what)
        elif what == "over" and fires:
            for severity in sorted(fires):
                desk.happens("resolved", now, severity)
            fires.clear()
        elif what == "quiet":
            desk.silences = [s._replace(until_us=min(s.until_us, round(now * S))) for s in desk.silences]
            desk.quiet(now, 10**6)
        elif what == "loud":
            desk.silences = [s._replace(until_us=min(s.until_us, round(now * S))) for s in desk.silences]
        before = len(desk.sent)
        desk.at(now)
        assert len(desk.sent) == before or not any(s.from_us <= now * S < s.until_us for s in desk.silences)
    desk.silences = []
    for severity in sorted(fires):
        desk.happens("resolved", now + 1, severity)
    desk.at(now + 1)
    desk.at(now + 1 + WAIT)
    stands = False
    for _, kind, *_ in desk.sent:
        assert stands == (kind not in ("firing", "passed"))
        stands = kind not in ("over", "passed")
    assert not stands and not desk.notices["a"].open


PATHS = ("notify", "critical", "escalate")


def of(alert: str, rule: str, source: str, panel: str = "system", who: str = "Tech Lead") -> NotificationState:
    return NotificationState(alert, rule, "app", source, panel, who)


class Troubles(Desk):
    """Alerts of several rules and sources; `causes` holds the diagnosed cause of each rule."""

    def __init__(self, *notices: NotificationState):
        super().__init__()
        self.notices = {n.alert: n for n in notices}
        self.causes: dict[str, Cause] = {}

    def at(self, at_s: float) -> list[tuple[str, str]]:
        found = due_notifications(
            [n for n in self.notices.values() if n.open],
            self.silences,
            self.acks,
            STAFF,
            round(at_s * S),
            lambda n: self.causes.get(n.rule),
        )
        self.sent += [(at_s, t.kind, t.state.alert, t.roles) for t in found]
        for telling in found:
            if telling.kind in ("over", "passed"):
                telling.state.reset()
        return [(t.kind, t.state.alert) for t in found]


KEY = Cause(
    "provider_auth of massive",
    "words",
    "Massive rejects our API key.",
    "provider_availability",
    "answers",
    "DevOps",
)


@pytest.mark.parametrize("first", ["page", "probe"])
def test_two_sources_are_one_problem(first: str) -> None:
    """
    The same alert from the page and from probes is one message; a higher severity is another; the resolution comes when
    both are resolved.
    """
    second = {"page": "probe", "probe": "page"}[first]
    desk = Troubles(of("page", "websocket_down", "page"), of("probe", "websocket_down", "probe"))
    desk.happens("fired", 0, alert=first)
    assert desk.at(WAIT) == [("firing", first)]
    desk.happens("fired", 30, alert=second)
    assert desk.at(30 + WAIT) == []
    desk.happens("rose", 600, "escalate", alert=second)
    assert desk.at(600) == [("rose", second)]
    desk.happens("rose", 610, "escalate", alert=first)
    assert desk.at(610) == []
    for severity in ("escalate", "critical"):
        desk.happens("resolved", 700, severity, alert=first)
    assert desk.at(700 + WAIT) == []  # The other one still fires, so nothing is resolved.
    for severity in ("escalate", "critical"):
        desk.happens("resolved", 800, severity, alert=second)
    assert sorted(desk.at(800 + WAIT)) == [("over", "page"), ("over", "probe")] and not any(
        n.open for n in desk.notices.values()
    )


def test_two_sources_escalate_once() -> None:
    """Of two sources of one problem only one is repeated and escalated."""
    desk = Troubles(of("page", "websocket_down", "page"), of("probe", "websocket_down", "probe")).happens(
        "fired", 0, alert="page"
    )
    desk.at(WAIT)
    desk.happens("fired", 60, alert="probe")
    for minute in range(1, 40):
        desk.at(60 * minute)
    assert [(kind, alert) for _, kind, alert, _ in desk.sent] == [
        ("firing", "page"),
        ("unheard", "page"),
        ("unheard", "page"),
    ]


def test_one_cause_is_one_problem() -> None:
    """
    An alert whose cause was already notified is sent only if it is more severe; an alert of another cause is sent.
    """
    desk = Troubles(
        of("errors", "errors", "logs"), of("answers", "answers", "probe", "providers"), of("memory", "memory", "page")
    )
    desk.causes = {"errors": KEY, "answers": KEY}
    desk.happens("fired", 0, "notify", alert="errors")
    assert (
        desk.at(WAIT) == [("firing", "errors")]
        and desk.sent[-1][3] == ("DevOps",)
        and desk.notices["errors"].runbook == "provider_availability"
    )
    desk.happens("fired", 100, "notify", alert="answers")
    assert desk.at(100 + WAIT) == [] and desk.notices["answers"].group == "errors"
    desk.happens("rose", 200, "critical", alert="answers")
    assert desk.at(200) == [("rose", "answers")]
    desk.happens("fired", 300, "notify", alert="memory")
    assert desk.at(300 + WAIT) == [("firing", "memory")]


def test_the_same_cause_much_later_is_another_problem() -> None:
    """An alert that still fires from a first outage does not hide a later one of the same cause."""
    desk = Troubles(of("errors", "errors", "logs"), of("answers", "answers", "probe", "providers"))
    desk.causes = {"errors": KEY, "answers": KEY}
    desk.happens("fired", 0, alert="errors")
    assert desk.at(WAIT) == [("firing", "errors")]
    desk.happens("fired", 2400, alert="answers")
    assert ("firing", "answers") in desk.at(2400 + WAIT)


def test_a_cause_found_later_is_notified() -> None:
    """If people were notified of an effect before its cause was diagnosed, the alert of the cause is sent, too."""
    desk = Troubles(of("errors", "errors", "logs"), of("answers", "answers", "probe", "providers")).happens(
        "fired", 0, alert="errors"
    )
    assert desk.at(WAIT) == [("firing", "errors")]
    desk.causes = {"errors": KEY, "answers": KEY}
    desk.happens("fired", 100, alert="answers")
    assert desk.at(100 + WAIT) == [("firing", "answers")]


def test_a_silenced_effect_does_not_hide_its_cause() -> None:
    """If the effect is silenced, people are still notified of the alert of the cause."""
    desk = Troubles(of("errors", "errors", "logs"), of("answers", "answers", "probe", "providers"))
    desk.causes = {"errors": KEY, "answers": KEY}
    desk.happens("fired", 0, alert="errors")
    desk.at(WAIT)
    desk.quiet(50, 5000, rule="errors")
    desk.at(60)
    desk.happens("fired", 100, alert="answers")
    assert desk.at(100 + WAIT) == [("firing", "answers")]


def test_an_alert_without_a_fault_is_not_notified() -> None:
    """Zero gammas that are correct at expiry are not notified; if the cause changes to a fault, the alert is sent."""
    expiry = KEY._replace(name="expiry", headline="Contracts expire today.", no_fault=True)
    desk = Troubles(of("zeros", "gamma_zero", "page", "greeks"))
    desk.causes = {"gamma_zero": expiry}
    desk.happens("fired", 0, "critical", alert="zeros")
    desk.happens("rose", 60, "escalate", alert="zeros")
    assert [desk.at(s) for s in range(5, 300, 5)] == [[]] * 59
    for severity in ("escalate", "critical"):
        desk.happens("resolved", 300, severity, alert="zeros")
    assert [desk.at(s) for s in range(300, 400, 5)] == [[]] * 20 and not desk.notices["zeros"].open
    desk.happens("fired", 500, "critical", alert="zeros")
    assert desk.at(505) == []
    desk.causes = {"gamma_zero": KEY}
    assert [found for s in range(510, 540, 5) if (found := desk.at(s))] == [[("firing", "zeros")]]
