"""
Run a step that changes the world by a hook of the desk's own settings, or, where none is set, as a dry run that changes
nothing.

``[hooks]`` in ``settings.toml`` names for each of `HOOKS` a command, as a list; ``tell_channel`` and ``silence`` may
also be ``"built-in"``, which is our own channels and our own silences. A command gets what is asked of it as JSON on
its stdin, with an id that is the same for the same act; exit 0 says that it was done. ``[hooks.timeouts]`` says how
long each may take (``build = "30m"``); one that takes longer is ended with every process that it started. What it
printed is kept.
"""

import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import IO, Any, TypeVar

from opslib.alerting.notifications import NotificationStore
from opslib.foundation import formatting, time_parsing
from opslib.foundation.config import documents
from opslib.foundation.config.settings import Settings
from opslib.foundation.config.workspace import Workspace
from opslib.incidents import Incident
from opslib.telemetry import Markers
from opslib.telemetry.probes.log_lines import ANSI

T = TypeVar("T")
SILENCE_FOR = timedelta(hours=1)
REHEARSAL, BUILT_IN = "rehearsal", "built-in"
BUILT_IN_ONES = ("tell_channel", "silence")
HOOKS = {
    "tell_channel": "tell the people of the channel",
    "silence": "keep its alerts quiet for a while",
    "tradier_only": "switch the app to Tradier only",
    "restart_app": "restart the app's server",
    "restart_socket": "restart the WebSocket service",
    "roll_back": "roll the last deployment back",
    "status_page": "update our status page",
    "open_ticket": "open a ticket with the vendor",
    "restart_monitor": "start the collector again",
    # What the guide runs in the app's own repository: the checklists need them.
    "test_monitoring": "run the app's monitoring tests",
    "test_integration": "run the app's integration tests",
    "push_branch": "push the release's branch",
    "build": "build the app",
    "start_staging": "start the staging server",
    "cut_branch": "cut the release branch",
    "merge_branch": "merge the monitoring branch into the release branch",
    "set_version": "raise the version number of the app",
    "make_tag": "make the annotated tag of the release",
    "push_tag": "push the tag of the release",
    "deploy": "deploy the release",
    "raise_error": "raise one error in the app, on purpose",
}
TIMEOUTS = "timeouts"
_FORM = Path(__file__).with_name("hooks_form.py")
USUAL_TIMEOUT = timedelta(minutes=2)
# What builds, tests or rolls out takes minutes; so does a server until it answers again.
_TIMEOUT_OF = {
    **dict.fromkeys(("test_monitoring", "test_integration", "build", "deploy", "roll_back"), timedelta(minutes=15)),
    **dict.fromkeys(
        ("restart_app", "restart_socket", "restart_monitor", "start_staging", "tradier_only"), timedelta(minutes=5)
    ),
}
ENDING_S = 10.0  # Between SIGTERM and SIGKILL.
POLL_S = 0.05
MOST_PRINTED = 256 * 2**20  # A command that prints more is ended before it fills the disk.
KEPT_HEAD, KEPT_TAIL = 4_000, 12_000  # Characters of its output that are kept: how it began and how it ended.
_READ = 64 * 2**10


@dataclass(frozen=True, slots=True)
class Hook:
    """
    One way to change the world.

    Attributes:
        how: ``rehearsal``, ``built-in``, or the command.
        timeout: How long the command may take; None is the usual time of this hook.
    """

    name: str
    how: str | tuple[str, ...] = REHEARSAL
    timeout: timedelta | None = None

    @property
    def timeout_s(self) -> float:
        """How long the command may take, seconds."""
        return (self.timeout or _TIMEOUT_OF.get(self.name, USUAL_TIMEOUT)).total_seconds()

    @property
    def real(self) -> bool:
        """Does it change anything?"""
        return self.how != REHEARSAL

    @property
    def words(self) -> str:
        """What it will do, for who is about to do it."""
        if not self.real:
            return (
                f"a rehearsal: nothing is changed, since no hook is set to {HOOKS[self.name]} "
                f"(settings.toml, [hooks], {self.name})"
            )
        if self.how == BUILT_IN:
            return f"{HOOKS[self.name]}, by our own means"
        return (
            f"{HOOKS[self.name]}, by the command: {' '.join(self.how)}; it may take "
            f"{formatting.duration(self.timeout_s)}"
        )


@dataclass(frozen=True, slots=True)
class Outcome:
    """
    How an act ended.

    Attributes:
        state: done, failed or rehearsed.
        words: That in words, with the last thing that it printed.
        output: What it printed, without secrets: how it began and how it ended; empty where nothing.
    """

    state: str
    words: str
    output: str = ""


def read(settings: Settings) -> dict[str, Hook]:
    """
    Every hook, as ``settings.toml`` has it; a rehearsal where it says nothing.

    Raises:
        SettingsError: It names a hook that is none, something that is neither a command nor ``built-in``, or no time.
    """
    document = documents.read(settings.base / "settings.toml")
    found = document.table.get("hooks", {})
    known = {"hooks": list(HOOKS), "built-in": BUILT_IN_ONES}

    def problems() -> list[str]:
        from opslib.runbooks import hooks_form

        return hooks_form.problems(found, str(document.path), known)

    document.validate(_FORM, known, problems)
    timeouts = found.get(TIMEOUTS, {})
    return {
        name: Hook(
            name,
            tuple(how) if isinstance(how := found.get(name, REHEARSAL), list) else how,
            time_parsing.parse_span(timeouts[name]) if name in timeouts else None,
        )
        for name in HOOKS
    }


def perform(
    name: str,
    hook: Hook,
    workspace: Workspace,
    incident: Incident,
    now: Callable[[], datetime],
    asked: Mapping[str, Any],
) -> Outcome:
    """
    Do what a step asks: by a command, by our own channels or silences, or as a dry run.

    A deployment that was done gets its marker.
    """
    if hook.how == BUILT_IN:
        return _silence(workspace, incident, asked) if name == "silence" else _tell_channel(workspace, now(), asked)
    ended = run(hook, asked, workspace.settings)
    if name == "deploy" and ended.state == "done":
        words, by = f"{asked['incident']}: {ended.words}", str(asked["operator"])
        Markers(workspace.store, workspace.settings).put("deploy", words, by)
    return ended


def _silence(workspace: Workspace, incident: Incident, asked: Mapping[str, Any]) -> Outcome:
    held = NotificationStore(workspace.store, workspace.settings.app).silence(
        str(asked["operator"]),
        f"incident {incident.id}",
        SILENCE_FOR,
        rule=incident.rule,
        subject=incident.subject if incident.rule else "",
    )
    return Outcome(
        "done",
        f"silence {held.id} keeps {incident.rule or 'everything'} of {incident.subject} quiet for "
        f"{formatting.duration(SILENCE_FOR.total_seconds())}",
    )


def _tell_channel(workspace: Workspace, at: datetime, asked: Mapping[str, Any]) -> Outcome:
    from opslib.alerting.notifications import sender

    words = str(asked["says"])
    told = in_own_thread(lambda: sender.broadcast(workspace.settings, workspace.staff, str(asked["id"]), words, at))
    failed = [f"{name}: it {why}" for name, why in told if why]
    return Outcome(
        "failed" if len(failed) == len(told) else "done",
        f"told {', '.join(name for name, why in told if not why) or 'nobody'}"
        f"{'; not told: ' + '; '.join(failed) if failed else ''}",
    )


def in_own_thread(what: Callable[[], T]) -> T:
    """Done in a thread of its own: a kernel has a loop already, and only one can run in a thread."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(what).result()


def run(hook: Hook, asked: Mapping[str, Any], settings: Settings) -> Outcome:
    """
    Run a hook's command, once; it does not come back before the command has ended, or was killed for taking too long.

    Args:
        asked: id, incident, runbook, step, operator, and what the step has filled in.
    """
    if not hook.real:
        return Outcome("rehearsed", f"rehearsed, nothing was changed: it would {HOOKS[hook.name]}")
    assert isinstance(hook.how, tuple)
    # Files, so that a server which it starts and leaves behind holds nothing open.
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as printed:
        given.write(settings.redact(json.dumps(dict(asked), sort_keys=True)).encode())
        given.seek(0)
        try:
            process = subprocess.Popen(
                hook.how, stdin=given, stdout=printed, stderr=subprocess.STDOUT, start_new_session=True
            )
        except OSError as problem:
            return Outcome("failed", f"{hook.how[0]} cannot be run ({problem.strerror})")
        try:
            why = _awaited(process, hook.timeout_s, printed)
        except BaseException:  # Whoever waits for it is interrupted: nothing of it goes on unseen.
            _end(process)
            raise
        ended = _end(process) if why else True
        output = _output(printed, settings)
    said = formatting.single_line(output[-500:].strip(), 300)
    if why:
        how = "and was ended, with all that it started" if ended else "and could not be ended, it goes on"
        return Outcome(
            "failed",
            f"{hook.how[0]} {why} {how}: see whether it did "
            f"something{'; the last it printed: ' + said if said else ''}",
            output,
        )
    if process.returncode:
        return Outcome("failed", f"exit {process.returncode}{': ' + said if said else ''}", output)
    return Outcome("done", f"done{': ' + said if said else ''}", output)


def _awaited(process: subprocess.Popen[bytes], timeout_s: float, printed: IO[bytes]) -> str:
    """Wait until a command has ended; why it must be ended, where it has not."""
    until_s = time.monotonic() + timeout_s
    while (left_s := until_s - time.monotonic()) > 0:
        try:
            process.wait(min(left_s, 1.0))
            return ""
        except subprocess.TimeoutExpired:
            if os.fstat(printed.fileno()).st_size > MOST_PRINTED:
                return f"printed more than {MOST_PRINTED // 2**20} MB"
    return f"took longer than {formatting.duration(timeout_s)}" if process.poll() is None else ""


def _end(process: subprocess.Popen[bytes]) -> bool:
    """
    End a command and all that it started: SIGTERM, then SIGKILL for what is still there; also what has left its process
    group.

    Returns:
        Whether the command has ended; not so where we may not end it, as of another user's.
    """
    import psutil

    try:
        started = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        started = []
    _signal(process.pid, started, signal.SIGTERM)
    _await_end(process, started)
    _signal(process.pid, started, signal.SIGKILL)
    _await_end(process, started)
    return process.poll() is not None


def _signal(group: int, started: list[Any], which: signal.Signals) -> None:
    """Send a signal to a process group, and to processes that may have left it."""
    import psutil

    with suppress(ProcessLookupError, PermissionError):  # All of it has ended, or is another user's.
        os.killpg(group, which)
    for child in started:
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            child.send_signal(which)


def _await_end(process: subprocess.Popen[bytes], started: list[Any]) -> None:
    """Wait until a command, its process group and what it started have ended, `ENDING_S` at most."""
    until_s = time.monotonic() + ENDING_S
    while time.monotonic() < until_s and (
        process.poll() is None or _group_runs(process.pid) or any(map(_runs, started))
    ):
        time.sleep(POLL_S)


def _runs(child: Any) -> bool:
    import psutil

    try:
        return bool(child.is_running() and child.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _group_runs(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _output(printed: IO[bytes], settings: Settings) -> str:
    """What a command printed, without secrets and colours: how it began and how it ended."""
    size = os.fstat(printed.fileno()).st_size

    def part(at: int) -> str:
        return settings.redact(ANSI.sub("", os.pread(printed.fileno(), _READ, at).decode("utf-8", "replace"))).replace(
            "\0", ""
        )

    if size <= _READ:
        whole = part(0).strip()
        return (
            whole
            if len(whole) <= KEPT_HEAD + KEPT_TAIL
            else f"{whole[:KEPT_HEAD]}\n… {len(whole) - KEPT_HEAD - KEPT_TAIL:,} characters left out …"
            f"\n{whole[-KEPT_TAIL:]}"
        )
    return (
        f"{part(0)[:KEPT_HEAD]}\n… of {size:,} bytes the middle is left out …"
        f"\n{part(size - _READ).rstrip()[-KEPT_TAIL:]}"
    )
