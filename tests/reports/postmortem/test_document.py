"""Test postmortems: facts from the record, texts of people, problems, and detection of edits."""

import itertools
import json
import re
import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from opslib.alerting import causes
from opslib.cli import main
from opslib.dashboard.text_blocks import bullet_list
from opslib.desk import Desk
from opslib.foundation import clock, time_parsing
from opslib.foundation.config import settings
from opslib.foundation.errors import IncidentError
from opslib.incidents import durations, evidence
from opslib.incidents.durations import Result
from opslib.incidents.evidence import EDITED, FORMULA, HEAD, MISSING
from opslib.incidents.incident import from_entries
from opslib.reports import verification
from opslib.reports.postmortem import actions, document, drafting, figures
from opslib.reports.postmortem.document import Postmortem, human_text, lint
from opslib.reports.postmortem.figures import FORMULAS
from opslib.runbooks import steps
from opslib.simulation.demo_day import replay
from opslib.telemetry.probes.outcomes import OUTCOMES
from tests.support import demo
from tests.support.published import problems
from tests.support.snapshots import CLOSES, us

ID = "2026-03-10-2"


@pytest.fixture(scope="module")
def laid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the demo's home directory with the postmortem of its incident published once."""
    home = tmp_path_factory.mktemp("postmortem")
    demo.laid_out(home)
    drafting.draft(opened(home), ID, "Tech Lead")
    return home


def opened(home: Path) -> Desk:
    """Return the demo's desk at the end of its day."""
    return Desk(settings.load(home, "demo", {}), lambda: CLOSES + timedelta(minutes=1))


@pytest.fixture
def home(laid: Path, tmp_path: Path) -> Path:
    """Return a copy of it that may be changed."""
    shutil.copytree(laid, tmp_path / "home")
    return tmp_path / "home"


def folder(home: Path) -> Path:
    """Return the folder of the incident."""
    return opened(home).incidents.folder(ID)


def broken(place: Path, desk: Desk | None = None) -> list[tuple[str, str]]:
    """Return what does not verify, and why."""
    return [(b.what, b.why) for b in verification.verify(place, desk).broken]


def test_a_copy_verifies_without_the_home(home: Path, tmp_path: Path) -> None:
    """A copied folder verifies without database and home directory; every number is recomputed."""
    shutil.copytree(folder(home), tmp_path / "copied" / ID)
    found = verification.verify(tmp_path / "copied" / ID)
    assert (
        found.verdict == "ok"
        and found.figures == len(Postmortem(opened(home).incidents.read(ID)).figures)
        and found.exit_code == 0
    )
    assert (
        verification.verify(folder(home), opened(home)).verdict == "ok"
        and verification.verify(ID, opened(home)).verdict == "ok"
    )
    (tmp_path / "nothing").mkdir()
    assert verification.verify(tmp_path / "nothing").exit_code == 3


def test_figures_equal_the_sums_of_the_evidence(home: Path) -> None:
    """Failed requests, probes and minutes equal the sums over the rows of the evidence."""
    incident = opened(home).incidents.read(ID)
    content = durations.metrics(incident).body["content"]
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
    outage = next(t for t in replay.scripted().faults if t.name == "massive_outage")
    assert (
        abs((clock.instant(times["began"].at_us) - outage.begins).total_seconds())
        <= (times["began"].precision_s or 0) + 1
    )


def test_an_unknown_time_stays_unknown() -> None:
    """Without an end there is no duration, and its text is unknown, with the reason."""
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
        and "unknown" in found["TTR"].text
        and found["massive_failed"].text == "unknown (no evidence was captured yet)"
    )


def test_drafting_again_adds_nothing(home: Path) -> None:
    """The same data is captured only once."""
    desk = opened(home)
    count = len(desk.incidents.read(ID).of_kind("evidence"))
    figures.capture_metrics(desk, desk.incidents.read(ID))
    assert len(desk.incidents.read(ID).of_kind("evidence")) == count


def replaced(path: Path, old: str, new: str) -> None:
    """Edit a file."""
    text = path.read_text(encoding="utf-8")
    assert old in text, (path, old)
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def rechained(place: Path, change: Callable[[dict], None], n: int) -> None:
    """Change the body of an entry, and recompute the whole chain of digests."""
    lines, before, made = (place / "record.jsonl").read_text().splitlines(), None, list[str]()
    for i, line in enumerate(lines, 1):
        entry = evidence.read(line)
        if i == n:
            change(entry.body)
        entry = entry._replace(previous=before.digest if before else evidence.BEGINNING)
        before = entry._replace(digest=evidence.digest(entry))
        made.append(before.line)
    (place / "record.jsonl").write_text("\n".join(made) + "\n")


def test_every_edit_is_detected(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Verification names each edit: of evidence, entries, pictures, the whole chain, numbers and formulas."""
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
    # Several checks of a run may refer to the same picture.
    assert {why for what, why in broken(place) if what.startswith("picture")} == {EDITED}
    restored()
    picture.unlink()
    assert {why for what, why in broken(place) if what.startswith("picture")} == {MISSING}
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


def test_texts_of_people_are_recorded(home: Path) -> None:
    """Texts in text fields are recorded; an edit outside them is rejected with its line, and nothing is overwritten."""
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
    found = desk.incidents.read(ID)
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
    with pytest.raises(IncidentError, match=r"edited outside its text fields \(line \d+: '## Impact, as I see it'"):
        drafting.draft(desk, ID, "Tech Lead")
    assert "as I see it" in path.read_text()


def test_the_page_begins_with_the_answer(home: Path) -> None:
    """The page begins with a title in words, the answer, key figures and one chart; nothing is shown as source."""
    page = (folder(home) / "postmortem.html").read_text(encoding="utf-8")
    assert problems(page) == []
    assert re.findall("<h1>(.+)</h1>", page) == ["Massive returned server errors for 12 min on 2026-03-10"]
    first = page[: page.index("<h2>")]
    assert ID in first and re.search(r"<strong>Whose fault:</strong> Massive \(confidence", first)
    for answered in (
        "<strong>Since when:</strong> 2026-03-10, about 11:22 New York (15:22 UTC); the alert was resolved at 11:45",
        "<strong>Still worked:</strong> Tradier (638 of 639 requests succeeded; it served 493 requests after Massive",
        "<strong>Done:</strong> 11:29 mitigated: asked the traders by phone",
        "<strong>Only dry runs, nothing was changed:</strong> &quot;Notify the trading team in #trading-alerts&quot;; ",
        "<strong>First action item:</strong> ",
    ):
        assert answered in first, answered
    assert first.count("<svg") == page.count("<svg") == 1 and page.count('<li class="ops-figure') == 6
    for name in ("began 11:2", "detected 11:2", "acknowledged 11:2", "mitigated 11:29", "resolved 11:52"):
        assert re.search(rf"<text [^>]*>{name}[\d:]*</text>", first), name
    assert "critical" in first and "95 %" in first and "#16202a" not in first[first.index("<svg") :]
    targets, links = set(re.findall("id='(E\\d+)'", page)), set(re.findall("href='#(E\\d+)'", page))
    assert links and links <= targets
    assert "[Summarize" not in page and "<strong>Summary</strong>: Summarize" in page


def test_each_duration_has_its_label_and_definition(home: Path) -> None:
    """The three durations of the outage are in one place, each with what starts and ends it."""
    page = (folder(home) / "postmortem.html").read_text(encoding="utf-8")
    first = page[: page.index("<h2>")]
    shown = re.findall(r'ops-label">([^<]+)</span><strong class="ops-value">([^<]+)<', first)
    assert shown[:3] == [
        ("Below 95 % availability", "12 min"),
        ("Until the alert was resolved", "23 min"),
        ("Until the incident was resolved", "30 min"),
    ]
    made = Postmortem(opened(home).incidents.read(ID))
    rows = made.durations.values["rows"]
    assert [row[0] for row in rows[:3]] == [label[:1].lower() + label[1:] for label, _ in shown[:3]]
    assert all(starts and ends for _, _, starts, ends, _ in rows)
    assert "they look back over 10 min" in rows[1][3] and "a responder resolved it" in rows[2][3]
    assert (durations.exact(85.0), durations.exact(3895.0)) == ("1 min 25 s", "1 h 5 min")
    minutes = {f.id: f.result.value for f in made.figures}["massive_minutes_critical"]
    assert rows[0][1] == f"{minutes:g} min", "it is the figure that ops verify recomputes"
    counted = {row[0]: row[1] for row in made.impact.values["rows"]}
    below = "minutes with availability of Massive below the"
    assert counted[f"{below} critical threshold (95 %)"] == "12 of the 24 min with requests"
    assert counted[f"{below} objective (99 %)"] == "13 of the 24 min with requests"


def test_tables_and_chart_of_the_markdown(home: Path) -> None:
    """Every line of a table has as many cells as its header, and the chart is a picture of the evidence."""
    place = folder(home)
    lines = (place / "postmortem.md").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "# Massive returned server errors for 12 min on 2026-03-10"
    for n, line in enumerate(lines):
        if line.startswith("|---"):
            rows = [lines[n - 1], *itertools.takewhile(lambda text: text.startswith("|"), lines[n + 1 :])]
            cells = line.count("|")
            assert len(rows) > 1 and {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {cells}, rows[:2]
    picture = next(line for line in lines if line.startswith("!["))
    assert (place / picture.partition("](")[2].rstrip(")")).read_bytes().startswith(b"\x89PNG")


def test_the_check_lists_incomplete_sections(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The check has one line for each incomplete section, and the exit code of the contract."""
    words = ["--home", str(home), "--app", "demo", "postmortem", ID, "--check", "--by", "Tech Lead"]
    assert main.main(words) == 70
    shown = capsys.readouterr().out.strip().splitlines()
    assert shown[0].endswith("9 sections to complete:") and len(shown) == 10
    assert [line.strip().partition(":")[0] for line in shown[1:]] == list(document.HEADINGS.values())


WELL = {
    "overview": "Massive answered with errors for ten minutes; requests failed, and the fallback served them.",
    "detection": "An alert fired a minute and a half after the first failed look.",
    "factors": "- Massive's gateway answered 502.\n- The app asks the fallback only for chains.",
    "response": "The runbook was walked; Massive came back by itself.",
    "well": "The fallback served.",
    "badly": "Switching to Tradier could only be rehearsed.",
    "lucky": "It was a quiet hour.",
    "messages": "Those who trade were told at 15:26 UTC.",
    "actions": f"{actions.HEADER}\n| set a hook for tradier_only | mitigate | DevOps | 2026-03-20 | E37 | |",
}
NO_TYPE = "\n| do it |  | DevOps | 2026-03-20 | | |"
LACKING = [
    ("factors", "- one root cause\n- another", "root cause"),
    ("factors", "- only one", "1 factor"),
    ("response", "The Tech Lead failed to look.", "'failed to'"),
    ("response", "the Tech Lead and Ann waited", "names 'Ann'"),
    ("overview", "At 10:32 it broke.", "10:32 without UTC"),
    ("badly", "It was human error.", "'human error'"),
    ("actions", actions.HEADER, "no action item"),
    ("actions", f"{actions.HEADER}\n| do it | mitigate |  | 2026-03-20 | | |", "item 1 has no owner"),
    ("actions", f"{actions.HEADER}\n| do it | mitigate | DevOps |  | | |", "item 1 has no due date"),
    ("actions", f"{actions.HEADER}{2 * NO_TYPE}", "items 1, 2 have no type"),
    ("actions", f"{actions.HEADER}\n| do it | fix | DevOps | soon | | |", "type 'fix'"),
    ("actions", f"[{document.ASKED['actions']}]\n\n{WELL['actions']}", "not confirmed"),
    ("well", "", "not written yet"),
]


def test_problems_of_a_document(home: Path) -> None:
    """A complete document has no problems; each problem is named with its section."""
    desk = opened(home)
    for section, text in WELL.items():
        desk.incidents.append(ID, "written", {"section": section, "text": text, "words": "x"}, by="Tech Lead")
    desk.incidents.note(ID, "the feed is back", "Ann")
    found = desk.incidents.read(ID)
    assert lint(Postmortem(found)) == []
    for section, text, what in LACKING:
        was = found.written[section]
        found.written[section] = was._replace(body={"text": text})
        lacks = lint(Postmortem(found))
        assert lacks and all(lack.section == section for lack in lacks) and any(what in lack.what for lack in lacks), (
            text,
            lacks,
        )
        found.written[section] = was


def test_the_status_advances(home: Path) -> None:
    """The status advances one step at a time if there are no problems; a closed document is frozen until reopened."""
    desk = opened(home)
    with pytest.raises(IncidentError, match="cannot be set to In review yet"):
        drafting.move(desk, desk.incidents.read(ID), "in-review", "Tech Lead")
    for section, text in WELL.items():
        desk.incidents.append(ID, "written", {"section": section, "text": text, "words": "x"}, by="Tech Lead")
    with pytest.raises(IncidentError, match="the next status is In review"):
        drafting.move(desk, desk.incidents.read(ID), "reviewed", "Tech Lead")
    for status in ("in-review", "reviewed", "closed"):
        drafting.move(desk, desk.incidents.read(ID), status, "Tech Lead")
    assert Postmortem(desk.incidents.read(ID)).status == "Closed"
    before = len(desk.incidents.read(ID).entries)
    drafting.draft(desk, ID, "Tech Lead")
    assert len(desk.incidents.read(ID).entries) == before
    desk.incidents.reopen(ID, "it came back", "Tech Lead")
    assert Postmortem(desk.incidents.read(ID)).status == "Draft"


@pytest.mark.slow
def test_a_report_is_recomputed(home: Path, tmp_path: Path) -> None:
    """A published report is compared with the snapshots in the database; without them the result is unknown."""
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
    earlier = {k: v for k, v in desk.daily_report("2026-03-10").values.items() if k != "wording"}
    earlier["headline"] = ["other words", *earlier["headline"][1:]]
    earlier["issues"] = [i | {"worst": "other words"} for i in earlier["issues"]]
    earlier["evidence"] = earlier["evidence"] | {"rules_sha256": "0" * 64}
    path.write_text(json.dumps(earlier))
    assert verification.verify(path, desk).verdict == "ok", "a report of an earlier version has other sentences"
    earlier["issues"][0]["minutes"] = 0.1
    path.write_text(json.dumps(earlier))
    assert [b.what.split(", ")[-1] for b in verification.verify(path, desk).broken] == ["issues"]


def test_a_document_of_an_earlier_version_verifies(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A document with other labels and instructions verifies, and texts in its text fields are recorded."""
    desk, path = opened(home), folder(home) / "postmortem.md"
    other = {section: f"Other instruction for {section}." for section in document.ASKED}
    old = document.ASKED["well"]
    monkeypatch.setattr(document, "ASKED", other)
    monkeypatch.setattr(Postmortem, "impact", property(lambda self: bullet_list("Other heading", ["x"])))
    monkeypatch.setattr(figures.Figure, "text", property(lambda self: "x"))
    assert verification.verify(path.parent).verdict == "ok"
    replaced(path, f"[{old}]", "The fallback took over.")
    assert verification.verify(path.parent).verdict == "ok"
    drafting.take_in(desk, ID, "Tech Lead")
    assert [e.body["section"] for e in desk.incidents.read(ID).of_kind("written")] == ["well"]
    replaced(path, "## Impact", "## Impact, edited")
    assert verification.verify(path.parent).verdict == "critical"


def test_people_are_shown_by_their_role(home: Path) -> None:
    """A person is shown as a responder; a role that somebody signed with is shown as it is."""
    desk = opened(home)
    desk.incidents.note(ID, "Annabel looked at the feed; Annabel's word", "Annabel")
    made = Postmortem(desk.incidents.read(ID))
    assert "Annabel" not in made.timeline.plain and "the responder: the responder looked" in made.timeline.plain
    assert "Tech Lead: acknowledged" in made.timeline.plain and "acknowledged by Tech Lead" in made.times.plain
    desk.incidents.note(ID, "Annabel is right", "Bob")
    both = Postmortem(desk.incidents.read(ID)).timeline.plain
    assert "responder 1: responder 1 looked" in both and "responder 2: responder 1 is right" in both


def test_the_document_has_no_ids(home: Path) -> None:
    """Outside the appendix and the settings to change, the document has no ID of a step, cause, outcome or alert."""
    shown = (folder(home) / "postmortem.md").read_text(encoding="utf-8").replace("\\_", "_").partition("## Appendix")[0]
    settings_to_change = re.sub(r"set \w+ in \\\[hooks|Set host_prefix", "", shown)
    known = [*steps.table(), *causes.CAUSES, *OUTCOMES]
    names = [name for name in known if "_" in name and re.search(rf"\b{name}\b", settings_to_change)]
    assert names == [], names
    assert not re.search(r"-\d{8}T\d{6}Z", shown)
