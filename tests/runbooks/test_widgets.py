"""
Test the buttons of a runbook: a click runs the step, is refused with a message, and is recorded before it is shown.
"""

from collections.abc import Iterator
from datetime import timedelta
from functools import lru_cache
from pathlib import Path

import pytest

from opslib.dashboard import status
from opslib.foundation import time_parsing
from opslib.runbooks import incident_page
from opslib.runbooks.execution import CheckResult, StepStatus
from opslib.runbooks.session import RunbookSession, StepCard
from opslib.runbooks.widgets import ProgressWidget, StepWidget, refresh

# Fixtures.
from tests.runbooks.test_execution import AS_OF, PLAIN, TOKEN, book, counted, desk, home, laid  # noqa: F401


@pytest.fixture(autouse=True, scope="module")
def quick(laid: Path) -> Iterator[None]:  # noqa: F811
    """Read the status of a moment once."""
    kept = desk(laid)
    seen = lru_cache(maxsize=None)(lambda at, length: PLAIN(kept, at, length))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(status, "view_at", lambda desk, at, length: seen(at, length))
        seen(time_parsing.parse(AS_OF), timedelta(minutes=10))
        yield


@pytest.fixture
def opened(home: Path) -> RunbookSession:  # noqa: F811
    """Return a runbook session of an incident, without a name."""
    return book(home, "massive_down", desk(home).incidents.open("x", by="Ann", runbook="massive_down").id, "")


def pad(opened: RunbookSession, name: str) -> StepWidget:
    """Return the widget of a step."""
    found = StepWidget(StepCard(opened, next(s for s in opened.steps if s.name == name)))
    opened.shown_widgets.append(found)
    return found


def press(found: StepWidget, words: str) -> None:
    """Click the button with this label."""
    next(c for c in found._row.children if getattr(c, "description", "") == words).click()


def test_a_check(opened: RunbookSession) -> None:
    """A check runs without a name, and its widget and the progress show the result."""
    strip = ProgressWidget(opened)
    opened.shown_widgets.append(strip)
    found = pad(opened, "massive_answers")
    assert "not done" in found._text.value
    press(found, "Check again")
    assert "△ symptom confirmed" in found._text.value and "HTTP 503" in found._text.value
    done = strip._text.value.partition("Done: 1")[2]
    assert "Massive now" in done and "symptom confirmed" in done


def test_a_click_writes_the_page_of_the_incident(opened: RunbookSession) -> None:
    """The incident's page has the result of a step as soon as the button was clicked."""
    page = incident_page.path(opened.workspace.settings, opened.incident.id)
    found = pad(opened, "massive_answers")
    assert not page.exists()
    press(found, "Check again")
    assert "△ symptom confirmed" in page.read_text(encoding="utf-8")


def test_an_action(opened: RunbookSession, home: Path) -> None:  # noqa: F811
    """
    An action is refused without a name and without a confirmation, and runs once with both.

    Then there is no button, and no secret of the hook's output.
    """
    strip = ProgressWidget(opened)
    opened.shown_widgets.append(strip)
    found = pad(opened, "tradier_only")
    assert "it will do" in found._text.value
    press(found, "Run it")
    assert (
        "Not done." in found._message.value
        and "is an action" in found._message.value
        and "Traceback" not in found._message.value
    )
    found._who.value = "Ann"
    press(found, "Run it")
    assert "was not confirmed" in found._message.value and counted(home) == []
    found._read.value = True
    button = next(c for c in found._row.children if getattr(c, "description", "") == "Run it")
    button.click()
    button.click()
    assert (
        counted(home) == ["tradier_only"]
        and found._row.children == ()
        and TOKEN not in found._text.value
        and "done" in found._text.value
    )
    assert "done</span> Switch to Tradier only" in strip._text.value.partition("Done: 1")[2]
    assert opened.incident.status == "mitigated"


def test_a_button_is_disabled_while_the_rest_is_redrawn(opened: RunbookSession) -> None:
    """Texts above the button change meanwhile, so it moves, and a click would be lost."""
    found = pad(opened, "tradier_only")
    button = next(c for c in found._row.children if getattr(c, "description", "") == "Run it")
    seen = list[bool]()

    class Last:
        def refresh(self) -> None:
            seen.append(button.disabled)

    opened.shown_widgets.append(Last())
    press(found, "Run it")
    assert (seen, button.disabled, button.description) == ([True], False, "Run it")


def test_an_answer_and_a_note(opened: RunbookSession) -> None:
    """An answer and a note need a name; both are recorded."""
    strip, found = ProgressWidget(opened), pad(opened, "massive_status_page")
    opened.shown_widgets.append(strip)
    press(found, "Not healthy")
    assert "give your name" in found._message.value
    found._who.value, found._note.value = "Bob", "<b>it names an outage</b>"
    press(found, "Not healthy")
    assert "symptom confirmed</span> <code>&lt;b&gt;</code>it names" in found._text.value
    strip._note.value = "the vendor called"
    strip._add()
    assert "Not done." in strip._message.value
    strip._who.value = "Bob"
    strip._add()
    assert strip._note.value == "" and [e.body["words"] for e in opened.incident.of_kind("note")] == [
        "the vendor called"
    ]


def test_two_people(opened: RunbookSession, home: Path) -> None:  # noqa: F811
    """What one person did is shown to another after a click or a refresh."""
    other = book(home, "massive_down", opened.incident.id, "Bob")
    mine, theirs = pad(opened, "tradier_only"), pad(other, "tradier_only")
    theirs._read.value = True
    press(theirs, "Run it")
    refresh(opened)
    assert "(by Bob)" in mine._text.value and mine._row.children == ()


def test_a_step_with_unknown_outcome(opened: RunbookSession, home: Path) -> None:  # noqa: F811
    """A step without a recorded outcome asks whether it took effect, and has no other button."""
    step = next(s for s in opened.steps if s.name == "tradier_only")
    opened.execution._write(step, "intended", "begun", "Ann", "intended:1", asked={"id": "x/1"})
    found = pad(opened, "tradier_only")
    assert [c.description for c in found._row.children] == ["Name", "It took effect", "It did not take effect"]
    press(found, "It took effect")
    assert "give your name" in found._message.value
    found._who.value = "Bob"
    press(found, "It did not take effect")
    assert "not done" in found._text.value and counted(home) == []


def test_the_progress_shows_the_situation_first(opened: RunbookSession) -> None:
    """
    First: what is broken, since when, whose fault, what still works, and the next step with its buttons.

    A click leads to the next step; typed text stays while the step does.
    """
    strip = ProgressWidget(opened)
    opened.shown_widgets.append(strip)
    assert "Massive returns server errors (5xx)." in strip._head.value
    for fact in ("option data from Massive", "11:22 New York", "Massive, confidence 9", "option data from Tradier"):
        assert fact in strip._facts.value
    detected = opened.detection.plain  # What an alert said is not the value now.
    assert " (value when it became critical)\n" in detected and "Data Provider Health now: critical" in detected
    assert "0 done" not in opened.header.plain and "; now due: steps of minutes 0–5" in opened.header.plain
    clock = "0 done · 25 to do · 6 not needed; detected less than a minute ago; now due: steps of minutes 0–5"
    assert clock in strip._text.value and "Not needed: 6." in strip._text.value
    assert "massive_key" not in strip._text.value and "API key <small>(If Massive responds" in strip._text.value
    assert strip._waits and strip._waits[0] == "massive_status_page"
    waits = strip._waits[1]
    waits._who.value = "Bob"
    refresh(opened)
    assert strip._waits[1] is waits and waits._who.value == "Bob"
    press(waits, "Healthy")
    assert strip._waits[0] == "tell_channel" and "Notify the trading team" in strip._next.children[0].value
    assert "1 done · 24 to do · 6 not needed" in strip._text.value


def test_a_symptom_and_a_fault(opened: RunbookSession) -> None:
    """
    A failed check of the incident's symptom confirms it; a failed check of the fallback is a failure.

    One that needs an action first is "not yet". The stored state is the same.
    """

    def fail(name: str) -> StepStatus:
        step = next(s for s in opened.steps if s.name == name)
        opened.execution.record_result(step, CheckResult(False, "it does not"), opened.now())
        return opened.execution.status_of(step)

    found = {name: fail(name) for name in ("massive_answers", "tradier_answers", "requests_moved", "not_ours")}
    assert {name: (s.mark, s.label, s.verdict, s.finished) for name, s in found.items()} == {
        "massive_answers": ("△", "symptom confirmed", "warning", True),
        "tradier_answers": ("✗", "failed", "critical", True),
        "requests_moved": ("·", "not due yet", "unknown", False),
        "not_ours": ("✗", "failed", "critical", True),
    }
    assert {s.state for s in found.values()} == {"not as expected"}
    opened.do("tradier_only", "Ann", confirmed=True)
    assert fail("requests_moved").label == "failed"


def test_a_step_that_is_not_needed_has_no_result(opened: RunbookSession) -> None:
    """
    It names the cause that it is for, whatever its check found; a skipped step has a reason. Action items are in words.
    """
    opened.check("massive_key")
    card = opened.step("massive_key")
    assert "could not be determined" in card.status.words  # It is recorded.
    opened.check("massive_answers")
    opened.step("keep_watching")
    rows = {row[2]: row for row in opened.strip.values["rows"]}
    why = 'for another cause ("If Massive responds, but the app cannot reach it")'
    assert rows["API key"] == ["15-60", "– not needed", "API key", why, ""]
    assert rows["Watch until it recovers"][1:4:2] == ["· not answered yet", ""]
    for text in (card.text.plain, card.text.html):
        assert "could not be determined" not in text and "– not needed: for another cause (" in text
        assert "Expected: The key is accepted" in text
    items = opened.afterwards.plain
    assert '"Request the market clock and option data from Massive": symptom confirmed (massive returns' in items
    assert "API key" not in items and "massive_answers" not in items


def test_buttons_stay(opened: RunbookSession) -> None:
    """A refresh keeps the buttons of a step, so that no click on them is lost."""
    found = pad(opened, "tradier_only")
    before = found._row.children
    refresh(opened)
    assert found._row.children == before
