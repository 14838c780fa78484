"""
Run an action by its hook from settings.toml, or as a dry run that changes nothing if no hook is set.

``[hooks]`` in ``settings.toml`` sets a command, as a list, for each of `HOOKS`; ``tell_channel`` and ``silence`` may
also be ``"built-in"``, which uses the channels and silences of ops. A command receives its request as JSON on
stdin, with an ID that is unique to the action; exit code 0 means success. ``[hooks.timeouts]`` sets how long each may
run (``build = "30m"``); a command that runs longer is ended with every process that it started. The output of a command
is recorded.
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
    "tell_channel": "notify the people in the channel",
    "silence": "silence the incident's alerts for a while",
    "tradier_only": "switch the app to Tradier only",
    "restart_app": "restart the app's server",
    "restart_socket": "restart the WebSocket service",
    "roll_back": "roll back the last deployment",
    "status_page": "update our status page",
    "open_ticket": "open a ticket with the vendor",
    "restart_monitor": "restart the collector",
    # Commands of the guide in the app's own repository; checklists use them.
    "test_monitoring": "run the app's monitoring tests",
    "test_integration": "run the app's integration tests",
    "push_branch": "push the release's branch",
    "build": "build the app",
    "start_staging": "start the staging server",
    "cut_branch": "cut the release branch",
    "merge_branch": "merge the monitoring branch into the release branch",
    "set_version": "increase the version number of the app",
    "make_tag": "create the annotated tag of the release",
    "push_tag": "push the tag of the release",
    "deploy": "deploy the release",
    "raise_error": "cause one error in the app on purpose",
}
TIMEOUTS = "timeouts"
_FORM = Path(__file__).with_name("hooks_form.py")
USUAL_TIMEOUT = timedelta(minutes=2)
# Builds, tests and rollouts take minutes, and so does a server until it responds again.
_TIMEOUT_OF = {
    **dict.fromkeys(("test_monitoring", "test_integration", "build", "deploy", "roll_back"), timedelta(minutes=15)),
    **dict.fromkeys(
        ("restart_app", "restart_socket", "restart_monitor", "start_staging", "tradier_only"), timedelta(minutes=5)
    ),
}
ENDING_S = 10.0  # The wait between SIGTERM and SIGKILL.
POLL_S = 0.05
MOST_PRINTED = 256 * 2**20  # A command that prints more is ended before it fills the disk.
KEPT_HEAD, KEPT_TAIL = 4_000, 12_000  # Characters of the output that are kept: its start and its end.
_READ = 64 * 2**10


@dataclass(frozen=True, slots=True)
class Hook:
    """
    One way to run an action.

    Attributes:
        how: ``rehearsal`` (a dry run), ``built-in``, or the command.
        timeout: How long the command may run; None means the hook's default.
    """

    name: str
    how: str | tuple[str, ...] = REHEARSAL
    timeout: timedelta | None = None

    @property
    def timeout_s(self) -> float:
        """How long the command may run, seconds."""
        return (self.timeout or _TIMEOUT_OF.get(self.name, USUAL_TIMEOUT)).total_seconds()

    @property
    def real(self) -> bool:
        """Whether the hook changes anything."""
        return self.how != REHEARSAL

    @property
    def words(self) -> str:
        """What it will do, for the operator."""
        if not self.real:
            return (
                f"dry run, nothing is changed: no hook to {HOOKS[self.name]} is set ({self.name} in [hooks] of "
                f"settings.toml)"
            )
        if self.how == BUILT_IN:
            return f"{HOOKS[self.name]}, by ops itself"
        return (
            f"{HOOKS[self.name]}, with the command {' '.join(self.how)}; timeout {formatting.duration(self.timeout_s)}"
        )


@dataclass(frozen=True, slots=True)
class Outcome:
    """
    The outcome of an action.

    Attributes:
        state: done, failed or rehearsed (a dry run).
        words: One sentence, with the end of the output.
        output: The output without secrets, its start and its end; empty if there is none.
    """

    state: str
    words: str
    output: str = ""


def read(settings: Settings) -> dict[str, Hook]:
    """
    Return every hook of ``settings.toml``; a hook that is not set is a dry run.

    Raises:
        SettingsError: A hook is unknown, its value is neither a command nor ``built-in``, or a timeout is invalid.
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
    parameters: Mapping[str, Any],
) -> Outcome:
    """
    Run the action of a step: by a command, by the channels or silences of ops, or as a dry run.

    A successful deployment sets a marker.
    """
    if hook.how == BUILT_IN:
        return (
            _silence(workspace, incident, parameters)
            if name == "silence"
            else _notify_channel(workspace, now(), parameters)
        )
    ended = run(hook, parameters, workspace.settings)
    if name == "deploy" and ended.state == "done":
        words, by = f"{parameters['incident']}: {ended.words}", str(parameters["operator"])
        Markers(workspace.store, workspace.settings).put("deploy", words, by)
    return ended


def _silence(workspace: Workspace, incident: Incident, parameters: Mapping[str, Any]) -> Outcome:
    held = NotificationStore(workspace.store, workspace.settings.app).silence(
        str(parameters["operator"]),
        f"incident {incident.id}",
        SILENCE_FOR,
        rule=incident.rule,
        subject=incident.subject if incident.rule else "",
    )
    return Outcome(
        "done",
        f"silence {held.id} silences {incident.rule or 'all alerts'} of {incident.subject} for "
        f"{formatting.duration(SILENCE_FOR.total_seconds())}",
    )


def _notify_channel(workspace: Workspace, at: datetime, parameters: Mapping[str, Any]) -> Outcome:
    from opslib.alerting.notifications import sender

    words = str(parameters["says"])
    sent = in_own_thread(
        lambda: sender.broadcast(workspace.settings, workspace.contacts, str(parameters["id"]), words, at)
    )
    failed = [f"{name}: it {why}" for name, why in sent if why]
    return Outcome(
        "failed" if len(failed) == len(sent) else "done",
        f"notified {', '.join(name for name, why in sent if not why) or 'nobody'}"
        f"{'; not notified: ' + '; '.join(failed) if failed else ''}",
    )


def in_own_thread(what: Callable[[], T]) -> T:
    """Run a function in a thread of its own, because a kernel's thread already runs an event loop."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(what).result()


def run(hook: Hook, parameters: Mapping[str, Any], settings: Settings) -> Outcome:
    """
    Run a hook's command once, and wait until it ends or is ended after its timeout.

    Args:
        parameters: id, incident, runbook, step, operator, and the fields of the step.
    """
    if not hook.real:
        return Outcome("rehearsed", f"dry run, nothing was changed: it would {HOOKS[hook.name]}")
    assert isinstance(hook.how, tuple)
    # Files instead of pipes, so that a server that the command leaves running holds no pipe open.
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as printed:
        given.write(settings.redact(json.dumps(dict(parameters), sort_keys=True)).encode())
        given.seek(0)
        try:
            process = subprocess.Popen(
                hook.how, stdin=given, stdout=printed, stderr=subprocess.STDOUT, start_new_session=True
            )
        except OSError as problem:
            return Outcome("failed", f"{hook.how[0]} could not be started ({problem.strerror})")
        try:
            why = _awaited(process, hook.timeout_s, printed)
        except BaseException:  # On an interrupt, no process may continue unnoticed.
            _end(process)
            raise
        ended = _end(process) if why else True
        output = _output(printed, settings)
    message = formatting.single_line(output[-500:].strip(), 300)
    if why:
        how = "and was ended with all its processes" if ended else "and could not be ended; it is still running"
        end = f"; end of its output: {message}" if message else ""
        return Outcome(
            "failed",
            f"{hook.how[0]} {why} {how}. Check whether it took effect{end}",
            output,
        )
    if process.returncode:
        return Outcome("failed", f"exit {process.returncode}{': ' + message if message else ''}", output)
    return Outcome("done", f"done{': ' + message if message else ''}", output)


def _awaited(process: subprocess.Popen[bytes], timeout_s: float, printed: IO[bytes]) -> str:
    """Wait for a command; return why it must be ended, or an empty string if it has ended."""
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
    End a command and every process that it started, with SIGTERM, then SIGKILL.

    Processes that have left its process group are ended too.

    Returns:
        Whether the command has ended. It cannot be ended if it belongs to another user.
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

    with suppress(ProcessLookupError, PermissionError):  # The group has ended, or belongs to another user.
        os.killpg(group, which)
    for child in started:
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            child.send_signal(which)


def _await_end(process: subprocess.Popen[bytes], started: list[Any]) -> None:
    """Wait at most `ENDING_S` until a command, its process group and its children have ended."""
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
    """Return the output of a command without secrets and colours, shortened in the middle."""
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
            else f"{whole[:KEPT_HEAD]}\n… {len(whole) - KEPT_HEAD - KEPT_TAIL:,} characters omitted …"
            f"\n{whole[-KEPT_TAIL:]}"
        )
    return (
        f"{part(0)[:KEPT_HEAD]}\n… of {size:,} bytes the middle is omitted …"
        f"\n{part(size - _READ).rstrip()[-KEPT_TAIL:]}"
    )
