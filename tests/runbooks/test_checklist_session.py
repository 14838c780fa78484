"""Checklists: every box of the guide, gone through by machine and people, resumed, signed once, and verified."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import opslib
from opslib import desk as desk_module
from opslib.cli import main
from opslib.desk import Desk
from opslib.foundation.errors import IncidentError, OperatorNeeded, UsageError
from opslib.reports import verification
from opslib.runbooks import checklist_session, checklists, hooks, steps
from opslib.runbooks.checklist_session import ChecklistSession
from opslib.runbooks.checks import CHECKS
from opslib.runbooks.steps import ACTION, ASK, CHECK
from opslib.telemetry.pages.store import SnapshotStore
from opslib.telemetry.probes.store import SampleStore
from tests.runbooks.checks.test_checks import AT, every, laid, posted, well
from tests.runbooks.test_execution import process
from tests.support.system import SHARED

NAMES = tuple(checklists.table())
HOOK = '#!/bin/sh\necho "$1" >> "$(dirname "$0")/done"\ncat > /dev/null\n'
ALL_HOOKS = (
    "test_monitoring",
    "test_integration",
    "push_branch",
    "build",
    "start_staging",
    "cut_branch",
    "merge_branch",
    "set_version",
    "make_tag",
    "push_tag",
    "deploy",
    "raise_error",
)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    """A desk in a good world, with a hook for everything; its clock stands at `AT`."""
    hook = tmp_path / "hook.sh"
    hook.write_text(HOOK)
    hook.chmod(0o755)
    (tmp_path / "settings.toml").write_text(
        "[hooks]\n" + "".join(f'{name} = ["{hook}", "{name}"]\n' for name in ALL_HOOKS)
    )
    found = Desk(desk_module.open("desk", tmp_path, {"OPS_HOME": str(tmp_path)}).settings, lambda: AT)
    SampleStore(found.store, "desk").keep(well(), known_at_ts=True)
    SnapshotStore(found.store).write("desk", posted(websocket_connected=True), known_at_ts=True)
    return found


def walk(sheet: ChecklistSession, but: tuple[str, ...] = ()) -> None:
    """Every box as somebody who is there does it."""
    for step in sheet.steps:
        if step.name in but:
            continue
        if step.kind == CHECK:
            sheet.step(step.name)
        elif step.kind == ASK:
            sheet.answer(step.name, True, note="seen")
        else:
            sheet.do(step.name, confirmed=True)


# The table.


def test_the_nine_of_the_contract_are_there() -> None:
    """
    Every checklist of CONTRACT.md, in the help of its command too; every box has a step, every check and hook is used.
    """
    assert set(NAMES) == {
        "morning",
        "hourly",
        "pre-deploy",
        "staging",
        "production",
        "post-deploy-1h",
        "post-deploy-24h",
        "post-deploy-1w",
        "monitor-health",
    }
    boxes = {step.name for name in NAMES for step in checklists.checklist(name).steps}
    own = {name for name, step in steps.table().items() if not step.box}
    assert own <= boxes, own - boxes
    assert all(steps.step(name).check in CHECKS for name in boxes if steps.step(name).kind == CHECK)
    assert (
        {step.hook for name in NAMES for step in checklists.checklist(name).steps if step.kind == ACTION}
        == set(ALL_HOOKS)
        <= set(hooks.HOOKS)
    )


def test_every_box_of_the_guide_has_one() -> None:
    """Of each section of the guide a checklist has at least as many boxes as the section."""
    guide = SHARED / "operations-guide.md"
    if not guide.is_file():
        pytest.skip("the guide is not beside the project")
    content = guide.read_text(encoding="utf-8")
    wanted = {
        "pre-deploy": "### Pre-Deployment Verification",
        "post-deploy-1h": "**Immediate (0-1 hour)**",
        "post-deploy-24h": "**24 Hours**",
        "post-deploy-1w": "**1 Week**",
        "monitor-health": "Monitoring System Health Checklist:",
        "hourly": "#### Hourly Monitoring",
    }
    for name, head in wanted.items():
        part = re.split(r"\n(?:#{2,4} |\*\*|```)", content.partition(head)[2])[0]
        asked = len(re.findall(r"^- ", part, re.MULTILINE))
        assert asked and len(checklists.checklist(name).steps) >= asked, (name, asked)


def test_an_unknown_one_is_refused_with_the_nearest() -> None:
    """A misspelt name is refused, and the right one is named."""
    with pytest.raises(UsageError, match="Did you mean 'morning'"):
        checklists.checklist("mornign")


# Going through.


@pytest.mark.parametrize("name", NAMES)
def test_a_checklist_is_completed_and_signed(desk: Desk, name: str) -> None:
    """
    Every checklist: gone through, resumed by another without doing anything again, signed; it stands then, and
    verifies.
    """
    sheet = ChecklistSession(desk, name, "Ann")
    walk(sheet)
    changes = [s.hook for s in sheet.steps if s.kind == ACTION]
    done = desk.settings.home / "done"
    assert (done.read_text().split() if done.exists() else []) == changes
    other = ChecklistSession(Desk(desk.settings, lambda: AT), name, "Bob")
    assert other.id == sheet.id and {n: s.state for n, s in other.run().statuses().items()} == {
        n: s.state for n, s in sheet.statuses().items()
    }
    assert (done.read_text().split() if done.exists() else []) == changes
    assert all(s.state in ("ok", "done", "unknown", "not as expected") for s in other.statuses().values())
    entry = other.sign()
    assert entry.by == "Bob" and entry.body["boxes"] == {n: s.state for n, s in other.statuses().items()}
    assert "Signed by Bob" in repr(other.signature) and other.verdict == entry.body["verdict"]
    with pytest.raises(IncidentError, match="is signed"):
        other.sign("Ann")
    with pytest.raises(IncidentError, match="is signed"):
        other.check(next(s.name for s in other.steps if s.kind == CHECK))
    found = verification.verify(sheet.id, desk)
    assert found.verdict == "ok" and found.head.startswith(entry.id)


def test_what_is_left_is_never_ok(desk: Desk) -> None:
    """
    A box that nobody was asked is not done, by name; so is one that could only be rehearsed; then it is unknown, never
    ok.
    """
    sheet = ChecklistSession(desk, "post-deploy-1h", "").run()
    assert sheet.verdict == "unknown" and {"every_tab", "console_clean"} <= set(sheet.left) and not sheet.wrong
    assert "no person was available" in repr(sheet.strip)
    desk.marks.put("deploy", "v1", "Ann", AT - timedelta(minutes=20))
    sheet = ChecklistSession(desk, "post-deploy-1h", "Ann")
    walk(sheet)
    assert sheet.id == "post-deploy-1h-20260310T144000Z" and sheet.verdict == "ok" and sheet.exit_code == 0
    (desk.settings.home / "settings.toml").write_text("")
    rehearsed = ChecklistSession(
        Desk(desk_module.open("desk", desk.settings.home, {}).settings, lambda: AT), "production", "Ann"
    )
    walk(rehearsed)
    assert "deploy_the_release" in rehearsed.left and rehearsed.verdict == "unknown"


def test_a_box_that_is_wrong(desk: Desk) -> None:
    """What a person finds wrong makes it critical; what only a warning of a rule is, a warning."""
    desk.marks.put("deploy", "v1", "Ann", AT - timedelta(minutes=20))
    sheet = ChecklistSession(desk, "post-deploy-1h", "Ann")
    walk(sheet)
    sheet.answer("console_clean", False, note="TypeError in panel 2")
    assert (
        sheet.verdict == "critical"
        and sheet.exit_code == 2
        and "failed: Read the browser's console: TypeError in panel 2" in repr(sheet.header)
    )


def test_a_warning_is_one(tmp_path: Path) -> None:
    """Variance past its first limit and no further is a warning, not critical."""
    desk = Desk(laid(tmp_path, well(), posted(websocket_connected=True, backtest_variance_pp=6.0)).settings, lambda: AT)
    sheet = ChecklistSession(desk, "hourly", "Ann").run()
    assert (
        sheet.wrong == ["variance_in_bounds"] and sheet.verdict == "warning" and sheet.exit_code == 1 and not sheet.left
    ), repr(sheet)


def test_too_early_is_not_done(desk: Desk) -> None:
    """What follows a deployment by a day is not done an hour after it, however green; without a marker it says so."""
    assert "no deployment was marked" in ChecklistSession(desk, "post-deploy-24h", "Ann").early
    desk.marks.put("deploy", "v1", "Ann", AT - timedelta(hours=1))
    sheet = ChecklistSession(desk, "post-deploy-24h", "Ann")
    walk(sheet)
    assert "not due before 2026-03-11 14:00:00 UTC" in sheet.early and sheet.verdict in ("unknown", "critical")


def test_which_one_is_meant(desk: Desk) -> None:
    """
    A morning's is that of its day in New York, an hour's of its hour; a release's goes on until it is signed; a
    deployment's belongs to its marker.
    """

    def at(given):
        return Desk(desk.settings, lambda: datetime.fromisoformat(given).replace(tzinfo=UTC))

    assert (
        ChecklistSession(at("2026-03-11T03:30"), "morning").id == "morning-2026-03-10"
        and ChecklistSession(at("2026-03-11T04:30"), "morning").id == "morning-2026-03-11"
    )
    assert (
        ChecklistSession(at("2026-03-10T14:59"), "hourly").id == "hourly-2026-03-10T10"
        and ChecklistSession(at("2026-03-10T15:00"), "hourly").id == "hourly-2026-03-10T11"
    )
    first = ChecklistSession(at("2026-03-10T15:00"), "staging", "Ann")
    assert ChecklistSession(at("2026-03-17T15:00"), "staging").id == first.id == "staging-2026-03-10"
    first.sign()
    assert ChecklistSession(at("2026-03-10T16:00"), "staging", "Ann").id == "staging-2026-03-10-2"
    assert ChecklistSession(at("2026-03-18T16:00"), "staging").id == "staging-2026-03-10-2"


def test_a_deployment_marks_itself(desk: Desk) -> None:
    """The box that deploys puts the marker which the checklists after it follow."""
    sheet = ChecklistSession(desk, "production", "Ann")
    sheet.do("deploy_the_release", confirmed=True)
    marks = [m for m in desk.marks.between(0, 2**62) if m.kind == "deploy"]
    assert len(marks) == 1 and sheet.id in marks[0].words and marks[0].author == "Ann"
    assert ChecklistSession(desk, "post-deploy-1h").early == ""


def test_a_change_needs_a_name(desk: Desk) -> None:
    """Without a name nothing is run, nothing signed, nothing noted."""
    sheet = ChecklistSession(desk, "production")
    for act in (
        lambda: sheet.do("deploy_the_release", confirmed=True),
        lambda: sheet.sign(),
        lambda: sheet.note("x"),
        lambda: sheet.answer("dashboard_opens", True),
    ):
        with pytest.raises(OperatorNeeded):
            act()
    assert not (desk.settings.home / "done").exists()
    sheet.note("the pipeline is slow today", "Ann")
    assert sheet.incident.last_entry.body["words"] == "the pipeline is slow today"


def test_practice_writes_nothing(desk: Desk) -> None:
    """A checklist that is practised leaves no record, no folder, and cannot be signed."""
    sheet = ChecklistSession(desk, "morning", "Ann", practice=True).run()
    with pytest.raises(IncidentError, match="in practice"):
        sheet.sign()
    assert (
        not (desk.settings.outputs / checklist_session.FOLDER).exists()
        and desk.incidents.records.names("morning") == []
    )


def test_killed_half_way(desk: Desk) -> None:
    """
    Whoever goes through it is killed after every single box, and another goes on: each change is done once, every box
    stands as of one who was not killed.
    """
    whole = ChecklistSession(desk, "production", "Ann")
    names = [s.name for s in whole.steps]
    for n in range(len(names)):

        def one(n: int = n) -> None:
            walk(
                ChecklistSession(Desk(desk.settings, lambda: AT), "production", "Ann"),
                tuple(x for i, x in enumerate(names) if i != n),
            )
            os.kill(os.getpid(), signal.SIGKILL)

        assert process(one) == -signal.SIGKILL
    assert (desk.settings.home / "done").read_text().split() == [s.hook for s in whole.steps if s.kind == ACTION]
    assert {s.state for s in whole.statuses().values()} == {"ok", "done"}


def test_two_begin_at_once(desk: Desk) -> None:
    """Two who begin the same checklist at the same moment go through one, with one opening."""
    pids = []
    for who in ("Ann", "Bob", "Cid"):
        if (pid := os.fork()) == 0:
            try:
                os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
                ChecklistSession(Desk(desk.settings, lambda: AT), "hourly", who).run()
            finally:
                os._exit(0)
        pids.append(pid)
    for pid in pids:
        os.waitpid(pid, 0)
    sheet = ChecklistSession(desk, "hourly")
    assert (
        len([e for e in sheet.incident.entries if e.kind == "opened"]) == 1
        and verification.verify(sheet.id, desk).verdict == "ok"
    )
    assert {s.state for s in sheet.statuses().values()} == {"ok"}, repr(sheet)


def test_an_edit_is_named(desk: Desk) -> None:
    """
    A figure changed in the copy of a signed checklist is named; with the record rewritten, the head that was signed
    differs.
    """
    sheet = ChecklistSession(desk, "hourly", "Ann").run()
    sheet.sign()
    record = desk.incidents.records.folder(checklist_session.FOLDER, sheet.id) / "record.jsonl"
    kept = record.read_text()
    record.write_text(kept.replace("100.00 %", "100.01 %", 1))
    found = verification.verify(record.parent)
    assert found.verdict == "critical" and any(b.why == "edited" for b in found.broken)
    record.write_text("".join(kept.splitlines(keepends=True)[:-2] + kept.splitlines(keepends=True)[-1:]))
    assert verification.verify(record.parent).verdict == "critical"


def test_no_secret_is_kept(tmp_path: Path) -> None:
    """A key that a check repeats, or somebody writes into a note, is in no record."""
    token = "tok-sheet-0123456789"
    desk = Desk(
        laid(
            tmp_path,
            [*well(), *every("data", "massive", "auth_401", minutes=1, status=401, said="no such key")],
            posted(),
            OPS_MASSIVE_TOKEN=token,
        ).settings,
        lambda: AT,
    )
    sheet = ChecklistSession(desk, "morning", "Ann").run()
    sheet.note(f"the key is {token}")
    sheet.sign()
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and token.encode() in p.read_bytes()]


# The shell.


def shell(home: Path, *words: str) -> tuple[int, str]:
    """What a command says where nobody sits at the terminal."""
    ended = subprocess.run(
        [sys.executable, "-m", "opslib.cli", "--home", str(home), *words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env={**os.environ, "OPS_CLOCK": f"{AT.isoformat()},{time.time()},1"},
    )
    return ended.returncode, ended.stdout or ended.stderr


def test_the_command_without_a_person(desk: Desk) -> None:
    """
    From cron: what can be looked at is looked at, the rest is not done, the exit code is the verdict; JSON says each
    box.
    """
    code, said = shell(desk.settings.home, "checklist", "post-deploy-1h", "-o", "json")
    found = json.loads(said)
    assert (
        code == 3
        and found["verdict"] == "unknown"
        and [b["item"] for b in found["items"]] == [s.name for s in checklists.checklist("post-deploy-1h").steps]
    )
    assert (
        next(b for b in found["items"] if b["item"] == "console_clean")["state"] == "skipped"
        and found["signed"] is None
    )
    code, said = shell(desk.settings.home, "checklist", "post-deploy-1h", "--sign", "--by", "Ann")
    assert code == 3 and "signed by Ann" in said
    assert shell(desk.settings.home, "checklist", "post-deploy-1h", "--sign", "--by", "Ann")[0] == 70
    assert shell(desk.settings.home, "checklist", "nosuch")[0] == 64 and shell(desk.settings.home, "checklist")[0] == 0


def test_the_command_asks(desk: Desk) -> None:
    """
    At a terminal each box that only a person can say is put to them, changes are shown first, and a signature is asked
    for when nothing is left.
    """
    desk.marks.put("deploy", "v1", "Ann", AT - timedelta(minutes=20))
    ours, theirs = pty.openpty()
    running = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "opslib.cli",
            "--home",
            str(desk.settings.home),
            "checklist",
            "post-deploy-1h",
            "--by",
            "Ann",
        ],
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OPS_CLOCK": f"{AT.isoformat()},{time.time()},1"},
    )
    os.write(ours, b"y\nlooks good\n" + b"y\n\n" + b"y\n")
    out, asked = running.communicate(timeout=60)
    os.close(ours)
    os.close(theirs)
    assert running.returncode == 0, (out, asked)
    assert (
        "Passed? y, n, ?" in asked
        and "Sign it as Ann?" in asked
        and "ok" in out
        and "looks good" in out
        and "signed by Ann" in out
    )


def test_the_notebook_interface(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A notebook opens the same by `ops.checklist`; `ops verify` takes its id."""
    monkeypatch.setenv("OPS_HOME", str(desk.settings.home))
    monkeypatch.setenv("OPS_CLOCK", f"{AT.isoformat()},{time.time()},1")
    sheet = opslib.checklist("hourly", "desk", "Ann").run()
    sheet.sign()
    assert main.main(["verify", sheet.id]) == 0 and "verified" in capsys.readouterr().out
