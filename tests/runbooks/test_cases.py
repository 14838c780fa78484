"""Test regression cases: an incident frozen by one command, and run with the drills from then on."""

import contextlib
import json
import shutil
import sqlite3
import zlib
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from opslib.cli import main
from opslib.desk import Desk
from opslib.foundation import clock
from opslib.foundation.config import settings
from opslib.foundation.errors import IncidentError
from opslib.foundation.storage.database import Database
from opslib.reports.postmortem import actions, document, drafting
from opslib.runbooks import cases, catalog
from opslib.runbooks.checks import CHECKS
from opslib.runbooks.diagnosis import diagnosis
from opslib.runbooks.execution import CheckResult
from tests.support import demo
from tests.support.snapshots import CLOSES

ID = "2026-03-10-2"
SECRET = "sk-very-secret-0123456789"


@pytest.fixture(scope="module")
def laid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the demo's home, with its incident frozen by the command."""
    home = tmp_path_factory.mktemp("case")
    demo.laid_out(home)
    assert main.main(["--home", str(home), "--app", "demo", "postmortem", ID, "--freeze", "--by", "Tech Lead"]) == 0
    return home


@pytest.fixture
def home(laid: Path, tmp_path: Path) -> Path:
    """Return a copy of it that may be changed."""
    shutil.copytree(laid, tmp_path / "home")
    return tmp_path / "home"


def opened(home: Path, **environ: str) -> Desk:
    """Return the demo's desk at the end of its day."""
    return Desk(settings.load(home, "demo", environ), lambda: CLOSES + timedelta(minutes=1))


def test_one_command_freezes_an_incident(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A case has the data up to the moment at which the runbook was run and nothing later, and passes as a drill."""
    desk = opened(home)
    found = cases.read(desk.settings, ID)
    assert (
        (found.runbook, found.rule, found.subject, found.of) == ("massive_down", "availability", "massive", "massive")
        and (found.severity, found.limit) == ("critical", "95.0 %")
        and found.cause.startswith("provider_")
    )
    with contextlib.closing(sqlite3.connect(found.store)) as kept:
        last = max(
            kept.execute(f"SELECT max(ts_us) FROM {table}").fetchone()[0] or 0
            for table in ("snapshots", "samples", "chains", "marks", "fills")
        )
        assert (
            0 <= clock.micros(found.at) - last < 60_000_000
            and kept.execute("SELECT count(*) FROM snapshots").fetchone()[0] > 100
        )
    assert [step for step, _ in found.results] == [s.name for s in catalog.runbook("massive_down").steps] and {
        "+",
        "-",
        ".",
    } <= {sign for _, sign in found.results}
    assert main.main(["--home", str(home), "--app", "demo", "drill", ID, "-o", "json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (
        row["fault"],
        row["expected"],
        row["found"],
        row["right"],
        row["control"],
        row["deviations"],
        row["steps"],
    ) == (ID, found.cause, found.cause, True, False, [], len(found.results))


def test_a_frozen_case_gives_the_same_diagnosis(home: Path) -> None:
    """The diagnosis of the frozen case equals that of the whole store as of the same moment."""
    desk = opened(home)
    found = cases.read(desk.settings, ID)
    there = found.workspace(desk.settings)
    with contextlib.closing(there.store):
        frozen, whole = (
            diagnosis.diagnose_at(there, found.at, found.window),
            diagnosis.diagnose_at(desk, found.at, found.window),
        )
    assert (frozen.cause, frozen.subject, frozen.confidence, frozen.also) == (
        whole.cause,
        whole.subject,
        whole.confidence,
        whole.also,
    )


def _without(step: str) -> Callable[[pytest.MonkeyPatch], None]:
    def broken(patch: pytest.MonkeyPatch) -> None:
        real = catalog.runbook

        def fewer(name):
            return replace(
                found := real(name),
                notebook=json.loads(json.dumps(found.notebook).replace(f'runbook.step(\\"{step}\\")', "None")),
            )

        patch.setattr(catalog, "runbook", fewer)

    return broken


def _blind(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(CHECKS, "answers", lambda scene: CheckResult(True, "all is well"))


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        (_without("massive_answers"), "step massive_answers is missing"),
        (_blind, "step massive_answers: passed, expected failed"),
    ],
    ids=["a step is gone", "a check is blind"],
)
def test_a_case_fails_if_the_runbook_misses_it(
    home: Path,
    broken: Callable[[pytest.MonkeyPatch], None],
    says: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """If a runbook lost a step, or a check no longer fails, the drill fails and names the deviation."""
    broken(monkeypatch)
    assert main.main(["--home", str(home), "--app", "demo", "drill", ID]) == 70
    assert says in capsys.readouterr().out


def test_a_case_fails_without_its_alert(home: Path) -> None:
    """A case whose rule no longer fires fails."""
    (home / "rules.toml").write_text("[availability]\nmin_count = 100000\n")
    result = cases.read(opened(home).settings, ID).run(opened(home).settings)
    assert not result.right and any("no alert availability of massive" in wrong for wrong in result.wrong), result


def test_a_case_fails_until_another_cause_is_found(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """
    A case can expect a cause that people found later, and fails until the diagnosis finds it.

    An unknown cause is rejected.
    """
    asked = ["--home", str(home), "--app", "demo", "postmortem", ID, "--freeze", "--by", "Tech Lead", "--cause"]
    assert main.main([*asked, "our_network"]) == 70 and "expected our_network" in capsys.readouterr().out
    assert main.main([*asked, "our_netwrk"]) == 70 and "our_network" in capsys.readouterr().err
    assert cases.read(opened(home).settings, ID).cause == "our_network"
    assert main.main([*asked[:6], "--cause", "our_network"]) == 64


def whole(cell: object) -> list[bytes]:
    """Return the bytes of a database cell, and also uncompressed if it is compressed."""
    if not isinstance(cell, bytes):
        return [str(cell).encode()]
    with contextlib.suppress(zlib.error):
        return [cell, zlib.decompress(cell)]
    return [cell]


def test_a_case_contains_no_secret_and_no_name(tmp_path: Path, laid: Path) -> None:
    """
    A key in a post, a sample, a chain or a marker is nowhere in the case, also not compressed.

    The same holds for the author of a marker.
    """
    home = tmp_path / "leaky"
    shutil.copytree(laid, home)
    with contextlib.closing(sqlite3.connect(opened(home).settings.home / "store.sqlite")) as kept:
        at = clock.micros(cases.read(opened(home).settings, ID).at)
        seq, body = kept.execute(
            "SELECT seq, body FROM snapshots WHERE ts_us <= ? ORDER BY ts_us DESC LIMIT 1", (at,)
        ).fetchone()
        content = json.loads(zlib.decompress(body)) | {"note": f"Authorization: Bearer {SECRET}"}
        kept.execute("UPDATE snapshots SET body = ? WHERE seq = ?", (zlib.compress(json.dumps(content).encode()), seq))
        kept.execute(
            "UPDATE samples SET detail = ? WHERE seq = (SELECT max(seq) FROM samples WHERE probe = "
            "'liveness' AND ts_us <= ?)",
            (json.dumps({"said": SECRET}), at),
        )
        kept.execute(
            "INSERT INTO chains (app, ts_us, known_at_us, provider, symbol, outcome, body) VALUES ('demo', ?,"
            " ?, 'massive', 'SPY', 'ok', ?)",
            (at - 1, at - 1, zlib.compress(f'[{{"next_url": "x?apiKey={SECRET}"}}]'.encode())),
        )
        kept.execute(
            "INSERT INTO marks (app, seq, ts_us, known_at_us, kind, author, words) VALUES ('demo', 9001, ?, "
            "?, 'note', 'Zebedee Quill', ?)",
            (at - 1, at - 1, f"key {SECRET}"),
        )
        kept.commit()
    desk = opened(home, OPS_MASSIVE_TOKEN=SECRET)
    made = cases.freeze(desk, desk.incidents.read(ID))
    with contextlib.closing(sqlite3.connect(made.store)) as kept:
        assert (
            kept.execute("SELECT count(*) FROM marks").fetchone()[0] > 0
            and kept.execute("SELECT count(*) FROM chains WHERE ts_us = ?", (at - 1,)).fetchone()[0] == 1
        )
        cells = [
            cell
            for (table,) in kept.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
            for row in kept.execute(f"SELECT * FROM {table}")
            for cell in row
        ]
    unpacked = [part for cell in cells for part in whole(cell)]
    files = [path.read_bytes() for path in made.store.parent.rglob("*") if path.is_file()]
    for hidden in (SECRET.encode(), b"Zebedee"):
        assert not [part for part in (*unpacked, *files) if hidden in part]


def test_an_action_item_waits_for_its_drill(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A postmortem whose action item names a drill cannot be closed before it passes; an unknown drill is named."""
    desk = opened(home)

    def written(tracker: str) -> document.Postmortem:
        row = f"{actions.HEADER}\n| find it sooner | detect | DevOps | 2026-03-20 | | {tracker} |"
        desk.incidents.append(ID, "written", {"section": "actions", "text": row, "words": "actions"}, by="Tech Lead")
        return document.Postmortem(desk.incidents.read(ID))

    assert written("OPS-12").drills == [] and written(f"drill {ID}").drills == [ID]
    drafting._check_drills(desk, desk.incidents.read(ID))
    with monkeypatch.context() as patch:
        _blind(patch)
        with pytest.raises(IncidentError, match=f"cannot be closed yet.*drill {ID}.*massive_answers: passed"):
            drafting._check_drills(desk, desk.incidents.read(ID))
    written("drill 2026-03-10-7")
    with pytest.raises(IncidentError, match="no case '2026-03-10-7'.*--freeze"):
        drafting._check_drills(desk, desk.incidents.read(ID))


def test_deviations() -> None:
    """Deviations are named: missing, new, reordered, and with another result; an expected * accepts any result."""
    expected = (("a", "+"), ("b", "-"), ("c", "*"), ("d", "."))
    assert (
        cases.deviations(expected, expected) == []
        and cases.deviations(expected, (("a", "+"), ("b", "-"), ("c", "?"), ("d", "."))) == []
    )
    assert cases.deviations(expected, (("b", "-"), ("a", "+"), ("d", "."), ("e", "+"))) == [
        "step c is missing",
        "step e is new",
        "step b runs before a",
    ]
    assert cases.deviations(expected, (("a", "?"), ("b", "+"), ("c", "+"), ("d", "."))) == [
        "step a: unknown, expected passed",
        "step b: passed, expected failed",
    ]


def test_a_damaged_case_is_rejected(home: Path) -> None:
    """A case with changed facts is rejected by name, with the command to freeze it again."""
    found = opened(home).settings
    (cases.folder(found) / ID / cases.FACTS).write_text("{}")
    with pytest.raises(IncidentError, match="is not a valid case.*--freeze"):
        cases.read(found, ID)
    assert isinstance(Database(f"sqlite:///{cases.folder(found) / ID / cases.STORE}"), Database)
