"""Postmortems: facts from the record, what people wrote, what is lacking; and whatever is edited is named."""

import json
import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from opslib.desk import Desk
from opslib.foundation import clock, time_parsing
from opslib.foundation.config import settings
from opslib.foundation.errors import IncidentError
from opslib.incidents import evidence
from opslib.incidents.evidence import EDITED, FORMULA, HEAD, MISSING
from opslib.incidents.incident import from_entries
from opslib.reports import verification
from opslib.reports.postmortem import document, drafting, figures
from opslib.reports.postmortem.document import Postmortem, human_text, lint
from opslib.reports.postmortem.figures import FORMULAS, Result
from opslib.simulation.demo_day import replay
from tests.support import demo
from tests.support.snapshots import CLOSES, us

ID = "2026-03-10-1"


@pytest.fixture(scope="module")
def laid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's home, with its incident's postmortem published once."""
    home = tmp_path_factory.mktemp("postmortem")
    demo.laid_out(home)
    drafting.draft(opened(home), ID, "Tech Lead")
    return home


def opened(home: Path) -> Desk:
    """The demo's desk, at the end of its day."""
    return Desk(settings.load(home, "demo", {}), lambda: CLOSES + timedelta(minutes=1))


@pytest.fixture
def home(laid: Path, tmp_path: Path) -> Path:
    """A copy of it that may be changed."""
    shutil.copytree(laid, tmp_path / "home")
    return tmp_path / "home"


def folder(home: Path) -> Path:
    """Where the incident lies."""
    return opened(home).chronicle.folder(ID)


def broken(place: Path, desk: Desk | None = None) -> list[tuple[str, str]]:
    """What is broken, and why."""
    return [(b.what, b.why) for b in verification.verify(place, desk).broken]


def test_it_verifies_from_a_copy_alone(home: Path, tmp_path: Path) -> None:
    """A copied folder verifies with no store and no home: every number computed again."""
    shutil.copytree(folder(home), tmp_path / "copied" / ID)
    found = verification.verify(tmp_path / "copied" / ID)
    assert (
        found.verdict == "ok"
        and found.figures == len(Postmortem(opened(home).chronicle.read(ID)).figures)
        and found.exit_code == 0
    )
    assert (
        verification.verify(folder(home), opened(home)).verdict == "ok"
        and verification.verify(ID, opened(home)).verdict == "ok"
    )
    (tmp_path / "nothing").mkdir()
    assert verification.verify(tmp_path / "nothing").exit_code == 3


def test_the_figures_are_the_scripts(home: Path) -> None:
    """
    Failed requests, looks and minutes equal what the posts and looks themselves say, counted by hand from the rows of
    evidence.
    """
    incident = opened(home).chronicle.read(ID)
    content = figures.metrics(incident).body["content"]
    began, ended = (time_parsing.parse(content[key]) for key in ("began", "ended"))
    rows = [r for r in content["rows"] if began < time_parsing.parse(r["at"]) < ended + timedelta(minutes=1)]
    found = {f.id: f for f in Postmortem(incident).figures}
    failed, asked = sum(r["massive_failures"] for r in rows), sum(r["massive_requests"] for r in rows)
    assert found["massive_failed"].result == Result(failed / asked, failed, asked) and failed > 1000
    assert found["massive_minutes_critical"].result.part == sum(
        1 for r in rows if r["massive_requests"] and 1 - r["massive_failures"] / r["massive_requests"] < 0.95
    )
    assert found["tradier_failed"].result.part == sum(r["tradier_failures"] for r in rows) < 10 and found[
        "fallbacks"
    ].result.value == sum(r["massive_fallbacks"] for r in rows)
    times = incident.times
    assert found["TTD"].result.value == (times["detected"].at_us - times["began"].at_us) / 1e6
    outage = next(t for t in replay.scripted().troubles if t.name == "massive_outage")
    assert (
        abs((clock.instant(times["began"].at_us) - outage.begins).total_seconds())
        <= (times["began"].precision_s or 0) + 1
    )


def test_an_unknown_time_stays_unknown() -> None:
    """Without an end there is no duration, and it says why."""
    opening = evidence.linked(
        None,
        at_us=us(0),
        known_at_us=us(0),
        kind="opened",
        by="Ann",
        key="",
        body={"title": "x"},
        settings=settings.Settings(Path("/nowhere"), "desk"),
    )
    found = {f.id: f for f in Postmortem(from_entries("2026-03-10-9", [opening])).figures}
    assert (
        found["TTR"].result.value is None
        and "unknown" in found["TTR"].told
        and found["massive_failed"].told == "unknown (no evidence was captured yet)"
    )


def test_drafting_again_adds_nothing(home: Path) -> None:
    """The same facts are captured once; the document is the same but for the head that it was made from."""
    desk = opened(home)
    count = len(desk.chronicle.read(ID).of_kind("evidence"))
    figures.capture_metrics(desk, desk.chronicle.read(ID))
    assert len(desk.chronicle.read(ID).of_kind("evidence")) == count


def replaced(path: Path, old: str, new: str) -> None:
    """Edit a file."""
    told = path.read_text(encoding="utf-8")
    assert old in told, (path, old)
    path.write_text(told.replace(old, new, 1), encoding="utf-8")


def rechained(place: Path, change: Callable[[dict], None], n: int) -> None:
    """Change the body of an entry, and compute the whole chain anew, as somebody would who knows how."""
    lines, before, made = (place / "record.jsonl").read_text().splitlines(), None, list[str]()
    for i, line in enumerate(lines, 1):
        entry = evidence.read(line)
        if i == n:
            change(entry.body)
        entry = entry._replace(previous=before.digest if before else evidence.BEGINNING)
        before = entry._replace(digest=evidence.digest(entry))
        made.append(before.line)
    (place / "record.jsonl").write_text("\n".join(made) + "\n")


def test_every_edit_is_named(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    One byte of evidence, an entry taken out, a picture swapped, evidence changed with its whole chain, a number in each
    form of the document, another formula.
    """
    place = folder(home)
    kept = {p: p.read_bytes() for p in place.rglob("*") if p.is_file()}
    lines = kept[place / "record.jsonl"].decode().splitlines()
    metrics = next(i for i, line in enumerate(lines, 1) if evidence.read(line).body.get("name") == "metrics")

    def restored() -> None:
        for path, content in kept.items():
            path.write_bytes(content)

    replaced(place / "record.jsonl", '"massive_failures":', '"massive_failureS":')
    assert (f"E{metrics}", EDITED) in broken(place)
    restored()
    (place / "record.jsonl").write_text("\n".join([*lines[:4], *lines[5:]]) + "\n")
    assert ("E5", MISSING) in broken(place)
    restored()
    picture = next((place / "evidence").glob("*.png"))
    picture.write_bytes(picture.read_bytes() + b" ")
    assert [why for what, why in broken(place) if what.startswith("picture")] == [EDITED]
    restored()
    picture.unlink()
    assert [why for what, why in broken(place) if what.startswith("picture")] == [MISSING]
    restored()
    rechained(place, lambda body: body["content"]["rows"][40].update(massive_failures=0), metrics)
    assert evidence.checked((place / "record.jsonl").read_text().splitlines())[1] == []
    found = broken(place)
    assert found and {why for _, why in found} == {HEAD}
    assert ("head in the ledger", HEAD) in broken(place, opened(home))
    restored()
    value = next(f for f in json.loads(kept[place / "postmortem.json"])["figures"] if f["id"] == "massive_failed")
    replaced(place / "postmortem.json", f'"part": {value["part"]}', f'"part": {value["part"] - 100}')
    assert broken(place) == [("postmortem.json, massive_failed", EDITED)]
    restored()
    for name in ("postmortem.md", "postmortem.html", "postmortem.ipynb"):
        replaced(place / name, f"{value['part']:,}", f"{value['part'] - 100:,}")
        found = broken(place)
        assert found and all(what.startswith(name) and why == EDITED for what, why in found), found
        restored()
    monkeypatch.setitem(FORMULAS, "share", lambda content, about: Result(0.5, 1, 2))
    found = broken(place)
    assert ("postmortem.json, massive_failed", FORMULA) in found and {why for _, why in found} == {FORMULA}
    monkeypatch.undo()
    assert broken(place) == []


def test_what_people_write_survives(home: Path) -> None:
    """
    What stands between the marks is taken in and keeps its history; what is edited outside them is refused by its line,
    and nothing is overwritten.
    """
    desk, path = opened(home), folder(home) / "postmortem.md"
    made = path.read_text()
    assert set(human_text(made)) == set(document.ASKED)
    replaced(
        path, f"[{document.ASKED['well']}]", "The fallback took over within seconds.\n\n<script>alert(1)</script> | a"
    )
    assert verification.verify(path.parent).verdict == "ok", "what people are writing is no edit of a fact"
    drafting.draft(desk, ID, "Tech Lead")
    replaced(path, "The fallback took over within seconds.", "The fallback took over at once.")
    drafting.draft(desk, ID, "Tech Lead")
    found = desk.chronicle.read(ID)
    assert [e.body["text"].split("\n")[0] for e in found.of_kind("written")] == [
        "The fallback took over within seconds.",
        "The fallback took over at once.",
    ]
    html = path.with_suffix(".html").read_text()
    assert (
        "<script>" not in html
        and "&lt;script&gt;" in html
        and "The fallback took over at once." in html
        and verification.verify(path.parent).verdict == "ok"
    )
    replaced(path, "## Impact", "## Impact, as I see it")
    with pytest.raises(IncidentError, match=r"edited outside the marks \(line \d+: '## Impact, as I see it'"):
        drafting.draft(desk, ID, "Tech Lead")
    assert "as I see it" in path.read_text()


WELL = {
    "overview": "Massive answered with errors for ten minutes; requests failed, and the fallback served them.",
    "detection": "An alert fired a minute and a half after the first failed look.",
    "factors": "- Massive's gateway answered 502.\n- The app asks the fallback only for chains.",
    "response": "The runbook was walked; Massive came back by itself.",
    "well": "The fallback served.",
    "badly": "Switching to Tradier could only be rehearsed.",
    "lucky": "It was a quiet hour.",
    "messages": "Those who trade were told at 15:26 UTC.",
    "actions": f"{document.HEADER}\n| set a hook for tradier_only | mitigate | DevOps | high | 2026-03-20 | |",
}
LACKING = [
    ("factors", "- one root cause\n- another", "root cause"),
    ("factors", "- only one", "1 factor"),
    ("response", "The Tech Lead failed to look.", "'failed to'"),
    ("response", "the Tech Lead waited", "names 'Tech Lead'"),
    ("overview", "At 10:32 it broke.", "10:32 without UTC"),
    ("badly", "It was human error.", "'human error'"),
    ("actions", document.HEADER, "no action item"),
    ("actions", f"{document.HEADER}\n| do it | mitigate |  | high | 2026-03-20 | |", "no owner"),
    ("actions", f"{document.HEADER}\n| do it | mitigate | DevOps | high |  | |", "no due date"),
    ("actions", f"{document.HEADER}\n| do it | fix | DevOps | high | soon | |", "type 'fix'"),
    ("well", "", "nobody has written it"),
]


def test_the_lint(home: Path) -> None:
    """What is whole lacks nothing; each thing that is lacking, or blames, is named with its section."""
    desk = opened(home)
    for section, told in WELL.items():
        desk.chronicle.append(ID, "written", {"section": section, "text": told, "words": "x"}, by="Tech Lead")
    found = desk.chronicle.read(ID)
    assert lint(Postmortem(found)) == []
    for section, told, what in LACKING:
        was = found.written[section]
        found.written[section] = was._replace(body={"text": told})
        lacks = lint(Postmortem(found))
        assert lacks and all(lack.section == section for lack in lacks) and any(what in lack.what for lack in lacks), (
            told,
            lacks,
        )
        found.written[section] = was


def test_a_document_moves_on(home: Path) -> None:
    """
    Draft, In review, Reviewed, Closed, one after another, and not while something is lacking; what is closed is frozen
    until it is opened again.
    """
    desk = opened(home)
    with pytest.raises(IncidentError, match="it lacks"):
        drafting.move(desk, desk.chronicle.read(ID), "in-review", "Tech Lead")
    for section, told in WELL.items():
        desk.chronicle.append(ID, "written", {"section": section, "text": told, "words": "x"}, by="Tech Lead")
    with pytest.raises(IncidentError, match="next comes In review"):
        drafting.move(desk, desk.chronicle.read(ID), "reviewed", "Tech Lead")
    for status in ("in-review", "reviewed", "closed"):
        drafting.move(desk, desk.chronicle.read(ID), status, "Tech Lead")
    assert Postmortem(desk.chronicle.read(ID)).status == "Closed"
    before = len(desk.chronicle.read(ID).entries)
    drafting.draft(desk, ID, "Tech Lead")
    assert len(desk.chronicle.read(ID).entries) == before
    desk.chronicle.reopen(ID, "it came back", "Tech Lead")
    assert Postmortem(desk.chronicle.read(ID)).status == "Draft"


@pytest.mark.slow
def test_a_report_is_computed_again(home: Path, tmp_path: Path) -> None:
    """A published report of a day is held against the posts at hand; without them nothing can be said."""
    desk = opened(home)
    values = desk.daily_report("2026-03-10").values
    path = tmp_path / "2026-03-10_daily.json"
    path.write_text(json.dumps(values))
    found = verification.verify(path, desk)
    assert found.verdict == "ok" and found.figures > 8
    values["availability"]["system_errors"] += 1
    values["verdict"], values["headline"][0], values["issues"][0]["minutes"] = "ok", "2026-03-10: ok.", 0.1
    path.write_text(json.dumps(values))
    assert [(b.what.split(", ")[-1], b.why) for b in verification.verify(path, desk).broken] == [
        (name, EDITED) for name in ("verdict", "headline", "issues", "system_errors")
    ]
    assert verification.verify(path).exit_code == 3


def test_roles_not_names(home: Path) -> None:
    """Who acted is a responder in the document; names stay in the record."""
    desk = opened(home)
    desk.chronicle.note(ID, "Annabel looked at the feed; Annabel's word", "Annabel")
    told = Postmortem(desk.chronicle.read(ID))
    assert "Annabel" not in told.timeline.plain and "responder 3: responder 3 looked" in told.timeline.plain
