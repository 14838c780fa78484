"""
Test running a runbook: checks change nothing, and an action runs once, also if the process is killed between steps.
"""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from queue import Empty

import pytest
from jupyter_client import KernelManager
from nbformat import from_dict

from opslib.dashboard import impact, status
from opslib.desk import Desk
from opslib.foundation import clock, time_parsing
from opslib.foundation.config import settings
from opslib.foundation.config.settings import without_secrets
from opslib.foundation.errors import IncidentError, OperatorNeeded, SettingsError
from opslib.jobs import kernels as kernels_module
from opslib.jobs.kernels import KernelPool
from opslib.jobs.notebook_file import is_runbook
from opslib.runbooks import catalog, opening
from opslib.runbooks.hooks import HOOKS, Hook, read
from opslib.runbooks.session import RunbookSession
from opslib.runbooks.steps import ACTION, ASK, CHECK
from tests.support import demo
from tests.support.snapshots import CLOSES

AS_OF = "2026-03-10T11:25"
TOKEN = "tok-walk-0123456789"
HOOK = """#!/bin/sh
# Counts what it was asked for; kills who asked before or after it did, where a file says so.
place=$(dirname "$0")
asked=$(cat)
[ -e "$place/before" ] && rm "$place/before" && kill -9 $PPID && exit 1
echo "$1 $asked" >> "$place/done"
[ -e "$place/after" ] && rm "$place/after" && kill -9 $PPID
echo "did it with tok-walk-0123456789"
"""


@pytest.fixture(scope="module")
def laid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a home with the demo's day, and a hook for every action."""
    home = tmp_path_factory.mktemp("walked")
    demo.laid_out(home)
    hook = home / "hook.sh"
    hook.write_text(HOOK)
    hook.chmod(0o755)
    (home / "settings.toml").write_text("[hooks]\n" + "".join(f'{name} = ["{hook}", "{name}"]\n' for name in HOOKS))
    return home


@pytest.fixture
def home(laid: Path) -> Path:
    """Return it without hooks that have run."""
    for name in ("done", "before", "after"):
        (laid / name).unlink(missing_ok=True)
    return laid


def desk(home: Path) -> Desk:
    """Return the demo's desk, opened again, at the end of its day."""
    found = settings.load(home, "demo", {"OPS_MASSIVE_TOKEN": TOKEN})
    return Desk(found, lambda: CLOSES)


PLAIN = status.view_at


@pytest.fixture(autouse=True, scope="module")
def quick(laid: Path) -> Iterator[None]:
    """Read the status of a moment once, and share it with every process forked from this one."""
    kept = desk(laid)
    seen = lru_cache(maxsize=None)(lambda at, length: PLAIN(kept, at, length))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(status, "view_at", lambda desk, at, length: seen(at, length))
        seen(time_parsing.parse(AS_OF), timedelta(minutes=10))
        yield


def book(home: Path, name: str, incident: str, operator: str = "Ann") -> RunbookSession:
    """Return a runbook session, as a new process opens it."""
    return RunbookSession(desk(home), name, incident, operator, as_of=AS_OF)


def process(what: Callable[[], object]) -> int:
    """Run a function in its own process; return the exit code, which is negative for a signal."""
    pid = os.fork()
    if pid == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        try:
            what()
            os._exit(0)
        except BaseException:  # Nothing of pytest may run in the child.
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def walk(found: RunbookSession, step: str) -> None:
    """Run one step as a person does."""
    kind = next(s.kind for s in found.steps if s.name == step)
    if kind == CHECK:
        found.step(step)
    elif kind == ASK:
        found.answer(step, True, note="seen")
    else:
        found.do(step, confirmed=True)


def counted(home: Path) -> list[str]:
    """Return the hooks that have run."""
    return [line.split()[0] for line in (home / "done").read_text().splitlines()] if (home / "done").exists() else []


def record(home: Path, incident: str) -> list[tuple]:
    """Return the recorded results of an incident's steps, without times and entry IDs."""
    return [
        (e.body["step"], e.body["state"], e.by, e.body.get("good"), e.body["words"])
        for e in desk(home).incidents.read(incident).of_kind("step")
    ]


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n == "massive_down" else pytest.mark.slow) for n in catalog.names()]
)
def test_a_run_survives_being_killed_after_every_step(home: Path, name: str) -> None:
    """If the process is killed after each step, the record and the hooks that ran are those of an uninterrupted run."""
    whole, torn = (desk(home).incidents.open(f"{name} {n}", by="Ann", runbook=name).id for n in ("whole", "torn"))
    steps = book(home, name, whole).steps
    for step in steps:
        walk(book(home, name, whole), step.name)
    done = counted(home)
    assert sorted(done) == sorted(s.hook for s in steps if s.kind == ACTION)
    (home / "done").unlink(missing_ok=True)
    for step in steps:
        assert (
            process(lambda step=step: (walk(book(home, name, torn), step.name), os.kill(os.getpid(), signal.SIGKILL)))
            == -signal.SIGKILL
        )
    assert record(home, torn) == record(home, whole) and counted(home) == done
    for step in steps:  # Once more: actions that have run are shown, not run again.
        if step.kind != ASK:
            walk(book(home, name, torn), step.name)
    assert counted(home) == done


@pytest.mark.parametrize("name", catalog.names())
@pytest.mark.parametrize("when", ["before", "after"])
def test_an_action_killed_before_its_outcome_is_recorded(home: Path, name: str, when: str) -> None:
    """
    If the process is killed just before or after an action, nobody can repeat it before a person confirms the outcome.

    It then has run once.
    """
    incident = desk(home).incidents.open(name, by="Ann", runbook=name).id
    changing = [s for s in book(home, name, incident).steps if s.kind == ACTION]
    for step in changing:
        (home / when).touch()
        assert process(lambda step=step: book(home, name, incident).do(step.name, confirmed=True)) == -signal.SIGKILL
        again = book(home, name, incident, "Bob")
        assert again.execution.status_of(step).state == "unsure" and "no outcome was recorded" in repr(
            again.step(step.name)
        )
        with pytest.raises(IncidentError, match="Ann started step"):
            again.do(step.name, confirmed=True)
        happened = when == "after"
        assert again.confirm_outcome(step.name, happened).state == ("done" if happened else "not done")
        again.do(step.name, confirmed=True)
    assert sorted(counted(home)) == sorted(s.hook for s in changing)
    found = desk(home).incidents.read(incident)
    assert found.status == ("mitigated" if any(s.mitigates for s in changing) else "open")


@pytest.fixture(scope="module")
def kernels() -> Iterator[KernelPool]:
    """Return kernels that have imported everything already."""
    with closing(KernelPool(without_secrets(os.environ))) as found:
        yield found


@contextmanager
def kernel(home: Path, incident: str, kernels: KernelPool) -> Iterator[Callable[[str], str]]:
    """
    Run a Jupyter kernel with massive_down open; yield a function that executes a cell and returns what it shows.

    It returns "dead" if the kernel died.
    """
    manager = KernelManager(kernel_name="python3")
    manager.ops_kernels = kernels
    manager.kernel_spec.metadata["kernel_provisioner"] = {"provisioner_name": kernels_module.NAME}
    manager.start_kernel(
        env={
            **os.environ,
            "OPS_HOME": str(home),
            "OPS_MASSIVE_TOKEN": TOKEN,
            "OPS_CLOCK": f"{CLOSES.isoformat()},{time.time()},1",
        },
        cwd=str(home),
    )
    client = manager.blocking_client()
    client.start_channels()

    def cell(source: str) -> str:
        asked, shown = client.execute(source), list[str]()
        while manager.is_alive():
            with suppress(Empty):
                message = client.get_iopub_msg(timeout=0.5)
                if message["parent_header"].get("msg_id") != asked:
                    continue
                if message["msg_type"] == "status" and message["content"]["execution_state"] == "idle":
                    return "".join(shown)
                shown.append(str(message["content"]))
        return "dead"

    try:
        client.wait_for_ready(timeout=60)
        cell(
            f'import opslib as ops\nrunbook = ops.runbook("massive_down", "demo", "{incident}", "Ann", "massive", '
            f'"critical", "95.0 %", "10m", "{AS_OF}")'
        )
        yield cell
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def test_a_kernel_is_killed(home: Path, kernels: KernelPool) -> None:
    """If a Jupyter kernel is killed before an outcome is recorded, the next kernel asks for it and repeats nothing."""
    whole, torn = (desk(home).incidents.open(n, by="Ann", runbook="massive_down").id for n in ("whole", "torn"))
    names = ["massive_answers", "tell_channel", "tradier_only"]
    for name in names:
        walk(book(home, "massive_down", whole), name)
    done = counted(home)
    (home / "done").unlink()
    with kernel(home, torn, kernels) as cell:
        assert "symptom confirmed" in cell('runbook.step("massive_answers")')
        cell('runbook.do("tell_channel", confirmed=True)')
        (home / "after").touch()
        assert cell('runbook.do("tradier_only", confirmed=True)') == "dead"
    with kernel(home, torn, kernels) as cell:
        assert "no outcome was recorded" in cell('runbook.step("tradier_only")') and "Ann started step" in cell(
            'runbook.do("tradier_only", confirmed=True)'
        )
        cell('runbook.confirm_outcome("tradier_only", True)')
        for name in names:
            cell(f'runbook.step("{name}")')
    kept = [r for r in record(home, torn) if r[1] not in ("intended", "unsure")]
    assert counted(home) == done == ["tell_channel", "tradier_only"]
    assert [r[:3] for r in kept] == [r[:3] for r in record(home, whole) if r[1] not in ("intended", "unsure")]


@pytest.mark.slow
def test_one_kernel_after_another(home: Path, kernels: KernelPool) -> None:
    """
    With a new kernel for every three steps, killed afterwards, record and hooks are those of an uninterrupted run.
    """
    whole, torn = (desk(home).incidents.open(n, by="Ann", runbook="massive_down").id for n in ("whole", "torn"))
    steps = book(home, "massive_down", whole).steps
    for step in steps:
        walk(book(home, "massive_down", whole), step.name)
    done = counted(home)
    (home / "done").unlink()
    # test_a_run_survives_being_killed_after_every_step kills a process after each step.
    for first in range(0, len(steps), 3):
        with kernel(home, torn, kernels) as cell:
            for step in steps[first : first + 3]:
                cell(
                    {
                        CHECK: f'runbook.step("{step.name}")',
                        ASK: f'runbook.answer("{step.name}", True, note="seen")',
                        ACTION: f'runbook.do("{step.name}", confirmed=True)',
                    }[step.kind]
                )
            assert cell("import os; os.kill(os.getpid(), 9)") == "dead"
    assert [r[:4] for r in record(home, torn)] == [r[:4] for r in record(home, whole)] and counted(home) == done


def test_an_action_needs_a_name_and_a_confirmation(home: Path) -> None:
    """
    Without a name or a confirmation an action is refused; with both it runs, and its output is kept without secrets.
    """
    incident = desk(home).incidents.open("x", by="Ann", runbook="massive_down").id
    found = book(home, "massive_down", incident, "")
    with pytest.raises(OperatorNeeded, match="is an action"):
        found.do("tell_channel", confirmed=True)
    with pytest.raises(IncidentError, match="not confirmed"):
        found.do("tell_channel", "Ann")
    assert counted(home) == [] and found.do("tell_channel", "Ann", confirmed=True).state == "done"
    line = next(e.line for e in desk(home).incidents.read(incident).of_kind("step") if e.body["state"] == "done")
    assert (
        TOKEN not in line
        and "[OPS_MASSIVE_TOKEN]" in line
        and TOKEN not in (desk(home).incidents.folder(incident) / "record.jsonl").read_text()
    )


def test_simultaneous_clicks_run_an_action_once(home: Path) -> None:
    """If four people run an action at the same moment, it runs once."""
    incident = desk(home).incidents.open("x", by="Ann", runbook="massive_down").id
    pids = []
    for who in ("Ann", "Bob", "Cid", "Dee"):
        if (pid := os.fork()) == 0:
            try:
                os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
                book(home, "massive_down", incident, who).do("tradier_only", confirmed=True)
            finally:
                os._exit(0)
        pids.append(pid)
    for pid in pids:
        os.waitpid(pid, 0)
    assert (
        counted(home) == ["tradier_only"]
        and book(home, "massive_down", incident)
        .execution.status_of(next(s for s in book(home, "massive_down", incident).steps if s.name == "tradier_only"))
        .state
        == "done"
    )


def test_two_incidents_of_one_runbook(home: Path) -> None:
    """Actions of one incident do not count for another; two people on one incident see each other's steps."""
    one, other = (desk(home).incidents.open(f"x{n}", by="Ann", runbook="massive_down").id for n in range(2))
    book(home, "massive_down", one).do("tradier_only", confirmed=True)
    step = next(s for s in book(home, "massive_down", one).steps if s.name == "tradier_only")
    assert (
        book(home, "massive_down", one, "Bob").execution.status_of(step).by == "Ann"
        and book(home, "massive_down", other).execution.status_of(step).state == "not done"
    )
    book(home, "massive_down", other, "Bob").do("tradier_only", confirmed=True)
    assert counted(home) == ["tradier_only"] * 2


def test_a_result_becomes_stale(home: Path) -> None:
    """A check's result is reused until it is stale; then showing the step runs the check again."""
    incident = desk(home).incidents.open("x", by="Ann", runbook="massive_down").id
    found = book(home, "massive_down", incident)
    found.step("massive_answers")
    found.step("massive_answers")
    assert len(record(home, incident)) == 1
    step = next(s for s in found.steps if s.name == "massive_answers")
    entry = desk(home).incidents.read(incident).of_kind("step")[0]
    found.execution._now = lambda: clock.instant(entry.at_us) + step.fresh + timedelta(seconds=1)
    assert found.execution.status_of(step).state == "stale" and "valid for" in found.execution.status_of(step).words
    found.step("massive_answers")
    assert len(record(home, incident)) == 2


def test_without_a_hook_it_is_a_dry_run(tmp_path: Path, home: Path) -> None:
    """Without a hook an action is a dry run and recorded as one; it can be run later."""
    incident = desk(home).incidents.open("x", by="Ann", runbook="massive_down").id
    found = book(home, "massive_down", incident)
    found.__dict__["hooks"] = read(settings.Settings(tmp_path, "desk"))
    assert (
        found.do("tradier_only", confirmed=True).state == "rehearsed"
        and counted(home) == []
        and desk(home).incidents.read(incident).status == "open"
    )
    assert (
        book(home, "massive_down", incident).do("tradier_only", confirmed=True).state == "done"
        and desk(home).incidents.read(incident).status == "mitigated"
    )


def test_a_question_without_a_person_is_skipped(home: Path) -> None:
    """Without a person a question is skipped, never passed; a person can answer it later, with a name."""
    incident = desk(home).incidents.open("x", by="Ann", runbook="massive_down").id
    found = book(home, "massive_down", incident, "")
    ask = next(s for s in found.steps if s.kind == ASK)
    assert "· not answered yet" in repr(found.step(ask.name)) and found.execution.status_of(ask).state == "skipped"
    with pytest.raises(OperatorNeeded):
        found.answer(ask.name, True)
    assert found.answer(ask.name, False, "Ann", "it names an outage").state == "not as expected"


def test_an_action_without_a_command_is_done_by_hand(home: Path) -> None:
    """It says so, and which setting connects it; a dry run of the runbook says only that nothing is changed."""
    incident = desk(home).incidents.open("x", by="Ann", runbook="massive_down").id
    found = book(home, "massive_down", incident)
    found.hooks["tradier_only"] = Hook("tradier_only")
    words = repr(found.step("tradier_only"))
    assert (
        "not connected: tradier_only is not set in [hooks] of settings.toml. The action to switch the app to " in words
    )
    assert "do it by hand" in words and "it will do" not in words
    last = found.header.plain.splitlines()[-1]
    assert last.startswith("  - real actions: Notify the trading team, Silence the alerts, Update our status page, ")
    assert last.endswith(
        "; dry runs, because no command is set for them in [hooks] of settings.toml: Switch to Tradier only"
    )
    found.hooks.update((name, Hook(name)) for name in found.hooks)
    assert found.header.plain.splitlines()[-1] == (
        "  - actions: all are dry runs, because no command is set for them in [hooks] of settings.toml"
    )


def test_no_all_clear_is_drafted_while_something_fails(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message of the recovery is shown only once everything works; that of the outage at any time."""
    found = book(home, "massive_down", desk(home).incidents.open("x", by="Ann", runbook="massive_down").id)
    outage, over = (next(s for s in found.steps if s.name == name) for name in ("tell_channel", "tell_channel_over"))
    monkeypatch.setattr(impact, "working_and_failing", lambda view: [("fails", "Greeks"), ("works", "prices")])
    assert found.message_preview(over) == "do not send it yet, something does not work: Greeks"
    sent_now = "message, if it is sent now: "
    assert found.message_preview(outage) == f"{sent_now}{found.message_of(outage)}"
    monkeypatch.setattr(impact, "working_and_failing", lambda view: [("works", "prices")])
    assert found.message_preview(over) == f"{sent_now}{found.message_of(over)}"
    assert found.message_of(over).startswith("Resolved: ") and found.message_of(over).endswith(". Works: prices.")


def test_hooks_are_read_strictly(tmp_path: Path) -> None:
    """An unknown hook, or one without a command, is rejected by name."""
    for content, named in (
        ('tradier_onyl = ["x"]', "Did you mean 'tradier_only'"),
        ('roll_back = "built-in"', "roll_back is 'built-in'"),
        ("roll_back = []", "roll_back"),
    ):
        (tmp_path / "settings.toml").write_text(f"[hooks]\n{content}\n")
        with pytest.raises(SettingsError, match=named):
            read(settings.Settings(tmp_path, "desk"))


def test_a_copy_is_filled_in_with_its_likely_branch_first(home: Path) -> None:
    """The copy has the incident's parameters and the likely branch first; the original is unchanged."""
    before = (catalog.folder() / "massive_down.ipynb").read_bytes()
    made = catalog.fill_in(
        catalog.runbook("massive_down"),
        {"incident": "2026-03-10-7", "operator": 'Ann "x"', "as_of": ""},
        ["provider_auth"],
    )
    parameters = next(catalog.source(c) for c in made["cells"] if "parameters" in c["metadata"].get("tags", []))
    assert (
        'incident: str = "2026-03-10-7"  #' in parameters
        and 'operator: str = "Ann \\"x\\""' in parameters
        and 'as_of: str = ""' in parameters
    )
    # `ops lab` runs it when it is opened. It stays a runbook, whose kernel does not get the receiver's keys.
    assert made["metadata"]["opslib"] == {"kind": "runbook", "run_on_open": True}
    assert is_runbook(from_dict(made)) and is_runbook(from_dict(catalog.runbook("massive_down").notebook))
    assert all(c["metadata"]["jupyter"]["source_hidden"] for c in made["cells"] if c["cell_type"] == "code")
    branches = [catalog.source(c) for c in made["cells"] if "branch" in c["metadata"].get("tags", [])]
    assert branches[0].startswith("### Likely: ") and not any("Likely" in b for b in branches[1:])
    desk_now = desk(home)
    incident = desk_now.incidents.open("x", by="Ann", runbook="massive_down")
    place, again = (opening.open_for(desk_now, "massive_down", incident, "Ann") for _ in range(2))
    assert (place.name, again.name) == ("01_massive_down.ipynb", "02_massive_down.ipynb") and (
        catalog.folder() / "massive_down.ipynb"
    ).read_bytes() == before
