"""Test the page of an incident: written with every change, answers first, and safe for any text of people."""

import html
import json
import re
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from opslib.alerting import causes
from opslib.cli import main
from opslib.desk import Desk
from opslib.foundation import time_parsing
from opslib.foundation.config import settings
from opslib.runbooks import incident_page, steps
from tests.support import demo
from tests.support.published import problems
from tests.support.snapshots import CLOSES

ID = "2026-03-10-2"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Return a home with the demo's day, as it is before any page of its incident."""
    demo.laid_out(tmp_path)
    for page in tmp_path.rglob(incident_page.NAME):
        page.unlink()
    return tmp_path


def opened(home: Path, at: datetime = CLOSES + timedelta(minutes=1)) -> Desk:
    """Return the demo's desk at a time."""
    return Desk(settings.load(home, "demo", {}), lambda: at)


def text(page: str) -> str:
    """Return the text of a page in one line, without its style."""
    body = page[page.index("<body>") :]
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", body)).split())


def run(home: Path, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """Run a command; return what it prints."""
    assert main.main(["--home", str(home), "--app", "demo", *words]) == 0, capsys.readouterr()
    return capsys.readouterr().out


def test_the_command_writes_the_page_and_prints_its_path(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The page is in the incident's folder; it answers what, since when, whose fault, what works and what is next."""
    place = opened(home).incidents.folder(ID) / "incident.html"
    assert not place.exists()
    assert run(home, capsys, "incident", "show", ID, "--html").strip() == f"page of incident {ID}: {place}"
    page = place.read_text(encoding="utf-8")
    found = text(page)
    for words in (
        "Massive returns server errors (5xx)",
        "Resolved after 30 min",
        "Until resolved 30 min began 11:21:59 New York",
        "Mitigated: 11:29:00 New York: asked the traders by phone to use Tradier's data only. Dry runs, which changed "
        "nothing: Notify the trading team",
        "Did not work ✗ option data from Massive",
        "How long: 12 min below 95 % availability (counted per minute by the app's page); "
        "23 min until the alert was resolved (the alert looks back over 10 min); "
        "30 min until the incident was resolved (a responder resolved it)",
        "Peak severity ■ escalate",
        "Severity now ✓ none",
        "Owner Tech Lead",
        "Fault: Massive",
        "option data from Tradier",
        "Draft the postmortem.",
        "detected 11:22:50",
        "△ symptom confirmed : massive returns server errors (5xx)",
        "○ dry run",
    ):
        assert words in found, words
    assert "For traders:" not in found and "Cause Massive returns server errors (5xx) Fault: Massive" in found
    assert "over 10 min at 11:" in found  # The extreme value of the chart has its window.
    assert "postmortem.html" not in page  # It does not exist yet.
    assert json.loads(run(home, capsys, "-o", "json", "incident", "show", ID, "--html"))["page"] == str(place)
    assert page == place.read_text(encoding="utf-8")  # The same record gives the same bytes.
    assert main.main(["--home", str(home), "--app", "demo", "incident", "list", "--html"]) == 64
    assert main.main(["--home", str(home), "--app", "demo", "incident", "show", "--html", "--known-at", "11:30"]) == 64


def test_the_command_shows_few_rows(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The text has the condensed rows with their entries and no ID of a step or an alert; JSON has every entry."""
    lines = run(home, capsys, "incident", "show", ID).splitlines()
    shown = json.loads(run(home, capsys, "-o", "json", "incident", "show", ID))
    events = [line for line in lines if re.match(r"\d\d:\d\d:\d\d  \d\d:\d\d:\d\d  ", line)]
    assert 15 <= len(events) <= 20 and all(re.search(r" \[E[\dE–, ]+\]$", line) for line in events)
    assert any("Tech Lead: Switch the app to Tradier only: dry run" in line for line in events)
    said = "\n".join(lines[:-1])
    assert not [name for name in steps.table() if "_" in name and re.search(rf"\b{name}\b", said)]
    assert not re.search(r"-\d{8}T\d{6}Z", said)
    count = shown["entries"]
    assert lines[-1].startswith(f"The record has {count} entries, the newest is E{count} (")
    assert " -o json" in lines[-1]
    assert len(shown["timeline"]) == shown["entries"] == len({e["evidence"] for e in shown["timeline"]})
    assert any(e["words"].startswith("not_ours: ") for e in shown["timeline"])  # The sentences of the record.


def test_the_page_names_steps_by_what_they_do(home: Path) -> None:
    """Outside the list of the record's entries, the page has no ID of a step, a cause or an alert."""
    desk = opened(home)
    page = text(incident_page.render(desk, desk.incidents.read(ID))).partition("Evidence: ")[0]
    known = [*steps.table(), *causes.CAUSES]
    assert not [name for name in known if "_" in name and re.search(rf"\b{name}\b", page)]
    assert not re.search(r"-\d{8}T\d{6}Z", page)


def test_every_change_writes_the_page(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A note is on the page at once, rendered; a postmortem is linked as soon as it is published."""
    place = opened(home).incidents.folder(ID) / "incident.html"
    note = "**Vendor** said: <b>fixed</b> in `v2`\n\n| a | b |\n|---|---|\n| 1 | 2 |"
    run(home, capsys, "incident", "note", ID, note, "--by", "Ann")
    page = place.read_text(encoding="utf-8")
    assert "<strong>Vendor</strong>" in page and "<code>v2</code>" in page and "<b>fixed" not in page
    assert problems(page) == []
    run(home, capsys, "postmortem", ID, "--by", "Ann")
    page = place.read_text(encoding="utf-8")
    assert '<a href="postmortem.html">' in page and "Complete the postmortem" in page


def test_an_open_incident(home: Path) -> None:
    """The page of an open incident has its duration, severity and next step, and nothing after its moment."""
    at = time_parsing.parse("2026-03-10T15:27:00Z")
    desk = opened(home, at)
    words = text(incident_page.render(desk, desk.incidents.read(ID, at)))
    assert "Open for 4 min" in words and "Severity now ◆ critical" in words and "now 11:27:00" in words
    assert "Next Silence the incident's alerts" in words and "resolved 11:52:00" not in words
    at = time_parsing.parse("2026-03-10T15:34:00Z")
    desk = opened(home, at)
    words = text(incident_page.render(desk, desk.incidents.read(ID, at)))
    assert "Mitigated, not resolved yet, for 1" in words and "Restart the app" not in words


def test_the_title_that_a_person_wrote_is_kept(home: Path) -> None:
    """An incident opened by hand keeps its title, with markup quoted; it needs no alert and no data."""
    desk = opened(home, time_parsing.parse("2026-03-12T15:30:00Z"))
    found = desk.incidents.open("Traders report `stale` <i>quotes</i>", by="Ann", severity="critical")
    page = incident_page.render(desk, desk.incidents.read(found.id))
    assert "Traders report <code>`stale`</code> <code>&lt;i&gt;</code>quotes" in page and problems(page) == []
    assert "no alert belongs to it" in text(page) and "Acknowledge it" in text(page)


def test_a_failing_page_does_not_stop_the_record(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """If the page cannot be written, the entry is still recorded, and the message says how to write the page again."""

    def fails(*_: object) -> str:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr(incident_page, "render", fails)
    assert main.main(["--home", str(home), "--app", "demo", "incident", "note", ID, "seen", "--by", "Ann"]) == 0
    assert f"ops incident show {ID} --html" in capsys.readouterr().err
    assert opened(home).incidents.read(ID).entries[-1].body["words"] == "seen"


@pytest.mark.parametrize(
    ("incident", "words"),
    [
        ("2026-03-10-1", ["Gamma is zero", "highest", "critical 5 %"]),
        ("2026-03-10-3", ["The connection to the app's WebSocket is blocked", "highest", "critical 1 min"]),
        ("2026-03-10-4", ["Fills are worse than the backtest assumes", "notify 10 points"]),
    ],
)
def test_each_figure_is_drawn(home: Path, incident: str, words: list[str]) -> None:
    """The figure of the alert is drawn with its thresholds and its worst value."""
    desk = opened(home)
    page = incident_page.render(desk, desk.incidents.read(incident))
    assert all(w in text(page) for w in words) and 'class="series s0"' in page and problems(page) == []
