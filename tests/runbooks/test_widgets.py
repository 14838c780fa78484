"""The buttons of a runbook: a press is a call, refused in words, recorded before it is shown."""

from collections.abc import Iterator
from datetime import timedelta
from functools import lru_cache
from pathlib import Path

import pytest

from opslib.dashboard import status
from opslib.foundation import time_parsing
from opslib.runbooks.session import RunbookSession, StepCard
from opslib.runbooks.widgets import ProgressWidget, StepWidget, refresh

# Fixtures.
from tests.runbooks.test_execution import AS_OF, PLAIN, TOKEN, book, counted, desk, home, laid  # noqa: F401


@pytest.fixture(autouse=True, scope="module")
def quick(laid: Path) -> Iterator[None]:  # noqa: F811
    """What a moment looked like is read once."""
    kept = desk(laid)
    seen = lru_cache(maxsize=None)(lambda at, length: PLAIN(kept, at, length))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(status, "view_at", lambda desk, at, length: seen(at, length))
        seen(time_parsing.parse(AS_OF), timedelta(minutes=10))
        yield


@pytest.fixture
def opened(home: Path) -> RunbookSession:  # noqa: F811
    """A runbook, open for an incident, with nobody's name."""
    return book(home, "massive_down", desk(home).chronicle.open("x", by="Ann", runbook="massive_down").id, "")


def pad(opened: RunbookSession, name: str) -> StepWidget:
    """The card of a step."""
    found = StepWidget(StepCard(opened, next(s for s in opened.steps if s.name == name)))
    opened.pads.append(found)
    return found


def press(found: StepWidget, words: str) -> None:
    """Press the button with these words."""
    next(c for c in found._row.children if getattr(c, "description", "") == words).click()


def test_a_look(opened: RunbookSession) -> None:
    """A step that looks is looked at without a name, and its card and the strip show what was seen."""
    strip = ProgressWidget(opened)
    opened.pads.append(strip)
    found = pad(opened, "massive_answers")
    assert "not done" in found._told.value
    press(found, "Look again")
    assert (
        "not as expected" in found._told.value
        and "HTTP 502" in found._told.value
        and "massive_answers <small>not as expected" in strip._told.value
    )


def test_a_change(opened: RunbookSession, home: Path) -> None:  # noqa: F811
    """
    Refused without a name, refused unread, done once with both; after that there is no button, and no secret of what
    its hook printed.
    """
    strip = ProgressWidget(opened)
    opened.pads.append(strip)
    found = pad(opened, "tradier_only")
    assert "it will do" in found._told.value
    press(found, "Do it")
    assert (
        "Refused." in found._said.value
        and "changes the world" in found._said.value
        and "Traceback" not in found._said.value
    )
    found._who.value = "Ann"
    press(found, "Do it")
    assert "was not confirmed" in found._said.value and counted(home) == []
    found._read.value = True
    button = next(c for c in found._row.children if getattr(c, "description", "") == "Do it")
    button.click()
    button.click()
    assert (
        counted(home) == ["tradier_only"]
        and found._row.children == ()
        and TOKEN not in found._told.value
        and "done" in found._told.value
    )
    assert "tradier_only <small>done" in strip._told.value and opened.incident.status == "mitigated"


def test_a_judgement_and_a_note(opened: RunbookSession) -> None:
    """A person judges with a name; a note is on record; both refuse without one."""
    strip, found = ProgressWidget(opened), pad(opened, "massive_status_page")
    opened.pads.append(strip)
    press(found, "Not as expected")
    assert "say who you are" in found._said.value
    found._who.value, found._note.value = "Bob", "<b>it names an outage</b>"
    press(found, "Not as expected")
    assert "not as expected" in found._told.value and "<b>it names" not in found._told.value
    strip._note.value = "the vendor called"
    strip._add()
    assert "Refused." in strip._said.value
    strip._who.value = "Bob"
    strip._add()
    assert strip._note.value == "" and [e.body["words"] for e in opened.incident.of_kind("note")] == [
        "the vendor called"
    ]


def test_two_people(opened: RunbookSession, home: Path) -> None:  # noqa: F811
    """What one did the other sees after a press, or a refresh."""
    other = book(home, "massive_down", opened.incident.id, "Bob")
    mine, theirs = pad(opened, "tradier_only"), pad(other, "tradier_only")
    theirs._read.value = True
    press(theirs, "Do it")
    refresh(opened)
    assert "(Bob)" in mine._told.value and mine._row.children == ()


def test_an_unsure_step(opened: RunbookSession, home: Path) -> None:  # noqa: F811
    """A step that was begun and never ended asks whether it happened, and there is no other button."""
    step = next(s for s in opened.steps if s.name == "tradier_only")
    opened.walk._write(step, "intended", "begun", "Ann", "intended:1", asked={"id": "x/1"})
    found = pad(opened, "tradier_only")
    assert [c.description for c in found._row.children] == ["Name", "It happened", "It did not happen"]
    press(found, "It happened")
    assert "Give a name" in found._said.value
    found._who.value = "Bob"
    press(found, "It did not happen")
    assert "not done" in found._told.value and counted(home) == []
