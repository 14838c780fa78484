"""
When people are told, and of what: a difference between what is so and what was told, whatever happened in between.
"""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opslib.alerting.notifications.planner import AlertChange, Cause, NotificationState, Silence, due
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
    """Notices, what people said, and everything that was told."""

    def __init__(self, *alerts: str, panel: str = "providers", who: str = "Tech Lead"):
        self.notices = {
            name: NotificationState(name, "availability", "massive", "page", panel, who) for name in alerts or ("a",)
        }
        self.silences: list[Silence] = []
        self.acks: dict[str, tuple[str, int]] = {}
        self.told: list[tuple[float, str, str, tuple[str, ...]]] = []

    def happens(self, kind: str, at_s: float, severity: str = "critical", alert: str = "a") -> "Desk":
        self.notices[alert].take(edge(kind, at_s, severity, alert))
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
        found = due([n for n in self.notices.values() if n.open], self.silences, self.acks, STAFF, round(at_s * S))
        self.told += [(at_s, t.kind, t.notice.alert, t.roles) for t in found]
        for telling in found:
            if telling.kind in ("over", "passed"):
                telling.notice.closed()
        return [(t.kind, t.notice.alert) for t in found]


@pytest.mark.parametrize(("severity", "waits_s"), [("notify", 15), ("critical", 5), ("escalate", 5)])
def test_fired_then_over(severity: str, waits_s: int) -> None:
    """
    What fires is told once after the wait for its group, a short one where it is critical, then its end, each to the
    role that its rule names.
    """
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
        "Tech Lead" in roles for *_, roles in desk.told
    )
    assert not desk.notices["a"].open


def test_what_becomes_worse_is_told_at_once() -> None:
    """
    A rise in severity waits for no group; what escalates is told to everybody, and so is its end; a fall is told to
    nobody.
    """
    desk = Desk().happens("fired", 0, "notify").happens("rose", 0, "critical")
    assert desk.at(WAIT) == [("firing", "a")]
    desk.happens("rose", 100, "escalate")
    assert desk.at(100) == [("rose", "a")] and set(desk.told[-1][3]) == set(PATH)
    desk.happens("fell", 200, "escalate")
    assert desk.at(200) == []
    desk.happens("fell", 210, "critical").happens("resolved", 300, "notify")
    assert desk.at(300) == [("over", "a")] and set(desk.told[-1][3]) == set(PATH)


def test_who_rises_again_to_what_was_told_is_not_told_again() -> None:
    """A severity that was told, left and reached again within one life is told once."""
    desk = Desk().happens("fired", 0, "critical")
    desk.at(WAIT)
    for t in range(60, 600, 60):
        desk.happens("fell" if t % 120 else "rose", t, "escalate")
        desk.at(t)
    assert [kind for _, kind, *_ in desk.told] == ["firing", "rose"]


def test_one_message_for_a_group() -> None:
    """What fires in one panel while its first alert waits, or stands, is of its group; two panels are two groups."""
    desk = Desk("a", "b").happens("fired", 0, alert="a").happens("fired", 10, alert="b")
    assert desk.at(WAIT) == [("firing", "a"), ("firing", "b")] and {n.group for n in desk.notices.values()} == {"a"}
    desk.notices["c"] = NotificationState("c", "gamma_zero", "app", "page", "greeks", "Trading Manager")
    desk.happens("fired", 20, alert="c")
    assert desk.at(20) == [] and desk.at(20 + WAIT) == [("firing", "c")] and desk.notices["c"].group == "c"
    desk.happens("resolved", 100, alert="a")
    # b goes on: the end of a waits for what ends with it.
    assert desk.at(100) == [] and desk.at(100 + WAIT) == [("over", "a")]
    desk.happens("resolved", 200, alert="b")
    assert desk.at(200) == [("over", "b")]


@pytest.mark.parametrize(("severity", "expected"), [("critical", ["unheard"] * 3), ("notify", [])])
def test_nobody_says_anything(severity: str, expected: list[str]) -> None:
    """
    A critical alert that nobody takes goes up the path, a role at a time, then to whoever is left; what is less waits
    to be repeated.
    """
    desk = Desk().happens("fired", 0, severity)
    for minute in range(1, 90):
        desk.at(60 * minute)
    assert [kind for _, kind, *_ in desk.told] == ["firing", *expected]
    assert [roles for *_, roles in desk.told[1:]] == [("DevOps",), ("Trading Manager",), ("Junior Trader",)][
        : len(expected)
    ]
    assert desk.at(90 * 60 + REPEAT) == [("repeat", "a")]


def test_who_takes_it_is_left_alone() -> None:
    """
    An alert that somebody has taken is neither repeated nor passed on, but told when it becomes worse and when it is
    over; taking its group takes it.
    """
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


def test_who_takes_one_takes_all_that_fires_with_it() -> None:
    """Taking any alert of a group takes the group; taking it while it is still pending counts."""
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


def test_what_was_less_for_a_while_is_told_again() -> None:
    """
    A severity that is reached again long after it was told is told again, to its own role, before anybody else is
    called.
    """
    desk = Desk().happens("fired", 0, "notify").happens("rose", 0, "critical")
    desk.at(WAIT)
    desk.happens("fell", 100, "critical")
    assert desk.at(100) == []
    desk.happens("rose", 4000, "critical")
    assert desk.at(4000) == [("rose", "a")] and desk.told[-1][3] == ("Tech Lead",) and desk.at(4000 + AFTER - 1) == []


def test_after_a_silence_what_still_fires_is_told_to_its_own() -> None:
    """
    What was told before a silence and still fires after it is told to its own role then, and nobody is called for the
    time of the silence.
    """
    desk = Desk().happens("fired", 0)
    desk.at(WAIT)
    desk.quiet(100, 3700)
    assert not [t for s in range(100, 3700, 60) for t in desk.at(s)]
    assert desk.at(3700) == [("repeat", "a")] and desk.told[-1][3] == ("Tech Lead",) and desk.at(3760) == []


def test_what_was_taken_before_it_fired_anew() -> None:
    """Who has taken an alert has not taken what becomes of it after it was over."""
    desk = Desk().happens("fired", 0, "critical")
    desk.at(WAIT)
    desk.acks["a"] = ("Ann", 20 * S)
    desk.at(30)
    desk.happens("fell", 100, "critical")
    desk.at(100)
    desk.happens("rose", 5000, "critical")
    assert desk.at(5000 + WAIT) == [("firing", "a")] and desk.at(5000 + WAIT + AFTER) == [("unheard", "a")]


def test_a_silenced_alert_tells_nobody() -> None:
    """
    What fires and is over within a silence is never told; what still fires at its end is told then; what was told
    before is over after it.
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


def test_a_silence_of_something_else_keeps_nothing_quiet() -> None:
    """A silence holds only for the rule, subject and source that it names, and only from its beginning to its end."""
    for what in ({"rule": "errors"}, {"subject": "tradier"}, {"source": "probe"}):
        assert Desk().quiet(0, 1000, **what).happens("fired", 0).at(WAIT) == [("firing", "a")]
    assert Desk().quiet(0, WAIT).happens("fired", 0).at(WAIT) == [("firing", "a")]
    assert Desk().quiet(WAIT + 1, 1000).happens("fired", 0).at(WAIT) == [("firing", "a")]


def test_what_began_and_ended_meanwhile() -> None:
    """What fired and was over before anybody could be told is told once, afterwards; what is told late is told, too."""
    desk = Desk("a", "b").happens("fired", 0).happens("resolved", 100).happens("fired", 50, alert="b")
    assert desk.at(5000) == [("passed", "a"), ("firing", "b")] and desk.at(5001) == [] and not desk.notices["a"].open


def test_another_life_is_another_notice() -> None:
    """After its end was told an alert that falls below and rises again within one life is told again."""
    desk = Desk().happens("fired", 0, "notify")
    desk.at(WAIT)
    desk.happens("fell", 100, "notify")
    assert desk.at(100) == [("over", "a")]
    desk.happens("rose", 200, "critical")
    assert desk.at(200 + WAIT) == [("firing", "a")]


def test_what_a_neighbour_says_of_ours() -> None:
    """What another monitor says of an alert that fires here is told by nobody twice; what only it sees is told."""
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
    # Ours comes later: it was told already, and its end is ours to tell, however long theirs goes on.
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
def test_told_is_so_in_the_end(steps: list[tuple[str, int]]) -> None:
    """
    Whatever happens, whoever was told of a beginning is told of its end, never an end without a beginning, and nothing
    within a silence.
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
        before = len(desk.told)
        desk.at(now)
        assert len(desk.told) == before or not any(s.from_us <= now * S < s.until_us for s in desk.silences)
    desk.silences = []
    for severity in sorted(fires):
        desk.happens("resolved", now + 1, severity)
    desk.at(now + 1)
    desk.at(now + 1 + WAIT)
    stands = False
    for _, kind, *_ in desk.told:
        assert stands == (kind not in ("firing", "passed"))
        stands = kind not in ("over", "passed")
    assert not stands and not desk.notices["a"].open


PATHS = ("notify", "critical", "escalate")


def of(alert: str, rule: str, source: str, panel: str = "system", who: str = "Tech Lead") -> NotificationState:
    return NotificationState(alert, rule, "app", source, panel, who)


class Troubles(Desk):
    """Alerts of several rules and sources; a diagnosis names what `causes` says of each rule."""

    def __init__(self, *notices: NotificationState):
        super().__init__()
        self.notices = {n.alert: n for n in notices}
        self.causes: dict[str, Cause] = {}

    def at(self, at_s: float) -> list[tuple[str, str]]:
        found = due(
            [n for n in self.notices.values() if n.open],
            self.silences,
            self.acks,
            STAFF,
            round(at_s * S),
            lambda n: self.causes.get(n.rule),
        )
        self.told += [(at_s, t.kind, t.notice.alert, t.roles) for t in found]
        for telling in found:
            if telling.kind in ("over", "passed"):
                telling.notice.closed()
        return [(t.kind, t.notice.alert) for t in found]


KEY = Cause(
    "provider_auth of massive",
    "words",
    "Massive does not accept our key.",
    "provider_availability",
    "answers",
    "DevOps",
)


@pytest.mark.parametrize("first", ["page", "probe"])
def test_two_sources_are_one_trouble(first: str) -> None:
    """
    The same by the page and by our own probes is one message, whoever says so first; worse is one more; its end comes
    with the last of them.
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
    assert desk.at(700 + WAIT) == []  # The other one still fires: nothing is over.
    for severity in ("escalate", "critical"):
        desk.happens("resolved", 800, severity, alert=second)
    assert sorted(desk.at(800 + WAIT)) == [("over", "page"), ("over", "probe")] and not any(
        n.open for n in desk.notices.values()
    )


def test_what_is_unheard_is_passed_on_once() -> None:
    """Of two sources of one trouble one is repeated and goes up the path."""
    desk = Troubles(of("page", "websocket_down", "page"), of("probe", "websocket_down", "probe")).happens(
        "fired", 0, alert="page"
    )
    desk.at(WAIT)
    desk.happens("fired", 60, alert="probe")
    for minute in range(1, 40):
        desk.at(60 * minute)
    assert [(kind, alert) for _, kind, alert, _ in desk.told] == [
        ("firing", "page"),
        ("unheard", "page"),
        ("unheard", "page"),
    ]


def test_what_one_cause_sets_off_is_one_trouble() -> None:
    """
    An alert of another panel with the cause that people were notified of is sent only where it is more severe, to who
    acts on the cause; another cause's is sent.
    """
    desk = Troubles(
        of("errors", "errors", "logs"), of("answers", "answers", "probe", "providers"), of("memory", "memory", "page")
    )
    desk.causes = {"errors": KEY, "answers": KEY}
    desk.happens("fired", 0, "notify", alert="errors")
    assert (
        desk.at(WAIT) == [("firing", "errors")]
        and desk.told[-1][3] == ("DevOps",)
        and desk.notices["errors"].runbook == "provider_availability"
    )
    desk.happens("fired", 100, "notify", alert="answers")
    assert desk.at(100 + WAIT) == [] and desk.notices["answers"].group == "errors"
    desk.happens("rose", 200, "critical", alert="answers")
    assert desk.at(200) == [("rose", "answers")]
    desk.happens("fired", 300, "notify", alert="memory")
    assert desk.at(300 + WAIT) == [("firing", "memory")]


def test_the_same_cause_much_later_is_another_trouble() -> None:
    """An alert that lingers from the first outage hides no second one: what fires long afterwards is sent."""
    desk = Troubles(of("errors", "errors", "logs"), of("answers", "answers", "probe", "providers"))
    desk.causes = {"errors": KEY, "answers": KEY}
    desk.happens("fired", 0, alert="errors")
    assert desk.at(WAIT) == [("firing", "errors")]
    desk.happens("fired", 2400, alert="answers")
    assert ("firing", "answers") in desk.at(2400 + WAIT)


def test_a_story_without_its_cause_is_told_again_with_it() -> None:
    """
    Where people were notified of an effect before the diagnosis was sure, the alert of the cause is sent, for its
    runbook is another.
    """
    desk = Troubles(of("errors", "errors", "logs"), of("answers", "answers", "probe", "providers")).happens(
        "fired", 0, alert="errors"
    )
    assert desk.at(WAIT) == [("firing", "errors")]
    desk.causes = {"errors": KEY, "answers": KEY}
    desk.happens("fired", 100, alert="answers")
    assert desk.at(100 + WAIT) == [("firing", "answers")]


def test_a_silenced_trouble_hides_no_other() -> None:
    """Who silences the effect is notified of the cause all the same."""
    desk = Troubles(of("errors", "errors", "logs"), of("answers", "answers", "probe", "providers"))
    desk.causes = {"errors": KEY, "answers": KEY}
    desk.happens("fired", 0, alert="errors")
    desk.at(WAIT)
    desk.quiet(50, 5000, rule="errors")
    desk.at(60)
    desk.happens("fired", 100, alert="answers")
    assert desk.at(100 + WAIT) == [("firing", "answers")]


def test_what_nothing_is_at_fault_for_is_held() -> None:
    """
    Nobody is notified of zeros that are right for contracts of today, nor of their end; where that is no longer the
    cause, it is sent at once.
    """
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
