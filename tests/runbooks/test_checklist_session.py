"""Test checklists: every item of the guide, completed by checks and people, resumed, signed once, and verified."""

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
    """Return a desk without faults, with a hook for every action; its clock is fixed at `AT`."""
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
    """Complete every item as a person does."""
    for step in sheet.steps:
        if step.name in but:
            continue
        if step.kind == CHECK:
            sheet.step(step.name)
        elif step.kind == ASK:
            sheet.answer(step.name, True, note="seen")
        else:
            sheet.do(step.name, confirmed=True)


# The table of checklists.


def test_the_checklists_of_the_contract_exist() -> None:
    """All checklists of CONTRACT.md exist; every item has a step, every check is known and every hook is used."""
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


def test_every_line_of_the_guide_has_an_item() -> None:
    """A checklist has at least as many items as its section of the guide."""
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


def test_an_unknown_checklist_is_rejected() -> None:
    """A misspelt name is rejected, and the right one is suggested."""
    with pytest.raises(UsageError, match="Did you mean 'morning'"):
        checklists.checklist("mornign")


# Completing a checklist.


@pytest.mark.parametrize("name", NAMES)
def test_a_checklist_is_completed_and_signed(desk: Desk, name: str) -> None:
    """
    Every checklist can be completed, resumed by another person without repeating an action, signed once, and verified.
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


def test_an_incomplete_checklist_is_never_ok(desk: Desk) -> None:
    """Items that nobody answered and actions that were only a dry run are left, and the verdict is unknown."""
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


def test_a_failed_item(desk: Desk) -> None:
    """An item that a person answers as failed makes the verdict critical."""
    desk.marks.put("deploy", "v1", "Ann", AT - timedelta(minutes=20))
    sheet = ChecklistSession(desk, "post-deploy-1h", "Ann")
    walk(sheet)
    sheet.answer("console_clean", False, note="TypeError in panel 2")
    assert (
        sheet.verdict == "critical"
        and sheet.exit_code == 2
        and "failed: Read the browser's console: TypeError in panel 2" in repr(sheet.header)
    )


def test_a_failed_item_with_a_warning(tmp_path: Path) -> None:
    """A variance above only the first threshold is a warning, not critical."""
    desk = Desk(laid(tmp_path, well(), posted(websocket_connected=True, backtest_variance_pp=6.0)).settings, lambda: AT)
    sheet = ChecklistSession(desk, "hourly", "Ann").run()
    assert (
        sheet.wrong == ["variance_in_bounds"] and sheet.verdict == "warning" and sheet.exit_code == 1 and not sheet.left
    ), repr(sheet)


def test_a_checklist_before_its_time_is_not_complete(desk: Desk) -> None:
    """A checklist due a day after a deployment is not complete after an hour; without a marker it says so."""
    assert "no deployment was marked" in ChecklistSession(desk, "post-deploy-24h", "Ann").early
    desk.marks.put("deploy", "v1", "Ann", AT - timedelta(hours=1))
    sheet = ChecklistSession(desk, "post-deploy-24h", "Ann")
    walk(sheet)
    assert "not due before 2026-03-11 14:00:00 UTC" in sheet.early and sheet.verdict in ("unknown", "critical")


def test_the_id_of_a_checklist_session(desk: Desk) -> None:
    """
    A morning checklist belongs to its day in New York, an hourly one to its hour.

    One of a release continues until it is signed.
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


def test_a_deployment_adds_its_marker(desk: Desk) -> None:
    """The item that deploys adds the marker which later checklists refer to."""
    sheet = ChecklistSession(desk, "production", "Ann")
    sheet.do("deploy_the_release", confirmed=True)
    marks = [m for m in desk.marks.between(0, 2**62) if m.kind == "deploy"]
    assert len(marks) == 1 and sheet.id in marks[0].words and marks[0].author == "Ann"
    assert ChecklistSession(desk, "post-deploy-1h").early == ""


def test_an_action_needs_a_name(desk: Desk) -> None:
    """Without a name nothing is run, signed, answered or noted."""
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


def test_a_dry_run_writes_nothing(desk: Desk) -> None:
    """A dry run of a checklist leaves no record and no folder, and cannot be signed."""
    sheet = ChecklistSession(desk, "morning", "Ann", practice=True).run()
    with pytest.raises(IncidentError, match="in practice"):
        sheet.sign()
    assert (
        not (desk.settings.outputs / checklist_session.FOLDER).exists()
        and desk.incidents.records.names("morning") == []
    )


def test_a_session_survives_being_killed(desk: Desk) -> None:
    """
    If the process is killed after each item and another continues, each action runs once, and all items are complete.
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


def test_three_people_begin_at_once(desk: Desk) -> None:
    """If several people begin the same checklist at the same moment, they share one session with one opening entry."""
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
    """A figure edited in a signed checklist's record is named; a record without one of its entries does not verify."""
    sheet = ChecklistSession(desk, "hourly", "Ann").run()
    sheet.sign()
    record = desk.incidents.records.folder(checklist_session.FOLDER, sheet.id) / "record.jsonl"
    kept = record.read_text()
    record.write_text(kept.replace("100.00 %", "100.01 %", 1))
    found = verification.verify(record.parent)
    assert found.verdict == "critical" and any(b.why == "edited" for b in found.broken)
    record.write_text("".join(kept.splitlines(keepends=True)[:-2] + kept.splitlines(keepends=True)[-1:]))
    assert verification.verify(record.parent).verdict == "critical"


def test_no_secret_is_recorded(tmp_path: Path) -> None:
    """A key that a person writes into a note is in no file."""
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


# The command.


def shell(home: Path, *words: str) -> tuple[int, str]:
    """Run a command without a terminal; return its exit code and output."""
    ended = subprocess.run(
        [sys.executable, "-m", "opslib.cli", "--home", str(home), *words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env={**os.environ, "OPS_CLOCK": f"{AT.isoformat()},{time.time()},1"},
    )
    return ended.returncode, ended.stdout or ended.stderr


def test_the_command_without_a_person(desk: Desk) -> None:
    """Without a terminal the checks run, all else is left, and the exit code is the verdict; JSON has each item."""
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
    """At a terminal each item for a person is asked, and the signature once nothing is left."""
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
        "As expected? y, n, ?" in asked
        and "Sign it as Ann?" in asked
        and "ok" in out
        and "looks good" in out
        and "signed by Ann" in out
    )


def test_the_notebook_interface(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`ops.checklist` opens a checklist in a notebook; `ops verify` accepts its ID."""
    monkeypatch.setenv("OPS_HOME", str(desk.settings.home))
    monkeypatch.setenv("OPS_CLOCK", f"{AT.isoformat()},{time.time()},1")
    sheet = opslib.checklist("hourly", "desk", "Ann").run()
    sheet.sign()
    assert main.main(["verify", sheet.id]) == 0 and "verified" in capsys.readouterr().out
